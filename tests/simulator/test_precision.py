"""Formats by part: what they store, multiply in and cost, and that fewer bits are never slower on the ideal profile."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.gpu import load_gpu
from simulator.calls import call_label
from simulator.gqa import kv_bytes_per_token
from simulator.kernels.formats import FORMATS
from simulator.memory import weight_bytes_per_gpu
from simulator.precision import Linear, Precision, gemm_format
from simulator.profile import load_profile
from simulator.shape import PrefillShape, StepShape, causal_pairs, keys_read
from simulator.stepcost import StepCost
from simulator.stepgraph import build_graph, divides
from workloads.attention import BlockTopK, Dense
from workloads.formats import BODY, LINEAR_FORMATS, PartFormats
from workloads.model import load_model

MODELS = {name: load_model(name) for name in ("qwen3-8b", "mixtral-8x7b", "gpt-oss-20b", "minimax-m2.5")}
IDEAL = load_profile("ideal")


def whole(name: str, kv: str = "bf16") -> Precision:
    """All linear layers but the head in one format, as a scenario's `precision.linear` has it."""
    form = LINEAR_FORMATS[name]
    return Precision(form.weights, form.activations, kv, **dict.fromkeys(BODY, name))


def test_bytes_of_a_weight() -> None:
    sizes = {name: form.weight_bytes for name, form in LINEAR_FORMATS.items()}
    assert sizes["nvfp4"] == 0.5625 and sizes["w4a16_mxfp4"] == 0.53125 == sizes["w4a8_mxfp4_fp8"]
    assert sizes["fp8_block"] == 1 + 4 / 16384 and sizes["int4_wo"] == 0.5 + 2 / 128
    assert (sizes["bf16"], sizes["fp8"], sizes["int8"], sizes["int8_wo"]) == (2, 1, 1, 1)


@pytest.mark.parametrize("name", LINEAR_FORMATS)
def test_formats_are_those_of_the_kernels(name: str) -> None:
    """The graph's bytes and the kernel models' agree; those leave the blocks' scales of fp8 weights out, 0.02 %."""
    form = LINEAR_FORMATS[name]
    kernel = FORMATS[form.kernel]
    if name == "int4_wo_32":  # The tables' int4 has groups of 128.
        assert form.weight_bytes == 0.5 + 2 / 32 and kernel.weight == 0.5 + 2 / 128
    else:
        assert form.weight_bytes == pytest.approx(kernel.weight, rel=3e-4)
    assert form.activations in kernel.compute or name in ("fp16", "w4a8_mxfp4_fp8")
    assert form.activations in form.needs


@pytest.mark.parametrize("name", [name for name, form in LINEAR_FORMATS.items() if not form.scales])
def test_formats_without_scales_are_what_two_number_formats_say(name: str) -> None:
    form = LINEAR_FORMATS[name]
    pair = Precision(form.weights, form.activations)
    assert pair.linear("mlp") == whole(name).linear("mlp")
    assert gemm_format(pair) == form.kernel


def test_a_part_has_its_own_format() -> None:
    mixed = Precision(attention="fp8", experts="nvfp4", head="fp8_block", kv="fp8")
    assert mixed.linear("attention") == Linear(1.0, "fp8", "fp8")
    assert mixed.linear("mlp") == Linear(2.0, "bf16", "bf16")
    assert mixed.linear("experts") == Linear(0.5625, "fp4", "nvfp4")
    assert mixed.linear("head") == Linear(1 + 4 / 16384, "fp8", "fp8_block")
    assert mixed.attention_dtype == "fp8" and str(mixed) == (
        "bf16, attention fp8, experts nvfp4, LM head fp8_block, fp8 KV"
    )
    assert str(whole("nvfp4", "fp8")) == "nvfp4, fp8 KV" and str(Precision("fp8", "fp8", "fp8")) == "fp8"


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        (Precision(), "bf16"),
        (Precision(kv="fp8"), "bf16"),
        (whole("fp8_block"), "bf16"),
        (whole("fp8_block", "fp8"), "fp8"),
        (whole("nvfp4", "fp8"), "fp8"),
        (whole("nvfp4"), "bf16"),
        (whole("w4a16_mxfp4", "fp8"), "bf16"),
        (Precision(experts="nvfp4", kv="fp8"), "bf16"),
    ],
    ids=str,
)
def test_what_attention_multiplies_in(precision: Precision, dtype: str) -> None:
    assert precision.attention_dtype == dtype
    ops = {op.name: op for op in build_graph(MODELS["mixtral-8x7b"], Dense(), precision).operators}
    assert ops["attention_decode"].dtype == ops["attention_prefill"].dtype == dtype


