"""Parallel layouts: what all GPUs do together, what is refused, and what a layout of one GPU is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator import graphview, routing
from simulator.accounting import host_seconds, operator_totals
from simulator.deployment import deploy
from simulator.engine import simulate
from simulator.host import HostTime
from simulator.layout import divides
from simulator.operators import Work
from simulator.policy import SECONDS_PER_TICK, EngineParams
from simulator.profile import load_profile
from simulator.routing import BALANCED_SKEW, LEARNED_SKEW, busiest_load, experts_hit, mean_load, reach
from simulator.shape import PrefillShape, StepShape, busiest_shape, dealt_tokens, mean_shape
from simulator.stepcost import StepCost
from simulator.stepgraph import Layout, Precision, StepGraph, build_graph
from workloads.attention import Dense
from workloads.model import Model, load_model
from workloads.requests import generate
from workloads.scenario import load_scenario

DENSE = dataclasses.replace(load_model("Qwen/Qwen3-8B"), layers=4, layer_windows=(None,) * 4)
_MOE = load_model("Qwen/Qwen3-30B-A3B")
assert _MOE.moe is not None
MOE = dataclasses.replace(
    _MOE, layers=4, layer_windows=(None,) * 4, moe=dataclasses.replace(_MOE.moe, moe_layers=(True,) * 4)
)
SHARED = dataclasses.replace(MOE, moe=dataclasses.replace(MOE.moe, shared_intermediate=512))
H200 = load_gpu("h200-sxm")
SMALL, PARAMS = ["workload.requests=12", "workload.output_tokens=50"], EngineParams(64, 4096, 16, 10_000, 4096)
FAST_LINK = dataclasses.replace(H200, link=dataclasses.replace(H200.link, bandwidth=1e30))
LAYOUTS = [
    Layout(tensor, pipeline, attention_data, expert)
    for tensor in (1, 2, 4)
    for pipeline in (1, 2, 4)
    for attention_data in (1, 2, 4)
    for expert in (1, 2, 4, 8)
    if tensor * pipeline * attention_data <= 8 and tensor * attention_data % expert == 0
]
LAYOUTS += [
    Layout(1, 1, 4, 4, all_to_all="low_latency"),
    Layout(1, 2, 4, 4, all_to_all="high_throughput"),
    Layout(2, 1, 4, 8, all_to_all="auto"),
]


def build(model: Model, layout: Layout, precision: Precision = Precision(), skew: float = 0.0) -> StepGraph:
    return build_graph(model, Dense(), precision, layout, routing_skew=skew)


def compiled(
    model: Model, layout: Layout, *, gpu=H200, profile: str = "ideal", skew: float = 0.0, precision=Precision()
) -> StepCost:
    graph = build(model, layout, precision, skew)
    return StepCost(graph, gpu, load_profile(profile), max_tokens=4096, max_seqs=64, max_context=4096)


def decodes(seqs: int, context: int) -> StepShape:
    return StepShape(seqs, seqs, seqs, (seqs * context,))


def mixed(seqs: int, context: int, chunks: int, query: int) -> StepShape:
    pairs = chunks * query * (query + 1) // 2
    part = PrefillShape(chunks * query, chunks, (pairs,), (chunks * query,)) if chunks else None
    return StepShape(seqs + chunks * query, seqs + chunks, seqs, (seqs * context,), part)


def ticks(cost: StepCost, shape: StepShape) -> int:
    return cost.step_ticks(shape)


def together(graph: StepGraph, shape: StepShape, part: str, count: Callable[[str], bool]) -> float:
    """What all GPUs of a replica do in a step."""
    found = sum(
        (op.work(mean_shape(shape, op.dealt)).times(op.count) for op in graph.operators if count(op.name)), Work()
    )
    return graph.layout.gpus * getattr(found, part)


# --- what is conserved ----------------------------------------------------------------------------------------------


def divided(name: str) -> bool:
    """Work that tensor parallelism divides: routers, norms, embedding and sampling are done by each GPU."""
    return not any(word in name for word in ("norm", "router", "embedding", "sampling", "permute", "combine", "send"))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("skew", [0.0, 0.8])
def test_all_gpus_together_compute_what_one_would(layout: Layout, skew: float) -> None:
    """Matrices and attention: FLOPs exactly; the rest is repeated by the GPUs of tensor parallelism and no others."""
    shape = mixed(32, 500, 8, 64)
    one, many = build(MOE, Layout(), skew=skew), build(MOE, layout, skew=skew)
    assert together(many, shape, "flops", divided) == pytest.approx(together(one, shape, "flops", divided), rel=1e-12)
    kv = together(many, shape, "kv_bytes", divided)
    assert kv == pytest.approx(together(one, shape, "kv_bytes", divided), rel=1e-12)  # 4 KV heads, tensor <= 4
    for name in ("router", "attn_norm", "sampling"):
        copies = layout.stage // layout.attention_data
        same = together(one, shape, "flops", name.__eq__)
        assert together(many, shape, "flops", name.__eq__) == pytest.approx(copies * same, rel=1e-12)


@pytest.mark.parametrize("layout", [Layout(t, p) for t in (1, 2, 4, 8) for p in (1, 2, 4)], ids=str)
def test_a_pipeline_reads_its_weights_for_every_micro_batch(layout: Layout) -> None:
    shape, name = decodes(32, 100), "gate_up_proj".__eq__
    one, many = build(DENSE, Layout()), build(DENSE, layout)
    weights = together(one, shape, "weight_bytes", name)
    assert together(many, shape, "weight_bytes", name) == pytest.approx(layout.pipeline * weights)
    assert together(many, shape, "flops", divided) == pytest.approx(together(one, shape, "flops", divided))


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout.attention_data > 1], ids=str)
def test_ranks_of_attention_share_experts_and_repeat_the_rest(layout: Layout) -> None:
    shape = decodes(64, 100)
    one, many = build(MOE, Layout(pipeline=layout.pipeline)), build(MOE, layout)
    for name, copies in (("qkv_proj", layout.attention_data), ("experts_down", 1), ("lm_head", layout.attention_data)):
        whole = together(one, shape, "weight_bytes", name.__eq__)
        assert together(many, shape, "weight_bytes", name.__eq__) == pytest.approx(copies * whole)


def test_shared_experts_are_split_over_the_stage() -> None:
    one, many = build(SHARED, Layout()), build(SHARED, Layout(tensor=2, attention_data=2, expert=4))
    for part in ("flops", "weight_bytes"):
        name = "gate_up_proj shared".__eq__
        assert together(many, decodes(64, 9), part, name) == pytest.approx(together(one, decodes(64, 9), part, name))


@pytest.mark.parametrize("layout", [Layout(2, 2), Layout(1, 1, 4, 4), Layout(2, 2, 2, 4)], ids=str)
def test_a_round_waits_for_its_host(layout: Layout) -> None:
    """Padding to CUDA graphs and host time are those of a rank; they and the operators are the steps' time."""
    host = HostTime(step=1e-3, sequence=1e-5, layer=2e-5, eager=1e-4, chunk=1e-3, graph_sizes=(1, 2, 4, 16))
    plain, cost = (
        StepCost(
            build(MOE, layout), H200, load_profile("rule-of-thumb"),
            max_tokens=4096, max_seqs=64, max_context=4096, host=host if used else None,
        )
        for used in (False, True)
    )  # fmt: skip
    log = simulate(generate(load_scenario("chat-poisson", SMALL).config.workload, 1), cost, PARAMS)
    seconds = sum(op.seconds for op in operator_totals(cost, log.timeline)) + host_seconds(cost, log.timeline)
    assert seconds == pytest.approx(float(log.timeline["duration_s"].sum()), rel=1e-9)
    # Three sequences on each rank are padded to four. By hand: every micro-batch waits 1 ms, 3 x 10 us, and 20 us for
    # each of its stage's layers.
    three, four = (plain.step_ticks(decodes(n * layout.ranks, 1)) - plain.decode_ticks(decodes(n * layout.ranks, 1))
                   - plain.rows[n] for n in (3, 4))  # fmt: skip
    padded = cost.fixed_ticks(3 * layout.ranks, 3 * layout.ranks, None) - cost.rows[3]
    assert four > three
    waits = layout.pipeline * (1e-3 + 3e-5 + 2e-5 * 4 / layout.pipeline)
    assert (padded - four) * SECONDS_PER_TICK == pytest.approx(waits, rel=1e-9)


