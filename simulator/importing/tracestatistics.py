"""What is in a trace: arrivals, lengths, sessions, prefixes, and what is odd about it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from simulator.metrics import distribution
from workloads.traces import Trace

MINUTE = 60.0


@dataclass(frozen=True)
class TraceStatistics:
    """The content of a trace in figures: seconds, tokens, requests per second.

    Attributes
    ----------
    requests, duration_s, rate, peak_rate : requests, time from the first to the last of them, mean requests per second,
        and those of the busiest minute.
    gap_cv : coefficient of variation of the gaps between arrivals: 1 is Poisson, more is burstier.
    input_len, output_len : mean, p50, p90, p99, max.
    sessions, longest_session : numbers of conversations, and of requests in the longest.
    reusable : share of the prompts' tokens in leading blocks that an earlier request had; None without hashes.
    notes : what a user should know before simulating it.
    """

    requests: int
    duration_s: float
    rate: float | None
    peak_rate: float | None
    gap_cv: float | None
    input_len: dict[str, float | None]
    output_len: dict[str, float | None]
    sessions: int
    longest_session: int
    reusable: float | None
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def trace_statistics(trace: Trace, max_context: int | None = None) -> TraceStatistics:
    """Figures of a trace; with `max_context` also how many of its requests a model's context cannot hold."""
    arrivals = trace.arrival_s
    duration = float(arrivals[-1] - arrivals[0])
    gaps = np.diff(arrivals)
    minutes = np.bincount(((arrivals - arrivals[0]) // MINUTE).astype(np.int64))
    mean = float(gaps.mean()) if len(gaps) else 0.0
    sizes = np.bincount(trace.session)
    return TraceStatistics(
        requests=trace.n,
        duration_s=duration,
        rate=(trace.n - 1) / duration if duration > 0 else None,
        peak_rate=float(minutes.max()) / MINUTE if duration >= MINUTE else None,
        gap_cv=float(gaps.std()) / mean if mean > 0 else None,
        input_len=distribution(trace.input_len.astype(np.float64)),
        output_len=distribution(trace.output_len.astype(np.float64)),
        sessions=len(sizes),
        longest_session=int(sizes.max()),
        reusable=_reusable(trace),
        notes=tuple(_notes(trace, gaps, duration, max_context)),
    )


def _notes(trace: Trace, gaps: np.ndarray, duration: float, max_context: int | None) -> list[str]:
    notes = []
    if duration == 0 and trace.n > 1:
        notes.append("all requests arrive at once")
    elif len(gaps):
        together = float((gaps == 0).mean())
        if together > 0.1:
            notes.append(f"{together:.0%} of the requests arrive at the same instant as the one before: a coarse clock")
        pause = float(gaps.max())
        if pause > max(MINUTE, 0.1 * duration):
            at = float(trace.arrival_s[int(np.argmax(gaps))])
            notes.append(f"nothing arrives for {pause:.0f} s after {at:.0f} s")
    single = float((trace.output_len == 1).mean())
    if single > 0.1:
        notes.append(f"{single:.0%} of the outputs have a single token, and no TPOT")
    if max_context is not None:
        long = int((trace.input_len + trace.output_len > max_context).sum())
        if long:
            notes.append(f"{long:,} requests are longer than the model's context of {max_context:,} tokens: rejected")
    return notes


def _reusable(trace: Trace) -> float | None:
    """The share of prompt tokens in leading blocks that an earlier prompt had: what an endless cache would find."""
    if trace.unit_tokens is None:
        return None
    tree: dict[tuple[int, int], int] = {}  # (the blocks before, by number; block) -> number of both together
    ids, tokens, ptr = trace.prefix_id.tolist(), trace.prefix_tokens.tolist(), trace.prefix_ptr.tolist()
    found = 0
    for first, last in pairwise(ptr):
        before = 0
        for unit in range(first, last):
            known = len(tree)
            before = tree.setdefault((before, ids[unit]), known + 1)
            if len(tree) == known:
                found += tokens[unit]
    return found / float(trace.input_len.sum())


def write_normalised(trace: Trace, path: Path) -> None:
    """The trace as kinesim's own CSV: arrival_s, input_len, output_len, and session where requests share one."""
    from simulator.tables import write_columns

    columns = {"arrival_s": trace.arrival_s, "input_len": trace.input_len, "output_len": trace.output_len}
    if len(np.unique(trace.session)) < trace.n:
        columns["session"] = trace.session
    write_columns(path, columns)