def test_kernels_are_chosen_by_part() -> None:
    precision = Precision(attention="fp8_block", experts="w4a8_mxfp4_mxfp8")
    ops = {op.name.split(" [")[0]: op for op in build_graph(MODELS["gpt-oss-20b"], Dense(), precision).operators}
    chosen = {name: call_label(ops[name]) for name in ("qkv_proj", "o_proj", "experts_gate_up", "router", "lm_head")}
    assert {name: label["dtype"] for name, (_, label) in chosen.items()} == {  # type: ignore[misc]
        "qkv_proj": "fp8_block", "o_proj": "fp8_block", "experts_gate_up": "w4a8_mxfp4_mxfp8", "router": "bf16",
        "lm_head": "bf16",
    }  # fmt: skip


def test_the_output_projection_is_like_the_others_unless_it_names_a_format() -> None:
    """Qwen3-8B: of 36 projections of 4,096 x 4,096, in 4.5 bits for 16."""
    plain, own = Precision(attention="fp8_block"), Precision(output="nvfp4")
    assert plain.linear("output") == plain.linear("attention") == Linear(1 + 4 / 16384, "fp8", "fp8_block")
    assert own.linear("output") == Linear(0.5625, "fp4", "nvfp4") and own.linear("attention") == Linear(
        2, "bf16", "bf16"
    )
    assert str(own) == "bf16, output projection nvfp4, bf16 KV" and own.attention_dtype == "bf16"
    ops = {op.name: call_label(op)[1]["dtype"] for op in build_graph(MODELS["qwen3-8b"], Dense(), own).operators}
    assert (ops["qkv_proj"], ops["o_proj"], ops["down_proj"]) == ("bf16", "nvfp4", "bf16")
    sizes = [weight_bytes_per_gpu(MODELS["qwen3-8b"], precision, 2) for precision in (Precision(), own)]
    assert sizes[0] - sizes[1] == 36 * 4096 * 4096 * (2 - 0.5625) / 2
    checkpoint = dataclasses.replace(MODELS["qwen3-8b"], formats=PartFormats(output="nvfp4"))
    assert checkpoint.weight_bytes() == weight_bytes_per_gpu(checkpoint, own, 1)


def test_the_fastest_arithmetic_is_what_a_step_is_compared_with() -> None:
    peak = load_gpu("b200-sxm").peak
    graph = build_graph(MODELS["gpt-oss-20b"], Dense(), Precision(experts="w4a8_mxfp4_mxfp8"))
    assert graph.main_dtype(peak) == "fp8"
    assert build_graph(MODELS["qwen3-8b"], Dense(), Precision(experts="nvfp4")).main_dtype(peak) == "bf16"


def test_a_quantised_head_of_tied_embeddings_is_a_copy() -> None:
    tied = load_model("qwen3-0.6b")
    whole = weight_bytes_per_gpu(tied, Precision(), 1)
    assert weight_bytes_per_gpu(tied, Precision(head="fp8"), 1) == whole + tied.vocab * tied.hidden
    untied = MODELS["qwen3-8b"]
    whole = weight_bytes_per_gpu(untied, Precision(), 1)
    assert weight_bytes_per_gpu(untied, Precision(head="fp8"), 1) == whole - untied.vocab * untied.hidden


