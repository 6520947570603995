"""Bounds that prove, without simulating it, that a deployment cannot meet the objectives.

All rest on the floors of the engine's steps (`floors`) and on the least that the requests ask for (`demand`), so they
hold whatever the scheduler does: for any order of service, batching, routing, preemption and cache hits.

**Alone.** A request's first token comes no sooner than its prompt takes alone in the best filled steps, and each
further one takes at least the quickest decode step that reads its context. If so many requests are late even so that an
objective on a quantile, mean or share is lost, no number of replicas helps.

**Work.** Let requests I keep a contract inside a window of d seconds, and the replicas do steps of T_s seconds with n_s
of them decoding, S_s tokens of KV read for these and q_s tokens of their prompts. All steps lie in the window, so
sum T_s <= R d. Each request decodes for at most its limit D_i, and every step of its own is a part of that:
sum n_s T_s <= sum D_i. For any multipliers alpha, beta, gamma, lambda >= 0 with

    alpha n + beta S + gamma q  <=  (1 + lambda n) T(n, S, q)    for all n, S, q,

summing over the steps gives alpha N + beta S + gamma Q - lambda sum D_i <= sum T_s <= R d, where N, S and Q are what I
needs in all: the dual of a linear program, of which any feasible point is a bound on R. lambda is how latency limits
the batch: with it a step may only be as large as the limits allow on average. Those who may miss the contract leave I;
so that the bound holds whoever they are, the largest terms of the sum are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simulator.planning.demand import ROOM, Contract, Window, Work, least_sum, may_exceed, may_miss
from simulator.planning.floors import StepFloor
from simulator.planning.model import Objective

ROUNDS, PASSES = 7, 3
"""Halvings of the steps in which multipliers are looked for, and passes with each; more gives a better bound."""


@dataclass(frozen=True)
class Kind:
    """Workers of one kind, as far as bounds ask.

    Attributes
    ----------
    floor : of their steps. work : of the requests on them. prompts, decodes : what they do. budget : tokens of a step.
    """

    floor: StepFloor
    work: Work
    prompts: bool
    decodes: bool
    budget: int


# ---- alone -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alone:
    """No request is served faster; float64[n], seconds, infinite for one that is rejected."""

    ttft: np.ndarray
    tpot: np.ndarray
    e2e: np.ndarray


def alone(prefill: Kind, decode: Kind, door: np.ndarray, sent: np.ndarray, output_tokens: np.ndarray) -> Alone:
    """The least latencies of every request.

    `door` : seconds until it reaches a scheduler. `sent` : seconds that its KV is on its way before its first token.
    """
    work = decode.work
    ttft = door + sent + prefill.floor.prompt_seconds(prefill.work.prompt, prefill.work.pairs, prefill.budget)
    # A step reads more later on: each quarter of them takes at least as long as one step before it.
    seconds = np.zeros(len(ttft))
    tokens = np.maximum(output_tokens - 1, 0)
    for quarter in range(4):
        grown = np.floor(np.maximum(quarter / 4 * tokens - work.rate, 0))
        seconds += work.steps / 4 * _by_context(decode.floor, work.context + grown)
    tpot = np.divide(seconds, tokens, out=np.full(len(ttft), np.nan), where=tokens > 0)
    lost = ~work.served
    return Alone(*(np.where(lost, np.inf, values) for values in (ttft, tpot, ttft + seconds)))


def _by_context(floor: StepFloor, contexts: np.ndarray) -> np.ndarray:
    """`StepFloor.decode_seconds` of many contexts: at a few hundred, each rounded down to the next of them."""
    grid = np.unique(np.floor(np.geomspace(1, max(float(contexts.max()), 2.0), 256)))
    place = np.searchsorted(grid, contexts, side="right") - 1
    return np.asarray(floor.decode_seconds(grid)[np.maximum(place, 0)])


@dataclass(frozen=True)
class Broken:
    """An objective that cannot be met: `value` is the best that it could reach."""

    objective: Objective
    value: float


def broken_alone(
    found: Alone,
    objectives: Sequence[Objective],
    limits: Mapping[str, float | None] | None,
    *,
    early_stop: bool,
    first_accepted: np.ndarray | None = None,
    token: float = 0.0,
) -> Broken | None:
    """The first objective that the least latencies already miss.

    Parameters
    ----------
    early_stop : samples may be stopped by an accepted one, and then count as far as they came: their TPOT and TTFT are
        not known to be counted. first_accepted : least seconds to each problem's first accepted sample. token : least
        seconds between two tokens of a request.
    """
    values = {"ttft_s": found.ttft, "tpot_s": found.tpot, "e2e_s": found.e2e}
    for one in objectives:
        late = values.get(one.metric)
        if one.metric == "first_accepted_s":
            late = first_accepted
        elif one.metric == "itl_s":
            late = np.array([token])
        elif early_stop:
            late = None
        if late is not None and (least := _statistic(late, one)) > one.limit * (1 + ROOM):
            return Broken(one, least)
        if one.metric == "goodput_share" and limits and not early_stop:
            bad = np.zeros(len(found.ttft), dtype=bool)
            for name, each in (("ttft", found.ttft), ("tpot", found.tpot), ("e2e", found.e2e)):
                limit = limits.get(name)
                if limit is not None:
                    bad |= each > limit * (1 + ROOM)
            bad |= np.isinf(found.ttft)
            if bad.sum() > may_miss(one.limit, len(bad)):
                return Broken(one, float(1 - bad.mean()))
    return None


def _statistic(values: np.ndarray, objective: Objective) -> float:
    """At least this is what the objective's statistic of values comes to that are nowhere below `values`."""
    values = values[~np.isnan(values)]
    if not len(values):
        return 0.0
    if objective.quantile is None:
        return float(values.mean())
    at = len(values) - 1 - may_exceed(objective.quantile, len(values))
    return float(np.partition(values, at)[at]) if at >= 0 else 0.0


