"""A deliberately naive serving engine: docs/engine.md word by word, one token and one KV block at a time.

It exists to be compared with the fast engine of `simulator`, so it shares nothing with it but the descriptions of what
goes in (requests, engine parameters, the cost of a step): no event library, arrays, heap, closed form or running sum.
Every turn scans all that is pending, every step walks over its sequences, every KV block is an object in a real free
queue. Time is a Python integer of ticks. What must hold in any run (blocks neither lost nor doubled, no work on a final
request, time never running back, tokens made equal to tokens recorded) is asserted on the way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import Any, NamedTuple, Protocol

import numpy as np

from simulator.policy import SECONDS_PER_TICK, EngineParams, Status, to_ticks
from simulator.shape import PrefillShape, StepShape
from workloads.requests import Requests

ARRIVAL, QUEUED, STEP_END, TIMEOUT, WAKE_UP = range(5)  # the order of what happens at one tick


class Cost(Protocol):
    """What an engine asks of the cost model."""

    @property
    def decode_caps(self) -> tuple[int | None, ...]: ...

    @property
    def prefill_caps(self) -> tuple[int | None, ...]: ...

    def step_ticks(self, shape: StepShape, /) -> int: ...


@dataclass(eq=False)
class Block:
    """One KV block: the sequences that hold it, and the key under which it can be found, if any."""

    holders: list[Sequence] = field(default_factory=list)
    key: tuple | None = None


@dataclass(eq=False)
class Sequence:
    """One submitted request; `known` tokens are its prompt and what it has generated, `computed` of them are cached."""

    request: int
    job: int
    prompt: int
    output: int
    priority: int
    number: int
    submitted: int
    shareable: list[tuple]
    replica: int = -1
    due: int | None = None  # when it reaches its replica, while it is on its way
    came: int | None = None  # when it did
    generated: int = 0
    computed: int = 0
    joined: int = 0  # computed tokens when it last began decoding
    rounds: int = 0  # decode steps since
    decoding: bool = False
    running: bool = False
    landing: bool = False  # running, but its KV is still to come from elsewhere
    marked: bool = False
    blocks: list[Block] = field(default_factory=list)
    token_ticks: list[int] = field(default_factory=list)
    interrupted: set[int] = field(default_factory=set)  # after how many tokens it was preempted
    preemptions: int = 0
    prefix_hit_tokens: int = 0

    @property
    def known(self) -> int:
        return self.prompt + self.generated

    @property
    def rank(self) -> tuple[int, int]:
        return (self.priority, self.number)


class Work(NamedTuple):
    """What a step does for one sequence: `query` tokens after `past` computed ones; a decoding one has a query of 1."""

    sequence: Sequence
    past: int
    query: int
    decode: bool


class Step(NamedTuple):
    """One executed step; `kv_blocks` are in use, and `waiting` requests queue, after its scheduling. Times in ticks."""

    start: int
    ticks: int
    decode_seqs: int
    prefill_tokens: int
    kv_blocks: int
    waiting: int
    shape: StepShape


@dataclass(eq=False)
class Replica:
    """Running sequences in order of admission, the waiting queue, the blocks and the step being executed."""

    index: int
    params: EngineParams
    cost: Cost
    pool: list[Block]
    free: list[Block]
    findable: dict[tuple, Block] = field(default_factory=dict)
    running: list[Sequence] = field(default_factory=list)
    coming: list[Sequence] = field(default_factory=list)
    inbox: list[Sequence] = field(default_factory=list)
    waiting: list[Sequence] = field(default_factory=list)
    held_back: int = 0  # steps for which those waiting have been
    unread: int = 0  # decode steps since the inbox was looked at
    step: list[Work] | None = None
    step_end: int | None = None
    woken: bool = False  # something came or was freed while it is idle
    ending: bool = False  # the end of a step is being processed
    steps: list[Step] = field(default_factory=list)

    @property
    def queries(self) -> int:
        """Tokens of a decoding sequence that a step computes."""
        return self.params.speculation.drafted + 1

    @property
    def mean(self) -> Fraction:
        """Tokens that it gets from one in the mean."""
        return Fraction(self.params.speculation.step, self.params.speculation.unit)


@dataclass(frozen=True)
class NaiveLog:
    """What happened. Arrays have one entry per request; `steps` one list per replica; `token_ticks` one per request.

    `gaps` are the inter-token times with a preemption in them, as rows of request, time of the token before and of the
    token after (NaN if there was none), in seconds. `counts` says how often something happened that leaves no other
    trace.
    """

    status: np.ndarray
    replica: np.ndarray
    submitted_s: np.ndarray
    first_token_s: np.ndarray
    finish_s: np.ndarray
    generated: np.ndarray
    preemptions: np.ndarray
    prefix_hit_tokens: np.ndarray
    gaps: list[tuple[int, float, float]]
    steps: list[list[Step]]
    token_ticks: list[list[int]]
    counts: Counter[str]


def simulate_naive(requests: Requests, cost: Cost, params: EngineParams, check_every: int = 1) -> NaiveLog:
    """Run all requests to their end; `check_every` steps the blocks of a replica are counted one by one."""
    engine = NaiveEngine(requests, cost, params, check_every)
    engine.run()
    return engine.log()


def two_of(seed: int, count: int, replicas: int) -> tuple[int, int]:
    """Two different replicas, if there are as many, for request number `count` to choose from."""
    if replicas == 1:
        return 0, 0
    state = (seed + (count + 1) * 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ state // 2**30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state // 2**27) * 0x94D049BB133111EB % 2**64
    state = state ^ state // 2**31
    others = list(range(replicas))
    one = others.pop(state % 2**32 % replicas)
    others = others[one:] + others[:one]
    return one, others[state // 2**32 % (replicas - 1)]


def shareable_keys(chain: list[tuple[int, int]], prompt: int, block_size: int) -> list[tuple]:
    """Keys of a request's shareable blocks, (units and views up to its own, index), from its (unit, tokens) chain."""
    at_most = (prompt - 1) // block_size
    keys: list[tuple] = []
    units: list[tuple[int, int]] = []
    start = 0  # of the unit, in tokens
    for unit, tokens in chain:
        assert start % block_size == 0, "only the last unit of a chain may be a broken number of blocks"
        view = 0
        for block in range(at_most):
            if start <= block * block_size and (block + 1) * block_size <= start + tokens:
                view += 1
        units.append((unit, view))
        for index in range(view):
            keys.append(("shared", tuple(units), index))
        start += tokens
    assert len(keys) <= at_most and start <= prompt
    return keys


