"""Models: parameters and KV bytes against tensor shapes written out by hand, and how configurations are read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from smallmodel import DENSE

from hwspecs.errors import InputError
from workloads.architectures import NESTED
from workloads.decoder import GatedDelta, Indexer, Latent
from workloads.formats import PartFormats
from workloads.model import ARCHITECTURES, MODEL_FOLDER, find_model, list_models, load_model

# Every tensor of the published checkpoints, as (how many of it, shape), from the shapes in the model's files. V is the
# vocabulary. The totals beside them are those of the checkpoints' safetensors index (tied tables counted once).
V = 151_936
TENSORS = {
    "Qwen/Qwen3-0.6B": [
        (1, (V, 1024)),  # embedding, which is the LM head too
        (28, (2048, 1024)), (56, (1024, 1024)), (28, (1024, 2048)),  # q; k and v; o: 16 and 8 heads of 128
        (56, (128,)),  # q and k norm
        (56, (3072, 1024)), (28, (1024, 3072)),  # gate and up; down
        (56, (1024,)), (1, (1024,)),  # the layers' two norms; the final one
    ],
    "Qwen/Qwen3-1.7B": [
        (1, (V, 2048)),
        (28, (2048, 2048)), (56, (1024, 2048)), (28, (2048, 2048)), (56, (128,)),
        (56, (6144, 2048)), (28, (2048, 6144)),
        (56, (2048,)), (1, (2048,)),
    ],
    "Qwen/Qwen3-4B": [
        (1, (V, 2560)),
        (36, (4096, 2560)), (72, (1024, 2560)), (36, (2560, 4096)), (72, (128,)),
        (72, (9728, 2560)), (36, (2560, 9728)),
        (72, (2560,)), (1, (2560,)),
    ],
    "Qwen/Qwen3-8B": [
        (2, (V, 4096)),  # embedding and LM head
        (36, (4096, 4096)), (72, (1024, 4096)), (36, (4096, 4096)), (72, (128,)),
        (72, (12288, 4096)), (36, (4096, 12288)),
        (72, (4096,)), (1, (4096,)),
    ],
    "Qwen/Qwen3-14B": [
        (2, (V, 5120)),
        (40, (5120, 5120)), (80, (1024, 5120)), (40, (5120, 5120)), (80, (128,)),
        (80, (17408, 5120)), (40, (5120, 17408)),
        (80, (5120,)), (1, (5120,)),
    ],
    "Qwen/Qwen3-32B": [
        (2, (V, 5120)),
        (64, (8192, 5120)), (128, (1024, 5120)), (64, (5120, 8192)), (128, (128,)),
        (128, (25600, 5120)), (64, (5120, 25600)),
        (128, (5120,)), (1, (5120,)),
    ],
    "Qwen/Qwen3-30B-A3B": [
        (2, (V, 2048)),
        (48, (4096, 2048)), (96, (512, 2048)), (48, (2048, 4096)), (96, (128,)),
        (48, (128, 2048)),  # router
        (48 * 128 * 2, (768, 2048)), (48 * 128, (2048, 768)),  # experts
        (96, (2048,)), (1, (2048,)),
    ],
    "Qwen/Qwen3-235B-A22B": [
        (2, (V, 4096)),
        (94, (8192, 4096)), (188, (512, 4096)), (94, (4096, 8192)), (188, (128,)),
        (94, (128, 4096)),
        (94 * 128 * 2, (1536, 4096)), (94 * 128, (4096, 1536)),
        (188, (4096,)), (1, (4096,)),
    ],
    "meta-llama/Meta-Llama-3.1-8B": [
        (2, (128_256, 4096)),
        (32, (4096, 4096)), (64, (1024, 4096)), (32, (4096, 4096)),
        (64, (14336, 4096)), (32, (4096, 14336)),
        (64, (4096,)), (1, (4096,)),
    ],
    "meta-llama/Meta-Llama-3.1-70B": [
        (2, (128_256, 8192)),
        (80, (8192, 8192)), (160, (1024, 8192)), (80, (8192, 8192)),
        (160, (28672, 8192)), (80, (8192, 28672)),
        (160, (8192,)), (1, (8192,)),
    ],
    "meta-llama/Meta-Llama-3.1-405B": [
        (2, (128_256, 16384)),
        (126, (16384, 16384)), (252, (1024, 16384)), (126, (16384, 16384)),
        (252, (53248, 16384)), (126, (16384, 53248)),
        (252, (16384,)), (1, (16384,)),
    ],
    "mistralai/Mixtral-8x7B-v0.1": [
        (2, (32_000, 4096)),
        (32, (4096, 4096)), (64, (1024, 4096)), (32, (4096, 4096)),
        (32, (8, 4096)),
        (32 * 8 * 2, (14336, 4096)), (32 * 8, (4096, 14336)),
        (64, (4096,)), (1, (4096,)),
    ],
    "openai/gpt-oss-120b": [
        (2, (201_088, 2880)),
        (36, (4096, 2880)), (72, (512, 2880)), (36, (2880, 4096)),  # 64 and 8 heads of 64
        (36, (4096,)), (72, (512,)), (36, (2880,)), (36, (64,)),  # biases of q; k and v; o; a sink for each head
        (36, (128, 2880)), (36, (128,)),  # router and its bias
        (36 * 128, (5760, 2880)), (36 * 128, (2880, 2880)),  # experts: gate and up together, down
        (36 * 128, (5760,)), (36 * 128, (2880,)),  # their biases
        (72, (2880,)), (1, (2880,)),
    ],
    "openai/gpt-oss-20b": [
        (2, (201_088, 2880)),
        (24, (4096, 2880)), (48, (512, 2880)), (24, (2880, 4096)),
        (24, (4096,)), (48, (512,)), (24, (2880,)), (24, (64,)),
        (24, (32, 2880)), (24, (32,)),
        (24 * 32, (5760, 2880)), (24 * 32, (2880, 2880)), (24 * 32, (5760,)), (24 * 32, (2880,)),
        (48, (2880,)), (1, (2880,)),
    ],
    "MiniMaxAI/MiniMax-M2.5": [
        (2, (200_064, 3072)),
        (62, (6144, 3072)), (124, (1024, 3072)), (62, (3072, 6144)),  # 48 and 8 heads of 128
        (62, (6144,)), (62, (1024,)),  # q and k norm, over all heads together
        (62, (256, 3072)), (62, (256,)),  # router, and a bias to choose by
        (62 * 256 * 2, (1536, 3072)), (62 * 256, (3072, 1536)),
        (124, (3072,)), (1, (3072,)),
    ],
    "deepseek-ai/DeepSeek-R1": [
        (2, (129_280, 7168)),
        (61, (1536, 7168)), (61, (1536,)), (61, (24_576, 1536)),  # q_a, its norm, q_b: 128 heads of 128 + 64
        (61, (576, 7168)), (61, (512,)), (61, (32_768, 512)),  # kv_a: 512 + 64, its norm, kv_b: 128 x (128 + 128)
        (61, (7168, 16_384)),  # o: 128 heads of 128
        (6, (18_432, 7168)), (3, (7168, 18_432)),  # the dense MLPs of the first three layers
        (58, (256, 7168)), (58, (256,)),  # router, and a bias to choose by
        (58 * 257 * 2, (2048, 7168)), (58 * 257, (7168, 2048)),  # 256 experts and a shared one
        (122, (7168,)), (1, (7168,)),
    ],
    "moonshotai/Kimi-K2.5": [  # without what turns pictures into tokens
        (2, (163_840, 7168)),
        (61, (1536, 7168)), (61, (1536,)), (61, (12_288, 1536)),  # 64 heads
        (61, (576, 7168)), (61, (512,)), (61, (16_384, 512)),
        (61, (7168, 8192)),
        (2, (18_432, 7168)), (1, (7168, 18_432)),
        (60, (384, 7168)), (60, (384,)),
        (60 * 385 * 2, (2048, 7168)), (60 * 385, (7168, 2048)),
        (122, (7168,)), (1, (7168,)),
    ],
    "zai-org/GLM-5": [
        (2, (154_880, 6144)),
        (78, (2048, 6144)), (78, (2048,)), (78, (16_384, 2048)),  # 64 heads of 192 + 64
        (78, (576, 6144)), (78, (512,)), (78, (28_672, 512)),  # 64 x (192 + 256)
        (78, (6144, 16_384)),
        (78, (4096, 2048)), (78, (128, 6144)), (156, (128,)), (78, (32, 6144)),  # indexer: 32 heads of 128
        (6, (12_288, 6144)), (3, (6144, 12_288)),
        (75, (256, 6144)), (75, (256,)),
        (75 * 257 * 2, (2048, 6144)), (75 * 257, (6144, 2048)),
        (156, (6144,)), (1, (6144,)),
    ],
    "Qwen/Qwen3.5-397B-A17B": [  # 45 layers of linear attention, 15 with softmax
        (2, (248_320, 4096)),
        (45, (12_288, 4096)), (45, (8192, 4096)), (90, (64, 4096)),  # q, k and v: 2 x 16 x 128 + 64 x 128; z; b and a
        (45, (12_288, 4)), (90, (64,)), (45, (128,)),  # convolution; decay and its bias; norm of a head
        (45, (4096, 8192)),
        (15, (16_384, 4096)), (30, (512, 4096)), (15, (4096, 8192)), (30, (256,)),  # 32 heads of 256 and their gate
        (60, (512, 4096)), (60, (1, 4096)),  # router, and the gate of the shared expert
        (60 * 513 * 2, (1024, 4096)), (60 * 513, (4096, 1024)),
        (120, (4096,)), (1, (4096,)),
    ],
}  # fmt: skip
TENSORS["deepseek-ai/DeepSeek-V3"] = TENSORS["deepseek-ai/DeepSeek-R1"]
TENSORS["deepseek-ai/DeepSeek-V3.2"] = [
    *TENSORS["deepseek-ai/DeepSeek-R1"],
    # The indexer: its queries, a key, the key's norm, and the heads' weights.
    (61, (8192, 1536)), (61, (128, 7168)), (122, (128,)), (61, (64, 7168)),
]  # fmt: skip
TENSORS["Qwen/Qwen3-235B-A22B-FP8"] = TENSORS["Qwen/Qwen3-235B-A22B"]  # its block scales are no parameters

PUBLISHED = {  # exact totals of the published checkpoints
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "meta-llama/Meta-Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Meta-Llama-3.1-70B": 70_553_706_496,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
}

# Billions, all and active, as published; to be met to 0.5 %, or to one in the last digit given (which some cut).
CARDS = {
    "openai/gpt-oss-120b": ("116.83", "5.13"),  # model card, arXiv 2508.10925, table 1: embeddings are not active
    "openai/gpt-oss-20b": ("20.91", "3.61"),
    "MiniMaxAI/MiniMax-M2.5": ("229", "10"),  # model card of MiniMax-M2.5; MiniMax-M2's says 230 and 10
    "Qwen/Qwen3-235B-A22B": ("235", "22"),  # model cards; Qwen3 technical report, arXiv 2505.09388, table 2
    "Qwen/Qwen3-235B-A22B-FP8": ("235", "22"),
    "Qwen/Qwen3-30B-A3B": ("30.5", "3.3"),
    # README_WEIGHTS of DeepSeek-V3: 671 B, of which 36.7 B are active; the model card says 37.
    "deepseek-ai/DeepSeek-V3": ("671", "36.7"),
    "deepseek-ai/DeepSeek-R1": ("671", "37"),
    "deepseek-ai/DeepSeek-V3.2": ("671", "37"),
    "moonshotai/Kimi-K2.5": ("1030", "32"),  # "1T"; Kimi K2's report, arXiv 2507.20534, table 2, says 1.04 T and 32.6 B
    "zai-org/GLM-5": ("744", "40"),  # model card
    "Qwen/Qwen3.5-397B-A17B": ("397", "17"),  # model card; the published 397 B see as well, 0.5 B of them
    "mistralai/Mixtral-8x7B-v0.1": ("46.7", "12.9"),  # Mistral AI's announcement, December 2023
}

# Bytes of published checkpoints, in the digits that are given.
CHECKPOINTS = {
    "openai/gpt-oss-120b": (60.8 * 2**30, 0.05 * 2**30),  # model card, table 1
    "openai/gpt-oss-20b": (12.8 * 2**30, 0.05 * 2**30),
    "MiniMaxAI/MiniMax-M2.5": (214.32 * 2**30, 0.005 * 2**30),  # sum of its tensors (the same as of MiniMax-M2.7)
    "moonshotai/Kimi-K2.5": (595e9, 1.5e9),  # 595 GB with what turns pictures into tokens, 0.5 B parameters
}

NON_EMBEDDING = {  # billions, as on the model cards
    "Qwen/Qwen3-0.6B": 0.44,
    "Qwen/Qwen3-1.7B": 1.4,
    "Qwen/Qwen3-4B": 3.6,
    "Qwen/Qwen3-8B": 6.95,
    "Qwen/Qwen3-14B": 13.2,
    "Qwen/Qwen3-32B": 31.2,
    "Qwen/Qwen3-30B-A3B": 29.9,
    "Qwen/Qwen3-235B-A22B": 234,
}

# Bytes of one token's keys and values in bf16: 2 (K and V) x layers x KV heads x head_dim x 2 bytes
KV_BYTES = {
    "Qwen/Qwen3-0.6B": 114_688,  # 2 x 28 x 8 x 128 x 2
    "Qwen/Qwen3-1.7B": 114_688,  # 2 x 28 x 8 x 128 x 2
    "Qwen/Qwen3-4B": 147_456,  # 2 x 36 x 8 x 128 x 2
    "Qwen/Qwen3-8B": 147_456,  # 2 x 36 x 8 x 128 x 2
    "Qwen/Qwen3-14B": 163_840,  # 2 x 40 x 8 x 128 x 2
    "Qwen/Qwen3-32B": 262_144,  # 2 x 64 x 8 x 128 x 2
    "Qwen/Qwen3-30B-A3B": 98_304,  # 2 x 48 x 4 x 128 x 2
    "Qwen/Qwen3-235B-A22B": 192_512,  # 2 x 94 x 4 x 128 x 2
    "Qwen/Qwen3-235B-A22B-FP8": 192_512,
    "meta-llama/Meta-Llama-3.1-8B": 131_072,  # 2 x 32 x 8 x 128 x 2
    "meta-llama/Meta-Llama-3.1-70B": 327_680,  # 2 x 80 x 8 x 128 x 2
    "meta-llama/Meta-Llama-3.1-405B": 516_096,  # 2 x 126 x 8 x 128 x 2
    "mistralai/Mixtral-8x7B-v0.1": 131_072,  # 2 x 32 x 8 x 128 x 2
    "openai/gpt-oss-120b": 73_728,  # 2 x 36 x 8 x 64 x 2, half of it in layers with a window of 128
    "openai/gpt-oss-20b": 49_152,  # 2 x 24 x 8 x 64 x 2
    "MiniMaxAI/MiniMax-M2.5": 253_952,  # 2 x 62 x 8 x 128 x 2
    "deepseek-ai/DeepSeek-V3": 70_272,  # 61 x (512 + 64) x 2
    "deepseek-ai/DeepSeek-R1": 70_272,
    "deepseek-ai/DeepSeek-V3.2": 78_324,  # 61 x ((512 + 64) x 2 + 128 + 4): an indexer's key in fp8 with its scale
    "moonshotai/Kimi-K2.5": 70_272,  # 61 x (512 + 64) x 2
    "zai-org/GLM-5": 100_152,  # 78 x ((512 + 64) x 2 + 128 + 4)
    "Qwen/Qwen3.5-397B-A17B": 30_720,  # 2 x 15 x 2 x 256 x 2: a quarter of 60 layers
}
KV_BYTES_FP8 = {  # those that are not half as large
    "deepseek-ai/DeepSeek-V3.2": 48_068,  # 61 x (512 + 4 x 4 + 64 x 2 + 132): 656 bytes, and the indexer's key
    "zai-org/GLM-5": 61_464,  # 78 x (656 + 132)
}


@pytest.mark.parametrize("name", list_models())
def test_parameters_are_the_sum_of_the_tensors(name: str) -> None:
    by_hand = sum(count * math.prod(shape) for count, shape in TENSORS[name])
    model = load_model(name)
    assert model.parameters == by_hand == sum(model.parameter_counts().values())
    assert model.parameters == PUBLISHED.get(name, by_hand)


@pytest.mark.parametrize("name", CARDS)
def test_parameters_are_those_of_the_model_card(name: str) -> None:
    model = load_model(name)
    for ours, text in zip((model.parameters, model.active_parameters), CARDS[name], strict=True):
        digits = len(text.partition(".")[2])
        assert ours / 1e9 == pytest.approx(float(text), rel=0.005, abs=10**-digits)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bytes_are_those_of_the_checkpoint(name: str) -> None:
    published, last_digit = CHECKPOINTS[name]
    assert load_model(name).weight_bytes() == pytest.approx(published, abs=last_digit)


def test_tensors_of_minimax_with_their_scales() -> None:
    """What its page counts as parameters, 228,703,644,928, has the blocks' scales among them."""
    attention = 62 * (2 * 48 * 24 + 2 * 8 * 24)
    experts = 62 * 256 * 3 * 12 * 24
    model = load_model("minimax-m2.5")
    assert model.parameters + attention + experts == 228_703_644_928
    assert model.weight_bytes_by_format()["fp8_block"] == 227_410_968_576 + 4 * (attention + experts)


