"""The shape of a transformer: what a configuration says of it, and what follows from that at once.

Parameter counts, bytes of weights and KV bytes per token are here because they follow from the shape alone. What an
operator costs is left to the operator graph, reading configurations to `architectures`, files and names to `model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hwspecs.dtypes import BYTES, check_dtype
from workloads import parameters
from workloads.attentionshapes import GatedDelta, Indexer, Latent
from workloads.formats import BODY, LINEAR_FORMATS, PartFormats

__all__ = ["GatedDelta", "Indexer", "Latent", "Model", "Moe"]


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
    bias : whether the experts' projections have biases.
    router_bias : whether the router has one for each expert, added to its logits or only to choose by.
    router_dtype : format of the router's weights and arithmetic if it is not the model's.
    balanced : whether that bias was trained to keep the experts evenly used (arXiv 2408.15664).
    shared_gate : whether a linear gate of one output scales what the shared experts add.
    groups, top_groups : equal groups that the experts are in, and those of them that a token's experts may be of.
    """

    experts: int
    top_k: int
    intermediate: int
    shared_intermediate: int
    moe_layers: tuple[bool, ...]
    norm_topk_prob: bool
    bias: bool = False
    router_bias: bool = False
    router_dtype: str | None = None
    balanced: bool = False
    shared_gate: bool = False
    groups: int = 1
    top_groups: int = 1


