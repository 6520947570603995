"""What a block of latent attention (MLA) is made of, with or without DSA's lightning indexer: its kernels one by one.

A block is measured as a whole, from the layer's normalised hidden states to the output projection's result:

    down-projection; q up-projection; expanded: keys and values out of the latent (kv up-projection);
    absorbed: queries into the latent and results out of it, one small matrix a head; rotation, concatenation,
    quantisation, write to the cache; attention; output projection;
    with an indexer: its query, key and weight projections, a score of every token of the past, the choice of the best.

Prefill expands (2 heads (nope + rope + value) FLOPs a pair of query and key), decode and a sparse prefill absorb
(2 heads (kv_rank + rope + kv_rank)), DeepSeek-V2 (arXiv 2405.04434, section 2.1); the indexer scores with
2 index_heads x index_dim FLOPs a pair in fp8 (DeepSeek-V3.2-Exp's report, section 2). Here is how much of everything
there is; what it takes is in `latent_time`, and which parts a kernel has in `mla_module` and `dsa_module`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.attention_traits import log2, missing
from simulator.kernels.base import KernelWork, Shape
from simulator.kernels.formats import FORMATS, compute_rate

KV_RANK, ROPE, INDEX_DIM = 512.0, 64.0, 128.0
"""The same in all models of the tables: DeepSeek-V3 and V3.2, Kimi-K2, GLM-5."""
TILE = 128.0


class Dims(NamedTuple):
    """Widths of the model: of its hidden states, of the query's latent, of a head's keys without rope and of its
    values; the indexer's heads, and the tokens that it chooses; elements of the latent, of its rotary key and of an
    index key.
    """

    hidden: Any
    q_rank: Any
    nope: Any
    value: Any
    index_heads: Any
    top_k: Any
    kv_rank: Any = KV_RANK
    rope: Any = ROPE
    index_dim: Any = INDEX_DIM

    @property
    def width(self) -> Any:
        """Elements that a token caches."""
        return self.kv_rank + self.rope

    @property
    def index_bytes(self) -> Any:
        """Of a token's index key: fp8 and one fp32 scale."""
        return self.index_dim + 4

    @property
    def sparse_fp8(self) -> Any:
        """Bytes of a token in the fp8 cache of FlashMLA's sparse kernels: the latent in fp8 with an fp32 scale for each
        128 of it, the rotary key in bf16; 656 of DeepSeek's.
        """
        return self.kv_rank * (1 + 4 / 128) + 2 * self.rope


DEEPSEEK = Dims(7168.0, 1536.0, 128.0, 128.0, 64.0, 2048.0)
GLM = Dims(6144.0, 2048.0, 192.0, 256.0, 32.0, 2048.0)
MODELS = {"deepseek-ai/DeepSeek-V3": DEEPSEEK, "deepseek-ai/DeepSeek-V3.2": DEEPSEEK, "zai-org/GLM-5": GLM}
"""Of the models that tables name; `Kimi-K2` and whatever is not here has DeepSeek's."""


def number(value: Any) -> Any:
    """A float, or an array of them: numbers of Python are many times quicker than arrays of one."""
    return float(value) if np.ndim(value) == 0 else np.asarray(value, dtype=float)


def dims_of(model: str) -> Dims:
    """Of a table's `model`, whose name may end in that of a format."""
    return next((dims for name, dims in sorted(MODELS.items(), reverse=True) if model.startswith(name)), DEEPSEEK)


def dims(shape: Shape, model: str = "") -> Dims:
    """Those columns that the shape has, else the model's."""
    known = dims_of(model)
    return Dims(*(number(shape.get(name, value)) for name, value in zip(Dims._fields, known, strict=True)))


class Batch(NamedTuple):
    """Counts of a step.

    tokens : new ones. keys : cached and new, of all sequences. pairs : of a query and a key that it may see.
    longest : keys of a sequence.
    """

    tokens: Any
    keys: Any
    pairs: Any
    longest: Any


def batch_of(shape: Shape) -> Batch:
    count, query, past = (number(shape[c]) for c in ("batch", "query_len", "past_len"))
    return Batch(count * query, count * (past + query), count * (query * past + query * (query + 1) / 2), past + query)


def capped_pairs(shape: Shape, cap: Any) -> Any:
    """Pairs of a query and a key where each query reads `cap` of its past at the most."""
    count, query, past = (number(shape[c]) for c in ("batch", "query_len", "past_len"))
    whole = np.minimum(np.maximum(cap - past, 0.0), query)  # queries that read all of their past
    return count * (whole * past + whole * (whole + 1) / 2 + (query - whole) * cap)


