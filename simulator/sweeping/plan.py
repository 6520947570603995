"""Before a sweep runs: which scenarios it is over, and about how long it will take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwspecs.errors import InputError
from simulator.headline import METRICS
from simulator.sweeping.cluster import default_workers
from simulator.sweeping.dataset import NUMBER, TEXT, known_hashes
from simulator.sweeping.draw import shuffled
from simulator.sweeping.grid import MOST, Grid, Point
from simulator.sweeping.gridfile import make_grid
from simulator.sweeping.results import Estimate
from simulator.sweeping.sweepfile import MOST_LIMIT, SweepFile, read_sweep
from simulator.sweeping.work import PROGRAM, identify, simulate_batch
from simulator.varying.values import Factor, number_of


@dataclass(frozen=True)
class Plan:
    """A sweep file read: its grid, the points that are run, and the kinds of the varied columns."""

    file: SweepFile
    grid: Grid
    points: list[Point]
    kinds: dict[str, str]

    @property
    def keep(self) -> tuple[str, ...]:
        return tuple(self.file.content.keep or METRICS)


def plan_sweep(spec: str | Path | Mapping[str, Any], sets: Sequence[str] = (), limit: int | None = None) -> Plan:
    """Read a sweep file and choose the combinations. `limit` goes before the file's.

    Raises
    ------
    InputError : whatever is wrong with the file, and more than `MOST` combinations without a limit.
    """
    file = read_sweep(spec, sets)
    if limit is not None and not 1 <= limit <= MOST_LIMIT:
        raise InputError("out of range", place="--limit", found=limit, allowed=f"an integer from 1 to {MOST_LIMIT:,}")
    limit = limit if limit is not None else file.content.limit
    grid = make_grid(file)
    if limit is None and grid.count > MOST:
        raise InputError(
            f"the grid has {grid.count:,} combinations",
            file=file.origin,
            place="limit",
            allowed=f"up to {MOST:,} without a limit; with `limit: N` or --limit N so many are drawn at random",
        )
    points = grid.chosen(limit, file.content.seed)
    if not points:
        raise InputError("every combination is left out", file=file.origin, place="exclude")
    return Plan(file, grid, points, _kinds(grid))


def default_folder(file: SweepFile) -> Path:
    """Where the data set goes if nothing is said."""
    return Path(f"{file.name}-sweep")


def _kinds(grid: Grid) -> dict[str, str]:
    """Whether a varied field is a column of numbers (quantities in SI units) or of text."""
    kinds = dict.fromkeys(grid.paths, NUMBER)
    for base in grid.bases:
        for axis in base.axes:
            for path, column in zip(axis.paths, zip(*axis.rows, strict=True), strict=True):
                if not all(isinstance(value, Factor) or number_of(value) is not None for value in column):
                    kinds[path] = TEXT
    return kinds


def estimate(
    spec: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    sets: Sequence[str] = (),
    workers: int | None = None,
    limit: int | None = None,
    seconds: float = 5.0,
) -> Estimate:
    """How many scenarios a sweep is over, and about how long it would take, from trying some for `seconds`.

    Raises
    ------
    InputError : as `sweep` for what is wrong with the file or the folder.
    """
    plan = plan_sweep(spec, sets, limit)
    grid = plan.grid
    folder = Path(out) if out is not None else default_folder(plan.file)
    done = known_hashes(folder)
    left = plan.points
    if done:
        found = dict(identify(grid.bases, plan.points, grid.folder, PROGRAM))
        left = [point for point in plan.points if found[point.index] not in done]
    ordered = grid.cheap_order(left)
    number = workers or default_workers()
    walls: list[float] = []
    until = time.monotonic() + seconds
    for i in range(len(ordered)):
        at = shuffled(i, len(ordered), 0)
        # With its neighbour before it, as in a batch, where both may share what is compiled.
        rows = simulate_batch(grid.bases, ordered[max(at - 1, 0) : at + 1], grid.folder, PROGRAM)
        walls.append(rows[-1]["wall_s"])
        if time.monotonic() >= until:
            break
    total = len(ordered) * sum(walls) / len(walls) / min(number, len(ordered)) if walls else 0.0
    return Estimate(
        name=plan.file.name,
        origin=plan.file.origin,
        folder=folder,
        combinations=grid.count,
        chosen=len(plan.points),
        before=len(plan.points) - len(left),
        workers=number,
        tried=len(walls),
        seconds=total,
    )
