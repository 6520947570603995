"""The memory plan: what fits, what grows with what, what engines print of it, and honest advice where nothing fits."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from capacity import capacity_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu, load_gpu
from simulator.deployment import deploy
from simulator.layout import Layout, divides
from simulator.memory import IDEAL, MemoryPlan, Reserve, activations_peak, plan_memory, weight_bytes_per_gpu
from simulator.reserve import driver_bytes
from simulator.shape import StepShape
from simulator.stepgraph import Precision, build_graph
from workloads.attention import Dense
from workloads.engine import Engine, list_engines, resolve_engine
from workloads.enginememory import EngineMemory, Margin
from workloads.model import Model, list_models, load_model
from workloads.scenario import load_scenario

H200 = load_gpu("h200-sxm")
QWEN = load_model("Qwen/Qwen3-8B")
MOE = load_model("Qwen/Qwen3-30B-A3B")
GPT_OSS = load_model("openai/gpt-oss-20b")
MODELS = [load_model(name) for name in list_models()]
MXFP4 = Precision(experts="w4a16_mxfp4")
PRECISIONS = [
    Precision(),
    Precision("fp8", "fp8", "fp8"),
    Precision("int4", "bf16", "bf16"),
    Precision("fp8", "fp8", "bf16"),
]
TINY = {  # a small MoE whose parts can be counted by hand
    "base": "Qwen/Qwen3-30B-A3B", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 16, "moe_intermediate_size": 32, "num_experts": 8,
    "num_experts_per_tok": 2, "vocab_size": 100, "intermediate_size": 32,
}  # fmt: skip


def reserve_of(engine: str, gpu: Gpu = H200, **said: Any) -> tuple[Reserve, Engine]:
    """An engine's reserve and its settings on a GPU."""
    resolved = resolve_engine(Engine(name=engine, **said), gpu.memory.capacity)
    assert resolved.memory is not None
    return Reserve(**resolved.memory.model_dump(exclude={"margin"})), resolved


ENGINES = [IDEAL, *(reserve_of(name)[0] for name in list_engines())]


def plan(
    model: Model = QWEN,
    gpu: Gpu = H200,
    precision: Precision = Precision(),
    layout: Layout | int = 1,
    *,
    page: int | None = None,
    utilisation: float = 0.9,
    block_size: int = 16,
    max_tokens: int = 8192,
    max_seqs: int = 256,
    reserve: Reserve = IDEAL,
) -> MemoryPlan:
    return plan_memory(
        model,
        gpu,
        precision,
        layout,
        page=page,
        utilisation=utilisation,
        block_size=block_size,
        max_tokens=max_tokens,
        max_seqs=max_seqs,
        reserve=reserve,
    )


def capacity(gigabytes: float) -> Gpu:
    return H200.with_values({"memory.capacity": gigabytes * 1e9})


# ---- without an engine -----------------------------------------------------------------------------------------------


def test_the_parts_add_up() -> None:
    for precision in PRECISIONS:
        p = plan(precision=precision)
        assert p.usable == 0.9 * H200.memory.capacity <= p.capacity
        assert p.weights + p.activations + p.graphs + p.context + p.kv == pytest.approx(p.usable, rel=1e-12)
        assert min(p.weights, p.activations, p.graphs, p.context, p.kv) > 0
        assert p.driver == p.communication == p.workspace == p.window_kv == p.states == 0 and p.max_seqs == 256
        assert p.kv_tokens == p.kv_blocks * p.block_size
        assert p.kv_tokens * p.kv_bytes_per_token <= p.kv < (p.kv_tokens + p.block_size) * p.kv_bytes_per_token


@settings(max_examples=60, deadline=None)
@given(st.floats(30, 500), st.floats(0, 300), st.sampled_from(PRECISIONS), st.sampled_from([1, 16, 64]))
def test_more_memory_holds_more(gigabytes: float, more: float, precision: Precision, block_size: int) -> None:
    small = plan(gpu=capacity(gigabytes), precision=precision, block_size=block_size)
    large = plan(gpu=capacity(gigabytes + more), precision=precision, block_size=block_size)
    assert large.kv_blocks >= small.kv_blocks
    per_block = small.kv_bytes_per_token * block_size
    assert large.kv_blocks - small.kv_blocks == pytest.approx(0.9 * more * 1e9 / per_block, abs=1.01)


