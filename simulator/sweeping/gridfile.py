"""From a sweep file to its grid: values of every field, groups that change together, what is left out; and the checks.

Which fields there are is left to the loader of scenarios, which is asked for some of the combinations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwspecs.errors import InputError, near_matches
from simulator.sweeping.draw import shuffled
from simulator.sweeping.grid import SCENARIO, Axis, Base, Grid, Place, Point, alike, text_of
from simulator.sweeping.sweepfile import SweepFile
from simulator.sweeping.work import scenario_at
from simulator.varying.paths import NO_FIELD, field_at, named, values_at
from simulator.varying.values import Factor, Stop, parse_values, unit_of
from workloads.scenario import LoadedScenario, load_scenario, scenario_data

PROBES = 32
"""Combinations tried to tell a field that does not exist from values that are not allowed."""
WITH_VALUE, TRIED = 256, 512
"""Combinations tried to tell that none takes a value; in all, so that long lists do not take long."""


def make_grid(file: SweepFile) -> Grid:
    """The combinations that a sweep file asks for.

    Raises
    ------
    InputError : with the file's line: a base that is none, a field given twice or that does not exist, values that are
        none (`varying.values`) or that no combination takes, groups of `zip` of unequal lengths, an `exclude` that can
        never match.
    """
    content = file.content
    listed = content.base if isinstance(content.base, list) else [content.base]
    if not listed:
        raise file.fail(InputError("no base scenario", found=[], allowed="at least one"), ("base",))
    _check_twice(file)
    bases = []
    for i, spec in enumerate(listed):
        place: Place = ("base", i) if isinstance(content.base, list) else ("base",)
        bases.append(_base(file, spec, place))
    names = [base.name for base in bases]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        problem = "two base scenarios of one name"
        raise file.fail(InputError(problem, found=twice, allowed="a `name` of its own in each"), ("base",))
    paths = tuple(path for axis in bases[0].axes for path in axis.paths)
    grid = Grid(tuple(bases), paths, file.folder, (), _units(bases, file.folder))
    exclusions = tuple(_exclusion(file, grid, i, given) for i, given in enumerate(file.excluded()))
    grid = replace(grid, exclusions=exclusions)
    _check_fields(file, grid)
    _check_values(file, grid)
    return grid


def _base(file: SweepFile, spec: str | dict[str, Any], place: Place) -> Base:
    content = file.content
    try:
        given = scenario_data(_at_home(spec, file.folder), None, file.folder)
    except InputError as error:
        raise file.fail(error, place) if error.file is None else error from None
    loaded: LoadedScenario | None = None
    try:
        loaded = load_scenario(scenario_data(given, content.set, file.folder))
    except InputError as error:
        if error.file == "--set":  # a path that is none
            raise file.fail(error, ("set", error.place or "")) from None
        loaded = None  # perhaps what is varied makes it whole
    axes = []
    for path, values in content.vary.items():
        rows = tuple((value,) for value in _values(file, loaded, path, values, ("vary", path)))
        axes.append(Axis((path,), rows, ("vary", path)))
    for i, group in enumerate(file.groups()):
        where: Place = ("zip",) if isinstance(content.zip, dict) else ("zip", i)
        columns = [_values(file, loaded, path, values, (*where, path)) for path, values in group.items()]
        lengths = {path: len(column) for path, column in zip(group, columns, strict=True)}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{path} {count}" for path, count in lengths.items())
            raise file.fail(InputError("lists of unequal lengths", found=found, allowed="equally many values"), where)
        if columns:
            axes.append(Axis(tuple(group), tuple(zip(*columns, strict=True)), where))
    return Base(str(given["name"]), given, content.set, tuple(axes))


def _at_home(spec: str | dict[str, Any], folder: Path) -> str | dict[str, Any]:
    """A path of the sweep file as one of its folder."""
    if isinstance(spec, str) and (spec.endswith((".yaml", ".yml")) or "/" in spec):
        return str(folder / Path(spec).expanduser())
    return spec


def _check_twice(file: SweepFile) -> None:
    """InputError for a field that is named in two places."""
    content, seen = file.content, dict[str, Place]()
    places: list[Place] = [("set", path) for path in content.set]
    places += [("vary", path) for path in content.vary]
    for i, group in enumerate(file.groups()):
        places += [("zip", path) if isinstance(content.zip, dict) else ("zip", i, path) for path in group]
    for place in places:
        path = str(place[-1])
        if path in seen:
            other = ".".join(map(str, seen[path]))
            raise file.fail(InputError("a field given twice", found=path, allowed=f"once; it is in {other}"), place)
        seen[path] = place


def _values(file: SweepFile, loaded: LoadedScenario | None, path: str, given: object, place: Place) -> list[Any]:
    """The values of a field. A factor stays one where the field lies in something that is varied too."""
    around = [other for other in _varied(file) if path.startswith((f"{other}.", f"{other}["))]
    try:
        entries = parse_values(given, "")
        if loaded is not None and not (around and any(isinstance(entry, Factor) for entry in entries)):
            return values_at(loaded, path, given, "")
        if loaded is None and any(isinstance(entry, Factor) for entry in entries) and not around:
            problem = "a factor needs a base scenario that can be loaded by itself"
            raise InputError(problem, found=given, allowed="values instead of factors")
        return [named(path, _plain(entry)) for entry in entries]
    except InputError as error:
        raise file.fail(error, place) from None


def _varied(file: SweepFile) -> list[str]:
    return [*file.content.vary, *(path for group in file.groups() for path in group)]


def _plain(value: Any) -> Any:
    """A value of a range without knowing the field."""
    if not isinstance(value, Stop):
        return value
    if value.unit:
        return f"{value.number:.12g} {value.unit}"
    return int(value.number) if value.number == int(value.number) else value.number


def _exclusion(file: SweepFile, grid: Grid, i: int, given: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The values of a combination that is left out, each of which has to be among those of its field."""
    where: Place = ("exclude",) if isinstance(file.content.exclude, dict) else ("exclude", i)
    if not given:
        raise file.fail(InputError("leaves out everything", found={}, allowed="at least one field"), where)
    found: dict[str, tuple[Any, ...]] = {}
    for path, listed in given.items():
        place = (*where, path)
        if path != SCENARIO and path not in grid.paths:
            allowed = near_matches(path, [SCENARIO, *grid.paths])
            raise file.fail(InputError("not one of the fields that are varied", found=path, allowed=allowed), place)
        known = [base.name for base in grid.bases] if path == SCENARIO else _known(grid, path)
        try:
            values = tuple(named(path, _plain(value)) for value in parse_values(listed, ""))
        except InputError as error:
            raise file.fail(error, place) from None
        for value in values:
            if not any(alike(value, other) for other in known):
                shown = ", ".join(text_of(other) for other in known[:8]) + (", ..." if len(known) > 8 else "")
                problem = "leaves out a value that the field does not take"
                raise file.fail(InputError(problem, found=text_of(value), allowed=shown), place)
        found[path] = values
    return found


