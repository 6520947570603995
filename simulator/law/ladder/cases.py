"""From a strategy of the ladder to what is compiled and what is done: its scenario, deployments and requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwspecs.errors import InputError
from simulator.deployment import Deployment, deploy
from simulator.engine import check_servable
from simulator.law.ladder.stages import Problem, Stages
from simulator.law.options import Policy
from simulator.law.serving.steadyruns import attention_text
from simulator.law.strategies import LIMITS
from workloads.arrivals import AllAtOnce
from workloads.requests import generate
from workloads.scenario import LoadedScenario, load_scenario
from workloads.strategies import BestOfN, Chat, LongCot


@dataclass(frozen=True)
class Group:
    """What one process climbs: a model on a GPU with several attentions, which share schedules, at several points.

    `base`, `sets` : a scenario as `load_scenario` takes it. `gpu`, `model` : names, or None for the scenario's.
    """

    base: str | Path | Mapping[str, Any]
    sets: tuple[str, ...]
    gpu: str | None
    model: str | None
    policies: tuple[Policy, ...]
    axis: str
    points: tuple[int, ...]
    tokens: bool
    limit: int | None
    rungs: tuple[int, ...]


def check_scenario(scenario: LoadedScenario, axis: str) -> None:
    """InputError for what the law has no words for."""
    config, strategy = scenario.config, scenario.config.workload.strategy
    stopped = isinstance(strategy, BestOfN) and strategy.stop_on_accept
    traced = config.workload.trace is not None and axis == "best_of_n"
    for place, found, allowed in (
        ("disaggregation", "given" if scenario.pools is not None else None, "one pool: leave it out"),
        ("speculation", config.speculation and config.speculation.method, "one token a step: leave it out"),
        ("replicas", config.replicas if config.replicas > 1 else None, "1: others would only repeat it"),
        ("workload.timeout", config.workload.timeout, "no timeout: all trials are finished"),
        ("workload.strategy.stop_on_accept", stopped or None, "false: all trials are finished"),
        ("workload.trace", "given" if traced else None, "drawn lengths, of which a problem's trials differ"),
    ):
        if found is not None:
            problem = "the ladder from the law has no rung for it"
            raise InputError(problem, file=scenario.origin, place=place, found=found, allowed=allowed)
    if not isinstance(config.workload.arrivals, AllAtOnce):
        problem = "what problems cost is measured with all of them at hand"
        found = getattr(config.workload.arrivals, "kind", None)
        place = "workload.arrivals.kind"
        raise InputError(problem, file=scenario.origin, place=place, found=found, allowed="all_at_once")


def scenario_of(group: Group, policy: Policy, tensor: int | None = None) -> LoadedScenario:
    """The scenario with the group's GPU and model and an attention; of `tensor` GPUs, or in the layout that it has."""
    if policy.kind == "block_top_k":
        blocks, rest = divmod(policy.budget - policy.local, policy.page)
        if rest or blocks < 1:
            allowed = f"local + a whole number of pages of {policy.page} tokens"
            raise InputError("not a budget of block top-k", place="budget", found=policy.budget, allowed=allowed)
    sets = [] if group.gpu is None else [f"gpu={group.gpu}"]
    sets += group.sets
    sets += [] if group.model is None else [f"model={group.model}"]
    sets.append(f"attention={attention_text(policy)}")
    if tensor is not None:
        sets.append(f"parallelism={{tensor: {tensor}}}")
    return load_scenario(group.base, sets)


def stages_of(group: Group, policy: Policy) -> tuple[Stages, str]:
    """The group compiled, and what has to be said of its layout."""
    scenario = scenario_of(group, policy)
    note = ""
    try:
        last = deploy(scenario)
    except InputError as error:
        last, note = _widened(group, policy, scenario, error)
    alone: Deployment | None = last
    gpus = last.graph.layout.gpus
    if gpus > 1:
        try:
            alone = deploy(scenario_of(group, policy, tensor=1))
        except InputError:
            alone = None
            note += f"does not fit on one GPU: up to rung 8 a device with the memory and the rates of {gpus}; "
    return Stages.of(last, alone), note