# ---- work ------------------------------------------------------------------------------------------------------------


def least_workers(kind: Kind, spans: Sequence[Window], output_tokens: np.ndarray, most: int) -> tuple[int, float]:
    """The fewest workers of a kind that could keep the contracts, and seconds of one that the windows need over those
    they have. More than `most` are not told apart.
    """
    needs = [_need(kind, span, output_tokens) for span in spans]
    found: dict[Contract, _Multipliers] = {}
    for need in needs:  # of each contract its first window has the most to do
        found.setdefault(need.contract, _multipliers(kind.floor, need.totals))
    rates = [need.busy(kind.floor, found[need.contract]) / need.seconds for need in needs]
    best = max(rates, default=0.0)
    if best > 0:
        need = needs[rates.index(best)]
        best = max(best, need.busy(kind.floor, _multipliers(kind.floor, need.totals)) / need.seconds)
    return max(1, min(math.ceil(best * (1 - ROOM)), most + 1)), best


@dataclass(frozen=True)
class _Need:
    """What the requests of a window need of workers of one kind, one entry each, and in all."""

    contract: Contract
    seconds: float
    steps: np.ndarray
    reads: list[np.ndarray]
    limit: np.ndarray
    tokens: np.ndarray
    pairs: np.ndarray
    totals: _Totals

    def busy(self, floor: StepFloor, by: _Multipliers) -> float:
        """Seconds of steps at the least if they keep the contract, for multipliers that are feasible."""
        each = by.alpha * self.steps + sum(b * read for b, read in zip(by.beta, self.reads, strict=True))
        if by.slower:
            each = each - by.slower * self.limit
        prompts = by.gamma * self.tokens + floor.pair_seconds * self.pairs
        return least_sum(each, self.contract.missers) + least_sum(prompts, self.contract.first_missers)


