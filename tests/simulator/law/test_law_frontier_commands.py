"""`kinesim law frontier` and `kinesim law allocate`: what they print, write and refuse, and what digitised curves are
worth at other costs.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hwspecs.gpu import load_gpu
from simulator.law.accuracy.sources import load_accuracy
from simulator.law.costs import law_costs
from simulator.law.frontiers.envelopes import gain_at, saving_at
from simulator.law.frontiers.frontier import frontier
from simulator.law.frontiers.panels import frontiers, priced
from simulator.law.frontiers.question import Question
from simulator.law.frontiers.recost import recosted

CURVES = Path(__file__).resolve().parents[4] / "shared" / "data" / "kinetics" / "aime24_long_cot_frontiers.csv"
needs_curves = pytest.mark.skipif(not CURVES.exists(), reason=f"the digitised curves are not at {CURVES}")
SMALL = ("--model", "qwen3-0.6b,qwen3-8b", "--budget", "256,1024", "--limits", "4k..32k:x2")
TRACE = """\
problem,trial,tokens,correct,model,attention,budget,prompt_tokens
a,1,1000,1,qwen3-8b,dense,0,100
a,2,3000,0,qwen3-8b,dense,0,100
b,1,2000,1,qwen3-8b,dense,0,100
b,2,3000,1,qwen3-8b,dense,0,100
"""
FALLING = """\
model,attention,cost_tera_eflops,accuracy
qwen3-8b,dense,100,0.2
qwen3-8b,dense,1000,0.5
qwen3-8b,dense,5000,0.4
qwen3-8b,oracle-topk,50,0.3
qwen3-8b,oracle-topk,500,0.6
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "trace.csv").write_text(TRACE)
    (tmp_path / "curves.csv").write_text(FALLING)
    (tmp_path / "wrong.csv").write_text(TRACE.replace(",1,qwen", ",0,qwen"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- what they print and write ---------------------------------------------------------------------------------------


def test_frontier_document(kinesim, here: Path) -> None:
    outcome = kinesim("law", "frontier", *SMALL, "--gpu", "h200-sxm,b200-sxm", "--format", "json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["schema"] == "kinesim-law-frontier/1"
    assert (document["attentions"], document["budgets"]) == (["dense", "top_k"], [256, 1024])
    assert [(panel["gpu"], panel["cost"]) for panel in document["panels"]] == [("h200-sxm", "law"), ("b200-sxm", "law")]
    for panel in document["panels"]:
        costs = panel["costs"]
        assert costs == sorted(costs)
        for line in (*panel["curves"], *panel["envelopes"]):
            assert len(line["accuracy"]) == len(costs)
        assert {(c["model"], c["attention"]) for c in panel["curves"]} == {
            (model, kind) for model in ("qwen3-0.6b", "qwen3-8b") for kind in ("dense", "top_k")
        }
        found = panel["sparse"]["top_k"]
        assert found["gain"]["points"] > 0.2
        assert found["saving"]["ratio"] > 2
        assert set(found["models"]["qwen3-8b"]["growth"]) >= {"budget", "tokens", "budget_doubling"}


def test_the_table_says_what_the_document_says(kinesim, here: Path) -> None:
    document = json.loads(kinesim("law", "frontier", *SMALL, "--format", "json").out)
    shown = kinesim("law", "frontier", *SMALL).out
    best = document["panels"][0]["sparse"]["top_k"]
    assert f"+{100 * best['gain']['points']:.1f}" in shown
    assert f"{best['saving']['ratio']:.1f} x" in shown
    assert "NVIDIA H200 SXM" in shown
    assert "note: AIME 2024" in shown


@pytest.mark.parametrize("name", ["frontier.svg", "frontier.png", "frontier.csv", "frontier.parquet"])
def test_frontier_files(kinesim, here: Path, name: str) -> None:
    outcome = kinesim("law", "frontier", *SMALL, "--out", name)
    assert outcome.code == 0, outcome.err
    first = (here / name).read_bytes()
    if name.endswith(".svg"):
        text = first.decode()
        assert all(word in text for word in ("0.6B", "8B", "most gained", "most saved", "NVIDIA H200", "tera-eFLOPs"))
        kinesim("law", "frontier", *SMALL, "--out", name)
        assert (here / name).read_bytes() == first
    elif name.endswith(".csv"):
        table = pd.read_csv(here / name)
        assert set(table["attention"]) == {"dense", "top_k"}
        assert table["accuracy"].between(0, 1).all()


def test_places_that_are_asked_for(kinesim, here: Path) -> None:
    arguments = ("law", "frontier", *SMALL, "--unit", "seconds", "--at", "500ms,50%,99%")
    document = json.loads(kinesim(*arguments, "--format", "json").out)
    panel = document["panels"][0]
    by_cost, by_accuracy, beyond = panel["sparse"]["top_k"]["at"]
    lines = {e["attention"]: e["accuracy"] for e in panel["envelopes"]}
    dense, sparse = (np.interp(np.log(0.5), np.log(panel["costs"]), lines[kind]) for kind in ("dense", "top_k"))
    assert (by_cost["dense"], by_cost["sparse"]) == (pytest.approx(dense), pytest.approx(sparse))
    assert by_cost["points"] == pytest.approx(sparse - dense)
    assert by_accuracy["ratio"] == pytest.approx(by_accuracy["dense_cost"] / by_accuracy["sparse_cost"])
    assert (beyond["dense_cost"], beyond["ratio"]) == (None, None)
    shown = kinesim(*arguments).out
    assert (
        f"at 500 ms: dense {100 * dense:.1f} %, top-k {100 * sparse:.1f} %: +{100 * (sparse - dense):.1f} points"
        in shown
    )
    assert "at 99 %: dense not reached, top-k not reached\n" in shown


def test_allocate_document_and_files(kinesim, here: Path) -> None:
    arguments = ("law", "allocate", "100ms", "5s", *SMALL, "--strategy", "best_of_n", "--trials", "1,8")
    outcome = kinesim(*arguments, "--format", "json", "--out", "choices.csv")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert (document["schema"], document["unit"]) == ("kinesim-law-allocate/1", "seconds")
    rows = document["panels"][0]["allocations"]
    assert [(row["limit"], row["attention"]) for row in rows] == [
        (0.1, "dense"), (0.1, "top_k"), (5, "dense"), (5, "top_k")
    ]  # fmt: skip
    nothing, _, _, most = rows
    assert (nothing["choices"], nothing["single"], nothing["accuracy"]) == ([], None, 0)
    assert nothing["cheapest"] > 0.1
    assert len(most["choices"]) == most["problems"] == 30
    assert sum(most["models"].values()) == sum(choice["accuracy"] > 0.001 for choice in most["choices"])
    assert most["accuracy"] == pytest.approx(np.mean([choice["accuracy"] for choice in most["choices"]]))
    assert most["spent"] <= 5
    assert most["single"]["cost"] <= 5
    assert {choice["trials"] for choice in most["choices"]} <= {1, 8}
    # One trial is fitted; what eight of them solve rests on how much problems differ.
    ends = [other["accuracy"] for other in most["alternatives"].values()]
    assert len(ends) == 2
    assert max(ends) - min(ends) > 0.01
    table = pd.read_csv(here / "choices.csv")
    assert len(table) == sum(len(row["choices"]) for row in rows)


def test_allocations_in_words(kinesim, here: Path) -> None:
    shown = kinesim("law", "allocate", "2000", *SMALL).out
    assert "Algorithm 2, long chain of thought" in shown
    assert "each its own" in shown
    assert "all alike" in shown
    alike = kinesim("law", "allocate", "2000", *SMALL, "--alike").out
    assert "each its own" not in alike


def test_a_trace_with_its_own_problems(kinesim, here: Path) -> None:
    document = json.loads(kinesim("law", "frontier", "--accuracy", "trace.csv", "--format", "json").out)
    assert document["accuracy"]["kind"] == "traces"
    (curve,) = document["panels"][0]["curves"]
    assert (curve["problems"], curve["accuracy"][-1]) == (2, 0.75)  # a is solved by one trial of two, b by both
    best = json.loads(
        kinesim("law", "frontier", "--accuracy", "trace.csv", "--strategy", "best_of_n", "--format", "json").out
    )
    assert best["panels"][0]["curves"][0]["accuracy"][-1] == 1  # two trials of a: one is right


def test_what_goes_beyond_the_data_is_said(kinesim, here: Path) -> None:
    told = kinesim("law", "allocate", "9000", *SMALL, "--strategy", "best_of_n", "--trials", "1,64").out
    assert "coverage of up to 64 trials: extrapolated from at most 32" in told
    (here / "uneven.csv").write_text(TRACE + "a,1,1000,1,qwen3-0.6b,dense,0,100\n")
    for command in (("allocate", "9000"), ("frontier",)):
        told = " ".join(kinesim("law", *command, "--accuracy", "uneven.csv").out.split())
        assert "not known of the same problems" in told


def test_simulated_beside_the_law(kinesim, here: Path) -> None:
    outcome = kinesim(
        "law", "frontier", "--model", "qwen3-8b", "--budget", "512", "--limits", "8k,32k", "--cost", "law,simulated",
        "--jobs", "1", "--format", "json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["unit"] == "seconds"  # of a simulation the time, where no unit is asked for
    law, simulated = document["panels"]
    assert (law["cost"], simulated["cost"]) == ("law", "simulated")
    # An engine pays more, for sparse attention many times more: what the budget saves, weights and host still take.
    assert simulated["costs"][-1] > law["costs"][-1]
    assert simulated["sparse"]["top_k"]["saving"]["ratio"] < 0.6 * law["sparse"]["top_k"]["saving"]["ratio"]


# ---- digitised curves ------------------------------------------------------------------------------------------------


@needs_curves
def test_the_marks_of_the_papers_figure() -> None:
    question = Question(load_accuracy(CURVES), unit="seconds", as_published=True)
    front = frontiers(priced(question, ["law"], None), question)[0]
    dense, sparse = front.envelope("dense").accuracy, front.envelope("top_k").accuracy
    assert 100 * gain_at(front.costs, dense, sparse, 0.08) == pytest.approx(47.5, rel=0.05)
    assert saving_at(front.costs, dense, sparse, 0.76) == pytest.approx(11.21, rel=0.05)
    assert all(curve.whole for curve in front.curves)


@needs_curves
def test_dense_curves_come_back_through_their_tokens() -> None:
    """Priced by the published law, the tokens behind the points give the published costs again."""
    curves = load_accuracy(CURVES)
    table = curves.strategies()
    cost = law_costs(table, load_gpu("b200-sxm"), as_published=True)
    own = curves.points[curves.points["attention"] == "dense"]
    for model, rows in own.groupby("model"):
        mine = (table["model"] == model).to_numpy()
        found = frontier(table[mine], cost[mine], costs=np.geomspace(200, 2000, 9), interpolate=True)
        expected = np.interp(np.log(found.costs), np.log(rows["cost_tera_eflops"]), rows["accuracy"])
        assert found.curves[0].accuracy == pytest.approx(expected, abs=0.01)


def test_recosting_by_the_published_cost_changes_nothing() -> None:
    """In dollars, which are proportional to the published eFLOPs, every multiplier is the same."""
    gpu, costs = load_gpu("b200-sxm"), np.geomspace(20, 2e4, 30)
    lines = {("qwen3-8b", "top_k"): (costs, np.linspace(0, 0.8, 30))}
    found, note = recosted(lines, (128, 1024), lambda rows: law_costs(rows, gpu, "usd", as_published=True))
    dollars = costs * 1e12 / 4500e12 / 3600 * gpu.price.usd_per_hour
    assert found["qwen3-8b", "top_k"][0] == pytest.approx(dollars, rel=1e-6)
    assert "estimate" in note


def test_a_recosted_frontier_is_the_frontier_at_the_new_costs() -> None:
    """Of the parametric model itself: its published frontier, moved to an H200, is what its strategies reach there."""
    fitted = load_accuracy(None)
    rows = fitted.strategies(models=("qwen3-4b",), attentions=("top_k",), budgets=(128, 512, 2048))
    published = frontier(
        rows, law_costs(rows, load_gpu("b200-sxm"), as_published=True), costs=np.geomspace(20, 2e4, 80)
    )

    def price(table: pd.DataFrame) -> np.ndarray:
        return law_costs(table, load_gpu("h200-sxm"), "seconds")

    line = (published.costs, published.curves[0].accuracy)
    costs, solved = recosted({("qwen3-4b", "top_k"): line}, (128, 512, 2048), price)[0]["qwen3-4b", "top_k"]
    inside = (solved > 0.02) & (solved < 0.99 * solved[-1]) & (np.diff(costs, append=np.inf) > 0)
    expected = frontier(rows, price(rows), costs=costs[inside])
    assert expected.curves[0].accuracy == pytest.approx(solved[inside], abs=0.02)


def test_curves_of_one_attention_only(kinesim, here: Path) -> None:
    rows = FALLING.splitlines()
    (here / "sparse.csv").write_text("\n".join([rows[0], *rows[4:]]) + "\n")
    outcome = kinesim("law", "frontier", "--accuracy", "sparse.csv", "--as-published", "--format", "json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["attentions"] == ["top_k"]
    assert document["panels"][0]["sparse"]["top_k"]["gain"] is None


def test_curves_that_fall_are_kept_and_warned_of(kinesim, here: Path) -> None:
    outcome = kinesim("law", "frontier", "--accuracy", "curves.csv", "--as-published", "--format", "json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert "accuracy falls" in " ".join(document["accuracy"]["warnings"])
    curves = {c["attention"]: c for c in document["panels"][0]["curves"]}
    assert max(curves["dense"]["accuracy"]) == curves["dense"]["accuracy"][-1] == 0.5
    assert curves["top_k"]["whole"]
    shown = kinesim("law", "frontier", "--accuracy", "curves.csv").out
    assert "estimate" in " ".join(shown.split())  # an H200's costs: the sparse curve is re-costed as a whole
    told = kinesim("law", "allocate", "400", "--accuracy", "curves.csv").out
    assert "not known" in told  # neither tokens nor budget of the sparse curve


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("allocate 3", "nothing is affordable at 3 T per problem: the cheapest strategy costs 7."),
        ("allocate -5", "a cost is above 0; found '-5'"),
        ("allocate 0", "a cost is above 0"),
        ("allocate five", "not a cost; found 'five'"),
        ("allocate 1s,2J", "costs in different units"),
        ("allocate 1s --unit joules", "costs in different units"),
        ("allocate 5 --budgte 3", "no such option; found '--budgte'"),
        ("allocate 100 --attention sparse", "--attention: unknown attention; found 'sparse'"),
        ("allocate 100 --strategy majority", "--strategy: unknown strategy; found 'majority'"),
        ("allocate 100 --model qwen3-30b-a3b", "no coefficients for this model"),
        ("allocate 100 --out choices.txt", "--out: not the name of a table"),
        ("allocate 900 --accuracy trace.csv --strategy best_of_n --trials 4", "2 trials of a problem"),
        ("allocate 900 --accuracy trace.csv --attention top_k", "top_k"),
        ("allocate 900 --accuracy wrong.csv", "wrong.csv"),
        ("allocate 900 --accuracy missing.csv", "missing.csv"),
        ("frontier --accuracy curves.csv --strategy best_of_n", "say nothing of several trials"),
        ("frontier --accuracy curves.csv --attention block_top_k", "no curve with block_top_k attention"),
        ("frontier --accuracy curves.csv --model qwen3-4b", "qwen3-4b"),
        ("frontier --limits 64k", "beyond the limits"),
        ("frontier --unit parsec", "--unit: unknown unit of a cost; found 'parsec'"),
        ("frontier --cost guess", "--cost: unknown cost; found 'guess'"),
        ("frontier --gpu h2000", "--gpu: unknown GPU; found 'h2000'"),
        ("frontier --as-published --gpu h200-sxm", "the authors' figures are for a B200"),
        ("frontier --as-published --cost simulated", "only the law has a published form"),
        ("frontier --at 76%,x", "--at: not a cost; found 'x'"),
        ("frontier --at 120%", "--at: not an accuracy; found '120%'"),
        ("frontier --at 1s", "--at: costs in different units"),
        ("frontier --gpu b200-sxm --set gpu=h200-sxm", "--gpu: the GPU is given twice"),
        ("frontier --unit usd --set gpu.price=null", "no price is known of this GPU"),
        ("frontier --trials 4", "--trials: a long chain of thought is one trial"),
        ("frontier --smooth 2", "odd number"),
        ("frontier --out frontier.pdf", "--out: unknown kind of file; found 'frontier.pdf'"),
        ("frontier no-such-scenario", "no-such-scenario"),
        ("frontier --set gpu.memory.bandwidth=fast", "fast"),
    ],
)
def test_bad_input(kinesim, here: Path, arguments: str, words: str) -> None:
    before = sorted(path.name for path in here.iterdir())
    outcome = kinesim("law", *arguments.split())
    assert outcome.code == 2, outcome.err
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.err.count("\n") == 1
    assert sorted(path.name for path in here.iterdir()) == before