@pytest.mark.parametrize("name", NON_EMBEDDING)
def test_parameters_without_embeddings_round_to_the_model_card(name: str) -> None:
    counts = load_model(name).parameter_counts()
    billions = (sum(counts.values()) - counts["embedding"] - counts["lm_head"]) / 1e9
    assert float(f"{billions:.3g}") == pytest.approx(NON_EMBEDDING[name], rel=0.015)


@pytest.mark.parametrize("name", list_models())
def test_kv_bytes_per_token(name: str) -> None:
    model = load_model(name)
    assert model.kv_bytes_per_token("bf16") == KV_BYTES[name] == model.kv_bytes_per_token()
    assert model.kv_bytes_per_token("fp8") == KV_BYTES_FP8.get(name, KV_BYTES[name] / 2)


def test_active_parameters() -> None:
    # Mixtral: all but 6 of 8 experts, 46,702,792,704 - 32 x 6 x 3 x 4096 x 14336
    assert load_model("mixtral-8x7b").active_parameters == 12_879_925_248
    # Qwen3-30B-A3B: 30,532,122,624 - 48 x 120 x 3 x 2048 x 768; the model card says 3.3 B
    assert load_model("qwen3-30b-a3b").active_parameters == 3_353_032_704
    dense = load_model("qwen3-8b")
    assert dense.active_parameters == dense.parameters


