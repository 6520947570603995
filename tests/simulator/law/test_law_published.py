"""`simulator.law.published` against what the authors' own functions returned (publishedrun.py says how it was got)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import publishedrun
import pytest

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.law.closedform import LawModel
from simulator.law.costs import law_costs
from simulator.law.published import PARAMETERS, published_coverage, published_model, published_parts
from workloads.model import load_model

KEPT = json.loads(publishedrun.FILE.read_text(encoding="utf-8"))
ROWS = [dict(zip(KEPT["columns"], row, strict=True)) for row in KEPT["rows"]]
UTILS = os.environ.get("KINETICS_COST_UTILS")
"""Path of the authors' cost_model/utils.py, where it is at hand."""
B200 = load_gpu("b200-sxm")


def budget(row: dict[str, Any]) -> int | None:
    each = row["page"] if row["attention"] == "block_top_k" else 1
    return None if row["attention"] == "dense" else row["local"] + each * row["blocks"]


def test_there_are_enough_points() -> None:
    assert len(ROWS) >= 300
    assert {row["attention"] for row in ROWS} == set(publishedrun.FUNCTIONS)
    below = [row for row in ROWS if row["attention"] == "block_top_k" and row["compute"] < 0]
    assert below, "some points where the authors' block top-k is below zero"


def test_the_shapes_are_the_models() -> None:
    for name, (parameters, q_heads, kv_heads, depth) in publishedrun.SHAPES.items():
        found = published_model(load_model(name))
        assert (found.parameters, found.q_heads, found.kv_heads, found.depth) == (parameters, q_heads, kv_heads, depth)
    assert len(PARAMETERS) == 6


def test_formulas() -> None:
    for row in ROWS:
        parameters, q_heads, kv_heads, depth = publishedrun.SHAPES[row["model"]]
        model = LawModel(parameters, q_heads, kv_heads, depth)
        lengths = np.array(row["lengths"])
        found = published_parts(
            model, row["attention"], row["a"], lengths, row["trials"], budget(row), row["page"] or None
        )
        # Differences of large numbers: what is summed, not its sum, is what the last digits are of.
        size = abs(found.flops).max() / 1e12
        assert found.flops.mean() / 1e12 == pytest.approx(row["compute"], rel=1e-12, abs=1e-15 * size)
        size = abs(found.bytes).max() * found.ratio / 1e12
        assert (found.bytes * found.ratio).mean() / 1e12 == pytest.approx(row["memory"], rel=1e-12, abs=1e-15 * size)


def test_tables_of_strategies() -> None:
    """The same points as one table: eFLOPs, and seconds of a B200 with 4,500 TFLOP/s."""
    table = pd.DataFrame(
        {
            "model": row["model"], "attention": row["attention"], "budget": budget(row) or 0, "page": row["page"],
            "prompt_tokens": row["a"], "tokens": float(np.mean(row["lengths"])), "trials": row["trials"],
            "lengths": np.array(row["lengths"], dtype=float),
        }
        for row in ROWS
    )  # fmt: skip
    expected = np.array([row["compute"] + row["memory"] for row in ROWS])
    found = law_costs(table, B200, as_published=True)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(law_costs(table, B200, "seconds", as_published=True), expected / 4500, rtol=1e-12)


def test_coverage() -> None:
    for trials, correct, samples, expected in KEPT["coverage"]:
        np.testing.assert_allclose(published_coverage(trials, correct, samples), expected, rtol=1e-12)


@pytest.mark.skipif(UTILS is None, reason="KINETICS_COST_UTILS does not name the authors' cost_model/utils.py")
def test_the_kept_points_are_what_the_authors_code_gives() -> None:
    utils = Path(str(UTILS))
    points = [[row[name] for name in KEPT["columns"][:-2]] for row in ROWS]
    assert points == publishedrun.points(len(points))
    assert publishedrun.run(utils, points) == [[row["compute"], row["memory"]] for row in ROWS]
    cases = [case[:3] for case in KEPT["coverage"]]
    assert publishedrun.run_coverage(utils, cases) == [case[3] for case in KEPT["coverage"]]


# ---- by hand: where the authors' figures are not the law's -----------------------------------------------------------


def test_top_k_reads_keys_that_are_not_there() -> None:
    """Qwen3-8B, a = 100, n = 1,000, B = 500. The authors: 500 x 1,000 + 400^2 / 2 = 580,000 keys. There are 420,200:
    tokens 1 to 400 see 101 to 500, 120,200 together; the other 600 see 500 each.
    """
    model = published_model(load_model("qwen3-8b"))
    found = published_parts(model, "top_k", 100, 1000, 1, 500)
    assert found.attention_flops == 4 * 32 * 4608 * 580_000
    assert found.attention_bytes == 4 * 8 * 4608 * 580_000


def test_block_top_k_of_a_short_answer_is_below_zero() -> None:
    """a = 100, n = 100, B = 1,000: 1,000 x 100 - 900^2 / 2 = -305,000 keys. There are 101 + ... + 200 = 15,050."""
    model = published_model(load_model("qwen3-8b"))
    found = published_parts(model, "block_top_k", 100, 100, 1, 1000, 10)
    assert found.attention_flops == 4 * 32 * 4608 * -305_000


def test_pages_are_rounded_down() -> None:
    """(2 x 100 + 110) / 16 is 19.375; the authors take 19 times n = 110, for both memory and compute with N = 1."""
    model = published_model(load_model("qwen3-8b"))
    found = published_parts(model, "block_top_k", 100, 110, 1, 64, 16)
    assert found.search_flops == 19 * 110 * 32 * 4608
    assert found.search_bytes == 19 * 110 * 8 * 4608


def test_other_gpus_were_never_published() -> None:
    with pytest.raises(InputError, match="the authors' figures are for a B200"):
        law_costs(TABLE, load_gpu("h200-sxm"), as_published=True)
    with pytest.raises(InputError, match="no options"):
        law_costs(TABLE, B200, as_published=True, prefill=True)


TABLE = pd.DataFrame(
    [
        {
            "model": "qwen3-8b", "attention": "dense", "budget": 0, "page": 0, "prompt_tokens": 150, "tokens": 1e4,
            "trials": 1,
        }
    ]
)  # fmt: skip
