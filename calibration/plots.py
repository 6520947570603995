"""Figures of `kinesim validate kernels`: where predictions are right, and where the model is weak.

`<kind>-predicted.png` has predicted over measured time, against measured time, one panel a GPU: a perfect model is the
line at 0 %. `<kind>-error.png` has the error along the sizes that matter, by GPU and by number format.
`<kind>-map.png` has the mean error over two sizes at once.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from calibration.axes import axes_of
from calibration.errortables import percent
from calibration.tables import KernelTable
from calibration.validation import Errors, along, summary
from simulator.files import replace_file

INK, SOFT, GRID = "#1F2933", "#616E7C", "#E4E7EB"
COLOURS = ("#2563EB", "#D97706", "#059669", "#DC2626", "#7C3AED", "#0891B2", "#BE185D", "#65A30D", "#475569")
MOST = len(COLOURS)
"""Most GPUs or formats in a figure; the rest, those with the fewest rows, are left out, and the figure says so."""
LIMITS = (1.25, 1.6, 2.0, 4.0)
"""Panels of a ratio reach from one over one of these to that; rows beyond lie on the edge."""
TICKS = {
    1.25: (0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25),
    1.6: (0.625, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6),
    2.0: (0.5, 0.6, 0.8, 1.0, 1.25, 1.6, 2.0),
    4.0: (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0),
}
MAPS = {
    "gemm": ("m", "flops"),
    "attention_decode": ("batch", "context_len"),
    "attention_prefill": ("batch", "query_len"),
    "moe": ("tokens", "experts_here"),
    "collective": ("bytes", "gpus"),
    "elementwise": ("rows", "row_bytes"),
    "page_topk": ("batch", "context_len"),
    "mla_decode": ("batch", "context_len"),
    "mla_prefill": ("batch", "query_len"),
    "mla_bmm": ("tokens", "q_heads"),
    "mla_module": ("batch", "context"),
    "dsa_module": ("batch", "context"),
    "linear_attention": ("batch", "seq_len"),
    "expert_all_to_all": ("tokens", "hidden"),
}
SCALES = (0.05, 0.1, 0.2, 0.4, 1.0)
"""Mean errors that the dark end of the maps' colours may stand for."""
FEWEST = 8
"""A point of a line needs so many rows: a quantile of fewer is noise."""
BANDED = 4
"""With more lines than this in a panel, their bands would hide one another and are left out."""
DPI, PALETTE = 110, 96


def file_names(kind: str) -> list[str]:
    """The files that `draw_validation` writes."""
    return [f"{kind}-{name}.png" for name in ("predicted", "error", "map")]


def draw_validation(table: KernelTable, errors: Errors, folder: Path, title: str = "") -> list[Path]:
    """Draw all figures into `folder`; the paths of the files. `title` follows the kind in their headings."""
    paths = [folder / name for name in file_names(table.kind)]
    heading = table.kind.replace("_", " ") + (f", {title}" if title else "")
    figures = (
        predicted_figure(errors, heading),
        error_figure(table, errors, heading),
        map_figure(table, errors, heading),
    )
    for figure, path in zip(figures, paths, strict=True):
        replace_file(path, png(figure))
    return paths


def png(figure: Any) -> bytes:
    """The figure in a palette of few colours: a third of the bytes, for pages in a repository."""
    from PIL import Image  # matplotlib depends on it

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    image = Image.open(drawn).convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE)
    image.save(packed, format="PNG", optimize=True)
    return packed.getvalue()


# ---- predicted against measured --------------------------------------------------------------------------------------


def predicted_figure(errors: Errors, heading: str) -> Any:
    """Above: predicted against measured. Below: their ratio, which shows what two logarithmic axes hide."""
    groups, left_out = _largest(errors, "gpu")
    figure, panels = _panels(2, len(groups), 3.0, (2.9, 2.5), wide=0.25)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.abs(np.log(errors.ratio))
    limit = _limit(np.quantile(off[np.isfinite(off)], 0.99) if np.isfinite(off).any() else 0.0)
    edge = np.log(limit)
    for column, (name, pick) in enumerate(groups):
        measured, predicted = errors.measured[pick] * 1e6, errors.predicted[pick] * 1e6
        fine = np.isfinite(predicted)
        measured, ratio = measured[fine], predicted[fine] / measured[fine]
        above, below = panels[0][column], panels[1][column]
        low, high = measured.min() / 1.5, measured.max() * 1.5
        for axes, y, y_log in ((above, measured * ratio, True), (below, np.clip(np.log(ratio), -edge, edge), False)):
            extent = (
                np.log10(low),
                np.log10(high),
                *((np.log10(low), np.log10(high)) if y_log else (-edge, edge)),
            )
            if y_log:
                y = np.clip(y, low, high)
            axes.set_xscale("log")
            if y_log:
                axes.set_yscale("log")
            axes.hexbin(
                measured, y, xscale="log", yscale="log" if y_log else "linear", gridsize=(44, 26 if y_log else 22),
                extent=extent, bins="log", cmap="Blues", mincnt=1, linewidths=0.1, vmin=0.4, zorder=2,
            )  # fmt: skip
            axes.set_xlim(low, high)
        above.plot([low, high], [low, high], color=INK, lw=0.9, zorder=3)
        above.set_ylim(low, high)
        said = summary(errors, pick)
        above.set_title(name, fontsize=10, color=INK, weight="bold", loc="left", pad=16)
        above.text(
            0, 1.02, f"{said['rows']:,} rows, mean error {percent(said['mean'])}", transform=above.transAxes,
            fontsize=8, color=SOFT,
        )  # fmt: skip
        _ratio_axis(below, limit)
        below.set_xlabel("measured (us)", fontsize=8.5, color=INK)
        if column:
            below.set_yticklabels([])
    panels[0][0].set_ylabel("predicted (us)", fontsize=8.5, color=INK)
    panels[1][0].set_ylabel("predicted / measured - 1", fontsize=8.5, color=INK)
    _head(
        figure,
        f"Predicted against measured: {heading}",
        "Darker: more rows. The black lines are perfect; dotted: 10 % off." + left_out,
    )
    return figure


