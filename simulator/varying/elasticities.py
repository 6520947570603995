"""Elasticities: by how many percent a metric moves for one percent more of a resource, by full simulations.

    E = (log f(r (1 + h)) - log f(r (1 - h))) / (log(1 + h) - log(1 - h))

is a central difference in the logarithms. With a small step h it is exact where a metric is smooth in a resource, and
noise where it moves in steps (one KV block more, another wave of tiles, a request that overtakes another one). So each
is taken at two small steps; where these do not agree, or a resource is known to come in steps, at three wide ones. The
uncertainty is the difference between the steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from simulator.varying.points import Point, Progress, Task, run_points
from simulator.varying.resources import Resource
from simulator.varying.shares import PROPORTIONAL, spread

NARROW = (0.01, 0.02)
"""Steps where a metric is smooth; the first is the one that counts."""
WIDE = (0.1, 0.05, 0.2)
"""Steps where it is not; the first is the one that counts."""

CLOSE = 0.03
"""Relative: how far small steps of a metric that is not smooth may be apart."""


@dataclass(frozen=True)
class Elasticity:
    """That of one metric to one resource.

    Attributes
    ----------
    value : d log metric / d log resource; None where it is not known, and `why` says why.
    uncertainty : how far other steps are from it. step : half of the width of the difference that `value` is.
    below, above : how far from it errors of kernels put it in 80 of 100 cases (`shares`); None where that is not known.
    """

    value: float | None
    uncertainty: float = 0.0
    step: float = 0.0
    below: float | None = None
    above: float | None = None
    why: str = ""

    @property
    def off(self) -> float:
        """The larger of both sides, of steps and errors together."""
        return math.hypot(self.uncertainty, max(self.below or 0.0, self.above or 0.0))

    def document(self) -> dict[str, Any]:
        """As plain data."""
        if self.value is None:
            return {"value": None, "why": self.why}
        found: dict[str, Any] = {"value": self.value, "uncertainty": self.uncertainty, "step": self.step}
        known = self.below is not None and self.above is not None
        ends = [self.value - (self.below or 0.0), self.value + (self.above or 0.0)]
        return found | {"low": ends[0] if known else None, "high": ends[1] if known else None}


Table = dict[str, dict[str, Elasticity]]
"""By resource and metric."""


def elasticities(
    spec: Any,
    sets: Sequence[str],
    found: Sequence[Resource],
    metrics: Sequence[str],
    *,
    closed: bool = True,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> tuple[Point, Table]:
    """The scenario itself as simulated, and the elasticities of `metrics` to the resources `found`.

    Resources that should make no difference are moved together once, and apart only if that made one. `closed` :
    whether the machine alone decides how long a run takes.
    """
    idle, live = [r for r in found if r.idle], [r for r in found if not r.idle]
    runs = _Runs(spec, tuple(sets), jobs, progress)
    factors = {r.key: _factors(WIDE if r.stepped else NARROW) for r in live}
    joint = tuple(text for r in idle for text in r.sets(1 + WIDE[0]))
    runs.ask([(), joint, *(r.sets(f) for r in live for f in factors[r.key])])
    base = runs.known[()]
    if base.error is not None:
        return base, {}
    if idle and not _same(base, runs.known[joint], metrics):
        runs.ask([r.sets(f) for r in idle for f in _factors(NARROW)])
        live, idle = [*live, *idle], []
    rough = [r for r in live if not r.stepped and any(not _smooth(runs, base, r, key) for key in metrics)]
    runs.ask([r.sets(f) for r in rough for f in _factors(WIDE)])
    table: Table = {}
    for r in found:
        if r in idle:
            table[r.key] = {key: Elasticity(0.0, 0.0, WIDE[0]) for key in metrics}
        else:
            table[r.key] = {key: _elasticity(runs, base, r, key) for key in metrics}
            if closed:
                table[r.key] = {key: _with_errors(runs, base, r, key, e) for key, e in table[r.key].items()}
    return base, table


class _Runs:
    """Simulations that were made, by resource and factor."""

    def __init__(self, spec: Any, sets: tuple[str, ...], jobs: int | None, progress: Progress | None) -> None:
        self.spec, self.sets, self.jobs, self.progress = spec, sets, jobs, progress
        self.known: dict[tuple[str, ...], Point] = {}

    def ask(self, texts: Sequence[tuple[str, ...]]) -> None:
        """Simulate what is not known yet. The base, which has no further assignments, brings intervals and shifts."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        tasks = [Task(self.spec, (*self.sets, *text), intervals=not text, shifts=not text) for text in new]
        done, report = len(self.known), self.progress

        def shown(ended: int, total: int) -> None:
            if report is not None:
                report(done + ended, done + total)

        self.known |= zip(new, run_points(tasks, self.jobs, shown), strict=True)

    def moved(self, r: Resource, factor: float) -> Point | None:
        return self.known.get(r.sets(factor))


