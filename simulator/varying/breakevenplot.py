"""A break-even search as a picture: the metric along the field with its interval, the target, and where they cross."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from simulator.graphview import picture_format, write_picture
from simulator.varying.breakeven import BreakEven, Case
from simulator.varying.breakevendoc import answer
from simulator.varying.plots import COLOURS, INK, SOFT, THIN


def draw_break_even(found: BreakEven, path: Path | str) -> None:
    """Draw it into a .svg or .png file. Raises InputError for another ending."""
    path = Path(path)
    picture_format(path)
    write_picture(_figure(found), path)


def _figure(found: BreakEven) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    several = len(found.cases) > 1
    texts = [f"{case.label}: {answer(found, case)}" if several else answer(found, case) for case in found.cases]
    lines = [line for text in texts for line in textwrap.wrap(text, 118)]
    width, height = 9.5, 5.0 + 0.22 * len(lines)
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    title = f"Break-even of {found.range.path}: {found.scenario}"
    figure.text(0.16 / width, 1 - 0.26 / height, title, fontsize=14, color=INK, weight="bold", va="center")
    for i, line in enumerate(lines):
        figure.text(0.16 / width, 1 - (0.56 + 0.22 * i) / height, line, fontsize=9.5, color=SOFT, va="center")
    axes = figure.add_axes((0.09, 0.6 / height, 0.88, 1 - (1.5 + 0.22 * len(lines)) / height))
    for case, colour in zip(found.cases, COLOURS, strict=False):
        _case(axes, found, case, colour)
    _dress(axes, found)
    return figure


def _case(axes: Any, found: BreakEven, case: Case, colour: str) -> None:
    """A curve through what was simulated, scan and search together; its band through the scan."""
    seen = [(row.x, row.values["predicted"]) for row in case.scan]
    for c in case.crossings["predicted"]:
        seen += [(c.inside.x, c.inside.value), (c.outside.x, c.outside.value)]
    points = sorted((x, v) for x, v in seen if v is not None)
    band = [(r.x, r.values["fast"], r.values["slow"]) for r in case.scan if r.values["fast"] is not None]
    label = case.label if len(found.cases) > 1 else "as predicted"
    axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.8, marker="o", markersize=3.5, label=label)
    if band:
        x, fast, slow = zip(*band, strict=True)
        axes.fill_between(x, fast, slow, color=colour, alpha=0.16, linewidth=0)
    limit = case.goal["predicted"]
    first = case is found.cases[0]
    apart = len({c.goal["predicted"] for c in found.cases}) > 1
    axes.axhline(limit, color=colour if apart else INK, linewidth=1.1, linestyle=(0, (5, 3)),
                 label=("as with " + " ".join(found.like) if found.like else "target") if first else None)  # fmt: skip
    for c in case.crossings["predicted"]:
        axes.plot(c.inside.x, limit, marker="D", markersize=8, color=colour, markeredgecolor="white", zorder=5)
        axes.annotate(
            found.range.words(c.inside.x), (c.inside.x, limit), textcoords="offset points",
            xytext=(8, 8 if first else -17), fontsize=10, color=colour, weight="bold",
        )  # fmt: skip
    for curve in ("fast", "slow"):
        for c in case.crossings.get(curve, ()):
            axes.plot(c.inside.x, case.goal[curve], marker="|", markersize=11, markeredgewidth=2, color=colour)


def _dress(axes: Any, found: BreakEven) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    over, metric = found.range, found.target.metric
    if over.logarithmic and over.high / over.low > 3:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.4g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{over.path}{', ' + over.unit if over.unit else ''}", color=INK, fontsize=10)
    banded = any(row.values["fast"] is not None for case in found.cases for row in case.scan)
    title = metric.title + (f", {metric.unit}" if metric.unit else "") + ("; band: 80 % interval" if banded else "")
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_ylim(bottom=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(THIN)
    axes.tick_params(colors=INK, labelsize=9.5)
    axes.grid(color=THIN, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9.5, labelcolor=INK)
