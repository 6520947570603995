"""How long work takes on a GPU: CUDA events around replays of a CUDA graph, until stable, median with spread.

A *rotation* executes the work once on every copy of its operands, so that what a step would read from HBM is not in
L2. A graph holds as many rotations as last about a millisecond; the events' resolution (half a microsecond) and the
start of the graph are then lost in it. Outliers are counted and kept: a median does not care.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

Watch = Callable[[], None]
MOST_NODES = 2_000
"""Launches in a graph: capturing one costs the host some 30 us."""
STABLE = 0.01
"""Warm-up ends when two medians in a row differ by no more."""
GROUP = 3
"""Replays of which the warm-up takes a median."""
LONG = 0.5
"""Seconds of replays that are enough: work of more than a seventh of it is repeated less often, thrice at least."""
HOST_SECONDS = 80e-6
"""No launch takes the host longer."""


@dataclass(frozen=True)
class Work:
    """What is timed.

    run : executes one rotation. executions, launches : in a rotation. uncounted : seconds of a rotation that are not
    the work's (a flush of L2).
    """

    run: Callable[[], None]
    executions: int = 1
    launches: int = 1
    uncounted: float = 0.0


@dataclass(frozen=True)
class Timing:
    """Seconds of one execution: median, 10th and 90th percentile of `reps` replays, `outliers` of them. `board` : what
    was read of the GPU meanwhile (columns of the tables).
    """

    seconds: float
    low: float
    high: float
    reps: int
    outliers: int
    board: Mapping[str, float | str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Effort:
    """How much is measured: seconds of work in a replay, replays at least and at most, seconds of replays at least
    (where `most` allows), and of warm-up at most; whether clocks and power are read meanwhile.
    """

    replay: float = 1e-3
    least: int = 7
    most: int = 100
    total: float = 15e-3
    warm_up: float = 0.3
    watched: bool = True


FULL = Effort()
BASELINE = Effort(least=5, total=8e-3, warm_up=0.1, watched=False)
QUICK = Effort(replay=2e-4, least=3, total=0.0, warm_up=0.0, watched=False)
"""For choosing between configurations."""


def percentile(values: Sequence[float], share: float) -> float:
    """Linear between the sorted values, share in [0, 1]."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def summarise(replays: Sequence[float], rotations: int, work: Work) -> Timing:
    """The timing of one execution from the seconds of whole replays.

    An outlier lies more than 1.5 interquartile ranges outside the quartiles (Tukey's fences).
    """
    low, high = percentile(replays, 0.25), percentile(replays, 0.75)
    fence = 1.5 * (high - low)
    outliers = sum(not low - fence <= seconds <= high + fence for seconds in replays)

    def one(seconds: float) -> float:
        return max(0.0, seconds / rotations - work.uncounted) / work.executions

    return Timing(
        one(statistics.median(replays)),
        one(percentile(replays, 0.1)),
        one(percentile(replays, 0.9)),
        len(replays),
        outliers,
    )


