"""The answer of `kinesim validate kernels` on a terminal. Computes nothing itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from calibration.validation import WEAKNESS

MOST = 16
"""Most groups of one key that are shown; all are in the JSON document."""
WEAK = 1.5
"""A group whose mean error is so many times the table's is shown in red."""
BY_ERROR = ("kernel", "regime")


def console_of(stderr: bool = False) -> Console:
    console = Console(highlight=False, markup=False, stderr=stderr)
    if not console.is_terminal:
        console.width = 150
    return console


def show_validation(document: dict[str, Any], written: list[Path]) -> None:
    """What was predicted by which profile; then the errors, if anything was measured; then what was written."""
    console = console_of()
    console.print(_predictions(document))
    for what, key in (("latency", "latency"), ("board power", "power")):
        errors = document[key]
        if errors is None:
            continue
        console.print()
        console.print(_headline(what, errors["all"], key == "latency"), style="bold")
        console.print(
            "error: |predicted / measured - 1|, at most 100 % a row; bias: median of predicted / measured - 1"
            + ("; inside: measured in the 80 % interval" if key == "latency" else ""),
            style="dim",
        )
        for name, groups in errors["by"].items():
            if len(groups) > 1 and name != "profile":  # nearly the same as by gpu and software
                console.print()
                console.print(_groups(name, groups, errors["all"]["mean"]))
        if errors["worst_regimes"]:
            console.print()
            console.print(_worst(errors["worst_regimes"]))
    if document["latency"] is None and document["power"] is None:
        console.print("\nNothing was measured in this table (no latency_us, in microseconds): predictions only.")
    for path in written:
        console.print(f"written: {path}", style="dim")


def percent(value: float | None, sign: bool = False) -> str:
    if value is None:
        return "-"
    if abs(value) >= 10:
        return f"{100 * value:+,.0f} %" if sign else f"{100 * value:,.0f} %"
    return f"{100 * value:+.1f} %" if sign else f"{100 * value:.1f} %"


def _headline(what: str, errors: dict[str, Any], interval: bool) -> str:
    inside = f", {percent(errors['covered'])} inside the 80 % interval" if interval else ""
    return (
        f"Errors of {what}: mean {percent(errors['mean'])}, median {percent(errors['median'])}, 90th percentile "
        f"{percent(errors['p90'])}, bias {percent(errors['bias'], True)}{inside} ({errors['rows']:,} measured rows)"
    )


def plain_table(title: str) -> Table:
    """A table without lines around it, its title on the left."""
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)


def _predictions(document: dict[str, Any]) -> Table:
    table = plain_table(f"{document['table']}: {document['rows']:,} rows of {document['kind']}")
    for name in ("gpu", "software", "profile", "status"):
        table.add_column(name, no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    rows = sorted(document["predictions"], key=lambda row: -row["rows"])
    for row in rows[: 2 * MOST]:
        bounds = sorted(row["bounds"].items(), key=lambda item: -item[1])
        shares = ", ".join(f"{name} {100 * count / row['rows']:.0f} %" for name, count in bounds[:3])
        style = {"extrapolated": "yellow", "transferred": "cyan"}.get(row["status"], "")
        status = Text(row["status"], style=style)
        table.add_row(row["gpu"], row["software"], row["profile"], status, f"{row['rows']:,}", shares)
    if len(rows) > 2 * MOST:
        table.add_row(f"... {len(rows) - 2 * MOST} more")
    return table


def _columns(table: Table, interval: bool) -> None:
    for name in ("rows", "mean", "median", "p90", "bias", *(("inside",) if interval else ())):
        table.add_column(name, justify="right", no_wrap=True)


def _cells(group: dict[str, Any], interval: bool) -> list[str]:
    cells = [f"{group['rows']:,}", *(percent(group[name]) for name in ("mean", "median", "p90"))]
    cells.append(percent(group["bias"], True))
    return cells + ([percent(group["covered"])] if interval else [])


def _groups(name: str, groups: list[dict[str, Any]], mean: float) -> Table:
    interval = groups[0]["covered"] is not None
    table = plain_table(f"By {name}")
    table.add_column("", no_wrap=True, overflow="ellipsis", max_width=70, min_width=24)
    _columns(table, interval)
    ordered = sorted(groups, key=lambda g: -g["mean"]) if name in BY_ERROR else groups
    for group in ordered[:MOST]:
        style = "red" if group["mean"] > WEAK * mean and group["rows"] >= 20 else ""
        table.add_row(group[name], *_cells(group, interval), style=style)
    if len(ordered) > MOST:
        table.add_row(f"... {len(ordered) - MOST} more, in --format json")
    return table


def _worst(groups: list[dict[str, Any]]) -> Table:
    interval = groups[0]["covered"] is not None
    table = plain_table("Weakest, of groups with at least 0.2 % of the rows")
    shown = [name for name in WEAKNESS if name in groups[0]]
    for name in shown:
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=30)
    _columns(table, interval)
    for group in groups:
        table.add_row(*(group[name] for name in shown), *_cells(group, interval))
    return table
