"""What if: a scenario with other values of its fields, and how much each resource of its GPU counts.

    whatif("aime24-best-of-32", {"gpu.memory.bandwidth": "x1,x2"}, against=["attention=top_k:1024"])

Every number is one of a full simulation. `points` makes them, `elasticities` and `boundshift` say what follows;
`words`, `display` and `plots` put it before people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError
from simulator.headline import metric
from simulator.notebook import answer_html, answer_text
from simulator.varying.elasticities import Table, elasticities, total_of_rates
from simulator.varying.grid import Setting, Vary, check_size, check_values, places, values_of, variant_of, vary_lists
from simulator.varying.paths import ordered, words
from simulator.varying.points import Point, Progress, Spec, Task, plain_spec, run_points
from simulator.varying.resources import Resource, resources
from simulator.varying.target import missing
from workloads.scenario import load_scenario

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "kinesim-whatif/1"
AS_GIVEN = "as given"
"""What the scenario itself is called beside other settings."""
CLOSED = ("makespan_s", "usd", "energy_j")
"""Metrics where it is up to the machine how long a run takes."""
OPEN = ("ttft_s.p99", "tpot_s.p99", "e2e_s.p99", "usd", "energy_j")
"""Metrics where arrivals decide how long it takes."""


@dataclass(frozen=True)
class Row:
    """The scenario with some fields varied. values : by path, as they were given."""

    values: Mapping[str, Any]
    point: Point


@dataclass(frozen=True)
class Answer:
    """What was found of one setting: the scenario as it is, or one of those that it is compared with.

    Attributes
    ----------
    name : in words. sets : assignments that make it. base : as it is simulated, with intervals and bound shifts.
    resources, table : of the GPU, and elasticities to them; empty if not asked for. rows : of what is varied.
    """

    name: str
    sets: tuple[str, ...]
    base: Point
    resources: tuple[Resource, ...] = ()
    table: Table | None = None
    rows: tuple[Row, ...] = ()

    @property
    def rates_total(self) -> float | None:
        """Of the makespan: `elasticities.total_of_rates`."""
        if not self.table or any("makespan_s" not in row for row in self.table.values()):
            return None
        return total_of_rates(self.table, self.resources, "makespan_s")

    def document(self, metrics: Sequence[str]) -> dict[str, Any]:
        """As plain data."""
        found: dict[str, Any] = {
            "name": self.name,
            "sets": list(self.sets),
            "base": _point(self.base),
            "points": [{"values": dict(row.values)} | _point(row.point, self.base) for row in self.rows],
        }
        if self.table is not None:
            found["elasticities"] = [
                {
                    "path": r.key,
                    "title": r.title,
                    "value": r.field.value,
                    "unit": r.field.unit,
                    "less_is_better": r.time,
                    "idle": r.idle or None,
                    "metrics": {key: self.table[r.key][key].document() for key in metrics},
                }
                for r in self.resources
                if r.key in self.table
            ]
            found["rates_total"] = self.rates_total
            found["bound_shifts"] = [shift.document() for shift in self.base.shifts]
        return found


@dataclass(frozen=True)
class WhatIf:
    """The answer to a what-if.

    Attributes
    ----------
    scenario : its name. gpu, model : their titles. metrics : the headline metrics that tables show. vary : by path, the
        values. answers : the scenario's own first, then one for each setting that it is compared with. units : of the
        fields varied. closed : whether the machine decides how long it takes, and not the arrivals.
    """

    scenario: str
    gpu: str
    model: str
    metrics: tuple[str, ...]
    vary: Mapping[str, tuple[Any, ...]]
    answers: tuple[Answer, ...]
    closed: bool

    def document(self) -> dict[str, Any]:
        """What `kinesim whatif --format json` prints (docs/whatif.md)."""
        from simulator.varying.answers import sentences

        return {
            "schema": SCHEMA,
            "scenario": self.scenario,
            "gpu": self.gpu,
            "model": self.model,
            "metrics": list(self.metrics),
            "vary": {path: list(values) for path, values in self.vary.items()},
            "answer": sentences(self),
            "settings": [answer.document(self.metrics) for answer in self.answers],
        }

    def frame(self) -> pd.DataFrame:
        """As a table: of what was varied, a row a point (metrics, `KEY.low`, `KEY.high`, `KEY.ratio`); without
        anything varied, a row a resource (`KEY`, `KEY.uncertainty`, `KEY.step`, `.low`, `.high`).
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for answer in self.answers:
            for row in answer.rows:
                shown = _point(row.point, answer.base)
                plain = {path: words(v) if isinstance(v, Mapping) else v for path, v in row.values.items()}
                record: dict[str, Any] = {"setting": answer.name, **plain, "error": shown["error"]}
                for key, found in (shown["metrics"] or {}).items():
                    record[key] = found["value"]
                    record |= {f"{key}.{name}": found[name] for name in ("low", "high", "ratio")}
                rows.append(record)
            for r in answer.resources if not self.vary else ():
                cells = (answer.table or {}).get(r.key, {})
                record = {"setting": answer.name, "path": r.key, "title": r.title}
                for key, e in cells.items():
                    known = e.document()
                    names = ("uncertainty", "step", "low", "high")
                    record |= {key: e.value, **{f"{key}.{name}": known.get(name) for name in names}}
                rows.append(record)
        return pd.DataFrame(rows)

    def _sentences(self) -> list[str]:
        from simulator.varying.answers import sentences

        return sentences(self)

    def __repr__(self) -> str:
        """The answer's sentences: the points are long."""
        return answer_text(f"WhatIf {self.scenario}", self._sentences())

    def _repr_html_(self) -> str:
        """The same, and the metrics asked for as a table."""
        paths = [one.strip() for path in self.vary for one in (path, *path.split("+"))]
        columns = ("setting", *dict.fromkeys(paths), "title", *self.metrics, "error")
        title = f"What if: {self.scenario}, {self.model} on {self.gpu}"
        return answer_html(title, self._sentences(), self.frame(), columns)


