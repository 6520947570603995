"""Figures of `kinesim validate serving`.

`serving-throughput.png` is the picture that people in this field read: output tokens a second and GPU against
interactivity (tokens a second and user), one panel a model, GPU and precision, one colour an engine, one line a
parallel layout, predicted beside measured. `serving-predicted.png` has predicted against measured TPOT and TTFT of all
rows, `serving-ratios.png` predicted over measured by group, row by row.
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
from simulator.selection import ENGINES

NAMES = ("serving-throughput", "serving-predicted", "serving-ratios")
PANELS, ACROSS = 12, 3
"""Most panels of the picture, and how many of them are in a row; the groups with the most rows get one."""
LINES, POINTS = 7, 3
"""Most lines in a panel, and the fewest points of one."""
FACTORS = (0.8, 1.25)
PANEL = ("model", "gpu", "precision")
COLOUR = dict(zip(ENGINES, (COLOURS[0], COLOURS[2], COLOURS[1]), strict=True))
"""An engine has the same colour in all figures."""
TITLES = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
GROUPS = 24
"""Most groups of rows in the figure of ratios; those with the most rows are in it."""
FARTHEST = {"tpot": 2.0, "ttft": 4.0}
"""Ratios beyond this or one over this lie on the edge."""


def file_names() -> list[str]:
    """The files that `draw` writes."""
    return [f"{name}.png" for name in NAMES]


def comparable(table: ServingTable) -> np.ndarray:
    """bool [n]: rows whose TTFT and TPOT were both measured."""
    return ~np.isnan(table.ttft) & ~np.isnan(table.tpot)


def draw(table: ServingTable, replays: Sequence[Replay], folder: Path) -> list[Path]:
    """Draw all figures into `folder`; the paths of the files. Raises InputError if they cannot be written."""
    written = []
    for name, figure in zip(file_names(), (throughput_figure, predicted_figure, ratios_figure), strict=True):
        written.append(folder / name)
        replace_file(written[-1], png(figure(table, replays)))
    return written


# ---- throughput against interactivity --------------------------------------------------------------------------------


def throughput_figure(table: ServingTable, replays: Sequence[Replay], most: int = PANELS) -> Any:
    """See the module's docstring, with `most` panels. In each the lengths with the most rows are drawn."""
    tpot = np.array([entry.tpot for entry in replays])
    ttft = np.array([entry.ttft for entry in replays])
    measured = rates(table, table.ttft, table.tpot), 1 / table.tpot
    predicted = rates(table, ttft, tpot), 1 / tpot
    panels = choose_panels(table, tpot, most)
    across = min(ACROSS, max(1, len(panels)))
    down = max(1, -(-len(panels) // across))
    figure, axes_of = _grid(down, across, wide=2.75, high=2.35, head=1.45)
    for axes in axes_of[len(panels) :]:
        axes.set_visible(False)
    engines: dict[str, None] = {}
    for axes, (names, lengths, pick) in zip(axes_of, panels, strict=False):
        lines = lines_of(table, pick)
        for (engine, _), of in lines.items():
            engines[engine] = None
            colour = COLOUR[engine]
            axes.plot(measured[1][of], measured[0][of], "-o", color=colour, ms=3.6, lw=1.3, zorder=3)
            axes.plot(predicted[1][of], predicted[0][of], "--", color=colour, lw=1.0, zorder=4, dashes=(3, 1.6))
            axes.plot(predicted[1][of], predicted[0][of], "o", color=colour, mfc="white", ms=3.6, mew=0.9, zorder=4)
        model, gpu, precision = names
        axes.set_title(model.rpartition("/")[2], fontsize=9.2, color=INK, weight="bold", loc="left", pad=14)
        words = f"{gpu}, {precision}; {lengths[0]:,} in, {lengths[1]:,} out"
        axes.text(0, 1.025, words, transform=axes.transAxes, fontsize=7.6, color=SOFT)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.margins(0.09, 0.13)
        axes.autoscale_view()
        _plain_ticks(axes)
        _names(
            axes,
            [(name, COLOUR[engine], *(side[of[0]] for side in measured[::-1])) for (engine, name), of in lines.items()],
        )
    for number, axes in enumerate(axes_of[: len(panels)]):
        if number % across == 0:
            axes.set_ylabel("output tokens/s per GPU", fontsize=8.2, color=INK)
        if number + across >= len(panels):
            axes.set_xlabel("tokens/s per user", fontsize=8.2, color=INK)
    _head(
        figure,
        "Throughput per GPU against interactivity, measured and predicted",
        "A line is a parallel layout (tp: tensor, dp: attention data, ep: expert parallelism), its points are numbers "
        "of users: few on the right, many on the left.",
    )
    _key(figure, list(engines))
    return figure


def _names(axes: Any, lines: Sequence[tuple[str, str, float, float]]) -> None:
    """Writes each line's name below its end, given as text, colour and point, and none over another."""
    from matplotlib.patheffects import withStroke

    taken: list[tuple[float, float, float]] = []
    halo = [withStroke(linewidth=1.8, foreground="white")]
    pixel = axes.figure.dpi / 72  # of a point
    for text, colour, x, y in sorted(lines, key=lambda line: -line[3]):
        across, up = (value / pixel for value in axes.transData.transform((x, y)))
        wide, down = 2.1 * len(text), -10.0
        while any(abs(across - a) < wide + w and abs(up + down - u) < 7 for a, u, w in taken):
            down -= 3.5
        taken.append((across, up + down, wide))
        axes.annotate(
            text, (x, y), xytext=(0, down), textcoords="offset points", ha="center", va="baseline", fontsize=6.8,
            color=colour, zorder=6, path_effects=halo, annotation_clip=False,
        )  # fmt: skip


def _key(figure: Any, engines: Sequence[str]) -> None:
    """One legend for all panels: colours are engines, full and open points are measured and predicted."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=COLOUR[name], lw=3, label=TITLES[name]) for name in ENGINES if name in engines]
    handles += [
        Line2D([], [], color=SOFT, marker="o", ms=4, lw=1.3, label="measured"),
        Line2D([], [], color=SOFT, marker="o", mfc="white", ms=4, lw=1.0, ls="--", label="predicted"),
    ]
    width, height = figure.get_size_inches()
    figure.legend(
        handles=handles, loc="upper left", ncols=len(handles), fontsize=8.2, frameon=False, handlelength=2.2,
        bbox_to_anchor=(0.15 / width, 1 - 0.72 / height), columnspacing=1.6, borderaxespad=0,
    )  # fmt: skip


def lines_of(table: ServingTable, pick: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """(engine, layout) -> rows of `pick` by their users, few first; the LINES longest of at least POINTS, if any is."""
    found: dict[tuple[str, str], list[int]] = {}
    for i in pick.tolist():
        row = table.rows[i]
        found.setdefault((row["engine"], layout(row)), []).append(i)
    most = max(len(rows) for rows in found.values())
    long = {key: rows for key, rows in found.items() if len(rows) >= min(POINTS, most)}
    chosen = sorted(sorted(long, key=lambda key: (-len(long[key]), key))[:LINES])
    return {key: np.array(sorted(long[key], key=lambda i: int(table.rows[i]["concurrency"]))) for key in chosen}


def choose_panels(
    table: ServingTable, tpot: np.ndarray, most: int = PANELS
) -> list[tuple[tuple[str, ...], tuple[int, int], np.ndarray]]:
    """Of the groups of rows with measurement and prediction those with the most: their names, lengths and rows."""
    groups: dict[tuple[str, ...], dict[tuple[int, int], list[int]]] = {}
    for i in np.flatnonzero(comparable(table) & ~np.isnan(tpot)).tolist():
        row = table.rows[i]
        names = tuple(str(row[name]) for name in PANEL)
        groups.setdefault(names, {}).setdefault((row["input_len"], row["output_len"]), []).append(i)
    largest = [
        (names, *max(lengths.items(), key=lambda item: (len(item[1]), item[0]))) for names, lengths in groups.items()
    ]
    chosen = sorted(largest, key=lambda entry: (-len(entry[2]), entry[0]))[:most]
    return [(names, pair, np.array(rows)) for names, pair, rows in sorted(chosen, key=lambda entry: entry[0])]


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
            spans = np.array([replays[i].interval for i in errors.rows.tolist()]).T * 1e3
            _scatter(axes, errors, spans if metric == "tpot" else None)
    _head(
        figure, "Predicted against measured: mean TPOT and TTFT of deployments",
        "A point is a deployment under a number of users; vertical lines: 80 % intervals of TPOT. On the line a "
        "prediction is right;\ndotted: 20 % too fast, 25 % too slow.",
    )  # fmt: skip
    return figure


def _scatter(axes: Any, errors: Errors, intervals: np.ndarray | None) -> None:
    """`intervals` : float64 [2, n] of the errors' rows, ms, drawn behind the points."""
    measured, predicted = errors.measured * 1e3, errors.predicted * 1e3
    low, high = min(measured.min(), predicted.min()) / 1.2, max(measured.max(), predicted.max()) * 1.2
    engines, codes = errors.keys["engine"]
    for number, name in enumerate(engines):
        pick = np.flatnonzero(codes == number)
        said = summary(errors, pick)
        words = f"{TITLES.get(name, name)}: {percent(said['mean'])} ({said['rows']:,} rows)"
        colour = COLOUR.get(name, INK)
        if intervals is not None:
            axes.vlines(measured[pick], *intervals[:, pick], color=colour, lw=0.6, alpha=0.25, zorder=2)
        axes.plot(measured[pick], predicted[pick], "o", ms=3, alpha=0.6, mew=0, color=colour, label=words, zorder=3)
    axes.plot([low, high], [low, high], color=INK, lw=0.9, zorder=4)
    for factor in FACTORS:
        axes.plot([low, high], [low * factor, high * factor], color=SOFT, lw=0.7, ls=":", zorder=4)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    _plain_ticks(axes)
    axes.legend(fontsize=7.8, frameon=False, loc="upper left", title="mean error", title_fontsize=7.8, alignment="left")


# ---- predicted over measured, by group -------------------------------------------------------------------------------


def ratios_figure(table: ServingTable, replays: Sequence[Replay]) -> Any:
    """Predicted over measured TPOT and TTFT, a line of points a group, and its median."""
    names = ("model", "gpu", "precision", "engine")
    found = {metric: errors_of(table, replays, metric) for metric in METRICS}
    groups = groups_of(table, found[METRICS[0]].rows, names)
    figure, panels = _grid(1, 2, wide=3.0, high=max(1.2, 0.21 * len(groups)), head=0.95, left=3.05, between=0.25)
    for axes, metric in zip(panels, METRICS, strict=True):
        errors, most = found[metric], FARTHEST[metric]
        at = {row: i for i, row in enumerate(errors.rows.tolist())}
        for line, (name, rows) in enumerate(groups.items()):
            ratio = np.array([errors.ratio[at[i]] for i in rows if i in at])
            if not len(ratio):
                continue
            shown = np.clip(ratio, 1 / most, most)
            spread = line + 0.26 * np.sin(2.4 * np.arange(len(ratio)))
            axes.plot(shown, spread, "o", ms=2.6, mew=0, alpha=0.55, color=COLOUR.get(name[3], INK), zorder=3)
            axes.plot([np.median(shown)] * 2, [line - 0.42, line + 0.42], color=INK, lw=1.6, zorder=4)
        axes.axvline(1, color=INK, lw=0.8, zorder=2)
        for factor in FACTORS:
            axes.axvline(factor, color=SOFT, lw=0.7, ls=":", zorder=2)
        axes.set_xscale("log")
        axes.set_xlim(0.96 / most, 1.04 * most)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        ticks = [tick for tick in (0.25, 0.5, 0.8, 1, 1.25, 2, 4) if 1 / most <= tick <= most]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_title(f"{metric.upper()}: predicted / measured", fontsize=9, color=INK, loc="left")
        axes.grid(False, axis="y")
        labels = []
        if axes is panels[0]:
            labels = [f"{n[0].rpartition('/')[2]} {n[2]}, {n[1]}, {TITLES.get(n[3], n[3])}" for n in groups]
        axes.set_yticks(range(len(groups)) if labels else [], labels)
    _head(
        figure, "Predicted over measured, by model, GPU and engine",
        "A point is a deployment under a number of users, the bar a group's median. Left of 1: predicted too fast. "
        "Points beyond lie on the edge.",
    )  # fmt: skip
    return figure


def groups_of(table: ServingTable, rows: np.ndarray, names: Sequence[str]) -> dict[tuple[str, ...], list[int]]:
    """Of the rows' groups that agree in the columns `names` the GROUPS largest, sorted."""
    found: dict[tuple[str, ...], list[int]] = {}
    for i in rows.tolist():
        found.setdefault(tuple(str(table.rows[i][name]) for name in names), []).append(i)
    return {key: found[key] for key in sorted(sorted(found, key=lambda k: (-len(found[k]), k))[:GROUPS])}


# ---- dressing --------------------------------------------------------------------------------------------------------


def _grid(
    down: int,
    across: int,
    wide: float = 3.3,
    high: float = 2.6,
    head: float = 1.25,
    left: float = 0.75,
    between: float = 0.6,
) -> tuple[Any, list[Any]]:
    """A figure with a grid of axes under a heading, row after row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    gap, foot = 0.75, 0.55
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
