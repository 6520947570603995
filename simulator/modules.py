"""Attention blocks that tables time as a whole: what of their time is left for the operators that read the past.

Of some engines and models nobody measured the parts of a latent attention block, but the block with its projections, in
decode and in prefill apart (`mla_module`, `dsa_module`). In a step the projections run once for decoding sequences and
chunks together, and like the absorption they keep kernels and times of their own. What the block takes beyond them,
when its phase runs alone, is the time of the attention, of the index before it, and of all small kernels that nobody
names. These take their ideal times at least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.cost import OpTime, maximum, operator_time
from simulator.kernels.dsa_module import most_graphed
from simulator.kernels.latent_block import MODELS
from simulator.operators import Gemm, Module, Operator
from simulator.prefilltable import pairs_of
from simulator.profile import Profile
from simulator.selection import Choice, bind_label, is_pooled
from simulator.shape import PrefillShape, StepShape, equal_chunks, smaller

IDEAL = Profile(name="ideal", description="the pure roofline", fitted_on="nothing")
PHASES = ("decode", "prefill")
CORE = ("mla_decode", "mla_prefill", "sparse_index")
"""Kinds of operators that have their time from the block; absorption too in prefill, which not all kernels do."""
REFERENCE = 8192.0
"""Tokens of the past at which ideal times tell how attention and index share a block: four times what DSA chooses."""
FORMS = {"mla_module": ("form", "expanded", "absorbed"), "dsa_module": ("reads", "sparse", "dense")}
"""By kind, what a kernel's name says of it that decides which chunks it runs: of most, and of short ones."""


class Whole(NamedTuple):
    """The kernels that stand for a block in one phase: one for most steps, and in prefill perhaps another of the same
    software for chunks of at most `most` tokens, with an indexer their past included.
    """

    main: Choice
    short: Choice | None = None
    most: float = 0.0


def is_core(op: Operator) -> bool:
    """Whether an operator of a block has no time but what the others leave of the block's."""
    return op.axis in PHASES and (op.kind in CORE or (op.axis, op.kind) == ("prefill", "mla_bmm"))


def module_label(module: Module, axis: str) -> dict[str, str]:
    """What chooses a block's kernel."""
    kv = "fp8" if module.kv in ("fp8", "int8", "fp4") else "bf16"
    latent = module.latent
    own = (module.hidden, latent.q_rank, latent.nope_dim, latent.value_dim)
    # A block is that of any model with the same widths: DeepSeek-V3's is that of R1 and of Kimi-K2.5.
    model = next((name for name, dims in MODELS.items() if dims[:4] == own), module.model)
    return {"phase": axis, "model": model, "dtype": "bf16", "kv_dtype": kv, "gemm_dtype": module.gemm}


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


def as_measured(op: Operator, whole: Whole) -> Operator:
    """A projection of a block in the format that the whole block was measured with: the model's may be another, or its
    output projection's alone.
    """
    if not isinstance(op.dims, Gemm):
        return op
    return replace(op, dims=replace(op.dims, format=_projections(whole.main, op.dims.format)))


def _projections(choice: Choice, asked: str) -> str:
    """Format of the projections of a block; what is pooled over formats has the one asked for."""
    return asked if is_pooled(choice.group) else choice.group.label["gemm_dtype"]


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
) -> tuple[tuple[StepShape, StepShape], dict[str, Any]]:
    """A step of one phase of `shape` alone, its sequences alike; the same with REFERENCE tokens before it; and the
    block's columns in the first.

    `caps` : of the phase's extents; what the block reads in each follows from the whole past. `queries` : tokens of a
    decoding sequence.
    """
    extent = module.extent(axis)
    if axis == "decode":
        seqs = shape.decode_seqs
        batch = maximum(seqs, 1)
        context = maximum(shape.decode_kv[extent] / batch, 1.0)
        steps = _decodes(seqs, context, caps, queries), _decodes(seqs, REFERENCE, caps, queries)
        # The context has the new tokens in it.
        return steps, block_columns(module, batch, queries, maximum(context - queries, 0.0))
    chunks = shape.prefill
    if chunks is None:
        nothing = StepShape(0, 0, 0, ())
        return (nothing, nothing), block_columns(module, 1, 1, 0)
    seqs = maximum(chunks.seqs, 1)
    some = chunks._replace(tokens=maximum(chunks.tokens, seqs), seqs=seqs)
    query, past = equal_chunks(some, extent, None, maximum)
    steps = _chunks(chunks, query, past, caps), _chunks(chunks, query, REFERENCE, caps)
    return steps, block_columns(module, seqs, query, past)


def _decodes(seqs: Any, context: Any, caps: Sequence[int | None], queries: int) -> StepShape:
    kv = tuple(seqs * (context if cap is None else np.minimum(context, cap)) for cap in caps)
    return StepShape(seqs * queries, seqs * queries, seqs, kv)


