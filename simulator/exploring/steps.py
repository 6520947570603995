"""A single decode or prefill step, operator by operator, at exactly one shape.

The rules of a step are those of `StepCost`: padding to CUDA graphs, dealing among ranks, the host. An engine that runs
takes the operators that read KV from tables, between whose knots it goes along lines; here they are computed at the
very shape, so both agree but for what a line leaves out between two knots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.accounting import OperatorTotals, operator_total
from simulator.calibrated import Calibrated
from simulator.cost import BOUNDS, OpTime
from simulator.operators import Operator, Work
from simulator.shape import PrefillShape, StepShape, busiest_shape, causal_pairs, ceil_div, dealt_tokens, keys_read
from simulator.stepcost import StepCost


@dataclass(frozen=True)
class Part:
    """An operator of a step: `once` its time and `work` its work in one execution on `shape`, the part of the step that
    the busiest GPU gets. `shared` : whether it has its time from that of a whole block (`simulator.modules`).
    """

    op: Operator
    shape: StepShape
    once: OpTime
    work: Work
    shared: bool

    @property
    def seconds(self) -> Any:
        """Of all layers."""
        return self.op.count * self.once.seconds


@dataclass(frozen=True)
class Step:
    """A step: its operators that have work, in order, and what the GPU waits for beside them.

    Attributes
    ----------
    host : seconds beside the kernels. host_slope : what it grows by if all of the host's own times double.
    kernel_slope : what the step grows by for a second more of kernels.
    """

    cost: StepCost
    parts: tuple[Part, ...]
    host: Any
    host_slope: Any
    kernel_slope: Any = 1.0

    @property
    def kernels(self) -> Any:
        """Seconds of all operators, which run one after the other."""
        return sum(part.seconds for part in self.parts)

    @property
    def seconds(self) -> Any:
        """Seconds of the step; an array if the GPU's rates are."""
        return self.kernels + self.host

    @property
    def launch(self) -> Any:
        """Seconds of kernels' latencies, which no rate of the GPU shortens."""
        return sum(part.op.count * part.once.overhead for part in self.parts)

    def first(self, cost: StepCost) -> Step:
        """Of a step whose times are arrays over GPUs, that of the first, which `cost` is of."""
        parts = tuple(Part(p.op, p.shape, OpTime(*map(_first, p.once)), p.work, p.shared) for p in self.parts)
        return Step(cost, parts, _first(self.host), _first(self.host_slope), _first(self.kernel_slope))

    def totals(self) -> list[OperatorTotals]:
        """Of every operator of the graph its seconds and what bounds them, as intervals are made of; no work is
        counted.
        """
        found = {part.op.name: part for part in self.parts}
        return [_seconds_of(op, found.get(op.name)) for op in self.cost.operators]

    @property
    def energy(self) -> float:
        """Joules on one GPU above those of the board awake."""
        return sum(
            operator_total(
                self.cost.gpu,
                part.op,
                part.work,
                np.array([float(part.op.count)]),
                part.once,
                np.array([float(part.seconds)]),
            ).energy
            for part in self.parts
        )


def _seconds_of(op: Operator, part: Part | None) -> OperatorTotals:
    seconds = 0.0 if part is None else float(part.seconds)
    bounds = {} if part is None else {bound_of(part.once): seconds}
    return OperatorTotals(op.name, op.kind, seconds, bounds, *[0.0] * 8)


def bound_of(once: OpTime) -> str:
    """The largest term of a time."""
    return BOUNDS[int(once.bound())]


