"""The `transfer` profile: one correction for all measured GPUs, for those that nobody has measured; and how wrong it
is.

Groups of all GPUs and software in one number format are pooled, each drawn to the same size, so that no GPU outvotes
the others. The errors of carrying a profile are measured three ways:

- `software`: a GPU's kernel predicted by another software's kernel of that format;
- `sibling`: a GPU predicted by the same kernel of another GPU of its architecture, with its own spec sheet;
- `foreign`: a GPU predicted by what was pooled without its architecture. This also decides how much of the pooled trees
  is kept: part of what they learned is true of the measured architectures only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from calibration.boosting import fit_trees
from calibration.constants import fit_constants, model_seconds
from calibration.fit import (
    LEAST_ROWS,
    Progress,
    Task,
    digest,
    error_band,
    feature_matrix,
    floor_of,
    tasks_of,
)
from calibration.tables import KernelTable
from hwspecs.gpu import load_gpu
from simulator.fitted import CAP, ErrorBand, Fitted, Group
from simulator.kernels.registry import LATTICE, MODELS
from simulator.processes import process_pool
from simulator.profilefile import quantised
from simulator.selection import ANY, BLOCKS, POOLED, TRANSFER, engine, is_pooled
from simulator.trees import Trees

POOL_ROWS = 3_000
"""Rows drawn from each group."""
MOST_ROWS = 60_000
"""Rows of a pool, which those of whole blocks would exceed."""
SLOW_GEMM = 9e-6
"""Seconds that no tiny GEMM takes on a GPU."""
SHRINK = (0.0, 0.25, 0.5, 1.0)
"""How much of a pooled correction may be kept: what is left out decides."""


def fit_transfer(
    tables: Sequence[KernelTable],
    profiles: Sequence[Fitted],
    *,
    source: str = "",
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """The `transfer` profile of tables with at least two GPUs; `profiles` are those fitted to the same tables."""
    tasks = [task for task in map(_drawn, tasks_of(tables, seed)) if len(task.rows) >= LEAST_ROWS]
    pools = _pools(tasks)
    left_out = _left_out(pools)
    for pool in (*pools, *(rest for rest, _ in left_out)):
        if pool[0].kind in BLOCKS:
            pool.constants = _middle(pool, profiles)
    fits = _map(_fit_pool, [*pools, *(rest for rest, _ in left_out)], jobs, progress)
    groups, rest_groups = fits[: len(pools)], fits[len(pools) :]
    shrink, errors = _shrink(left_out, rest_groups)
    carried: dict[str, dict[str, list[np.ndarray]]] = {kind: {"foreign": found} for kind, found in errors.items()}
    for kind, tier, error in _between(tasks, profiles):
        carried.setdefault(kind, {}).setdefault(tier, []).append(error)
    bands = {kind: {tier: _pooled_band(found) for tier, found in tiers.items()} for kind, tiers in carried.items()}
    groups = [
        # Where a format was measured on one architecture only, how well the pool fits is all that is known.
        replace(kept, errors={"all": _pooled_band([_errors(kept, task) for task in pool])})
        for pool, kept in zip(pools, (_shrunk(g, shrink.get(g.kind, SHRINK[0])) for g in groups), strict=True)
    ]
    gpus = ", ".join(sorted({t.gpu for t in tasks}))
    return Fitted(
        name=TRANSFER,
        description="Corrections pooled over all measured GPUs and software, for GPUs that were not measured.",
        fitted_on=f"{sum(len(t.rows) for t in tasks):,} rows drawn from {len(tasks)} groups on {gpus}"
        f"{'; ' + source if source else ''}; seed {seed}, rows' sha256 {digest(tasks)}",
        gpu="",
        software="",
        groups=tuple(groups),
        carried=bands,
    )


class Pool(list[Task]):
    """Tasks that are fitted together; `engine` if they are of one engine's software only; `constants` if they are
    known already.
    """

    engine: str = ""
    constants: Mapping[str, float] | None = None


def _pool(tasks: Iterable[Task], engine: str = "") -> Pool:
    pool = Pool(tasks)
    pool.engine = engine
    return pool


def _left_out(pools: Sequence[Pool]) -> list[tuple[Pool, list[Task]]]:
    """For every pool and architecture: what is left without it, and its tasks. H100 and H200 are left out together."""
    pairs = []
    for pool in pools:
        for architecture in sorted({load_gpu(task.gpu).architecture for task in pool}):
            own = [task for task in pool if load_gpu(task.gpu).architecture == architecture]
            rest = [task for task in pool if load_gpu(task.gpu).architecture != architecture]
            if rest:
                pairs.append((_pool(rest, pool.engine), own))
    return pairs


def _middle(pool: Pool, profiles: Sequence[Fitted]) -> dict[str, float] | None:
    """The medians of the constants of the pool's own groups, of which blocks have dozens; None if there are none."""
    own = {
        (profile.gpu, profile.software, group.kind, *sorted(group.label.items())): group.constants
        for profile in profiles
        for group in profile.groups
    }
    keys = [(task.gpu, task.software, task.kind, *sorted(task.rows.label.items())) for task in pool]
    found = [own[key] for key in keys if key in own]
    return {name: float(np.median([constants[name] for constants in found])) for name in found[0]} if found else None


