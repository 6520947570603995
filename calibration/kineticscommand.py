"""`kinesim calibrate kinetics-h200`: measures where it can, simulates, compares, prints, draws.

What is measured comes from a table, or from this machine's GPU if it is the one asked for; else everything is simulated
only, and the answer says so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from calibration import kineticsplot
from calibration.errortables import console_of, percent
from calibration.kinetics import PAPER, Point, best, document, measured_points, planned_points
from calibration.layertables import KINETICS, read_layers
from calibration.layervalidation import cost_of
from hwspecs.gpu import Gpu, load_gpu
from simulator.calibrated import Calibrated
from simulator.files import check_writable, replace_file
from simulator.profile import Profile

SOFTWARE = "triton"
"""The microbenchmarks' own kernels: their profile is taken if the GPU has one."""
MEASURE = "kinesim calibrate measure --plan kinetics"
OUT = Path("kinetics-h200")
JSON_NAME = "kinetics.json"


def kinetics(
    *,
    measured: Path | None = None,
    out: Path = OUT,
    profile: str | None = None,
    gpu: str = "h200-sxm",
    as_json: bool = False,
    measure: Callable[[Gpu], Path | None] | None = None,
) -> None:
    """Run the experiment; figures and `kinetics.json` go into the folder `out`.

    measured : a table `kinetics`, or a folder that has a `kinetics.csv`; else `measure` (gpu -> table, or None where
    this machine has no such GPU) is asked. Raises InputError; nothing is written before everything has been computed.
    """
    target = load_gpu(gpu, place="--gpu")
    timed_by = cost_of(target, SOFTWARE, profile)
    check_writable(out, [JSON_NAME, *kineticsplot.file_names()])
    table = measured
    if table is None and measure is not None:
        table = measure(target)
    if table is not None and table.is_dir():
        table = table / "kinetics.csv"
    unpaired = 0
    if table is None:
        points = planned_points(target, timed_by)
    else:
        points, unpaired = measured_points(read_layers(table, KINETICS), target, timed_by)
    answer = document(points, target, timed_by, table=None if table is None else str(table), unpaired=unpaired)
    written = kineticsplot.draw(points, out, gpu=target.name, profile=timed_by.name)
    replace_file(out / JSON_NAME, json.dumps(answer, indent=1, allow_nan=False).encode() + b"\n")
    written.append(out / JSON_NAME)
    if as_json:
        json.dump(answer, sys.stdout, indent=1, allow_nan=False)
        sys.stdout.write("\n")
    else:
        show(points, answer, target, timed_by, written)


def measure_here(gpu: Gpu, minutes: float | None = None) -> Path | None:
    """Measure the points that are still missing if this machine has that GPU; the table, or None without one.

    What the measurement prints goes to stderr. Raises InputError if the GPU is there and cannot be used.
    """
    from calibration import measurecommand
    from calibration.measure.figures import bundled_for

    driver, _ = measurecommand.find_driver()
    if driver is None:
        return None
    if bundled_for(driver) != gpu.name:
        _tell(f"this machine's GPU is {driver.name} and not {gpu.name}, so it is not measured")
        return None
    missing = [name for name in measurecommand.NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        _tell(f"measuring needs {' and '.join(missing)} (pip install 'kinesim[gpu]'), so nothing is measured")
        return None
    folder = Path(measurecommand.FOLDER) / gpu.name
    with contextlib.redirect_stdout(sys.stderr):
        measurecommand.measure(out=folder, kind="kinetics", gpu=gpu.name, minutes=minutes)
    table = folder / "kinetics.csv"
    return table if table.exists() else None


def _tell(text: str) -> None:
    sys.stderr.write(f"kinesim: {text}\n")


# ---- terminal --------------------------------------------------------------------------------------------------------


def show(
    points: Sequence[Point],
    answer: dict[str, Any],
    gpu: Gpu,
    profile: Profile | Calibrated,
    written: Sequence[Path],
) -> None:
    """Headline, speed-ups by model, share, context and batch, the paper's points, errors, and what was written."""
    console = console_of()
    some = answer["measured"] is not None
    budget, page = points[0].sparse_row["budget"], points[0].sparse_row["page"]
    console.print(
        f"Block top-k (budget {budget:,} tokens, pages of {page}) against dense attention in decode, on {gpu.title}",
        style="bold",
    )
    if some:
        console.print(f"measured: {answer['measured']}, {len(points):,} points; simulated with {profile.name}")
        if answer["unpaired_rows"]:
            console.print(f"{answer['unpaired_rows']:,} rows have no partner and are left out", style="yellow")
    else:
        console.print(f"Nothing was measured: all is simulated, with {profile.name}.", style="yellow")
        console.print(f"On a machine with this GPU the same command measures first, as {MEASURE} does.", style="yellow")
    for name, what in (("speedup", "a whole decode layer"), ("attention_speedup", "its attention alone")):
        point = best(points, name, whole_models=True)
        console.print(
            f"largest simulated speed-up of {what}: {getattr(point.simulated, name):.1f}x "
            f"({_short(point.model)}, TP {point.tp}, batch {point.batch:,}, context {point.context:,})"
        )
    if some:
        console.print()
        console.print(_errors(answer["errors"]))
    if some:
        for name, what in (("speedup", "whole decode layer"), ("attention_speedup", "attention alone")):
            console.print()
            console.print(_grid(points, f"Speed-up, {what}: simulated / measured", _both(name)))
        console.print()
        console.print(_worst(points))
    else:
        console.print()
        console.print(_grid(points, "Simulated speed-up of a decode layer, and (of its attention alone)", _simulated))
    if any(point.of_paper for point in points):
        console.print()
        console.print(_papers(points))
        console.print(
            f"{PAPER['source']}, reports {PAPER['speedup'][0]}x to {PAPER['speedup'][1]}x there for Qwen3-0.6B.",  # type: ignore[index]
            style="dim",
        )
    for path in written:
        console.print(f"written: {path}", style="dim")


def _short(model: str) -> str:
    return model.rpartition("/")[2]


def _table(title: str) -> Any:
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)


