"""`kinesim validate layers`: whole decode and prefill layers, as measured, beside the sum of their operators' times.

The validation that counts: parts that were fitted one by one must add up to a layer in which they run one after the
other, with whatever overlap and gaps there are between launches. Errors are those of `calibration.validation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from calibration.errortables import console_of, percent, plain_table
from calibration.layertables import LayerTable, read_layers, text_codes
from calibration.validation import Errors, by, check_output, check_suffix, csv_bytes, parquet_bytes, summary
from hwspecs.errors import InputError
from hwspecs.gpu import Gpu, load_gpu
from simulator.calibrated import FALLBACK, Calibrated, load_cost_profile
from simulator.files import replace_file
from simulator.layertime import LayerTime, layer_time
from simulator.printing import print_json
from simulator.profile import Profile, load_profile
from simulator.selection import Selection

SCHEMA = "kinesim-validate-layers/1"
GROUPED = ("gpu", "model", "phase", "attention", "tp", "batch", "query", "context")
ADDED = ("predicted_us", "bound", "profile")
WORST = 10


def validate_layers(table: Path, *, out: Path | None = None, profile: str | None = None, as_json: bool = False) -> None:
    """Predict every layer of `table`, print how far off that is, and write the rows with predictions to `out`.

    `profile` times all rows (a name or a file); left out, the nearest to each row's GPU and software does. Raises
    InputError; nothing is written before everything has been predicted.
    """
    if out is not None:
        check_output(out, table)
    rows = read_layers(table)
    times, names = predict_layers(rows, profile)
    answer = document(rows, times, names, profile)
    if out is not None:
        write_layers(rows, times, names, out)
    if as_json:
        print_json(answer)
    else:
        show(answer, out)


def predict_layers(rows: LayerTable, profile: str | None = None) -> tuple[list[LayerTime], list[str]]:
    """For every row, the predicted times and the name of the profile. Raises InputError."""
    times, names = [], []
    for row, case in zip(rows.rows, rows.cases, strict=True):
        gpu, timed_by = _cost(row["gpu"], row["software"], profile)
        try:
            times.append(layer_time(case, gpu, timed_by))
        except InputError as error:
            raise error.at(file=rows.path) from None
        names.append(timed_by.name)
    return times, names


@lru_cache(maxsize=64)
def _cost(gpu: str, software: str, profile: str | None) -> tuple[Gpu, Profile | Calibrated]:
    loaded = load_gpu(gpu)
    return loaded, cost_of(loaded, software, profile)


def asked_profile(profile: str, gpu: Gpu) -> Profile | Calibrated:
    """The profile that `--profile` names, on `gpu`. Raises InputError with that place."""
    try:
        return load_cost_profile(profile, gpu)
    except InputError as error:
        place = "--profile" if error.place == "profile" else error.place
        raise InputError(
            error.problem, file=error.file, place=place, line=error.line, found=error.found, allowed=error.allowed
        ) from None


def cost_of(gpu: Gpu, software: str, profile: str | None) -> Profile | Calibrated:
    """What times operators on `gpu`: the profile asked for, or the nearest to the software. Raises InputError."""
    if profile is not None:
        return asked_profile(profile, gpu)
    return Calibrated(gpu, Selection(gpu, software=software), load_profile(FALLBACK))


# ---- errors ----------------------------------------------------------------------------------------------------------


def errors_of(rows: LayerTable, times: Sequence[LayerTime], names: Sequence[str]) -> Errors:
    """Errors of the rows that were measured, and the keys that they are grouped by."""
    pick = np.flatnonzero(~np.isnan(rows.seconds))
    measured = rows.seconds[pick]
    predicted = np.array([time.seconds for time in times])[pick]
    ratio = predicted / measured
    values: dict[str, list[Any]] = {
        "gpu": [row["gpu"] for row in rows.rows],
        "model": [case.model.name for case in rows.cases],
        "phase": [case.phase for case in rows.cases],
        "attention": [row["attention"] for row in rows.rows],
        "tp": [case.tensor for case in rows.cases],
        "batch": [case.batch for case in rows.cases],
        "query": [case.query for case in rows.cases],
        "context": [case.context for case in rows.cases],
        "profile": list(names),
    }
    keys = {name: text_codes([column[i] for i in pick.tolist()]) for name, column in values.items()}
    error = np.minimum(np.abs(ratio - 1), 1.0)
    return Errors(pick, measured, predicted, ratio, error, np.zeros(len(pick), dtype=bool), keys)


def shares(rows: LayerTable, times: Sequence[LayerTime]) -> list[dict[str, Any]]:
    """For every phase and attention, the mean share of the predicted time that each operator has."""
    groups: dict[tuple[str, str], list[LayerTime]] = {}
    for row, case, time in zip(rows.rows, rows.cases, times, strict=True):
        groups.setdefault((case.phase, row["attention"]), []).append(time)
    out = []
    for (phase, attention), members in sorted(groups.items()):
        names = dict.fromkeys(name for time in members for name in time.operators)
        mean = {
            name: float(np.mean([_seconds(time, name) / time.seconds for time in members if name in time.operators]))
            for name in names
        }
        out.append({"phase": phase, "attention": attention, "rows": len(members), "operators": mean})
    return out


def _seconds(time: LayerTime, name: str) -> float:
    return float(time.operators[name].seconds)


def worst(rows: LayerTable, errors: Errors, count: int = WORST) -> list[dict[str, Any]]:
    """The rows that are off the most, with their line's number from 0."""
    order = np.argsort(-np.abs(np.log(errors.ratio)), kind="stable")[:count]
    out = []
    for i in order.tolist():
        row = int(errors.rows[i])
        micro = {"measured_us": float(errors.measured[i] * 1e6), "predicted_us": float(errors.predicted[i] * 1e6)}
        out.append({"row": row, **rows.rows[row], **micro, "ratio": float(errors.ratio[i])})
    return out


