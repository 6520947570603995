"""What a problem costs in saturated serving: the engine never idles, ramps up or drains.

    seconds = GPUs of a replica x sum over rows r of the schedule of w_r x (seconds of its steps)

with rows and weights of `saturated` and each step timed by the deployment's `StepCost`, to the tick as in the event
engine. So prefill, finite KV memory, batching, preemption by recompute, prefix sharing and the host are all in it.
Trials are of one length; lengths that vary are left to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from simulator.accounting import OperatorTotals, operator_totals
from simulator.deployment import Deployment
from simulator.law.serving.saturated import Schedule, saturated_schedule
from simulator.policy import SECONDS_PER_TICK
from simulator.power import joules
from simulator.shape import PrefillShape
from simulator.stepcost import StepCost, line_at, line_sum
from simulator.timeline import Timeline

Caps = tuple[int | None, ...]


@dataclass(frozen=True)
class SteadyCost:
    """What one problem costs, all its trials together.

    Attributes
    ----------
    seconds : GPU-seconds. parts : of them, by `decode_attention`, `prefill` (all of steps with prefill but the
        attention of decoding sequences) and `rest`.
    batch : sequences that decode at a time, mean over time.
    preemptions : of a trial. prefilled : tokens that are prefilled for a problem, also those computed again.
    steps : engine steps for a problem, a fraction where several are served at a time.
    kv_use : share of the KV blocks in use, mean over time.
    flops, hbm_bytes, eflops, energy_j : of all GPUs, eflops = flops + hbm_bytes x peak FLOP/s over bytes/s; NaN if
        `work` was not asked for.
    problems : that the schedule's stretch has finished, a measure of how long it is.
    """

    seconds: float
    parts: dict[str, float]
    batch: float
    preemptions: float
    prefilled: float
    steps: float
    kv_use: float
    problems: float
    flops: float = float("nan")
    hbm_bytes: float = float("nan")
    eflops: float = float("nan")
    energy_j: float = float("nan")


def steady_cost(
    deployment: Deployment,
    prompt: int,
    tokens: int,
    trials: int = 1,
    *,
    in_flight: int | None = None,
    work: bool = True,
    with_caps: tuple[Caps, Caps] = ((), ()),
    waves: float | None = None,
) -> SteadyCost:
    """What a problem costs if such problems queue without end.

    Parameters
    ----------
    deployment : what serves; its replicas are alike.
    prompt, tokens, trials : tokens of the prompt and of every trial's output, and trials of a problem.
    in_flight : sequences that the engine runs at most; left out, and above its own limit: `max_num_seqs`.
    work : whether FLOPs, bytes and joules are counted too, which takes longer.
    with_caps : extents of decode and prefill that a schedule shall have besides, so that several attentions share it.
    waves : see `saturated.saturated_schedule`.

    Raises
    ------
    InputError : the engine cannot serve such a trial.
    """
    cost, params = deployment.cost, deployment.params
    if in_flight is not None:
        params = replace(params, max_num_seqs=min(in_flight, params.max_num_seqs))
    caps, prefill_caps = (
        tuple(dict.fromkeys((*own, *others, None)))
        for own, others in zip((cost.decode_caps, cost.prefill_caps), with_caps, strict=True)
    )
    # Whole contexts, which no cap ends, are what tells how alike two moments are.
    ordered = tuple(sorted(caps, key=_wide)), tuple(sorted(prefill_caps, key=_wide))
    schedule = saturated_schedule(params, *ordered, prompt, tokens, trials, waves=waves)
    return timed(deployment, schedule, work=work)


def _wide(cap: int | None) -> float:
    return float("inf") if cap is None else cap


def timed(deployment: Deployment, schedule: Schedule, *, work: bool = True) -> SteadyCost:
    """What a problem of `schedule` costs on `deployment`, which has the engine parameters that it was made with."""
    cost, gpus = deployment.cost, deployment.graph.layout.gpus
    timeline = timed_rows(cost, schedule)
    steps, seqs = timeline["steps"], timeline["decode_seqs"]
    busy = timeline["duration_s"]
    seconds = float(busy.sum())
    decode = sum(timeline[f"decode_s.{i}"] for i in range(len(cost.decode_ops)))
    prefill = timeline["prefill_seqs"] > 0
    parts = {"decode_attention": float(np.sum(decode)), "prefill": float((busy - decode)[prefill].sum())}
    parts["rest"] = seconds - sum(parts.values())
    # In the middle of each row; the decoding sequences grow by a token a step.
    each = schedule.timeline["steps"]
    blocks = timeline["kv_blocks"] + seqs * (each - 1) / (2 * deployment.params.block_size)
    found = SteadyCost(
        seconds=gpus * seconds,
        parts={name: gpus * value for name, value in parts.items()},
        batch=float((seqs * busy).sum() / seconds),
        preemptions=schedule.preemptions,
        prefilled=float((timeline["prefill_tokens"] * steps).sum()),
        steps=float(steps.sum()),
        kv_use=float((blocks * busy).sum() / seconds / deployment.params.kv_blocks),
        problems=schedule.problems,
    )
    if not work:
        return found
    gpu = deployment.scenario.gpu
    operators = operator_totals(cost, timeline)
    flops, hbm, energy = (gpus * _sum(operators, name) for name in ("flops", "hbm_bytes", "energy"))
    ratio = gpu.peak[deployment.graph.main_dtype(gpu.peak)] / gpu.memory.bandwidth
    return replace(
        found,
        flops=flops,
        hbm_bytes=hbm,
        eflops=flops + hbm * ratio,
        energy_j=energy + gpus * seconds * joules(gpu).awake,
    )


def _sum(operators: list[OperatorTotals], name: str) -> float:
    return float(sum(getattr(op, name) for op in operators))


def timed_rows(cost: StepCost, schedule: Schedule) -> Timeline:
    """The schedule's rows with the seconds that `cost` gives, multiplied by their weights, and the extents of `cost`.

    The weighted steps, seconds and seconds of decode operators are those of a problem.
    """
    rows, weights = schedule.timeline, schedule.weights
    extents = [schedule.caps.index(cap) for cap in cost.decode_caps]
    chunks = [schedule.prefill_caps.index(cap) for cap in cost.prefill_caps]
    columns = {name: rows[name] for name in rows.columns if "." not in name}
    for e, at in enumerate(extents):
        for name in ("decode_kv_first", "decode_kv_last"):
            columns[f"{name}.{e}"] = rows[f"{name}.{at}"]
    for e, at in enumerate(chunks):
        for name in ("prefill_pairs", "prefill_kv"):
            columns[f"{name}.{e}"] = rows[f"{name}.{at}"]
    ticks, decode = _ticks(cost, columns, len(chunks))
    scale = weights * SECONDS_PER_TICK
    columns |= {"steps": rows["steps"] * weights, "duration_s": ticks * scale}
    columns |= {f"decode_s.{i}": part * scale for i, part in enumerate(decode)}
    return Timeline(columns)


def _ticks(cost: StepCost, columns: dict[str, np.ndarray], chunks: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Ticks of every row, and those of every decode operator in it, by the functions that the engine calls."""
    unit, extents = cost.unit, len(cost.decode_caps)
    names = ["steps", "tokens", "rows", "decode_seqs", "prefill_tokens", "prefill_seqs"]
    steps, tokens, rows, seqs, new, prompts = (columns[name].astype(int).tolist() for name in names)
    first, last = (
        [np.rint(columns[f"decode_kv_{end}.{e}"] * unit).astype(np.int64).tolist() for e in range(extents)]
        for end in ("first", "last")
    )
    pairs, keys = (
        [columns[f"prefill_{what}.{e}"].astype(np.int64).tolist() for e in range(chunks)] for what in ("pairs", "kv")
    )
    total = np.zeros(len(steps))
    decode = [np.zeros(len(steps)) for _ in cost.decode_ops]
    fixed: dict[int, int] = {}  # of steps without prefill, by sequences
    for row, (count, batch, chunk) in enumerate(zip(steps, seqs, prompts, strict=True)):
        if chunk:
            shape = PrefillShape(new[row], chunk, tuple(p[row] for p in pairs), tuple(k[row] for k in keys))
            ticks = cost.fixed_ticks(tokens[row], rows[row], shape)
        else:
            if batch not in fixed:
                fixed[batch] = cost.fixed_ticks(tokens[row], rows[row], None)
            ticks = count * fixed[batch]
        for op, (line, extent) in enumerate(cost.decode_lines(batch)):
            read = first[extent][row]
            if count == 1:
                part = line_at(line, read)
            else:
                part = line_sum(line, read, (last[extent][row] - read) // (count - 1), count)
            decode[op][row] = part
            ticks += part
        total[row] = ticks
    return total, decode
