"""`kinesim law compare`: measures and verdicts on a made-up ladder, whose answers are worked out by hand; messages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.displaycompare import show_comparison
from simulator.law.frontiers.envelopes import Gain, Growth, Saving
from simulator.law.labels import size_label
from simulator.law.ladder import verdicts
from simulator.law.ladder.compare import Comparison, Reference, compare, law_spread, price, with_multipliers
from simulator.law.ladder.comparedoc import comparison_document, largest_step
from simulator.law.ladder.measures import Change, Measures, lasting_change
from simulator.law.ladder.waterfall import draw_waterfall
from simulator.running import run_scenario
from workloads.scenario import load_scenario

ROOT = Path(__file__).resolve().parents[3]
SMALL, LARGE = "qwen3-0.6b", "qwen3-14b"
LIMITS = (1024, 4096, 16384)
SOLVED = {SMALL: (0.10, 0.30, 0.40), LARGE: (0.20, 0.50, 0.80)}
"""Accuracy by limit, of both attentions."""
DENSE_COST = {SMALL: (1.0, 4.0, 16.0), LARGE: (3.0, 12.0, 48.0)}
"""GPU-seconds by limit. Sparse attention costs half of it on rung 1, and as much on rung 2."""


def made_up(sparse: tuple[float, ...] = (0.5, 1.0), ratios: tuple[float, ...] = (20.0, 1.0)) -> pd.DataFrame:
    """A ladder of as many rungs as `sparse` has: the cost of sparse attention over that of dense."""
    rows = []
    for rung, (factor, ratio) in enumerate(zip(sparse, ratios, strict=True), start=1):
        for model, costs in DENSE_COST.items():
            for attention, budget in (("dense", 0), ("top_k", 512)):
                for limit, cost in zip(LIMITS, costs, strict=True):
                    seconds = cost * (factor if budget else 1.0)
                    rows.append(
                        {
                            "rung": rung, "key": f"rung_{rung}", "title": f"rung {rung}", "assumption": "made up",
                            "gpu": "h200-sxm", "model": model, "attention": attention, "budget": budget,
                            "prompt_tokens": 150, "limit": limit, "tokens": limit, "trials": 1, "seconds": seconds,
                            "eflops": seconds, "parameters_s": seconds / (1 + ratio), "note": "", "profile": "ideal",
                            "attention_s": seconds * ratio / (1 + ratio), "batch": 8.0, "gpus": 1,
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


class MadeUp:
    """An accuracy model of the benchmark as a whole."""

    kind, name, note = "parametric", "made up", "nothing was measured"
    models = (SMALL, LARGE)

    def strategies(self, models: Any, attentions: Any, budgets: Any, limits: Any, trials: Any) -> pd.DataFrame:
        rows = [
            {
                "model": model, "attention": kind, "budget": budget, "page": 0, "local": 0, "prompt_tokens": 150,
                "limit": limit, "tokens": float(limit), "trials": 1, "problem": "", "accuracy": accuracy,
            }
            for model in models
            for kind, budget in [("dense", 0)] + [("top_k", b) for b in budgets if "top_k" in attentions]
            for limit, accuracy in zip(LIMITS, SOLVED[model], strict=True)
        ]  # fmt: skip
        return pd.DataFrame(rows)


def compared(ladder: pd.DataFrame | None = None, **changed: Any) -> Comparison:
    rows = made_up() if ladder is None else ladder
    shown = rows[rows["limit"] == LIMITS[-1]]
    options: dict[str, Any] = {"reference": Reference(SMALL, LIMITS[-1], 1, 512), **changed}
    return compare(rows, shown, options.pop("accuracy", MadeUp()), **options)


@pytest.fixture(scope="module")
def made() -> Comparison:
    return compared()


def test_best_models_are_those_worked_out_by_hand(made: Comparison) -> None:
    """Dense: 1 s buys 0.1 of the small model, 3 s 0.2 of the large one, 4 s 0.3 of the small one, 12 s and 48 s 0.5 and
    0.8 of the large one.
    """
    spans = made.at("h200-sxm", 1).measures.best_dense
    assert [span.model for span in spans] == [SMALL, LARGE, SMALL, LARGE]
    assert [span.start for span in spans] == pytest.approx([1, 3, 4, 12], rel=0.03)
    half = made.at("h200-sxm", 1).measures.best_sparse
    assert [span.start for span in half] == pytest.approx([0.5, 1.5, 2, 6], rel=0.03)


def test_the_threshold_is_the_change_for_good(made: Comparison) -> None:
    """At 3 s the large model is taken, but left again at 4 s. At 12 s it stays, and the small one's chain, at 0.3,
    could still gain 0.1.
    """
    change = made.at("h200-sxm", 1).measures.threshold
    assert change is not None
    assert (change.left, change.taken) == (SMALL, LARGE)
    assert change.room == pytest.approx(0.1)
    assert change.cost == pytest.approx(12, rel=0.03)


def test_gain_and_saving_are_those_worked_out_by_hand(made: Comparison) -> None:
    """From 24 s to 48 s sparse attention has 0.8 of the large model where dense has 0.5. Everything costs half."""
    found = made.at("h200-sxm", 1).measures
    assert found.gain is not None and found.saving is not None
    assert found.gain.points == pytest.approx(0.3)
    assert 24 * 0.97 < found.gain.cost < 48
    assert found.saving.ratio == pytest.approx(2.0, rel=0.05)
    second = made.at("h200-sxm", 2).measures
    assert second.gain is None and second.saving is not None
    assert second.saving.ratio == pytest.approx(1.0)


def test_verdicts_follow_from_the_measures(made: Comparison) -> None:
    first, second = ({v.claim: v for v in made.at("h200-sxm", rung).verdicts} for rung in (1, 2))
    assert first["attention"].word == "holds" and first["attention"].value == pytest.approx(20)
    assert second["attention"].word == "gone"  # as much as the parameters: a ratio of 1
    assert first["points"].effect == pytest.approx(0.3 / 0.475) and first["points"].word == "weaker"
    assert (second["points"].word, second["points"].text) == ("gone", "+0")
    assert first["saving"].effect == pytest.approx(np.log(2) / np.log(11.21), rel=0.1)
    assert second["saving"].word == "gone"
    assert first["threshold"].word == first["flops"].word == "unknown"  # two models are too few
    # of three, 14B is reached, with 0.1 of the 0.26 that the paper's models have to gain there
    sizes = {SMALL: 0.6e9, "qwen3-4b": 4e9, LARGE: 14.77e9}
    judged = verdicts.judge(made.at("h200-sxm", 1).measures, "long_cot", "top_k", sizes, {})
    assert judged[1].effect == pytest.approx(0.1 / 0.26) and judged[1].text == "14B 10"
    assert first["growth"].word == "unknown" and "three KV budgets" in first["growth"].why


def test_steps_multiply_to_the_whole(made: Comparison) -> None:
    steps = made.steps()
    sparse = steps[(steps["model"] == LARGE) & (steps["attention"] == "top_k")]
    assert sparse["seconds"].tolist() == [24, 48]
    assert sparse["step"].tolist() == [1, 2] and sparse["total"].tolist() == [1, 2]
    largest = largest_step(steps, "h200-sxm", LARGE, "top_k")
    assert largest is not None and (largest.rung, largest.step) == (2, 2)
    dense = steps[(steps["model"] == SMALL) & (steps["attention"] == "dense")]
    assert dense["total"].tolist() == [1, 1]


def test_multipliers_do_not_depend_on_the_order_of_rows() -> None:
    rows = made_up((0.5, 1.0, 0.25), (1.0, 1.0, 1.0))
    rows = rows[rows["limit"] == 4096]
    key = ["model", "attention", "rung"]
    straight = with_multipliers(rows).sort_values(key)["step"].tolist()
    shuffled = with_multipliers(rows.sample(frac=1, random_state=1)).sort_values(key)["step"].tolist()
    assert straight == shuffled
    assert straight[3:6] == [1, 2, 0.25]  # the large model comes first: dense, then sparse


def test_what_the_law_says_of_lengths_too_is_told_apart() -> None:
    """Of a rung's x3 the closed form has x2.5 at the drawn lengths, so the batch that drains has x1.2."""
    rows = made_up((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    rows = rows[(rows["limit"] == 4096) & (rows["attention"] == "dense")].assign(spread=2.5)
    rows["seconds"] *= rows["rung"].map({1: 1.0, 2: 1.5, 3: 4.5})
    rows["key"] = rows["rung"].map({1: "closed_form", 2: "kernels", 3: "lengths"})
    steps = with_multipliers(rows)
    most = largest_step(steps, "h200-sxm", SMALL, "dense")
    served = largest_step(steps, "h200-sxm", SMALL, "dense", own=False)
    assert most is not None and (most.rung, most.own, most.step) == (3, True, 2.5)
    assert served is not None and (served.rung, served.own, served.step) == (2, False, 1.5)
    without = largest_step(steps[steps["rung"] != 2].assign(step=[3.0] * 4), "h200-sxm", SMALL, "dense", own=False)
    assert without is not None and without.words == "batches drain" and without.step == pytest.approx(1.2)


def test_document_is_json_with_the_schema(made: Comparison) -> None:
    document = json.loads(json.dumps(comparison_document(made), allow_nan=False))
    assert document["schema"] == "kinesim-law-compare/1"
    assert [rung["rung"] for rung in document["rungs"]] == [1, 2]
    assert len(document["rungs_judged"]) == 2 and len(document["steps"]) == 8
    judged = document["rungs_judged"][0]
    assert [v["claim"] for v in judged["verdicts"]] == [c["key"] for c in document["claims"]]
    assert judged["measures"]["threshold"]["taken"] == LARGE
    assert document["reference"] == {"model": SMALL, "limit": 16384, "trials": 1, "budget": 512}
    assert "nothing was measured" in document["notes"]


def test_document_has_null_for_what_is_not_known() -> None:
    rows = made_up()
    rows["batch"] = np.inf
    rows.loc[rows["rung"] == 2, ["parameters_s", "attention_s"]] = np.nan
    document = comparison_document(compared(rows))
    assert document["steps"][0]["batch"] is None
    second = next(j for j in document["rungs_judged"] if j["rung"] == 2)
    assert second["measures"]["attention_ratio"] is None
    assert {v["claim"]: v["word"] for v in second["verdicts"]}["attention"] == "unknown"


def test_figure_names_what_matters_most(made: Comparison, tmp_path: Path) -> None:
    draw_waterfall(made, tmp_path / "law.svg")
    text = (tmp_path / "law.svg").read_text()
    assert "Matters most, top-k: rung 2, x2.00" in text
    assert "24 s" not in text and "8 s" in text  # the reference is the small model
    draw_waterfall(made, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "law.svg").read_bytes()
    with pytest.raises(InputError, match="unknown kind of picture"):
        draw_waterfall(made, tmp_path / "law.gif")


# ---- pricing ---------------------------------------------------------------------------------------------------------


def strategies(tokens: Any) -> pd.DataFrame:
    tokens = np.atleast_1d(np.asarray(tokens, dtype=float))
    return pd.DataFrame({"model": SMALL, "attention": "dense", "budget": 0, "tokens": tokens, "trials": 1})


def rung_rows() -> pd.DataFrame:
    rows = made_up((0.5,), (1.0,))
    return rows[rows["rung"] == 1]


def test_prices_are_the_ladder_s_at_its_points() -> None:
    cost, outside = price(rung_rows(), strategies(LIMITS), "long_cot")
    assert cost == pytest.approx(DENSE_COST[SMALL], rel=1e-12)
    assert outside == 0


def test_a_power_law_is_continued_exactly() -> None:
    """The made-up costs grow in proportion to the tokens, so between and beyond them they do too."""
    cost, outside = price(rung_rows(), strategies([512, 2048, 65536]), "long_cot")
    assert cost == pytest.approx([0.5, 2, 64], rel=1e-12)
    assert outside == pytest.approx(2 / 3)


@given(st.lists(st.floats(64, 200_000), min_size=2, max_size=20))
def test_longer_never_costs_less(tokens: list[float]) -> None:
    cost, _ = price(rung_rows(), strategies(sorted(tokens)), "long_cot")
    assert (np.diff(cost) >= 0).all()


def test_a_strategy_that_the_ladder_lacks_is_refused() -> None:
    table = strategies([1024]).assign(attention="top_k", budget=64)
    with pytest.raises(InputError, match=r"does not have qwen3-0.6b with top_k attention with a KV budget of 64"):
        price(rung_rows(), table, "long_cot")


# ---- rules -----------------------------------------------------------------------------------------------------------

SIZES = {"a": 1e9, "b": 4e9, "c": 14e9}


def change(left: str, taken: str, room: float) -> Change:
    return Change(left, taken, 1.0, 0.5, room)


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ([], None),
        ([change("a", "b", 0.2), change("b", "c", 0.2)], "c"),
        ([change("a", "b", 0.2), change("b", "c", 0.04)], "b"),  # b's chain came first
        ([change("a", "c", 0.3), change("c", "a", 0.6), change("a", "b", 0.2)], "b"),  # c was left again
        ([change("b", "a", 0.5)], None),  # to a smaller model
    ],
)
def test_lasting_change(changes: list[Change], taken: str | None) -> None:
    found = lasting_change(changes, SIZES)
    assert (found and found.taken) == taken


