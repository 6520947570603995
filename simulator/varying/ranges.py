"""Ranges of a field to search: `gpu.memory.bandwidth=2..10 TB/s`, `gpu.memory.bandwidth=x0.5..x4`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hwspecs.errors import InputError
from hwspecs.units import format_quantity
from simulator.varying.paths import Field, assignment, field_at, split_assignment, values_at, words
from simulator.varying.values import Stop, parse_values
from workloads.scenario import LoadedScenario

RANGES = "LO..HI, numbers with units as in --set, such as 2..10 TB/s, or factors on what it is, such as x0.5..x4"
_FACTORS = re.compile(r"\s*[x×]\s*([\d._eE+-]+)\s*\.\.\s*[x×]\s*([\d._eE+-]+)\s*")
SI = ("B", "B/s", "FLOP/s", "Hz", "W", "s")
"""Units without a prefix, as ranges of factors have them."""


@dataclass(frozen=True)
class Range:
    """The values of a field that are searched: from `low` to `high` in `unit`, whole numbers or not."""

    path: str
    unit: str
    low: float
    high: float
    whole: bool

    @property
    def logarithmic(self) -> bool:
        return self.low > 0

    def plain(self, x: float) -> Any:
        """The value as a scenario has it."""
        number = round(x) if self.whole else x
        return f"{number!r} {self.unit}" if self.unit else number

    def sets(self, x: float) -> tuple[str, ...]:
        """The assignments that give the field the value `x`."""
        return (assignment(self.path, self.plain(x)),)

    def words(self, x: float) -> str:
        """The value for people: four digits."""
        if self.whole:
            return words(round(x))
        if self.unit in SI:
            return format_quantity(x, self.unit, digits=4)
        text = f"{x:,.4g}" if 1e-3 <= abs(x) < 1e6 else f"{x:.4g}"
        return f"{text} {self.unit}".strip()


def parse_range(loaded: LoadedScenario, text: str) -> Range:
    """`PATH=LO..HI` as a range of a field of the scenario. Raises InputError for a path
    without a value, and for a range that is none, empty or infinite."""
    path, given = split_assignment(text, "--break-even")
    here = field_at(loaded, path)
    factors = _FACTORS.fullmatch(given)
    if factors:
        ends = values_at(loaded, path, [f"x{factors[1]}", f"x{factors[2]}"], path)
        return _checked(path, here, text, *(_number(end) for end in ends))
    stops: list[Stop] = []
    problem = "not a range"
    if given.count("..") == 1 and ":" not in given:
        try:
            stops = [s for s in parse_values(f"{given}:lin2", path) if isinstance(s, Stop)]
        except InputError as error:
            problem = error.problem
    if len(stops) != 2:
        raise InputError(problem, file="--break-even", place=path, found=given, allowed=RANGES)
    low, high = stops
    return _checked(path, here, text, (low.number, low.unit, low.whole), (high.number, high.unit, high.whole))


def _number(end: Any) -> tuple[float, str, bool]:
    """A settled end: number, unit, whether it is whole."""
    if isinstance(end, str):
        number, _, unit = end.partition(" ")
        return float(number), unit, False
    return float(end), "", isinstance(end, int)


def _checked(path: str, here: Field, text: str, low: tuple[float, str, bool], high: tuple[float, str, bool]) -> Range:
    if low[0] >= high[0]:
        problem = "an empty range: " + ("one value" if low[0] == high[0] else "its end lies below its start")
        raise InputError(problem, file="--break-even", place=path, found=text, allowed="LO..HI with LO below HI")
    whole_field = isinstance(here.value, int) and not isinstance(here.value, bool)
    whole = not low[1] and (whole_field or (here.value is None and low[2] and high[2]))
    return Range(path, low[1], low[0], high[0], whole)
