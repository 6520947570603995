"""Tables of measured kernels: a CSV or Parquet file in, checked columns out.

Everything that a table may get wrong is found here, before anything is predicted or fitted, and reported with the file,
the row and the column: rows of a CSV file are its lines (the header is line 1), rows of a Parquet file count from 0.
Which columns there are is said in `calibration.kinds`; what becomes of them is left to whoever asked.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from calibration.kinds import COMMON, FLAGS, KINDS, L2, LARGEST, LEAST, MEASURED, Kind
from hwspecs.errors import InputError, near_matches
from hwspecs.gpu import list_gpus, load_gpu

SUFFIXES = (".csv", ".parquet")
TINY, HUGE = 1e-6, 1e12
"""Between these are all microseconds and watts that are no mistake."""
MAX_SKEW = 4.0
"""Largest exponent of a power-law routing that a table may ask for; measured are 1.01 and 1.2."""


@dataclass(frozen=True)
class KernelTable:
    """The rows of one kind.

    Attributes
    ----------
    kind : a name of `calibration.kinds.KINDS`. path : where the rows were read from.
    columns : name -> array [n]. gpu, software, kernel and the kind's labels are object arrays of str, shape columns are
        float64. `routing` is there as `skew`, the exponent of the power law by which tokens choose experts (0:
        balanced).
    seconds, watts : float64 [n], nan where nothing was measured.
    codes : name -> (distinct texts in order, int32 [n] into them), of the text columns, `routing` among them.
    raw : the file as it was read, for writing it out again with predictions; None after `take`.
    l2 : object array [n] of `cold`, `warm` or nothing, of the optional column of that name; None without it.
    """

    kind: str
    path: Path
    columns: Mapping[str, np.ndarray]
    seconds: np.ndarray
    watts: np.ndarray
    codes: Mapping[str, tuple[list[str], np.ndarray]] = field(repr=False)
    raw: pa.Table | None = field(default=None, repr=False)
    l2: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def measured(self) -> np.ndarray:
        """bool [n]: rows with a latency."""
        return ~np.isnan(self.seconds)

    def take(self, rows: np.ndarray) -> KernelTable:
        """The rows picked by a bool [n] or by indices."""
        return KernelTable(
            self.kind,
            self.path,
            {name: column[rows] for name, column in self.columns.items()},
            self.seconds[rows],
            self.watts[rows],
            {name: (names, codes[rows]) for name, (names, codes) in self.codes.items()},
            l2=None if self.l2 is None else self.l2[rows],
        )

    def groups(self, names: Sequence[str]) -> list[tuple[dict[str, str], np.ndarray]]:
        """Rows that agree in text columns: ({column: text}, int64 indices in ascending order), sorted by the texts."""
        key = np.zeros(len(self), dtype=np.int64)
        for name in names:
            texts, codes = self.codes[name]  # texts are sorted
            key = key * max(len(texts), 1) + codes
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        return [
            ({name: self.codes[name][0][self.codes[name][1][rows[0]]] for name in names}, rows)
            for rows in np.split(order, starts[1:])
            if len(rows)
        ]


def read_kernels(path: str | Path) -> KernelTable:
    """The table in a .csv or .parquet file, checked cell by cell. Raises InputError for the first wrong thing."""
    path = Path(path)
    raw, line_of = read_table(path)
    check_header(path, raw)
    kind = _kind_of(path, raw)
    if raw.num_rows == 0:
        raise InputError("has no rows", file=path, allowed="a header and at least one row")
    reader = Cells(path, raw, kind, line_of)
    codes = {name: reader.texts(name) for name in (*COMMON, *kind.labels)}
    columns = {
        name: np.array(texts, dtype=object)[index] for name, (texts, index) in codes.items() if name != "routing"
    }
    columns |= {name: reader.whole(name) for name in kind.shape}
    if "routing" in codes:
        columns["skew"] = np.array([_skew(text) for text in codes["routing"][0]])[codes["routing"][1]]
    for part, whole in kind.divides:
        bad = columns[whole] % columns[part] != 0
        reader.refuse(bad, part, f"not a divisor of {whole} = {{{whole}:.0f}}", columns)
    for small, large in kind.at_most:
        reader.refuse(columns[small] > columns[large], small, f"more than {large} = {{{large}:.0f}}", columns)
    seconds, watts = reader.measured("latency_us") * 1e-6, reader.measured("power_w")
    return KernelTable(kind.name, path, columns, seconds, watts, codes, raw, reader.l2())


def encode(texts: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Distinct texts of an array [n], in order, and int32 [n] into them; quick for many rows of few texts."""
    encoded = pa.array(texts, pa.string()).dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), dtype=np.int32)
    rank[order] = np.arange(len(names))
    return [names[i] for i in order], rank[encoded.indices.to_numpy(zero_copy_only=False)]


