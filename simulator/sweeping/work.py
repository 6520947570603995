"""What a worker does: load the scenarios of a batch, simulate them, and give back one row each.

A row is plain data. Whatever goes wrong in one scenario is its row's reason and stops nothing else.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwspecs.errors import InputError
from simulator.deployment import Deployment, deploy, rehost
from simulator.fleet import Fleet, deploy_pools, rehost_pools
from simulator.headline import headline
from simulator.result import Result
from simulator.running import run_served
from simulator.sweeping.grid import LOAD, Base, Point, assignments, text_of
from simulator.sweeping.identity import program_hash, raw_hash, scenario_hash
from simulator.varying.paths import field_at, scaled
from simulator.varying.values import Factor
from workloads.scenario import LoadedScenario, load_scenario, scenario_data

OK, INVALID, FAILED = "ok", "invalid", "failed"
"""Simulated; cannot be loaded or served, for a reason that is given; the program or its worker broke."""
PROGRAM = program_hash()
"""Of the program as this process imported it: what lies on the disk may be another by the time that it is asked."""
ENDS = ("makespan_s", "tpot_s")
"""Metrics of which a run knows the 80 % interval without running again."""


@dataclass(frozen=True)
class Resolved:
    """A combination as a scenario. values : with factors worked out. data : the resolved scenario, whole, as plain
    data. Without `loaded` there is a `reason`, and a status that is not OK.
    """

    hash: str
    values: dict[str, Any]
    loaded: LoadedScenario | None = None
    data: dict[str, Any] | None = None
    status: str = OK
    reason: str = ""


def scenario_at(base: Base, point: Point, folder: Path) -> LoadedScenario:
    """The scenario of a combination. Raises InputError if it is none."""
    return load_scenario(_written(base, point, folder)[0])


def _written(base: Base, point: Point, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a combination comes to as a scenario's content, and its values with factors worked out."""
    values, both = dict(point.values), assignments(base, point)
    factors = {path: value for path, value in both.items() if isinstance(value, Factor)}
    data = scenario_data(base.given, {path: value for path, value in both.items() if path not in factors}, folder)
    for path, factor in factors.items():
        value = scaled(field_at(load_scenario(data), path), factor.by, path)
        data = scenario_data(data, {path: value}, folder)
        values[path] = value
    return data, values


def resolve(base: Base, point: Point, folder: Path, program: str) -> Resolved:
    """The scenario of a combination, or why it is none."""
    try:
        content, values = _written(base, point, folder)
        loaded = load_scenario(content)
        data = loaded.to_dict(embed=True)
        return Resolved(scenario_hash(data, loaded.base_dir, program), values, loaded, data)
    except InputError as error:
        return _broken(base, point, program, INVALID, _reason(error))


def _broken(base: Base, point: Point, program: str, status: str, reason: str) -> Resolved:
    """A combination that is no scenario, known by what was written."""
    written = {"base": base.given, "values": {path: text_of(v) for path, v in assignments(base, point).items()}}
    return Resolved(raw_hash(written, program), dict(point.values), status=status, reason=reason)


def running_program() -> str:
    """The hash of the program that this process runs."""
    return PROGRAM


def _check_program(program: str) -> None:
    """InputError in a worker that runs another program than the sweep: its rows would stay under the wrong hash."""
    if program != PROGRAM:
        problem = "a worker runs another version of kinesim; what was written is kept, and the same command goes on"
        raise InputError(problem, place="workers", allowed="workers with the same version as this command")


def identify(bases: Sequence[Base], points: Sequence[Point], folder: Path, program: str) -> list[tuple[int, str]]:
    """Number and hash of each combination. Raises InputError if `program` is not the one that runs here."""
    _check_program(program)
    return [(point.index, _resolved(bases[point.base], point, folder, program).hash) for point in points]


def simulate_batch(bases: Sequence[Base], points: Sequence[Point], folder: Path, program: str) -> list[dict[str, Any]]:
    """The rows of combinations, in their order. Neighbours that differ in their load alone share what is compiled.

    Nothing is raised by a scenario: not every exception survives its way to another process.

    Raises
    ------
    InputError : `program` is not the one that runs here.
    """
    _check_program(program)
    rows = []
    served: Deployment | Fleet | None = None
    compiled = ""
    for point in points:
        started = time.perf_counter()
        base = bases[point.base]
        found = _resolved(base, point, folder, program)
        row: dict[str, Any] = {"index": point.index, "hash": found.hash, "scenario": base.name, "values": found.values}
        status, reason, result = found.status, found.reason, None
        if found.loaded is not None and found.data is not None:
            try:
                key = _compiled_key(found.data)
                served = _serve(found.loaded, served if key == compiled else None)
                compiled = key
                result = run_served(served)
            except InputError as error:
                status, reason = INVALID, _reason(error)
            except Exception as error:
                status, reason = FAILED, _bug(error)
        row |= {"status": status, "reason": reason, **_answers(result), "wall_s": time.perf_counter() - started}
        rows.append(row)
    return rows


def _resolved(base: Base, point: Point, folder: Path, program: str) -> Resolved:
    """`resolve`, and of an error of the program a reason too."""
    try:
        return resolve(base, point, folder, program)
    except Exception as error:
        return _broken(base, point, program, FAILED, _bug(error))


def _compiled_key(data: dict[str, Any]) -> str:
    """What the cost of a scenario's steps depends on."""
    inner = [name.partition(".")[2] for name in LOAD if name.startswith("engine.")]
    kept = {key: value for key, value in data.items() if key not in LOAD}
    kept["engine"] = {key: value for key, value in data["engine"].items() if key not in inner}
    return json.dumps(kept, sort_keys=True, default=str)


def _serve(loaded: LoadedScenario, alike: Deployment | Fleet | None) -> Deployment | Fleet:
    """The scenario compiled; `alike` is one that differs from it in its load alone."""
    if alike is None:
        return deploy(loaded) if loaded.pools is None else deploy_pools(loaded)
    return rehost_pools(alike, loaded) if isinstance(alike, Fleet) else rehost(alike, loaded)


def _answers(result: Result | None) -> dict[str, Any]:
    """What is kept of a result."""
    if result is None:
        return {"metrics": {}, "intervals": {}, "timed_by": "", "notes": ""}
    interval = result.summary.get("interval") or {}
    intervals = {"kernel_time": interval.get("kernel_time"), **{key: interval.get(key) for key in ENDS}}
    return {
        "metrics": headline(result.summary),
        "intervals": intervals,
        "timed_by": timed_by(result),
        "notes": "; ".join(result.notes),
    }


def timed_by(result: Result) -> str:
    """The profile, or profiles, that a result's times rest on."""
    pools = result.deployment.get("pools", {})
    names = [facts["profile"]["name"] for facts in pools.values()] or [result.deployment["profile"]["name"]]
    return ", ".join(dict.fromkeys(names))


def _reason(error: InputError) -> str:
    """The message without the file, which is not the user's but what was made of it."""
    if error.file in (None, "<dict>", "--set"):
        return InputError(error.problem, place=error.place, found=error.found, allowed=error.allowed).message()
    return error.message()


def _bug(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"internal error: {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
