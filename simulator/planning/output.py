"""A plan as a file: a picture of the candidates that were simulated, or a table of them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.graphview import write_picture
from simulator.law.options import check_out
from simulator.planning.document import rows
from simulator.planning.words import amount, limit_words, objective_title, usd
from simulator.tables import SUFFIXES, write_columns

if TYPE_CHECKING:
    from simulator.planning.model import Candidate, Outcome
    from simulator.planning.planner import Answer

_INK, _SOFT, _THIN = "#1D2733", "#5B6673", "#D5DAE0"
_HEAD: dict[str, Any] = {"fontsize": 12, "color": _INK, "weight": "bold"}
LETTERS = 145
"""Of a line beneath the title."""
_COLOURS = ("#4280bd", "#cf6a2c", "#349a6a", "#9a68c6", "#a5820f", "#cb5781", "#3f95a3", "#85874f")
_MARKS = "osD^vPX*"
_APART = 6.0
"""Points between words and a marker's middle that are enough."""
_WORSE = {"arrowstyle": "<-", "lw": 0.9, "shrinkA": 0, "shrinkB": 0}


def check_output(path: Path) -> None:
    """InputError if nothing could be written to `path`. To be asked before the search."""
    check_out(path)


def write_output(answer: Answer, path: Path) -> None:
    """Write a table (.csv, .parquet) or a picture (.svg, .png), by the name's ending. InputError as `check_output`."""
    if path.suffix.lower() in SUFFIXES:
        table = rows(answer)
        names = list(table[0]) if table else ["gpus"]
        write_columns(path, {name: np.array([row[name] for row in table]) for name in names})
    else:
        draw_plan(answer, path)


