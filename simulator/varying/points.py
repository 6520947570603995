"""Full simulations of one scenario under many settings, in processes: what each costs, or why it cannot be served."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwspecs.errors import InputError
from simulator.deployment import deploy
from simulator.headline import headline
from simulator.interval import KernelError, operator_errors
from simulator.outlooks import outlook_of
from simulator.processes import end_pool, process_pool
from simulator.result import Result
from simulator.running import run_scenario
from simulator.varying.boundshift import Shift, bound_shifts
from simulator.varying.resources import gpu_places
from workloads.disaggregation import POOLS
from workloads.scenario import LoadedScenario, load_scenario

Progress = Callable[[int, int], None]
Spec = str | Path | Mapping[str, Any] | LoadedScenario


@dataclass(frozen=True)
class Point:
    """A scenario as it was simulated under one setting.

    Attributes
    ----------
    sets : the assignments to the scenario. error : why it cannot be served; then there is nothing else.
    metrics : headline metrics by key (`simulator.headline`). intervals : low and high of each, where they were asked
        for and are known.
    bounds : seconds of all replicas' steps by what bounds them. operators : by name, kind, seconds and `by_bound`.
    kernel_time : the 80 % interval of the time of steps, as factors. profile : what the times rest on.
    shifts, errors : where operators change their bounds, and by name the errors of their kernels, if asked for.
    notes : what has to be said beside the numbers.
    """

    sets: tuple[str, ...]
    error: str | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    operators: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kernel_time: tuple[float, float] | None = None
    profile: str = ""
    shifts: tuple[Shift, ...] = ()
    errors: Mapping[str, KernelError] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def bound_shares(self) -> dict[str, float]:
        """`bounds` as shares of their sum, the largest first."""
        total = sum(self.bounds.values())
        ranked = sorted(self.bounds.items(), key=lambda item: -item[1])
        return {name: seconds / total for name, seconds in ranked} if total else {}


@dataclass(frozen=True)
class Task:
    """A scenario and assignments to it. intervals : whether those of all metrics are asked for (two more runs).
    shifts : whether those of bounds are, and errors of kernels.
    """

    spec: str | Path | Mapping[str, Any]
    sets: tuple[str, ...]
    intervals: bool = False
    shifts: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from others of the same scenario."""
        return self.sets, self.intervals, self.shifts


def plain_spec(spec: Spec) -> str | Path | Mapping[str, Any]:
    """What `load_scenario` reads."""
    if not isinstance(spec, LoadedScenario):
        return spec
    return spec.given if spec.given is not None else spec.to_dict()


def run_point(task: Task) -> Point:
    """One full simulation. Bad input is the point's error and not raised."""
    try:
        loaded = load_scenario(task.spec, task.sets)
        result = run_scenario(loaded)
    except InputError as error:
        return Point(task.sets, error=_reason(error))
    summary = result.summary
    interval = summary.get("interval")
    ends = outlook_of(result, loaded).intervals() if task.intervals else {}
    names = ("kind", "seconds", "by_bound")
    return Point(
        sets=task.sets,
        metrics=headline(summary),
        intervals=ends,
        bounds=summary["seconds_by_bound"],
        operators={f"{op.get('pool', '')} {op['name']}".strip(): {n: op[n] for n in names} for op in result.operators},
        kernel_time=tuple(interval["kernel_time"]) if interval else None,
        profile=_profile(result.deployment),
        shifts=tuple(_shifts(loaded, result)) if task.shifts else (),
        errors=_errors(loaded, result) if task.shifts else {},
        notes=tuple(result.notes),
    )


def run_points(tasks: Sequence[Task], jobs: int | None = None, progress: Progress | None = None) -> list[Point]:
    """All tasks, of one scenario, in their order, in `jobs` processes (as many as there are cores if left out).

    A setting that is asked for twice is simulated once. `progress` : called with the simulations done and all of them.
    """
    wanted = list({task.key: task for task in tasks}.values())
    jobs = min(jobs or os.cpu_count() or 1, len(wanted))
    found: dict[tuple[object, ...], Point] = {}

    def take(task: Task, point: Point) -> None:
        found[task.key] = point
        if progress is not None:
            progress(len(found), len(wanted))

    if jobs <= 1:
        for task in wanted:
            take(task, run_point(task))
    else:
        with process_pool(jobs) as pool:
            futures = {pool.submit(run_point, task): task for task in wanted}
            try:
                for future in as_completed(futures):
                    take(futures[future], future.result())
            except BaseException:
                end_pool(pool, at_once=True)
                raise
    return [found[task.key] for task in tasks]


def _shifts(loaded: LoadedScenario, result: Result) -> list[Shift]:
    """Those of the bounds of all workers."""
    found: list[Shift] = []
    for place, parts in gpu_places(loaded).items():
        for part in parts:
            timeline, own = result.timeline, result.operators
            if loaded.pools is not None:
                prefill = timeline["replica"] < loaded.pools[0].config.replicas
                name = POOLS[loaded.pools.index(part)]
                timeline = timeline.select(prefill if name == POOLS[0] else ~prefill)
                own = [op for op in own if op.get("pool") == name]
            found += bound_shifts(deploy(part).cost, {op["name"]: op["seconds"] for op in own}, timeline, place)
    return found


def _errors(loaded: LoadedScenario, result: Result) -> dict[str, KernelError]:
    """Those of the kernels of replicas that prefill and decode; none for pools, whose times do not add up."""
    if loaded.pools is not None:
        return {}
    by_bound = {op["name"]: op["by_bound"] for op in result.operators}
    return operator_errors(deploy(loaded).cost, by_bound, result.timeline)


def _reason(error: InputError) -> str:
    """Problem, what was found and what would do, without the file and the place that the caller knows."""
    text = error.problem + (f"; found {error.found!r}" if error.found is not None else "")
    return text + (f"; allowed: {error.allowed}" if error.allowed else "")


def _profile(deployment: Mapping[str, Any]) -> str:
    """The name of the profile, or those of both pools."""
    if "profile" in deployment:
        return str(deployment["profile"]["name"])
    names = [str(pool["profile"]["name"]) for pool in deployment.get("pools", {}).values()]
    return ", ".join(dict.fromkeys(names))
