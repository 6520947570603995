"""Rows of serving tables as scenarios: which checkpoint, what the run was told, and which layout it really had."""

from __future__ import annotations

from typing import Any

import pytest

from calibration.servingmodels import bundled_model, formats_of
from calibration.servingrecipes import FILE, is_public, told, version_of
from calibration.servingruns import deployment_spec, workload_spec
from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from workloads.engine import Engine
from workloads.precision import Precision
from workloads.scenario import load_scenario

OWN: dict[str, Any] = {
    "gpu": "h200-sxm", "model": "Qwen/Qwen3-8B", "engine": "vllm", "precision": "bf16", "input_len": 512,
    "output_len": 64, "concurrency": 4, "tp": 1, "pp": 1, "attention_dp": 1, "moe_tp": 1, "moe_ep": 1,
    "engine_version": "0.19.0",
}  # fmt: skip
LLAMA = OWN | {
    "model": "meta-llama/Llama-3.1-70B", "precision": "fp8", "input_len": 1024, "output_len": 1024, "tp": 4,
    "engine_version": "unknown",
}  # fmt: skip
OSS = LLAMA | {"model": "openai/gpt-oss-120b", "precision": "fp4", "moe_tp": 4}
MINIMAX = LLAMA | {"model": "MiniMaxAI/MiniMax-M2.5", "moe_tp": 4, "engine_version": "0.19.0", "gpu": "b200-sxm"}


def layout(row: dict[str, Any]) -> tuple[int, int, int, int]:
    spread = deployment_spec(row)["parallelism"]
    return spread["tensor"], spread["attention_data"], spread["expert"], spread["pipeline"]


# ---- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B"),
        ("nvidia/Qwen3-32B-NVFP4", "Qwen/Qwen3-32B"),
        ("Qwen/Qwen3-32B-FP8", "Qwen/Qwen3-32B"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen/Qwen3-30B-A3B"),
        ("Qwen/Qwen3-235B-A22B-FP8", "Qwen/Qwen3-235B-A22B-FP8"),
        ("nvidia/Qwen3-235B-A22B-NVFP4", "Qwen/Qwen3-235B-A22B"),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B"),
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "meta-llama/Meta-Llama-3.1-8B"),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "meta-llama/Meta-Llama-3.1-70B"),
        ("meta-llama/Llama-3.1-405B", "meta-llama/Meta-Llama-3.1-405B"),
        ("nvidia/Llama-3.1-405B-Instruct-FP8", "meta-llama/Meta-Llama-3.1-405B"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x7B-v0.1"),
        ("nvidia/MiniMax-M2.5-NVFP4", "MiniMaxAI/MiniMax-M2.5"),
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("nvidia/DeepSeek-R1-NVFP4", "deepseek-ai/DeepSeek-R1"),
        ("deepseek-ai/DeepSeek-V3.1-NVFP4", "deepseek-ai/DeepSeek-V3"),
        ("zhipuai/GLM-5", "zai-org/GLM-5"),
        ("moonshotai/Kimi-K2.5", "moonshotai/Kimi-K2.5"),
        ("Qwen/Qwen3.5-397B-A17B", "Qwen/Qwen3.5-397B-A17B"),
    ],
)
def test_names_of_checkpoints(name: str, model: str) -> None:
    assert bundled_model(name).name == model


@pytest.mark.parametrize("name", ["nobody/knows-7B", "deepseek-ai/DeepSeek-R9", "Qwen/Qwen3-VL-8B"])
def test_names_that_mean_nothing_bundled(name: str) -> None:
    with pytest.raises(InputError, match="no configuration"):
        bundled_model(name)


