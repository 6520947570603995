"""Precision of a scenario: what it says of number formats, and what follows for a model on a GPU.

A scenario may name one format for all linear layers, formats by part, or the two number formats of storage and
arithmetic; what it leaves out is as the checkpoint was published.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from hwspecs.dtypes import BYTES, check_dtype
from hwspecs.errors import InputError, near_matches
from hwspecs.gpu import Gpu
from workloads.fields import Part, one_of
from workloads.formats import BLOCK, BODY, LINEAR_FORMATS, PARTS, check_linear_format
from workloads.model import Model


def _storage(value: object) -> str:
    if value in ("auto", None):
        return "auto"
    try:
        return check_dtype(value)
    except InputError as error:
        raise InputError(error.problem, found=error.found, allowed=f"auto, {error.allowed}") from None


def _linear(value: object) -> str | None:
    return None if value in ("auto", None) else check_linear_format(value)


Fail = Callable[[str, str, object, str], InputError]
Dtype = Annotated[str, BeforeValidator(_storage), one_of(["auto", *BYTES])]
LinearName = Annotated[str | None, BeforeValidator(_linear), one_of(["auto", *LINEAR_FORMATS])]


class Precision(Part):
    """Number formats. What is left out, or `auto`, is as the model was published; a name alone stands for `linear`."""

    weights: Dtype = Field(default="auto", description="Format in which the weights are stored, without scales.")
    activations: Dtype = Field(default="auto", description="Format of the activations and of the arithmetic.")
    kv: Dtype = Field(default="auto", description="Format of the KV cache.")
    linear: LinearName = Field(
        default=None,
        description="Format of all linear layers but the LM head, scales included, in place of `weights` and "
        "`activations`.",
    )
    attention: LinearName = Field(default=None, description="Format of the attention's projections.")
    output: LinearName = Field(
        default=None, description="Format of the attention's output projection, if it is not that of `attention`."
    )
    mlp: LinearName = Field(default=None, description="Format of dense MLPs and shared experts.")
    experts: LinearName = Field(default=None, description="Format of routed experts.")
    head: LinearName = Field(
        default=None, description="Format of the LM head; left out: at least 16 bits, like the embedding and routers."
    )

    @model_validator(mode="after")
    def _once(self) -> Precision:
        for key in ("weights", "activations"):
            value = getattr(self, key)
            if self.linear is not None and value not in ("auto", getattr(LINEAR_FORMATS[self.linear], key)):
                allowed = "either `linear` or `weights` and `activations`"
                raise InputError(f"not what linear = {self.linear} says", place=key, found=value, allowed=allowed)
        return self

    def by_part(self) -> dict[str, str | None]:
        """The formats of `formats.PARTS`, None where the number formats of the whole say all."""
        whole = dict.fromkeys(BODY, self.linear)
        return {part: getattr(self, part) or whole.get(part) for part in PARTS}


def resolve(given: Precision, model: Model, gpu: Gpu, fail: Fail) -> Precision:
    """`given` with nothing left to the model: number formats for the whole, and formats of parts that differ from them.

    Parameters
    ----------
    fail : makes an error from problem, place in the scenario, found and allowed.

    Raises
    ------
    InputError : the GPU lacks a format, or the model a part.
    """
    has = (*model.linear_parts, "head")
    for part, what in (("mlp", "dense MLP and no shared experts"), ("experts", "experts")):
        if part not in has and getattr(given, part) is not None:
            raise fail(f"{model.name} has no {what}", f"precision.{part}", getattr(given, part), "nothing here")
    pair = {"weights": model.weight_dtype, "activations": model.activation_dtype}
    said = {key: getattr(given, key) for key in pair if getattr(given, key) != "auto"}
    own = {part: name for part in (*has, "output") if (name := getattr(model.formats, part)) is not None}
    alike = len({own.get(part) for part in model.linear_parts}) == 1 and "output" not in own
    if len(said) == 1 and given.linear is None and not alike:
        (key, found), allowed = next(iter(said.items())), "both `weights` and `activations`, or formats by part"
        raise fail(f"the parts of {model.name} have different formats", f"precision.{key}", found, allowed)
    # For each part its format, and for messages where that comes from.
    parts: dict[str, tuple[str, str, str]] = {}
    if not said:
        for part, name in own.items():
            parts[part] = name, "linear" if alike and part in BODY else part, f"{name} (of {model.name})"
    if given.linear is not None:
        parts |= dict.fromkeys(model.linear_parts, (given.linear, "linear", given.linear))
    parts |= {part: (name, part, name) for part in (*has, "output") if (name := getattr(given, part)) is not None}
    if given.output is None and (given.linear is not None or given.attention is not None):
        parts.pop("output", None)
    for name, place, found in parts.values():
        _check(name, gpu, f"precision.{place}", found, fail)
    names = {part: name for part, (name, _, _) in parts.items()}
    if all(part in names for part in model.linear_parts):
        whole = LINEAR_FORMATS[names["attention"]]
        pair = {"weights": whole.weights, "activations": whole.activations}
    elif (dtype := (pair | said)["activations"]) not in gpu.peak:
        found = dtype + ("" if "activations" in said else f" (of {model.name})")
        problem = f"{gpu.name} does not compute in this number format"
        raise fail(problem, "precision.activations", found, near_matches(dtype, gpu.peak))
    else:
        pair |= said
    left = {part: name for part, name in names.items() if not _is_plain(name, pair)}
    if names.get("output") is not None:
        plain = next((name for name in LINEAR_FORMATS if _is_plain(name, pair)), None)
        left |= {"output": names["output"]}
        if names["output"] == names.get("attention", plain):
            left.pop("output")
    kept: dict[str, str | None] = dict.fromkeys(("linear", *PARTS)) | left
    body = {left.get(part) for part in model.linear_parts}
    if len(body) == 1:
        kept |= dict.fromkeys(BODY) | {"linear": body.pop()}
    kv = (model.kv_dtype or model.dtype) if given.kv == "auto" else given.kv
    return given.model_copy(update=kept | pair | {"kv": kv})


def _check(name: str, gpu: Gpu, place: str, found: str, fail: Fail) -> None:
    """Whether the GPU computes in what a format needs."""
    lacking = [dtype for dtype in LINEAR_FORMATS[name].needs if dtype not in gpu.peak]
    if lacking:
        able = [other for other, form in LINEAR_FORMATS.items() if all(dtype in gpu.peak for dtype in form.needs)]
        problem = f"{gpu.name} does not compute in {' and '.join(lacking)}, which {name} needs"
        raise fail(problem, place, found, ", ".join(able))


def _is_plain(name: str, pair: dict[str, str]) -> bool:
    """Whether a part's format is what the two number formats say anyway."""
    form = LINEAR_FORMATS[name]
    return not form.scales and pair == {"weights": form.weights, "activations": form.activations}


