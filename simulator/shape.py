"""The shape of one engine step, as far as its cost depends on it (docs/engine.md, "Scheduling a step")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class PrefillShape(NamedTuple):
    """The prefill chunks of a step, summed; `pairs` and `kv` have one entry per prefill extent.

    All numbers are whole in a simulation. Where many shapes are evaluated at once they are arrays that broadcast.
    """

    tokens: Any
    seqs: Any
    pairs: tuple[Any, ...]
    kv: tuple[Any, ...]


class StepShape(NamedTuple):
    """A whole step; `decode_kv` has one entry per decode extent, in tokens. Whole numbers, or arrays that broadcast."""

    tokens: Any
    rows: Any
    decode_seqs: Any
    decode_kv: tuple[Any, ...]
    prefill: PrefillShape | None = None


def ceil_div(a: Any, b: Any) -> Any:
    """a / b, rounded up."""
    return -(-a // b)


def smaller(a: Any, b: Any) -> Any:
    """The smaller of two numbers or arrays; plain Python for numbers."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.minimum(a, b)
    return a if a < b else b


def dealt_tokens(tokens: Any, prompts: Any, chunks: Any, ranks: int, dealt: int, queries: int = 1) -> Any:
    """Tokens that an operator sees whose rows are dealt among `dealt` batches, in the one with the most.

    Decoding sequences, of `queries` tokens each, are dealt one by one among `ranks`, of which an operator may see
    several together; the `chunks` of prompts, `prompts` tokens in all, are not cut. All numbers are whole.
    """
    seqs = ceil_div(tokens - prompts, ranks * queries) * (ranks // dealt) * queries
    return seqs + ceil_div(prompts * ceil_div(chunks, dealt), chunks + (chunks == 0))


def busiest_shape(shape: StepShape, ranks: int, dealt: int, queries: int = 1) -> StepShape:
    """The part of a step that the busiest of `dealt` batches gets (see `dealt_tokens`); lengths are taken as alike."""
    if ranks == 1:
        return shape
    chunks, prompts, count = shape.prefill, 0, 0
    if chunks is not None:
        prompts, count = chunks.tokens, chunks.seqs
        most = ceil_div(count, dealt)
        chunks = _times(chunks, most / (count + (count == 0)))._replace(seqs=most)
    seqs = ceil_div(shape.decode_seqs, dealt)
    share = seqs / (shape.decode_seqs + (shape.decode_seqs == 0))
    tokens = dealt_tokens(shape.tokens, prompts, count, ranks, dealt, queries)
    read = tuple(kv * share for kv in shape.decode_kv)
    return StepShape(tokens, ceil_div(shape.rows, dealt), seqs, read, chunks)


def mean_shape(shape: StepShape, dealt: int) -> StepShape:
    """The part of a step that each of `dealt` batches gets on average."""
    if dealt == 1:
        return shape
    chunks = None if shape.prefill is None else _times(shape.prefill, 1 / dealt)
    read = tuple(kv / dealt for kv in shape.decode_kv)
    return StepShape(shape.tokens / dealt, shape.rows / dealt, shape.decode_seqs / dealt, read, chunks)


def _times(chunks: PrefillShape, part: Any) -> PrefillShape:
    pairs, kv = (tuple(sums * part for sums in kind) for kind in (chunks.pairs, chunks.kv))
    return PrefillShape(chunks.tokens * part, chunks.seqs * part, pairs, kv)


def equal_chunks(
    chunks: PrefillShape, extent: int, cap: int | None, larger: Callable[[Any, Any], Any]
) -> tuple[Any, Any]:
    """Tokens and past of each of so many equal chunks with the same tokens in all and the same (query, key) pairs.

    With a `cap` the keys agree, and not the pairs. `larger` is the maximum of two numbers, or of arrays. There must be
    chunks and tokens.
    """
    query = chunks.tokens / chunks.seqs
    if cap is None:
        return query, larger(chunks.pairs[extent] / chunks.tokens - (query + 1) / 2, 0.0)
    return query, larger(chunks.kv[extent] / chunks.seqs - query, 0.0)


def causal_pairs(q: int, past: int, cap: int | None) -> int:
    """(query, key) pairs of a causal chunk: the sum of min(past + j, cap) over j = 1..q."""
    if cap is None or past + q <= cap:
        return q * past + q * (q + 1) // 2
    below = max(0, cap - past)  # queries that still see all of their past
    return below * past + below * (below + 1) // 2 + (q - below) * cap


def keys_read(q: int, past: int, cap: int | None) -> int:
    """Distinct keys that a causal chunk reads: all past + q, or the last cap - 1 of the past and its own q."""
    return past + q if cap is None else min(past + q, q + cap - 1)
