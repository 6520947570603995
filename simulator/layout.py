"""The parallel layout of one replica: how its GPUs share the layers.

    GPUs = tensor x attention_data x pipeline

Attention, with the embedding, norms, dense MLPs and the head, is split over `tensor` GPUs and repeated on
`attention_data` ranks, each with sequences and a KV cache of its own. The experts of an MoE are on the same GPUs:
`expert` groups of them, each with a part of the experts, which `expert_tensor` GPUs share. A pipeline has `pipeline`
such stages, one after the other. docs/engine.md says what passes between the GPUs, and when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwspecs.errors import InputError

if TYPE_CHECKING:
    from hwspecs.gpu import Gpu
    from workloads.model import Model


@dataclass(frozen=True)
class Layout:
    """Sizes of the parallel groups; see the module's docstring.

    Without attention data parallelism and experts' groups (the default) the experts are split like everything else.
    `sequence`: between the split blocks of a layer each of the `tensor` GPUs keeps its part of the tokens only, so that
    a reduce-scatter and an all-gather stand for every all-reduce (Korthikanti et al., arXiv 2205.05198).
    """

    tensor: int = 1
    pipeline: int = 1
    attention_data: int = 1
    expert: int = 1
    sequence: bool = False

    @classmethod
    def of(cls, value: Layout | int) -> Layout:
        """A number means tensor parallelism alone."""
        return value if isinstance(value, Layout) else cls(tensor=value)

    @property
    def stage(self) -> int:
        """GPUs of one pipeline stage."""
        return self.tensor * self.attention_data

    @property
    def gpus(self) -> int:
        """GPUs of a replica."""
        return self.stage * self.pipeline

    @property
    def ranks(self) -> int:
        """Batches that the sequences of a replica are dealt among: ranks of attention, and micro-batches of each."""
        return self.attention_data * self.pipeline

    @property
    def expert_tensor(self) -> int:
        """GPUs that share an expert."""
        return self.stage // self.expert

    def __str__(self) -> str:
        """In words: `tp4`, `tp1 dp8 ep8`, `tp8 pp2`."""
        rest = {"dp": self.attention_data, "ep": self.expert, "pp": self.pipeline}
        parts = [f"tp{self.tensor}", *(f"{name}{size}" for name, size in rest.items() if size > 1)]
        return " ".join(parts + ["sp"] * self.sequence)


def check_layout(model: Model, layout: Layout) -> None:
    """Whether the GPUs of `layout` can share the layers of `model`.

    Raises
    ------
    InputError : heads, KV heads, widths, experts or layers cannot be dealt out (KV heads may be copied); groups of
        experts, or ranks of attention, for a model that has no experts. The place is the parallel size that is wrong.
    """
    _check_experts(model, layout)
    _check_tensor(model, layout)
    if layout.pipeline > model.layers:
        raise InputError(
            f"a pipeline has more stages than {model.name} has layers",
            place="parallelism.pipeline",
            found=layout.pipeline,
            allowed=f"1 to {model.layers}",
        )
    if layout.sequence and (layout.tensor == 1 or layout.attention_data > 1):
        raise InputError(
            "sequence parallelism shares the tokens between the GPUs of tensor parallelism, without attention_data",
            place="parallelism.sequence",
            found="true",
            allowed="false, or tensor > 1 and attention_data 1",
        )


def check_link(layout: Layout, gpu: Gpu) -> None:
    """InputError if a replica reaches beyond the GPUs that a link connects."""
    if layout.gpus <= gpu.link.domain:
        return
    words = f"beyond the {gpu.link.domain} GPUs that {gpu.link.kind} of {gpu.name} connects"
    if layout.gpus == layout.tensor:
        raise InputError(
            f"tensor parallelism reaches {words}",
            place="parallelism.tensor", found=layout.tensor, allowed=f"1 to {gpu.link.domain}",
        )  # fmt: skip
    raise InputError(
        f"the replica reaches {words}",
        place="parallelism",
        found=f"{layout} = {layout.gpus} GPUs",
        allowed=f"tensor x attention_data x pipeline of at most {gpu.link.domain}",
    )


def divides(model: Model, layout: Layout | int) -> bool:
    """Whether the model can be divided so."""
    try:
        check_layout(model, Layout.of(layout))
    except InputError:
        return False
    return True


def _check_experts(model: Model, layout: Layout) -> None:
    if model.moe is None:
        if layout.expert > 1:
            raise InputError(
                f"{model.name} is dense: it has no experts to put on GPUs of their own",
                place="parallelism.expert", found=layout.expert, allowed="1, or a model with experts",
            )  # fmt: skip
        if layout.attention_data > 1:
            raise InputError(
                f"{model.name} is dense: ranks of attention that share no experts are replicas of their own",
                place="parallelism.attention_data", found=layout.attention_data, allowed="1, with `replicas` instead",
            )  # fmt: skip
        return
    if layout.stage % layout.expert:
        raise InputError(
            f"the {layout.stage} GPUs of a stage (tensor x attention_data) cannot form {layout.expert} equal groups",
            place="parallelism.expert", found=layout.expert, allowed=f"a divisor of {layout.stage}",
        )  # fmt: skip
    if model.moe.experts % layout.expert:
        raise InputError(
            f"groups cannot hold equal parts of the {model.moe.experts} experts of {model.name}",
            place="parallelism.expert", found=layout.expert, allowed=f"a divisor of {model.moe.experts}",
        )  # fmt: skip


def _check_tensor(model: Model, layout: Layout) -> None:
    gpus, moe = layout.tensor, model.moe
    parts = [("tensor", gpus, "num_attention_heads", model.q_heads)]
    if moe is None or not all(moe.moe_layers):
        parts.append(("tensor", gpus, "intermediate_size", model.intermediate))
    if moe is not None:
        place = "tensor" if layout.expert_tensor == gpus else "expert"
        parts.append((place, layout.expert_tensor, "intermediate_size of an expert", moe.intermediate))
        place = "tensor" if layout.stage == gpus else "attention_data"
        parts.append((place, layout.stage, "intermediate_size of the shared experts", moe.shared_intermediate))
    for place, size, name, width in parts:
        if width % size:
            over = {"tensor": "tensor parallelism", "expert": "sharing an expert"}.get(place, "a stage")
            raise InputError(
                f"{over} over {size} GPUs does not divide {name} = {width} of {model.name}",
                place=f"parallelism.{place}",
                found=getattr(layout, place),
                allowed=f"a divisor of {width}"
                if place == "tensor"
                else f"tensor x attention_data{' / expert' if place == 'expert' else ''} that divides {width}",
            )
    if model.kv_heads % gpus and gpus % model.kv_heads:
        raise InputError(
            f"tensor parallelism neither divides nor multiplies the {model.kv_heads} KV heads of {model.name}",
            place="parallelism.tensor",
            found=gpus,
            allowed=f"divisors or multiples of {model.kv_heads}",
        )
