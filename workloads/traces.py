"""Traces: recorded arrivals and lengths, from CSV files and Mooncake's JSONL.

CSV, told by the header: `TIMESTAMP,ContextTokens,GeneratedTokens` (Azure's public LLM traces), or
`arrival_s,input_len,output_len` with optional `session` and `priority`; other columns are ignored. JSONL: one object
a line with `timestamp` (milliseconds), `input_length`, `output_length` and `hash_ids`, one id for each 512 tokens of
the prompt, the last of which may be partial (Mooncake's published traces). Equal ids stand for equal blocks.

Files are read column by column; only when something is wrong is the offending row looked for one by one.
"""

from __future__ import annotations

import csv
import json
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwspecs.errors import InputError, near_matches
from hwspecs.yamlfile import read_text
from workloads.fields import MAX_TOKENS

HASH_TOKENS = 512
"""Tokens of a prefix block in Mooncake's published traces."""

MAX_SECONDS = 1e8
"""Latest arrival, about three years: beyond it a column of absolute times was mistaken for one of relative ones."""

_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_OURS = ("arrival_s", "input_len", "output_len")
_MOONCAKE = ("timestamp", "input_length", "output_length")

FORMATS = (
    "a CSV file with the columns arrival_s,input_len,output_len (and session, priority if you like) or Azure's "
    "TIMESTAMP,ContextTokens,GeneratedTokens, or Mooncake's JSONL (timestamp, input_length, output_length, hash_ids)"
)


@dataclass(frozen=True)
class Trace:
    """`n` requests in order of arrival.

    `arrival_s` float64[n], seconds; `input_len`, `output_len`, `session` int64[n]; `priority` int64[n] or None; the
    prefix arrays and `unit_tokens` as in `workloads.requests.Requests` (empty and None without hashes).
    """

    arrival_s: np.ndarray
    input_len: np.ndarray
    output_len: np.ndarray
    session: np.ndarray
    priority: np.ndarray | None
    prefix_ptr: np.ndarray
    prefix_id: np.ndarray
    prefix_tokens: np.ndarray
    unit_tokens: int | None

    @property
    def n(self) -> int:
        """Number of requests."""
        return len(self.arrival_s)


def is_mooncake(path: Path) -> bool:
    """Whether the file looks like JSONL (its first character is a brace). InputError if it cannot be read."""
    if not os.path.isfile(path):
        raise InputError(
            "is a folder, not a file" if os.path.isdir(path) else "no such file", file=path, allowed=FORMATS
        )
    try:
        with path.open("rb") as file:
            return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=path) from None


def read_trace(path: Path, *, limit: int | None = None, time_scale: float = 1.0, start: float = 0.0) -> Trace:
    """Read and check a trace.

    Time counts from zero in the file (Azure: from the first request). Requests that arrive before `start` seconds are
    left out and `start` becomes zero; of the rest the first `limit` are kept; then times are multiplied by `time_scale`
    (2: twice as slow).

    Sessions: the column `session` if there is one (equal text, equal session); in Mooncake's format a request belongs
    to the session of the latest earlier request with which it shares at least two leading hash ids (one alone may be a
    system prompt that all have), else to a new one; otherwise each request is its own session.

    Raises
    ------
    InputError : missing column, empty file, a row that is not a request, arrivals not sorted, a number of hashes that
        does not fit the prompt's length; nothing left after `start`.
    """
    trace = _read_mooncake(path) if is_mooncake(path) else _read_csv(path)
    first = int(np.searchsorted(trace.arrival_s, start))
    last = trace.n if limit is None else min(trace.n, first + limit)
    if first >= trace.n:
        end = trace.arrival_s[-1]
        raise InputError("no request is left after `start`", file=path, found=start, allowed=f"at most {end:g} s")
    kept, units = slice(first, last), slice(int(trace.prefix_ptr[first]), int(trace.prefix_ptr[last]))
    arrivals = (trace.arrival_s[kept] - start) * time_scale
    if not np.isfinite(arrivals[-1]):
        raise InputError(
            "the last arrival is beyond all bounds", file=path, found=time_scale, allowed="a smaller scale"
        )
    return Trace(
        arrival_s=arrivals,
        input_len=trace.input_len[kept],
        output_len=trace.output_len[kept],
        session=_dense(trace.session[kept]),
        priority=None if trace.priority is None else trace.priority[kept],
        prefix_ptr=trace.prefix_ptr[first : last + 1] - trace.prefix_ptr[first],
        prefix_id=trace.prefix_id[units],
        prefix_tokens=trace.prefix_tokens[units],
        unit_tokens=trace.unit_tokens,
    )