def test_parts_of_a_mixture() -> None:
    counts = load_model("qwen3-30b-a3b").parameter_counts()
    assert counts["router"] == 48 * 128 * 2048
    assert counts["experts"] == 48 * 128 * 3 * 2048 * 768
    assert counts["mlp"] == 0
    assert load_model("qwen3-0.6b").parameter_counts()["lm_head"] == 0


def test_weight_bytes() -> None:
    model = load_model("qwen3-8b")
    assert model.weight_bytes() == model.weight_bytes("bf16") == 16_381_470_720
    assert model.weight_bytes("fp8") == 8_190_735_360
    assert model.weight_bytes("fp4") == 4_095_367_680
    with pytest.raises(InputError, match="unknown number format"):
        model.weight_bytes("fp7")


def test_a_quantised_checkpoint() -> None:
    model = load_model("qwen3-235b-a22b-fp8")
    assert (model.dtype, model.weight_dtype, model.activation_dtype) == ("bf16", "fp8", "fp8")
    assert model.formats == PartFormats("fp8_block", "fp8_block", "fp8_block")
    # Attention's projections and experts with a fp32 scale for 128 x 128; the rest in two bytes.
    matrices = 94 * (2 * 8192 * 4096 + 2 * 512 * 4096) + 94 * 128 * 3 * 1536 * 4096
    assert model.weight_bytes_by_format() == {
        "fp8_block": matrices * (1 + 4 / 16384),
        "bf16": 2 * (model.parameters - matrices),
    }
    assert model.weight_bytes("fp8") == 235_093_634_560


