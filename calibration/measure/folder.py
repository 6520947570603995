"""The folder that measurements are kept in: tables of CSV, appended row by row, that survive a kill at any moment.

A row is one write that ends in a newline, and is on the disk before the next task begins. A line that a crash left
incomplete is cut off when the folder is opened again, with a word on stderr. A lock keeps a second session out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from calibration.measure.tablefiles import files_of, keys_of, line_of, lines_of, repair, unusable
from calibration.measure.task import SHAPES, Task, header, key_of
from hwspecs.errors import InputError

SOFTWARE = "triton"
"""The column `software`: with which `kinesim calibrate fit` makes `<gpu>@triton`. Versions are in `machine.jsonl`."""
FAILURES = ("table", "kernel", "row", "file", "what", "run", "date")
MACHINES = "machine.jsonl"
LOCK = ".lock"


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Folder:
    """An open folder of measurements. A context manager: the lock is held until its end.

    Parameters
    ----------
    path : made where it does not exist. gpu : what the column `gpu` says.

    Raises
    ------
    InputError : another session has the folder, or a file in it is no table of this kind, or of another GPU.
    """

    def __init__(self, path: str | Path, gpu: str) -> None:
        self.path, self.gpu, self.run = Path(path), gpu, 0
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise InputError(f"cannot be made: {problem.strerror}", file=self.path) from None
        try:
            self._lock = self._take()
        except OSError as problem:
            raise unusable(problem, self.path / LOCK) from None
        try:
            self.done: set[str] = set()
            self.failed: set[str] = set()
            for table in SHAPES:
                for name in files_of(table):
                    file = self.path / f"{name}.csv"
                    _check_writable(file)
                    repair(file, header(table))
                    self.done |= keys_of(file, gpu, exact=True)
            for name in ("failures.csv", MACHINES):
                _check_writable(self.path / name)
            self._read_failures(self.path / "failures.csv")
            self.run = self._runs(self.path / MACHINES)
        except BaseException as problem:
            self._release()
            if isinstance(problem, OSError):
                raise unusable(problem, self.path) from None
            raise

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, kind: type | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self._release()

    def _release(self) -> None:
        with contextlib.suppress(OSError):  # where nothing can be written any more, that has been said already
            (self.path / LOCK).unlink(missing_ok=True)
        os.close(self._lock)

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Note a new run in `machine.jsonl`; its number goes into the rows from now on."""
        self.run += 1
        _append(self.path / MACHINES, json.dumps({"run": self.run, "date": now(), "gpu": self.gpu, **facts}) + "\n")

    def add(self, task: Task, values: Mapping[str, Any]) -> None:
        """Append a measured row: on the disk when this returns.

        Raises ValueError for a column that the table does not have and for a time that is none; OSError, with the
        file's name, where it cannot be written.
        """
        columns = header(task.table)
        if not _is_time(values.get("latency_us")):
            raise ValueError(f"latency_us = {values.get('latency_us')!r} is no time")
        if not _is_time(values.get("baseline_us")):  # what is taken off for a flush may leave nothing
            values = {**values, "baseline": "", "baseline_us": ""}
        if "attention_us" in values and not _is_time(values["attention_us"]):
            values = {**values, "attention_us": ""}
        row: dict[str, Any] = {"gpu": self.gpu, "software": SOFTWARE, "kernel": task.kernel, "l2": task.l2}
        row |= {name: task.row[name] for name in SHAPES[task.table]}
        row |= {**values, "run": self.run, "date": now()}
        unknown = sorted(set(row) - set(columns))
        if unknown:
            raise ValueError(f"no columns of {task.table}: {', '.join(unknown)}")
        self._write(self.path / f"{task.file}.csv", columns, [row.get(name, "") for name in columns])
        self.done.add(task.key)

    def fail(self, task: Task, what: str) -> None:
        """Append a failure, so that the task is not tried again unless that is asked for."""
        values = (task.table, task.kernel, json.dumps(dict(task.row)), task.file, what, self.run, now())
        self._write(self.path / "failures.csv", FAILURES, values)
        self.failed.add(task.key)

    def _write(self, file: Path, columns: Iterable[str], values: Iterable[object]) -> None:
        empty = not file.exists() or file.stat().st_size == 0
        _append(file, (line_of(columns) if empty else "") + line_of(values))

    def _take(self) -> int:
        """The lock: it ends with the process that has it, however that ends."""
        file = self.path / LOCK
        while True:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(handle, 64).decode(errors="replace").strip() or "?"
                os.close(handle)
                raise InputError(
                    f"process {holder} is measuring into this folder", file=self.path, allowed="one at a time"
                ) from None
            except OSError:  # such as a network's file system without locks
                os.close(handle)
                raise
            if file.exists() and os.fstat(handle).st_ino == file.stat().st_ino:
                break
            os.close(handle)  # the one who had it took the file away in between
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        return handle

    def _read_failures(self, file: Path) -> None:
        repair(file, FAILURES)
        for number, row in lines_of(file, FAILURES, exact=True):
            try:
                self.failed.add(key_of(row["file"], row["kernel"], row["table"], json.loads(row["row"])))
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    "not a failure as it is written", file=file, line=number, found=row["row"],
                    allowed="a table's row as JSON; or no such file: then what failed is tried again",
                ) from None  # fmt: skip

    def _runs(self, file: Path) -> int:
        repair(file)
        if not file.exists():
            return 0
        return sum(1 for line in file.read_text(errors="replace").splitlines() if line.strip())


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def _check_writable(file: Path) -> None:
    """OSError before anything is measured where it could not be appended to."""
    if file.exists() and not os.access(file, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))


def _append(file: Path, text: str) -> None:
    """One write at the end, on the disk when this returns. Raises OSError with the file's name; then the file is as it
    was.
    """
    try:
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            try:
                data = text.encode()
                while data:
                    data = data[os.write(handle, data) :]
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, str(file)) from None
