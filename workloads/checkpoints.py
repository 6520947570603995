"""Checkpoints: the number formats in which a published model is stored, from the `quantization_config` of its files.

Tools name the same formats differently; here each becomes one of `formats.LINEAR_FORMATS`, by part of the model. A
checkpoint may leave modules out. A part is left out if most of its weights are: single layers, or single projections
of the attention, are not told apart.

References
----------
transformers, `utils/quantization_config.py` (fp8, fbgemm_fp8, mxfp4, gptq, awq); compressed-tensors,
`quantization/quant_args.py`; NVIDIA Model Optimizer, "Unified Hugging Face Checkpoint" (modelopt).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from hwspecs.errors import InputError
from workloads.formats import BODY, LINEAR_FORMATS, PartFormats
from workloads.modules import module_weights

KEY = "quantization_config"
SIDECAR = "hf_quant_config.json"
"""The file beside a `config.json` in which Model Optimizer says what it did."""

Value = Mapping[str, Any]
Shape = Mapping[str, Any]
Fail = Callable[[str, object, str], InputError]
Parts = dict[str, str | None]
"""Format of each quantised part; None, or nothing, for what is left in the model's own."""

INSTEAD = "or no quantization_config, and the formats in `precision`"


def checkpoint_formats(value: object, shape: Shape, dtype: str, fail: Fail) -> dict[str, Any]:
    """`weight_dtype`, `activation_dtype`, `formats` and `kv_dtype` of a `Model`.

    Parameters
    ----------
    value : the `quantization_config`; None for a checkpoint that is not quantised.
    shape : of the model, as the readers of architectures give it.
    dtype : of what is not quantised.
    fail : makes an error from problem, found and allowed.

    Raises
    ------
    InputError : a method, or a format, that no kernel here multiplies.
    """
    pair: dict[str, Any] = {"weight_dtype": dtype, "activation_dtype": dtype}
    if value is None:
        return pair
    method = value.get("quant_method", "") if isinstance(value, Mapping) else value
    reader = READERS.get(method) if isinstance(method, str) else None
    if reader is None or not isinstance(value, Mapping):
        problem = REFUSED.get(str(method), "unsupported quantisation")
        raise fail(problem, method, f"quant_method {', '.join(READERS)}; {INSTEAD}")
    parts = reader(value, shape, fail)
    projected = parts.pop("output", None)
    # What is left out is computed in the model's format, or, if that has no kernels here (fp32), in 16 bits.
    left_out = dtype if dtype in LINEAR_FORMATS else "bf16"
    own = {} if projected == parts.get("attention") else {"output": projected or left_out}
    kv = _kv_format(value, fail)
    named = {parts.get(part) for part in module_weights(shape) if part in BODY}
    if len(named) == 1 and (name := named.pop()) is not None:
        pair = {"weight_dtype": LINEAR_FORMATS[name].weights, "activation_dtype": LINEAR_FORMATS[name].activations}
        body: Parts = dict.fromkeys(BODY, name) if name != "fp8" else {}
        parts = body | {"head": parts.get("head")}
    return pair | {"formats": PartFormats(**parts, **own), "kv_dtype": kv}


# ---- which modules a checkpoint leaves out ---------------------------------------------------------------------------


class _Patterns:
    """A list of module names: whole ones, parts of a dotted name, wildcards, or `re:` and a regular expression."""

    def __init__(self, entries: object, fail: Fail, key: str) -> None:
        if entries is None:
            entries = []
        if not isinstance(entries, list) or any(not isinstance(entry, str) for entry in entries):
            raise fail(f"{key} is not a list of module names", entries, "names such as lm_head, or nothing")
        plain = [entry for entry in entries if not entry.startswith("re:") and not set(entry) & set("*?")]
        # The experts of a layer share their fate: one that is named stands for all.
        self.names = {re.sub(r"\.experts\..*", ".experts", entry) for entry in plain}
        try:
            self.searches = [self._search(entry) for entry in entries if entry not in plain]
        except re.error as error:
            raise fail(f"{key} has a bad regular expression: {error}", str(error.pattern), "a Python pattern") from None

    @staticmethod
    def _search(entry: str) -> re.Pattern[str]:
        if entry.startswith("re:"):
            return re.compile(entry[3:])
        body = re.escape(entry).replace(r"\*", ".*").replace(r"\?", ".")
        return re.compile(rf"(?:.*\.)?{body}(?:\.|$)")

    def match(self, module: str) -> bool:
        pieces = module.split(".")
        ends = range(1, len(pieces) + 1)
        if any(".".join(pieces[i:j]) in self.names for j in ends for i in range(j)):
            return True
        return any(search.match(module) for search in self.searches)

    def most_of(self, modules: Mapping[str, int]) -> bool:
        """Whether more than half of the weights are in modules of the list."""
        inside = sum(size for module, size in modules.items() if self.match(module))
        return 2 * inside > sum(modules.values())


