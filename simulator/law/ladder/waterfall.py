"""The ladder as a figure: what a problem costs from the closed form to the simulation, and what is left of the law.

One panel a GPU. Costs multiply from rung to rung, so the scale is logarithmic: equal heights are equal factors. Beneath
each rung stand the verdicts on the law's conclusions. Colours can be told apart by people with colour-blindness (Okabe
and Ito, "Color universal design", 2008), and every mark has its word in the legend.
"""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError
from simulator.graphview import picture_format, write_picture
from simulator.law.labels import gpu_title, model_title
from simulator.law.ladder.comparedoc import Largest, largest_step, own_part, step_words
from simulator.law.ladder.verdicts import GONE, HOLDS

if TYPE_CHECKING:
    from simulator.law.ladder.compare import Comparison

_INK, _SOFT, _THIN = "#1D2733", "#5B6673", "#C9CFD5"
DENSE, SPARSE = "#0072B2", "#D55E00"
PALE = {DENSE: "#9CC7E0", SPARSE: "#F0BE97"}
MARKS = {"holds": ("●", "#CFE6D8"), "weaker": ("◐", "#F6E7B8"), "gone": ("○", "#E3E5E8"), "unknown": ("?", "#FFFFFF")}
"""Verdict -> mark and ground. The marks differ in form, the grounds in lightness."""
WIDTH, LEFT, RIGHT = 12.0, 2.5, 1.05
BARS, HEADS, ROW, GAP, TOP, FOOT = 3.4, 0.62, 0.34, 0.75, 1.3, 0.62
"""Inches: width of the figure, of its labels and its right edge; heights of bars, of the rungs' names, of a verdict,
between panels, above them and below."""


def draw_waterfall(comparison: Comparison, path: Path | str, model: str | None = None) -> None:
    """Draw the comparison for one model (its reference model if not given) into a .svg or .png file.

    Raises
    ------
    InputError : an unknown model or ending, or a file that cannot be written.
    """
    path = Path(path)
    picture_format(path)
    write_picture(waterfall(comparison, model), path)


def waterfall(comparison: Comparison, model: str | None = None) -> Any:
    """The matplotlib figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    model = model or comparison.reference.model
    if model not in comparison.parameters:
        raise InputError("unknown model", found=model, allowed=", ".join(comparison.parameters))
    steps = comparison.steps()
    steps = steps[steps["model"] == model]
    panel = BARS + HEADS + ROW * (len(comparison.claims) + 1) + GAP
    height = TOP + panel * len(comparison.gpus) - GAP + FOOT
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    _title(figure, comparison, model, steps, height)
    for i, gpu in enumerate(comparison.gpus):
        top = height - TOP - i * panel
        _bars(figure, comparison, steps[steps["gpu"] == gpu], gpu, top, height)
        _strip(figure, comparison, gpu, top - BARS - HEADS, height)
    _legend(figure, height)
    return figure


def _axes(figure: Any, height: float, top: float, tall: float) -> Any:
    """Axes over the rungs' columns: `tall` inches below `top` inches from the bottom."""
    wide = WIDTH - LEFT - RIGHT
    return figure.add_axes((LEFT / WIDTH, (top - tall) / height, wide / WIDTH, tall / height))


def _title(figure: Any, comparison: Comparison, model: str, steps: Any, height: float) -> None:
    last = max(comparison.rungs)
    factors = []
    for attention, name in (("dense", "dense"), (comparison.attention, _sparse(comparison))):
        rows = steps[(steps["attention"] == attention) & (steps["rung"] == last)]
        if not rows.empty:
            low, high = rows["total"].min(), rows["total"].max()
            factors.append(f"{_span(low, high)} with {name}")
    figure.text(
        0.16 / WIDTH, 1 - 0.24 / height, f"How far is the Kinetics law from real serving? {model_title(model)}",
        fontsize=15, color=_INK, weight="bold", va="center",
    )  # fmt: skip
    figure.text(
        0.16 / WIDTH, 1 - 0.53 / height,
        f"Simulated in full, a problem costs more than the law says: {', '.join(factors)}.", fontsize=11,
        color=_INK, va="center",
    )  # fmt: skip
    figure.text(
        0.16 / WIDTH, 1 - 0.77 / height,
        f"{_what(comparison, steps)}. Each step lifts one assumption of the law; equal heights are equal factors.",
        fontsize=9.5, color=_SOFT, va="center",
    )  # fmt: skip


