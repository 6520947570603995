"""What the rungs of the ladder measure: a model compiled for all of them, and what is to be done for a problem."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any

from simulator import kinds
from simulator.profile import load_profile
from simulator.stepcost import StepCost
from simulator.stepgraph import StepGraph, build_graph

if TYPE_CHECKING:
    from simulator.calibrated import Calibrated
    from simulator.deployment import Deployment
    from simulator.law.serving.saturated import Schedule
    from simulator.law.serving.steady import Caps
    from simulator.profile import Profile
    from workloads.requests import Requests

UNBOUNDED = 1 << 40
"""KV blocks of a memory that is never full."""


@dataclass(frozen=True)
class Problem:
    """What is to be done for a problem.

    `requests` : as the scenario has them, all at once. `prompt`, `tokens` : their mean lengths as whole numbers, which
    rungs 1 to 7 take for all trials. `trials` : N. `records` : of the requests' steps, by what they depend on.
    """

    requests: Requests
    prompt: int
    tokens: int
    trials: int
    records: dict[Any, Schedule] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, requests: Requests) -> Problem:
        mean = [max(1, round(float(x.mean()))) for x in (requests.prompt_tokens, requests.output_tokens)]
        return cls(requests, mean[0], mean[1], requests.n // requests.n_jobs)


@dataclass(frozen=True)
class Stages:
    """A model with an attention on a GPU, compiled for all rungs.

    Attributes
    ----------
    alone : what serves it on one GPU without a host (rungs 4 to 8). last : as the scenario has it (rung 9).
        Where one GPU does not hold the model, `alone` has the memory of the GPUs of `last` together, and GPU-seconds: a
        device with all of their rates would take that much less time.
    beside : extents of decode and prefill of other attentions, with which a schedule is shared (`saturated`).
    """

    alone: Deployment
    last: Deployment
    beside: tuple[Caps, Caps] = ((), ())

    @classmethod
    def of(cls, last: Deployment, alone: Deployment | None) -> Stages:
        """From deployments as scenarios have them; `alone` that on one GPU, None if the model does not fit."""
        found = last if alone is None else alone
        graph, params = found.graph, found.params
        if alone is None and graph.layout.gpus > 1:
            params = replace(params, kv_blocks=int(params.kv_blocks * _copies(graph)))
            attention, skew = found.scenario.config.attention, graph.routing_skew
            graph = build_graph(graph.model, attention, graph.precision, routing_skew=skew)
        cost = _compiled(graph, found.profile, found.cost)
        params = replace(params, request_ticks=0, request_token_ticks=0, ahead=False, receive_steps=1)
        return cls(replace(found, graph=graph, cost=cost, params=params), last)

    @cached_property
    def ideal(self) -> Deployment:
        """At the peaks, and with a memory that is never full."""
        cost = self.alone.cost
        return replace(self.unbounded, cost=_compiled(cost.graph, load_profile("ideal"), cost))

    @cached_property
    def unbounded(self) -> Deployment:
        """With a memory that is never full, and nothing that engines do because it can be."""
        params = replace(
            self.alone.params, kv_blocks=UNBOUNDED, watermark_blocks=0, batch_wait_steps=0, batch_wait_tokens=0
        )
        return replace(self.alone, params=params)

    def caps(self) -> tuple[Caps, Caps]:
        """Extents of decode and of prefill."""
        return self.alone.cost.decode_caps, self.alone.cost.prefill_caps

    def widest(self) -> tuple[Caps, Caps]:
        """These and those of the attentions beside it, in order."""
        found = [tuple(sorted({*own, *more}, key=_wide)) for own, more in zip(self.caps(), self.beside, strict=True)]
        return found[0], found[1]

    def in_flight(self, problem: Problem) -> int:
        """Requests that are served together at most."""
        return min(self.alone.params.max_num_seqs, problem.requests.n)


def _wide(cap: int | None) -> float:
    return inf if cap is None else cap


def _copies(graph: StepGraph) -> float:
    """Times that the GPUs of a layout hold a token's KV in all: KV heads, or latents, that they cannot split."""
    model, kv, tensor = graph.model, graph.precision.kv, graph.layout.tensor
    return tensor * kinds.kv_bytes_per_token(model, kv, tensor) / kinds.kv_bytes_per_token(model, kv, 1)


def _compiled(graph: StepGraph, profile: Profile | Calibrated, like: StepCost) -> StepCost:
    """A graph without a host, for steps and sequences as large as those of another cost."""
    limits = like.max_tokens, like.max_seqs, like.max_context
    return StepCost(graph, like.gpu, profile, max_tokens=limits[0], max_seqs=limits[1], max_context=limits[2])
