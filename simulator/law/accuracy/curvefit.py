"""Least squares of the parametric model of accuracy on curves, as the paper's figure has them.

The authors' procedure is computed with the model and compared with their curves: for every problem (a bin of
difficulty), length limit (2,048 to 32,768) and, with sparse attention, KV budget (128 to 2,048), the published cost of
a trial, c0 + c1 E[min(T, L)] + c2 E[min(T, L)^2], and its probability to solve the problem; at every cost the best
affordable probability of each problem; the mean over problems; smoothed over three points. So a curve's steps, which
lie at the costs of the limits, speak of lengths, and its heights of solve shares. Two things differ from the
procedure: costs have a spread of 3% (prompts differ), which keeps the sum of squares smooth, and estimates have no
noise, so that the best of several is not better than they are.

How problems differ is not in curves of one trial. It comes from a headline of Best-of-N for some models (`Headline`);
the others' concentration is interpolated over log parameters. Nor is `sigma` in them, which is drawn to SIGMA. What is
weakly determined model by model, `slope` and `steepness`, is drawn towards the models' mean (partial pooling): each
model is fitted twice, the second time with a penalty on the distance from the first fits' geometric mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwspecs.errors import InputError
from simulator.law.accuracy.curves import LONGEST, Curves, published_parameters, published_polynomial
from simulator.law.accuracy.lengthbins import answered, cut_length, cut_square, solve_shares, standard_difficulty
from simulator.law.accuracy.parametric import Coefficients
from simulator.law.strategies import BUDGETS, LIMITS

PROBLEMS = 30
MOST = 2048
"""KV budget at which a headline of sparse Best-of-N is taken to stand: the largest of the paper's."""
SOFT = 0.03
"""Standard deviation of the logarithm of a strategy's cost: prompts of 60 to 250 tokens move it by about that."""
SMOOTHED = 3
"""Points over which the authors averaged (uniform_filter1d)."""
POOL = 0.1
"""Accuracy that a pooled parameter's distance of 1 in logarithms from the models' mean weighs: residuals are 0.01 to
0.02 and about five neighbouring points move together, for a standard deviation between models of 0.3."""
SIGMA, SIGMA_PULL = 0.5, 0.5
"""Standard deviation of the logarithm of lengths within a problem to which fits are drawn, and the residual per
distance of 1 in logarithms. Curves of one trial hardly tell lengths that vary within problems from lengths that vary
between them: left free, `sigma` comes out at 0.9 to 1.1, with errors smaller by 0.1 to 0.2 points. But then N trials
of an easy problem are long, and the dense envelope of the paper's Best-of-N figure (about 0.23, 0.36, 0.58 and 0.72 at
0.5, 1, 2 and 3 B200 seconds) is missed by up to 20 points; 0.45 to 0.6 give it within 9."""
LOST = 1.0
"""Residual per accuracy that large KV budgets lose on dense attention. A budget as large as the context loses nothing,
so that a loss has to be seen: dense curves that end before their plateau would leave it open."""
BLOCK = 10
"""Points of a block that the bootstrap moves together, and that are held out together."""
HEADLINE = 3.0
"""Residual per accuracy that a headline is missed by: a headline weighs as nine points of a curve."""
# ceiling, concentration, median, slope, sigma, kept, scale, steepness: log odds of the shares, logarithms of the others
_LOW = np.array([-6.0, np.log(0.05), np.log(500), -2.5, -2.5, -3.0, 0.0, -1.2])
_HIGH = np.array([5.0, np.log(20), np.log(1e5), 0.7, 0.5, 6.0, 9.0, 1.2])
_POOLED = (3, 7)
_CONCENTRATION, _SIGMA = 1, 4


@dataclass(frozen=True)
class Headline:
    """Coverage of `trials` trials with top-k attention that was published: `accuracy` at the longest limit."""

    trials: int
    accuracy: float


@dataclass(frozen=True)
class Target:
    """What one model is fitted to: costs in tera-eFLOPs, accuracy of its dense and its top-k curve on them, and a
    headline if there is one.
    """

    model: str
    costs: np.ndarray
    dense: np.ndarray
    sparse: np.ndarray
    headline: Headline | None = None


def targets(curves: Curves, headlines: Mapping[str, Headline]) -> list[Target]:
    """The curves by model, those of oracle top-k on the dense ones' costs. InputError for a model without both."""
    found = []
    for model in curves.models:
        own = curves.points[curves.points["model"] == model]
        dense, sparse = (own[own["attention"] == kind] for kind in ("dense", "top_k"))
        if sparse.empty:
            raise InputError("no curve of oracle top-k, which KV budgets are fitted to", file=curves.name, found=model)
        costs = dense["cost_tera_eflops"].to_numpy()
        moved = np.interp(np.log(costs), np.log(sparse["cost_tera_eflops"]), sparse["accuracy"])
        found.append(Target(model, costs, dense["accuracy"].to_numpy(), moved, headlines.get(model)))
    return found