@pytest.mark.parametrize("layout", [Layout(4), Layout(2, 2), Layout(1, 1, 4, 4), Layout(2, 2, 2, 4)], ids=str)
def test_a_run_counts_all_gpus(layout: Layout) -> None:
    """Totals of the accounts times the GPUs: the FLOPs of one GPU, and the steps' time by operators."""
    requests = generate(load_scenario("chat-poisson", SMALL).config.workload, 1)
    flops = []
    for candidate in (Layout(), layout):
        cost = compiled(MOE, candidate, profile="rule-of-thumb")
        log = simulate(requests, cost, PARAMS)
        totals = operator_totals(cost, log.timeline)
        flops.append(candidate.gpus * sum(op.flops for op in totals if divided(op.name)))
        assert sum(op.seconds for op in totals) == pytest.approx(float(log.timeline["duration_s"].sum()), rel=1e-9)
    prompts, outputs = requests.prompt_tokens.sum(), requests.output_tokens.sum()
    matrices = [op for op in build(MOE, Layout()).operators if op.kind in ("gemm", "grouped_gemm") and divided(op.name)]
    each = sum(op.total(StepShape(1, 0, 0, (0,))).flops for op in matrices)
    head = sum(op.total(StepShape(0, 1, 0, (0,))).flops for op in matrices)
    assert flops[1] == pytest.approx(flops[0], rel=1e-9)
    assert flops[0] > each * (prompts + outputs - len(requests.prompt_tokens)) + head * outputs


