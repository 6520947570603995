"""Time of an operator: the roofline of a GPU, corrected by a profile.

    t = overhead + max(compute, HBM, L2, link)

with every term at its ideal value divided by the profile's efficiency, and, if the profile says so, tiles padded and
waves quantised. All functions take numbers or NumPy arrays. The corrections never make an operator quicker than the
ideal profile has it: efficiencies are at most 1, padding and waves only add work.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu
from simulator.exchange import Exchange
from simulator.operators import Gemm, Heads, KeyGemm, Message, Operator, Work
from simulator.profile import Profile
from simulator.shape import StepShape, ceil_div, smaller

BOUNDS = ("compute", "memory", "l2", "link", "overhead")

# Tiles (rows, columns) that a GEMM library chooses from, and into how many parts it may split K.
GEMM_TILES = ((16, 64), (16, 128), (32, 128), (64, 64), (64, 128), (128, 128), (128, 256))
GEMM_SPLITS = (1, 2, 4, 8)
# FLOPs that an SM of an H200 does while it takes one byte of bf16 operands from the L2: 989.5 TFLOP/s over 64 B/clk/SM.
# Smaller tiles reuse their operands less than that and starve the tensor cores. Taken as a constant: every GPU and
# format is built for about this balance (twice the rate comes with half the bytes, or with operands shared by blocks).
FEED = 989.5e12 / 16.72704e12
MIN_SPLIT_K = 512
ATTENTION_TILE = 128  # query rows (after packing the heads of a group) per block of a prefill kernel
DECODE_TILE = 16  # the smallest tensor-core tile: a GQA group is padded to it
SPLIT_KV = 256  # tokens of KV per block of a split-KV kernel


class OpTime(NamedTuple):
    """Seconds of one execution, and the terms it is the sum and maximum of (seconds)."""

    seconds: Any
    compute: Any
    memory: Any
    l2: Any
    link: Any
    overhead: Any

    def bound(self) -> Any:
        """Index into BOUNDS of the largest term."""
        terms = np.broadcast_arrays(self.compute, self.memory, self.l2, self.link, self.overhead)
        return np.argmax(np.stack([np.asarray(t, dtype=float) for t in terms]), axis=0)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two numbers or arrays; plain Python for numbers, which NumPy would be ten times slower on."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.maximum(a, b)
    return a if a > b else b


def check_operators(operators: list[Operator], gpu: Gpu) -> None:
    """InputError if the GPU lacks a compute format that the operators need."""
    for op in operators:
        if op.dtype is not None and op.dtype not in gpu.peak:
            raise InputError(
                f"{gpu.name} does not compute in {op.dtype}",
                place="precision.activations", found=op.dtype, allowed=", ".join(sorted(gpu.peak)),
            )  # fmt: skip


def hbm_bytes(work: Work, gpu: Gpu) -> Any:
    """Bytes of one execution that go to or come from HBM.

    Activations that fit into the L2 stay there and the rest spills; weights and KV always come from HBM, because a step
    touches all of them and together they exceed any L2.
    """
    return work.weight_bytes + work.kv_bytes + maximum(work.act_bytes - gpu.l2.size, 0)


def operator_time(op: Operator, shape: StepShape, gpu: Gpu, profile: Profile) -> OpTime:
    """Seconds of one execution of `op` (one layer) in a step of `shape`; one without work takes no time at all."""
    work = (op.busiest or op.work)(shape)
    fix = profile.correction(op.kind)
    memory = hbm_bytes(work, gpu) / (gpu.memory.bandwidth * fix.memory_efficiency)
    l2 = work.act_bytes / (gpu.l2.bandwidth * fix.memory_efficiency)
    link, hops = link_seconds(op, work.comm_bytes, gpu, fix.link_efficiency)
    compute: Any = 0.0
    if op.dtype is not None:
        compute = work.flops / (gpu.peak[op.dtype] * fix.compute(op.dtype))
    if profile.tiling and op.dtype is not None:
        if isinstance(op.dims, Gemm):
            compute = gemm_compute(op, shape, gpu) / fix.compute(op.dtype)
        elif isinstance(op.dims, Heads) and op.axis == "prefill":
            compute = compute * prefill_waste(op.dims, shape, gpu)
        elif isinstance(op.dims, Heads):
            waste, fill = decode_waste(op.dims, shape, gpu)
            compute, memory = compute * waste * fill, memory * fill
    busy = maximum(maximum(compute, memory), maximum(l2, link))
    overhead = (fix.overhead + hops) * (busy > 0)
    return OpTime(busy + overhead, compute, memory, l2, link, overhead)


def link_seconds(op: Operator, moved: Any, gpu: Gpu, efficiency: float) -> tuple[Any, float]:
    """Seconds of `moved` bytes over each GPU's link, or over its adapter if it is slower to pass its part of them to
    other domains meanwhile; and the network's latency, 0 within a domain. Both reach `efficiency` of their bandwidth.

    Raises
    ------
    ValueError : no network is known (`simulator.layout.check_link` reports that in time).
    """
    dims, domain = op.dims, gpu.link.domain
    link = moved / (gpu.link.bandwidth * efficiency)
    if not isinstance(dims, Message | Exchange) or dims.span is None or dims.span.domains(domain) == 1:
        return link, 0.0
    if gpu.scale_out is None:
        raise ValueError(f"{op.name} reaches beyond a domain of {gpu.name}, which has no network")
    network = moved * dims.beyond(domain) / (gpu.scale_out.bandwidth * efficiency)
    return maximum(link, network), dims.hops(domain) * gpu.scale_out.latency


def gemm_rows(op: Operator, shape: StepShape) -> Any:
    """Rows of a GEMM: tokens, sampled rows, or the keys that a prefill reads."""
    if isinstance(op.dims, KeyGemm):
        return 0 if shape.prefill is None else shape.prefill.kv[op.dims.extent]
    return op.rows(shape)


def gemm_compute(op: Operator, shape: StepShape, gpu: Gpu) -> Any:
    """Compute time of a tiled GEMM at full tensor rate (seconds): the best of the tile shapes and splits.

    Every block of a wave takes as long as its padded tile's FLOPs on one SM, or longer by (1/rows + 1/columns) FEED
    where that exceeds 1, because its operands come too slowly; a started wave counts whole.
    """
    assert isinstance(op.dims, Gemm) and op.dtype is not None
    dims = op.dims
    rows = gemm_rows(op, shape)
    m: Any = rows
    groups: Any = 1
    if op.block is not None:
        m, groups = op.block.busiest(rows)
        m = m / maximum(groups, 1e-300)
    sm_rate = gpu.peak[op.dtype] / gpu.sms
    best: Any = None
    for tile_m, tile_n in GEMM_TILES:
        tiles = groups * ceil_div(m, tile_m) * ceil_div(dims.n, tile_n)
        for split in GEMM_SPLITS:
            if split > 1 and dims.k < split * MIN_SPLIT_K:
                continue
            depth = dims.k / split
            starved = max(1.0, (1 / tile_m + 1 / tile_n) * FEED)
            block = 2 * tile_m * tile_n * depth / sm_rate * starved
            waves = np.ceil(tiles * split / gpu.sms)
            # The partial sums of a split are written and read again in fp32.
            time = waves * block + (2 * split * m * groups * dims.n * 4 / gpu.l2.bandwidth if split > 1 else 0.0)
            best = time if best is None else np.minimum(best, time)
    return best


def prefill_waste(heads: Heads, shape: StepShape, gpu: Gpu) -> Any:
    """Factor >= 1 on the compute time of prefill attention: padded query tiles and the last wave.

    The query heads of a KV head share a tile; a kernel with fewer blocks than SMs splits the KV of long contexts.
    """
    chunks = shape.prefill
    if chunks is None:
        return 1.0
    group = heads.q_heads // heads.kv_heads
    seqs = maximum(chunks.seqs, 1)
    rows = maximum(chunks.tokens / seqs * group, 1)
    tiles = ceil_div(rows, ATTENTION_TILE)
    splits = maximum(chunks.kv[heads.extent] / seqs // SPLIT_KV, 1)
    blocks = seqs * tiles * heads.kv_heads
    # Splitting is only worth it while SMs would idle.
    blocks = maximum(blocks, smaller(blocks * splits, gpu.sms))
    return tiles * ATTENTION_TILE / rows * (ceil_div(blocks, gpu.sms) * gpu.sms / blocks)


def decode_waste(heads: Heads, shape: StepShape, gpu: Gpu) -> tuple[Any, Any]:
    """Factors >= 1 of decode attention: on compute for the padded group, on everything for SMs without work.

    A block reads up to SPLIT_KV tokens of one KV head of one sequence. One SM can draw about twice its share of the HBM
    bandwidth, so half of the SMs saturate it.
    """
    group = heads.q_heads // heads.kv_heads
    blocks = maximum(shape.decode_seqs, shape.decode_kv[heads.extent] / heads.page / SPLIT_KV) * heads.kv_heads
    return ceil_div(group, DECODE_TILE) * DECODE_TILE / group, maximum(gpu.sms / (2 * maximum(blocks, 1)), 1.0)
