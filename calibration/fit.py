"""From tables of measured kernels to fitted profiles: one `gpu@software` for each pair, and `transfer` for all GPUs.

For each kernel and number format: find a host-side floor, fit the constants of the physics, fit trees to three
quarters of the shapes to learn how wrong they are on the rest, then fit them to all. Shapes are held out by a hash of
their numbers, so that the same shape is held out for every kernel and GPU. Everything is a function of the rows and
the seed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibration.boosting import fit_trees
from calibration.constants import Rows, fit_constants, model_seconds
from calibration.floors import SCATTER, detect_floor
from calibration.tables import KernelTable
from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.fitted import CAP, ErrorBand, Fitted, Group
from simulator.kernels.base import TERMS
from simulator.kernels.registry import LATTICE, MODELS
from simulator.processes import process_pool
from simulator.profilefile import quantised
from simulator.trees import Trees

LEAST_ROWS = 8
"""A group needs at least so many rows."""
LEAST_REGIME = 40
"""Rows that a regime needs for error bands of its own."""
HELD_OUT = 0.25
SINGLE = ("gemm", "collective", "elementwise", "page_topk", "mla_bmm")
"""Kinds that are one kernel, or one and a quantisation; an MoE block is five and more."""
FEW_ROWS, MANY_ROWS = 300, 2_000
"""Below the first a group gets fewer and shallower trees, from the second on they learn quicker: as held-out rows of
groups of all sizes would have it.
"""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Task:
    """One group to fit."""

    gpu: str
    software: str
    kind: str
    rows: Rows
    seed: int


def tasks_of(tables: Iterable[KernelTable], seed: int = 0) -> list[Task]:
    """The groups of the tables with enough measured rows, in a fixed order."""
    found = []
    for table in tables:
        table = table.take(table.measured)
        model = MODELS[table.kind]
        for names, index in table.groups(("gpu", "software", *model.labels)):
            if len(index) < LEAST_ROWS:
                continue
            shape = {name: table.columns[name][index] for name in model.columns}
            label = model.label_of(names)
            rows = Rows(shape, label, load_gpu(names["gpu"]), table.seconds[index], l2=_l2(table, index, names))
            found.append(Task(names["gpu"], names["software"], table.kind, rows, seed))
    return sorted(found, key=lambda t: (t.gpu, t.software, t.kind, tuple(t.rows.label.values())))


def _l2(table: KernelTable, index: np.ndarray, names: dict[str, str]) -> str:
    """Where the operands of a group's rows were, if the table says so. InputError where some were cold and some not."""
    if table.l2 is None:
        return ""
    found = sorted(set(table.l2[index].tolist()))
    if len(found) > 1:
        # Within one group a time of operands from HBM and one of operands from L2 would be one kernel's scatter.
        raise InputError(
            f"rows of {' '.join(names.values())} differ in where their operands were, HBM (cold) or L2 (warm)",
            file=table.path,
            place="column l2",
            found=", ".join(text or "nothing" for text in found),
            allowed="one of them for all rows of a kernel, or another name in the column kernel for some",
        )
    return str(found[0])


def profile_names(tables: Iterable[KernelTable]) -> list[str]:
    """Names of the profiles that the tables make."""
    return sorted({f"{task.gpu}@{task.software}" for task in tasks_of(tables)})


def held_out(shape: dict[str, np.ndarray], part: float = HELD_OUT, salt: int = 0) -> np.ndarray:
    """bool [n]: the rows whose shape's hash falls into `part` of its values; the same for equal shapes everywhere.

    The routing's skew is no part of the shape: rows that differ in nothing else are neighbours.
    """
    code = np.full(len(next(iter(shape.values()))), salt + 1, dtype=np.uint64)
    for name in sorted(set(shape) - {"skew"}):
        code = code * np.uint64(1_000_003) + (np.asarray(shape[name]) * 16).astype(np.uint64)
        code ^= code >> np.uint64(29)
        code *= np.uint64(0xBF58476D1CE4E5B9)  # the multiplier of splitmix64, which spreads the bits
        code ^= code >> np.uint64(32)
    return (code % np.uint64(100_000)).astype(float) / 100_000 < part


