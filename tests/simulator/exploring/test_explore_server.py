"""The server as a process: what it answers, to whom, and how it ends."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from simulator.exploring.runs import LOST, Runs
from simulator.exploring.server import build_server
from simulator.exploring.state import Start
from workloads.scenario import load_scenario

SMALL = {"name": "small", "gpu": "h200-sxm", "model": "Qwen/Qwen3-8B", "workload": {
    "strategy": {"kind": "chat"}, "requests": 20, "prompt_tokens": 100, "output_tokens": 100}}  # fmt: skip
LONG = {**SMALL, "workload": {**SMALL["workload"], "requests": 400_000, "arrivals": {"kind": "poisson", "rate": 5}}}  # type: ignore[dict-item]


class Server:
    """`kinesim explore` on a free port."""

    def __init__(self, command: Any, environment: dict[str, str], *arguments: str) -> None:
        words = command("explore", *arguments, "--port", "0", "--no-open")
        self.process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.said)
        assert found, self.said
        self.port = int(found[1])

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, str]:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        if body is None:
            line.request("GET", path, headers=headers)
        else:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            line.request("POST", path, data, {"Content-Type": "application/json", **headers})
        reply = line.getresponse()
        text = reply.read().decode()
        line.close()
        return reply.status, text

    def answer(self, **moves: str) -> dict[str, Any]:
        status, text = self.ask("/answer", {"moves": moves})
        assert status == 200, text
        found: dict[str, Any] = json.loads(text)
        return found

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    import os
    import sys
    from pathlib import Path

    root = Path(__file__).resolve().parents[3]
    found = Server(
        lambda *words: [sys.executable, "-m", "simulator.cli", *words], {**os.environ, "PYTHONPATH": str(root)}
    )
    yield found
    code = found.end()
    assert code == 0, f"Ctrl-C, the way to end it, ended it with {code}"


def test_it_answers_moves(server: Server) -> None:
    slow, fast = server.answer(), server.answer(hbm="9.6 TB/s")
    assert fast["query"] == "hbm=9.6+TB/s"
    assert fast["sliders"]["hbm"] == ["9.6 TB/s", 1.0]
    assert slow["panels"]["headline"] != fast["panels"]["headline"]
    assert set(slow["panels"]) == {"headline", "roofline", "steps", "capacity", "law", "elastic", "basis"}
    wrong = server.answer(hbm="9.6", gpu="b200-sxm")
    assert "a unit is missing" in wrong["errors"]["hbm"]
    assert wrong["choices"]["gpu"] == "b200-sxm" and wrong["sliders"]["hbm"][0] == "9.6"
    _, text = server.ask("/elastic", {"moves": {}})
    assert "…" in slow["panels"]["elastic"] and "…" not in json.loads(text)["panels"]["elastic"]
    assert json.loads(text)["panels"]["elastic"].count("<small>± 0.") == 4  # SMs and L2, decode and prefill
    _, text = server.ask("/yaml", {"moves": {"tensor": "2"}})
    assert "bf16: 1979000000000000.0 FLOP/s" in json.loads(text)["yaml"]


def test_two_browsers_at_once_get_their_own_answers(server: Server) -> None:
    texts = [f"{4 + i / 10:.1f} TB/s" for i in range(12)]
    alone = [server.answer(hbm=text)["panels"] for text in texts]
    found: dict[int, Any] = {}

    def browser(mine: range) -> None:
        for i in mine:
            found[i] = server.answer(hbm=texts[i])["panels"]

    threads = [threading.Thread(target=browser, args=(range(k, len(texts), 2),)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(texts))] == alone


def test_pages_that_go_away_while_they_are_answered_end_nothing(server: Server) -> None:
    body = json.dumps({"moves": {}}).encode()
    head = f"POST /answer HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
            line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    time.sleep(0.3)
    assert "panels" in server.answer()


def test_only_the_page_itself_may_ask(server: Server) -> None:
    body: dict[str, Any] = {"moves": {}}
    assert server.ask("/", Host="evil.example")[0] == 403  # DNS rebinding
    assert server.ask("/answer", body, Host=f"evil.example:{server.port}")[0] == 403
    assert server.ask("/answer", body, Origin="http://evil.example")[0] == 403
    assert server.ask("/answer", body, Origin=f"http://127.0.0.1:{server.port}")[0] == 200
    assert server.ask("/answer", body, Host=f"localhost:{server.port}")[0] == 200
    assert server.ask("/answer", b"{}", **{"Content-Type": "text/plain"})[0] == 415
    assert server.ask("/answer", b"{")[0] == 400
    assert server.ask("/answer", b"[]")[0] == 400
    assert server.ask("/answer", b"{" + b" " * 30_000 + b"}")[0] in (400, 413)
    assert server.ask("/report/none")[0] == 404
    assert "errors" in json.loads(server.ask("/answer", {"moves": 3})[1])
    assert "errors" in json.loads(server.ask("/parse", {"query": "?foo=1"})[1])
    assert json.loads(server.ask("/progress", {"id": "none"})[1])["running"] is False


def test_on_the_usual_port_browsers_do_not_say_it() -> None:
    client = build_server(Start("chat-poisson"), Runs(), 80).test_client()
    for host, status in (("127.0.0.1", 200), ("localhost", 200), ("localhost:80", 200), ("evil.example", 403)):
        assert client.get("/", headers={"Host": host}).status_code == status


def test_nothing_listens_beyond_this_machine(server: Server) -> None:
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    except socket.gaierror:
        pytest.skip("this machine's own name is not known to it")
    for address in addresses - {"127.0.0.1"}:
        with pytest.raises(OSError), socket.create_connection((address, server.port), timeout=2):
            pass


def test_a_port_in_use_is_said(server: Server, kinesim_process: Any) -> None:
    done = kinesim_process("explore", "--no-open", "--port", str(server.port))
    assert done.code == 2
    assert done.err.startswith(
        f"kinesim: --port: cannot listen on port {server.port} of 127.0.0.1 (Address already in use); found"
    )
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("deepseek-r1-gb200-rack",), "one engine"),
        (("aime24-best-of-3",), "unknown scenario"),
        (("--set", "gpu.memory.bandwith=1 TB/s"), "did you mean"),
        (("--set", "model=deepseek-r1"), "at least 8 GPUs"),
        (("--port", "70000"), "70000"),
    ],
)
def test_bad_beginnings_are_said(arguments: tuple[str, ...], part: str, kinesim: Any) -> None:
    done = kinesim("explore", "--no-open", *arguments)
    assert done.code == 2
    assert part in done.err and "Traceback" not in done.err


def test_runs_end_with_a_result_or_when_told_to() -> None:
    runs = Runs(most=2)
    small = runs.start(load_scenario(SMALL).to_dict(), {"batch": "8"})
    long = runs.start(load_scenario(LONG).to_dict(), {})
    with pytest.raises(ValueError, match="enough simulations run already; found 2"):
        runs.start(load_scenario(SMALL).to_dict(), {})
    process, deadline = runs._runs[long].process, time.monotonic() + 60
    while (run := runs.ask(small)) is not None and run.running and time.monotonic() < deadline:
        time.sleep(0.05)
    assert run is not None and run.found is not None, run
    assert run.query == "batch=8"
    assert run.found["headline"]["makespan_s"] > 0
    assert run.found["report"].startswith("<!doctype html>")
    while (run := runs.ask(long)) is not None and not run.done and time.monotonic() < deadline:
        time.sleep(0.05)
    assert run is not None and 0 < run.done < run.total == 400_000
    runs.cancel(long)
    assert runs.ask(long) is None and not process.is_alive()
    lost = runs.start(load_scenario(LONG).to_dict(), {})
    process = runs._runs[lost].process
    for name in (small, lost):
        runs._runs[name].asked -= LOST + 1  # as if nobody had asked for so long
    assert runs.ask(lost) is None and not process.is_alive()
    run = runs.ask(small)
    assert run is not None and run.found is not None  # its report is there as long as the page may show a link to it


def test_a_run_that_fails_or_dies_says_so() -> None:
    runs = Runs()
    try:
        bad = runs.start({**SMALL, "gpu": "h201"}, {})
        dead = runs.start(load_scenario(LONG).to_dict(), {})
        runs._runs[dead].process.kill()
        deadline = time.monotonic() + 60
        for name, words in ((bad, "unknown GPU"), (dead, "ended without a result")):
            while (run := runs.ask(name)) is not None and run.running and time.monotonic() < deadline:
                time.sleep(0.05)
            assert run is not None and run.problem is not None and words in run.problem
        runs._kept = 1
        runs.sweep()
        assert runs.ask(bad) is None and runs.ask(dead) is not None  # the one that was asked about longer ago goes
    finally:
        runs.end()
