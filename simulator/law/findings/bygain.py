"""Findings on what sparse attention gains: at equal cost, at equal accuracy, on long chains and on Best-of-N.

Every figure in a sentence is computed; verdicts follow the rule of `verdicts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from simulator.law.findings.evidence import PUBLISHED, REFERENCE, WIDE, WIDE_MODEL, Evidence, simulated_setting
from simulator.law.findings.runfacts import RunFacts
from simulator.law.findings.words import (
    CURVES_MISSING,
    UNCHECKED,
    Finding,
    by_setting,
    effect_of,
    gpu_name,
    points,
    settings,
    simulated_measures,
    span,
    table,
    times,
    verdict,
)
from simulator.law.labels import size_label as short
from simulator.law.ladder import claims
from simulator.law.ladder.measures import Measures
from simulator.law.ladder.verdicts import GAINS


def top_k_points(ev: Evidence) -> Finding:
    """Oracle top-k: +47.5 points on long chains."""
    return _gain(ev, "points")


def top_k_saving(ev: Evidence) -> Finding:
    """Oracle top-k: 11.21x less cost on long chains."""
    return _gain(ev, "saving")


def _value(found: Measures, what: str) -> float:
    if what == "points":
        return found.gain.points if found.gain else 0.0
    return found.saving.ratio if found.saving else 1.0


def _told(found: Measures, what: str) -> str:
    if what == "points":
        return "none" if found.gain is None else f"{points(found.gain.points)} at {found.gain.cost:.2g} s"
    return "none" if found.saving is None else f"{times(found.saving.ratio)} at {found.saving.accuracy:.2f}"


def _gain(ev: Evidence, what: str) -> Finding:
    law, sims = ev.measures["long_cot", PUBLISHED, "top_k"], simulated_measures(ev, "long_cot", "top_k")
    mark = claims.MARKED_GAIN if what == "points" else claims.MARKED_SAVING
    digitised, sentence = "", f"{CURVES_MISSING} The marks are the paper's."
    if ev.curves is not None:
        best = claims.headlines(ev.curves, "top_k")
        if what == "points":
            here = points(claims.gain_at(ev.curves, "top_k", mark.at))
            most = f"{points(best.gain)} at {best.gain_cost:.2g} s"
            digitised = f"digitised: {here} at {mark.at:g} s, most {most}; "
        else:
            here = times(claims.saving_at(ev.curves, "top_k", mark.at))
            most = f"{times(best.saving)} at {best.saving_accuracy:.2f}"
            digitised = f"digitised: {here} at {mark.at:g}, most {most}; "
        sentence = (
            f"The paper's own curves, digitised, give {here} where it is marked (marked: "
            f"{points(mark.value) if what == 'points' else times(mark.value)}), and at their best place {most}."
        )
    effects = [effect_of(m, what) for m in sims]
    law_effect = effect_of(law, what)
    return Finding(
        title=f"oracle top-k on long chains: {'+47.5 points' if what == 'points' else '11.21x less cost'}",
        paper=(
            "+47.5 points at about 0.08 B200 seconds (figure 8d)" if what == "points"
            else "11.21x at an accuracy of about 0.76 (figure 8d)"
        ),
        law=f"{digitised}fitted model: {_told(law, what)}",
        simulated=tuple(_told(m, what) for m in sims),
        verdict=verdict(law_effect, effects),
        why=(
            "sparse attention cuts what is read, not what is kept: the batch stays small, and weights and host take "
            "much of the time"
        ),
        text=(sentence, *(_gain_text(ev) if what == "points" else _saving_text(ev))),
        effects=(law_effect, *effects),
    )  # fmt: skip


def _gain_text(ev: Evidence) -> list[str]:
    """Largest gains and savings, and why they shrink."""
    first = ev.gpus[0]
    facts, full = (
        [ev.facts[first, name, budget, 32768] for name in ("qwen3-0.6b", REFERENCE, "qwen3-32b")]
        for budget in (1024, None)
    )

    def each(tell: Callable[[RunFacts], str], some: Sequence[RunFacts] = facts) -> str:
        return ", ".join(tell(fact) for fact in some)

    columns = [
        ("gain (points, at GPU-seconds)", lambda m: _told(m, "points")),
        ("saving (at accuracy)", lambda m: _told(m, "saving")),
    ]
    wide = {gpu: [ev.wide[gpu, budget] for budget in (None, 1024)] for gpu in ev.gpus}
    alone = {gpu: [ev.facts[gpu, WIDE_MODEL, budget, 32768] for budget in (None, 1024)] for gpu in ev.gpus}
    return [
        "Largest gain and saving between the envelopes, with the fitted accuracy model:",
        by_setting(ev, "long_cot", "top_k", columns),
        f"Chains of 32,768 tokens with a budget of 1,024 tokens cost {each(lambda f: times(f.multiplier))} what the "
        f"law says (0.6B, 8B, 32B; {gpu_name(first)}), dense ones {each(lambda f: times(f.multiplier), full)}. Under "
        f"top-k, attention is left with {each(lambda f: f'{100 * f.attention / f.seconds:.0f} %')} of the time; linear "
        f"layers take {each(lambda f: f'{100 * f.linear / f.seconds:.0f} %')}, the host "
        f"{each(lambda f: f'{100 * f.host / f.seconds:.0f} %')}. The whole KV cache stays in memory, so that "
        f"{each(lambda f: f'{f.batch:.0f}')} sequences decode at a time, against "
        f"{each(lambda f: f'{f.batch:.0f}', full)} dense ones.",
        f"More GPUs for a model leave more room for KV: {short(WIDE_MODEL)} on {WIDE} tensor-parallel GPUs decodes "
        + "; ".join(
            f"{dense.batch:.0f} dense chains at a time on {gpu_name(gpu)}, and top-k costs "
            f"{times(dense.seconds / sparse.seconds)} less GPU-seconds, against "
            f"{times(alone[gpu][0].seconds / alone[gpu][1].seconds)} on one"
            for gpu, (dense, sparse) in wide.items()
        )
        + ". The frontiers here are of one GPU.",
    ]


def _saving_text(ev: Evidence) -> list[str]:
    """Savings at some accuracies."""
    levels = (0.2, 0.4, 0.6, 0.7, claims.MARKED_SAVING.at)

    def told(setting: str, level: float) -> str:
        ratio = claims.saving_at(ev.fronts["long_cot", setting], "top_k", level)
        return "" if math.isnan(ratio) else times(ratio)

    rows = [[title, *(told(setting, level) for level in levels)] for title, setting in settings(ev)]
    if ev.curves is not None:
        ratios = [claims.saving_at(ev.curves, "top_k", level) for level in levels]
        rows.insert(0, ["digitised, published B200", *(times(ratio) for ratio in ratios)])
    return [
        "Cost of the dense envelope over that of top-k, by accuracy; all but the first row with the fitted model:"
        if ev.curves is not None
        else "Cost of the dense envelope over that of top-k, by accuracy, with the fitted model:",
        table(["cost", *(f"at {level:g}" for level in levels)], rows),
    ]


MARKS = {"top_k": (0.19, 0.81), "block_top_k": (0.31, 0.62)}
"""Where the marks of the Best-of-N plots stand, as read off figures 8a and 9a: B200 seconds of the gain, accuracy of
the saving."""


def best_of_n(ev: Evidence) -> Finding:
    """Oracle top-k on Best-of-N: +65 points and 10.67x."""
    return _assumed(
        ev, "best_of_n", "top_k", "oracle top-k on Best-of-N: +65 points and 10.67x less cost", "figure 8a",
        "no curve of Best-of-N is at hand. What N trials solve follows from the spread between problems, which curves "
        "of one trial do not identify: it was set by the highest accuracies of the paper's own plot, so that agreement "
        "with its marks is no check. In brackets what 5 points less and more of them give",
    )  # fmt: skip


def block_top_k(ev: Evidence) -> Finding:
    """Block top-k on Best-of-N: +45 points and 8.58x, close to the oracle."""
    return _assumed(
        ev, "best_of_n", "block_top_k", "block top-k: +45 points and 8.58x less cost, close to the oracle",
        "Best-of-N, figure 9a; long chains +38.5 and 5.13x, figure 9b",
        "no accuracy of block top-k is at hand. It is taken to be the oracle's at the same budget, so that these are "
        "upper bounds, and show only what the search for pages costs",
    )  # fmt: skip


def _assumed(ev: Evidence, axis: str, attention: str, title: str, where: str, why: str) -> Finding:
    gain, saving = GAINS[axis, attention]
    at, marked = MARKS[attention], ev.fronts[axis, PUBLISHED]

    def told(setting: str) -> str:
        found = [ev.spreads[spread, setting, attention] for spread in ("", "low", "high")]
        most = [_value(m, "points") for m in found], [_value(m, "saving") for m in found]
        gains = [100 * value for value in most[0]]
        return f"{points(most[0][0])} ({span(gains, '{:.1f}')}), {times(most[1][0])} ({span(most[1])})"

    def by_axis(setting: str) -> list[str]:
        found = ev.measures["long_cot", setting, attention]
        return [told(setting), f"{_told(found, 'points')}, {_told(found, 'saving')}"]

    rows = [[title_, *by_axis(setting)] for title_, setting in settings(ev)]
    return Finding(
        title=title,
        paper=f"{100 * gain:+g} points, {saving:g}x ({where})",
        law=f"{told(PUBLISHED)}",
        simulated=tuple(told(simulated_setting(gpu)) for gpu in ev.gpus),
        verdict=UNCHECKED,
        why=why.partition(".")[0],
        text=(
            why[0].upper() + why[1:] + ".",
            f"Where the paper marks them, at {at[0]:g} B200 seconds and an accuracy of {at[1]:g}, the law as "
            f"published gives {points(claims.gain_at(marked, attention, at[0]))} and "
            f"{times(claims.saving_at(marked, attention, at[1]))} with the fitted model. At their largest:",
            table(["cost", "Best-of-N (over the spreads)", "long chains"], rows),
        ),
    )
