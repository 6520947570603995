"""The Perfetto trace: valid events, tracks whose slices nest, and an honest note where something was left out."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
import pytest

from simulator.perfetto import trace_bytes
from simulator.result import Result
from simulator.running import run_scenario
from workloads.scenario import load_scenario

NANOSECOND = 1e-3  # in the trace's microseconds; what is shorter is below its resolution

LENGTHS = {
    "prompt_tokens": {"kind": "uniform", "low": 20, "high": 300},
    "output_tokens": {"kind": "uniform", "low": 1, "high": 200},
}
SCENARIOS: dict[str, dict[str, Any]] = {
    "chat": {
        "workload": {"strategy": "chat", "requests": 50, **LENGTHS, "arrivals": {"kind": "poisson", "rate": "40 /s"}}
    },
    "starved": {
        "gpu": {"base": "h200-sxm", "memory": {"capacity": "3.45 GB"}},
        "engine": {"max_num_batched_tokens": 512, "max_model_len": 420, "max_num_seqs": 64},
        "workload": {"strategy": "chat", "requests": 60, **LENGTHS, "timeout": "0.25 s"},
    },
    "replicas": {"replicas": 3, "workload": {"strategy": "chat", "requests": 30, **LENGTHS}},
    "long ago": {
        "workload": {"strategy": "chat", "requests": 200, **LENGTHS, "arrivals": {"kind": "poisson", "rate": "0.01 /s"}}
    },
}
BASE = {"gpu": "h200-sxm", "model": "Qwen/Qwen3-0.6B", "engine": {"max_num_batched_tokens": 512}, "seed": 11}


@cache
def result(name: str) -> Result:
    return run_scenario(load_scenario(BASE | SCENARIOS[name]))


def trace(name: str, **limits: int) -> dict[str, Any]:
    return json.loads(trace_bytes(result(name), **limits))


def number(event: dict[str, Any]) -> int:
    """Which request an event is about."""
    name = event["name"]
    return int(name.removeprefix("request ")) if name.startswith("request ") else event["args"]["request"]


def slices(document: dict[str, Any]) -> dict[tuple[int, int], list[tuple[float, float]]]:
    """(start, end) of the slices of each track, in order of start, the longest first."""
    tracks = defaultdict(list)
    for event in document["traceEvents"]:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    return {track: sorted(spans, key=lambda span: (span[0], -span[1])) for track, spans in tracks.items()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_events_have_what_the_format_asks_for(name: str) -> None:
    document = trace(name)
    end = float(result(name).requests["finish_s"].max()) * 1e6
    assert document["displayTimeUnit"] in ("ms", "ns")
    for event in document["traceEvents"]:
        assert event["ph"] in ("M", "X", "C")
        assert isinstance(event["name"], str) and event["name"]
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name") and event["args"]["name"]
            continue
        assert 0 <= event["ts"] <= end
        if event["ph"] == "X":
            assert event["dur"] >= 0 and event["ts"] + event["dur"] <= end + NANOSECOND
        else:
            assert event["args"] and all(isinstance(value, int | float) for value in event["args"].values())


@pytest.mark.parametrize("name", SCENARIOS)
def test_slices_of_a_track_nest(name: str) -> None:
    for track, spans in slices(trace(name)).items():
        open_until: list[float] = []
        for start, end in spans:
            while open_until and open_until[-1] <= start + NANOSECOND:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + NANOSECOND, track
            open_until.append(end)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_macro_step_is_there(name: str) -> None:
    timeline, document = result(name).timeline, trace(name)
    steps = [event for event in document["traceEvents"] if event["ph"] == "X" and event["cat"] == "step"]
    assert len(steps) == len(timeline)
    assert [event["pid"] for event in steps] == timeline["replica"].astype(int).tolist()
    assert [event["dur"] for event in steps] == pytest.approx((timeline["duration_s"] * 1e6).tolist())
    assert [event["args"]["decode_seqs"] for event in steps] == timeline["decode_seqs"].tolist()
    assert len({event["tid"] for event in steps}) == 1
    for event in steps:
        chunk, seqs = event["args"]["prefill_tokens"], event["args"]["decode_seqs"]
        assert event["name"].startswith("mixed" if chunk and seqs else "prefill" if chunk else "decode")
    percent = [e["args"]["percent"] for e in document["traceEvents"] if e["ph"] == "C" and e["name"] == "KV use"]
    assert len(percent) == len(timeline) and 0 < max(percent) <= 100


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_request_with_a_token_is_there(name: str) -> None:
    requests, document = result(name).requests, trace(name)
    found = {
        number(event): event
        for event in document["traceEvents"]
        if event["ph"] == "X" and event["cat"] == "request" and event["name"] != "preempted"
    }
    assert sorted(found) == np.flatnonzero(np.isfinite(requests["first_token_s"])).tolist()
    for index, event in found.items():
        assert event["pid"] == requests["replica"][index]
        assert event["args"]["generated"] == requests["generated"][index]
        assert event["ts"] == pytest.approx(requests["first_token_s"][index] * 1e6)
        assert event["ts"] + event["dur"] == pytest.approx(requests["finish_s"][index] * 1e6)


def test_preemptions_are_shown_inside_their_request() -> None:
    document = trace("starved")
    gaps = [event for event in document["traceEvents"] if event["name"] == "preempted"]
    assert len(gaps) == len(result("starved").gaps) > 0
    tracks = {
        number(event): (event["pid"], event["tid"], event["ts"], event["ts"] + event["dur"])
        for event in document["traceEvents"]
        if event["ph"] == "X" and event["cat"] == "request" and event["name"] != "preempted"
    }
    for gap in gaps:
        pid, tid, start, end = tracks[gap["args"]["request"]]
        assert (gap["pid"], gap["tid"]) == (pid, tid)
        assert start - NANOSECOND <= gap["ts"] and gap["ts"] + gap["dur"] <= end + NANOSECOND


def test_replicas_are_processes() -> None:
    events = trace("replicas")["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {0: "replica 0", 1: "replica 1", 2: "replica 2"}
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    assert set(slices(trace("replicas"))) == named


@pytest.mark.parametrize("name", SCENARIOS)
def test_whole_traces_say_so(name: str) -> None:
    document = trace(name)
    assert document["otherData"]["thinned"] == "no"
    assert not any("thinned" in str(event["args"]) for event in document["traceEvents"] if event["ph"] == "M")


def test_thinned_traces_say_what_is_left() -> None:
    document = trace("chat", max_steps=10, max_requests=7)
    timeline = result("chat").timeline
    steps = [event for event in document["traceEvents"] if event["ph"] == "X" and event["cat"] == "step"]
    requests = {number(event) for event in document["traceEvents"] if event.get("cat") == "request"}
    assert len(steps) == 10 and len(requests) == 7
    assert min(event["dur"] for event in steps) == pytest.approx(np.sort(timeline["duration_s"])[-10] * 1e6)
    note = document["otherData"]["thinned"]
    assert f"10 longest of {len(timeline)} macro-steps" in note and "7 of 50 requests" in note
    process = next(event for event in document["traceEvents"] if event["name"] == "process_name")
    assert note in process["args"]["name"]
    for spans in slices(document).values():
        assert spans == sorted(spans)
