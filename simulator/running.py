"""From a scenario to a result: deploy it, draw the requests, run the engine, count.

The one place that knows the order of these steps; each is a function of its own module.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hwspecs.errors import InputError
from simulator.assemble import build_result
from simulator.assemblepools import build_pools_result
from simulator.deployment import deploy
from simulator.disaggregated import check_pools, simulate_pools
from simulator.engine import check_servable, simulate
from simulator.fleet import deploy_pools
from simulator.result import Result
from workloads.requests import generate
from workloads.scenario import LoadedScenario


def run_scenario(scenario: LoadedScenario, *, progress: Callable[[int, int], None] | None = None) -> Result:
    """Simulate a scenario. Raises InputError before the simulation starts if it cannot be served."""
    started = time.perf_counter()
    if scenario.pools is not None:
        return _run_pools(scenario, started, progress)
    deployment = deploy(scenario)
    requests = generate(scenario.config.workload, scenario.config.seed)
    try:
        check_servable(requests, deployment.params)
    except InputError as error:
        raise error.at(file=scenario.origin) from None
    simulated = time.perf_counter()
    log = simulate(requests, deployment.cost, deployment.params, progress=progress)
    wall = time.perf_counter() - simulated
    return build_result(deployment, requests, log, wall_s=wall, started=started)


def _run_pools(scenario: LoadedScenario, started: float, progress: Callable[[int, int], None] | None) -> Result:
    """The same with prefill and decode on workers of their own."""
    fleet = deploy_pools(scenario)
    requests = generate(scenario.config.workload, scenario.config.seed)
    try:
        check_pools(requests, *fleet.pools)
    except InputError as error:
        raise error.at(file=scenario.origin) from None
    simulated = time.perf_counter()
    log = simulate_pools(requests, *fleet.pools, fleet.handover, progress=progress)
    wall = time.perf_counter() - simulated
    return build_pools_result(fleet, requests, log, wall_s=wall, started=started)
