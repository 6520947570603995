"""Pieces of a page that sections are made of: tables, strips of shares, figures with the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from simulator.printing import percent
from simulator.reporting.markup import Markup, element, join
from simulator.reporting.palette import IDLE_COLOUR

Cell = Any
"""A text, `Markup`, or a pair of a text and the number that it stands for."""


@dataclass
class Page:
    """What sections add to beside their markup: charts, by the id of their element."""

    charts: dict[str, dict[str, Any]] = field(default_factory=dict)


def number(text: str, value: float | int | None) -> Markup:
    """A number for people that programs can read too."""
    return Markup(text) if value is None else element("data", text, value=repr(value))


def table(
    head: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str, texts: Sequence[int] = (0,), class_: str = ""
) -> Markup:
    """A table whose first column heads its rows; the columns `texts` are aligned left, the others are numbers."""

    def align(i: int) -> str | None:
        return None if i in texts else "n"

    body = [
        element(
            "tr",
            *(
                element("th", _cell(cell), scope="row") if i == 0 else element("td", _cell(cell), class_=align(i))
                for i, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    heads = element("tr", *(element("th", text, scope="col", class_=align(i)) for i, text in enumerate(head)))
    inner = element(
        "table", element("caption", caption), element("thead", heads), element("tbody", *body), class_=class_ or None
    )
    # Wide tables scroll in a frame of their own; the script lets the keyboard reach those that do.
    return element("div", inner, class_="scroll")


def _cell(cell: Cell) -> Any:
    return number(*cell) if isinstance(cell, tuple) else cell


def facts(rows: Sequence[tuple[str, str]]) -> Markup:
    """Labels and what is said of each."""
    return element(
        "dl",
        *(element("div", element("dt", label), element("dd", *_lines(texts))) for label, texts in _grouped(rows)),
        class_="facts",
    )


def _grouped(rows: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Rows without a label belong to the one above."""
    found: list[tuple[str, list[str]]] = []
    for label, text in rows:
        if label:
            found.append((label, [text]))
        else:
            found[-1][1].append(text)
    return found


def _lines(texts: list[str]) -> list[Markup]:
    return [element("span", text, class_="line") for text in texts]


@dataclass(frozen=True)
class Part:
    """A part of a whole: its name, size and colour."""

    name: str
    size: float
    colour: str = IDLE_COLOUR


def bar(parts: Sequence[Part], whole: float, *, label: str | None = None) -> Markup:
    """Parts side by side, as wide as their shares of `whole`; with a `label` it is a picture of its own, else it only
    repeats what is beside it.
    """
    pieces = [
        element("span", style=f"width:{100 * p.size / whole:.3f}%;background:{p.colour}", title=_share(p, whole))
        for p in parts
        if whole > 0 and p.size / whole >= 0.0005
    ]
    if label is None:
        return element("div", *pieces, class_="bar", aria_hidden="true")
    return element("div", *pieces, class_="bar", role="img", aria_label=label)


def strip(title: str, parts: Sequence[Part], whole: float, texts: Sequence[str] = ()) -> Markup:
    """A bar with a legend that has the shares, and `texts` in place of their sizes where given."""
    said = [f"{p.name} {percent(p.size / whole)}" for p in parts] if whole > 0 else []
    keys = []
    for i, p in enumerate(parts):
        more = f" ({texts[i]})" if texts and texts[i] else ""
        swatch = element("span", class_="swatch", style=f"background:{p.colour}", aria_hidden="true")
        keys.append(element("li", swatch, f"{p.name} ", element("b", percent(p.size / whole if whole else 0)), more))
    return element(
        "figure",
        element("figcaption", title),
        bar(parts, whole, label=f"{title}: {', '.join(said)}"),
        element("ul", *keys, class_="legend"),
        class_="strip",
    )


def _share(p: Part, whole: float) -> str:
    return f"{p.name} {percent(p.size / whole)}"


def chart(page: Page, name: str, content: dict[str, Any], *, label: str, caption: Any, numbers: Markup) -> Markup:
    """A chart that the page's script draws, what it shows in words, and its numbers as a table to unfold."""
    page.charts[name] = content
    height = content["layout"]["height"]
    return element(
        "figure",
        element("div", class_="chart", id=name, role="img", aria_label=label, style=f"min-height:{height}px"),
        element("figcaption", caption),
        element("details", element("summary", f"Numbers: {label}"), numbers, class_="numbers"),
    )


def section(level: int, name: str, title: str, *children: Any) -> Markup:
    """A section with a heading that the page's list of contents can lead to."""
    return element(
        "section", element(f"h{level}", title, id=f"{name}-title"), *children, id=name, aria_labelledby=f"{name}-title"
    )


def bullets(texts: Sequence[str]) -> Markup:
    return element("ul", *(element("li", text) for text in texts), class_="notes")


def paragraph(*children: Any, class_: str | None = None) -> Markup:
    return element("p", *children, class_=class_)


def together(*children: Any) -> Markup:
    return join(children)
