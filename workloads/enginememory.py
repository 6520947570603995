"""How an engine divides a GPU's memory: section `memory` of its parameter set. docs/memory.md says what is known."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from hwspecs.errors import InputError
from hwspecs.units import parse_quantity
from workloads.fields import Part, Probability, finite

MOST = 1e15
"""Bytes: no memory is larger."""


def _bytes(value: object) -> float:
    number = parse_quantity(value, "bytes")
    if not 0 <= number <= MOST:
        raise InputError("out of range", found=value, allowed=f"0 to {MOST:g} bytes, such as 0.5 GiB")
    return number


BytesOrZero = Annotated[float, BeforeValidator(_bytes)]


class Margin(Part):
    """What a share of the memory leaves free by default: share = 1 - margin / capacity."""

    fixed: BytesOrZero = Field(default=0.0, description="In any case.")
    token: BytesOrZero = Field(default=0.0, description="For each token that a step computes at most.")
    graph: BytesOrZero = Field(default=0.0, description="For each sequence of the largest CUDA graph.")
    gpu: BytesOrZero = Field(default=0.0, description="For each GPU of tensor and pipeline parallelism.")
    least: BytesOrZero = Field(default=0.0, description="The whole, at least.")

    def share(self, capacity: float, *, tokens: int, graph: int, gpus: int) -> float:
        """The share of `capacity` bytes, to three digits; at least a thousandth."""
        margin = max(self.fixed + self.token * tokens + self.graph * graph + self.gpu * gpus, self.least)
        return max(0.001, round(1 - margin / capacity, 3))


class EngineMemory(Part):
    """What an engine sets aside on a GPU beside weights and KV, and how it sizes the KV cache.

    The defaults are those where no engine is named (`simulator.reserve.IDEAL`).
    """

    rule: Literal["everything", "of_total", "of_available", "of_free"] = Field(
        default="everything",
        description="What `memory_utilisation` is a share of: of_total (vLLM: of the memory; weights, activations, "
        "workspace and KV are inside), of_available (SGLang: of what context and communication leave; weights and KV "
        "are inside), of_free (TensorRT-LLM: of what everything else leaves; KV is inside), everything (of the "
        "memory; all that an engine needs is inside).",
    )
    context: BytesOrZero = Field(default=0.6e9, description="CUDA context and libraries.")
    communication: BytesOrZero = Field(default=0.0, description="NCCL and all-reduce buffers, with more than one GPU.")
    workspace: BytesOrZero = Field(default=0.0, description="Buffers of libraries beside the activations.")
    workspace_peer: BytesOrZero = Field(default=0.0, description="More of them for every other GPU of the replica.")
    graphs: BytesOrZero = Field(default=0.8e9, description="CUDA graphs.")
    sampling: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=8.0, description="Bytes per sequence and token of the vocabulary when a full batch is sampled."
    )
    expert_width: Annotated[int, Field(strict=True, ge=1, le=65_536)] = Field(
        default=1, description="An mxfp4 expert's width on a GPU is padded to a multiple of it."
    )
    windows: Probability = Field(
        default=1.0,
        description="KV that layers with a sliding window get for each token, over what the others get; 0: only the "
        "window of each sequence is kept.",
    )
    states: Annotated[float, BeforeValidator(finite), Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="Share of the memory for KV that the states of linear attention get; 0: what `max_num_seqs` "
        "sequences need, at most half of it.",
    )
    state_slots: Annotated[int, Field(strict=True, ge=1, le=64)] = Field(
        default=1, description="States that a running sequence holds in that share."
    )
    margin: Margin | None = Field(
        default=None, description="Where `memory_utilisation` is left out, it leaves this much free."
    )
