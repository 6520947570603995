"""`kinesim sweep`: from a sweep file to a data set with a row for every scenario, whatever was there before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError
from simulator.headline import METRICS
from simulator.sweeping.batches import run_batches
from simulator.sweeping.cluster import TIMEOUT, default_workers, existing_cluster, local_cluster
from simulator.sweeping.dataset import INTERVALS, NUMBER, TEXT, DataSet, read_rows
from simulator.sweeping.grid import MOST, SCENARIO, Grid, Point, make_grid, text_of
from simulator.sweeping.identity import program_hash
from simulator.sweeping.sweepfile import MOST_LIMIT, SweepFile, read_sweep
from simulator.sweeping.work import FAILED, INVALID, OK, identify, resolve, simulate_batch
from simulator.varying.values import Factor, number_of

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

SCHEMA = "kinesim-sweep/1"
HERE = 300
"""Points that are looked up in this process: a cluster takes longer to start."""
FLUSH = 1.0
"""Seconds between parts of the data set; what came since is what a kill of this process loses."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Counts:
    """How many combinations there are, were chosen (`limit`, `exclude`) and came to what.

    Attributes
    ----------
    combinations : of the whole grid. chosen : that this sweep is over. alike : of them, those that are the same
        scenario as another one. before : rows that were there. simulated : rows that were added.
    ok, invalid, failed : rows of this sweep by status. others : rows of the data set that are not of this sweep.
    """

    combinations: int
    chosen: int
    alike: int
    before: int
    simulated: int
    ok: int
    invalid: int
    failed: int
    others: int


@dataclass(frozen=True)
class SweepResult:
    """A sweep that has been run.

    Attributes
    ----------
    name, origin : of the sweep file. folder : the data set. paths : fields that are varied. keep : metrics to show.
    table : one row a combination, in the file's order, all columns.
    """

    name: str
    origin: str
    folder: Path
    program: str
    paths: tuple[str, ...]
    keep: tuple[str, ...]
    counts: Counts
    wall_s: float
    workers: int
    table: pd.DataFrame = field(repr=False, compare=False)

    def frame(self) -> pd.DataFrame:
        """One row a combination, in the file's order: base, varied values, status, the metrics of `keep`, intervals."""
        names = [
            SCENARIO,
            *self.paths,
            "status",
            "reason",
            *self.keep,
            *INTERVALS,
            "timed_by",
            "notes",
            "wall_s",
            "hash",
        ]
        return self.table[names].copy()

    def document(self) -> dict[str, Any]:
        """What `--format json` prints."""
        from simulator.result import plain

        return {
            "schema": SCHEMA,
            "name": self.name,
            "file": self.origin,
            "out": str(self.folder),
            "program": self.program,
            "counts": asdict(self.counts),
            "wall_s": self.wall_s,
            "workers": self.workers,
            "varied": list(self.paths),
            "metrics": list(self.keep),
            "rows": plain(self.frame().to_dict("records")),
        }


@dataclass(frozen=True)
class Estimate:
    """What `--dry-run` says: a sweep that has not been run. seconds : of all that is left, on `workers` processes."""

    name: str
    origin: str
    folder: Path
    combinations: int
    chosen: int
    before: int
    workers: int
    tried: int
    seconds: float

    def document(self) -> dict[str, Any]:
        """What `--format json` prints."""
        return {"schema": SCHEMA, "dry_run": True, **asdict(self), "folder": str(self.folder)}


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


def sweep(
    spec: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    sets: Sequence[str] = (),
    workers: int | None = None,
    scheduler: str | None = None,
    timeout: float = TIMEOUT,
    limit: int | None = None,
    retry: bool = False,
    progress: Progress | None = None,
) -> SweepResult:
    """Simulate every scenario of a sweep file that its data set does not hold yet.

    Parameters
    ----------
    spec : path of a sweep file, name of a bundled one, or a mapping with a file's content.
    out : folder of the data set; `NAME-sweep` if left out. sets : assignments `path=value` in all scenarios.
    workers : processes on this machine, as many as cores if left out; or scheduler : the address of a Dask scheduler, which has `timeout` seconds to answer.
    limit : as in the file, and before it. retry : try again what failed. progress : called with rows done, and all.

    Raises
    ------
    InputError : a wrong file, a grid that is too large, a data set that cannot be written or is in use, a scheduler
        that does not answer. Rows that were written stay, and the same call goes on from there.
    """
    started = time.perf_counter()
    if workers is not None and scheduler is not None:
        raise InputError("workers are the scheduler's", place="--workers", found=workers, allowed="one of both options")
    if workers is not None and workers < 1:
        raise InputError("out of range", place="--workers", found=workers, allowed="an integer >= 1")
    plan = plan_sweep(spec, sets, limit)
    folder = Path(out) if out is not None else default_folder(plan.file)
    number = workers or default_workers()
    program = program_hash()
    with DataSet(folder, plan.kinds) as data:
        if retry:
            data.drop(known for known, status in data.done.items() if status == FAILED)
        run = _Run(plan, data, program, progress)
        if data.done and len(plan.points) <= HERE:
            run.know(identify(plan.grid.bases, plan.points, plan.grid.folder, program))
        if run.todo():
            cluster: AbstractContextManager[Client]
            cluster = existing_cluster(scheduler, timeout) if scheduler else local_cluster(number)
            with cluster as client:
                number = len(client.scheduler_info()["workers"]) if scheduler else number
                run.run(client)
        elif scheduler is None:
            number = 0
        counts, table = run.counts(), run.table()
    wall = time.perf_counter() - started
    return SweepResult(
        plan.file.name, plan.file.origin, folder, program, plan.grid.paths, plan.keep, counts, wall, number, table
    )


