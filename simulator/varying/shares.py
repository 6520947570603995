"""How far errors of kernels move an elasticity: a resource counts as much as what it speeds up takes of the time.

A run that only the machine decides takes T = sum over kernels of t_k. If kernel k truly takes (1 + d_k) t_k, then

    E = (log sum (1 + d_k) t_k(r (1 + h)) - log sum (1 + d_k) t_k(r (1 - h))) / width

Each d_k lies in the 80 % interval of its kernel's held-out errors; those of different kernels are independent, those of
one kernel's operators go the same way, as in `simulator.interval`. What is not in it: that a kernel might be bound by
something else than it is predicted to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from simulator.interval import HOST_ERROR, KernelError
from simulator.varying.points import Point

PROPORTIONAL = {
    "makespan_s": 1,
    "gpu_hours": 1,
    "usd": 1,
    "usd_per_million_output_tokens": 1,
    "gpu_seconds_per_solved": 1,
    "usd_per_solved": 1,
    "output_tokens_per_s": -1,
    "output_tokens_per_s_per_gpu": -1,
    "requests_per_s": -1,
}
"""Metrics that follow the time, or its inverse, where the machine alone decides it."""


def spread(errors: Mapping[str, KernelError], above: Point, below: Point, width: float) -> tuple[float, float] | None:
    """How far below and above its predicted value the time's elasticity may be; None where no errors are known.

    `above`, `below` : with more and less of the resource. `width` : of the logarithm of the resource between them.
    """
    if not errors:
        return None
    ends = [_by_kernel(errors, point) for point in (above, below)]
    middle = _difference(ends, {}) / width
    lower, upper = 0.0, 0.0
    kernels = {error.kernel: error for error in errors.values()} | {HOST_ERROR.kernel: HOST_ERROR}
    for kernel, error in kernels.items():
        moved = [_difference(ends, {kernel: 1 + d}) / width - middle for d in (-error.low, error.high)]
        lower, upper = math.hypot(lower, min(*moved, 0.0)), math.hypot(upper, max(*moved, 0.0))
    return lower, upper


def _by_kernel(errors: Mapping[str, KernelError], point: Point) -> dict[tuple[str, ...], float]:
    """Seconds of a run by kernel."""
    found: dict[tuple[str, ...], float] = {HOST_ERROR.kernel: point.bounds.get("host", 0.0)}
    for name, op in point.operators.items():
        kernel = errors[name].kernel if name in errors else ("unknown",)
        found[kernel] = found.get(kernel, 0.0) + float(op["seconds"])
    return found


def _difference(ends: list[dict[tuple[str, ...], float]], factors: Mapping[tuple[str, ...], float]) -> float:
    """Of the logarithms of both runs' times, with some kernels' times changed."""
    one, two = (sum(seconds * factors.get(kernel, 1.0) for kernel, seconds in end.items()) for end in ends)
    return math.log(one / two) if one > 0 and two > 0 else 0.0
