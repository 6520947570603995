"""The parallel layout of one replica: how its GPUs share the layers.

    GPUs = tensor x attention_data x pipeline

Attention, with the embedding, norms, dense MLPs and the head, is split over `tensor` GPUs and repeated on
`attention_data` ranks, each with sequences and a KV cache of its own. The experts of an MoE are on the same GPUs:
`expert` groups of them, each with a part of the experts, which `expert_tensor` GPUs share. A pipeline has `pipeline`
such stages, one after the other. docs/engine.md says what passes between the GPUs, and when.

The GPUs of a stage are numbered tensor first, then attention_data, and placed in that order: in one domain of the link,
or, if there are more, in equal parts in as few domains as hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError

if TYPE_CHECKING:
    from hwspecs.gpu import Gpu
    from workloads.model import Model


ALL_TO_ALL = ("none", "high_throughput", "low_latency", "auto")
"""How tokens of several ranks of attention come to their experts and back: all of them to all GPUs (an all-gather and a
reduce-scatter), or each only to the GPUs of its experts, by kernels for many tokens, by those for few, or by whichever
suits their number.
"""
SHARED = ("split", "repeated")


@dataclass(frozen=True)
class Layout:
    """Sizes of the parallel groups; see the module's docstring.

    Without attention data parallelism and experts' groups (the default) the experts are split like everything else.
    `sequence`: between the split blocks of a layer each of the `tensor` GPUs keeps its part of the tokens only, so that
    a reduce-scatter and an all-gather stand for every all-reduce (Korthikanti et al., arXiv 2205.05198).
    `all_to_all`, `redundant_experts`, `shared_experts` : see ALL_TO_ALL; copies of experts beside the model's own, in
    all; whether shared experts are split over all GPUs of a stage or, like a dense MLP, over those of tensor
    parallelism, and repeated by the ranks of attention. With an all-to-all they always are.
    """

    tensor: int = 1
    pipeline: int = 1
    attention_data: int = 1
    expert: int = 1
    sequence: bool = False
    all_to_all: str = "none"
    redundant_experts: int = 0
    shared_experts: str = "split"

    @classmethod
    def given(cls, parallelism: Mapping[str, Any], engine: Mapping[str, Any]) -> Layout:
        """Of the fields of a scenario's `parallelism`; what they leave open is as the `engine` does it.

        An engine's all-to-all is left out where the layout has no use for one.
        """
        names = {field.name for field in fields(cls)}
        layout = cls(**{name: value for name, value in parallelism.items() if name in names and value is not None})
        if parallelism.get("shared_experts") is None:
            layout = replace(layout, shared_experts=engine.get("shared_experts", "split"))
        if parallelism.get("all_to_all") is None and layout.attention_data > 1 and layout.expert == layout.stage:
            layout = replace(layout, all_to_all=engine.get("all_to_all", "none"))
        return layout

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

    @property
    def exchanges(self) -> bool:
        """Whether tokens go to their experts' GPUs alone."""
        return self.all_to_all != "none" and self.stage > 1

    @property
    def shared_tensor(self) -> int:
        """GPUs that share the shared experts; each such group does the tokens of its own ranks."""
        return self.tensor if self.exchanges or self.shared_experts == "repeated" else self.stage

    def __str__(self) -> str:
        """In words: `tp4`, `tp1 dp8 ep8`, `tp8 pp2`."""
        rest = {"dp": self.attention_data, "ep": self.expert, "pp": self.pipeline}
        parts = [f"tp{self.tensor}", *(f"{name}{size}" for name, size in rest.items() if size > 1)]
        parts += [f"+{self.redundant_experts}"] * (self.redundant_experts > 0)
        return " ".join(parts + ["sp"] * self.sequence + [self.all_to_all.replace("_", "-")] * self.exchanges)


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
    """InputError if a replica reaches beyond the GPUs that a link connects, and no network is known (`scale_out`), or
    the GPUs of a stage do not lie evenly in several domains.
    """
    domain = gpu.link.domain
    if layout.gpus <= domain:
        return
    if gpu.scale_out is None:
        words = f"beyond the {domain} GPUs that {gpu.link.kind} of {gpu.name} connects"
        words += ", and it has no network (gpu.scale_out)"
        if layout.gpus == layout.tensor:
            raise InputError(
                f"tensor parallelism reaches {words}",
                place="parallelism.tensor", found=layout.tensor, allowed=f"1 to {domain}",
            )  # fmt: skip
        raise InputError(
            f"the replica reaches {words}",
            place="parallelism",
            found=f"{layout} = {layout.gpus} GPUs",
            allowed=f"tensor x attention_data x pipeline of at most {domain}",
        )
    parts = -(-layout.stage // domain)
    each = layout.stage // parts
    if layout.stage % parts or (layout.tensor % each and each % layout.tensor):
        raise InputError(
            f"the {layout.stage} GPUs of a stage do not lie evenly in {parts} domains of {domain} GPUs of {gpu.name}",
            place="parallelism",
            found=str(layout),
            allowed=f"tensor x attention_data in {parts} equal parts, which tensor divides, or which divide it",
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
        if layout.redundant_experts or layout.exchanges:
            name = "redundant_experts" if layout.redundant_experts else "all_to_all"
            raise InputError(
                f"{model.name} is dense: it has no experts",
                place=f"parallelism.{name}", found=getattr(layout, name), allowed="none, or a model with experts",
            )  # fmt: skip
        return
    slots = model.moe.experts + layout.redundant_experts
    if layout.expert > slots:
        raise InputError(
            f"more groups than the {slots} experts of {model.name}"
            + (" with their copies" if layout.redundant_experts else ""),
            place="parallelism.expert", found=layout.expert, allowed=f"1 to {slots}",
        )  # fmt: skip
    if layout.stage % layout.expert:
        raise InputError(
            f"the {layout.stage} GPUs of a stage (tensor x attention_data) cannot form {layout.expert} equal groups",
            place="parallelism.expert", found=layout.expert, allowed=f"a divisor of {layout.stage}",
        )  # fmt: skip
    if layout.redundant_experts and layout.expert == 1:
        raise InputError(
            "copies of experts relieve the GPUs that hold popular ones; a single group holds them all",
            place="parallelism.redundant_experts", found=layout.redundant_experts, allowed="0, or expert above 1",
        )  # fmt: skip
    if slots % layout.expert:
        raise InputError(
            f"groups cannot hold equal parts of the {slots} experts of {model.name}"
            + (" with their copies" if layout.redundant_experts else ""),
            place="parallelism.expert", found=layout.expert,
            allowed=f"a divisor of {slots}, or redundant_experts that fill {-slots % layout.expert} more places",
        )  # fmt: skip
    if layout.exchanges and (layout.attention_data == 1 or layout.expert != layout.stage):
        raise InputError(
            "an all-to-all brings the tokens of several ranks of attention to GPUs that hold whole experts",
            place="parallelism.all_to_all", found=layout.all_to_all,
            allowed=f"none, or attention_data above 1 with expert {layout.stage}",
        )  # fmt: skip


def _check_tensor(model: Model, layout: Layout) -> None:
    gpus, moe = layout.tensor, model.moe
    parts = [("tensor", gpus, "num_attention_heads", model.q_heads)]
    if moe is None or not all(moe.moe_layers):
        parts.append(("tensor", gpus, "intermediate_size", model.intermediate))
    if moe is not None:
        place = "tensor" if layout.expert_tensor == gpus else "expert"
        parts.append((place, layout.expert_tensor, "intermediate_size of an expert", moe.intermediate))
        place = "tensor" if layout.shared_tensor == gpus else "attention_data"
        parts.append((place, layout.shared_tensor, "intermediate_size of the shared experts", moe.shared_intermediate))
    if model.linear is not None:
        parts.append(("tensor", gpus, "linear_num_key_heads", model.linear.k_heads))
        parts.append(("tensor", gpus, "linear_num_value_heads", model.linear.v_heads))
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
    if model.latent is None and model.kv_heads % gpus and gpus % model.kv_heads:
        raise InputError(
            f"tensor parallelism neither divides nor multiplies the {model.kv_heads} KV heads of {model.name}",
            place="parallelism.tensor",
            found=gpus,
            allowed=f"divisors or multiples of {model.kv_heads}",
        )
