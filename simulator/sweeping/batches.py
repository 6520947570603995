"""Points to a cluster in batches, and what comes back; batches whose worker died are tried again one by one."""

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
    InputError : the scheduler is gone.
    """
    from distributed import wait
    from distributed.client import FuturesCancelledError

    bases, folder, program = arguments
    waiting, suspects, deaths = deque(points), deque[Point](), Counter[int]()
    flying: dict[Future, tuple[list[Point], float]] = {}
    each = SECONDS  # seconds a point, as far as known
    try:
        while waiting or suspects or flying:
            slots = threads(client)
            while len(flying) < slots and (waiting or suspects):
                size = 1 if suspects else _size(each, len(waiting), slots)
                batch = [(suspects or waiting).popleft() for _ in range(size)]
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
                    _again(batch, future.exception(), suspects, deaths, give_up)
                else:
                    raise _lost()
                future.release()
            tick()
    except (FuturesCancelledError, OSError):  # OSError: a connection that was closed
        raise _lost() from None
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
    deaths: Counter[int],
    give_up: Callable[[Point, str], None],
) -> None:
    """Put the points of a batch that failed back, or give the one up that it is made of."""
    from distributed.scheduler import KilledWorker

    if len(batch) > 1:
        suspects.extend(batch)
        return
    point = batch[0]
    killed = isinstance(error, KilledWorker)
    deaths[point.index] += 1
    if killed and deaths[point.index] < DEATHS:
        suspects.append(point)
    elif killed:
        give_up(point, f"its worker died {DEATHS} times: killed from outside, or out of memory")
    else:
        give_up(point, f"internal error: {type(error).__name__}: {error}")


def _lost() -> InputError:
    problem = "the scheduler has gone away; what was written is kept, and the same command goes on"
    return InputError(problem, place="--scheduler", allowed="one that runs until the sweep ends")