def test_a_checkpoint_with_formats_by_part() -> None:
    model = load_model("gpt-oss-120b")
    assert (model.dtype, model.weight_dtype, model.activation_dtype) == ("bf16", "bf16", "bf16")
    assert model.formats == PartFormats(experts="w4a16_mxfp4")
    matrices = 36 * 128 * 3 * 2880 * 2880  # without their biases
    sizes = model.weight_bytes_by_format()
    assert sizes == {"bf16": 2 * (116_829_156_672 - matrices), "w4a16_mxfp4": matrices * 17 / 32}
    assert matrices / model.parameters == pytest.approx(0.98145, abs=1e-5)
    assert sizes["w4a16_mxfp4"] / sum(sizes.values()) == pytest.approx(0.93356, abs=1e-5)
    assert load_model({"base": "gpt-oss-120b", "quantization_config": None}).weight_bytes() == 2 * model.parameters


def test_what_is_particular_to_gpt_oss() -> None:
    model = load_model("gpt-oss-20b")
    assert model.layer_windows == (128, None) * 12 and model.head_dim == 64
    assert model.attention_bias and model.output_bias and model.attention_sinks and not model.qk_norm
    assert model.moe is not None and (model.moe.experts, model.moe.top_k) == (32, 4)
    assert model.moe.bias and model.moe.router_bias and model.linear_parts == ("attention", "experts")


