"""Headline metrics: the numbers of a result that are compared, varied, planned for and swept over, by one name each.

A key is `name`, or `name.statistic` of a distribution (mean, p50, p90, p99, max), as in `ttft_s.p99`. Units are in the
names' ends or in `METRICS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwspecs.errors import InputError, near_matches

STATISTICS = ("mean", "p50", "p90", "p99", "max")


@dataclass(frozen=True)
class Metric:
    """A number of a result.

    Attributes
    ----------
    key, title : its name, and in words. unit : as `hwspecs.units` writes it; empty for a plain number or a share.
    better : `lower` or `higher`. place : its path in a result's summary.
    """

    key: str
    title: str
    unit: str
    better: str
    place: tuple[str, ...]


def _latencies(name: str, title: str, place: tuple[str, ...]) -> list[Metric]:
    return [Metric(f"{name}.{s}", f"{title} {s}", "s", "lower", (*place, s)) for s in STATISTICS]


_COST = ("cost",)
_ALL = [
    Metric("makespan_s", "time", "s", "lower", ("makespan_s",)),
    *_latencies("ttft_s", "TTFT", ("latency", "ttft_s")),
    *_latencies("tpot_s", "TPOT", ("latency", "tpot_s")),
    *_latencies("itl_s", "ITL", ("latency", "itl_s")),
    *_latencies("e2e_s", "end to end", ("latency", "e2e_s")),
    *_latencies("first_accepted_s", "first accepted sample", ("problems", "first_accepted_s")),
    Metric("output_tokens_per_s", "output tokens", "1/s", "higher", ("output_tokens_per_s",)),
    Metric("output_tokens_per_s_per_gpu", "output tokens per GPU", "1/s", "higher", ("output_tokens_per_s_per_gpu",)),
    Metric("requests_per_s", "requests", "1/s", "higher", ("requests_per_s",)),
    Metric("goodput_per_s", "goodput", "1/s", "higher", ("goodput", "requests_per_s")),
    Metric("goodput_share", "goodput share", "", "higher", ("goodput", "share")),
    Metric("gpu_hours", "GPU-hours", "h", "lower", (*_COST, "gpu_hours")),
    Metric("usd", "price", "USD", "lower", (*_COST, "usd")),
    Metric("usd_per_million_output_tokens", "price per million output tokens", "USD", "lower",
           (*_COST, "usd_per_million_output_tokens")),
    Metric("energy_j", "energy", "J", "lower", (*_COST, "energy_j")),
    Metric("joules_per_output_token", "energy per output token", "J", "lower", (*_COST, "joules_per_output_token")),
    Metric("mean_power_w_per_gpu", "power per GPU", "W", "lower", (*_COST, "mean_power_w_per_gpu")),
    Metric("eflops", "equivalent FLOPs", "FLOP", "lower", ("work", "eflops")),
    Metric("mfu", "MFU", "", "higher", ("utilisation", "mfu")),
    Metric("mbu", "MBU", "", "higher", ("utilisation", "mbu")),
    Metric("mean_decode_seqs", "decoding sequences", "", "higher", ("batch", "mean_decode_seqs")),
    Metric("preemptions", "preemptions", "", "lower", ("requests", "preemptions")),
    Metric("kv_peak_use", "KV used at most", "", "lower", ("kv", "peak_use")),
    Metric("solved", "problems solved", "", "higher", ("problems", "solved")),
    Metric("gpu_seconds_per_solved", "GPU-seconds per solved problem", "s", "lower", ()),
    Metric("usd_per_solved", "price per solved problem", "USD", "lower", ()),
    Metric("joules_per_solved", "energy per solved problem", "J", "lower", ()),
]  # fmt: skip
METRICS: dict[str, Metric] = {metric.key: metric for metric in _ALL}
"""All of them, in the order in which tables show them."""
_PER_SOLVED = {"gpu_seconds_per_solved": ("gpu_hours", 3600.0), "usd_per_solved": ("usd", 1.0),
               "joules_per_solved": ("energy_j", 1.0)}  # fmt: skip


def metric(key: str) -> Metric:
    """The metric of that name. Raises InputError with near matches for one that does not exist."""
    if key not in METRICS:
        raise InputError("no such metric", place="metric", found=key, allowed=near_matches(key, list(METRICS)))
    return METRICS[key]


def headline(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """The metrics of a result's summary by key; None for what the run does not have (a price, problems, a goodput)."""
    found = {key: _at(summary, one.place) if one.place else None for key, one in METRICS.items()}
    solved = found["solved"]
    for key, (whole, factor) in _PER_SOLVED.items():
        total = found[whole]
        found[key] = total * factor / solved if solved and total is not None else None
    return found


def _at(summary: Mapping[str, Any], place: tuple[str, ...]) -> float | None:
    value: Any = summary
    for key in place:
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else float(value)
