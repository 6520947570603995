"""A co-design as plain data, as a table, in words, and as GPU files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from simulator.printing import percent
from simulator.varying.codesign import SEARCHED, CoDesign, Measured, Optimum
from simulator.varying.target import show

if TYPE_CHECKING:
    import pandas as pd

SAME = 0.01
"""A GPU that was built for something else and is no more than this worse is as good."""


def document(found: CoDesign) -> dict[str, Any]:
    """`kinesim-whatif/1` with the part `co_design`."""
    space = found.space
    return {
        "schema": "kinesim-whatif/1",
        "scenario": found.scenario,
        "gpu": found.gpu,
        "answer": sentences(found),
        "co_design": {
            "budget": found.budget.title,
            "note": found.budget.note,
            "metric": found.metric.key,
            "metric_unit": found.metric.unit,
            "budgets": [
                {
                    "name": b.name,
                    "unit": b.unit,
                    "total": space.totals[b.name],
                    "fixed": b.fixed,
                    "base_cost": space.base_costs[b.name],
                }
                for b in found.budget.limits
            ],
            "resources": [
                {
                    "path": r.path,
                    "title": r.kind.title,
                    "unit": r.kind.unit,
                    "base": r.now,
                    "low": r.low,
                    "high": r.high,
                    "free": r.free,
                    "costs": {b.name: b.costs[r.path] for b in found.budget.limits if r.path in b.costs},
                }
                for r in space.resources
            ],
            "base": [_measured(m) for m in found.measured[0]],
            "designs": [_design(found, i) for i in range(len(found.optima))],
            "other_seeds": [
                {
                    "seed": seed,
                    "base": [m.value for m in table[0]],
                    "designs": [[m.value for m in r] for r in table[1:]],
                }
                for seed, table in found.reseeded.items()
            ],
            "searched": SEARCHED,
            "simulations": found.runs,
            "seconds": found.seconds,
        },
    }


def _measured(measured: Measured) -> dict[str, Any]:
    return {"value": measured.value, "low": measured.low, "high": measured.high, "error": measured.error}


def _design(found: CoDesign, i: int) -> dict[str, Any]:
    optimum, space = found.optima[i], found.space
    values = space.values(optimum.x)
    free = {index: j for j, index in enumerate(space.free)}
    resources = []
    for index, r in enumerate(space.resources):
        row: dict[str, Any] = {"path": r.path, "value": float(values[index]), "ratio": float(values[index] / r.now)}
        row["shares"] = {b.name: float(space.shares(optimum.x, b)[index]) for b in found.budget.limits}
        if (j := free.get(index)) is not None:
            flat = optimum.flat[j]
            row |= {
                "elasticity": float(optimum.slope[j]),
                "return": optimum.returns[j],
                "stepped": optimum.stepped[j],
                "return_of_less": optimum.losses[j],
                "return_of_more": optimum.gains[j],
                "at": bound_of(found, optimum, j),
                "within_1_percent": {"low": flat.low, "high": flat.high,
                                     "open_low": flat.open_low, "open_high": flat.open_high},
            }  # fmt: skip
        resources.append(row)
    gain = improvement(found, i)
    return {
        "setting": optimum.label,
        "sets": list(optimum.sets),
        "resources": resources,
        "gpu": dict(found.gpu_files[i]),
        "usd_per_hour": space.usd_per_hour(optimum.x),
        "worth": dict(optimum.worth),
        "spent": {b.name: space.cost(optimum.x, b) for b in found.budget.limits},
        "metric_by_setting": [_measured(m) for m in found.measured[i + 1]],
        "gain": None if gain is None else {"value": gain[0], "low": gain[1], "high": gain[2]},
        "designs_simulated": optimum.simulated,
        "designs_not_served": optimum.rejected,
        "reasons": dict(optimum.reasons),
    }


def bound_of(found: CoDesign, optimum: Optimum, j: int) -> str | None:
    """`low` or `high` where a free resource is at its bound."""
    space = found.space
    if optimum.x[j] <= space.low[j] + 1e-6:
        return "low"
    return "high" if optimum.x[j] >= space.high[j] - 1e-6 else None


def improvement(found: CoDesign, i: int) -> tuple[float, float | None, float | None] | None:
    """How many times better the i-th setting is on its own GPU than on the scenario's, and the ends of that: the errors
    of both are taken to go opposite ways. None where the scenario's GPU does not serve it.
    """
    before, after = found.measured[0][i], found.measured[i + 1][i]
    if not before.value or not after.value:
        return None
    if found.metric.better == "higher":
        before, after = after, before
    assert before.value is not None and after.value is not None
    ratio = before.value / after.value
    if not (before.low and before.high and after.low and after.high):
        return ratio, None, None
    return ratio, before.low / after.high, before.high / after.low


def frame(found: CoDesign) -> pd.DataFrame:
    """One row a GPU and resource."""
    import pandas as pd

    space = found.space
    gpus = [("base", None), *((o.label, o) for o in found.optima)]
    rows = []
    for name, optimum in gpus:
        values = space.now if optimum is None else space.values(optimum.x)
        for i, r in enumerate(space.resources):
            j = space.free.index(i) if optimum is not None and i in space.free else None
            row = {"gpu": name, "resource": r.path, "title": r.kind.title, "unit": r.kind.unit,
                   "value": float(values[i]), "ratio": float(values[i] / r.now)}  # fmt: skip
            for b in found.budget.limits:
                row[f"share.{b.name}"] = float(space.prices[b.name][i] * values[i] / space.totals[b.name])
            row["elasticity"] = None if optimum is None or j is None else float(optimum.slope[j])
            rows.append(row)
    return pd.DataFrame(rows)


def write_gpus(found: CoDesign, path: Path) -> None:
    """The designs as GPU files: the first to `path`, further ones beside it with a number. Raises InputError."""
    from simulator.files import replace_file

    for i, (optimum, content) in enumerate(zip(found.optima, found.gpu_files, strict=True)):
        where = path if i == 0 else path.with_name(f"{path.stem}-{i + 1}{path.suffix}")
        title = f"{found.gpu}, built for {found.scenario}, {optimum.label}"
        text = yaml.safe_dump({"title": title, **content}, sort_keys=False, allow_unicode=True)
        replace_file(where, f"# Least {found.metric.key} within the budget: {found.budget.title}\n{text}".encode())


def sentences(found: CoDesign) -> list[str]:
    """The answer: what to build, what it gains, and whether the other settings want something else."""
    texts = []
    for i, optimum in enumerate(found.optima):
        after, gain = found.measured[i + 1][i], improvement(found, i)
        changes = ", ".join(_change(found, optimum, j) for j in range(len(found.space.free)))
        name = f"{optimum.label}: " if len(found.optima) > 1 else ""
        text = f"{name}build {changes}: {found.metric.title} {show(found.metric, after.value)}"
        if gain is None:
            text += "; the scenario's GPU does not serve it"
        elif gain[1] is None:
            text += f", {_times(gain[0])} than with {found.gpu}"
        else:
            text += f", {_times(gain[0])} than with {found.gpu} (80 % interval {gain[1]:.3f}x to {gain[2]:.3f}x)"
        texts.append(text + ".")
    texts += [_swapped(found, i) for i in range(1, len(found.optima))]
    return texts


def _times(ratio: float) -> str:
    """In words: by how many per cent where that is little."""
    if abs(ratio - 1) < 5e-4:
        return "no better"
    if abs(ratio - 1) < 0.1:
        return f"{percent(abs(ratio - 1))} {'better' if ratio > 1 else 'worse'}"
    return f"{ratio:.3g}x better" if ratio > 1 else f"{1 / ratio:.3g}x worse"


def _change(found: CoDesign, optimum: Optimum, j: int) -> str:
    r = found.space.resources[found.space.free[j]]
    value = found.space.values(optimum.x)[found.space.free[j]]
    return f"{r.kind.title} {r.words(float(value))} (x{value / r.now:.2f})"


def _swapped(found: CoDesign, i: int) -> str:
    """What it costs to run one setting on the GPU that was built for the first, and the other way round."""
    first, other = found.optima[0].label, found.optima[i].label
    losses = [_losses(found, i, on=0), _losses(found, 0, on=i)]
    question = f"Does {other} change what to build?"
    if any(loss is None for several in losses for loss in several):
        return f"{question} Yes: a GPU that was built for one of {first} and {other} does not serve the other."
    there, back = ([loss for loss in several if loss is not None] for several in losses)
    verdict = "Hardly"
    if max(min(there), min(back)) > SAME:
        verdict = "Yes"
    elif max(*there, *back) <= SAME:
        verdict = "No"
    seeds = f" (over {len(there)} seeds)" if len(there) > 1 else ""
    text = f"{question} {verdict}: {other} on the GPU built for {first} is {_range(there)} worse than on its own, "
    text += f"{first} on the GPU built for {other} {_range(back)}{seeds}"
    if verdict == "Yes" and all(_overlap(found, s, on=g) for s, g in ((i, 0), (0, i))):
        text += ", which is less than the predictions' 80 % intervals"
    return f"{text}."


def _range(losses: list[float]) -> str:
    low, high = percent(max(min(losses), 0.0)), percent(max(*losses, 0.0))
    return low if low == high else f"{low.removesuffix(' %')} to {high}"


def _losses(found: CoDesign, setting: int, *, on: int) -> list[float | None]:
    """How much worse a setting is on the GPU of another one than on its own, by seed; below zero is luck."""
    return [_loss(found, table, setting, on) for table in (found.measured, *found.reseeded.values())]


def _loss(found: CoDesign, table: tuple[tuple[Measured, ...], ...], setting: int, on: int) -> float | None:
    own, other = table[setting + 1][setting].value, table[on + 1][setting].value
    if not own or not other:
        return None
    return other / own - 1 if found.metric.better == "lower" else own / other - 1


def _overlap(found: CoDesign, setting: int, *, on: int) -> bool:
    """Whether the intervals of a setting on its own and on another GPU have values in common."""
    own, other = found.measured[setting + 1][setting], found.measured[on + 1][setting]
    ends = own.low, own.high, other.low, other.high
    if any(end is None for end in ends):
        return False
    low, high = max(own.low or 0.0, other.low or 0.0), min(own.high or 0.0, other.high or 0.0)
    return low <= high
