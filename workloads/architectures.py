"""Architectures: readers of the shapes that Hugging Face configurations describe.

A new architecture is a reader function, added to `ARCHITECTURES`. Finding and reading files is left to `model`, what
quantised a checkpoint to `checkpoints`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workloads.configuration import Config
from workloads.groupedmodels import gpt_oss, llama, minimax_m2, mistral, mixtral, qwen2, qwen3, qwen3_moe
from workloads.hybridmodels import qwen3_5_moe
from workloads.latentmodels import deepseek_v3, deepseek_v32

ARCHITECTURES: dict[str, Callable[[Config], dict[str, Any]]] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
    "MixtralForCausalLM": mixtral,
    "Qwen3MoeForCausalLM": qwen3_moe,
    "GptOssForCausalLM": gpt_oss,
    "MiniMaxM2ForCausalLM": minimax_m2,
    "DeepseekV2ForCausalLM": deepseek_v3,
    "DeepseekV3ForCausalLM": deepseek_v3,
    "DeepseekV32ForCausalLM": deepseek_v32,
    "GlmMoeDsaForCausalLM": deepseek_v32,
    "KimiK25ForConditionalGeneration": deepseek_v3,
    "Qwen3NextForCausalLM": qwen3_5_moe,
    "Qwen3_5MoeForCausalLM": qwen3_5_moe,
    "Qwen3_5MoeForConditionalGeneration": qwen3_5_moe,
}
"""`architectures[0]` of a configuration -> reader of its shape. Defaults are those of the transformers library."""

TEXT = "text_config"
NESTED = ("KimiK25ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration")
"""Architectures that see as well as read: the decoder is described under the key TEXT. What turns pictures into tokens
is left out, from the parameters too."""

CONFIG_KEYS = (
    "architectures", "torch_dtype", "dtype", "quantization_config", "num_hidden_layers", "hidden_size",
    "intermediate_size", "moe_intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_position_embeddings", "tie_word_embeddings", "attention_bias", "mlp_bias", "layer_types",
    "sliding_window", "use_sliding_window", "max_window_layers", "num_experts", "num_local_experts",
    "num_experts_per_tok", "decoder_sparse_step", "mlp_only_layers", "norm_topk_prob", "use_qk_norm", "qk_norm_type",
    "rotary_dim", "shared_intermediate_size", "use_routing_bias", TEXT, "kv_lora_rank", "q_lora_rank",
    "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_routed_experts", "n_shared_experts",
    "first_k_dense_replace", "moe_layer_freq", "topk_method", "n_group", "topk_group", "num_nextn_predict_layers",
    "index_n_heads", "index_head_dim", "index_topk", "index_topk_freq", "index_topk_pattern", "indexer_types",
    "attn_output_gate", "full_attention_interval", "linear_num_key_heads", "linear_num_value_heads",
    "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim", "mamba_ssm_dtype",
    "mtp_num_hidden_layers", "shared_expert_intermediate_size", "partial_rotary_factor", "rope_parameters",
)  # fmt: skip
"""The keys that the readers look at; a configuration may have any others."""
