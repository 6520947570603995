"""Why the runner-up lost, what stops the closest, and what a reader has to know beside a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simulator.planning.candidates import shape_of
from simulator.planning.model import Candidate, Objective, Outcome, Plan, Reached
from simulator.planning.words import amount, deployment_words, limit_words, miss, objective_title, usd

FEW = 10
"""Requests beyond a percentile below which it is said how few there are."""


def why_lost(best: Outcome, other: Outcome, plan: Plan) -> str:
    """One or two sentences: how much dearer, and what the largest of its kind misses that costs less."""
    more = other.usd_per_hour - best.usd_per_hour
    if more <= 0:
        first = "It costs the same" + _tie(best, other)
    else:
        first = f"It costs {usd(more)} USD/h more ({100 * more / best.usd_per_hour:.1f} %)"
    misses = [(one.candidate, miss(one.verdict.binding)) for one in plan.outcomes if not one.verdict.met]
    misses += [(one.candidate, miss(Reached(one.objective, one.value), bound=True)) for one in plan.lost]
    smaller = [
        (candidate, words)
        for candidate, words in misses
        if shape_of(candidate) == shape_of(other.candidate) and candidate.gpus < other.candidate.gpus
    ]
    if not smaller:
        return first
    candidate, words = max(smaller, key=lambda one: one[0].gpus)
    return f"{first}: with {deployment_words(candidate)}, {words}"


def _tie(best: Outcome, other: Outcome) -> str:
    """What decided between two of one price, room before energy, and what speaks for the other."""
    key = "joules_per_output_token"
    own, others = best.metrics.get(key), other.metrics.get(key)
    more = 100 * (others / own - 1) if own and others is not None else 0.0
    energy = f"{abs(more):.1f} % {'more' if more > 0 else 'less'} energy a token"
    if other.verdict.worst > best.verdict.worst:
        mine, its = (100 * (1 - one.verdict.worst) for one in (best, other))
        if f"{mine:.1f}" == f"{its:.1f}":
            found = " and has a little less room to its objectives, which decided"
        else:
            found = f" and has less room to its objectives, {its:.1f} % against {mine:.1f} %, which decided"
        return found + (f"; it takes {energy}" if abs(more) >= 0.05 else "")
    return f" and the room to its objectives is the same; it takes {energy}, which decided" if more > 0 else ""


def what_stops(plan: Plan, closest: Outcome) -> str:
    """What the closest misses, and whether more GPUs were allowed."""
    missed = [miss(one) for one in closest.verdict.reached if not one.met]
    text = "; ".join(missed)
    space = plan.space
    limits = [f"at most {space.max_gpus} GPUs"]
    if space.power_cap_w is not None:
        limits.append(f"at most {space.power_cap_w / 1e3:,.3g} kW of GPUs")
    if space.max_usd_per_hour is not None:
        limits.append(f"at most {usd(space.max_usd_per_hour)} USD/h")
    return f"{text}, with {' and '.join(limits)}"


def notes(
    objectives: Sequence[Objective], limits: Mapping[str, float | None], requests: int, problems: int | None
) -> list[str]:
    """Objectives that rest on few requests, and objectives that others make idle."""
    found = []
    for one in objectives:
        count = problems if one.metric == "first_accepted_s" else requests
        if (
            one.quantile is not None
            and one.metric != "itl_s"
            and count
            and (beyond := (1 - one.quantile) * count) < FEW
        ):
            what = "problems" if one.metric == "first_accepted_s" else "requests"
            few = f"{round(beyond)} slowest" if beyond >= 1.5 else "slowest alone"
            found.append(f"{objective_title(one)} of {count:,} {what} rests on the {few}: more of them would be surer")
        found += [
            f"{objective_title(one)} {limit_words(one)} asks nothing more: {objective_title(other)} is limited to "
            f"{amount(other, other.limit)} already"
            for other in objectives
            if other is not one and _implies(other, one)
        ]
    if any(one.metric.startswith("goodput") for one in objectives):
        words = ", ".join(f"{key.upper()} <= {amount(_SECONDS, value)}" for key, value in limits.items() if value)
        found.append(f"goodput counts requests with {words}")
    return list(dict.fromkeys(found))


def accuracy(candidate: Candidate) -> list[str]:
    """What a candidate changes about the answers themselves, which no simulation of times knows."""
    changed = [f"linear layers in {candidate.precision}"] if candidate.precision else []
    changed += [f"attention that reads at most {candidate.kv_budget:,} tokens"] if candidate.kv_budget else []
    changed += [f"N = {candidate.samples}"] if candidate.samples else []
    if not changed:
        return []
    return [f"how good the answers are with {' and '.join(changed)} is not simulated, only what they cost"]


_SECONDS = Objective("ttft_s", "mean", 1.0)


def _implies(one: Objective, other: Objective) -> bool:
    """Whether `other` holds wherever `one` does: the same metric (or end to end for TTFT) at a higher statistic."""
    if one.at_least or other.at_least or one.limit > other.limit:
        return False
    if one.metric != other.metric and (one.metric, other.metric) != ("e2e_s", "ttft_s"):
        return False
    if one.quantile is None or other.quantile is None:
        return one.statistic == other.statistic or (one.quantile == 1.0 and other.statistic == "mean")
    return one.quantile >= other.quantile


def facts(plan: Plan) -> dict[str, Any]:
    """How the candidates went: enumerated, dropped, pruned, simulated."""
    return {
        "candidates": plan.candidates,
        "simulated": len(plan.outcomes),
        "pruned": [
            {"bound": p.bound, "count": p.count, "why": p.why, "example": p.example, "proven": p.proven}
            for p in plan.pruned
        ],
        "dropped": [{"why": why, "count": count} for why, count in plan.dropped],
    }
