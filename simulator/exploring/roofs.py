"""The roofline of the GPU with the operators of the two steps on it, as SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hwspecs.units import format_quantity
from simulator.printing import duration, percent
from simulator.reporting.markup import Markup, element
from simulator.resultwords import BOUND_TEXT

WIDTH, HEIGHT = 640.0, 400.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 22.0, 24.0, 40.0
NAMED, DRAWN = 0.03, 0.001
"""Shares of a step from which an operator is named, and drawn at all."""
LETTER, LINE = 6.1, 13.0
"""Width and height of a letter of the labels, pixels of the drawing."""


@dataclass(frozen=True)
class _Axes:
    """Logarithmic axes: limits in FLOP/B and FLOP/s."""

    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        share = math.log(value / self.x0) / math.log(self.x1 / self.x0)
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    def y(self, value: float) -> float:
        share = math.log(value / self.y0) / math.log(self.y1 / self.y0)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def roofline(doc: dict[str, Any]) -> Markup:
    """Roofs of the formats in use and of the HBM; a circle for an operator of the decode step, a square of the prefill
    step, as large as its share and coloured by its bound.
    """
    points = [(name, row) for name in ("decode", "prefill") for row in doc[name]["operators"]]
    points = [(n, row) for n, row in points if row["intensity"] and row["flops_per_s"] and row["share"] >= DRAWN]
    axes = _axes(doc["roofs"], [row for _, row in points])
    points.sort(key=lambda point: -point[1]["share"])
    title = (
        f"Roofline of {doc['scenario']['gpu']}: HBM {format_quantity(doc['roofs']['memory_bandwidth'], 'B/s')}, ridge "
        f"point {doc['roofs']['ridge_point']:,.0f} FLOP/B"
    )
    taken = [_box(axes, row) for _, row in points]
    return element(
        "svg",
        element("title", title),
        _grid(axes),
        _roofs(axes, doc["roofs"], taken),
        [_point(axes, name, row) for name, row in points],
        [_label(axes, name, row, taken) for name, row in points if row["share"] >= NAMED],
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        aria_label=title,
    )


def _axes(roofs: dict[str, Any], rows: list[dict[str, Any]]) -> _Axes:
    """Whole decades around the points and the ridge point."""
    xs = [row["intensity"] for row in rows] + [roofs["ridge_point"]]
    ys = [row["flops_per_s"] for row in rows] + list(roofs["compute"].values())
    return _Axes(
        10 ** math.floor(math.log10(min(xs) / 1.5)),
        10 ** math.ceil(math.log10(max(xs) * 3)),
        10 ** math.floor(math.log10(min(ys) / 1.2)),
        10 ** math.ceil(math.log10(max(ys) * 1.6)),
    )


def _grid(axes: _Axes) -> list[Markup]:
    found = []
    for power in range(round(math.log10(axes.x0)), round(math.log10(axes.x1)) + 1):
        at = axes.x(10.0**power)
        found.append(_line(at, TOP, at, HEIGHT - BOTTOM, "grid"))
        text = f"{10.0**power:,g}"
        found.append(_text(at, HEIGHT - BOTTOM + 15, text, "tick", "middle"))
    for power in range(round(math.log10(axes.y0)), round(math.log10(axes.y1)) + 1):
        at = axes.y(10.0**power)
        found.append(_line(LEFT, at, WIDTH - RIGHT, at, "grid"))
        found.append(_text(LEFT - 5, at + 4, format_quantity(10.0**power, "").strip(), "tick", "end"))
    found.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "FLOPs per byte of HBM traffic", "axis", "middle"))
    found.append(_text(4, 12, "FLOP/s", "axis", "start"))
    return found


def _roofs(axes: _Axes, roofs: dict[str, Any], taken: list[tuple[float, float, float, float]]) -> list[Markup]:
    found, bandwidth = [], roofs["memory_bandwidth"]
    highest = max(roofs["compute"].values())
    foot = max(axes.x0, axes.y0 / bandwidth)
    found.append(_line(axes.x(foot), axes.y(foot * bandwidth), axes.x(highest / bandwidth), axes.y(highest), "roof"))
    levels: dict[float, list[str]] = {}
    for dtype, rate in roofs["compute"].items():
        levels.setdefault(rate, []).append(dtype)
    for rate, names in levels.items():
        found.append(_line(axes.x(rate / bandwidth), axes.y(rate), WIDTH - RIGHT, axes.y(rate), "roof"))
        text = f"{' / '.join(names)} {format_quantity(rate, 'FLOP/s')}"
        found.append(_text(WIDTH - RIGHT - 3, axes.y(rate) - 5, text, "rooftext", "end"))
        width = len(text) * LETTER
        taken.append((WIDTH - RIGHT - width, axes.y(rate) - LINE - 3, WIDTH - RIGHT, axes.y(rate)))
    at = foot * 1.15
    x, y = axes.x(at), axes.y(at * bandwidth)
    slope = math.degrees(math.atan2(axes.y(at * bandwidth * 10) - y, axes.x(at * 10) - x))
    text = f"HBM {format_quantity(bandwidth, 'B/s')}"
    found.append(_text(x, y - 6, text, "rooftext", "start", transform=f"rotate({slope:.1f} {x:.1f} {y:.1f})"))
    return found


def _radius(share: float) -> float:
    """Area in proportion to the share."""
    return max(2.5, 20.0 * math.sqrt(share))


def _point(axes: _Axes, step: str, row: dict[str, Any]) -> Markup:
    x, y, r = axes.x(row["intensity"]), axes.y(row["flops_per_s"]), _radius(row["share"])
    words = (
        f"{row['name']} ({step}): {percent(row['share'])} of the step, {duration(row['seconds'])}, "
        f"{row['intensity']:,.3g} FLOP/B, {format_quantity(row['flops_per_s'], 'FLOP/s')}, bound by "
        f"{BOUND_TEXT[row['bound']]}, {percent(row['of_roof'])} of the roof"
    )
    kind = f"f-{row['bound']} point"
    if step == "decode":
        return element("circle", element("title", words), cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{r:.1f}", class_=kind)
    side = r * math.sqrt(math.pi)
    return element(
        "rect", element("title", words), x=f"{x - side / 2:.1f}", y=f"{y - side / 2:.1f}", width=f"{side:.1f}",
        height=f"{side:.1f}", class_=kind,
    )  # fmt: skip


def _box(axes: _Axes, row: dict[str, Any]) -> tuple[float, float, float, float]:
    """What a point covers, but for its rim."""
    x, y, r = axes.x(row["intensity"]), axes.y(row["flops_per_s"]), 0.8 * _radius(row["share"])
    return x - r, y - r, x + r, y + r


def _label(
    axes: _Axes, step: str, row: dict[str, Any], taken: list[tuple[float, float, float, float]]
) -> Markup | None:
    """The operator's name beside its point, where there is room; the tables name all of them."""
    text = f"{row['name'].split(' [')[0]} {row['share']:.0%}"
    width, r = len(text) * LETTER, _radius(row["share"])
    x, y = axes.x(row["intensity"]), axes.y(row["flops_per_s"])
    for turn in range(9):
        shift = (turn + 1) // 2 * LINE * (-1) ** turn
        for side in (1, -1):
            left = x + r + 4 if side == 1 else x - r - 4 - width
            box = (left, y + shift - LINE / 2, left + width, y + shift + LINE / 2)
            inside = box[0] >= LEFT and box[2] <= WIDTH - RIGHT and box[1] >= TOP and box[3] <= HEIGHT - BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                return _text(left, y + shift + 4, text, f"name {step}", "start")
    return None


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=kind)


def _text(x: float, y: float, text: str, kind: str, anchor: str, **more: str) -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=kind, text_anchor=anchor, **more)
