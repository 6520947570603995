"""Models as the Kinetics law sees them, and its sums over tokens (arXiv 2506.05333, section 2).

    eFLOPs = FLOPs + bytes x E,   E = peak FLOP/s / HBM bytes/s

with P parameters (active ones of an MoE), H query heads, G KV heads, D = head_dim x layers. The paper's models have
grouped-query attention. H D and G D stand for the FLOPs and the bytes of a key, and so they are chosen for latent
attention (`law_model`). Layers of linear attention have no term: what they read does not grow.

What a strategy costs follows in `split`, and as the authors' code has it in `published`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.dtypes import BYTES

if TYPE_CHECKING:
    from workloads.model import Model


@dataclass(frozen=True)
class LawModel:
    """What the law knows of a model.

    Attributes
    ----------
    parameters, q_heads, kv_heads : P, H and G.
    depth : D = head_dim x layers.
    budget : keys that a token reads at most by the model's own choice; None for all.
    index_flops, index_bytes : of that choice, for each token and key of its past, on all layers.
    windows : the parts of D on layers that see only their newest tokens, each with that number of tokens.
    summary_flops, summary_share : of a page's summary under block top-k, on all layers: FLOPs of its score (None: 2 H
        D), and its bytes over those of a key and its value.
    prompt_flops : of a (query, key) pair in prefill, on all layers; None: 4 H D.
    """

    parameters: float
    q_heads: int
    kv_heads: float
    depth: float
    budget: int | None = None
    index_flops: float = 0.0
    index_bytes: float = 0.0
    windows: tuple[tuple[int, float], ...] = ()
    summary_flops: float | None = None
    summary_share: float = 0.5
    prompt_flops: float | None = None

    @property
    def key_flops(self) -> float:
        """FLOPs of a query's score of a key and of adding its value, on all layers: 4 H D."""
        return 4 * self.q_heads * self.depth

    @property
    def key_elements(self) -> float:
        """Elements of a key and its value in the cache, on all layers: 2 G D."""
        return 2 * self.kv_heads * self.depth

    @property
    def layer_groups(self) -> list[tuple[float, int | None]]:
        """Shares of D by the window of their layers, None for the whole past."""
        groups: list[tuple[float, int | None]] = [(depth / self.depth, window) for window, depth in self.windows]
        rest = 1.0 - sum(share for share, _ in groups)
        return [(rest, None), *groups] if rest > 1e-12 else groups


def law_model(model: Model, kv_dtype: str) -> LawModel:
    """What the law knows of `model` with a KV cache in `kv_dtype`.

    Of latent attention D is such that 4 H D are the FLOPs of a key in decode, where it is absorbed: on each layer and
    head 2 (kv_rank + rope_dim) of its score and 2 kv_rank of its value; and G such that 2 G D elements have the bytes
    that a key takes in the cache. An indexer scores every key of the past, and at most `top_k` of them are read.

    In prefill latent attention is expanded: 2 (nope_dim + rope_dim) + 2 value_dim FLOPs a pair and head. A page's
    summary is a key alone, half of what grouped-query attention keeps of a token, and all of it with latents, where
    keys and values are the same elements.
    """
    latent, layers = model.latent, model.kv_layers
    if latent is None:
        sizes = Counter(window for window in model.layer_windows if window is not None)
        windows = tuple((window, model.head_dim * count) for window, count in sorted(sizes.items()))
        plain = LawModel(model.active_parameters, model.q_heads, model.kv_heads, model.head_dim * layers)
        return replace(plain, windows=windows)
    depth = layers * (latent.kv_rank + latent.rope_dim / 2)
    kv_heads = layers * latent.key_bytes(kv_dtype) / BYTES[kv_dtype] / (2 * depth)
    plain = LawModel(
        model.active_parameters,
        model.q_heads,
        kv_heads,
        depth,
        summary_flops=2.0 * model.q_heads * layers * latent.width,
        summary_share=1.0,
        prompt_flops=2.0 * model.q_heads * layers * (latent.head_dim + latent.value_dim),
    )
    if (indexer := latent.indexer) is None:
        return plain
    flops = 2.0 * layers * indexer.heads * indexer.head_dim
    return replace(plain, budget=indexer.top_k, index_flops=flops, index_bytes=float(layers * indexer.key_bytes))


def capped_pairs(a: Any, n: Any, budget: Any) -> Any:
    """Sum over t = 1..n of min(budget, a + t), exactly, for whole numbers."""
    free = np.clip(budget - np.asarray(a, dtype=float), 0, n)  # tokens that still see everything
    return free * a + free * (free + 1) / 2 + (n - free) * budget


def all_pairs(a: Any, n: Any, exact: bool = False) -> Any:
    """Keys that tokens 1..n of one trial attend to, after a prompt of `a`.

    The paper's integral of a + t from 0 to n, (2a + n) n / 2; or the sum over t = 1..n of a + t, (2a + n + 1) n / 2,
    which is n / 2 more: by 1 / (2a + n).
    """
    return (2 * a + n + exact) * n / 2