def fit_group(task: Task) -> Group:
    """Fit one kernel in one number format."""
    rows, model = task.rows, MODELS[task.kind]
    floor = floor_of(task)
    rows = replace(rows, floor=floor)  # the physics are not to explain what is the host's
    constants = fit_constants(model, [rows], seed=task.seed)
    errors = measure_errors(_drafts(task, constants, rows, floor))
    return _group(task, constants, rows, floor, errors)


def floor_of(task: Task) -> float:
    """The host-side floor of a group's rows. Those that say where operands were come from CUDA graphs, without a host:
    what they have in common is a latency.
    """
    rows = task.rows
    return 0.0 if rows.l2 else detect_floor(rows, least_seconds(rows, task.kind), single=task.kind in SINGLE)


def _drafts(task: Task, constants: dict[str, float], rows: Rows, floor: float) -> list[tuple[Group, Rows]]:
    """Groups that were fitted to a part of the shapes, each with the rows that it did not see.

    Where rows are few every quarter is held out in turn, from the constants too, since a dozen of them follow a few
    dozen rows closely.
    """
    shape, few = dict(rows.shape), len(rows) < FEW_ROWS
    drafts = []
    for quarter in range(4 if few else 1):
        test = held_out(shape, HELD_OUT * (quarter + 1)) & ~held_out(shape, HELD_OUT * quarter)
        if test.any() and (~test).sum() >= LEAST_ROWS // 2:
            seen = rows.take(~test)
            own = fit_constants(MODELS[task.kind], [seen], seed=task.seed) if few else constants
            drafts.append((_group(task, own, seen, floor, {}), rows.take(test)))
    # Rows of one shape only cannot be held out.
    return drafts or [(_group(task, constants, rows, floor, {}), rows)]


def _group(task: Task, constants: dict[str, float], rows: Rows, floor: float, errors: dict[str, ErrorBand]) -> Group:
    features, modelled = feature_matrix(rows, task.kind), model_seconds(MODELS[task.kind], rows, constants)
    target = np.log(rows.seconds / modelled)
    host, hidden = None, None
    if floor:
        host = _host(features, rows, task, floor)
        level = floor * np.exp(host(features))
        # Rows a little above the floor are as uncertain as those at it: floors scatter.
        hidden = np.log(SCATTER * level / modelled)
        target = np.maximum(target, hidden)
    shape = {name: np.asarray(rows.shape[name], dtype=float) for name in MODELS[task.kind].columns}
    return Group(
        kind=task.kind,
        label=dict(rows.label),
        constants=constants,
        trees=quantised(_trees(features, target, hidden, task.seed)),
        ranges={name: (float(column.min()), float(column.max())) for name, column in shape.items()},
        lattice={name: np.unique(shape[name]) for name in LATTICE[task.kind]},
        floor=floor,
        rows=len(rows),
        errors=errors,
        host=None if host is None else quantised(host),
    )


def _host(features: np.ndarray, rows: Rows, task: Task, floor: float) -> Trees:
    """How the host's time goes with the shape, from rows whose kernel can be nothing beside it."""
    idle = np.asarray(least_seconds(rows, task.kind)) < 0.1 * floor
    idle &= rows.seconds < 2 * floor
    return fit_trees(
        features[:, idle], np.log(rows.seconds[idle] / floor), trees=40, depth=4, rate=0.2, smooth=20.0, seed=task.seed
    )


def least_seconds(rows: Rows, kind: str) -> np.ndarray:
    """Seconds that no kernel can beat."""
    least = np.asarray(MODELS[kind].roof(rows.shape, rows.label, rows.gpu), dtype=float)
    return np.broadcast_to(least, rows.seconds.shape)


def feature_matrix(rows: Rows, kind: str) -> np.ndarray:
    """Features [count, rows] in float32."""
    features = MODELS[kind].features(rows.shape, rows.label, rows.gpu)
    matrix = np.empty((len(features), len(rows)), dtype=np.float32)
    for row, values in zip(matrix, features, strict=True):
        row[:] = values
    return matrix


def _trees(features: np.ndarray, target: np.ndarray, hidden: np.ndarray | None, seed: int) -> Trees:
    """Trees in a number and depth that suit the rows."""
    few = len(target) < FEW_ROWS
    if hidden is None:
        target = np.clip(target, -CAP, CAP)
    rate = 0.2 if len(target) >= MANY_ROWS else 0.1
    return fit_trees(
        features,
        target,
        floor=hidden,
        trees=100 if few else 300,
        depth=4 if few else 8,
        rate=rate,
        smooth=2.0,
        seed=seed,
    )