def rotations_for(seconds: float, work: Work, effort: Effort) -> int:
    """How many rotations a replay holds, when one takes `seconds`."""
    wanted = math.ceil(effort.replay / max(seconds, 1e-9))
    return max(1, min(wanted, MOST_NODES // max(1, work.launches)))


class Timer(Protocol):
    """Times work in a graph, or launched one by one on the stream. `rotations` fixes how many a replay holds."""

    def graph(self, work: Work, effort: Effort = FULL, rotations: int | None = None) -> Timing: ...

    def stream(self, work: Work, effort: Effort = FULL, rotations: int | None = None) -> Timing: ...

    def once(self, work: Work) -> float: ...


class _Common:
    """What the two timers share. `watch` is called again and again while replays that count are under way (it may
    read the clocks, which may take the driver milliseconds), `start` before them, `means` after them.
    """

    def __init__(
        self,
        watch: Watch = lambda: None,
        start: Watch = lambda: None,
        means: Callable[[], Mapping[str, float | str]] = dict,
    ) -> None:
        self._reads, self._start, self._means = watch, start, means
        self._watched = False

    def _watch(self) -> None:
        if self._watched:
            self._reads()

    def replays(self, replay: Callable[[], None], count: int) -> list[float]:
        raise NotImplementedError

    def once(self, work: Work) -> float:
        """Seconds of a rotation on the stream (the second of two): at most, for the host may be the slower one."""
        return self.replays(work.run, 1)[0]

    def stream(self, work: Work, effort: Effort = FULL, rotations: int | None = None) -> Timing:
        held = rotations if rotations is not None else rotations_for(self.once(work), work, effort)

        def replay() -> None:
            for _ in range(held):
                work.run()

        return self.measure(replay, held, work, effort)

    def measure(self, replay: Callable[[], None], rotations: int, work: Work, effort: Effort) -> Timing:
        """Warm up until stable, then measure."""
        end = time.monotonic() + effort.warm_up
        found = self.replays(replay, 1)
        group = GROUP if found[0] < LONG / 5 else 1
        while time.monotonic() < end:
            before = statistics.median(found)
            found = self.replays(replay, group)
            if abs(statistics.median(found) - before) <= STABLE * before:
                break
        typical = max(statistics.median(found), 1e-9)
        count = max(effort.least, min(effort.most, math.ceil(effort.total / typical)))
        count = max(3, min(count, math.floor(LONG / typical)))
        if effort.watched:
            self._start()
        self._watched = effort.watched
        try:
            timing = summarise(self.replays(replay, count), rotations, work)
            return dataclasses.replace(timing, board=self._means()) if effort.watched else timing
        finally:
            self._watched = False


class CudaTimer(_Common):
    """Times on the current CUDA stream, which must not be the default one (a graph cannot be captured there)."""

    def graph(self, work: Work, effort: Effort = FULL, rotations: int | None = None) -> Timing:
        """Raises what the capture raises, where the work cannot be captured; the stream is usable afterwards."""
        # It runs once at least before it is captured: kernels are loaded, workspaces made, and neither may be then.
        once = self.once(work)
        held, known = rotations or 1, rotations is not None
        if not known:  # so long that the graph need not be tried to see that it is
            known = once > effort.replay + HOST_SECONDS * work.launches
        graph = self.capture(work, held)
        try:
            if not known:
                held = rotations_for(statistics.median(self.replays(graph.replay, GROUP)), work, effort)
                if held > 1:
                    graph.reset()
                    graph = self.capture(work, held)
            return self.measure(graph.replay, held, work, effort)
        finally:
            torch.cuda.synchronize()
            graph.reset()

    def capture(self, work: Work, rotations: int) -> torch.cuda.CUDAGraph:
        """A graph of so many rotations."""
        graph = torch.cuda.CUDAGraph()
        collecting = gc.isenabled()
        gc.disable()  # a collection may free memory of the GPU, which is not allowed in a capture
        try:
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                for _ in range(rotations):
                    work.run()
            except BaseException:
                with contextlib.suppress(Exception):  # the first problem is the one to tell
                    graph.capture_end()
                raise
            graph.capture_end()
        finally:
            if collecting:
                gc.enable()
        return graph

    def replays(self, replay: Callable[[], None], count: int) -> list[float]:
        """Seconds of each of `count` replays. One more goes ahead: behind it the host is always the faster one."""
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        replay()
        events[0].record()
        for event in events[1:]:
            replay()
            event.record()
        self._watch()
        while not events[-1].query():
            self._watch()
            time.sleep(1e-4)
        return [before.elapsed_time(after) * 1e-3 for before, after in itertools.pairwise(events)]


class HostTimer(_Common):
    """The same on the host's clock, for kernels in the interpreter: its times mean nothing for a GPU."""

    def graph(self, work: Work, effort: Effort = FULL, rotations: int | None = None) -> Timing:
        return self.stream(work, effort, rotations)

    def replays(self, replay: Callable[[], None], count: int) -> list[float]:
        found = []
        for _ in range(count):
            begun = time.perf_counter()
            replay()
            found.append(time.perf_counter() - begun)
            self._watch()
        return found