def test_what_takes_room() -> None:
    base = plan().kv_blocks
    assert plan(precision=Precision(kv="fp8")).kv_blocks == pytest.approx(2 * base, rel=1e-4)
    assert plan(precision=Precision(weights="int4")).kv_blocks > base
    assert plan(layout=2).kv_tokens > 2 * base * 16  # half of the KV heads on each, and half of the weights
    assert plan(max_tokens=65_536).kv_blocks < base
    assert plan(max_seqs=16_384).kv_blocks < base
    assert plan(page=16).kv_blocks == pytest.approx(base / (1 + 1 / 32), rel=1e-4)


def test_more_gpus_than_kv_heads_keep_copies() -> None:
    assert QWEN.kv_heads == 8
    assert plan(layout=8).kv_bytes_per_token == plan(layout=16, gpu=load_gpu("gb200")).kv_bytes_per_token


# ---- with any engine -------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(ENGINES),
    st.sampled_from([QWEN, MOE, GPT_OSS]),
    st.sampled_from([1, 2, 4, 8]),
    st.floats(0.5, 1.0),
    st.floats(0.5, 1.0),
    st.integers(1, 2048),
)
def test_invariants(reserve: Reserve, model: Model, tensor: int, a: float, b: float, seqs: int) -> None:
    """Parts never exceed the capacity; a larger share, fewer sequences and more GPUs never hold less; KV in fp8 holds
    about twice as much."""
    if not divides(model, tensor):
        return
    low, high = sorted((a, b))
    gpu = capacity(180)
    p = plan(model, gpu, layout=tensor, utilisation=high, max_seqs=seqs, reserve=reserve)
    parts = (p.driver, p.weights, p.activations, p.graphs, p.context, p.communication, p.workspace, p.window_kv, p.kv)
    assert min(*parts, p.left) >= 0
    assert sum(parts) + p.left == pytest.approx(p.capacity, rel=1e-9)
    assert plan(model, gpu, layout=tensor, utilisation=low, max_seqs=seqs, reserve=reserve).kv_blocks <= p.kv_blocks
    assert plan(model, gpu, layout=tensor, utilisation=high, max_seqs=1, reserve=reserve).kv_blocks >= p.kv_blocks
    narrow = plan(model, gpu, Precision(kv="fp8"), tensor, utilisation=high, max_seqs=seqs, reserve=reserve)
    assert narrow.kv_bytes_per_token == p.kv_bytes_per_token / 2
    if p.window_kv == 0:
        assert narrow.kv_blocks == pytest.approx(2 * p.kv_blocks, abs=1.01)
    assert narrow.kv_blocks + 1 >= 2 * p.kv_blocks
    if divides(model, 2 * tensor) and 2 * tensor <= gpu.link.domain:
        assert plan(model, gpu, layout=2 * tensor, utilisation=high, max_seqs=seqs, reserve=reserve).kv_blocks >= (
            p.kv_blocks
        )


def test_rules() -> None:
    """What each share is of, on a GPU of 100 GB with round reserves; Qwen3-8B in bf16 has 16,381,470,720 bytes.

    The driver keeps 0.35 GiB + 0.2 % = 575,809,638 bytes: T = 99,424,190,362. Activations: 16,384 sequences x 151,936
    x 4 = 9,957,277,696 (the MLP of 8,192 tokens is less).
    """
    gpu, weights, activations = capacity(100), 16_381_470_720, 16_384 * 151_936 * 4
    total = 100e9 - driver_bytes(100e9)
    assert total == pytest.approx(99_424_190_362, abs=1)
    sizes: Any = {"context": 1e9, "communication": 2e9, "workspace": 3e9, "workspace_peer": 2e9, "graphs": 2e9}
    expected = {
        "of_total": 0.8 * total - weights - activations - 3e9,
        "of_available": 0.8 * (total - 1e9) - weights,
        "of_free": 0.8 * (total - weights - activations - 3e9 - 2e9 - 1e9),
        "everything": 80e9 - weights - activations - 2e9 - 1e9,
    }
    for rule, kv in expected.items():
        reserve = Reserve(rule=rule, sampling=4.0, **sizes)  # type: ignore[arg-type]
        p = plan(gpu=gpu, utilisation=0.8, max_seqs=16_384, reserve=reserve)
        assert p.activations == activations and p.kv == pytest.approx(kv, rel=1e-12), rule
    # Two GPUs: communication, and one peer's workspace; logits are gathered on each but where no engine is named.
    kv = 0.8 * (total - 1e9 - 2e9) - weight_bytes_per_gpu(QWEN, Precision(), 2)
    p = plan(
        gpu=gpu, layout=2, utilisation=0.8, max_seqs=16_384, reserve=Reserve("of_available", sampling=4.0, **sizes)
    )
    assert p.kv == pytest.approx(kv, rel=1e-12)
    assert (p.communication, p.workspace, p.activations) == (2e9, 3e9 + 2e9, activations)
    assert activations_peak(QWEN, Precision(), 2, 8192, 16_384, IDEAL) == 16_384 * 75_968 * 8


