"""Points to a cluster in batches, and rows back; what was in a batch whose worker died is tried again by itself."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError
from simulator.sweeping.cluster import threads
from simulator.sweeping.grid import Point

if TYPE_CHECKING:
    from distributed import Client, Future

SECONDS = 2.0
"""How long a batch should take: long beside the milliseconds of its way, short beside a sweep."""
LARGEST = 256
DEATHS = 3
"""Workers that may die over one scenario before it is given up."""
TICK = 0.5
DESERTED = 60.0
"""Seconds without a single worker after which no other is waited for."""


def run_batches(
    client: Client,
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
    points: Sequence[Point],
    take: Callable[[Sequence[Point], Any], None],
    give_up: Callable[[Point, str], None],
    tick: Callable[[], None],
) -> None:
    """Call `call(bases, batch, folder, program)` on the cluster for all `points`, in their order.

    Every worker has one batch at a time and none in waiting, so that a worker's death puts only that batch in doubt.

    Parameters
    ----------
    arguments : bases, folder, program. take : gets a batch and what came of it. give_up : gets a point whose workers
        died `DEATHS` times or whose task failed, and why. tick : called now and then, in this thread.

    Raises
    ------
    InputError : the scheduler is gone, all workers are for `DESERTED` seconds, or one runs another program.
    """
    from distributed import wait
    from distributed.client import FuturesCancelledError

    bases, folder, program = arguments
    waiting, suspects, alone = deque(points), deque[Point](), deque[Point]()
    deaths = Counter[int]()
    flying: dict[Future, tuple[list[Point], float]] = {}
    seen = time.monotonic()  # workers, that is
    each = SECONDS  # seconds a point, as far as known
    try:
        while waiting or suspects or alone or flying:
            slots = threads(client)
            seen = time.monotonic() if slots else seen
            if time.monotonic() - seen > DESERTED:
                raise _lost("all workers have")
            while len(flying) < slots and (waiting or suspects or (alone and not flying)):
                size = _size(each, len(waiting), slots) if waiting and not suspects else 1
                batch = [(suspects or waiting or alone).popleft() for _ in range(size)]
                future = client.submit(call, bases, batch, folder, program, pure=False)
                flying[future] = batch, time.monotonic()
            try:
                with client.as_current():
                    done = wait(list(flying), timeout=TICK, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                done = set()
            for future in done:
                batch, begun = flying.pop(future)
                if future.status == "finished":
                    each = 0.5 * each + 0.5 * (time.monotonic() - begun) / len(batch)
                    take(batch, future.result())
                elif future.status == "error":
                    error = future.exception()
                    if isinstance(error, InputError):  # the worker's own: that of a scenario is in its row
                        raise error
                    _again(batch, error, suspects, alone, deaths, give_up)
                else:
                    raise _lost("the scheduler has")
                future.release()
            tick()
    except (FuturesCancelledError, OSError):  # OSError: a connection that was closed
        raise _lost("the scheduler has") from None
    finally:
        if flying and client.status == "running":
            client.cancel(list(flying), force=True)


def _size(each: float, left: int, slots: int) -> int:
    """Points of the next batch: for `SECONDS`, and towards the end few enough that all workers end together."""
    return max(1, min(math.floor(SECONDS / max(each, 1e-6)), LARGEST, math.ceil(left / (2 * slots)), left))


def _again(
    batch: list[Point],
    error: BaseException | None,
    suspects: deque[Point],
    alone: deque[Point],
    deaths: Counter[int],
    give_up: Callable[[Point, str], None],
) -> None:
    """Put the points of a batch that failed back, or give the one up that it is made of.

    One whose worker died is tried again in the end and with nothing else on the cluster: so that what fell ill beside
    it, on a worker that had to take both, is not blamed.
    """
    from distributed.scheduler import KilledWorker

    if len(batch) > 1:
        suspects.extend(batch)
        return
    point = batch[0]
    killed = isinstance(error, KilledWorker)
    deaths[point.index] += 1
    if killed and deaths[point.index] < DEATHS:
        alone.append(point)
    elif killed:
        give_up(point, f"its worker died {DEATHS} times: killed from outside, or out of memory")
    else:
        give_up(point, f"internal error: {type(error).__name__}: {error}")


def _lost(who: str) -> InputError:
    problem = f"{who} gone away; what was written is kept, and the same command goes on"
    return InputError(problem, place="--scheduler", allowed="a cluster that runs until the sweep ends")
