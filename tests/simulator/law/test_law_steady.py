"""Saturated serving: a schedule that does not depend on step times, a stretch of which stands for the long run."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from hwspecs.errors import InputError
from simulator.deployment import Deployment, deploy
from simulator.engine import simulate
from simulator.law.serving.saturated import Schedule, Ticking, equal_problems, saturated_schedule
from simulator.law.serving.steady import steady_cost, timed_rows
from simulator.running import run_scenario
from simulator.stepcost import StepCost
from workloads.scenario import load_scenario

SMALL = ["model=qwen3-0.6b", "profile=ideal", "engine.max_num_seqs=24", "engine.max_model_len=4096"]


@pytest.fixture(scope="module")
def roomy() -> Deployment:
    """24 sequences at a time, memory for many more."""
    return deploy(load_scenario("aime24-long-cot", SMALL))


@pytest.fixture(scope="module")
def sparse() -> Deployment:
    return deploy(load_scenario("aime24-long-cot", [*SMALL, "attention={kind: top_k, budget: 64}"]))


def crowded(deployment: Deployment, blocks: int = 400) -> Deployment:
    """The same with a small KV cache: sequences are preempted."""
    return replace(deployment, params=replace(deployment.params, kv_blocks=blocks))


@pytest.mark.parametrize(("prompt", "tokens", "trials"), [(40, 300, 1), (90, 700, 3), (600, 250, 4), (17, 1, 2)])
def test_timed_schedule_is_the_engines_own_run(
    roomy: Deployment, sparse: Deployment, prompt: int, tokens: int, trials: int
) -> None:
    """Row by row the seconds that the event engine takes, preemptions included, from a record made without them."""
    requests = equal_problems(prompt, tokens, trials, 40)
    for deployment in (crowded(roomy), crowded(sparse)):
        params = replace(deployment.params, request_ticks=0, request_token_ticks=0)
        cost = deployment.cost
        own = simulate(requests, cost, params)
        ticking = simulate(requests, cast(StepCost, Ticking(cost.decode_caps, cost.prefill_caps)), params)
        schedule = Schedule(
            ticking.timeline, np.ones(len(ticking.timeline)), cost.decode_caps, cost.prefill_caps, 40.0, 0.0
        )
        timed = timed_rows(cost, schedule)
        for name in ("duration_s", "steps", "decode_s.0", "decode_kv_last.0", "prefill_pairs.0"):
            np.testing.assert_array_equal(timed[name], own.timeline[name])
        assert np.array_equal(ticking.preemptions, own.preemptions)
        assert tokens < 250 or own.preemptions.sum() > 0


@pytest.mark.parametrize("trials", [1, 4])
def test_several_attentions_share_a_schedule(roomy: Deployment, sparse: Deployment, trials: int) -> None:
    every = (None, 64, 128, 512), (None,)
    for deployment in (crowded(roomy), crowded(sparse)):
        alone = steady_cost(deployment, 50, 400, trials)
        beside = steady_cost(deployment, 50, 400, trials, with_caps=every)
        # Rows end where any attention reaches its budget, so that a stretch may begin a little earlier or later.
        assert beside.seconds == pytest.approx(alone.seconds, rel=0.01)
        assert beside.energy_j == pytest.approx(alone.energy_j, rel=0.01)


@pytest.mark.parametrize(
    ("blocks", "prompt", "tokens", "trials"),
    [(400, 40, 300, 1), (400, 40, 1500, 1), (300, 500, 300, 1), (800, 100, 900, 4), (100_000, 100, 900, 4)],
)
def test_long_run(roomy: Deployment, blocks: int, prompt: int, tokens: int, trials: int) -> None:
    """Four and eight times the stretch give the same cost to 1 %."""
    deployment = crowded(roomy, blocks)
    short = steady_cost(deployment, prompt, tokens, trials)
    for waves in (16, 32):
        long = steady_cost(deployment, prompt, tokens, trials, waves=waves)
        assert short.seconds == pytest.approx(long.seconds, rel=0.01)
        assert short.energy_j == pytest.approx(long.energy_j, rel=0.01)
        assert short.eflops == pytest.approx(long.eflops, rel=0.01)


def test_per_problem_tokens_are_exact(roomy: Deployment) -> None:
    """The weights give a problem as many tokens as it has: 3 x 700, whatever the stretch."""
    params = crowded(roomy).params
    schedule = saturated_schedule(params, (None,), (None,), 90, 700, 3)
    rows = schedule.timeline
    assert schedule.preemptions > 0
    assert (schedule.weights * rows["steps"] * rows["rows"]).sum() == pytest.approx(3 * 700, rel=1e-9)
    assert schedule.weights.min() > 0


@pytest.mark.parametrize(
    "extra",
    [
        ["engine.name=none"],
        ["engine.host.request=0 s", "engine.host.token=0 s"],
        ["attention={kind: top_k, budget: 100}"],
    ],
)
@pytest.mark.parametrize("trials", [1, 4])
def test_same_as_a_run_in_whole_waves(extra: list[str], trials: int) -> None:
    """24 sequences at a time, 120 requests of 500 tokens: five waves without ramp or drain. What `kinesim run` counts,
    over the problems, is what a problem costs.
    """
    load = [f"workload.strategy={{kind: best_of_n, samples: {trials}}}", f"workload.requests={120 // trials}"]
    load += ["workload.prompt_tokens=64", "workload.output_tokens=500"]
    scenario = load_scenario("aime24-long-cot", [*SMALL, *load, *extra])
    summary = run_scenario(scenario).summary
    deployment = deploy(scenario)
    found = steady_cost(deployment, 64, 500, trials)
    problems = 120 / trials
    # All requests are on their way at first; the GPUs wait for them.
    way = (deployment.params.request_ticks + 64 * deployment.params.request_token_ticks) * 2.0**-60
    assert found.seconds * problems == pytest.approx(summary["makespan_s"] - way, rel=1e-9)
    assert found.eflops * problems == pytest.approx(summary["work"]["eflops"], rel=1e-6)
    idle = summary["cost"]["mean_power_w_per_gpu"] * way  # an upper bound on what is drawn meanwhile
    assert found.energy_j * problems == pytest.approx(summary["cost"]["energy_j"], rel=1e-6, abs=idle)
    assert found.batch == pytest.approx(summary["batch"]["mean_decode_seqs"], rel=1e-9)
    assert found.kv_use == pytest.approx(summary["kv"]["mean_use"], rel=1e-9)
    assert found.preemptions == summary["requests"]["preemptions"] == 0
    assert sum(found.parts.values()) == pytest.approx(found.seconds, rel=1e-12)


def test_preemptions_as_in_a_long_run(roomy: Deployment) -> None:
    """Of 600 requests, those at the end of the queue included: the last hundreds are preempted like those before."""
    deployment = crowded(roomy)
    requests = equal_problems(40, 700, 1, 600)
    log = simulate(requests, deployment.cost, replace(deployment.params, request_ticks=0, request_token_ticks=0))
    assert steady_cost(deployment, 40, 700).preemptions == pytest.approx(log.preemptions.mean(), rel=0.15)
    assert log.preemptions.mean() > 1


def test_cost_grows_with_tokens_and_trials(roomy: Deployment) -> None:
    deployment = crowded(roomy, 2000)
    by_tokens = [steady_cost(deployment, 100, n, work=False).seconds for n in (1, 16, 128, 512, 1024, 3072)]
    assert by_tokens == sorted(by_tokens)
    # More than in proportion once attention to a long past and preemptions count.
    assert by_tokens[-1] > 3 * by_tokens[-2]
    by_trials = [steady_cost(deployment, 100, 512, N, work=False).seconds for N in (1, 2, 4, 8, 16)]
    assert by_trials == sorted(by_trials)
    # The prompt is computed, and lies in memory, once for all trials of a problem.
    assert by_trials[-1] < 16 * by_trials[0]


def test_fewer_in_flight(roomy: Deployment) -> None:
    found = steady_cost(roomy, 100, 400, in_flight=5)
    # While the prompts of a wave are computed nobody decodes.
    assert 4.9 < found.batch <= 5
    assert found.seconds > 2 * steady_cost(roomy, 100, 400).seconds
    assert steady_cost(roomy, 100, 400, in_flight=10_000) == steady_cost(roomy, 100, 400)


def test_work_can_be_left_out(roomy: Deployment) -> None:
    whole, part = (steady_cost(roomy, 100, 300, work=work) for work in (True, False))
    assert part.seconds == whole.seconds and part.parts == whole.parts
    assert np.isnan([part.flops, part.hbm_bytes, part.eflops, part.energy_j]).all()


def test_gpus_of_a_replica_are_counted() -> None:
    """Seconds on two GPUs count twice; replicas beside it do not."""
    sets = [*SMALL, "parallelism.tensor=2", "replicas=3"]
    deployment = deploy(load_scenario("aime24-long-cot", sets))
    found = steady_cost(deployment, 100, 300)
    single = steady_cost(deploy(load_scenario("aime24-long-cot", SMALL)), 100, 300)
    # No collective is free, and a model as small as this gains little.
    assert single.seconds < found.seconds < 2 * single.seconds


def test_what_cannot_be_served(roomy: Deployment) -> None:
    with pytest.raises(InputError, match="longer than max_model_len"):
        steady_cost(roomy, 100, 5000)
    with pytest.raises(InputError, match="KV cache of a replica is too small"):
        steady_cost(crowded(roomy, 20), 100, 1000)