def coefficients(theta: np.ndarray) -> Coefficients:
    """From the fit's unbounded parameters: log odds of `ceiling` and `kept`, logarithms of the others."""
    values = np.exp(theta)
    values[[0, 5]] = 1 / (1 + np.exp(-theta[[0, 5]]))
    return Coefficients(*map(float, values))


def _problems(one: Coefficients, limits: Any) -> tuple[np.ndarray, np.ndarray]:
    """Logarithmic medians, shape (problems, 1), and solve probabilities with dense attention, (problems, limits)."""
    mu = (np.log(one.median) + one.slope * standard_difficulty(PROBLEMS))[:, None]
    return mu, solve_shares(one.ceiling, one.concentration, PROBLEMS)[:, None] * answered(limits, mu, one.sigma)


def predicted(one: Coefficients, model: str, costs: np.ndarray, prompt: int) -> np.ndarray:
    """The dense and the top-k curve of the authors' procedure at `costs`: shape (2, len(costs))."""
    limits = np.array(LIMITS, dtype=float)[None, :]
    mu, solved = _problems(one, limits)
    mean, square = cut_length(limits, mu, one.sigma), cut_square(limits, mu, one.sigma)
    _, c1, c2 = published_polynomial(model, "dense", 0, prompt)
    dense = _best(c1 * mean + c2 * square, solved, costs)
    paid, right = [], []
    for budget in BUDGETS:
        c0, c1, _ = published_polynomial(model, "top_k", budget, prompt)
        paid.append(c0 + c1 * mean)
        right.append(solved * one.sparse(budget))
    return np.stack([dense, _best(np.hstack(paid), np.hstack(right), costs)])


