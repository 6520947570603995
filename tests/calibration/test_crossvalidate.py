"""Predictions of rows by profiles that never saw them: shapes held out, and whole GPUs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from calibration.crossvalidate import PART, SALT, has_watts, held_out, leave_one_gpu_out
from calibration.fit import held_out as held_out_rows
from calibration.tables import KernelTable, read_kernels
from simulator.kernels.registry import MODELS
from simulator.selection import TRANSFER

COLLECTIVE = Path(__file__).parents[1] / "data" / "collective.parquet"


@cache
def table(op: str = "all_gather", gpus: tuple[str, ...] = ()) -> KernelTable:
    """NCCL's rows of one operation."""
    rows = read_kernels(COLLECTIVE)
    pick = (rows.columns["op"] == op) & (rows.columns["kernel"] == "nccl")
    return rows.take(pick & np.isin(rows.columns["gpu"].astype(str), gpus) if gpus else pick)


def test_held_out_shapes_are_predicted_by_the_rest() -> None:
    rows = table("all_reduce")
    ((kind, tested, found),) = held_out([rows], jobs=1)
    shape = {name: rows.columns[name] for name in MODELS["collective"].columns}
    assert kind == "collective" and len(tested) == held_out_rows(shape, PART, SALT).sum() < 0.5 * len(rows)
    names = zip(tested.columns["gpu"], tested.columns["software"], strict=True)
    assert found.profile.tolist() == [f"{gpu}@{software}" for gpu, software in names]
    error = np.abs(found.seconds / tested.seconds - 1)
    assert np.mean(error) < 0.15
    assert np.mean((found.low <= tested.seconds) & (tested.seconds <= found.high)) > 0.6


def test_a_gpu_that_is_left_out_is_predicted_by_others() -> None:
    gpus = ("a100-sxm", "h100-sxm", "h200-sxm")
    results = leave_one_gpu_out([table(gpus=gpus)], jobs=1)
    assert [(kind, set(rows.columns["gpu"])) for kind, rows, _ in results] == [("collective", {g}) for g in gpus]
    used = {gpu: set(found.profile) for gpu, (_, _, found) in zip(gpus, results, strict=True)}
    assert used == {
        "a100-sxm": {TRANSFER},
        "h100-sxm": {"h200-sxm@nccl-2.29.2"},
        "h200-sxm": {"h100-sxm@nccl-2.29.2"},
    }
    assert all(set(found.status) == {"transferred"} for _, _, found in results)


def test_what_was_not_measured_or_is_of_power_is_left_aside() -> None:
    rows = table(gpus=("h200-sxm",))
    assert not has_watts(rows)
    assert held_out([rows.take(np.zeros(len(rows), dtype=bool))], jobs=1) == []