def _factors(steps: Sequence[float]) -> list[float]:
    return [1 + sign * step for step in steps for sign in (1, -1)]


def _same(base: Point, other: Point, metrics: Sequence[str]) -> bool:
    return all(base.metrics[key] == other.metrics.get(key) for key in metrics)


def _value(point: Point | None, key: str) -> float | None:
    """Logarithm of a metric; None where there is none, or it is zero."""
    value = None if point is None else point.metrics.get(key)
    return math.log(value) if value is not None and value > 0 else None


def _central(runs: _Runs, r: Resource, key: str, step: float) -> float | None:
    above, below = (_value(runs.moved(r, f), key) for f in (1 + step, 1 - step))
    width = math.log(r.ratio(1 + step)) - math.log(r.ratio(1 - step))
    return None if above is None or below is None or width == 0 else (above - below) / width


def _narrow(runs: _Runs, base: Point, r: Resource, key: str) -> tuple[float, float, bool] | None:
    """Central difference at the small step, its uncertainty, and whether the metric is smooth there."""
    one, two = (_central(runs, r, key, step) for step in NARROW)
    if one is None or two is None or _value(base, key) is None:
        return None
    bend = _bend(runs, base, r, key, NARROW[0])
    smooth = abs(one - two) <= max(0.01 * abs(one), 0.001) and bend <= max(0.1 * abs(one), 0.01)
    return one, abs(one - two) if smooth else max(abs(one - two), bend / 2), smooth


def _bend(runs: _Runs, base: Point, r: Resource, key: str, step: float) -> float:
    """How far the differences to both sides of the base are apart."""
    up, middle, down = (_value(p, key) for p in (runs.moved(r, 1 + step), base, runs.moved(r, 1 - step)))
    if up is None or middle is None or down is None:
        return 0.0
    ratio = math.log(r.ratio(1 + step)), -math.log(r.ratio(1 - step))
    return abs((up - middle) / ratio[0] - (middle - down) / ratio[1])


def _smooth(runs: _Runs, base: Point, r: Resource, key: str) -> bool:
    if _value(base, key) is None:
        return True  # nothing to take a difference of
    found = _narrow(runs, base, r, key)
    return found is not None and found[2]


def _elasticity(runs: _Runs, base: Point, r: Resource, key: str) -> Elasticity:
    if base.metrics.get(key) is None:
        return Elasticity(None, why="the run has no such number")
    if _value(base, key) is None:
        return Elasticity(None, why="it is zero")
    narrow = _narrow(runs, base, r, key)
    if narrow is not None and narrow[2]:
        return Elasticity(narrow[0], narrow[1], NARROW[0])
    # Small steps of a metric that jumps may agree by chance: they count where they agree closely, and with wide ones.
    wide = {step: e for step in WIDE if (e := _central(runs, r, key, step)) is not None}
    if len(wide) > 1:
        step, value = next(iter(wide.items()))
        off = max(*(abs(other - value) for other in wide.values()), _bend(runs, base, r, key, step) / 2)
        close = narrow is not None and narrow[1] <= CLOSE * abs(narrow[0]) and abs(narrow[0] - value) <= 2 * off
        return Elasticity(narrow[0], narrow[1], NARROW[0]) if narrow and close else Elasticity(value, off, step)
    if narrow is not None:
        return Elasticity(narrow[0], narrow[1], NARROW[0])
    reasons = [p.error for f in _factors((*NARROW, *WIDE)) if (p := runs.moved(r, f)) is not None and p.error]
    return Elasticity(None, why=reasons[0] if reasons else "the metric is zero, or missing, close by")


def _with_errors(runs: _Runs, base: Point, r: Resource, key: str, found: Elasticity) -> Elasticity:
    """With how far errors of kernels move it."""
    sign, ends = PROPORTIONAL.get(key), [runs.moved(r, factor) for factor in (1 + found.step, 1 - found.step)]
    if sign is None or found.value is None or ends[0] is None or ends[1] is None:
        return found
    width = math.log(r.ratio(1 + found.step)) - math.log(r.ratio(1 - found.step))
    off = spread(base.errors, ends[0], ends[1], width)
    return found if off is None else replace(found, below=off[::sign][0], above=off[::sign][1])


def total_of_rates(table: Mapping[str, Mapping[str, Elasticity]], found: Sequence[Resource], key: str) -> float:
    """The elasticities to all rates less those to all times: -1 for a time that only the machine decides.

    All rates twice as high and all times half as long take half the time; what is missing from -1 was not counted.
    """
    sizes = ("capacity", "size", "sms")
    total = 0.0
    for r in found:
        value = table[r.key][key].value
        if value is not None and not r.key.endswith(sizes):
            total += -value if r.time else value
    return total
