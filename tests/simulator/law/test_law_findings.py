"""The findings page: made of made-up costs, it has every claim, its figures and its links; and nothing is silent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwspecs.gpu import load_gpu
from simulator.law.accuracy.sources import load_accuracy
from simulator.law.costs import law_costs
from simulator.law.findings.evidence import Evidence, gather, law_setting, simulated_setting
from simulator.law.findings.page import CLAIMS, anchor, largest_step, main, page_text, rungs_table, write
from simulator.law.findings.runfacts import RunFacts
from simulator.law.findings.words import CURVES_MISSING, UNCHECKED, verdict
from simulator.law.serving.multipliers import multiplied_costs
from simulator.law.serving.simulated import simulated_costs

FACTOR = 3.0


def three_times_the_law(table: pd.DataFrame, gpu: str, scenario: str) -> np.ndarray:
    assert scenario in ("aime24-long-cot", "aime24-best-of-32")
    return FACTOR * law_costs(table, load_gpu(gpu), "seconds")


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return gather(
        load_accuracy(None), three_times_the_law, None, limits=(2048, 8192, 32768), trials=(1, 4), run=made_up_run,
        climb=made_up_ladder,
    )  # fmt: skip


def made_up_run(model: str, gpu: str, budget: int | None, tokens: int, sets: Sequence[str] = ()) -> RunFacts:
    """Attention three times what operators with weights take, and a tenth waiting for the host."""
    return RunFacts(
        model, gpu, budget, tokens, seconds=10.0, law_seconds=4.0, attention=6.0, linear=2.0, host=1.0, batch=16.0,
        preemptions=0.0, kv_tokens=1_000_000, chains=7,
    )  # fmt: skip


def made_up_ladder(models: Sequence[str], attentions: Sequence[tuple[str, int]], **asked: Any) -> pd.DataFrame:
    """Three rungs of 2, 3 and 12 seconds."""
    assert asked["points"] == (32768,)
    rows = [
        {"rung": rung, "title": title, "gpu": gpu, "model": model, "attention": kind, "budget": budget, "seconds": s,
         "spread": 1.4}
        for gpu in asked["gpus"] for model in models for kind, budget in attentions
        for rung, title, s in ((1, "closed form", 2.0), (2, "first", 3.0), (3, "second", 12.0))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_rungs_are_multipliers_and_the_largest_is_bold(evidence: Evidence) -> None:
    lines = rungs_table(evidence).splitlines()
    assert lines[0] == "| chain | the law | first | second | simulated | in all | lengths, by the law |"
    assert lines[2] == "| H200, 0.6B, dense | 2 s | 1.50 | **4.00** | 12 s | 6.00 | 1.40 |"
    assert lines[3].startswith("| H200, 0.6B, top-k 1,024 |") and len(lines) == 2 + 2 * 3 * 2


def test_costs_that_are_all_as_much_higher_change_no_gain(evidence: Evidence) -> None:
    for gpu in evidence.gpus:
        law, slow = (
            evidence.measures["long_cot", setting, "top_k"] for setting in (law_setting(gpu), simulated_setting(gpu))
        )
        assert law.gain and slow.gain and law.saving and slow.saving and law.penalty and slow.penalty
        assert slow.gain.points == pytest.approx(law.gain.points, abs=1e-9)
        assert slow.gain.cost == pytest.approx(FACTOR * law.gain.cost)
        assert slow.saving.ratio == pytest.approx(law.saving.ratio)
        assert slow.penalty.ratio == pytest.approx(law.penalty.ratio)
        assert slow.threshold and law.threshold and slow.threshold.taken == law.threshold.taken
        assert slow.small_sparse == pytest.approx(law.small_sparse)


def test_page_tells_every_claim(evidence: Evidence) -> None:
    told = [tell(evidence) for tell in CLAIMS]
    page = page_text(evidence, told)
    headings = {anchor(line.lstrip("# ")) for line in page.splitlines() if line.startswith("#")}
    links = re.findall(r"\]\(#([^)]+)\)", page)
    assert len(links) - 1 == len(told) == 13  # and one to the rungs
    assert set(links) <= headings
    assert all(len(f.simulated) == len(evidence.gpus) and f.why and f.text for f in told)
    assert not re.search(r"\bnan\b|\bNone\b", page)
    assert max(map(len, re.findall(r"^\| \[.*$", page, re.M))) < 1500  # a table that can be read
    assert {f.verdict for f in told} >= {UNCHECKED, "holds"}


def test_page_without_the_digitised_curves_says_so(evidence: Evidence) -> None:
    page = page_text(evidence, [tell(evidence) for tell in CLAIMS])
    assert evidence.curves is None
    assert CURVES_MISSING in page and "digitised: " not in page


def test_same_evidence_gives_the_same_files(evidence: Evidence, tmp_path: Path) -> None:
    once, again = (write(evidence, tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in once] == ["findings.md", "effects.png", "frontiers.png", "where-the-time-goes.png"]
    for path, other in zip(once, again, strict=True):
        assert path.read_bytes() == other.read_bytes()
    page = once[0].read_text()
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page):
        assert (tmp_path / "a" / target).exists()


def test_anchor_as_markdown_viewers_make_it() -> None:
    assert anchor("4. doubling, (at 0.6B) by ~1.2") == "4-doubling-at-06b-by-12"


@pytest.mark.parametrize(
    ("law", "simulated", "told"),
    [(1.0, (0.9, 0.8), "holds"), (1.0, (0.5, 0.5), "law: holds; simulated: weaker"),
     (0.1, (0.1, 0.0), "gone"), (1.0, (0.9, 0.1), "law: holds; simulated: holds, gone"),
     (None, (0.5, 0.5), "simulated: weaker")],
)  # fmt: skip
def test_verdict_of_law_and_simulations(law: float | None, simulated: tuple[float, ...], told: str) -> None:
    assert verdict(law, simulated) == told


def test_bad_accuracy_is_one_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--accuracy", str(tmp_path / "none.yaml"), "--docs", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("error: ") and "none.yaml" in said[-1]
    assert not list(tmp_path.iterdir())


def test_an_accuracy_without_every_strategy_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    curves = tmp_path / "curves.csv"
    curves.write_text("model,attention,cost_tera_eflops,accuracy\nqwen3-8b,dense,100,0.1\nqwen3-8b,dense,200,0.2\n")
    assert main(["--accuracy", str(curves), "--docs", str(tmp_path / "docs")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "parametric" in said[-1] and "curves.csv" in said[-1]
    assert not (tmp_path / "docs").exists()


def test_the_largest_step_leaves_out_what_the_law_has_of_lengths() -> None:
    # Lengths multiply by 3, of which 1.5 the law has too; kernels by 2.5.
    rungs = pd.DataFrame(
        {
            "rung": [1, 6, 8],
            "title": ["closed form", "kernels", "lengths, drain"],
            "seconds": [1.0, 2.5, 7.5],
            "spread": 1.5,
        }
    )
    assert largest_step(rungs) == 0
    assert largest_step(rungs.assign(spread=1.0)) == 1


# ---- multipliers -----------------------------------------------------------------------------------------------------


def strategies(trials: tuple[int, ...] = (1,)) -> pd.DataFrame:
    return load_accuracy(None).strategies(
        models=("qwen3-0.6b",), attentions=("dense", "top_k"), budgets=(256,), limits=(2048, 32768), trials=trials
    )


def test_multipliers_that_are_powers_are_joined_exactly() -> None:
    table, gpu = strategies(trials=(1, 2, 4, 8, 16, 32)), load_gpu("h200-sxm")

    def simulate(some: pd.DataFrame) -> np.ndarray:
        assert len(some) <= 12 * 2  # dense, and one budget
        return law_costs(some, gpu, "seconds") * 2 * some["tokens"] ** 0.1 * some["trials"] ** -0.2

    found = multiplied_costs(table, "h200-sxm", simulate)
    wanted = [
        np.mean(
            law_costs(pd.DataFrame([row] * len(row.lengths)).assign(tokens=row.lengths, lengths=None), gpu, "seconds")
            * 2 * np.clip(row.lengths, 512, 32768) ** 0.1 * row.trials**-0.2  # held beyond the grid
        )
        for row in table.iloc[::97].itertuples(index=False)
    ]  # fmt: skip
    assert found[::97] == pytest.approx(wanted, rel=1e-9)


def test_multipliers_against_all_lengths_simulated() -> None:
    table = strategies()

    def simulate(some: pd.DataFrame) -> np.ndarray:
        return simulated_costs(some, "aime24-long-cot", "seconds", gpu="h200-sxm", jobs=1)

    off = np.abs(multiplied_costs(table, "h200-sxm", simulate) / simulate(table) - 1)
    assert off.mean() < 0.005 and off.max() < 0.02


def test_multipliers_want_prompts_of_one_length() -> None:
    table = strategies()
    other = table.assign(prompt_tokens=np.where(np.arange(len(table)) % 2, 100, 200))
    with pytest.raises(ValueError, match="one length"):
        multiplied_costs(other, "h200-sxm", lambda some: np.ones(len(some)))


def test_evidence_without_a_claim_of_sparse_attention_is_told(evidence: Evidence) -> None:
    # Where sparse attention gains nothing, the page says so in place of failing.
    nothing = {key: replace(found, gain=None, saving=None, growth=None) for key, found in evidence.measures.items()}
    spreads = {key: replace(found, gain=None, saving=None) for key, found in evidence.spreads.items()}
    told = [tell(replace(evidence, measures=nothing, spreads=spreads)) for tell in CLAIMS]
    assert "simulated: gone" in told[4].verdict or told[4].verdict == "gone"
    assert "none" in told[4].simulated[0]
