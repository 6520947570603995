"""A comparison of the law with the simulation as a JSON document, and its words: what mattered most."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.result import plain

if TYPE_CHECKING:
    from simulator.law.ladder.compare import Comparison

COMPARE_SCHEMA = "kinesim-law-compare/1"
STEP_WORDS = {
    "closed_form": "the law's closed form",
    "exact_sums": "sums over whole tokens",
    "roofline": "compute and memory overlap",
    "whole_graph": "all operators, finite batch",
    "prefill": "the prompt is computed",
    "kernels": "kernels as fast as measured",
    "memory": "KV memory is finite",
    "lengths": "lengths vary, batches drain",
    "deployment": "layout, communication and host",
}
"""What a rung adds, in words for a figure; others have the ladder's title."""


OWN = "lengths vary"
DRAIN = "batches drain"
"""Both parts of the rung `lengths`: what the closed form too says of the drawn lengths, and what the engine adds."""


@dataclass(frozen=True)
class Largest:
    """What multiplies a strategy's cost the most: a rung, or a part of one.

    Attributes
    ----------
    rung, key, title : of the rung. words : what it is that multiplies. step : by how much.
    own : it is the law's own, which says the same if it is asked for trials of the drawn lengths.
    """

    rung: int
    key: str
    title: str
    words: str
    step: float
    own: bool = False


def step_words(key: str, title: str) -> str:
    return STEP_WORDS.get(key, title)


def own_part(row: Any) -> float:
    """What of a rung's multiplier the law itself has: 1, but on the rung `lengths` (column `spread` of the ladder)."""
    spread = float(getattr(row, "spread", 1.0))
    return spread if row.key == "lengths" and spread > 0 else 1.0


def largest_step(steps: Any, gpu: str, model: str, attention: str, own: bool = True) -> Largest | None:
    """Of `Comparison.steps()`; None if there is only one rung. own : whether what the law says too may be it."""
    rows = steps[(steps["gpu"] == gpu) & (steps["model"] == model) & (steps["attention"] == attention)]
    found = []
    for row in rows[rows["rung"] > rows["rung"].min()].itertuples():
        part, words = own_part(row), step_words(row.key, row.title)
        if abs(part - 1) > 0.005:
            words = DRAIN
            if own:
                found.append(Largest(int(row.rung), row.key, row.title, OWN, part, True))
        found.append(Largest(int(row.rung), row.key, row.title, words, float(row.step) / part))
    return max(found, key=lambda one: abs(math.log(one.step)), default=None)


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """`kinesim-law-compare/1`: what `kinesim law compare --format json` prints. Numbers that are not known are null.

    | key | what |
    | --- | --- |
    | schema, axis, attention, accuracy | `kinesim-law-compare/1`; `long_cot` or `best_of_n`; the sparse attention; the accuracy model |
    | reference | model, limit, trials and KV budget of the strategy that `steps` shows |
    | models | name and parameters, by size |
    | rungs | number, key, title, and the assumption that each lifts |
    | steps | by GPU, model, attention and rung: GPU-seconds and tera-eFLOPs a problem, `step` (on the rung below), `total` (on the closed form), parts in seconds, sequences that decode at a time |
    | largest_steps | by GPU, model and attention: what multiplies the cost most: rung, words, step, and whether it is the law's own |
    | claims | key, title, what is measured, what the paper says |
    | rungs_judged | by GPU and rung: `measures` (changes of the best model, threshold, FLOPs penalty, gain, saving, shares of small models, growth, spans of the best model by cost) and `verdicts` (claim, word, value, text, effect, why) |
    | notes | what the answer rests on |
    """  # noqa: E501
    steps = comparison.steps()
    first = steps.drop_duplicates("rung").sort_values("rung")
    unwanted = ["key", "title", "assumption", "page", "local"]
    series = steps.drop_duplicates(["gpu", "model", "attention"])
    found = {
        "schema": COMPARE_SCHEMA,
        "axis": comparison.axis,
        "attention": comparison.attention,
        "accuracy": comparison.accuracy,
        "reference": dataclasses.asdict(comparison.reference),
        "models": [{"name": name, "parameters": size} for name, size in comparison.parameters.items()],
        "gpus": list(comparison.gpus),
        "rungs": [{"rung": r.rung, "key": r.key, "title": r.title, "lifts": r.assumption} for r in first.itertuples()],
        "steps": steps.drop(columns=unwanted, errors="ignore").to_dict("records"),
        "largest_steps": [
            {"gpu": row.gpu, "model": row.model, "attention": row.attention, **dataclasses.asdict(largest)}
            for row in series.itertuples()
            if (largest := largest_step(steps, row.gpu, row.model, row.attention)) is not None
        ],
        "claims": [dataclasses.asdict(claim) for claim in comparison.claims],
        "rungs_judged": [
            {
                "gpu": judged.gpu,
                "rung": judged.rung,
                "measures": dataclasses.asdict(judged.measures) | {
                    key: value._asdict() if value is not None else None
                    for key, value in {"penalty": judged.measures.penalty}.items()
                },
                "verdicts": [dataclasses.asdict(verdict) for verdict in judged.verdicts],
            }
            for judged in comparison.judged
        ],
        "notes": list(comparison.notes),
    }  # fmt: skip
    return plain(found)
