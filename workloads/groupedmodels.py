"""Readers of models with grouped-query attention, dense and with experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workloads.configuration import Config
from workloads.decoder import Moe


def dense(
    config: Config,
    *,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    qk_norm: bool = False,
    attention_bias: bool | None = None,
    output_bias: bool | None = None,
    mlp_bias: bool = False,
    windows: Callable[[Config, int], tuple[int | None, ...]] | None = None,
    layer_types: bool = True,
    intermediate: int | None = None,
) -> dict[str, Any]:
    """What all architectures of the table have in common; the keywords are defaults and fixed features of one."""
    layers = config.integer("num_hidden_layers")
    hidden = config.integer("hidden_size")
    q_heads = config.integer("num_attention_heads")
    kv = config.integer("num_key_value_heads", kv_heads)
    if not config.has("head_dim") and head_dim is None:
        if hidden % q_heads:
            allowed = f"a divisor of hidden_size = {hidden:,}, or head_dim given"
            raise config.fail("the heads do not divide the hidden size", "num_attention_heads", q_heads, allowed)
        head_dim = hidden // q_heads
    if q_heads % kv:
        allowed = f"a divisor of num_attention_heads = {q_heads}"
        raise config.fail("the KV heads do not divide the heads", "num_key_value_heads", kv, allowed)
    bias = config.flag("attention_bias", False)
    return {
        "layers": layers,
        "hidden": hidden,
        "q_heads": q_heads,
        "kv_heads": kv,
        "head_dim": config.integer("head_dim", head_dim),
        "intermediate": config.integer("intermediate_size", intermediate),
        "vocab": config.integer("vocab_size"),
        "tie_embeddings": config.flag("tie_word_embeddings", False),
        "max_context": config.integer("max_position_embeddings"),
        "qk_norm": qk_norm,
        "attention_bias": bias if attention_bias is None else attention_bias,
        "output_bias": bias if output_bias is None else output_bias,
        "mlp_bias": mlp_bias,
        "layer_windows": (_layer_types(config, layers) if layer_types else None)
        or (windows(config, layers) if windows else (None,) * layers),
        "moe": None,
    }


def _layer_types(config: Config, layers: int) -> tuple[int | None, ...] | None:
    """Windows from the list `layer_types` that newer configurations have; None without it."""
    kinds = config.layer_list("layer_types", str, "full_attention or sliding_attention for each layer")
    if not kinds:
        return None
    if len(kinds) != layers:
        raise config.fail(f"has {len(kinds)} entries", "layer_types", kinds, f"one for each of {layers} layers")
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise config.fail("unknown layer type", "layer_types", kind, "full_attention, sliding_attention")
    window = config.integer("sliding_window") if "sliding_attention" in kinds else None
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _window_everywhere(config: Config, layers: int) -> tuple[int | None, ...]:
    window = config.integer("sliding_window") if config.has("sliding_window") else None
    return (window,) * layers


def _window_above(config: Config, layers: int) -> tuple[int | None, ...]:
    """Qwen: layers from `max_window_layers` (28 by default) on slide, and only with `use_sliding_window`."""
    if not config.flag("use_sliding_window", False) or not config.has("sliding_window"):
        return (None,) * layers
    window, first = config.integer("sliding_window"), config.integer("max_window_layers", 28, least=0)
    return tuple(window if i >= first else None for i in range(layers))


def experts_per_token(config: Config, experts: int) -> int:
    """How many of the routed experts a token visits."""
    top_k = config.integer("num_experts_per_tok")
    if top_k > experts:
        raise config.fail("more experts per token than experts", "num_experts_per_tok", top_k, f"at most {experts}")
    return top_k


def llama(config: Config) -> dict[str, Any]:
    heads = config.integer("num_attention_heads")  # Llama without grouped queries does not give the KV heads
    return dense(config, kv_heads=heads, mlp_bias=config.flag("mlp_bias", False))


def mistral(config: Config) -> dict[str, Any]:
    return dense(config, attention_bias=False, output_bias=False, windows=_window_everywhere)


def qwen2(config: Config) -> dict[str, Any]:
    return dense(config, attention_bias=True, output_bias=False, windows=_window_above)


def qwen3(config: Config) -> dict[str, Any]:
    return dense(config, head_dim=128, qk_norm=True, windows=_window_above)


def mixtral(config: Config) -> dict[str, Any]:
    shape = mistral(config)
    experts = config.integer("num_local_experts")
    everywhere = (True,) * shape["layers"]
    return shape | {"moe": Moe(experts, experts_per_token(config, experts), shape["intermediate"], 0, everywhere, True)}


def expert_layers(config: Config, layers: int) -> tuple[bool, ...]:
    """Layers with experts: of every `decoder_sparse_step` the last, but for those that `mlp_only_layers` names."""
    step = config.integer("decoder_sparse_step", 1)
    named = set(config.layer_list("mlp_only_layers", int, "a list of layer numbers"))
    if any(not 0 <= i < layers for i in named):
        raise config.fail("no such layer", "mlp_only_layers", sorted(named), f"numbers from 0 to {layers - 1}")
    return tuple(i not in named and (i + 1) % step == 0 for i in range(layers))


def qwen3_moe(config: Config) -> dict[str, Any]:
    shape = dense(config, qk_norm=True, windows=_window_above)
    experts, mixtures = config.integer("num_experts"), expert_layers(config, shape["layers"])
    width = config.integer("moe_intermediate_size")
    norm = config.flag("norm_topk_prob", False)
    return shape | {"moe": Moe(experts, experts_per_token(config, experts), width, 0, mixtures, norm)}


def gpt_oss(config: Config) -> dict[str, Any]:
    shape = dense(config, attention_bias=True, output_bias=True)
    experts = config.integer("num_local_experts")
    everywhere = (True,) * shape["layers"]
    moe = Moe(
        experts,
        experts_per_token(config, experts),
        shape["intermediate"],
        0,
        everywhere,
        True,
        bias=True,
        router_bias=True,
    )
    # Active parameters as in the model card (arXiv 2508.10925, table 1), which leaves the embedding table out.
    return shape | {"moe": moe, "attention_sinks": True, "embedding_is_active": False}


def minimax_m2(config: Config) -> dict[str, Any]:
    shape = dense(config, qk_norm=config.flag("use_qk_norm", False))
    kind = config.data.get("qk_norm_type", "per_layer")
    if shape["qk_norm"] and kind != "per_layer":
        raise config.fail("unknown kind of norm of queries and keys", "qk_norm_type", kind, "per_layer")
    rotary = config.integer("rotary_dim", shape["head_dim"])
    if rotary > shape["head_dim"]:
        raise config.fail("more than a head has", "rotary_dim", rotary, f"at most head_dim = {shape['head_dim']}")
    experts = config.integer("num_local_experts")
    moe = Moe(
        experts,
        experts_per_token(config, experts),
        shape["intermediate"],
        config.integer("shared_intermediate_size", 0, least=0),
        (True,) * shape["layers"],
        True,
        router_bias=config.flag("use_routing_bias", False),
        router_dtype="fp32",  # the checkpoint's `gate`, and what engines multiply it in
        balanced=config.flag("use_routing_bias", False),
    )
    # The 10 B active parameters that are published are 10.4 B without the embedding table, and 11.0 B with it.
    own = {"qk_norm_across_heads": shape["qk_norm"], "rotary_dim": rotary, "embedding_is_active": False}
    return shape | {"moe": moe} | own
