"""Verdicts: what a run reaches of objectives is what its summary says, and requests that were lost are misses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.headline import headline
from simulator.metrics import stopped_early
from simulator.planning.judge import inter_token, lateness, statistic, verdict_of
from simulator.planning.model import Objective
from simulator.planning.objectives import parse
from simulator.policy import Status
from simulator.result import Result
from simulator.running import run_scenario
from workloads.scenario import load_scenario

CHAT: dict[str, Any] = {
    "gpu": "h200-sxm",
    "model": "Qwen/Qwen3-0.6B",
    "engine": "vllm",
    "workload": {
        "strategy": {"kind": "chat"},
        "requests": 60,
        "prompt_tokens": {"kind": "uniform", "low": 50, "high": 900},
        "output_tokens": {"kind": "uniform", "low": 1, "high": 60},
        "arrivals": {"kind": "poisson", "rate": 60},
    },
    "objective": {"ttft": 0.05, "tpot": 0.004},
}
POOLS = ["disaggregation={prefill: {replicas: 2}, decode: {}, transfer: {link: nvlink}}"]


def run(*sets: str) -> Result:
    return run_scenario(load_scenario(CHAT, list(sets)))


@pytest.mark.parametrize("sets", [[], ["engine.name=sglang"], POOLS])
def test_where_all_are_served_values_are_those_of_the_summary(sets: list[str]) -> None:
    result = run(*sets)
    values = headline(result.summary)
    asked = [
        Objective(metric, name, 1.0)
        for metric in ("ttft_s", "tpot_s", "itl_s", "e2e_s")
        for name in ("mean", "p50", "p90", "p99", "max")
    ]
    asked += [
        Objective("goodput_share", "", 0.5),
        Objective("goodput_per_s", "", 1.0),
        Objective("makespan_s", "", 9.0),
    ]
    for one in verdict_of(result, asked).reached:
        assert one.value == values[one.objective.key] is not None


@pytest.mark.parametrize(
    "sets",
    [[], ["engine.name=sglang"], POOLS, ["speculation={method: ngram, tokens: 3, acceptance: 0.4}"]],
)
def test_percentiles_that_no_summary_has_are_of_the_same_distribution(sets: list[str]) -> None:
    """p99 by another name is not taken from the summary, and comes out the same; p95 lies between p90 and p99."""
    result = run(*sets)
    kept = result.summary["latency"]["itl_s"]
    assert inter_token(result, Objective("itl_s", "p99.0", 1.0)) == kept["p99"]
    between = inter_token(result, Objective("itl_s", "p95", 1.0))
    assert between is not None and kept["p90"] <= between <= kept["p99"]


def test_requests_that_are_given_up_or_rejected_are_infinitely_late() -> None:
    """At sixty times the rate that one GPU serves in time most requests time out: a p50 over those that were served
    would look fine. A quarter of the prompts is longer than the model's limit.
    """
    result = run("workload.timeout=0.06", "workload.arrivals.rate=3600", "engine.max_model_len=700")
    status = result.requests["status"]
    lost = np.isin(status, (Status.ABORTED, Status.REJECTED))
    assert (status == Status.REJECTED).any() and (status == Status.ABORTED).any() and lost.mean() > 0.5
    late = lateness(result.requests, problems=False)
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        assert np.isinf(late[name][lost]).all() and not np.isinf(late[name][~lost]).any()
    found = verdict_of(result, parse(["ttft.p50<=1h", "e2e.mean<=1h"]).each)
    assert [one.value for one in found.reached] == [math.inf, math.inf] and not found.met


def test_losing_requests_meets_no_objective() -> None:
    """The tokens that were never made are late too, and a load of which some was lost is never done: a GPU that gives
    up every request would have the best of both.
    """
    result = run("workload.timeout=0.06", "workload.arrivals.rate=3600")
    lost = result.requests["status"] == Status.ABORTED
    made, asked = np.maximum(result.requests["generated"] - 1, 0), result.requests["output_tokens"] - 1
    share = made.sum() / (made.sum() + (asked - made)[lost].sum())
    assert 0 < share < 0.99
    low, high = f"p{100 * share * 0.5:.3f}", f"p{100 * min(share * 1.02, 1):.3f}"
    found = [Objective("itl_s", name, 3600.0) for name in (low, high, "mean")] + [Objective("makespan_s", "", 3600.0)]
    reached = verdict_of(result, found).reached
    assert reached[0].met and [one.value for one in reached[1:]] == [math.inf] * 3
    # Half of that share of all tokens is the half of those that were made.
    assert reached[0].value == pytest.approx(inter_token(result, Objective("itl_s", "p50", 1.0)), rel=1e-2)


def test_samples_that_early_stopping_ended_are_no_misses() -> None:
    sets = ["workload.strategy={kind: best_of_n, samples: 8, acceptance: 0.5, stop_on_accept: true}",
            "workload.requests=5", "workload.arrivals={kind: all_at_once}"]  # fmt: skip
    result = run(*sets)
    assert (result.requests["status"] == Status.ABORTED).any()
    found = verdict_of(result, parse(["ttft.max<=1h", "first_accepted.p90<=1h"]).each)
    assert found.met
    assert found.reached[0].value == result.summary["latency"]["ttft_s"]["max"]
    assert found.reached[1].value == result.summary["problems"]["first_accepted_s"]["p90"]


def test_samples_that_time_out_are_misses_where_nothing_is_stopped_early() -> None:
    """Of a problem that was solved, too: nobody stopped them."""
    result = run(
        "workload.strategy={kind: best_of_n, samples: 8, acceptance: 0.9}",
        "workload.requests=5", "workload.arrivals={kind: all_at_once}", "workload.timeout=0.1",
    )  # fmt: skip
    timed_out = stopped_early(result.requests)  # aborted, of a problem with an accepted sample
    assert timed_out.any() and not timed_out.all()
    late = lateness(result.requests, problems=True)
    assert np.isinf(late["e2e_s"][timed_out]).all()
    assert verdict_of(result, [Objective("e2e_s", "max", 3600.0)]).reached[0].value == math.inf


def test_a_problem_without_an_accepted_sample_is_never_answered() -> None:
    result = run("workload.strategy={kind: best_of_n, samples: 2, acceptance: 0.4}", "workload.requests=20")
    total, solved = (result.summary["problems"][name] for name in ("total", "solved"))
    assert 0 < solved < total
    share = 100 * (solved - 1) / (total - 1)  # the rank of the slowest that was answered
    last, beyond = (Objective("first_accepted_s", f"p{p:.4f}", 3600.0) for p in (share - 1e-3, share + 0.5))
    reached = verdict_of(result, [last, beyond]).reached
    assert reached[0].met and reached[1].value == math.inf


def test_the_binding_objective_has_the_least_room() -> None:
    result = run()
    ttft, tpot = (result.summary["latency"][name]["p99"] for name in ("ttft_s", "tpot_s"))
    found = verdict_of(result, [Objective("ttft_s", "p99", 2 * ttft), Objective("tpot_s", "p99", 1.25 * tpot)])
    assert found.met and found.binding.objective.metric == "tpot_s" and found.worst == pytest.approx(0.8)
    missed = verdict_of(result, [Objective("ttft_s", "p99", ttft / 3), Objective("tpot_s", "p99", tpot)])
    assert not missed.met and missed.worst == pytest.approx(3.0)


VALUES = st.lists(st.floats(0, 1e6) | st.just(math.inf) | st.just(math.nan), max_size=30)


@given(values=VALUES, percent=st.integers(1, 9999))
def test_quantiles_are_linear_between_two_requests_and_infinite_beyond_the_last_served(
    values: list[float], percent: int
) -> None:
    """By the definition: rank q (n - 1) among the sorted, interpolated, where an infinite neighbour counts at all."""
    found = statistic(np.array(values), Objective("ttft_s", f"p{percent / 100:g}", 1.0))
    known = sorted(v for v in values if v == v)
    if not known:
        assert found is None
        return
    place = percent / 10_000 * (len(known) - 1)
    low, high = known[math.floor(place)], known[math.ceil(place)]
    share = place - math.floor(place)
    expected = low if share == 0 or low == high else high if math.isinf(high) else low + (high - low) * share
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
