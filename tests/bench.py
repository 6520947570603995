"""Benchmarks: scenarios A to E, a rack, how work grows, the naive engine, the law's commands, what-ifs, plans, a sweep,
how soon the page of `kinesim explore` follows, the report, start-up. `make bench` prints them and writes bench.json.

Not a test: times depend on the machine. `wall_s` is the simulation alone (the engine), `total_s` with loading,
compiling, drawing the requests and counting. Every row runs in a process of its own, so `peak_rss_mib` is that row's.

    python tests/bench.py [--out bench.json] [--rows A,B,...,law,whatif,plan,sweep,explore,report] [--trace FILE]
                          [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_TRACE = ROOT.parent / "shared" / "data" / "traces" / "reasoning_production_2h.csv"


LONG = ("rack", "million")
"""Rows that are run once."""


def scenario(workload: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Qwen3-8B in bf16 on one H200 under the settings that all rows share."""
    return {
        "name": "bench",
        "gpu": "h200-sxm",
        "model": "Qwen/Qwen3-8B",
        "engine": {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "block_size": 16, "memory_utilisation": 0.9},
        "workload": {"strategy": {"kind": "chat"}, **workload},
    } | changes


def closed(concurrency: int, requests: int, output: int) -> dict[str, Any]:
    arrivals = {"kind": "closed_loop", "concurrency": concurrency}
    return scenario({"requests": requests, "prompt_tokens": 512, "output_tokens": output, "arrivals": arrivals})


def poisson(requests: int, rate: float, replicas: int = 1) -> dict[str, Any]:
    arrivals = {"kind": "poisson", "rate": rate}
    workload = {"requests": requests, "prompt_tokens": 1024, "output_tokens": 512, "arrivals": arrivals}
    return scenario(workload, replicas=replicas)


def rack(requests: int) -> dict[str, Any]:
    """DeepSeek-R1 on 64 GB200: 8 prefill workers of 4 GPUs and a decode worker of 32 (the bundled rack with two prefill
    workers less).
    """
    from workloads.scenario import SCENARIO_FOLDER, read_yaml

    document = dict(read_yaml(SCENARIO_FOLDER / "deepseek-r1-gb200-rack.yaml").data)
    pools = document["disaggregation"]
    arrivals = {"kind": "poisson", "rate": 38.0}
    return document | {
        "disaggregation": {**pools, "prefill": {**pools["prefill"], "replicas": 8}},
        "workload": {**document["workload"], "requests": requests, "arrivals": arrivals},
    }


def rows(trace: Path) -> dict[str, dict[str, Any] | None]:
    """Scenario by row name; None where its trace is absent."""
    uniform = {"kind": "uniform", "low": 2048, "high": 32768}
    return {
        "A": closed(32, 256, 16_384),
        "A_outputs_half": closed(32, 256, 8_192),
        "A_outputs_x2": closed(32, 256, 32_768),
        "B": closed(256, 1_024, 16_384),
        "B_requests_x2": closed(256, 2_048, 16_384),
        "C": scenario(
            {"requests": 1_024, "prompt_tokens": 512, "output_tokens": uniform, "arrivals": {"kind": "all_at_once"}}
        ),
        "D": poisson(2_000, 2.0),
        "D_requests_x2": poisson(4_000, 2.0),
        "E": scenario({"trace": {"path": str(trace)}}, replicas=16, router="round_robin") if trace.exists() else None,
        "rack": rack(100_000),
        "million": poisson(1_000_000, 2_000.0, replicas=1_000),
        "small_fast": closed(8, 64, 512),
        "small_naive": closed(8, 64, 512),
    }


