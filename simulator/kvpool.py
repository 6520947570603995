"""The paged KV pool of one replica: block counts, the prefix cache and its LRU queue (docs/engine.md, "KV blocks").

Blocks are counted, not enumerated. What can be found again is always a run of blocks that are used and released
together (a prefix unit, or the own blocks of a preempted request), so the free queue is a queue of such runs: taking
blocks shortens the run at its front from the end, which is the order in which single blocks would have been taken.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class Unit:
    """A run of findable blocks: `resident` of its `blocks` are in the pool, `refs` sequences hold it."""

    __slots__ = ("blocks", "key", "refs", "resident")

    def __init__(self, key: object, blocks: int) -> None:
        self.key, self.blocks, self.resident, self.refs = key, blocks, 0, 0


class KVPool:
    """Free blocks and the prefix cache of a replica.

    A request's findable blocks are `chain`, a sequence of (key, blocks): equal keys mean equal content, including
    everything before it. `own` is the key under which its blocks after the chain are kept when it is preempted.
    """

    __slots__ = ("_queue", "_serial", "_units", "block_size", "free", "total")

    def __init__(self, total: int, block_size: int) -> None:
        self.total, self.block_size, self.free = total, block_size, total
        self._units: dict[object, Unit] = {}
        # Runs in the order in which they will be taken, kept only while there are units (else nothing is findable and
        # the order does not matter; see `_track`). A Unit is keyed by its (integer) key; an unfindable run, a list of
        # one count so that neighbours can be merged, by (serial number,).
        self._queue: OrderedDict[object, Unit | list[int]] = OrderedDict({(0,): [total]})
        self._serial = 0

    @property
    def used(self) -> int:
        return self.total - self.free

    def take(self, blocks: int) -> None:
        """Take `blocks` from the front of the free queue, forgetting what was findable there."""
        self.free -= blocks
        if not self._units:
            return
        queue = self._queue
        while blocks:
            key, run = next(iter(queue.items()))
            if isinstance(run, Unit):
                taken = min(blocks, run.resident)
                run.resident -= taken
                if run.resident == 0:
                    del queue[key], self._units[key]
            else:
                taken = min(blocks, run[0])
                run[0] -= taken
                if run[0] == 0:
                    del queue[key]
            blocks -= taken

    def admit(self, chain: Sequence[tuple[object, int]], own: object, blocks: int, spare: int) -> int:
        """Take `blocks` blocks for a request, using what is cached of them.

        Returns the number of blocks found in the cache, or -1, with nothing changed, if the rest does not fit with
        `spare` blocks to spare.
        """
        if not chain and own not in self._units:  # nothing shared: the common case
            if blocks + spare > self.free:
                return -1
            self.take(blocks)
            return 0
        held, own_unit, found, evictable = self._look_up(chain, own)
        if blocks - found + evictable + spare > self.free:
            return -1
        for unit in held:
            if unit.refs == 0:
                del self._queue[unit.key]
        if own_unit is not None:
            del self._queue[own], self._units[own]
        self.free -= evictable
        self.take(blocks - found)
        for key, size in chain:
            if key not in self._units:
                self._track()
                self._units[key] = Unit(key, size)
            unit = self._units[key]
            unit.resident = size
            unit.refs += 1
        return found

    def find(self, chain: Sequence[tuple[object, int]], own: object) -> int:
        """Number of blocks of a request that are in the cache."""
        return self._look_up(chain, own)[2]

    def _look_up(self, chain: Sequence[tuple[object, int]], own: object) -> tuple[list[Unit], Unit | None, int, int]:
        """Units found of the chain, the own unit, their blocks in the cache, and how many of these nobody holds."""
        found = evictable = 0
        held: list[Unit] = []
        for key, size in chain:
            unit = self._units.get(key)
            if unit is None:
                return held, None, found, evictable
            held.append(unit)
            found += unit.resident
            if unit.refs == 0:
                evictable += unit.resident
            if unit.resident < size:
                return held, None, found, evictable
        own_unit = self._units.get(own)
        if own_unit is not None:
            found += own_unit.resident
            evictable += own_unit.resident
        return held, own_unit, found, evictable

    def release(
        self, chain: Sequence[tuple[object, int]], own: object | None, blocks: int, computed_blocks: int
    ) -> None:
        """Give back the `blocks` of a sequence, of which the first `computed_blocks` are full and computed.

        With `own` given (a preemption) the computed blocks after the chain stay findable under that key.
        """
        offset = sum(size for _, size in chain)
        kept = max(0, computed_blocks - offset) if own is not None else 0
        self._append(blocks - offset - kept)
        if kept:
            self._track()
            unit = self._units[own] = Unit(own, kept)
            self._append_unit(unit, kept)
        for key, size in reversed(chain):
            offset -= size
            unit = self._units[key]
            unit.refs -= 1
            if unit.refs == 0:
                computed = min(size, max(0, computed_blocks - offset))
                self._append(size - computed)
                if computed:
                    self._append_unit(unit, computed)
                else:
                    del self._units[key]

    def _track(self) -> None:
        """Before the first unit comes: what is free now is one run in which nothing can be found."""
        if not self._units:
            self._queue = OrderedDict({(0,): [self.free]})

    def _append(self, blocks: int) -> None:
        """Unfindable blocks to the end of the queue."""
        self.free += blocks
        if blocks == 0 or not self._units:
            return
        if self._queue:
            last = self._queue[next(reversed(self._queue))]
            if not isinstance(last, Unit):
                last[0] += blocks
                return
        self._serial += 1
        self._queue[(self._serial,)] = [blocks]

    def _append_unit(self, unit: Unit, resident: int) -> None:
        unit.resident = resident
        self.free += resident
        self._queue[unit.key] = unit


def growth(phases: list[int], first: int, steps: int) -> int:
    """Blocks that the decode steps of the counters `first` .. `first + steps - 1` take.

    `phases[p]` sequences need a block when the counter modulo the block size, which is `len(phases)`, is `p`.
    """
    size = len(phases)
    at, rest = first % size, steps % size
    total = sum(phases[at : at + rest])
    if at + rest > size:
        total += sum(phases[: at + rest - size])
    return total if steps < size else total + steps // size * sum(phases)
