"""The `Result` of a run with prefill and decode workers of their own: `assemble` for each pool, and what passed between
them.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from simulator import metrics
from simulator.accounting import host_seconds
from simulator.assemble import facts_of, notes_of, of_workload, request_columns, workers_of
from simulator.deployment import Deployment
from simulator.engine import Passages, RunLog
from simulator.fleet import Fleet
from simulator.interval import run_interval
from simulator.policy import SECONDS_PER_TICK
from simulator.result import Result, plain
from workloads.disaggregation import POOLS
from workloads.requests import Requests


def build_pools_result(
    fleet: Fleet, requests: Requests, log: RunLog, *, wall_s: float, started: float, factor: float = 1.0
) -> Result:
    """Assemble the result of a run; `factor` as of `assemble.build_result`."""
    passages, scenario = log.passages, fleet.scenario
    assert passages is not None
    config = scenario.config
    made: dict[str, Deployment] = dict(zip(POOLS, (fleet.prefill, fleet.decode), strict=True))
    columns = request_columns(requests, log) | {
        "prefill_worker": passages.worker,
        "prefilled_s": passages.prefilled_s,
        "reserved_s": passages.reserved_s,
        "sent_s": passages.sent_s,
        "arrived_s": passages.arrived_s,
        "joined_s": passages.joined_s,
    }
    prefill = log.timeline["replica"] < passages.workers
    lines = dict(zip(POOLS, (log.timeline.select(prefill), log.timeline.select(~prefill)), strict=True))
    peaks = dict(zip(POOLS, np.split(log.peak_blocks, [passages.workers]), strict=True))
    workers = {name: workers_of(made[name], lines[name], peaks[name], factor) for name in POOLS}
    advance = fleet.decode.cost.advance
    summary = metrics.summarise(
        columns,
        log.timeline,
        log.gaps,
        list(workers.values()),
        objective=config.objective.model_dump() if config.objective else None,
        stop_on_accept=requests.stop_on_accept,
        speculation=advance.drafted > 0,
    )
    span = max(summary["makespan_s"], 1e-300)
    pools: dict[str, dict[str, Any]] = {}
    for name in POOLS:
        host = host_seconds(made[name].cost, lines[name], factor)
        use = metrics.utilisation([workers[name]], span)
        pools[name] = {
            "workers": workers[name].replicas,
            "gpus": workers[name].gpus,
            "batch": workers[name].batch(),
            "kv": workers[name].kv(),
            "utilisation": use,
            "energy_j": workers[name].energy(summary["makespan_s"]),
            "host_s": host,
            "interval": run_interval(
                made[name].cost,
                workers[name].operators,
                makespan=None,
                busy=use["busy"],
                tpot=summary["latency"]["tpot_s"]["mean"] if name == "decode" else None,
                host=host,
                timeline=lines[name],
            ),
        }
    host = sum(pool["host_s"] * workers[name].gpus_each for name, pool in pools.items())
    if host:
        summary["seconds_by_bound"]["host"] = host
    summary["interval"] = pools["decode"]["interval"]
    summary |= of_workload(fleet.decode, columns)
    summary["pools"] = pools
    summary["transfers"] = _transfers(fleet, requests, passages)
    timing = {"wall_s": wall_s, "total_s": time.perf_counter() - started, "events": float(log.events)}
    return Result(
        scenario=scenario.to_dict(),
        deployment=_facts(fleet, made),
        summary=plain(summary),
        operators=[{"pool": name} | plain(asdict(op)) for name in POOLS for op in workers[name].operators],
        notes=_notes(fleet, made, summary),
        requests=columns,
        timeline=log.timeline,
        gaps=log.gaps,
        timing=timing,
    )


def _transfers(fleet: Fleet, requests: Requests, passages: Passages) -> dict[str, Any]:
    """What passed between the pools, and how long requests waited for it.

    `bytes` are those that the GPUs of decode workers received; `send_s` is from first to last of a transfer, without
    what was sent before the prompt was computed; `wait_for_place_s` from the end of the prompt until the decode worker
    set KV aside for it (with decode_first that is before); `wait_for_lane_s` from then until the transfer begins;
    `held_s` is how long a prefill worker kept the KV of a prompt that it had computed.
    """
    sent, arrived = fleet.sent, np.isfinite(passages.arrived_s)
    tokens = int(requests.prompt_tokens[arrived].sum())
    each = sent.token_bytes * tokens + sent.request_bytes * int(arrived.sum())
    wait = np.maximum(passages.reserved_s - passages.prefilled_s, 0.0)
    free = np.fmax(passages.reserved_s, passages.prefilled_s)
    return {
        "requests": int(arrived.sum()),
        "bytes": each * sent.copies,
        "send_s": metrics.distribution(passages.arrived_s - passages.sent_s),
        "wait_for_place_s": metrics.distribution(wait),
        "wait_for_lane_s": metrics.distribution(passages.sent_s - free),
        "held_s": metrics.distribution(passages.arrived_s - passages.prefilled_s),
    }


def _facts(fleet: Fleet, made: dict[str, Deployment]) -> dict[str, Any]:
    """Those of the decode workers, and of each pool; and the link."""
    wire, plan = fleet.scenario.wire, fleet.handover
    assert wire is not None
    pools = {}
    for name, deployment in made.items():
        facts = facts_of(deployment)
        del facts["model"]
        pools[name] = {"layout": str(deployment.graph.layout), "gpus_each": deployment.graph.layout.gpus} | facts
    return facts_of(fleet.decode) | {
        "pools": pools,
        "transfer": {
            "link": wire.name,
            "bandwidth": min(wire.bandwidth),
            "latency_s": wire.latency,
            "token_bytes": fleet.sent.token_bytes * fleet.sent.copies,
            "request_bytes": fleet.sent.request_bytes * fleet.sent.copies,
            "token_s": plan.token_ticks * SECONDS_PER_TICK,
            "order": plan.order,
            "first_token": plan.first_token,
            "overlap": plan.overlap,
        },
    }


def _notes(fleet: Fleet, made: dict[str, Deployment], summary: dict[str, Any]) -> list[str]:
    """Those of both pools, each of one with its name; and what is assumed of the transfers."""
    nothing = {"rejected": 0, "preemptions": 0}
    each = {
        name: notes_of(
            deployment,
            {
                "interval": summary["pools"][name]["interval"],
                "requests": summary["requests"] if name == "decode" else nothing,
            },
        )
        for name, deployment in made.items()
    }
    common = [note for note in each["decode"] if note in each["prefill"]]
    notes = [f"{name} workers: {note}" for name in POOLS for note in each[name] if note not in common] + common
    wire, transfers = fleet.scenario.wire, summary["transfers"]
    assert wire is not None
    link = {"given": "the bandwidth given", "nvlink": "the GPUs' own link"}.get(wire.name, "each GPU's network")
    notes.append(
        f"transfers of KV take {link} at its nominal rate ({min(wire.bandwidth) / 1e9:,.0f} GB/s a GPU and direction), "
        "one after the other on a rank of a worker: an assumption, nothing of it was measured"
    )
    held = transfers["wait_for_place_s"]["mean"]
    if held and held > 0.1 * (summary["latency"]["ttft_s"]["mean"] or 0.0):
        notes.append(
            "decode workers are full: computed prompts wait for a KV reservation there, on the prefill workers"
        )
    return notes
