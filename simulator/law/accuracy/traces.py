"""Accuracy from traces: single trials of problems, their lengths and whether they were right.

Coverage of N trials is estimated without bias from M >= N ones (`trialstats.coverage`). It is computed for every
problem, since that of a mean share is larger than the mean of theirs; and for N > M there is no unbiased estimate.

A trial that is cut at a limit is right if its answer appears within it: at the token `answer_at` where the trace has
that, else at its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError, near_matches
from simulator.law.accuracy.trialstats import binned, common_end, coverage
from simulator.law.strategies import LIMITS, TRIALS, WHOLE
from simulator.law.tables import PROMPT, canonical, check_attentions, frame, read_table

if TYPE_CHECKING:
    import pandas as pd

KEY = ("model", "attention", "budget", "page", "local")
"""What a trial was run with."""
TRIAL_COLUMNS = (*KEY, "problem", "trial", "tokens", "correct", "answer_at", "prompt_tokens")
NEEDED = ("problem", "trial", "tokens", "correct")
MOST_TOKENS = 2**31
"""Tokens that no trial has."""
_RIGHT = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0, "100": 1.0, "100.0": 1.0}


@dataclass(frozen=True)
class Traces:
    """Trials of a benchmark.

    Attributes
    ----------
    trials : the columns TRIAL_COLUMNS, a row a trial; `tokens` generated, `correct` bool, `answer_at` in tokens or NaN.
    said : how tokens and answers were had, for `note`.
    """

    kind = "traces"
    name: str
    trials: pd.DataFrame
    said: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.trials["model"]))

    @property
    def note(self) -> str:
        problems = self.trials["problem"].nunique()
        fewest, most = int(self._counts.min()), int(self._counts.max())
        each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        text = f"{self.name}: {len(self.trials):,} trials of {problems} problems, {each} a problem and strategy."
        return f"{text} {self.said}".strip() + (
            " Estimates of single problems are noisy (a share of 0.5 by 32 trials: +-0.09), so that the best of "
            "several strategies looks better than it is."
        )

    @cached_property
    def _counts(self) -> pd.Series:
        return self.trials.groupby([*KEY, "problem"], sort=False).size()

    @cached_property
    def cap(self) -> int | None:
        """Length at which the trace itself was cut (`common_end`); some of its strategies may have been cut earlier."""
        return common_end(self.trials["tokens"])

    def trials_of(self, model: str) -> int:
        """Fewest trials that any problem and strategy of the model has: the largest N."""
        chosen = self._counts[self._counts.index.get_level_values("model") == canonical(model)]
        if chosen.empty:
            raise self._unknown(model)
        return int(chosen.min())

    def strategies(
        self,
        models: Iterable[str] | None = None,
        attentions: Iterable[str] | None = None,
        budgets: Iterable[int] | None = None,
        limits: Iterable[int] | None = None,
        trials: Iterable[int] | None = (1,),
        *,
        by_problem: bool = True,
    ) -> pd.DataFrame:
        """The strategy table: rows of each problem, or of WHOLE.

        Parameters
        ----------
        models, attentions, budgets : which of those in the trace; None for all. Budgets choose among sparse ones.
        limits : tokens at which trials are cut; None for the paper's, of each strategy as far as it goes.
        trials : N; None for the paper's as far as each model has them.

        Raises
        ------
        InputError : a model, an attention or a budget that the trace lacks, more trials than it has, a limit beyond
            the length at which a chosen strategy was cut itself.
        """
        chosen = self._chosen(models, attentions, budgets)
        limits = None if limits is None else list(limits)
        rows: list[tuple[Any, ...]] = []
        for key, group in chosen.groupby(list(KEY), sort=False):
            counts, cut = self._trials(trials, key[0]), self._limits(limits, self._end(group), key)
            problems = [
                (name, part["prompt_tokens"].to_numpy(), part["tokens"].to_numpy(), self._done(part))
                for name, part in group.groupby("problem", sort=False)
            ]
            for limit in cut:
                lengths = [np.minimum(tokens, limit) for _, _, tokens, _ in problems]
                solved = np.stack([
                    coverage(len(done), float((done <= limit).sum()), np.array(counts)) for _, _, _, done in problems
                ])  # fmt: skip
                if by_problem:
                    for (name, prompt, _, _), own, shares in zip(problems, lengths, solved, strict=True):
                        fixed = (*key, round(float(prompt.mean())), limit, float(own.mean()))
                        rows += [(*fixed, n, name, float(x), own) for n, x in zip(counts, shares, strict=True)]
                    continue
                # every problem weighs the same, however many trials it has
                mean = float(np.mean([own.mean() for own in lengths]))
                prompt = round(float(np.mean([p.mean() for _, p, _, _ in problems])))
                fewest = min(len(own) for own in lengths)
                everything = np.concatenate([binned(own, fewest) for own in lengths])
                shares = solved.mean(axis=0)
                rows += [
                    (*key, prompt, limit, mean, n, WHOLE, float(x), everything)
                    for n, x in zip(counts, shares, strict=True)
                ]
        return frame(rows)

    @staticmethod
    def _done(part: pd.DataFrame) -> np.ndarray:
        """Tokens after which each trial is right; infinity for one that never is."""
        at = part["answer_at"].to_numpy()
        done = np.where(np.isnan(at), part["tokens"].to_numpy(), at)
        return np.where(part["correct"].to_numpy(), done, np.inf)

    def _unknown(self, model: str) -> InputError:
        return InputError("no trials of this model in the trace", file=self.name, place="model", found=model,
                          allowed=near_matches(model, self.models))  # fmt: skip

    def _chosen(self, models: Any, attentions: Any, budgets: Any) -> pd.DataFrame:
        table = self.trials
        if models is not None:
            models = list(models)
            names = [canonical(model) for model in models]
            for given, name in zip(models, names, strict=True):
                if name not in self.models:
                    raise self._unknown(given)
            table = table[table["model"].isin(names)]
        for what, wanted in (("attention", attentions), ("budget", budgets)):
            if wanted is None:
                continue
            wanted = check_attentions(wanted) if what == "attention" else list(wanted)
            sparse = table["attention"] != "dense"
            there = set(table.loc[sparse, what] if what == "budget" else table[what])
            if missing := [value for value in wanted if value not in there and not (what == "budget" and not there)]:
                raise InputError(f"no trials with this {what} in the trace", file=self.name, place=what,
                                 found=missing[0], allowed=", ".join(map(str, sorted(there))))  # fmt: skip
            table = table[table[what].isin(wanted) | (~sparse if what == "budget" else False)]
        return table

    def _end(self, group: pd.DataFrame) -> int | None:
        """Where the trials of a strategy were cut: by their own common end, or by that of the whole trace."""
        own = common_end(group["tokens"])
        return self.cap if own is None else own

    def _limits(self, limits: list[int] | None, end: int | None, key: tuple[Any, ...]) -> list[int]:
        if limits is None:
            last = LIMITS[-1] if end is None else min(end, LIMITS[-1])
            return [limit for limit in LIMITS if limit < last] + [last]
        for limit in limits:
            if limit < 1 or (end is not None and limit > end):
                raise InputError(
                    f"the trace of {strategy_name(key)} was cut before that" if limit >= 1 else "below 1",
                    file=self.name, place="limit", found=limit,
                    allowed="1 and more" if end is None else f"1 to {end:,} tokens",
                )  # fmt: skip
        return limits

    def _trials(self, trials: Iterable[int] | None, model: str) -> list[int]:
        most = self.trials_of(model)
        if trials is None:
            return [n for n in TRIALS if n <= most]
        values = list(trials)
        for n in values:
            if not 1 <= n <= most:
                raise InputError(
                    f"the trace has {most} trials of a problem of {model}, from which coverage of more cannot be known",
                    file=self.name, place="trials", found=n, allowed=f"1 to {most}",
                )  # fmt: skip
        return values


def read_trials(path: str | Path) -> Traces:
    """A table of trials, CSV or Parquet: problem, trial, tokens, correct and, if it has them, model, attention, budget,
    page, local, answer_at, prompt_tokens. Without `model` all are of one, named after the file.

    InputError for missing columns, lengths that are no numbers above 0, `correct` that is neither true nor false, an
    unknown attention, a KV budget missing, a trial that occurs twice, and if no trial is right.
    """
    import pandas as pd

    table = read_table(path, NEEDED, numbers=("tokens", "prompt_tokens"))
    right = table["correct"].map(lambda value: _RIGHT.get(str(value).strip().lower(), np.nan))
    _refuse(path, right.isna(), "correct", table, "neither right nor wrong", "true, false, 1, 0")
    _refuse(path, ~(table["tokens"] > 0), "tokens", table, "not above 0", "tokens that were generated")
    _refuse(
        path, table["tokens"] >= MOST_TOKENS, "tokens", table, "longer than any trial", f"below {MOST_TOKENS:,} tokens"
    )
    answer = pd.Series(np.nan, index=table.index)
    if "answer_at" in table:
        answer = pd.to_numeric(table["answer_at"], errors="coerce")
        bad = (table["answer_at"].notna() & answer.isna()) | (answer <= 0) | (answer > table["tokens"])
        _refuse(path, bad, "answer_at", table, "not a token of the trial", "1 to the trial's tokens, or nothing")
    made = pd.DataFrame(
        {
            "model": table["model"].map(canonical) if "model" in table else Path(path).stem.lower(),
            "attention": table.get("attention", "dense"),
            "problem": table["problem"].astype(str),
            "trial": table["trial"].astype(str),
            "tokens": table["tokens"],
            "correct": right > 0,
            "answer_at": answer,
            "prompt_tokens": table.get("prompt_tokens", float(PROMPT)),
        }
    )
    for name in ("budget", "page", "local"):
        values = pd.to_numeric(table.get(name, pd.Series(0, index=table.index)), errors="coerce")
        made[name] = values.where((made["attention"] != "dense") & (values > 0), 0)
    for value in made["attention"].unique():
        check_attentions([value])
    sparse, blocks = made["attention"] != "dense", made["attention"] == "block_top_k"
    _refuse(path, sparse & (made["budget"] < 1), "budget", table, "no KV budget", "tokens, from 1 on")
    _refuse(path, blocks & (made["page"] < 1), "page", table, "no page of block top-k", "tokens, from 1 on")
    said = "Answers appear where the table says." if "answer_at" in table else "Answers appear at the end of a trial."
    return traces(str(path), made, said)


def traces(name: str, trials: pd.DataFrame, said: str = "", warnings: Iterable[str] = ()) -> Traces:
    """Traces of a frame with TRIAL_COLUMNS, checked: no trial twice, and some right one. Strategies without a right
    trial, and a common end of the longest, are warned of.
    """
    table = trials.astype({"budget": "int64", "page": "int64", "local": "int64"})[list(TRIAL_COLUMNS)]
    table.loc[table["attention"] == "dense", ["budget", "page", "local"]] = 0
    if (twice := table.duplicated([*KEY, "problem", "trial"])).any():
        row = table[twice].iloc[0]
        raise InputError(
            "a trial occurs twice", file=name, found=f"{row['model']}, problem {row['problem']}, trial {row['trial']}",
            allowed="each trial of a problem once; columns model, attention and budget tell strategies apart",
        )  # fmt: skip
    if not table["correct"].any():
        raise InputError(
            "no trial is right: nothing can be compared", file=name, found=f"{len(table):,} trials",
            allowed="at least one correct trial",
        )  # fmt: skip
    found, cap = list(warnings), common_end(table["tokens"])
    for key, group in table.groupby(list(KEY), sort=False):
        if not group["correct"].any():
            found.append(f"{strategy_name(key)}: no trial is right")
        if (end := common_end(group["tokens"])) not in (None, cap):
            found.append(f"{strategy_name(key)}: the longest trials all end at {end:,} tokens: taken for their limit")
    if cap is not None:
        found.append(
            f"the longest trials all end at {cap:,} tokens: taken for the limit of the trace, not for their length"
        )
    return Traces(name, table.reset_index(drop=True), said, tuple(found))


def strategy_name(key: tuple[Any, ...]) -> str:
    """`qwen3-8b, top_k, KV budget 1,024`, of the values of KEY."""
    return f"{key[0]}, {key[1]}" + (f", KV budget {key[2]:,}" if key[2] else "")


def _refuse(path: Any, bad: pd.Series, column: str, table: pd.DataFrame, problem: str, allowed: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        found = str(table[column].iloc[row]) if column in table else None
        raise InputError(problem, file=path, place=f"row {row + 1}, column {column}", found=found, allowed=allowed)
