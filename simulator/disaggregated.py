"""The engine with prefill and decode workers of their own: routers, reservations and transfers between two pools
(docs/disaggregation.md). `workers` knows what a worker does; `engine` all that is as with one pool.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np
import simpy

from simulator.engine import Engine, Passages, RunLog, Watch, check_servable
from simulator.handover import DECODE_FIRST, Handover, Pool, as_workers
from simulator.policy import COMING, DONE, LANDING, SECONDS_PER_TICK, EngineParams, Status
from simulator.replica import Replica
from simulator.sequence import Chain, Sequence
from simulator.stepcost import StepCost
from simulator.timeline import Recorder, column_names
from simulator.workers import AT_DECODE, AT_PREFILL, JOINED, LANDED, SENDING, DecodeWorker, Passing, PrefillWorker
from workloads.routers import ROUTERS, Load

if TYPE_CHECKING:
    from workloads.requests import Requests

_QUEUE, _ARRIVAL = 0, 1


def simulate_pools(
    requests: Requests,
    prefill: Pool,
    decode: Pool,
    handover: Handover,
    *,
    progress: Callable[[int, int], None] | None = None,
    watch: Watch | None = None,
) -> RunLog:
    """Serve `requests` on prefill workers, numbered from 0, and decode workers, numbered after them.

    In the log `replica` is the decode worker (where a request has none, the prefill worker) and `passages` is given.
    `watch` is as of `engine.simulate`.

    Raises
    ------
    InputError : a request that is not rejected could never be served by one of the pools.
    """
    prefill, decode = as_workers(prefill, decode)
    check_pools(requests, prefill, decode)
    return _PoolEngine(requests, prefill, decode, handover, progress, watch).run()


def check_pools(requests: Requests, prefill: Pool, decode: Pool) -> None:
    """See `simulate_pools`. Prefill workers hold prompts alone."""
    prefill, decode = as_workers(prefill, decode)
    check_servable(requests, prefill.params, prompts=True)
    check_servable(requests, decode.params)


class _PoolEngine(Engine):
    def __init__(
        self,
        requests: Requests,
        prefill: Pool,
        decode: Pool,
        handover: Handover,
        progress: Callable[[int, int], None] | None,
        watch: Watch | None = None,
    ) -> None:
        self.pools, self.handover = (prefill, decode), handover
        self.first = prefill.params.replicas  # number of the first decode worker
        self.decode_router = ROUTERS[decode.params.router](decode.params.router_seed)
        self.decode_load = Load(decode.params.replicas)
        super().__init__(requests, prefill.cost, prefill.params, progress, watch)
        self.lanes = [
            [0] * (handover.prefill_lanes if replica.number < self.first else handover.decode_lanes)
            for replica in self.replicas
        ]
        self.due: list[tuple[int, int, int, Passing]] = []  # (tick, what, submission number, request)
        n = requests.n
        self.worker = array("i", [-1]) * n
        self.prefilled, self.reserved, self.sent, self.arrived, self.joined = (
            array("d", [float("nan")]) * n for _ in range(5)
        )

    def _workers(self, cost: StepCost) -> list[Replica]:
        prefill, decode = self.pools
        made = 0 if self.handover.first_token == "decode" else 1
        costs = (prefill.cost, decode.cost)
        extents = max(len(c.decode_caps) for c in costs), max(len(c.prefill_caps) for c in costs)
        operators = max(len(c.decode_ops) for c in costs)
        self.recorder = Recorder(column_names(extents[0], operators, extents[1]))
        common: tuple[Any, ...] = (self._schedule_end, self._on_leave)
        seats: Any = {
            "first_token": self.handover.first_token,
            "keeps_seat": self.handover.order == DECODE_FIRST,
        }
        workers: list[Replica] = []
        for pool in self.pools:
            recorder: Any = _Padded(self.recorder, pool.cost, extents, operators)
            for _ in range(pool.params.replicas):
                start = (len(workers), pool.params, pool.cost, recorder, *common)
                if pool is prefill and len(workers) < self.first:
                    workers.append(PrefillWorker(*start, **seats))
                else:
                    workers.append(DecodeWorker(*start, made=made, on_reserved=self._on_reserved))
        return workers

    def _door(self) -> EngineParams:
        return self.pools[1 if self.handover.order == DECODE_FIRST else 0].params

    def run(self) -> RunLog:
        log = super().run()
        passages = Passages(
            worker=np.frombuffer(self.worker, dtype=np.int32).copy(),
            prefilled_s=np.frombuffer(self.prefilled).copy(),
            reserved_s=np.frombuffer(self.reserved).copy(),
            sent_s=np.frombuffer(self.sent).copy(),
            arrived_s=np.frombuffer(self.arrived).copy(),
            joined_s=np.frombuffer(self.joined).copy(),
            workers=self.first,
        )
        return replace(log, passages=passages)

    # --- where requests go --------------------------------------------------------------------------------------

    def _route(self, index: int, chain: Chain, rank: tuple[int, int]) -> Sequence:
        prompt = self.prompt[index]
        number = self.router.choose(self.load, self.session[index], partial(self._cached, chain))
        self.load.add(number, prompt)
        seq = Passing(index, prompt, self.output[index], chain, rank, self.replicas[number])
        self.worker[index] = self.replica_of[index] = number
        if self.handover.order == DECODE_FIRST:
            self._choose_decode_worker(seq)
            seq.replica, seq.stage = seq.target, AT_DECODE
        return seq

    def _choose_decode_worker(self, seq: Passing) -> None:
        number = self.decode_router.choose(self.decode_load, self.session[seq.index], _nothing)
        self.decode_load.add(number, seq.prompt)
        seq.target = self.replicas[self.first + number]
        self.replica_of[seq.index] = self.first + number

    def _unload(self, seq: Any) -> None:
        if seq.prefilled < 0 or seq.stage == AT_PREFILL:
            self.load.remove(seq.source.number, seq.prompt)
        if seq.target is not None:
            self.decode_load.remove(seq.target.number - self.first, seq.prompt)

    def _wake_if_idle(self, replica: Replica) -> None:
        if replica.run is None and not replica.ending:
            self._wake(replica)

    # --- from one worker to the other ---------------------------------------------------------------------------

    def _hand_over(self, replica: Replica, finished: list[Sequence], aborted: list[Sequence]) -> None:
        if not isinstance(replica, PrefillWorker):
            return
        for seq in (*finished, *aborted):
            if seq.reserved and seq.source is replica:  # type: ignore[attr-defined]
                self._drop(seq)
        for seq in replica.enlist():
            self.load.remove(replica.number, seq.prompt)
            if seq.target is not None:
                self._send(seq)
                continue
            self._choose_decode_worker(seq)
            seq.replica, seq.stage, seq.state = seq.target, AT_DECODE, COMING
            params: EngineParams = seq.replica.params
            way = params.request_ticks + params.request_token_ticks * seq.prompt
            if way:
                self._later(self.now + way, _QUEUE, seq)
            else:
                self._enqueue(seq)

    def _on_reserved(self, seq: Passing) -> None:
        """A decode worker has a place for it."""
        self.reserved[seq.index] = self.now * SECONDS_PER_TICK
        if seq.prefilled >= 0:
            self._send(seq)
            return
        seq.replica, seq.stage, seq.state = seq.source, AT_PREFILL, COMING
        self._enqueue(seq)

    def _send(self, seq: Passing) -> None:
        """Its KV is sent as soon as both workers have a lane for it."""
        plan = self.handover
        hidden = plan.hidden_ticks(seq.prompt, seq.last, seq.begun, seq.first_end, seq.prefilled)
        took = plan.ticks(seq.prompt) - hidden
        out, into = self.lanes[seq.source.number], self.lanes[seq.target.number]
        first, second = min(out), min(into)
        start = max(self.now, first, second)
        out[out.index(first)] = into[into.index(second)] = start + took
        seq.replica, seq.stage, seq.state = seq.target, SENDING, LANDING
        self.sent[seq.index] = start * SECONDS_PER_TICK
        self._later(start + took + plan.latency_ticks, _ARRIVAL, seq)

    def _later(self, tick: int, what: int, seq: Passing) -> None:
        heappush(self.due, (tick, what, seq.rank[1], seq))
        self._alarm(tick, 1, self._on_due, None)

    def _on_due(self, event: simpy.Event) -> None:
        """Requests reach a queue, then transfers end, by submission number."""
        self._begin()
        self.position = -1
        due = self.due
        while due and due[0][0] == self.now:
            _, what, _, seq = heappop(due)
            if what == _ARRIVAL:
                self._arrive(seq)
            elif seq.state == COMING:  # else it was aborted on its way
                self._enqueue(seq)

    def _arrive(self, seq: Passing) -> None:
        """A transfer ends."""
        target: DecodeWorker = seq.target
        self.arrived[seq.index] = self.now * SECONDS_PER_TICK
        seq.source.take_back(seq, self.now)
        self._wake_if_idle(seq.source)
        if seq.marked:
            self._drop(seq)
            seq.state = DONE
            self._finalise([seq], Status.ABORTED)
            self._close_jobs([seq])
            return
        seq.reserved = False
        target.land(seq, self.now)
        self._wake_if_idle(target)

    def _drop(self, seq: Any) -> None:
        target: DecodeWorker = seq.target
        target.drop(seq, self.now, target.number < self.position)
        self._wake_if_idle(target)

    # --- who is given up ----------------------------------------------------------------------------------------

    def _abort(self, seq: Any, aborted: list[Sequence]) -> None:
        if seq.marked:
            return
        replica = seq.replica
        if seq.stage == SENDING:
            seq.marked = True
        elif seq.stage == LANDED:
            if replica.run is not None or replica.ending:
                replica.mark(seq, self.now, replica.number < self.position)
            else:
                self._drop(seq)
                seq.state = DONE
                aborted.append(seq)
                self.live.pop(seq.index)
        else:
            held, reserved = seq.stage == AT_DECODE and seq.prefilled >= 0, seq.reserved
            super()._abort(seq, aborted)
            if seq.state != DONE:
                return
            if reserved:
                self._drop(seq)
            if held:
                seq.source.give_back(seq)
                self._wake_if_idle(seq.source)
            self._wake_if_idle(replica)

    def _finalise(self, leaving: list[Any], status: Status) -> None:
        super()._finalise(leaving, status)
        for seq in leaving:
            if seq.prefilled >= 0:
                self.prefilled[seq.index] = seq.prefilled * SECONDS_PER_TICK
            if seq.stage == JOINED:
                self.joined[seq.index] = seq.joined_at * SECONDS_PER_TICK


def _nothing(replica: int) -> int:
    """Decode workers keep no prompts of other requests."""
    return 0


class _Padded:
    """A recorder for replicas of a pool whose cost has fewer extents or operators than the columns."""

    def __init__(self, recorder: Recorder, cost: StepCost, extents: tuple[int, int], operators: int) -> None:
        self._recorder = recorder
        kv, decode = 2 * len(cost.decode_caps), len(cost.decode_ops)
        chunks = 2 * len(cost.prefill_caps)
        sizes = (kv, decode, chunks)
        pads = (2 * extents[0] - kv, operators - decode, 2 * extents[1] - chunks)
        self._parts = list(zip(sizes, ((0,) * pad for pad in pads), strict=True))
        if not any(pads):
            self.add = recorder.add  # type: ignore[method-assign]

    def add(self, row: tuple) -> None:
        at = len(row) - sum(size for size, _ in self._parts)
        out = row[:at]
        for size, pad in self._parts:
            out += row[at : at + size] + pad
            at += size
        self._recorder.add(out)
