"""Attention kinds: latent, behind an indexer, linear. Figures of sections 6.11 to 6.13 of docs/by-hand.md, and what
must hold for any shape.
"""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from madeprofiles import group, profile

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator import kinds
from simulator.calls import call_label, kernel_call
from simulator.graphview import step_shape
from simulator.operators import Operator, Work
from simulator.profile import load_profile
from simulator.selection import Library, Selection
from simulator.shape import PrefillShape, StepShape, causal_pairs, keys_read
from simulator.stepcost import StepCost
from simulator.stepgraph import Layout, Precision, StepGraph, build_graph
from workloads.attention import AttentionPolicy, BlockTopK, Dense, SlidingWindow, TopK
from workloads.attentionshapes import Indexer
from workloads.model import Model, load_model

R1, SPARSE, HYBRID = "deepseek-r1", "deepseek-v3.2", "qwen3.5-397b-a17b"
TIME = 1e-6  # relative
FULL, LINEAR, MOE = " [full attention]", " [linear]", " [moe]"

# Operator, FLOPs, weight, KV and activation bytes of one layer; microseconds and what bounds them.
SECTION_6_11_DECODE = [
    ("latent_down_proj", 1_937_768_448, 30_277_632, 0, 1_187_840, 6.30784, "memory"),
    ("latent_norm", 524_288, 0, 0, 524_288, 0.0313437404, "l2"),
    ("q_up_proj", 603_979_776, 9_437_184, 0, 589_824, 1.96608, "memory"),
    ("rope_kv_write", 208_896, 0, 73_728, 335_872, 0.0200795837, "l2"),
    ("absorb_query", 134_217_728, 2_097_152, 0, 1_310_720, 0.436906667, "memory"),
    ("attention_decode", 18_253_611_008, 0, 603_979_776, 2_228_224, 125.82912, "memory"),
    ("expand_value", 134_217_728, 2_097_152, 0, 1_310_720, 0.436906667, "memory"),
    ("o_proj", 1_879_048_192, 29_360_128, 0, 1_179_648, 6.11669333, "memory"),
]
SECTION_6_11_PREFILL = [
    ("kv_up_proj", 34_359_738_368, 4_194_304, 9_437_184, 67_108_864, 34.724344, "compute"),
    ("attention_prefill", 150_334_341_120, 0, 0, 89_128_960, 151.929602, "compute"),
]
SECTION_6_12_DECODE = [
    ("index_q_proj", 1_610_612_736, 25_165_824, 0, 1_245_184, 5.24288, "memory"),
    ("index_k_proj", 176_160_768, 2_752_512, 0, 942_080, 0.57344, "memory"),
    ("index_kv_write", 831_488, 0, 8_448, 1_589_248, 0.0950107132, "l2"),
    ("index_scores_decode", 8_589_934_592, 0, 69_206_016, 2_637_824, 14.41792, "memory"),
    ("index_select_decode", 524_288, 0, 0, 2_621_440, 0.156718702, "l2"),
    ("attention_decode", 4_563_402_752, 0, 150_994_944, 2_228_224, 31.45728, "memory"),
]
SECTION_6_12_PREFILL = [
    ("absorb_query_prefill", 4_294_967_296, 2_097_152, 0, 41_943_040, 4.340543, "compute"),
    ("index_scores_prefill", 240_534_945_792, 0, 1_081_344, 76_025_856, 121.543682, "compute"),
    ("index_select_prefill", 14_681_088, 0, 0, 75_501_568, 4.80682667, "memory"),
    ("attention_prefill", 146_028_888_064, 0, 9_437_184, 71_303_168, 147.578462, "compute"),
]
SECTION_6_13_DECODE = [
    ("linear_in_proj", 1_342_177_280, 20_971_520, 0, 851_968, 4.36906667, "memory"),
    ("linear_gates_proj", 8_388_608, 131_072, 0, 526_336, 0.0314661769, "l2"),
    ("causal_conv_decode", 786_432, 12_288, 1_179_648, 393_216, 0.24832, "memory"),
    ("delta_rule_decode", 58_720_256, 0, 67_108_864, 329_728, 13.9810133, "memory"),
    ("gated_norm", 589_824, 0, 0, 393_216, 0.0235078053, "l2"),
    ("linear_out_proj", 536_870_912, 8_388_608, 0, 655_360, 1.74762667, "memory"),
    ("qkv_proj", 1_342_177_280, 20_971_520, 0, 851_968, 4.36906667, "memory"),
    ("rope_kv_write", 389_120, 0, 65_536, 327_680, 0.0195898378, "l2"),
    ("attention_decode", 2_147_483_648, 0, 536_870_912, 262_144, 111.848107, "memory"),
    ("output_gate", 327_680, 0, 0, 393_216, 0.0235078053, "l2"),
    ("o_proj", 536_870_912, 8_388_608, 0, 655_360, 1.74762667, "memory"),
]
SECTION_6_13_PREFILL = [
    ("causal_conv_prefill", 100_663_296, 12_288, 18_432, 50_331_648, 3.00899908, "l2"),
    ("delta_rule_prefill", 11_811_160_064, 0, 1_048_576, 42_205_184, 11.9364932, "compute"),
]