# ---- along an axis ---------------------------------------------------------------------------------------------------


def error_figure(table: KernelTable, errors: Errors, heading: str) -> Any:
    """Median and 10 to 90 % band of predicted / measured - 1 along every axis, by GPU and by number format."""
    axes_list = axes_of(table)
    keys = [
        key for key in ("gpu", "dtype", "op") if key in errors.keys and (key == "gpu" or len(_used(errors, key)) > 1)
    ]
    figure, panels = _panels(len(keys), len(axes_list), 2.9, (2.5,) * len(keys), wide=1.8, head=0.85)
    notes = ""
    for row, key in enumerate(keys):
        groups, left_out = _largest(errors, key)
        notes = notes or left_out
        edges: list[float] = []
        for column, (_, words, values) in enumerate(axes_list):
            axes = panels[row][column]
            axes.set_xscale("log", base=2)
            for colour, (name, pick) in zip(COLOURS, groups, strict=False):
                mask = np.zeros(len(errors.error), dtype=bool)
                mask[pick] = True
                line = {name: np.array(column) for name, column in along(errors, values, mask).items()}
                keep = line["rows"] >= FEWEST
                at, low, middle, high = (line[name][keep] for name in ("at", "p10", "median", "p90"))
                low, middle, high = np.log1p(low), np.log1p(middle), np.log1p(high)
                if len(groups) <= BANDED:
                    axes.fill_between(at, low, high, color=colour, alpha=0.13, lw=0, zorder=2)
                    edges += [*np.abs(low), *np.abs(high)]
                axes.plot(at, middle, color=colour, lw=1.5, marker="o", ms=2.6, label=name, zorder=3)
                edges += [*np.abs(middle)]
            _binary_axis(axes)
            axes.set_xlabel(words, fontsize=8.5, color=INK)
        limit = _limit(float(np.quantile(edges, 0.97)) if edges else 0.0)
        for axes in panels[row]:
            _ratio_axis(axes, limit)
            if axes is not panels[row][0]:
                axes.set_yticklabels([])
        said = "by " + {"gpu": "GPU", "dtype": "number format", "op": "operation"}[key]
        panels[row][0].set_ylabel("predicted / measured - 1", fontsize=8.5, color=INK)
        panels[row][-1].legend(
            title=said, loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False, fontsize=8, title_fontsize=8.5,
            alignment="left", labelcolor=INK,
        )  # fmt: skip
    _head(
        figure,
        f"Error along the sizes: {heading}",
        "Line: median; band, where lines are few: 10 to 90 % of rows. Above 0 the model is too slow; dotted: 10 % off."
        + notes,
    )
    return figure


# ---- over two axes ---------------------------------------------------------------------------------------------------


def map_figure(table: KernelTable, errors: Errors, heading: str) -> Any:
    """Mean error over two sizes in steps of two, one panel a GPU."""
    from matplotlib.colors import Normalize
    from matplotlib.ticker import PercentFormatter

    by_name = {name: (words, values[errors.rows]) for name, words, values in axes_of(table)}
    (x_words, x), (y_words, y) = (by_name[name] for name in MAPS[table.kind])
    groups, left_out = _largest(errors, "gpu")
    figure, panels = _panels(1, len(groups), 3.0, (2.8,), wide=0.85)
    scale = next((s for s in SCALES if s >= 2 * errors.error.mean()), SCALES[-1])
    x_edges, y_edges = _edges(x), _edges(y)
    drawn = None
    for axes, (name, pick) in zip(panels[0], groups, strict=True):
        total, _, _ = np.histogram2d(x[pick], y[pick], bins=(x_edges, y_edges), weights=errors.error[pick])
        count, _, _ = np.histogram2d(x[pick], y[pick], bins=(x_edges, y_edges))
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        drawn = axes.pcolormesh(x_edges, y_edges, mean.T, cmap="YlOrRd", norm=Normalize(0, scale), zorder=2)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        _binary_axis(axes)
        _binary_axis(axes, y=True)
        axes.set_title(name, fontsize=10, color=INK, weight="bold", loc="left")
        axes.set_xlabel(x_words, fontsize=8.5, color=INK)
        if axes is not panels[0][0]:
            axes.set_yticklabels([])
    panels[0][0].set_ylabel(y_words, fontsize=8.5, color=INK)
    width = figure.get_size_inches()[0]
    last = panels[0][-1].get_position()
    bar = figure.colorbar(drawn, cax=figure.add_axes((last.x1 + 0.18 / width, last.y0, 0.13 / width, last.height)))
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.ax.tick_params(labelsize=7.5, colors=SOFT, length=2)
    bar.outline.set_visible(False)
    _head(
        figure,
        f"Mean error over two sizes: {heading}",
        f"Red is weak (the darkest: {100 * scale:.0f} % or more); white was not measured." + left_out,
    )
    return figure


