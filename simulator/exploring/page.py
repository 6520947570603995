"""The page as it is served: controls with their labels, and the places that `assets/explore.js` fills.

Controls are what every browser knows (range, text, select), so keyboards, screen readers and dark mode work as they do
elsewhere, and a move costs the browser nothing but the drawing of its answer.
"""

from __future__ import annotations

from simulator.exploring.controls import CHOICE, CONTROLS, COUNT, OCTAVES, Control, choices
from simulator.reporting.markup import Markup, element
from simulator.reporting.palette import ACCENT, BOUND_COLOURS, IDLE_COLOUR, MEMORY_COLOURS

OPEN = ("Scenario", "GPU", "Model", "Layout", "Step")
"""Groups of controls that are open at first."""
AS_GIVEN = "as the scenario has it"
PANELS = {
    "roofline": "Roofline",
    "elastic": "What a resource is worth",
    "steps": "Where the time of a step goes",
    "capacity": "Memory of each GPU",
    "law": "The Kinetics law beside the simulated step",
    "basis": "What the times rest on",
}
ACTIONS = {
    "run": "Simulate all of it",
    "cancel": "Cancel",
    "yaml": "Copy as YAML",
    "command": "Copy command",
    "link": "Copy link",
    "reset": "Reset",
}
"""Buttons by id."""


def page() -> str:
    """The whole page; the same for all states."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", "kinesim explore"),
        element("link", rel="icon", href="data:,"),
        element("link", rel="stylesheet", href="/colours.css"),
        element("link", rel="stylesheet", href="/assets/explore.css"),
        element("script", src="/assets/explore.js", defer=True),
    )
    body = element(
        "body",
        element("a", "To the results", href="#results", class_="skip"),
        element(
            "header",
            element("h1", "kinesim explore"),
            element("span", id="where"),
            element("span", map(_button, ACTIONS), class_="actions"),
        ),
        element("div", id="problem", role="alert", hidden=True),
        element("div", id="status", role="status"),
        element(
            "div",
            element("form", map(_group, _groups()), class_="controls", aria_label="Controls", autocomplete="off"),
            element(
                "main",
                element("div", id="headline"),
                element("div", id="simulated"),
                map(_panel, PANELS),
                id="results",
                tabindex="-1",
            ),
            class_="columns",
        ),
    )
    return "<!doctype html>\n" + element("html", head, body, lang="en")


def colours() -> str:
    """A style sheet with the colours that reports have."""
    rules = [f":root{{--bound-host:{BOUND_COLOURS['host']}}}"]
    rules += [f".b-rest{{background:{IDLE_COLOUR}}}", f".b-accent{{background:{ACCENT}}}"]
    rules += [f".b-{name}{{background:{colour}}}.f-{name}{{fill:{colour}}}" for name, colour in BOUND_COLOURS.items()]
    rules += [f".m-{name}{{background:{colour}}}" for name, colour in MEMORY_COLOURS.items()]
    return "\n".join(rules)


def _groups() -> dict[str, None]:
    return dict.fromkeys(control.group for control in CONTROLS.values())


def _button(key: str) -> Markup:
    kind = "main" if key == "run" else None
    return element("button", ACTIONS[key], id=f"do-{key}", type="button", hidden=key == "cancel", class_=kind)


def _panel(key: str) -> Markup:
    title = element("h2", PANELS[key], id=f"title-{key}")
    box = element("div", id=key, class_="panel")
    return element("section", title, box, class_=f"box box-{key}", aria_labelledby=f"title-{key}")


def _group(name: str) -> Markup:
    rows = [_row(control) for control in CONTROLS.values() if control.group == name]
    return element("details", element("summary", name), rows, open=name in OPEN)


def _row(control: Control) -> Markup:
    """A control with its label and a place for what is wrong with it."""
    key, title = control.key, control.title or None
    wrong = element("div", id=f"wrong-{key}", class_="wrong", role="alert")
    about = {"aria_describedby": f"wrong-{key}"}
    if control.kind == CHOICE:
        options = [element("option", one or AS_GIVEN, value=one) for one in ("", *choices()[key])]
        label = element("label", control.label, for_=f"pick-{key}", title=title)
        pick = element("select", options, id=f"pick-{key}", **about)
        return element("div", label, pick, wrong, class_="row pick", id=f"row-{key}")
    whole = control.kind == COUNT and key != "sms"
    label = element("label", control.label, for_=f"text-{key}", title=title)
    slider = element(
        "input", id=f"slide-{key}", type="range", value="0", step="0.125" if whole else "0.05",
        min="0" if whole else f"{-OCTAVES:g}", max=_octaves(control.high) if whole else f"{OCTAVES:g}",
        aria_label=f"{control.label}, slider",
    )  # fmt: skip
    text = element("input", id=f"text-{key}", type="text", maxlength="40", spellcheck="false", **about)
    return element("div", label, slider, text, wrong, class_="row", id=f"row-{key}")


def _octaves(count: int) -> int:
    return (count - 1).bit_length()
