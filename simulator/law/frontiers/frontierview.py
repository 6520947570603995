"""Frontiers as data: the document of `kinesim law frontier --format json`, and the files of `--out`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from simulator.law.amounts import Mark
from simulator.law.frontiers.envelopes import cost_at, gain_at, growth, largest_gain, largest_saving
from simulator.law.frontiers.frontier import Curve, Frontier
from simulator.law.frontiers.frontierplot import draw_frontiers
from simulator.law.frontiers.panels import Priced, alternative_frontiers
from simulator.law.frontiers.question import Question
from simulator.result import plain
from simulator.tables import SUFFIXES, write_columns

STRATEGY_WORDS = {"long_cot": "Long chain of thought", "best_of_n": "Best-of-N"}
FRONTIER_SCHEMA = "kinesim-law-frontier/1"


def frontier_document(
    question: Question,
    answers: Sequence[Priced],
    found: Sequence[Frontier],
    scenario: str,
    sets: Sequence[str],
    smooth: int,
    marks: Sequence[Mark] = (),
) -> dict[str, Any]:
    """The answer of `kinesim law frontier` as a JSON document.

    `strategy`, `unit`, `as_published`, `attentions`, `budgets`, `per_problem`, `smooth`, `scenario` and `sets` repeat
    the question, `accuracy` says what it rests on (kind, name, note, warnings). `panels` has for every GPU and kind of
    cost: `gpu`, `title`, `cost` (law, simulated), `costs` (per problem, in `unit`), `curves` and `envelopes` along them
    (`frontier.Curve`, `envelopes.Envelope`; null where there is nothing), `sparse`: by attention the
    largest `gain` and `saving` of the envelopes and, under `models`, of each model, with the `growth` of its choices,
    under `alternatives` those of the envelopes with problems that differ less or more (Best-of-N rests on it), and
    under `at` what the envelopes are at each of `marks`; and `notes`.
    """
    return {
        "schema": FRONTIER_SCHEMA,
        **question_document(question, answers, scenario, sets),
        "smooth": smooth,
        "panels": [_panel(question, one, front, marks) for one, front in zip(answers, found, strict=True)],
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


def _panel(question: Question, one: Priced, front: Frontier, marks: Sequence[Mark]) -> dict[str, Any]:
    others = alternative_frontiers(one, question, front.costs)
    return {
        "gpu": one.gpu.name,
        "title": one.title,
        "cost": one.kind,
        "costs": plain(front.costs),
        "curves": [plain(asdict(curve)) for curve in front.curves],
        "envelopes": [plain(asdict(envelope)) for envelope in front.envelopes],
        "sparse": {
            kind: _against_dense(front, kind)
            | {"alternatives": {name: _envelopes_compared(other, kind) for name, other in others.items()}}
            | {"at": [_at(front, kind, mark) for mark in marks]}
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


def _at(front: Frontier, kind: str, mark: Mark) -> dict[str, Any]:
    """The two envelopes at one cost, or at one accuracy; None where one of them does not reach it."""
    known = {envelope.attention: envelope.accuracy for envelope in front.envelopes}
    dense, sparse = known.get("dense"), known[kind]
    if mark.accuracy is not None:
        wanted = np.array([mark.accuracy])
        found = [None if curve is None else float(cost_at(front.costs, curve, wanted)[0]) for curve in (dense, sparse)]
        ratio = None if found[0] is None or found[1] is None else found[0] / found[1]
        return plain({"accuracy": mark.accuracy, "dense_cost": found[0], "sparse_cost": found[1], "ratio": ratio})
    nothing = np.zeros_like(front.costs)
    reached = [None if curve is None else gain_at(front.costs, nothing, curve, mark.cost) for curve in (dense, sparse)]
    points = None if reached[0] is None or reached[1] is None else reached[1] - reached[0]
    return plain({"cost": mark.cost, "dense": reached[0], "sparse": reached[1], "points": points})


def _pair(costs: np.ndarray, dense: Curve | None, sparse: Curve) -> dict[str, Any]:
    found = {"gain": None, "saving": None}
    if dense is not None:
        found = _compared(costs, dense.accuracy, sparse.accuracy, dense.affordable > 0)
    grown = growth(costs, sparse.accuracy, sparse.budget, sparse.tokens, sparse.trials)
    ways = None if grown is None else plain(asdict(grown))
    if grown is not None and ways is not None:
        ways |= plain({"budget_doubling": grown.budget_doubling, "tokens_doubling": grown.tokens_doubling})
    return {**found, "growth": ways}


def _compared(costs: np.ndarray, dense: np.ndarray, sparse: np.ndarray, affordable: np.ndarray) -> dict[str, Any]:
    gain, saving = largest_gain(costs, dense, sparse, affordable), largest_saving(costs, dense, sparse)
    return {"gain": gain and asdict(gain), "saving": saving and asdict(saving)}


def write_frontiers(
    out: Path,
    answers: Sequence[Priced],
    found: Sequence[Frontier],
    document: Mapping[str, Any],
    marks: Sequence[Mark] = (),
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
        marks=marks,
    )
