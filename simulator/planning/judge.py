"""Whether a run meets the objectives, and with how much room.

A request that was never served misses: one that is rejected, or given up after its timeout, counts as infinitely late
in TTFT, TPOT and end-to-end latency, so that a deployment cannot look fast by losing requests. Samples that early
stopping ended count as far as they came, as in `metrics`. The tokens that a lost request was to make and did not are
infinitely late in ITL, and the load of which one was lost is never done. A problem of which no sample was accepted
has its first one never. Else all is as in `simulator.metrics`, and where every request was served the values are
those of the summary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from simulator.headline import headline
from simulator.latency import all_itl, find_stalls
from simulator.metrics import by_problem, request_times, stopped_early
from simulator.planning.model import Objective, Reached, Verdict
from simulator.policy import Status
from simulator.result import Result

Columns = Mapping[str, np.ndarray]


def verdict_of(result: Result, objectives: Sequence[Objective]) -> Verdict:
    """Hold a run against objectives; the limits of goodput are those of the run's scenario."""
    values = headline(result.summary)
    stop_on_accept = bool(result.scenario["workload"]["strategy"].get("stop_on_accept"))
    late: dict[str, np.ndarray] = {}
    if any(one.metric not in values and one.metric != "itl_s" for one in objectives):
        late = lateness(
            result.requests,
            problems="problems" in result.summary,
            stop_on_accept=stop_on_accept,
        )
    lost = lost_requests(result.requests, stop_on_accept=stop_on_accept)
    reached = []
    for one in objectives:
        if one.metric == "itl_s":
            value = inter_token(result, one, lost)
        elif one.metric == "makespan_s" and lost.any():
            value = math.inf
        elif one.statistic:
            value = statistic(late[one.metric], one)
        else:
            value = values[one.metric]
        reached.append(Reached(one, value))
    return Verdict(tuple(reached))


def lateness(
    columns: Mapping[str, np.ndarray], *, problems: bool, stop_on_accept: bool = False
) -> dict[str, np.ndarray]:
    """Seconds of every request by metric, infinite for those who were not served; NaN where there is nothing to count
    (the TPOT of a single token). With `problems` also `first_accepted_s`, one entry a problem. Only with
    `stop_on_accept` a request that was aborted may have been stopped rather than lost.
    """
    columns = dict(columns)
    lost = lost_requests(columns, stop_on_accept=stop_on_accept)
    found = {name: np.where(lost, np.inf, values) for name, values in request_times(columns).items()}
    if problems:
        first = by_problem(columns)["first_accepted_s"]
        found["first_accepted_s"] = np.where(np.isnan(first), np.inf, first)
    return found


def lost_requests(columns: Columns, *, stop_on_accept: bool) -> np.ndarray:
    """Which requests were rejected or given up, [requests]; those that early stopping ended are none of them."""
    aborted = columns["status"] == Status.ABORTED
    given_up = aborted & ~stopped_early(dict(columns)) if stop_on_accept else aborted
    found: np.ndarray = (columns["status"] == Status.REJECTED) | given_up
    return found


def statistic(values: np.ndarray, objective: Objective) -> float | None:
    """The objective's statistic of what is not NaN in `values`, which may be infinite; None if nothing is left.

    Quantiles are NumPy's, linear between two requests, as in a run's summary.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    if objective.quantile is None:
        return float(values.mean())
    if np.isfinite(values).all():
        return float(np.quantile(values, objective.quantile))
    place = objective.quantile * (len(values) - 1)  # by hand: infinity less infinity, or times nothing, is no number
    low, high = np.sort(values)[[math.floor(place), math.ceil(place)]]
    share = place - math.floor(place)
    if share == 0 or math.isinf(high):
        return float(high)
    return float(low + (high - low) * share)


def inter_token(result: Result, objective: Objective, lost: np.ndarray | None = None) -> float | None:
    """The objective's statistic of the time between two tokens, of all tokens, as `metrics.summarise` has it.

    `lost` : requests whose missing tokens are infinitely late.
    """
    kept, quantile = result.summary["latency"]["itl_s"], objective.quantile
    if lost is not None and lost.any():
        made = float(np.maximum(result.requests["generated"] - 1, 0).sum())
        short = np.maximum(result.requests["output_tokens"] - np.maximum(result.requests["generated"], 1), 0)
        never = float(short[lost].sum())
        if never:
            if quantile is None or quantile * (made + never - 1) > made - 1:
                return math.inf
            quantile = quantile * (made + never - 1) / max(made - 1, 1.0)  # of those that were made
    if objective.statistic in kept and quantile == objective.quantile:
        known: float | None = kept[objective.statistic]
        return known
    columns, pools = result.requests, result.scenario.get("disaggregation")
    joined = columns.get("joined_s")
    stalls = None
    if joined is not None or (pools is None and result.scenario["engine"].get("prefill") == "first"):
        stalls = find_stalls(
            result.timeline, result.gaps, columns["replica"], columns["first_token_s"], columns["finish_s"], joined
        )
    number = None
    if result.scenario.get("speculation"):
        number = float(np.maximum(columns["generated"] - 1, 0).sum())
    assert quantile is not None
    _, values = all_itl(result.timeline, result.gaps, (quantile,), stalls, number)
    return values[0] if math.isfinite(values[0]) else None
