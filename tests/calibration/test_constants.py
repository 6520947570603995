"""Constants of the physics: found again in times made from known ones, whatever a few rows say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration.constants import Rows, fit_constants, model_seconds
from hwspecs.gpu import load_gpu
from simulator.kernels.registry import MODELS

NCCL = MODELS["collective"]
GEMM = MODELS["gemm"]
LABEL = {"kernel": "nccl", "op": "all_reduce", "dtype": "fp16"}
TRUE = {name: c.start for name, c in NCCL.constants.items()} | {"overhead": 1.1e-5, "link": 0.6, "grow": 6e-6}


def nccl(gpu: str = "h200-sxm", times: float = 1.0, scatter: float = 0.0, seed: int = 0) -> Rows:
    """Collectives from 256 B to 1 GiB on 2, 4 and 8 GPUs that take what the physics say for TRUE."""
    gpus, sizes = np.meshgrid([2.0, 4, 8], 2.0 ** np.arange(8, 31), indexing="ij")
    shape = {"gpus": gpus.ravel(), "bytes": sizes.ravel()}
    rows = Rows(shape, LABEL, load_gpu(gpu), np.ones(gpus.size))
    noise = np.exp(np.random.default_rng(seed).normal(0, scatter, gpus.size))
    return replace(rows, seconds=times * model_seconds(NCCL, rows, TRUE) * noise)


def gemm(seed: int = 0, n: int = 800) -> tuple[Rows, dict[str, float]]:
    rng = np.random.default_rng(seed)
    shape = {c: 2.0 ** rng.integers(low, 14, n) for c, low in (("m", 0), ("n", 7), ("k", 7))}
    true = {name: c.start for name, c in GEMM.constants.items()} | {"compute": 0.6, "memory": 0.7, "launch": 5e-6}
    rows = Rows(shape, {"kernel": "x", "dtype": "bf16"}, load_gpu("h200-sxm"), np.ones(n))
    return replace(rows, seconds=model_seconds(GEMM, rows, true)), true


def error(found: dict[str, float], rows: Rows) -> np.ndarray:
    return np.abs(np.log(model_seconds(NCCL, rows, found) / rows.seconds))


def test_constants_are_found_again() -> None:
    rows = nccl()
    found = fit_constants(NCCL, [rows])
    assert error(found, rows).max() < 0.02
    for name in ("overhead", "link", "grow"):
        assert found[name] == pytest.approx(TRUE[name], rel=0.1), name


def test_constants_of_gemms_are_found_again() -> None:
    rows, true = gemm()
    found = fit_constants(GEMM, [rows])
    assert np.quantile(np.abs(np.log(model_seconds(GEMM, rows, found) / rows.seconds)), 0.95) < 0.02
    for name in ("compute", "memory", "launch"):
        assert found[name] == pytest.approx(true[name], rel=0.1), name


def test_within_bounds_with_six_digits_and_what_is_fixed_stays() -> None:
    found = fit_constants(NCCL, [nccl(times=30.0)])
    assert set(found) == set(NCCL.constants)
    for name, constant in NCCL.constants.items():
        assert constant.low <= found[name] <= constant.high, name
        if constant.low == constant.high:
            assert found[name] == constant.start
        else:
            assert float(f"{found[name]:.6g}") == found[name]


def test_outliers_pull_little() -> None:
    clean = nccl(scatter=0.02)
    seconds = clean.seconds.copy()
    seconds[::15] *= 6
    dirty = fit_constants(NCCL, [replace(clean, seconds=seconds)])
    assert np.median(error(dirty, clean)) < 0.03


def test_the_same_rows_and_seed_give_the_same_constants() -> None:
    rows, _ = gemm(n=4000)  # more than are drawn
    first = fit_constants(GEMM, [rows], seed=3)
    assert fit_constants(GEMM, [rows], seed=3) == first
    assert fit_constants(GEMM, [rows], seed=4) != first


def test_groups_count_alike_however_many_rows_they_have() -> None:
    """69 rows that are 1.5 times as slow against eight times as many: the constants end in between."""
    slow, quick = nccl(times=1.5), nccl()
    shape = {name: np.tile(column, 8) for name, column in quick.shape.items()}
    found = fit_constants(NCCL, [slow, Rows(shape, LABEL, quick.gpu, np.tile(quick.seconds, 8))])
    assert 1.15 < np.median(model_seconds(NCCL, quick, found) / quick.seconds) < 1.35, "both groups count alike"


def test_several_gpus_share_constants() -> None:
    groups = [nccl(gpu) for gpu in ("a100-sxm", "h100-sxm", "b200-sxm")]
    found = fit_constants(NCCL, groups)
    assert max(error(found, rows).max() for rows in groups) < 0.05


def test_a_floor_is_not_explained_by_physics() -> None:
    rows, true = gemm()
    floored = replace(rows, seconds=np.maximum(rows.seconds, 1e-4), floor=1e-4)
    found = fit_constants(GEMM, [floored])
    assert found["launch"] < 3 * true["launch"]
    above = rows.seconds > 2e-4
    assert np.median(np.abs(np.log(model_seconds(GEMM, rows, found) / rows.seconds))[above]) < 0.05
    assert fit_constants(GEMM, [replace(floored, floor=0.0)])["launch"] > 3 * true["launch"]


def test_a_constant_that_no_row_depends_on_stays_where_it_starts() -> None:
    found = fit_constants(NCCL, [nccl()])
    for name in ("own", "own_link", "multicast", "copy"):
        assert found[name] == pytest.approx(NCCL.constants[name].start, rel=1e-3), name


def test_taking_rows() -> None:
    rows = nccl()
    some = rows.take(np.array([3, 1]))
    assert len(some) == 2 and some.seconds.tolist() == rows.seconds[[3, 1]].tolist()
    assert some.shape["bytes"].tolist() == rows.shape["bytes"][[3, 1]].tolist() and some.gpu is rows.gpu
