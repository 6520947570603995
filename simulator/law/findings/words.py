"""How findings are told: what a finding is, and the words, numbers and tables that the pages of claims share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from simulator.law.findings.evidence import PUBLISHED, Evidence, law_setting, simulated_setting
from simulator.law.ladder.measures import Measures
from simulator.law.ladder.verdicts import judge, word
from simulator.law.strategies import MODELS
from workloads.model import load_model

UNCHECKED = "unchecked"
CURVES_MISSING = "The digitised curves are not at hand, so the marks were not computed anew."


@dataclass(frozen=True)
class Finding:
    """A claim and what became of it.

    Attributes
    ----------
    title : in a few words. paper : what the paper says, and where. law : what the law gives here. simulated : by GPU.
    verdict : of the law's figures here, then of the simulated ones. why : why they differ, in a sentence.
    effects : of law and of each GPU, 1 is as large as the paper says; empty where there is no scale.
    text : paragraphs and tables of the claim's section.
    """

    title: str
    paper: str
    law: str
    simulated: tuple[str, ...]
    verdict: str
    why: str
    text: tuple[str, ...]
    effects: tuple[float, ...] = ()


def gpu_name(gpu: str) -> str:
    return gpu.partition("-")[0].upper()


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def times(value: float) -> str:
    return f"{value:.3g}x"


def span(values: Sequence[float], form: str = "{:.3g}") -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def verdict(law: float | None, simulated: Sequence[float]) -> str:
    """`holds` where all agree, else what the law here and what each simulation says."""
    words = [word(effect) for effect in simulated]
    told = words[0] if len(set(words)) == 1 else ", ".join(words)
    if law is None:
        return f"simulated: {told}"
    return told if word(law) == told else f"law: {word(law)}; simulated: {told}"


def effect_of(found: Measures, key: str, axis: str = "long_cot", attention: str = "top_k") -> float:
    """How large a conclusion of `verdicts` is in some measures, 1 as the paper says; 0 where there is nothing of it."""
    parameters = {name: float(load_model(name).active_parameters) for name in MODELS}
    told = {one.claim: one.effect for one in judge(found, axis, attention, parameters, {})}
    return told[key] or 0.0


def settings(ev: Evidence) -> list[tuple[str, str]]:
    """(title, setting) of every cost, the paper's first."""
    return [
        ("law as published, B200", PUBLISHED),
        *((f"law, {gpu_name(gpu)}", law_setting(gpu)) for gpu in ev.gpus),
        *((f"simulated, {gpu_name(gpu)}", simulated_setting(gpu)) for gpu in ev.gpus),
    ]


def by_axis(ev: Evidence, write: Callable[[Measures], str], heads: Mapping[str, str]) -> str:
    """A table with a column for each axis, of top-k attention. heads : the column's, by axis."""
    rows = [[title, *(write(ev.measures[axis, setting, "top_k"]) for axis in heads)] for title, setting in settings(ev)]
    return table(["cost", *heads.values()], rows)


def by_setting(
    ev: Evidence, axis: str, attention: str, columns: Sequence[tuple[str, Callable[[Measures], str]]]
) -> str:
    rows = [
        [title, *(write(ev.measures[axis, setting, attention]) for _, write in columns)]
        for title, setting in settings(ev)
    ]
    return table(["cost", *(name for name, _ in columns)], rows)


def simulated_measures(ev: Evidence, axis: str, attention: str) -> list[Measures]:
    return [ev.measures[axis, simulated_setting(gpu), attention] for gpu in ev.gpus]
