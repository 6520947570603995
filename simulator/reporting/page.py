"""A whole page: head, styles, the sections in their order, plotly.js packed, and the script that draws the charts.

One file that asks for nothing: its content security policy forbids the page every request, of a script as of a picture.
"""

from __future__ import annotations

import base64
import functools
import gzip
from collections.abc import Sequence
from importlib import resources

from simulator.reporting.chartsections import course_section, latency_section, problem_section
from simulator.reporting.markup import Markup, element, script_json
from simulator.reporting.parts import Page
from simulator.reporting.sections import (
    Shown,
    cards,
    headline_section,
    known_intervals,
    memory_section,
    money_section,
    notes,
    pools_section,
    rests_section,
    roofline_section,
    scenario_section,
    simulated,
    time_section,
)
from simulator.result import Result

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def sections_of(shown: Shown, level: int, page: Page) -> list[tuple[str, str, Markup]]:
    """(id, name in the list of contents, section) of one result, in reading order."""
    p = shown.prefix
    found: list[tuple[str, str, Markup | None]] = [
        (f"{p}what", "What", simulated(shown, level)),
        (f"{p}notes", "Notes", notes(shown, level)),
        (f"{p}headline", "Headline", headline_section(shown, level)),
        (f"{p}time", "Time", time_section(shown, level)),
        (f"{p}course-section", "Over time", course_section(shown, level, page)),
        (f"{p}latency-section", "Latency", latency_section(shown, level, page)),
        (f"{p}problems-section", "Problems", problem_section(shown, level, page)),
        (f"{p}workers", "Workers", pools_section(shown, level)),
        (f"{p}roofline-section", "Roofline", roofline_section(shown, level, page)),
        (f"{p}money", "Money", money_section(shown, level)),
        (f"{p}memory", "Memory", memory_section(shown, level)),
        (f"{p}rests", "Evidence", rests_section(shown, level)),
        (f"{p}scenario", "Scenario", scenario_section(shown, level)),
    ]
    return [(name, title, part) for name, title, part in found if part is not None]


def one_result(shown: Shown, title: str) -> str:
    """The page of a single result."""
    page = Page()
    parts = sections_of(shown, 2, page)
    top = [
        element("h1", title),
        element("p", shown.result.scenario.get("description") or "", class_="lead"),
        cards(shown),
    ]
    return document(title, [(name, words) for name, words, _ in parts], [*top, *(part for _, _, part in parts)], page)


def page_bytes(result: Result) -> bytes:
    """The content of a run's `report.html`."""
    title = str(result.scenario.get("name", "result"))
    return one_result(Shown(title, result, known_intervals(result)), title).encode()


def document(title: str, contents: Sequence[tuple[str, str]], parts: Sequence[Markup], page: Page) -> str:
    """The HTML file of these parts."""
    links = [element("a", words, href=f"#{name}") for name, words in contents]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content="kinesim"),
        element("title", f"{title} · kinesim"),
        element("style", Markup(_asset("report.css"))),
    )
    body = element(
        "body",
        element("a", "Skip to the report", href="#report", class_="skip"),
        element("header", element("span", "kinesim", class_="brand"), element("nav", *links, aria_label="Sections")),
        element("main", *parts, id="report", tabindex="-1"),
        element("noscript", element("p", "The charts need JavaScript; all their numbers are in the tables.")),
        element("p", class_="failed", id="failed", role="alert", hidden=True),
        element("script", script_json(page.charts), type="application/json", id="charts"),
        element("script", Markup(_plotly()), type="application/octet-stream", id="plotly"),
        element("script", Markup(_asset("report.js"))),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _asset(name: str) -> str:
    return (resources.files("simulator.reporting") / name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    """plotly.js of the installed package, gzip in base64: a third of its size."""
    source = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(source, 6, mtime=0)).decode()
