"""What the terminal shows of a plan: the answer first, then why, how sure, and what was searched. Computes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from simulator.planning.loads import RESOLUTION
from simulator.planning.model import Outcome, gpu_label
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

MOST_ROWS, MOST_OBJECTIVES = 12, 4
"""Of the table of the Pareto front; all are in the document."""


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
        parts = [_nothing(answer)]
    for part in [*parts, _searched(answer)]:
        if part is not None:
            console.print(part)
            console.print()
    for note in answer.notes:
        console.print(f"note: {note}", style="yellow")
    if out is not None:
        console.print(f"written to {out}")


def answer_words(answer: Answer) -> list[str]:
    """The answer, its headroom, how sure it is, and the runner-up, a sentence each."""
    best = answer.plan.best
    if best is None:
        return [_nothing(answer).plain + "."]
    words = ["".join(buy_words(answer, best)) + "."]
    if best.highest_load is not None:
        words.append(f"Headroom: {_headroom(best)}.")
    if answer.best is not None:
        words.append(f"How sure: {_how_sure(answer, answer.best)}.")
    other = _runner_up(answer)
    return words + ([f"{other.plain}."] if other is not None else [])


def _buy(answer: Answer, best: Outcome) -> Text:
    gpus, rest = buy_words(answer, best)
    return Text(gpus, style="bold green").append(rest, style="bold")


def buy_words(answer: Answer, best: Outcome) -> tuple[str, str]:
    """What to buy, and how to use it for how much."""
    month = usd(best.usd_per_hour * HOURS_A_MONTH)
    rest = f" as {deployment_words(best.candidate)}: {usd(best.usd_per_hour)} USD/h, {month} USD a month"
    return f"Buy {gpu_words(best.candidate, answer.titles)}", rest


def closest_words(answer: Answer) -> str:
    """What comes closest where nothing meets the objectives, and what stops it."""
    closest = answer.plan.closest
    if closest is None:
        stopped = answer.plan.stopped or "no candidate that is allowed can serve this load"
        return f"; what stops it: {stopped}"
    words = f"{gpu_words(closest.candidate, answer.titles)} as {deployment_words(closest.candidate)}"
    return f"; closest: {words}; what stops it: {what_stops(answer.plan, closest)}"


def _nothing(answer: Answer) -> Text:
    return Text(f"No candidate meets the objectives{closest_words(answer)}", style="bold red")


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
        whole = outcome.usd_per_hour / 3600 * (outcome.metrics.get("makespan_s") or 0.0)
        words = f"{usd(whole)} USD for this load, {each:.3g} USD per million output tokens"
        table.add_row("", f"{words}, {joules(outcome.metrics)} a token")
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
        why = "it was not asked for (--no-sure)" if outcome.interval else "the profile has no error interval"
        table.add_row("how sure", f"not known: {why}")
    return table


def _prices(answer: Answer, outcome: Outcome) -> str:
    prices, rates = answer.prices, []
    for name in outcome.candidate.gpus_by_name():
        date = prices.dates.get(name)
        rates.append(f"{prices.of(name):g} USD per {gpu_label(name)} and hour" + (f" ({date})" if date else ""))
    text = f"{', '.join(rates)}: {prices.source}; a month is {HOURS_A_MONTH:g} hours"
    return text + (f"; left out without a price: {', '.join(prices.left_out)}" if prices.left_out else "")


def _mean_power(outcome: Outcome) -> str:
    mean = outcome.metrics.get("mean_power_w_per_gpu")
    return "" if mean is None else f"{power(mean * outcome.candidate.gpus)} on average; hosts and cooling not counted"


def _headroom(outcome: Outcome) -> str:
    load, binding = outcome.highest_load, outcome.verdict.binding
    assert load is not None
    words = f"{objective_title(binding.objective)} has the least room, {room(binding).removesuffix(' room')}"
    if outcome.load_is_least:
        return f"the objectives hold up to {load:.2f} x the asked load at least; {words}"
    beyond = ""
    if outcome.lost_beyond is not None:
        beyond = f", then {objective_title(outcome.lost_beyond)} is lost"
    if load < 1 + RESOLUTION:
        return f"none to speak of: the objectives hold up to {load:.2f} x the asked load{beyond}; {words}"
    return f"the objectives hold up to {load:.2f} x the asked load{beyond}; {words}"


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
        return (
            "the choice could turn: if only the best's times are at their slow end, it needs more than the runner-up "
            "costs as predicted"
        )
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
    text.append(f"{words}, {usd(other.usd_per_hour)} USD/h. {why_lost(best, other, answer.plan)}")
    return text


def _front(answer: Answer) -> Group | None:
    front = answer.plan.front
    if len(front) < 2:
        return None
    title = "Pareto front: no other is at least as good in price, latency and energy, and better in one"
    if len(front) > MOST_ROWS:
        title += f" (the {MOST_ROWS} cheapest of {len(front)})"
    reached = answer.plan.facts.get("front_complete_below_usd_per_hour")
    if reached is not None:
        title += f"; complete below {usd(reached)} USD/h"
    table = Table(box=None, pad_edge=False)
    table.add_column("GPUs", no_wrap=True)
    table.add_column("as")
    asked = [objective_title(one) for one in answer.plan.objectives[:MOST_OBJECTIVES]]
    for name in ("USD/h", "end to end mean", *asked, "tokens/s", "J/token", "highest load"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in front[:MOST_ROWS]:
        get = one.metrics.get
        load = "-" if one.highest_load is None else f"{'>= ' * one.load_is_least}{one.highest_load:.2f} x"
        names = " + ".join(f"{count} {gpu_label(name)}" for name, count in one.candidate.gpus_by_name().items())
        tokens = get("output_tokens_per_s")
        table.add_row(
            names,
            _short(one),
            usd(one.usd_per_hour),
            duration(get("e2e_s.mean")),
            *(amount(of.objective, of.value) for of in one.verdict.reached[:MOST_OBJECTIVES]),
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
    dropped: dict[str, tuple[int, str]] = {}
    for why, count in plan.dropped:  # alike but for the numbers behind a colon: those of the first are shown
        kind, _, numbers = why.partition(": ")
        known, example = dropped.get(kind, (0, numbers))
        dropped[kind] = known + count, example
    for kind, (count, example) in dropped.items():
        table.add_row(f"{count:,}", f"besides, not allowed: {kind}" + (f" (such as: {example})" if example else ""))
    return _titled(title, table)


def _titled(title: str, table: Table) -> Group:
    """A title that is not broken to the table's width."""
    return Group(Text(title, style="bold"), table)