def document(
    rows: LayerTable, times: Sequence[LayerTime], names: Sequence[str], profile: str | None = None
) -> dict[str, Any]:
    """What `--format json` prints; documented in docs/kinetics-experiment.md."""
    errors = errors_of(rows, times, names)
    out: dict[str, Any] = {
        "schema": SCHEMA,
        "table": str(rows.path),
        "rows": len(rows),
        "profile": profile,
        "profiles": {name: list(names).count(name) for name in sorted(set(names))},
        "shares": shares(rows, times),
        "latency": None,
    }
    if len(errors.error):
        out["latency"] = {
            "all": _without_interval(summary(errors)),
            "by": {name: [_without_interval(group) for group in by(errors, name)] for name in GROUPED},
            "worst_rows": worst(rows, errors),
        }
    return out


def _without_interval(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "covered"}


# ---- files and terminal ----------------------------------------------------------------------------------------------


def write_layers(rows: LayerTable, times: Sequence[LayerTime], names: Sequence[str], path: Path) -> None:
    """The rows as they were read, with `predicted_us`, `bound` and `profile` beside them, as CSV or Parquet."""
    columns: dict[str, Any] = {n: rows.raw.column(n) for n in rows.raw.column_names if n not in ADDED}
    columns["predicted_us"] = pa.array([round(time.seconds * 1e6, 4) for time in times], pa.float64())
    columns["bound"] = pa.array([time.bound for time in times], pa.string())
    columns["profile"] = pa.array(list(names), pa.string())
    out = pa.table(columns)
    replace_file(path, csv_bytes(out, path) if check_suffix(path) == ".csv" else parquet_bytes(out))


def show(answer: dict[str, Any], out: Path | None) -> None:
    """Error tables, worst rows and where the predicted time goes, on a terminal."""
    console = console_of()
    profiles = ", ".join(f"{name} ({count:,})" for name, count in answer["profiles"].items())
    console.print(f"{answer['table']}: {answer['rows']:,} layers, timed by {profiles}", style="bold")
    latency = answer["latency"]
    if latency is None:
        console.print("Nothing was measured in this table (no latency_us, in microseconds): predictions only.")
    else:
        _show_errors(console, latency)
    console.print()
    console.print(_shares(answer["shares"]))
    if out is not None:
        console.print(f"written: {out}", style="dim")


def _shares(groups: list[dict[str, Any]]) -> Any:
    table = plain_table("Where the predicted time goes: mean share of each operator")
    table.add_column("", no_wrap=True, min_width=16)
    for group in groups:
        table.add_column(f"{group['phase']}, {group['attention']}", justify="right", no_wrap=True)
    for name in dict.fromkeys(name for group in groups for name in group["operators"]):
        table.add_row(name, *(percent(group["operators"].get(name)) for group in groups))
    return table


def _show_errors(console: Any, latency: dict[str, Any]) -> None:
    every = latency["all"]
    console.print(
        f"Errors of the whole layer: mean {percent(every['mean'])}, median {percent(every['median'])}, 90th percentile "
        f"{percent(every['p90'])}, bias {percent(every['bias'], True)} ({every['rows']:,} measured rows)",
        style="bold",
    )
    console.print(
        "error: |predicted / measured - 1|, at most 100 % a row; bias: median of predicted / measured - 1", style="dim"
    )
    for name, groups in latency["by"].items():
        if len(groups) < 2:
            continue
        table = plain_table(f"By {name}")
        table.add_column("", no_wrap=True, min_width=16)
        for column in ("rows", "mean", "median", "p90", "bias"):
            table.add_column(column, justify="right", no_wrap=True)
        for group in groups:
            cells = [percent(group[key]) for key in ("mean", "median", "p90")]
            table.add_row(group[name], f"{group['rows']:,}", *cells, percent(group["bias"], True))
        console.print()
        console.print(table)
    table = plain_table("Rows that are off the most")
    shown = ("model", "phase", "attention", "tp", "batch", "query_len", "context_len")
    for column in (*shown, "measured", "predicted", "off"):
        table.add_column(column, justify="left" if column in shown[:3] else "right", no_wrap=True)
    for row in latency["worst_rows"]:
        cells = [f"{row[name]:,}" if isinstance(row[name], int) else str(row[name]) for name in shown]
        micro = [f"{row[name]:,.1f} us" for name in ("measured_us", "predicted_us")]
        table.add_row(*cells, *micro, percent(row["ratio"] - 1, True))
    console.print()
    console.print(table)
