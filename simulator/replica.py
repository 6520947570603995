"""One replica: the continuous-batching scheduler, advanced by macro-steps (docs/engine.md is its specification).

While no sequence joins or leaves, every step decodes the same sequences, and all that a step's cost and its KV growth
depend on moves along known lines. So the replica keeps sums instead of walking through its sequences:

- `counter` advances with every decode step, by `move` units of 1 / `unit` token (1 and 1 without speculation); a
  sequence that joins remembers `base` = the place of the last token that a step computes - counter, so all sequences
  advance by advancing the counter;
- the tokens read per extent are `kv[e]`, in these units too, growing by `growing[e]` a step until the next sequence
  reaches the cap;
- a heap of counters says when the next sequence finishes, another when one reaches a cap;
- `phases[p]` counts the sequences that need a new KV block when `counter % span == p`; `promises` keeps what
  admission has set aside for those who run in the same way.

A macro-step ends where the first of these lines bends; `StepCost` gives its duration in closed form. It costs
O(log sequences) to set up, whatever its length. If something arrives in between that could change the batch, the run is
cut at the next step boundary, found by inverting the closed form.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from simulator.kvpool import KVPool, growth
from simulator.policy import COMING, DECODE, DONE, PREFILL, SECONDS_PER_TICK, WAITING, EngineParams
from simulator.promises import Promises
from simulator.sequence import Chain, Sequence
from simulator.shape import PrefillShape, causal_pairs, keys_read
from simulator.stepcost import DecodeLines, StepCost, line_at, line_sum
from simulator.waiting import QUEUES

if TYPE_CHECKING:
    from simulator.timeline import Recorder


AHEAD, EXACTLY = 1, 2


class Run:
    """The macro-step being executed."""

    __slots__ = (
        "cut",
        "decode",
        "end",
        "first",
        "fixed",
        "grown",
        "held",
        "lines",
        "prefill",
        "row",
        "seqs",
        "start",
        "steps",
        "ticks",
    )

    start: int
    end: int
    steps: int
    ticks: int
    seqs: int  # decoding
    held: int  # 0 unless those who wait are held back
    grown: int  # steps whose new KV blocks have been taken
    fixed: int  # ticks of a step that do not depend on decode KV
    first: int  # ticks of the first step
    lines: DecodeLines
    decode: list[int]  # ticks by decode operator
    prefill: list[tuple[Sequence, int]]
    cut: int  # 0, AHEAD or EXACTLY
    row: tuple


class Replica:
    """See the module's docstring.

    Parameters
    ----------
    schedule_end : called as `schedule_end(replica, run)` when a run starts or is cut; the engine calls `step_end` at
        `run.end`.
    on_leave : called as `on_leave(replica, finished, now)` at a step end at which sequences finish or are marked to
        leave; it calls `take_marked` when it has marked whatever has to leave with them.
    """

    def __init__(
        self,
        number: int,
        params: EngineParams,
        cost: StepCost,
        recorder: Recorder,
        schedule_end: Callable[[Replica, Run], None],
        on_leave: Callable[[Replica, list[Sequence], int], None],
    ) -> None:
        self.number, self.params, self.cost, self.recorder = number, params, cost, recorder
        self._schedule_end, self._on_leave = schedule_end, on_leave
        self.pool = KVPool(params.kv_blocks, params.block_size)
        self.least_free = params.kv_blocks  # KV blocks, so far
        self.gaps: list[tuple[int, float, float]] = []  # (request, last token before, first after) around preemptions
        self.by_priority = params.scheduling == "priority"
        self.mixed = params.prefill == "mixed"
        advance = params.speculation
        self.queries, self.move, self.unit = advance.queries, advance.step, advance.unit
        self.span = params.block_size * advance.unit  # of a KV block
        share = params.reserve_output
        self.promises = Promises(share, params.block_size, advance) if share else None
        self.plain = self.mixed and not (params.reserve_output or params.batch_wait_steps or params.ahead)
        self.ahead = params.ahead
        self.inbox: list[tuple[int, Sequence]] = []  # (when it came, request), with `ahead`
        self.every = params.receive_steps
        self.unread = 0  # decode steps since the inbox was looked at, below `every`
        self.landed: list[tuple[int, Sequence]] = []  # see `workers.DecodeWorker`
        self.kept = 0  # seats of those who have left the batch, see `workers.PrefillWorker`
        self.ending = False  # a step's end is being processed
        self.held_back = 0  # steps for which those waiting have been
        self.waiting = QUEUES[params.scheduling]()
        self.running: dict[Sequence, None] = {}  # in order of admission
        self.partial: Sequence | None = None  # the one in prefill, always the last of `running`
        self.seqs = 0  # decoding
        self.counter = 0
        self.decoded = self.last_decode = 0  # when the last step with decode ended and when it began, ticks
        self.kv = [0] * len(cost.decode_caps)
        self.growing = [0] * len(cost.decode_caps)
        self.phases = [0] * self.span
        self.finishing: list[tuple[int, int, Sequence]] = []  # (counter, joined, sequence)
        # By extent: (counter, joined, units left at the cap, sequence).
        self.capped: list[list[tuple[int, int, int, Sequence]]] = [[] for _ in cost.decode_caps]
        self._no_decode, self._no_kv = [0] * len(cost.decode_ops), [0.0] * (2 * len(cost.decode_caps))
        self._no_prefill = [0] * (2 * len(cost.prefill_caps))
        self.has_caps = any(cap is not None for cap in cost.decode_caps)
        self.any_marked = False
        self.run: Run | None = None
        self._serial = 0

    # --- what the engine tells it -------------------------------------------------------------------------------

    def enqueue(self, seq: Sequence, now: int, strict: bool) -> None:
        """A request arrives. `strict`: a step boundary at `now` is already past for this replica."""
        if self.ahead and (self.run is not None or self.ending):
            self._put_in_inbox(seq, now, strict)
            return
        seq.state = WAITING
        self.waiting.add(seq)
        # Whoever stands behind a head that could not be admitted waits with it: the head's chances only sink during a
        # run. Behind one that is held back it may make up the number.
        run = self.run
        if run is not None and (
            run.held or (self.waiting.head() is seq and len(self.running) < self.params.max_num_seqs)
        ):
            self.cut(now, strict)

    def _put_in_inbox(self, seq: Sequence, now: int, strict: bool) -> None:
        """A request arrives while the next step is settled already."""
        self.inbox.append((now, seq))
        run = self.run
        if run is None or len(self.running) >= self.params.max_num_seqs:
            return
        head = self.waiting.head()
        if run.held or head is None or (self.by_priority and seq.rank < head.rank):
            self.cut(now, strict, ahead=True, every=self.every)

    def _empty_inbox(self, begun: int) -> None:
        """Those who were there at `begun` wait from now on; all do if nothing is running."""
        for at, (came, seq) in enumerate(self.inbox):
            if came > begun and (self.seqs or self.partial is not None):
                del self.inbox[:at]
                return
            if seq.state == COMING:  # else it was aborted meanwhile
                seq.state = WAITING
                self.waiting.add(seq)
        self.inbox.clear()

    def abort_waiting(self, seq: Sequence, now: int, strict: bool) -> None:
        """Remove a waiting request; what stood behind it may be admitted now."""
        seq.state = DONE
        self.waiting.forget()
        if self.run is not None:
            self.cut(now, strict)

    def mark(self, seq: Sequence, now: int, strict: bool) -> None:
        """Have a running sequence leave at the next step end."""
        seq.marked = self.any_marked = True
        if self.run is not None:
            self.cut(now, strict)

    def cached(self, chain: Chain, now: int, strict: bool) -> int:
        """KV blocks of a new request that are in the cache; `strict` as in `enqueue`."""
        run = self.run
        if run is not None and run.steps > 1:  # what its steps have taken so far may have been findable
            self._take_growth(run, self._steps_until(run, now - run.start + (1 if strict else 0)))
        return self.pool.find(chain, None)

    # --- macro-steps --------------------------------------------------------------------------------------------

    def _take_growth(self, run: Run, steps: int) -> None:
        """Take the blocks that the run's first `steps` steps need, but for those that were taken before."""
        first = self.counter + (run.grown - 1) * self.move + 1
        taken = growth(self.phases, first, (steps - run.grown) * self.move)
        run.grown = steps
        if taken:
            self.pool.take(taken)

    def cut(self, now: int, strict: bool, ahead: bool = False, every: int = 1) -> None:
        """End the run at its first step boundary at or after `now` (after, if `strict`).

        With `ahead` the step that begins there, or at `now`, is settled already: end the run after it, or where the
        inbox is looked at if that is not `every` step.
        """
        run = self.run
        assert run is not None
        if run.steps == 1 or run.cut == EXACTLY or (ahead and run.cut and every == self.every):
            return
        run.cut = AHEAD if ahead else EXACTLY
        if not ahead:
            steps = self._steps_until(run, now - run.start + (1 if strict else 0))
        else:
            steps = 1 + (self._steps_until(run, now - run.start) if now > run.start else 0)
            steps += -(self.unread + steps) % every
        if steps < run.steps:
            run.steps = steps
            run.decode, run.ticks = self._duration(run, steps)
            run.end = run.start + run.ticks
            self._schedule_end(self, run)

    def _duration(self, run: Run, steps: int) -> tuple[list[int], int]:
        """Ticks of each decode operator over the first `steps` steps of the run, and of these steps as a whole."""
        kv, growing = self.kv, self.growing
        parts = []
        total = run.fixed * steps
        for line, e in run.lines:
            ticks = line_sum(line, kv[e], growing[e], steps)
            parts.append(ticks)
            total += ticks
        return parts, total

    def _step_ticks(self, run: Run, step: int) -> int:
        """Ticks of the run's step number `step`."""
        total = run.fixed
        for line, e in run.lines:
            total += line_at(line, self.kv[e] + self.growing[e] * step)
        return total

    def _steps_until(self, run: Run, ticks: int) -> int:
        """The least number of steps that take at least `ticks`; the run as a whole takes more.

        The elapsed time is close to a parabola in the number of steps: start from its root, then follow secants.
        """
        if ticks <= run.first:
            return 1
        total, whole = run.steps, run.ticks
        slope = run.first
        bend = (whole - slope * total) / (total * total)
        root = slope * slope + 4 * bend * ticks
        guess = 2 * ticks / (slope + root**0.5) if root > 0 else total * ticks / whole
        low, high = 1, total  # elapsed(low) < ticks <= elapsed(high)
        steps = min(max(int(guess) + 1, low + 1), high)
        while True:
            elapsed = self._duration(run, steps)[1]
            here = self._step_ticks(run, steps - 1)
            if elapsed >= ticks:
                if elapsed - here < ticks:
                    return steps
                high = steps - 1
            else:
                low = steps
            if high - low == 1:
                return high
            move = (elapsed - ticks) // here
            steps = min(max(steps - move, low + 1), high)

    def step_end(self, now: int) -> None:
        """The run ends: advance everything, let finished and marked sequences go, schedule the next step."""
        run = self.run
        assert run is not None
        self.run = None
        steps = run.steps
        looked = run.start if self.every == 1 else self._look(run)
        if run.seqs:
            if steps > 1:
                self._take_growth(run, steps)
                if self.pool.free < self.least_free:
                    self.least_free = self.pool.free
            self._record(run)
            if not self.plain:
                self._decoded(run, now)
            self.counter += steps * self.move
            for e, slope in enumerate(self.growing):
                self.kv[e] += slope * steps
            if self.has_caps:
                self._reach_caps()
        else:
            self._record(run)
        if run.prefill:
            self._prefilled(run.prefill, now)
        finished: list[Sequence] = []
        finishing, counter = self.finishing, self.counter
        while finishing and finishing[0][0] <= counter:
            _, joined, seq = heappop(finishing)
            if seq.joined == joined:
                finished.append(seq)
        if finished or self.any_marked:
            self._leave(finished, now)
        if self.inbox or self.landed:
            self._let_in(looked, max(run.start, self.last_decode), now)
        self.schedule(now)

    def _let_in(self, looked: int, begun: int, now: int) -> None:
        """Between two steps: `looked` is when the inbox was looked at, `begun` when the last step began."""
        self._empty_inbox(looked if self.every > 1 else begun)

    def _look(self, run: Run) -> int:
        """When the run's last step began at whose end the inbox is looked at, before the sums advance; -1 if none."""
        if run.prefill:
            self.unread = 0
            return run.start
        unread = (self.unread + run.steps) % self.every
        before = run.steps - unread  # steps to the last look
        self.unread = unread
        if before < 1:
            return -1
        return run.start + (self._duration(run, before - 1)[1] if before > 1 else 0)

    def _decoded(self, run: Run, now: int) -> None:
        """What the policies that most engines lack have to know of a run with decode, before the sums advance."""
        self.decoded, self.last_decode = (
            now,
            now - (run.first if run.steps == 1 else self._step_ticks(run, run.steps - 1)),
        )
        if run.held:
            self.held_back += run.steps
        if self.promises is not None:
            self.promises.advance(self.counter, run.steps)

    def _prefilled(self, chunks: list[tuple[Sequence, int]], now: int) -> None:
        """Chunks are computed; sequences whose known tokens are complete get a token and join the decoding ones."""
        for seq, q in chunks:
            seq.computed += q
            if seq.computed < seq.known:
                continue
            if self.partial is seq:
                self.partial = None
            seq.generated += 1
            seq.started = now
            if seq.first_token is None:
                seq.first_token = now
            if seq.preempted_at is not None:
                self.gaps.append((seq.index, seq.preempted_at * SECONDS_PER_TICK, now * SECONDS_PER_TICK))
                seq.preempted_at = None
            self._join(seq)

    def _leave(self, finished: list[Sequence], now: int) -> None:
        """`finished`, in order of admission, and marked sequences go (steps 2 to 5 of a step's end)."""
        for seq in finished:
            self._remove(seq)
            seq.state = DONE
        self.ending = True
        self._on_leave(self, finished, now)
        self.ending = False

    def take_marked(self) -> list[Sequence]:
        """Marked sequences leave, in order of admission (step 4 of a step's end)."""
        if not self.any_marked:
            return []
        self.any_marked = False
        left = [seq for seq in self.running if seq.marked]
        for seq in left:
            self._remove(seq)
            seq.state = DONE
        return left

    # --- scheduling ---------------------------------------------------------------------------------------------

    def schedule(self, now: int) -> None:
        """Schedule the next step, or fall idle."""
        params, seqs, partial = self.params, self.seqs, self.partial
        chunks: list[tuple[Sequence, int]] = []
        budget = params.max_num_batched_tokens
        preempted, held = False, 0
        if seqs and self.mixed:
            if self._needed():
                preempted = self._grow(now)
                seqs, partial = self.seqs, self.partial
            budget -= seqs * self.queries
        if partial is not None:
            q = min(partial.known - partial.computed, budget)
            chunks.append((partial, q))
            budget -= q
        if self.waiting.size and not preempted:
            if params.batch_wait_steps:
                held = self._hold_back(budget)
            if not held:
                self._admit(chunks, budget)
        if seqs and not self.mixed:
            if chunks:
                seqs = 0
            elif self._needed():
                preempted = self._grow(now)
                seqs = self.seqs
        if not seqs and not chunks:
            self.unread = 0
            return
        if self.pool.free < self.least_free:
            self.least_free = self.pool.free
        # After a preemption nobody was admitted in this step, but may be in the next; so may those in the inbox once it
        # is looked at.
        self._start(chunks, seqs, now, held, once=preempted or bool(self.landed))

    def _needed(self) -> int:
        """The blocks that the decoding sequences need in the next step."""
        if self.move == 1:
            return self.phases[self.counter % self.span]
        return growth(self.phases, self.counter - self.move + 1, self.move)

    def _grow(self, now: int) -> bool:
        """Take the blocks that the decoding sequences need in the next step; whether somebody was preempted for it."""
        preempted = False
        while (needed := self._needed()) > self.pool.free:
            preempted = True
            self._preempt(now)
        self.pool.take(needed)
        if self.promises is not None:
            self.promises.grow(self.counter)
        return preempted

    def _hold_back(self, budget: int) -> int:
        """For how many steps those waiting are held back, 0 if they are not."""
        params, running = self.params, len(self.running)
        if self.partial is not None or not self.seqs:
            return 0
        size, promises = params.block_size, self.promises
        free = self.pool.free - params.watermark_blocks - (promises.owed if promises is not None else 0)
        tokens = decoding = self.seqs * self.queries
        spare = free
        for seq in self.waiting.in_order():
            known = seq.prompt + seq.generated
            if running == params.max_num_seqs or budget == 0 or (known > budget and not params.chunked_prefill):
                break
            blocks = -(-(known + params.speculation.ahead) // size)
            free -= max(blocks, promises.promised(seq) if promises is not None else 0)
            if free < 0:
                break
            running += 1
            q = min(known, budget)
            budget -= q
            tokens += q
            spare = free
        if tokens == decoding:
            return 0
        steps = params.batch_wait_steps - self.held_back
        if steps <= 0 or 0 < params.batch_wait_tokens <= tokens:
            self.held_back = 0
            return 0
        # As long as there is room for the candidates they remain the same: nobody else finds room later in a run.
        # With whole outputs reserved the room does not change, as what is taken was owed.
        if steps > 1 and params.reserve_output < 1 and self._most_growth(steps) > spare:
            return 1
        return steps

    def _admit(self, chunks: list[tuple[Sequence, int]], budget: int) -> None:
        waiting, most = self.waiting, self.params.max_num_seqs
        while budget > 0 and len(self.running) + self.kept < most:
            seq = waiting.head()
            if seq is None:
                return
            q = self._take_in(seq, budget)
            if q < 0:
                return
            waiting.pop()
            if q:
                budget -= q
                chunks.append((seq, q))

    def _take_in(self, seq: Sequence, budget: int) -> int:
        """Admit the head of the queue: the tokens of its first chunk, -1 if it has to stay."""
        params = self.params
        known, size = seq.prompt + seq.generated, params.block_size
        if not params.chunked_prefill and known > budget and not self._fits_budget(seq, known, budget):
            return -1
        blocks = -(-(known + params.speculation.ahead) // size)
        hits = self._claim(seq, seq.chain, -1 - seq.index, blocks)
        if hits < 0:
            return -1
        seq.known, seq.computed = known, hits * size
        seq.hit_tokens += hits * size
        q = min(known - seq.computed, budget)
        seq.state = PREFILL
        self.running[seq] = None
        if seq.computed + q < known:
            self.partial = seq
        return q

    def _claim(self, seq: Sequence, chain: Chain, own: int | None, blocks: int) -> int:
        """Take the blocks of a request that is admitted: how many were in the cache, -1 if there is no room."""
        spare, promises = self.params.watermark_blocks if self.running else 0, self.promises
        if promises is not None:
            spare += promises.owed + max(0, promises.promised(seq) - blocks)
        hits = self.pool.admit(chain, own, blocks, spare)
        if promises is not None and hits >= 0:
            promises.admitted(seq, blocks)
        return hits

    def _fits_budget(self, seq: Sequence, known: int, budget: int) -> bool:
        """Without chunked prefill: whether what the cache does not hold fits the budget in one piece."""
        found = self.pool.find(seq.chain, -1 - seq.index)
        return known - found * self.params.block_size <= budget

    def _start(self, chunks: list[tuple[Sequence, int]], seqs: int, now: int, held: int, once: bool) -> None:
        """Begin a run in which `seqs` decode.

        `once` limits it to a single step, `held` to that many if it is not 0: those who wait are held back until then.
        """
        cost = self.cost
        run = Run()
        run.start, run.cut, run.prefill, run.seqs, run.held, run.grown = now, 0, chunks, seqs, held, 1
        prefill = None
        rows = tokens = seqs * self.queries
        if chunks:
            prefill, done = self._prefill_shape(chunks)
            tokens += prefill.tokens
            rows += done
        run.fixed = cost.fixed_ticks(tokens, rows, prefill)
        run.lines = cost.decode_lines(seqs)
        run.decode = [line_at(line, self.kv[e]) for line, e in run.lines]
        run.ticks = run.first = run.fixed + sum(run.decode)
        run.steps = 1 if chunks or once else self._steps()
        if held:
            run.steps = min(run.steps, held)
        if self.inbox:
            run.steps = min(run.steps, self.every - self.unread)
        if run.steps > 1:
            run.decode, run.ticks = self._duration(run, run.steps)
        run.end = now + run.ticks
        run.row = (tokens, rows, seqs, prefill, self.params.kv_blocks - self.pool.free, self.waiting.size)
        self.run = run
        self._schedule_end(self, run)

    def _prefill_shape(self, chunks: list[tuple[Sequence, int]]) -> tuple[PrefillShape, int]:
        caps = self.cost.prefill_caps
        tokens = done = 0
        pairs, kv = [0] * len(caps), [0] * len(caps)
        for seq, q in chunks:
            past = seq.computed
            tokens += q
            done += past + q == seq.known
            for e, cap in enumerate(caps):
                pairs[e] += causal_pairs(q, past, cap)
                kv[e] += keys_read(q, past, cap)
        return PrefillShape(tokens, len(chunks), tuple(pairs), tuple(kv)), done

    def _steps(self) -> int:
        """How many steps until the first line bends: a sequence finishes, reaches a cap, or the KV pool runs dry."""
        counter = self.counter
        finishing = self.finishing
        while finishing[0][2].joined != finishing[0][1]:
            heappop(finishing)  # left before its time
        move = self.move
        steps = (finishing[0][0] - counter) // move
        for heap in self.capped:
            while heap and heap[0][3].joined != heap[0][1]:
                heappop(heap)
            if heap:
                steps = min(steps, (heap[0][0] - counter) // move)
        if steps > 1 and self._most_growth(steps) > self.pool.free:
            steps = self._steps_before_full(steps)
        return steps

    def _most_growth(self, steps: int) -> int:
        """An upper bound on the blocks that steps 1 .. steps - 1 take."""
        return self.seqs * ((steps - 1) * self.move // self.span + 1)

    def _steps_before_full(self, steps: int) -> int:
        """The steps, at most `steps`, that can be taken before the pool cannot serve one."""
        size, phases = self.span, self.phases
        free = self.pool.free
        if self.move > 1:
            first = self.counter + 1
            return bisect_right(range(2, steps + 1), free, key=lambda n: growth(phases, first, (n - 1) * self.move)) + 1
        rounds = min(free // self.seqs, (steps - 1) // size)
        taken = 1 + rounds * size
        free -= rounds * self.seqs
        while taken < steps:
            free -= phases[(self.counter + taken) % size]
            if free < 0:
                break
            taken += 1
        return taken

    # --- the sets -----------------------------------------------------------------------------------------------

    def _join(self, seq: Sequence) -> None:
        """A sequence whose known tokens are all computed starts decoding."""
        self._serial += 1
        seq.joined = self._serial
        seq.state = DECODE
        move, unit = self.move, self.unit
        seq.base = (seq.known + self.queries - 1) * unit - self.counter
        self.seqs += 1
        self.phases[-seq.base % self.span] += 1
        left = -(-(seq.output - seq.generated) * unit // move)  # steps
        heappush(self.finishing, (self.counter + left * move, seq.joined, seq))
        if self.promises is not None:
            self.promises.joined(seq, self.counter)
        for e, cap in enumerate(self.cost.decode_caps):
            read = (seq.known + self.queries) * unit
            if cap is None:
                self.growing[e] += move
            elif read < cap * unit:
                self._approach(e, seq, cap * unit - read)
                read = min(read, cap * unit)
            else:
                read = cap * unit
            self.kv[e] += read

    def _remove(self, seq: Sequence, keep: bool = False) -> None:
        """Take a sequence out of the batch and release its blocks; `keep` them findable after a preemption."""
        size = self.params.block_size
        del self.running[seq]
        decoding = seq.state == DECODE
        if decoding:
            at, unit = seq.base + self.counter, self.unit
            computed = at // unit + 1 - self.queries
            blocks = 1 + (at - self.move) // self.span
            self.seqs -= 1
            self.phases[-seq.base % self.span] -= 1
            read = at + unit
            for e, cap in enumerate(self.cost.decode_caps):
                if cap is None or read + self.move <= cap * unit:
                    self.growing[e] -= self.move
                self.kv[e] -= read if cap is None else min(read, cap * unit)
            seq.generated = min(computed + 1 - seq.prompt, seq.output)
            seq.joined = -1
        else:
            computed = seq.computed
            blocks = -(-(seq.known + self.params.speculation.ahead) // size)
            self.partial = None
        if self.promises is not None:
            self.promises.left(seq, blocks, self.counter if decoding else None)
        own = -1 - seq.index if keep and self.params.prefix_sharing else None
        self.pool.release(seq.chain, own, blocks, computed // size)

    def _approach(self, e: int, seq: Sequence, units: int) -> None:
        """A sequence reads by `units` less than the cap of extent `e`: whole moves more, and what is left at once."""
        steps, rest = divmod(units, self.move)
        if steps:
            self.growing[e] += self.move
        heappush(
            self.capped[e], (self.counter + (steps or 1) * self.move, seq.joined, rest if not steps else -rest, seq)
        )

    def _reach_caps(self) -> None:
        """Sequences that have reached an extent's cap read no more from step to step."""
        for e, heap in enumerate(self.capped):
            while heap and heap[0][0] <= self.counter:
                _, joined, rest, seq = heappop(heap)
                if seq.joined != joined:
                    continue
                if rest > 0:
                    self.kv[e] += rest
                    continue
                self.growing[e] -= self.move
                if rest:
                    heappush(heap, (self.counter + self.move, joined, -rest, seq))

    def _preempt(self, now: int) -> None:
        """The victim loses its blocks and goes back to the queue."""
        victim = self._victim()
        self._remove(victim, keep=True)
        victim.state = WAITING
        victim.preemptions += 1
        if victim.first_token is not None and victim.preempted_at is None:
            victim.preempted_at = self._last_token(victim, now)
        self.waiting.put_back(victim)

    def _victim(self) -> Sequence:
        return max(self.running, key=_by_rank) if self.by_priority else next(reversed(self.running))

    def _last_token(self, victim: Sequence, now: int) -> int:
        """When a sequence that is preempted got its last token."""
        return now if self.mixed else max(victim.started, self.decoded)

    def _record(self, run: Run) -> None:
        """Write the run's row of the timeline (`timeline.column_names`), with times in ticks."""
        tokens, rows, seqs, prefill, blocks, waiting = run.row
        steps, first = run.steps, run.first
        last = first if steps == 1 else self._step_ticks(run, steps - 1)
        kv: list[float] = []
        if seqs:
            decode = run.decode
            unit = self.unit
            for read, slope in zip(self.kv, self.growing, strict=True):
                kv += (read / unit, (read + slope * (steps - 1)) / unit)
        else:
            kv, decode = self._no_kv, self._no_decode
        if prefill is None:
            chunk_tokens, chunk_seqs, chunks = 0, 0, self._no_prefill
        else:
            chunk_tokens, chunk_seqs = prefill.tokens, prefill.seqs
            chunks = [part for pair in zip(prefill.pairs, prefill.kv, strict=True) for part in pair]
        self.recorder.add(
            (self.number, run.start, run.ticks, steps, tokens, rows, seqs, chunk_tokens, chunk_seqs,
             blocks, waiting, first, last, *kv, *decode, *chunks)
        )  # fmt: skip


def _by_rank(seq: Sequence) -> tuple[int, int]:
    return seq.rank
