"""`kinesim calibrate measure`: the GPU of this machine measured by the plan, or the plan alone.

Called by the command line, and by `python -m calibration.measure` where typer and pydantic are missing; so neither
they nor rich may be imported here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibration.measure import figures as gpus
from calibration.measure import outcome, planview, session
from calibration.measure.figures import Driver, Figures
from calibration.measure.plan import KINDS, MINUTES, TABLES, plan
from calibration.measure.specdraft import MISSING, write_draft
from calibration.measure.tablefiles import files_of, keys_of
from calibration.measure.task import Task, key_of
from hwspecs.errors import InputError, near_matches
from simulator.files import check_writable
from simulator.printing import print_json, tell

NEEDED = ("torch", "triton")
FOLDER = "measurements"
LARGEST_SEED = 2**63 - 1


def measure(
    *,
    out: Path | None = None,
    kind: str = "useful",
    minutes: float | None = None,
    only: Sequence[str] = (),
    gpu: str | None = None,
    dry_run: bool = False,
    force: bool = False,
    retry: bool = False,
    seed: int = 0,
    as_json: bool = False,
) -> None:
    """Measure what a plan asks for and the folder does not hold yet, and print a summary; or print the plan.

    Parameters
    ----------
    out : folder of the tables; `measurements/<gpu>` if not given.
    kind : one of `plan.KINDS`. minutes : limit of wall clock; `useful` and `full` have one of their own.
    only : tables (each may name several, separated by commas).
    gpu : name or file of the GPU; if not given, what the driver reports. On a machine with a GPU it must fit that.
    dry_run : print the plan, measure nothing. force : measure although the GPU is busy. retry : also what failed.
    seed : of the random rows.

    Raises InputError, among others where there is no GPU, or no torch and triton, and no dry run was asked for.
    """
    if kind not in KINDS:
        raise InputError("unknown plan", file="--plan", found=kind, allowed=near_matches(kind, KINDS))
    check_minutes(minutes)
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError("not a seed", file="--seed", found=seed, allowed=f"a whole number from 0 to {LARGEST_SEED:,}")
    tables = _tables(only)
    if not dry_run:
        _check_software()
    driver, missing = find_driver()
    figures = _figures(gpu, driver, missing, dry_run)
    folder = out if out is not None else Path(FOLDER) / figures.name
    _check_folder(folder, dry_run)
    count = driver.count if driver is not None else 1
    tasks = plan(figures, kind=kind, only=tables, seed=seed, minutes=minutes, gpus=count)
    limit = minutes if minutes is not None else MINUTES.get(kind)
    if dry_run:
        _dry_run(tasks, folder, figures, kind, limit, as_json)
        return
    draft = write_draft(driver, folder) if figures.estimated and driver is not None else None
    if draft is not None:
        tell(
            f"{figures.title} is not among the bundled GPUs. {draft} is a draft of its file, from what the driver"
            f" reports; missing are {', '.join(MISSING)}. Measuring goes on under the name {figures.name}."
        )
    seconds = limit * 60 if limit is not None else None
    options: dict[str, Any] = {"force": force, "retry": retry, "seed": seed, "plan": kind, "log": folder / "worker.log"}
    there = held(folder, tasks, figures.name)
    allowed = [task for task in tasks if not_the_other(task, there)]
    try:
        summary = session.measure(allowed, folder, gpu=figures.name, limit=seconds, **options)
    except OSError as problem:
        if problem.filename is None or not Path(os.fsdecode(problem.filename)).is_relative_to(folder):
            raise
        raise InputError(
            f"cannot be written ({problem.strerror}); what was measured before is there",
            file=problem.filename, allowed="a writable folder with room; the same command goes on",
        ) from None  # fmt: skip
    report = outcome.document(summary, folder, figures, kind, draft)
    if as_json:
        print_json(report)
    else:
        sys.stdout.write(outcome.text(report))
    if summary.ended == "interrupted":
        raise KeyboardInterrupt
    if summary.ended == "crashes":
        tell(summary.message)
        sys.exit(1)


def check_minutes(minutes: float | None) -> None:
    """InputError for what cannot be a time limit."""
    if minutes is not None and not 0 < minutes < 1e5:
        raise InputError("not a time limit", file="--minutes", found=minutes, allowed="minutes above 0")


def _check_folder(folder: Path, dry_run: bool) -> None:
    """InputError for a folder that cannot be one, or that nothing could be written to if it is to be."""
    try:
        os.listdir(folder)
    except FileNotFoundError:
        pass
    except OSError as problem:
        problem_text = f"cannot be the folder of the tables ({problem.strerror})"
        raise InputError(problem_text, file=folder, place="--out", allowed="a folder, there already or not") from None
    if not dry_run:
        check_writable(folder, ())


def _tables(only: Sequence[str]) -> list[str]:
    names = [name.strip() for text in only for name in text.split(",")]
    for name in names:
        if name not in TABLES:
            raise InputError("unknown table", file="--only", found=name, allowed=near_matches(name, TABLES))
    return names


def _check_software() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"measuring needs {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed",
            allowed="in a checkout: pip install -e '.[gpu]'; or --dry-run, which needs neither",
        )


def find_driver() -> tuple[Driver | None, str]:
    """The GPU that the driver of this machine reports, or None and what was looked for."""
    from calibration.measure import machine

    machine.in_pci_order()
    try:
        return driver_of(machine.facts()), ""
    except machine.NoGpu as problem:
        return None, str(problem)


def driver_of(facts: dict[str, Any]) -> Driver:
    """From what `machine.facts` returns."""
    clock = facts.get("max_sm_mhz")
    return Driver(
        name=facts["name"],
        sms=facts["sms"],
        capability=facts["capability"],
        l2=float(facts["l2_bytes"]),
        memory=float(facts["memory_bytes"]),
        bandwidth=facts.get("hbm_bytes_per_s"),
        clock=clock * 1e6 if clock else None,
        power_limit=facts.get("power_limit_w"),
        version=facts.get("driver") or "",
        count=facts["gpus"],
    )


def _figures(gpu: str | None, driver: Driver | None, missing: str, dry_run: bool) -> Figures:
    """The figures to plan with, or InputError where nobody says which GPU, or it is another one."""
    named = None
    if gpu is not None:
        if gpus.is_path(gpu) and importlib.util.find_spec("pydantic") is not None:
            from hwspecs.gpu import load_gpu  # says of every key what is wrong; a machine that measures may lack it

            load_gpu(gpu, place="--gpu")
        named = gpus.load_figures(gpu)
        if named.vendor != "NVIDIA":
            raise InputError("is not a GPU of NVIDIA, and only those can be measured", file="--gpu", found=gpu)
    if driver is None:
        if not dry_run:
            raise InputError(
                f"nothing to measure: {missing}",
                allowed="a machine with an NVIDIA GPU; or --dry-run --gpu NAME, which prints the plan",
            )
        if named is None:
            known = ", ".join(name for name in gpus.list_names() if gpus.load_figures(name).vendor == "NVIDIA")
            raise InputError(f"no GPU to plan for: {missing}", file="--gpu", allowed=f"one of {known}, or a GPU's file")
        return named
    if named is None:
        bundled = gpus.bundled_for(driver)
        return gpus.load_figures(bundled) if bundled is not None else gpus.from_driver(driver)
    if not dry_run and not gpus.fits(named, driver):
        raise InputError(
            f"is not the GPU of this machine: {driver.name} has {driver.sms} SMs and {driver.memory / 2**30:.0f} GiB, "
            f"{named.name} {named.sms} SMs and {named.memory / 2**30:.0f} GiB",
            file="--gpu",
            found=gpu,
            allowed="the GPU that is here, or nothing: then the driver says which",
        )
    return named


def held(folder: Path, tasks: Sequence[Task], gpu: str) -> set[str]:
    """Keys of what the folder's tables hold, of the tables that the tasks are of. Raises InputError for a table that is
    none, or of another GPU.
    """
    files = [file for table in sorted({task.table for task in tasks}) for file in files_of(table)]
    return set().union(*(keys_of(folder / f"{file}.csv", gpu) for file in files))


def not_the_other(task: Task, there: set[str]) -> bool:
    """Whether a row to fit on was not measured for the check, nor the other way round: as could happen where somebody
    goes on with another seed.
    """
    other = task.table if task.file == f"{task.table}-check" else f"{task.table}-check"
    return key_of(other, task.kernel, task.table, task.row) not in there


def _dry_run(tasks: list[Task], folder: Path, figures: Figures, kind: str, limit: float | None, as_json: bool) -> None:
    there = held(folder, tasks, figures.name)
    done = sum(task.key in there for task in tasks)
    todo = [task for task in tasks if task.key not in there and not_the_other(task, there)]
    if as_json:
        print_json(planview.document(todo, figures, kind, limit, done))
        return
    sys.stdout.write(planview.text(todo, figures, kind, limit, done))
    sys.stdout.write(f"Tables go to {folder}/ (--out).\n")
