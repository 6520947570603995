"""From what the engine recorded to a `Result`: the summary, the operators' totals, the facts and notes beside them."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from hwspecs.dtypes import BYTES
from hwspecs.gpu import Gpu, list_gpus, load_gpu
from simulator import law, metrics
from simulator.accounting import host_seconds, operator_totals
from simulator.calibrated import Calibrated
from simulator.deployment import Deployment
from simulator.engine import RunLog
from simulator.interval import run_interval
from simulator.result import Result, plain
from simulator.selection import ANY, ENGINES, TRANSFER, same_figures
from simulator.selection import engine as engine_name
from simulator.timeline import Timeline
from workloads.attention import SlidingWindow
from workloads.engine import NO_ENGINE, engine_set
from workloads.requests import Requests

CLOSED = ("all_at_once", "closed_loop")
"""Arrivals that leave it to the kernels how long a run takes."""


def build_result(
    deployment: Deployment, requests: Requests, log: RunLog, *, wall_s: float, started: float, factor: float = 1.0
) -> Result:
    """Assemble the result of a run, whose steps took `factor` times as long as the deployment's cost says."""
    scenario, cost = deployment.scenario, deployment.cost
    config = scenario.config
    columns = request_columns(requests, log)
    workers = workers_of(deployment, log.timeline, log.peak_blocks, factor)
    summary = metrics.summarise(
        columns,
        log.timeline,
        log.gaps,
        [workers],
        objective=config.objective.model_dump() if config.objective else None,
        stop_on_accept=requests.stop_on_accept,
        prefill_first=deployment.params.prefill == "first",
        speculation=cost.queries > 1,
    )
    host = host_seconds(cost, log.timeline, factor)
    if host:
        summary["seconds_by_bound"]["host"] = host
    arrivals = config.workload.arrivals
    summary["interval"] = run_interval(
        cost,
        workers.operators,
        makespan=summary["makespan_s"] if arrivals is not None and arrivals.kind in CLOSED else None,
        busy=summary["utilisation"]["busy"],
        tpot=summary["latency"]["tpot_s"]["mean"],
        host=host,
        timeline=log.timeline,
    )
    summary |= of_workload(deployment, columns)
    timing = {"wall_s": wall_s, "total_s": time.perf_counter() - started, "events": float(log.events)}
    return Result(
        scenario=scenario.to_dict(),
        deployment=facts_of(deployment),
        summary=plain(summary),
        operators=[plain(asdict(op)) for op in workers.operators],
        notes=notes_of(deployment, summary),
        requests=columns,
        timeline=log.timeline,
        gaps=log.gaps,
        timing=timing,
    )


def request_columns(requests: Requests, log: RunLog) -> dict[str, np.ndarray]:
    """The columns of REQUEST_COLUMNS."""
    return {
        "job": requests.job,
        "prompt_tokens": requests.prompt_tokens,
        "output_tokens": requests.output_tokens,
        "priority": requests.priority,
        "session": requests.session,
        "accepted": requests.accepted,
        "status": log.status,
        "replica": log.replica,
        "submitted_s": log.submitted_s,
        "first_token_s": log.first_token_s,
        "finish_s": log.finish_s,
        "generated": log.generated,
        "preemptions": log.preemptions,
        "prefix_hit_tokens": log.prefix_hit_tokens,
    }


def workers_of(
    deployment: Deployment, timeline: Timeline, peak_blocks: np.ndarray, factor: float = 1.0
) -> metrics.Workers:
    """What the replicas of a deployment did, whose rows `timeline` has; `factor` as of `build_result`."""
    gpu, memory = deployment.scenario.gpu, deployment.memory
    return metrics.Workers(
        timeline,
        operator_totals(deployment.cost, timeline, factor),
        gpu,
        deployment.graph.main_dtype(gpu.peak),
        deployment.scenario.config.replicas,
        deployment.graph.layout.gpus,
        memory.kv_blocks,
        memory.block_size,
        peak_blocks,
    )


