"""The data set of a sweep: a folder of Parquet files, one row a scenario, that survives whatever happens to its writer.

    OUT/part-000001.parquet ...   rows, in files that are never changed once they are there
    OUT/_sweep.json               the columns, so that all parts have the same
    OUT/.lock                     held by the one process that writes

A part is written under another name, synchronised with the disk and renamed; so a reader, and a writer that comes after
a crash, see whole parts only. Files whose names begin with a dot or an underscore are left out by readers of Parquet
data sets (pandas, pyarrow, dask, DuckDB with a pattern).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError
from hwspecs.yamlfile import read_text
from simulator.files import check_writable
from simulator.headline import METRICS
from simulator.sweeping.work import ENDS

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SCHEMA = "kinesim-sweep-data/1"
TEXT, NUMBER = "text", "number"
FIRST = ("hash", "status", "reason", "scenario")
LAST = ("timed_by", "notes", "wall_s", "program")
INTERVALS = tuple(
    f"{key}.{end}" for key in ("kernel_time", *(f"interval_{name}" for name in ENDS)) for end in ("low", "high")
)
_PART = re.compile(r"part-(\d{6,})\.parquet")
_TEXTS = {*FIRST, "timed_by", "notes", "program"}


def columns_of(kinds: Mapping[str, str]) -> list[tuple[str, str]]:
    """Name and kind of every column; `kinds` : of the fields that are varied."""
    names = [*FIRST, *kinds, *METRICS, *INTERVALS, *LAST]
    return [(name, kinds.get(name, TEXT if name in _TEXTS else NUMBER)) for name in names]


class DataSet:
    """A sweep's data set, open for writing by this process alone; a context manager.

    Attributes
    ----------
    folder : where it is. done : hash -> status of every row that is there. kinds : of the fields that are varied.
    """

    def __init__(self, folder: Path, kinds: Mapping[str, str]) -> None:
        self.folder, self.kinds = folder, dict(kinds)
        self.done: dict[str, str] = {}
        self._lock: int | None = None
        self._next = 1

    def __enter__(self) -> DataSet:
        """Create or reopen it.

        Raises
        ------
        InputError : the folder cannot be written, holds something else or a sweep over other fields, is in use by
            another process, or a part is damaged.
        """
        check_writable(self.folder, ["_sweep.json"])
        foreign = [path.name for path in _entries(self.folder) if not _own(path.name)]
        if foreign:
            problem = "the folder holds other files"
            allowed = "an empty or a new folder, or that of the same sweep"
            raise InputError(problem, file=self.folder, place="--out", found=sorted(foreign)[0], allowed=allowed)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        except OSError as error:
            self.close()
            raise _unwritable(self.folder, error) from None
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        """The kernel lets go of it when the process ends, however that comes."""
        import fcntl

        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
            os.close(handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            problem = "another sweep is writing to this data set"
            allowed = "wait for it to end, or another --out"
            raise InputError(problem, file=self.folder, place="--out", found=holder or None, allowed=allowed) from None
        self._lock = handle
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _open(self) -> None:
        head = self.folder / "_sweep.json"
        parts = _parts(self.folder)
        for path in self.folder.glob(".part-*"):  # of a writer that did not live to rename it
            path.unlink(missing_ok=True)
        if head.exists():
            kinds = read_head(self.folder)
            if kinds != self.kinds:
                problem = "the data set is of a sweep over other fields"
                raise InputError(problem, file=self.folder, place="--out", found=_words(self.kinds),
                                 allowed=f"{_words(kinds)}; or another --out")  # fmt: skip
        elif parts:
            raise InputError("is missing beside the rows of a sweep", file=head, allowed="the folder as it was written")
        else:
            self._write(head.name, json.dumps({"schema": SCHEMA, "fields": self.kinds}, indent=1).encode())
        for number, path in parts:
            table = _read(path, ["hash", "status"])
            self.done.update(zip(table.column("hash").to_pylist(), table.column("status").to_pylist(), strict=True))
            self._next = number + 1

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows as one more part; they are on the disk when this returns. InputError, with nothing changed, if that
        cannot be done.
        """
        self._write(f"part-{self._next:06d}.parquet", _parquet(_table(rows, self.kinds)))
        self._next += 1
        self.done.update((row["hash"], row["status"]) for row in rows)

    def drop(self, hashes: Iterable[str]) -> None:
        """Take rows out, so that they are simulated again."""
        import pyarrow as pa
        import pyarrow.compute as pc

        gone = pa.array(sorted(set(hashes)), pa.string())
        for _, path in _parts(self.folder):
            table = _read(path, None)
            kept = table.filter(pc.invert(pc.is_in(table.column("hash"), gone)))
            if len(kept) == len(table):
                continue
            if len(kept):
                self._write(path.name, _parquet(kept))
            else:
                path.unlink()
        for each in gone.to_pylist():
            self.done.pop(each, None)

    def _write(self, name: str, content: bytes) -> None:
        temporary = self.folder / f".part-{name}"
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.folder / name)
            handle = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise _unwritable(self.folder, error) from None


def read_head(folder: Path) -> dict[str, str]:
    """The fields that a data set is over, with their kinds. Raises InputError if it is none, or of another version."""
    path = folder / "_sweep.json"
    try:
        head = json.loads(read_text(path))
        schema, fields = head["schema"], dict(head["fields"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("is damaged", file=path, allowed="the folder as it was written") from None
    if schema != SCHEMA:
        problem = "is not a data set of this version of kinesim"
        raise InputError(problem, file=path, place="schema", found=schema, allowed=SCHEMA)
    return fields


def read_rows(folder: Path) -> pd.DataFrame:
    """All rows of a data set, each hash once, in no particular order. Raises InputError for none, or a damaged one."""
    import pyarrow as pa

    kinds = read_head(folder)
    schema = _arrow_schema(kinds)
    tables = [_read(path, None) for _, path in _parts(folder)]
    whole = pa.concat_tables(tables) if tables else schema.empty_table()
    frame: pd.DataFrame = whole.to_pandas()
    return frame.drop_duplicates("hash", keep="last", ignore_index=True)


def known_hashes(folder: Path) -> set[str]:
    """Hashes of the rows of a data set, nothing if there is none yet. It only looks, while another may write."""
    return {known for _, path in _parts(folder) for known in _read(path, ["hash"]).column("hash").to_pylist()}


def _table(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([{**row} for row in rows], schema=_arrow_schema(kinds))


def _arrow_schema(kinds: Mapping[str, str]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.string() if kind == TEXT else pa.float64()) for name, kind in columns_of(kinds)])


def _parquet(table: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=sorted(_TEXTS & set(table.column_names)))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _read(path: Path, columns: list[str] | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        problem = f"is not a readable part of a data set: {str(error).splitlines()[0]}"
        raise InputError(
            problem, file=path, allowed="the file as it was written; without it its rows are done again"
        ) from None


def _parts(folder: Path) -> list[tuple[int, Path]]:
    """Number and path of the parts, in order."""
    found = [(int(match[1]), path) for path in _entries(folder) if (match := _PART.fullmatch(path.name))]
    return sorted(found)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _own(name: str) -> bool:
    return name in ("_sweep.json", ".lock") or name.startswith(".part-") or _PART.fullmatch(name) is not None


def _words(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{path} ({kind}s)" for path, kind in kinds.items()) or "nothing varied"


def _unwritable(folder: Path, error: OSError) -> InputError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    allowed = "more room there" if full else "a folder that can be written"
    return InputError(f"cannot be written ({error.strerror})", file=folder, place="--out", allowed=allowed)
