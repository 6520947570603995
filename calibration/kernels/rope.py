"""RoPE of new tokens with QK-norm, and the write of their keys and values into the paged KV cache.

One launch: a token and a block of its heads are a tile, and whether a row of it is a query, a key or a value is a mask,
so that any number of heads fills the programs. What limits it is HBM, or the L2 where its operands fit; with few tokens
the latency of a launch and of two dependent loads.

Besides what the operator graph's node counts, a token's row of cosines and sines (4 head_dim bytes), its position and
its slot are read: some percent of the row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from calibration.kernels.base import (
    BYTES,
    DTYPES,
    Config,
    Launch,
    Problem,
    Room,
    Row,
    cdiv,
    empty,
    next_power_of_two,
    random,
    relative_error,
)  # fmt: skip
from calibration.kernels.rowwise import EPS, entry, row_of, shuffled

PAGE = 16
POSITIONS = 16_384


@triton.jit(do_not_specialize=["q_heads", "kv_heads"])
def rope_kv_write_kernel(
    qkv, positions, cos_sin, q_weight, k_weight, q_out, k_cache, v_cache, slots, q_heads, kv_heads, page_stride,
    head_stride, token_stride, eps, NORM: tl.constexpr, PAGE: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """One token, and HEADS of its query, key and value heads as rows of a tile: what it is, is a row's mask."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    position = tl.load(positions + token).to(tl.int64)
    head, col = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, HALF)
    heads = q_heads + 2 * kv_heads
    is_q = head < q_heads
    is_k = (head >= q_heads) & (head < q_heads + kv_heads)
    is_v = (head >= q_heads + kv_heads) & (head < heads)
    at = head[:, None] * (2 * HALF) + col[None, :]
    source = qkv + token * heads * (2 * HALF)
    low = tl.load(source + at, mask=(head < heads)[:, None], other=0.0).to(tl.float32)
    high = tl.load(source + at + HALF, mask=(head < heads)[:, None], other=0.0).to(tl.float32)
    cos = tl.load(cos_sin + position * (2 * HALF) + col).to(tl.float32)[None, :]
    sin = tl.load(cos_sin + position * (2 * HALF) + HALF + col).to(tl.float32)[None, :]
    slot_at = (slot // PAGE) * page_stride + (slot % PAGE) * token_stride
    value_at = v_cache + slot_at + (head - q_heads - kv_heads)[:, None] * head_stride + col[None, :]
    tl.store(value_at, low.to(v_cache.dtype.element_ty), mask=is_v[:, None])
    tl.store(value_at + HALF, high.to(v_cache.dtype.element_ty), mask=is_v[:, None])
    if NORM:
        scale = tl.rsqrt(tl.sum(low * low + high * high, 1) / (2 * HALF) + eps)[:, None]
        q_low, k_low = tl.load(q_weight + col)[None, :], tl.load(k_weight + col)[None, :]
        q_high, k_high = tl.load(q_weight + HALF + col)[None, :], tl.load(k_weight + HALF + col)[None, :]
        low = low * scale * tl.where(is_q[:, None], q_low, k_low).to(tl.float32)
        high = high * scale * tl.where(is_q[:, None], q_high, k_high).to(tl.float32)
    turned_low, turned_high = low * cos - high * sin, high * cos + low * sin
    target = q_out + token * q_heads * (2 * HALF)
    tl.store(target + at, turned_low.to(q_out.dtype.element_ty), mask=is_q[:, None])
    tl.store(target + at + HALF, turned_high.to(q_out.dtype.element_ty), mask=is_q[:, None])
    key_at = k_cache + slot_at + (head - q_heads)[:, None] * head_stride + col[None, :]
    tl.store(key_at, turned_low.to(k_cache.dtype.element_ty), mask=is_k[:, None])
    tl.store(key_at + HALF, turned_high.to(k_cache.dtype.element_ty), mask=is_k[:, None])


def rope_kv_write(
    qkv: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor, q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None, q_out: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor,
    slots: torch.Tensor, room: Room, config: Config,
) -> list[Launch]:  # fmt: skip
    """QK-norm and RoPE of new tokens; queries to `q_out`, keys and values to their slots of the paged KV cache.

    Parameters
    ----------
    qkv : [tokens, (q_heads + 2 kv_heads) head_dim], contiguous: queries, keys, values of a token one after the other.
    positions, slots : [tokens], int32 or int64; a slot is page * (tokens of a page) + place in the page.
    cos_sin : [positions, head_dim], cosines then sines of the angles; the halves of a head are rotated against each
        other, as in Llama and Qwen. See `rotations`.
    q_weight, k_weight : [head_dim], of RMSNorm over each head; None: the model has no QK-norm.
    q_out : [tokens, q_heads, head_dim], contiguous. k_cache, v_cache : [pages, kv_heads, page, head_dim] with the same
        strides, head_dim contiguous; 16-bit or fp8.

    Raises
    ------
    ValueError : head_dim or the page is no power of two, or the caches differ in their strides.
    """
    tokens, q_heads, head_dim = q_out.shape
    kv_heads, page = k_cache.shape[1], k_cache.shape[2]
    if next_power_of_two(head_dim) != head_dim or next_power_of_two(page) != page:
        raise ValueError(f"head_dim {head_dim} and page {page} have to be powers of two")
    if k_cache.stride() != v_cache.stride() or k_cache.stride(3) != 1:
        raise ValueError("the caches of keys and values must have the same strides, head_dim contiguous")
    norm = q_weight is not None and k_weight is not None
    options = {**config.options, "NORM": norm, "PAGE": page, "HALF": head_dim // 2}
    weights = (q_weight, k_weight) if norm else (cos_sin, cos_sin)
    strides = k_cache.stride()[:3]
    args = (qkv, positions, cos_sin, *weights, q_out, k_cache, v_cache, slots, q_heads, kv_heads, *strides, EPS)
    grid = (tokens, cdiv(q_heads + 2 * kv_heads, config["HEADS"]))
    return [Launch(rope_kv_write_kernel, grid, args, options)]


def rotations(room: Room, positions: int, head_dim: int, base: float = 1e6) -> torch.Tensor:
    """Cosines and sines of RoPE, float32 [positions, head_dim]: angle = position / base^(2 i / head_dim)."""
    rates = base ** (-torch.arange(0, head_dim, 2, device=room.device, dtype=torch.float32) / head_dim)
    angles = torch.arange(positions, device=room.device, dtype=torch.float32)[:, None] * rates[None, :]
    return torch.cat([angles.cos(), angles.sin()], 1)


def rope_reference(
    qkv: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor, q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None, q_heads: int, kv_heads: int, kv_dtype: torch.dtype,
) -> list[torch.Tensor]:  # fmt: skip
    """[q, k, v], each [tokens, heads, head_dim] float32; keys and values rounded to the cache's format."""
    head_dim = cos_sin.shape[1]
    q, k, v = qkv.float().view(len(qkv), -1, head_dim).split([q_heads, kv_heads, kv_heads], 1)
    cos, sin = cos_sin[positions.long()].float()[:, None, :].chunk(2, -1)

    def turn(heads: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        if weight is not None:
            heads = heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + EPS) * weight.float()
        low, high = heads.chunk(2, -1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

    return [turn(q, q_weight), turn(k, k_weight).to(kv_dtype).float(), v.to(kv_dtype).float()]


def kv_dtype_of(row: Row) -> torch.dtype:
    """The cache's format of a row of rope_kv_write: what its activations leave of `row_bytes`."""
    q_heads, kv_heads, head_dim = row["q_heads"], row["kv_heads"], row["head_dim"]
    activations = 2 * (q_heads + kv_heads) * head_dim * BYTES[row["dtype"]]
    one_byte = row["row_bytes"] - activations < 3 * kv_heads * head_dim
    return DTYPES["fp8"] if one_byte else DTYPES[row["dtype"]]


def consecutive_slots(room: Room, tokens: int, page: int, first: int = 0) -> torch.Tensor:
    """Slots of tokens that follow each other, in scattered pages, int64 [tokens]; the first one is at place `first`."""
    place = torch.arange(tokens, device=room.device) + first
    pages = shuffled(room, cdiv(tokens + first, page), salt=7)
    return pages[place // page] * page + place % page


def interpreted_rightly(reference: torch.Tensor, room: Room, dtype: torch.dtype) -> torch.Tensor:
    """Mask of what can be compared. Triton's interpreter (seen in 3.9) loses the carry where rounding to fp8 reaches
    the next power of two, and in fp8's subnormal numbers; a GPU does not.
    """
    if room.device != "cpu" or dtype != torch.float8_e4m3fn:
        return torch.ones_like(reference, dtype=torch.bool)
    exponent = reference.abs().log2()
    return (exponent != exponent.round()) & (exponent >= -6)


def build_rope(row: Row, room: Room) -> Problem:
    rows, dtype, kv_dtype = row["rows"], DTYPES[row["dtype"]], kv_dtype_of(row)
    q_heads, kv_heads, head_dim = row["q_heads"], row["kv_heads"], row["head_dim"]
    qkv = random(room, rows, (q_heads + 2 * kv_heads) * head_dim, dtype=dtype, salt=1)
    q_weight, k_weight = (random(room, head_dim, dtype=dtype, salt=salt) for salt in (2, 3))
    cos_sin = rotations(room, POSITIONS, head_dim)
    positions = torch.arange(rows, device=room.device) % POSITIONS
    slots = consecutive_slots(room, rows, PAGE)
    q_out = empty(room, rows, q_heads, head_dim, dtype=dtype)
    k_cache, v_cache = (empty(room, cdiv(rows, PAGE), kv_heads, PAGE, head_dim, dtype=kv_dtype) for _ in range(2))

    def compare(outputs: Sequence[torch.Tensor], references: Sequence[torch.Tensor]) -> float:
        errors = [relative_error(outputs[0], references[0])]
        for cache, expected in zip(outputs[1:], references[1:], strict=True):
            written = cache.transpose(1, 2).float().flatten(0, 1)[slots]
            sound = interpreted_rightly(expected, room, kv_dtype)
            errors.append(relative_error(written[sound], expected[sound]))
        return max(errors)

    return Problem(
        lambda copy, config: rope_kv_write(
            qkv, positions, cos_sin, q_weight, k_weight, q_out, k_cache, v_cache, slots, room, config
        ),
        lambda: [q_out, k_cache, v_cache],
        lambda: rope_reference(qkv, positions, cos_sin, q_weight, k_weight, q_heads, kv_heads, kv_dtype),
        compare=compare,
    )


def rope_configs(row: Row, room: Room) -> list[Config]:
    """Few tokens: few heads a program, for parallelism; many: all heads of a token, or half of them."""
    heads = next_power_of_two(row["q_heads"] + 2 * row["kv_heads"])
    tries = (8, 16, 32) if row["rows"] < 2 * room.sms else (heads, heads // 2, 16)
    half = row["head_dim"] // 2
    found = []
    for size in dict.fromkeys(max(1, min(64, heads, size)) for size in tries):
        # 8 elements a thread and half; but so many threads that each loads all it needs of the cosines by itself.
        warps = min(8, next_power_of_two(max(size * half // 256, 2 * half // 32)))
        found.append(Config({"HEADS": size, "num_warps": warps}))
    return found


def _rope_row(dtype: str, rows: int, heads: tuple[int, int, int], kv: int) -> Row:
    q_heads, kv_heads, head_dim = heads
    row_bytes = 2 * (q_heads + kv_heads) * head_dim * BYTES[dtype] + 2 * kv_heads * head_dim * kv
    return row_of("rope_kv_write", dtype, rows, row_bytes, heads)


ROPE_KV_WRITE = entry(
    "rope_kv_write",
    ("rope_kv_write",),
    build_rope,
    rope_configs,
    [_rope_row("fp16", 1, (4, 1, 32), 2), _rope_row("fp16", 19, (5, 1, 16), 2), _rope_row("fp16", 3, (8, 2, 16), 1)],
    [
        _rope_row("bf16", rows, heads, kv)
        for rows, heads, kv in ((64, (32, 8, 128), 2), (8192, (32, 8, 128), 2), (8192, (64, 8, 64), 1))
    ],
    {"HEADS": 4, "num_warps": 1},
    tolerance=1e-2,  # the interpreter rounds ties to fp8 away from zero
)