@pytest.mark.parametrize(
    ("precision", "model", "engine", "version", "gpu", "formats"),
    [
        ("bf16", "Qwen/Qwen3-32B", "vllm", "0.12.0", "h100-sxm", {"linear": "bf16"}),
        # NVIDIA's checkpoints have scales for the KV cache; TensorRT-LLM uses them, the others do from a version on.
        ("fp8", "Qwen/Qwen3-32B", "trtllm", "1.0.0rc3", "h100-sxm", {"linear": "fp8", "kv": "fp8"}),
        ("fp8", "Qwen/Qwen3-32B", "vllm", "0.12.0", "h100-sxm", {"linear": "fp8"}),
        ("fp8", "Qwen/Qwen3-32B", "vllm", "0.19.0", "h100-sxm", {"linear": "fp8", "kv": "fp8"}),
        ("fp8", "Qwen/Qwen3-32B", "sglang", None, "h100-sxm", {"linear": "fp8"}),
        ("fp4", "nvidia/Qwen3-32B-NVFP4", "trtllm", "1.2.0", "b300-sxm", {"linear": "nvfp4", "kv": "fp8"}),
        # Qwen's own are scaled by blocks and have none.
        ("fp8", "Qwen/Qwen3-32B-FP8", "trtllm", "1.2.0", "h100-sxm", {"linear": "fp8_block"}),
        ("fp8", "Qwen/Qwen3-235B-A22B-FP8", "trtllm", "1.0.0rc3", "h100-sxm", {}),
        ("bf16", "Qwen/Qwen3-235B-A22B-FP8", "vllm", "0.12.0", "h200-sxm", {"linear": "bf16"}),
        ("fp8", "MiniMaxAI/MiniMax-M2.5", "vllm", "0.19.0", "b200-sxm", {}),
        (
            "fp4", "MiniMaxAI/MiniMax-M2.5", "vllm", "0.19.0", "b200-sxm",
            {"linear": "bf16", "experts": "nvfp4", "kv": "fp8"},
        ),
        # OpenAI's experts: activations in mxfp8 where the tensor cores take them and the engine does so unasked.
        ("fp4", "openai/gpt-oss-120b", "trtllm", "1.2.0", "b200-sxm", {"experts": "w4a8_mxfp4_mxfp8"}),
        ("fp4", "openai/gpt-oss-120b", "trtllm", "1.2.0", "b300-sxm", {"experts": "w4a8_mxfp4_mxfp8"}),
        ("fp4", "openai/gpt-oss-120b", "sglang", "0.5.9", "gb200", {"experts": "w4a8_mxfp4_mxfp8"}),
        ("fp4", "openai/gpt-oss-120b", "vllm", "0.19.0", "b200-sxm", {}),
        ("fp4", "openai/gpt-oss-120b", "trtllm", "1.2.0", "h200-sxm", {}),
        ("fp4", "openai/gpt-oss-20b", "vllm", "0.19.0", "l40s", {}),
        # Without the format in the tensor cores the weights alone stay narrow.
        ("fp8", "Qwen/Qwen3-32B", "vllm", "0.12.0", "a100-sxm", {"linear": "fp8_wo"}),
        (
            "fp8", "Qwen/Qwen3-235B-A22B-FP8", "sglang", "0.5.9", "a100-sxm",
            {"attention": "fp8_wo", "experts": "fp8_wo"},
        ),
        ("nvfp4", "Qwen/Qwen3-32B", "vllm", "0.12.0", "h100-sxm", {"linear": "nvfp4_wo"}),
        ("nvfp4", "Qwen/Qwen3-32B", "trtllm", "1.2.0", "h100-sxm", {"linear": "nvfp4", "kv": "fp8"}),
        ("int4", "Qwen/Qwen3-32B", "vllm", "0.12.0", "a100-sxm", {"linear": "int4_wo"}),
        # NVIDIA's fp4 checkpoints of large mixtures leave most of the attention as it was.
        (
            "fp4", "deepseek-ai/DeepSeek-R1", "sglang", "0.5.9", "b200-sxm",
            {"linear": "bf16", "mlp": "nvfp4", "experts": "nvfp4", "output": "nvfp4", "kv": "fp8"},
        ),
        (
            "fp4", "moonshotai/Kimi-K2.5", "vllm", "0.17.0", "b200-sxm",
            {"linear": "bf16", "experts": "nvfp4", "kv": "fp8"},
        ),
        ("int4", "moonshotai/Kimi-K2.5", "vllm", "0.17.0", "h200-sxm", {}),  # as published
        ("fp8", "deepseek-ai/DeepSeek-R1", "sglang", "0.5.9", "h200-sxm", {}),
        ("fp8", "Qwen/Qwen3.5-397B-A17B", "sglang", "0.5.9", "h200-sxm", {"linear": "fp8_block"}),
        ("fp8", "zhipuai/GLM-5", "sglang", "0.5.9", "b200-sxm", {"linear": "fp8_block"}),
    ],
)  # fmt: skip
def test_formats_by_checkpoint_engine_and_gpu(
    precision: str, model: str, engine: str, version: str | None, gpu: str, formats: dict[str, str]
) -> None:
    assert formats_of(precision, model, engine=engine, version=version, gpu=load_gpu(gpu)) == formats