def test_words_have_the_documented_bounds() -> None:
    assert [verdicts.word(e) for e in (0.0, 0.2499, 0.25, 0.7499, 0.75, 2.0)] == [
        "gone", "gone", "weaker", "weaker", "holds", "holds",
    ]  # fmt: skip
    assert verdicts.word(None) == verdicts.word(float("nan")) == "unknown"
    assert verdicts.log_effect(1.0, 3.0) == verdicts.log_effect(0.2, 3.0) == 0
    assert verdicts.log_effect(3.0, 3.0) == pytest.approx(1)


def test_the_paper_s_own_figures_hold_fully() -> None:
    """What the paper says, put in, is an effect of 1 for each conclusion."""
    found = Measures(
        attention_ratio={"a": 1.0, "b": 10.0, "c": 500.0},
        threshold=Change("b", "c", 1.0, 0.45, 0.26),
        penalty=SimpleNamespace(ratio=3.0),  # type: ignore[arg-type]
        gain=Gain(0.475, 1.0, 0.1, 0.575, True),
        saving=Saving(11.21, 0.76, 11.21, 1.0, 0.05, 0.8),
        small_dense=0.41,
        small_sparse=0.81,
        growth=Growth(1.0, 10.0, budget=0.25, tokens=0.3, trials=0.5, at_ends=0.0),
        best_sparse=(SimpleNamespace(model="a"),),  # type: ignore[arg-type]
    )
    judged = verdicts.judge(found, "long_cot", "top_k", SIZES, {})
    assert [v.effect for v in judged] == pytest.approx([1.0] * 7)
    assert {v.word for v in judged} == {"holds"}