def test_what_is_particular_to_minimax() -> None:
    model = load_model("minimax-m2.5")
    assert (model.rotary_dim, model.head_dim) == (64, 128)
    assert model.qk_norm and model.qk_norm_across_heads and not model.attention_sinks
    assert model.moe is not None and (model.moe.experts, model.moe.top_k, model.moe.intermediate) == (256, 8, 1536)
    assert model.moe.router_bias and model.moe.router_dtype == "fp32" and model.layer_windows == (None,) * 62
    bare = load_model({"base": "minimax-m2.5", "use_qk_norm": False, "use_routing_bias": False})
    assert model.parameters - bare.parameters == 62 * (6144 + 1024 + 256)


def test_what_is_particular_to_latent_attention() -> None:
    model = load_model("deepseek-r1")
    assert model.latent == Latent(kv_rank=512, rope_dim=64, nope_dim=128, value_dim=128, q_rank=1536)
    assert (model.q_heads, model.kv_heads, model.head_dim, model.rotary_dim) == (128, 128, 192, 64)
    assert model.latent.head_dim == 192 and model.output_width == 128 * 128 and model.draft_layers == 1
    assert model.state_bytes() == 0 and model.kv_layers == 61
    moe = model.moe
    assert moe is not None and moe.moe_layers == (False,) * 3 + (True,) * 58 and moe.shared_intermediate == 2048
    assert moe.balanced and moe.router_bias and (moe.groups, moe.top_groups) == (8, 4)
    kimi, glm = load_model("kimi-k2.5").moe, load_model("glm-5").moe
    assert kimi is not None and glm is not None and kimi.groups == glm.groups == 1
    # V2-Lite projects queries at once: 7168 x 24,576 in place of 7168 x 1536, 1536 x 24,576 and a norm of 1536.
    direct = load_model({"base": "deepseek-r1", "q_lora_rank": None}).parameters
    assert direct - model.parameters == 61 * (7168 * 24_576 - 1536 * (7168 + 24_576 + 1))


def test_what_is_particular_to_sparse_attention() -> None:
    model = load_model("deepseek-v3.2")
    assert model.latent is not None and model.latent.indexer == Indexer(heads=64, head_dim=128, top_k=2048)
    assert model.latent.indexer.key_bytes == 132 and model.latent.key_bytes("fp8") == 656
    assert model.latent.key_bytes("bf16") == 1152 == load_model("deepseek-r1").latent.key_bytes("bf16")  # type: ignore[union-attr]
    # Of 671.9 B parameters 0.85 B are the indexers'.
    indexers = model.parameters - load_model("deepseek-v3").parameters
    assert indexers == 61 * (8192 * 1536 + 128 * 7168 + 256 + 64 * 7168)


def test_what_is_particular_to_linear_attention() -> None:
    model = load_model("qwen3.5-397b-a17b")
    assert model.linear == GatedDelta(k_heads=16, v_heads=64, k_head_dim=128, v_head_dim=128, conv_width=4)
    assert model.layer_linear == (True, True, True, False) * 15 and (model.linear_layers, model.kv_layers) == (45, 15)
    assert model.linear.channels == 12_288 and model.output_gate and model.rotary_dim == 64 and model.qk_norm
    assert model.moe is not None and model.moe.shared_gate and model.moe.shared_intermediate == 1024
    # A sequence's states: 64 matrices of 128 x 128 in fp32 and three inputs of 12,288 channels in bf16 a layer.
    assert model.state_bytes() == 45 * (64 * 128 * 128 * 4 + 3 * 12_288 * 2) == 192_061_440
    narrow = load_model({"base": "qwen3.5-397b-a17b", "mamba_ssm_dtype": "bfloat16"})
    assert narrow.state_bytes() == 45 * (64 * 128 * 128 * 2 + 3 * 12_288 * 2)
    assert load_model("qwen3-8b").state_bytes() == 0
    by_interval = load_model({"base": "qwen3.5-397b-a17b", "layer_types": None})
    assert by_interval.layer_linear == model.layer_linear