@dataclass(frozen=True)
class Model:
    """The shape of a decoder-only transformer with gated MLPs.

    Its attention is grouped-query attention unless `latent` is given, and on the layers of `layer_linear` linear.

    Attributes
    ----------
    name : such as `Qwen/Qwen3-8B`.
    architecture : the class that the configuration names, such as `Qwen3ForCausalLM`.
    layers, hidden, vocab : number of layers, width of the residual stream, size of the vocabulary.
    q_heads, kv_heads, head_dim : attention heads, and the elements of one. Of latent attention those of its expanded
        form, in which each head has a key of its own.
    intermediate : width of the dense MLPs (of those layers that have one).
    tie_embeddings : whether the LM head is the embedding table.
    max_context : longest sequence, prompt and output together, that the positions are made for.
    qk_norm : whether queries and keys are normalised: each head's by an RMSNorm over `head_dim` that the heads share.
    qk_norm_across_heads : whether that norm is over all heads together instead, with a gain for each element.
    rotary_dim : elements of a head that rotary positions turn; None for all.
    attention_sinks : whether each query head has a learned logit that takes part in its softmax.
    embedding_is_active : whether the publisher counts the embedding table, of which a token reads one row, as active.
    attention_bias, output_bias, mlp_bias : biases of the QKV, output and MLP projections.
    layer_windows : for each layer, the tokens that its attention sees, the newest included; None for all.
    moe : the mixture of experts, if there is one.
    dtype : format in which the model was published and is computed unless something else is said.
    weight_dtype, activation_dtype : formats of the matrices and of what they are multiplied with; they differ from
        `dtype` in a quantised checkpoint.
    formats : formats of parts of the checkpoint about which those two do not say all.
    kv_dtype : format for which the checkpoint has scales of the KV cache; None if it says nothing of it.
    latent : multi-head latent attention, if that is what all layers have.
    linear : linear attention of the layers that have it.
    layer_linear : for each layer, whether its attention is linear; empty for no layer.
    output_gate : whether the queries' projection has a gate as wide as the queries, for the attention's output.
    draft_layers : layers beyond `layers` that predict further tokens (multi-token prediction); they are in the
        checkpoint and not in the counts of parameters.
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
    qk_norm_across_heads: bool = False
    rotary_dim: int | None = None
    attention_sinks: bool = False
    embedding_is_active: bool = True
    formats: PartFormats = field(default_factory=PartFormats)
    kv_dtype: str | None = None
    latent: Latent | None = None
    linear: GatedDelta | None = None
    layer_linear: tuple[bool, ...] = ()
    output_gate: bool = False
    draft_layers: int = 0

    def parameter_counts(self) -> dict[str, int]:
        """Exact number of parameters by part.

        `embedding`, `attention` (projections, their biases and sinks, the indexer, convolutions and decays of linear
        attention), `mlp` (dense MLPs and shared experts), `experts` (routed, with their biases), `router` (with the
        shared experts' gate), `norms` (the final one and those inside of the attention included), `lm_head` (0 if it
        is the embedding table).
        """
        h, mixtures, linear = self.hidden, self.moe_layers, self.linear_layers
        attention, norms = parameters.attention(self)
        linear_attention, linear_norms = parameters.linear_attention(self)
        mlp = (self.layers - mixtures) * parameters.mlp(self, self.intermediate)
        if self.moe:
            mlp += mixtures * parameters.mlp(self, self.moe.shared_intermediate)
        return {
            "embedding": self.vocab * h,
            "attention": self.kv_layers * attention + linear * linear_attention,
            "mlp": mlp,
            "experts": mixtures * parameters.experts(self),
            "router": mixtures * parameters.router(self),
            "norms": self.layers * 2 * h + self.kv_layers * norms + linear * linear_norms + h,
            "lm_head": 0 if self.tie_embeddings else self.vocab * h,
        }

    @property
    def attention_kind(self) -> str:
        """In a word or two: `grouped`, `latent`, `sparse latent` (behind an indexer), `linear and grouped`."""
        if self.latent is not None:
            return "latent" if self.latent.indexer is None else "sparse latent"
        return "linear and grouped" if self.linear_layers else "grouped"

    @property
    def output_width(self) -> int:
        """Elements that a layer's softmax attention hands to its output projection."""
        return self.q_heads * (self.latent.value_dim if self.latent is not None else self.head_dim)

    @property
    def output_parameters(self) -> int:
        """Parameters of the attention's output projections, without biases; they are among `attention`'s."""
        width = self.kv_layers * self.output_width
        if self.linear is not None:
            width += self.linear_layers * self.linear.values
        return width * self.hidden

    @property
    def linear_layers(self) -> int:
        """Layers whose attention is linear: they have a state for each sequence, and no KV."""
        return sum(self.layer_linear)

    @property
    def kv_layers(self) -> int:
        """Layers that have KV."""
        return self.layers - self.linear_layers

    @property
    def moe_layers(self) -> int:
        """Layers whose MLP is a mixture of experts."""
        return sum(self.moe.moe_layers) if self.moe else 0

    @property
    def expert_biases(self) -> int:
        """Parameters of the routed experts that are biases: checkpoints leave them unquantised."""
        return self.moe_layers * parameters.expert_biases(self)

    @property
    def linear_parts(self) -> tuple[str, ...]:
        """Which of `formats.BODY` the model has."""
        dense = self.moe_layers < self.layers or bool(self.moe and self.moe.shared_intermediate)
        return tuple(part for part in BODY if {"mlp": dense, "experts": self.moe_layers > 0}.get(part, True))

    @property
    def parameters(self) -> int:
        """All parameters; a tied embedding table counts once."""
        return sum(self.parameter_counts().values())

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses: `top_k` of the routed experts, and everything else.

        The whole embedding table is included where the publisher does so (12.9 B of Mixtral 8x7B's 46.7 B), and left
        out where he does not (5.1 B of gpt-oss-120b's 116.8 B), unless it is the LM head too.
        """
        counts = self.parameter_counts()
        if self.moe:
            counts["experts"] = counts["experts"] // self.moe.experts * self.moe.top_k
        if not self.embedding_is_active and not self.tie_embeddings:
            counts["embedding"] = 0
        return sum(counts.values())

    def kv_bytes_per_token(self, kv_dtype: str | None = None) -> float:
        """Bytes of KV cache that one token takes on all layers; in the checkpoint's format if none is given.

        A layer with a sliding window counts like the others: how much of its past it keeps is up to the KV cache. A
        layer with linear attention has none.
        """
        name = check_dtype(kv_dtype or self.kv_dtype or self.dtype)
        if self.latent is not None:
            return self.layers * self.latent.token_bytes(name)
        return 2 * self.kv_layers * self.kv_heads * self.head_dim * BYTES[name]

    def state_bytes(self) -> float:
        """Bytes that a sequence takes whatever its length: the states of linear attention, on all layers."""
        return self.linear_layers * self.linear.sequence_bytes(self.dtype) if self.linear is not None else 0.0

    def weight_bytes(self, weight_dtype: str | None = None) -> float:
        """Bytes of all parameters in one format, or, if none is given, of the checkpoint in its own.

        Of a given format the scales are not counted, and nothing is left unquantised.
        """
        if weight_dtype is None:
            return sum(self.weight_bytes_by_format().values())
        return self.parameters * BYTES[check_dtype(weight_dtype)]

    def weight_bytes_by_format(self) -> dict[str, float]:
        """Bytes of the checkpoint's parameters by their format, scales included.

        Embedding, head, norms, routers and the experts' biases are in `dtype` unless the model says otherwise.
        """
        counts, found = self.parameter_counts(), dict[str, float]()

        def add(name: str, parameters: int) -> None:
            size = LINEAR_FORMATS[name].weight_bytes if name in LINEAR_FORMATS else BYTES[name]
            found[name] = found.get(name, 0.0) + parameters * size

        counts["experts"] -= self.expert_biases
        if self.formats.output is not None:
            counts["attention"] -= self.output_parameters
            add(self.formats.output, self.output_parameters)
        for part in self.linear_parts:
            add(getattr(self.formats, part) or self.weight_dtype, counts[part])
        add(self.formats.head or self.dtype, counts["lm_head"])
        add(self.dtype, counts["embedding"] + counts["norms"] + self.expert_biases)
        if self.moe:
            add(self.moe.router_dtype or self.dtype, counts["router"])
        return found