def test_a_share_of_everything_leaves_room_for_the_rest() -> None:
    """vLLM told to use all of the memory would not start: KV is what is there after all."""
    reserve, _ = reserve_of("vllm")
    p = plan(utilisation=1.0, reserve=reserve)
    assert p.left == 0 and p.kv < plan(utilisation=1.0).kv + IDEAL.graphs + IDEAL.context


def test_default_share_of_sglang() -> None:
    """0.5.9 on 81,559 MiB, 8,192 tokens, graphs of up to 512, tp 4: 512 + 1.5 x 8,192 + 2 x 512 + 128 x 4 = 14,336 MiB
    are left free, a share of 0.824; never less than 10 GiB, as with 2,048 tokens (4,720 MiB): 0.874.
    """
    h100 = load_gpu("h100-sxm").memory.capacity
    assert resolve_engine(Engine(name="sglang", version="0.5.9"), h100, 4).memory_utilisation == 0.824
    few = Engine(name="sglang", version="0.5.9", max_num_batched_tokens=2048)
    assert resolve_engine(few, h100, 4).memory_utilisation == 0.874
    assert (
        resolve_engine(Engine(name="sglang", version="0.5.1"), h100, 4).memory_utilisation == 0.856
    )  # 9.5 + 4 x 0.5 GiB
    assert resolve_engine(Engine(name="sglang", memory_utilisation=0.5), h100).memory_utilisation == 0.5
    assert Margin(fixed=2e9).share(1e9, tokens=0, graph=0, gpus=1) == 0.001


# ---- weights and layouts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_weights_are_split_but_never_lost(model: Model) -> None:
    whole = weight_bytes_per_gpu(model, Precision(), 1)
    wider = 2 * model.parameter_counts()["router"] if model.moe and model.moe.router_dtype == "fp32" else 0
    assert whole == pytest.approx(model.parameters * 2 + wider, rel=1e-12)
    for tensor in (2, 4, 8):
        part = weight_bytes_per_gpu(model, Precision(), tensor)
        assert whole / tensor <= part < whole
    narrow = weight_bytes_per_gpu(model, Precision(weights="fp8"), 1)
    assert whole / 2 < narrow < whole  # tables and norms stay in 16 bits
    for layout in (Layout(2, pipeline=2), Layout(2, attention_data=2), Layout(1, attention_data=4, pipeline=2)):
        part = weight_bytes_per_gpu(model, Precision(), layout)
        assert whole / layout.gpus <= part < whole


def test_layouts_by_hand() -> None:
    """A layer of TINY: attention 64 x 128 (Q) + 2 x 64 x 32 (K, V) + 128 x 64 (O) = 20,480 parameters; experts
    8 x 3 x 64 x 32 = 49,152; router 8 x 64 = 512; norms 2 x 64 + 2 x 16 = 160. Four of them, a norm of 64, and two
    tables of 100 x 64 = 6,400. In bf16, bytes of one GPU:
    """
    model = load_model(TINY)
    attention, experts, rest, table = 2 * 4 * 20_480, 2 * 4 * 49_152, 2 * (4 * 672 + 64), 2 * 6_400
    for layout, size in {
        Layout(): attention + experts + rest + 2 * table,
        Layout(2): attention / 2 + experts / 2 + rest + table,
        # Ranks repeat the attention and the tables; the experts lie on all four GPUs, in groups or not.
        Layout(2, attention_data=2): attention / 2 + experts / 4 + rest + table,
        Layout(2, attention_data=2, expert=4): attention / 2 + experts / 4 + rest + table,
        Layout(1, attention_data=4, expert=4): attention + experts / 4 + rest + 2 * table,
        # Half of the layers, and one of the tables.
        Layout(2, pipeline=2): (attention / 2 + experts / 2 + rest) / 2 + table / 2,
    }.items():
        assert weight_bytes_per_gpu(model, Precision(), layout) == size, layout
    # K and V of 2 heads of 16 on 4 layers: 2 x 4 x 2 x 16 x 2 = 512 bytes a token, shared by heads and by stages.
    for layout, token in {Layout(): 512, Layout(2): 256, Layout(2, pipeline=2): 128, Layout(1, 3): 256}.items():
        assert plan(model, layout=layout).kv_bytes_per_token == token, layout
    # Each rank has a KV cache of its own, and is as full as one GPU would be with its share of the experts.
    ranks, one = plan(model, layout=Layout(1, attention_data=4, expert=4)), plan(model)
    assert ranks.kv_blocks == pytest.approx(4 * one.kv_blocks, rel=1e-3) and ranks.kv_blocks % 4 == 0


