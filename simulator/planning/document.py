"""A plan as plain data: the document of `--format json` and the rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.planning.candidates import assignments
from simulator.planning.model import Candidate, Failed, Outcome, Reached, Workers
from simulator.planning.objectives import short
from simulator.planning.prices import HOURS_A_MONTH
from simulator.planning.stability import End, Stability
from simulator.planning.why import facts, what_stops, why_lost
from simulator.planning.words import deployment_words, gpu_words
from simulator.result import plain

if TYPE_CHECKING:
    from simulator.planning.planner import Answer

SCHEMA = "kinesim-plan/1"
KEPT = (
    "ttft_s.mean", "ttft_s.p50", "ttft_s.p99", "tpot_s.mean", "tpot_s.p50", "tpot_s.p99", "e2e_s.mean", "e2e_s.p99",
    "first_accepted_s.p90", "makespan_s", "output_tokens_per_s", "output_tokens_per_s_per_gpu", "requests_per_s",
    "goodput_share", "mean_power_w_per_gpu", "joules_per_output_token", "preemptions", "mfu", "mbu",
)  # fmt: skip
"""Headline metrics that an outcome shows."""


def document(answer: Answer) -> dict[str, Any]:
    """The document of schema SCHEMA; what it consists of is in docs/plan.md."""
    plan = answer.plan
    best, other = plan.best, plan.runner_up
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "scenario": answer.base.loaded.config.name,
        "model": answer.base.loaded.model.name,
        "load": plan.load,
        "objectives": [
            {"objective": short(one), "metric": one.key, "limit": one.limit, "at_least": one.at_least}
            for one in plan.objectives
        ],
        "goodput_limits_s": {key: value for key, value in answer.limits.items() if value is not None},
        "prices": answer.prices.document(),
        "best": None if best is None else outcome_document(answer, best, answer.best),
        "runner_up": None if other is None else outcome_document(answer, other, answer.runner_up),
        "stopped_by": plan.stopped or None,
        "front": [outcome_document(answer, one) for one in plan.front],
        "closest": None if plan.closest is None else outcome_document(answer, plan.closest),
        "search": {
            **facts(plan),
            "lost": [_lost(answer, one) for one in plan.lost],
            **plan.facts,
            "wall_s": plan.wall_s,
        },
        "notes": list(answer.notes),
    }
    if best is not None and other is not None:
        found["runner_up"]["why_it_lost"] = why_lost(best, other, plan)
    if best is None and plan.closest is not None:
        found["closest"]["what_stops_it"] = what_stops(plan, plan.closest)
    whole: dict[str, Any] = plain(found)
    return whole


def outcome_document(answer: Answer, outcome: Outcome, sure: Stability | None = None) -> dict[str, Any]:
    """A candidate, what it costs, what it reaches."""
    candidate, metrics = outcome.candidate, outcome.metrics
    tokens, makespan = metrics.get("output_tokens_per_s"), metrics.get("makespan_s")
    return {
        "words": f"{gpu_words(candidate, answer.titles)}: {deployment_words(candidate)}",
        "sets": assignments(answer.base, candidate),
        "gpus": candidate.gpus_by_name(),
        "workers": workers_document(candidate.workers),
        "prefill": None if candidate.prefill is None else workers_document(candidate.prefill),
        "precision": candidate.precision,
        "kv_budget": candidate.kv_budget,
        "samples": candidate.samples,
        "usd_per_hour": outcome.usd_per_hour,
        "usd_per_month": outcome.usd_per_hour * HOURS_A_MONTH,
        "usd_for_load": None if makespan is None else outcome.usd_per_hour / 3600 * makespan,
        "usd_per_million_output_tokens": outcome.usd_per_hour / 3600 / tokens * 1e6 if tokens else None,
        "gpu_tdp_w": outcome.power_w,
        "met": outcome.verdict.met,
        "binding": short(outcome.verdict.binding.objective),
        "reached": [reached_document(one, sure, i) for i, one in enumerate(outcome.verdict.reached)],
        "highest_load": outcome.highest_load,
        "highest_load_is_least": outcome.load_is_least,
        "metrics": {key: metrics.get(key) for key in KEPT},
        "interval": None if sure is None else {"low": _end(sure.low), "high": _end(sure.high)},
    }


def _lost(answer: Answer, failed: Failed) -> dict[str, Any]:
    """A candidate whose simulation ended once an objective was lost for good."""
    return {
        "words": failed.candidate.words(),
        "gpus": failed.candidate.gpus_by_name(),
        "usd_per_hour": answer.prices.usd_per_hour(failed.candidate),
        "objective": short(failed.objective),
        "value": failed.value,
        "at_s": failed.at_s,
    }


def workers_document(workers: Workers) -> dict[str, Any]:
    """Engines of one kind."""
    return {
        "gpu": workers.gpu,
        "replicas": workers.replicas,
        "gpus_each": workers.gpus_each,
        "tensor": workers.tensor,
        "pipeline": workers.pipeline,
        "attention_data": workers.attention_data,
        "expert": workers.expert,
        "max_num_seqs": workers.max_num_seqs,
        "max_num_batched_tokens": workers.max_num_batched_tokens,
    }


def reached_document(reached: Reached, sure: Stability | None, index: int) -> dict[str, Any]:
    """What is reached of an objective, and at both ends of the interval."""
    ends = None
    if sure is not None:
        ends = [end.verdict.reached[index].value for end in (sure.low, sure.high)]
    return {
        "objective": short(reached.objective),
        "limit": reached.objective.limit,
        "value": reached.value,
        "at_interval": ends,
        "ratio": reached.ratio,
        "met": reached.met,
    }


def _end(end: End) -> dict[str, Any]:
    return {
        "factor": end.factor,
        "met": end.verdict.met,
        "needed": None if end.needed is None else _needed(end.needed),
        "usd_per_hour": end.usd_per_hour,
    }


def _needed(candidate: Candidate) -> dict[str, Any]:
    prefill = candidate.prefill
    return {
        "gpus": candidate.gpus_by_name(),
        "replicas": candidate.workers.replicas,
        "prefill_replicas": None if prefill is None else prefill.replicas,
    }


def rows(answer: Answer) -> list[dict[str, Any]]:
    """One flat row for each candidate that was simulated to its end, by price."""
    found, fronts = [], {one.candidate for one in answer.plan.front}
    for outcome in sorted(answer.plan.outcomes, key=lambda one: one.usd_per_hour):
        candidate, workers = outcome.candidate, outcome.candidate.workers
        row: dict[str, Any] = {
            "gpus": candidate.gpus,
            "gpu": workers.gpu,
            "replicas": workers.replicas,
            "layout": workers.layout,
            "prefill_workers": 0 if candidate.prefill is None else candidate.prefill.replicas,
            "prefill_layout": None if candidate.prefill is None else candidate.prefill.layout,
            "precision": candidate.precision,
            "max_num_seqs": workers.max_num_seqs,
            "max_num_batched_tokens": workers.max_num_batched_tokens,
            "kv_budget": candidate.kv_budget,
            "samples": candidate.samples,
            "usd_per_hour": outcome.usd_per_hour,
            "met": outcome.verdict.met,
            "worst_ratio": outcome.verdict.worst,
            "binding": short(outcome.verdict.binding.objective),
            "highest_load": outcome.highest_load,
            "on_front": candidate in fronts,
        }
        found.append(row | {key: outcome.metrics.get(key) for key in KEPT})
    return found
