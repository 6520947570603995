"""The ladder: what a problem costs from the law's closed form to the full simulation, one assumption lifted a rung.

`ladder` compiles every model, attention and GPU once, in processes of their own, and measures the nine rungs
(`simulator.law.ladder.rungs`) at every length or number of trials.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError, near_matches
from simulator.law.ladder.cases import Group, check_scenario, problem_of, require_servable, scenario_of, stages_of
from simulator.law.ladder.rungs import RUNGS, closed_form, measure, spread
from simulator.law.ladder.stages import Problem, Stages
from simulator.law.options import Policy
from simulator.law.strategies import ATTENTIONS, AXES, MODELS, SCENARIOS
from simulator.processes import process_pool

if TYPE_CHECKING:
    import pandas as pd

POINTS = {"long_cot": (2048, 4096, 8192, 16384, 32768), "best_of_n": (1, 2, 4, 8, 16, 32)}
"""Limits in tokens, and numbers of trials, that are measured if none are given."""
ALL = tuple(range(1, len(RUNGS) + 1))
COLUMNS = (
    "rung", "key", "title", "assumption", "gpu", "model", "attention", "budget", "page", "local", "prompt_tokens",
    "limit", "tokens", "trials", "seconds", "eflops", "flops", "spread", "batch", "preemptions", "parameters_s",
    "attention_s", "host_s", "rest_s", "gpus", "profile", "note",
)  # fmt: skip


def ladder(
    models: Sequence[str] | None = MODELS,
    attentions: Sequence[Policy | tuple[str, int]] = (("dense", 0), ("top_k", 1024)),
    *,
    axis: str = "long_cot",
    points: Sequence[int] | None = None,
    tokens: Sequence[int] | None = None,
    limit: int | None = None,
    base: str | Path | Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    gpus: Sequence[str] | None = None,
    page: int = 16,
    local: int = 0,
    rungs: Sequence[int] = ALL,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """GPU-seconds a problem on every rung.

    Parameters
    ----------
    models, gpus : names or paths; None for the scenario's.
    attentions : policies, or (kind, KV budget in tokens) of which block top-k gets `page` and `local`.
    axis : `long_cot`, one trial a problem with its thinking cut at a limit, or `best_of_n`.
    points : the limits, or the numbers of trials; left out, POINTS.
    tokens : in place of limits, mean lengths: the scenario's lengths are stretched by one factor, before they are cut
        at `limit`, so that their mean is this.
    limit : tokens after which trials are cut, where `points` does not say it; left out, the scenario's.
    base, sets : the scenario, as `workloads.scenario.load_scenario` takes it; left out, the axis's bundled one. Its
        model, attention and strategy are replaced; engine, profile, lengths and number of problems are its own.
    rungs : which to measure. jobs : processes; left out, as many as cores.

    Returns
    -------
    A frame with COLUMNS, one row a GPU, model, attention, point and rung, in this order. Seconds are GPU-seconds a
    problem (all trials), `eflops` these at the peak in tera-eFLOPs, `flops` the closed form's FLOPs in tera (the same
    on all rungs). `tokens` is the mean of what a trial generates, whole. `spread` is the closed form at the
    drawn lengths over the closed form at their mean: what of rung 8 the law says too, if it is asked for each trial.

    Raises
    ------
    InputError : whatever is wrong with the scenario, or makes a strategy unservable.
    """
    import pandas as pd

    policies = tuple(_policy(said, page, local) for said in attentions)
    chosen = _points(axis, points, tokens)
    base = SCENARIOS[axis] if base is None else base
    groups = [
        Group(base, tuple(sets), gpu, model, policies, axis, chosen, tokens is not None, limit, tuple(rungs))
        for gpu in gpus or (None,)
        for model in models or (None,)
    ]
    _check(groups)
    rows: list[list[dict[str, Any]]] = [[] for _ in groups]
    for done, (number, found) in enumerate(_climb(groups, jobs), start=1):
        rows[number] = found
        if progress is not None:
            progress(done, len(groups))
    return pd.DataFrame([row for found in rows for row in found], columns=list(COLUMNS))


def _policy(said: Policy | tuple[str, int], page: int, local: int) -> Policy:
    if isinstance(said, Policy):
        return said
    kind, budget = said
    if kind not in ATTENTIONS:
        raise InputError("unknown attention", place="attentions", found=kind, allowed=near_matches(kind, ATTENTIONS))
    if kind != "dense" and budget < 1:
        raise InputError("out of range", place="attentions", found=budget, allowed="a KV budget of at least 1 token")
    return Policy(kind, budget, page, local) if kind == "block_top_k" else Policy(kind, budget)


def _points(axis: str, points: Sequence[int] | None, tokens: Sequence[int] | None) -> tuple[int, ...]:
    if axis not in AXES:
        raise InputError("unknown axis", place="axis", found=axis, allowed=", ".join(AXES))
    if tokens is not None and (points is not None or axis != "long_cot"):
        allowed = "either limits or mean lengths, and with best_of_n numbers of trials"
        raise InputError("two kinds of points", place="tokens", found=list(tokens), allowed=allowed)
    chosen = tuple(tokens if tokens is not None else POINTS[axis] if points is None else points)
    least = 2 if axis == "long_cot" else 1
    if not chosen or min(chosen) < least:
        raise InputError("out of range", place="points", found=list(chosen), allowed=f"integers >= {least}")
    return chosen


def _check(groups: Sequence[Group]) -> None:
    """What can be wrong with the scenarios, before processes start."""
    for group in groups:
        for policy in group.policies:
            check_scenario(scenario_of(group, policy), group.axis)


def climb(group: Group) -> list[dict[str, Any]]:
    """All rows of a group."""
    made = [stages_of(group, policy) for policy in group.policies]
    decode, prefill = (tuple({cap for stages, _ in made for cap in stages.caps()[phase]}) for phase in range(2))
    climbed = [(replace(stages, beside=(decode, prefill)), note) for stages, note in made]
    rows: list[list[dict[str, Any]]] = [[] for _ in group.policies]
    for point in group.points:
        problem, limit = problem_of(group, point, climbed[0][0].last.scenario)
        for found, policy, (stages, note) in zip(rows, group.policies, climbed, strict=True):
            require_servable(group, policy, stages, problem, point)
            found += _rows(group, policy, stages, problem, limit, note)
    return [row for found in rows for row in found]


def _rows(
    group: Group, policy: Policy, stages: Stages, problem: Problem, limit: int, note: str
) -> list[dict[str, Any]]:
    """The rungs of one strategy."""
    scenario, gpu = stages.last.scenario, stages.alone.cost.gpu
    cost, peak = closed_form(stages, problem)
    same = {
        "gpu": gpu.name, "model": scenario.model.name, "attention": policy.kind, "budget": policy.budget,
        "page": policy.page, "local": policy.local, "prompt_tokens": problem.prompt, "limit": limit,
        "tokens": problem.tokens, "trials": problem.trials, "flops": float(cost.flops) / 1e12,
        "spread": spread(stages, problem),
        "profile": stages.last.profile.name, "note": note,
    }  # fmt: skip
    rows = []
    for rung in RUNGS:
        if rung.number not in group.rungs:
            continue
        found = measure(stages, problem, rung)
        rows.append(
            same
            | {
                "rung": rung.number, "key": rung.key, "title": rung.title, "assumption": rung.lifts,
                "seconds": found.seconds, "eflops": found.seconds * peak / 1e12, "batch": found.batch,
                "preemptions": found.preemptions, "parameters_s": found.parameters,
                "attention_s": found.attention, "host_s": found.host, "rest_s": found.rest,
                "gpus": stages.last.graph.layout.gpus if rung is RUNGS[-1] else 1,
            }
        )  # fmt: skip
    return rows


def _climb(groups: Sequence[Group], jobs: int | None) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Rows by the number of their group, as they come."""
    processes = min(jobs or os.cpu_count() or 1, len(groups))
    if processes == 1:
        yield from ((number, climb(group)) for number, group in enumerate(groups))
        return
    with process_pool(processes) as pool:
        # Lists of models tend to end with the largest, which takes longest.
        numbers = {pool.submit(climb, groups[number]): number for number in reversed(range(len(groups)))}
        for future in as_completed(numbers):
            yield numbers[future], future.result()