def of_workload(deployment: Deployment, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """The parts of a summary that speak of the requests alone: the Kinetics law for them, and problems."""
    config, gpu = deployment.scenario.config, deployment.scenario.gpu
    ratio = gpu.peak[deployment.graph.main_dtype(gpu.peak)] / gpu.memory.bandwidth
    model = law.law_model(deployment.scenario.model, config.precision.kv)
    found: dict[str, Any] = {
        "kinetics_law_eflops": metrics.law_eflops(columns, model, config.attention, ratio, BYTES[config.precision.kv])
    }
    if config.workload.strategy.kind == "best_of_n":
        problems = metrics.by_problem(columns)
        found["problems"] = {
            "total": len(problems["samples"]),
            "solved": int((problems["accepted"] > 0).sum()),
            "first_accepted_s": metrics.distribution(problems["first_accepted_s"]),
            "last_s": metrics.distribution(problems["last_s"]),
        }
    return found


def facts_of(deployment: Deployment) -> dict[str, Any]:
    """What served, and what its times rest on."""
    gpu, model, profile = deployment.scenario.gpu, deployment.scenario.model, deployment.profile
    return {
        "gpu": _gpu_facts(gpu, deployment.graph.main_dtype(gpu.peak)),
        "model": {
            "name": model.name,
            "parameters": model.parameters,
            "active_parameters": model.active_parameters,
            "kv_bytes_per_token": model.kv_bytes_per_token(deployment.scenario.config.precision.kv),
        },
        "memory": asdict(deployment.memory),
        "profile": {"name": profile.name, "description": profile.description, "fitted_on": profile.fitted_on},
    }


def _gpu_facts(gpu: Any, dtype: str) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "title": gpu.title,
        "status": gpu.status,
        "peak_flops": gpu.peak[dtype],
        "peak_dtype": dtype,
        "memory_bandwidth": gpu.memory.bandwidth,
        "memory_capacity": gpu.memory.capacity,
        "ridge_point": gpu.ridge_point(dtype),
        "tdp_w": gpu.power.tdp,
        "usd_per_hour": gpu.price.usd_per_hour if gpu.price else None,
        "price_date": gpu.price.date if gpu.price else None,
    }


def _profile_notes(deployment: Deployment, summary: dict[str, Any]) -> list[str]:
    """What the times rest on."""
    gpu, profile = deployment.scenario.gpu, deployment.profile
    if not isinstance(profile, Calibrated):
        if profile.name == "ideal":
            return ["profile ideal: a lower bound on the time, not a prediction"]
        return [f"profile {profile.name}: not fitted to {gpu.name}; no error interval is known"]
    selection, notes = profile.selection, []
    if selection.tier == "sibling":
        notes.append(
            f"transferred: nothing was measured on {gpu.name}; kernels of {selection.anchor} were carried to "
            "its figures"
        )
    elif selection.tier == "foreign":
        source = "those of all measured GPUs, pooled" if selection.anchor is None else f"those of {selection.anchor}"
        notes.append(f"transferred: nothing like {gpu.name} was measured; its kernels are {source}, at its figures")
    kernels = summary["interval"]["kernels"] if summary["interval"] else []
    for status, text, found in (
        ("extrapolated", "used outside of the shapes that were measured", [k for k in kernels if k["outside"]]),
        ("transferred", "of another software, version or format stands in", _stand_ins(profile, kernels)),
    ):
        shares: dict[tuple[str, str], float] = {}
        for k in found:
            key = f"{k['kind']} {k['format'].replace(ANY, '')}".strip(), k["profile"]
            shares[key] = shares.get(key, 0.0) + k["share"]
        named = [(*key, share) for key, share in shares.items() if share > 0.02]
        if named:
            names = ", ".join(f"{kernel} ({of}, {share:.0%} of the time)" for kernel, of, share in named)
            notes.append(f"{status}: a kernel {text}: {names}")
    assumed = sum(k["share"] for k in kernels if k["status"] == "assumed")
    if assumed > 0.005:
        notes.append(f"{assumed:.0%} of the kernel time is in operators that nobody measured, timed by a rule of thumb")
    return notes


