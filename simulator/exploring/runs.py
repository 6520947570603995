"""Whole simulations in the background: each in a process of its own, with progress, and an end.

A run belongs to the page that started it and asks about it. One that nobody has asked about for LOST seconds is ended;
browsers slow a hidden page's timers down to one a minute, so that is more. One that has ended keeps its report for the
page's link, until KEPT others have ended that were asked about later.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from hwspecs.errors import InputError
from simulator.exploring.state import write_query

LOST, MOST, KEPT = 150.0, 4, 16
"""Seconds without a question after which a run is given up; runs at a time; runs kept that have ended."""
EVERY = 0.1
"""Seconds between two messages of progress."""


@dataclass
class Run:
    """A simulation: `done` of `total` requests are final; then `found`, what `simulate` sent, or `problem`.

    `query` : the address of the state that is simulated.
    """

    query: str
    process: Any
    pipe: Connection
    started: float
    asked: float
    done: int = 0
    total: int = 0
    found: dict[str, Any] | None = None
    problem: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def running(self) -> bool:
        return self.found is None and self.problem is None

    def read(self) -> None:
        """Take what the process has sent."""
        with self.lock:
            try:
                while self.running and self.pipe.poll():
                    kind, *rest = self.pipe.recv()
                    if kind == "progress":
                        self.done, self.total = rest
                    elif kind == "found":
                        self.found = rest[0]
                    else:
                        self.problem = rest[0]
            except (EOFError, OSError):
                self.problem = self.problem or "the simulation ended without a result"

    def end(self) -> None:
        """End the process, whatever it does."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        with self.lock:
            self.pipe.close()
            self.problem = self.problem or "cancelled"


class Runs:
    """The simulations of all pages, by names that cannot be guessed.

    most : of them at a time. kept : that have ended.
    """

    def __init__(self, most: int = MOST, kept: int = KEPT) -> None:
        self._most, self._kept = most, kept
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()

    def start(self, scenario: Mapping[str, Any], moves: Mapping[str, str]) -> str:
        """Start simulating plain data of a scenario, that of these moves. Raises InputError if as many run as may."""
        self.sweep()
        with self._lock:
            for run in self._runs.values():
                run.read()
            busy = sum(run.running for run in self._runs.values())
            if busy >= self._most:
                raise InputError("enough simulations run already", found=busy, allowed=f"{self._most}; cancel one")
            context = multiprocessing.get_context("spawn")  # the server has threads, which a fork would not survive
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=simulate, args=(dict(scenario), theirs), daemon=True)
            process.start()
            theirs.close()
            name, now = secrets.token_urlsafe(16), time.monotonic()
            self._runs[name] = Run(write_query(moves), process, ours, now, now)
            return name

    def ask(self, name: str) -> Run | None:
        """The run of that name, up to date; None if there is none (any more)."""
        self.sweep()
        run = self._runs.get(name)
        if run is not None:
            run.asked = time.monotonic()
            run.read()
        return run

    def cancel(self, name: str) -> None:
        """End a run and forget it."""
        with self._lock:
            run = self._runs.pop(name, None)
        if run is not None:
            run.end()

    def sweep(self) -> None:
        """End the runs that nobody asks about, and forget the oldest of those that have ended."""
        late, ended = time.monotonic() - LOST, []
        for name, run in list(self._runs.items()):
            run.read()
            if not run.running:
                ended.append((run.asked, name))
            elif run.asked < late:
                self.cancel(name)
        for _, name in sorted(ended)[: max(0, len(ended) - self._kept)]:
            self.cancel(name)

    def end(self) -> None:
        """End all of them."""
        for name in list(self._runs):
            self.cancel(name)


def _end_with_server() -> None:
    """End this process when the server is gone, also where it was killed and could not see to it."""
    server = multiprocessing.parent_process()
    if server is not None:
        server.join()
        os._exit(1)


def simulate(scenario: dict[str, Any], pipe: Connection) -> None:
    """Simulate, in a process of its own: sends `progress`, then `found` or `problem`."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's, which ends this process
    threading.Thread(target=_end_with_server, daemon=True).start()
    from simulator.headline import headline
    from simulator.reporting.report import report
    from simulator.running import run_scenario
    from workloads.scenario import load_scenario

    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            pipe.send(("progress", done, total))

    try:
        result = run_scenario(load_scenario(scenario), progress=progress)
        found = {
            "headline": headline(result.summary),
            "interval": result.summary["interval"],
            "notes": result.notes,
            "wall_s": result.timing["wall_s"],
            "report": report([result]).html,
        }
        pipe.send(("found", found))
    except InputError as error:
        pipe.send(("problem", error.message()))
    except BrokenPipeError:
        return
    except Exception as error:
        pipe.send(("problem", f"internal error: {type(error).__name__}: {error}; this is a bug in kinesim"))
