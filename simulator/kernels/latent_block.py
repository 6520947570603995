"""What a block of latent attention (MLA) is made of, with or without DSA's lightning indexer: its kernels one by one.

A block is measured as a whole, from the layer's normalised hidden states to the output projection's result:

    down-projection; q up-projection; expanded: keys and values out of the latent (kv up-projection);
    absorbed: queries into the latent and results out of it, one small matrix a head; rotation, concatenation,
    quantisation, write to the cache; attention; output projection;
    with an indexer: its query, key and weight projections, a score of every token of the past, the choice of the best.

Prefill expands (2 heads (nope + rope + value) FLOPs a pair of query and key), decode and a sparse prefill absorb
(2 heads (kv_rank + rope + kv_rank)), DeepSeek-V2 (arXiv 2405.04434, section 2.1); the indexer scores with
2 index_heads x index_dim FLOPs a pair in fp8 (DeepSeek-V3.2-Exp's report, section 2). Each kernel has a roofline of its
own, and their times add up: `Parts` keeps seconds by what bounds them at rates that are used in full, `mla_module` and
`dsa_module` say which parts a kernel has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.attention_prefill import causal_pairs
from simulator.kernels.attention_traits import exp_rate, log2, missing
from simulator.kernels.base import Constant, Constants, KernelWork, Shape, Terms
from simulator.kernels.formats import FORMATS, compute_rate

KV_RANK, ROPE, INDEX_DIM = 512.0, 64.0, 128.0
"""The same in all published models: DeepSeek-V3 and V3.2, Kimi-K2, GLM-5."""
WIDTH = KV_RANK + ROPE
"""Elements of the latent that a token caches."""
INDEX_BYTES = INDEX_DIM + 4
"""Of a token's index key: fp8 and one fp32 scale."""
SPARSE_FP8 = 656.0
"""Bytes of a token in the fp8 cache of FlashMLA's sparse kernels: 512 fp8, four fp32 scales, 64 bf16 of the rope."""
TILE = 128.0


class Dims(NamedTuple):
    """Widths of the model: of its hidden states, of the query's latent, of a head's keys without rope and of its
    values; the indexer's heads, and the tokens that it chooses.
    """

    hidden: Any
    q_rank: Any
    nope: Any
    value: Any
    index_heads: Any
    top_k: Any


DEEPSEEK = Dims(7168.0, 1536.0, 128.0, 128.0, 64.0, 2048.0)
GLM = Dims(6144.0, 2048.0, 192.0, 256.0, 32.0, 2048.0)
MODELS = {"deepseek-ai/DeepSeek-V3": DEEPSEEK, "deepseek-ai/DeepSeek-V3.2": DEEPSEEK, "zai-org/GLM-5": GLM}
"""Of the models that tables name; `Kimi-K2` and whatever is not here has DeepSeek's."""


def dims_of(model: str) -> Dims:
    """Of a table's `model`, whose name may end in that of a format."""
    return next((dims for name, dims in sorted(MODELS.items(), reverse=True) if model.startswith(name)), DEEPSEEK)


def dims(shape: Shape, model: str = "") -> Dims:
    """Those columns that the shape has, else the model's."""
    known = dims_of(model)
    return Dims(*(np.asarray(shape.get(n, v), dtype=float) for n, v in zip(Dims._fields, known, strict=True)))


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
    count, query, past = (np.asarray(shape[c], dtype=float) for c in ("batch", "query_len", "past_len"))
    return Batch(count * query, count * (past + query), count * causal_pairs(query, past, 0), past + query)


def capped_pairs(shape: Shape, cap: Any) -> Any:
    """Pairs of a query and a key where each query reads `cap` of its past at the most."""
    query, past = (np.asarray(shape[c], dtype=float) for c in ("query_len", "past_len"))
    return np.asarray(shape["batch"], dtype=float) * causal_pairs(query, past, cap)


class Part(NamedTuple):
    """Seconds of one kernel by what may bound it: tensor cores, HBM, L2; they overlap."""

    compute: Any
    memory: Any = 0.0
    l2: Any = 0.0


