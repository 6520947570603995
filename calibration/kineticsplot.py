"""Figures of `kinesim calibrate kinetics-h200`: the speed-up of block top-k attention, and where it comes from.

`kinetics-speedup` has the speed-up of a whole decode layer against the context: a column a model, a row a share of the
heads, a line a batch (simulated), points where it was measured. `kinetics-parts` has the operators of a dense and a
sparse layer as bars, at a point that a GPU can serve and at one of the paper's (`calibration.kineticsparts`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibration.kinetics import MARK, PAPER, Point, guess_words
from calibration.kineticsparts import (
    PAPER_COLOUR,
    blank_figure,
    legend_rows,
    pages_words,
    parts_figure,
    short,
    wrapped,
)
from calibration.measure.layersizes import MODELS
from calibration.plots import GRID, INK, SOFT, png
from simulator.files import replace_file

NAMES = ("kinetics-speedup", "kinetics-parts")
RAMP = ("#9CC9EF", "#5FA3DF", "#2F7BC4", "#17559A", "#0A2F63", "#03152F")
"""Batches, small to large; light to dark."""
ENVELOPE = "#9AA5B1"
NOTE = (
    "Batches end where weights and KV cache of the whole model fill 90 % of the memory; a batch with one context is a "
    "square. No speed-up exceeds the dotted line where both attentions reach the same bandwidth."
)
PAPER_NOTE = (
    "Diamonds: the points of the Kinetics paper (arXiv 2506.05333, section 5.2), batch 4,096 at 16k and 2,048 at 32k, "
    "TP 8: single layers, since the KV cache of a whole model fits on no GPU there. It reports 25.9x to 26.2x for "
    "Qwen3-0.6B on H200, with its own kernels."
)


def file_names() -> list[str]:
    """The files that `draw` writes."""
    return [f"{name}.{ending}" for name in NAMES for ending in ("png", "svg")]


def draw(points: Sequence[Point], folder: Path, *, gpu: str, profile: str) -> list[Path]:
    """Draw both figures into `folder`; the paths written. Raises InputError if they cannot be."""
    figures = (speedup_figure(points, gpu, profile), parts_figure(points, gpu, profile))
    written = []
    for name, figure in zip(NAMES, figures, strict=True):
        for ending, content in (("png", png(figure)), ("svg", _svg(figure))):
            written.append(folder / f"{name}.{ending}")
            replace_file(written[-1], content)
    return written


def _svg(figure: Any) -> bytes:
    import matplotlib

    drawn = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "kinesim", "svg.fonttype": "none"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


# ---- speed-up against context ----------------------------------------------------------------------------------------


def speedup_figure(points: Sequence[Point], gpu: str, profile: str) -> Any:
    """Panels of the speed-up of a decode layer, models from left to right, shares of the heads from top to bottom."""
    there = {point.model for point in points}
    models = [name for name in MODELS if name in there] + sorted(there - set(MODELS))
    shares = sorted({point.tp for point in points})
    batches = sorted({point.batch for point in points if not point.of_paper})
    colours = {batch: RAMP[min(i, len(RAMP) - 1)] for i, batch in enumerate(batches)}
    measured = any(point.measured for point in points)
    width = max(2.15 * len(models) + 1.1, 8.4)
    how = f"Lines: simulated ({profile}); points: measured." if measured else f"Simulated ({profile}), not measured."
    said, deep = wrapped(
        "Time of one decode layer with dense attention over that with block top-k. "
        f"{pages_words(points)} {how}", width - 0.3, 8.5,
    )  # fmt: skip
    note, foot = wrapped("\n".join(_notes(points)), width - 0.3, 7.4)
    handles, names = _legend(points, colours)
    rows = legend_rows(names, width - 0.2, 8)
    top, foot = 0.48 + deep + 0.19 * rows + 0.36, foot + 0.6
    height = top + 2.25 * len(shares) + 0.3 * (len(shares) - 1) + foot
    figure = blank_figure(width, height)
    panels = figure.subplots(len(shares), len(models), sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.75 / width, right=1 - 0.15 / width, top=1 - top / height, bottom=foot / height, wspace=0.07,
        hspace=0.3 / 2.25,
    )  # fmt: skip
    for line, tp in enumerate(shares):
        for column, model in enumerate(models):
            axes = panels[line][column]
            inside = [point for point in points if point.model == model and point.tp == tp]
            _speedup_panel(axes, inside, colours)
            if tp == PAPER["tp"]:
                axes.axhline(MARK, color=PAPER_COLOUR, lw=0.8, ls=(0, (4, 3)), zorder=1)
            if line == 0:
                axes.set_title(short(model), fontsize=10, color=INK, weight="bold", pad=5)
            if column == 0:
                whole = "TP 1: all heads" if tp == 1 else f"TP {tp}: one GPU's share"
                axes.set_ylabel(f"{whole}\nspeed-up of a decode layer", fontsize=8.5, color=INK)
            if line == len(shares) - 1:
                axes.set_xlabel("context (tokens)", fontsize=8.5, color=INK)
    _scales(panels[0][0], points)
    left = 0.18 / width
    figure.text(
        left, 1 - 0.2 / height, f"Block top-k against dense attention on {gpu}", fontsize=13, weight="bold",
        color=INK, va="top",
    )  # fmt: skip
    figure.text(left, 1 - 0.47 / height, said, fontsize=8.5, color=SOFT, va="top", linespacing=1.45)
    figure.text(left, 0.1 / height, note, fontsize=7.4, color=SOFT, va="bottom", linespacing=1.45)
    figure.legend(
        handles, names, loc="upper left", bbox_to_anchor=(0.09 / width, 1 - (0.46 + deep) / height),
        ncol=math.ceil(len(names) / rows), fontsize=8, frameon=False, handlelength=1.6, columnspacing=1.4,
        handletextpad=0.5, labelcolor=INK, borderpad=0.1,
    )  # fmt: skip
    return figure


def _notes(points: Sequence[Point]) -> list[str]:
    """What is said below the panels, a paragraph each."""
    notes = [NOTE, *([PAPER_NOTE] if any(point.of_paper for point in points) else [])]
    guessed = guess_words(points)
    return [*notes, guessed] if guessed else notes


def _speedup_panel(axes: Any, points: Sequence[Point], colours: dict[int, str]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.axhline(1.0, color=INK, lw=0.8, zorder=1)
    bound = {point.context: point.bytes_ratio for point in points}
    axes.plot(
        sorted(bound), [bound[c] for c in sorted(bound)], color=ENVELOPE, lw=1.3, ls=(0, (1, 1.4)), zorder=2,
        marker="_" if len(bound) == 1 else None, ms=9, mew=1.3,
    )  # fmt: skip
    for batch, colour in colours.items():
        line = sorted((p for p in points if p.batch == batch and not p.of_paper), key=lambda p: p.context)
        if line:
            # A single point is no line: a square stands for it.
            axes.plot(
                [p.context for p in line], [p.simulated.speedup for p in line], color=colour, lw=1.7, zorder=3,
                marker="s" if len(line) == 1 else None, ms=5, mew=0,
            )  # fmt: skip
        seen = [p for p in line if p.measured]
        axes.plot(
            [p.context for p in seen], [p.measured.speedup for p in seen if p.measured], ls="", marker="o", ms=4.2,
            color=colour, mec="white", mew=0.6, zorder=5,
        )  # fmt: skip
    for point in (p for p in points if p.of_paper):
        axes.plot(
            [point.context], [point.simulated.speedup], ls="", marker="D", ms=5.5, mfc="none", mec=PAPER_COLOUR,
            mew=1.2, zorder=4,
        )  # fmt: skip
        if point.measured:
            axes.plot([point.context], [point.measured.speedup], ls="", marker="D", ms=4, color=PAPER_COLOUR, zorder=5)
    axes.minorticks_off()
    axes.tick_params(labelsize=8, colors=SOFT, length=0)
    axes.grid(color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _scales(axes: Any, points: Sequence[Point]) -> None:
    """Limits and ticks, which all panels share: 0.5x to 40x, and further where a point lies further."""
    contexts = sorted({p.context for p in points})
    values = [p.simulated.speedup for p in points] + [p.measured.speedup for p in points if p.measured]
    values += [p.bytes_ratio for p in points]
    least, most = min(0.5, min(values) / 1.2), max(40.0, max(values) * 1.2)
    axes.set_xlim(contexts[0] / 1.25, contexts[-1] * 1.25)
    axes.set_ylim(least, most)
    ticks = [c for c in (2**i for i in range(8, 21)) if contexts[0] <= c <= contexts[-1]] or contexts[:1]
    axes.set_xticks(ticks, [f"{c // 1024}k" if c % 1024 == 0 else str(c) for c in ticks])
    powers = [2.0**i for i in range(-8, 12) if least <= 2.0**i <= most]
    axes.set_yticks(powers, [f"{power:g}x" for power in powers])


def _legend(points: Sequence[Point], colours: dict[int, str]) -> tuple[list[Any], list[str]]:
    """Handles and names."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, lw=2) for colour in colours.values()]
    names = [f"batch {batch:,}" for batch in colours]
    handles.append(Line2D([], [], color=ENVELOPE, lw=1.4, ls=(0, (1, 1.4))))
    names.append("bytes of KV: dense over block top-k")
    if any(point.measured and not point.of_paper for point in points):
        handles.append(Line2D([], [], color=SOFT, ls="", marker="o", ms=5))
        names.append("measured")
    if any(point.of_paper for point in points):
        handles.append(Line2D([], [], ls="", marker="D", ms=5.5, mfc="none", mec=PAPER_COLOUR, mew=1.2))
        names.append("the paper's points, simulated")
        if any(point.of_paper and point.measured for point in points):
            handles.append(Line2D([], [], ls="", marker="D", ms=4.5, color=PAPER_COLOUR))
            names.append("and measured")
    if any(point.tp == PAPER["tp"] for point in points):
        handles.append(Line2D([], [], color=PAPER_COLOUR, lw=1.0, ls=(0, (4, 3))))
        names.append(f"{MARK:.0f}x: what the paper reports for {short(str(PAPER['model']))}")
    return handles, names
