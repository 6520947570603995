"""Readers of models whose layers are, in turn, linear attention and softmax attention: Qwen3-Next and Qwen3.5."""

from __future__ import annotations

from typing import Any

from workloads.configuration import DTYPES, Config
from workloads.decoder import GatedDelta, Moe
from workloads.groupedmodels import dense, expert_layers, experts_per_token

KINDS = ("linear_attention", "full_attention")


def qwen3_5_moe(config: Config) -> dict[str, Any]:
    """A gated delta rule on most layers, grouped-query attention with an output gate on the rest; experts on all."""
    layers = config.integer("num_hidden_layers")
    linear = _linear_layers(config, layers)
    shape = dense(
        config,
        head_dim=256,
        qk_norm=True,
        windows=lambda config, layers: (None,) * layers,
        layer_types=False,
        intermediate=config.integer("moe_intermediate_size"),
    )
    experts = config.integer("num_experts")
    shared = config.integer("shared_expert_intermediate_size", 0, least=0)
    moe = Moe(
        experts,
        experts_per_token(config, experts),
        config.integer("moe_intermediate_size"),
        shared,
        expert_layers(config, layers),
        config.flag("norm_topk_prob", True),
        shared_gate=shared > 0,
    )
    own = {
        "moe": moe,
        "linear": _delta(config),
        "layer_linear": linear,
        "output_gate": config.flag("attn_output_gate", True),
        "rotary_dim": _rotary(config, shape["head_dim"]),
        "draft_layers": config.integer("mtp_num_hidden_layers", 0, least=0),
    }
    return shape | own


def _linear_layers(config: Config, layers: int) -> tuple[bool, ...]:
    """From `layer_types`, or from `full_attention_interval`: of so many layers the last has softmax attention."""
    kinds = config.layer_list("layer_types", str, f"{' or '.join(KINDS)} for each layer")
    if not kinds:
        step = config.integer("full_attention_interval", 4)
        return tuple((i + 1) % step != 0 for i in range(layers))
    if len(kinds) != layers:
        raise config.fail(f"has {len(kinds)} entries", "layer_types", kinds, f"one for each of {layers} layers")
    for kind in kinds:
        if kind not in KINDS:
            raise config.fail("unknown layer type", "layer_types", kind, ", ".join(KINDS))
    if KINDS[1] not in kinds:
        raise config.fail("no layer with softmax attention", "layer_types", KINDS[0], f"at least one {KINDS[1]}")
    return tuple(kind == KINDS[0] for kind in kinds)


def _delta(config: Config) -> GatedDelta:
    keys, values = config.integer("linear_num_key_heads"), config.integer("linear_num_value_heads")
    if values % keys:
        allowed = f"a multiple of linear_num_key_heads = {keys}"
        raise config.fail("the heads of keys do not divide those of values", "linear_num_value_heads", values, allowed)
    state = config.data.get("mamba_ssm_dtype", "float32")
    if state not in DTYPES:
        raise config.fail("unknown number format", "mamba_ssm_dtype", state, ", ".join(DTYPES))
    return GatedDelta(
        k_heads=keys,
        v_heads=values,
        k_head_dim=config.integer("linear_key_head_dim"),
        v_head_dim=config.integer("linear_value_head_dim"),
        conv_width=config.integer("linear_conv_kernel_dim"),
        state_dtype=DTYPES[state],
    )


def _rotary(config: Config, head_dim: int) -> int:
    """Elements of a head that positions turn: a share of them, said in `rope_parameters` or beside it."""
    nested = config.data.get("rope_parameters")
    inside = config.inside("rope_parameters") if isinstance(nested, dict) else config
    where = inside if inside.has("partial_rotary_factor") else config
    share = where.data.get("partial_rotary_factor", 1.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise where.fail("not a share of a head", "partial_rotary_factor", share, "above 0, at most 1")
    return int(head_dim * share)
