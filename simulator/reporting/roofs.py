"""The roofline of a run: its operators at the sizes that they had, under the roofs of their GPU.

A point is all that an operator did in the run: FLOPs over bytes of HBM traffic across, FLOPs over seconds up, so it is
the mean over all steps, each with the weight of its work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hwspecs.gpu import list_gpus, load_gpu
from hwspecs.units import format_quantity
from simulator.graphview import display_name
from simulator.reporting.palette import BOUND_COLOURS, IDLE_COLOUR
from simulator.result import Result
from simulator.resultwords import BOUND_TEXT

LABELLED, DRAWN = 0.015, 0.002
"""Share of the time from which on a point is named, and drawn."""


@dataclass(frozen=True)
class Point:
    """An operator: `intensity` in FLOP/B and `rate` in FLOP/s of one GPU, None where it has no FLOPs or no HBM traffic;
    `of_roof` is the rate over that of its roof; `share` of its workers' kernel time.
    """

    name: str
    bound: str
    share: float
    intensity: float | None
    rate: float | None
    of_roof: float | None


@dataclass(frozen=True)
class Roofline:
    """Of one kind of workers (`kind` is empty without pools). `peaks`: FLOP/s of each format that operators compute in,
    with its names where they are known, the highest first.
    """

    kind: str
    gpu: str
    bandwidth: float
    peaks: list[tuple[float, str]]
    points: list[Point]


def rooflines(result: Result) -> list[Roofline]:
    """Of each kind of workers."""
    pools = result.deployment.get("pools")
    if pools is None:
        return [_roofline("", result.deployment["gpu"], result.operators)]
    return [
        _roofline(kind, pools[kind]["gpu"], [op for op in result.operators if op["pool"] == kind])
        for kind in ("decode", "prefill")
    ]


def _roofline(kind: str, gpu: dict[str, Any], operators: list[dict[str, Any]]) -> Roofline:
    total = sum(op["seconds"] for op in operators) or 1.0
    peaks = {float(f"{gpu['peak_flops']:.6g}"): gpu["peak_flops"]}
    points = []
    for op in operators:
        if not op["seconds"]:
            continue
        peak = op["flops"] / op["peak_seconds"] if op["peak_seconds"] else None
        if peak:
            peaks.setdefault(float(f"{peak:.6g}"), peak)
        intensity = op["flops"] / op["hbm_bytes"] if op["flops"] and op["hbm_bytes"] else None
        rate = op["flops"] / op["seconds"] if op["flops"] else None
        roof = None
        if rate and peak:
            roof = rate / min(peak, intensity * gpu["memory_bandwidth"] if intensity else peak)
        bound = max(op["by_bound"], key=op["by_bound"].__getitem__)
        points.append(Point(op["name"], bound, op["seconds"] / total, intensity, rate, roof))
    points.sort(key=lambda p: -p.share)
    named = sorted(((value, _formats(gpu, value)) for value in peaks.values()), reverse=True)
    return Roofline(kind, gpu["title"], gpu["memory_bandwidth"], named, points)


def _formats(gpu: dict[str, Any], peak: float) -> str:
    """Names of the formats with that peak, as far as they can be known: of a bundled GPU, or the main one's."""
    if gpu["name"] in list_gpus():
        found = load_gpu(gpu["name"]).peak
        names = [name for name, value in found.items() if math.isclose(value, peak, rel_tol=1e-6)]
        if names:
            return "/".join(names)
    return gpu["peak_dtype"] if math.isclose(peak, gpu["peak_flops"], rel_tol=1e-6) else ""


def roofline_chart(roofline: Roofline) -> dict[str, Any]:
    """Points in the colours of what bounds them, their areas as their shares of the time; `narrow` are the annotations
    for where the chart is less than 900 pixels wide, as on paper.
    """
    shown = drawn(roofline)
    top = roofline.peaks[0][0]
    ridge = top / roofline.bandwidth
    xs, ys = [p.intensity or 1.0 for p in shown], [p.rate or 1.0 for p in shown]
    x0, x1 = min([*xs, ridge / 100]) / 2, max([*xs, ridge]) * 8
    y0, y1 = min([*ys, top / 1e3]) / 2.5, top * 2.2
    data: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    line = {"color": IDLE_COLOUR, "width": 2}
    data.append(_roof([x0, ridge], [x0 * roofline.bandwidth, top], line))
    for i, (peak, names) in enumerate(roofline.peaks):
        data.append(_roof([peak / roofline.bandwidth, x1], [peak, peak], line | {"width": 2 if i == 0 else 1.2}))
        text = f"{format_quantity(peak, 'FLOP/s')} {names}".strip()
        annotations.append(_note(text, x1, peak, "right", "bottom"))
    window = (x0, x1, y0, y1)
    for bound in dict.fromkeys(p.bound for p in shown):
        members = [p for p in shown if p.bound == bound]
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": f"bound by {BOUND_TEXT[bound]}",
                "x": [p.intensity for p in members], "y": [p.rate for p in members],
                "marker": {"color": BOUND_COLOURS[bound], "opacity": 0.85, "line": {"width": 1, "color": IDLE_COLOUR},
                           "size": [_diameter(p.share) for p in members]},
                "text": [_words(p) for p in members], "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    wide, narrow = (annotations + _labels(shown, (roofline.bandwidth, top), window, width) for width in (WIDTH, NARROW))
    layout = {
        "height": HEIGHT, "showlegend": True, "hovermode": "closest", "annotations": wide,
        "xaxis": {"type": "log", "range": [math.log10(x0), math.log10(x1)], **_decades(x0, x1, ""),
                  "title": {"text": "operational intensity, FLOP per byte of HBM traffic"}},
        "yaxis": {"type": "log", "range": [math.log10(y0), math.log10(y1)], **_decades(y0, y1, "FLOP/s")},
    }  # fmt: skip
    return {"data": data, "layout": layout, "narrow": narrow}