def draw_plan(answer: Answer, path: Path) -> None:
    """Price against latency and against energy, of all candidates that were simulated to their end.

    One colour and mark a GPU; filled where the objectives are met, large on the Pareto front.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 5.4), facecolor="white")
    FigureCanvasAgg(figure)
    panels = [("binding", _binding_title(answer)), ("joules_per_output_token", "energy per output token, J")]
    for i, (key, title) in enumerate(panels):
        axes = figure.add_axes((0.07 + 0.5 * i, 0.2, 0.41, 0.57))
        _panel(axes, answer, key, title)
    head = answer.plan.best
    figure.text(0.07, 0.945, f"{answer.base.loaded.model.name}, {answer.base.loaded.config.name}", **_HEAD)
    words = "no candidate meets the objectives"
    if head is not None:
        words = f"best: {head.candidate.words()}, {usd(head.usd_per_hour)} USD/h"
    figure.text(0.07, 0.905, words, fontsize=10, color=_INK)
    asked = ", ".join(f"{objective_title(one)} {limit_words(one)}" for one in answer.plan.objectives)
    below = textwrap.fill(f"asked: {asked}; load: {answer.plan.load}", LETTERS, max_lines=3)
    figure.text(0.07, 0.885, below, fontsize=9, color=_SOFT, va="top")
    _legend(figure, answer)
    write_picture(figure, path)


def _binding_title(answer: Answer) -> str:
    one = _binding(answer)
    return objective_title(one)


def _binding(answer: Answer) -> Any:
    """The objective that binds the best, or the closest."""
    chosen = answer.plan.best or answer.plan.closest
    return answer.plan.objectives[0] if chosen is None else chosen.verdict.binding.objective


def _value(answer: Answer, outcome: Outcome, key: str) -> float:
    if key != "binding":
        found = outcome.metrics.get(key)
    else:
        wanted = _binding(answer)
        found = next(one.value for one in outcome.verdict.reached if one.objective == wanted)
    return float("nan") if found is None else float(found)


def _panel(axes: Any, answer: Answer, key: str, title: str) -> None:
    plan = answer.plan
    fronts = {one.candidate for one in plan.front}
    for outcome in plan.outcomes:
        value = _value(answer, outcome, key)
        if not np.isfinite(value):
            continue
        colour, mark = _style(answer, outcome.candidate)
        chosen = plan.best is not None and outcome.candidate == plan.best.candidate
        front = outcome.candidate in fronts
        axes.scatter(
            [outcome.usd_per_hour],
            [value],
            s=170 if chosen else 60 if front else 22,
            marker=mark,
            facecolor=colour if outcome.verdict.met else "none",
            edgecolor=_INK if chosen else colour,
            linewidth=1.8 if chosen else 1.0,
            alpha=1.0 if front or chosen else 0.75,
            zorder=3 + front + chosen,
        )
    if key == "binding":
        wanted = _binding(answer)
        early = [one for one in plan.lost if one.objective == wanted and np.isfinite(one.value)]
        away = -11 if wanted.at_least else 11  # points, towards what is worse
        for one in early:
            colour, mark = _style(answer, one.candidate)
            at = answer.prices.usd_per_hour(one.candidate), one.value
            axes.scatter(*at, s=22, marker=mark, facecolor="none", edgecolor=colour, zorder=3)
            axes.annotate("", at, xytext=(0, away), textcoords="offset points", arrowprops=_WORSE | {"color": colour})
        axes.axhline(wanted.limit, color=_SOFT, lw=1, ls="--")
        values = [v for o in plan.outcomes if np.isfinite(v := _value(answer, o, key)) and v > 0]
        values += [one.value for one in early]
        if values and max(values) > 20 * min(values):
            axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: amount(wanted, value))
    _labels(axes, answer, key)
    axes.set_xlabel("USD an hour", fontsize=9, color=_INK)
    axes.set_title(title, fontsize=10, color=_INK, loc="left")
    axes.tick_params(labelsize=8, colors=_SOFT)
    axes.grid(color=_THIN, lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _labels(axes: Any, answer: Answer, key: str) -> None:
    """The words beside the best and the limit, where least of the markers is in their way."""
    plan = answer.plan
    marks = [(one.usd_per_hour, _value(answer, one, key)) for one in plan.outcomes]
    limit = None
    if key == "binding":
        limit = _binding(answer)
        marks += [(answer.prices.usd_per_hour(one.candidate), one.value) for one in plan.lost if one.objective == limit]
    axes.autoscale_view()
    known = [mark for mark in marks if np.isfinite(mark[1])]
    if not known:
        return
    taken = axes.transData.transform(known)
    box, pixel = axes.bbox, axes.figure.dpi / 72
    if limit is not None:
        line = axes.transData.transform((known[0][0], limit.limit))[1]
        words, size = f"limit {amount(limit, limit.limit)}", np.array((60.0, 10.0)) * pixel
        across = (box.x1 - size[0] / 2, box.x0 + size[0] / 2, (box.x0 + box.x1) / 2)
        spots = [(x, line + side * 8 * pixel) for side in (1, -1) for x in across]
        taken = np.vstack([taken, _write(axes, words, spots, size, taken, fontsize=8, color=_SOFT)])
    if plan.best is not None:
        at = axes.transData.transform((plan.best.usd_per_hour, _value(answer, plan.best, key)))
        if np.isfinite(at).all():
            away = [(0, 15), (0, -15), (22, 0), (-22, 0), (20, 13), (-20, 13), (20, -13), (-20, -13), (0, 26), (0, -26)]
            around = [(at[0] + x * pixel, at[1] + y * pixel) for x, y in away]
            _write(axes, "best", around, np.array((22.0, 10.0)) * pixel, taken, fontsize=9, color=_INK)


def _write(axes: Any, words: str, spots: Any, size: np.ndarray, taken: np.ndarray, **style: Any) -> Any:
    """Write words of about a size (pixels) at the first spot that is free of what is taken, or the freest of them."""
    box = axes.bbox

    def free(spot: Any) -> float:
        apart = (np.abs(taken - spot) - size / 2).max(axis=1).min()
        inside = box.x0 <= spot[0] - size[0] / 2 and spot[0] + size[0] / 2 <= box.x1 and box.y0 <= spot[1] <= box.y1
        return float(min(apart, _APART * axes.figure.dpi / 72)) - (0.0 if inside else 1e3)

    spot = max(spots, key=free)
    at = axes.transAxes.inverted().transform(spot)
    axes.annotate(words, at, xycoords="axes fraction", ha="center", va="center", zorder=6, **style)
    return spot


def _style(answer: Answer, candidate: Candidate) -> tuple[str, str]:
    index = list(answer.titles).index(candidate.workers.gpu)
    return _COLOURS[index % len(_COLOURS)], _MARKS[index % len(_MARKS)]


def _legend(figure: Any, answer: Answer) -> None:
    from matplotlib.lines import Line2D

    plan = answer.plan
    candidates = [one.candidate for one in plan.outcomes] + [one.candidate for one in plan.lost]
    shown = {one.workers.gpu: _style(answer, one) for one in candidates}
    handles = [
        Line2D([], [], ls="", marker=mark, color=colour, label=answer.titles[name], ms=6)
        for name, (colour, mark) in shown.items()
    ]
    handles += [
        Line2D([], [], ls="", marker="o", color=_SOFT, label="meets the objectives", ms=5),
        Line2D(
            [], [], ls="", marker="o", mfc="none", color=_SOFT, label="does not (arrow: or worse, lost early)", ms=5
        ),
        Line2D([], [], ls="", marker="o", color=_SOFT, label="on the Pareto front", ms=8),
    ]
    legend = figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.06, 0.0), ncol=4, fontsize=8, frameon=False
    )
    for text in legend.get_texts():
        text.set_color(_INK)