def _span(low: float, high: float) -> str:
    a, b = f"{low:.1f}", f"{high:.1f}"
    return f"{a}x" if a == b else f"{a}x to {b}x"


def _what(comparison: Comparison, steps: Any) -> str:
    limit = f"{comparison.reference.limit:,} tokens"
    if comparison.axis == "best_of_n":
        return f"Best of {comparison.reference.trials}, each trial cut at {limit}"
    return f"One chain of thought a problem, cut at {limit} ({steps['tokens'].iloc[0]:,.0f} in the mean)"


def _sparse(comparison: Comparison) -> str:
    names = {"top_k": "top-k", "block_top_k": "block top-k"}
    return f"{names[comparison.attention]} ({comparison.reference.budget:,} tokens of KV)"


def _bars(figure: Any, comparison: Comparison, rows: Any, gpu: str, top: float, height: float) -> None:
    axes = _axes(figure, height, top, BARS)
    rungs = comparison.rungs
    axes.set_yscale("log")
    axes.set_xlim(-0.5, len(rungs) - 0.5)
    low, high = rows["seconds"].min() / 1.35, rows["seconds"].max() * 1.9
    axes.set_ylim(low, high)
    _dress(axes, low, high)
    for i in range(len(rungs)):
        if i % 2:
            axes.axvspan(i - 0.5, i + 0.5, color="#F5F6F8", zorder=0)
    notes = []
    for attention, colour, shift, name in (
        ("dense", DENSE, -0.2, "dense"), (comparison.attention, SPARSE, 0.2, _sparse(comparison).partition(" (")[0]),
    ):  # fmt: skip
        series = rows[rows["attention"] == attention].sort_values("rung")
        if series.empty:
            continue
        most = largest_step(rows, gpu, series["model"].iloc[0], attention)
        _series(axes, series, colour, shift, name, most)
        if most is not None:
            text = f"Matters most, {name}: {most.words}{' (hatched)' if most.own else ''}, x{most.step:.2f}"
            if most.own and (served := largest_step(rows, gpu, series["model"].iloc[0], attention, own=False)):
                text += f"; then {served.words}, x{served.step:.2f}"
            notes.append((text, colour))
    axes.text(
        0.0, 1.035, _gpu_words(rows, gpu), transform=axes.transAxes, fontsize=11.5, weight="bold", color=_INK,
        va="bottom",
    )  # fmt: skip
    for i, (text, colour) in enumerate(notes):
        axes.text(
            0.012, 0.955 - 0.085 * i, text, transform=axes.transAxes, fontsize=10.5, weight="bold", color=colour,
            va="top", zorder=6,
        )  # fmt: skip
    keys = dict(zip(rows["rung"], zip(rows["key"], rows["title"], strict=True), strict=True))
    for i, rung in enumerate(rungs):
        words = "\n".join(textwrap.wrap(step_words(*keys[rung]), 13))
        axes.annotate(
            words, (i, 0), xycoords=("data", "axes fraction"), xytext=(0, -5), textcoords="offset points",
            ha="center", va="top", fontsize=7.9, color=_INK, linespacing=1.05,
        )  # fmt: skip


def _gpu_words(rows: Any, gpu: str) -> str:
    gpus = int(rows["gpus"].max())
    return f"{gpu_title(gpu)}: GPU-seconds a problem" + (f" (the last step: on {gpus} GPUs)" if gpus > 1 else "")


def _dress(axes: Any, low: float, high: float) -> None:
    ticks = [
        m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
    ]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g} s" for tick in ticks], fontsize=9, color=_SOFT)
    axes.set_yticks([], minor=True)
    axes.set_xticks([])
    axes.grid(axis="y", color=_THIN, lw=0.6, zorder=0.5)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_THIN)