@cache
def compiled(name: str, tensor: int = 8) -> StepCost:
    graph = build_graph(load_model(name), Dense(), Precision(), tensor)
    gpu = load_gpu("h200-sxm")
    return StepCost(graph, gpu, load_profile("ideal"), max_tokens=8192, max_seqs=64, max_context=40_960)


def step(graph: StepCost | StepGraph, seqs: int = 0, context: int = 1, query: int = 0, past: int = 0) -> StepShape:
    """Decoding sequences whose newest token is their `context`-th, beside one chunk of a prompt."""
    kv = tuple(seqs * min(filter(None, (context, cap))) for cap in graph.decode_caps)
    caps = graph.prefill_caps
    pairs, keys = (tuple(f(query, past, cap) for cap in caps) for f in (causal_pairs, keys_read))
    chunks = PrefillShape(query, 1, pairs, keys) if query else None
    return StepShape(seqs + query, seqs + bool(query), seqs, kv, chunks)


def by_name(graph: StepCost | StepGraph) -> dict[str, Operator]:
    return {op.name: op for op in graph.operators}


def latent(heads: int = 128, **changes: object) -> Model:
    """DeepSeek-R1 with other heads, or another form of its latents."""
    model = load_model(R1)
    assert model.latent is not None
    shape = dataclasses.replace(model.latent, **changes)
    return dataclasses.replace(model, q_heads=heads, kv_heads=heads, latent=shape)


def build(model: Model, policy: AttentionPolicy = Dense(), tensor: int = 1, precision: Precision = Precision()):
    return build_graph(model, policy, precision, tensor)


DECODE = {"seqs": 64, "context": 8192}
CHUNK = {"query": 2048, "past": 6144}


@pytest.mark.parametrize(
    ("name", "suffix", "given", "rows"),
    [
        pytest.param(R1, MOE, DECODE, SECTION_6_11_DECODE, id="6.11 decode"),
        pytest.param(R1, MOE, CHUNK, SECTION_6_11_PREFILL, id="6.11 prefill"),
        pytest.param(SPARSE, MOE, DECODE, SECTION_6_12_DECODE, id="6.12 decode"),
        pytest.param(SPARSE, MOE, CHUNK, SECTION_6_12_PREFILL, id="6.12 prefill"),
        pytest.param(HYBRID, LINEAR, DECODE, SECTION_6_13_DECODE[:6], id="6.13 decode, linear"),
        pytest.param(HYBRID, FULL, DECODE, SECTION_6_13_DECODE[6:], id="6.13 decode, full"),
        pytest.param(HYBRID, LINEAR, {"query": 8192}, SECTION_6_13_PREFILL, id="6.13 prefill"),
    ],
)
def test_work_and_times_by_hand(name: str, suffix: str, given: dict[str, int], rows: list[tuple]) -> None:
    cost = compiled(name)
    operators, shape = by_name(cost), step(cost, **given)
    for operator, flops, weights, kv, activations, microseconds, bound in rows:
        op = operators[operator + suffix]
        assert op.work(shape)[:4] == (flops, weights, kv, activations), operator
        terms = cost.terms(op, shape)
        assert terms.seconds == pytest.approx(microseconds * 1e-6, rel=TIME) == getattr(terms, bound), operator
        assert cost.operator_seconds(op, shape) == pytest.approx(op.count * microseconds * 1e-6, rel=TIME), operator


