"""The naive engine with two pools of workers: docs/disaggregation.md word by word, on top of `naive`.

As in real engines a request is two: its *front* is served by a prefill worker, its *back* by a decode worker. Each has
its own blocks; what passes between them is a `Passage`.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import numpy as np
from naive import NaiveEngine, NaiveLog, Replica, Sequence

from simulator.handover import Handover, Pool
from simulator.policy import SECONDS_PER_TICK, Status
from workloads.requests import Requests

ARRIVAL, QUEUED, ARRIVED, STEP_END, TIMEOUT, WAKE_UP = 0, 1, 1.5, 2, 3, 4
"""The order of what happens at one tick: `naive`'s, with the ends of transfers in between."""


@dataclass(eq=False)
class Passage:
    """A request on its way from one worker to the other; times in ticks."""

    front: Sequence
    back: Sequence | None = None
    reserved: bool = False  # a decode worker holds blocks for it, and has not got its KV yet
    chunks: list[tuple[int, int, int]] = field(default_factory=list)  # start, end and tokens of each chunk
    prefilled: int | None = None
    placed: int | None = None
    sent: int | None = None
    arrives: int | None = None
    arrived: bool = False
    joined: int | None = None


@dataclass(frozen=True)
class NaivePassages:
    """When requests passed, in seconds; NaN where they did not. `worker` is the prefill worker, -1 without one."""

    worker: np.ndarray
    prefilled_s: np.ndarray
    reserved_s: np.ndarray
    sent_s: np.ndarray
    arrived_s: np.ndarray
    joined_s: np.ndarray


def simulate_naive_pools(
    requests: Requests, prefill: Pool, decode: Pool, handover: Handover, check_every: int = 1
) -> tuple[NaiveLog, NaivePassages]:
    """Run all requests to their end."""
    engine = _PoolEngine(requests, prefill, decode, handover, check_every)
    engine.run()
    return engine.log(), engine.passage_log()