def test_padded_experts() -> None:
    """An expert of gpt-oss, 2,880 wide, is padded to 3,072 = 12 x 256: its 4.25 bits a weight grow by a fifteenth."""
    plain, padded = (weight_bytes_per_gpu(GPT_OSS, MXFP4, 1, width) for width in (1, 256))
    experts = GPT_OSS.parameter_counts()["experts"] - GPT_OSS.expert_biases
    assert padded - plain == pytest.approx(experts * 0.53125 / 15, rel=1e-9)
    assert weight_bytes_per_gpu(GPT_OSS, Precision(), 1, 256) == weight_bytes_per_gpu(GPT_OSS, Precision(), 1)


# ---- latent and linear attention -------------------------------------------------------------------------------------

R1_FP8 = Precision(attention="fp8_block", mlp="fp8_block", experts="fp8_block")


def test_latent_attention_by_hand() -> None:
    """DeepSeek-R1 in bf16 on 8 GPUs. Every GPU has all of what makes the latent vectors, 7,168 x (1,536 + 576) on each
    of 61 layers, and of the norms and routers; the rest is divided by 8.
    """
    model = load_model("deepseek-r1")
    whole = 61 * 7168 * 2112 + 61 * (2 * 7168 + 1536 + 512) + 7168 + 58 * 256 * 7169
    assert weight_bytes_per_gpu(model, Precision(), 8) == 2 * (whole + (671_026_419_200 - whole) / 8)
    assert weight_bytes_per_gpu(model, Precision(), 1) == 2 * 671_026_419_200
    # Ranks of attention repeat all but the experts, 58 of which are shared ones.
    experts = 58 * 257 * 3 * 2048 * 7168
    ranks = Layout(1, attention_data=8, expert=8)
    assert weight_bytes_per_gpu(model, Precision(), ranks) == 2 * (671_026_419_200 - experts * 7 / 8)
    # The latents of a token are on every GPU: tensor parallelism makes no room for more of them, ranks do.
    b200 = load_gpu("b200-sxm")
    split, repeated = (plan(model, b200, R1_FP8, layout, max_seqs=16) for layout in (Layout(8), ranks))
    assert split.kv_bytes_per_token == repeated.kv_bytes_per_token == 70_272
    assert repeated.kv_tokens > 5 * split.kv_tokens
    staged = plan(model, b200, R1_FP8, Layout(4, pipeline=2), max_seqs=16)
    assert staged.kv_bytes_per_token == pytest.approx(31 / 61 * 70_272)


def test_an_indexer_is_on_every_gpu() -> None:
    """Of DeepSeek-V3.2 on 8 GPUs: 13,959,424 parameters and 132 bytes a token on each of 61 layers, not divided."""
    with_index, without = (load_model(f"deepseek-{name}") for name in ("v3.2", "v3"))
    more = weight_bytes_per_gpu(with_index, Precision(), 8) - weight_bytes_per_gpu(without, Precision(), 8)
    assert more == pytest.approx(2 * 61 * 13_959_424, rel=1e-9)
    b200 = load_gpu("b200-sxm")
    kv = [plan(model, b200, R1_FP8, 8, max_seqs=16).kv_bytes_per_token for model in (with_index, without)]
    assert kv[0] - kv[1] == 61 * 132


