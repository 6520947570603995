"""The best of some strategies within a cost: what frontiers and allocations share."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwspecs.errors import InputError
from simulator.law.strategies import WHOLE

TIE = 1e-3
"""Accuracy by which a dearer strategy must be better to be chosen, a tenth of a point. The authors ask for a thousandth
of the accuracy."""


def known_rows(table: Any, cost: np.ndarray) -> tuple[Any, np.ndarray]:
    """The rows of a strategy table whose accuracy is known, and their costs. InputError for a cost that cannot be."""
    cost = np.asarray(cost, dtype=float)
    if len(cost) != len(table):
        raise InputError("as many costs as strategies are needed", found=len(cost), allowed=str(len(table)))
    bad = ~np.isfinite(cost) | (cost < 0)
    if bad.any():
        row = table.iloc[int(np.argmax(bad))]
        raise InputError(
            f"the cost of {strategy_words(row)} is no cost", found=float(cost[bad][0]), allowed="numbers from 0 on"
        )
    kept = np.isfinite(table["accuracy"].to_numpy(dtype=float))
    return table[kept].reset_index(drop=True), cost[kept]


def uneven_notes(rows: Any) -> list[str]:
    """A note if the models and attentions of a strategy table are not known of the same problems."""
    own = rows[rows["problem"] != WHOLE]
    sets = {key: frozenset(part["problem"]) for key, part in own.groupby(["model", "attention"], sort=False)}
    if len(set(sets.values())) < 2:
        return []
    counts = ", ".join(f"{model} {attention} {len(known)}" for (model, attention), known in sets.items())
    return [f"not known of the same problems, so accuracies are means over different ones: {counts}"]


def strategy_words(row: Any) -> str:
    """`qwen3-8b, top_k attention with B = 1,024, 32,768 tokens x 4 trials`, of a row of a strategy table.

    A point of a curve that is known as a whole has no budget and no tokens.
    """
    if row["tokens"] != row["tokens"]:
        return f"{row['model']}, {row['attention']} attention"
    budget = f" with B = {int(row['budget']):,}" if row["attention"] != "dense" else ""
    trials = f" x {int(row['trials'])} trials" if row["trials"] > 1 else ""
    return f"{row['model']}, {row['attention']} attention{budget}, {int(row['limit']):,} tokens{trials}"


def best_within(cost: np.ndarray, accuracy: np.ndarray, at: np.ndarray, tie: float = 0.0) -> np.ndarray:
    """For every limit `at` of the cost the index of the best of some strategies, -1 where none is affordable.

    The choice is the cheapest whose accuracy is within `tie` of the best affordable one; of equally cheap ones the
    best, then the first.
    """
    order = np.lexsort((-accuracy, cost))
    best = np.maximum.accumulate(accuracy[order])
    last = np.searchsorted(cost[order], at, side="right") - 1
    if not len(order):
        return np.full(len(at), -1)
    first = np.searchsorted(best, best[last] - tie, side="left")
    return np.where(last >= 0, order[first], -1)


def cost_grid(costs: Any, points: int, given: list[np.ndarray]) -> np.ndarray:
    """The `costs` that were asked for, checked; or `points` of them, evenly in the logarithm over all `given` costs.

    InputError for costs that do not rise or are not above 0, and if there is nothing to take them from.
    """
    known = np.concatenate(given)
    if not len(known):
        raise InputError("no strategy has a known accuracy")
    if costs is not None:
        grid = np.asarray(costs, dtype=float)
        if grid.ndim != 1 or not len(grid) or not np.isfinite(grid).all() or (grid <= 0).any():
            raise InputError("no costs to compute a frontier at", found=costs, allowed="numbers above 0")
        if (np.diff(grid) <= 0).any():
            raise InputError("the costs of a frontier do not rise", found=costs, allowed="rising numbers")
        return grid
    if points < 2:
        raise InputError("too few costs for a frontier", found=points, allowed="2 or more")
    known = known[known > 0]
    if not len(known):
        raise InputError("no strategy costs anything", allowed="costs above 0")
    low, high = float(known.min()), float(known.max())
    grid = np.geomspace(low, high if high > low else 10 * low, points)
    grid[0], grid[-1] = low, max(high, float(grid[-1]))  # not a rounding below the cheapest strategy
    return grid