LITE = {  # DeepSeek-V2-Lite: queries are projected at once, and two experts are shared
    "architectures": ["DeepseekV2ForCausalLM"], "torch_dtype": "bfloat16", "num_hidden_layers": 27, "hidden_size": 2048,
    "intermediate_size": 10_944, "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": None,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64,
    "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "first_k_dense_replace": 1,
    "moe_layer_freq": 1, "topk_method": "greedy", "n_group": 1, "topk_group": 1, "norm_topk_prob": False,
    "vocab_size": 102_400, "max_position_embeddings": 163_840, "tie_word_embeddings": False,
}  # fmt: skip
NEXT = {  # Qwen3-Next-80B-A3B
    "architectures": ["Qwen3NextForCausalLM"], "torch_dtype": "bfloat16", "num_hidden_layers": 48, "hidden_size": 2048,
    "intermediate_size": 5120, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
    "full_attention_interval": 4, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "partial_rotary_factor": 0.25, "num_experts": 512,
    "num_experts_per_tok": 10, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "vocab_size": 151_936, "max_position_embeddings": 262_144,
    "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "parameters", "active"),
    [
        (LITE, 15.7, 2.4),  # arXiv 2405.04434, appendix B
        (LITE | {  # DeepSeek-V2, section 3.1
            "num_hidden_layers": 60, "hidden_size": 5120, "intermediate_size": 12_288, "num_attention_heads": 128,
            "q_lora_rank": 1536, "n_routed_experts": 160, "moe_intermediate_size": 1536, "n_group": 8, "topk_group": 3,
            "topk_method": "group_limited_greedy",
        }, 236, 21),
        (NEXT, 80, 3.9),  # model card: 80 B and, without its two tables of 0.3 B, 3 B
    ],
    ids=["DeepSeek-V2-Lite", "DeepSeek-V2", "Qwen3-Next"],
)  # fmt: skip
def test_models_of_the_same_kinds_that_are_not_bundled(config: dict, parameters: float, active: float) -> None:
    model = load_model(config)
    assert model.parameters / 1e9 == pytest.approx(parameters, rel=0.006)
    assert model.active_parameters / 1e9 == pytest.approx(active, rel=0.03)
    assert model.moe is not None and model.moe.top_groups == config.get("topk_group", 1)


def test_bytes_of_latent_models_by_part() -> None:
    r1 = load_model("deepseek-r1")
    assert r1.formats == PartFormats("fp8_block", "fp8_block", "fp8_block")
    # All matrices but embedding, head and routers in fp8 by blocks; with norms 3.8 GB in bf16.
    rest = 2 * 129_280 * 7168 + 58 * 257 * 7168 // 257 * 256 + 58 * 256 + 61 * (2 * 7168 + 1536 + 512) + 7168
    assert r1.weight_bytes_by_format() == {
        "fp8_block": (r1.parameters - rest) * (1 + 4 / 16384),
        "bf16": 2 * rest,
    }
    kimi = load_model("kimi-k2.5")
    assert kimi.formats == PartFormats(experts="int4_wo_32") and kimi.dtype == "bf16"
    experts = 60 * 384 * 3 * 2048 * 7168
    assert kimi.weight_bytes_by_format()["int4_wo_32"] == experts * (0.5 + 2 / 32)


def test_overrides_reach_into_the_text_model() -> None:
    """A key beside `text_config` and one inside of it say the same."""
    model = load_model({"base": "kimi-k2.5", "num_hidden_layers": 30})
    assert model.layers == 30 and model.hidden == 7168
    assert load_model({"base": "kimi-k2.5", "text_config": {"num_hidden_layers": 30}}) == model
    assert load_model({"base": "kimi-k2.5", "quantization_config": None}).formats == PartFormats()
    whole = {**model.config, "name": model.name}
    assert load_model(whole) == model


def test_every_bundled_model_is_covered_and_readable() -> None:
    assert set(list_models()) == set(TENSORS) == set(KV_BYTES)
    assert len(list(MODEL_FOLDER.glob("*.json"))) == len(list_models())


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("qwen3-8b", "Qwen/Qwen3-8B"),
        ("QWEN/QWEN3-8B", "Qwen/Qwen3-8B"),
        ("llama-3.1-8b", "meta-llama/Meta-Llama-3.1-8B"),
        ("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1"),
        ("qwen3-235b-a22b", "Qwen/Qwen3-235B-A22B"),  # and not the one with -FP8
    ],
)
def test_names(spec: str, name: str) -> None:
    assert load_model(spec).name == name == find_model(spec)


def config(**changes: object) -> dict:
    """A small Qwen3 configuration; None takes a key away."""
    return {key: value for key, value in (DENSE | changes).items() if value is not None}


def test_path_folder_and_mapping(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    path = folder / "config.json"
    path.write_text(json.dumps(config()))
    by_path, by_folder = load_model(path), load_model(str(folder))
    assert by_path == by_folder == load_model("my-model", relative_to=tmp_path)
    assert by_path.name == "my-model" and by_path.origin == str(path)
    assert load_model(config() | {"name": "my-model"}) == by_path


def test_overrides() -> None:
    model = load_model({"base": "qwen3-8b", "num_hidden_layers": 40})
    assert model.layers == 40 and model.hidden == 4096 and model.name == "Qwen/Qwen3-8B (modified)"
    assert load_model({"base": "qwen3-8b", "name": "mine", "num_hidden_layers": 40}).name == "mine"


def test_qwen2_has_biases_on_q_k_and_v_alone() -> None:
    # q: 4 heads of 16 = 64; k and v: 2 heads = 32 each
    plain = load_model(config()).parameter_counts()["attention"]
    biased = load_model(config(architectures=["Qwen2ForCausalLM"]))
    assert biased.parameter_counts()["attention"] == plain + 4 * (64 + 32 + 32)
    assert biased.attention_bias and not biased.output_bias and not biased.qk_norm


def test_llama_biases() -> None:
    llama = config(architectures=["LlamaForCausalLM"])
    plain = load_model(llama).parameter_counts()
    biased = load_model(llama | {"attention_bias": True, "mlp_bias": True}).parameter_counts()
    assert biased["attention"] == plain["attention"] + 4 * (64 + 32 + 32 + 64)
    assert biased["mlp"] == plain["mlp"] + 4 * (96 + 96 + 64)


def test_llama_without_kv_heads_has_one_for_each_head() -> None:
    assert load_model(config(architectures=["LlamaForCausalLM"], num_key_value_heads=None)).kv_heads == 4


def test_head_dim_follows_from_the_hidden_size() -> None:
    assert load_model(config(architectures=["LlamaForCausalLM"], head_dim=None)).head_dim == 16
    assert load_model(config(head_dim=None)).head_dim == 128  # Qwen3's own default


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, (None,) * 4),
        ({"sliding_window": 32}, (None,) * 4),  # not without use_sliding_window
        ({"sliding_window": 32, "use_sliding_window": False, "max_window_layers": 2}, (None,) * 4),
        ({"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 2}, (None, None, 32, 32)),
        ({"sliding_window": 32, "use_sliding_window": True}, (None,) * 4),  # the first 28 layers see everything
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 32}, (32,) * 4),
        ({"architectures": ["MistralForCausalLM"]}, (None,) * 4),
        (
            {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
            (8, None, 8, None),
        ),
    ],
)
def test_sliding_windows(changes: dict, windows: tuple) -> None:
    assert load_model(config(**changes)).layer_windows == windows


