"""What the terminal shows of a what-if. Computes nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from simulator.display import BOUND_STYLE
from simulator.headline import metric
from simulator.printing import percent
from simulator.resultwords import BOUND_TEXT
from simulator.varying.answers import distinct, place, sentences, shown, value_words
from simulator.varying.boundshift import Shift
from simulator.varying.elasticities import NARROW, WIDE, Elasticity
from simulator.varying.paths import words
from simulator.varying.points import Point
from simulator.varying.whatif import Answer, WhatIf

BOUND_SHORT = {
    "memory": "HBM",
    "compute": "tensor cores",
    "l2": "L2",
    "link": "link",
    "overhead": "launch",
    "host": "host",
}
LEAST_SHARE = 0.01
"""Share of the time below which an operator is not in the tables of bounds."""
ZERO = 0.0005
"""Elasticity that is printed as 0.000."""


def show_whatif(found: WhatIf, out: Path | None = None) -> None:
    """The answer in words, then what it rests on."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # lines as wide as the tables need
    wide = min(console.width, 120)
    console.print(Text(f"What if: {found.scenario}, {found.model} on {found.gpu}", style="bold"))
    for sentence in sentences(found):
        console.print(sentence, width=wide)
    tables: list[RenderableType] = [_bases(found)]
    if any(answer.table for answer in found.answers):
        tables.append(_elasticities(found))
    for answer in found.answers:
        if answer.rows:
            tables.append(_points(found, answer))
            moved = _moved(found, answer)
            tables += [moved] if moved.row_count else []
        if answer.base.shifts:
            tables.append(_shifts(found, answer))
    for table in tables:
        console.print()
        console.print(table)
    console.print()
    for text in _failures(found):
        console.print(f"cannot be served: {text}", style="red", width=wide)
    for note in _notes(found):
        console.print(f"note: {note}", style="yellow", width=wide)
    if out is not None:
        console.print(f"written to {out}")


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)


def _of(found: WhatIf, answer: Answer) -> str:
    return f", {answer.name}" if len(found.answers) > 1 else ""


# ---- metrics ---------------------------------------------------------------------------------------------------------


def _bases(found: WhatIf) -> Table:
    table = _table("Simulated")
    table.add_column("", style="dim", no_wrap=True)
    _metric_columns(table, found, [])
    for answer in found.answers:
        cells = [cell for key in found.metrics for cell in _cell(answer.base, key)]
        table.add_row(answer.name, *cells, _bound_text(answer.base))
    return table


def _metric_columns(table: Table, found: WhatIf, ratios: Sequence[str]) -> None:
    for key in found.metrics:
        table.add_column(metric(key).title, justify="right", no_wrap=True)
        table.add_column("80 %", justify="right", style="dim")
        if key in ratios:
            table.add_column("x base", justify="right", no_wrap=True)
    table.add_column("bound by")


def _cell(point: Point, key: str) -> tuple[str, str]:
    """A metric's value, and its interval in the same unit."""
    value, interval = point.metrics.get(key), point.intervals.get(key)
    if value is None:
        return "-", ""
    if interval is None or interval[0] == interval[1]:
        return shown(key, value), ""
    return shown(key, value), " to ".join(_bare(key, end, value) for end in interval)


def _bare(key: str, end: float, like: float) -> str:
    """An end of an interval in the unit of the value that it belongs to, without it."""
    unit = metric(key).unit
    if unit == "s":
        steps = ((7200, 3600.0), (120, 60.0), (0.9995, 1.0), (0.9995e-3, 1e-3), (0.9995e-6, 1e-6), (0.0, 1e-9))
        return f"{end / next(divisor for least, divisor in steps if like >= least):.3g}"
    if unit == "J" and like >= 3.6e5:
        return f"{end / 3.6e6:,.3g}"
    return shown(key, end).removesuffix(" USD").removesuffix(" %")


def _bound_text(point: Point) -> Text:
    if point.error is not None:
        return Text("cannot be served", style="red")
    text = Text()
    for name, share in list(point.bound_shares.items())[:2]:
        if share >= 0.05:
            text.append(", " if text else "")
            text.append(f"{BOUND_SHORT[name]} {share:.0%}", style=BOUND_STYLE[name])
    return text


