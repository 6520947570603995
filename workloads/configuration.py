"""Checked access to what a Hugging Face `config.json` says; what it means is left to `architectures`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hwspecs.errors import InputError

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
    "shared_expert_intermediate_size": 10_000_000,
    "n_routed_experts": 100_000,
    "n_shared_experts": 1_000,
    "kv_lora_rank": 1_000_000,
    "q_lora_rank": 1_000_000,
    "qk_rope_head_dim": 100_000,
    "qk_nope_head_dim": 100_000,
    "v_head_dim": 100_000,
    "index_n_heads": 100_000,
    "index_head_dim": 100_000,
    "linear_num_key_heads": 100_000,
    "linear_num_value_heads": 100_000,
    "linear_key_head_dim": 100_000,
    "linear_value_head_dim": 100_000,
    "linear_conv_kernel_dim": 1_000,
    "num_nextn_predict_layers": 1_000,
    "mtp_num_hidden_layers": 1_000,
}
"""Upper bounds of integers: far above every model there is, low enough to catch a slip of the keyboard."""

DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_UNSAID = {"GptOssForCausalLM": "bf16", "MiniMaxM2ForCausalLM": "bf16"}
"""Architectures whose published configurations do not say the format of what is not quantised."""


class Config:
    """A configuration with checked access to its keys; every complaint says where it stands."""

    def __init__(self, data: Mapping[str, Any], fail: Callable[..., InputError]) -> None:
        self.data, self.fail = data, fail

    def has(self, key: str) -> bool:
        return self.data.get(key) is not None

    def inside(self, key: str) -> Config:
        """What stands under a key, with its path in complaints."""
        value, allowed = self.data.get(key), "a mapping"
        if not isinstance(value, Mapping):
            problem = "a required key is missing" if value is None else "of the wrong type"
            raise self.fail(problem, key, value, allowed)

        def fail(problem: str, inner: str, found: object, allowed: str | None) -> InputError:
            return self.fail(problem, f"{key}.{inner}", found, allowed)

        return Config(value, fail)

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


def dtype_of(config: Config, architecture: str) -> str:
    """The format in which a model was published: that of whatever is not quantised."""
    key = "dtype" if config.has("dtype") else "torch_dtype"
    value = config.data.get(key)
    allowed = ", ".join(DTYPES)
    if value is None:
        if architecture in _UNSAID:
            return _UNSAID[architecture]
        raise config.fail("a required key is missing", key, None, allowed)
    if not isinstance(value, str) or value.removeprefix("torch.") not in DTYPES:
        raise config.fail("unknown number format", key, value, allowed)
    return DTYPES[value.removeprefix("torch.")]
