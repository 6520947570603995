"""How a scenario spreads one replica over GPUs; what the sizes mean is in `simulator.layout`."""

from __future__ import annotations

from typing import Annotated

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