def _series(axes: Any, series: Any, colour: str, shift: float, name: str, most: Largest | None) -> None:
    """One attention's staircase: a bar from the cost before to the cost after each rung."""
    half, before, last = 0.16, None, len(series) - 1
    for i, row in enumerate(series.itertuples()):
        x, now = i + shift, float(row.seconds)
        if before is None:
            axes.plot([x - half, x + half], [now, now], color=colour, lw=4, solid_capstyle="butt", zorder=4)
            axes.annotate(
                f"{name}\n{_seconds(now)}", (x, now), xytext=(0, 5), textcoords="offset points", ha="center",
                va="bottom", fontsize=8.4, color=colour, weight="bold", zorder=6, linespacing=1.0,
            )  # fmt: skip
        else:
            chief = most is not None and most.rung == row.rung
            shade = colour if chief else PALE[colour]
            flat = abs(math.log(now / before)) < 0.015
            axes.plot([x - 1 + half, x - half], [before, before], color=PALE[colour], lw=1.0, zorder=2)
            if flat:
                axes.plot([x - half, x + half], [now, now], color=shade, lw=2.4, solid_capstyle="butt", zorder=3)
            else:
                middle = before * own_part(row)
                solid = colour if chief and most is not None and not most.own else PALE[colour]
                axes.bar(x, now - middle, 2 * half, bottom=middle, color=solid, zorder=3)
                if abs(middle / before - 1) > 0.005:
                    axes.bar(
                        x, middle - before, 2 * half, bottom=before, facecolor="white", edgecolor=colour, hatch="////",
                        lw=0.8, zorder=3,
                    )  # fmt: skip
            axes.annotate(
                f"x{row.step:.2f}", (x, max(now, before)), xytext=(0, 3), textcoords="offset points", ha="center",
                va="bottom", fontsize=10.5 if chief else 8, color=colour if not flat else _SOFT,
                weight="bold" if chief else "normal", zorder=6,
            )  # fmt: skip
        before = now
        if i == last and last:
            axes.plot([x + half, last + 0.5], [now, now], color=PALE[colour], lw=1.0, zorder=2)
            axes.annotate(
                f"{_seconds(now)}\n{row.total:.1f}x the law", (last + 0.5, now), xytext=(4, 0),
                textcoords="offset points", ha="left", va="center", fontsize=9, color=colour, weight="bold",
                annotation_clip=False, linespacing=1.05,
            )  # fmt: skip


def _seconds(value: float) -> str:
    return f"{value:.3g} s"


def _strip(figure: Any, comparison: Comparison, gpu: str, top: float, height: float) -> None:
    """The verdicts, a row a conclusion and a column a rung."""
    claims, rungs = comparison.claims, comparison.rungs
    axes = _axes(figure, height, top, ROW * (len(claims) + 1))
    axes.set_xlim(-0.5, len(rungs) - 0.5)
    axes.set_ylim(len(claims), -1)
    axes.axis("off")
    label = {"transform": axes.get_yaxis_transform(), "va": "center", "clip_on": False}
    axes.text(-0.016, -0.5, "Conclusions, over all models", ha="right", fontsize=9, weight="bold",
              color=_INK, **label)  # fmt: skip
    axes.text(1.012, -0.5, "paper", ha="left", fontsize=8.6, weight="bold", color=_SOFT, **label)
    by_rung = [comparison.at(gpu, rung).verdicts for rung in rungs]
    for j, claim in enumerate(claims):
        axes.text(-0.016, j + 0.34, claim.title, ha="right", fontsize=9, color=_INK, **label)
        axes.text(-0.016, j + 0.75, claim.measure, ha="right", fontsize=6.9, color=_SOFT, **label)
        axes.text(1.012, j + 0.5, claim.paper, ha="left", fontsize=8.6, color=_SOFT, **label)
        for i, verdicts in enumerate(by_rung):
            verdict = verdicts[j]
            mark, ground = MARKS[verdict.word]
            axes.fill_between([i - 0.47, i + 0.47], j + 0.06, j + 0.94, color=ground, lw=0)
            axes.text(i - 0.41, j + 0.5, mark, ha="left", va="center", fontsize=9.5, color=_INK)
            axes.text(i + 0.44, j + 0.5, verdict.text, ha="right", va="center", fontsize=8.2, color=_INK)


def _legend(figure: Any, height: float) -> None:
    words = (
        f"●  holds: at least {HOLDS:.0%} of what the paper says is left      ◐  weaker      "
        f"○  gone: less than {GONE:.0%}      (ratios by their logarithms)"
    )
    figure.text(LEFT / WIDTH, 0.34 / height, words, fontsize=9, color=_INK, va="center")
    hatched = "Hatched: what the law itself says if it is asked for each trial's length; above it, what serving adds."
    figure.text(LEFT / WIDTH, 0.14 / height, hatched, fontsize=8.5, color=_SOFT, va="center")