# --- a layout of one GPU, and others that are alike ------------------------------------------------------------------


@pytest.mark.parametrize("model", [DENSE, MOE], ids=["dense", "moe"])
@pytest.mark.parametrize("profile", ["ideal", "rule-of-thumb"])
def test_one_gpu_is_no_layout(model: Model, profile: str) -> None:
    """Sizes of 1 change nothing, to the bit; a number is tensor parallelism."""
    plain = compiled(model, Layout(), profile=profile)
    number = StepCost(
        build_graph(model, Dense(), Precision(), 1),
        H200, load_profile(profile), max_tokens=4096, max_seqs=64, max_context=4096,
    )  # fmt: skip
    assert plain.tokens == number.tokens and plain.rows == number.rows
    assert plain.ranks == 1 and not plain._others
    assert not [op for op in plain.operators if op.stream == "comm" or op.dealt > 1 or op.busiest]
    for shape in (decodes(5, 77), mixed(3, 100, 2, 50)):
        assert plain.step_ticks(shape) == number.step_ticks(shape)


@pytest.mark.parametrize("tensor", [2, 4])
@settings(max_examples=30, deadline=None)
@given(seqs=st.integers(1, 60), chunks=st.integers(0, 3))
def test_sequence_parallelism_sends_as_much(tensor: int, seqs: int, chunks: int) -> None:
    shape = mixed(seqs, 100, chunks, 100)
    plain, split = build(DENSE, Layout(tensor)), build(DENSE, Layout(tensor, sequence=True))
    everything = lambda _: True  # noqa: E731
    sent = together(plain, shape, "comm_bytes", everything)
    assert together(split, shape, "comm_bytes", everything) == pytest.approx(sent)
    norms = lambda name: "norm" in name  # noqa: E731
    assert together(split, shape, "act_bytes", norms) * tensor == pytest.approx(
        together(plain, shape, "act_bytes", norms)
    )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(LAYOUTS), st.integers(0, 52), st.integers(1, 2000), st.integers(0, 12), st.integers(1, 200),
    st.sampled_from([0.0, 0.8]),
)  # fmt: skip
def test_fp8_is_never_slower_than_bf16(
    layout: Layout, seqs: int, context: int, chunks: int, query: int, skew: float
) -> None:
    """On the ideal profile."""
    shape = mixed(max(seqs, 1 - chunks), context, chunks, query)
    wide, narrow = (_cached(layout, skew, Precision(name, name, name)).step_ticks(shape) for name in ("bf16", "fp8"))
    assert narrow <= wide