def _points(found: WhatIf, answer: Answer) -> Table:
    # A price that moves as the time does needs no second ratio.
    ratios = list(distinct(found))
    table = _table(f"Varied{_of(found, answer)}")
    for path in found.vary:
        table.add_column(path, no_wrap=True, justify="right")
    _metric_columns(table, found, ratios)
    for row in answer.rows:
        cells: list[str] = []
        for key in found.metrics:
            before, value = answer.base.metrics.get(key), row.point.metrics.get(key)
            cells += _cell(row.point, key)
            if key in ratios:
                cells.append(f"{value / before:.3g}" if value is not None and before else "-")
        table.add_row(*(value_words(value) for value in row.values.values()), *cells, _bound_text(row.point))
    return table


def _moved(found: WhatIf, answer: Answer) -> Table:
    """Operators whose main bound is another one than in the base, all effects on the batch included."""
    table = _table(
        f"Operators bound by something else than in the base, and their share of the time{_of(found, answer)}"
    )
    for title in (*found.vary, "before", "now", "operators"):
        table.add_column(title, no_wrap=title != "operators")
    for row in answer.rows:
        total = sum(op["seconds"] for op in row.point.operators.values()) or 1.0
        changes: dict[tuple[str, str], list[str]] = {}
        for name, op in row.point.operators.items():
            before, share = answer.base.operators.get(name), op["seconds"] / total
            if before is None or share < LEAST_SHARE or not before["by_bound"]:
                continue
            one, two = _main_bound(before["by_bound"]), _main_bound(op["by_bound"])
            if one != two:
                changes.setdefault((one, two), []).append(f"{name} {share:.0%}")
        for (one, two), names in changes.items():
            values = (value_words(value) for value in row.values.values())
            table.add_row(*values, BOUND_TEXT[one], BOUND_TEXT[two], ", ".join(names))
    return table


def _main_bound(seconds: Mapping[str, float]) -> str:
    return max(seconds, key=lambda bound: seconds[bound])


def _failures(found: WhatIf) -> list[str]:
    """Why points and settings cannot be served, each reason once."""
    reasons: dict[str, list[str]] = {}
    for answer in found.answers:
        mark = f"{answer.name}: " if len(found.answers) > 1 else ""
        if answer.base.error is not None:
            reasons.setdefault(answer.base.error, []).append(answer.name)
        for row in answer.rows:
            if row.point.error is not None:
                reasons.setdefault(row.point.error, []).append(mark + place(row))
    return [f"{'; '.join(places)}: {reason}" for reason, places in reasons.items()]


# ---- elasticities ----------------------------------------------------------------------------------------------------


def _elasticities(found: WhatIf) -> Table:
    answers = [answer for answer in found.answers if answer.table]
    table = _table("Elasticities: percent for 1 % more, central differences of full simulations")
    table.add_column("resource", no_wrap=True)
    table.add_column("now", justify="right", no_wrap=True)
    titles = distinct(found)
    for title in titles.values():
        for answer in answers:
            table.add_column(title + (f"\n{answer.name}" if len(answers) > 1 else ""), justify="right")
    first = answers[0]
    leading = next(iter(titles), found.metrics[0])
    live = [r for r in first.resources if any(_live(answer, r.key) for answer in answers)]
    for r in sorted(live, key=lambda r: -abs((first.table or {})[r.key][leading].value or 0.0)):
        cells = [_elasticity((answer.table or {}).get(r.key, {}).get(k)) for k in titles for answer in answers]
        now = "as is" if r.time and not r.field.unit else words(r.field.value, r.field.unit)
        table.add_row(r.title, now, *cells)
    return table


def _live(answer: Answer, key: str) -> bool:
    cells = (answer.table or {}).get(key, {})
    return any(e.value is None or abs(e.value) >= ZERO or e.uncertainty >= ZERO for e in cells.values())


def _elasticity(e: Elasticity | None) -> Text:
    if e is None or e.value is None:
        return Text("-")
    off = f" ± {e.off:.3f}" if e.off >= ZERO else ""
    value = f"{e.value:+.3f}" if abs(e.value) >= ZERO else "0.000"
    return Text(f"{value}{off}", style="bold" if abs(e.value) >= 0.1 else "")


