"""How a scenario spreads one replica over GPUs; what the sizes mean is in `simulator.layout`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from workloads.fields import Part, finite

Size = Annotated[int, Field(strict=True, ge=1, le=4096)]


class Parallelism(Part):
    """How one replica is spread over GPUs: tensor x attention_data x pipeline of them."""

    tensor: Size = Field(default=1, description="GPUs that share each layer (tensor parallelism).")
    pipeline: Size = Field(
        default=1, description="Stages, each with a part of the layers, one after the other (pipeline parallelism)."
    )
    attention_data: Size = Field(
        default=1,
        description="Ranks with an attention, sequences and a KV cache of their own, which share the experts of an MoE "
        "(attention data parallelism).",
    )
    expert: Size = Field(
        default=1,
        description="Groups of GPUs that hold different experts of an MoE (expert parallelism); the tensor x "
        "attention_data / expert GPUs of a group share each of them.",
    )
    sequence: bool = Field(
        default=False,
        strict=True,
        description="Each GPU of tensor parallelism keeps its part of the tokens between the split blocks of a layer: "
        "a reduce-scatter and an all-gather in place of every all-reduce (sequence parallelism).",
    )
    routing_skew: Annotated[float, BeforeValidator(finite), Field(ge=0, le=4)] | None = Field(
        default=None,
        description="How unevenly tokens choose the experts of an MoE: the expert of rank r in proportion to "
        "r^-routing_skew, 0 is uniform. Left out: 0 without an engine, else what is usual for the model's router.",
    )
    all_to_all: Literal["none", "high_throughput", "low_latency", "auto"] | None = Field(
        default=None,
        description="How the tokens of several ranks of attention come to their experts and back. none: an all-gather "
        "and a reduce-scatter, so that every GPU gets all of them; else each token goes only to the GPUs that hold its "
        "experts, by kernels for many tokens (high_throughput), by those for few (low_latency), or by those that suit "
        "their number (auto). Left out: what the engine does, where attention_data and expert let it.",
    )
    redundant_experts: Annotated[int, Field(strict=True, ge=0, le=65536)] = Field(
        default=0,
        description="Copies of the most popular experts of each layer beside the model's own, in all; experts and "
        "copies are shared equally by the `expert` groups.",
    )
    shared_experts: Literal["split", "repeated"] | None = Field(
        default=None,
        description="Whether the shared experts of an MoE are split over tensor x attention_data GPUs, or over those "
        "of `tensor` and repeated by the ranks of attention. Left out: what the engine does; repeated with an "
        "all-to-all.",
    )
