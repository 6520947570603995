"""The head of the README: three questions, the commands that answer them, their answers, and a picture of all three.

    python docs/answers.py

runs the commands as a user would, draws docs/answers.png, and writes the table between the marks in README.md. Every
number in both is read from the commands' JSON. It takes minutes: the planner simulates hours of traffic.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from simulator.printing import duration  # noqa: E402
from simulator.reporting.palette import ACCENT, RESULT_COLOURS, SECOND  # noqa: E402

ARCHITECT = "kinesim whatif aime24-best-of-32 --set model=qwen3-32b --against attention=top_k:1024"
PLANNER = "kinesim plan reasoning-traffic --slo 'ttft.p99<=2s' --slo 'tpot.p99<=40ms'"
RESEARCHER = "kinesim law compare --gpu b200-sxm --set gpu.memory.bandwidth='4 TB/s'"
BEGIN, END = "<!-- answers: made by `make answers` -->", "<!-- end of answers -->"
INK, SOFT, THIN = "#1d2733", "#5b6673", "#d5dae0"
FEW = 6
"""Resources that the picture shows."""
HALF = 0.75
"""A conclusion keeps its name down to this share of the paper's effect (docs/law.md)."""


def ask(command: str) -> tuple[dict[str, Any], float]:
    """A command's JSON document, and the seconds that it took."""
    words = shlex.split(command)
    program = [sys.executable, "-m", "simulator", *words[1:], "--format", "json"]
    started = time.perf_counter()
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command}\n{done.stderr}")
    return json.loads(done.stdout), time.perf_counter() - started


# ---- in words --------------------------------------------------------------------------------------------------------


def resources(setting: dict[str, Any]) -> list[dict[str, Any]]:
    """The resources of a setting by how much the time follows them."""
    return sorted(setting["elasticities"], key=lambda one: -abs(gain(one) or 0.0))


def gain(resource: dict[str, Any]) -> float | None:
    """The time's elasticity to a resource."""
    found = resource["metrics"]["makespan_s"]
    return None if found is None else found["value"]


def architect_words(document: dict[str, Any]) -> str:
    """Which resource first, dense and sparse."""
    parts = []
    for setting, name in zip(document["settings"], ("dense", "top-k 1,024"), strict=True):
        first, second = [(one["title"], -(gain(one) or 0.0)) for one in resources(setting)[:2]]
        value = setting["base"]["metrics"]["makespan_s"]
        parts.append(
            f"{name} ({duration(value['value'])}): **{first[0]}**, 1 % more of it saves {first[1]:.2f} % of the time; "
            f"then {second[0]}, {second[1]:.2f} %"
        )
    return ". ".join(part[0].upper() + part[1:] for part in parts)


def planner_words(document: dict[str, Any]) -> str:
    """What to buy, and what the next best would be."""
    best, other = document["best"], document["runner_up"]
    if best is None:
        return "nothing that was asked for holds it"
    text = f"**{best['words']}**, {best['usd_per_hour']:,.2f} USD an hour"
    if best["highest_load"]:
        text += f", up to {best['highest_load']:.2f} times the load"
    if other is not None:
        text += f"; next {other['words']}, {other['usd_per_hour']:,.2f} USD"
    return text


def judged(document: dict[str, Any], rung: int) -> dict[str, dict[str, Any]]:
    """The verdicts of a rung by claim."""
    found = next(one for one in document["rungs_judged"] if one["rung"] == rung)
    return {one["claim"]: one for one in found["verdicts"]}


def researcher_words(document: dict[str, Any]) -> str:
    """What becomes of the threshold and of the other conclusions."""
    first, last = (min(one["rung"] for one in document["rungs_judged"]), max(one["rung"] for one in document["rungs"]))
    law, simulated = judged(document, first)["threshold"], judged(document, last)["threshold"]
    held = sum(one["word"] == "holds" for one in judged(document, last).values())
    return (
        f"the law's own threshold **{law['word']}** ({_threshold(law)}); simulated it is **{_weaker(simulated)}** "
        f"({_threshold(simulated)}); {held} of the paper's {len(document['claims'])} conclusions hold as strongly"
    )


