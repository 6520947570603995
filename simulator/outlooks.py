"""How far every headline metric may be off: the run again with all its service times at the ends of their interval.

A run knows between which factors 80 % of the time of its steps lies (`simulator.interval`). Arrivals do not stretch
with it, so queues, latencies and goodput follow by no factor: the requests are served once more with every service time
(kernels, host, transfers of KV) at the low end, and once at the high end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from simulator.assemble import build_result
from simulator.assemblepools import build_pools_result
from simulator.deployment import Deployment, deploy
from simulator.disaggregated import simulate_pools
from simulator.engine import Passages, RunLog, simulate
from simulator.fleet import Fleet, deploy_pools
from simulator.headline import headline
from simulator.result import Result
from simulator.running import run_scenario
from simulator.timeline import Timeline
from workloads.requests import Requests, generate
from workloads.scenario import LoadedScenario

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outlook:
    """A result and what it would be at both ends of the interval of its service times.

    Attributes
    ----------
    result : as predicted. fast, slow : with all service times at the low and at the high end; None where no interval is
        known. factors : these ends, as shares of the predicted times.
    """

    result: Result
    fast: Result | None = None
    slow: Result | None = None
    factors: tuple[float, float] | None = None

    @property
    def metrics(self) -> dict[str, float | None]:
        """The headline metrics as predicted."""
        return headline(self.result.summary)

    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """Low and high of every headline metric; None where it, or an interval, is not known.

        A metric that does not follow the times one way has the least and the most of what was seen.
        """
        ends = [headline(end.summary) for end in (self.fast, self.slow) if end is not None]
        found: dict[str, tuple[float, float] | None] = {}
        for key, value in self.metrics.items():
            seen = [end[key] for end in ends]
            known = [v for v in (value, *seen) if v is not None]
            found[key] = (min(known), max(known)) if ends and len(known) == 1 + len(seen) else None
        return found


def outlook(scenario: LoadedScenario, *, progress: Progress | None = None) -> Outlook:
    """Simulate a scenario, and again at both ends of its interval: three runs. Raises InputError as `run_scenario`."""
    return outlook_of(run_scenario(scenario, progress=progress), scenario, progress=progress)


def outlook_of(result: Result, scenario: LoadedScenario, *, progress: Progress | None = None) -> Outlook:
    """The same where the scenario has been simulated already."""
    interval = result.summary.get("interval")
    if interval is None:
        return Outlook(result)
    low, high = interval["kernel_time"]
    served, requests = _ready(scenario)
    fast, slow = (stretched(served, requests, factor, progress=progress) for factor in (low, high))
    return Outlook(result, fast, slow, (low, high))


def run_stretched(scenario: LoadedScenario, factor: float, *, progress: Progress | None = None) -> Result:
    """Simulate a scenario with every service time `factor` times as long.

    Serving requests with times f t is serving them with times t where they arrive at 1 / f of the time, on a clock that
    ticks f times as slowly; what users wait for themselves (think times, timeouts) is shortened with the arrivals. So
    no cost is compiled anew, and the replay is exact.
    """
    if not (np.isfinite(factor) and factor > 0):
        raise ValueError(f"not a factor: {factor}")
    return stretched(*_ready(scenario), factor, progress=progress)


def _ready(scenario: LoadedScenario) -> tuple[Deployment | Fleet, Requests]:
    requests = generate(scenario.config.workload, scenario.config.seed)
    return deploy(scenario) if scenario.pools is None else deploy_pools(scenario), requests


def stretched(
    served: Deployment | Fleet,
    requests: Requests,
    factor: float,
    *,
    progress: Progress | None = None,
) -> Result:
    """The same for what has been compiled and drawn."""
    started = time.perf_counter()
    sooner = replace(
        requests,
        job_arrival_s=requests.job_arrival_s / factor,
        think_time_s=requests.think_time_s / factor,
        timeout_s=None if requests.timeout_s is None else requests.timeout_s / factor,
    )
    if isinstance(served, Fleet):
        log = simulate_pools(sooner, *served.pools, served.handover, progress=progress)
        wall = time.perf_counter() - started
        result = build_pools_result(served, requests, _slower(log, factor), wall_s=wall, started=started, factor=factor)
    else:
        log = simulate(sooner, served.cost, served.params, progress=progress)
        wall = time.perf_counter() - started
        result = build_result(served, requests, _slower(log, factor), wall_s=wall, started=started, factor=factor)
    note = f"all service times are {factor:.4g} times as long as predicted"
    return replace(result, notes=[*result.notes, note])


def _slower(log: RunLog, factor: float) -> RunLog:
    """What was recorded, on the other clock."""
    gaps = log.gaps.copy()
    gaps[:, 1:] *= factor
    times = {name: getattr(log, name) * factor for name in ("submitted_s", "first_token_s", "finish_s")}
    return replace(
        log,
        **times,
        gaps=gaps,
        timeline=_slower_timeline(log.timeline, factor),
        passages=None if log.passages is None else _slower_passages(log.passages, factor),
    )


def _slower_timeline(timeline: Timeline, factor: float) -> Timeline:
    columns = timeline.columns
    return Timeline({n: v * factor if n.partition(".")[0].endswith("_s") else v for n, v in columns.items()})


def _slower_passages(passages: Passages, factor: float) -> Passages:
    names = ("prefilled_s", "reserved_s", "sent_s", "arrived_s", "joined_s")
    return replace(passages, **{name: getattr(passages, name) * factor for name in names})
