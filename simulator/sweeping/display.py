"""Sweeps for people, on a terminal. Computes nothing but the spread of a column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from hwspecs.units import format_quantity
from simulator.headline import METRICS
from simulator.printing import duration, percent
from simulator.sweeping.grid import SCENARIO

if TYPE_CHECKING:
    from simulator.sweeping.results import Estimate, SweepResult

SHOWN = ("makespan_s", "ttft_s.p99", "tpot_s.p99", "output_tokens_per_s_per_gpu", "usd_per_million_output_tokens")
"""Metrics of the table where the file names none."""
MOST_ROWS = 30


def show_sweep(result: SweepResult) -> None:
    """The rows, or of many the spread of each metric; what was done; where it is."""
    console = _console()
    keep = result.keep if set(result.keep) != set(METRICS) else SHOWN
    table = result.table
    console.print(_rows(result, keep) if len(table) <= MOST_ROWS else _spread(result, keep))
    console.print()
    counts = result.counts
    words = [f"{counts.ok:,} simulated"]
    words += [f"{n:,} {name}" for name, n in (("invalid", counts.invalid), ("failed", counts.failed)) if n]
    chosen = f"{counts.chosen:,} scenarios"
    if counts.chosen < counts.combinations:
        chosen += f" of {counts.combinations:,} combinations"
    console.print(f"{result.name}: {chosen}: {', '.join(words)}")
    if counts.alike:
        console.print(f"note: {counts.alike:,} combinations are the same scenario as another one", style="yellow")
    for status in ("invalid", "failed"):
        for reason, times in table.loc[table["status"] == status, "reason"].value_counts().head(3).items():
            console.print(f"note: {status}, {times:,} times: {reason}", style="yellow")
    if counts.others:
        console.print(
            f"note: the data set has {counts.others:,} more rows, of other scenarios or of the program before a change",
            style="yellow",
        )
    for word in ("extrapolated", "transferred"):
        times = int(table["notes"].fillna("").str.contains(f"{word}:").sum())
        if times:
            console.print(f"note: {times:,} rows are in part {word} (column notes)", style="yellow")
    if len(known := table["kernel_time.low"].dropna()):
        widest = _band(known.min(), table["kernel_time.high"].max())
        console.print(f"80 % interval: of the time of steps, from the kernels' held-out errors; at its widest {widest}")
    shares = table["timed_by"].replace("", None).dropna().value_counts()
    if len(shares):
        console.print(
            f"times rest on {', '.join(f'{name} ({n:,})' for name, n in shares.head(4).items())}", style="dim"
        )
    speed = f", {result.wall_s / counts.simulated * 1e3:,.0f} ms each" if counts.simulated else ""
    console.print(
        f"{counts.before:,} were there, {counts.simulated:,} done now in {duration(result.wall_s)}{speed}"
        + (f", {result.workers} workers" if result.workers else ""),
        style="dim",
    )
    console.print(f"rows in {result.folder}: pandas.read_parquet({str(result.folder)!r})")


def show_estimate(found: Estimate) -> None:
    """The answer of a dry run."""
    console = _console()
    console.print(f"{found.name}: {found.chosen:,} scenarios of {found.combinations:,} combinations")
    if found.before:
        console.print(f"{found.before:,} are in {found.folder} already")
    if found.tried:
        left = found.chosen - found.before
        console.print(
            f"about {duration(found.seconds)} for {left:,} on {found.workers} workers, judged by {found.tried} of them"
        )


def _rows(result: SweepResult, keep: tuple[str, ...]) -> Table:
    table = _table(f"Sweep {result.name}")
    lead = [SCENARIO] if result.table[SCENARIO].nunique() > 1 else []
    for path in (*lead, *result.paths):
        table.add_column(path.removeprefix("workload.").removeprefix("engine."), overflow="fold")
    for key in keep:
        table.add_column(METRICS[key].title, justify="right")
    rows = result.table.to_dict("records")
    bands = [_band(row["kernel_time.low"], row["kernel_time.high"]) for row in rows]
    if any(bands):
        table.add_column("80 % interval", justify="right", no_wrap=True)
    for row, band in zip(rows, bands, strict=True):
        cells = [_value(row[path], result.units.get(path, "")) for path in (*lead, *result.paths)]
        if row["status"] == "ok":
            table.add_row(*cells, *(cell(key, row[key]) for key in keep), band)
        else:
            table.add_row(*cells, row["status"], style="yellow")
    return table


def _spread(result: SweepResult, keep: tuple[str, ...]) -> Table:
    table = _table(f"Sweep {result.name}")
    for name in ("", "least", "median", "most"):
        table.add_column(name, justify="right" if name else "left", style=None if name else "dim")
    for key in keep:
        values = result.table[key].dropna()
        if len(values):
            table.add_row(METRICS[key].title, *(cell(key, v) for v in (values.min(), values.median(), values.max())))
    return table


def _band(low: Any, high: Any) -> str:
    """`-2.5 % +3.4 %`; empty where no interval is known."""
    return f"{100 * (low - 1):+.1f} % {100 * (high - 1):+.1f} %" if low == low and low is not None else ""


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)


def _console() -> Console:
    """The terminal; in a pipe, lines as wide as the tables need."""
    console = Console(highlight=False, markup=False)  # names are the user's: brackets in them are no markup
    if not console.is_terminal:
        console.width = 150
    return console


def cell(key: str, value: Any) -> str:
    """A metric's value with its unit."""
    if value is None or value != value:
        return "-"
    unit = METRICS[key].unit
    if unit == "s":
        return duration(value)
    if unit == "":
        return percent(value) if key in ("mfu", "mbu", "goodput_share", "kv_peak_use") else f"{value:,.4g}"
    if unit in ("USD", "h"):
        return f"{value:,.3g} {unit}"
    if unit == "1/s":
        return f"{value:,.3g} /s" if value < 1000 else f"{value:,.0f} /s"
    return format_quantity(value, unit)


def _value(value: Any, unit: str) -> str:
    """A varied value with its unit."""
    if value is None or value != value:
        return "-"
    if isinstance(value, float):
        return format_quantity(value, unit.removeprefix("1"), 4) if unit else f"{value:,.6g}"
    return str(value)
