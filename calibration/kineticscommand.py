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
from calibration.errortables import console_of
from calibration.kinetics import (
    PAPER,
    Point,
    best,
    best_measured,
    document,
    guess_words,
    measured_points,
    planned_points,
)
from calibration.kineticsparts import short
from calibration.kineticstables import errors_table, grids, papers_table, worst_table
from calibration.layertables import KINETICS, read_layers
from calibration.layervalidation import cost_of
from hwspecs.gpu import Gpu, load_gpu
from simulator.calibrated import Calibrated
from simulator.files import check_writable, replace_file
from simulator.printing import print_json, tell
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
        print_json(answer)
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
        tell(f"this machine's GPU is {driver.name} and not {gpu.name}, so it is not measured")
        return None
    missing = [name for name in measurecommand.NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        tell(
            f"measuring needs {' and '.join(missing)} (in a checkout: pip install -e '.[gpu]'), so nothing is measured"
        )
        return None
    folder = Path(measurecommand.FOLDER) / gpu.name
    with contextlib.redirect_stdout(sys.stderr):
        measurecommand.measure(out=folder, kind="kinetics", gpu=gpu.name, minutes=minutes)
    table = folder / "kinetics.csv"
    return table if table.exists() else None


def _measurable(gpu: Gpu) -> bool:
    """Whether `measure_here` would measure this GPU, were it in the machine: a bundled one of NVIDIA."""
    from calibration.measure.figures import list_names, load_figures

    return gpu.name in list_names() and load_figures(gpu.name).vendor == "NVIDIA"


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
        if _measurable(gpu):
            console.print(f"On a machine with this GPU the command measures first, as {MEASURE} does.", style="yellow")
    if (guessed := guess_words(points)) is not None:
        console.print(guessed, style="yellow")
    for name, what in (("speedup", "a whole decode layer"), ("attention_speedup", "its attention alone")):
        point, seen = (found(points, name, whole_models=True) for found in (best, best_measured))
        assert point is not None
        where = ", at the paper's points" if point.of_paper else ", where the whole model fits"
        console.print(
            f"largest simulated speed-up of {what}{where}: {getattr(point.simulated, name):.1f}x ({_place(point)})"
        )
        if seen is not None:
            console.print(f"largest measured: {getattr(seen.measured, name):.1f}x ({_place(seen)})")
    if some:
        console.print()
        console.print(errors_table(answer["errors"]))
    for grid in grids(console, points, some):
        console.print()
        console.print(grid)
    if some:
        console.print()
        console.print(worst_table(points))
    if any(point.of_paper for point in points):
        console.print()
        console.print(papers_table(points))
        console.print(
            f"{PAPER['source']}, reports {PAPER['speedup'][0]}x to {PAPER['speedup'][1]}x there for Qwen3-0.6B.",  # type: ignore[index]
            style="dim",
        )
    for path in written:
        console.print(f"written: {path}", style="dim")


def _place(point: Point) -> str:
    return f"{short(point.model)}, TP {point.tp}, batch {point.batch:,}, context {point.context:,}"
