"""What an MoE layer's router gives one GPU: (token, expert) pairs, and experts that get any.

Every token chooses `top_k` different experts, independently of the other tokens; the expert of rank r with a
probability (its *reach*) in proportion to r^-skew, but at most 1. So skew 0 is uniform routing, and T tokens hit

    hits(T) = sum over experts of 1 - (1 - reach)^T

of them. With expert parallelism `groups` GPUs (or groups of GPUs) hold equal parts of the experts, `held` each, in no
order of rank. All wait for the one with the most to do, so a layer takes as long as the *busiest*; together they do
`groups` times the mean. A group's pairs vary with the reach of its experts and by chance, its hits with which of its
experts are hit. With P pairs and H hits in the mean, relative variances are

    pairs: v (cv^2 / held + (1 - top_k / experts) / P)        hits: v (1 - H / held) / H

with cv the coefficient of variation of the reach, and v = (experts - held) / (experts - 1), since what one group gets
the others do not. The largest of `groups` normal draws lies about sqrt(2 ln groups) deviations above the mean, somewhat
less for few.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from workloads.model import Model

EXCESS = 0.4
"""Of the largest of so many normal draws, sqrt(2 ln groups) standard deviations above the mean. Draws of the routing
give 0.8; measured deployments with expert parallelism say half of that, to which this is fitted."""
LEARNED_SKEW, BALANCED_SKEW = 0.9, 0.45
"""How unevenly trained routers choose, as fitted to measured deployments (docs/engine.md): those that choose by logits
alone (gpt-oss, Qwen3), and those that a bias, added only to choose by, keeps balanced (MiniMax-M2.5)."""
EXACT, MOST = 256, 2.0**30
"""Up to so many tokens hits are tabulated for each number, then a factor 2^(1/16) apart."""


class Load(NamedTuple):
    """Of one GPU: `pairs` of a token and one of its experts; `hit`, experts with any."""

    pairs: Any
    hit: Any


def usual_skew(model: Model) -> float:
    """The skew of a model's routing where nothing else is known of it; 0 without experts."""
    if model.moe is None:
        return 0.0
    return BALANCED_SKEW if model.moe.balanced else LEARNED_SKEW


def experts_hit(tokens: Any, experts: int, top_k: int, skew: float = 0.0) -> Any:
    """Expected number of distinct experts that `tokens` tokens hit.

    With `skew` it is joined by lines between tabulated numbers of tokens, which are all up to 256.
    """
    if not skew:
        return experts * (1 - (1 - top_k / experts) ** tokens)
    found = np.interp(tokens, *_hits(experts, top_k, skew))
    return found if np.ndim(tokens) else float(found)


@lru_cache(maxsize=64)
def reach(experts: int, top_k: int, skew: float) -> np.ndarray:
    """Probability that a token chooses each expert, most likely first, [experts]; they add up to `top_k`."""
    weights = np.arange(1, experts + 1.0) ** -skew
    sure = 0  # experts that every token chooses
    while weights[sure] * (top_k - sure) > weights[sure:].sum() * (1 + 1e-12):
        sure += 1
    return np.concatenate([np.ones(sure), weights[sure:] * (top_k - sure) / weights[sure:].sum()])


@lru_cache(maxsize=64)
def _hits(experts: int, top_k: int, skew: float) -> tuple[np.ndarray, np.ndarray]:
    more = EXACT * 2.0 ** (np.arange(1, 16 * np.log2(MOST / EXACT) + 1) / 16)
    tokens = np.concatenate([np.arange(EXACT + 1.0), more])
    missed = (1 - reach(experts, top_k, skew)) ** tokens[:, None]
    return tokens, experts - missed.sum(axis=1)


def mean_load(tokens: Any, experts: int, top_k: int, groups: int, skew: float) -> Load:
    """What a group gets on average, from `tokens` tokens of all."""
    hit = experts_hit(tokens, experts, top_k, skew)
    if groups == 1:
        return Load(tokens * top_k, hit)
    return Load(tokens * top_k / groups, hit / groups)


def busiest_load(tokens: Any, experts: int, top_k: int, groups: int, skew: float) -> Load:
    """What the busiest group gets; with one group, what there is."""
    mean = mean_load(tokens, experts, top_k, groups, skew)
    if groups == 1:
        return mean
    held = experts / groups
    shares = reach(experts, top_k, skew)
    uneven = (shares.std() / shares.mean()) ** 2 / held
    others = (experts - held) / (experts - 1)
    above = EXCESS * np.sqrt(2 * np.log(groups))
    pairs, hit = (np.maximum(part, 1e-9) for part in mean)
    spread = np.sqrt(others * (uneven + (1 - top_k / experts) / pairs))
    most = np.minimum(pairs * (1 + above * spread), tokens * min(top_k, held))
    hits = np.minimum(hit + above * np.sqrt(others * hit * np.maximum(1 - hit / held, 0.0)), held)
    return Load(most, np.minimum(hits, most))
