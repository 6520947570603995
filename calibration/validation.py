"""How far predictions of kernels are from measurements: error tables, and a table's rows with predictions beside them.

An error is |predicted / measured - 1|. In means it counts as 1 at most, so that single broken rows do not hide the
rest; a row without a prediction counts as 1. The bias is the median of predicted / measured - 1: above 0 the model is
too slow.
`covered` is the share of rows whose measured value lies in the 80 % interval of the prediction.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from calibration.axes import axes_of
from calibration.kinds import KINDS
from calibration.tables import KernelTable, check_suffix, encode
from hwspecs.errors import InputError
from simulator.files import check_writable, replace_file
from simulator.fitted import Fitted
from simulator.predict import Predictions, predict_kernels

SCHEMA = "kinesim-validate-kernels/1"
CHUNK = 100_000
"""Rows predicted at a time: bounds the memory that features take, and lets progress be seen."""
DECADES = ("below 10 us", "10 to 100 us", "0.1 to 1 ms", "1 to 10 ms", "above 10 ms")
ADDED = (
    "predicted_us",
    "predicted_low_us",
    "predicted_high_us",
    "predicted_w",
    "bound",
    "profile",
    "status",
)
WEAKNESS = ("gpu", "software", "model", "kernel", "phase", "dtype", "regime")
"""What the weakest groups of rows are told apart by, as far as a kind has it."""
BANDS = 24
"""Most points along an axis of `along`."""


def predict_table(
    table: KernelTable, *, profile: str | Fitted | None = None, report: Callable[[int, int], None] | None = None
) -> Predictions:
    """Predictions of all rows, in their order."""
    parts = []
    for start in range(0, len(table), CHUNK):
        part = {name: column[start : start + CHUNK] for name, column in table.columns.items()}
        parts.append(predict_kernels(table.kind, part, profile=profile))
        if report is not None:
            report(min(start + CHUNK, len(table)), len(table))
    return joined(parts)


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Predictions, one after the other."""
    if len(parts) == 1:
        return parts[0]
    names = [field.name for field in dataclasses.fields(Predictions)]
    return Predictions(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


# ---- errors ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """Measured rows of a table and what was predicted for them; arrays [rows].

    `rows` are indices into the table. `ratio` is predicted / measured. `error` is |ratio - 1|, at most 1, and 1 where
    nothing was predicted. `covered` : the measured value lies in the interval; all False where there is no interval.
    `keys` : what the rows are grouped by -> (distinct texts, int32 codes [rows]).
    """

    rows: np.ndarray
    measured: np.ndarray
    predicted: np.ndarray
    ratio: np.ndarray
    error: np.ndarray
    covered: np.ndarray
    keys: Mapping[str, tuple[list[str], np.ndarray]]


def errors_of(table: KernelTable, predictions: Predictions, *, power: bool = False) -> Errors:
    """Errors of the seconds, or of the board's watts, of the rows where they were measured."""
    every = table.watts if power else table.seconds
    rows = np.flatnonzero(~np.isnan(every))
    measured = every[rows]
    predicted = np.asarray(predictions.watts if power else predictions.seconds, dtype=float)[rows]
    with np.errstate(invalid="ignore"):
        ratio = predicted / measured
        error = np.minimum(np.nan_to_num(np.abs(ratio - 1), nan=1.0), 1.0)
        covered = (measured >= predictions.low[rows]) & (measured <= predictions.high[rows])
    if power:
        covered = np.zeros(len(rows), dtype=bool)
    keys = {name: (texts, codes[rows]) for name, (texts, codes) in table.codes.items()}
    keys.setdefault("dtype", (["bf16"], np.zeros(len(rows), dtype=np.int32)))  # linear attention has one format
    for name, form in (("kv_dtype", "{} kv {}"), ("gemm_dtype", "{} gemm {}")):
        if name in keys:
            keys["dtype"] = _joined(keys["dtype"], keys.pop(name), form)
    bound = encode(predictions.bound[rows])
    keys["regime"] = _joined(bound, _decade(predictions.seconds[rows]), "{}, {}")
    keys["profile"] = encode(predictions.profile[rows])
    keys["status"] = encode(predictions.status[rows])
    return Errors(rows, measured, predicted, ratio, error, covered, keys)


def _decade(seconds: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Size class of a kernel: the power of ten of its predicted time."""
    with np.errstate(divide="ignore", invalid="ignore"):
        decade = np.nan_to_num(np.floor(np.log10(seconds) + 6), nan=0.0)
    return list(DECADES), np.clip(decade, 0, len(DECADES) - 1).astype(np.int32)


def _joined(
    a: tuple[list[str], np.ndarray], b: tuple[list[str], np.ndarray], form: str
) -> tuple[list[str], np.ndarray]:
    texts = [form.format(x, y) for x in a[0] for y in b[0]]
    return texts, (a[1] * len(b[0]) + b[1]).astype(np.int32)


def summary(errors: Errors, pick: np.ndarray | None = None) -> dict[str, Any]:
    """Rows, mean, median and 90th percentile of the error, bias, and share of rows inside the interval."""
    error, ratio, covered = (a if pick is None else a[pick] for a in (errors.error, errors.ratio, errors.covered))
    answered = ratio[~np.isnan(ratio)]
    return {
        "rows": len(error),
        "mean": float(error.mean()),
        "median": float(np.median(error)),
        "p90": float(np.quantile(error, 0.9)),
        "bias": float(np.median(answered) - 1) if len(answered) else None,
        "covered": float(covered.mean()),
    }


def by(errors: Errors, *names: str) -> list[dict[str, Any]]:
    """Summaries of the groups of rows that agree in the keys `names`, sorted by them."""
    key = np.zeros(len(errors.error), dtype=np.int64)
    for name in names:
        texts, codes = errors.keys[name]
        key = key * len(texts) + codes
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    out = []
    for pick in np.split(order, starts[1:]) if len(order) else []:
        said = {name: errors.keys[name][0][errors.keys[name][1][pick[0]]] for name in names}
        out.append(said | summary(errors, pick))
    return out


def group_names(errors: Errors) -> list[str]:
    """The keys by which error tables are made, in the order in which they are shown."""
    first = ("gpu", "software", "model", "kernel", "op", "phase", "dtype", "routing", "regime", "profile", "status")
    return [name for name in first if name in errors.keys]


def error_tables(errors: Errors) -> dict[str, list[dict[str, Any]]]:
    """For every key, the summaries of its groups."""
    return {name: by(errors, name) for name in group_names(errors)}


def worst_regimes(errors: Errors, count: int = 5, least: float = 0.002) -> list[dict[str, Any]]:
    """Where the model is weakest: groups by WEAKNESS with the largest mean error, of those with at least the fraction
    `least` of the rows (and 20 of them).
    """
    groups = by(errors, *(name for name in WEAKNESS if name in errors.keys))
    enough = [g for g in groups if g["rows"] >= max(20, least * len(errors.error))]
    return sorted(enough, key=lambda g: -g["mean"])[:count]


def worst_rows(table: KernelTable, errors: Errors, count: int = 10) -> list[dict[str, Any]]:
    """The rows with the largest |log(predicted / measured)|, the largest first."""
    with np.errstate(divide="ignore"):
        off = np.nan_to_num(np.abs(np.log(errors.ratio)), nan=np.inf)
    picked = np.argsort(-off, kind="stable")[:count]
    out = []
    for i in picked.tolist():
        row = int(errors.rows[i])
        cells = {name: texts[codes[row]] for name, (texts, codes) in table.codes.items()}
        shapes = {name: int(table.columns[name][row]) for name in KINDS[table.kind].shape}
        ratio = float(errors.ratio[i])
        out.append({"row": row, **cells, **shapes, "ratio": ratio if np.isfinite(ratio) else None})
    return out


# ---- along an axis ---------------------------------------------------------------------------------------------------


def along(errors: Errors, values: np.ndarray, pick: np.ndarray | None = None) -> dict[str, list[float]]:
    """Quantiles of predicted / measured - 1 in bins of `values` [n of the table], at most BANDS, evenly wide in the
    logarithm: `at` (geometric middle), `p10`, `median`, `p90`, `mean` error and `rows`.
    """
    x = values[errors.rows]
    off, error = errors.ratio - 1, errors.error
    keep = ~np.isnan(off) & (x > 0)
    if pick is not None:
        keep &= pick
    x, off, error = x[keep], off[keep], error[keep]
    out: dict[str, list[float]] = {name: [] for name in ("at", "p10", "median", "p90", "mean", "rows")}
    if not len(x):
        return out
    level = np.log2(x)
    distinct = np.unique(level)
    if len(distinct) > BANDS:
        edges = np.linspace(distinct[0], distinct[-1], BANDS + 1)
        code = np.clip(np.searchsorted(edges, level, side="right") - 1, 0, BANDS - 1)
    else:
        code = np.searchsorted(distinct, level)
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    for part in np.split(order, starts[1:]):
        low, middle, high = np.quantile(off[part], (0.1, 0.5, 0.9))
        shown = (2 ** level[part].mean(), low, middle, high, error[part].mean(), len(part))
        for name, value in zip(out, shown, strict=True):
            out[name].append(float(value))
    return out


# ---- units -----------------------------------------------------------------------------------------------------------


def unit_warning(table: KernelTable, errors: Errors, *, power: bool = False) -> str | None:
    """A sentence if all predictions are off by about the same power of ten, as they are when a unit is mistaken."""
    ratio = errors.ratio[np.isfinite(errors.ratio) & (errors.ratio > 0)]
    if not len(ratio):
        return None
    low, middle, high = np.quantile(np.log10(ratio), (0.1, 0.5, 0.9))
    exponent = round(middle)
    if exponent == 0 or abs(middle - exponent) > np.log10(2) or high - low > 0.7:
        return None
    column, unit = ("power_w", "watts") if power else ("latency_us", "microseconds")
    units = {3: "kilowatts", -3: "milliwatts"} if power else {3: "milliseconds", 6: "seconds", -3: "nanoseconds"}
    guess = f"is it in {units[exponent]}?" if exponent in units else "is its unit right?"
    size = f"{10.0 ** abs(exponent):,.0f} times {'smaller' if exponent > 0 else 'larger'}"
    found = f"{table.path}: column {column}: values are about {size} than predicted, in all rows alike"
    return f"{found}; {guess} ({unit} are expected)"


# ---- writing ---------------------------------------------------------------------------------------------------------


def check_output(path: Path, table: Path) -> None:
    """InputError if predictions could not, or must not, be written to `path`. To be asked before long work."""
    check_suffix(path, "--out")
    try:
        same = path.exists() and table.exists() and path.samefile(table)
    except OSError:
        same = False
    if same:
        raise InputError("is the table itself", file=path, place="--out", allowed="another file")
    check_writable(path.parent, [path.name])


def write_predictions(table: KernelTable, predictions: Predictions, path: Path) -> None:
    """The rows of the table as they were read, with what was predicted beside them, as CSV or Parquet by the ending.

    Columns of the table that are called like predictions are replaced.
    """
    if table.raw is None:
        raise ValueError("a table without its file cannot be written")
    was_csv = table.path.suffix.lower() == ".csv"
    names = [name for name in table.raw.column_names if name not in ADDED]
    columns = {name: table.raw.column(name) for name in names}
    as_csv = check_suffix(path) == ".csv"
    if was_csv and not as_csv:
        columns = {name: typed(column) for name, column in columns.items()}
    columns |= _predicted(predictions)
    out = pa.table(columns)
    if not was_csv:
        out = out.replace_schema_metadata(table.raw.schema.metadata)
    replace_file(path, csv_bytes(out, path) if as_csv else parquet_bytes(out))


def _predicted(predictions: Predictions) -> dict[str, Any]:
    """Columns for the file; float32, for a table's figures need no more. Null where nothing was predicted."""
    micro = {"predicted_us": "seconds", "predicted_low_us": "low", "predicted_high_us": "high"}
    out: dict[str, Any] = {name: _nullable(getattr(predictions, source) * 1e6) for name, source in micro.items()}
    out["predicted_w"] = _nullable(predictions.watts)
    for name in ("bound", "profile", "status"):
        texts, codes = encode(getattr(predictions, name))
        out[name] = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(texts, pa.string()))
    return out


def _nullable(values: np.ndarray) -> pa.Array:
    return pa.array(np.asarray(values, dtype=np.float32), mask=np.isnan(values))


def typed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text from a CSV file in the narrowest type that all of it fits."""
    if pa.types.is_dictionary(column.type):
        return column
    import pyarrow.compute as pc

    empty = pc.equal(column, "")
    cleaned = pc.if_else(empty, pa.scalar(None, pa.string()), column)
    for kind in (pa.int64(), pa.float64()):
        try:
            return cleaned.cast(kind)
        except pa.ArrowInvalid:
            continue
    return column


def parquet_bytes(out: pa.Table) -> bytes:
    """A table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(out, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def csv_bytes(out: pa.Table, path: Path) -> bytes:
    """A table as a CSV file, quoted only where it has to be. InputError, for --out and the file `path`, where a column
    has no form in CSV.
    """
    for name in out.column_names:
        kind = out.schema.field(name).type
        if pa.types.is_dictionary(kind):
            position = out.schema.get_field_index(name)
            out = out.set_column(position, name, out.column(name).cast(kind.value_type))
        elif pa.types.is_nested(kind):
            raise InputError(
                f"column {name} ({kind}) has no form in CSV",
                file=path,
                place="--out",
                allowed="a name ending in .parquet",
            )
    out = out.replace_schema_metadata(None)
    for quoting in ("none", "needed"):  # pyarrow's `needed` quotes every text
        sink = io.BytesIO()
        try:
            pacsv.write_csv(out, sink, pacsv.WriteOptions(quoting_style=quoting, quoting_header=quoting))
            break
        except pa.ArrowInvalid:
            continue
    return sink.getvalue()


# ---- the answer ------------------------------------------------------------------------------------------------------


def document(
    table: KernelTable, predictions: Predictions, warnings: Sequence[str] = (), profile: str | None = None
) -> dict[str, Any]:
    """What `kinesim validate kernels --format json` prints; documented in docs/kernel-tables.md."""
    out: dict[str, Any] = {
        "schema": SCHEMA,
        "table": str(table.path),
        "kind": table.kind,
        "rows": len(table),
        "profile": profile,
        "predictions": _what_was_predicted(table, predictions),
        "latency": None,
        "power": None,
        "warnings": list(warnings),
    }
    if table.measured.any():
        errors = errors_of(table, predictions)
        out["latency"] = _errors_document(table, errors)
    if (~np.isnan(table.watts)).any():
        out["power"] = _errors_document(table, errors_of(table, predictions, power=True))
        for summaries in (out["power"]["all"], *out["power"]["worst_regimes"]):
            summaries["covered"] = None
        for group in out["power"]["by"].values():
            for summaries in group:
                summaries["covered"] = None
    return out


def _errors_document(table: KernelTable, errors: Errors) -> dict[str, Any]:
    return {
        "all": summary(errors),
        "by": error_tables(errors),
        "worst_regimes": worst_regimes(errors),
        "worst_rows": worst_rows(table, errors),
        "along": {name: along(errors, values) for name, _, values in axes_of(table)},
    }


def _what_was_predicted(table: KernelTable, predictions: Predictions) -> list[dict[str, Any]]:
    """One entry a (gpu, software, profile, status): rows, and how many of them each bound has."""
    codes = {"gpu": table.codes["gpu"], "software": table.codes["software"]}
    codes |= {name: encode(getattr(predictions, name)) for name in ("profile", "status")}
    bounds, bound = encode(predictions.bound)
    key = np.zeros(len(table), dtype=np.int64)
    for texts, index in codes.values():
        key = key * len(texts) + index
    distinct, first, group = np.unique(key, return_index=True, return_inverse=True)
    counts = np.bincount(group * len(bounds) + bound, minlength=len(distinct) * len(bounds)).reshape(-1, len(bounds))
    return [
        {name: texts[index[row]] for name, (texts, index) in codes.items()}
        | {"rows": int(count.sum()), "bounds": {b: int(c) for b, c in zip(bounds, count, strict=True) if c}}
        for row, count in zip(first.tolist(), counts, strict=True)
    ]
