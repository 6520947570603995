"""The figure `kinetics-parts`: operators of a dense and of a sparse layer as bars; and what both figures of the
experiment are made with.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from calibration.kinetics import PAPER, Point, guess_words
from calibration.plots import GRID, INK, SOFT

PAPER_COLOUR = "#C2410C"
LETTER = 0.0072
"""Inches that a letter of a text takes at 1 pt, on average, in matplotlib's font (DejaVu Sans)."""
LINE = 0.0205
"""Inches of a line of text at 1 pt, with the space to the next."""
PARTS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("attention over K and V", ("attention_decode",), "#0072B2"),
    ("page scores", ("page_scores",), "#56B4E9"),
    ("selection", ("page_select",), "#009E73"),
    ("page summaries", ("page_summary",), "#8FD3BF"),
    ("QKV and output projections", ("qkv_proj", "o_proj"), "#E69F00"),
    ("MLP", ("gate_up_proj", "silu_mul", "down_proj"), "#D55E00"),
    ("norms, RoPE, cache write", ("attn_norm", "rope_kv_write", "mlp_norm"), "#7A7A7A"),
)
"""Operators put together as a reader thinks of them (colours after Okabe and Ito)."""
LIGHT = ("#56B4E9", "#8FD3BF", "#E69F00", "#C8CDD2")
"""Colours on which numbers are dark."""


def blank_figure(width: float, height: float) -> Any:
    """A white figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def short(model: str) -> str:
    return model.rpartition("/")[2]


def wrapped(text: str, width: float, size: float) -> tuple[str, float]:
    """Text of `size` points in lines that fit into `width` inches, and the inches that they are high."""
    fit = max(20, int(width / (LETTER * size)))
    joined = text.replace(" %", "\u00a0%")  # textwrap parts words at plain spaces only
    lines = [line for part in joined.split("\n") for line in textwrap.wrap(part, fit, break_on_hyphens=False)]
    return "\n".join(lines).replace("\u00a0", " "), LINE * size * len(lines)


def legend_rows(names: Sequence[str], width: float, size: float) -> int:
    """Rows in which a legend of these names fits into `width` inches."""
    for rows in range(1, len(names)):
        columns = math.ceil(len(names) / rows)
        # Names run down the columns, and a column is as wide as its longest.
        groups = [names[i * rows : (i + 1) * rows] for i in range(columns)]
        if sum(max((len(name) for name in group), default=0) * LETTER * size + 0.45 for group in groups) <= width:
            return rows
    return len(names)


def shown_points(points: Sequence[Point]) -> list[Point]:
    """Of the points, the largest simulated speed-up of Qwen3-8B (else of any model) with all heads, and the paper's
    with the shortest context of its own model (else of any)."""
    whole = [p for p in points if not p.of_paper and p.tp == 1] or [p for p in points if not p.of_paper]
    usual = [p for p in whole if p.model.endswith("Qwen3-8B")] or whole
    papers = [p for p in points if p.of_paper]
    papers = [p for p in papers if p.model == PAPER["model"]] or papers
    chosen = [max(usual, key=lambda p: p.simulated.speedup)] if usual else []
    return chosen + ([min(papers, key=lambda p: p.context)] if papers else [])


def parts_figure(points: Sequence[Point], gpu: str, profile: str) -> Any:
    """Bars of the operators' times, dense above sparse, a panel a point."""
    from matplotlib.patches import Patch

    shown = shown_points(points)
    measured = any(point.measured for point in shown)
    how = f"Simulated ({profile}), not measured."
    if measured:
        how = f"Bars: simulated ({profile}). Thin bars below them: measured, black the attention, grey the rest."
    width = 9.6
    said, deep = wrapped(f"{how} {pages_words(points)}", width - 0.3, 8.5)
    note, foot = wrapped(guess_words(points) or "", width - 0.3, 7.4)
    top, foot = 0.45 + deep + 0.75, 0.55 + foot + 0.1 * bool(note)
    height = top + 1.05 * len(shown) + 0.75 * (len(shown) - 1) + foot
    figure = blank_figure(width, height)
    panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.115, right=0.975, top=1 - top / height, bottom=foot / height, hspace=0.75 / 1.05)
    for axes, point in zip(panels, shown, strict=True):
        _parts_panel(axes, point)
    panels[-1].set_xlabel("microseconds of one decode layer", fontsize=8.5, color=INK)
    figure.text(
        0.015, 1 - 0.17 / height, f"Where the speed-up comes from, {gpu}", fontsize=13, weight="bold", color=INK,
        va="top",
    )  # fmt: skip
    figure.text(0.015, 1 - 0.45 / height, said, fontsize=8.5, color=SOFT, va="top", linespacing=1.45)
    figure.text(0.015, 0.1 / height, note, fontsize=7.4, color=SOFT, va="bottom", linespacing=1.45)
    figure.legend(
        [Patch(color=colour) for _, _, colour in PARTS], [name for name, _, _ in PARTS], loc="upper left",
        bbox_to_anchor=(0.008, 1 - (0.43 + deep) / height), ncol=len(PARTS), fontsize=7.8, frameon=False,
        handlelength=0.9, handleheight=0.9, columnspacing=1.1, handletextpad=0.4, labelcolor=INK, borderpad=0.1,
    )  # fmt: skip
    return figure


