"""Figures of `kinesim calibrate kinetics-h200`: the speed-up of block top-k attention, and where it comes from.

`kinetics-speedup` has the speed-up of a whole decode layer against the context: a column a model, a row a share of the
heads, a line a batch (simulated), points where it was measured. `kinetics-parts` has the operators of a dense and a
sparse layer as bars, at a point that a GPU can serve and at one of the paper's.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibration.kinetics import MARK, PAPER, Point
from calibration.measure.layersizes import MODELS
from calibration.plots import GRID, INK, SOFT, png
from simulator.files import replace_file

NAMES = ("kinetics-speedup", "kinetics-parts")
RAMP = ("#9CC9EF", "#5FA3DF", "#2F7BC4", "#17559A", "#0A2F63", "#03152F")
"""Batches, small to large; light to dark."""
ENVELOPE, PAPER_COLOUR = "#9AA5B1", "#C2410C"
NOTE = """\
Batches end where weights and KV cache of the whole model fill 90 % of the memory. No speed-up exceeds the dotted line \
where both attentions reach the same bandwidth.
Diamonds: the points of the Kinetics paper (arXiv 2506.05333, section 5.2), batch 4,096 at 16k and 2,048 at 32k, TP 8: \
single layers, since the KV cache of a whole model fits on no GPU there.
It reports 25.9x to 26.2x for Qwen3-0.6B on H200, with its own kernels."""
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


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _short(model: str) -> str:
    return model.rpartition("/")[2]


# ---- speed-up against context ----------------------------------------------------------------------------------------


def speedup_figure(points: Sequence[Point], gpu: str, profile: str) -> Any:
    """Panels of the speed-up of a decode layer, models from left to right, shares of the heads from top to bottom."""
    there = {point.model for point in points}
    models = [name for name in MODELS if name in there] + sorted(there - set(MODELS))
    shares = sorted({point.tp for point in points})
    batches = sorted({point.batch for point in points if not point.of_paper})
    colours = {batch: RAMP[min(i, len(RAMP) - 1)] for i, batch in enumerate(batches)}
    measured = any(point.measured for point in points)
    columns, lines = max(len(models), 2), len(shares)
    height = 2.55 * lines + 2.1
    figure = _figure(2.15 * columns + 1.1, height)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.75 / (2.15 * columns + 1.1), right=1 - 0.15 / (2.15 * columns + 1.1), top=1 - 1.12 / height,
        bottom=0.98 / height, wspace=0.07, hspace=0.13,
    )  # fmt: skip
    for axes in panels.flat[len(models) :] if lines == 1 else ():
        axes.axis("off")
    for line, tp in enumerate(shares):
        for column, model in enumerate(models):
            axes = panels[line][column]
            inside = [point for point in points if point.model == model and point.tp == tp]
            _speedup_panel(axes, inside, colours)
            if line == 0:
                axes.set_title(_short(model), fontsize=10, color=INK, weight="bold", pad=5)
            if column == 0:
                whole = "TP 1: all heads" if tp == 1 else f"TP {tp}: one GPU's share"
                axes.set_ylabel(f"{whole}\nspeed-up of a decode layer", fontsize=8.5, color=INK)
            if model == PAPER["model"] and tp == PAPER["tp"]:
                axes.text(
                    0.03, MARK * 1.06, "25x: what the paper reports here", transform=axes.get_yaxis_transform(),
                    fontsize=6.8, color=PAPER_COLOUR, va="bottom", ha="left",
                )  # fmt: skip
            if line == lines - 1:
                axes.set_xlabel("context (tokens)", fontsize=8.5, color=INK)
    figure.text(
        0.012, 1 - 0.2 / height, f"Block top-k against dense attention on {gpu}", fontsize=13, weight="bold",
        color=INK, va="top",
    )  # fmt: skip
    how = f"Lines: simulated ({profile}); points: measured." if measured else f"Simulated ({profile}), not measured."
    figure.text(
        0.012, 1 - 0.47 / height,
        f"Time of one decode layer with dense attention over that with block top-k (budget 1,024 tokens, pages of 16). "
        f"{how}",
        fontsize=8.5, color=SOFT, va="top",
    )  # fmt: skip
    _speedup_legend(figure, points, colours, measured)
    figure.text(
        0.012, 0.1 / height,
        NOTE,
        fontsize=7.4, color=SOFT, va="bottom", linespacing=1.45,
    )  # fmt: skip
    return figure


def _speedup_panel(axes: Any, points: Sequence[Point], colours: dict[int, str]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.axhline(1.0, color=INK, lw=0.8, zorder=1)
    axes.axhline(MARK, color=PAPER_COLOUR, lw=0.8, ls=(0, (4, 3)), zorder=1)
    bound = {point.context: point.bytes_ratio for point in points}
    axes.plot(sorted(bound), [bound[c] for c in sorted(bound)], color=ENVELOPE, lw=1.3, ls=(0, (1, 1.4)), zorder=2)
    for batch, colour in colours.items():
        line = sorted((p for p in points if p.batch == batch and not p.of_paper), key=lambda p: p.context)
        if line:
            axes.plot(
                [p.context for p in line], [p.simulated.speedup for p in line], color=colour, lw=1.7, zorder=3,
                marker="_" if len(line) == 1 else None, ms=7,
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
    contexts = sorted({p.context for p in points}) or [4096, 65_536]
    axes.set_xlim(contexts[0] / 1.25, contexts[-1] * 1.25)
    axes.set_ylim(0.5, 40)
    ticks = [c for c in (2**i for i in range(8, 21)) if contexts[0] <= c <= contexts[-1]]
    axes.set_xticks(ticks, [f"{c // 1024}k" if c >= 1024 else str(c) for c in ticks])
    axes.set_yticks((0.5, 1, 2, 4, 8, 16, 32), ("0.5x", "1x", "2x", "4x", "8x", "16x", "32x"))
    axes.minorticks_off()
    axes.tick_params(labelsize=8, colors=SOFT, length=0)
    axes.grid(color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _speedup_legend(figure: Any, points: Sequence[Point], colours: dict[int, str], measured: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, lw=2) for colour in colours.values()]
    names = [f"batch {batch:,}" for batch in colours]
    handles.append(Line2D([], [], color=ENVELOPE, lw=1.4, ls=(0, (1, 1.4))))
    names.append("bytes of KV: dense over block top-k")
    if measured:
        handles.append(Line2D([], [], color=SOFT, ls="", marker="o", ms=5))
        names.append("measured")
    if any(point.of_paper for point in points):
        handles.append(Line2D([], [], ls="", marker="D", ms=5.5, mfc="none", mec=PAPER_COLOUR, mew=1.2))
        names.append("the paper's points, simulated")
        if any(point.of_paper and point.measured for point in points):
            handles.append(Line2D([], [], ls="", marker="D", ms=4.5, color=PAPER_COLOUR))
            names.append("and measured")
    height = figure.get_figheight()
    figure.legend(
        handles, names, loc="upper left", bbox_to_anchor=(0.006, 1 - 0.62 / height), ncol=len(names), fontsize=8,
        frameon=False, handlelength=1.6, columnspacing=1.4, handletextpad=0.5, labelcolor=INK, borderpad=0.1,
    )  # fmt: skip


# ---- where it comes from ---------------------------------------------------------------------------------------------


def shown_points(points: Sequence[Point]) -> list[Point]:
    """Of the points, the largest simulated speed-up of Qwen3-8B (else of any model) with all heads, and the paper's
    with the shortest context of its own model."""
    whole = [p for p in points if not p.of_paper and p.tp == 1] or [p for p in points if not p.of_paper]
    usual = [p for p in whole if p.model.endswith("Qwen3-8B")] or whole
    papers = [p for p in points if p.of_paper and p.model == PAPER["model"]]
    chosen = [max(usual, key=lambda p: p.simulated.speedup)] if usual else []
    return chosen + ([min(papers, key=lambda p: p.context)] if papers else [])


def parts_figure(points: Sequence[Point], gpu: str, profile: str) -> Any:
    """Bars of the operators' times, dense above sparse, a panel a point."""
    shown = shown_points(points)
    height = 1.75 * len(shown) + 1.75
    figure = _figure(9.6, height)
    panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.115, right=0.975, top=1 - 1.3 / height, bottom=0.62 / height, hspace=0.75)
    measured = any(point.measured for point in shown)
    for axes, point in zip(panels, shown, strict=True):
        _parts_panel(axes, point)
    panels[-1].set_xlabel("microseconds of one decode layer", fontsize=8.5, color=INK)
    figure.text(
        0.015, 1 - 0.17 / height, f"Where the speed-up comes from, {gpu}", fontsize=13, weight="bold", color=INK,
        va="top",
    )  # fmt: skip
    how = f"Bars: simulated ({profile}); black lines: measured, the attention and the whole layer."
    if not measured:
        how = f"Simulated ({profile}), not measured."
    figure.text(
        0.015, 1 - 0.45 / height, f"{how} Budget 1,024 tokens, pages of 16.", fontsize=8.5, color=SOFT, va="top"
    )
    from matplotlib.patches import Patch

    figure.legend(
        [Patch(color=colour) for _, _, colour in PARTS], [name for name, _, _ in PARTS], loc="upper left",
        bbox_to_anchor=(0.008, 1 - 0.6 / height), ncol=len(PARTS), fontsize=7.8, frameon=False, handlelength=0.9,
        handleheight=0.9, columnspacing=1.1, handletextpad=0.4, labelcolor=INK, borderpad=0.1,
    )  # fmt: skip
    return figure


