"""From a folder of the microbenchmarks' tables to a profile and a page: `python -m calibration.measured_page FOLDER`.

Fits `<gpu>@triton` to the folder's tables, predicts with it what the fit did not see (shapes drawn at random, whole
layers, the experiment of the Kinetics paper), and writes the profile, docs/measured-<gpu>.md and its figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration import kineticsplot
from calibration.fit import fit_profiles
from calibration.fitcommand import read_tables
from calibration.kinetics import error_summary, measured_points
from calibration.layertables import KINETICS, read_layers
from calibration.layervalidation import errors_of as layer_errors
from calibration.layervalidation import predict_layers
from calibration.measure import figures as gpus
from calibration.measure.goals import FIT_TABLES, counts, goals, rows_of
from calibration.measure.task import SHAPES
from calibration.plots import draw_validation, file_names
from calibration.tables import read_kernels
from calibration.validate_page import markdown
from calibration.validation import by, check_kind, errors_of, predict_table, summary
from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.calibrated import load_cost_profile
from simulator.files import replace_file
from simulator.profilefile import to_bytes

ROOT = Path(__file__).resolve().parents[1]
SOFTWARE = "triton"

HEAD = """\
# Measured: {title}

*Made by `python -m calibration.measured_page {folder}`; do not edit.*

{rows:,} rows of Triton kernels, measured with `kinesim calibrate measure` ([how](microbenchmarks.md)); the raw tables
are in `{folder}`. The profile `{profile}` is fitted to those that are not for checks.
"""
CHECKS = """\
## Shapes that the fit did not see

Drawn at random from the ranges of the plan. An error is |predicted / measured - 1|, and counts as 100 % at most; the
bias is the median of predicted / measured - 1; *inside* is the share of measurements in the 80 % interval of their
predictions.
"""
LAYERS = """\
## Whole layers

Decode and prefill layers as one CUDA graph, against the sum of their operators' predicted times. Aim: 8 %.
"""
EXPERIMENT = """\
## Block top-k against dense attention

[The experiment](kinetics-experiment.md) of the Kinetics paper: measured speed-up against the simulated one. Aim: 10 %
at every point.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m calibration.measured_page", description=__doc__.split("\n")[0])
    parser.add_argument(
        "folder", type=Path, help="what kinesim calibrate measure has written, such as measurements/h200-sxm"
    )
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the page and its figures go")
    parser.add_argument("--profiles", type=Path, default=ROOT / "calibration/profiles", help="where the profile goes")
    options = parser.parse_args(arguments)
    try:
        print(f"written: {write_page(options.folder, options.docs, options.profiles)}")
    except InputError as error:
        print(f"measured_page: {error.message()}", file=sys.stderr)
        return 2
    return 0


def write_page(folder: Path, docs: Path, profiles: Path) -> Path:
    """Fit, check, write; the path of the page. Raises InputError."""
    there = counts(folder)
    paths = [folder / f"{name}.csv" for name in FIT_TABLES if there.get(name)]
    if not paths:
        raise InputError("has no measured tables to fit", file=folder, allowed="a folder of kinesim calibrate measure")
    machines = _machines(folder)
    fitted = [p for p in fit_profiles(read_tables(paths), source=_source(machines)) if p.software == SOFTWARE]
    if len(fitted) != 1:
        raise InputError(f"holds {len(fitted)} GPUs", file=folder, allowed="the tables of one GPU")
    profile = fitted[0]
    target = profiles / f"{profile.name}.npz"
    replace_file(target, to_bytes(profile))
    gpu = load_gpu(profile.gpu)
    figures = docs / f"measured-{gpu.name}"
    rows = sum(there.values())
    lines = [
        HEAD.format(title=gpu.title, rows=rows, folder=_inside(folder), profile=profile.name),
        *_machine_table(machines),
    ]
    lines += _goals(folder, gpu.name)
    lines += _libraries(folder, there)
    lines += _checks(folder, there, profile, figures)
    lines += _warm(folder, there)
    if there.get("layer"):
        lines += _layers(folder / "layer.csv", str(target))
    if there.get("kinetics"):
        lines += _kinetics(folder / "kinetics.csv", str(target), gpu.name, figures)
    page = docs / f"measured-{gpu.name}.md"
    replace_file(page, ("\n".join(lines).rstrip() + "\n").encode())
    return page


def _inside(folder: Path) -> Path:
    """The folder as the checkout calls it."""
    resolved = folder.resolve()
    return resolved.relative_to(ROOT) if resolved.is_relative_to(ROOT) else folder


# ---- the machine -----------------------------------------------------------------------------------------------------


def _machines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "machine.jsonl"
    if not path.exists():
        raise InputError("is missing: it says what was measured on", file=path, allowed="the file as it was written")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _source(machines: Sequence[dict[str, Any]]) -> str:
    last = machines[-1]
    return (
        f"kinesim calibrate measure on {last.get('name')}, {str(last.get('date'))[:10]}: driver {last.get('driver')}, "
        f"torch {last.get('torch')}, triton {last.get('triton')}"
    )


