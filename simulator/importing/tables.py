"""Measurements in tables: deployments under load, a row each (`docs/serving-tables.md`), and requests, a row each.

Checked here is what a comparison needs; `kinesim validate serving` checks all of a serving table.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError, near_matches
from simulator.importing.measurement import (
    Load,
    Measurement,
    check_requests,
    in_order,
    request_statistics,
    tpot_of,
)

if TYPE_CHECKING:
    import pandas as pd

SERVING = ("gpu", "model", "engine", "precision", "input_len", "output_len", "concurrency")
LABELS = ("gpu", "model", "engine", "engine_version", "precision")
LAYOUT = ("tp", "pp", "attention_dp", "moe_tp", "moe_ep")
COLUMNS = {
    "arrival_s": ("arrival_s", "submitted_s"),
    "input_len": ("input_len", "prompt_tokens"),
    "output_len": ("output_len", "generated", "output_tokens"),
    "ttft_s": ("ttft_s", "ttft_ms"),
    "tpot_s": ("tpot_s", "tpot_ms"),
    "e2e_s": ("e2e_s", "e2e_ms"),
}
"""What is known of a request -> the columns that may say it, the first one there counts."""
EXPECTED = (
    "a serving table (gpu, model, engine, precision, input_len, output_len, concurrency, ..., ttft_ms, tpot_ms) or a "
    "row a request with some of arrival_s, input_len, output_len, and ttft_ms, tpot_ms or e2e_ms (or ttft_s, ...)"
)


def read_table(path: Path) -> pd.DataFrame:
    """A .csv or .parquet file. Raises InputError."""
    import pandas as pd

    if not path.is_file():
        raise InputError("is a folder, not a file" if path.is_dir() else "no such file", file=path)
    try:
        table = pd.read_parquet(path) if path.suffix.lower() == ".parquet" else pd.read_csv(path, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # pandas' and pyarrow's errors are ValueErrors
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"is not a table that can be read ({words})", file=path, allowed=EXPECTED) from None
    table.columns = [str(name).strip() for name in table.columns]
    return table


def read_measured_table(path: Path) -> list[Measurement]:
    """A serving table, one measurement a row, or a table of requests, which is one. Raises InputError."""
    table = read_table(path)
    if len(table) == 0:
        raise InputError("has no rows", file=path, allowed="a header and at least one row")
    if "concurrency" in table and ("ttft_ms" in table or "tpot_ms" in table):
        return _serving(path, table)
    return [requests_measurement(path, table)]


def _serving(path: Path, table: pd.DataFrame) -> list[Measurement]:
    missing = [name for name in SERVING if name not in table]
    if missing:
        raise InputError(f"the column {missing[0]} is missing", file=path, found=", ".join(table), allowed=EXPECTED)
    whole = {name: _numbers(path, table, name, whole=True) for name in ("input_len", "output_len", "concurrency")}
    times = {
        name: _numbers(path, table, f"{name}_ms", empty=True) for name in ("ttft", "tpot") if f"{name}_ms" in table
    }
    found = []
    for i, row in enumerate(table.to_dict("records")):
        statistics = {f"{name}_s.mean": float(v[i]) / 1e3 for name, v in times.items() if np.isfinite(v[i])}
        load = Load(
            requests=None,
            input_len=float(whole["input_len"][i]),
            output_len=float(whole["output_len"][i]),
            concurrency=int(whole["concurrency"][i]),
        )
        facts: dict[str, Any] = {name: str(row[name]) for name in LABELS if name in row and row[name] == row[name]}
        facts |= {name: int(row[name]) for name in LAYOUT if name in row and row[name] == row[name]}
        notes = ("a serving table's lengths are nominal; how many requests were sent is not in it",)
        found.append(
            Measurement(path, "serving table", f"{path.stem}-{i + 1}", load, statistics, facts=facts, notes=notes)
        )
    return found


def requests_measurement(path: Path, table: pd.DataFrame) -> Measurement:
    """A table of requests as a measurement. Raises InputError if it says nothing of their times."""
    columns: dict[str, np.ndarray] = {}
    for name, names in COLUMNS.items():
        column = next((own for own in names if own in table), None)
        if column is not None:
            scale = 1e-3 if column.endswith("_ms") else 1.0
            columns[name] = _numbers(path, table, column, empty=name.endswith("_s")) * scale
    if not columns.keys() & {"ttft_s", "tpot_s", "e2e_s"}:
        near = near_matches("ttft_ms", table)
        raise InputError("no column says how long requests took", file=path, found=near, allowed=EXPECTED)
    answered = np.ones(len(table), dtype=bool)
    if "status" in table:  # as `kinesim run` writes it: 0 is finished
        answered = np.isin(table["status"].to_numpy(), (0, "finished"))
    latencies = [columns[name] for name in ("ttft_s", "e2e_s") if name in columns]
    if latencies:
        answered &= np.isfinite(np.array(latencies)).any(axis=0)
    failed = int((~answered).sum())
    if failed == len(table):
        allowed = "at least one" + ("; a status of 0 or `finished`, or no such column" if "status" in table else "")
        raise InputError("no request was answered", file=path, found=f"{failed} rows", allowed=allowed)
    columns = {name: values[answered] for name, values in columns.items()}
    if "e2e_s" not in columns and {"ttft_s", "tpot_s", "output_len"} <= columns.keys():
        more = columns["output_len"] - 1
        columns["e2e_s"] = columns["ttft_s"] + np.where(more > 0, columns["tpot_s"] * more, 0.0)
    if "tpot_s" not in columns and {"ttft_s", "e2e_s", "output_len"} <= columns.keys():
        columns["tpot_s"] = tpot_of(columns["ttft_s"], columns["e2e_s"], columns["output_len"])
    columns = in_order(columns)
    check_requests(columns, path)
    means = {name: float(values.mean()) for name, values in columns.items() if name.endswith("_len")}
    load = Load(
        requests=len(table) - failed,
        failed=failed,
        input_len=means.get("input_len"),
        output_len=means.get("output_len"),
        known="arrival_s" in columns,
    )
    notes = (f"{failed:,} of {len(table):,} requests were not answered and are left out",) if failed else ()
    return Measurement(path, "requests", path.stem, load, request_statistics(columns), columns, notes=notes)


def _numbers(path: Path, table: pd.DataFrame, name: str, *, whole: bool = False, empty: bool = False) -> np.ndarray:
    """A column as float64; cells that are empty are NaN where that is allowed. Raises InputError with the row."""
    import pandas as pd

    values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
    blank = table[name].isna().to_numpy()
    allowed = "a whole number from 1 on" if whole else "a number" + (", or nothing" if empty else "")
    bad = np.isnan(values) & ~(blank & empty)
    if whole:
        bad |= ~((values >= 1) & (values == np.floor(values)))
    if bad.any():
        row = int(np.argmax(bad))
        cell = table[name].iloc[row]
        found = "empty" if blank[row] else cell.item() if isinstance(cell, np.generic) else cell
        raise InputError("not a number", file=path, place=f"row {row + 1}, column {name}", found=found, allowed=allowed)
    return values
