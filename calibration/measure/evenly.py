"""Orders of which every beginning is spread evenly: points of the unit cube, and visits of a given set of points."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

EDGE = 1 - 1e-9
"""The last coordinate."""


def even_point(index: int, dims: int) -> tuple[float, ...]:
    """Point `index` of a sequence of which every beginning covers the unit cube evenly.

    The additive recurrence with the powers of the generalised golden ratio, the root of x^(dims + 1) = x + 1 (M.
    Roberts, 2018, "The unreasonable effectiveness of quasirandom sequences").
    """
    ratio = _golden(dims)
    return tuple((0.5 + (index + 1) * ratio ** -(j + 1)) % 1.0 for j in range(dims))


@functools.cache
def _golden(dims: int) -> float:
    x = 1.5
    for _ in range(64):
        x = (1 + x) ** (1 / (dims + 1))
    return x


def spread(items: Sequence[Any], at: Sequence[tuple[float, ...]]) -> list[Any]:
    """`items`, which lie `at` points of the unit cube, in an order of which every beginning covers them evenly: each
    next one is the nearest to the next point of an even sequence. O(n^2).
    """
    left = list(range(len(items)))
    order = []
    for index in range(len(items)):
        target = even_point(index, len(at[0]))
        best = min(left, key=lambda i: sum((a - b) ** 2 for a, b in zip(at[i], target, strict=True)))
        left.remove(best)
        order.append(items[best])
    return order


def extremes(dims: int, axes: int = 2) -> Iterator[tuple[float, ...]]:
    """The ends of the first `axes` axes, all else in the middle: so that ranges are known to their ends."""
    for axis in range(min(axes, dims)):
        for end in (0.0, EDGE):
            yield tuple(end if i == axis else 0.5 for i in range(dims))
