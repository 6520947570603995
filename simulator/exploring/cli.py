"""`kinesim explore`: its options, what is checked before the page is served, and what is said."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from simulator.clioptions import Sets

PORT = 8050


def explore(
    scenario: Annotated[
        str, typer.Argument(metavar="SCENARIO", help="A bundled scenario's name or a YAML file to begin with.")
    ] = "aime24-best-of-32",
    sets: Sets = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 for any that is free.")] = PORT,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """A live page on this machine: move a GPU's figures, the model, the batch, and see what a step costs."""
    from simulator.deployment import single_steps
    from simulator.exploring.server import HOST, open_socket, serve
    from simulator.exploring.state import Start, check_shown
    from simulator.printing import tell
    from workloads.scenario import load_scenario

    start = Start(scenario, tuple(sets or ()))
    loaded = load_scenario(scenario, start.sets)
    check_shown(loaded)
    single_steps(loaded)
    listener = open_socket(port)
    address = f"http://{HOST}:{listener.getsockname()[1]}/"
    tell(f"exploring {scenario} on {address}; Ctrl-C ends it")
    if open_page and _has_screen():
        import webbrowser

        webbrowser.open(address)
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a page that goes away while it is answered ends nothing
    serve(start, listener)


def _has_screen() -> bool:
    """Whether a browser could show a page; else one might open inside the terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