def whatif(
    spec: Spec,
    vary: Vary = None,
    *,
    sets: Sequence[str] = (),
    against: Sequence[str | Sequence[str]] = (),
    elasticities: bool | None = None,
    metrics: Sequence[str] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> WhatIf:
    """Simulate a scenario with other values of its fields, or ask what every resource of its GPU counts.

    Parameters
    ----------
    spec, sets : the scenario and assignments to it, as of `load_scenario`.
    vary : by path (several joined by `+` get the same values), a text such as `x0.5,x2` or `4.8..9.6 TB/s:lin5`, or a
        list of values (`values.parse_values`); or as after `--vary`, `PATH=VALUES`, or several of them. Several paths:
        every combination of their values.
    against : settings that the scenario is compared with, each an assignment `PATH=VALUE` or several.
    elasticities : whether those to all resources of the GPU are found; if left out, where nothing is varied.
    metrics : keys of `simulator.headline`; if left out, time, price and energy, or with arrivals that decide the time
        latencies in its place.
    jobs : processes; as many as there are cores if left out. progress : called with simulations done and all of them.

    Raises
    ------
    InputError : bad input, a scenario that cannot be served, or too many simulations. Points and settings that cannot
        be served are rows with a reason.
    """
    loaded = load_scenario(plain_spec(spec), sets)
    closed = loaded.config.workload.arrivals is not None and loaded.config.workload.arrivals.kind in (
        "all_at_once",
        "closed_loop",
    )
    keys = tuple(dict.fromkeys(metrics)) if metrics else CLOSED if closed else OPEN
    for key in keys:
        metric(key)
    pause = getattr(loaded.config.workload.arrivals, "think_time", 0.0)
    closed = closed and not pause and loaded.config.workload.timeout is None  # else they decide, too
    varied = vary_lists(vary)
    lists = {path: values_of(loaded, path, given) for path, given in varied.items()}
    settings: list[Setting] = [(AS_GIVEN, ()), *(variant_of(one) for one in against)]
    check_size(lists, settings)
    check_values(spec, sets, lists, settings)
    wanted = elasticities if elasticities is not None else not lists
    answers = [_ask(spec, tuple(sets), own, keys, closed, jobs, progress) for own in settings] if wanted else []
    grids = [places(spec, sets, own, varied, lists) if lists else [] for own in settings]
    tasks = []
    for own, grid in zip(settings, grids, strict=True):
        tasks += [] if wanted else [Task(plain_spec(spec), ordered(sets, own[1]), intervals=True)]
        tasks += [Task(plain_spec(spec), one.sets, intervals=True) for one in grid]
    points = iter(run_points(tasks, jobs, progress) if tasks else ())
    for i, (name, texts) in enumerate(settings):
        if not wanted:
            answers.append(Answer(name, texts, next(points)))
        answers[i] = replace(answers[i], rows=tuple(Row(one.values, next(points)) for one in grids[i]))
    if answers[0].base.error is not None and not any(row.point.error is None for row in answers[0].rows):
        raise InputError(answers[0].base.error, file=loaded.origin)
    for key in metrics or ():
        served = [p for one in answers for p in (one.base, *(row.point for row in one.rows)) if p.error is None]
        if not any(point.metrics.get(key) is not None for point in served):
            raise missing(metric(key), "--metrics")
    return WhatIf(loaded.config.name, loaded.gpu.title, loaded.model.name, keys, lists, tuple(answers), closed)


def _ask(
    spec: Spec,
    sets: tuple[str, ...],
    setting: Setting,
    keys: Sequence[str],
    closed: bool,
    jobs: int | None,
    progress: Progress | None,
) -> Answer:
    """One setting with its elasticities."""
    (name, own), plain = setting, plain_spec(spec)
    texts = ordered(sets, own)
    try:
        found = resources(load_scenario(plain, texts))
    except InputError as error:
        if not own:
            raise
        return Answer(name, own, Point(texts, error=error.message()))
    base, table = elasticities(plain, texts, found, keys, closed=closed, jobs=jobs, progress=progress)
    return Answer(name, own, base, found, table)


def _point(point: Point, base: Point | None = None) -> dict[str, Any]:
    """A point as plain data; with the ratio to `base`."""
    found: dict[str, Any] = {"error": point.error, "metrics": None}
    if point.error is not None:
        return found
    metrics: dict[str, Any] = {}
    for key, value in point.metrics.items():
        low, high = point.intervals.get(key) or (None, None)
        before = None if base is None else base.metrics.get(key)
        ratio = value / before if value is not None and before else None
        metrics[key] = {"value": value, "low": low, "high": high, **({} if base is None else {"ratio": ratio})}
    return found | {
        "metrics": metrics,
        "bounds": point.bound_shares,
        "profile": point.profile,
        "kernel_time": list(point.kernel_time) if point.kernel_time else None,
        "notes": list(point.notes),
    }
