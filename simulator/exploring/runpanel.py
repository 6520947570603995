"""What the page shows of a simulation in the background."""

from __future__ import annotations

import time
from typing import Any

from simulator.exploring.runs import Run
from simulator.headline import metric
from simulator.printing import duration
from simulator.reporting.amounts import amount
from simulator.reporting.markup import Markup, element, join

SHOWN = (
    "makespan_s", "ttft_s.mean", "ttft_s.p99", "tpot_s.mean", "tpot_s.p99", "output_tokens_per_s_per_gpu",
    "gpu_hours", "usd", "usd_per_million_output_tokens", "energy_j", "goodput_share", "mean_decode_seqs",
    "preemptions", "kv_peak_use", "solved", "usd_per_solved",
)  # fmt: skip
"""Of the headline's metrics; those that a run does not have are left out."""
GONE = "The simulation is gone: nobody had asked about it for too long, or the server was started anew."


def run_panel(name: str, run: Run | None) -> dict[str, Any]:
    """`panel`, HTML, and whether it still runs."""
    if run is None:
        return {"running": False, "panel": element("p", GONE, class_="warning")}
    if run.problem is not None:
        return {"running": False, "panel": element("p", run.problem, class_="warning")}
    if run.found is None:
        return {"running": True, "panel": _bar(run)}
    return {"running": False, "panel": _found(name, run.query, run.found)}


def _bar(run: Run) -> Markup:
    done, total = run.done, run.total
    words = f"{done:,} of {total:,} requests" if total else "starting"
    return element(
        "p",
        element("label", f"Simulating: {words}, {duration(time.monotonic() - run.started)} ",
                element("progress", value=done if total else None, max=total or None)),
        class_="said",
    )  # fmt: skip


def _found(name: str, query: str, found: dict[str, Any]) -> Markup:
    interval = found["interval"] or {}
    spreads = {"makespan_s": interval.get("makespan_s"), "tpot_s.mean": interval.get("tpot_s")}
    tiles = []
    for key in SHOWN:
        value = found["headline"].get(key)
        if value is None:
            continue
        spread = spreads.get(key)
        more = spread and element("small", f"80 % interval {duration(spread[0])} to {duration(spread[1])}")
        tiles.append(element("div", element("dt", metric(key).title), element("dd", amount(key, value), more)))
    return join([
        element("h2", "The whole simulation"),
        element("dl", tiles, class_="cards small"),
        element("ul", (element("li", note) for note in found["notes"]), class_="notes") if found["notes"] else None,
        element("p", element("a", "Open the report", href=f"/report/{name}", target="_blank"), ". Of ",
                element("a", "this state", href=f"/?{query}"), " of the controls, simulated in ",
                duration(found["wall_s"]), ".", class_="said"),
    ])  # fmt: skip
