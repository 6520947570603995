"""The closed forms of a macro-step against walking through its steps one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from math import ceil

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scenarios import CostSpec, cost_of, make_requests

from hwspecs.errors import InputError
from simulator.engine import check_servable
from simulator.kvpool import growth
from simulator.policy import DECODE, EngineParams
from simulator.replica import Replica, Run
from simulator.sequence import Sequence
from simulator.shape import StepShape
from simulator.timeline import Recorder, column_names

ATTENTION = ("dense", "sliding_window", "top_k", "block_top_k")


def decoding_replica(
    attention: str,
    profile: str,
    requests: list[tuple[int, int]],
    block_size: int,
    kv_blocks: int = 10**6,
    reserve_output: float = 0.0,
) -> Replica:
    """A replica that has computed the prompts of (prompt, output) requests and decodes all of them together."""
    cost = cost_of(CostSpec(attention=attention, budget=64, profile=profile, max_context=4096))
    params = EngineParams(16, 1024, block_size, kv_blocks, 10**6, reserve_output=reserve_output)
    recorder = Recorder(column_names(len(cost.decode_caps), len(cost.decode_ops), len(cost.prefill_caps)))

    def leave(replica: Replica, finished: list[Sequence], now: int) -> None:
        replica.take_marked()

    replica = Replica(0, params, cost, recorder, lambda replica, run: None, leave)
    for i, (prompt, output) in enumerate(requests):
        replica.waiting.add(Sequence(i, prompt, output, (), (0, i), replica))
    replica.schedule(0)
    while replica.run is not None and replica.run.prefill:
        replica.step_end(replica.run.end)
    return replica


def boundaries(replica: Replica, run: Run) -> list[int]:
    """Elapsed ticks after each step of the run, from the cost of single steps of the sequences as they are."""
    decoding = [seq for seq in replica.running if seq.state == DECODE]
    caps = replica.cost.decode_caps

    def shape(step: int) -> StepShape:
        contexts = [seq.base + replica.counter + 1 + step for seq in decoding]
        kv = tuple(sum(c if cap is None else min(c, cap) for c in contexts) for cap in caps)
        return StepShape(len(decoding), len(decoding), len(decoding), kv)

    return list(accumulate(replica.cost.step_ticks(shape(step)) for step in range(run.steps)))


batches = st.lists(st.tuples(st.integers(1, 200), st.integers(2, 500)), min_size=1, max_size=8)
sizes = st.sampled_from([1, 2, 3, 7, 16, 64])


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(ATTENTION), st.sampled_from(["ideal", "rule-of-thumb"]), batches, sizes, st.data())
def test_a_cut_finds_the_first_boundary(attention, profile, requests, block_size, data) -> None:
    replica = decoding_replica(attention, profile, requests, block_size)
    run = replica.run
    assume(run is not None and run.steps > 1)
    ends = boundaries(replica, run)
    assert ends[-1] == run.ticks == run.end - run.start
    picks = data.draw(st.lists(st.tuples(st.integers(0, run.steps - 1), st.integers(-2, 2)), max_size=20))
    times = [min(max(ends[step] + shift, 1), run.ticks) for step, shift in picks]
    times += data.draw(st.lists(st.integers(1, run.ticks), max_size=20))
    for ticks in times:
        assert replica._steps_until(run, ticks) == 1 + next(k for k, end in enumerate(ends) if end >= ticks)
    now, strict = run.start + data.draw(st.integers(0, run.ticks - 1)), data.draw(st.booleans())
    replica.cut(now, strict)
    after = [run.start + end for end in ends]
    wanted = next(end for end in after if (end > now if strict else end >= now))
    assert run.end == wanted and run.steps == after.index(wanted) + 1 and run.cut
    assert run.ticks == run.end - run.start == ends[run.steps - 1]
    replica.cut(run.start, False)
    assert run.end == wanted  # a run is cut once, at the first occasion


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ATTENTION), batches, sizes, st.integers(1, 150), st.integers(0, 150))
def test_growth_counts_the_blocks_of_every_step(attention, requests, block_size, first, more) -> None:
    replica = decoding_replica(attention, "ideal", requests, block_size)
    assume(replica.run is not None)
    bases = [seq.base + replica.counter for seq in replica.running]
    brute = sum((base + step) % block_size == 0 for base in bases for step in range(first, first + more))
    assert growth(replica.phases, replica.counter + first, more) == brute
    assert growth(replica.phases, replica.counter + 1, first + more - 1) <= replica._most_growth(first + more)


@settings(max_examples=100, deadline=None)
@given(batches, sizes, st.integers(0, 60), st.integers(1, 200))
def test_steps_before_the_pool_is_full(requests, block_size, spare, steps) -> None:
    replica = decoding_replica("dense", "ideal", requests, block_size)
    assume(replica.run is not None)
    replica.pool.take(replica.pool.free - spare)
    bases = [seq.base + replica.counter for seq in replica.running]
    free, possible = spare, 1  # the first step's blocks have been taken when it was scheduled
    while possible < steps:
        free -= sum((base + possible) % block_size == 0 for base in bases)
        if free < 0:
            break
        possible += 1
    assert replica._steps_before_full(steps) == possible


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_sums_stay_the_sums_over_the_sequences(attention: str, share: float) -> None:
    """The counters that a replica keeps equal what its sequences add up to, to the end."""
    batch = [(5, 40), (30, 90), (61, 20), (100, 300), (64, 64)]
    replica = decoding_replica(attention, "rule-of-thumb", batch, 8, reserve_output=share)
    ends = 0
    while replica.run is not None:
        decoding = [seq for seq in replica.running if seq.state == DECODE]
        contexts = [seq.base + replica.counter + 1 for seq in decoding]
        for cap, kv, growing in zip(replica.cost.decode_caps, replica.kv, replica.growing, strict=True):
            assert kv == sum(c if cap is None else min(c, cap) for c in contexts)
            assert growing == sum(cap is None or c < cap for c in contexts)
        assert replica.pool.used == sum(-(-c // 8) for c in contexts)
        if replica.promises is not None:
            promised = [-(-(seq.prompt + ceil(share * (seq.output - 1))) // 8) for seq in decoding]
            owed = [max(0, p - -(-c // 8)) for p, c in zip(promised, contexts, strict=True)]
            assert replica.promises.owed == sum(owed)
        assert sum(replica.phases) == replica.seqs == len(decoding)
        assert boundaries(replica, replica.run)[-1] == replica.run.ticks
        replica.step_end(replica.run.end)
        ends += 1
    assert ends >= 5 and replica.pool.used == 0 and replica.seqs == 0
    assert replica.promises is None or replica.promises.owed == 0


def test_what_could_never_be_served_is_refused() -> None:
    """Before anything runs, with the setting to blame; what is rejected anyway does not count."""
    requests = make_requests([40, 30], [11, 31])  # at most 50 and 60 tokens in the cache, of which 40 are a prompt
    params = EngineParams(4, 64, 8, 8, 100)
    check_servable(requests, params)
    for changes, place, found in (
        ({"max_model_len": 50}, "engine.max_model_len", 50),
        ({"kv_blocks": 7}, "engine", "56 tokens"),
        ({"chunked_prefill": False, "max_num_batched_tokens": 59}, "engine.max_num_batched_tokens", 59),
        (
            {"chunked_prefill": False, "max_num_batched_tokens": 39, "reserve_output": 1.0},
            "engine.max_num_batched_tokens",
            39,
        ),
    ):
        with pytest.raises(InputError) as caught:
            check_servable(requests, replace(params, **changes))  # type: ignore[arg-type]
        assert (caught.value.place, caught.value.found) == (place, found)
    check_servable(requests, replace(params, max_model_len=51, kv_blocks=7))
    # What was generated is computed again after a preemption only, and there is none with a reserve for all of it.
    whole = replace(params, chunked_prefill=False, max_num_batched_tokens=59)
    check_servable(requests, replace(whole, reserve_output=1.0, max_num_batched_tokens=40))
