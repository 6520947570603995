"""From an accuracy model and a scenario to priced strategies: what `law frontier` and `law allocate` share.

The strategies of a question are laid out once and priced once for each GPU and each kind of cost: by the law (the
closed form) or by the simulator. Digitised curves are a special case (`simulator.law.recost`); `Priced.notes` says what
was done with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError, near_matches
from simulator.law.costs import law_costs
from simulator.law.frontier import Frontier, frontier
from simulator.law.pricing import UNITS
from simulator.law.recost import PUBLISHED_UNITS, Lines, line_rows, published_lines, recosted
from simulator.law.strategies import ATTENTIONS, BUDGETS, LIMITS, TRIALS

if TYPE_CHECKING:
    from hwspecs.gpu import Gpu
    from simulator.progress import Report

STRATEGIES = ("long_cot", "best_of_n")
SCENARIOS = {"long_cot": "aime24-long-cot", "best_of_n": "aime24-best-of-32"}
"""Bundled scenario that says how each strategy is served, where none is given."""
COSTS = ("law", "simulated")
COST_WORDS = {"law": "the law", "simulated": "simulated"}


@dataclass(frozen=True)
class Question:
    """What is asked of an accuracy model.

    Attributes
    ----------
    accuracy : from `simulator.law.accuracy.load_accuracy`.
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
        if self.strategy not in STRATEGIES:
            allowed = near_matches(self.strategy, STRATEGIES)
            raise InputError("unknown strategy", place="--strategy", found=self.strategy, allowed=allowed)

    def table(self) -> Any:
        """The strategy table; of digitised curves the dense strategies only. InputError for data that it lacks."""
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
        if not one:
            asked["limits"] = (max(asked["limits"]),) if asked["limits"] else None
        return self.accuracy.strategies(**asked)

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
    from simulator.law.accuracy import load_accuracy
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


@dataclass(frozen=True)
class Priced:
    """Strategies with their costs on one GPU, by one kind of cost.

    Attributes
    ----------
    gpu : the GPU. kind : `law` or `simulated`.
    table, cost : the strategies, and what each costs per problem in the question's unit.
    lines : curves known as a whole only: (model, attention) -> costs and accuracies.
    notes : what was taken, assumed or left out.
    alternatives : by name, tables and costs with other spreads between problems (`Question.alternatives`).
    """

    gpu: Gpu
    kind: str
    table: Any
    cost: np.ndarray
    lines: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]
    notes: tuple[str, ...]
    alternatives: Mapping[str, tuple[Any, np.ndarray]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.gpu.title}: {COST_WORDS[self.kind]}"


def priced(
    question: Question,
    kinds: Sequence[str],
    gpus: Sequence[str] | None,
    scenario: str | None = None,
    sets: Sequence[str] = (),
    *,
    jobs: int | None = None,
    progress: Report | None = None,
) -> list[Priced]:
    """The question's strategies, priced on each of `gpus` by each of `kinds`, GPU by GPU.

    Parameters
    ----------
    kinds : of `COSTS`.
    gpus : names; the scenario's own one if None (as published: a B200).
    scenario : bundled name or file that says how the strategies are served (of the law: only the GPU), and `sets` its
        overrides.
    jobs : processes that simulate.

    Raises
    ------
    InputError : an unknown kind, GPU, model or scenario, an override that does not fit, data that the accuracy model
        lacks.
    """
    for kind in kinds:
        if kind not in COSTS:
            raise InputError("unknown cost", place="--cost", found=kind, allowed=near_matches(kind, COSTS))
    if question.as_published and "simulated" in kinds:
        raise InputError(
            "only the law has a published form", place="--as-published", allowed="--as-published with --cost law"
        )
    base = base_of(question, scenario)
    table = question.table()
    names = gpus or (("b200-sxm",) if question.as_published else (None,))
    answers = []
    for name in names:
        over = [*([f"gpu={name}"] if name else []), *sets]
        for kind in kinds:
            answers.append(_priced(question, kind, table, base, over, jobs, progress))
    return answers


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


