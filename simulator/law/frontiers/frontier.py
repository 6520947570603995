"""Frontiers of a strategy table: the best accuracy at a cost, by model and over the models, with and without sparse
attention, and what the two differ by.

For a cost C, every problem takes the strategy of the best accuracy among those that cost at most C, and the curve is
the mean over the problems, 0 where nothing is affordable: the procedure of the paper's figures (arXiv 2506.05333;
public code, cost_model/*/frontier_*.ipynb). The envelope of an attention is the best of its models' curves, one model
for all problems. Costs may have any unit. What is computed on a frontier (gains, savings, growth) is in
`simulator.law.frontiers.envelopes`; pictures are in `simulator.law.frontiers.frontierplot`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwspecs.errors import InputError
from simulator.law.frontiers.choices import TIE, best_within, cost_grid, known_rows, uneven_notes
from simulator.law.frontiers.envelopes import MODEL_TIE, Envelope, best_models
from simulator.law.strategies import WHOLE

POINTS = 200
"""Costs at which a frontier is computed, where none are given."""


@dataclass(frozen=True)
class Curve:
    """The frontier of one model under one attention, along the costs of its `Frontier` (arrays of that length).

    Attributes
    ----------
    accuracy : mean over the problems of the best affordable accuracy, 0 where nothing is affordable.
    affordable : share of the problems for which some strategy is affordable.
    budget, tokens, trials : of what is chosen (KV budget in tokens, generated tokens of a trial, trials): geometric
        means over the problems with an accuracy above 0; NaN where there is none, and `budget` with dense attention.
    problems : how many problems the mean is over; 1 for a benchmark as a whole.
    whole : the curve was given as such, accuracy against cost; nothing is known of the choices behind it.
    """

    model: str
    attention: str
    accuracy: np.ndarray
    affordable: np.ndarray
    budget: np.ndarray
    tokens: np.ndarray
    trials: np.ndarray
    problems: int
    whole: bool = False


@dataclass(frozen=True)
class Frontier:
    """Curves by model and attention, and envelopes by attention, on common `costs` (rising, in any one unit)."""

    costs: np.ndarray
    curves: tuple[Curve, ...]
    envelopes: tuple[Envelope, ...]
    notes: tuple[str, ...] = ()

    def curve(self, model: str, attention: str) -> Curve:
        """KeyError if there is no such curve."""
        found = [c for c in self.curves if (c.model, c.attention) == (model, attention)]
        if not found:
            raise KeyError((model, attention))
        return found[0]

    def envelope(self, attention: str) -> Envelope:
        """KeyError if nothing has this attention."""
        found = [e for e in self.envelopes if e.attention == attention]
        if not found:
            raise KeyError(attention)
        return found[0]

    @property
    def models(self) -> tuple[str, ...]:
        """Names, in the order in which the table has them."""
        return tuple(dict.fromkeys(c.model for c in self.curves))

    @property
    def sizes(self) -> tuple[str, ...]:
        """Names of the models, the one of the fewest active parameters first."""
        from workloads.model import load_model

        return tuple(sorted(self.models, key=lambda name: load_model(name).active_parameters))

    def affordable(self, attention: str) -> np.ndarray:
        """By cost, whether anything of an attention is affordable for any problem."""
        return np.max([c.affordable for c in self.curves if c.attention == attention], axis=0) > 0

    @property
    def sparse(self) -> tuple[str, ...]:
        """Attentions that are not dense."""
        return tuple(e.attention for e in self.envelopes if e.attention != "dense")

    def frame(self) -> Any:
        """The curves as a pandas data frame: one row a cost of a curve, and those of the envelopes with model ''."""
        import pandas as pd

        parts = []
        for curve in self.curves:
            columns = {name: getattr(curve, name) for name in ("accuracy", "affordable", "budget", "tokens", "trials")}
            parts.append(
                pd.DataFrame({"model": curve.model, "attention": curve.attention, "cost": self.costs} | columns)
            )
        for envelope in self.envelopes:
            parts.append(
                pd.DataFrame(
                    {"model": "", "attention": envelope.attention, "cost": self.costs, "accuracy": envelope.accuracy}
                )
            )
        return pd.concat(parts, ignore_index=True)


def frontier(
    table: Any,
    cost: np.ndarray,
    *,
    costs: Sequence[float] | np.ndarray | None = None,
    points: int = POINTS,
    smooth: int = 1,
    interpolate: bool = False,
    whole: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]] | None = None,
    per_problem: bool = True,
    tie: float = MODEL_TIE,
) -> Frontier:
    """Frontiers of a strategy table.

    Parameters
    ----------
    table : strategy table (`simulator.law.strategies`), as a pandas data frame. Of a model and attention with rows for
        problems those are taken, and the rows of the benchmark as a whole otherwise. Rows whose accuracy is NaN are
        left out.
    cost : what each row costs per problem, in any unit.
    costs : at which costs to compute it; else `points` of them, evenly in the logarithm over all that rows cost.
    smooth : costs over which a curve is averaged, an odd number; 1 for none, 3 for the paper's figures.
    interpolate : rows of the benchmark as a whole are points of a line, accuracy against log cost, and not separate
        strategies. For digitised curves.
    whole : further curves, given as a whole: (model, attention) -> costs and accuracies in the unit of `cost`.
    per_problem : False to choose one strategy for all problems: the mean of its accuracies against that of its costs.
    tie : accuracy by which another model must be better before it is called the best one.

    Complexity: O(R log R) for R rows, and O(problems x models x costs).

    Raises
    ------
    InputError : no row with a known accuracy, a cost that is negative or not a number, costs that do not rise, an even
        number of costs to smooth over.
    """
    if smooth < 1 or smooth % 2 == 0:
        raise InputError("a curve is smoothed over an odd number of costs", found=smooth, allowed="1, 3, 5, ...")
    rows, cost = known_rows(table, cost)
    lines = dict(whole or {})
    grid = cost_grid(costs, points, [cost, *(np.asarray(line[0], dtype=float) for line in lines.values())])
    curves = [] if rows.empty else _table_curves(rows, cost, grid, per_problem, interpolate)
    curves += [_line_curve(key, line, grid) for key, line in lines.items()]
    if smooth > 1:
        curves = [_smoothed(curve, smooth) for curve in curves]
    attentions = sorted(dict.fromkeys(c.attention for c in curves), key=lambda kind: kind != "dense")
    envelopes = tuple(_envelope(kind, curves, grid, tie) for kind in attentions)
    return Frontier(grid, tuple(curves), envelopes, tuple(uneven_notes(rows)) if per_problem else ())


def frame_frontier(frame: Any, **options: Any) -> Frontier:
    """The frontier of curves that are given as such, in a data frame of model, attention, cost and accuracy.

    Takes the options `costs`, `points`, `smooth` and `tie` of `frontier`; the default costs are those of the curves.
    """
    from simulator.law.strategies import COLUMNS

    lines = {
        (str(model), str(attention)): (rows["cost"].to_numpy(dtype=float), rows["accuracy"].to_numpy(dtype=float))
        for (model, attention), rows in frame.groupby(["model", "attention"], sort=False)
    }
    nothing = frame.iloc[:0].reindex(columns=list(COLUMNS))
    return frontier(nothing, np.zeros(0), whole=lines, **options)


def _table_curves(rows: Any, cost: np.ndarray, grid: np.ndarray, per_problem: bool, interpolate: bool) -> list[Curve]:
    curves = []
    keys = rows["model"].astype(str) + "\0" + rows["attention"].astype(str)
    numbers = {name: rows[name].to_numpy(dtype=float) for name in ("accuracy", "budget", "tokens", "trials")}
    problem = rows["problem"].to_numpy(dtype=object)
    for key, index in keys.groupby(keys, sort=False).indices.items():
        model, attention = str(key).split("\0")
        index = np.sort(index)
        of_problem = index[problem[index] != WHOLE]
        if len(of_problem) and per_problem:
            curves.append(_problem_curve(model, attention, of_problem, problem, cost, numbers, grid))
            continue
        of_whole = index[problem[index] == WHOLE]
        if not len(of_whole):
            raise InputError(
                f"{model} with {attention} attention is known by problem only", allowed="rows of the whole benchmark"
            )
        if interpolate:
            line = _interpolated(cost[of_whole], numbers["accuracy"][of_whole], grid)
            curves.append(_known_line(model, attention, line, of_whole, cost, numbers, grid))
        else:
            whole = np.full(len(problem), WHOLE, dtype=object)
            curves.append(_problem_curve(model, attention, of_whole, whole, cost, numbers, grid))
    return curves


def _problem_curve(
    model: str,
    attention: str,
    index: np.ndarray,
    problem: np.ndarray,
    cost: np.ndarray,
    numbers: Mapping[str, np.ndarray],
    grid: np.ndarray,
) -> Curve:
    """The mean over the problems of what each reaches with the strategies `index`."""
    names = list(dict.fromkeys(problem[index]))
    solved, affordable = np.zeros(len(grid)), np.zeros(len(grid))
    logs = {name: np.zeros(len(grid)) for name in ("budget", "tokens", "trials")}
    counted = np.zeros(len(grid))
    for name in names:
        mine = index[problem[index] == name]
        accuracy = numbers["accuracy"][mine]
        best = best_within(cost[mine], accuracy, grid)
        choice = mine[best_within(cost[mine], accuracy, grid, TIE)]
        there = best >= 0
        reached = np.where(there, accuracy[best], 0.0)
        solved += reached
        affordable += there
        counts = reached > 0
        counted += counts
        for column, total in logs.items():
            total[counts] += np.log(np.maximum(numbers[column][choice[counts]], 1e-300))
    means = {column: _geometric(total, counted) for column, total in logs.items()}
    if attention == "dense":
        means["budget"] = np.full(len(grid), np.nan)
    chosen = (means["budget"], means["tokens"], means["trials"])
    return Curve(model, attention, solved / len(names), affordable / len(names), *chosen, problems=len(names))


def _geometric(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count > 0, np.exp(total / np.maximum(count, 1)), np.nan)


def _interpolated(cost: np.ndarray, accuracy: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The best accuracy up to each cost of a line given by points; NaN before the first of them."""
    order = np.argsort(cost, kind="stable")
    best = np.maximum.accumulate(accuracy[order])
    line = np.interp(np.log(grid), np.log(cost[order]), best)
    return np.where(grid >= cost[order[0]] * (1 - 1e-12), line, np.nan)


