"""Pictures of the findings page: what is left of each claim, frontiers, and where the time of a chain goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.graphview import write_picture
from simulator.law.findings.evidence import RUN_BUDGETS, RUN_MODELS, Evidence, law_setting, simulated_setting
from simulator.law.frontiers.frontierplot import draw_frontiers
from simulator.law.ladder.verdicts import GONE, HOLDS

if TYPE_CHECKING:
    from simulator.law.findings.words import Finding
    from simulator.law.frontiers.frontier import Frontier

INK, GREY = "#222222", "#8A8A8A"
COLOURS = {"attention": "#E69F00", "linear": "#0072B2", "host": "#C0392B", "rest": "#B9BFC6"}
WORDS = {
    "attention": "attention",
    "linear": "operators with weights",
    "host": "waiting for the host",
    "rest": "the rest",
}
MARKS = ("o", "D", "s")
MARK_COLOURS = (GREY, "#0072B2", "#009E73")


def draw_all(evidence: Evidence, told: Sequence[Finding], folder: Path) -> list[Path]:
    """Draw everything into `folder`; the paths. Raises InputError where that cannot be written."""
    paths = [folder / name for name in ("effects.png", "frontiers.png", "where-the-time-goes.png")]
    draw_effects(evidence, told, paths[0])
    draw_fronts(evidence, paths[1])
    draw_times(evidence, paths[2])
    return paths


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def draw_effects(evidence: Evidence, told: Sequence[Finding], path: Path) -> None:
    """What is left of each claim that has a scale: 1 is as large as the paper says."""
    rows = [f for f in told if f.effects]
    figure = _figure(10.5, 1.7 + 0.52 * len(rows))
    axes = figure.add_axes((0.47, 0.62 / figure.get_figheight(), 0.5, 1 - 1.5 / figure.get_figheight()))
    limit = 1.5
    for left, right, colour in ((0, GONE, "#F7DCD6"), (GONE, HOLDS, "#FBF0D3"), (HOLDS, limit, "#DDF0E4")):
        axes.axvspan(left, right, color=colour, zorder=0, linewidth=0)
    names = ["the law", *(f"simulated {gpu.partition('-')[0].upper()}" for gpu in evidence.gpus)]
    for y, finding in enumerate(rows):
        for i, effect in enumerate(finding.effects):
            x = min(effect, limit * 0.985)
            axes.plot(
                x, y + 0.18 * (i - 1), MARKS[i], color=MARK_COLOURS[i], markersize=8, clip_on=False,
                label=names[i] if y == 0 else None, zorder=3,
            )  # fmt: skip
            if effect > limit:
                axes.annotate(
                    "", (limit, y + 0.18 * (i - 1)), (x - 0.06, y + 0.18 * (i - 1)), arrowprops={"arrowstyle": "->"}
                )
    axes.axvline(1, color=INK, linewidth=1.2, zorder=1)
    axes.set_xlim(0, limit)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_yticks(range(len(rows)), [_wrapped(f.title) for f in rows], fontsize=9.5, color=INK)
    axes.set_xticks(
        [0, GONE, HOLDS, 1], ["nothing\nleft", "a quarter", "three\nquarters", "as the\npaper says"], fontsize=8.5
    )
    for x, word in ((GONE / 2, "gone"), ((GONE + HOLDS) / 2, "weaker"), ((HOLDS + limit) / 2, "holds")):
        axes.text(x, -0.72, word, ha="center", va="bottom", fontsize=10, color=INK, weight="bold")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    axes.hlines(np.arange(len(rows) - 1) + 0.5, 0, limit, color="white", linewidth=1.5, zorder=1)
    figure.text(
        0.02, 1 - 0.32 / figure.get_figheight(), "What is left of the Kinetics paper's claims", fontsize=13,
        weight="bold", color=INK,
    )  # fmt: skip
    figure.legend(
        *axes.get_legend_handles_labels(), loc="upper right", ncols=3, frameon=False, fontsize=9.5,
        bbox_to_anchor=(0.985, 1 - 0.08 / figure.get_figheight()),
    )  # fmt: skip
    left_out = len(told) - len(rows)
    figure.text(
        0.02, 0.12 / figure.get_figheight(), f"{left_out} of {len(told)} claims are unchecked or have no such scale.",
        fontsize=8.5, color=GREY,
    )  # fmt: skip
    write_picture(figure, path)


def _wrapped(text: str, width: int = 58) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def draw_fronts(evidence: Evidence, path: Path) -> None:
    """Frontiers of long chains with dense and top-k attention: by the law, and simulated beside it."""
    panels = []
    for gpu in evidence.gpus:
        name, law = gpu.partition("-")[0].upper(), law_setting(gpu)
        panels.append((f"the law, {name}", _without_blocks(evidence.fronts["long_cot", law])))
        panels.append((f"simulated, {name}", _without_blocks(evidence.fronts["long_cot", simulated_setting(gpu)])))
    draw_frontiers(
        panels, path, unit="seconds",
        title="Accuracy on AIME24 against cost, one long chain a problem: dense and ideal top-k attention",
    )  # fmt: skip


def _without_blocks(front: Frontier) -> Frontier:
    keep = ("dense", "top_k")
    return replace(
        front,
        curves=tuple(c for c in front.curves if c.attention in keep),
        envelopes=tuple(e for e in front.envelopes if e.attention in keep),
    )


def draw_times(evidence: Evidence, path: Path, tokens: int = 32768) -> None:
    """Seconds of a chain of `tokens` tokens by what they go into, over the law's seconds."""
    figure = _figure(10.5, 1.35 + 1.75 * len(evidence.gpus))
    high = figure.get_figheight()
    most = max(fact.multiplier for key, fact in evidence.facts.items() if key[-1] == tokens)
    for place, gpu in enumerate(evidence.gpus):
        bottom = high - 0.95 - (place + 1) * 1.75 + 0.25
        axes = figure.add_axes((0.16, bottom / high, 0.78, 1.5 / high))
        labels = []
        for y, (model, budget) in enumerate((m, b) for m in RUN_MODELS for b in RUN_BUDGETS):
            fact = evidence.facts[gpu, model, budget, tokens]
            rest = fact.seconds - fact.attention - fact.linear - fact.host
            left = 0.0
            for kind, seconds in zip(COLOURS, (fact.attention, fact.linear, fact.host, rest), strict=True):
                width = seconds / fact.law_seconds
                axes.barh(
                    y, width, left=left, color=COLOURS[kind], height=0.72,
                    label=WORDS[kind] if y == 0 and place == 0 else None,
                )  # fmt: skip
                left += width
            axes.text(
                left + 0.1,
                y,
                f"{fact.multiplier:.1f}x, {fact.batch:.0f}",
                va="center",
                fontsize=8.5,
                color=INK,
            )
            labels.append(
                f"{model.removeprefix('qwen3-').upper()} {'dense' if budget is None else f'top-k {budget:,}'}"
            )
        axes.axvline(1, color=INK, linewidth=1.2)
        axes.set_yticks(range(len(labels)), labels, fontsize=9)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(0, most * 1.2)
        axes.tick_params(length=0, labelsize=9)
        axes.set_xticks([0, 1, *range(2, int(most * 1.2) + 1, 2)])
        for name in ("top", "right", "left"):
            axes.spines[name].set_visible(False)
        name = gpu.partition("-")[0].upper()
        axes.text(1.0, 0.95, name, transform=axes.transAxes, ha="right", va="top", fontsize=12, weight="bold")
    figure.text(0.02, 1 - 0.3 / high, f"What a chain of {tokens:,} tokens costs, simulated over the law (1 is the law)",
                fontsize=13, weight="bold", color=INK)  # fmt: skip
    figure.axes[-1].set_xlabel(
        "simulated seconds over the law's; beside the bars that ratio, and how many sequences decode at a time",
        fontsize=9.5,
    )
    handles, words = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, words, loc="upper left", ncols=4, frameon=False, fontsize=9.5, bbox_to_anchor=(0.14, 1 - 0.4 / high)
    )
    write_picture(figure, path)