def gemm(m: Any, n: Any, k: Any, dtype: str, gpu: Gpu, c: Constants, stay: Any) -> Part:
    """A projection of `m` rows in tiles of 128 x 128, dealt to the SMs in waves that are smoothed in part.

    stay : the part of its operands that has to come from HBM.
    """
    form = FORMATS[dtype]
    tiles = np.ceil(m / TILE) * np.ceil(n / TILE)
    load = np.maximum(tiles / gpu.sms, 1e-9)
    waves = np.maximum(load, (np.ceil(load) / load) ** c["waves"] * load) * (m > 0)
    compute = 2 * waves * gpu.sms * TILE * TILE * (k + c["fill"]) / (c["gemm"] * compute_rate(dtype, gpu))
    weights, rows = n * k * form.weight * (m > 0), m * (2 * k + 2 * n)
    memory = (weights + c["rows"] * rows) * stay / (c["weights"] * gpu.memory.bandwidth)
    through = (weights + rows) / (c["l2"] * gpu.l2.bandwidth)
    return Part(compute, memory, through)


def quantised(m: Any, k: Any, gpu: Gpu, c: Constants) -> Part:
    """The rows of a projection to a narrower format, scales by groups: a matter of instructions more than of bytes."""
    return Part(m * k / (c["quantise"] * gpu.sms * gpu.boost_clock), 3 * m * k / (c["memory"] * gpu.memory.bandwidth))


def together(latency: Any, parts: Iterable[Part], sharpness: float) -> Terms:
    """Kernels that follow one another: each takes the p-norm of its parts, and the sum is what `Terms.seconds` gives.

    Every kernel's time is given to what bounds it, in proportion to the p-th powers.
    """
    compute: Any = 0.0
    memory: Any = 0.0
    l2: Any = 0.0
    total: Any = 0.0
    for part in parts:
        busy = Terms(0.0, part.compute, part.memory, part.l2, 0.0).busy(sharpness)
        safe = np.maximum(busy, 1e-300)
        compute = compute + busy * (part.compute / safe) ** sharpness
        memory = memory + busy * (part.memory / safe) ** sharpness
        l2 = l2 + busy * (part.l2 / safe) ** sharpness
        total = total + busy
    scale = total / np.maximum(Terms(0.0, compute, memory, l2, 0.0).busy(sharpness), 1e-300)
    return Terms(latency, compute * scale, memory * scale, l2 * scale, 0.0)


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
    heads, query = (np.asarray(shape[c], dtype=float) for c in ("q_heads", "query_len"))
    step = batch_of(shape)
    if block.expanded:
        rows = np.ceil(query / block.tile) * block.tile / query
        pairs = step.pairs + step.tokens * TILE / 2
        width = size.nope + ROPE + size.value
        through = np.ceil(query / block.tile) * step.keys * heads * width * 2
        return Counts(heads * np.minimum(rows, 2.0), pairs, step.keys, through, 2 * width)
    width = WIDTH + KV_RANK
    if block.sparse:
        rows = np.ceil(heads / block.tile) * block.tile
        seen = capped_pairs(shape, size.top_k)
        part = np.where(heads < block.converts, 1.0, masked)
        pairs = seen + part * (step.tokens * size.top_k - seen)
        keys = np.minimum(step.keys, pairs)
        return Counts(rows, pairs, keys, pairs * np.ceil(heads / block.tile) * block.token, 2 * width)
    tiles = np.ceil(heads * query / block.tile)
    return Counts(tiles * block.tile / query, step.pairs, step.keys, tiles * step.keys * block.token, 2 * width)


