"""Which settings a what-if simulates: what it is compared with, and every combination of what is varied.

Assignments change a scenario one after another, so a part must be named before its fields: `gpu` before
`gpu.memory.bandwidth`, in whatever order they were given. A factor is one of what the scenario has by then: of each
GPU's own bandwidth, where GPUs are varied too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwspecs.errors import InputError
from hwspecs.yamlfile import parse_yaml
from simulator.varying.paths import assignment, named, ordered, split_assignment, values_at, words
from simulator.varying.points import Spec, plain_spec
from workloads.scenario import LoadedScenario, load_scenario

MOST = 1_000
"""Simulations of one question; a larger grid is what `kinesim sweep` is for."""
Setting = tuple[str, tuple[str, ...]]
"""A setting's name and its assignments."""
Vary = Mapping[str, Any] | str | Sequence[str] | None
"""What is varied: values by path, or as after `--vary`, `PATH=VALUES`, or several of them."""


@dataclass(frozen=True)
class Place:
    """A combination. values : by path as it was given. sets : the assignments that make it, with the setting's."""

    values: Mapping[str, Any]
    sets: tuple[str, ...]


def vary_lists(given: Vary) -> dict[str, Any]:
    """What is varied by path, from a mapping or from `PATH=VALUES`. InputError for anything else."""
    allowed = "PATH=VALUES such as gpu.memory.bandwidth=x1,x2"
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    if not isinstance(given, str | list | tuple):
        raise InputError("not a list of values", file="--vary", found=given, allowed=f"{allowed}, or values by path")
    lists: dict[str, Any] = {}
    for text in [given] if isinstance(given, str) else given:
        path, equals, values = text.partition("=") if isinstance(text, str) else ("", "", "")
        if not equals or not path.strip():
            raise InputError("not a list of values", file="--vary", found=text, allowed=allowed)
        if path.strip() in lists:
            raise InputError("varied twice", file="--vary", place=path.strip(), allowed="all of its values in one list")
        lists[path.strip()] = values
    return lists


def variant_of(given: str | Sequence[str]) -> Setting:
    """A setting's name and its assignments, from one `PATH=VALUE` or several. InputError for anything else."""
    texts = [given] if isinstance(given, str) else list(given)
    names, found = [], []
    for text in texts:
        path, value = split_assignment(text, "--against")
        plain = named(path, value)
        found.append(f"{path}={value}" if plain == value else assignment(path, plain))
        names.append(f"{path} {_shown(value, plain)}")
    return ", ".join(names), tuple(found)


def _shown(text: str, plain: Any) -> str:
    try:
        return words(plain if plain != text else parse_yaml(text, "--against").data)
    except InputError:
        return text


def values_of(loaded: LoadedScenario, path: str, given: object) -> tuple[Any, ...]:
    """The values of one list; of several paths joined by `+`, a mapping of each one's. InputError."""
    paths = [one.strip() for one in path.split("+")]
    if len(paths) == 1:
        return tuple(values_at(loaded, path, given, path))
    lists = [values_at(loaded, one, given, path) for one in paths]
    if len({len(values) for values in lists}) > 1:
        found = ", ".join(f"{len(values)} of {one}" for one, values in zip(paths, lists, strict=True))
        raise InputError("fields that vary together need as many values each", place=path, found=found)
    return tuple(dict(zip(paths, values, strict=True)) for values in zip(*lists, strict=True))


def texts_of(path: str, value: Any) -> list[str]:
    """Assignments that give a field, or fields joined by `+`, a value."""
    if "+" in path:
        return [assignment(one, each) for one, each in value.items()]
    return [assignment(path, value)]


def check_size(lists: Mapping[str, Sequence[Any]], settings: Sequence[Setting]) -> None:
    """InputError for more than MOST combinations."""
    if lists and math.prod(len(values) for values in lists.values()) * len(settings) > MOST:
        found = " x ".join(f"{len(values)} of {path}" for path, values in lists.items())
        found += f" x {len(settings)} settings" if len(settings) > 1 else ""
        allowed = f"at most {MOST:,} together; `kinesim sweep` takes larger grids"
        raise InputError("too many simulations", file="--vary", found=found, allowed=allowed)


def check_values(
    spec: Spec, sets: Sequence[str], lists: Mapping[str, Sequence[Any]], settings: Sequence[Setting]
) -> None:
    """InputError for a path or a value that is no good by itself, before anything is simulated.

    What is wrong only together with the rest of the scenario (a format that another GPU lacks) is left to the points.
    """
    asked = [("--vary", texts_of(path, value)) for path, values in lists.items() for value in values]
    asked += [("--against", list(texts)) for _, texts in settings if texts]
    for option, texts in asked:
        try:
            load_scenario(plain_spec(spec), ordered(sets, texts))
        except InputError as error:
            own = any(_about(error.place or "", text.partition("=")[0]) for text in texts)
            if error.file == "--set" and own:
                raise InputError(
                    error.problem, file=option, place=error.place, found=error.found, allowed=error.allowed
                ) from None


def _about(place: str, path: str) -> bool:
    """Whether an error's place is a path, inside of it, or on the way to it."""
    return place == path or place.startswith((f"{path}.", f"{path}[")) or path.startswith((f"{place}.", f"{place}["))


def places(
    spec: Spec, sets: Sequence[str], setting: Setting, given: Mapping[str, object], lists: Mapping[str, Sequence[Any]]
) -> list[Place]:
    """Every combination under one setting, the last list's values fastest. `lists` : what `given` comes to in the
    scenario itself.
    """
    own, plain = list(setting[1]), plain_spec(spec)
    known: dict[tuple[str, ...], LoadedScenario | None] = {}

    def values_in(path: str, before: Sequence[str]) -> Sequence[Any]:
        """Those of a path where the assignments `before` were made; the scenario's own if they touch no part of it."""
        parts = tuple(text for text in before if _holds(text.partition("=")[0], path))
        if not parts:
            return lists[path]
        if parts not in known:
            try:
                known[parts] = load_scenario(plain, ordered(sets, parts))
            except InputError:
                known[parts] = None  # it is no good with any value, which the point will say
        loaded = known[parts]
        return lists[path] if loaded is None else values_of(loaded, path, given[path])

    found: list[tuple[dict[str, int], dict[str, Any], list[str]]] = [({}, {}, own)]
    for path in sorted(lists, key=_depth):
        found = [
            ({**index, path: i}, {**values, path: value}, [*texts, *texts_of(path, value)])
            for index, values, texts in found
            for i, value in enumerate(values_in(path, texts))
        ]
    found.sort(key=lambda one: [one[0][path] for path in lists])
    return [Place({path: values[path] for path in lists}, ordered(sets, texts)) for _, values, texts in found]


def _depth(path: str) -> int:
    return min(one.count(".") for one in path.split("+"))


def _holds(outer: str, path: str) -> bool:
    """Whether a path, or one of several joined by `+`, lies inside of another."""
    return any(one.strip().startswith(f"{outer}.") for one in path.split("+"))
