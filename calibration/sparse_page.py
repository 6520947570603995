"""`make sparse-check`: sparse attention as modelled beside measured kernels of it, as docs/sparse-check.md.

    python -m calibration.sparse_page [TABLE] [--docs FOLDER]

The comparison is `calibration.sparsecheck`; here its results become words and tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from calibration.arguments import Parser, answered, folder_name
from calibration.sparsecheck import (
    Measured,
    Point,
    dsa_operators,
    gather_ratios,
    index_ratios,
    measured,
    page_operators,
)
from calibration.tables import read_kernels
from simulator.files import replace_file
from simulator.profile import load_profile

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT.parent / "shared/data/silicon/dsa_module.parquet"
PAGE = "sparse-check.md"
BATCHES = {"1, 2": (1, 2), "4 to 32": (4, 32), "64 and more": (64, 1024)}
"""Sequences of a step that are put together."""

HEAD = """\
# Sparse attention as modelled, beside a measured one

*Made by `make sparse-check`; do not edit.*

DeepSeek's sparse attention (DSA) is the one sparse attention of which there are public kernel measurements: {rows}
decode blocks of DeepSeek-V3.2 and GLM-5 on {gpus}.
Its parts can be told apart without a model of the block, since beyond 2,048 tokens of past only the index grows
(how: `calibration/sparsecheck.py`). All ratios below are **modelled over measured**: 0.7 means that the model takes
30 % less time. Measurements: NVIDIA AIConfigurator 0.12.0, systems data (Apache-2.0).

## What the kernels do