def test_models_are_named_by_their_size() -> None:
    assert size_label("qwen3-0.6b") == "0.6B" and size_label("deepseek-r1-distill-qwen-1.5b") == "1.5B"
    assert size_label("gpt-oss-120b") == "120B" and size_label("deepseek-r1") == "R1"


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_bad_questions_are_refused() -> None:
    with pytest.raises(InputError, match=r"unknown way to spend a cost.*best_of_n"):
        compared(axis="best_of_m")
    with pytest.raises(InputError, match=r"--reference: the reference is not one of the models.*qwen3-4b.*qwen3-14b"):
        compared(reference=Reference("qwen3-4b", 16384, 1, 512))
    rows = made_up()
    rows.loc[(rows["model"] == LARGE) & (rows["attention"] != "dense"), "attention"] = "block_top_k"
    with pytest.raises(InputError, match="several kinds of sparse attention"):
        compared(rows)


def test_a_model_without_accuracy_is_refused() -> None:
    accuracy = MadeUp()
    accuracy.models = (SMALL,)
    with pytest.raises(InputError, match=r"made up does not say what qwen3-14b solves.*allowed: qwen3-0.6b"):
        compared(accuracy=accuracy)


def test_curves_leave_sparse_conclusions_unjudged() -> None:
    accuracy = MadeUp()
    accuracy.kind = "curves"
    found = {v.claim: v for v in compared(accuracy=accuracy).at("h200-sxm", 1).verdicts}
    assert found["attention"].word == "holds"
    for claim in ("points", "saving", "small", "growth"):
        assert found[claim].word == "unknown" and "only as a whole" in found[claim].why


