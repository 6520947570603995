"""What the terminal shows of a co-design. Computes nothing itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulator.printing import duration, percent
from simulator.varying.codesign import SEARCHED, CoDesign, Measured
from simulator.varying.codesigndoc import bound_of, improvement, sentences
from simulator.varying.target import show


def show_codesign(found: CoDesign, out: Path | None = None) -> None:
    """The answer in words, the designs, what a share of the budget brings, how robust they are."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 130
    console.print(Text(f"Co-design: {found.scenario}, from {found.gpu}, within: {found.budget.title}", style="bold"))
    for sentence in sentences(found):
        console.print(sentence)
    for table in (_designs(found), _metrics(found)):
        console.print()
        console.print(table)
    for i, optimum in enumerate(found.optima):
        name = f", best for {optimum.label}" if len(found.optima) > 1 else ""
        console.print()
        console.print(Text(f"What one per cent of the budget brings where{name}", style="bold"))
        console.print(_check(found, i))
    console.print()
    for note in _notes(found):
        console.print(f"note: {note}", style="yellow")
    simulated = sum(optimum.simulated for optimum in found.optima)
    console.print(
        f"{simulated:,} designs, {found.runs:,} simulations in {duration(found.seconds)}: {SEARCHED}", style="dim"
    )
    if out is not None:
        console.print(f"written to {out}")


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)


def _designs(found: CoDesign) -> Table:
    space = found.space
    table = _table("GPUs, and what each resource takes of the budget")
    table.add_column("", style="dim", no_wrap=True)
    table.add_column("bounds", style="dim", justify="right")
    table.add_column("scenario's GPU", justify="right")
    for optimum in found.optima:
        table.add_column(f"best for {optimum.label}" if len(found.optima) > 1 else "best", justify="right")
    limits = found.budget.limits
    for i, r in enumerate(space.resources):
        bounds = f"{r.words(r.low)} to {r.words(r.high)}" if r.free else "fixed"
        cells = [_with_shares(found, r.words(r.now), [space.prices[b.name][i] * r.now for b in limits])]
        for optimum in found.optima:
            value = float(space.values(optimum.x)[i])
            costs = [space.prices[b.name][i] * value for b in limits]
            cells.append(_with_shares(found, r.words(value), costs))
        table.add_row(r.kind.title, bounds, *cells)
    if any(b.fixed for b in limits):
        text = _with_shares(found, " ", [b.fixed for b in limits]).strip()
        table.add_row("fixed", "", *([text] * (1 + len(found.optima))))
    for b in limits:
        costs = [space.base_costs[b.name], *(space.cost(o.x, b) for o in found.optima)]
        cells = [f"{cost:,.4g} {b.unit}".strip() for cost in costs]
        table.add_row(b.name, f"of {space.totals[b.name]:,.4g}", *cells)
    if found.budget.pricing is not None:
        prices = [space.usd_per_hour(x) for x in (np.zeros(len(space.free)), *(o.x for o in found.optima))]
        table.add_row("a GPU-hour", "", *("none" if p is None else f"{p:,.3f} USD" for p in prices))
    return table


def _with_shares(found: CoDesign, text: str, costs: list[float]) -> str:
    shares = [percent(c / found.space.totals[b.name]) for c, b in zip(costs, found.budget.limits, strict=True)]
    return f"{text}  {', '.join(shares)}"


def _metrics(found: CoDesign) -> Table:
    known = any(m.low is not None for row in found.measured for m in row)
    table = _table(found.metric.title + (", with 80 % intervals" if known else ""))
    table.add_column("runs on", style="dim", no_wrap=True)
    for optimum in found.optima:
        table.add_column(optimum.label if len(found.optima) > 1 else "", justify="right")
    names = ["scenario's GPU", *(f"best for {o.label}" if len(found.optima) > 1 else "best" for o in found.optima)]
    for name, row in zip(names, found.measured, strict=True):
        table.add_row(name, *(_cell(found, m) for m in row))
    for seed, again in found.reseeded.items():
        for name, row in zip(names, again, strict=True):
            table.add_row(f"{name}, seed {seed}", *(_cell(found, m) for m in row), style="dim")
    gains = [improvement(found, i) for i in range(len(found.optima))]
    texts = ["" if g is None else f"{g[0]:.3f}x" + (f" ({g[1]:.3f} to {g[2]:.3f})" if g[1] else "") for g in gains]
    table.add_row("gain on its own", *texts)
    return table


