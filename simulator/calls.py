"""From an operator and the shape of a step to the measured kernel that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from simulator import gateddelta, mla
from simulator.cost import gemm_rows, maximum
from simulator.exchange import Exchange
from simulator.gateddelta import Recurrent
from simulator.kernels.moe import GROUPED
from simulator.mla import Absorb, LatentHeads
from simulator.operators import Gemm, Heads, Message, Operator
from simulator.selection import ACCESS, GATHER
from simulator.shape import StepShape, equal_chunks


class Call(NamedTuple):
    """One kernel.

    `label` is what chooses it, its name left to the profile; `shape` are its columns and `lookup` those to take the
    correction at instead. `share` of its time is the operator's; it is not launched where `used` is false.
    """

    kind: str
    label: Mapping[str, str]
    shape: Mapping[str, Any]
    lookup: Mapping[str, Any]
    share: float
    used: Any


def call_label(op: Operator) -> tuple[str, Mapping[str, str]] | None:
    """The kind of kernel and its label; None for an operator that no table of measurements holds."""
    dims = op.dims
    if op.block is not None:
        return "moe", {"dtype": op.block.format}
    if op.routine is not None:
        if not isinstance(dims, Heads):
            return "elementwise", {"op": op.routine, "dtype": "bf16"}
        return "page_topk", {"op": op.routine, "dtype": "bf16", "kv_dtype": _cache_format(dims)}
    if isinstance(dims, Gemm):
        return "gemm", {"dtype": dims.format}
    if isinstance(dims, Message):
        # NCCL's collectives are measured in fp16, the engines' own all-reduce in bf16; both move two bytes. Around
        # experts engines gather and scatter with kernels of their own, which nobody measured: halves of an all-reduce.
        name = "all_gather" if op.kind == "send" else "all_reduce" if _half(op) else op.kind
        return "collective", {"op": name, "dtype": "bf16" if name == "all_reduce" else "fp16"}
    if isinstance(dims, Exchange):
        return "expert_all_to_all", {"phase": dims.phase, "dtype": dims.block.format, "mode": dims.mode}
    if isinstance(dims, Recurrent):
        return op.kind, {"phase": op.axis, "routine": dims.routine}
    if isinstance(dims, Absorb):
        return op.kind, {"op": dims.op, "dtype": "fp8" if op.dtype == "fp8" else "bf16"}
    if isinstance(dims, LatentHeads):
        if op.axis == "prefill" and dims.kv_heads == 1:
            return None  # nobody measured sparse prefill apart from its block
        return op.kind, _access(dims, {"dtype": "bf16", "kv_dtype": _cache_format(dims)})
    if op.kind == "sparse_index":
        return None  # the same
    if isinstance(dims, Heads):
        dtype = "fp8" if op.kind == "attention_prefill" and op.dtype == "fp8" else "bf16"
        return op.kind, _access(dims, {"dtype": dtype, "kv_dtype": _cache_format(dims)})
    return None


def _access(heads: Heads, label: dict[str, str]) -> dict[str, str]:
    """An attention's label, with how it reads what was chosen of its past."""
    return label if heads.budget is None else label | {ACCESS: GATHER}


def _half(op: Operator) -> bool:
    """Whether a collective is half of an all-reduce: a reduce-scatter and an all-gather are one."""
    return op.name.startswith(("experts_all_gather", "experts_reduce_scatter"))


def _cache_format(heads: Heads) -> str:
    """The format of the KV cache, of those that kernels were measured with."""
    return "fp8" if heads.kv in ("fp8", "int8", "fp4") else "bf16"


def kernel_call(op: Operator, shape: StepShape, domain: int) -> Call | None:
    """The kernel that runs `op` once in a step of `shape`, or None if it is not among those that are measured.

    `domain` : GPUs that the link connects.
    """
    found = call_label(op)
    if found is None:
        return None
    kind, label = found
    rows = op.rows(shape)
    if kind == "moe":
        block = op.block
        assert block is not None
        columns = {
            "tokens": maximum(rows, 1), "hidden": block.hidden, "intermediate": block.intermediate, "top_k":
            block.top_k, "experts": block.experts, "tp": block.tensor, "ep": block.groups, "skew": 0.0, "gated": 1,
            **block.busiest(maximum(rows, 1))._asdict(),
        }  # fmt: skip
        if block.redundant:  # as many experts a GPU as there are with the copies
            columns["ep"] = block.experts * block.groups / block.slots
        if block.arriving < 1:
            columns["arriving"] = maximum(rows * block.arriving, 1)
        return Call(kind, label, columns, _measured_elsewhere(columns, block.format), op.share, rows > 0)
    dims = op.dims
    if isinstance(dims, Gemm):
        rows = gemm_rows(op, shape)
        return Call(kind, label, {"m": maximum(rows, 1), "n": dims.n, "k": dims.k}, {}, 1.0, rows > 0)
    if isinstance(dims, Message):
        columns = {"gpus": dims.gpus, "bytes": maximum(rows, 1) * dims.width}
        if dims.domains(domain) > 1:
            columns["nodes"] = dims.domains(domain)
        return Call(kind, label, columns, {}, 0.5 if _half(op) else 1.0, rows > 0)
    if kind == "elementwise":
        columns = {"rows": maximum(rows, 1), "row_bytes": row_bytes(op)}
        return Call(kind, label, columns, {}, 1.0, rows > 0)
    if isinstance(dims, Absorb):
        columns = {"tokens": maximum(rows, 1) * dims.queries, "q_heads": dims.heads, **mla.columns(dims.latent)}
        return Call(kind, label, columns, {}, 1.0, rows > 0)
    if isinstance(dims, Exchange):
        return _exchange(dims, label, shape._replace(tokens=rows), domain)
    if isinstance(dims, Recurrent):
        return _recurrent(op, dims, label, shape)
    assert isinstance(dims, Heads)
    if isinstance(dims, LatentHeads):
        return _latent(op, dims, label, shape)
    # Kernels take the queries of several tokens as those of so many more heads, which share what is read.
    heads = {"q_heads": dims.q_heads * dims.queries, "kv_heads": dims.kv_heads, "head_dim": dims.head_dim}
    if kind in ("attention_decode", "page_topk"):
        seqs, read = shape.decode_seqs, shape.decode_kv[dims.extent]
        batch = maximum(seqs, 1)
        # What the step reads is limited by the policy already, so the kernel needs no window.
        columns = {"batch": batch, "context_len": maximum(read / batch, 1.0), **heads}
        columns |= {"window": 0} if kind == "attention_decode" else {"page": dims.page, "budget": dims.budget}
        return Call(kind, label, columns, {}, 1.0, seqs > 0)
    return _prefill(dims, heads, label, shape)


