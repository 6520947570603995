"""The best design of a space, by full simulations: cutting planes inside a trust region, then neighbours.

Knows nothing of scenarios: `evaluate` gives the metric of many designs. The answer is always a design that was
evaluated; the model only proposes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from simulator.varying.cuts import Cut, Model
from simulator.varying.designs import Space

Evaluate = Callable[[Sequence[np.ndarray]], list[float | None]]
"""The metric of designs, of which less is better and more than zero; None for one that cannot be served."""

STEP, LEAST_STEP = 0.05, 0.01
"""Half of the width of the differences that slopes are taken over: wide enough for steps in a simulation to average
out, and narrower in a small trust region, where a kink may be next to the design."""
KINK = 0.3
"""Slopes on both sides of a design that differ by this belong to two roofs, and their mean to neither."""
RADIUS = 0.7
"""The first trust region: a factor of two."""
SMALLEST = 0.01
GAIN = 1e-4
"""A model's promise below this is noise."""
MOST = 25
LADDER = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Neighbours: a resource that many e-folds up or down, the others scaled to what the budget leaves."""
NEAR = 0.01
TRANSFERS = (0.01, 0.03, 0.1)
"""Parts of a budget that are tried to be spent elsewhere."""
MOST_TRANSFERS = 5


@dataclass(frozen=True)
class Slope:
    """d log(metric) / d log(resource) of the free resources at a design, without what a price adds.

    Attributes
    ----------
    slope : over both sides. down, up : towards less and towards more; the other one's where a side is out of bounds or
        cannot be served. step : how far to each side.
    """

    x: np.ndarray
    value: float
    slope: np.ndarray
    down: np.ndarray
    up: np.ndarray
    step: float

    @property
    def stepped(self) -> np.ndarray:
        """Where the two sides differ so much that the mean says nothing: at a step or a kink of the metric."""
        return np.asarray(np.abs(self.up - self.down) > KINK)


@dataclass
class Search:
    """What a search has seen. known : evaluated designs that can be served, and the logarithm of the metric.
    rejected : designs that cannot. rounds : cuts that were added.
    """

    space: Space
    evaluate: Evaluate
    model: Model
    known: list[tuple[np.ndarray, float]] = field(default_factory=list)
    rejected: int = 0
    rounds: int = 0
    slopes: list[Slope] = field(default_factory=list)

    def ask(self, designs: Sequence[np.ndarray]) -> list[float | None]:
        """Logarithms of the metric."""
        found: list[float | None] = []
        for x, value in zip(designs, self.evaluate(designs), strict=True):
            if value is None or not (value > 0 and math.isfinite(value)):
                found.append(None)
                self.rejected += 1
            else:
                found.append(math.log(value))
                self.known.append((x, math.log(value)))
        return found

    @property
    def best(self) -> tuple[np.ndarray, float]:
        """The best design that fits the budgets."""
        return min((k for k in self.known if self.space.fits(k[0])), key=lambda k: k[1])

    def slope_at(self, x: np.ndarray, value: float, step: float = STEP) -> Slope:
        """By central differences, one-sided at a bound or next to what cannot be served. Where it is known of a step
        that is not twice as wide, it is not simulated again.
        """
        for known in self.slopes:
            if np.array_equal(known.x, x) and known.step < 2 * step:
                return known
        pairs = []
        for j in range(len(x)):
            ends = []
            for sign in (1.0, -1.0):
                moved = x.copy()
                moved[j] = np.clip(x[j] + sign * step, self.space.low[j], self.space.high[j])
                ends.append(self.space.whole(moved))
            pairs.append(ends)
        values = self.ask([end for ends in pairs for end in ends])
        slope, down, up = (np.zeros(len(x)) for _ in range(3))
        for j, ends in enumerate(pairs):
            points = [(x[j], value)] + [
                (end[j], v) for end, v in zip(ends, values[2 * j : 2 * j + 2], strict=True) if v is not None
            ]
            points.sort()
            sides = [(fb - fa) / (b - a) for (a, fa), (b, fb) in pairwise(points) if b > a]
            (a, fa), (b, fb) = points[0], points[-1]
            if sides:
                slope[j], down[j], up[j] = (fb - fa) / (b - a), sides[0], sides[-1]
        if np.any(np.abs(up - down) > KINK) and step > LEAST_STEP:
            return self.slope_at(x, value, LEAST_STEP)
        price = self.model.price(x)[1]
        found = Slope(x, value, slope - price, down - price, up - price, step)
        self.slopes.append(found)
        self.model.cuts.append(Cut(x, value - self.model.price(x)[0], found.slope))
        self.rounds += 1
        return found


def starts(space: Space) -> list[np.ndarray]:
    """Designs to begin with: the scenario's GPU brought to the budget, and one with twice as much of each resource."""
    first = space.spend(np.zeros(len(space.free)))
    found = [first]
    for j in range(len(space.free)):
        more = first.copy()
        more[j] = min(more[j] + math.log(2.0), space.high[j])
        design = space.spend(more, held=(j,))
        found.append(design if space.fits(design) else space.spend(more))
    return [x for i, x in enumerate(found) if not any(np.array_equal(x, y) for y in found[:i])]


