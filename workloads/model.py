"""Models: the shape of a transformer, read from a Hugging Face `config.json`, and what follows from it at once.

Parameter counts, bytes of weights and KV bytes per token are here because they follow from the shape alone. What an
operator costs is left to the operator graph. A new architecture is a reader function, added to `ARCHITECTURES`.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwspecs.dtypes import BYTES, check_dtype
from hwspecs.errors import InputError, near_matches
from hwspecs.yamlfile import place_text, read_text

MODEL_FOLDER = Path(__file__).parent / "models"

Place = tuple[str | int, ...]
LineOf = Callable[[Place], int | None]


@dataclass(frozen=True)
class Moe:
    """Mixture of experts.

    Attributes
    ----------
    experts, top_k : routed experts of a layer, and how many of them a token visits.
    intermediate : width of one routed expert.
    shared_intermediate : width of the experts that every token visits, together; 0 for none.
    moe_layers : for each layer, whether its MLP is a mixture.
    norm_topk_prob : whether the chosen experts' weights are scaled to sum to one.
    """

    experts: int
    top_k: int
    intermediate: int
    shared_intermediate: int
    moe_layers: tuple[bool, ...]
    norm_topk_prob: bool


@dataclass(frozen=True)
class Model:
    """The shape of a decoder-only transformer with grouped-query attention and gated MLPs.

    Attributes
    ----------
    name : such as `Qwen/Qwen3-8B`.
    architecture : the class that the configuration names, such as `Qwen3ForCausalLM`.
    layers, hidden, vocab : number of layers, width of the residual stream, size of the vocabulary.
    q_heads, kv_heads, head_dim : attention heads, and the elements of one.
    intermediate : width of the dense MLPs (of those layers that have one).
    tie_embeddings : whether the LM head is the embedding table.
    max_context : longest sequence, prompt and output together, that the positions are made for.
    qk_norm : whether each head's query and key are normalised (RMSNorm over `head_dim`, shared by the heads).
    attention_bias, output_bias, mlp_bias : biases of the QKV, output and MLP projections.
    layer_windows : for each layer, the tokens that its attention sees, the newest included; None for all.
    moe : the mixture of experts, if there is one.
    dtype : format in which the model was published and is computed unless something else is said.
    weight_dtype, activation_dtype : formats of the matrices and of what they are multiplied with; they differ from
        `dtype` in a quantised checkpoint.
    origin : bundled name or file.
    config : the configuration as read, overrides included; not to be changed. Like `origin` no part of the identity.
    """

    name: str
    architecture: str
    layers: int
    hidden: int
    q_heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tie_embeddings: bool
    max_context: int
    qk_norm: bool
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    layer_windows: tuple[int | None, ...]
    moe: Moe | None
    dtype: str
    weight_dtype: str
    activation_dtype: str
    origin: str = field(compare=False)
    config: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def parameter_counts(self) -> dict[str, int]:
        """Exact number of parameters by part.

        `embedding`, `attention` (projections and their biases), `mlp` (dense MLPs and shared experts), `experts`
        (routed), `router`, `norms` (the final one and the heads' included), `lm_head` (0 if it is the embedding table).
        """
        h, q, kv = self.hidden, self.q_heads * self.head_dim, self.kv_heads * self.head_dim
        attention = h * q + 2 * h * kv + q * h
        attention += (q + 2 * kv) * self.attention_bias + h * self.output_bias
        moe_layers = sum(self.moe.moe_layers) if self.moe else 0
        mlp = (self.layers - moe_layers) * self._mlp(self.intermediate)
        experts = router = 0
        if self.moe:
            mlp += moe_layers * self._mlp(self.moe.shared_intermediate)
            experts = moe_layers * self.moe.experts * 3 * h * self.moe.intermediate
            router = moe_layers * self.moe.experts * h
        return {
            "embedding": self.vocab * h,
            "attention": self.layers * attention,
            "mlp": mlp,
            "experts": experts,
            "router": router,
            "norms": self.layers * (2 * h + 2 * self.head_dim * self.qk_norm) + h,
            "lm_head": 0 if self.tie_embeddings else self.vocab * h,
        }

    def _mlp(self, width: int) -> int:
        """Parameters of a gated MLP: gate, up and down projections."""
        return 3 * self.hidden * width + (2 * width + self.hidden) * self.mlp_bias * (width > 0)

    @property
    def parameters(self) -> int:
        """All parameters; a tied embedding table counts once."""
        return sum(self.parameter_counts().values())

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses: `top_k` of the routed experts, and everything else.

        The whole embedding table is included, as in the figures that are published (12.9 B of Mixtral 8x7B's 46.7 B).
        """
        counts = self.parameter_counts()
        if self.moe:
            counts["experts"] = counts["experts"] // self.moe.experts * self.moe.top_k
        return sum(counts.values())

    def kv_bytes_per_token(self, kv_dtype: str | None = None) -> float:
        """Bytes of KV cache that one token takes on all layers; `dtype` if no format is given.

        A layer with a sliding window counts like the others: how much of its past it keeps is up to the KV cache.
        """
        size = BYTES[check_dtype(kv_dtype or self.dtype)]
        return 2 * self.layers * self.kv_heads * self.head_dim * size

    def weight_bytes(self, weight_dtype: str | None = None) -> float:
        """Bytes of all parameters in one format, `weight_dtype` of the model if none is given.

        The scales of block formats are not counted, and neither are parts that checkpoints leave unquantised.
        """
        return self.parameters * BYTES[check_dtype(weight_dtype or self.weight_dtype)]


# ---- configurations --------------------------------------------------------------------------------------------------

_LIMITS = {
    "num_hidden_layers": 10_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "moe_intermediate_size": 10_000_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "head_dim": 100_000,
    "vocab_size": 100_000_000,
    "max_position_embeddings": 1_000_000_000,
    "sliding_window": 1_000_000_000,
    "num_experts": 100_000,
    "num_local_experts": 100_000,
    "num_experts_per_tok": 100_000,
    "decoder_sparse_step": 10_000,
}
"""Upper bounds of integers: far above every model there is, low enough to catch a slip of the keyboard."""

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

# quant_method -> formats of weights and activations (the checkpoints with fp8 weights compute in fp8)
_QUANTISED = {"fp8": ("fp8", "fp8")}


class _Config:
    """A configuration with checked access to its keys; every complaint says where it stands."""

    def __init__(self, data: Mapping[str, Any], fail: Callable[..., InputError]) -> None:
        self.data, self.fail = data, fail

    def has(self, key: str) -> bool:
        return self.data.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.data.get(key)
        limit = _LIMITS.get(key, 10**9)
        allowed = f"an integer from {least} to {limit:,}"
        if value is None:
            if default is None:
                raise self.fail("a required key is missing", key, None, allowed)
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail("of the wrong type", key, value, allowed)
        if not least <= value <= limit:
            raise self.fail("out of range", key, value, allowed)
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail("of the wrong type", key, value, "true or false")
        return value

    def layer_list(self, key: str, kind: type, allowed: str) -> list[Any]:
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or any(not isinstance(v, kind) or isinstance(v, bool) for v in value):
            raise self.fail("of the wrong type", key, value, allowed)
        return value


def _dense(
    config: _Config,
    *,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    qk_norm: bool = False,
    attention_bias: bool | None = None,
    output_bias: bool | None = None,
    mlp_bias: bool = False,
    windows: Callable[[_Config, int], tuple[int | None, ...]] | None = None,
) -> dict[str, Any]:
    """What all architectures of the table have in common; the keywords are defaults and fixed features of one."""
    layers = config.integer("num_hidden_layers")
    hidden = config.integer("hidden_size")
    q_heads = config.integer("num_attention_heads")
    kv = config.integer("num_key_value_heads", kv_heads)
    if not config.has("head_dim") and head_dim is None:
        if hidden % q_heads:
            allowed = f"a divisor of hidden_size = {hidden:,}, or head_dim given"
            raise config.fail("the heads do not divide the hidden size", "num_attention_heads", q_heads, allowed)
        head_dim = hidden // q_heads
    if q_heads % kv:
        allowed = f"a divisor of num_attention_heads = {q_heads}"
        raise config.fail("the KV heads do not divide the heads", "num_key_value_heads", kv, allowed)
    bias = config.flag("attention_bias", False)
    return {
        "layers": layers,
        "hidden": hidden,
        "q_heads": q_heads,
        "kv_heads": kv,
        "head_dim": config.integer("head_dim", head_dim),
        "intermediate": config.integer("intermediate_size"),
        "vocab": config.integer("vocab_size"),
        "tie_embeddings": config.flag("tie_word_embeddings", False),
        "max_context": config.integer("max_position_embeddings"),
        "qk_norm": qk_norm,
        "attention_bias": bias if attention_bias is None else attention_bias,
        "output_bias": bias if output_bias is None else output_bias,
        "mlp_bias": mlp_bias,
        "layer_windows": _layer_types(config, layers) or (windows(config, layers) if windows else (None,) * layers),
        "moe": None,
    }


def _layer_types(config: _Config, layers: int) -> tuple[int | None, ...] | None:
    """Windows from the list `layer_types` that newer configurations have; None without it."""
    kinds = config.layer_list("layer_types", str, "full_attention or sliding_attention for each layer")
    if not kinds:
        return None
    if len(kinds) != layers:
        raise config.fail(f"has {len(kinds)} entries", "layer_types", kinds, f"one for each of {layers} layers")
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise config.fail("unknown layer type", "layer_types", kind, "full_attention, sliding_attention")
    window = config.integer("sliding_window") if "sliding_attention" in kinds else None
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _window_everywhere(config: _Config, layers: int) -> tuple[int | None, ...]:
    window = config.integer("sliding_window") if config.has("sliding_window") else None
    return (window,) * layers


def _window_above(config: _Config, layers: int) -> tuple[int | None, ...]:
    """Qwen: layers from `max_window_layers` (28 by default) on slide, and only with `use_sliding_window`."""
    if not config.flag("use_sliding_window", False) or not config.has("sliding_window"):
        return (None,) * layers
    window, first = config.integer("sliding_window"), config.integer("max_window_layers", 28, least=0)
    return tuple(window if i >= first else None for i in range(layers))


def _top_k(config: _Config, experts: int) -> int:
    top_k = config.integer("num_experts_per_tok")
    if top_k > experts:
        raise config.fail("more experts per token than experts", "num_experts_per_tok", top_k, f"at most {experts}")
    return top_k


def _llama(config: _Config) -> dict[str, Any]:
    heads = config.integer("num_attention_heads")  # Llama without grouped queries does not give the KV heads
    return _dense(config, kv_heads=heads, mlp_bias=config.flag("mlp_bias", False))


def _mistral(config: _Config) -> dict[str, Any]:
    return _dense(config, attention_bias=False, output_bias=False, windows=_window_everywhere)


def _qwen2(config: _Config) -> dict[str, Any]:
    return _dense(config, attention_bias=True, output_bias=False, windows=_window_above)


def _qwen3(config: _Config) -> dict[str, Any]:
    return _dense(config, head_dim=128, qk_norm=True, windows=_window_above)


def _mixtral(config: _Config) -> dict[str, Any]:
    shape = _mistral(config)
    experts = config.integer("num_local_experts")
    everywhere = (True,) * shape["layers"]
    return shape | {"moe": Moe(experts, _top_k(config, experts), shape["intermediate"], 0, everywhere, True)}


def _qwen3_moe(config: _Config) -> dict[str, Any]:
    shape = _dense(config, qk_norm=True, windows=_window_above)
    experts, step = config.integer("num_experts"), config.integer("decoder_sparse_step", 1)
    dense = set(config.layer_list("mlp_only_layers", int, "a list of layer numbers"))
    if any(not 0 <= i < shape["layers"] for i in dense):
        allowed = f"numbers from 0 to {shape['layers'] - 1}"
        raise config.fail("no such layer", "mlp_only_layers", sorted(dense), allowed)
    mixtures = tuple(i not in dense and (i + 1) % step == 0 for i in range(shape["layers"]))
    width = config.integer("moe_intermediate_size")
    norm = config.flag("norm_topk_prob", False)
    return shape | {"moe": Moe(experts, _top_k(config, experts), width, 0, mixtures, norm)}


ARCHITECTURES: dict[str, Callable[[_Config], dict[str, Any]]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "MixtralForCausalLM": _mixtral,
    "Qwen3MoeForCausalLM": _qwen3_moe,
}
"""`architectures[0]` of a configuration -> reader of its shape. Defaults are those of the transformers library."""

CONFIG_KEYS = (
    "architectures", "torch_dtype", "dtype", "quantization_config", "num_hidden_layers", "hidden_size",
    "intermediate_size", "moe_intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_position_embeddings", "tie_word_embeddings", "attention_bias", "mlp_bias", "layer_types",
    "sliding_window", "use_sliding_window", "max_window_layers", "num_experts", "num_local_experts",
    "num_experts_per_tok", "decoder_sparse_step", "mlp_only_layers", "norm_topk_prob",
)  # fmt: skip
"""The keys that the readers look at; a configuration may have any others."""


# ---- loading ---------------------------------------------------------------------------------------------------------


@functools.cache
def list_models() -> list[str]:
    """Names of the bundled models, sorted."""
    return sorted(path.stem.replace("--", "/") for path in MODEL_FOLDER.glob("*.json"))


def find_model(name: str) -> str | None:
    """The bundled model that `name` means, or None.

    Case does not matter. After the full name (`Qwen/Qwen3-8B`) and the name without organisation (`qwen3-8b`), a part
    between hyphens is enough if only one model has it: `llama-3.1-8b`, `mixtral-8x7b`.

    Raises InputError, location left to the caller, when several models have it.
    """
    wanted = name.lower()
    for key in (str.lower, lambda full: full.lower().partition("/")[2]):
        for full in list_models():
            if key(full) == wanted:
                return full
    parts = [full for full in list_models() if wanted and f"-{wanted}-" in f"-{full.lower().partition('/')[2]}-"]
    if len(parts) > 1:
        raise InputError("the name fits several models", found=name, allowed=", ".join(parts))
    return parts[0] if parts else None


def load_model(
    spec: str | Path | Mapping[str, Any],
    *,
    origin: object = None,
    place: str = "model",
    lines: LineOf | None = None,
    relative_to: Path | None = None,
) -> Model:
    """The model that `spec` describes.

    Parameters
    ----------
    spec : a bundled name (see `find_model`); the path of a `config.json` or of a folder with one; or a mapping
        `{base: NAME_OR_PATH, num_hidden_layers: 40}` that overrides keys of a configuration, or, without `base`, is a
        whole one. A mapping may give a `name`.
    origin : the file (or option) that `spec` itself was written in, for error messages.
    place : the path of `spec` inside `origin`.
    lines : from a path inside `spec` to a line of `origin`.
    relative_to : folder to which a relative path refers; the current folder if not given.

    Raises
    ------
    InputError : unknown model or architecture, unreadable file, missing key, value out of range.
    """

    def fail(problem: str, key: Place, found: object, allowed: str | None) -> InputError:
        text = f"{place}.{place_text(key)}" if key else place
        line = lines(key) if lines else None
        return InputError(problem, file=origin, place=text, line=line, found=found, allowed=allowed)

    def read(name: object, key: Place) -> tuple[dict[str, Any], str, str, Callable[[str], int | None], object]:
        """Configuration, name, origin, lines by key and file of a bundled name or a path."""

        def allowed() -> str:
            return near_matches(str(name), list_models()) + ", or the path of a config.json"

        if not isinstance(name, str | Path) or not str(name).strip():
            raise fail("not a model", key, name, allowed())
        try:
            full = find_model(str(name))
        except InputError as error:
            raise fail(error.problem, key, error.found, error.allowed) from None
        if full:
            path, title, source = MODEL_FOLDER / f"{full.replace('/', '--')}.json", full, full
        else:
            path = (relative_to or Path()) / os.path.expanduser(name)
            if os.path.isdir(path):
                path = path / "config.json"
                title = path.parent.resolve().name
            else:
                title = path.resolve().parent.name if path.name == "config.json" else path.stem.replace("--", "/")
            if not os.path.exists(path):
                is_path = str(name).endswith(".json") or str(name).startswith(("./", "../", "/", "~"))
                raise fail("no such file" if is_path else "unknown model", key, str(name), allowed())
            source = str(path)
        text = read_text(path)
        data = _parse(text, path)

        def line_of(key: str) -> int | None:
            match = re.search(rf'"{re.escape(key)}"\s*:', text)
            return text.count("\n", 0, match.start()) + 1 if match else None

        return data, title, source, line_of, path

    if not isinstance(spec, Mapping):
        data, name, source, line_of, file = read(spec, ())
        given: Mapping[str, Any] = {}
    else:
        given = {k: v for k, v in spec.items() if k not in ("base", "name")}
        base = spec.get("base")
        if base is None:
            data, name, source, file = {}, "custom", str(origin or "custom"), None
            known: set[str] = set(CONFIG_KEYS)
            if not given:
                raise fail("an empty model", (), dict(spec), "a model's name, a path, or a mapping with `base`")
        else:
            data, name, source, line_of, file = read(base, ("base",))
            known = set(CONFIG_KEYS) | set(data)
            for key in given:
                if key not in known:
                    raise fail("unknown key", (str(key),), key, near_matches(str(key), [*known, "base", "name"]))
            name = f"{name} (modified)" if given else name
        title = spec.get("name")
        if title is not None and (not isinstance(title, str) or not title.strip()):
            raise fail("not a name", ("name",), title, "text")
        name = title or name

    def complain(problem: str, key: str, found: object, allowed: str | None) -> InputError:
        if file is None or key in given:
            return fail(problem, (key,), found, allowed)
        return InputError(problem, file=file, place=key, line=line_of(key), found=found, allowed=allowed)

    return _build(_Config({**data, **given}, complain), name, source)


def _build(config: _Config, name: str, origin: str) -> Model:
    named = config.data.get("architectures")
    first = named[0] if isinstance(named, list) and named else named
    if not isinstance(first, str):
        problem = "a required key is missing" if named is None else "of the wrong type"
        raise config.fail(problem, "architectures", named, "a list with one of " + ", ".join(ARCHITECTURES))
    if first not in ARCHITECTURES:
        raise config.fail("unsupported architecture", "architectures", first, ", ".join(ARCHITECTURES))
    dtype = _dtype(config)
    weights, activations = _quantised(config, dtype)
    for key, value in config.data.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise config.fail("not a finite number", key, value, "a number")
    return Model(
        name=name,
        architecture=first,
        dtype=dtype,
        weight_dtype=weights,
        activation_dtype=activations,
        origin=origin,
        config=config.data,
        **ARCHITECTURES[first](config),
    )


def _dtype(config: _Config) -> str:
    key = "dtype" if config.has("dtype") else "torch_dtype"
    value = config.data.get(key)
    allowed = ", ".join(_DTYPES)
    if value is None:
        raise config.fail("a required key is missing", key, None, allowed)
    if not isinstance(value, str) or value.removeprefix("torch.") not in _DTYPES:
        raise config.fail("unknown number format", key, value, allowed)
    return _DTYPES[value.removeprefix("torch.")]


def _quantised(config: _Config, dtype: str) -> tuple[str, str]:
    value = config.data.get("quantization_config")
    if value is None:
        return dtype, dtype
    method = value.get("quant_method") if isinstance(value, Mapping) else value
    if not isinstance(method, str) or method not in _QUANTISED:
        allowed = f"quant_method {', '.join(_QUANTISED)}; or no quantization_config, and the formats in `precision`"
        raise config.fail("unsupported quantisation", "quantization_config", method, allowed)
    return _QUANTISED[method]


def _parse(text: str, path: Path) -> dict[str, Any]:
    """The JSON object of a file; standard JSON only, so NaN and infinities are refused."""

    def refuse(constant: str) -> None:
        key = re.search(rf'"([^"]*)"\s*:\s*{re.escape(constant)}', text)
        where = text.find(constant) if key is None else key.end()
        raise InputError(
            "not a finite number",
            file=path,
            place=key[1] if key else None,
            line=text.count("\n", 0, where) + 1,
            found=constant,
            allowed="a number",
        )

    try:
        data = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        problem = "the file is empty" if not text.strip() else f"is not valid JSON: {error.msg}"
        raise InputError(problem, file=path, line=error.lineno, allowed="a Hugging Face config.json") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"is not valid JSON: {error}", file=path) from None
    if not isinstance(data, dict):
        raise InputError("not a JSON object", file=path, line=1, found=data, allowed="a Hugging Face config.json")
    return data
