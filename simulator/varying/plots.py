"""A what-if as a picture: bars of the elasticities, or metrics along what was varied with their intervals.

Colours can be told apart by people with colour-blindness (Okabe and Ito, "Color universal design", 2008).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulator.graphview import picture_format, write_picture
from simulator.headline import metric
from simulator.varying.answers import captions, distinct, value_words
from simulator.varying.whatif import Answer, Row, WhatIf

INK, SOFT, THIN = "#1D2733", "#5B6673", "#C9CFD5"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B3589A", "#7A7A7A", "#9A7400", "#56A0D3", "#4B4B9B")
LINE, TITLE = 0.21, 0.65
"""Inches: of a line beneath the title, and of the title with what is left above the panels' own titles."""
SHOWN = 0.002
"""Elasticity below which a resource has no bar."""
MOST_LINES = len(COLOURS)


def draw_whatif(found: WhatIf, path: Path | str) -> None:
    """Draw it into a .svg or .png file: what was varied if anything was, else the elasticities. Raises InputError."""
    path = Path(path)
    picture_format(path)
    write_picture(curves(found) if found.vary else tornado(found), path)


def _captions(found: WhatIf, width: float) -> list[str]:
    """The lines beneath the title."""
    whole = (text.replace(" %", "\u00a0%") for text in captions(found))  # no line begins with a sign
    return [line for text in whole for line in textwrap.wrap(text, int(width * 12.5))]