def _dense(labels: np.ndarray) -> np.ndarray:
    """Labels (of any sortable kind) as 0, 1, ... in order of first appearance."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


class _Rows:
    """Says where a row stands: `row` counts requests from 1, `line` lines of the file."""

    def __init__(self, path: Path, lines: Callable[[int], int]) -> None:
        self.path, self.lines = path, lines

    def error(self, problem: str, row: int, column: str | None, found: object, allowed: str | None) -> InputError:
        place = f"row {row + 1}" + (f", column {column}" if column else "")
        if isinstance(found, np.generic):
            found = found.item()
        if isinstance(found, float) and found.is_integer():
            found = int(found)  # as it was written
        return InputError(problem, file=self.path, place=place, line=self.lines(row), found=found, allowed=allowed)

    def check(self, arrival: np.ndarray, prompt: np.ndarray, output: np.ndarray, names: tuple[str, str, str]) -> None:
        """Times finite, not negative and sorted; lengths whole and in range. All float64[n], times in seconds."""
        with np.errstate(invalid="ignore"):
            bad = ~((arrival >= 0) & (arrival <= MAX_SECONDS))
        if bad.any():
            row = int(np.argmax(bad))
            allowed = f"from 0 to {MAX_SECONDS:g} seconds after the start of the trace"
            raise self.error("not an arrival time", row, names[0], f"{arrival[row]:.12g} s", allowed)
        for lengths, name in ((prompt, names[1]), (output, names[2])):
            with np.errstate(invalid="ignore"):
                bad = ~((lengths >= 1) & (lengths <= MAX_TOKENS) & (lengths == np.floor(lengths)))
            if bad.any():
                row = int(np.argmax(bad))
                allowed = f"a whole number of tokens from 1 to {MAX_TOKENS:,}"
                raise self.error("not a length", row, name, lengths[row], allowed)
        back = np.flatnonzero(np.diff(arrival) < 0)
        if len(back):
            row = int(back[0]) + 1
            allowed = f"at least the {arrival[row - 1]:.12g} s of the row before: sort the trace by arrival"
            raise self.error("arrivals are not sorted", row, names[0], f"{arrival[row]:.12g} s", allowed)


# ---- CSV -------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> Trace:
    text = read_text(path).removeprefix("\ufeff")
    lines = text.splitlines()
    numbers = [i for i, line in enumerate(lines) if line.strip()]
    if not numbers:
        raise InputError("the file is empty", file=path, allowed=FORMATS)
    if len(numbers) < len(lines):
        lines = [lines[i] for i in numbers]
    rows = _Rows(path, lambda row: numbers[row + 1] + 1)
    header = [name.strip().strip('"') for name in lines[0].split(",")]
    names = _AZURE if _AZURE[0] in header else _OURS
    for name in names:
        if name not in header:
            found = ",".join(header)
            near = near_matches(name, header)
            problem = f"the column {name} is missing" if set(names) & set(header) else "not a trace"
            allowed = FORMATS if problem == "not a trace" else f"{name} in the header; there: {near}"
            raise InputError(problem, file=path, line=numbers[0] + 1, place="header", found=found, allowed=allowed)
    twice = next((name for name in names if header.count(name) > 1), None)
    if twice:
        raise InputError("a column given twice", file=path, line=numbers[0] + 1, place="header", found=twice)
    if len(lines) == 1:
        raise InputError("the trace has no requests", file=path, line=numbers[0] + 1, allowed=FORMATS)

    columns = [header.index(name) for name in names]
    if names is _AZURE:
        texts = _columns(lines, columns[:1], str, rows, header)
        prompt, output = _columns(lines, columns[1:], float, rows, header)
        arrival = _timestamps(texts[0], rows)
    else:
        arrival, prompt, output = _columns(lines, columns, float, rows, header)
    rows.check(arrival, prompt, output, names)
    n = len(arrival)
    session, priority = np.arange(n), None
    if names is _OURS and "session" in header:
        session = _columns(lines, [header.index("session")], str, rows, header)[0]
    if names is _OURS and "priority" in header:
        given = _columns(lines, [header.index("priority")], float, rows, header)[0]
        with np.errstate(invalid="ignore"):
            bad = ~((np.abs(given) <= 2**31) & (given == np.floor(given)))
        if bad.any():
            row = int(np.argmax(bad))
            raise rows.error("not a priority", row, "priority", given[row], "a whole number; lower goes first")
        priority = given.astype(np.int64)
    empty = np.zeros(0, dtype=np.int64)
    return Trace(
        arrival_s=arrival,
        input_len=prompt.astype(np.int64),
        output_len=output.astype(np.int64),
        session=session,
        priority=priority,
        prefix_ptr=np.zeros(n + 1, dtype=np.int64),
        prefix_id=empty,
        prefix_tokens=empty,
        unit_tokens=None,
    )


def _columns(lines: list[str], columns: list[int], kind: type, rows: _Rows, header: list[str]) -> list[np.ndarray]:
    """The columns as arrays of numbers or of text; InputError at the first row that does not have them."""
    try:
        table: np.ndarray = np.loadtxt(
            lines, dtype=kind, delimiter=",", skiprows=1, usecols=columns, comments=None, quotechar='"', ndmin=2
        )
        if len(table) == len(lines) - 1:
            return [table[:, i] for i in range(len(columns))]
    except (ValueError, OverflowError):
        pass
    # Something is wrong, and NumPy does not say where.
    for row, line in enumerate(lines[1:]):
        cells = next(csv.reader([line]))
        for column in columns:
            name = header[column]
            if column >= len(cells):
                found = f"{len(cells)} columns"
                raise rows.error("the row is too short", row, name, found, f"{len(header)} columns, as in the header")
            if kind is float:
                try:
                    float(cells[column])
                except ValueError:
                    found = cells[column]
                    raise rows.error("not a number", row, name, found, "a number") from None
    raise InputError("is not a CSV file that can be read", file=rows.path, allowed=FORMATS)


def _timestamps(texts: np.ndarray, rows: _Rows) -> np.ndarray:
    """Seconds since the first of Azure's UTC timestamps, such as `2023-11-16 18:15:46.6805900`."""
    plain = np.char.strip(texts)
    for zone in ("+00:00", "Z"):
        zoned = np.char.endswith(plain, zone)
        if zoned.any():
            plain = np.where(zoned, np.char.rpartition(plain, zone)[:, 0], plain)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns of zones other than UTC, which it converts
            times = plain.astype("datetime64[ns]")
        bad = np.isnat(times)
    except ValueError:
        bad = np.array([not _is_time(text) for text in plain.tolist()])
    if bad.any():
        row = int(np.argmax(bad))
        found = str(texts[row])
        raise rows.error("not a timestamp", row, _AZURE[0], found, "UTC such as 2023-11-16 18:15:46.68")
    since = (times - times[0]).astype(np.int64)
    back = np.flatnonzero(np.diff(since) < 0)
    if len(back):
        row = int(back[0]) + 1
        allowed = f"at least {texts[row - 1]} of the row before: sort the trace by arrival"
        raise rows.error("arrivals are not sorted", row, _AZURE[0], str(texts[row]), allowed)
    return since / 1e9


