"""Costs per problem as users write and read them: a number in one of the law's units, with or without the unit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hwspecs.errors import InputError
from hwspecs.units import format_quantity
from simulator.law.pricing import UNITS

UNIT_WORDS = {"eflops": "tera-eFLOPs", "seconds": "GPU-seconds", "usd": "USD", "joules": "joules"}
_WRITTEN = {
    "eflops": {"t": 1.0, "teflop": 1.0, "teflops": 1.0, "tera-eflop": 1.0, "tera-eflops": 1.0},
    "seconds": {"s": 1.0, "ms": 1e-3, "min": 60.0, "h": 3600.0, "gpu-s": 1.0, "gpu-seconds": 1.0, "seconds": 1.0},
    "usd": {"usd": 1.0, "$": 1.0},
    "joules": {"j": 1.0, "kj": 1e3, "mj": 1e6, "wh": 3600.0, "kwh": 3.6e6, "joules": 1.0},
}
_AMOUNT = re.compile(r"\s*(\$?)\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?inf|nan)\s*(.*?)\s*", re.IGNORECASE)


def parse_costs(texts: Sequence[str], unit: str | None = None, usual: str = "eflops") -> tuple[list[float], str]:
    """Costs such as `2000`, `2000T`, `80ms`, `$0.01` or `2 kJ`, and their unit.

    Numbers without a unit are in `unit`, or else in the `usual` one. InputError for what is not a cost above 0, for
    units that differ, and for a number without a unit beside one with another than the usual.
    """
    example = "costs above 0 such as 2000, 2000T (tera-eFLOPs), 0.5s, 80ms, $0.01, 0.01usd or 2kJ"
    parts = [part.strip() for text in texts for part in text.split(",")]
    if not parts or not all(parts):
        raise InputError("no cost", place="COST", found=",".join(texts), allowed=example)
    numbers, bare, named = [], [], {} if unit is None else {unit: "--unit"}
    for part in parts:
        if part.startswith("--"):
            raise InputError("no such option", found=part, allowed="the options that --help lists")
        match = _AMOUNT.fullmatch(part)
        if not match or (match[1] and match[3]):
            raise InputError("not a cost", place="COST", found=part, allowed=example)
        word, value = (match[1] or match[3]).lower(), float(match[2].replace("_", ""))
        factor = 1.0
        if word:
            kinds = [kind for kind in UNITS if word in _WRITTEN[kind]]
            if not kinds:
                raise InputError("unknown unit of a cost", place="COST", found=part, allowed=example)
            factor = _WRITTEN[kinds[0]][word]
            named.setdefault(kinds[0], part)
        else:
            bare.append(part)
        if not math.isfinite(value) or value <= 0:
            raise InputError("a cost is above 0", place="COST", found=part, allowed=example)
        numbers.append(value * factor)
    if len(named) > 1:
        raise InputError(
            "costs in different units",
            place="COST",
            found=", ".join(named.values()),
            allowed="one of " + ", ".join(UNITS),
        )
    if bare and unit is None and any(kind != usual for kind in named):
        raise InputError(
            "a cost without its unit beside one that has it", place="COST", found=bare[0],
            allowed="all with units, or --unit",
        )  # fmt: skip
    return numbers, next(iter(named), usual)


@dataclass(frozen=True)
class Mark:
    """A place on a frontier that was asked for: a cost, or else an accuracy (0 to 1)."""

    cost: float
    accuracy: float | None = None


def parse_marks(text: str, unit: str) -> list[Mark]:
    """The places of a comma list: costs in `unit`, as `parse_costs` reads them, and accuracies such as `76%`.

    InputError for what is neither, for a cost in another unit, and for an accuracy that is not above 0 and up to 100 %.
    """
    found = []
    for part in (part.strip() for part in text.split(",")):
        if not part.endswith("%"):
            try:
                found.append(Mark(parse_costs([part], unit)[0][0]))
            except InputError as error:
                allowed = f"costs in {unit} such as 2000 or 80ms, and accuracies such as 76%"
                raise InputError(error.problem, place="--at", found=part, allowed=allowed) from None
            continue
        try:
            share = float(part[:-1]) / 100
        except ValueError:
            share = float("nan")
        if not 0 < share <= 1:
            raise InputError("not an accuracy", place="--at", found=part, allowed="above 0% and up to 100%")
        found.append(Mark(float("nan"), share))
    return found


def amount(value: float, unit: str) -> str:
    """`360, "eflops"` -> `360 T`; `0.08, "seconds"` -> `80 ms`; three digits, with the unit."""
    if unit == "eflops":
        return f"{value:,.0f} T" if 100 <= value < 1e7 else f"{value:.3g} T"
    if unit == "seconds":
        return format_quantity(value, "s")
    if unit == "joules":
        return format_quantity(value, "J")
    if value >= 0.01:
        return f"{value:,.3g} USD" if value < 100 else f"{value:,.0f} USD"
    return f"{value * 1e3:.3g} mUSD" if value >= 1e-5 else f"{value * 1e6:.3g} µUSD"
