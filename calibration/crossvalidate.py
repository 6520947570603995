"""Predictions of measured rows by profiles that were fitted without them: by shapes, by whole GPUs and by models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from calibration.fit import Progress, fit_profiles
from calibration.fit import held_out as held_out_rows
from calibration.power import corrections
from calibration.tables import KernelTable
from calibration.transfer import fit_transfer
from hwspecs.gpu import load_gpu
from simulator.fitted import Fitted
from simulator.kernels.latent_block import dims_of
from simulator.kernels.registry import MODELS
from simulator.power import measured_joules
from simulator.powerreading import power_reading
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
    results = [_predicted(table.take(mask), library) for table, mask in zip(latency, test, strict=True)]
    return results + held_out_power(tables, seed=seed, jobs=jobs)


def leave_one_gpu_out(
    tables: Sequence[KernelTable],
    profiles: Sequence[Fitted] | None = None,
    *,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Every GPU predicted by what was fitted to the others: siblings' kernels, or what is pooled over them.

    profiles : of all GPUs, fitted to these tables; each knows only its own GPU's rows. Fitted here if not given.
    """
    latency = [table for table in tables if table.measured.any() and not has_watts(table)]
    if profiles is None:
        profiles = fit_profiles(latency, seed=seed, jobs=jobs, progress=progress)
    results = []
    for gpu in sorted({profile.gpu for profile in profiles}):
        rest = [table.take(table.columns["gpu"] != gpu) for table in latency]
        others = [profile for profile in profiles if profile.gpu != gpu]
        pooled = fit_transfer([table for table in rest if len(table)], others, seed=seed, jobs=jobs)
        own = [table.take(table.columns["gpu"] == gpu) for table in latency]
        results += [_predicted(table, Library([*others, pooled])) for table in own if len(table)]
    return results


def leave_one_model_out(tables: Sequence[KernelTable], profiles: Sequence[Fitted]) -> list[Result]:
    """Every model of the tables that name one predicted by the corrections of the others, with its own widths.

    profiles : of all GPUs, fitted to these tables; each group knows only one model's rows. Models of equal widths, such
    as a checkpoint in two formats, are left out together.
    """
    results = []
    for table in tables:
        alike: dict[tuple[float, ...], list[str]] = {}
        for name in table.codes["model"][0] if "model" in table.codes else ():
            alike.setdefault(dims_of(name), []).append(name)
        for names in alike.values() if len(alike) > 1 else ():
            rest = [
                replace(profile, groups=tuple(g for g in profile.groups if g.label.get("model") not in names))
                for profile in profiles
            ]
            own = table.take(np.isin(table.columns["model"].astype(str), names))
            results.append(_predicted(own, Library([profile for profile in rest if profile.groups])))
    return results


def held_out_power(tables: Sequence[KernelTable], *, seed: int = 0, jobs: int | None = None) -> list[Result]:
    """The same for readings of the board's power, at times predicted by profiles of those tables.

    The constants of the power are the shipped ones; what corrects the readings was learned without the held-out shapes.
    """
    tables = [table for table in tables if has_watts(table)]
    if not tables:
        return []
    test = [_test_rows(table) for table in tables]
    train = [table.take(~mask) for table, mask in zip(tables, test, strict=True)]
    library = Library(fit_profiles(train, seed=seed, jobs=jobs))
    gpu, constants = measured_joules()
    readings = corrections(train, gpu, constants)
    results = []
    for table, mask in zip(tables, test, strict=True):
        rows = table.take(mask)
        kind, _, found = _predicted(rows, library)
        watts, model = found.watts.copy(), MODELS[table.kind]
        for names, pick in rows.groups(("gpu", "software", *model.labels)):
            label = model.label_of(names)
            shape = {name: rows.columns[name][pick] for name in model.columns}
            own = load_gpu(names["gpu"])
            work = model.work(shape, label, own)
            watts[pick] = power_reading(
                kind, shape, label, own, names["software"], work, found.seconds[pick], readings=readings
            )
        results.append((kind, rows, replace(found, watts=watts)))
    return results


def has_watts(table: KernelTable) -> bool:
    """Whether it is a table of power readings, whose latencies are those of another run."""
    return bool((~np.isnan(table.watts)).any())


def _test_rows(table: KernelTable) -> np.ndarray:
    shape = {name: table.columns[name] for name in MODELS[table.kind].columns}
    return held_out_rows(shape, PART, SALT)


def _predicted(table: KernelTable, library: Library) -> Result:
    return table.kind, table, predict_kernels(table.kind, table.columns, library=library)
