"""The table of `kinesim compare` for a terminal."""

from __future__ import annotations

from pathlib import Path

from hwspecs.units import format_quantity
from simulator.importing.comparing import Compared, Comparison
from simulator.importing.display import console, plain_table, sent_words
from simulator.printing import duration, percent


def show_comparison(comparison: Comparison, out: Path | None) -> None:
    """What is compared, where it differs, and every metric that both have."""
    print_to = console()
    result, measured = comparison.outlook.result, comparison.measurement
    deployment = result.deployment
    print_to.print("Predicted beside measured", style="bold")
    lines = plain_table()
    lines.show_header = False
    lines.add_column("", no_wrap=True)
    lines.add_column("")
    lines.add_row(
        "predicted",
        f"{result.scenario['name']}: {deployment['model']['name']} on {deployment['gpu']['title']}, "
        f"profile {deployment['profile']['name']}",
    )
    load = measured.load
    what = "requests" if load.requests is None else f"{load.requests:,} requests"
    what += f", {load.failed:,} failed" if load.failed else ""
    named = measured.file.name if measured.name == measured.file.stem else f"{measured.file.name}, {measured.name}"
    lines.add_row("measured", f"{named} ({measured.tool}): {what}, sent {sent_words(measured)}")
    print_to.print(lines)
    for difference in comparison.differences:
        print_to.print(f"not the same: {difference.words()}", style="yellow")
    print_to.print()
    table = plain_table()
    table.add_column("metric", no_wrap=True)
    for name in ("measured", "predicted", "error", "80 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    last = ""
    for row in comparison.metrics:
        group = row.metric.partition(".")[0]
        if last and "." in row.metric and group != last:
            table.add_row("")
        last = group
        table.add_row(*_cells(row), style="" if row.inside is not False else "yellow")
    print_to.print(table)
    judged = [row.inside for row in comparison.metrics if row.inside is not None]
    if judged:
        print_to.print()
        print_to.print(f"{sum(judged)} of {len(judged)} measured values lie inside the 80 % interval")
    for note in comparison.notes:
        print_to.print(f"note: {note}", style="dim")
    if comparison.differences:
        print_to.print("note: the errors above include what is not the same", style="dim")
    if out is not None:
        print_to.print(f"written: {out}", style="dim", soft_wrap=True)


def _cells(row: Compared) -> tuple[str, ...]:
    if row.low is None or row.high is None:
        interval, inside = "-", ""
    else:
        interval = f"{_value(row.low, row.unit)} to {_value(row.high, row.unit)}"
        inside = "inside" if row.inside else "outside"
    error = "-" if row.error is None else f"{100 * row.error:+.1f} %"
    return row.title, _value(row.measured, row.unit), _value(row.predicted, row.unit), error, interval, inside


def _value(value: float, unit: str) -> str:
    if unit == "s":
        return duration(value)
    if unit == "":
        return percent(value)
    if unit == "1/s":
        return f"{value:,.3g} /s" if value < 1000 else f"{value:,.0f} /s"
    return format_quantity(value, unit)