class Block(NamedTuple):
    """What a module consists of.

    expanded : keys and values are expanded, as in prefill, else queries absorbed. sparse : attention reads the
    indexer's choice, else everything. scored : the indexer scores the past (it only keeps its keys where all are
    taken). indexed : the model has an indexer. tile : query rows of a thread block; fewer are padded. dtype : that
    attention multiplies in. token : bytes of a cached token. converts : with fewer query heads than this a sparse
    kernel reads the fp8 cache as it is, converts it tile by tile, and computes all `top_k` places, filled or not.
    """

    expanded: bool
    sparse: bool
    scored: bool
    indexed: bool
    tile: float
    dtype: str
    token: float
    converts: float = 0.0


class Counts(NamedTuple):
    """What attention does. rows : query heads of a query, padded to whole tiles. pairs : of a query and a key that it
    reads. keys : read from the cache, every one once. through : bytes of keys and values that thread blocks take.
    """

    rows: Any
    pairs: Any
    keys: Any
    through: Any
    flops: Any


def counts(shape: Shape, block: Block, size: Dims, masked: float = 0.0) -> Counts:
    """masked : how much of a query's places that its past does not fill is computed all the same, 0 to 1."""
    heads, query = (number(shape[c]) for c in ("q_heads", "query_len"))
    step = batch_of(shape)
    if block.expanded:
        rows = np.ceil(query / block.tile) * block.tile / query
        pairs = step.pairs + step.tokens * TILE / 2
        width = size.nope + size.rope + size.value
        through = np.ceil(query / block.tile) * step.keys * heads * width * 2
        return Counts(heads * np.minimum(rows, 2.0), pairs, step.keys, through, 2 * width)
    width = size.width + size.kv_rank
    if block.sparse:
        rows = np.ceil(heads / block.tile) * block.tile
        seen = capped_pairs(shape, size.top_k)
        part = np.where(heads < block.converts, 1.0, masked)
        pairs = seen + part * (step.tokens * size.top_k - seen)
        keys = np.minimum(step.keys, pairs)
        return Counts(rows, pairs, keys, pairs * np.ceil(heads / block.tile) * block.token, 2 * width)
    tiles = np.ceil(heads * query / block.tile)
    return Counts(tiles * block.tile / query, step.pairs, step.keys, tiles * step.keys * block.token, 2 * width)


Matrix = tuple[Any, Any, Any]
"""Rows that are multiplied, outputs, inputs."""


def projections(shape: Shape, block: Block, size: Dims) -> list[Matrix]:
    """The block's linear layers."""
    heads, step = number(shape["q_heads"]), batch_of(shape)
    found = [
        (step.tokens, size.q_rank + size.width, size.hidden),
        (step.tokens, heads * (size.nope + size.rope), size.q_rank),
        (step.tokens, size.hidden, heads * size.value),
    ]
    if block.expanded:
        found.append((step.keys, heads * (size.nope + size.value), size.kv_rank))
    if block.indexed:
        rows = step.tokens * number(shape.get("indexer", 1.0))
        found.append((rows, size.index_heads * size.index_dim, size.q_rank))
        found.append((rows, size.index_dim + size.index_heads, size.hidden))
    return found


def elements(matrices: list[Matrix]) -> Any:
    """Of those matrices that have rows to multiply."""
    return sum(n * k * (m > 0) for m, n, k in matrices)


def roof(shape: Shape, label: Mapping[str, str], block: Block, size: Dims, gpu: Gpu) -> Any:
    """Seconds of useful FLOPs at the peaks, or of weights and cache through the fastest level."""
    heads, step = number(shape["q_heads"]), batch_of(shape)
    read = capped_pairs(shape, size.top_k) if block.sparse else step.pairs
    width = size.nope + size.rope + size.value if block.expanded else size.width + size.kv_rank
    matrices = projections(shape, block, size)
    seconds = sum(2 * m * n * k for m, n, k in matrices) / compute_rate(label["gemm_dtype"], gpu)
    seconds = seconds + 2 * width * heads * read / compute_rate(block.dtype, gpu)
    weights = elements(matrices) * FORMATS[label["gemm_dtype"]].weight
    if not block.expanded:
        seconds = seconds + 2 * step.tokens * heads * size.kv_rank * (size.nope + size.value) / compute_rate("fp8", gpu)
    if block.scored:
        flops = 2 * size.index_heads * size.index_dim * step.pairs * number(shape.get("indexer", 1.0))
        seconds = seconds + flops / compute_rate("fp8", gpu)
    total = weights + np.minimum(step.keys, read) * block.token
    return np.maximum(seconds, total / np.maximum(gpu.l2.bandwidth, gpu.memory.bandwidth))


