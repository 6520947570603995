"""The highest load that a deployment holds: the same requests, arriving ever faster until an objective is lost."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from workloads.requests import Requests

GROWTH = (1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
"""Factors on the asked load that are tried until one fails; the last is the limit of the search."""
RESOLUTION = 0.03
"""Relative, of the highest load."""


@dataclass(frozen=True)
class HighestLoad:
    """What a deployment holds.

    Attributes
    ----------
    factor : on the asked load, at which the objectives were met. fails_at : the lowest at which they were not; None if
        the search ended before it found one.
    """

    factor: float
    fails_at: float | None


def has_load(requests: Requests) -> bool:
    """Whether there is a load to raise: not where everything is there from the start."""
    return requests.concurrency is not None or float(requests.job_arrival_s[-1]) > 0


def probe(concurrency: int | None = None, resolution: float = RESOLUTION) -> Generator[float, bool, HighestLoad]:
    """Bisect for the highest factor that holds, as the asked load, 1, does: yields factors, is sent whether they do.

    Takes for granted that a load above one that fails fails too; what is returned was simulated on both sides, so that
    it is right at the factors it names. `concurrency` : the asked load's of a closed loop, of which only whole numbers
    can be in flight.
    """
    low, high = 1.0, None
    for factor in GROWTH:
        asked = _possible(factor, concurrency)
        if asked <= low:
            continue
        if (yield asked):
            low = asked
        else:
            high = asked
            break
    while high is not None and high / low > 1 + resolution:
        middle = _possible((low * high) ** 0.5, concurrency)
        if not low < middle < high:
            step = 1 / concurrency if concurrency else 0.0
            middle = low + step
            if not low < middle < high - step / 2:
                break
        if (yield middle):
            low = middle
        else:
            high = middle
    return HighestLoad(low, high)


def _possible(factor: float, concurrency: int | None) -> float:
    """The nearest factor that a load can have."""
    return factor if concurrency is None else round(factor * concurrency) / concurrency