Two numbers say nearly all of the index: how fast keys are scored (as a part of the HBM's bandwidth, 132 bytes a key),
and how many clocks it takes to look at a token of the longest row when the best are chosen, by one thread block or a
few. `off` is the median error of these two numbers over all steps with 16,384 tokens of past and more.
"""

INDEX = """
## The index

Growth of scores and choice beyond 4,096 tokens of past, as the graph's operators of DSA have it: `index_scores` reads
every key once, `index_select` passes over the scores. First on the bare roofline, then with the rule-of-thumb profile.
"""

PAGES = """
## The same by the operators of block top-k

`page_scores` and `page_select` of the policy `block_top_k` with an index key in place of a page's summary. Every query
head's score of every page is written and read, in fp32; a real kernel adds the heads up before it writes. With 64 heads
(DeepSeek-V3.2) or 32 (GLM-5) on a key that is about as much as the key, or twice; a grouped-query model has 4 to 16.
"""

GATHER = """
## The gather

What a step takes more with 4,096 tokens of past than with at most 16, less the index, against absorbed attention to
2,048 tokens on the bare roofline. Above 1: kernels that compute all 2,048 places, filled or not, so that most of
their time is there without any past, and the growth is small.
"""

TAIL = """
## What follows

- **top-k** (`top_k`: attention over a budget, found at no cost) is a lower bound in two ways. Its attention reads as if
  what is chosen lay in one piece: with 64 sequences and more a real gather takes 1.1 to 3 times as long where it can be
  told, and with few sequences a fixed time that no roofline has. And the search, which costs nothing there, is all that
  grows with a long past in a real kernel.
- **block top-k** has the search. Where batches are large, scoring streams keys at about three quarters of the HBM's
  bandwidth in all engines, which is what the rule-of-thumb profile assumes (0.7). Scores for each query head, written
  and read, are too much by far where one key serves many heads; a fused kernel writes one score a key.
- **The choice** is no matter of bandwidth. With few sequences a row is scanned by one SM at 0.55 to 0.7 clocks a token
  (SGLang, TensorRT-LLM) or by several (vLLM). At 131,072 tokens and 0.55 clocks that is 36 microseconds a layer on an
  H200, at any bandwidth, where the roofline has next to nothing. `simulator.kernels.page_topk` has this term (a row an
  SM, clocks a page); the bare roofline and the rule of thumb have not. It is a tenth of the index with 64 sequences.
- Simulations of models with DSA do not rest on these operators: they take the measured block (`dsa_module`) as a whole,
  and the operators only share its time ([attention.md](attention.md)).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; its exit code."""
    return answered(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = Parser(prog="python -m calibration.sparse_page", description=__doc__.split("\n", maxsplit=1)[0])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("table", nargs="?", type=Path, default=TABLE, help="measured blocks (%(default)s)")
    parser.add_argument("--docs", type=folder_name, default=ROOT / "docs", help="where the page goes (%(default)s)")
    options = parser.parse_args(argv)
    page = options.docs / PAGE
    replace_file(page, write(options.table).encode())
    print(f"written: {page}")


def write(path: Path) -> str:
    """The page for a table of dsa_module. Raises InputError."""
    table = read_kernels(path)
    found = measured(table)
    rows = int((table.measured & (table.columns["phase"] == "decode")).sum())
    gpus = ", ".join(sorted({one.gpu.name for one in found}))
    ideal, thumb = load_profile("ideal"), load_profile("rule-of-thumb")
    lines = [HEAD.format(rows=f"{rows:,}", gpus=gpus), *kernels(found), INDEX]
    lines += ratios(found, "ideal roofline", lambda one: index_ratios(one, dsa_operators(one.size)[:2], ideal))
    lines += ["", *ratios(found, "rule of thumb", lambda one: index_ratios(one, dsa_operators(one.size)[:2], thumb))]
    lines += [PAGES]
    lines += ratios(found, "rule of thumb", lambda one: index_ratios(one, page_operators(one.size), thumb), by="model")
    lines += [GATHER, *gathers(found, lambda one: gather_ratios(one, ideal)), TAIL]
    return "\n".join(lines)


def kernels(found: Sequence[Measured]) -> list[str]:
    """A row a GPU, software and kernel: medians over models and formats."""
    groups: dict[tuple[str, ...], list[Measured]] = {}
    for one in found:
        groups.setdefault((one.names["gpu"], one.names["software"], one.names["kernel"]), []).append(one)
    rows = []
    for names, own in sorted(groups.items()):
        bandwidth, clocks, off = (
            float(np.median(values))
            for values in ([o.bandwidth for o in own], [o.row_clocks for o in own], [o.residual for o in own])
        )
        steps = sum(len(o.index) for o in own)
        rows.append((*names, str(steps), f"{bandwidth:.2f}", f"{clocks:.2f}", f"{100 * off:.0f} %"))
    return markdown(("GPU", "software", "kernel", "steps", "scores over HBM", "clocks a token", "off"), rows)


Ratios = Callable[[Measured], list[tuple[Point, float]]]


def ratios(found: Sequence[Measured], words: str, of: Ratios, by: str = "software") -> list[str]:
    """Medians by GPU and engine (or model), with past down and sequences across."""
    cells: dict[tuple[str, str, float], dict[str, list[float]]] = {}
    for one in found:
        what = (
            one.names[by].split("-")[0] if by == "software" else "GLM-5" if "GLM" in one.names[by] else "DeepSeek-V3.2"
        )
        for point, ratio in of(one):
            if point.past in (16384, 65536, 131072):
                row = cells.setdefault((one.names["gpu"], what, point.past), {})
                row.setdefault(group(point.batch), []).append(ratio)
    rows = [
        (gpu, what, f"{past:,.0f}", *(median(row.get(name, ())) for name in BATCHES))
        for (gpu, what, past), row in sorted(cells.items())
    ]
    return markdown(("GPU", by, f"past ({words})", *(f"{name} sequences" for name in BATCHES)), rows)


def gathers(found: Sequence[Measured], of: Ratios) -> list[str]:
    """Medians by GPU, software, kernel and cache."""
    cells: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for one in found:
        names = tuple(one.names[name] for name in ("gpu", "software", "kernel", "kv_dtype"))
        for point, ratio in of(one):
            cells.setdefault(names, {}).setdefault(group(point.batch), []).append(ratio)
    rows = [(*names, *(median(row.get(name, ())) for name in BATCHES)) for names, row in sorted(cells.items())]
    return markdown(("GPU", "software", "kernel", "cache", *(f"{name} sequences" for name in BATCHES)), rows)


def group(batch: float) -> str:
    """Which of BATCHES."""
    return next(name for name, (low, high) in BATCHES.items() if low <= batch <= high)


def median(values: Iterable[float]) -> str:
    found = list(values)
    return f"{float(np.median(found)):.2f}" if found else ""


def markdown(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(names)} |",
        "| " + " | ".join("---" for _ in names) + " |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


if __name__ == "__main__":
    sys.exit(main())