def _cell(found: CoDesign, m: Measured) -> str:
    if m.error is not None:
        return "not served"
    text = show(found.metric, m.value)
    if m.low is None or m.high is None:
        return text
    return f"{text} ({show(found.metric, m.low)} to {show(found.metric, m.high)})"


def _check(found: CoDesign, i: int) -> Table:
    """Lagrange's condition: a share of the budget brings the same wherever it is spent."""
    optimum, space = found.optima[i], found.space
    table = Table(box=None, pad_edge=False)
    table.add_column("", style="dim", no_wrap=True)
    for title in ("elasticity", "improves by", "within 1 % of the best"):
        table.add_column(title, justify="right")
    table.add_column("")
    for j, index in enumerate(space.free):
        r, flat = space.resources[index], optimum.flat[j]
        brings = optimum.returns[j]
        text = "" if brings is None else f"{brings + 0.0:.2f} %".replace("-0.00", "0.00")
        remark = {"low": "at its lower bound", "high": "at its upper bound", None: ""}[bound_of(found, optimum, j)]
        loss, gain = optimum.losses[j], optimum.gains[j]
        if optimum.stepped[j] and loss is not None and gain is not None:
            text = f"{gain:.2f} %"
            remark = f"at a step: one per cent of the budget less costs {loss:.2f} %" + (
                f"; {remark}" if remark else ""
            )
        low = f"{'<= ' if flat.open_low else ''}{r.words(flat.low)}"
        high = f"{'>= ' if flat.open_high else ''}{r.words(flat.high)}"
        table.add_row(r.kind.title, f"{optimum.slope[j]:+.3f}", text, f"{low} to {high}", remark)
    return table


def _notes(found: CoDesign) -> list[str]:
    notes = [f"budget: {found.budget.note}"] if found.budget.note else []
    notes.append("costs are taken as linear in each resource, and nothing is said of what can be built")
    space = found.space
    for optimum in found.optima:
        left = [b.name for b in found.budget.limits if space.cost(optimum.x, b) < space.totals[b.name] * (1 - 1e-3)]
        if len(left) == len(found.budget.limits):
            notes.append(f"{optimum.label}: the budget is not used up: more would not help, or bounds are in the way")
        for reason, count in optimum.reasons.items():
            notes.append(f"{optimum.label}: {count} designs could not be served: {reason}")
    if found.budget.pricing is not None:
        notes.append("a GPU-hour costs what follows from the budget, on the scenario's GPU too")
    if any(path.startswith("peak.") and path != "peak.fp32" for path in found.budget.kinds):
        notes.append("all number formats of the matrix units move in proportion; fp32, the vector units', stays")
    if "sms" in found.budget.kinds and "l2.bandwidth" not in space.gpu.sources:
        notes.append("L2 bandwidth stays where it is")
    elif space.gpu.sources.get("l2.bandwidth", "").startswith("derived") and "sms" in found.budget.kinds:
        notes.append("L2 bandwidth follows the number of SMs")
    if not found.reseeded:
        notes.append("this load has nothing random: another seed changes nothing")
    if found.reseeded and any(any(optimum.stepped) for optimum in found.optima):
        notes.append("a step belongs to this very load: with other lengths (another seed) it is somewhere else nearby")
    if any(m.low is not None for row in found.measured for m in row):
        notes.append("the gain's interval takes the errors on both GPUs to go opposite ways")
    return notes