def work(shape: Shape, label: Mapping[str, str], block: Block, size: Dims, gpu: Gpu) -> KernelWork:
    """FLOPs with padded rows; weights and cache from HBM as far as they do not fit into the L2."""
    heads, step = number(shape["q_heads"]), batch_of(shape)
    done = counts(shape, block, size)
    matrices = projections(shape, block, size)
    flops = sum(2 * m * n * k for m, n, k in matrices) + done.flops * done.rows * done.pairs
    if not block.expanded:
        flops = flops + 2 * step.tokens * heads * size.kv_rank * (size.nope + size.value)
    total = elements(matrices) * FORMATS[label["gemm_dtype"]].weight
    total = total + np.minimum(done.keys, step.keys) * block.token
    if block.scored:
        runs = number(shape.get("indexer", 1.0))
        flops = flops + 2 * size.index_heads * size.index_dim * step.pairs * runs
        total = total + step.keys * size.index_bytes * runs
    active = np.minimum(np.ceil(step.tokens / TILE) * np.ceil(size.hidden / TILE) / gpu.sms, 1.0)
    return KernelWork(flops, total * missing(total, gpu), total + done.through, active)


NAMES = (
    "log_batch",
    "log_query",
    "log_past",
    "log_context",
    "log_heads",
    "log_tokens",
    "log_keys",
    "log_pairs",
    "log_head_pairs",
    "log_head_tokens",
    "log_capped",
    "log_over_cap",
    "log_units_per_sm",
    "fill_of_waves",
    "log_tokens_per_sm",
    "fill_of_rows",
    "waves_out",
    "fill_out",
    "fill_up",
    "fill_down",
    "weights_l2",
    "keys_l2",
    "logits_l2",
    "compute_share",
    "index_share",
    "index_heads",
    "past_part",
)


def features(shape: Shape, label: Mapping[str, str], block: Block, size: Dims, gpu: Gpu) -> list[Any]:
    """As NAMES; logarithms to base 2, shares of counted FLOPs."""
    batch, query, past, heads = (
        np.asarray(shape[c], dtype=float) for c in ("batch", "query_len", "past_len", "q_heads")
    )
    step, done, capped = batch_of(shape), counts(shape, block, size), capped_pairs(shape, size.top_k)
    form = FORMATS[label["gemm_dtype"]]
    matrices = projections(shape, block, size)
    linear = sum(2 * m * n * k for m, n, k in matrices)
    attention = done.flops * done.rows * done.pairs
    runs = number(shape.get("indexer", 1.0)) if block.scored else 0.0
    scores = 2 * size.index_heads * size.index_dim * step.pairs * runs
    units = batch * (heads * np.ceil(query / block.tile) if block.expanded else np.ceil(heads * query / block.tile))
    load = units / gpu.sms
    rows = np.ceil(step.tokens / TILE)
    blocks = [
        rows * np.ceil(n / TILE) / gpu.sms
        for n in (size.hidden, heads * (size.nope + size.rope), size.q_rank + size.width)
    ]
    weights = elements(matrices) * form.weight
    total = linear + attention + scores
    return [
        log2(batch),
        log2(query),
        np.log2(past + 1),
        log2(step.longest),
        log2(heads),
        log2(step.tokens),
        log2(step.keys),
        log2(step.pairs),
        log2(step.pairs * heads),
        log2(step.tokens * heads),
        log2(capped),
        log2(step.pairs / capped),
        log2(load),
        load / np.ceil(load),
        log2(step.tokens / gpu.sms),
        step.tokens / (rows * TILE),
        np.minimum(np.ceil(blocks[0]), 64.0),
        *(b / np.ceil(b) for b in blocks),
        log2(weights / gpu.l2.size),
        log2(step.keys * block.token / gpu.l2.size),
        log2(step.pairs * 4 / gpu.l2.size),
        attention / total,
        scores / total,
        size.index_heads,
        past / step.longest,
    ]


COLUMNS = ("batch", "query_len", "past_len", "q_heads")
