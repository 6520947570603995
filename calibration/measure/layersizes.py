"""Whole layers before they are measured: what they take and move, how many are needed, and the points of the
experiment of the Kinetics paper. For plans; imports nothing of torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hwspecs.dtypes import BYTES
from simulator.layers import BLOCK_TOPK, DENSE, LayerCase, case_of, layer_graph, layer_operators, layer_shape
from simulator.operators import Work
from simulator.stepgraph import divides
from workloads.model import Model, load_model

PAGE = 16
"""Tokens of a page of the paged KV cache, and of a page that is scored."""
COLD = 4
"""Operands are cold if so many times the L2 passes through it before they are read again. After 3 times some 6 % of the
reads would hit in a cache that replaces lines at random, after 4 some 2 %.
"""

MODELS = tuple(f"Qwen/Qwen3-{size}" for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B"))
CONTEXTS = (4096, 8192, 16_384, 32_768, 65_536)
BATCHES = (1, 4, 16, 64, 256)
SHARES = (1, 8)
"""Tensor-parallel GPUs of which one is measured: all heads, and an eighth of them (one KV head of Qwen3)."""
BUDGET = 1024
USABLE = 0.9
"""Part of the memory that weights and KV cache may take."""
PAPER_POINTS = ((4096, 16_384), (2048, 32_768))
"""(batch, context) of the paper's wall-clock comparison, arXiv 2506.05333 section 5.2, on TP 8's share of heads. The KV
cache of one layer fits at them, that of a whole model does not: they are measured, there as here, on single layers.
"""


class LayerSizes(NamedTuple):
    """What a layer takes and does on one GPU.

    cold : bytes that it reads of its own weights, KV cache and page summaries. warm : bytes of activations, which all
    layers share. flops : of one execution. moved : bytes to and from HBM of one execution, at the least. memory : bytes
    of its own weights, KV cache and summaries, whether it reads them or not.
    """

    cold: float
    warm: float
    flops: float
    moved: float
    memory: float


def sizes(row: Mapping[str, Any]) -> LayerSizes:
    """Sizes of a layer of a row of `layer` or `kinetics`. Raises InputError like `case_of`."""
    case = case_of(row)
    graph = layer_graph(case)
    shape = layer_shape(case, graph)
    work = Work()
    for op in layer_operators(graph, shape):
        work += op.work(shape)
    cold = float(work.weight_bytes + work.kv_bytes)
    memory = float(work.weight_bytes) + cache_bytes(case)
    return LayerSizes(cold, _shared(case), float(work.flops), cold, memory)


def cache_bytes(case: LayerCase) -> float:
    """Bytes of one layer's KV cache on this GPU in whole pages, with its page summaries."""
    kv_heads, tokens = case.heads[1], case.context + (case.query if case.phase == "prefill" else 0)
    page = case.reading.page or PAGE
    pages = -(-tokens // page)
    vectors = pages * (2 * page + (1 if case.reading.page else 0))
    return float(case.batch * vectors * kv_heads * case.model.head_dim * BYTES[case.precision.kv])


def _shared(case: LayerCase) -> float:
    """Activations: hidden state, residual and norm, QKV and queries, gate and up and their product; scores of pages."""
    model, (q_heads, kv_heads) = case.model, case.heads
    width = model.intermediate // case.tensor
    row = 5 * model.hidden + (4 * q_heads + 2 * kv_heads) * model.head_dim + 3 * width
    scores = 0.0
    if case.reading.page:
        scores = 4.0 * case.batch * (q_heads + kv_heads) * -(-case.context // case.reading.page)
    return 2.0 * case.tokens * row + scores


def layers_wanted(row: Mapping[str, Any], l2: float, memory: float) -> int:
    """Layers to time together: as many as it takes for `COLD` times the L2 to pass through it from one execution of a
    layer to the next, at least two if they fit into `memory` bytes, at most the model's. 0 if not even one fits.
    """
    size = sizes(row)
    wanted = max(2, -(-COLD * l2 // size.cold))
    fit = (memory - size.warm) // size.memory
    return int(max(0, min(wanted, fit, load_model(str(row["model"])).layers)))


def kinetics_rows(
    memory: float, *, models: Sequence[str] = MODELS, shares: Sequence[int] = SHARES, dtype: str = "bf16"
) -> Iterator[dict[str, Any]]:
    """Rows of the table `kinetics` for a GPU of `memory` bytes: of every point the dense layer, then the sparse one.

    Batches go as far as weights and KV cache of the whole model leave room; the paper's points only need one layer.
    """
    for name in models:
        model = load_model(name)
        for tp in shares:
            if not divides(model, tp):
                continue
            points = [(b, c) for c in CONTEXTS for b in BATCHES if fits(model, tp, b, c, dtype, memory)]
            points += PAPER_POINTS if tp == 8 else ()
            for batch, context in points:
                row = {"model": name, "dtype": dtype, "kv_dtype": dtype, "tp": tp, "batch": batch}
                row |= {"context_len": context}
                pair = (
                    row | {"attention": DENSE, "page": 0, "budget": 0},
                    row | {"attention": BLOCK_TOPK, "page": PAGE, "budget": BUDGET},
                )
                if sizes(pair[1]).memory < USABLE * memory:
                    yield from pair


def fits(model: Model, tp: int, batch: int, context: int, dtype: str, memory: float) -> bool:
    """Whether a whole model and the KV cache of the batch fit on each of `tp` GPUs."""
    kv = model.kv_bytes_per_token(dtype) * max(1, model.kv_heads // tp) / model.kv_heads
    return model.weight_bytes(dtype) / tp + batch * context * kv <= USABLE * memory
