"""Designs: GPUs that differ from a scenario's in the resources that a budget puts a cost on.

A design is a vector of logarithms of factors on the scenario's GPU, one for each resource, so that cost is a sum of
exponentials and a time that is made of rates is convex. Knows what designs cost and how a scenario gets one; which is
best is the business of `descent`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwspecs.errors import near_matches
from hwspecs.gpu import Gpu
from hwspecs.units import format_quantity
from simulator.varying.budget import Budget, Kind, Limit
from simulator.varying.paths import assignment

DEFAULT_BOUND = 4.0
"""Without bounds a resource lies between this part and this many times the scenario's GPU's."""
WHOLE = ("sms",)
LATER = 1e-9
"""Relative overspending that is rounding."""


@dataclass(frozen=True)
class Resource:
    """A resource of the scenario's GPU. now : its value, SI. low, high : bounds, SI. free : whether it may change."""

    kind: Kind
    now: float
    low: float
    high: float

    @property
    def path(self) -> str:
        return self.kind.path

    @property
    def whole(self) -> bool:
        return self.path in WHOLE

    @property
    def free(self) -> bool:
        return self.low < self.high

    def words(self, value: float) -> str:
        """A value for people."""
        return f"{value:,.0f}" if not self.kind.unit else format_quantity(value, self.kind.unit)


class Space:
    """The designs that a budget allows around a scenario's GPU.

    Attributes
    ----------
    resources : those that cost something. free : indices of those that may change; a design x has one entry for each
        of them. totals : by budget, in its unit. base_costs : what the scenario's GPU costs of each.
    """

    def __init__(self, gpu: Gpu, budget: Budget) -> None:
        self.gpu, self.budget = gpu, budget
        self.resources = [_resource(gpu, budget, kind) for kind in budget.kinds.values()]
        self.free = [i for i, r in enumerate(self.resources) if r.free]
        if not self.free:
            raise budget.error(
                "no resource may change", "bounds", allowed="bounds with LO < HI of one of them at least"
            )
        self.now = np.array([r.now for r in self.resources])
        self.low = np.log([self.resources[i].low / self.resources[i].now for i in self.free])
        self.high = np.log([self.resources[i].high / self.resources[i].now for i in self.free])
        self.prices = {
            limit.name: np.array([limit.costs.get(r.path, 0.0) for r in self.resources]) for limit in budget.limits
        }
        base = np.zeros(len(self.free))
        self.base_costs = {limit.name: self.cost(base, limit) for limit in budget.limits}
        self.totals = {limit.name: self._total(limit) for limit in budget.limits}
        for limit in budget.limits:
            self._check(limit)

    def _total(self, limit: Limit) -> float:
        return self.base_costs[limit.name] * limit.total_factor if limit.total is None else limit.total

    def _check(self, limit: Limit) -> None:
        least = self.cost(self.low, limit)
        if least > self.totals[limit.name] * (1 + LATER):
            problem = "the budget is too small for the lower bounds"
            lows = zip(self.resources, self.values(self.low), strict=True)
            parts = ", ".join(f"{r.words(v)} {r.kind.title}" for r, v in lows if limit.costs.get(r.path))
            found, unit = f"{self.totals[limit.name]:g}", f" {limit.unit}" if limit.unit else ""
            allowed = f"at least {least:.6g}{unit} for {parts}; or lower bounds"
            raise self.budget.error(problem, f"budgets.{limit.name}.total", f"{found}{unit}", allowed)

    # --- a design ---------------------------------------------------------------------------------------------------

    def values(self, x: np.ndarray) -> np.ndarray:
        """Of all resources, SI, those that do not change included."""
        values = self.now.copy()
        values[self.free] *= np.exp(x)
        return values

    def cost(self, x: np.ndarray, limit: Limit) -> float:
        """Of a budget, in its unit, the fixed part included."""
        return float(limit.fixed + self.prices[limit.name] @ self.values(x))

    def shares(self, x: np.ndarray, limit: Limit) -> np.ndarray:
        """Part of the total that each resource takes; they and the fixed part sum to 1 where all is spent."""
        return self.prices[limit.name] * self.values(x) / self.totals[limit.name]

    def used(self, x: np.ndarray) -> float:
        """The largest part of a total that is spent."""
        return max(self.cost(x, limit) / self.totals[limit.name] for limit in self.budget.limits)

    def fits(self, x: np.ndarray) -> bool:
        """Whether a design is within all budgets and bounds."""
        inside = bool(np.all(x >= self.low - LATER) and np.all(x <= self.high + LATER))
        return inside and self.used(x) <= 1 + LATER

    def usd_per_hour(self, x: np.ndarray) -> float | None:
        """The price that follows from a budget; None where it does not."""
        pricing = self.budget.pricing
        if pricing is None:
            return None
        limit = next(limit for limit in self.budget.limits if limit.name == pricing.limit)
        return pricing.fixed + pricing.per_unit * self.cost(x, limit)

    def price_slope(self, x: np.ndarray) -> np.ndarray:
        """d log(usd_per_hour) / dx of the free resources; zeros where the price does not follow from a budget."""
        pricing, price = self.budget.pricing, self.usd_per_hour(x)
        if pricing is None or price is None:
            return np.zeros(len(self.free))
        return np.asarray(pricing.per_unit * (self.prices[pricing.limit] * self.values(x))[self.free] / price)

    def whole(self, x: np.ndarray) -> np.ndarray:
        """With whole numbers where a resource has them."""
        x = x.copy()
        for j, i in enumerate(self.free):
            r = self.resources[i]
            if r.whole:
                low, high = math.ceil(r.low - 1e-9), math.floor(r.high + 1e-9)
                x[j] = math.log(min(max(round(r.now * math.exp(x[j])), low), high) / r.now)
        return x

    def spend(self, x: np.ndarray, held: Sequence[int] = ()) -> np.ndarray:
        """`x` with all free resources but `held` (and those of whole numbers) times one factor, so that the tightest
        budget is used up, as far as the bounds let it. A design that is far off comes within the budget this way.
        """
        x = self.whole(np.clip(x, self.low, self.high))
        moving = np.array([j not in held and not self.resources[i].whole for j, i in enumerate(self.free)])
        if not moving.any():
            return x
        low, high = -20.0, 20.0
        for _ in range(80):
            middle = (low + high) / 2
            if self.used(np.clip(x + middle * moving, self.low, self.high)) <= 1:
                low = middle
            else:
                high = middle
        return np.clip(x + low * moving, self.low, self.high)

    def sets(self, x: np.ndarray) -> tuple[str, ...]:
        """The assignments that give a scenario this GPU."""
        texts = []
        for r, value in zip(self.resources, self.values(x), strict=True):
            if r.free:
                texts += [assignment(f"gpu.{path}", text) for path, text in self._moved(r, value).items()]
        return (*texts, *self.price_sets(x))

    def price_sets(self, x: np.ndarray) -> tuple[str, ...]:
        """The assignments that give the scenario's GPU the price of a design, if prices follow from a budget."""
        price = self._price(x) or {}
        return tuple(assignment(f"gpu.price.{key}", value) for key, value in price.items())

    def _price(self, x: np.ndarray) -> dict[str, Any] | None:
        """The price of a design as a GPU file has it; None where prices do not follow from a budget."""
        price, pricing = self.usd_per_hour(x), self.budget.pricing
        if price is None or pricing is None:
            return None
        return {"usd_per_hour": price, "date": pricing.date or (self.gpu.price.date if self.gpu.price else "")}

    def _moved(self, r: Resource, value: float) -> dict[str, Any]:
        """Paths and values of what a resource is; of a format's rate all formats of the matrix units."""
        head, _, dtype = r.path.partition(".")
        if head == "peak" and dtype != "fp32":
            factor = float(value) / r.now
            return {f"peak.{d}": f"{v * factor!r} FLOP/s" for d, v in self.gpu.peak.items() if d != "fp32"}
        return {r.path: f"{float(value)!r} {r.kind.unit}" if r.kind.unit else round(value)}

    def gpu_file(self, x: np.ndarray) -> dict[str, Any]:
        """The design as a GPU file's content, which says what differs from the scenario's GPU."""
        content: dict[str, Any] = {"base": self.gpu.base or self.gpu.name}
        for r, value in zip(self.resources, self.values(x), strict=True):
            for path, text in self._moved(r, value).items() if r.free else ():
                head, _, last = path.partition(".")
                if last:
                    content.setdefault(head, {})[last] = text
                else:
                    content[head] = text
        if (price := self._price(x)) is not None:
            content["price"] = price
        return content


