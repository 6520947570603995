"""The contracts of the engine and of the accounting hold with fitted profiles too, however rough their corrections."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from madeprofiles import LABELS, OPS, group, microbenchmarks, profile, random_trees
from naive import simulate_naive
from scenarios import Scenario, make_requests, scenarios
from test_exactness import compare

from hwspecs.gpu import load_gpu
from simulator.accounting import operator_totals
from simulator.calibrated import FALLBACK, Calibrated
from simulator.cost import BOUNDS
from simulator.engine import simulate
from simulator.fitted import Group
from simulator.kernels.registry import MODELS
from simulator.policy import ONE_TOKEN, TICKS_PER_SECOND, EngineParams
from simulator.profile import load_profile
from simulator.selection import Library, Selection
from simulator.shape import PrefillShape, StepShape
from simulator.stepcost import StepCost, line_at
from simulator.stepgraph import Precision, build_graph
from workloads.attention import AttentionPolicy, BlockTopK, Dense, SlidingWindow
from workloads.model import load_model

KINDS = ("starved", "groups", "traces", "replicas", "priorities", "aborts", "stops", "engines")
CASES = ("dense", "window", "alternate", "many experts", "pages", "latent", "indexed", "hybrid")
MODELS_OF = {
    "many experts": "qwen3-30b-a3b", "latent": "deepseek-r1", "indexed": "deepseek-v3.2", "hybrid": "qwen3.5-397b-a17b",
}  # fmt: skip
SEEDS = (1, 2)


def both_phases(seed: int) -> tuple[Group, ...]:
    """What the blocks of attention behind an indexer and linear attention need besides one group of each kind."""
    named = [("dsa_module", {"phase": "prefill"}), ("mla_bmm", {"op": "post"})]
    named += [
        ("linear_attention", {"phase": p, "routine": r}) for p in ("decode", "prefill") for r in ("conv", "delta")
    ]
    made = [
        (kind, random_trees(kind, seed + i, spread=0.4), {**LABELS[kind], **t}) for i, (kind, t) in enumerate(named)
    ]
    return tuple(group(kind, trees, label=label) for kind, trees, label in made)


@cache
def fitted_cost(case: str, seed: int) -> StepCost:
    """A profile with random trees that scatter by 40 %, so that more work is often quicker before it is mended."""
    groups = tuple(group(k, random_trees(k, seed + i, spread=0.4)) for i, k in enumerate(MODELS) if k not in OPS)
    if case in ("indexed", "latent", "hybrid"):
        groups += both_phases(seed)
    if case == "pages":  # no operator by a rule of thumb
        groups = microbenchmarks(seed, spread=0.4)
    gpu = load_gpu("h200-sxm")
    made = profile("h200-sxm@vllm-0.24.0", groups)
    calibrated = Calibrated(gpu, Selection(gpu, None, made, Library([])), load_profile(FALLBACK))
    model = load_model(MODELS_OF.get(case, "qwen3-0.6b"))
    if model.latent is not None and model.latent.indexer is not None:
        index = replace(model.latent.indexer, top_k=24)
        model = replace(model, latent=replace(model.latent, indexer=index))
    if case == "alternate":
        model = replace(model, layer_windows=tuple(None if i % 2 else 24 for i in range(model.layers)))
    policy: AttentionPolicy = SlidingWindow(kind="sliding_window", window=24) if case == "window" else Dense()
    if case == "pages":
        policy = BlockTopK(kind="block_top_k", blocks=4)
    graph = build_graph(model, policy, Precision())
    return StepCost(graph, gpu, calibrated, max_tokens=1024, max_seqs=16, max_context=512)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(scenario=scenarios(KINDS, tick_scale=2.0**-9), seed=st.sampled_from(SEEDS))
def test_both_engines_agree_to_the_bit(case: str, scenario: Scenario, seed: int) -> None:
    cost = fitted_cost(case, seed)
    params = replace(scenario.params, speculation=ONE_TOKEN)  # as the cost was made
    fast = simulate(scenario.requests, cost, params)
    compare(fast, simulate_naive(scenario.requests, cost, params, check_every=50))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", CASES)
def test_seconds_of_operators_fill_the_busy_time(case: str, seed: int) -> None:
    cost = fitted_cost(case, seed)
    rng = np.random.default_rng(5)
    prompt, output = rng.integers(1, 90, 12), rng.integers(1, 160, 12)
    arrivals = np.sort(rng.uniform(0, 0.2, 12))
    requests = make_requests(prompt.tolist(), output.tolist(), arrivals=arrivals.tolist())
    log = simulate(requests, cost, EngineParams(6, 64, 4, 100, 300))
    totals = operator_totals(cost, log.timeline)
    assert sum(op.seconds for op in totals) == pytest.approx(log.timeline["duration_s"].sum(), rel=1e-9)
    for op in totals:
        assert set(op.by_bound) <= set(BOUNDS)
        assert sum(op.by_bound.values()) == pytest.approx(op.seconds, rel=1e-12)
        assert 0 <= op.energy <= cost.gpu.power.tdp * op.seconds


@pytest.mark.parametrize("case", CASES)
def test_a_steps_operators_add_up_to_it(case: str) -> None:
    cost = fitted_cost(case, 1)
    extents = len(cost.decode_caps)
    chunks = PrefillShape(300, 2, (30_000,) * len(cost.prefill_caps), (400,) * len(cost.prefill_caps))
    for shape in (
        StepShape(7, 7, 7, (900,) * extents),
        StepShape(300, 2, 0, (0,) * extents, chunks),
        StepShape(305, 7, 5, (700,) * extents, chunks),
    ):
        seconds = sum(cost.operator_seconds(op, shape) for op in cost.operators)
        assert seconds == pytest.approx(cost.step_ticks(shape) / TICKS_PER_SECOND, rel=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_more_context_never_takes_less_time(case: str, seed: int) -> None:
    cost = fitted_cost(case, seed)
    for seqs in (1, 2, 7, 16):
        for line, _ in cost.decode_lines(seqs):
            values = [line_at(line, tokens) for tokens in range(0, seqs * 600, max(1, seqs // 2))]
            assert all(a <= b for a, b in pairwise(values))
            assert values[0] > 0


def test_thousands_of_sequences() -> None:
    """Plateaus after a rise, where whole-number slopes round, are not taken for falling costs."""
    base = fitted_cost("dense", 1)
    for seed in range(3):
        decode = group("attention_decode", random_trees("attention_decode", seed, spread=0.8))
        made = profile("h200-sxm@vllm-0.24.0", (decode, group("gemm"), group("attention_prefill")))
        gpu = base.gpu
        calibrated = Calibrated(gpu, Selection(gpu, None, made, Library([])), load_profile(FALLBACK))
        cost = StepCost(base.graph, gpu, calibrated, max_tokens=64, max_seqs=8192, max_context=512)
        for seqs in (1, 100, 4095, 8192):
            assert cost.decode_lines(seqs)
