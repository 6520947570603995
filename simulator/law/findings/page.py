"""`make findings`: what becomes of the Kinetics paper's claims, as docs/findings.md and docs/findings/*.png.

    python -m simulator.law.findings.page [--curves FILE] [--accuracy FILE] [--docs FOLDER] [--jobs N]

The figures come from `evidence`, the words from `findingwords`, the pictures from `findingplots`; here they become a
page.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwspecs.errors import InputError
from simulator.files import replace_file
from simulator.law.findings.byfrontier import budget_growth, flops_choice, single_models, small_models, threshold
from simulator.law.findings.bygain import best_of_n, block_top_k, top_k_points, top_k_saving
from simulator.law.findings.bylaw import attention_dominates, b200_time, kv_memory, wall_clock
from simulator.law.findings.evidence import (
    PUBLISHED,
    RUN_BUDGETS,
    RUN_MODELS,
    RUN_TOKENS,
    Evidence,
    gather,
    law_setting,
    simulated_setting,
)
from simulator.law.findings.pictures import draw_all
from simulator.law.findings.words import CURVES_MISSING, UNCHECKED, Finding, gpu_name, points, span, table, times
from simulator.law.labels import size_label as short
from simulator.law.ladder.claims import headlines
from simulator.law.ladder.rungs import RUNGS

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[3]
CURVES = ROOT.parent / "shared/data/kinetics/aime24_long_cot_frontiers.csv"
PAGE = "findings.md"
PICTURES = "findings"

HEAD = """\
# Does the Kinetics law survive serving?

*Made by `make findings`; do not edit.*

