"""Asks for trials of candidates, in this process or in several, and gives the answers in the order of the questions.

Answers are kept: what was begun ahead and not waited for is there when it is asked for later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from simulator.planning import trial
from simulator.planning.loads import HighestLoad, probe
from simulator.planning.model import Candidate, Objective, Outcome
from simulator.planning.trial import Answer, Bounded, Question, Refused, Task, Trials
from simulator.processes import end_pool, process_pool
from workloads.arrivals import ClosedLoop

Progress = Callable[[int, int], None]


class Runner:
    """Trials, in this process or in several; asked in order, answered in order."""

    def __init__(self, question: Question, jobs: int, progress: Progress | None) -> None:
        self.question, self.jobs, self._progress = question, jobs, progress
        self._pool = process_pool(jobs, initializer=trial.start, initargs=(question,)) if jobs > 1 else None
        self._own = Trials(question) if jobs == 1 else None
        self._known: dict[Task, Future[Answer]] = {}
        self.done = self._more = 0

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: object, error: object, where: object) -> None:
        if self._pool is not None:
            if kind is None:
                self._pool.shutdown(wait=True, cancel_futures=True)  # of what was begun ahead, nothing is wanted
            else:
                end_pool(self._pool, at_once=True)

    def expect(self, more: int) -> None:
        """So many more answers will be asked for, about."""
        self._more = more

    def _tell(self) -> None:
        self.done, self._more = self.done + 1, max(self._more - 1, 0)
        if self._progress is not None:
            self._progress(self.done, self.done + self._more)

    def bounds(self, found: Sequence[Candidate]) -> Iterator[Bounded]:
        """What is proven of each shape, in their order."""
        self.expect(len(found))
        if self._pool is None:
            assert self._own is not None
            answers: Iterator[Bounded] = map(self._own.bound, found)
        else:
            answers = self._pool.map(trial.bound_here, found, chunksize=1)
        for answer in answers:
            self._tell()
            yield answer

    def trials(self, candidates: Sequence[Candidate], *, watched: bool = True) -> Iterator[tuple[Candidate, Answer]]:
        """What becomes of candidates, in their order; some of those that follow are begun ahead."""
        for at, candidate in enumerate(candidates):
            for ahead in candidates[at : at + self.jobs + 1]:
                self._begin((ahead, 1.0, watched))
            answer = self._begin((candidate, 1.0, watched)).result()
            self._tell()
            yield candidate, answer

    def loads(self, candidates: Sequence[Candidate]) -> dict[Candidate, tuple[HighestLoad, Objective | None]]:
        """The highest load that each holds, all of them looked for at the same time; and what is lost beyond it."""
        arrivals = self.question.base.loaded.config.workload.arrivals
        concurrency = arrivals.concurrency if isinstance(arrivals, ClosedLoop) else None
        probes = {candidate: probe(concurrency) for candidate in candidates}
        asked = {candidate: next(each) for candidate, each in probes.items()}
        found: dict[Candidate, tuple[HighestLoad, Objective | None]] = {}
        lost: dict[tuple[Candidate, float | None], Objective] = {}
        while asked:
            self.expect(3 * len(asked))
            begun = {candidate: self._begin((candidate, factor, True)) for candidate, factor in asked.items()}
            for candidate, future in begun.items():
                answer = future.result()
                self._tell()
                held = isinstance(answer, Outcome) and answer.verdict.met
                if not held and not isinstance(answer, Refused):
                    of = answer.verdict.binding if isinstance(answer, Outcome) else answer
                    lost[candidate, asked[candidate]] = of.objective
                try:
                    asked[candidate] = probes[candidate].send(held)
                except StopIteration as end:
                    load: HighestLoad = end.value
                    found[candidate] = load, lost.get((candidate, load.fails_at))
                    del asked[candidate]
        return found

    def _begin(self, task: Task) -> Future[Answer]:
        known = self._known.get(task)
        if known is not None and not known.cancelled():
            return known
        future = _Later(self._own, task) if self._pool is None else self._pool.submit(trial.run_here, task)
        self._known[task] = future
        return future


class _Later(Future[Answer]):
    """An answer of this process, which is worked out when it is asked for."""

    def __init__(self, trials: Trials | None, task: Task) -> None:
        super().__init__()
        self._trials, self._task = trials, task

    def result(self, timeout: float | None = None) -> Answer:
        if not self.done():
            assert self._trials is not None
            candidate, faster, watched = self._task
            self.set_result(self._trials.run(candidate, faster=faster, watched=watched))
        return super().result(timeout)
