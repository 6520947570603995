"""Prefill and decode workers by hand, and what must hold of them in any run (docs/disaggregation.md)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naivepools import simulate_naive_pools
from scenarios import CostSpec, FlatCost, cost_of, make_requests
from test_pools import pools

from simulator.disaggregated import simulate_pools
from simulator.engine import simulate
from simulator.fleet import deploy_pools
from simulator.handover import Handover, Pool
from simulator.policy import SECONDS_PER_TICK, EngineParams, Status, to_ticks
from simulator.running import run_scenario
from simulator.store import load_result, save_result
from workloads.requests import Requests
from workloads.scenario import load_scenario

WORKER = EngineParams(max_num_seqs=8, max_num_batched_tokens=64, block_size=1, kv_blocks=1000, max_model_len=500)


def ticks(requests: Requests, prefill: EngineParams, decode: EngineParams, handover: Handover) -> dict[str, list[int]]:
    """When what happened, with steps of 10 ticks and one for each token."""
    log, passages = simulate_naive_pools(requests, Pool(FlatCost(), prefill), Pool(FlatCost(), decode), handover)  # type: ignore[arg-type]
    times = {
        "prefilled": passages.prefilled_s,
        "reserved": passages.reserved_s,
        "sent": passages.sent_s,
        "arrived": passages.arrived_s,
        "joined": passages.joined_s,
        "first": log.first_token_s,
        "finish": log.finish_s,
    }
    return {name: [round(value / SECONDS_PER_TICK) for value in values] for name, values in times.items()}


TWO = make_requests([20, 30], [3, 2])
SLOW = Handover(token_ticks=2, latency_ticks=5)


def test_two_prompts_one_after_the_other_on_a_lane() -> None:
    """Both are computed in one step of 10 + 50 ticks. The link takes 2 x 20 ticks for one, then 2 x 30 for the other,
    and 5 more until each is there. One decodes alone, in steps of 11, then the other.
    """
    assert ticks(TWO, WORKER, WORKER, SLOW) == {
        "prefilled": [60, 60],
        "reserved": [60, 60],
        "sent": [60, 100],
        "arrived": [105, 165],
        "joined": [105, 165],
        "first": [105, 165],
        "finish": [127, 176],
    }


def test_several_lanes_send_at_once() -> None:
    """The second arrives at 60 + 60 + 5, while the first (since 105) decodes its third token: 105 + 11 = 116, 127."""
    found = ticks(TWO, WORKER, WORKER, replace(SLOW, prefill_lanes=2, decode_lanes=2))
    assert found["sent"] == [60, 60] and found["arrived"] == [105, 125]
    assert found["joined"] == [105, 127] and found["finish"] == [127, 138]


@pytest.mark.parametrize(
    ("first_token", "first", "finish"),
    [
        ("prefill", [60, 60], [127, 176]),  # seen at once, all else as with transfer
        ("transfer", [105, 165], [127, 176]),
        ("decode", [116, 176], [138, 187]),  # a step more each
    ],
)
def test_when_the_first_token_is_seen(first_token: str, first: list[int], finish: list[int]) -> None:
    found = ticks(TWO, WORKER, WORKER, replace(SLOW, first_token=first_token))
    assert (found["first"], found["finish"]) == (first, finish)


def test_a_full_decode_worker_holds_up_the_prefill_worker() -> None:
    """Places: 39 tokens on the decode worker, so one prompt at a time; 50 on the prefill worker, so the third waits.

    The first is sent from 60 to 100, there at 105, done at 127. The second has had to wait for that: it is sent from
    127 to 187, there at 192. What both hold on the prefill worker is free at 105 and at 192: the first's 20 tokens are
    too few for the third's 30, which is computed from 192 to 192 + 40.
    """
    requests = make_requests([20, 30, 30], [3, 2, 2])
    found = ticks(requests, replace(WORKER, kv_blocks=50), replace(WORKER, kv_blocks=39), SLOW)
    assert found["reserved"][:2] == [60, 127] and found["arrived"][:2] == [105, 192]
    assert found["prefilled"] == [60, 60, 232]


def test_a_place_before_the_prompt() -> None:
    """With decode_first the second prompt is not begun before the decode worker has room for it, at 127 - 30.

    The first takes 10 + 20 ticks, is sent from 30 to 70, there at 75, and done at 97.
    """
    found = ticks(TWO, WORKER, replace(WORKER, kv_blocks=39), replace(SLOW, order="decode_first"))
    assert found["reserved"] == [0, 97] and found["prefilled"] == [30, 97 + 40]
    assert found["arrived"] == [75, 137 + 60 + 5] and found["finish"] == [97, 202 + 11]


def test_a_slot_of_the_prefill_worker_is_kept_until_the_prompt_is_sent() -> None:
    """With decode_first; the other order frees it when the prompt is computed, at 30."""
    one = replace(WORKER, max_num_seqs=1)
    assert ticks(TWO, one, WORKER, replace(SLOW, order="decode_first"))["prefilled"] == [30, 75 + 40]
    assert ticks(TWO, one, WORKER, SLOW)["prefilled"] == [30, 30 + 40]
    # What is decided ahead does not know at 75 what comes back then: nothing else is to be done, so it goes on at once.
    assert ticks(TWO, replace(one, ahead=True), WORKER, replace(SLOW, order="decode_first"))["prefilled"] == [30, 115]


@pytest.mark.parametrize(
    ("overlap", "sent"),
    [
        ("none", 2 * 100),
        # Chunks of 64 and 36 tokens end at 74 and 74 + 46. Before the end the link has 46 ticks, and the first chunk's
        # 128 ticks do not fit into them.
        ("chunk", 200 - 46),
        # Of the last chunk's share, 72 ticks, a quarter is one layer's; the others have 3/4 of 120 ticks.
        ("layer", 200 - 90),
    ],
)
def test_what_is_sent_while_the_prompt_is_computed(overlap: str, sent: int) -> None:
    handover = replace(SLOW, order="decode_first", overlap=overlap, layers=4)
    found = ticks(make_requests([100], [2]), WORKER, WORKER, handover)
    assert found["prefilled"] == [120] and found["arrived"] == [120 + sent + 5]


def test_hidden_ticks_never_reach_the_last_part() -> None:
    """A link that keeps up leaves the last chunk's share, or the last layer's of it."""
    fast = replace(SLOW, token_ticks=8, layers=4)
    for overlap, left in (("chunk", 8 * 36), ("layer", 8 * 36 // 4)):
        plan = replace(fast, overlap=overlap)
        assert plan.ticks(100) - plan.hidden_ticks(100, 36, 0, 10_000, 20_000) == left


# ---- what must hold --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_an_infinite_link_leaves_decode_alone(data: st.DataObject) -> None:
    """Prompts that one step computes, one worker of each kind: all times are those of one replica that does both, which
    decodes the same sequences in the same steps.
    """
    n = data.draw(st.integers(1, 8))
    lengths = st.lists(st.integers(1, 12), min_size=n, max_size=n)
    outputs = data.draw(st.lists(st.integers(1, 60), min_size=n, max_size=n))
    requests = make_requests(data.draw(lengths), outputs)
    params = replace(WORKER, max_num_batched_tokens=100, block_size=data.draw(st.sampled_from([1, 4, 16])))
    cost = cost_of(CostSpec(profile=data.draw(st.sampled_from(["ideal", "rule-of-thumb"]))))
    alone = simulate(requests, cost, params)
    pool = Pool(cost, params)
    for order in ("prefill_first", "decode_first"):
        for first_token in ("prefill", "transfer"):
            log = simulate_pools(requests, pool, pool, Handover(order=order, first_token=first_token))
            assert np.array_equal(log.finish_s, alone.finish_s)
            assert np.array_equal(log.first_token_s, alone.first_token_s)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    prompts=st.lists(st.integers(1, 200), min_size=1, max_size=6),
    slow=st.integers(0, 10**12),
    slower=st.integers(0, 10**12),
    latency=st.integers(0, 10**12),
    order=st.sampled_from(["prefill_first", "decode_first"]),
)
def test_a_slower_link_delays_each_request_by_what_it_takes_longer(
    prompts: list[int], slow: int, slower: int, latency: int, order: str
) -> None:
    """One request at a time, so that nothing else moves: exactly by that (ticks). In a crowd a delay can also help."""
    requests = make_requests(prompts, [5] * len(prompts), concurrency=1)
    pool = Pool(cost_of(CostSpec()), replace(WORKER, block_size=16, max_num_batched_tokens=32))
    plans = [Handover(order=order, token_ticks=each, latency_ticks=latency) for each in (slow, slow + slower)]
    logs = [simulate_pools(requests, pool, pool, plan) for plan in plans]
    ttft = [np.round((log.first_token_s - log.submitted_s) / SECONDS_PER_TICK) for log in logs]
    expected = slower * requests.prompt_tokens
    assert ttft[1] - ttft[0] == pytest.approx(expected, abs=2.0**20)  # float64 seconds hold that much of a tick


@settings(max_examples=80, deadline=None, derandomize=True)
@given(pools(kinds=("any", "starved", "stops"), slow=True, tight=True))
def test_every_request_ends_once_and_keeps_its_order(case: Any) -> None:
    log, _, _ = case.run()
    requests, passages = case.scenario.requests, log.passages
    assert np.isfinite(log.finish_s).all() and (log.generated <= requests.output_tokens).all()
    finished = log.status == Status.FINISHED
    assert np.array_equal(log.generated[finished], requests.output_tokens[finished])
    steps = [passages.prefilled_s, passages.sent_s, passages.arrived_s, passages.joined_s, log.finish_s]
    for before, after in pairwise(steps):
        assert not (after < before).any()  # NaN: it did not come so far
    decoded = finished & ((requests.output_tokens > 1) | (case.handover.first_token == "decode"))
    assert np.isfinite(passages.joined_s[decoded]).all()
    assert ((log.replica >= passages.workers) | ~decoded).all()
    assert (passages.worker < passages.workers).all()


# ---- from a scenario -------------------------------------------------------------------------------------------------

SCENARIO: dict[str, Any] = {
    "gpu": "h200-sxm",
    "model": "Qwen/Qwen3-8B",
    "engine": "vllm",
    "disaggregation": {
        "prefill": {"replicas": 2, "router": "least_tokens", "engine": {"max_num_seqs": 64}},
        "decode": {"parallelism": {"tensor": 2}, "engine": {"max_num_seqs": 32}},
        "transfer": {"link": {"bandwidth": "50 GB/s", "latency": "20 us"}},
    },
    "workload": {
        "strategy": {"kind": "chat"},
        "requests": 60,
        "prompt_tokens": {"kind": "uniform", "low": 200, "high": 3000},
        "output_tokens": {"kind": "uniform", "low": 2, "high": 80},
        "arrivals": {"kind": "closed_loop", "concurrency": 24},
    },
}


def changed(**parts: Any) -> dict[str, Any]:
    return {**SCENARIO, "disaggregation": {**SCENARIO["disaggregation"], **parts}}


def test_bytes_and_ticks_of_a_transfer() -> None:
    """Qwen3-8B: 36 layers x 2 x 8 KV heads x 128 x 2 bytes = 147,456 bytes a token; each of 2 GPUs gets half of them,
    at 50 GB/s in 73,728 / 50e9 s, and one GPU sends them all, in twice that.
    """
    fleet = deploy_pools(load_scenario(SCENARIO))
    assert (fleet.sent.token_bytes, fleet.sent.copies, fleet.sent.sources) == (73_728, 2, 1)
    assert fleet.handover.token_ticks == pytest.approx(147_456 / 50e9 / SECONDS_PER_TICK, rel=1e-12)
    assert fleet.handover.latency_ticks == to_ticks(20e-6)
    assert (fleet.handover.order, fleet.handover.first_token) == ("prefill_first", "decode")
    both = changed(prefill={"parallelism": {"tensor": 2}})
    assert deploy_pools(load_scenario(both)).handover.token_ticks == round(73_728 / 50e9 / SECONDS_PER_TICK)


def test_a_latent_is_sent_to_every_gpu_that_holds_it() -> None:
    """DeepSeek-R1 in bf16: 61 layers x 576 x 2 bytes = 70,272 a token, on each of 8 GPUs; 8 ranks of one GPU send."""
    parts = {
        "prefill": {"parallelism": {"attention_data": 8, "expert": 8}},
        "decode": {"parallelism": {"tensor": 8, "expert": 8}},
        "transfer": {"link": {"bandwidth": "100 GB/s"}},
    }
    data = changed(**parts) | {"gpu": "b200-sxm", "model": "deepseek-r1", "engine": "sglang"}
    fleet = deploy_pools(load_scenario(data))
    assert (fleet.sent.token_bytes, fleet.sent.copies, fleet.sent.sources) == (70_272, 8, 1)
    assert fleet.handover.token_ticks == pytest.approx(8 * 70_272 / 100e9 / SECONDS_PER_TICK, rel=1e-12)
    assert (fleet.handover.prefill_lanes, fleet.handover.decode_lanes) == (8, 1)
    assert (fleet.handover.order, fleet.handover.first_token) == ("decode_first", "transfer")


def test_a_pool_is_as_its_scenario_but_for_what_it_says() -> None:
    scenario = load_scenario(SCENARIO, ["disaggregation.decode.gpu.memory.bandwidth=9.6 TB/s"])
    assert scenario.pools is not None
    prefill, decode = scenario.pools
    assert (prefill.config.engine.max_num_seqs, decode.config.engine.max_num_seqs) == (64, 32)
    assert (prefill.config.parallelism.tensor, decode.config.parallelism.tensor) == (1, 2)
    assert (prefill.config.replicas, decode.config.replicas) == (2, 1)
    assert (prefill.gpu.memory.bandwidth, decode.gpu.memory.bandwidth) == (4.8e12, 9.6e12)
    again = load_scenario(scenario.to_dict())
    assert again.to_dict() == scenario.to_dict()
    assert [pool.gpu for pool in again.pools or ()] == [prefill.gpu, decode.gpu]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "none"])
def test_a_result_counts_both_pools(engine: str, tmp_path: Any) -> None:
    result = run_scenario(load_scenario({**SCENARIO, "engine": engine}))
    summary, found = result.summary, result.requests
    assert summary["cost"]["gpus"] == 2 + 2 and summary["requests"]["finished"] == 60
    assert summary["cost"]["gpu_hours"] == pytest.approx(4 * summary["makespan_s"] / 3600)
    each = summary["pools"]
    assert each["prefill"]["energy_j"] + each["decode"]["energy_j"] == pytest.approx(summary["cost"]["energy_j"])
    assert each["prefill"]["batch"]["mean_decode_seqs"] == 0 < each["decode"]["batch"]["mean_decode_seqs"]
    assert each["prefill"]["batch"]["steps"] + each["decode"]["batch"]["steps"] == summary["batch"]["steps"]
    transfers, prompts = summary["transfers"], found["prompt_tokens"]
    assert transfers["requests"] == 60 and transfers["bytes"] == pytest.approx(147_456 * prompts.sum())
    assert transfers["send_s"]["mean"] >= 147_456 * prompts.mean() / 50e9
    assert {op["pool"] for op in result.operators} == {"prefill", "decode"}
    assert any("nothing of it was measured" in note for note in result.notes)
    # ITL of all tokens: together they are the time from the first tokens on.
    tokens = (found["generated"] - 1).sum()
    total = (found["finish_s"] - found["first_token_s"]).sum()
    assert summary["latency"]["itl_s"]["mean"] * tokens == pytest.approx(total, rel=5e-3)
    save_result(result, tmp_path / "out")
    assert load_result(tmp_path / "out") == result


def test_itl_holds_the_way_to_the_decode_worker() -> None:
    """Where the prefill worker sends the first token, the second comes after the transfer: a gap for every request."""
    seen = changed(first_token="prefill", transfer={"link": {"bandwidth": "1 GB/s"}})
    result = run_scenario(load_scenario(seen))
    found = result.requests
    tokens = (found["generated"] - 1).sum()
    total = (found["finish_s"] - found["first_token_s"]).sum()
    assert result.summary["latency"]["itl_s"]["mean"] * tokens == pytest.approx(total, rel=5e-3)
    longest = result.itl()[:, 3]
    assert (longest >= (found["joined_s"] - found["first_token_s"]) * (1 - 1e-9)).all()