def _parts_panel(axes: Any, point: Point) -> None:
    known = {name for _, names, _ in PARTS for name in names}
    longest = max(layer.seconds for layer in point.layers) * 1e6
    if point.measured:
        longest = max(longest, point.measured.dense * 1e6)
    for place, layer in zip((1.0, 0.0), point.layers, strict=True):
        times = {name.split(" [")[0]: float(time.seconds) * 1e6 for name, time in layer.operators.items()}
        parts = [(sum(times.get(name, 0.0) for name in names), colour) for _, names, colour in PARTS]
        parts.append((sum(time for name, time in times.items() if name not in known), "#C8CDD2"))
        left = 0.0
        for width, colour in parts:
            if width > 0:
                axes.barh(place, width, left=left, height=0.62, color=colour, lw=0)
                if width > 0.055 * longest:
                    axes.text(
                        left + width / 2, place, f"{width:,.0f}", ha="center", va="center", fontsize=8, color="white"
                    )
                left += width
        axes.text(left + 0.008 * longest, place, f"{left:,.0f} us", ha="left", va="center", fontsize=8.5, color=INK)
    if point.measured:
        theirs = point.measured
        for place, whole, attention in (
            (1.0, theirs.dense, theirs.dense_attention), (0.0, theirs.sparse, theirs.sparse_attention),
        ):  # fmt: skip
            for seconds in (whole, attention):
                axes.plot([seconds * 1e6] * 2, [place - 0.4, place + 0.4], color=INK, lw=1.6, zorder=4)
    ours = point.simulated
    dense, sparse = (layer.attention_bytes for layer in point.layers)
    head = f"{_short(point.model)}, TP {point.tp}, batch {point.batch:,}, context {point.context:,}"
    axes.set_title(head, loc="left", fontsize=9.5, color=INK, weight="bold", pad=16)
    said = (
        f"layer {ours.speedup:.1f}x, its attention {ours.attention_speedup:.1f}x; bytes of K, V and summaries "
        f"{_size(dense)} against {_size(sparse)}: {point.bytes_ratio:.1f}x"
    )
    if point.of_paper:
        said += "; the paper reports 25.9x to 26.2x"
    axes.text(0, 1.03, said, transform=axes.transAxes, fontsize=8.2, color=PAPER_COLOUR if point.of_paper else SOFT)
    axes.set_yticks((1.0, 0.0), ("dense", "block top-k"))
    axes.set_ylim(-0.5, 1.5)
    axes.set_xlim(0, 1.09 * longest)
    axes.tick_params(labelsize=8.5, colors=INK, length=0)
    axes.grid(axis="x", color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _size(bytes_: float) -> str:
    return f"{bytes_ / 1e9:,.2f} GB" if bytes_ >= 1e8 else f"{bytes_ / 1e6:,.1f} MB"
