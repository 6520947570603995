"""Shapes of latent and linear attention, and the bytes that they keep of a token or of a sequence."""

from __future__ import annotations

from dataclasses import dataclass

from hwspecs.dtypes import BYTES

SCALED = 128
"""Elements of a cached key that share a scale, where it has scales of its own."""


@dataclass(frozen=True)
class Indexer:
    """DeepSeek's lightning indexer, which chooses the tokens that sparse attention reads (arXiv 2512.02556).

    Attributes
    ----------
    heads, head_dim : its query heads, and the elements of one; its keys are one vector a token.
    top_k : tokens of the past that a query reads.
    """

    heads: int
    head_dim: int
    top_k: int

    @property
    def key_bytes(self) -> int:
        """Bytes of a token's key in the cache of a layer: in fp8, with a fp32 scale for 128 elements."""
        return self.head_dim + 4 * -(-self.head_dim // SCALED)


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): what a token leaves in the KV cache.

    A token leaves `kv_rank + rope_dim` elements on each layer, which all heads share.

    Attributes
    ----------
    kv_rank : elements of the latent vector from which keys and values of all heads follow.
    rope_dim : elements of the key that carry the position.
    nope_dim, value_dim : further elements of a head's key, and those of its value.
    q_rank : elements of the latent vector of queries; None where queries are projected at once.
    indexer : chooses the tokens that a query reads; None where it reads all.
    """

    kv_rank: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    q_rank: int | None
    indexer: Indexer | None = None

    @property
    def width(self) -> int:
        """Elements that a token leaves on a layer, without the indexer's."""
        return self.kv_rank + self.rope_dim

    @property
    def head_dim(self) -> int:
        """Elements of a head's expanded key (and query)."""
        return self.nope_dim + self.rope_dim

    def key_bytes(self, kv_dtype: str) -> float:
        """Bytes that a token takes in the cache of a layer, without the indexer's key.

        Beside an indexer an fp8 cache keeps the part with the position in two bytes, and a fp32 scale for 128 elements
        of the rest, since its kernels gather single tokens (`fp8_ds_mla` of vLLM, 656 bytes for DeepSeek-V3.2; the same
        in SGLang's `quant_k_cache`).
        """
        if self.indexer is not None and BYTES[kv_dtype] == 1:
            return self.kv_rank + 4 * -(-self.kv_rank // SCALED) + 2 * self.rope_dim
        return self.width * BYTES[kv_dtype]

    def token_bytes(self, kv_dtype: str) -> float:
        """Bytes that a token takes in the cache of a layer, the indexer's key included."""
        return self.key_bytes(kv_dtype) + (self.indexer.key_bytes if self.indexer is not None else 0)


@dataclass(frozen=True)
class GatedDelta:
    """Linear attention by the gated delta rule (arXiv 2412.06464), behind a short causal convolution.

    Attributes
    ----------
    k_heads, k_head_dim : heads of queries and keys, and the elements of one.
    v_heads, v_head_dim : those of values; each value head has a state of its own.
    conv_width : tokens that the convolution sees, the newest included.
    state_dtype : format of the state.
    """

    k_heads: int
    v_heads: int
    k_head_dim: int
    v_head_dim: int
    conv_width: int
    state_dtype: str = "fp32"

    @property
    def values(self) -> int:
        """Elements of all values of a token."""
        return self.v_heads * self.v_head_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution: queries, keys and values."""
        return 2 * self.k_heads * self.k_head_dim + self.v_heads * self.v_head_dim

    def sequence_bytes(self, dtype: str) -> float:
        """Bytes of a sequence on one layer: a matrix for each value head, and the inputs in `dtype` that the
        convolution will need again.
        """
        state = self.v_heads * self.k_head_dim * self.v_head_dim * BYTES[self.state_dtype]
        return state + self.channels * (self.conv_width - 1) * BYTES[dtype]
