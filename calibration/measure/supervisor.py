"""The supervision of the workers of a session: who works on what, what has died or hangs, when it is over."""

from __future__ import annotations

import os
import queue
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from calibration.measure.folder import Folder
from calibration.measure.processes import Event, Worker
from calibration.measure.summary import Report, Summary
from calibration.measure.task import Task
from hwspecs.errors import InputError

SPARE_CORES = 2
"""Cores that do not compile: for the measuring worker and its session."""
MOST_COMPILERS = 24
NICE = 10
"""Of the compiling processes: the one that measures goes first."""
MOST_CRASHES = 3
"""Tasks that may fail one after the other by ending their worker."""
MOST_ENDS = 8
"""Workers that may end without a row in between, each blamed on a configuration."""
START_SECONDS = 300.0
COMPILE_SECONDS = 300.0
TASK_SECONDS, PART_SECONDS = 60.0, 20.0
"""That a task may take, and one configuration of it, besides ten times the estimate."""
GRACE = 20.0
"""Seconds that a task in hand may go on after the limit."""
LEAST_SECONDS = 0.2
"""With less time left no further task is begun."""
POLL = 0.2


def of_the_host(task: Task) -> bool:
    """Whether it is the host's speed that is measured: to be done when no other process works."""
    return task.table == "launch" and task.row["mode"] == "stream"


