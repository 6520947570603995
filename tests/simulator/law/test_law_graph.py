"""The law's graph through the step cost and the event engine: closed form, sums over tokens and simulation agree."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.gpu import load_gpu
from simulator.engine import simulate
from simulator.law.closedform import law_model
from simulator.law.ladder.lawgraph import AddedCost, decode_seconds, law_graph
from simulator.law.split import parts
from simulator.policy import EngineParams
from simulator.profile import load_profile
from simulator.shape import StepShape
from simulator.stepcost import StepCost
from simulator.stepgraph import Precision, build_graph
from workloads.attention import AttentionPolicy, BlockTopK, Dense, TopK
from workloads.model import load_model
from workloads.requests import generate
from workloads.scenario import Workload

H200, B200 = load_gpu("h200-sxm"), load_gpu("b200-sxm")
DENSE, TOP_K, BLOCKS = Dense(), TopK(kind="top_k", budget=1024), BlockTopK(kind="block_top_k", page=32, blocks=24)


def law_steps(model, policy, gpu, a, n, trials, timing=AddedCost) -> StepCost:
    graph = law_graph(build_graph(load_model(model), policy, Precision()), gpu, (1 - 1 / trials) * a)
    ideal = load_profile("ideal")
    most = trials * max(a, 1)  # so that all prompts fit into the first step of an engine
    return timing(graph, gpu, ideal, max_tokens=most, max_seqs=trials, max_context=a + n)


def closed_form(model, policy, gpu, a, n, trials, exact=False) -> float:
    """Seconds by the law."""
    peak = gpu.peak["bf16"]
    budget = policy.decode_cap(None)
    known = law_model(load_model(model), "bf16")
    ratio = peak / gpu.memory.bandwidth
    cost = parts(known, policy.kind, a, n, trials, budget, policy.page, ratio=ratio, exact=exact)
    return float(cost.eflops) / peak


def engine_seconds(cost: StepCost, a: int, n: int, trials: int) -> float:
    """From the first token to the last of a problem in the event engine, which computes the prompts in one step."""
    params = EngineParams(
        max_num_seqs=trials, max_num_batched_tokens=cost.max_tokens, block_size=16, kv_blocks=10**9,
        max_model_len=a + n, prefix_sharing=False,
    )  # fmt: skip
    strategy = {"kind": "best_of_n", "samples": trials}
    load = Workload(strategy=strategy, requests=1, prompt_tokens=a, output_tokens=n)
    log = simulate(generate(load, seed=0), cost, params)
    assert len(set(log.first_token_s)) == len(set(log.finish_s)) == 1
    return float(log.finish_s[0] - log.first_token_s[0])


MODELS = (
    "qwen3-0.6b",
    "qwen3-8b",
    "qwen3-32b",
    "qwen3-30b-a3b",
    "gpt-oss-20b",
    "llama-3.1-70b",
    "deepseek-v3",
    "deepseek-v3.2",
)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("policy", [DENSE, TOP_K, BLOCKS], ids=lambda policy: policy.kind)
@pytest.mark.parametrize(
    ("gpu", "a", "n", "trials"), [(H200, 150, 4096, 1), (B200, 700, 8192, 4), (H200, 64, 32768, 32)]
)
def test_engine_agrees_with_the_closed_form(model, policy: AttentionPolicy, gpu, a, n, trials) -> None:
    if model == "deepseek-v3.2" and policy is not DENSE:
        pytest.skip("its indexer chooses the keys already")
    cost = law_steps(model, policy, gpu, a, n, trials)
    simulated = engine_seconds(cost, a, n, trials)
    assert simulated == pytest.approx(closed_form(model, policy, gpu, a, n, trials), rel=1e-3)
    # What is left is that an engine's first token comes with the prompt, and that integrals are not sums.
    assert simulated == pytest.approx(closed_form(model, policy, gpu, a, n - 1, trials, exact=True), rel=1e-9)
    assert simulated == pytest.approx(sum(decode_seconds(cost, trials, a, n - 1).values()), rel=1e-12)


@pytest.mark.parametrize("trials", [1, 8])
@pytest.mark.parametrize("policy", [DENSE, TOP_K, BLOCKS], ids=lambda policy: policy.kind)
def test_sums_over_tokens(policy: AttentionPolicy, trials: int) -> None:
    """Qwen3-8B on an H200, token by token: 36 layers, 32 query heads, 8 KV heads of 128 elements, bf16."""
    a, n = 200, 3000
    peak, bandwidth, params = 989.5e12, 4.8e12, 8_190_735_360
    seconds = larger = 0.0
    for token in range(1, n):  # the first token comes with the prompt
        past = a + token
        read = past if policy is DENSE else min(past, 1024 if policy is TOP_K else 32 * 24)
        own = past - (1 - 1 / trials) * a  # the prompt is read once for all trials
        work = [(2 * params, 0.0)]
        work.append((36 * 4 * 32 * 128 * read, 36 * 2 * 8 * 128 * 2 * (own if policy is DENSE else read)))
        if policy is BLOCKS:
            work.append((36 * 2 * 32 * 128 * past / 32, 36 * 8 * 128 * 2 * own / 32))
        seconds += trials * sum(flops / peak + moved / bandwidth for flops, moved in work)
        larger += trials * sum(max(flops / peak, moved / bandwidth) for flops, moved in work)
    added = decode_seconds(law_steps("qwen3-8b", policy, H200, a, n, trials), trials, a, n - 1)
    assert sum(added.values()) == pytest.approx(seconds, rel=1e-9)
    roofline = decode_seconds(law_steps("qwen3-8b", policy, H200, a, n, trials, StepCost), trials, a, n - 1)
    assert sum(roofline.values()) == pytest.approx(larger, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    a=st.integers(1, 2000), n=st.integers(2, 40_000), trials=st.integers(1, 16), budget=st.integers(1, 50_000),
    shape=st.sampled_from([("qwen3-0.6b", H200), ("qwen3-32b", B200), ("gpt-oss-20b", H200)]),
)  # fmt: skip
def test_any_strategy_sums_exactly(a, n, trials, budget, shape) -> None:
    model, gpu = shape
    policy = TopK(kind="top_k", budget=budget)
    found = sum(decode_seconds(law_steps(model, policy, gpu, a, n, trials), trials, a, n - 1).values())
    assert found == pytest.approx(closed_form(model, policy, gpu, a, n - 1, trials, exact=True), rel=1e-9)
    larger = sum(decode_seconds(law_steps(model, policy, gpu, a, n, trials, StepCost), trials, a, n - 1).values())
    assert larger <= found


def test_what_the_law_knows() -> None:
    """Attention, its search and one operator for all the rest: neither the choice among scores nor weights' bytes."""
    graph = build_graph(load_model("qwen3-8b"), BLOCKS, Precision())
    law = law_graph(graph, H200)
    assert [op.name for op in law.operators] == ["parameters", "page_scores", "attention_decode"]
    shape = StepShape(1, 1, 1, tuple(100 for _ in law.decode_caps))
    works = [op.work(shape) for op in law.operators]
    assert all(work.weight_bytes == 0 and work.act_bytes == 0 for work in works)
    assert works[0].flops == 2 * 8_190_735_360
