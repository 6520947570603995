"""The roofline of a GPU with the operators of one or more steps on it (`kinesim roofline`).

Operational intensity is FLOPs per byte of HBM traffic, counted as `cost` counts it (activations that stay in the L2
are no traffic); the height of a point is the rate that the profile predicts. The model is that of Williams, Waterman
and Patterson, "Roofline: an insightful visual performance model" (CACM 52(4), 2009). The thin L2 roof is what could be
reached if every byte came from the L2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx

from hwspecs.errors import InputError
from hwspecs.units import format_quantity
from simulator.graphview import (
    context_document,
    context_words,
    display_name,
    fit,
    gpu_title,
    model_title,
    operator_rows,
    percent_words,
    picture_format,
    shape_document,
    shape_words,
    step_totals,
    text_width,
    write_picture,
)
from simulator.shape import StepShape
from simulator.stepcost import StepCost

ROOFLINE_SCHEMA = "kinesim-roofline/1"
LABELLED_SHARE = 0.02  # operators below it are drawn, but not named

KIND_COLOURS = {
    "gemm": "#0072B2",
    "grouped_gemm": "#56A8DC",
    "attention_prefill": "#D55E00",
    "attention_decode": "#E69F00",
    "mla_prefill": "#C0392B",
    "mla_decode": "#F0B429",
    "mla_bmm": "#2F4B8F",
    "sparse_index": "#8C6D1F",
    "linear_attention": "#E4572E",
    "elementwise": "#009E73",
    "all_reduce": "#B3589A",
    "all_gather": "#CC79A7",
    "reduce_scatter": "#9C6ADE",
    "send": "#7D5BA6",
    "all_to_all": "#6C3483",
}
KIND_WORDS = {
    "gemm": "GEMM",
    "grouped_gemm": "grouped GEMM",
    "attention_prefill": "prefill attention",
    "attention_decode": "decode attention",
    "mla_prefill": "latent prefill attn.",
    "mla_decode": "latent decode attn.",
    "mla_bmm": "absorption",
    "sparse_index": "index",
    "linear_attention": "linear attention",
    "elementwise": "element-wise",
    "all_reduce": "all-reduce",
    "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "send": "send",
    "all_to_all": "all-to-all",
}
MARKERS = {"o": 4 / math.pi, "s": 1.0, "D": 1.0, "^": 2.0, "v": 2.0, "P": 1.8}
"""Forms of the points, one per step -> the square around a form over its area."""
_INK, _SOFT, _THIN = "#1D2733", "#5B6673", "#A9B2BC"


def _checked(shapes: Mapping[str, StepShape]) -> None:
    if not shapes:
        raise InputError("no step to draw", found=0, allowed=f"1 to {len(MARKERS)} steps")
    if len(shapes) > len(MARKERS):
        raise InputError("too many steps for one roofline", found=len(shapes), allowed=f"1 to {len(MARKERS)} steps")


def roofline_document(cost: StepCost, shapes: Mapping[str, StepShape]) -> dict[str, Any]:
    """The roofline as a JSON document: `schema`, what it is of, `description`, `roofs`, `steps` and `points`.

    `roofs`: the dense peaks by format (`compute`, FLOP/s) with the intensity at which each meets the HBM roof
    (`ridge_point`), the bandwidths of HBM and L2, and the formats that the operators compute in (`used`).
    `steps`: label, description, shape and `totals` of each of `shapes`. `points`: the rows of
    `graphview.operator_rows` of all steps, each with the label of its `step` and `attainable_flops_per_s`, the roof
    above it (None without FLOPs).

    Raises
    ------
    InputError : no step, or more than there are markers for.
    """
    _checked(shapes)
    gpu = cost.gpu
    steps, points = [], []
    for label, shape in shapes.items():
        rows = operator_rows(cost, shape)
        steps.append(
            {
                "label": label,
                "description": shape_words(shape),
                "shape": shape_document(shape),
                "totals": step_totals(cost, shape, rows),
            }
        )
        for row in rows:
            roof = row["flops"] / row["ideal_seconds"] if row["flops"] else None
            points.append({"step": label, **row, "attainable_flops_per_s": roof})
    return {
        "schema": ROOFLINE_SCHEMA,
        **context_document(cost),
        "description": "; ".join(f"{step['label']}: {step['description']}" for step in steps),
        "roofs": {
            "used": _formats(cost),
            "compute": dict(gpu.peak),
            "ridge_point": {dtype: gpu.ridge_point(dtype) for dtype in gpu.peak},
            "memory_bandwidth": gpu.memory.bandwidth,
            "l2_bandwidth": gpu.l2.bandwidth,
        },
        "steps": steps,
        "points": points,
    }


def _formats(cost: StepCost) -> list[str]:
    """Formats that the operators compute in, the one of most matrices first."""
    used = dict.fromkeys([cost.graph.main_dtype(cost.gpu.peak)])
    return list(used | dict.fromkeys(op.dtype for op in cost.operators if op.dtype is not None))


# ---- the picture -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Point:
    """An operator on the plot; `x` is None if it moves nothing through HBM."""

    name: str
    kind: str
    marker: str
    x: float | None
    y: float
    share: float


def draw_roofline(cost: StepCost, shapes: Mapping[str, StepShape], path: Path | str) -> None:
    """Draw the GPU's roofs and, for each step of `shapes` (label -> shape), its operators.

    A point's colour says the kind of operator, its form the step, its area the share of the step's time. Operators that
    find everything in the L2 have no operational intensity: they are in the strip at the right edge. Those without
    FLOPs cannot be drawn; they are listed below the plot.

    Raises
    ------
    InputError : no step or too many, or `path` ends in neither `.svg` nor `.png` or cannot be written.
    """
    _checked(shapes)
    path = Path(path)
    picture_format(path)
    write_picture(_figure(cost, shapes), path)


def _figure(cost: StepCost, shapes: Mapping[str, StepShape]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points: list[_Point] = []
    without: dict[str, list[str]] = {}
    seconds: dict[str, float] = {}
    for (label, shape), marker in zip(shapes.items(), MARKERS, strict=False):
        rows = operator_rows(cost, shape)
        seconds[label] = step_totals(cost, shape, rows)["seconds"]
        points += [
            _Point(row["name"], row["kind"], marker, row["intensity"], row["flops_per_s"], row["share"])
            for row in rows
            if row["flops"]
        ]
        absent = [row for row in rows if not row["flops"]]
        if absent:
            names = ", ".join(dict.fromkeys(display_name(row["name"]) for row in absent))
            without.setdefault(names, []).append(f"{percent_words(sum(row['share'] for row in absent))} of {label}")
    hidden = [f"{names} ({', '.join(shares)})" for names, shares in without.items()]

    width, height = 10.0, 7.0 + 0.22 * len(shapes) + 0.17 * len(hidden)
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    head = 0.78 + 0.22 * len(shapes)
    foot = 0.95 + 0.17 * len(hidden)
    axes = figure.add_axes((0.085, foot / height, 0.89, 1 - (head + foot) / height))
    window = _window(cost, points)
    x0, x1, y0, y1, strip = window
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)
    obstacles = _roofs(axes, cost, window)
    _points(axes, points, strip)
    _labels(axes, points, strip, obstacles)
    _dress(axes, strip, x1, any(p.x is None for p in points))
    _words(figure, cost, shapes, seconds, points, hidden)
    return figure


def _window(cost: StepCost, points: list[_Point]) -> tuple[float, float, float, float, float]:
    """Limits of both axes, and where the strip at the right edge begins."""
    main = cost.graph.main_dtype(cost.gpu.peak)
    ridge = cost.gpu.ridge_point(main)
    xs = [p.x for p in points if p.x is not None] + [ridge]
    left = min(*xs, ridge / 100) / 2.5
    right = max(*xs, ridge * 10) * 2.2
    strip = right
    if any(p.x is None for p in points):
        right *= (right / left) ** 0.12
    top = max(cost.gpu.peak.values()) * 2.2
    bottom = min([p.y for p in points if p.y > 0] + [cost.gpu.peak[main] / 1e3]) / 2.5
    return left, right, bottom, top, strip


def _roofs(axes: Any, cost: StepCost, window: tuple[float, float, float, float, float]) -> list[tuple[float, float]]:
    """Draw the roofs; returns points along them, in the plot's coordinates, that labels should keep off."""
    import numpy as np

    gpu = cost.gpu
    x0, _, y0, _, strip = window
    used, *others = _formats(cost)
    peak, bandwidth = gpu.peak[used], gpu.memory.bandwidth
    ridge = peak / bandwidth
    # The other formats, thin; those with the same peak share a line.
    groups: dict[float, list[str]] = {}
    for dtype, value in gpu.peak.items():
        groups.setdefault(value, []).append(dtype)
    for value, names in groups.items():
        thick = used in names
        also = not thick and any(name in others for name in names)
        axes.plot(
            [value / bandwidth, strip],
            [value, value],
            color=_INK if thick else _SOFT if also else _THIN,
            lw=2.2 if thick else 1.7 if also else 0.9,
            zorder=2,
        )
        text = f"{' / '.join(names)} {format_quantity(value, 'FLOP/s')}" + (
            ", vector units" if names == ["fp32"] else ""
        )
        axes.annotate(
            text,
            (value / bandwidth, value),
            xytext=(13, 3),
            textcoords="offset points",
            fontsize=8.6 if thick else 7,
            color=_INK if thick else _SOFT,
            weight="bold" if thick else "normal",
            zorder=4,
        )
    top = max(groups)
    axes.plot([x0, ridge], [x0 * bandwidth, peak], color=_INK, lw=2.2, zorder=2)
    if top > peak:
        axes.plot([ridge, top / bandwidth], [peak, top], color=_THIN, lw=0.9, zorder=2)
    l2 = gpu.l2.bandwidth
    axes.plot([x0, top / l2], [x0 * l2, top], color=_THIN, lw=0.9, ls=(0, (5, 3)), zorder=2)
    start = max(x0, y0 / bandwidth)
    _along(axes, start * 1.2, bandwidth, f"{gpu.memory.kind} {format_quantity(bandwidth, 'B/s')}", 8.6, _INK, "bold")
    _along(axes, max(x0, y0 / l2) * 1.2, l2, f"L2 {format_quantity(l2, 'B/s')}", 7, _SOFT, "normal")
    axes.plot([ridge, ridge], [y0, peak], color=_SOFT, lw=0.9, ls=":", zorder=1.5)
    axes.annotate(
        f"ridge point {ridge:,.0f} FLOP/B",
        (ridge, y0),
        xytext=(4, 6),
        textcoords="offset points",
        fontsize=8,
        color=_SOFT,
    )
    axes.plot([ridge], [peak], marker="o", ms=5, color=_INK, zorder=3)
    slope = np.geomspace(start, ridge, 120)
    flat = np.geomspace(ridge, strip, 60)
    data = [(x, x * bandwidth) for x in slope] + [(x, peak) for x in flat]
    return [tuple(axes.transData.transform(p)) for p in data]


