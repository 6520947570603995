"""How sure a plan is: what would have to be bought if all service times were at the ends of their 80 % interval.

The interval is the run's own (`simulator.interval`): every kernel, the host and every transfer take a factor longer, or
shorter, than predicted (`simulator.outlooks`). The load stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from hwspecs.errors import InputError
from simulator.deployment import Deployment, deploy, rehost
from simulator.fleet import Fleet, deploy_pools, rehost_pools
from simulator.outlooks import stretched
from simulator.planning.candidates import Base, scenario_of
from simulator.planning.judge import verdict_of
from simulator.planning.model import Candidate, Objective, Outcome, Verdict
from simulator.planning.prices import Prices
from simulator.processes import process_pool
from workloads.requests import generate
from workloads.scenario import LoadedScenario

Progress = Callable[[int, int], None]
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
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Stability | None]:
    """Serve the load again at both ends of the interval of every outcome; None for one without.

    For each end about two simulations, and one more for every halving of the numbers of replicas that come into
    question. The ends are worked on by `jobs` processes.
    """
    tasks = [
        _Task(base, one.candidate, tuple(objectives), factor)
        for one in outcomes
        if one is not None and one.interval is not None
        for factor in one.interval
    ]
    found = iter(_ends(tasks, min(jobs or os.cpu_count() or 1, len(tasks)), progress))
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


def _ends(tasks: list[_Task], jobs: int, progress: Progress | None) -> list[End]:
    """What is found at each end, in order."""
    found: list[End] = []

    def keep(answers: Iterable[End]) -> list[End]:
        for answer in answers:
            found.append(answer)
            if progress is not None:
                progress(len(found), len(tasks))
        return found

    if jobs <= 1:
        return keep(map(_end, tasks))
    with process_pool(jobs) as pool:
        return keep(pool.map(_end, tasks))


def _end(task: _Task) -> End:
    probe = _Probe(task.base, task.candidate, task.objectives)
    verdict = probe.verdict(task.candidate, task.factor)
    return End(task.factor, verdict, probe.fewest(task.candidate, task.factor, verdict.met), None)


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

    def meets(self, candidate: Candidate, factor: float) -> bool:
        """Whether it is allowed (a link may not reach so many workers) and meets the objectives."""
        try:
            return self.verdict(candidate, factor).met
        except InputError:
            return False

    def _served(self, scenario: LoadedScenario) -> Deployment | Fleet:
        if isinstance(self.served, Fleet):
            return rehost_pools(self.served, scenario)
        return rehost(self.served, scenario)

    def fewest(self, candidate: Candidate, factor: float, met: bool) -> Candidate | None:
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
                if tried == fails:
                    return None
            if self.meets(scaled(candidate, tried), factor):
                does = tried
            else:
                fails = tried
            step *= 2
        while does - fails > 1:
            middle = (does + fails) // 2
            if self.meets(scaled(candidate, middle), factor):
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
