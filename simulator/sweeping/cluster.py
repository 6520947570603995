"""Where a sweep's batches are computed: a Dask cluster of this machine's processes, or one that runs already."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError
from simulator.sweeping.work import PROGRAM, running_program

if TYPE_CHECKING:
    from distributed import Client

TIMEOUT = 10.0
"""Seconds within which a scheduler, and its first worker, have to answer."""
_SETTINGS: dict[str, Any] = {
    # A batch whose worker died comes back at once: `drive` decides what is tried again, and how.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.profile.enabled": False,
    # A row is at most a few kilobytes; what grows is the simulation itself, which cannot be spilled.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # Imports once, and a worker that starts, or starts again, has them.
    "distributed.worker.multiprocessing-method": "forkserver",
}
_ADDRESS = re.compile(r"(tcp|tls|ws|wss)://[^\s/]+:\d{1,5}")
_IMPORTED = ["distributed", "simulator.sweeping.work"]


@contextmanager
def local_cluster(workers: int) -> Iterator[Client]:
    """A client of so many worker processes on this machine, bound to 127.0.0.1, which end with this process."""
    import dask
    from distributed import Client, LocalCluster
    from distributed.utils import get_mp_context

    with dask.config.set(_SETTINGS), _quiet():
        get_mp_context().set_forkserver_preload(_IMPORTED)
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                # Its HTTP port is any that is free, and the usual one left to others.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                silence_logs=logging.CRITICAL,
            )
        except RuntimeError as error:
            allowed = "in a script, a sweep behind `if __name__ == '__main__':`, since workers import the script"
            raise InputError(f"the workers did not start ({error})", place="workers", allowed=allowed) from None
        client = None
        try:
            client = Client(cluster, set_as_default=False)
            yield client
        finally:
            if client is not None:
                client.close(timeout=2)
            cluster.close(timeout=5)


@contextmanager
def existing_cluster(address: str, timeout: float = TIMEOUT) -> Iterator[Client]:
    """A client of a scheduler that runs already.

    Raises
    ------
    InputError : not an address, no answer within `timeout` seconds, no workers, or workers with another program.
    """
    from distributed import Client

    def fail(problem: str, allowed: str) -> InputError:
        return InputError(problem, place="--scheduler", found=address, allowed=allowed)

    if re.fullmatch(r"[\w.-]+:\d+", address):
        address = f"tcp://{address}"
    if not _ADDRESS.fullmatch(address):
        raise fail("not the address of a scheduler", "such as tcp://10.0.0.1:8786")
    with _quiet():
        try:
            _call(address, timeout)
            client = Client(address, timeout=timeout, set_as_default=False)
        except (OSError, TimeoutError):
            raise fail(f"no answer within {timeout:g} s", "the address of a running `dask scheduler`") from None
        except Exception:  # whatever comes of reading what something else has said
            raise fail("what answers is no Dask scheduler", "the address of a running `dask scheduler`") from None
        try:
            _check_workers(client, timeout, fail)
            yield client
        finally:
            client.close(timeout=2)


def _call(address: str, timeout: float) -> None:
    """Ask a scheduler who it is. A client would wait for ever where something listens that is none, and says nothing.

    Raises
    ------
    OSError, TimeoutError : no answer.
    """
    from distributed.core import connect
    from distributed.security import Security

    async def ask() -> None:
        comm = await connect(address, timeout=timeout, **Security().get_connection_args("client"))
        try:
            await comm.write({"op": "identity", "reply": True})
            await comm.read()
        finally:
            comm.abort()

    # In a thread, since a notebook has a loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, asyncio.wait_for(ask(), timeout)).result()


def _check_workers(client: Client, timeout: float, fail: Any) -> None:
    try:
        client.wait_for_workers(1, timeout=timeout)
    except TimeoutError:
        raise fail("the scheduler has no workers", "start some: `dask worker ADDRESS`") from None
    try:
        programs = client.run(running_program)
    except Exception as error:
        problem = f"a worker cannot import kinesim ({type(error).__name__}: {error})"
        raise fail(problem, "workers with the same version of kinesim installed") from None
    for worker, program in programs.items():
        if program != PROGRAM:
            problem = f"worker {worker} has another version of kinesim"
            raise fail(problem, "workers with the same version as this command") from None


def threads(client: Client) -> int:
    """How many batches the cluster can work on at a time; 0 while its workers are dead."""
    return sum(client.nthreads().values())


def default_workers() -> int:
    """As many as this process may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Dask's own messages: a worker that died, or a connection that ended, is the sweep's to tell."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    spoke = [logger for logger in loggers if not logger.disabled]
    for logger in spoke:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in spoke:
            logger.disabled = False