def decode_step(cost: StepCost, batch: int, context: int) -> Step:
    """A step in which `batch` sequences of `context` tokens, the new one included, decode."""
    queries, ranks, host = cost.queries, cost.ranks, cost.host
    seqs = ceil_div(batch, ranks)
    padded = max(seqs, min(host.padded(seqs), cost.max_tokens // cost.graph.layout.attention_data // queries))
    tokens = batch * queries
    read = tuple(batch * (context if cap is None else min(context, cap)) for cap in cost.decode_caps)
    shape = StepShape(tokens, tokens, batch, read)
    parts = []
    for op in cost.operators:
        if op.axis == "decode":
            parts.append(_part(cost, op, busiest_shape(shape, ranks, op.dealt, queries)))
        elif op.axis != "prefill":
            each = padded if op.axis == "tokens" else seqs
            parts.append(_rows(cost, op, each * queries * (ranks // op.dealt)))
    stages, layers = _stages(cost)
    waited = stages * float(host.decode_seconds(np.array(seqs), layers))
    return Step(cost, _working(parts), waited, waited)


def prefill_step(cost: StepCost, query: int) -> Step:
    """A step that computes the first `query` tokens of one prompt, and nothing else."""
    ranks, host = cost.ranks, cost.host
    chunk = PrefillShape(
        query,
        1,
        tuple(causal_pairs(query, 0, cap) for cap in cost.prefill_caps),
        tuple(keys_read(query, 0, cap) for cap in cost.prefill_caps),
    )
    shape = StepShape(query, 1, 0, tuple(0 for _ in cost.decode_caps), chunk)
    parts = []
    for op in cost.operators:
        if op.axis == "prefill":
            parts.append(_part(cost, op, busiest_shape(shape, ranks, op.dealt, cost.queries)))
        elif op.axis == "tokens":
            parts.append(_rows(cost, op, dealt_tokens(query, query, 1, ranks, op.dealt, cost.queries)))
        elif op.axis == "rows":
            parts.append(_rows(cost, op, ranks // op.dealt))
    found = _working(parts)
    kernels = sum(part.seconds for part in found)
    stages, layers = _stages(cost)
    own = stages * float(host.mixed_seconds(np.array(0), np.array(1), np.array(query), layers))
    # Without a graph kernels may be launched more slowly than they run.
    launching = stages * host.launch * layers if query > host.mixed_tokens else 0.0
    late = kernels < launching
    return Step(
        cost,
        found,
        host=own + kernels * host.prefill_share + np.maximum(0.0, launching - kernels),
        host_slope=own + launching * late,
        kernel_slope=1 + host.prefill_share - late,
    )


def _first(value: Any) -> Any:
    return value[0] if np.ndim(value) else value


def _stages(cost: StepCost) -> tuple[int, float]:
    """Stages of the pipeline, and layers of each."""
    stages = cost.graph.layout.pipeline
    return stages, cost.graph.model.layers / stages


def _rows(cost: StepCost, op: Operator, rows: int) -> Part:
    """An operator that sees so many tokens, or sampled rows."""
    seen = rows if op.axis == "rows" else 0
    return _part(cost, op, StepShape(rows, seen, 0, tuple(0 for _ in cost.decode_caps)))


def _part(cost: StepCost, op: Operator, shape: StepShape) -> Part:
    asked, several = shape, np.shape(cost.gpu.memory.bandwidth)
    shared = isinstance(cost.profile, Calibrated) and cost.profile.whole(op) is not None
    if several and shared:
        # Models of whole blocks have arrays of their own inside: as many shapes as there are GPUs go along with those.
        asked = StepShape(*(_spread(value, several) for value in shape))
    return Part(op, shape, cost.kernel_terms(op, asked), op.work(shape), shared)


def _spread(value: Any, several: tuple[int, ...]) -> Any:
    """Numbers of a shape as arrays of equal entries."""
    if value is None:
        return None
    if isinstance(value, PrefillShape):
        return PrefillShape(*(_spread(inner, several) for inner in value))
    if isinstance(value, tuple):
        return tuple(_spread(inner, several) for inner in value)
    return np.full(several, float(value))


def _working(parts: list[Part]) -> tuple[Part, ...]:
    return tuple(part for part in parts if any(float(np.max(amount)) > 0 for amount in part.work))
