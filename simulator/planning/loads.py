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


def probe(resolution: float = RESOLUTION) -> Generator[float, bool, HighestLoad]:
    """Bisect for the highest factor that holds, as the asked load, 1, does: yields factors, is sent whether they do.

    Takes for granted that a load above one that fails fails too; what is returned was simulated on both sides, so that
    it is right at the factors it names.
    """
    low, high = 1.0, None
    for factor in GROWTH:
        if (yield factor):
            low = factor
        else:
            high = factor
            break
    while high is not None and high / low > 1 + resolution:
        middle = (low * high) ** 0.5
        if (yield middle):
            low = middle
        else:
            high = middle
    return HighestLoad(low, high)
