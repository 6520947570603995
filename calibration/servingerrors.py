"""How far predicted deployments are from measured ones: error tables, the weakest deployments, and what planning by the
predictions would lose.

Errors are those of `calibration.validation`: |predicted / measured - 1|, at most 1. Tables are over the rows that were
predicted; the rest is counted by its reason, and `with_unpredicted` has the mean with each of them as 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from calibration.layertables import text_codes
from calibration.servingreplay import Replay
from calibration.servingtables import LABELS, LAYOUT, SIDE, SIDES, ServingTable, gpus_of
from calibration.tables import check_suffix
from calibration.validation import Errors, by, csv_bytes, parquet_bytes, summary, typed
from simulator.files import replace_file

SCHEMA = "kinesim-validate-serving/1"
METRICS = ("tpot", "ttft")
GROUPED = ("gpu", "family", "engine", "precision", "users", "lengths", "GPUs", "profile")
DEPLOYMENT = ("model", "engine", "gpu", "precision", "layout")
"""What makes a deployment: tables are split by it when something is fitted, never by row."""
ADDED = (
    "predicted_ttft_ms", "predicted_tpot_ms", "predicted_tpot_low_ms", "predicted_tpot_high_ms", "profile", "reason",
)  # fmt: skip
WORST = 12
SPREAD, FALLING = 0.05, 1.25
"""`odd_rows` says of what."""
FAMILIES = ("Llama", "Qwen3.5", "Qwen3", "gpt-oss", "MiniMax", "Mixtral", "DeepSeek", "Kimi", "GLM")
BANDS = ((4, "up to 4"), (16, "5 to 16"), (64, "17 to 64"), (256, "65 to 256"))
MANY = "above 256"

LEAST_ROWS = 10
OBJECTIVES = (0.2, 0.4, 0.6, 0.8)
SLACK = 1.05
"""A choice that misses the objective by more than this factor is worth nothing."""


def family(model: str) -> str:
    """Of which models it is one, by its name."""
    name = model.rpartition("/")[2]
    return next((part for part in FAMILIES if part.lower() in name.lower()), name)


def users(concurrency: int) -> str:
    """The band of a number of users."""
    return next((words for most, words in BANDS if concurrency <= most), MANY)


def layout(row: dict[str, Any]) -> str:
    """A row's parallel layout: tp4, tp1 dp8 ep8."""
    if "prefill_workers" in row:
        return ", ".join(
            f"{side} {row[f'{side}_workers']} x {_parts({name: row[f'{side}_{name}'] for name in SIDE})}"
            for side in SIDES
        )
    return _parts(row)


def _parts(sizes: dict[str, Any]) -> str:
    short = {"tp": "tp", "pp": "pp", "attention_dp": "dp", "moe_tp": "moe_tp", "moe_ep": "ep"}
    names = [name for name in LAYOUT if name in sizes]
    shown = [name for name in names if name == "tp" or (sizes[name] > 1 and name != "moe_tp")]
    return " ".join(f"{short[name]}{sizes[name]}" for name in shown)


def errors_of(table: ServingTable, replays: Sequence[Replay], metric: str) -> Errors:
    """Errors of `tpot` or `ttft`, of rows that were measured and predicted, and the keys that they are grouped by."""
    measured = table.tpot if metric == "tpot" else table.ttft
    predicted = np.array([getattr(entry, metric) for entry in replays])
    pick = np.flatnonzero(~np.isnan(measured) & ~np.isnan(predicted))
    measured, predicted = measured[pick], predicted[pick]
    ratio = predicted / measured
    low, high = (np.array([entry.interval[side] for entry in replays])[pick] for side in (0, 1))
    inside = (measured >= low) & (measured <= high) if metric == "tpot" else np.zeros(len(pick), dtype=bool)
    rows = [table.rows[i] for i in pick.tolist()]
    values: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in LABELS}
    values["family"] = [family(row["model"]) for row in rows]
    values["layout"] = [layout(row) for row in rows]
    values["GPUs"] = [gpus_of(row) for row in rows]
    values["profile"] = [replays[i].profile for i in pick.tolist()]
    keys = {name: text_codes(column) for name, column in values.items()}
    keys["users"] = _ordered([users(row["concurrency"]) for row in rows], (*(words for _, words in BANDS), MANY))
    pairs = [(row["input_len"], row["output_len"]) for row in rows]
    keys["lengths"] = _ordered([_lengths(p) for p in pairs], [_lengths(p) for p in sorted(set(pairs))])
    return Errors(pick, measured, predicted, ratio, np.minimum(np.abs(ratio - 1), 1.0), inside, keys)


