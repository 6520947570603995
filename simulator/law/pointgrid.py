"""At which lengths, prompts and numbers of trials strategies are simulated, and the costs between these points.

A cost is smooth in all three. Few points are all simulated. Of many, lengths lie on a grid of about a factor 2^(1/2)
(of those asked for, the nearest; with very many, of 2^(1/3)), between which cubic Hermite polynomials that keep the
order (PCHIP) join the logarithms of costs and lengths. Other prompts and numbers of trials are simulated at three
lengths and give factors on that curve: a product, whose error is that of taking their influences apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Point = tuple[int, int, int]
"""Tokens of the prompt and of a trial's output, and trials."""

FEW = 12
"""Points of a strategy's model and attention, up to which each is simulated."""
PER_OCTAVE, PER_OCTAVE_OF_MANY, MANY = 2, 3, 64
"""Lengths of the grid in a factor of two, up to MANY that are asked for and with more."""
PROMPTS, TRIALS = 3, 6
"""Prompts and numbers of trials at which factors are found, at most."""


@dataclass(frozen=True)
class Grid:
    """The points that stand for all those asked for; `whole` if they are all of them.

    Attributes
    ----------
    prompt, trials : of the curve over `lengths`. at : the three lengths, or fewer, of the factors of `prompts` and of
        `counts`, the other prompts and numbers of trials.
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
    count_of_most = int(values[np.argmax(often)])
    prompt = int(np.median(prompts))
    sides = [int(x) for x in np.unique(prompts)]
    if len(sides) > PROMPTS:
        sides = [sides[0], prompt, sides[-1]]
    counts = [int(x) for x in values]
    if len(counts) > TRIALS:
        counts = sorted({int(x) for x in np.rint(np.geomspace(counts[0], counts[-1], TRIALS))} | {count_of_most})
    points = {(prompt, int(n), count_of_most) for n in known}
    points |= {(a, n, count_of_most) for a in sides for n in at} | {(prompt, n, N) for N in counts for n in at}
    return Grid(
        False,
        tuple(sorted(points)),  # type: ignore[arg-type]
        prompt,
        count_of_most,
        tuple(int(n) for n in known),
        at,
        tuple(sides),
        tuple(counts),
    )


def _lengths(asked: np.ndarray) -> np.ndarray:
    """The lengths of the curve, of those asked for if they are not very many."""
    low, high = asked[0], asked[-1]
    many = len(asked) > MANY
    octaves = np.log2(max(high / low, 2))
    count = int(np.ceil((PER_OCTAVE_OF_MANY if many else PER_OCTAVE) * octaves)) + 1
    if len(asked) <= count:
        return asked
    wanted = np.geomspace(low, high, count)
    if many:
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
    a0, count = grid.prompt, grid.trials
    curve = _smooth(grid.lengths, [values[a0, n, count] for n in grid.lengths])
    found = curve(lengths)

    def factor(sides: Sequence[int], point: Callable[[int, int], Point], wanted: np.ndarray, each: bool) -> np.ndarray:
        """Against the curve: at the three lengths for each of `sides`, and linear between sides."""
        scale = np.array(sides, dtype=float) / count if each else np.ones(len(sides))
        ratios = np.stack(
            [
                _smooth(grid.at, [values[point(s, n)] / values[a0, n, count] / k for n in grid.at])(lengths)
                for s, k in zip(sides, scale, strict=True)
            ]
        )
        axis = np.log(np.array(sides, dtype=float)) if each else np.array(sides, dtype=float)
        x = np.log(wanted) if each else wanted.astype(float)
        upper = np.clip(np.searchsorted(axis, x), 1, max(len(axis) - 1, 1))
        if len(axis) == 1:
            return ratios[0]
        share = (x - axis[upper - 1]) / (axis[upper] - axis[upper - 1])
        here = np.arange(len(x))
        return np.asarray((1 - share) * ratios[upper - 1, here] + share * ratios[upper, here])

    if len(grid.prompts) > 1:
        found = found * factor(grid.prompts, lambda a, n: (a, n, count), prompts, False)
    if len(grid.counts) > 1:
        found = found * (trials / count) * factor(grid.counts, lambda N, n: (a0, n, N), trials, True)
    return np.asarray(found)


def _smooth(lengths: Sequence[int], values: Sequence[float]) -> Callable[[np.ndarray], np.ndarray]:
    """PCHIP through logarithms."""
    if len(lengths) == 1:
        return lambda wanted: np.full(len(wanted), values[0])
    from scipy.interpolate import PchipInterpolator

    curve = PchipInterpolator(np.log(lengths), np.log(values))
    return lambda wanted: np.asarray(np.exp(curve(np.log(wanted))))
