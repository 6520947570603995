"""Prefill attention of fitted profiles, tabulated: what a step's chunks cost, in microseconds of our time.

A step may prefill chunks of any number, length and past, and most steps' are new, so the kernel's model cannot be asked
each time. It is asked once on a grid of (chunks, tokens a chunk, stretch = 1 + past / tokens) whose points lie a
factor 2^(1/2), 2^(1/4) and 2 apart, and the logarithm of the time is interpolated linearly between them. As with
decode attention, that *defines* the cost, in both engines. A GEMM over the keys that chunks read has a table of
their number instead.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np

from simulator.operators import Operator
from simulator.shape import PrefillShape, StepShape, equal_chunks


class PrefillTable:
    """Seconds of one execution of a prefill operator.

    Parameters
    ----------
    op : reads one extent. seconds : StepShape -> seconds of one execution, vectorised. extents : how many there are.
    max_tokens, max_seqs, max_context : of a step, and of a sequence. Beyond them the cost goes on along the last cell.
    extent : one without a cap that the cost is a function of, in place of that which the operator reads.
    """

    def __init__(
        self,
        op: Operator,
        seconds: Callable[[StepShape], Any],
        *,
        extents: int,
        max_tokens: int,
        max_seqs: int,
        max_context: int,
        extent: int | None = None,
    ) -> None:
        self.extent, self.cap = op.dims.extent, op.dims.cap
        if extent is not None:
            self.extent, self.cap = extent, None
        axes = (_knots(max_seqs, 2), _knots(max_tokens, 4), _knots(max_context, 1))
        seqs, query, stretch = np.meshgrid(*axes, indexing="ij")
        past = np.round((stretch - 1) * query)
        pairs = seqs * pairs_of(query, past, self.cap)
        keys = seqs * (past + query if self.cap is None else np.minimum(past + query, query + self.cap - 1))
        chunks = PrefillShape(seqs * query, seqs, (pairs,) * extents, (keys,) * extents)
        logs = np.log(np.broadcast_to(seconds(StepShape(chunks.tokens, 0, 0, (), chunks)), seqs.shape))
        # Corrections are fitted to measurements, which scatter; more past never takes less time.
        logs = np.maximum.accumulate(logs, axis=2)
        self.axes = [np.log2(axis) for axis in axes]  # of chunks, tokens a chunk, and stretch
        self._lists = [axis.tolist() for axis in self.axes]
        self.logs = logs  # of seconds, by the axes
        self._nested = logs.tolist()

    def at(self, chunks: PrefillShape) -> float:
        """Seconds of one step's chunks."""
        if not chunks.tokens:
            return 0.0
        cells = []
        for knots, value in zip(self._lists, self._coordinates(chunks, math.log2, max), strict=True):
            lower = min(max(bisect_right(knots, value) - 1, 0), len(knots) - 2)
            cells.append((lower, (value - knots[lower]) / (knots[lower + 1] - knots[lower])))
        (i, x), (j, y), (k, z) = cells
        near, far = self._nested[i], self._nested[i + 1]
        low = _bilinear(near, j, k, y, z)
        return math.exp(low + x * (_bilinear(far, j, k, y, z) - low))

    def many(self, chunks: PrefillShape) -> np.ndarray:
        """Seconds of many steps, [n]; every one has chunks."""
        cells = []
        for knots, value in zip(self.axes, self._coordinates(chunks, np.log2, np.maximum), strict=True):
            lower = np.clip(np.searchsorted(knots, value, side="right") - 1, 0, len(knots) - 2)
            cells.append((lower, (value - knots[lower]) / (knots[lower + 1] - knots[lower])))
        (i, x), (j, y), (k, z) = cells

        def plane(first: np.ndarray) -> np.ndarray:
            low = self.logs[first, j, k] + z * (self.logs[first, j, k + 1] - self.logs[first, j, k])
            high = self.logs[first, j + 1, k] + z * (self.logs[first, j + 1, k + 1] - self.logs[first, j + 1, k])
            return np.asarray(low + y * (high - low))

        low = plane(i)
        return np.asarray(np.exp(low + x * (plane(i + 1) - low)))

    def _coordinates(self, chunks: PrefillShape, log2: Callable[[Any], Any], larger: Callable[..., Any]) -> list[Any]:
        """Logarithms of chunks, tokens a chunk and stretch; the past is such that the (query, key) pairs agree."""
        query, past = equal_chunks(chunks, self.extent, self.cap, larger)
        return [log2(chunks.seqs), log2(query), log2(1 + past / query)]


class KeyTable:
    """Seconds of one execution of a GEMM over the keys that prefill reads, by their number: `PrefillTable` makes chunks
    alike by their (query, key) pairs, which changes how many keys they have.

    Parameters
    ----------
    extent : whose keys they are. seconds, extents : as of `PrefillTable`. max_keys : of a step; beyond it the cost goes
        on along the last line.
    """

    def __init__(self, extent: int, seconds: Callable[[StepShape], Any], *, extents: int, max_keys: int) -> None:
        self.extent = extent
        keys = _knots(max_keys, 16)
        chunks = PrefillShape(keys, np.ones_like(keys), (keys,) * extents, (keys,) * extents)
        # Not made to rise: like those over a step's tokens, GEMMs of few rows may be slower than those of some more.
        self._logs = np.log(np.broadcast_to(seconds(StepShape(keys, 0, 0, (), chunks)), keys.shape))
        self._knots = np.log2(keys)
        self._lists = self._knots.tolist(), self._logs.tolist()

    def at(self, chunks: PrefillShape) -> float:
        """Seconds of one step's chunks."""
        if not chunks.tokens:
            return 0.0
        (knots, logs), value = self._lists, math.log2(chunks.kv[self.extent])
        i = min(max(bisect_right(knots, value) - 1, 0), len(knots) - 2)
        return math.exp(logs[i] + (value - knots[i]) / (knots[i + 1] - knots[i]) * (logs[i + 1] - logs[i]))

    def many(self, chunks: PrefillShape) -> np.ndarray:
        """Seconds of many steps, [n]; every one has chunks."""
        knots, logs, value = self._knots, self._logs, np.log2(chunks.kv[self.extent])
        i = np.clip(np.searchsorted(knots, value, side="right") - 1, 0, len(knots) - 2)
        return np.asarray(np.exp(logs[i] + (value - knots[i]) / (knots[i + 1] - knots[i]) * (logs[i + 1] - logs[i])))


def _bilinear(plane: list[list[float]], j: int, k: int, y: float, z: float) -> float:
    first, second = plane[j], plane[j + 1]
    low = first[k] + z * (first[k + 1] - first[k])
    return low + y * (second[k] + z * (second[k + 1] - second[k]) - low)


def _knots(largest: int, per_octave: int) -> np.ndarray:
    """Whole numbers from 1 to at least `largest`, a factor 2^(1/per_octave) apart."""
    count = max(math.ceil(per_octave * math.log2(max(largest, 2))), 1) + 1
    return np.unique(np.round(2.0 ** (np.arange(count) / per_octave)))


def pairs_of(query: Any, past: Any, cap: int | None) -> Any:
    """(query, key) pairs of a causal chunk, as `simulator.shape.causal_pairs`."""
    if cap is None:
        return query * past + query * (query + 1) / 2
    below = np.clip(cap - past, 0, query)
    return below * past + below * (below + 1) / 2 + (query - below) * cap