def _resource(gpu: Gpu, budget: Budget, kind: Kind) -> Resource:
    head, _, last = kind.path.partition(".")
    place = f"budgets.*.costs.{kind.path}"
    if head == "peak":
        if last not in gpu.peak:
            allowed = near_matches(kind.path, [f"peak.{d}" for d in gpu.peak])
            raise budget.error(f"{gpu.name} does not compute in this format", place, kind.path, allowed)
        now = gpu.peak[last]
    else:
        part = getattr(gpu, head)
        if part is None:
            raise budget.error(f"nothing is known of {kind.title} of {gpu.name}", place, kind.path, "without it")
        now = float(getattr(part, last) if last else part)
    bound = budget.bounds.get(kind.path)
    if bound is None:
        low, high = now / DEFAULT_BOUND, now * DEFAULT_BOUND
    elif bound.factors:
        low, high = now * bound.low, now * bound.high
    else:
        low, high = bound.low, bound.high
    if kind.path in WHOLE and not (bound is not None and bound.fixed):
        low, high = float(max(math.ceil(low - 1e-9), 1)), float(math.floor(high + 1e-9))
        if low > high:
            raise budget.error("empty bounds", f"bounds.{kind.path}", f"{low:g}..{high:g}", "whole numbers")
    return Resource(kind, now, low, high)
