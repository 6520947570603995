"""What if: a scenario with other values of its fields, and how much each resource of its GPU counts.

    whatif("aime24-best-of-32", {"gpu.memory.bandwidth": "x1,x2"}, against=["attention=top_k:1024"])

Every number is one of a full simulation. `points` makes them, `elasticities` and `boundshift` say what follows;
`words`, `display` and `plots` put it before people.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError
from simulator.headline import metric
from simulator.varying.elasticities import Table, elasticities, total_of_rates
from simulator.varying.paths import assignment, named, split_assignment, values_at, words
from simulator.varying.points import Point, Progress, Spec, Task, plain_spec, run_points
from simulator.varying.resources import Resource, resources
from workloads.scenario import LoadedScenario, load_scenario

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "kinesim-whatif/1"
MOST = 1_000
"""Simulations of one question; a larger grid is what `kinesim sweep` is for."""
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
        anything varied, a row a resource (`KEY`, `KEY.uncertainty`, `KEY.step`).
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
                    record |= {key: e.value, f"{key}.uncertainty": e.uncertainty, f"{key}.step": e.step}
                rows.append(record)
        return pd.DataFrame(rows)


def whatif(
    spec: Spec,
    vary: Mapping[str, Any] | None = None,
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
        list of values (`values.parse_values`). Several paths: every combination of their values.
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
    lists = {path: tuple(_values(loaded, path, given)) for path, given in (vary or {}).items()}
    combos = list(itertools.product(*lists.values())) if lists else []
    settings = [("as given", ()), *(variant_of(one) for one in against)]
    if len(combos) * len(settings) > MOST:
        found = " x ".join(f"{len(values)} of {path}" for path, values in lists.items())
        found += f" x {len(settings)} settings" if len(settings) > 1 else ""
        allowed = f"at most {MOST:,} together; `kinesim sweep` takes larger grids"
        raise InputError("too many simulations", file="--vary", found=found, allowed=allowed)
    _check(spec, sets, lists, settings)
    wanted = elasticities if elasticities is not None else not lists
    answers = []
    for name, texts in settings:
        answer = _ask(spec, (*sets, *texts), name, wanted, keys, closed, jobs, progress)
        answers.append(replace(answer, sets=texts))
    if combos:
        rows = _vary(spec, tuple(sets), settings, lists, combos, jobs, progress)
        answers = [replace(answer, rows=tuple(found)) for answer, found in zip(answers, rows, strict=True)]
    if answers[0].base.error is not None and not any(row.point.error is None for row in answers[0].rows):
        raise InputError(answers[0].base.error, file=loaded.origin)
    return WhatIf(loaded.config.name, loaded.gpu.title, loaded.model.name, keys, lists, tuple(answers), closed)


def variant_of(given: str | Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """A setting's name and its assignments, from one `PATH=VALUE` or several. InputError for anything else."""
    texts = [given] if isinstance(given, str) else list(given)
    names, found = [], []
    for text in texts:
        path, value = split_assignment(text, "--against")
        plain = named(path, value)
        found.append(f"{path}={value}" if plain == value else assignment(path, plain))
        names.append(f"{path} {_shown(value, plain)}")
    return ", ".join(names), tuple(found)


def _shown(text: str, plain: Any) -> str:
    from hwspecs.yamlfile import parse_yaml

    try:
        return words(plain if plain != text else parse_yaml(text, "--against").data)
    except InputError:
        return text


def _values(loaded: LoadedScenario, path: str, given: object) -> list[Any]:
    """The values of one `--vary`; of several paths joined by `+`, a mapping of each one's."""
    paths = path.split("+")
    if len(paths) == 1:
        return values_at(loaded, path, given, path)
    lists = [values_at(loaded, one.strip(), given, path) for one in paths]
    if len({len(values) for values in lists}) > 1:
        found = ", ".join(f"{len(values)} of {one}" for one, values in zip(paths, lists, strict=True))
        raise InputError("fields that vary together need as many values each", place=path, found=found)
    return [dict(zip(paths, values, strict=True)) for values in zip(*lists, strict=True)]


def _texts(path: str, value: Any) -> list[str]:
    """Assignments that give a field of `vary` a value."""
    if "+" in path:
        return [assignment(one.strip(), each) for one, each in value.items()]
    return [assignment(path, value)]


def _check(
    spec: Spec,
    sets: Sequence[str],
    lists: Mapping[str, Sequence[Any]],
    settings: Sequence[tuple[str, Sequence[str]]],
) -> None:
    """InputError for a path or a value that is no good by itself, before anything is simulated.

    What is wrong only together with the rest of the scenario (a format that another GPU lacks) is left to the points.
    """
    asked = [("--vary", _texts(path, value)) for path, values in lists.items() for value in values]
    asked += [("--against", list(texts)) for _, texts in settings if texts]
    for option, texts in asked:
        try:
            load_scenario(plain_spec(spec), (*sets, *texts))
        except InputError as error:
            own = any(_about(error.place or "", text.partition("=")[0]) for text in texts)
            if error.file == "--set" and own:
                raise InputError(
                    error.problem, file=option, place=error.place, found=error.found, allowed=error.allowed
                ) from None


def _about(place: str, path: str) -> bool:
    """Whether an error's place is a path, inside of it, or on the way to it."""
    return place == path or place.startswith((f"{path}.", f"{path}[")) or path.startswith((f"{place}.", f"{place}["))


def _ask(
    spec: Spec, sets: tuple[str, ...], name: str, wanted: bool, keys: Sequence[str], closed: bool,
    jobs: int | None, progress: Progress | None,
) -> Answer:  # fmt: skip
    """The base of one setting, with elasticities if they are wanted."""
    plain = plain_spec(spec)
    if not wanted:
        return Answer(name, sets, run_points([Task(plain, sets, intervals=True)], 1, progress)[0])
    try:
        found = resources(load_scenario(plain, sets))
    except InputError as error:
        if name == "as given":
            raise
        return Answer(name, sets, Point(sets, error=error.message()))
    base, table = elasticities(plain, sets, found, keys, closed=closed, jobs=jobs, progress=progress)
    return Answer(name, sets, base, found, table)


def _vary(
    spec: Spec,
    sets: tuple[str, ...],
    settings: Sequence[tuple[str, tuple[str, ...]]],
    lists: Mapping[str, Sequence[Any]],
    combos: Sequence[tuple[Any, ...]],
    jobs: int | None,
    progress: Progress | None,
) -> list[list[Row]]:
    """The points of each setting."""
    plain, tasks = plain_spec(spec), []
    for _, texts in settings:
        for combo in combos:
            own = [t for path, value in zip(lists, combo, strict=True) for t in _texts(path, value)]
            tasks.append(Task(plain, (*sets, *texts, *own), intervals=True))
    points = iter(run_points(tasks, jobs, progress))
    return [[Row(dict(zip(lists, combo, strict=True)), next(points)) for combo in combos] for _ in settings]


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