def _figure(found: WhatIf, lines: Sequence[str], width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    title = f"{found.scenario}: {found.model} on {found.gpu}"
    figure.text(0.16 / width, 1 - 0.26 / height, title, fontsize=14, color=INK, weight="bold", va="center")
    for i, line in enumerate(lines):
        figure.text(0.16 / width, 1 - (0.56 + LINE * i) / height, line, fontsize=10, color=SOFT, va="center")
    return figure


def _legend(figure: Any, found: WhatIf, width: float, height: float, names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    if len(names) > 1:
        marks = [Patch(color=colour, label=name) for name, colour in zip(names, COLOURS, strict=False)]
        figure.legend(
            handles=marks, loc="lower left", bbox_to_anchor=(0.1 / width, 0.04 / height), ncols=min(len(names), 4),
            frameon=False, fontsize=9.5, labelcolor=INK,
        )  # fmt: skip


def tornado(found: WhatIf) -> Any:
    """The matplotlib figure of the elasticities: a bar for each resource and setting, a panel for each metric."""
    answers = [answer for answer in found.answers if answer.table]
    titles = distinct(found)
    keys = list(titles)
    first = answers[0]
    live = [
        r
        for r in first.resources
        if any(abs((a.table or {})[r.key][k].value or 0.0) >= SHOWN for a in answers for k in keys)
    ]
    live.sort(key=lambda r: abs((first.table or {})[r.key][keys[0]].value or 0.0))
    width, left, foot = max(9.0, 2.4 + 3.6 * len(keys)), 1.75, 0.95 if len(answers) > 1 else 0.7
    lines = _captions(found, width)
    top = TITLE + LINE * len(lines)
    height = top + foot + (0.28 * len(answers) + 0.12) * max(len(live), 2)
    figure = _figure(found, lines, width, height)
    panel = (width - left - 0.3) / len(keys)
    for i, key in enumerate(keys):
        axes = figure.add_axes(
            ((left + i * panel + 0.1) / width, foot / height, (panel - 0.35) / width, 1 - (foot + top) / height)
        )
        _bars(axes, live, answers, key, titles[key])
        if i:
            axes.set_yticklabels([])
    _legend(figure, found, width, height, [answer.name for answer in answers])
    return figure


def _bars(axes: Any, live: Sequence[Any], answers: Sequence[Answer], key: str, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    thick = 0.8 / len(answers)
    ends = [0.0]
    for j, answer in enumerate(answers):
        for y, r in enumerate(live):
            e = (answer.table or {})[r.key][key]
            if e.value is None:
                continue
            at = y + 0.4 - (j + 0.5) * thick
            axes.barh(at, e.value, height=0.86 * thick, color=COLOURS[j])
            if e.off >= SHOWN:
                axes.plot([e.value - e.off, e.value + e.off], [at, at], color=INK, linewidth=1.2)
            end = e.value + math.copysign(e.off, e.value)
            ends.append(end)
            axes.annotate(
                f"{e.value:+.2f}" if abs(e.value) >= 0.005 else "0.00",
                (end, at),
                xytext=(math.copysign(4, e.value), 0),
                textcoords="offset points",
                ha="left" if e.value >= 0 else "right",
                va="center",
                fontsize=8.5,
                color=INK,
            )
    axes.set_yticks(range(len(live)), [r.title for r in live], fontsize=10, color=INK)
    axes.set_ylim(-0.55, len(live) - 0.45)
    wide = max(ends) - min(ends) or 1.0
    axes.set_xlim(min(ends) - 0.2 * wide, max(ends) + 0.2 * wide)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_xlabel(f"% of {title} for 1 % more", fontsize=9.5, color=SOFT)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    _dress(axes)
    axes.grid(axis="x", color=THIN, linewidth=0.6)


def _dress(axes: Any) -> None:
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, labelsize=9, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(THIN)


def curves(found: WhatIf) -> Any:
    """The matplotlib figure of what was varied: metrics along the first field, a line for each of the others' values
    and each setting.
    """
    titles = distinct(found)
    keys = list(titles)
    names, lines = _lines(found)
    width, foot = max(8.0, 3.9 * len(keys)), 0.65 + 0.25 * (-(-len(names) // 4) if len(names) > 1 else 0)
    said = _captions(found, width)
    height = TITLE + LINE * len(said) + 0.35 + foot + 3.0
    figure = _figure(found, said, width, height)
    panel = width / len(keys)
    for i, key in enumerate(keys):
        axes = figure.add_axes(((i * panel + 0.75) / width, foot / height, (panel - 1.0) / width, 3.0 / height))
        _panel(axes, found, lines, key, titles[key])
    _legend(figure, found, width, height, names)
    return figure


def _lines(found: WhatIf) -> tuple[list[str], list[list[Row]]]:
    """Names and rows of the lines: rows that differ in the first field only."""
    path = next(iter(found.vary))
    named: dict[str, list[Row]] = {}
    for answer in found.answers:
        for row in answer.rows:
            others = [f"{other} {value_words(value)}" for other, value in row.values.items() if other != path]
            if len(found.answers) > 1:
                others.insert(0, answer.name)
            named.setdefault(", ".join(others), []).append(row)
    kept = dict(list(named.items())[:MOST_LINES])
    return list(kept), list(kept.values())


def _panel(axes: Any, found: WhatIf, lines: Sequence[Sequence[Row]], key: str, title: str) -> None:
    path = next(iter(found.vary))
    values = list(found.vary[path])
    numbers = list(dict.fromkeys(_number(row.values[path]) for rows in lines for row in rows))
    known = [n for n in numbers if n is not None]
    largest = max((row.point.metrics.get(key) or 0.0 for rows in lines for row in rows), default=0.0)
    divisor, unit = scale(key, largest)
    if len(known) == len(numbers) and len(known) > 1:
        _curve(axes, path, lines, key, divisor)
    else:
        _columns(axes, lines, key, values, divisor)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="plain")
    first, *others = title.split(" and ")
    title = f"{first}, {unit}" if unit else first
    title += f" ({' and '.join(others)}: in proportion)" if others else ""
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", pad=6)
    axes.set_xlabel(path.split("+")[0], fontsize=9.5, color=SOFT)
    _dress(axes)
    axes.grid(axis="y", color=THIN, linewidth=0.6)


def _curve(axes: Any, path: str, lines: Sequence[Sequence[Row]], key: str, divisor: float) -> None:
    for colour, rows in zip(COLOURS, lines, strict=False):
        known = [row for row in rows if row.point.metrics.get(key) is not None]
        known.sort(key=lambda row: _number(row.values[path]) or 0.0)
        xs = [_number(row.values[path]) or 0.0 for row in known]
        ys = [float(row.point.metrics[key] or 0.0) for row in known]
        ends = [row.point.intervals.get(key) or (y, y) for row, y in zip(known, ys, strict=True)]
        low, high = ([end[i] / divisor for end in ends] for i in (0, 1))
        axes.fill_between(xs, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(xs, [y / divisor for y in ys], color=colour, linewidth=1.8, marker="o", markersize=4)
    ticks = {_number(row.values[path]) or 0.0: value_words(row.values[path]) for rows in lines for row in rows}
    numbers = sorted(ticks)
    logarithmic = numbers[0] > 0 and numbers[-1] / numbers[0] >= 3
    if logarithmic:
        from matplotlib.ticker import NullLocator

        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    along = [math.log(number) if logarithmic else number for number in numbers]
    few = [0]
    for i in range(1, len(numbers)):  # where labels leave each other room
        if along[i] - along[few[-1]] >= 0.19 * (along[-1] - along[0]):
            few.append(i)
    axes.set_xticks([numbers[i] for i in few], [ticks[numbers[i]] for i in few])


def _columns(axes: Any, lines: Sequence[Sequence[Row]], key: str, values: Sequence[Any], divisor: float) -> None:
    thick = 0.8 / len(lines)
    for j, rows in enumerate(lines):
        for i, row in enumerate(rows):
            value, x = row.point.metrics.get(key), i - 0.4 + (j + 0.5) * thick
            if value is None:
                axes.text(x, 0, "not served", rotation=90, fontsize=8, color=SOFT, ha="center", va="bottom")
                continue
            low, high = row.point.intervals.get(key) or (value, value)
            axes.bar(x, value / divisor, width=0.86 * thick, color=COLOURS[j])
            axes.plot([x, x], [low / divisor, high / divisor], color=INK, linewidth=1.2)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_xticks(range(len(values)), [textwrap.fill(value_words(value), 14) for value in values])


def scale(key: str, largest: float) -> tuple[float, str]:
    """What a panel's values are divided by, and the unit that they are then in."""
    unit = metric(key).unit
    if unit == "s":
        choices = ((7200.0, 3600.0, "h"), (120.0, 60.0, "min"), (1.0, 1.0, "s"), (0.0, 1e-3, "ms"))
        return next((divisor, name) for least, divisor, name in choices if largest >= least)
    if unit == "J" and largest >= 3.6e5:
        return 3.6e6, "kWh"
    return 1.0, unit


def _number(value: Any) -> float | None:
    """What a varied value is on an axis; None for what is no number."""
    if isinstance(value, dict) and value and all("." in str(name) for name in value):
        value = next(iter(value.values()))
    if isinstance(value, str):
        from hwspecs.errors import InputError
        from hwspecs.units import DIMENSIONS, parse_quantity

        for dimension in DIMENSIONS:
            try:
                return parse_quantity(value, dimension, bare_ok=False)
            except InputError:
                continue
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
