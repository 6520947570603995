"""What is estimated from trials of a problem: coverage, their lengths in a few bins, and where they were cut.

Coverage of N trials is estimated without bias from M >= N ones of which c are right (Chen et al., arXiv 2107.03374):

    1 - C(M - c, N) / C(M, N),

the chance that N of the M, drawn without putting back, hold a right one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwspecs.errors import InputError


def coverage(trials: Any, correct: Any, n: Any) -> np.ndarray:
    """Unbiased estimate of the chance that one of `n` trials is right, of `trials` with `correct` right ones.

    1 - prod over j < n of (1 - c / (M - j)), in which n and c may change places; so the smaller of them is the number
    of factors. Arrays broadcast. InputError for n > M: more trials than there are say nothing.
    """
    m, c, n = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (trials, correct, n)))
    if np.any(n > m) or np.any(n < 1):
        raise InputError("the trace has fewer trials than that", place="trials", found=int(n.max()),
                         allowed=f"1 to {int(m.min())}")  # fmt: skip
    factors, other = np.minimum(n, c), np.maximum(n, c)
    missed = np.where(n > m - c, 0.0, 1.0)
    for j in range(int(factors.max(initial=0))):
        missed = missed * np.where((j < factors) & (missed > 0), 1 - other / np.maximum(m - j, 1), 1.0)
    return 1 - missed


def binned(values: np.ndarray, bins: int) -> np.ndarray:
    """Means of the values within `bins` equally likely bins of them, rising: their mean is kept. All of them, as they
    come, where there are as many.
    """
    if len(values) == bins:
        return values
    whole = np.concatenate([[0.0], np.cumsum(np.sort(values))]) / len(values)
    edges = np.interp(np.arange(bins + 1) / bins, np.arange(len(whole)) / len(values), whole)
    return bins * np.diff(edges)


def common_end(tokens: Any) -> int | None:
    """Length at which trials were cut: where the longest all end, if more than one in a hundred does; None if they
    ended by themselves.
    """
    tokens = np.asarray(tokens)
    longest = tokens.max()
    return int(longest) if int((tokens == longest).sum()) > max(1, 0.01 * len(tokens)) else None
