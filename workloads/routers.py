"""Routers: which replica a request goes to (docs/engine.md, "Requests and jobs").

A new router is a class here, added to `ROUTERS`: the scenario's schema and the engine follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

_MASK = 2**64 - 1


class Load:
    """What a router sees of its replicas: of the requests sent to each that it is not done with, their number and
    their prompts' tokens.
    """

    __slots__ = ("requests", "tokens")

    def __init__(self, replicas: int) -> None:
        self.requests, self.tokens = [0] * replicas, [0] * replicas

    def add(self, replica: int, prompt: int) -> None:
        """A request is sent to it."""
        self.requests[replica] += 1
        self.tokens[replica] += prompt

    def remove(self, replica: int, prompt: int) -> None:
        """It is done with one."""
        self.requests[replica] -= 1
        self.tokens[replica] -= prompt


class Router(Protocol):
    """Chooses a replica; made anew for every simulation, so it may keep state."""

    def choose(self, load: Load, session: int, cached: Callable[[int], int]) -> int:
        """The replica for the next request; `cached(replica)` is how many KV blocks of its prompt are there now."""
        ...


class RoundRobin:
    """Each replica in turn."""

    def __init__(self, seed: int = 0) -> None:
        self._next = 0

    def choose(self, load: Load, session: int, cached: Callable[[int], int]) -> int:
        replica = self._next
        self._next = (replica + 1) % len(load.requests)
        return replica


class LeastLoaded:
    """The replica with the fewest requests, the first among equals."""

    def __init__(self, seed: int = 0) -> None:
        pass

    def choose(self, load: Load, session: int, cached: Callable[[int], int]) -> int:
        return _least(load.requests)


class LeastTokens:
    """The replica whose requests have the fewest prompt tokens together, the first among equals."""

    def __init__(self, seed: int = 0) -> None:
        pass

    def choose(self, load: Load, session: int, cached: Callable[[int], int]) -> int:
        return _least(load.tokens)


class PowerOfTwo:
    """The less loaded of two replicas that are drawn for each request; the first among equals."""

    def __init__(self, seed: int = 0) -> None:
        self._seed, self._count = seed, 0

    def choose(self, load: Load, session: int, cached: Callable[[int], int]) -> int:
        one, other = two_of(self._seed, self._count, len(load.requests))
        self._count += 1
        if one > other:
            one, other = other, one
        return other if load.requests[other] < load.requests[one] else one


class SessionAffine:
    """The replica that had the session before; the least loaded one for a new session."""

    def __init__(self, seed: int = 0) -> None:
        self._home: dict[int, int] = {}

    def choose(self, load: Load, session: int, cached: Callable[[int], int]) -> int:
        if session not in self._home:
            self._home[session] = _least(load.requests)
        return self._home[session]


class PrefixAware:
    """The replica with the longest part of the prompt in its prefix cache; the least loaded, then the first among
    equals.
    """

    def __init__(self, seed: int = 0) -> None:
        pass

    def choose(self, load: Load, session: int, cached: Callable[[int], int]) -> int:
        requests = load.requests
        return min(range(len(requests)), key=lambda replica: (-cached(replica), requests[replica], replica))


def _least(values: Sequence[int]) -> int:
    return values.index(min(values))


def two_of(seed: int, count: int, replicas: int) -> tuple[int, int]:
    """Two different replicas (if there are two) for request number `count`, by splitmix64 (Steele, Lea and Flood,
    "Fast splittable pseudorandom number generators", OOPSLA 2014): the same on every machine.
    """
    if replicas == 1:
        return 0, 0
    z = (seed + (count + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    z ^= z >> 31
    one = (z & 0xFFFFFFFF) % replicas
    return one, (one + 1 + (z >> 32) % (replicas - 1)) % replicas


PREFIX_AWARE = "prefix_aware"
ROUTERS: dict[str, Callable[[int], Router]] = {
    "round_robin": RoundRobin,
    "least_loaded": LeastLoaded,
    "least_tokens": LeastTokens,
    "power_of_two": PowerOfTwo,
    "session_affine": SessionAffine,
    PREFIX_AWARE: PrefixAware,
}
"""Name in a scenario -> what makes the router, from the scenario's seed."""
