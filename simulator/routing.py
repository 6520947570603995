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

That is so for many experts a group. Of more than WIDE groups each holds few, and what the unluckiest gets hangs on
where the most popular experts are: there the largest share is that of so many drawn placements, to which chance is
added as above. Engines may hold `redundant` copies: one after the other goes to the expert with the most tokens for
each copy, which the copies share, and groups are then packed so that they are alike, the heaviest expert first (EPLB,
https://github.com/deepseek-ai/EPLB; DeepSeek-V3, arXiv 2412.19437). The placement knows the popularity: an upper bound
of what a rebalancing by past statistics reaches.
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
DRAWN = 0.8
"""What draws of the routing give for EXCESS."""
WIDE, PLACEMENTS, TOKENS = 8, 400, 2000
"""Groups up to which EXCESS was fitted and the normal law serves; placements that are drawn beyond; and tokens, where
what they choose is drawn."""
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


def experts_hit(tokens: Any, experts: int, top_k: int, skew: float = 0.0, redundant: int = 0) -> Any:
    """Expected number of distinct experts, `redundant` copies counted, that `tokens` tokens hit.

    With `skew` it is joined by lines between tabulated numbers of tokens, which are all up to 256.
    """
    if not skew and not redundant:
        return experts * (1 - (1 - top_k / experts) ** tokens)
    found = np.interp(tokens, *_hits(experts, top_k, skew, redundant))
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
def copies(experts: int, top_k: int, skew: float, redundant: int) -> np.ndarray:
    """Probability that a token goes to each copy of an expert, [experts + redundant]: the most loaded one is copied."""
    shares = reach(experts, top_k, skew)
    held = np.ones(experts)
    for _ in range(redundant):
        held[np.argmax(shares / held)] += 1
    return np.repeat(shares / held, held.astype(int))


@lru_cache(maxsize=64)
def _hits(experts: int, top_k: int, skew: float, redundant: int) -> tuple[np.ndarray, np.ndarray]:
    more = EXACT * 2.0 ** (np.arange(1, 16 * np.log2(MOST / EXACT) + 1) / 16)
    tokens = np.concatenate([np.arange(EXACT + 1.0), more])
    missed = (1 - copies(experts, top_k, skew, redundant)) ** tokens[:, None]
    return tokens, experts + redundant - missed.sum(axis=1)


def mean_load(tokens: Any, experts: int, top_k: int, groups: int, skew: float, redundant: int = 0) -> Load:
    """What a group gets on average, from `tokens` tokens of all."""
    hit = experts_hit(tokens, experts, top_k, skew, redundant)
    if groups == 1:
        return Load(tokens * top_k, hit)
    return Load(tokens * top_k / groups, hit / groups)


def busiest_load(tokens: Any, experts: int, top_k: int, groups: int, skew: float, redundant: int = 0) -> Load:
    """What the busiest group gets; with one group, what there is."""
    mean = mean_load(tokens, experts, top_k, groups, skew, redundant)
    if groups == 1:
        return mean
    slots = experts + redundant
    held = slots / groups
    others = (slots - held) / (slots - 1)
    above = EXCESS * np.sqrt(2 * np.log(groups))
    pairs, hit = (np.maximum(part, 1e-9) for part in mean)
    chance = (1 - top_k / experts) / pairs
    if groups <= WIDE and not redundant:
        shares = reach(experts, top_k, skew)
        uneven = (shares.std() / shares.mean()) ** 2 / held
        relative = above * np.sqrt(others * (uneven + chance))
    else:
        placed = EXCESS / DRAWN * _placed(experts, top_k, groups, skew, redundant)
        relative = np.sqrt(placed**2 + above**2 * others * chance)
    most = np.minimum(pairs * (1 + relative), tokens * min(top_k, held))
    hits = np.minimum(hit + above * np.sqrt(others * hit * np.maximum(1 - hit / held, 0.0)), held)
    return Load(most, np.minimum(hits, most))


@lru_cache(maxsize=64)
def _placed(experts: int, top_k: int, groups: int, skew: float, redundant: int) -> float:
    """How far the share of the most popular of `groups` groups lies above their mean, relative to it.

    Without copies the mean over drawn placements, which are the same in every call.
    """
    shares = copies(experts, top_k, skew, redundant)
    if not redundant:
        draws = np.random.default_rng(0).permuted(np.tile(shares, (PLACEMENTS, 1)), axis=1)
        return float(draws.reshape(PLACEMENTS, groups, -1).sum(axis=2).max(axis=1).mean() / (top_k / groups) - 1)
    sums, room = np.zeros(groups), np.full(groups, len(shares) // groups)
    for share in np.sort(shares)[::-1]:
        lightest = np.argmin(np.where(room > 0, sums, np.inf))
        sums[lightest] += share
        room[lightest] -= 1
    return float(sums.max() / (top_k / groups) - 1)


def destinations(units: int, experts: int, top_k: int, groups: int = 1, top_groups: int = 1) -> float:
    """Expected number of `units`, each with an equal part of the experts, that a token's `top_k` experts are in.

    Experts are chosen uniformly. With `groups`, equal parts of the experts side by side, by DeepSeek-V3's rule: those
    of a token are the best of the `top_groups` groups whose two best experts add up to the most (arXiv 2412.19437).
    """
    if groups > 1:
        return _drawn_destinations(units, experts, top_k, groups, top_groups)
    held, missed = experts / units, 1.0
    for i in range(top_k):
        missed *= max(experts - held - i, 0.0) / (experts - i)
    return units * (1 - missed)


@lru_cache(maxsize=64)
def _drawn_destinations(units: int, experts: int, top_k: int, groups: int, top_groups: int) -> float:
    """The same with groups: the mean over tokens with drawn scores, which are the same in every call."""
    scores = np.random.default_rng(0).standard_normal((TOKENS, experts))
    parts = scores.reshape(TOKENS, groups, -1)
    best = np.argsort(np.sort(parts, axis=2)[:, :, -2:].sum(axis=2), axis=1)[:, -top_groups:]
    open_ = np.zeros((TOKENS, groups), dtype=bool)
    np.put_along_axis(open_, best, True, axis=1)
    scores = np.where(open_[:, :, None], parts, -np.inf).reshape(TOKENS, experts)
    chosen = np.argpartition(scores, -top_k, axis=1)[:, -top_k:] * units // experts
    found = np.zeros((TOKENS, units), dtype=bool)
    np.put_along_axis(found, chosen, True, axis=1)
    return float(found.sum(axis=1).mean())
