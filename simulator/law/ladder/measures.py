"""What the law's conclusions speak of, measured on one rung of the ladder: thresholds, gains, savings, growth.

Frontiers come from `frontiers.frontier`, what two of them differ by from `frontiers.envelopes`; how a measure is judged
is in `verdicts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from simulator.law.frontiers import envelopes
from simulator.law.frontiers.envelopes import Gain, Growth, Saving, Span
from simulator.law.ladder.claims import Penalty, accuracies, accuracy_share, penalties

if TYPE_CHECKING:
    from simulator.law.frontiers.frontier import Frontier

ROOM = 0.05
"""Accuracy that a model must still have to gain when the frontier leaves it, to be called left before its chain: five
points, the smallest gain that the paper speaks of, and one or two problems of its benchmark's 30."""
LEVELS = np.arange(0.1, 1.0, 0.01)
"""Accuracies at which choices of models are compared; below, the two or three easiest of 30 problems decide."""


LEAST_SAVING = 0.3
"""Accuracy from which savings are looked for; below, they depend on which is the cheapest strategy on offer."""


LEAST_RANGE, MOST_AT_ENDS = 8.0, 0.5
"""A trend in the KV budget is read where the frontier rises over three doublings of the cost, and where the budget can
follow: for half of the costs it is not the smallest or the largest on offer."""


@dataclass(frozen=True)
class Change:
    """Where the frontier changes its model: from `left` to `taken` at `cost` and `accuracy`.

    `room` : accuracy that the model left would still have gained, at whatever cost, with a longer chain or more trials.
    """

    left: str
    taken: str
    cost: float
    accuracy: float
    room: float


@dataclass(frozen=True)
class Measures:
    """What was measured on one rung, for one GPU; None where it cannot be.

    Attributes
    ----------
    attention_ratio : attention over parameters with dense attention at the reference strategy, by model.
    changes, threshold : of the dense frontier; the threshold is the change to the largest model that comes before the
        chain, see `lasting_change`.
    penalty : what the choice that is optimal in FLOPs costs, where it costs most.
    gain, saving : of sparse over dense attention, envelope to envelope, at their largest.
    small_dense, small_sparse : share of the frontier's accuracies on which a small model is the best.
    growth : of the reference model's choices along its sparse frontier.
    best_dense, best_sparse : where which model is the best.
    """

    attention_ratio: dict[str, float] | None = None
    changes: tuple[Change, ...] = ()
    threshold: Change | None = None
    penalty: Penalty | None = None
    gain: Gain | None = None
    saving: Saving | None = None
    small_dense: float | None = None
    small_sparse: float | None = None
    growth: Growth | None = None
    best_dense: tuple[Span, ...] = ()
    best_sparse: tuple[Span, ...] = ()


def measure(
    by_cost: Frontier,
    by_flops: Frontier,
    sparse: str,
    parameters: Mapping[str, float],
    small: Sequence[str],
    reference: str,
    ratios: Mapping[str, float] | None = None,
) -> Measures:
    """Everything at one rung.

    Parameters
    ----------
    by_cost, by_flops : frontiers of the same strategies, along the rung's cost and along FLOPs without memory.
    sparse : the attention that is compared with dense.
    parameters : by model. small : names of the small models.
    reference : the model whose choices are followed along its frontier.
    ratios : attention over parameters by model, where known.
    """
    changes = model_changes(by_cost, "dense")
    paid = penalties(by_flops, by_cost, "dense", LEVELS)
    found = Measures(
        attention_ratio=dict(ratios) if ratios else None,
        changes=changes,
        threshold=lasting_change(changes, parameters),
        penalty=max(paid, key=lambda p: p.ratio, default=None),
        small_dense=accuracy_share(by_cost, "dense", small),
        best_dense=by_cost.envelope("dense").spans,
    )
    if sparse not in by_cost.sparse:
        return found
    costs, full, thin = by_cost.costs, accuracies(by_cost, "dense"), accuracies(by_cost, sparse)
    # An accuracy that dense attention has from the first cost on that it can afford has no known cost.
    least = max(LEAST_SAVING, float(full[np.argmax(full > 0)]))
    return replace(
        found,
        gain=envelopes.largest_gain(costs, full, thin, by_cost.affordable("dense")),
        saving=envelopes.largest_saving(costs, full, thin, least),
        small_sparse=accuracy_share(by_cost, sparse, small),
        best_sparse=by_cost.envelope(sparse).spans,
        growth=growth_of(by_cost, sparse, reference),
    )


def model_changes(front: Frontier, attention: str, least: float = envelopes.LEAST_ACCURACY) -> tuple[Change, ...]:
    """Where the best model of an attention changes, in order of cost, from the accuracy `least` on."""
    spans = front.envelope(attention).spans
    changes = []
    for old, new in pairwise(spans):
        if new.high <= least:
            continue
        curve = accuracies(front, attention, old.model)
        reached = float(np.interp(np.log(new.start), np.log(front.costs), curve))
        changes.append(Change(old.model, new.model, new.start, new.low, float(curve[-1]) - reached))
    return tuple(changes)


def lasting_change(changes: Sequence[Change], parameters: Mapping[str, float], room: float = ROOM) -> Change | None:
    """The change to the largest model that is worth growing to before the chain (or the trials) grows; None if none is.

    The frontier changes to that model for good (no smaller one is the best at any higher cost) while the model that it
    leaves could still gain `room` from a longer chain. A change to a larger model that comes later, when the chain of
    the smaller one has given what it can, does not count.
    """
    lasting = [
        change
        for i, change in enumerate(changes)
        if parameters[change.taken] > parameters[change.left]
        and change.room >= room
        and all(parameters[later.taken] >= parameters[change.taken] for later in changes[i + 1 :])
    ]
    return max(lasting, key=lambda change: parameters[change.taken], default=None)


def growth_of(front: Frontier, sparse: str, model: str) -> Growth | None:
    """How KV budget and tokens grow with the cost along the sparse frontier of one model; None where unknown
    or where there is no trend to be read.
    """
    if model not in front.models:
        return None
    curve = front.curve(model, sparse)
    if curve.whole:
        return None
    found = envelopes.growth(front.costs, curve.accuracy, curve.budget, curve.tokens, curve.trials)
    trend = found is not None and found.end >= LEAST_RANGE * found.start and found.at_ends <= MOST_AT_ENDS
    return found if trend else None