def _without(name: str, shape: Shape, ignored: _Patterns, *, head: bool = False) -> Parts:
    """`name` for all parts that are not on the list; for the head only if the tool quantises it."""
    held = module_weights(shape).items()
    return {part: name for part, modules in held if not ignored.most_of(modules) and (head or part != "head")}


# ---- what tools write ------------------------------------------------------------------------------------------------


def _fp8(value: Value, shape: Shape, fail: Fail) -> Parts:
    """fp8 as DeepSeek, Qwen, MiniMax and Meta publish it: by blocks if it says so, else by tensors or rows."""
    block = value.get("weight_block_size")
    if block not in (None, [128, 128]):
        raise fail("blocks of this size have no kernels", block, "[128, 128]")
    name = "fp8" if block is None else "fp8_block"
    return _without(name, shape, _Patterns(value.get("modules_to_not_convert"), fail, "modules_to_not_convert"))


def _mxfp4(value: Value, shape: Shape, fail: Fail) -> Parts:
    """gpt-oss: the experts' matrices, multiplied in bf16 unless something else is asked for; nothing else."""
    return {"experts": "w4a16_mxfp4"} if shape["moe"] else {}


def _weight_only(bits_keys: tuple[str, ...]) -> Callable[[Value, Shape, Fail], Parts]:
    """GPTQ and AWQ: integers in groups that share a scale, of 32 weights or, as counted here, of 128."""

    def read(value: Value, shape: Shape, fail: Fail) -> Parts:
        bits = next((value[key] for key in bits_keys if key in value), None)
        name = {4: "int4_wo", 8: "int8_wo"}.get(bits) if isinstance(bits, int) else None
        if name == "int4_wo" and value.get("group_size", value.get("q_group_size")) == 32:
            name = "int4_wo_32"
        if name is None:
            raise fail("no kernels for weights of so many bits", bits, "bits 4 or 8")
        # GPTQModel excludes modules as keys of `dynamic`: `-:` and a regular expression.
        dynamic = value.get("dynamic") or {}
        excluded = [f"re:{key[2:]}" for key in dynamic if isinstance(key, str) and key.startswith("-:")]
        kept = value.get("modules_to_not_convert") or []
        ignored = _Patterns([*kept, *excluded] if isinstance(kept, list) else kept, fail, "modules_to_not_convert")
        return _without(name, shape, ignored, head=value.get("lm_head") is True)

    return read


_MODELOPT = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8_block",
    "FP8_PB_REAL": "fp8_block",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_NVFP4": "nvfp4_wo",
    "INT4_AWQ": "int4_wo",
    "W4A16_AWQ": "int4_wo",
    "W8A16": "int8_wo",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "W4A8_MXFP4_FP8": "w4a8_mxfp4_fp8",
}
"""Model Optimizer's `quant_algo` -> format."""


def _modelopt(value: Value, shape: Shape, fail: Fail) -> Parts:
    """Model Optimizer, in `config.json` or in its own file. Its head is never quantised."""
    said = value.get("quantization", value)
    algo = said.get("quant_algo") if isinstance(said, Mapping) else None
    ignored = _Patterns(said.get("exclude_modules", said.get("ignore")), fail, "exclude_modules") if algo else None
    if algo == "MIXED_PRECISION" and isinstance(said.get("quantized_layers"), Mapping):
        return _mixed(said["quantized_layers"], shape, fail)
    if algo is None and _kv_format(value, fail):
        return {}
    name = _MODELOPT.get(algo.upper()) if isinstance(algo, str) else None
    if name is None or ignored is None:
        raise fail("no kernels for this quant_algo", algo, f"{', '.join(_MODELOPT)}; {INSTEAD}")
    return _without(name, shape, ignored)


def _mixed(layers: Value, shape: Shape, fail: Fail) -> Parts:
    """Model Optimizer with an algorithm for each module."""
    found: dict[str, list[str]] = {}
    for module, said in layers.items():
        algo = said.get("quant_algo") if isinstance(said, Mapping) else said
        if not isinstance(algo, str) or algo.upper() not in _MODELOPT:
            raise fail(f"no kernels for the quant_algo of {module}", algo, ", ".join(_MODELOPT))
        found.setdefault(_MODELOPT[algo.upper()], []).append(str(module))
    parts: Parts = {}
    for name, modules in found.items():
        listed = _Patterns(modules, fail, KEY)
        parts |= {part: name for part, held in module_weights(shape).items() if listed.most_of(held)}
    return parts


