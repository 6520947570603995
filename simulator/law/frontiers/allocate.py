"""Algorithms 1 and 2 of the paper (arXiv 2506.05333): for a cost per problem, the model, the KV budget and the trials
(Best-of-N) or tokens (long chain of thought) of the best expected accuracy.

Which of the two it is follows from the strategies: those of Best-of-N differ in their trials, those of a long chain of
thought in where it is cut. Where the accuracy of every problem is known, each problem gets its own choice and may cost
as much, as in the authors' code. Nobody knows a problem's accuracy beforehand, so that this bounds what such a choice
can reach. Beside it stands the best single strategy, the same for all problems, whose cost is limited in the mean over
them: one problem may take more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwspecs.errors import InputError
from simulator.law.amounts import amount
from simulator.law.frontiers.choices import TIE, best_within, known_rows, strategy_words
from simulator.law.strategies import WHOLE

STRATEGY = ("model", "attention", "budget", "page", "local", "limit", "trials")
"""Columns that make a strategy, whatever the problem."""


@dataclass(frozen=True)
class Allocation:
    """What to do with a cost of `limit` per problem under one attention.

    Attributes
    ----------
    limit : the cost that a problem may take.
    attention : of the strategies that were chosen from.
    accuracy : expected share of problems solved, 0 for a problem with nothing affordable.
    spent : mean cost over the problems with anything affordable; NaN if there is none.
    chosen : the choices, a pandas data frame: rows of the strategy table with their `cost`. One row a problem, or one
        row where the accuracy is known for the whole benchmark only; no row for a problem with nothing affordable.
    problems : how many problems there are; 0 if only the whole benchmark is known.
    single : the best strategy that is the same for all problems, as one row of such a frame (accuracy, cost and tokens
        are means over the problems); None if nothing is affordable.
    cheapest : the lowest cost of any strategy of this attention, for the problem for which it is lowest.
    cheapest_single : the lowest mean cost of a strategy that all problems have.
    """

    limit: float
    attention: str
    accuracy: float
    spent: float
    chosen: Any
    problems: int
    single: Any | None
    cheapest: float
    cheapest_single: float

    @property
    def solvable(self) -> Any:
        """The choices with an accuracy above `TIE`: of the others no strategy is better than another."""
        return self.chosen[self.chosen["accuracy"] > TIE]

    def models(self) -> dict[str, int]:
        """Of how many problems each model is the choice, most first; only problems that it can solve."""
        counts = self.solvable["model"].value_counts()
        return {str(name): int(count) for name, count in counts.items()}

    def quartiles(self, column: str) -> tuple[float, float, float] | None:
        """25th, 50th and 75th percentile of a column of the choices, over the problems that can be solved; None if none
        can.
        """
        values = self.solvable[column].to_numpy(dtype=float)
        return None if not len(values) else tuple(float(v) for v in np.quantile(values, [0.25, 0.5, 0.75]))  # type: ignore[return-value]


def allocate(
    table: Any,
    cost: np.ndarray,
    limits: Sequence[float],
    *,
    unit: str = "eflops",
    per_problem: bool = True,
    tie: float = TIE,
) -> list[Allocation]:
    """The best allocation within each of `limits`, for every attention of a strategy table.

    Parameters
    ----------
    table : strategy table (`simulator.law.strategies`). Rows for problems are taken where there are any, and those of
        the whole benchmark otherwise. Rows whose accuracy is NaN are left out.
    cost : what each row costs per problem, in `unit`.
    limits : costs that a problem may take, in `unit`.
    per_problem : False for the single strategy only.
    tie : the cheapest strategy within this accuracy of the best one is taken; of equally cheap ones the best, then the
        first of the table. Without it problems that everything solves would take the dearest strategy there is.

    Returns one allocation for each limit and attention, in this order.

    Raises
    ------
    InputError : a limit that is no number above 0; one below the cheapest strategy of all, at which nothing is
        affordable; a table without known accuracies; a cost that cannot be.
    """
    at = np.asarray(limits, dtype=float)
    if not len(at) or not np.isfinite(at).all() or (at <= 0).any():
        raise InputError("a cost is above 0", found=list(limits), allowed="numbers above 0")
    rows, cost = known_rows(table, cost)
    if rows.empty:
        raise InputError("no strategy has a known accuracy")
    if at.min() < cost.min():
        cheapest = rows.iloc[int(np.argmin(cost))]
        raise InputError(
            f"nothing is affordable at {amount(float(at.min()), unit)} per problem: the cheapest strategy costs "
            f"{amount(float(cost.min()), unit)} ({strategy_words(cheapest)})",
            place="COST",
            allowed=f"{amount(float(cost.min()), unit)} or more",
        )
    rows = rows.assign(cost=cost)
    kinds = sorted(dict.fromkeys(rows["attention"]), key=lambda kind: kind != "dense")
    found = {kind: _of_attention(kind, rows[rows["attention"] == kind], at, per_problem, tie) for kind in kinds}
    return [found[kind][i] for i in range(len(at)) for kind in kinds]


def _of_attention(kind: str, rows: Any, at: np.ndarray, per_problem: bool, tie: float) -> list[Allocation]:
    by_problem = rows[rows["problem"] != WHOLE]
    problems = by_problem["problem"].nunique()
    common = _common(by_problem, problems) if problems else rows
    singles = best_within(common["cost"].to_numpy(), common["accuracy"].to_numpy(dtype=float), at, tie)
    choices = _each_problem(by_problem, at, tie) if problems and per_problem else None
    lowest = float(rows["cost"].min()), float(common["cost"].min())
    found = []
    for i, limit in enumerate(at):
        single = None if singles[i] < 0 else common.iloc[int(singles[i])]
        chosen = common.iloc[[singles[i]] if singles[i] >= 0 else []] if choices is None else choices[i]
        count = problems if choices is not None else 1
        accuracy = float(chosen["accuracy"].sum()) / count
        spent = float(chosen["cost"].mean()) if len(chosen) else float("nan")
        found.append(Allocation(float(limit), kind, accuracy, spent, chosen, problems, single, *lowest))
    return found


def _each_problem(rows: Any, at: np.ndarray, tie: float) -> list[Any]:
    """For each limit the rows chosen, one a problem."""
    cost, accuracy = rows["cost"].to_numpy(), rows["accuracy"].to_numpy(dtype=float)
    picked: list[list[int]] = [[] for _ in at]
    for index in rows.reset_index(drop=True).groupby("problem", sort=False).indices.values():
        index = np.sort(index)
        for i, choice in enumerate(best_within(cost[index], accuracy[index], at, tie)):
            if choice >= 0:
                picked[i].append(int(index[choice]))
    return [rows.iloc[places].reset_index(drop=True) for places in picked]


def _common(rows: Any, problems: int) -> Any:
    """The strategies that every problem has, with the means of their accuracies, costs and tokens."""
    groups = rows.groupby(list(STRATEGY), sort=False)
    means = groups[["accuracy", "cost", "tokens", "prompt_tokens"]].mean()
    means = means[groups["problem"].nunique() == problems].reset_index()
    return means.assign(problem=WHOLE)


def alternative_accuracies(
    table: Any, cost: np.ndarray, limits: Sequence[float], *, per_problem: bool = True
) -> dict[tuple[float, str], tuple[float | None, float | None]]:
    """Of another table of the same question, by limit and attention: the accuracy of `allocate`, and that of its single
    strategy; None where nothing is affordable.
    """
    within = [limit for limit in limits if limit >= float(np.min(cost))]
    found = allocate(table, cost, within, per_problem=per_problem) if within else []
    return {
        (one.limit, one.attention): (
            one.accuracy if len(one.chosen) else None,
            None if one.single is None else float(one.single["accuracy"]),
        )
        for one in found
    }
