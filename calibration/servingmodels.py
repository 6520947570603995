"""From a serving table's names of models and precisions to a bundled configuration and its number formats.

A name says which checkpoint was served, its precision how it is stored. What an engine multiplies it in follows from
the engine, its version and the GPU.
"""

from __future__ import annotations

import re
from functools import lru_cache

from packaging.version import Version

from calibration.servingrecipes import number_of
from hwspecs.errors import InputError
from hwspecs.gpu import Gpu
from workloads.formats import LINEAR_FORMATS
from workloads.model import Model, find_model, load_model

ALIASES = {
    "llama-3.3-70b": "llama-3.1-70b",
    "deepseek-v3.1": "deepseek-v3",
    "deepseek-v3.1-terminus": "deepseek-v3",
    "kimi-k2": "kimi-k2.5",
}
"""Names of models whose configuration is bundled under another name, of the same shape."""

SUFFIXES = re.compile(
    r"-(fp8|fp4|nvfp4|bf16|kv|instruct|thinking|it|base|dynamic|hf|exp|\d{4}|v0\.1|(?<=fp[48]-)v\d)(?=-|$)"
)
"""What a checkpoint's name adds to that of its model: format, tuning, date."""

FORMATS = {"fp4": "nvfp4", "mxfp4": "w4a16_mxfp4", "int4": "int4_wo", "bfloat16": "bf16", "float16": "fp16"}
"""Precisions in serving tables that are no names of formats (`workloads.formats`) -> the format they mean."""

WEIGHT_ONLY = {"fp8": "fp8_wo", "fp8_block": "fp8_wo", "nvfp4": "nvfp4_wo"}
"""What vLLM and SGLang (their Marlin kernels) multiply on a GPU that lacks a format. TensorRT-LLM refuses it."""

NVFP4_PARTS = {
    "minimax-m2": ("experts",),
    "gpt-oss": ("experts",),
    "kimi-k2": ("experts",),
    "qwen3.5": ("experts",),
    "glm-5": ("experts",),
    "deepseek-r1": ("mlp", "experts", "output"),
    "deepseek-v3.2": ("experts",),
    "deepseek-v3": ("mlp", "experts", "output"),
}
"""Models of whose nvfp4 checkpoints only some parts are in it; the rest is as published before quantisation. Of
nvidia/MiniMax-M2.5-NVFP4 2,730,491,904 weights are not, those of its projections; nvidia/DeepSeek-R1-0528-NVFP4-v2 has
the MLPs and the output projection of the attention in it, nvidia/Kimi-K2.5-NVFP4 and nvidia/Qwen3.5-397B-A17B-NVFP4 the
routed experts (their model cards and hf_quant_config.json); of GLM-5 and DeepSeek-V3.2 the same is assumed."""

BLOCKS_BY = ("qwen/", "zai-org/", "zhipuai/")
"""Publishers of fp8 checkpoints scaled by blocks, named -FP8, of models that are bundled as bf16."""
ALWAYS_BLOCKS = ("qwen3.5", "glm-5")
"""Models of which there is no other fp8 checkpoint."""

KV_AUTO = {"trtllm": None, "sglang": Version("0.5.9"), "vllm": Version("0.15.1")}
"""Engines, and the first version read of each, that keep the KV cache in the format for which a checkpoint has scales
(tensorrt_llm/llmapi/llm_args.py; srt/model_executor/model_runner.py; vllm/utils/torch_utils.py); None: all versions."""


@lru_cache(maxsize=256)
def bundled_model(name: str) -> Model:
    """The configuration of a model in a serving table. Raises InputError if it is not bundled."""
    found = find_model(name)
    if found is None:
        plain = SUFFIXES.sub("", name.lower().rpartition("/")[2])
        found = find_model(ALIASES.get(plain, plain))
    if found is None:
        raise InputError("no configuration of this model is bundled", place="model", found=name)
    return load_model(found)


def formats_of(precision: str, name: str, *, engine: str, version: str | None, gpu: Gpu) -> dict[str, str]:
    """The number formats of a row, for a scenario: `precision` of the checkpoint that `name` means.

    As the model was published, if it was in this precision: so fp8 of a checkpoint scaled by blocks is fp8_block, and
    fp4 of gpt-oss is mxfp4 in the experts alone. Else fp8 and nvfp4 are those of NVIDIA Model Optimizer, which has
    scales for an fp8 KV cache. Raises InputError for an unknown precision.
    """
    model = bundled_model(name)
    linear = FORMATS.get(precision, precision)
    if linear not in LINEAR_FORMATS:
        raise InputError("unknown precision", place="precision", found=precision, allowed=", ".join(LINEAR_FORMATS))
    parts = {part: own for part in model.linear_parts if (own := getattr(model.formats, part)) is not None}
    if LINEAR_FORMATS[linear].weights in {LINEAR_FORMATS[own].weights for own in parts.values()}:
        return _published(parts, engine, gpu)
    lower = name.lower()
    named = lower.startswith(BLOCKS_BY) and lower.endswith("-fp8")
    if linear == "fp8" and (named or any(part in lower for part in ALWAYS_BLOCKS)):
        return _able({"linear": "fp8_block"}, engine, gpu)
    found = {"linear": linear}
    narrow = next((parts for part, parts in NVFP4_PARTS.items() if part in lower), None)
    if linear == "nvfp4" and narrow is not None:
        found = {"linear": model.dtype} | {part: linear for part in narrow if part in (*model.linear_parts, "output")}
    if linear in ("fp8", "nvfp4") and _follows_checkpoint(engine, version):
        found["kv"] = "fp8"
    return _able(found, engine, gpu)


def _published(parts: dict[str, str], engine: str, gpu: Gpu) -> dict[str, str]:
    """Formats of a checkpoint as it was published; nothing where they are also what is multiplied."""
    if parts == {"experts": "w4a16_mxfp4"}:
        # TensorRT-LLM and SGLang quantise activations too where tensor cores take mxfp8; vLLM does if it is told to.
        takes = gpu.architecture in ("Blackwell", "Blackwell Ultra") and engine in ("trtllm", "sglang")
        return {"experts": "w4a8_mxfp4_mxfp8"} if takes else {}
    able = _able(parts, engine, gpu)
    return {} if able == parts else able


def _able(formats: dict[str, str], engine: str, gpu: Gpu) -> dict[str, str]:
    """`formats` as `engine` multiplies them on `gpu`."""
    if engine == "trtllm":
        return formats
    found = dict(formats)
    for part, name in formats.items():
        needs = LINEAR_FORMATS[name].needs if part != "kv" else ()
        if any(dtype not in gpu.peak for dtype in needs):
            found[part] = WEIGHT_ONLY.get(name, name)
    return found


def _follows_checkpoint(engine: str, version: str | None) -> bool:
    """Whether an engine takes the KV cache's format from the checkpoint."""
    first, number = KV_AUTO.get(engine), number_of(version)
    return first is None or (number is not None and number >= first)