def _along(axes: Any, x: float, bandwidth: float, text: str, size: float, colour: str, weight: str) -> None:
    """Text above the slanted roof of a bandwidth, beginning at intensity `x`."""
    (x1, y1), (x2, y2) = axes.transData.transform([(x, x * bandwidth), (10 * x, 10 * x * bandwidth)])
    axes.annotate(
        text,
        (x, x * bandwidth),
        xytext=(-2, 3.5),
        textcoords="offset points",
        rotation=math.degrees(math.atan2(y2 - y1, x2 - x1)),
        rotation_mode="anchor",
        fontsize=size,
        color=colour,
        weight=weight,
        zorder=4,
    )


def _place(point: _Point, axes: Any, strip: float) -> tuple[float, float]:
    """Where a point is drawn: without HBM traffic in the middle of the strip."""
    right = axes.get_xlim()[1]
    return (point.x if point.x is not None else (strip * right) ** 0.5), point.y


def _area(share: float) -> float:
    """Area in points^2, proportional to the share but for a minimum that can still be seen."""
    return max(13.0, 1000.0 * share)


def _points(axes: Any, points: list[_Point], strip: float) -> None:
    for point in sorted(points, key=lambda p: -p.share):
        x, y = _place(point, axes, strip)
        axes.scatter(
            [x], [y], s=_area(point.share) * MARKERS[point.marker], marker=point.marker, alpha=0.78,
            color=KIND_COLOURS[point.kind], edgecolors="white", linewidths=0.8, zorder=6,
        )  # fmt: skip


