"""Prefill of multi-head latent attention: `query_len` new tokens of every sequence against `past_len` and themselves.

In the expanded form every head has keys of `nope + rope` elements and values of `value` of its own, made from the
latents by a projection before (an operator for itself). A tile of query rows multiplies and exponentiates its causal
pairs, as in `attention_prefill`. Before that, queries get their rotation and the cache its latents; kernels that
multiply in fp8 convert queries, keys and values in a pass of their own.

Kernels in the absorbed form (SGLang's on Hopper) need no expanded keys, and 3.4 times the FLOPs: all heads of a token
are rows of tiles over one key of `kv_rank + rope` elements.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.attention_prefill import causal_pairs
from simulator.kernels.attention_traits import RESIDENT, exp_rate, log2, missing
from simulator.kernels.base import Constant, Constants, KernelModel, KernelWork, Label, Shape, Terms
from simulator.kernels.formats import compute_rate
from simulator.kernels.latent import ABSORBED, DATACENTRE_BLACKWELL, cache_bytes, prefill_format, width

COLUMNS = ("batch", "query_len", "past_len", "q_heads")
ROWS, BLOCK = 128, 128
"""Query rows and keys of a tile; in the absorbed form half as many, since a row is five times as wide."""


SHARED = 2
"""Neighbouring tiles that a thread block of data-centre Blackwell works on together (trtllm-gen)."""
OUT_BYTES = 2
"""Of an element of the output: bf16 whatever was multiplied."""


def compute_size(label: Label, gpu: Gpu) -> float:
    """Bytes of an element that is multiplied."""
    return 1.0 if prefill_format(label, gpu) == "fp8" else 2.0


class _Plan(NamedTuple):
    """How a kernel cuts the shape.

    rows, block : of a tile. tiles : thread blocks. tokens : keys that all tiles go through, padded. longest : keys of
    the longest. key, wide : elements of a key, and of it and a value together. pairs : of head, query and key.
    io : bytes of queries and output; kv : of the keys and values that are read once. small : elements that are
    converted for fp8.
    """

    rows: float
    block: float
    tiles: Any
    tokens: Any
    longest: Any
    key: Any
    wide: Any
    pairs: Any
    io: Any
    kv: Any
    small: Any


def _plan(shape: Shape, label: Label, gpu: Gpu) -> _Plan:
    batch, query, past, heads = (np.asarray(shape[c], dtype=np.float64) for c in COLUMNS)
    rank, rope, nope, value = (width(shape, name) for name in ("kv_rank", "rope", "nope", "value"))
    absorbed = label["kernel"] in ABSORBED
    key, out = (rank + rope, rank) if absorbed else (nope + rope, value)
    rows, block = (ROWS / 2, BLOCK / 2) if absorbed else (ROWS, BLOCK)
    # Absorbed, the heads of a token are neighbouring rows: a tile has rows / heads tokens.
    step = np.maximum(rows / heads, 1.0) if absorbed else rows
    count = np.ceil(query / step) * (np.ceil(heads / rows) if absorbed else heads)
    length = past + query
    longest = np.ceil(length / block) * block
    others = np.ceil(query / step) - 1
    # Tile i of all but the last sees past + i step keys, and half a block more by rounding.
    each = others * past + step * others * (others + 1) / 2 + others * block / 2 + longest
    tokens = batch * each * count / np.ceil(query / step)
    pairs = batch * heads * causal_pairs(query, past, 0.0)
    size = compute_size(label, gpu)
    io = batch * query * heads * (key * size + out * OUT_BYTES)
    kv = batch * length * (key * cache_bytes(label, gpu) if absorbed else heads * (key + out) * size)
    small = batch * length * key if absorbed else batch * heads * (query * key + length * (key + out))
    return _Plan(rows, block, batch * count, tokens, longest, key, key + out, pairs, io, kv, small)


def _through(plan: _Plan, label: Label, gpu: Gpu) -> Any:
    """Bytes of keys and values that thread blocks take from the L2: absorbed, a key holds its value."""
    if label["kernel"] in ABSORBED:
        return plan.tokens * plan.key * cache_bytes(label, gpu)
    together = SHARED if gpu.architecture in DATACENTRE_BLACKWELL else 1
    return plan.tokens / together * plan.wide * compute_size(label, gpu)


def _terms(shape: Shape, label: Label, gpu: Gpu, c: Constants) -> Terms:
    plan = _plan(shape, label, gpu)
    pair = 2 * plan.wide / (c["mma"] * compute_rate(prefill_format(label, gpu), gpu)) + c["exp"] / exp_rate(gpu)
    total = plan.tokens * plan.rows * pair
    longest = plan.longest * plan.rows * pair * gpu.sms
    rounds = np.maximum(plan.tiles / gpu.sms, 1)
    if label["kernel"] in ABSORBED:  # splits the context where tiles are few, as decode does
        longest = np.maximum(longest / np.maximum(np.floor(gpu.sms / plan.tiles), 1), plan.block * plan.rows * pair)
    compute = np.maximum(total, longest) + c["tail"] * longest * (1 - 1 / rounds)
    compute = compute + c["tile"] * np.ceil(rounds) / gpu.boost_clock
    bandwidth = c["memory"] * gpu.memory.bandwidth
    eight = label["kv_dtype"] == "fp8" and "fp8" in gpu.peak
    before = c["update"] * plan.io / bandwidth
    if eight:
        before = before + c["convert"] * 3 * plan.small / bandwidth
    miss = missing(plan.kv + plan.io, gpu, c["resident"])
    memory = miss * (plan.kv + c["passes"] * plan.io) / bandwidth
    l2 = (_through(plan, label, gpu) + plan.io) / (c["l2"] * gpu.l2.bandwidth)
    latency = c["latency"] + c["quantise"] * eight
    return Terms(latency, compute + before, memory + before, l2, 0.0)


def _roof(shape: Shape, label: Label, gpu: Gpu) -> Any:
    plan = _plan(shape, label, gpu)
    rate = np.maximum(gpu.memory.bandwidth, gpu.l2.bandwidth)
    return np.maximum(
        2 * plan.wide * plan.pairs / compute_rate(prefill_format(label, gpu), gpu), (plan.io + plan.kv) / rate
    )


def _work(shape: Shape, label: Label, gpu: Gpu) -> KernelWork:
    plan = _plan(shape, label, gpu)
    once = plan.io + plan.kv
    through = _through(plan, label, gpu) + plan.io
    flops = 2 * plan.wide * plan.tokens * plan.rows
    return KernelWork(flops, missing(once, gpu, RESIDENT) * once, through, np.minimum(plan.tiles / gpu.sms, 1))


def _features(shape: Shape, label: Label, gpu: Gpu) -> list[Any]:
    batch, query, past, heads = (np.asarray(shape[c], dtype=np.float64) for c in COLUMNS)
    plan = _plan(shape, label, gpu)
    per_sm = plan.tiles / gpu.sms
    return [
        log2(batch),
        log2(query),
        log2(past + query),
        log2(heads),
        log2(batch * query),
        log2(batch * heads),
        log2(batch * query * heads),
        log2(per_sm),
        per_sm / np.ceil(per_sm),
        np.minimum(np.ceil(per_sm), 64),
        log2(plan.longest),
        plan.tokens * plan.rows / plan.pairs,
        log2(plan.pairs / gpu.sms),
        log2((plan.io + plan.kv) / gpu.l2.size),
        cache_bytes(label, gpu),
        float(label["kernel"] in ABSORBED),
    ]


NAMES = (
    "log2 batch",
    "log2 query",
    "log2 length",
    "log2 heads",
    "log2 tokens",
    "log2 heads of all sequences",
    "log2 rows",
    "log2 thread blocks per SM",
    "fill of waves",
    "waves",
    "log2 longest tile",
    "padding",
    "log2 pairs per SM",
    "log2 bytes over L2",
    "bytes of an element",
    "absorbed",
)

MLA_PREFILL = KernelModel(
    kind="mla_prefill",
    columns=COLUMNS,
    labels=("kernel", "dtype", "kv_dtype"),
    constants={
        "sharpness": Constant(6.0, 3.0, 8.0),
        "latency": Constant(10e-6, 1e-6, 40e-6),
        "quantise": Constant(2e-6, 1e-8, 20e-6),
        "tile": Constant(4000, 100, 40_000),
        "mma": Constant(0.8, 0.1, 1.0),
        "exp": Constant(0.9, 0.8, 1.5),
        "tail": Constant(0.3, 0.01, 2.0),
        "memory": Constant(0.88, 0.5, 0.95),
        "passes": Constant(1.0, 0.5, 6.0),
        "update": Constant(0.8, 0.01, 6.0),
        "convert": Constant(1.0, 0.1, 8.0),
        "l2": Constant(0.7, 0.5, 2.0),
        "resident": Constant(RESIDENT, 0.4, 1.0),
    },
    terms=_terms,
    roof=_roof,
    work=_work,
    features=_features,
    names=NAMES,
)
