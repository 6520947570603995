"""Prefill attention: `query_len` new tokens of every sequence against `past_len` cached ones and themselves, causally.

The work is cut into tiles of query rows, one after another over the KV blocks that its last row sees. A tile multiplies
(4 x head_dim FLOPs a pair) and exponentiates (one a pair), which kernels overlap in part only, so the two add up;
both are padded to whole tiles and blocks. The tiles, unequal because of the causal mask, are dealt to the SMs, and the
longest one bounds the time from below. Before that the new keys and values are written to the cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.attention_traits import (
    RESIDENT,
    Traits,
    exp_rate,
    kv_bytes,
    log2,
    missing,
    traits,
)
from simulator.kernels.base import Constant, Constants, KernelModel, KernelWork, Label, Shape, Terms
from simulator.kernels.formats import compute_rate

COLUMNS = ("batch", "query_len", "past_len", "q_heads", "kv_heads", "head_dim", "window")
NO_WINDOW = 1e18
FP8_WITH_CACHE = (
    "torch_flow",
    "torch_flow_flashinfer",
    "vllm_flashinfer_trtllmprefill",
    "vllm_flashinfer_trtllmdecode",
)
"""Kernels of TensorRT-LLM: they compute in fp8 where the cache is fp8, whatever the model's dtype."""


def causal_pairs(query: Any, past: Any, window: Any) -> Any:
    """(query, key) pairs of one head: row i of `query` sees min(past + i, window) keys, i from 1; window 0 is none."""
    seen = np.where(np.asarray(window) > 0, window, NO_WINDOW)
    short = np.clip(seen - past, 0, query)
    return short * past + short * (short + 1) / 2 + (query - short) * np.minimum(seen, past + query)


class _Plan(NamedTuple):
    """How a kernel cuts the shape.

    heads : (sequence, head) pairs that tiles are cut from. per_head : tiles of `rows` query rows in each.
    units : thread blocks. tokens, longest : KV tokens that all tiles of one head, and its longest, go through, padded
    to blocks. io, kv : bytes of queries and output, of keys and values.
    """

    kernel: Traits
    rows: int
    heads: Any
    per_head: Any
    units: Any
    tokens: Any
    longest: Any
    io: Any
    kv: Any


def _plan(shape: Shape, label: Label, gpu: Gpu) -> _Plan:
    kernel = traits(label, gpu)
    batch, query, past, q_heads, kv_heads, dim, window = (shape[c] for c in COLUMNS)
    packed = kernel.packed | (kernel.packs_one & (np.asarray(query) <= 1))
    group = np.where(packed, q_heads / kv_heads, 1.0)
    heads = batch * q_heads / group
    step = kernel.prefill_rows / group
    count = np.ceil(query / step)
    reach = np.where(np.asarray(window) > 0, window, NO_WINDOW)
    seen = reach + step
    longest = np.minimum(np.ceil((past + query) / kernel.block) * kernel.block, seen + kernel.block)
    # Tile i of all but the last sees min(past + i step, window + step) tokens, and half a block more by rounding.
    others = count - 1
    unclipped = np.clip(np.floor((seen - past) / step), 0, others)
    tokens = unclipped * past + step * unclipped * (unclipped + 1) / 2
    clipped = others - unclipped
    tokens = tokens + np.where(clipped > 0, clipped * np.minimum(seen, past + query), 0.0)
    tokens = tokens + others * kernel.block / 2 + longest
    io = 2 * batch * query * q_heads * dim * 2
    kv = 2 * batch * kv_heads * (np.minimum(past, reach) + query) * dim * kv_bytes(label["kv_dtype"])
    units = heads * np.ceil(count / kernel.shared)
    return _Plan(kernel, kernel.prefill_rows, heads, count, units, tokens, longest, io, kv)


def compute_dtype(label: Label) -> str:
    """The format multiplied in, which is not always the model's."""
    return "fp8" if label["kv_dtype"] == "fp8" and label["kernel"] in FP8_WITH_CACHE else label["dtype"]


def _terms(shape: Shape, label: Label, gpu: Gpu, c: Constants) -> Terms:
    plan = _plan(shape, label, gpu)
    dim = shape["head_dim"]
    dtype = compute_dtype(label)
    mma, exp = (c["portable_mma"], c["portable_exp"]) if plan.kernel.portable else (c["mma"], c["exp"])
    pair = 4 * dim / (mma * compute_rate(dtype, gpu)) + exp / exp_rate(gpu)
    total = plan.heads * plan.tokens * plan.rows * pair
    splits = np.maximum(np.floor(gpu.sms / plan.units), 1) if plan.kernel.splits else 1.0
    together = np.minimum(plan.per_head, plan.kernel.shared)
    longest = np.maximum(plan.longest / splits, plan.kernel.block) * together * plan.rows * pair * gpu.sms
    rounds = np.maximum(plan.units / gpu.sms, 1)
    compute = np.maximum(total, longest) + c["tail"] * longest * (1 - 1 / rounds)
    tile = c["portable_tile"] if plan.kernel.portable else c["tile"]
    compute = compute + tile * np.ceil(rounds) / gpu.boost_clock
    # New keys and values are written to the cache (and converted) before they are read: a stage of its own.
    size = kv_bytes(label["kv_dtype"])
    bandwidth = c["memory"] * gpu.memory.bandwidth
    written = 2 * shape["batch"] * shape["kv_heads"] * shape["query_len"] * dim * (2 + size)
    update = c["update"] * written / bandwidth
    miss = missing(plan.kv + plan.io, gpu, c["resident"])
    memory = miss * (plan.kv + c["passes"] * plan.io) / bandwidth
    through = plan.heads * plan.tokens / together
    l2 = (2 * dim * size * through + c["passes"] * plan.io) / (c["l2"] * gpu.l2.bandwidth)
    latency = c["latency"] + c["quantise"] * (label["kv_dtype"] != "bf16")
    return Terms(latency, compute + update, memory + update, l2, 0.0)


