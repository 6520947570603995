"""Answers for people, on a terminal: tables that a stranger understands. Computes nothing itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hwspecs.units import format_quantity
from simulator.displaypools import pools_table, rests_table, transfers_table
from simulator.printing import duration, percent
from simulator.resultwords import (
    BOUND_TEXT,
    LATENCY_TEXT,
    Rows,
    bound_words,
    headline_rows,
    memory_rows,
    timed_operators,
    what_rows,
)

if TYPE_CHECKING:
    from simulator.result import Result

BOUND_STYLE = {
    "memory": "cyan",
    "compute": "green",
    "l2": "blue",
    "link": "magenta",
    "overhead": "yellow",
    "host": "red",
}


def _console() -> Console:
    """The terminal; in a pipe, lines as wide as the tables need."""
    console = Console(highlight=False, markup=False)  # names are the user's: brackets in them are no markup
    if not console.is_terminal:
        console.width = 120
    return console


def show_result(result: Result, out: Path | None) -> None:
    """What was simulated, the headline, latencies, where the time went."""
    console = _console()
    if "pools" in result.summary and not console.is_terminal:
        console.width = 130
    parts: list[Any] = [_grid(f"What was simulated: {result.scenario['name']}", what_rows(result)), *_memory(result)]
    parts += [_grid("Headline", headline_rows(result), bold=("time", "price")), _latency(result)]
    if "pools" in result.summary:
        parts += [pools_table(result), transfers_table(result)]
    parts += [_operators(result), _bounds(result)]
    if "pools" in result.summary and (rests := rests_table(result)) is not None:
        parts.append(rests)
    for part in parts:
        console.print(part)
        console.print()
    for note in result.notes:
        console.print(f"note: {note}", style="yellow")
    timing = result.timing
    console.print(
        f"simulated in {duration(timing['wall_s'])} ({timing['events']:,.0f} events for "
        f"{result.summary['batch']['steps']:,.0f} engine steps)",
        style="dim",
    )
    if out is not None:
        console.print(
            f"written to {out}: report.html (open in a browser), result.json, requests.parquet, timeline.parquet, "
            "trace.json (open in ui.perfetto.dev)"
        )


def _grid(title: str, rows: Rows, bold: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for label, text in rows:
        table.add_row(label, Text(text, style="bold" if label in bold else ""))
    return table


def _memory(result: Result) -> list[Table]:
    """Where a GPU's memory goes, of each kind of workers, and how many tokens of KV that makes."""
    pools = result.deployment.get("pools", {})
    found = [_memory_of(facts["memory"], f" of {name} workers") for name, facts in pools.items()]
    return found or [_memory_of(result.deployment["memory"], "")]


def _memory_of(memory: dict[str, Any], whose: str) -> Table:
    title = f"Memory of each GPU{whose}, {format_quantity(memory['capacity'], 'B')}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for _, name, size, words in memory_rows(memory, "worker" if whose else "replica"):
        share = size / memory["capacity"]
        words = f"  {words}" if words else ""
        table.add_row(name, format_quantity(size, "B"), percent(share), "█" * round(24 * share) + words)
    return table


