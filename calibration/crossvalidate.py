"""Predictions of measured rows by profiles that were fitted without them: by shapes, and by whole GPUs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calibration.fit import Progress, fit_profiles
from calibration.fit import held_out as held_out_rows
from calibration.tables import KernelTable
from calibration.transfer import fit_transfer
from simulator.kernels.registry import MODELS
from simulator.predict import Predictions, predict_kernels
from simulator.selection import Library

SALT = 1
"""Another one than that by which a fit holds out rows of its own to learn its error bands."""
PART = 0.25

Result = tuple[str, KernelTable, Predictions]


def held_out(
    tables: Sequence[KernelTable], *, seed: int = 0, jobs: int | None = None, progress: Progress | None = None
) -> list[Result]:
    """A quarter of the shapes, the same everywhere, predicted by profiles fitted to the rest, with their intervals."""
    latency = [table for table in tables if table.measured.any() and not has_watts(table)]
    test = [_test_rows(table) for table in latency]
    train = [table.take(~mask) for table, mask in zip(latency, test, strict=True)]
    library = Library(fit_profiles(train, seed=seed, jobs=jobs, progress=progress))
    return [_predicted(table.take(mask), library) for table, mask in zip(latency, test, strict=True)]


def leave_one_gpu_out(
    tables: Sequence[KernelTable], *, seed: int = 0, jobs: int | None = None, progress: Progress | None = None
) -> list[Result]:
    """Every GPU predicted by what was fitted to the others: siblings' kernels, or what is pooled over them."""
    latency = [table for table in tables if table.measured.any() and not has_watts(table)]
    profiles = fit_profiles(latency, seed=seed, jobs=jobs, progress=progress)
    results = []
    for gpu in sorted({profile.gpu for profile in profiles}):
        rest = [table.take(table.columns["gpu"] != gpu) for table in latency]
        others = [profile for profile in profiles if profile.gpu != gpu]
        pooled = fit_transfer([table for table in rest if len(table)], others, seed=seed, jobs=jobs)
        own = [table.take(table.columns["gpu"] == gpu) for table in latency]
        results += [_predicted(table, Library([*others, pooled])) for table in own if len(table)]
    return results


def has_watts(table: KernelTable) -> bool:
    """Whether it is a table of power readings, whose latencies are those of another run."""
    return bool((~np.isnan(table.watts)).any())


def _test_rows(table: KernelTable) -> np.ndarray:
    shape = {name: table.columns[name] for name in MODELS[table.kind].columns}
    return held_out_rows(shape, PART, SALT)


def _predicted(table: KernelTable, library: Library) -> Result:
    return table.kind, table, predict_kernels(table.kind, table.columns, library=library)
