"""What the strategies of a table cost in the simulator: a scenario's engine, kept full with such problems.

Every trial of a row is of one length, its mean `tokens`, and problems of this kind queue without end (`steady`). A row
with `lengths` costs the mean over them of what trials of one such length each cost. What batches of mixed lengths, the
drain of a finite benchmark and time without work add is left to `kinesim law compare` and `kinesim run`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError, near_matches
from simulator.law.costs import NEEDED, row_lengths
from simulator.law.options import MOST, Policy
from simulator.law.pricing import UNITS
from simulator.law.serving.pointgrid import Grid, evaluate, make_grid
from simulator.law.serving.steadyruns import Costs, Facts, Setting, Task, run_task, split
from simulator.law.strategies import ATTENTIONS
from simulator.processes import process_pool

if TYPE_CHECKING:
    import pandas as pd

MEANS, WORK = ("batch", "preemptions"), ("eflops", "energy_j")
"""Of a `SteadyCost` what are means over time or trials and not costs of a problem, and what needs its work counted."""
Progress = Callable[[int, int], None]


def simulated_costs(
    table: pd.DataFrame,
    base: str | Path | Mapping[str, Any] = "aime24-long-cot",
    unit: str = "seconds",
    *,
    gpu: str | None = None,
    sets: Sequence[str] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """The cost of a problem (all its trials) for each row of a table of strategies, float64.

    Parameters
    ----------
    unit : of `pricing.UNITS`: `eflops` (FLOPs that were done + HBM bytes x peak FLOP/s over bytes/s, in 1e12),
        `seconds` (GPU-seconds), `usd` or `joules`.
    base, gpu, sets, jobs, progress : as of `simulate_strategies`.

    Raises
    ------
    InputError : as `simulate_strategies`, and for an unknown unit or a GPU without a price.
    """
    if unit not in UNITS:
        raise InputError("unknown unit of cost", place="unit", found=unit, allowed=near_matches(str(unit), UNITS))
    work = unit in ("eflops", "joules")
    found = simulate_strategies(table, base, gpu=gpu, sets=sets, jobs=jobs, progress=progress, work=work)
    if unit == "usd" and found["usd"].isna().any():
        name = Setting(base, tuple(sets), gpu).load().gpu.name
        allowed = "--set gpu.price='{usd_per_hour: 4, date: 2026-05}', or a GPU with a price"
        raise InputError("no price is known of this GPU", place="gpu", found=name, allowed=allowed)
    return found[unit].to_numpy(dtype=float)


def simulate_strategies(
    table: pd.DataFrame,
    base: str | Path | Mapping[str, Any] = "aime24-long-cot",
    *,
    gpu: str | None = None,
    sets: Sequence[str] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
    work: bool = True,
) -> pd.DataFrame:
    """What a problem costs by each row of a table of strategies, and how it was served; the index is the table's.

    Parameters
    ----------
    table : as in `strategies`; accuracy, limit and problem are not asked for.
    base, sets, gpu : the scenario that says engine, precision, profile and layout, assignments to it, and another GPU.
        Its model, attention and workload give way to the rows'. A model that does not fit is spread over the fewest
        GPUs, a power of two times as many, on which it does.
    jobs : processes; as many as there are cores if left out.
    progress : called with the strategies' points simulated so far, and all of them.
    work : whether FLOPs, bytes and joules are counted, which takes longer; without it their columns are NaN.

    Returns
    -------
    Columns `seconds` (GPU-seconds), `usd` (NaN without a price), `joules`, `eflops` (FLOPs + HBM bytes x E, in 1e12),
    `peak_eflops` (seconds x peak FLOP/s, in 1e12: the eFLOPs that the time would have been good for), `batch`
    (sequences that decode at a time), `preemptions` (of a trial), `gpus` (of a replica), `profile`, `note`.

    Raises
    ------
    InputError : a column that is missing, numbers out of range, an unknown model, attention or GPU, or a strategy that
        cannot be served, which is named.
    """
    import pandas as pd

    setting = Setting(base, tuple(sets), gpu)
    setting.check()
    setting.load()  # so that what is wrong with the scenario itself is said first
    keys, prompts, lengths, rows, trials, exact = _asked(table)
    places = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    kind = np.array([places[key] for key in keys], dtype=int)[rows]
    groups = {key: np.flatnonzero(kind == i) for key, i in places.items()}
    grids = {key: make_grid(prompts[here], lengths[here], trials[here]) for key, here in groups.items()}
    costs, facts = _simulate(setting, grids, jobs, progress, work)

    shares = 1.0 / np.bincount(rows, minlength=len(table))[rows]
    names = ("seconds", *MEANS, *(WORK if work else ()))
    sums = {name: np.full(len(table), 0.0 if name in names else np.nan) for name in ("seconds", *MEANS, *WORK)}
    for key, here in groups.items():
        known = costs[key[0]]
        for name in names:
            values = {point: getattr(known[key[1], point], name) for point in grids[key].points}
            at = prompts[here], lengths[here], trials[here]
            if name in MEANS:
                found = _mean_at(grids[key], values, *at)
            else:
                found = evaluate(grids[key], values, *at) * exact[here]
            sums[name] += np.bincount(rows[here], weights=found * shares[here], minlength=len(table))
    of = [facts[key] for key in keys]
    varied = np.bincount(rows, minlength=len(table)) > 1
    return pd.DataFrame(
        {
            "seconds": sums["seconds"],
            "usd": [
                s / 3600 * f.usd_per_hour if f.usd_per_hour is not None else np.nan
                for s, f in zip(sums["seconds"], of, strict=True)
            ],
            "joules": sums["energy_j"],
            "eflops": sums["eflops"] / 1e12,
            "peak_eflops": [s * f.peak / 1e12 for s, f in zip(sums["seconds"], of, strict=True)],
            "batch": sums["batch"],
            "preemptions": sums["preemptions"],
            "gpus": [f.gpus for f in of],
            "profile": [f.profile for f in of],
            "note": [_note(f, grids[key], lengths_vary) for f, key, lengths_vary in zip(of, keys, varied, strict=True)],
        },
        index=table.index,
    )


def summed_notes(table: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """What has to be said beside costs that `simulate_strategies` found for `table`: each note once, with its models
    unless it is of all.
    """
    models: dict[str, dict[str, None]] = {}
    for model, notes in zip(table["model"], found["note"], strict=True):
        for note in filter(None, notes.split("; ")):
            models.setdefault(note, {})[str(model)] = None
    every = table["model"].nunique()
    return [note if len(named) == every else f"{', '.join(named)}: {note}" for note, named in models.items()]


def _note(facts: Facts, grid: Grid, varied: bool) -> str:
    notes = [facts.note] if facts.note else []
    if not grid.whole:
        notes.append(f"interpolated between {len(grid.points)} simulated strategies of a model and attention")
    if varied:
        notes.append("mean over lengths of batches of one length each")
    return "; ".join(notes)


def _asked(
    table: pd.DataFrame,
) -> tuple[list[tuple[str, Policy]], np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Model and attention of each row; and of every length of every row: prompt, whole length, row, trials, and the
    length asked for over the whole one.
    """
    if missing := [name for name in (*NEEDED, "local") if name not in table.columns]:
        allowed = ", ".join((*NEEDED, "local"))
        raise InputError("columns are missing from the table of strategies", found=missing, allowed=allowed)
    keys = [
        (str(model), _policy(attention, budget, page, local, i))
        for i, (model, attention, budget, page, local) in enumerate(
            table[["model", "attention", "budget", "page", "local"]].itertuples(index=False, name=None)
        )
    ]
    asked, rows = row_lengths(table)
    prompts = table["prompt_tokens"].to_numpy(dtype=float)[rows]
    trials = table["trials"].to_numpy(dtype=float)[rows]
    for name, values, allowed in (
        ("prompt_tokens", prompts, "tokens, at least 1"),
        ("tokens", asked, "generated tokens of a trial, more than 0"),
        ("trials", trials, "a whole number of trials, at least 1"),
    ):
        least = 0 if name == "tokens" else 0.5
        bad = ~((values > least) & (values <= MOST))
        if name == "trials":
            bad |= values != np.floor(values)
        if bad.any():
            at = int(np.argmax(bad))
            place = f"row {int(rows[at])}, column {name}"
            raise InputError("not a strategy", place=place, found=float(values[at]), allowed=allowed)
    whole = np.maximum(np.rint(asked), 1).astype(int)
    return keys, np.rint(prompts).astype(int), whole, rows, trials.astype(int), asked / whole


