"""What is known of measured deployments beyond their table: the engines' settings and how the load was made.

A row becomes a scenario here. Facts only, with where they are from; nothing is fitted. What a scenario cannot say yet
raises InputError, whose words become the row's `reason`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from calibration.servingtables import UNKNOWN
from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.calibrated import AUTO
from simulator.selection import Selection
from workloads.formats import BODY, LINEAR_FORMATS
from workloads.model import Model, find_model, load_model

REQUESTS_PER_USER = 10
"""The load generators sent ten times as many requests as there were users."""
SPREAD = (4, 5)
"""Public runs drew each length uniformly between 0.8 and 1.0 of the nominal one, both of input and output."""

ALIASES = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-405B": "meta-llama/Meta-Llama-3.1-405B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Qwen3-32B-NVFP4": "Qwen/Qwen3-32B",
}
"""Names in serving tables of models whose configuration is bundled under another name, of the same shape."""

FORMATS = {"fp4": "nvfp4"}
"""Precisions in serving tables that are no names of formats (`workloads.formats`) -> the format they mean."""

PUBLIC = ("llama-3.1-70b", "deepseek-r1", "gpt-oss", "minimax", "kimi-k2", "qwen3.5", "glm-5")
"""Parts of the names of models that SemiAnalysisAI/InferenceX measures."""
PUBLIC_LENGTHS = ((1024, 1024), (1024, 8192), (8192, 1024))


@dataclass(frozen=True)
class Settings:
    """Settings of an engine, as far as a scenario has them.

    `utilisation` : share of the GPU's memory that it uses. `chunked` : whether prompts are split over steps; without,
    `tokens` is at least the longest prompt and output.
    """

    seqs: int
    tokens: int
    block: int
    utilisation: float = 0.9
    chunked: bool = True
    kv: str = "auto"


DEFAULTS = {
    # vLLM V1 on GPUs with 70 GB or more, as a server: max_num_seqs 1024, max_num_batched_tokens 8192, blocks of 16.
    "vllm": Settings(seqs=1024, tokens=8192, block=16),
    # SGLang 0.5: chunked_prefill_size 8192 below 100 GB; pages of one token, taken as 16 here; no limit on sequences.
    "sglang": Settings(seqs=1024, tokens=8192, block=16, utilisation=0.88),
    # TensorRT-LLM 1.x: max_num_tokens 8192, max_batch_size 2048, 32 tokens a block, no chunked prefill.
    "trtllm": Settings(seqs=2048, tokens=8192, block=32, chunked=False),
}
"""The engines' defaults, where a run's settings are not known."""

ANY = ""
RECIPES: dict[tuple[str, str, str], dict[str, Any]] = {
    # benchmarks/70b_*.sh of September and October 2025
    ("llama-3.1-70b", "vllm", ANY): {"kv": "fp8"},
    ("llama-3.1-70b", "trtllm", ANY): {"kv": "fp8", "tokens": 16_384},
    # benchmarks/single_node/fixed_seq_len/deprecated/{gptoss_fp4,minimaxm2.5_fp8,minimaxm2.5_fp4}_*.sh
    ("gpt-oss", "vllm", "b200-sxm"): {"kv": "fp8"},
    ("gpt-oss", "trtllm", "b200-sxm"): {"kv": "fp8", "tokens": 20_000, "utilisation": 0.85},
    ("gpt-oss", "trtllm", ANY): {"tokens": 20_000, "utilisation": 0.85},
    ("minimax", "vllm", "b200-sxm"): {"kv": "fp8"},
    ("minimax", "vllm", "h200-sxm"): {"kv": "fp8", "utilisation": 0.95},
}
"""What recipes of public runs set otherwise than the engine does: (part of the model's name, engine, GPU) -> settings;
the first that fits counts."""

LENGTH_STEP = 16_384
"""`max_model_len` is the next multiple of this, so that rows of several lengths share one compiled deployment."""


def is_public(row: dict[str, Any]) -> bool:
    """Whether a row is one of the public InferenceX runs: those have a few models and three pairs of lengths."""
    lengths = (row["input_len"], row["output_len"]) in PUBLIC_LENGTHS
    return lengths and any(part in row["model"].lower() for part in PUBLIC)


def settings_of(row: dict[str, Any]) -> Settings:
    """The engine's settings in a row's run: its recipe's where that is known, else the engine's defaults."""
    found = DEFAULTS[row["engine"]]
    if is_public(row):
        name, run = row["model"].lower(), (row["engine"], row["gpu"])
        fits = (own for (part, e, gpu), own in RECIPES.items() if part in name and (e, gpu or run[1]) == run)
        own = next(fits, {})
        # Their recipes allow as many sequences as there are users.
        found = replace(found, **own, seqs=max(found.seqs, 1 << (row["concurrency"] - 1).bit_length()))
    tokens = max(found.tokens, found.seqs)
    if not found.chunked:
        tokens = max(tokens, row["input_len"] + row["output_len"])
    return replace(found, tokens=tokens)


def longest(row: dict[str, Any], settings: Settings, model: Model) -> int:
    """`max_model_len` of a row's deployment, tokens."""
    step = -(-(row["input_len"] + row["output_len"]) // LENGTH_STEP) * LENGTH_STEP
    return min(step, model.max_context, step if settings.chunked else settings.tokens)


def software_of(row: dict[str, Any]) -> str:
    """Engine and version, as profiles call their software; the nearest version is taken where there is no such one."""
    return row["engine"] if row["engine_version"] == UNKNOWN else f"{row['engine']}-{row['engine_version']}"


@lru_cache(maxsize=256)
def profile_of(gpu: str, software: str) -> str:
    """The fitted profile of the GPU and the software, or the nearest (`simulator.selection`)."""
    names = Selection(load_gpu(gpu), software=software).names()
    return names[0] if names else AUTO


@lru_cache(maxsize=64)
def bundled_model(name: str) -> Model:
    """The configuration of a model in a serving table. Raises InputError if it is not bundled."""
    wanted = ALIASES.get(name, name)
    found = find_model(wanted)
    if found is None:
        raise InputError("no configuration of this model is bundled", place="model", found=name)
    return load_model(found)


def check_layout(row: dict[str, Any], model: Model) -> None:
    """InputError for a parallel layout that is not simulated yet, or that contradicts itself."""
    if row["pp"] > 1:
        raise InputError("pipeline parallelism is not simulated yet", place="pp", found=row["pp"])
    if row["attention_dp"] > 1:
        raise InputError("attention data parallelism is not simulated yet", place="attention_dp")
    experts = row["moe_tp"] * row["moe_ep"]
    if model.moe is None:
        if experts > 1:
            raise InputError(
                f"{row['model']} has no experts", place="moe_tp, moe_ep", found=f"{row['moe_tp']} x {row['moe_ep']}"
            )
        return
    if row["moe_ep"] > 1:
        raise InputError("expert parallelism is not simulated yet", place="moe_ep", found=row["moe_ep"])
    if experts != row["tp"]:
        raise InputError("the experts are on other GPUs than the attention", place="moe_tp, moe_ep", found=experts)


def deployment_spec(row: dict[str, Any], profile: str | None = None) -> dict[str, Any]:
    """A row's scenario without its load, as plain data. Rows that agree in it are served by one deployment.

    `profile` : in place of that of the row's engine. Raises InputError for what cannot be simulated.
    """
    if "prefill_workers" in row:
        raise InputError("prefill and decode on workers of their own are not simulated yet")
    model = bundled_model(row["model"])
    check_layout(row, model)
    formats = formats_of(row["precision"], model)
    if row["input_len"] + row["output_len"] > model.max_context:
        found = row["input_len"] + row["output_len"]
        raise InputError(f"longer than the context of {row['model']}", place="input_len, output_len", found=found)
    settings = settings_of(row)
    return {
        "gpu": row["gpu"],
        "model": model.name,
        "precision": {**formats, "kv": _kv(settings, model)},
        "parallelism": {"tensor": row["tp"]},
        "engine": {
            "max_num_seqs": settings.seqs,
            "max_num_batched_tokens": settings.tokens,
            "block_size": settings.block,
            "memory_utilisation": settings.utilisation,
            "chunked_prefill": settings.chunked,
            "max_model_len": longest(row, settings, model),
        },
        "profile": profile or profile_of(row["gpu"], software_of(row)),
    }


def formats_of(precision: str, model: Model) -> dict[str, str]:
    """The formats of the linear layers, for a scenario: as the model was published, if it was in this precision.

    So fp8 of a checkpoint scaled by blocks is fp8_block, and fp4 of gpt-oss is mxfp4 in the experts alone. Raises
    InputError for an unknown precision.
    """
    name = FORMATS.get(precision, precision)
    if name not in LINEAR_FORMATS:
        raise InputError("this precision is not simulated yet", place="precision", found=precision)
    parts = (getattr(model.formats, part) for part in BODY)
    own = {LINEAR_FORMATS[part].weights for part in parts if part is not None}
    return {} if LINEAR_FORMATS[name].weights in own else {"linear": name}


def _kv(settings: Settings, model: Model) -> str:
    """`auto` of an engine is the format in which the model is computed, whatever its weights are stored in."""
    return model.dtype if settings.kv == "auto" else settings.kv


def workload_spec(row: dict[str, Any]) -> dict[str, Any]:
    """The load of a row's run: a closed loop of `concurrency` users."""

    def lengths(nominal: int) -> Any:
        if not is_public(row):
            return nominal
        return {"kind": "uniform", "low": max(1, nominal * SPREAD[0] // SPREAD[1]), "high": nominal}

    return {
        "strategy": {"kind": "chat"},
        "requests": REQUESTS_PER_USER * row["concurrency"],
        "prompt_tokens": lengths(row["input_len"]),
        "output_tokens": lengths(row["output_len"]),
        "arrivals": {"kind": "closed_loop", "concurrency": row["concurrency"]},
    }
