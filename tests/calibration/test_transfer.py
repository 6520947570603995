"""The profile for GPUs that nobody has measured, and what carrying a profile costs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from calibration.fit import fit_profiles
from calibration.tables import KernelTable, read_kernels
from calibration.transfer import fit_transfer
from simulator.fitted import Fitted
from simulator.predict import predict_kernels
from simulator.profilefile import to_bytes
from simulator.selection import POOLED, TRANSFER, Library

COLLECTIVE = Path(__file__).parents[1] / "data" / "collective.parquet"
NCCL = ("nccl-2.27.3", "nccl-2.29.2")
ALL = ("a100-sxm", "b200-sxm", "h100-sxm", "h200-sxm")


@cache
def table(gpus: tuple[str, ...] = ALL, op: str = "all_gather", software: tuple[str, ...] = NCCL) -> KernelTable:
    rows = read_kernels(COLLECTIVE)
    pick = np.isin(rows.columns["gpu"].astype(str), gpus) & np.isin(rows.columns["software"].astype(str), software)
    return rows.take(pick & (rows.columns["op"] == op))


@cache
def profiles(gpus: tuple[str, ...] = ALL) -> tuple[Fitted, ...]:
    return tuple(fit_profiles([table(gpus)], jobs=1))


@cache
def pooled(gpus: tuple[str, ...] = ALL, seed: int = 0, jobs: int = 1) -> Fitted:
    return fit_transfer([table(gpus)], profiles(gpus), seed=seed, jobs=jobs)


def test_one_group_a_format_for_all_gpus() -> None:
    made = pooled()
    assert (made.name, made.gpu, made.software) == (TRANSFER, "", "")
    assert {(g.label["kernel"], g.label["op"], g.label["dtype"]) for g in made.groups} == {
        (POOLED, "all_gather", "fp16"), (POOLED, "all_gather", "int8"),
    }  # fmt: skip
    assert all(group.rows == 160 and group.floor == 0 for group in made.groups)
    assert "320 rows drawn from 8 groups on a100-sxm, b200-sxm, h100-sxm, h200-sxm" in made.fitted_on


def test_the_same_rows_and_seed_give_the_same_bytes() -> None:
    two = ("h100-sxm", "h200-sxm")
    assert to_bytes(pooled(two, jobs=2)) == to_bytes(pooled(two))
    assert to_bytes(pooled(two, seed=1)) != to_bytes(pooled(two))


def test_errors_of_carrying() -> None:
    """`sibling`: H100 by H200's kernels and back; `foreign`: each by the other three."""
    carried = pooled().carried["collective"]
    assert set(carried) >= {"foreign", "sibling"}
    for band in carried.values():
        assert band.low <= 0 <= band.high and band.rows > 0
    assert carried["sibling"].mape < carried["foreign"].mape, "a sibling tells more than a stranger"
    assert carried["foreign"].mape < 0.6


def test_without_a_sibling_there_is_no_error_of_one() -> None:
    assert set(pooled(("a100-sxm", "b200-sxm")).carried["collective"]) == {"foreign"}


def test_software_is_carried_from_engine_to_engine() -> None:
    own = ("sglang-0.5.9", "vllm-0.24.0")
    rows = table(("h200-sxm",), "all_reduce", own)
    made = fit_transfer([rows], fit_profiles([rows], jobs=1), jobs=1)
    assert set(made.carried["collective"]) == {"software"}
    assert all(group.errors["all"].rows > 0 and group.errors["all"].high > 0 for group in made.groups)


@pytest.mark.parametrize("gpu", ["l40s", "gb200", "mi300x"])
def test_gpus_that_were_never_measured(gpu: str) -> None:
    rows = table(("h200-sxm",))
    columns = {**rows.columns, "gpu": np.full(len(rows), gpu, dtype=object)}
    found = predict_kernels("collective", columns, library=Library([*profiles(), pooled()]))
    assert set(found.status) == {"transferred"}
    assert set(found.profile) == ({"b200-sxm@nccl-2.29.2"} if gpu == "gb200" else {TRANSFER})
    assert (found.low < found.seconds).all() and (found.seconds < found.high).all()
    assert (found.seconds > 1e-6).all() and np.isfinite(found.seconds).all()
