"""`make validate`: how far predictions are from kernels that the fit has not seen, as docs/validation.md, and of the
kernels of latent, sparse and linear attention and all-to-all as docs/validation-modern.md.

    python -m calibration.validate_page [--data FOLDER] [--docs FOLDER] [--rows N] [--page validation-modern.md]

Two splits of the measured tables: shapes that no profile of any GPU was fitted on, and whole GPUs. The fits are those
of `calibration.crossvalidate`; here their results become tables and figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration.errortables import percent
from calibration.plots import draw_validation, file_names
from calibration.tables import KernelTable, concatenate, read_kernels
from calibration.validation import WEAKNESS, Errors, by, errors_of, joined, summary, worst_regimes
from simulator.files import replace_file
from simulator.fitted import Fitted
from simulator.kernels.registry import MODELS
from simulator.predict import Predictions
from simulator.selection import bundled

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared/data/silicon"
POWER = "power_"

Result = tuple[str, KernelTable, Predictions]
"""Kind, rows that were held out, and what was predicted for them."""

MODERN = (
    "mla_decode", "mla_prefill", "mla_bmm", "mla_module", "dsa_module", "linear_attention", "expert_all_to_all",
)  # fmt: skip
PAGES = {
    "validation.md": tuple(kind for kind in MODELS if kind not in MODERN),
    "validation-modern.md": MODERN,
}
"""Which kinds are on which page. No kind's fit knows of another, so each page can be made alone."""
# Aims for the mean error, by (kind, what of it).
AIM_SHAPES = {
    ("gemm", "but fp8_block"): 0.04, ("gemm", "fp8_block"): 0.06, ("attention_decode", "all"): 0.04,
    ("attention_prefill", "all"): 0.04, ("moe", "all"): 0.07, ("collective", "all"): 0.08,
    ("mla_decode", "all"): 0.04, ("mla_prefill", "all"): 0.06, ("mla_bmm", "all"): 0.05, ("mla_module", "all"): 0.05,
    ("dsa_module", "all"): 0.05, ("linear_attention", "all"): 0.05, ("expert_all_to_all", "all"): 0.09,
}  # fmt: skip
AIM_B200 = {("gemm", "but nvfp4"): 0.10, ("attention_decode", "all"): 0.15, ("attention_prefill", "all"): 0.15}
AIM_POWER = {"attention_prefill": 0.14, "attention_decode": 0.19, "moe": 0.12}

HEAD = """\
# Validation of the kernel models

*Made by `make validate`; do not edit.*

How far predictions are from measured kernels that the fit had not seen. Measured: {rows} kernels on {gpus},
from the systems data of NVIDIA AIConfigurator 0.12.0 (Apache-2.0). `kinesim validate kernels TABLE` makes the same
[tables and figures](kernel-tables.md) for any table, with the profiles that kinesim ships.

An error is |predicted / measured - 1|, and counts as 100 % at most. The bias is the median of predicted / measured - 1:
above 0 the model is too slow. *Inside* is the share of measurements in the 80 % interval of their predictions.
"""
SHAPES = """\
## Shapes that nothing was fitted on

{part} of the shapes was held out, the same on all GPUs and for all software, and the profiles fitted to the rest.
"""
GPUS = """\
## GPUs that nothing was fitted on

Each GPU is predicted from its spec sheet and the measurements of the others.
"""
NAMED = """\
## Models that nothing was fitted on

Each model is predicted by the corrections of the others on the same GPU, with widths of its own. Where no other was
measured with its format of projections or under its engine, the block of another format or engine stands in (GLM-5 in
bf16 under SGLang, TensorRT-LLM on Hopper).
"""
WATTS = """\
## Board power

Mean power of the board while a kernel repeats, on shapes that the constants of the power model were not fitted to.
"""
SUMMARY = ("rows", "mean", "median", "p90", "bias", "inside")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write docs/validation.md.")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of measured tables")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where validation.md and its figures go")
    parser.add_argument("--rows", type=int, default=None, help="at most so many rows of a table (a quick look)")
    parser.add_argument("--page", choices=tuple(PAGES), default=None, help="only this page")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        print(f"validate: skipped, no measured tables in {options.data}", file=sys.stderr)
        return 0
    from calibration.crossvalidate import held_out, leave_one_gpu_out, leave_one_model_out

    for name in PAGES if options.page is None else (options.page,):
        tables = measured_tables(options.data, options.rows, PAGES[name])
        if not tables:
            continue
        print(f"{name}: fitting without the held-out shapes ({sum(map(len, tables)):,} rows)", file=sys.stderr)
        shapes = held_out(tables)
        print(f"{name}: fitting without each GPU", file=sys.stderr)
        shipped = _shipped(PAGES[name])
        gpus, models = leave_one_gpu_out(tables, shipped), leave_one_model_out(tables, shipped)
        print(f"written: {write_page(tables, shapes, gpus, options.docs, name=name, models=models)}")
    return 0


