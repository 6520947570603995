"""The fast engine with two pools of workers against the naive one, on random scenarios: equal to the last bit.

docs/disaggregation.md is the contract. As in `test_exactness`, what a family is for is asserted to happen in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from naive import NaiveLog
from naivepools import NaivePassages, simulate_naive_pools
from scenarios import CostSpec, Scenario, cost_of, one_in, scenarios
from test_exactness import compare

from simulator.disaggregated import simulate_pools
from simulator.engine import RunLog
from simulator.handover import Handover, Pool
from simulator.policy import ONE_TOKEN, EngineParams, Status, to_ticks
from workloads.routers import ROUTERS

PASSAGES = ("worker", "prefilled_s", "reserved_s", "sent_s", "arrived_s", "joined_s")
STEP_S = 2.0**-12
"""About the time of a step."""


@dataclass(frozen=True)
class Pools:
    """A scenario on two pools."""

    scenario: Scenario
    prefill: EngineParams
    decode: EngineParams
    handover: Handover

    def run(self) -> tuple[RunLog, NaiveLog, NaivePassages]:
        cost = cost_of(self.scenario.cost)
        pools = Pool(cost, self.prefill), Pool(cost, self.decode)
        naive, passages = simulate_naive_pools(self.scenario.requests, *pools, self.handover, check_every=20)
        return simulate_pools(self.scenario.requests, *pools, self.handover), naive, passages


@st.composite
def pools(draw: st.DrawFn, kinds: Sequence[str], *, slow: bool, tight: bool) -> Pools:
    """One of the scenarios of a single pool on two: `slow` links, `tight` pools of KV blocks."""
    cost = CostSpec()
    scenario = draw(scenarios(kinds=kinds))
    scenario = replace(scenario, on_boundary=(), timeout_on_boundary=None, request_on_boundary=None)
    scenario = replace(scenario, cost=replace(scenario.cost, gpu=cost.gpu))
    requests, base = scenario.requests, replace(scenario.params, batch_wait_steps=0)
    prompts = requests.prompt_tokens[requests.prompt_tokens + requests.output_tokens <= base.max_model_len]
    size = base.block_size
    largest = max((-(-int(tokens) // size) for tokens in prompts), default=1)
    blocks = largest + draw(st.integers(0, largest + 2)) if tight else base.kv_blocks
    routers = st.sampled_from(sorted(ROUTERS))
    prefill = replace(
        base,
        reserve_output=0.0,
        speculation=ONE_TOKEN,
        replicas=draw(st.integers(1, 3)),
        kv_blocks=max(blocks, largest),
        router=draw(routers),
        router_seed=draw(st.integers(0, 3)),
        watermark_blocks=min(base.watermark_blocks, 1),
    )
    if one_in(draw, 3):
        prefill = replace(prefill, max_num_seqs=draw(st.integers(1, 4)), ahead=not base.ahead)
    decode = replace(
        base,
        replicas=draw(st.integers(1, 3)),
        router=draw(routers.filter(lambda name: name != "prefix_aware")),
        router_seed=draw(st.integers(0, 3)),
        prefill=draw(st.sampled_from(["mixed", "first"])),
    )
    order = draw(st.sampled_from(["prefill_first", "decode_first"]))
    ticks = 0
    if not one_in(draw, 4):
        longest = 8.0 if slow else 0.5
        ticks = to_ticks(STEP_S * draw(st.floats(0.001, longest)) / max(1, int(np.median(requests.prompt_tokens))))
    handover = Handover(
        order=order,
        first_token=draw(st.sampled_from(["prefill", "transfer", "decode"])),
        token_ticks=ticks,
        request_ticks=draw(st.sampled_from([0, 1, to_ticks(STEP_S / 3)])),
        latency_ticks=draw(st.sampled_from([0, 0, 1, to_ticks(STEP_S / 2), to_ticks(STEP_S * 4)])),
        prefill_lanes=draw(st.integers(1, 3)),
        decode_lanes=draw(st.integers(1, 3)),
        overlap=draw(st.sampled_from(["none", "chunk", "layer"])) if order == "decode_first" else "none",
        layers=draw(st.sampled_from([1, 2, 28])),
    )
    return Pools(scenario, prefill, decode, handover)


def compare_pools(fast: RunLog, naive: NaiveLog, passages: NaivePassages) -> None:
    """Assert that both engines did the same, bit by bit."""
    compare(fast, naive)
    assert fast.passages is not None
    for name in PASSAGES:
        a, b = getattr(fast.passages, name), getattr(passages, name)
        assert np.array_equal(a, b, equal_nan=True), f"{name}: {a}, naive {b}"


def seen_in(case: Pools, naive: NaiveLog, passages: NaivePassages) -> set[str]:
    waited = passages.reserved_s > passages.prefilled_s
    seen = {
        "preemption": bool(np.any(naive.preemptions)),
        "prefix hit": bool(np.any(naive.prefix_hit_tokens)),
        "abort": bool(np.any(naive.status == Status.ABORTED)),
        "waited for a place": bool(np.any(waited)),
        "transfer": bool(np.any(passages.arrived_s > passages.prefilled_s)),
        "several workers": len(np.unique(passages.worker[passages.worker >= 0])) > 1,
        "hidden": case.handover.overlap != "none",
    }
    return {name for name, happened in (seen | naive.counts).items() if happened}


FAMILIES: dict[str, tuple[int, tuple[str, ...], bool, bool, dict[str, float]]] = {
    # Scenarios, kinds of them, slow links, tight pools; what must be seen in at least that fraction.
    "plain": (100, ("plain", "groups", "replicas"), False, False, {"transfer": 0.3, "several workers": 0.2}),
    "starved": (200, ("starved", "priorities"), False, True, {"waited for a place": 0.1, "preemption": 0.05}),
    "slow links": (150, ("starved", "closed", "any"), True, True, {"waited for a lane": 0.1, "hidden": 0.1}),
    "traces": (120, ("traces", "groups"), False, True, {"prefix hit": 0.1}),
    "aborts": (250, ("aborts", "stops"), True, True, {"abort": 0.2, "aborted in its transfer": 0.02}),
    "symmetric": (150, ("symmetric",), False, False, {"several workers": 0.2}),
    "engines": (250, ("engines", "underway", "ahead"), True, True, {"landed and missed a step": 0.03, "abort": 0.05}),
    "windows": (60, ("windows",), False, False, {"transfer": 0.3}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_fast_engine_is_exact(family: str) -> None:
    examples, kinds, slow, tight, expected = FAMILIES[family]
    seen: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(pools(kinds=kinds, slow=slow, tight=tight))
    def agree(case: Pools) -> None:
        fast, naive, passages = case.run()
        compare_pools(fast, naive, passages)
        seen.update(["scenario", *seen_in(case, naive, passages)])

    agree()
    for what, fraction in expected.items():
        assert seen[what] >= fraction * seen["scenario"], f"{what} in {seen[what]} of {seen['scenario']} scenarios"
