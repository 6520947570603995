"""Curves: the published law inverted, what is kept and warned of, and what curves cannot give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.law.accuracy.curves import (
    LONGEST,
    PROMPT,
    Curves,
    equal_cost_length,
    published_parameters,
    published_polynomial,
    read_curves,
)
from simulator.law.accuracy.sources import load_accuracy
from simulator.law.strategies import COLUMNS, MODELS, WHOLE

HEAD = "model,attention,cost_tera_eflops,accuracy\n"
DIGITISED = Path(__file__).resolve().parents[4] / "shared" / "data" / "kinetics" / "aime24_long_cot_frontiers.csv"


def write(folder: Path, text: str) -> Path:
    path = folder / "curves.csv"
    path.write_text(text, encoding="utf-8")
    return path


def cost(model: str, n: float, prompt: int = PROMPT) -> float:
    """The published dense law for Qwen3-8B: 8.19e9 parameters, 32 and 8 heads of 128 on 36 layers, E = 562.5."""
    assert model == "qwen3-8b"
    pairs = (2 * prompt + n) * n
    return (2 * 8.19e9 * n + 2 * pairs * 32 * 128 * 36 + 2 * pairs * 8 * 128 * 36 * 562.5) * 1e-12


@pytest.fixture
def made(tmp_path: Path) -> Curves:
    points = [(cost("qwen3-8b", n), share) for n, share in ((1024, 0), (4096, 0.25), (16384, 0.75))]
    rows = [f"Qwen/Qwen3-8B,dense,{c!r},{a}" for c, a in points] + ["qwen3-8b,oracle-topk,30,0.5"]
    return read_curves(write(tmp_path, HEAD + "\n".join(rows)))


def test_lengths_are_those_of_the_cost(made: Curves) -> None:
    lengths, accuracy = made.dense_curve("qwen3-8b")
    assert lengths == pytest.approx([1024, 4096, 16384], rel=1e-12) and accuracy.tolist() == [0, 0.25, 0.75]


@settings(deadline=None)
@given(st.sampled_from(MODELS), st.floats(1, 1e5), st.integers(0, 2000))
def test_the_inverse_is_one(model: str, n: float, prompt: int) -> None:
    c0, c1, c2 = published_polynomial(model, "dense", 0, prompt)
    assert abs(c0) < 1e-6 * c1
    assert float(equal_cost_length(model, c1 * n + c2 * n**2, prompt)) == pytest.approx(n, rel=1e-9)


def test_top_k_is_linear_with_the_authors_extra_keys() -> None:
    c0, c1, c2 = published_polynomial("qwen3-8b", "top_k", 1024, 135)
    key = (4 * 32 * 128 * 36 + 4 * 8 * 128 * 36 * 562.5) * 1e-12  # FLOPs and bytes of a key
    assert c1 == pytest.approx(2 * 8.19e9 * 1e-12 + 1024 * key, rel=1e-9)
    assert c0 == pytest.approx(0.5 * (1024 - 135) ** 2 * key, rel=1e-9) and abs(c2) < 1e-12


def test_expected_is_interpolated_over_log_tokens_and_held_at_the_end(made: Curves) -> None:
    got = made.expected("Qwen/Qwen3-8B", [512, 1024, 2048, 4096, 8192, 16384, 30000])
    assert got == pytest.approx([0, 0, 0.125, 0.25, 0.5, 0.75, 0.75])


def test_before_a_curve_that_does_not_start_at_nothing_is_unknown(tmp_path: Path) -> None:
    found = read_curves(write(tmp_path, HEAD + f"qwen3-8b,dense,{cost('qwen3-8b', 4096)},0.25\n"))
    assert np.isnan(found.expected("qwen3-8b", 2048)) and found.expected("qwen3-8b", 4097) == 0.25
    table = found.strategies(limits=(1024, 2048, 8192))
    assert table["limit"].tolist() == [8192]
    assert table.attrs["notes"] == ["qwen3-8b: nothing is known below 4,096 tokens, so not of limits up to 2,048"]


def test_strategies_are_dense_rows_of_the_whole(made: Curves) -> None:
    table = made.strategies()
    assert set(COLUMNS) < set(table.columns) and set(table["problem"]) == {WHOLE}
    assert table["tokens"].tolist() == pytest.approx([4096, 16384]) and table["accuracy"].tolist() == [0.25, 0.75]
    assert set(table["trials"]) == {1} and (table["tokens"] <= table["limit"]).all()
    at = made.strategies(limits=[2048, 8192])
    assert at["accuracy"].tolist() == pytest.approx([0.125, 0.5]) and at["limit"].tolist() == [2048, 8192]


def test_points_past_the_longest_trials_are_one(tmp_path: Path) -> None:
    rows = [f"qwen3-8b,dense,{cost('qwen3-8b', n)},{a}" for n, a in ((8192, 0.5), (40000, 0.7), (50000, 0.8))]
    table = read_curves(write(tmp_path, HEAD + "\n".join(rows))).strategies()
    assert table["tokens"].tolist() == pytest.approx([8192, LONGEST]) and table["accuracy"].tolist() == [0.5, 0.8]


def test_a_curve_that_falls_past_the_longest_trials_is_kept(tmp_path: Path) -> None:
    rows = [f"qwen3-8b,dense,{cost('qwen3-8b', n)},{a}" for n, a in ((8192, 0.8), (40000, 0.6), (50000, 0.7))]
    table = read_curves(write(tmp_path, HEAD + "\n".join(rows))).strategies()
    assert table["accuracy"].tolist() == [0.8, 0.7]


def test_points_that_stand_twice_are_kept_and_warned_of(tmp_path: Path) -> None:
    found = read_curves(write(tmp_path, HEAD + "qwen3-8b,dense,900,0.5\nqwen3-8b,dense,900,0.6\n"))
    assert len(found.points) == 2 and "several points at one cost, such as 900" in found.warnings[0]


def test_what_curves_cannot_give_is_refused(made: Curves) -> None:
    with pytest.raises(InputError, match="neither lengths nor KV budgets"):
        made.strategies(attentions=("dense", "top_k"))
    with pytest.raises(InputError, match="unknown attention"):
        made.strategies(attentions=("sparse",))
    with pytest.raises(InputError, match="how problems differ"):
        made.strategies(trials=(1, 4))
    with pytest.raises(InputError, match="means over the problems"):
        made.strategies(by_problem=True)
    with pytest.raises(InputError, match="do not know KV budgets"):
        made.expected("qwen3-8b", 4096, 1024)
    with pytest.raises(InputError, match="no dense curve of this model"):
        made.expected("qwen3-32b", 4096)
    assert made.sparse_curves()[["attention", "accuracy"]].to_numpy().tolist() == [["top_k", 0.5]]


def test_curves_that_fall_are_kept_and_warned_of(tmp_path: Path) -> None:
    found = read_curves(
        write(tmp_path, HEAD + "qwen3-8b,dense,900,0.5\nqwen3-8b,dense,100,0.2\nqwen3-8b,dense,400,0.6\n")
    )
    assert found.points["accuracy"].tolist() == [0.2, 0.6, 0.5]  # by cost
    assert len(found.warnings) == 1 and "by up to 10.0 points after 400 tera-eFLOPs" in found.warnings[0]
    assert found.expected("qwen3-8b", 1e5) == 0.5


def test_a_prompt_moves_short_lengths_most(made: Curves) -> None:
    # as PROMPT's docstring says: 100 more tokens cost 8% at 2,048 and 1% at 16,384
    assert cost("qwen3-8b", 2048, 235) / cost("qwen3-8b", 2048) == pytest.approx(1.08, abs=0.01)
    assert cost("qwen3-8b", 16384, 235) / cost("qwen3-8b", 16384) == pytest.approx(1.01, abs=0.003)


BAD = {
    "missing column accuracy": "model,attention,cost_tera_eflops\nqwen3-8b,dense,1\n",
    "row 1, column cost_tera_eflops: not allowed": HEAD + "qwen3-8b,dense,-5,0.1\n",
    "column cost_tera_eflops: not allowed; found 1e": HEAD + "qwen3-8b,dense,1e30,0.1\n",
    "row 2, column accuracy: not allowed": HEAD + "qwen3-8b,dense,5,0.1\nqwen3-8b,dense,6,1.5\n",
    "not a finite number": HEAD + "qwen3-8b,dense,much,0.1\n",
    "column attention: not allowed": HEAD + "qwen3-8b,sparse,5,0.1\n",
    "unknown model": HEAD + "gpt-9,dense,5,0.1\n",
    "the table has no rows": HEAD,
    "neither curves nor trials": "a,b\n1,2\n",
}


@pytest.mark.parametrize("problem", BAD)
def test_bad_curves(problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=problem) as error:
        load_accuracy(write(tmp_path, BAD[problem]))
    assert "curves.csv" in str(error.value)


@pytest.mark.skipif(not DIGITISED.exists(), reason=f"the digitised curves are not at {DIGITISED}")
def test_the_papers_steps_lie_at_the_papers_limits() -> None:
    """All trials that are cut at 2,048 and 4,096 tokens cost the same, so dense curves rise in steps there."""
    found = load_accuracy(DIGITISED)
    assert found.kind == "curves" and found.models == MODELS and not found.warnings
    assert [published_parameters(m) for m in MODELS] == [0.752e9, 2.03e9, 4.02e9, 8.19e9, 14.77e9, 32.76e9]
    for model in MODELS[1:]:
        lengths, accuracy = found.dense_curve(model)  # type: ignore[attr-defined]
        for limit in (2048, 4096):
            before, after = np.interp([0.82 * limit, 1.15 * limit], lengths, accuracy)
            assert after - before > 0.8 * (after - np.interp(0.6 * limit, lengths, accuracy)), (model, limit)