def measure_errors(drafts: Sequence[tuple[Group, Rows]]) -> dict[str, ErrorBand]:
    """Error bands of rows that their groups were not fitted on, by the bounding term and over all."""
    errors, bounds = [], []
    for group, rows in drafts:
        estimate = group.estimate(rows.shape, rows.gpu)
        seconds = np.maximum(np.asarray(estimate.seconds, dtype=float), group.host_seconds(rows.shape, rows.gpu))
        errors.append(np.log(rows.seconds / seconds))
        bounds.append(np.broadcast_to(estimate.bound(), len(rows)))
    error, bound = np.concatenate(errors), np.concatenate(bounds)
    bands = {"all": error_band(error)}
    for index, name in enumerate(TERMS):
        if (bound == index).sum() >= LEAST_REGIME:
            bands[name] = error_band(error[bound == index])
    return bands


def error_band(error: np.ndarray) -> ErrorBand:
    """Of log(measured / predicted): the middle 80 %, the mean absolute percentage error, and the rows."""
    low, high = np.quantile(error, [0.1, 0.9])
    mape = np.minimum(np.abs(np.expm1(-error)), 1.0).mean()
    return ErrorBand(min(float(low), 0.0), max(float(high), 0.0), float(mape), len(error))


def run_tasks(
    function: Callable[[Task], Group], tasks: Sequence[Task], jobs: int | None, progress: Progress | None
) -> list[Group]:
    """Fit groups in as many processes as there are cores (the results do not depend on it), in order."""
    jobs = jobs or os.cpu_count() or 1
    # The largest first, so that no core waits for the last one; results are put back in order.
    order = sorted(range(len(tasks)), key=lambda i: -len(tasks[i].rows))
    results: list[Group | None] = [None] * len(tasks)
    if jobs == 1 or len(tasks) < 2:
        for done, i in enumerate(order):
            results[i] = function(tasks[i])
            if progress:
                progress(done + 1, len(tasks))
    else:
        with process_pool(jobs) as pool:
            futures = [pool.submit(function, tasks[i]) for i in order]
            for done, (i, future) in enumerate(zip(order, futures, strict=True)):
                results[i] = future.result()
                if progress:
                    progress(done + 1, len(tasks))
    return [r for r in results if r is not None]


def fit_profiles(
    tables: Sequence[KernelTable],
    *,
    source: str = "",
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Fitted]:
    """The profiles `gpu@software` of all pairs in the tables, sorted by name.

    source : where the measurements come from, for the profile's `fitted_on`.
    """
    tasks = tasks_of(tables, seed)
    groups = run_tasks(fit_group, tasks, jobs, progress)
    by_name: dict[tuple[str, str], list[tuple[Task, Group]]] = {}
    for pair in zip(tasks, groups, strict=True):
        by_name.setdefault((pair[0].gpu, pair[0].software), []).append(pair)
    profiles = []
    for (gpu, software), pairs in sorted(by_name.items()):
        own = [group for _, group in pairs]
        kinds = ", ".join(sorted({g.kind for g in own}))
        rows = sum(g.rows for g in own)
        profiles.append(
            Fitted(
                name=f"{gpu}@{software}",
                description=f"Kernels of {software} on {load_gpu(gpu).title}: {kinds}.",
                fitted_on=f"{rows:,} measured kernels in {len(own)} groups{'; ' + source if source else ''}; "
                f"seed {seed}, rows' sha256 {digest(task for task, _ in pairs)}",
                gpu=gpu,
                software=software,
                groups=tuple(own),
            )
        )
    return profiles


def digest(tasks: Iterable[Task]) -> str:
    """The first 16 digits of the SHA-256 of measured rows."""
    found = hashlib.sha256()
    for task in tasks:
        found.update(repr((task.gpu, task.software, task.kind, sorted(task.rows.label.items()))).encode())
        for name in sorted(task.rows.shape):
            found.update(np.ascontiguousarray(task.rows.shape[name], dtype=np.float64).tobytes())
        found.update(np.ascontiguousarray(task.rows.seconds).tobytes())
    return found.hexdigest()[:16]
