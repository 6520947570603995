"""The best model along a frontier, and how far apart two frontiers are: gain at equal cost, saving at equal accuracy.

Arrays in, values out: accuracies are shares of problems (0 to 1), costs have any one unit and rise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MODEL_TIE = 2e-3
"""Accuracy by which another model must be better before it is called the best one (0.2 points)."""
LEAST_ACCURACY = 0.05
"""Savings are looked for at accuracies from here on; below, a problem or two of thirty decide."""
FLAT = 0.01
"""Savings are looked for up to this much below the highest accuracy that both frontiers reach: at the top curves are
flat, and what the last point of accuracy costs says more about the strategies on offer than about attention."""
SETTLED = 0.99
"""Share of a curve's highest accuracy from which on the curve is no longer said to grow."""


@dataclass(frozen=True)
class Span:
    """Where a model is the best of its attention: from the cost `start` to `end`, at accuracies `low` to `high`.

    The cost at which it becomes the best one is that at which its curve crosses that of the model before.
    """

    model: str
    start: float
    end: float
    low: float
    high: float


@dataclass(frozen=True)
class Envelope:
    """The best accuracy of one attention over the models, along the frontier's costs, and the model that gives it."""

    attention: str
    accuracy: np.ndarray
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Gain:
    """Accuracy that one frontier has more than another at the same `cost`: `points` of accuracy (0 to 1), from `dense`
    to `sparse`. dense_affordable: False where the other one can afford nothing there, and its accuracy is 0 for that.
    """

    points: float
    cost: float
    dense: float
    sparse: float
    dense_affordable: bool


@dataclass(frozen=True)
class Saving:
    """How many times less one frontier costs than another at the same `accuracy`.

    low, high : the accuracies that both reach, over which the largest ratio was looked for.
    """

    ratio: float
    accuracy: float
    dense_cost: float
    sparse_cost: float
    low: float
    high: float


@dataclass(frozen=True)
class Growth:
    """How what is chosen grows with the cost C: exponents d log x / d log C, by least squares over `start` to `end`.

    Attributes
    ----------
    budget, tokens, trials : exponents of the KV budget, of the generated tokens of a trial, and of the trials; NaN
        where there is none.
    at_ends : share of the costs at which the mean budget is the smallest or the largest one on offer, where it cannot
        follow the cost.
    """

    start: float
    end: float
    budget: float
    tokens: float
    trials: float
    at_ends: float

    @property
    def budget_doubling(self) -> float:
        """By what the KV budget is multiplied when the cost doubles."""
        return float(2**self.budget)

    @property
    def tokens_doubling(self) -> float:
        """By what all generated tokens, of all trials, are multiplied when the cost doubles."""
        return float(2 ** (self.tokens + self.trials))


def best_models(
    attention: str, models: Sequence[str], heights: np.ndarray, costs: np.ndarray, tie: float = MODEL_TIE
) -> Envelope:
    """The envelope of curves of accuracy, `heights` (models x costs), and where which model is the best.

    The envelope is the best point of any curve at a cost of at most C, so it never falls. A model stays the best one
    until another is better by more than `tie`: small differences are noise, and curves that run together would change
    places at every cost. The change is then placed where the two curves cross, linearly in the logarithm of the cost.
    """
    heights = np.maximum.accumulate(heights, axis=1)
    return Envelope(attention, heights.max(axis=0), tuple(_spans(list(models), heights, costs, tie)))


def _spans(models: list[str], heights: np.ndarray, grid: np.ndarray, tie: float) -> list[Span]:
    """Where which model is the best. A model stays the best one until another is better by more than `tie`."""
    top = heights.max(axis=0)
    solved = np.flatnonzero(top > 0)
    if not len(solved):
        return []
    at = int(solved[0])
    now, starts = int(np.argmax(heights[:, at])), [(float(grid[at]), at)]
    order = [now]
    for i in range(at + 1, len(grid)):
        if heights[now, i] < top[i] - tie:
            new = int(np.argmax(heights[:, i]))
            starts.append((_crossing(heights[now], heights[new], grid, i, starts[-1][1]), i))
            order.append(new)
            now = new
    ends = [start for start, _ in starts[1:]] + [float(grid[-1])]
    log = np.log(grid)
    spans = []
    for model, (start, _), end in zip(order, starts, ends, strict=True):
        low, high = np.interp(np.log([start, end]), log, top)
        spans.append(Span(models[model], start, end, float(low), float(high)))
    return spans


