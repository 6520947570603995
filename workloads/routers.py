"""Routers: which replica a request goes to (docs/engine.md, "Requests and jobs").

A new router is a class here, added to `ROUTERS`: the scenario's schema and the engine follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Router(Protocol):
    """Chooses a replica; made anew for every simulation, so it may keep state."""

    def choose(self, outstanding: Sequence[int], session: int) -> int:
        """The replica for the next request, from the number of requests waiting or running on each."""
        ...


class RoundRobin:
    """Each replica in turn."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, outstanding: Sequence[int], session: int) -> int:
        replica = self._next
        self._next = (replica + 1) % len(outstanding)
        return replica


class LeastLoaded:
    """The replica with the fewest requests, the first among equals."""

    def choose(self, outstanding: Sequence[int], session: int) -> int:
        return outstanding.index(min(outstanding))


class SessionAffine:
    """The replica that had the session before; the least loaded one for a new session."""

    def __init__(self) -> None:
        self._home: dict[int, int] = {}
        self._fresh = LeastLoaded()

    def choose(self, outstanding: Sequence[int], session: int) -> int:
        if session not in self._home:
            self._home[session] = self._fresh.choose(outstanding, session)
        return self._home[session]


ROUTERS: dict[str, type[Router]] = {
    "round_robin": RoundRobin,
    "least_loaded": LeastLoaded,
    "session_affine": SessionAffine,
}
