"""Fitting profiles: the same bytes from the same rows, shapes held out alike, floors found, the shipped ones again."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from calibration.constants import Rows, model_seconds
from calibration.fit import (
    FEW_ROWS,
    LEAST_ROWS,
    Task,
    _drafts,
    digest,
    error_band,
    fit_group,
    fit_profiles,
    held_out,
    measure_errors,
    profile_names,
    tasks_of,
)
from calibration.floors import detect_floor
from calibration.tables import KernelTable, read_kernels
from hwspecs.gpu import load_gpu
from simulator.fitted import ErrorBand, Fitted, Group
from simulator.kernels.registry import MODELS
from simulator.predict import predict_kernels
from simulator.profile import profile_folder
from simulator.profilefile import read_profile, to_bytes
from simulator.selection import Library

COLLECTIVE = Path(__file__).parents[1] / "data" / "collective.parquet"
SHIPPED = "h200-sxm@nccl-2.29.2"


@cache
def collectives(gpu: str = "h200-sxm", software: str = "nccl-2.29.2", op: str = "") -> KernelTable:
    table = read_kernels(COLLECTIVE)
    pick = (table.columns["gpu"] == gpu) & (table.columns["software"] == software)
    return table.take(pick & (table.columns["op"] == op) if op else pick)


@cache
def fitted(op: str = "all_gather", seed: int = 0, jobs: int = 1) -> Fitted:
    (made,) = fit_profiles([collectives(op=op)], seed=seed, jobs=jobs)
    return made


def gemms(floor: float = 0.0, n: int = 1500, scatter: float = 0.02) -> Rows:
    """GEMMs on H200 as the physics say, above a floor of the host that scatters too."""
    rng = np.random.default_rng(0)
    shape = {c: 2.0 ** rng.integers(low, 14, n) for c, low in (("m", 0), ("n", 7), ("k", 7))}
    rows = Rows(shape, {"kernel": "x", "dtype": "fp8"}, load_gpu("h200-sxm"), np.ones(n))
    constants = {name: c.start for name, c in MODELS["gemm"].constants.items()}
    kernel = np.maximum(model_seconds(MODELS["gemm"], rows, constants), floor)
    return replace(rows, seconds=kernel * np.exp(rng.normal(0, scatter, n)))


# ---- the same again --------------------------------------------------------------------------------------------------


def test_the_same_rows_and_seed_give_the_same_bytes() -> None:
    again = fit_profiles([collectives(op="all_gather")], seed=0, jobs=1)
    assert [to_bytes(p) for p in again] == [to_bytes(fitted())]
    assert to_bytes(fitted(seed=1)) != to_bytes(fitted())


def test_the_number_of_processes_does_not_matter() -> None:
    assert to_bytes(fitted(jobs=2)) == to_bytes(fitted())


def test_the_order_of_the_tables_does_not_matter() -> None:
    gathers, scatters = collectives(op="all_gather"), collectives("h100-sxm", op="all_gather")
    one, two = (
        [(t.gpu, t.rows.label) for t in tasks_of(tables)] for tables in ([gathers, scatters], [scatters, gathers])
    )
    assert one == two and len(one) == 4


def test_fitting_again_gives_the_shipped_profile() -> None:
    path = profile_folder() / f"{SHIPPED}.npz"
    assert path.exists(), f"{path} is not there: `make fit` writes it"
    shipped, made = read_profile(path), fitted(op="")
    assert [g.label for g in made.groups] == [g.label for g in shipped.groups]
    for a, b in zip(made.groups, shipped.groups, strict=True):
        assert dict(a.constants) == pytest.approx(dict(b.constants), rel=1e-4)
        assert (a.rows, a.floor, a.ranges) == (b.rows, b.floor, b.ranges)
    table = collectives()
    one, two = (predict_kernels("collective", table.columns, library=Library([p])) for p in (made, shipped))
    assert one.seconds == pytest.approx(two.seconds, rel=0.005)


def test_what_is_fitted_is_near() -> None:
    table = collectives()
    found = predict_kernels("collective", table.columns, library=Library([fitted(op="")]))
    assert set(found.status) == {"interpolated"}
    assert np.mean(np.abs(found.seconds / table.seconds - 1)) < 0.08
    inside = (found.low <= table.seconds) & (table.seconds <= found.high)
    assert inside.mean() > 0.75


def test_a_profile_says_what_it_rests_on() -> None:
    table = collectives(op="all_gather")
    made = fit_profiles([table], source="a test", jobs=1)[0]
    assert (made.name, made.gpu, made.software) == (SHIPPED, "h200-sxm", "nccl-2.29.2")
    assert "80 measured kernels in 2 groups; a test; seed 0, rows' sha256 " in made.fitted_on
    other = replace(table, seconds=np.where(np.arange(len(table)) == 3, 1e-3, table.seconds))
    assert digest(tasks_of([other])) != digest(tasks_of([table]))
    assert digest(tasks_of([table])) in made.fitted_on
    for group in made.groups:
        assert group.rows == 40 and set(group.errors) >= {"all"} and group.floor == 0
        assert group.ranges["gpus"] == (2, 8)
        assert group.lattice["bytes"].tolist() == sorted(set(group.lattice["bytes"].tolist()))


def test_progress_counts_the_groups() -> None:
    seen: list[tuple[int, int]] = []
    fit_profiles([collectives(op="all_gather")], jobs=1, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 2), (2, 2)]


# ---- what is fitted --------------------------------------------------------------------------------------------------


def test_groups_with_too_few_rows_or_no_latency_are_left_out() -> None:
    table = collectives(op="all_gather")
    assert [len(t.rows) for t in tasks_of([table])] == [40, 40]
    first = np.flatnonzero(table.columns["dtype"] == "fp16")
    few = np.concatenate([first[: LEAST_ROWS - 1], np.flatnonzero(table.columns["dtype"] == "int8")])
    assert [t.rows.label["dtype"] for t in tasks_of([table.take(np.sort(few))])] == ["int8"]
    blind = replace(table, seconds=np.full(len(table), np.nan))
    assert tasks_of([blind]) == [] and profile_names([blind]) == []
    assert fit_profiles([blind], jobs=1) == []


def test_tasks_are_sorted_and_named() -> None:
    table = read_kernels(COLLECTIVE)
    keys = [(t.gpu, t.software, t.kind, tuple(t.rows.label.values())) for t in tasks_of([table])]
    assert keys == sorted(keys) and len(keys) == 52
    assert len(profile_names([table])) == 16 and SHIPPED in profile_names([table])


def test_rows_that_are_all_alike_can_be_fitted() -> None:
    table = collectives(op="all_gather")
    same = table.take(np.full(12, 3))
    (made,) = fit_profiles([same], jobs=1)
    found = predict_kernels("collective", same.columns, library=Library([made]))
    assert found.seconds == pytest.approx(same.seconds, rel=0.05)
    assert to_bytes(made)


def test_a_known_correction_is_learned() -> None:
    """Times of the physics, half of them 1.5 times as long: held-out shapes are predicted as well."""
    rows = gemms()
    rows = replace(rows, seconds=rows.seconds * np.where(rows.shape["k"] > 1024, 1.5, 1.0))
    group = fit_group(Task("h200-sxm", "x", "gemm", rows, 0))
    assert group.errors["all"].mape < 0.03
    assert group.floor == 0 and group.host is None


# ---- shapes that are held out ----------------------------------------------------------------------------------------


def shapes_of(n: int = 20_000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {c: rng.integers(1, 5000, n).astype(float) for c in ("m", "n", "k")}


def test_a_quarter_of_the_shapes_whatever_their_order_and_company() -> None:
    shape = shapes_of()
    out = held_out(shape)
    assert 0.23 < out.mean() < 0.27
    order = np.random.default_rng(1).permutation(len(out))
    assert np.array_equal(held_out({n: c[order] for n, c in shape.items()}), out[order])
    assert np.array_equal(held_out(dict(reversed(list(shape.items())))), out)
    assert np.array_equal(held_out({n: c[:7].astype(int) for n, c in shape.items()}), out[:7])


def test_routings_of_one_shape_stay_together() -> None:
    shape = shapes_of(500)
    assert np.array_equal(held_out({**shape, "skew": np.full(500, 1.2)}), held_out({**shape, "skew": np.zeros(500)}))


def test_another_salt_holds_out_others() -> None:
    shape = shapes_of()
    a, b = held_out(shape), held_out(shape, salt=1)
    assert 0.04 < (a & b).mean() < 0.085, "independent: a quarter of a quarter"
    assert held_out(shape, part=0.0).sum() == 0 and held_out(shape, part=1.0).all()


def test_powers_of_two_are_mixed_too() -> None:
    grid = np.meshgrid(*[2.0 ** np.arange(14)] * 3, indexing="ij")
    shape = dict(zip("mnk", (g.ravel() for g in grid), strict=True))
    out = held_out(shape)
    for name, column in shape.items():
        parts = [out[column == value].mean() for value in np.unique(column)]
        assert min(parts) > 0.1 and max(parts) < 0.4, name


# ---- errors and floors -----------------------------------------------------------------------------------------------


def test_bands_hold_the_middle_80_percent() -> None:
    error = np.linspace(-0.5, 0.5, 1001)
    band = error_band(error)
    assert (band.low, band.high, band.rows) == (pytest.approx(-0.4), pytest.approx(0.4), 1001)
    assert error_band(np.full(10, 0.3)).low == 0.0, "what is predicted lies in the interval"
    assert error_band(np.log([1.25, 1.25])).mape == pytest.approx(0.2)


def test_every_row_of_a_small_group_is_held_out_once() -> None:
    """Its errors come from groups, constants included, that did not see it."""
    (task, *_) = tasks_of([collectives(op="all_gather")])
    constants = dict(fitted().groups[0].constants)
    drafts = _drafts(task, constants, task.rows, 0.0)
    assert len(drafts) == 4 and len(task.rows) < FEW_ROWS
    assert sorted(np.concatenate([rows.seconds for _, rows in drafts])) == sorted(task.rows.seconds)
    for draft, rows in drafts:
        assert draft.rows + len(rows) == len(task.rows) and draft.constants != constants
    assert fitted().groups[0].errors["all"] == error_band_of(drafts)
    (one,) = _drafts(Task("h200-sxm", "x", "gemm", gemms(), 0), dict(fit_gemm().constants), gemms(), 0.0)
    assert len(one[1]) == pytest.approx(0.25 * 1500, rel=0.2)


def error_band_of(drafts: list[tuple[Group, Rows]]) -> ErrorBand:
    return error_band(
        np.concatenate(
            [np.log(rows.seconds / np.asarray(g.estimate(rows.shape, rows.gpu).seconds)) for g, rows in drafts]
        )
    )


@cache
def fit_gemm() -> Group:
    return fit_group(Task("h200-sxm", "x", "gemm", gemms(), 0))


def test_errors_by_regime() -> None:
    rows, group = gemms(), fit_gemm()
    errors = measure_errors([(group, rows)])
    assert set(errors) > {"all", "compute"} and errors["all"].rows == len(rows)
    assert sum(band.rows for name, band in errors.items() if name != "all") <= len(rows)


def test_a_floor_is_found_and_kept_apart() -> None:
    floor, free = gemms(floor=6e-5), gemms()
    roof = MODELS["gemm"].roof(free.shape, free.label, free.gpu)
    assert detect_floor(floor, roof) == pytest.approx(6e-5, rel=0.05)
    assert detect_floor(free, roof) == 0.0
    assert detect_floor(floor.take(np.arange(10)), roof[:10]) == 0.0, "too few rows to tell"
    group = fit_group(Task("h200-sxm", "x", "gemm", floor, 0))
    assert group.floor == pytest.approx(6e-5, rel=0.05)
    assert group.errors["all"].mape < 0.05
    above = free.seconds > 1.5e-4
    kernel = np.asarray(group.estimate(free.shape, free.gpu).seconds)
    assert np.mean(np.abs(kernel / free.seconds - 1)[above]) < 0.05
    idle = free.seconds < 2e-5
    assert np.median(kernel[idle]) < 6e-5 * 1.3, "below the floor anything may be, but not more"
    assert np.asarray(group.host_seconds(free.shape, free.gpu))[idle] == pytest.approx(6e-5, rel=0.1)
