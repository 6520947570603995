"""The operator graph of one engine step of a decoder: a networkx DAG, one node an operator.

Built once per (model, parallel layout, attention policy, precision); cost, law, plots and calibration all ask it.
Layers that are alike are one subgraph with a count. A node holds its `Operator` under the key `op`; an edge says that
the second needs the first's output. Operators of one stream run in the order of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx

from hwspecs.dtypes import BYTES
from hwspecs.errors import InputError
from simulator import operators as ops
from simulator.operators import Experts, Heads, Operator

if TYPE_CHECKING:
    from workloads.attention import AttentionPolicy
    from workloads.model import Model


@dataclass(frozen=True)
class Precision:
    """Formats of weights, activations and KV cache, as quantised checkpoints are served.

    Linear layers store their weights in `weights` and multiply in `activations`. What passes between operators stays in
    at least 16 bits (linear layers quantise their inputs themselves), and so do the embedding, the language-model head
    and the routers of an MoE. Attention multiplies in `activations` if the KV cache is as narrow, else in 16 bits.
    """

    weights: str = "bf16"
    activations: str = "bf16"
    kv: str = "bf16"


def gemm_format(precision: Precision) -> str:
    """The formats of weights and activations together, as tables of kernels call them."""
    weights, activations = precision.weights, precision.activations
    if BYTES[weights] > BYTES[activations]:  # the wider operand is what has to be moved, and to be multiplied
        activations = weights
    if weights == activations:
        return {"fp4": "nvfp4", "int8": "sq", "int4": "int4_wo", "fp16": "bf16"}.get(weights, weights)
    if BYTES[activations] >= 2:
        return {"fp4": "w4a16_mxfp4", "int4": "int4_wo"}.get(weights, "int8_wo" if BYTES[weights] == 1 else activations)
    return "w4a8_mxfp4_mxfp8" if weights in ("fp4", "int4") else activations


def passed_bytes(precision: Precision) -> float:
    """Bytes per element of what passes from one operator to the next."""
    return max(2.0, BYTES[precision.activations])


@dataclass(frozen=True)
class StepGraph:
    """The graph and the extents its attention reads (docs/engine.md): caps in tokens, None for everything."""

    dag: nx.DiGraph
    decode_caps: tuple[int | None, ...]
    prefill_caps: tuple[int | None, ...]
    model: Model
    precision: Precision
    tensor: int

    @property
    def operators(self) -> list[Operator]:
        """All operators in an order in which they can be executed."""
        return [self.dag.nodes[name]["op"] for name in nx.topological_sort(self.dag)]


def check_tensor_parallel(model: Model, gpus: int) -> None:
    """InputError unless heads, KV heads and widths can be divided over `gpus` GPUs (KV heads may be replicated)."""
    widths = {
        "intermediate_size": model.moe.intermediate if model.moe else model.intermediate,
        "num_attention_heads": model.q_heads,
    }
    for name, value in widths.items():
        if value % gpus:
            raise InputError(
                f"tensor parallelism over {gpus} GPUs does not divide {name} = {value} of {model.name}",
                place="parallelism.tensor",
                found=gpus,
                allowed=f"a divisor of {value}",
            )
    if model.kv_heads % gpus and gpus % model.kv_heads:
        raise InputError(
            f"tensor parallelism neither divides nor multiplies the {model.kv_heads} KV heads of {model.name}",
            place="parallelism.tensor",
            found=gpus,
            allowed=f"divisors or multiples of {model.kv_heads}",
        )


def divides(model: Model, gpus: int) -> bool:
    """Whether the model can be divided over `gpus` GPUs."""
    try:
        check_tensor_parallel(model, gpus)
    except InputError:
        return False
    return True


class _Extents:
    """Collects the distinct caps and hands out their indices."""

    def __init__(self) -> None:
        self.caps: list[int | None] = []

    def index(self, cap: int | None) -> int:
        if cap not in self.caps:
            self.caps.append(cap)
        return self.caps.index(cap)


def build_graph(model: Model, attention: AttentionPolicy, precision: Precision, tensor: int = 1) -> StepGraph:
    """The graph of a step that may hold decodes and prefill chunks (an absent part has no work and takes no time).

    Raises
    ------
    InputError : the parallel layout does not divide the model.
    """
    check_tensor_parallel(model, tensor)
    builder = _Builder(model, attention, precision, tensor)
    return builder.build()


class _Builder:
    def __init__(self, model: Model, attention: AttentionPolicy, precision: Precision, tensor: int) -> None:
        self.model, self.attention, self.precision, self.tensor = model, attention, precision, tensor
        self.w, self.kv = BYTES[precision.weights], BYTES[precision.kv]
        self.a = passed_bytes(precision)
        self.table = max(2.0, self.w)  # embedding, head and routers
        self.wide = precision.activations if BYTES[precision.activations] >= 2 else "bf16"
        self.attention_dtype = precision.activations if self.kv <= BYTES[precision.activations] else self.wide
        self.q_heads = model.q_heads // tensor
        self.kv_heads = max(1, model.kv_heads // tensor)
        self.decode, self.prefill = _Extents(), _Extents()
        self.dag = nx.DiGraph()
        self.last: list[str] = []

    def add(self, *parallel: Operator) -> None:
        """Append operators that all follow the last ones and do not wait for each other."""
        for op in parallel:
            self.dag.add_node(op.name, op=op)
            self.dag.add_edges_from((before, op.name) for before in self.last)
        self.last = [op.name for op in parallel]

    def build(self) -> StepGraph:
        model, a = self.model, self.a
        h = model.hidden
        self.add(
            ops.elementwise("embedding", count=1, weight_bytes=h * self.table, act_bytes=h * a, routine="embedding")
        )
        self.reduce("embedding_all_reduce", 1)
        groups: dict[tuple[int | None, bool], int] = {}
        moe_layers = model.moe.moe_layers if model.moe else (False,) * model.layers
        for kind in zip(model.layer_windows, moe_layers, strict=True):
            groups[kind] = groups.get(kind, 0) + 1
        for (window, is_moe), count in groups.items():
            parts = [f"window {window}" if window else "full attention"] if len(set(model.layer_windows)) > 1 else []
            parts += ["moe" if is_moe else "dense"] if len(set(moe_layers)) > 1 else []
            self.layer(f" [{', '.join(parts)}]" if len(groups) > 1 else "", window, is_moe, count)
        self.add(ops.elementwise("final_norm", count=1, act_bytes=2 * h * a, flops=4 * h, routine="rms_norm"))
        vocab = -(-model.vocab // self.tensor)
        self.add(ops.gemm("lm_head", vocab, h, count=1, dtype=self.wide, weight=self.table, act=a, axis="rows"))
        if self.tensor > 1:
            self.add(ops.all_gather("logits_all_gather", model.vocab, self.tensor, count=1, act=a, axis="rows"))
        # Softmax and the draw: the logits are read twice in fp32.
        self.add(
            ops.elementwise(
                "sampling",
                count=1,
                act_bytes=2 * 4 * model.vocab,
                flops=5 * model.vocab,
                axis="rows",
                routine="sampling",
            )
        )
        return StepGraph(
            self.dag, tuple(self.decode.caps), tuple(self.prefill.caps), model, self.precision, self.tensor
        )

    def gemm(self, name: str, n: int, k: int, count: int) -> Operator:
        return ops.gemm(
            name,
            n,
            k,
            count=count,
            dtype=self.precision.activations,
            weight=self.w,
            act=self.a,
            format=gemm_format(self.precision),
        )

    def grouped(self, name: str, n: int, k: int, count: int, block: Experts, share: float) -> Operator:
        dtype = self.precision.activations
        return ops.grouped_gemm(
            name, n, k, count=count, dtype=dtype, weight=self.w, act=self.a, block=block, share=share
        )

    def norm(self, name: str, count: int) -> Operator:
        """RMSNorm fused with the residual addition: reads both, writes both."""
        h = self.model.hidden
        return ops.elementwise(name, count=count, act_bytes=4 * h * self.a, flops=5 * h, routine="rms_norm")

    def reduce(self, name: str, count: int) -> None:
        if self.tensor > 1:
            self.add(ops.all_reduce(name, self.model.hidden, self.tensor, count=count, act=self.a))

    def layer(self, suffix: str, window: int | None, is_moe: bool, count: int) -> None:
        model, h, d = self.model, self.model.hidden, self.model.head_dim
        hq, hkv = self.q_heads, self.kv_heads
        self.add(self.norm(f"attn_norm{suffix}", count))
        self.add(self.gemm(f"qkv_proj{suffix}", (hq + 2 * hkv) * d, h, count))
        # RoPE (and QK-norm) over Q and K in place, K and V written to the cache.
        rope = ops.elementwise(
            f"rope_kv_write{suffix}",
            count=count,
            act_bytes=((hq + 2 * hkv) + hq) * d * self.a,
            kv_bytes=2 * hkv * d * self.kv,
            flops=(3 + 4 * model.qk_norm) * (hq + hkv) * d,
            routine="rope_kv_write",
        )
        self.add(rope)
        self.attend(suffix, window, count)
        self.add(self.gemm(f"o_proj{suffix}", h, hq * d, count))
        self.reduce(f"attn_all_reduce{suffix}", count)
        self.add(self.norm(f"mlp_norm{suffix}", count))
        if is_moe:
            self.experts(suffix, count)
        else:
            width = model.intermediate // self.tensor
            self.mlp(suffix, width, count)
        self.reduce(f"mlp_all_reduce{suffix}", count)

    def attend(self, suffix: str, window: int | None, count: int) -> None:
        """Prefill attention beside the decode parts that the policy asks for; both precede the output projection."""
        dtype = self.attention_dtype
        d = self.model.head_dim
        before = list(self.last)
        decode_cap, prefill_cap = self.attention.decode_cap(window), self.attention.prefill_cap(window)

        def heads(extents: _Extents, cap: int | None, page: int = 1, budget: int | None = None) -> Heads:
            return Heads(self.q_heads, self.kv_heads, d, extents.index(cap), cap, page, self.precision.kv, budget)

        page = self.attention.page
        budget = None if page is None else decode_cap
        if page is not None:
            # One summary vector a KV head and page: K is read again as it is written, and 1/page of it stored.
            summary = self.kv_heads * d * (self.kv + self.kv / page)
            self.add(ops.elementwise(f"page_summary{suffix}", count=count, kv_bytes=summary, routine="page_summary"))
            past = heads(self.decode, window, page, budget)
            self.add(ops.page_scores(f"page_scores{suffix}", past, count=count, dtype=dtype, kv=self.kv, act=self.a))
            self.add(ops.page_select(f"page_select{suffix}", past, count=count))
        self.add(
            ops.attention_decode(
                f"attention_decode{suffix}",
                heads(self.decode, decode_cap, budget=budget),
                count=count,
                dtype=dtype,
                kv=self.kv,
                act=self.a,
            )
        )
        decode_end = self.last
        self.last = before
        self.add(
            ops.attention_prefill(
                f"attention_prefill{suffix}",
                heads(self.prefill, prefill_cap),
                count=count,
                dtype=dtype,
                kv=self.kv,
                act=self.a,
            )
        )
        self.last = decode_end + self.last

    def mlp(self, suffix: str, width: int, count: int) -> None:
        h = self.model.hidden
        self.add(self.gemm(f"gate_up_proj{suffix}", 2 * width, h, count))
        self.add(
            ops.elementwise(
                f"silu_mul{suffix}", count=count, act_bytes=3 * width * self.a, flops=5 * width, routine="silu_mul"
            )
        )
        self.add(self.gemm(f"down_proj{suffix}", h, width, count))

    def experts(self, suffix: str, count: int) -> None:
        """An MoE block with uniform routing: router, permute, two grouped GEMMs, weighted sum; shared experts as a
        dense MLP.
        """
        moe, h, a = self.model.moe, self.model.hidden, self.a
        assert moe is not None
        width = moe.intermediate // self.tensor
        block = Experts(h, moe.intermediate, moe.top_k, moe.experts, self.tensor, gemm_format(self.precision))
        router = ops.gemm(f"router{suffix}", moe.experts, h, count=count, dtype=self.wide, weight=self.table, act=a)
        self.add(router)
        permute = (1 + moe.top_k) * h * a + 4 * moe.experts
        self.add(ops.elementwise(f"permute{suffix}", count=count, act_bytes=permute, block=block))
        # Shares of the fused kernel's time: by weights, two matrices of three against one.
        self.add(self.grouped(f"experts_gate_up{suffix}", 2 * width, h, count, block, 2 / 3))
        self.add(
            ops.elementwise(
                f"experts_silu_mul{suffix}",
                count=count,
                act_bytes=3 * width * moe.top_k * a,
                flops=5 * width * moe.top_k,
                block=block,
            )
        )
        self.add(self.grouped(f"experts_down{suffix}", h, width, count, block, 1 / 3))
        combine = (1 + moe.top_k) * h * a
        self.add(
            ops.elementwise(f"combine{suffix}", count=count, act_bytes=combine, flops=2 * moe.top_k * h, block=block)
        )
        if moe.shared_intermediate:
            self.mlp(f" shared{suffix}", moe.shared_intermediate // self.tensor, count)