class _Run:
    """The state of a running sweep: which hash each point has, and rows that are not written yet."""

    def __init__(self, plan: Plan, data: DataSet, program: str, progress: Progress | None) -> None:
        self.plan, self.data, self.program, self.progress = plan, data, program, progress
        self.hashes: dict[int, str] = {}
        self.before = 0
        self.simulated = 0
        self.found = set(data.done)
        self.pending: list[dict[str, Any]] = []
        self.flushed = time.monotonic()

    def know(self, found: Sequence[tuple[int, str]]) -> None:
        """Take note of points' hashes."""
        self.hashes.update(found)

    def todo(self) -> list[Point]:
        """Points without a row."""
        return [p for p in self.plan.points if self.hashes.get(p.index) not in self.found]

    def run(self, client: Client) -> None:
        grid = self.plan.grid
        arguments = grid.bases, grid.folder, self.program
        ordered = grid.cheap_order(self.plan.points)
        if self.data.done and len(ordered) > HERE:
            run_batches(client, identify, arguments, ordered, lambda _, found: self.know(found), self._skip, _nothing)
        left = {point.index for point in self.todo()}
        try:
            run_batches(
                client, simulate_batch, arguments, [p for p in ordered if p.index in left], self._take, self._give_up,
                self._tick,
            )  # fmt: skip
        finally:
            self._flush()

    def _skip(self, point: Point, why: str) -> None:
        """A point whose hash could not be found out; it is simulated, and fails there if it has to."""

    def _take(self, batch: Sequence[Point], rows: list[dict[str, Any]]) -> None:
        for row in rows:
            self.hashes[row["index"]] = row["hash"]
            if row["hash"] not in self.found:  # else it is the same scenario as another point
                self.found.add(row["hash"])
                self.pending.append(_flat(row, self.plan.kinds, self.program))

    def _give_up(self, point: Point, why: str) -> None:
        base = self.plan.grid.bases[point.base]
        found = resolve(base, point, self.plan.grid.folder, self.program)
        row = {"index": point.index, "hash": found.hash, "scenario": base.name, "values": found.values,
               "status": FAILED, "reason": why}  # fmt: skip
        self._take([point], [row])

    def _tick(self) -> None:
        if self.progress is not None:
            self.progress(len(self.hashes), len(self.plan.points))
        if self.pending and time.monotonic() - self.flushed >= FLUSH:
            self._flush()

    def _flush(self) -> None:
        rows, self.pending = self.pending, []
        if rows:
            try:
                self.data.append(rows)
            except InputError as error:
                kept = len(self.data.done)
                problem = f"{error.problem}; {kept:,} rows are kept, {len(rows):,} that were not written are lost, "
                raise InputError(problem + "and the same command goes on", file=error.file, place=error.place,
                                 allowed=error.allowed) from None  # fmt: skip
            self.simulated += len(rows)
            self.flushed = time.monotonic()

    def counts(self) -> Counts:
        mine = [self.hashes[point.index] for point in self.plan.points]
        distinct = set(mine)
        by_status = [self.data.done[known] for known in distinct]
        return Counts(
            combinations=self.plan.grid.count,
            chosen=len(mine),
            alike=len(mine) - len(distinct),
            before=len(distinct) - self.simulated,
            simulated=self.simulated,
            ok=by_status.count(OK),
            invalid=by_status.count(INVALID),
            failed=by_status.count(FAILED),
            others=len(self.data.done) - len(distinct),
        )

    def table(self) -> pd.DataFrame:
        """The rows of the points, in the file's order."""
        rows = read_rows(self.data.folder).set_index("hash", drop=False)
        wanted = [self.hashes[point.index] for point in self.plan.points]
        return rows.loc[wanted].reset_index(drop=True)


def _nothing() -> None:
    pass


def _flat(row: Mapping[str, Any], kinds: Mapping[str, str], program: str) -> dict[str, Any]:
    """A worker's row in the data set's columns."""
    flat: dict[str, Any] = {name: row.get(name) for name in ("hash", "status", "reason", SCENARIO)}
    for path, kind in kinds.items():
        value = row["values"][path]
        flat[path] = number_of(value) if kind == NUMBER else text_of(value)
    flat |= row.get("metrics", {})
    for key, ends in row.get("intervals", {}).items():
        name = key if key == "kernel_time" else f"interval_{key}"
        if ends is not None:
            flat[f"{name}.low"], flat[f"{name}.high"] = ends
    return flat | {"timed_by": row.get("timed_by", ""), "notes": row.get("notes", ""),
                   "wall_s": row.get("wall_s"), "program": program}  # fmt: skip


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
    from simulator.sweeping.dataset import known_hashes
    from simulator.sweeping.draw import shuffled

    plan = plan_sweep(spec, sets, limit)
    grid, program = plan.grid, program_hash()
    folder = Path(out) if out is not None else default_folder(plan.file)
    done = known_hashes(folder)
    left = plan.points
    if done:
        found = dict(identify(grid.bases, plan.points, grid.folder, program))
        left = [point for point in plan.points if found[point.index] not in done]
    ordered = grid.cheap_order(left)
    number = workers or default_workers()
    walls: list[float] = []
    until = time.monotonic() + seconds
    for i in range(len(ordered)):
        at = shuffled(i, len(ordered), 0)
        # With its neighbour before it, as in a batch, where both may share what is compiled.
        rows = simulate_batch(grid.bases, ordered[max(at - 1, 0) : at + 1], grid.folder, program)
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
