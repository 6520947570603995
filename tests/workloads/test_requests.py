"""Requests: what a workload becomes, its invariants, and that one thing changed leaves the others alone."""

from __future__ import annotations

import json
import time
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.requests import Requests, generate
from workloads.scenario import Workload

LONG = {"kind": "lognormal", "median": 500, "sigma": 1.0, "max": 4000}


def workload(**changes: object) -> Workload:
    base = {"strategy": "chat", "requests": 50, "prompt_tokens": LONG, "output_tokens": LONG}
    return Workload.model_validate(base | changes)


def same(a: Requests, b: Requests, *, but: tuple[str, ...] = ()) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Requests) if f.name not in but)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    strategy = draw(
        st.sampled_from(
            [
                {"kind": "chat"},
                {"kind": "long_cot", "budget": 300, "forced_end_tokens": 20},
                {"kind": "best_of_n", "samples": 1},
                {"kind": "best_of_n", "samples": 5, "acceptance": 0.5, "stop_on_accept": True},
            ]
        )
    )
    arrivals = draw(
        st.sampled_from(
            [
                None,
                "all_at_once",
                {"kind": "poisson", "rate": 3},
                {"kind": "gamma", "rate": 3, "cv": 2},
                {"kind": "closed_loop", "concurrency": 3, "think_time": "1 s"},
            ]
        )
    )
    priority = draw(st.none() | st.just({"values": [0, 1, 5], "weights": [1, 1, 2]}))
    timeout = draw(st.none() | st.just("30 s"))
    jobs = draw(st.integers(1, 30))
    return workload(strategy=strategy, arrivals=arrivals, priority=priority, timeout=timeout, requests=jobs)


@given(workloads(), st.integers(0, 2**63 - 1))
def test_what_is_generated(load: Workload, seed: int) -> None:
    requests = generate(load, seed)  # checks the invariants of Requests
    assert same(requests, generate(load, seed))
    samples = getattr(load.strategy, "samples", 1)
    assert requests.n_jobs == load.requests and requests.n == load.requests * samples
    ptr = requests.job_ptr()
    assert ptr.tolist() == list(range(0, requests.n + 1, samples))
    for first, last in pairwise(ptr):
        for name in ("prompt_tokens", "priority", "session", "job"):
            assert len(set(getattr(requests, name)[first:last].tolist())) == 1
    if load.strategy.kind == "best_of_n":
        assert requests.prefix_id.tolist() == requests.job.tolist()
        assert requests.prefix_tokens.tolist() == requests.prompt_tokens.tolist()
    else:
        assert len(requests.prefix_id) == 0 and not requests.accepted.any()
    closed = load.arrivals is not None and load.arrivals.kind == "closed_loop"
    assert (requests.concurrency, requests.think_time_s) == ((3, 1.0) if closed else (None, 0.0))
    assert requests.timeout_s == load.timeout


def test_streams_are_independent() -> None:
    base = workload(arrivals={"kind": "poisson", "rate": 3})
    was = generate(base, 7)
    now = generate(base.model_copy(update={"prompt_tokens": workload(prompt_tokens=9).prompt_tokens}), 7)
    assert same(was, now, but=("prompt_tokens",)) and not same(was, now)
    now = generate(workload(arrivals={"kind": "gamma", "rate": 3, "cv": 2}), 7)
    assert same(was, now, but=("job_arrival_s",)) and not same(was, now)
    now = generate(workload(arrivals={"kind": "poisson", "rate": 3}, priority={"values": [1, 2]}), 7)
    assert same(was, now, but=("priority",)) and not same(was, now)


def test_acceptance_does_not_change_the_rest() -> None:
    plain = generate(workload(strategy={"kind": "best_of_n", "samples": 8}), 1)
    judged = generate(workload(strategy={"kind": "best_of_n", "samples": 8, "acceptance": 0.3}), 1)
    assert same(plain, judged, but=("accepted",)) and judged.accepted.any()


def test_seeds_differ() -> None:
    assert not same(generate(workload(), 0), generate(workload(), 1))


