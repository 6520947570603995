"""The code against figures worked out by hand: every number here is copied from docs/by-hand.md, none from the code."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from hwspecs.gpu import load_gpu
from simulator import law
from simulator.cost import prefill_waste
from simulator.memory import activations_peak, plan_memory, weight_bytes_per_gpu
from simulator.operators import Heads, Operator
from simulator.policy import SECONDS_PER_TICK
from simulator.power import joules
from simulator.profile import load_profile
from simulator.running import run_scenario
from simulator.shape import PrefillShape, StepShape, causal_pairs, keys_read, mean_shape
from simulator.stepcost import StepCost
from simulator.stepgraph import Layout, Precision, build_graph
from workloads.attention import AttentionPolicy, BlockTopK, Dense, SlidingWindow, TopK
from workloads.model import load_model
from workloads.scenario import load_scenario

DOCUMENT = Path(__file__).parents[2] / "docs" / "by-hand.md"
QWEN, LLAMA, MIXTRAL = "Qwen/Qwen3-8B", "meta-llama/Meta-Llama-3.1-70B", "mistralai/Mixtral-8x7B-v0.1"
QWEN_MOE = "Qwen/Qwen3-30B-A3B"
GPT_OSS, MINIMAX = "openai/gpt-oss-120b", "MiniMaxAI/MiniMax-M2.5"
FP8 = Precision("fp8", "fp8", "fp8")
MXFP4 = Precision(experts="w4a16_mxfp4")
FP8_BLOCK = Precision("fp8", "fp8", "bf16", "fp8_block", "fp8_block", "fp8_block")
FP8_KV_BF16 = Precision("fp8", "fp8", "bf16")
BLOCKS = BlockTopK(kind="block_top_k", page=16, blocks=64)
WINDOW = SlidingWindow(kind="sliding_window", window=4096)
TIME = 1e-6  # relative


@cache
def compiled(
    model: str = QWEN,
    gpu: str = "h200-sxm",
    policy: AttentionPolicy = Dense(),
    precision: Precision = Precision(),
    tensor: Layout | int = 1,
    profile: str = "ideal",
) -> StepCost:
    graph = build_graph(load_model(model), policy, precision, tensor)
    return StepCost(graph, load_gpu(gpu), load_profile(profile), max_tokens=8192, max_seqs=256, max_context=40960)


def operator(cost: StepCost, name: str) -> Operator:
    return next(op for op in cost.operators if op.name == name)


def decode(cost: StepCost, seqs: int, context: int) -> StepShape:
    """`seqs` sequences whose newest token is their `context`-th."""
    return StepShape(seqs, seqs, seqs, tuple(seqs * min(context, cap or context) for cap in cost.decode_caps))


def prompt(pairs: int) -> StepShape:
    """One prompt of 8,192 tokens in one chunk; keys are read once each."""
    return StepShape(8192, 1, 0, (0,), PrefillShape(8192, 1, (pairs,), (8192,)))


# Operator, FLOPs, weight, KV and activation bytes of one layer; microseconds and what bounds them.
SECTION_3 = [
    ("attn_norm", 1_310_720, 0, 0, 2_097_152, 0.125374962, "l2"),
    ("qkv_proj", 3_221_225_472, 50_331_648, 0, 1_310_720, 10.48576, "memory"),
    ("rope_kv_write", 2_293_760, 0, 262_144, 1_310_720, 0.0783593511, "l2"),
    ("attention_decode", 8_589_934_592, 0, 2_147_483_648, 1_048_576, 447.392427, "memory"),
    ("o_proj", 2_147_483_648, 33_554_432, 0, 1_048_576, 6.99050667, "memory"),
    ("mlp_norm", 1_310_720, 0, 0, 2_097_152, 0.125374962, "l2"),
    ("gate_up_proj", 12_884_901_888, 201_326_592, 0, 3_670_016, 41.94304, "memory"),
    ("silu_mul", 3_932_160, 0, 0, 4_718_592, 0.282093664, "l2"),
    ("down_proj", 6_442_450_944, 100_663_296, 0, 2_097_152, 20.97152, "memory"),
    ("embedding", 0, 524_288, 0, 524_288, 0.109226667, "memory"),
    ("final_norm", 1_048_576, 0, 0, 1_048_576, 0.0626874809, "l2"),
    ("lm_head", 79_658_221_568, 1_244_659_712, 0, 19_972_096, 259.304107, "memory"),
    ("sampling", 48_619_520, 0, 0, 77_791_232, 5.28384, "memory"),
]
SECTION_4 = [
    ("page_summary", 0, 0, 139_264, 0, 0.0290133333, "memory"),
    ("page_scores", 268_435_456, 0, 67_108_864, 4_718_592, 13.9810133, "memory"),
    ("page_select", 1_048_576, 0, 0, 4_194_304, 0.250749923, "l2"),
    ("attention_decode", 1_073_741_824, 0, 268_435_456, 1_048_576, 55.9240533, "memory"),
]
SECTION_5 = [
    ("attn_norm", 167_772_160, 0, 0, 268_435_456, 45.0013867, "memory"),
    ("qkv_proj", 412_316_860_416, 50_331_648, 0, 167_772_160, 416.692128, "compute"),
    ("rope_kv_write", 293_601_280, 0, 33_554_432, 167_772_160, 31.0203733, "memory"),
    ("attention_prefill", 549_822_922_752, 0, 33_554_432, 134_217_728, 555.657325, "compute"),
    ("o_proj", 274_877_906_944, 33_554_432, 0, 134_217_728, 277.794752, "compute"),
    ("mlp_norm", 167_772_160, 0, 0, 268_435_456, 45.0013867, "memory"),
    ("gate_up_proj", 1_649_267_441_664, 201_326_592, 0, 469_762_048, 1666.76851, "compute"),
    ("silu_mul", 503_316_480, 0, 0, 603_979_776, 114.906453, "memory"),
    ("down_proj", 824_633_720_832, 100_663_296, 0, 268_435_456, 833.384256, "compute"),
    ("embedding", 0, 67_108_864, 0, 67_108_864, 17.03936, "memory"),
    ("final_norm", 134_217_728, 0, 0, 134_217_728, 17.03936, "memory"),
    ("lm_head", 1_244_659_712, 1_244_659_712, 0, 312_064, 259.304107, "memory"),
    ("sampling", 759_680, 0, 0, 1_215_488, 0.0726660545, "l2"),
]
SECTION_6_2_DECODE = [
    ("qkv_proj", 3_221_225_472, 25_165_824, 0, 1_310_720, 3.145728, "memory"),
    ("rope_kv_write", 2_293_760, 0, 131_072, 1_310_720, 0.0704215666, "l2"),
    ("attention_decode", 8_589_934_592, 0, 1_073_741_824, 1_048_576, 134.217728, "memory"),
    ("gate_up_proj", 12_884_901_888, 100_663_296, 0, 3_670_016, 12.582912, "memory"),
    ("embedding", 0, 524_288, 0, 524_288, 0.065536, "memory"),
    ("lm_head", 79_658_221_568, 1_244_659_712, 0, 19_972_096, 155.582464, "memory"),
]
SECTION_6_2_PREFILL = [
    ("qkv_proj", 412_316_860_416, 25_165_824, 0, 167_772_160, 91.625969, "compute"),
    ("attention_prefill", 549_822_922_752, 0, 16_777_216, 134_217_728, 122.182872, "compute"),
]
SECTION_6_2_DECODE_KV_BF16 = [("attention_decode", 8_589_934_592, 0, 2_147_483_648, 1_048_576, 268.435456, "memory")]
SECTION_6_2_PREFILL_KV_BF16 = [
    ("attention_prefill", 549_822_922_752, 0, 33_554_432, 134_217_728, 244.365743, "compute")
]
SECTION_6_3_4_TOKENS = [
    ("experts_gate_up", 1_879_048_192, 1_284_505_600, 0, 524_288, 267.605333, "memory"),
    ("experts_down", 939_524_096, 642_252_800, 0, 294_912, 133.802667, "memory"),
]
SECTION_6_3_64_TOKENS = [
    ("experts_gate_up", 30_064_771_072, 1_879_048_173.039, 0, 8_388_608, 391.468369, "memory"),
    ("experts_down", 15_032_385_536, 939_524_086.5196, 0, 4_718_592, 195.734185, "memory"),
    ("router", 4_194_304, 65_536, 0, 525_312, 0.0314049587, "l2"),
]
SECTION_6_4 = [
    ("attn_norm", 2_621_440, 0, 0, 4_194_304, 0.250749923, "l2"),
    ("qkv_proj", 2_684_354_560, 41_943_040, 0, 1_376_256, 8.73813333, "memory"),
    ("rope_kv_write", 442_368, 0, 65_536, 589_824, 0.035261708, "l2"),
    ("attention_decode", 4_294_967_296, 0, 536_870_912, 524_288, 111.848107, "memory"),
    ("o_proj", 2_147_483_648, 33_554_432, 0, 1_310_720, 6.99050667, "memory"),
    ("mlp_norm", 2_621_440, 0, 0, 4_194_304, 0.250749923, "l2"),
    ("gate_up_proj", 15_032_385_536, 234_881_024, 0, 2_883_584, 48.9335467, "memory"),
    ("silu_mul", 2_293_760, 0, 0, 2_752_512, 0.164554637, "l2"),
    ("down_proj", 7_516_192_768, 117_440_512, 0, 1_966_080, 24.4667733, "memory"),
    ("embedding", 0, 1_048_576, 0, 1_048_576, 0.218453333, "memory"),
    ("final_norm", 2_097_152, 0, 0, 2_097_152, 0.125374962, "l2"),
    ("lm_head", 33_621_540_864, 525_336_576, 0, 5_152_768, 109.44512, "memory"),
    ("sampling", 41_041_920, 0, 0, 65_667_072, 3.92580349, "l2"),
]
# Collective, how often, bytes on the wire; microseconds, and those under `rule-of-thumb`.
COLLECTIVES = [
    ("embedding_all_reduce", 1, 1_572_864, 3.49525333, 9.66033778),
    ("attn_all_reduce", 80, 1_572_864, 3.49525333, 9.66033778),
    ("mlp_all_reduce", 80, 1_572_864, 3.49525333, 9.66033778),
    ("logits_all_gather", 1, 12_312_576, 27.36128, 41.4817067),
]


def cases() -> list:
    dense, blocks, windows = compiled(), compiled(policy=BLOCKS), compiled(policy=WINDOW)
    b200, mixtral = compiled(gpu="b200-sxm", precision=FP8), compiled(MIXTRAL)
    wide_kv = compiled(gpu="b200-sxm", precision=FP8_KV_BF16)
    llama = compiled(LLAMA, tensor=4)
    window_decode = [("attention_decode", 4_294_967_296, 0, 1_073_741_824, 1_048_576, 223.696213, "memory")]
    window_prefill = [("attention_prefill", 412_350_414_848, 0, 33_554_432, 134_217_728, 416.726038, "compute")]
    tables: list[tuple[str, StepCost, StepShape, list]] = [
        ("3", dense, decode(dense, 64, 8192), SECTION_3),
        ("4", blocks, decode(blocks, 64, 8192), SECTION_4),
        ("5", dense, prompt(33_558_528), SECTION_5),
        ("6.1", windows, decode(windows, 64, 8192), window_decode),
        ("6.1", windows, prompt(25_167_872), window_prefill),
        ("6.2", b200, decode(b200, 64, 8192), SECTION_6_2_DECODE),
        ("6.2", b200, prompt(33_558_528), SECTION_6_2_PREFILL),
        ("6.2-kv-bf16", wide_kv, decode(wide_kv, 64, 8192), SECTION_6_2_DECODE_KV_BF16),
        ("6.2-kv-bf16", wide_kv, prompt(33_558_528), SECTION_6_2_PREFILL_KV_BF16),
        ("6.3", mixtral, decode(mixtral, 4, 100), SECTION_6_3_4_TOKENS),
        ("6.3", mixtral, decode(mixtral, 64, 100), SECTION_6_3_64_TOKENS),
        ("6.4", llama, decode(llama, 64, 8192), SECTION_6_4),
    ]
    return [
        pytest.param(cost, shape, row, id=f"{section}-{row[0]}")
        for section, cost, shape, rows in tables
        for row in rows
    ]


@pytest.mark.parametrize(("cost", "shape", "row"), cases())
def test_operator(cost: StepCost, shape: StepShape, row: tuple) -> None:
    name, flops, weights, kv, activations, microseconds, bound = row
    op = operator(cost, name)
    work = op.work(shape)
    assert work.flops == pytest.approx(flops, rel=1e-12)
    assert work.weight_bytes == pytest.approx(weights, rel=1e-12)
    assert work.kv_bytes == pytest.approx(kv, rel=1e-12)
    assert work.act_bytes == pytest.approx(activations, rel=1e-12)
    assert work.comm_bytes == 0
    terms = cost.terms(op, shape)
    assert terms.seconds == pytest.approx(microseconds * 1e-6, rel=TIME)
    assert ("compute", "memory", "l2", "link", "overhead")[int(terms.bound())] == bound
    layers = 1 if name in ("embedding", "final_norm", "lm_head", "sampling") else cost.graph.model.layers
    assert cost.operator_seconds(op, shape) == pytest.approx(layers * microseconds * 1e-6, rel=TIME)


@pytest.mark.parametrize(("name", "compute"), [("lm_head", 35.403654), ("attention_decode", 1.90887435)])
def test_arithmetic_of_an_fp8_model(name: str, compute: float) -> None:
    """Section 6.2: what is hidden behind the HBM there."""
    cost = compiled(gpu="b200-sxm", precision=FP8)
    terms = cost.terms(operator(cost, name), decode(cost, 64, 8192))
    assert terms.compute == pytest.approx(compute * 1e-6, rel=TIME)


def test_wide_kv_makes_attention_compute_in_bf16() -> None:
    """Section 6.2."""
    cost = compiled(gpu="b200-sxm", precision=FP8_KV_BF16)
    terms = cost.terms(operator(cost, "attention_decode"), decode(cost, 64, 8192))
    assert terms.compute == pytest.approx(3.81774871e-6, rel=TIME)


@pytest.mark.parametrize(("name", "count", "wire", "microseconds", "rule_of_thumb"), COLLECTIVES)
def test_collective(name: str, count: int, wire: int, microseconds: float, rule_of_thumb: float) -> None:
    """Section 6.4."""
    for profile, time in (("ideal", microseconds), ("rule-of-thumb", rule_of_thumb)):
        cost = compiled(LLAMA, tensor=4, profile=profile)
        op, shape = operator(cost, name), decode(cost, 64, 8192)
        assert op.work(shape) == (0, 0, 0, 0, wire)
        assert cost.terms(op, shape).seconds == pytest.approx(time * 1e-6, rel=TIME)
        assert op.count == count


def test_whole_step_of_tensor_parallelism() -> None:
    """Section 6.4."""
    cost = compiled(LLAMA, tensor=4)
    shape = decode(cost, 64, 8192)
    assert cost.step_ticks(shape) * SECONDS_PER_TICK == pytest.approx(16_838.0824e-6, rel=TIME)
    named = {row[0] for row in SECTION_6_4} | {row[0] for row in COLLECTIVES}
    assert {op.name for op in cost.operators if cost.operator_seconds(op, shape) > 0} == named


@pytest.mark.parametrize(
    ("name", "flops", "moved", "microseconds"),
    [
        ("qkv_proj [full attention]", 1_887_436_800, 29_491_200, 6.144),
        ("attention_decode [full attention]", 8_589_934_592, 1_073_741_824, 223.696213),
        ("attention_decode [window 128]", 134_217_728, 16_777_216, 3.49525333),
        ("experts_gate_up [window 128]", 8_493_465_600, 980_170_578, 204.202204),
        ("experts_down [full attention]", 4_246_732_800, 490_085_289, 102.101102),
    ],
)
def test_formats_by_part(name: str, flops: int, moved: int, microseconds: float) -> None:
    """Section 6.5."""
    cost = compiled(GPT_OSS, precision=MXFP4)
    op, shape = operator(cost, name), decode(cost, 64, 8192)
    work = op.work(shape)
    assert work.flops == flops and work.weight_bytes + work.kv_bytes == pytest.approx(moved, rel=1e-8)
    assert cost.terms(op, shape).seconds == pytest.approx(microseconds * 1e-6, rel=TIME)
    assert op.count == 18


@pytest.mark.parametrize(("form", "compute"), [("w4a8_mxfp4_mxfp8", 1.8874368), ("w4a16_mxfp4", 3.7748736)])
def test_arithmetic_of_experts_in_4_bits(form: str, compute: float) -> None:
    """Section 6.5."""
    cost = compiled(GPT_OSS, gpu="b200-sxm", precision=Precision(experts=form))
    terms = cost.terms(operator(cost, "experts_gate_up [window 128]"), decode(cost, 64, 8192))
    assert terms.compute == pytest.approx(compute * 1e-6, rel=TIME)


@pytest.mark.parametrize(
    ("name", "term", "moved", "microseconds"),
    [
        ("qkv_proj", "memory", 6_292_992, 1.31104),
        ("experts_gate_up", "memory", 524_935_798, 109.361625),
        ("router", "compute", 3_145_728, 1.50243725),
        ("qk_norm_all_reduce", "link", 768, 0.00170666667),
    ],
)
def test_fp8_by_blocks(name: str, term: str, moved: int, microseconds: float) -> None:
    """Section 6.6."""
    cost = compiled(MINIMAX, tensor=4, precision=FP8_BLOCK)
    op, shape = operator(cost, name), decode(cost, 64, 8192)
    work, terms = op.work(shape), cost.terms(op, shape)
    assert work.weight_bytes + work.comm_bytes == pytest.approx(moved, rel=1e-8) and op.count == 62
    assert getattr(terms, term) == pytest.approx(microseconds * 1e-6, rel=TIME) == terms.seconds


def test_norms_over_all_heads() -> None:
    """Section 6.6."""
    cost = compiled(MINIMAX, tensor=4, precision=FP8_BLOCK)
    assert operator(cost, "rope_kv_write").work(decode(cost, 64, 8192)).flops == 630_784


SEQUENCE = Layout(tensor=4, sequence=True)
EXPERTS = Layout(tensor=4, expert=4)
RANKS = Layout(attention_data=4, expert=4)
STAGES = Layout(pipeline=4)
FLOPS, WEIGHTS, KV, ACTIVATIONS, WIRE = range(5)


@pytest.mark.parametrize(
    ("model", "layout", "seqs", "name", "part", "mean", "microseconds"),
    [
        (LLAMA, SEQUENCE, 64, "attn_reduce_scatter", WIRE, 786_432, 1.74762667),
        (LLAMA, SEQUENCE, 64, "mlp_all_gather", WIRE, 786_432, 1.74762667),
        (LLAMA, SEQUENCE, 64, "mlp_norm", ACTIVATIONS, 1_048_576, 0.0626874809),
        (LLAMA, SEQUENCE, 64, "final_norm", ACTIVATIONS, 524_288, 0.0313437404),
        (QWEN_MOE, EXPERTS, 16, "experts_gate_up", FLOPS, 201_326_592, 29.0641442),
        (QWEN_MOE, EXPERTS, 16, "experts_gate_up", WEIGHTS, 129_639_401, 29.0641442),
        (QWEN_MOE, EXPERTS, 16, "experts_down", WEIGHTS, 64_819_700.4, 14.5320721),
        (QWEN_MOE, EXPERTS, 16, "permute", ACTIVATIONS, 204_800, None),
        (QWEN_MOE, EXPERTS, 16, "mlp_all_reduce", WIRE, 98_304, 0.218453333),
        (QWEN_MOE, Layout(tensor=4), 16, "experts_gate_up", WEIGHTS, 129_639_401, 27.0082085),
        (QWEN_MOE, RANKS, 66, "qkv_proj", FLOPS, 346_030_080, 4.36906667),
        (QWEN_MOE, RANKS, 66, "attention_decode", KV, 276_824_064, 59.4193067),
        (QWEN_MOE, RANKS, 66, "experts_all_gather", WIRE, 202_752, 0.464213333),
        (QWEN_MOE, RANKS, 66, "experts_reduce_scatter", WIRE, 202_752, 0.464213333),
        (QWEN_MOE, RANKS, 66, "experts_gate_up", WEIGHTS, 198_482_095.6, 41.8976762),
        (QWEN, STAGES, 66, "qkv_proj", FLOPS, 830_472_192, 10.48576),
    ],
)
def test_layouts(
    model: str, layout: Layout, seqs: int, name: str, part: int, mean: float, microseconds: float | None
) -> None:
    """Sections 6.7 to 6.10: the work of the mean GPU, the time of the busiest."""
    cost = compiled(model, tensor=layout)
    op, shape = operator(cost, name), decode(cost, seqs, 8192)
    assert op.work(mean_shape(shape, op.dealt))[part] == pytest.approx(mean, rel=1e-8)
    if microseconds is not None:
        assert cost.terms(op, shape).seconds == pytest.approx(microseconds * 1e-6, rel=TIME)
        assert cost.operator_seconds(op, shape) == pytest.approx(op.count * microseconds * 1e-6, rel=TIME)


NODES = {"attention_data": 16, "expert": 16}


@pytest.mark.parametrize(
    ("way", "name", "wire", "microseconds"),
    [
        ("low_latency", "experts_dispatch", 491_520, 8.35370517),
        ("low_latency", "experts_combine", 491_520, 8.35370517),
        ("high_throughput", "experts_dispatch", 405_289.747, 4.10905052),
        ("high_throughput", "experts_combine", 405_289.747, 4.10905052),
        ("none", "experts_all_gather", 983_040, 2.4576 + 2.7),
        ("none", "experts_reduce_scatter", 983_040, 2.4576 + 2.7),
    ],
)
def test_exchanges_between_nodes(way: str, name: str, wire: float, microseconds: float) -> None:
    """Section 6.14."""
    cost = compiled(QWEN_MOE, tensor=Layout(**NODES, all_to_all=way))
    op, shape = operator(cost, name), decode(cost, 256, 100)
    assert op.work(mean_shape(shape, op.dealt)).comm_bytes == pytest.approx(wire, rel=1e-8)
    assert cost.terms(op, shape).seconds == pytest.approx(microseconds * 1e-6, rel=TIME)


def test_the_busiest_of_the_experts_gpus() -> None:
    """Section 6.8."""
    block = operator(compiled(QWEN_MOE, tensor=EXPERTS), "experts_down").block
    assert block is not None
    assert tuple(block.mean(16)) == pytest.approx((32, 20.6056278255), rel=1e-9)
    assert tuple(block.busiest(16)) == pytest.approx((35.1717365, 22.1741823), rel=1e-8)


@pytest.mark.parametrize(
    ("model", "layout", "seqs", "microseconds"), [(LLAMA, SEQUENCE, 64, 16_807.8984), (QWEN, STAGES, 66, 7_440.54656)]
)
def test_whole_steps_of_layouts(model: str, layout: Layout, seqs: int, microseconds: float) -> None:
    """Sections 6.7 and 6.10."""
    cost = compiled(model, tensor=layout)
    assert cost.step_ticks(decode(cost, seqs, 8192)) * SECONDS_PER_TICK == pytest.approx(microseconds * 1e-6, rel=TIME)


@pytest.mark.parametrize(
    ("policy", "make_shape", "microseconds", "operators"),
    [
        pytest.param(Dense(), lambda cost: decode(cost, 64, 8192), 19_286.9603, SECTION_3, id="3.3"),
        pytest.param(BLOCKS, lambda cost: decode(cost, 64, 8192), 5_707.4868, SECTION_3 + SECTION_4, id="4"),
        pytest.param(Dense(), lambda cost: prompt(33_558_528), 143_797.612, SECTION_5, id="5"),
    ],
)
def test_whole_step(policy: AttentionPolicy, make_shape, microseconds: float, operators: list) -> None:
    cost = compiled(policy=policy)
    shape = make_shape(cost)
    assert cost.step_ticks(shape) * SECONDS_PER_TICK == pytest.approx(microseconds * 1e-6, rel=TIME)
    # Nothing beside the operators of the document takes time.
    named = {row[0] for row in operators}
    assert {op.name for op in cost.operators if cost.operator_seconds(op, shape) > 0} == named


@pytest.mark.parametrize(
    ("chunk", "past", "window", "pairs", "keys"),
    [
        (8192, 0, None, 33_558_528, 8192),  # section 5
        (8192, 0, 4096, 25_167_872, 8192),  # section 6.1
        (2048, 6144, 4096, 8_388_608, 6143),  # section 6.1
        (2048, 6144, None, 14_681_088, 8192),  # section 6.1
    ],
)
def test_causal_chunks(chunk: int, past: int, window: int | None, pairs: int, keys: int) -> None:
    assert (causal_pairs(chunk, past, window), keys_read(chunk, past, window)) == (pairs, keys)


def test_ideal_top_k_step() -> None:
    """Section 4 without the search: the same attention and nothing else."""
    cost = compiled(policy=TopK(kind="top_k", budget=1024))
    shape = decode(cost, 64, 8192)
    assert cost.operator_seconds(operator(cost, "attention_decode"), shape) == pytest.approx(2013.26592e-6, rel=TIME)
    assert cost.step_ticks(shape) * SECONDS_PER_TICK == pytest.approx(5_194.09884e-6, rel=TIME)


# --- section 2 ------------------------------------------------------------------------------------------

KV_ELEMENTS = {
    "Qwen/Qwen3-0.6B": 57_344,
    "Qwen/Qwen3-1.7B": 57_344,
    "Qwen/Qwen3-4B": 73_728,
    "Qwen/Qwen3-8B": 73_728,
    "Qwen/Qwen3-14B": 81_920,
    "Qwen/Qwen3-32B": 131_072,
    "Qwen/Qwen3-30B-A3B": 49_152,
    "Qwen/Qwen3-235B-A22B": 96_256,
    "Qwen/Qwen3-235B-A22B-FP8": 96_256,
    "meta-llama/Meta-Llama-3.1-8B": 65_536,
    "meta-llama/Meta-Llama-3.1-70B": 163_840,
    "meta-llama/Meta-Llama-3.1-405B": 258_048,
    "mistralai/Mixtral-8x7B-v0.1": 65_536,
    "openai/gpt-oss-120b": 36_864,
    "openai/gpt-oss-20b": 24_576,
    "MiniMaxAI/MiniMax-M2.5": 126_976,
    "deepseek-ai/DeepSeek-R1": 35_136,
    "deepseek-ai/DeepSeek-V3": 35_136,
    "moonshotai/Kimi-K2.5": 35_136,
    "Qwen/Qwen3.5-397B-A17B": 15_360,
}
INDEXED = {"deepseek-ai/DeepSeek-V3.2": (48_068, 78_324), "zai-org/GLM-5": (61_464, 100_152)}


@pytest.mark.parametrize(("name", "elements"), KV_ELEMENTS.items())
def test_kv_bytes_per_token(name: str, elements: int) -> None:
    model = load_model(name)
    assert model.kv_bytes_per_token("fp8") == elements
    assert model.kv_bytes_per_token("bf16") == 2 * elements
    assert model.kv_bytes_per_token() == 2 * elements


@pytest.mark.parametrize(("name", "sizes"), INDEXED.items())
def test_kv_bytes_behind_an_indexer(name: str, sizes: tuple[int, int]) -> None:
    model = load_model(name)
    assert (model.kv_bytes_per_token("fp8"), model.kv_bytes_per_token("bf16")) == sizes


def test_states_of_a_sequence() -> None:
    assert load_model("qwen3.5-397b-a17b").state_bytes() == 192_061_440


def test_every_bundled_model_has_its_kv_worked_out() -> None:
    from workloads.model import list_models

    assert sorted([*KV_ELEMENTS, *INDEXED]) == list_models()


@pytest.mark.parametrize(
    ("name", "parameters", "active"),
    [
        (QWEN, 8_190_735_360, 8_190_735_360),
        ("Qwen/Qwen3-0.6B", 596_049_920, 596_049_920),
        (MIXTRAL, 46_702_792_704, 12_879_925_248),
        (GPT_OSS, 116_829_156_672, 5_132_849_472),
        (MINIMAX, 228_689_764_864, 10_415_956_480),
        ("deepseek-ai/DeepSeek-R1", 671_026_419_200, 36_625_618_432),
        ("deepseek-ai/DeepSeek-V3.2", 671_877_944_064, 37_477_143_296),
        ("moonshotai/Kimi-K2.5", 1_026_408_232_448, 31_687_095_808),
        ("zai-org/GLM-5", 743_911_218_432, 40_833_146_112),
        ("Qwen/Qwen3.5-397B-A17B", 396_346_350_336, 17_349_040_896),
    ],
)
def test_parameters(name: str, parameters: int, active: int) -> None:
    model = load_model(name)
    assert (model.parameters, model.active_parameters) == (parameters, active)


# --- section 7 ------------------------------------------------------------------------------------------


def test_tiles_and_waves() -> None:
    """Section 7.1: 16 waves of tiles of 128 x 128, k whole."""
    cost = compiled(profile="rule-of-thumb")
    terms = cost.terms(operator(cost, "o_proj"), prompt(33_558_528))
    assert terms.compute == pytest.approx(349.360778e-6, rel=TIME)
    assert terms.memory == pytest.approx(29.3047155e-6, rel=TIME)
    assert terms.seconds == pytest.approx(352.360778e-6, rel=TIME)


def test_split_k() -> None:
    """Section 7.2: one wave of tiles of 64 x 128, k in 4 parts whose sums pass through the L2."""
    cost = compiled(profile="rule-of-thumb")
    terms = cost.terms(operator(cost, "down_proj"), decode(cost, 64, 8192))
    assert terms.compute == pytest.approx(11.9641351e-6, rel=TIME)


@pytest.mark.parametrize(
    ("name", "seqs", "context", "microseconds", "layers"),
    [
        ("down_proj", 64, 8192, 28.5750244, 1_028.70088),  # 7.2
        ("attention_decode", 64, 8192, 522.244169, 18_800.7901),  # 7.3
        ("attention_decode", 1, 1024, 10.0715402, 362.575448),  # 7.3
        ("attn_norm", 64, 8192, 2.17910709, 78.4478552),  # 7.4
    ],
)
def test_rule_of_thumb(name: str, seqs: int, context: int, microseconds: float, layers: float) -> None:
    cost = compiled(profile="rule-of-thumb")
    op, shape = operator(cost, name), decode(cost, seqs, context)
    assert cost.terms(op, shape).seconds == pytest.approx(microseconds * 1e-6, rel=TIME)
    assert cost.operator_seconds(op, shape) == pytest.approx(layers * 1e-6, rel=TIME)


@pytest.mark.parametrize(
    ("seqs", "context", "compute", "memory", "microseconds"),
    [(64, 8192, 1.80855958, 16.0701303, 24.0701303), (1, 1024, 0.0291418292, 0.258942529, 8.25894253)],
)
def test_page_scores_are_parallel_over_pages(
    seqs: int, context: int, compute: float, memory: float, microseconds: float
) -> None:
    """Section 7.3."""
    cost = compiled(policy=BLOCKS, profile="rule-of-thumb")
    terms = cost.terms(operator(cost, "page_scores"), decode(cost, seqs, context))
    assert terms.compute == pytest.approx(compute * 1e-6, rel=TIME)
    assert terms.memory == pytest.approx(memory * 1e-6, rel=TIME)
    assert terms.seconds == pytest.approx(microseconds * 1e-6, rel=TIME)


@pytest.mark.parametrize(
    ("tokens", "past", "waste", "compute", "memory", "l2", "microseconds"),
    [
        (8192, 0, 1.03125, 955.036027, 30.0373334, 10.0299969, 965.036027),
        (300, 0, 1.76, 2.19292265, 0.32, 0.367309458, 12.1929227),
        (300, 1000, 1.06666667, 10.1599014, 1.38666667, 0.367309458, 20.1599014),
    ],
)
def test_prefill_attention_under_rule_of_thumb(
    tokens: int, past: int, waste: float, compute: float, memory: float, l2: float, microseconds: float
) -> None:
    """Section 7.5."""
    cost = compiled(profile="rule-of-thumb")
    op = operator(cost, "attention_prefill")
    chunk = PrefillShape(tokens, 1, (causal_pairs(tokens, past, None),), (keys_read(tokens, past, None),))
    shape = StepShape(tokens, 1, 0, (0,), chunk)
    assert isinstance(op.dims, Heads)
    assert prefill_waste(op.dims, shape, cost.gpu) == pytest.approx(waste, rel=1e-8)
    terms = cost.terms(op, shape)
    assert terms.compute == pytest.approx(compute * 1e-6, rel=TIME)
    assert terms.memory == pytest.approx(memory * 1e-6, rel=TIME)
    assert terms.l2 == pytest.approx(l2 * 1e-6, rel=TIME)
    assert terms.seconds == pytest.approx(microseconds * 1e-6, rel=TIME)


def test_grouped_gemm_under_rule_of_thumb() -> None:
    """Section 7.6."""
    cost = compiled(MIXTRAL, profile="rule-of-thumb")
    op = operator(cost, "experts_down")
    terms = cost.terms(op, prompt(33_558_528))
    assert op.work(prompt(33_558_528)).flops == 1_924_145_348_608
    assert terms.compute == pytest.approx(3_085.1244e-6, rel=TIME)
    assert terms.memory == pytest.approx(414.18752e-6, rel=TIME)
    assert terms.seconds == pytest.approx(3_093.1244e-6, rel=TIME)
    few = cost.terms(op, decode(cost, 64, 8192))
    assert few.seconds == pytest.approx(268.978913e-6, rel=TIME)
    assert few.compute <= 133.668998e-6 * (1 + TIME)  # what 64 x 128 tiles take; others may be quicker


# --- section 8 ------------------------------------------------------------------------------------------

KINETICS = law.LawModel(8_190_735_360, 32, 8, 4_608)


@pytest.mark.parametrize(
    ("attention", "budget", "page", "flops", "attention_bytes", "eflops"),
    [
        ("dense", None, None, 84_112_639_524_864, 21_028_159_881_216, 4_687_374_197_981_184),
        ("top_k", 1024, None, 9_818_446_233_600, 2_454_611_558_400, 784_220_407_726_080),
        ("block_top_k", 1024, 16, 12_446_966_218_752, 3_111_741_554_688, 922_313_538_404_352),
    ],
)
def test_kinetics_law(
    attention: str, budget: int | None, page: int | None, flops: int, attention_bytes: int, eflops: int
) -> None:
    gpu = load_gpu("h200-sxm")
    ratio = gpu.peak["bf16"] / gpu.memory.bandwidth
    assert ratio == pytest.approx(206.145833, rel=1e-8)
    found = law.parts(KINETICS, attention, 512, 16_384, 1, budget, page, ratio=ratio)
    assert found.parameter_flops == 268_394_016_276_480
    assert found.attention_flops + found.search_flops == pytest.approx(flops, rel=1e-12)
    assert found.attention_bytes + found.search_bytes == pytest.approx(attention_bytes, rel=1e-12)
    assert found.eflops == pytest.approx(eflops, rel=1e-12)


def test_law_of_this_model() -> None:
    model = load_model(QWEN)
    assert law.law_model(model, "bf16") == KINETICS


def test_shared_prompt() -> None:
    one, all_ = (law.parts(KINETICS, "dense", 512, 16_384, trials, ratio=1.0).attention_bytes for trials in (1, 32))
    assert 32 * one - all_ == 38_345_468_018_688
    assert law.shared_key_bytes(KINETICS, "dense", None) * 512 * 31 * 16_384 == 38_345_468_018_688


# --- section 9 ------------------------------------------------------------------------------------------


@cache
def prefill_run() -> SimpleNamespace:
    workload = {"strategy": "chat", "requests": 1, "prompt_tokens": 8192, "output_tokens": 1}
    scenario = {"gpu": "h200-sxm", "model": QWEN, "profile": "ideal", "workload": workload}
    result = run_scenario(load_scenario(scenario))
    return SimpleNamespace(**result.summary)


def test_utilisation_and_work_of_one_prefill() -> None:
    run = prefill_run()
    assert run.makespan_s == pytest.approx(0.143797612, rel=TIME)
    assert run.work["flops"] == pytest.approx(133_635_226_965_888, rel=1e-12)
    assert run.work["hbm_bytes"] == pytest.approx(90_117_767_168, rel=1e-12)
    assert run.work["eflops"] == pytest.approx(1.52212629e14, rel=TIME)
    assert run.utilisation["mfu"] == pytest.approx(0.93919005, rel=TIME)
    assert run.utilisation["mbu"] == pytest.approx(0.130562216, rel=TIME)
    assert run.utilisation["busy"] == pytest.approx(1, rel=1e-12)


def test_energy_and_rent_of_one_prefill() -> None:
    run = prefill_run()
    j = joules(load_gpu("h200-sxm"))

    def above(seconds: float, flops: int, hbm: int, l2: int) -> float:
        """Joules above the board awake."""
        watts = j.sms + (flops * j.flop["bf16"] + hbm * j.hbm + l2 * j.l2) / seconds
        return seconds * min(watts, j.limit - j.awake)

    energy = [
        (j.limit - j.awake) * 0.135010691,
        36 * 2 * above(216_006_656 / 4.8e12, 0, 216_006_656, 268_435_456),
        36 * above(148_897_792 / 4.8e12, 0, 148_897_792, 201_326_592),
        36 * above(551_550_976 / 4.8e12, 0, 551_550_976, 603_979_776),
        2 * above(81_788_928 / 4.8e12, 0, 81_788_928, 134_217_728),
        above(259.304107e-6, 1_244_659_712, 1_244_659_712, 1_259_557_632),
        above(0.0726660545e-6, 0, 0, 1_215_488),
        j.awake * 0.143797612,
    ]
    assert run.cost["energy_j"] == pytest.approx(sum(energy), rel=TIME)
    assert run.cost["mean_power_w_per_gpu"] == pytest.approx(sum(energy) / 0.143797612, rel=TIME)
    assert run.cost["joules_per_output_token"] == pytest.approx(sum(energy), rel=TIME)
    assert run.cost["usd"] == pytest.approx(0.000159775124, rel=TIME)


# --- section 10 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "precision", "tensor", "weights"),
    [
        (LLAMA, Precision(), 4, 35_278_831_616),
        (QWEN, FP8, 1, 9_435_703_296),
        (QWEN, Precision(), 1, 16_381_470_720),
        (GPT_OSS, MXFP4, 1, 65_248_815_744),
        (MINIMAX, FP8_BLOCK, 4, 57_677_974_272),
    ],
)
def test_weights_of_a_gpu(name: str, precision: Precision, tensor: int, weights: int) -> None:
    assert weight_bytes_per_gpu(load_model(name), precision, tensor) == weights


def test_parameters_of_llama() -> None:
    assert load_model(LLAMA).parameters == 70_553_706_496


@pytest.mark.parametrize(("page", "per_token", "blocks"), [(None, 147_456, 49_630), (16, 152_064, 48_126)])
def test_memory_plan(page: int | None, per_token: int, blocks: int) -> None:
    plan = plan_memory(
        load_model(QWEN),
        load_gpu("h200-sxm"),
        Precision(),
        1,
        page=page,
        utilisation=0.9,
        block_size=16,
        max_tokens=8192,
        max_seqs=256,
    )
    assert plan.capacity == 150_754_820_096
    assert plan.usable == pytest.approx(135_679_338_086.4, rel=1e-14)
    assert (plan.weights, plan.activations) == (16_381_470_720, 805_306_368)
    assert (plan.graphs, plan.context) == (800_000_000, 600_000_000)
    assert plan.kv == pytest.approx(117_092_560_998.4, rel=1e-14)
    assert plan.kv_bytes_per_token == per_token
    assert plan.kv_blocks == blocks
    assert plan.kv_tokens == 16 * blocks


def test_logits_may_be_the_peak_of_the_activations() -> None:
    """Section 10.2: steps of 256 tokens."""
    assert activations_peak(load_model(QWEN), Precision(), 1, 256, 256) == 311_164_928


# --- the document itself ------------------------------------------------------------------------------------------

NUMBER = r"\d[\d,]*(?:\.\d+)?"
EQUATION = re.compile(rf"([(\d][\d,.()×/+−^ ]*[×/+−^][\d,.()×/+−^ ]*?) = ({NUMBER})(?: × 10\^(-?\d+))?")


def test_arithmetic_of_the_document() -> None:
    equations = EQUATION.findall(DOCUMENT.read_text(encoding="utf-8"))
    assert len(equations) > 400
    wrong = []
    for left, right, exponent in equations:
        code = left.replace(",", "").replace("×", "*").replace("−", "-").replace("^", "**")
        code = re.sub(r"(?<!\*\*)\b(\d+(?:\.\d+)?)", r"Fraction('\1')", code)
        value = eval(code, {"__builtins__": {}, "Fraction": Fraction})
        said = float(right.replace(",", "")) * 10.0 ** int(exponent or 0)
        if abs(float(value) - said) > 6e-9 * said:
            wrong.append(f"{left} = {right}, not {float(value):.12g}")
    assert not wrong
