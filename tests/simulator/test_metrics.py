"""Metrics on arrays made by hand, and what must hold of every run."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from simulator import metrics
from simulator.policy import Status
from simulator.result import Result
from simulator.running import run_scenario
from workloads.scenario import load_scenario

NAN = float("nan")


def columns(**given: list) -> dict[str, np.ndarray]:
    n = len(next(iter(given.values())))
    base: dict[str, Any] = {
        "job": list(range(n)),
        "prompt_tokens": [10] * n,
        "accepted": [False] * n,
        "status": [Status.FINISHED] * n,
        "submitted_s": [0.0] * n,
        "first_token_s": [1.0] * n,
        "finish_s": [2.0] * n,
        "generated": [11] * n,
    }
    return {name: np.array(values) for name, values in (base | given).items()}


def test_distribution_of_nothing() -> None:
    nothing = dict.fromkeys(("mean", "p50", "p90", "p99", "max"))
    assert metrics.distribution(np.empty(0)) == nothing
    assert metrics.distribution(np.array([NAN, np.inf])) == nothing


def test_distribution_leaves_out_what_does_not_exist() -> None:
    found = metrics.distribution(np.array([4.0, NAN, 2.0, 1.0, 3.0]))
    assert found == pytest.approx({"mean": 2.5, "p50": 2.5, "p90": 3.7, "p99": 3.97, "max": 4.0})


def test_times_of_requests() -> None:
    table = columns(
        status=[Status.FINISHED, Status.ABORTED, Status.REJECTED, Status.FINISHED],
        submitted_s=[1.0, 0.0, 5.0, 0.0],
        first_token_s=[3.0, NAN, NAN, 4.0],
        finish_s=[8.0, 2.0, 5.0, 4.0],
        generated=[11, 0, 0, 1],
    )
    times = metrics.request_times(table)
    assert np.array_equal(times["ttft_s"], [2, NAN, NAN, 4], equal_nan=True)
    assert np.array_equal(times["e2e_s"], [7, 2, NAN, 4], equal_nan=True)
    assert np.array_equal(times["tpot_s"], [0.5, NAN, NAN, NAN], equal_nan=True)


def test_goodput_wants_every_limit_and_a_finish() -> None:
    table = columns(
        status=[Status.FINISHED, Status.FINISHED, Status.FINISHED, Status.ABORTED, Status.FINISHED],
        first_token_s=[1.0, 3.0, 1.0, 1.0, 1.0],
        finish_s=[2.0, 4.0, 9.0, 2.0, 1.0],
        generated=[11, 11, 11, 11, 1],
    )
    times, finished = metrics.request_times(table), table["status"] == Status.FINISHED
    objective: dict[str, float | None] = {"ttft": 2.0, "tpot": 0.1, "e2e": None}
    everybody = np.ones(5, dtype=bool)
    found = metrics._goodput(times, finished, everybody, objective, 10.0)
    assert found == {
        "objective_s": objective,
        "requests": 2,
        "share": 0.4,
        "requests_per_s": 0.2,
    }  # the 1st and the 5th
    looser: dict[str, float | None] = {"ttft": None, "tpot": None, "e2e": 4.0}
    assert metrics._goodput(times, finished, everybody, looser, 10.0)["requests"] == 3
    # who was stopped because his problem was solved neither meets nor misses the objective
    counted = np.array([True, True, True, False, True])
    assert metrics._goodput(times, finished, counted, objective, 10.0)["share"] == 0.5


def test_stopped_early() -> None:
    table = columns(
        job=[0, 0, 1, 1],
        status=[Status.FINISHED, Status.ABORTED, Status.FINISHED, Status.ABORTED],
        accepted=[True, False, False, True],
        first_token_s=[1.0] * 4,
        finish_s=[2.0] * 4,
        generated=[3] * 4,
    )
    assert metrics.stopped_early(table).tolist() == [False, True, False, False]  # problem 1 was not solved


def test_by_problem() -> None:
    table = columns(
        job=[0, 0, 0, 1, 1, 2],
        status=[Status.FINISHED, Status.FINISHED, Status.ABORTED, Status.FINISHED, Status.FINISHED, Status.ABORTED],
        accepted=[True, True, True, False, False, True],
        submitted_s=[1.0, 1.0, 1.0, 2.0, 2.0, 3.0],
        finish_s=[9.0, 4.0, 2.0, 5.0, 6.0, 7.0],
        generated=[10, 20, 5, 1, 2, 4],
    )
    found = metrics.by_problem(table)
    assert found["submitted_s"].tolist() == [1, 2, 3]
    assert np.array_equal(found["first_accepted_s"], [3, NAN, NAN], equal_nan=True)  # an aborted one does not count
    assert found["last_s"].tolist() == [8, 4, 4]
    assert found["samples"].tolist() == [3, 2, 1]
    assert found["finished"].tolist() == [2, 2, 0]
    assert found["accepted"].tolist() == [2, 0, 0]
    assert found["output_tokens"].tolist() == [35, 3, 4]


# ---- whole runs ------------------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "gpu": "h200-sxm",
    "model": "Qwen/Qwen3-0.6B",
    "engine": {"max_num_seqs": 32, "max_num_batched_tokens": 512, "max_model_len": 8192},
    "seed": 3,
}
LENGTHS = {
    "prompt_tokens": {"kind": "uniform", "low": 20, "high": 400},
    "output_tokens": {"kind": "uniform", "low": 1, "high": 300},
}
STARVED = {"base": "h200-sxm", "memory": {"capacity": "3.9 GB"}}
SCENARIOS: dict[str, dict[str, Any]] = {
    "chat": {
        "workload": {"strategy": "chat", "requests": 60, **LENGTHS, "arrivals": {"kind": "poisson", "rate": "100 /s"}}
    },
    "ideal": {"profile": "ideal", "workload": {"strategy": "chat", "requests": 60, **LENGTHS}},
    "best of n": {
        "workload": {
            "strategy": {"kind": "best_of_n", "samples": 8, "acceptance": 0.2, "stop_on_accept": True},
            "requests": 8,
            **LENGTHS,
        }
    },
    "samples": {
        "workload": {"strategy": {"kind": "best_of_n", "samples": 8, "acceptance": 0.2}, "requests": 8, **LENGTHS}
    },
    "no memory": {"gpu": STARVED, "workload": {"strategy": "chat", "requests": 60, **LENGTHS}},
    "timeouts": {"workload": {"strategy": "chat", "requests": 60, **LENGTHS, "timeout": "0.3 s"}},
    "compute": {
        "profile": "ideal",
        "workload": {"strategy": "chat", "requests": 20, "prompt_tokens": 4000, "output_tokens": 1},
    },
    "replicas": {
        "replicas": 3,
        "parallelism": {"tensor": 2},
        "router": "least_loaded",
        "objective": {"ttft": "0.5 s", "tpot": "5 ms"},
        "workload": {
            "strategy": "chat",
            "requests": 60,
            **LENGTHS,
            "arrivals": {"kind": "closed_loop", "concurrency": 40},
        },
    },
}


@cache
def result(name: str) -> Result:
    return run_scenario(load_scenario(BASE | SCENARIOS[name]))


def test_the_scenarios_differ_in_what_they_should() -> None:
    assert result("no memory").summary["requests"]["preemptions"] > 0
    assert result("timeouts").summary["requests"]["aborted"] > 0
    assert result("best of n").summary["requests"]["aborted"] > 0
    assert result("samples").summary["tokens"]["prefix_hit"] > 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_used_more_than_it_can_be(name: str) -> None:
    found = result(name)
    summary, timeline, gpu = found.summary, found.timeline, found.deployment["gpu"]
    use, replicas = summary["utilisation"], SCENARIOS[name].get("replicas", 1)
    assert 0 < use["busy"] <= 1 + 1e-12 and 0 < use["mfu"] <= 1 and 0 < use["mbu"] <= 1
    assert use["busy"] == pytest.approx(timeline["duration_s"].sum() / summary["makespan_s"] / replicas)
    assert 0 < summary["kv"]["mean_use"] <= summary["kv"]["peak_use"] <= 1
    assert summary["kv"]["peak_use"] * summary["kv"]["blocks"] >= timeline["kv_blocks"].max()
    idle = load_scenario(BASE | SCENARIOS[name]).gpu.power.idle
    assert idle < summary["cost"]["mean_power_w_per_gpu"] <= gpu["tdp_w"]
    limits = BASE["engine"]
    assert timeline["tokens"].max() <= limits["max_num_batched_tokens"]
    assert (timeline["decode_seqs"] + timeline["prefill_seqs"]).max() <= limits["max_num_seqs"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_steps_of_a_replica_do_not_overlap(name: str) -> None:
    timeline = result(name).timeline
    for replica in np.unique(timeline["replica"]):
        runs = timeline.select(np.flatnonzero(timeline["replica"] == replica))
        ends = runs["start_s"] + runs["duration_s"]
        assert (runs["start_s"][1:] >= ends[:-1] * (1 - 1e-12)).all()
        assert ends.max() <= result(name).requests["finish_s"].max() * (1 + 1e-12)


@pytest.mark.parametrize("name", SCENARIOS)
def test_tokens_in_are_tokens_out(name: str) -> None:
    found = result(name)
    summary, requests, timeline = found.summary, found.requests, found.timeline
    finished = requests["status"] == Status.FINISHED
    assert (requests["generated"][finished] == requests["output_tokens"][finished]).all()
    assert (requests["generated"] <= requests["output_tokens"]).all()
    assert summary["tokens"]["output"] == requests["generated"].sum()
    assert (timeline["rows"] * timeline["steps"]).sum() == requests["generated"].sum()  # a row is a token
    counts = summary["requests"]
    assert counts["total"] == counts["finished"] + counts["aborted"] + counts["rejected"] == len(requests["status"])
    computed = summary["tokens"]["prefilled"] + summary["tokens"]["prefix_hit"]
    if counts["preemptions"]:
        assert computed > summary["tokens"]["prompt"]
    elif counts["aborted"]:
        assert computed <= summary["tokens"]["prompt"]
    else:
        assert computed == summary["tokens"]["prompt"] == requests["prompt_tokens"].sum()


@pytest.mark.parametrize("name", SCENARIOS)
def test_times_are_in_order(name: str) -> None:
    requests = result(name).requests
    assert np.isfinite(requests["submitted_s"]).all() and np.isfinite(requests["finish_s"]).all()
    assert (requests["finish_s"] >= requests["submitted_s"]).all()
    first = requests["first_token_s"]
    assert (np.isfinite(first) == (requests["generated"] > 0)).all()
    started = np.isfinite(first)
    assert (first[started] > requests["submitted_s"][started]).all()
    assert (first[started] <= requests["finish_s"][started]).all()


@pytest.mark.parametrize("name", SCENARIOS)
def test_summary_is_consistent_with_itself(name: str) -> None:
    found = result(name)
    summary = found.summary
    gpus, makespan = summary["cost"]["gpus"], summary["makespan_s"]
    scenario = SCENARIOS[name]
    assert gpus == scenario.get("replicas", 1) * scenario.get("parallelism", {}).get("tensor", 1)
    assert makespan == found.requests["finish_s"].max() - found.requests["submitted_s"].min()
    assert summary["cost"]["gpu_hours"] == pytest.approx(gpus * makespan / 3600)
    assert summary["cost"]["usd"] == pytest.approx(
        summary["cost"]["gpu_hours"] * found.deployment["gpu"]["usd_per_hour"]
    )
    assert summary["output_tokens_per_s"] == pytest.approx(summary["tokens"]["output"] / makespan)
    assert summary["cost"]["energy_j"] == pytest.approx(summary["cost"]["mean_power_w_per_gpu"] * makespan * gpus)
    assert summary["batch"]["steps"] == found.timeline["steps"].sum()
    seconds = sum(summary["seconds_by_bound"].values())
    assert seconds == pytest.approx(sum(op["seconds"] for op in found.operators), rel=1e-9)
    assert seconds == pytest.approx(found.timeline["duration_s"].sum(), rel=1e-9)
    for latency in summary["latency"].values():
        if latency["p50"] is not None:
            assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"] * (1 + 1e-12)
    law = summary["kinetics_law_eflops"]
    assert law["total"] == pytest.approx(law["parameters"] + law["attention_compute"] + law["attention_memory"])
    assert min(law.values()) > 0


def test_objective_is_counted() -> None:
    found = result("replicas")
    goodput, times = found.summary["goodput"], metrics.request_times(found.requests)
    met = (times["ttft_s"] <= 0.5) & ((times["tpot_s"] <= 0.005) | np.isnan(times["tpot_s"]))
    assert goodput["requests"] == met.sum() > 0
    assert goodput["share"] == pytest.approx(met.mean())


def test_problems_are_counted() -> None:
    found = result("best of n")
    problems = found.summary["problems"]
    assert problems["total"] == 8 and 0 < problems["solved"] <= 8
    table = metrics.by_problem(found.requests)
    assert (table["samples"] == 8).all()
    # With early stop a problem's last sample leaves soon after the first accepted one.
    solved = table["accepted"] > 0
    assert (table["last_s"][solved] >= table["first_accepted_s"][solved]).all()
