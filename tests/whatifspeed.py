"""How long the architect's question takes: the elasticities of an H200 with Qwen3-32B under `aime24-best-of-32`, and
how well they agree with central differences of runs made here. A row of `make bench`.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GOAL_S = 20.0
SETS = ["model=qwen3-32b"]
OTHER_STEP = 0.015
"""Where a metric is smooth: another step than the program's own."""


def whatif_rows() -> dict[str, Any]:
    """Seconds of the command, once, with everything; resources; the largest relative difference of an elasticity."""
    words = ["whatif", "aime24-best-of-32", "--set", SETS[0], "--format", "json"]
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "simulator.cli", *words], capture_output=True, text=True, cwd=ROOT)
    wall = time.perf_counter() - begun
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    setting = json.loads(done.stdout)["settings"][0]
    rows = setting["elasticities"]
    live = [row for row in rows if not row["idle"] and abs(row["metrics"]["makespan_s"]["value"]) >= 0.01]
    worst = max(_difference(row) for row in live)
    found = {
        "wall_s": wall, "goal_s": GOAL_S, "resources": len(rows), "rates_total": setting["rates_total"],
        "largest_difference": worst,
    }  # fmt: skip
    print(
        f"whatif, elasticities to {len(rows)} resources: {wall:.1f} s (goal {GOAL_S:g} s); those of the time add up to "
        f"{found['rates_total']:.4f}, at most {worst:.2%} from other central differences",
        flush=True,
    )
    return found


def _difference(row: dict[str, Any]) -> float:
    """Between an elasticity of the time and a central difference of two runs, relative."""
    sys.path[:0] = [str(ROOT)]
    from simulator.running import run_scenario
    from workloads.scenario import load_scenario

    e = row["metrics"]["makespan_s"]
    step = OTHER_STEP if e["step"] < 0.05 else e["step"]
    ends, values = [], []
    for factor in (1 + step, 1 - step):
        whole = isinstance(row["value"], int)
        value = round(row["value"] * factor) if whole else row["value"] * factor
        text = f"{row['path']}={value!r} {row['unit']}".strip()
        own = ["gpu.l2.bandwidth=16.72704e12 B/s"] if row["path"] in ("gpu.sms", "gpu.boost_clock") else []
        run = run_scenario(load_scenario("aime24-best-of-32", [*SETS, *own, text]))
        ends.append(math.log(run.summary["makespan_s"]))
        values.append(math.log(value))
    return abs((ends[0] - ends[1]) / (values[0] - values[1]) / e["value"] - 1)
