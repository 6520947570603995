"""A convex model of a metric over designs, from values and slopes that were simulated, and its best design.

With time made of rates, T = sum of max(a / r1, b / r2, ...) and constants, log T is convex in x = log r. One simulated
slope g at x0 then gives a lower bound everywhere,

    log T(x) >= f0 + p log(1 - s / p + sum_i |g_i| / p exp(sign(g_i) (x_i - x0_i))),    s = sum |g_i|, p = max(1, s)

which is exact for T = c + sum a_i / r_i. The model is the largest of these cuts (Kelley 1960, with curved cuts), and
its best design within the budgets is a convex programme. What a simulation adds to this (memory that ends, waves,
branches of a fitted correction) makes the bound inexact: a cut that lies above what was simulated is lowered to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.varying.designs import Space


@dataclass(frozen=True)
class Cut:
    """A point x, the logarithm of the metric there and its slope, without what a price adds."""

    x: np.ndarray
    value: float
    slope: np.ndarray

    def at(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and slope of the bound at `x`."""
        size = np.abs(self.slope)
        power = max(1.0, float(size.sum()))
        parts = size / power * np.exp(np.sign(self.slope) * (x - self.x))
        inner = max(1.0 - float(size.sum()) / power, 0.0) + float(parts.sum())
        if inner <= 0:  # no slope at all
            return self.value, np.zeros_like(x)
        return self.value + power * math.log(inner), power * np.sign(self.slope) * parts / inner


class Model:
    """The largest of several cuts, and the price of a GPU-hour where it counts and follows from a budget."""

    def __init__(self, space: Space, priced: bool) -> None:
        self.space, self.priced = space, priced
        self.cuts: list[Cut] = []

    def price(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Logarithm of the price and its slope; zeros where it does not count."""
        price = self.space.usd_per_hour(x) if self.priced else None
        if price is None:
            return 0.0, np.zeros(len(x))
        return math.log(price), self.space.price_slope(x)

    def lowered(self, known: Sequence[tuple[np.ndarray, float]], centre: np.ndarray, radius: float) -> list[Cut]:
        """The cuts, each lowered to what was simulated within `radius` of `centre`. known : designs and the logarithms
        of the metric there.
        """
        near = [(x, f - self.price(x)[0]) for x, f in known if np.max(np.abs(x - centre)) <= radius + 1e-9]
        return [
            Cut(cut.x, cut.value - max([0.0, *(cut.at(x)[0] - f for x, f in near)]), cut.slope) for cut in self.cuts
        ]

    def best(self, cuts: Sequence[Cut], centre: np.ndarray, radius: float) -> tuple[np.ndarray, float]:
        """The design with the least model value within `radius` of `centre`, bounds and budgets; and that value."""
        from scipy.optimize import minimize

        space = self.space
        low, high = np.maximum(space.low, centre - radius), np.minimum(space.high, centre + radius)

        def worst(x: np.ndarray) -> float:
            return max(cut.at(x)[0] for cut in cuts) + self.price(x)[0]

        def above(z: np.ndarray) -> np.ndarray:
            return np.array([z[-1] - cut.at(z[:-1])[0] - self.price(z[:-1])[0] for cut in cuts])

        def above_slope(z: np.ndarray) -> np.ndarray:
            price = self.price(z[:-1])[1]
            return np.array([[*(-cut.at(z[:-1])[1] - price), 1.0] for cut in cuts])

        def left(z: np.ndarray) -> np.ndarray:
            budgets = space.budget.limits
            return np.array([-math.log(space.cost(z[:-1], b) / space.totals[b.name]) for b in budgets])

        def left_slope(z: np.ndarray) -> np.ndarray:
            rows = []
            for b in space.budget.limits:
                parts = (space.prices[b.name] * space.values(z[:-1]))[space.free]
                rows.append([*(-parts / space.cost(z[:-1], b)), 0.0])
            return np.array(rows)

        constraints: Any = [
            {"type": "ineq", "fun": above, "jac": above_slope},
            {"type": "ineq", "fun": left, "jac": left_slope},
        ]
        unit = np.array([*np.zeros(len(centre)), 1.0])
        found, value = centre, worst(centre)
        for start in {tuple(centre), tuple(np.clip(cuts[-1].x, low, high))}:
            z = np.array([*start, worst(np.array(start))])
            solved = minimize(
                lambda z: z[-1], z, jac=lambda z: unit, method="SLSQP", constraints=constraints,
                bounds=[*zip(low, high, strict=True), (None, None)], options={"maxiter": 300, "ftol": 1e-12},
            )  # fmt: skip
            x = np.clip(solved.x[:-1], low, high)
            if np.all(np.isfinite(x)) and space.used(x) <= 1 + 1e-6 and worst(x) < value:
                found, value = x, worst(x)
        return found, value
