"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): its block of a layer, cache and kernels.

A token leaves one latent vector of `kv_rank` elements and a rotated key of `rope_dim` on each layer, which all heads
share. There are two ways to attend, equal in what they compute:

- *expanded*, in prefill: keys (`nope_dim + rope_dim`) and values (`value_dim`) of every head are made of the latents of
  all tokens that are read, those of the past again for every chunk; then attention as with as many KV heads as heads;
- *absorbed*, in decode: the queries go through the keys' matrix instead (`absorb_query`), attend to the latents as to
  one KV head of `kv_rank + rope_dim` elements, and the outputs go through the values' matrix (`expand_value`).

Heads are split over tensor parallelism; the latents, and the projections that make them, are not: every GPU has all.

Kernels: `gemm` for the projections, `mla_prefill`, `mla_decode`, `mla_bmm` for the absorption; or the whole block by
its phase, `mla_module`, where that is all that was measured of an engine (`simulator.modules`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator import operators as ops
from simulator.operators import Heads, KeyGemm, Module, Operator, Work, rows_of, used
from simulator.shape import StepShape

if TYPE_CHECKING:
    from simulator.stepgraph import Builder, Extents
    from workloads.attentionshapes import Latent
    from workloads.model import Model


@dataclass(frozen=True, kw_only=True)
class LatentHeads(Heads):
    """Latent attention on one GPU: absorbed (one KV head as wide as the latent and the rotated key) or expanded."""

    latent: Latent


@dataclass(frozen=True)
class Absorb:
    """The keys' matrix applied to queries (`pre`), or the values' to outputs (`post`), head by head."""

    op: str
    heads: int
    latent: Latent
    extent: int
    cap: int | None
    queries: int = 1
    """Rows of a decoding sequence."""

    @property
    def widths(self) -> tuple[int, int]:
        """Elements of a head before and after."""
        latent = self.latent
        return (latent.nope_dim, latent.kv_rank) if self.op == "pre" else (latent.kv_rank, latent.value_dim)


def kv_bytes_per_token(model: Model, kv_dtype: str, page: int | None = None) -> float:
    """Bytes that a token takes in the cache of every GPU, on all layers, an indexer's keys included.

    `page` : tokens behind one summary vector of block top-k.
    """
    assert model.latent is not None
    return model.layers * model.latent.token_bytes(kv_dtype) * (1 if page is None else 1 + 1 / page)


def copied_parameters(model: Model, tensor: int) -> int:
    """Parameters beyond the model's own, over `tensor` GPUs: the copies of what makes the latents and the index."""
    latent, h = model.latent, model.hidden
    assert latent is not None
    each = h * latent.width + (h * latent.q_rank if latent.q_rank else 0)
    if latent.indexer is not None:
        index = latent.indexer
        each += (latent.q_rank or h) * index.heads * index.head_dim + h * (index.head_dim + index.heads)
    return (tensor - 1) * each * model.layers


def add_block(builder: Builder, suffix: str, window: int | None, count: int) -> None:
    """Add projections, cache writes and attention of `count` layers with this `window` to the graph."""
    latent = _latent(builder)
    heads, policy = builder.model.q_heads // builder.tensor, builder.attention
    if policy.decode_cap(window) is None and policy.prefill_cap(window) is None and policy.page is None:
        set_module(builder, "mla_module", suffix)  # only dense ones were measured
    add_projections(builder, suffix, count)
    before = list(builder.last)
    _decode(builder, suffix, window, count, heads)
    decode_end, builder.last = builder.last, before
    dtype, a = builder.precision.attention_dtype, builder.a
    cap = policy.prefill_cap(window)
    extent = builder.prefill.index(cap)
    n, kv = heads * (latent.nope_dim + latent.value_dim), latent.key_bytes(builder.precision.kv)
    linear = builder.precision.linear("attention")
    dims = KeyGemm(n, latent.kv_rank, format=linear.format, extent=extent, cap=cap)
    builder.add(
        expand_keys(f"kv_up_proj{suffix}", dims, count=count, weight=linear.weight, kv=kv, act=a, dtype=linear.dtype)
    )
    chunk = LatentHeads(heads, heads, latent.head_dim, extent, cap, kv=builder.precision.kv, latent=latent)
    builder.add(prefill(f"attention_prefill{suffix}", chunk, count=count, dtype=dtype, act=a))
    builder.last = decode_end + builder.last
    builder.add(builder.gemm("output", f"o_proj{suffix}", builder.model.hidden, heads * latent.value_dim, count))
    builder.module = None


def set_module(builder: Builder, kind: str, suffix: str) -> None:
    """What is added from now on is a part of a block that tables time as a whole."""
    model, precision = builder.model, builder.precision
    builder.module = Module(
        kind=kind,
        block=suffix,
        model=model.name,
        latent=_latent(builder),
        hidden=model.hidden,
        q_heads=model.q_heads // builder.tensor,
        kv=precision.kv,
        gemm=precision.linear("attention").format,
        decode=builder.decode.index(None),
        prefill=builder.prefill.index(None),
    )


def add_projections(builder: Builder, suffix: str, count: int) -> None:
    """From the normalised input to queries, and latents in the cache."""
    model, latent, a = builder.model, _latent(builder), builder.a
    h, heads = model.hidden, model.q_heads // builder.tensor
    q_rank = latent.q_rank or 0
    # Queries' and keys' latents come from one matrix, whole on every GPU.
    builder.add(builder.gemm("attention", f"latent_down_proj{suffix}", q_rank + latent.width, h, count))
    width = q_rank + latent.kv_rank
    builder.add(
        ops.elementwise(
            f"latent_norm{suffix}", count=count, act_bytes=2 * width * a, flops=4 * width, routine="rms_norm"
        )
    )
    builder.add(builder.gemm("attention", f"q_up_proj{suffix}", heads * latent.head_dim, q_rank or h, count))
    # RoPE over the rotated part of Q in place and over the key; latent and key go to the cache.
    rope = latent.rope_dim
    builder.add(
        ops.elementwise(
            f"rope_kv_write{suffix}",
            count=count,
            act_bytes=(2 * heads * rope + latent.width) * a,
            kv_bytes=latent.key_bytes(builder.precision.kv),
            flops=3 * rope * (heads + 1),
            routine="rope_kv_write",
        )
    )


def add_absorb(builder: Builder, op: str, name: str, count: int, heads: int, axis: str, extent: int) -> None:
    """Add one half of the absorption of a phase, beside attention that reads an `extent`."""
    linear = builder.precision.linear("attention")
    # Formats narrower than fp8 are widened when the weights are loaded: no kernel multiplies heads one by one in them.
    fp8 = linear.dtype == "fp8"
    dtype, weight = ("fp8", linear.weight) if fp8 else (builder.wide, builder.table)
    caps = builder.decode.caps if axis == "decode" else builder.prefill.caps
    queries = builder.queries if axis == "decode" else 1
    dims = Absorb(op, heads, _latent(builder), extent, caps[extent], queries)
    builder.add(absorb(name, dims, count=count, dtype=dtype, weight=weight, act=builder.a, axis=axis))


def _decode(builder: Builder, suffix: str, window: int | None, count: int, heads: int) -> None:
    """Absorption, the parts of a sparse policy, attention, expansion."""
    policy, latent, a = builder.attention, _latent(builder), builder.a
    dtype, kv = builder.precision.attention_dtype, latent.key_bytes(builder.precision.kv)
    cap, page = policy.decode_cap(window), policy.page
    budget = None if page is None else cap

    def past(extents: Extents, cap: int | None, page: int = 1) -> LatentHeads:
        extent = extents.index(cap)
        return LatentHeads(
            heads, 1, latent.width, extent, cap, page, builder.precision.kv, budget, builder.queries, latent=latent
        )

    if page is not None:
        # All heads read one KV head, so they share its pages and their summaries.
        summary = kv * (1 + 1 / page)
        builder.add(ops.elementwise(f"page_summary{suffix}", count=count, kv_bytes=summary, routine="page_summary"))
    extent = builder.decode.index(window if page is not None else cap)
    add_absorb(builder, "pre", f"absorb_query{suffix}", count, heads, "decode", extent)
    if page is not None:
        scored = past(builder.decode, window, page)
        each = kv / latent.width
        builder.add(ops.page_scores(f"page_scores{suffix}", scored, count=count, dtype=dtype, kv=each, act=a))
        builder.add(ops.page_select(f"page_select{suffix}", scored, count=count))
    read = past(builder.decode, cap)
    builder.add(decode(f"attention_decode{suffix}", read, count=count, dtype=dtype, kv=kv, act=a))
    add_absorb(builder, "post", f"expand_value{suffix}", count, heads, "decode", read.extent)


def expand_keys(name: str, dims: KeyGemm, *, count: int, dtype: str, weight: float, kv: float, act: float) -> Operator:
    """Keys and values of the heads from the latents of all tokens that prefill reads: 2 n k FLOPs a token.

    `kv` : bytes of a token in the cache, which is where all of them are read.
    """

    def work(shape: StepShape) -> Work:
        m = 0 if shape.prefill is None else shape.prefill.kv[dims.extent]
        return Work(2 * m * dims.n * dims.k, dims.n * dims.k * weight * used(m), kv * m, m * dims.n * act)

    return Operator(name, "gemm", "prefill", count, dtype, work, dims=dims)


def prefill(name: str, heads: LatentHeads, *, count: int, dtype: str, act: float) -> Operator:
    """Expanded causal attention: 2 q_heads (nope + rope + value) FLOPs a (query, key) pair.

    Queries, keys and values are read and outputs written once; all are activations that were just made.
    """
    latent, h = heads.latent, heads.q_heads
    expanded = h * (latent.nope_dim + latent.value_dim) + latent.rope_dim

    def work(shape: StepShape) -> Work:
        chunks = shape.prefill
        if chunks is None:
            return Work()
        return Work(
            flops=2 * h * (latent.head_dim + latent.value_dim) * chunks.pairs[heads.extent],
            act_bytes=(
                h * (latent.head_dim + latent.value_dim) * act * chunks.tokens
                + expanded * act * chunks.kv[heads.extent]
            ),
        )

    return Operator(name, "mla_prefill", "prefill", count, dtype, work, dims=heads)


def decode(name: str, heads: LatentHeads, *, count: int, dtype: str, kv: float, act: float) -> Operator:
    """Absorbed attention: 2 q_heads (2 kv_rank + rope) FLOPs a token read and query token.

    `kv` bytes a token are read once for all heads, and all query tokens of a sequence.
    """
    latent, h = heads.latent, heads.q_heads * heads.queries

    def work(shape: StepShape) -> Work:
        read = shape.decode_kv[heads.extent]
        return Work(
            flops=2 * h * (latent.width + latent.kv_rank) * read,
            kv_bytes=kv * read,
            act_bytes=h * (latent.width + latent.kv_rank) * act * shape.decode_seqs,
        )

    return Operator(name, "mla_decode", "decode", count, dtype, work, dims=heads)


def absorb(name: str, dims: Absorb, *, count: int, dtype: str, weight: float, act: float, axis: str) -> Operator:
    """A small matrix for each head: 2 n k FLOPs a row and head, every matrix read once."""
    k, n = dims.widths

    def work(shape: StepShape) -> Work:
        m, h = rows_of(shape, axis) * dims.queries, dims.heads
        return Work(2 * h * n * k * m, h * n * k * weight * used(m), act_bytes=h * (n + k) * act * m)

    return Operator(name, "mla_bmm", axis, count, dtype, work, dims=dims)


def columns(latent: Latent) -> Mapping[str, int]:
    """What kernels' models are told of the shape of a head."""
    return {
        "kv_rank": latent.kv_rank, "rope": latent.rope_dim, "nope": latent.nope_dim, "value": latent.value_dim,
    }  # fmt: skip


def _latent(builder: Builder) -> Latent:
    assert builder.model.latent is not None
    return builder.model.latent
