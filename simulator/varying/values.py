"""Lists of values as users write them for a field: after `--vary PATH=` and in a sweep file.

Entries are separated by commas outside of brackets and quotes. An entry is

- a value in YAML, as after `--set`: `4.8TB/s`, `h200-sxm`, `{kind: top_k, budget: 1024}`;
- `xF`, F times the base scenario's value: `x0.5,x2`;
- a range with both ends: by steps (`8..64:8`) or factors (`8..64:x2`) as in `kinesim law`, or so many values evenly
  spaced, linearly (`4.8..9.6 TB/s:lin5`) or in the logarithm (`1..16 TB/s:log9`). One unit does for both ends.

What a range or a factor comes to depends on the field: where the base has a whole number, so do they.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hwspecs.errors import InputError
from hwspecs.units import DIMENSIONS
from hwspecs.yamlfile import parse_yaml

LONGEST = 1_000_000
"""Most values of one list."""
ALLOWED = "values separated by commas; x0.5 of the base's; ranges such as 8..64:x2, 8..64:8, 4.8..9.6 TB/s:lin5, :log5"
_NUMBER = r"[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FACTOR = re.compile(rf"[x×]\s*({_NUMBER})")
_END = re.compile(rf"\s*({_NUMBER}|[-+]?\.?(?:inf|nan|infinity))\s*(.*?)\s*", re.IGNORECASE)
_EVEN = re.compile(r"(lin|log)\s*(\d[\d_]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Factor:
    """So many times the base scenario's value."""

    by: float


@dataclass(frozen=True)
class Stop:
    """A value of a range: a number, in `unit` (empty: the field's own). whole : both ends were written as integers."""

    number: float
    unit: str
    whole: bool


Value = Any
"""Plain data as of YAML, a `Factor` or a `Stop`."""


def parse_values(given: object, place: str) -> tuple[Value, ...]:
    """The values of a list.

    Parameters
    ----------
    given : a text, or from YAML a list whose texts are each read like one entry, or a single value.
    place : the field or option, for messages.

    Raises
    ------
    InputError : nothing, an empty entry, a range that is empty, infinite, goes nowhere or has too many values, a number
        that is not finite, or that YAML would take for octal (as in `1,024`).
    """
    entries: Sequence[object]
    if isinstance(given, str):
        entries = _entries(given, place)
    elif isinstance(given, list | tuple):
        entries = given
    else:
        entries = [given]
    values: list[Value] = []
    for entry in entries:
        if isinstance(entry, str):
            values += _entry(entry, place, quoted=not isinstance(given, str))
        else:
            values.append(_finite(entry, entry, place))
        if len(values) > LONGEST:
            raise _too_many(given, place)
    if not values:
        raise InputError("no values", place=place, found=given, allowed=ALLOWED)
    return tuple(values)


def settle(values: Sequence[Value], base: object, place: str) -> list[Any]:
    """The values as plain data, each once, for a field whose value in the base scenario is `base` (None: not set; a
    text with a unit is the number that it means).

    Raises
    ------
    InputError : a factor on what is no number.
    """
    found: list[Any] = []
    whole_base = isinstance(base, int) and not isinstance(base, bool)
    base = number_of(base) if isinstance(base, str) and number_of(base) is not None else base
    for value in values:
        if isinstance(value, Factor):
            if not isinstance(base, int | float) or isinstance(base, bool):
                problem = "a factor needs a number in the base scenario"
                allowed = "values instead of factors" + ("; the base sets none" if base is None else "")
                raise InputError(problem, place=place, found=base if base is not None else f"x{value.by:g}",
                                 allowed=allowed)  # fmt: skip
            value = round(base * value.by) if whole_base else _tidy(base * value.by)
        elif isinstance(value, Stop):
            as_whole = not value.unit and (whole_base or (value.whole and value.number == round(value.number)))
            number = round(value.number) if as_whole else value.number
            value = f"{value.number:.12g} {value.unit}" if value.unit else number
        if not any(type(value) is type(other) and value == other for other in found[-LOOK_BACK:]):
            found.append(value)
    return found


def number_of(value: object) -> float | None:
    """The number, in SI units, that a value is or that a text with a unit means; None if it is no number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    match = re.fullmatch(rf"\s*({_NUMBER})\s*(\S.*?)?\s*", value) if isinstance(value, str) else None
    if match is None:
        return None
    factors = [units[match[2]] for units in DIMENSIONS.values() if match[2] in units] if match[2] else [1.0]
    return _number(match[1]) * factors[0] if factors else None


def unit_of(value: object) -> str:
    """The SI unit of a text with a unit, as `hwspecs.units` names it; empty of anything else."""
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(\S.*?)\s*", value) if isinstance(value, str) else None
    if match is None:
        return ""
    dimension = next((name for name, units in DIMENSIONS.items() if match[1] in units), "")
    return {"bytes": "B", "bytes/s": "B/s", "seconds": "s", "watts": "W"}.get(dimension, dimension)


LOOK_BACK = 64
"""Values among which a repeated one is looked for; ranges are in order, so that theirs are next to each other."""


def _entries(text: str, place: str) -> list[str]:
    """The parts between commas outside of brackets and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for i, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    if not text.strip():
        raise InputError("no values", place=place, found=text, allowed=ALLOWED)
    if not all(part.strip() for part in parts):
        raise InputError("an empty entry", place=place, found=text, allowed=ALLOWED)
    return [part.strip() for part in parts]


