"""Which shapes a plan may ask for: those that models and serving need, as far as they fit a GPU's memory.

A `Region` is a part of a table: a function from the unit cube to rows, or a list of points. Which of its points are
taken, and when, is left to `plan`. Widths and heads are those of the bundled models, by the operator graph.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from calibration.measure.costs import Row, load_of, run_seconds
from calibration.measure.evenly import spread
from calibration.measure.figures import Figures
from calibration.measure.layersizes import BUDGET, PAGE
from simulator.layers import Reading
from simulator.operators import Gemm, Heads
from simulator.stepgraph import Precision, build_graph, divides
from workloads.model import list_models, load_model

TENSOR = (1, 2, 4, 8)
MEMORY = 0.9
"""Share of the memory that a measurement may take."""
ONE_LAYER = 1 / 8
"""Share of the memory that the KV cache of one layer may take: no model has so few layers that it could be more."""
LONGEST = 0.05
"""Seconds that one execution may take by the roofline: larger ones say nothing new and cost a plan dearly."""
TOKENS, SEQUENCES, ROWS, CONTEXT = 16_384, 512, 512, 131_072
"""Tokens of a step, decoding sequences, rows that are sampled, tokens of a context: the most that are measured."""
QUERY = 32_768
BUDGETS = (256, 512, 1024, 2048, 4096)
STREAM_ROW = 16_384
KERNELS = {"attention_prefill": "triton_prefill"}
"""Names of kernels in the tables that are not `triton`, by which the fit knows their tiles; `triton_gather` besides."""


@dataclass(frozen=True)
class Region:
    """A part of a table.

    Attributes
    ----------
    name : unique. table, kernel : of its tasks. share : of a plan's time.
    dims : length of the points that `draw` takes, each coordinate in [0, 1).
    draw : point -> row, or None if there is none at the point (too large for the memory).
    points : instead of `draw`: rows that are measured one after the other, those of one entry together.
    l2 : `cold`, or `warm` where the operands come from the kernel before.
    """

    name: str
    table: str
    share: float
    dims: int = 0
    draw: Callable[[Sequence[float]], Row | None] | None = None
    points: Sequence[tuple[Row, ...]] = ()
    kernel: str = "triton"
    l2: str = "cold"


# ---- numbers from coordinates ----------------------------------------------------------------------------------------


def log_whole(u: float, low: int, high: int, step: int = 1) -> int:
    """A multiple of `step` between `low` and `high`, even in the logarithm."""
    value = math.exp(math.log(low) + u * math.log(high / low))
    return max(low, min(high, round(value / step) * step))


def even_whole(u: float, low: int, high: int, ragged: float) -> int:
    """As `log_whole`; where `ragged` is below 0.5 rounded to three binary digits, as batches often are."""
    value = log_whole(u, low, high)
    unit = 1 << max(0, value.bit_length() - 3)
    return value if ragged >= 0.5 else max(low, min(high, round(value / unit) * unit))


def pick(u: float, items: Sequence[Any]) -> Any:
    return items[min(int(u * len(items)), len(items) - 1)]


# ---- what the models have --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Widths:
    """What the operators of the bundled models are as wide as, on one GPU of 1 to 8, where the weights fit.

    gemms, heads : (n, k, whether only sampled rows pass), smallest first; (q_heads, kv_heads, head_dim).
    moe : (hidden, intermediate, top_k, experts, tp).
    """

    gemms: tuple[tuple[int, int, bool], ...]
    heads: tuple[tuple[int, int, int], ...]
    hidden: tuple[int, ...]
    gated: tuple[int, ...]
    vocab: tuple[int, ...]
    moe: tuple[tuple[int, int, int, int, int], ...]


WHOLE = 16
"""Widths of operands are multiples of it: rows of fp8 are then whole 16 bytes, as the GPU's copy engines ask."""


