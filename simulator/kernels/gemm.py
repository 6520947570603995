"""Dense matrix multiplication, out[m, n] = a[m, k] x b[n, k]^T, as the linear layers of a model run it.

The output is cut into tiles, one a block, and blocks are dealt to the SMs in waves; a tile that hangs over the edge
costs as much as a full one. Where there are fewer tiles than SMs, k is split among several blocks (split-K, stream-K),
whose partial sums are added up in the end. A block takes operands from the L2 at the rate of an SM's port; what the L2
does not hold comes from HBM once. Low-precision activations are quantised by a kernel of its own before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.base import Constant, Constants, KernelModel, KernelWork, Label, Shape, Terms
from simulator.kernels.formats import FORMATS, compute_rate

OUT_BYTES = 2.0
"""Results are written as bf16 whatever the operands are."""
STEP = 64.0
"""Elements of k that a block takes at a time, at the least."""
TILES = ((64, 64), (128, 64), (64, 128), (128, 128), (128, 192), (192, 128), (128, 256), (256, 128))
"""Tiles that a library chooses from: rows, columns."""
_ROWS, _COLS = (np.array(side, dtype=np.float64) for side in zip(*TILES, strict=True))
FEED = 64.0
"""What a row or column of a tile costs in the choice, in units of its area: to take its 2 bytes from the L2 occupies
an SM's port (64 bytes a clock) for 1/32 clock, in which a Hopper's SM multiplies 64 pairs (4,096 FLOPs a clock)."""
SCALED = ("fp8", "fp8_block", "nvfp4", "sq", "w4a8_mxfp4_mxfp8")
"""Formats whose activations arrive as bf16 and are quantised first."""


class Tiling(NamedTuple):
    """The tile chosen for a shape: rows and columns of a tile, number of tiles, waves of them over the SMs, and blocks
    among which k is split.
    """

    rows: Any
    cols: Any
    tiles: Any
    waves: Any
    split: Any


def tiling(m: Any, n: Any, k: Any, sms: float) -> Tiling:
    """The tile with the least work on the busiest SM: waves x (area + cost of feeding its edges)."""
    per_row = {bm: np.ceil(m / bm) for bm in {bm for bm, _ in TILES}}
    per_col = {bn: np.ceil(n / bn) for bn in {bn for _, bn in TILES}}
    best, pick = np.inf, np.zeros(np.broadcast_shapes(np.shape(m), np.shape(n)), dtype=np.intp)
    for i, (bm, bn) in enumerate(TILES):
        cost = np.ceil(per_row[bm] * per_col[bn] / sms) * (bm * bn + FEED * (bm + bn))
        pick = np.where(cost < best, i, pick)
        best = np.minimum(cost, best)
    rows, cols = _ROWS[pick], _COLS[pick]
    count = np.ceil(m / rows) * np.ceil(n / cols)
    waves = np.ceil(count / sms)
    split = np.clip(np.floor(sms / count), 1.0, np.maximum(np.floor(k / (4 * STEP)), 1.0))
    return Tiling(rows, cols, count, waves, split)


def _bytes(shape: Shape, label: Label) -> tuple[Any, Any, Any]:
    """Bytes of a, b and the output."""
    form = FORMATS[label["dtype"]]
    m, n, k = shape["m"], shape["n"], shape["k"]
    return m * k * form.act, n * k * form.weight, m * n * OUT_BYTES


def terms(shape: Shape, label: Label, gpu: Gpu, constants: Constants) -> Terms:
    """Seconds. Latency: launch, the steps through k one after another, a block's start and end in each wave, the merge
    of a split k, and the rows that are quantised one a block.
    """
    m, n, k = (np.asarray(shape[c], dtype=np.float64) for c in ("m", "n", "k"))
    form = FORMATS[label["dtype"]]
    tile = tiling(m, n, k, gpu.sms)
    a, b, out = _bytes({"m": m, "n": n, "k": k}, label)
    steps = np.ceil(k / STEP)
    # The more steps a split of k saves, the likelier is it. Steps alone decide, so that no rate moves the choice.
    saved = np.square(steps * (1 - 1 / tile.split) / constants["split"])
    saved *= saved
    divided = saved / (1 + saved)
    turns = tile.waves * np.maximum(steps * (1 - divided * (1 - 1 / tile.split)), 1.0)
    latency = (
        constants["launch"] + constants["step"] * turns + constants["wave"] * tile.waves + constants["merge"] * divided
    )
    work = turns * STEP
    compute = work * tile.rows * tile.cols * (2 * gpu.sms / (compute_rate(label["dtype"], gpu) * constants["compute"]))
    l2_rate = gpu.l2.bandwidth * constants["l2"]
    loaded = np.minimum(tile.rows, m) * form.act + np.minimum(tile.cols, n) * form.weight
    l2 = work * loaded * (gpu.sms / l2_rate)
    touched = a + b + out
    missed = 1 / (1 + (constants["resident"] * gpu.l2.size / touched) ** 3)
    hbm = gpu.memory.bandwidth * constants["memory"]
    memory = touched * missed / hbm
    if label["dtype"] in SCALED:
        latency = latency + m * (np.hypot(constants["quantise_row"], constants["quantise_element"] * k) / gpu.sms)
        before = m * k * (constants["quantise"] * (OUT_BYTES + form.act) / hbm)
        more = 1 + before / Terms(0.0, compute, memory, l2, 0.0).busy(constants["sharpness"])
        compute, memory, l2 = compute * more, memory * more, l2 * more
    return Terms(latency, compute, memory, l2, 0.0)


def roof(shape: Shape, label: Label, gpu: Gpu) -> Any:
    """Seconds: FLOPs at the dense peak; operands and result through the L2, or from HBM where they exceed it."""
    m, n, k = (np.asarray(shape[c], dtype=np.float64) for c in ("m", "n", "k"))
    a, b, out = _bytes({"m": m, "n": n, "k": k}, label)
    total = a + b + out
    beyond = np.maximum(total - gpu.l2.size, 0.0) / gpu.memory.bandwidth
    return np.maximum(np.maximum(2 * m * n * k / compute_rate(label["dtype"], gpu), total / gpu.l2.bandwidth), beyond)


def work(shape: Shape, label: Label, gpu: Gpu) -> KernelWork:
    """Counts with padded tiles; HBM carries each operand once."""
    m, n, k = (np.asarray(shape[c], dtype=np.float64) for c in ("m", "n", "k"))
    form = FORMATS[label["dtype"]]
    tile = tiling(m, n, k, gpu.sms)
    a, b, out = _bytes({"m": m, "n": n, "k": k}, label)
    flops = 2 * tile.tiles * tile.rows * tile.cols * k
    loaded = np.minimum(tile.rows, m) * form.act + np.minimum(tile.cols, n) * form.weight
    l2_bytes = tile.tiles * k * loaded + out * tile.split
    return KernelWork(flops, a + b + out, l2_bytes, tile.tiles * tile.split / (tile.waves * gpu.sms))


NAMES = (
    "m",
    "n",
    "k",
    "log_m",
    "log_n",
    "log_k",
    "log_mn",
    "log_mk",
    "log_nk",
    "log_mnk",
    "log_n_over_k",
    "log_m_over_n",
    "power_of_2_in_m",
    "pad_m_64",
    "pad_m_128",
    "log_blocks",
    "waves",
    "last_wave",
    "log_blocks_128",
    "last_wave_128",
    "log_blocks_256",
    "last_wave_256",
    "log_blocks_256_128",
    "last_wave_256_128",
    "last_wave_192",
    "last_wave_192_128",
    "log_split",
    "log_bytes_over_l2",
    "log_out_over_l2",
)


def _power_of_2(m: Any) -> Any:
    """The largest power of two in the number of rows, at most 64: loads of scales and rows want to be aligned."""
    rows = m.astype(np.int64)
    return np.minimum(rows & -rows, 64).astype(np.float64)


def features(shape: Shape, label: Label, gpu: Gpu) -> list[Any]:
    """See NAMES. Logarithms to base 2; `last_wave` is how much of the last wave has work."""
    m, n, k = (np.asarray(shape[c], dtype=np.float64) for c in ("m", "n", "k"))
    log_m, log_n, log_k = np.log2(m), np.log2(n), np.log2(k)
    tile = tiling(m, n, k, gpu.sms)
    a, b, out = _bytes({"m": m, "n": n, "k": k}, label)
    blocks = tile.tiles / gpu.sms
    found = [
        m,
        n,
        k,
        log_m,
        log_n,
        log_k,
        log_m + log_n,
        log_m + log_k,
        log_n + log_k,
        log_m + log_n + log_k,
        log_n - log_k,
        log_m - log_n,
        _power_of_2(m),
        m / (np.ceil(m / 64) * 64),
        m / (np.ceil(m / 128) * 128),
        np.log2(blocks),
        tile.waves,
        blocks / tile.waves,
    ]
    for bm, bn in ((128, 128), (128, 256), (256, 128)):
        blocks = np.ceil(m / bm) * np.ceil(n / bn) / gpu.sms
        found += [np.log2(blocks), blocks / np.ceil(blocks)]
    for bm, bn in ((128, 192), (192, 128)):
        blocks = np.ceil(m / bm) * np.ceil(n / bn) / gpu.sms
        found.append(blocks / np.ceil(blocks))
    found += [np.log2(tile.split), np.log2((a + b + out) * (1 / gpu.l2.size)), np.log2(out * (1 / gpu.l2.size))]
    return found


GEMM = KernelModel(
    kind="gemm",
    columns=("m", "n", "k"),
    labels=("kernel", "dtype"),
    constants={
        "sharpness": Constant(3.0, 2.0, 10.0),
        "launch": Constant(2e-6, 0.5e-6, 30e-6),
        "step": Constant(1e-8, 1e-9, 2e-7),
        "wave": Constant(5e-7, 1e-8, 5e-6),
        "split": Constant(40.0, 4.0, 1e4),
        "merge": Constant(2e-6, 1e-7, 1e-4),
        "compute": Constant(0.8, 0.1, 1.1),
        "memory": Constant(0.85, 0.3, 1.1),
        "l2": Constant(3.0, 3.0, 5.0),  # above 1: blocks of a cluster share what they take
        "resident": Constant(0.1, 0.001, 2.0),
        "quantise_row": Constant(1e-6, 1e-9, 1e-5),
        "quantise_element": Constant(1e-10, 1e-13, 1e-8),
        "quantise": Constant(1.0, 0.01, 10.0),
    },
    terms=terms,
    roof=roof,
    work=work,
    features=features,
    names=NAMES,
    # TensorRT-LLM's fp8 GEMMs were timed with about 11 us of launch; no other kernel without a floor takes more than 5.
    in_graph={"launch": 5e-6},
)
