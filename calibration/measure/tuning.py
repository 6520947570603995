"""Which of a kernel's configurations is the fastest for a shape: each is tried quickly, the best are measured."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from calibration.kernels.base import Config, Kernel, Launch, Room, Row
from calibration.measure.timing import FULL, QUICK, Effort, Timer, Timing, Work

TUNING_COPIES = 64
"""Copies used in a quick trial, at most."""
CLOSE = 1.03
"""Configurations within this factor of the best in the quick trial are all measured in full."""
HOPELESS = 3.0
"""A configuration whose single run takes so many times the best one's is not tried further."""
LONG = 0.01
"""Seconds of a single run after which a quick trial needs no repetition."""

Built = Sequence[Sequence[Launch]]
"""The launches of each copy."""
Launches = Callable[[int, Config], Sequence[Launch]]


class Failure(Exception):
    """A task that cannot be measured, in words that the table of failures shows."""


class DeviceLost(Failure):
    """The GPU's context is unusable: only a new process helps."""


class Flush(NamedTuple):
    """A launch that reads so much that nothing else is left in L2, and the seconds that it takes."""

    launch: Launch
    seconds: float


def rotation(built: Built, flush: Flush | None = None) -> Work:
    """Every copy's launches in turn, after a flush if there is one."""
    launches = [launch for copy in built for launch in copy]

    def run() -> None:
        if flush is not None:
            flush.launch.run()
        for launch in launches:
            launch.run()

    extra = flush is not None
    return Work(run, max(1, len(built)), len(launches) + extra, flush.seconds if flush is not None else 0.0)


def in_words(problem: BaseException) -> str:
    """The kind of an exception and the first line of what it says; without the kind where it is a `Failure`."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return text if isinstance(problem, Failure) else f"{type(problem).__name__}: {text}"[:300]


def alive(problem: Exception, device: str) -> str:
    """The problem in words. Raises DeviceLost where the device does not answer any more."""
    if isinstance(problem, DeviceLost):
        raise problem
    if device == "cuda":
        try:
            torch.cuda.synchronize()
        except Exception as lost:
            raise DeviceLost(f"the GPU's context is lost: {in_words(lost)}; first: {in_words(problem)}") from problem
    return in_words(problem)


@contextmanager
def failures(device: str) -> Iterator[None]:
    """Turn whatever goes wrong into a Failure, or DeviceLost."""
    try:
        yield
    except Failure:
        raise
    except torch.OutOfMemoryError as problem:
        raise Failure(f"out of memory: {alive(problem, device)}") from problem
    except Exception as problem:
        raise Failure(alive(problem, device)) from problem


def shape_key(kernel: Kernel, row: Row) -> str:
    return f"{kernel.name} {sorted(row.items())}"


def config_key(kernel: Kernel, config: Config) -> str:
    """How a configuration that does not compile is named between the processes."""
    return f"{kernel.name}: {config}"


@dataclass
class Tuner:
    """Chooses configurations, and remembers the choice of a shape.

    `device` is `cuda` or `cpu`. `trying` is told what runs next: whoever supervises knows then what it was that killed
    this process, or hangs.
    """

    timer: Timer
    device: str
    trying: Callable[[str], None] = lambda what: None
    chosen: dict[str, Config] = field(default_factory=dict)

    def best(
        self,
        kernel: Kernel,
        row: Row,
        room: Room,
        launches: Launches,
        work: Callable[[Built], Work],
        *,
        skip: Mapping[str, str],
        check: Callable[[Config], None] | None = None,
        effort: Effort = FULL,
    ) -> tuple[Timing, Config]:
        """The fastest configuration that computes right, and its timing.

        Parameters
        ----------
        work : the launches of some copies as work (a rotation, with or without a flush).
        skip : `config_key` -> why that configuration is not to be tried (it does not compile).
        check : raises for a configuration that computes wrong; called before the configuration is measured.

        Raises Failure if no configuration is left; DeviceLost.
        """
        known = self.chosen.get(shape_key(kernel, row))
        tries = [known] if known is not None else list(kernel.configs(row, room))
        problems = [f"{c}: {skip[config_key(kernel, c)]}" for c in tries if config_key(kernel, c) in skip]
        usable = [config for config in tries if config_key(kernel, config) not in skip]
        trials: list[tuple[float, Config]] = []
        for config in usable:
            try:
                self.trying(config_key(kernel, config))
                quickest = min((seconds for seconds, _ in trials), default=math.inf)
                trials.append((self.trial(config, room, launches, work, len(usable) > 1, quickest), config))
            except Exception as problem:
                problems.append(f"{config}: {alive(problem, self.device)}")
        best: tuple[Timing, Config] | None = None
        trials.sort(key=lambda trial: trial[0])
        for seconds, config in trials:
            if best is not None and seconds > CLOSE * trials[0][0]:
                break
            try:
                self.trying(config_key(kernel, config))
                if check is not None:
                    check(config)
                built = [list(launches(copy, config)) for copy in range(room.copies)]
                timing = self.timer.graph(work(built), effort)
            except Exception as problem:
                problems.append(f"{config}: {alive(problem, self.device)}")
                continue
            if best is None or timing.seconds < best[0].seconds:
                best = timing, config
        tell(f"{kernel.name} {dict(row)}: {problem}" for problem in problems)
        if best is None:
            shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
            raise Failure(f"no configuration works: {shown}")
        self.chosen[shape_key(kernel, row)] = best[1]
        return best

    def trial(
        self,
        config: Config,
        room: Room,
        launches: Launches,
        work: Callable[[Built], Work],
        several: bool,
        quickest: float,
    ) -> float:
        """Seconds of one execution, roughly; 0 where there is nothing to choose from. Raises what the launch raises."""
        built = [list(launches(copy, config)) for copy in range(min(room.copies, TUNING_COPIES))]
        alone = rotation(built[:1])
        alone.run()
        if not several:
            return 0.0
        once = self.timer.once(alone)
        if once > LONG or once > HOPELESS * max(quickest, 1e-3):
            return once
        return self.timer.graph(work(built), QUICK).seconds


def tell(lines: Iterable[Any]) -> None:
    """To the log (standard error)."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)
