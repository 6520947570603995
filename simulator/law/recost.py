"""Digitised curves at other costs than the published ones.

Of dense attention a curve gives the tokens behind every point, so that it can be priced anew like any strategies. Of
sparse attention it gives the best over tokens and KV budget, problem by problem, and not the choice: it can be taken as
it was published, and at any other cost every point of it is multiplied by what the strategy that the parametric model
would choose at that published cost costs now, over what it cost as published. That is an estimate, and is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hwspecs.errors import InputError
from simulator.law.choices import best_within
from simulator.law.costs import law_costs
from simulator.law.published import GPU, PEAK
from simulator.law.strategies import LIMITS, WHOLE

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
    """Sparse curves at the costs that `price` gives to strategies, and a note on how.

    budgets : KV budgets that the parametric model may choose from. price : strategy table -> cost of each row.
    """
    from hwspecs.gpu import load_gpu
    from simulator.law.accuracy import load_accuracy

    fitted, found = load_accuracy(None), {}
    for attention in dict.fromkeys(kind for _, kind in lines):
        models = tuple(model for model, kind in lines if kind == attention)
        rows = fitted.strategies(
            models=models, attentions=(attention,), budgets=budgets, limits=LIMITS, trials=(1,), by_problem=False
        )
        before, now = law_costs(rows, load_gpu(GPU), "eflops", as_published=True), price(rows)
        for model in models:
            mine = (rows["model"] == model).to_numpy()
            costs, solved = lines[model, attention]
            ratio = multipliers(before[mine], now[mine], rows["accuracy"].to_numpy(float)[mine], costs)
            found[model, attention] = (costs * ratio, solved)
    note = (
        "sparse curves as a whole, every point multiplied by what the strategy that the parametric model would choose "
        "at its published cost costs now, over what it cost as published: an estimate; the choices are not known"
    )
    return found, note


def multipliers(before: np.ndarray, now: np.ndarray, accuracy: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """`now` / `before` of the best strategy within each of `costs` (as of `before`); between the costs at which the
    choice changes linearly in logarithms, below the cheapest strategy as of the cheapest.
    """
    steps = np.unique(best_within(before, accuracy, np.sort(before)))
    steps = steps[np.argsort(before[steps])]
    return np.exp(np.interp(np.log(costs), np.log(before[steps]), np.log(now[steps] / before[steps])))


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
