"""The page of several results: what differs first, then every result in full, folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from simulator.headline import STATISTICS
from simulator.printing import duration, percent
from simulator.reporting.amounts import amount, change
from simulator.reporting.charts import Named, course_chart, latency_chart
from simulator.reporting.chartsections import objective, quantile_table
from simulator.reporting.comparison import Comparison, Difference, Row, compare_results
from simulator.reporting.curves import courses, distributions
from simulator.reporting.markup import Markup, element
from simulator.reporting.page import document, sections_of
from simulator.reporting.palette import BOUND_COLOURS, RESULT_COLOURS
from simulator.reporting.parts import Page, Part, bar, chart, number, paragraph, section, table, together
from simulator.reporting.sections import Shown
from simulator.resultwords import BOUND_TEXT, what_rows

LEFT_OUT = {f"{name}.{s}" for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "first_accepted_s") for s in STATISTICS}
LEFT_OUT -= {f"{name}.{s}" for name in ("ttft_s", "tpot_s", "e2e_s", "first_accepted_s") for s in ("mean", "p99")}
CONSTANTS = {"host", "memory", "cuda_graphs"}
"""Parts of an engine that its name and version bring along."""


def several_results(shown: Sequence[Shown], title: str) -> str:
    """The page of two to eight results."""
    page = Page()
    comparison = compare_results(shown)
    named = [Named(one.label, i) for i, one in enumerate(shown)]
    parts: list[tuple[str, str, Markup]] = [
        ("results", "Results", _results(shown)),
        ("headline", "Headline", _headline(comparison)),
        ("differences", "Differences", _differences(comparison)),
        ("time", "Time", _time(shown)),
        ("latency-section", "Latency", _latency(shown, named, page)),
        ("course-section", "Over time", _courses(shown, named, page)),
    ]
    folded = []
    for i, one in enumerate(shown):
        inner = [part for _, _, part in sections_of(one, 4, page)]
        head = element("summary", element("h3", _swatch(i), one.label))
        folded.append(element("details", head, *inner, class_="result", id=f"{one.prefix}result"))
    parts.append(("each", "Each result", section(2, "each", "Each result in full", *folded)))
    top = [element("h1", title), paragraph(f"{len(shown)} results side by side.", class_="lead")]
    return document(title, [(name, words) for name, words, _ in parts], [*top, *(p for _, _, p in parts)], page)


def _swatch(i: int) -> Markup:
    return element("span", class_="swatch", style=f"background:{RESULT_COLOURS[i]}", aria_hidden="true")


def _results(shown: Sequence[Shown]) -> Markup:
    rows = []
    for i, one in enumerate(shown):
        said = dict(what_rows(one.result))
        label = together(_swatch(i), element("a", one.label, href=f"#{one.prefix}result"))
        rows.append([label, *(said.get(key, "") for key in ("GPU", "model", "engine", "workload", "profile"))])
    head = ["result", "GPU", "model", "engine", "workload", "profile"]
    return section(
        2, "results", "What is compared", table(head, rows, caption="Results", texts=range(6), class_="wide")
    )


def _headline(comparison: Comparison) -> Markup:
    rows = [
        [row.metric.title, *_cells(row)]
        for row in comparison.rows
        if row.metric.key not in LEFT_OUT
    ]  # fmt: skip
    warning = None
    if not comparison.same_work:
        warning = element(
            "ul",
            element(
                "li",
                "The workloads differ: totals such as time, price and energy are those of different work; compare "
                "rates, latencies, and what a token or a solved problem costs.",
            ),
            class_="notes",
        )
    first = comparison.labels[0]
    return section(
        2,
        "headline",
        "Headline",
        warning,
        table(["", *comparison.labels], rows, caption=f"Headline metrics; changes are against {first}", class_="wide"),
        paragraph(
            "★ marks the best of a row, ≈ what an 80 % interval cannot tell from it. Intervals of results with "
            "the same profile err together: their order is more certain than each of them.",
            class_="said",
        ),
    )


def _cells(row: Row) -> list[Any]:
    base = row.values[0]
    cells: list[Any] = []
    for i, value in enumerate(row.values):
        if value is None:
            cells.append("-")
            continue
        text = number(amount(row.metric.key, value), value)
        told = change(value, base) if i and base is not None else ""
        ends = row.intervals[i]
        between = f"{amount(row.metric.key, ends[0])} to {amount(row.metric.key, ends[1])}" if ends else ""
        mark = None
        if i in row.best:
            mark = element("span", "★", element("span", " best", class_="hidden"), class_="best")
        elif i in row.close:
            mark = element("span", "≈", element("span", " intervals overlap", class_="hidden"), class_="best")
        below = " · ".join(words for words in (told, between) if words)
        cells.append(
            together(
                element("b", text) if i in row.best else text, " ", mark,
                element("span", below, class_="delta line") if below else None,
            )
        )  # fmt: skip
    return cells


def _differences(comparison: Comparison) -> Markup:
    """What was asked for first; constants of the engines, which follow from their names, folded."""
    constants = [d for d in comparison.differences if set(d.path.split(".")) & CONSTANTS]
    chosen = [d for d in comparison.differences if d not in constants]
    parts: list[Any] = []
    if chosen:
        parts.append(_difference_table(comparison, chosen, "Values of the scenarios that are not the same in all"))
    if constants:
        inner = _difference_table(comparison, constants, "Constants that are not the same in all")
        title = f"{len(constants)} constants of the engines"
        parts.append(element("details", element("summary", title), inner, class_="numbers"))
    same = paragraph("The scenarios are the same.")
    return section(2, "differences", "How the scenarios differ", *(parts or [same]))


def _difference_table(comparison: Comparison, found: Sequence[Difference], caption: str) -> Markup:
    rows = [[d.path, *(_plain(v) for v in d.values)] for d in found]
    texts = range(len(comparison.labels) + 1)
    return table(["value", *comparison.labels], rows, caption=caption, texts=texts, class_="wide")


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    text = (
        yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
        if isinstance(value, Mapping | list)
        else str(value)
    )
    return text if len(text) <= 90 else text[:87] + "..."


def _time(shown: Sequence[Shown]) -> Markup:
    """GPU-seconds of an output token, by what bounds them: comparable whatever the workloads."""
    rows = []
    costs = []
    for one in shown:
        summary = one.result.summary
        tokens, bounds = summary["tokens"]["output"], summary["seconds_by_bound"]
        each = 1 if "pools" in summary else summary["cost"]["gpus"] / one.result.scenario["replicas"]
        costs.append({b: each * s / tokens * 1e6 for b, s in bounds.items()} if tokens else {})
    widest = max((sum(c.values()) for c in costs), default=0.0)
    for i, (one, cost) in enumerate(zip(shown, costs, strict=True)):
        parts = [Part(BOUND_TEXT[b], s, BOUND_COLOURS[b]) for b, s in sorted(cost.items(), key=lambda c: -c[1])]
        total = sum(cost.values())
        words = ", ".join(f"{p.name} {percent(p.size / total)}" for p in parts if p.size >= 0.005 * total)
        rows.append(
            [together(_swatch(i), one.label), (f"{total / 3600:,.3g} h", total / 3600), bar(parts, widest), words]
        )
    legend = [
        element("li", element("span", class_="swatch", style=f"background:{c}", aria_hidden="true"), BOUND_TEXT[b])
        for b, c in BOUND_COLOURS.items()
        if any(cost.get(b, 0.0) >= 0.005 * sum(cost.values()) for cost in costs)
    ]
    head = ["", "GPU-hours", "shares", "bound by"]
    caption = "Busy GPU-hours per million output tokens, by what bounds the kernels"
    return section(
        2, "time", "Where the time goes",
        table(head, rows, caption=caption, texts=(0, 2, 3), class_="bars four"),
        element("ul", *legend, class_="legend"),
    )  # fmt: skip


def _latency(shown: Sequence[Shown], named: Sequence[Named], page: Page) -> Markup:
    found = [distributions(one.result) for one in shown]
    limits = [objective(one.result) for one in shown]
    same = limits[0] if all(each == limits[0] for each in limits) else {}
    labels = [(one.label, one.result, ds) for one, ds in zip(shown, found, strict=True)]
    return section(
        2,
        "latency-section",
        "Latency",
        chart(
            page,
            "latency",
            latency_chart(list(zip(named, found, strict=True)), same),
            label="distributions of the latencies of all results",
            caption=together(
                element("b", "Distributions of the latencies. "),
                "The share that took at most so long: of the requests, for ITL of all gaps between tokens. Points: "
                "p50, p90, p99.",
            ),
            numbers=quantile_table(labels),
        ),
    )


def _courses(shown: Sequence[Shown], named: Sequence[Named], page: Page) -> Markup:
    found = [courses(one.result) for one in shown]
    parts = []
    for kind in ("", "decode", "prefill"):
        members = [(n, c) for n, cs in zip(named, found, strict=True) for c in cs if c.kind == kind]
        if not members:
            continue
        words = f"{kind} workers" if kind else "replicas"
        rows = [
            [
                n.label, duration(float(c.edges[-1])),
                *(_peak(c, title) for title in ("sequences" if kind != "prefill" else "prompts", "KV", "waiting")),
            ]
            for n, c in members
        ]  # fmt: skip
        head = ["", "time", "most in a step", "most KV in use", "most waiting"]
        parts.append(
            chart(
                page,
                f"course{'-' + kind if kind else ''}",
                course_chart(members),
                label=f"{words} of all results over time",
                caption=together(element("b", f"{words.capitalize()} over time: "),
                                 "means over them and over the time of each bin."),
                numbers=table(head, rows, caption=f"The most of one of the {words}"),
            )
        )  # fmt: skip
    return section(2, "course-section", "Over time", *parts)


def _peak(course: Any, title: str) -> Any:
    found = next((s for s in course.series if title in s.title), None)
    if found is None or found.most is None:
        return "0"
    most = float(found.most.max())
    return (percent(most / 100) if found.unit == "%" else f"{most:,.0f}", most)