# ---- what an engine has kernels for ----------------------------------------------------------------------------------

ENGINE_LACKS = {
    "trtllm": ("fp8_wo", "nvfp4_wo"),
    "vllm": ("w4a8_mxfp4_fp8",),
    "sglang": ("w4a8_mxfp4_fp8",),
}
"""Formats of linear layers that an engine cannot multiply (`tensorrt_llm/quantization/mode.py`, `QuantAlgo`;
`vllm/model_executor/layers/quantization`; `sglang/srt/layers/quantization`)."""

ENGINE_KV = {
    "trtllm": ("bf16", "fp16", "fp8", "int8", "fp4"),
    "vllm": ("bf16", "fp16", "fp8"),
    "sglang": ("bf16", "fp16", "fp8", "fp4"),
}
"""Formats of the KV cache that an engine has (`QuantAlgo` of TensorRT-LLM, `CacheDType` of vLLM, `--kv-cache-dtype` of
SGLang)."""

LATENT_KV = {
    "trtllm": ("bf16", "fp16", "fp8"),
    "vllm": ("bf16", "fp16", "fp8"),
    "sglang": ("bf16", "fp16", "fp8", "fp4"),
}
"""The same of latent attention (`supported_kv_cache_dtypes` of vLLM's `v1/attention/backends/mla`; SGLang's
`MLATokenToKVPool` and `MLATokenToKVPoolFP4`; TensorRT-LLM to 1.3.0rc20, whose MLA knows no other)."""

