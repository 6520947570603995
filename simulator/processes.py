"""A pool of worker processes that neither outlives the process that made it nor makes an interrupted one wait.

The executor of the standard library leaves its workers waiting for ever when their parent is killed: each holds both
ends of the queue that it reads from. So every worker looks, once a second, whether its parent is still there. And where
the work ends by an exception, Ctrl-C among them, workers are ended in the middle of what they do.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Any

LOOKS_S = 1.0
"""Seconds between two looks for the parent."""


class ProcessPool(ProcessPoolExecutor):
    """An executor whose workers end at once where its `with` block ends by an exception."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_pool(self, at_once=kind is not None)


def end_pool(pool: ProcessPoolExecutor, *, at_once: bool) -> None:
    """End a pool and its workers: when they are done, or in the middle of what they do."""
    if at_once:
        for process in list((pool._processes or {}).values()):
            process.terminate()
    pool.shutdown(wait=True, cancel_futures=at_once)


def process_pool(
    processes: int, *, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> ProcessPool:
    """A pool of so many processes; the other arguments are those of `ProcessPoolExecutor`.

    Workers are forked where that is possible: they have the modules and what was compiled already. A server that forks
    for others would not do, since a worker has to be its maker's child.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    return ProcessPool(processes, mp_context=context, initializer=_begin, initargs=(os.getpid(), initializer, initargs))


def _begin(parent: int, initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    """A worker's beginning: an interrupt is its parent's business, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOKS_S)
    os._exit(1)
