"""The result of a run: plain arrays and tables from which everything that is shown is computed.

A value only: `assemble` makes it, `store` saves and reopens it, `display` shows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simulator import metrics
from simulator.latency import request_itl
from simulator.timeline import Timeline

SCHEMA = "kinesim-result/1"
REQUEST_COLUMNS = (
    "job", "prompt_tokens", "output_tokens", "priority", "session", "accepted", "status", "replica",
    "submitted_s", "first_token_s", "finish_s", "generated", "preemptions", "prefix_hit_tokens",
)  # fmt: skip
PASSAGE_COLUMNS = ("prefill_worker", "prefilled_s", "reserved_s", "sent_s", "arrived_s", "joined_s")
"""And with prefill and decode on workers of their own; `replica` is the decode worker then."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a run yields.

    Attributes
    ----------
    scenario : the resolved scenario as plain data; `load_scenario` accepts it again.
    deployment : GPU, model, memory plan, profile: what served and what its times rest on.
    summary : headline metrics, see `metrics.summarise`.
    operators : totals of each operator (`accounting.OperatorTotals` as plain data).
    notes : what a reader must know (assumptions, rejected requests, ...).
    requests : columns of REQUEST_COLUMNS, perhaps PASSAGE_COLUMNS; one entry a request. `status` is a `policy.Status`.
    timeline : one row a macro-step. gaps : interruptions by preemption (request, from, to in seconds).
    timing : seconds of wall clock of the simulation itself and of everything; number of engine events. Not part of
        equality.
    """

    scenario: dict[str, Any]
    deployment: dict[str, Any]
    summary: dict[str, Any]
    operators: list[dict[str, Any]]
    notes: list[str]
    requests: dict[str, np.ndarray]
    timeline: Timeline
    gaps: np.ndarray
    timing: dict[str, float] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Equal to the last bit in everything but `timing`."""
        if not isinstance(other, Result):
            return NotImplemented
        plain_parts = ("scenario", "deployment", "summary", "operators", "notes")
        return (
            all(getattr(self, name) == getattr(other, name) for name in plain_parts)
            and _same_columns(self.requests, other.requests)
            and _same_columns(self.timeline.columns, other.timeline.columns)
            and np.array_equal(self.gaps, other.gaps, equal_nan=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def itl(self) -> np.ndarray:
        """ITL p50, p90, p99 and max of each request in seconds, [requests, 4]."""
        r = self.requests
        return request_itl(
            self.timeline,
            self.gaps,
            r["replica"],
            r["first_token_s"],
            r["finish_s"],
            r["generated"],
            joined_s=r.get("joined_s"),
        )

    def document(self) -> dict[str, Any]:
        """The content of `result.json`."""
        document = {
            "schema": SCHEMA,
            "summary": self.summary,
            "operators": self.operators,
            "deployment": self.deployment,
            "notes": self.notes,
            "timing": self.timing,
            "scenario": self.scenario,
        }
        if self.scenario["workload"]["strategy"]["kind"] == "best_of_n":
            problems = metrics.by_problem(self.requests)
            document["problems"] = {name: [plain(v) for v in values.tolist()] for name, values in problems.items()}
        document["gaps"] = [[plain(v) for v in row] for row in self.gaps.tolist()]
        return document


def _same_columns(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    def same(x: np.ndarray, y: np.ndarray) -> bool:
        return np.array_equal(x, y, equal_nan=np.issubdtype(x.dtype, np.floating))

    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


def plain(value: Any) -> Any:
    """NumPy's scalars and arrays to Python's, NaN and infinities to None, recursively: what JSON can hold."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
