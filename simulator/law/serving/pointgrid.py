"""At which lengths, prompts and numbers of trials strategies are simulated, and the costs between these points.

A cost is smooth in all three. Few points are all simulated. Of many, lengths lie on a grid of about a factor 2^(1/2),
and 2 among the shortest (of those asked for, the nearest, if they are not very many), between which cubic Hermite
polynomials that keep the order (PCHIP) join the logarithms of costs and lengths. Other prompts and numbers of trials
are simulated at three lengths and give factors on that curve, linear in the prompt and in 1 / trials: what is done
once for a problem is shared by so many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Point = tuple[int, int, int]
"""Tokens of the prompt and of a trial's output, and trials."""

FEW = 12
"""Points of a strategy's model and attention, up to which each is simulated."""
FINE, MANY = 4, 64
"""Octaves below the longest in which lengths are a factor 2^(1/2) apart, and lengths asked for up to which the grid is
made of them."""
PROMPTS, TRIALS = 3, 4
"""Prompts and numbers of trials of factors, at most."""


@dataclass(frozen=True)
class Grid:
    """The points that stand for all those asked for; `whole` if they are all of them.

    Attributes
    ----------
    prompt, trials : of the curve over `lengths`. at : the three lengths, or fewer, of the factors of `prompts` and
        `counts`, prompts and numbers of trials.
    """

    whole: bool
    points: tuple[Point, ...]
    prompt: int = 0
    trials: int = 0
    lengths: tuple[int, ...] = ()
    at: tuple[int, ...] = ()
    prompts: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()


def make_grid(prompts: np.ndarray, lengths: np.ndarray, trials: np.ndarray) -> Grid:
    """The points to simulate for strategies with these whole numbers, one entry each."""
    every = tuple(map(tuple, np.unique(np.stack([prompts, lengths, trials], axis=1), axis=0).tolist()))
    if len(every) <= FEW:
        return Grid(True, every)
    known = _lengths(np.unique(lengths))
    low, high = int(known[0]), int(known[-1])
    at = tuple(sorted({low, int(known[len(known) // 2]), high}))
    values, often = np.unique(trials, return_counts=True)
    usual = int(values[np.argmax(often)])
    sides, counts = (_some(np.unique(x), most) for x, most in ((prompts, PROMPTS), (trials, TRIALS)))
    prompt = sides[len(sides) // 2]
    points = {(prompt, int(n), usual) for n in known} | {(a, n, N) for a in sides for n in at for N in counts}
    return Grid(False, tuple(sorted(points)), prompt, usual, tuple(int(n) for n in known), at, sides, counts)


def _some(values: np.ndarray, most: int) -> tuple[int, ...]:
    """At most so many of the values, the outer ones among them, about equal factors apart."""
    if len(values) > most:
        wanted = np.geomspace(values[0], values[-1], most)
        values = np.unique(values[np.argmin(np.abs(np.log(values)[:, None] - np.log(wanted)[None, :]), axis=0)])
    return tuple(int(x) for x in values)


def _lengths(asked: np.ndarray) -> np.ndarray:
    """The lengths of the curve, of those asked for if they are not very many."""
    octaves = float(np.log2(asked[-1] / asked[0]))
    fine = np.arange(0, min(octaves, FINE), 0.5)
    below = np.concatenate([fine, np.arange(FINE, octaves, 1.0), [octaves]])
    if len(asked) <= len(below):
        return asked
    wanted = asked[-1] * 2.0**-below
    if len(asked) > MANY:
        return np.unique(np.rint(wanted).astype(int))
    return np.unique(asked[np.argmin(np.abs(np.log(asked)[:, None] - np.log(wanted)[None, :]), axis=0)])


def evaluate(
    grid: Grid, values: Mapping[Point, float], prompts: np.ndarray, lengths: np.ndarray, trials: np.ndarray
) -> np.ndarray:
    """A cost (> 0, of a problem) at the given points, float64, from `values` at those of the grid."""
    if grid.whole:
        where = {point: i for i, point in enumerate(grid.points)}
        rows = zip(prompts.tolist(), lengths.tolist(), trials.tolist(), strict=True)
        table = np.array([values[point] for point in grid.points])
        return table[np.fromiter((where[row] for row in rows), dtype=int, count=len(prompts))]
    curve = {n: values[grid.prompt, n, grid.trials] / grid.trials for n in grid.lengths}
    found = trials * _smooth(list(curve), list(curve.values()))(lengths)
    if len(grid.prompts) * len(grid.counts) > 1:
        shares = np.zeros((len(grid.prompts), len(grid.counts), len(lengths)))
        for i, a in enumerate(grid.prompts):
            for j, count in enumerate(grid.counts):
                ratios = [values[a, n, count] / count / curve[n] for n in grid.at]
                shares[i, j] = _smooth(grid.at, ratios)(lengths)
        # In the order of 1 / trials.
        by_count = _between(1 / np.array(grid.counts[::-1]), shares[:, ::-1].transpose(1, 0, 2), 1 / trials)
        found = found * _between(np.array(grid.prompts, dtype=float), by_count, prompts.astype(float))
    return np.asarray(found)


def _between(knots: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Linear interpolation along the first axis of `values` at `wanted`, one for each entry of the last axis."""
    if len(knots) == 1:
        return np.asarray(values[0])
    upper = np.clip(np.searchsorted(knots, wanted), 1, len(knots) - 1)
    share = (wanted - knots[upper - 1]) / (knots[upper] - knots[upper - 1])
    here = np.arange(len(wanted))
    low, high = (np.moveaxis(values, -1, 0)[here, at] for at in (upper - 1, upper))
    share = share.reshape(-1, *[1] * (low.ndim - 1))
    return np.moveaxis((1 - share) * low + share * high, 0, -1)


def _smooth(lengths: Sequence[int], values: Sequence[float]) -> Callable[[np.ndarray], np.ndarray]:
    """PCHIP through logarithms."""
    if len(lengths) == 1:
        return lambda wanted: np.full(len(wanted), values[0])
    from scipy.interpolate import PchipInterpolator

    curve = PchipInterpolator(np.log(lengths), np.log(values))
    return lambda wanted: np.asarray(np.exp(curve(np.log(wanted))))
