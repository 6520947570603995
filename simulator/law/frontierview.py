"""Frontiers for people and programs: the document of `kinesim law frontier --format json`, and its tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hwspecs.errors import InputError
from simulator.files import check_writable
from simulator.graphview import PICTURES
from simulator.law.amounts import UNIT_WORDS, amount
from simulator.law.envelopes import growth, largest_gain, largest_saving
from simulator.law.frontier import Curve, Frontier
from simulator.law.frontierplot import ATTENTION_WORDS, draw_frontiers, short_name
from simulator.law.panels import Priced, Question, alternative_frontiers
from simulator.tables import SUFFIXES, check_table_path, write_columns

STRATEGY_WORDS = {"long_cot": "Long chain of thought", "best_of_n": "Best-of-N"}
FRONTIER_SCHEMA = "kinesim-law-frontier/1"


def frontier_document(
    question: Question,
    answers: Sequence[Priced],
    found: Sequence[Frontier],
    scenario: str,
    sets: Sequence[str],
    smooth: int,
) -> dict[str, Any]:
    """The answer of `kinesim law frontier` as a JSON document.

    `strategy`, `unit`, `as_published`, `attentions`, `budgets`, `per_problem`, `smooth`, `scenario` and `sets` repeat
    the question, `accuracy` says what it rests on (kind, name, note, warnings). `panels` has for every GPU and kind of
    cost: `gpu`, `title`, `cost` (law, simulated), `costs` (per problem, in `unit`), `curves` and `envelopes` along them
    (`simulator.law.frontier.Curve`, `envelopes.Envelope`; null where there is nothing), `sparse`: by attention the
    largest `gain` and `saving` of the envelopes and, under `models`, of each model, with the `growth` of its choices,
    and under `alternatives` those of the envelopes with problems that differ less or more (Best-of-N rests on it), and
    `notes`.
    """
    return {
        "schema": FRONTIER_SCHEMA,
        **question_document(question, answers, scenario, sets),
        "smooth": smooth,
        "panels": [_panel(question, one, front) for one, front in zip(answers, found, strict=True)],
    }


def question_document(
    question: Question, answers: Sequence[Priced], scenario: str, sets: Sequence[str]
) -> dict[str, Any]:
    """What was asked, and the accuracies that it rests on."""
    accuracy, table = question.accuracy, answers[0].table
    budgets = sorted({int(budget) for budget in table["budget"] if budget})
    attentions = dict.fromkeys([*table["attention"], *(kind for _, kind in answers[0].lines)])
    return {
        "strategy": question.strategy,
        "unit": question.unit,
        "as_published": question.as_published,
        "attentions": sorted(attentions, key=lambda kind: kind != "dense"),
        "budgets": budgets,
        "per_problem": question.per_problem and accuracy.kind != "curves",
        "scenario": scenario,
        "sets": list(sets),
        "accuracy": {
            "kind": accuracy.kind, "name": accuracy.name, "note": accuracy.note, "warnings": list(accuracy.warnings)
        },
    }  # fmt: skip


def finite(value: Any) -> Any:
    """Plain data without NaN and infinities, which JSON does not have: None stands for them."""
    if isinstance(value, np.ndarray):
        return [finite(v) for v in value.tolist()]
    if isinstance(value, Mapping):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _panel(question: Question, one: Priced, front: Frontier) -> dict[str, Any]:
    others = alternative_frontiers(one, question, front.costs)
    return {
        "gpu": one.gpu.name,
        "title": one.title,
        "cost": one.kind,
        "costs": finite(front.costs),
        "curves": [finite(asdict(curve)) for curve in front.curves],
        "envelopes": [finite(asdict(envelope)) for envelope in front.envelopes],
        "sparse": {
            kind: _against_dense(front, kind)
            | {"alternatives": {name: _envelopes_compared(other, kind) for name, other in others.items()}}
            for kind in front.sparse
        },
        "notes": [*one.notes, *front.notes],
    }


def _against_dense(front: Frontier, kind: str) -> dict[str, Any]:
    """Gain, saving and growth of one sparse attention, over the models and for each."""
    models = {}
    for curve in sorted(front.curves, key=lambda curve: front.sizes.index(curve.model)):
        if curve.attention == kind:
            dense = [c for c in front.curves if (c.model, c.attention) == (curve.model, "dense")]
            models[curve.model] = _pair(front.costs, dense[0] if dense else None, curve)
    return {**_envelopes_compared(front, kind), "models": models}


def _envelopes_compared(front: Frontier, kind: str) -> dict[str, Any]:
    if not any(envelope.attention == "dense" for envelope in front.envelopes):
        return {"gain": None, "saving": None}
    dense, sparse = front.envelope("dense").accuracy, front.envelope(kind).accuracy
    return _compared(front.costs, dense, sparse, front.affordable("dense"))


def _pair(costs: np.ndarray, dense: Curve | None, sparse: Curve) -> dict[str, Any]:
    found = {"gain": None, "saving": None}
    if dense is not None:
        found = _compared(costs, dense.accuracy, sparse.accuracy, dense.affordable > 0)
    grown = growth(costs, sparse.accuracy, sparse.budget, sparse.tokens, sparse.trials)
    ways = None if grown is None else finite(asdict(grown))
    if grown is not None and ways is not None:
        ways |= finite({"budget_doubling": grown.budget_doubling, "tokens_doubling": grown.tokens_doubling})
    return {**found, "growth": ways}


def _compared(costs: np.ndarray, dense: np.ndarray, sparse: np.ndarray, affordable: np.ndarray) -> dict[str, Any]:
    gain, saving = largest_gain(costs, dense, sparse, affordable), largest_saving(costs, dense, sparse)
    return {"gain": gain and asdict(gain), "saving": saving and asdict(saving)}


def check_out(out: Path | None) -> None:
    """InputError if a picture or a table could not be written to `out`. To be asked before long work."""
    if out is None:
        return
    if out.suffix.lower() in SUFFIXES:
        check_table_path(out)
    elif out.suffix.lower().removeprefix(".") in PICTURES:
        check_writable(out.parent, [out.name])
    else:
        allowed = ", ".join([*(f".{kind}" for kind in PICTURES), *SUFFIXES])
        raise InputError("unknown kind of file", place="--out", found=str(out), allowed=allowed)


def write_frontiers(
    out: Path, answers: Sequence[Priced], found: Sequence[Frontier], document: Mapping[str, Any]
) -> None:
    """The picture, or the curves as a table: a row a GPU, kind of cost (`priced`), curve and cost."""
    if out.suffix.lower() in SUFFIXES:
        import pandas as pd

        parts = [
            front.frame().assign(gpu=one.gpu.name, priced=one.kind) for one, front in zip(answers, found, strict=True)
        ]
        frame = pd.concat(parts, ignore_index=True)
        write_columns(out, {name: frame[name].to_numpy() for name in ("gpu", "priced", *frame.columns[:-2])})
        return
    words = STRATEGY_WORDS[document["strategy"]]
    titles = [one.title + (", as published" if document["as_published"] else "") for one in answers]
    notes = [
        f"accuracies: {Path(document['accuracy']['name']).name}",
        *(n for p in document["panels"] for n in p["notes"]),
    ]
    draw_frontiers(
        list(zip(titles, found, strict=True)),
        out,
        unit=document["unit"],
        title=f"{words}: problems solved against the cost of a problem",
        notes=list(dict.fromkeys(notes)),
    )


# ---- on a terminal ---------------------------------------------------------------------------------------------------


def show_frontier(document: Mapping[str, Any], out: Path | None) -> None:
    """For every panel the best models and what sparse attention gains and saves; then what it all rests on."""
    from rich.table import Table

    from simulator.display import _console

    console, unit = _console(), document["unit"]
    words = STRATEGY_WORDS[document["strategy"]]
    console.print(f"{words}: accuracy against the cost of a problem in {UNIT_WORDS[unit]}", style="bold")
    console.print(f"accuracies: {document['accuracy']['name']}", style="dim")
    for panel in document["panels"]:
        published = ", as published" if document["as_published"] else ""
        title = f"\n{panel['title']}{published}"
        best = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
        best.add_column(style="dim", no_wrap=True)
        best.add_column()
        for envelope in panel["envelopes"]:
            kind = ATTENTION_WORDS.get(envelope["attention"], envelope["attention"])
            best.add_row(f"best model, {kind}", _spans_words(envelope["spans"], unit))
        console.print(best)
        for kind in panel["sparse"]:
            console.print(_comparison(panel, kind, unit))
    console.print()
    for note in notes_of(document):
        console.print(f"note: {note}", style="yellow")
    if out is not None:
        console.print(f"written to {out}")


def notes_of(document: Mapping[str, Any]) -> list[str]:
    """What the answer rests on and what it cannot say, each once."""
    accuracy = document["accuracy"]
    panels = [note for panel in document["panels"] for note in panel["notes"]]
    gains = [
        row["gain"]
        for panel in document["panels"]
        for found in panel.get("sparse", {}).values()
        for row in (found, *found["models"].values(), *found["alternatives"].values())
    ]
    if any(gain and not gain["dense_affordable"] for gain in gains):
        panels.append("* dense attention can afford nothing at that cost: its accuracy counts as 0, as in the paper")
    return list(dict.fromkeys([accuracy["note"], *accuracy["warnings"], *panels]))


def _spans_words(spans: Sequence[Mapping[str, Any]], unit: str) -> str:
    """`1.7B from 145 T (0 %), 4B from 216 T (6 %)`: the accuracy at which each takes over."""
    if not spans:
        return "solves nothing at these costs"
    parts = [f"{short_name(s['model'])} from {amount(s['start'], unit)} ({100 * s['low']:.0f} %)" for s in spans]
    return ", ".join(parts) + f"; {100 * spans[-1]['high']:.1f} % at {amount(spans[-1]['end'], unit)}"


def _comparison(panel: Mapping[str, Any], kind: str, unit: str) -> Any:
    """A row a model, and one of the best models at each cost."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    words = ATTENTION_WORDS.get(kind, kind)
    tops = ("dense: at most", f"{words}: at most")
    found = panel["sparse"][kind]
    grows = any(row["growth"] for row in found["models"].values())
    names = ["model", *tops, "points gained", "cost saved", *(["2 x cost: budget", "tokens"] if grows else [])]
    for i, name in enumerate(names):
        table.add_column(name, justify="left" if not i else "right", no_wrap=True)
    for model, row in found["models"].items():
        highest = [_top(panel, "curves", unit, attention=a, model=model) for a in ("dense", kind)]
        ways = _growth_words(row["growth"]) if grows else ()
        table.add_row(short_name(model), *highest, *_against_words(row, unit), *ways)
    highest = [_top(panel, "envelopes", unit, attention=a) for a in ("dense", kind)]
    table.add_row("best of all", *highest, *_against_words(found, unit), style="bold")
    for name, row in found["alternatives"].items():
        table.add_row(f"  spread {name}", "", "", *_against_words(row, unit))
    return table


