"""Where the time, the work and the energy of a run went: per operator, from the timeline.

Nothing is counted while the engine runs. A timeline row holds the shape of its steps, and every operator's work is
affine in it, so sums over a macro-step are exact; only which term bounds an operator is judged in its middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwspecs.dtypes import BYTES
from hwspecs.gpu import Gpu
from simulator.cost import BOUNDS, OpTime, hbm_bytes
from simulator.kernels.base import KernelWork
from simulator.operators import Operator, Work
from simulator.policy import SECONDS_PER_TICK
from simulator.power import joules, kernel_power
from simulator.shape import PrefillShape, StepShape, ceil_div, dealt_tokens, mean_shape
from simulator.stepcost import StepCost
from simulator.timeline import Timeline

TILE = (128, 256)
"""Rows and columns of the tiles that matrix units work on at most sizes; what they reread comes from the L2."""


@dataclass(frozen=True)
class OperatorTotals:
    """What one operator did on one GPU of each replica (the mean one), summed over replicas and steps.

    `seconds` is kernel time, `by_bound` divides it by the term that bounds the operator, `energy` is in joules above
    those of the board awake.
    """

    name: str
    kind: str
    seconds: float
    by_bound: dict[str, float]
    flops: float
    weight_bytes: float
    kv_bytes: float
    act_bytes: float
    comm_bytes: float
    hbm_bytes: float
    energy: float
    peak_seconds: float
    """Seconds that its FLOPs would take at the dense peak of its format."""


def operator_totals(cost: StepCost, timeline: Timeline, factor: float = 1.0) -> list[OperatorTotals]:
    """Totals of every operator of the graph, in its order, of a timeline whose steps took `factor` times as long."""
    return [_totals(cost, op, timeline, factor) for op in cost.operators]


def host_seconds(cost: StepCost, timeline: Timeline, factor: float = 1.0) -> float:
    """Seconds of the steps, of all replicas, in which the GPUs wait for the host; `factor` as in `operator_totals`."""
    host, layout = cost.host, cost.graph.layout
    seqs, chunks = (ceil_div(timeline[name], layout.ranks) for name in ("decode_seqs", "prefill_seqs"))
    stages, layers = layout.pipeline, cost.graph.model.layers / layout.pipeline
    tokens = dealt_tokens(
        timeline["tokens"],
        timeline["prefill_tokens"],
        timeline["prefill_seqs"],
        layout.ranks,
        layout.ranks,
        cost.queries,
    )
    mixed = host.mixed_seconds(seqs, chunks, tokens, layers)
    seconds = stages * np.where(chunks > 0, mixed, host.decode_seconds(seqs, layers))
    return (float((timeline["steps"] * seconds).sum()) + _launch_seconds(cost, timeline)) * factor


def _launch_seconds(cost: StepCost, timeline: Timeline) -> float:
    """Of steps with prefill, what kernels take longer than measured ones, or are launched more slowly than they run."""
    if not cost.host.launch and not cost.host.prefill_share:
        return 0.0
    extents = range(len(cost.prefill_caps))
    names = ["tokens", "rows", "prefill_tokens", "prefill_seqs"]
    names += [f"prefill_{what}.{e}" for what in ("pairs", "kv") for e in extents]
    prefills = timeline["prefill_seqs"] > 0
    ticks = 0
    for tokens, rows, new, seqs, *sums in zip(
        *(timeline[name][prefills].astype(int).tolist() for name in names), strict=True
    ):
        half = len(sums) // 2
        ticks += cost.launch_ticks(tokens, rows, PrefillShape(new, seqs, tuple(sums[:half]), tuple(sums[half:])))
    return ticks * SECONDS_PER_TICK


def _totals(cost: StepCost, op: Operator, timeline: Timeline, factor: float) -> OperatorTotals:
    steps = timeline["steps"]
    if op.axis in ("tokens", "rows"):
        most, mean = cost.kernel_rows(op, timeline)
        if most is mean:
            most, inverse = np.unique(most, return_inverse=True)
            mean = most
        else:
            (most, mean), inverse = np.unique(np.stack([most, mean]), axis=1, return_inverse=True)
        weight = np.bincount(inverse.ravel(), weights=steps, minlength=len(most))
        terms, shape = cost.kernel_terms(op, _rows(cost, most)), _rows(cost, mean)
        seconds = factor * op.count * weight * np.broadcast_to(terms.seconds, most.shape)
    elif op.axis == "decode":
        rows = np.flatnonzero(timeline["decode_seqs"])
        weight = steps[rows]
        middle = tuple(
            (timeline[f"decode_kv_first.{e}"][rows] + timeline[f"decode_kv_last.{e}"][rows]) / 2
            for e in range(len(cost.decode_caps))
        )
        seqs = timeline["decode_seqs"][rows]
        shape = StepShape(seqs * cost.queries, seqs * cost.queries, seqs, middle)
        terms, shape = cost.terms(op, shape), mean_shape(shape, op.dealt)
        seconds = timeline[f"decode_s.{cost.decode_ops.index(op)}"][rows]
    else:
        rows = np.flatnonzero(timeline["prefill_seqs"])
        weight = steps[rows]
        extents = range(len(cost.prefill_caps))
        chunks = PrefillShape(
            timeline["prefill_tokens"][rows],
            timeline["prefill_seqs"][rows],
            tuple(timeline[f"prefill_pairs.{e}"][rows] for e in extents),
            tuple(timeline[f"prefill_kv.{e}"][rows] for e in extents),
        )
        shape = StepShape(timeline["tokens"][rows], timeline["rows"][rows], 0, (), chunks)
        terms, shape = cost.terms(op, shape), mean_shape(shape, op.dealt)
        seconds = factor * op.count * weight * np.broadcast_to(cost.prefill_many(op, chunks), weight.shape)
    return operator_total(cost.gpu, op, op.work(shape), op.count * weight, terms, np.asarray(seconds, dtype=float))


def _rows(cost: StepCost, rows: np.ndarray) -> StepShape:
    """Steps of so many tokens, of which each gets a row."""
    return StepShape(rows, rows, 0, tuple(0 for _ in cost.decode_caps))


def operator_total(
    gpu: Gpu, op: Operator, work: Work, launches: np.ndarray, terms: OpTime, seconds: np.ndarray
) -> OperatorTotals:
    """Sum over launches; `work` is that of one launch of each, `seconds` those of all of them."""
    hbm = np.asarray(hbm_bytes(work, gpu)) * launches
    work = work.times(launches)
    peak = np.asarray(work.flops) / gpu.peak[op.dtype] if op.dtype else np.zeros(len(seconds))
    counts = KernelWork(work.flops, hbm, _l2_bytes(op, work), 1.0)
    kind = "moe" if op.block else op.kind
    power = kernel_power(gpu, counts, op.dtype, seconds, kind=kind, link_bytes=work.comm_bytes) - joules(gpu).awake
    bound = np.broadcast_to(terms.bound(), seconds.shape) if len(seconds) else np.zeros(0, dtype=int)
    by_bound = np.bincount(bound, weights=seconds, minlength=len(BOUNDS))

    def total(part: object) -> float:
        return float(np.sum(np.broadcast_to(np.asarray(part, dtype=float), seconds.shape)))

    return OperatorTotals(
        name=op.name,
        kind=op.kind,
        seconds=float(seconds.sum()),
        by_bound={name: float(value) for name, value in zip(BOUNDS, by_bound, strict=True) if value},
        flops=total(work.flops),
        weight_bytes=total(work.weight_bytes),
        kv_bytes=total(work.kv_bytes),
        act_bytes=total(work.act_bytes),
        comm_bytes=total(work.comm_bytes),
        hbm_bytes=total(hbm),
        energy=total(power * seconds),
        peak_seconds=total(peak),
    )


def _l2_bytes(op: Operator, work: Work) -> np.ndarray:
    """Bytes through the L2: all operands once, and those of a tile again for every tile beside it."""
    once = np.asarray(work.weight_bytes + work.kv_bytes + work.act_bytes)
    if op.dtype is None or op.axis == "decode":
        return once
    # A tile of R x C takes (R + C) k elements for 2 R C k FLOPs.
    return once + np.asarray(work.flops) * BYTES[op.dtype] / 2 * (1 / TILE[0] + 1 / TILE[1])
