"""The fast engine against the naive one, on random scenarios: equal to the last bit.

docs/engine.md is the contract. Each family of scenarios stresses one part of it; that its scenarios do so (that starved
ones are preempted, that traces hit the prefix cache) is asserted too, so that a family cannot silently become empty.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from naive import NaiveLog, Step, simulate_naive
from scenarios import CostSpec, Scenario, cost_of, make_requests, scenarios

from simulator.engine import RunLog, simulate
from simulator.policy import SECONDS_PER_TICK, EngineParams, Status
from simulator.shape import PrefillShape, StepShape
from simulator.timeline import Timeline
from workloads.requests import Requests

TIMES = ("submitted_s", "first_token_s", "finish_s")
COUNTS = ("status", "replica", "generated", "preemptions", "prefix_hit_tokens")

# Family: how many scenarios, and what must be seen in at least that fraction of them.
FAMILIES: dict[str, tuple[int, dict[str, float]]] = {
    "plain": (100, {"long run": 0.2}),
    "starved": (150, {"preemption": 0.15, "long run": 0.2}),
    "groups": (120, {"prefix hit": 0.2, "abort": 0.1, "preemption": 0.05}),
    "traces": (150, {"prefix hit": 0.15, "preemption": 0.05}),
    "replicas": (100, {"many replicas": 0.5}),
    "windows": (120, {"long run": 0.2}),
    "priorities": (120, {"preemption": 0.1}),
    "closed": (100, {"late submission": 0.3}),
    "aborts": (300, {"abort": 0.3, "preemption": 0.02}),
    "stops": (150, {"abort": 0.2, "preemption": 0.05, "prefix hit": 0.1}),
    "symmetric": (120, {"tie": 0.3, "abort": 0.05, "late submission": 0.2}),
    "any": (200, {"preemption": 0.05, "prefix hit": 0.05, "abort": 0.05, "rejection": 0.05}),
    "reserve": (200, {"refused for the reserve": 0.02, "preemption": 0.02, "prefix hit": 0.05, "abort": 0.03}),
    "first": (200, {"decode stands still": 0.15, "preemption": 0.02, "prefix hit": 0.05, "abort": 0.05}),
    "waits": (200, {"held back": 0.1, "preemption": 0.03, "prefix hit": 0.05, "abort": 0.05}),
    "underway": (200, {"aborted on the way": 0.02, "preemption": 0.05, "prefix hit": 0.05, "abort": 0.05}),
    "ahead": (200, {"missed a step": 0.3, "preemption": 0.03, "prefix hit": 0.05, "abort": 0.05}),
    "drafts": (300, {"tokens granted together": 0.2, "preemption": 0.02, "prefix hit": 0.05, "abort": 0.05}),
    "engines": (300, {"held back": 0.05, "refused for the reserve": 0.02, "decode stands still": 0.05, "abort": 0.05}),
}


def compare(fast: RunLog, naive: NaiveLog) -> None:
    """Assert that both engines did the same, bit by bit."""
    for name in (*COUNTS, *TIMES):
        a, b = np.asarray(getattr(fast, name)), getattr(naive, name)
        assert a.shape == b.shape, f"{name}: shape {a.shape}, naive {b.shape}"
        equal = (a == b) | (np.isnan(a) & np.isnan(b)) if name in TIMES else a == b
        if not np.all(equal):
            first = np.nonzero(~equal)[0][:5]
            rows = [f"request {i}: {a[i]!r}, naive {b[i]!r}" for i in first]
            if name in TIMES:
                close = np.allclose(a, b, rtol=1e-9, atol=0.0, equal_nan=True)
                rows.append("within 1e-9 relative" if close else "not even within 1e-9 relative")
            pytest.fail(f"{name} of {np.sum(~equal)} requests differs: " + "; ".join(rows))
    found = sorted(map(tuple, np.asarray(fast.gaps, dtype=float).reshape(-1, 3).tolist()))
    assert np.array_equal(found, sorted(naive.gaps), equal_nan=True), f"gaps: {found}, naive {sorted(naive.gaps)}"
    compare_timelines(fast, naive)


def compare_timelines(fast: RunLog, naive: NaiveLog) -> None:
    """Each row of the fast engine's timeline must be a run of the naive engine's steps, and all of them be covered."""
    line = fast.timeline
    replicas = np.asarray(line.replica)
    assert set(replicas.tolist()) <= set(range(len(naive.steps)))
    for replica, steps in enumerate(naive.steps):
        at = 0
        for row in np.nonzero(replicas == replica)[0]:
            where = f"replica {replica}, timeline row {row}, naive step {at} of {len(steps)}"
            count = int(line.steps[row])
            assert 1 <= count <= len(steps) - at, f"{where}: a run of {count} steps"
            run = steps[at : at + count]
            found = (float(line.start_s[row]), int(line.decode_seqs[row]), int(line.prefill_tokens[row]))
            assert found == (run[0].start * SECONDS_PER_TICK, run[0].decode_seqs, run[0].prefill_tokens), where
            assert int(line.kv_blocks[row]) == run[0].kv_blocks, f"{where}: KV blocks in use"
            assert {(s.decode_seqs, s.prefill_tokens) for s in run} == {found[1:]}, f"{where}: the batch changes within"
            assert all(a.start + a.ticks == b.start for a, b in pairwise(run)), f"{where}: a pause within"
            compare_shapes(line, row, run, where)
            duration = sum(step.ticks for step in run) * SECONDS_PER_TICK
            assert float(line.duration_s[row]) == duration, f"{where}: duration"
            at += count
        peak = max((step.kv_blocks for step in steps), default=0)
        assert int(fast.peak_blocks[replica]) == peak, f"replica {replica}: peak of KV blocks"
        assert at == len(steps), f"replica {replica}: the timeline covers {at} of {len(steps)} steps"


def compare_shapes(line: Timeline, row: int, run: list[Step], where: str) -> None:
    """What a row says about the shapes of its steps, of which only the decode KV may change within the run."""
    first, last = run[0].shape, run[-1].shape
    prefill = first.prefill
    expected = {
        "tokens": first.tokens,
        "rows": first.rows,
        "prefill_seqs": prefill.seqs if prefill else 0,
        "waiting": run[0].waiting,
        "first_step_s": run[0].ticks * SECONDS_PER_TICK,
        "last_step_s": run[-1].ticks * SECONDS_PER_TICK,
    }
    for extent, (begin, end) in enumerate(zip(first.decode_kv, last.decode_kv, strict=True)):
        expected |= {f"decode_kv_first.{extent}": float(begin), f"decode_kv_last.{extent}": float(end)}
        middle = [begin + (end - begin) * Fraction(k, max(len(run) - 1, 1)) for k in range(len(run))]
        assert [step.shape.decode_kv[extent] for step in run] == middle, f"{where}: decode KV bends within"
    if prefill:
        for extent, (pairs, kv) in enumerate(zip(prefill.pairs, prefill.kv, strict=True)):
            expected |= {f"prefill_pairs.{extent}": pairs, f"prefill_kv.{extent}": kv}
    assert {name: float(line[name][row]) for name in expected} == expected, where


def both(requests: Requests, params: EngineParams, spec: CostSpec) -> tuple[RunLog, NaiveLog]:
    cost = cost_of(spec)
    return simulate(requests, cost, params), simulate_naive(requests, cost, params, check_every=50)


def seen_in(scenario: Scenario, fast: RunLog, naive: NaiveLog) -> set[str]:
    ends = [{step.start + step.ticks for step in steps} for steps in naive.steps]
    seen = {
        "tie": any(a & b for a, b in combinations(ends, 2)),
        "preemption": bool(np.any(naive.preemptions)),
        "prefix hit": bool(np.any(naive.prefix_hit_tokens)),
        "abort": bool(np.any(naive.status == Status.ABORTED)),
        "rejection": bool(np.any(naive.status == Status.REJECTED)),
        "late submission": bool(np.any(naive.submitted_s > 0)),
        "many replicas": len(np.unique(naive.replica[naive.replica >= 0])) > 1,
        "long run": bool(np.any(np.asarray(fast.timeline.steps) >= 5)),
        "tokens granted together": any(len(set(ticks)) < len(ticks) for ticks in naive.token_ticks),
    }
    return {name for name, happened in (seen | naive.counts).items() if happened}


@pytest.mark.parametrize("family", FAMILIES)
def test_fast_engine_is_exact(family: str) -> None:
    examples, expected = FAMILIES[family]
    seen: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(scenarios(kinds=(family,)))
    def agree(scenario: Scenario) -> None:
        scenario = scenario.settle(cost_of(scenario.cost))
        fast, naive = both(scenario.requests, scenario.params, scenario.cost)
        compare(fast, naive)
        seen.update(["scenario", *seen_in(scenario, fast, naive)])

    agree()
    assert seen["scenario"] >= examples
    for what, fraction in expected.items():
        assert seen[what] >= fraction * seen["scenario"], f"{what} in {seen[what]} of {seen['scenario']} scenarios"


def test_there_are_enough_scenarios() -> None:
    assert sum(examples for examples, _ in FAMILIES.values()) >= 500


@pytest.mark.parametrize("attention", ["dense", "sliding_window", "top_k", "block_top_k"])
def test_long_outputs_cross_many_knots(attention: str) -> None:
    """Few requests, thousands of steps: knots of the cost, windows and budgets are crossed within one run."""
    requests = make_requests([1, 7, 30], [1500, 900, 1200], arrivals=[0.0, 0.0, 0.01])
    params = EngineParams(max_num_seqs=3, max_num_batched_tokens=64, block_size=16, kv_blocks=300, max_model_len=2000)
    for profile in ("ideal", "rule-of-thumb"):
        compare(*both(requests, params, CostSpec(profile=profile, attention=attention, budget=64)))


@pytest.mark.parametrize("attention", ["dense", "block_top_k"])
def test_arrivals_exactly_on_boundaries_deep_in_a_run(attention: str) -> None:
    """A run of 1,000 steps is cut exactly at, just before and just after its boundaries, on both sides of bends."""
    spec = CostSpec(gpu="quick", attention=attention, budget=64, max_context=2048)
    params = EngineParams(max_num_seqs=3, max_num_batched_tokens=64, block_size=16, kv_blocks=300, max_model_len=2000)
    alone = simulate_naive(make_requests([3, 30], [1000, 700]), cost_of(spec), params, check_every=1000)
    ends = [step.start + step.ticks for step in alone.steps[0]]
    assert ends[-1] < 2**53, "the boundaries are not exact in float64"
    for k in (0, 1, 2, 5, 17, 63, 64, 65, 128, 400, 699, 700, 900, 998):
        for shift in (-1, 0, 1):
            arrival = (ends[k] + shift) * SECONDS_PER_TICK
            requests = make_requests([3, 30, 5], [1000, 700, 4], job=[0, 0, 1], arrivals=[0.0, arrival])
            fast, naive = both(requests, params, spec)
            compare(fast, naive)
            started = [step.start for step in naive.steps[0] if step.prefill_tokens]
            assert started[-1] == ends[k + (shift > 0)]


def test_what_happens_on_several_replicas_at_one_tick() -> None:
    """Replicas with the same work have the same step boundaries: what one does at its step end can touch another."""
    base = EngineParams(
        max_num_seqs=8, max_num_batched_tokens=64, block_size=16, kv_blocks=300, max_model_len=200, replicas=2
    )
    spec = CostSpec()

    def run(requests: Requests, params: EngineParams) -> tuple[RunLog, list[set[float]]]:
        fast, naive = both(requests, params, spec)
        compare(fast, naive)
        return fast, [{step.start * SECONDS_PER_TICK for step in steps} for steps in naive.steps]

    # Replica 1 is done after 5 tokens and submits the next job to replica 0, which is past that boundary already.
    log, starts = run(make_requests([4] * 3, [10, 5, 3], concurrency=2), base)
    assert log.replica.tolist() == [0, 1, 0] and log.submitted_s[2] in starts[0]
    assert log.first_token_s[2] > min(t for t in starts[0] if t > log.submitted_s[2])
    # The other way round the boundary of replica 1 is still to come: the request joins there.
    affine = replace(base, router="session_affine")
    log, starts = run(make_requests([4] * 3, [5, 10, 3], concurrency=2, session=[0, 1, 1]), affine)
    assert log.replica.tolist() == [0, 1, 1] and log.submitted_s[2] in starts[1]
    assert log.first_token_s[2] == min(t for t in starts[1] if t > log.submitted_s[2])
    # An accepted sample stops the other at that boundary, or one step later.
    for winner, generated in ((0, [5, 5]), (1, [6, 5])):
        outputs = [5, 10] if winner == 0 else [10, 5]
        accepted = [winner == 0, winner == 1]
        requests = make_requests([4, 4], outputs, job=[0, 0], accepted=accepted, stop_on_accept=True)
        log, _ = run(requests, base)
        assert log.generated.tolist() == generated
    # Replica 0 is idle and is sent work by the step ends of 1 and 2: it wakes up after both and starts on all of it.
    requests = make_requests([4] * 7, [1, 5, 5, 3, 3, 3, 3], job=[0, 0, 1, 2, 3, 3, 3], concurrency=2)
    log, _ = run(requests, replace(base, replicas=3, router="least_loaded"))
    assert log.replica.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert log.first_token_s[3] == log.first_token_s[6]


def test_aborted_sequences_release_their_blocks_in_order_of_running() -> None:
    """Two sequences time out in one step: the blocks of the first come first in the free queue and go first."""
    cost = cost_of(CostSpec())
    step = cost.step_ticks(StepShape(13, 1, 0, (0,), PrefillShape(13, 1, (91,), (13,)))) * SECONDS_PER_TICK
    params = EngineParams(max_num_seqs=4, max_num_batched_tokens=64, block_size=4, kv_blocks=8, max_model_len=64)
    requests = make_requests(
        [13, 13, 16, 13, 13],
        [9, 9, 1, 1, 1],  # the first two never get that far
        arrivals=[0.0, 0.0, 10 * step, 20 * step, 20 * step],
        chains=[[(1, 12)], [(2, 12)], [], [(2, 12)], [(1, 12)]],
        timeout_s=2.5 * step,
    )
    fast, naive = both(requests, params, CostSpec())
    compare(fast, naive)
    assert fast.status.tolist() == [Status.ABORTED] * 2 + [Status.FINISHED] * 3
    assert fast.prefix_hit_tokens.tolist() == [0, 0, 0, 12, 0]