@pytest.mark.parametrize("name", [R1, SPARSE, HYBRID])
def test_nothing_else_takes_time_in_the_attention_of_a_decode_step(name: str) -> None:
    latents = [row for row in SECTION_6_11_DECODE if row[0] not in ("absorb_query", "expand_value")]
    absorbed = [("absorb_query_decode",), ("expand_value_decode",)]
    sparse = [*latents, *absorbed, *SECTION_6_12_DECODE]
    tables = {R1: SECTION_6_11_DECODE, SPARSE: sparse, HYBRID: SECTION_6_13_DECODE}
    cost = compiled(name)
    shape = step(cost, **DECODE)
    busy = [op.name for op in cost.operators if op.stream == "compute" and cost.operator_seconds(op, shape) > 0]
    begin = [i for i, found in enumerate(busy) if found.startswith("attn_norm")]
    found = {n.split(" [")[0] for i in begin for n in busy[i + 1 : next(j for j in range(i, 99) if "mlp" in busy[j])]}
    assert found == {row[0] for row in tables[name]}


def test_layers_by_kind() -> None:
    """DeepSeek's first three layers are dense; every fourth layer of Qwen3.5 has full attention."""
    for name, expected in ((R1, {"dense": 3, "moe": 58}), (HYBRID, {"full attention": 15, "linear": 45})):
        norms = [op for op in compiled(name).operators if op.name.startswith("attn_norm")]
        assert {op.name.split("[")[1][:-1]: op.count for op in norms} == expected


# --- what must hold -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [R1, SPARSE, "kimi-k2.5", "glm-5", HYBRID, "qwen3-8b"])
@pytest.mark.parametrize("kv", ["bf16", "fp8"])
def test_what_a_step_writes_is_what_a_token_keeps(name: str, kv: str) -> None:
    """Cache writes of one token, on all layers, are its bytes in the KV cache; those of one GPU, of eight."""
    model = load_model(name)
    for tensor in (1, 8):
        if model.latent is None and tensor > model.kv_heads:
            continue
        graph = build(model, tensor=tensor, precision=Precision(kv=kv))
        one = step(graph, seqs=1)
        written = sum(op.total(one).kv_bytes for op in graph.operators if "_kv_write" in op.name)
        assert written == kinds.kv_bytes_per_token(model, kv, tensor)
    assert kinds.kv_bytes_per_token(model, kv, 1) == model.kv_bytes_per_token(kv)


@pytest.mark.parametrize(
    ("name", "kv", "expected"),
    [
        (R1, "bf16", 61 * 576 * 2),
        (R1, "fp8", 61 * 576),
        (SPARSE, "bf16", 61 * (576 * 2 + 132)),
        (SPARSE, "fp8", 61 * (656 + 132)),
        ("glm-5", "fp8", 78 * (656 + 132)),
        (HYBRID, "bf16", 15 * 2 * 2 * 256 * 2),
    ],
)
def test_bytes_of_a_token(name: str, kv: str, expected: int) -> None:
    assert kinds.kv_bytes_per_token(load_model(name), kv, 1) == expected


