"""What the terminal shows of `kinesim law compare`. Computes nothing itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from simulator.displaylaw import law_console
from simulator.law.labels import gpu_title, model_title, size_label
from simulator.law.ladder.comparedoc import largest_step
from simulator.printing import duration

if TYPE_CHECKING:
    from simulator.law.ladder.compare import Comparison, Judged

MODIFIED = " (modified)"
STYLE = {"holds": "green", "weaker": "yellow", "gone": "red", "unknown": "dim"}
COUNTED = {"holds": "hold", "weaker": "weaker", "gone": "gone", "unknown": "not judged"}
LENGTHS = 8
"""The rung on which lengths vary and batches drain; the law itself says what the lengths alone are worth."""
MOST_COLUMNS = 6
"""Strategies side by side in the table of costs."""
BUDGETS = 7
"""Costs at which the best models are shown."""


def show_comparison(comparison: Comparison, out: Path | None, changes: Sequence[str] = ()) -> None:
    """For each GPU the ladder, the best models and the verdicts, and what they rest on. `changes` : what was assigned
    to figures of the GPUs.
    """
    console = law_console()
    steps = comparison.steps()
    for gpu in comparison.gpus:
        for text in _headline(comparison, steps, gpu, changes):
            console.print(text)
        console.print()
        console.print(_costs(comparison, steps, gpu))
        console.print()
        console.print(_best(comparison, gpu))
        console.print()
        console.print(_verdicts(comparison, gpu))
        console.print()
        for line in _details(comparison, gpu):
            console.print(line)
        console.print()
    for note in comparison.notes:
        console.print(f"note: {note}", style="yellow")
    if out is not None:
        console.print(f"written to {out}")


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 0, 0, 1))


def _titled(title: str, table: Table) -> Group:
    """A title that is not broken to the table's width."""
    return Group(Text(title, style="bold"), table)


def _strategy(comparison: Comparison) -> str:
    reference = comparison.reference
    each = f"thinking cut at {reference.limit:,} tokens"
    return each if comparison.axis == "long_cot" else f"{reference.trials} trials a problem"


def _sparse(comparison: Comparison) -> str:
    return f"{comparison.attention.replace('_', ' ')} B={comparison.reference.budget:,}"


def _headline(comparison: Comparison, steps: Any, gpu: str, changes: Sequence[str]) -> list[Text]:
    model, last = comparison.reference.model, max(comparison.rungs)
    name = gpu_title(gpu.removesuffix(MODIFIED)) + (f" with {', '.join(changes)}" if changes else "")
    lines = [Text(f"Does the law survive on {name}? {comparison.axis.replace('_', ' ')}", style="bold")]
    for attention in dict.fromkeys(steps["attention"]):
        largest = largest_step(steps, gpu, model, attention)
        rows = steps[(steps["gpu"] == gpu) & (steps["model"] == model) & (steps["attention"] == attention)]
        if largest is None or rows.empty:
            continue
        name = "dense" if attention == "dense" else _sparse(comparison)
        text = f"rung {largest.rung}, {largest.words} (x{largest.step:.2f})"
        if largest.own and (served := largest_step(steps, gpu, model, attention, own=False)):
            text += ", which the law says too, trial by trial; "
            text += f"then rung {served.rung}, {served.words} (x{served.step:.2f})"
        lines.append(
            Text(f"{model_title(model)} {name} costs {rows['total'].iloc[-1]:.2f}x the closed form; most by {text}")
        )
    for rung, words in ((min(comparison.rungs), "by the law itself"), (last, "fully simulated")):
        counts = Counter(verdict.word for verdict in comparison.at(gpu, rung).verdicts)
        said = ", ".join(f"{counts[word]} {verb}" for word, verb in COUNTED.items() if counts[word])
        lines.append(Text(f"Of the paper's {sum(counts.values())} conclusions, {words} (rung {rung}): {said}"))
    found = [_threshold(comparison.at(gpu, rung), rung) for rung in (min(comparison.rungs), last)]
    if all(found):
        lines.append(Text(f"Threshold, grow the model before the chain: {'; '.join(found)}"))
    return lines


def _threshold(judged: Judged, rung: int) -> str:
    """Up to which model to grow before the chain, in words; empty where that was not judged."""
    verdict = next((one for one in judged.verdicts if one.claim == "threshold"), None)
    change = judged.measures.threshold
    if verdict is None or verdict.word == "unknown":
        return ""
    if change is None:
        return f"on rung {rung} never ({verdict.word})"
    size, left = size_label(change.taken), f"with {100 * change.room:.0f} points left to a longer chain"
    return f"on rung {rung} up to {size}, at an accuracy of {100 * change.accuracy:.0f} %, {left} ({verdict.word})"


def shown_models(comparison: Comparison) -> list[str]:
    """The smallest, the reference and the largest model."""
    names = list(comparison.parameters)
    wanted = {names[0], comparison.reference.model, names[-1]}
    return [name for name in names if name in wanted]


