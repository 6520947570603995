"""Fields of a scenario by their paths: what they are now, and the assignment that gives them another value.

Paths are those of `--set`. What a path may say is checked where the scenario is loaded, not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hwspecs.errors import InputError
from hwspecs.gpu import to_spec
from hwspecs.units import format_quantity
from simulator.varying.values import Factor, Value, parse_values, settle
from workloads.scenario import LoadedScenario, load_scenario

NO_FIELD = ("unknown key", "no such place", "not a path")
"""How the problem begins of an assignment to what does not exist."""

_BUDGETS = {"top_k": ("budget",), "sliding_window": ("window",), "block_top_k": ("page", "blocks")}
"""Attention kinds whose numbers may follow the name, as in `top_k:1024` and `block_top_k:16:64`."""
_KEY = re.compile(r"[^.\[\]]+(?!\])|\[\d+\]")


_WRITTEN = re.compile(r"(\d[\d.e+-]*) (B|B/s|FLOP/s|Hz|W|s)")
"""A quantity as `to_spec` writes it."""


@dataclass(frozen=True)
class Field:
    """What a path has in a scenario. value : plain data, None where nothing is set; numbers in SI units.
    unit : that a quantity has to be written with, empty if numbers stand alone.
    """

    path: str
    value: Any
    unit: str = ""


def field_at(loaded: LoadedScenario, path: str) -> Field:
    """The field at `path`; of a group of quantities (`gpu.peak`) the mapping of their values."""
    data: Any = loaded.config.model_dump(mode="json", by_alias=True)
    data["gpu"] = to_spec(loaded.gpu)
    data["model"] = {**loaded.model.config}
    for name, pool in zip(("prefill", "decode"), loaded.pools or (), strict=False):
        data["disaggregation"][name]["gpu"] = to_spec(pool.gpu)
    for key in _KEY.findall(path):
        if key.startswith("[") and isinstance(data, list) and int(key[1:-1]) < len(data):
            data = data[int(key[1:-1])]
        else:
            data = data.get(key) if isinstance(data, Mapping) else None
    if "gpu" not in path.split(".")[:-1]:
        return Field(path, data)
    if isinstance(data, Mapping):
        parts = {key: _quantity(value) for key, value in data.items()}
        units = {unit for _, unit in parts.values()}
        return Field(path, {key: value for key, (value, _) in parts.items()}, units.pop() if len(units) == 1 else "")
    value, unit = _quantity(data)
    return Field(path, value, unit)


def _quantity(text: object) -> tuple[Any, str]:
    """`4800000000000.0 B/s` as `to_spec` writes it -> number and unit."""
    match = _WRITTEN.fullmatch(text) if isinstance(text, str) else None
    return (text, "") if match is None else (float(match[1]), match[2])


def values_at(loaded: LoadedScenario, path: str, given: object, place: str) -> list[Any]:
    """The values that `given`, the list of a `--vary`, comes to at `path` of a scenario, as `assignment` takes them.

    Raises
    ------
    InputError : as `values.parse_values` and `values.settle`.
    """
    here = field_at(loaded, path)
    entries: list[Value] = []
    found = parse_values(given, place)
    if here.value is None and any(isinstance(entry, Factor) for entry in found):
        check_path(loaded, path)
    for entry in found:
        if isinstance(entry, Factor) and (here.unit or isinstance(here.value, Mapping)):
            entries.append(scaled(here, entry.by, place))
        else:
            entries.append(named(path, entry))
    return settle(entries, here.value, place)


def check_path(loaded: LoadedScenario, path: str) -> None:
    """Raise the InputError of a path that leads nowhere; whether a value fits there is another question."""
    try:
        load_scenario(loaded.given or loaded.to_dict(), [f"{path}=1"])
    except InputError as error:
        if error.problem.startswith(NO_FIELD):
            raise InputError(error.problem, place=path, found=error.found, allowed=error.allowed) from None


def scaled(here: Field, by: float, place: str) -> Any:
    """`by` times what a field has, as `assignment` takes it. InputError where it has no number."""
    if isinstance(here.value, Mapping):
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in here.value.values())
        if not (here.value and numbers):
            problem = "a factor needs numbers in the base scenario"
            raise InputError(problem, place=place, found=f"x{by:g}", allowed="values instead of factors")
        return {key: scaled(Field("", value, here.unit), by, place) for key, value in here.value.items()}
    number = here.value * by
    if isinstance(here.value, int):
        number = round(number)
    return f"{number!r} {here.unit}" if here.unit else number


def named(path: str, value: Any) -> Any:
    """A value with short forms written out: at `attention`, `top_k:1024` is `{kind: top_k, budget: 1024}`."""
    if path.split(".")[-1] != "attention" or not isinstance(value, str) or ":" not in value:
        return value
    kind, *numbers = value.split(":")
    names = _BUDGETS.get(kind.strip(), ())
    if len(names) != len(numbers) or not all(number.strip().isdigit() for number in numbers):
        return value
    return {"kind": kind.strip(), **{name: int(number) for name, number in zip(names, numbers, strict=True)}}


def assignment(path: str, value: Any) -> str:
    """The text of `--set` that puts plain data at `path`."""
    return f"{path}={_yaml(value)}"


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def split_assignment(text: str, option: str) -> tuple[str, str]:
    """`PATH=VALUE` -> both parts. InputError for anything else."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip() or not value.strip():
        allowed = "PATH=VALUE such as gpu.memory.bandwidth='9.6 TB/s' or attention=top_k:1024"
        raise InputError("not an assignment", file=option, found=text, allowed=allowed)
    return path.strip(), value.strip()


def ordered(sets: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """Assignments to a scenario, `sets`, with further ones, `own`, on top of them, a part always before its fields.

    One of `own` to a part of which `sets` change a field takes the place of what `sets` say of the part itself, and
    comes first: `gpu.memory.bandwidth=4 TB/s` holds for every `gpu`.
    """
    mine = sorted(own, key=lambda text: text.partition("=")[0].count("."))
    paths = [text.partition("=")[0].strip() for text in sets]
    first = [text for text in mine if any(path.startswith(text.partition("=")[0] + ".") for path in paths)]
    replaced = {text.partition("=")[0] for text in first}
    kept = [text for text, path in zip(sets, paths, strict=True) if path not in replaced]
    return (*first, *kept, *(text for text in mine if text not in first))


def words(value: Any, unit: str = "") -> str:
    """A value for people: `9.6 TB/s`, `top_k 1,024`."""
    if isinstance(value, str):
        number, own = _quantity(value)
        return format_quantity(number, own) if own else value
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    if isinstance(value, int | float):
        return format_quantity(value, unit) if unit else f"{value:,.6g}" if value < 1e15 else f"{value:.4g}"
    if isinstance(value, Mapping):
        if "kind" in value and all(not isinstance(v, Mapping | Sequence) or isinstance(v, str) for v in value.values()):
            return " ".join(words(v) if isinstance(v, str) else f"{v:,}" for v in value.values())
        return ", ".join(f"{key} {words(v)}" for key, v in value.items())
    return _yaml(value)
