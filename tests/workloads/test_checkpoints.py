"""Checkpoints: what quantisation tools write, and the formats of parts that follow from it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smallmodel import DENSE

from hwspecs.errors import InputError
from workloads.checkpoints import READERS, REFUSED
from workloads.formats import LINEAR_FORMATS, PartFormats
from workloads.model import Model, load_model

MOE = DENSE | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
ALL = ("attention", "mlp", "experts")


def model(shape: dict[str, Any] = DENSE, **quantised: object) -> Model:
    return load_model(shape | {"quantization_config": quantised})


def everywhere(name: str) -> PartFormats:
    return PartFormats(**dict.fromkeys(ALL, name))


def group(weights: dict[str, Any], inputs: dict[str, Any] | None = None, targets: tuple[str, ...] = ("Linear",)) -> Any:
    return {"weights": weights, "input_activations": inputs, "targets": list(targets)}


FP8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
FP8_TOKENS = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
FP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
MXFP4 = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}


# ---- one format for all linear layers --------------------------------------------------------------------------------

WHOLE: list[tuple[dict[str, Any], str]] = [
    ({"quant_method": "fp8"}, "fp8"),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
    ({"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]}, "fp8"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4_wo"),
    ({"quant_method": "gptq", "bits": 8}, "int8_wo"),
    ({"quant_method": "awq", "bits": 4, "modules_to_not_convert": None}, "int4_wo"),
    ({"quant_method": "awq", "w_bit": 4}, "int4_wo"),
    ({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}, "fp8"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}, "nvfp4"),
    ({"quant_method": "modelopt_fp4", "quant_algo": "NVFP4"}, "nvfp4"),
    ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8_PB_WO", "exclude_modules": []}}, "fp8_block"),
    ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, "int4_wo"),
    *(
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": scheme}, "ignore": ["lm_head"]}, name)
        for scheme, name in (
            (group(FP8, FP8_TOKENS), "fp8"),
            (group(FP8 | {"strategy": "block", "block_structure": [128, 128]}, FP8_TOKENS), "fp8_block"),
            (group(FP8), "fp8_wo"),
            (group(INT8, INT8 | {"strategy": "token"}), "int8"),
            (group(INT8), "int8_wo"),
            (group(INT4), "int4_wo"),
            (group(FP4, FP4), "nvfp4"),
            (group(FP4), "nvfp4_wo"),
            (group(MXFP4), "w4a16_mxfp4"),
            (group(MXFP4, FP8_TOKENS), "w4a8_mxfp4_mxfp8"),
        )
    ),
]


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=["dense", "moe"])
@pytest.mark.parametrize(("quantised", "name"), WHOLE, ids=[f"{q['quant_method']}-{n}" for q, n in WHOLE])
def test_one_format_for_all_linear_layers(quantised: dict[str, Any], name: str, shape: dict[str, Any]) -> None:
    found = model(shape, **quantised)
    form = LINEAR_FORMATS[name]
    assert (found.weight_dtype, found.activation_dtype) == (form.weights, form.activations)
    assert found.formats == (PartFormats() if name == "fp8" else everywhere(name))
    # A layer: attention 64 x (2 x 64 + 2 x 32), a dense MLP 3 x 64 x 96, experts 8 x 3 x 64 x 32; else two bytes.
    matrices = 4 * (64 * 192 + (3 * 64 * 96 if shape is DENSE else 8 * 3 * 64 * 32))
    by_hand = matrices * form.weight_bytes + 2 * (found.parameters - matrices)
    assert math.isclose(found.weight_bytes(), by_hand, rel_tol=1e-12)


def test_gpt_oss_has_mxfp4_experts_alone() -> None:
    oss = MOE | {"architectures": ["GptOssForCausalLM"], "num_local_experts": 8}
    found = model(oss, quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn", "lm_head"])
    assert found.formats == PartFormats(experts="w4a16_mxfp4") and found.weight_dtype == "bf16"
    assert model(DENSE, quant_method="mxfp4").formats == PartFormats()


# ---- parts that are left out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "quantised"),
    [
        ([], ALL),
        (["lm_head", "model.layers.0.mlp.gate", "gate", "model.norm"], ALL),  # `gate` is no part of `gate_proj`
        (["model.layers.*.self_attn"], ("experts",)),
        (["model.layers.*.self_attn*", "lm_head"], ("experts",)),
        (["*self_attn*"], ("experts",)),
        (["self_attn"], ("experts",)),
        (["re:.*self_attn.*", "re:.*mlp.gate$"], ("experts",)),
        ([f"model.layers.{i}.self_attn.{p}_proj" for i in range(4) for p in "qkvo"], ("experts",)),
        ([f"model.layers.{i}.self_attn.{p}_proj" for i in range(4) for p in "qkv"], ("experts", "output")),
        ([f"model.layers.{i}.self_attn.{p}_proj" for i in range(4) for p in "kv"], ALL),  # half of q, k and v
        (["model.layers.0.self_attn"], ALL),  # one layer of four
        (["re:.*mlp.experts.*"], ("attention",)),
        (["model.layers.*.mlp.experts*"], ("attention",)),
        ([f"model.layers.{i}.mlp.experts.{e}.up_proj" for i in range(4) for e in range(8)], ("attention",)),
    ],
)
def test_lists_of_modules_left_out(kept: list[str], quantised: tuple[str, ...]) -> None:
    expected = everywhere("nvfp4") if quantised == ALL else PartFormats(**dict.fromkeys(quantised, "nvfp4"))
    assert model(MOE, quant_method="modelopt", quant_algo="NVFP4", exclude_modules=kept).formats == expected
    groups = {"group_0": group(FP4, FP4)}
    tensors = model(MOE, quant_method="compressed-tensors", config_groups=groups, ignore=[*kept, "lm_head"])
    assert tensors.formats == expected


def test_what_is_left_out_keeps_the_models_own_format() -> None:
    found = model(DENSE, quant_method="fp8", modules_to_not_convert=["model.layers.*.self_attn"])
    assert found.formats == PartFormats(mlp="fp8") and found.weight_dtype == "bf16"
    mlp = 4 * 3 * 64 * 96
    assert found.weight_bytes() == mlp + 2 * (found.parameters - mlp)


def test_gptq_by_its_own_list_and_its_head() -> None:
    found = model(DENSE, quant_method="gptq", bits=4, dynamic={"-:.*self_attn.*": {}, "+:.*down.*": {"bits": 4}})
    assert found.formats == PartFormats(mlp="int4_wo")
    assert model(DENSE, quant_method="gptq", bits=4, lm_head=True).formats.head == "int4_wo"
    assert model(DENSE, quant_method="gptq", bits=4, lm_head=False).formats.head is None


def test_groups_of_compressed_tensors_name_their_modules() -> None:
    groups = {
        "group_0": group(FP8, FP8_TOKENS, ("re:.*self_attn.*",)),
        "group_1": group(FP4, FP4, ("re:.*experts.*",)),
    }
    found = model(MOE, quant_method="compressed-tensors", config_groups=groups)
    assert found.formats == PartFormats(attention="fp8", experts="nvfp4")
    whole = {"group_0": group(INT4)}
    assert model(DENSE, quant_method="compressed-tensors", config_groups=whole).formats.head == "int4_wo"
    headless = model(DENSE, quant_method="compressed-tensors", config_groups=whole, ignore=["lm_head"])
    assert headless.formats.head is None


def test_an_algorithm_for_each_module() -> None:
    layers = {f"model.layers.{i}.self_attn.{p}_proj": {"quant_algo": "FP8"} for i in range(4) for p in "qkvo"}
    layers |= {f"model.layers.{i}.mlp.experts.{e}.up_proj": {"quant_algo": "NVFP4"} for i in range(4) for e in range(8)}
    found = model(MOE, quant_method="modelopt", quant_algo="MIXED_PRECISION", quantized_layers=layers)
    assert found.formats == PartFormats(attention="fp8", experts="nvfp4")


# ---- the KV cache ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kv"),
    [
        ({"kv_cache_quant_algo": "FP8"}, "fp8"),
        ({"kv_cache_quant_algo": None}, None),
        ({"kv_cache_scheme": {"num_bits": 8, "type": "float"}}, "fp8"),
        ({}, None),
    ],
)
def test_the_caches_format(said: dict[str, Any], kv: str | None) -> None:
    found = model(DENSE, quant_method="modelopt", quant_algo="FP8", **said)
    assert found.kv_dtype == kv
    # 2 x 4 layers x 2 heads x 16 elements of one byte or two
    assert found.kv_bytes_per_token() == 256 * (1 if kv else 2)
    assert found.kv_bytes_per_token("bf16") == 512


def test_only_the_cache_is_quantised() -> None:
    found = model(DENSE, quant_method="modelopt", quant_algo=None, kv_cache_quant_algo="FP8")
    assert (found.kv_dtype, found.weight_dtype, found.formats) == ("fp8", "bf16", PartFormats())


def test_a_file_beside_the_configuration(tmp_path: Path) -> None:
    """Model Optimizer wrote what it did into a file of its own before engines read `config.json` alone."""
    said = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16, "exclude_modules": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(DENSE))
    assert load_model(tmp_path).formats == PartFormats()
    sidecar = tmp_path / "hf_quant_config.json"
    sidecar.write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": said}))
    found = load_model(tmp_path)
    assert found.formats == everywhere("nvfp4") and found.kv_dtype == "fp8"
    own = DENSE | {"quantization_config": {"quant_method": "fp8"}}  # what the configuration says itself goes before
    (tmp_path / "config.json").write_text(json.dumps(own))
    assert load_model(tmp_path).weight_dtype == "fp8"
    (tmp_path / "config.json").write_text(json.dumps(DENSE))
    sidecar.write_text("{")
    with pytest.raises(InputError, match="not valid JSON") as error:
        load_model(tmp_path)
    assert error.value.file == sidecar


# ---- what cannot be read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantised", "words"),
    [
        ("awq", "unsupported"),
        ({}, "unsupported"),
        ({"quant_method": "quip"}, "unsupported"),
        ({"quant_method": ["fp8"]}, "unsupported"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nobody measured"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, "blocks of this size"),
        ({"quant_method": "fp8", "modules_to_not_convert": "lm_head"}, "not a list"),
        ({"quant_method": "gptq", "bits": 3}, "so many bits"),
        ({"quant_method": "gptq"}, "so many bits"),
        ({"quant_method": "awq", "bits": [4]}, "so many bits"),
        ({"quant_method": "modelopt"}, "quant_algo"),
        ({"quant_method": "modelopt", "quant_algo": "FP6"}, "quant_algo"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "quant_algo"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": [1]}, "not a list"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["re:("]}, "regular expression"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"}, "KV cache"),
        ({"quant_method": "compressed-tensors"}, "config_groups"),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {}}}, "without a scheme"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": group(INT4, FP8_TOKENS)}}, "pair of formats"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": group({"num_bits": [8]})}}, "pair of formats"),
    ],
)
def test_what_cannot_be_read_says_so(quantised: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        load_model(DENSE | {"quantization_config": quantised}, origin="s.yaml")
    assert error.value.place == "model.quantization_config" and error.value.allowed


KEYS = [
    "bits", "config_groups", "dynamic", "exclude_modules", "ignore", "input_activations", "kv_cache_quant_algo",
    "kv_cache_scheme", "modules_to_not_convert", "num_bits", "quant_algo", "quantization", "quantized_layers",
    "strategy", "type", "weight_block_size", "weights",
]  # fmt: skip
TEXTS = ["fp8", "FP8", "NVFP4", "MIXED_PRECISION", "Linear", "re:(", "float"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(method=st.sampled_from([*READERS, *REFUSED]), said=st.dictionaries(st.sampled_from(KEYS), json_values))
def test_any_content_gives_formats_or_one_message(method: str, said: dict[str, Any]) -> None:
    try:
        found = model(MOE, quant_method=method, **said)
    except InputError:
        return
    assert 0 < found.weight_bytes() <= 2 * found.parameters


# ---- latent and linear attention -------------------------------------------------------------------------------------

MODELOPT: dict[str, Any] = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
LATENT = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")


def quantised(base: str, **said: Any) -> Model:
    return load_model({"base": base, "quantization_config": said})


def test_checkpoints_of_deepseek_in_nvfp4() -> None:
    """nvidia/DeepSeek-R1-FP4 leaves the attention out, its second version all of it but the output projection."""
    first = quantised("deepseek-r1", **MODELOPT, exclude_modules=[f"model.layers.{i}.self_attn*" for i in range(61)])
    assert first.formats == PartFormats(mlp="nvfp4", experts="nvfp4") and first.weight_dtype == "bf16"
    names = [f"model.layers.{i}.self_attn.{name}" for i in range(61) for name in LATENT]
    second = quantised("deepseek-r1", **MODELOPT, exclude_modules=names)
    assert second.formats == PartFormats(mlp="nvfp4", experts="nvfp4", output="nvfp4")
    # 61 matrices of 16,384 x 7,168: 16 bits less 4.5
    assert first.weight_bytes() - second.weight_bytes() == 61 * 16_384 * 7168 * (2 - 0.5625)
    # The other way round, the output projection stays in the model's own format.
    rest = quantised("deepseek-r1", **MODELOPT, exclude_modules=["*o_proj"])
    assert rest.formats == PartFormats("nvfp4", "nvfp4", "nvfp4", output="bf16") and rest.weight_dtype == "fp4"


def test_checkpoints_inside_of_a_text_model() -> None:
    """Modules of a text model have its path before them; patterns may leave the path out."""
    routed = ["*self_attn*", "*shared_experts*", "language_model.model.layers.0.mlp*", "lm_head"]
    kimi = quantised("kimi-k2.5", **MODELOPT, exclude_modules=routed, kv_cache_quant_algo="FP8")
    assert kimi.formats == PartFormats(experts="nvfp4") and kimi.kv_dtype == "fp8"
    named = ("conv1d", "in_proj_a", "in_proj_b", "norm", "A_log", "dt_bias")
    left = [f"model.language_model.layers.{i}.linear_attn.{name}" for i in range(60) for name in named if i % 4 != 3]
    block: dict[str, Any] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    qwen = quantised("qwen3.5-397b-a17b", **block, modules_to_not_convert=["lm_head", "model.visual", *left])
    assert qwen.formats == everywhere("fp8_block")
    attention = [f"model.language_model.layers.{i}.linear_attn" for i in range(60)]
    assert quantised("qwen3.5-397b-a17b", **block, modules_to_not_convert=["self_attn", *attention]).formats == (
        PartFormats(mlp="fp8_block", experts="fp8_block")
    )
    # Where it stands beside the text model, it holds for it.
    config = load_model("qwen3.5-397b-a17b").config
    assert load_model({**config, "quantization_config": block}).formats == everywhere("fp8_block")


def test_groups_of_32_integers_take_more_scales() -> None:
    found = model(MOE, quant_method="compressed-tensors", config_groups={"g": group(INT4 | {"group_size": 32})})
    assert model(DENSE, quant_method="gptq", bits=4, group_size=32).formats == everywhere("int4_wo_32")
    assert found.formats.experts == "int4_wo_32" and LINEAR_FORMATS["int4_wo_32"].weight_bytes == 0.5625