def moe(**changes: object) -> dict:
    mixture = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return config(architectures=["Qwen3MoeForCausalLM"], **(mixture | changes))


def test_layers_with_and_without_experts() -> None:
    model = load_model(moe(decoder_sparse_step=2, mlp_only_layers=[3]))
    assert model.moe is not None and model.moe.moe_layers == (False, True, False, False)
    counts = model.parameter_counts()
    assert counts["mlp"] == 3 * 3 * 64 * 96
    assert counts["experts"] == 8 * 3 * 64 * 32
    assert model.active_parameters == model.parameters - 6 * 3 * 64 * 32


BAD = [
    (config(architectures=["MambaForCausalLM"]), "architectures", "MambaForCausalLM", "Qwen3ForCausalLM"),
    (config(architectures=None), "architectures", None, "LlamaForCausalLM"),
    (config(architectures=[]), "architectures", "[]", "LlamaForCausalLM"),
    (config(hidden_size=None), "hidden_size", None, "an integer from 1"),
    (config(hidden_size=-64), "hidden_size", "-64", "an integer from 1"),
    (config(hidden_size=10**12), "hidden_size", "1000000000000", "to 1,000,000"),
    (config(num_hidden_layers=4.5), "num_hidden_layers", "4.5", "an integer"),
    (config(num_hidden_layers=True), "num_hidden_layers", "True", "an integer"),
    (config(num_hidden_layers="4"), "num_hidden_layers", "4", "an integer"),
    (config(num_key_value_heads=3), "num_key_value_heads", "3", "a divisor of num_attention_heads = 4"),
    (
        config(architectures=["LlamaForCausalLM"], head_dim=None, num_attention_heads=6),
        "num_attention_heads", "6", "a divisor of hidden_size = 64",
    ),
    (config(vocab_size=0), "vocab_size", "0", "an integer from 1"),
    (config(torch_dtype=None), "torch_dtype", None, "bfloat16, float16, float32"),
    (config(torch_dtype="float7"), "torch_dtype", "float7", "bfloat16"),
    (config(tie_word_embeddings="yes"), "tie_word_embeddings", "yes", "true or false"),
    (config(quantization_config={"quant_method": "hqq"}), "quantization_config", "hqq", "fp8"),
    (
        config(quantization_config={"quant_method": "fp8", "weight_block_size": [64, 64]}),
        "quantization_config", "[64, 64]", "[128, 128]",
    ),
    ({"base": "minimax-m2.5", "rotary_dim": 256}, "rotary_dim", "256", "at most head_dim = 128"),
    ({"base": "minimax-m2.5", "qk_norm_type": "per_head"}, "qk_norm_type", "per_head", "per_layer"),
    ({"base": "gpt-oss-20b", "num_experts_per_tok": 64}, "num_experts_per_tok", "64", "at most 32"),
    (config(layer_types=["full_attention"]), "layer_types", "full_attention", "one for each of 4 layers"),
    (config(layer_types=["linear_attention"] * 4), "layer_types", "linear_attention", "full_attention"),
    (moe(num_experts_per_tok=9), "num_experts_per_tok", "9", "at most 8"),
    (moe(mlp_only_layers=[4]), "mlp_only_layers", "4", "0 to 3"),
    (moe(mlp_only_layers=[True]), "mlp_only_layers", "True", "a list of layer numbers"),
    (config(hidden_size=float("nan")), "hidden_size", "nan", "a number"),
    ({"base": "deepseek-r1", "kv_lora_rank": None}, "kv_lora_rank", None, "an integer from 1"),
    ({"base": "deepseek-r1", "qk_rope_head_dim": 0}, "qk_rope_head_dim", "0", "an integer from 1"),
    ({"base": "deepseek-r1", "num_experts_per_tok": 300}, "num_experts_per_tok", "300", "at most 256"),
    ({"base": "deepseek-r1", "n_group": 7}, "n_group", "7", "a divisor of 256"),
    ({"base": "deepseek-r1", "topk_group": 9}, "topk_group", "9", "at most n_group = 8"),
    ({"base": "deepseek-r1", "topk_method": "best"}, "topk_method", "best", "noaux_tc"),
    ({"base": "glm-5", "index_topk": None}, "index_topk", None, "an integer from 1"),
    ({"base": "glm-5", "index_topk_freq": 4}, "index_topk_freq", "4", "nothing, or 1"),
    ({"base": "glm-5", "q_lora_rank": None}, "q_lora_rank", None, "an integer"),
    ({"base": "kimi-k2.5", "hidden_size": "wide"}, "hidden_size", "wide", "an integer"),
    (
        {"base": "kimi-k2.5", "text_config": {"num_experts_per_tok": 500}},
        "text_config.num_experts_per_tok", "500", "at most 384",
    ),
    ({"base": "kimi-k2.5", "text_config": 3}, "text_config", "3", "a mapping"),
    (config(architectures=["KimiK25ForConditionalGeneration"]), "text_config", None, "a mapping"),
    (
        {"base": "qwen3.5-397b-a17b", "layer_types": ["sliding_attention"] * 60},
        "layer_types", "sliding_attention", "linear_attention, full_attention",
    ),
    ({"base": "qwen3.5-397b-a17b", "layer_types": ["linear_attention"] * 60}, "layer_types", "linear", "at least one"),
    ({"base": "qwen3.5-397b-a17b", "layer_types": ["full_attention"]}, "layer_types", "full", "60 layers"),
    ({"base": "qwen3.5-397b-a17b", "linear_num_value_heads": 40}, "linear_num_value_heads", "40", "a multiple of"),
    ({"base": "qwen3.5-397b-a17b", "mamba_ssm_dtype": "fp12"}, "mamba_ssm_dtype", "fp12", "float32"),
    (
        {"base": "qwen3.5-397b-a17b", "rope_parameters": {"partial_rotary_factor": 2}},
        "rope_parameters.partial_rotary_factor", "2", "at most 1",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("data", "place", "found", "allowed"), BAD)
def test_bad_configurations_say_where_what_and_what_is_allowed(
    data: dict, place: str, found: str | None, allowed: str
) -> None:
    with pytest.raises(InputError) as error:
        load_model(data, origin="s.yaml")
    assert error.value.file == "s.yaml" and error.value.place == f"model.{place}"
    assert (error.value.found is None) == (found is None) and (found or "") in str(error.value.found)
    assert allowed in str(error.value)


def test_a_bad_value_in_a_nested_part_of_a_file_has_its_line(tmp_path: Path) -> None:
    """Of two keys of the same name it is the one inside of `text_config` that is named."""
    path = tmp_path / "config.json"
    text = json.loads((MODEL_FOLDER / "Qwen--Qwen3.5-397B-A17B.json").read_text())
    data = {"hidden_size": 1, **text, "text_config": text["text_config"] | {"hidden_size": -1}}
    path.write_text(json.dumps(data, indent=2))
    line = path.read_text().splitlines().index('    "hidden_size": -1,') + 1
    with pytest.raises(InputError) as error:
        load_model(path)
    assert (error.value.file, error.value.line, error.value.place) == (path, line, "text_config.hidden_size")


def test_a_bad_value_in_a_file_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config(num_key_value_heads=3), indent=2))
    line = path.read_text().splitlines().index('  "num_key_value_heads": 3,') + 1
    with pytest.raises(InputError) as error:
        load_model(path)
    assert (error.value.file, error.value.line, error.value.place) == (path, line, "num_key_value_heads")


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('{\n  "hidden_size": 64,\n  "vocab', 3, "not valid JSON"),
        ("", 1, "empty"),
        ("[1, 2]", 1, "not a JSON object"),
        ('{\n"hidden_size": NaN}', 2, "not a finite number"),
        ('{"rope_theta":\n\n-Infinity}', 3, "not a finite number"),
        ("{" * 100_000, None, "not valid JSON"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, line: int | None, problem: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=problem) as error:
        load_model(path)
    assert error.value.file == path and (line is None or error.value.line == line)


