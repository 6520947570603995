"""The picture of `kinesim compare`: how the latencies are distributed, measured and predicted, with the interval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.graphview import picture_format, write_picture
from simulator.importing.measurement import LATENCIES

if TYPE_CHECKING:
    from simulator.importing.comparing import Comparison

TITLES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "itl_s": "ITL", "e2e_s": "end to end"}
MEASURED, PREDICTED = "#222222", "#0072B2"
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
POINTS = np.linspace(0.002, 0.998, 250)


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """A panel a latency: the share of requests that are faster, over the time. Raises InputError for the file."""
    from matplotlib.figure import Figure

    picture_format(path)
    names = [name for name in LATENCIES if any(row.metric.startswith(f"{name}.") for row in comparison.metrics)]
    columns = min(2, max(1, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(4.6 * columns + 0.4, 3.0 * rows + 0.8), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    shown: dict[str, Any] = {}
    for axes, name in zip(panels, names, strict=False):
        _panel(axes, comparison, name)
        shown |= {label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    result = comparison.outlook.result
    title = f"{result.scenario['name']}: predicted beside {comparison.measurement.file.name}"
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", fontweight="bold")
    figure.supylabel("share of requests that are faster", fontsize=9)
    write_picture(figure, path)


def _panel(axes: Any, comparison: Comparison, name: str) -> None:
    from simulator.importing.comparing import latencies_of

    outlook = comparison.outlook
    own = latencies_of(outlook.result).get(name)
    if own is not None and len(own):
        axes.plot(np.quantile(own, POINTS), POINTS, color=PREDICTED, lw=1.8, label="predicted")
        ends = [latencies_of(end).get(name) for end in (outlook.fast, outlook.slow) if end is not None]
        curves = [np.quantile(end, POINTS) for end in ends if end is not None and len(end)]
        if len(curves) == 2:
            low, high = np.minimum(*curves), np.maximum(*curves)
            axes.fill_betweenx(POINTS, low, high, color=PREDICTED, alpha=0.2, lw=0, label="80 % interval")
    measured = comparison.measurement.requests.get(name)
    if measured is not None:
        measured = measured[np.isfinite(measured)]
        axes.plot(np.quantile(measured, POINTS), POINTS, color=MEASURED, lw=1.5, ls="--", label="measured")
    else:
        rows = {row.metric.partition(".")[2]: row for row in comparison.metrics if row.metric.startswith(f"{name}.")}
        points = [(rows[key].measured, share) for key, share in SHARES.items() if key in rows]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=MEASURED, ms=5, label="measured percentiles")
        if own is None:  # ITL, of which no single values are kept
            points = [(rows[key].predicted, share) for key, share in SHARES.items() if key in rows]
            axes.plot(*zip(*points, strict=True), "s", color=PREDICTED, ms=5, label="predicted percentiles")
    mean = next((row for row in comparison.metrics if row.metric == f"{name}.mean"), None)
    words = ""
    if mean is not None:
        axes.axvline(mean.measured, color=MEASURED, lw=0.8, ls="--")
        axes.axvline(mean.predicted, color=PREDICTED, lw=0.8)
        words = "" if mean.error is None else f", mean {mean.error:+.1%}"
    axes.set_title(f"{TITLES[name]}{words}", fontsize=10, loc="left")
    axes.set_xlabel("seconds", fontsize=9)
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
