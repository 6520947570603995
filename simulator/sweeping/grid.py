"""The scenarios of a sweep: every combination of what is varied, counted and drawn without listing them all.

A combination has a number: the axes are digits of it, in the order of the file. What a combination means as a scenario
is left to `work`, which loads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.sweeping.draw import shuffled
from simulator.varying.values import Factor, number_of

MOST = 100_000
"""Most combinations that a sweep runs without being told how many."""
SCENARIO = "scenario"
"""The column that says which base a row comes from, and its name in `exclude`."""
LOAD = (
    "workload",
    "objective",
    "seed",
    "replicas",
    "router",
    "name",
    "description",
    "engine.host",
    "engine.host_factor",
)
"""Fields that the cost of a step does not depend on: scenarios that differ in them alone share what is compiled."""
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Axis:
    """Fields that change together. rows : their values, one tuple a step. place : where the file says so."""

    paths: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    place: Place

    @property
    def load(self) -> bool:
        """Whether the cost of a step is the same along it."""
        return all(any(p == name or p.startswith(f"{name}.") for name in LOAD) for p in self.paths)


@dataclass(frozen=True)
class Base:
    """A base scenario: what its file says (`given`), what is set in all (`sets`), and the axes in its own values."""

    name: str
    given: Mapping[str, Any]
    sets: Mapping[str, Any]
    axes: tuple[Axis, ...]

    @property
    def count(self) -> int:
        return math.prod(len(axis.rows) for axis in self.axes)


@dataclass(frozen=True)
class Point:
    """A combination: its number, the number of its base, and path -> value."""

    index: int
    base: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """All combinations of a sweep.

    Attributes
    ----------
    bases : each with its part of the numbers, one after the other. paths : that are varied, in the file's order.
    folder : of relative paths. exclusions : combinations that are left out; all of a mapping have to match.
    units : of the varied quantities, by path; empty of plain numbers and texts.
    """

    bases: tuple[Base, ...]
    paths: tuple[str, ...]
    folder: Path
    exclusions: tuple[Mapping[str, tuple[Any, ...]], ...]
    units: Mapping[str, str]

    @property
    def count(self) -> int:
        """Combinations, those that are left out included."""
        return sum(base.count for base in self.bases)

    def point(self, index: int) -> Point:
        """The combination of that number."""
        number, digits = self._digits(index)
        values: dict[str, Any] = {}
        for axis, at in zip(self.bases[number].axes, digits, strict=True):
            values |= dict(zip(axis.paths, axis.rows[at], strict=True))
        return Point(index, number, values)

    def _digits(self, index: int) -> tuple[int, list[int]]:
        """The number of the base, and the step on each of its axes."""
        rest, number = index, 0
        while rest >= self.bases[number].count:
            rest -= self.bases[number].count
            number += 1
        digits = []
        for axis in reversed(self.bases[number].axes):
            rest, at = divmod(rest, len(axis.rows))
            digits.append(at)
        return number, digits[::-1]

    def with_value(self, number: int, axis: Axis, step: int, most: int) -> Iterator[int]:
        """Numbers of up to `most` combinations of a base that are at a step of one of its axes, drawn from them all."""
        base = self.bases[number]
        first = sum(other.count for other in self.bases[:number])
        later = math.prod(len(other.rows) for other in base.axes[base.axes.index(axis) + 1 :])
        rest = base.count // len(axis.rows)
        for i in range(min(rest, most)):
            before, behind = divmod(shuffled(i, rest, 0), later)
            yield first + (before * len(axis.rows) + step) * later + behind

    def excluded(self, point: Point) -> bool:
        """Whether the combination is left out."""
        known = {**point.values, SCENARIO: self.bases[point.base].name}
        return any(
            all(any(alike(known[path], value) for value in values) for path, values in exclusion.items())
            for exclusion in self.exclusions
        )

    def chosen(self, limit: int | None, seed: int) -> list[Point]:
        """The combinations that are run, in their order: all, or as many as `limit` draws."""
        return sorted(self._drawn(limit, seed), key=lambda point: point.index)

    def _drawn(self, limit: int | None, seed: int) -> Iterator[Point]:
        total = self.count
        if limit is None or (limit >= total and not self.exclusions):
            yield from (point for point in map(self.point, range(total)) if not self.excluded(point))
            return
        left = limit
        # Where nearly all are left out this would go on for ever; then fewer than `limit` are drawn.
        for i in range(min(total, 20 * limit + MOST)):
            point = self.point(shuffled(i, total, seed))
            if not self.excluded(point):
                yield point
                left -= 1
            if not left:
                return

    def cheap_order(self, points: Sequence[Point]) -> list[Point]:
        """The same with those that share what is compiled beside each other."""

        def key(point: Point) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
            number, digits = self._digits(point.index)
            steps = list(zip(self.bases[number].axes, digits, strict=True))
            slow = tuple(at for axis, at in steps if not axis.load)
            return number, slow, tuple(at for axis, at in steps if axis.load)

        return sorted(points, key=key)


def assignments(base: Base, point: Point) -> dict[str, Any]:
    """Path -> value of all that makes a point of its base; what lies inside a part comes behind the part itself."""
    both = {**base.sets, **point.values}
    return {path: both[path] for path in sorted(both, key=lambda path: path.count(".") + path.count("["))}


def alike(a: Any, b: Any) -> bool:
    """Whether two values mean the same: `4.8 TB/s` is 4.8e12, and 2 is 2.0."""
    x, y = number_of(a), number_of(b)
    if x is not None and y is not None:
        return math.isclose(x, y, rel_tol=1e-9)
    return type(a) is type(b) and a == b


def text_of(value: Any) -> str:
    """A value as one writes it in YAML."""
    if isinstance(value, Factor):
        return f"x{value.by:g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {text_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(text_of(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
