"""One candidate after the other: compiled, bounded and simulated, by a process that keeps what several of them share.

The shapes' compiled costs and the drawn requests are kept, so that candidates that differ in their number of replicas
cost a simulation each and nothing else.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwspecs.errors import InputError
from simulator.assemble import build_result
from simulator.assemblepools import build_pools_result
from simulator.deployment import Deployment, deploy, rehost
from simulator.disaggregated import check_pools, simulate_pools
from simulator.engine import check_servable, simulate
from simulator.fleet import Fleet, assemble_fleet
from simulator.handover import as_workers
from simulator.headline import headline
from simulator.planning.bounds import Alone, Broken, Kind, alone, broken_alone, least_workers
from simulator.planning.candidates import Base, gpu_of, scenario_of, shape_of
from simulator.planning.demand import Window, Work, contracts, shared_tokens, windows, work_of
from simulator.planning.floors import step_floor
from simulator.planning.judge import verdict_of
from simulator.planning.model import Candidate, Failed, Objective, Outcome
from simulator.planning.watch import Lost, Tally
from simulator.policy import SECONDS_PER_TICK, EngineParams
from simulator.result import Result
from workloads.requests import Requests, generate
from workloads.scenario import LoadedScenario

KEPT_SHAPES = 48
"""Compiled shapes that a process keeps."""


@dataclass(frozen=True)
class Bounded:
    """What is proven of a shape.

    Attributes
    ----------
    refused : why it cannot serve at all, a sentence; empty if it can. broken : an objective that no number of replicas
        meets. least : replicas, or decode and prefill workers, with fewer of which none is met. need : the same before
        rounding up.
    """

    shape: Candidate
    refused: str = ""
    broken: Broken | None = None
    least: tuple[int, int] = (1, 1)
    need: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Refused:
    """A candidate that cannot serve, though its shape can (workers too many for a link): `why`, a sentence."""

    candidate: Candidate
    why: str


Answer = Outcome | Failed | Refused
Task = tuple[Candidate, float, bool]
"""A candidate, how much faster its requests come, and whether it is watched."""


@dataclass(frozen=True)
class Question:
    """What all trials have in common.

    Attributes
    ----------
    base : what is served. objectives : to be met. prices : USD per GPU-hour of each GPU, by the candidates' names.
    """

    base: Base
    objectives: tuple[Objective, ...]
    prices: Mapping[str, float]

    @property
    def limits(self) -> dict[str, float | None] | None:
        """What a request has to keep to count as goodput, by name; None if nothing is said."""
        said = self.base.loaded.config.objective
        return said.model_dump() if said else None

    def usd_per_hour(self, candidate: Candidate) -> float:
        """Of all GPUs of a candidate."""
        return sum(self.prices[name] * number for name, number in candidate.gpus_by_name().items())

    def outcome(self, candidate: Candidate, result: Result) -> Outcome:
        """What a candidate's run says."""
        interval = result.summary["interval"]
        return Outcome(
            candidate,
            verdict_of(result, self.objectives),
            headline(result.summary),
            self.usd_per_hour(candidate),
            self.tdp_w(candidate),
            notes=tuple(result.notes),
            interval=tuple(interval["kernel_time"]) if interval else None,
        )

    def tdp_w(self, candidate: Candidate) -> float:
        """Watts that all GPUs of a candidate may draw together."""
        return sum(gpu_of(self.base, name).power.tdp * number for name, number in candidate.gpus_by_name().items())


@dataclass
class _Shape:
    """A shape made ready."""

    scenario: LoadedScenario
    engines: tuple[Deployment, ...]  # one, or prefill and decode
    requests: Requests
    least: Alone


