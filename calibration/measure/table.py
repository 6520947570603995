"""The folder that measurements are kept in: tables of CSV, appended row by row, that survive a kill at any moment.

A row is one write that ends in a newline, and is on the disk before the next task begins. A line that a crash left
incomplete is cut off when the folder is opened again, with a word on stderr. A lock keeps a second session out.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

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


def line_of(values: Iterable[object]) -> str:
    """One line of CSV; line ends inside a value become spaces."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(" ".join(str(value).split()) for value in values)
    return text.getvalue()


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
        self._lock = self._take()
        try:
            self.done: set[str] = set()
            self.failed: set[str] = set()
            for table in SHAPES:
                for file in sorted(self.path.glob(f"{table}.csv")) + sorted(self.path.glob(f"{table}-*.csv")):
                    self._read(table, file)
            self._read_failures(self.path / "failures.csv")
            self.run = self._runs(self.path / MACHINES)
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, kind: type | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        (self.path / LOCK).unlink(missing_ok=True)
        os.close(self._lock)

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Note a new run in `machine.jsonl`; its number goes into the rows from now on."""
        self.run += 1
        _append(self.path / MACHINES, json.dumps({"run": self.run, "date": now(), "gpu": self.gpu, **facts}) + "\n")

    def add(self, task: Task, values: Mapping[str, Any]) -> None:
        """Append a measured row: on the disk when this returns. Raises ValueError for a column it does not know."""
        columns = header(task.table)
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
            except OSError:
                holder = os.read(handle, 64).decode(errors="replace").strip() or "?"
                os.close(handle)
                raise InputError(
                    f"process {holder} is measuring into this folder", file=self.path, allowed="one at a time"
                ) from None
            if file.exists() and os.fstat(handle).st_ino == file.stat().st_ino:
                break
            os.close(handle)  # the one who had it took the file away in between
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        return handle

    def _read(self, table: str, file: Path) -> None:
        columns = header(table)
        for number, row in _rows(file, columns):
            if row["gpu"] != self.gpu:
                raise InputError(
                    "the folder holds measurements of another GPU", file=file, line=number, found=row["gpu"],
                    allowed=f"{self.gpu}, or another folder (--out)",
                )  # fmt: skip
            if row["latency_us"]:
                self.done.add(key_of(file.stem, row["kernel"], table, row))

    def _read_failures(self, file: Path) -> None:
        for number, row in _rows(file, FAILURES):
            try:
                shape = json.loads(row["row"])
                self.failed.add(key_of(row["file"], row["kernel"], row["table"], shape))
            except (ValueError, KeyError, TypeError):
                raise InputError("not a failure as it is written", file=file, line=number, found=row) from None

    def _runs(self, file: Path) -> int:
        repair(file)
        if not file.exists():
            return 0
        return sum(1 for line in file.read_text(errors="replace").splitlines() if line.strip())


def repair(file: Path, columns: int | None = None) -> None:
    """Cut off a last line that is not complete: no newline at its end, or not as many cells as `columns`."""
    if not file.exists():
        return
    content = file.read_bytes()
    kept = content[: content.rfind(b"\n") + 1]
    if columns is not None and kept:
        last = kept[kept.rfind(b"\n", 0, len(kept) - 1) + 1 :]
        if b"\0" in last or len(next(csv.reader([last.decode(errors="replace")]), [])) != columns:
            # the first line is the header: whether it is the right one is not decided here
            kept = kept[: len(kept) - len(last)] if len(last) < len(kept) else kept
    if len(kept) == len(content):
        return
    torn = content[len(kept) :].decode(errors="replace").strip()
    print(f"{file}: the last line was incomplete and has been cut off: {torn[:120]!r}", file=sys.stderr)
    with open(file, "r+b") as stream:
        stream.truncate(len(kept))
        os.fsync(stream.fileno())


def _rows(file: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of a table after its repair. Raises InputError for another header or a line that is off."""
    repair(file, len(columns))
    if not file.exists():
        return []
    found: list[tuple[int, dict[str, str]]] = []
    with open(file, newline="", errors="replace") as stream:
        for number, cells in enumerate(csv.reader(stream), start=1):
            if number == 1:
                if tuple(cells) != columns:
                    raise InputError(
                        "the header is not the one that is written here", file=file, line=1, found=",".join(cells),
                        allowed=",".join(columns),
                    )  # fmt: skip
            elif len(cells) != len(columns):
                raise InputError(f"{len(cells)} cells, the header has {len(columns)}", file=file, line=number)
            else:
                found.append((number, dict(zip(columns, cells, strict=True))))
    return found


def _append(file: Path, text: str) -> None:
    """One write at the end, on the disk when this returns."""
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        data = text.encode()
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    finally:
        os.close(handle)
