"""Decode attention: one new token of every sequence against its KV cache.

The work is cut into tiles, one of a KV head of a sequence (the query heads that share it are its rows), and, where
those are fewer than the thread blocks that the GPU holds, along the context too (split-KV, "Flash-Decoding"), which
costs a merge. The time is that of the KV bytes, from HBM or, where a benchmark's repetitions find them there, from L2;
of a fixed number of clocks a tile; and of a latency.
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

COLUMNS = ("batch", "context_len", "q_heads", "kv_heads", "head_dim", "window")


class _Plan(NamedTuple):
    """How a kernel cuts the shape.

    single : where the kernel is that without tensor cores. tokens : that a query sees. rows, tiles : query heads of a
    tile, and how many tiles. blocks : KV blocks of a tile. splits : parts of a tile along the context. load : thread
    blocks over the GPU's slots, `waves` when rounded up. kv, io : bytes of keys and values, of queries and output.
    """

    kernel: Traits
    single: Any
    tokens: Any
    rows: Any
    tiles: Any
    blocks: Any
    splits: Any
    load: Any
    waves: Any
    kv: Any
    io: Any


def _plan(shape: Shape, label: Label, gpu: Gpu) -> _Plan:
    kernel = traits(label, gpu)
    batch, context, q_heads, kv_heads, dim, window = (shape[c] for c in COLUMNS)
    group = q_heads / kv_heads
    single = (group < kernel.groups[0]) | (group > kernel.groups[1])
    rows = np.where(single, 1, kernel.decode_rows)
    tokens = np.where(np.asarray(window) > 0, np.minimum(context, window), context)
    tiles = batch * kv_heads * np.ceil(group / rows)
    slots = gpu.sms * kernel.resident
    blocks = np.ceil(tokens / kernel.block)
    splits = np.maximum(np.minimum(np.floor(slots / tiles), np.floor(blocks / kernel.least)), 1)
    load = tiles * splits / slots
    kv = 2 * batch * kv_heads * tokens * dim * kv_bytes(label["kv_dtype"])
    io = 4 * batch * q_heads * dim
    return _Plan(kernel, single, tokens, rows, tiles, blocks, splits, load, np.ceil(load), kv, io)


def _terms(shape: Shape, label: Label, gpu: Gpu, c: Constants) -> Terms:
    plan = _plan(shape, label, gpu)
    kernel, dim, size = plan.kernel, shape["head_dim"], kv_bytes(label["kv_dtype"])
    clocks = gpu.sms * gpu.boost_clock
    pairs = plan.tiles * plan.rows * plan.blocks * kernel.block
    # A pair of query row and key: 4 x head_dim FLOPs and an exponential, padded rows and blocks included. Kernels that
    # are written for an architecture do one while they do the other (FlashAttention-3, arXiv 2407.08608).
    products, softmax = 4 * dim / compute_rate("bf16", gpu), 1 / exp_rate(gpu)
    pair = products + softmax if kernel.portable else np.maximum(products, softmax)
    matrix = pairs * pair / c["portable_compute" if kernel.portable else "compute"]
    if label["kv_dtype"] != "bf16":
        matrix = matrix + plan.kv / size / (c["convert"] * clocks)
    tile = c["portable"] if kernel.portable else c["pipelined"] if kernel.pipelined else c["tile"]
    work = np.where(plan.single, pairs * dim / (c["single"] * clocks), matrix)
    fixed = np.where(plan.single, c["tile_single"], tile) * plan.waves / gpu.boost_clock
    far = 1 + c["scan"] * (shape["context_len"] - plan.tokens) / np.maximum(plan.tokens, 1)
    memory = (missing(plan.kv + plan.io, gpu, c["resident"]) * plan.kv * far + plan.io) / gpu.memory.bandwidth
    # The busiest SM: its tiles' fixed clocks, and their blocks at its share of the L2's rate.
    chain = plan.waves * np.ceil(plan.blocks / plan.splits) * kernel.block * kernel.resident
    stream = 2 * dim * size * gpu.sms / (c["stream"] * gpu.l2.bandwidth)
    latency = c["latency"] + (plan.splits > 1) * (c["merge"] + c["merge_split"] * plan.splits)
    # An 8-bit cache takes a kernel more, which quantises the query and the new keys and values.
    latency = latency + c["quantise"] * (label["kv_dtype"] != "bf16")
    return Terms(latency, fixed + work, memory / c["memory"], chain * stream * far, 0.0)


def _roof(shape: Shape, label: Label, gpu: Gpu) -> Any:
    plan = _plan(shape, label, gpu)
    size = kv_bytes(label["kv_dtype"])
    flops = 2 * plan.kv / size * (shape["q_heads"] / shape["kv_heads"])
    rate = np.maximum(gpu.memory.bandwidth, gpu.l2.bandwidth)
    fastest = np.maximum(compute_rate("bf16", gpu), compute_rate("fp8", gpu))
    return np.maximum(flops / fastest, (plan.kv + plan.io) / rate)


def _work(shape: Shape, label: Label, gpu: Gpu) -> KernelWork:
    plan = _plan(shape, label, gpu)
    flops = 4 * plan.tiles * plan.rows * plan.blocks * plan.kernel.block * shape["head_dim"]
    total = plan.kv + plan.io
    return KernelWork(flops, missing(total, gpu, RESIDENT) * total, total, np.minimum(plan.load, 1))


def _features(shape: Shape, label: Label, gpu: Gpu) -> list[Any]:
    plan = _plan(shape, label, gpu)
    batch, context, q_heads, kv_heads = (shape[c] for c in ("batch", "context_len", "q_heads", "kv_heads"))
    dim, window = shape["head_dim"], shape["window"]
    per_sm = log2(plan.tiles / gpu.sms)
    chain = np.ceil(plan.blocks / plan.splits)
    whole = log2(batch * kv_heads / gpu.sms)
    return [
        log2(batch),
        log2(context),
        log2(q_heads),
        log2(kv_heads),
        q_heads / kv_heads,
        dim,
        window,
        log2(plan.tokens),
        log2(context / plan.tokens),
        per_sm,
        whole,
        plan.load / np.maximum(plan.waves, 1),
        np.minimum(plan.waves, 64),
        log2(plan.splits),
        log2(plan.splits * plan.tiles / gpu.sms),
        log2(chain),
        log2(plan.waves * chain),
        log2((plan.kv + plan.io) / gpu.l2.size),
        log2(batch * context),
        log2(batch * q_heads / gpu.sms),
        log2(plan.kv / gpu.sms),
        (q_heads / kv_heads) % 8,
        float(plan.kernel.decode_rows),
        float(plan.kernel.portable),
        kv_bytes(label["kv_dtype"]),
    ]


NAMES = (
    "log2 batch",
    "log2 context",
    "log2 query heads",
    "log2 KV heads",
    "group",
    "head dim",
    "window",
    "log2 tokens seen",
    "log2 context over tokens seen",
    "log2 tiles per SM",
    "log2 KV heads per SM",
    "fill of waves",
    "waves",
    "log2 splits",
    "log2 thread blocks per SM",
    "log2 blocks of a chain",
    "log2 blocks of the busiest SM",
    "log2 bytes over L2",
    "log2 tokens",
    "log2 query heads per SM",
    "log2 KV bytes per SM",
    "group modulo 8",
    "rows of a tile",
    "portable",
    "KV bytes",
)

DECODE = KernelModel(
    kind="attention_decode",
    columns=COLUMNS,
    labels=("kernel", "dtype", "kv_dtype"),
    constants={
        "sharpness": Constant(6.0, 4.0, 8.0),
        "latency": Constant(8e-6, 1e-6, 40e-6),
        "quantise": Constant(1e-6, 1e-8, 10e-6),
        "merge": Constant(2e-6, 1e-8, 20e-6),
        "merge_split": Constant(8e-8, 1e-9, 1e-6),
        "tile": Constant(4000, 300, 40_000),
        "portable": Constant(8000, 300, 40_000),
        "portable_compute": Constant(0.2, 0.01, 1.0),
        "pipelined": Constant(2500, 300, 40_000),
        "compute": Constant(0.8, 0.7, 1.0),
        "convert": Constant(20, 4, 10_000),
        "tile_single": Constant(3500, 300, 40_000),
        "single": Constant(7.5, 2, 64),
        "memory": Constant(0.88, 0.8, 0.93),
        "stream": Constant(0.7, 0.6, 1.0),
        "resident": Constant(RESIDENT, 0.4, 1.0),
        "scan": Constant(0.01, 1e-5, 1.0),
    },
    terms=_terms,
    roof=_roof,
    work=_work,
    features=_features,
    names=NAMES,
)
