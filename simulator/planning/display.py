"""What the terminal shows of a plan: the answer first, then why, how sure, and what was searched. Computes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from simulator.planning.model import Outcome
from simulator.planning.prices import HOURS_A_MONTH
from simulator.planning.why import what_stops, why_lost
from simulator.planning.words import (
    amount,
    deployment_words,
    gpu_words,
    joules,
    limit_words,
    miss,
    objective_title,
    power,
    room,
    usd,
    workers_words,
)
from simulator.printing import duration

if TYPE_CHECKING:
    from simulator.planning.planner import Answer
    from simulator.planning.stability import End, Stability

MOST_ROWS = 12
"""Of the Pareto front; all are in the document."""


def show_plan(answer: Answer, out: Path | None = None) -> None:
    """Print an answer."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 130
    plan = answer.plan
    if plan.best is not None:
        parts: list[Any] = [_buy(answer, plan.best), _facts(answer, plan.best), _objectives(plan.best, answer.best)]
        parts += [_runner_up(answer), _front(answer)]
    elif plan.closest is not None:
        parts = [_nothing(answer), _facts(answer, plan.closest), _objectives(plan.closest, None)]
    else:
        parts = [Text("No candidate can serve this load at all", style="bold red")]
    for part in [*parts, _searched(answer)]:
        if part is not None:
            console.print(part)
            console.print()
    for note in answer.notes:
        console.print(f"note: {note}", style="yellow")
    if out is not None:
        console.print(f"written to {out}")


def _buy(answer: Answer, best: Outcome) -> Text:
    candidate = best.candidate
    text = Text(f"Buy {gpu_words(candidate, answer.titles)}", style="bold green")
    text.append(f" as {deployment_words(candidate)}: ", style="bold")
    text.append(f"{usd(best.usd_per_hour)} USD/h, {usd(best.usd_per_hour * HOURS_A_MONTH)} USD a month", style="bold")
    return text


def _nothing(answer: Answer) -> Text:
    closest = answer.plan.closest
    assert closest is not None
    text = Text("No candidate meets the objectives. ", style="bold red")
    text.append(f"Closest: {gpu_words(closest.candidate, answer.titles)} as {deployment_words(closest.candidate)}. ")
    text.append(f"What stops it: {what_stops(answer.plan, closest)}")
    return text


def _facts(answer: Answer, outcome: Outcome) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    loaded = answer.base.loaded
    table.add_row("serves", f"{loaded.model.name}: {answer.plan.load}")
    table.add_row("prices", _prices(answer, outcome))
    tokens = outcome.metrics.get("output_tokens_per_s")
    if tokens:
        each = outcome.usd_per_hour / 3600 / tokens * 1e6
        table.add_row("", f"{each:.3g} USD per million output tokens at this load, {joules(outcome.metrics)} a token")
    table.add_row("power", f"{power(outcome.power_w)} at the GPUs' TDP; {_mean_power(outcome)}")
    if outcome.highest_load is not None:
        table.add_row("headroom", _headroom(outcome))
    sure = answer.best
    if outcome is answer.plan.best and sure is not None:
        table.add_row("how sure", _how_sure(answer, sure))
        other = _other_choice(answer)
        if other:
            table.add_row("", other)
    elif outcome is answer.plan.best:
        table.add_row("how sure", "not known: the profile has no error interval, or it was not asked for")
    return table


def _prices(answer: Answer, outcome: Outcome) -> str:
    prices, rates = answer.prices, []
    for name in outcome.candidate.gpus_by_name():
        date = prices.dates.get(name)
        rates.append(f"{prices.of(name):g} USD per {name} and hour" + (f" ({date})" if date else ""))
    text = f"{', '.join(rates)}: {prices.source}; a month is {HOURS_A_MONTH:g} hours"
    return text + (f"; left out without a price: {', '.join(prices.left_out)}" if prices.left_out else "")


def _mean_power(outcome: Outcome) -> str:
    mean = outcome.metrics.get("mean_power_w_per_gpu")
    return "" if mean is None else f"{power(mean * outcome.candidate.gpus)} on average; hosts and cooling not counted"


def _headroom(outcome: Outcome) -> str:
    load = outcome.highest_load
    assert load is not None
    more = "at least " if outcome.load_is_least else ""
    binding = outcome.verdict.binding
    words = f"{objective_title(binding.objective)} binds, with {room(binding)}"
    return f"holds the objectives up to {more}{load:.2f} x the asked load; {words}"


def _how_sure(answer: Answer, sure: Stability) -> str:
    best = answer.plan.best
    assert best is not None
    low, high = sure.low.factor, sure.high.factor
    text = f"80 % interval of all service times x {low:.3g} to x {high:.3g}: "
    if sure.high.verdict.met:
        text += "the objectives hold at its slow end too"
    elif sure.high.needed is None:
        text += f"at its slow end {miss(sure.high.verdict.binding)}, with twice the replicas too"
    else:
        text += f"at its slow end {miss(sure.high.verdict.binding)}, and {_needs(best, sure.high)} are needed"
    if sure.low.needed is not None and sure.low.needed.gpus < best.candidate.gpus:
        text += f"; at its fast end {_needs(best, sure.low)} would do"
    return text


