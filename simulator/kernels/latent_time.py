"""Seconds of a block of latent attention (`latent_block`): every kernel has a roofline of its own, and they add up.

The kernels' times are computed side by side, one row of an array each, because a simulated step asks for them often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.attention_traits import exp_rate, missing
from simulator.kernels.base import Constant, Constants, KernelWork, Label, Shape, Terms
from simulator.kernels.formats import FORMATS, compute_rate
from simulator.kernels.latent_block import (
    TILE,
    Block,
    Dims,
    Matrix,
    batch_of,
    counts,
    dims,
    elements,
    features,
    number,
    projections,
    roof,
    work,
)


class Part(NamedTuple):
    """Seconds of a kernel by what may bound it: tensor cores (or instructions), HBM, L2, which overlap."""

    compute: Any
    memory: Any = 0.0
    l2: Any = 0.0


def terms(shape: Shape, label: Mapping[str, str], block: Block, size: Dims, gpu: Gpu, c: Constants) -> Terms:
    """Seconds: the launches, and the sum of the kernels' own rooflines."""
    return together(c["launch"], parts(shape, label, block, size, gpu, c), c["sharpness"])


def stacked(rows: Sequence[Sequence[Any]], shape: tuple[int, ...]) -> Any:
    """[columns, rows, *shape]: numbers or arrays side by side."""
    found = np.empty((len(rows[0]), len(rows), *shape))
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            found[j, i] = value
    return found


def gemms(matrices: Sequence[Matrix], dtype: str, gpu: Gpu, c: Constants, stay: Any) -> list[Part]:
    """Projections in tiles of 128 x 128, dealt to the SMs in waves that are smoothed in part, and what brings their
    rows to a narrower format first, scales by groups: a matter of instructions more than of bytes.

    stay : the part of their operands that has to come from HBM.
    """
    form = FORMATS[dtype]
    m, n, k = stacked(matrices, np.broadcast_shapes(*(np.shape(side) for matrix in matrices for side in matrix)))
    load = np.maximum(np.ceil(m / TILE) * np.ceil(n / TILE) / gpu.sms, 1e-9)
    waves = np.maximum(load, (np.ceil(load) / load) ** c["waves"] * load) * (m > 0)
    compute = 2 * waves * gpu.sms * TILE * TILE * (k + c["fill"]) / (c["gemm"] * compute_rate(dtype, gpu))
    weights, rows = n * k * form.weight * (m > 0), m * (2 * k + 2 * n)
    memory = (weights + c["rows"] * rows) / (c["weights"] * gpu.memory.bandwidth)
    l2 = (weights + rows) / (c["l2"] * gpu.l2.bandwidth)
    found = [Part(compute[i], memory[i] * stay, l2[i]) for i in range(len(matrices))]
    if dtype != "bf16":
        instructions = m * k / (c["quantise"] * gpu.sms * gpu.boost_clock)
        read = 3 * m * k / (c["memory"] * gpu.memory.bandwidth)
        found += [Part(instructions[i], read[i]) for i in range(len(matrices))]
    return found


def parts(shape: Shape, label: Mapping[str, str], block: Block, size: Dims, gpu: Gpu, c: Constants) -> list[Part]:
    """The block's kernels, one after another."""
    heads, step = number(shape["q_heads"]), batch_of(shape)
    dtype, bandwidth, l2 = label["gemm_dtype"], c["memory"] * gpu.memory.bandwidth, c["l2"] * gpu.l2.bandwidth
    work, matrices = counts(shape, block, size, c["masked"]), projections(shape, block, size)
    cached = np.minimum(work.keys, step.keys) * block.token
    rows = step.tokens * (2 * size.width + 3 * heads * (size.nope + size.rope) + 2 * heads * size.value) * 2
    if block.expanded:
        rows = rows + step.keys * heads * (2 * size.nope + size.rope + size.value) * 2
    stay = missing(elements(matrices) * FORMATS[dtype].weight + cached + rows, gpu, c["resident"])
    if np.all(stay == 1.0):
        stay = 1.0
    passes = rows / 2 / (c["pass"] * gpu.sms * gpu.boost_clock)
    single = [Part(passes, c["rows"] * rows * stay / bandwidth, rows / l2)]
    if not block.expanded:
        absorbed = heads * size.kv_rank * (size.nope + size.value)
        moved = heads * (size.nope + size.value + 2 * size.kv_rank) * step.tokens * 2
        compute = 2 * np.maximum(step.tokens, 64.0) * absorbed / (c["absorb"] * compute_rate("bf16", gpu))
        single.append(Part(compute, (2 * absorbed + moved) * stay / bandwidth, moved / l2))
    name = "expanded" if block.expanded else "sparse" if block.sparse else "absorbed"
    part = np.where(heads < block.converts, c["converts"], c[name]) if block.converts else c[name]
    pair = work.flops / (part * compute_rate(block.dtype, gpu)) + c["exp"] / exp_rate(gpu)
    attention = work.pairs * work.rows * pair
    single.append(Part(attention, cached * stay / bandwidth, work.through / (c["gather"] * gpu.l2.bandwidth)))
    if block.scored:
        runs = number(shape.get("indexer", 1.0))
        flops = 2 * size.index_heads * size.index_dim * step.pairs * runs
        keys, logits = step.keys * size.index_bytes * runs, 4 * step.pairs * runs
        far = missing(logits, gpu, c["resident"]) * logits / bandwidth
        scores = flops / (c["scores"] * compute_rate("fp8", gpu))
        single.append(Part(scores, keys * stay / bandwidth + far, (keys + logits) / l2))
        # One row a thread block, whose tokens are looked at one after another.
        turns = np.maximum(step.tokens * runs / gpu.sms, 1.0) * (step.longest > size.top_k) * runs
        single.append(Part(turns * (c["row"] + c["element"] * step.longest) / gpu.boost_clock, far * c["passes"]))
    return single + gemms(matrices, dtype, gpu, c, stay)


