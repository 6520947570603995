"""Physics of a mixture-of-experts layer: two grouped GEMMs over the experts that are hit, and what moves the tokens.

The kernel is measured as a whole: routing, permutation or indirect gather, activation quantisation, the up (and gate)
GEMM, the activation function, the down GEMM, the weighted sum. A GPU of an expert-parallel group holds `experts / ep`
experts of width `intermediate / tp` and gets its part of the `tokens x top_k` pairs of the whole group.

Pairs per expert follow the routing. Balanced: all alike, as far as whole tokens allow. Skewed: x ~ x^-skew between 1
and 0.8 x tokens, scaled to the number of pairs; its moments below are closed forms. With expert parallelism the time
is that of the most loaded GPU: the largest of `ep` sums of `experts / ep` draws.

A simulated step knows better what its most loaded GPU gets: two more columns, `pairs` and `hit` (`simulator.routing`),
of which the physics makes use. No table has them: corrections stay those of a balanced routing of as many tokens. With
an all-to-all fewer tokens than all come to a GPU, `arriving` of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.base import Constant, Constants, KernelModel, KernelWork, Label, Shape, Terms
from simulator.kernels.formats import FORMATS, compute_rate

COLUMNS = ("tokens", "hidden", "intermediate", "top_k", "experts", "tp", "ep", "skew", "gated")
TILE_N = 128.0
LARGEST = 0.8
"""The most tokens that a skewed routing gives one expert before scaling, as a fraction of all."""
EXCESS = 0.8
"""Of the largest of `ep` normal draws, sqrt(2 ln ep) standard deviations above the mean: it is less for few draws."""

GROUPED = ("fp8_block", "nvfp4")
"""Formats in which DeepSeek's shape is measured with its routing by groups: even where `balanced`, tokens go to one
half of the experts, the first ones, about 4 + 4 x tokens of them while these are few. With expert parallelism the first
GPU gets twice its share.
"""


class _Load(NamedTuple):
    """What one GPU gets. experts : held. hit : of these with work. pairs : of a token and an expert. largest : pairs of
    one expert. width : of an expert. matrices : 3 with a gate. tile : rows of a tile. tiles : all of them, whole.
    """

    experts: Any
    hit: Any
    pairs: Any
    largest: Any
    width: Any
    matrices: Any
    tile: Any
    tiles: Any


def _moment(power: Any, alpha: Any, top: Any) -> Any:
    """Integral of x^(power - alpha) from 1 to `top`."""
    p = power - alpha + 1
    p = np.where(np.abs(p) < 1e-6, 1e-6, p)
    return (top**p - 1) / p


def _load(shape: Shape, label: Label) -> _Load:
    """Experts hit and pairs on the most loaded GPU."""
    columns = (np.asarray(shape[name], dtype=np.float64) for name in COLUMNS)
    tokens, hidden, inter, top_k, experts, tp, ep, skew, gated = columns
    held = np.maximum(experts / ep, 1.0)
    pairs = tokens * top_k / ep
    grouped = (hidden == 7168) & (inter == 2048) & (experts == 256) & (skew == 0)
    hit = np.clip(pairs, 1.0, held)
    if label["dtype"] in GROUPED and np.any(grouped):
        pairs = np.where(grouped, np.minimum(2.0, ep) * pairs, pairs)
        some = np.clip((4 + 4 * tokens) * np.minimum(2 / ep, 1.0), 1.0, np.minimum(held, experts / 2))
        hit = np.where(grouped, np.minimum(some, np.maximum(pairs, 1.0)), hit)
    given = "pairs" in shape
    if given:
        pairs, hit = (np.maximum(np.asarray(shape[name], dtype=np.float64), 1.0) for name in ("pairs", "hit"))
    largest = np.maximum(np.ceil(pairs / hit), 1.0)
    if np.any(skew > 0):
        alpha = np.where(skew > 0, skew, 1.0)
        top = np.maximum(LARGEST * tokens, 1.01)
        norm = _moment(0.0, alpha, top)
        mean = _moment(1.0, alpha, top) / norm
        spread = np.sqrt(np.maximum(_moment(2.0, alpha, top) / norm - mean * mean, 0.0)) / mean
        excess = EXCESS * np.sqrt(2 * np.log(ep) / held) * spread
        some = np.minimum(pairs * (1 + excess), np.minimum(tokens * np.minimum(top_k, held), pairs * ep))
        each = tokens * top_k / experts / mean  # pairs of an expert with x = 1
        one = np.clip(1 / each, 1.0, top)  # the x that gets one pair
        below = np.where(one > 1, each * _moment(1.0, alpha, one), 0.0)
        hits = held * (below + norm - _moment(0.0, alpha, one)) / norm
        skewed = skew > 0
        pairs = np.where(skewed, np.maximum(some, 1.0), pairs)
        hit = np.where(skewed, np.clip(hits, 1.0, np.minimum(held, np.maximum(pairs, 1.0))), hit)
        largest = np.where(skewed, np.clip(each * top, np.ceil(pairs / hit), tokens), largest)
    pairs = np.maximum(pairs, 1.0)
    each_hit = pairs / hit
    tile = np.clip(2 ** np.ceil(np.log2(each_hit)), 16.0, 128.0)
    even = hit * np.ceil(each_hit / tile)
    # Where experts get different numbers of rows, their last tiles are half full on average.
    tiles = np.where((skew > 0) | given, pairs / tile + hit * 0.5, even)
    tiles = np.maximum(tiles, hit)
    return _Load(held, hit, pairs, largest, inter / tp, 2.0 + gated, tile, tiles)


class _Parts(NamedTuple):
    """FLOPs of the two GEMMs per row of a tile; bytes of weights, of rows moved per pair and per token, through the L2;
    blocks of the two GEMMs.
    """

    up: Any
    down: Any
    weights: Any
    moved: Any
    spread: Any
    l2: Any
    blocks_up: Any
    blocks_down: Any


def _parts(load: _Load, shape: Shape, label: Label) -> _Parts:
    kind = FORMATS[label["dtype"]]
    hidden = np.asarray(shape["hidden"], dtype=np.float64)
    tokens = np.asarray(shape.get("arriving", shape["tokens"]), dtype=np.float64)
    up = (load.matrices - 1) * load.width
    columns_up, columns_down = np.ceil(up / TILE_N), np.ceil(hidden / TILE_N)
    weights = load.hit * hidden * (up + load.width) * kind.weight
    # Write and read the permuted rows, the up result, the activated one, the rows to sum.
    moved = load.pairs * (hidden * (2 * kind.act + 4) + up * 4 + load.width * 2 * kind.act)
    # Tokens read and their sums written; some kernels also clear and sum rows for experts of other GPUs.
    spread = tokens * hidden * 4
    rows = load.tiles * load.tile * kind.act
    l2 = weights * load.tiles / load.hit + rows * (hidden * columns_up + load.width * columns_down)
    return _Parts(
        2 * load.tiles * columns_up * TILE_N * hidden,
        2 * load.tiles * columns_down * TILE_N * load.width,
        weights,
        moved,
        spread,
        l2,
        load.tiles * columns_up,
        load.tiles * columns_down,
    )


def terms(shape: Shape, label: Label, gpu: Gpu, constants: Constants) -> Terms:
    """Seconds. Weights stream from HBM once per expert hit; blocks fill the SMs in waves, partly smoothed.

    A block of few rows takes as long as one of `rows` more, and one of a short inner dimension as if it were `fill`
    longer (pipeline fill, epilogue). What moves rows runs before and after the GEMMs, so its time is added to each of
    their overlapping parts; kernels that clear and sum rows for every pair, held here or not, do `all_pairs` more.
    """
    load = _load(shape, label)
    part = _parts(load, shape, label)
    hidden = np.asarray(shape["hidden"], dtype=np.float64)
    waves_up, waves_down = part.blocks_up / gpu.sms, part.blocks_down / gpu.sms
    power, fill = constants["waves"], constants["fill"]
    up = part.up * (1 + fill / hidden) * (np.ceil(waves_up) / waves_up) ** power
    down = part.down * (1 + fill / load.width) * (np.ceil(waves_down) / waves_down) ** power
    rate = constants["compute"] * compute_rate(label["dtype"], gpu)
    compute = (load.tile + constants["rows"]) * (up + down) / rate
    spread = part.spread * (1 + constants["all_pairs"] * np.asarray(shape["top_k"], dtype=np.float64))
    moved = (part.moved + spread) / (constants["moved"] * gpu.memory.bandwidth)
    memory = part.weights / (constants["weights"] * gpu.memory.bandwidth)
    l2 = part.l2 / (constants["l2"] * gpu.l2.bandwidth)
    latency = (
        constants["overhead"] + constants["per_expert"] * load.experts + constants["per_k"] * (hidden + load.width)
    )
    return Terms(latency, compute + moved, memory + moved, l2 + moved, 0.0)


def roof(shape: Shape, label: Label, gpu: Gpu) -> Any:
    """Seconds of useful FLOPs at the peak, and of the hit experts' weights at the fastest level that holds them.

    Both for the mean GPU of the group. Only half of the experts that a skewed routing should hit are sure to be hit,
    and seven tenths of a balanced one's with fewer pairs than experts.
    """
    load = _load(shape, label)
    part = _parts(load, shape, label)
    hidden = np.asarray(shape["hidden"], dtype=np.float64)
    skew = np.asarray(shape["skew"], dtype=np.float64)
    pairs = np.asarray(shape["tokens"], dtype=np.float64) * shape["top_k"] / shape["ep"]
    compute = 2 * np.minimum(load.pairs, pairs) * hidden * load.width * load.matrices
    weights = part.weights * np.where(skew > 0, 0.5, np.where(load.pairs < load.experts, 0.7, 1.0))
    quicker = np.maximum(gpu.l2.bandwidth, gpu.memory.bandwidth)
    level = np.where(part.weights < gpu.l2.size, quicker, gpu.memory.bandwidth)
    return np.maximum(compute / compute_rate(label["dtype"], gpu), weights / level)


def work(shape: Shape, label: Label, gpu: Gpu) -> KernelWork:
    """FLOPs of whole tiles; rows between the two GEMMs stay in the L2 while they fill less than half of it."""
    load = _load(shape, label)
    part = _parts(load, shape, label)
    rows = part.moved + part.spread
    hbm = part.weights + np.where(part.moved < 0.5 * gpu.l2.size, part.spread, rows)
    active = np.minimum((part.blocks_up + part.blocks_down) / 2 / gpu.sms, 1.0)
    return KernelWork(load.tile * (part.up + part.down), hbm, part.l2 + rows, active)


NAMES = (
    "log_tokens",
    "log_hidden",
    "log_width",
    "log_inter",
    "top_k",
    "log_experts",
    "log_held",
    "log_tp",
    "log_ep",
    "skew",
    "gated",
    "log_pairs",
    "log_hit",
    "hit_part",
    "log_each",
    "log_largest",
    "padding",
    "log_waves_up",
    "tail_up",
    "log_waves_down",
    "tail_down",
    "weights_l2",
    "moved_l2",
    "intensity",
    "log_tokens_expert",
    "log_tokens_held",
    "log_all_pairs",
    "width_128",
    "hidden_256",
)


def features(shape: Shape, label: Label, gpu: Gpu) -> list[Any]:
    """As NAMES. Kernels choose their tiles by tokens over experts (of the model, or those held), hence the ratios."""
    load = _load(shape, label)
    hidden = np.asarray(shape["hidden"], dtype=np.float64)
    part = _parts(load, shape, label)
    waves_up, waves_down = part.blocks_up / gpu.sms, part.blocks_down / gpu.sms
    tokens, experts = np.asarray(shape["tokens"], dtype=np.float64), np.asarray(shape["experts"], dtype=np.float64)
    log = np.log2
    return [
        log(tokens),
        log(hidden),
        log(load.width),
        log(np.asarray(shape["intermediate"], dtype=np.float64)),
        shape["top_k"],
        log(experts),
        log(load.experts),
        log(np.asarray(shape["tp"], dtype=np.float64)),
        log(np.asarray(shape["ep"], dtype=np.float64)),
        shape["skew"],
        shape["gated"],
        log(load.pairs),
        log(load.hit),
        load.hit / load.experts,
        log(load.pairs / load.hit),
        log(load.largest),
        load.pairs / (load.tiles * load.tile),
        log(waves_up),
        np.ceil(waves_up) / waves_up,
        log(waves_down),
        np.ceil(waves_down) / waves_down,
        log(part.weights / gpu.l2.size),
        log(part.moved / gpu.l2.size),
        log(load.tiles * load.tile / load.hit),
        log(tokens / experts),
        log(tokens / load.experts),
        log(tokens * shape["top_k"]),
        np.mod(load.width, 128.0) / 128.0,
        np.mod(hidden, 256.0) / 256.0,
    ]


MOE = KernelModel(
    kind="moe",
    columns=COLUMNS,
    labels=("kernel", "dtype"),
    constants={
        "overhead": Constant(15e-6, 1e-6, 200e-6),
        "per_expert": Constant(1e-8, 1e-10, 1e-6),
        "per_k": Constant(5e-10, 1e-12, 1e-8),
        "compute": Constant(0.6, 0.05, 1.2),
        "weights": Constant(0.8, 0.2, 1.0),
        "moved": Constant(0.6, 0.1, 3.0),
        "all_pairs": Constant(0.5, 1e-3, 4.0),
        "rows": Constant(16.0, 1.0, 100.0),
        "fill": Constant(100.0, 1.0, 1000.0),
        "waves": Constant(0.3, 0.01, 1.0),
        "l2": Constant(2.0, 0.1, 5.0),
        "sharpness": Constant(3.0, 1.2, 10.0),
    },
    terms=terms,
    roof=roof,
    work=work,
    features=features,
    names=NAMES,
)