def _labels(axes: Any, points: list[_Point], strip: float, obstacles: list[tuple[float, float]]) -> None:
    """Name the operators that matter; those of a kind and step that overlap share one text.

    A greedy search, the largest first: each text takes the first free place around its points, or the least bad one.
    Places lie on growing rings and are tried in a fixed order.
    """
    figure = axes.figure
    renderer = figure.canvas.get_renderer()
    unit = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    border = axes.transData.transform((strip, axes.get_ylim()[0]))[0]
    taken = [box for text in axes.texts for box in _boxes(text, renderer, unit)]
    discs: list[_Disc] = []
    for point in points:
        x, y = axes.transData.transform(_place(point, axes, strip))
        discs.append((x, y, math.sqrt(_area(point.share) / math.pi) * unit))
    to_data = axes.transData.inverted()
    for members in _clusters(points, discs):
        inside = points[members[0]].x is None
        lines = "\n".join(f"{display_name(points[i].name)}  {points[i].share:.0%}" for i in members)
        text = axes.text(0, 0, lines, fontsize=8, color=_INK, ha="center", va="center", zorder=8, transform=None)
        if not inside:
            text.set_bbox({"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.8})
        extent = text.get_window_extent(renderer)
        w, h = extent.width / 2 + 2 * unit, extent.height / 2 + 1.5 * unit
        own = _around([discs[i] for i in members])
        x, y, rx, ry = (own[0] + own[2]) / 2, (own[1] + own[3]) / 2, (own[2] - own[0]) / 2, (own[3] - own[1]) / 2
        limits = (frame.x0, frame.y0, frame.x1 if inside else border, frame.y1)
        best: tuple[float, _Box] | None = None
        for distance in _DISTANCES:
            for angle in _ANGLES:
                c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
                cx, cy = x + c * (rx + distance * unit + w), y + s * (ry + distance * unit + h)
                box = (cx - w, cy - h, cx + w, cy + h)
                bad = _conflicts(box, own, taken, discs, obstacles, limits) * 1e3 + distance
                if best is None or bad < best[0]:
                    best = (bad, box)
        assert best is not None
        box = best[1]
        taken.append(box)
        text.set_transform(axes.transData)
        text.set_position(to_data.transform((box[0] + w, box[1] + h)))
        # A thin line between the nearest points of text and cluster, unless the text is right beside it.
        near = _nearest(box, x, y)
        end = _nearest(own, *near)
        if math.dist(near, end) > 4 * unit:
            (ax, ay), (bx, by) = to_data.transform([near, end])
            axes.plot([ax, bx], [ay, by], color=_SOFT, lw=0.7, zorder=5)


def _clusters(points: list[_Point], discs: list[_Disc]) -> list[list[int]]:
    """Indices of the points to be named, those that overlap and are alike together, by falling share."""
    named = [i for i, point in enumerate(points) if point.share >= LABELLED_SHARE]
    overlap = nx.Graph()
    overlap.add_nodes_from(named)
    for i in named:
        for j in named:
            alike = points[i].kind == points[j].kind and points[i].marker == points[j].marker
            if i < j and alike and math.dist(discs[i][:2], discs[j][:2]) < discs[i][2] + discs[j][2]:
                overlap.add_edge(i, j)
    parts = [sorted(part, key=lambda i: -points[i].share) for part in nx.connected_components(overlap)]
    return sorted(parts, key=lambda part: -sum(points[i].share for i in part))


def _around(discs: list[_Disc]) -> _Box:
    return (
        min(x - r for x, _, r in discs),
        min(y - r for _, y, r in discs),
        max(x + r for x, _, r in discs),
        max(y + r for _, y, r in discs),
    )


_Disc = tuple[float, float, float]  # x, y, radius on the canvas
_Box = tuple[float, float, float, float]  # x0, y0, x1, y1 on the canvas
_DISTANCES = (3, 8, 14, 20, 28, 36, 46, 58, 72, 90, 110, 140)  # points between a point's edge and its name
_ANGLES = (0, 180, 90, 270, 25, 155, 205, 335, 45, 135, 225, 315, 65, 115, 245, 295, 80, 100, 260, 280)


def _nearest(box: _Box, x: float, y: float) -> tuple[float, float]:
    return min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])