def concatenate(tables: Sequence[KernelTable]) -> KernelTable:
    """The rows of tables of one kind, one table after the other."""
    first = tables[0]
    if any(table.kind != first.kind for table in tables):
        raise ValueError("tables of several kinds cannot be put together")
    codes = {}
    for name in first.codes:
        texts = sorted({text for table in tables for text in table.codes[name][0]})
        at = {text: i for i, text in enumerate(texts)}
        ranks = [np.array([at[text] for text in table.codes[name][0]], dtype=np.int32) for table in tables]
        parts = [rank[table.codes[name][1]] for rank, table in zip(ranks, tables, strict=True)]
        codes[name] = (texts, np.concatenate(parts))
    return KernelTable(
        first.kind,
        first.path,
        {name: np.concatenate([table.columns[name] for table in tables]) for name in first.columns},
        np.concatenate([table.seconds for table in tables]),
        np.concatenate([table.watts for table in tables]),
        codes,
        l2=None if all(table.l2 is None for table in tables) else np.concatenate([_said(table) for table in tables]),
    )


def _said(table: KernelTable) -> np.ndarray:
    return np.full(len(table), "", dtype=object) if table.l2 is None else table.l2


# ---- files -----------------------------------------------------------------------------------------------------------

LineOf = Callable[[int], int]


def check_suffix(path: Path, place: str | None = None) -> str:
    """`.csv` or `.parquet`; InputError for another ending."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError("not a table by its name", file=path, place=place, allowed="a file ending in .csv or .parquet")
    return suffix


def read_table(path: Path) -> tuple[pa.Table, LineOf | None]:
    """The columns of a .csv or .parquet file, those of a CSV file as text; and for a CSV file a function from a row
    (counted from 0) to its line. Raises InputError for what is no such file.
    """
    suffix = check_suffix(path)
    try:
        if not path.exists():
            raise InputError("no such file", file=path, allowed="a .csv or .parquet file")
        if path.is_dir():
            raise InputError("is a folder", file=path, allowed="a .csv or .parquet file")
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=path, allowed="a readable file") from None
    if not magic:
        raise InputError("is empty", file=path, allowed="a header and at least one row")
    if suffix == ".csv":
        if magic == b"PAR1":
            raise InputError("is a Parquet file, not CSV", file=path, allowed="a name ending in .parquet")
        return _read_csv(path), lambda row: _csv_line(path, row)
    try:
        return pq.ParquetFile(path).read(), None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"is not a readable Parquet file ({_first_line(error)})", file=path) from None


def _read_csv(path: Path) -> pa.Table:
    """All columns as text, so that what is wrong can be said in the user's own words, and written back unchanged."""
    header = _csv_header(path)
    if len(header) == 1 and re.search(r"[;\t]", header[0]):
        raise InputError("columns are not separated by commas", file=path, line=1, found=header[0])
    for name in header:  # here, for columns are asked for by name below
        if header.count(name) > 1:
            raise InputError(f"column {name} occurs twice", file=path, line=1, allowed="one column of each name")
    texts = {column for kind in KINDS.values() for column in (*COMMON, *kind.labels)}
    types = {name: pa.dictionary(pa.int32(), pa.string()) if name in texts else pa.string() for name in header}
    try:
        return pacsv.read_csv(
            path,
            read_options=pacsv.ReadOptions(use_threads=True),
            parse_options=pacsv.ParseOptions(newlines_in_values=False),
            convert_options=pacsv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )
    except pa.ArrowException as error:
        for line, cells in _csv_rows(path):
            if len(cells) != len(header):
                problem = f"has {len(cells)} cells, the header {len(header)}"
                raise InputError(problem, file=path, line=line, found=",".join(cells)) from None
        raise InputError(f"is not a readable CSV file ({_first_line(error)})", file=path) from None


