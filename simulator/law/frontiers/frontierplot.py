"""The picture of frontiers (`kinesim law frontier --out FILE.svg`): accuracy against cost, one panel a way of costing.

As the paper draws it: thin curves by model, dotted for dense attention and dashed for sparse, thick envelopes over the
models in the colour of the best one with a mark where it changes, and arrows where sparse attention gains and saves the
most. What is drawn is computed elsewhere (`simulator.law.frontiers.frontier`, `simulator.law.frontiers.envelopes`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulator.graphview import fit, picture_format, write_picture
from simulator.law.amounts import UNIT_WORDS, Mark, amount
from simulator.law.frontiers.envelopes import Envelope, Span, cost_at, gain_at, largest_gain, largest_saving
from simulator.law.frontiers.frontier import Frontier
from simulator.law.labels import size_label

_INK, _SOFT, _THIN, _MARK = "#1D2733", "#5B6673", "#D5DAE0", "#A3172D"
_DENSE = ("#F2B701", "#E8871A", "#DB5A1F", "#B83A26", "#86242F", "#541B33")
_SPARSE = ("#7CC4B8", "#3FA7B5", "#2384B5", "#235FA4", "#2A3F86", "#2B2459")
"""Colours of models from the smallest to the largest, warm for dense and cold for sparse attention: apart in lightness
as well as in hue, so that they can be told apart by colour-blind readers and in print."""
ATTENTION_WORDS = {
    "dense": "dense",
    "top_k": "top-k",
    "oracle-topk": "top-k",
    "block_top_k": "block top-k",
}
MOST_COLUMNS = 2
NOTE_LETTERS = 15
"""Letters of a note in an inch."""
_ARROW = {"arrowstyle": "<|-|>", "lw": 1.3, "shrinkA": 1, "shrinkB": 1, "mutation_scale": 9}


def draw_frontiers(
    panels: Sequence[tuple[str, Frontier]],
    path: Path | str,
    *,
    unit: str,
    title: str,
    notes: Sequence[str] = (),
    marks: Sequence[Mark] = (),
) -> None:
    """Draw frontiers of the same `unit` side by side, each under its own title, into a .svg or .png file.

    The accuracy axis is common; the cost axis too, so that a curve that moved can be seen to have moved. `notes` stand
    beneath.

    Raises
    ------
    InputError : another kind of picture, a path that cannot be written.
    """
    target = Path(path)
    picture_format(target)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(panels), MOST_COLUMNS)
    lines = -(-len(panels) // columns)
    width = 0.9 + 6.3 * columns
    notes = [line for note in notes for line in textwrap.wrap(note, int((width - 1.1) * NOTE_LETTERS))]
    head, above, tall, below, foot = 0.55, 0.34, 4.4, 0.6, 0.12 + 0.2 * len(notes)
    height = head + lines * (above + tall + below) + foot
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    low = min(_first_cost(f) for _, f in panels)
    high = max(_last_cost(f) for _, f in panels)
    top = max(float(e.accuracy.max()) for _, f in panels for e in f.envelopes)
    for i, (name, frontier) in enumerate(panels):
        row, column = divmod(i, columns)
        bottom = height - head - above - tall - row * (above + tall + below)
        axes = figure.add_axes(((0.75 + column * 6.3) / width, bottom / height, 5.95 / width, tall / height))
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(-0.02, min(1.02, top * 1.09 + 0.02))
        _dress(axes, unit, name, column == 0, row == lines - 1 or i + columns >= len(panels))
        _curves(axes, frontier)
        for envelope in frontier.envelopes:
            _envelope(axes, envelope, frontier)
        _arrows(axes, frontier, unit, marks)
        if not i:
            _legend(axes, frontier)
    fit(
        figure.text(0.75 / width, 1 - 0.3 / height, title, fontsize=13, weight="bold", color=_INK, va="center"),
        width - 1.1,
    )
    for i, note in enumerate(notes):
        y = (0.14 + 0.2 * (len(notes) - 1 - i)) / height
        figure.text(0.75 / width, y, note, fontsize=8.4, color=_SOFT, va="center")
    write_picture(figure, target)


def _first_cost(frontier: Frontier) -> float:
    """A little below the first cost at which anything is solved."""
    solved = np.max([e.accuracy for e in frontier.envelopes], axis=0) > 0
    return float(frontier.costs[int(np.argmax(solved))]) / 1.15


def _last_cost(frontier: Frontier) -> float:
    """A little beyond the last cost at which any curve still rises; lines beyond it are flat."""
    tops = [int(np.argmax(c.accuracy >= c.accuracy.max() - 5e-4)) for c in frontier.curves]
    return min(1.5 * float(frontier.costs[max(tops)]), 1.12 * float(frontier.costs[-1]))


def _colour(frontier: Frontier, model: str, attention: str) -> str:
    shades = _DENSE if attention == "dense" else _SPARSE
    order = frontier.sizes
    place = order.index(model) / max(len(order) - 1, 1)
    return shades[round(place * (len(shades) - 1))]


def _dress(axes: Any, unit: str, name: str, leftmost: bool, lowest: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    axes.set_title(name, fontsize=10.5, color=_INK, loc="left", pad=6)
    if lowest:
        axes.set_xlabel(f"cost of a problem: {UNIT_WORDS[unit]}", fontsize=9.5, color=_INK)
    if leftmost:
        axes.set_ylabel("problems solved", fontsize=9.5, color=_INK)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", color=_THIN, lw=0.6, zorder=0)
    axes.tick_params(labelsize=8.6, colors=_SOFT)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_SOFT)


def _curves(axes: Any, frontier: Frontier) -> None:
    """Thin curves by model."""
    for curve in frontier.curves:
        there = curve.affordable > 0
        axes.plot(
            frontier.costs[there], curve.accuracy[there], ls=_style(curve.attention), lw=1.0, alpha=0.75, zorder=2,
            color=_colour(frontier, curve.model, curve.attention),
        )  # fmt: skip


def _envelope(axes: Any, envelope: Envelope, frontier: Frontier) -> None:
    """The thick line in the colours of the best models, with marks where they change and their names."""
    dense, costs = envelope.attention == "dense", frontier.costs
    for i, span in enumerate(envelope.spans):
        inside = (costs > span.start) & (costs < span.end)
        x = np.concatenate([[span.start], costs[inside], [span.end]])
        y = np.concatenate([[span.low], envelope.accuracy[inside], [span.high]])
        colour = _colour(frontier, span.model, envelope.attention)
        axes.plot(x, y, lw=3.2, color=colour, solid_capstyle="butt", zorder=4)
        if i:
            marker, size = _marks(envelope.attention)
            axes.plot([x[0]], [y[0]], marker=marker, ms=size, color=colour, mec="white", mew=0.8, zorder=5)
        _name(axes, span, x, y, colour, dense)


def _marks(attention: str) -> tuple[str, float]:
    return ("^", 7) if attention == "dense" else ("o", 6.5)


def _name(axes: Any, span: Span, x: np.ndarray, y: np.ndarray, colour: str, dense: bool) -> None:
    """The size of the model beside its part of an envelope: above a sparse, below a dense one; none of short parts."""
    left, right = axes.get_xlim()
    if np.log(span.end / span.start) < 0.028 * np.log(right / left):
        return
    rising = y < y[0] + 0.98 * (y[-1] - y[0]) if y[-1] > y[0] else np.ones(len(y), dtype=bool)
    log = np.log(x)
    middle = (log[rising][0] + log[rising][-1]) / 2
    at, height = float(np.exp(middle)), float(np.interp(middle, log, y))
    edge = (middle - np.log(left)) < 0.06 * np.log(right / left)  # a name to the left would leave the plot
    place = (6, -11) if dense else (-4, -12) if edge else (-6, 5)
    side = "left" if dense or edge else "right"
    _write(axes, size_label(span.model), (at, height), xytext=place, ha=side, color=colour)


def _legend(axes: Any, frontier: Frontier) -> None:
    """What the lines of each attention are, in the free corner of cheap and accurate."""
    from matplotlib.lines import Line2D

    handles, words = [], []
    for envelope in reversed(frontier.envelopes):
        kind = ATTENTION_WORDS.get(envelope.attention, envelope.attention)
        shade = (_DENSE if envelope.attention == "dense" else _SPARSE)[3]
        marker, size = _marks(envelope.attention)
        handles += [
            Line2D([], [], color=shade, lw=3.2, marker=marker, ms=size, mec="white", mew=0.8),
            Line2D([], [], color=shade, lw=1.0, ls=_style(envelope.attention)),
        ]
        words += [f"{kind}: best model at each cost", f"{kind}: one model"]
    axes.legend(
        handles,
        words,
        loc="upper left",
        frameon=False,
        fontsize=8.4,
        labelcolor=_INK,
        handlelength=2.6,
        borderaxespad=0.2,
    )


def _write(axes: Any, words: str, at: tuple[float, float], **options: Any) -> None:
    """Bold words with a white rim that keeps them legible on lines; drawn twice, so that they stay text in an SVG."""
    from matplotlib.patheffects import Stroke

    common = {"fontsize": 9, "weight": "bold", "textcoords": "offset points"} | options
    axes.annotate(words, at, zorder=7, path_effects=[Stroke(linewidth=2.8, foreground="white")], **common)
    axes.annotate(words, at, zorder=8, **common)


def _style(attention: str) -> Any:
    return (0, (1.2, 1.8)) if attention == "dense" else (0, (4.5, 2.2))


def _arrows(axes: Any, frontier: Frontier, unit: str, marks: Sequence[Mark]) -> None:
    """The largest gain at equal cost and the largest saving at equal accuracy, of the first sparse attention; and those
    at `marks`, in another colour.
    """
    if "dense" not in [e.attention for e in frontier.envelopes] or not frontier.sparse:
        return
    costs = frontier.costs
    dense, sparse = frontier.envelope("dense").accuracy, frontier.envelope(frontier.sparse[0]).accuracy
    words = []
    for mark in marks:
        if mark.accuracy is None:
            ends = [gain_at(costs, np.zeros_like(costs), curve, mark.cost) for curve in (dense, sparse)]
            _upright(axes, mark.cost, ends[0], ends[1], _SOFT)
        else:
            ends = [float(cost_at(costs, curve, np.array([mark.accuracy]))[0]) for curve in (dense, sparse)]
            _level(axes, mark.accuracy, ends[1], ends[0], sparse[-1], _SOFT)
    if gain := largest_gain(costs, dense, sparse, frontier.affordable("dense")):
        short = _upright(axes, gain.cost, gain.dense, gain.sparse, _MARK)
        words.append(f"most gained: {short} points at {amount(gain.cost, unit)}")
    if saving := largest_saving(costs, dense, sparse):
        short = _level(axes, saving.accuracy, saving.sparse_cost, saving.dense_cost, sparse[-1], _MARK)
        words.append(f"most saved: {short} at {100 * saving.accuracy:.0f} % solved")
    _write(
        axes, "\n".join(words), (0.985, 0.035), xycoords="axes fraction", xytext=(0, 0), ha="right", va="bottom",
        color=_MARK,
    )  # fmt: skip


def _upright(axes: Any, cost: float, low: float, high: float, colour: str) -> str:
    """An arrow from one accuracy to another, and its words; nothing is drawn outside of the curves."""
    short = f"{100 * (high - low):+.1f}"
    if np.isfinite([low, high]).all():
        axes.annotate("", (cost, high), (cost, low), arrowprops=_ARROW | {"color": colour}, zorder=6)
        _write(axes, short, (cost, low + 0.4 * (high - low)), xytext=(5, 0), va="center", color=colour)
    return short


def _level(axes: Any, accuracy: float, low: float, high: float, top: float, colour: str) -> str:
    """An arrow from one cost to another, and its words: beneath it near the flat ends of the curves, at `top`."""
    short = f"{high / low:.1f} x"
    if np.isfinite([low, high]).all():
        axes.annotate("", (low, accuracy), (high, accuracy), arrowprops=_ARROW | {"color": colour}, zorder=6)
        place = (0, -12 if accuracy > 0.85 * top else 4)
        _write(axes, short, ((low * high) ** 0.5, accuracy), xytext=place, ha="center", color=colour)
    return short
