"""A co-design as a picture: what each resource of each GPU is of the scenario's, and the metric on every GPU."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from simulator.graphview import picture_format, write_picture
from simulator.varying.codesign import CoDesign
from simulator.varying.codesigndoc import sentences
from simulator.varying.plots import COLOURS, INK, SOFT, THIN

BASE = "#9AA3AD"


def draw_codesign(found: CoDesign, path: Path | str) -> None:
    """Draw it into a .svg or .png file. Raises InputError for another ending."""
    path = Path(path)
    picture_format(path)
    write_picture(_figure(found), path)


def _figure(found: CoDesign) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = len(found.space.resources)
    width, height = 11.0, 2.6 + 0.34 * rows * (1 + len(found.optima))
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    title = f"What to build for {found.scenario}, within: {found.budget.title}"
    figure.text(0.16 / width, 1 - 0.26 / height, title, fontsize=14, color=INK, weight="bold", va="center")
    last = sentences(found)[-1]
    for i, line in enumerate(textwrap.wrap(last, 150)[:2]):
        figure.text(0.16 / width, 1 - (0.56 + 0.22 * i) / height, line, fontsize=9.5, color=SOFT, va="center")
    axes = figure.subplots(1, 2, width_ratios=(1.6, 1))
    figure.subplots_adjust(left=0.12, right=0.97, top=1 - 1.3 / height, bottom=0.95 / height, wspace=0.32)
    _resources(axes[0], found)
    _metric(axes[1], found)
    _legend(figure, found, width, height)
    return figure


def _resources(axes: Any, found: CoDesign) -> None:
    """Bars of every resource, with its value at the end."""
    space, count = found.space, 1 + len(found.optima)
    thick = 0.8 / count
    gpus = [(space.now, BASE), *((space.values(o.x), c) for o, c in zip(found.optima, COLOURS, strict=False))]
    for g, (values, colour) in enumerate(gpus):
        for i, r in enumerate(space.resources):
            y = i + (g - (count - 1) / 2) * thick
            ratio = values[i] / r.now
            axes.barh(y, ratio, height=0.92 * thick, color=colour)
            costs = (space.prices[b.name][i] * values[i] / space.totals[b.name] for b in found.budget.limits)
            share = " + ".join(f"{cost:.0%}" for cost in costs)
            axes.text(ratio, y, f" {r.words(float(values[i]))}, {share}", va="center", fontsize=8.5, color=INK)
    axes.set_yticks(range(len(space.resources)), [r.kind.title for r in space.resources])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(float((values / space.now).max()) for values, _ in gpus))
    axes.set_title("resource over the scenario's GPU, and its share of the budget", fontsize=10, color=INK, loc="left")
    _dress(axes)


def _metric(axes: Any, found: CoDesign) -> None:
    """Bars of the metric: a group a setting, a bar a GPU, with intervals."""
    count = 1 + len(found.optima)
    thick = 0.8 / count
    for s in range(len(found.optima)):
        for g, row in enumerate(found.measured):
            measured, y = row[s], s + (g - (count - 1) / 2) * thick
            if measured.value is None:
                axes.text(0, y, " not served", va="center", fontsize=8.5, color=SOFT)
                continue
            axes.barh(y, measured.value, height=0.92 * thick, color=(BASE, *COLOURS)[g])
            if measured.low is not None and measured.high is not None:
                axes.plot([measured.low, measured.high], [y, y], color=INK, linewidth=1.2)
    labels = [textwrap.fill(o.label, 14) for o in found.optima] if count > 2 else [""]
    axes.set_yticks(range(len(found.optima)), labels)
    axes.invert_yaxis()
    unit = f", {found.metric.unit}" if found.metric.unit else ""
    known = any(m.low is not None for row in found.measured for m in row)
    axes.set_title(
        f"{found.metric.title}{unit}{', 80 % interval' if known else ''}", fontsize=10, color=INK, loc="left"
    )
    _dress(axes)


def _dress(axes: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(THIN)
    axes.tick_params(colors=INK, labelsize=9.5, length=0)
    axes.grid(axis="x", color=THIN, linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(figure: Any, found: CoDesign, width: float, height: float) -> None:
    from matplotlib.patches import Patch

    names = [found.gpu, *(f"best for {o.label}" if len(found.optima) > 1 else "best" for o in found.optima)]
    marks = [Patch(color=colour, label=name) for name, colour in zip(names, (BASE, *COLOURS), strict=False)]
    figure.legend(
        handles=marks, loc="lower left", bbox_to_anchor=(0.1 / width, 0.06 / height), ncols=min(len(names), 3),
        frameon=False, fontsize=9.5, labelcolor=INK,
    )  # fmt: skip
