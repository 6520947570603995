"""What measuring a row takes, before it is measured: GPU memory, and seconds.

The work of a row is that of the operators of the graph (`simulator.operators`); its time a plain roofline with round
efficiencies. These are estimates for ordering a plan and for saying how long it will take, not predictions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from calibration.measure import layersizes
from calibration.measure.figures import Figures
from calibration.measure.layersizes import COLD
from hwspecs.dtypes import BYTES
from simulator import operators as ops
from simulator.layers import case_of, layer_graph, layer_operators, layer_shape
from simulator.operators import Experts, Heads, Work
from simulator.shape import PrefillShape, StepShape, causal_pairs, keys_read

OF_PEAK, OF_BANDWIDTH, LEAST = 0.6, 0.8, 5e-6
"""Shares of the peaks that a kernel is expected to reach, and the seconds that the smallest takes."""
COPIES = 512
"""Copies of cold operands at most; all together fill `COLD` times the L2."""
FIXED, MAKING = 0.1, 1e12
"""Seconds of a task besides (operands are allocated, a result is checked); bytes/s at which operands are filled."""
LAYER_FIXED = 0.5
"""Seconds of a whole layer besides: a dozen operators with operands and launches of every layer."""
CONFIGS, FINALISTS = 4, 1.5
"""Configurations that are tried quickly, and those of them that are timed in full, in the middle."""
HOST = 3e-5
"""Seconds in which the host puts a launch into a CUDA graph."""
NODES = 2000
"""Launches in a graph at most, unless a rotation through the copies has more."""
NO_BASELINE = frozenset({"launch", "layer", "kinetics", "collective"})
VOCABULARY = 65_536
"""Rows of the table that embeddings are looked up in."""

Row = Mapping[str, Any]


class Load(NamedTuple):
    """Bytes of the operands that are cold and of all others, FLOPs, bytes that one execution moves; `launches`."""

    cold: float
    warm: float
    flops: float
    moved: float
    dtype: str = "bf16"
    launches: int = 1


class Cost(NamedTuple):
    """Seconds that measuring takes, bytes of memory that it needs."""

    seconds: float
    bytes: float


def _shape(tokens: int = 0, **more: Any) -> StepShape:
    return StepShape(tokens=tokens, rows=more.pop("rows", tokens), decode_seqs=0, decode_kv=(0,))._replace(**more)


def _heads(row: Row, page: int = 1) -> Heads:
    return Heads(row["q_heads"], row["kv_heads"], row["head_dim"], 0, None, page)


def _gemm(row: Row) -> Load:
    size = BYTES[row["dtype"]]
    op = ops.gemm("", row["n"], row["k"], count=1, dtype=row["dtype"], weight=size, act=2)
    return _of(op.work(_shape(row["m"])), row["dtype"])


def _decode(row: Row) -> Load:
    kv = BYTES[row["kv_dtype"]]
    op = ops.attention_decode("", _heads(row), count=1, dtype="bf16", kv=kv, act=2)
    window, context = row["window"], row["context_len"]
    read = row["batch"] * (min(window, context) if window else context)
    load = _of(op.work(_shape(decode_seqs=row["batch"], decode_kv=(read,))))
    return load._replace(cold=load.cold * row["batch"] * context / max(read, 1))


def _prefill(row: Row) -> Load:
    q, past, batch = row["query_len"], row["past_len"], row["batch"]
    cap = row["window"] or None
    op = ops.attention_prefill("", _heads(row), count=1, dtype="bf16", kv=BYTES[row["kv_dtype"]], act=2)
    chunks = PrefillShape(batch * q, batch, (batch * causal_pairs(q, past, cap),), (batch * keys_read(q, past, cap),))
    load = _of(op.work(_shape(prefill=chunks)), row["dtype"])
    return load._replace(cold=load.cold * (past + q) / keys_read(q, past, cap))


def _moe(row: Row) -> Load:
    """This GPU's experts: the weights of all are in memory, those of the experts that are hit are read; tokens are
    padded to tiles expert by expert.
    """
    size, width, held = BYTES[row["dtype"]], row["intermediate"] // row["tp"], row["experts"] // row["ep"]
    block = Experts(row["hidden"], row["intermediate"], row["top_k"], row["experts"], row["tp"], row["dtype"])
    make = functools.partial(ops.grouped_gemm, count=1, dtype=row["dtype"], weight=size, act=2, block=block, share=0.5)
    up, down = make("", (1 + row["gated"]) * width, row["hidden"]), make("", row["hidden"], width)
    shape = _shape(row["tokens"])
    load = _of(Work(*(part / row["ep"] for part in up.work(shape) + down.work(shape))), row["dtype"])
    weights = held * (2 + row["gated"]) * width * row["hidden"] * size
    pairs = row["tokens"] * row["top_k"]
    padded = pairs + 64 * min(held, pairs)
    passed = 4 * row["tokens"] * row["hidden"] + padded * (2 * row["hidden"] + size * (row["hidden"] + width))
    return load._replace(warm=weights - load.cold + passed, launches=5)


def _elementwise(row: Row) -> Load:
    touched = float(row["rows"] * row["row_bytes"])
    table = VOCABULARY * row["row_bytes"] / 2 if row["op"] == "embedding" else 0.0
    return Load(0.0, table + touched, 0.0, touched)


def _page_topk(row: Row) -> Load:
    shape = _shape(decode_seqs=row["batch"], decode_kv=(row["batch"] * row["context_len"],))
    heads = _heads(row, row["page"])
    if row["op"] == "scores":
        op = ops.page_scores("", heads, count=1, dtype="bf16", kv=BYTES[row["kv_dtype"]], act=2)
    else:
        op = ops.page_select("", heads, count=1)
    return _of(op.work(shape))


def _launch(row: Row) -> Load:
    return Load(0.0, 4.0, 0.0, 0.0, launches=row["launches"])


def _collective(row: Row) -> Load:
    return Load(0.0, 2.0 * row["bytes"], 0.0, 2.0 * row["bytes"])


def _of(work: Work, dtype: str = "bf16") -> Load:
    cold = work.weight_bytes + work.kv_bytes
    return Load(cold, work.act_bytes, work.flops, cold + work.act_bytes, dtype)


_LOADS = {
    "gemm": _gemm,
    "attention_decode": _decode,
    "attention_prefill": _prefill,
    "moe": _moe,
    "elementwise": _elementwise,
    "page_topk": _page_topk,
    "launch": _launch,
    "collective": _collective,
}


def load_of(table: str, row: Row) -> Load:
    """What one execution of a row's kernel takes and does; of a table of single kernels."""
    return _LOADS[table](row)