def measure(name: str, trace: Path) -> dict[str, float]:
    """One row, in this process."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "simulator")]
    from simulator.deployment import deploy
    from simulator.running import run_scenario
    from workloads.requests import generate
    from workloads.scenario import load_scenario

    document = rows(trace)[name]
    assert document is not None
    started = time.perf_counter()
    loaded = load_scenario(document)
    if name == "small_naive":
        from naive import simulate_naive

        deployment = deploy(loaded)
        requests = generate(loaded.config.workload, loaded.config.seed)
        begun = time.perf_counter()
        log = simulate_naive(requests, deployment.cost, deployment.params, check_every=10**9)
        wall = time.perf_counter() - begun
        steps = sum(len(replica) for replica in log.steps)
        return {
            "wall_s": wall,
            "total_s": time.perf_counter() - started,
            "peak_rss_mib": _peak_mib(),
            "requests": requests.n,
            "output_tokens": int(log.generated.sum()),
            "events": steps,
            "preemptions": int(log.preemptions.sum()),
            "makespan_s": float(log.finish_s.max()),
        }
    result = run_scenario(loaded)
    summary = result.summary
    return {
        "wall_s": result.timing["wall_s"],
        "total_s": time.perf_counter() - started,
        "peak_rss_mib": _peak_mib(),
        "requests": summary["requests"]["total"],
        "rejected": summary["requests"]["rejected"],
        "output_tokens": summary["tokens"]["output"],
        "events": int(result.timing["events"]),
        "preemptions": summary["requests"]["preemptions"],
        "makespan_s": summary["makespan_s"],
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_process(name: str, trace: Path, repeat: int) -> dict[str, float]:
    """The quickest of `repeat` runs of a row, each in a fresh process."""
    best: dict[str, float] | None = None
    for _ in range(repeat):
        command = [sys.executable, __file__, "--measure", name, "--trace", str(trace)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if best is None or row["wall_s"] < best["wall_s"]:
            best = row
    assert best is not None
    return best


def start_up() -> dict[str, float]:
    """Seconds of `import simulator` and of a bundled run from a cold shell, best of five."""

    def seconds(arguments: list[str]) -> float:
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)
            times.append(time.perf_counter() - begun)
        return min(times)

    return {
        "import_simulator_s": seconds(["-c", "import simulator"]),
        "run_aime24_best_of_32_s": seconds(["-m", "simulator.cli", "run", "aime24-best-of-32"]),
    }


MILLION = """
import time
from hwspecs.gpu import load_gpu
from simulator import law
from workloads.model import load_model
models = [load_model(name) for name in ("qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "qwen3-32b")]
policies = law.options.policies("dense,block_top_k", "1024")
grid = law.Grid(models, [load_gpu("h200-sxm")], policies, range(50, 250, 2), range(1, 11), range(256, 25_601, 256))
assert len(grid) == 1_000_000
begun = time.perf_counter()
law.cost_frame(grid)
print(time.perf_counter() - begun)
"""
POINTS = ["--model", "qwen3-0.6b,qwen3-1.7b,qwen3-4b,qwen3-8b,qwen3-32b", "--attention", "dense,block_top_k"]
POINTS += ["--prompt", "50..248:2", "--trials", "1..10:1", "--tokens", "256..25600:256", "--out", "{out}.parquet"]
LAW: dict[str, tuple[list[str], float]] = {
    "a million points to a data frame": (["-c", MILLION], 2.0),
    "law cost --out, a million points": (["-m", "simulator.cli", "law", "cost", *POINTS], 2.0),
    "law frontier --cost simulated, 2 GPUs": (
        ["-m", "simulator.cli", "law", "frontier", "--cost", "simulated", "--gpu", "h200-sxm,b200-sxm"],
        60.0,
    ),
    "law compare, the ladder": (["-m", "simulator.cli", "law", "compare"], 20.0),
}
"""The law: what a process of its own is told, and the seconds that it may take on two cores. The first prints its own
time, without imports; the others are commands from a cold shell.
"""


def law_rows() -> dict[str, dict[str, float]]:
    """Seconds of each of `LAW`, once, beside the goal."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (arguments, goal) in LAW.items():
            filled = [argument.replace("{out}", f"{folder}/grid") for argument in arguments]
            begun = time.perf_counter()
            done = subprocess.run([sys.executable, *filled], check=True, capture_output=True, text=True, cwd=ROOT)
            wall = float(done.stdout) if arguments[0] == "-c" else time.perf_counter() - begun
            found[name] = {"wall_s": wall, "goal_s": goal}
            print(f"{name:<40}{wall:>9.2f} s, goal {goal:g} s", flush=True)
    return found


SWEEP = """
name: {name}
base: chat-poisson
set: {{workload.requests: 100}}
vary:
  gpu.memory.bandwidth: 4..16 TB/s:lin20
  engine.max_num_seqs: 16..256:x2
  workload.arrivals.rate: 1..20 /s:lin100
limit: {count}
"""


def sweep_rows() -> dict[str, dict[str, float]]:
    """Seconds of `kinesim sweep` over 10,000 small scenarios on two workers, and of 1,000 of them on one and on two."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, count, workers in (("all", 10_000, 2), ("one", 1_000, 1), ("two", 1_000, 2)):
            Path(folder, f"{name}.yaml").write_text(SWEEP.format(name=name, count=count))
            command = ["-m", "simulator.cli", "sweep", f"{folder}/{name}.yaml", "--out", f"{folder}/{name}"]
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, *command, "--workers", str(workers)], check=True, capture_output=True, cwd=ROOT
            )
            wall = time.perf_counter() - begun
            found[name] = {"scenarios": count, "workers": workers, "wall_s": wall}
            print(f"{f'sweep, {count:,} on {workers} workers':<40}{wall:>9.2f} s", flush=True)
    found["all"]["goal_s"] = 600.0
    speed_up = found["one"]["wall_s"] / found["two"]["wall_s"]
    print(f"{'sweep, from 1 to 2 workers':<40}{speed_up:>9.2f} x as fast", flush=True)
    found["two"]["speed_up"] = speed_up
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--rows", help="comma-separated names; all by default")
    parser.add_argument("--trace", type=Path, default=DEFAULT_TRACE, help="production trace of row E")
    parser.add_argument("--repeat", type=int, default=3, help="runs of the short rows; the quickest counts")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.trace)))
        return
    table = rows(options.trace)
    wanted = (
        options.rows.split(",") if options.rows else [*table, "law", "whatif", "plan", "sweep", "explore", "report"]
    )
    results: dict[str, Any] = {}
    head = ("wall s", 9), ("total s", 9), ("RSS MiB", 9), ("requests", 10), ("events", 11), ("preempt.", 10)
    print(f"{'row':<16}" + "".join(f"{name:>{width}}" for name, width in (*head, ("makespan s", 13))))
    for name in wanted:
        if name in ("law", "whatif", "plan", "sweep", "explore", "report"):
            continue
        if table[name] is None:
            print(f"{name:<16}skipped: no trace at {options.trace}")
            continue
        row = results[name] = in_process(name, options.trace, 1 if name in LONG else options.repeat)
        print(
            f"{name:<16}{row['wall_s']:>9.3f}{row['total_s']:>9.3f}{row['peak_rss_mib']:>9.0f}{row['requests']:>10,}"
            f"{row['events']:>11,}{row['preemptions']:>10,}{row['makespan_s']:>13,.1f}",
            flush=True,
        )
    for label, over, under in (
        ("outputs x2, A/2", "A", "A_outputs_half"),
        ("outputs x2, A", "A_outputs_x2", "A"),  # its KV no longer fits: this one preempts
        ("requests x2, B", "B_requests_x2", "B"),
        ("requests x2, D", "D_requests_x2", "D"),
        ("naive over fast", "small_naive", "small_fast"),
    ):
        if over in results and under in results:
            print(f"{label:<16}{results[over]['wall_s'] / results[under]['wall_s']:>9.2f} x the wall")
    if "law" in wanted:
        results["law"] = law_rows()
    if "whatif" in wanted:
        from whatifspeed import whatif_rows

        results["whatif"] = whatif_rows()
    if "plan" in wanted:
        from planspeed import plan_rows

        results["plan"] = plan_rows(options.trace)
    if "sweep" in wanted:
        results["sweep"] = sweep_rows()
    if "explore" in wanted:
        from explorelatency import explore_rows

        results["explore"] = explore_rows()
    if "report" in wanted:
        from reportspeed import report_rows

        results["report"] = report_rows(options.trace)
    results["start_up"] = start_up()
    print(", ".join(f"{key} {value:.2f}" for key, value in results["start_up"].items()))
    temporary = options.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1))
    os.replace(temporary, options.out)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
