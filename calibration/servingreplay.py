"""Replays the rows of a serving table through the simulator, each as its load generator loaded it.

Never a formula: requests are drawn, the engine runs, and TTFT and TPOT are means over the requests, as the load
generators computed them (TPOT of a request: from its first token to its end, over the tokens after the first). Rows
that are served by one deployment share its compiled `StepCost`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from typing import Any

from calibration.servingruns import deployment_spec, workload_spec
from hwspecs.errors import InputError
from simulator.accounting import host_seconds, operator_totals
from simulator.deployment import Deployment, deploy, rehost
from simulator.disaggregated import simulate_pools
from simulator.engine import RunLog, check_servable, simulate
from simulator.fleet import Fleet, deploy_pools, rehost_pools
from simulator.interval import run_interval
from simulator.processes import process_pool
from simulator.timeline import Timeline
from workloads.engine import NO_ENGINE, engine_set
from workloads.requests import generate
from workloads.scenario import LoadedScenario, load_scenario

NAN = float("nan")
NO_INTERVAL = (NAN, NAN)
ALONE = 4
"""So few deployments are replayed in this process: starting others takes longer."""
MOST_WORDS = 400

Row = dict[str, Any]
Report = Callable[[int, int], None]
SpecOf = Callable[[Row, str | None], dict[str, Any]]
"""A row's deployment, as plain data, timed by the profile asked for."""


ROOM = 0.92
"""Share of the memory for an engine whose settings are not known and would leave no room."""


class NoRoom(Exception):
    """A deployment does not fit into the memory that its engine is told to take."""


@dataclass(frozen=True)
class Replay:
    """What was predicted for a row.

    Attributes
    ----------
    ttft, tpot : means in seconds; nan without a prediction, tpot also where outputs have a single token.
    interval : of the mean TPOT, 80 %, from the held-out errors of its kernels; nan without a fitted profile.
    batch : mean number of decoding sequences over the steps' time. preemptions : of all requests.
    profile : what timed the steps; empty without a prediction. reason : why there is none.
    note : what has to be said of the engine's version and settings; empty if they are known.
    """

    ttft: float = NAN
    tpot: float = NAN
    interval: tuple[float, float] = NO_INTERVAL
    batch: float = NAN
    preemptions: int = 0
    profile: str = ""
    reason: str = ""
    note: str = ""


def replay(
    rows: Sequence[Row],
    *,
    profile: str | None = None,
    jobs: int | None = None,
    report: Report | None = None,
    spec_of: SpecOf = deployment_spec,
) -> list[Replay]:
    """Predictions of `rows`, in their order; they do not depend on each other, nor on `jobs`.

    Parameters
    ----------
    profile : times all rows (a name or a file); left out, the nearest to each row's GPU and engine does.
    jobs : processes; as many as cores if not given. report : called as `report(done, total)`.
    spec_of : gives a row's deployment, for the profile asked for.

    Raises
    ------
    InputError : the profile asked for cannot be used.
    """
    return replay_variants(rows, [spec_of], profile=profile, jobs=jobs, report=report)[0]


def replay_variants(
    rows: Sequence[Row],
    variants: Sequence[SpecOf],
    *,
    profile: str | None = None,
    jobs: int | None = None,
    report: Report | None = None,
    intervals: bool = True,
) -> list[list[Replay]]:
    """`replay` of the rows under each of several deployments; those that differ in the host alone are compiled once.

    `intervals` : whether they are wanted; they take a fifth of the time. Otherwise as `replay`.
    """
    out: list[list[Replay | None]] = [[None] * len(rows) for _ in variants]
    # Deployment without its host -> host -> row -> the variants in which it is so.
    groups: dict[str, dict[str, dict[int, list[int]]]] = {}
    for number, spec_of in enumerate(variants):
        for i, row in enumerate(rows):
            try:
                spec = spec_of(row, profile)
            except InputError as error:
                out[number][i] = Replay(reason=_words(error))
                continue
            host = json.dumps(spec["engine"].pop("host", None), sort_keys=True)
            members = groups.setdefault(json.dumps(spec, sort_keys=True), {}).setdefault(host, {})
            members.setdefault(i, []).append(number)
    loads = {
        key: [(host, i, numbers) for host, members in hosts.items() for i, numbers in members.items()]
        for key, hosts in groups.items()
    }
    # The largest first, so that no core waits for the last one.
    order = sorted(loads.items(), key=lambda item: -sum(_effort(rows[i]) for _, i, _ in item[1]))
    tasks = [
        (json.loads(key), [(json.loads(host), rows[i]) for host, i, _ in members], intervals) for key, members in order
    ]
    total = len(rows) * len(variants)
    done = sum(entry is not None for found in out for entry in found)

    def keep(task: int, answers: list[Replay]) -> None:
        nonlocal done
        for (_, i, numbers), answer in zip(order[task][1], answers, strict=True):
            for number in numbers:
                out[number][i] = answer
            done += len(numbers)
        if report is not None:
            report(done, total)

    jobs = min(jobs or os.cpu_count() or 1, len(tasks))
    if jobs < 2 or len(tasks) <= ALONE:
        for number, task in enumerate(tasks):
            keep(number, replay_group(*task))
    else:
        with process_pool(jobs) as pool:
            futures = {pool.submit(replay_group, *task): number for number, task in enumerate(tasks)}
            for future in as_completed(futures):
                keep(futures[future], future.result())
    return [[entry for entry in found if entry is not None] for found in out]


