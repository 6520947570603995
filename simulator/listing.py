"""What is bundled, as rows; and the schemas of the files that people write and read."""

from __future__ import annotations

from typing import Any

from hwspecs.errors import InputError
from hwspecs.gpu import gpu_schema, list_gpus, load_gpu


def gpus() -> list[dict[str, Any]]:
    """One row a GPU: dense peaks, memory, link, power, price."""
    rows = []
    for name in list_gpus():
        gpu = load_gpu(name)
        row: dict[str, Any] = {"name": name, "title": gpu.title, "status": gpu.status}
        for dtype in ("bf16", "fp8", "fp4"):
            row[f"{dtype}_tflops"] = round(gpu.peak[dtype] / 1e12) if dtype in gpu.peak else None
        row["memory_gb"] = round(gpu.memory.capacity / 1e9, 1)
        row["hbm_tb_s"] = gpu.memory.bandwidth / 1e12
        row["flops_per_byte"] = round(gpu.kinetics_ratio) if "bf16" in gpu.peak else None
        row["link"] = gpu.link.kind
        row["link_gb_s"] = round(gpu.link.bandwidth / 1e9, 1)
        row["domain"] = gpu.link.domain
        row["scale_out_gb_s"] = round(gpu.scale_out.bandwidth / 1e9, 1) if gpu.scale_out else None
        row["tdp_w"] = gpu.power.tdp
        row["usd_per_hour"] = gpu.price.usd_per_hour if gpu.price else None
        rows.append(row)
    return rows


def models() -> list[dict[str, Any]]:
    """One row a model: parameters, shape, attention, KV bytes per token in bf16 and bytes of a sequence's states."""
    from workloads.model import list_models, load_model

    rows = []
    for name in list_models():
        model = load_model(name)
        rows.append(
            {
                "name": name,
                "parameters": f"{model.parameters / 1e9:.2f} B",
                "active": f"{model.active_parameters / 1e9:.2f} B",
                "layers": model.layers,
                "heads": f"{model.q_heads}/{model.kv_heads}",
                "context": model.max_context,
                "attention": model.attention_kind,
                "kv_bytes_per_token": int(model.kv_bytes_per_token("bf16")),
                "state_bytes": int(model.state_bytes()) or None,
            }
        )
    return rows


def scenarios() -> list[dict[str, Any]]:
    """One row a bundled scenario."""
    from hwspecs.yamlfile import read_yaml
    from workloads.scenario import SCENARIO_FOLDER, list_scenarios

    # Read, not loaded: one of them asks for a trace.
    return [
        {"name": name, "description": read_yaml(SCENARIO_FOLDER / f"{name}.yaml").data["description"]}
        for name in list_scenarios()
    ]


def profiles() -> list[dict[str, Any]]:
    """One row a profile: the rules of thumb, then what was fitted."""
    from simulator.profile import list_profiles, load_profile, profile_folder
    from simulator.profilefile import read_meta
    from simulator.selection import bundled

    rows = [{"name": name, "description": load_profile(name).description} for name in list_profiles()]
    for name in bundled().names:
        meta = read_meta(profile_folder() / f"{name}.npz")
        errors = {kind: _held_out([g for g in meta["groups"] if g["kind"] == kind]) for kind in meta["models"]}
        mapes = ", ".join(f"{kind} {found['mape']['all']:.1%}" for kind, found in errors.items())
        about = f"{meta['description']} Held-out errors: {mapes}."
        row = {"name": name, "description": about, "fitted_on": meta["fitted_on"], "held_out": errors}
        rows.append(row | ({"carried_mape": _carried(meta["carried"])} if meta["carried"] else {}))
    return rows


def _held_out(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the groups of a kind: rows, mean held-out error over them and by regime, host-side floors in microseconds."""
    rows = sum(group["rows"] for group in groups)
    bands: dict[str, list[tuple[float, int]]] = {}
    for group in groups:
        for regime, (_, _, mape, count) in group["errors"].items():
            bands.setdefault(regime, []).append((mape, count))
    mapes = {
        regime: round(sum(mape * count for mape, count in found) / sum(count for _, count in found), 4)
        for regime, found in bands.items()
    }
    floors = sorted(round(1e6 * group["floor"], 1) for group in groups if group["floor"])
    return {"groups": len(groups), "rows": rows, "mape": mapes, "host_floors_us": floors}


def _carried(carried: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    return {kind: {tier: band[2] for tier, band in tiers.items()} for kind, tiers in carried.items()}


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
