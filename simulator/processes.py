"""A pool of worker processes that never outlives the process that made it.

The executor of the standard library leaves its workers waiting for ever when their parent is killed: each holds both
ends of the queue that it reads from. So every worker looks, once a second, whether its parent is still there.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import Any

LOOKS_S = 1.0
"""Seconds between two looks for the parent."""


def process_pool(
    processes: int,
    *,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
    context: BaseContext | None = None,
) -> ProcessPoolExecutor:
    """An executor of so many processes; the arguments are those of `ProcessPoolExecutor`."""
    return ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(os.getpid(), initializer, initargs)
    )


def _begin(parent: int, initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    """A worker's beginning: signals are its parent's business, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOKS_S)
    os._exit(1)
