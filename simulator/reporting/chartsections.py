"""The sections with charts: a result over time, its latencies, its problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simulator.printing import duration, percent
from simulator.reporting.amounts import significant
from simulator.reporting.charts import Named, course_chart, latency_chart, problem_chart
from simulator.reporting.curves import BINS, PROBABILITIES, Course, Problems, courses, distributions, problems
from simulator.reporting.markup import Markup, element
from simulator.reporting.parts import Page, chart, paragraph, section, table, together
from simulator.reporting.sections import Shown, latency_table
from simulator.result import Result
from simulator.resultwords import LATENCY_TEXT

TABLE_BINS = 24
TABLE_SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)


def course_section(shown: Shown, level: int, page: Page) -> Markup:
    """Batch, KV cache, queue and throughput over time, of each kind of workers."""
    found = courses(shown.result)
    parts = []
    for course in found:
        name = f"{shown.prefix}course{'-' + course.kind if course.kind else ''}"
        whose = f"{course.kind} workers" if course.kind else "replicas"
        many = course.workers > 1
        about = f"Mean over {course.workers} {whose} and" if many else "Mean over"
        one = f"of the {course.workers} {whose} " if many else ""
        parts.append(
            chart(
                page,
                name,
                course_chart([(Named("mean"), course)]),
                label=f"{whose} over time" if course.kind or many else "the replica over time",
                caption=together(
                    element("b", f"{whose.capitalize() if course.kind or many else 'The replica'} over time. "),
                    f"{about} the time of each of {BINS} bins ({duration(float(course.edges[1]))} each); shaded: the "
                    f"highest {'of any ' if many else ''}{one}at any time in it.{_quiet(course)}",
                    element("span", " Drag to look closer, double-click to come back.", class_="screen"),
                ),
                numbers=_course_table(course),
            )
        )
    body = parts or [paragraph("No step was taken.")]
    return section(level, f"{shown.prefix}course-section", "Over time", *body)


def _quiet(course: Course) -> str:
    """What has no panel because it never happened."""
    titles = " ".join(series.title for series in course.series)
    absent = [words for name, words in (("waiting", "no request waited"), ("preemptions", "none was preempted"))
              if name not in titles and (name, course.kind) != ("preemptions", "prefill")]  # fmt: skip
    return f" {', '.join(absent).capitalize()}." if absent else ""


def _course_table(course: Course) -> Markup:
    """The same in fewer bins: means of means, highest of highest."""
    per = BINS // TABLE_BINS
    head, columns = ["from"], []
    for series in course.series:
        unit = f" ({series.unit})" if series.unit else ""
        counted = series.title.startswith("preemptions")
        groups = series.mean.reshape(TABLE_BINS, per)
        head.append("preemptions" if counted else f"{series.title}{unit}, mean" if series.most is not None
                    else series.title)  # fmt: skip
        columns.append(groups.sum(axis=1) if counted else groups.mean(axis=1))
        if series.most is not None:
            head.append("highest")
            columns.append(series.most.reshape(TABLE_BINS, per).max(axis=1))
    rows = [
        [duration(float(course.edges[i * per])), *((significant(float(c[i])), float(c[i])) for c in columns)]
        for i in range(TABLE_BINS)
    ]
    return table(head, rows, caption=f"In the course of the run, in {TABLE_BINS} bins of equal length")


def latency_section(shown: Shown, level: int, page: Page) -> Markup:
    """How long requests waited: percentiles, and the whole distributions."""
    found = distributions(shown.result)
    limits = objective(shown.result)
    goodput = shown.result.summary.get("goodput")
    said = ""
    if goodput:
        said = f" {percent(goodput['share'])} of the requests meet the whole objective (dashed)."
    return section(
        level,
        f"{shown.prefix}latency-section",
        "Latency",
        latency_table(shown.result.summary),
        chart(
            page,
            f"{shown.prefix}latency",
            latency_chart([(Named(shown.label), found)], limits),
            label="distributions of the latencies",
            caption=together(
                element("b", "Distributions of the latencies. "),
                "The share that took at most so long: of the requests, for ITL of all gaps between tokens." + said,
            ),
            numbers=quantile_table([(shown.label, shown.result, found)]),
        ),
    )


def objective(result: Result) -> dict[str, float]:
    """The limits of the scenario's objective by the summary's name of the latency, seconds."""
    goodput = result.summary.get("goodput")
    return {f"{name}_s": v for name, v in goodput["objective_s"].items() if v is not None} if goodput else {}


def quantile_table(found: Sequence[tuple[str, Result, Sequence[Any]]]) -> Markup:
    """Quantiles of the charts' curves, one row a latency (and result)."""
    at = [int(np.argmin(np.abs(PROBABILITIES - q))) for q in TABLE_SHARES]
    rows = []
    for label, _, distributions_of in found:
        for d in distributions_of:
            if len(d.seconds) == len(PROBABILITIES):
                name = LATENCY_TEXT[d.key] + (f", {label}" if len(found) > 1 else "")
                rows.append([name, *((duration(float(d.seconds[k])), float(d.seconds[k])) for k in at)])
    head = ["", *(f"{100 * q:g} %" for q in TABLE_SHARES)]
    return table(head, rows, caption="Latency within which so many are served")


def problem_section(shown: Shown, level: int, page: Page) -> Markup | None:
    """Best-of-N: when each problem had its first accepted sample, and its last."""
    found = problems(shown.result)
    if found is None:
        return None
    summary = shown.result.summary["problems"]
    parts = {"first_accepted_s": "first accepted sample", "last_s": "last sample final"}
    some = "" if found.total == len(found.number) else f" {len(found.number)} of {found.total:,}, evenly spaced."
    return section(
        level,
        f"{shown.prefix}problems-section",
        "Problem by problem",
        paragraph(
            f"{summary['solved']:,} of {summary['total']:,} problems have an accepted sample. Which samples are "
            "accepted is the scenario's assumption, not a measurement."
        ),
        latency_table(shown.result.summary, "Over all problems", parts, "problems"),
        chart(
            page,
            f"{shown.prefix}problems",
            problem_chart(found),
            label="first accepted and last sample of each problem",
            caption=together(
                element("b", "Each problem: "),
                f"when its first accepted sample was final, and when its last was.{some}",
            ),
            numbers=_problem_table(found),
        ),
    )


def _problem_table(found: Problems) -> Markup:
    rows = []
    for i in range(len(found.number)):
        first, last = float(found.first_accepted_s[i]), float(found.last_s[i])
        rows.append(
            [
                f"{found.number[i] + 1:,}",
                (duration(first), first) if first == first else "none",
                (duration(last), last),
                *((f"{v:,}", v) for v in (int(c[i]) for c in (found.samples, found.accepted, found.tokens))),
            ]
        )
    head = ["problem", "first accepted", "last sample", "samples", "accepted", "output tokens"]
    return table(head, rows, caption="Problems in the order of their last sample")
