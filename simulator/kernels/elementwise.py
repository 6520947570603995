"""Operators that pass over their rows once: norms, RoPE and the cache write, SiLU, sampling; and streams of bytes.

A row is a token's (or a sampled row's) part, `row_bytes` what the operator graph counts for it, read and written
together. Rows are dealt to the SMs, and every byte goes through the L2 at least. The kernel before has just written
what is read here, so bytes come from HBM only as far as they exceed the L2, but for a part (`cold`) that lay there all
along, such as the rows of an embedding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.base import Constant, Constants, KernelModel, KernelWork, Label, Shape, Terms

COLUMNS = ("rows", "row_bytes")
STREAMS = ("read", "write", "copy")
"""Operations that only move bytes; what they move is known to the byte."""
FUSED = 0.25
"""The least part of the counted bytes that an operator moves: one that samples from logits in bf16, read once, takes a
quarter of the two passes in fp32 that the graph counts.
"""
KEEP = 0.5
"""Where the fit starts for the part of the L2 that rows may fill and still be found there. Not all of it: the L2 of
large GPUs has two halves, which keep much of their data twice.
"""


class _Plan(NamedTuple):
    """bytes : of all rows. load : rows an SM has in the mean. turns : whole rows of the busiest SM."""

    bytes: Any
    load: Any
    turns: Any


def _plan(shape: Shape, gpu: Gpu) -> _Plan:
    rows, row_bytes = (np.asarray(shape[name], dtype=np.float64) for name in COLUMNS)
    load = rows / gpu.sms
    return _Plan(rows * row_bytes, load, np.ceil(load))


def missed(size: Any, gpu: Gpu, keep: float = KEEP) -> Any:
    """The part of `size` bytes that is not found in the L2 any more: a smooth step at `keep` of its size."""
    return 1 / (1 + (keep * gpu.l2.size / np.maximum(size, 1.0)) ** 3)


def terms(shape: Shape, label: Label, gpu: Gpu, constants: Constants) -> Terms:
    """Seconds. The L2 is as slow as the SM with the most rows, which has its share of the rate; `uneven` says how much
    of that is left where a kernel cuts rows into pieces (0: nothing, 1: one thread block a row).
    """
    plan = _plan(shape, gpu)
    row_bytes = np.asarray(shape["row_bytes"], dtype=np.float64)
    busiest = plan.load + constants["uneven"] * (plan.turns - plan.load)
    compute = constants["row"] * plan.turns / gpu.boost_clock
    gone = missed(plan.bytes, gpu, constants["keep"])
    gone = gone + constants["cold"] * (1 - gone)
    memory = gone * plan.bytes / (constants["memory"] * gpu.memory.bandwidth)
    l2 = busiest * gpu.sms * row_bytes / (constants["l2"] * gpu.l2.bandwidth)
    return Terms(constants["latency"], compute, memory, l2, 0.0)


def roof(shape: Shape, label: Label, gpu: Gpu) -> Any:
    """Seconds of the bytes through the fastest level, and of those that exceed the L2 from HBM."""
    total = _plan(shape, gpu).bytes * (1.0 if label["op"] in STREAMS else FUSED)
    beyond = np.maximum(total - gpu.l2.size, 0.0) / gpu.memory.bandwidth
    return np.maximum(total / np.maximum(gpu.l2.bandwidth, gpu.memory.bandwidth), beyond)


def work(shape: Shape, label: Label, gpu: Gpu) -> KernelWork:
    """Bytes alone: a few FLOPs a byte are nothing beside them."""
    plan = _plan(shape, gpu)
    return KernelWork(0 * plan.bytes, missed(plan.bytes, gpu) * plan.bytes, plan.bytes, np.minimum(plan.load, 1.0))


NAMES = ("log_rows", "log_row_bytes", "log_bytes", "log_rows_per_sm", "fill", "turns", "bytes_l2")


def features(shape: Shape, label: Label, gpu: Gpu) -> list[Any]:
    """As NAMES: few, because a kernel's table has some dozens of rows."""
    plan = _plan(shape, gpu)
    rows, row_bytes = (np.asarray(shape[name], dtype=np.float64) for name in COLUMNS)
    log_bytes = np.log2(np.maximum(plan.bytes, 1.0))
    return [
        np.log2(rows),
        np.log2(row_bytes),
        log_bytes,
        np.log2(plan.load),
        plan.load / plan.turns,
        np.minimum(plan.turns, 64.0),
        log_bytes - np.log2(gpu.l2.size),
    ]


ELEMENTWISE = KernelModel(
    kind="elementwise",
    columns=COLUMNS,
    labels=("kernel", "op", "dtype"),
    constants={
        "latency": Constant(2e-6, 3e-7, 3e-5),
        "row": Constant(100.0, 1.0, 2e4),
        "uneven": Constant(0.3, 1e-3, 1.0),
        "l2": Constant(0.4, 0.03, 5.0),  # above 1: less is moved than the graph counts (FUSED)
        "memory": Constant(0.85, 0.2, 5.0),
        "keep": Constant(KEEP, 0.05, 4.0),
        "cold": Constant(0.02, 1e-3, 1.0),
        "sharpness": Constant(3.0, 1.5, 10.0),
    },
    terms=terms,
    roof=roof,
    work=work,
    features=features,
    names=NAMES,
)
