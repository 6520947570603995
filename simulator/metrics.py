"""The numbers of a report, computed from what a run recorded. Definitions (time in seconds):

- TTFT: first token minus submission. E2E: final minus submission. TPOT: (E2E - TTFT) / (tokens - 1).
- ITL: time between two tokens of a request; a preemption makes a long one.
- goodput: finished requests that meet every stated objective, per second, and their share of all requests but those
  that early stopping ended.
- makespan: from the first submission until every request is final.
- latencies are over all requests but rejected ones; those of aborted ones end with their abort.
- MFU, MBU: FLOPs and HBM bytes of the work done over what the GPUs could do in the makespan.
- GPU-hours: all GPUs of the deployment for the makespan.
- energy: `power`, that of the board awake between kernels included; equivalent FLOPs: `law`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwspecs.gpu import Gpu
from simulator import law
from simulator.accounting import OperatorTotals
from simulator.latency import all_itl, find_stalls
from simulator.policy import Status
from simulator.power import joules
from simulator.timeline import Timeline

QUANTILES = (0.5, 0.9, 0.99)


def distribution(values: np.ndarray) -> dict[str, float | None]:
    """mean, p50, p90, p99 and max of finite `values`; None where there are none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return dict.fromkeys(("mean", "p50", "p90", "p99", "max"))
    p50, p90, p99 = np.quantile(values, QUANTILES)
    return {
        "mean": float(values.mean()),
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "max": float(values.max()),
    }


