"""The profile for GPUs that nobody has measured, and what carrying a profile costs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from calibration.fit import fit_profiles
from calibration.tables import KernelTable, read_kernels
from calibration.transfer import fit_transfer
from hwspecs.gpu import load_gpu
from simulator.fitted import ErrorBand, Fitted, Group
from simulator.kernels.registry import MODELS
from simulator.predict import predict_kernels
from simulator.profilefile import to_bytes
from simulator.selection import ANY, POOLED, TRANSFER, Library
from simulator.trees import Trees

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


def test_whole_blocks_are_pooled_over_formats_with_their_own_constants(tmp_path: Path) -> None:
    """Blocks of two GPUs and two formats whose times are the physics' own: one pool, the medians of their constants,
    and any format on any GPU is told by them.
    """
    model = MODELS["mla_module"]
    start = {name: constant.start for name, constant in model.constants.items()}
    none = Trees(0.0, np.zeros((1, 1), np.int16), np.zeros((1, 1), np.float32), np.zeros((1, 2), np.float32))
    label = {
        "kernel": "FLASHMLA",
        "phase": "decode",
        "model": "deepseek-ai/DeepSeek-V3",
        "dtype": "bf16",
        "kv_dtype": "bf16",
    }
    shapes = [{"batch": b, "query_len": 1, "past_len": p, "q_heads": 16} for b in (1, 8, 64) for p in (127, 1023, 8191)]
    lines = ["gpu,software," + ",".join([*label, "gemm_dtype", *shapes[0], "latency_us"])]
    fitted = []
    for gpu, launch in (("h200-sxm", 1.0), ("b200-sxm", 3.0)):
        groups = []
        for dtype in ("bf16", "fp8_block"):
            own = model.label_of({**label, "gemm_dtype": dtype})
            constants = start | {"launch": start["launch"] * launch}
            groups.append(
                Group("mla_module", own, constants, none, {}, {}, 0.0, 9, {"all": ErrorBand(-0.1, 0.1, 0.05, 9)})
            )
            for shape in shapes:
                arrays = {name: np.array([float(value)]) for name, value in shape.items()}
                took = model.terms(arrays, own, load_gpu(gpu), start).seconds(start["sharpness"])
                cells = [gpu, "vllm-0.24.0", *label.values(), dtype, *shape.values(), float(took[0]) * 1e6]
                lines.append(",".join(map(str, cells)))
        fitted.append(Fitted(f"{gpu}@vllm-0.24.0", "", "", gpu, "vllm-0.24.0", tuple(groups)))
    (tmp_path / "mla.csv").write_text("\n".join(lines))
    made = fit_transfer([read_kernels(tmp_path / "mla.csv")], fitted, jobs=1)
    (pool,) = made.groups
    assert pool.rows == 36
    assert pool.label == {
        "kernel": POOLED, "phase": "decode", "form": "absorbed", "model": ANY, "dtype": ANY, "kv_dtype": ANY,
        "gemm_dtype": ANY,
    }  # fmt: skip
    assert pool.constants == pytest.approx(start | {"launch": 2 * start["launch"]})
    columns = {name: np.array([text], dtype=object) for name, text in label.items()}
    columns |= {name: np.array([float(value)]) for name, value in shapes[4].items()}
    columns |= {name: np.array([text], dtype=object) for name, text in (("gpu", "l40s"), ("software", "vllm-0.24.0"))}
    times = []
    for dtype in ("bf16", "fp8_block"):
        found = predict_kernels("mla_module", {**columns, "gemm_dtype": np.array([dtype])}, library=Library([made]))
        own = model.label_of({**label, "gemm_dtype": dtype})
        physics = model.terms({n: columns[n] for n in shapes[0]}, own, load_gpu("l40s"), pool.constants)
        times.append(float(physics.seconds(start["sharpness"])[0]))
        assert float(found.seconds[0]) == pytest.approx(times[-1], rel=0.5)
    assert times[1] < 0.8 * times[0], "weights of half the bytes"
