"""How far a run's time may be off, from the held-out errors of the kernels that it spends its time in.

Of every kernel the profile knows between which factors 80 % of held-out measurements lay. Two correlations are assumed:
errors of one kernel (in one format, whatever the layer, batch or context) all go the same way, and errors of different
kernels are independent. So widths add up within a kernel and as squares between kernels. The first is cautious: over
many shapes part of a kernel's errors cancels. The host's time, if the engine has any, is one more such kernel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from simulator.accounting import OperatorTotals
from simulator.calibrated import Calibrated
from simulator.calls import kernel_call
from simulator.fitted import WIDEN, ErrorBand, band
from simulator.kernels.base import TERMS
from simulator.modules import block_columns
from simulator.operators import Operator
from simulator.selection import Choice
from simulator.shape import PrefillShape, StepShape
from simulator.stepcost import StepCost
from simulator.timeline import Timeline

ASSUMED = ErrorBand(-math.log(1.5), math.log(1.5), 0.5, 0)
"""Operators that no table holds are timed by a rule of thumb, and hosts differ: assumed right to a factor 1.5."""
HOST_ENTRY: dict[str, Any] = {
    "kind": "host", "kernel": "", "format": "", "profile": "engine", "status": "host", "mape": None,
    "outside": False,
}  # fmt: skip
STEPS = {"m", "batch", "context_len", "query_len", "seq_len", "past_len", "tokens", "bytes", "rows"}
"""Columns that change from step to step. They count as outside only where one value was measured, or where a kernel
ends with its range: the all-to-all's tokens, whose buffers are made for so many.
"""


def run_interval(
    cost: StepCost,
    totals: list[OperatorTotals],
    *,
    makespan: float | None,
    busy: float,
    tpot: float | None,
    host: float = 0.0,
    timeline: Timeline | None = None,
) -> dict[str, Any] | None:
    """The 80 % interval of the makespan and of the mean TPOT, and which kernels it comes from; None without a fitted
    profile.

    Parameters
    ----------
    totals : of the operators of `cost`, in its order. makespan : seconds; None where arrivals decide it, and not the
        kernels. busy : the part of it that steps take. tpot : mean, seconds. host : seconds of the steps that are the
        host's. timeline : the steps, which say whether prompts had a past and how many tokens a step had; without it
        only what no step changes is held against what was measured.
    """
    profile = cost.profile
    if not isinstance(profile, Calibrated):
        return None
    kernels: dict[tuple[str, ...], dict[str, Any]] = {}
    widths: dict[tuple[str, ...], tuple[float, float]] = {}
    for op, total in zip(cost.operators, totals, strict=True):
        choice = profile.choice(op)
        outside = choice is not None and _outside(cost, op, choice, timeline)
        key = _key(op, choice)
        entry = kernels.setdefault((*key, str(outside)), _entry(op, choice, outside))
        entry["seconds"] += total.seconds
        wide = WIDEN if outside else 1.0
        for name, seconds in total.by_bound.items():
            errors = _band(choice, name)
            below, above = seconds * -math.expm1(errors.low * wide), seconds * math.expm1(errors.high * wide)
            entry["low"] += below
            entry["high"] += above
            low, high = widths.get(key, (0.0, 0.0))
            widths[key] = low + below, high + above
    used = [entry for entry in kernels.values() if entry["seconds"] > 0]
    everything = sum(entry["seconds"] for entry in used)
    if not everything:
        return None
    if host > 0:
        entry = HOST_ENTRY | {"seconds": host}
        entry["low"], entry["high"] = host * -math.expm1(ASSUMED.low), host * math.expm1(ASSUMED.high)
        widths["host",] = entry["low"], entry["high"]
        used.append(entry)
        everything += host
    low = min(math.hypot(*(below for below, _ in widths.values())) / everything, 1.0)
    high = math.hypot(*(above for _, above in widths.values())) / everything
    return {
        "makespan_s": None if makespan is None else [makespan * (1 - busy * low), makespan * (1 + busy * high)],
        "tpot_s": None if tpot is None else [tpot * (1 - low), tpot * (1 + high)],
        "kernel_time": [1 - low, 1 + high],
        "coverage": 0.8,
        "kernels": [
            {
                "kind": entry["kind"],
                "kernel": entry["kernel"],
                "format": entry["format"],
                "profile": entry["profile"],
                "status": entry["status"],
                "outside": entry["outside"],
                "share": entry["seconds"] / everything,
                "mape": entry["mape"],
                "interval": [1 - entry["low"] / entry["seconds"], 1 + entry["high"] / entry["seconds"]],
            }
            for entry in sorted(used, key=lambda e: -e["seconds"])
        ],
    }


class KernelError(NamedTuple):
    """The kernel that an operator's time is of, and how far 80 % of such times lie from the predicted one, as shares
    below and above it.
    """

    kernel: tuple[str, ...]
    low: float
    high: float


HOST_ERROR = KernelError(("host",), -math.expm1(ASSUMED.low), math.expm1(ASSUMED.high))


def operator_errors(
    cost: StepCost, by_bound: Mapping[str, Mapping[str, float]], timeline: Timeline | None = None
) -> dict[str, KernelError]:
    """The errors of operators by name, those of one kernel going the same way; empty without a fitted profile.

    `by_bound` : seconds of each operator by what bounds it. `timeline` : as of `run_interval`.
    """
    profile = cost.profile
    if not isinstance(profile, Calibrated):
        return {}
    found: dict[str, KernelError] = {}
    for op in cost.operators:
        seconds = by_bound.get(op.name, {})
        total = sum(seconds.values())
        if not total:
            continue
        choice = profile.choice(op)
        wide = WIDEN if choice is not None and _outside(cost, op, choice, timeline) else 1.0
        bands = [(part, _band(choice, name)) for name, part in seconds.items()]
        low = sum(part * -math.expm1(errors.low * wide) for part, errors in bands) / total
        high = sum(part * math.expm1(errors.high * wide) for part, errors in bands) / total
        found[op.name] = KernelError(_key(op, choice), low, high)
    return found


def _key(op: Operator, choice: Choice | None) -> tuple[str, ...]:
    if choice is None:
        return ("rule of thumb", op.kind)
    return (choice.profile, choice.group.kind, *choice.group.label.values())


def _entry(op: Operator, choice: Choice | None, outside: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"seconds": 0.0, "low": 0.0, "high": 0.0}
    if choice is None:
        return entry | {
            "kind": op.kind, "kernel": "", "format": "", "profile": "rule-of-thumb", "status": "assumed", "mape": None,
            "outside": False,
        }  # fmt: skip
    label = choice.group.label
    formats = [label[name] for name in label if name.endswith("dtype")]
    errors = choice.carried or choice.group.errors["all"]
    return entry | {
        "kind": choice.group.kind,
        "kernel": label["kernel"],
        "format": " ".join(dict.fromkeys(formats)),
        "profile": choice.profile,
        "status": "transferred" if choice.transferred else "extrapolated" if outside else "interpolated",
        "mape": errors.mape,
        "outside": outside,
    }


def _band(choice: Choice | None, term: str) -> ErrorBand:
    if choice is None:
        return ASSUMED
    return choice.carried or band(choice.group.errors, TERMS.index(term))


def _outside(cost: StepCost, op: Operator, choice: Choice, timeline: Timeline | None) -> bool:
    """Whether widths or heads of the model, which no step changes, lie outside of the fitted ranges, or steps leave
    what STEPS says of theirs.
    """
    past = timeline is not None and op.axis == "prefill" and _has_past(cost, timeline)
    columns = _columns(cost, op, choice, past)
    if columns is None:
        return False
    if timeline is not None and choice.group.kind == "expert_all_to_all":
        columns = {**columns, **_most_tokens(cost, op, timeline)}
    ends = ("tokens",) if choice.group.kind == "expert_all_to_all" else ()
    for name, (low, high) in choice.group.ranges.items():
        value = float(np.asarray(columns[name]))
        if name == "sms" and value == 0:  # not given: the kernel's own number
            continue
        if name in ends:
            low = 0.0
        elif name in STEPS and low < high:
            continue
        if not low <= value <= high:
            return True
    return False


def _columns(cost: StepCost, op: Operator, choice: Choice, past: bool) -> Mapping[str, Any] | None:
    """The kernel's columns in a step of one sequence, and one prompt of a token; None without a kernel."""
    queries = cost.queries
    if op.module is not None and choice.group.kind == op.module.kind:
        return block_columns(op.module, 1, queries if op.axis == "decode" else 1, int(past))
    reads = 1 + past
    chunks = PrefillShape(1, 1, tuple(reads for _ in cost.prefill_caps), tuple(reads for _ in cost.prefill_caps))
    shape = StepShape(queries, queries, 1, tuple(1 for _ in cost.decode_caps), chunks)
    call = kernel_call(op, shape, cost.gpu.link.domain)
    return None if call is None else call.shape


def _has_past(cost: StepCost, timeline: Timeline) -> bool:
    """Whether any step's chunks read more keys than their own."""
    return any(
        bool((timeline[f"prefill_kv.{extent}"] > timeline["prefill_tokens"]).any())
        for extent in range(len(cost.prefill_caps))
    )


def _most_tokens(cost: StepCost, op: Operator, timeline: Timeline) -> dict[str, float]:
    """The most tokens that one GPU of an all-to-all had in a step."""
    rows = np.unique(cost.kernel_rows(op, timeline)[0])
    call = kernel_call(op, StepShape(rows, rows, 0, tuple(0 for _ in cost.decode_caps)), cost.gpu.link.domain)
    return {} if call is None or not len(rows) else {"tokens": float(np.max(call.shape["tokens"]))}
