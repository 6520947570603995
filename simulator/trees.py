"""The learned part of a profile: boosted oblivious trees from dimensionless features to the log of a correction.

An oblivious tree asks the same question of every row on a level: feature > threshold? The answers are the bits of an
index into its leaves. That makes thousands of rows cheap (a few passes over bytes) and one row cheap too (all trees at
once). Only the evaluation is here, in NumPy; `calibration` fits them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

CHUNK = 32_768
"""Rows evaluated at a time, so that what belongs to them stays in the cache."""
FEW = 64
"""Up to so many rows all trees are evaluated at once."""
SOME = 2048
"""Up to so many rows several trees are."""


@dataclass(frozen=True)
class Trees:
    """`features` [trees, depth] are indices, `thresholds` [trees, depth] float32, `leaves` [trees, 2^depth] float32.

    Level d contributes bit d of the leaf's index. The result is `base` plus the sum over the trees.
    """

    base: float
    features: np.ndarray
    thresholds: np.ndarray
    leaves: np.ndarray
    _bits: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_bits", 1 << np.arange(self.features.shape[1]))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Values [n] in float64 of features [count, n] (a row an array: the layout in which they are computed)."""
        n = rows.shape[1]
        out = np.full(n, self.base)
        if n <= FEW:
            for i in range(n):
                index = (rows[:, i][self.features] > self.thresholds) @ self._bits
                if len(index):  # one after the other, as `_many` adds them: equal bits however many rows there are
                    out[i] += self.leaves[np.arange(len(index)), index].cumsum(dtype=np.float32)[-1]
            return out

        if n <= SOME and len(self.features):
            return out + self._some(rows)
        for start in range(0, n, CHUNK):
            out[start : start + CHUNK] += self._many(rows[:, start : start + CHUNK])
        return out

    def _some(self, rows: np.ndarray) -> np.ndarray:
        """As `_many`, to the last bit, with some trees at a time: so few rows cost less than the call for each tree."""
        binned = self._binned(rows)
        place = {feature: i for i, feature in enumerate(binned)}
        columns = np.array([place[f] for f in self.features.ravel().tolist()]).reshape(self.features.shape)
        matrix = np.stack(list(binned.values()))
        n, depth = rows.shape[1], self.features.shape[1]
        leaves, size = self.leaves.ravel(), self.leaves.shape[1]
        total = np.zeros(n, dtype=np.float32)
        step = max(CHUNK // n, 8)
        for start in range(0, len(columns), step):
            some, codes = columns[start : start + step], self._codes[start : start + step]
            index = np.zeros((len(some), n), dtype=np.int32)
            for level in range(depth - 1, -1, -1):
                index += index
                index += matrix[some[:, level]] > codes[:, level, None]
            index += (np.arange(start, start + len(some), dtype=np.int32) * size)[:, None]
            values = leaves.take(index)
            values[0] += total
            total = np.add.reduce(values, axis=0)  # down the columns: tree after tree, in their order
        return total

    def _many(self, rows: np.ndarray) -> np.ndarray:
        binned = self._binned(rows)
        total = np.zeros(rows.shape[1], dtype=np.float32)
        depth = self.features.shape[1]
        index = np.empty(rows.shape[1], dtype=np.uint8 if depth <= 8 else np.uint16)
        above = np.empty(rows.shape[1], dtype=bool)
        bit = above.view(np.uint8)
        for features, codes, leaves in zip(self.features.tolist(), self._codes.tolist(), self.leaves, strict=True):
            np.greater(binned[features[-1]], codes[-1], out=above)
            index[:] = bit
            for level in range(depth - 2, -1, -1):
                np.add(index, index, out=index)
                np.greater(binned[features[level]], codes[level], out=above)
                np.add(index, bit, out=index)
            total += leaves.take(index)
        return total

    def _binned(self, rows: np.ndarray) -> dict[int, np.ndarray]:
        """For every feature in use, in which of the intervals between its thresholds a row lies (a byte a row)."""
        codes = {}
        for feature, cuts in self._cuts.items():
            codes[feature] = np.searchsorted(cuts, rows[feature], side="left").astype(np.uint8)
        return codes

    @cached_property
    def _cuts(self) -> dict[int, np.ndarray]:
        """The thresholds of every feature in use, sorted."""
        return {int(f): np.unique(self.thresholds[self.features == f]) for f in np.unique(self.features)}

    @cached_property
    def _codes(self) -> np.ndarray:
        """[trees, depth] uint8: which of its feature's cuts a threshold is."""
        codes = np.zeros(self.features.shape, dtype=np.uint8)
        for feature, cuts in self._cuts.items():
            of = self.features == feature
            codes[of] = np.searchsorted(cuts, self.thresholds[of])
        return codes
