"""Tables of whole layers, `layer` and `kinetics`: a CSV or Parquet file in, checked rows and their cases out.

Cells are checked as in tables of kernels (`calibration.tables`), and what a row asks for must be a layer that there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from calibration.kinds import COMMON, KINDS, Kind
from calibration.tables import Cells, check_header, read_table
from hwspecs.errors import InputError
from simulator.layers import BLOCK_TOPK, DECODE, DENSE, PREFILL, LayerCase, case_of

_NAMES = {
    "attention": (DENSE, BLOCK_TOPK),
    "phase": (DECODE, PREFILL),
    "dtype": ("bf16", "fp16"),
    "kv_dtype": ("bf16", "fp16", "fp8"),
}
LAYER = Kind(
    "layer",
    ("model", "attention", "phase", "dtype", "kv_dtype"),
    ("tp", "batch", "query_len", "context_len", "page", "budget"),
    _NAMES,
    zero=frozenset({"context_len", "page", "budget"}),
)
"""Whole layers of any phase; `context_len` counts the tokens attended in decode and the past of a prefill."""
KINETICS = Kind(
    "kinetics",
    ("model", "attention", "dtype", "kv_dtype"),
    ("tp", "batch", "context_len", "page", "budget"),
    _NAMES,
    zero=frozenset({"page", "budget"}),
)
"""Decode layers with dense and with block top-k attention, and the time of their attention alone."""


@dataclass(frozen=True)
class LayerTable:
    """Rows of whole layers.

    Attributes
    ----------
    path, kind : the file and what it holds. rows : of each its labels and shape columns. cases : what they stand for.
    seconds : float64 [n], nan where nothing was measured. attention_seconds : the same of the attention's operators.
    raw : the file as it was read.
    """

    path: Path
    kind: Kind
    rows: list[dict[str, Any]]
    cases: list[LayerCase]
    seconds: np.ndarray
    attention_seconds: np.ndarray
    raw: pa.Table

    def __len__(self) -> int:
        return len(self.rows)


def read_layers(path: str | Path, kind: Kind = LAYER) -> LayerTable:
    """The table in a .csv or .parquet file. Raises InputError for the first wrong thing, with its row and column."""
    path = Path(path)
    raw, line_of = read_table(path)
    check_header(path, raw)
    missing = [name for name in kind.columns if name not in raw.column_names]
    others = [(name, "kernels") for name, other in KINDS.items() if set(other.columns) <= set(raw.column_names)]
    others += [("kinetics", "the experiment")] if set(KINETICS.columns) <= set(raw.column_names) else []
    if missing and others:
        reads = "kinesim calibrate kinetics-h200" if others[-1][0] == "kinetics" else "kinesim validate kernels"
        raise InputError(
            f"is a table of {others[-1][1]} ({others[-1][0]})", file=path,
            found=", ".join(raw.column_names), allowed=f"a table {kind.name}; {reads} reads this one",
        )  # fmt: skip
    if missing:
        named = f"column {missing[0]} is" if len(missing) == 1 else f"columns {', '.join(missing)} are"
        raise InputError(
            f"{named} missing",
            file=path,
            found=", ".join(raw.column_names),
            allowed=f"of {kind.name}: " + ", ".join((*kind.columns, "latency_us")),
        )
    if kind is KINETICS and {"phase", "query_len"} <= set(raw.column_names):
        raise InputError(
            "is a table of layers of any phase, not of the experiment", file=path, found="columns phase and query_len",
            allowed="a table kinetics; kinesim validate layers reads this one",
        )  # fmt: skip
    if raw.num_rows == 0:
        raise InputError("has no rows", file=path, allowed="a header and at least one row")
    reader = Cells(path, raw, kind, line_of)
    columns: dict[str, list[Any]] = {}
    for name in (*COMMON, *kind.labels):
        texts, codes = reader.texts(name)
        columns[name] = [texts[code] for code in codes]
    columns |= {name: reader.whole(name).astype(int).tolist() for name in kind.shape}
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    cases = []
    for i, row in enumerate(rows):
        try:
            cases.append(case_of(row))
        except InputError as error:
            column = error.place if error.place in columns else "model"
            raise reader.error(i, column, error.problem, error.found, error.allowed) from None
    reader.l2()  # says so if a cell is none
    seconds = reader.measured("latency_us") * 1e-6
    attention = reader.measured("attention_us") * 1e-6
    return LayerTable(path, kind, rows, cases, seconds, attention, raw)


def text_codes(values: list[Any]) -> tuple[list[str], np.ndarray]:
    """Distinct values as texts, in their own order (numbers by size), and int32 [n] into them."""
    distinct = sorted(set(values))
    at = {value: i for i, value in enumerate(distinct)}
    texts = [f"{value:,}" if isinstance(value, int) else str(value) for value in distinct]
    return texts, np.array([at[value] for value in values], dtype=np.int32)


def identity(row: Mapping[str, Any], kind: Kind = KINETICS) -> tuple[Any, ...]:
    """What a row measures, but for the attention: dense and sparse rows of one point agree in it."""
    return tuple(row[name] for name in (*kind.labels, *kind.shape) if name not in ("attention", "page", "budget"))
