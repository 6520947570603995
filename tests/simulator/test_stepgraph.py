"""The operator graph: every weight is read once, every layer is there, and parallelism divides the work."""

from __future__ import annotations

import dataclasses
from collections import Counter

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.operators import Gemm, Work, experts_hit
from simulator.shape import PrefillShape, StepShape, causal_pairs, keys_read
from simulator.stepgraph import Layout, Precision, StepGraph, build_graph, check_layout
from workloads.attention import AttentionPolicy, BlockTopK, Dense, SlidingWindow, TopK
from workloads.model import Model, list_models, load_model

MODELS = [load_model(name) for name in list_models()]
QWEN = load_model("Qwen/Qwen3-8B")
WINDOWS = dataclasses.replace(QWEN, layer_windows=tuple(512 if i % 3 else None for i in range(36)))
COMM = ("all_reduce", "all_gather")
MATRICES = ("gemm", "grouped_gemm", "mla_bmm")
"""What multiplies by the model's weights."""
REPEATED = ("router", "latent_down_proj", "index_")
"""Projections that every GPU of tensor parallelism does."""


def build(model: Model = QWEN, policy: AttentionPolicy = Dense(), tensor: int = 1, precision=Precision()) -> StepGraph:
    return build_graph(model, policy, precision, tensor)


def total(graph: StepGraph, shape: StepShape, *kinds: str) -> Work:
    work = Work()
    for op in graph.operators:
        if op.kind in kinds or not kinds:
            work += op.total(shape)
    return work


def decodes(graph: StepGraph, seqs: int, context: int) -> StepShape:
    kv = tuple(seqs * (context if cap is None else min(context, cap)) for cap in graph.decode_caps)
    return StepShape(seqs, seqs, seqs, kv)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_weight_is_read_once_a_step(model: Model) -> None:
    """With so many tokens that every expert is hit; the embedding is looked up, not read through."""
    tokens = 1_000_000
    graph = build(model)
    gemms = total(graph, decodes(graph, tokens, 1), *MATRICES)
    counts = model.parameter_counts()
    matrices = sum(counts.values()) - counts["norms"] - counts["embedding"]
    if model.tie_embeddings:
        matrices += model.vocab * model.hidden - counts["lm_head"]  # the head is the embedding
    bytes_read = gemms.weight_bytes
    if model.moe and model.moe.router_dtype == "fp32":
        bytes_read -= 2 * model.layers * model.moe.experts * model.hidden
    biases = matrices - bytes_read / 2
    assert -1e-9 * matrices <= biases <= 1e-3 * matrices
    if model.linear is not None:
        # The taps of the convolution are read beside matrices; decays, and the shared experts' gate, are not counted.
        left = sum(model.layer_linear) * (model.linear.conv_width * model.linear.channels + 2 * model.linear.v_heads)
        assert biases == left + model.layers * model.hidden
        assert total(graph, decodes(graph, tokens, 1), "linear_attention").weight_bytes == 2 * (left - 45 * 2 * 64)
    elif not (model.attention_bias or model.output_bias or model.mlp_bias or (model.moe and model.moe.router_bias)):
        assert bytes_read == pytest.approx(2 * matrices, rel=1e-9)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_flops_are_two_per_active_parameter_and_token(model: Model) -> None:
    graph, tokens = build(model), 1000
    flops = total(graph, decodes(graph, tokens, 1), *MATRICES).flops
    counts = model.parameter_counts()
    head = model.vocab * model.hidden
    embedding = counts["embedding"] if model.embedding_is_active else 0
    active = model.active_parameters - counts["norms"] - embedding - counts["lm_head"] + head
    assert flops == pytest.approx(2 * active * tokens, rel=1e-3)