@functools.lru_cache(maxsize=8)
def widths_of(memory: float) -> Widths:
    """The widths of models that fit `memory` bytes of each GPU."""
    gemms: set[tuple[int, int, bool]] = set()
    heads: set[tuple[int, int, int]] = set()
    moe: set[tuple[int, int, int, int, int]] = set()
    hidden: set[int] = set()
    gated: set[int] = set()
    vocab: set[int] = set()
    for model in map(load_model, list_models()):
        for tensor in TENSOR:
            if not divides(model, tensor) or model.weight_bytes("fp8") / tensor > MEMORY * memory:
                continue
            hidden.add(model.hidden)
            vocab.add(model.vocab)
            if model.moe and model.moe.intermediate // tensor % WHOLE == 0:
                moe.add((model.hidden, model.moe.intermediate, model.moe.top_k, model.moe.experts, tensor))
            elif not model.moe:
                gated.add(model.intermediate // tensor)
            dense: Any = Reading()
            for op in build_graph(model, dense, Precision(), tensor).operators:
                if op.kind == "gemm" and isinstance(op.dims, Gemm) and op.dims.k % WHOLE == 0:
                    gemms.add((op.dims.n, op.dims.k, op.axis == "rows"))
                if op.kind == "attention_decode" and isinstance(op.dims, Heads):
                    heads.add((op.dims.q_heads, op.dims.kv_heads, op.dims.head_dim))
    return Widths(
        gemms=tuple(sorted(gemms, key=lambda g: (g[0] * g[1], g))),
        heads=tuple(sorted(heads, key=lambda h: (h[0] // h[1], h))),
        hidden=tuple(sorted(hidden)),
        gated=tuple(sorted(gated)),
        vocab=tuple(sorted(vocab)),
        moe=tuple(sorted(moe, key=lambda x: (x[1] * x[0] * x[3] // x[4], x))),
    )


# ---- rows ------------------------------------------------------------------------------------------------------------


def gemm_row(dtype: str, m: int, n: int, k: int) -> Row:
    return {"dtype": dtype, "m": m, "n": n, "k": k}


def decode_row(kv: str, batch: int, context: int, heads: tuple[int, int, int], gather: bool = False) -> Row:
    row = {"dtype": "bf16", "kv_dtype": kv, "batch": batch, "context_len": context, **_heads(heads), "window": 0}
    return row | {"gather": 1} if gather else row


def prefill_row(batch: int, query: int, past: int, heads: tuple[int, int, int], window: int = 0) -> Row:
    lengths = {"batch": batch, "query_len": query, "past_len": past}
    return {"dtype": "bf16", "kv_dtype": "bf16", **lengths, **_heads(heads), "window": window}


def elementwise_row(op: str, rows: int, row_bytes: int, heads: tuple[int, int, int] = (0, 0, 0)) -> Row:
    return {"op": op, "dtype": "bf16", "rows": rows, "row_bytes": row_bytes, **_heads(heads)}


def page_row(op: str, batch: int, context: int, heads: tuple[int, int, int], budget: int = BUDGET) -> Row:
    shape = {"batch": batch, "context_len": context, **_heads(heads), "page": PAGE, "budget": budget}
    return {"op": op, "dtype": "bf16", "kv_dtype": "bf16", **shape}


def moe_row(dtype: str, tokens: int, model: tuple[int, int, int, int, int], ep: int, routing: str) -> Row:
    hidden, intermediate, top_k, experts, tensor = model
    block = {"hidden": hidden, "intermediate": intermediate, "top_k": top_k, "experts": experts, "tp": tensor}
    return {"dtype": dtype, "routing": routing, "tokens": tokens, **block, "ep": ep, "gated": 1}


def _heads(heads: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("q_heads", "kv_heads", "head_dim"), heads, strict=True))


def row_bytes_of(op: str, heads: tuple[int, int, int] = (0, 0, 0), width: int = 0) -> int:
    """Bytes that the graph's node of that name moves per row, of 16-bit operands."""
    q, kv, d = heads
    return {
        "embedding": width * (2 + 2),
        "rms_norm": 4 * width * 2,
        "silu_mul": 3 * width * 2,
        "sampling": 2 * 4 * width,
        "rope_kv_write": (2 * q + 2 * kv) * d * 2 + 2 * kv * d * 2,
        "page_summary": kv * d * 2 + kv * d * 2 // PAGE,
    }[op]


# ---- regions of single kernels ---------------------------------------------------------------------------------------


def kernel_regions(figures: Figures, gpus: int = 1) -> list[Region]:
    """The regions of all tables of single kernels; those of formats that the GPU computes in."""
    widths = widths_of(figures.memory)
    fp8 = "fp8" in figures.peak

    def short(table: str, row: Row) -> Row | None:
        return row if run_seconds(load_of(table, row), figures) <= LONGEST else None

    def gemm(dtype: str, u: Sequence[float]) -> Row | None:
        kind, ragged = u[2], u[4]
        layers = [g for g in widths.gemms if dtype != "fp8" or (not g[2] and g[0] >= 256)]
        if kind < 0.7:  # the rest is for models that are not here
            n, k, sampled = pick(u[1], layers)
            m = even_whole(u[0], 1, ROWS if sampled else TOKENS, ragged)
        else:
            n, k = log_whole(u[1], 128, 32_768, 64), log_whole(u[3], 128, 32_768, 64)
            m = even_whole(u[0], 1, TOKENS, ragged)
        return short("gemm", gemm_row(dtype, m, n, k))

    def kv_fits(row: Row) -> Row | None:
        return row if load_of("attention_decode", row).cold <= ONE_LAYER * figures.memory else None

    def decode(kv: str, u: Sequence[float]) -> Row | None:
        context = BUDGET if u[3] < 0.15 else even_whole(u[1], 128, CONTEXT, (7 * u[3]) % 1)
        return kv_fits(
            decode_row(kv, even_whole(u[0], 1, SEQUENCES, (5 * u[3]) % 1), context, pick(u[2], widths.heads))
        )

    def gather(u: Sequence[float]) -> Row | None:
        budget = BUDGET if u[2] < 0.6 else pick((u[2] - 0.6) / 0.4, BUDGETS)
        batch = even_whole(u[0], 1, SEQUENCES, (5 * u[2]) % 1)
        return kv_fits(decode_row("bf16", batch, budget, pick(u[1], widths.heads), gather=True))

    def prefill(u: Sequence[float]) -> Row | None:
        query, batch = even_whole(u[0], 64, QUERY, (7 * u[3]) % 1), log_whole(u[3], 1, 64)
        past = 0 if u[2] < 0.5 else even_whole(2 * u[2] - 1, 64, CONTEXT, (5 * u[3]) % 1)
        if batch * query > QUERY or query + past > CONTEXT:
            return None
        window = pick(u[4] * 10, (1024, 4096)) if u[4] < 0.1 else 0
        row = prefill_row(batch, query, past, pick(u[1], widths.heads), window)
        return short("attention_prefill", row)

    def moe(dtype: str, u: Sequence[float]) -> Row | None:
        model = pick(u[1], widths.moe)
        ep = 1 if u[2] < 0.7 else pick((u[2] - 0.7) / 0.3, (2, 4, 8))
        routing = "balanced" if u[3] < 0.7 else pick((u[3] - 0.7) / 0.3, ("power_law_1.01", "power_law_1.2"))
        tokens = even_whole(u[0], 1, TOKENS, (5 * u[3]) % 1)
        row = moe_row(dtype, tokens, model, ep, routing)
        fits = load_of("moe", row).cold <= ONE_LAYER * figures.memory and model[3] % ep == 0
        return short("moe", row) if fits else None

    def stream(op: str, u: Sequence[float]) -> Row | None:
        most = int(figures.memory / 16 / STREAM_ROW)
        return elementwise_row(op, log_whole(u[0], max(1, int(figures.l2 / 128 / STREAM_ROW)), most), STREAM_ROW)

    def rowwise(op: str, u: Sequence[float]) -> Row | None:
        if op in ("rope_kv_write", "page_summary"):
            heads = pick(u[1], widths.heads)
            per_row = row_bytes_of(op, heads)
        else:
            heads = (0, 0, 0)
            choices = {"silu_mul": widths.gated, "sampling": widths.vocab}.get(op, widths.hidden)
            per_row = row_bytes_of(op, width=pick(u[1], choices))
        rows = even_whole(u[0], 1, ROWS if op == "sampling" else TOKENS, u[2])
        return elementwise_row(op, rows, per_row, heads)

    def page(op: str, u: Sequence[float]) -> Row | None:
        budget = BUDGET if u[3] < 0.6 or op == "scores" else pick((u[3] - 0.6) / 0.4, BUDGETS)
        context = even_whole(u[1], 2 * budget, CONTEXT, (7 * u[3]) % 1)
        row = page_row(op, log_whole(u[0], 1, SEQUENCES), context, pick(u[2], widths.heads), budget)
        load = load_of("page_topk", row)
        return row if load.cold + load.warm <= ONE_LAYER * figures.memory else None

    regions = [
        Region("gemm bf16", "gemm", 22, 5, functools.partial(gemm, "bf16")),
        Region("gemm fp16", "gemm", 1.5, 5, functools.partial(gemm, "fp16")),
        Region("decode bf16", "attention_decode", 13, 4, functools.partial(decode, "bf16")),
        Region("gather", "attention_decode", 5, 3, gather, kernel="triton_gather"),
        Region("prefill bf16", "attention_prefill", 12, 5, prefill, kernel=KERNELS["attention_prefill"]),
        *(Region(op, "elementwise", 0.8, 1, functools.partial(stream, op), l2="warm") for op in STREAMS),
        *(Region(op, "elementwise", 1.8, 3, functools.partial(rowwise, op), l2="warm") for op in ROWWISE),
        Region("page scores", "page_topk", 2.5, 4, functools.partial(page, "scores")),
        Region("page select", "page_topk", 2.5, 4, functools.partial(page, "select"), l2="warm"),
    ]
    if widths.moe:
        regions.append(Region("moe bf16", "moe", 6, 4, functools.partial(moe, "bf16")))
    if fp8:
        regions.append(Region("gemm fp8", "gemm", 10, 5, functools.partial(gemm, "fp8")))
        regions.append(Region("decode fp8 kv", "attention_decode", 5, 4, functools.partial(decode, "fp8")))
        if widths.moe:
            regions.append(Region("moe fp8", "moe", 3, 4, functools.partial(moe, "fp8")))
    if gpus > 1:
        regions += [
            Region(op, "collective", 1.5, points=points, l2="warm") for op, points in _collectives(figures, gpus)
        ]
    return regions


STREAMS = ("read", "write", "copy")
ROWWISE = ("embedding", "rms_norm", "rope_kv_write", "silu_mul", "sampling", "page_summary")
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "alltoall")


def _collectives(figures: Figures, gpus: int) -> Iterable[tuple[str, list[tuple[Row, ...]]]]:
    """Messages of 1 KiB to 1 GiB between 2, 4, ... GPUs: the engines' own all-reduce in bf16, the others in fp16."""
    groups = [2**i for i in range(1, gpus.bit_length()) if 2**i <= gpus]
    for op in COLLECTIVES:
        dtype = "bf16" if op == "all_reduce" else "fp16"
        sizes = [(g, 2**i) for i in range(10, 31) for g in groups if 4 * 2**i <= figures.memory]
        points: list[tuple[Row, ...]] = [({"op": op, "dtype": dtype, "gpus": g, "bytes": b},) for g, b in sizes]
        yield op, spread(points, [(math.log2(b) / 30, g / gpus) for g, b in sizes])