def _shipped(kinds: Sequence[str]) -> list[Fitted]:
    """The bundled profiles of single GPUs, with their groups of these kinds only."""
    library = bundled()
    found = [library[name] for name in library.names if "@" in name and library.kinds(name) & set(kinds)]
    return [replace(p, groups=tuple(group for group in p.groups if group.kind in kinds)) for p in found]


def measured_tables(folder: Path, most: int | None = None, kinds: Iterable[str] = MODELS) -> list[KernelTable]:
    """The tables of these kinds, and those with power, as far as they are in the folder."""
    names = [prefix + kind for prefix in ("", POWER) for kind in kinds]
    tables = [read_kernels(path) for name in names if (path := folder / f"{name}.parquet").exists()]
    rng = np.random.default_rng(0)
    return [
        table if most is None or len(table) <= most else table.take(np.sort(rng.permutation(len(table))[:most]))
        for table in tables
    ]


# ---- the page --------------------------------------------------------------------------------------------------------


def write_page(
    tables: Sequence[KernelTable],
    shapes: Iterable[Result],
    gpus: Iterable[Result],
    docs: Path,
    part: str = "A quarter",
    name: str = "validation.md",
    models: Iterable[Result] = (),
) -> Path:
    """The page `name` in docs and its figures in docs/validation/; the path of the page."""
    shapes, gpus = list(shapes), list(gpus)
    power = merged(result for result in shapes if has_power(result))
    shapes, gpus = (merged(r for r in results if not has_power(r)) for results in (shapes, gpus))
    names = sorted({name for table in tables for name in table.codes["gpu"][0]})
    lines = [HEAD.format(rows=f"{sum(map(len, tables)):,}", gpus=listed(names))]
    lines += [SHAPES.format(part=part), *goals(shapes, AIM_SHAPES), ""]
    lines += sections(shapes, docs, "held-out", "held-out shapes")
    if gpus:
        lines += [GPUS, *left_out_table(gpus), ""]
        lines += sections(gpus, docs, "left-out", "GPU left out")
    named = merged(models)
    if named:
        lines += [NAMED, *named_table(named), ""]
    if power:
        lines += [WATTS, *power_table(power), ""]
    page = docs / name
    replace_file(page, ("\n".join(lines).rstrip() + "\n").encode())
    return page


def has_power(result: Result) -> bool:
    return bool((~np.isnan(result[1].watts)).any())


def merged(results: Iterable[Result]) -> list[Result]:
    """One result a kind, in the order of the kinds."""
    by_kind: dict[str, list[Result]] = {}
    for result in results:
        by_kind.setdefault(result[1].kind, []).append(result)
    return [
        (kind, concatenate([r[1] for r in by_kind[kind]]), joined([r[2] for r in by_kind[kind]]))
        for kind in MODELS
        if kind in by_kind
    ]