def _known_line(
    model: str,
    attention: str,
    line: np.ndarray,
    index: np.ndarray,
    cost: np.ndarray,
    numbers: Mapping[str, np.ndarray],
    grid: np.ndarray,
) -> Curve:
    """A curve that is a line through the strategies `index`, with the choices of the points below each cost."""
    there, solved = np.isfinite(line), np.nan_to_num(line)
    choice = index[best_within(cost[index], numbers["accuracy"][index], grid, TIE)]
    columns = {c: np.where(there & (solved > 0), numbers[c][choice], np.nan) for c in ("budget", "tokens", "trials")}
    if attention == "dense":
        columns["budget"] = np.full(len(grid), np.nan)
    chosen = (columns["budget"], columns["tokens"], columns["trials"])
    return Curve(model, attention, solved, there.astype(float), *chosen, problems=1)


def _line_curve(key: tuple[str, str], line: tuple[np.ndarray, np.ndarray], grid: np.ndarray) -> Curve:
    solved = _interpolated(np.asarray(line[0], dtype=float), np.asarray(line[1], dtype=float), grid)
    nothing, there = np.full(len(grid), np.nan), np.isfinite(solved)
    return Curve(
        *key, np.nan_to_num(solved), there.astype(float), nothing, nothing, nothing, problems=1, whole=True
    )  # fmt: skip


def _smoothed(curve: Curve, window: int) -> Curve:
    """The curve with every accuracy averaged over `window` costs, mirrored at the ends (scipy's uniform_filter1d)."""
    from dataclasses import replace

    from scipy.ndimage import uniform_filter1d

    return replace(curve, accuracy=uniform_filter1d(curve.accuracy, window))


def _envelope(attention: str, curves: list[Curve], grid: np.ndarray, tie: float) -> Envelope:
    mine = [curve for curve in curves if curve.attention == attention]
    return best_models(attention, [c.model for c in mine], np.array([c.accuracy for c in mine]), grid, tie)
