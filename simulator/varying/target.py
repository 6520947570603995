"""What a metric has to reach: `tpot_s.p99<=40 ms`, `usd_per_solved<=x0.5` (of the base's), or what a setting has."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from hwspecs.errors import InputError
from hwspecs.units import format_quantity, parse_quantity
from simulator.headline import Metric, metric

ALLOWED = "METRIC<=VALUE or METRIC>=VALUE such as 'tpot_s.p99<=40 ms' or 'usd_per_solved<=x0.5' (half of the base's)"
_SPLIT = re.compile(r"(.*?)\s*(<=|>=|=|<|>|≤|≥)\s*(.*)", re.DOTALL)
_SENSES = {"<=": "<=", ">=": ">=", "<": "<=", ">": ">=", "≤": "<=", "≥": ">="}
_DIMENSIONS = {"s": "seconds", "h": "seconds", "1/s": "1/s", "W": "watts"}
_PLAIN_UNITS = {"USD": ("USD", "$"), "J": ("J",), "FLOP": ("FLOP", "FLOPs")}


@dataclass(frozen=True)
class Target:
    """A metric and where it has to be.

    Attributes
    ----------
    metric, sense : which one, and `<=` or `>=`. value : in the metric's unit; None where it is another setting's.
    factor : in place of a value, so many times the base's.
    """

    metric: Metric
    sense: str
    value: float | None = None
    factor: float | None = None

    def met(self, value: float, limit: float) -> bool:
        """Whether a value of the metric is on the right side of `limit`."""
        return value <= limit if self.sense == "<=" else value >= limit

    def words(self, limit: float) -> str:
        """`TPOT p99 <= 40 ms`."""
        return f"{self.metric.title} {self.sense} {show(self.metric, limit)}"


def parse_target(text: str, *, bare: bool) -> Target:
    """The target that a text asks for; `bare` : it names the metric alone, because its value is another setting's.

    Raises
    ------
    InputError : an unknown metric, no value or a second one, or a value that is no quantity of the metric's unit.
    """
    match = _SPLIT.fullmatch(text.strip())
    name, sign, given = match.groups() if match else (text.strip(), "", "")
    if not name:
        raise InputError("no target: which metric has to reach what?", file="--target", allowed=ALLOWED)
    try:
        which = metric(name)
    except InputError as error:
        raise error.at(file="--target") from None
    own = "<=" if which.better == "lower" else ">="
    if bare:
        if sign:
            problem = "the value is given twice: here and by --like"
            raise InputError(problem, file="--target", found=text, allowed=f"{name} alone, or --target without --like")
        return Target(which, own)
    if not sign or not given.strip():
        allowed = f"{name}{own}VALUE, or --like PATH=VALUE for what another setting has"
        raise InputError("a target without a value", file="--target", found=text, allowed=allowed)
    sense = _SENSES.get(sign, own)
    factor = re.fullmatch(r"[x×]\s*([\d._eE+-]+)", given.strip())
    try:
        if factor:
            by = parse_quantity(factor[1], "1/s")
            if by <= 0:
                raise InputError("not a factor", allowed="x and a number greater than zero: x0.5")
            return Target(which, sense, factor=by)
        value = _value(which, given.strip())
        if value < 0:
            raise InputError("no metric is below zero", allowed="a number of at least zero")
        return Target(which, sense, value=value)
    except InputError as error:
        raise InputError(error.problem, file="--target", found=text, allowed=error.allowed or ALLOWED) from None


def _value(which: Metric, text: str) -> float:
    """A quantity in the metric's unit."""
    dimension = _DIMENSIONS.get(which.unit)
    if dimension is not None:
        seconds = parse_quantity(text, dimension)
        bare = re.fullmatch(r"[-+\d._eE]+", text) is not None
        return seconds / 3600 if which.unit == "h" and not bare else seconds
    scale = 1.0
    if which.unit == "" and text.endswith("%"):
        text, scale = text[:-1].strip(), 0.01
    for unit in _PLAIN_UNITS.get(which.unit, ()):
        text = text.removesuffix(unit).removeprefix(unit if unit == "$" else "").strip()
    try:
        number = float(text.replace("_", "")) * scale
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        allowed = f"a number{' in ' + which.unit if which.unit else ' such as 0.9 or 90 %'}"
        raise InputError("not a quantity", found=text, allowed=allowed)
    return number


def missing(which: Metric, option: str = "--target") -> InputError:
    """A metric that a scenario does not have, and what it would take."""
    needs = {"goodput": "the scenario's `objective`", "usd": "a GPU with a price, --set gpu.price=..."}
    allowed = next((text for name, text in needs.items() if which.key.startswith(name)), "another metric")
    if "solved" in which.key or "accepted" in which.key:
        allowed = "a scenario whose strategy is best_of_n with an acceptance, and a GPU with a price for money"
    return InputError("the scenario does not have this metric", file=option, found=which.key, allowed=allowed)


def show(which: Metric, value: float | None, digits: int = 4) -> str:
    """A metric's value for people."""
    if value is None:
        return "none"
    if which.unit == "USD":
        return f"{value:,.{digits}g} USD"
    if which.unit in ("", "h", "1/s"):
        return f"{value:,.{digits}g}{' ' + which.unit if which.unit else ''}"
    return format_quantity(value, which.unit, digits=digits)
