"""Which deployments nobody would rule out: no other is at least as good in everything and better in something."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.planning.model import Outcome

AXES = ("usd_per_hour", "e2e_s.mean", "joules_per_output_token")
"""Price, latency, energy: less is better."""
THROUGHPUT = "output_tokens_per_s"
"""And this, of which more is better, where the deployment decides it. With timed arrivals all have the throughput of
the load, and what they could do is `Outcome.highest_load`.
"""


def front(outcomes: Sequence[Outcome], *, timed: bool) -> tuple[Outcome, ...]:
    """Those that meet the objectives and that no other dominates, by price.

    Parameters
    ----------
    timed : whether requests arrive at times of their own (a trace, Poisson, ...), so that the throughput is the load's.

    Of several that are alike in everything, all stay. O(n^2) in the outcomes.
    """
    able = [one for one in outcomes if one.verdict.met]
    if not able:
        return ()
    values = np.array([_axes(one, timed) for one in able])
    kept = [i for i, own in enumerate(values) if not ((values <= own).all(axis=1) & (values < own).any(axis=1)).any()]
    return tuple(able[i] for i in sorted(kept, key=lambda i: tuple(values[i])))


def _axes(outcome: Outcome, timed: bool) -> list[float]:
    """What is minimised; a value that does not exist (no token was generated) is the worst."""
    found = [outcome.usd_per_hour, *(_known(outcome.metrics.get(key)) for key in AXES[1:])]
    if not timed:
        found.append(-_known(outcome.metrics.get(THROUGHPUT), worst=0.0))
    return found


def _known(value: float | None, worst: float = float("inf")) -> float:
    return worst if value is None else value
