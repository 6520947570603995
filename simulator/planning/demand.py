"""What the requests ask of a deployment at the least, whoever serves it: their tokens, and by when these must be there.

An objective on a quantile lets some requests miss. A *contract* is what the others are held to, and how many may miss
it; from it follows by when a request's prompt and output have to be done. A *window* is a span of time into which
the work of some requests falls as a whole if they keep the contract.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simulator.planning.model import Objective
from simulator.policy import Advance
from workloads.requests import Requests

ROOM = 1e-9
"""Relative: values are compared with limits that much larger, since sums and quantiles are rounded."""
STARTS, ENDS, KEPT = 24, 12, 5
"""Windows that are looked at begin and end at so many places; so many are kept."""


def may_exceed(quantile: float, count: int) -> int:
    """How many of at most `count` values may exceed a limit that their quantile keeps.

    NumPy's quantile lies between the sorted values number floor(q (n - 1)) and the next, so it exceeds the limit once
    the first of them does: once n - floor(q (n - 1)) values do. That number rises with n.
    """
    return max(count - math.floor(quantile * (count - 1)) - 1, 0)


def may_miss(share: float, count: int) -> int:
    """How many of `count` requests may miss where `share` has to be kept."""
    return math.floor(count * (1 - share) + ROOM * count)


def least_sum(values: np.ndarray, missers: int) -> float:
    """The least sum of all but up to `missers` values, whichever they are."""
    left = max(len(values) - missers, 0)
    most = np.partition(values, left)[left:] if 0 < left < len(values) else values[:0] if left else values
    return float(values.sum() - np.maximum(most, 0).sum())


@dataclass(frozen=True)
class Contract:
    """What all requests but some keep.

    Attributes
    ----------
    ttft, tpot, e2e : limits in seconds, infinite where there is none. first_missers, missers : requests that may have
        their first token too late; that may miss any of it. whole : seconds from the first submission within which all
        requests are final, infinite where nothing says so.
    """

    ttft: float = math.inf
    tpot: float = math.inf
    e2e: float = math.inf
    first_missers: int = 0
    missers: int = 0
    whole: float = math.inf


def contracts(objectives: Sequence[Objective], limits: Mapping[str, float | None] | None, count: int) -> list[Contract]:
    """The contracts that follow from objectives for `count` requests; `limits` : those of goodput, by name."""
    latency = {"ttft_s": math.inf, "tpot_s": math.inf, "e2e_s": math.inf}
    missers = dict.fromkeys(latency, 0)
    found = []
    for one in objectives:
        if one.metric in latency and one.quantile is not None:
            allowed = may_exceed(one.quantile, count)
            single = Contract(**{one.metric[:-2]: one.limit}, first_missers=allowed, missers=allowed)
            if one.metric != "tpot_s":  # alone it sets no time by which anything has to be done
                found.append(single)
            if one.limit < latency[one.metric] or latency[one.metric] == math.inf:
                latency[one.metric], missers[one.metric] = one.limit, allowed
        elif one.metric == "goodput_share" and limits:
            known = {name: limits.get(name) or math.inf for name in ("ttft", "tpot", "e2e")}
            allowed = may_miss(one.limit, count)
            found.append(Contract(**known, first_missers=allowed, missers=allowed))
        elif one.metric == "makespan_s":
            found.append(Contract(whole=one.limit))
        elif one.metric == "goodput_per_s":
            found.append(Contract(whole=count / one.limit))
    if sum(limit < math.inf for limit in latency.values()) > 1:
        first = missers["ttft_s"] if latency["ttft_s"] < math.inf else missers["e2e_s"]
        found.append(Contract(latency["ttft_s"], latency["tpot_s"], latency["e2e_s"], first, sum(missers.values())))
    return found


@dataclass(frozen=True)
class Work:
    """What each request needs at the least; float64[n], zero for those that are rejected on arrival.

    Attributes
    ----------
    prompt, pairs : tokens of its prompt that nobody else computes for it, and their causal pairs. steps : decode steps
    after its first token. reads : for each extent, the tokens that these steps read. context : what the first of them
    reads. served : whether it is not rejected.
    """

    prompt: np.ndarray
    pairs: np.ndarray
    steps: np.ndarray
    reads: tuple[np.ndarray, ...]
    context: np.ndarray
    rate: float
    served: np.ndarray


def work_of(requests: Requests, *, max_model_len: int, caps: Sequence[int | None], advance: Advance) -> Work:
    """The work of requests for an engine whose decode extents have `caps`, and which advances by `advance`.

    Of a prompt whose beginning others may share only the rest counts, and at least one token. A request that ends by
    itself generates all of its output.
    """
    prompt, output = requests.prompt_tokens.astype(float), requests.output_tokens.astype(float)
    served = prompt + output <= max_model_len
    own = np.maximum(prompt - shared_tokens(requests), 1)
    pairs = own * (prompt - own) + own * (own + 1) / 2
    rate = advance.step / advance.unit
    steps = np.ceil((output - 1) / rate - ROOM)
    reads = []
    for cap in caps:
        first = prompt + 1
        if cap is None:
            total = steps * first + rate * steps * (steps - 1) / 2
        else:
            # Steps before the cap is reached read one token more each (or `rate`), the others the cap.
            below = np.clip(np.floor((cap - first) / rate) + 1, 0, steps)
            total = below * first + rate * below * (below - 1) / 2 + (steps - below) * cap
        reads.append(np.where(served, np.maximum(total, 0), 0))
    zero = np.zeros(len(prompt))
    return Work(
        np.where(served, own, zero),
        np.where(served, pairs, zero),
        np.where(served, np.maximum(steps, 0), zero),
        tuple(reads),
        prompt + 1,
        rate,
        served,
    )


def shared_tokens(requests: Requests) -> np.ndarray:
    """Tokens at the beginning of each prompt that another request may have computed, int64[n]."""
    sums = np.concatenate([[0], np.cumsum(requests.prefix_tokens)])
    return np.asarray(np.diff(sums[requests.prefix_ptr]))


@dataclass(frozen=True)
class Window:
    """Requests whose work lies between two times if they keep a contract.

    Attributes
    ----------
    seconds : between them. prompts, outputs : indices of requests whose prompts, and whose outputs, do. contract : that
        one.
    """

    seconds: float
    prompts: np.ndarray
    outputs: np.ndarray
    contract: Contract

    def decode_limit(self, work: Work, output_tokens: np.ndarray) -> np.ndarray:
        """Seconds from first token to end that each of `outputs` has, infinite without a limit."""
        tokens = np.maximum(output_tokens[self.outputs] - 1, 0)
        per_token = self.contract.tpot * tokens if self.contract.tpot < math.inf else np.full(len(tokens), math.inf)
        return np.minimum(per_token, self.contract.e2e)


def windows(requests: Requests, work: Work, agreed: Sequence[Contract]) -> list[Window]:
    """The windows in which most is to be done, of each contract: the whole span and the busiest parts of it."""
    found = []
    for contract in agreed:
        if contract.whole < math.inf:
            # Whoever is given up, or stopped by an accepted sample, need not be served.
            if requests.timeout_s is None and not requests.stop_on_accept:
                every = np.flatnonzero(work.served)
                found.append(Window(contract.whole, every, every, contract))
        elif requests.concurrency is None and not requests.stop_on_accept:
            found += list(_windows(requests, work, contract))
    return found


def _windows(requests: Requests, work: Work, contract: Contract) -> Iterator[Window]:
    arrival = requests.job_arrival_s[requests.job]
    tokens = np.maximum(requests.output_tokens - 1, 0)
    first = arrival + (contract.ttft if contract.ttft < math.inf else contract.e2e)
    last = arrival + contract.e2e
    if contract.tpot < math.inf:
        last = np.minimum(last, arrival + contract.ttft + contract.tpot * tokens)
    if not np.isfinite(first).all():
        return
    starts = np.unique(np.quantile(arrival, np.linspace(0, 0.98, STARTS), method="lower"))
    ends = np.concatenate([first, last[np.isfinite(last)]])
    # What is asked is ranked by tokens, of which those of prompts are the cheaper ones by far.
    weight = work.prompt / 16, work.steps
    ranked: list[tuple[float, float, float]] = []
    for start in starts:
        later = arrival >= start
        for end in np.unique(np.quantile(ends[ends > start], np.linspace(0.02, 1, ENDS), method="higher")):
            todo = 0.0
            for by, amount, missers in (
                (first, weight[0], contract.first_missers),
                (last, weight[1], contract.missers),
            ):
                todo += least_sum(amount[later & (by <= end)], missers)
            ranked.append((todo / (end - start), start, end))
    for rate, start, end in sorted(ranked, reverse=True)[:KEPT]:
        if rate > 0:
            inside = (arrival >= start) & work.served
            prompts, outputs = np.flatnonzero(inside & (first <= end)), np.flatnonzero(inside & (last <= end))
            yield Window(end - start, prompts, outputs, contract)