def descend(search: Search, radius: float = RADIUS) -> None:
    """From the best design known to one that the model cannot improve on."""
    space, model = search.space, search.model
    for _ in range(MOST):
        centre, value = search.best
        step = min(STEP, max(radius / 4, LEAST_STEP))
        search.slope_at(centre, value, step)
        cuts = model.lowered(search.known, centre, radius)
        proposed, promise = model.best(cuts, centre, radius)
        design = _realised(space, proposed)
        if np.array_equal(design, centre):
            return
        [got] = search.ask([design])
        if value - promise < GAIN:  # not worth another slope
            return
        gain = -math.inf if got is None else value - got
        if got is not None and gain < 0.1 * (value - promise):
            search.slope_at(design, got, step)  # a null step: what was wrong is learned
        if gain < 0.1 * (value - promise):
            radius *= 0.4
        elif gain > 0.7 * (value - promise):
            radius = min(2 * radius, 2 * RADIUS)
        if radius < SMALLEST:
            return


def _realised(space: Space, x: np.ndarray) -> np.ndarray:
    """A design of whole SMs that uses what `x` used of the budgets."""
    whole = space.whole(x)
    return space.spend(x) if space.used(whole) > 1 or space.used(x) > 1 - 1e-5 else whole


@dataclass(frozen=True)
class Flat:
    """How far a resource can be moved, the others giving or taking what the budget then asks for, before the metric is
    NEAR worse: the outermost simulated values that are not. open_low, open_high : still so at the last one tried.
    """

    low: float
    high: float
    open_low: bool
    open_high: bool


def neighbours(search: Search) -> list[Flat]:
    """How flat the surroundings of the best design are, by resource. A better one among them becomes the best."""
    space = search.space
    best, value = search.best
    reach = {(j, sign): best[j] for j in range(len(best)) for sign in (-1, 1)}
    going = set(reach)
    for step in LADDER:
        asked = {}
        for j, sign in sorted(going):
            moved = best.copy()
            moved[j] += sign * step
            if not space.low[j] <= moved[j] <= space.high[j]:
                continue
            design = space.spend(moved, held=(j,))
            if space.fits(design):
                asked[j, sign] = design
        found = dict(zip(asked, search.ask(list(asked.values())), strict=True))
        going = {key for key, f in found.items() if f is not None and f - value <= math.log1p(NEAR)}
        for j, sign in going:
            reach[j, sign] = asked[j, sign][j]
    now = space.now[space.free]
    ends = [(float(now[j] * math.exp(reach[j, -1])), float(now[j] * math.exp(reach[j, 1]))) for j in range(len(best))]
    return [Flat(low, high, (j, -1) in going, (j, 1) in going) for j, (low, high) in enumerate(ends)]


def transfer(search: Search) -> None:
    """Moves parts of the budgets from the resource that brings the least for them to the one that brings the most, as
    long as that helps: what the model, lowered by steps of the metric, no longer promises.
    """
    space = search.space
    for _ in range(MOST_TRANSFERS):
        x, value = search.best
        found = search.slope_at(x, value)
        slope = found.slope + search.model.price(x)[1]
        shares = np.sum([space.shares(x, b)[space.free] for b in space.budget.limits], axis=0)
        brings = -slope / np.maximum(shares, 1e-12)
        giving = np.where(x > space.low + 1e-6, brings, math.inf)
        taking = np.where(x < space.high - 1e-6, brings, -math.inf)
        j, i = int(np.argmin(giving)), int(np.argmax(taking))
        if i == j or not taking[i] > giving[j]:
            return
        designs = []
        for part in TRANSFERS:
            moved = x.copy()
            moved[j] = math.log(max(math.exp(x[j]) * (1 - part / shares[j]), math.exp(space.low[j])))
            freed = shares[j] * (1 - math.exp(moved[j] - x[j]))
            moved[i] = min(x[i] + math.log1p(freed / shares[i]), space.high[i])
            moved = space.whole(moved)
            designs.append(moved if space.fits(moved) else space.spend(moved, held=(j,)))
        search.ask([design for design in designs if space.fits(design)])
        if search.best[1] >= value - GAIN:
            return


def optimise(space: Space, evaluate: Evaluate, priced: bool, begin: Sequence[np.ndarray] = ()) -> Search:
    """Search from several starts, and from designs in `begin`. Without one that can be served, `known` is empty."""
    search = Search(space, evaluate, Model(space, priced))
    search.ask([*starts(space), *begin])
    if any(space.fits(x) for x, _ in search.known):
        descend(search)
    return search
