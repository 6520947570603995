"""Strategies of one model on one GPU, simulated in saturated serving (`steady`): a piece of work for one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwspecs.errors import InputError
from simulator.calibrated import Calibrated
from simulator.deployment import Deployment, deploy
from simulator.engine import check_servable
from simulator.law.options import Policy
from simulator.law.serving.pointgrid import Point
from simulator.law.serving.saturated import equal_problems
from simulator.law.serving.steady import Caps, SteadyCost, steady_cost
from workloads.scenario import LoadedScenario, load_scenario

WIDEST = 64
"""GPUs that a model is spread over at most, if it does not fit on as many as the scenario says."""


@dataclass(frozen=True)
class Setting:
    """What serves: a scenario (a bundled name, a file, or a mapping), assignments to it, and the GPU if not its own.

    Its model, attention and workload give way to those of the strategies.
    """

    base: str | Path | Mapping[str, Any] = "aime24-long-cot"
    sets: tuple[str, ...] = ()
    gpu: str | None = None

    def check(self) -> None:
        """InputError for assignments to what the strategies, or `gpu`, say."""
        for assignment in self.sets:
            path = assignment.partition("=")[0].strip()
            if path == "gpu" and self.gpu is not None:
                raise InputError("the GPU is given twice", file="--set", found=assignment, allowed=f"only {self.gpu}")
            if path == "model" or path.split(".")[0] == "attention":
                allowed = "engine, precision, parallelism, profile, gpu and what lies in them"
                raise InputError(
                    "strategies have models and attentions of their own",
                    file="--set",
                    found=assignment,
                    allowed=allowed,
                )

    def load(self, model: str | None = None, policy: Policy | None = None, tensor: int | None = None) -> LoadedScenario:
        """The scenario, with a strategy's model and attention.

        Raises
        ------
        InputError : whatever is wrong with it.
        """
        first = [] if self.gpu is None else [f"gpu={self.gpu}"]
        last = [] if policy is None else [f"attention={attention_text(policy)}"]
        if model is not None:
            first.append(f"model={model}")
        if tensor is not None:
            last.append(f"parallelism.tensor={tensor}")
        loaded = load_scenario(self.base, [*first, *self.sets, *last])
        if loaded.pools is not None:
            problem = "strategies are costed on replicas that compute prompts and outputs both"
            raise InputError(
                problem, file=loaded.origin, place="disaggregation", allowed="a scenario without prefill workers"
            )
        return loaded


@dataclass(frozen=True)
class Task:
    """Points of some attentions of a model.

    Attributes
    ----------
    points : of each attention. longest : of them and of those that other processes simulate: what has to fit.
    work : whether FLOPs, bytes and joules are counted.
    """

    setting: Setting
    model: str
    points: tuple[tuple[Policy, tuple[Point, ...]], ...]
    longest: tuple[tuple[Policy, Point], ...]
    work: bool = True


@dataclass(frozen=True)
class Facts:
    """What served: GPUs of a replica, the profile's name, what has to be said, and the GPU's price and peak."""

    gpus: int
    profile: str
    note: str
    usd_per_hour: float | None
    peak: float


Costs = dict[tuple[Policy, Point], SteadyCost]


def attention_text(policy: Policy) -> str:
    """As an assignment to a scenario's `attention` has it."""
    if policy.kind == "dense":
        return "dense"
    if policy.kind == "top_k":
        return f"{{kind: top_k, budget: {policy.budget}}}"
    blocks = (policy.budget - policy.local) // policy.page
    return f"{{kind: block_top_k, page: {policy.page}, blocks: {blocks}, local: {policy.local}}}"


def run_task(task: Task) -> tuple[Costs, dict[Policy, Facts]]:
    """Simulate the points of a task.

    Raises
    ------
    InputError : a strategy that cannot be served, which the message names.
    """
    longest = dict(task.longest)
    served = {policy: _serve(task, policy, longest[policy]) for policy, _ in task.points}
    caps: tuple[list[int | None], list[int | None]] = ([], [])
    for deployment, _ in served.values():
        caps[0].extend(deployment.cost.decode_caps)
        caps[1].extend(deployment.cost.prefill_caps)
    shared: tuple[Caps, Caps] = tuple(caps[0]), tuple(caps[1])
    costs: Costs = {}
    # One schedule is timed for all attentions before the next point's takes its place.
    for point in dict.fromkeys(point for _, points in task.points for point in points):
        for policy, points in task.points:
            if point in points:
                deployment, _ = served[policy]
                try:
                    costs[policy, point] = steady_cost(deployment, *point, work=task.work, with_caps=shared)
                except InputError as error:
                    raise _of(task.model, policy, point, error) from None
    return costs, {policy: _facts(deployment, note) for policy, (deployment, note) in served.items()}


def _serve(task: Task, policy: Policy, longest: Point) -> tuple[Deployment, str]:
    """What serves a model with an attention, on as many GPUs as it takes; a note if they are more than asked for."""
    loaded = task.setting.load(task.model, policy)
    first: InputError | None = None
    tensor = loaded.config.parallelism.tensor
    given, most = tensor, min(loaded.gpu.link.domain, WIDEST)
    while tensor <= most:
        try:
            deployment = deploy(loaded if tensor == given else task.setting.load(task.model, policy, tensor))
            _check(deployment, longest)
        except InputError as error:
            first = first or error
        else:
            note = "" if tensor == given else f"tensor parallelism over {tensor} GPUs, since it does not fit on {given}"
            return deployment, note
        tensor *= 2
    assert first is not None
    raise _of(task.model, policy, longest, first)


def _check(deployment: Deployment, longest: Point) -> None:
    """InputError unless a trial of the longest point can be served."""
    prompt, tokens, trials = longest
    check_servable(equal_problems(prompt, tokens, trials, 1), deployment.params)


def _of(model: str, policy: Policy, point: Point, error: InputError) -> InputError:
    """The error, saying of which strategy it speaks."""
    prompt, tokens, trials = point
    return InputError(
        f"strategy {model}, {policy}, prompt of {prompt:,}, {trials:,} x {tokens:,} tokens: {error.problem}",
        file=error.file,
        place=error.place,
        line=error.line,
        found=error.found,
        allowed=error.allowed,
    )


def _facts(deployment: Deployment, note: str) -> Facts:
    gpu, profile = deployment.scenario.gpu, deployment.profile
    notes = [note] if note else []
    if isinstance(profile, Calibrated) and profile.selection.tier != "exact":
        notes.append(f"kernels transferred to {gpu.name}")
    return Facts(
        deployment.graph.layout.gpus,
        profile.name,
        "; ".join(notes),
        gpu.price.usd_per_hour if gpu.price else None,
        gpu.peak[deployment.graph.main_dtype(gpu.peak)],
    )


def split(task: Task, pieces: int) -> list[Task]:
    """The task in pieces with every so manieth point of each attention, so that several processes share it."""
    pieces = min(pieces, max(len(points) for _, points in task.points))
    if pieces <= 1:
        return [task]
    parts = []
    for i in range(pieces):
        points = tuple((policy, points[i::pieces]) for policy, points in task.points if points[i::pieces])
        if points:
            parts.append(replace(task, points=points))
    return parts
