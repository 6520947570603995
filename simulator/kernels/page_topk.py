"""What block top-k does before its attention: scores of pages, and the choice of the best (Kinetics, arXiv 2506.05333).

`scores`: every query head multiplies with the summary of every page of its sequence (one vector a KV head and page);
the scores, in fp32, go to the next kernel. It reads as decode attention does, `page` times fewer keys and no values.
`select`: the scores of a KV head's query heads are reduced and its `budget` / `page` best pages are chosen, one row a
KV head of a sequence. Its time is that of the row's own work, which grows with the pages, whatever algorithm does it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.attention_traits import RESIDENT, kv_bytes, log2, missing
from simulator.kernels.base import Constant, Constants, KernelModel, KernelWork, Label, Shape, Terms
from simulator.kernels.elementwise import FUSED, KEEP, missed
from simulator.kernels.formats import compute_rate

COLUMNS = ("batch", "context_len", "q_heads", "kv_heads", "head_dim", "page", "budget")
ROWS = 16.0
"""Query rows of the smallest tensor-core tile, to which a GQA group is padded."""
BLOCK = 64.0
"""Pages that a thread block scores at a time."""


class _Plan(NamedTuple):
    """What the two kernels do.

    pages : of a sequence. heads : KV heads of all sequences. units : thread blocks of the scoring. picks : pages chosen
    for a KV head. summaries, scores, query : bytes.
    """

    pages: Any
    heads: Any
    units: Any
    picks: Any
    summaries: Any
    scores: Any
    query: Any


def _plan(shape: Shape, label: Label) -> _Plan:
    batch, context, q_heads, kv_heads, dim, page, budget = (np.asarray(shape[c], dtype=np.float64) for c in COLUMNS)
    pages = np.maximum(np.ceil(context / page), 1.0)
    heads = batch * kv_heads
    return _Plan(
        pages,
        heads,
        heads * np.ceil(pages / BLOCK),
        np.minimum(np.ceil(budget / page), pages),
        heads * pages * dim * kv_bytes(label["kv_dtype"]),
        4 * batch * q_heads * pages,
        2 * batch * q_heads * dim,
    )


def _flops(plan: _Plan, shape: Shape) -> Any:
    """Of the scoring, the group padded to a tile."""
    group = np.asarray(shape["q_heads"], dtype=np.float64) / shape["kv_heads"]
    return 2 * plan.heads * plan.pages * np.ceil(group / ROWS) * ROWS * shape["head_dim"]


def terms(shape: Shape, label: Label, gpu: Gpu, constants: Constants) -> Terms:
    """Seconds. `uneven` says how much of a last, partly filled wave over the SMs is lost."""
    plan, c = _plan(shape, label), constants
    kept = missed(plan.scores, gpu, c["keep"]) * plan.scores
    load = (plan.units if label["op"] == "scores" else plan.heads) / gpu.sms
    least = np.maximum(load, 1.0)  # an SM that has a row, or a block, has a whole one
    turns = least + c["uneven"] * (np.ceil(load) - least)
    rate, l2_rate = c["memory"] * gpu.memory.bandwidth, c["l2"] * gpu.l2.bandwidth
    if label["op"] == "scores":
        here = plan.summaries + plan.scores
        memory = (missing(here, gpu, c["resident"]) * plan.summaries + kept) / rate
        tile = c["block"] * turns / gpu.boost_clock
        l2 = (plan.summaries + plan.query + plan.scores) / l2_rate
        return Terms(c["latency"], tile + _flops(plan, shape) / compute_rate("bf16", gpu), memory, l2, 0.0)
    # Padded to a power of two, as sorting networks and Triton's blocks are, in part.
    whole = 2.0 ** np.ceil(log2(plan.pages))
    pages = plan.pages + c["padded"] * (whole - plan.pages)
    row = c["row"] + pages * (c["page"] + c["sort"] * np.square(log2(pages) + 1)) + c["pick"] * plan.picks
    # The SM with the most rows reads their scores at its share of the L2's rate.
    l2 = turns * gpu.sms * (plan.scores / plan.heads) / l2_rate
    return Terms(c["latency"], row * turns / gpu.boost_clock, kept / rate, l2, 0.0)


def roof(shape: Shape, label: Label, gpu: Gpu) -> Any:
    """Seconds of the summaries (or of the scores, of which a narrower format may be kept) through the fastest level."""
    plan = _plan(shape, label)
    total = plan.summaries if label["op"] == "scores" else FUSED * plan.scores
    return total / np.maximum(gpu.l2.bandwidth, gpu.memory.bandwidth)


def work(shape: Shape, label: Label, gpu: Gpu) -> KernelWork:
    """FLOPs of whole tiles, or one a score; the summaries come from HBM as far as they do not fit into the L2."""
    plan = _plan(shape, label)
    kept = missed(plan.scores, gpu, KEEP) * plan.scores
    if label["op"] == "scores":
        here = plan.summaries + plan.scores
        hbm = missing(here, gpu, RESIDENT) * plan.summaries + kept
        return KernelWork(_flops(plan, shape), hbm, here + plan.query, np.minimum(plan.units / gpu.sms, 1.0))
    return KernelWork(plan.scores / 4, kept, plan.scores, np.minimum(plan.heads / gpu.sms, 1.0))


NAMES = (
    "log_batch",
    "log_pages",
    "log_heads",
    "group",
    "head_dim",
    "log_picks",
    "log_heads_per_sm",
    "fill",
    "log_units_per_sm",
    "padding",
    "summaries_l2",
    "scores_l2",
    "kv_bytes",
)


def features(shape: Shape, label: Label, gpu: Gpu) -> list[Any]:
    """As NAMES."""
    plan = _plan(shape, label)
    load = plan.heads / gpu.sms
    return [
        log2(shape["batch"]),
        log2(plan.pages),
        log2(plan.heads),
        np.asarray(shape["q_heads"], dtype=np.float64) / shape["kv_heads"],
        shape["head_dim"],
        log2(plan.picks),
        log2(load),
        load / np.ceil(load),
        log2(plan.units / gpu.sms),
        plan.pages / 2.0 ** np.ceil(log2(plan.pages)),
        log2(plan.summaries / gpu.l2.size),
        log2(plan.scores / gpu.l2.size),
        kv_bytes(label["kv_dtype"]),
    ]


PAGE_TOPK = KernelModel(
    kind="page_topk",
    columns=COLUMNS,
    labels=("kernel", "op", "dtype", "kv_dtype"),
    constants={
        "latency": Constant(2.5e-6, 3e-7, 3e-5),
        "uneven": Constant(0.3, 1e-3, 1.0),
        "block": Constant(400.0, 20.0, 2e4),
        "row": Constant(1500.0, 10.0, 5e4),
        "page": Constant(0.5, 1e-3, 300.0),
        "sort": Constant(1e-3, 1e-5, 10.0),
        "pick": Constant(0.1, 1e-2, 1e4),
        "padded": Constant(0.9, 1e-3, 1.0),
        "l2": Constant(0.4, 0.03, 5.0),
        "memory": Constant(0.85, 0.2, 1.1),
        "keep": Constant(KEEP, 0.05, 4.0),
        "resident": Constant(RESIDENT, 0.4, 1.0),
        "sharpness": Constant(3.0, 1.5, 10.0),
    },
    terms=terms,
    roof=roof,
    work=work,
    features=features,
    names=NAMES,
)