def _threshold(verdict: dict[str, Any]) -> str:
    model, points = verdict["text"].split()
    return f"up to {model} with {points} points left to gain"


def _weaker(verdict: dict[str, Any]) -> str:
    return "as strong" if verdict["word"] == "holds" else verdict["word"]


def table(answers: dict[str, tuple[dict[str, Any], float]]) -> str:
    """The README's table."""
    asked = (
        (ARCHITECT, "GPU architect: which resource of an H200 first, for 32 samples of a 32B model? Does sparse "
         "attention change it?", architect_words),
        (PLANNER, "capacity planner: which GPUs, how many, at what price, for two hours of reasoning traffic within "
         "p99 TTFT 2 s and p99 TPOT 40 ms?", planner_words),
        (RESEARCHER, "researcher: grow the model before the chain of thought: does the Kinetics law's threshold hold "
         "on a B200 with half the bandwidth?", researcher_words),
    )  # fmt: skip
    lines = ["| question | command | answer |", "| --- | --- | --- |"]
    for command, question, words in asked:
        document, seconds = answers[command]
        lines.append(f"| {question} | `{command}` | {words(document)} ({duration(seconds)}) |")
    return "\n".join(lines)


# ---- as a picture ----------------------------------------------------------------------------------------------------


def draw(answers: dict[str, tuple[dict[str, Any], float]], path: Path) -> None:
    """Three panels, one for each question."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5.2), facecolor="white")
    FigureCanvasAgg(figure)
    places = ((0.085, "Architect: which resource should grow?"), (0.405, "Planner: which GPUs, at what price?"),
              (0.80, "Researcher: does the law survive?"))  # fmt: skip
    documents = [answers[command][0] for command in (ARCHITECT, PLANNER, RESEARCHER)]
    for (left, title), document, panel in zip(places, documents, (_architect, _planner, _researcher), strict=True):
        axes = figure.add_axes((left, 0.19, 0.19 if panel is _researcher else 0.215, 0.58))
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(THIN)
        axes.tick_params(colors=SOFT, labelsize=9)
        about = panel(axes, document)
        start = left - (0.075 if panel is _architect else 0.095 if panel is _researcher else 0.025)
        figure.text(start, 0.95, title, fontsize=13, weight="bold", color=INK, va="top")
        figure.text(start, 0.89, textwrap.fill(about, 58), fontsize=9.5, color=SOFT, va="top")
    figure.savefig(path, dpi=130)


def _architect(axes: Any, document: dict[str, Any]) -> str:
    settings = document["settings"]
    names = [one["title"] for one in resources(settings[0]) if gain(one)][:FEW]
    for i, (setting, colour, label) in enumerate(
        zip(settings, (ACCENT, SECOND), ("dense", "top-k 1,024"), strict=True)
    ):
        by_name = {one["title"]: gain(one) or 0.0 for one in setting["elasticities"]}
        places = [n + 0.19 - 0.38 * i for n in range(len(names), 0, -1)]
        values = [-by_name.get(name, 0.0) for name in names]
        axes.barh(places, values, height=0.36, color=colour, label=label)
        for place, value in zip(places, values, strict=True):
            right = value >= 0
            axes.annotate(f"{value:+.2f}", (value, place), (3 if right else -3, 0), textcoords="offset points",
                          ha="left" if right else "right", va="center", fontsize=8.5, color=INK)  # fmt: skip
    axes.set_yticks(range(len(names), 0, -1), names)
    axes.axvline(0, color=SOFT, lw=0.8)
    axes.margins(x=0.18)
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, labelcolor=INK)
    axes.set_xlabel("% of the time saved by 1 % more", fontsize=9, color=SOFT)
    return f"{document['model'].split('/')[-1]}, 32 samples of 30 AIME problems on an {_short(document['gpu'])}"


def _planner(axes: Any, document: dict[str, Any]) -> str:
    best = document["best"]
    rows = {tuple(one["sets"]): one for one in [*document["front"], document["runner_up"], best] if one}
    by_gpu: dict[str, list[dict[str, Any]]] = {}
    for row in rows.values():
        by_gpu.setdefault(" + ".join(row["gpus"]), []).append(row)
    for (gpu, found), colour in zip(sorted(by_gpu.items()), RESULT_COLOURS, strict=False):
        points = [(1e3 * row["metrics"]["tpot_s.p99"], row["usd_per_hour"]) for row in found]
        axes.scatter(*zip(*points, strict=True), s=34, color=colour, label=gpu, zorder=2)
    x, y = 1e3 * best["metrics"]["tpot_s.p99"], best["usd_per_hour"]
    axes.scatter([x], [y], s=190, facecolors="none", edgecolors=INK, lw=1.3, zorder=3)
    axes.annotate(f"{sum(best['gpus'].values())} GPUs, {y:,.0f} USD/h", (x, y), (0, -17), textcoords="offset points",
                  ha="right", fontsize=9.5, color=INK, weight="bold")  # fmt: skip
    most = max(1e3 * row["metrics"]["tpot_s.p99"] for row in rows.values())
    axes.set_xlim(0, 1.08 * max(most, *(1e3 * o["limit"] for o in document["objectives"] if "tpot" in o["metric"])))
    axes.set_ylim(0, 1.2 * max(row["usd_per_hour"] for row in rows.values()))
    limit = next((o["limit"] for o in document["objectives"] if o["metric"].startswith("tpot")), None)
    if limit:
        axes.axvline(1e3 * limit, color=SOFT, lw=0.9, ls=(0, (4, 3)))
        axes.annotate("objective", (1e3 * limit, axes.get_ylim()[1]), (-3, -9), textcoords="offset points", ha="right",
                      fontsize=8.5, color=SOFT)  # fmt: skip
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, labelcolor=INK)
    axes.set_xlabel("TPOT p99, ms", fontsize=9, color=SOFT)
    axes.set_ylabel("USD an hour", fontsize=9, color=SOFT)
    model = document["model"].split("/")[-1]
    return f"{model}, two hours of reasoning traffic: cheapest and fastest deployments that hold it"


def _researcher(axes: Any, document: dict[str, Any]) -> str:
    rungs = [one["rung"] for one in document["rungs_judged"]]
    titles = {one["key"]: one["title"] for one in document["claims"]}
    places = list(range(len(titles), 0, -1))
    for rung, colour, label, off in (
        (min(rungs), ACCENT, "the law itself", 0.19),
        (max(rungs), SECOND, "simulated", -0.19),
    ):
        found = judged(document, rung)
        effects = [found[key]["effect"] or 0.0 for key in titles]
        axes.barh([p + off for p in places], [min(e, 1.6) for e in effects], height=0.36, color=colour, label=label)
    axes.axvline(1, color=SOFT, lw=0.9, ls=(0, (4, 3)))
    axes.annotate(
        "as in the paper", (1, len(titles) + 0.55), (3, 0), textcoords="offset points", fontsize=8.5, color=SOFT
    )
    axes.set_yticks(places, [textwrap.fill(text, 24) for text in titles.values()], fontsize=8.5)
    axes.set_xlim(0, 1.6)
    axes.set_xlabel("share of the paper's effect", fontsize=9, color=SOFT)
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, labelcolor=INK)
    return "the Kinetics paper's conclusions on a B200 with half its memory bandwidth"


def _short(title: str) -> str:
    return title.replace("NVIDIA ", "").split(" SXM")[0]


def main() -> None:
    """Ask, draw, write."""
    answers = {command: ask(command) for command in (ARCHITECT, PLANNER, RESEARCHER)}
    draw(answers, DOCS / "answers.png")
    page = DOCS.parent / "README.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{table(answers)}\n{END}{after}")


if __name__ == "__main__":
    main()
