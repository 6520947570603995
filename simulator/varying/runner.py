"""Simulations of one scenario that are asked for one after another: processes that stay, nothing simulated twice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from types import TracebackType

from simulator.processes import end_pool, process_pool
from simulator.varying.paths import ordered
from simulator.varying.points import Point, Progress, Spec, Task, plain_spec, run_point


class Runner:
    """Runs a scenario under settings. To be used in a `with` block, which ends its processes.

    Parameters
    ----------
    spec, sets : the scenario and assignments to it that every setting starts from. jobs : processes; as many as there
        are cores if left out. expected : simulations that a caller reckons with, which the progress starts from.

    Attributes
    ----------
    runs : simulations so far; a point with intervals is three.
    """

    def __init__(
        self,
        spec: Spec,
        sets: Sequence[str] = (),
        jobs: int | None = None,
        progress: Progress | None = None,
        expected: int = 0,
    ) -> None:
        self.spec, self.sets = plain_spec(spec), tuple(sets)
        self.jobs = jobs or os.cpu_count() or 1
        self.progress, self.expected, self.runs = progress, expected, 0
        self._pool: ProcessPoolExecutor | None = None
        self._known: dict[tuple[tuple[str, ...], bool], Point] = {}

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._pool is not None:
            end_pool(self._pool, at_once=kind is not None)

    def points(self, asked: Sequence[Sequence[str]], *, intervals: bool = False) -> list[Point]:
        """The scenario under each setting (assignments on top of the runner's own, as of `paths.ordered`), in order."""
        keys = [(ordered(self.sets, sets), intervals) for sets in asked]
        open_keys = [key for key in dict.fromkeys(keys) if self._find(key) is None]
        self.expected = max(self.expected, self.runs + sum(3 if more else 1 for _, more in open_keys))
        if self.jobs == 1 or (len(open_keys) == 1 and self._pool is None):
            for key in open_keys:
                self._take(key, run_point(Task(self.spec, *key)))
        elif open_keys:
            if self._pool is None:
                self._pool = process_pool(self.jobs)
            futures: dict[Future[Point], tuple[tuple[str, ...], bool]] = {
                self._pool.submit(run_point, Task(self.spec, *key)): key for key in open_keys
            }
            for future in as_completed(futures):
                self._take(futures[future], future.result())
        found = [self._find(key) for key in keys]
        assert all(point is not None for point in found)
        return [point for point in found if point is not None]

    def _find(self, key: tuple[tuple[str, ...], bool]) -> Point | None:
        """What is known of a setting; a point with intervals does for one without."""
        return self._known.get(key) or (None if key[1] else self._known.get((key[0], True)))

    def _take(self, key: tuple[tuple[str, ...], bool], point: Point) -> None:
        self._known[key] = point
        self.runs += 3 if key[1] and point.kernel_time is not None else 1
        if self.progress is not None:
            self.progress(self.runs, max(self.expected, self.runs))
