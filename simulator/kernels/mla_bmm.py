"""Batched matrix multiplication of latent attention's decode: one small matrix a head.

`pre` takes every head's query of `nope` elements into the latent space of `kv_rank` (absorption), `post` its output
from there to `value` elements. The heads are so many GEMMs side by side: [tokens, k] x [k, n] each. Weights are small,
so the time is that of queries and results but for few tokens; kernels in fp8 convert their input first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.attention_traits import RESIDENT, log2, missing
from simulator.kernels.base import Constant, Constants, KernelModel, KernelWork, Label, Shape, Terms
from simulator.kernels.formats import FORMATS, compute_rate
from simulator.kernels.latent import width

COLUMNS = ("tokens", "q_heads")
ROWS, COLS, STEP = 128, 128, 64
"""Of a tile of the result, and elements of k that a thread block takes at a time."""
PLAIN = ("trtllm_bmm_out_dequant_bf16",)
"""Kernels that multiply in bf16 whatever the model's format: their weights were converted when they were loaded."""


class _Plan(NamedTuple):
    """n, k : of one head's GEMM. tiles : of all heads. waves : of them over the SMs. dtype : of weights and products.
    a, b, out : bytes of the input as it is multiplied, of weights, of the result. elements : of the input.
    """

    n: Any
    k: Any
    tiles: Any
    waves: Any
    dtype: str
    a: Any
    b: Any
    out: Any
    elements: Any


def _plan(shape: Shape, label: Label, gpu: Gpu) -> _Plan:
    tokens, heads = (np.asarray(shape[c], dtype=np.float64) for c in COLUMNS)
    rank = width(shape, "kv_rank")
    n, k = (rank, width(shape, "nope")) if label["op"] == "pre" else (width(shape, "value"), rank)
    eight = label["dtype"] != "bf16" and "fp8" in gpu.peak and label["kernel"] not in PLAIN
    dtype = label["dtype"] if eight else "bf16"
    form = FORMATS[dtype]
    tiles = heads * np.ceil(tokens / ROWS) * np.ceil(n / COLS)
    return _Plan(
        n,
        k,
        tiles,
        np.ceil(tiles / gpu.sms),
        dtype,
        tokens * heads * k * form.act,
        heads * n * k * form.weight,
        2 * tokens * heads * n,
        tokens * heads * k,
    )


def _terms(shape: Shape, label: Label, gpu: Gpu, c: Constants) -> Terms:
    plan = _plan(shape, label, gpu)
    steps = np.ceil(plan.k / STEP)
    rows = np.minimum(np.asarray(shape["tokens"], dtype=np.float64), ROWS)
    latency = c["launch"] + c["step"] * steps * plan.waves + c["wave"] * plan.waves
    # Tiles of few rows are narrower (16 at the least): libraries choose.
    padded = np.maximum(2 ** np.ceil(np.log2(rows)), 16.0)
    work = plan.waves * gpu.sms * padded * COLS * plan.k * 2
    compute = work / (c["compute"] * compute_rate(plan.dtype, gpu))
    bandwidth = c["memory"] * gpu.memory.bandwidth
    miss = missing(plan.a + plan.b + plan.out, gpu, c["resident"])
    memory = miss * (plan.a + plan.b + plan.out) / bandwidth
    form = FORMATS[plan.dtype]
    loaded = plan.tiles * plan.k * (rows * form.act + COLS * form.weight)
    l2 = (loaded + plan.out) / (c["l2"] * gpu.l2.bandwidth)
    if plan.dtype != "bf16":
        clocks = gpu.sms * gpu.boost_clock
        before = plan.elements * (1 / (c["convert"] * clocks) + c["quantise"] * 3 / bandwidth)
        latency = latency + c["scale"]
        compute, memory, l2 = compute + before, memory + before, l2 + before
    return Terms(latency, compute, memory, l2, 0.0)


def _roof(shape: Shape, label: Label, gpu: Gpu) -> Any:
    plan = _plan(shape, label, gpu)
    flops = 2 * plan.elements * plan.n
    total = plan.a + plan.b + plan.out
    beyond = np.maximum(total - gpu.l2.size, 0.0) / gpu.memory.bandwidth
    return np.maximum(np.maximum(flops / compute_rate(plan.dtype, gpu), total / gpu.l2.bandwidth), beyond)


def _work(shape: Shape, label: Label, gpu: Gpu) -> KernelWork:
    plan = _plan(shape, label, gpu)
    form = FORMATS[plan.dtype]
    total = plan.a + plan.b + plan.out
    through = plan.tiles * plan.k * (ROWS * form.act + COLS * form.weight) + plan.out
    flops = 2 * plan.tiles * ROWS * COLS * plan.k
    return KernelWork(flops, missing(total, gpu, RESIDENT) * total, through, np.minimum(plan.tiles / gpu.sms, 1))


def _features(shape: Shape, label: Label, gpu: Gpu) -> list[Any]:
    tokens, heads = (np.asarray(shape[c], dtype=np.float64) for c in COLUMNS)
    plan = _plan(shape, label, gpu)
    per_sm = plan.tiles / gpu.sms
    total = plan.a + plan.b + plan.out
    return [
        log2(tokens),
        log2(heads),
        log2(tokens * heads),
        log2(tokens * heads / gpu.sms),
        log2(heads / gpu.sms),
        log2(per_sm),
        per_sm / plan.waves,
        np.minimum(plan.waves, 64),
        tokens / (np.ceil(tokens / 64) * 64),
        tokens / (np.ceil(tokens / 128) * 128),
        log2(total / gpu.l2.size),
        log2(plan.b / gpu.l2.size),
        log2(plan.b / plan.a),
        float(plan.dtype != "bf16"),
        float(label["op"] == "pre"),
    ]


NAMES = (
    "log2 tokens",
    "log2 heads",
    "log2 rows",
    "log2 rows per SM",
    "log2 heads per SM",
    "log2 tiles per SM",
    "fill of waves",
    "waves",
    "fill of 64 rows",
    "fill of 128 rows",
    "log2 bytes over L2",
    "log2 weights over L2",
    "log2 weights over input",
    "8 bits",
    "absorption",
)

MLA_BMM = KernelModel(
    kind="mla_bmm",
    columns=COLUMNS,
    labels=("kernel", "op", "dtype"),
    constants={
        "sharpness": Constant(3.0, 2.0, 8.0),
        "launch": Constant(3.5e-6, 0.5e-6, 30e-6),
        "step": Constant(1e-8, 1e-9, 2e-6),
        "wave": Constant(3e-7, 1e-8, 5e-6),
        "scale": Constant(2e-6, 1e-8, 20e-6),
        "compute": Constant(0.7, 0.1, 1.0),
        "memory": Constant(0.9, 0.5, 0.97),
        "l2": Constant(1.5, 0.5, 4.0),
        "convert": Constant(4.0, 0.05, 1e4),
        "quantise": Constant(1.0, 0.01, 10.0),
        "resident": Constant(RESIDENT, 0.2, 1.5),
    },
    terms=_terms,
    roof=_roof,
    work=_work,
    features=_features,
    names=NAMES,
)