def request_times(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """TTFT, TPOT and E2E of every request (NaN where it has none)."""
    ttft = columns["first_token_s"] - columns["submitted_s"]
    e2e = columns["finish_s"] - columns["submitted_s"]
    e2e = np.where(columns["status"] == Status.REJECTED, np.nan, e2e)
    tokens = columns["generated"]
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot = np.where(tokens > 1, (e2e - ttft) / (tokens - 1), np.nan)
    return {"ttft_s": ttft, "tpot_s": tpot, "e2e_s": e2e}


def summarise(
    columns: dict[str, np.ndarray],
    timeline: Timeline,
    gaps: np.ndarray,
    operators: list[OperatorTotals],
    *,
    gpu: Gpu,
    dtype: str,
    replicas: int,
    gpus_each: int,
    kv_blocks: int,
    block_size: int,
    peak_blocks: np.ndarray,
    objective: dict[str, float | None] | None,
    stop_on_accept: bool,
    prefill_first: bool = False,
    granted: float = 1.0,
) -> dict[str, Any]:
    """The `summary` of a result; keys are the metrics' names with units, nested by theme."""
    status, generated = columns["status"], columns["generated"]
    finished = status == Status.FINISHED
    times = request_times(columns)
    served = status != Status.REJECTED
    makespan = float(columns["finish_s"].max() - columns["submitted_s"].min())
    gpus = replicas * gpus_each
    tokens = int(generated.sum())
    busy = float(timeline["duration_s"].sum())
    stalls = None
    if prefill_first:
        stalls = find_stalls(timeline, gaps, columns["replica"], columns["first_token_s"], columns["finish_s"])
    itl_mean, itl = all_itl(timeline, gaps, (*QUANTILES, 1.0), stalls, granted)
    flops = gpus_each * sum(op.flops for op in operators)
    hbm = gpus_each * sum(op.hbm_bytes for op in operators)
    energy = gpus_each * sum(op.energy for op in operators) + gpus * makespan * joules(gpu).awake
    hours = gpus * makespan / 3600
    span = max(makespan, 1e-300)
    decode_steps = timeline["steps"] * (timeline["decode_seqs"] > 0)
    summary: dict[str, Any] = {
        "requests": {
            "total": len(status),
            "finished": int(finished.sum()),
            "aborted": int((status == Status.ABORTED).sum()),
            "rejected": int((status == Status.REJECTED).sum()),
            "preemptions": int(columns["preemptions"].sum()),
        },
        "tokens": {
            "prompt": int(columns["prompt_tokens"][served].sum()),
            "output": tokens,
            "prefilled": int(timeline["prefill_tokens"].sum()),
            "prefix_hit": int(columns["prefix_hit_tokens"].sum()),
        },
        "makespan_s": makespan,
        "output_tokens_per_s": tokens / span,
        "output_tokens_per_s_per_gpu": tokens / span / gpus,
        "requests_per_s": float(finished.sum()) / span,
        "latency": {name: distribution(values[served]) for name, values in times.items()}
        | {"itl_s": {"mean": _none(itl_mean)} | dict(zip(("p50", "p90", "p99", "max"), map(_none, itl), strict=True))},
        "batch": {
            "steps": int(timeline["steps"].sum()),
            "macro_steps": len(timeline),
            "mean_decode_seqs": _ratio((timeline["decode_seqs"] * timeline["duration_s"]).sum(), busy),
            "mean_step_s": _ratio(timeline["duration_s"].sum(), timeline["steps"].sum()),
            "decode_step_share": _ratio(decode_steps.sum(), timeline["steps"].sum()),
        },
        "kv": {
            "blocks": kv_blocks,
            "peak_use": float(peak_blocks.max() / kv_blocks),
            "mean_use": _ratio((_mean_blocks(timeline, block_size) * timeline["duration_s"]).sum(), busy * kv_blocks),
        },
        "utilisation": {
            "busy": busy / (replicas * span),
            "mfu": flops / (gpu.peak[dtype] * gpus * span),
            "mbu": hbm / (gpu.memory.bandwidth * gpus * span),
        },
        "cost": {
            "gpus": gpus,
            "gpu_hours": hours,
            "usd": hours * gpu.price.usd_per_hour if gpu.price else None,
            "usd_per_million_output_tokens": hours * gpu.price.usd_per_hour / tokens * 1e6
            if gpu.price and tokens
            else None,
            "energy_j": energy,
            "mean_power_w_per_gpu": energy / span / gpus,
            "joules_per_output_token": energy / tokens if tokens else None,
        },
        "work": {"flops": flops, "hbm_bytes": hbm, "eflops": flops + hbm * gpu.peak[dtype] / gpu.memory.bandwidth},
        "seconds_by_bound": _by_bound(operators),
    }
    if objective:
        counted = ~stopped_early(columns) if stop_on_accept else np.ones(len(status), dtype=bool)
        summary["goodput"] = _goodput(times, finished, counted, objective, span)
    return summary


def law_eflops(
    columns: dict[str, np.ndarray], model: law.LawModel, attention: Any, ratio: float, kv_bytes: float
) -> dict[str, float]:
    """The Kinetics law for the tokens that were generated: parameters, attention compute and memory, in equivalent
    FLOPs.

    Windows count as a budget without search, an indexer as one with. With dense attention the prompt's KV is read once
    for the trials of a problem, as the law has it.
    """
    a, n = columns["prompt_tokens"].astype(float), columns["generated"].astype(float)
    cap = attention.decode_cap(None)
    if model.budget is not None:
        cost, shared = law.indexed(model, a, n, ratio, kv_bytes), 0.0
    elif cap is None:
        cost = law.dense(model, a, n, ratio, kv_bytes)
        jobs = columns["job"]
        longest = np.zeros(int(jobs.max()) + 1)
        np.maximum.at(longest, jobs, n)
        n_all = np.bincount(jobs, weights=n)
        prompt = np.zeros(len(longest))
        prompt[jobs] = a
        shared = float(law.shared_prompt_bytes(model, prompt, n_all, longest, kv_bytes).sum())
    else:
        page = attention.page
        cost = (
            law.top_k(model, a, n, cap, ratio, kv_bytes)
            if page is None
            else law.block_top_k(model, a, n, cap, page, ratio, kv_bytes)
        )
        shared = 0.0
    memory = float((cost.attention_bytes.sum() - shared) * ratio)
    parameters, compute = float(cost.parameter_flops.sum()), float(cost.attention_flops.sum())
    return {
        "parameters": parameters,
        "attention_compute": compute,
        "attention_memory": memory,
        "total": parameters + compute + memory,
    }


def by_problem(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Best-of-N: per problem the submission, the times to its first accepted and to its last final sample, and tokens.

    `first_accepted_s` is NaN where no finished sample was accepted.
    """
    jobs = columns["job"]
    count = int(jobs.max()) + 1
    finish, submitted = columns["finish_s"], columns["submitted_s"]
    start = np.full(count, np.inf)
    np.minimum.at(start, jobs, submitted)
    last = np.full(count, -np.inf)
    np.maximum.at(last, jobs, finish)
    good = _accepted(columns)
    first = np.full(count, np.inf)
    np.minimum.at(first, jobs[good], finish[good])
    return {
        "submitted_s": start,
        "first_accepted_s": np.where(np.isfinite(first), first - start, np.nan),
        "last_s": last - start,
        "samples": np.bincount(jobs),
        "finished": np.bincount(jobs, weights=columns["status"] == Status.FINISHED).astype(np.int64),
        "accepted": np.bincount(jobs, weights=good).astype(np.int64),
        "output_tokens": np.bincount(jobs, weights=columns["generated"]).astype(np.int64),
    }


def stopped_early(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Which requests were aborted because another sample of their problem had been accepted."""
    jobs = columns["job"]
    solved = np.bincount(jobs, weights=_accepted(columns)) > 0
    return (columns["status"] == Status.ABORTED) & solved[jobs]


def _accepted(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Which requests finished with an output that is accepted."""
    return (columns["status"] == Status.FINISHED) & columns["accepted"].astype(bool)


def _mean_blocks(timeline: Timeline, block_size: int) -> np.ndarray:
    """Blocks in use in the middle of each run: the decoding sequences grow by a token a step."""
    return timeline["kv_blocks"] + timeline["decode_seqs"] * (timeline["steps"] - 1) / (2 * block_size)


def _goodput(
    times: dict[str, np.ndarray],
    finished: np.ndarray,
    counted: np.ndarray,
    objective: dict[str, float | None],
    span: float,
) -> dict[str, Any]:
    met = finished.copy()
    for name, limit in objective.items():
        if limit is not None:
            values = times[f"{name}_s"]
            met &= np.isnan(values) | (values <= limit)  # a single token has no TPOT
    return {
        "objective_s": objective,
        "requests": int(met.sum()),
        "share": float(met.sum() / max(1, counted.sum())),
        "requests_per_s": float(met.sum()) / span,
    }


def _by_bound(operators: list[OperatorTotals]) -> dict[str, float]:
    total: dict[str, float] = {}
    for op in operators:
        for bound, seconds in op.by_bound.items():
            total[bound] = total.get(bound, 0.0) + seconds
    return total


def _ratio(a: float, b: float) -> float | None:
    return float(a / b) if b else None


def _none(value: float) -> float | None:
    return value if np.isfinite(value) else None
