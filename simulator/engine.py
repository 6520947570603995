"""The discrete-event engine: arrivals, router, replicas and their step ends on one SimPy clock (docs/engine.md).

SimPy keeps the events in order; what happens at the same tick is ordered by the events' priority. Replicas schedule
one event per macro-step. This module knows who arrives when and who is stopped; `replica` knows what a replica does.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import simpy

from hwspecs.errors import InputError
from simulator.policy import COMING, DONE, SECONDS_PER_TICK, WAITING, EngineParams, Status, to_ticks
from simulator.replica import Replica, Run
from simulator.sequence import Chain, Sequence
from simulator.stepcost import StepCost
from simulator.timeline import Recorder, Timeline, column_names
from workloads.routers import ROUTERS, Load

if TYPE_CHECKING:
    from workloads.requests import Requests


@dataclass(frozen=True)
class RunLog:
    """What a simulation yields: one entry per request in the arrays, one row per macro-step in the timeline.

    Times in seconds, NaN where there is none. `replica` is -1 for rejected requests. `finish_s` is when the request
    became final, whatever its status. `gaps` has one row per interruption by preemption: request, time of its last
    token before it and of the first after it (NaN if it was aborted first). `peak_blocks` is per replica; `events`
    counts the engine's events.
    """

    status: np.ndarray
    replica: np.ndarray
    submitted_s: np.ndarray
    first_token_s: np.ndarray
    finish_s: np.ndarray
    generated: np.ndarray
    preemptions: np.ndarray
    prefix_hit_tokens: np.ndarray
    peak_blocks: np.ndarray
    gaps: np.ndarray
    timeline: Timeline
    events: int
    passages: Passages | None = None


@dataclass(frozen=True)
class Passages:
    """How requests passed from prefill to decode workers, one entry each, in seconds (NaN where they did not).

    Attributes
    ----------
    worker : that computed the prompt, -1 without one. prefilled_s : when it was done. reserved_s : when the decode
        worker set its place aside. sent_s, arrived_s : first and last of the transfer, without what was sent while the
        prompt was computed. joined_s : when it began to decode.
    workers : prefill workers; replicas are numbered from them on to the decode workers.
    """

    worker: np.ndarray
    prefilled_s: np.ndarray
    reserved_s: np.ndarray
    sent_s: np.ndarray
    arrived_s: np.ndarray
    joined_s: np.ndarray
    workers: int


class _Alarm(simpy.Event):
    """An event that happens at a given tick, with a value for its callback."""

    _ok, _defused = True, False  # what SimPy asks of an event that happened

    def __init__(self, callback: Callable[[Any], None], value: object) -> None:
        self.callbacks = [callback]
        self._value = value


class Watch(Protocol):
    """Somebody who looks at an engine while it runs, each time that `every` more requests are final.

    It changes nothing; to end the simulation it raises an exception.
    """

    every: int

    def look(self, engine: Engine) -> None: ...


def simulate(
    requests: Requests,
    cost: StepCost,
    params: EngineParams,
    *,
    progress: Callable[[int, int], None] | None = None,
    watch: Watch | None = None,
) -> RunLog:
    """Serve `requests` on the deployment described by `params`, with steps timed by `cost`.

    `watch` may end the simulation early, by an exception of its own.

    Raises
    ------
    InputError : a request that is not rejected could never be served: its KV exceeds the pool, or, without chunked
        prefill, its context exceeds the token budget.
    """
    check_servable(requests, params)
    return Engine(requests, cost, params, progress, watch).run()


def check_servable(requests: Requests, params: EngineParams, *, prompts: bool = False) -> None:
    """See `simulate`. With `prompts` a replica computes prompts alone."""
    total = requests.prompt_tokens + requests.output_tokens
    served = total[total <= params.max_model_len]
    if not len(served):
        raise InputError(
            f"every request is longer than max_model_len; the shortest has {int(total.min())} tokens",
            place="engine.max_model_len",
            found=params.max_model_len,
            allowed=f"at least {int(total.min())}, up to what the model supports",
        )
    longest = int(served.max())
    prompt = int(requests.prompt_tokens[total <= params.max_model_len].max())
    needs = prompt if prompts else longest - 1 + params.speculation.drafted
    if -(-needs // params.block_size) > params.kv_blocks:
        raise InputError(
            f"the KV cache of a replica is too small for the longest request, which needs {needs} tokens",
            place="engine",
            found=f"{params.kv_blocks * params.block_size} tokens",
            allowed="more memory or tensor parallelism, a narrower KV format, or a smaller max_model_len",
        )
    if not params.chunked_prefill:
        # After a preemption what was generated is computed with the prompt.
        whole = longest - 1 if params.reserve_output < 1 and not prompts else prompt
        if whole > params.max_num_batched_tokens:
            raise InputError(
                f"without chunked prefill a prompt of up to {whole} tokens does not fit into one step",
                place="engine.max_num_batched_tokens",
                found=params.max_num_batched_tokens,
                allowed=f"at least {whole}",
            )


class Engine:
    """See `simulate`; `disaggregated` adds what two pools of workers do differently."""

    def __init__(
        self,
        requests: Requests,
        cost: StepCost,
        params: EngineParams,
        progress: Callable[[int, int], None] | None,
        watch: Watch | None = None,
    ) -> None:
        self.requests, self.params, self.progress, self.watch = requests, params, progress, watch
        self.env = simpy.Environment(initial_time=0)
        self.recorder = Recorder(column_names(len(cost.decode_caps), len(cost.decode_ops), len(cost.prefill_caps)))
        self.router, self.load = ROUTERS[params.router](params.router_seed), Load(params.replicas)
        self.replicas = self._workers(cost)
        n = requests.n
        self.status = array("b", bytes(n))
        self.replica_of = array("i", [-1]) * n
        self.submitted = array("d", [float("nan")]) * n
        self.first_token = array("d", [float("nan")]) * n
        self.finish = array("d", [float("nan")]) * n
        self.generated = array("q", bytes(8 * n))
        self.preemptions = array("q", bytes(8 * n))
        self.hit_tokens = array("q", bytes(8 * n))
        self.prompt = _compact(requests.prompt_tokens)
        self.output = _compact(requests.output_tokens)
        self.job = _compact(requests.job)
        self.job_ptr = _compact(requests.job_ptr())
        self.priority = _compact(requests.priority)
        self.session = _compact(requests.session)
        self.accepted = requests.accepted.tolist() if requests.stop_on_accept else None
        shared = params.prefix_sharing and len(requests.prefix_id)
        self.chains = Chains(requests, params.block_size) if shared else None
        self.job_left = [b - a for a, b in zip(self.job_ptr, self.job_ptr[1:], strict=False)]
        self.closed = requests.concurrency is not None
        self.think_ticks = to_ticks(requests.think_time_s)
        self.timeout_ticks = None if requests.timeout_s is None else to_ticks(requests.timeout_s)
        self.live: dict[int, Sequence] = {}
        self.next_job = 0
        self.submissions = self.final = self.events = 0
        # Priorities at one tick: arrivals, ends of transfers, step ends by replica, timeouts, wake-ups by replica.
        self.after = len(self.replicas)
        self.at_timeout = 2 + self.after
        self.at_wake = 3 + self.after
        self.position = -1  # the replica whose step end is being processed; -1 before all of them, `after` after
        self.waking = [False] * self.after
        self.door = self._door()
        self.way = bool(self.door.request_ticks or self.door.request_token_ticks)
        self.now = 0  # ticks; SimPy's clock as of the event being processed

    def _workers(self, cost: StepCost) -> list[Replica]:
        return [
            Replica(number, self.params, cost, self.recorder, self._schedule_end, self._on_leave)
            for number in range(self.params.replicas)
        ]

    def _door(self) -> EngineParams:
        """Where requests come in."""
        return self.params

    def run(self) -> RunLog:
        jobs = self.requests.n_jobs
        if self.closed:
            self.next_job = min(self.requests.concurrency or 0, jobs)
            self._alarm(0, 0, self._on_arrivals, range(self.next_job))
        else:
            self.arrival_s = array("d", self.requests.job_arrival_s.tobytes())
            self._alarm(to_ticks(self.arrival_s[0]), 0, self._on_open_arrivals, None)
        # Millions of small objects come and go, none of them in cycles: the collector would only search them in vain.
        collecting = gc.isenabled()
        gc.disable()
        try:
            self.env.run()
        finally:
            if collecting:
                gc.enable()
        if self.final != self.requests.n:
            raise AssertionError(f"{self.requests.n - self.final} requests were never served")
        for replica in self.replicas:
            if replica.pool.used or replica.running or replica.waiting.size:
                raise AssertionError(f"replica {replica.number} still holds work or KV blocks at the end")
        return RunLog(
            status=np.frombuffer(self.status, dtype=np.int8).copy(),
            replica=np.frombuffer(self.replica_of, dtype=np.int32).copy(),
            submitted_s=np.frombuffer(self.submitted).copy(),
            first_token_s=np.frombuffer(self.first_token).copy(),
            finish_s=np.frombuffer(self.finish).copy(),
            generated=np.frombuffer(self.generated, dtype=np.int64).copy(),
            preemptions=np.frombuffer(self.preemptions, dtype=np.int64).copy(),
            prefix_hit_tokens=np.frombuffer(self.hit_tokens, dtype=np.int64).copy(),
            peak_blocks=np.array([replica.params.kv_blocks - replica.least_free for replica in self.replicas]),
            gaps=np.array([gap for replica in self.replicas for gap in replica.gaps]).reshape(-1, 3),
            timeline=self.recorder.finish(),
            events=self.events,
        )

    # --- events -------------------------------------------------------------------------------------------------

    def _alarm(self, tick: int, priority: int, callback: Callable[[Any], None], value: object) -> None:
        self.env.schedule(_Alarm(callback, value), priority, tick - self.now)  # type: ignore[arg-type]

    def _begin(self) -> None:
        """An event is being processed."""
        self.events += 1
        self.now = self.env.now  # type: ignore[assignment]

    def _schedule_end(self, replica: Replica, run: Run) -> None:
        self._alarm(run.end, 2 + replica.number, self._on_step_end, (replica, run, run.end))

    def _on_step_end(self, event: simpy.Event) -> None:
        replica, run, end = event._value
        self.events += 1
        if replica.run is run and run.end == end:  # else the run was cut since
            self.now = end
            self.position = replica.number
            replica.step_end(end)

    def _on_open_arrivals(self, event: simpy.Event) -> None:
        self._begin()
        self.position = -1
        jobs, tick = self.requests.n_jobs, self.now
        while tick == self.now:
            self.next_job += 1
            self._submit(self.next_job - 1)
            if self.next_job == jobs:
                return
            tick = to_ticks(self.arrival_s[self.next_job])
        self._alarm(tick, 0, self._on_open_arrivals, None)

    def _on_arrivals(self, event: simpy.Event) -> None:
        self._begin()
        self.position = -1
        for job in event._value:
            self._submit_closed(job)

    def _on_queue(self, event: simpy.Event) -> None:
        """Requests of one job reach the queues of their replicas."""
        self._begin()
        self.position = -1
        for seq in event._value:
            if seq.state == COMING:  # else it was aborted on its way
                self._enqueue(seq)

    def _on_timeout(self, event: simpy.Event) -> None:
        self._begin()
        seq = self.live.get(event._value)
        if seq is None:
            return
        self.position = self.after
        aborted: list[Sequence] = []
        self._abort(seq, aborted)
        self._finalise(aborted, Status.ABORTED)
        self._close_jobs(aborted)

    def _on_wake(self, event: simpy.Event) -> None:
        self._begin()
        replica: Replica = event._value
        self.waking[replica.number] = False
        self.position = self.after
        if replica.run is None:
            replica.schedule(self.now)

    # --- requests come ------------------------------------------------------------------------------------------

    def _submit(self, job: int) -> bool:
        """Submit a job; True if it is final at once (all its requests are rejected)."""
        now = self.now
        params = self.params
        coming: dict[int, list[Sequence]] | None = {} if self.way else None  # by tick
        for index in range(self.job_ptr[job], self.job_ptr[job + 1]):
            self.submitted[index] = now * SECONDS_PER_TICK
            if self.prompt[index] + self.output[index] > params.max_model_len:
                self.status[index] = Status.REJECTED
                self.finish[index] = now * SECONDS_PER_TICK
                self.job_left[job] -= 1
                self._count_final()
                continue
            rank = (self.priority[index], self.submissions)
            chain = self.chains.of(index) if self.chains else ()
            seq = self._route(index, chain, rank)
            self.submissions += 1
            self.live[index] = seq
            if self.timeout_ticks is not None:
                self._alarm(now + self.timeout_ticks, self.at_timeout, self._on_timeout, index)
            if coming is not None:
                due = now + self.door.request_ticks + self.door.request_token_ticks * seq.prompt
                coming.setdefault(due, []).append(seq)
            else:
                self._enqueue(seq)
        if coming:
            for due, seqs in coming.items():
                self._alarm(due, 0, self._on_queue, seqs)
        return self.job_left[job] == 0

    def _route(self, index: int, chain: Chain, rank: tuple[int, int]) -> Sequence:
        """A request and the replica that it is sent to."""
        prompt = self.prompt[index]
        number = self.router.choose(self.load, self.session[index], partial(self._cached, chain))
        self.load.add(number, prompt)
        self.replica_of[index] = number
        return Sequence(index, prompt, self.output[index], chain, rank, self.replicas[number])

    def _cached(self, chain: Chain, number: int) -> int:
        """Blocks of a new request that are in the cache of a replica."""
        return self.replicas[number].cached(chain, self.now, number < self.position)

    def _enqueue(self, seq: Sequence) -> None:
        replica: Replica = seq.replica
        number = replica.number
        replica.enqueue(seq, self.now, number < self.position)
        if replica.run is None and number != self.position:
            self._wake(replica)

    def _wake(self, replica: Replica) -> None:
        """Have an idle replica look for work."""
        number = replica.number
        if not self.waking[number]:
            self.waking[number] = True
            self._alarm(self.now, self.at_wake + number, self._on_wake, replica)

    def _submit_closed(self, job: int) -> None:
        """Submit a job of the closed loop, and those that follow it at once."""
        while self._submit(job):
            follower = self._assign()
            if follower is None:
                return
            job = follower

    def _assign(self) -> int | None:
        """The next job to submit now; None if there is none, or if it comes after the think time."""
        if self.next_job >= self.requests.n_jobs:
            return None
        job = self.next_job
        self.next_job += 1
        if self.think_ticks:
            self._alarm(self.now + self.think_ticks, 0, self._on_arrivals, (job,))
            return None
        return job

    # --- requests go --------------------------------------------------------------------------------------------

    def _on_leave(self, replica: Replica, finished: list[Sequence], now: int) -> None:
        """Steps 2 to 5 of a step's end, after `finished` have released their blocks."""
        aborted: list[Sequence] = []
        if self.accepted is not None:
            for seq in finished:
                del self.live[seq.index]
            for seq in finished:
                if self.accepted[seq.index]:
                    job = self.job[seq.index]
                    for index in range(self.job_ptr[job], self.job_ptr[job + 1]):
                        other = self.live.get(index)
                        if other is not None:
                            self._abort(other, aborted)
        aborted += replica.take_marked()
        self._finalise(finished, Status.FINISHED)
        self._finalise(aborted, Status.ABORTED)
        self._hand_over(replica, finished, aborted)
        self._close_jobs(finished)
        self._close_jobs(aborted)

    def _hand_over(self, replica: Replica, finished: list[Sequence], aborted: list[Sequence]) -> None:
        """What goes elsewhere leaves."""

    def _abort(self, seq: Sequence, aborted: list[Sequence]) -> None:
        """A request that waits or is yet to do so leaves now and joins `aborted`; a running one is marked."""
        if seq.marked:
            return
        replica = seq.replica
        strict = replica.number < self.position
        if seq.state == WAITING:
            replica.abort_waiting(seq, self.now, strict)
            aborted.append(seq)
            self.live.pop(seq.index)
        elif seq.state == COMING:
            seq.state = DONE
            aborted.append(seq)
            self.live.pop(seq.index)
        else:
            replica.mark(seq, self.now, strict)

    def _finalise(self, leaving: list[Sequence], status: Status) -> None:
        now = self.now * SECONDS_PER_TICK
        for seq in leaving:
            index = seq.index
            self.live.pop(index, None)
            self._unload(seq)
            self.status[index] = status
            self.finish[index] = now
            if seq.first_token is not None:
                self.first_token[index] = seq.first_token * SECONDS_PER_TICK
            if seq.preempted_at is not None:
                seq.replica.gaps.append((index, seq.preempted_at * SECONDS_PER_TICK, float("nan")))
            self.generated[index] = seq.generated
            self.preemptions[index] = seq.preemptions
            self.hit_tokens[index] = seq.hit_tokens
            self.job_left[self.job[index]] -= 1
            self._count_final()

    def _unload(self, seq: Sequence) -> None:
        """Its router no longer counts a request that is final."""
        self.load.remove(seq.replica.number, seq.prompt)

    def _close_jobs(self, gone: list[Sequence]) -> None:
        """Closed loop: for each job that became final with one of `gone`, the next is submitted."""
        if not self.closed:
            return
        for seq in gone:
            job = self.job[seq.index]
            if self.job_left[job] == 0:
                self.job_left[job] = -1  # closed once
                follower = self._assign()
                if follower is not None:
                    self._submit_closed(follower)

    def _count_final(self) -> None:
        self.final += 1
        if self.progress is not None and self.final % 256 == 0:
            self.progress(self.final, self.requests.n)
        if self.watch is not None and self.final % self.watch.every == 0:
            self.watch.look(self)


def _compact(values: np.ndarray) -> array:
    """int64 values as an array that gives Python integers: eight bytes each, and quicker to index than NumPy's."""
    return array("q", values.astype(np.int64, copy=False).tobytes())


class Chains:
    """Prefix chains as the KV pool knows them: (key, blocks) per unit, equal keys for equal content up to there."""

    def __init__(self, requests: Requests, block_size: int) -> None:
        self._keys: dict[tuple[int, int, int], int] = {}
        self._block_size = block_size
        self._ptr = _compact(requests.prefix_ptr)
        self._ids, self._tokens = _compact(requests.prefix_id), _compact(requests.prefix_tokens)
        self._prompt = _compact(requests.prompt_tokens)

    def of(self, index: int) -> Chain:
        start, end = self._ptr[index], self._ptr[index + 1]
        if start == end:
            return ()
        left = (self._prompt[index] - 1) // self._block_size  # at least one token must be computed
        parent = -1
        chain = []
        for unit in range(start, end):
            blocks = min(self._tokens[unit] // self._block_size, left)
            if blocks <= 0:
                break
            left -= blocks
            parent = self._keys.setdefault((parent, self._ids[unit], blocks), len(self._keys))
            chain.append((parent, blocks))
        return tuple(chain)
