"""The page: its layout in Dash, and the wires from its controls to `assets/explore.js`.

Dash draws the controls and tells the script which of them moved; the script asks the server for an answer, one at a
time, and puts the panels in place. The server keeps no state of a page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulator.exploring.controls import CHOICE, CONTROLS, COUNT, OCTAVES, SLIDERS, Control, choices
from simulator.exploring.state import Start
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


def build_app(start: Start) -> Any:
    """The Dash application of a page that begins with `start`; its assets are all served by itself."""
    from importlib import import_module

    dash: Any = import_module("dash")  # its stubs know no attributes such as aria-label
    html, dcc, Input, Output = dash.html, dash.dcc, dash.Input, dash.Output
    app = dash.Dash(
        "kinesim",
        title="kinesim explore",
        update_title=None,
        assets_folder=str(Path(__file__).parent / "assets"),
        serve_locally=True,
        compress=False,
    )
    app.index_string = _index()
    app.layout = html.Div(
        [
            html.A("To the results", href="#results", className="skip"),
            html.Header(
                [
                    html.H1("kinesim explore"),
                    html.Span(id="where"),
                    html.Span([_button(html, key) for key in ACTIONS], className="actions"),
                ]
            ),
            html.Div(id="problem", role="alert", hidden=True),
            html.Div(id="status", role="status", **{"aria-live": "polite"}),
            html.Div(
                [
                    html.Div([_group(html, dcc, name) for name in _groups()], className="controls", role="form",
                             **{"aria-label": "Controls"}),
                    html.Main(
                        [
                            html.Div(id="headline"),
                            html.Div(id="simulated", **{"aria-live": "polite"}),
                            *(
                                html.Section([html.H2(title, id=f"title-{key}"), html.Div(id=key, className="panel")],
                                             className=f"box box-{key}", **{"aria-labelledby": f"title-{key}"})
                                for key, title in PANELS.items()
                            ),
                        ],
                        id="results", tabIndex=-1,
                    ),
                ],
                className="columns",
            ),
            dcc.Store(id="moved"),
            dcc.Store(id="pressed"),
        ]
    )  # fmt: skip
    inputs = [Input(part, "value") for key in SLIDERS for part in _parts(key)]
    app.clientside_callback(
        dash.ClientsideFunction(namespace="explore", function_name="moved"), Output("moved", "data"), *inputs
    )
    app.clientside_callback(
        dash.ClientsideFunction(namespace="explore", function_name="pressed"),
        Output("pressed", "data"),
        *(Input(f"do-{key}", "n_clicks") for key in ACTIONS),
        prevent_initial_call=True,
    )
    return app


def _index() -> str:
    """Dash's frame of the page, with the colours that reports have."""
    colours = {f"bound-{name}": colour for name, colour in BOUND_COLOURS.items()}
    colours |= {f"memory-{name}": colour for name, colour in MEMORY_COLOURS.items()}
    colours |= {"accent": ACCENT, "idle": IDLE_COLOUR}
    rules = [".b-rest{background:var(--idle)} .b-accent{background:var(--accent)}"]
    rules += [f".b-{name}{{background:{colour}}} .f-{name}{{fill:{colour}}}" for name, colour in BOUND_COLOURS.items()]
    rules += [f".m-{name}{{background:{colour}}}" for name, colour in MEMORY_COLOURS.items()]
    root = ";".join(f"--{name}:{colour}" for name, colour in colours.items())
    return (
        '<!DOCTYPE html><html lang="en"><head>{%metas%}<title>{%title%}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"{{%css%}}<style>:root{{{root}}} {' '.join(rules)}</style></head>"
        "<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body></html>"
    )


def _groups() -> dict[str, None]:
    return dict.fromkeys(control.group for control in CONTROLS.values())


def _parts(key: str) -> list[str]:
    """Ids of the elements that a control is made of."""
    return [f"text-{key}", f"slide-{key}"] if key in SLIDERS else [f"pick-{key}"]


def _button(html: Any, key: str) -> Any:
    return html.Button(ACTIONS[key], id=f"do-{key}", hidden=key == "cancel", className="main" if key == "run" else "")


def _group(html: Any, dcc: Any, name: str) -> Any:
    rows = [_row(html, dcc, control) for control in CONTROLS.values() if control.group == name]
    return html.Details([html.Summary(name), *rows], open=name in OPEN)


def _row(html: Any, dcc: Any, control: Control) -> Any:
    """A control with its label and a place for what is wrong with it."""
    key = control.key
    error = html.Div(id=f"wrong-{key}", className="wrong", role="alert")
    label = html.Label(control.label, htmlFor=_parts(key)[0], title=control.title or None)
    if control.kind == CHOICE:  # a plain select, which every browser makes usable; the script listens to it
        options = [html.Option(one or AS_GIVEN, value=one) for one in ("", *choices()[key])]
        return html.Div([label, html.Select(options, id=f"pick-{key}"), error], className="row pick", id=f"row-{key}")
    whole = control.kind == COUNT and key != "sms"
    slide = dcc.Input(
        id=f"slide-{key}", type="range", value=0, step=0.125 if whole else 0.05,
        min=0 if whole else -OCTAVES, max=_octaves(control.high) if whole else OCTAVES,
    )  # fmt: skip
    text = dcc.Input(id=f"text-{key}", type="text", debounce=True, value="", maxLength=40, spellCheck=False)
    named = html.Label(f"{control.label}, slider", htmlFor=f"slide-{key}", className="hidden")
    return html.Div([label, named, slide, text, error], className="row", id=f"row-{key}")


def _octaves(count: int) -> int:
    return (count - 1).bit_length()
