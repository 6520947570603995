"""A plan as text for a terminal, and as a JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from calibration.measure.figures import Figures
from calibration.measure.plan import START, seconds_of
from calibration.measure.task import SHAPES, Task
from hwspecs.units import format_quantity

LIMITS = (1, 2, 4, 8, 15, 30, 60)
"""Minutes after which the plan is looked at."""
FIRST = 30
"""Measurements that are shown one by one."""


def within(tasks: Sequence[Task], minutes: float) -> int:
    """How many of the first measurements are done in so many minutes, by estimate; the start is counted."""
    at = START
    for count, task in enumerate(tasks):
        at += task.seconds
        if at > minutes * 60:
            return count
    return len(tasks)


def limits_of(tasks: Sequence[Task], minutes: float | None) -> list[float]:
    """Where the plan is looked at: the round limits before its end, the limit that was given, its end."""
    total = seconds_of(tasks) / 60
    chosen = {float(limit) for limit in LIMITS if limit < total}
    if minutes is not None and minutes < total:
        chosen = {limit for limit in chosen if limit < minutes} | {minutes}
    return sorted(chosen)


def document(tasks: Sequence[Task], figures: Figures, kind: str, minutes: float | None, done: int) -> dict[str, Any]:
    """The plan as JSON, `kinesim-measure-plan/1`; seconds are estimates."""
    return {
        "schema": "kinesim-measure-plan/1",
        "plan": kind,
        "gpu": figures.name,
        "estimated_figures": figures.estimated,
        "measurements": len(tasks),
        "already_measured": done,
        "seconds": round(seconds_of(tasks), 1),
        "minutes": minutes,
        "bytes": max((task.bytes for task in tasks), default=0),
        "within": [{"minutes": limit, "measurements": within(tasks, limit)} for limit in limits_of(tasks, minutes)],
        "tables": _tables(tasks),
        "tasks": [
            {"file": t.file, "kernel": t.kernel, "l2": t.l2, "seconds": t.seconds, "bytes": t.bytes, "row": dict(t.row)}
            for t in tasks
        ],
    }


def _tables(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Per table: rows to fit on or look at, for checks, warm; seconds of them all."""
    rows = []
    for table in SHAPES:
        own = [task for task in tasks if task.table == table]
        if own:
            kinds = Counter(task.file.removeprefix(table).removeprefix("-") or "rows" for task in own)
            seconds = round(sum(task.seconds for task in own), 1)
            counts = {name: kinds.get(name, 0) for name in ("rows", "check", "warm")}
            rows.append({"table": table, **counts, "seconds": seconds})
    return rows


def text(tasks: Sequence[Task], figures: Figures, kind: str, minutes: float | None, done: int) -> str:
    """The plan for people."""
    lines = [f"Plan {kind} for {figures.name}", _gpu(figures), ""]
    if not tasks:
        return "\n".join([*lines, "Nothing is left to measure." if done else "The plan is empty."]) + "\n"
    limits = limits_of(tasks, minutes)
    names = [*(f"{limit:g} min" for limit in limits), "all"]
    counts = [within(tasks, limit) for limit in limits] + [len(tasks)]
    header = ["table", "rows", "check", "warm", "time", *names]
    cells = [header]
    for row in _tables(tasks):
        own = [sum(task.table == row["table"] for task in tasks[:count]) for count in counts]
        sizes = [f"{row[name]:,}" if row[name] else "-" for name in ("rows", "check", "warm")]
        cells.append([row["table"], *sizes, clock(row["seconds"]), *(f"{n:,}" if n else "-" for n in own)])
    whole = [sum(row[name] for row in _tables(tasks)) for name in ("rows", "check", "warm")]
    cells.append(["all", *(f"{n:,}" for n in whole), clock(seconds_of(tasks)), *(f"{n:,}" for n in counts)])
    lines += aligned(cells, left=1)
    lines += [
        "",
        "rows: to fit on, or whole layers; check: drawn at random, no fit sees them; warm: again with operands in L2.",
        "The columns of minutes count what is measured when the plan is stopped then.",
    ]
    shown = tasks[:FIRST]
    lines += ["", f"The first {len(shown)} of {len(tasks):,}" if len(shown) < len(tasks) else "In this order"]
    at = START
    cells = [["at", "takes", "table", "L2", "shape"]]
    for task in shown:
        cells.append([clock(at), f"{task.seconds:.2f} s", task.file, task.l2, shape_text(task)])
        at += task.seconds
    lines += aligned(cells, left=5, right=(0, 1))
    memory = format_quantity(max(task.bytes for task in tasks), "B")
    lines += [
        "",
        f"{len(tasks):,} measurements in {clock(seconds_of(tasks))} and up to {memory} of GPU memory. These times are",
        f"estimates from rooflines, {START:g} s for the start included; kernels are compiled meanwhile on other cores.",
    ]
    if done:
        lines.append(f"{done:,} more of the plan are in the folder already.")
    if minutes is not None and within(tasks, minutes) < len(tasks):
        left = len(tasks) - within(tasks, minutes)
        lines.append(f"A limit of {minutes:g} min leaves {left:,} of them; the same command goes on with those.")
    return "\n".join(lines) + "\n"


def _gpu(figures: Figures) -> str:
    parts = [
        figures.title,
        f"{figures.sms} SMs" + (f" of sm_{figures.capability}" if figures.capability else ""),
        format_quantity(figures.memory, "B"),
        f"{format_quantity(figures.bandwidth, 'B/s')}",
        f"L2 {figures.l2 / 2**20:g} MiB",
    ]
    told = "; figures from the driver, peaks guessed" if figures.estimated else ""
    return ", ".join(parts) + told


SHORT = {
    "kv_dtype": "kv",
    "context_len": "context",
    "query_len": "query",
    "past_len": "past",
    "row_bytes": "bytes",
    "intermediate": "width",
}
HEADS = ("q_heads", "kv_heads", "head_dim")
ALONE = ("tp", "ep", "gated")
"""Columns that are usually 1."""


def shape_text(task: Task) -> str:
    """The row in short: labels without their names, nothing that is 0; `heads=32/8x128` are 32 query and 8 KV heads of
    128 elements.
    """
    row = task.row
    parts = [task.kernel.removeprefix("triton_")] if task.kernel.startswith("triton_") else []
    for name in SHAPES[task.table]:
        value = row[name]
        said = name in HEADS or value == 0 or (name in ALONE and value == 1)
        if name == "q_heads" and value:
            parts.append(f"heads={value}/{row['kv_heads']}x{row['head_dim']}")
        elif name == "kv_dtype":
            parts += [f"kv={value}"] if value != row["dtype"] else []
        elif isinstance(value, str):
            parts.append(value)
        elif not said:
            parts.append(f"{SHORT.get(name, name)}={value}")
    return " ".join(parts)


def clock(seconds: float) -> str:
    """`434` -> `7:14`: minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def aligned(cells: Sequence[Sequence[str]], left: int, right: Iterable[int] = ()) -> list[str]:
    """Lines of a table: the first `left` columns left-aligned (but for those in `right`), the others right-aligned."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for row in cells:
        parts = [
            cell.ljust(width) if i < left and i not in right else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return lines
