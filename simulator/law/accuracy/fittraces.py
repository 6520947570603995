"""Fitting the parametric model of accuracy to traces.

By maximum likelihood where that is simple, model by model:

- lengths: log T of a problem is normal with a mean of its own and a common variance; trials that the trace's own limit
  cut are known only to be longer (EM for censored normal values). `slope` is the standard deviation of the problems'
  means less what sampling adds to it, `median` the exponential of their mean;
- solve shares: the right ones among a problem's trials that ended by themselves are beta-binomial (`ceiling`,
  `concentration`). Trials that were cut say nothing of p;
- KV budgets: `kept`, `scale` and `steepness` by least squares on the mean share of right ones under each budget over
  that with dense attention. Without sparse trials they are NaN, and KV budgets are refused.

The parametric model takes the problem with the largest p for the one with the shortest T; traces in which that is not
so are fitted all the same. Intervals come from drawing problems again, with replacement and with all of their trials:
their noise is in the problems' shares already, and drawn again it would count twice and make problems look more apart
than they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hwspecs.errors import InputError
from simulator.law.accuracy.parametric import Coefficients, Parametric
from simulator.law.accuracy.trialstats import common_end
from simulator.law.strategies import LIMITS

if TYPE_CHECKING:
    import pandas as pd

    from simulator.law.accuracy.traces import Traces

_ROUNDS = 60
_FEWEST = 5
"""Problems below which nothing is said of how they differ."""


def fit_traces(traces: Traces, samples: int = 40, seed: int = 0) -> Parametric:
    """The parametric model of all models in `traces` with dense trials, with `samples` bootstrap samples.

    `alternatives` have the concentration at the 5th and 95th percentile of the samples. InputError for a model without
    dense trials, with fewer than five problems, or none of whose trials is right or ended by itself.
    """
    rng = np.random.default_rng(seed)
    fitted, draws, caps = {}, {}, {}
    low, high = {}, {}
    for model in traces.models:
        own = traces.trials[traces.trials["model"] == model]
        dense = own.loc[own["attention"] == "dense", "tokens"]
        caps[model] = cap = traces.cap if dense.empty else common_end(dense) or traces.cap
        fitted[model] = _fit(own, cap, traces.name)
        draws[model] = tuple(_fit(_fitting(own, rng, cap), cap, traces.name) for _ in range(samples))
        sizes = [one.concentration for one in draws[model]] or [fitted[model].concentration]
        low[model], high[model] = (
            replace(fitted[model], concentration=float(np.quantile(sizes, level))) for level in (0.05, 0.95)
        )
    problems = int(traces.trials.groupby("model")["problem"].nunique().max())
    return Parametric(
        name=traces.name,
        note=f"Parametric model fitted to {traces.name} ({len(traces.trials):,} trials of {problems} problems).",
        coefficients=fitted,
        budgets=_ends(traces),
        trials=max(traces.trials_of(model) for model in traces.models),
        longest=min(cap or LIMITS[-1] for cap in caps.values()),
        prompt=round(float(traces.trials["prompt_tokens"].mean())),
        problems=problems,
        draws=draws,
        alternatives={"low": low, "high": high},
    )


def _ends(traces: Traces) -> tuple[int, int] | None:
    budgets = traces.trials.loc[traces.trials["attention"] != "dense", "budget"]
    return None if budgets.empty else (int(budgets.min()), int(budgets.max()))


def _fit(own: pd.DataFrame, cap: int | None, name: str) -> Coefficients:
    dense = own[own["attention"] == "dense"]
    model = own["model"].iloc[0]
    if dense["problem"].nunique() < _FEWEST:
        raise InputError("too few problems with dense attention to fit how they differ", file=name,
                         place=model, found=dense["problem"].nunique(), allowed=f"at least {_FEWEST}")  # fmt: skip
    ended = _ended(dense, cap)
    if not dense["correct"].to_numpy()[ended].any():
        raise InputError("no trial that ended by itself is right", file=name, place=model)
    codes, names = dense["problem"].factorize()
    logs = np.log(dense["tokens"].to_numpy())
    means, sigma, noise = _lengths(logs, codes, len(names), ended)
    finished = np.bincount(codes[ended], minlength=len(names))
    right = np.bincount(codes[ended], weights=dense["correct"].to_numpy()[ended], minlength=len(names))
    ceiling, concentration = _shares(right, finished)
    slope = float(np.sqrt(max(means.var(ddof=1) - noise, 1e-4)))
    kept, scale, steepness = _budgets(own, dense)
    return Coefficients(ceiling, concentration, float(np.exp(means.mean())), slope, sigma, kept, scale, steepness)


def _lengths(logs: np.ndarray, codes: np.ndarray, problems: int, ended: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Means by problem, common standard deviation, and mean sampling variance of a mean, of censored normal values.

    EM: a value known to be above x has the mean mu + s h and the second moment mu^2 + s^2 + s h (x + mu), h the
    normal hazard at (x - mu) / s.
    """
    from scipy.special import log_ndtr

    counts = np.bincount(codes, minlength=problems)
    means = np.bincount(codes, weights=logs, minlength=problems) / counts
    sigma = float(np.sqrt(np.mean((logs - means[codes]) ** 2)) + 1e-3)
    for _ in range(_ROUNDS):
        mu = means[codes]
        z = (logs - mu) / sigma
        hazard = np.exp(-(z**2) / 2 - log_ndtr(-z)) / np.sqrt(2 * np.pi)
        first = np.where(ended, logs, mu + sigma * hazard)
        second = np.where(ended, logs**2, mu**2 + sigma**2 + sigma * hazard * (logs + mu))
        means = np.bincount(codes, weights=first, minlength=problems) / counts
        inside = second - 2 * first * means[codes] + means[codes] ** 2
        sigma = float(np.sqrt(max(inside.sum() / max(len(logs) - problems, 1), 1e-6)))
    return means, sigma, float(np.mean(sigma**2 / counts))


