"""Predictions of rows by profiles that never saw them: shapes held out, whole GPUs, and models."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from calibration.crossvalidate import PART, SALT, has_watts, held_out, leave_one_gpu_out, leave_one_model_out
from calibration.fit import held_out as held_out_rows
from calibration.tables import KernelTable, read_kernels
from hwspecs.gpu import load_gpu
from simulator.fitted import ErrorBand, Fitted, Group
from simulator.kernels.registry import MODELS
from simulator.selection import TRANSFER
from simulator.trees import Trees

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


def test_a_model_that_is_left_out_is_predicted_with_its_own_widths(tmp_path: Path) -> None:
    """Two models whose times are the physics' own, without corrections: each is told exactly by the other's group."""
    model, gpu = MODELS["dsa_module"], load_gpu("h200-sxm")
    label = {"kernel": "FLASHMLA_SPARSE", "phase": "decode", "dtype": "bf16", "kv_dtype": "bf16", "gemm_dtype": "bf16"}
    shape = {"indexer": 1.0, "batch": 8.0, "query_len": 1.0, "past_len": 4095.0, "q_heads": 16.0}
    constants = {name: constant.start for name, constant in model.constants.items()}
    none = Trees(0.0, np.zeros((1, 1), np.int16), np.zeros((1, 1), np.float32), np.zeros((1, 2), np.float32))
    took, groups = {}, []
    for name in ("deepseek-ai/DeepSeek-V3.2", "zai-org/GLM-5", "zai-org/GLM-5-FP8"):
        own = model.label_of({**label, "model": name})
        took[name] = float(model.terms(shape, own, gpu, constants).seconds(constants["sharpness"]))
        ranges = dict.fromkeys(model.columns, (1.0, 1000000.0))
        band = {"all": ErrorBand(-0.1, 0.1, 0.05, 9)}
        groups.append(Group("dsa_module", own, constants, none, ranges, {}, 0.0, 9, band))
    header = ["gpu", "software", *label, "model", *shape, "latency_us"]
    lines = [
        ",".join(map(str, ["h200-sxm", "vllm-0.24.0", *label.values(), name, *map(int, shape.values()), seconds * 1e6]))
        for name, seconds in took.items()
    ]
    (tmp_path / "dsa.csv").write_text("\n".join([",".join(header), *lines]))
    rows = read_kernels(tmp_path / "dsa.csv")
    profile = Fitted("h200-sxm@vllm-0.24.0", "", "", "h200-sxm", "vllm-0.24.0", tuple(groups))
    results = leave_one_model_out([rows, table()], [profile])
    assert [tested.columns["model"].tolist() for _, tested, _ in results] == [
        ["deepseek-ai/DeepSeek-V3.2"], ["zai-org/GLM-5", "zai-org/GLM-5-FP8"]
    ]  # fmt: skip
    for _, tested, found in results:
        np.testing.assert_allclose(found.seconds, tested.seconds, rtol=1e-9)
        assert set(found.status) == {"transferred"}
    assert took["zai-org/GLM-5"] > 1.05 * took["deepseek-ai/DeepSeek-V3.2"], "16 of its heads are wider"