def _shrink(
    left_out: Sequence[tuple[Pool, Sequence[Task]]], groups: Sequence[Group]
) -> tuple[dict[str, float], dict[str, list[np.ndarray]]]:
    """By kind: how much of a pooled correction helps on an architecture that it was not fitted on, and the errors."""
    errors: dict[str, dict[float, list[np.ndarray]]] = {}
    for (_, own), group in zip(left_out, groups, strict=True):
        for factor in SHRINK:
            for task in own:
                found = errors.setdefault(task.kind, {}).setdefault(factor, [])
                found.append(_errors(_shrunk(group, factor), task))
    best = {
        kind: min(factors, key=lambda factor: np.mean([error_band(e).mape for e in factors[factor]]))
        for kind, factors in errors.items()
    }
    return best, {kind: errors[kind][factor] for kind, factor in best.items()}


def _shrunk(group: Group, factor: float) -> Group:
    trees = group.trees
    scaled = Trees(trees.base * factor, trees.features, trees.thresholds, trees.leaves * np.float32(factor))
    return replace(group, trees=quantised(scaled), _tables={})


def _between(tasks: Sequence[Task], profiles: Sequence[Fitted]) -> list[tuple[str, str, np.ndarray]]:
    """(kind, tier, errors) of tasks predicted by the same GPU's other engines, and by their kernel's siblings."""
    found = []
    for task in tasks:
        for profile in profiles:
            same_engine = engine(profile.software) == engine(task.software)
            related = load_gpu(profile.gpu).architecture == load_gpu(task.gpu).architecture
            for group in profile.groups:
                if group.kind != task.kind or not _same(group, task, set(group.label) - {"kernel"}):
                    continue
                if profile.gpu == task.gpu and not same_engine:
                    found.append((task.kind, "software", _errors(group, task)))
                same_kernel = profile.software == task.software and _same(group, task, ("kernel",))
                if profile.gpu != task.gpu and related and same_kernel:
                    found.append((task.kind, "sibling", _errors(group, task)))
    return found


def _same(group: Group, task: Task, names: Iterable[str]) -> bool:
    return all(group.label.get(name) == task.rows.label.get(name) for name in names)


def _drawn(task: Task) -> Task:
    rows = task.rows
    floor = floor_of(task)
    if floor:  # a host of one benchmark says nothing of another GPU
        rows = rows.take(rows.seconds > 1.5 * floor)
    if len(rows) > POOL_ROWS:
        rows = rows.take(np.sort(np.random.default_rng(task.seed).permutation(len(rows))[:POOL_ROWS]))
    return Task(task.gpu, task.software, task.kind, rows, task.seed)