def _csv_rows(path: Path) -> Any:
    """(line, cells) of every row that is not blank, the header first."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", file=path, allowed="a CSV file in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"is not a readable CSV file ({error})", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=path, allowed="a readable file") from None


def _csv_header(path: Path) -> list[str]:
    for _, cells in _csv_rows(path):
        return list(cells)
    raise InputError("is empty", file=path, allowed="a header and at least one row")


def _csv_line(path: Path, row: int) -> int:
    """The line of a row (from 0, without header and blank lines); asked for only to report an error."""
    found = next(itertools.islice(_csv_rows(path), row + 1, None), None)
    return found[0] if found else row + 2


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


# ---- which kind ------------------------------------------------------------------------------------------------------


def check_header(path: Path, raw: pa.Table) -> None:
    """InputError for a column that occurs twice."""
    for name in raw.column_names:
        if raw.column_names.count(name) > 1:
            raise InputError(f"column {name} occurs twice", file=path, allowed="one column of each name")


def _kind_of(path: Path, raw: pa.Table) -> Kind:
    """The most specific kind whose columns are all there."""
    there = set(raw.column_names)
    whole = sorted((k for k in KINDS.values() if there >= set(k.columns)), key=lambda k: -len(k.columns))
    if whole:
        for other in whole[1:]:
            if not set(other.columns) <= set(whole[0].columns):
                raise InputError(
                    f"mixes kinds: it has the columns of {whole[0].name} and of {other.name}",
                    file=path,
                    allowed="rows of one kind in a table",
                )
        return whole[0]
    from calibration.layertables import KINETICS, LAYER  # they are read with what stands here

    for layers, reads in ((LAYER, "kinesim validate layers"), (KINETICS, "kinesim calibrate kinetics-h200")):
        if there >= set(layers.columns):
            raise InputError(
                f"is a table of whole layers ({layers.name}), not of kernels", file=path,
                allowed=f"a table of kernels; {reads} reads this one",
            )  # fmt: skip
    # Nearest by the columns that tell kinds apart, so that a typo in `gpu` is not called a missing kind.
    own = {name: set(kind.columns) - {*COMMON, "dtype", "kv_dtype"} for name, kind in KINDS.items()}
    near = max(KINDS, key=lambda name: (len(own[name] & there) / len(own[name]), len(own[name])))
    if not own[near] & there:
        raise InputError(
            "has no columns of any kind of kernel",
            file=path,
            found=", ".join(raw.column_names),
            allowed="the columns of one of " + ", ".join(KINDS),
        )
    missing = [name for name in KINDS[near].columns if name not in there]
    spare = sorted(there - set(KINDS[near].columns) - set(MEASURED))
    alike = _alike(missing[0], spare)
    named = f"column {missing[0]} is" if len(missing) == 1 else f"columns {', '.join(missing)} are"
    raise InputError(
        f"{named} missing",
        file=path,
        found=alike if alike else ", ".join(raw.column_names),
        allowed=f"of {near}: " + ", ".join((*KINDS[near].columns, "latency_us")),
    )


def _alike(name: str, others: Sequence[str]) -> str | None:
    """A column that probably is the missing one, misspelt."""
    import difflib

    folded = {re.sub(r"[^a-z0-9]", "", other.lower()): other for other in others}
    close = difflib.get_close_matches(re.sub(r"[^a-z0-9]", "", name.lower()), folded, n=1, cutoff=0.75)
    return folded[close[0]] if close else None


def _skew(routing: str) -> float:
    return 0.0 if routing == "balanced" else float(routing.removeprefix("power_law_"))


# ---- cells -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cells:
    """Takes columns out of a table and reports the first cell that is wrong.

    Attributes
    ----------
    path, raw, line_of : what `read_table` was asked for, and what it gave. kind : which columns there are, and what
        they may hold.
    """

    path: Path
    raw: pa.Table
    kind: Kind
    line_of: LineOf | None

    def error(self, row: int, column: str, problem: str, found: Any, allowed: str | None = None) -> InputError:
        """What is wrong with a cell, by its line or row and its column."""
        place = self._place(row, column)
        line = self.line_of(row) if self.line_of else None
        if isinstance(found, float) and found.is_integer() and abs(found) < 1e15:
            found = int(found)
        return InputError(problem, file=self.path, place=place, line=line, found=found, allowed=allowed)

    def _place(self, row: int, column: str) -> str:
        return f"column {column}" if self.line_of else f"row {row} (counted from 0), column {column}"

    def refuse(self, bad: np.ndarray, column: str, problem: str, columns: Mapping[str, np.ndarray]) -> None:
        """InputError for the first row where `bad`, bool [n], is set; `{name}` in `problem` is that row's value."""
        if bad.any():
            row = int(np.argmax(bad))
            values = {name: values[row] for name, values in columns.items()}
            raise self.error(row, column, problem.format(**values), float(columns[column][row]))

    def texts(self, name: str) -> tuple[list[str], np.ndarray]:
        """Distinct texts of a column, checked against what it may say, and int32 [n] into them."""
        column = self.raw.column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_null(kind):
            raise self._empty(0, name)
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise self.error(0, name, "not text", column[0].as_py())
        if pa.types.is_dictionary(column.type):
            column = column.unify_dictionaries()
        encoded = column.combine_chunks() if pa.types.is_dictionary(column.type) else _encoded(column)
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.chunk(0) if encoded.num_chunks else encoded
        index = encoded.indices
        if index.null_count:
            raise self._empty(int(np.argmax(index.is_null().to_numpy(zero_copy_only=False))), name)
        codes = index.to_numpy(zero_copy_only=False).astype(np.int32)
        names = [text if text is None else text.strip() for text in encoded.dictionary.to_pylist()]
        for code in np.unique(codes):
            found = names[code]
            problem = self._text_problem(name, found)
            if problem is not None:
                row = int(np.argmax(codes == code))
                if not found:
                    raise self._empty(row, name)
                if name == "gpu" and _is_path(found):
                    self._check_gpu_file(row, found)
                    continue
                raise self.error(row, name, problem[0], found, problem[1])
        # Only names in use, each once: a dictionary may list more (categories without rows), and blanks were cut off.
        used = sorted({names[code] for code in np.unique(codes)})
        at = {text: i for i, text in enumerate(used)}
        where = np.array([at.get(text, 0) for text in names], dtype=np.int32)
        return used, where[codes]

    def _check_gpu_file(self, row: int, path: str) -> None:
        """InputError if a hypothetical GPU's file cannot be used."""
        line = self.line_of(row) if self.line_of else None
        load_gpu(path, origin=self.path, place=self._place(row, "gpu"), lines=lambda _: line)

    def _text_problem(self, name: str, text: str | None) -> tuple[str, str | None] | None:
        """What is wrong with a text of this column, and what is allowed."""
        if not text:
            return "is empty", None
        if name == "gpu":
            known_gpu = text in list_gpus() and not _is_path(text)
            return None if known_gpu else ("unknown GPU", near_matches(text, list_gpus()))
        if name == "routing":
            match = re.fullmatch(r"power_law_(\d+(\.\d+)?)", text)
            if text == "balanced" or (match and float(match[1]) <= MAX_SKEW):
                return None
            return "unknown routing", f"balanced, power_law_A with A up to {MAX_SKEW:g}, such as power_law_1.2"
        known = self.kind.names.get(name)
        if known is None or text in known:
            return None
        return f"unknown {name}", near_matches(text, known)

    def _empty(self, row: int, name: str) -> InputError:
        """An empty cell; perhaps the row is of another kind."""
        filled = {c for c in self.raw.column_names if not _is_empty(self.raw.column(c)[row].as_py())}
        fits = [k for k in KINDS.values() if k.name != self.kind.name and filled >= set(k.columns)]
        if fits:
            other = max(fits, key=lambda k: len(k.columns)).name
            problem = f"is empty, as in a row of {other}, while the table is of {self.kind.name}"
            return self.error(row, name, problem, None, "rows of one kind in a table")
        return self.error(row, name, "is empty", None, self._allowed(name) if name in self.kind.shape else "a name")

    def _allowed(self, name: str) -> str:
        if name in FLAGS:
            return "0 or 1"
        return f"a whole number from {self._least(name)}"

    def _least(self, name: str) -> int:
        return 0 if name in self.kind.zero or name in FLAGS else LEAST.get(name, 1)

    def whole(self, name: str) -> np.ndarray:
        """A shape column as float64, every cell a whole number that makes sense."""
        values = self.numbers(name, self._allowed(name))
        least, most = self._least(name), 1 if name in FLAGS else LARGEST
        checks = (
            (np.isnan(values), "is empty"),
            (np.isinf(values), "not a finite number"),
            (values != np.floor(values), "not a whole number"),
            (values < least, "is negative" if least == 0 else "zero or negative" if least == 1 else "too small"),
            (values > most, "too large"),
        )
        wrong = [(int(np.argmax(bad)), problem) for bad, problem in checks if bad.any()]
        if wrong:
            row, problem = min(wrong)
            if problem == "is empty":
                raise self._empty(row, name)
            allowed = self._allowed(name) + (f" to {LARGEST:,}" if problem == "too large" and name not in FLAGS else "")
            raise self.error(row, name, problem, float(values[row]), allowed)
        return values

    def measured(self, name: str) -> np.ndarray:
        """A measured column as float64, nan where it is empty."""
        if name not in self.raw.column_names:
            return np.full(self.raw.num_rows, np.nan)
        allowed = "microseconds" if name.endswith("_us") else "watts"
        allowed = f"{allowed} above 0, or nothing"
        values = self.numbers(name, allowed)
        bad = (values < TINY) | (values > HUGE)
        if bad.any():
            row = int(np.argmax(bad))
            value = values[row]
            problem = "zero or negative" if value <= 0 else "too small" if value < TINY else "too large"
            problem = "not a finite number" if np.isinf(value) else problem
            raise self.error(row, name, problem, float(values[row]), allowed)
        return values

    def l2(self) -> np.ndarray | None:
        """The column `l2`, if there is one: whether operands came from HBM; empty cells say nothing."""
        if "l2" not in self.raw.column_names:
            return None
        cells = [None if text is None else str(text).strip() for text in self.raw.column("l2").to_pylist()]
        for row, text in enumerate(cells):
            if text and text not in L2:
                raise self.error(row, "l2", "unknown l2", text, near_matches(text, L2))
        return np.array([text or "" for text in cells], dtype=object)

    def numbers(self, name: str, allowed: str) -> np.ndarray:
        """A column as float64, nan for empty cells; text is read as numbers."""
        column = self.raw.column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_dictionary(column.type):
            column = column.cast(kind)
        if pa.types.is_null(kind):
            return np.full(len(column), np.nan)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            return self._parsed(name, column, allowed)
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            raise self.error(0, name, f"not a column of numbers ({kind})", column[0].as_py(), allowed)
        return column.cast(pa.float64(), safe=False).to_numpy()

    def _parsed(self, name: str, column: pa.ChunkedArray, allowed: str) -> np.ndarray:
        trimmed = pc.utf8_trim_whitespace(column.cast(pa.string()))
        filled = pc.if_else(pc.fill_null(pc.equal(trimmed, ""), True), "nan", trimmed)
        try:
            return filled.cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            for row, text in enumerate(column.to_pylist()):
                try:
                    float(text) if text and text.strip() else None
                except ValueError:
                    raise self.error(row, name, "not a number", text, allowed) from None
            raise InputError("not a column of numbers", file=self.path, place=f"column {name}") from None


def _is_path(gpu: str) -> bool:
    """Whether a GPU's name is that of a file, which describes a hypothetical one."""
    return "/" in gpu or gpu.endswith((".yaml", ".yml"))


def _encoded(column: pa.ChunkedArray) -> Any:
    return column.dictionary_encode().unify_dictionaries().combine_chunks()


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and np.isnan(value))
