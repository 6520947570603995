"""Precision of a scenario: what an engine has kernels for, and what follows from a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from hwspecs.errors import InputError
from workloads.precision import Precision
from workloads.scenario import load_scenario

BASE: dict[str, Any] = {
    "gpu": "h200-sxm",
    "model": "qwen3-8b",
    "workload": {"strategy": "chat", "requests": 4, "prompt_tokens": 64, "output_tokens": 8},
}


def resolved(**changes: Any) -> Precision:
    return load_scenario(BASE | changes).config.precision


def test_the_cache_is_in_the_format_for_which_the_checkpoint_has_scales() -> None:
    quantised = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    model = {"base": "qwen3-8b", "quantization_config": quantised}
    assert resolved(model=model).kv == "fp8" and resolved().kv == "bf16"
    assert resolved(model=model, precision={"kv": "bf16"}).kv == "bf16"


@pytest.mark.parametrize(
    ("model", "engine", "parallelism"),
    [
        ("qwen3-235b-a22b-fp8", "vllm", {"tensor": 4}),  # experts 1,536 / 4 = 384
        ("qwen3-235b-a22b-fp8", "vllm", {"tensor": 8, "expert": 8}),
        ("qwen3-235b-a22b-fp8", "vllm", {"tensor": 8, "expert": 2}),  # 1,536 / 4
        ("qwen3-235b-a22b-fp8", "trtllm", {"tensor": 8}),
        ("qwen3-235b-a22b-fp8", "none", {"tensor": 8}),
        ("minimax-m2.5", "sglang", {"tensor": 4}),
    ],
)
def test_blocks_that_can_be_split(model: str, engine: str, parallelism: dict[str, int]) -> None:
    assert resolved(model=model, engine=engine, parallelism=parallelism).linear == "fp8_block"


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"model": "qwen3-235b-a22b-fp8", "parallelism": {"tensor": 8}}, "parallelism.tensor", "1536 over 8"),
        ({"model": "minimax-m2.5", "engine": "sglang", "parallelism": {"tensor": 8}}, "parallelism.tensor", "sglang"),
        (
            {"model": "qwen3-30b-a3b", "precision": "fp8_block", "parallelism": {"tensor": 4}},
            "parallelism.tensor", "768 over 4",
        ),
        # Qwen3-0.6B: 3,072 / 16 = 192, while 16 heads of 128 are 128 each
        ({"model": "qwen3-0.6b", "precision": "fp8_block", "parallelism": {"tensor": 16}}, "parallelism.tensor", "mlp"),
        ({"engine": "trtllm", "precision": "fp8_wo"}, "precision.linear", "fp8_wo"),
        ({"engine": "trtllm", "precision": {"weights": "fp8"}}, "precision.linear", "fp8_wo"),
        ({"engine": "trtllm", "precision": {"mlp": "nvfp4_wo"}}, "precision.mlp", "nvfp4_wo"),
        ({"model": "gpt-oss-20b", "precision": {"experts": "w4a8_mxfp4_fp8"}}, "precision.experts", "no kernels"),
        (
            {"model": "deepseek-r1", "engine": "trtllm", "precision": {"kv": "int8"}, "parallelism": {"tensor": 8}},
            "precision.kv", "no KV cache in this format for the latent attention of deepseek-ai/DeepSeek-R1",
        ),
        (
            {"model": "glm-5", "engine": "sglang", "precision": {"kv": "fp4"}, "parallelism": {"tensor": 8}},
            "precision.kv", "for the sparse attention of zai-org/GLM-5; found 'fp4'; allowed: bf16, fp8",
        ),
        # Keys of linear attention, 16 x 128 / 32 = 64 columns
        (
            {"model": "qwen3.5-397b-a17b", "gpu": "gb200", "precision": "fp8_block", "parallelism": {"tensor": 32}},
            "parallelism.tensor", "attention whose part",
        ),
        # The dense MLP of three layers, 18,432 / 64 = 288, where the heads' 24,576 / 64 = 3 x 128 can be split
        ({"model": "deepseek-r1", "gpu": "gb200", "parallelism": {"tensor": 64}}, "parallelism.tensor", "18432 over"),
    ],
)  # fmt: skip
def test_what_an_engine_has_no_kernels_for(changes: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        resolved(**({"engine": "vllm"} | changes))
    assert caught.value.place == place and words in caught.value.message()


def test_the_output_projection_has_a_format_of_its_own() -> None:
    """As in nvidia/DeepSeek-R1-0528-FP4-v2: of the attention, o_proj alone is in nvfp4."""
    v2 = {"linear": "bf16", "mlp": "nvfp4", "experts": "nvfp4", "output": "nvfp4"}
    base = {"model": "deepseek-r1", "gpu": "b200-sxm", "parallelism": {"tensor": 8}}
    given = resolved(**base, precision=v2)
    assert given.by_part() == {
        "attention": None, "output": "nvfp4", "mlp": "nvfp4", "experts": "nvfp4", "head": None,
    }  # fmt: skip
    assert (given.weights, given.activations, given.kv) == ("bf16", "bf16", "bf16")
    # A format for the whole, or for the attention, is the output projection's too, and need not be said twice.
    assert resolved(**base, precision="nvfp4").by_part()["output"] is None
    assert resolved(**base, precision={"linear": "nvfp4", "output": "nvfp4"}) == resolved(**base, precision="nvfp4")
    plain = resolved(**base, precision={"linear": "nvfp4", "output": "bf16"})
    assert plain.by_part()["output"] == "bf16" and plain.linear == "nvfp4"


def test_a_checkpoint_says_the_format_of_the_output_projection() -> None:
    """Model Optimizer leaves out all projections of the attention but the last; the scenario may say otherwise."""
    out = [f"model.layers.*.self_attn.{name}" for name in ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")]
    quantised = {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": [*out, "lm_head"]}
    model = {"base": "deepseek-r1", "quantization_config": quantised}
    base = {"model": model, "gpu": "b200-sxm", "parallelism": {"tensor": 8}}
    parts = resolved(**base).by_part()
    assert parts["output"] == parts["experts"] == parts["mlp"] == "nvfp4" and parts["attention"] is None
    assert resolved(**base, precision={"linear": "fp8"}).by_part()["output"] is None
    assert resolved(**base, precision={"attention": "fp8"}).by_part()["output"] is None
    loaded = load_scenario(BASE | base).model
    attention = 61 * (7168 * (1536 + 576) + 1536 * 24_576 + 512 * 32_768)
    rest = (
        loaded.parameters
        - attention
        - 61 * 16_384 * 7168
        - sum(loaded.parameter_counts()[part] for part in ("mlp", "experts"))
    )
    assert loaded.weight_bytes_by_format()["bf16"] == 2 * (attention + rest)
