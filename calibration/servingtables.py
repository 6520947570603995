"""Tables of measured deployments: a CSV or Parquet file in, checked rows out.

Cells are checked as in tables of kernels (`calibration.tables`). What a row asks for may be beyond what is simulated;
that is found when it is replayed (`calibration.servingreplay`), and stops no other row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from calibration.kinds import Kind
from calibration.tables import Cells, check_header, read_table
from hwspecs.errors import InputError
from simulator.selection import ENGINES

LABELS = ("gpu", "model", "engine", "precision")
LENGTHS = ("input_len", "output_len", "concurrency")
LAYOUT = ("tp", "pp", "attention_dp", "moe_tp", "moe_ep")
SIDES = ("prefill", "decode")
SIDE = ("workers", "tp", "attention_dp", "moe_tp", "moe_ep")
VERSION = "engine_version"
UNKNOWN = "unknown"
"""The version of an engine that nobody noted."""

MOST = {"concurrency": 100_000, "input_len": 10_000_000, "output_len": 10_000_000}
"""Above these a cell is a mistake; a replay has ten times as many requests as users."""
WIDEST = 100_000
"""No deployment has more GPUs or workers."""
LEAST_MS, MOST_MS = 1e-6, 1e12


def _kind(name: str, layout: tuple[str, ...]) -> Kind:
    return Kind(name, LABELS[1:], (*LENGTHS, *layout), {"engine": ENGINES}, zero=frozenset())


INSTANCE = _kind("serving", LAYOUT)
DISAGGREGATED = _kind("disaggregated serving", tuple(f"{side}_{name}" for side in SIDES for name in SIDE))


@dataclass(frozen=True)
class ServingTable:
    """Rows of deployments under load.

    Attributes
    ----------
    path, kind : the file, and whether it holds instances of an engine or deployments with prefill and decode apart.
    rows : of each its labels, lengths, layout and engine_version (`unknown` where nobody noted it).
    ttft, tpot : measured means in seconds, float64 [n]; nan where nothing was measured.
    raw : the file as it was read.
    """

    path: Path
    kind: Kind
    rows: list[dict[str, Any]]
    ttft: np.ndarray
    tpot: np.ndarray
    raw: pa.Table

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Sequence[int]) -> ServingTable:
        """The rows of these numbers, as a table."""
        pick = list(rows)
        own = [self.rows[i] for i in pick]
        return ServingTable(self.path, self.kind, own, self.ttft[pick], self.tpot[pick], self.raw.take(pick))


def columns_of(kind: Kind) -> tuple[str, ...]:
    """The columns that a table must have, in the order of the documentation."""
    return (*LABELS, *kind.shape, VERSION)


def gpus_of(row: dict[str, Any]) -> int:
    """GPUs of a row's deployment: attention runs on tp x attention_dp of them, a pipeline has pp such stages."""
    if "prefill_workers" in row:
        return sum(row[f"{s}_workers"] * row[f"{s}_tp"] * row[f"{s}_attention_dp"] for s in SIDES)
    return int(row["tp"] * row["pp"] * row["attention_dp"])


def read_serving(path: str | Path) -> ServingTable:
    """The table in a .csv or .parquet file. Raises InputError for the first wrong thing, with its row and column."""
    path = Path(path)
    raw, line_of = read_table(path)
    check_header(path, raw)
    kind = DISAGGREGATED if "prefill_workers" in raw.column_names else INSTANCE
    needed = columns_of(kind)
    missing = [name for name in needed if name not in raw.column_names]
    if missing:
        named = f"column {missing[0]} is" if len(missing) == 1 else f"columns {', '.join(missing)} are"
        allowed = f"of {kind.name}: {', '.join((*needed, 'ttft_ms', 'tpot_ms'))}"
        raise InputError(f"{named} missing", file=path, found=", ".join(raw.column_names), allowed=allowed)
    if raw.num_rows == 0:
        raise InputError("has no rows", file=path, allowed="a header and at least one row")
    reader = Cells(path, raw, kind, line_of)
    columns: dict[str, list[Any]] = {}
    for name in LABELS:
        texts, codes = reader.texts(name)
        columns[name] = [texts[code] for code in codes]
    for name in kind.shape:
        values = reader.whole(name)
        most = MOST.get(name, WIDEST)
        if (values > most).any():
            row = int(np.argmax(values > most))
            raise reader.error(row, name, "too large", float(values[row]), f"a whole number from 1 to {most:,}")
        columns[name] = values.astype(int).tolist()
    columns[VERSION] = [str(text or "").strip() or UNKNOWN for text in raw.column(VERSION).to_pylist()]
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return ServingTable(path, kind, rows, _seconds(reader, "ttft_ms"), _seconds(reader, "tpot_ms"), raw)


def _seconds(reader: Cells, name: str) -> np.ndarray:
    """A measured column of milliseconds in seconds; nan where it is empty or absent."""
    if name not in reader.raw.column_names:
        return np.full(reader.raw.num_rows, np.nan)
    allowed = "milliseconds above 0, or nothing"
    values = reader.numbers(name, allowed)
    bad = (values < LEAST_MS) | (values > MOST_MS)
    if bad.any():
        row = int(np.argmax(bad))
        problem = "zero or negative" if values[row] <= 0 else "not a time"
        raise reader.error(row, name, problem, float(values[row]), allowed)
    return values * 1e-3
