"""What replicas did over time, in bins: the mean over replicas and time, and the highest of any replica at any time.

Exact for values that are constant over a macro-step; none is skipped, however short.
"""

from __future__ import annotations

import numpy as np


def bin_edges(start: float, end: float, bins: int) -> np.ndarray:
    """Edges of `bins` equal bins, seconds; [bins + 1]."""
    return np.linspace(start, end, bins + 1)


def bin_totals(edges: np.ndarray, start: np.ndarray, duration: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Integral of `rate` over each bin, where each row has its rate from `start` for `duration` seconds; [bins].

    O(rows log rows + bins log rows).
    """
    whole = _ramp(edges, start, rate) - _ramp(edges, start + duration, rate)
    return np.maximum(np.diff(whole), 0.0)


def _ramp(edges: np.ndarray, from_s: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Sum of rate x (edge - from) of the rows that have begun, at each edge."""
    order = np.argsort(from_s, kind="stable")
    origin = edges[0]  # differences to it: times may be large against durations
    times, rates = from_s[order] - origin, rate[order]
    begun = np.searchsorted(times, edges - origin)
    slope = np.concatenate([[0.0], np.cumsum(rates)])
    offset = np.concatenate([[0.0], np.cumsum(rates * times)])
    return slope[begun] * (edges - origin) - offset[begun]


def bin_most(edges: np.ndarray, start: np.ndarray, duration: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The highest `value` of any row that touches the bin, 0 where none does; [bins].

    A row over 2^k or more bins is put down as two ranges of 2^k, which halve on their way to single bins:
    O(rows + bins log bins).
    """
    bins = len(edges) - 1
    width = (edges[-1] - edges[0]) / bins
    first = np.clip(((start - edges[0]) / width).astype(np.int64), 0, bins - 1)
    last = np.ceil((start + duration - edges[0]) / width).astype(np.int64) - 1
    last = np.clip(last, first, bins - 1)
    level = np.log2(last - first + 1).astype(np.int64)
    most = np.zeros((level.max(initial=0) + 1, bins))
    np.maximum.at(most, (level, first), value)
    np.maximum.at(most, (level, last + 1 - (1 << level)), value)
    for k in range(len(most) - 1, 0, -1):
        half = 1 << (k - 1)
        most[k - 1] = np.maximum(most[k - 1], most[k])
        most[k - 1, half:] = np.maximum(most[k - 1, half:], most[k, :-half])
    return most[0]


def bin_counts(edges: np.ndarray, times: np.ndarray) -> np.ndarray:
    """How many of `times` fall into each bin; the last one has its right edge too."""
    return np.histogram(times, edges)[0]