def _top(panel: Mapping[str, Any], what: str, unit: str, **wanted: str) -> str:
    """`76.4 % at 20,000 T`: the highest accuracy, and the lowest cost of it."""
    for line in panel[what]:
        if all(line[key] == value for key, value in wanted.items()):
            accuracy = np.array(line["accuracy"], dtype=float)
            first = int(np.argmax(accuracy >= accuracy.max() - 5e-4))
            return f"{100 * accuracy.max():.1f} % at {amount(panel['costs'][first], unit)}"
    return "-"


def _against_words(row: Mapping[str, Any], unit: str) -> tuple[str, str]:
    gain, saving = row["gain"], row["saving"]
    first = "-" if gain is None else f"+{100 * gain['points']:.1f} at {amount(gain['cost'], unit)}"
    if gain is not None and not gain["dense_affordable"]:
        first += " *"
    second = "-" if saving is None else f"{saving['ratio']:.1f} x at {100 * saving['accuracy']:.0f} %"
    return first, second


def _growth_words(row: Mapping[str, Any] | None) -> tuple[str, str]:
    if row is None:
        return "-", "-"
    values = (row["budget_doubling"], row["tokens_doubling"])
    return tuple("-" if value is None else f"x {value:.2f}" for value in values)  # type: ignore[return-value]