def test_bytes_of_a_state() -> None:
    """45 layers: 64 matrices of 128 x 128 in fp32, and three inputs of (2 x 16 + 64) x 128 channels in bf16."""
    model = load_model(HYBRID)
    assert kinds.state_bytes(model, 1) == 45 * (64 * 128 * 128 * 4 + 3 * 12_288 * 2) == model.state_bytes()
    assert kinds.state_bytes(model, 8) == kinds.state_bytes(model, 1) / 8
    graph = build(model, tensor=8)
    moved = sum(op.total(step(graph, seqs=5)).kv_bytes for op in graph.operators if op.kind == "linear_attention")
    assert moved == 2 * 5 * kinds.state_bytes(model, 8)  # read and written
    assert kinds.state_bytes(load_model(R1), 1) == 0


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([16, 64, 128]), st.integers(1, 300), st.integers(1, 100_000))
def test_decode_reads_the_same_latents_for_any_number_of_heads(heads: int, seqs: int, context: int) -> None:
    graph = build(latent(heads))
    op = by_name(graph)["attention_decode [moe]"]
    work = op.work(step(graph, seqs=seqs, context=context))
    assert work.kv_bytes == seqs * context * 576 * 2
    assert work.flops == 2 * heads * (2 * 512 + 64) * seqs * context


def total(graph: StepGraph, shape: StepShape, *names: str) -> Work:
    work = Work()
    for op in graph.operators:
        if op.name.startswith(names):
            work += op.total(shape)
    return work


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4000), st.integers(0, 20_000))
def test_where_the_absorbed_form_would_be_the_cheaper_one(query: int, past: int) -> None:
    """FLOPs of the expanded form over those of the absorbed one, of one chunk and layer.

    A pair takes 2 (512 + 512 + 64) FLOPs a head absorbed and 2 (192 + 128) expanded. Making a key and a value takes
    2 x 512 x 256 a head; absorbing a query and expanding its output 2 x 512 x 256 too. So with all of a long past the
    expanded form pays from about 512 x 256 / (1088 - 320) = 171 queries a chunk on.
    """
    model = latent()
    graph = build(model)
    shape = step(graph, query=query, past=past)
    expanded = total(graph, shape, "kv_up_proj", "attention_prefill").flops
    pairs = causal_pairs(query, past, None)
    absorbed = 61 * 128 * (2 * 1088 * pairs + 2 * 512 * 256 * query)
    assert expanded == 61 * 128 * (2 * 320 * pairs + 2 * 512 * 256 * (past + query))
    if query >= 342:  # (past + query) / pairs is at most 2 / query
        assert expanded <= absorbed
    if query == 1 and past > 1:
        assert expanded > absorbed


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64), st.integers(1, 40_000), st.integers(1, 4000), st.integers(0, 30_000))
def test_an_indexer_that_selects_everything_costs_at_least_dense_attention(
    seqs: int, context: int, query: int, past: int
) -> None:
    """In time too: the index is added, and prefill, absorbed, does more than the expanded form does at least."""
    everything = latent(indexer=Indexer(64, 128, 10**9))
    dense, sparse = (_ideal(model) for model in (latent(), everything))
    decode = {"seqs": seqs, "context": context}
    reads = by_name(dense)["attention_decode [moe]"], by_name(sparse)["attention_decode [moe]"]
    assert reads[0].work(step(dense, **decode)) == reads[1].work(step(sparse, **decode))
    assert sparse.step_ticks(step(sparse, **decode)) > dense.step_ticks(step(dense, **decode))
    if query >= 342:
        chunk = {"query": query, "past": past}
        assert sparse.step_ticks(step(sparse, **chunk)) > dense.step_ticks(step(dense, **chunk))


@cache
def _ideal(model: Model) -> StepCost:
    gpu, ideal = load_gpu("h200-sxm"), load_profile("ideal")
    return StepCost(build(model), gpu, ideal, max_tokens=4096, max_seqs=64, max_context=65_536)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64), st.integers(1, 100_000), st.integers(1, 4000))
def test_less_is_never_read_for_a_larger_choice(seqs: int, context: int, top_k: int) -> None:
    few, more = (build(latent(indexer=Indexer(64, 128, k))) for k in (top_k, 2 * top_k))
    a, b = (total(graph, step(graph, seqs=seqs, context=context), "attention_decode") for graph in (few, more))
    assert a.kv_bytes <= b.kv_bytes and a.flops <= b.flops
    assert a.kv_bytes == 61 * seqs * min(context, top_k) * 1152
    index = [total(graph, step(graph, seqs=seqs, context=context), "index_scores") for graph in (few, more)]
    assert index[0] == index[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 5000))
