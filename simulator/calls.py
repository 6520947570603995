"""From an operator and the shape of a step to the measured kernel that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from simulator.cost import maximum
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
    if isinstance(dims, Heads):
        dtype = "fp8" if op.kind == "attention_prefill" and op.dtype == "fp8" else "bf16"
        label = {"dtype": dtype, "kv_dtype": _cache_format(dims)}
        return op.kind, label if dims.budget is None else label | {ACCESS: GATHER}
    return None


def _half(op: Operator) -> bool:
    """Whether a collective is half of an all-reduce: a reduce-scatter and an all-gather are one."""
    return op.name.startswith(("experts_all_gather", "experts_reduce_scatter"))


def _cache_format(heads: Heads) -> str:
    """The format of the KV cache, of those that kernels were measured with."""
    return "fp8" if heads.kv in ("fp8", "int8", "fp4") else "bf16"


def kernel_call(op: Operator, shape: StepShape) -> Call | None:
    """The kernel that runs `op` once in a step of `shape`, or None if it is not among those that are measured."""
    found = call_label(op)
    if found is None:
        return None
    kind, label = found
    rows = shape.rows if op.axis == "rows" else shape.tokens
    if kind == "moe":
        block = op.block
        assert block is not None
        columns = {
            "tokens": maximum(rows, 1), "hidden": block.hidden, "intermediate": block.intermediate, "top_k":
            block.top_k, "experts": block.experts, "tp": block.tensor, "ep": block.groups, "skew": 0.0, "gated": 1,
            **block.busiest(maximum(rows, 1))._asdict(),
        }  # fmt: skip
        return Call(kind, label, columns, {}, op.share, rows > 0)
    dims = op.dims
    if isinstance(dims, Gemm):
        return Call(kind, label, {"m": maximum(rows, 1), "n": dims.n, "k": dims.k}, {}, 1.0, rows > 0)
    if isinstance(dims, Message):
        columns = {"gpus": dims.gpus, "bytes": maximum(rows, 1) * dims.width}
        return Call(kind, label, columns, {}, 0.5 if _half(op) else 1.0, rows > 0)
    if kind == "elementwise":
        columns = {"rows": maximum(rows, 1), "row_bytes": row_bytes(op)}
        return Call(kind, label, columns, {}, 1.0, rows > 0)
    assert isinstance(dims, Heads)
    heads = {"q_heads": dims.q_heads, "kv_heads": dims.kv_heads, "head_dim": dims.head_dim}
    if kind in ("attention_decode", "page_topk"):
        seqs, read = shape.decode_seqs, shape.decode_kv[dims.extent]
        batch = maximum(seqs, 1)
        # What the step reads is limited by the policy already, so the kernel needs no window.
        columns = {"batch": batch, "context_len": maximum(read / batch, 1.0), **heads}
        columns |= {"window": 0} if kind == "attention_decode" else {"page": dims.page, "budget": dims.budget}
        return Call(kind, label, columns, {}, 1.0, seqs > 0)
    return _prefill(dims, heads, label, shape)


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