@pytest.mark.parametrize(
    "name", ["deepseek-r1", "kimi-k2.5", "glm-5", "qwen3.5-397b-a17b", "qwen3-30b-a3b", "gpt-oss-20b"]
)
@pytest.mark.parametrize("layout", [Layout(1), Layout(2), Layout(2, attention_data=2, expert=4)], ids=str)
def test_weights_are_those_that_the_graph_reads(name: str, layout: Layout) -> None:
    """In a step that hits all experts the operators read the weights of a GPU but for norms and biases, and of the
    embedding the rows of its tokens.
    """
    model = load_model(name)
    graph = build_graph(model, Dense(), Precision(), layout)
    tokens = 10**7
    shape = StepShape(tokens, tokens, tokens, (tokens,) * len(graph.decode_caps))
    work = {op.name: op.count * float(op.work(shape).weight_bytes) for op in graph.operators}
    table = 2 * model.vocab * model.hidden / layout.tensor
    read = sum(work.values()) - work["embedding"] + table
    assert read == pytest.approx(weight_bytes_per_gpu(model, Precision(), layout), rel=2e-3)


def test_redundant_and_shared_experts() -> None:
    """DeepSeek-V3 on 32 ranks with 32 copies of experts: (256 + 32) / 32 = 9 experts a layer on each GPU."""
    model = load_model("deepseek-v3")
    each, layers = 3 * 2048 * 7168, 58
    plain, copied = (Layout(1, attention_data=32, expert=32, redundant_experts=n) for n in (0, 32))
    sizes = [weight_bytes_per_gpu(model, Precision(), layout) for layout in (plain, copied)]
    assert sizes[1] - sizes[0] == pytest.approx(2 * layers * each, rel=1e-9)
    repeated = weight_bytes_per_gpu(model, Precision(), replace(plain, shared_experts="repeated"))
    assert repeated - sizes[0] == pytest.approx(2 * layers * each * 31 / 32, rel=1e-9)


def test_states_of_linear_attention() -> None:
    """Qwen3.5 on 8 GPUs: a sequence's 192,061,440 bytes of states are divided by them; 128 of them take 3.07 GB each.

    Where fewer fit, half of what is left for KV is theirs, and so many sequences run; SGLang gives them a share.
    """
    model, gpu = load_model("qwen3.5-397b-a17b"), load_gpu("h200-sxm")
    each = 192_061_440 / 8

    def of(seqs: int, **said: Any) -> MemoryPlan:
        return plan(model, gpu, layout=8, max_seqs=seqs, reserve=Reserve(sampling=0, **said))

    few, many = of(128), of(100_000)
    assert few.states == 128 * each and few.max_seqs == 128
    assert few.kv_bytes_per_token == 2 * 15 * 1 * 256 * 2  # one KV head a GPU: two are copied four times
    assert many.states <= (many.states + many.kv) / 2 < many.states + each and many.max_seqs == many.states / each
    assert few.kv + few.states == pytest.approx(many.kv + many.states)
    shared = of(4096, states=0.9 / 1.9, state_slots=3)
    assert shared.states == pytest.approx(0.9 * shared.kv)
    assert shared.max_seqs == int(shared.states / each / 3) < 4096
    assert of(16, states=0.5).max_seqs == 16
    # Two stages hold half of the layers each.
    assert plan(model, gpu, layout=Layout(8, pipeline=2), max_seqs=128).states == 128 * each / 2
    with pytest.raises(InputError, match="does not fit"):
        plan(model, capacity(91), layout=8, max_seqs=1, reserve=Reserve(sampling=0, states=0.001))


def test_states_limit_the_sequences_that_run() -> None:
    """On one H200 with four layers of Qwen3.5, three of them linear, at a small share of the memory."""
    model = {
        "base": "qwen3.5-397b-a17b", "num_hidden_layers": 4, "layer_types": None, "num_experts": 8,
        "num_experts_per_tok": 2,
    }  # fmt: skip
    workload = {"strategy": "chat", "requests": 4, "prompt_tokens": 64, "output_tokens": 8}
    engine = {"max_num_seqs": 1024, "max_model_len": 1024, "memory_utilisation": 0.1}
    spec = {"gpu": "h200-sxm", "model": model, "engine": engine, "profile": "ideal", "workload": workload}
    deployment = deploy(load_scenario(spec))
    seqs = deployment.memory.max_seqs
    assert deployment.params.max_num_seqs == deployment.cost.max_seqs == seqs < 1024
    assert seqs == int((deployment.memory.kv + deployment.memory.states) / 2 / (192_061_440 / 45 * 3))


