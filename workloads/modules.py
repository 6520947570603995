"""Modules of a model as its checkpoint names them, by part, and how many weights each has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from workloads.formats import PARTS


def module_weights(shape: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """For each part of the model its modules, as checkpoints name them, and how many weights each has."""
    moe, named = shape["moe"], NAMES.get(shape.get("architecture", ""), Names())
    linear = shape.get("layer_linear") or (False,) * shape["layers"]
    kinds = {True: _delta_weights(shape) if any(linear) else {}, False: _attention_weights(shape)}
    found: dict[str, dict[str, int]] = {part: {} for part in PARTS} | {"head": {"lm_head": 1}}
    for i in range(shape["layers"]):
        layer, mixture = f"{named.layers}.{i}", moe is not None and moe.moe_layers[i]
        for name, weights in kinds[linear[i]].items():
            found["output" if name in OUTPUTS else "attention"][f"{layer}.{name}"] = weights
        if mixture:
            found["experts"][f"{layer}.{named.mixture}.experts.0.x_proj"] = 1
        for name in ("gate", "up", "down"):
            if not mixture:
                found["mlp"][f"{layer}.mlp.{name}_proj"] = 1
            elif moe.shared_intermediate:
                found["mlp"][f"{layer}.mlp.{named.shared}.{name}_proj"] = 1
    return {part: modules for part, modules in found.items() if modules}


def _attention_weights(shape: Mapping[str, Any]) -> dict[str, int]:
    """Projections of a layer with softmax attention, and how many weights each has."""
    hidden, latent = shape["hidden"], shape.get("latent")
    q, kv = (shape[heads] * shape["head_dim"] for heads in ("q_heads", "kv_heads"))
    if latent is None:
        gated = q * (1 + shape.get("output_gate", False))
        return {
            f"self_attn.{name}_proj": hidden * width for name, width in zip("qkvo", (gated, kv, kv, q), strict=True)
        }
    heads = shape["q_heads"]
    found = {
        "self_attn.kv_a_proj_with_mqa": hidden * latent.width,
        "self_attn.kv_b_proj": latent.kv_rank * heads * (latent.nope_dim + latent.value_dim),
        "self_attn.o_proj": heads * latent.value_dim * hidden,
    }
    if latent.q_rank is None:
        return found | {"self_attn.q_proj": hidden * q}
    return found | {"self_attn.q_a_proj": hidden * latent.q_rank, "self_attn.q_b_proj": latent.q_rank * q}


def _delta_weights(shape: Mapping[str, Any]) -> dict[str, int]:
    """The same of a layer with linear attention."""
    hidden, linear = shape["hidden"], shape["linear"]
    values = linear.values
    widths = {"in_proj_qkv": linear.channels, "in_proj_z": values, "in_proj_b": linear.v_heads}
    widths |= {"in_proj_a": linear.v_heads, "out_proj": values}
    return {f"linear_attn.{name}": hidden * width for name, width in widths.items()}


OUTPUTS = ("self_attn.o_proj", "linear_attn.out_proj")


class Names(NamedTuple):
    """What an architecture calls its modules: all layers, the mixture of one, and its shared experts."""

    layers: str = "model.layers"
    mixture: str = "mlp"
    shared: str = "shared_expert"


NAMES = {
    "MixtralForCausalLM": Names(mixture="block_sparse_moe"),
    "MiniMaxM2ForCausalLM": Names(mixture="block_sparse_moe"),
    "DeepseekV2ForCausalLM": Names(shared="shared_experts"),
    "DeepseekV3ForCausalLM": Names(shared="shared_experts"),
    "DeepseekV32ForCausalLM": Names(shared="shared_experts"),
    "GlmMoeDsaForCausalLM": Names(shared="shared_experts"),
    "KimiK25ForConditionalGeneration": Names("language_model.model.layers", shared="shared_experts"),
    "Qwen3_5MoeForConditionalGeneration": Names("model.language_model.layers"),
}
"""Architectures whose modules have other names than Qwen3's."""