@pytest.mark.parametrize("model", [*MODELS, WINDOWS], ids=lambda model: model.name)
def test_every_layer_has_its_parts(model: Model) -> None:
    graph = build(model)
    assert nx.is_directed_acyclic_graph(graph.dag)
    parts: Counter[str] = Counter()
    for op in graph.operators:
        parts[op.name.split(" ")[0]] += op.count
    linear, latent = sum(model.layer_linear), model.layers if model.latent else 0
    assert parts["attn_norm"] == parts["mlp_norm"] == model.layers
    for name in ("rope_kv_write", "attention_decode", "attention_prefill", "o_proj"):
        assert parts[name] == model.layers - linear, name
    assert parts["qkv_proj"] == model.layers - linear - latent
    for name in ("linear_in_proj", "causal_conv_decode", "delta_rule_decode", "delta_rule_prefill", "linear_out_proj"):
        assert parts[name] == linear, name
    assert parts["latent_down_proj"] == parts["q_up_proj"] == latent
    indexed = latent if model.latent and model.latent.indexer else 0
    assert parts["index_scores_decode"] == parts["index_select_prefill"] == indexed
    assert parts["kv_up_proj"] == parts["absorb_query"] == parts["expand_value"] == latent - indexed
    assert parts["absorb_query_decode"] == parts["expand_value_prefill"] == indexed
    moe_layers = sum(model.moe.moe_layers) if model.moe else 0
    assert parts["experts_down"] == parts["router"] == moe_layers
    assert parts["embedding"] == parts["final_norm"] == parts["lm_head"] == parts["sampling"] == 1


def test_one_source_and_one_sink() -> None:
    for model in MODELS:
        indexed = model.latent is not None and model.latent.indexer is not None
        dag = build(model, Dense() if indexed else BlockTopK(kind="block_top_k", blocks=8)).dag
        assert [name for name, degree in dag.in_degree() if degree == 0] == ["embedding"]
        assert [name for name, degree in dag.out_degree() if degree == 0] == ["sampling"]


def test_extents_follow_the_policy_and_the_models_windows() -> None:
    def caps(model: Model, policy: AttentionPolicy) -> tuple[tuple, tuple]:
        graph = build(model, policy)
        for op in graph.operators:
            if op.axis in ("decode", "prefill"):
                extents = graph.decode_caps if op.axis == "decode" else graph.prefill_caps
                assert extents[op.dims.extent] == op.dims.cap
        return set(graph.decode_caps), set(graph.prefill_caps)

    window = SlidingWindow(kind="sliding_window", window=1024)
    blocks = BlockTopK(kind="block_top_k", page_size=16, blocks=4, local=8)
    assert caps(QWEN, Dense()) == ({None}, {None})
    assert caps(QWEN, window) == ({1024}, {1024})
    assert caps(QWEN, TopK(kind="top_k", budget=77)) == ({77}, {None})
    assert caps(QWEN, blocks) == ({None, 72}, {None})
    assert caps(WINDOWS, Dense()) == ({None, 512}, {None, 512})
    assert caps(WINDOWS, window) == ({1024, 512}, {1024, 512})
    assert caps(WINDOWS, blocks) == ({None, 512, 72}, {None, 512})


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_one_gpu_does_not_communicate(model: Model) -> None:
    graph = build(model)
    assert not [op for op in graph.operators if op.kind in COMM or op.stream != "compute"]
    assert total(graph, decodes(graph, 10, 100)).comm_bytes == 0