def test_an_all_to_all_needs_less_room_than_all_tokens_on_all_gpus() -> None:
    model = load_model("deepseek-v3")
    apart = Layout(1, attention_data=8, expert=8, all_to_all="high_throughput")
    gathered = activations_peak(model, R1_FP8, replace(apart, all_to_all="none"), 8192, 16)
    assert activations_peak(model, R1_FP8, apart, 8192, 16) < gathered


@pytest.mark.parametrize(
    ("name", "precision", "tensor", "reported"),
    [
        # nvidia/DeepSeek-R1-FP4 on four B200: https://github.com/sgl-project/sglang/pull/9162
        ("deepseek-r1", Precision(mlp="nvfp4", experts="nvfp4"), 4, 94.50),
        # GLM-5-FP8 on eight GPUs, logs of 26 February 2026 and of RTX PRO 6000s in public repositories
        ("glm-5", R1_FP8, 8, 89.58),
        ("glm-5", R1_FP8, 8, 89.44),
    ],
)
def test_weights_of_latent_models_that_sglang_reported(
    name: str, precision: Precision, tensor: int, reported: float
) -> None:
    """GiB of whatever is allocated while loading: at most 3 % more than here, as of other models (docs/memory.md)."""
    found = weight_bytes_per_gpu(load_model(name), precision, tensor) / 2**30
    assert 0.97 * reported < found < reported


def test_latents_that_sglang_reported() -> None:
    """DeepSeek-R1 with an fp8 cache: `#tokens: 524288, KV size: 17.16 GB`, and with one in bf16 `cell_size = 70272`."""
    model = load_model("deepseek-r1")
    assert 524_288 * model.kv_bytes_per_token("fp8") / 2**30 == pytest.approx(17.16, abs=0.005)
    assert int(69.97756958007812 * 2**30 / model.kv_bytes_per_token("bf16")) == 1_069_242


# ---- sliding windows -------------------------------------------------------------------------------------------------


def test_windows_by_hand() -> None:
    """gpt-oss-20b: of 24 layers 12 have a window of 128; K and V of 8 heads of 64 in bf16 are 2,048 bytes a layer.

    Freed, a sequence keeps 8 blocks for the 127 tokens before it and one that the window slides into: 9 x 16 tokens
    for each of 4 sequences, and 256 of a prefill chunk: 832 x 12 x 2,048 = 20,447,232 bytes, beside 12 x 2,048 a token.
    """

    def windows(share: float, seqs: int = 4) -> MemoryPlan:
        return plan(GPT_OSS, max_tokens=256, max_seqs=seqs, reserve=Reserve(windows=share, sampling=0))

    kept, freed, ratio = windows(1), windows(0), windows(0.8)
    assert kept.kv_bytes_per_token == 24 * 2048 and kept.window_kv == 0
    assert freed.kv_bytes_per_token == 12 * 2048 and freed.window_kv == 20_447_232
    assert freed.kv + freed.window_kv == kept.kv
    assert ratio.kv_bytes_per_token == pytest.approx((12 + 0.8 * 12) * 2048) and ratio.window_kv == 0
    # Never less than if all were kept, however many sequences may run.
    assert windows(0, 10**6).kv_tokens == pytest.approx(windows(1, 10**6).kv_tokens, abs=16)


# ---- what engines print ----------------------------------------------------------------------------------------------


def test_against_engines() -> None:
    """KV memory that engines reported when they started, of those with room for more than 4 GiB: 3 % off on average,
    where the plan without an engine is 8 % off; and the weights, which do not depend on settings, within 2 %.

    Alone gpt-oss-120b under Marlin on one H100 is off by 2 GiB (docs/memory.md): its weights are repacked.
    """
    table = capacity_rows()
    rows = [row for row in table if row["kv_gib"] > 4]
    assert len(rows) >= 18
    for row in rows:
        assert row["weights"] == pytest.approx(row["weights_gib"] or row["weights"], rel=0.03), row["source"]
        marlin = "gpt-oss-120b" in row["model"]
        assert abs(row["error"]) < (0.25 if marlin else 0.1), row["source"]
    mean, ideal = (sum(abs(row[key]) for row in rows) / len(rows) for key in ("error", "ideal_error"))
    assert mean < 0.035 and ideal > 2 * mean
    # What did not fit does not, and what hardly did is told from it: both gpt-oss-120b on one H100 of 80 GB.
    little = {row["kv_gib"]: row["predicted_gib"] for row in table if row["kv_gib"] <= 4}
    assert little[-2.14] == 0 and little[1.71] == pytest.approx(1.71, abs=1.5)


