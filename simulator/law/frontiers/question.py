"""What `law frontier` and `law allocate` are asked: an accuracy model and the strategies to lay out on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hwspecs.errors import InputError, near_matches
from simulator.law.pricing import UNITS
from simulator.law.strategies import ATTENTIONS, AXES, BUDGETS, LIMITS, SCENARIOS, TRIALS


@dataclass(frozen=True)
class Question:
    """What is asked of an accuracy model.

    Attributes
    ----------
    accuracy : from `simulator.law.accuracy.sources.load_accuracy`.
    strategy : `long_cot` (Algorithm 2: one trial, cut at each of `limits`) or `best_of_n` (Algorithm 1: each number of
        `trials`, cut at the largest of `limits`).
    models, attentions (of `ATTENTIONS`), budgets (KV, of sparse attention, tokens), limits, trials : None for all that
        the data has; of a parametric model, which has them all, for those of the paper.
    per_problem : whether each problem has its own choice.
    unit : of `simulator.law.pricing.UNITS`.
    as_published : the law with the authors' formulas, parameter counts and B200.
    """

    accuracy: Any
    strategy: str = "long_cot"
    models: tuple[str, ...] | None = None
    attentions: tuple[str, ...] | None = None
    budgets: tuple[int, ...] | None = None
    limits: tuple[int, ...] | None = None
    trials: tuple[int, ...] | None = None
    per_problem: bool = True
    unit: str = "eflops"
    as_published: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in AXES:
            allowed = near_matches(self.strategy, AXES)
            raise InputError("unknown strategy", place="--strategy", found=self.strategy, allowed=allowed)
        if self.strategy == "long_cot" and self.trials not in (None, (1,)):
            raise InputError(
                "a long chain of thought is one trial", place="--trials", found=", ".join(map(str, self.trials)),
                allowed="--strategy best_of_n",
            )  # fmt: skip

    def table(self) -> Any:
        """The strategy table; of digitised curves the dense strategies only. `attrs["notes"]` says what goes beyond the
        data. InputError for data that it lacks.
        """
        kind, one = self.accuracy.kind, self.strategy == "long_cot"
        asked: dict[str, Any] = {
            "models": self.models, "attentions": self.attentions, "budgets": self.budgets, "limits": self.limits,
            "trials": (1,) if one else self.trials, "by_problem": self.per_problem,
        }  # fmt: skip
        if kind == "curves":
            if not one:
                raise InputError(
                    "curves of accuracy against cost say nothing of several trials", file=self.accuracy.name,
                    allowed="--strategy long_cot, or an accuracy model with the spread over problems",
                )  # fmt: skip
            dense = () if self.attentions is not None and "dense" not in self.attentions else ("dense",)
            return self.accuracy.strategies(**asked | {"attentions": dense, "budgets": (), "by_problem": False})
        if kind == "parametric":
            paper = {"attentions": ("dense", "top_k"), "budgets": BUDGETS, "limits": LIMITS, "trials": TRIALS}
            asked = {key: paper.get(key) if value is None else value for key, value in asked.items()}
        if not one and asked["limits"]:
            asked["limits"] = (max(asked["limits"]),)
        table = self.accuracy.strategies(**asked)
        if one:
            return table
        # Of traces, strategies may have been cut at different lengths.
        longest = table.groupby(["model", "attention", "budget", "page", "local"])["limit"].transform("max")
        return table[table["limit"] == longest].reset_index(drop=True)

    def alternatives(self) -> dict[str, Question]:
        """The same of other spreads between problems, where the accuracy model has some and several trials ask for it.

        What one trial solves is fitted; what N of them solve depends on how much problems differ, which is assumed.
        """
        if self.strategy != "best_of_n" or self.accuracy.kind != "parametric":
            return {}
        return {name: replace(self, accuracy=self.accuracy.with_spread(name)) for name in self.accuracy.alternatives}


def read_question(
    strategy: str,
    accuracy: Any,
    models: str | None,
    attention: str | None,
    budgets: str | None,
    *,
    limits: str | None = None,
    trials: str | None = None,
    unit: str,
    as_published: bool,
    per_problem: bool,
) -> Question:
    """A question from what a user wrote; `models` and so on are comma lists. InputError for what is not allowed."""
    from simulator.law import options
    from simulator.law.accuracy.sources import load_accuracy
    from simulator.law.tables import canonical

    if unit not in UNITS:
        raise InputError("unknown unit of a cost", place="--unit", found=unit, allowed=near_matches(unit, UNITS))
    kinds = None if attention is None else options.words(attention, "--attention", ", ".join(ATTENTIONS))
    for kind in kinds or ():
        if kind not in ATTENTIONS:
            raise InputError(
                "unknown attention", place="--attention", found=kind, allowed=near_matches(kind, ATTENTIONS)
            )

    def numbers(text: str | None, option: str) -> tuple[int, ...] | None:
        return None if text is None else tuple(sorted(options.numbers(text, option)))

    return Question(
        load_accuracy(accuracy),
        strategy,
        None if models is None else tuple(canonical(model.name) for model in options.models(models)),
        None if kinds is None else tuple(kinds),
        numbers(budgets, "--budget"),
        numbers(limits, "--limits"),
        numbers(trials, "--trials"),
        per_problem,
        unit,
        as_published,
    )


def base_of(question: Question, scenario: str | None) -> str:
    """The scenario that says how the question's strategies are served."""
    return SCENARIOS[question.strategy] if scenario is None else scenario


def gpu_names(text: str | None) -> list[str] | None:
    """The names of a comma list of GPUs, checked; None for none. InputError for an unknown one."""
    from simulator.law import options

    if text is None:
        return None
    options.gpus(text)
    return options.words(text, "--gpu", "names of GPUs")