def _boxes(text: Any, renderer: Any, margin: float) -> list[_Box]:
    """The place that a text takes; a slanted one (upwards) as a stair of boxes along it."""
    whole = text.get_window_extent(renderer)
    steps = 8 if text.get_rotation() else 1
    dx, dy = whole.width / steps, whole.height / steps
    return [
        (
            whole.x0 + i * dx - margin,
            whole.y0 + i * dy - margin,
            whole.x0 + (i + 1) * dx + margin,
            whole.y0 + (i + 1) * dy + margin,
        )
        for i in range(steps)
    ]


def _conflicts(
    box: _Box,
    own: _Box,
    taken: list[_Box],
    discs: list[_Disc],
    obstacles: list[tuple[float, float]],
    limits: _Box,
) -> float:
    """How much is in the way of a name: the frame and texts most, then points, the roof, and what its line crosses."""
    x0, y0, x1, y1 = box
    bad = 20.0 * (x0 < limits[0] or x1 > limits[2] or y0 < limits[1] or y1 > limits[3])
    bad += 10.0 * sum(x0 < b[2] and b[0] < x1 and y0 < b[3] and b[1] < y1 for b in taken)
    for x, y, r in discs:
        nx, ny = _nearest(box, x, y)
        bad += 2.0 * (math.hypot(nx - x, ny - y) < r)
    bad += 2.0 * any(x0 < x < x1 and y0 < y < y1 for x, y in obstacles)
    point = ((own[0] + own[2]) / 2, (own[1] + own[3]) / 2)
    ex, ey = _nearest(box, *point)
    line = [(point[0] + (ex - point[0]) * t / 12, point[1] + (ey - point[1]) * t / 12) for t in range(1, 12)]
    bad += 3.0 * sum(any(b[0] < x < b[2] and b[1] < y < b[3] for x, y in line) for b in taken)
    foreign = [d for d in discs if _nearest(own, d[0], d[1]) != (d[0], d[1])]
    bad += 2.0 * any(_crosses(point, (ex, ey), disc) for disc in foreign)
    # Points are below the roof; so should their names be.
    roof = next((y for x, y in obstacles if x >= (x0 + x1) / 2), math.inf)
    return bad + 1.0 * ((y0 + y1) / 2 > roof)