def projections(shape: Shape, block: Block, size: Dims) -> list[tuple[Any, Any, Any, str]]:
    """(m, n, k, format) of the block's matrices; an empty format is the block's own."""
    heads, step = np.asarray(shape["q_heads"], dtype=float), batch_of(shape)
    found = [
        (step.tokens, size.q_rank + WIDTH, size.hidden, ""),
        (step.tokens, heads * (size.nope + ROPE), size.q_rank, ""),
        (step.tokens, size.hidden, heads * size.value, ""),
    ]
    if block.expanded:
        found.append((step.keys, heads * (size.nope + size.value), KV_RANK, ""))
    if block.indexed:
        runs = np.asarray(shape.get("indexer", 1.0), dtype=float)
        found.append((step.tokens * runs, size.index_heads * INDEX_DIM, size.q_rank, ""))
        found.append((step.tokens * runs, INDEX_DIM + size.index_heads, size.hidden, ""))
    return found


def elements(matrices: list[tuple[Any, Any, Any, str]]) -> Any:
    """Of those matrices that have rows to multiply."""
    return sum(n * k * (m > 0) for m, n, k, _ in matrices)


def parts(shape: Shape, label: Mapping[str, str], block: Block, size: Dims, gpu: Gpu, c: Constants) -> list[Part]:
    """The block's kernels, one after another."""
    heads, step = np.asarray(shape["q_heads"], dtype=float), batch_of(shape)
    dtype, bandwidth = label["gemm_dtype"], c["memory"] * gpu.memory.bandwidth
    work = counts(shape, block, size, c["masked"])
    weights = elements(projections(shape, block, size)) * FORMATS[dtype].weight
    cached = np.minimum(work.keys, step.keys) * block.token
    rows = step.tokens * (2 * WIDTH + 3 * heads * (size.nope + ROPE) + 2 * heads * size.value) * 2
    if block.expanded:
        rows = rows + step.keys * heads * (2 * size.nope + ROPE + size.value) * 2
    stay = missing(weights + cached + rows, gpu, c["resident"])
    matrices = projections(shape, block, size)
    found = [gemm(m, n, k, form or dtype, gpu, c, stay) for m, n, k, form in matrices]
    if dtype != "bf16":
        found += [quantised(m, k, gpu, c) for m, _, k, _ in matrices]
    passes = rows / 2 / (c["pass"] * gpu.sms * gpu.boost_clock)
    found.append(Part(passes, c["rows"] * rows * stay / bandwidth, rows / (c["l2"] * gpu.l2.bandwidth)))
    if not block.expanded:
        absorbed = heads * KV_RANK * (size.nope + size.value)
        moved = heads * (size.nope + size.value + 2 * KV_RANK) * step.tokens * 2
        compute = 2 * np.maximum(step.tokens, 64.0) * absorbed / (c["absorb"] * compute_rate("bf16", gpu))
        found.append(Part(compute, (2 * absorbed + moved) * stay / bandwidth, moved / (c["l2"] * gpu.l2.bandwidth)))
    name = "expanded" if block.expanded else "sparse" if block.sparse else "absorbed"
    part = np.where(heads < block.converts, c["converts"], c[name]) if block.converts else c[name]
    pair = work.flops / (part * compute_rate(block.dtype, gpu)) + c["exp"] / exp_rate(gpu)
    compute = work.pairs * work.rows * pair
    found.append(Part(compute, cached * stay / bandwidth, work.through / (c["gather"] * gpu.l2.bandwidth)))
    if block.scored:
        runs = np.asarray(shape.get("indexer", 1.0), dtype=float)
        choice = step.longest > size.top_k
        flops = 2 * size.index_heads * INDEX_DIM * step.pairs * runs
        keys = step.keys * INDEX_BYTES * runs
        logits = 4 * step.pairs * runs
        found.append(
            Part(
                flops / (c["scores"] * compute_rate("fp8", gpu)),
                (keys * stay + missing(logits, gpu, c["resident"]) * logits) / bandwidth,
                (keys + logits) / (c["l2"] * gpu.l2.bandwidth),
            )
        )
        load = step.tokens * runs / gpu.sms
        turns = np.maximum(load, 1.0) * choice * runs
        select = turns * (c["row"] + c["element"] * step.longest) / gpu.boost_clock
        found.append(Part(select, missing(logits, gpu, c["resident"]) * logits * c["passes"] / bandwidth))
    return found