@pytest.mark.parametrize(
    ("spec", "problem", "allowed"),
    [
        ("qwen3-9b", "unknown model", "did you mean"),
        ("8b", "fits several models", "Qwen/Qwen3-8B"),
        ("./nothing/config.json", "no such file", "path of a config.json"),
        (3, "not a model", "path of a config.json"),
        ("", "not a model", "path of a config.json"),
        ({}, "empty model", "base"),
        ({"base": "qwen3-8b", "num_layers": 3}, "unknown key", "num_hidden_layers"),
        ({"base": "qwen3-9b"}, "unknown model", "did you mean"),
        ({"base": "qwen3-8b", "name": 3}, "not a name", "text"),
    ],
)
def test_bad_specs(spec: object, problem: str, allowed: str) -> None:
    with pytest.raises(InputError, match=problem) as error:
        load_model(spec)  # type: ignore[arg-type]
    assert allowed in str(error.value) and str(error.value).startswith("model")


def test_every_architecture_of_the_table_can_be_read() -> None:
    extra = {"num_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    extra |= {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
    extra |= {"n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1}
    extra |= {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 8}
    extra |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_conv_kernel_dim": 4}
    extra |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
    for architecture in ARCHITECTURES:
        shape = config() | extra
        data = {"text_config": shape} if architecture in NESTED else shape
        assert load_model({**data, "architectures": [architecture]}).parameters > 0
