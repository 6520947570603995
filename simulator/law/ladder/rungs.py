"""The nine rungs between the law's closed form and the full simulation, and what a problem costs on each.

Every rung lifts one more assumption (`RUNGS`) and keeps what those below it have lifted. All price the same trials, on
average as long as the scenario's are, on the same GPU. Seconds are GPU-seconds a problem, all its trials together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, nan
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import numpy as np

from hwspecs.dtypes import BYTES
from simulator.accounting import host_seconds
from simulator.engine import simulate
from simulator.law.closedform import law_model
from simulator.law.ladder.lawgraph import AddedCost, decode_seconds, law_graph
from simulator.law.ladder.stages import Problem, Stages
from simulator.law.serving.saturated import Schedule, Ticking, saturated_schedule
from simulator.law.serving.steady import timed_rows
from simulator.law.split import Parts, parts
from simulator.profile import load_profile
from simulator.shape import StepShape
from simulator.stepcost import StepCost

if TYPE_CHECKING:
    from simulator.deployment import Deployment
    from simulator.operators import Operator
    from simulator.timeline import Timeline


@dataclass(frozen=True)
class Rung:
    """`number` from 1; `key` for programs, `title` for tables; `lifts` : the assumption that goes, in words."""

    number: int
    key: str
    title: str
    lifts: str


RUNGS = (
    Rung(1, "closed_form", "closed form", "none: integrals, an infinite batch, compute and memory added"),
    Rung(2, "exact_sums", "exact sums", "sums are integrals; the first token comes with the prompt"),
    Rung(3, "roofline", "roofline", "compute and memory of an operator are added and do not overlap"),
    Rung(4, "whole_graph", "whole graph", "only parameters and attention cost, and the batch is infinite"),
    Rung(5, "prefill", "prefill", "the prompt is free"),
    Rung(6, "kernels", "kernels", "kernels reach the peaks"),
    Rung(7, "memory", "KV memory", "KV memory is infinite"),
    Rung(8, "lengths", "lengths, drain", "trials are equally long and there are always more of them"),
    Rung(9, "deployment", "layout, host", "no communication, and no host"),
)  # fmt: skip
"""From the closed form to the simulation."""


@dataclass(frozen=True)
class Measure:
    """GPU-seconds a problem on one rung, and where they go (NaN: not told apart).

    Attributes
    ----------
    parameters : multiplying with weights. attention : reading the past in decode, search included. host : waiting for
        the host. The rest is everything else, prefill's attention and idle time included.
    batch : decoding sequences, the mean over time; infinite on the rungs without one. preemptions : a problem.
    """

    seconds: float
    parameters: float = nan
    attention: float = nan
    host: float = 0.0
    batch: float = inf
    preemptions: float = 0.0

    @property
    def rest(self) -> float:
        return self.seconds - self.parameters - self.attention - self.host


def measure(stages: Stages, problem: Problem, rung: Rung) -> Measure:
    """What a problem costs on a rung."""
    return _MEASURES[rung.key](stages, problem)


def law_cost(stages: Stages, problem: Problem, timing: type[StepCost] = StepCost) -> StepCost:
    """Steps of the trials of a problem as the law knows them: rung 3, and with `AddedCost` rung 2."""
    graph, gpu = stages.alone.graph, stages.alone.cost.gpu
    shared = (1 - 1 / problem.trials) * problem.prompt
    return timing(
        law_graph(graph, gpu, shared),
        gpu,
        load_profile("ideal"),
        max_tokens=problem.trials,
        max_seqs=problem.trials,
        max_context=problem.prompt + problem.tokens,
    )


def closed_form(stages: Stages, problem: Problem) -> tuple[Parts, float]:
    """The law's cost of a problem, and the peak in FLOP/s that its eFLOPs are divided by."""
    gpu = stages.alone.cost.gpu
    peak = gpu.peak[stages.alone.graph.main_dtype(gpu.peak)]
    return _law(stages, problem.prompt, problem.tokens, problem.trials, peak), peak


