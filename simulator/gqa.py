"""Grouped-query attention: what its block of a layer does, what it keeps in the KV cache, and which kernels run it.

An attention kind is one module like this one. It states

- its operators, from the normalised input to the output projection: `add_block`, called by the graph's builder. What
  each does is a function in `operators`; their `kind` and `dims` name the kernels that time them (`calls.call_label`):
  `gemm` for the projections, `attention_decode` and `attention_prefill`, `elementwise` for rotation and cache writes;
- its KV bytes: `kv_bytes_per_token`, on one GPU.

Sliding windows per layer, attention sinks, partial rotation, the norms of queries and keys and a gate of the output
(Qwen3.5: the queries' projection has twice the width) belong to this kind. A sink is one more logit a query head and
row, without a key in the cache; its exponential is not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwspecs.dtypes import BYTES
from simulator import operators as ops
from simulator.operators import Heads

if TYPE_CHECKING:
    from simulator.stepgraph import Builder, Extents
    from workloads.model import Model


def heads_per_gpu(model: Model, tensor: int) -> tuple[int, int]:
    """Query heads and KV heads of one of `tensor` GPUs; KV heads are copied where there are fewer than GPUs."""
    return model.q_heads // tensor, max(1, model.kv_heads // tensor)


def kv_bytes_per_token(model: Model, kv_dtype: str, tensor: int, page: int | None = None) -> float:
    """Bytes that a token takes in the KV cache of one of `tensor` GPUs, on all layers that are not linear attention.

    A layer with a sliding window counts like the others. `page` : tokens behind one summary vector of block top-k.
    """
    layers = model.layers - sum(model.layer_linear)
    per_token = 2 * layers * heads_per_gpu(model, tensor)[1] * model.head_dim * BYTES[kv_dtype]
    if page is not None:
        per_token *= 1 + 1 / (2 * page)  # a summary vector per page beside its K and V
    return per_token


def copied_parameters(model: Model, tensor: int) -> int:
    """Parameters of the K and V projections beyond the model's own, over all GPUs: the copies of KV heads."""
    copies = max(1, tensor // model.kv_heads)
    layers = model.layers - sum(model.layer_linear)
    return (copies - 1) * 2 * model.kv_heads * model.head_dim * model.hidden * layers


def add_block(builder: Builder, suffix: str, window: int | None, count: int) -> None:
    """Add projections, rotation with cache writes, and attention of `count` layers with this `window` to the graph."""
    model, h, d = builder.model, builder.model.hidden, builder.model.head_dim
    hq, hkv = heads_per_gpu(model, builder.tensor)
    gate = hq * d if model.output_gate else 0
    builder.add(builder.gemm("attention", f"qkv_proj{suffix}", (hq + 2 * hkv) * d + gate, h, count))
    if model.qk_norm_across_heads and builder.tensor > 1:
        # The norm's mean squares are over the heads of all GPUs: two fp32 a token, of Q and of K.
        builder.add(ops.all_reduce(f"qk_norm_all_reduce{suffix}", 2, builder.tensor, count=count, act=4))
    # RoPE (and QK-norm) over Q and K in place, K and V written to the cache.
    turned = d if model.rotary_dim is None else model.rotary_dim
    rope = ops.elementwise(
        f"rope_kv_write{suffix}",
        count=count,
        act_bytes=((hq + 2 * hkv) + hq) * d * builder.a,
        kv_bytes=2 * hkv * d * BYTES[builder.precision.kv],
        flops=(3 * turned + 4 * model.qk_norm * d) * (hq + hkv),
        routine="rope_kv_write",
    )
    builder.add(rope)
    _attend(builder, suffix, window, count)
    if gate:
        # The output times the sigmoid of the gate: both are read, the product written.
        gated = ops.elementwise(
            f"output_gate{suffix}", count=count, act_bytes=3 * gate * builder.a, flops=5 * gate, routine="silu_mul"
        )
        builder.add(gated)
    builder.add(builder.gemm("output", f"o_proj{suffix}", h, hq * d, count))


def _attend(builder: Builder, suffix: str, window: int | None, count: int) -> None:
    """Prefill attention beside the decode parts that the policy asks for; both precede the output projection."""
    policy, kv, act = builder.attention, BYTES[builder.precision.kv], builder.a
    dtype, d = builder.precision.attention_dtype, builder.model.head_dim
    hq, hkv = heads_per_gpu(builder.model, builder.tensor)
    before = list(builder.last)
    decode_cap, prefill_cap = policy.decode_cap(window), policy.prefill_cap(window)

    def heads(extents: Extents, cap: int | None, page: int = 1, budget: int | None = None) -> Heads:
        queries = builder.queries if extents is builder.decode else 1
        return Heads(hq, hkv, d, extents.index(cap), cap, page, builder.precision.kv, budget, queries)

    page = policy.page
    budget = None if page is None else decode_cap
    if page is not None:
        # One summary vector a KV head and page: K is read again as it is written, and 1/page of it stored.
        summary = hkv * d * (kv + kv / page)
        builder.add(ops.elementwise(f"page_summary{suffix}", count=count, kv_bytes=summary, routine="page_summary"))
        past = heads(builder.decode, window, page, budget)
        builder.add(ops.page_scores(f"page_scores{suffix}", past, count=count, dtype=dtype, kv=kv, act=act))
        builder.add(ops.page_select(f"page_select{suffix}", past, count=count))
    read = heads(builder.decode, decode_cap, budget=budget)
    builder.add(ops.attention_decode(f"attention_decode{suffix}", read, count=count, dtype=dtype, kv=kv, act=act))
    decode_end, builder.last = builder.last, before
    chunk = heads(builder.prefill, prefill_cap)
    builder.add(ops.attention_prefill(f"attention_prefill{suffix}", chunk, count=count, dtype=dtype, kv=kv, act=act))
    builder.last = decode_end + builder.last