The claims of *Kinetics: Rethinking Test-Time Scaling Laws* (Sadhukhan et al., arXiv 2506.05333, and its
[project page](https://infini-ai-lab.github.io/Kinetics)), one by one: what the paper says, what its law
gives here, what a simulated engine gives on {gpus}, and why they differ. **Nothing here was measured
for this page**: the law is a formula, the simulation rests on kernels and deployments that others measured
([how far to trust it](validation.md)).
"""

COLUMNS = """
## All claims

Verdicts: **holds** where at least three quarters of the paper's effect are left, **gone** below a quarter, **weaker**
between; ratios count by their logarithms ([the rules](law.md#does-it-survive)). **Unchecked**: the data at hand cannot
tell, whatever the figures say. Costs are GPU-seconds per problem; gains are points of accuracy at equal cost, savings
are ratios of cost at equal accuracy.
"""

HOW = """
## What the figures rest on

- **Accuracy**: {accuracy}
- **Digitised curves** of figure 8d (long chains, dense and oracle top-k): {curves}
- **The law**: *as published* is the authors' code, with its parameter counts, E = 562.5 and 4,500 TFLOP/s of a B200.
  *Law, GPU* is the law as [derived here](law.md), with the dense bf16 peak and the bandwidth of the GPU.
- **Simulated**: vLLM serving many problems at a time, steadily, on one GPU: calibrated kernels, host, prefill, finite
  memory, preemption. Long chains as in the scenario `aime24-long-cot`, Best-of-N as in `aime24-best-of-32`. The
  multiplier on the law is simulated at 12 points or fewer of each model and attention, and interpolated between them;
  trials that decode together are equally long there. Batches of mixed lengths and their drain are on the ladder above.
- **Beside `kinesim law compare`**, which judges the same conclusions on every rung: here every problem takes its own
  strategy and trials have the fitted model's lengths, in steady service; there rungs 1 to 7 take mean lengths, rungs 8
  and 9 the scenario's own lengths with batches that drain. Figures differ for that, and verdicts near a border may.
- **Ideal top-k has no kernel**: what a budget of B tokens costs is taken to be dense attention over B tokens, found at
  no cost. Real sparse kernels are slower ([sparse attention as modelled, beside a measured one](sparse-check.md)).
- **Where the time goes** is told from whole runs of `aime24-long-cot` with chains of equal length.
"""

STEPS = """
## Which assumption matters

GPU-seconds of a chain, with the scenario's lengths cut at 32,768 tokens, and what each assumption that is lifted
multiplies them by, in the order of [the ladder](law.md#the-ladder). `kinesim law compare` draws it, and judges the
law's conclusions on every rung. A part of *lengths, drain* is in the closed form too, if that is asked for the drawn
lengths in place of their mean, since dense attention grows with the square of the length: the last column. The largest
step is bold, that part left out.
"""
LENGTHS_RUNG = RUNGS[7].title

LEFT = """
## Unchecked

{claims}

They need what is not at hand: accuracy by problem and trial (for Best-of-N), of block top-k, and by KV budget. The
authors' generation logs have it; `kinesim law frontier --accuracy FOLDER` reads them
([accuracy models](law.md#accuracy)).
"""


CLAIMS: tuple[Callable[[Evidence], Finding], ...] = (
    threshold, flops_choice, attention_dominates, kv_memory, top_k_points, top_k_saving, best_of_n, block_top_k,
    single_models, small_models, budget_growth, b200_time, wall_clock,
)  # fmt: skip
"""The claims, in the order of the page."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; its exit code: 2 for bad input, with one message."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.law.findings.page", description="Write docs/findings.md."
    )
    parser.add_argument("--curves", type=Path, default=CURVES, help="digitised curves (%(default)s)")
    parser.add_argument("--accuracy", default=None, help="accuracy model; left out: the bundled one")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the page goes (%(default)s)")
    parser.add_argument("--jobs", type=int, default=None, help="processes; left out: one a core")
    options = parser.parse_args(argv)
    try:
        written = make(options.docs, options.curves, options.accuracy, options.jobs)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(f"written: {path}")
    return 0


def make(docs: Path, curves: Path | None = None, accuracy: str | None = None, jobs: int | None = None) -> list[Path]:
    """Compute and write the page and its pictures; the paths. Raises InputError."""
    from simulator.law.accuracy.sources import load_accuracy
    from simulator.law.serving.multipliers import multiplied_costs
    from simulator.law.serving.simulated import simulated_costs

    started = time.perf_counter()

    def simulated(strategies: pd.DataFrame, gpu: str, scenario: str) -> np.ndarray:
        return multiplied_costs(
            strategies, gpu, lambda some: simulated_costs(some, scenario, "seconds", gpu=gpu, jobs=jobs)
        )

    def tell(text: str) -> None:
        if sys.stderr.isatty():
            print(f"{time.perf_counter() - started:6.1f} s  {text}", file=sys.stderr)

    there = curves if curves is not None and curves.exists() else None
    if there is None:
        print(f"no digitised curves at {curves}: the page says so", file=sys.stderr)
    source = load_accuracy(accuracy)
    if source.kind != "parametric":
        allowed = "a parametric model (.yaml): strategies of every model, budget and number of trials are asked for"
        raise InputError("the findings need another accuracy", file=accuracy, found=source.kind, allowed=allowed)
    evidence = gather(source, simulated, there, progress=tell)
    return write(evidence, docs)


def write(evidence: Evidence, docs: Path) -> list[Path]:
    """The page and its pictures of some evidence."""
    told = [tell(evidence) for tell in CLAIMS]
    pictures = draw_all(evidence, told, docs / PICTURES)
    page = docs / PAGE
    replace_file(page, page_text(evidence, told).encode())
    return [page, *pictures]


def page_text(evidence: Evidence, told: Sequence[Finding]) -> str:
    """The page as Markdown."""
    gpus = [gpu_name(gpu) for gpu in evidence.gpus]
    head = ["claim", "the paper", "the law here", *(f"simulated {name}" for name in gpus), "verdict", "why"]
    rows = [
        [f"[{f.title}](#{number}-{anchor(f.title)})", f.paper, f.law, *f.simulated, f"**{f.verdict}**", f.why]
        for number, f in enumerate(told, 1)
    ]
    curves = "read where the page was made." if evidence.curves is not None else CURVES_MISSING
    parts = [
        HEAD.format(gpus=" and on ".join(f"a {name}" if name[0] == "B" else f"an {name}" for name in gpus)),
        f"![The law's effects and what a simulated engine leaves of them, by claim]({PICTURES}/effects.png)\n",
        "*Claims with a scale. The law: its figures as published, on the digitised curves where they tell.*\n",
        "## In short\n",
        *(f"- {line}" for line in in_short(evidence)),
        COLUMNS,
        table(head, rows),
        f"\n![Accuracy against cost: the law, and simulated]({PICTURES}/frontiers.png)\n",
        f"*With the fitted accuracy model{end_words(evidence)}.*",
        f"\n![Where the time of a long chain goes]({PICTURES}/where-the-time-goes.png)",
        STEPS,
        rungs_table(evidence),
        HOW.format(accuracy=evidence.accuracy, curves=curves),
    ]
    for number, finding in enumerate(told, 1):
        parts.append(f"\n## {number}. {finding.title}\n")
        parts.append("\n\n".join(finding.text))
    unchecked = "\n".join(f"- {f.title}: {f.why}." for f in told if f.verdict == UNCHECKED)
    parts.append(LEFT.format(claims=unchecked))
    return "\n".join(parts)


def end_words(evidence: Evidence) -> str:
    """Where the fitted model's curves end otherwise than the digitised ones."""
    if evidence.curves is None:
        return ""
    fitted = headlines(evidence.fronts["long_cot", PUBLISHED], "top_k").top_gain
    digitised = headlines(evidence.curves, "top_k").top_gain
    return (
        f": at the highest cost top-k is {points(fitted)} points apart from dense attention in it, "
        f"{points(digitised)} on the digitised curves"
    )


def in_short(evidence: Evidence) -> list[str]:
    """The page in a few sentences, of its figures."""
    gpu = evidence.gpus[0]
    name = gpu_name(gpu)
    law, here = (evidence.measures["long_cot", key, "top_k"] for key in (law_setting(gpu), simulated_setting(gpu)))
    dense, sparse = (
        [evidence.facts[gpu, model, budget, RUN_TOKENS[-1]].multiplier for model in RUN_MODELS]
        for budget in (None, RUN_BUDGETS[-1])
    )
    models = f"{short(RUN_MODELS[0])} to {short(RUN_MODELS[-1])}"
    one_decimal = [span(values, "{:.1f}") for values in (dense, sparse)]
    batches = [
        ", ".join(f"{evidence.facts[gpu, model, budget, RUN_TOKENS[-1]].batch:.0f}" for model in RUN_MODELS)
        for budget in (RUN_BUDGETS[-1], None)
    ]
    lines = [
        f"**Costs**: dense chains of {RUN_TOKENS[-1]:,} tokens cost {one_decimal[0]} times what the law says on an "
        f"{name} ({models}), chains with a KV budget of {RUN_BUDGETS[-1]:,} tokens {one_decimal[1]} times.",
    ]
    if law.gain and here.gain and law.saving and here.saving:
        lines.append(
            f"**Sparse attention** on long chains gains at most {points(here.gain.points)} points and "
            f"{times(here.saving.ratio)} on a simulated {name}; by the law on it {points(law.gain.points)} and "
            f"{times(law.saving.ratio)}. It reads less of the KV cache but keeps all of it: {batches[0]} chains decode "
            f"at a time ({', '.join(map(short, RUN_MODELS))}; dense {batches[1]})."
        )
    if law.threshold and here.threshold:
        lines.append(
            f"**Which model**: growing the model ends, and growing the chain begins, with "
            f"{short(here.threshold.taken)} from an accuracy of {here.threshold.accuracy:.2f} on; by the law with "
            f"{short(law.threshold.taken)} from {law.threshold.accuracy:.2f}."
        )
    if law.penalty and here.penalty:
        lines.append(
            f"**Choosing by FLOPs** costs up to {times(here.penalty.ratio)}, by the law {times(law.penalty.ratio)}."
        )
    lines.append(
        f"**The largest step** from the law to the simulation on an {name}, dense and with that KV budget: "
        f"{largest_steps(evidence, gpu)} "
        "([rung by rung](#which-assumption-matters))."
    )
    return lines


def largest_step(rungs: pd.DataFrame) -> int:
    """Which step of a ladder, from 0, multiplies the cost most; of that of lengths only what the law itself has not."""
    rungs = rungs.sort_values("rung")
    factors = rungs["seconds"].to_numpy()[1:] / rungs["seconds"].to_numpy()[:-1]
    own = np.where(rungs["title"].to_numpy()[1:] == LENGTHS_RUNG, rungs["spread"].to_numpy()[1:], 1.0)
    return int(np.argmax(factors / own))


def largest_steps(evidence: Evidence, gpu: str) -> str:
    """The largest rung of every model's chains on a GPU."""
    told: dict[str, list[str]] = {}
    steps = evidence.steps[evidence.steps["gpu"] == gpu]
    for (model, _, _), rungs in steps.groupby(["model", "attention", "budget"], sort=False):
        rungs = rungs.sort_values("rung")
        factors = rungs["seconds"].to_numpy()[1:] / rungs["seconds"].to_numpy()[:-1]
        largest = largest_step(rungs)
        told.setdefault(short(str(model)), []).append(f"{rungs['title'].iloc[largest + 1]} x{factors[largest]:.1f}")
    return "; ".join(f"{model}: {' and '.join(found)}" for model, found in told.items())


def rungs_table(evidence: Evidence) -> str:
    """What each rung of the ladder multiplies the cost by."""
    steps = evidence.steps
    titles = steps.drop_duplicates("rung").sort_values("rung")["title"].tolist()
    rows = []
    for (gpu, model, attention, budget), rungs in steps.groupby(["gpu", "model", "attention", "budget"], sort=False):
        seconds = rungs.sort_values("rung")["seconds"].to_numpy()
        factors = seconds[1:] / seconds[:-1]
        cells = [f"{factor:.2f}" for factor in factors]
        cells[largest_step(rungs)] = f"**{cells[largest_step(rungs)]}**"
        what = f"{gpu_name(gpu)}, {short(str(model))}, {'dense' if attention == 'dense' else f'top-k {budget:,}'}"
        total = f"{seconds[-1] / seconds[0]:.2f}"
        spread = f"{rungs['spread'].iloc[0]:.2f}"
        rows.append([what, f"{seconds[0]:.3g} s", *cells, f"{seconds[-1]:.3g} s", total, spread])
    return table(["chain", "the law", *titles[1:], "simulated", "in all", "lengths, by the law"], rows)


def anchor(title: str) -> str:
    """The fragment that Markdown viewers give a heading of this text."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


if __name__ == "__main__":
    sys.exit(main())
