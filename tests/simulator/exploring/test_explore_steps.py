"""Steps at one shape against those of a compiled StepCost; elasticities against differences and by hand."""

from __future__ import annotations

import math

import pytest

from simulator.deployment import deploy, single_steps
from simulator.exploring.elastic import RATE_STEP, RATES, SIZES, elasticities, scaled, several
from simulator.exploring.state import Start, resolve
from simulator.exploring.steps import decode_step, prefill_step
from simulator.graphview import step_seconds, step_shape
from simulator.policy import SECONDS_PER_TICK
from simulator.shape import StepShape
from workloads.scenario import load_scenario

BARE = ("profile=ideal", "engine.name=none")
CASES = {
    "fitted": ((), 2e-3),
    "ideal": (BARE, 1e-9),
    "top-k": (("attention={kind: block_top_k, blocks: 64}", "parallelism.tensor=2", "model=qwen3-32b"), 2e-3),
    "drafting": (("speculation={method: ngram, tokens: 3, acceptance: 0.4}",), 2e-3),
    "ranks": (
        ("model=deepseek-r1", "gpu=b200-sxm", "engine=sglang", "parallelism={attention_data: 8, expert: 8}"), 6e-3,
    ),
}  # fmt: skip
"""Assignments, and how far a step may be off: tables go along lines between knots of measured, uneven kernels."""


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_the_engine(name: str) -> None:
    sets, off = CASES[name]
    scenario = load_scenario("aime24-best-of-32", sets)
    deployment = deploy(scenario)
    memory, cost = single_steps(scenario)
    assert memory == deployment.memory
    assert cost.max_seqs == deployment.params.max_num_seqs
    queries, caps = cost.queries, cost.decode_caps
    for batch, context in ((1, 100), (7, 3000), (200, 12_345)):
        rows = batch * queries
        shape = StepShape(rows, rows, batch, tuple(batch * min(context, cap or context) for cap in caps))
        exact = deployment.cost.step_ticks(shape) * SECONDS_PER_TICK
        assert decode_step(cost, batch, context).seconds == pytest.approx(exact, rel=off)
    for query in (30, 2048, 8000):
        exact = step_seconds(deployment.cost, step_shape(deployment.cost, phase="prefill", batch=1, query=query))
        assert float(prefill_step(cost, query).seconds) == pytest.approx(exact, rel=off)


def test_a_compiled_cost_cannot_be_had_without_tables() -> None:
    _, cost = single_steps(load_scenario("aime24-best-of-32"))
    assert not hasattr(cost, "tokens")


FAR = ("model=deepseek-v3.2", "gpu=b200-sxm", "engine=sglang", "parallelism.tensor=8")
"""Its attention has its times from whole blocks, and launches are told apart by moving them."""


@pytest.mark.parametrize("sets", [(), BARE, FAR])
@pytest.mark.parametrize("timed", [lambda cost: decode_step(cost, 64, 8191), lambda cost: prefill_step(cost, 3000)])
def test_rates_together_are_all_that_is_no_latency(sets: tuple[str, ...], timed) -> None:  # type: ignore[no-untyped-def]
    """Twice all rates halve the time but for launches and the host, so the elasticities of the rates add up to that."""
    _, cost = single_steps(load_scenario("aime24-best-of-32", sets))
    many = timed(several(cost))
    assert float(many.first(cost).seconds) == pytest.approx(float(timed(cost).seconds), rel=1e-12)
    faster = float(timed(cost.with_gpu(scaled(cost.gpu, {"memory.bandwidth": 1 + RATE_STEP}))).seconds)
    assert many.seconds[1 + 2 * list(RATES).index("memory.bandwidth")] == pytest.approx(faster, rel=1e-12)
    found = {one.key: one.value for one in elasticities(cost, timed, many, quick=True)}
    assert not set(SIZES) & set(found)
    if sets == FAR:
        assert "launch" not in found
        found = {one.key: one.value for one in elasticities(cost, timed, many)}
    assert sum(found[key] for key in RATES) == pytest.approx(-(1 - found["launch"] - found["host"]), abs=3e-4)
    assert all(found[key] <= 1e-12 for key in RATES)


def test_elasticities_agree_with_moved_scenarios() -> None:
    """A central difference over scenarios that say other figures, 1 % up and down."""
    start = Start("aime24-best-of-32", ("model=qwen3-32b",))
    view = resolve(start, {})
    _, cost = single_steps(view.scenario)

    def seconds(**moves: str) -> float:
        _, other = single_steps(resolve(start, moves).scenario)
        return float(decode_step(other, 128, 4000).seconds)

    listed = elasticities(cost, lambda c: decode_step(c, 128, 4000), decode_step(several(cost), 128, 4000))
    found, rough = {one.key: one.value for one in listed}, {one.key: one.uncertainty for one in listed}
    slope = math.log(seconds(hbm="4.848 TB/s") / seconds(hbm="4.752475247524752 TB/s")) / (2 * math.log(1.01))
    assert found["memory.bandwidth"] == pytest.approx(slope, rel=1e-3)
    # 10 % of 132 SMs up and down are 145 and 120.
    slope = math.log(seconds(sms="145") / seconds(sms="120")) / math.log(145 / 120)
    assert found["sms"] == pytest.approx(slope, rel=1e-9)
    # 5 % are 139 and 126, 20 % are 158 and 110: what they differ by from it is its uncertainty.
    others = [math.log(seconds(sms=a) / seconds(sms=b)) / math.log(int(a) / int(b))
              for a, b in (("139", "126"), ("158", "110"))]  # fmt: skip
    assert rough["sms"] == pytest.approx(max(abs(other - slope) for other in others), rel=1e-9)
    assert rough["memory.bandwidth"] is None
    more = math.log(single_steps_seconds(1.001) / single_steps_seconds(0.999)) / math.log(1.001 / 0.999)
    assert found["host"] == pytest.approx(more, rel=1e-6)


def single_steps_seconds(host: float) -> float:
    """The same decode step with the host's times multiplied."""
    scenario = load_scenario("aime24-best-of-32", ("model=qwen3-32b", f"engine.host_factor={host}"))
    return float(decode_step(single_steps(scenario)[1], 128, 4000).seconds)


def test_by_hand_when_memory_is_all() -> None:
    """Under the ideal profile every operator of this step but those within the L2 waits for HBM: 1 / bandwidth.

    The L2 operators take 1.1e-3 of the step: activations of 64 tokens, 8,192 wide at most, over 16.7 TB/s.
    """
    _, cost = single_steps(load_scenario("aime24-best-of-32", BARE))
    found = {
        one.key: one.value
        for one in elasticities(cost, lambda c: decode_step(c, 64, 8192), decode_step(several(cost), 64, 8192))
    }
    assert found["memory.bandwidth"] == pytest.approx(-1, abs=2e-3)
    assert found["tensor"] == found["link.bandwidth"] == found["launch"] == found["host"] == 0