def _policy(attention: str, budget: float, page: float, local: float, row: int) -> Policy:
    if attention not in ATTENTIONS:
        allowed = near_matches(str(attention), ATTENTIONS)
        raise InputError("unknown attention", place=f"row {row}, column attention", found=attention, allowed=allowed)
    if attention == "dense":
        return Policy("dense")
    if not (budget >= 1 and budget == int(budget)):
        allowed = "a whole number of tokens, at least 1"
        raise InputError("not a KV budget", place=f"row {row}, column budget", found=budget, allowed=allowed)
    if attention == "top_k":
        return Policy("top_k", int(budget))
    if not (page >= 1 and 0 <= local < budget and (budget - local) % page == 0):
        found = f"budget {budget:g}, page {page:g}, local {local:g}"
        allowed = "local tokens and at least one whole page"
        raise InputError("not a budget of block top-k", place=f"row {row}", found=found, allowed=allowed)
    return Policy("block_top_k", int(budget), int(page), int(local))


def _mean_at(
    grid: Grid, values: Mapping[Any, float], prompts: np.ndarray, lengths: np.ndarray, trials: np.ndarray
) -> np.ndarray:
    """A mean that may be zero: at the points themselves, else linear in the logarithm of the length on the curve."""
    if grid.whole:
        return evaluate(grid, values, prompts, lengths, trials)
    known = np.array([values[grid.prompt, n, grid.trials] for n in grid.lengths])
    return np.interp(np.log(lengths), np.log(grid.lengths), known)


