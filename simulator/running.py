"""From a scenario to a result: deploy it, draw the requests, run the engine, count.

The one place that knows the order of these steps; each is a function of its own module.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hwspecs.errors import InputError
from simulator.assemble import build_result
from simulator.assemblepools import build_pools_result
from simulator.deployment import Deployment, deploy
from simulator.disaggregated import check_pools, simulate_pools
from simulator.engine import check_servable, simulate
from simulator.fleet import Fleet, deploy_pools
from simulator.result import Result
from workloads.requests import generate
from workloads.scenario import LoadedScenario


def run_scenario(scenario: LoadedScenario, *, progress: Callable[[int, int], None] | None = None) -> Result:
    """Simulate a scenario. Raises InputError before the simulation starts if it cannot be served."""
    started = time.perf_counter()
    served = deploy(scenario) if scenario.pools is None else deploy_pools(scenario)
    return run_served(served, progress=progress, started=started)


def run_served(
    served: Deployment | Fleet,
    *,
    progress: Callable[[int, int], None] | None = None,
    started: float | None = None,
) -> Result:
    """The same of a scenario that has been compiled. started : when that began, of `time.perf_counter`."""
    started = time.perf_counter() if started is None else started
    if isinstance(served, Fleet):
        return _run_pools(served, started, progress)
    scenario = served.scenario
    requests = generate(scenario.config.workload, scenario.config.seed)
    try:
        check_servable(requests, served.params)
    except InputError as error:
        raise error.at(file=scenario.origin) from None
    simulated = time.perf_counter()
    log = simulate(requests, served.cost, served.params, progress=progress)
    wall = time.perf_counter() - simulated
    return build_result(served, requests, log, wall_s=wall, started=started)


def _run_pools(fleet: Fleet, started: float, progress: Callable[[int, int], None] | None) -> Result:
    """The same with prefill and decode on workers of their own."""
    scenario = fleet.scenario
    requests = generate(scenario.config.workload, scenario.config.seed)
    try:
        check_pools(requests, *fleet.pools)
    except InputError as error:
        raise error.at(file=scenario.origin) from None
    simulated = time.perf_counter()
    log = simulate_pools(requests, *fleet.pools, fleet.handover, progress=progress)
    wall = time.perf_counter() - simulated
    return build_pools_result(fleet, requests, log, wall_s=wall, started=started)
