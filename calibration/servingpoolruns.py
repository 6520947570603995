"""A row of a table of disaggregated deployments as a scenario: prefill and decode workers, each with its layout and
settings. What the table leaves out is in `servingpools`; `servingruns` has the load, and rows of single instances.
"""

from __future__ import annotations

from typing import Any

from calibration.servingmodels import bundled_model, formats_of
from calibration.servingpools import ToldPools, told_pools
from calibration.servingrecipes import Row
from calibration.servingtables import SIDES
from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.calibrated import AUTO
from workloads.formats import BLOCK
from workloads.model import Model
from workloads.precision import SPLITS_BLOCKS

EXCHANGE = {"prefill": "high_throughput", "decode": "low_latency"}
"""Of the kernels of an expert all-to-all, those that a side runs (DeepEP's modes: prompts want throughput)."""


def pools_spec(row: Row, profile: str | None, max_model_len: int) -> dict[str, Any]:
    """A row's scenario without its load, as plain data. Raises InputError for what cannot be simulated."""
    model, run = bundled_model(row["model"]), told_pools(row)
    gpu = load_gpu(row["gpu"])
    formats = formats_of(row["precision"], row["model"], engine=row["engine"], version=run.version, gpu=gpu)
    precision = {**formats, **run.precision}
    experts = precision.get("experts", precision.get("linear", model.formats.experts))
    pools = {
        side: {
            "replicas": row[f"{side}_workers"],
            "parallelism": pool_layout(row, side, model, run, experts),
            "engine": dict(run.engine[side]),
        }
        for side in SIDES
    }
    return {
        "gpu": row["gpu"],
        "model": model.name,
        "precision": precision,
        "engine": {"name": row["engine"], "version": run.version, "max_model_len": max_model_len},
        "profile": profile or AUTO,
        "disaggregation": pools,
    }


def pool_layout(row: Row, side: str, model: Model, run: ToldPools, experts: str | None) -> dict[str, Any]:
    """The parallel layout of the workers of one side; `experts` is their format.

    Experts that the table splits into parts which the engine refuses were whole. Raises InputError for a layout that
    contradicts itself.
    """
    tensor, data, shared, groups = (row[f"{side}_{name}"] for name in ("tp", "attention_dp", "moe_tp", "moe_ep"))
    gpus = tensor * data
    place, found = f"{side}_moe_tp, {side}_moe_ep", f"{shared} x {groups}"
    if model.moe is None:
        if shared * groups > 1:
            raise InputError(f"{row['model']} has no experts", place=place, found=found)
        return {"tensor": tensor, "attention_data": data, "expert": 1}
    if shared * groups != gpus:
        raise InputError("the experts are on other GPUs than the attention", place=place, found=found)
    if experts == "fp8_block" and row["engine"] not in SPLITS_BLOCKS and model.moe.intermediate // shared % BLOCK:
        groups = gpus
    out: dict[str, Any] = {"tensor": tensor, "attention_data": data, "expert": groups}
    if side in run.all_to_all and groups == gpus > 1:
        out["all_to_all"] = EXCHANGE[side]
        if run.redundant and (model.moe.experts + run.redundant) % gpus == 0:
            out["redundant_experts"] = run.redundant
    return out
