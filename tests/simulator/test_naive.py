"""The naive engine against times worked out by hand.

A step costs 10 ticks and one for each of its tokens, so every figure below can be followed with a pencil; `s` turns
ticks into the seconds of the log. Blocks hold four tokens.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from naive import NaiveLog, simulate_naive
from scenarios import ENGINE_KINDS, KINDS, FlatCost, Scenario, make_requests, scenarios

from simulator.policy import SECONDS_PER_TICK, EngineParams, Status
from simulator.shape import PrefillShape, StepShape

FINISHED, ABORTED, REJECTED = int(Status.FINISHED), int(Status.ABORTED), int(Status.REJECTED)


def s(*ticks: int) -> list[float]:
    return [t * SECONDS_PER_TICK for t in ticks]


def params(**changes: object) -> EngineParams:
    base = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "block_size": 4, "kv_blocks": 100, "max_model_len": 64}
    return EngineParams(**{**base, **changes})  # type: ignore[arg-type]


def starts(log: NaiveLog, replica: int = 0) -> list[int]:
    return [step.start for step in log.steps[replica]]


def kv(log: NaiveLog, replica: int = 0) -> list[int]:
    return [step.kv_blocks for step in log.steps[replica]]


def test_one_request():
    # 5 prompt tokens: 15 ticks, then two decode steps of 11.
    log = simulate_naive(make_requests([5], [3], arrivals=s(100)), FlatCost(), params())
    assert log.submitted_s.tolist() == s(100)
    assert log.first_token_s.tolist() == s(115)
    assert log.finish_s.tolist() == s(137)
    assert log.token_ticks == [[115, 126, 137]]
    assert log.generated.tolist() == [3] and log.status.tolist() == [FINISHED] and log.replica.tolist() == [0]
    assert kv(log) == [2, 2, 2]


def test_two_requests_in_chunks():
    # Budget 8. Request 0: 10 tokens = 8 + 2. Request 1: 9 tokens = 6 (beside the 2) + 3 (beside a decode).
    cost = FlatCost(decode_caps=(None, 4), prefill_caps=(None, 4))
    log = simulate_naive(make_requests([10, 9], [2, 2]), cost, params(max_num_batched_tokens=8))
    assert starts(log) == [0, 18, 36, 50]
    assert log.first_token_s.tolist() == s(36, 50)
    assert log.finish_s.tolist() == s(50, 61)
    assert kv(log) == [3, 6, 6, 3]
    assert cost.shapes == [
        # 1 + ... + 8 pairs; with a window of 4: 1 + 2 + 3 + 5 x 4; all 8 keys are read
        StepShape(8, 0, 0, (0, 0), PrefillShape(8, 1, (36, 26), (8, 8))),
        # 9 + 10 and 1 + ... + 6; window: 2 x 4 and 1 + 2 + 3 + 3 x 4; keys 10 and 6, in the window 2 + 3 and 6
        StepShape(8, 1, 0, (0, 0), PrefillShape(8, 2, (40, 26), (16, 11))),
        # decode with 11 keys; 7 + 8 + 9 pairs, 9 keys; window: 4 keys; 3 x 4 pairs, 3 + 3 keys
        StepShape(4, 2, 1, (11, 4), PrefillShape(3, 1, (24, 12), (9, 6))),
        StepShape(1, 1, 1, (10, 4), None),
    ]


def test_preemption_and_recompute():
    # Both fill two blocks at tick 66; the pool of 4 is empty, the last admitted makes room and computes 4 + 5 again.
    requests = make_requests([4, 4], [6, 6])
    log = simulate_naive(requests, FlatCost(), params(kv_blocks=4, prefix_sharing=False))
    assert starts(log) == [0, 18, 30, 42, 54, 66, 77]
    assert kv(log) == [2, 4, 4, 4, 4, 3, 3]
    assert log.finish_s.tolist() == s(77, 96)
    assert log.preemptions.tolist() == [0, 1]
    assert log.prefix_hit_tokens.tolist() == [0, 0]
    assert log.token_ticks[1] == [18, 30, 42, 54, 66, 96]


def test_recompute_finds_its_own_blocks():
    # As before, but the first of the victim's two full blocks survives: its last one was released first, and taken.
    log = simulate_naive(make_requests([4, 4], [6, 6]), FlatCost(), params(kv_blocks=4))
    assert log.finish_s.tolist() == s(77, 92)
    assert log.prefix_hit_tokens.tolist() == [0, 4]


def test_two_samples_share_a_prompt_in_one_scheduling():
    # 10 tokens: two full blocks to share. The second sample computes 2 tokens, holds 1 block of its own.
    requests = make_requests([10, 10], [2, 2], job=[0, 0], chains=[[(7, 10)], [(7, 10)]])
    log = simulate_naive(requests, FlatCost(), params())
    assert log.prefix_hit_tokens.tolist() == [0, 8]
    assert log.first_token_s.tolist() == s(22, 22)
    assert log.finish_s.tolist() == s(34, 34)
    assert kv(log) == [4, 4]


def test_a_whole_prompt_is_never_found():
    # 8 tokens are two full blocks, but one token must be computed: only the first is shared.
    requests = make_requests([8, 8], [1, 1], job=[0, 0], chains=[[(7, 8)], [(7, 8)]])
    log = simulate_naive(requests, FlatCost(), params())
    assert log.prefix_hit_tokens.tolist() == [0, 4]
    assert log.finish_s.tolist() == s(22, 22)


def test_a_unit_seen_differently_is_not_shared():
    # Request 1 sees one block of unit 2 (13 tokens in all), request 2 all two of it (17): they share unit 1 alone.
    chains = [[(1, 8), (2, 5)], [(1, 8), (2, 5)], [(1, 8), (2, 8)]]
    log = simulate_naive(make_requests([13, 13, 17], [1, 1, 1], chains=chains), FlatCost(), params())
    assert log.prefix_hit_tokens.tolist() == [0, 12, 8]
    # unit 1 is found even when it is evicted from behind: 4 blocks of request 0 stay, nobody else needs them
    late = make_requests([13, 13, 17], [1, 1, 1], chains=chains, arrivals=s(0, 50, 100))
    log = simulate_naive(late, FlatCost(), params(kv_blocks=5))
    assert log.prefix_hit_tokens.tolist() == [0, 12, 8]
    assert log.finish_s.tolist() == s(23, 61, 119)


def test_a_unit_after_another_one_is_another_prefix():
    requests = make_requests([9, 9, 9], [1, 1, 1], chains=[[(1, 4), (2, 5)], [(3, 4), (2, 5)], [(1, 4), (2, 5)]])
    log = simulate_naive(requests, FlatCost(), params())
    assert log.prefix_hit_tokens.tolist() == [0, 0, 8]


def test_eviction_is_least_recently_used_and_last_block_first():
    # Pool of 4. Request 0 leaves keys A0 A1 A2 (13 tokens = 4 blocks), freed in the order 3 2 1 0. Request 1 takes two
    # blocks (the nameless 3 and A2). Request 2 then finds A0 A1 and computes 5 of 13 tokens.
    chains = [[(1, 13)], [], [(1, 13)]]
    requests = make_requests([13, 8, 13], [1, 1, 1], chains=chains, arrivals=s(0, 50, 100))
    log = simulate_naive(requests, FlatCost(), params(kv_blocks=4))
    assert log.prefix_hit_tokens.tolist() == [0, 0, 8]
    assert log.finish_s.tolist() == s(23, 68, 115)


def test_early_stop():
    # Sample 0 is accepted at 38: sample 1 (running beside it) leaves then, sample 2 (waiting) is final then.
    requests = make_requests([2, 2, 2], [3, 5, 4], job=[0, 0, 0], accepted=[True, False, False], stop_on_accept=True)
    log = simulate_naive(requests, FlatCost(), params(max_num_seqs=2))
    assert log.finish_s.tolist() == s(38, 38, 38)
    assert log.status.tolist() == [FINISHED, ABORTED, ABORTED]
    assert log.generated.tolist() == [3, 3, 0]
    assert math.isnan(log.first_token_s[2])
    # On two replicas sample 1 is alone on the second: marked at 34 (12 + 11 + 11 ticks there), in the step that has
    # not ended when replica 0, whose step is 2 x 2 tokens, accepts at 38; it leaves at 45 with 4 tokens.
    log = simulate_naive(requests, FlatCost(), params(replicas=2))
    assert log.replica.tolist() == [0, 1, 0]
    assert log.finish_s.tolist() == s(38, 45, 38)
    assert log.generated.tolist() == [3, 4, 3]
    # ... or finishes, if that step makes its last token.
    requests = make_requests([2, 2, 2], [3, 4, 4], job=[0, 0, 0], accepted=[True, False, False], stop_on_accept=True)
    log = simulate_naive(requests, FlatCost(), params(replicas=2))
    assert log.status.tolist() == [FINISHED, FINISHED, ABORTED]


def test_priority_victim():
    # Request 0 came first but matters least: at 65 it needs a block too many and is itself the victim, until 87.
    requests = make_requests([4, 4], [6, 6], arrivals=s(0, 5), priority=[5, 0])
    log = simulate_naive(requests, FlatCost(), params(kv_blocks=4, prefix_sharing=False, scheduling="priority"))
    assert starts(log) == [0, 14, 29, 41, 53, 65, 76, 87]
    assert kv(log) == [1, 3, 4, 4, 4, 2, 3, 3]
    assert log.preemptions.tolist() == [1, 0]
    assert log.finish_s.tolist() == s(106, 87)


def test_priority_decides_who_is_admitted():
    requests = make_requests([2, 2, 2], [1, 1, 1], priority=[2, 1, 1])
    log = simulate_naive(requests, FlatCost(), params(max_num_seqs=1, scheduling="priority"))
    assert log.finish_s.tolist() == s(36, 12, 24)


def test_timeout():
    # One at a time: at 20 the running one is marked and leaves at its step's end, 23; the waiting one goes at once.
    requests = make_requests([2, 2], [10, 10], timeout_s=20 * SECONDS_PER_TICK)
    log = simulate_naive(requests, FlatCost(), params(max_num_seqs=1))
    assert log.status.tolist() == [ABORTED, ABORTED]
    assert log.finish_s.tolist() == s(23, 20)
    assert log.generated.tolist() == [2, 0]
    # A step that ends at the very tick of the timeout comes first: the request is finished (12 + 11 = 23).
    log = simulate_naive(make_requests([2], [2], timeout_s=23 * SECONDS_PER_TICK), FlatCost(), params())
    assert log.status.tolist() == [FINISHED]


def test_watermark_and_empty_replica():
    # 4 blocks, watermark 2: request 0 (3 blocks) may start on the empty replica; request 1 (1 block) waits for its end.
    requests = make_requests([12, 3], [1, 1])
    log = simulate_naive(requests, FlatCost(), params(kv_blocks=4, watermark_blocks=2))
    assert log.finish_s.tolist() == s(22, 35)
    log = simulate_naive(requests, FlatCost(), params(kv_blocks=4, watermark_blocks=0))
    assert log.finish_s.tolist() == s(25, 25)


def test_without_chunks_a_prompt_waits_for_the_budget():
    # 40 + 20 tokens exceed 50: request 1 is computed whole in the next step.
    requests = make_requests([40, 20], [1, 1])
    log = simulate_naive(
        requests, FlatCost(), params(max_num_batched_tokens=50, max_model_len=50, chunked_prefill=False)
    )
    assert log.finish_s.tolist() == s(50, 80)
    log = simulate_naive(requests, FlatCost(), params(max_num_batched_tokens=50, max_model_len=50))
    assert log.finish_s.tolist() == s(60, 80)


def test_closed_loop_with_think_time_and_a_rejected_job():
    # Job 1 is longer than the model allows: final on submission at 0, so that job 2 is due at 0 + 7; job 0 ends at 13.
    requests = make_requests([3, 60, 3, 3], [1, 5, 1, 1], concurrency=2, think_time_s=7 * SECONDS_PER_TICK)
    log = simulate_naive(requests, FlatCost(), params())
    assert log.status.tolist() == [FINISHED, REJECTED, FINISHED, FINISHED]
    assert log.replica.tolist() == [0, -1, 0, 0]
    assert log.submitted_s.tolist() == s(0, 0, 7, 20)
    # 0 ends at 13, 2 runs from 13 to 26, 3 (due at 13 + 7) from 26 to 39
    assert log.finish_s.tolist() == s(13, 0, 26, 39)
    # Without a think time job 2 is submitted when job 1 is rejected, at 0.
    requests = make_requests([3, 60, 3, 3], [1, 5, 1, 1], concurrency=2)
    log = simulate_naive(requests, FlatCost(), params())
    assert log.submitted_s.tolist() == s(0, 0, 0, 16)
    assert log.finish_s.tolist() == s(16, 0, 16, 29)


def test_routers():
    requests = make_requests([2, 2, 2, 2], [9, 1, 1, 1], arrivals=s(0, 0, 20, 20), session=[4, 5, 4, 4])
    for router, replicas in {
        "round_robin": [0, 1, 0, 1],
        "least_loaded": [0, 1, 1, 0],  # at 20 replica 1 is empty, then one each
        "session_affine": [0, 1, 0, 0],
    }.items():
        log = simulate_naive(requests, FlatCost(), params(replicas=2, router=router))
        assert log.replica.tolist() == replicas, router


def test_prefill_first_lets_others_stand_still():
    # Request 1 comes in the decode step from 15 to 26. Its prefill takes 13 ticks, in which request 0 gets nothing.
    requests = make_requests([5, 3], [3, 2], arrivals=s(0, 16))
    log = simulate_naive(requests, FlatCost(), params(prefill="first"))
    assert starts(log) == [0, 15, 26, 39]
    assert log.token_ticks == [[15, 26, 51], [39, 51]]
    # With a budget of 8 (test_two_requests_in_chunks): 8, 2 + 6 and 3 prompt tokens, and then one decode step for both.
    cost = FlatCost()
    log = simulate_naive(make_requests([10, 9], [2, 2]), cost, params(max_num_batched_tokens=8, prefill="first"))
    assert starts(log) == [0, 18, 36, 49]
    assert log.first_token_s.tolist() == s(36, 49) and log.finish_s.tolist() == s(61, 61)
    assert [(shape.tokens, shape.rows, shape.decode_seqs) for shape in cost.shapes] == [
        (8, 0, 0),
        (8, 1, 0),
        (3, 1, 0),
        (2, 2, 2),
    ]


def test_a_reserve_for_outputs():
    # As in test_preemption_and_recompute, each needs 9 tokens = 3 blocks in the end and the pool has 4. Promised that,
    # request 1 starts after request 0 has ended: 14 + 5 x 11 ticks each.
    requests = make_requests([4, 4], [6, 6])
    log = simulate_naive(requests, FlatCost(), params(kv_blocks=4, reserve_output=1.0))
    assert log.finish_s.tolist() == s(69, 138) and log.preemptions.tolist() == [0, 0]
    # Promised 4 + 0.8 x 5 = 8 tokens = 2 blocks they start together, as without a reserve.
    log = simulate_naive(requests, FlatCost(), params(kv_blocks=4, reserve_output=0.8))
    assert log.finish_s.tolist() == s(77, 92) and log.preemptions.tolist() == [0, 1]
    # 6 blocks are enough for both; a block less is not, though both prompts would fit many times.
    for blocks, finish in ((6, s(78, 78)), (5, s(69, 138))):
        log = simulate_naive(requests, FlatCost(), params(kv_blocks=blocks, reserve_output=1.0))
        assert log.finish_s.tolist() == finish
    # What request 0 takes was owed to it: at 47 it holds 2 blocks and is owed 1, which leaves 4 of 7 blocks for request
    # 1, which comes at 40 and needs 5 for 4 + 16 tokens.
    for blocks, first in ((8, 62), (7, 83)):
        log = simulate_naive(
            make_requests([4, 4], [6, 17], arrivals=s(0, 40)), FlatCost(), params(kv_blocks=blocks, reserve_output=1.0)
        )
        assert log.first_token_s.tolist() == s(14, first)


def test_a_batch_waits_for_company():
    # Request 1 comes at 16 and is held back in three steps of 11 ticks from 26 on, beside request 0, which decodes.
    requests = make_requests([5, 3], [9, 1], arrivals=s(0, 16))
    log = simulate_naive(requests, FlatCost(), params(batch_wait_steps=3))
    assert starts(log) == [0, 15, 26, 37, 48, 59, 73, 84, 95]
    assert log.first_token_s.tolist() == s(15, 73) and log.finish_s.tolist() == s(106, 73)
    # With request 2 there are 1 + 3 + 4 tokens for a step at 37, which are enough.
    requests = make_requests([5, 3, 4], [9, 1, 1], arrivals=s(0, 16, 30))
    log = simulate_naive(requests, FlatCost(), params(batch_wait_steps=3, batch_wait_tokens=8))
    assert log.first_token_s.tolist() == s(15, 55, 55)
    log = simulate_naive(requests, FlatCost(), params(batch_wait_steps=3, batch_wait_tokens=9))
    assert log.first_token_s.tolist() == s(15, 77, 77)
    # Nobody waits for company that there is no room for, nor beside nobody.
    log = simulate_naive(requests, FlatCost(), params(batch_wait_steps=3, kv_blocks=4, max_num_seqs=1))
    assert log.first_token_s.tolist() == s(15, 116, 130)


def test_a_request_on_its_way():
    # It takes 7 ticks and 2 for each of 5 tokens until the request is in the queue.
    requests = make_requests([5], [3], arrivals=s(100))
    log = simulate_naive(requests, FlatCost(), params(request_ticks=7, request_token_ticks=2))
    assert log.submitted_s.tolist() == s(100) and log.token_ticks == [[132, 143, 154]]
    # A request that is given up on its way never takes part.
    log = simulate_naive(make_requests([5], [3], timeout_s=6 * SECONDS_PER_TICK), FlatCost(), params(request_ticks=7))
    assert log.status.tolist() == [ABORTED] and log.finish_s.tolist() == s(6) and not log.steps[0]
    # Routers count it.
    requests = make_requests([2, 2, 2], [1, 1, 1], arrivals=s(0, 1, 2))
    log = simulate_naive(requests, FlatCost(), params(request_ticks=7, replicas=3, router="least_loaded"))
    assert log.replica.tolist() == [0, 1, 2]
    assert log.finish_s.tolist() == s(19, 20, 21)


def test_a_step_is_settled_ahead():
    # Request 0 is prefilled from 0 to 15 and decodes in steps of 11. What comes up to 15 misses the step from 15 to 26,
    # what comes later, up to 26, also the one from 26 to 37.
    for arrival, first in ((14, 40), (15, 40), (16, 51), (26, 51), (27, 62)):
        requests = make_requests([5, 3], [6, 1], arrivals=s(0, arrival))
        log = simulate_naive(requests, FlatCost(), params(ahead=True))
        assert log.first_token_s.tolist() == s(15, first)
    # One that replaces request 0, which ends at 32, joins request 1 at 43; had both ended, it would start at once.
    for output, first in ((4, 59), (2, 47)):
        requests = make_requests([5, 5, 5], [2, output, 1], concurrency=2)
        log = simulate_naive(requests, FlatCost(), params(ahead=True))
        assert log.submitted_s.tolist() == s(0, 0, 32) and log.first_token_s.tolist() == s(20, 20, first)
    # Given up in the inbox it is gone at once.
    requests = make_requests([5, 3], [6, 1], arrivals=s(0, 1), timeout_s=8 * SECONDS_PER_TICK)
    log = simulate_naive(requests, FlatCost(), params(ahead=True))
    assert log.finish_s.tolist() == s(15, 9) and log.generated.tolist() == [1, 0]


def test_requests_are_looked_for_every_third_step():
    # Request 0 decodes in steps of 11 ticks from 15 on. The third ends at 48: those who were there as it began, at 37,
    # are prefilled from 48 to 62 beside it. Who comes later waits for its end at 70, where nothing runs any more.
    for arrival, first in ((14, 62), (26, 62), (37, 62), (38, 83), (60, 83)):
        requests = make_requests([5, 3], [6, 1], arrivals=s(0, arrival))
        log = simulate_naive(requests, FlatCost(), params(ahead=True, receive_steps=3))
        assert log.first_token_s.tolist() == s(15, first)
    # A step with prefill, here that from 48 to 62, is always followed by a look.
    requests = make_requests([5, 3, 3], [8, 1, 1], arrivals=s(0, 14, 45))
    log = simulate_naive(requests, FlatCost(), params(ahead=True, receive_steps=3))
    assert log.first_token_s.tolist() == s(15, 62, 76)


def test_arrival_at_a_step_boundary_joins_the_next_step():
    log = simulate_naive(make_requests([5, 3], [3, 1], arrivals=s(0, 15)), FlatCost(), params())
    assert starts(log) == [0, 15, 29] and log.finish_s.tolist() == s(40, 29)
    log = simulate_naive(make_requests([5, 3], [3, 1], arrivals=s(0, 16)), FlatCost(), params())
    assert starts(log) == [0, 15, 26] and log.finish_s.tolist() == s(40, 40)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(scenarios((*KINDS, *ENGINE_KINDS), tick_scale=2.0**-56))
def test_conservation(scenario: Scenario):
    """The engine asserts its own laws at every step; here what a reader of the log may rely on."""
    scenario = scenario.settle(FlatCost())
    cost = FlatCost()
    requests = scenario.requests
    log = simulate_naive(requests, cost, scenario.params)
    finished = log.status == FINISHED
    assert np.array_equal(log.generated[finished], np.asarray(requests.output_tokens)[finished])
    assert [len(ticks) for ticks in log.token_ticks] == log.generated.tolist()
    rows, tokens = sum(shape.rows for shape in cost.shapes), log.generated.sum()
    assert rows >= tokens if scenario.params.speculation.drafted else rows == tokens  # drafts may be refused
    assert np.array_equal(np.isnan(log.first_token_s), log.generated == 0)
    assert np.all(log.finish_s >= log.submitted_s)
    for steps in log.steps:
        assert all(a.start + a.ticks <= b.start for a, b in pairwise(steps))
        assert all(0 < step.kv_blocks <= scenario.params.kv_blocks for step in steps)
    if scenario.requests.timeout_s is None and not scenario.requests.stop_on_accept:
        assert not np.any(log.status == ABORTED)
