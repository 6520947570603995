"""What the page shows of a state, as numbers: one document, from which `panels` draws."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import yaml

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu
from simulator.cost import hbm_bytes, operator_time
from simulator.deployment import single_steps
from simulator.exploring.controls import SIZES, SLIDERS
from simulator.exploring.elastic import elasticities, several
from simulator.exploring.lawcost import law_costs
from simulator.exploring.state import Refused, View, chosen, control_at, position, said, write_query
from simulator.exploring.steps import Part, Step, bound_of, decode_step, prefill_step
from simulator.interval import run_interval
from simulator.layout import Layout, check_layout, check_link
from simulator.memory import MemoryPlan
from simulator.power import joules
from simulator.profile import Profile
from simulator.stepcost import StepCost
from workloads.model import Model

IDEAL = Profile(name="ideal", description="the pure roofline", fitted_on="nothing")
MEMORY_PARTS = ("weights", "kv", "window_kv", "states", "activations", "graphs", "context", "communication",
                "workspace", "driver", "left")  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """The steps of a view, ready to be described.

    `chunk` : tokens of the prompt's first chunk, which is what `prefill` computes. `many` : the steps for GPUs with
    other rates (`elastic.several`), by name.
    """

    view: View
    memory: MemoryPlan
    cost: StepCost
    decode: Step
    prefill: Step
    chunk: int
    many: Mapping[str, Step]


def show(view: View) -> Shown:
    """Compute the steps of a view. Raises Refused if the scenario, or the step, cannot be served."""
    try:
        memory, cost = single_steps(view.scenario)
    except InputError as error:
        raise Refused({control_at(error.place): said(error)}) from None
    _check_step(view, cost)
    chunk = min(view.prompt, view.scenario.config.engine.max_num_batched_tokens)
    others, timed = several(cost), _timed(view, chunk)
    many = {name: step(others) for name, step in timed.items()}
    return Shown(view, memory, cost, many["decode"].first(cost), many["prefill"].first(cost), chunk, many)


def _timed(view: View, chunk: int) -> dict[str, Callable[[StepCost], Step]]:
    """The two steps of a view as functions of the cost."""
    return {
        "decode": partial(decode_step, batch=view.batch, context=view.context),
        "prefill": partial(prefill_step, query=chunk),
    }


def _check_step(view: View, cost: StepCost) -> None:
    """Refused for a step that the engine would not do; the same limits as those of `kinesim graph`."""
    limits = {
        "batch": ("a step has more sequences than the engine holds (most sequences)", cost.max_seqs),
        "context": ("longer than a sequence may be (max_model_len)", cost.max_context),
        "prompt": ("longer than a sequence may be (max_model_len)", cost.max_context),
    }
    wrong = {}
    for key, (problem, most) in limits.items():
        if getattr(view, key) > most:
            wrong[key] = InputError(problem, found=getattr(view, key), allowed=f"1 to {most:,}").message()
    if wrong:
        raise Refused(wrong)


def document(shown: Shown) -> dict[str, Any]:
    """All that the page shows, in SI units, but for the elasticities."""
    view, cost, config = shown.view, shown.cost, shown.view.scenario.config
    gpu, layout = view.scenario.gpu, cost.graph.layout
    main = cost.graph.main_dtype(gpu.peak)
    return {
        "state": {
            "moves": view.moves,
            "query": write_query(view.moves),
            "sliders": {key: position(view, key) for key in SLIDERS},
            "choices": chosen(view),
            "possible": possible_sizes(view.scenario.model, layout, gpu),
        },
        "scenario": {
            "name": config.name,
            "gpu": gpu.title,
            "gpus": layout.gpus,
            "layout": str(layout),
            "model": view.scenario.model.name,
            "parameters": view.scenario.model.parameters,
            "engine": config.engine.name,
            "engine_version": config.engine.version,
            "attention": config.attention.model_dump(mode="json"),
            "precision": {"weights": cost.graph.precision.weights, "kv": config.precision.kv},
            "batch": view.batch,
            "context": view.context,
            "prompt": view.prompt,
            "chunk": shown.chunk,
            "samples": view.samples,
        },
        "roofs": {
            "compute": {d: gpu.peak[d] for d in _formats(cost, main)},
            "memory_bandwidth": gpu.memory.bandwidth,
            "ridge_point": gpu.peak[main] / gpu.memory.bandwidth,
        },
        "decode": _step_document(shown.decode),
        "prefill": _step_document(shown.prefill),
        "capacity": _capacity(shown),
        "cost": _cost(shown),
        "law": law_costs(shown.view, cost, float(shown.decode.seconds)),
        "profile": {"name": cost.profile.name, "fitted_on": cost.profile.fitted_on},
    }


def elastic_document(shown: Shown, *, quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Elasticities of both steps' times; `quick` : those that need no further step."""
    return {
        name: [asdict(one) for one in elasticities(shown.cost, timed, shown.many[name], quick=quick)]
        for name, timed in _timed(shown.view, shown.chunk).items()
    }


