"""Decode attention over a paged KV cache: split-KV programs that read every key once, and a merge of the splits.

One program attends a run of tokens for one sequence and one KV head: the query heads of the GQA group are the rows of
one tile (padded to 16), so that K and V are read once for the whole group. Each step of its loop reads BLOCK_N tokens
of K and of V by 16-byte asynchronous copies, num_stages deep; the page numbers of the tile after are read ahead, so
that no copy waits for them. Scores, the online softmax (exp2) and sums are float32. Where a sequence is split, every
split writes its unnormalised sum, its maximum and its weight, and a second launch merges them (Flash-Decoding;
the same equations as FlashAttention-2's, arXiv 2307.08691, section 3.1).

What limits it: reading K and V from HBM, that is the copies in flight (two tiles or more a program, two programs or
more an SM). The matrix products are too narrow for wgmma or tcgen05 (16 rows); mma.sync does them in the shadow of the
copies. For few sequences: latency, that of the merge's launch among it.

The same kernel attends the pages that block top-k attention has chosen: then the page table is one of each KV head.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from calibration.kernels.base import Config, Launch, Room, cdiv, empty, next_power_of_two

MAX_SPLITS = 256
NO_WINDOW = 2**30
"""More tokens than any sequence has."""
UNPACK = tl.constexpr(
    """{
    .reg .b32 bytes;
    .reg .b16 two;
    prmt.b32 bytes, $2, 0, 0x4420;
    cvt.u16.u32 two, bytes;
    cvt.rn.f16x2.e4m3x2 $0, two;
    prmt.b32 bytes, $2, 0, 0x4431;
    cvt.u16.u32 two, bytes;
    cvt.rn.f16x2.e4m3x2 $1, two;
    }"""
)
"""Of two int16 in a register: their low bytes side by side, converted; then their high bytes."""


@triton.jit
def unpack(pairs, ASSEMBLY: tl.constexpr):
    """Pairs of e4m3 numbers, read as int16, to fp16: those of even and those of odd columns.

    The compiler makes half as many instructions again of the plain form (and the interpreter takes no other).
    """
    if ASSEMBLY:
        return tl.inline_asm_elementwise(
            UNPACK, "=r,=r,r", [pairs], dtype=(tl.float16, tl.float16), is_pure=True, pack=2
        )
    else:
        even = (pairs & 0xFF).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float16)
        odd = ((pairs >> 8) & 0xFF).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float16)
        return even, odd


@triton.jit(do_not_specialize=["table_stride", "table_head_stride", "group", "window", "splits"])
def decode_kernel(
    q,
    k_cache,
    v_cache,
    table,
    lengths,
    out,
    partial,
    split_sums,
    q_stride,
    q_head_stride,
    out_stride,
    out_head_stride,
    page_stride,
    head_stride,
    token_stride,
    table_stride,
    table_head_stride,
    group,
    window,
    splits,
    scale_log2,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_BITS: tl.constexpr,
    PAIRS: tl.constexpr,
    ASSEMBLY: tl.constexpr,
):
    """PAIRS: the cache is fp8, given as int16, so that 16-bit matrix loads (ldmatrix) and 16-byte copies serve it. Even
    and odd columns are then multiplied apart, as fp16: one instruction converts two numbers and nothing of e4m3 is
    lost. Strides of the cache count its elements as given.
    """
    split = tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = tl.program_id(2)
    STORED: tl.constexpr = HEAD_DIM // 2 if PAIRS else HEAD_DIM
    dtype: tl.constexpr = tl.float16 if PAIRS else k_cache.dtype.element_ty

    high = tl.load(lengths + sequence)
    low = tl.maximum(high - window, 0)
    per = tl.cdiv(tl.cdiv(high - low, splits), BLOCK_N) * BLOCK_N
    start = low + split * per
    end = tl.minimum(start + per, high)

    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, STORED)
    tokens = tl.arange(0, BLOCK_N)
    head = kv_head * group + rows
    present = (rows < group)[:, None]
    q_at = q + sequence.to(tl.int64) * q_stride + head[:, None] * q_head_stride
    if PAIRS:
        query = tl.load(q_at + 2 * columns[None, :], mask=present, other=0.0).to(dtype)
        query_odd = tl.load(q_at + 2 * columns[None, :] + 1, mask=present, other=0.0).to(dtype)
        acc_odd = tl.zeros((BLOCK_M, STORED), tl.float32)
    else:
        query = tl.load(q_at + columns[None, :], mask=present, other=0.0).to(dtype)
    acc = tl.zeros((BLOCK_M, STORED), tl.float32)
    maximum = tl.full((BLOCK_M,), -1.0e30, tl.float32)  # finite: a difference of two of them is 0
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)  # added up once, at the end: no exchange between warps a tile

    pages = table + sequence.to(tl.int64) * table_stride + kv_head * table_head_stride
    base = kv_head.to(tl.int64) * head_stride
    page = tl.load(pages + ((start + tokens) >> PAGE_BITS), mask=start + tokens < end, other=0)
    for first in range(start, end, BLOCK_N):
        at = first + tokens
        inside = at < end
        offset = base + page.to(tl.int64) * page_stride + (at & ((1 << PAGE_BITS) - 1)) * token_stride
        where = offset[:, None] + columns[None, :]
        keys = tl.load(k_cache + where, mask=inside[:, None], other=0)
        # The next tile's pages: in the registers when its copies are issued.
        ahead = at + BLOCK_N
        page = tl.load(pages + (ahead >> PAGE_BITS), mask=ahead < end, other=0)
        if PAIRS:
            keys, keys_odd = unpack(keys, ASSEMBLY)
            scores = tl.dot(query_odd, tl.trans(keys_odd), tl.dot(query, tl.trans(keys)))
        else:
            scores = tl.dot(query, tl.trans(keys))
        scores = tl.where(inside[None, :], scores * scale_log2, float("-inf"))
        peak = tl.maximum(maximum, tl.max(scores, 1))
        weights = tl.exp2(scores - peak[:, None])
        shrink = tl.exp2(maximum - peak)
        sums = sums * shrink[:, None] + weights
        maximum = peak
        values = tl.load(v_cache + where, mask=inside[:, None], other=0)
        weights = weights.to(dtype)
        if PAIRS:
            values, values_odd = unpack(values, ASSEMBLY)
            acc_odd = tl.dot(weights, values_odd, acc_odd * shrink[:, None])
        acc = tl.dot(weights, values, acc * shrink[:, None])

    total = tl.sum(sums, 1)
    if PAIRS:
        acc = tl.join(acc, acc_odd).reshape(BLOCK_M, HEAD_DIM)
    columns = tl.arange(0, HEAD_DIM)
    if splits == 1:
        acc = acc / tl.where(total > 0.0, total, 1.0)[:, None]
        out_at = out + sequence.to(tl.int64) * out_stride + head[:, None] * out_head_stride + columns[None, :]
        tl.store(out_at, acc.to(out.dtype.element_ty), mask=present)
    else:
        q_heads = tl.num_programs(1) * group
        slot = (sequence.to(tl.int64) * q_heads + head) * splits + split
        tl.store(partial + slot[:, None] * HEAD_DIM + columns[None, :], acc, mask=present)
        tl.store(split_sums + slot * 2, maximum, mask=rows < group)
        tl.store(split_sums + slot * 2 + 1, total, mask=rows < group)


@triton.jit(do_not_specialize=["q_heads", "splits"])
def merge_kernel(
    partial,
    split_sums,
    out,
    out_stride,
    out_head_stride,
    q_heads,
    splits,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    """Sum of the splits of one query head, each by its weight: exp2(its maximum - the largest)."""
    sequence = tl.program_id(0) // q_heads
    head = tl.program_id(0) % q_heads
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    slot = tl.program_id(0).to(tl.int64) * splits
    maximum = tl.full((), -1.0e30, tl.float32)
    total = tl.zeros((), tl.float32)
    acc = tl.zeros((BLOCK_D,), tl.float32)
    for first in range(0, splits, BLOCK_S):
        parts = first + tl.arange(0, BLOCK_S)
        peaks = tl.load(split_sums + (slot + parts) * 2, mask=parts < splits, other=-1.0e30)
        sums = tl.load(split_sums + (slot + parts) * 2 + 1, mask=parts < splits, other=0.0)
        at = partial + (slot + parts)[:, None] * HEAD_DIM + columns[None, :]
        vectors = tl.load(at, mask=(parts < splits)[:, None], other=0.0)
        peak = tl.maximum(maximum, tl.max(peaks, 0))
        weights = tl.exp2(peaks - peak)
        shrink = tl.exp2(maximum - peak)
        total = total * shrink + tl.sum(weights * sums, 0)
        acc = acc * shrink + tl.sum(weights[:, None] * vectors, 0)
        maximum = peak
    acc = acc / tl.where(total > 0.0, total, 1.0)
    out_at = out + sequence.to(tl.int64) * out_stride + head * out_head_stride + columns
    tl.store(out_at, acc.to(out.dtype.element_ty))


def workspace_numbers(batch: int, q_heads: int, head_dim: int, splits: int) -> int:
    """float32 numbers of workspace that `paged_decode` needs: a sum, a maximum and a weight of every split."""
    return batch * q_heads * splits * (head_dim + 2) if splits > 1 else 1


def paged_decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    out: torch.Tensor,
    room: Room,
    config: Config,
    window: int = 0,
    workspace: torch.Tensor | None = None,
) -> list[Launch]:
    """Launches of the attention of one new token of every sequence.

    Parameters
    ----------
    q, out : [batch, q_heads, head_dim]; fp16 or bf16; head_dim contiguous, a power of two.
    k_cache, v_cache : [pages, kv_heads, page, head_dim] of the same strides, head_dim contiguous; fp16, bf16 (as q) or
        fp8 (of scale 1; converted to fp16 in registers).
    table : int32 [batch, 1 or kv_heads, pages of a sequence]: the page of every `page` tokens; of each KV head where
        the heads attend different pages.
    lengths : int32 [batch]: tokens of a sequence, the new one included (with pages chosen: tokens that those hold). At
        0 the output is 0.
    config : BLOCK_N (tokens of a tile), num_warps, num_stages, and SPLITS (programs that share a sequence and KV head;
        chosen here by the table's width and the SMs where it is absent).
    window : attends the last `window` tokens; 0: all.
    workspace : float32, at least `workspace_numbers`; made here where it is None.

    Raises
    ------
    ValueError : where shapes or strides do not fit together, or the workspace is too small.
    """
    batch, q_heads, head_dim = q.shape
    kv_heads, page = k_cache.shape[1], k_cache.shape[2]
    if k_cache.stride() != v_cache.stride() or k_cache.shape != v_cache.shape:
        raise ValueError("paged_decode: K and V caches differ in shape or strides")
    if q_heads % kv_heads or k_cache.shape[3] != head_dim or table.shape[1] not in (1, kv_heads):
        raise ValueError(
            f"paged_decode: {q_heads} query heads, {kv_heads} KV heads, caches of head_dim {k_cache.shape[3]} for "
            f"{head_dim}, a page table of {table.shape[1]} heads"
        )
    for name, tensor in (("q", q), ("out", out), ("k_cache", k_cache), ("table", table)):
        if tensor.stride(-1) != 1:
            raise ValueError(f"paged_decode: the last dimension of {name} is not contiguous")
    if page & (page - 1) or head_dim & (head_dim - 1) or head_dim < 16:
        raise ValueError(f"paged_decode: page {page} and head_dim {head_dim} must be powers of two (head_dim >= 16)")
    group = q_heads // kv_heads
    attended = min(table.shape[2] * page, window or NO_WINDOW)
    resident = resident_programs(config, head_dim, k_cache.element_size())
    splits = config.get("SPLITS", 0) or split_choices(batch * kv_heads, attended, config["BLOCK_N"], resident, room)[0]
    needed = workspace_numbers(batch, q_heads, head_dim, splits)
    if workspace is None:
        workspace = empty(room, needed, dtype=torch.float32)
    if workspace.numel() < needed:
        raise ValueError(f"paged_decode: a workspace of {workspace.numel()} numbers, {needed} are needed")
    sums = batch * q_heads * splits * head_dim if splits > 1 else 0
    pairs = k_cache.dtype == torch.float8_e4m3fn
    if pairs:
        k_cache, v_cache = k_cache.view(torch.int16), v_cache.view(torch.int16)
    partial, split_sums = workspace.view(-1), workspace.view(-1)[sums:]
    options = {
        "BLOCK_M": max(16, next_power_of_two(group)),
        "BLOCK_N": config["BLOCK_N"],
        "HEAD_DIM": head_dim,
        "PAGE_BITS": page.bit_length() - 1,
        "PAIRS": pairs,
        "ASSEMBLY": q.device.type != "cpu",
        "num_warps": config["num_warps"],
        "num_stages": config["num_stages"],
    }
    arguments = (
        *(q, k_cache, v_cache, table, lengths, out, partial, split_sums),
        *(q.stride(0), q.stride(1), out.stride(0), out.stride(1)),
        *(k_cache.stride(0), k_cache.stride(1), k_cache.stride(2)),
        *(table.stride(0), table.stride(1) if table.shape[1] > 1 else 0),
        *(group, window or NO_WINDOW, splits, math.log2(math.e) / math.sqrt(head_dim)),
    )
    launches = [Launch(decode_kernel, (splits, kv_heads, batch), arguments, options)]
    if splits > 1:
        block_d = min(head_dim, 64)
        merge_options = {"BLOCK_S": 32, "BLOCK_D": block_d, "HEAD_DIM": head_dim, "num_warps": 4}
        merged = (partial, split_sums, out, out.stride(0), out.stride(1), q_heads, splits)
        launches.append(Launch(merge_kernel, (batch * q_heads, head_dim // block_d), merged, merge_options))
    return launches


def resident_programs(config: Config, head_dim: int, element: int) -> int:
    """Programs that an SM holds at a time: tiles under way fill its shared memory (227 KiB on Hopper and Blackwell)."""
    tiles = (config["num_stages"] - 1) * 2 * config["BLOCK_N"] * head_dim * element
    return max(1, min(8, 227 * 1024 // (tiles + 8192)))


def split_choices(programs: int, tokens: int, block: int, resident: int, room: Room) -> list[int]:
    """Numbers of splits worth trying for `programs` pairs of sequence and KV head of `tokens` each, the best first.

    `resident` programs run on an SM at a time. A choice costs the waves it takes, whole ones, and half a tile a
    wave for filling the pipeline; splitting at all costs the merge, as much as two tiles of one program.
    """
    tiles, slots = cdiv(tokens, block), resident * room.sms

    def cost(splits: int) -> float:
        waves = cdiv(programs * splits, slots)
        return waves * (cdiv(tiles, splits) + 0.5) + (2.0 if splits > 1 else 0.0)

    choices: set[int] = set()
    for halves in (1, 2, 3, 4, 6, 8, 12, 16):  # half waves
        choices |= {halves * slots // (2 * programs), cdiv(halves * slots, 2 * programs)}
    most = max(1, min(MAX_SPLITS, tiles // 2))
    choices = {1, most, cdiv(most, 2)} | {min(most, splits) for splits in choices if splits > 1}
    # Splits that no token is left for are launched for nothing: as few as give the same run of tiles.
    choices = {cdiv(tiles, cdiv(tiles, splits)) for splits in choices}
    return sorted(choices, key=lambda splits: (cost(splits), splits))