def _pools(tasks: Sequence[Task]) -> list[Pool]:
    """Tasks with the same kind and formats; of GEMMs also those of each engine, which quantise in their own ways; of
    whole blocks those of all formats and models, whose differences the physics knows.
    """
    pools: dict[tuple[str, ...], list[Task]] = {}
    for task in tasks:
        label = task.rows.label
        key = (task.kind, *(label[name] for name in _told_apart(task)))
        pools.setdefault(key, []).append(task)
    found = []
    for key in sorted(pools):
        found.append(_pool(_without_hosts(pools[key])))
        engines = sorted({engine(task.software) for task in pools[key]})
        if key[0] == "gemm" and len(engines) > 1:
            found += [_pool([task for task in pools[key] if engine(task.software) == name], name) for name in engines]
    return found


def _told_apart(task: Task) -> list[str]:
    """The names in a task's label that agree within a pool."""
    strict = ("phase", *MODELS[task.kind].named)
    return [name for name in task.rows.label if name in strict or (name != "kernel" and task.kind not in BLOCKS)]


def _without_hosts(tasks: list[Task]) -> list[Task]:
    """Without GEMMs that were timed with the host's launch (TensorRT-LLM's in fp8: 11 us more than any other), if
    others are left: pooled constants would spread what belongs to one benchmark over all GPUs.
    """
    quick = [task for task in tasks if task.kind != "gemm" or np.quantile(task.rows.seconds, 0.02) < SLOW_GEMM]
    return quick or tasks


def _map(
    function: Callable[[Pool], Group],
    items: Sequence[Pool],
    jobs: int | None,
    progress: Progress | None,
) -> list[Group]:
    if jobs == 1:
        return [function(item) for item in items]
    results = []
    with process_pool(jobs or os.cpu_count() or 1) as pool:
        for done, group in enumerate(pool.map(function, items)):
            results.append(group)
            if progress:
                progress(done + 1, len(items))
    return results


def _fit_pool(pool: Pool) -> Group:
    """One group for all tasks. Its label's kernel is `pooled`, or `pooled vllm`; its lattice that of all of them."""
    kind, seed = pool[0].kind, pool[0].seed
    model = MODELS[kind]
    rows = [task.rows for task in pool]
    if sum(map(len, rows)) > MOST_ROWS:
        rng, each = np.random.default_rng(seed), MOST_ROWS // len(rows)
        rows = [r if len(r) <= each else r.take(np.sort(rng.permutation(len(r))[:each])) for r in rows]
    label = {name: text if name in _told_apart(pool[0]) else ANY for name, text in rows[0].label.items()}
    constants = pool.constants or fit_constants(model, rows, seed=seed)
    modelled = [model_seconds(MODELS[kind], r, constants) for r in rows]
    target = np.concatenate([np.log(r.seconds / m) for r, m in zip(rows, modelled, strict=True)])
    trees = fit_trees(
        np.concatenate([feature_matrix(r, kind) for r in rows], axis=1),
        np.clip(target, -CAP, CAP), trees=200, depth=6, rate=0.1, seed=seed,
    )  # fmt: skip
    shape = {name: np.concatenate([np.asarray(r.shape[name], dtype=float) for r in rows]) for name in model.columns}
    return Group(
        kind=kind,
        label={**label, "kernel": f"{POOLED} {pool.engine}".strip()},
        constants=constants,
        trees=quantised(trees),
        ranges={name: (float(column.min()), float(column.max())) for name, column in shape.items()},
        lattice={name: np.unique(shape[name]) for name in LATTICE[kind]},
        floor=0.0,
        rows=len(target),
        errors={},
    )


def _errors(group: Group, task: Task) -> np.ndarray:
    cold = task.rows.l2 == "cold"
    estimate = group.estimate(task.rows.shape, task.rows.gpu, label=_label(group, task), cold=cold)
    return np.log(task.rows.seconds / np.asarray(estimate.seconds, dtype=float))


def _label(group: Group, task: Task) -> dict[str, str]:
    return dict(task.rows.label) if is_pooled(group) else dict(group.label)


def _pooled_band(errors: Sequence[np.ndarray]) -> ErrorBand:
    """Every group counts alike, however many rows it has."""
    most = min(max(len(e) for e in errors), 500)
    rng = np.random.default_rng(0)
    drawn = [e[rng.permutation(len(e))[:most]] for e in errors]
    return error_band(np.concatenate(drawn))