def spread(stages: Stages, problem: Problem) -> float:
    """The law's cost of trials of the drawn lengths over that of equal ones, each trial by itself: what of rung 8 the
    law itself says, with as many lengths as there are trials.
    """
    peak, requests = closed_form(stages, problem)[1], problem.requests
    drawn = _law(stages, requests.prompt_tokens, requests.output_tokens, 1, peak).eflops.mean()
    return float(drawn / _law(stages, problem.prompt, problem.tokens, 1, peak).eflops)


def _law(stages: Stages, prompt: Any, tokens: Any, trials: int, peak: float) -> Parts:
    graph, gpu, policy = stages.alone.graph, stages.alone.cost.gpu, stages.alone.scenario.config.attention
    model, kv = law_model(graph.model, graph.precision.kv), BYTES[graph.precision.kv]
    budget, ratio = None if policy.kind == "dense" else policy.decode_cap(None), peak / gpu.memory.bandwidth
    return parts(model, policy.kind, prompt, tokens, trials, budget, policy.page, ratio=ratio, kv_bytes=kv)


def _closed_form(stages: Stages, problem: Problem) -> Measure:
    cost, peak = closed_form(stages, problem)
    total, weights = float(cost.eflops) / peak, float(cost.parameter_flops) / peak
    return Measure(total, weights, total - weights)


def _added(stages: Stages, problem: Problem) -> Measure:
    return _lawful(law_cost(stages, problem, AddedCost), problem)


def _roofline(stages: Stages, problem: Problem) -> Measure:
    return _lawful(law_cost(stages, problem), problem)


def _lawful(cost: StepCost, problem: Problem) -> Measure:
    found = decode_seconds(cost, problem.trials, problem.prompt, problem.tokens - 1)
    total = sum(found.values())
    return Measure(total, found["fixed"], total - found["fixed"])


def _whole(stages: Stages, problem: Problem) -> Measure:
    """All sequences in flight decode side by side from the first token to the last."""
    cost, seqs = stages.ideal.cost, stages.in_flight(problem)
    found = decode_seconds(cost, seqs, problem.prompt, problem.tokens - 1)
    each = problem.trials / seqs  # problems
    shape = StepShape(seqs, seqs, seqs, tuple(0 for _ in cost.decode_caps))
    weights = (problem.tokens - 1) * sum(cost.operator_seconds(op, shape) for op in cost.operators if multiplies(op))
    attention = sum(found[op.name] for op in cost.decode_ops if not multiplies(op))
    weights += sum(found[op.name] for op in cost.decode_ops if multiplies(op))
    return Measure(sum(found.values()) * each, weights * each, attention * each, batch=seqs)


def multiplies(op: Operator) -> bool:
    """Whether an operator multiplies with weights."""
    return op.kind in ("gemm", "grouped_gemm", "mla_bmm") and op.axis != "prefill"


def _prefill(stages: Stages, problem: Problem) -> Measure:
    return _steady(stages.ideal, stages, problem)


def _kernels(stages: Stages, problem: Problem) -> Measure:
    return _steady(stages.unbounded, stages, problem)


def _memory(stages: Stages, problem: Problem) -> Measure:
    return _steady(stages.alone, stages, problem)


def _steady(deployment: Deployment, stages: Stages, problem: Problem) -> Measure:
    """Equal trials, of which there are always more; as many run at a time as in the scenario at most."""
    params = replace(deployment.params, max_num_seqs=stages.in_flight(problem))
    schedule = saturated_schedule(params, *stages.widest(), problem.prompt, problem.tokens, problem.trials)
    found = _scheduled(deployment.cost, schedule, problem)
    # Those who are preempted are seldom among those who finish within a stretch: counted when their KV is back.
    rows = schedule.timeline
    prefills = schedule.weights * rows["steps"] * (rows["rows"] - rows["decode_seqs"])
    return replace(found, preemptions=max(0.0, float(prefills.sum()) - problem.trials))


