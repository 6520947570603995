"""Which deployments could be bought: every layout, precision and limit that the model, the engine and the GPU allow, in
every number of replicas that the space has room for.

A *shape* is a candidate with one replica (or one worker of each kind): what is compiled and bounded once. Whether a
shape is allowed is asked of the scenario's own checks and of `deploy`; what is not is counted by the reason they give.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu, load_gpu
from simulator.planning.model import Candidate, Space, Workers
from workloads.attention import BlockTopK
from workloads.model import Model
from workloads.scenario import LoadedScenario, load_scenario

MOST_CANDIDATES = 200_000
"""More are refused: a space of that size is a slip."""


@dataclass(frozen=True)
class Base:
    """What is planned for: a scenario as the user gives it, from which candidates differ.

    It is not resolved, since another GPU has other defaults of the engine.

    Attributes
    ----------
    spec, sets : as of `load_scenario`.
    """

    spec: str | Path | Mapping[str, Any]
    sets: tuple[str, ...] = ()

    @cached_property
    def loaded(self) -> LoadedScenario:
        """The scenario itself. Raises InputError."""
        return load_scenario(self.spec, self.sets)


def scenario_of(base: Base, candidate: Candidate) -> LoadedScenario:
    """The base served by the candidate. Raises InputError for what model, GPU or engine do not allow."""
    return load_scenario(base.spec, (*base.sets, *assignments(base, candidate)))


def assignments(base: Base, candidate: Candidate) -> list[str]:
    """The `--set` texts that make the candidate of the base."""
    loaded = base.loaded
    config, workers = loaded.config, candidate.workers
    sets = [] if workers.gpu == _gpu_name(loaded) else [f"gpu={workers.gpu}"]
    if candidate.prefill is None:
        sets += ["disaggregation=null"] if config.disaggregation is not None else []
        sets += [f"parallelism.{name}={size}" for name, size in _sizes(workers).items()]
        sets += [f"engine.{name}={value}" for name, value in _limits(workers).items()]
        sets.append(f"replicas={workers.replicas}")
    else:
        # Each pool says its own layout, router and number.
        sets += ["parallelism={}", "replicas=1", "router=round_robin"]
        kept = config.parallelism.model_dump(exclude_defaults=True, include={"routing_skew"})
        for name, part in (("prefill", candidate.prefill), ("decode", workers)):
            pool: dict[str, Any] = {"replicas": part.replicas, "parallelism": {**_sizes(part), **kept}}
            if part.gpu != workers.gpu:
                pool["gpu"] = part.gpu
            if limits := _limits(part):
                pool["engine"] = limits
            router = config.router
            if config.disaggregation is None and (name == "prefill" or router != "prefix_aware"):
                pool["router"] = router
            elif config.disaggregation is not None:
                pool["router"] = config.disaggregation.pool(name).router
            sets.append(f"disaggregation.{name}={json.dumps(pool)}")
    if candidate.precision is not None:
        given = candidate.precision.strip()
        sets.append(f"precision={given}" if given.startswith("{") else f"precision.linear={given}")
    if candidate.kv_budget is not None:
        policy = config.attention
        if isinstance(policy, BlockTopK):
            sets.append(f"attention.blocks={max(1, (candidate.kv_budget - policy.local) // policy.page_size)}")
        else:
            sets.append(f"attention={{kind: top_k, budget: {candidate.kv_budget}}}")
    if candidate.samples is not None:
        sets.append(f"workload.strategy.samples={candidate.samples}")
    return sets


def _gpu_name(loaded: LoadedScenario) -> str:
    """How candidates name the base's own GPU: it may be a mapping or a file, which has no other name."""
    return loaded.config.gpu if isinstance(loaded.config.gpu, str) else loaded.gpu.name


def _sizes(workers: Workers) -> dict[str, int]:
    return {
        "tensor": workers.tensor,
        "pipeline": workers.pipeline,
        "attention_data": workers.attention_data,
        "expert": workers.expert,
    }


def _limits(workers: Workers) -> dict[str, int]:
    said = {"max_num_seqs": workers.max_num_seqs, "max_num_batched_tokens": workers.max_num_batched_tokens}
    return {name: value for name, value in said.items() if value is not None}


def gpu_of(base: Base, name: str) -> Gpu:
    """The GPU that a candidate names. Raises InputError for one that does not exist."""
    loaded = base.loaded
    return loaded.gpu if name == _gpu_name(loaded) else load_gpu(name, origin="--gpus", place="gpus")


def own_gpu(base: Base) -> str:
    """The name by which candidates call the GPU of the base."""
    return _gpu_name(base.loaded)


