"""Findings on frontiers of accuracy against cost: the law's beside the simulated ones, and digitised curves at hand.

Every figure in a sentence is computed; verdicts follow the rule of `verdicts`.
"""

from __future__ import annotations

from collections.abc import Sequence

from simulator.law import claims
from simulator.law.evidence import PUBLISHED, REFERENCE, Evidence, simulated_setting
from simulator.law.findingwords import (
    CURVES_MISSING,
    UNCHECKED,
    Finding,
    by_setting,
    points,
    settings,
    short,
    simulated_measures,
    span,
    table,
    times,
    verdict,
)
from simulator.law.measures import Measures
from simulator.law.strategies import MODELS
from simulator.law.verdicts import BUDGET_GROWTH, GAINS, SMALL_SHARE, THRESHOLD, TOKENS_GROWTH, log_effect, word
from workloads.model import load_model


def threshold(ev: Evidence) -> Finding:
    """Below about 14B it pays to grow the model before the chain."""
    laws = {name: load_model(name).active_parameters for name in MODELS}

    def effect(found: Measures) -> float:
        size = laws[found.threshold.taken] if found.threshold else min(laws.values())
        return log_effect(size / min(laws.values()), THRESHOLD / min(laws.values()))

    law, sims = ev.measures["long_cot", PUBLISHED, "top_k"], simulated_measures(ev, "long_cot", "top_k")

    def takeover(found: Measures, name: str) -> str:
        spans = [s for s in found.best_dense if s.model == name]
        return "never" if not spans else ", ".join(f"{s.low:.2f}-{s.high:.2f}" for s in spans)

    def told(found: Measures) -> str:
        return short(found.threshold.taken) if found.threshold else "no threshold"

    columns = [("threshold", told)]
    columns += [(f"{short(n)} best at", lambda m, n=n: takeover(m, n)) for n in MODELS]  # type: ignore[misc]
    return Finding(
        title="below about 14B it pays to grow the model before the chain",
        paper="14B (section 3.1)",
        law=told(law),
        simulated=tuple(told(m) for m in sims),
        verdict=verdict(effect(law), [effect(m) for m in sims]),
        why="a larger model's weights cost time at a finite batch, which the law leaves out",
        text=(
            "Dense long chains. The threshold is the largest model to which the frontier changes for good while the "
            "model that it leaves could still gain 5 points from a longer chain. Accuracies at which each model is the "
            "best one:",
            by_setting(ev, "long_cot", "top_k", columns),
        ),
        effects=(effect(law), *(effect(m) for m in sims)),
    )


def flops_choice(ev: Evidence) -> Finding:
    """A choice optimal in FLOPs costs up to three times the best one."""
    sims = {axis: simulated_measures(ev, axis, "top_k") for axis in ("long_cot", "best_of_n")}
    law = {axis: ev.measures[axis, PUBLISHED, "top_k"] for axis in sims}

    def told(found: Measures) -> str:
        p = found.penalty
        return "" if p is None else f"{p.ratio:.2f}x at {p.accuracy:.2f} ({short(p.chosen)} for {short(p.best)})"

    def effect(found: Measures) -> float:
        return 0.0 if found.penalty is None else log_effect(found.penalty.ratio, claims.MARKED_PENALTY.value)

    rows = [
        [title, *(told(ev.measures[axis, setting, "top_k"]) for axis in ("long_cot", "best_of_n"))]
        for title, setting in settings(ev)
    ]
    return Finding(
        title="a choice that is optimal in FLOPs costs up to 3x",
        paper="3x, dense long chains at an accuracy of 0.72: 4B for 14B (figure 1a)",
        law=f"{told(law['long_cot'])}; Best-of-N {told(law['best_of_n'])}",
        simulated=tuple(told(m) for m in sims["long_cot"]),
        verdict=verdict(effect(law["long_cot"]), [effect(m) for m in sims["long_cot"]]),
        why="choosing by FLOPs prefers small models; at a finite batch small models are what is cheap to serve",
        text=(
            "For every accuracy, the model that reaches it with the least FLOPs (parameters and attention, no memory) "
            "is taken at its cheapest strategy, and compared with the cheapest of all models. Largest ratio over the "
            "accuracies from 0.05 in steps of 0.01, dense attention:",
            table(["cost", "long chains", "Best-of-N, 32,768 tokens"], rows),
            "The paper's mark sits where the 4B model's curve ends: there the ratio depends on the last point of "
            "accuracy that this model gains at any cost.",
        ),
        effects=(effect(law["long_cot"]), *(effect(m) for m in sims["long_cot"])),
    )


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


def _effect(found: Measures, what: str, axis: str, attention: str) -> float:
    marked = GAINS[axis, attention][what == "saving"]
    value = _value(found, what)
    return max(0.0, value / marked) if what == "points" else log_effect(value, marked)


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
    facts, full = (
        [ev.facts[ev.gpus[0], name, budget, 32768] for name in ("qwen3-0.6b", REFERENCE, "qwen3-32b")]
        for budget in (1024, None)
    )
    effects = [_effect(m, what, "long_cot", "top_k") for m in sims]
    law_effect = _effect(law, what, "long_cot", "top_k")
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
            "most of the time"
        ),
        text=(
            sentence,
            "Largest gain and saving between the envelopes, with the fitted accuracy model:" if what == "points"
            else "The same frontiers, at equal accuracy:",
            by_setting(
                ev, "long_cot", "top_k",
                [("gain (points, at GPU-seconds)", lambda m: _told(m, "points")),
                 ("saving (at accuracy)", lambda m: _told(m, "saving"))],
            ),
            "Chains of 32,768 tokens with a budget of 1,024 tokens cost on an H200 "
            + ", ".join(f"{times(f.multiplier)} ({short(f.model)})" for f in facts)
            + " what the law says, dense ones "
            + ", ".join(f"{times(f.multiplier)} ({short(f.model)})" for f in full)
            + ". Under top-k, attention is left with "
            + ", ".join(f"{100 * f.attention / f.seconds:.0f} %" for f in facts)
            + " of the time, linear layers take "
            + ", ".join(f"{100 * f.linear / f.seconds:.0f} %" for f in facts)
            + ", the host "
            + ", ".join(f"{100 * f.host / f.seconds:.0f} %" for f in facts)
            + ": at batches of "
            + ", ".join(f"{f.batch:.0f}" for f in facts)
            + ", since the whole KV cache stays in memory.",
        ),
        effects=(law_effect, *effects),
    )  # fmt: skip