def test_unknown_precisions() -> None:
    with pytest.raises(InputError, match="unknown precision"):
        formats_of("fp3", "Qwen/Qwen3-8B", engine="vllm", version=None, gpu=load_gpu("h200-sxm"))


# ---- what runs were told ---------------------------------------------------------------------------------------------


def test_public_runs_draw_their_lengths_and_others_do_not() -> None:
    public = LLAMA | {"output_len": 8192}
    assert is_public(public) and not is_public(public | {"input_len": 2048}) and not is_public(OWN)
    assert not is_public(LLAMA | {"engine": "trtllm", "engine_version": "1.0.0rc3"})  # measured by somebody else
    load = workload_spec(public)
    assert load["prompt_tokens"] == {"kind": "uniform", "low": 819, "high": 1024}
    assert load["output_tokens"] == {"kind": "uniform", "low": 6553, "high": 8192}
    assert workload_spec(OWN)["prompt_tokens"] == 512
    assert load["requests"] == 40 and load["arrivals"] == {"kind": "closed_loop", "concurrency": 4}


R1 = LLAMA | {
    "model": "deepseek-ai/DeepSeek-R1", "gpu": "b200-sxm", "precision": "fp4", "tp": 8, "moe_tp": 8,
}  # fmt: skip


def test_sglang_looks_for_requests_now_and_then() -> None:
    """--scheduler-recv-interval of its recipes on Blackwell: 10 below 16 users, else 30."""
    few, many = (told(R1 | {"engine": "sglang", "concurrency": users}).engine for users in (8, 16))
    assert few["receive_interval"] == 10 and many["receive_interval"] == 30
    assert "receive_interval" not in told(R1 | {"engine": "sglang", "precision": "fp8", "gpu": "h200-sxm"}).engine


def test_layouts_that_early_runs_chose_by_themselves() -> None:
    """The script of September 2025: experts whole above 8 users, data-parallel attention from 256 on."""
    run = R1 | {"engine": "trtllm"}
    assert layout(run) == (8, 1, 1, 1) and layout(run | {"concurrency": 16}) == (8, 1, 8, 1)
    assert layout(run | {"concurrency": 256}) == (1, 8, 8, 1)
    assert layout(run | {"concurrency": 256, "engine_version": "1.2.0rc6.post2"}) == (8, 1, 1, 1)
    assert told(run).engine["max_num_batched_tokens"] == 1024 + 4 + 64  # one prompt a step


def test_versions_that_nobody_noted() -> None:
    assert version_of(LLAMA) == "0.10.2" and version_of(LLAMA | {"engine": "trtllm"}) == "1.1.0rc2.post2"
    assert version_of(LLAMA | {"engine_version": "0.11.0"}) == "0.11.0"
    assert version_of(OSS | {"engine": "trtllm", "engine_version": "gpt-oss-dev"}) == "1.1.0rc1"
    assert version_of(MINIMAX | {"engine_version": "nightly-5b8c30d6"}) == "0.19.0"
    assert version_of(OWN | {"engine_version": "unknown"}) is None  # as the engine's newest
    assert version_of(OWN | {"engine_version": "main"}) == "main"