def _scheduled(cost: StepCost, schedule: Schedule, problem: Problem) -> Measure:
    """The steps of a schedule, timed."""
    timeline = timed_rows(cost, schedule)
    busy = timeline["duration_s"]
    seconds = float(busy.sum())
    return Measure(
        seconds=seconds,
        parameters=weight_seconds(cost, timeline),
        attention=attention_seconds(cost, timeline),
        batch=float((timeline["decode_seqs"] * busy).sum()) / seconds,
        preemptions=schedule.preemptions * problem.trials,
    )


def _lengths(stages: Stages, problem: Problem) -> Measure:
    """The scenario's requests. All are there at the start and no host delays them: who runs in which step does not
    depend on how long steps take, and is simulated once for all attentions (`saturated`).
    """
    params, caps = stages.alone.params, stages.widest()
    if (params, caps) not in problem.records:
        log = simulate(problem.requests, cast(StepCost, Ticking(*caps)), params)
        weights = np.full(len(log.timeline), 1 / problem.requests.n_jobs)
        preempted = float(log.preemptions.mean())
        problem.records[params, caps] = Schedule(log.timeline, weights, *caps, problem.requests.n_jobs, preempted)
    return _scheduled(stages.alone.cost, problem.records[params, caps], problem)


def _deployment(stages: Stages, problem: Problem) -> Measure:
    """The scenario's requests, from the first submission until the last has ended, as `kinesim run` has it."""
    cost, requests = stages.last.cost, problem.requests
    log = simulate(requests, cost, stages.last.params)
    timeline, each = log.timeline, cost.graph.layout.gpus / requests.n_jobs
    busy = timeline["duration_s"]
    return Measure(
        seconds=float(log.finish_s.max() - log.submitted_s.min()) * each,
        parameters=weight_seconds(cost, timeline) * each,
        attention=attention_seconds(cost, timeline) * each,
        host=host_seconds(cost, timeline) * each,
        batch=float((timeline["decode_seqs"] * busy).sum()) / float(busy.sum()),
        preemptions=float(log.preemptions.sum()) / requests.n_jobs,
    )


def attention_seconds(cost: StepCost, timeline: Timeline) -> float:
    """Seconds in which a run read the past of decoding sequences."""
    pairs = enumerate(cost.decode_ops)
    return sum(float(timeline[f"decode_s.{i}"].sum()) for i, op in pairs if not multiplies(op))


def weight_seconds(cost: StepCost, timeline: Timeline) -> float:
    """Seconds in which a run multiplied with weights."""
    total = 0.0
    for i, op in enumerate(cost.decode_ops):
        total += float(timeline[f"decode_s.{i}"].sum()) if multiplies(op) else 0.0
    for op in cost.operators:
        if multiplies(op) and op.axis != "decode":
            rows, seconds = _row_seconds(cost, op)
            each = np.interp(cost.kernel_rows(op, timeline)[0], rows, seconds)
            total += float((each * timeline["steps"]).sum())
    return total


_ROWS: WeakKeyDictionary[StepCost, dict[str, tuple[np.ndarray, np.ndarray]]] = WeakKeyDictionary()
"""What `_row_seconds` has found."""
EVERY = 512
"""Rows up to which an operator is timed for every number of them; above, for 16 an octave, and linear in between."""


def _row_seconds(cost: StepCost, op: Operator) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of rows, and the seconds of an operator, all layers, that sees so many."""
    known = _ROWS.setdefault(cost, {})
    if op.name not in known:
        most = (cost.max_tokens + cost.ranks) * cost.queries
        octaves = max(0.0, np.log2(most / EVERY))
        above = np.rint(EVERY * 2.0 ** (np.arange(1, int(np.ceil(16 * octaves)) + 1) / 16))
        rows = np.concatenate([np.arange(EVERY + 1), above]).astype(int)
        shape = StepShape(rows, rows, 0, tuple(0 for _ in cost.decode_caps))
        known[op.name] = rows, np.broadcast_to(op.count * cost.kernel_terms(op, shape).seconds, rows.shape)
    return known[op.name]


_MEASURES: dict[str, Callable[[Stages, Problem], Measure]] = dict(
    zip(
        (rung.key for rung in RUNGS),
        (_closed_form, _added, _roofline, _whole, _prefill, _kernels, _memory, _lengths, _deployment),
        strict=True,
    )
)
