"""Digitised curves at other costs than the published ones.

Of dense attention a curve gives the tokens behind every point, so that it can be priced anew like any strategies. Of
sparse attention it gives the best over tokens and KV budget, problem by problem, and not the choice: it can be taken as
it was published, and at any other cost it is moved as the frontier of the parametric model moves, which was fitted to
the same curves: from the published cost at which that reaches some accuracy to the cost at which it does now, with
whatever choices are then the best. That is an estimate, and is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hwspecs.errors import InputError
from simulator.law.costs import law_costs
from simulator.law.frontiers.envelopes import cost_at
from simulator.law.frontiers.frontier import frontier
from simulator.law.published import GPU, PEAK
from simulator.law.strategies import LIMITS, WHOLE

FINE = 1000
"""Costs at which the parametric model's frontier is computed."""
FLAT = 0.995
"""Share of its highest accuracy from which on its frontier is too flat to tell a cost."""
Lines = dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]
"""(model, attention) -> costs and accuracies."""
PUBLISHED_UNITS = {"eflops": 1.0, "seconds": 1e12 / PEAK}
"""Units in which the published costs of curves are known, over tera-eFLOPs."""


def published_lines(points: Any, models: Sequence[str] | None, attentions: Sequence[str], name: str) -> Lines:
    """The curves of a data frame of points (model, attention, cost_tera_eflops, accuracy), in tera-eFLOPs as published.

    InputError if there is none of an attention, or of one of `models`.
    """
    if models is not None:
        points = points[points["model"].isin(models)]
    lines = {
        (str(model), str(attention)): (rows["cost_tera_eflops"].to_numpy(float), rows["accuracy"].to_numpy(float))
        for (model, attention), rows in points.groupby(["model", "attention"], sort=False)
        if attention in attentions
    }
    for attention in attentions:
        there = [model for model, kind in lines if kind == attention]
        missing = [model for model in models or () if model not in there]
        if missing or not there:
            of = f" of {', '.join(missing)}" if missing else ""
            known = sorted({str(kind) for kind in points["attention"]})
            raise InputError(
                f"no curve with {attention} attention{of}", file=name, found=attention, allowed=", ".join(known)
            )
    return lines


def recosted(lines: Lines, budgets: Sequence[int], price: Callable[[Any], np.ndarray]) -> tuple[Lines, str]:
    """Sparse curves at the costs that `price` gives to strategies, and a note on how. InputError for a model that the
    bundled parametric model lacks.

    budgets : KV budgets that the parametric model may choose from. price : strategy table -> cost of each row.
    """
    from hwspecs.gpu import load_gpu
    from simulator.law.accuracy.sources import load_accuracy

    fitted, found = load_accuracy(None), {}
    for attention in dict.fromkeys(kind for _, kind in lines):
        models = tuple(model for model, kind in lines if kind == attention)
        rows = fitted.strategies(models=models, attentions=(attention,), budgets=budgets, limits=LIMITS, trials=(1,))
        before, now = law_costs(rows, load_gpu(GPU), "eflops", as_published=True), price(rows)
        for model in models:
            costs, solved = lines[model, attention]
            mine = (rows["model"] == model).to_numpy()
            ratio = curve_multiplier(rows[mine], before[mine], now[mine], costs)
            order = np.argsort(costs, kind="stable")  # a multiplier that falls must not change the order of the points
            found[model, attention] = (np.maximum.accumulate((costs * ratio)[order]), solved[order])
    note = (
        "sparse curves as a whole, moved as the frontier of the bundled parametric model (AIME24, Qwen3) moves from "
        "the published costs to these: an estimate, a rough one if the curves are of another benchmark; the tokens and "
        "KV budgets behind them are not known"
    )
    return found, note


def curve_multiplier(rows: Any, before: np.ndarray, now: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """By how much the frontier of strategies of one model and attention moves at each of `costs` when every strategy
    costs `now` in place of `before`: the cost at which it reaches the same accuracy, over the cost at which it did.

    Where the frontier does not rise (below the first accuracy, at the top) the nearest multiplier holds.
    """
    fronts = [frontier(rows, cost, points=FINE) for cost in (before, now)]
    (old, old_line), (new, new_line) = [(front.costs, front.curves[0].accuracy) for front in fronts]
    at = np.unique(costs)
    reached = np.interp(np.log(at), np.log(old), old_line, left=0.0)
    rising = np.flatnonzero((reached > 0) & (reached <= FLAT * min(old_line[-1], new_line[-1])))
    if not len(rising):
        raise InputError(
            "the costs of a curve are not among those of the parametric model", found=[float(at[0]), float(at[-1])],
            allowed=f"tera-eFLOPs from {old[0]:.4g} to {old[-1]:.4g}",
        )  # fmt: skip
    reached = reached[rising]
    moved = cost_at(new, new_line, reached) / cost_at(old, old_line, reached)
    return np.exp(np.interp(np.log(costs), np.log(at[rising]), np.log(moved)))


def line_rows(
    lines: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]], columns: Sequence[str]
) -> tuple[Any, Any]:
    """Curves as rows of a strategy table, and their costs; tokens, budget and limit are not known (NaN)."""
    import pandas as pd

    rows, costs = [], []
    for (model, attention), (cost, accuracy) in lines.items():
        known = {"model": model, "attention": attention, "problem": WHOLE, "trials": 1}
        rows.append(pd.DataFrame({"accuracy": accuracy}).assign(**known).reindex(columns=list(columns)))
        costs.append(cost)
    return pd.concat(rows, ignore_index=True), np.concatenate(costs)
