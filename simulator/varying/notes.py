"""Notes of many points, put together."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SHARE = re.compile(r"(\d+(?:\.\d+)?)% of the time")


def merged(notes: Iterable[str]) -> list[str]:
    """Each note once, in order; those that differ in nothing but shares of the time as one with the range of these:
    `gemm (h200-sxm, 3% to 12% of the time)`.
    """
    shares: dict[str, list[tuple[float, ...]]] = {}
    for note in notes:
        found = tuple(float(share) for share in _SHARE.findall(note))
        shares.setdefault(_SHARE.sub("\0", note), []).append(found)
    return [_filled(text, several) for text, several in shares.items()]


def _filled(text: str, several: list[tuple[float, ...]]) -> str:
    """The note with the range of each of its shares."""
    first, *rest = text.split("\0")
    for part, own in zip(rest, zip(*several, strict=True), strict=True):
        low, high = min(own), max(own)
        first += f"{low:g}% of the time" if low == high else f"{low:g}% to {high:g}% of the time"
        first += part
    return first
