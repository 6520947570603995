"""The door to attention kinds: which a layer has, and what it keeps of a token or of a sequence.

A kind is one module, which states its operators and their work, its bytes and its kernels: `gqa`, `mla`, `dsa` (latent
attention behind an indexer) and `gateddelta` (linear attention). Models mix `gqa` and `gateddelta` by layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator import dsa, gateddelta, gqa, mla

if TYPE_CHECKING:
    from simulator.stepgraph import Builder
    from workloads.model import Model


def add_block(builder: Builder, suffix: str, linear: bool, window: int | None, count: int) -> None:
    """Add the attention of `count` layers, from the normalised input to the output projection."""
    latent = builder.model.latent
    if linear:
        gateddelta.add_block(builder, suffix, window, count)
    elif latent is None:
        gqa.add_block(builder, suffix, window, count)
    elif latent.indexer is None:
        mla.add_block(builder, suffix, window, count)
    else:
        dsa.add_block(builder, suffix, window, count)


def kv_bytes_per_token(model: Model, kv_dtype: str, tensor: int, page: int | None = None) -> float:
    """Bytes that a token takes in the KV cache of one of `tensor` GPUs, on all layers.

    A layer with a sliding window counts like the others, one of linear attention not at all. `page` : tokens behind one
    summary vector of block top-k.
    """
    if model.latent is None:
        return gqa.kv_bytes_per_token(model, kv_dtype, tensor, page)
    return mla.kv_bytes_per_token(model, kv_dtype, page)


def state_bytes(model: Model, tensor: int) -> float:
    """Bytes that a sequence takes on one of `tensor` GPUs, however long it is: the states of linear attention."""
    return gateddelta.state_bytes(model, tensor)


def copied_parameters(model: Model, tensor: int) -> int:
    """Parameters of attention beyond the model's own, over all GPUs: what tensor parallelism does not split."""
    return gqa.copied_parameters(model, tensor) if model.latent is None else mla.copied_parameters(model, tensor)
