"""Expert parallelism at width: all-to-all, several domains of the link, copies of experts, routing to many groups."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from madeprofiles import LABELS, RANGES, group, profile

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu, load_gpu
from simulator import routing
from simulator.accounting import OperatorTotals
from simulator.calibrated import FALLBACK, Calibrated
from simulator.calls import call_label, kernel_call
from simulator.deployment import deploy
from simulator.drafting import Draft, prediction_module
from simulator.exchange import FEW
from simulator.interval import run_interval
from simulator.layout import check_link
from simulator.operators import Operator
from simulator.policy import SECONDS_PER_TICK
from simulator.profile import load_profile
from simulator.routing import busiest_load, copies, destinations, mean_load, reach
from simulator.selection import Library, Selection
from simulator.shape import StepShape, mean_shape
from simulator.span import Span
from simulator.stepcost import StepCost
from simulator.stepgraph import Layout, Precision, StepGraph, build_graph
from workloads.attention import Dense
from workloads.model import Model, load_model
from workloads.scenario import load_scenario


def short(name: str, layers: int, **moe: int) -> Model:
    """A bundled MoE with few layers, all of them with experts."""
    model = load_model(name)
    assert model.moe is not None
    parts = dataclasses.replace(model.moe, moe_layers=(True,) * layers, **moe)
    return dataclasses.replace(model, layers=layers, layer_windows=(None,) * layers, moe=parts)


QWEN = short("Qwen/Qwen3-30B-A3B", 4)
SHARED = short("Qwen/Qwen3-30B-A3B", 4, shared_intermediate=768)
DEEP = short("deepseek-r1", 2)
RACK, NODE = load_gpu("gb200"), load_gpu("gb200").with_values({"link.domain": 8})


@lru_cache(maxsize=256)
def compiled(model: Model, layout: Layout, gpu: Gpu, profile: str = "ideal", skew: float = 0.0) -> StepCost:
    graph = build_graph(model, Dense(), Precision(), layout, routing_skew=skew)
    return StepCost(graph, gpu, load_profile(profile), max_tokens=8192, max_seqs=64 * layout.ranks, max_context=4096)


def graph(model: Model, layout: Layout, skew: float = 0.0) -> StepGraph:
    return build_graph(model, Dense(), Precision(), layout, routing_skew=skew)


def named(of: StepGraph, name: str) -> Operator:
    return next(op for op in of.operators if op.name == name)


def decodes(seqs: int, context: int) -> StepShape:
    return StepShape(seqs, seqs, seqs, (seqs * context,))


# --- the all-to-all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["high_throughput", "low_latency", "auto"])
@pytest.mark.parametrize("profile", ["ideal", "rule-of-thumb"])
def test_over_one_gpu_it_is_none(way: str, profile: str) -> None:
    """To the bit: one GPU holds all experts, and nothing is sent."""
    plain = compiled(QWEN, Layout(), RACK, profile)
    same = compiled(QWEN, Layout(all_to_all=way, shared_experts="repeated"), RACK, profile)
    assert [op.name for op in same.operators] == [op.name for op in plain.operators]
    assert (same.tokens, same.rows, same.ranks) == (plain.tokens, plain.rows, 1)
    for seqs in (1, 7, 64):
        assert same.step_ticks(decodes(seqs, 300)) == plain.step_ticks(decodes(seqs, 300))


@pytest.mark.parametrize(
    ("units", "experts", "top_k", "groups", "top_groups"),
    [
        (8, 128, 8, 1, 1),
        (4, 256, 8, 8, 4),
        (8, 256, 8, 8, 4),
        (32, 256, 8, 8, 4),
        (64, 256, 8, 1, 1),
        (72, 288, 8, 1, 1),
    ],
)
def test_destinations_by_drawing(units: int, experts: int, top_k: int, groups: int, top_groups: int) -> None:
    """By DeepSeek-V3's rule, where there are groups: 6.84 GPUs of 32 rather than the 7 of two experts in each group."""
    rng, found = np.random.default_rng(3), []
    part, held = experts // groups, experts // units
    for _ in range(3000):
        scores = rng.logistic(size=experts)
        best = sorted(range(groups), key=lambda g: -sum(sorted(scores[g * part : (g + 1) * part])[-2:]))[:top_groups]
        pool = [e for g in best for e in range(g * part, (g + 1) * part)]
        chosen = sorted(pool, key=lambda e: -scores[e])[:top_k]
        found.append(len({e // held for e in chosen}))
    assert destinations(units, experts, top_k, groups, top_groups) == pytest.approx(np.mean(found), rel=0.015)


def test_destinations_by_hand() -> None:
    """2 of 4 experts on 4 GPUs are on 2; on 2 GPUs of two each, both on the first of three partners with 1/3."""
    assert destinations(4, 4, 2) == pytest.approx(2)
    assert destinations(2, 4, 2) == pytest.approx(2 - 1 / 3)
    assert destinations(1, 128, 8) == 1


@pytest.mark.parametrize("model", [QWEN, DEEP], ids=["qwen", "deepseek"])
@pytest.mark.parametrize("ranks", [8, 16, 32, 64])
def test_what_is_sent_is_what_arrives(model: Model, ranks: int) -> None:
    """High throughput: copies over links and a GPU's own are the tokens that its experts see, over all GPUs."""
    layout = Layout(1, attention_data=ranks, expert=ranks, all_to_all="high_throughput")
    built, moe = graph(model, layout), model.moe
    assert moe is not None
    shape = mean_shape(decodes(20 * ranks, 100), ranks)
    dispatch, permute = named(built, "experts_dispatch"), named(built, "permute")
    width = model.hidden * 2
    sent = dispatch.work(shape).comm_bytes / width * ranks
    arrived = permute.block.arriving * 20 * ranks * ranks  # type: ignore[union-attr]
    assert arrived == pytest.approx(sent / (1 - 1 / ranks))
    assert sent <= 20 * ranks * min(moe.top_k, ranks - 1)
    assert named(built, "experts_combine").work(shape).comm_bytes == pytest.approx(sent * width / ranks)


@pytest.mark.parametrize("ranks", [8, 64])
def test_low_latency_sends_every_pair(ranks: int) -> None:
    layout = Layout(1, attention_data=ranks, expert=ranks, all_to_all="low_latency")
    shape = mean_shape(decodes(20 * ranks, 100), ranks)
    sent = named(graph(QWEN, layout), "experts_dispatch").work(shape).comm_bytes
    assert sent == pytest.approx(20 * 8 * (1 - 1 / ranks) * 2048 * 2)
    many = Layout(1, attention_data=ranks, expert=ranks, all_to_all="high_throughput")
    assert named(graph(QWEN, many), "experts_dispatch").work(shape).comm_bytes < sent


def test_auto_runs_the_kernels_that_suit_the_tokens() -> None:
    few, many, both = (
        compiled(QWEN, Layout(1, attention_data=8, expert=8, all_to_all=way), RACK, "rule-of-thumb")
        for way in ("low_latency", "high_throughput", "auto")
    )
    dealt = both.graph.layout.ranks
    for tokens in (1, FEW, FEW + 1, 900):
        found = [
            op for op in both.operators if op.kind == "all_to_all" and op.work(StepShape(tokens, 0, 0, ())).comm_bytes
        ]
        assert [op.name for op in found] == [
            f"experts_{phase}_{'ll' if tokens <= FEW else 'ht'}" for phase in ("dispatch", "combine")
        ]
        assert all(op.dealt == dealt for op in found)
        assert both.tokens[tokens] == (few if tokens <= FEW else many).tokens[tokens]


def test_ranks_keep_their_shared_experts() -> None:
    """With an all-to-all there are no others' tokens to share them for: the same work, their weights repeated."""
    shape = decodes(64, 9)

    def total(layout: Layout, part: str) -> float:
        built = graph(SHARED, layout)
        op = named(built, "gate_up_proj shared")
        return layout.gpus * getattr(op.work(mean_shape(shape, op.dealt)), part)

    split = Layout(1, attention_data=8, expert=8)
    for other in (dataclasses.replace(split, all_to_all="auto"), dataclasses.replace(split, shared_experts="repeated")):
        assert total(other, "flops") == pytest.approx(total(split, "flops"))
        assert total(other, "weight_bytes") == pytest.approx(8 * total(split, "weight_bytes"))
    # Two GPUs share each of four copies.
    pairs = Layout(2, attention_data=4, expert=8, all_to_all="auto")
    assert total(pairs, "weight_bytes") == pytest.approx(4 * total(split, "weight_bytes"))


def test_the_columns_of_its_kernel() -> None:
    layout = Layout(1, attention_data=32, expert=32, all_to_all="low_latency")
    op = named(graph(DEEP, layout), "experts_combine")
    assert call_label(op) == ("expert_all_to_all", {"phase": "combine", "dtype": "bf16", "mode": "ll"})
    for domain, nodes in ((72, 1), (8, 4)):
        call = kernel_call(op, StepShape(100, 0, 0, ()), domain)
        assert call is not None
        assert (call.shape["ep"], call.shape["nodes"], call.shape["hidden"], call.shape["sms"]) == (32, nodes, 7168, 0)
        uneven = busiest_load(3200, 256, 8, 32, 0.0).pairs / (3200 * 8 / 32)
        assert call.shape["tokens"] == pytest.approx(100 * uneven) and uneven > 1


@pytest.mark.parametrize("seqs", [1, 40, 100, 300])
def test_a_drafter_sends_the_tokens_of_its_passes(seqs: int) -> None:
    """Four tokens of each sequence, and then one: the columns of kernels, and which run, are those of the work."""
    layout = Layout(1, attention_data=32, expert=32, all_to_all="auto")
    draft = Draft(3, prediction_module(DEEP), Precision(), shared=True)
    made = build_graph(DEEP, Dense(), Precision(), layout, draft=draft)
    ops = [op for op in made.operators if op.kind == "all_to_all"]
    assert len(ops) == 12 and sum("later drafts" in op.name for op in ops) == 4
    shape = StepShape(4 * seqs, 4 * seqs, seqs, (seqs * 1000,))
    for op in ops:
        call = kernel_call(op, shape, 72)
        assert call is not None and op.busiest is not None
        sent = op.dims.copies() * op.dims.width
        assert bool(call.used) == (op.work(shape).comm_bytes > 0), op.name
        if call.used:
            assert call.shape["tokens"] == pytest.approx(op.busiest(shape).comm_bytes / sent), op.name
            tokens = seqs if "later" in op.name else 4 * seqs
            assert op.work(shape).comm_bytes == pytest.approx(sent * tokens), op.name


def test_what_was_measured_with_a_number_of_sms_is_not_beyond_it() -> None:
    """Steps leave their number to the kernel."""
    gpu, layout = load_gpu("h200-sxm"), Layout(1, attention_data=8, expert=8, all_to_all="high_throughput")
    label = LABELS["expert_all_to_all"]
    assert RANGES["expert_all_to_all"]["sms"] == (20, 20)
    made = [group("expert_all_to_all", label={**label, "phase": phase}) for phase in ("dispatch", "combine")]
    own = profile("h200-sxm@vllm-1", (*made, group("gemm"), group("moe")))
    calibrated = Calibrated(gpu, Selection(gpu, "vllm-1", library=Library([own])), load_profile(FALLBACK))
    step = build_graph(QWEN, Dense(), Precision(), layout)
    cost = StepCost(step, gpu, calibrated, max_tokens=256, max_seqs=8, max_context=64)
    totals = [OperatorTotals(op.name, op.kind, 1.0, {"link": 1.0}, *[0.0] * 8) for op in cost.operators]
    found = run_interval(cost, totals, makespan=1.0, busy=1.0, tpot=None)
    assert found is not None
    exchanged = [entry["status"] for entry in found["kernels"] if entry["kind"] == "expert_all_to_all"]
    assert exchanged == ["interpolated", "interpolated"]


def test_few_tokens_come_to_each_gpu() -> None:
    """The experts' kernel passes over those alone; DeepSeek's correction is not that of its degenerate measurement."""
    layout = Layout(1, attention_data=32, expert=32)
    shape = StepShape(3200, 0, 0, ())
    plain, sent = (
        kernel_call(named(graph(DEEP, dataclasses.replace(layout, all_to_all=way)), "experts_down"), shape, 72)
        for way in ("none", "auto")
    )
    assert plain is not None and sent is not None and "arriving" not in plain.shape
    part = destinations(32, 256, 8, 8, 4) / 32
    assert sent.shape["arriving"] == pytest.approx(3200 * part)
    assert not plain.lookup  # bf16 was measured with a routing that is none of that kind
    sets = ["model=deepseek-r1", "gpu=gb200", "profile=ideal", "parallelism={attention_data: 32, expert: 32}"]
    call = kernel_call(named(deploy(load_scenario("chat-poisson", sets)).graph, "experts_down [moe]"), shape, 72)
    assert call is not None and call.lookup == {"tokens": 4800, "experts": 384, "ep": 48}
    sets[-1] = "parallelism.tensor=8"
    call = kernel_call(named(deploy(load_scenario("chat-poisson", sets)).graph, "experts_down [moe]"), shape, 72)
    assert call is not None and call.lookup == {"tokens": 4800, "experts": 384}


# --- domains of the link, and what lies beyond ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "domain", "domains"),
    [
        (Span(8, 1, 8), 8, 1),
        (Span(16, 1, 16), 8, 2),
        (Span(16, 1, 16), 72, 1),
        (Span(2, 1, 16), 8, 1),  # tensor parallelism of 2 beside attention data parallelism of 8
        (Span(8, 2, 16), 8, 2),  # its ranks: every second GPU of both nodes
        (Span(4, 8, 32), 8, 4),  # tensor parallelism of 8, four ranks: one GPU of each node
        (Span(2, 8, 16), 8, 2),  # two stages of 8
        (Span(2, 4, 8), 8, 1),
        (Span(96, 1, 96), 72, 2),  # 48 in each of two racks
    ],
)
def test_where_groups_lie(span: Span, domain: int, domains: int) -> None:
    assert span.domains(domain) == domains and span.members(domain) == span.gpus / domains


def test_an_all_reduce_over_two_nodes_by_hand() -> None:
    """16 H200, 64 rows of 4,096 elements of 2 bytes: a ring moves 2 x 15/16 x 524,288 = 983,040 B over every link, of
    which each of a node's eight adapters passes an eighth, 122,880 B at 50 GB/s: 2.4576 us, more than the 983,040 /
    450,000 = 2.18453 us over NVLink; and twice one step of 2.7 us between the nodes.
    """
    model = dataclasses.replace(load_model("Qwen/Qwen3-8B"), layers=2, layer_windows=(None, None))
    gpu, layout = load_gpu("h200-sxm"), Layout(16)
    cost = compiled(model, layout, gpu)
    op = named(cost.graph, "attn_all_reduce")
    assert cost.terms(op, decodes(64, 10)).seconds == pytest.approx(2.4576e-6 + 5.4e-6)
    wide = compiled(model, layout, gpu.with_values({"link.domain": 16}))
    assert wide.terms(op, decodes(64, 10)).seconds == pytest.approx(983_040 / 450e9)


def test_an_all_to_all_over_two_nodes_by_hand() -> None:
    """16 ranks of H200 with 20 tokens each of 2,048 bf16 elements, 8 of 128 experts. Low latency: 20 x 8 x 15/16 = 150
    copies a GPU, 614,400 B, of which half the pairs, 80 copies, cross: 327,680 B at 50 GB/s are 6.5536 us, and 2.7 us.
    """
    cost = compiled(QWEN, Layout(1, attention_data=16, expert=16, all_to_all="low_latency"), load_gpu("h200-sxm"))
    op = dataclasses.replace(named(cost.graph, "experts_dispatch"), busiest=None)
    assert op.work(StepShape(20, 0, 0, ())).comm_bytes == pytest.approx(614_400)
    assert cost.kernel_terms(op, StepShape(20, 0, 0, ())).seconds == pytest.approx(6.5536e-6 + 2.7e-6)


LAYOUTS = [
    Layout(tensor, pipeline, data, expert, all_to_all=way)
    for tensor in (1, 2, 4, 8)
    for pipeline in (1, 2)
    for data in (1, 4, 8, 16, 32)
    for expert in {1, tensor, tensor * data}
    for way in ("none", "high_throughput", "low_latency", "auto")
    if tensor * pipeline * data <= 64 and (way == "none" or (data > 1 and expert == tensor * data))
    if QWEN.moe.experts % expert == 0  # type: ignore[union-attr]
]


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(LAYOUTS), st.sampled_from(["ideal", "rule-of-thumb"]), st.sampled_from([0.0, 0.45]),
    st.integers(1, 500), st.integers(1, 2000), st.sampled_from([4, 8, 16, 32]),
)  # fmt: skip
def test_a_domain_cut_is_never_faster(
    layout: Layout, profile: str, skew: float, seqs: int, context: int, domain: int
) -> None:
    cut = RACK.with_values({"link.domain": domain})
    try:
        check_link(layout, cut)
    except InputError:
        return  # tensor parallelism that does not lie evenly
    shape = decodes(min(seqs, 64 * layout.ranks), context)
    whole = compiled(QWEN, layout, RACK, profile, skew).step_ticks(shape)
    assert compiled(QWEN, layout, cut, profile, skew).step_ticks(shape) >= whole
    if layout.gpus <= domain:
        assert compiled(QWEN, layout, cut, profile, skew).step_ticks(shape) == whole


@pytest.mark.parametrize("way", ["none", "high_throughput", "low_latency"])
def test_a_domain_cut_is_never_faster_with_fitted_kernels(way: str) -> None:
    sets = ["model=qwen3-30b-a3b", "gpu=gb200", "parallelism={tensor: 1, attention_data: 16, expert: 16}"]
    sets += [f"parallelism.all_to_all={way}", "engine.max_num_batched_tokens=512", "engine.max_num_seqs=64"]
    whole, cut = (deploy(load_scenario("chat-poisson", [*sets, *more])).cost for more in ([], ["gpu.link.domain=8"]))
    for seqs in (1, 16, 100, 1000):
        assert cut.step_ticks(decodes(seqs, 500)) > whole.step_ticks(decodes(seqs, 500))


def test_layouts_beyond_the_link() -> None:
    lonely = load_gpu("l40s")
    with pytest.raises(InputError, match=r"parallelism: the replica reaches beyond the 8 GPUs .* no network"):
        check_link(Layout(4, pipeline=4), lonely)
    with pytest.raises(InputError, match=r"parallelism\.tensor: tensor parallelism reaches beyond the 8 GPUs"):
        check_link(Layout(16), lonely)
    for bad in (Layout(9), Layout(4, attention_data=3), Layout(1, attention_data=17)):
        with pytest.raises(InputError, match="do not lie evenly"):
            check_link(bad, NODE)
    for good in (Layout(8, pipeline=2), Layout(16), Layout(1, attention_data=64, expert=64), Layout(4, pipeline=3)):
        check_link(good, NODE)


def test_a_rack_needs_a_network_for_more() -> None:
    check_link(Layout(1, attention_data=72, expert=72), RACK)
    check_link(Layout(1, attention_data=144, expert=144), RACK)
    alone = load_gpu({"base": "gb200", "scale_out": None})
    with pytest.raises(InputError, match="beyond the 72 GPUs"):
        check_link(Layout(1, attention_data=144, expert=144), alone)


# --- routing to many groups -------------------------------------------------------------------------------------------


def drawn(tokens: int, experts: int, top_k: int, skew: float, rng: np.random.Generator) -> np.ndarray:
    """Tokens of each expert in one draw with exactly these probabilities: systematic sampling in a random order."""
    shares, counts = reach(experts, top_k, skew), np.zeros(experts)
    for _ in range(tokens):
        order = rng.permutation(experts)
        ends = np.cumsum(shares[order])
        counts[order[np.searchsorted(ends, rng.random() + np.arange(top_k)).clip(0, experts - 1)]] += 1
    return counts


@pytest.mark.parametrize(
    ("experts", "groups", "skew", "tokens"),
    [(256, 16, 0.0, 64), (256, 32, 0.45, 64), (256, 64, 0.45, 512), (256, 64, 0.0, 64), (288, 72, 0.45, 256),
     (128, 16, 0.9, 128), (128, 64, 0.9, 64), (128, 128, 0.45, 200)],
)  # fmt: skip
def test_the_busiest_of_many_groups_by_drawing(
    experts: int, groups: int, skew: float, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One to sixteen experts a group: the mean over draws of the largest; draws give 0.8 for EXCESS."""
    rng = np.random.default_rng(11)
    largest, hit = [], []
    for _ in range(40):
        counts = rng.permutation(drawn(tokens, experts, 8, skew, rng)).reshape(groups, -1)
        largest.append(counts.sum(axis=1).max())
        hit.append((counts > 0).sum(axis=1).max())
    monkeypatch.setattr(routing, "EXCESS", routing.DRAWN)
    load = busiest_load(tokens, experts, 8, groups, skew)
    assert load.pairs == pytest.approx(np.mean(largest), rel=0.1)
    assert load.hit == pytest.approx(np.mean(hit), rel=0.1)


def test_copies_by_hand() -> None:
    """2 of 4 experts, skew 1: reaches 0.96, 0.48, 0.32, 0.24. Two copies: the first expert is halved, 0.48; then it and
    the second are alike, and the first is taken: three of 0.32. Each goes to the lighter of two groups of three: 0.48 +
    0.32 + 0.24 = 1.04, and 3 x 0.32 = 0.96.
    """
    assert sorted(copies(4, 2, 1.0, 2), reverse=True) == pytest.approx([0.48, 0.32, 0.32, 0.32, 0.32, 0.24])
    assert routing._placed(4, 2, 2, 1.0, 2) == pytest.approx(0.04)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([(256, 8), (128, 8), (384, 8)]), st.sampled_from([16, 32, 64]),
       st.sampled_from([0.0, 0.45, 0.9]), st.integers(1, 4), st.integers(1, 20_000))  # fmt: skip
def test_copies_relieve_the_busiest(sizes: tuple[int, int], groups: int, skew: float, more: int, tokens: int) -> None:
    experts, top_k = sizes
    redundant = more * groups
    shares = copies(experts, top_k, skew, redundant)
    assert len(shares) == experts + redundant and shares.sum() == pytest.approx(top_k)
    assert shares.max() <= reach(experts, top_k, skew).max() + 1e-12
    with_, without = (busiest_load(tokens, experts, top_k, groups, skew, n) for n in (redundant, 0))
    mean = mean_load(tokens, experts, top_k, groups, skew, redundant)
    assert mean.pairs == pytest.approx(tokens * top_k / groups) and mean.pairs <= with_.pairs * (1 + 1e-9)
    # Equal shares cannot be copied to advantage: some copies then have half of an expert's tokens.
    assert with_.pairs <= without.pairs * (1.001 if skew else 1.3)
    assert with_.hit <= (experts + redundant) / groups * (1 + 1e-9)


def test_copies_are_weights_of_a_gpu() -> None:
    plain, more = (graph(QWEN, Layout(1, attention_data=16, expert=16, redundant_experts=n), 0.45) for n in (0, 16))
    shape = StepShape(100_000, 0, 0, ())  # all are hit: 8 and 9 experts
    weights = [named(g, "experts_down").work(shape).weight_bytes for g in (plain, more)]
    assert weights[1] / weights[0] == pytest.approx(9 / 8, rel=1e-3)
    call = kernel_call(named(more, "experts_down"), shape, 72)
    assert call is not None and call.shape["experts"] / call.shape["ep"] == pytest.approx(9)


# --- scenarios --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "place", "words"),
    [
        (Layout(1, attention_data=256, expert=256), "expert", "more groups than the 128 experts"),
        (Layout(1, attention_data=24, expert=24), "expert", "equal parts of the 128 experts"),
        (Layout(1, attention_data=24, expert=24, redundant_experts=15), "expert", "equal parts of the 143 experts"),
        (Layout(1, redundant_experts=4), "redundant_experts", "a single group holds them all"),
        (Layout(8, expert=8, all_to_all="auto"), "all_to_all", "several ranks of attention"),
        (Layout(1, attention_data=8, expert=4, all_to_all="auto"), "all_to_all", "whole experts"),
    ],
)
def test_refused(layout: Layout, place: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        graph(QWEN, layout)
    assert error.value.place == f"parallelism.{place}" and error.value.allowed
    if words.startswith("equal parts of the 128"):
        assert "16 more places" in (error.value.allowed or "")


@pytest.mark.parametrize("sets", [["redundant_experts=8"], ["all_to_all=auto", "attention_data=1", "tensor=2"]])
def test_a_dense_model_has_none(sets: list[str]) -> None:
    with pytest.raises(InputError, match="is dense: it has no experts"):
        deploy(load_scenario("chat-poisson", ["profile=ideal", *(f"parallelism.{value}" for value in sets)]))


def test_the_engine_decides_what_is_left_open() -> None:
    parallel = {"tensor": 1, "attention_data": 8, "expert": 8}
    engine = {"all_to_all": "auto", "shared_experts": "repeated"}
    found = Layout.given(parallel, engine)
    assert (found.all_to_all, found.shared_experts) == ("auto", "repeated")
    for given_ in ({"expert": 4}, {"attention_data": 1, "tensor": 8}):  # nothing to exchange
        assert Layout.given(parallel | given_, engine).all_to_all == "none"
    named_ = parallel | {"all_to_all": "none", "shared_experts": "split", "routing_skew": 0.3}
    assert Layout.given(named_, engine) == Layout(1, 1, 8, 8)
    assert str(found) == "tp1 dp8 ep8 auto"
    assert str(Layout(1, 1, 32, 32, redundant_experts=32, all_to_all="low_latency")) == "tp1 dp32 ep32 +32 low-latency"


def test_long_steps_of_many_ranks() -> None:
    """By lines between numbers of tokens 1/64 of an octave apart: within 1 % of the cost model at all of them."""
    layout = Layout(1, attention_data=16, expert=16, all_to_all="auto")
    built, profile = graph(QWEN, layout), load_profile("rule-of-thumb")
    cost = StepCost(built, RACK, profile, max_tokens=40_000, max_seqs=256, max_context=4096)
    numbers = np.array([8192, 8193, 8300, 12_345, 20_000, 39_999, 40_000])
    for op_dealt, table in ((16, cost.tokens), *cost._others):
        ops = [op for op in cost.operators if op.axis == "tokens" and op.dealt == op_dealt]
        whole = sum(op.count * cost.kernel_terms(op, StepShape(numbers, 0, 0, (0,))).seconds for op in ops)
        assert [table[n] * SECONDS_PER_TICK for n in numbers] == pytest.approx(list(whole), rel=0.01)
        assert table[8192] * SECONDS_PER_TICK == pytest.approx(float(whole[0]), rel=1e-9)


def test_shared_experts_run_beside_the_others() -> None:
    """By hand: two matrices of 2,048 x 768 and one back, 2 bytes each, at 8 TB/s, in place of three launches; above the
    limit nothing changes. One GPU, four layers.
    """
    built, profile = graph(SHARED, Layout()), load_profile("rule-of-thumb")
    plain, beside = (
        StepCost(built, RACK, profile, max_tokens=600, max_seqs=64, max_context=4096, beside=few) for few in (0, 256)
    )
    ops = [op for op in built.operators if op.beside]
    assert [op.name for op in ops] == ["gate_up_proj shared", "silu_mul shared", "down_proj shared"]
    step = StepShape(1, 0, 0, (0,))
    seconds = [4 * beside.kernel_terms(op, step).seconds for op in ops]
    assert seconds[0] == pytest.approx(4 * 2 * 2048 * 768 * 2 / 8e12)
    assert seconds[2] == pytest.approx(4 * 2048 * 768 * 2 / 8e12)
    saved = sum(4 * plain.kernel_terms(op, step).seconds for op in ops) - sum(seconds)
    assert (plain.tokens[1] - beside.tokens[1]) * SECONDS_PER_TICK == pytest.approx(saved, rel=1e-9) and saved > 1e-5
    assert plain.tokens[256] > beside.tokens[256] and plain.tokens[257:] == beside.tokens[257:]
