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
from simulator.policy import Advance
from simulator.sequence import Sequence


class Promises:
    """The sum of KV blocks `owed` to the running sequences of a replica, for a `share` (0 to 1) of their outputs."""

    __slots__ = ("_kept", "_phases", "block_size", "drafted", "move", "owed", "share", "span")

    def __init__(self, share: float, block_size: int, advance: Advance) -> None:
        self.share, self.block_size, self.owed = share, block_size, 0
        self.move, self.drafted, self.span = advance.step, advance.drafted, block_size * advance.unit
        self._phases = [0] * self.span  # as the replica's, of the decoding sequences below their promise
        self._kept: list[tuple[int, int, Sequence]] = []  # (counter, joined, sequence)

    def promised(self, seq: Sequence) -> int:
        """Blocks for its prompt and the reserved share of its output, whose last token never enters the cache, and for
        what is drafted beyond.
        """
        return -(-(seq.prompt + ceil(self.share * (seq.output - 1)) + self.drafted) // self.block_size)

    def admitted(self, seq: Sequence, blocks: int) -> None:
        """A sequence starts, with `blocks`."""
        seq.promised = self.promised(seq)
        self.owed += max(0, seq.promised - blocks)

    def joined(self, seq: Sequence, counter: int) -> None:
        """It starts decoding (`joined` and `base` are set)."""
        until = seq.promised * self.span - seq.base  # the counter at which it takes the first block beyond its promise
        if until > counter - self.move:
            self._phases[-seq.base % self.span] += 1
            heappush(self._kept, (until, seq.joined, seq))

    def left(self, seq: Sequence, blocks: int, counter: int | None) -> None:
        """It leaves with `blocks`; `counter` if it was decoding."""
        self.owed -= max(0, seq.promised - blocks)
        if counter is not None and seq.promised * self.span - seq.base > counter - self.move:
            self._phases[-seq.base % self.span] -= 1

    def grow(self, counter: int) -> None:
        """The blocks of the decode step at `counter` are taken."""
        self._take(counter - self.move + 1, counter + 1)

    def advance(self, counter: int, steps: int) -> None:
        """A run of `steps` decode steps from `counter` has ended; its first step's blocks were counted by `grow`."""
        self._take(counter + 1, counter + (steps - 1) * self.move + 1)

    def _take(self, at: int, end: int) -> None:
        """Blocks taken at the counters `at` .. `end - 1` are not owed any more; beyond a promise none are."""
        phases, kept = self._phases, self._kept
        while kept and kept[0][0] < end:
            until, joined, seq = heappop(kept)
            if seq.joined == joined:
                until = max(until, at)  # no block was needed in between if it is before
                self.owed -= growth(phases, at, until - at)
                phases[-seq.base % self.span] -= 1
                at = until
        self.owed -= growth(phases, at, end - at)