class _PoolEngine(NaiveEngine):
    def __init__(self, requests: Requests, prefill: Pool, decode: Pool, handover: Handover, check_every: int) -> None:
        super().__init__(requests, prefill.cost, prefill.params, check_every)
        self.pools, self.handover = (prefill, decode), handover
        self.add_replicas(decode.cost, decode.params)
        self.prefill_workers = self.replicas[: prefill.params.replicas]
        self.decode_workers = self.replicas[prefill.params.replicas :]
        self.passages: dict[int, Passage] = {}
        self.homes: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.lanes = {r.index: [0] * handover.prefill_lanes for r in self.prefill_workers}
        self.lanes |= {r.index: [0] * handover.decode_lanes for r in self.decode_workers}
        self.dropped: dict[int, list[Sequence]] = {r.index: [] for r in self.decode_workers}
        self.returned: dict[int, list[tuple[int, Sequence]]] = {r.index: [] for r in self.prefill_workers}
        self.at_once = False  # whoever came meanwhile is looked at

    def is_prefill(self, replica: Replica) -> bool:
        return replica in self.prefill_workers

    # The clock

    def pending(self) -> list[tuple]:
        pending: list[tuple] = list(super().pending())
        for passage in self.passages.values():
            if passage.arrives is not None and not passage.arrived:
                pending.append((passage.arrives, ARRIVED, passage.front.number))
        return pending

    def happen(self, kind: float, index: int) -> None:
        if kind == ARRIVED:
            self.arrive_there(next(p for p in self.passages.values() if p.front.number == index))
        else:
            super().happen(int(kind), index)

    def wake_up(self, replica: Replica) -> None:
        self.schedule(replica)
        self.counts["blocked while idle"] += replica.step is None and bool(replica.waiting)

    # Where requests go

    def direct(self, sequence: Sequence) -> None:
        sequence.replica = self.route(sequence, self.prefill_workers, self.pools[0].params, self.homes[0])
        passage = self.passages[sequence.request] = Passage(sequence)
        if self.handover.order == "decode_first":
            self.choose_decode_worker(passage)

    def choose_decode_worker(self, passage: Passage) -> None:
        front = passage.front
        back = Sequence(
            front.request, front.job, front.prompt, front.output, front.priority, front.number, front.submitted, []
        )
        back.replica = self.route(back, self.decode_workers, self.pools[1].params, self.homes[1])
        passage.back = back

    def send(self, sequence: Sequence) -> None:
        """A request that was submitted sets out for the worker that it has to wait for first."""
        passage = self.passages[sequence.request]
        if self.handover.order == "decode_first":
            assert passage.back is not None
            sequence = passage.back
        super().send(sequence)

    def there(self, replica: Replica) -> list[Sequence]:
        found = []
        for request, passage in self.passages.items():
            if request in self.final:
                continue
            if passage.front.replica == replica.index and passage.prefilled is None:
                found.append(passage.front)
            if passage.back is not None and passage.back.replica == replica.index:
                found.append(passage.back)
        return found

    def abort(self, sequence: Sequence) -> bool:
        passage = self.passages[sequence.request]
        front, back = passage.front, passage.back
        source = self.replicas[front.replica]
        assert sequence is front and not front.marked and front.request not in self.final
        if front.running:
            front.marked = True
            return False
        if passage.arrives is not None and not passage.arrived:  # its transfer goes on
            self.counts["aborted in its transfer"] += 1
            front.marked = True
            return False
        if back is not None and back.running and not back.landing:
            front.marked = back.marked = True
            return False
        if back is not None and passage.arrived and back.landing:
            target = self.replicas[back.replica]
            self.counts["aborted on arrival"] += 1
            if target.step is not None or target.ending:
                front.marked = back.marked = True
                return False
        for one in (front, back):
            if one is not None:
                replica = self.replicas[one.replica]
                self.counts["aborted on the way"] += one.due is not None
                for queue in (replica.coming, replica.inbox, replica.waiting):
                    if one in queue:
                        queue.remove(one)
                        replica.woken = True
        if passage.reserved or (back is not None and back.landing):
            self.drop(passage)
        if front.blocks:
            self.release(source, front)
            source.woken = True
        self.make_final(front, Status.ABORTED)
        return True

    def make_final(self, sequence: Sequence, status: Status) -> None:
        passage = self.passages[sequence.request]
        front, back = passage.front, passage.back
        assert not front.running and (back is None or not back.running)
        sent = [front for _, front in self.returned[front.replica]]
        assert not front.blocks or front in sent
        if status is Status.FINISHED:
            assert sequence.generated == sequence.output == len(sequence.token_ticks)
        self.final[sequence.request] = (status, self.now)

    def drop(self, passage: Passage) -> None:
        """A decode worker gives back what it holds for a request that does not come."""
        back = passage.back
        assert back is not None and back.landing
        passage.reserved = False
        replica = self.replicas[back.replica]
        replica.running.remove(back)
        back.landing = back.running = False
        self.dropped[replica.index].append(back)
        if replica.step is None and not replica.ending:
            self.give_back(replica)
            replica.woken = True

    def give_back(self, replica: Replica) -> None:
        for back in self.dropped[replica.index]:
            self.release(replica, back)
        self.dropped[replica.index].clear()

    def holders(self, replica: Replica) -> list[Sequence]:
        """Whoever holds blocks: prompts that are to be sent, or whose sending goes on, too."""
        if not self.is_prefill(replica):
            return replica.running + self.dropped[replica.index]
        kept = [p.front for p in self.passages.values() if p.front.replica == replica.index and p.front.blocks]
        return kept

    # Prefill workers

    def seats(self, replica: Replica) -> int:
        """With decode_first a prompt keeps its seat until it has been sent."""
        if self.is_prefill(replica) and self.handover.order == "decode_first":
            return len(self.holders(replica))
        return super().seats(replica)

    def schedule(self, replica: Replica) -> None:
        super().schedule(replica)
        late = self.is_prefill(replica) and bool(self.returned[replica.index])
        late = late or any(s.landing and self.passages[s.request].arrived for s in replica.running)
        if replica.step is None and (replica.inbox or late):
            self.at_once = True
            super().schedule(replica)
            self.at_once = False

    def let_in(self, replica: Replica) -> None:
        """Newcomers, and what transfers give back: with `ahead` those that were there when the last step began."""

        def is_in_time(tick: int) -> bool:
            begun = replica.steps[-1].start if replica.steps else -1
            return self.at_once or not replica.params.ahead or tick <= begun

        for sequence in list(replica.inbox):
            assert sequence.came is not None
            if is_in_time(sequence.came):
                replica.inbox.remove(sequence)
                replica.waiting.append(sequence)
            else:
                self.counts["missed a step"] += 1
        for entry in sorted(self.returned[replica.index], key=lambda entry: (entry[0], entry[1].number)):
            tick, front = entry
            if is_in_time(tick):
                self.returned[replica.index].remove(entry)
                self.release(replica, front)
            else:
                self.counts["given back late"] += 1

    def prefilled(self, replica: Replica, sequence: Sequence) -> bool:
        if not self.is_prefill(replica):
            return super().prefilled(replica, sequence)
        self.passages[sequence.request].prefilled = self.now
        first = self.handover.first_token
        return first == "prefill" or (first == "transfer" and sequence.output == 1)

    def end_step(self, replica: Replica) -> None:
        if self.is_prefill(replica):
            assert replica.step is not None
            for sequence, _, query, decode in replica.step:
                assert not decode
                chunk = (replica.steps[-1].start, self.now, query)
                self.passages[sequence.request].chunks.append(chunk)
        super().end_step(replica)

    def leave(self, replica: Replica, sequence: Sequence, status: Status) -> None:
        passage = self.passages[sequence.request]
        if self.is_prefill(replica) and passage.reserved:
            self.drop(passage)
        sequence.landing = False
        super().leave(replica, sequence, status)

    def hand_over(self, replica: Replica) -> None:
        """Prompts that are computed leave the batch; their blocks stay until they have been sent."""
        if not self.is_prefill(replica):
            self.give_back(replica)
            return
        for front in list(replica.running):
            passage = self.passages[front.request]
            if passage.prefilled is None:
                continue
            replica.running.remove(front)
            front.running = False
            if self.handover.order == "decode_first":
                self.transfer(passage)
            else:
                self.choose_decode_worker(passage)
                assert passage.back is not None
                super().send(passage.back)

    # Transfers

    def transfer(self, passage: Passage) -> None:
        front, back, handover = passage.front, passage.back, self.handover
        assert back is not None and passage.prefilled is not None and passage.reserved
        whole = handover.token_ticks * front.prompt + handover.request_ticks
        begun, first_end, _ = passage.chunks[0]
        _, end, last = passage.chunks[-1]
        assert end == passage.prefilled
        # Of the last chunk nothing (chunk), or all layers but the last (layer), is sent before the prompt's end.
        if handover.overlap == "chunk":
            before = min(whole - whole * last // front.prompt, end - first_end)
        elif handover.overlap == "layer":
            rest = whole * last // (front.prompt * handover.layers)
            before = min(whole - rest, (end - begun) * (handover.layers - 1) // handover.layers)
        else:
            before = 0
        out, into = self.lanes[front.replica], self.lanes[back.replica]
        passage.sent = max(self.now, min(out), min(into))
        self.counts["waited for a lane"] += passage.sent > self.now
        for lanes in (out, into):
            lanes.sort()
            lanes[0] = passage.sent + whole - before
        passage.arrives = passage.sent + whole - before + handover.latency_ticks

    def arrive_there(self, passage: Passage) -> None:
        """A transfer ends."""
        front, back = passage.front, passage.back
        assert back is not None and passage.arrives == self.now
        passage.arrived = True
        source, target = self.replicas[front.replica], self.replicas[back.replica]
        self.returned[source.index].append((self.now, front))
        source.woken = True
        if front.marked:
            self.drop(passage)
            self.make_final(front, Status.ABORTED)
            self.request_became_final(front.request)
            return
        passage.reserved = False
        target.woken = True

    # Decode workers

    def comes_computed(self, head: Sequence) -> bool:
        passage = self.passages[head.request]
        return head is passage.back and passage.joined is None

    def computed(self, sequence: Sequence) -> int:
        """Tokens whose KV comes from the prefill worker and is used."""
        return sequence.prompt - (self.handover.first_token == "decode")

    def reserve(self, replica: Replica, head: Sequence) -> bool:
        tokens = self.computed(head) + self.tokens_to_admit(replica, head) - head.known
        if not self.has_room(replica, head, [], tokens):
            return False
        passage = self.passages[head.request]
        replica.waiting.remove(head)
        replica.running.append(head)
        head.running = head.landing = passage.reserved = True
        passage.placed = self.now
        for _ in range(self.blocks_for(replica, tokens)):
            self.take_new(replica, head)
        if self.handover.order == "decode_first":
            self.arrive(passage.front)
        else:
            self.transfer(passage)
        return True

    def empty_inbox(self, replica: Replica) -> None:
        """And let those join whose transfer has ended."""
        if self.is_prefill(replica):
            self.let_in(replica)
            return
        executing = any(not sequence.landing for sequence in replica.running)
        assert not executing or not self.at_once
        super().empty_inbox(replica)
        landed = [self.passages[s.request] for s in replica.running if s.landing]
        for passage in sorted((p for p in landed if p.arrived), key=lambda p: (p.arrives or 0, p.front.number)):
            assert passage.arrives is not None
            if not replica.params.ahead or not executing or passage.arrives <= replica.steps[-1].start:
                self.join(replica, passage)
            else:
                self.counts["landed and missed a step"] += 1

    def join(self, replica: Replica, passage: Passage) -> None:
        """A request decodes from now on; nothing of it was decoded here yet."""
        back = passage.back
        assert back is not None and not back.marked
        passage.joined = self.now
        replica.running.remove(back)
        replica.running.append(back)
        back.landing, back.decoding = False, True
        if self.handover.first_token != "decode":
            back.generated = 1
            back.token_ticks = passage.front.token_ticks or [self.now]
        back.computed = back.joined = self.computed(back)
        assert back.computed == back.known - 1
        size = replica.params.block_size
        for index in range(back.computed // size):
            key = self.key(replica, back, index)
            if key is not None:
                back.blocks[index].key = key
                replica.findable[key] = back.blocks[index]

    # The result

    def log(self) -> NaiveLog:
        for request, passage in self.passages.items():  # what became of it is known of the worker that had it last
            back = passage.back
            self.sequences[request] = passage.front if passage.joined is None or back is None else back
        log = super().log()
        routed = [self.passages.get(i) for i in range(len(self.prompt))]
        at = [(p.back or p.front).replica if p else -1 for p in routed]
        hits = [p.front.prefix_hit_tokens + (p.back.prefix_hit_tokens if p.back else 0) if p else 0 for p in routed]
        log.replica[:], log.prefix_hit_tokens[:] = at, hits
        return log

    def passage_log(self) -> NaivePassages:
        routed = [self.passages.get(i) for i in range(len(self.prompt))]

        def seconds(ticks: Rows[int | None]) -> np.ndarray:
            return np.array([float("nan") if t is None else t * SECONDS_PER_TICK for t in ticks])

        return NaivePassages(
            worker=np.array([p.front.replica if p else -1 for p in routed]),
            prefilled_s=seconds([p.prefilled if p else None for p in routed]),
            reserved_s=seconds([p.placed if p else None for p in routed]),
            sent_s=seconds([p.sent if p else None for p in routed]),
            arrived_s=seconds([p.arrives if p and p.arrived else None for p in routed]),
            joined_s=seconds([p.joined if p else None for p in routed]),
        )
