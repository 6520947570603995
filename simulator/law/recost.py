"""Digitised curves at other costs than the published ones.

Of dense attention a curve gives the tokens behind every point, so that it can be priced anew like any strategies. Of
sparse attention it gives the best over tokens and KV budget, problem by problem, and not the choice: it can be taken as
it was published, and at any other cost every point of it is multiplied by what the strategies that the parametric model
would choose at that published cost cost now, over what they cost as published: a geometric mean over its problems, each
with its own choice, as in the published curves. That is an estimate, and is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hwspecs.errors import InputError
from simulator.law.choices import TIE, best_within
from simulator.law.costs import law_costs
from simulator.law.published import GPU, PEAK
from simulator.law.strategies import LIMITS, WHOLE

STEP = 1.5
"""Factor to both sides of a cost within which a rise of accuracy tells which problems a curve rises by."""
LEAST_RISE = 1e-3
"""Rise of the mean accuracy within that, below which it tells nothing."""
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
        rows = fitted.strategies(models=models, attentions=(attention,), budgets=budgets, limits=LIMITS, trials=(1,))
        before, now = law_costs(rows, load_gpu(GPU), "eflops", as_published=True), price(rows)
        for model in models:
            costs, solved = lines[model, attention]
            mine = (rows["model"] == model).to_numpy()
            ratio = curve_multiplier(rows[mine], before[mine], now[mine], costs)
            found[model, attention] = (costs * ratio, solved)
    note = (
        "sparse curves as a whole, every point multiplied by what the strategies that the parametric model would choose"
        " at its published cost cost now, over what they cost as published: an estimate; the choices are not known"
    )
    return found, note


def curve_multiplier(rows: Any, before: np.ndarray, now: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """By how much a curve moves at each of its `costs` when every strategy costs `now` in place of `before`.

    Each problem's own curve moves by the multiplier of its choice, and the mean over the problems rises where theirs
    rise. So the mean of the logarithms is weighted by how much each problem's accuracy rises between costs / `STEP` and
    costs x `STEP`; problems that are solved already by less, or not yet, do not count. Where none rises the last
    multiplier before holds (the first one after, at the start).
    """
    accuracy, logs, weights = rows["accuracy"].to_numpy(float), [], []
    problems = rows["problem"].to_numpy(dtype=object)
    for problem in dict.fromkeys(problems):
        own = problems == problem
        logs.append(np.log(multipliers(before[own], now[own], accuracy[own], costs)))
        weights.append(
            _reached(before[own], accuracy[own], costs * STEP) - _reached(before[own], accuracy[own], costs / STEP)
        )
    total = np.sum(weights, axis=0)
    mean = np.sum(np.multiply(weights, logs), axis=0) / np.where(total > 0, total, 1)
    order = np.argsort(costs)
    rising = np.flatnonzero(total[order] > LEAST_RISE * len(weights))
    if not len(rising):
        return np.exp(np.mean(logs, axis=0))
    last = np.maximum(np.searchsorted(rising, np.arange(len(order)), side="right") - 1, 0)
    out = np.empty(len(order))
    out[order] = mean[order][rising[last]]
    return np.exp(out)


def _reached(cost: np.ndarray, accuracy: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The best accuracy within each cost, 0 where nothing is affordable."""
    best = best_within(cost, accuracy, at)
    return np.where(best >= 0, accuracy[best], 0.0)


def multipliers(before: np.ndarray, now: np.ndarray, accuracy: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """`now` / `before` of the best strategy within each of `costs` (as of `before`); between the costs at which the
    choice changes linearly in logarithms, below the cheapest strategy as of the cheapest.
    """
    steps = np.unique(best_within(before, accuracy, np.sort(before), TIE))
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