def _best(paid: np.ndarray, right: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Mean over problems of the best affordable probability at each of `costs`, smoothed as in the paper.

    The running best over strategies by rising cost, whose rises count by how probably they are affordable.
    """
    from scipy.ndimage import uniform_filter1d
    from scipy.special import ndtr

    order = np.argsort(paid, axis=1)
    best = np.maximum.accumulate(np.take_along_axis(right, order, axis=1), axis=1)
    rises = np.diff(best, axis=1, prepend=0.0)
    at = np.log(np.take_along_axis(paid, order, axis=1))
    problem, strategy = np.nonzero(rises > 1e-9)
    affordable = ndtr((np.log(costs)[:, None] - at[problem, strategy][None, :]) / SOFT)
    return uniform_filter1d(affordable @ rises[problem, strategy] / PROBLEMS, SMOOTHED)


def fit(
    target: Target,
    prompt: int,
    *,
    concentration: float | None = None,
    pool: np.ndarray | None = None,
    start: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """The unbounded parameters of least squares.

    Parameters
    ----------
    concentration : logarithm of the one to which it is drawn without a headline.
    pool : centre of the pooled parameters; None for no pooling, when a weak pull to 0.5 and 1 keeps them finite.
    start : where to start; None tries several.
    weights : of the points, shape (2, len(costs)); 0 leaves one out.
    """
    from scipy.optimize import least_squares

    seen = np.stack([target.dense, target.sparse])
    weight = np.ones_like(seen) if weights is None else weights
    centre, pull = (np.log([0.5, 1.0]), POOL / 5) if pool is None else (pool, POOL)

    def residuals(theta: np.ndarray) -> np.ndarray:
        one = coefficients(theta)
        off = (predicted(one, target.model, target.costs, prompt) - seen) * weight
        lost = LOST * one.ceiling * (1 - one.kept)
        if target.headline is None:
            missed = theta[_CONCENTRATION] - (np.log(0.5) if concentration is None else concentration)
        else:
            missed = HEADLINE * (coverage(one, target.headline.trials) - target.headline.accuracy)
        wide = SIGMA_PULL * (theta[_SIGMA] - np.log(SIGMA))
        return np.concatenate([off.ravel(), pull * (theta[list(_POOLED)] - centre), [lost, missed, wide]])

    top = np.clip(max(target.dense.max(), target.sparse.max()), 0.02, 0.95)
    starts = [start] if start is not None else [
        np.array([np.log(top / (1 - top)), -0.7, np.log(9000), np.log(slope), -0.7, 2.0, np.log(scale), 0.0])
        for slope in (0.4, 0.8) for scale in (100.0, 500.0)
    ]  # fmt: skip
    tried = [least_squares(residuals, np.clip(x, _LOW, _HIGH), bounds=(_LOW, _HIGH), x_scale=0.3) for x in starts]
    return min(tried, key=lambda result: float(result.cost)).x


def fit_all(found: Sequence[Target], prompt: int) -> dict[str, np.ndarray]:
    """Parameters by model: fitted alone, then again drawn to the mean of those, and their concentration, where there
    is no headline, to that of the models next in size.
    """
    alone = {target.model: fit(target, prompt) for target in found}
    told = {t.model: alone[t.model] for t in found if t.headline is not None}
    for model in alone:
        near = interpolated(published_parameters(model), told) if model not in told and told else None
        if near is not None:
            alone[model] = np.where(np.arange(len(near)) == _CONCENTRATION, near, alone[model])
    return {t.model: refit(t, alone, prompt) for t in found}


def refit(target: Target, thetas: Mapping[str, np.ndarray], prompt: int, **options: Any) -> np.ndarray:
    """`fit` from `thetas` (of all models), drawn to their mean."""
    pool = np.mean([theta[list(_POOLED)] for theta in thetas.values()], axis=0)
    start = thetas[target.model]
    return fit(target, prompt, concentration=float(start[_CONCENTRATION]), pool=pool, start=start, **options)


def coverage(one: Coefficients, trials: int) -> float:
    """What `trials` trials with the KV budget MOST, cut at the longest limit, solve of the benchmark."""
    q = _problems(one, float(LONGEST))[1] * one.sparse(MOST)
    return float(np.mean(1 - (1 - q) ** trials))


def at_longest(one: Coefficients) -> float:
    """Accuracy of one dense trial cut at the longest limit."""
    return float(np.mean(_problems(one, float(LONGEST))[1]))


def wrong(theta: np.ndarray, target: Target, prompt: int) -> np.ndarray:
    """Fit minus curve, accuracy: shape (2, len(costs))."""
    fitted = predicted(coefficients(theta), target.model, target.costs, prompt)
    return fitted - np.stack([target.dense, target.sparse])


def held_out(target: Target, thetas: Mapping[str, np.ndarray], prompt: int, folds: int = 4) -> float:
    """Mean absolute error, accuracy, at points that a fit did not see: blocks of BLOCK points, every `folds`-th left
    out at a time.
    """
    block, errors = np.arange(len(target.costs)) // BLOCK % folds, []
    for fold in range(folds):
        keep = np.broadcast_to(block != fold, (2, len(block))).astype(float)
        theta = refit(target, thetas, prompt, weights=keep)
        errors.append(np.abs(wrong(theta, target, prompt))[:, block == fold])
    return float(np.concatenate(errors, axis=1).mean())


def left_out(target: Target, thetas: Mapping[str, np.ndarray], prompt: int) -> float | None:
    """Mean absolute error of `target`'s curves if its parameters are interpolated between the models next in size; None
    for the smallest and the largest.
    """
    others = {model: theta for model, theta in thetas.items() if model != target.model}
    theta = interpolated(published_parameters(target.model), others)
    return None if theta is None else float(np.abs(wrong(theta, target, prompt)).mean())


def interpolated(parameters: float, thetas: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Parameters of a model of that size, linear over log size between the models next to it; None outside of them."""
    sizes = {model: published_parameters(model) for model in thetas}
    models = sorted(thetas, key=sizes.__getitem__)
    if not models or not sizes[models[0]] <= parameters <= sizes[models[-1]]:
        return None
    where = np.log([sizes[model] for model in models])
    return np.array(
        [np.interp(np.log(parameters), where, column) for column in np.stack([thetas[m] for m in models]).T]
    )


def bootstrap(
    target: Target, thetas: Mapping[str, np.ndarray], prompt: int, samples: int, seed: int = 0
) -> list[np.ndarray]:
    """Parameters fitted to the fitted curves with blocks of BLOCK residuals drawn again, with replacement.

    That is the uncertainty of the form and of the digitised curves, with neighbouring errors kept together; not that of
    the benchmark, whose 30 problems are given.
    """
    rng = np.random.default_rng(seed)
    theta = thetas[target.model]
    rest = -wrong(theta, target, prompt)
    fitted = predicted(coefficients(theta), target.model, target.costs, prompt)
    points, out = len(target.costs), []
    for _ in range(samples):
        starts = rng.integers(0, points - BLOCK + 1, size=-(-points // BLOCK))
        drawn = rest[:, (starts[:, None] + np.arange(BLOCK)).ravel()[:points]]
        dense, sparse = np.clip(fitted + drawn, 0, 1)
        out.append(refit(replace(target, dense=dense, sparse=sparse), thetas, prompt))
    return out