class Trials:
    """Answers about candidates, one by one.

    Parameters
    ----------
    engines : those compiled already, by what they depend on; kept up to date.
    """

    def __init__(self, question: Question, engines: OrderedDict[str, Deployment] | None = None) -> None:
        self.question = question
        self._shapes: OrderedDict[Candidate, _Shape] = OrderedDict()
        self._engines = OrderedDict() if engines is None else engines
        self._requests: dict[str, Requests] = {}
        self._spans: dict[tuple[str, float, int], list[Window]] = {}

    # --- bounds -------------------------------------------------------------------------------------------------

    def bound(self, shape: Candidate) -> Bounded:
        """What is proven of a shape without a simulation."""
        question = self.question
        try:
            ready = self._ready(shape)
        except InputError as error:
            return Bounded(shape, refused=_reason(error))
        requests, output = ready.requests, ready.requests.output_tokens
        kinds = self._kinds(ready)
        prefill, decode = kinds[0], kinds[-1]
        broken = broken_alone(
            ready.least,
            question.objectives,
            question.limits,
            early_stop=requests.stop_on_accept,
            first_accepted=_first_accepted(requests, ready.least),
            token=self._least_token(ready, decode),
        )
        if broken is not None:
            return Bounded(shape, broken=broken)
        spans = self._windows(ready, decode.work)
        most = 1 << 20
        if shape.prefill is None:
            number, need = least_workers(decode, spans, output, most)
            return Bounded(shape, least=(number, 1), need=(need, 0.0))
        (first, asked), (second, wanted) = (least_workers(kind, spans, output, most) for kind in (decode, prefill))
        return Bounded(shape, least=(first, second), need=(asked, wanted))

    def _windows(self, ready: _Shape, work: Work) -> list[Window]:
        """The windows to look at, which shapes that serve the same requests of the same lengths have in common."""
        question, requests = self.question, ready.requests
        key = ready.scenario.config.workload.model_dump_json(), float(work.steps.sum()), int(work.served.sum())
        if key not in self._spans:
            agreed = contracts(question.objectives, question.limits, requests.n)
            self._spans[key] = windows(requests, work, agreed)
        return self._spans[key]

    def _kinds(self, ready: _Shape) -> tuple[Kind, ...]:
        requests = ready.requests
        shared = int(shared_tokens(requests).max(initial=0))
        found = []
        params = _params(ready)
        for at, engine in enumerate(ready.engines):
            apart = len(ready.engines) == 2
            prefills, decodes = not apart or at == 0, not apart or at == 1
            work = _work(requests, engine, params[at])
            floor = step_floor(engine.cost, params[at], shared_tokens=shared, prefills=prefills)
            found.append(Kind(floor, work, prefills, decodes, params[at].max_num_batched_tokens))
        return tuple(found)

    def _least_token(self, ready: _Shape, decode: Kind) -> float:
        """Seconds between two tokens of a request, at the least; nothing where tokens may come together."""
        if len(ready.engines) == 2 or ready.engines[0].cost.queries > 1:
            return 0.0
        context = decode.work.context[decode.work.served]
        return float(decode.floor.decode_seconds(context.min(keepdims=True))[0]) if len(context) else 0.0

    # --- trials -------------------------------------------------------------------------------------------------

    def run(self, candidate: Candidate, *, faster: float = 1.0, watched: bool = True) -> Answer:
        """Simulate a candidate until it is done or, if it is `watched`, an objective is lost.

        `faster` : how many times as fast the same requests arrive, or as many are in flight in a closed loop.
        """
        try:
            result = self.result(candidate, faster=faster, watched=watched)
        except InputError as error:
            return Refused(candidate, _reason(error))
        return result if isinstance(result, Failed) else self.question.outcome(candidate, result)

    def result(self, candidate: Candidate, *, faster: float = 1.0, watched: bool = True) -> Result | Failed:
        """The same, with all that the run recorded. Raises InputError for a candidate that cannot serve."""
        question, started = self.question, time.perf_counter()
        ready = self._ready(shape_of(candidate))
        scenario = scenario_of(question.base, candidate)
        requests = sped_up(ready.requests, faster)
        watch = Tally(requests, question.objectives, question.limits, ready.least) if watched else None
        try:
            if len(ready.engines) == 1:
                served = rehost(ready.engines[0], scenario)
                log = simulate(requests, served.cost, served.params, watch=watch)
                return build_result(served, requests, log, wall_s=0.0, started=started)
            fleet = _fleet(scenario, ready.engines)
            log = simulate_pools(requests, *fleet.pools, fleet.handover, watch=watch)
            return build_pools_result(fleet, requests, log, wall_s=0.0, started=started)
        except Lost as lost:
            return Failed(candidate, lost.objective, lost.at_s, lost.value)

    # --- what is shared -----------------------------------------------------------------------------------------

    def _ready(self, shape: Candidate) -> _Shape:
        """The shape compiled. Raises InputError for what cannot serve."""
        known = self._shapes.get(shape)
        if known is not None:
            self._shapes.move_to_end(shape)
            return known
        scenario = scenario_of(self.question.base, shape)
        requests = self._drawn(scenario)
        engines = tuple(self._engine(pool) for pool in scenario.pools or (scenario,))
        if len(engines) == 1:
            check_servable(requests, engines[0].params)
            sent = np.zeros(requests.n)
        else:
            fleet = _fleet(scenario, engines)
            check_pools(requests, *fleet.pools)
            plan, seen = fleet.handover, fleet.handover.first_token != "prefill"
            ticks = plan.latency_ticks + (
                plan.request_ticks + plan.token_ticks * requests.prompt_tokens.astype(float)
                if plan.overlap == "none"
                else 0.0
            )
            sent = np.asarray(ticks) * (SECONDS_PER_TICK if seen else 0.0) + np.zeros(requests.n)
        ready = _Shape(scenario, engines, requests, Alone(*(np.zeros(0),) * 3))
        kinds, door = self._kinds(ready), _door(ready)
        ready.least = alone(kinds[0], kinds[-1], door, sent, requests.output_tokens)
        self._shapes[shape] = ready
        while len(self._shapes) > KEPT_SHAPES:
            self._shapes.popitem(last=False)
        return ready

    def _engine(self, scenario: LoadedScenario) -> Deployment:
        """Compiled for any load: what differs in that alone is compiled once."""
        data = scenario.to_dict()
        served = {name: data.get(name) for name in ("gpu", "model", "precision", "parallelism", "attention",
                                                    "speculation", "engine", "profile")}  # fmt: skip
        key = json.dumps(served, sort_keys=True, default=str)
        if key not in self._engines:
            self._engines[key] = deploy(scenario)
            while len(self._engines) > KEPT_SHAPES:
                self._engines.popitem(last=False)
        self._engines.move_to_end(key)
        return rehost(self._engines[key], scenario)

    def _drawn(self, scenario: LoadedScenario) -> Requests:
        config = scenario.config
        key = config.workload.model_dump_json()
        if key not in self._requests:
            self._requests[key] = generate(config.workload, config.seed)
        return self._requests[key]


