"""How sure a plan is: what would have to be bought if all service times were at the ends of their 80 % interval.

The interval is the run's own (`simulator.interval`): every kernel, the host and every transfer take a factor longer, or
shorter, than predicted (`simulator.outlooks`). The load stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from simulator.deployment import Deployment, deploy, rehost
from simulator.fleet import Fleet, deploy_pools, rehost_pools
from simulator.outlooks import stretched
from simulator.planning.candidates import Base, scenario_of
from simulator.planning.judge import verdict_of
from simulator.planning.model import Candidate, Objective, Outcome, Verdict
from simulator.planning.prices import Prices
from workloads.requests import generate
from workloads.scenario import LoadedScenario

MOST = 2.0
"""Times as many replicas as planned: beyond, no number is looked for."""


@dataclass(frozen=True)
class End:
    """A deployment at one end of its interval.

    Attributes
    ----------
    factor : on all service times. verdict : of the deployment as it is. needed : the same with as many replicas as the
        objectives need then, the fewest that were found by bisection; None if up to MOST times as many do not do.
    usd_per_hour : of `needed`.
    """

    factor: float
    verdict: Verdict
    needed: Candidate | None
    usd_per_hour: float | None


@dataclass(frozen=True)
class Stability:
    """A deployment at both ends of its interval; `low` is the fast one. None where no interval is known."""

    low: End
    high: End


def stabilities(
    base: Base,
    outcomes: Sequence[Outcome | None],
    objectives: Sequence[Objective],
    prices: Prices,
    *,
    max_gpus: int,
    jobs: int | None = None,
) -> list[Stability | None]:
    """Serve the load again at both ends of the interval of every outcome; None for one without.

    For each end about two simulations, and one more for every halving of the numbers of replicas that come into
    question. No more than `max_gpus` are tried. The ends are worked on by `jobs` processes.
    """
    tasks = [
        _Task(base, one.candidate, tuple(objectives), factor, max_gpus)
        for one in outcomes
        if one is not None and one.interval is not None
        for factor in one.interval
    ]
    jobs = min(jobs or os.cpu_count() or 1, len(tasks))
    if jobs > 1:
        with ProcessPoolExecutor(jobs) as pool:
            found = iter(list(pool.map(_end, tasks)))
    else:
        found = iter([_end(task) for task in tasks])
    sure: list[Stability | None] = []
    for one in outcomes:
        if one is None or one.interval is None:
            sure.append(None)
            continue
        ends = [replace(end, usd_per_hour=prices.usd_per_hour(end.needed)) if end.needed else end
                for end in (next(found), next(found))]  # fmt: skip
        sure.append(Stability(*ends))
    return sure


@dataclass(frozen=True)
class _Task:
    """One end of one deployment."""

    base: Base
    candidate: Candidate
    objectives: tuple[Objective, ...]
    factor: float
    max_gpus: int


def _end(task: _Task) -> End:
    probe = _Probe(task.base, task.candidate, task.objectives)
    verdict = probe.verdict(task.candidate, task.factor)
    return End(task.factor, verdict, probe.fewest(task.candidate, task.factor, verdict.met, task.max_gpus), None)


class _Probe:
    """Runs of one deployment with other numbers of replicas and other service times; compiles it once."""

    def __init__(self, base: Base, candidate: Candidate, objectives: Sequence[Objective]) -> None:
        self.base, self.objectives = base, objectives
        scenario = scenario_of(base, candidate)
        self.served: Deployment | Fleet = deploy(scenario) if scenario.pools is None else deploy_pools(scenario)
        self.requests = generate(scenario.config.workload, scenario.config.seed)

    def verdict(self, candidate: Candidate, factor: float) -> Verdict:
        served = self._served(scenario_of(self.base, candidate))
        return verdict_of(stretched(served, self.requests, factor), self.objectives)

    def _served(self, scenario: LoadedScenario) -> Deployment | Fleet:
        if isinstance(self.served, Fleet):
            return rehost_pools(self.served, scenario)
        return rehost(self.served, scenario)

    def fewest(self, candidate: Candidate, factor: float, met: bool, max_gpus: int) -> Candidate | None:
        """The fewest replicas that meet the objectives: from the planned number in steps that double, downwards where
        it does and else upwards, then by bisection.
        """
        planned, step = candidate.workers.replicas, 1
        does, fails = (planned, 0) if met else (0, planned)
        while not (does and fails):
            if met:
                tried = max(does - step, 0)
                if tried == 0:
                    break
            else:
                tried = min(fails + step, int(MOST * planned))
                if tried == fails or scaled(candidate, tried).gpus > max_gpus:
                    return None
            if self.verdict(scaled(candidate, tried), factor).met:
                does = tried
            else:
                fails = tried
            step *= 2
        while does - fails > 1:
            middle = (does + fails) // 2
            if self.verdict(scaled(candidate, middle), factor).met:
                does = middle
            else:
                fails = middle
        return scaled(candidate, does)


def scaled(candidate: Candidate, replicas: int) -> Candidate:
    """With another number of replicas; prefill workers in proportion, rounded up."""
    planned, prefill = candidate.workers.replicas, candidate.prefill
    if prefill is not None:
        prefill = replace(prefill, replicas=-(-prefill.replicas * replicas // planned))
    return replace(candidate, workers=replace(candidate.workers, replicas=replicas), prefill=prefill)
