"""`kinesim sweep`: from a sweep file to a data set with a row for every scenario, whatever was there before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError
from simulator.sweeping.batches import run_batches
from simulator.sweeping.cluster import TIMEOUT, default_workers, existing_cluster, local_cluster
from simulator.sweeping.dataset import NUMBER, DataSet, read_rows
from simulator.sweeping.grid import SCENARIO, Point, text_of
from simulator.sweeping.plan import Plan, default_folder, plan_sweep
from simulator.sweeping.results import Counts, SweepResult
from simulator.sweeping.work import FAILED, INVALID, OK, PROGRAM, identify, resolve, simulate_batch
from simulator.varying.values import number_of

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

HERE = 300
"""Points that are looked up in this process: a cluster takes longer to start."""
FLUSH = 1.0
"""Seconds between parts of the data set; what came since is what a kill of this process loses."""
Progress = Callable[[int, int], None]


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
    workers : processes on this machine, as many as cores if left out. scheduler : the address of a Dask scheduler, in
        their place, which has `timeout` seconds to answer.
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
    program = PROGRAM
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
        name=plan.file.name,
        origin=plan.file.origin,
        folder=folder,
        program=program,
        paths=plan.grid.paths,
        keep=plan.keep,
        units=plan.grid.units,
        counts=counts,
        wall_s=wall,
        workers=number,
        table=table,
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
                problem = f"{error.problem}; {kept:,} rows are kept, and the same command goes on; {len(rows):,} more "
                problem += "were not written and will be simulated again"
                raise InputError(problem, file=error.file, place=error.place, allowed=error.allowed) from None
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
