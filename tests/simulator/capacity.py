"""KV caches that engines reported when they started (tests/data/kv_capacity.csv) beside the plans for them.

PYTHONPATH=. python tests/simulator/capacity.py   prints the table of docs/memory.md.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu, list_gpus, load_gpu
from simulator.layout import Layout
from simulator.memory import IDEAL, Reserve, plan_memory, weight_bytes_per_gpu
from simulator.reserve import GIB
from simulator.stepgraph import Precision
from workloads.engine import Engine, resolve_engine
from workloads.model import load_model

TABLE = Path(__file__).resolve().parents[1] / "data" / "kv_capacity.csv"
FORMATS = {
    "bf16": Precision(),
    "fp8": Precision("fp8", "fp8"),
    "fp8_block": Precision(attention="fp8_block", mlp="fp8_block", experts="fp8_block"),
    "mxfp4": Precision(experts="w4a16_mxfp4"),
}


def capacity_rows() -> list[dict[str, Any]]:
    """The table's rows; sizes in GiB, of one GPU, and errors over what was reported."""
    with TABLE.open(encoding="utf-8") as file:
        return [_row(row) for row in csv.DictReader(file)]


def _row(row: dict[str, str]) -> dict[str, Any]:
    gpu, model = _gpu(row), load_model(row["model"])
    layout = Layout(int(row["tensor"]), pipeline=int(row["pipeline"]))
    precision = replace(FORMATS[row["formats"]], kv=row["kv"])
    said = Engine(
        name=row["engine"],
        version=row["version"],
        memory_utilisation=float(row["share"]),
        max_num_batched_tokens=int(row["max_tokens"]),
        max_num_seqs=int(row["max_seqs"]),
    )
    engine = resolve_engine(said, gpu.memory.capacity)
    assert engine.memory is not None
    named = Reserve(**engine.memory.model_dump(exclude={"margin"}))

    def pool(reserve: Reserve) -> float:
        """KV memory, windows included; 0 if the model does not fit."""
        limits = {"max_tokens": engine.max_num_batched_tokens, "max_seqs": engine.max_num_seqs, "block_size": 16}
        share = engine.memory_utilisation
        try:
            plan = plan_memory(model, gpu, precision, layout, page=None, utilisation=share, reserve=reserve, **limits)
        except InputError:
            return 0.0
        return (plan.kv + plan.window_kv) / GIB

    reported, predicted, ideal = float(row["kv_gib"]), pool(named), pool(IDEAL)
    return row | {
        "weights": weight_bytes_per_gpu(model, precision, layout, named.expert_width) / GIB,
        "weights_gib": float(row["weights_gib"]) if row["weights_gib"] else None,
        "kv_gib": reported,
        "predicted_gib": predicted,
        "ideal_gib": ideal,
        "error": predicted / reported - 1,
        "ideal_error": ideal / reported - 1,
    }


def _gpu(row: dict[str, str]) -> Gpu:
    """A bundled GPU, or one whose memory, less what the driver keeps, is what CUDA reported."""
    gpu = load_gpu(row["gpu"] if row["gpu"] in list_gpus() else "h100-sxm")
    if not row["cuda_gib"]:
        return gpu
    return gpu.with_values({"memory.capacity": (float(row["cuda_gib"]) + 0.35) * GIB / (1 - 0.002)})


if __name__ == "__main__":
    table = capacity_rows()
    print("| engine | model | GPU | share | KV reported | predicted | without an engine |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in table:
        sizes = (("tp", row["tensor"]), ("pp", row["pipeline"]))
        model = f"{row['model'].rpartition('/')[2]} {row['formats']}"
        model += "".join(f" {name}{size}" for name, size in sizes if size != "1")
        values = " | ".join(f"{row[key]:.2f}" for key in ("kv_gib", "predicted_gib", "ideal_gib"))
        print(f"| {row['engine']} {row['version']} | {model} | {row['gpu']} | {row['share']} | {values} |")
    for engine in ("vllm", "sglang", "trtllm"):
        for key in ("error", "ideal_error"):
            errors = [abs(row[key]) for row in table if row["engine"] == engine and row["kv_gib"] > 4]
            print(engine, len(errors), key, f"mean {sum(errors) / len(errors):.3f} worst {max(errors):.3f}")