def _reason(error: InputError) -> str:
    """What is wrong, without the figures of the one candidate."""
    return error.problem.partition(": ")[0]


def _fleet(scenario: LoadedScenario, engines: Sequence[Deployment]) -> Fleet:
    assert scenario.pools is not None
    prefill, decode = (rehost(made, pool) for made, pool in zip(engines, scenario.pools, strict=True))
    return assemble_fleet(scenario, prefill, decode)


def _params(ready: _Shape) -> list[EngineParams]:
    """Of each engine, as the simulation has them."""
    if len(ready.engines) == 1:
        return [ready.engines[0].params]
    pools = as_workers(*_fleet(ready.scenario, ready.engines).pools)
    return [pool.params for pool in pools]


def _work(requests: Requests, engine: Deployment, params: EngineParams) -> Work:
    return work_of(
        requests,
        max_model_len=params.max_model_len,
        caps=engine.cost.decode_caps,
        advance=engine.cost.advance,
    )


def _door(ready: _Shape) -> np.ndarray:
    """Seconds until each request reaches a scheduler."""
    params = min(_params(ready), key=lambda p: p.request_ticks)
    token = min(p.request_token_ticks for p in _params(ready))
    return np.asarray((params.request_ticks + token * ready.requests.prompt_tokens.astype(float)) * SECONDS_PER_TICK)


def _first_accepted(requests: Requests, least: Alone) -> np.ndarray | None:
    """The least seconds to each problem's first accepted sample, infinite without one; None if nothing is accepted."""
    if not requests.accepted.any():
        return None
    values = np.where(requests.accepted, least.e2e, np.inf)
    return np.minimum.reduceat(values, requests.job_ptr()[:-1])


def sped_up(requests: Requests, factor: float) -> Requests:
    """The same requests, `factor` times as many in a time: arrivals so much closer, or so many more in flight."""
    if factor == 1.0:
        return requests
    if requests.concurrency is not None:
        return replace(requests, concurrency=max(1, round(requests.concurrency * factor)))
    return replace(requests, job_arrival_s=requests.job_arrival_s / factor)


_trials: Trials | None = None
"""Of this process, for tasks that come one by one."""


def start(question: Question) -> None:
    """Prepare a worker process."""
    global _trials
    _trials = Trials(question)


def bound_here(shape: Candidate) -> Bounded:
    """`Trials.bound` in a worker process."""
    assert _trials is not None
    return _trials.bound(shape)


def run_here(task: Task) -> Answer:
    """`Trials.run` in a worker process."""
    assert _trials is not None
    candidate, faster, watched = task
    return _trials.run(candidate, faster=faster, watched=watched)
