"""Fits the power model to readings of a board's power while kernels repeat.

    python -m calibration.power [DATA] [--out FOLDER]

The readings lag. Of kernels that were measured one after another, reading i is taken as

    r_i = P_i + exp(-(a + b t_i^c)) (r_{i-1} - P_i)

with P the steady power and t the time of one repetition (longer kernels keep the board busy for longer). Constants and
lags are fitted together so that whole chains of readings follow from their first one (an output-error fit). Chains are
rows whose order is that of the measurement: one MoE layer over its tokens, and attention with an fp8 cache, heads by
heads; with a bf16 cache the rows of several workers are mixed. The error is robust, because a kernel that had to be
compiled first starts from the board awake and idle.

Bytes of HBM and of the L2 mostly go together, and so do FLOPs of fp8 and bf16 in time: what the readings leave open is
held near what is known of the hardware (`PRIOR`). What readings hold besides the power is learned by trees and kept
apart (`simulator.powerreading`).
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from calibration.boosting import fit_trees
from calibration.tables import KernelTable, read_kernels
from hwspecs.gpu import Gpu, load_gpu
from simulator.files import replace_file
from simulator.fitted import Fitted, Group
from simulator.kernels.base import KernelWork
from simulator.kernels.formats import compute_format
from simulator.kernels.registry import MODELS
from simulator.power import Joules, _watts
from simulator.profilefile import quantised, to_bytes

DATA = Path(__file__).resolve().parents[1].parent / "shared/data/silicon"
HELD_OUT = 0.25
SHARP = 12
"""Sharpness of the limit in the fit (a p-norm): a kernel near it is held there part of the time."""
READ = {"awake": 243.0, "limit": 985.0}
"""Watts read off the tables: their lowest reading, and where the readings of large kernels gather."""
FITTED = ("sms", "bf16", "fp8", "hbm", "l2", "moe")
START = (60.0, 0.5, 0.25, 40.0, 20.0, 2.0)
LOW = (0.0, 0.05, 0.02, 5.0, 2.0, 0.5)
HIGH = (400.0, 3.0, 3.0, 150.0, 100.0, 6.0)
"""Watts, picojoules, and the factor of the experts' kernel."""
PRIOR = {"hbm": 40.0, "l2": 20.0}
"""pJ per byte: HBM 3.9 pJ/bit (O'Connor et al., "Fine-Grained DRAM", MICRO 2017) and the way to the L2; from the L2 to
an SM about half of that, an estimate. fp8 costs half of bf16, bit by bit.
"""
PRIOR_WEIGHT = 8.0
"""Per e-fold. It costs 4 % of the fit's objective and hardly any error of the readings."""
ROBUST = 0.1
LAG_START, LAG_LOW, LAG_HIGH = (0.1, 5.0, 1.0), (0.0, 0.0, 0.1), (3.0, 30.0, 2.0)
SIZE = 9_000
"""Each table counts as so many rows."""
TREES, DEPTH = 300, 7


@dataclass(frozen=True)
class Readings:
    """Rows of one table: counts of their kernels and what was read.

    work : counts [n] of each field. bf16 : multiplies in bf16, else in fp8. seconds, watts : [n]. chains : int [steps,
    chains], rows in the order of their measurement, -1 after a chain's end.
    """

    kind: str
    work: KernelWork
    bf16: np.ndarray
    seconds: np.ndarray
    watts: np.ndarray
    chains: np.ndarray


def readings_of(table: KernelTable, gpu: Gpu) -> Readings:
    """The table's rows with the counts of their kernels."""
    model = MODELS[table.kind]
    parts = [np.zeros(len(table)) for _ in KernelWork._fields]
    bf16 = np.zeros(len(table), dtype=bool)
    for label, rows in table.groups(model.labels):
        shape = {name: table.columns[name][rows] for name in model.columns}
        for part, values in zip(parts, model.work(shape, label, gpu), strict=True):
            part[rows] = values
        bf16[rows] = compute_format(label["dtype"], gpu) == "bf16"
    return Readings(table.kind, KernelWork(*parts), bf16, table.seconds, table.watts, chains_of(table))