def scenario_yaml(view: View) -> str:
    """The scenario as a file that `kinesim run` takes."""
    return str(yaml.safe_dump(view.scenario.to_dict(), sort_keys=False, allow_unicode=True, width=100))


def command(view: View) -> str:
    """The command that simulates it."""
    words = ["kinesim", "run", view.spec]
    for text in view.sets:
        words += ["--set", text]
    return shlex.join(words)


def possible_sizes(model: Model, layout: Layout, gpu: Gpu) -> dict[str, list[str]]:
    """Of each control of the layout the sizes that the model and the GPU's links allow if the others stay."""
    names = {"tp": "tensor", "pp": "pipeline", "dp": "attention_data", "ep": "expert"}

    def fits(other: Layout) -> bool:
        try:
            check_layout(model, other)
            check_link(other, gpu)
        except InputError:
            return False
        return True

    plain = replace(layout, all_to_all="none")

    def with_size(name: str, size: str) -> Layout:
        changed: dict[str, Any] = {name: int(size)}
        return replace(plain, **changed)

    return {key: [size for size in SIZES if fits(with_size(name, size))] for key, name in names.items()}


def _formats(cost: StepCost, main: str) -> list[str]:
    used = dict.fromkeys([main])
    return list(used | dict.fromkeys(op.dtype for op in cost.operators if op.dtype is not None))


def _step_document(step: Step) -> dict[str, Any]:
    seconds, host = float(step.seconds), float(step.host)
    rows = [_row(step.cost, part, seconds) for part in step.parts]
    bounds: dict[str, float] = {}
    for row in rows:
        bounds[row["bound"]] = bounds.get(row["bound"], 0.0) + row["seconds"]
    if host > 0:
        bounds["host"] = host
    interval = run_interval(step.cost, step.totals(), makespan=None, busy=1.0, tpot=seconds, host=host)
    return {
        "seconds": seconds,
        "host": host,
        "interval": None if interval is None else [seconds * factor for factor in interval["kernel_time"]],
        "operators": rows,
        "seconds_by_bound": dict(sorted(bounds.items(), key=lambda item: -item[1])),
        "kernels": [] if interval is None else interval["kernels"],
    }


def _row(cost: StepCost, part: Part, step: float) -> dict[str, Any]:
    """An operator: all its layers, on the GPU with the most to do."""
    seconds, flops = float(part.seconds), part.op.count * float(part.work.flops)
    moved = part.op.count * float(hbm_bytes(part.work, cost.gpu))
    ideal = part.op.count * float(_ideal(cost, part))
    return {
        "name": part.op.name,
        "kind": part.op.kind,
        "seconds": seconds,
        "share": seconds / step,
        "bound": bound_of(part.once),
        "flops": flops,
        "hbm_bytes": moved,
        "intensity": flops / moved if moved else None,
        "flops_per_s": flops / seconds if seconds else 0.0,
        "of_roof": ideal / seconds if seconds else 0.0,
    }


def _ideal(cost: StepCost, part: Part) -> Any:
    """Seconds of one execution at the pure roofline."""
    return operator_time(part.op, part.shape, cost.gpu, IDEAL).seconds


def _capacity(shown: Shown) -> dict[str, Any]:
    view, memory = shown.view, shown.memory
    block, each = memory.block_size, -(-view.context // memory.block_size)
    shared = min(view.prompt, view.context) // block if view.scenario.config.engine.prefix_sharing else 0
    of_problem = shared + view.samples * (each - shared)
    return {
        "memory": {name: getattr(memory, name) for name in MEMORY_PARTS},
        "capacity": memory.capacity,
        "kv_tokens": memory.kv_tokens,
        "kv_bytes_per_token": memory.kv_bytes_per_token,
        "most_sequences": shown.cost.max_seqs,
        "sequences": memory.kv_blocks // each,
        "sequences_sharing_prompts": view.samples * (memory.kv_blocks // of_problem),
    }


def _cost(shown: Shown) -> dict[str, Any]:
    """What the decode step's tokens cost if it went on and on."""
    cost, gpu = shown.cost, shown.view.scenario.gpu
    gpus, seconds = cost.graph.layout.gpus, float(shown.decode.seconds)
    tokens = shown.view.batch * cost.advance.step / cost.advance.unit
    rate = tokens / seconds
    watts = joules(gpu).awake + shown.decode.energy / seconds
    price = gpu.price.usd_per_hour if gpu.price else None
    return {
        "tpot_s": shown.view.batch / rate,
        "prefill_s": float(shown.prefill.seconds),
        "output_tokens_per_s": rate,
        "output_tokens_per_s_per_gpu": rate / gpus,
        "gpu_seconds_per_output_token": gpus / rate,
        "usd_per_hour": price,
        "usd_per_million_output_tokens": None if price is None else price * gpus / 3600 / rate * 1e6,
        "watts_per_gpu": watts,
        "joules_per_output_token": watts * gpus / rate,
    }
