"""Figures of `kinesim validate serving`.

`serving-throughput.png` is the picture that people in this field read: output tokens a second and GPU against
interactivity (tokens a second and user), one panel a model, GPU and engine, one line a parallel layout, predicted
beside measured. `serving-predicted.png` has predicted against measured TPOT and TTFT of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.errortables import percent
from calibration.plots import COLOURS, GRID, INK, SOFT, png
from calibration.servingerrors import METRICS, errors_of, layout, rates
from calibration.servingreplay import Replay
from calibration.servingtables import ServingTable
from calibration.validation import Errors, summary
from simulator.files import replace_file

NAMES = ("serving-throughput", "serving-predicted")
PANELS, ACROSS = 9, 3
"""Most panels of the picture, and how many of them are in a row; the groups with the most rows get one."""
LAYOUTS = 5
"""Most layouts in a panel."""
FACTORS = (0.8, 1.25)
PANEL = ("model", "gpu", "engine", "precision")


def file_names() -> list[str]:
    """The files that `draw` writes."""
    return [f"{name}.png" for name in NAMES]


def comparable(table: ServingTable) -> np.ndarray:
    """bool [n]: rows whose TTFT and TPOT were both measured."""
    return ~np.isnan(table.ttft) & ~np.isnan(table.tpot)


def draw(table: ServingTable, replays: Sequence[Replay], folder: Path) -> list[Path]:
    """Draw both figures into `folder`; the paths of the files. Raises InputError if they cannot be written."""
    written = []
    for name, figure in zip(
        file_names(), (throughput_figure(table, replays), predicted_figure(table, replays)), strict=True
    ):
        written.append(folder / name)
        replace_file(written[-1], png(figure))
    return written


# ---- throughput against interactivity --------------------------------------------------------------------------------


def throughput_figure(table: ServingTable, replays: Sequence[Replay]) -> Any:
    """See the module's docstring. In each panel the lengths with the most rows are drawn."""
    tpot = np.array([entry.tpot for entry in replays])
    ttft = np.array([entry.ttft for entry in replays])
    lines = (
        (rates(table, table.ttft, table.tpot), 1 / table.tpot, "-", "o"),
        (rates(table, ttft, tpot), 1 / tpot, "--", "x"),
    )
    panels = choose_panels(table, tpot)
    across = min(ACROSS, max(1, len(panels)))
    down = max(1, -(-len(panels) // across))
    figure, axes_of = _grid(down, across)
    for axes in axes_of[len(panels) :]:
        axes.set_visible(False)
    for axes, (names, lengths, pick) in zip(axes_of, panels, strict=False):
        layouts = _largest([layout(table.rows[i]) for i in pick.tolist()])
        for colour, name in zip(COLOURS, layouts, strict=False):
            of = np.array([i for i in pick.tolist() if layout(table.rows[i]) == name])
            of = of[np.argsort([table.rows[i]["concurrency"] for i in of.tolist()], kind="stable")]
            for rate, speed, line, marker in lines:
                axes.plot(
                    speed[of], rate[of], line, color=colour, marker=marker, ms=4 if marker == "o" else 5, lw=1.2,
                    label=name if marker == "o" else None, zorder=3,
                )  # fmt: skip
        model, gpu, engine, precision = names
        title = f"{model.rpartition('/')[2]} {precision}"
        axes.set_title(title, fontsize=9.5, color=INK, weight="bold", loc="left", pad=15)
        words = f"{gpu}, {engine}, {lengths[0]:,} in, {lengths[1]:,} out"
        axes.text(0, 1.02, words, transform=axes.transAxes, fontsize=7.8, color=SOFT)
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_ticks(axes)
        axes.legend(fontsize=7, frameon=False, loc="best", handlelength=1.4)
    for number, axes in enumerate(axes_of[: len(panels)]):
        if number % across == 0:
            axes.set_ylabel("output tokens/s per GPU", fontsize=8.2, color=INK)
        if number + across >= len(panels):
            axes.set_xlabel("interactivity: tokens/s per user", fontsize=8.2, color=INK)
    _head(
        figure,
        "Throughput per GPU against interactivity",
        "Solid lines and dots: measured. Dashed lines and crosses: predicted. A line goes through the numbers of users "
        "of one parallel layout.",
    )
    return figure


def choose_panels(table: ServingTable, tpot: np.ndarray) -> list[tuple[tuple[str, ...], tuple[int, int], np.ndarray]]:
    """Of the groups of rows with measurement and prediction those with the most: their names, lengths and rows."""
    groups: dict[tuple[str, ...], dict[tuple[int, int], list[int]]] = {}
    for i in np.flatnonzero(comparable(table) & ~np.isnan(tpot)).tolist():
        row = table.rows[i]
        names = tuple(str(row[name]) for name in PANEL)
        groups.setdefault(names, {}).setdefault((row["input_len"], row["output_len"]), []).append(i)
    largest = [
        (names, *max(lengths.items(), key=lambda item: (len(item[1]), item[0]))) for names, lengths in groups.items()
    ]
    chosen = sorted(largest, key=lambda entry: (-len(entry[2]), entry[0]))[:PANELS]
    return [(names, pair, np.array(rows)) for names, pair, rows in sorted(chosen, key=lambda entry: entry[0])]


def _largest(names: list[str]) -> list[str]:
    """The names that occur most, in their order."""
    count = {name: names.count(name) for name in names}
    return sorted(sorted(count, key=lambda name: (-count[name], name))[:LAYOUTS])


# ---- predicted against measured --------------------------------------------------------------------------------------


def predicted_figure(table: ServingTable, replays: Sequence[Replay]) -> Any:
    """Predicted against measured TPOT and TTFT in milliseconds, coloured by the engine."""
    figure, panels = _grid(1, 2, wide=4.2, high=4.1, head=0.85)
    for axes, metric in zip(panels, METRICS, strict=True):
        errors = errors_of(table, replays, metric)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(f"measured {metric.upper()} (ms)", fontsize=8.5, color=INK)
        axes.set_ylabel(f"predicted {metric.upper()} (ms)", fontsize=8.5, color=INK)
        if len(errors.error):
            _scatter(axes, errors)
    _head(
        figure, "Predicted against measured: mean TPOT and TTFT of deployments",
        "A point is a deployment under a number of users. The line is perfect; dotted: 20 % too fast, 25 % too slow.",
    )  # fmt: skip
    return figure


def _scatter(axes: Any, errors: Errors) -> None:
    measured, predicted = errors.measured * 1e3, errors.predicted * 1e3
    low, high = min(measured.min(), predicted.min()) / 1.2, max(measured.max(), predicted.max()) * 1.2
    engines, codes = errors.keys["engine"]
    for number, name in enumerate(engines):
        pick = np.flatnonzero(codes == number)
        said = summary(errors, pick)
        words = f"{name}: {percent(said['mean'])} ({said['rows']:,} rows)"
        axes.plot(measured[pick], predicted[pick], "o", ms=3.2, alpha=0.6, mew=0, color=COLOURS[number], label=words)
    axes.plot([low, high], [low, high], color=INK, lw=0.9)
    for factor in FACTORS:
        axes.plot([low, high], [low * factor, high * factor], color=SOFT, lw=0.7, ls=":")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    _plain_ticks(axes)
    axes.legend(fontsize=7.8, frameon=False, loc="upper left", title="mean error", title_fontsize=7.8, alignment="left")


# ---- dressing --------------------------------------------------------------------------------------------------------


def _grid(down: int, across: int, wide: float = 3.3, high: float = 2.6, head: float = 1.25) -> tuple[Any, list[Any]]:
    """A figure with a grid of axes under a heading, row after row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    left, between, gap, foot = 0.75, 0.6, 0.75, 0.55
    width = max(7.5, left + across * wide + (across - 1) * between + 0.25)
    height = head + down * high + (down - 1) * gap + foot
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    panels = []
    for i in range(down):
        for j in range(across):
            x, top = left + j * (wide + between), height - head - i * (high + gap)
            axes = figure.add_axes((x / width, (top - high) / height, wide / width, high / height))
            axes.grid(True, color=GRID, lw=0.6, zorder=0)
            axes.tick_params(labelsize=7.5, colors=SOFT, length=2.5, which="both")
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            panels.append(axes)
    return figure, panels


def _plain_ticks(axes: Any) -> None:
    """Numbers of a logarithmic axis as people write them; between powers of ten only 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        narrow = high / low < 1000
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _head(figure: Any, title: str, words: str) -> None:
    width, height = figure.get_size_inches()
    figure.text(0.2 / width, 1 - 0.3 / height, title, fontsize=13, weight="bold", color=INK, va="center")
    figure.text(0.2 / width, 1 - 0.57 / height, words, fontsize=8.6, color=SOFT, va="center")
