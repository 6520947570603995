"""Requests: the arrays that an engine receives, and how a workload becomes them.

A *job* is what arrives together: the N samples of a problem, or one request. Everything random about a workload is
drawn here, before the simulation; what becomes of a request is left to the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workloads.arrivals import AllAtOnce, ClosedLoop, FromTrace
from workloads.lengths import sample_weighted
from workloads.strategies import BestOfN, LongCot
from workloads.traces import read_trace

if TYPE_CHECKING:
    from workloads.scenario import Workload

# One random stream for each purpose, by fixed number: a change to one leaves the others as they were.
_PROMPTS, _OUTPUTS, _ARRIVALS, _ACCEPTANCE, _PRIORITIES = range(5)


@dataclass(frozen=True)
class Requests:
    """`n` requests in `J` jobs, in order of arrival.

    Attributes
    ----------
    prompt_tokens : int64[n], at least 1.
    output_tokens : int64[n], at least 1: what the request generates if nobody stops it.
    job : int64[n], the job of each request: 0 .. J-1 without gaps, never decreasing.
    job_arrival_s : float64[J], seconds, sorted; zeros in a closed loop.
    priority : int64[n], lower goes first.
    session : int64[n], which requests belong to one conversation; at least 0.
    accepted : bool[n], whether the request's output would be accepted once it is finished.
    prefix_ptr, prefix_id, prefix_tokens : int64[n + 1], int64[m], int64[m]. The prompt of request i begins with the
        shareable units `prefix_ptr[i]:prefix_ptr[i + 1]`, in that order; two requests share the KV of their equal
        leading units.
        Best-of-N has one unit, the whole prompt, with the job as its id; a Mooncake trace one for each hash.
    prefix_unit_tokens : tokens of each unit but the last of a prompt (512 in a Mooncake trace); None where units have
        no common size.
    concurrency : jobs in flight in a closed loop; None in an open one.
    think_time_s : pause between a job's end and the next job in a closed loop, seconds.
    stop_on_accept : whether a finished accepted request stops the rest of its job.
    timeout_s : time after submission at which an unfinished request is aborted, seconds; None for never.
    """

    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    job: np.ndarray
    job_arrival_s: np.ndarray
    priority: np.ndarray
    session: np.ndarray
    accepted: np.ndarray
    prefix_ptr: np.ndarray
    prefix_id: np.ndarray
    prefix_tokens: np.ndarray
    prefix_unit_tokens: int | None
    concurrency: int | None
    think_time_s: float
    stop_on_accept: bool
    timeout_s: float | None

    def __post_init__(self) -> None:
        self.validate()

    @property
    def n(self) -> int:
        """Number of requests."""
        return len(self.prompt_tokens)

    @property
    def n_jobs(self) -> int:
        """Number of jobs."""
        return len(self.job_arrival_s)

    def job_ptr(self) -> np.ndarray:
        """int64[J + 1]: job j has the requests `job_ptr[j]:job_ptr[j + 1]`."""
        return np.searchsorted(self.job, np.arange(self.n_jobs + 1))

    def validate(self) -> None:
        """Check what the class promises; O(n + m). Raises ValueError: a breach is a mistake of the program."""

        def check(holds: object, what: str) -> None:
            if not holds:
                raise ValueError(f"Requests: {what}")

        n, m, jobs = self.n, len(self.prefix_id), self.n_jobs
        for name in ("prompt_tokens", "output_tokens", "job", "priority", "session"):
            array = getattr(self, name)
            check(array.dtype == np.int64 and array.shape == (n,), f"{name} is not int64[{n}]")
        check(n > 0, "no requests")
        check(self.accepted.dtype == bool and self.accepted.shape == (n,), f"accepted is not bool[{n}]")
        check(self.prompt_tokens.min() >= 1 and self.output_tokens.min() >= 1, "a length below 1")
        check(self.session.min() >= 0, "a negative session")
        gaps = np.diff(self.job)
        whole = self.job[0] == 0 and self.job[-1] == jobs - 1 and ((gaps == 0) | (gaps == 1)).all()
        check(whole, "job is not 0 .. J-1, in order and without gaps")
        times = self.job_arrival_s
        check(times.dtype == np.float64 and np.isfinite(times).all(), "job_arrival_s is not finite float64")
        check(times[0] >= 0 and (np.diff(times) >= 0).all(), "job_arrival_s is negative or not sorted")
        ptr = self.prefix_ptr
        check(ptr.dtype == np.int64 and ptr.shape == (n + 1,), f"prefix_ptr is not int64[{n + 1}]")
        check(ptr[0] == 0 and ptr[-1] == m and (np.diff(ptr) >= 0).all(), "prefix_ptr does not run from 0 to m")
        for name in ("prefix_id", "prefix_tokens"):
            array = getattr(self, name)
            check(array.dtype == np.int64 and array.shape == (m,), f"{name} is not int64[{m}]")
        check(m == 0 or self.prefix_tokens.min() >= 1, "an empty prefix unit")
        covered = np.diff(np.concatenate(([0], np.cumsum(self.prefix_tokens)))[ptr])
        check((covered <= self.prompt_tokens).all(), "prefix units longer than their prompt")
        check(self.prefix_unit_tokens is None or self.prefix_unit_tokens >= 1, "prefix_unit_tokens below 1")
        check(self.concurrency is None or (self.concurrency >= 1 and not times.any()), "not a closed loop")
        check(0 <= self.think_time_s < np.inf, "think_time_s is negative or not finite")
        check(self.timeout_s is None or self.timeout_s > 0, "timeout_s is not positive")


def generate(workload: Workload, seed: int) -> Requests:
    """The requests of a workload; the same, bit by bit, for the same seed (and NumPy's random streams).

    Raises InputError when a trace or a table of lengths that the workload names cannot be used.
    """

    def stream(purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose,)))

    strategy, arrivals = workload.strategy, workload.arrivals
    samples = strategy.samples if isinstance(strategy, BestOfN) else 1
    prefix_unit_tokens, priority = None, None
    if workload.trace is not None:
        trace = read_trace(
            workload.trace.file,
            limit=workload.trace_limit,
            time_scale=workload.trace.time_scale,
            start=workload.trace.start,
        )
        jobs = trace.n
        prompts, outputs, session, priority = trace.input_len, trace.output_len, trace.session, trace.priority
        ptr, ids, tokens, prefix_unit_tokens = trace.prefix_ptr, trace.prefix_id, trace.prefix_tokens, trace.unit_tokens
    else:
        assert workload.requests is not None and workload.prompt_tokens is not None
        assert workload.output_tokens is not None
        jobs = workload.requests
        prompts = np.repeat(workload.prompt_tokens.sample(stream(_PROMPTS), jobs), samples)
        outputs = workload.output_tokens.sample(stream(_OUTPUTS), jobs * samples)
        session = np.repeat(np.arange(jobs), samples)
        ptr, ids, tokens = np.zeros(jobs * samples + 1, dtype=np.int64), _NONE, _NONE
    n = jobs * samples
    job = np.repeat(np.arange(jobs), samples)

    accepted = np.zeros(n, dtype=bool)
    if isinstance(strategy, BestOfN):
        ptr, ids, tokens = np.arange(n + 1), job, prompts
        if strategy.acceptance is not None:
            accepted = stream(_ACCEPTANCE).random(n) < strategy.acceptance
    elif isinstance(strategy, LongCot):
        outputs = np.where(outputs <= strategy.budget, outputs, strategy.budget + strategy.forced_end_tokens)

    if isinstance(arrivals, FromTrace):
        assert workload.trace is not None
        times = trace.arrival_s
    else:
        times = (arrivals or AllAtOnce()).job_times(stream(_ARRIVALS), jobs)
    if workload.priority is not None:
        drawn = sample_weighted(stream(_PRIORITIES), workload.priority.values, workload.priority.weights, jobs)
        priority = np.repeat(drawn, samples)
    closed = arrivals if isinstance(arrivals, ClosedLoop) else None
    return Requests(
        prompt_tokens=prompts,
        output_tokens=outputs,
        job=job,
        job_arrival_s=times,
        priority=np.zeros(n, dtype=np.int64) if priority is None else priority,
        session=session,
        accepted=accepted,
        prefix_ptr=ptr,
        prefix_id=ids,
        prefix_tokens=tokens,
        prefix_unit_tokens=prefix_unit_tokens,
        concurrency=closed.concurrency if closed else None,
        think_time_s=closed.think_time if closed else 0.0,
        stop_on_accept=isinstance(strategy, BestOfN) and strategy.stop_on_accept,
        timeout_s=workload.timeout,
    )


_NONE = np.zeros(0, dtype=np.int64)