ODD_ROUTING = {"hidden": 7168, "intermediate": 2048, "experts": 256}
LIKE = 384 / 256
"""Experts of Kimi-K2's shape for each of DeepSeek-V3's, which is the same otherwise."""


def _measured_elsewhere(columns: Mapping[str, Any], format: str) -> Mapping[str, Any]:
    """Where the correction of an experts' kernel is taken, if not at its own columns.

    DeepSeek-V3's shape was measured in `moe.GROUPED` formats with a routing in which four experts get every token and
    half of the others none: with expert parallelism the measured GPU has up to half of all pairs in place of its share,
    without it the four are as busy as nothing in a real step. As many tokens for each expert were measured with
    Kimi-K2's 384 experts, and as many experts a GPU on half as many GPUs again.
    """
    if format not in GROUPED or any(columns[name] != odd for name, odd in ODD_ROUTING.items()):
        return {}
    more = ("tokens", "experts") if columns["ep"] == 1 else ("tokens", "experts", "ep")
    return {name: LIKE * columns[name] for name in more}


def _recurrent(op: Operator, dims: Recurrent, label: Mapping[str, str], shape: StepShape) -> Call:
    """Chunks of several lengths as so many of their mean; several tokens of a decoding sequence, whose states are read
    once and written after each, as so many more sequences.
    """
    tokens, seqs = op.rows(shape), shape.decode_seqs
    if op.axis == "prefill":
        seqs = 0 if shape.prefill is None else shape.prefill.seqs
    batch = maximum(seqs, 1)
    length = maximum(tokens / batch, 1)
    columns = {"batch": batch * (1 + dims.queries) / 2, "seq_len": length, **gateddelta.columns(dims)}
    return Call(op.kind, label, columns, {}, 1.0, np.greater(tokens, 0))


def _latent(op: Operator, dims: LatentHeads, label: Mapping[str, str], shape: StepShape) -> Call:
    """Latent attention; of one query head's columns `_prefill` makes chunks that are alike."""
    heads = {"q_heads": dims.q_heads * dims.queries, **mla.columns(dims.latent)}
    if op.axis == "prefill":
        call = _prefill(dims, heads, label, shape)
        return call._replace(
            kind=op.kind, shape={name: value for name, value in call.shape.items() if name != "window"}
        )
    seqs, read = shape.decode_seqs, shape.decode_kv[dims.extent]
    batch = maximum(seqs, 1)
    return Call(op.kind, label, {"batch": batch, "context_len": maximum(read / batch, 1.0), **heads}, {}, 1.0, seqs > 0)


def _exchange(dims: Exchange, label: Mapping[str, str], shape: StepShape, domain: int) -> Call:
    """Measured with tokens that go to all GPUs alike: here as many as the busiest GPU would then get."""
    tokens = dims.tokens(shape)
    columns = {
        "ep": dims.span.gpus, "nodes": dims.span.domains(domain), "hidden": dims.block.hidden,
        "top_k": dims.block.top_k, "experts": dims.block.experts, "tokens": maximum(tokens * dims.above(shape), 1.0),
        "sms": 0,
    }  # fmt: skip
    return Call("expert_all_to_all", label, columns, {}, 1.0, np.greater(tokens, 0))


def row_bytes(op: Operator) -> float:
    """Bytes of all kinds that an operator of one pass moves for a row."""
    work = op.work(StepShape(1, 1, 0, ()))
    return float(work.weight_bytes + work.kv_bytes + work.act_bytes)


def _prefill(dims: Heads, heads: Mapping[str, int], label: Mapping[str, str], shape: StepShape) -> Call:
    """Chunks of several lengths and pasts as so many equal ones with the same tokens and the same (query, key) pairs.

    Corrections were measured without a past. A chunk with one is as busy as a longer prompt with as many pairs, so its
    correction is taken there.
    """
    chunks = shape.prefill
    if chunks is None:
        columns = {"batch": 1, "query_len": 1, "past_len": 0, **heads, "window": dims.cap or 0}
        return Call("attention_prefill", label, columns, {}, 1.0, False)
    seqs = maximum(chunks.seqs, 1)
    some = chunks._replace(tokens=maximum(chunks.tokens, seqs), seqs=seqs)
    query, past = equal_chunks(some, dims.extent, dims.cap, maximum)
    window = dims.cap or 0
    pairs = chunks.pairs[dims.extent] / seqs
    columns = {"batch": seqs, "query_len": query, "past_len": past, **heads, "window": window}
    busy = maximum(query, (2 * pairs) ** 0.5)
    return Call(
        "attention_prefill", label, columns, {"query_len": busy, "past_len": 0.0}, 1.0, np.greater(chunks.tokens, 0)
    )
