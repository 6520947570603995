"""Simulated costs of strategy tables: what is asked of `steady`, interpolation, units, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.deployment import deploy
from simulator.law.options import Policy
from simulator.law.serving.pointgrid import FEW, evaluate, make_grid
from simulator.law.serving.simulated import simulate_strategies, simulated_costs, summed_notes
from simulator.law.serving.steady import steady_cost
from simulator.law.serving.steadyruns import attention_text
from workloads.scenario import load_scenario

BASE = "aime24-long-cot"
SETS = ("profile=ideal", "engine.max_num_seqs=16")


def table(**columns: Any) -> pd.DataFrame:
    """Strategies with these columns, and usual values in the others."""
    usual = {
        "model": "qwen3-0.6b", "attention": "dense", "budget": 0, "page": 0, "local": 0, "prompt_tokens": 100,
        "limit": 512, "tokens": 512.0, "trials": 1, "problem": "", "accuracy": np.nan,
    }  # fmt: skip
    return pd.DataFrame(usual | columns, index=None if any(np.ndim(c) for c in columns.values()) else [0])


def test_rows_cost_what_saturated_serving_does() -> None:
    """Each row as `steady_cost` of a scenario that is written for it alone; the table's index is kept."""
    rows = pd.DataFrame(
        [
            ("qwen3-0.6b", "dense", 0, 0, 0, 512.0, 1),
            ("qwen3-0.6b", "top_k", 128, 0, 0, 300.0, 4),
            ("qwen3-1.7b", "block_top_k", 160, 16, 32, 700.0, 2),
        ],
        columns=["model", "attention", "budget", "page", "local", "tokens", "trials"],
        index=[7, 3, 5],
    ).assign(prompt_tokens=100)
    found = simulate_strategies(rows, BASE, sets=SETS, jobs=1)
    assert found.index.tolist() == [7, 3, 5]
    assert found["note"].tolist() == ["", "", ""] and set(found["gpus"]) == {1} and set(found["profile"]) == {"ideal"}
    texts = ("dense", "{kind: top_k, budget: 128}", "{kind: block_top_k, page: 16, blocks: 8, local: 32}")
    for (_, row), (_, cost), text in zip(rows.iterrows(), found.iterrows(), texts, strict=True):
        scenario = load_scenario(BASE, [*SETS, f"model={row['model']}", f"attention={text}"])
        # The budgets of a model share a schedule, whose stretch may differ a little.
        alone = steady_cost(deploy(scenario), 100, int(row["tokens"]), row["trials"], with_caps=((128,), ()))
        assert cost["seconds"] == pytest.approx(alone.seconds, rel=2e-3)
        assert cost["joules"] == pytest.approx(alone.energy_j, rel=2e-3)
        assert cost["eflops"] == pytest.approx(alone.eflops / 1e12, rel=2e-3)
        assert cost["usd"] == pytest.approx(alone.seconds / 3600 * scenario.gpu.price.usd_per_hour, rel=2e-3)
        assert cost["peak_eflops"] == pytest.approx(alone.seconds * 989.5, rel=2e-3)  # an H200's dense bf16, TFLOP/s


def test_units_are_columns_and_processes_do_not_matter() -> None:
    rows = table(model=["qwen3-0.6b", "qwen3-1.7b"] * 2, tokens=[200.0, 200.0, 400.0, 400.0])
    found = simulate_strategies(rows, BASE, sets=SETS, gpu="b200-sxm", jobs=1)
    pd.testing.assert_frame_equal(found, simulate_strategies(rows, BASE, sets=SETS, gpu="b200-sxm", jobs=2))
    for unit in ("seconds", "usd", "joules", "eflops"):
        costs = simulated_costs(rows, BASE, unit, sets=[*SETS, "gpu=b200-sxm"], jobs=1)
        assert costs.dtype == np.float64
        np.testing.assert_array_equal(costs, found[unit])
    assert (found["seconds"] < simulated_costs(rows, BASE, sets=SETS, jobs=1)).all()
    part = simulate_strategies(rows, BASE, sets=SETS, gpu="b200-sxm", jobs=1, work=False)
    assert part[["joules", "eflops"]].isna().all(axis=None)
    np.testing.assert_array_equal(part["seconds"], found["seconds"])