def drawn(roofline: Roofline) -> list[Point]:
    """Its points that have a place on the chart and matter enough to widen it."""
    return [p for p in roofline.points if p.intensity and p.rate and p.share >= DRAWN]


def _decades(low: float, high: float, unit: str) -> dict[str, Any]:
    """Ticks at the powers of ten between."""
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    texts = [format_quantity(10.0**k, unit) if unit else f"{10.0**k:,.{max(0, -k)}f}" for k in powers]
    return {"tickvals": [10.0**k for k in powers], "ticktext": texts}


def _roof(x: list[float], y: list[float], line: dict[str, Any]) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "hoverinfo": "skip", "showlegend": False}


def _note(text: str, x: float, y: float, anchor: str, above: str) -> dict[str, Any]:
    return {"text": text, "x": math.log10(x), "y": math.log10(y), "xanchor": anchor, "yanchor": above,
            "showarrow": False, "font": {"size": 11}}  # fmt: skip


def _diameter(share: float) -> float:
    """Pixels, so that areas are as shares but for the smallest, which can still be seen."""
    return max(5.0, 44 * math.sqrt(share))


def _words(p: Point) -> str:
    return (
        f"{display_name(p.name)}: {p.share:.1%} of the kernel time<br>{p.intensity:.3g} FLOP/B, "
        f"{format_quantity(p.rate or 0.0, 'FLOP/s')}" + (f", {p.of_roof:.0%} of its roof" if p.of_roof else "")
        + f"<br>bound by {BOUND_TEXT[p.bound]}"
    )  # fmt: skip


WIDTH, NARROW, HEIGHT = 1000, 690, 430
"""Pixels of the charts for which labels are placed."""


def _labels(
    points: list[Point], slope: tuple[float, float], window: tuple[float, float, float, float], width: int
) -> list[dict[str, Any]]:
    """Names of the larger points, each at the first of a few places around it where nothing is yet, and that of the
    roof of HBM, whose bandwidth and end `slope` are, as high on it as nothing is.
    """
    bandwidth, top = slope
    x0, x1, y0, y1 = map(math.log10, window)
    inner, height = width - 98, HEIGHT - 76  # without the margins

    def at(intensity: float, rate: float) -> tuple[float, float]:
        x, y = math.log10(intensity), math.log10(rate)
        return (x - x0) / (x1 - x0) * inner, (y1 - y) / (y1 - y0) * height

    def place(p: Point) -> tuple[float, float]:
        return at(p.intensity or 1.0, p.rate or 1.0)

    short = [display_name(p.name) for p in points]
    taken = []
    for p in points:
        (x, y), r = place(p), _diameter(p.share) / 2
        taken.append((x - r, y - r, x + r, y + r))
    text = f"HBM {format_quantity(bandwidth, 'B/s')}"
    w, h = 6.6 * len(text), 15.0
    spots = []
    for i in range(1, 20):
        rate = window[2] * (top / window[2]) ** (i / 20)
        x, y = at(rate / bandwidth, rate)
        if x > w:
            box = (x - w, y - h - 3, x, y - 3)
            spots.append((sum(_overlap(box, other) for other in taken), -rate, box, rate))
    found = []
    if spots:
        _, _, box, rate = min(spots)
        taken.append(box)
        found.append(_note(text, rate / bandwidth, rate, "right", "bottom"))
    for p in (p for p in points if p.share >= LABELLED):
        (x, y), r = place(p), _diameter(p.share) / 2
        name = display_name(p.name)
        text = f"{name if short.count(name) == 1 else p.name} {p.share:.0%}"
        w, h = 6.6 * len(text), 15.0
        best = None
        for reach in (6, 18, 34, 54, 78, 104):
            for sx, sy in ((1, 0), (1, 1), (0, 1), (1, -1), (0, -1), (-1, 1), (-1, -1), (-1, 0)):
                cx, cy = x + sx * (r + reach + w / 2), y + sy * (r + reach + h / 2)
                box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                inside = box[0] > 0 and box[2] < inner and box[1] > 0 and box[3] < height
                if inside and not any(_overlap(box, other) for other in taken):
                    best = (box, cx - x, cy - y, reach)
                    break
            if best:
                break
        if best is None:
            continue  # it is in the table
        box, dx, dy, reach = best
        taken.append(box)
        found.append(
            {"text": text, "x": math.log10(p.intensity or 1.0), "y": math.log10(p.rate or 1.0), "ax": dx, "ay": dy,
             "showarrow": True, "arrowhead": 0, "arrowwidth": 0.8, "arrowcolor": IDLE_COLOUR, "standoff": r,
             "font": {"size": 11}} if reach > 6 else
            {"text": text, "x": math.log10(p.intensity or 1.0), "y": math.log10(p.rate or 1.0), "xshift": dx,
             "yshift": -dy, "showarrow": False, "font": {"size": 11}}
        )  # fmt: skip
    return found


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
