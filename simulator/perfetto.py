"""The run as a trace for https://ui.perfetto.dev (Chrome's JSON trace format, times in microseconds).

A replica is a process: a track of its macro-steps, counters of batch size, KV use and queue, and, in lanes, its
requests from their first token on, with their preemptions; of prefill and decode workers the latter show them. Long
runs are thinned: evenly spaced requests and the longest macro-steps are kept, and the trace says so in its metadata and
in the name of the process.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from simulator.policy import Status
from simulator.result import Result

MAX_STEPS = 20_000
MAX_REQUESTS = 5_000
_STEPS_TRACK = 1
_FIRST_LANE = 10


def trace_bytes(result: Result, max_steps: int = MAX_STEPS, max_requests: int = MAX_REQUESTS) -> bytes:
    """The trace as UTF-8 JSON."""
    runs, requests = result.timeline, result.requests
    step_rows = np.arange(len(runs))
    if len(runs) > max_steps:
        step_rows = np.sort(np.argsort(-runs["duration_s"], kind="stable")[:max_steps])
    shown = np.flatnonzero(requests["replica"] >= 0)
    if len(shown) > max_requests:
        shown = shown[np.linspace(0, len(shown) - 1, max_requests).astype(int)]
    thinned = []
    if len(step_rows) < len(runs):
        thinned.append(f"the {len(step_rows)} longest of {len(runs)} macro-steps")
    if len(shown) < int((requests["replica"] >= 0).sum()):
        thinned.append(f"{len(shown)} of {int((requests['replica'] >= 0).sum())} requests")
    note = f" (thinned: {', '.join(thinned)})" if thinned else ""
    events: list[dict[str, Any]] = []
    used = np.unique(np.concatenate([runs["replica"][step_rows], requests["replica"][shown]])).astype(int)
    for replica in used.tolist():
        events.append(_meta("process_name", replica, 0, f"{_name(result, replica)}{note}"))
        events.append(_meta("thread_name", replica, _STEPS_TRACK, "engine steps"))
    for i in step_rows.tolist():
        events += _step_events(runs, i, _facts(result, int(runs["replica"][i]))["memory"]["kv_blocks"])
    events += _request_events(result, shown)
    document = {
        "displayTimeUnit": "ms",
        "otherData": {"tool": "kinesim", "scenario": result.scenario.get("name", ""), "thinned": note.strip() or "no"},
        "traceEvents": events,
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def _prefill_workers(result: Result) -> int:
    """The first replicas, if prefill and decode have workers of their own."""
    pools = result.summary.get("pools")
    return pools["prefill"]["workers"] if pools else 0


def _facts(result: Result, replica: int) -> dict[str, Any]:
    """What is known of the deployment that a replica belongs to."""
    pools = result.deployment.get("pools")
    if pools is None:
        return result.deployment
    facts: dict[str, Any] = pools["prefill" if replica < _prefill_workers(result) else "decode"]
    return facts


def _name(result: Result, replica: int) -> str:
    workers = _prefill_workers(result)
    if not workers:
        return f"replica {replica}"
    return f"prefill worker {replica}" if replica < workers else f"decode worker {replica - workers}"


def _meta(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _step_events(runs: Any, i: int, blocks: int) -> list[dict[str, Any]]:
    pid, start = int(runs["replica"][i]), float(runs["start_s"][i]) * 1e6
    seqs, chunk, steps = int(runs["decode_seqs"][i]), int(runs["prefill_tokens"][i]), int(runs["steps"][i])
    name = "mixed" if chunk and seqs else "prefill" if chunk else "decode"
    shape = {
        "steps": steps,
        "decode_seqs": seqs,
        "prefill_tokens": chunk,
        "first_step_ms": float(runs["first_step_s"][i]) * 1e3,
        "last_step_ms": float(runs["last_step_s"][i]) * 1e3,
    }
    counters = {
        "batch": {"sequences": seqs + int(runs["prefill_seqs"][i])},
        "KV use": {"percent": 100 * float(runs["kv_blocks"][i]) / blocks},
        "waiting": {"requests": int(runs["waiting"][i])},
    }
    events: list[dict[str, Any]] = [
        {"ph": "X", "name": f"{name} x{steps}" if steps > 1 else name, "cat": "step", "pid": pid, "tid": _STEPS_TRACK,
         "ts": start, "dur": float(runs["duration_s"][i]) * 1e6, "args": shape}
    ]  # fmt: skip
    events += [
        {"ph": "C", "name": key, "pid": pid, "tid": 0, "ts": start, "args": value} for key, value in counters.items()
    ]
    return events


def _request_events(result: Result, shown: np.ndarray) -> list[dict[str, Any]]:
    """A slice a request from its first token on, in the first lane of its replica that is free; preemptions inside it.

    What came before the first token is in the slice's arguments: queues would need a lane for every waiting request.
    """
    requests = result.requests
    interruptions: dict[int, list[tuple[float, float]]] = {}
    for index, start, end in result.gaps.tolist():
        last = end if end == end else float(requests["finish_s"][int(index)])  # aborted before it went on
        interruptions.setdefault(int(index), []).append((start * 1e6, last * 1e6))
    events: list[dict[str, Any]] = []
    lanes: dict[int, list[float]] = {}
    started = shown[np.isfinite(requests["first_token_s"][shown])]
    for i in started[np.argsort(requests["first_token_s"][started], kind="stable")].tolist():
        pid = int(requests["replica"][i])
        start, end = float(requests["first_token_s"][i]) * 1e6, float(requests["finish_s"][i]) * 1e6
        ends = lanes.setdefault(pid, [])
        lane = next((k for k, busy in enumerate(ends) if busy <= start), len(ends))
        if lane == len(ends):
            ends.append(end)
            events.append(_meta("thread_name", pid, _FIRST_LANE + lane, f"requests, lane {lane}"))
        ends[lane] = end
        common = {"ph": "X", "cat": "request", "pid": pid, "tid": _FIRST_LANE + lane}
        args = {
            "problem": int(requests["job"][i]),
            "prompt_tokens": int(requests["prompt_tokens"][i]),
            "generated": int(requests["generated"][i]),
            "status": Status(int(requests["status"][i])).name.lower(),
            "ttft_s": float(requests["first_token_s"][i] - requests["submitted_s"][i]),
            "preemptions": int(requests["preemptions"][i]),
        }
        events.append(common | {"name": f"request {i}", "ts": start, "dur": end - start, "args": args})
        for begun, over in interruptions.get(i, ()):
            events.append(common | {"name": "preempted", "ts": begun, "dur": over - begun, "args": {"request": i}})
    return events