def _shares(right: np.ndarray, trials: np.ndarray) -> tuple[float, float]:
    """Mean and concentration of the beta-binomial of greatest likelihood; problems without a trial are passed over."""
    from scipy.optimize import minimize
    from scipy.special import betaln

    seen = trials > 0
    right, trials = right[seen], trials[seen]

    def unlikely(x: np.ndarray) -> float:
        mean, size = 1 / (1 + np.exp(-x[0])), np.exp(x[1])
        a, b = mean * size, (1 - mean) * size
        return -float(np.sum(betaln(a + right, b + trials - right) - betaln(a, b)))

    start = np.clip(right.sum() / trials.sum(), 0.02, 0.98)
    found = minimize(
        unlikely, [np.log(start / (1 - start)), 0.0], method="L-BFGS-B", bounds=[(-7, 7), (np.log(0.02), np.log(200))]
    )
    return float(1 / (1 + np.exp(-found.x[0]))), float(np.exp(found.x[1]))


def _budgets(own: pd.DataFrame, dense: pd.DataFrame) -> tuple[float, float, float]:
    """kept, scale, steepness of h(B); NaN without sparse trials."""
    from scipy.optimize import least_squares

    sparse = own[own["attention"] != "dense"]
    if sparse.empty:
        return (float("nan"),) * 3
    alone = dense.groupby("problem")["correct"].mean().mean()
    shares = sparse.groupby(["budget", "problem"])["correct"].mean().groupby("budget").mean()
    budgets = shares.index.to_numpy(dtype=float)
    ratio = np.clip(shares.to_numpy() / alone, 0, 1) if alone > 0 else np.ones(len(budgets))

    def off(x: np.ndarray) -> np.ndarray:
        kept, scale, steepness = 1 / (1 + np.exp(-x[0])), np.exp(x[1]), np.exp(x[2])
        held = kept * -np.expm1(-((budgets / scale) ** steepness))
        return np.concatenate([held - ratio, 0.01 * (x[2:] - 0.0)])  # one or two budgets do not tell the steepness

    tried = [
        least_squares(off, [3.0, np.log(scale), 0.0], bounds=([-3, 0, -1.2], [7, 10, 1.2])) for scale in (50.0, 400.0)
    ]
    x = min(tried, key=lambda result: float(result.cost)).x
    return float(1 / (1 + np.exp(-x[0]))), float(np.exp(x[1])), float(np.exp(x[2]))


def _ended(dense: pd.DataFrame, cap: int | None) -> np.ndarray:
    """Which trials ended by themselves."""
    return np.ones(len(dense), dtype=bool) if cap is None else dense["tokens"].to_numpy() < cap


def _fitting(own: pd.DataFrame, rng: np.random.Generator, cap: int | None) -> pd.DataFrame:
    """`_drawn` until some problem was solved: of a benchmark that is hardly ever solved a draw may have none."""
    while True:
        drawn = _drawn(own, rng)
        dense = drawn[drawn["attention"] == "dense"]
        if dense["correct"].to_numpy()[_ended(dense, cap)].any():
            return drawn


def _drawn(own: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Problems drawn again, the same in every strategy: their rows of `own`, problems renamed."""
    codes, names = own["problem"].factorize()
    rows = [np.flatnonzero(codes == k) for k in range(len(names))]
    picks = rng.integers(0, len(names), size=len(names))
    index = np.concatenate([rows[k] for k in picks])
    renamed = np.repeat(np.arange(len(picks)).astype(str), [len(rows[k]) for k in picks])
    return own.iloc[index].assign(problem=renamed)
