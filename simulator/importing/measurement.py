"""A measurement of a deployment under load, whatever tool took it: what was sent, how long it took, what is known.

Times are in seconds. Statistics have the names of the headline metrics (`simulator.headline`), and further percentiles
of the latencies the same way (`ttft_s.p95`). Readers of files make these (`vllmbench`, `aiperf`, `tables`); scenarios
and comparisons are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwspecs.errors import InputError, near_matches

LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
PERCENTILES = (50, 90, 99)
REQUEST_COLUMNS = ("arrival_s", "input_len", "output_len", "ttft_s", "tpot_s", "e2e_s", "session")
"""What may be known of each request; `arrival_s` counts from the first one."""


@dataclass(frozen=True)
class Load:
    """What the load generator sent.

    Attributes
    ----------
    requests, failed : answered, and not answered; None where not known.
    input_len, output_len : mean tokens of the answered ones; None where not known.
    concurrency : requests in flight at most; None without a limit.
    rate : requests per second as asked for; inf for all at once, None where there was none or it is not known.
    cv : coefficient of variation of the gaps between requests: 1 is Poisson, 0 constant.
    known : whether the file says how requests were sent at all.
    """

    requests: int | None
    failed: int = 0
    input_len: float | None = None
    output_len: float | None = None
    concurrency: int | None = None
    rate: float | None = None
    cv: float = 1.0
    known: bool = True

    def failure_words(self) -> str:
        """How many requests are not counted."""
        return f"{self.failed:,} of {self.failed + (self.requests or 0):,} requests failed and are left out"


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured.

    Attributes
    ----------
    file, tool : where it comes from. name : short, for files made from it.
    load : what was sent. statistics : measured values by metric, in SI units.
    requests : columns of REQUEST_COLUMNS, one entry an answered request in order of arrival; empty if only statistics
        are known.
    facts : what the file says of the deployment: gpu, model, engine, version, precision, and the layout of a serving
        table; only what it says.
    notes : what a reader must know.
    """

    file: Path
    tool: str
    name: str
    load: Load
    statistics: Mapping[str, float]
    requests: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def latency_statistics(name: str, values: np.ndarray) -> dict[str, float]:
    """`name.mean`, `.p50`, ..., `.max` of what is finite; empty if nothing is."""
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    found = {f"{name}.mean": float(values.mean())}
    found |= {f"{name}.p{p}": float(q) for p, q in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}
    return found | {f"{name}.max": float(values.max())}


def request_statistics(columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The statistics that follow from the requests themselves."""
    found: dict[str, float] = {}
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        if name in columns:
            found |= latency_statistics(name, columns[name])
    if {"arrival_s", "e2e_s"} <= columns.keys():
        span = float((columns["arrival_s"] + columns["e2e_s"]).max() - columns["arrival_s"].min())
        if span > 0:
            found["makespan_s"] = span
            found["requests_per_s"] = len(columns["arrival_s"]) / span
            if "output_len" in columns:
                found["output_tokens_per_s"] = float(columns["output_len"].sum()) / span
    return found


def tpot_of(ttft: np.ndarray, e2e: np.ndarray, output_len: np.ndarray) -> np.ndarray:
    """Time per output token after the first; NaN where there is a single one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(output_len > 1, (e2e - ttft) / (output_len - 1), np.nan)


def in_order(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The requests by arrival, which then counts from the first one."""
    if "arrival_s" not in columns:
        return dict(columns)
    order = np.argsort(columns["arrival_s"], kind="stable")
    found = {name: values[order] for name, values in columns.items()}
    found["arrival_s"] = found["arrival_s"] - found["arrival_s"][0]
    return found


def check_requests(columns: Mapping[str, np.ndarray], file: Path) -> None:
    """InputError unless lengths are whole tokens from 1 on and times are not negative (NaN is not known)."""
    for name, values in columns.items():
        with np.errstate(invalid="ignore"):
            if name.endswith("_len"):
                bad, allowed = ~((values >= 1) & (values == np.floor(values))), "a whole number of tokens from 1 on"
            elif name.endswith("_s"):
                bad, allowed = ~(np.isnan(values) | ((values >= 0) & np.isfinite(values))), "seconds from 0 on"
            else:
                continue
        if bad.any():
            row = int(np.argmax(bad))
            place = f"request {row + 1}, {name}"
            problem = "not a length" if name.endswith("_len") else "not a time"
            raise InputError(problem, file=file, place=place, found=values[row].item(), allowed=allowed)


class Document:
    """A mapping out of a JSON file whose values are asked for with a type; InputError with the place if it is wrong."""

    def __init__(self, file: Path, data: Mapping[str, Any], place: str = "") -> None:
        self.file, self.data, self.place = file, data, place

    def number(self, key: str, *, least: float = 0.0) -> float | None:
        """A finite number of at least `least`, None where it is absent or null."""
        value = self.data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
            raise self.error("not a number in range", key, value, f"a finite number of at least {least:g}")
        return float(value)

    def needed(self, key: str, *, least: float = 0.0) -> float:
        """The same for what must be there."""
        value = self.number(key, least=least)
        if value is None:
            raise self.error("a key is missing", key, None, f"{key}; there: {near_matches(key, map(str, self.data))}")
        return value

    def part(self, key: str) -> Document:
        """A mapping inside; empty where there is none."""
        value = self.data.get(key)
        return Document(self.file, value if isinstance(value, Mapping) else {}, f"{self.place}{key}.")

    def column(self, key: str, count: int | None = None) -> np.ndarray | None:
        """A list of numbers as float64, null as NaN; None where it is absent or empty."""
        values = self.data.get(key)
        if not values:
            return None
        try:
            column = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
        except (TypeError, ValueError):
            raise self.error("not a list of numbers", key, None, "numbers, one a request") from None
        if column.ndim != 1 or (count is not None and len(column) != count):
            raise self.error("not one number a request", key, len(values), f"{count} numbers")
        return column

    def error(self, problem: str, key: str, found: object, allowed: str) -> InputError:
        return InputError(problem, file=self.file, place=f"{self.place}{key}", found=found, allowed=allowed)
