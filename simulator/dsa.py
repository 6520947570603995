"""DeepSeek's sparse attention (DSA; DeepSeek-V3.2, arXiv 2512.02556): latent attention behind a lightning indexer.

For every query token the indexer scores every token of its past: `heads` small query heads against one key of
`head_dim` elements a token, in fp8, ReLU, and a weighted sum over the heads. The query then attends to the `top_k` best
tokens, in the absorbed form (`simulator.mla`), in decode and in prefill alike. So the index grows with the whole past,
cheaply, and attention stops growing at `top_k` tokens.

The index is scored by every GPU of a tensor-parallel group: its heads are not split, and its keys are on all.

Kernels: the whole block by its phase, `dsa_module` (`simulator.modules`); nobody measured its parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError
from simulator import mla
from simulator import operators as ops
from simulator.mla import LatentHeads
from simulator.operators import Heads, Operator, Work
from simulator.shape import StepShape, smaller

if TYPE_CHECKING:
    from simulator.stepgraph import Builder

INDEX_DTYPE = "fp8"
"""Of the index, whatever the KV cache is in."""


def add_block(builder: Builder, suffix: str, window: int | None, count: int) -> None:
    """Add projections, index and sparse attention of `count` layers to the graph.

    Raises
    ------
    InputError : an attention policy that chooses tokens beside the indexer. The place is `attention`.
    """
    latent, a = builder.model.latent, builder.a
    assert latent is not None and latent.indexer is not None
    _check_policy(builder, window)
    index, heads = latent.indexer, builder.model.q_heads // builder.tensor
    mla.set_module(builder, "dsa_module", suffix)
    mla.add_projections(builder, suffix, count)
    query = index.heads * index.head_dim
    builder.add(builder.gemm("attention", f"index_q_proj{suffix}", query, latent.q_rank or builder.model.hidden, count))
    # The key, and a weight for each head.
    width = index.head_dim + index.heads
    builder.add(builder.gemm("attention", f"index_k_proj{suffix}", width, builder.model.hidden, count))
    # Norm of the key, RoPE, and both to fp8; the key to the cache.
    builder.add(
        ops.elementwise(
            f"index_kv_write{suffix}",
            count=count,
            act_bytes=(query + index.head_dim) * a + query,
            kv_bytes=index.key_bytes,
            flops=3 * latent.rope_dim * (index.heads + 1) + 4 * index.head_dim,
            routine="rope_kv_write",
        )
    )
    before = list(builder.last)
    dtype, kv = builder.precision.attention_dtype, latent.key_bytes(builder.precision.kv)
    ends: list[str] = []
    for axis, extents in (("decode", builder.decode), ("prefill", builder.prefill)):
        builder.last = before
        queries = builder.queries if axis == "decode" else 1
        past = Heads(index.heads, 1, index.head_dim, extents.index(None), None, kv=INDEX_DTYPE, queries=queries)
        best = extents.index(index.top_k)
        read = LatentHeads(
            heads, 1, latent.width, best, index.top_k,
            kv=builder.precision.kv, budget=index.top_k, queries=queries, latent=latent,
        )  # fmt: skip
        mla.add_absorb(builder, "pre", f"absorb_query_{axis}{suffix}", count, heads, axis, best)
        scores = index_scores(f"index_scores_{axis}{suffix}", past, index.key_bytes, count=count, axis=axis)
        builder.add(scores)
        builder.add(index_select(f"index_select_{axis}{suffix}", past, index.top_k, count=count, axis=axis))
        if axis == "decode":
            builder.add(mla.decode(f"attention_decode{suffix}", read, count=count, dtype=dtype, kv=kv, act=a))
        else:
            name = f"attention_prefill{suffix}"
            builder.add(sparse_prefill(name, read, past.extent, count=count, dtype=dtype, kv=kv, act=a))
        mla.add_absorb(builder, "post", f"expand_value_{axis}{suffix}", count, heads, axis, best)
        ends += builder.last
    builder.last = ends
    builder.add(builder.gemm("output", f"o_proj{suffix}", builder.model.hidden, heads * latent.value_dim, count))
    builder.module = None


def _check_policy(builder: Builder, window: int | None) -> None:
    policy = builder.attention
    if policy.decode_cap(window) is None and policy.prefill_cap(window) is None and policy.page is None:
        return
    raise InputError(
        f"{builder.model.name} chooses the tokens that it reads by an indexer of its own",
        place="attention", found=getattr(policy, "kind", policy), allowed="dense",
    )  # fmt: skip


def _read(shape: StepShape, heads: Heads, axis: str) -> tuple[Any, Any, Any]:
    """(query, key) pairs, keys and queries of one phase in an extent."""
    extent, queries = heads.extent, heads.queries
    if axis == "decode":
        return queries * shape.decode_kv[extent], shape.decode_kv[extent], queries * shape.decode_seqs
    chunks = shape.prefill
    return (0, 0, 0) if chunks is None else (chunks.pairs[extent], chunks.kv[extent], chunks.tokens)


def index_scores(name: str, heads: Heads, key_bytes: int, *, count: int, axis: str) -> Operator:
    """2 heads head_dim FLOPs a (query, key) pair; index keys are read once a sequence, queries with the heads' weights
    too, and an fp32 score a pair is written.
    """

    def work(shape: StepShape) -> Work:
        pairs, keys, queries = _read(shape, heads, axis)
        return Work(
            flops=2 * heads.q_heads * heads.head_dim * pairs,
            kv_bytes=key_bytes * keys,
            act_bytes=4 * pairs + heads.q_heads * (heads.head_dim + 4) * queries,
        )

    return Operator(name, "sparse_index", axis, count, INDEX_DTYPE, work, dims=heads)


def index_select(name: str, heads: Heads, top_k: int, *, count: int, axis: str) -> Operator:
    """The best `top_k` of a query's scores: they are read once, and so many indices written."""

    def work(shape: StepShape) -> Work:
        pairs, _, queries = _read(shape, heads, axis)
        return Work(flops=pairs, act_bytes=4 * pairs + 4 * top_k * queries)

    return Operator(name, "sparse_index", axis, count, None, work, dims=heads)


def sparse_prefill(
    name: str, heads: LatentHeads, past: int, *, count: int, dtype: str, kv: float, act: float
) -> Operator:
    """Absorbed attention of chunks to the tokens that each query chose: 2 q_heads (2 kv_rank + rope) FLOPs a pair.

    A key is read from HBM once, however many queries of a chunk chose it; those that none can have chosen are not.
    `past` : the extent of all keys.
    """
    latent, h = heads.latent, heads.q_heads

    def work(shape: StepShape) -> Work:
        chunks = shape.prefill
        if chunks is None:
            return Work()
        pairs, keys = chunks.pairs[heads.extent], chunks.kv[past]
        return Work(
            flops=2 * h * (latent.width + latent.kv_rank) * pairs,
            kv_bytes=kv * smaller(pairs, keys),
            act_bytes=h * (latent.width + latent.kv_rank) * act * chunks.tokens,
        )

    return Operator(name, "mla_prefill", "prefill", count, dtype, work, dims=heads)
