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
TRIALS = 96
"""Trials that the record holds at least where sequences are preempted."""
LEAST = 0.6
"""Share of the record after its start that the stretch has at least."""
NEWTON, TILT = 30, 1.5
"""Steps of Newton's method at most, and the natural logarithm of the largest factor between weights."""
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

    def record(self) -> tuple[Timeline, np.ndarray, bool]:
        """The timeline, the ticks at which requests finished, sorted, and whether any was preempted."""
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
        preempted = any(self.preemptions) or any(seq.preemptions for seq in self.live.values())
        return self.recorder.finish(), np.sort(finish[done]), preempted


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
    waves = waves or (max(WAVES, TRIALS / held) if crowded else PERIODIC)
    wave = -(-held // trials)  # problems
    stop = trials * int(np.ceil(wave * (WARM + waves)))
    queued = stop // trials + -(-params.max_num_seqs // trials) + 1
    requests = equal_problems(prompt, tokens, trials, queued)
    check_servable(requests, params)
    cost = cast(StepCost, Ticking(caps, prefill_caps))
    timeline, finish, repeats = _Stopping(requests, cost, params, None, after=stop).record()
    record = _Record(timeline, finish, caps, params, prompt, tokens, repeats=repeats)
    rows = record.stretch(WARM * wave * trials)
    weights = record.weights(rows)
    # All prefills that end, but for the first. (Those of finished trials would be too few: the youngest are preempted.)
    preemptions = float((weights * record.steps[rows] * record.first[rows]).sum()) - 1 if repeats else 0.0
    finished = record.finished[rows.stop - 1] - record.finished[rows.start - 1]
    return Schedule(
        timeline.select(rows), weights * trials, caps, prefill_caps, finished / trials, max(preemptions, 0.0)
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
    """What the rows of a record add to tokens, to keys read, and, if nothing is computed twice, to prefilled tokens;
    and what a trial does.

    `repeats` : whether sequences were preempted, so that what is prefilled for a trial is not known beforehand.
    """

    def __init__(
        self,
        timeline: Timeline,
        finish: np.ndarray,
        caps: tuple[int | None, ...],
        params: EngineParams,
        prompt: int,
        tokens: int,
        *,
        repeats: bool,
    ) -> None:
        advance = params.speculation.step / params.speculation.unit
        self.steps, seqs = timeline["steps"], timeline["decode_seqs"]
        ends = timeline["start_s"] + timeline["duration_s"]
        self.finished = np.searchsorted(finish, ends + SECONDS_PER_TICK / 2)
        # Tokens that come with the end of a prefill.
        self.first = first = timeline["rows"] - seqs * params.speculation.queries
        widest = len(caps) - 1 if None not in caps else caps.index(None)
        read = (timeline[f"decode_kv_first.{widest}"] + timeline[f"decode_kv_last.{widest}"]) / 2
        each = [seqs * advance + first, read]
        # Of a sequence that was preempted, a token comes with computing its KV again in place of a decode step.
        decoded = (self.steps * seqs).sum() * advance / (self.steps * each[0]).sum()
        keys = np.arange(prompt + 1, prompt + tokens, dtype=float)
        if (cap := caps[widest]) is not None:
            keys = np.minimum(keys, cap)
        share = decoded * tokens / (tokens - 1) if tokens > 1 else 1.0
        trial = [float(tokens), float(keys.sum()) * share / advance]
        if not repeats:
            each.append(timeline["prefill_tokens"])
            trial.append(float((self.steps * each[2]).sum() / (self.steps * first).sum()))
        used = np.array(trial) > 0  # no keys with a single token
        self.trial, self.each, self.sure = np.array(trial)[used], np.stack(each)[used], int(used[:2].sum())

    def stretch(self, warm: float) -> slice:
        """The rows between two whose unfinished sequences are most alike, after `warm` trials have finished."""
        rows = np.flatnonzero(self.finished >= warm)
        if len(rows) > ENDS:
            rows = rows[np.unique(np.linspace(0, len(rows) - 1, ENDS).astype(int))]
        finished = self.finished[rows].astype(float)
        between = finished[None, :] - finished[:, None]  # from row, to column
        apart = np.zeros(between.shape)
        for done in np.cumsum(self.each * self.steps, axis=1)[:, rows] / self.trial[:, None]:
            unfinished = done - finished
            apart += (unfinished[None, :] - unfinished[:, None]) ** 2
        enough = between >= max(1.0, LEAST * (finished[-1] - finished[0]))
        apart = np.where(enough, apart / np.maximum(between, 1.0) ** 2, np.inf)
        begin, end = np.unravel_index(int(np.argmin(apart)), apart.shape)
        return slice(int(rows[begin]) + 1, int(rows[end]) + 1)

    def weights(self, rows: slice) -> np.ndarray:
        """How many times a trial has each of the rows: nearly the same for all, such that the weighted rows add to the
        tokens and keys of a trial. Raking: w = exp(l . x) / trials finished, with x what a step adds, solved for l by
        Newton's method; see Deville and Särndal, "Calibration Estimators in Survey Sampling", JASA 87 (1992), case 2.
        Where no such weights are near each other, as with outputs of a few tokens, they are the same for all.
        """
        each = self.each[: self.sure, rows] / self.trial[: self.sure, None]
        start = self.steps[rows] / (self.finished[rows.stop - 1] - self.finished[rows.start - 1])
        tilt, powers = np.zeros(len(start)), np.zeros(len(each))
        for _ in range(NEWTON):
            counts = start * np.exp(tilt)
            missing = 1 - each @ counts
            if np.abs(missing).max() < 1e-12:
                break
            powers += np.linalg.lstsq((each * counts) @ each.T, missing, rcond=1e-9)[0]
            tilt = powers @ each
            if np.abs(tilt).max() > TILT:
                return np.asarray(start / self.steps[rows])
        return np.asarray(start * np.exp(tilt) / self.steps[rows])
