"""Inter-token latencies from macro-steps against the time stamp of every token in the naive engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import NaiveLog, simulate_naive
from scenarios import CostSpec, cost_of, make_requests, scenarios

from simulator.engine import RunLog, simulate
from simulator.latency import MAX_POINTS, all_itl, find_stalls, request_itl, spread_steps, weighted_quantiles
from simulator.policy import SECONDS_PER_TICK, EngineParams, Status

QUANTILES = (0.5, 0.9, 0.99, 1.0)


def latencies(naive: NaiveLog) -> list[np.ndarray]:
    """The ITLs of each request in seconds, token by token."""
    return [np.diff(np.array(ticks, dtype=float)) * SECONDS_PER_TICK for ticks in naive.token_ticks]


def lower_quantiles(values: np.ndarray) -> list[float]:
    """The least value with at least the share q of all values up to it."""
    ordered = np.sort(values)
    return [float(ordered[int(np.ceil(q * len(ordered) - 1e-9)) - 1]) for q in QUANTILES]


def of_requests(log: RunLog) -> np.ndarray:
    return request_itl(log.timeline, log.gaps, log.replica, log.first_token_s, log.finish_s, log.generated)


def check(log: RunLog, naive: NaiveLog, tolerance: float) -> None:
    brute = latencies(naive)
    found = of_requests(log)
    assert found.shape == (len(brute), 4)
    for itl, row in zip(brute, found, strict=True):
        if len(itl):
            assert row == pytest.approx(lower_quantiles(itl), rel=tolerance)
        else:
            assert np.isnan(row).all()
    together = np.concatenate(brute)
    stalls = find_stalls(log.timeline, log.gaps, log.replica, log.first_token_s, log.finish_s)
    mean, quantiles = all_itl(log.timeline, log.gaps, QUANTILES, stalls, float(len(together)))
    if len(together):
        assert mean == pytest.approx(together.mean(), rel=tolerance)
        assert quantiles == pytest.approx(lower_quantiles(together), rel=tolerance)
    else:
        assert np.isnan(mean) and np.isnan(quantiles).all()


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(scenarios(kinds=("starved", "groups", "priorities", "replicas", "closed", "any", "first", "engines")))
def test_itl_of_any_scenario(scenario) -> None:
    """Preemptions, aborts, replicas, closed loops, stalls; durations within a run are spread along one line."""
    cost = cost_of(scenario.cost)
    scenario = scenario.settle(cost)
    log = simulate(scenario.requests, cost, scenario.params)
    naive = simulate_naive(scenario.requests, cost, scenario.params, check_every=1000)
    check(log, naive, 1e-2)  # a run's durations are spread over few points, and bend at the knots of the cost
    if scenario.params.prefill == "mixed":
        row, seconds, _ = find_stalls(log.timeline, log.gaps, log.replica, log.first_token_s, log.finish_s)
        assert (seconds < 1e-6 * log.timeline["first_step_s"][row]).all()  # rounding of times, no more


def test_itl_with_preemptions_and_aborts() -> None:
    cost = cost_of(CostSpec(profile="rule-of-thumb"))
    rng = np.random.default_rng(2)
    prompt, output = rng.integers(5, 60, 12).tolist(), rng.integers(20, 150, 12).tolist()
    requests = make_requests(prompt, output)
    params = EngineParams(8, 64, 4, 90, 300)
    log = simulate(requests, cost, params)
    check(log, simulate_naive(requests, cost, params, check_every=1000), 2e-3)
    assert log.preemptions.sum() > 2 and len(log.gaps) > 2
    assert (log.status == Status.FINISHED).all()
    for index, start, end in log.gaps.tolist():  # timeouts that come while a request waits after a preemption
        timeout = (start + end) / 2 - log.submitted_s[int(index)]
        stopped = replace(requests, timeout_s=timeout)
        log = simulate(stopped, cost, params)
        assert (log.status == Status.ABORTED).any()
        assert np.isnan(log.gaps[:, 2]).any()
        check(log, simulate_naive(stopped, cost, params, check_every=1000), 2e-3)


def test_latencies_of_a_request_add_up_to_its_decode_time() -> None:
    """Of finished requests that run alone on one macro-step or more, with quantiles fine enough to integrate."""
    cost = cost_of(CostSpec(max_context=4096))
    requests = make_requests([10, 50, 100], [400, 900, 1500], arrivals=[0.0, 0.1, 0.3])
    log = simulate(requests, cost, EngineParams(4, 256, 16, 1000, 2000))
    fine = tuple((np.arange(2000) + 0.5) / 2000)
    itl = request_itl(log.timeline, log.gaps, log.replica, log.first_token_s, log.finish_s, log.generated, fine)
    total = itl.mean(axis=1) * (log.generated - 1)
    assert total == pytest.approx(log.finish_s - log.first_token_s, rel=1e-3)


def test_runs_are_spread_over_few_points_without_losing_steps_or_time() -> None:
    cost = cost_of(CostSpec(max_context=4096))
    requests = make_requests([10, 50], [5, 1500])
    timeline = simulate(requests, cost, EngineParams(4, 256, 16, 1000, 2000)).timeline
    values, weights, begin = spread_steps(timeline)
    assert timeline["steps"].max() > 100
    assert np.diff(begin).max() <= MAX_POINTS and begin[-1] == len(values) == len(weights)
    assert np.add.reduceat(weights, begin[:-1]) == pytest.approx(timeline["steps"])
    assert np.add.reduceat(values * weights, begin[:-1]) == pytest.approx(timeline["duration_s"], rel=2e-3)
    rows = np.repeat(np.arange(len(timeline)), np.diff(begin))
    low = np.minimum(timeline["first_step_s"], timeline["last_step_s"])[rows]
    high = np.maximum(timeline["first_step_s"], timeline["last_step_s"])[rows]
    assert (values >= low * (1 - 1e-12)).all() and (values <= high * (1 + 1e-12)).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 4)), min_size=1, max_size=12))
def test_weighted_quantiles_are_those_of_repeated_values(pairs: list[tuple[int, int]]) -> None:
    values, weights = (np.array(part, dtype=float) for part in zip(*pairs, strict=True))
    repeated = np.repeat(values, weights.astype(int))
    assert weighted_quantiles(values, weights, QUANTILES) == lower_quantiles(repeated)


def test_no_values_have_no_quantiles() -> None:
    assert np.isnan(weighted_quantiles(np.empty(0), np.empty(0), (0.5, 1.0))).all()
