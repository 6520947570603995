"""Service times stretched: against clocks that can be stretched by hand, and what follows for the metrics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.headline import METRICS, headline, metric
from simulator.outlooks import outlook, run_stretched
from simulator.running import run_scenario
from workloads.scenario import load_scenario

SMALL = {
    "gpu": "h200-sxm",
    "model": "Qwen/Qwen3-8B",
    "engine": {"name": "vllm", "max_num_seqs": 16},
    "workload": {
        "strategy": {"kind": "best_of_n", "samples": 4, "acceptance": 0.5},
        "requests": 6,
        "prompt_tokens": 200,
        "output_tokens": {"kind": "uniform", "low": 50, "high": 400},
    },
}
OPEN = SMALL | {
    "workload": {
        "strategy": "chat",
        "requests": 60,
        "prompt_tokens": 500,
        "output_tokens": {"kind": "uniform", "low": 20, "high": 200},
        "arrivals": {"kind": "poisson", "rate": 20},
        "timeout": "30 s",
    },
    "objective": {"ttft": "100 ms", "tpot": "8 ms"},
}
RACK = ["workload.requests=40"]


@given(factor=st.floats(0.3, 3))
@settings(max_examples=10, deadline=None)
def test_all_at_once_everything_takes_the_factor(factor: float) -> None:
    """Without arrivals of their own, requests finish exactly `factor` times as late, by the same schedule."""
    scenario = load_scenario(SMALL)
    base, slow = run_scenario(scenario), run_stretched(scenario, factor)
    np.testing.assert_allclose(slow.requests["finish_s"], base.requests["finish_s"] * factor, rtol=1e-12)
    np.testing.assert_array_equal(slow.timeline["steps"], base.timeline["steps"])
    assert slow.summary["work"] == base.summary["work"]


def test_a_factor_of_one_is_the_run_itself() -> None:
    for spec, sets in ((OPEN, []), ("deepseek-r1-gb200-rack", RACK)):
        scenario = load_scenario(spec, sets)
        base, again = run_scenario(scenario), run_stretched(scenario, 1.0)
        assert headline(base.summary) == headline(again.summary)
        np.testing.assert_array_equal(base.timeline["start_s"], again.timeline["start_s"])


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_arrivals_do_not_stretch(factor: float) -> None:
    """A GPU that is `factor` as fast in everything, with an engine whose host takes no time, is the same thing."""
    faster = {
        "base": "h200-sxm",
        "sms": 132,
        "peak": {"bf16": f"{989.5 / factor} TFLOP/s"},
        "memory": {"bandwidth": f"{4.8 / factor} TB/s"},
        "l2": {"bandwidth": f"{10 / factor} TB/s"},
    }
    ideal = OPEN | {"profile": "ideal", "engine": {"max_num_seqs": 16, "memory_utilisation": 0.9}}
    base = ideal | {"gpu": {"base": "h200-sxm", "l2": {"bandwidth": "10 TB/s"}}}
    by_clock = run_stretched(load_scenario(base), factor)
    by_gpu = run_scenario(load_scenario(ideal | {"gpu": faster}))
    np.testing.assert_allclose(by_clock.requests["submitted_s"], by_gpu.requests["submitted_s"], rtol=1e-12)
    np.testing.assert_allclose(by_clock.requests["finish_s"], by_gpu.requests["finish_s"], rtol=1e-9)
    # The energy too: what is moved and computed takes what it takes, power over a time follows the time.
    assert by_clock.summary["cost"]["energy_j"] == pytest.approx(by_gpu.summary["cost"]["energy_j"], rel=1e-3)
    bounds, others = by_clock.summary["seconds_by_bound"], by_gpu.summary["seconds_by_bound"]
    assert sum(bounds.values()) == pytest.approx(sum(others.values()), rel=1e-6)


def test_outlook_brackets_every_metric() -> None:
    seen = outlook(load_scenario(OPEN))
    assert seen.factors is not None and seen.factors[0] < 1 < seen.factors[1]
    intervals, values = seen.intervals(), seen.metrics
    assert list(intervals) == list(METRICS)
    for key in ("ttft_s.p99", "tpot_s.mean", "e2e_s.p90", "goodput_share", "usd", "energy_j"):
        low, high = intervals[key] or (np.nan, np.nan)
        assert low <= values[key] <= high
    low, high = intervals["tpot_s.mean"] or (np.nan, np.nan)
    assert low < high
    assert intervals["solved"] is None  # no problems in a chat


def test_without_an_interval_none_is_made_up() -> None:
    seen = outlook(load_scenario(SMALL | {"profile": "ideal"}))
    assert seen.fast is None and set(seen.intervals().values()) == {None}


def test_metrics_have_one_name() -> None:
    summary = run_scenario(load_scenario(SMALL)).summary
    values = headline(summary)
    assert values["ttft_s.p99"] == summary["latency"]["ttft_s"]["p99"]
    hours, solved = summary["cost"]["gpu_hours"], summary["problems"]["solved"]
    assert values["gpu_seconds_per_solved"] == pytest.approx(hours * 3600 / solved, rel=1e-15)
    with pytest.raises(InputError, match="no such metric"):
        metric("ttft_p99")
    with pytest.raises(ValueError, match="not a factor"):
        run_stretched(load_scenario(SMALL), 0.0)
