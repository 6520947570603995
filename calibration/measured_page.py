"""From a folder of the microbenchmarks' tables to a profile and a page: `python -m calibration.measured_page FOLDER`.

Fits `<gpu>@triton` to the folder's tables, predicts with it what the fit did not see (shapes drawn at random, whole
layers, the experiment of the Kinetics paper), and writes the profile, docs/measured-<gpu>.md and its figures.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration import kineticsplot
from calibration.arguments import Parser, answered, folder_name
from calibration.fit import fit_profiles, profile_names
from calibration.fitcommand import read_tables
from calibration.kinetics import error_summary, measured_points
from calibration.layertables import KINETICS, read_layers
from calibration.layervalidation import errors_of as layer_errors
from calibration.layervalidation import predict_layers
from calibration.measure import figures as gpus
from calibration.measure.goals import FIT_TABLES, counts, goals
from calibration.measure.shapes import KERNELS
from calibration.measure.tablefiles import keys_of, measured_rows, unusable, whole
from calibration.measure.task import SHAPES
from calibration.plots import draw_validation, file_names
from calibration.tables import read_kernels
from calibration.validate_page import markdown
from calibration.validation import by, errors_of, predict_table, summary
from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.calibrated import load_cost_profile
from simulator.files import check_writable, replace_file
from simulator.fitted import Fitted
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
    parser = Parser(prog="python -m calibration.measured_page", description=__doc__.split("\n")[0])
    parser.add_argument(
        "folder", type=folder_name, help="what kinesim calibrate measure has written, such as measurements/h200-sxm"
    )
    parser.add_argument("--docs", type=folder_name, default=ROOT / "docs", help="where the page and its figures go")
    parser.add_argument(
        "--profiles", type=folder_name, default=ROOT / "calibration/profiles", help="where the profile goes"
    )

    def work() -> None:
        options = parser.parse_args(arguments)
        print(f"written: {write_page(options.folder, options.docs, options.profiles)}")

    return answered(work)


def write_page(folder: Path, docs: Path, profiles: Path) -> Path:
    """Fit, check, write; the path of the page. Raises InputError; nothing is written before all has been computed."""
    there = counts(folder) if folder.is_dir() else {}
    paths = [folder / f"{name}.csv" for name in FIT_TABLES if there.get(name)]
    if not paths:
        raise InputError("has no measured tables to fit", file=folder, allowed="a folder of kinesim calibrate measure")
    machines = _machines(folder)
    tables = read_tables(paths)
    names = [name for name in profile_names(tables) if name.endswith(f"@{SOFTWARE}")]
    if len(names) != 1:
        found = ", ".join(profile_names(tables))
        raise InputError("not of one GPU", file=folder, found=found, allowed=f"tables of one GPU, software {SOFTWARE}")
    gpu = load_gpu(names[0].split("@")[0])
    for file in there:
        keys_of(folder / f"{file}.csv", gpu.name)  # says so if one is of another GPU
    page, target = docs / f"measured-{gpu.name}.md", profiles / f"{names[0]}.npz"
    check_writable(docs, [page.name], "--docs")
    check_writable(docs / page.stem, (), "--docs")
    check_writable(profiles, [target.name], "--profiles")
    profile = next(p for p in fit_profiles(tables, source=_source(machines)) if p.name == names[0])
    with tempfile.TemporaryDirectory() as made:
        fitted, figures = Path(made) / target.name, Path(made) / page.stem
        replace_file(fitted, to_bytes(profile))
        text = _page(folder, there, machines, profile, fitted, figures)
        for picture in sorted(figures.glob("*")):
            replace_file(docs / page.stem / picture.name, picture.read_bytes())
        replace_file(target, fitted.read_bytes())
    replace_file(page, text.encode())
    return page


def _page(
    folder: Path, there: dict[str, int], machines: list[dict[str, Any]], profile: Fitted, path: Path, figures: Path
) -> str:
    """The page's text, for the profile that lies at `path`; its figures are drawn into the folder `figures`."""
    gpu = load_gpu(profile.gpu)
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
        lines += _layers(folder / "layer.csv", str(path))
    if there.get("kinetics"):
        lines += _kinetics(folder / "kinetics.csv", str(path), gpu.name, figures)
    return "\n".join(lines).rstrip() + "\n"


def _inside(folder: Path) -> Path:
    """The folder as the checkout calls it."""
    resolved = folder.resolve()
    return resolved.relative_to(ROOT) if resolved.is_relative_to(ROOT) else folder


# ---- the machine -----------------------------------------------------------------------------------------------------


def _machines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "machine.jsonl"
    allowed = "the file as it was written"
    try:
        lines = whole(path.read_bytes()).splitlines()
    except FileNotFoundError:
        raise InputError("is missing: it says what was measured on", file=path, allowed=allowed) from None
    except OSError as problem:
        raise unusable(problem, path) from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            machine = json.loads(line) if line.strip() else None
        except ValueError:  # UnicodeDecodeError is one
            machine = line
        if machine is not None and not isinstance(machine, dict):
            raise InputError("is no run as it is written", file=path, line=number, allowed="a JSON object a line")
        found += [machine] if machine else []
    if not found:
        raise InputError("has no runs: it says what was measured on", file=path, allowed=allowed)
    return found


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
        for row in measured_rows(folder / f"{table}.csv"):
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
        dense = KERNELS.get(table, "triton")
        cold = {
            _shape(table, row): float(row["latency_us"])
            for row in measured_rows(folder / f"{table}.csv")
            if row["kernel"] == dense
        }
        pairs = [(row, cold.get(_shape(table, row))) for row in measured_rows(folder / f"{table}-warm.csv")]
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
    table = read_layers(path, KINETICS)
    try:
        points, unpaired = measured_points(table, target, timed_by)
    except InputError:  # a run that was stopped early
        return [EXPERIMENT, "No point has been measured with both attentions.", ""]
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