def test_chunks_do_the_same_attention_and_make_keys_again(first: int, second: int, past: int) -> None:
    graph = build(latent())
    once, one, two = (
        step(graph, query=q, past=p) for q, p in ((first + second, past), (first, past), (second, past + first))
    )
    attention = [total(graph, shape, "attention_prefill").flops for shape in (once, one, two)]
    assert attention[0] == attention[1] + attention[2]
    made = [total(graph, shape, "kv_up_proj").flops for shape in (once, one, two)]
    assert made[1] + made[2] - made[0] == 61 * 2 * 512 * 128 * 256 * (past + first)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64), st.integers(1, 100_000), st.integers(1, 100_000))
def test_linear_layers_do_not_care_how_long_a_sequence_is(seqs: int, context: int, other: int) -> None:
    graph = build(load_model(HYBRID))
    a, b = (step(graph, seqs=seqs, context=length) for length in (context, other))
    for op in graph.operators:
        if op.name.endswith(LINEAR):
            assert op.work(a) == op.work(b), op.name


# --- policies -------------------------------------------------------------------------------------------


def test_policies_of_latent_attention() -> None:
    """All heads read one key, so block top-k has one summary a page, and 576 elements each."""
    pages = BlockTopK(kind="block_top_k", page=16, blocks=64)
    graph = build(latent(), pages)
    work = {op.name: op.work(step(graph, **DECODE)) for op in graph.operators}
    assert graph.decode_caps == (None, 1024) and graph.prefill_caps == (None,)
    assert work["page_scores [moe]"].flops == 2 * 128 * 576 * 64 * 512
    assert work["page_scores [moe]"].kv_bytes == 576 * 2 * 64 * 512
    assert work["page_summary [moe]"].kv_bytes == 64 * 576 * 2 * (1 + 1 / 16)
    assert work["attention_decode [moe]"].kv_bytes == 64 * 1024 * 576 * 2
    assert kinds.kv_bytes_per_token(latent(), "bf16", 1, 16) == 61 * 1152 * (1 + 1 / 16)
    window = build(latent(), SlidingWindow(kind="sliding_window", window=512))
    assert window.decode_caps == window.prefill_caps == (512,)


def test_gathered_latents_are_not_what_was_measured() -> None:
    """No table has a kernel that gathers pages of latents: a dense one stands in, and that is said."""
    made = Library([profile("h200-sxm@sglang-1", (group("mla_decode"),))])
    chooser = Selection(load_gpu("h200-sxm"), "sglang-1", library=made)
    for policy, access, tier in (
        (Dense(), None, "exact"),
        (BlockTopK(kind="block_top_k", page=16, blocks=64), "gather", "software"),
    ):
        ops = {op.name: op for op in build(latent(), policy).operators}
        found = call_label(ops["attention_decode [moe]"])
        assert found is not None and found[1].get("access") == access
        choice = chooser.choose(*found)
        assert choice is not None and choice.group.kind == "mla_decode"
        assert (choice.tier, choice.transferred) == (tier, tier != "exact")


@pytest.mark.parametrize(
    "policy",
    [
        TopK(kind="top_k", budget=64),
        BlockTopK(kind="block_top_k", blocks=4),
        SlidingWindow(kind="sliding_window", window=64),
    ],
)
def test_an_indexer_takes_no_policy_beside_it(policy: AttentionPolicy) -> None:
    with pytest.raises(InputError, match=r"attention: .*indexer of its own; found .*; allowed: dense"):
        build(load_model(SPARSE), policy)


def test_a_policy_leaves_linear_layers_alone() -> None:
    graph = build(load_model(HYBRID), TopK(kind="top_k", budget=64))
    dense = by_name(build(load_model(HYBRID)))
    shape = step(graph, **DECODE)
    for op in graph.operators:
        if op.name.endswith(LINEAR):
            assert op.work(shape)[:2] == dense[op.name].work(shape)[:2]
    assert set(graph.decode_caps) == {None, 64}