def chains_of(table: KernelTable) -> np.ndarray:
    """Rows that were measured one after another, a column a chain."""
    model = MODELS[table.kind]
    rows = np.arange(len(table)) if table.kind == "moe" else np.flatnonzero(table.columns["kv_dtype"] == "fp8")
    names = [name for name in model.columns if name not in WITHIN]
    columns = [table.columns[name] for name in names] + [table.codes[name][1] for name in model.labels]
    if not len(rows):
        return np.zeros((0, 0), dtype=np.int64)
    key = np.unique(np.stack([c[rows] for c in columns]), axis=1, return_inverse=True)[1].ravel()
    order = np.argsort(key, kind="stable")
    rows, key = rows[order], key[order]
    step = np.arange(len(key)) - np.searchsorted(key, key)
    chains = np.full((int(step.max()) + 1, int(key.max()) + 1), -1)
    chains[step, key] = rows
    return chains


WITHIN = ("tokens", "batch", "context_len", "query_len", "past_len")
"""Columns that change within a chain."""


def follow(steady: np.ndarray, lag: np.ndarray, watts: np.ndarray, chains: np.ndarray) -> np.ndarray:
    """Readings of all rows of the chains from the first reading of each; NaN where none follows. O(rows)."""
    out = np.full(len(watts), np.nan)
    if not chains.size:
        return out
    reading = watts[chains[0]]
    for rows in chains[1:]:
        here = rows >= 0
        reading = np.where(here, steady[rows] + lag[rows] * (reading - steady[rows]), reading)
        out[rows[here]] = reading[here]
    return out


def fit_joules(sets: Sequence[Readings]) -> tuple[dict[str, float], dict[str, list[float]], dict[str, float]]:
    """Constants by name, rounded to three digits; the lags (a, b, c) of each set, t in milliseconds; and the mean error
    of the readings that follow from the first of each chain.
    """
    size = len(FITTED)

    def simulated(x: np.ndarray, i: int) -> np.ndarray:
        rows = sets[i]
        lag = x[size + 3 * i : size + 3 * i + 3]
        keep = np.exp(-(lag[0] + lag[1] * (rows.seconds * 1e3) ** lag[2]))
        return follow(_limited(rows, x[:size]), keep, rows.watts, rows.chains)

    def error(x: np.ndarray) -> np.ndarray:
        parts = []
        for i, rows in enumerate(sets):
            read = simulated(x, i)
            used = ~np.isnan(read)
            off = np.log(read[used] / rows.watts[used])
            loss = np.sign(off) * ROBUST * np.sqrt(2 * (np.sqrt(1 + (off / ROBUST) ** 2) - 1))  # soft L1
            parts.append(loss * np.sqrt(SIZE / max(int(used.sum()), 1)))
        c = dict(zip(FITTED, x[:size].tolist(), strict=True))
        held = [np.log(c[name] / value) for name, value in PRIOR.items()] + [np.log(c["fp8"] / c["bf16"] / 0.5)]
        return np.concatenate([*parts, PRIOR_WEIGHT * np.array(held)])

    start = np.array([*START, *LAG_START * len(sets)])
    bounds = (np.array([*LOW, *LAG_LOW * len(sets)]), np.array([*HIGH, *LAG_HIGH * len(sets)]))
    found = least_squares(error, start, bounds=bounds, x_scale=np.maximum(start, 0.05), max_nfev=100).x
    constants = READ | {name: float(f"{value:.3g}") for name, value in zip(FITTED, found[:size].tolist(), strict=True)}
    lags = {rows.kind: found[size + 3 * i : size + 3 * i + 3].round(3).tolist() for i, rows in enumerate(sets)}
    errors = {rows.kind: _mean_error(simulated(found, i), rows.watts) for i, rows in enumerate(sets)}
    return constants, lags, errors


def _mean_error(predicted_watts: np.ndarray, watts: np.ndarray) -> float:
    return float(np.nanmean(np.abs(predicted_watts / watts - 1)))


def _limited(rows: Readings, fitted: np.ndarray) -> np.ndarray:
    """Steady power up to a rounded limit."""
    constants = READ | dict(zip(FITTED, fitted.tolist(), strict=True))
    watts = steady_power(rows, joules_of(constants))
    return np.asarray(watts * (1 + (watts / constants["limit"]) ** SHARP) ** (-1 / SHARP))


