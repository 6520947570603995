"""A worker as its session sees it: a process, a line to write to, and a queue that its answers arrive in."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from calibration.measure.task import Task

ROOT = Path(__file__).resolve().parents[2]
TAIL = 2_000
"""Characters of the log that are looked at when a worker has died."""


class Event(NamedTuple):
    """What a worker said; `message` is None when it has ended."""

    worker: Worker
    message: Mapping[str, Any] | None


class Worker:
    """One process. Its answers, and its end, arrive in `events`; `log` is its stderr, appended to
    a file if one is given.

    Attributes
    ----------
    ready : whether it has said so. task : what it works on, since `begun` (time.monotonic), until `due`; trying : which
    part of it.
    """

    def __init__(
        self, command: Sequence[str], events: queue.Queue[Event], extra: Mapping[str, str], log: Path | None = None
    ) -> None:
        path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
        environment = {**os.environ, "PYTHONPATH": path, **extra}
        # open as long as the process is
        self._log = tempfile.TemporaryFile() if log is None else open(log, "a+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment
        )
        self._events = events
        self.ready = False
        self.ended = False
        self.task: Task | None = None
        self.trying = ""
        self.begun = self.due = time.monotonic()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict):
                self._events.put(Event(self, message))
        self._process.wait()
        self._events.put(Event(self, None))

    def give(self, task: Task, skip: Mapping[str, str], seconds: float) -> None:
        """Let it work on a task, for `seconds` at most. That it has died is told by the queue."""
        self.task, self.trying, self.begun = task, "", time.monotonic()
        self.due = self.begun + seconds
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            line = f'{{"task": {task.to_json()}, "skip": {json.dumps(dict(skip))}}}\n'
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    def end(self, patience: float) -> None:
        """Close its input, wait for `patience` seconds, and kill it if need be."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def why(self) -> str:
        """How it ended, with the last line of its log that says something."""
        code = self._process.poll()
        if code is None:
            how = "it runs"
        elif code < 0:
            names = {number.value: number.name for number in signal.Signals}
            how = f"it died of {names.get(-code, f'signal {-code}')}"
        else:
            how = f"it ended with exit code {code}"
        said = self.said()
        return f"{how}; last words: {said}" if said else how

    def said(self) -> str:
        """The last line of its log."""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - TAIL))
        lines = self._log.read().decode(errors="replace").splitlines()
        told = [line.strip() for line in lines if line.strip() and not line.startswith("---")]
        fatal = [line for line in told if line.startswith("Fatal")]
        return (fatal or told or [""])[-1][:300]
