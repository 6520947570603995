"""Lengths of trials that are cut at a limit, and solve shares, by problem: the mathematics under `parametric`.

T is lognormal: log T is normal with the mean `mu` (an array, one a problem) and the standard deviation `sigma`. Phi is
the normal distribution function.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def standard_difficulty(problems: int) -> np.ndarray:
    """Difficulty of equally likely problems in standard deviations, rising: quantiles at the bins' middles."""
    from scipy.special import ndtri

    return ndtri((np.arange(problems) + 0.5) / problems)


def solve_shares(ceiling: float, concentration: float, problems: int) -> np.ndarray:
    """Solve shares of equally likely problems, falling: means of Beta(a, b), a = ceiling concentration, b = (1 -
    ceiling) concentration, within bins of equal probability, so that their mean is `ceiling`.

    With the regularised incomplete beta function I, the integral of p over the problems below p = x is ceiling I(x;
    a + 1, b). Near x = 1, where p differs from 1 by less than a number can, it is what 1 - p leaves: with y = 1 - x,
    ceiling - (1 - u) + (1 - ceiling) I(y; b + 1, a), u the share of problems below x.
    """
    from scipy.special import betainc, betaincinv

    a, b = ceiling * concentration, (1 - ceiling) * concentration
    u = np.arange(problems + 1) / problems
    x, y = betaincinv(a, b, u), betaincinv(b, a, 1 - u)
    below = ceiling * betainc(a + 1, b, x)
    above = ceiling - (1 - u) + (1 - ceiling) * betainc(b + 1, a, y)
    return np.clip(problems * np.diff(np.where(x < 0.5, below, above)), 0, 1)[::-1]


def answered(limit: Any, mu: Any, sigma: float) -> Any:
    """P(T <= limit)."""
    from scipy.special import ndtr

    return ndtr((np.log(limit) - mu) / sigma)


def cut_length(limit: Any, mu: Any, sigma: float) -> Any:
    """E[min(T, limit)] = exp(mu + sigma^2 / 2) Phi(z - sigma) + limit Phi(-z), z = (log limit - mu) / sigma."""
    from scipy.special import ndtr

    z = (np.log(limit) - mu) / sigma
    return np.exp(mu + sigma**2 / 2) * ndtr(z - sigma) + limit * ndtr(-z)


def cut_square(limit: Any, mu: Any, sigma: float) -> Any:
    """E[min(T, limit)^2] = exp(2 mu + 2 sigma^2) Phi(z - 2 sigma) + limit^2 Phi(-z)."""
    from scipy.special import ndtr

    z = (np.log(limit) - mu) / sigma
    return np.exp(2 * mu + 2 * sigma**2) * ndtr(z - 2 * sigma) + np.square(limit) * ndtr(-z)


def bin_lengths(mu: np.ndarray, sigma: float, limit: float, bins: int) -> np.ndarray:
    """Means of min(T, limit) within equally likely bins, rising: shape (len(mu), bins). Their mean is `cut_length`.

    A bin below the limit has the mean exp(mu + sigma^2 / 2) (Phi(z2 - sigma) - Phi(z1 - sigma)) bins between its edges
    z1 and z2; the bin that the limit cuts has the limit in place of what is longer.
    """
    from scipy.special import ndtr, ndtri

    edges = ndtri(np.arange(bins + 1) / bins)
    cut = (np.log(limit) - mu)[:, None] / sigma
    below = np.minimum(edges[None, :], cut)
    mass = np.diff(ndtr(below - sigma), axis=1) * np.exp(mu + sigma**2 / 2)[:, None]
    return bins * (mass + limit * (1 / bins - np.diff(ndtr(below), axis=1)))