@pytest.mark.parametrize("tensor", [2, 4, 8])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_tensor_parallelism_divides_work_and_adds_two_all_reduces_a_layer(model: Model, tensor: int) -> None:
    try:
        check_layout(model, Layout(tensor=tensor))
    except InputError:
        pytest.skip("does not divide")
    one, many = build(model), build(model, tensor=tensor)
    shape = decodes(one, 64, 1000)
    for kind in ("attention_decode", "grouped_gemm", "mla_decode", "mla_bmm", "linear_attention"):
        a, b = total(one, shape, kind), total(many, shape, kind)
        assert b.flops * tensor == pytest.approx(a.flops)
        assert b.weight_bytes * tensor == pytest.approx(a.weight_bytes)
        if kind == "mla_decode":
            assert b.kv_bytes == a.kv_bytes  # every GPU has the latents of all tokens
        elif tensor <= model.kv_heads or kind == "linear_attention":
            assert b.kv_bytes * tensor == pytest.approx(a.kv_bytes)
    index, indices = total(one, shape, "sparse_index"), total(many, shape, "sparse_index")
    assert index == indices and (index.flops > 0) == any(op.kind == "sparse_index" for op in one.operators)
    copies = 1 if tensor <= model.kv_heads else tensor / model.kv_heads
    matrices = {op.name: op for op in one.operators if op.kind == "gemm" and op.axis != "prefill"}
    for op in many.operators:
        if op.kind == "gemm" and op.axis != "prefill":
            assert isinstance(op.dims, Gemm)
            ratio = op.total(shape).flops * tensor / matrices[op.name].total(shape).flops
            assert ratio == pytest.approx(tensor if op.name.startswith(REPEATED) else 1, rel=copies - 1 + 1e-3)
    norms = [op for op in many.operators if op.name.startswith("qk_norm_all_reduce")]
    assert sum(op.count for op in norms) == model.layers * model.qk_norm_across_heads
    reduces = sum(op.count for op in many.operators if op.kind == "all_reduce" and op not in norms)
    assert reduces == 2 * model.layers + 1
    width = reduces * model.hidden * 2 + sum(op.count for op in norms) * 2 * 4  # two fp32 a token
    messages = 2 * (tensor - 1) / tensor * width * 64
    assert total(many, shape, "all_reduce").comm_bytes == pytest.approx(messages)


def test_layouts_that_do_not_divide() -> None:
    with pytest.raises(
        InputError, match=r"parallelism\.tensor: .*3 GPUs does not divide .*found 3; allowed: a divisor of"
    ):
        build(tensor=3)
    moe = load_model("Qwen/Qwen3-30B-A3B")
    assert moe.kv_heads == 4
    odd = dataclasses.replace(QWEN, q_heads=24, kv_heads=8, intermediate=12 * 1024)
    with pytest.raises(InputError, match=r"neither divides nor multiplies the 8 KV heads"):
        build(odd, tensor=12)
    build(moe, tensor=8)  # KV heads are copied


@pytest.mark.parametrize(
    "policy", [Dense(), SlidingWindow(kind="sliding_window", window=64), TopK(kind="top_k", budget=64)]
)
def test_what_a_policy_reads(policy: AttentionPolicy) -> None:
    graph = build(policy=policy)
    per_token = 2 * QWEN.kv_heads * QWEN.head_dim * 2 * QWEN.layers
    assert per_token == QWEN.kv_bytes_per_token("bf16")
    read = total(graph, decodes(graph, 7, 1000), "attention_decode").kv_bytes
    assert read == 7 * per_token * (1000 if policy.kind == "dense" else 64)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 80), st.integers(0, 200), st.one_of(st.none(), st.integers(1, 150)))
def test_pairs_and_keys_of_a_chunk(q: int, past: int, cap: int | None) -> None:
    """Query j of the chunk sees the last `cap` of its past + j tokens; a key is read once for all who see it."""
    limit = past + q if cap is None else cap
    seen = [set(range(max(0, past + j - limit), past + j)) for j in range(1, q + 1)]
    assert causal_pairs(q, past, cap) == sum(len(keys) for keys in seen)
    assert keys_read(q, past, cap) == len(set().union(*seen))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.one_of(st.none(), st.integers(1, 150)))
def test_chunked_prefill_makes_the_same_pairs(first: int, second: int, cap: int | None) -> None:
    whole = causal_pairs(first + second, 0, cap)
    assert causal_pairs(first, 0, cap) + causal_pairs(second, first, cap) == whole


def test_experts_that_are_hit() -> None:
    assert experts_hit(0, 128, 8) == 0
    assert experts_hit(1, 128, 8) == pytest.approx(8)
    assert experts_hit(10**6, 128, 8) == pytest.approx(128)
    assert experts_hit(5, 8, 8) == 8
    hit = [experts_hit(t, 128, 8) for t in range(200)]
    assert hit == sorted(hit)


def test_prefill_of_nothing_is_no_work() -> None:
    graph = build()
    empty = StepShape(5, 5, 5, (50,), PrefillShape(0, 0, (0,), (0,)))
    assert graph.dag.nodes["attention_prefill"]["op"].work(empty) == Work(0, 0, 0, 0, 0)
    assert graph.dag.nodes["attention_prefill"]["op"].work(StepShape(5, 5, 5, (50,))) == Work()


