"""Linear attention by the gated delta rule (Gated DeltaNet, arXiv 2412.06464; Qwen3-Next, Qwen3.5): block and state.

A layer keeps no KV: each value head has a matrix S of `k_head_dim x v_head_dim`, which every token decays and corrects,

    S_t = a_t S_{t-1} + b_t k_t (v_t - (a_t S_{t-1})^T k_t)^T,    o_t = S_t^T q_t,

and a short convolution over time before it keeps the last `conv_width - 1` inputs of its channels. So a sequence takes
the same memory and the same time a token however long it is. Prefill works in chunks of CHUNK tokens, whose tokens see
each other by small matrix products, and passes the state from chunk to chunk.

Heads are split over tensor parallelism, and the states with them.

Kernels: `gemm` for the projections, `linear_attention` with the routines `conv` and `delta`, by phase.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwspecs.dtypes import BYTES
from simulator import operators as ops
from simulator.operators import Operator, Work
from simulator.shape import StepShape

if TYPE_CHECKING:
    from simulator.stepgraph import Builder
    from workloads.attentionshapes import GatedDelta
    from workloads.model import Model

CHUNK = 64
"""Tokens of a chunk of prefill, in all public kernels (flash-linear-attention)."""


@dataclass(frozen=True)
class Recurrent:
    """A routine of linear attention on one GPU, `conv` or `delta`, with the heads of that GPU.

    `extent` : any; the past is not read, but a step's operators are functions of one.
    """

    routine: str
    rule: GatedDelta
    hidden: int
    k_heads: int
    v_heads: int
    extent: int
    cap: int | None = None
    queries: int = 1
    """Tokens of a decoding sequence."""

    @property
    def channels(self) -> int:
        """Channels of the convolution."""
        return 2 * self.k_heads * self.rule.k_head_dim + self.v_heads * self.rule.v_head_dim


def state_bytes(model: Model, tensor: int) -> float:
    """Bytes of a sequence's states on one of `tensor` GPUs, on all linear layers."""
    rule = model.linear
    if rule is None:
        return 0.0
    return sum(model.layer_linear) * rule.sequence_bytes(model.dtype) / tensor


def add_block(builder: Builder, suffix: str, window: int | None, count: int) -> None:
    """Add projections, convolution and delta rule of `count` layers to the graph; there is no past to limit."""
    model, a = builder.model, builder.a
    rule = model.linear
    assert rule is not None
    h, keys, values = model.hidden, rule.k_heads // builder.tensor, rule.v_heads // builder.tensor
    out = values * rule.v_head_dim
    # Queries, keys, values and the output's gate; then decay and strength of each value head.
    width = 2 * keys * rule.k_head_dim + 2 * out
    builder.add(builder.gemm("attention", f"linear_in_proj{suffix}", width, h, count))
    builder.add(builder.gemm("attention", f"linear_gates_proj{suffix}", 2 * values, h, count))
    before, ends = list(builder.last), list[str]()
    for axis, extents in (("decode", builder.decode), ("prefill", builder.prefill)):
        builder.last = before
        queries = builder.queries if axis == "decode" else 1
        conv, delta = (
            Recurrent(routine, rule, h, keys, values, extents.index(None), queries=queries)
            for routine in ("conv", "delta")
        )
        builder.add(convolution(f"causal_conv_{axis}{suffix}", conv, count=count, axis=axis, act=a))
        builder.add(delta_rule(f"delta_rule_{axis}{suffix}", delta, count=count, axis=axis, dtype=builder.wide, act=a))
        ends += builder.last
    builder.last = ends
    # RMSNorm of every head's output, times the gate through SiLU: output and gate are read, the product written.
    builder.add(
        ops.elementwise(f"gated_norm{suffix}", count=count, act_bytes=3 * out * a, flops=9 * out, routine="silu_mul")
    )
    builder.add(builder.gemm("output", f"linear_out_proj{suffix}", h, out, count))


def _rows(shape: StepShape, axis: str, queries: int) -> tuple[Any, Any]:
    """Tokens and sequences of one phase."""
    if axis == "decode":
        return queries * shape.decode_seqs, shape.decode_seqs
    return (0, 0) if shape.prefill is None else (shape.prefill.tokens, shape.prefill.seqs)


def convolution(name: str, dims: Recurrent, *, count: int, axis: str, act: float) -> Operator:
    """A filter of `conv_width` taps on every channel: inputs read, outputs written; each sequence's last inputs read
    and replaced. No matrix is multiplied.
    """
    channels, taps = dims.channels, dims.rule.conv_width

    def work(shape: StepShape) -> Work:
        tokens, seqs = _rows(shape, axis, dims.queries)
        return Work(
            flops=2 * taps * channels * tokens,
            weight_bytes=taps * channels * act * ops.used(tokens),
            kv_bytes=(1 + dims.queries) * (taps - 1) * channels * act * seqs,
            act_bytes=2 * channels * act * tokens,
        )

    return Operator(name, "linear_attention", axis, count, None, work, dims=dims)


def delta_rule(name: str, dims: Recurrent, *, count: int, axis: str, dtype: str, act: float) -> Operator:
    """Every sequence's states are read once and written once, or after each of several tokens, of which some may be
    taken back; queries, keys, values and gates are read, outputs written.

    FLOPs of a token and value head: in decode 7 k v (decay 1, prediction 2, correction 2, output 2), outside of the
    tensor cores; in prefill 6 k v for the state before its chunk and after it (prediction, output, sum), and
    2 CHUNK (3 k + 2 v) within the chunk (keys with keys, queries with keys, and both solved for keys and values).
    """
    rule = dims.rule
    k, v, heads = rule.k_head_dim, rule.v_head_dim, dims.v_heads
    decoding = axis == "decode"
    flops = 7 * k * v if decoding else 6 * k * v + 2 * CHUNK * (3 * k + 2 * v)
    state = heads * k * v * BYTES[rule.state_dtype]
    passed = 2 * dims.k_heads * k + 2 * heads * v + 2 * heads

    def work(shape: StepShape) -> Work:
        tokens, seqs = _rows(shape, axis, dims.queries)
        states = (1 + dims.queries) * state * seqs
        return Work(flops=heads * flops * tokens, kv_bytes=states, act_bytes=passed * act * tokens)

    return Operator(name, "linear_attention", axis, count, None if decoding else dtype, work, dims=dims)


def columns(dims: Recurrent) -> Mapping[str, float]:
    """What kernels' models are told of the heads."""
    rule = dims.rule
    return {
        "hidden": dims.hidden, "conv_width": rule.conv_width, "k_heads": dims.k_heads, "v_heads": dims.v_heads,
        "k_head_dim": rule.k_head_dim, "v_head_dim": rule.v_head_dim, "state_size": BYTES[rule.state_dtype],
    }  # fmt: skip