def _needs(outcome: Outcome, end: End) -> str:
    needed = end.needed
    assert needed is not None
    kind = "replica" if needed.prefill is None else "decode worker"
    text = workers_words(needed.workers, kind).partition(" of ")[0]
    if needed.prefill is not None:
        text = f"{workers_words(needed.prefill, 'prefill worker').partition(' of ')[0]} and {text}"
    return f"{text} ({needed.gpus} GPUs, {usd(end.usd_per_hour)} USD/h)"


def _other_choice(answer: Answer) -> str:
    """Whether errors of this size would change the choice."""
    best, other, sure = answer.plan.best, answer.plan.runner_up, answer.runner_up
    if best is None or other is None or sure is None or answer.best is None:
        return ""
    fast, slow = sure.low.usd_per_hour, answer.best.high.usd_per_hour
    if fast is not None and fast < best.usd_per_hour:
        return (
            f"the choice could turn: with the runner-up's times at their fast end, it would cost {usd(fast)} USD/h, "
            "less than the best as predicted"
        )
    if slow is None or slow > other.usd_per_hour:
        return "were only the best's times at their slow end, the runner-up as predicted would be cheaper"
    return "the choice stands: neither the best at its slow end nor the runner-up at its fast end turns it"


def _objectives(outcome: Outcome, sure: Stability | None) -> Group:
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("limit", "reached", *(["fast end", "slow end"] if sure else []), "room"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for i, one in enumerate(outcome.verdict.reached):
        ends = []
        if sure is not None:
            ends = [amount(one.objective, end.verdict.reached[i].value) for end in (sure.low, sure.high)]
        binds = "binds" if one is outcome.verdict.binding else ""
        style = "green" if one.met else "red"
        cells = [limit_words(one.objective), amount(one.objective, one.value), *ends]
        table.add_row(objective_title(one.objective), *cells, Text(room(one), style=style), binds)
    return _titled("Objectives", table)


def _runner_up(answer: Answer) -> Text | None:
    best, other = answer.plan.best, answer.plan.runner_up
    if best is None or other is None:
        return None
    text = Text("Runner-up: ", style="bold")
    words = f"{gpu_words(other.candidate, answer.titles)} as {deployment_words(other.candidate)}"
    text.append(f"{words}, {usd(other.usd_per_hour)} USD/h. {why_lost(best, other, answer.plan.outcomes)}")
    return text


def _front(answer: Answer) -> Group | None:
    front = answer.plan.front
    if len(front) < 2:
        return None
    title = "Pareto front: no other is at least as good in price, latency and energy, and better in one"
    if len(front) > MOST_ROWS:
        title += f" (the {MOST_ROWS} cheapest of {len(front)})"
    table = Table(box=None, pad_edge=False)
    table.add_column("GPUs", no_wrap=True)
    table.add_column("as")
    for name in ("USD/h", "end to end mean", "TTFT p99", "TPOT p99", "tokens/s", "J/token", "highest load"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in front[:MOST_ROWS]:
        get = one.metrics.get
        load = "-" if one.highest_load is None else f"{'>= ' * one.load_is_least}{one.highest_load:.2f} x"
        names = " + ".join(f"{count} {name}" for name, count in one.candidate.gpus_by_name().items())
        tokens = get("output_tokens_per_s")
        table.add_row(
            names,
            _short(one),
            usd(one.usd_per_hour),
            duration(get("e2e_s.mean")),
            duration(get("ttft_s.p99")),
            duration(get("tpot_s.p99")),
            "-" if tokens is None else f"{tokens:,.0f}",
            joules(one.metrics).removesuffix(" J"),
            load,
            style="bold" if answer.plan.best and one.candidate == answer.plan.best.candidate else None,
        )
    return _titled(title, table)


def _short(outcome: Outcome) -> str:
    return outcome.candidate.words().partition(": ")[2]


def _searched(answer: Answer) -> Group:
    plan = answer.plan
    title = f"Searched {plan.candidates:,} candidates in {duration(plan.wall_s)}"
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    table.add_row(f"{len(plan.outcomes):,}", "simulated to the end")
    for one in plan.pruned:
        table.add_row(f"{one.count:,}", one.why + (f" ({one.example})" if one.example else ""))
    for why, count in plan.dropped:
        table.add_row(f"{count:,}", f"not allowed: {why}")
    return _titled(title, table)


def _titled(title: str, table: Table) -> Group:
    """A title that is not broken to the table's width."""
    return Group(Text(title, style="bold"), table)
