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
    ],
)  # fmt: skip
def test_what_an_engine_has_no_kernels_for(changes: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        resolved(**({"engine": "vllm"} | changes))
    assert caught.value.place == place and words in caught.value.message()
