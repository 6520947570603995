"""Architectures: readers of the shapes that Hugging Face configurations describe.

A new architecture is a reader function, added to `ARCHITECTURES`. Finding and reading files is left to `model`, what
quantised a checkpoint to `checkpoints`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hwspecs.errors import InputError
from workloads.decoder import Moe

_LIMITS = {
    "num_hidden_layers": 10_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "moe_intermediate_size": 10_000_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "head_dim": 100_000,
    "vocab_size": 100_000_000,
    "max_position_embeddings": 1_000_000_000,
    "sliding_window": 1_000_000_000,
    "num_experts": 100_000,
    "num_local_experts": 100_000,
    "num_experts_per_tok": 100_000,
    "decoder_sparse_step": 10_000,
    "rotary_dim": 100_000,
    "shared_intermediate_size": 10_000_000,
}
"""Upper bounds of integers: far above every model there is, low enough to catch a slip of the keyboard."""

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_UNSAID = {"GptOssForCausalLM": "bf16", "MiniMaxM2ForCausalLM": "bf16"}
"""Architectures whose published configurations do not say the format of what is not quantised."""


class Config:
    """A configuration with checked access to its keys; every complaint says where it stands."""

    def __init__(self, data: Mapping[str, Any], fail: Callable[..., InputError]) -> None:
        self.data, self.fail = data, fail

    def has(self, key: str) -> bool:
        return self.data.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.data.get(key)
        limit = _LIMITS.get(key, 10**9)
        allowed = f"an integer from {least} to {limit:,}"
        if value is None:
            if default is None:
                raise self.fail("a required key is missing", key, None, allowed)
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail("of the wrong type", key, value, allowed)
        if not least <= value <= limit:
            raise self.fail("out of range", key, value, allowed)
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail("of the wrong type", key, value, "true or false")
        return value

    def layer_list(self, key: str, kind: type, allowed: str) -> list[Any]:
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or any(not isinstance(v, kind) or isinstance(v, bool) for v in value):
            raise self.fail("of the wrong type", key, value, allowed)
        return value


def _dense(
    config: Config,
    *,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    qk_norm: bool = False,
    attention_bias: bool | None = None,
    output_bias: bool | None = None,
    mlp_bias: bool = False,
    windows: Callable[[Config, int], tuple[int | None, ...]] | None = None,
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
        "intermediate": config.integer("intermediate_size"),
        "vocab": config.integer("vocab_size"),
        "tie_embeddings": config.flag("tie_word_embeddings", False),
        "max_context": config.integer("max_position_embeddings"),
        "qk_norm": qk_norm,
        "attention_bias": bias if attention_bias is None else attention_bias,
        "output_bias": bias if output_bias is None else output_bias,
        "mlp_bias": mlp_bias,
        "layer_windows": _layer_types(config, layers) or (windows(config, layers) if windows else (None,) * layers),
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


def _top_k(config: Config, experts: int) -> int:
    top_k = config.integer("num_experts_per_tok")
    if top_k > experts:
        raise config.fail("more experts per token than experts", "num_experts_per_tok", top_k, f"at most {experts}")
    return top_k


def _llama(config: Config) -> dict[str, Any]:
    heads = config.integer("num_attention_heads")  # Llama without grouped queries does not give the KV heads
    return _dense(config, kv_heads=heads, mlp_bias=config.flag("mlp_bias", False))


def _mistral(config: Config) -> dict[str, Any]:
    return _dense(config, attention_bias=False, output_bias=False, windows=_window_everywhere)


def _qwen2(config: Config) -> dict[str, Any]:
    return _dense(config, attention_bias=True, output_bias=False, windows=_window_above)


def _qwen3(config: Config) -> dict[str, Any]:
    return _dense(config, head_dim=128, qk_norm=True, windows=_window_above)


def _mixtral(config: Config) -> dict[str, Any]:
    shape = _mistral(config)
    experts = config.integer("num_local_experts")
    everywhere = (True,) * shape["layers"]
    return shape | {"moe": Moe(experts, _top_k(config, experts), shape["intermediate"], 0, everywhere, True)}


def _qwen3_moe(config: Config) -> dict[str, Any]:
    shape = _dense(config, qk_norm=True, windows=_window_above)
    experts, step = config.integer("num_experts"), config.integer("decoder_sparse_step", 1)
    dense = set(config.layer_list("mlp_only_layers", int, "a list of layer numbers"))
    if any(not 0 <= i < shape["layers"] for i in dense):
        allowed = f"numbers from 0 to {shape['layers'] - 1}"
        raise config.fail("no such layer", "mlp_only_layers", sorted(dense), allowed)
    mixtures = tuple(i not in dense and (i + 1) % step == 0 for i in range(shape["layers"]))
    width = config.integer("moe_intermediate_size")
    norm = config.flag("norm_topk_prob", False)
    return shape | {"moe": Moe(experts, _top_k(config, experts), width, 0, mixtures, norm)}


def _gpt_oss(config: Config) -> dict[str, Any]:
    shape = _dense(config, attention_bias=True, output_bias=True)
    experts = config.integer("num_local_experts")
    everywhere = (True,) * shape["layers"]
    moe = Moe(experts, _top_k(config, experts), shape["intermediate"], 0, everywhere, True, bias=True, router_bias=True)
    # Active parameters as in the model card (arXiv 2508.10925, table 1), which leaves the embedding table out.
    return shape | {"moe": moe, "attention_sinks": True, "embedding_is_active": False}


def _minimax_m2(config: Config) -> dict[str, Any]:
    shape = _dense(config, qk_norm=config.flag("use_qk_norm", False))
    kind = config.data.get("qk_norm_type", "per_layer")
    if shape["qk_norm"] and kind != "per_layer":
        raise config.fail("unknown kind of norm of queries and keys", "qk_norm_type", kind, "per_layer")
    rotary = config.integer("rotary_dim", shape["head_dim"])
    if rotary > shape["head_dim"]:
        raise config.fail("more than a head has", "rotary_dim", rotary, f"at most head_dim = {shape['head_dim']}")
    experts = config.integer("num_local_experts")
    moe = Moe(
        experts,
        _top_k(config, experts),
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


ARCHITECTURES: dict[str, Callable[[Config], dict[str, Any]]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "MixtralForCausalLM": _mixtral,
    "Qwen3MoeForCausalLM": _qwen3_moe,
    "GptOssForCausalLM": _gpt_oss,
    "MiniMaxM2ForCausalLM": _minimax_m2,
}
"""`architectures[0]` of a configuration -> reader of its shape. Defaults are those of the transformers library."""

CONFIG_KEYS = (
    "architectures", "torch_dtype", "dtype", "quantization_config", "num_hidden_layers", "hidden_size",
    "intermediate_size", "moe_intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_position_embeddings", "tie_word_embeddings", "attention_bias", "mlp_bias", "layer_types",
    "sliding_window", "use_sliding_window", "max_window_layers", "num_experts", "num_local_experts",
    "num_experts_per_tok", "decoder_sparse_step", "mlp_only_layers", "norm_topk_prob", "use_qk_norm", "qk_norm_type",
    "rotary_dim", "shared_intermediate_size", "use_routing_bias",
)  # fmt: skip
"""The keys that the readers look at; a configuration may have any others."""


# ---- number formats --------------------------------------------------------------------------------------------------


def dtype_of(config: Config, architecture: str) -> str:
    """The format in which a model was published: that of whatever is not quantised."""
    key = "dtype" if config.has("dtype") else "torch_dtype"
    value = config.data.get(key)
    allowed = ", ".join(_DTYPES)
    if value is None:
        if architecture in _UNSAID:
            return _UNSAID[architecture]
        raise config.fail("a required key is missing", key, None, allowed)
    if not isinstance(value, str) or value.removeprefix("torch.") not in _DTYPES:
        raise config.fail("unknown number format", key, value, allowed)
    return _DTYPES[value.removeprefix("torch.")]
