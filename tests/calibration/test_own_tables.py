"""Tables as the microbenchmarks write them, here made by known physics: what a fit finds again, and what it refuses."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration import validation
from calibration.constants import Rows, fit_constants, model_seconds
from calibration.fit import Task, fit_group, fit_profiles, floor_of, tasks_of
from calibration.fitcommand import read_tables
from calibration.tables import concatenate, read_kernels
from calibration.transfer import fit_transfer
from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.fitted import COLD
from simulator.kernels.registry import MODELS
from simulator.predict import predict_kernels
from simulator.profilefile import read_profile
from simulator.selection import Library

H200 = load_gpu("h200-sxm")
SCATTER = 0.015
"""Of made measurements, in logarithms."""
EXTRA = "low_us,high_us,reps,outliers,config,baseline,baseline_us,sm_mhz,board_w,temp_c,throttled,run,date"
DIMS = {"head_dim": 128.0, "page": 16.0, "budget": 1024.0, "window": 0.0}
HEADS = ((16.0, 8.0), (32.0, 8.0), (64.0, 8.0), (8.0, 1.0))
LABELS = {
    "gemm": {"kernel": "triton", "dtype": "bf16"},
    "attention_decode": {"kernel": "triton", "dtype": "bf16", "kv_dtype": "bf16"},
    "rms_norm": {"kernel": "triton", "op": "rms_norm", "dtype": "bf16"},
    "embedding": {"kernel": "triton", "op": "embedding", "dtype": "bf16"},
    "scores": {"kernel": "triton", "op": "scores", "dtype": "bf16", "kv_dtype": "bf16"},
    "select": {"kernel": "triton", "op": "select", "dtype": "bf16", "kv_dtype": "bf16"},
}
TRUE: dict[str, dict[str, float]] = {
    "gemm": {"launch": 2.5e-6, "compute": 0.7, "memory": 0.8, "resident": COLD},
    "attention_decode": {"latency": 6e-6, "memory": 0.85, "merge": 3e-6, "resident": COLD},
    "rms_norm": {"latency": 1.7e-6, "uneven": 0.8, "l2": 0.35, "memory": 0.9, "keep": 0.4, "row": 300.0},
    "embedding": {"latency": 2.2e-6, "uneven": 0.1, "l2": 0.5, "memory": 0.8, "keep": 0.7, "cold": 0.5},
    "scores": {"latency": 3e-6, "block": 700.0, "memory": 0.8, "l2": 0.3, "resident": COLD},
    "select": {"latency": 4e-6, "row": 3000.0, "page": 2.0, "sort": 0.05, "pick": 20.0, "resident": COLD},
}
"""Constants that the made tables follow; any would do."""
KIND = {"rms_norm": "elementwise", "embedding": "elementwise", "scores": "page_topk", "select": "page_topk"}


def drawn(kind: str, n: int, seed: int) -> dict[str, np.ndarray]:
    """Shapes at random, whole numbers, evenly in the logarithm."""
    rng = np.random.default_rng(seed)

    def between(low: float, high: float) -> np.ndarray:
        return np.round(np.exp(rng.uniform(np.log(low), np.log(high), n)))

    if kind == "gemm":
        return {"m": between(1, 8192), "n": 128 * between(8, 200), "k": 128 * between(8, 100)}
    if kind == "elementwise":
        return {"rows": between(1, 16384), "row_bytes": 256 * between(16, 200)}
    q_heads, kv_heads = np.array(HEADS)[rng.integers(0, len(HEADS), n)].T
    shape = {"batch": between(1, 256), "context_len": between(2048, 65536), "q_heads": q_heads, "kv_heads": kv_heads}
    return shape | {name: np.full(n, DIMS[name]) for name in MODELS[kind].columns if name in DIMS}


def made(what: str, n: int, seed: int = 0, scatter: float = SCATTER, gpu: str = "h200-sxm", **true: float) -> Rows:
    """Rows that take what the physics say for TRUE, and scatter."""
    kind = KIND.get(what, what)
    l2 = "warm" if kind == "elementwise" else "cold"
    rows = Rows(drawn(kind, n, seed), LABELS[what], load_gpu(gpu), np.ones(n), l2=l2)
    constants = {name: c.start for name, c in MODELS[kind].constants.items()} | TRUE[what] | true
    noise = np.exp(np.random.default_rng(seed + 1).normal(0, scatter, n))
    return replace(rows, seconds=model_seconds(MODELS[kind], rows, constants) * noise)


def text(what: str, rows: Rows, *, l2: str | None = None, **cells: Any) -> str:
    """The rows as a CSV file with all the columns that a run of the microbenchmarks writes; some cells are empty."""
    kind = KIND.get(what, what)
    out = io.StringIO()
    shape = dict(rows.shape) | ({"q_heads": 0, "kv_heads": 0, "head_dim": 0} if kind == "elementwise" else {})
    names = ["gpu", "software", *LABELS[what], *shape, "latency_us", "l2", *EXTRA.split(",")]
    writer = csv.DictWriter(out, names, lineterminator="\n", restval="")
    writer.writeheader()
    for i in range(len(rows)):
        row: dict[str, Any] = {"gpu": rows.gpu.name, "software": "triton", **rows.label}
        row |= {name: int(np.broadcast_to(column, len(rows))[i]) for name, column in shape.items()}
        row |= {"latency_us": repr(float(rows.seconds[i] * 1e6)), "l2": rows.l2 if l2 is None else l2}
        row |= {"config": "BLOCK=64 num_warps=4", "reps": 20, "run": 1, "board_w": "" if i % 2 else "512.5"}
        writer.writerow(row | {name: value[i] if isinstance(value, list) else value for name, value in cells.items()})
    return out.getvalue()


def written(folder: Path, what: str, rows: Rows, name: str | None = None, **cells: Any) -> Path:
    path = folder / (name or f"{KIND.get(what, what)}.csv")
    path.write_text(text(what, rows, **cells))
    return path


@cache
def fitted(what: str, n: int = 60) -> Any:
    return fit_group(Task("h200-sxm", "triton", KIND.get(what, what), made(what, n), 0))


# ---- what a fit finds again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [*KIND, "gemm", "attention_decode"])
def test_times_of_shapes_that_were_not_seen(what: str) -> None:
    """From 60 rows (GEMMs: 200) with 1.5 % of scatter to a few per cent."""
    group = fitted(what, 200 if what == "gemm" else 60)
    fresh = made(what, 300, seed=50, scatter=0.0)
    error = np.abs(np.asarray(group.estimate(fresh.shape, H200).seconds) / fresh.seconds - 1)
    assert error.mean() < 0.03 and np.quantile(error, 0.9) < 0.07, (error.mean(), np.quantile(error, 0.9))
    assert group.floor == 0 and group.errors["all"].mape < 0.05


@pytest.mark.parametrize("what", KIND)
def test_twenty_rows_are_enough_for_a_rough_one(what: str) -> None:
    group, fresh = fitted(what, 20), made(what, 300, seed=50, scatter=0.0)
    error = np.abs(np.asarray(group.estimate(fresh.shape, H200).seconds) / fresh.seconds - 1)
    assert error.mean() < 0.08


def test_from_files_to_a_profile_to_their_errors(tmp_path: Path) -> None:
    """As `kinesim calibrate fit` and `validate kernels` do it, on rows that the fit did not see."""
    for what in ("rms_norm", "scores", "attention_decode"):
        written(tmp_path, what, made(what, 60))
        written(tmp_path, what, made(what, 100, seed=50), f"{KIND.get(what, what)}-check.csv")
    tables = [tmp_path / f"{kind}.csv" for kind in ("elementwise", "page_topk", "attention_decode")]
    (profile,) = fit_profiles(read_tables(tables), jobs=1)
    assert profile.name == "h200-sxm@triton" and len(profile.groups) == 3
    for path in tables:
        table = read_kernels(path.with_name(path.stem + "-check.csv"))
        found = predict_kernels(table.kind, table.columns, library=Library([profile]))
        assert set(found.profile) == {profile.name}
        assert np.abs(found.seconds / table.seconds - 1).mean() < 0.04
        assert np.isfinite(found.watts).all()


def test_the_commands(tmp_path: Path, kinesim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "rms_norm", made("rms_norm", 40))
    written(tmp_path, "select", made("select", 40))
    done = kinesim("calibrate", "fit", "elementwise.csv", "page_topk.csv", "--out", "made", "--jobs", "1")
    assert done.code == 0, done.err
    assert {g.kind for g in read_profile(tmp_path / "made" / "h200-sxm@triton.npz").groups} == {
        "elementwise",
        "page_topk",
    }
    for kind in ("elementwise", "page_topk"):
        argv = ("validate", "kernels", f"{kind}.csv", "--profile", "made/h200-sxm@triton.npz")
        done = kinesim(*argv, "--out", "o.csv", "--plots", "figures")
        assert done.code == 0, done.err
        head, first = (tmp_path / "o.csv").read_text().splitlines()[:2]
        assert head == (tmp_path / f"{kind}.csv").read_text().splitlines()[0] + "," + ",".join(validation.ADDED)
        assert "BLOCK=64 num_warps=4" in first and "h200-sxm@triton" in first
        assert (tmp_path / "figures" / f"{kind}-map.png").exists()


# ---- cold tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["gemm", "attention_decode", "scores"])
def test_nothing_is_found_in_l2_where_operands_were_cold(what: str) -> None:
    """The constant is held there, below the bounds that it is fitted between for attention."""
    rows, model = made(what, 120, scatter=0.0), MODELS[KIND.get(what, what)]
    assert fit_constants(model, [rows])["resident"] == COLD
    assert fit_constants(model, [replace(rows, l2="")])["resident"] >= model.constants["resident"].low


def test_cold_and_warm_groups_pooled_each_count_as_they_are() -> None:
    """`resident` comes from the warm rows alone, and a cold row is not told that its operands were in L2."""
    cold = made("attention_decode", 150, scatter=0.0)
    warm = replace(made("attention_decode", 150, scatter=0.0, seed=3), l2="")
    constants = {n: c.start for n, c in MODELS["attention_decode"].constants.items()} | TRUE["attention_decode"]
    warm = replace(warm, seconds=model_seconds(MODELS["attention_decode"], warm, constants | {"resident": 0.75}))
    found = fit_constants(MODELS["attention_decode"], [cold, warm])
    assert found["resident"] == pytest.approx(0.75, rel=0.15)
    for rows in (cold, warm):
        error = np.log(model_seconds(MODELS["attention_decode"], rows, found) / rows.seconds)
        assert np.abs(error).mean() < 0.02


def test_a_step_takes_what_was_measured_cold_as_it_is() -> None:
    group, shape = fitted("attention_decode"), drawn("attention_decode", 50, 9)
    as_measured, in_a_step = (np.asarray(group.estimate(shape, H200, cold=cold).seconds) for cold in (False, True))
    assert np.array_equal(as_measured, in_a_step)


def test_rows_from_cuda_graphs_have_no_host() -> None:
    """Many small kernels that all take the same 60 us are a latency, where the table says how they were measured."""
    rows = made("gemm", 400)
    rows = replace(rows, seconds=np.maximum(rows.seconds, 60e-6))
    stated, silent = (Task("h200-sxm", "triton", "gemm", replace(rows, l2=l2), 0) for l2 in ("cold", ""))
    assert floor_of(stated) == 0.0 and floor_of(silent) == pytest.approx(60e-6)


def test_the_column_l2(tmp_path: Path) -> None:
    rows = made("attention_decode", 30)
    table = read_kernels(written(tmp_path, "attention_decode", rows))
    assert table.l2 is not None and set(table.l2) == {"cold"} and len(table.take(np.arange(5)).l2) == 5  # type: ignore[arg-type]
    (task,) = tasks_of([table])
    assert task.rows.l2 == "cold"
    silent = read_kernels(written(tmp_path, "attention_decode", rows, l2=""))
    assert set(silent.l2) == {""} and tasks_of([silent])[0].rows.l2 == ""  # type: ignore[arg-type]
    both = concatenate([table, replace(silent, l2=None)])
    assert both.l2.tolist() == ["cold"] * 30 + [""] * 30  # type: ignore[union-attr]
    assert concatenate([replace(silent, l2=None)] * 2).l2 is None


def test_an_unknown_l2_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "attention_decode.csv"
    lines = text("attention_decode", made("attention_decode", 12)).splitlines()
    lines[8] = lines[8].replace(",cold,", ",hot,")
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="unknown l2; found 'hot'; allowed: cold, warm") as error:
        read_kernels(path)
    assert error.value.line == 9 and error.value.place == "column l2"


def test_a_group_that_mixes_cold_and_warm_is_refused(tmp_path: Path) -> None:
    lines = text("attention_decode", made("attention_decode", 12)).splitlines()
    lines[8] = lines[8].replace(",cold,", ",warm,")
    path = tmp_path / "attention_decode.csv"
    path.write_text("\n".join(lines) + "\n")
    read_kernels(path)  # to predict, it may be so
    with pytest.raises(InputError, match=r"rows of h200-sxm triton triton bf16 bf16 differ .* found 'cold, warm'"):
        read_tables([path])
    lines[8] = lines[8].replace(",triton,triton,", ",triton,triton_warm,")
    path.write_text("\n".join(lines) + "\n")
    assert len(tasks_of(read_tables([path]))) == 1


# ---- tables as they come ---------------------------------------------------------------------------------------------


def test_rows_that_failed_have_no_latency(tmp_path: Path) -> None:
    rows = made("rms_norm", 30)
    cells = {"latency_us": ["" if i % 3 == 0 else repr(float(s * 1e6)) for i, s in enumerate(rows.seconds)]}
    table = read_kernels(written(tmp_path, "rms_norm", rows, **cells))
    assert table.measured.sum() == 20 and len(tasks_of([table])[0].rows) == 20


def test_operators_without_heads_say_0(tmp_path: Path) -> None:
    table = read_kernels(written(tmp_path, "rms_norm", made("rms_norm", 9)))
    assert table.kind == "elementwise" and set(table.columns["kv_heads"]) == {0.0}
    with pytest.raises(InputError, match="zero or negative; found 0"):
        read_kernels(written(tmp_path, "scores", made("scores", 9), kv_heads=0))
    with pytest.raises(InputError, match="unknown op"):
        read_kernels(written(tmp_path, "rms_norm", made("rms_norm", 9), op="layer_norm"))


def test_two_gpus_can_be_pooled(tmp_path: Path) -> None:
    paths = []
    for gpu in ("h200-sxm", "b200-sxm"):
        paths.append(written(tmp_path, "rms_norm", made("rms_norm", 40, gpu=gpu), f"{gpu}.csv"))
    table = concatenate([read_kernels(path) for path in paths])
    profiles = fit_profiles([table], jobs=1)
    pooled = fit_transfer([table], profiles, jobs=1)
    assert [p.name for p in profiles] == ["b200-sxm@triton", "h200-sxm@triton"]
    assert pooled.groups[0].kind == "elementwise" and "foreign" in pooled.carried["elementwise"]
