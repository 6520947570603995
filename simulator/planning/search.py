"""The search for the cheapest deployment that meets the objectives.

Candidates are taken in the order of their price. Those that `bounds` rules out are never simulated; a simulation ends
once an objective is lost for good. So the first that meets all objectives is the cheapest of all, for certain; of
several at its price the one whose binding objective leaves most room is the best, then the one that takes least energy.
Then the next best of another kind is looked for, and some more in the order of the price, of which the Pareto front is
made: complete up to the price that was reached.

Nothing is concluded from one number of replicas to another: that more of them serve at least as well is likely, and not
proven (a request may meet another batch), so every number that the bounds leave is simulated.

The order of answers does not depend on the number of processes.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from simulator.planning.candidates import Base, check_size, counts, number_of, own_gpu, shape_of, shapes
from simulator.planning.loads import has_load
from simulator.planning.model import Candidate, Failed, Objective, Outcome, Plan, Pruned, Space
from simulator.planning.pareto import front
from simulator.planning.runner import Progress, Runner
from simulator.planning.trial import Answer, Bounded, Question, Refused
from simulator.planning.words import amount, objective_title, power, usd
from workloads.arrivals import AllAtOnce
from workloads.requests import generate

BEYOND = 16
"""Candidates after the best and the runner-up that are simulated for the Pareto front."""
MOST_FOR_RUNNER_UP = 48
"""Simulations until a runner-up is given up."""
CLOSEST = 6
"""Candidates that are simulated to their end where none meets the objectives."""


class PriceList(Protocol):
    """What a GPU costs."""

    def of(self, gpu: str) -> float:
        """USD per GPU-hour."""
        ...


def search(
    base: Base,
    space: Space,
    objectives: Sequence[Objective],
    prices: PriceList,
    *,
    jobs: int | None = None,
    beyond: int | None = BEYOND,
    loads: bool = True,
    progress: Progress | None = None,
) -> Plan:
    """The cheapest deployment of a space that serves the base scenario within its objectives.

    Parameters
    ----------
    prices : of every GPU of the space. jobs : processes; as many as there are cores if left out. beyond : how many more
        candidates are simulated, by price, after the best and the runner-up; None for all. loads : whether the highest
        load is looked for that these two hold. progress : called with the work done and all of it, which is estimated
        anew as the search goes on.

    Raises
    ------
    InputError : the base is wrong, a GPU unknown, or the space of an absurd size.
    """
    started = time.perf_counter()
    space = replace(space, gpus=space.gpus or (own_gpu(base),))
    found = list(shapes(base, space))
    check_size(found, space)
    question = Question(base, tuple(objectives), {name: prices.of(name) for name in space.gpus})
    with Runner(question, jobs or os.cpu_count() or 1, progress) as runner:
        return _Search(question, space, found, runner, beyond).plan(started, loads)


class _Search:
    """The steps of a search; `plan` is the way through them."""

    def __init__(
        self,
        question: Question,
        space: Space,
        found: Sequence[Candidate],
        runner: Runner,
        beyond: int | None,
    ) -> None:
        self.question, self.space, self.shapes, self.runner, self.beyond = question, space, found, runner, beyond
        self.dropped: Counter[str] = Counter()
        self.pruned: dict[tuple[str, str], Pruned] = {}
        self.bounded: dict[Candidate, Bounded] = {}
        self.outcomes: dict[Candidate, Outcome] = {}
        self.failed: dict[Candidate, Failed] = {}
        self.tried: set[Candidate] = set()
        self.total = 0

    def plan(self, started: float, loads: bool) -> Plan:
        queue = self._queue()
        best, place = self._cheapest(queue)
        runner_up = self._runner_up(queue, best) if best is not None else None
        reached = self._front(queue, best, place)
        able = [one for one in self.outcomes.values() if reached is None or one.usd_per_hour < reached]
        closest = None if best is not None else self._closest()
        self._left_over(queue, best)
        stopped = self._stopped() if best is None and closest is None else ""
        timed = self._timed()
        kept = front(able, timed=timed) if best is not None else ()
        if loads and best is not None:
            best, runner_up, kept = self._loads(best, runner_up, kept)
        facts: dict[str, Any] = {
            "shapes": len(self.shapes),
            "simulated": len(self.outcomes),
            "ended_early": len(self.failed),
            "front_complete_below_usd_per_hour": reached,
            "processes": self.runner.jobs,
        }
        return Plan(
            objectives=self.question.objectives,
            space=self.space,
            candidates=self.total,
            best=best,
            runner_up=runner_up,
            front=kept,
            outcomes=tuple(sorted(self.outcomes.values(), key=self._order_of)),
            closest=closest,
            stopped=stopped,
            dropped=tuple(self.dropped.most_common()),
            pruned=tuple(self.pruned.values()),
            lost=tuple(sorted(self.failed.values(), key=lambda one: self._order(one.candidate))),
            wall_s=time.perf_counter() - started,
            facts=facts,
        )

    # --- bounds -------------------------------------------------------------------------------------------------

    def _queue(self) -> list[Candidate]:
        """The candidates that no bound rules out, by price; those of equal price in the order of their sizes."""
        queue = []
        for answer in self.runner.bounds(self.shapes):
            shape, number = answer.shape, number_of(answer.shape, self.space)
            if answer.refused:
                self.dropped[answer.refused] += number
                continue
            self.total += number
            self.bounded[shape] = answer
            if answer.broken is not None:
                self._prune_alone(answer, number)
                continue
            left = list(counts(shape, self.space, answer.least))
            if len(left) < number:
                self._prune_work(answer, number - len(left))
            queue += self._affordable(left)
        return sorted(queue, key=self._order)

    def _affordable(self, found: list[Candidate]) -> list[Candidate]:
        """Without those beyond the caps on power and price."""
        space, kept = self.space, []
        for candidate in found:
            watts, usd = self.question.tdp_w(candidate), self.question.usd_per_hour(candidate)
            if space.power_cap_w is not None and watts > space.power_cap_w:
                why = f"the GPUs' TDP exceeds the cap of {space.power_cap_w / 1e3:,.4g} kW"
                self._prune("power cap", "", why, f"{candidate.words()}: {watts / 1e3:,.4g} kW")
            elif space.max_usd_per_hour is not None and usd > space.max_usd_per_hour:
                why = f"dearer than the cap of {space.max_usd_per_hour:,.2f} USD an hour"
                self._prune("price cap", "", why, f"{candidate.words()}: {usd:,.2f} USD an hour")
            else:
                kept.append(candidate)
        return kept

    def _prune_alone(self, answer: Bounded, number: int) -> None:
        assert answer.broken is not None
        one, value = answer.broken.objective, answer.broken.value
        why = f"{objective_title(one)} is missed even if every request is served alone, as fast as any batch allows"
        example = f"{answer.shape.words()}: at best {amount(one, value)} against {amount(one, one.limit)}"
        self._prune("alone", one.key, why, example, number)

    def _prune_work(self, answer: Bounded, number: int) -> None:
        why = "too few: even in the best batches the tokens take longer than there is until they must be there"
        numbers = [f"{need:.2f}" for need in answer.need if need]
        example = f"{answer.shape.words()}: at least {' and '.join(numbers)} times as many are needed"
        self._prune("work", "", why, example, number)

    def _prune(self, bound: str, of: str, why: str, example: str, number: int = 1, proven: bool = True) -> None:
        known = self.pruned.get((bound, of))
        if known is None:
            self.pruned[bound, of] = Pruned(bound, number, why, example, proven)
        else:
            self.pruned[bound, of] = replace(known, count=known.count + number)

    # --- trials -------------------------------------------------------------------------------------------------

    def _order(self, candidate: Candidate) -> tuple[Any, ...]:
        workers, prefill = candidate.workers, candidate.prefill
        return (
            self.question.usd_per_hour(candidate), candidate.gpus, workers.gpu, workers.gpus_each, workers.layout,
            prefill is not None, prefill.gpus if prefill else 0, candidate.words(),
        )  # fmt: skip

    def _order_of(self, outcome: Outcome) -> tuple[Any, ...]:
        """By price, then by the room that the binding objective leaves, then by energy."""
        return outcome.usd_per_hour, outcome.verdict.worst, _energy(outcome), self._order(outcome.candidate)

    def _take(self, candidate: Candidate, answer: Answer) -> bool:
        """Keep an answer; whether it meets the objectives."""
        new = candidate not in self.tried
        self.tried.add(candidate)
        if isinstance(answer, Refused):
            if new:
                self.dropped[answer.why] += 1
                self.total -= 1
            return False
        if isinstance(answer, Outcome):
            self.outcomes[candidate] = answer
            return answer.verdict.met
        if new:
            one = answer.objective
            why = f"{objective_title(one)} was lost for good before the end of the simulation"
            reached = f"at least {amount(one, answer.value)}" if not one.at_least else amount(one, answer.value)
            at = f"{reached} against {amount(one, one.limit)} after {answer.at_s:,.4g} s"
            example = f"{candidate.words()}: {at}"
            self._prune("lost", one.key, why, example)
        self.failed[candidate] = answer
        return False

    def _cheapest(self, queue: Sequence[Candidate]) -> tuple[Outcome | None, int]:
        """The best, and how many of the queue have been tried until it was certain."""
        self.runner.expect(min(len(queue), 100))
        price = self.question.usd_per_hour
        limit: float | None = None
        tried = 0
        for candidate, answer in self.runner.trials(queue):
            if limit is not None and price(candidate) > limit:
                break
            tried += 1
            if self._take(candidate, answer) and limit is None:
                limit = price(candidate)
        able = [one for one in self.outcomes.values() if one.verdict.met]
        return min(able, key=self._order_of, default=None), tried

    def _runner_up(self, queue: Sequence[Candidate], best: Outcome) -> Outcome | None:
        """The cheapest that meets the objectives and differs from the best in more than the number of replicas."""
        own = shape_of(best.candidate)

        def others() -> list[Outcome]:
            return [one for one in self.outcomes.values() if one.verdict.met and shape_of(one.candidate) != own]

        limit = min((one.usd_per_hour for one in others()), default=None)
        left = [one for one in queue if one not in self.tried and shape_of(one) != own]
        if limit is None:
            self.runner.expect(min(len(left), 10))
            for candidate, answer in self.runner.trials(left[:MOST_FOR_RUNNER_UP]):
                if limit is not None and self.question.usd_per_hour(candidate) > limit:
                    break
                if self._take(candidate, answer) and limit is None:
                    limit = self.question.usd_per_hour(candidate)
        return min(others(), key=self._order_of, default=None)

    def _front(self, queue: Sequence[Candidate], best: Outcome | None, tried: int) -> float | None:
        """Try some more by price; below which price all were, None if they were all."""
        if best is None:
            return None
        left = [one for one in queue[tried:] if one not in self.tried]
        wanted = left if self.beyond is None else left[: self.beyond]
        self.runner.expect(len(wanted))
        for candidate, answer in self.runner.trials(wanted):
            self._take(candidate, answer)
        missing = [one for one in queue if one not in self.tried]
        return min(map(self.question.usd_per_hour, missing), default=None)

    def _left_over(self, queue: Sequence[Candidate], best: Outcome | None) -> None:
        left = [one for one in queue if one not in self.tried]
        if left and best is not None:
            why = "dearer than the best, so not simulated"
            example = f"{left[0].words()}: {self.question.usd_per_hour(left[0]):,.2f} USD an hour"
            self._prune("dearer", "", why, example, len(left), proven=False)

    def _closest(self) -> Outcome | None:
        """Where nothing meets the objectives: which comes closest, of the largest of every shape that seemed to."""
        ranked: list[tuple[float, tuple[Any, ...], Candidate]] = []
        for shape, answer in self.bounded.items():
            most = self._affordable_most(shape)
            if most is None:
                continue
            ratio = 1.0
            if answer.broken is not None:
                ratio = answer.broken.objective.ratio(answer.broken.value)
            elif most in self.failed:
                ratio = self.failed[most].objective.ratio(self.failed[most].value)
            ranked.append((ratio, self._order(most), most))
        ranked.sort(key=lambda each: each[:2])
        wanted = [most for _, _, most in ranked[:CLOSEST]]
        self.runner.expect(len(wanted))
        found = [one for _, one in self.runner.trials(wanted, watched=False) if isinstance(one, Outcome)]
        for one in found:
            self._count_as_simulated(one.candidate)
            self.outcomes[one.candidate] = one
        return min(self.outcomes.values(), key=lambda one: (one.verdict.worst, self._order_of(one)), default=None)

    def _count_as_simulated(self, candidate: Candidate) -> None:
        """Take a candidate out of those that a bound has kept from being simulated to the end."""
        failed, answer = self.failed.pop(candidate, None), self.bounded[shape_of(candidate)]
        if failed is not None:
            key = ("lost", failed.objective.key)
        elif answer.broken is not None:
            key = ("alone", answer.broken.objective.key)
        elif candidate not in self.tried:
            key = ("work", "")
        else:
            return
        count = self.pruned[key].count - 1
        if count:
            self.pruned[key] = replace(self.pruned[key], count=count)
        else:
            del self.pruned[key]

    def _stopped(self) -> str:
        """Why nothing at all is left to simulate: the cap that rules out all, and the least that would do; or what is
        not allowed.
        """
        space, question = self.space, self.question
        if self.dropped and (not self.bounded or (space.power_cap_w is None and space.max_usd_per_hour is None)):
            why = " and ".join(why for why, _ in self.dropped.most_common(2))
            return f"{why}; other layouts, other GPUs or more of them would be needed"
        if not self.bounded:
            return f"no layout has room within {space.max_gpus} GPUs"
        able = [one for one in self.bounded.values() if one.broken is None] or list(self.bounded.values())
        firsts = [next(counts(one.shape, space, one.least), one.shape) for one in able]
        said = []
        for name, cap, of, words in (
            ("power", space.power_cap_w, question.tdp_w, power),
            ("price", space.max_usd_per_hour, question.usd_per_hour, lambda value: f"{usd(value)} USD/h"),
        ):
            if cap is not None:
                least = min(firsts, key=of)
                needed = f"at least {words(of(least))} would be needed ({least.words()})"
                said.append((of(least) > cap, f"the {name} cap of {words(cap)}, where {needed}"))
        return "; ".join([text for alone, text in said if alone] or [text for _, text in said])

    def _affordable_most(self, shape: Candidate) -> Candidate | None:
        """The dearest candidate of a shape within the caps; of those with both kinds of workers, as many of each."""
        space, question, found = self.space, self.question, None
        for candidate in counts(shape, space):
            if space.power_cap_w is not None and question.tdp_w(candidate) > space.power_cap_w:
                continue
            if space.max_usd_per_hour is not None and question.usd_per_hour(candidate) > space.max_usd_per_hour:
                continue
            if found is None or self._balance(candidate) > self._balance(found):
                found = candidate
        return found

    def _balance(self, candidate: Candidate) -> tuple[int, int]:
        prefill = candidate.prefill
        return candidate.gpus, min(candidate.workers.gpus, prefill.gpus) if prefill else 0

    # --- loads --------------------------------------------------------------------------------------------------

    def _timed(self) -> bool:
        """Whether requests come at times of their own."""
        arrivals = self.question.base.loaded.config.workload.arrivals
        return not (arrivals is None or isinstance(arrivals, AllAtOnce) or arrivals.kind == "closed_loop")

    def _loads(
        self, best: Outcome, runner_up: Outcome | None, kept: Sequence[Outcome]
    ) -> tuple[Outcome, Outcome | None, tuple[Outcome, ...]]:
        config = self.question.base.loaded.config
        if not has_load(generate(config.workload, config.seed)):
            return best, runner_up, tuple(kept)
        known = self.runner.loads([one.candidate for one in (best, runner_up) if one is not None])

        def with_load(one: Outcome) -> Outcome:
            if one.candidate not in known:
                return one
            load, lost = known[one.candidate]
            return replace(one, highest_load=load.factor, load_is_least=load.fails_at is None, lost_beyond=lost)

        self.outcomes = {of: with_load(one) for of, one in self.outcomes.items()}
        return with_load(best), None if runner_up is None else with_load(runner_up), tuple(map(with_load, kept))


def _energy(outcome: Outcome) -> float:
    value = outcome.metrics.get("energy_j")
    return float("inf") if value is None else value
