"""A break-even search as plain data, as a table, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.varying.breakeven import BreakEven, Case
from simulator.varying.crossing import Crossing
from simulator.varying.target import show

if TYPE_CHECKING:
    import pandas as pd


def document(found: BreakEven) -> dict[str, Any]:
    """`kinesim-whatif/1` with the part `break_even`."""
    return {
        "schema": "kinesim-whatif/1",
        "scenario": found.scenario,
        "answer": [answer(found, case) for case in found.cases],
        "break_even": _part(found),
    }


def _part(found: BreakEven) -> dict[str, Any]:
    over, target = found.range, found.target
    return {
        "field": over.path,
        "unit": over.unit,
        "range": [over.plain(over.low), over.plain(over.high)],
        "metric": target.metric.key,
        "metric_unit": target.metric.unit,
        "sense": target.sense,
        "like": list(found.like) or None,
        "tolerance": found.tolerance,
        "cases": [_case(found, case) for case in found.cases],
        "simulations": found.runs,
        "seconds": found.seconds,
    }


def _case(found: BreakEven, case: Case) -> dict[str, Any]:
    return {
        "label": case.label,
        "sets": list(case.sets),
        "base": case.base,
        "target": case.goal,
        "answer": answer(found, case),
        "crossings": {
            curve: [_crossing(found, crossing) for crossing in several] for curve, several in case.crossings.items()
        },
        "turns": case.turns,
        "scan": [
            {"value": found.range.plain(row.x), **row.values, "error": row.error} for row in case.scan
        ],
        "notes": list(case.notes),
    }  # fmt: skip


def _crossing(found: BreakEven, crossing: Crossing) -> dict[str, Any]:
    over = found.range
    return {
        "meets_at": over.plain(crossing.inside.x),
        "metric_there": crossing.inside.value,
        "misses_at": over.plain(crossing.outside.x),
        "metric_beside": crossing.outside.value,
        "larger_meets": crossing.rising,
        "width": crossing.width,
        "jump": crossing.jump,
    }


def frame(found: BreakEven) -> pd.DataFrame:
    """One row a crossing and curve."""
    import pandas as pd

    rows = [
        {
            "case": case.label,
            "curve": curve,
            "field": found.range.path,
            "meets_at": crossing.inside.x,
            "misses_at": crossing.outside.x,
            "unit": found.range.unit,
            "metric": found.target.metric.key,
            "target": case.goal[curve],
            "metric_there": crossing.inside.value,
            "metric_beside": crossing.outside.value,
            "larger_meets": crossing.rising,
        }
        for case in found.cases
        for curve, several in case.crossings.items()
        for crossing in several
    ]
    columns = ["case", "curve", "field", "meets_at", "misses_at", "unit", "metric", "target", "metric_there",
               "metric_beside", "larger_meets"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def answers(found: BreakEven) -> list[str]:
    """The answer of every case, with its name where there are several."""
    several = len(found.cases) > 1
    return [f"{case.label}: {answer(found, case)}." if several else f"{answer(found, case)}." for case in found.cases]


def answer(found: BreakEven, case: Case) -> str:
    """The answer in one sentence or two."""
    over, target = found.range, found.target
    limit = case.goal["predicted"]
    assert limit is not None
    wish = target.words(limit)
    several = case.crossings["predicted"]
    if not several:
        return _none(found, case, wish)
    parts = []
    for i, crossing in enumerate(several):
        ends = _ends(found, case, i)
        side = "or more" if crossing.rising else "or less"
        parts.append(f"{over.words(crossing.inside.x)} {side}{ends}")
    text = f"{wish} with {over.path} of {'; '.join(parts)}"
    if len(several) > 1:
        text += f" ({len(several)} crossings)"
    return text


def _none(found: BreakEven, case: Case, wish: str) -> str:
    """There is none: what the metric is at both ends, and whether other ends of the interval have one."""
    over, metric = found.range, found.target.metric
    first, last = case.scan[0], case.scan[-1]

    def at(row: Any) -> str:
        value = "cannot be served" if row.error else show(metric, row.values["predicted"])
        return f"{value} at {over.words(row.x)}"

    met = first.values["predicted"] is not None and not any(row.error for row in case.scan)
    limit = case.goal["predicted"]
    value = first.values["predicted"]
    met = met and value is not None and limit is not None and found.target.met(value, limit)
    text = f"no break-even: {wish} {'everywhere' if met else 'nowhere'} from {over.words(over.low)} to "
    text += f"{over.words(over.high)}: {metric.title} is {at(first)} and {at(last)}"
    for curve, end in (("fast", "fast"), ("slow", "slow")):
        for crossing in case.crossings.get(curve, ()):
            text += f"; at {over.words(crossing.inside.x)} if times are at the {end} end of their interval"
    return text


def _ends(found: BreakEven, case: Case, i: int) -> str:
    """The same crossing at the ends of the interval, where there are as many of them."""
    over, count = found.range, len(case.crossings["predicted"])
    if "fast" not in case.crossings:
        return ""
    texts = []
    for curve in ("fast", "slow"):
        several = case.crossings[curve]
        texts.append(over.words(several[i].inside.x) if len(several) == count else "none in the range")
    if texts[0] == texts[1]:
        return f" (80 % interval: {texts[0]})" if "none" not in texts[0] else ""
    return f" (80 % interval: {texts[0]} to {texts[1]})"
