"""The replicas of two pools: workers that compute prompts, and workers that generate outputs from KV that comes from
them (docs/disaggregation.md is their specification). `disaggregated` moves requests between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulator.policy import COMING, DECODE, DONE, WAITING
from simulator.replica import Replica
from simulator.sequence import Chain, Sequence

AT_PREFILL, AT_DECODE, SENDING, LANDED, JOINED = range(5)
"""Where a request is: with its prefill worker, at its decode worker without a place there, on the wire, arrived, or
among those that decode there (preempted or not).
"""


class Passing(Sequence):
    """A request that two workers serve; `replica` is the one that it waits for, or is served by, at the moment."""

    __slots__ = (
        "begun",
        "blocks",
        "first_end",
        "joined_at",
        "last",
        "prefilled",
        "prefixes",
        "reserved",
        "source",
        "stage",
        "target",
    )

    def __init__(self, index: int, prompt: int, output: int, chain: Chain, rank: tuple[int, int], source: Any) -> None:
        super().__init__(index, prompt, output, chain, rank, source)
        self.source, self.prefixes = source, chain  # the prefill worker, and what it shares there
        self.target: Any = None  # the decode worker
        self.stage = AT_PREFILL
        self.reserved = False  # the target holds `blocks` for it, before it has the KV
        self.blocks = 0
        self.begun = -1  # when the first step of its prompt began
        self.first_end = -1  # and ended
        self.last = 0  # tokens of the newest chunk
        self.prefilled = -1  # when the prompt was computed
        self.joined_at = -1  # when it began to decode


def _by_submission(entry: tuple[int, Any]) -> tuple[int, int]:
    """Of what happened at one tick, in the order of the requests."""
    return entry[0], entry[1].rank[1]


class PrefillWorker(Replica):
    """Computes prompts; a request whose prompt is computed keeps its blocks, and perhaps its seat, until they have been
    sent.

    `first_token` : as in `Handover`. `keeps_seat` : whether it keeps that too.
    """

    def __init__(self, *arguments: Any, first_token: str, keeps_seat: bool) -> None:
        super().__init__(*arguments)
        self.first_token, self.keeps_seat = first_token, keeps_seat
        self.ready: list[Passing] = []  # prompts that the step which ends has computed
        self.returned: list[tuple[int, Passing]] = []  # (when it had been sent, prompt), not given back yet
        self.begun = -1  # when the last step began

    def enqueue(self, seq: Sequence, now: int, strict: bool) -> None:
        if self.ahead:
            self._put_in_inbox(seq, now, strict)
        else:
            super().enqueue(seq, now, strict)

    def enlist(self) -> list[Passing]:
        """Requests whose prompt is computed leave the batch, in order of admission."""
        ready = [seq for seq in self.ready if seq.state != DONE]
        self.ready.clear()
        for seq in ready:
            del self.running[seq]
        if self.keeps_seat:
            self.kept += len(ready)
        return ready

    def take_back(self, seq: Passing, now: int) -> None:
        """A prompt has been sent: what it holds is free from the next scheduling on that is not settled yet."""
        self.returned.append((now, seq))

    def give_back(self, seq: Passing) -> None:
        """The blocks, and the seat, of a prompt that was sent, or is not wanted any more."""
        if self.keeps_seat:
            self.kept -= 1
        size = self.params.block_size
        self.pool.release(seq.prefixes, None, -(-seq.prompt // size), seq.prompt // size)

    def step_end(self, now: int) -> None:
        run = self.run
        assert run is not None
        self.run = None
        self._record(run)
        finished: list[Sequence] = []
        for seq, q in run.prefill:
            assert isinstance(seq, Passing)
            seq.computed += q
            seq.last = q
            if seq.begun < 0:
                seq.begun, seq.first_end = run.start, now
            if seq.computed < seq.known:
                continue
            if self.partial is seq:
                self.partial = None
            seq.prefilled = now
            last = seq.output == 1 and self.first_token != "decode"
            if last or self.first_token == "prefill":
                seq.generated, seq.first_token = 1, now
            (finished if last else self.ready).append(seq)
        if finished or self.ready or self.any_marked:
            self._leave(finished, now)
        self.begun = run.start
        self.schedule(now)

    def schedule(self, now: int) -> None:
        """What is settled comes first: with `ahead`, who was there when the last step began. Else whoever is there."""
        self._bring_in(self.begun if self.ahead else now)
        super().schedule(now)
        if self.run is None and (self.inbox or self.returned):
            self._bring_in(now)
            super().schedule(now)

    def _bring_in(self, until: int) -> None:
        came = sum(1 for tick, _ in self.inbox if tick <= until)
        for _, seq in self.inbox[:came]:
            if seq.state == COMING:  # else it was aborted meanwhile
                seq.state = WAITING
                self.waiting.add(seq)
        del self.inbox[:came]
        self.returned.sort(key=_by_submission)
        sent = sum(1 for tick, _ in self.returned if tick <= until)
        for _, prompt in self.returned[:sent]:
            self.give_back(prompt)
        del self.returned[:sent]

    def _remove(self, seq: Sequence, keep: bool = False) -> None:
        del self.running[seq]
        if self.partial is seq:
            self.partial = None
        size = self.params.block_size
        self.pool.release(seq.chain, None, -(-seq.known // size), seq.computed // size)


class DecodeWorker(Replica):
    """Generates outputs from KV that prefill workers send; computes again by itself what it preempts.

    A request whose KV is yet to come takes a seat and blocks: it is among `running`, at another stage than JOINED. When
    the KV has come it joins those that decode between two steps.

    Parameters
    ----------
    made : tokens of an output that the prefill worker makes, 1 or 0; with 0 the last of the prompt is computed again.
    on_reserved : called with a request that has got its place.
    """

    def __init__(self, *arguments: Any, made: int, on_reserved: Callable[[Passing], None]) -> None:
        super().__init__(*arguments)
        self.plain = False
        self.made, self._on_reserved = made, on_reserved
        self.landing = 0  # of those in `running`
        self.dropped: list[Passing] = []  # their blocks are given back at the end of the step
        self.silent: list[Passing] = []  # joined without a token

    # --- what the engine tells it -------------------------------------------------------------------------------

    def land(self, seq: Passing, now: int) -> None:
        """The KV of a request has come."""
        seq.stage = LANDED
        self.landed.append((now, seq))
        if self.run is not None:
            self.cut(now, False, ahead=self.ahead)

    def drop(self, seq: Passing, now: int, strict: bool) -> None:
        """A request that has a place does not come. Between steps the place is free at once."""
        seq.reserved = False
        del self.running[seq]
        self.landing -= 1
        if any(other is seq for _, other in self.landed):
            self.landed = [entry for entry in self.landed if entry[1] is not seq]
        if self.run is None and not self.ending:
            self._vacate(seq)
            return
        self.dropped.append(seq)
        self.any_marked = True
        if self.run is not None:
            self.cut(now, strict)

    # --- between steps ------------------------------------------------------------------------------------------

    def step_end(self, now: int) -> None:
        run = self.run
        if self.silent and run is not None and run.seqs:
            for seq in self.silent:
                if seq.state == DECODE and seq.first_token is None:  # else it was preempted before
                    seq.first_token = run.start + run.first
            self.silent.clear()
        super().step_end(now)

    def take_marked(self) -> list[Sequence]:
        if not self.any_marked:
            return []
        self.any_marked = False
        running: list[Any] = list(self.running)
        left = [seq for seq in running if seq.marked and seq.stage in (LANDED, JOINED)]
        for seq in left:
            self._remove(seq)
            seq.state = DONE
        if left and self.landed:
            self.landed = [entry for entry in self.landed if not entry[1].marked]
        for seq in self.dropped:
            self._vacate(seq)
        self.dropped.clear()
        return left

    def schedule(self, now: int) -> None:
        """If what is settled gives no step, since all had to make room for those to come, all do."""
        if self.landed and not self.seqs and self.partial is None:
            self._let_join(now, now)
        super().schedule(now)
        if self.run is None and (self.inbox or self.landed):
            self._empty_inbox(now)
            self._let_join(now, now)
            super().schedule(now)

    def _let_in(self, looked: int, begun: int, now: int) -> None:
        until = begun if self.ahead and (self.seqs or self.partial is not None) else now
        if self.inbox:
            super()._let_in(looked, begun, now)
        self._let_join(until, now)

    def _let_join(self, until: int, now: int) -> None:
        """Those whose KV had come at `until` decode from now on."""
        self.landed.sort(key=_by_submission)
        for at, (came, seq) in enumerate(self.landed):
            if came > until:
                del self.landed[:at]
                return
            self._begin(seq, now)
        self.landed.clear()

    def _begin(self, seq: Any, now: int) -> None:
        seq.stage, seq.joined_at, seq.chain = JOINED, now, ()  # others' prompts are not found here
        self.landing -= 1
        del self.running[seq]  # it goes to the end
        self.running[seq] = None
        seq.known = seq.prompt - 1 + self.made
        if self.made:
            seq.generated = 1
            if seq.first_token is None:
                seq.first_token = now
            seq.started = seq.first_token
        else:
            self.silent.append(seq)
        self._join(seq)

    def _take_in(self, seq: Any, budget: int) -> int:
        if seq.stage != AT_DECODE:
            return super()._take_in(seq, budget)
        tokens = seq.prompt - 1 + self.made + self.params.speculation.ahead
        blocks = -(-tokens // self.params.block_size)
        if self._claim(seq, (), None, blocks) < 0:
            return -1
        seq.reserved, seq.blocks = True, blocks
        self.running[seq] = None
        self.landing += 1
        self._on_reserved(seq)
        return 0

    def _remove(self, seq: Any, keep: bool = False) -> None:
        if seq.stage == JOINED:
            super()._remove(seq, keep)
            return
        del self.running[seq]
        self.landing -= 1
        self._vacate(seq)

    def _vacate(self, seq: Passing) -> None:
        """Give back the blocks of a request that has not joined."""
        if self.promises is not None:
            self.promises.left(seq, seq.blocks, None)
        self.pool.release((), None, seq.blocks, 0)

    # --- preemption ---------------------------------------------------------------------------------------------

    def _victim(self) -> Sequence:
        if not self.landing:
            return super()._victim()
        there = [seq for seq in self.running if seq.stage == JOINED]  # type: ignore[attr-defined]
        return max(there, key=lambda seq: seq.rank) if self.by_priority else there[-1]

    def _last_token(self, victim: Sequence, now: int) -> int:
        """Its place in the batch may be newer than the last decode step."""
        return victim.started if victim.generated == victim.known - victim.prompt + 1 else self.decoded
