"""The host's time and CUDA graphs: by hand, in the accounts, and bit for bit the same in both engines."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import simulate_naive
from scenarios import make_requests

from hwspecs.gpu import load_gpu
from simulator.accounting import host_seconds, operator_totals
from simulator.deployment import deploy
from simulator.engine import simulate
from simulator.host import HostTime
from simulator.policy import SECONDS_PER_TICK, EngineParams
from simulator.profile import load_profile
from simulator.shape import PrefillShape, StepShape
from simulator.stepcost import StepCost
from simulator.stepgraph import Precision, build_graph
from workloads.attention import Dense
from workloads.model import load_model
from workloads.scenario import load_scenario

MODEL = load_model("Qwen/Qwen3-0.6B")  # 28 layers
HOST = HostTime(step=1e-3, sequence=20e-6, eager=100e-6, chunk=2e-3, graph_sizes=(1, 2, 4, 8))
PARAMS = EngineParams(12, 64, 4, 200, 300)


@cache
def cost(host: HostTime | None = None, fused: bool = False, profile: str = "rule-of-thumb") -> StepCost:
    graph = build_graph(MODEL, Dense(), Precision())
    return StepCost(
        graph, load_gpu("h200-sxm"), load_profile(profile), max_tokens=64, max_seqs=12, max_context=300, host=host,
        fused=("rms_norm", "silu_mul", "rope_kv_write") if fused else (),
    )  # fmt: skip


def seconds(what: StepCost, shape: StepShape) -> float:
    return what.step_ticks(shape) * SECONDS_PER_TICK


def decode(seqs: int, read: int = 100) -> StepShape:
    return StepShape(seqs, seqs, seqs, (seqs * read,))


def test_a_captured_decode_step_costs_its_constants() -> None:
    # 4 sequences: 1 ms + 4 x 20 us; a graph of that very size exists.
    assert seconds(cost(HOST), decode(4)) - seconds(cost(), decode(4)) == pytest.approx(1.08e-3, abs=1e-12)


def test_a_decode_step_is_padded_to_the_next_graph() -> None:
    """Five sequences run in the graph for eight; attention and the head see five."""
    plain, host = cost(), cost(HOST)
    kernels = plain.tokens[8] - plain.tokens[5]
    extra = seconds(host, decode(5)) - seconds(plain, decode(5))
    assert extra == pytest.approx(1.1e-3 + kernels * SECONDS_PER_TICK, abs=1e-12)


def test_beyond_the_largest_graph_kernels_are_launched_one_by_one() -> None:
    # 9 sequences: 1 ms + 9 x 20 us + 28 layers x 100 us.
    assert seconds(cost(HOST), decode(9)) - seconds(cost(), decode(9)) == pytest.approx(3.98e-3, abs=1e-12)


def test_a_step_with_prefill_has_no_graph() -> None:
    # 3 decoding, 2 chunks: 1 ms + 60 us + 28 x 100 us + 2 x 2 ms, and 3 + 20 tokens, not padded.
    chunks = PrefillShape(20, 2, (110,), (20,))
    shape = StepShape(23, 4, 3, (300,), chunks)
    assert seconds(cost(HOST), shape) - seconds(cost(), shape) == pytest.approx(7.86e-3, abs=1e-12)


def test_launching_takes_its_time() -> None:
    """28 layers x 300 us = 8.4 ms are more than the kernels of a small prefill take; decode attention comes on top."""
    chunks = PrefillShape(20, 2, (110,), (20,))
    shape = StepShape(23, 4, 3, (300,), chunks)
    slow, plain = cost(HostTime(launch=300e-6)), cost()
    attention = plain.decode_ticks(shape) * SECONDS_PER_TICK
    assert seconds(plain, shape) < 8.4e-3
    assert seconds(slow, shape) == pytest.approx(8.4e-3 + attention, rel=1e-12)
    assert seconds(cost(HostTime(launch=1e-9)), shape) == seconds(plain, shape)
    assert seconds(slow, decode(3)) == seconds(plain, decode(3))


def test_kernels_of_a_prefill_take_longer_by_a_share() -> None:
    """A quarter more of all but the attention of decoding sequences."""
    shape = StepShape(23, 4, 3, (300,), PrefillShape(20, 2, (110,), (20,)))
    attention = cost().decode_ticks(shape) * SECONDS_PER_TICK
    plain = seconds(cost(), shape)
    assert seconds(cost(HostTime(prefill_share=0.25)), shape) == pytest.approx(1.25 * (plain - attention) + attention)
    assert seconds(cost(HostTime(prefill_share=0.25)), decode(3)) == seconds(cost(), decode(3))


def test_fused_rows_save_their_launches_only() -> None:
    """Four routines a layer (two norms, rotation, activation) and the last norm lose 2 us each by the rule of thumb."""
    saved = seconds(cost(), decode(4)) - seconds(cost(fused=True), decode(4))
    overhead = load_profile("rule-of-thumb").correction("elementwise").overhead
    assert saved == pytest.approx((4 * 28 + 1) * overhead, rel=1e-9)
    ideal = cost(profile="ideal"), cost(fused=True, profile="ideal")
    assert seconds(ideal[0], decode(4)) == seconds(ideal[1], decode(4))


def test_layers_of_an_attention_have_constants_of_their_own() -> None:
    """DeepSeek-R1: all 61 layers latent; Qwen3.5: 45 of 60 linear, projections in blocks if they are fp8_block."""
    host = {
        "linear_layer": "40 us", "eager": "100 us", "latent_eager": "300 us", "linear_eager": "1 ms",
        "launch": "50 us", "latent_launch": "1.5 ms", "prefill_share": 0.1, "block_prefill_share": 0.3,
    }  # fmt: skip
    found = {}
    for model, precision in (("deepseek-r1", "fp8_block"), ("qwen3.5-397b-a17b", "bf16")):
        scenario = {
            "gpu": "b300-sxm", "model": model, "precision": precision, "parallelism": {"tensor": 8}, "profile": "ideal",
            "engine": {"max_model_len": 256, "max_num_seqs": 2, "max_num_batched_tokens": 256, "host": host},
            "workload": {
                "strategy": {"kind": "chat"}, "requests": 1, "prompt_tokens": 8, "output_tokens": 2,
                "arrivals": {"kind": "closed_loop", "concurrency": 1},
            },
        }  # fmt: skip
        found[model] = deploy(load_scenario(scenario)).cost.host
    latent, hybrid = found.values()
    assert (latent.layer, latent.eager, latent.launch, latent.prefill_share) == pytest.approx((0, 4e-4, 1.55e-3, 0.4))
    assert hybrid.layer == pytest.approx(30e-6) and hybrid.eager == pytest.approx(100e-6 + 0.75e-3)
    assert (hybrid.launch, hybrid.prefill_share) == pytest.approx((50e-6, 0.1))


def test_no_host_is_the_default() -> None:
    none = cost(HostTime())
    for shape in (decode(1), decode(12), StepShape(23, 4, 3, (300,), PrefillShape(20, 2, (110,), (20,)))):
        assert none.step_ticks(shape) == cost().step_ticks(shape)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_both_engines_agree_and_the_accounts_close(data: st.DataObject) -> None:
    """Same finish times to the bit; operators and host together are the steps' time."""
    n = data.draw(st.integers(1, 14))
    prompt = data.draw(st.lists(st.integers(1, 90), min_size=n, max_size=n))
    output = data.draw(st.lists(st.integers(1, 90), min_size=n, max_size=n))
    sizes = data.draw(st.sampled_from([None, (1, 2, 4, 8), (16,), (3,)]))
    times = data.draw(st.tuples(*[st.sampled_from([0.0, 1e-4, 3.3e-3])] * 5))
    share = data.draw(st.sampled_from([0.0, 0.3]))
    chunk = data.draw(st.sampled_from([0.0, 1e-3]))
    what = cost(HostTime(*times, share, chunk, graph_sizes=sizes))
    requests = make_requests(prompt, output, concurrency=data.draw(st.integers(1, n)))
    log = simulate(requests, what, PARAMS)
    naive = simulate_naive(requests, what, PARAMS)
    assert (log.finish_s == naive.finish_s).all()
    assert (log.first_token_s == naive.first_token_s).all()
    kernels = sum(op.seconds for op in operator_totals(what, log.timeline))
    steps = float(np.sum(log.timeline["duration_s"]))
    assert kernels + host_seconds(what, log.timeline) == pytest.approx(steps, rel=1e-9)
