"""A parametric model of accuracy: how often a trial is right, by length limit and KV budget, problem by problem.

A trial of a problem has a natural length T, lognormal; cut at a limit L it has answered with probability F(L) = P(T <=
L), and an answer is right with the problem's solve share p. Under a KV budget B it is right less often, by a factor
h(B). So one trial solves the problem with probability

    q = p F(L) h(B),   h(B) = kept (1 - exp(-(B / scale)^steepness)),   h = 1 with dense attention,

and N independent ones with 1 - (1 - q)^N (coverage). Problems differ: p is beta distributed with the mean `ceiling` and
the given `concentration` (small: most problems are nearly always or nearly never solved), and the median of T grows by
`slope` (in logarithms) with each standard deviation of difficulty. The benchmark is `problems` equally likely bins of
difficulty, the easiest with the largest p and the shortest T; p is the mean within its bin, so that the mean over bins
is `ceiling` exactly.

Why this form: a trial that is cut is paid for and solves nothing, which is what makes length worth money, and lengths
that vary decide what a limit costs; a curve of accuracy against tokens alone would have to be told both. Coefficients
come from `fitaccuracy` and `fittraces`; this module evaluates them. What they cannot say is in `Parametric.caveats`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError, near_matches
from simulator.law.accuracy.lengthbins import answered, bin_lengths, cut_length, solve_shares, standard_difficulty
from simulator.law.strategies import BUDGETS, LIMITS, WHOLE
from simulator.law.tables import PROMPT, block_page, canonical, check_attentions, frame

if TYPE_CHECKING:
    import pandas as pd

LENGTH_BINS = 16
"""Equally likely lengths by which a strategy's row stands for the trials of a problem."""
_CHUNK = 100_000


@dataclass(frozen=True)
class Coefficients:
    """What is fitted of one model.

    Attributes
    ----------
    ceiling : mean solve share of trials that are never cut, dense attention, 0 to 1.
    median : natural length of a trial of a problem of middle difficulty, tokens.
    slope : by how much the logarithm of that grows with a standard deviation of difficulty.
    sigma : standard deviation of the logarithm of T between the trials of a problem.
    kept : share of the ceiling that a large KV budget keeps.
    concentration : of the beta distribution of p over problems; the smaller, the more they differ.
    scale, steepness : KV budget, tokens, at which 63% of that is reached, and how steeply. NaN, as `kept`, if nothing
        is known of KV budgets.
    """

    ceiling: float
    concentration: float
    median: float
    slope: float
    sigma: float
    kept: float
    scale: float
    steepness: float

    def sparse(self, budget: Any) -> Any:
        """h(B); 1 for a budget of 0, which is dense attention. InputError for another if nothing is known of them."""
        budget = np.asarray(budget, dtype=float)
        if np.isnan(self.kept) and np.any(budget > 0):
            raise InputError("the data that the accuracy model was fitted to has no KV budgets", place="budget",
                             found=float(budget.max()), allowed="dense attention")  # fmt: skip
        kept = -self.kept * np.expm1(-((np.maximum(budget, 1) / self.scale) ** self.steepness))
        return np.where(budget > 0, kept, 1.0)


