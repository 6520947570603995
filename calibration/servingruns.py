"""A row of a serving table as a scenario: the deployment that was measured, and the load of its run.

What a table leaves out is in `servingrecipes` (what runs were told) and `servingmodels` (checkpoints); what nobody
knows is as the engine does it (`workloads/engines`). What cannot be simulated raises InputError, whose words become the
row's `reason`.
"""

from __future__ import annotations

from typing import Any

from calibration.servingmodels import bundled_model, formats_of
from calibration.servingpoolruns import pools_spec
from calibration.servingrecipes import Row, Told, is_public, told
from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.calibrated import AUTO
from workloads.formats import BLOCK
from workloads.model import Model
from workloads.precision import SPLITS_BLOCKS

REQUESTS_PER_USER = 10
"""The load generators sent ten times as many requests as there were users."""
SPREAD = (4, 5)
"""Public runs drew each length uniformly between 0.8 and 1.0 of the nominal one, both of input and output."""

LENGTH_STEP = 16_384
"""`max_model_len` is the next multiple of this, so that rows of several lengths share one compiled deployment."""


def layout_of(row: Row, model: Model, run: Told, experts: str | None = None) -> dict[str, int]:
    """The parallel layout of a row's run, for a scenario; `experts` is their format.

    Its recipe goes before the table, and so does what the engine can load: where the table splits experts into parts
    that the engine refuses, they were whole. Raises InputError for a layout that contradicts itself.
    """
    gpus = row["tp"] * row["attention_dp"]
    shared, groups = row["moe_tp"], row["moe_ep"]
    found = f"{shared} x {groups}"
    if model.moe is None:
        if shared * groups > 1:
            raise InputError(f"{row['model']} has no experts", place="moe_tp, moe_ep", found=found)
        return {"tensor": row["tp"], "pipeline": row["pp"], "attention_data": row["attention_dp"], "expert": 1}
    if shared * groups != gpus:
        raise InputError(
            "the experts are on other GPUs than the attention", place="moe_tp, moe_ep", found=shared * groups
        )
    in_blocks = experts == "fp8_block" and row["engine"] not in SPLITS_BLOCKS
    if run.expert == "none":
        groups = 1
    elif run.expert or (in_blocks and model.moe.intermediate // shared % BLOCK):
        groups = gpus
    data = gpus if run.attention_data else row["attention_dp"]
    return {"tensor": gpus // data, "pipeline": row["pp"], "attention_data": data, "expert": groups}


def deployment_spec(row: Row, profile: str | None = None) -> dict[str, Any]:
    """A row's scenario without its load, as plain data. Rows that agree in it are served by one deployment.

    `profile` : in place of that of the row's engine. Raises InputError for what cannot be simulated.
    """
    model = bundled_model(row["model"])
    length = row["input_len"] + row["output_len"]
    if length > model.max_context:
        problem = f"longer than the context of {row['model']}"
        raise InputError(problem, place="input_len, output_len", found=length)
    longest = min(-(-length // LENGTH_STEP) * LENGTH_STEP, model.max_context)
    if "prefill_workers" in row:
        return pools_spec(row, profile, longest)
    run = told(row)
    gpu = load_gpu(row["gpu"])
    formats = formats_of(row["precision"], row["model"], engine=row["engine"], version=run.version, gpu=gpu)
    precision = {**formats, **run.precision}
    experts = precision.get("experts", precision.get("linear", model.formats.experts))
    engine = {
        "name": row["engine"],
        "version": run.version,
        **run.engine,
        "max_model_len": longest,
    }
    return {
        "gpu": row["gpu"],
        "model": model.name,
        "precision": precision,
        "parallelism": layout_of(row, model, run, experts),
        "engine": engine,
        "profile": profile or AUTO,
    }


def workload_spec(row: Row) -> dict[str, Any]:
    """The load of a row's run: a closed loop of `concurrency` users, who all start at once."""

    def lengths(nominal: int) -> Any:
        if not is_public(row):
            return nominal
        return {"kind": "uniform", "low": max(1, nominal * SPREAD[0] // SPREAD[1]), "high": nominal}

    return {
        "strategy": {"kind": "chat"},
        "requests": REQUESTS_PER_USER * row["concurrency"],
        "prompt_tokens": lengths(row["input_len"]),
        "output_tokens": lengths(row["output_len"]),
        "arrivals": {"kind": "closed_loop", "concurrency": row["concurrency"]},
    }
