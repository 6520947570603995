"""A request inside the engine: what a replica has to remember of it between two events."""

from __future__ import annotations

from typing import Any

from simulator.policy import COMING

Chain = tuple[tuple[int, int], ...]


class Sequence:
    """A request on its way through a replica."""

    __slots__ = (
        "base",
        "chain",
        "computed",
        "first_token",
        "generated",
        "hit_tokens",
        "index",
        "joined",
        "known",
        "marked",
        "output",
        "preempted_at",
        "preemptions",
        "promised",
        "prompt",
        "rank",
        "replica",
        "started",
        "state",
    )

    def __init__(self, index: int, prompt: int, output: int, chain: Chain, rank: tuple[int, int], replica: Any) -> None:
        self.index, self.prompt, self.output, self.chain = index, prompt, output, chain
        self.rank = rank  # (priority, submission number): smaller goes first where priorities count
        self.replica = replica  # the `Replica` that it was routed to
        self.state = COMING
        self.generated = 0
        self.known = prompt  # tokens known when it was last admitted: prompt and what had been generated
        self.computed = 0  # of these, in the KV cache, while in prefill
        self.base = 0  # while decoding: the last place that a step writes minus the replica's counter, in its units
        self.joined = -1  # serial number of its present stay among the decoding ones
        self.started = 0  # when it last began decoding, ticks
        self.marked = False
        self.preemptions = self.hit_tokens = 0
        self.promised = 0  # KV blocks, while it runs (`Promises`)
        self.first_token: int | None = None
        self.preempted_at: int | None = None  # since when its reader waits for the next token