def replay_group(
    spec: dict[str, Any], loads: Sequence[tuple[dict[str, Any] | None, Row]], intervals: bool = True
) -> list[Replay]:
    """Predictions of rows that one deployment serves, which is compiled once, each with its host's constants (None for
    the engine's own); those with the same host follow one another.

    What was measured did fit: where it does not with the settings that are taken for it, it is simulated with ROOM, and
    its note says so.
    """
    try:
        return _replay_group(spec, loads, intervals, version_note(spec["engine"]))
    except NoRoom:
        words = f"does not fit with the settings that are taken for it: simulated with {ROOM:.0%} of the memory"
        note = "; ".join(filter(None, (version_note(spec["engine"]), words)))
        return _replay_group(roomier(spec), loads, intervals, note)


def roomier(spec: dict[str, Any]) -> dict[str, Any]:
    """A deployment whose engine, or engines, may take more of the memory."""
    more = {"memory_utilisation": ROOM}
    if "disaggregation" not in spec:
        return spec | {"engine": spec["engine"] | more}
    pools = {side: pool | {"engine": pool["engine"] | more} for side, pool in spec["disaggregation"].items()}
    return spec | {"disaggregation": pools}


def _replay_group(
    spec: dict[str, Any], loads: Sequence[tuple[dict[str, Any] | None, Row]], intervals: bool, note: str
) -> list[Replay]:
    """The same; raises NoRoom if the deployment does not fit into the memory that its engine takes."""
    deployment: Deployment | Fleet | None = None
    before: dict[str, Any] | None = None
    answers = []
    for host, row in loads:
        engine = spec["engine"] if host is None else {**spec["engine"], "host": host}
        try:
            scenario = load_scenario({**spec, "engine": engine, "workload": workload_spec(row)})
            if deployment is None:
                deployment = deploy(scenario) if scenario.pools is None else deploy_pools(scenario)
            elif host != before:
                if isinstance(deployment, Fleet):
                    deployment = rehost_pools(deployment, scenario)
                else:
                    deployment = rehost(deployment, scenario)
            before = host
            answers.append(replace(replay_row(deployment, scenario, intervals), note=note))
        except InputError as error:
            if error.place == "profile":
                raise
            if "does not fit" in error.problem and _share(spec) < ROOM:
                raise NoRoom from None
            answers.append(Replay(reason=_words(error)))
    return answers


def _share(spec: dict[str, Any]) -> float:
    """The least share of the memory that its engines are told to take; 0 where one is told nothing."""
    pools = spec.get("disaggregation", {"all": spec})
    return float(min(pool["engine"].get("memory_utilisation", 0.0) for pool in pools.values()))


def replay_row(deployment: Deployment | Fleet, scenario: LoadedScenario, intervals: bool = True) -> Replay:
    """One run of `scenario`'s load on `deployment`. Raises InputError where a request can never be served."""
    requests = generate(scenario.config.workload, scenario.config.seed)
    if isinstance(deployment, Fleet):
        log = simulate_pools(requests, *deployment.pools, deployment.handover)
        decodes = log.timeline["replica"] >= deployment.prefill.params.replicas
        timeline = log.timeline.select(decodes)
        deployment = deployment.decode
    else:
        check_servable(requests, deployment.params)
        log = simulate(requests, deployment.cost, deployment.params)
        timeline = log.timeline
    return _means(log, timeline, deployment, intervals)


def _means(log: RunLog, timeline: Timeline, deployment: Deployment, intervals: bool) -> Replay:
    """What is kept of a run whose decoding is in `timeline`, by `deployment`."""
    ttft = log.first_token_s - log.submitted_s
    more = log.generated > 1
    tpot = (log.finish_s - log.first_token_s)[more] / (log.generated[more] - 1)
    mean = float(tpot.mean()) if len(tpot) else NAN
    busy = timeline["duration_s"]
    interval = None
    if intervals:
        totals, host = operator_totals(deployment.cost, timeline), host_seconds(deployment.cost, timeline)
        interval = run_interval(deployment.cost, totals, makespan=None, busy=1.0, tpot=mean, host=host)
    return Replay(
        ttft=float(ttft.mean()),
        tpot=mean,
        interval=tuple(interval["tpot_s"]) if interval is not None and mean == mean else NO_INTERVAL,
        batch=float((timeline["decode_seqs"] * busy).sum() / busy.sum()),
        preemptions=int(log.preemptions.sum()),
        profile=deployment.profile.name,
    )


def version_note(engine: dict[str, Any]) -> str:
    """What has to be said of the version in a scenario's `engine`: that another, or none in particular, was taken."""
    name, version = engine.get("name", NO_ENGINE), engine.get("version")
    if name == NO_ENGINE:
        return ""
    known = engine_set(name, version)
    return known.note if version else f"{known.title} of an unknown version is taken as {known.version}, the newest"


def _effort(row: Row) -> float:
    """Roughly how long a replay takes, compared with others: batch changes, of which a request makes about two."""
    return 200.0 + float(row["concurrency"])


def _words(error: InputError) -> str:
    """What is wrong with a row in a scenario's words, without the place of the scenario, which nobody wrote.

    Without commas: a CSV file in which no cell has any is written without quotes.
    """
    text = InputError(error.problem, place=error.place, found=error.found, allowed=error.allowed).message()
    text = text.replace(",", ";")
    return text if len(text) <= MOST_WORDS else text[: MOST_WORDS - 3] + "..."