def _units(bases: Sequence[Base], folder: Path) -> dict[str, str]:
    """SI units of the varied fields: of the first text with a unit among their values, else of the base's own value."""
    found: dict[str, str] = {}
    for base in bases:
        for axis in base.axes:
            for path, column in zip(axis.paths, zip(*axis.rows, strict=True), strict=True):
                units = (unit_of(value) for value in column)
                found[path] = found.get(path) or next((unit for unit in units if unit), "")
                if not found[path] and any(isinstance(value, Factor) for value in column):
                    found[path] = next((field_at(loaded, path).unit for loaded in _some(base, folder)), "")
    return found


def _some(base: Base, folder: Path) -> Iterator[LoadedScenario]:
    """A base as a scenario, or, where it is whole with what is varied only, those of its combinations that load."""
    alone = Grid((base,), (), folder, (), {})
    points = (alone.point(shuffled(i, base.count, 0)) for i in range(min(base.count, PROBES)))
    for point in (Point(0, 0, {}), *points):
        try:
            yield scenario_at(base, point, folder)
        except InputError:
            continue


def _known(grid: Grid, path: str) -> list[Any]:
    """All values of a field, over all bases."""
    found: list[Any] = []
    for base in grid.bases:
        for axis in base.axes:
            if path in axis.paths:
                found += [row[axis.paths.index(path)] for row in axis.rows]
    return found


def _check_fields(file: SweepFile, grid: Grid) -> None:
    """InputError for a field that no combination has, or a base that is wrong in itself.

    Which fields there are depends on others (an attention's kind), so combinations are tried: where every one of a
    sample fails on a field that does not exist, or on the same thing as its base alone, the file is wrong. Else the
    combinations that fail are rows with their reason.
    """
    for number, base in enumerate(grid.bases):
        first = sum(other.count for other in grid.bases[:number])
        tries = min(base.count, PROBES)
        errors: list[InputError] = []
        for i in range(tries):
            try:
                scenario_at(base, grid.point(first + shuffled(i, base.count, 0)), grid.folder)
                break
            except InputError as error:
                errors.append(error)
        if len(errors) < tries or not errors:
            continue
        if all(e.problem in NO_FIELD for e in errors):
            raise _at_field(file, base, errors[0])
        try:
            load_scenario(scenario_data(base.given, base.sets, grid.folder))
        except InputError as alone:
            if all((e.problem, e.place) == (alone.problem, alone.place) for e in errors):
                raise _at_field(file, base, alone) from None


def _check_values(file: SweepFile, grid: Grid) -> None:
    """InputError for a value that no combination takes, such as a rate of `fast`.

    Of a base's combinations up to TRIED are loaded, and with one value up to WITH_VALUE, the first that loads being
    enough; what is not tried, and what cannot be served, is a row with its reason.
    """
    for number, base in enumerate(grid.bases):
        left = TRIED
        for axis in sorted(base.axes, key=lambda one: len(one.rows)):
            for step in range(len(axis.rows)):
                error: InputError | None = None
                for index in grid.with_value(number, axis, step, WITH_VALUE):
                    if not left:
                        return
                    left -= 1
                    try:
                        scenario_at(base, grid.point(index), grid.folder)
                    except InputError as found:
                        error = found if any(_within(found.place, path) for path in axis.paths) else error
                    else:
                        break
                else:
                    if error is not None:
                        raise _at_field(file, base, error)


def _within(place: str | None, path: str) -> bool:
    """Whether an error's place is a field, or lies inside it."""
    return place is not None and (place == path or place.startswith((f"{path}.", f"{path}[")))


def _at_field(file: SweepFile, base: Base, error: InputError) -> InputError:
    """The error with the file's place of the field that it is about."""
    about = error.place or ""
    candidates: list[Place] = [("set", path) for path in base.sets]
    for axis in base.axes:
        candidates += [axis.place if axis.place[0] == "vary" else (*axis.place, path) for path in axis.paths]
    for place in candidates:
        path = str(place[-1])
        if _within(about, path) or _within(path, about):
            return file.fail(error, place)
    said = InputError(
        f"{error.problem} ({about})" if about else error.problem, found=error.found, allowed=error.allowed
    )
    return file.fail(said, ("base",)) if error.file == "<dict>" else error
