"""Several results side by side: their headline metrics, which is better by how much, and how their scenarios differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.headline import METRICS, Metric, headline
from simulator.reporting.sections import Shown

SCHEMA = "kinesim-report/1"
MOST = 8
"""Results that can be told apart beside each other."""

NO_GOAL = ("mean_power_w_per_gpu", "eflops", "mfu", "mbu", "mean_decode_seqs", "kv_peak_use", "preemptions")
"""Metrics that explain others: more of them, or less, is nobody's aim."""
TOTALS = ("makespan_s", "gpu_hours", "usd", "energy_j", "solved")
"""Metrics of the whole workload: of different ones none is the better."""


@dataclass(frozen=True)
class Row:
    """One metric of all results.

    Attributes
    ----------
    values, intervals : of each result; None where it has none. best : indices of the results with the best value, empty
        if all are equal, fewer than two have one, or the metric is one of NO_GOAL, or of TOTALS where the work
        differs. close : those whose interval
        overlaps that of the best.
    """

    metric: Metric
    values: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    best: tuple[int, ...]
    close: tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """A value of the scenario, or a whole part of it, that is not the same in all results; None where a scenario does
    not have it.
    """

    path: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Comparison:
    """Results beside each other, the first being what the others are held against.

    Attributes
    ----------
    labels : their names. rows : headline metrics that any of them has. differences : of their scenarios.
    """

    labels: tuple[str, ...]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]

    @property
    def same_work(self) -> bool:
        """Whether all have the same workload and seed, so that totals (time, money, energy) can be compared."""
        return _same_work(self.differences)


def _same_work(differences: Sequence[Difference]) -> bool:
    return not any(d.path.partition(".")[0] in ("workload", "seed") for d in differences)


def compare_results(shown: Sequence[Shown]) -> Comparison:
    """Hold results against each other."""
    values = [headline(one.result.summary) for one in shown]
    rows = []
    told = _differences([one.result.scenario for one in shown], "")
    told = [d for d in told if d.path not in ("name", "description")]
    without = NO_GOAL if _same_work(told) else (*NO_GOAL, *TOTALS)
    for key, metric in METRICS.items():
        row = tuple(v[key] for v in values)
        if any(v is not None for v in row):
            intervals = tuple(one.intervals.get(key) for one in shown)
            rows.append(_row(metric, row, intervals, judged=key not in without))
    return Comparison(tuple(one.label for one in shown), tuple(rows), tuple(told))


def _row(
    metric: Metric,
    values: tuple[float | None, ...],
    intervals: tuple[tuple[float, float] | None, ...],
    *,
    judged: bool,
) -> Row:
    known = [v for v in values if v is not None]
    best: tuple[int, ...] = ()
    close: tuple[int, ...] = ()
    if judged and len(known) > 1 and min(known) < max(known):
        top = min(known) if metric.better == "lower" else max(known)
        best = tuple(i for i, v in enumerate(values) if v == top)
        mine = intervals[best[0]]
        if mine is not None:
            close = tuple(
                i
                for i, other in enumerate(intervals)
                if i not in best and other is not None and other[0] <= mine[1] and mine[0] <= other[1]
            )
    return Row(metric, values, intervals, best, close)


def _differences(values: Sequence[Any], above: str) -> list[Difference]:
    """Where plain data differ: at the leaves of mappings that all have, else at the mapping that some do not have."""
    if all(value == values[0] for value in values):
        return []
    if not all(isinstance(value, Mapping) for value in values):
        return [Difference(above, tuple(values))]
    found = []
    for key in dict.fromkeys(key for value in values for key in value):
        path = f"{above}.{key}" if above else str(key)
        found += _differences([value.get(key) for value in values], path)
    return found
