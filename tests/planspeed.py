"""How long the planner's question takes: two hours of reasoning traffic, two models, p99 TTFT 2 s and p99 TPOT 40 ms. A
row of `make bench`.

Where the trace of row E is absent the bundled `reasoning-traffic` with as many requests takes its place.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GOAL_S = 300.0
OBJECTIVES = ("--slo", "ttft.p99<=2s", "--slo", "tpot.p99<=40ms")
PLANS = {
    "qwen3-32b": (),  # more than 500 candidates
    "deepseek-r1": (),
}
"""Models, and what is asked of each beside the objectives."""


def plan_rows(trace: Path) -> dict[str, Any]:
    """Seconds of each command, once, with the interval of its answer and everything; candidates; what to buy."""
    found: dict[str, Any] = {}
    load = ["production-reasoning", "--set", f"workload.trace.path={trace}"]
    if not trace.exists():
        load = ["reasoning-traffic"]
    for model, options in PLANS.items():
        words = [*load, "--set", f"model={model}", *OBJECTIVES, *options, "--format", "json"]
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "simulator.cli", "plan", *words], capture_output=True, text=True, cwd=ROOT
        )
        wall = time.perf_counter() - begun
        if done.returncode not in (0, 2):  # 2: nothing meets the objectives
            raise RuntimeError(done.stderr)
        document = json.loads(done.stdout)
        best, search = document["best"], document["search"]
        found[model] = {
            "wall_s": wall,
            "search_s": search["wall_s"],
            "goal_s": GOAL_S,
            "candidates": search["candidates"],
            "simulated": search["simulated"],
            "ended_early": search["ended_early"],
            "best": None if best is None else best["words"],
            "usd_per_hour": None if best is None else best["usd_per_hour"],
        }
        answer = (
            "nothing meets the objectives" if best is None else f"{best['usd_per_hour']:.2f} USD/h, {best['words']}"
        )
        head = f"{f'plan, {model}':<40}{wall:>9.1f} s of {search['candidates']:,} candidates, goal {GOAL_S:g} s"
        print(f"{head}: {answer}", flush=True)
    return found
