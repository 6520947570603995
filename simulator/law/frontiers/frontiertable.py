"""Frontiers on a terminal: the tables of `kinesim law frontier`, from its document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulator.law.amounts import UNIT_WORDS, amount
from simulator.law.frontiers.frontierplot import ATTENTION_WORDS
from simulator.law.frontiers.frontierview import STRATEGY_WORDS
from simulator.law.labels import size_label

SAME = 5e-4
"""Accuracies this near to the highest one are shown as the highest one, and its cost is the least that reaches them."""


def show_frontier(document: Mapping[str, Any], out: Path | None) -> None:
    """For every panel the best models and what sparse attention gains and saves; then what it all rests on."""
    from simulator.display import _console

    console, unit = _console(), document["unit"]
    words = STRATEGY_WORDS[document["strategy"]]
    console.print(f"{words}: accuracy against the cost of a problem in {UNIT_WORDS[unit]}", style="bold")
    console.print(f"accuracies: {document['accuracy']['name']}", style="dim")
    for panel in document["panels"]:
        published = ", as published" if document["as_published"] else ""
        console.print(f"\n{panel['title']}{published}", style="bold")
        console.print(_best_models(panel, unit))
        for kind in panel["sparse"]:
            console.print()
            console.print(_comparison(panel, kind, unit))
            for row in panel["sparse"][kind]["at"]:
                console.print(_mark_words(row, ATTENTION_WORDS.get(kind, kind), unit))
    console.print()
    for note in (*_columns_notes(document), *notes_of(document)):
        console.print(f"note: {note}", style="yellow")
    if out is not None:
        console.print(f"written to {out}")


def notes_of(document: Mapping[str, Any]) -> list[str]:
    """What the answer rests on and what it cannot say, each once."""
    accuracy = document["accuracy"]
    panels = [note for panel in document["panels"] for note in panel["notes"]]
    return list(dict.fromkeys([accuracy["note"], *accuracy["warnings"], *panels]))


def _columns_notes(document: Mapping[str, Any]) -> list[str]:
    """What the columns need words for."""
    found = [one for panel in document["panels"] for one in panel["sparse"].values()]
    rows = [row for one in found for row in (one, *one["models"].values(), *one["alternatives"].values())]
    notes = []
    gains = any(row["gain"] for row in rows)
    if gains:
        notes.append(
            "gain: points more at equal cost; saving: how many times less cost at equal accuracy; each the largest"
        )
    if any(row["growth"] for one in found for row in one["models"].values()):
        notes.append(
            "last two columns: what the best KV budget and the generated tokens of a problem (all its trials) are "
            "multiplied by when the cost doubles"
        )
    if any(row["gain"] and not row["gain"]["dense_affordable"] for row in rows):
        notes.append("* dense attention can afford nothing at that cost: its accuracy counts as 0, as in the paper")
    if any(one["alternatives"] for one in found):
        notes.append("differ more, less: if problems differ more (N trials solve fewer of them) or less than assumed")
    if (
        gains
        and document["as_published"]
        and document["accuracy"]["kind"] == "curves"
        and not any(one["at"] for one in found)
    ):
        notes.append(
            "the largest gain and saving; the paper marks others in its figures: ask for places by --at 80ms,76%"
        )
    return notes


def _best_models(panel: Mapping[str, Any], unit: str) -> Any:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for envelope in panel["envelopes"]:
        kind = ATTENTION_WORDS.get(envelope["attention"], envelope["attention"])
        table.add_row(f"best model, {kind}", _spans_words(panel, envelope, unit))
    return table


def _spans_words(panel: Mapping[str, Any], envelope: Mapping[str, Any], unit: str) -> str:
    """`1.7B from 145 T (0 %), 4B from 216 T (6 %); at most 82.3 %, from 20,590 T`: where each takes over."""
    spans = envelope["spans"]
    if not spans:
        return "solves nothing at these costs"
    parts = [f"{size_label(s['model'])} from {amount(s['start'], unit)} ({100 * s['low']:.0f} %)" for s in spans]
    accuracy, cost = _highest(panel["costs"], envelope["accuracy"])
    return ", ".join(parts) + f"; at most {100 * accuracy:.1f} %, from {amount(cost, unit)}"


def _highest(costs: Sequence[float], accuracy: Sequence[float]) -> tuple[float, float]:
    """The highest accuracy, and the lowest cost of it."""
    line = np.array(accuracy, dtype=float)
    return float(line.max()), float(costs[int(np.argmax(line >= line.max() - SAME))])


def _comparison(panel: Mapping[str, Any], kind: str, unit: str) -> Any:
    """A row a model, and one of the best models at each cost."""
    from rich.table import Table

    found = panel["sparse"][kind]
    grows = any(row["growth"] for row in found["models"].values())
    words = ATTENTION_WORDS.get(kind, kind)
    heads = ["model", "dense\nsolves", "\nfrom", f"{words}\nsolves", "\nfrom"]
    heads += ["gain,\npoints", "\nat", "\nsaving", "\nat", *(["2 x cost:\nbudget", "\ntokens"] if grows else [])]
    table = Table(box=None, pad_edge=False)
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if not i else "right", no_wrap=True)
    for model, row in found["models"].items():
        own = [_top(panel, "curves", unit, attention=a, model=model) for a in ("dense", kind)]
        ways = _growth_words(row["growth"]) if grows else ()
        table.add_row(size_label(model), *own[0], *own[1], *_against_words(row, unit), *ways)
    best = [_top(panel, "envelopes", unit, attention=a) for a in ("dense", kind)]
    table.add_row("best of all", *best[0], *best[1], *_against_words(found, unit), style="bold")
    for name, row in found["alternatives"].items():
        table.add_row(
            {"low": "differ more", "high": "differ less"}.get(name, name), "", "", "", "", *_against_words(row, unit)
        )
    return table


def _top(panel: Mapping[str, Any], what: str, unit: str, **wanted: str) -> tuple[str, str]:
    """`76.4 %`, `20,000 T`."""
    for line in panel[what]:
        if all(line[key] == value for key, value in wanted.items()):
            accuracy, cost = _highest(panel["costs"], line["accuracy"])
            return f"{100 * accuracy:.1f} %", amount(cost, unit)
    return "-", ""


def _against_words(row: Mapping[str, Any], unit: str) -> tuple[str, ...]:
    gain, saving, words = row["gain"], row["saving"], ["-", "", "-", ""]
    if gain is not None:
        words[:2] = [f"+{100 * gain['points']:.1f}", amount(gain["cost"], unit)]
        words[1] += "" if gain["dense_affordable"] else " *"
    if saving is not None:
        words[2:] = [f"{saving['ratio']:.1f} x", f"{100 * saving['accuracy']:.0f} %"]
    return tuple(words)


def _growth_words(row: Mapping[str, Any] | None) -> tuple[str, ...]:
    if row is None:
        return "-", "-"
    values = (row["budget_doubling"], row["tokens_doubling"])
    return tuple("-" if value is None else f"x {value:.2f}" for value in values)


def _mark_words(row: Mapping[str, Any], kind: str, unit: str) -> str:
    """`at 80 ms: dense 10.6 %, top-k 58.8 %: +48.2 points`, or at an accuracy the two costs."""
    if "cost" in row:
        place, last = amount(row["cost"], unit), row["points"]
        known = [None if row[key] is None else f"{100 * row[key]:.1f} %" for key in ("dense", "sparse")]
        said = None if last is None else f"{100 * last:+.1f} points"
    else:
        place, last = f"{100 * row['accuracy']:.4g} %", row["ratio"]
        known = [None if row[key] is None else amount(row[key], unit) for key in ("dense_cost", "sparse_cost")]
        said = None if last is None else f"{last:.2f} x"
    words = f"at {place}: dense {known[0] or 'not reached'}, {kind} {known[1] or 'not reached'}"
    return words if said is None else f"{words}: {said}"