def steady_power(rows: Readings, constants: Joules) -> np.ndarray:
    """Watts without a limit."""
    watts = np.where(
        rows.bf16,
        _watts(constants, rows.work, "bf16", rows.seconds, rows.kind, 0.0),
        _watts(constants, rows.work, "fp8", rows.seconds, rows.kind, 0.0),
    )
    return np.asarray(watts)


def joules_of(constants: dict[str, float]) -> Joules:
    """Fitted constants (watts, picojoules) with the assumed ones beside them."""
    c, pico = constants, 1e-12
    flop = {name: c[base] * ratio * pico for name, (base, ratio) in ASSUMED_FLOP.items()}
    flop |= {"bf16": c["bf16"] * pico, "fp8": c["fp8"] * pico}
    return Joules(
        c["awake"], c["sms"], flop, c["hbm"] * pico, c["l2"] * pico, ASSUMED_LINK * pico, c["limit"], {"moe": c["moe"]}
    )


ASSUMED_FLOP = {
    "fp16": ("bf16", 1.0), "tf32": ("bf16", 2.0), "fp32": ("bf16", 4.0), "int8": ("fp8", 1.0),
    "fp4": ("fp8", 0.5), "int4": ("fp8", 0.5),
}  # fmt: skip
"""Formats without readings: what they cost over one that has them. Energy goes with the bits that are multiplied."""
ASSUMED_LINK = 40.0
"""pJ per byte over NVLink: about 5 pJ/bit, usual for 112 Gbit/s SerDes over a board."""


# ---- what readings hold besides the power --------------------------------------------------------------------------


def fit_readings(table: KernelTable, gpu: Gpu, constants: Joules) -> list[Group]:
    """Corrections from the capped steady power to the readings, one group a label."""
    model = MODELS[table.kind]
    groups = []
    for label, rows in table.groups(model.labels):
        part = table.take(rows)
        base = np.minimum(steady_power(readings_of(part, gpu), constants), constants.limit)
        shape = {name: part.columns[name] for name in model.columns}
        columns = model.features(shape, label, gpu)
        features = np.stack([np.broadcast_to(np.asarray(f, dtype=np.float32), len(part)) for f in columns])
        trees = quantised(fit_trees(features, np.log(part.watts / base), trees=TREES, depth=DEPTH))
        ranges = {name: (float(column.min()), float(column.max())) for name, column in shape.items()}
        groups.append(Group(table.kind, label, {}, trees, ranges, {}, 0.0, len(part), {}))
    return groups


def held_out(table: KernelTable) -> np.ndarray:
    """bool [n]: rows whose shape is in the held-out quarter, whatever the label and the routing."""
    names = [name for name in MODELS[table.kind].columns if name != "skew"]
    shapes = np.stack([table.columns[name] for name in names], axis=1)
    distinct, index = np.unique(shapes, axis=0, return_inverse=True)
    digests = [hashlib.sha256(row.tobytes()).digest() for row in np.ascontiguousarray(distinct)]
    return np.array([digest[0] < 256 * HELD_OUT for digest in digests])[index.ravel()]


def predicted(table: KernelTable, gpu: Gpu, readings: Fitted | None, constants: Joules) -> np.ndarray:
    """Watts of every row at its measured time: readings where `readings` are given, else the power itself."""
    model, watts = MODELS[table.kind], np.zeros(len(table))
    base = np.minimum(steady_power(readings_of(table, gpu), constants), constants.limit)
    if readings is None:
        return base
    for label, rows in table.groups(model.labels):
        group = next((g for g in readings.groups if g.kind == table.kind and dict(g.label) == label), None)
        shape = {name: table.columns[name][rows] for name in model.columns}
        watts[rows] = base[rows] * (1.0 if group is None else np.exp(group.correction(shape, gpu)))
    return watts


def corrections(tables: Sequence[KernelTable], gpu: Gpu, constants: Joules) -> Fitted:
    """The corrections of all tables."""
    groups = tuple(group for table in tables for group in fit_readings(table, gpu, constants))
    software = tables[0].codes["software"][0][0]
    return Fitted(
        f"{gpu.name}@{software}",
        "What readings of the board's power hold besides the power of the kernel.",
        ORIGIN,
        gpu.name,
        software,
        groups,
    )


# ---- the files -----------------------------------------------------------------------------------------------------

