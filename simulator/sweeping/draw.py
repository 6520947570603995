"""A reproducible order of the numbers below any N, without listing them: which combinations a limit draws.

A permutation made of a keyed Feistel network on the next power of four, walking its cycles until a number below N
comes out (Black and Rogaway, Ciphers with arbitrary finite domains, CT-RSA 2002). The first k of it are a sample
without replacement, and the first k of any larger sample from the same seed.
"""

from __future__ import annotations

import hashlib

ROUNDS = 6


def shuffled(index: int, total: int, seed: int) -> int:
    """Where the permutation of `range(total)` that belongs to `seed` sends `index`."""
    half = max(((total - 1).bit_length() + 1) // 2, 1)
    while True:
        index = _feistel(index, half, seed)
        if index < total:
            return index


def _feistel(value: int, half: int, seed: int) -> int:
    """A permutation of the numbers of 2 x `half` bits."""
    mask = (1 << half) - 1
    left, right = value >> half, value & mask
    for turn in range(ROUNDS):
        left, right = right, left ^ (_mixed(right, turn, seed) & mask)
    return (left << half) | right


def _mixed(value: int, turn: int, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{turn}/{value}".encode(), digest_size=16).digest()
    return int.from_bytes(digest, "big")