def _simulate(
    setting: Setting,
    grids: Mapping[tuple[str, Policy], Grid],
    jobs: int | None,
    progress: Progress | None,
    work: bool,
) -> tuple[dict[str, Costs], dict[tuple[str, Policy], Facts]]:
    """The points of all grids, by model."""
    tasks = []
    for model in dict.fromkeys(model for model, _ in grids):
        points = tuple((policy, grid.points) for (name, policy), grid in grids.items() if name == model)
        longest = tuple((policy, max(every, key=lambda p: p[0] + p[1])) for policy, every in points)
        tasks.append(Task(setting, model, points, longest, work))
    jobs = jobs or os.cpu_count() or 1
    if tasks:
        pieces = -(-2 * jobs // len(tasks)) if jobs > len(tasks) else 1
        tasks = [piece for task in tasks for piece in split(task, pieces)]
    total, done = sum(len(points) for task in tasks for _, points in task.points), 0
    costs: dict[str, Costs] = {model: {} for model, _ in grids}
    facts: dict[tuple[str, Policy], Facts] = {}

    def take(task: Task, found: tuple[Costs, dict[Policy, Facts]]) -> None:
        nonlocal done
        costs[task.model] |= found[0]
        facts.update({(task.model, policy): fact for policy, fact in found[1].items()})
        done += sum(len(points) for _, points in task.points)
        if progress is not None:
            progress(done, total)

    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            take(task, run_task(task))
        return costs, facts
    with process_pool(min(jobs, len(tasks))) as pool:
        futures = {pool.submit(run_task, task): task for task in tasks}
        for future in as_completed(futures):
            take(futures[future], future.result())
    return costs, facts
