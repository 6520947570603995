"""Charts as plain data for plotly.js: traces and layout, without a figure object of its Python package.

A chart has no background and no colour of text: `report.css` gives both, so that it follows the page into dark mode and
onto paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.printing import duration, percent
from simulator.reporting.amounts import short_time, significant, time_ticks, time_unit
from simulator.reporting.curves import PROBABILITIES, Course, Distribution, Problems
from simulator.reporting.palette import ACCENT, IDLE_COLOUR, RESULT_COLOURS, SECOND
from simulator.resultwords import LATENCY_TEXT

Chart = dict[str, Any]
MARKED = (0.5, 0.9, 0.99)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash")


@dataclass(frozen=True)
class Named:
    """One of the results of a chart: its label, and its place among them, which chooses colour and dashes."""

    label: str
    index: int = 0

    @property
    def colour(self) -> str:
        return RESULT_COLOURS[self.index % len(RESULT_COLOURS)]

    @property
    def dash(self) -> str:
        return DASHES[self.index % len(DASHES)]


def plain_numbers(values: np.ndarray, digits: int = 5) -> list[float | None]:
    """Numbers rounded to what a chart can show; None for NaN."""
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in values.tolist()]


def course_chart(named: Sequence[tuple[Named, Course]]) -> Chart:
    """Panels one above the other with a common axis of time: of one result mean and highest, of several the means."""
    fullest = sorted((course.series for _, course in named), key=len, reverse=True)
    titles = list(dict.fromkeys(series.title for found in fullest for series in found))
    unit, size = time_unit(max(float(course.edges[-1]) for _, course in named))
    traces: list[Chart] = []
    layout: Chart = {"height": 118 * len(titles) + 46, "showlegend": len(named) > 1, "hovermode": "x unified"}
    layout |= {"hoversubplots": "axis", "annotations": []}
    layout["xaxis"] = {
        "anchor": f"y{len(titles) if len(titles) > 1 else ''}", "zeroline": False, "hoverformat": ".4~g",
        "unifiedhovertitle": {"text": f"%{{x:.4~g}} {unit}"}, "title": {"text": f"time from the first arrival, {unit}"},
    }  # fmt: skip
    several = len(named) > 1
    for i, title in enumerate(titles):
        axis = "" if i == 0 else str(i + 1)
        top, bottom = 1 - i / len(titles), 1 - (i + 1) / len(titles)
        gap = 27 / layout["height"]
        shares = any(s.unit == "%" for _, course in named for s in course.series if s.title == title)
        layout[f"yaxis{axis}"] = {
            "domain": [bottom, top - gap], "rangemode": "tozero", "nticks": 4, "ticksuffix": " %" if shares else "",
        }  # fmt: skip
        layout["annotations"].append(_heading(_title_of(named, title), 0, top - gap + 4 / layout["height"]))
        for one, course in named:
            series = next((s for s in course.series if s.title == title), None)
            if series is None:
                continue
            x = plain_numbers(course.edges / size, 6)
            common = {"x": x, "xaxis": "x", "yaxis": f"y{axis}", "type": "scatter", "mode": "lines"}
            told = f"%{{y:.4~g}}{' %' if series.unit else ''}{f' {_short(title)}' if several else ''}"
            if series.most is not None and not several:
                traces.append(
                    common
                    | {
                        "y": _steps(series.most), "name": f"{_short(title)}, highest", "hovertemplate": told,
                        "line": {"shape": "hv", "width": 0.8, "color": f"{ACCENT}80"},
                        "fill": "tozeroy", "fillcolor": f"{ACCENT}2e",
                    }
                )  # fmt: skip
            line = {"shape": "hv", "width": 1.7, "color": one.colour, "dash": one.dash if several else "solid"}
            name = one.label if several else _short(title) + (", mean" if series.most is not None else "")
            traces.append(
                common
                | {
                    "y": _steps(series.mean), "name": name, "line": line, "hovertemplate": told,
                    "showlegend": i == 0, "legendgroup": one.label if several else title,
                }
            )  # fmt: skip
    return {"data": traces, "layout": layout}


def _short(title: str) -> str:
    return title.partition(",")[0]


def _title_of(named: Sequence[tuple[Named, Course]], title: str) -> str:
    """With the highest that was seen, or of several results whose mean it is."""
    found = [s for _, course in named for s in course.series if s.title == title]
    if len(named) > 1 or found[0].most is None:
        many = any(course.workers > 1 for _, course in named) and found[0].most is not None
        return f"{title}{', mean of replicas or workers' if many else ''}"
    each = "" if named[0][1].workers == 1 else f" of one of {named[0][1].workers} {_workers(named[0][1])}"
    most = float(found[0].most.max())
    return f"{title}: at most {percent(most / 100) if found[0].unit == '%' else significant(most)}{each}"


def _workers(course: Course) -> str:
    return f"{course.kind} workers" if course.kind else "replicas"


def _steps(values: np.ndarray) -> list[float | None]:
    """Values of bins as a line of steps, whose last one ends with the last bin."""
    return plain_numbers(np.append(values, values[-1]))


def _heading(text: str, x: float, y: float, ref: str = "paper") -> Chart:
    return {
        "text": f"<b>{_plain(text)}</b>", "x": x, "y": y, "xref": ref, "yref": ref, "showarrow": False,
        "xanchor": "left", "yanchor": "bottom", "font": {"size": 12},
    }  # fmt: skip


def _plain(text: str) -> str:
    """Text for plotly, which reads some HTML in labels."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latency_chart(
    named: Sequence[tuple[Named, list[Distribution]]], limits: dict[str, float], columns: int = 2
) -> Chart:
    """Shares of requests, of tokens for ITL, below every latency; `limits` are drawn where the scenario has them."""
    keys = [key for key in LATENCY_TEXT if any(d.key == key and len(d.seconds) for _, ds in named for d in ds)]
    rows = -(-len(keys) // columns)
    layout: Chart = {"height": 226 * rows + 30, "showlegend": len(named) > 1, "annotations": [], "shapes": []}
    traces: list[Chart] = []
    for i, key in enumerate(keys):
        axis = "" if i == 0 else str(i + 1)
        column, row = i % columns, i // columns
        left, right = column / columns + 0.035 * column, (column + 1) / columns - 0.035 * (columns - 1 - column)
        top, bottom = 1 - row / rows, 1 - (row + 1) / rows
        top, bottom = top - 22 / layout["height"], bottom + 30 / layout["height"]
        found = [(one, d.seconds) for one, ds in named for d in ds if d.key == key and len(d.seconds)]
        low = min(float(s[1 if len(s) > 1 else 0]) for _, s in found)
        high = max(float(s[-1]) for _, s in found)
        limit = limits.get(key)
        low, high = max(min(low, limit or low), high * 1e-6, 1e-9), max(high, limit or high, 1e-9)
        low, high = low / (high / low) ** 0.03 / 1.01, high * (high / low) ** 0.03 * 1.01
        ticks, texts = time_ticks(low, high)
        layout[f"xaxis{axis}"] = {
            "domain": [left, right], "anchor": f"y{axis}", "type": "log", "range": [np.log10(low), np.log10(high)],
            "tickvals": ticks, "ticktext": texts, "tickangle": 0,
        }  # fmt: skip
        layout[f"yaxis{axis}"] = {
            "domain": [bottom, top], "anchor": f"x{axis}", "range": [0, 1.03], "tickformat": ".0%", "nticks": 6,
            "tickvals": [0, 0.25, 0.5, 0.75, 1],
        }  # fmt: skip
        share = "tokens" if key == "itl_s" else "requests"
        layout["annotations"].append(_heading(f"{LATENCY_TEXT[key]}: share of {share}", left, top))
        for one, seconds in found:
            traces += _distribution(one, seconds, axis, (low, high), alone=len(named) == 1, first=i == 0)
        if limit:
            line = {"color": SECOND, "width": 1.4, "dash": "dash"}
            layout["shapes"].append(
                {"type": "line", "xref": f"x{axis}", "yref": f"y{axis}", "x0": limit, "x1": limit, "y0": 0, "y1": 1.03,
                 "line": line}
            )  # fmt: skip
            layout["annotations"].append(
                {"text": f"objective {short_time(limit)}", "x": float(np.log10(limit)), "y": 0.03, "showarrow": False,
                 "xref": f"x{axis}", "yref": f"y{axis}", "xanchor": "right", "yanchor": "bottom", "xshift": -4}
            )  # fmt: skip
    return {"data": traces, "layout": layout}


def _across(x: float, window: tuple[float, float]) -> float:
    """How far `x` is from the left end of a logarithmic axis, as a share."""
    low, high = np.log10(window)
    return float((np.log10(x) - low) / max(high - low, 1e-12))


def _beside(seconds: np.ndarray, shares: np.ndarray, k: int, window: tuple[float, float]) -> str:
    """Where the text of the curve's point `k` is free of the curve: below and right of it, near the axis's end left of
    it, where the curve is flat there below it.
    """
    across = _across(float(seconds[k]), window)
    if across <= 0.55:
        return "bottom right"
    low, high = np.log10(window)
    before = float(np.interp(10 ** (low + (across - 0.25) * (high - low)), seconds, shares))
    if before < shares[k] - 0.25:
        return "middle left"
    return "bottom center" if across < 0.85 else "bottom left"


def _distribution(
    one: Named, seconds: np.ndarray, axis: str, window: tuple[float, float], *, alone: bool, first: bool
) -> list[Chart]:
    shares = PROBABILITIES[-len(seconds) :]
    floor = np.maximum(seconds, 1e-9)
    common = {"xaxis": f"x{axis}", "yaxis": f"y{axis}", "type": "scatter", "legendgroup": one.label}
    texts = [f"{percent(p)} within {duration(s)}" for p, s in zip(shares.tolist(), seconds.tolist(), strict=True)]
    traces = [
        common
        | {
            "x": plain_numbers(floor), "y": plain_numbers(shares, 6), "mode": "lines", "name": one.label,
            "text": texts, "hovertemplate": "%{text}", "showlegend": first,
            "line": {"color": one.colour, "width": 2, "dash": "solid" if alone else one.dash},
        }
    ]  # fmt: skip
    at = [int(np.argmin(np.abs(shares - q))) for q in MARKED]
    marks: Chart = {
        "x": [float(floor[k]) for k in at], "y": list(MARKED), "mode": "markers+text" if alone else "markers",
        "marker": {"color": one.colour, "size": 7}, "showlegend": False, "hoverinfo": "skip", "name": one.label,
    }  # fmt: skip
    if alone:
        words = [f"p{q * 100:g} {duration(float(seconds[k]))}" for q, k in zip(MARKED, at, strict=True)]
        places = [_beside(floor, shares, k, window) for k in at]
        marks |= {"text": words, "textposition": places, "cliponaxis": False}
    return [*traces, common | marks]


def problem_chart(found: Problems) -> Chart:
    """Each problem a vertical line from its first accepted to its last final sample."""
    unit, size = time_unit(float(found.last_s.max()))
    x = np.arange(1, len(found.number) + 1)
    solved = np.isfinite(found.first_accepted_s)
    first, last = found.first_accepted_s / size, found.last_s / size
    lines = [v for pair in zip(first[solved], last[solved], strict=True) for v in (*pair, np.nan)]
    between: Chart = {
        "x": [v for i in x[solved].tolist() for v in (i, i, None)], "y": plain_numbers(np.array(lines)),
        "mode": "lines", "line": {"color": IDLE_COLOUR, "width": 1.2}, "hoverinfo": "skip", "showlegend": False,
        "type": "scatter",
    }  # fmt: skip
    texts = [
        f"problem {n + 1}: {a} of {s} samples accepted, {t:,} tokens"
        for n, a, s, t in zip(*(c.tolist() for c in (found.number, found.accepted, found.samples, found.tokens)),
                              strict=True)
    ]  # fmt: skip
    data = [between]
    for name, values, colour, symbol in (
        ("last sample final", last, ACCENT, "circle"),
        ("first accepted sample", first, SECOND, "diamond"),
    ):
        data.append(
            {"x": x.tolist(), "y": plain_numbers(values), "mode": "markers", "name": name, "type": "scatter",
             "marker": {"color": colour, "size": 8, "symbol": symbol}, "text": texts,
             "hovertemplate": f"%{{y:.4~g}} {unit}<br>%{{text}}"}
        )  # fmt: skip
    layout: Chart = {
        "height": 300, "showlegend": True,
        "xaxis": {"title": {"text": "problems, in the order of their last sample"}, "zeroline": False}
        | ({"dtick": 1} if len(x) <= 12 else {}),
        "yaxis": {"title": {"text": f"after submission, {unit}"}, "rangemode": "tozero"},
    }  # fmt: skip
    return {"data": data, "layout": layout}
