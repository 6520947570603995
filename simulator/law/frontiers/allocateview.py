"""Allocations for people and programs: the document of `kinesim law allocate --format json`, and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.law.amounts import UNIT_WORDS, amount
from simulator.law.frontiers.allocate import Allocation, alternative_accuracies
from simulator.law.frontiers.choices import uneven_notes
from simulator.law.frontiers.frontierplot import ATTENTION_WORDS
from simulator.law.frontiers.frontiertable import notes_of
from simulator.law.frontiers.frontierview import question_document
from simulator.law.labels import size_label
from simulator.result import plain

if TYPE_CHECKING:
    from simulator.law.frontiers.panels import Priced
    from simulator.law.frontiers.question import Question

ALLOCATE_SCHEMA = "kinesim-law-allocate/1"
CHOICE = ("problem", "model", "budget", "limit", "tokens", "trials", "accuracy", "cost")
"""Columns of a choice that are shown."""


def allocate_document(
    question: Question,
    answers: Sequence[Priced],
    found: Sequence[Sequence[Allocation]],
    scenario: str,
    sets: Sequence[str],
) -> dict[str, Any]:
    """The answer of `kinesim law allocate` as a JSON document.

    The question as in `kinesim-law-frontier/1`, and `panels` with `gpu`, `title`, `cost` (law, simulated), `notes` and
    `allocations`, for every cost and attention one: `limit` (the cost), `attention`, `accuracy`, `spent` (mean cost
    over the problems), `problems` (0 if the accuracy is known for the whole benchmark only), `models` (of how many
    problems each is the choice), `budget`, `tokens`, `trials` and `cut` (of the limit of tokens), each the quartiles
    over the problems that can be solved, or null; `choices`, by problem; `single`, the best strategy that is the same
    for all; `cheapest` and `cheapest_single`, the lowest cost of any strategy and of one for all; `alternatives`, of
    Best-of-N, the accuracies (`accuracy`, and `single`) with problems that differ less or more than assumed.
    """
    panels = [
        {
            "gpu": one.gpu.name,
            "title": one.title,
            "cost": one.kind,
            "allocations": _allocations(question, one, several),
            "notes": [*one.notes, *(uneven_notes(one.table) if question.per_problem else [])],
        }
        for one, several in zip(answers, found, strict=True)
    ]
    return {"schema": ALLOCATE_SCHEMA, **question_document(question, answers, scenario, sets), "panels": panels}


def _allocations(question: Question, one: Priced, found: Sequence[Allocation]) -> list[dict[str, Any]]:
    limits = list(dict.fromkeys(each.limit for each in found))
    others = {
        name: alternative_accuracies(table, cost, limits, per_problem=question.per_problem)
        for name, (table, cost) in one.alternatives.items()
    }
    rows = []
    for each in found:
        ends = {name: known.get((each.limit, each.attention), (None, None)) for name, known in others.items()}
        ways = {name: {"accuracy": own, "single": single} for name, (own, single) in ends.items()}
        rows.append(_allocation(each) | {"alternatives": ways})
    return rows


def _allocation(one: Allocation) -> dict[str, Any]:
    columns = {"budget": "budget", "tokens": "tokens", "trials": "trials", "cut": "limit"}
    return plain(
        {
            "limit": one.limit,
            "attention": one.attention,
            "accuracy": one.accuracy,
            "spent": one.spent,
            "problems": one.problems,
            "models": one.models(),
            **{key: one.quartiles(column) for key, column in columns.items()},
            "choices": one.chosen[list(CHOICE)].to_dict("records"),
            "single": None if one.single is None else {key: one.single[key] for key in CHOICE},
            "cheapest": one.cheapest,
            "cheapest_single": one.cheapest_single,
        }
    )


def choices_columns(answers: Sequence[Priced], found: Sequence[Sequence[Allocation]]) -> dict[str, np.ndarray]:
    """All choices as columns of a table: a row a GPU, kind of cost (`priced`), limit (`within`), attention, problem."""
    import pandas as pd

    parts = [
        each.chosen[list(CHOICE)].assign(gpu=one.gpu.name, priced=one.kind, within=each.limit, attention=each.attention)
        for one, several in zip(answers, found, strict=True)
        for each in several
    ]
    frame = pd.concat(parts, ignore_index=True)
    return {name: frame[name].to_numpy() for name in ("gpu", "priced", "within", "attention", *CHOICE)}


def show_allocations(document: Mapping[str, Any], out: Path | None) -> None:
    """For every panel a row a cost and attention; then what it rests on."""
    from simulator.display import _console

    console, unit = _console(), document["unit"]
    number = {"long_cot": 2, "best_of_n": 1}[document["strategy"]]
    words = {"long_cot": "long chain of thought", "best_of_n": "Best-of-N"}[document["strategy"]]
    console.print(f"Algorithm {number}, {words}: the best strategies within a cost, {UNIT_WORDS[unit]}", style="bold")
    console.print(f"accuracies: {document['accuracy']['name']}", style="dim")
    for panel in document["panels"]:
        published = ", as published" if document["as_published"] else ""
        console.print(f"\n{panel['title']}{published}", style="bold")
        if document["per_problem"]:
            console.print(_each_table(panel, document["strategy"], unit))
            console.print()
        console.print(_single_table(panel, document["strategy"], unit))
    console.print()
    if document["per_problem"]:
        console.print(
            "note: its own: chosen as if each problem's accuracies were known beforehand, every problem within the "
            "cost; alike: within it in the mean, single problems may take more; both the cheapest within 0.1 points",
            style="yellow",
        )
    if any(row["alternatives"] for panel in document["panels"] for row in panel["allocations"]):
        console.print("note: in brackets: if problems differ less or more than assumed", style="yellow")
    for note in notes_of(document):
        console.print(f"note: {note}", style="yellow")
    if out is not None:
        console.print(f"written to {out}: the choice of every problem")


def _table(columns: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i not in (1, 3) else "left", no_wrap=i != 3)
    return table


def _each_table(panel: Mapping[str, Any], strategy: str, unit: str) -> Any:
    """A choice for each problem: how many chose what."""
    what = "trials" if strategy == "best_of_n" else "cut at tokens"
    table = _table(("cost", "each its own", "solved", "models (problems)", what, "KV budget", "spent"))
    for row in panel["allocations"]:
        kind = ATTENTION_WORDS.get(row["attention"], row["attention"])
        if not row["choices"]:
            table.add_row(amount(row["limit"], unit), kind, "-", _nothing(row["cheapest"], unit), "", "", "")
            continue
        models = ", ".join(f"{size_label(name)} ({count})" for name, count in row["models"].items())
        short, known = row["problems"] - len(row["choices"]), sum(row["models"].values())
        models = models or "none"
        models += f", unsolved ({len(row['choices']) - known})" if len(row["choices"]) > known else ""
        models += f", unaffordable ({short})" if short else ""
        table.add_row(
            amount(row["limit"], unit), kind, _solved(row, "accuracy", row["accuracy"]), models,
            _quartiles(row["trials" if strategy == "best_of_n" else "cut"]),
            "-" if row["attention"] == "dense" else _quartiles(row["budget"]), amount(row["spent"], unit),
        )  # fmt: skip
    return table


def _single_table(panel: Mapping[str, Any], strategy: str, unit: str) -> Any:
    """One strategy for all problems."""
    what = "trials" if strategy == "best_of_n" else "cut at tokens"
    table = _table(("cost", "all alike", "solved", "model", what, "KV budget", "spent"))
    for row in panel["allocations"]:
        kind, single = ATTENTION_WORDS.get(row["attention"], row["attention"]), row["single"]
        if single is None:
            table.add_row(amount(row["limit"], unit), kind, "-", _nothing(row["cheapest_single"], unit), "", "", "")
            continue
        known = single["tokens"] is not None
        value = single["trials" if strategy == "best_of_n" else "limit"] if known else None
        table.add_row(
            amount(row["limit"], unit), kind, _solved(row, "single", single["accuracy"]), size_label(single["model"]),
            f"{value:,.0f}" if value is not None else "not known",
            "-" if row["attention"] == "dense" else f"{single['budget']:,.0f}" if known else "not known",
            amount(single["cost"], unit),
        )  # fmt: skip
    return table


def _solved(row: Mapping[str, Any], key: str, accuracy: float) -> str:
    """`90.3 %`, and beneath it in brackets with other spreads between problems, `(84 to 94)`."""
    others = [other[key] for other in row["alternatives"].values() if other[key] is not None]
    if not others:
        return f"{100 * accuracy:.1f} %"
    return f"{100 * accuracy:.1f} %\n({100 * min(others):.0f} to {100 * max(others):.0f})"


def _nothing(lowest: float | None, unit: str) -> str:
    if lowest is None:
        return "no strategy is known of all problems"
    return f"nothing below {amount(lowest, unit)}"


def _quartiles(values: Sequence[float] | None) -> str:
    """The median, and beneath it the quartiles: `512`, `(256 to 1,024)`."""
    if values is None:
        return "-"
    low, middle, high = values
    return f"{middle:,.0f}" if low == high else f"{middle:,.0f}\n({low:,.0f} to {high:,.0f})"