def _compressed(value: Value, shape: Shape, fail: Fail) -> Parts:
    """compressed-tensors (llm-compressor): groups of modules with a scheme each; the first that has a module counts."""
    groups = value.get("config_groups")
    if not isinstance(groups, Mapping) or not all(isinstance(group, Mapping) for group in groups.values()):
        raise fail("config_groups is not a mapping of schemes", groups, "what llm-compressor writes")
    ignored = _Patterns(value.get("ignore"), fail, "ignore")
    parts: Parts = {}
    for group in groups.values():
        name = _scheme(group, fail)
        targets = group.get("targets", ["Linear"])
        chosen = _Patterns(targets, fail, "targets")
        everything = "Linear" in chosen.names
        for part, modules in module_weights(shape).items():
            if part not in parts and not ignored.most_of(modules) and (everything or chosen.most_of(modules)):
                parts[part] = name
    return parts


def _scheme(group: Value, fail: Fail) -> str:
    """The format of a group's weights and activations."""
    weights, inputs = group.get("weights"), group.get("input_activations")
    if not isinstance(weights, Mapping) or not isinstance(inputs, Mapping | None):
        raise fail("a group without a scheme of its weights", group, "weights with num_bits, type and strategy")
    kind, multiplied = _number(weights), "" if inputs is None else _number(inputs)
    if kind == "float4":
        kind = "mxfp4" if weights.get("group_size") == 32 else "nvfp4"
    elif kind == "int4" and weights.get("group_size") == 32:
        kind = "int4_32"
    elif kind == "float8" and weights.get("strategy") == "block":
        if weights.get("block_structure") not in (None, [128, 128], "128x128"):
            raise fail("blocks of this size have no kernels", weights.get("block_structure"), "[128, 128]")
        kind = "block"
    name = _SCHEMES.get((kind, multiplied))
    if name is None:
        found = f"{_number(weights)} weights, {multiplied or 'unquantised'} activations"
        raise fail("no kernels for this pair of formats", found, f"one of {', '.join(LINEAR_FORMATS)}")
    return name


def _number(said: Value) -> str:
    """`float8`, `int4`, ..."""
    return f"{said.get('type', 'int')}{said.get('num_bits', '')}"


_SCHEMES = {
    ("float8", "float8"): "fp8",
    ("block", "float8"): "fp8_block",
    ("float8", ""): "fp8_wo",
    ("int8", "int8"): "int8",
    ("int8", ""): "int8_wo",
    ("int4", ""): "int4_wo",
    ("int4_32", ""): "int4_wo_32",
    ("nvfp4", "float4"): "nvfp4",
    ("nvfp4", ""): "nvfp4_wo",
    ("mxfp4", ""): "w4a16_mxfp4",
    ("mxfp4", "float8"): "w4a8_mxfp4_mxfp8",
}
"""Stored numbers and what they are multiplied with -> format."""


def _kv_format(value: Value, fail: Fail) -> str | None:
    """Format in which the checkpoint has scales for the KV cache; None if it says nothing of it."""
    said = value.get("quantization", value)
    algo = said.get("kv_cache_quant_algo") if isinstance(said, Mapping) else None
    scheme = value.get("kv_cache_scheme")
    if algo is None and isinstance(scheme, Mapping):
        algo = {"float8": "FP8", "int8": "INT8"}.get(_number(scheme), _number(scheme))
    if algo is None:
        return None
    name = {"FP8": "fp8", "INT8": "int8"}.get(algo.upper()) if isinstance(algo, str) else None
    if name is None:
        raise fail("no kernels for a KV cache in this format", algo, "FP8, INT8, or nothing")
    return name


READERS: dict[str, Callable[[Value, Shape, Fail], Parts]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "mxfp4": _mxfp4,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "compressed-tensors": _compressed,
    "gptq": _weight_only(("bits",)),
    "awq": _weight_only(("bits", "w_bit")),
}
"""`quant_method` of a configuration -> reader of its parts' formats."""

REFUSED = {
    "bitsandbytes": "bitsandbytes stores weights in formats (nf4, LLM.int8) whose kernels nobody measured",
    "gguf": "GGUF files mix formats whose kernels nobody measured",
}
"""Methods that are known and not read, and why."""