WHOLE = [
    "qwen3-8b",
    "qwen3-235b-a22b-fp8",
    "gpt-oss-120b",
    "minimax-m2.5",
    "deepseek-r1",
    "kimi-k2.5",
    "qwen3.5-397b-a17b",
]


@pytest.mark.parametrize("name", WHOLE)
def test_weights_of_one_gpu_are_the_checkpoints(name: str) -> None:
    model = load_model(name)
    precision = Precision(model.weight_dtype, model.activation_dtype, **dataclasses.asdict(model.formats))
    assert weight_bytes_per_gpu(model, precision, 1) == pytest.approx(model.weight_bytes(), rel=1e-12)
    if divides(model, 4):
        part = weight_bytes_per_gpu(model, precision, 4)
        assert model.weight_bytes() / 4 <= part < 1.02 * model.weight_bytes() / 4


@pytest.mark.parametrize("tensor", [1, 4, 16])
def test_kv_bytes_of_a_gpu(tensor: int) -> None:
    model = MODELS["minimax-m2.5"]
    assert kv_bytes_per_token(model, "bf16", tensor) == 2 * 62 * max(1, 8 // tensor) * 128 * 2
    assert kv_bytes_per_token(model, "fp8", tensor, page=16) == 2 * 62 * max(1, 8 // tensor) * 128 * 33 / 32


# Each is served at least as fast as the one before it: fewer bytes, and arithmetic that is not slower.
LADDERS = {
    "h200-sxm": [
        ("bf16", "fp8_block", "fp8"), ("bf16", "int8_wo", "int4_wo"), ("bf16", "int8"),
        ("w4a16_mxfp4", "w4a8_mxfp4_fp8"),
    ],
    "b200-sxm": [
        ("bf16", "fp8_block", "fp8", "nvfp4"), ("bf16", "w4a16_mxfp4", "w4a8_mxfp4_mxfp8"),
    ],
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_fewer_bits_are_never_slower_on_the_ideal_profile(data: st.DataObject) -> None:
    """Whole models and single parts, decode and prefill, with and without tensor parallelism and a search of pages."""
    gpu = data.draw(st.sampled_from(sorted(LADDERS)), label="gpu")
    ladder = data.draw(st.sampled_from(LADDERS[gpu]), label="ladder")
    model = MODELS[data.draw(st.sampled_from(sorted(MODELS)), label="model")]
    part = data.draw(st.sampled_from(["all", *BODY, "output", "head"]), label="part")
    kv = data.draw(st.sampled_from(["bf16", "fp8"]), label="kv")
    tensor = data.draw(st.sampled_from([1, 2, 8]), label="tensor")
    policy = data.draw(st.sampled_from([Dense(), BlockTopK(kind="block_top_k", blocks=16)]), label="policy")
    seqs, context = data.draw(st.integers(1, 256), label="seqs"), data.draw(st.integers(1, 8192), label="context")
    query, past = data.draw(st.integers(0, 2048), label="query"), data.draw(st.integers(0, 4096), label="past")
    before = None
    for name in ladder:
        precision = whole(name, kv) if part == "all" else Precision(kv=kv, **{part: name})
        graph = build_graph(model, policy, precision, tensor)
        cost = StepCost(graph, load_gpu(gpu), IDEAL, max_tokens=2304, max_seqs=256, max_context=8192)
        kept = tuple(seqs * min(context, cap or context) for cap in graph.decode_caps)
        pairs = tuple(causal_pairs(query, past, cap) for cap in graph.prefill_caps)
        keys = tuple(keys_read(query, past, cap) for cap in graph.prefill_caps)
        chunks = PrefillShape(query, 1, pairs, keys) if query else None
        ticks = cost.step_ticks(StepShape(seqs + query, seqs, seqs, kept, chunks))
        assert before is None or ticks <= before
        before = ticks
