"""Files of measurements: read and checked, and repaired where a crash has left a last line incomplete."""

from __future__ import annotations

import csv
import io
import math
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from calibration.measure.task import COMMON, LABELS, SHAPES, SUFFIXES, header, key_of
from hwspecs.errors import InputError

MOST_DIGITS = 15
"""Of a size: up to there whole numbers are exact in floating point."""
BOM = b"\xef\xbb\xbf"
Line = tuple[int, dict[str, str]]
"""The number of a line, from 1, and its cells by column."""


def files_of(table: str) -> tuple[str, ...]:
    """Names, without `.csv`, of the files of a table: rows to fit on, for checks, and measured warm."""
    return tuple(table + suffix for suffix in SUFFIXES)


def table_of(file: str) -> str:
    """The table that a file, without `.csv`, is of by its name."""
    return next((file.removesuffix(suffix) for suffix in SUFFIXES if suffix and file.endswith(suffix)), file)


def line_of(values: Iterable[object]) -> str:
    """One line of CSV; line ends inside a value become spaces."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(" ".join(str(value).split()) for value in values)
    return text.getvalue()


def read_rows(file: Path, *, exact: bool = False) -> list[Line]:
    """The rows of a table's file, which is called like one of `files_of`; none where there is no such file. A last line
    that is incomplete is left out.

    Parameters
    ----------
    exact : the header must be the one that is written here, since rows are appended; else there may be more columns.

    Raises
    ------
    InputError : no file of CSV in UTF-8, another header, a line with too few or too many cells, a size that is no
        whole number, a time that is none. `latency_us` may be empty: nothing was measured.
    """
    table = table_of(file.stem)
    columns = header(table) if exact else (*COMMON, *SHAPES[table], "latency_us")
    sizes = [name for name in SHAPES[table] if name not in LABELS]
    found = lines_of(file, columns, exact=exact)
    for line, row in found:
        wrong = [(name, "whole number", "a whole number from 0") for name in sizes if not _is_size(row[name])]
        times = [name for name in ("latency_us", "baseline_us") if row.get(name) and not _is_time(row[name])]
        wrong += [(name, "time", "microseconds above 0, or nothing") for name in times]
        for name, what, allowed in wrong:
            problem = f"not a {what}" if row[name] else "is empty"
            found_text = row[name] or None
            place = f"column {name}"
            raise InputError(problem, file=file, line=line, place=place, found=found_text, allowed=allowed)
    return found


def measured_rows(file: Path) -> Iterator[dict[str, str]]:
    """The rows of a table's file that have a time, as text. Raises InputError like `read_rows`."""
    return (row for _, row in read_rows(file) if row["latency_us"])


def keys_of(file: Path, gpu: str, *, exact: bool = False) -> set[str]:
    """What a table's file holds of `gpu`, as `Task.key`. Raises InputError like `read_rows`, and for another GPU."""
    table, found = table_of(file.stem), set()
    for line, row in read_rows(file, exact=exact):
        if row["gpu"] != gpu:
            raise InputError(
                "the folder holds measurements of another GPU", file=file, line=line, found=row["gpu"],
                allowed=f"{gpu}, or another folder (--out)",
            )  # fmt: skip
        if row["latency_us"]:
            found.add(key_of(file.stem, row["kernel"], table, row))
    return found


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS


def _is_time(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


# ---- lines -----------------------------------------------------------------------------------------------------------


def unusable(problem: OSError, file: Path) -> InputError:
    """What the system has against a file; `file` is named where it does not say which."""
    named = problem.filename or file
    return InputError(f"cannot be used ({problem.strerror})", file=named, allowed="a file, in a writable folder")


def lines_of(file: Path, columns: tuple[str, ...], *, exact: bool) -> list[Line]:
    """The lines of a file of CSV but for the header, blank ones and an incomplete last one; none where there is no such
    file. Its header has `columns`, and these alone if `exact`. Raises InputError.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as problem:
        raise unusable(problem, file) from None
    content = content.removeprefix(BOM)
    first = content.split(b"\n", 1)[0]
    if first == content and _begins(content, columns):
        return []  # nothing but a torn header
    kept = whole(content, first.count(b",") + 1)
    found: list[Line] = []
    reader = None
    try:
        reader = csv.reader(io.StringIO(kept.decode(), newline=""))
        names = next(reader, [])
        if (exact and tuple(names) != columns) or not set(names) >= set(columns) or len(set(names)) < len(names):
            raise InputError(
                "not the header of this table", file=file, line=1, found=",".join(names), allowed=",".join(columns)
            )
        for cells in reader:
            if cells and len(cells) != len(names):
                problem_text = f"has {len(cells)} cells, the header {len(names)}"
                raise InputError(problem_text, file=file, line=reader.line_num, found=",".join(cells))
            if cells:
                found.append((reader.line_num, dict(zip(names, cells, strict=True))))
    except UnicodeDecodeError as problem:
        line = kept[: problem.start].count(b"\n") + 1
        raise InputError("is not UTF-8 text", file=file, line=line, allowed="a table as it was written") from None
    except csv.Error as problem:
        at = reader.line_num if reader is not None else None
        raise InputError(f"is not a readable CSV file ({problem})", file=file, line=at) from None
    return found


def whole(content: bytes, columns: int | None = None) -> bytes:
    """A file without a last line that is incomplete: it does not end in a newline, or has not as many cells as
    `columns`. Whether the first line is the right header is not decided here.
    """
    kept = content[: content.rfind(b"\n") + 1]
    start = kept.rfind(b"\n", 0, max(0, len(kept) - 1)) + 1
    last = kept[start:]
    if columns is not None and start and last.strip():
        try:
            cells = next(csv.reader([last.decode(errors="replace")]), [])
        except csv.Error:
            cells = []
        if b"\0" in last or len(cells) != columns:
            return kept[:start]
    return kept


def repair(file: Path, columns: tuple[str, ...] | None = None) -> None:
    """Cut off a last line that is incomplete (`whole`), with a word on stderr. A file that has another header than
    `columns` was not written here, and is left as it is.
    """
    if not file.exists():
        return
    content = file.read_bytes()
    body = content.removeprefix(BOM)
    ours = columns is None or body.split(b"\n", 1)[0].strip() == _header(columns)
    if not ours and (b"\n" in body or not _begins(body, columns or ())):
        return
    kept = whole(content, None if columns is None else len(columns))
    if len(kept) == len(content):
        return
    torn = content[len(kept) :].decode(errors="replace").strip()
    print(f"{file}: the last line was incomplete and has been cut off: {torn[:120]!r}", file=sys.stderr)
    with open(file, "r+b") as stream:
        stream.truncate(len(kept))
        os.fsync(stream.fileno())


def _header(columns: Iterable[str]) -> bytes:
    return line_of(columns).strip().encode()


def _begins(content: bytes, columns: Iterable[str]) -> bool:
    """Whether it is the beginning of a header, as a crash may leave it."""
    return _header(columns).startswith(content.strip())