def _lengths(pair: tuple[int, int]) -> str:
    return f"{pair[0]:,} in, {pair[1]:,} out"


def _ordered(values: list[str], order: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Texts in an order of their own, and int32 [n] into them."""
    at = {text: i for i, text in enumerate(order)}
    return list(order), np.array([at[value] for value in values], dtype=np.int32)


# ---- planning --------------------------------------------------------------------------------------------------------


def rates(table: ServingTable, ttft: np.ndarray, tpot: np.ndarray) -> np.ndarray:
    """Output tokens per second and GPU of closed loops, by Little's law: users x output / end-to-end latency / GPUs."""
    users_, output, gpus = (
        np.array([value(row) for row in table.rows], dtype=float)
        for value in (lambda row: row["concurrency"], lambda row: row["output_len"], gpus_of)
    )
    return np.asarray(users_ * output / (ttft + (output - 1) * tpot) / gpus)


def planning_loss(table: ServingTable, replays: Sequence[Replay]) -> dict[str, Any] | None:
    """What somebody loses who chooses deployments by the predictions; None where no group is large enough.

    For each gpu, model, precision and lengths with at least ten measured rows, and each of four objectives (the 20th to
    80th percentile of their measured TPOT), he takes the row with the highest predicted output tokens/s/GPU whose
    predicted TPOT meets the objective. The loss is the share of the best attainable measured rate that he misses; 1
    where the choice misses the objective by more than 5 %, or where he finds none. `mean` is over all these choices,
    `predicted` over those among rows that were all predicted (None if there are none).
    """
    predicted_tpot = np.array([entry.tpot for entry in replays])
    rate = rates(table, table.ttft, table.tpot)
    predicted_rate = rates(table, np.array([entry.ttft for entry in replays]), predicted_tpot)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, row in enumerate(table.rows):
        if not np.isnan(rate[i]):
            names = ("gpu", "model", "precision", "input_len", "output_len")
            groups.setdefault(tuple(row[name] for name in names), []).append(i)
    losses, complete = [], []
    for members in groups.values():
        pick = np.array(members)
        if len(pick) < LEAST_ROWS:
            continue
        for objective in np.quantile(table.tpot[pick], OBJECTIVES):
            best = rate[pick][table.tpot[pick] <= objective].max()
            fine = pick[predicted_tpot[pick] <= objective]
            chosen = fine[np.argmax(predicted_rate[fine])] if len(fine) else None
            kept = chosen is not None and table.tpot[chosen] <= SLACK * objective
            losses.append(1 - min(1.0, float(rate[chosen] / best)) if kept else 1.0)
            complete.append(not np.isnan(predicted_rate[pick]).any())
    if not losses:
        return None
    own = [loss for loss, all_there in zip(losses, complete, strict=True) if all_there]
    return {
        "mean": float(np.mean(losses)),
        "choices": len(losses),
        "predicted": float(np.mean(own)) if own else None,
        "predicted_choices": len(own),
    }


# ---- the answer ------------------------------------------------------------------------------------------------------


def document(table: ServingTable, replays: Sequence[Replay], profile: str | None = None) -> dict[str, Any]:
    """What `kinesim validate serving --format json` prints; documented in docs/serving-tables.md."""
    predicted = [entry for entry in replays if not entry.reason]
    out: dict[str, Any] = {
        "schema": SCHEMA,
        "table": str(table.path),
        "rows": len(table),
        "predicted": len(predicted),
        "profile": profile,
        "profiles": _counts(entry.profile for entry in predicted),
        "unpredicted": _counts(entry.reason for entry in replays if entry.reason),
        "versions": _counts(entry.note for entry in predicted if entry.note),
        "tpot": None,
        "ttft": None,
        "worst_deployments": [],
        "planning_loss": None,
    }
    errors = {metric: errors_of(table, replays, metric) for metric in METRICS}
    for metric, found in errors.items():
        if len(found.error):
            out[metric] = {
                "all": _summary(summary(found), metric),
                "with_unpredicted": _with_unpredicted(table, replays, metric),
                "by": {name: [_summary(group, metric) for group in by(found, name)] for name in GROUPED},
            }
    if all(len(found.error) for found in errors.values()):
        out["worst_deployments"] = worst_deployments(errors)
        out["planning_loss"] = planning_loss(table, replays)
    return out


def _summary(group: dict[str, Any], metric: str) -> dict[str, Any]:
    return group if metric == "tpot" else group | {"covered": None}  # of TTFT there is no interval


def _with_unpredicted(table: ServingTable, replays: Sequence[Replay], metric: str) -> float:
    measured = table.tpot if metric == "tpot" else table.ttft
    predicted = np.array([getattr(entry, metric) for entry in replays])
    error = np.minimum(np.nan_to_num(np.abs(predicted / measured - 1), nan=1.0), 1.0)
    return float(error[~np.isnan(measured)].mean())


def _counts(texts: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        found[text] = found.get(text, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def worst_deployments(errors: dict[str, Errors], count: int = WORST) -> list[dict[str, Any]]:
    """The deployments with the largest mean error of TPOT and TTFT together, with both errors and biases."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for metric in METRICS:
        for group in by(errors[metric], *DEPLOYMENT):
            entry = found.setdefault(tuple(group[name] for name in DEPLOYMENT), {n: group[n] for n in DEPLOYMENT})
            entry |= {"rows": group["rows"], f"{metric}_error": group["mean"], f"{metric}_bias": group["bias"]}
    both = [entry for entry in found.values() if all(f"{metric}_error" in entry for metric in METRICS)]
    return sorted(both, key=lambda e: -(e["tpot_error"] + e["ttft_error"]))[:count]


def odd_rows(table: ServingTable) -> list[tuple[int, str]]:
    """Measured rows that contradict their own repeats or their neighbours, with what is odd about each.

    A row is odd where its runs' TPOT was spread by more than SPREAD, or where its TTFT is more than FALLING times that
    of the same deployment with the next larger number of users: more users never wait less.
    """
    found = []
    if "tpot_spread" in table.raw.column_names:
        for i, text in enumerate(table.raw.column("tpot_spread").to_pylist()):
            if text not in (None, "") and float(text) > SPREAD:
                found.append((i, f"runs differ by more than {100 * SPREAD:.0f} % in TPOT"))
    loops: dict[tuple[Any, ...], list[int]] = {}
    for i, row in enumerate(table.rows):
        if not np.isnan(table.ttft[i]):
            loops.setdefault(tuple(row[name] for name in row if name != "concurrency"), []).append(i)
    for members in loops.values():
        order = sorted(members, key=lambda i: int(table.rows[i]["concurrency"]))
        for i, after in pairwise(order):
            if table.ttft[i] > FALLING * table.ttft[after]:
                found.append((i, f"TTFT more than {FALLING:g} times that with more users"))
    return found


def write_serving(table: ServingTable, replays: Sequence[Replay], path: Path) -> None:
    """The rows as they were read, with ADDED beside them, as CSV or Parquet; cells are empty without a prediction."""
    as_csv = check_suffix(path) == ".csv"
    columns: dict[str, Any] = {n: table.raw.column(n) for n in table.raw.column_names if n not in ADDED}
    if not as_csv and table.path.suffix.lower() == ".csv":
        columns = {name: typed(column) for name, column in columns.items()}
    values = {
        "predicted_ttft_ms": [entry.ttft for entry in replays],
        "predicted_tpot_ms": [entry.tpot for entry in replays],
        "predicted_tpot_low_ms": [entry.interval[0] for entry in replays],
        "predicted_tpot_high_ms": [entry.interval[1] for entry in replays],
    }
    for name, seconds in values.items():
        columns[name] = pa.array([None if np.isnan(v) else round(v * 1e3, 4) for v in seconds], pa.float64())
    for name in ("profile", "reason"):
        columns[name] = pa.array([getattr(entry, name) for entry in replays], pa.string())
    out = pa.table(columns)
    replace_file(path, csv_bytes(out, path) if as_csv else parquet_bytes(out))
