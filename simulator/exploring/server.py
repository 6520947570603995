"""The server of the page: on this machine alone, and for the page that it served alone.

It listens on 127.0.0.1 and answers only to the names of that address, so that a foreign site can neither name it (DNS
rebinding) nor post to it (cross-site requests have another `Origin`, and may not say that they are JSON). Answers
depend on what is asked and on nothing before, but for runs in the background.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hwspecs.errors import InputError
from simulator.exploring.answer import command, document, elastic_document, scenario_yaml, show
from simulator.exploring.controls import CONTROLS, FIGURES, SLIDERS, choices
from simulator.exploring.page import colours, page
from simulator.exploring.panels import elastic_panel, panels
from simulator.exploring.runpanel import run_panel
from simulator.exploring.runs import Runs
from simulator.exploring.state import (
    LONGEST,
    Refused,
    Start,
    View,
    checked_moves,
    chosen,
    parse_query,
    position,
    resolve,
    write_query,
)
from simulator.exploring.texts import SLID

HOST = "127.0.0.1"
LARGEST = 20_000
"""Bytes of a request."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do: run its own script, ask its own server, and nothing else. The widths of bars are styles."""

REPORT_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""A report has all that it needs inside, and asks nobody."""
ASSETS = Path(__file__).parent / "assets"


def open_socket(port: int) -> socket.socket:
    """A socket that listens on a port of this machine, 0 for any that is free. InputError if it is not to be had."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        allowed = "a port that nobody uses, or 0 for any"
        why = os.strerror(error.errno) if error.errno else str(error)  # the error's own text says the address again
        problem = f"cannot listen on port {port} of {HOST} ({why})"
        raise InputError(problem, place="--port", found=port, allowed=allowed) from None


def serve(start: Start, listener: socket.socket) -> None:
    """Answer until interrupted; ends what it started."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # one connection for all moves

        def log(self, type: str, message: str, *args: Any) -> None:
            if type == "error":
                super().log(type, message, *args)

    runs = Runs()
    ended = threading.Event()

    def sweep() -> None:
        while not ended.wait(10):
            runs.sweep()

    port = listener.getsockname()[1]
    app = build_server(start, runs, port)
    server = make_server(HOST, port, app, threaded=True, request_handler=Quiet, fd=listener.fileno())
    threading.Thread(target=sweep, daemon=True).start()
    try:
        server.serve_forever(poll_interval=0.2)
    finally:
        ended.set()
        runs.end()
        server.server_close()


def build_server(start: Start, runs: Runs, port: int) -> Any:
    """The Flask application: the page and its answers."""
    import flask

    app = flask.Flask("kinesim", static_folder=str(ASSETS), static_url_path="/assets")
    app.config["MAX_CONTENT_LENGTH"] = LARGEST
    names = {f"{name}:{port}" for name in (HOST, "localhost")}
    if port == 80:
        names |= {HOST, "localhost"}  # browsers leave out the usual one

    @app.before_request
    def guard() -> Any:
        request = flask.request
        if request.host not in names:
            return flask.Response("kinesim explore answers on this machine only", status=403)
        if request.method == "POST":
            if not request.is_json:
                return flask.Response("JSON only", status=415)
            if request.origin is not None and request.origin not in {f"http://{name}" for name in names}:
                return flask.Response("asked by another site", status=403)
        return None

    @app.after_request
    def harden(response: Any) -> Any:
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    def route(name: str, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        def view() -> Any:
            data = flask.request.get_json(silent=True)
            if not isinstance(data, dict):
                return flask.Response("not a JSON object", status=400)
            try:
                return flask.jsonify(answer(data))
            except Refused as refused:
                return flask.jsonify(refusal(start, data.get("moves"), refused))

        app.add_url_rule(f"/{name}", name, view, methods=["POST"])

    def seen(data: dict[str, Any]) -> View:
        return resolve(start, checked_moves(data.get("moves")))

    def begin(data: dict[str, Any]) -> dict[str, Any]:
        view = seen(data)
        show(view)  # says beside its control what cannot be served
        try:
            return {"id": runs.start(view.scenario.to_dict(), view.moves)}
        except InputError as error:
            return {"problem": error.message()}

    def cancel(data: dict[str, Any]) -> dict[str, Any]:
        runs.cancel(str(data.get("id")))
        return {}

    route("parse", lambda data: {"moves": parse_query(str(data.get("query", "")))})
    route("answer", lambda data: answer_of(seen(data)))
    route(
        "elastic", lambda data: {"panels": {"elastic": elastic_panel(elastic_document(show(seen(data)), quick=False))}}
    )
    route("yaml", lambda data: {"yaml": scenario_yaml(seen(data))})
    route("run", begin)
    route("progress", lambda data: run_panel(str(data.get("id")), runs.ask(str(data.get("id")))))
    route("cancel", cancel)

    @app.get("/")
    def index() -> Any:
        return flask.Response(page(), mimetype="text/html")

    @app.get("/colours.css")
    def palette() -> Any:
        return flask.Response(colours(), mimetype="text/css")

    @app.get("/report/<name>")
    def report(name: str) -> Any:
        run = runs.ask(name)
        if run is None or run.found is None:
            return flask.Response("this report is gone: simulate again", status=404)
        reply = flask.Response(run.found["report"], mimetype="text/html")
        reply.headers["Content-Security-Policy"] = REPORT_POLICY
        return reply

    return app


def answer_of(view: View) -> dict[str, Any]:
    """All that changes on the page with a move."""
    shown = show(view)
    doc = document(shown)
    state = doc["state"]
    return {
        "moves": state["moves"],
        "query": state["query"],
        "sliders": state["sliders"],
        "choices": state["choices"],
        "possible": state["possible"],
        "figures": FIGURES,
        "where": where(doc),
        "command": command(view),
        "panels": panels(doc, elastic_document(shown, quick=True)),
    }


def where(doc: dict[str, Any]) -> str:
    """What is shown, in a line."""
    said = doc["scenario"]
    gpus = "" if said["gpus"] == 1 else f"{said['gpus']} x "
    return f"{said['model']} on {gpus}{said['gpu']}" + ("" if said["gpus"] == 1 else f", {said['layout']}")


def refusal(start: Start, data: object, refused: Refused) -> dict[str, Any]:
    """What the page needs of a state that cannot be shown: the messages, and the controls as they are, to be mended."""
    given = data if isinstance(data, Mapping) else {}
    moves = {key: str(given[key])[:LONGEST] for key in CONTROLS if key in given}
    try:
        base = resolve(start, {key: moves[key] for key in ("scenario",) if key in moves})
    except Refused:
        base = resolve(start, {})
    sliders = {key: position(base, key) for key in SLIDERS}
    sliders |= {
        key: (text, sliders[key][1]) for key, text in moves.items() if key in SLIDERS and not text.startswith(SLID)
    }
    picks = {key: text for key, text in moves.items() if text in choices().get(key, ())}
    return {
        "errors": refused.messages,
        "query": write_query(moves),
        "sliders": sliders,
        "choices": chosen(base) | picks,
    }