def _shifts(found: WhatIf, answer: Answer) -> Table:
    table = _table(f"Bound shifts at the run's mean batches{_of(found, answer)}")
    for title in ("operator", "steps", "share", "bound by", "becomes bound by", "above", "or below"):
        table.add_column(title, no_wrap=True, justify="right" if title == "share" else "left")
    for shift in answer.base.shifts:
        if shift.share >= LEAST_SHARE:
            table.add_row(
                shift.operator,
                shift.phase,
                percent(shift.share),
                Text(BOUND_TEXT[shift.bound], style=BOUND_STYLE[shift.bound]),
                Text(BOUND_TEXT[shift.following], style=BOUND_STYLE[shift.following]),
                *_thresholds(shift),
            )
    return table


def _thresholds(shift: Shift) -> tuple[str, str]:
    above, below = "-", "-"
    if shift.path is not None and shift.above is not None:
        above = f"{_amount(shift.path, shift.above)} {_short(shift.path)} (x{shift.factor:.3g})"
    if shift.other is not None and shift.below is not None:
        below = f"{_amount(shift.other, shift.below)} {_short(shift.other)}"
    return above, below


def _short(path: str) -> str:
    """`gpu.memory.bandwidth` -> `HBM`."""
    last = path.split("gpu.")[-1]
    names = {"memory.bandwidth": "HBM", "l2.bandwidth": "L2", "link.bandwidth": "link", "boost_clock": "clock"}
    return names.get(last, last.removeprefix("peak."))


def _amount(path: str, value: float) -> str:
    unit = "FLOP/s" if ".peak." in path else "Hz" if path.endswith("clock") else "B/s"
    return words(value, unit)


# ---- notes -----------------------------------------------------------------------------------------------------------


def _notes(found: WhatIf) -> list[str]:
    """What has to be said, each note once: of elasticities, then the settings' own, then what holds for points only.

    A note that is not of all settings has the names of those that it is of.
    """
    said: dict[str, list[str]] = {}
    for answer in found.answers:
        own = elasticity_notes(found, answer) if answer.table else []
        for note in [*own, *answer.base.notes]:
            said.setdefault(note, []).append(answer.name)
    every = len(found.answers)
    notes = [note if len(names) == every else f"{', '.join(names)}: {note}" for note, names in said.items()]
    for answer in found.answers:
        for row in answer.rows:
            points = [n for n in row.point.notes if n.startswith(("transferred", "extrapolated"))]
            notes += [note for note in points if note not in said and note not in notes]
    return notes


def elasticity_notes(found: WhatIf, answer: Answer) -> list[str]:
    """What has to be said of elasticities: what makes no difference, over which steps, and what they add up to."""
    table = answer.table or {}
    idle: dict[str, list[str]] = {}
    for r in answer.resources:
        if not _live(answer, r.key):
            idle.setdefault(r.idle or "it never binds", []).append(r.title)
    notes = []
    if idle:
        parts = [f"{', '.join(names)} ({why})" for why, names in idle.items()]
        notes.append("no difference (0.000): " + "; ".join(parts))
    wide = [r.title for r in answer.resources if any(e.step >= min(WIDE) and e.value for e in table[r.key].values())]
    if wide:
        notes.append(
            f"over ± {WIDE[0]:.0%}, since metrics move in steps with them: {', '.join(wide)}; all others over "
            f"± {NARROW[0]:.0%}; "
            "behind ± is the difference that other steps make, and of the time that of errors of kernels, too"
        )
    total = answer.rates_total
    if total is not None and found.closed:
        notes.append(
            "check: the time's elasticities to all rates, less those to launch overhead and host, add up to "
            f"{total:.3f}; -1 if nothing that takes time was left out"
        )
    cells = [(r.title, e) for r in answer.resources for e in table[r.key].values()]
    unknown = dict.fromkeys(f"{title}: {e.why}" for title, e in cells if e.value is None)
    return notes + [f"not known: {text}" for text in unknown]