def _latency(result: Result) -> Table:
    table = Table(title="Latency", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", style="dim", no_wrap=True)
    for name in ("mean", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    for key, label in LATENCY_TEXT.items():
        values = result.summary["latency"][key]
        table.add_row(label, *(duration(values[name]) for name in ("mean", "p50", "p90", "p99", "max")))
    return table


def _operators(result: Result, least: float = 0.005) -> Table:
    operators, pools = timed_operators(result), "pools" in result.deployment
    total = sum(op["seconds"] for op in operators) or 1.0
    table = Table(title="Where the time went", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("operator", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("GPU time" if pools else "time", justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    shown = [op for op in operators if op["seconds"] >= least * total]
    for op in shown:
        text = Text()
        for i, (bound, words) in enumerate(bound_words(op)):
            text.append(", " if i else "")
            text.append(words, style=BOUND_STYLE[bound])
        share, name = op["seconds"] / total, f"{op['pool']} {op['name']}".strip()
        table.add_row(name, percent(share), "█" * max(1, round(24 * share)), duration(op["seconds"]), text)
    rest = total - sum(op["seconds"] for op in shown)
    if shown and rest > 1e-9 * total:
        table.add_row("everything else", percent(rest / total), "", duration(rest), "")
    return table


def _bounds(result: Result) -> Text:
    """One line: what bounds the kernels, by share of their time."""
    bounds = result.summary["seconds_by_bound"]
    total = sum(bounds.values()) or 1.0
    text = Text("Bound by: ", style="bold")
    shown = [item for item in sorted(bounds.items(), key=lambda item: -item[1]) if item[1] >= 0.0005 * total]
    for i, (bound, seconds) in enumerate(shown):
        text.append(", " if i else "")
        text.append(f"{BOUND_TEXT[bound]} {percent(seconds / total)}", style=BOUND_STYLE[bound])
    return text


def show_operators(document: dict[str, Any], out: Path | None) -> None:
    """The operators of one step."""
    console = _console()
    if not console.is_terminal:
        console.width = 140  # names of layers' groups are long
    table = Table(title=_title(document), title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("operator", no_wrap=True)
    for name in ("layers", "FLOPs", "weights", "KV", "activations", "FLOP/B", "time", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    for op in document["nodes"]:
        moved = (op["weight_bytes"], op["kv_bytes"], op["act_bytes"] + op["comm_bytes"])
        table.add_row(
            op["name"],
            str(op["count"]),
            format_quantity(op["flops"], "") if op["flops"] else "-",
            *(format_quantity(size, "B") if size else "-" for size in moved),
            f"{op['intensity']:.1f}" if op["intensity"] else "-",
            duration(op["seconds"]),
            percent(op["share"]),
            _bound(op["bound"]),
        )
    console.print(table)
    console.print(f"\none step: {duration(document['step']['seconds'])}, profile {document['profile']}", style="bold")
    if out is not None:
        console.print(f"written to {out}")


def _bound(bound: str) -> Text:
    return Text(BOUND_TEXT[bound], style=BOUND_STYLE[bound])


def _title(document: dict[str, Any]) -> str:
    return f"{document['model']} on {document['gpu']}: {document['description']}"


def show_roofline(document: dict[str, Any], out: Path) -> None:
    """The roof and where the operators stand under it."""
    console = _console()
    console.print(f"{document['model']} on {document['gpu']}, profile {document['profile']}", style="bold")
    table = Table(box=None, pad_edge=False)
    table.add_column("step", no_wrap=True)
    table.add_column("operator", no_wrap=True)
    for name in ("FLOP/B", "FLOP/s", "of its roof", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    for point in document["points"]:
        if point["share"] >= 0.01:
            table.add_row(
                point["step"],
                point["name"],
                f"{point['intensity']:.2f}" if point["intensity"] else "-",
                format_quantity(point["flops_per_s"], "FLOP/s"),
                percent(point["of_roof"]),
                percent(point["share"]),
                _bound(point["bound"]),
            )
    console.print(table)
    console.print(f"written to {out}")


def show_rows(rows: list[dict[str, Any]], hide: tuple[str, ...] = ()) -> None:
    """A plain table of dictionaries with the same keys."""
    table = Table(box=None, pad_edge=False)
    keys = [key for key in rows[0] if key not in hide]
    for key in keys:
        numeric = all(isinstance(row[key], int | float | None) for row in rows)
        justify: Any = "right" if numeric else "left"
        table.add_column(key.replace("_", "\n"), justify=justify, no_wrap=key != "description")
    for row in rows:
        table.add_row(*(_cell(row[key]) for key in keys))
    _console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
