"""Lagrange's multipliers of a design: what shares of the budgets are worth there, resource by resource."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from simulator.varying.designs import Space


def multipliers(
    space: Space, x: np.ndarray, slope: np.ndarray, smooth: np.ndarray
) -> tuple[dict[str, float], tuple[float | None, ...]]:
    """What shares of the budgets are worth at a design, and what each resource brings for a share of them.

    At the best design -slope_i = sum over budgets of worth_b x share_bi for every resource off its bounds (Karush,
    Kuhn, Tucker). With one budget a resource's return is -slope / share; with several the shares are weighted by the
    worths.
    smooth : which resources to go by.
    """
    from scipy.optimize import nnls

    tight = [b for b in space.budget.limits if space.cost(x, b) > space.totals[b.name] * (1 - 1e-3)]
    off = (x > space.low + 1e-6) & (x < space.high - 1e-6)
    off = off & smooth if (off & smooth).any() else off
    worth = {b.name: 0.0 for b in space.budget.limits}
    if tight and off.any():
        matrix = np.array([space.shares(x, b)[space.free][off] for b in tight]).T
        fitted, _ = nnls(matrix, np.maximum(-slope[off], 0.0))
        worth |= {b.name: float(w) for b, w in zip(tight, fitted, strict=True)}
    return worth, returns_of(space, x, slope, worth)


def returns_of(space: Space, x: np.ndarray, slope: np.ndarray, worth: Mapping[str, float]) -> tuple[float | None, ...]:
    """-slope over the shares of the budgets, these weighted by what they are worth (alike if nothing is); None where
    nothing is spent.
    """
    total, count = sum(worth.values()), len(worth)
    parts = [
        space.shares(x, b)[space.free] * (worth[b.name] / total if total else 1 / count) for b in space.budget.limits
    ]
    mixed = np.sum(parts, axis=0)
    return tuple(float(-s / m) if m > 0 else None for s, m in zip(slope, mixed, strict=True))