def all_rows(one: Priced) -> tuple[Any, np.ndarray]:
    """All strategies and their costs, the points of curves that are known as a whole among them."""
    import pandas as pd

    if not one.lines:
        return one.table, one.cost
    rows, cost = line_rows(one.lines, list(one.table.columns))
    return pd.concat([one.table, rows], ignore_index=True), np.concatenate([one.cost, cost])


def frontiers(answers: Sequence[Priced], question: Question, *, smooth: int = 1, points: int = 200) -> list[Frontier]:
    """The frontier of each priced table."""
    return [
        frontier(
            one.table,
            one.cost,
            points=points,
            smooth=smooth,
            interpolate=question.accuracy.kind == "curves",
            whole=one.lines,
            per_problem=question.per_problem,
        )
        for one in answers
    ]


def alternative_frontiers(one: Priced, question: Question, costs: np.ndarray) -> dict[str, Frontier]:
    """The frontiers of a priced table's alternatives, along the same costs."""
    return {
        name: frontier(table, cost, costs=costs, per_problem=question.per_problem)
        for name, (table, cost) in one.alternatives.items()
    }


def _priced(
    question: Question, kind: str, table: Any, base: Any, over: Sequence[str], jobs: int | None, progress: Report | None
) -> Priced:
    from workloads.scenario import load_scenario

    gpu = load_scenario(base, over).gpu

    def price(rows: Any) -> np.ndarray:
        if kind == "law":
            return law_costs(rows, gpu, question.unit, as_published=question.as_published)
        from simulator.law.simulated import simulated_costs

        return simulated_costs(rows, base, question.unit, sets=over, jobs=jobs, progress=progress)

    if question.accuracy.kind != "curves":
        import pandas as pd

        others = {name: other.table() for name, other in question.alternatives().items()}
        tables = [table, *others.values()]
        costs = np.split(price(pd.concat(tables, ignore_index=True)), np.cumsum([len(one) for one in tables])[:-1])
        ends = {name: (other, cost) for (name, other), cost in zip(others.items(), costs[1:], strict=True)}
        return Priced(gpu, kind, table, costs[0], {}, _trial_notes(question), ends)
    curves, unit = question.accuracy, PUBLISHED_UNITS.get(question.unit)
    asked = question.attentions or tuple(dict.fromkeys(curves.points["attention"]))
    published = question.as_published and unit is not None
    whole = [name for name in asked if name != "dense" or (published and question.limits is None)]
    lines = published_lines(curves.points, question.models, whole, curves.name) if whole else {}
    if published:
        lines = {key: (costs * unit, solved) for key, (costs, solved) in lines.items()}
        note = "curves as published, at their published costs; the tokens and KV budgets behind them are not known"
        return Priced(gpu, kind, *_without(table, price, lines), lines, (note,))
    if not lines:
        return Priced(gpu, kind, table, price(table), {}, ())
    lines, note = recosted(lines, question.budgets or BUDGETS, price)
    return Priced(gpu, kind, table, price(table) if len(table) else np.zeros(0), lines, (note,))


def _trial_notes(question: Question) -> tuple[str, ...]:
    """Of traces: what choosing by noisy accuracies does."""
    if question.accuracy.kind != "traces" or not question.per_problem:
        return ()
    return (
        "every problem's strategy is chosen by the trials that its accuracy is then taken from, as the authors do: "
        "the more strategies and the fewer trials, the more this flatters",
    )


def _without(table: Any, price: Any, lines: Lines) -> tuple[Any, np.ndarray]:
    """The strategies whose curves are not among `lines`, and their costs."""
    table = table[[key not in lines for key in zip(table["model"], table["attention"], strict=True)]]
    return table, price(table) if len(table) else np.zeros(0)
