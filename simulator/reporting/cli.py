"""`kinesim report`: options of the command, and the comparison on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwspecs.errors import InputError
from simulator.clioptions import Format, Formatted

if TYPE_CHECKING:
    from simulator.reporting.report import Report


def report(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT...", help="Folders that `kinesim run --out` wrote: one, or 2 to 8 to compare."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Its heading; the scenario's name if not given.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name for each result, in their order.")
    ] = None,
    intervals: Annotated[
        bool,
        typer.Option("--intervals", help="Simulate both ends of the interval: one for every headline metric."),
    ] = False,
    output: Formatted = Format.table,
) -> None:
    """One page of a result, or of several side by side, that opens without a network."""
    from simulator.files import check_writable
    from simulator.printing import print_json
    from simulator.progress import progress_bar
    from simulator.reporting.report import report as make

    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError("not the name of a page", place="--out", found=str(out), allowed="a file ending in .html")
    check_writable(out.parent, [out.name])
    with progress_bar("simulating the ends") as progress:
        made = make(list(results), title=title, labels=label, intervals=intervals, progress=progress)
    made.save(out)
    if output is Format.json:
        print_json(made.document() | {"out": str(out)})
        return
    _show(made)
    typer.echo(f"written to {out}: {len(made.html.encode()) / 2**20:.1f} MiB, opens in any browser")


def _show(made: Report) -> None:
    """The headline of several results beside each other; of one only the page speaks."""
    from rich.console import Console
    from rich.table import Table

    from simulator.reporting.amounts import amount, change
    from simulator.reporting.comparepage import LEFT_OUT

    comparison = made.comparison
    if len(comparison.labels) < 2:
        return
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 60 + 34 * len(comparison.labels)
    table = Table(title=f"Changes are against {comparison.labels[0]}; * the best", title_justify="left",
                  title_style="bold", box=None, pad_edge=False)  # fmt: skip
    table.add_column("")
    for label in comparison.labels:
        table.add_column(label, justify="right", overflow="fold")
    for row in comparison.rows:
        if row.metric.key in LEFT_OUT:
            continue
        base, cells = row.values[0], []
        for i, value in enumerate(row.values):
            told = f" ({change(value, base)})" if i and value is not None and base is not None else ""
            cells.append(amount(row.metric.key, value) + told.replace(" ()", "") + (" *" if i in row.best else "  "))
        table.add_row(row.metric.title, *cells)
    console.print(table)
    if not comparison.same_work:
        console.print("note: the workloads differ: compare rates and latencies, not totals", style="yellow")
