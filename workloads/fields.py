"""Kinds of fields that the parts of a scenario are made of: counts, times, rates, number formats, alternatives.

Each is a pydantic annotation that checks, converts to SI units and describes itself in the JSON schema.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from hwspecs.errors import InputError
from hwspecs.units import parse_quantity

SANE = 1e9
"""Times (s) and rates (1/s) lie between this, about 32 years, and its inverse, so that sums of them stay finite."""


class Part(BaseModel):
    """A part of a scenario: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Schema:
    """Replaces a field's JSON schema by what `change` makes of it."""

    def __init__(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.change = change

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return self.change(handler(core))


def replaced(schema: dict[str, Any]) -> _Schema:
    """This JSON schema for a field whose own check does more than its type says."""
    return _Schema(lambda _: schema)


def one_of(names: Iterable[str]) -> _Schema:
    """JSON schema of a text that is one of `names`, for fields whose choices other code may extend."""
    choices = list(names)
    return _Schema(lambda _: {"enum": choices})


def _quantity(dimension: str, example: str, *, zero: bool) -> tuple[BeforeValidator, _Schema]:
    """Check and schema of a number in SI units, or text with a unit; > 0, or >= 0 with `zero`, and of sane size."""

    def parse(value: object) -> float:
        try:
            number = parse_quantity(value, dimension)
        except OverflowError:  # an integer of more than 300 digits
            raise InputError("out of range", found=value, allowed=f"a quantity such as {example}") from None
        if number < 0 or (number == 0 and not zero):
            limit = "zero or more" if zero else "greater than zero"
            raise InputError(f"must be {limit}", found=value, allowed=f"a quantity {limit}, such as {example}")
        if number and not 1 / SANE <= number <= SANE:
            allowed = f"{1 / SANE:g} to {SANE:g} {dimension}, such as {example}"
            raise InputError("out of range", found=value, allowed=allowed)
        return number

    limit = {"minimum": 0} if zero else {"exclusiveMinimum": 0}
    schema = {"anyOf": [{"type": "number"} | limit, {"type": "string", "pattern": "[0-9]"}], "examples": [example]}
    return BeforeValidator(parse), _Schema(lambda _: schema)


def short_form(kind: type, key: str, schema: dict[str, Any]) -> tuple[BeforeValidator, _Schema]:
    """Check and schema that let a bare value of type `kind` stand for `{kind: ..}` parts.

    An integer `n` stands for `{kind: constant, value: n}`; a text `t` for `{key: t}`.
    """

    def expand(value: object) -> object:
        if isinstance(value, kind) and not isinstance(value, bool):
            return {key: value} if kind is str else {"kind": "constant", key: value}
        return value

    return BeforeValidator(expand), _Schema(lambda full: {"anyOf": [schema, full]})


def finite(value: object) -> object:
    """Refuses NaN and infinities, which YAML can write, before pydantic compares them with bounds."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError("not a finite number", found=value, allowed="a number")
    return value


_seconds, _seconds_schema = _quantity("seconds", "2 s", zero=False)
_pause, _pause_schema = _quantity("seconds", "500 ms", zero=True)
_rate, _rate_schema = _quantity("1/s", "2 /s", zero=False)

Seconds = Annotated[float, _seconds, _seconds_schema]
"""Time in seconds, greater than zero; `2 s`, `50 ms` or a bare number."""

SecondsOrZero = Annotated[float, _pause, _pause_schema]

Rate = Annotated[float, _rate, _rate_schema]
"""Events per second, greater than zero; `2 /s`, `90 /min` or a bare number."""

MAX_TOKENS = 1_000_000_000
"""Bound of every number of tokens: a thousand times the longest context there is, and sums still fit 64 bits."""

Tokens = Annotated[int, Field(strict=True, ge=1, le=MAX_TOKENS)]
TokensOrZero = Annotated[int, Field(strict=True, ge=0, le=MAX_TOKENS)]
Count = Annotated[int, Field(strict=True, ge=1, le=100_000_000)]
Probability = Annotated[float, BeforeValidator(finite), Field(strict=True, ge=0, le=1)]