def sections(results: Sequence[Result], docs: Path, folder: str, title: str) -> list[str]:
    """For every kind: its error by format, software and regime, the weakest regimes, and the figures."""
    lines = []
    for kind, table, predictions in results:
        errors = errors_of(table, predictions)
        draw_validation(table, errors, docs / "validation" / folder, title)
        words = kind.replace("_", " ")
        short = kind.split("_")[0] in ("gemm", "mla", "dsa")
        lines += [f"### {words[:4].upper() + words[4:] if short else words.capitalize()}, {title}", ""]
        lines += [f"![{words}: {name.split('-')[-1][:-4]}](validation/{folder}/{name})" for name in file_names(kind)]
        lines += ["", "The weakest regimes, of those with at least 0.2 % of the rows:", ""]
        worst = worst_regimes(errors)
        lines += [*markdown([key for key in WEAKNESS if key in errors.keys], worst), ""]
        lines += ["<details><summary>By number format, software, regime</summary>", ""]
        for name in ("dtype", "software", *(key for key in ("op", "phase", "model") if key in errors.keys), "regime"):
            lines += [*markdown(("gpu", name) if name != "regime" else (name,), grouped(errors, name)), ""]
        lines += ["</details>", ""]
    return lines


def grouped(errors: Errors, name: str) -> list[dict[str, Any]]:
    return by(errors, name) if name == "regime" else by(errors, "gpu", name)


def goals(results: Sequence[Result], aims: dict[tuple[str, str], float]) -> list[str]:
    """One row a kind, GEMM with block scales apart; what was aimed for beside it."""
    rows = []
    for kind, table, predictions in results:
        errors = errors_of(table, predictions)
        for what, pick in parts_of(errors, kind, "fp8_block"):
            rows.append({"kind": kind, "of": what, "aim": aim(aims.get((kind, what)))} | summary(errors, pick))
    return markdown(("kind", "of", "aim"), rows)


def left_out_table(results: Sequence[Result]) -> list[str]:
    """One row a kind and GPU; nvfp4, which only one GPU has, apart."""
    rows = []
    for kind, table, predictions in results:
        errors = errors_of(table, predictions)
        names, codes = errors.keys["gpu"]
        for code, gpu in enumerate(names):
            for what, pick in parts_of(errors, kind, "nvfp4", np.flatnonzero(codes == code)):
                wanted = AIM_B200.get((kind, what)) if gpu == "b200-sxm" else None
                rows.append({"kind": kind, "GPU left out": gpu, "of": what, "aim": aim(wanted)} | summary(errors, pick))
    return markdown(("kind", "GPU left out", "of", "aim"), rows)


def named_table(results: Sequence[Result]) -> list[str]:
    """One row a kind, model, GPU and software."""
    keys = ("model", "gpu", "software")
    rows = [{"kind": kind} | row for kind, table, found in results for row in by(errors_of(table, found), *keys)]
    return markdown(("kind", *keys), rows)


def parts_of(errors: Errors, kind: str, apart: str, rows: np.ndarray | None = None) -> list[tuple[str, np.ndarray]]:
    """(words, indices): all rows, or those of GEMMs in the format `apart` and the others."""
    rows = np.arange(len(errors.error)) if rows is None else rows
    if not len(rows):
        return []
    names, codes = errors.keys["dtype"]
    if kind != "gemm" or apart not in names:
        return [("all", rows)]
    own = codes[rows] == names.index(apart)
    parts = [(f"but {apart}", rows[~own]), (apart, rows[own])]
    return [(words, pick) for words, pick in parts if len(pick)]


def power_table(results: Sequence[Result]) -> list[str]:
    rows = []
    for kind, table, predictions in results:
        errors = errors_of(table, predictions, power=True)
        rows.append({"kind": kind, "aim": aim(AIM_POWER.get(kind))} | summary(errors) | {"covered": None})
    return markdown(("kind", "aim"), rows)


def aim(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def markdown(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table of summaries."""
    lines = ["| " + " | ".join((*names, *SUMMARY)) + " |", "|" + " --- |" * len(names) + " ---: |" * len(SUMMARY)]
    for row in rows:
        cells = [str(row[name]) for name in names] + [f"{row['rows']:,}"]
        cells += [percent(row["mean"]), percent(row["median"]), percent(row["p90"])]
        cells += [percent(row["bias"], True), percent(row["covered"])]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


if __name__ == "__main__":
    sys.exit(main())