def _is_time(text: str) -> bool:
    try:
        return not np.isnat(np.datetime64(text, "ns"))
    except ValueError:
        return False


# ---- Mooncake --------------------------------------------------------------------------------------------------------


def _read_mooncake(path: Path) -> Trace:
    lines = read_text(path).removeprefix("\ufeff").splitlines()
    numbers = [i for i, line in enumerate(lines) if line.strip()]
    rows = _Rows(path, lambda row: numbers[row] + 1)
    records: list[Any] = []
    table: np.ndarray
    for row, i in enumerate(numbers):
        try:
            records.append(json.loads(lines[i]))
        except (ValueError, RecursionError) as error:
            problem = f"is not valid JSON: {error.msg if isinstance(error, json.JSONDecodeError) else error}"
            raise rows.error(problem, row, None, lines[i][-60:], "one JSON object a line") from None
    try:
        table = np.array([[r[name] for name in _MOONCAKE] for r in records])
        chains = [r["hash_ids"] for r in records]
        counts = np.array([len(chain) for chain in chains], dtype=np.int64)
        ids = np.array([i for chain in chains for i in chain])
        fine = table.dtype.kind in "if" and (ids.dtype == np.int64 or ids.size == 0)
    except (KeyError, TypeError, ValueError, OverflowError):
        fine = False
    # JSON's true and false would pass for numbers in an array
    fine = fine and not any(type(r[name]) is bool for r in records for name in _MOONCAKE)
    if not fine:
        raise _mooncake_complaint(records, rows)
    table = table.astype(np.float64)
    arrival, prompt, output = table[:, 0] / 1e3, table[:, 1], table[:, 2]
    rows.check(arrival, prompt, output, _MOONCAKE)
    wrong = counts != np.ceil(prompt / HASH_TOKENS)
    if wrong.any():
        row = int(np.argmax(wrong))
        blocks = math.ceil(prompt[row] / HASH_TOKENS)
        allowed = f"{blocks} for {prompt[row]:.0f} tokens, one for each {HASH_TOKENS} or part of them"
        raise rows.error("the number of hashes does not fit the prompt", row, "hash_ids", int(counts[row]), allowed)
    ids = ids.astype(np.int64)
    if ids.min() < 0:
        row = int(np.searchsorted(np.cumsum(counts), np.argmax(ids < 0), side="right"))
        raise rows.error("not a hash id", row, "hash_ids", ids.min(), "whole numbers >= 0")
    ptr = np.concatenate(([0], np.cumsum(counts)))
    prompt = prompt.astype(np.int64)
    tokens = np.full(len(ids), HASH_TOKENS, dtype=np.int64)
    tokens[ptr[1:] - 1] = prompt - HASH_TOKENS * (counts - 1)
    # Sharing two leading ids is an equivalence: the session is named by the pair, or by the request if it has no two.
    n = len(counts)
    pairs = np.stack([np.arange(n), np.full(n, -1)], axis=1)
    two = counts >= 2
    pairs[two] = np.stack([ids[ptr[:-1][two]], ids[ptr[:-1][two] + 1]], axis=1)
    _, label = np.unique(pairs, axis=0, return_inverse=True)
    return Trace(
        arrival_s=arrival,
        input_len=prompt,
        output_len=output.astype(np.int64),
        session=label.reshape(n),
        priority=None,
        prefix_ptr=ptr,
        prefix_id=ids,
        prefix_tokens=tokens,
        unit_tokens=HASH_TOKENS,
    )


def _mooncake_complaint(records: list[object], rows: _Rows) -> InputError:
    """What is wrong with the first bad line."""
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            return rows.error("not a JSON object", row, None, record, "an object with timestamp, input_length, ...")
        for name in (*_MOONCAKE, "hash_ids"):
            if name not in record:
                allowed = near_matches(name, record)
                return rows.error("a key is missing", row, name, None, f"{name}; there: {allowed}")
        for name in _MOONCAKE:
            if isinstance(record[name], bool) or not isinstance(record[name], int | float):
                return rows.error("not a number", row, name, record[name], "a number")
        ids = record["hash_ids"]
        if not isinstance(ids, list) or any(type(i) is not int or not 0 <= i < 2**63 for i in ids):
            return rows.error("not a list of hash ids", row, "hash_ids", ids, "whole numbers from 0 to 2^63 - 1")
    return rows.error("a number out of bounds", 0, None, None, FORMATS)
