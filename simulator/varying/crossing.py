"""Where a function of one number comes to meet a target: a coarse scan, and a bracket that shrinks around each change.

Knows nothing of simulations: the caller evaluates. A bracket keeps one end that meets the target and one that does not
(because it misses it, or because there is no value at all), so what it ends with has been evaluated on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

JUMP = 10.0
"""Over a bracket of relative width w a metric may change by this many times w; if by more, it jumps there."""


@dataclass(frozen=True)
class Sample:
    """The function at `x`. gap : of the value to the target, negative where it is met; None where there is no value."""

    x: float
    value: float | None
    gap: float | None

    @property
    def meets(self) -> bool:
        return self.gap is not None and self.gap <= 0


@dataclass(frozen=True)
class Crossing:
    """A change between meeting and not. inside, outside : the samples next to it that meet and that do not.

    width : between the two, relative if the search was in the logarithm. jump : the function is not continuous there.
    """

    inside: Sample
    outside: Sample
    width: float
    jump: bool

    @property
    def rising(self) -> bool:
        """Whether larger x meet the target."""
        return self.inside.x > self.outside.x


def gap(value: float | None, limit: float, sense: str) -> float | None:
    """How far a value is on the wrong side of a limit: of the logarithms where both are positive."""
    if value is None or not math.isfinite(value):
        return None
    distance = math.log(value / limit) if value > 0 and limit > 0 else value - limit
    return distance if sense == "<=" else -distance


def grid(low: float, high: float, count: int, *, whole: bool) -> list[float]:
    """`count` numbers from `low` to `high`, both included: evenly in the logarithm if both are positive, else linearly;
    whole numbers, each once, if `whole`.
    """
    share = [i / (count - 1) for i in range(count)]
    inner = [low * (high / low) ** s if low > 0 else low + (high - low) * s for s in share]
    numbers = [low, *inner[1:-1], high]
    return sorted({float(round(n)) for n in numbers}) if whole else numbers


def monotone(values: Sequence[float | None]) -> bool:
    """Whether the values that there are go one way only."""
    known = [v for v in values if v is not None]
    steps = [b - a for a, b in pairwise(known)]
    return all(s <= 0 for s in steps) or all(s >= 0 for s in steps)


class Bracket:
    """Two samples, one that meets the target and one that does not, moved together by `tell` of what `ask` wants known.

    The next x is that of ITP (Oliveira and Takahashi, ACM Transactions on Mathematical Software 47, 2021): regula falsi
    moved towards the middle, never slower than bisection; bisection where a side has no value.

    Parameters
    ----------
    one, other : the samples, in any order. logarithmic : whether distances are relative. tolerance : the width at which
        the search ends (half of it is ITP's). whole : x are whole numbers, and the search ends at neighbours.
    """

    def __init__(self, one: Sample, other: Sample, *, logarithmic: bool, tolerance: float, whole: bool = False) -> None:
        self.low, self.high = sorted((one, other), key=lambda s: s.x)
        if self.low.meets == self.high.meets:
            raise ValueError("no change between the two samples")
        self.logarithmic, self.whole = logarithmic, whole
        if whole:  # as near as neighbours are where they are nearest
            tolerance = math.log1p(1 / self.high.x) if logarithmic else 1.0
        self.tolerance, self._epsilon, self._first = tolerance, tolerance / 2, self.width
        self._most = math.ceil(math.log2(max(self.width / tolerance, 1.0))) + 1
        self._asked = 0

    @property
    def width(self) -> float:
        return self._u(self.high.x) - self._u(self.low.x)

    @property
    def done(self) -> bool:
        return self.high.x - self.low.x <= 1 if self.whole else self.width <= self.tolerance

    def ask(self) -> float:
        """Where the function has to be known next."""
        a, b = self._u(self.low.x), self._u(self.high.x)
        middle = (a + b) / 2
        u = middle
        if self.low.gap is not None and self.high.gap is not None:
            u = self._itp(a, b, self.low.gap, self.high.gap)
        self._asked += 1
        x = math.exp(u) if self.logarithmic else u
        if self.whole:
            x = float(min(max(round(x), self.low.x + 1), self.high.x - 1))
        return x

    def _itp(self, a: float, b: float, at_a: float, at_b: float) -> float:
        middle = (a + b) / 2
        falsi = (at_b * a - at_a * b) / (at_b - at_a)
        sign = math.copysign(1.0, middle - falsi)
        shift = 0.2 / self._first * (b - a) ** 2
        near = falsi + sign * shift if shift <= abs(middle - falsi) else middle
        reach = max(self._epsilon * 2.0 ** (self._most - self._asked) - (b - a) / 2, 0.0)
        return near if abs(near - middle) <= reach else middle - sign * reach

    def tell(self, sample: Sample) -> None:
        """The function where `ask` wanted it."""
        if sample.meets == self.low.meets:
            self.low = sample
        else:
            self.high = sample

    def crossing(self) -> Crossing:
        """What is known now."""
        inside, outside = (self.low, self.high) if self.low.meets else (self.high, self.low)
        jump = False
        if inside.gap is not None and outside.gap is not None and not self.whole:
            jump = abs(inside.gap - outside.gap) > JUMP * max(self.width, self.tolerance)
        return Crossing(inside, outside, self.width, jump)

    def _u(self, x: float) -> float:
        return math.log(x) if self.logarithmic else x


def brackets(samples: Sequence[Sample], *, logarithmic: bool, tolerance: float, whole: bool) -> list[Bracket]:
    """A bracket around every change between neighbouring samples of a scan."""
    return [
        Bracket(a, b, logarithmic=logarithmic, tolerance=tolerance, whole=whole)
        for a, b in pairwise(samples)
        if a.meets != b.meets
    ]