@pytest.mark.parametrize("precision", [Precision(), Precision("fp8", "fp8", "fp8"), Precision("fp8", "fp8", "bf16")])
def test_formats_of_the_arithmetic(precision: Precision) -> None:
    ops = {op.name: op for op in build(precision=precision).operators}
    assert ops["qkv_proj"].dtype == precision.activations
    assert ops["lm_head"].dtype == "bf16"
    assert ops["attention_decode"].dtype == ("fp8" if precision.kv == "fp8" else "bf16")
    assert ops["attn_norm"].dtype is None


def test_a_block_of_gpt_oss() -> None:
    """One layer of each kind in the checkpoint's formats: widths, formats, bytes, and what a window reads."""
    graph = build(load_model("gpt-oss-20b"), precision=Precision(experts="w4a16_mxfp4"))
    ops = {op.name: op for op in graph.operators}
    assert set(graph.decode_caps) == {128, None}
    shape = decodes(graph, 10_000, 1000)  # every expert is hit
    for kind in ("window 128", "full attention"):
        qkv, up, down = (ops[f"{name} [{kind}]"] for name in ("qkv_proj", "experts_gate_up", "experts_down"))
        assert (qkv.dims.n, qkv.dims.k, qkv.dtype, qkv.count) == ((64 + 16) * 64, 2880, "bf16", 12)
        assert qkv.work(shape).weight_bytes == 2 * 5120 * 2880
        assert up.block == down.block and up.block.format == up.dims.format == "w4a16_mxfp4" and up.dtype == "bf16"
        assert up.work(shape).weight_bytes == pytest.approx(32 * 2 * 2880 * 2880 * 17 / 32)
        assert down.work(shape).weight_bytes == pytest.approx(32 * 2880 * 2880 * 17 / 32)
        assert ops[f"router [{kind}]"].work(shape).weight_bytes == 2 * 32 * 2880
        read = 128 if kind == "window 128" else 1000
        assert ops[f"attention_decode [{kind}]"].work(shape).kv_bytes == 10_000 * read * 2 * 8 * 64 * 2


def test_a_block_of_minimax() -> None:
    """On one of four GPUs, in the checkpoint's fp8 by blocks: scales, the norms' all-reduce, the router in fp32."""
    blocks = Precision("fp8", "fp8", "bf16", attention="fp8_block", mlp="fp8_block", experts="fp8_block")
    graph = build(load_model("minimax-m2.5"), tensor=4, precision=blocks)
    ops = {op.name: op for op in graph.operators}
    shape, scaled = decodes(graph, 10_000, 1000), 1 + 4 / 128**2
    assert ops["qkv_proj"].work(shape).weight_bytes == (12 + 4) * 128 * 3072 * scaled
    assert ops["o_proj"].work(shape).weight_bytes == 3072 * 12 * 128 * scaled
    assert ops["experts_gate_up"].work(shape).weight_bytes == pytest.approx(256 * 2 * 384 * 3072 * scaled)
    assert ops["router"].work(shape).weight_bytes == 4 * 256 * 3072 and ops["router"].dtype == "fp32"
    assert ops["lm_head"].work(shape).weight_bytes == 2 * 50_016 * 3072 and ops["lm_head"].dtype == "bf16"
    assert {ops[name].dims.format for name in ("qkv_proj", "o_proj", "experts_down")} == {"fp8_block"}
    assert ops["qk_norm_all_reduce"].work(shape).comm_bytes == 2 * 3 / 4 * 8 * 10_000
    order = [op.name for op in graph.operators]
    assert order.index("qkv_proj") < order.index("qk_norm_all_reduce") < order.index("rope_kv_write")
    # A half of each of 12 and 2 heads is turned, 3 FLOPs an element, and all of it normalised, 4 an element.
    assert ops["rope_kv_write"].work(shape).flops == 10_000 * (12 + 2) * (3 * 64 + 4 * 128)
    assert "qk_norm_all_reduce" not in {op.name for op in build(load_model("minimax-m2.5")).operators}
