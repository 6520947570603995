"""Time, work and energy per operator against sums over every single step of the naive engine."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from naive import simulate_naive
from scenarios import CostSpec, cost_of, make_requests

from simulator.accounting import OperatorTotals, operator_totals
from simulator.cost import BOUNDS
from simulator.engine import RunLog, simulate
from simulator.operators import Work
from simulator.policy import EngineParams
from simulator.power import joules
from simulator.shape import StepShape
from simulator.stepcost import StepCost
from workloads.requests import Requests


class Watched:
    """A StepCost that keeps the shapes it was asked for."""

    def __init__(self, cost: StepCost) -> None:
        self.cost, self.shapes = cost, []
        self.decode_caps, self.prefill_caps = cost.decode_caps, cost.prefill_caps

    def step_ticks(self, shape: StepShape) -> int:
        self.shapes.append(shape)
        return self.cost.step_ticks(shape)


CASES = {
    "dense": CostSpec(),
    "rule of thumb": CostSpec(profile="rule-of-thumb"),
    "window": CostSpec(profile="rule-of-thumb", attention="sliding_window", budget=24),
    "top_k": CostSpec(attention="top_k", budget=32),
    "block_top_k": CostSpec(profile="rule-of-thumb", attention="block_top_k", budget=32),
    "windows of the model": CostSpec(profile="rule-of-thumb", layers_alternate=True),
}


def workload() -> tuple[Requests, EngineParams]:
    """Late arrivals, mixed steps, preemptions and long runs."""
    rng = np.random.default_rng(5)
    prompt, output = rng.integers(1, 90, 12), rng.integers(1, 160, 12)
    arrivals = np.sort(rng.uniform(0, 0.05, 12))
    requests = make_requests(prompt.tolist(), output.tolist(), arrivals=arrivals.tolist())
    return requests, EngineParams(6, 64, 4, 100, 300)


@cache
def run(case: str) -> tuple[StepCost, RunLog, list[OperatorTotals], list[StepShape]]:
    cost = cost_of(CASES[case])
    requests, params = workload()
    log = simulate(requests, cost, params)
    watched = Watched(cost)
    simulate_naive(requests, watched, params, check_every=1000)
    return cost, log, operator_totals(cost, log.timeline), watched.shapes


def test_the_workload_is_worth_it() -> None:
    _, log, _, shapes = run("dense")
    assert log.preemptions.sum() > 0
    assert any(s.prefill is not None and s.decode_seqs for s in shapes)
    assert log.timeline["steps"].max() > 20 and log.timeline["steps"].sum() == len(shapes)


@pytest.mark.parametrize("case", CASES)
def test_seconds_of_operators_fill_the_busy_time(case: str) -> None:
    _, log, totals, _ = run(case)
    assert sum(op.seconds for op in totals) == pytest.approx(log.timeline["duration_s"].sum(), rel=1e-9)
    for op in totals:
        assert set(op.by_bound) <= set(BOUNDS)
        assert sum(op.by_bound.values()) == pytest.approx(op.seconds, rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_work_is_the_sum_over_single_steps(case: str) -> None:
    cost, _, totals, shapes = run(case)
    assert [op.name for op in totals] == [op.name for op in cost.operators]
    for op, total in zip(cost.operators, totals, strict=True):
        brute = Work()
        seconds = 0.0
        for shape in shapes:
            brute += op.total(shape)
            seconds += cost.operator_seconds(op, shape)
        found = (total.flops, total.weight_bytes, total.kv_bytes, total.act_bytes, total.comm_bytes)
        assert found == pytest.approx(tuple(brute), rel=1e-9), op.name
        assert total.seconds == pytest.approx(seconds, rel=1e-9), op.name
        spilled = sum(op.count * max(op.work(s).act_bytes - cost.gpu.l2.size, 0) for s in shapes)
        assert total.hbm_bytes == pytest.approx(brute.weight_bytes + brute.kv_bytes + spilled, rel=1e-9), op.name
        peak = brute.flops / cost.gpu.peak[op.dtype] if op.dtype else 0
        assert total.peak_seconds == pytest.approx(peak, rel=1e-9), op.name


@pytest.mark.parametrize("case", CASES)
def test_energy_lies_between_awake_and_the_limit(case: str) -> None:
    cost, _, totals, _ = run(case)
    power = joules(cost.gpu)
    for op in totals:
        assert 0 < op.energy <= (power.limit - power.awake) * op.seconds * (1 + 1e-12), op.name


def test_nothing_run_costs_nothing() -> None:
    cost, log, _, _ = run("block_top_k")
    for op in operator_totals(cost, log.timeline.select(slice(0, 0))):
        assert (op.seconds, op.flops, op.hbm_bytes, op.energy, op.by_bound) == (0, 0, 0, 0, {})
