"""Findings on which strategy is the best along a frontier: the model, the measure it is chosen by, the KV budget.

Every figure in a sentence is computed; verdicts follow the rule of `verdicts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from simulator.law.closedform import law_model
from simulator.law.findings.evidence import PUBLISHED, REFERENCE, Evidence, law_setting, simulated_setting
from simulator.law.findings.words import (
    UNCHECKED,
    Finding,
    by_axis,
    by_setting,
    effect_of,
    gpu_name,
    points,
    settings,
    simulated_measures,
    table,
    verdict,
)
from simulator.law.labels import size_label as short
from simulator.law.ladder import claims
from simulator.law.ladder.measures import LEVELS, Measures
from simulator.law.ladder.verdicts import SMALL_SHARE, word
from simulator.law.strategies import MODELS
from workloads.model import load_model


def threshold(ev: Evidence) -> Finding:
    """Below about 14B it pays to grow the model before the chain."""
    law, sims = ev.measures["long_cot", PUBLISHED, "top_k"], simulated_measures(ev, "long_cot", "top_k")

    def takeover(found: Measures, name: str) -> str:
        spans = [s for s in found.best_dense if s.model == name and s.high - s.low >= 0.02]
        return "" if not spans else f"{spans[0].low:.2f} to {spans[-1].high:.2f}"

    def told(found: Measures) -> str:
        change = found.threshold
        if change is None:
            return "no threshold"
        return f"{short(change.taken)} from {change.accuracy:.2f}, {100 * change.room:.0f} points left"

    front = ev.fronts["long_cot", simulated_setting(ev.gpus[0])]

    def chain(model: str) -> float:
        reached = np.searchsorted(claims.accuracies(front, "dense", model), 0.6)
        return float(front.curve(model, "dense").tokens[reached])

    effects = tuple(effect_of(m, "threshold") for m in (law, *sims))
    kv = claims.kv_bytes_per_token(law_model(load_model("qwen3-14b"), "bf16"))
    kv /= claims.kv_bytes_per_token(law_model(load_model("qwen3-4b"), "bf16"))
    laws_there = [ev.measures["long_cot", law_setting(gpu), "top_k"] for gpu in ev.gpus]
    pairs = [(m.threshold, there.threshold) for m, there in zip(sims, laws_there, strict=True)]
    why = f"a token's KV is only {kv:.1f} times as large with 14B as with 4B"
    if all(ours and theirs and ours.accuracy > theirs.accuracy for ours, theirs in pairs):
        why += "; weights that are read for few sequences make the larger model take over later, with less left to gain"
    columns: list[tuple[str, Callable[[Measures], str]]] = [("threshold", told)]
    columns += [(f"{short(name)} best at", partial(takeover, name=name)) for name in MODELS]
    return Finding(
        title="below about 14B it pays to grow the model before the chain",
        paper="14B (section 3.1)",
        law=told(law),
        simulated=tuple(told(m) for m in sims),
        verdict=verdict(effects[0], effects[1:]),
        why=why,
        text=(
            "Dense long chains. The threshold is the largest model to which the frontier changes for good while the "
            "model that it leaves could still gain 5 points from a longer chain; how many are left counts in the "
            "verdict. Accuracies between which each model is the best one, for 0.02 or more at a time:",
            by_setting(ev, "long_cot", "top_k", columns),
            f"To solve 60 % of the problems, chains of 4B take {chain('qwen3-4b'):,.0f} tokens and chains of 14B "
            f"{chain('qwen3-14b'):,.0f} (geometric means over the problems, cheapest strategies on a simulated "
            f"{gpu_name(ev.gpus[0])}).",
        ),
        effects=effects,
    )


def flops_choice(ev: Evidence) -> Finding:
    """A choice optimal in FLOPs costs up to three times the best one."""
    sims = {axis: simulated_measures(ev, axis, "top_k") for axis in ("long_cot", "best_of_n")}
    law = {axis: ev.measures[axis, PUBLISHED, "top_k"] for axis in sims}

    def said(p: claims.Penalty) -> str:
        return f"{p.ratio:.2f}x at {p.accuracy:.2f} ({short(p.chosen)} for {short(p.best)})"

    def told(found: Measures) -> str:
        return "" if found.penalty is None else said(found.penalty)

    effects = tuple(effect_of(m, "flops") for m in (law["long_cot"], *sims["long_cot"]))
    return Finding(
        title="a choice that is optimal in FLOPs costs up to 3x",
        paper="3x, dense long chains at an accuracy of 0.72: 4B for 14B (figure 1a)",
        law=(
            ("" if ev.curve_penalty is None else f"digitised: {said(ev.curve_penalty)}; ")
            + f"fitted model: {told(law['long_cot'])}"
        ),
        simulated=tuple(told(m) for m in sims["long_cot"]),
        verdict=verdict(effects[0], effects[1:]),
        why="FLOPs leave out the KV cache, which the engine reads all the same",
        text=(
            "For every accuracy, the model that reaches it with the least FLOPs (parameters and attention, no memory) "
            "is taken at its cheapest strategy, and compared with the cheapest of all models. Largest ratio over the "
            f"accuracies from {LEVELS[0]:g} in steps of 0.01, dense attention:",
            by_axis(ev, told, {"long_cot": "long chains", "best_of_n": "Best-of-N, 32,768 tokens"}),
        ),
        effects=effects,
    )


def single_models(ev: Evidence) -> Finding:
    """50 to 60 points for 8B and 32B at low cost, about 5 at high cost."""
    names = (REFERENCE, "qwen3-32b")

    def words(found: Sequence[claims.Headlines]) -> str:
        pairs = zip(names, found, strict=True)
        return "; ".join(f"{short(n)} {points(f.gain)}, at the end {points(f.top_gain)}" for n, f in pairs)

    def told(setting: str) -> tuple[str, list[float]]:
        front = ev.fronts["long_cot", setting]
        found = [claims.headlines(front, "top_k", name) for name in names]
        return (
            words(found),
            [f.gain for f in found],
        )

    law = f"fitted model: {told(PUBLISHED)[0]}"
    effect = min(told(PUBLISHED)[1]) / 0.5
    if ev.curves is not None:
        found = [claims.headlines(ev.curves, "top_k", name) for name in names]
        law = f"digitised: {words(found)}"
        effect = min(f.gain for f in found) / 0.5
    effects = [min(told(simulated_setting(gpu))[1]) / 0.5 for gpu in ev.gpus]
    rows = [[title, told(setting)[0]] for title, setting in settings(ev)]
    return Finding(
        title="8B and 32B gain 50 to 60 points at low cost and about 5 at high cost",
        paper="50 to 60, about 5 (figure 8, project page)",
        law=law,
        simulated=tuple(told(simulated_setting(gpu))[0] for gpu in ev.gpus),
        verdict=verdict(effect, effects),
        why="as for the envelopes, and more so for 32B, of which one GPU holds the fewest chains",
        text=(
            "One model's dense curve against its top-k curve, long chains. The end is the highest cost of the "
            "frontier, where every chain may run to 32,768 tokens and only accuracy counts, not cost. The fitted model "
            "knows no budget with which a chain solves more than with dense attention, so the gain at the end is not "
            "in it, and is not judged; of the two models the smaller gain is.",
            table(["cost", "largest gain, and gain at the end (points)"], rows),
        ),
        effects=(effect, *effects),
    )


def small_models(ev: Evidence) -> Finding:
    """With sparse attention small models take more of the frontier."""

    def told(found: Measures) -> str:
        return f"{100 * (found.small_dense or 0):.0f} % dense, {100 * (found.small_sparse or 0):.0f} % top-k"

    law, sims = ev.measures["long_cot", PUBLISHED, "top_k"], simulated_measures(ev, "long_cot", "top_k")
    told_law, effect = f"fitted model: {told(law)}", effect_of(law, "small")
    if ev.curves is not None:
        shares = [claims.accuracy_share(ev.curves, kind, claims.SMALL) for kind in ("dense", "top_k")]
        told_law = f"digitised: {100 * shares[0]:.0f} % dense, {100 * shares[1]:.0f} % top-k; {told_law}"
        effect = (shares[1] - shares[0]) / SMALL_SHARE
    effects = [effect_of(m, "small") for m in sims]
    return Finding(
        title="with sparse attention small models (0.6B to 4B) take more of the frontier",
        paper="they take more of it; no figure (section 4.2)",
        law=told_law,
        simulated=tuple(told(m) for m in sims),
        verdict=verdict(effect, effects),
        why="where weights and memory count, small models have most of the dense frontier already",
        text=(
            "The part of the frontier's accuracies, from the first solved problem to the highest, on which a model "
            "below 5B is the best one:",
            by_setting(
                ev, "long_cot", "top_k",
                [("dense", lambda m: f"{100 * (m.small_dense or 0):.0f} %"),
                 ("top-k", lambda m: f"{100 * (m.small_sparse or 0):.0f} %")],
            ),
        ),
        effects=(effect, *effects),
    )  # fmt: skip


def budget_growth(ev: Evidence) -> Finding:
    """The best KV budget grows far more slowly with the cost than the tokens do."""

    def told(found: Measures) -> str:
        g = found.growth
        return "unknown" if g is None else f"KV budget x{g.budget_doubling:.2f}, tokens x{g.tokens_doubling:.2f}"

    law, sims = ev.measures["best_of_n", PUBLISHED, "top_k"], simulated_measures(ev, "best_of_n", "top_k")
    words = [word(effect_of(m, "growth", "best_of_n")) for m in (law, *sims)]
    return Finding(
        title="the best KV budget grows far more slowly with the cost than the tokens do",
        paper="doubling the cost: KV budget x1.18, tokens x1.74 (Best-of-N, 8B, figure 7)",
        law=told(law),
        simulated=tuple(told(m) for m in sims),
        verdict=UNCHECKED,
        why="the budgets behind the curves are not at hand; how the fitted model depends on them is an assumption",
        text=(
            "Qwen3-8B; geometric means over the problems of what each of them chooses along the frontier, until 99 % "
            "of its highest accuracy; least squares of logarithms. By the rule of the verdicts it would be: law "
            f"{words[0]}, simulated {', '.join(words[1:])}.",
            by_axis(ev, told, {"best_of_n": "Best-of-N", "long_cot": "long chains"}),
        ),
    )