def _need(kind: Kind, span: Window, output_tokens: np.ndarray) -> _Need:
    contract, work = span.contract, kind.work
    prompts = span.prompts if kind.prompts else span.prompts[:0]
    outputs = span.outputs if kind.decodes else span.outputs[:0]
    limit = span.decode_limit(work, output_tokens)[: len(outputs)]
    tokens, pairs = work.prompt[prompts], work.pairs[prompts]
    steps, reads = work.steps[outputs], [each[outputs] for each in work.reads]
    if not len(limit) or not np.isfinite(limit).all():
        limit = np.full(len(outputs), math.inf)
    # Multipliers are looked for with sums without those most likely to miss, which only steers the search.
    kept = _without_largest(steps, contract.missers)
    totals = _Totals(
        float(steps[kept].sum()),
        np.array([each[kept].sum() for each in reads]),
        float(tokens[_without_largest(tokens, contract.first_missers)].sum()),
        float(limit[kept].sum()) if len(limit) else math.inf,
    )
    return _Need(contract, span.seconds, steps, reads, limit, tokens, pairs, totals)


def _without_largest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of all but the `count` largest."""
    left = len(values) - count
    return np.argpartition(values, left)[:left] if count and left > 0 else np.arange(max(left, 0))


@dataclass(frozen=True)
class _Totals:
    """What the requests of a window need: decode steps, tokens read by extent, tokens of prompts; and the seconds that
    they may decode.
    """

    steps: float
    reads: np.ndarray
    prompt: float
    limit: float


@dataclass(frozen=True)
class _Multipliers:
    """alpha, beta by extent, gamma and lambda of the module's docstring."""

    alpha: float
    beta: np.ndarray
    gamma: float
    slower: float


def _multipliers(floor: StepFloor, totals: _Totals) -> _Multipliers:
    """Multipliers that are feasible, and close to those with the largest bound.

    beta, gamma and lambda are looked for by steps along each of them, up and down, that are halved in every round;
    alpha is the largest that is feasible with them.
    """
    fastest = floor.token_seconds
    if totals.steps <= 0:
        return _Multipliers(0.0, np.zeros(len(totals.reads)), fastest, 0.0)
    scale = np.array([reads[-1, -1] / to[-1] for reads, to in zip(floor.reads, floor.read_to, strict=True)])
    typical = 1 / max(floor.most[-1], 1.0)

    def bound(at: np.ndarray) -> float:
        by = split(at)
        total = by.alpha * totals.steps + float((by.beta * totals.reads).sum()) + by.gamma * totals.prompt
        return total - by.slower * totals.limit if by.slower else total

    def split(at: np.ndarray) -> _Multipliers:
        beta, gamma, slower = at[2:] * scale, at[0] * fastest, at[1] * typical
        return _Multipliers(_alpha(floor, beta, gamma, slower), beta, gamma, slower)

    start = np.concatenate([[0.9, 0.0], np.full(len(scale), 0.9)])
    steps = np.concatenate([[0.5, 4.0 if math.isfinite(totals.limit) else 0.0], np.full(len(scale), 0.5)])
    return split(_climb(bound, start, steps))


def _climb(bound: Callable[[np.ndarray], float], start: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """A point near the maximum of a concave function over what is not negative; the first coordinate is at most 1."""
    at, value = start, bound(start)
    for _ in range(ROUNDS):
        for _ in range(PASSES):
            moved = False
            for i in range(len(at)):
                for sign in (1.0, -1.0):
                    there = at.copy()
                    there[i] = max(there[i] + sign * steps[i], 0.0)
                    there[0] = min(there[0], 1.0)
                    if there[i] != at[i] and (found := bound(there)) > value * (1 + 1e-4) + 1e-12:
                        at, value, moved = there, found, True
                        break
            if not moved:
                break
        steps = steps / 2
    return at


def _alpha(floor: StepFloor, beta: np.ndarray, gamma: float, slower: float) -> float:
    """The largest alpha with alpha n + beta S + gamma q <= (1 + lambda n) T(n, S, q) for all steps.

    The duration is a sum of parts that depend on S and on q, so each is looked at by itself for every number of
    sequences of the fullest rank; in a cell the duration counts at its beginning, and what is gained at its end.
    """
    weight = (1 + slower * floor.least[1:])[:, None]
    room = (floor.fixed[1:] * weight - gamma * floor.prompt_to).min(axis=1)
    for b, reads, to in zip(beta, floor.reads, floor.read_to, strict=True):
        room = room + (reads[1:] * weight - b * to).min(axis=1)
    per = np.where(room >= 0, room / floor.most[1:], room / floor.least[1:])
    return float(per.min())