def test_lengths_are_averaged_and_tokens_are_rounded() -> None:
    rows = table(tokens=[300.0, 300.0, 100.0, 500.0, 300.25])
    rows["lengths"] = [np.array([100.0, 500.0]), None, None, None, None]
    found = simulate_strategies(rows, BASE, sets=SETS, jobs=1)
    seconds = found["seconds"]
    assert seconds[0] == pytest.approx((seconds[2] + seconds[3]) / 2, rel=1e-12)
    assert seconds[0] > seconds[1]  # a long trial costs more than in proportion
    assert seconds[4] == pytest.approx(seconds[1] * 300.25 / 300, rel=1e-12)
    assert found["note"].tolist() == ["mean over lengths of batches of one length each", "", "", "", ""]


def test_many_lengths_are_interpolated() -> None:
    """Within 1 % of what is simulated, and the row says so."""
    tokens = np.arange(64, 1600, 64).astype(float)
    found = simulate_strategies(table(tokens=tokens), BASE, sets=SETS, jobs=1)
    assert len(tokens) > FEW and found["note"].str.startswith("interpolated between ").all()
    assert (np.diff(found["seconds"]) > 0).all()
    some = [64.0, 448.0, 832.0, 1216.0, 1536.0]
    exact = simulate_strategies(table(tokens=some), BASE, sets=SETS, jobs=1)
    assert (exact["note"] == "").all()
    for column in ("seconds", "joules", "eflops"):
        near = found[column].to_numpy()[np.isin(tokens, some)]
        np.testing.assert_allclose(near, exact[column], rtol=0.01)


def test_many_prompts_and_trials_are_factors() -> None:
    rng = np.random.default_rng(1)
    rows = table(
        tokens=np.rint(rng.uniform(100, 800, 40)),
        prompt_tokens=np.rint(rng.uniform(50, 200, 40)),
        trials=rng.choice([1, 4, 16], 40),
    )
    found = simulate_strategies(rows, BASE, sets=SETS, jobs=1)
    exact = simulate_strategies(rows.iloc[:8], BASE, sets=SETS, jobs=1)
    np.testing.assert_allclose(found["seconds"][:8], exact["seconds"], rtol=0.015)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, 5), st.sampled_from([1, 2, 20]), st.floats(0.0, 1.0)
)
def test_grid_of_a_smooth_cost(seed: int, rows: int, prompts_asked: int, counts: int, weight: float) -> None:
    """A cost like the law's, N n^2 / 2 + (N + 1) / 2 x a n and a part in proportion: within 2 % everywhere, exact where
    all points are simulated.
    """
    rng = np.random.default_rng(seed)
    prompts = rng.choice(rng.integers(40, 1000, prompts_asked), rows)
    lengths = np.rint(np.exp(rng.uniform(np.log(1000), np.log(40_000), rows))).astype(int)
    trials = rng.choice(rng.integers(1, 64, counts), rows)

    def cost(a: Any, n: Any, N: Any) -> Any:
        return weight * (N * n * n / 2 + (N + 1) / 2 * a * n) + (N * n + a) * 500

    grid = make_grid(prompts, lengths, trials)
    found = evaluate(grid, {point: float(cost(*point)) for point in grid.points}, prompts, lengths, trials)
    np.testing.assert_allclose(found, cost(prompts, lengths, trials), rtol=1e-12 if grid.whole else 0.02)
    assert grid.whole == (len(set(zip(prompts, lengths, trials, strict=True))) <= FEW)
    assert len(grid.points) <= 60


def test_model_that_does_not_fit_is_spread() -> None:
    """Llama-3.1-70B has 141 GB of weights in bf16: two H200, four L40S of 48 GB."""
    rows = table(model="meta-llama/Meta-Llama-3.1-70B", tokens=64.0)
    for gpu, gpus in (("h200-sxm", 2), ("l40s", 4)):
        found = simulate_strategies(rows, BASE, sets=("profile=ideal", "engine.name=none"), gpu=gpu, jobs=1)
        assert found["gpus"].tolist() == [gpus]
        assert found["note"][0] == f"tensor parallelism over {gpus} GPUs, since it does not fit on 1"