def best_of_n(ev: Evidence) -> Finding:
    """Oracle top-k on Best-of-N: +65 points and 10.67x."""
    return _assumed(
        ev, "best_of_n", "top_k", "oracle top-k on Best-of-N: +65 points and 10.67x less cost", "figure 8a",
        "no curve of Best-of-N is at hand. What N trials solve follows from the spread between problems, which curves "
        "of one trial do not identify: the ranges are those of the assumed spread",
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

    def told(setting: str) -> str:
        found = [ev.spreads[spread, setting, attention] for spread in ("", "low", "high")]
        most = [_value(m, "points") for m in found], [_value(m, "saving") for m in found]
        return f"{points(most[0][0])} ({span(most[0], '{:.0%}')}), {times(most[1][0])} ({span(most[1], '{:.3g}')})"

    def by_axis(setting: str) -> list[str]:
        found = ev.measures["long_cot", setting, attention]
        return [told(setting), f"{_told(found, 'points')}, {_told(found, 'saving')}"]

    rows = [[title_, *by_axis(setting)] for title_, setting in settings(ev)]
    return Finding(
        title=title,
        paper=f"{points(gain)} points, {saving:g}x ({where})",
        law=f"{told(PUBLISHED)}",
        simulated=tuple(told(simulated_setting(gpu)) for gpu in ev.gpus),
        verdict=UNCHECKED,
        why=why.partition(".")[0],
        text=(
            why[0].upper() + why[1:] + ".",
            table(["cost", "Best-of-N (over the spreads)", "long chains"], rows),
        ),
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
        why="as above; at high cost both have what the model can do, whatever it costs",
        text=(
            "One model's dense curve against its top-k curve, long chains. The end is the highest cost of the "
            "frontier, where every chain may run to 32,768 tokens and only accuracy counts, not cost.",
            table(["cost", "largest gain, and gain at the end (points)"], rows),
        ),
        effects=(effect, *effects),
    )


def small_models(ev: Evidence) -> Finding:
    """With sparse attention small models take more of the frontier."""

    def told(found: Measures) -> str:
        return f"{100 * (found.small_dense or 0):.0f} % dense, {100 * (found.small_sparse or 0):.0f} % top-k"

    def more(found: Measures) -> float:
        return (found.small_sparse or 0) - (found.small_dense or 0)

    law, sims = ev.measures["long_cot", PUBLISHED, "top_k"], simulated_measures(ev, "long_cot", "top_k")
    told_law, effect = f"fitted model: {told(law)}", more(law) / SMALL_SHARE
    if ev.curves is not None:
        shares = [claims.accuracy_share(ev.curves, kind, claims.SMALL) for kind in ("dense", "top_k")]
        told_law = f"digitised: {100 * shares[0]:.0f} % dense, {100 * shares[1]:.0f} % top-k; {told_law}"
        effect = (shares[1] - shares[0]) / SMALL_SHARE
    return Finding(
        title="with sparse attention small models (0.6B to 4B) take more of the frontier",
        paper="they take more of it; no figure (section 4.2)",
        law=told_law,
        simulated=tuple(told(m) for m in sims),
        verdict=verdict(effect, [max(0.0, more(m) / SMALL_SHARE) for m in sims]),
        why="where weights and memory count, small models already take most of the dense frontier",
        text=(
            "The part of the frontier's accuracies, from the first solved problem to the highest, on which a model "
            "below 5B is the best one:",
            by_setting(
                ev, "long_cot", "top_k",
                [("dense", lambda m: f"{100 * (m.small_dense or 0):.0f} %"),
                 ("top-k", lambda m: f"{100 * (m.small_sparse or 0):.0f} %")],
            ),
        ),
        effects=(effect, *(max(0.0, more(m) / SMALL_SHARE) for m in sims)),
    )  # fmt: skip


def budget_growth(ev: Evidence) -> Finding:
    """The best KV budget grows far more slowly with the cost than the tokens do."""

    def told(found: Measures) -> str:
        g = found.growth
        return "unknown" if g is None else f"KV budget x{g.budget_doubling:.2f}, tokens x{g.tokens_doubling:.2f}"

    def effect(found: Measures) -> float:
        g = found.growth
        total = 0.0 if g is None else g.tokens + g.trials
        return (
            0.0 if g is None or total <= 0 else max(0.0, (1 - g.budget / total) / (1 - BUDGET_GROWTH / TOKENS_GROWTH))
        )

    law, sims = ev.measures["best_of_n", PUBLISHED, "top_k"], simulated_measures(ev, "best_of_n", "top_k")
    rows = [
        [title, *(told(ev.measures[axis, setting, "top_k"]) for axis in ("best_of_n", "long_cot"))]
        for title, setting in settings(ev)
    ]
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
            f"{word(effect(law))}, simulated {', '.join(word(effect(m)) for m in sims)}.",
            table(["cost", "Best-of-N", "long chains"], rows),
        ),
    )