SPARSE_KV = ("bf16", "fp8")
"""The same behind an indexer, of any engine: FlashMLA's sparse kernels and TRTLLM-gen's have no others."""

SPLITS_BLOCKS = ("trtllm",)
"""Engines that pad a GPU's part of a matrix to whole blocks of scales. The others refuse it
(`quantization/fp8.py` of vLLM 0.10.2 to 0.19.0 and of SGLang 0.5.1 to 0.5.9)."""


def check_engine(given: Precision, model: Model, engine: str, tensor: int, expert_tensor: int, fail: Fail) -> None:
    """Whether `engine` has kernels for a resolved precision on a GPU's part of each layer.

    `tensor`, `expert_tensor` : GPUs that share a layer, and an expert. Raises InputError; an engine without parameter
    set has all kernels.
    """
    lacking = ENGINE_LACKS.get(engine)
    if lacking is None:
        return
    caches, of = ENGINE_KV[engine], ""
    if model.latent is not None:
        caches, of = LATENT_KV[engine], f" for the latent attention of {model.name}"
        if model.latent.indexer is not None:
            caches, of = SPARSE_KV, f" for the sparse attention of {model.name}"
    if given.kv not in caches:
        raise fail(f"{engine} has no KV cache in this format{of}", "precision.kv", given.kv, ", ".join(caches))
    moe = model.moe
    # KV heads are copied where there are more GPUs than heads.
    kv = model.kv_heads * model.head_dim if model.kv_heads >= tensor else tensor * model.head_dim
    split = {"attention": [(model.q_heads * model.head_dim, tensor), (kv, tensor)]}
    split["output"] = [(model.output_width, tensor)]
    if model.latent is not None:
        expanded = model.q_heads * (model.latent.nope_dim + model.latent.value_dim)
        split["attention"] = [(model.q_heads * model.head_dim, tensor), (expanded, tensor), *split["output"]]
    if model.linear is not None:
        keys = model.linear.k_heads * model.linear.k_head_dim
        split["attention"] += [(keys, tensor), (model.linear.values, tensor)]
        split["output"] += [(model.linear.values, tensor)]
    if moe is None or not all(moe.moe_layers):
        split["mlp"] = [(model.intermediate, tensor)]
    if moe is not None:
        split["experts"] = [(moe.intermediate, expert_tensor)]
    pair = {"weights": given.weights, "activations": given.activations}
    plain = next((name for name in LINEAR_FORMATS if _is_plain(name, pair)), None)
    for part in (*model.linear_parts, "output", "head"):
        name = given.by_part()[part] or (plain if part not in ("output", "head") else None)
        if name in lacking:
            place = part if getattr(given, part) is not None else "linear"
            able = ", ".join(other for other in LINEAR_FORMATS if other not in lacking)
            raise fail(f"{engine} has no kernels for this format", f"precision.{place}", name, able)
        if name != "fp8_block" or engine in SPLITS_BLOCKS:
            continue
        for width, gpus in split.get(part, []):
            # What does not divide at all is refused with the layout.
            if width % gpus == 0 and width // gpus % BLOCK:
                problem = f"{engine} refuses {part} whose part on a GPU is no whole number of blocks of {BLOCK}"
                allowed = "fewer GPUs for each expert (parallelism.expert)" if part == "experts" else "fewer GPUs"
                raise fail(problem, "parallelism.tensor", f"{width} over {gpus}", allowed)