def roof(shape: Shape, label: Mapping[str, str], block: Block, size: Dims, gpu: Gpu) -> Any:
    """Seconds of useful FLOPs at the peaks, or of weights and cache through the fastest level."""
    heads, step = np.asarray(shape["q_heads"], dtype=float), batch_of(shape)
    read = capped_pairs(shape, size.top_k) if block.sparse else step.pairs
    width = size.nope + ROPE + size.value if block.expanded else WIDTH + KV_RANK
    matrices = projections(shape, block, size)
    seconds = sum(2 * m * n * k for m, n, k, _ in matrices) / compute_rate(label["gemm_dtype"], gpu)
    seconds = seconds + 2 * width * heads * read / compute_rate(block.dtype, gpu)
    weights = elements(matrices) * FORMATS[label["gemm_dtype"]].weight
    if not block.expanded:
        seconds = seconds + 2 * step.tokens * heads * KV_RANK * (size.nope + size.value) / compute_rate("fp8", gpu)
    if block.scored:
        flops = 2 * size.index_heads * INDEX_DIM * step.pairs * np.asarray(shape.get("indexer", 1.0), dtype=float)
        seconds = seconds + flops / compute_rate("fp8", gpu)
    total = weights + np.minimum(step.keys, read) * block.token
    return np.maximum(seconds, total / max(gpu.l2.bandwidth, gpu.memory.bandwidth))


def work(shape: Shape, label: Mapping[str, str], block: Block, size: Dims, gpu: Gpu) -> KernelWork:
    """FLOPs with padded rows; weights and cache from HBM as far as they do not fit into the L2."""
    heads, step = np.asarray(shape["q_heads"], dtype=float), batch_of(shape)
    done = counts(shape, block, size)
    matrices = projections(shape, block, size)
    flops = sum(2 * m * n * k for m, n, k, _ in matrices) + done.flops * done.rows * done.pairs
    if not block.expanded:
        flops = flops + 2 * step.tokens * heads * KV_RANK * (size.nope + size.value)
    total = elements(matrices) * FORMATS[label["gemm_dtype"]].weight
    total = total + np.minimum(done.keys, step.keys) * block.token
    if block.scored:
        runs = np.asarray(shape.get("indexer", 1.0), dtype=float)
        flops = flops + 2 * size.index_heads * INDEX_DIM * step.pairs * runs
        total = total + step.keys * INDEX_BYTES * runs
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
    linear = sum(2 * m * n * k for m, n, k, _ in matrices)
    attention = done.flops * done.rows * done.pairs
    runs = np.asarray(shape.get("indexer", 1.0), dtype=float) if block.scored else 0.0
    scores = 2 * size.index_heads * INDEX_DIM * step.pairs * runs
    units = batch * (heads * np.ceil(query / block.tile) if block.expanded else np.ceil(heads * query / block.tile))
    load = units / gpu.sms
    rows = np.ceil(step.tokens / TILE)
    blocks = [
        rows * np.ceil(n / TILE) / gpu.sms for n in (size.hidden, heads * (size.nope + ROPE), size.q_rank + WIDTH)
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
CONSTANTS = {
    "sharpness": Constant(3.0, 1.5, 10.0),
    "launch": Constant(4e-5, 5e-6, 3e-3),
    "gemm": Constant(0.65, 0.3, 0.85),
    "fill": Constant(200.0, 1.0, 2000.0),
    "waves": Constant(0.5, 0.01, 1.0),
    "weights": Constant(0.8, 0.4, 0.95),
    "rows": Constant(1.0, 0.1, 4.0),
    "quantise": Constant(32.0, 0.5, 256.0),
    "pass": Constant(32.0, 1.0, 256.0),
    "memory": Constant(0.8, 0.4, 0.95),
    "l2": Constant(0.6, 0.1, 2.0),
    "gather": Constant(0.6, 0.05, 4.0),
    "absorb": Constant(0.4, 0.02, 0.85),
    "exp": Constant(0.3, 1e-3, 2.0),
    "resident": Constant(0.5, 0.05, 2.0),
}
"""What both modules fit; `masked` and the attention's own are each module's."""