class Supervisor:
    """The state while it runs: what is pending, compiled, in hand."""

    def __init__(
        self,
        kept: Folder,
        wanted: Sequence[Task],
        summary: Summary,
        begun: float,
        limit: float | None,
        report: Report,
    ) -> None:
        self.kept, self.summary, self.begun, self.report = kept, summary, begun, report
        self.end = begun + limit if limit is not None else float("inf")
        self.pending = {task.key: task for task in wanted}
        self.total = len(wanted)
        self.to_compile = list(reversed(wanted))
        self.skip: dict[str, Mapping[str, str]] = {}
        self.deadly: dict[str, str] = {}
        self.events: queue.Queue[Event] = queue.Queue()
        self.compilers: list[Worker] = []
        self.worker: Worker | None = None
        self.crashes = self.ends = 0
        self.signals = 0
        self.spent = self.estimated = 0.0

    # --- starting and ending

    def prepare(
        self,
        device: str,
        seed: int,
        facts: Mapping[str, Any],
        compilers: int | None,
        worker_command: Sequence[str] | None,
        log: Path | None,
    ) -> None:
        """Say which processes there will be."""
        module = (sys.executable, "-m", "calibration.measure.worker")
        self.command = list(worker_command or (*module, "--device", device, "--seed", str(seed)))
        self.compile_command = [*module, "--compile", "--capability", str(facts["capability"])]
        self.compile_command += ["--sms", str(facts["sms"])]
        self.log = log
        if compilers is None:
            spare = len(os.sched_getaffinity(0)) - SPARE_CORES if device == "cuda" else 0
            compilers = max(0, min(spare, MOST_COMPILERS, len(self.pending)))
        self.ahead = compilers

    def _measurer(self) -> Worker:
        worker = Worker(self.command, self.events, {}, self.log)
        worker.due = time.monotonic() + START_SECONDS
        return worker

    def _compiler(self) -> Worker:
        # it must not see the GPU: a context would take memory, and look like another process
        worker = Worker(self.compile_command, self.events, {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, worker.pid, NICE)
        worker.due = time.monotonic() + START_SECONDS
        return worker

    def run(self) -> None:
        """Until all is measured, the time is spent, or somebody stops it."""
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for number in tuple(handlers):
                with suppress(ValueError):  # not in the main thread: then nobody sends a signal here
                    signal.signal(number, self._signal)
            with suppress(ValueError):  # writing to a worker that has just died is no reason to end
                handlers[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            self.worker = self._measurer()
            self.compilers = [self._compiler() for _ in range(self.ahead)]
            while not self._over():
                self._give()
                with suppress(queue.Empty):
                    self._handle(self.events.get(timeout=POLL))
                self._overdue()
        finally:
            for number, handler in handlers.items():
                with suppress(ValueError):
                    signal.signal(number, handler)
            for worker in [self.worker, *self.compilers]:
                if worker is not None and not worker.ended:
                    worker.kill() if worker.task is not None or worker is not self.worker else worker.end(5.0)
        if self.summary.ended != "finished" and self.pending:
            said = f"{self.summary.message}; " if self.summary.message else ""
            self.summary.message = f"{said}the same command goes on where this one ended ({self.kept.path})"

    def _signal(self, number: int, frame: object) -> None:
        self.signals += 1
        if self.signals == 1:
            self.report("stopping after the row in hand; once more to stop at once", False)

    def _over(self) -> bool:
        busy = self.worker is not None and self.worker.task is not None
        if self.signals:
            self.summary.ended = "interrupted"
            return not busy or self.signals > 1
        if self.crashes >= MOST_CRASHES or self.ends >= MOST_ENDS:
            self.summary.ended = "crashes"
            return True
        if not self.pending:
            return True
        left = self.end - time.monotonic()
        if left <= (-GRACE if busy else LEAST_SECONDS):
            self.summary.ended = "limit"
            return True
        if not busy and left < float("inf") and self._next(any_compiled=True) is None:
            self.summary.ended = "limit"
            return True
        return False

    # --- giving

    def _next(self, any_compiled: bool = False) -> Task | None:
        """The first task in the plan's order that is compiled and fits into the time that is left."""
        left = self.end - time.monotonic()
        pace = self.spent / self.estimated if self.estimated > 5.0 else 1.0
        for key, task in self.pending.items():
            ready = (
                any_compiled or not self.compilers or (key in self.skip and (not of_the_host(task) or self._quiet()))
            )
            if ready and task.seconds * pace <= left:
                return task
        return None

    def _give(self) -> None:
        if self.worker is None:
            self.worker = self._measurer()
        if self.worker.ready and self.worker.task is None and not self.signals:
            task = self._next()
            if task is not None:
                known = {**self.deadly, **self.skip.get(task.key, {})}
                self.worker.give(task, known, TASK_SECONDS + self._patience(task))
                self._progress(task)
        for compiler in self.compilers:
            if compiler.ready and compiler.task is None:
                task = self._to_compile()
                if task is not None:
                    compiler.give(task, {}, COMPILE_SECONDS)

    def _quiet(self) -> bool:
        """Whether nothing is compiled any more."""
        return not self.to_compile and all(compiler.task is None for compiler in self.compilers)

    def _patience(self, task: Task) -> float:
        """Seconds that a task may take besides the fixed ones, so that a kernel that hangs is found out."""
        return 10 * task.seconds + (0 if self.compilers else COMPILE_SECONDS)

    def _to_compile(self) -> Task | None:
        while self.to_compile:
            task = self.to_compile.pop()
            if task.key in self.pending:
                return task
        return None

    def _progress(self, task: Task) -> None:
        left = self.end - time.monotonic()
        clock = f", {left / 60:.0f} min left" if left < float("inf") else ""
        shape = " ".join(f"{value}" for value in task.row.values())
        self.report(f"{self.total - len(self.pending) + 1}/{self.total}{clock}: {task.file} {shape}", True)

    # --- what workers say

    def _handle(self, event: Event) -> None:
        worker, message = event
        if message is None:
            worker.ended = True
            self._died(worker)
        elif "ready" in message:
            worker.ready = True
        elif "refused" in message:
            if worker is self.worker:
                raise InputError(f"the measuring worker cannot start: {message['refused']}")
        elif "trying" in message:
            if worker.task is not None:
                worker.trying = message["trying"]
                since = max(worker.begun + TASK_SECONDS, time.monotonic() + PART_SECONDS)
                worker.due = since + self._patience(worker.task)
        elif worker.task is not None and message.get("key") == worker.task.key:
            task, worker.task = worker.task, None
            if worker is self.worker:
                self._answer(worker, task, message)
            else:
                self.skip[task.key] = message.get("skip") or {}

    def _answer(self, worker: Worker, task: Task, message: Mapping[str, Any]) -> None:
        if message.get("lost"):
            self._ended(worker, task, str(message.get("failure")))
            return
        self.crashes = self.ends = 0
        self.spent += float(message.get("seconds", 0.0))
        self.estimated += task.seconds
        if not message.get("ok"):
            self._failed(task, str(message.get("failure", "no reason given")))
            return
        try:
            self.kept.add(task, message["values"])
        except ValueError as problem:
            self._failed(task, str(problem))
            return
        self.pending.pop(task.key, None)
        self.summary.measured[task.file] += 1

    def _failed(self, task: Task, what: str) -> None:
        self.kept.fail(task, what)
        self.pending.pop(task.key, None)
        self.summary.failed[task.file] += 1
        shape = " ".join(f"{name}={value}" for name, value in task.row.items())
        self.report(f"{task.file} {shape}: {what}", False)

    def _ended(self, worker: Worker, task: Task | None, why: str) -> None:
        """Have done with the measuring worker; another one is started for the next task.

        What it was trying (a configuration, a baseline) is not tried again in this session, and the task is done again
        without it. Where nothing is known to blame, the task has failed.
        """
        worker.ended = True
        worker.kill()
        self.worker = None
        self.ends += 1
        if task is not None and worker.trying and worker.trying not in self.deadly:
            self.deadly[worker.trying] = why
            self.report(f"left out from now on: {worker.trying}: {why}", False)
        elif task is not None:
            self.crashes += 1
            self._failed(task, why)
        if self.crashes >= MOST_CRASHES or self.ends >= MOST_ENDS:
            self.summary.message = f"{self.ends} workers in a row have ended without a row, the last one so: {why}"

    def _died(self, worker: Worker) -> None:
        task, worker.task = worker.task, None
        if worker is self.worker:
            if not worker.ready:
                raise InputError(f"the measuring worker does not start: {worker.why()}")
            self._ended(worker, task, f"the worker died: {worker.why()}")
        elif worker in self.compilers:
            self.compilers.remove(worker)
            if task is not None:
                self._failed(task, f"the compiler died: {worker.why()}")
                self.compilers.append(self._compiler())
            elif not self.compilers:
                self.report(f"nothing is compiled ahead any more: {worker.why()}", False)

    def _overdue(self) -> None:
        """End what takes too long."""
        now = time.monotonic()
        for worker in [self.worker, *self.compilers]:
            if worker is None or now < worker.due or (worker.ready and worker.task is None):
                continue
            task, worker.task = worker.task, None
            if worker is self.worker and not worker.ready:
                raise InputError(f"the measuring worker has not started in {START_SECONDS:.0f} s: {worker.said()}")
            why = f"took longer than {now - worker.begun:.0f} s and was stopped"
            if worker is self.worker:
                self._ended(worker, task, why)
            else:
                if task is not None and task.key in self.pending:
                    self._failed(task, f"to compile it {why}")
                self.compilers.remove(worker)
                worker.ended = True
                worker.kill()
                if worker.ready:
                    self.compilers.append(self._compiler())
