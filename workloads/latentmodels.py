"""Readers of models with latent attention: DeepSeek-V2, V3 and R1, V3.2 and GLM-5 with its sparse form, Kimi-K2.5."""

from __future__ import annotations

from typing import Any

from workloads.configuration import Config
from workloads.decoder import Indexer, Latent, Moe
from workloads.groupedmodels import experts_per_token

_GREEDY, _BALANCED = ("greedy", "group_limited_greedy"), "noaux_tc"


def deepseek_v3(config: Config) -> dict[str, Any]:
    """Latent attention on all layers, experts on all but the first `first_k_dense_replace`."""
    layers, hidden = config.integer("num_hidden_layers"), config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    latent = Latent(
        kv_rank=config.integer("kv_lora_rank"),
        rope_dim=config.integer("qk_rope_head_dim"),
        nope_dim=config.integer("qk_nope_head_dim"),
        value_dim=config.integer("v_head_dim"),
        q_rank=config.integer("q_lora_rank") if config.has("q_lora_rank") else None,
    )
    bias = config.flag("attention_bias", False)
    return {
        "layers": layers,
        "hidden": hidden,
        "q_heads": heads,
        "kv_heads": heads,
        "head_dim": latent.head_dim,
        "intermediate": config.integer("intermediate_size"),
        "vocab": config.integer("vocab_size"),
        "tie_embeddings": config.flag("tie_word_embeddings", False),
        "max_context": config.integer("max_position_embeddings"),
        "qk_norm": False,
        "attention_bias": bias,
        "output_bias": bias,
        "mlp_bias": False,
        "layer_windows": (None,) * layers,
        "moe": _mixture(config, layers),
        "rotary_dim": latent.rope_dim,
        "latent": latent,
        # The 37 B (V3), 32 B (K2.5) and 40 B (GLM-5) that are published are without the embedding table.
        "embedding_is_active": False,
        "draft_layers": config.integer("num_nextn_predict_layers", 0, least=0),
    }


def _mixture(config: Config, layers: int) -> Moe | None:
    if not config.has("n_routed_experts"):
        return None
    experts, width = config.integer("n_routed_experts"), config.integer("moe_intermediate_size")
    first, step = config.integer("first_k_dense_replace", 0, least=0), config.integer("moe_layer_freq", 1)
    method = config.data.get("topk_method", _BALANCED)
    if method not in (*_GREEDY, _BALANCED):
        raise config.fail("unknown choice of experts", "topk_method", method, ", ".join((*_GREEDY, _BALANCED)))
    groups = config.integer("n_group", 1)
    if experts % groups:
        raise config.fail("groups cannot hold equal parts of the experts", "n_group", groups, f"a divisor of {experts}")
    chosen = config.integer("topk_group", groups)
    if chosen > groups:
        raise config.fail("more groups than there are", "topk_group", chosen, f"at most n_group = {groups}")
    limited = method != "greedy"
    return Moe(
        experts,
        experts_per_token(config, experts),
        width,
        config.integer("n_shared_experts", 0, least=0) * width,
        tuple(i >= first and i % step == 0 for i in range(layers)),
        config.flag("norm_topk_prob", True),
        router_bias=method == _BALANCED,
        balanced=method == _BALANCED,
        groups=groups if limited else 1,
        top_groups=chosen if limited else 1,
    )


def deepseek_v32(config: Config) -> dict[str, Any]:
    """DeepSeek-V3 with the lightning indexer of sparse attention on each layer."""
    shape = deepseek_v3(config)
    # Layers that reuse another's choice are announced by keys of their own; no model bundled here has them.
    for key in ("index_topk_freq", "index_topk_pattern", "indexer_types"):
        if config.data.get(key) not in (None, 1):
            found = config.data[key]
            raise config.fail("layers that reuse the choice of another are not modelled", key, found, "nothing, or 1")
    indexer = Indexer(config.integer("index_n_heads"), config.integer("index_head_dim"), config.integer("index_topk"))
    latent: Latent = shape["latent"]
    if latent.q_rank is None:
        raise config.fail("the indexer needs the latent vector of queries", "q_lora_rank", None, "an integer")
    own = Latent(latent.kv_rank, latent.rope_dim, latent.nope_dim, latent.value_dim, latent.q_rank, indexer)
    return shape | {"latent": own}
