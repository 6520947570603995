"""What is known of measured deployments beyond their table, from `servingrecipes.yaml`: versions, settings, layouts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from packaging.version import InvalidVersion, Version
from pydantic import Field

from calibration.servingtables import UNKNOWN
from hwspecs.validation import validate
from hwspecs.yamlfile import read_yaml
from workloads.fields import Part

FILE = Path(__file__).with_name("servingrecipes.yaml")

Row = dict[str, Any]
Range = tuple[int, int]


class Conditions(Part):
    """Which rows a rule holds for; what is left out does not matter."""

    models: list[str] = Field(default_factory=list)
    engines: list[str] = Field(default_factory=list)
    gpus: list[str] = Field(default_factory=list)
    precisions: list[str] = Field(default_factory=list)
    versions: list[str] = Field(default_factory=list)
    noted: list[str] = Field(default_factory=list)
    since: str | None = None
    until: str | None = None
    lengths: list[Range] = Field(default_factory=list)
    public: bool | None = None
    concurrency: Range | None = None

    ranges: ClassVar[dict[str, str]] = {"concurrency": "concurrency"}
    """Conditions that are ranges -> the columns that they are of."""

    def holds(self, row: Row, version: str | None) -> bool:
        """Whether they hold for `row`, whose engine has this version."""
        name, number = row["model"].lower(), number_of(version)
        listed = ((self.engines, "engine"), (self.gpus, "gpu"), (self.precisions, "precision"))
        if self.models and not any(part in name for part in self.models):
            return False
        if any(allowed and row[column] not in allowed for allowed, column in listed):
            return False
        if self.lengths and (row["input_len"], row["output_len"]) not in self.lengths:
            return False
        for condition, column in self.ranges.items():
            limits = getattr(self, condition)
            if limits is not None and not limits[0] <= row[column] <= limits[1]:
                return False
        if self.public not in (None, is_public(row)):
            return False
        if self.noted and row["engine_version"] not in self.noted:
            return False
        if self.versions and version not in self.versions:
            return False
        if number is None:
            return self.since is None and self.until is None
        return (self.since is None or number >= Version(self.since)) and (
            self.until is None or number <= Version(self.until)
        )


class _For(Conditions):
    tp: Range | None = None
    moe_ep: Range | None = None
    attention_dp: Range | None = None

    ranges: ClassVar[dict[str, str]] = {name: name for name in ("tp", "moe_ep", "attention_dp", "concurrency")}


class _Known(Part):
    for_: _For = Field(alias="for")
    version: str
    source: str


class _Rule(Part):
    for_: _For = Field(alias="for")
    source: str
    engine: dict[str, Any] = Field(default_factory=dict)
    precision: dict[str, str] = Field(default_factory=dict)
    layout: dict[str, str] = Field(default_factory=dict)


class _Public(Part):
    from_: str = Field(alias="from")
    models: list[str]
    lengths: list[Range]
    other_versions: dict[str, list[str]]


class _File(Part):
    public: _Public
    versions: list[_Known]
    rules: list[_Rule]


@dataclass(frozen=True)
class Told:
    """What a row's run was told.

    Attributes
    ----------
    version : of the engine; None if nobody noted it.
    engine, precision : settings of a scenario that its recipe gives; what it leaves out is as the engine does.
    expert : `all` if each GPU has whole experts, `none` if a part of each, whatever the table says; else None.
    attention_data : whether each GPU has an attention of its own, whatever the table says.
    sources : of all that, in the order of the file.
    """

    version: str | None
    engine: Mapping[str, Any] = field(default_factory=dict)
    precision: Mapping[str, str] = field(default_factory=dict)
    expert: str | None = None
    attention_data: bool = False
    sources: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def _facts() -> _File:
    return validate(_File, read_yaml(FILE).data, file=FILE)


def is_public(row: Row) -> bool:
    """Whether a row is one of the public InferenceX runs: those have a few models and three pairs of lengths."""
    public = _facts().public
    # Of disaggregated deployments nobody else measured any with its models.
    if "tp" in row and row["engine_version"] in public.other_versions.get(row["engine"], []):
        return False
    named = any(part in row["model"].lower() for part in public.models)
    return named and (row["input_len"], row["output_len"]) in public.lengths


def number_of(version: str | None) -> Version | None:
    """A version as a number; None for `unknown`, for the name of an image, and for None."""
    try:
        return None if version is None else Version(version)
    except InvalidVersion:
        return None


def version_of(row: Row) -> str | None:
    """The version of a row's engine: as noted, or the one that its image had; None where nobody knows."""
    noted = row["engine_version"]
    if number_of(noted) is not None:
        return str(noted)
    for known in _facts().versions:
        if known.for_.holds(row, None):
            return known.version
    return None if noted == UNKNOWN else str(noted)


def told(row: Row) -> Told:
    """What a row's run was told: all rules that hold for it, later ones before earlier ones."""
    version = version_of(row)
    engine: dict[str, Any] = {}
    precision: dict[str, str] = {}
    layout: dict[str, str] = {}
    sources = []
    for rule in _facts().rules:
        if rule.for_.holds(row, version):
            engine |= rule.engine
            precision |= rule.precision
            layout |= rule.layout
            sources.append(rule.source)
    filled = {key: _filled(value, row) for key, value in engine.items()}
    return Told(version, filled, precision, layout.get("expert"), "attention_data" in layout, tuple(sources))


TERM = re.compile(r"(?:(\d+) x )?(input|users)|(-?\d+)")


def _filled(value: Any, row: Row) -> Any:
    """A setting that follows from the load: `users`, `2 x input`, `input + users + 64`."""
    terms = [TERM.fullmatch(part) for part in value.split(" + ")] if isinstance(value, str) else [None]
    loads = {"users": row["concurrency"], "input": row["input_len"]}
    total = 0
    for term in terms:
        if term is None:
            return value
        times, name, number = term.groups()
        total += int(number) if number else int(times or 1) * loads[name]
    return total