# ---- shapes ----------------------------------------------------------------------------------------------------------


def shapes(base: Base, space: Space) -> Iterator[Candidate]:
    """All shapes of the space that have a layout worth a look; whether they are allowed is for `scenario_of` and
    `deploy` to say. Raises InputError for a GPU that does not exist, and where the scenario's own GPU was changed by
    assignments and is none of those that are asked for.
    """
    model = base.loaded.model
    changed = [text for text in base.sets if text.startswith("gpu.")]
    if changed and space.gpus and own_gpu(base) not in space.gpus:
        raise InputError(
            "an assignment to the scenario's GPU, which is not among those to plan with",
            file="--set", found=changed[0], allowed=f"{own_gpu(base)} among them, or a GPU's own file",
        )  # fmt: skip
    for gpu_name in space.gpus or (own_gpu(base),):
        gpu = gpu_of(base, gpu_name)
        layouts = space.layouts or tuple(sensible_layouts(model, gpu, space.max_gpus))
        engines = [
            Workers(gpu_name, tensor, pipeline, data, expert, 1, seqs, tokens)
            for tensor, pipeline, data, expert in layouts
            for seqs in space.max_num_seqs or (None,)
            for tokens in space.max_num_batched_tokens or (None,)
        ]
        for precision in space.precisions or (None,):
            for budget in space.kv_budgets or (None,):
                for samples in space.samples or (None,):
                    if space.disaggregated != "only":
                        for one in engines:
                            yield Candidate(one, None, precision, budget, samples)
                    if space.disaggregated != "no":
                        for prefill in engines:
                            for decode in engines:
                                if prefill.gpus_each + decode.gpus_each <= space.max_gpus:
                                    yield Candidate(decode, prefill, precision, budget, samples)


def sensible_layouts(model: Model, gpu: Gpu, max_gpus: int) -> Iterator[tuple[int, int, int, int]]:
    """(tensor, pipeline, attention_data, expert) in powers of two within a domain of the GPU's link.

    Dense models: tensor parallelism, and a pipeline of two such replicas' GPUs where a domain is a single GPU or pair.
    Models with experts: tensor parallelism with the experts split like everything else or whole on their GPUs; and
    attention data parallelism with whole experts, tensor 1 (what DeepSeek's deployments do).
    """
    domain = min(gpu.link.domain, max_gpus)
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= domain]
    for tensor in (size for size in sizes if size <= 16):
        yield tensor, 1, 1, 1
        if model.moe is not None and tensor > 1:
            yield tensor, 1, 1, tensor
    if model.moe is not None:
        for data in sizes[1:]:
            yield 1, 1, data, data
    if gpu.link.domain <= 2:
        for stages in (2, 4, 8):
            if domain * stages <= max_gpus:
                yield domain, stages, 1, 1


def counts(shape: Candidate, space: Space, least: tuple[int, int] = (1, 1)) -> Iterator[Candidate]:
    """The shape in every number of replicas, or of workers of both kinds, for which there are GPUs.

    `least` : replicas, or decode and prefill workers, to begin with.
    """
    workers, prefill = shape.workers, shape.prefill
    if prefill is None:
        for number in range(least[0], space.max_gpus // workers.gpus_each + 1):
            yield replace(shape, workers=replace(workers, replicas=number))
        return
    for number in range(least[0], space.max_gpus // workers.gpus_each + 1):
        left = space.max_gpus - number * workers.gpus_each
        for others in range(least[1], left // prefill.gpus_each + 1):
            yield replace(shape, workers=replace(workers, replicas=number), prefill=replace(prefill, replicas=others))


def shape_of(candidate: Candidate) -> Candidate:
    """The candidate with one replica, or one worker of each kind."""
    one = replace(candidate.workers, replicas=1)
    two = None if candidate.prefill is None else replace(candidate.prefill, replicas=1)
    return replace(candidate, workers=one, prefill=two)


def number_of(shape: Candidate, space: Space) -> int:
    """How many candidates `counts` gives, without making them."""
    each = shape.workers.gpus_each
    if shape.prefill is None:
        return space.max_gpus // each
    other = shape.prefill.gpus_each
    return sum((space.max_gpus - number * each) // other for number in range(1, space.max_gpus // each + 1))


def check_size(found: Sequence[Candidate], space: Space) -> int:
    """The number of candidates. Raises InputError if there are more than anybody means."""
    total = sum(number_of(shape, space) for shape in found)
    if total > MOST_CANDIDATES:
        raise InputError(
            "too many candidates",
            place="space", found=f"{total:,}", allowed=f"{MOST_CANDIDATES:,}: fewer GPUs, layouts or limits",
        )  # fmt: skip
    return total