def _cached(layout: Layout, skew: float, precision: Precision, cache: dict = {}) -> StepCost:  # noqa: B006
    key = layout, skew, precision
    if key not in cache:
        cache[key] = compiled(MOE, layout, skew=skew, precision=precision)
    return cache[key]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LAYOUTS), st.integers(1, 63), st.integers(1, 2000), st.integers(1, 5))
def test_more_sequences_never_take_less_time(layout: Layout, seqs: int, context: int, more: int) -> None:
    cost = _cached(layout, 0.0, Precision())
    few, many = decodes(seqs, context), decodes(min(seqs + more, 64), context)
    assert cost.step_ticks(few) <= cost.step_ticks(many) * (1 + 1e-9)  # lines have whole-number slopes


@pytest.mark.parametrize("seqs", [1, 8, 33])
def test_a_pipeline_of_few_sequences_is_a_bubble(seqs: int) -> None:
    """With a link without cost a round takes as long as one GPU does for the largest micro-batch."""
    one, four = compiled(DENSE, Layout(), gpu=FAST_LINK), compiled(DENSE, Layout(pipeline=4), gpu=FAST_LINK)
    assert ticks(four, decodes(seqs, 64)) == pytest.approx(ticks(one, decodes(-(-seqs // 4), 64)), rel=1e-9)
    whole = StepShape(64, 1, 0, (0,), PrefillShape(64, 1, (64 * 65 // 2,), (64,)))  # one prompt cannot be dealt
    assert ticks(four, whole) == pytest.approx(ticks(one, whole), rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(LAYOUTS), st.integers(0, 52), st.integers(1, 500), st.integers(0, 12), st.integers(1, 200))
def test_the_rows_add_up_to_the_step(layout: Layout, seqs: int, context: int, chunks: int, query: int) -> None:
    """As `kinesim graph` shows it; contexts between knots are the step's alone, so it is asked on one."""
    shape = mixed(max(seqs, 1 - chunks), 2 ** (context % 12), chunks, query)
    cost = _cached(layout, 0.0, Precision())
    rows = graphview.operator_rows(cost, shape)
    assert sum(row["seconds"] for row in rows) == pytest.approx(cost.step_ticks(shape) * SECONDS_PER_TICK, rel=1e-9)


# --- dealing --------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 40), st.lists(st.integers(1, 50), max_size=9), st.sampled_from([(1, 1), (2, 1), (2, 3), (4, 2)]))
def test_what_is_dealt_out(seqs: int, chunks: list[int], sizes: tuple[int, int]) -> None:
    """Against cards dealt one by one: sequences, and chunks of the mean length, to d ranks of each of p micro-batches.

    An operator that sees all ranks of a micro-batch sees as many sequences from each as the fullest has.
    """
    ranks_each, batches = sizes
    ranks, mean = ranks_each * batches, sum(chunks) / max(len(chunks), 1)

    def most(hands: int, cards: int) -> int:
        held = [0] * hands
        for card in range(cards):
            held[card % hands] += 1
        return max(held)

    for dealt, each in ((ranks, 1), (batches, ranks_each)):
        found = dealt_tokens(seqs + sum(chunks), sum(chunks), len(chunks), ranks, dealt)
        tokens = most(dealt, len(chunks)) * mean
        assert found == most(ranks, seqs) * each + int(np.ceil(tokens - 1e-9))
    part = PrefillShape(sum(chunks), len(chunks), (7.0 * len(chunks),), (sum(chunks),)) if chunks else None
    shape = busiest_shape(StepShape(seqs + sum(chunks), seqs + len(chunks), seqs, (seqs * 9,), part), ranks, ranks)
    assert shape.decode_seqs == most(ranks, seqs) and shape.decode_kv[0] == pytest.approx(9 * shape.decode_seqs)
    if shape.prefill is not None:
        assert shape.prefill.seqs == most(ranks, len(chunks))
        assert shape.prefill.pairs[0] == pytest.approx(7 * shape.prefill.seqs)


# --- routing --------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 256), st.integers(1, 16), st.sampled_from([0.0, 0.45, 0.8, 1.5, 3.0]))
def test_reach(experts: int, top_k: int, skew: float) -> None:
    top_k = min(top_k, experts)
    shares = reach(experts, top_k, skew)
    assert shares.sum() == pytest.approx(top_k) and (np.diff(shares) <= 1e-12).all()
    assert shares.max() <= 1 + 1e-9 and shares.min() > 0
    free = shares[shares < 1 - 1e-9]
    if len(free) > 1:  # in proportion to rank^-skew
        ranks = np.arange(experts - len(free) + 1, experts + 1)
        assert free[0] / free[-1] == pytest.approx((ranks[-1] / ranks[0]) ** skew, rel=1e-6)


def test_experts_that_a_skewed_routing_hits() -> None:
    """By hand: 2 of 4 experts, skew 1, weights 1, 1/2, 1/3, 1/4 (sum 25/12): reach 2 x 12/25 = 0.96, 0.48, 0.32, 0.24;
    3 tokens miss 0.04^3 + 0.52^3 + 0.68^3 + 0.76^3 = 0.894080 of them.
    """
    assert reach(4, 2, 1.0) == pytest.approx([0.96, 0.48, 0.32, 0.24])
    assert experts_hit(3, 4, 2, 1.0) == pytest.approx(4 - 0.894080, rel=1e-6)
    # Beyond 256 tokens between tabulated numbers, 4 % apart: close to the sum itself.
    shares = reach(128, 8, 2.0)
    for tokens in (300, 1000, 5000):
        assert experts_hit(tokens, 128, 8, 2.0) == pytest.approx(np.sum(1 - (1 - shares) ** tokens), rel=1e-4)


def test_skew_hits_fewer_experts() -> None:
    hits = [[float(experts_hit(t, 128, 8, skew)) for skew in (0.0, 0.4, 0.8, 1.2)] for t in (2, 16, 64, 300)]
    assert all(row == sorted(row, reverse=True) for row in hits)
    for skew in (0.0, 0.4, 0.8, 1.2):
        assert experts_hit(1, 128, 8, skew) == pytest.approx(8) and experts_hit(0, 128, 8, skew) == 0


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.sampled_from([(8, 2), (128, 8), (128, 4), (256, 8)]),
       st.sampled_from([2, 4, 8]), st.sampled_from([0.0, 0.45, 0.8]))  # fmt: skip
def test_the_busiest_group(tokens: int, sizes: tuple[int, int], groups: int, skew: float) -> None:
    experts, top_k = sizes
    mean, most = (load(tokens, experts, top_k, groups, skew) for load in (mean_load, busiest_load))
    assert mean.pairs * groups == pytest.approx(tokens * top_k)
    assert mean.pairs <= most.pairs <= min(tokens * min(top_k, experts / groups), mean.pairs * groups) * (1 + 1e-9)
    assert mean.hit <= most.hit * (1 + 1e-9) and most.hit <= min(experts / groups, most.pairs) * (1 + 1e-9)
    alone = busiest_load(tokens, experts, top_k, 1, skew)
    assert alone == mean_load(tokens, experts, top_k, 1, skew)


@pytest.mark.parametrize(("tokens", "groups", "skew"), [(8, 4, 0.0), (64, 8, 0.0), (64, 4, 0.8), (1024, 8, 0.8)])
def test_the_busiest_group_by_drawing(tokens: int, groups: int, skew: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """128 experts in random order, 8 different ones a token: the mean over draws of the largest of the groups' pairs.

    Draws give 0.8 for the constant that deployments put at 0.4; the formula around it is what is tested.
    Tokens choose one after the other in proportion to the reach, so reaches near 1 are only roughly met.
    """
    rng = np.random.default_rng(7)
    shares, largest, hit = reach(128, 8, skew), [], []
    for _ in range(300):
        order = rng.permutation(128)
        keys = rng.exponential(size=(tokens, 128)) / shares
        chosen = order[np.argpartition(keys, 8, axis=1)[:, :8]]
        per_expert = np.bincount(chosen.ravel(), minlength=128).reshape(groups, -1)
        largest.append(per_expert.sum(axis=1).max())
        hit.append((per_expert > 0).sum(axis=1).max())
    monkeypatch.setattr(routing, "EXCESS", 0.8)
    load = busiest_load(tokens, 128, 8, groups, skew)
    assert load.pairs == pytest.approx(np.mean(largest), rel=0.08)
    assert load.hit == pytest.approx(np.mean(hit), rel=0.08)


@pytest.mark.parametrize(
    ("sets", "skew"),
    [
        (["model=qwen3-30b-a3b", "engine=none"], 0.0),
        (["model=qwen3-30b-a3b", "engine=vllm"], LEARNED_SKEW),
        (["model=qwen3-30b-a3b", "engine=vllm", "parallelism.routing_skew=0.3"], 0.3),
        (["model=minimax-m2.5", "engine=vllm", "parallelism.tensor=4"], BALANCED_SKEW),
        (["model=qwen3-8b", "engine=vllm"], 0.0),
    ],
)
def test_the_usual_skew(sets: list[str], skew: float) -> None:
    """Routing is uneven as soon as an engine is named: what is measured is."""
    made = deploy(load_scenario("chat-poisson", ["profile=ideal", *sets]))
    assert made.graph.routing_skew == skew
    assert {op.block.skew for op in made.cost.operators if op.block} == ({skew} if made.graph.model.moe else set())


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "layout", "place", "words"),
    [
        (DENSE, Layout(2, expert=2), "parallelism.expert", "dense: it has no experts"),
        (DENSE, Layout(1, attention_data=2), "parallelism.attention_data", "replicas of their own"),
        (DENSE, Layout(pipeline=5), "parallelism.pipeline", "more stages than"),
        (DENSE, Layout(sequence=True), "parallelism.sequence", "shares the tokens"),
        (MOE, Layout(4, expert=3), "parallelism.expert", "cannot form 3 equal groups"),
        (MOE, Layout(2, expert=4), "parallelism.expert", "cannot form 4 equal groups"),
        (MOE, Layout(3, attention_data=3, expert=9), "parallelism.expert", "equal parts of the 128 experts"),
        (MOE, Layout(3), "parallelism.tensor", "does not divide num_attention_heads = 32"),
        (MOE, Layout(1, attention_data=5), "parallelism.expert", "does not divide intermediate_size of an expert"),
        (SHARED, Layout(1, attention_data=3), "parallelism.attention_data", "intermediate_size of the shared experts"),
        (MOE, Layout(2, attention_data=2, sequence=True), "parallelism.sequence", "without attention_data"),
    ],
)
def test_refused_layouts(model: Model, layout: Layout, place: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        build(model, layout)
    assert error.value.place == place and words in error.value.problem and error.value.allowed
    assert not divides(model, layout)
