"""`make serving`: how far predictions are from measured deployments, as docs/serving.md.

    python -m calibration.serving_page [TABLE] [--docs FOLDER] [--jobs N] [--rows N]

Every row is simulated as shipped, and again with the host's constants fitted without its deployment, its model and its
GPU (`calibration.servingsplits`). The tables are in `calibration.servingsections`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from calibration.plots import png
from calibration.servingfit import FARTHEST, linearise
from calibration.servingplots import draw, file_names, throughput_figure
from calibration.servingreplay import replay
from calibration.servingsections import (
    GROUPS,
    LEAST_ROWS,
    Results,
    constants,
    deployment,
    group_table,
    headline,
    intervals,
    listed,
    model_gpu_engine,
    odd,
    one_by_one,
    unpredicted,
    worst,
)
from calibration.servingsplits import LEAST, splits
from calibration.servingtables import read_serving
from calibration.servingwords import FITTED, HEAD, INTERVALS, KERNELS, ODD, SPLITS, WORST
from hwspecs.errors import InputError
from simulator.files import check_writable, replace_file
from simulator.progress import progress_bar

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT.parent / "shared/data/serving/measured_serving.csv"
PAGE, FIGURES = "serving.md", "serving"
OVERVIEW, OVERVIEW_PANELS = "overview.png", 6
"""The picture of the README: the first one, with fewer panels."""


MakePage = Callable[[Path, Path, int | None, int | None], Path]
"""(table, folder of the docs, processes, most rows) -> the page that was written."""


def main(arguments: Sequence[str] | None = None) -> int:
    return page_command(arguments, PAGE, TABLE, make_page)


def page_command(arguments: Sequence[str] | None, page: str, table: Path, make: MakePage) -> int:
    """The command that makes a page of the docs from a table of deployments; `table` is the one if none is named."""
    parser = argparse.ArgumentParser(description=f"Write docs/{page}.")
    parser.add_argument("table", type=Path, nargs="?", default=table, help="measured deployments, CSV or Parquet")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the page and its figures go")
    parser.add_argument("--jobs", type=int, default=None, help="processes (as many as cores)")
    parser.add_argument("--rows", type=int, default=None, help="at most so many rows (a quick look)")
    options = parser.parse_args(arguments)
    try:
        print(f"written: {make(options.table, options.docs, options.jobs, options.rows)}")
    except InputError as error:
        print(f"serving: {error}", file=sys.stderr)
        return 2
    return 0


def make_page(path: Path, docs: Path, jobs: int | None = None, most: int | None = None) -> Path:
    """Simulates the table in `path` and writes the page. Raises InputError."""
    table = read_serving(path)
    if not (np.isfinite(table.tpot) & np.isfinite(table.ttft)).any():
        raise InputError("nothing was measured", file=path, allowed="a table with ttft_ms and tpot_ms")
    if most is not None and most < len(table):
        table = table.take(np.linspace(0, len(table) - 1, most).round().astype(int).tolist())
    check_writable(docs / FIGURES, [*file_names(), OVERVIEW])
    with progress_bar("replaying") as report:
        replays = replay(table.rows, jobs=jobs, report=report)
    sets = linearise(table, jobs, used=True)
    with progress_bar("leaving out") as report:
        left = splits(table, sets, jobs=jobs, report=report)
    return write_page(Results(table, replays, left, sets), docs)


# ---- the page --------------------------------------------------------------------------------------------------------


def write_page(results: Results, docs: Path) -> Path:
    """docs/serving.md and the figures in docs/serving/; the path of the page."""
    table = results.table
    draw(table, results.replays, docs / FIGURES)
    replace_file(docs / FIGURES / OVERVIEW, png(throughput_figure(table, results.replays, OVERVIEW_PANELS)))
    predicted = sum(not entry.reason for entry in results.replays)
    gpus = sorted({row["gpu"] for row in table.rows})
    lines = [HEAD.format(rows=f"{len(table):,}", predicted=f"{predicted:,}", gpus=listed(gpus)), *headline(results), ""]
    picture, *others = _figures()
    lines += [*unpredicted(results), "", picture, ""]
    lines += [SPLITS.format(least=LEAST, farthest=f"{FARTHEST:g}"), *one_by_one(results), ""]
    lines += [FITTED, *constants(results), "", KERNELS, "## Where the errors are", "", *others]
    lines += [*group_table("model, GPU, precision, engine", results, model_gpu_engine), ""]
    lines += [*group_table("engine", results, GROUPS["engine"]), ""]
    lines += ["<details><summary>By model family, GPU, precision, users, lengths, GPUs</summary>", ""]
    for name, key in GROUPS.items():
        if name != "engine":
            lines += [*group_table(name, results, key), ""]
    lines += ["</details>", "", "<details><summary>By deployment (with the parallel layout)</summary>", ""]
    lines += [*group_table("deployment", results, deployment), "", "</details>", ""]
    lines += [WORST.format(least=LEAST_ROWS), *worst(results), ""]
    lines += [INTERVALS, *intervals(results), ""]
    lines += [ODD, *odd(results)]
    page = docs / PAGE
    replace_file(page, ("\n".join(lines).rstrip() + "\n").encode())
    return page


def _figures() -> list[str]:
    alt = ("Throughput per GPU against interactivity", "Predicted against measured", "Predicted over measured by group")
    return [f"![{words}]({FIGURES}/{name})\n" for words, name in zip(alt, file_names(), strict=True)]


if __name__ == "__main__":
    sys.exit(main())
