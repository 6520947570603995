"""Sentences and rows of a plan, the same for the terminal, the document and the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.units import format_quantity
from simulator.planning.model import Candidate, Objective, Reached, Workers
from simulator.planning.objectives import NAMES
from simulator.printing import duration

if TYPE_CHECKING:
    from workloads.requests import Requests

MINUTE = 60.0
_TITLES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "end to end", "first_accepted": "first accepted sample"}


def objective_title(objective: Objective) -> str:
    """`TTFT p99`, `goodput`."""
    names = {metric: name for name, metric in NAMES.items()}
    name = names.get(objective.metric, "goodput")
    return f"{_TITLES.get(name, name)} {objective.statistic}".strip()


def amount(objective: Objective, value: float | None) -> str:
    """A value of the objective's metric with its unit."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "never"
    if objective.metric == "goodput_share":
        return f"{100 * value:.2f} %"
    if objective.metric == "goodput_per_s":
        return f"{value:.3g} /s"
    return duration(value)


def limit_words(objective: Objective) -> str:
    """`<= 2 s`."""
    return f"{'>=' if objective.at_least else '<='} {amount(objective, objective.limit)}"


def room(reached: Reached) -> str:
    """`31 % room`, `missed by 1.4 x`."""
    if math.isinf(reached.ratio):
        return "missed"
    if reached.met:
        return f"{100 * (1 - reached.ratio):.1f} % room"
    return f"missed by {reached.ratio:.3g} x" if reached.ratio >= 1.0005 else "just missed"


def miss(reached: Reached, *, bound: bool = False) -> str:
    """`TPOT p99 is 52 ms where <= 40 ms is asked`; with `bound` it may be worse."""
    one = reached.objective
    worse = ("at most " if one.at_least else "at least ") if bound else ""
    found, limit = amount(one, reached.value), amount(one, one.limit)
    if found == limit:  # by less than is shown
        found = f"{'just below' if one.at_least else 'just above'} {limit}"
    return f"{objective_title(one)} is {worse}{found} where {limit_words(one)} is asked"


def gpu_words(candidate: Candidate, titles: Mapping[str, str]) -> str:
    """`12 x NVIDIA H200 SXM 141 GB`, with titles by the GPUs' names."""
    return " and ".join(f"{count:,} x {titles.get(name, name)}" for name, count in candidate.gpus_by_name().items())


def workers_words(workers: Workers, kind: str = "replica") -> str:
    """`6 replicas of 2 GPUs (tp2)`."""
    each = f"{workers.gpus_each} GPU{'s' * (workers.gpus_each > 1)}"
    return f"{workers.replicas:,} {kind}{'s' * (workers.replicas > 1)} of {each} ({workers.layout})"


def deployment_words(candidate: Candidate) -> str:
    """How the GPUs are used."""
    if candidate.prefill is None:
        parts = [workers_words(candidate.workers)]
    else:
        parts = [workers_words(candidate.prefill, "prefill worker"), workers_words(candidate.workers, "decode worker")]
    return ", ".join([*parts, *settings_words(candidate)])


def settings_words(candidate: Candidate) -> list[str]:
    """What differs from the scenario beside GPUs and layout."""
    workers = candidate.workers
    words = [f"linear layers in {candidate.precision}"] if candidate.precision else []
    words += [f"at most {workers.max_num_seqs:,} sequences"] if workers.max_num_seqs else []
    words += [f"{workers.max_num_batched_tokens:,} tokens a step"] if workers.max_num_batched_tokens else []
    words += [f"attention reads {candidate.kv_budget:,} tokens"] if candidate.kv_budget else []
    words += [f"N = {candidate.samples}"] if candidate.samples else []
    return words


def usd(value: float | None) -> str:
    """Two decimals below ten thousand, whole dollars above."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.2f}"


def power(watts: float) -> str:
    """`8.4 kW`."""
    return format_quantity(watts, "W")


def joules(metrics: Mapping[str, Any]) -> str:
    """J per output token."""
    value = metrics.get("joules_per_output_token")
    return "-" if value is None else f"{value:.3g} J"


def load_words(requests: Requests, samples: bool = True) -> str:
    """What is asked: `58,185 requests in 2.0 h, 8.1 /s (13.6 /s in the busiest minute), with 1,300 ...`; without
    `samples` the number of a problem's is left open.
    """
    count, times = f"{requests.n:,} requests", requests.job_arrival_s
    if requests.n_jobs < requests.n:
        count = f"{requests.n_jobs:,} problems"
        count += f" of {requests.n / requests.n_jobs:g} samples" if samples else ""
    span = float(times[-1] - times[0])
    if requests.concurrency is not None:
        when = f"{requests.concurrency:,} at a time"
    elif span == 0:
        when = "all at once"
    else:
        when = f"in {duration(span)}, {requests.n_jobs / span:.3g} /s"
        if span > 2 * MINUTE:
            busiest = (np.searchsorted(times, times + MINUTE) - np.arange(len(times))).max() / MINUTE
            when += f" ({busiest:.3g} /s in the busiest minute)"
    prompt, output = float(requests.prompt_tokens.mean()), float(requests.output_tokens.mean())
    return f"{count} {when}, with {prompt:,.0f} prompt and {output:,.0f} output tokens in the mean"
