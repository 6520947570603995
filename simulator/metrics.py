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

from collections.abc import Sequence
from dataclasses import dataclass
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


def token_gaps(
    columns: dict[str, np.ndarray],
    timeline: Timeline,
    gaps: np.ndarray,
    quantiles: tuple[float, ...],
    prefill_first: bool,
    speculation: bool,
) -> tuple[float, list[float]]:
    """Mean and quantiles of the ITL of all tokens, seconds; NaN where there are none.

    `prefill_first`, `speculation` : whether the engine prefills before it decodes on, and whether a step may give a
    sequence several tokens.
    """
    joined = columns.get("joined_s")
    stalls = None
    if prefill_first or joined is not None:
        stalls = find_stalls(timeline, gaps, columns["replica"], columns["first_token_s"], columns["finish_s"], joined)
    number = float(np.maximum(columns["generated"] - 1, 0).sum()) if speculation else None
    return all_itl(timeline, gaps, quantiles, stalls, number)


@dataclass(frozen=True)
class Workers:
    """What replicas of one kind did.

    Attributes
    ----------
    timeline : their rows of it. operators : the totals of their operators. gpu, dtype : what they run on, and the
        format whose peak counts. replicas, gpus_each : their number and size. kv_blocks, block_size : of each.
    peak_blocks : of each, in their order.
    """

    timeline: Timeline
    operators: list[OperatorTotals]
    gpu: Gpu
    dtype: str
    replicas: int
    gpus_each: int
    kv_blocks: int
    block_size: int
    peak_blocks: np.ndarray

    @property
    def gpus(self) -> int:
        return self.replicas * self.gpus_each

    @property
    def busy(self) -> float:
        """Seconds of steps, of all of them."""
        return float(self.timeline["duration_s"].sum())

    @property
    def flops(self) -> float:
        return self.gpus_each * sum(op.flops for op in self.operators)

    @property
    def hbm(self) -> float:
        return self.gpus_each * sum(op.hbm_bytes for op in self.operators)

    @property
    def peak(self) -> float:
        """FLOP/s of all their GPUs."""
        return self.gpu.peak[self.dtype] * self.gpus

    @property
    def bandwidth(self) -> float:
        """Bytes/s of all their GPUs."""
        return self.gpu.memory.bandwidth * self.gpus

    def weight(self, workers: Sequence[Workers]) -> float:
        """GPUs of one of them over those of the first kind: several kinds count by their GPUs."""
        return self.gpus_each / workers[0].gpus_each

    def energy(self, makespan: float) -> float:
        """Joules."""
        work = self.gpus_each * sum(op.energy for op in self.operators)
        return work + self.gpus * makespan * joules(self.gpu).awake

    def batch(self) -> dict[str, Any]:
        """The summary's section of that name."""
        timeline = self.timeline
        decode_steps = timeline["steps"] * (timeline["decode_seqs"] > 0)
        return {
            "steps": int(timeline["steps"].sum()),
            "macro_steps": len(timeline),
            "mean_decode_seqs": _ratio((timeline["decode_seqs"] * timeline["duration_s"]).sum(), self.busy),
            "mean_step_s": _ratio(timeline["duration_s"].sum(), timeline["steps"].sum()),
            "decode_step_share": _ratio(decode_steps.sum(), timeline["steps"].sum()),
        }

    def kv(self) -> dict[str, Any]:
        """The summary's section of that name."""
        blocks = (_mean_blocks(self.timeline, self.block_size) * self.timeline["duration_s"]).sum()
        return {
            "blocks": self.kv_blocks,
            "peak_use": float(self.peak_blocks.max() / self.kv_blocks),
            "mean_use": _ratio(blocks, self.busy * self.kv_blocks),
        }


def utilisation(workers: Sequence[Workers], span: float) -> dict[str, Any]:
    """The summary's section of that name, over `span` seconds."""
    flops, hbm = (sum(getattr(w, name) for w in workers) for name in ("flops", "hbm"))
    return {
        "busy": sum(w.busy * w.weight(workers) for w in workers)
        / (sum(w.replicas * w.weight(workers) for w in workers) * span),
        "mfu": flops / (sum(w.peak for w in workers) * span),
        "mbu": hbm / (sum(w.bandwidth for w in workers) * span),
    }