class NaiveEngine:
    """What happens, and when; `naivepools` adds what two pools do differently."""

    def __init__(self, requests: Requests, cost: Cost, params: EngineParams, check_every: int) -> None:
        self.params, self.check_every = params, check_every
        self.prompt = [int(x) for x in requests.prompt_tokens]
        self.output = [int(x) for x in requests.output_tokens]
        self.job_of = [int(x) for x in requests.job]
        self.priority = [int(x) for x in requests.priority]
        self.session = [int(x) for x in requests.session]
        self.accepted = [bool(x) for x in requests.accepted]
        self.chains: list[list[tuple[int, int]]] = []
        for i in range(len(self.prompt)):
            here = range(int(requests.prefix_ptr[i]), int(requests.prefix_ptr[i + 1]))
            self.chains.append([(int(requests.prefix_id[k]), int(requests.prefix_tokens[k])) for k in here])
        self.jobs: list[list[int]] = [[] for _ in range(len(requests.job_arrival_s))]
        for i, job in enumerate(self.job_of):
            self.jobs[job].append(i)
        self.stop_on_accept = bool(requests.stop_on_accept)
        self.timeout = None if requests.timeout_s is None else to_ticks(float(requests.timeout_s))
        self.think = to_ticks(float(requests.think_time_s))
        self.closed = requests.concurrency is not None

        self.now = 0
        self.arrivals: dict[int, int] = {}  # job -> tick, not yet submitted
        self.next_job = 0  # the next one that a closed loop assigns
        if requests.concurrency is not None:
            while self.next_job < min(int(requests.concurrency), len(self.jobs)):
                self.arrivals[self.next_job] = 0
                self.next_job += 1
        else:
            for job in range(len(self.jobs)):
                self.arrivals[job] = to_ticks(float(requests.job_arrival_s[job]))
        self.job_is_final = [False] * len(self.jobs)

        self.sequences: dict[int, Sequence] = {}  # by request; rejected ones never get one
        self.submitted: dict[int, int] = {}
        self.final: dict[int, tuple[Status, int]] = {}  # request -> how and when
        self.submissions = 0
        self.counts: Counter[str] = Counter()
        self.home: dict[int, int] = {}  # session -> replica
        self.routed: Counter[int] = Counter()  # by the first replica of those to choose from
        self.replicas: list[Replica] = []
        self.add_replicas(cost, params)

    def add_replicas(self, cost: Cost, params: EngineParams) -> None:
        for _ in range(params.replicas):
            pool = [Block() for _ in range(params.kv_blocks)]
            self.replicas.append(Replica(len(self.replicas), params, cost, pool, list(pool)))

    # The clock

    def run(self) -> None:
        while True:
            pending = self.pending()
            if not pending:
                break
            tick, kind, index = min(pending)
            assert tick >= self.now, "time ran back"
            self.now = tick
            self.happen(kind, index)
        for replica in self.replicas:
            self.check_blocks(replica)
            assert (
                not replica.running
                and not replica.waiting
                and not replica.coming
                and not replica.inbox
                and len(replica.free) == replica.params.kv_blocks
            )
        assert len(self.final) == len(self.prompt) and all(self.job_is_final)

    def pending(self) -> list[tuple[int, int, int]]:
        """All that is to happen: tick, kind and index."""
        pending: list[tuple[int, int, int]] = [(tick, ARRIVAL, job) for job, tick in self.arrivals.items()]
        for replica in self.replicas:
            for sequence in replica.coming:
                assert sequence.due is not None
                pending.append((sequence.due, QUEUED, sequence.number))
            if replica.step_end is not None:
                pending.append((replica.step_end, STEP_END, replica.index))
            elif replica.woken:
                pending.append((self.now, WAKE_UP, replica.index))
        if self.timeout is not None:
            for request, sequence in self.sequences.items():
                if request not in self.final and not sequence.marked:
                    pending.append((sequence.submitted + self.timeout, TIMEOUT, request))
        return pending

    def happen(self, kind: int, index: int) -> None:
        if kind == ARRIVAL:
            del self.arrivals[index]
            self.submit(index)
        elif kind == QUEUED:
            self.reach_queue(index)
        elif kind == STEP_END:
            self.end_step(self.replicas[index])
        elif kind == TIMEOUT:
            if self.abort(self.sequences[index]):
                self.request_became_final(index)
        else:
            assert kind == WAKE_UP
            self.wake_up(self.replicas[index])

    def wake_up(self, replica: Replica) -> None:
        self.schedule(replica)
        assert replica.step_end is not None or not replica.waiting, "a request waits at an idle replica for ever"

    # Requests and jobs

    def submit(self, job: int) -> None:
        for request in self.jobs[job]:
            assert request not in self.submitted
            self.submitted[request] = self.now
            if self.prompt[request] + self.output[request] > self.params.max_model_len:
                self.final[request] = (Status.REJECTED, self.now)
                continue
            keys = []
            if self.params.prefix_sharing:
                keys = shareable_keys(self.chains[request], self.prompt[request], self.params.block_size)
            sequence = Sequence(
                request,
                job,
                self.prompt[request],
                self.output[request],
                self.priority[request],
                self.submissions,
                self.now,
                keys,
            )
            self.direct(sequence)
            self.submissions += 1
            self.sequences[request] = sequence
            self.send(sequence)
        self.follow_job(job)

    def direct(self, sequence: Sequence) -> None:
        sequence.replica = self.route(sequence, self.replicas, self.params, self.home)

    def send(self, sequence: Sequence) -> None:
        """It sets out for its replica."""
        replica = self.replicas[sequence.replica]
        way = replica.params.request_ticks + replica.params.request_token_ticks * sequence.prompt
        if way:
            sequence.due = self.now + way
            replica.coming.append(sequence)
        else:
            self.arrive(sequence)

    def reach_queue(self, number: int) -> None:
        for replica in self.replicas:
            for sequence in list(replica.coming):
                if sequence.number == number:
                    assert sequence.due == self.now
                    sequence.due = None
                    replica.coming.remove(sequence)
                    self.arrive(sequence)

    def arrive(self, sequence: Sequence) -> None:
        sequence.came = self.now
        replica = self.replicas[sequence.replica]
        replica.woken = True
        (replica.inbox if replica.params.ahead else replica.waiting).append(sequence)

    def empty_inbox(self, replica: Replica) -> None:
        executing = any(not sequence.landing for sequence in replica.running)
        for sequence in list(replica.inbox):
            assert sequence.came is not None
            looked = replica.unread == 0 and executing and sequence.came <= replica.steps[-1].start
            if not executing or looked:
                replica.inbox.remove(sequence)
                replica.waiting.append(sequence)
            else:
                self.counts["missed a step"] += 1

    def route(self, sequence: Sequence, replicas: list[Replica], params: EngineParams, home: dict[int, int]) -> int:
        """The replica, one of `replicas`, to which the next request goes; `home` is where sessions were sent before."""
        first = replicas[0].index
        count = self.routed[first]
        self.routed[first] += 1
        if params.router == "round_robin":
            return first + count % len(replicas)
        if params.router == "power_of_two":
            one, other = two_of(params.router_seed, count, len(replicas))
            return min((self.load(replicas[k]), first + k) for k in (one, other))[1]
        if params.router == "least_tokens":
            return min((self.prompt_tokens(replica), replica.index) for replica in replicas)[1]
        if params.router == "prefix_aware":
            return min((-len(self.look_up(r, sequence)), self.load(r), r.index) for r in replicas)[2]
        least = min((self.load(replica), replica.index) for replica in replicas)[1]
        if params.router == "least_loaded":
            return least
        assert params.router == "session_affine"
        session = self.session[sequence.request]
        if session not in home:
            home[session] = least
        return home[session]

    def there(self, replica: Replica) -> list[Sequence]:
        """The requests that a router counts."""
        return replica.coming + replica.inbox + replica.waiting + replica.running

    def load(self, replica: Replica) -> int:
        return len(self.there(replica))

    def prompt_tokens(self, replica: Replica) -> int:
        return sum(sequence.prompt for sequence in self.there(replica))

    def abort(self, sequence: Sequence) -> bool:
        """Take it out of its queue, or mark it if it is running; whether it is final now."""
        assert sequence.request not in self.final
        if sequence.running:
            sequence.marked = True
            return False
        replica = self.replicas[sequence.replica]
        self.counts["aborted on the way"] += sequence.due is not None
        for queue in (replica.coming, replica.inbox, replica.waiting):
            if sequence in queue:
                queue.remove(sequence)
        self.make_final(sequence, Status.ABORTED)
        return True

    def make_final(self, sequence: Sequence, status: Status) -> None:
        assert sequence.request not in self.final and not sequence.blocks and not sequence.running
        assert sequence.generated == len(sequence.token_ticks) <= sequence.output
        assert (status is Status.FINISHED) == (sequence.generated == sequence.output)
        self.final[sequence.request] = (status, self.now)

    def request_became_final(self, request: int) -> None:
        self.follow_job(self.job_of[request])

    def follow_job(self, job: int) -> None:
        """If all of the job is final now, and was not before, the closed loop assigns the next one."""
        if self.job_is_final[job] or any(request not in self.final for request in self.jobs[job]):
            return
        self.job_is_final[job] = True
        if self.closed and self.next_job < len(self.jobs):
            following = self.next_job
            self.next_job += 1
            if self.think == 0:
                self.submit(following)
            else:
                self.arrivals[following] = self.now + self.think

    # Scheduling a step

    def schedule(self, replica: Replica) -> None:
        params = replica.params
        assert replica.step is None
        replica.woken = False
        self.empty_inbox(replica)
        work: list[Work] = []
        if params.prefill == "first":
            self.prefill(replica, work, preempted=False)
            self.counts["decode stands still"] += bool(work) and any(s.decoding for s in replica.running)
            if not work:
                self.grow(replica)
                self.decode(replica, work)
        else:
            preempted = self.grow(replica)
            self.decode(replica, work)
            self.prefill(replica, work, preempted)
        if len(replica.steps) % self.check_every == 0:
            self.check_blocks(replica)
        if not work:
            assert all(sequence.landing for sequence in replica.running)
            replica.unread = 0
            return
        shape = self.shape(replica, work)
        assert 1 <= shape.tokens <= params.max_num_batched_tokens
        assert len(replica.running) <= params.max_num_seqs
        executing = sum(not sequence.landing for sequence in replica.running)
        if params.prefill == "first":
            assert all(w.decode for w in work) or not any(w.decode for w in work), "a step that does both"
            assert len(work) == executing or not work[0].decode, "a decoding sequence is left out"
        else:
            assert len(work) == executing
        ticks = replica.cost.step_ticks(shape)
        assert ticks == int(ticks) and ticks >= 1, "a step takes a whole number of ticks"
        ticks = int(ticks)
        replica.step, replica.step_end = work, self.now + ticks
        prefill_tokens = 0 if shape.prefill is None else shape.prefill.tokens
        in_use = params.kv_blocks - len(replica.free)
        waiting = len(replica.waiting)
        replica.steps.append(Step(self.now, ticks, shape.decode_seqs, prefill_tokens, in_use, waiting, shape))

    def decode(self, replica: Replica, work: list[Work]) -> None:
        for sequence in replica.running:
            if sequence.decoding:
                work.append(self.start_work(replica, sequence, replica.queries))

    def prefill(self, replica: Replica, work: list[Work], preempted: bool) -> None:
        """Add chunks to a step that decodes what is in `work`, and admit those whose turn it is."""
        budget = replica.params.max_num_batched_tokens - len(work) * replica.queries
        for sequence in replica.running:
            if not sequence.decoding and not sequence.landing:
                others = [s for s in replica.running if not s.landing and not s.decoding]
                assert others == [sequence], "only one may be in prefill"
                query = min(sequence.known - sequence.computed, budget)
                assert query >= 1, "a prefill makes no progress"
                work.append(self.start_work(replica, sequence, query))
                budget -= query
        assert budget >= 0
        if preempted or self.hold_back(replica, budget):
            return
        while budget > 0 and self.seats(replica) < replica.params.max_num_seqs and replica.waiting:
            head = self.head_of_waiting(replica)
            if self.comes_computed(head):
                if not self.reserve(replica, head):
                    break
                continue
            if not self.admit(replica, head, budget):
                break
            query = min(head.known - head.computed, budget)
            work.append(self.start_work(replica, head, query))
            budget -= query

    def seats(self, replica: Replica) -> int:
        """Of `max_num_seqs`, those that are taken."""
        return len(replica.running)

    def comes_computed(self, head: Sequence) -> bool:
        """Whether its prompt is computed elsewhere."""
        return False

    def reserve(self, replica: Replica, head: Sequence) -> bool:
        """Set aside a place for the KV that comes from elsewhere, if there is one."""
        raise NotImplementedError

    def hold_back(self, replica: Replica, budget: int) -> bool:
        """Whether those waiting go on waiting for company."""
        params = replica.params
        if not params.batch_wait_steps or not replica.running or not all(s.decoding for s in replica.running):
            return False
        free = len(replica.free) - params.watermark_blocks - self.owed(replica)
        tokens = len(replica.running) * replica.queries
        candidates: list[Sequence] = []
        queue = list(replica.waiting)
        if params.scheduling == "priority":
            queue.sort(key=lambda sequence: sequence.rank)
        for sequence in queue:
            full = budget == 0 or len(replica.running) + len(candidates) == params.max_num_seqs
            free -= max(
                self.blocks_for(replica, self.tokens_to_admit(replica, sequence)), self.promised(replica, sequence)
            )
            if full or free < 0 or (sequence.known > budget and not params.chunked_prefill):
                break
            query = min(sequence.known, budget)
            budget -= query
            tokens += query
            candidates.append(sequence)
        if not candidates:
            return False
        enough = params.batch_wait_tokens > 0 and tokens >= params.batch_wait_tokens
        if replica.held_back >= params.batch_wait_steps or enough:
            replica.held_back = 0
            return False
        replica.held_back += 1
        self.counts["held back"] += 1
        return True

    def grow(self, replica: Replica) -> bool:
        """Give every decoding sequence the block that its next token needs; whether somebody was preempted for it."""

        def needy() -> list[Sequence]:
            """Those that lack blocks for what the next step writes, as often as they lack one."""
            lacking = []
            for s in replica.running:
                if s.decoding:
                    lacking += [s] * (self.blocks_for(replica, s.computed + replica.queries) - len(s.blocks))
            return lacking

        preempted = False
        while len(replica.free) < len(needy()):
            there = [sequence for sequence in replica.running if not sequence.landing]
            victim = there[-1]
            if replica.params.scheduling == "priority":
                for sequence in there:
                    if sequence.rank > victim.rank:
                        victim = sequence
            assert not victim.marked, "a marked sequence leaves before the next scheduling"
            assert replica.params.reserve_output < 1, "preempted in spite of the reserve"
            replica.running.remove(victim)
            self.release(replica, victim)
            victim.running = victim.decoding = False
            victim.computed = 0
            victim.preemptions += 1
            if victim.generated:
                victim.interrupted.add(victim.generated)
            replica.waiting.insert(0, victim)  # with priorities the order of the queue does not matter
            preempted = True
        for sequence in needy():
            assert replica.queries > 1 or len(sequence.blocks) * replica.params.block_size == sequence.computed
            self.take_new(replica, sequence)
        return preempted

    def head_of_waiting(self, replica: Replica) -> Sequence:
        head = replica.waiting[0]
        if replica.params.scheduling == "priority":
            for sequence in replica.waiting:
                if sequence.rank < head.rank:
                    head = sequence
        return head

    def admit(self, replica: Replica, head: Sequence, budget: int) -> bool:
        """Move the head of the queue to the running ones with all blocks of its known tokens, if it fits."""
        found = self.look_up(replica, head)
        if not self.has_room(replica, head, found, self.tokens_to_admit(replica, head)):
            return False
        if not replica.params.chunked_prefill and head.known - len(found) * replica.params.block_size > budget:
            return False
        replica.waiting.remove(head)
        replica.running.append(head)
        head.running = True
        assert not head.blocks and head.computed == 0 and not head.decoding and not head.marked
        for block in found:
            if block in replica.free:
                replica.free.remove(block)
            block.holders.append(head)
            head.blocks.append(block)
        while len(head.blocks) < self.blocks_for(replica, self.tokens_to_admit(replica, head)):
            self.take_new(replica, head)
        head.computed = len(found) * replica.params.block_size
        head.prefix_hit_tokens += head.computed
        return True

    def has_room(self, replica: Replica, head: Sequence, found: list[Block], tokens: int) -> bool:
        """Whether there are blocks for so many tokens of it, of which some were found, and for what it is promised."""
        unheld = [block for block in found if not block.holders]
        blocks = self.blocks_for(replica, tokens)
        watermark = replica.params.watermark_blocks if self.occupied(replica) else 0
        reserved = max(blocks, self.promised(replica, head))
        needed = blocks - len(found) + len(unheld) + watermark
        if needed - blocks + reserved + self.owed(replica) > len(replica.free):
            self.counts["refused for the reserve"] += needed <= len(replica.free)
            return False
        return True

    def occupied(self, replica: Replica) -> bool:
        return bool(replica.running)

    def blocks_for(self, replica: Replica, tokens: int) -> int:
        blocks = 0
        while blocks * replica.params.block_size < tokens:
            blocks += 1
        return blocks

    @staticmethod
    def tokens_to_admit(replica: Replica, sequence: Sequence) -> int:
        """Its known tokens and, with speculation, some places for drafted ones."""
        return sequence.known + replica.queries - ceil(replica.mean)

    def promised(self, replica: Replica, sequence: Sequence) -> int:
        """The blocks that admission wants to be there for it in the end."""
        if not replica.params.reserve_output:
            return 0
        output = ceil(replica.params.reserve_output * (sequence.output - 1))
        return self.blocks_for(replica, sequence.prompt + output + replica.params.speculation.drafted)

    def owed(self, replica: Replica) -> int:
        """What those running have been promised beyond what they hold."""
        return sum(max(0, self.promised(replica, sequence) - len(sequence.blocks)) for sequence in replica.running)

    def start_work(self, replica: Replica, sequence: Sequence, query: int) -> Work:
        """The chunk of the sequence in the step being scheduled; the blocks that it fills can be found from now on."""
        assert sequence.running and sequence.request not in self.final, "work on a final request"
        past = sequence.computed
        block_size = replica.params.block_size
        assert past + query <= len(sequence.blocks) * block_size, "a token without a place in the KV cache"
        sure = query if not sequence.decoding else self.granted(replica, sequence)
        for index, block in enumerate(sequence.blocks):
            full_after = (index + 1) * block_size
            if past < full_after <= past + sure:
                key = self.key(replica, sequence, index)
                if key is not None:
                    assert block.key is None and key not in replica.findable
                    block.key = key
                    replica.findable[key] = block
        return Work(sequence, past, query, sequence.decoding)

    def granted(self, replica: Replica, sequence: Sequence) -> int:
        """Tokens that a decoding sequence gets from its next step: the mean a step, and no more than it needs."""
        after = floor(replica.mean * (sequence.rounds + 1)) + sequence.joined
        return min(after - sequence.computed, sequence.output - sequence.generated)

    def shape(self, replica: Replica, work: list[Work]) -> StepShape:
        tokens = rows = decode_seqs = prefill_tokens = prefill_seqs = 0
        decode_kv = [0 for _ in replica.cost.decode_caps]
        pairs = [0 for _ in replica.cost.prefill_caps]
        kv = [0 for _ in replica.cost.prefill_caps]
        for sequence, past, query, decode in work:
            tokens += query
            if decode:
                assert past == sequence.known - 1 and query == replica.queries
                rows += query
                decode_seqs += 1
                read: Any = sequence.joined + sequence.rounds * replica.mean + query
                for extent, cap in enumerate(replica.cost.decode_caps):
                    decode_kv[extent] += read if cap is None else min(read, cap)
            else:
                if past + query == sequence.known:
                    rows += 1
                prefill_tokens += query
                prefill_seqs += 1
                for extent, cap in enumerate(replica.cost.prefill_caps):
                    for j in range(1, query + 1):
                        pairs[extent] += past + j if cap is None else min(past + j, cap)
                    kv[extent] += past + query if cap is None else min(past + query, query + cap - 1)
        prefill = PrefillShape(prefill_tokens, prefill_seqs, tuple(pairs), tuple(kv)) if prefill_seqs else None
        return StepShape(tokens, rows, decode_seqs, tuple(decode_kv), prefill)

    # The end of a step

    def end_step(self, replica: Replica) -> None:
        assert replica.step is not None
        work, replica.step, replica.step_end = replica.step, None, None
        replica.ending = True
        replica.unread = (replica.unread + 1) % replica.params.receive_steps if all(w.decode for w in work) else 0
        for sequence, past, query, _ in work:
            assert sequence.request not in self.final and sequence.computed == past
            if sequence.decoding:
                tokens = self.granted(replica, sequence)
                sequence.computed += tokens
                sequence.rounds += 1
            else:
                tokens = sequence.computed + query == sequence.known
                sequence.computed += query
                if tokens:
                    tokens = self.prefilled(replica, sequence)
            sequence.generated += tokens
            sequence.token_ticks += [self.now] * tokens
        finished, became_final = [], []
        for sequence in list(replica.running):
            if sequence.generated == sequence.output:
                self.leave(replica, sequence, Status.FINISHED)
                finished.append(sequence)
                became_final.append(sequence)
        if self.stop_on_accept:
            for winner in finished:
                if self.accepted[winner.request]:
                    for request in self.jobs[winner.job]:
                        if request in self.final or self.sequences[request].marked:
                            continue
                        if self.abort(self.sequences[request]):
                            became_final.append(self.sequences[request])
        for sequence in list(replica.running):
            if sequence.marked:
                self.leave(replica, sequence, Status.ABORTED)
                became_final.append(sequence)
        self.hand_over(replica)
        for sequence in became_final:
            self.request_became_final(sequence.request)
        replica.ending = False
        self.schedule(replica)

    def prefilled(self, replica: Replica, sequence: Sequence) -> bool:
        """All its known tokens are computed; whether it has got another from that."""
        sequence.decoding, sequence.joined, sequence.rounds = True, sequence.computed, 0
        return True

    def hand_over(self, replica: Replica) -> None:
        """What goes elsewhere leaves."""

    def leave(self, replica: Replica, sequence: Sequence, status: Status) -> None:
        replica.running.remove(sequence)
        sequence.running = False
        self.release(replica, sequence)
        self.make_final(sequence, status)

    # KV blocks and the prefix cache

    def key(self, replica: Replica, sequence: Sequence, index: int) -> tuple | None:
        if not replica.params.prefix_sharing:
            return None
        if index < len(sequence.shareable):
            return sequence.shareable[index]
        return ("own", sequence.request, index)

    def look_up(self, replica: Replica, sequence: Sequence) -> list[Block]:
        found: list[Block] = []
        while len(found) < (sequence.known - 1) // replica.params.block_size:
            key = self.key(replica, sequence, len(found))
            if key is None or key not in replica.findable:
                break
            found.append(replica.findable[key])
        return found

    def release(self, replica: Replica, sequence: Sequence) -> None:
        while sequence.blocks:
            block = sequence.blocks.pop()
            block.holders.remove(sequence)
            if not block.holders:
                assert block not in replica.free
                replica.free.append(block)

    def take_new(self, replica: Replica, sequence: Sequence) -> None:
        block = replica.free.pop(0)
        assert not block.holders
        if block.key is not None:
            del replica.findable[block.key]
            block.key = None
        block.holders.append(sequence)
        sequence.blocks.append(block)

    def holders(self, replica: Replica) -> list[Sequence]:
        """Whoever holds blocks."""
        return replica.running

    def check_blocks(self, replica: Replica) -> None:
        """Every block is free or held, never both nor twice; holders and keys agree with what they point back to."""
        held: dict[int, list[Sequence]] = {id(block): [] for block in replica.pool}
        for sequence in self.holders(replica):
            for block in sequence.blocks:
                assert sequence not in held[id(block)], "a sequence holds a block twice"
                held[id(block)].append(sequence)
        free = {id(block) for block in replica.free}
        assert len(free) == len(replica.free), "a block is twice in the free queue"
        for block in replica.pool:
            holders = held[id(block)]
            assert len(holders) == len(block.holders) and all(s in holders for s in block.holders)
            assert (id(block) in free) == (not holders), "a block is lost, or both free and held"
            if block.key is not None:
                assert replica.findable[block.key] is block
        assert all(block.key == key for key, block in replica.findable.items())

    # The result

    def log(self) -> NaiveLog:
        n = len(self.prompt)
        sequences = [self.sequences.get(request) for request in range(n)]
        for sequence in sequences:
            if sequence is not None:
                ticks = sequence.token_ticks
                steps = sorted(set(ticks))
                assert len(ticks) == sequence.generated and ticks == sorted(ticks)
                speculation = self.replicas[-1].params.speculation
                assert len(ticks) == len(steps) or speculation.drafted, "two tokens at one time"
                assert all(ticks.count(step) <= speculation.queries for step in steps)
        first = [s.token_ticks[0] * SECONDS_PER_TICK if s and s.token_ticks else float("nan") for s in sequences]
        gaps = []
        for s in self.sequences.values():
            for tokens in sorted(s.interrupted):
                after = s.token_ticks[tokens] * SECONDS_PER_TICK if tokens < s.generated else float("nan")
                gaps.append((s.request, s.token_ticks[tokens - 1] * SECONDS_PER_TICK, after))
        return NaiveLog(
            status=np.array([int(self.final[i][0]) for i in range(n)], dtype=np.int64),
            replica=np.array([s.replica if s else -1 for s in sequences], dtype=np.int64),
            submitted_s=np.array([self.submitted[i] * SECONDS_PER_TICK for i in range(n)]),
            first_token_s=np.array(first),
            finish_s=np.array([self.final[i][1] * SECONDS_PER_TICK for i in range(n)]),
            generated=np.array([s.generated if s else 0 for s in sequences], dtype=np.int64),
            preemptions=np.array([s.preemptions if s else 0 for s in sequences], dtype=np.int64),
            prefix_hit_tokens=np.array([s.prefix_hit_tokens if s else 0 for s in sequences], dtype=np.int64),
            gaps=gaps,
            steps=[replica.steps for replica in self.replicas],
            token_ticks=[s.token_ticks if s else [] for s in sequences],
            counts=self.counts,
        )