def kinesim(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulator.cli", "law", "compare", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--attention", "tpo_k"], ["--attention", "'tpo_k'", "top_k"]),
        (["--attention", "top_k,block_top_k"], ["--attention", "one kind"]),
        (["--gpu", "h20000"], ["unknown GPU", "h200-sxm"]),
        (["--model", "qwen3-0.6b,qwen3-999b"], ["qwen3-999b", "allowed"]),
        (["--model", "qwen3-0.6b", "--reference", "qwen3-8b"], ["--reference", "'qwen3-8b'", "qwen3-0.6b"]),
        (["--reference-budget", "77"], ["--reference-budget", "77", "1024"]),
        (["--out", "law.gif"], ["--out", "'law.gif'", ".svg"]),
        (["--accuracy", "none.csv"], ["none.csv"]),
        (["--strategy", "beam"], ["'beam'", "long_cot"]),
        (["none-such"], ["none-such"]),
        (["--limit", "100"], ["--limit", "100"]),
    ],
)
def test_bad_input_is_one_message(arguments: list[str], words: list[str]) -> None:
    done = kinesim(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_table_says_what_matters_most_and_fits(made: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(made, None)
    text = capsys.readouterr().out
    assert "Qwen3-0.6B top k B=512 costs 2.00x the closed form; most by rung 2, rung 2 (x2.00)" in text
    assert "14B replaces 0.6B at" in text and "whose chain could still gain 10 points" in text
    assert "not judged: KV budget grows slower than tokens: needs three KV budgets or more" in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_command_from_end_to_end(tmp_path: Path) -> None:
    """The last rung is the simulation of the scenario."""
    out = tmp_path / "law.png"
    few = ["--model", "qwen3-0.6b", "--budget", "512", "--limit", "2048", "--jobs", "1", "--out", str(out)]
    done = kinesim(*few, "--set", "workload.requests=16", "--set", "engine.max_num_seqs=8", "--format", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "kinesim-law-compare/1" and document["gpus"] == ["h200-sxm"]
    assert [rung["rung"] for rung in document["rungs"]] == list(range(1, 10))
    assert out.read_bytes()[:4] == b"\x89PNG"
    last = next(s for s in document["steps"] if s["rung"] == 9 and s["attention"] == "dense")
    sets = ("model=qwen3-0.6b", "workload.requests=16", "engine.max_num_seqs=8", "workload.strategy.budget=2048")
    run = run_scenario(load_scenario("aime24-long-cot", list(sets)))
    assert last["seconds"] == pytest.approx(run.summary["makespan_s"] / 16, rel=1e-9)


def test_lengths_that_vary_are_counted_once() -> None:
    # The rung's costs hold the scenario's spread of lengths, of which the law makes a factor of 1.5; a problem whose
    # trials are all alike costs that much less, one with the scenario's own spread as much.
    rows = pd.DataFrame(
        {
            "model": "qwen3-8b", "attention": "dense", "budget": 0, "tokens": [1000, 2000, 4000], "trials": 1,
            "seconds": [3.0, 6.0, 12.0], "spread": 1.5,
        }
    )  # fmt: skip
    table = pd.DataFrame(
        {"model": "qwen3-8b", "attention": "dense", "budget": 0, "tokens": [1500.0, 1500.0], "trials": 1}
    )
    cost, outside = price(rows, table, "long_cot", np.array([1.0, 1.5]))
    assert outside == 0 and cost == pytest.approx([3.0, 4.5], rel=1e-12)


def test_the_spread_of_a_problem_is_the_laws() -> None:
    # Trials of 10,000 and 30,000 tokens after a prompt of 100. Attention of Qwen3-8B on an H200, E = 206.15, H = 32, G
    # = 8, D = 4,608: 2 (2a + n) n D (H + G E); parameters 2 P n, P = 8.19e9.
    row = {
        "model": "qwen3-8b", "attention": "dense", "budget": 0, "page": 0, "local": 0, "prompt_tokens": 100,
        "limit": 32768, "tokens": 20000.0, "trials": 1, "problem": "", "accuracy": 0.5,
        "lengths": np.array([1e4, 3e4]),
    }  # fmt: skip
    e, d = 989.5e12 / 4.8e12, 4608

    def cost(n: float) -> float:
        return 2 * 8.19e9 * n + 2 * (200 + n) * n * d * (32 + 8 * e)

    expected = (cost(1e4) + cost(3e4)) / 2 / cost(2e4)
    assert law_spread(pd.DataFrame([row]), load_gpu("h200-sxm")) == pytest.approx([expected], rel=1e-3)
    assert law_spread(pd.DataFrame([row]).drop(columns="lengths"), load_gpu("h200-sxm")) == pytest.approx([1.0])
