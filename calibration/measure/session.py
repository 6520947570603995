"""A session of measuring: the parent of the worker that has the GPU and of those that compile ahead of it.

It has no torch. It gives tasks in the order of the plan, as soon as they are compiled, until they or the time are
spent; writes each row before the next task begins; and outlives whatever happens to its workers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibration.measure import machine, nvml
from calibration.measure.folder import Folder
from calibration.measure.summary import Report, Summary
from calibration.measure.supervisor import Supervisor
from calibration.measure.task import Task
from hwspecs.errors import InputError

__all__ = ["Report", "Summary", "measure", "on_stderr"]


def on_stderr(text: str, passing: bool) -> None:
    """The default report: passing lines only on a terminal."""
    terminal = sys.stderr.isatty()
    if passing and not terminal:
        return
    start, end = ("\r\033[K", "" if passing else "\n") if terminal else ("", "\n")
    print(f"{start}{text}", end=end, file=sys.stderr, flush=True)


def measure(
    tasks: Sequence[Task],
    folder: str | Path,
    *,
    gpu: str,
    limit: float | None = None,
    force: bool = False,
    retry: bool = False,
    seed: int = 0,
    plan: str = "",
    device: str = "cuda",
    compilers: int | None = None,
    worker_command: Sequence[str] | None = None,
    log: Path | None = None,
    report: Report = on_stderr,
) -> Summary:
    """Measure what the folder does not hold yet.

    Parameters
    ----------
    tasks : in the order of their worth. folder : of the tables; made where it does not exist.
    gpu : what the column `gpu` says. limit : seconds of wall clock, the start included; None for no limit.
    force : measure even if others use the GPU. retry : also what failed in an earlier session.
    seed : of the operands. plan : its name, for the record.
    device : `cuda`, or `cpu`: Triton's interpreter, for tests. compilers : processes that compile ahead; by default as
        many as there are spare cores. worker_command : in place of the measuring worker's, for tests.
    log : file that the measuring worker's stderr is appended to (configurations that fail, baselines that are missing).

    Raises
    ------
    InputError : no GPU, one that others use, a folder that cannot be taken, a worker that cannot start.
    """
    begun = time.monotonic()
    machine.in_pci_order()
    try:
        facts = machine.facts(device)
    except machine.NoGpu as problem:
        raise InputError(
            f"there is no GPU to measure: {problem}", allowed="a machine with an NVIDIA GPU, or --dry-run"
        ) from None
    with Folder(folder, gpu) as kept:
        wanted, summary = _wanted(tasks, kept, retry)
        summary.facts = facts
        if wanted:
            if device == "cuda":
                _free_to_measure(facts, force, report)
            started = {"plan": plan, "limit_s": limit, "seed": seed}
            kept.begin(machine.for_the_record(facts) | started)
            session = Supervisor(kept, wanted, summary, begun, limit, report)
            session.prepare(device, seed, facts, compilers, worker_command, log)
            session.run()
            report("", True)  # takes the last passing line away
        summary.seconds = time.monotonic() - begun
        over = kept.done | kept.failed
        summary.left = sum(1 for task in wanted if task.key not in over)
    return summary


def _wanted(tasks: Sequence[Task], kept: Folder, retry: bool) -> tuple[list[Task], Summary]:
    """The tasks to measure, each once, and a summary that counts the others."""
    summary, seen, wanted = Summary(), set(), []
    for task in tasks:
        if task.key in seen:
            continue
        seen.add(task.key)
        if task.key in kept.done:
            summary.before += 1
        elif task.key in kept.failed and not retry:
            summary.passed_over += 1
        else:
            wanted.append(task)
    if retry:
        kept.failed.clear()
    return wanted, summary


def _free_to_measure(facts: Mapping[str, Any], force: bool, report: Report) -> None:
    device = nvml.Library().device(facts["pci"])
    why = nvml.busy(device) if device is not None else None
    if why and not force:
        raise InputError(f"the GPU ({facts['name']}) is busy: {why}", allowed="a free GPU, or --force")
    if why:
        report(f"the GPU is busy, and is measured all the same: {why}", False)