def test_nothing_is_said_of_runs_that_nobody_described() -> None:
    found = told(OWN)
    assert (found.engine, found.precision, found.expert, found.attention_data, found.sources) == (
        {},
        {},
        None,
        False,
        (),
    )
    spec = deployment_spec(OWN)
    assert spec["engine"] == {"name": "vllm", "version": "0.19.0", "max_model_len": 16384}
    assert spec["precision"] == {"linear": "bf16"} and spec["profile"] == "auto"
    assert deployment_spec(OWN, "ideal")["profile"] == "ideal"


def test_settings_of_public_runs() -> None:
    engine = deployment_spec(LLAMA)["engine"]
    assert (engine["version"], engine["max_num_batched_tokens"], engine["overlap_scheduling"]) == ("0.10.2", 8192, True)
    assert engine["max_num_seqs"] == 4 and deployment_spec(LLAMA)["precision"]["kv"] == "fp8"  # as many as users
    blackwell = deployment_spec(LLAMA | {"gpu": "b200-sxm"})["engine"]  # a later rule goes before
    assert (blackwell["max_num_seqs"], blackwell["fused_rows"]) == (512, "all_reduce") and "fused_rows" not in engine

    trt = LLAMA | {"engine": "trtllm"}
    assert deployment_spec(trt)["engine"]["batch_wait_steps"] == 20
    for change in ({"tp": 8}, {"output_len": 8192}):
        assert "batch_wait_steps" not in deployment_spec(trt | change)["engine"]
    assert deployment_spec(trt | {"tp": 8})["engine"]["max_num_batched_tokens"] == 16_384

    oss = OSS | {"engine": "trtllm", "gpu": "b200-sxm", "engine_version": "1.2.0rc2"}
    assert deployment_spec(oss)["precision"] == {"experts": "w4a8_mxfp4_mxfp8", "kv": "fp8"}
    assert deployment_spec(oss)["engine"]["memory_utilisation"] == 0.85
    assert deployment_spec(oss | {"gpu": "h200-sxm"})["precision"] == {}
    vllm = OSS | {"gpu": "b200-sxm"}
    assert deployment_spec(vllm | {"engine_version": "0.15.1"})["precision"]["kv"] == "fp8"
    assert "kv" not in deployment_spec(vllm | {"engine_version": "0.11.0"})["precision"]

    assert deployment_spec(MINIMAX)["engine"]["max_num_batched_tokens"] == 2048  # twice the input
    assert deployment_spec(MINIMAX | {"input_len": 8192})["engine"]["max_num_batched_tokens"] == 16_384
    assert deployment_spec(MINIMAX)["precision"] == {"kv": "fp8"}
    assert deployment_spec(MINIMAX | {"gpu": "h200-sxm", "engine_version": "0.18.0"})["precision"] == {}


def test_settings_that_follow_from_the_load() -> None:
    """In these runs the budget of a step was made for one prompt and, under TensorRT-LLM, for a token of every user."""
    row = OWN | {"engine": "trtllm", "engine_version": "1.0.0rc3", "concurrency": 32}
    engine = deployment_spec(row)["engine"]
    budget = engine["max_num_batched_tokens"]
    assert engine["max_num_seqs"] == 32 and budget > 512 + 32
    assert deployment_spec(row | {"concurrency": 40})["engine"]["max_num_batched_tokens"] == budget + 8
    assert deployment_spec(row | {"input_len": 612})["engine"]["max_num_batched_tokens"] == budget + 100


# ---- layouts ---------------------------------------------------------------------------------------------------------


def test_layouts_are_those_of_the_table() -> None:
    assert layout(LLAMA) == (4, 1, 1, 1) and layout(LLAMA | {"pp": 2}) == (4, 1, 1, 2)
    assert layout(MINIMAX) == (4, 1, 1, 1)
    assert layout(MINIMAX | {"moe_tp": 1, "moe_ep": 4}) == (4, 1, 4, 1)
    ranks = OSS | {"engine": "trtllm", "gpu": "b200-sxm", "tp": 1, "attention_dp": 4}
    assert layout(ranks) == (1, 4, 1, 1) and layout(ranks | {"moe_tp": 1, "moe_ep": 4}) == (1, 4, 4, 1)


