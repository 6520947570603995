"""Attention blocks that tables time as a whole: what of their time is left for the operators that read the past.

Of some engines and models nobody measured the parts of a latent attention block, but the block with its projections, in
decode and in prefill apart (`mla_module`, `dsa_module`). In a step the projections run once for decoding sequences and
chunks together, so they keep kernels and times of their own. What the block takes beyond them, when its phase runs
alone, is the time of the operators that belong to that phase only: attention, index, keys and values made of latents,
all small kernels between them. They share it by their ideal times, and take those at least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.cost import OpTime, maximum, operator_time
from simulator.operators import Heads, Module, Operator
from simulator.prefilltable import pairs_of
from simulator.profile import Profile
from simulator.selection import Choice, bind_label
from simulator.shape import PrefillShape, StepShape, equal_chunks

IDEAL = Profile(name="ideal", description="the pure roofline", fitted_on="nothing")
PHASES = ("decode", "prefill")
FORMS = {"mla_module": ("form", "expanded", "absorbed"), "dsa_module": ("reads", "sparse", "dense")}
"""By kind, what a kernel's name says of it that decides which chunks it runs: of most, and of short ones."""


class Whole(NamedTuple):
    """The kernels that stand for a block in one phase: one for most steps, and in prefill perhaps another of the same
    software for chunks of at most `most` tokens, with an indexer their past included.
    """

    main: Choice
    short: Choice | None = None
    most: float = 0.0


def module_label(module: Module, axis: str) -> dict[str, str]:
    """What chooses a block's kernel."""
    kv = "fp8" if module.kv in ("fp8", "int8", "fp4") else "bf16"
    return {"phase": axis, "model": module.model, "dtype": "bf16", "kv_dtype": kv, "gemm_dtype": module.gemm}


def choose(module: Module, axis: str, find: Callable[..., Choice | None]) -> Whole | None:
    """The kernels for a block; None if no profile has any. `find` : (kind, label) -> choice."""
    label, (key, usual, other) = module_label(module, axis), FORMS[module.kind]
    if axis == "decode":
        found = find(module.kind, label)
        return None if found is None else Whole(found)
    main, short = (find(module.kind, label | {key: form}) for form in (usual, other))
    if main is None or short is None or short.profile != main.profile:
        return None if main is None else Whole(main)
    index = module.latent.indexer
    # Kernels that read everything are for queries with no more before them than the indexer would choose.
    return Whole(main, short, short.group.ranges["query_len"][1] if index is None else index.top_k)


def queries_of(members: Sequence[Operator]) -> int:
    """Query tokens of a decoding sequence."""
    return max(part.dims.queries for part in members if isinstance(part.dims, Heads) and part.axis == "decode")


def block_columns(module: Module, batch: Any, query: Any, past: Any) -> dict[str, Any]:
    """Shape of the block in one phase, as its kernels' models want it."""
    latent = module.latent
    columns = {
        "batch": batch, "query_len": query, "past_len": past, "q_heads": module.q_heads, "hidden": module.hidden,
        "q_rank": latent.q_rank or 0, "kv_rank": latent.kv_rank, "rope": latent.rope_dim, "nope": latent.nope_dim,
        "value": latent.value_dim,
    }  # fmt: skip
    if latent.indexer is not None:
        index = latent.indexer
        columns |= {"indexer": 1, "index_heads": index.heads, "index_dim": index.head_dim, "top_k": index.top_k}
    return columns


def alone(
    module: Module, axis: str, shape: StepShape, caps: Sequence[int | None], queries: int
) -> tuple[StepShape, dict[str, Any]]:
    """A step of one phase of `shape` alone, its sequences alike, and the block's columns in it.

    `caps` : of the phase's extents; what the block reads in each follows from the whole past. `queries` : tokens of a
    decoding sequence.
    """
    extent = module.extent(axis)
    if axis == "decode":
        seqs, read = shape.decode_seqs, shape.decode_kv[extent]
        batch = maximum(seqs, 1)
        context = maximum(read / batch, 1.0)
        kv = tuple(seqs * (context if cap is None else np.minimum(context, cap)) for cap in caps)
        tokens = seqs * queries
        return StepShape(tokens, tokens, seqs, kv), block_columns(module, batch, queries, context - 1)
    chunks = shape.prefill
    if chunks is None:
        return StepShape(0, 0, 0, ()), block_columns(module, 1, 1, 0)
    seqs = maximum(chunks.seqs, 1)
    some = chunks._replace(tokens=maximum(chunks.tokens, seqs), seqs=seqs)
    query, past = equal_chunks(some, extent, None, maximum)
    used = chunks.seqs > 0
    pairs = tuple(used * seqs * pairs_of(query, past, cap) for cap in caps)
    keys = tuple(
        used * seqs * (past + query if cap is None else np.minimum(past + query, query + cap - 1)) for cap in caps
    )
    alike = PrefillShape(chunks.tokens, chunks.seqs, pairs, keys)
    return StepShape(chunks.tokens, chunks.seqs, 0, (), alike), block_columns(module, seqs, query, past)


def estimate(whole: Whole, module: Module, axis: str, columns: Mapping[str, Any], gpu: Gpu) -> tuple[Any, Any]:
    """Seconds of the block, and the part of them that is latency."""
    label = module_label(module, axis)

    def of(choice: Choice) -> tuple[Any, Any]:
        lookup: dict[str, Any] = {}
        if axis == "prefill" and choice.group.ranges["past_len"][1] == 0:
            # Measured without a past: a chunk with one is as busy as a longer prompt with as many pairs.
            query, past = columns["query_len"], columns["past_len"]
            lookup = {"query_len": maximum(query, (query * (query + 1) + 2 * query * past) ** 0.5), "past_len": 0.0}
        found = choice.group.estimate(columns, gpu, label=bind_label(choice, label), lookup=lookup, cold=True)
        return found.seconds, found.terms.latency

    seconds, latency = of(whole.main)
    if whole.short is not None:
        length = columns["query_len"] + (0 if module.latent.indexer is None else columns["past_len"])
        few, other = length <= whole.most, of(whole.short)
        seconds, latency = np.where(few, other[0], seconds), np.where(few, other[1], latency)
    return seconds, latency


def part_time(
    op: Operator,
    members: Sequence[Operator],
    step: StepShape,
    block: tuple[Any, Any],
    around: Callable[[Operator, StepShape], Any],
    gpu: Gpu,
) -> OpTime:
    """Time of `op`, which belongs to one phase of a block.

    Parameters
    ----------
    members : all operators of the block. step : the phase alone. block : seconds of the block in it, and their latency.
    around : seconds of an operator that both phases share.
    """
    seconds, latency = block
    own = {part.name: operator_time(part, step, gpu, IDEAL) for part in members if part.axis == op.axis}
    least: Any = sum(time.seconds for time in own.values())
    others: Any = sum(around(part, step) for part in members if part.axis == "tokens")
    left = np.maximum(seconds - others, least)
    ideal = own[op.name]
    stretch = left / np.maximum(least, 1e-300) * (least > 0)
    mine = ideal.seconds * stretch
    # Latencies bound an operator where they are most of the block; else what bounds it ideally does.
    waits = mine * np.minimum(latency / np.maximum(seconds, 1e-300), 1.0)
    rest = stretch * (mine - waits) / np.maximum(mine, 1e-300)
    compute, memory, l2, link = (term * rest for term in (ideal.compute, ideal.memory, ideal.l2, ideal.link))
    return OpTime(mine, compute, memory, l2, link, waits)
