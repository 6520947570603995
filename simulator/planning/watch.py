"""Ends a simulation as soon as an objective is provably lost: when more requests are late than it allows.

A request that waits for its first token, or for its end, is late by now at least; one that was answered is as late as
it was. What has not come yet counts as the bounds say that it takes alone. Nothing is decided from a trend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from simulator.engine import Engine
from simulator.planning.bounds import Alone
from simulator.planning.demand import ROOM, may_exceed, may_miss
from simulator.planning.model import Objective
from simulator.policy import DECODE, SECONDS_PER_TICK, Status
from workloads.requests import Requests

LOOKS = 256
"""Times in a simulation that are looked at."""


class Lost(Exception):
    """An objective cannot be met any more.

    Attributes
    ----------
    objective : that one. at_s : simulated seconds. value : what it comes to at the least.
    """

    def __init__(self, objective: Objective, at_s: float, value: float) -> None:
        super().__init__(objective, at_s, value)
        self.objective, self.at_s, self.value = objective, at_s, value


class Tally:
    """A `simulator.engine.Watch` that raises `Lost`.

    Parameters
    ----------
    requests : that are served. objectives : on them. limits : of goodput, by name. least : bounds on the latency of
        each request.
    """

    def __init__(
        self,
        requests: Requests,
        objectives: Sequence[Objective],
        limits: Mapping[str, float | None] | None,
        least: Alone,
    ) -> None:
        self.every = max(1, requests.n // LOOKS)
        self._requests, self._objectives, self._limits, self._least = requests, objectives, limits, least
        self._starts = requests.job_ptr()[:-1]
        self._tokens = np.maximum(requests.output_tokens - 1, 0)
        # A sample that another one stops counts as far as it came, if at all: only what is final is known of it.
        self._stops = requests.stop_on_accept

    def look(self, engine: Engine) -> None:
        """Raise `Lost` if an objective is."""
        now = engine.now * SECONDS_PER_TICK
        late = self._so_far(engine, now)
        for one in self._objectives:
            value = self._reached(one, late, now)
            if value is None:
                continue
            if value < one.limit * (1 - ROOM) if one.at_least else value > one.limit * (1 + ROOM):
                raise Lost(one, now, value)

    def _so_far(self, engine: Engine, now: float) -> dict[str, np.ndarray]:
        """The least that each request's latencies come to, by metric; `-inf` where it may not be counted."""
        n, least = self._requests.n, self._least
        submitted, first, finish = (
            np.frombuffer(column, dtype=float, count=n)
            for column in (engine.submitted, engine.first_token, engine.finish)
        )
        status = np.frombuffer(engine.status, dtype=np.int8, count=n)
        generated = np.frombuffer(engine.generated, dtype=np.int64, count=n)
        final = ~np.isnan(finish)
        good = final & (status == Status.FINISHED)
        given_up = final & ~good
        with np.errstate(invalid="ignore", divide="ignore"):
            exact = {
                "ttft_s": first - submitted,
                "tpot_s": np.where(generated > 1, (finish - first) / (generated - 1), -np.inf),
                "e2e_s": finish - submitted,
            }
        if self._stops:
            # Who was given up may turn out to have been stopped, and who is not final may be.
            waits = {
                name: np.where(good, exact[name], np.where(status == Status.REJECTED, np.inf, -np.inf))
                for name in exact
            }
            waits["good_s"] = np.where(good, finish - submitted, now - submitted)
            return waits
        found = {name: getattr(least, name[:-2]).copy() for name in exact}
        found["tpot_s"][np.isnan(found["tpot_s"])] = -np.inf
        live = list(engine.live.values())
        if live:
            index = np.array([seq.index for seq in live])
            begun = np.array(
                [math.nan if seq.first_token is None else seq.first_token * SECONDS_PER_TICK for seq in live]
            )
            age = now - submitted[index]
            # Its first token is exact; else it has waited so long already, unless it decodes: a decode worker that
            # makes the first token notes at the end of a run of steps when in it that was.
            noted = np.array([seq.state != DECODE for seq in live])
            waited = np.where(noted, np.maximum(found["ttft_s"][index], age), found["ttft_s"][index])
            found["ttft_s"][index] = np.where(np.isnan(begun), waited, begun - submitted[index])
            found["e2e_s"][index] = np.maximum(found["e2e_s"][index], age)
            tokens = self._tokens[index]
            slow = np.divide(
                now - begun, tokens, out=np.full(len(index), -np.inf), where=(tokens > 0) & (begun == begun)
            )
            found["tpot_s"][index] = np.maximum(found["tpot_s"][index], slow)
        for name, values in exact.items():
            found[name] = np.where(good, values, np.where(given_up, np.inf, found[name]))
        found["good_s"] = np.where(given_up, np.inf, found["e2e_s"])
        return found

    def _reached(self, one: Objective, late: Mapping[str, np.ndarray], now: float) -> float | None:
        """The best that an objective's metric can still come to; None where nothing is known of it."""
        n = self._requests.n
        if one.metric == "makespan_s":
            return now - float(self._requests.job_arrival_s[0])
        if one.metric in ("goodput_share", "goodput_per_s"):
            if not self._limits:
                return None
            bad = np.isposinf(late["e2e_s"])
            for name in ("ttft", "tpot", "e2e"):
                limit = self._limits.get(name)
                if limit is not None:
                    bad |= late[f"{name}_s"] > limit * (1 + ROOM)
            count = int(bad.sum())
            if one.metric == "goodput_share":
                return None if count <= may_miss(one.limit, n) else 1 - count / n
            span = now - float(self._requests.job_arrival_s[0])
            return (n - count) / span if span > 0 else None
        if one.metric == "first_accepted_s":
            return self._first_accepted(one, late)
        values = late.get(one.metric)
        return None if values is None else _least_statistic(values, one, known=not self._stops)

    def _first_accepted(self, one: Objective, late: Mapping[str, np.ndarray]) -> float:
        """Of each problem: its first accepted sample is the one that is, or can be, final first."""
        can = self._requests.accepted & self._least_served
        values = np.minimum.reduceat(np.where(can, np.maximum(late["good_s"], 0), np.inf), self._starts)
        return _least_statistic(np.where(np.isnan(values), 0.0, values), one, known=True)

    @property
    def _least_served(self) -> np.ndarray:
        return np.isfinite(self._least.e2e)


def _least_statistic(values: np.ndarray, one: Objective, *, known: bool) -> float:
    """The least that the statistic comes to; `known` : whether all that are not `-inf` are counted in the end."""
    if one.quantile is not None:
        # Those that may not be counted stand for as many that keep the limit: the quantile of more is no larger.
        at = len(values) - 1 - may_exceed(one.quantile, len(values))
        return float(np.partition(values, at)[at]) if at >= 0 else -math.inf
    counted = values[values > -np.inf]
    return float(counted.sum() / max(len(values), 1)) if known else -math.inf