def _entry(text: str, place: str, *, quoted: bool) -> list[Value]:
    """What one entry stands for. `quoted` : YAML has read it as a text already."""
    factor = _FACTOR.fullmatch(text.strip())
    if factor:
        by = _number(factor[1])
        if not (by > 0 and math.isfinite(by)):
            raise InputError("not a factor", place=place, found=text, allowed="x and a number greater than zero: x0.5")
        return [Factor(by)]
    if ".." in text and (ends := _range(text)) is not None:
        return _stops(*ends, text, place)
    if re.fullmatch(r"0\d+", text.strip()):
        raise InputError("a number with leading zeros", place=place, found=text, allowed="1024 rather than 1,024")
    if quoted:
        return [text]
    try:
        return [_finite(parse_yaml(text, place).data, text, place)]
    except InputError as error:
        raise InputError(f"the value {error.problem}" if error.file == place else error.problem, place=place,
                         found=text, allowed=error.allowed or "a YAML value") from None  # fmt: skip


def _finite(value: object, found: object, place: str) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError("not a finite number", place=place, found=found, allowed="a number")
    return value


def _range(text: str) -> tuple[str, str, str] | None:
    """First end, last end and what comes behind the colon; None if it is no range, but a path such as `../x.yaml`."""
    first, _, rest = text.partition("..")
    last, _, step = rest.partition(":")
    if _END.fullmatch(first) is None or (last.strip() and _END.fullmatch(last) is None):
        return None
    return first, last, step.strip()


def _number(text: str) -> float:
    return float(text.replace("_", ""))


def _stops(first: str, last: str, step: str, text: str, place: str) -> list[Value]:
    """The values of a range."""

    def fail(problem: str, allowed: str = ALLOWED) -> InputError:
        return InputError(problem, place=place, found=text, allowed=allowed)

    if not last.strip():
        raise fail("a range without an end")
    (start, unit, whole_start), (stop, to_unit, whole_stop) = _end(first, fail), _end(last, fail)
    if not (math.isfinite(start) and math.isfinite(stop)):
        raise fail("an infinite range")
    if not step:
        raise fail("a range without a step")
    unit, stop = unit or to_unit, stop * (_ratio(to_unit, unit, fail) if unit and to_unit else 1.0)
    even, factor = _EVEN.fullmatch(step), _FACTOR.fullmatch(step)
    whole = whole_start and whole_stop and not unit
    if even:
        numbers = _spaced(start, stop, even[1].lower(), int(even[2].replace("_", "")), fail)
    elif stop < start:
        raise fail("an empty range: its end lies below its start")
    elif factor:
        numbers = _factors(start, stop, _number(factor[1]), fail)
    else:
        size, own, whole_step = _end(step, fail)
        numbers = _steps(start, stop, size * (_ratio(own, unit, fail) if own else 1.0), fail)
        whole = whole and whole_step
    return [Stop(_tidy(number), unit, whole) for number in numbers]


def _spaced(start: float, stop: float, kind: str, count: int, fail: Any) -> list[float]:
    if count < 2 or start == stop:
        raise fail("an empty range: one value is no range", "at least two values, such as 1..16:log5")
    if count > LONGEST:
        raise _too_many_of(count, fail)
    if kind == "lin":
        return [start + (stop - start) * i / (count - 1) for i in range(count)]
    if not (start > 0 and stop > 0):
        raise fail("a logarithmic range needs ends greater than zero")
    return [start, *(start * (stop / start) ** (i / (count - 1)) for i in range(1, count - 1)), stop]


def _factors(start: float, stop: float, by: float, fail: Any) -> list[float]:
    if not (by > 1 and math.isfinite(by)) or start <= 0:
        raise fail("a range without an end", "a start greater than zero and a factor greater than one: 8..64:x2")
    count = math.floor(math.log(stop / start) / math.log(by) + 1e-9) + 1
    if count > LONGEST:
        raise _too_many_of(count, fail)
    return [start * by**i for i in range(count)]


def _steps(start: float, stop: float, size: float, fail: Any) -> list[float]:
    if not (size > 0 and math.isfinite(size)):
        raise fail("a range without an end", "a step greater than zero: 8..64:8")
    count = math.floor((stop - start) / size + 1e-9) + 1
    if count > LONGEST:
        raise _too_many_of(count, fail)
    return [start + size * i for i in range(count)]


def _end(text: str, fail: Any) -> tuple[float, str, bool]:
    """Number, unit, and whether it was written as an integer."""
    match = _END.fullmatch(text)
    if match is None:
        raise fail("not a range")
    word = match[1].lower().replace("infinity", "inf").replace(".inf", "inf").replace(".nan", "nan")
    number = _number(word)
    if match[2] and not any(match[2] in units for units in DIMENSIONS.values()):
        raise fail(f"unknown unit {match[2]!r}", "units such as GB, TB/s, TFLOP/s, ms, GHz, W, USD/h, /s")
    return number, match[2], re.fullmatch(r"[-+]?[\d_]+", match[1]) is not None


def _ratio(unit: str, into: str, fail: Any) -> float:
    """How many `into` one `unit` is."""
    for units in DIMENSIONS.values():
        if unit in units and into in units:
            return units[unit] / units[into]
    raise fail(f"units that do not go together: {into or 'none'} and {unit}", "one unit, or two of one kind")


def _tidy(number: float) -> float:
    """Without the last digits that come of adding and multiplying: 0.30000000000000004 is 0.3."""
    return float(f"{number:.12g}")


def _too_many_of(count: int, fail: Any) -> InputError:
    return fail(f"a range of {count:,} values", f"at most {LONGEST:,} values in one list: a larger step")


def _too_many(found: object, place: str) -> InputError:
    allowed = f"at most {LONGEST:,} values in one list"
    return InputError("too many values", place=place, found=str(found)[:80], allowed=allowed)