def together(latency: Any, parts: Sequence[Part], sharpness: float) -> Terms:
    """Kernels that follow one another: each takes the p-norm of its parts, and the sum is what `Terms.seconds` gives.

    Every kernel's time is given to what bounds it, in proportion to the p-th powers.
    """
    alike: dict[tuple[int, ...], list[Part]] = {}
    for part in parts:  # what is the same for a whole table is computed once
        alike.setdefault(np.broadcast_shapes(*map(np.shape, part)), []).append(part)
    total: Any = 0.0
    sums: list[Any] = [0.0, 0.0, 0.0]
    for shape, own in alike.items():
        sides = stacked(own, shape)
        top = np.maximum(sides.max(axis=0), 1e-300)
        powers = (sides / top) ** sharpness
        norm = powers.sum(axis=0)
        busy = top * norm ** (1 / sharpness)
        each = busy / np.maximum(norm, 1e-300)
        total = total + busy.sum(axis=0)
        sums = [so_far + (each * power).sum(axis=0) for so_far, power in zip(sums, powers, strict=True)]
    scale = total / np.maximum(Terms(0.0, sums[0], sums[1], sums[2], 0.0).busy(sharpness), 1e-300)
    return Terms(latency, sums[0] * scale, sums[1] * scale, sums[2] * scale, 0.0)


CONSTANTS = {
    "sharpness": Constant(3.0, 1.5, 10.0),
    "launch": Constant(4e-5, 5e-6, 3e-3),
    "gemm": Constant(0.65, 0.3, 0.85),
    "fill": Constant(200.0, 1.0, 2000.0),
    "waves": Constant(0.5, 0.01, 1.0),
    "weights": Constant(0.8, 0.4, 0.95),
    "rows": Constant(1.0, 0.1, 4.0),
    "quantise": Constant(32.0, 0.5, 256.0),
    "pass": Constant(32.0, 1.0, 256.0),
    "memory": Constant(0.8, 0.4, 0.95),
    "l2": Constant(0.6, 0.1, 2.0),
    "gather": Constant(0.6, 0.05, 4.0),
    "absorb": Constant(0.4, 0.02, 0.85),
    "exp": Constant(0.3, 1e-3, 2.0),
    "resident": Constant(0.5, 0.05, 2.0),
}
"""What both modules fit; `masked` and the attention's own are each module's."""


class Physics(NamedTuple):
    """The functions of a kind's `KernelModel`."""

    terms: Callable[[Shape, Label, Gpu, Constants], Terms]
    roof: Callable[[Shape, Label, Gpu], Any]
    work: Callable[[Shape, Label, Gpu], KernelWork]
    features: Callable[[Shape, Label, Gpu], list[Any]]


def physics(block_of: Callable[[Label, Gpu, Dims], Block]) -> Physics:
    """Those of a kind of block: `block_of` says what the kernel of a label does."""

    def given(shape: Shape, label: Label, gpu: Gpu) -> tuple[Block, Dims]:
        size = dims(shape, label.get("model", ""))
        return block_of(label, gpu, size), size

    return Physics(
        terms=lambda shape, label, gpu, constants: terms(shape, label, *given(shape, label, gpu), gpu, constants),
        roof=lambda shape, label, gpu: roof(shape, label, *given(shape, label, gpu), gpu),
        work=lambda shape, label, gpu: work(shape, label, *given(shape, label, gpu), gpu),
        features=lambda shape, label, gpu: features(shape, label, *given(shape, label, gpu), gpu),
    )
