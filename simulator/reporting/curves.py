"""What charts are made of: a result's requests and macro-steps, condensed to a few hundred numbers each.

Quantiles are those of `metrics`, so that a curve goes through the numbers of the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator import metrics
from simulator.policy import Status
from simulator.reporting.bins import bin_counts, bin_edges, bin_most, bin_totals
from simulator.result import Result
from workloads.speculation import Speculation

BINS = 240
PROBABILITIES = np.unique(np.concatenate([np.linspace(0, 1, 101), 1 - np.geomspace(0.01, 1e-4, 13)]))


@dataclass(frozen=True)
class Distribution:
    """A latency's distribution over requests, or over tokens (ITL).

    Attributes
    ----------
    key : as in the summary's `latency`. seconds : its quantiles at PROBABILITIES; empty where nobody has one.
    """

    key: str
    seconds: np.ndarray


def distributions(result: Result) -> list[Distribution]:
    """TTFT, TPOT, ITL and end to end, as the summary's percentiles are taken."""
    served = result.requests["status"] != Status.REJECTED
    times = metrics.request_times(result.requests)
    found = []
    for key in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        if key == "itl_s":
            values = np.array(metrics.token_gaps(result.requests, result.timeline, result.gaps, *_serving(result))[1])
        else:
            seconds = times[key][served]
            seconds = seconds[np.isfinite(seconds)]
            values = np.quantile(seconds, PROBABILITIES) if len(seconds) else np.empty(0)
        found.append(Distribution(key, values[np.isfinite(values)]))
    return found


def _serving(result: Result) -> tuple[tuple[float, ...], bool, bool]:
    engine = result.scenario["engine"]
    return tuple(PROBABILITIES.tolist()), engine.get("prefill") == "first", bool(result.scenario.get("speculation"))


@dataclass(frozen=True)
class Series:
    """A quantity of one kind of workers over time.

    Attributes
    ----------
    title : what it is. mean : over the workers and the time of a bin. most : the highest of any worker at any time in
        it; None where there is only a sum. unit : `%` for shares, else of the numbers.
    """

    title: str
    mean: np.ndarray
    most: np.ndarray | None = None
    unit: str = ""


@dataclass(frozen=True)
class Course:
    """What one kind of workers did in the course of a run: `workers` of them, named `kind` (empty without pools).

    `edges` of the bins are in seconds from the first submission. What was 0 all the time has no series.
    """

    kind: str
    workers: int
    edges: np.ndarray
    series: list[Series]


def courses(result: Result, bins: int = BINS) -> list[Course]:
    """The timeline of each kind of workers, in bins; nothing where no step was taken."""
    timeline, pools = result.timeline, result.summary.get("pools")
    begin = float(result.requests["submitted_s"].min())
    end = begin + result.summary["makespan_s"]
    if not len(timeline) or end <= begin:
        return []
    edges = bin_edges(begin, end, bins)
    if pools is None:
        memory = result.deployment["memory"]
        found = [_course(result, "", np.arange(len(timeline)), result.scenario["replicas"], memory, edges)]
    else:
        prefills = timeline["replica"] < pools["prefill"]["workers"]
        found = []
        for kind, rows in (("decode", ~prefills), ("prefill", prefills)):
            memory = result.deployment["pools"][kind]["memory"]
            found.append(_course(result, kind, np.flatnonzero(rows), pools[kind]["workers"], memory, edges))
    return found


def _tokens_a_step(result: Result) -> tuple[int, float]:
    """Tokens of a decoding sequence that a step computes, and by how many it advances in the mean."""
    said = result.scenario.get("speculation")
    return (said["tokens"] + 1, float(Speculation(**said).mean)) if said else (1, 1.0)


def _course(
    result: Result, kind: str, rows: np.ndarray, workers: int, memory: dict[str, float], edges: np.ndarray
) -> Course:
    runs = result.timeline.select(rows)
    start, duration, steps = runs["start_s"], runs["duration_s"], runs["steps"]
    width = edges[1] - edges[0]
    queries, advance = _tokens_a_step(result)
    growth = advance * runs["decode_seqs"] * (steps - 1) / memory["block_size"]  # blocks
    blocks = float(memory["kv_blocks"])

    def series(title: str, mean: np.ndarray, most: np.ndarray, unit: str = "") -> Series:
        total = bin_totals(edges, start, duration, mean)
        return Series(title, total / (width * workers), bin_most(edges, start, duration, most), unit)

    seqs = runs["prefill_seqs"] if kind == "prefill" else runs["decode_seqs"]
    found = [series("prompts in a step" if kind == "prefill" else "decoding sequences", seqs, seqs)]
    ends = np.minimum(runs["kv_blocks"] + growth, blocks)
    found.append(series("KV cache in use", (runs["kv_blocks"] + growth / 2) / blocks * 100, ends / blocks * 100, "%"))
    found.append(series("requests waiting", runs["waiting"], runs["waiting"]))
    if kind == "prefill":
        tokens = runs["prefill_tokens"]
    else:  # rows are those of finished prompts and, with drafts, all that are verified
        tokens = (runs["rows"] + runs["decode_seqs"] * (advance - queries)) * steps
    rate = bin_totals(edges, start, duration, tokens / np.maximum(duration, 1e-300)) / width
    what = "prompt" if kind == "prefill" else "output"
    found.append(Series(f"{what} tokens per second, all {f'{kind} workers' if kind else 'replicas'}", rate))
    preempted = bin_counts(edges, result.gaps[:, 1])
    if kind != "prefill":
        found.append(Series("preemptions in each bin", preempted.astype(float)))
    return Course(kind, workers, edges - edges[0], [s for s in found if (s.mean if s.most is None else s.most).any()])


@dataclass(frozen=True)
class Problems:
    """Problems of Best-of-N, those that took longest last.

    Attributes
    ----------
    number : of each, counted from 0. first_accepted_s, last_s : seconds from submission to the first accepted and to
        the last final sample; the former NaN where none was accepted. samples, accepted, tokens : of each.
        total : how many problems there are, of which these are evenly spaced.
    """

    number: np.ndarray
    first_accepted_s: np.ndarray
    last_s: np.ndarray
    samples: np.ndarray
    accepted: np.ndarray
    tokens: np.ndarray
    total: int


def problems(result: Result, most: int = 120) -> Problems | None:
    """None for other strategies than Best-of-N."""
    if "problems" not in result.summary:
        return None
    found = metrics.by_problem(result.requests)
    order = np.argsort(found["last_s"], kind="stable")
    total = len(order)
    if total > most:
        order = order[np.linspace(0, total - 1, most).round().astype(int)]
    picked = {name: values[order] for name, values in found.items()}
    return Problems(
        order,
        picked["first_accepted_s"],
        picked["last_s"],
        picked["samples"],
        picked["accepted"],
        picked["output_tokens"],
        total,
    )