def _chunks(chunks: PrefillShape, query: Any, past: Any, caps: Sequence[int | None]) -> StepShape:
    seqs, reach = chunks.seqs, past + query
    pairs = tuple(seqs * pairs_of(query, past, cap) for cap in caps)
    keys = tuple(seqs * (reach if cap is None else np.minimum(reach, query + cap - 1)) for cap in caps)
    return StepShape(chunks.tokens, seqs, 0, (), PrefillShape(chunks.tokens, seqs, pairs, keys))


def estimate(
    whole: Whole, module: Module, axis: str, columns: Mapping[str, Any], gpu: Gpu, launch: float = 1.0
) -> tuple[Any, Any]:
    """Seconds of the block as it was measured, and the part of them that is latency (times `launch`).

    Its projections may have another format than the model's: what is beyond them does not depend on that.
    """
    asked = module_label(module, axis)

    def of(choice: Choice) -> tuple[Any, Any]:
        lookup: dict[str, Any] = {}
        if axis == "prefill" and choice.group.ranges["past_len"][1] == 0:
            # Measured without a past: a chunk with one is as busy as a longer prompt with as many pairs.
            query, past = columns["query_len"], columns["past_len"]
            lookup = {"query_len": maximum(query, (query * (query + 1) + 2 * query * past) ** 0.5), "past_len": 0.0}
        if axis == "decode":
            lookup = {"batch": smaller(columns["batch"], most_graphed(choice.group.label["kernel"]))}
        label = bind_label(choice, asked | {"gemm_dtype": _projections(choice, asked["gemm_dtype"])})
        found = choice.group.estimate(columns, gpu, label=label, lookup=lookup, cold=True, launch=launch)
        return found.seconds, found.terms.latency

    seconds, latency = of(whole.main)
    if whole.short is not None:
        length = columns["query_len"] + (0 if module.latent.indexer is None else columns["past_len"])
        few, other = length <= whole.most, of(whole.short)
        seconds, latency = np.where(few, other[0], seconds), np.where(few, other[1], latency)
    return seconds, latency


def others(members: Sequence[Operator], axis: str) -> list[Operator]:
    """The operators of a block that work in a phase and have kernels of their own."""
    return [part for part in members if part.axis in (axis, "tokens") and not is_core(part)]


def part_time(
    op: Operator,
    members: Sequence[Operator],
    steps: tuple[StepShape, StepShape],
    block: tuple[Any, Any],
    known: Any,
    gpu: Gpu,
) -> OpTime:
    """Time of `op`, one of those that have theirs from the block (`is_core`).

    It is what `op` takes ideally, and its share of what the block takes beyond all that is known of it. Shares do not
    depend on the past, so that no operator gets quicker as the past grows.

    Parameters
    ----------
    members : all operators of the block. steps : the phase alone, and the same with a past of REFERENCE tokens, where
        ideal times tell the shares. block : seconds of the block, and their latency. known : seconds of those that have
        kernels of their own (`others`).
    """
    seconds, latency = block
    core = [part for part in members if part.axis == op.axis and is_core(part)]
    step, reference = steps
    own = {part.name: operator_time(part, step, gpu, IDEAL) for part in core}
    least: Any = sum(time.seconds for time in own.values())
    excess = np.maximum(seconds - known - least, 0.0)
    weight = operator_time(op, reference, gpu, IDEAL).seconds
    weights: Any = sum(operator_time(part, reference, gpu, IDEAL).seconds for part in core)
    ideal = own[op.name]
    mine = (ideal.seconds + weight / np.maximum(weights, 1e-300) * excess) * (least > 0)
    # Latencies bound an operator where they are most of the block; else what bounds it ideally does.
    waits = mine * np.minimum(latency / np.maximum(seconds, 1e-300), 1.0)
    rest = (mine - waits) / np.maximum(ideal.seconds, 1e-300)
    compute, memory, l2, link = (term * rest for term in (ideal.compute, ideal.memory, ideal.l2, ideal.link))
    return OpTime(mine, compute, memory, l2, link, waits)


def rising(values: np.ndarray) -> np.ndarray:
    """The nearest rows that never fall, by least squares: [rows, n] of [rows, n].

    Blocks have steps in them (one engine's sparse kernel takes longest where the first token is left out), and a bump
    must not lift all that comes after it. Where a row falls, the values about the fall become their mean:
    max over a <= i of min over b >= i of the mean of values[a .. b] (isotonic regression, its max-min formula).
    """
    found = values.copy()
    falls = np.flatnonzero((np.diff(values, axis=1) < 0).any(axis=1))
    n = values.shape[1]
    first, last = np.arange(n)[:, None], np.arange(n)[None, :]
    for rows in np.array_split(falls, len(falls) // 256 + 1):
        sums = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(values[rows], axis=1)], axis=1)
        spans = sums[:, None, 1:] - sums[:, :-1, None]
        means = np.where(last >= first, spans / np.maximum(last - first + 1, 1), np.inf)
        least = np.minimum.accumulate(means[:, :, ::-1], axis=2)[:, :, ::-1]
        reach = np.where(last >= first, least, -np.inf)
        found[rows] = np.maximum.accumulate(reach.max(axis=1), axis=1)  # rounding apart, it rises by itself
    return found
