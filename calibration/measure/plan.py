"""In which order a GPU is measured: by worth, so that a time limit of any length leaves the best profile.

First the points that say most: what a launch costs, bandwidth around the size of the L2 and far above it, the shapes
that goals are set for, one shape of each kernel and format. Then the regions of `shapes`, interleaved by their shares
of the time, each in the order of an even sequence, so that every beginning of the plan covers all of them. About every
sixth measurement of a region is drawn at random and goes to `<table>-check`, which no fit sees. Nothing here is a
constant of one GPU: sizes follow from its L2, memory and peaks.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from calibration.measure.costs import Row, cost_of, load_of
from calibration.measure.evenly import even_point, extremes
from calibration.measure.figures import Figures
from calibration.measure.layershapes import kinetics_region, layer_region
from calibration.measure.shapes import (
    KERNELS,
    MEMORY,
    ROWWISE,
    STREAM_ROW,
    STREAMS,
    Region,
    decode_row,
    elementwise_row,
    gemm_row,
    kernel_regions,
    moe_row,
    page_row,
    prefill_row,
    row_bytes_of,
    widths_of,
)
from calibration.measure.task import SHAPES, Task

MINUTES = {"useful": 8.0, "full": 30.0}
"""How long the plans may take. The first minutes of `full` are `useful`."""
KINDS = ("useful", "full", "layers", "kinetics")
LONGEST = 240.0
"""Minutes that a plan may fill, whatever the limit is: some 60,000 rows."""
RESERVE = 0.9
"""Part of those minutes that is planned; estimates are no better than that."""
START = 15.0
"""Seconds until the first measurement: processes start, and the first kernels are compiled."""
MOST_IDLE = 300
"""Rows in a row that are of no use: then a region is through."""
CHECK_EVERY, WARM_EVERY = 6, 10
"""One row in six of a region is for the check; one in ten that fit into the L2 is measured warm besides."""
TABLES = tuple(SHAPES)
GQA = (32, 8, 128)
"""Heads of the goals: those of Qwen3-8B and Llama-3.1-8B."""


def plan(
    figures: Figures,
    *,
    kind: str = "useful",
    only: Sequence[str] = (),
    seed: int = 0,
    minutes: float | None = None,
    gpus: int = 1,
) -> list[Task]:
    """The measurements of a plan, in the order of their worth.

    Parameters
    ----------
    kind : `useful` and `full` fill their `MINUTES`, by estimate; `full` begins like `useful`, then comes the paper's
        experiment besides. `layers` and `kinetics` are all points of these tables.
    only : tables; the others are left out, and the rest stays as it is.
    seed : of the rows that are drawn at random for the checks. minutes : fill so many instead, if they are more.
    gpus : of this kind in the machine; collectives need two.
    """
    schedule = _Schedule(figures, seed)
    if kind in ("layers", "kinetics"):
        region = layer_region(figures) if kind == "layers" else kinetics_region(figures)
        schedule.exhaust(region)
    else:
        for table, row in anchors(figures, gpus):
            kernel = "triton_gather" if row.get("gather") else KERNELS.get(table, "triton")
            warm = table in ("elementwise", "launch", "collective") or row.get("op") == "select"
            schedule.add(table, row, kernel, l2="warm" if warm else "cold")
        regions = [*kernel_regions(figures, gpus), layer_region(figures)]
        most = min(max(MINUTES[kind], minutes or 0), LONGEST)
        schedule.fill(regions, _budget(MINUTES["useful"] if kind == "full" else most))
        if kind == "full":
            schedule.fill([*regions, kinetics_region(figures)], _budget(most))
    return [task for task in schedule.tasks if not only or task.table in only]


def _budget(minutes: float) -> float:
    return max(0.0, RESERVE * minutes * 60 - START)


def seconds_of(tasks: Sequence[Task]) -> float:
    """How long measuring them takes, the start included; an estimate."""
    return START + sum(task.seconds for task in tasks) if tasks else 0.0


# ---- what says most --------------------------------------------------------------------------------------------------


def anchors(figures: Figures, gpus: int = 1) -> Iterator[tuple[str, Row]]:
    """(table, row) of the points that come first."""
    for mode in ("graph", "stream"):
        yield "launch", {"mode": mode, "launches": 100}
    yield from _streams(min(64 * figures.l2, figures.memory / 16))
    yield "gemm", gemm_row("bf16", 8192, 8192, 8192)
    yield "attention_decode", decode_row("bf16", 64, 32_768, GQA)
    yield "attention_prefill", prefill_row(1, 8192, 0, GQA)
    formats = [f for f in ("bf16", "fp8", "fp16") if f in figures.peak]
    for dtype in formats:
        for m in (64, 1, 512) if dtype != "fp16" else ():
            yield "gemm", gemm_row(dtype, m, 4096, 4096)
        yield "gemm", gemm_row(dtype, 8192, 8192, 8192)
    yield "attention_decode", decode_row("bf16", 64, 1024, GQA, gather=True)
    if "fp8" in formats:
        yield "attention_decode", decode_row("fp8", 64, 32_768, GQA)
    yield "attention_prefill", prefill_row(1, 2048, 8192, GQA)
    for op in ("scores", "select"):
        yield "page_topk", page_row(op, 64, 32_768, GQA)
    widths = widths_of(figures.memory)
    for op in ROWWISE:
        heads = GQA if op in ("rope_kv_write", "page_summary") else (0, 0, 0)
        width = max(widths.vocab) if op == "sampling" else 12_288 if op == "silu_mul" else 4096
        yield "elementwise", elementwise_row(op, 64, row_bytes_of(op, heads, width), heads)
    for model in [shape for shape in widths.moe if shape[-1] == 1][:1]:  # all of each expert
        for dtype in (f for f in ("bf16", "fp8") if f in formats):
            yield "moe", moe_row(dtype, 64, model, 1, "balanced")
    if gpus > 1:
        yield "collective", {"op": "all_reduce", "dtype": "bf16", "gpus": 2, "bytes": 2**20}
    for part in (0.5, 1, 2, 4, 0.25):
        yield from _streams(part * figures.l2)
    for launches in (1, 10, 1000):
        for mode in ("graph", "stream"):
            yield "launch", {"mode": mode, "launches": launches}


def _streams(touched: float) -> Iterator[tuple[str, Row]]:
    for op in STREAMS:
        yield "elementwise", elementwise_row(op, max(1, round(touched / STREAM_ROW)), STREAM_ROW)


# ---- the schedule ----------------------------------------------------------------------------------------------------


@dataclass
class _Progress:
    """How far a region has come: seconds that it has had, rows that were asked for, those that fit into the L2, and how
    many in a row were of no use: planned already, or too large for the memory.
    """

    region: Region
    rows: Iterator[tuple[Row, ...]]
    draw: Callable[[], Row | None]
    spent: float = 0.0
    count: int = 0
    small: int = 0
    idle: int = 0
    done: bool = False


@dataclass
class _Schedule:
    """Tasks in order. No two measure the same, and no row to fit on is one of a check."""

    figures: Figures
    seed: int
    tasks: list[Task] = field(default_factory=list)
    seconds: float = 0.0
    seen: set[tuple[object, ...]] = field(default_factory=set)
    regions: dict[str, _Progress] = field(default_factory=dict)

    def add(self, table: str, row: Row, kernel: str = "triton", *, file: str = "", l2: str = "cold") -> float:
        """Append a task and return its seconds; 0 if it is there already, or too large for the memory."""
        warm = kernel == "triton_warm"
        identity = (table, kernel, *(row[name] for name in SHAPES[table]))
        if identity in self.seen:
            return 0.0
        cost = cost_of(table, row, self.figures, warm=warm)
        if cost.bytes > MEMORY * self.figures.memory:
            return 0.0
        self.seen.add(identity)
        self.tasks.append(Task(table, row, kernel, file or table, l2, round(cost.seconds, 3), round(cost.bytes)))
        self.seconds += cost.seconds
        return cost.seconds

    def fill(self, regions: Sequence[Region], budget: float) -> None:
        """Take from the region that has had the least of its share until `budget` seconds are planned."""
        for region in regions:
            if region.name not in self.regions:
                rng = random.Random(f"{self.seed} {region.name}")
                progress = _Progress(region, _rows(region), functools.partial(_random_row, region, rng))
                # A region that comes in late begins where the others are.
                levels = [p.spent / p.region.share for p in self.regions.values() if not p.done]
                progress.spent = min(levels, default=0.0) * region.share
                self.regions[region.name] = progress
        while self.seconds < budget:
            open_ = [p for p in self.regions.values() if not p.done]
            if not open_:
                return
            progress, before = min(open_, key=lambda p: p.spent / p.region.share), len(self.tasks)
            self.take(progress)
            progress.idle = progress.idle + 1 if len(self.tasks) == before else 0
            progress.done = progress.done or progress.idle >= MOST_IDLE

    def exhaust(self, region: Region) -> None:
        """All points of a region that is a list."""
        for rows in region.points:
            for row in rows:
                self.add(region.table, row, region.kernel, l2=region.l2)

    def take(self, progress: _Progress) -> None:
        """The next of a region: rows to fit on, every sixth time one for the check, now and then one warm besides."""
        region = progress.region
        check = region.draw is not None and progress.count % CHECK_EVERY == CHECK_EVERY - 1
        progress.count += 1
        if check:
            row = progress.draw()
            if row is not None:
                file = f"{region.table}-check"
                progress.spent += self.add(region.table, row, region.kernel, file=file, l2=region.l2)
            return
        rows = next(progress.rows, None)
        if rows is None:
            progress.done = True
            return
        for row in rows:
            progress.spent += self.add(region.table, row, region.kernel, l2=region.l2)
            if self.can_be_warm(region, row):
                progress.small += 1
                if progress.small % WARM_EVERY != 1:
                    continue
                file = f"{region.table}-warm"
                progress.spent += self.add(region.table, row, "triton_warm", file=file, l2="warm")

    def can_be_warm(self, region: Region, row: Row) -> bool:
        """Whether the cold operands are few enough to stay in L2 when only one copy of them is used."""
        if region.draw is None or region.kernel == "triton_gather" or region.l2 == "warm":
            return False
        return 0 < load_of(region.table, row).cold <= self.figures.l2 / 2


def _rows(region: Region) -> Iterator[tuple[Row, ...]]:
    """The rows of a region in the order of their worth; without end where they are drawn, unless hardly any is left.
    Among the first are those at the ends of the ranges.
    """
    yield from region.points
    if region.draw is None:
        return
    ends = extremes(region.dims)
    failures = 0
    for index in itertools.count():
        points = [even_point(index, region.dims)]
        if index % 2 == 1 and (end := next(ends, None)) is not None:
            points.append(end)
        rows = [row for row in map(region.draw, points) if row is not None]
        failures = 0 if rows else failures + 1
        if failures >= 1000:
            return
        for row in rows:
            yield (row,)


def _random_row(region: Region, rng: random.Random) -> Row | None:
    assert region.draw is not None
    for _ in range(1000):
        row = region.draw([rng.random() for _ in range(region.dims)])
        if row is not None:
            return row
    return None