def _roof(shape: Shape, label: Label, gpu: Gpu) -> Any:
    batch, query, past, q_heads, _, dim, window = (shape[c] for c in COLUMNS)
    plan = _plan(shape, label, gpu)
    flops = 4 * dim * batch * q_heads * causal_pairs(query, past, window)
    rate = np.maximum(gpu.memory.bandwidth, gpu.l2.bandwidth)
    return np.maximum(flops / compute_rate(compute_dtype(label), gpu), (plan.io + plan.kv) / rate)


def _work(shape: Shape, label: Label, gpu: Gpu) -> KernelWork:
    plan = _plan(shape, label, gpu)
    flops = 4 * shape["head_dim"] * plan.heads * plan.tokens * plan.rows
    through = plan.heads * plan.tokens / np.minimum(plan.per_head, plan.kernel.shared)
    once = plan.io + plan.kv
    l2 = 2 * shape["head_dim"] * kv_bytes(label["kv_dtype"]) * through + plan.io
    return KernelWork(flops, missing(once, gpu, RESIDENT) * once, l2, np.minimum(plan.units / gpu.sms, 1))


def _features(shape: Shape, label: Label, gpu: Gpu) -> list[Any]:
    batch, query, past, q_heads, kv_heads, dim, window = (shape[c] for c in COLUMNS)
    plan = _plan(shape, label, gpu)
    per_sm = plan.units / gpu.sms
    pairs = causal_pairs(query, past, window)
    seen = pairs / query
    return [
        log2(batch),
        log2(query),
        log2(past + query),
        log2(q_heads),
        log2(kv_heads),
        q_heads / kv_heads,
        dim,
        window,
        log2(seen),
        log2(plan.longest),
        log2(per_sm),
        per_sm / np.ceil(per_sm),
        np.minimum(np.ceil(per_sm), 64),
        log2(plan.per_head),
        plan.tokens * plan.rows * plan.heads / (batch * q_heads * pairs),
        log2(batch * q_heads * pairs / gpu.sms),
        log2((plan.io + plan.kv) / gpu.l2.size),
        log2(plan.kv / gpu.l2.size),
        log2(batch * kv_heads / gpu.sms),
        log2(batch * q_heads / gpu.sms),
        log2(batch * query),
        log2(query * q_heads / kv_heads),
        float(plan.kernel.portable),
        float(plan.kernel.packed),
        kv_bytes(label["kv_dtype"]),
        float(compute_dtype(label) == "fp8"),
    ]


NAMES = (
    "log2 batch",
    "log2 query",
    "log2 length",
    "log2 query heads",
    "log2 KV heads",
    "group",
    "head dim",
    "window",
    "log2 mean tokens seen",
    "log2 longest tile",
    "log2 thread blocks per SM",
    "fill of waves",
    "waves",
    "log2 tiles of a head",
    "padding",
    "log2 pairs per SM",
    "log2 bytes over L2",
    "log2 KV bytes over L2",
    "log2 KV heads per SM",
    "log2 query heads per SM",
    "log2 tokens",
    "log2 packed rows",
    "portable",
    "packed",
    "KV bytes",
    "fp8",
)

PREFILL = KernelModel(
    kind="attention_prefill",
    columns=COLUMNS,
    labels=("kernel", "dtype", "kv_dtype"),
    constants={
        "sharpness": Constant(6.0, 4.0, 8.0),
        "latency": Constant(9e-6, 1e-6, 40e-6),
        "quantise": Constant(1e-6, 1e-8, 10e-6),
        "tile": Constant(4000, 100, 40_000),
        "mma": Constant(0.73, 0.4, 0.95),
        "exp": Constant(1.0, 0.7, 2.0),
        "portable_tile": Constant(4000, 100, 40_000),
        "portable_mma": Constant(0.4, 0.05, 0.95),
        "portable_exp": Constant(1.0, 0.3, 6.0),
        "tail": Constant(0.3, 0.01, 2.0),
        "memory": Constant(0.88, 0.8, 0.93),
        "passes": Constant(1.5, 1.0, 6.0),
        "update": Constant(0.8, 0.01, 6.0),
        "l2": Constant(0.7, 0.6, 1.0),
        "resident": Constant(RESIDENT, 0.4, 1.0),
    },
    terms=_terms,
    roof=_roof,
    work=_work,
    features=_features,
    names=NAMES,
)
