"""Prefill attention: a causal FlashAttention forward pass with grouped query heads, a window and a past.

One program attends BLOCK_M query rows of one sequence over all keys that they see (FlashAttention-2, arXiv 2307.08691,
algorithm 1: online softmax in float32 by exp2, the sum divided once at the end). K and V come by TMA, num_stages deep;
both products are wgmma on Hopper and tcgen05 on Blackwell. Only tiles that some row does not see whole are masked: at
the diagonal and at the edge of the window. Programs start with the longest rows, so that the last ones to run are
short, and go section by section of KV heads whose K and V fit in L2 together. Where there are few queries, the query
heads of a GQA group are rows of one tile (PACK).

What limits it: the tensor cores, and that the softmax of a tile does not overlap with products of the same program:
the barriers of the loop hold its warp groups together. Two programs on an SM hide it (the small tiles); a program of
128 x 128 has none beside it, but wider products. Few queries behind a long past leave SMs idle: keys are not split.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from calibration.kernels.base import (
    BYTES,
    DTYPES,
    Config,
    Kernel,
    Launch,
    Problem,
    Room,
    Row,
    Sizes,
    cdiv,
    empty,
    next_power_of_two,
    random,
)

SECTION_BYTES = 16 * 2**20
"""K and V that programs running at the same time read: they stay in the L2 cache of every GPU of a data centre."""
NO_WINDOW = 2**30
"""More tokens than any sequence has."""
UNSEEN = tl.constexpr(-1.0e30)
"""A score of a key that is not seen: finite, so that a row that has seen none yet stays without NaN. What it then adds
up is multiplied by zero at the first key that it sees, and every row sees one, its own."""


@triton.jit(do_not_specialize=["queries", "past", "window", "kv_heads", "section", "tiles", "batch"])
def prefill_kernel(
    q,
    k_desc,
    v_desc,
    out,
    q_stride,
    q_token_stride,
    q_head_stride,
    out_stride,
    out_token_stride,
    out_head_stride,
    queries,
    past,
    window,
    batch,
    kv_heads,
    tiles,
    section,
    scale_log2,
    GROUP: tl.constexpr,
    PACK: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    """GROUP: query heads of a KV head. PACK: those of them in one tile. A tile has BLOCK_M / PACK query positions."""
    SPAN: tl.constexpr = BLOCK_M // PACK
    PARTS: tl.constexpr = GROUP // PACK
    # Sections of `section` pairs of sequence and KV head; in each, the tiles from the last to the first.
    program = tl.program_id(0)
    per_section = section * PARTS * tiles
    begin = program // per_section * section
    width = tl.minimum(section, batch * kv_heads - begin) * PARTS
    within = program % per_section
    tile = tiles - 1 - within // width
    pair = begin + within % width // PARTS
    part = within % width % PARTS
    sequence = pair // kv_heads
    kv_head = pair % kv_heads

    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, HEAD_DIM)
    query_at = tile * SPAN + rows // PACK
    head = kv_head * GROUP + part * PACK + rows % PACK
    present = (query_at < queries)[:, None]
    q_at = sequence.to(tl.int64) * q_stride + query_at.to(tl.int64) * q_token_stride + head * q_head_stride
    query = tl.load(q + q_at[:, None] + columns[None, :], mask=present, other=0.0)

    position = past + query_at
    lowest = past + tile * SPAN
    highest = tl.minimum(lowest + SPAN, past + queries)  # one more than the last key seen
    acc = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    maximum = tl.full((BLOCK_M,), UNSEEN, tl.float32)
    begin_at = 0
    whole_from = 0
    if WINDOW:
        begin_at = tl.maximum(lowest - window + 1, 0) // BLOCK_N * BLOCK_N
        whole_from = highest - window
    whole_to = lowest + 1
    for start in range(begin_at, highest, BLOCK_N):
        keys = k_desc.load([sequence, start, kv_head, 0]).reshape(BLOCK_N, HEAD_DIM).to(query.dtype)
        scores = tl.dot(query, tl.trans(keys))
        if (start + BLOCK_N > whole_to) | (start < whole_from):
            at = (start + tl.arange(0, BLOCK_N))[None, :]
            seen = at <= position[:, None]
            if WINDOW:
                seen = seen & (at > position[:, None] - window)
            scores = tl.where(seen, scores, UNSEEN)
        peak = tl.maximum(maximum, tl.max(scores, 1) * scale_log2)
        weights = tl.exp2(scores * scale_log2 - peak[:, None])
        shrink = tl.exp2(maximum - peak)
        total = total * shrink + tl.sum(weights, 1)
        maximum = peak
        values = v_desc.load([sequence, start, kv_head, 0]).reshape(BLOCK_N, HEAD_DIM).to(query.dtype)
        acc = tl.dot(weights.to(query.dtype), values, acc * shrink[:, None])
    acc = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    out_at = sequence.to(tl.int64) * out_stride + query_at.to(tl.int64) * out_token_stride + head * out_head_stride
    tl.store(out + out_at[:, None] + columns[None, :], acc.to(out.dtype.element_ty), mask=present)


def prefill(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    past: int,
    window: int,
    room: Room,
    config: Config,
) -> list[Launch]:
    """Launches of the attention of new tokens behind `past` ones.

    Parameters
    ----------
    q, out : [batch, queries, q_heads, head_dim]; fp16 or bf16; head_dim contiguous, a power of two.
    k, v : [batch, past + queries, kv_heads, head_dim], of any strides that are multiples of 16 bytes, head_dim
        contiguous: fp16, bf16 (as q) or fp8 (of scale 1, converted to q's type).
    window : a query sees the last `window` tokens, itself included; 0: all before it.
    config : BLOCK_M, BLOCK_N (query rows and keys of a tile), PACK (query heads of a group in one tile at most, a power
        of two), num_warps, num_stages, and maxnreg (registers of a thread at most) where two programs are to fit an SM.

    Raises
    ------
    ValueError : where the shapes do not fit together.
    """
    batch, queries, q_heads, head_dim = q.shape
    kv_heads = k.shape[2]
    if k.shape != v.shape or k.shape[0] != batch or k.shape[1] != past + queries or k.shape[3] != head_dim:
        raise ValueError(
            f"prefill: K of {tuple(k.shape)}, V of {tuple(v.shape)} for q of {tuple(q.shape)}, past {past}"
        )
    if q_heads % kv_heads or head_dim & (head_dim - 1) or head_dim < 16:
        raise ValueError(f"prefill: {q_heads} query heads, {kv_heads} KV heads of {head_dim}")
    group, block_m, block_n = q_heads // kv_heads, config["BLOCK_M"], config["BLOCK_N"]
    pack = math.gcd(group, config.get("PACK", 1))
    block = [1, block_n, 1, head_dim]
    k_desc = TensorDescriptor(k, list(k.shape), list(k.stride()), block)
    v_desc = TensorDescriptor(v, list(v.shape), list(v.stride()), block)
    tiles = cdiv(queries, block_m // pack)
    bytes_of_head = 2 * k.shape[1] * head_dim * k.element_size()
    section = max(1, min(batch * kv_heads, SECTION_BYTES // bytes_of_head))
    options = {
        "GROUP": group,
        "PACK": pack,
        "WINDOW": bool(window) and window < past + queries,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "HEAD_DIM": head_dim,
        "num_warps": config["num_warps"],
        "num_stages": config["num_stages"],
    }
    if "maxnreg" in config.options:
        options["maxnreg"] = config["maxnreg"]
    arguments = (
        *(q, k_desc, v_desc, out, *q.stride()[:3], *out.stride()[:3]),
        *(queries, past, window or NO_WINDOW, batch, kv_heads, tiles, section),
        math.log2(math.e) / math.sqrt(head_dim),
    )
    return [Launch(prefill_kernel, (batch * kv_heads * (group // pack) * tiles,), arguments, options)]


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, past: int, window: int) -> torch.Tensor:
    """The same in plain torch, float32: [batch, queries, q_heads, head_dim]."""
    batch, queries, q_heads, head_dim = q.shape
    group = q_heads // k.shape[2]
    out = torch.empty(q.shape, dtype=torch.float32, device=q.device)
    at = torch.arange(k.shape[1], device=q.device)
    at_a_time = max(64, 1024 // group)  # a bound on memory
    for sequence in range(batch):
        for kv_head in range(k.shape[2]):
            heads = slice(kv_head * group, (kv_head + 1) * group)
            keys, values = (x[sequence, :, kv_head].float() for x in (k, v))
            for first in range(0, queries, at_a_time):
                rows = q[sequence, first : first + at_a_time, heads].float().transpose(0, 1)
                position = past + first + torch.arange(rows.shape[1], device=q.device)[:, None]
                seen = (at <= position) & (at > position - (window or NO_WINDOW))
                scores = (rows @ keys.T / math.sqrt(head_dim)).masked_fill(~seen, float("-inf"))
                seen_values = (torch.softmax(scores, -1) @ values).transpose(0, 1)
                out[sequence, first : first + at_a_time, heads] = seen_values
    return out


def build(row: Row, room: Room) -> Problem:
    batch, queries, past, window = row["batch"], row["query_len"], row["past_len"], row["window"]
    q_heads, kv_heads, head_dim = row["q_heads"], row["kv_heads"], row["head_dim"]
    dtype, kv_dtype = DTYPES[row["dtype"]], DTYPES[row["kv_dtype"]]
    q = random(room, batch, queries, q_heads, head_dim, dtype=dtype, salt=1)
    out = empty(room, batch, queries, q_heads, head_dim, dtype=dtype)
    if row.get("strided", 0):  # checks only: a cache with room for more tokens, heads outside; what is not there is NaN
        shape = (room.copies, batch, kv_heads, past + queries + 5, head_dim)
        k, v = (random(room, *shape, dtype=kv_dtype, salt=salt) for salt in (2, 3))
        for x in (k, v):
            x[:, :, :, past + queries :] = float("nan")
        k, v = (x[:, :, :, : past + queries].transpose(2, 3) for x in (k, v))
    else:
        shape = (room.copies, batch, past + queries, kv_heads, head_dim)
        k, v = (random(room, *shape, dtype=kv_dtype, salt=salt) for salt in (2, 3))

    def launches(copy: int, config: Config) -> list[Launch]:
        return prefill(q, k[copy], v[copy], out, past, window, room, config)

    baselines = _baselines(q, k, v, past, window) if row["kv_dtype"] == row["dtype"] else {}
    return Problem(launches, lambda: [out], lambda: [reference(q, k[0], v[0], past, window)], baselines)


def _baselines(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, past: int, window: int
) -> dict[str, Callable[[int], object]]:
    """torch's FlashAttention and cuDNN's attention, and the package flash_attn; those fit for a window or a past.

    A function raises where its library is not there, or does not take the shape.
    """
    from torch.nn.attention import SDPBackend, bias, sdpa_kernel

    attention = torch.nn.functional.scaled_dot_product_attention
    tokens, grouped = k.shape[2], q.shape[2] != k.shape[3]

    def sdpa(backend: SDPBackend, copy: int) -> object:
        heads = (x.transpose(1, 2) for x in (q, k[copy], v[copy]))
        with sdpa_kernel(backend):
            if past:
                return attention(*heads, attn_mask=bias.causal_lower_right(q.shape[1], tokens), enable_gqa=grouped)
            return attention(*heads, is_causal=True, enable_gqa=grouped)

    def flash_attn(copy: int) -> object:
        library = importlib.import_module("flash_attn")
        limits = (window - 1, 0) if window else (-1, -1)
        return library.flash_attn_func(q, k[copy], v[copy], causal=True, window_size=limits)

    found: dict[str, Callable[[int], object]] = {"flash_attn": flash_attn}
    if not window or window >= tokens:
        found["torch sdpa flash"] = lambda copy: sdpa(SDPBackend.FLASH_ATTENTION, copy)
        if not past:
            found["torch sdpa cudnn"] = lambda copy: sdpa(SDPBackend.CUDNN_ATTENTION, copy)
    return found


def configs(row: Row, room: Room) -> list[Config]:
    """Tiles by head_dim; the small ones first where large ones leave SMs without work."""
    head_dim, queries, group = row["head_dim"], row["query_len"], row["q_heads"] // row["kv_heads"]
    # (BLOCK_M, BLOCK_N, num_warps, num_stages, maxnreg); 128 registers: two programs of 8 warps on an SM.
    if head_dim > 128:
        tries = [(128, 64, 8, 2, 0), (64, 64, 4, 2, 0), (128, 32, 8, 2, 0)]
    elif head_dim > 64:
        tries = [(128, 128, 8, 2, 0), (128, 64, 8, 3, 0), (128, 64, 8, 2, 128), (128, 32, 8, 3, 128), (64, 64, 4, 3, 0)]
    else:
        tries = [(128, 128, 8, 3, 0), (128, 64, 8, 3, 128), (64, 64, 4, 3, 0)]
    if row["batch"] * row["q_heads"] * cdiv(queries, 128) < room.sms:
        tries = [tile for tile in tries if tile[4] == 0][::-1]
    found = []
    for block_m, block_n, warps, stages, registers in tries:
        # As many heads of a group as fill the tile's rows, where the queries alone do not.
        pack = math.gcd(group, min(block_m, next_power_of_two(cdiv(block_m, queries))))
        options = {"BLOCK_M": block_m, "BLOCK_N": block_n, "PACK": pack, "num_warps": warps, "num_stages": stages}
        found.append(Config(options | ({"maxnreg": registers} if registers else {})))
    return found


def pairs(row: Row) -> int:
    """Pairs of a query and a key that it sees, in one sequence."""
    queries, past = row["query_len"], row["past_len"]
    window = row["window"] or NO_WINDOW
    short = max(0, min(queries, window - past))  # queries that see everything before them
    return short * past + short * (short + 1) // 2 + (queries - short) * window


def sizes(row: Row) -> Sizes:
    batch, queries, window = row["batch"], row["query_len"], row["window"] or NO_WINDOW
    token = 2.0 * batch * row["kv_heads"] * row["head_dim"] * BYTES[row["kv_dtype"]]
    tokens = row["past_len"] + queries
    activations = 2.0 * batch * queries * row["q_heads"] * row["head_dim"] * BYTES[row["dtype"]]
    flops = 4.0 * batch * row["q_heads"] * row["head_dim"] * pairs(row)
    return Sizes(token * tokens, activations, flops, token * min(tokens, queries + window - 1) + activations)


def _row(
    dtype: str,
    kv_dtype: str,
    batch: int,
    query_len: int,
    past_len: int,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    window: int = 0,
    **more: int,
) -> Row:
    return {
        "dtype": dtype,
        "kv_dtype": kv_dtype,
        "batch": batch,
        "query_len": query_len,
        "past_len": past_len,
        "q_heads": q_heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "window": window,
        **more,
    }


_CHECK_CONFIGS: Sequence[Config] = [
    Config({"BLOCK_M": block_m, "BLOCK_N": block_n, "PACK": pack, "num_warps": 4, "num_stages": 2})
    for block_m, block_n, pack in ((32, 16, 1), (16, 32, 4))
]

PREFILL = Kernel(
    name="prefill",
    table="attention_prefill",
    software_kernel="triton_prefill",
    stands_for=("attention_prefill",),
    matches=lambda row: True,
    build=build,
    configs=configs,
    sizes=sizes,
    check_rows=[
        _row("fp16", "fp16", 1, 1, 0, 4, 1, 64),
        _row("fp16", "fp16", 1, 70, 0, 4, 4, 64),
        _row("fp16", "fp16", 3, 33, 21, 8, 2, 64, strided=1),
        _row("fp16", "fp16", 1, 45, 19, 8, 1, 128, window=20),
        _row("fp16", "fp16", 3, 48, 0, 6, 2, 64, window=7),
        _row("fp16", "fp8", 1, 40, 30, 4, 2, 64),
    ],
    check_configs=_CHECK_CONFIGS,
    compile_rows=[
        (_row("bf16", "bf16", 1, 8192, 0, 32, 8, 128), (90, 100)),
        (_row("bf16", "bf16", 1, 8192, 8192, 64, 8, 64, window=128), (90, 100)),
        (_row("bf16", "bf16", 1, 64, 32_768, 32, 8, 128), (90, 100)),
        (_row("bf16", "fp8", 1, 8192, 8192, 32, 8, 128), (90, 100)),
        (_row("bf16", "bf16", 1, 8192, 0, 8, 4, 256), (90, 100)),
    ],
)