def test_notes_are_said_once() -> None:
    rows = table(model=["meta-llama/Meta-Llama-3.1-70B", "qwen3-0.6b", "qwen3-0.6b"], tokens=64.0)
    rows["lengths"] = [np.array([32.0, 96.0])] * 3
    found = simulate_strategies(rows, BASE, sets=("profile=ideal", "engine.name=none"), jobs=1)
    spread = "meta-llama/Meta-Llama-3.1-70B: tensor parallelism over 2 GPUs, since it does not fit on 1"
    assert summed_notes(rows, found) == [spread, "mean over lengths of batches of one length each"]


def test_empty_table() -> None:
    empty = table(tokens=[1.0]).iloc[:0]
    assert len(simulate_strategies(empty, BASE)) == 0
    assert simulated_costs(empty, BASE).shape == (0,)


def test_attention_as_a_scenario_says_it() -> None:
    assert attention_text(Policy("dense")) == "dense"
    assert attention_text(Policy("block_top_k", 160, 16, 32)) == "{kind: block_top_k, page: 16, blocks: 8, local: 32}"


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"model": "qwen3-9b"}, {}, "unknown model; found 'qwen3-9b'"),
        ({"attention": "sliding"}, {}, "row 0, column attention: unknown attention; found 'sliding'"),
        ({"attention": "top_k", "budget": 0}, {}, "row 0, column budget: not a KV budget"),
        ({"attention": "block_top_k", "budget": 100, "page": 16}, {}, "row 0: not a budget of block top-k"),
        ({"tokens": [3.0, -1.0]}, {}, "row 1, column tokens: not a strategy; found -1.0"),
        ({"tokens": np.nan}, {}, "row 0, column tokens"),
        ({"trials": 1.5}, {}, "row 0, column trials"),
        ({"prompt_tokens": 0}, {}, "row 0, column prompt_tokens"),
        ({"tokens": 50_000.0}, {}, "strategy qwen3-0.6b, dense, prompt of 100, 1 x 50,000 tokens: every request"),
        ({}, {"gpu": "h2000"}, "unknown GPU"),
        ({}, {"unit": "euro"}, "unit: unknown unit of cost; found 'euro'"),
        ({}, {"unit": "usd", "sets": ("profile=ideal", "gpu.price=null")}, "no price is known of this GPU"),
        ({}, {"base": "aime"}, "unknown scenario"),
        ({}, {"base": "deepseek-r1-gb200-rack"}, "replicas that compute prompts and outputs both"),
        ({}, {"sets": ("engine.max_num_seqs=0",)}, "engine.max_num_seqs"),
        ({}, {"sets": ("model=qwen3-8b",)}, "--set: strategies have models and attentions of their own"),
        ({}, {"sets": ("attention.budget=3",)}, "--set: strategies have models and attentions of their own"),
        ({}, {"sets": ("gpu=h100-sxm",), "gpu": "b200-sxm"}, "--set: the GPU is given twice"),
    ],
)
def test_bad_input(columns: dict[str, Any], options: dict[str, Any], message: str) -> None:
    options = {"base": BASE, "sets": SETS, "jobs": 1} | options
    if options["base"] != BASE:
        options["sets"] = ()
    with pytest.raises(InputError) as error:
        simulated_costs(table(**columns), options.pop("base"), options.pop("unit", "seconds"), **options)
    assert message in str(error.value)


def test_strategy_that_fits_nowhere() -> None:
    """Llama-3.1-405B has 812 GB of weights in bf16, eight linked L40S have 384 GB."""
    with pytest.raises(InputError, match=r"strategy llama-3.1-405b, dense, .*does not fit"):
        simulated_costs(table(model="llama-3.1-405b"), BASE, gpu="l40s", sets=SETS, jobs=1)


def test_missing_columns() -> None:
    with pytest.raises(InputError, match=r"columns are missing from the table of strategies; found .*trials"):
        simulated_costs(table().drop(columns=["trials", "local"]), BASE)