def test_the_largest_batch_that_tensorrt_llm_ran() -> None:
    """Llama-3.1-70B, fp8 with an fp8 KV cache, on one H200 with up to 16,384 tokens a step: measured throughput stops
    growing at about 48 requests of 8,295 tokens (0.9 of 1,024 + 8,192; it admits whole lengths only).
    """
    reserve, engine = reserve_of("trtllm", version="1.1.0", max_num_batched_tokens=16_384)
    model = load_model("meta-llama/Meta-Llama-3.1-70B")
    p = plan(model, H200, Precision("fp8", "fp8", "fp8"), max_tokens=16_384, reserve=reserve)
    assert engine.memory_utilisation == 0.9
    assert p.kv_tokens / 8295 == pytest.approx(48, abs=1)


# ---- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_advice_is_the_least_tensor_parallelism_that_works(model: Model) -> None:
    """On GPUs of all sizes: what is advised can be built and fits, and nothing smaller does."""
    advised = set()
    for gigabytes in (3, 6, 8, 9, 12, 16, 24, 40, 80, 110, 141, 288, 330):
        gpu = capacity(gigabytes)
        possible = []
        for tensor in range(1, gpu.link.domain + 1):
            for expert in range(1, tensor + 1) if model.moe else (1,):
                try:
                    build_graph(model, Dense(), Precision(), Layout(tensor, expert=expert))
                    plan(model, gpu, layout=Layout(tensor, expert=expert))
                except InputError:
                    continue
                possible.append(tensor)
        if 1 in possible:
            continue
        with pytest.raises(InputError) as caught:
            plan(model, gpu)
        error = caught.value
        assert error.place == "model" and "does not fit" in error.problem and model.name in error.problem
        assert error.allowed is not None
        advice = re.search(r"at least (\d+) GPUs \(parallelism\.tensor = (\d+)", error.allowed)
        if possible:
            assert advice and int(advice[1]) == int(advice[2]) == min(possible), f"{gigabytes} GB: {error}"
            advised.add(min(possible))
        else:
            assert advice is None and "no tensor parallelism within the 8 linked GPUs" in error.allowed
    assert advised


def test_what_takes_how_much_is_named() -> None:
    """61 GB of weights on 24 GB: the message adds it up, and says how many GPUs hold it."""
    with pytest.raises(InputError) as caught:
        plan(MOE, capacity(24), layout=Layout(1, pipeline=2), reserve=reserve_of("vllm")[0])
    assert caught.value.problem.startswith("Qwen/Qwen3-30B-A3B does not fit: 30.5 GB weights, 1.61 GB communication, ")
    assert caught.value.found == "2 GPU(s) (tp1 pp2), bf16 weights"
    assert caught.value.allowed == "at least 4 GPUs (parallelism.tensor = 2), or a smaller weight format"
    # A larger share may do as well: 61 GB of 80.
    with pytest.raises(InputError, match=r"a larger engine\.memory_utilisation, or a smaller weight"):
        plan(MOE, capacity(80), utilisation=0.7)
    # Sampling 1,024 sequences takes 7.9 GB of logits: gpt-oss-120b fits on an H100 with fewer.
    gpu, model = load_gpu("h100-sxm"), load_model("openai/gpt-oss-120b")
    reserve, _ = reserve_of("vllm", gpu, version="0.12.0")
    with pytest.raises(InputError, match=r"at least 2 GPUs .*, a smaller engine\.max_num_seqs"):
        plan(model, gpu, MXFP4, max_seqs=1024, reserve=reserve)
    assert plan(model, gpu, MXFP4, max_seqs=64, reserve=reserve).kv_tokens > 100_000


def test_a_scenario_changes_one_constant_of_its_engine() -> None:
    gpu = H200.memory.capacity
    said = Engine.model_validate({"name": "vllm", "memory": {"windows": 1, "graphs": "2 GiB"}})
    changed, plain = resolve_engine(said, gpu).memory, resolve_engine(Engine(name="vllm"), gpu).memory
    assert changed is not None and plain is not None
    assert changed == plain.model_copy(update={"windows": 1.0, "graphs": 2 * 2.0**30})
    assert Reserve(**EngineMemory().model_dump(exclude={"margin"})) == IDEAL