def test_heads_that_do_not_divide() -> None:
    with pytest.raises(InputError, match=r"parallelism\.tensor: .*32 GPUs does not divide linear_num_key_heads = 16"):
        build(load_model(HYBRID), tensor=32)
    build(load_model(R1), tensor=64)  # the latents have no heads to divide


# --- several tokens of a sequence, ranks ----------------------------------------------------------------


def test_ranks_of_attention_hold_their_own_sequences() -> None:
    """With attention_data alone nothing is summed after attention, and a rank does what one GPU does for its part."""
    alone = by_name(build(load_model(R1)))
    graph = build_graph(load_model(R1), Dense(), Precision(), Layout(attention_data=8, expert=8))
    assert not [op.name for op in graph.operators if op.name.startswith(("attn_all", "attn_reduce"))]
    shape = step(graph, seqs=8, context=4096)
    for op in graph.operators:
        if op.axis == "decode":
            assert op.dealt == 8 and op.work(shape) == alone[op.name].work(shape)


# --- kernels --------------------------------------------------------------------------------------------


def test_labels_and_columns() -> None:
    wide = {"kv_rank": 512, "rope": 64, "nope": 128, "value": 128}
    cost = compiled(R1)
    operators, shape = by_name(cost), step(cost, seqs=64, context=8192, query=2048, past=6144)
    expected = {
        "attention_decode": ("mla_decode", {"dtype": "bf16", "kv_dtype": "bf16"}),
        "attention_prefill": ("mla_prefill", {"dtype": "bf16", "kv_dtype": "bf16"}),
        "absorb_query": ("mla_bmm", {"op": "pre", "dtype": "bf16"}),
        "expand_value": ("mla_bmm", {"op": "post", "dtype": "bf16"}),
        "kv_up_proj": ("gemm", {"dtype": "bf16"}),
    }
    for name, label in expected.items():
        assert call_label(operators[f"{name} [moe]"]) == label
    calls = {name: kernel_call(operators[f"{name} [moe]"], shape, 8).shape for name in expected}  # type: ignore[union-attr]
    assert calls["attention_decode"] == {"batch": 64, "context_len": 8192, "q_heads": 16, **wide}
    assert calls["attention_prefill"] == {"batch": 1, "query_len": 2048, "past_len": 6144, "q_heads": 16, **wide}
    assert calls["absorb_query"] == calls["expand_value"] == {"tokens": 64, "q_heads": 16, **wide}
    assert calls["kv_up_proj"] == {"m": 8192, "n": 16 * 256, "k": 512}
    cost = compiled(HYBRID)
    operators, shape = by_name(cost), step(cost, seqs=64, context=8192, query=2048)
    heads = {"conv_width": 4, "k_heads": 2, "v_heads": 8, "k_head_dim": 128, "v_head_dim": 128, "hidden": 4096}
    heads["state_size"] = 4
    for name, routine, phase, batch, length in (
        ("causal_conv_decode", "conv", "decode", 64, 1),
        ("delta_rule_prefill", "delta", "prefill", 1, 2048),
    ):
        op = operators[name + LINEAR]
        assert call_label(op) == ("linear_attention", {"phase": phase, "routine": routine})
        call = kernel_call(op, shape, 8)
        assert call is not None and call.shape == {"batch": batch, "seq_len": length, **heads}


def test_what_was_only_measured_as_a_block_has_no_kernel_of_its_own() -> None:
    for name in ("index_scores_decode", "index_select_prefill", "attention_prefill"):
        assert call_label(by_name(compiled(SPARSE))[f"{name} [moe]"]) is None


@pytest.mark.parametrize("name", [R1, SPARSE, HYBRID])
def test_views_have_the_new_kinds(name: str) -> None:
    """A mixed step: every operator has a time, and they add up to the step."""
    cost = compiled(name)
    shape = step_shape(cost, phase="mixed", batch=32, context=4096, query=1024, past=512)
    seconds = sum(cost.operator_seconds(op, shape) for op in cost.operators)
    assert seconds == pytest.approx(cost.step_ticks(shape) * 2.0**-60, rel=1e-9)