def summarise(
    columns: dict[str, np.ndarray],
    timeline: Timeline,
    gaps: np.ndarray,
    workers: Sequence[Workers],
    *,
    objective: dict[str, float | None] | None,
    stop_on_accept: bool,
    prefill_first: bool = False,
    speculation: bool = False,
) -> dict[str, Any]:
    """The `summary` of a result; keys are the metrics' names with units, nested by theme.

    Of several kinds of workers the last generate the outputs: the batch and the KV cache are theirs.
    """
    status, generated = columns["status"], columns["generated"]
    finished = status == Status.FINISHED
    times = request_times(columns)
    served = status != Status.REJECTED
    makespan = float(columns["finish_s"].max() - columns["submitted_s"].min())
    gpus = sum(w.gpus for w in workers)
    tokens = int(generated.sum())
    itl_mean, itl = token_gaps(columns, timeline, gaps, (*QUANTILES, 1.0), prefill_first, speculation)
    flops, hbm = (sum(getattr(w, name) for w in workers) for name in ("flops", "hbm"))
    energy = sum(w.energy(makespan) for w in workers)
    hours = gpus * makespan / 3600
    usd = _price(workers, makespan)
    span = max(makespan, 1e-300)
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
        "batch": workers[-1].batch() | {"steps": int(timeline["steps"].sum()), "macro_steps": len(timeline)},
        "kv": workers[-1].kv(),
        "utilisation": utilisation(workers, span),
        "cost": {
            "gpus": gpus,
            "gpu_hours": hours,
            "usd": usd,
            "usd_per_million_output_tokens": usd / tokens * 1e6 if usd is not None and tokens else None,
            "energy_j": energy,
            "mean_power_w_per_gpu": energy / span / gpus,
            "joules_per_output_token": energy / tokens if tokens else None,
        },
        "work": {
            "flops": flops,
            "hbm_bytes": hbm,
            "eflops": sum(w.flops + w.hbm * w.gpu.peak[w.dtype] / w.gpu.memory.bandwidth for w in workers),
        },
        "seconds_by_bound": _by_bound(workers),
    }
    if objective:
        counted = ~stopped_early(columns) if stop_on_accept else np.ones(len(status), dtype=bool)
        summary["goodput"] = _goodput(times, finished, counted, objective, span)
    return summary


def _price(workers: Sequence[Workers], makespan: float) -> float | None:
    """USD of all GPUs for the makespan; None if a price is not known."""
    total = 0.0
    for w in workers:
        if w.gpu.price is None:
            return None
        total += w.gpus * makespan / 3600 * w.gpu.price.usd_per_hour
    return total


def law_eflops(
    columns: dict[str, np.ndarray], model: law.LawModel, attention: Any, ratio: float, kv_bytes: float
) -> dict[str, float]:
    """The Kinetics law for the tokens that were generated: parameters, attention compute and memory, in equivalent
    FLOPs. What search costs, of pages or by a model's own indexer, is in the attention's.

    A sliding window on all layers counts as a budget without search. What the trials of a problem all read is read once
    for them, as the law has it: the prompt's KV with dense attention, else what of it is searched.
    """
    a, n, jobs = columns["prompt_tokens"].astype(float), columns["generated"].astype(float), columns["job"]
    cap, page = attention.decode_cap(None), attention.page
    chosen = model.budget is None and cap is not None
    kind = "dense" if not chosen else "top_k" if page is None else "block_top_k"
    cost = law.parts(model, kind, a, n, 1, cap if chosen else None, page, ratio=ratio, kv_bytes=kv_bytes)
    longest = np.zeros(int(jobs.max()) + 1)
    np.maximum.at(longest, jobs, n)
    prompt = np.zeros(len(longest))
    prompt[jobs] = a
    saved = (prompt * (np.bincount(jobs, weights=n) - longest)).sum()  # keys
    memory = float((cost.attention_bytes + cost.search_bytes).sum())
    memory -= saved * law.shared_key_bytes(model, kind, page, kv_bytes)
    compute = float((cost.attention_flops + cost.search_flops).sum())
    parameters = float(cost.parameter_flops.sum())
    return {
        "parameters": parameters,
        "attention_compute": compute,
        "attention_memory": memory * ratio,
        "total": parameters + compute + memory * ratio,
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


def _by_bound(workers: Sequence[Workers]) -> dict[str, float]:
    """Kernel seconds of a replica's mean GPU, summed over replicas; of several kinds GPU-seconds, which add up."""
    total: dict[str, float] = {}
    for kind in workers:
        gpus = kind.gpus_each if len(workers) > 1 else 1
        for op in kind.operators:
            for bound, seconds in op.by_bound.items():
                total[bound] = total.get(bound, 0.0) + gpus * seconds
    return total


def _ratio(a: float, b: float) -> float | None:
    return float(a / b) if b else None


def _none(value: float) -> float | None:
    return value if np.isfinite(value) else None