def pages_words(points: Sequence[Point]) -> str:
    """Budget and pages, of the points that have those of the first."""
    return f"Budget {points[0].sparse_row['budget']:,} tokens, pages of {points[0].sparse_row['page']}."


def _parts_panel(axes: Any, point: Point) -> None:
    known = {name for _, names, _ in PARTS for name in names}
    longest = max(layer.seconds for layer in point.layers) * 1e6
    theirs = point.measured
    if theirs:
        longest = max(longest, theirs.dense * 1e6, theirs.sparse * 1e6)
    found = (
        ((theirs.dense, theirs.dense_attention), (theirs.sparse, theirs.sparse_attention)) if theirs else (None,) * 2
    )
    for place, layer, seen in zip((1.0, 0.0), point.layers, found, strict=True):
        times = {name.split(" [")[0]: float(time.seconds) * 1e6 for name, time in layer.operators.items()}
        parts = [(sum(times.get(name, 0.0) for name in names), colour) for _, names, colour in PARTS]
        parts.append((sum(time for name, time in times.items() if name not in known), "#C8CDD2"))
        left = 0.0
        for width, colour in parts:
            if width > 0:
                axes.barh(place, width, left=left, height=0.62, color=colour, lw=0)
                if width > 0.055 * longest:
                    axes.text(
                        left + width / 2, place, f"{width:,.0f}", ha="center", va="center", fontsize=8,
                        color=INK if colour in LIGHT else "white",
                    )  # fmt: skip
                left += width
        end, text = left, f"{left:,.0f} us"
        if seen:
            whole, attention = (seconds * 1e6 for seconds in seen)
            axes.barh(place - 0.4, whole, height=0.1, color="#9AA5B1", lw=0)
            if not math.isnan(attention):
                axes.barh(place - 0.4, attention, height=0.1, color=INK, lw=0)
            end, text = max(left, whole), f"{text}, measured {whole:,.0f}"
        # Beyond both bars, so that neither runs through it.
        axes.text(end + 0.008 * longest, place, text, ha="left", va="center", fontsize=8.5, color=INK)
    dense, sparse = (layer.attention_bytes for layer in point.layers)
    head = f"{short(point.model)}, TP {point.tp}, batch {point.batch:,}, context {point.context:,}"
    axes.set_title(head, loc="left", fontsize=9.5, color=INK, weight="bold", pad=16)
    said = f"layer {_factors(point, 'speedup')}, attention {_factors(point, 'attention_speedup')}; "
    said += f"K, V and summaries {_size(dense)} against {_size(sparse)}: {point.bytes_ratio:.1f}x"
    if point.of_paper and point.model == PAPER["model"]:
        said += f"; the paper: {PAPER['speedup'][0]}x to {PAPER['speedup'][1]}x"  # type: ignore[index]
    axes.text(0, 1.03, said, transform=axes.transAxes, fontsize=8.2, color=PAPER_COLOUR if point.of_paper else SOFT)
    axes.set_yticks((1.0, 0.0), ("dense", "block top-k"))
    axes.set_ylim(-0.5, 1.5)
    axes.set_xlim(0, (1.24 if theirs else 1.09) * longest)
    axes.tick_params(labelsize=8.5, colors=INK, length=0)
    axes.grid(axis="x", color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _factors(point: Point, name: str) -> str:
    theirs = None if point.measured is None else point.measured.figures()[name]
    return f"{getattr(point.simulated, name):.1f}x" + ("" if theirs is None else f" (measured {theirs:.1f}x)")


def _size(bytes_: float) -> str:
    return f"{bytes_ / 1e9:,.2f} GB" if bytes_ >= 1e8 else f"{bytes_ / 1e6:,.1f} MB"
