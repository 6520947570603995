"""Waiting queues of a replica: first come first served, or by priority.

Requests that were aborted while waiting stay inside as ghosts (their state is DONE) and are dropped when they come to
the front, so that aborting takes no search. Both queues offer the same methods.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from simulator.policy import DONE

if TYPE_CHECKING:
    from simulator.sequence import Sequence


class FcfsQueue:
    """In order of arrival; a preempted request goes to the front."""

    def __init__(self) -> None:
        self._items: deque[Sequence] = deque()
        self.size = 0

    def add(self, seq: Sequence) -> None:
        self._items.append(seq)
        self.size += 1

    def put_back(self, seq: Sequence) -> None:
        """A preempted request waits again."""
        self._items.appendleft(seq)
        self.size += 1

    def head(self) -> Sequence | None:
        """The next request to admit, None if nobody waits."""
        items = self._items
        while items:
            if items[0].state != DONE:
                return items[0]
            items.popleft()
        return None

    def pop(self) -> None:
        """Remove the head."""
        self._items.popleft()
        self.size -= 1

    def forget(self) -> None:
        """A waiting request has become DONE."""
        self.size -= 1

    def in_order(self) -> Iterator[Sequence]:
        """Those that wait, as they would be admitted one after the other."""
        return (seq for seq in self._items if seq.state != DONE)


class PriorityQueue:
    """By rank, (priority, submission number), the smallest first; a preempted request goes to its place."""

    def __init__(self) -> None:
        self._items: list[tuple[tuple[int, int], Sequence]] = []
        self.size = 0

    def add(self, seq: Sequence) -> None:
        heappush(self._items, (seq.rank, seq))
        self.size += 1

    put_back = add

    def head(self) -> Sequence | None:
        items = self._items
        while items:
            if items[0][1].state != DONE:
                return items[0][1]
            heappop(items)
        return None

    def pop(self) -> None:
        heappop(self._items)
        self.size -= 1

    def forget(self) -> None:
        self.size -= 1

    def in_order(self) -> Iterator[Sequence]:
        return (seq for _, seq in sorted(self._items) if seq.state != DONE)


QUEUES: dict[str, type[FcfsQueue] | type[PriorityQueue]] = {"fcfs": FcfsQueue, "priority": PriorityQueue}
