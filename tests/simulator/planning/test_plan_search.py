"""The planner's engine: candidates, floors, bounds by hand, the watch, loads, and the order of answers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.deployment import deploy
from simulator.planning import bounds
from simulator.planning.bounds import Kind, least_workers
from simulator.planning.candidates import (
    Base,
    assignments,
    check_size,
    counts,
    number_of,
    own_gpu,
    scenario_of,
    sensible_layouts,
    shape_of,
    shapes,
)
from simulator.planning.demand import Contract, contracts, may_exceed, may_miss, windows, work_of
from simulator.planning.floors import StepFloor, step_floor
from simulator.planning.loads import GROWTH, probe
from simulator.planning.model import Candidate, Objective, Outcome, Space, Workers
from simulator.planning.search import search
from simulator.planning.trial import Question, Trials, sped_up
from simulator.policy import SECONDS_PER_TICK, Advance
from simulator.shape import PrefillShape, causal_pairs, keys_read
from workloads.requests import generate
from workloads.scenario import load_scenario

PRICES = {"h200-sxm": 4.0, "b200-sxm": 5.0}


class Prices:
    def of(self, gpu: str) -> float:
        return PRICES[gpu]


def chat(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "gpu": "h200-sxm",
        "model": "qwen3-8b",
        "engine": {"name": "none", "max_num_seqs": 8, "max_num_batched_tokens": 256},
        "profile": "ideal",
        "workload": {
            "strategy": {"kind": "chat"},
            "requests": 40,
            "prompt_tokens": {"kind": "uniform", "low": 20, "high": 300},
            "output_tokens": {"kind": "uniform", "low": 2, "high": 80},
            "arrivals": {"kind": "poisson", "rate": 30.0},
        },
    }
    return data | changes


# ---- candidates ------------------------------------------------------------------------------------------------------


def test_layouts_of_dense_models_and_of_experts() -> None:
    dense, experts = load_scenario(chat()), load_scenario(chat(model="qwen3-30b-a3b"))
    assert list(sensible_layouts(dense.model, dense.gpu, 4)) == [(1, 1, 1, 1), (2, 1, 1, 1), (4, 1, 1, 1)]
    found = set(sensible_layouts(experts.model, experts.gpu, 2))
    assert found == {(1, 1, 1, 1), (2, 1, 1, 1), (2, 1, 1, 2), (1, 1, 2, 2)}


@pytest.mark.parametrize("disaggregated", ["no", "only"])
def test_every_candidate_is_the_scenario_that_it_says(disaggregated: str) -> None:
    base = Base(chat(), ("router=least_loaded",))
    space = Space(("h200-sxm", "b200-sxm"), 4, disaggregated=disaggregated, max_num_seqs=(4,), precisions=("fp8",))
    for shape in shapes(base, space):
        candidates = list(counts(shape, space))
        assert len(candidates) == number_of(shape, space)
        for candidate in candidates[-1:]:
            loaded = scenario_of(base, candidate)
            parts = loaded.pools or (loaded,)
            asked = [candidate.workers] if candidate.prefill is None else [candidate.prefill, candidate.workers]
            for pool, workers in zip(parts, asked, strict=True):
                config = pool.config
                assert (pool.gpu.name, config.replicas, config.router) == (
                    workers.gpu,
                    workers.replicas,
                    "least_loaded",
                )
                assert config.parallelism.tensor == workers.tensor and config.engine.max_num_seqs == 4
                assert config.precision.linear == "fp8" or config.precision.weights == "fp8"
            assert shape_of(candidate) == shape


def test_a_disaggregated_base_is_planned_without_and_with_pools() -> None:
    base = Base("deepseek-r1-gb200-rack")
    one = Candidate(Workers("gb200", 8, expert=8, replicas=2))
    assert "disaggregation=null" in assignments(base, one)
    assert scenario_of(base, one).pools is None
    two = Candidate(Workers("gb200", attention_data=8, expert=8), Workers("gb200", 4, expert=4, replicas=3))
    prefill, decode = scenario_of(base, two).pools or ()
    assert (prefill.config.replicas, decode.config.replicas) == (3, 1)
    assert decode.config.parallelism.attention_data == 8


def test_spaces_that_nobody_means() -> None:
    base = Base(chat())
    with pytest.raises(InputError, match="too many candidates"):
        check_size(list(shapes(base, Space((), 4000, disaggregated="also"))), Space((), 4000, disaggregated="also"))
    with pytest.raises(InputError, match="h200-sxm"):
        list(shapes(base, Space(("h200",))))
    faster = Base(chat(), ("gpu.memory.bandwidth=9.6 TB/s",))
    with pytest.raises(InputError, match="not among those"):
        list(shapes(faster, Space(("b200-sxm", "h200-sxm"))))
    assert {own_gpu(faster), "b200-sxm"} == {
        shape.workers.gpu for shape in shapes(faster, Space((own_gpu(faster), "b200-sxm")))
    }


def test_what_cannot_serve_is_counted_with_the_reason() -> None:
    plan = search(
        Base(chat(model="deepseek-v3")), Space((), 2), [Objective("ttft_s", "mean", 1.0)], Prices(), jobs=1, loads=False
    )
    assert plan.best is None and plan.closest is None and plan.candidates == 0
    # Alone: 2 x tp1, 1 x tp2; with experts on their own GPUs 1 of each kind.
    assert sum(count for _, count in plan.dropped) == 5
    assert all("does not fit" in reason for reason, _ in plan.dropped)


# ---- demand ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]))
def test_one_more_than_may_exceed_breaks_the_quantile(values: list[float], q: float) -> None:
    allowed = may_exceed(q, len(values))
    ordered = np.sort(values)
    limit = float(ordered[len(values) - 1 - allowed])  # allowed + 1 values are at least as large
    assert np.quantile(values, q) >= limit * (1 - 1e-12)
    assert may_exceed(q, len(values) + 1) >= allowed


def test_missers_by_hand() -> None:
    # p99 of 100 values lies between the 99th and the 100th: the largest alone may exceed a limit, and does not have to.
    assert [may_exceed(0.99, n) for n in (1, 100, 101, 201)] == [0, 1, 1, 2]
    assert [may_miss(0.95, n) for n in (19, 20, 100)] == [0, 1, 5]
    agreed = contracts([Objective("ttft_s", "p99", 2.0), Objective("tpot_s", "max", 0.04)], None, 101)
    assert agreed[-1] == Contract(ttft=2.0, tpot=0.04, first_missers=1, missers=1)


def test_work_of_a_request_by_hand() -> None:
    data = chat()
    data["workload"] |= {"requests": 1, "prompt_tokens": 100, "output_tokens": 5}
    requests = generate(load_scenario(data).config.workload, 0)
    work = work_of(requests, max_model_len=1000, caps=(None, 102), advance=Advance())
    # Four steps after the first token read 101, 102, 103, 104 tokens; with a cap of 102: 101 + 3 x 102.
    assert (work.prompt[0], work.pairs[0], work.steps[0]) == (100, 100 * 101 / 2, 4)
    assert [reads[0] for reads in work.reads] == [410, 407]
    two = work_of(requests, max_model_len=1000, caps=(None,), advance=Advance(3, 2, 1))
    assert (two.steps[0], two.reads[0][0]) == (2, 101 + 103)
    assert not work_of(requests, max_model_len=104, caps=(None,), advance=Advance()).served[0]


# ---- bounds by hand --------------------------------------------------------------------------------------------------


def made_floor(steps: list[float]) -> StepFloor:
    """Steps of 1, 2, ... sequences take so many seconds, whatever they read; nothing is prefilled."""
    size = len(steps)
    fixed = np.full((size + 1, 2), math.inf)
    fixed[0], fixed[1:, 0] = [0.0, 0.0], steps
    cells = (np.array([0.0]),), (np.array([1e9]),), (np.zeros((size + 1, 1)),)
    seqs = np.arange(size + 1.0)
    return StepFloor(seqs, seqs, np.array([0.0, 1.0]), np.array([0.0, 9.0]), fixed, 0.0, *cells, 0.0, (None,))


def seconds_needed(steps: list[float], tpot: float) -> float:
    """What 100 requests of 11 tokens at once need of one replica, within 100 s a request."""
    data = chat()
    data["workload"] |= {"requests": 100, "prompt_tokens": 1, "output_tokens": 11, "arrivals": "all_at_once"}
    requests = generate(load_scenario(data).config.workload, 0)
    work = work_of(requests, max_model_len=1000, caps=(None,), advance=Advance())
    spans = windows(requests, work, [Contract(ttft=100.0 - 10 * tpot, tpot=tpot)])
    _, need = least_workers(Kind(made_floor(steps), work, True, True, 8), spans, requests.output_tokens, 1000)
    return need * 100.0


def test_throughput_of_the_best_batch() -> None:
    # 1,000 steps of sequences; four at a time in 2 s are the cheapest: 0.5 s each.
    assert seconds_needed([1.0, 1.2, 1.8, 2.0], tpot=9.0) == pytest.approx(500.0, rel=1e-3)


def test_a_latency_limit_costs_batch() -> None:
    # Of 1 x 1 s, 2 x 1.5 s and 4 x 2 s a limit of 1.5 s a token allows pairs, or half of the tokens in fours and half
    # alone: 0.75 s a token either way, by hand as by the multipliers.
    assert seconds_needed([1.0, 1.5, 1.9, 2.0], tpot=1.5) == pytest.approx(750.0, rel=0.02)
    assert seconds_needed([1.0, 1.5, 1.9, 2.0], tpot=1.5) <= 750.0


# ---- floors ----------------------------------------------------------------------------------------------------------

SERVED = {
    "ideal": chat(),
    "fitted": chat(profile="auto", engine={"name": "vllm", "max_num_seqs": 16, "max_num_batched_tokens": 512}),
    "ranks": chat(
        model="qwen3-30b-a3b", profile="auto", parallelism={"attention_data": 2, "expert": 2},
        engine={"name": "sglang", "max_num_seqs": 16, "max_num_batched_tokens": 512},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SERVED)
def test_no_step_is_quicker_than_its_floor(name: str) -> None:
    served = deploy(load_scenario(SERVED[name]))
    cost, params, rng = served.cost, served.params, np.random.default_rng(3)
    floor = step_floor(cost, params)
    for _ in range(300):
        seqs = int(rng.integers(0, params.max_num_seqs + 1))
        chunks = int(rng.integers(0, min(4, params.max_num_seqs - seqs + 1)))
        if not seqs + chunks or (params.prefill == "first" and seqs and chunks):
            continue
        sizes = [int(size) for size in rng.integers(1, 100, chunks)]
        pasts = [int(past) for past in rng.integers(0, 3000, chunks)]
        prefill = None
        if chunks:
            prefill = PrefillShape(
                sum(sizes), chunks,
                tuple(sum(map(causal_pairs, sizes, pasts, [cap] * chunks)) for cap in cost.prefill_caps),
                tuple(sum(map(keys_read, sizes, pasts, [cap] * chunks)) for cap in cost.prefill_caps),
            )  # fmt: skip
        read = int(seqs * rng.integers(1, 2000))
        ticks = cost.fixed_ticks(seqs + sum(sizes), seqs + int(rng.integers(0, chunks + 1)), prefill)
        ticks += sum(cost_line(line, read) for line, _ in cost.decode_lines(seqs)) if seqs else 0
        m = -(-seqs // cost.ranks)
        cell = int(np.searchsorted(floor.prompt_from, sum(sizes), side="right")) - 1
        least = floor.fixed[m, cell] + sum(
            reads[m, max(int(np.searchsorted(begin, read, side="right")) - 1, 0)]
            for begin, reads in zip(floor.read_from, floor.reads, strict=True)
        )
        pairs = sum(map(causal_pairs, sizes, pasts, [None] * chunks))
        assert ticks * SECONDS_PER_TICK >= least + pairs * floor.pair_seconds
        if not seqs:
            assert ticks * SECONDS_PER_TICK >= floor.token_seconds * sum(sizes) + pairs * floor.pair_seconds


def cost_line(line: Any, tokens: int) -> int:
    from simulator.stepcost import line_at

    return line_at(line, tokens)


# ---- trials ----------------------------------------------------------------------------------------------------------


def test_being_watched_changes_nothing() -> None:
    trials = Trials(Question(Base(chat()), (Objective("e2e_s", "p99", 1e3),), PRICES))
    for candidate in (
        Candidate(Workers("h200-sxm", replicas=2)),
        Candidate(Workers("h200-sxm"), prefill=Workers("h200-sxm")),
    ):
        assert trials.result(candidate, watched=True) == trials.result(candidate, watched=False)


def test_a_lost_objective_ends_the_simulation_early() -> None:
    question = Question(Base(chat()), (Objective("ttft_s", "p50", 1e-4),), PRICES)
    trials = Trials(question)
    candidate = Candidate(Workers("h200-sxm"))
    whole = trials.run(candidate, watched=False)
    early = trials.run(candidate)
    assert isinstance(whole, Outcome) and not isinstance(early, Outcome)
    makespan = whole.metrics["makespan_s"]
    assert makespan is not None and early.at_s < makespan
    reached = whole.verdict.reached[0].value
    assert reached is not None and 1e-4 < early.value <= reached


@settings(max_examples=50)
@given(st.floats(1.0, 6.0))
def test_the_highest_load_lies_between_what_holds_and_what_fails(true: float) -> None:
    probes = probe()
    factor, asked = next(probes), 0
    try:
        while True:
            asked += 1
            factor = probes.send(factor <= true)
    except StopIteration as end:
        found = end.value
    assert found.factor <= true and asked <= 12
    if found.fails_at is None:
        assert found.factor == GROWTH[-1]
    else:
        assert found.fails_at > true and found.fails_at / found.factor <= 1.03 + 1e-9


def test_faster_requests_are_the_same_requests() -> None:
    requests = generate(load_scenario(chat()).config.workload, 0)
    assert sped_up(requests, 1.0) is requests
    np.testing.assert_array_equal(sped_up(requests, 2.0).job_arrival_s, requests.job_arrival_s / 2)
    closed = replace(requests, job_arrival_s=np.zeros(requests.n_jobs), concurrency=4)
    assert sped_up(closed, 1.6).concurrency == 6


# ---- the search ------------------------------------------------------------------------------------------------------

OBJECTIVES = (Objective("ttft_s", "p90", 0.03), Objective("tpot_s", "p90", 0.006))


def test_several_processes_answer_as_one() -> None:
    space = Space(("h200-sxm", "b200-sxm"), 3)
    calls: list[tuple[int, int]] = []
    one = search(Base(chat()), space, OBJECTIVES, Prices(), jobs=1, progress=lambda a, b: calls.append((a, b)))
    two = search(Base(chat()), space, OBJECTIVES, Prices(), jobs=2)
    assert calls and all(done <= total for done, total in calls)
    for name in ("best", "runner_up", "front", "outcomes", "pruned", "lost", "dropped", "candidates"):
        assert getattr(one, name) == getattr(two, name), name
    assert one.best is not None and one.best.verdict.met and one.best.highest_load is not None
    counted = len(one.outcomes) + sum(pruned.count for pruned in one.pruned)
    assert counted == one.candidates  # every candidate is accounted for


def test_what_nobody_can_meet() -> None:
    plan = search(Base(chat()), Space((), 2), [Objective("tpot_s", "p50", 1e-6)], Prices(), jobs=1)
    assert plan.best is None and plan.front == ()
    assert {pruned.bound for pruned in plan.pruned} == {"alone"}
    assert plan.closest is not None and not plan.closest.verdict.met
    assert len(plan.outcomes) + sum(pruned.count for pruned in plan.pruned) == plan.candidates
    assert plan.closest.verdict.worst == min(one.verdict.worst for one in plan.outcomes)
    # 7.57 G parameters beside the embedding, of 2 bytes, over 4.8 TB/s, half of that on two GPUs.
    reached = plan.closest.verdict.reached[0].value
    assert reached is not None and reached > 15.1e9 / 4.8e12 / 2


def test_multipliers_are_feasible() -> None:
    served = deploy(load_scenario(SERVED["fitted"]))
    floor = step_floor(served.cost, served.params)
    rng = np.random.default_rng(5)
    for _ in range(20):
        gamma, slower = float(rng.uniform(0, floor.token_seconds)), float(rng.uniform(0, 0.2))
        beta = rng.uniform(0, 1e-8, len(floor.reads))
        alpha = bounds._alpha(floor, beta, gamma, slower)
        for _ in range(50):
            m, q = int(rng.integers(1, len(floor.most))), int(rng.integers(0, len(floor.prompt_to)))
            cells = [int(rng.integers(0, len(to))) for to in floor.read_to]
            duration = floor.fixed[m, q] + sum(r[m, c] for r, c in zip(floor.reads, cells, strict=True))
            gained = alpha * floor.most[m] + gamma * floor.prompt_to[q]
            gained += sum(b * to[c] for b, to, c in zip(beta, floor.read_to, cells, strict=True))
            assert gained <= (1 + slower * floor.most[m]) * duration * (1 + 1e-9)


@pytest.mark.parametrize(
    ("concurrency", "holds", "found"), [(1, 1, 1), (1, 3, 3), (4, 4, 4), (4, 7, 7), (100, 133, 133)]
)
def test_the_highest_load_of_a_closed_loop_is_whole(concurrency: int, holds: int, found: int) -> None:
    """No factor is asked that rounds to a load asked already, and what is named was simulated."""
    probes, asked, answer = probe(concurrency), [], None
    factor = next(probes)
    while answer is None:
        asked.append(factor * concurrency)
        try:
            factor = probes.send(asked[-1] <= holds + 1e-9)
        except StopIteration as end:
            answer = end.value
    assert all(abs(n - round(n)) < 1e-9 for n in asked) and len({round(n) for n in asked}) == len(asked)
    highest, fails = round(answer.factor * concurrency), round((answer.fails_at or math.inf) * concurrency)
    assert highest in (concurrency, *map(round, asked)) and fails in map(round, asked)
    assert highest <= holds < fails and (fails - highest == 1 or fails / highest <= 1.031)
    assert highest == found or concurrency == 100
