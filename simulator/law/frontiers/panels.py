"""From an accuracy model and a scenario to priced strategies: what `law frontier` and `law allocate` share.

The strategies of a question are laid out once and priced once for each GPU and each kind of cost: by the law (the
closed form) or by the simulator. Digitised curves are a special case (`recost`); `Priced.notes` says what
was done with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError, near_matches
from simulator.law.costs import law_costs
from simulator.law.frontiers.frontier import Frontier, frontier
from simulator.law.frontiers.question import Question, base_of
from simulator.law.frontiers.recost import PUBLISHED_UNITS, Lines, line_rows, published_lines, recosted
from simulator.law.strategies import BUDGETS

if TYPE_CHECKING:
    from hwspecs.gpu import Gpu
    from simulator.progress import Report

COSTS = ("law", "simulated")
COST_WORDS = {"law": "the law", "simulated": "simulated"}


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


def usual_unit(kinds: Sequence[str]) -> str:
    """The unit of a cost where none is asked for: eFLOPs hide what a simulation shows, the time that they take."""
    return "seconds" if "simulated" in kinds else "eflops"


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
    if gpus and any(one.partition("=")[0].strip() == "gpu" for one in sets):
        raise InputError(
            "the GPU is given twice", place="--gpu", found=", ".join(gpus), allowed="--gpu or --set gpu=..."
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

    notes = list(table.attrs.get("notes", []))
    if question.unit == "usd" and gpu.price is None:
        allowed = "--set gpu.price='{usd_per_hour: 4, date: 2026-05}', or a GPU with a price"
        raise InputError("no price is known of this GPU", place="gpu", found=gpu.name, allowed=allowed)

    def price(rows: Any) -> np.ndarray:
        if kind == "law":
            return law_costs(rows, gpu, question.unit, as_published=question.as_published)
        from simulator.law.serving.simulated import simulate_strategies, summed_notes

        work = question.unit in ("eflops", "joules")
        found = simulate_strategies(rows, base, sets=over, jobs=jobs, progress=progress, work=work)
        for note in summed_notes(rows, found):
            if "interpolated between" in note:
                notes.append("simulated: interpolated between the lengths that were simulated")
            elif note.startswith("mean over lengths"):
                notes.append(f"simulated: {note}")
            else:  # of this GPU, such as a model that does not fit on it
                notes.append(f"simulated on {gpu.name}: {note}")
        return found[question.unit].to_numpy(dtype=float)

    if question.accuracy.kind != "curves":
        import pandas as pd

        others = {name: other.table() for name, other in question.alternatives().items()}
        tables = [table, *others.values()]
        costs = np.split(price(pd.concat(tables, ignore_index=True)), np.cumsum([len(one) for one in tables])[:-1])
        ends = {name: (other, cost) for (name, other), cost in zip(others.items(), costs[1:], strict=True)}
        return Priced(gpu, kind, table, costs[0], {}, tuple(dict.fromkeys(notes)), ends)
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
        cost = price(table)
        return Priced(gpu, kind, table, cost, {}, tuple(dict.fromkeys(notes)))
    lines, note = recosted(lines, question.budgets or BUDGETS, price)
    cost = price(table) if len(table) else np.zeros(0)
    return Priced(gpu, kind, table, cost, lines, (note, *dict.fromkeys(notes)))


def _without(table: Any, price: Any, lines: Lines) -> tuple[Any, np.ndarray]:
    """The strategies whose curves are not among `lines`, and their costs."""
    other = [key not in lines for key in zip(table["model"], table["attention"], strict=True)]
    table = table[np.array(other, dtype=bool)]
    return table, price(table) if len(table) else np.zeros(0)
