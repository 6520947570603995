"""Budget files: what a unit of each of a GPU's resources costs in area, power, money or whatever counts, and how much
there is to spend.

    title: ...
    note: what the numbers rest on
    budgets:
      area:
        unit: mm2
        total: 1600                   # or x1.2 of what the scenario's GPU costs; left out: as much as that
        fixed: 250                    # what every design has
        costs:
          memory.bandwidth: 45 per TB/s
          peak.bf16: 320 per PFLOP/s  # all formats of the matrix units move with it
          memory.capacity: 0.8 per GB
          sms: 1.5                    # each
    bounds:                           # left out: x0.25..x4 of the scenario's GPU
      memory.bandwidth: 1..20 TB/s
      sms: fixed                      # it costs, but stays as it is
    price:                            # of a GPU-hour; left out: the scenario's GPU's, whatever is built
      budget: area                    # fixed + per_unit x what the design costs of that budget, in USD
      fixed: 0.5
      per_unit: 0.002

This module reads and checks such files. What designs there are is the business of `designs`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from hwspecs.dtypes import BYTES
from hwspecs.errors import InputError, near_matches
from hwspecs.units import DIMENSIONS, parse_quantity
from hwspecs.validation import validate
from hwspecs.yamlfile import read_yaml
from workloads.fields import Part

BUDGET_FOLDER = Path(__file__).parent / "budgets"
PLAIN = {
    "memory.bandwidth": ("HBM bandwidth", "bytes/s", "B/s"),
    "memory.capacity": ("HBM capacity", "bytes", "B"),
    "sms": ("SMs", "", ""),
    "l2.size": ("L2 size", "bytes", "B"),
    "l2.bandwidth": ("L2 bandwidth", "bytes/s", "B/s"),
    "link.bandwidth": ("link bandwidth", "bytes/s", "B/s"),
    "scale_out.bandwidth": ("scale-out bandwidth", "bytes/s", "B/s"),
    "boost_clock": ("SM clock", "Hz", "Hz"),
}
"""Resources by their paths below `gpu`: title, dimension, unit; beside them `peak.FORMAT`."""
_COST = re.compile(r"\s*([-+]?[\d._]+(?:[eE][-+]?\d+)?|[-+]?\.?(?:inf|nan))\s*(?:per\s+(.+?)|each)?\s*", re.IGNORECASE)
_ENDS = re.compile(r"\s*(\S.*?)\s*\.\.\s*(\S.*?)\s*")


@dataclass(frozen=True)
class Kind:
    """What a resource is. unit : of its values, SI; empty for a number of pieces."""

    path: str
    title: str
    dimension: str
    unit: str


@dataclass(frozen=True)
class Limit:
    """One budget. total : in `unit`; None for `total_factor` times what the scenario's GPU costs. fixed : in `unit`.
    costs : by resource, for one SI unit of it.
    """

    name: str
    unit: str
    total: float | None
    total_factor: float
    fixed: float
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Pricing:
    """USD an hour of a GPU: `fixed` + `per_unit` x what it costs of the budget `limit`. date : of the price."""

    limit: str
    fixed: float
    per_unit: float
    date: str | None


@dataclass(frozen=True)
class Bound:
    """Ends of a resource: SI units, or factors on the scenario's GPU's. fixed : as that one has it."""

    low: float
    high: float
    factors: bool
    fixed: bool = False


@dataclass(frozen=True)
class Budget:
    """A checked file. kinds : the resources that cost something, by path. origin : the file."""

    title: str
    note: str
    limits: tuple[Limit, ...]
    kinds: Mapping[str, Kind]
    bounds: Mapping[str, Bound]
    pricing: Pricing | None
    origin: str

    def error(self, problem: str, place: str, found: object = None, allowed: str | None = None) -> InputError:
        """A complaint about the file."""
        return InputError(problem, file=self.origin, place=place, found=found, allowed=allowed)


# ---- the file's content ----------------------------------------------------------------------------------------------


def _positive(value: object) -> object:
    return _number(value, zero=False)


def _not_negative(value: object) -> object:
    return _number(value, zero=True)


def _number(value: object, *, zero: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError("not a number", found=value, allowed="a number without a unit")
    if not math.isfinite(value):
        raise InputError("not a finite number", found=value, allowed="a number")
    if value < 0 or (value == 0 and not zero):
        raise InputError("out of range", found=value, allowed="zero or more" if zero else "more than zero")
    return float(value)


def _total(value: object) -> object:
    factor = re.fullmatch(r"\s*[x×]\s*([\d._]+)\s*", value) if isinstance(value, str) else None
    if factor is None:
        return _number(value, zero=False)
    return f"x{_number(float(factor[1]), zero=False)!r}"


_Positive = Annotated[float, BeforeValidator(_positive)]
_NotNegative = Annotated[float, BeforeValidator(_not_negative)]


class _LimitPart(Part):
    unit: str = Field(default="", description="Of the budget, for people.")
    total: Annotated[float | str | None, BeforeValidator(_total)] = None
    fixed: _NotNegative = 0.0
    costs: dict[str, Any] = Field(min_length=1)


class _PricePart(Part):
    budget: str
    fixed: _NotNegative = 0.0
    per_unit: _Positive
    date: str | None = None


class _File(Part):
    title: str = ""
    note: str = ""
    budgets: dict[str, _LimitPart] = Field(min_length=1)
    bounds: dict[str, Any] = Field(default_factory=dict)
    price: _PricePart | None = None


# ---- reading ---------------------------------------------------------------------------------------------------------


def list_budgets() -> list[str]:
    """Names of the bundled budget files, sorted."""
    return sorted(path.stem for path in BUDGET_FOLDER.glob("*.yaml"))


def read_budget(spec: str | Path | Mapping[str, Any]) -> Budget:
    """A budget from a bundled name, a YAML file or a mapping with a file's content.

    Raises
    ------
    InputError : an unknown name or key, an unknown resource, a cost that is not positive or of another unit, bounds
        that are empty or infinite; with file, line and place.
    """
    if isinstance(spec, Mapping):
        return _budget(spec, "<dict>", None)
    name = str(spec)
    if name in list_budgets():
        path = BUDGET_FOLDER / f"{name}.yaml"
    elif name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name).expanduser()
    else:
        allowed = near_matches(name, list_budgets()) + ", or the path of a .yaml file"
        raise InputError("unknown budget", file="--budget", found=name, allowed=allowed)
    content = read_yaml(path)
    return _budget(content.data, str(path), content.line)


def _budget(data: object, origin: str, line_of: Any) -> Budget:
    parsed = validate(_File, data, file=origin, line_of=line_of)

    def fail(place: tuple[str, ...], problem: str, found: object, allowed: str | None) -> InputError:
        line = line_of(place) if line_of is not None else None
        return InputError(problem, file=origin, place=".".join(place), line=line, found=found, allowed=allowed)

    kinds: dict[str, Kind] = {}
    limits = []
    for name, part in parsed.budgets.items():
        costs = {}
        for path, text in part.costs.items():
            place: tuple[str, ...] = ("budgets", name, "costs", path)
            try:
                kinds[path] = kind = resource_kind(path)
                costs[path] = _cost(text, kind)
            except InputError as error:
                raise fail(place, error.problem, error.found, error.allowed) from None
        factor = float(part.total[1:]) if isinstance(part.total, str) else 1.0
        total = None if isinstance(part.total, str) else part.total
        if total is not None and total <= part.fixed:
            raise fail(("budgets", name, "total"), "nothing is left beside what is fixed", total,
                       f"more than the fixed {part.fixed:g}")  # fmt: skip
        limits.append(Limit(name, part.unit, total, factor, part.fixed, costs))
    peaks = [path for path in kinds if path.startswith("peak.") and path != "peak.fp32"]
    if len(peaks) > 1:
        raise fail(("budgets",), "the formats of the matrix units move together: one of them has a cost",
                   ", ".join(peaks), "one peak.FORMAT, such as peak.bf16")  # fmt: skip
    bounds = {}
    for path, text in parsed.bounds.items():
        place = ("bounds", path)
        if path not in kinds:
            raise fail(place, "a bound of a resource that costs nothing", path, near_matches(path, kinds))
        try:
            bounds[path] = _bound(text, kinds[path])
        except InputError as error:
            raise fail(place, error.problem, error.found, error.allowed) from None
    pricing = None
    if parsed.price is not None:
        if parsed.price.budget not in parsed.budgets:
            allowed = near_matches(parsed.price.budget, parsed.budgets)
            raise fail(("price", "budget"), "no such budget", parsed.price.budget, allowed)
        pricing = Pricing(parsed.price.budget, parsed.price.fixed, parsed.price.per_unit, parsed.price.date)
    title = parsed.title or (Path(origin).stem if line_of is not None else "a budget")
    return Budget(title, parsed.note, tuple(limits), kinds, bounds, pricing, origin)


def resource_kind(path: str) -> Kind:
    """What a resource is. InputError with near matches for one that no budget can have."""
    if path in PLAIN:
        return Kind(path, *PLAIN[path])
    head, _, dtype = path.partition(".")
    if head == "peak" and dtype in BYTES:
        return Kind(path, f"{dtype} rate", "FLOP/s", "FLOP/s")
    known = [*PLAIN, *(f"peak.{dtype}" for dtype in BYTES)]
    raise InputError("no such resource of a GPU", found=path, allowed=near_matches(path, known))


def _cost(text: object, kind: Kind) -> float:
    """Cost of one SI unit, from `45 per TB/s`."""
    unit = {"bytes/s": "TB/s", "bytes": "GB", "FLOP/s": "PFLOP/s", "Hz": "GHz", "": ""}[kind.dimension]
    allowed = f"a cost such as 12 per {unit}" if unit else "a cost of each, such as 1.5"
    match = _COST.fullmatch(str(text)) if isinstance(text, str | int | float) and not isinstance(text, bool) else None
    if match is None:
        raise InputError("not a cost", found=text, allowed=allowed)
    number = float(match[1].replace("_", ""))
    if not math.isfinite(number):
        raise InputError("not a finite cost", found=text, allowed=allowed)
    if number <= 0:
        raise InputError("a cost must be greater than zero", found=text, allowed=allowed)
    per = (match[2] or "").strip()
    if not kind.dimension:
        count = re.fullmatch(r"(\d+)?\s*(?:SMs?)?", per)
        if count is None or count[1] == "0":
            raise InputError("not a cost", found=text, allowed=allowed)
        return number / int(count[1] or 1)
    if not per:
        raise InputError("a cost of what? the unit is missing", found=text, allowed=allowed)
    size = parse_quantity(per if per[0].isdigit() else f"1 {per}", kind.dimension)
    if size <= 0:
        raise InputError("not a cost", found=text, allowed=allowed)
    return number / size


def _bound(text: object, kind: Kind) -> Bound:
    """`1..20 TB/s`, `x0.5..x2` or `fixed`."""
    unit = f" {next(iter(DIMENSIONS[kind.dimension]))}" if kind.dimension else ""
    allowed = f"LO..HI{unit and ' with a unit'}, x0.5..x2 of the scenario's GPU, or fixed"
    if text == "fixed":
        return Bound(1.0, 1.0, True, fixed=True)
    match = _ENDS.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InputError("not bounds", found=text, allowed=allowed)
    first, last = match.groups()
    if re.search(r"\binf|nan", match[0], re.IGNORECASE):
        raise InputError("infinite bounds", found=text, allowed=allowed)
    factors = first[0] in "x×" and last[0] in "x×"
    if factors:
        low, high = (parse_quantity(end[1:].strip(), "1/s") for end in (first, last))
    elif kind.dimension:
        last_unit = re.sub(r"^[-+\d._eE\s]*", "", last)
        if re.fullmatch(r"[-+\d._eE]+", first) and last_unit:
            first = f"{first} {last_unit}"
        low, high = (parse_quantity(end, kind.dimension, bare_ok=False) for end in (first, last))
    else:
        low, high = (parse_quantity(end, "1/s") for end in (first, last))
    if not 0 < low <= high:
        raise InputError("empty bounds", found=text, allowed=allowed + ", with 0 < LO <= HI")
    return Bound(low, high, factors, fixed=low == high and factors and low == 1.0)