def _crossing(old: np.ndarray, new: np.ndarray, grid: np.ndarray, at: int, least: int) -> float:
    """The cost at which `new` got above `old` for the last time before the place `at`, but not before `least`."""
    ahead = new - old
    i = at
    while i > least and ahead[i - 1] > 0:
        i -= 1
    if i == 0 or ahead[i] - ahead[i - 1] <= 0:
        return float(grid[i])
    share = -ahead[i - 1] / (ahead[i] - ahead[i - 1])
    return float(np.exp(np.log(grid[i - 1]) + np.clip(share, 0, 1) * np.log(grid[i] / grid[i - 1])))


def gain_at(costs: np.ndarray, dense: np.ndarray, sparse: np.ndarray, cost: float) -> float:
    """`sparse` - `dense` at a cost, linearly in its logarithm. NaN outside of the costs."""
    if not costs[0] <= cost <= costs[-1]:
        return float("nan")
    return float(np.interp(np.log(cost), np.log(costs), sparse - dense))


def largest_gain(
    costs: np.ndarray, dense: np.ndarray, sparse: np.ndarray, affordable: np.ndarray | None = None
) -> Gain | None:
    """Where `sparse` is the most above `dense`; None if it is nowhere.

    affordable : whether `dense` can afford anything, by cost. Where it cannot its accuracy counts as 0, as in the
        paper, and the gain says so.
    """
    gain = sparse - dense
    i = int(np.argmax(gain))
    if gain[i] <= 0:
        return None
    there = True if affordable is None else bool(affordable[i])
    return Gain(float(gain[i]), float(costs[i]), float(dense[i]), float(sparse[i]), there)


def cost_at(costs: np.ndarray, accuracy: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The smallest cost at which a curve reaches each accuracy, linearly in its logarithm; NaN where it does not."""
    best = np.maximum.accumulate(accuracy)
    wanted = np.asarray(wanted, dtype=float)
    i = np.minimum(np.searchsorted(best, wanted, side="left"), len(best) - 1)
    before = np.maximum(i - 1, 0)
    rise = best[i] - best[before]
    share = np.where(rise > 0, (wanted - best[before]) / np.where(rise > 0, rise, 1), 1.0)
    log = np.log(costs)
    found = np.exp(log[before] + np.clip(share, 0, 1) * (log[i] - log[before]))
    return np.where(best[-1] >= wanted, found, np.nan)


def saving_at(costs: np.ndarray, dense: np.ndarray, sparse: np.ndarray, accuracy: float) -> float:
    """Cost of `dense` over that of `sparse` at an accuracy; NaN if one of them does not reach it."""
    wanted = np.array([accuracy])
    return float(cost_at(costs, dense, wanted)[0] / cost_at(costs, sparse, wanted)[0])


def largest_saving(
    costs: np.ndarray, dense: np.ndarray, sparse: np.ndarray, least: float = LEAST_ACCURACY
) -> Saving | None:
    """The largest ratio of costs at an accuracy that both reach; None if there is no such accuracy.

    Accuracies are looked at from `least` to `FLAT` below the highest that both reach. One that a curve has from its
    first cost on has no known cost, and is not looked at.
    """
    best = [np.maximum.accumulate(curve) for curve in (dense, sparse)]
    low = max(least, *(float(curve[0]) for curve in best))
    high = min(float(curve[-1]) for curve in best) - FLAT
    if high < low:
        return None
    wanted = np.unique(np.concatenate([*best, [low, high]]))
    wanted = wanted[(wanted >= low) & (wanted <= high)]
    ours, theirs = cost_at(costs, sparse, wanted), cost_at(costs, dense, wanted)
    i = int(np.argmax(theirs / ours))
    return Saving(float(theirs[i] / ours[i]), float(wanted[i]), float(theirs[i]), float(ours[i]), low, high)


def growth(
    costs: np.ndarray, accuracy: np.ndarray, budget: np.ndarray, tokens: np.ndarray, trials: np.ndarray
) -> Growth | None:
    """How budget, tokens and trials grow along a curve, from where it solves anything until it has reached `SETTLED` of
    its highest accuracy. None with fewer than three costs there, or without known choices.
    """
    best = np.maximum.accumulate(accuracy)
    growing = (best > 0) & (best < SETTLED * best[-1]) & np.isfinite(tokens)
    if growing.sum() < 3:
        return None
    log = np.log(costs[growing])
    known = budget[np.isfinite(budget)]
    ends = np.isin(budget[growing], [known.min(), known.max()]).mean() if len(known) else np.nan
    return Growth(
        float(np.exp(log[0])),
        float(np.exp(log[-1])),
        _slope(log, budget[growing]),
        _slope(log, tokens[growing]),
        _slope(log, trials[growing]),
        float(ends),
    )


def _slope(log: np.ndarray, column: np.ndarray) -> float:
    if not np.isfinite(column).all():
        return float("nan")
    return float(np.polyfit(log, np.log(column), 1)[0])
