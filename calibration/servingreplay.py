"""Replays the rows of a serving table through the simulator, each as its load generator loaded it.

Never a formula: requests are drawn, the engine runs, and TTFT and TPOT are means over the requests, as the load
generators computed them (TPOT of a request: from its first token to its end, over the tokens after the first). Rows
that are served by one deployment share its compiled `StepCost`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from calibration.servingruns import deployment_spec, workload_spec
from hwspecs.errors import InputError
from simulator.accounting import operator_totals
from simulator.deployment import Deployment, deploy
from simulator.engine import check_servable, simulate
from simulator.interval import run_interval
from workloads.requests import generate
from workloads.scenario import LoadedScenario, load_scenario

NAN = float("nan")
NO_INTERVAL = (NAN, NAN)
ALONE = 4
"""So few deployments are replayed in this process: starting others takes longer."""
MOST_WORDS = 200

Row = dict[str, Any]
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Replay:
    """What was predicted for a row.

    Attributes
    ----------
    ttft, tpot : means in seconds; nan without a prediction, tpot also where outputs have a single token.
    interval : of the mean TPOT, 80 %, from the held-out errors of its kernels; nan without a fitted profile.
    batch : mean number of decoding sequences over the steps' time. preemptions : of all requests.
    profile : what timed the steps; empty without a prediction. reason : why there is none.
    """

    ttft: float = NAN
    tpot: float = NAN
    interval: tuple[float, float] = NO_INTERVAL
    batch: float = NAN
    preemptions: int = 0
    profile: str = ""
    reason: str = ""


def replay(
    rows: Sequence[Row], *, profile: str | None = None, jobs: int | None = None, report: Report | None = None
) -> list[Replay]:
    """Predictions of `rows`, in their order; they do not depend on each other, nor on `jobs`.

    Parameters
    ----------
    profile : times all rows (a name or a file); left out, the nearest to each row's GPU and engine does.
    jobs : processes; as many as cores if not given. report : called as `report(done, total)`.

    Raises
    ------
    InputError : the profile asked for cannot be used.
    """
    out: list[Replay | None] = [None] * len(rows)
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        try:
            spec = deployment_spec(row, profile)
        except InputError as error:
            out[i] = Replay(reason=_words(error))
            continue
        groups.setdefault(json.dumps(spec, sort_keys=True), []).append(i)
    # The largest first, so that no core waits for the last one.
    order = sorted(groups.items(), key=lambda item: -sum(_effort(rows[i]) for i in item[1]))
    tasks = [(json.loads(key), [rows[i] for i in members]) for key, members in order]
    done = sum(entry is not None for entry in out)

    def keep(task: int, answers: list[Replay]) -> None:
        nonlocal done
        for i, answer in zip(order[task][1], answers, strict=True):
            out[i] = answer
        done += len(answers)
        if report is not None:
            report(done, len(rows))

    jobs = min(jobs or os.cpu_count() or 1, len(tasks))
    if jobs < 2 or len(tasks) <= ALONE:
        for number, task in enumerate(tasks):
            keep(number, replay_group(*task))
    else:
        with ProcessPoolExecutor(jobs) as pool:
            futures = {pool.submit(replay_group, *task): number for number, task in enumerate(tasks)}
            for future in as_completed(futures):
                keep(futures[future], future.result())
    return [entry for entry in out if entry is not None]


def replay_group(spec: dict[str, Any], rows: Sequence[Row]) -> list[Replay]:
    """Predictions of rows that one deployment serves, which is compiled once."""
    deployment: Deployment | None = None
    answers = []
    for row in rows:
        try:
            scenario = load_scenario({**spec, "workload": workload_spec(row)})
            deployment = deployment or deploy(scenario)
            answers.append(replay_row(deployment, scenario))
        except InputError as error:
            if error.place == "profile":
                raise
            answers.append(Replay(reason=_words(error)))
    return answers


def replay_row(deployment: Deployment, scenario: LoadedScenario) -> Replay:
    """One run of `scenario`'s load on `deployment`. Raises InputError where a request can never be served."""
    requests = generate(scenario.config.workload, scenario.config.seed)
    check_servable(requests, deployment.params)
    log = simulate(requests, deployment.cost, deployment.params)
    ttft = log.first_token_s - log.submitted_s
    more = log.generated > 1
    tpot = (log.finish_s - log.first_token_s)[more] / (log.generated[more] - 1)
    mean = float(tpot.mean()) if len(tpot) else NAN
    busy = log.timeline["duration_s"]
    interval = run_interval(
        deployment.cost, operator_totals(deployment.cost, log.timeline), makespan=None, busy=1.0, tpot=mean
    )
    return Replay(
        ttft=float(ttft.mean()),
        tpot=mean,
        interval=tuple(interval["tpot_s"]) if interval is not None and mean == mean else NO_INTERVAL,
        batch=float((log.timeline["decode_seqs"] * busy).sum() / busy.sum()),
        preemptions=int(log.preemptions.sum()),
        profile=deployment.profile.name,
    )


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