def _stand_ins(profile: Calibrated, kernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kernels that stand for others on the GPU itself; on one that kernels were carried to, of those another
    engine's alone, since all are carried.
    """
    selection = profile.selection
    if selection.tier == "exact":
        return [k for k in kernels if k["status"] == "transferred"]
    if selection.software is None:
        return []
    asked = engine_name(selection.software)
    # All-reduces with the norm in them are one engine's, and others call it.
    shared = "collective" if profile.reduces is not selection else ""
    return [k for k in kernels if k["kind"] != shared and _engine_of(k) in set(ENGINES) - {asked}]


def _engine_of(kernel: dict[str, Any]) -> str:
    """Whose kernel an entry of the interval is; empty of what is pooled over engines."""
    if kernel["profile"] == TRANSFER:
        return kernel["kernel"].partition(" ")[2]
    return engine_name(kernel["profile"].split("@")[-1])


def _fewer_sms(gpu: Gpu) -> bool:
    """Whether the SMs were changed and the peaks were not."""
    base = load_gpu(gpu.base) if gpu.base in list_gpus() else None
    return base is not None and base.sms != gpu.sms and base.peak == gpu.peak


def _routing_note(skew: float, groups: int) -> str:
    """How the experts of an MoE are taken to be hit."""
    words = "experts are assumed to be hit uniformly"
    if skew:
        words = f"experts are assumed to be hit in proportion to rank^-{skew:g} (parallelism.routing_skew)"
    return words + ("; all GPUs wait for the one whose experts get the most" if groups > 1 else "")


def notes_of(deployment: Deployment, summary: dict[str, Any]) -> list[str]:
    """What has to be said beside the numbers."""
    gpu, model = deployment.scenario.gpu, deployment.scenario.model
    attention, layout = deployment.scenario.config.attention, deployment.graph.layout
    notes = []
    notes += _profile_notes(deployment, summary)
    engine = deployment.scenario.config.engine
    if engine.name != NO_ENGINE:
        note = engine_set(engine.name, engine.version).note
        notes += [note] if note else []
    elif isinstance(deployment.profile, Calibrated):
        notes.append("no engine is named: its host takes no time, and nothing is fused or padded (engine.name)")
    if gpu.status == "announced":
        notes.append(f"{gpu.name} is announced, not measured: its figures are the vendor's promises or estimates")
    if gpu.l2.bandwidth < 1.5 * gpu.memory.bandwidth:
        notes.append(
            f"the L2 of {gpu.name} gives {gpu.l2.bandwidth / 1e12:.3g} TB/s, hardly more than its memory; without an "
            "l2.bandwidth it is taken as 64 B a clock and SM"
        )
    if _fewer_sms(gpu):
        notes.append(f"{gpu.name} has other SMs than {gpu.base} but its FLOP/s: give gpu.peak too if they go together")
    if gpu.base is not None and not (gpu.base in list_gpus() and same_figures(gpu, load_gpu(gpu.base))):
        notes.append(f"{gpu.name} is hypothetical: {gpu.base} with other figures, at its price if no other is given")
    said = deployment.scenario.config.speculation
    if said is not None:
        advance = deployment.cost.advance
        notes.append(
            f"speculation ({said.method}): {said.tokens} drafted tokens a step, of which "
            f"{advance.step / advance.unit - 1:.2f} are accepted in the mean; every sequence gets this mean in each"
        )
    if model.moe is not None:
        notes.append(_routing_note(deployment.graph.routing_skew, layout.expert))
    if layout.gpus > gpu.link.domain and gpu.scale_out is not None:
        notes.append(
            f"a replica lies in several domains of {gpu.link.domain} GPUs: what passes between them rests on the "
            f"figures of their {gpu.scale_out.kind} adapters, not on measurements"
        )
    if gpu.link.kind == "infinity-fabric" and 1 < layout.gpus < gpu.link.domain:
        notes.append("tensor parallelism below the whole domain uses only some of the links of a GPU: not modelled")
    kept = engine.memory is None or engine.memory.windows == 1
    if isinstance(attention, SlidingWindow) or (kept and any(model.layer_windows)):
        notes.append("KV outside of a sliding window is kept, as in an engine without a KV allocator for windows")
    memory = deployment.memory
    if memory.max_seqs < engine.max_num_seqs:
        notes.append(
            f"the states of linear attention leave room for {memory.max_seqs} sequences of a rank, fewer than "
            f"engine.max_num_seqs = {engine.max_num_seqs}"
        )
    if "text_config" in model.config:
        notes.append(f"{model.name} as a language model: what turns pictures into tokens is left out")
    rejected = summary["requests"]["rejected"]
    if rejected:
        notes.append(
            f"{rejected} requests longer than max_model_len = {deployment.params.max_model_len} tokens "
            "were rejected on arrival"
        )
    preemptions = summary["requests"]["preemptions"]
    if preemptions:
        notes.append(f"KV cache too small for the batch: {preemptions} preemptions; their tokens were computed again")
    if gpu.price is None:
        notes.append(f"{gpu.name} has no price: cost in money is not given")
    return notes