@dataclass(frozen=True)
class Parametric:
    """A fitted benchmark: see the module.

    Attributes
    ----------
    coefficients : by canonical model name.
    alternatives : `low` and `high`: coefficients that fit as well and in which repeated trials solve less and more, as
        far as is thought possible.
    caveats : what the data that it was fitted to does not say, in full.
    longest : limit up to which the model was fitted, tokens.
    budgets : smallest and largest KV budget that it was fitted to; None if it has none or does not say.
    trials : most trials of a problem that it was fitted to; None if it does not say.
    prompt : tokens of a problem.
    errors : by model, mean and worst differences of the fit in accuracy, as the file of coefficients has them.
    draws : by model, the coefficients of bootstrap samples.
    """

    kind = "parametric"
    name: str
    note: str
    coefficients: Mapping[str, Coefficients]
    longest: int = LIMITS[-1]
    budgets: tuple[int, int] | None = None
    trials: int | None = None
    prompt: int = PROMPT
    problems: int = 30
    warnings: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    draws: Mapping[str, Sequence[Coefficients]] = field(default_factory=dict)
    alternatives: Mapping[str, Mapping[str, Coefficients]] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.coefficients)

    def of(self, model: str) -> Coefficients:
        """The coefficients of `model`; InputError if it has none."""
        try:
            return self.coefficients[canonical(model)]
        except KeyError:
            raise InputError(
                "the accuracy model has no coefficients for this model",
                file=self.name, found=model, allowed=near_matches(model, self.models),
            ) from None  # fmt: skip

    def with_spread(self, spread: str | float) -> Parametric:
        """The same with problems that differ otherwise: one of `alternatives`, or a factor on every concentration."""
        if spread in self.alternatives:
            return replace(self, coefficients=dict(self.alternatives[str(spread)]))
        if isinstance(spread, str) or not 0 < spread < np.inf:
            allowed = ", ".join([*self.alternatives, "a factor above 0"])
            raise InputError("not a spread over problems", found=spread, allowed=allowed)
        changed = {
            name: replace(one, concentration=one.concentration * spread) for name, one in self.coefficients.items()
        }
        return replace(self, coefficients=changed)

    def by_problem(self, model: str, limit: Any, budget: Any = None, trials: Any = 1) -> np.ndarray:
        """Coverage of each problem, easiest first: shape (problems, *broadcast of limit, budget, trials).

        InputError for a limit beyond `longest`.
        """
        self._check_limit(float(np.max(limit)))
        return self._solved(self.of(model), limit, 0 if budget is None else budget, trials)

    def at_limit(self, model: str, limit: Any, budget: Any = None, trials: Any = 1) -> np.ndarray:
        """Expected accuracy of `trials` trials, each cut at `limit` tokens: broadcast of the three. InputError as of
        `by_problem`.
        """
        return self.by_problem(model, limit, budget, trials).mean(axis=0)

    def mean_tokens(self, model: str, limit: Any) -> np.ndarray:
        """Mean generated tokens of a trial cut at `limit`, over the benchmark; shape of `limit`."""
        return self._mean_tokens(self.of(model), np.asarray(limit, dtype=float))

    def expected(self, model: str, tokens: Any, budget: Any = None, trials: Any = 1) -> np.ndarray:
        """Expected accuracy by the mean generated tokens of a trial over the benchmark: broadcast of the three.

        The limit that has this mean is taken. No limit makes trials longer than they are by nature: from the mean at
        the limit `longest` on, the accuracy is that of `longest`.
        """
        return self._expected(self.of(model), tokens, budget, trials)

    def interval(
        self, model: str, tokens: Any, budget: Any = None, trials: Any = 1, level: float = 0.9
    ) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of `expected`: the central `level` of the bootstrap samples, widened to the `alternatives`, which
        matter for more than one trial. InputError without bootstrap samples.
        """
        draws = self.draws.get(canonical(model), ())
        if not draws:
            self.of(model)
            raise InputError("the accuracy model has no bootstrap samples", file=self.name, place=f"models.{model}")
        sampled = np.stack([self._expected(one, tokens, budget, trials) for one in draws])
        low, high = np.quantile(sampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
        for other in self.alternatives.values():
            end = self._expected(other[canonical(model)], tokens, budget, trials)
            low, high = np.minimum(low, end), np.maximum(high, end)
        return low, high

    def between(self, name: str, parameters: float, sizes: Mapping[str, float]) -> Parametric:
        """With a model `name` of `parameters` added, its coefficients interpolated over log parameters.

        `sizes` are the parameters of the fitted models. That is an assumption: a model of another family, or trained
        otherwise, has other coefficients. InputError outside the fitted sizes.
        """
        known = sorted((sizes[model], model) for model in self.models)
        if not known[0][0] <= parameters <= known[-1][0]:
            allowed = f"{known[0][0]:.4g} to {known[-1][0]:.4g}"
            raise InputError("outside the sizes of the fitted models", found=parameters, allowed=allowed)
        at, where = np.log(parameters), np.log([size for size, _ in known])
        values = {}
        for part in fields(Coefficients):
            ends = part.name in ("ceiling", "kept")  # shares: on the scale of log odds
            column = np.array([getattr(self.of(model), part.name) for _, model in known])
            column = np.clip(column, 1e-6, 1 - 1e-6) if ends else column
            mapped = np.interp(at, where, np.log(column / (1 - column)) if ends else np.log(column))
            values[part.name] = float(1 / (1 + np.exp(-mapped)) if ends else np.exp(mapped))
        said = f"{name}: interpolated over log parameters between fitted models, not fitted"
        return replace(
            self,
            coefficients={**self.coefficients, canonical(name): Coefficients(**values)},
            warnings=(*self.warnings, said),
        )

    def strategies(
        self,
        models: Iterable[str] | None = None,
        attentions: Iterable[str] = ("dense", "top_k"),
        budgets: Iterable[int] = BUDGETS,
        limits: Iterable[int] = LIMITS,
        trials: Iterable[int] = (1,),
        *,
        by_problem: bool = True,
    ) -> pd.DataFrame:
        """The strategy table of a grid (see `strategies`): a row a problem, or rows of WHOLE.

        `tokens` and `lengths` are by the fitted lengths. Block top-k takes the accuracy of the oracle of its budget,
        and the pages of the paper's grid. `attrs["notes"]` of the table says what is extrapolated. InputError for an
        unknown model or attention, a limit beyond `longest`, a budget or a number of trials below 1.
        """
        attentions, limits, trials = check_attentions(attentions), list(limits), list(trials)
        budgets = list(budgets)
        for what, values in (("limit", limits), ("trials", trials), ("budget", budgets)):
            for value in values:
                if value < 1:
                    raise InputError("below 1", place=what, found=value, allowed="whole numbers from 1 on")
        self._check_limit(max(limits, default=0))
        policies = [(kind, budget) for kind in attentions for budget in ([0] if kind == "dense" else budgets)]
        rows: list[tuple[Any, ...]] = []
        for model in self.models if models is None else models:
            one = self.of(model)
            natural = self._medians(one)
            for limit in limits:
                lengths = bin_lengths(natural, one.sigma, limit, LENGTH_BINS)
                if not by_problem:  # of all trials, in fewer bins again
                    lengths = np.sort(lengths, axis=None).reshape(1, -1, self.problems // 2 or 1).mean(axis=2)
                for kind, budget in policies:
                    solved = self._solved(one, limit, budget, np.array(trials))
                    if not by_problem:
                        solved = solved.mean(axis=0, keepdims=True)
                    page = block_page(budget) if kind == "block_top_k" else 0
                    rows += [
                        (
                            canonical(model), kind, budget, page, 0, self.prompt, limit, float(lengths[k].mean()),
                            count, f"quantile {k + 1:02d} of {self.problems}" if by_problem else WHOLE,
                            float(solved[k, i]), lengths[k],
                        )
                        for i, count in enumerate(trials)
                        for k in range(len(lengths))
                    ]  # fmt: skip
        table = frame(rows)
        table.attrs["notes"] = self._extrapolated(
            budgets if any(kind != "dense" for kind in attentions) else [], max(trials, default=1)
        )
        return table

    def _check_limit(self, limit: float) -> None:
        if limit > self.longest:
            raise InputError(
                "beyond the limits to which the accuracy model was fitted",
                file=self.name, place="limit", found=int(limit), allowed=f"at most {self.longest:,}",
            )  # fmt: skip

    def _extrapolated(self, budgets: Iterable[int], trials: int) -> list[str]:
        """What of a table lies outside of the data that was fitted to."""
        low, high = self.budgets or (0, np.inf)
        outside = [f"{budget:,}" for budget in budgets if not low <= budget <= high]
        said = []
        if outside:
            said.append(f"accuracy with a KV budget of {', '.join(outside)}: extrapolated from {low:,} to {high:,}")
        if self.trials is not None and trials > self.trials:
            said.append(f"coverage of up to {trials:,} trials: extrapolated from at most {self.trials:,}")
        return said

    def _medians(self, one: Coefficients) -> np.ndarray:
        """Logarithm of the median length of each problem, shape (problems,)."""
        return np.log(one.median) + one.slope * standard_difficulty(self.problems)

    def _solved(self, one: Coefficients, limit: Any, budget: Any, trials: Any) -> np.ndarray:
        limit, trials = np.asarray(limit, dtype=float), np.asarray(trials, dtype=float)
        kept = one.sparse(budget)
        shape = np.broadcast_shapes(limit.shape, kept.shape, trials.shape)
        column = (self.problems,) + (1,) * len(shape)
        share = self._shares(one).reshape(column)
        q = share * answered(np.minimum(limit, self.longest), self._medians(one).reshape(column), one.sigma) * kept
        if np.all(trials == 1):
            return np.broadcast_to(q, (self.problems, *shape))
        return -np.expm1(trials * np.log1p(-np.minimum(q, 1 - 1e-15)))

    def _shares(self, one: Coefficients) -> np.ndarray:
        return solve_shares(one.ceiling, one.concentration, self.problems)

    def _mean_tokens(self, one: Coefficients, limit: np.ndarray) -> np.ndarray:
        column = (self.problems,) + (1,) * limit.ndim
        return cut_length(limit, self._medians(one).reshape(column), one.sigma).mean(axis=0)

    @cached_property
    def _limits(self) -> np.ndarray:
        return np.geomspace(1, self.longest, 600)

    def _expected(self, one: Coefficients, tokens: Any, budget: Any, trials: Any) -> np.ndarray:
        budget = 0 if budget is None else budget
        tokens, budget, trials = np.broadcast_arrays(
            np.asarray(tokens, dtype=float), np.asarray(budget, dtype=float), np.asarray(trials, dtype=float)
        )
        if not np.all(tokens > 0):
            raise InputError("not above 0", place="tokens", found=float(np.min(tokens)))
        if not np.all(trials >= 1):
            raise InputError("below 1", place="trials", found=float(np.min(trials)))
        means = self._mean_tokens(one, self._limits)
        limit = np.exp(np.interp(np.log(tokens), np.log(means), np.log(self._limits))).ravel()
        flat_budget, flat_trials, out = budget.ravel(), trials.ravel(), np.empty(limit.shape)
        for start in range(0, limit.size, _CHUNK):  # memory: a row a problem
            part = slice(start, start + _CHUNK)
            out[part] = self._solved(one, limit[part], flat_budget[part], flat_trials[part]).mean(axis=0)
        return out.reshape(tokens.shape)
