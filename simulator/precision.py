"""Precision: the number formats of weights, activations and KV cache, for the whole model and by part.

Resolved from a scenario by `workloads.precision`; what a GPU lacks is refused there. Nothing of pydantic is imported,
so that a machine that only measures can use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hwspecs.dtypes import BYTES
from workloads.formats import BODY, LINEAR_FORMATS, PARTS


class Linear(NamedTuple):
    """A linear layer's bytes of a weight, scales included; format of the arithmetic; and what tables call the two."""

    weight: float
    dtype: str
    format: str


@dataclass(frozen=True)
class Precision:
    """Formats of weights, activations and KV cache, as quantised checkpoints are served.

    Linear layers store their weights in `weights` and multiply in `activations`, without scales, unless their part
    (`workloads.formats.PARTS`) names a format of its own (one of LINEAR_FORMATS); the attention's output projection is
    like its others unless it names one. What passes between operators stays
    in at least 16 bits (linear layers quantise their inputs themselves), and so do the embedding, the routers of an
    MoE and, unless it names a format, the language-model head. Attention multiplies in its projections' activations if
    the KV cache is as narrow, else in 16 bits; where those have 4 bits and the KV cache is fp8, in fp8.
    """

    weights: str = "bf16"
    activations: str = "bf16"
    kv: str = "bf16"
    attention: str | None = None
    mlp: str | None = None
    experts: str | None = None
    head: str | None = None
    output: str | None = None

    @property
    def wide(self) -> str:
        """Format of the arithmetic that is not quantised: at least 16 bits."""
        return self.activations if BYTES[self.activations] >= 2 else "bf16"

    @property
    def table(self) -> float:
        """Bytes of a weight that is not quantised."""
        return max(2.0, BYTES[self.weights])

    @property
    def parts(self) -> dict[str, str]:
        """The parts that name a format."""
        return {part: name for part in PARTS if (name := getattr(self, part)) is not None}

    def linear(self, part: str) -> Linear:
        """How the linear layers of a part of the model are stored and multiplied."""
        name = getattr(self, part)
        if name is None and part == "output":
            return self.linear("attention")
        if name is not None:
            form = LINEAR_FORMATS[name]
            return Linear(form.weight_bytes, form.activations, form.kernel)
        if part == "head":
            return Linear(self.table, self.wide, "bf16")
        return Linear(BYTES[self.weights], self.activations, gemm_format(self))

    @property
    def attention_dtype(self) -> str:
        """Format in which attention multiplies."""
        activations = self.linear("attention").dtype
        if BYTES[self.kv] <= BYTES[activations]:
            return activations
        # No kernel multiplies queries in 4 bits, and fp8 is what those of such checkpoints find in the cache.
        return "fp8" if self.attention is not None and activations == "fp4" and self.kv == "fp8" else self.wide

    def __str__(self) -> str:
        """In words: `fp8`, or `bf16, experts w4a16_mxfp4, fp8 KV`."""
        return precision_words(self.weights, self.activations, self.kv, self.parts)


def precision_words(weights: str, activations: str, kv: str, parts: Mapping[str, str]) -> str:
    """Formats in one line. `parts` : those that name a format of their own."""
    if not parts:
        return weights if weights == activations == kv else f"{weights} weights, {activations} compute, {kv} KV"
    rest = dict(parts)
    base = weights if weights == activations else f"{weights} weights, {activations} compute"
    if all(part in parts for part in BODY) and len({parts[part] for part in BODY}) == 1:
        base, rest = parts["attention"], {part: name for part, name in parts.items() if part not in BODY}
    titles = {"head": "LM head", "output": "output projection"}
    named = [f"{titles.get(part, part)} {name}" for part, name in rest.items()]
    return ", ".join([base, *named, f"{kv} KV"])


def gemm_format(precision: Precision) -> str:
    """The formats of weights and activations together, as tables of kernels call them."""
    weights, activations = precision.weights, precision.activations
    if BYTES[weights] > BYTES[activations]:  # the wider operand is what has to be moved, and to be multiplied
        activations = weights
    if weights == activations:
        return {"fp4": "nvfp4", "int8": "sq", "int4": "int4_wo", "fp16": "bf16"}.get(weights, weights)
    if BYTES[activations] >= 2:
        return {"fp4": "w4a16_mxfp4", "int4": "int4_wo"}.get(weights, "int8_wo" if BYTES[weights] == 1 else activations)
    return "w4a8_mxfp4_mxfp8" if weights in ("fp4", "int4") else activations


def passed_bytes(precision: Precision) -> float:
    """Bytes per element of what passes from one operator to the next."""
    return max(2.0, BYTES[precision.activations])