def test_layouts_that_the_recipes_know_better() -> None:
    """The tables do not say that experts were whole, or that attention was data parallel."""
    # Whole experts took as long as shared ones here.
    hopper = OSS | {"engine": "trtllm", "engine_version": "gpt-oss-dev"}
    assert layout(hopper) == layout(hopper | {"moe_tp": 1, "moe_ep": 4}) == (4, 1, 1, 1)
    assert layout(MINIMAX | {"engine_version": "0.17.0"}) == (4, 1, 4, 1)
    assert layout(MINIMAX | {"gpu": "h200-sxm", "engine_version": "0.18.0"}) == (4, 1, 4, 1)
    assert layout(MINIMAX | {"gpu": "h200-sxm", "engine_version": "0.16.0"}) == (4, 1, 1, 1)
    pair = MINIMAX | {"precision": "fp4", "tp": 2, "moe_tp": 1, "moe_ep": 2}
    assert layout(pair | {"concurrency": 128}) == (2, 1, 2, 1)
    assert layout(pair | {"concurrency": 512}) == layout(pair | {"concurrency": 512, "gpu": "b300-sxm"}) == (1, 2, 2, 1)


@pytest.mark.parametrize(
    ("model", "engine", "tp", "expert"),
    [
        ("Qwen/Qwen3-235B-A22B-FP8", "vllm", 4, 1),  # 1,536 / 4 = 3 blocks of 128
        ("Qwen/Qwen3-235B-A22B-FP8", "vllm", 8, 8),  # 1,536 / 8 = 192 is one and a half: refused, so they were whole
        ("Qwen/Qwen3-235B-A22B-FP8", "sglang", 8, 8),
        ("Qwen/Qwen3-235B-A22B-FP8", "trtllm", 8, 1),  # which pads
        ("Qwen/Qwen3-235B-A22B", "vllm", 8, 1),  # fp8 by tensors has no blocks
        ("Qwen/Qwen3-30B-A3B-FP8", "vllm", 4, 4),  # 768 / 4
        ("Qwen/Qwen3-30B-A3B-FP8", "vllm", 2, 1),
    ],
)
def test_experts_in_blocks_that_an_engine_cannot_split_are_whole(model: str, engine: str, tp: int, expert: int) -> None:
    row = OWN | {
        "model": model,
        "engine": engine,
        "precision": "fp8",
        "tp": tp,
        "moe_tp": tp,
        "engine_version": "0.12.0",
    }
    assert layout(row) == (tp, 1, expert, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"moe_ep": 2}, "no experts"),
        ({"model": "Qwen/Qwen3-30B-A3B", "tp": 4, "moe_tp": 2}, "other GPUs"),
        ({"input_len": 40_000, "output_len": 4_000}, "longer than the context"),
        ({"precision": "fp3"}, "precision"),
    ],
)
def test_rows_that_contradict_themselves(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        deployment_spec(OWN | change)


# ---- the file of recipes ---------------------------------------------------------------------------------------------


def test_recipes_set_only_what_a_scenario_has() -> None:
    from calibration.servingrecipes import _facts

    for rule in _facts().rules:
        assert set(rule.engine) <= set(Engine.model_fields) and set(rule.precision) <= set(Precision.model_fields)
        assert set(rule.layout) <= {"expert", "attention_data"} and set(rule.layout.values()) <= {"all", "none"}
        for gpu in rule.for_.gpus:
            assert load_gpu(gpu).name == gpu
    assert FILE.read_text().count("source:") == len(_facts().rules) + len(_facts().versions)


@pytest.mark.parametrize(
    "row", [OWN, LLAMA, OSS | {"gpu": "b300-sxm"}, MINIMAX, MINIMAX | {"gpu": "gb200"}, MINIMAX | {"gpu": "h20"}]
)
@pytest.mark.parametrize("engine", ["vllm", "trtllm", "sglang"])
def test_rows_are_scenarios(row: dict[str, Any], engine: str) -> None:
    row = row | {"engine": engine}
    scenario = load_scenario({**deployment_spec(row), "workload": workload_spec(row)})
    assert scenario.config.engine.name == engine and scenario.config.workload.requests == 10 * row["concurrency"]
