"""Where operators change from one bound to another: at which value of which resource, at the run's own batches.

An operator is bound by the largest term of its time (`simulator.cost.OpTime`). More of the resource that binds it, or
less of the one that comes next, until the two terms are alike, changes the bound. Both values are found on the terms
of the compiled graph, at the mean decode step and the mean step with prefill of a run; batches are taken to stay as
they are, though with other times, or more memory, they would not.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from simulator.calibrated import Calibrated
from simulator.cost import BOUNDS
from simulator.operators import Operator
from simulator.shape import PrefillShape, StepShape, ceil_div
from simulator.stepcost import StepCost
from simulator.timeline import Timeline

FARTHEST = 1024.0
"""Factor on a resource up to which a change is looked for."""
LEAST = 0.002
"""Share of the run's time below which an operator is left out."""


@dataclass(frozen=True)
class Shift:
    """What binds an operator, and where that changes.

    Attributes
    ----------
    operator, phase : of steps that only decode, or of those with prefill. share : of the run's time, all bounds.
    bound, following : terms of `BOUNDS`: the largest, and the one that is largest beyond the change.
    ratio : the first over the second, at the run's batch.
    path, above : more of this than `above` (SI units) changes the bound; None if nothing does. factor : `above` over
        what it is now.
    other, below : so does less of this than `below`.
    """

    operator: str
    phase: str
    share: float
    bound: str
    following: str
    ratio: float
    path: str | None
    above: float | None
    factor: float | None
    other: str | None
    below: float | None

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def decode_step(cost: StepCost, timeline: Timeline) -> StepShape | None:
    """The mean step that only decodes, weighted by its time; None if there is none."""
    rows = np.flatnonzero((timeline["prefill_seqs"] == 0) & (timeline["decode_seqs"] > 0))
    if not len(rows):
        return None
    weights = timeline["duration_s"][rows]
    seqs = _mean(timeline["decode_seqs"][rows], weights)
    read = tuple(
        _mean((timeline[f"decode_kv_first.{e}"][rows] + timeline[f"decode_kv_last.{e}"][rows]) / 2, weights)
        for e in range(len(cost.decode_caps))
    )
    # What kernels see is padded to a CUDA graph.
    padded = cost.padded[min(ceil_div(seqs, cost.ranks), cost.most_seqs)] * cost.ranks
    return StepShape(padded * cost.queries, seqs * cost.queries, seqs, read)


def prefill_step(cost: StepCost, timeline: Timeline) -> StepShape | None:
    """The mean step with prefill, weighted by its time; None if there is none."""
    rows = np.flatnonzero(timeline["prefill_seqs"] > 0)
    if not len(rows):
        return None
    weights = timeline["duration_s"][rows]

    def mean(name: str) -> int:
        return _mean(timeline[name][rows], weights)

    extents = range(len(cost.prefill_caps))
    chunks = PrefillShape(
        mean("prefill_tokens"),
        mean("prefill_seqs"),
        tuple(mean(f"prefill_pairs.{e}") for e in extents),
        tuple(mean(f"prefill_kv.{e}") for e in extents),
    )
    read = tuple(mean(f"decode_kv_first.{e}") for e in range(len(cost.decode_caps)))
    tokens = chunks.tokens + mean("decode_seqs") * cost.queries
    return StepShape(tokens, mean("rows"), mean("decode_seqs"), read, chunks)


def _mean(values: np.ndarray, weights: np.ndarray) -> int:
    return max(round(float(np.average(values, weights=weights))), 1)


def bound_shifts(cost: StepCost, seconds: Mapping[str, float], timeline: Timeline, place: str = "gpu") -> list[Shift]:
    """Those of the operators that workers spend their time in, those with the largest share first.

    Parameters
    ----------
    seconds : of each operator in the run, of these workers. timeline : theirs. place : the path of their GPU.
    """
    whole = sum(seconds.values()) or 1.0
    prefills = timeline["prefill_seqs"] > 0
    steps = {"decode": decode_step(cost, timeline), "prefill": prefill_step(cost, timeline)}
    counts = {
        name: float(timeline["steps"][mask].sum()) for name, mask in (("decode", ~prefills), ("prefill", prefills))
    }
    found = []
    for op in cost.operators:
        if seconds.get(op.name, 0.0) < LEAST * whole:
            continue
        # Operators of decoding sequences and of prompts do the same in every step that has any.
        phases = [op.axis] if op.axis in steps else list(steps)
        spent = {
            phase: (counts[phase] if len(phases) > 1 else 1.0) * float(cost.terms(op, step).seconds)
            for phase in phases
            if (step := steps[phase] or (steps["prefill"] if op.axis == "decode" else None)) is not None
        }
        for phase, part in spent.items():
            step = steps[phase] or steps["prefill"]
            share = seconds[op.name] / whole * part / (sum(spent.values()) or 1.0)
            if step is not None and share >= LEAST and (shift := _shift(cost, op, phase, step, share, place)):
                found.append(shift)
    return sorted(found, key=lambda shift: -shift.share)