def _crosses(a: tuple[float, float], b: tuple[float, float], disc: _Disc) -> bool:
    """Whether the line from `a` to `b` touches a disc."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    x, y = disc[0] - a[0], disc[1] - a[1]
    along = min(max((x * dx + y * dy) / ((dx * dx + dy * dy) or 1.0), 0.0), 1.0)
    return math.hypot(x - along * dx, y - along * dy) < disc[2]


def _dress(axes: Any, strip: float, right: float, has_strip: bool) -> None:
    """Axes, grid, and the strip of the operators without HBM traffic."""
    axes.set_xlabel("operational intensity: FLOPs per byte of HBM traffic", fontsize=9.5, color=_INK)
    axes.set_ylabel("FLOP/s of one GPU", fontsize=9.5, color=_INK)
    axes.yaxis.set_major_formatter(lambda value, _: format_quantity(value, "").replace(" ", "") if value > 0 else "")
    axes.xaxis.set_major_formatter(
        lambda value, _: f"{value:g}" if value < 1e4 else format_quantity(value, "").replace(" ", "")
    )
    axes.grid(True, which="major", color="#E9ECF0", lw=0.7, zorder=0)
    axes.tick_params(labelsize=8.5, colors=_SOFT)
    axes.tick_params(which="minor", length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_THIN)
    if has_strip:
        axes.axvspan(strip, right, color="#F3F5F8", lw=0, zorder=0.5)
        axes.set_xticks([tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= strip])
        axes.text(
            (strip * right) ** 0.5, 0.985, "no HBM\ntraffic", transform=axes.get_xaxis_transform(), fontsize=8,
            color=_SOFT, ha="center", va="top",
        )  # fmt: skip


def _words(
    figure: Any,
    cost: StepCost,
    shapes: Mapping[str, StepShape],
    seconds: Mapping[str, float],
    points: list[_Point],
    hidden: list[str],
) -> None:
    """Title, the steps with their markers, the legend of kinds, and notes."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    left = 0.035
    title = f"{model_title(cost)} on the roofline of {gpu_title(cost)}"
    room = (0.975 - left) * width
    fit(figure.text(left, 1 - 0.33 / height, title, fontsize=13, weight="bold", color=_INK, va="center"), room)
    fit(figure.text(left, 1 - 0.58 / height, context_words(cost), fontsize=8.6, color=_SOFT, va="center"), room)
    for i, ((label, shape), marker) in enumerate(zip(shapes.items(), MARKERS, strict=False)):
        y = 1 - (0.82 + 0.22 * i) / height
        figure.add_artist(Line2D([left + 0.006], [y], marker=marker, ms=6.5, color=_SOFT, ls=""))
        words = f"{label}: {shape_words(shape)}, {format_quantity(seconds[label], 's')}"
        fit(figure.text(left + 0.02, y, words, fontsize=8.6, color=_INK, va="center"), room - 0.02 * width)
    y = (0.33 + 0.17 * len(hidden)) / height
    size = f"area: share of its step's time (named from {LABELLED_SHARE:.0%})"
    note = figure.text(0.975, y, size, fontsize=8.2, color=_SOFT, ha="right", va="center")
    kinds = list(dict.fromkeys(p.kind for p in points))
    texts = [figure.text(0, y, KIND_WORDS[kind], fontsize=8.2, color=_INK, va="center") for kind in kinds]
    space = room - text_width(note) - 0.04 * width * (len(kinds) + 0.5)
    smaller = min(1.0, space / sum(text_width(text) for text in texts))
    x = left
    for kind, text in zip(kinds, texts, strict=True):
        figure.add_artist(Line2D([x + 0.006], [y], marker="o", ms=7, color=KIND_COLOURS[kind], ls=""))
        text.set_fontsize(text.get_fontsize() * smaller)
        text.set_x(x + 0.018)
        x += 0.04 + text_width(text) / width
    for i, names in enumerate(hidden):
        y = (0.16 + 0.17 * (len(hidden) - 1 - i)) / height
        fit(figure.text(left, y, f"Without FLOPs, not drawn: {names}", fontsize=7.4, color=_SOFT, va="center"), room)