def _widened(group: Group, policy: Policy, scenario: LoadedScenario, error: InputError) -> tuple[Deployment, str]:
    """With the least tensor parallelism on which the model fits. Raises `error` if there is none."""
    if error.place != "model":
        raise error
    tensor = 2 * scenario.config.parallelism.tensor
    while tensor <= scenario.gpu.link.domain:
        try:
            found = deploy(scenario_of(group, policy, tensor))
        except InputError:
            tensor *= 2
            continue
        return found, f"does not fit in the scenario's layout: {tensor} GPUs on rung 9; "
    raise error


def problem_of(group: Group, point: int, scenario: LoadedScenario) -> tuple[Problem, int]:
    """What is done at a point, and its limit in tokens."""
    workload, seed = scenario.config.workload, scenario.config.seed
    said = workload.strategy
    if group.axis == "best_of_n":
        requests = generate(workload.model_copy(update={"strategy": BestOfN(kind="best_of_n", samples=point)}), seed)
        limit = group.limit or getattr(workload.output_tokens, "max", None) or int(requests.output_tokens.max())
        return Problem.of(replace(requests, output_tokens=np.minimum(requests.output_tokens, limit))), limit
    forced = said.forced_end_tokens if isinstance(said, LongCot) else 0
    limit = group.limit or (said.budget if isinstance(said, LongCot) else LIMITS[-1])
    if not group.tokens:
        limit = point
        cut = LongCot(kind="long_cot", budget=limit, forced_end_tokens=forced)
        return Problem.of(generate(workload.model_copy(update={"strategy": cut}), seed)), limit
    requests = generate(workload.model_copy(update={"strategy": Chat()}), seed)  # as long as they come
    return Problem.of(replace(requests, output_tokens=stretched(requests.output_tokens, point, limit, forced))), limit


def stretched(lengths: np.ndarray, mean: int, limit: int, forced: int) -> np.ndarray:
    """`lengths` times one factor, cut at `limit` with `forced` more tokens, so that their mean is `mean`; int64.

    Raises
    ------
    InputError : no factor gives that mean.
    """

    def cut(factor: float) -> np.ndarray:
        longer = np.maximum(np.rint(lengths * factor), 1)
        return np.where(longer <= limit, longer, limit + forced).astype(np.int64)

    low, high = 1e-6, 1e6
    if not cut(low).mean() <= mean <= cut(high).mean():
        allowed = f"a mean of 1 to {limit + forced:,} tokens"
        raise InputError("no such mean length", place="tokens", found=mean, allowed=allowed)
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if cut(middle).mean() <= mean else (low, middle)
    return cut(low)


def require_servable(group: Group, policy: Policy, stages: Stages, problem: Problem, point: int) -> None:
    """InputError for a strategy that cannot be served on one of the rungs."""
    scenario, most = stages.last.scenario, stages.last.params.max_model_len
    kind = "tokens" if group.tokens else "limit" if group.axis == "long_cot" else "trials"
    where = f"{scenario.model.name}, {policy}, {kind} {point:,}"
    longest = int((problem.requests.prompt_tokens + problem.requests.output_tokens).max())
    if longest > most:
        raise InputError(
            f"{where}: some trials would be longer than max_model_len", file=scenario.origin,
            place="engine.max_model_len", found=most, allowed=f"at least {longest}, or shorter trials",
        )  # fmt: skip
    try:
        for deployment in (stages.alone, stages.last):
            check_servable(problem.requests, deployment.params)
    except InputError as error:
        raise InputError(
            f"{where}: {error.problem}", file=scenario.origin, place=error.place, found=error.found,
            allowed=error.allowed,
        ) from None  # fmt: skip