def _costs(comparison: Comparison, steps: Any, gpu: str) -> Group:
    heading, table = f"GPU-seconds a problem (x: on the rung below), {_strategy(comparison)}", _table()
    table.add_column("rung", no_wrap=True)
    here = steps[steps["gpu"] == gpu]
    pairs = [(m, a) for m in shown_models(comparison) for a in dict.fromkeys(here["attention"])][:MOST_COLUMNS]
    for model, attention in pairs:
        name = "dense" if attention == "dense" else f"B={comparison.reference.budget:,}"
        table.add_column(f"{size_label(model)} {name}", justify="right", no_wrap=True)
    cells = {(r.model, r.attention, r.rung): r for r in here.itertuples()}
    largest = {pair: largest_step(steps, gpu, *pair) for pair in pairs}
    for rung in comparison.rungs:
        row: list[str | Text] = []
        title = ""
        for pair in pairs:
            cell = cells[(*pair, rung)]
            title = cell.title
            text = f"{cell.seconds:,.3g}" + (f" x{cell.step:.2f}" if rung > min(comparison.rungs) else "      ")
            most = largest[pair]
            row.append(Text(text, style="bold cyan" if most is not None and most.rung == rung else ""))
        table.add_row(f"{rung} {title}", *row)
    if any(abs(cells[(*pair, LENGTHS)].spread - 1) > 0.005 for pair in pairs if (*pair, LENGTHS) in cells):
        alone = [f"x{cells[(*pair, LENGTHS)].spread:.2f}" for pair in pairs]
        table.add_row(Text("of 8, lengths alone", style="dim"), *[Text(text, style="dim") for text in alone])
    whole = [f"x{cells[(*pair, max(comparison.rungs))].total:.2f}" for pair in pairs]
    table.add_row(Text("all together", style="dim"), *[Text(text, style="bold") for text in whole])
    return _titled(heading, table)


def _best(comparison: Comparison, gpu: str) -> Group:
    """The best model with dense attention and with sparse, at costs from the first to the last change of any rung."""
    judged = [comparison.at(gpu, rung) for rung in comparison.rungs]
    starts = [span.start for j in judged for span in (*j.measures.best_dense, *j.measures.best_sparse)]
    title, table = "Best model at a cost in GPU-seconds a problem: with dense attention, and with sparse", _table()
    table.add_column("rung", no_wrap=True)
    if not starts:
        return _titled(title, table)
    costs = np.geomspace(min(starts) * 1.5, max(starts) * 1.5, BUDGETS)
    for cost in costs:
        table.add_column(f"{float(f'{cost:.2g}'):g} s", justify="right", no_wrap=True)
    titles = dict(zip(comparison.ladder["rung"], comparison.ladder["title"], strict=True))
    for one in judged:
        cells = []
        for cost in (float(f"{c:.2g}") for c in costs):
            pair = [_model_at(spans, cost) for spans in (one.measures.best_dense, one.measures.best_sparse)]
            cells.append(" ".join(f"{name:>4}" for name in pair))
        table.add_row(f"{one.rung} {titles[one.rung]}", *cells)
    return _titled(title, table)


def _model_at(spans: Any, cost: float) -> str:
    for span in spans:
        if span.start <= cost <= span.end or (span is spans[-1] and cost > span.end):
            return size_label(span.model)
    return "-"


def _verdicts(comparison: Comparison, gpu: str) -> Group:
    title, table = "What is left of the law's conclusions on each rung", _table()
    table.add_column("conclusion", no_wrap=True)
    table.add_column("paper", justify="right", no_wrap=True)
    for rung in comparison.rungs:
        table.add_column(str(rung), justify="right", no_wrap=True)
    by_rung = [comparison.at(gpu, rung).verdicts for rung in comparison.rungs]
    for i, claim in enumerate(comparison.claims):
        cells = []
        for verdicts in by_rung:
            verdict = verdicts[i]
            said = "?" if verdict.effect is None else verdict.word
            cells.append(Text(f"{said}\n{verdict.text}", style=STYLE[verdict.word]))
        table.add_row(f"{claim.title}\n  {claim.measure}", claim.paper, *cells)
    return _titled(title, table)


def _details(comparison: Comparison, gpu: str) -> list[str]:
    """Where the largest gains and savings are, on the first rung and the last."""
    lines = []
    for rung in (min(comparison.rungs), max(comparison.rungs)):
        judged = comparison.at(gpu, rung)
        lines.append(f"rung {rung}: " + "; ".join(_places(judged)))
    unknown = {v.claim: v.why for v in comparison.at(gpu, max(comparison.rungs)).verdicts if v.word == "unknown"}
    titles = {claim.key: claim.title for claim in comparison.claims}
    return lines + [f"not judged: {titles[key]}: {why}" for key, why in unknown.items()]


def _places(judged: Judged) -> list[str]:
    found, words = judged.measures, []
    if found.gain is not None:
        words.append(
            f"most gained at {duration(found.gain.cost)} a problem, "
            f"{100 * found.gain.dense:.0f} % dense, {100 * found.gain.sparse:.0f} % sparse"
            + ("" if found.gain.dense_affordable else " (dense can afford nothing)")
        )
    if found.saving is not None:
        words.append(
            f"most saved at an accuracy of {100 * found.saving.accuracy:.0f} %, "
            f"{duration(found.saving.dense_cost)} dense, {duration(found.saving.sparse_cost)} sparse"
        )
    if found.threshold is not None:
        change = found.threshold
        words.append(
            f"{size_label(change.taken)} replaces {size_label(change.left)} at {100 * change.accuracy:.0f} %, "
            f"whose chain could still gain {100 * change.room:.0f} points"
        )
    if found.penalty is not None and found.penalty.chosen != found.penalty.best:
        words.append(
            f"FLOPs choose {size_label(found.penalty.chosen)} for {size_label(found.penalty.best)} at "
            f"{100 * found.penalty.accuracy:.0f} %"
        )
    return words or ["nothing reaches an accuracy that is compared"]