def _shift(cost: StepCost, op: Operator, phase: str, step: StepShape, share: float, place: str) -> Shift | None:
    terms = _terms(cost, op, step)
    if not terms.max() > 0:
        return None
    first, second = (int(i) for i in np.argsort(-terms, kind="stable")[:2])
    ratio = float(terms[first] / terms[second]) if terms[second] > 0 else np.inf
    above = _crossing(cost, op, step, first, ratio, place)
    below = _crossing(cost, op, step, second, 1 / ratio, place) if np.isfinite(ratio) else None
    following = BOUNDS[second if above is None else above[2]]
    return Shift(
        operator=op.name,
        phase=phase,
        share=share,
        bound=BOUNDS[first],
        following=following,
        ratio=ratio if np.isfinite(ratio) else FARTHEST,
        path=None if above is None else above[0],
        above=None if above is None else above[1],
        factor=None if above is None else above[3],
        other=None if below is None else below[0],
        below=None if below is None else below[1],
    )


def _terms(cost: StepCost, op: Operator, step: StepShape) -> np.ndarray:
    time = cost.terms(op, step)
    return np.array([float(part) for part in (time.compute, time.memory, time.l2, time.link, time.overhead)])


def _resource(cost: StepCost, op: Operator, step: StepShape, term: int, place: str) -> tuple[str, float] | None:
    """The field that a term goes down with, and its value; None for a term that no rate of the GPU shortens.

    Kernels may compute in another format than their operands have, and some parts go by the clock.
    """
    gpu, bound = cost.gpu, BOUNDS[term]
    known = {
        "memory": {"memory.bandwidth": gpu.memory.bandwidth},
        "l2": {"l2.bandwidth": gpu.l2.bandwidth},
        "link": {"link.bandwidth": gpu.link.bandwidth},
    }
    if bound == "compute":
        formats = sorted(gpu.peak, key=lambda dtype: dtype != op.dtype)
        known["compute"] = {f"peak.{d}": gpu.peak[d] for d in formats} | {"boost_clock": gpu.boost_clock}
    before = _terms(cost, op, step)[term]
    for path, value in known.get(bound, {}).items():
        if _terms(_with(cost, path, 2 * value), op, step)[term] < 0.75 * before:
            return f"{place}.{path}", value
    return None


def _crossing(
    cost: StepCost, op: Operator, step: StepShape, term: int, guess: float, place: str
) -> tuple[str, float, int, float] | None:
    """The path and the value of the resource of a term at which the operator's bound changes, to which term, and the
    value over what it is now; None if none within FARTHEST does. `guess` : that factor if the other terms do not depend
    on the resource; below 1, less of it.
    """
    found = _resource(cost, op, step, term, place)
    if found is None:
        return None
    path, now = found
    bound = int(np.argmax(_terms(cost, op, step)))

    def at(factor: float) -> int:
        other = _with(cost, path.removeprefix(f"{place}."), now * factor)
        return int(np.argmax(_terms(other, op, step)))

    near, far = (1.0, FARTHEST) if guess >= 1 else (1.0, 1 / FARTHEST)
    if 1 / FARTHEST < guess < FARTHEST:
        edge = 1.001 if guess >= 1 else 1 / 1.001
        if at(guess * edge) != bound and at(guess / edge) == bound:
            return path, now * guess, at(guess * edge), guess
    if at(far) == bound:
        return None
    for _ in range(20):
        middle = float(np.sqrt(near * far))
        near, far = (middle, far) if at(middle) == bound else (near, middle)
    return path, now * far, at(far), far


def _with(cost: StepCost, path: str, value: float) -> StepCost:
    """The same cost with one rate of its GPU changed: good for `terms` alone, since its tables stay."""
    outer, _, inner = path.partition(".")
    gpu = cost.gpu
    if outer == "peak":
        gpu = replace(gpu, peak={**gpu.peak, inner: value})
    elif outer == "memory":
        gpu = replace(gpu, memory=replace(gpu.memory, bandwidth=value))
    elif outer == "l2":
        gpu = replace(gpu, l2=replace(gpu.l2, bandwidth=value))
    elif outer == "link":
        gpu = replace(gpu, link=replace(gpu.link, bandwidth=value))
    else:
        gpu = replace(gpu, boost_clock=value)
    other = copy(cost)
    other.gpu, other._block = gpu, {}
    if isinstance(cost.profile, Calibrated):
        other.profile = copy(cost.profile)
        other.profile.gpu = gpu
    return other
