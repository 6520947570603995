"""What admission sets aside for the outputs of those that run: `reserve_output` (docs/engine.md, "Scheduling a step").

A request is *promised* the blocks of its prompt and a share of its output, and *owed* what it does not hold of them.
Only the sum of what is owed matters. It falls by one with every block that a sequence takes below its promise, so it
is kept like the other sums of a replica: phases say how many blocks a decode step takes, a heap of counters says whose
promise is kept next.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import ceil

from simulator.kvpool import growth
from simulator.sequence import Sequence


class Promises:
    """The sum of KV blocks `owed` to the running sequences of a replica, for a `share` (0 to 1) of their outputs."""

    __slots__ = ("_kept", "_phases", "block_size", "owed", "share")

    def __init__(self, share: float, block_size: int) -> None:
        self.share, self.block_size, self.owed = share, block_size, 0
        self._phases = [0] * block_size  # as the replica's, of the decoding sequences below their promise
        self._kept: list[tuple[int, int, Sequence]] = []  # (counter, joined, sequence)

    def promised(self, seq: Sequence) -> int:
        """Blocks for its prompt and the reserved share of its output, whose last token never enters the cache."""
        return -(-(seq.prompt + ceil(self.share * (seq.output - 1))) // self.block_size)

    def admitted(self, seq: Sequence, blocks: int) -> None:
        """A sequence starts, with `blocks`."""
        seq.promised = self.promised(seq)
        self.owed += max(0, seq.promised - blocks)

    def joined(self, seq: Sequence, counter: int) -> None:
        """It starts decoding (`joined`, `base` and `known` are set)."""
        left = seq.promised * self.block_size - seq.known
        if left > 0:
            self._phases[-seq.base % self.block_size] += 1
            heappush(self._kept, (counter + left, seq.joined, seq))

    def left(self, seq: Sequence, blocks: int, computed: int, decoding: bool) -> None:
        """It leaves with `blocks`, after `computed` tokens."""
        self.owed -= max(0, seq.promised - blocks)
        if decoding and computed < seq.promised * self.block_size:
            self._phases[-seq.base % self.block_size] -= 1

    def grow(self, counter: int) -> None:
        """The blocks of the decode step at `counter` are taken."""
        self.owed -= self._phases[counter % self.block_size]

    def advance(self, counter: int, steps: int) -> None:
        """A run of `steps` decode steps from `counter` has ended; its first step's blocks were counted by `grow`."""
        phases, kept = self._phases, self._kept
        at, end = counter + 1, counter + steps
        while kept and kept[0][0] <= end:
            until, joined, seq = heappop(kept)
            if seq.joined == joined:
                self.owed -= growth(phases, at, until - at)
                phases[-seq.base % self.block_size] -= 1
                at = until
        self.owed -= growth(phases, at, end - at)
