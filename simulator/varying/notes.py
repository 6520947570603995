"""Notes of many points, put together."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PART = re.compile(r"\s*,?\s*([^(),:]+ \([^()]*), (\d+(?:\.\d+)?)% of the time\)")


def merged(notes: Iterable[str]) -> list[str]:
    """Each note once, in order. Of those that name parts of the time, such as `...: gemm (h200-sxm, 5% of the time)`,
    one for all with the range of each part's shares: `gemm (h200-sxm, 3% to 12% of the time)`.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for note in notes:
        parts = list(_PART.finditer(note))
        if not parts or parts[-1].end() != len(note):
            found.setdefault(note, {})
            continue
        shares = found.setdefault(note[: parts[0].start()], {})
        for part in parts:
            shares.setdefault(part[1], []).append(float(part[2]))
    return [f"{note} {', '.join(map(_named, shares.items()))}" if shares else note for note, shares in found.items()]


def _named(item: tuple[str, list[float]]) -> str:
    """A part with its share, or the range of its shares."""
    low, high = min(item[1]), max(item[1])
    share = f"{low:g}%" if low == high else f"{low:g}% to {high:g}%"
    return f"{item[0]}, {share} of the time)"
