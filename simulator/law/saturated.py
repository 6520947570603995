"""Who runs in which step of an engine that is never short of work: the schedule of saturated serving.

Problems of `trials` equal trials queue without end. Then no arrival changes the batch, and the engine's policies look
at tokens, sequences and KV blocks, not at the clock: the order of its steps does not depend on how long they take. So
the event engine runs once, with steps of one clock tick each, and its record is timed afterwards (`steady`) for any
attention, GPU or profile with the same room for KV.

Trials of equal length run in waves: who is admitted together finishes together. Where the KV cache is too small for the
batch the waves overlap and never quite repeat. A stretch of the record stands for the long run if what is unfinished is
alike at both of its ends. `saturated_schedule` chooses such a stretch, and gives its rows weights with which they have,
per problem, exactly as many tokens and keys read as a problem has (a regression estimator of the long run's means).
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np

from simulator.engine import Engine, check_servable
from simulator.policy import SECONDS_PER_TICK, EngineParams, Status
from simulator.sequence import Sequence
from simulator.shape import PrefillShape
from simulator.stepcost import DecodeLines, StepCost
from simulator.timeline import Timeline
from workloads.requests import Requests

WARM, WAVES, PERIODIC = 1.0, 3.0, 2.0
"""Waves that are left out at the start, and that the record holds after them: where sequences are preempted, and where
never one is, so that waves repeat. A wave has as many trials as the engine holds at a time."""
LEAST = 3 / 5
"""Share of the record after its start that the stretch has at least."""
ENDS = 240
"""Rows of the timeline at which a stretch may begin or end, that many at most."""


@dataclass(frozen=True)
class Schedule:
    """A stretch of saturated serving that stands for the long run.

    Attributes
    ----------
    timeline : its rows, as `simulator.timeline` has them, but timed at a tick a step.
    weights : of each row: how many times a problem has it, in the mean.
    caps, prefill_caps : what the timeline's extents of decode and prefill read at most of a sequence.
    problems : whose outputs were finished within it.
    preemptions : of a trial, in the mean.
    """

    timeline: Timeline
    weights: np.ndarray
    caps: tuple[int | None, ...]
    prefill_caps: tuple[int | None, ...]
    problems: float
    preemptions: float


class Ticking:
    """A step cost of one tick a step, for what an engine asks of a `StepCost`."""

    decode_ops: tuple[()] = ()

    def __init__(self, caps: tuple[int | None, ...], prefill_caps: tuple[int | None, ...]) -> None:
        self.decode_caps, self.prefill_caps = caps, prefill_caps

    def fixed_ticks(self, tokens: int, rows: int, prefill: PrefillShape | None) -> int:
        return 1

    def decode_lines(self, seqs: int) -> DecodeLines:
        return ()


class _Stopping(Engine):
    """An engine that stops when so many requests have finished, with others in flight."""

    def __init__(self, *arguments: Any, after: int) -> None:
        super().__init__(*arguments)
        self._after, self._stop = after, self.env.event()

    def _finalise(self, leaving: list[Sequence], status: Status) -> None:
        super()._finalise(leaving, status)
        if self.final >= self._after and not self._stop.triggered:
            self._stop.succeed()

    def record(self) -> tuple[Timeline, np.ndarray, int]:
        """The timeline, the ticks at which requests finished, sorted, and the preemptions of those that did."""
        self._alarm(0, 0, self._on_open_arrivals, None)
        self.arrival_s = self.requests.job_arrival_s  # type: ignore[assignment]
        collecting = gc.isenabled()
        gc.disable()  # as in `Engine.run`
        try:
            self.env.run(until=self._stop)
        finally:
            if collecting:
                gc.enable()
        finish = np.array(self.finish)
        done = np.isfinite(finish)
        return self.recorder.finish(), np.sort(finish[done]), int(np.array(self.preemptions)[done].sum())


def saturated_schedule(
    params: EngineParams,
    caps: tuple[int | None, ...],
    prefill_caps: tuple[int | None, ...],
    prompt: int,
    tokens: int,
    trials: int = 1,
    *,
    waves: float | None = None,
) -> Schedule:
    """The schedule of problems of `trials` trials of `tokens` tokens each, after a prompt of `prompt` tokens.

    Parameters
    ----------
    params : of the engine; replicas are alike, so one is simulated.
    caps, prefill_caps : as of a `StepCost`, in any order and of as many attentions as will be timed.
    waves : of the record after its start; left out: WAVES, or PERIODIC where nobody is ever preempted.

    Raises
    ------
    InputError : the engine cannot serve such a trial.
    """
    params = replace(params, replicas=1, router="round_robin", request_ticks=0, request_token_ticks=0)
    return _schedule(params, caps, prefill_caps, prompt, tokens, trials, waves)


@lru_cache(maxsize=32)
def _schedule(
    params: EngineParams,
    caps: tuple[int | None, ...],
    prefill_caps: tuple[int | None, ...],
    prompt: int,
    tokens: int,
    trials: int,
    waves: float | None,
) -> Schedule:
    held, at_most = _in_flight(params, prompt, tokens, trials)
    crowded = at_most < params.max_num_seqs
    waves = waves or (WAVES if crowded else PERIODIC)
    wave = -(-held // trials)  # problems
    stop = trials * int(np.ceil(wave * (WARM + waves)))
    queued = stop // trials + -(-params.max_num_seqs // trials) + 1
    requests = equal_problems(prompt, tokens, trials, queued)
    check_servable(requests, params)
    cost = cast(StepCost, Ticking(caps, prefill_caps))
    timeline, finish, preemptions = _Stopping(requests, cost, params, None, after=stop).record()
    record = _Record(timeline, finish, caps, params, prompt, tokens)
    rows = record.stretch(WARM * wave * trials)
    weights = record.weights(rows) * trials
    finished = record.finished[rows.stop - 1] - record.finished[rows.start - 1]
    return Schedule(
        timeline.select(rows), weights, caps, prefill_caps, finished / trials, preemptions / max(len(finish), 1)
    )


def _in_flight(params: EngineParams, prompt: int, tokens: int, trials: int) -> tuple[int, int]:
    """Trials that the KV cache holds in the mean, at most as many as the engine runs, and that it holds in full."""
    size, shared = params.block_size, trials if params.prefix_sharing else 1
    room = params.kv_blocks - params.watermark_blocks
    own = prompt / shared
    mean = room * size / (own + tokens / 2 + size / 2)
    full = room * size / (own + tokens + 2 * size)
    return max(1, min(params.max_num_seqs, int(mean))), int(full)


def equal_problems(prompt: int, tokens: int, trials: int, problems: int) -> Requests:
    """They all queue from the start; the trials of a problem share its prompt."""
    n = problems * trials
    job = np.repeat(np.arange(problems, dtype=np.int64), trials)

    def every(value: int) -> np.ndarray:
        return np.full(n, value, dtype=np.int64)

    return Requests(
        prompt_tokens=every(prompt),
        output_tokens=every(tokens),
        job=job,
        job_arrival_s=np.zeros(problems),
        priority=every(0),
        session=job,
        accepted=np.zeros(n, dtype=bool),
        prefix_ptr=np.arange(n + 1),
        prefix_id=job,
        prefix_tokens=every(prompt),
        prefix_unit_tokens=None,
        concurrency=None,
        think_time_s=0.0,
        stop_on_accept=False,
        timeout_s=None,
    )


class _Record:
    """Sums over a record up to the end of each of its rows, and what a trial adds to them."""

    def __init__(
        self,
        timeline: Timeline,
        finish: np.ndarray,
        caps: tuple[int | None, ...],
        params: EngineParams,
        prompt: int,
        tokens: int,
    ) -> None:
        advance = params.speculation
        steps, seqs = timeline["steps"], timeline["decode_seqs"]
        ends = timeline["start_s"] + timeline["duration_s"]
        half = SECONDS_PER_TICK / 2
        self.finished = np.searchsorted(finish, ends + half)
        first = timeline["rows"] - seqs * advance.queries  # tokens that end a prefill
        self.tokens = steps * (seqs * (advance.step / advance.unit) + first)
        widest = max(range(len(caps)), key=lambda e: float("inf") if caps[e] is None else float(caps[e] or 0))
        self.keys = steps * (timeline[f"decode_kv_first.{widest}"] + timeline[f"decode_kv_last.{widest}"]) / 2
        self.seqs, self.steps = seqs, steps
        decoded = float((steps * seqs * (advance.step / advance.unit)).sum() / self.tokens.sum())
        cap = caps[widest]
        read = np.arange(prompt + 1, prompt + tokens, dtype=float)
        # A sequence that was preempted gets a token from computing its KV again, in place of one from a decode step.
        share = decoded * tokens / (tokens - 1) if tokens > 1 else 1.0
        keys = float((read if cap is None else np.minimum(read, cap)).sum()) * share / (advance.step / advance.unit)
        self.trial = np.array([float(tokens), keys])

    def stretch(self, warm: float) -> slice:
        """The rows between two whose unfinished sequences are most alike, after `warm` trials have finished."""
        done = np.cumsum(self.tokens), np.cumsum(self.keys)
        rows = np.flatnonzero(self.finished >= warm)
        if len(rows) > ENDS:
            rows = rows[np.unique(np.linspace(0, len(rows) - 1, ENDS).astype(int))]
        finished = self.finished[rows].astype(float)
        between = finished[None, :] - finished[:, None]  # from row, to column
        enough = between >= max(1.0, LEAST * (finished[-1] - finished[0]))
        enough &= np.arange(len(rows))[None, :] > np.arange(len(rows))[:, None]
        apart = np.zeros(between.shape)
        for sums, each in zip(done, self.trial, strict=True):
            if each:
                unfinished = sums[rows] / each - finished
                apart += (unfinished[None, :] - unfinished[:, None]) ** 2
        apart = np.where(enough, apart / np.maximum(between, 1.0) ** 2, np.inf)
        begin, end = np.unravel_index(int(np.argmin(apart)), apart.shape)
        return slice(int(rows[begin]) + 1, int(rows[end]) + 1)

    def weights(self, rows: slice) -> np.ndarray:
        """How many times a trial has each of the rows: nearly the same for all, such that the weighted rows have the
        tokens and the keys of a trial. The nearest such weights, by steps; see Deville and Saerndal, "Calibration
        Estimators in Survey Sampling", JASA 87 (1992).
        """
        steps = self.steps[rows]
        values = np.stack([self.tokens[rows] / steps, self.keys[rows] / steps])
        finished = self.finished[rows.stop - 1] - self.finished[rows.start - 1]
        totals = values @ steps
        equal = 1.0 / finished if not self.trial[1] else self.trial[1] / totals[1]
        missing = self.trial - equal * totals
        scale = np.where(self.trial > 0, self.trial, 1.0)
        values, missing = values / scale[:, None], missing / scale
        spread = (values * steps * equal) @ values.T
        slope = np.linalg.lstsq(spread, missing, rcond=1e-9)[0]
        return np.asarray(equal * (1 + slope @ values))
