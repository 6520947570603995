"""What is bundled, as rows; and the schemas of the files that people write and read."""

from __future__ import annotations

from typing import Any

from hwspecs.errors import InputError
from hwspecs.gpu import gpu_schema, list_gpus, load_gpu
from hwspecs.units import format_quantity


def gpus() -> list[dict[str, Any]]:
    """One row a GPU: dense peaks, memory, link, power, price."""
    rows = []
    for name in list_gpus():
        gpu = load_gpu(name)
        peaks = {dtype: format_quantity(gpu.peak[dtype], "FLOP/s") if dtype in gpu.peak else None for dtype in ("bf16", "fp8", "fp4")}
        rows.append(
            {"name": name, "title": gpu.title, "status": gpu.status, **peaks, "memory": format_quantity(gpu.memory.capacity, "B"),
             "bandwidth": format_quantity(gpu.memory.bandwidth, "B/s"), "link": f"{gpu.link.kind} {format_quantity(gpu.link.bandwidth, 'B/s')} x {gpu.link.domain}",
             "tdp": format_quantity(gpu.power.tdp, "W"), "usd_per_hour": gpu.price.usd_per_hour if gpu.price else None}
        )  # fmt: skip
    return rows


def models() -> list[dict[str, Any]]:
    """One row a model: parameters, shape, KV bytes per token in bf16."""
    from workloads.model import list_models, load_model

    rows = []
    for name in list_models():
        model = load_model(name)
        rows.append(
            {"name": name, "parameters": f"{model.parameters / 1e9:.2f} B", "active": f"{model.active_parameters / 1e9:.2f} B", "layers": model.layers,
             "heads": f"{model.q_heads}/{model.kv_heads}", "context": model.max_context, "kv_bytes_per_token": int(model.kv_bytes_per_token("bf16"))}
        )  # fmt: skip
    return rows


def scenarios() -> list[dict[str, Any]]:
    """One row a bundled scenario."""
    from workloads.scenario import list_scenarios

    return [{"name": name, "description": text} for name, text in list_scenarios().items()]


def profiles() -> list[dict[str, Any]]:
    """One row a profile."""
    from simulator.profile import list_profiles, load_profile

    return [{"name": name, "description": load_profile(name).description} for name in list_profiles()]


def schema(what: str) -> dict[str, Any]:
    """The JSON schema of a kind of file. InputError for an unknown kind."""
    if what == "scenario":
        from workloads.scenario import scenario_schema

        return scenario_schema()
    if what == "gpu":
        return gpu_schema()
    if what == "profile":
        from simulator.profile import Profile

        return Profile.model_json_schema()
    raise InputError("no such schema", place="WHAT", found=what, allowed="scenario, gpu, profile")
