"""Parameters of a layer's parts: how many its tensors have, biases and the gains of norms included.

`decoder.Model` adds them up over its layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workloads.decoder import Model


def attention(model: Model) -> tuple[int, int]:
    """Of a layer's softmax attention: of its projections, and of the norms inside."""
    h, q, kv = model.hidden, model.q_heads * model.head_dim, model.kv_heads * model.head_dim
    if (latent := model.latent) is None:
        projections = h * q * (1 + model.output_gate) + 2 * h * kv + q * h
        projections += (q + 2 * kv) * model.attention_bias + h * model.output_bias
        gains = (q + kv if model.qk_norm_across_heads else 2 * model.head_dim) * model.qk_norm
        return projections + model.q_heads * model.attention_sinks, gains
    down, queries = latent.width, h * q
    if latent.q_rank is not None:
        down, queries = latent.q_rank + latent.width, latent.q_rank * q
    expanded = latent.kv_rank * model.q_heads * (latent.nope_dim + latent.value_dim)
    projections = h * down + queries + expanded + model.output_width * h
    projections += down * model.attention_bias + h * model.output_bias
    indexer, its_gains = _indexer(model)
    return projections + indexer, (latent.q_rank or 0) + latent.kv_rank + its_gains


def _indexer(model: Model) -> tuple[int, int]:
    """The same of a layer's indexer: queries from their latent vector, one key and a weight for each head from the
    hidden state. The norm of its keys is a LayerNorm, with a gain and a bias.
    """
    if model.latent is None or (indexer := model.latent.indexer) is None:
        return 0, 0
    queries = (model.latent.q_rank or model.hidden) * indexer.heads * indexer.head_dim
    return queries + model.hidden * (indexer.head_dim + indexer.heads), 2 * indexer.head_dim


def linear_attention(model: Model) -> tuple[int, int]:
    """The same of a layer's linear attention.

    Projections to the convolution's channels, to the output's gate and to each value head's decay and step; the
    convolution's taps; a decay and its bias for each value head; the output projection. All heads share a norm.
    """
    if (linear := model.linear) is None:
        return 0, 0
    h, vectors = model.hidden, linear.channels * linear.conv_width + 2 * linear.v_heads
    projections = h * (linear.channels + linear.values + 2 * linear.v_heads) + linear.values * h
    return projections + vectors, linear.v_head_dim


def mlp(model: Model, width: int) -> int:
    """Of a gated MLP: gate, up and down projections."""
    return 3 * model.hidden * width + (2 * width + model.hidden) * model.mlp_bias * (width > 0)


def expert_biases(model: Model) -> int:
    """Of the biases of a layer's routed experts."""
    return model.moe.experts * (2 * model.moe.intermediate + model.hidden) * model.moe.bias if model.moe else 0


def experts(model: Model) -> int:
    """Of a layer's routed experts, biases included."""
    if (moe := model.moe) is None:
        return 0
    return moe.experts * 3 * model.hidden * moe.intermediate + expert_biases(model)


def router(model: Model) -> int:
    """Of a layer's router, and of the gate of its shared experts."""
    if (moe := model.moe) is None:
        return 0
    return moe.experts * (model.hidden + moe.router_bias) + model.hidden * moe.shared_gate
