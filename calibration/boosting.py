"""Fits the trees of `simulator.trees`: gradient boosting of the mean absolute error with oblivious trees, in NumPy.

Splits are chosen by counts of signs (the gradient of an absolute error), which are whole numbers: the same rows and
seed give the same trees to the bit, whatever the machine's BLAS or number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.trees import Trees

BINS = 255
SMALL = 40_000
"""Below so many rows the squares of their counts fit into 32 bits, which takes half the time."""


def fit_trees(
    features: np.ndarray,
    target: np.ndarray,
    *,
    floor: np.ndarray | None = None,
    trees: int = 300,
    depth: int = 6,
    rate: float = 0.1,
    rows: float = 0.7,
    columns: float = 0.5,
    smooth: float = 8.0,
    seed: int = 0,
) -> Trees:
    """Trees that approximate `target` [n] from `features` [count, n].

    Parameters
    ----------
    floor : [n] or None. What was measured is the larger of the kernel and a host-side floor; a row at its floor only
        says that the kernel's value is not above it.
    trees, depth, rate : how many, questions a tree, and the fraction of a leaf's error that a tree removes.
    rows, columns : fractions drawn anew for every tree.
    smooth : rows that a leaf's value is pulled to zero by.
    """
    rng = np.random.default_rng(seed)
    cuts = [_cuts(column) for column in features]
    used = [i for i, c in enumerate(cuts) if len(c)]
    # A row at its floor does not tell where the kernel is, so it does not tell where to start.
    seen = target if floor is None else target[target > floor]
    base = float(np.median(seen)) if len(seen) else 0.0
    if not used:  # all rows are alike
        return Trees(base, np.zeros((0, 1), np.int16), np.zeros((0, 1), np.float32), np.zeros((0, 2), np.float32))
    bins = np.stack([np.searchsorted(cuts[i], features[i], side="left") for i in used]).astype(np.int32)
    sizes = np.array([len(cuts[i]) + 1 for i in used])
    n = len(target)
    value = np.full(n, base)
    out_f = np.zeros((trees, depth), dtype=np.int16)
    out_t = np.zeros((trees, depth), dtype=np.float32)
    out_v = np.zeros((trees, 1 << depth), dtype=np.float32)
    draw_rows, draw_columns = max(1, int(rows * n)), max(1, round(columns * len(used)))
    for tree in range(trees):
        error = target - (value if floor is None else np.maximum(value, floor))
        pick = np.sort(rng.permutation(n)[:draw_rows])
        chosen = np.sort(rng.permutation(len(used))[:draw_columns])
        offsets = np.concatenate([[0], np.cumsum(sizes[chosen])])
        wrong = pick[error[pick] != 0]  # a row that is right already, as those at their floor are, has no sign
        codes = (bins[np.ix_(chosen, wrong)] + offsets[:-1, None]) * 2 + (error[wrong] > 0)
        leaf = np.zeros(len(wrong), dtype=np.int64)
        every = np.zeros(n, dtype=np.int64)
        width = 2 * int(offsets[-1])
        for level in range(depth):
            best, cut = _best_split(codes, leaf, 1 << level, width, offsets, smooth)
            column = int(chosen[best])
            out_f[tree, level] = used[column]
            out_t[tree, level] = cuts[used[column]][cut]
            bit = bins[column] > cut
            every |= bit.astype(np.int64) << level
            leaf |= bit[wrong].astype(np.int64) << level
        out_v[tree] = rate * _medians(every[pick], error[pick], 1 << depth, smooth)
        value += out_v[tree][every]
    return Trees(base, out_f, out_t, out_v)


def _cuts(column: np.ndarray) -> np.ndarray:
    """Thresholds between a feature's values, float32, at most BINS - 1: all of them, or evenly many rows apart."""
    values = np.unique(column)
    if len(values) > BINS:
        values = np.unique(np.quantile(column, np.linspace(0, 1, BINS), method="nearest"))
    middle = ((values[:-1] + values[1:]) / 2).astype(np.float32)
    return np.unique(middle)


def _best_split(
    codes: np.ndarray, leaf: np.ndarray, leaves: int, width: int, offsets: np.ndarray, smooth: float
) -> tuple[int, int]:
    """The (column, bin) that most reduces the error if every leaf is split there; leaves without rows are left out."""
    seen = np.bincount(leaf, minlength=leaves) > 0
    rank = np.cumsum(seen) - 1
    some = int(rank[-1]) + 1
    counts = np.bincount((codes + rank[leaf] * width).ravel(), minlength=some * width).reshape(some, width // 2, 2)
    whole: type[Any] = np.int32 if codes.shape[1] < SMALL else np.int64
    below, above = (np.cumsum(counts[:, :, side], axis=1, dtype=whole) for side in (0, 1))
    every, surplus = above + below, above - below
    best, where = -1.0, (0, 0)
    for i in range(len(offsets) - 1):
        start, stop = offsets[i], offsets[i + 1]
        rows, gain = every[:, start:stop], surplus[:, start:stop]
        if start:
            rows, gain = rows - every[:, start - 1 : start], gain - surplus[:, start - 1 : start]
        n_left, g_left = rows[:, :-1], gain[:, :-1]
        n_right, g_right = rows[:, -1:] - n_left, gain[:, -1:] - g_left
        score = (g_left * g_left / (n_left + smooth) + g_right * g_right / (n_right + smooth)).sum(axis=0)
        cut = int(np.argmax(score))
        if score[cut] > best:
            best, where = float(score[cut]), (i, cut)
    return where


def _medians(leaf: np.ndarray, error: np.ndarray, leaves: int, smooth: float) -> np.ndarray:
    """Median error of each leaf, pulled towards zero where rows are few."""
    order = np.lexsort((error, leaf))
    count = np.bincount(leaf, minlength=leaves)
    start = np.cumsum(count) - count
    ordered = error[order]
    last = len(ordered) - 1
    low = ordered[np.minimum(start + np.maximum(count - 1, 0) // 2, last)]
    high = ordered[np.minimum(start + count // 2, last)]
    return np.where(count > 0, (low + high) / 2, 0.0) * count / (count + smooth)