ORIGIN = "board power of repeated kernels, NVIDIA AIConfigurator 0.12.0 systems data (Apache-2.0)"


@dataclass(frozen=True)
class PowerFit:
    """What a fit found: `constants` (watts, picojoules), `lags` by kind, the `readings`, and mean errors by kind.

    chains : of readings that follow from the first of each chain. alone, read : on held-out shapes, of the power alone
    and of predicted readings, at measured times.
    """

    constants: dict[str, float]
    lags: dict[str, list[float]]
    readings: Fitted
    chains: dict[str, float]
    alone: dict[str, float]
    read: dict[str, float]


def fit_power(tables: Sequence[KernelTable], gpu: Gpu) -> PowerFit:
    """Fit to three quarters of the shapes to learn the errors, then to all."""
    masks = [held_out(table) for table in tables]
    kept = [table.take(~mask) for table, mask in zip(tables, masks, strict=True)]
    constants = joules_of(fit_joules([readings_of(table, gpu) for table in kept])[0])
    readings = corrections(kept, gpu, constants)
    alone, read = {}, {}
    for table, mask in zip(tables, masks, strict=True):
        rest = table.take(mask)
        alone[table.kind] = _mean_error(predicted(rest, gpu, None, constants), rest.watts)
        read[table.kind] = _mean_error(predicted(rest, gpu, readings, constants), rest.watts)
    found, lags, chains = fit_joules([readings_of(table, gpu) for table in tables])
    return PowerFit(found, lags, corrections(tables, gpu, joules_of(found)), chains, alone, read)


def document(fit: PowerFit, gpu: Gpu, rows: int) -> str:
    """The text of power.yaml."""
    c = fit.constants
    flop = {"bf16": c["bf16"], "fp8": c["fp8"]}
    assumed = {name: float(f"{c[base] * ratio:.3g}") for name, (base, ratio) in ASSUMED_FLOP.items()}

    def errors(of: dict[str, float]) -> str:
        return "{" + ", ".join(f"{kind}: {value:.3f}" for kind, value in of.items()) + "}"

    lines = [
        "# Constants of the power model (simulator/power.py), made by `python -m calibration.power`; do not edit.",
        f"gpu: {gpu.name}",
        f"fitted_on: {rows} rows, {ORIGIN}",
        "awake_w: " + _number(c["awake"]) + "  # the lowest reading",
        "limit_w: " + _number(c["limit"]) + "  # where the readings of large kernels gather",
        "sms_w: " + _number(c["sms"]),
        "pj_per_flop:",
        *(f"  {name}: {_number(value)}" for name, value in flop.items()),
        "  # assumed: energy goes with the bits that are multiplied; fp32 is outside of the tensor cores",
        *(f"  {name}: {_number(value)}" for name, value in assumed.items()),
        "pj_per_byte:",
        f"  hbm: {_number(c['hbm'])}",
        f"  l2: {_number(c['l2'])}",
        f"  link: {_number(ASSUMED_LINK)}  # assumed: 5 pJ/bit, usual for SerDes over a board",
        "code:",
        f"  moe: {_number(c['moe'])}",
        "# How readings lag: exp(-(a + b t^c)) of the last one is left, t the milliseconds of one repetition.",
        *(f"#   {kind}: {lag}" for kind, lag in fit.lags.items()),
        "# Mean errors of the watts read. follow: readings that follow from the first of each chain by the constants",
        "# and the lag. alone: power without any lag against lagging readings, held-out shapes. reading: the same with",
        "# the corrections of power_readings.npz.",
        "errors:",
        f"  follow: {errors(fit.chains)}",
        f"  alone: {errors(fit.alone)}",
        f"  reading: {errors(fit.read)}",
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.4g}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", default=DATA, help="folder of the power_*.parquet tables")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the two files")
    arguments = parser.parse_args(argv)
    tables = [read_kernels(arguments.data / f"power_{kind}.parquet") for kind in KINDS]
    gpu = load_gpu(tables[0].codes["gpu"][0][0])
    fit = fit_power(tables, gpu)
    replace_file(arguments.out / "power_readings.npz", to_bytes(fit.readings))
    replace_file(arguments.out / "power.yaml", document(fit, gpu, sum(map(len, tables))).encode())


KINDS = ("attention_decode", "attention_prefill", "moe")

if __name__ == "__main__":
    main()
