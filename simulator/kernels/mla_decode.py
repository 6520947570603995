"""Decode of multi-head latent attention in the absorbed form: one new token of every sequence against its latent cache.

All heads share one key of `kv_rank + rope` elements a token, whose first `kv_rank` are its value too. So the cache is
read once for all heads, 2 x (2 kv_rank + rope) FLOPs a token and head: with 128 heads that is as much work as a Hopper
can multiply in the time (DeepSeek-V2, arXiv 2405.04434, 2.1.4; FlashMLA's notes on its Hopper kernel).

Heads are the rows of a tile, a sequence (or a part of its context) its columns; the busiest SM's tiles bound the time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.attention_traits import RESIDENT, exp_rate, log2, missing
from simulator.kernels.base import Constant, Constants, KernelModel, KernelWork, Label, Shape, Terms
from simulator.kernels.formats import compute_rate
from simulator.kernels.latent import CONVERTS, cache_bytes, decode_format, width

COLUMNS = ("batch", "context_len", "q_heads")
ROWS, BLOCK = 64, 64
"""Heads and tokens of a tile: of FlashMLA; smaller numbers of heads cost as much to multiply."""
LEAST = 2
"""Blocks that a split of the context has at the least."""


class _Plan(NamedTuple):
    """How a kernel cuts the shape.

    tiles : of heads of a sequence. blocks : of tokens, of one tile. splits : parts of a tile along the context.
    load : thread blocks over SMs, `waves` when rounded up. chain : blocks of the busiest SM.
    kv, io : bytes of the cache that are read once, of queries and output. partial : bytes of results of splits.
    """

    tiles: Any
    blocks: Any
    splits: Any
    load: Any
    waves: Any
    chain: Any
    kv: Any
    io: Any
    partial: Any


def _plan(shape: Shape, label: Label, gpu: Gpu) -> _Plan:
    batch, context, heads = (np.asarray(shape[c], dtype=np.float64) for c in COLUMNS)
    rank, rope = width(shape, "kv_rank"), width(shape, "rope")
    tiles = batch * np.ceil(heads / ROWS)
    blocks = np.ceil(context / BLOCK)
    splits = np.maximum(np.minimum(np.floor(gpu.sms / tiles), np.floor(blocks / LEAST)), 1)
    load = tiles * splits / gpu.sms
    # Schedulers that know the lengths deal blocks and not sequences (FlashMLA), once there is more than a wave.
    chain = np.maximum(np.ceil(blocks / splits), tiles * blocks / gpu.sms)
    kv = batch * context * (rank + rope) * cache_bytes(label, gpu)
    io = 2 * batch * heads * (2 * rank + rope)
    partial = np.where(splits > 1, 8 * batch * heads * rank * splits, 0.0)
    return _Plan(tiles, blocks, splits, load, np.ceil(load), chain, kv, io, partial)


def _flops(shape: Shape) -> Any:
    """FLOPs of a pair of head and token."""
    return 2 * (2 * width(shape, "kv_rank") + width(shape, "rope"))


def _terms(shape: Shape, label: Label, gpu: Gpu, c: Constants) -> Terms:
    plan = _plan(shape, label, gpu)
    batch, context = shape["batch"], shape["context_len"]
    clocks = gpu.sms * gpu.boost_clock
    block = ROWS * BLOCK * _flops(shape)
    # Of the busiest SM: FLOPs of padded tiles, exponentials beside them, and a tile's beginning and end.
    pair = 1 / (c["compute"] * compute_rate(decode_format(label, gpu), gpu))
    matrix = plan.chain * block * gpu.sms * pair
    softmax = plan.chain * ROWS * BLOCK * gpu.sms * c["exp"] / exp_rate(gpu)
    fixed = c["tile"] * plan.waves / gpu.boost_clock
    elements = batch * context * (width(shape, "kv_rank") + width(shape, "rope"))
    eight = cache_bytes(label, gpu) < 2
    bandwidth = c["memory"] * gpu.memory.bandwidth
    before = 0.0
    if eight and label["kernel"] in CONVERTS:
        before = elements / (c["convert"] * clocks) + 3 * elements / bandwidth
    miss = missing(plan.kv + plan.io, gpu, c["resident"])
    memory = (miss * plan.kv + c["passes"] * plan.io) / bandwidth
    # The tiles of a sequence read its cache one after another, from the L2; of merged splits the partial results too.
    again = plan.kv * np.maximum(np.ceil(np.asarray(shape["q_heads"]) / ROWS), 1)
    l2 = (again + plan.partial) / (c["l2"] * gpu.l2.bandwidth)
    latency = c["latency"] + (plan.splits > 1) * (c["merge"] + c["merge_split"] * plan.splits)
    latency = latency + c["step"] * np.minimum(plan.chain, c["steps"]) + c["quantise"] * eight
    return Terms(latency, np.maximum(matrix, softmax) + fixed + before, memory + before, l2, 0.0)


def _roof(shape: Shape, label: Label, gpu: Gpu) -> Any:
    plan = _plan(shape, label, gpu)
    flops = _flops(shape) * shape["batch"] * shape["context_len"] * shape["q_heads"]
    rate = np.maximum(gpu.memory.bandwidth, gpu.l2.bandwidth)
    fastest = np.maximum(compute_rate("bf16", gpu), compute_rate(decode_format(label, gpu), gpu))
    return np.maximum(flops / fastest, (plan.kv + plan.io) / rate)


def _work(shape: Shape, label: Label, gpu: Gpu) -> KernelWork:
    plan = _plan(shape, label, gpu)
    flops = plan.tiles * plan.blocks * ROWS * BLOCK * _flops(shape)
    total = plan.kv + plan.io
    through = plan.kv * np.ceil(np.asarray(shape["q_heads"]) / ROWS) + plan.io + plan.partial
    return KernelWork(flops, missing(total, gpu, RESIDENT) * total, through, np.minimum(plan.load, 1))


def _features(shape: Shape, label: Label, gpu: Gpu) -> list[Any]:
    batch, context, heads = (np.asarray(shape[c], dtype=np.float64) for c in COLUMNS)
    plan = _plan(shape, label, gpu)
    return [
        log2(batch),
        log2(context),
        log2(heads),
        log2(batch * context),
        log2(batch * heads),
        log2(batch * context * heads),
        log2(batch / gpu.sms),
        log2(plan.load),
        plan.load / np.maximum(plan.waves, 1),
        np.minimum(plan.waves, 64),
        log2(plan.splits),
        log2(plan.chain),
        log2((plan.kv + plan.io) / gpu.l2.size),
        log2(plan.kv / gpu.l2.size),
        cache_bytes(label, gpu),
        float(decode_format(label, gpu) == "fp8"),
    ]


NAMES = (
    "log2 batch",
    "log2 context",
    "log2 heads",
    "log2 tokens",
    "log2 heads of all sequences",
    "log2 pairs",
    "log2 sequences per SM",
    "log2 thread blocks per SM",
    "fill of waves",
    "waves",
    "log2 splits",
    "log2 blocks of the busiest SM",
    "log2 bytes over L2",
    "log2 cache over L2",
    "bytes of an element",
    "fp8",
)

MLA_DECODE = KernelModel(
    kind="mla_decode",
    columns=COLUMNS,
    labels=("kernel", "dtype", "kv_dtype"),
    constants={
        "sharpness": Constant(6.0, 3.0, 8.0),
        "latency": Constant(9e-6, 1e-6, 40e-6),
        "quantise": Constant(1e-6, 1e-8, 10e-6),
        "merge": Constant(2e-6, 1e-8, 20e-6),
        "merge_split": Constant(3e-8, 1e-9, 1e-6),
        "step": Constant(2e-7, 1e-9, 3e-6),
        "steps": Constant(16.0, 2.0, 64.0),
        "tile": Constant(6000, 300, 60_000),
        "compute": Constant(0.7, 0.1, 1.0),
        "exp": Constant(1.0, 0.3, 3.0),
        "convert": Constant(20, 1, 1_000),
        "memory": Constant(0.9, 0.3, 0.97),
        "passes": Constant(1.5, 1.0, 8.0),
        "l2": Constant(0.7, 0.4, 1.0),
        "resident": Constant(RESIDENT, 0.4, 1.0),
    },
    terms=_terms,
    roof=_roof,
    work=_work,
    features=_features,
    names=NAMES,
)
