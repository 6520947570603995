"""What the tables of a folder say about the kernels as measuring sticks: near the hardware, or near the libraries?"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from calibration.measure.costs import load_of
from calibration.measure.figures import Figures
from calibration.measure.plan import GQA
from calibration.measure.tablefiles import files_of, measured_rows
from calibration.measure.task import SHAPES

FIT_TABLES = ("gemm", "attention_decode", "attention_prefill", "moe", "collective", "elementwise", "page_topk")
"""Tables that `kinesim calibrate fit` takes."""
LEAST_ROWS = 8
"""Rows that it needs of one."""


class Goal(NamedTuple):
    """`found` of what is compared with, a fraction; `wanted` at least."""

    what: str
    found: float
    wanted: float
    detail: str

    @property
    def reached(self) -> bool:
        return self.found >= self.wanted


def counts(folder: Path) -> dict[str, int]:
    """Measured rows by file, of all tables of the folder. Raises InputError for a table that is none."""
    files = sorted(file for table in SHAPES for file in files_of(table))
    found = {file: sum(1 for _ in measured_rows(folder / f"{file}.csv")) for file in files}
    return {file: rows for file, rows in found.items() if rows}


def goals(folder: Path, figures: Figures) -> list[Goal]:
    """The goals that the folder's tables have rows for. Bandwidths are fractions of the GPU file's peak; where that is
    an estimate there are none.
    """
    found: list[Goal] = []
    if not figures.estimated:
        for op, wanted in (("read", 0.9), ("copy", 0.85)):
            rows = [r for r in measured_rows(folder / "elementwise.csv") if r["op"] == op]
            far = [r for r in rows if _bytes(r) >= 8 * figures.l2]
            if far:
                best = max(_bytes(r) / _seconds(r) for r in far)
                detail = f"{best / 1e12:.2f} TB/s of {figures.bandwidth / 1e12:.2f}, {len(rows)} sizes"
                found.append(Goal(f"{op} from HBM", best / figures.bandwidth, wanted, detail))
        for row in measured_rows(folder / "attention_decode.csv"):
            if row["kernel"] == "triton" and _is(row, batch=64, context_len=32_768, kv_dtype="bf16", **_heads()):
                moved = load_of("attention_decode", _typed(row)).moved
                rate = moved / _seconds(row)
                detail = f"{rate / 1e12:.2f} TB/s; batch 64, context 32k, GQA 4"
                found.append(Goal("decode attention of HBM's peak", rate / figures.bandwidth, 0.8, detail))
    cubes: dict[str, int | str] = {"dtype": "bf16", "m": 8192, "n": 8192, "k": 8192}
    prompt: dict[str, int | str] = {
        "batch": 1,
        "query_len": 8192,
        "past_len": 0,
        "kv_dtype": "bf16",
        "window": 0,
        **_heads(),
    }
    for table, shape, wanted, detail in (
        ("gemm", cubes, 0.8, "bf16 8192^3"),
        ("attention_prefill", prompt, 0.6, "8,192 tokens, 32 heads, GQA 4"),
    ):
        for row in measured_rows(folder / f"{table}.csv"):
            library = _number(row.get("baseline_us"))
            if library is not None and _is(row, **shape):
                share = library / (_seconds(row) * 1e6)
                found.append(Goal(f"{table} of {row['baseline']}", share, wanted, detail))
    return found


def next_commands(folder: Path, gpu: str) -> list[str]:
    """The commands that make a profile of the folder's tables and check it."""
    measured, path = counts(folder), shlex.quote(str(folder))
    tables = [f"{path}/{name}.csv" for name in FIT_TABLES if measured.get(name, 0) >= LEAST_ROWS]
    if not tables:
        return []
    profile = f"{path}/profiles/{gpu}@triton.npz"
    lines = [f"kinesim calibrate fit {' '.join(tables)} --out {path}/profiles --force"]
    lines += [
        f"kinesim validate kernels {path}/{name}-check.csv --profile {profile}"
        for name in FIT_TABLES
        if f"{name}-check" in measured and measured.get(name, 0) >= LEAST_ROWS
    ]
    if "layer" in measured:
        lines.append(f"kinesim validate layers {path}/layer.csv --profile {profile}")
    if "kinetics" in measured:
        lines.append(f"kinesim calibrate kinetics-h200 --measured {path}/kinetics.csv --profile {profile}")
    return lines


def _heads() -> dict[str, int]:
    return dict(zip(("q_heads", "kv_heads", "head_dim"), GQA, strict=True))


def _is(row: Mapping[str, str], **shape: int | str) -> bool:
    return all(row.get(name) == str(value) for name, value in shape.items())


def _typed(row: Mapping[str, str]) -> dict[str, int | str]:
    return {name: int(text) if text.isdigit() else text for name, text in row.items() if text is not None}


def _bytes(row: Mapping[str, str]) -> float:
    return float(row["rows"]) * float(row["row_bytes"])


def _seconds(row: Mapping[str, str]) -> float:
    return float(row["latency_us"]) * 1e-6


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value > 0 else None
