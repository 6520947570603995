"""What the engine is told about serving, apart from the requests and the cost of a step (docs/engine.md)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

TICKS_PER_SECOND = 2**60
SECONDS_PER_TICK = 2.0**-60


def to_ticks(seconds: float) -> int:
    """The nearest whole number of clock ticks (exact for any float that is a multiple of 2^-60 s)."""
    return round(seconds * TICKS_PER_SECOND)


class Status(IntEnum):
    """How a request ended."""

    FINISHED = 0
    ABORTED = 1
    REJECTED = 2


# Where a request is on its way through a replica; a COMING one has not reached the waiting queue yet,
# of a LANDING one the KV is set aside and comes from elsewhere.
WAITING, PREFILL, DECODE, DONE, COMING, LANDING = range(6)


@dataclass(frozen=True)
class Advance:
    """How far a decoding sequence comes in a step: `drafted` tokens are verified beside its newest one, and it advances
    by its mean, `step` / `unit` tokens, in every step (docs/speculation.md); one token without speculation.
    """

    drafted: int = 0
    step: int = 1
    unit: int = 1

    @property
    def queries(self) -> int:
        """Tokens of a sequence that a decode step computes."""
        return self.drafted + 1

    @property
    def ahead(self) -> int:
        """Tokens beyond those known for which admission takes KV blocks (docs/engine.md, "Speculation")."""
        return self.drafted + 1 + -self.step // self.unit


ONE_TOKEN = Advance()


@dataclass(frozen=True)
class EngineParams:
    """Limits and policies of one serving deployment.

    `kv_blocks` is the KV capacity of one replica in blocks of `block_size` tokens, `watermark_blocks` how many of them
    admission leaves free on a replica that is not empty. `scheduling` is `fcfs` or `priority`; `router` is
    a name of `workloads.routers.ROUTERS`, and `router_seed` what it draws from.

    `prefill` is `mixed` (a step may prefill and decode) or `first` (it prefills if it can, and decodes otherwise).
    `reserve_output` is the share of a request's output, 0 to 1, whose KV admission sets aside. What could be prefilled
    is held back for up to `batch_wait_steps` decode steps, or until `batch_wait_tokens` come together (0: no such
    end). `request_ticks`, and `request_token_ticks` for each token of its prompt, pass between the submission of a
    request and its arrival at the replica. `ahead` : a step is settled when the one before begins, so that a request
    that comes in between misses it. With it, only every `receive_steps` decode steps it is looked whether requests have
    come, and after each step with prefill. `speculation` : what a decoding sequence drafts and is granted in a step.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    kv_blocks: int
    max_model_len: int
    watermark_blocks: int = 0
    chunked_prefill: bool = True
    prefix_sharing: bool = True
    scheduling: str = "fcfs"
    replicas: int = 1
    router: str = "round_robin"
    prefill: str = "mixed"
    reserve_output: float = 0.0
    batch_wait_steps: int = 0
    batch_wait_tokens: int = 0
    request_ticks: int = 0
    request_token_ticks: int = 0
    ahead: bool = False
    speculation: Advance = ONE_TOKEN
    receive_steps: int = 1
    router_seed: int = 0