def _simulated(point: Point) -> str:
    return f"{point.simulated.speedup:.2f}x ({point.simulated.attention_speedup:.2f}x)"


def _both(name: str) -> Callable[[Point], str]:
    def cell(point: Point) -> str:
        theirs = None if point.measured is None else point.measured.figures()[name]
        return f"{getattr(point.simulated, name):.2f} / " + ("-" if theirs is None else f"{theirs:.2f}x")

    return cell


def _grid(points: Sequence[Point], title: str, cell: Callable[[Point], str]) -> Any:
    """Models, shares and contexts down, batches across."""
    shown = [point for point in points if not point.of_paper]
    batches = sorted({point.batch for point in shown})
    table = _table(title)
    for name in ("model", "TP", "context", *(f"batch {batch:,}" for batch in batches)):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    rows: dict[tuple[str, int, int], dict[int, Point]] = {}
    for point in shown:
        rows.setdefault((point.model, point.tp, point.context), {})[point.batch] = point
    before: tuple[str, int] | None = None
    for (model, tp, context), line in rows.items():
        fresh = (model, tp) != before
        before = (model, tp)
        cells = [cell(line[batch]) if batch in line else "-" for batch in batches]
        table.add_row(_short(model) if fresh else "", str(tp) if fresh else "", f"{context:,}", *cells)
    return table


def _papers(points: Sequence[Point]) -> Any:
    table = _table("The paper's points: one layer, TP 8's share of the heads")
    for name in ("model", "batch", "context", "layer", "attention", "bytes of KV"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for point in (p for p in points if p.of_paper):
        cells = (_both("speedup")(point), _both("attention_speedup")(point))
        if point.measured is None:
            cells = (f"{point.simulated.speedup:.1f}x", f"{point.simulated.attention_speedup:.1f}x")
        table.add_row(
            _short(point.model), f"{point.batch:,}", f"{point.context:,}", *cells, f"{point.bytes_ratio:.1f}x"
        )
    return table


_NAMES = {
    "speedup": "speed-up of the layer",
    "attention_speedup": "speed-up of the attention",
    "dense_us": "time of the dense layer",
    "sparse_us": "time of the block top-k layer",
}


def _errors(errors: dict[str, Any]) -> Any:
    table = _table(f"Simulated against measured, {errors['points']:,} points")
    for name in ("", "mean error", "worst", "bias"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for key, words in _NAMES.items():
        if errors[key] is not None:
            found = errors[key]
            table.add_row(words, percent(found["mean"]), percent(found["worst"]), percent(found["bias"], True))
    return table


def _worst(points: Sequence[Point], count: int = 10) -> Any:
    """Where the simulated speed-up of the layer is off the most."""
    off = [(errors["speedup"], point) for point in points if (errors := point.errors()) is not None]
    off.sort(key=lambda pair: -abs(pair[0] or 0.0))
    table = _table("Speed-ups that are off the most")
    for name in ("model", "TP", "batch", "context", "simulated", "measured", "off", "dense layer", "sparse layer"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for error, point in off[:count]:
        errors = point.errors() or {}
        assert point.measured is not None
        table.add_row(
            _short(point.model), str(point.tp), f"{point.batch:,}", f"{point.context:,}",
            f"{point.simulated.speedup:.2f}x", f"{point.measured.speedup:.2f}x", percent(error, True),
            percent(errors["dense_us"], True), percent(errors["sparse_us"], True),
        )  # fmt: skip
    return table