def _machine_table(machines: Sequence[dict[str, Any]]) -> list[str]:
    names = ("date", "name", "driver", "torch", "triton", "max_sm_mhz", "power_limit_w", "plan")
    rows = [[str(machine.get(name, "")) for name in names] for machine in machines]
    return [
        "| " + " | ".join(names) + " |",
        "|" + " --- |" * len(names),
        *("| " + " | ".join(r) + " |" for r in rows),
        "",
    ]


# ---- the kernels as measuring sticks ---------------------------------------------------------------------------------


def _goals(folder: Path, gpu: str) -> list[str]:
    found = goals(folder, gpus.load_figures(gpu))
    if not found:
        return []
    lines = [
        "## How near the kernels come to the hardware",
        "",
        "| what | found | wanted | at |",
        "| --- | ---: | ---: | --- |",
    ]
    return [*lines, *(f"| {g.what} | {g.found:.1%} | {g.wanted:.0%} | {g.detail} |" for g in found), ""]


def _libraries(folder: Path, there: dict[str, int]) -> list[str]:
    """Times of the libraries over those of the kernels: above 1, the kernel is the quicker one."""
    rows = []
    for table in there:
        ratios: dict[tuple[str, str], list[float]] = {}
        for row in rows_of(folder / f"{table}.csv"):
            if row.get("baseline_us") and "-" not in table:
                ratio = float(row["baseline_us"]) / float(row["latency_us"])
                ratios.setdefault((row.get("op") or row.get("dtype") or "", row["baseline"]), []).append(ratio)
        for (what, baseline), values in sorted(ratios.items()):
            low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
            rows.append(f"| {table} | {what} | {baseline} | {len(values)} | {low:.2f} | {middle:.2f} | {high:.2f} |")
    if not rows:
        return []
    head = ["| table | of | library | rows | 10th percentile | median | 90th |", "| --- | --- | --- |" + " ---: |" * 4]
    return ["The library's time over the kernel's, where a library computes the same:", "", *head, *rows, ""]


def _warm(folder: Path, there: dict[str, int]) -> list[str]:
    """What cold operands cost: the same shapes with operands in HBM and in L2."""
    rows = []
    for table in FIT_TABLES:
        if not there.get(f"{table}-warm"):
            continue
        cold = {_shape(table, row): float(row["latency_us"]) for row in rows_of(folder / f"{table}.csv")}
        pairs = [(row, cold.get(_shape(table, row))) for row in rows_of(folder / f"{table}-warm.csv")]
        ratios = [there_cold / float(row["latency_us"]) for row, there_cold in pairs if there_cold is not None]
        if ratios:
            low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
            rows.append(f"| {table} | {len(ratios)} | {low:.2f} | {middle:.2f} | {high:.2f} |")
    if not rows:
        return []
    head = ["| table | rows | 10th percentile | median | 90th |", "| --- |" + " ---: |" * 4]
    return [
        "## What cold operands cost",
        "",
        "Time with operands in HBM over that with operands in L2:",
        "",
        *head,
        *rows,
        "",
    ]


def _shape(table: str, row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in SHAPES[table])


# ---- what the profile says of it -------------------------------------------------------------------------------------


def _checks(folder: Path, there: dict[str, int], profile: Any, figures: Path) -> list[str]:
    total, detail = [], []
    for table in FIT_TABLES:
        if not there.get(f"{table}-check"):
            continue
        rows = read_kernels(folder / f"{table}-check.csv")
        check_kind(rows)
        errors = errors_of(rows, predict_table(rows, profile=profile))
        total.append({"kind": table} | summary(errors))
        names = [name for name in ("kernel", "op", "dtype") if name in errors.keys]
        detail += [*markdown(names, by(errors, *names)), ""]
        draw_validation(rows, errors, figures, "shapes drawn at random")
        detail += [
            f"![{table}]({figures.name}/{name})" for name in file_names(rows.kind) if name.endswith("predicted.png")
        ]
        detail.append("")
    return [CHECKS, *markdown(("kind",), total), "", *detail] if total else []


def _layers(path: Path, profile: str) -> list[str]:
    rows = read_layers(path)
    errors = layer_errors(rows, *predict_layers(rows, profile))
    every = {"phase": "all", "attention": "", "model": ""} | summary(errors)
    names = ("phase", "attention", "model")
    return [LAYERS, *markdown(names, _no_interval([every, *by(errors, *names)])), ""]


def _no_interval(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [group | {"covered": None} for group in groups]


def _kinetics(path: Path, profile: str, gpu: str, figures: Path) -> list[str]:
    target = load_gpu(gpu)
    timed_by = load_cost_profile(profile, target)
    points, unpaired = measured_points(read_layers(path, KINETICS), target, timed_by)
    errors = error_summary(points) or {}
    written = kineticsplot.draw(points, figures, gpu=target.name, profile=timed_by.name)
    lines = [EXPERIMENT, "| of | mean | worst | bias |", "| --- | ---: | ---: | ---: |"]
    for name, found in errors.items():
        if isinstance(found, dict):
            lines.append(f"| {name} | {found['mean']:.1%} | {found['worst']:.1%} | {found['bias']:+.1%} |")
    lines += ["", f"{len(points):,} points" + (f"; {unpaired:,} rows without a partner." if unpaired else "."), ""]
    lines += [f"![{file.stem}]({figures.name}/{file.name})" for file in written if file.suffix == ".png"]
    return lines


if __name__ == "__main__":
    sys.exit(main())