def _edges(values: np.ndarray) -> np.ndarray:
    """Bins around the powers of two that the values span, at most about 24: wider where they span more."""
    low, high = np.floor(np.log2(values.min()) + 0.5), np.floor(np.log2(values.max()) + 0.5)
    step = max(1.0, np.ceil((high - low + 1) / BINS))
    return np.asarray(2.0 ** (np.arange(low, high + step + 0.5, step) - 0.5))


BINS = 24


# ---- dressing --------------------------------------------------------------------------------------------------------


def _used(errors: Errors, key: str) -> list[int]:
    return np.unique(errors.keys[key][1]).tolist()


def _largest(errors: Errors, key: str) -> tuple[list[tuple[str, np.ndarray]], str]:
    """(name, indices) of the groups with the most rows, in the order of their names; and a note on the others."""
    texts, codes = errors.keys[key]
    counts = np.bincount(codes, minlength=len(texts))
    order = np.argsort(-counts, kind="stable")[: min(MOST, int((counts > 0).sum()))]
    missing = int((counts > 0).sum()) - len(order)
    note = f" {missing} more not drawn." if missing else ""
    return [(texts[i], np.flatnonzero(codes == i)) for i in sorted(order.tolist(), key=lambda i: texts[i])], note


def _panels(
    rows: int, columns: int, wide_each: float, high_each: tuple[float, ...], wide: float, head: float = 1.12
) -> tuple[Any, Any]:
    """A figure with a grid of axes under a heading; `wide` inches are left free on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    left, gap, foot, between = 0.72, 0.62, 0.55, 0.32
    width = left + columns * wide_each + (columns - 1) * between + wide
    width = max(width, 7.0)
    height = head + sum(high_each) + (rows - 1) * gap + foot
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    panels, top = [], height - head
    for high in high_each[:rows]:
        line = []
        for column in range(columns):
            x = left + column * (wide_each + between)
            axes = figure.add_axes((x / width, (top - high) / height, wide_each / width, high / height))
            axes.grid(True, color=GRID, lw=0.6, zorder=0)
            axes.tick_params(labelsize=7.5, colors=SOFT, length=2.5)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            for side in ("left", "bottom"):
                axes.spines[side].set_color("#9AA5B1")
            line.append(axes)
        panels.append(line)
        top -= high + gap
    return figure, panels


def _limit(off: float) -> float:
    """The smallest of LIMITS that holds |log ratio| = `off`."""
    return next((limit for limit in LIMITS if np.log(limit) >= off), LIMITS[-1])


def _ratio_axis(axes: Any, limit: float) -> None:
    """The y axis holds log(predicted / measured); its ticks say predicted / measured - 1."""
    ticks = TICKS[limit]
    axes.set_yticks([np.log(t) for t in ticks], [f"{100 * (t - 1):+.0f} %" if t != 1 else "0" for t in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(-np.log(limit), np.log(limit))
    axes.axhline(0, color=INK, lw=0.9, zorder=2.5)
    for off in (0.9, 1.1):
        axes.axhline(np.log(off), color=SOFT, lw=0.7, ls=":", zorder=2.5)


def _binary_axis(axes: Any, y: bool = False) -> None:
    """Ticks at powers of two that are written out: 1, 16, 256, 4k, 64k, 1M."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis = axes.yaxis if y else axes.xaxis
    low, high = np.log2(axes.get_ylim() if y else axes.get_xlim())
    step = next(s for s in (1, 2, 3, 4, 6, 8, 10, 20, 100) if (high - low) / s <= 6)
    first = np.ceil(low / step) * step
    axis.set_major_locator(FixedLocator((2.0 ** np.arange(first, high + 1e-9, step)).tolist()))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _binary(value)))


def _binary(value: float) -> str:
    for power, letter in ((40, "T"), (30, "G"), (20, "M"), (10, "k")):
        if value >= 2.0**power:
            return f"{value / 2.0**power:g}{letter}"
    return f"{value:g}" if value >= 1 else f"1/{1 / value:g}"


def _head(figure: Any, title: str, words: str) -> None:
    width, height = figure.get_size_inches()
    figure.text(0.2 / width, 1 - 0.3 / height, title, fontsize=13, weight="bold", color=INK, va="center")
    figure.text(0.2 / width, 1 - 0.57 / height, words, fontsize=8.6, color=SOFT, va="center")