def run_seconds(load: Load, figures: Figures) -> float:
    """One execution by the roofline."""
    peak = figures.peak.get(load.dtype) or figures.peak.get("bf16") or min(figures.peak.values())
    busy = max(load.flops / (OF_PEAK * peak), load.moved / (OF_BANDWIDTH * figures.bandwidth))
    return busy + LEAST * load.launches


def copies_of(cold: float, figures: Figures, most: int = COPIES) -> int:
    """How many of the cold operands there have to be so that none is left in L2 when its turn comes again."""
    return max(1, min(most, math.ceil(COLD * figures.l2 / cold))) if cold > 0 else 1


def cost_of(table: str, row: Row, figures: Figures, *, warm: bool = False) -> Cost:
    """What measuring a row takes."""
    if table in ("layer", "kinetics"):
        return _layer_cost(table, row, figures)
    load = load_of(table, row)
    once = run_seconds(load, figures)
    copies = 1 if warm else copies_of(load.cold, figures)
    memory = load.cold * copies + load.warm
    seconds = _timing(once, copies, load.launches)
    if table in NO_BASELINE:
        return Cost(FIXED + seconds, memory)
    tuning = CONFIGS * _trial(once, min(copies, 64), load.launches)
    return Cost(FIXED + memory / MAKING + tuning + (FINALISTS + 0.6) * seconds, memory)


def _timing(once: float, copies: int, launches: int) -> float:
    """Seconds until executions of `once` seconds, one on each copy in turn, are timed in full: capture, warm-up, and
    seven replays or 15 ms.
    """
    rotation = copies * once
    nodes = max(copies, min(NODES / launches, 1e-3 / once)) * launches
    replay = max(1e-3, rotation)
    replays = 8 + max(7, min(100, 15e-3 / replay)) if replay < 0.05 else 6
    return (3 * copies * launches + nodes) * HOST + replays * replay


def _trial(once: float, copies: int, launches: int) -> float:
    """As `_timing`, of a quick trial."""
    replay = max(2e-4, copies * once)
    nodes = max(copies, 2e-4 / once) * launches
    return (3 * copies * launches + nodes) * HOST + (10 * replay if replay < 0.01 else 3 * once)


# ---- whole layers ----------------------------------------------------------------------------------------------------


def layer_seconds(row: Row, figures: Figures) -> tuple[float, int]:
    """Seconds of one layer of a row of `layer` or `kinetics` by the rooflines of its operators; how many they are."""
    case = case_of(row)
    graph = layer_graph(case)
    shape = layer_shape(case, graph)
    operators = layer_operators(graph, shape)
    return sum(run_seconds(_of(op.work(shape), op.dtype or "bf16"), figures) for op in operators), len(operators)


def _layer_cost(table: str, row: Row, figures: Figures) -> Cost:
    size = layersizes.sizes(row)
    layers = max(1, layersizes.layers_wanted(row, figures.l2, figures.memory))
    memory = layers * size.memory + size.warm
    once, operators = layer_seconds(row, figures)
    tuning = operators * (CONFIGS + 1) * _trial(once / operators, layers, 1)
    graphs = 2 if table == "kinetics" else 1
    return Cost(LAYER_FIXED + memory / MAKING + tuning + graphs * _timing(once, layers, operators), memory)