def test_more_requests_begin_like_fewer() -> None:
    few, many = generate(workload(requests=20), 3), generate(workload(requests=40), 3)
    assert many.prompt_tokens[:20].tolist() == few.prompt_tokens.tolist()
    assert many.output_tokens[:20].tolist() == few.output_tokens.tolist()


@pytest.mark.parametrize("acceptance", [0.0, 0.25, 1.0])
def test_share_of_accepted_samples(acceptance: float) -> None:
    load = workload(strategy={"kind": "best_of_n", "samples": 100, "acceptance": acceptance}, requests=500)
    assert generate(load, 0).accepted.mean() == pytest.approx(acceptance, abs=0.01 if 0 < acceptance < 1 else 0)


def test_long_cot_cuts_at_the_budget_and_forces_an_end() -> None:
    values = {"kind": "empirical", "values": [99, 100, 101, 5000]}
    cut = generate(
        workload(strategy={"kind": "long_cot", "budget": 100, "forced_end_tokens": 7}, output_tokens=values), 0
    )
    natural = generate(workload(output_tokens=values), 0)
    expected = [v if v <= 100 else 107 for v in natural.output_tokens.tolist()]
    assert cut.output_tokens.tolist() == expected and set(expected) == {99, 100, 107}


def test_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,input_len,output_len,priority\n0,10,200,4\n1,20,300,5\n3,30,400,6\n")
    requests = generate(workload_of(path), 0)
    assert requests.job_arrival_s.tolist() == [0.0, 1.0, 3.0] and requests.prompt_tokens.tolist() == [10, 20, 30]
    assert requests.priority.tolist() == [4, 5, 6] and requests.output_tokens.tolist() == [200, 300, 400]
    cut = generate(workload_of(path, strategy={"kind": "long_cot", "budget": 250}, requests=2), 0)
    assert cut.output_tokens.tolist() == [200, 250]
    drawn = generate(workload_of(path, priority={"values": [9]}, arrivals="all_at_once"), 0)
    assert drawn.priority.tolist() == [9, 9, 9] and drawn.job_arrival_s.tolist() == [0.0, 0.0, 0.0]


def test_a_trace_with_hashes(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [(0, 600, [0, 1]), (9, 512, [0])]
    keys = ("timestamp", "input_length", "hash_ids")
    path.write_text("\n".join(json.dumps(dict(zip(keys, row, strict=True)) | {"output_length": 3}) for row in rows))
    requests = generate(workload_of(path), 0)
    assert requests.prefix_unit_tokens == 512
    assert requests.prefix_ptr.tolist() == [0, 2, 3] and requests.prefix_tokens.tolist() == [512, 88, 512]


def workload_of(path: Path, **changes: object) -> Workload:
    base = {"strategy": "chat", "trace": {"path": str(path)}, "arrivals": "trace"}
    return Workload.model_validate(base | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_tokens": np.zeros(50, dtype=np.int64)},
        {"output_tokens": np.ones(49, dtype=np.int64)},
        {"output_tokens": np.ones(50)},
        {"job": np.zeros(50, dtype=np.int64)},
        {"job": np.arange(50)[::-1].copy()},
        {"job_arrival_s": np.arange(50.0)[::-1].copy()},
        {"job_arrival_s": np.full(50, np.nan)},
        {"session": np.full(50, -1)},
        {"prefix_ptr": np.ones(51, dtype=np.int64)},
        {"prefix_ptr": np.arange(51), "prefix_id": np.arange(50), "prefix_tokens": np.full(50, 10**6)},
        {"concurrency": 0},
        {"concurrency": 2, "job_arrival_s": np.arange(50.0)},
        {"timeout_s": 0.0},
        {"think_time_s": -1.0},
        {"prefix_unit_tokens": 0},
        {"accepted": np.zeros(50, dtype=np.int64)},
    ],
)
def test_broken_invariants_are_noticed(change: dict) -> None:
    with pytest.raises(ValueError, match="Requests: "):
        replace(generate(workload(), 0), **change)


def test_a_million_requests_in_two_seconds() -> None:
    load = workload(requests=1_000_000, arrivals={"kind": "poisson", "rate": 2000}, priority={"values": [0, 1]})
    before = time.perf_counter()
    assert generate(load, 0).n == 1_000_000
    assert time.perf_counter() - before < 2
