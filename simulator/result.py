"""The result of a run: plain arrays and tables from which everything that is shown is computed.

A value only: `assemble` makes it, `store` saves and reopens it, `display` shows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError
from hwspecs.units import format_quantity
from simulator import metrics
from simulator.headline import METRICS, headline
from simulator.latency import request_itl
from simulator.policy import Status
from simulator.timeline import Timeline

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "kinesim-result/1"
REQUEST_COLUMNS = (
    "job", "prompt_tokens", "output_tokens", "priority", "session", "accepted", "status", "replica",
    "submitted_s", "first_token_s", "finish_s", "generated", "preemptions", "prefix_hit_tokens",
)  # fmt: skip
PASSAGE_COLUMNS = ("prefill_worker", "prefilled_s", "reserved_s", "sent_s", "arrived_s", "joined_s")
"""And with prefill and decode on workers of their own; `replica` is the decode worker then."""


@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        """What was simulated and how long it took, in a line: the arrays are long."""
        count = self.summary["requests"]["total"]
        time = format_quantity(self.summary["makespan_s"], "s")
        return f"<Result {self.scenario['name']}: {count:,} requests in {time} on {self.deployment['gpu']['name']}>"

    # ---- tables (pandas) ----

    def headline(self) -> dict[str, float | None]:
        """The metrics of `simulator.headline` by key, in SI units; None for what the run does not have."""
        return headline(self.summary)

    def headline_frame(self) -> pd.DataFrame:
        """The same as a table by key: title, value, unit, better (lower or higher)."""
        import pandas as pd

        rows = [
            {"metric": key, "title": METRICS[key].title, "value": value, "unit": METRICS[key].unit,
             "better": METRICS[key].better}
            for key, value in self.headline().items()
            if value is not None
        ]  # fmt: skip
        return pd.DataFrame(rows).set_index("metric")

    def requests_frame(self) -> pd.DataFrame:
        """One row a request: its columns, `status` in words, TTFT, TPOT and E2E, and its ITL's quantiles; seconds."""
        import pandas as pd

        itl = self.itl()
        columns = self.requests | metrics.request_times(self.requests)
        columns |= {name: itl[:, i] for i, name in enumerate(("itl_p50_s", "itl_p90_s", "itl_p99_s", "itl_max_s"))}
        frame = pd.DataFrame(columns)
        words = {int(status): status.name.lower() for status in Status}
        frame["status"] = frame["status"].map(words).astype("category")
        return frame

    def timeline_frame(self) -> pd.DataFrame:
        """One row a macro-step (steps with the same batch), in the order of their ends; seconds, tokens, blocks."""
        import pandas as pd

        return pd.DataFrame(self.timeline.columns)

    def operators_frame(self) -> pd.DataFrame:
        """One row an operator: its totals over the run, with the seconds by bound as columns of their own."""
        import pandas as pd

        frame = pd.json_normalize(self.operators)
        bounds = [name for name in frame if name.startswith("by_bound.")]
        frame[bounds] = frame[bounds].fillna(0.0)
        return frame

    def problems_frame(self) -> pd.DataFrame:
        """Of Best-of-N, one row a problem. Raises InputError for another strategy, which has none."""
        import pandas as pd

        kind = self.scenario["workload"]["strategy"]["kind"]
        if kind != "best_of_n":
            raise InputError("has no problems", place="strategy", found=kind, allowed="best_of_n")
        return pd.DataFrame(metrics.by_problem(self.requests))

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
