"""What the terminal shows of a break-even search. Computes nothing itself."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulator.headline import Metric
from simulator.printing import duration
from simulator.varying.breakeven import CURVES, BreakEven, Case
from simulator.varying.breakevendoc import answers
from simulator.varying.notes import merged
from simulator.varying.target import show

CURVE_WORDS = {"predicted": "as predicted", "fast": "fast end", "slow": "slow end"}


def show_break_even(found: BreakEven, out: Path | None = None) -> None:
    """The answer in words, where the metric crosses, and what the scan saw."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 130
    like = f", as good as with {' '.join(found.like)}" if found.like else ""
    console.print(
        Text(f"Break-even of {found.range.path}: {found.scenario}, {found.target.metric.title}{like}", style="bold")
    )
    for text in answers(found):
        console.print(text)
    tables = [_crossings(found)] if any(any(c.crossings.values()) for c in found.cases) else []
    for table in (*tables, _scan(found)):
        console.print()
        console.print(table)
    console.print()
    for note in _notes(found):
        console.print(f"note: {note}", style="yellow")
    console.print(f"{found.runs:,} simulations in {duration(found.seconds)}", style="dim")
    if out is not None:
        console.print(f"written to {out}")


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)


def _crossings(found: BreakEven) -> Table:
    over, metric = found.range, found.target.metric
    table = _table("Where it changes, simulated on both sides")
    if len(found.cases) > 1:
        table.add_column("", style="dim", no_wrap=True)
    for title in ("times", "target", "met at", "there", "missed at", "there", "met by"):
        table.add_column(title, justify="left" if title in ("times", "met by") else "right")
    table.add_column("")
    for case in found.cases:
        for curve in CURVES:
            for c in case.crossings.get(curve, ()):
                cells = [case.label] if len(found.cases) > 1 else []
                goal, inside, outside = _told_apart(metric, (case.goal[curve], c.inside.value, c.outside.value))
                cells += [CURVE_WORDS[curve], goal, over.words(c.inside.x), inside, over.words(c.outside.x),
                          outside if c.outside.value is not None else "not served",
                          "more" if c.rising else "less", "it jumps here" if c.jump else ""]  # fmt: skip
                table.add_row(*cells)
    return table


def _told_apart(metric: Metric, values: tuple[float | None, ...]) -> list[str]:
    """Values in words, with as many digits as it takes that both sides of a crossing do not look the same."""
    texts: list[str] = []
    for digits in range(4, 10):
        texts = [show(metric, value, digits) for value in values]
        if texts[1] != texts[2]:
            break
    return texts


def _scan(found: BreakEven) -> Table:
    over, metric = found.range, found.target.metric
    ends = any(row.values["fast"] is not None for case in found.cases for row in case.scan)
    table = _table(f"{metric.title} over the range" + (", with 80 % intervals" if ends else ""))
    table.add_column(over.path, style="dim", justify="right", no_wrap=True)
    for case in found.cases:
        table.add_column(case.label if len(found.cases) > 1 else metric.key, justify="right")
    base = [show(metric, case.base) if case.base is not None else "not served" for case in found.cases]
    for i, row in enumerate(found.cases[0].scan):
        table.add_row(over.words(row.x), *(_cell(found, case, i) for case in found.cases))
    table.add_row("as it is", *base)
    return table


def _cell(found: BreakEven, case: Case, i: int) -> str:
    row, metric = case.scan[i], found.target.metric
    if row.error is not None:
        return "not served"
    values = row.values
    text = show(metric, values["predicted"])
    if values["fast"] is None or values["slow"] is None:
        return text
    low, high = sorted((values["fast"], values["slow"]))
    return f"{text} ({show(metric, low)} to {show(metric, high)})"


def _notes(found: BreakEven) -> list[str]:
    notes = []
    for case in found.cases:
        name = f"{case.label}: " if len(found.cases) > 1 else ""
        if case.turns:
            text = "is not monotone over the range: between two values of the scan further crossings may hide"
            notes.append(f"{name}{found.target.metric.title} {text}")
        for reason in dict.fromkeys(row.error for row in case.scan if row.error):
            count = sum(row.error == reason for row in case.scan)
            notes.append(f"{name}{count} of {len(case.scan)} values could not be served: {reason}")
    known = any(len(case.crossings) > 1 for case in found.cases)
    if found.like and known:
        notes.append("at the fast end the other setting is taken at its slow end, and the other way round")
    if not known:
        notes.append("no interval is known of this profile or this metric")
    exact = "neighbouring whole numbers" if found.range.whole else f"within {found.tolerance:.2g} of the value"
    if not found.range.logarithmic and not found.range.whole:
        exact = f"within {found.tolerance:.2g} of the range"
    notes.append(f"narrowed to {exact}; the metric as predicted has its own error")
    said = [note for case in found.cases for note in case.notes if note.startswith(("transferred", "extrapolated"))]
    return notes + [f"of values of the range: {note}" for note in merged(said)]
