"""Decode attention for measurement: its rows, operands in memory, configurations, reference and baselines.

The kernels are in `splitkv`. DECODE attends a page table of the sequence, GATHER one of each KV head, as block top-k
attention does after its selection; the pages of both lie scattered over the cache.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence

import torch

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
    random,
)
from calibration.kernels.splitkv import (
    MAX_SPLITS,
    paged_decode,
    resident_programs,
    split_choices,
    workspace_numbers,
)

__all__ = ["DECODE", "GATHER", "MAX_SPLITS", "page_table", "paged_decode", "reference", "workspace_numbers"]

PAGE = 16
"""Tokens in a page of the caches made here; `paged_decode` takes any power of two."""
BASELINE_BYTES = 4e9
"""Contiguous copies of the cache are made for a baseline where all of them together take no more than this."""


def reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    window: int = 0,
) -> torch.Tensor:
    """The same in plain torch, float32: [batch, q_heads, head_dim]."""
    batch, q_heads, head_dim = q.shape
    kv_heads, page = k_cache.shape[1], k_cache.shape[2]
    out = torch.zeros(batch, kv_heads, q_heads // kv_heads, head_dim, device=q.device)
    queries = q.float().reshape(out.shape)
    for sequence, length in enumerate(lengths.tolist()):
        low = max(0, length - window) if window else 0
        if length == 0:
            continue
        pages = table[sequence, :, low // page : cdiv(length, page)].long()  # [1 or kv_heads, pages]
        part = slice(low % page, length - low // page * page)
        heads = torch.arange(kv_heads, device=q.device)[:, None]
        keys, values = (
            cache[pages, heads].reshape(kv_heads, -1, head_dim)[:, part].float() for cache in (k_cache, v_cache)
        )
        scores = queries[sequence] @ keys.transpose(1, 2) / math.sqrt(head_dim)
        out[sequence] = torch.softmax(scores, -1) @ values
    return out.reshape(batch, q_heads, head_dim)


def _attended(row: Row) -> int:
    return min(row["context_len"], row["window"] or row["context_len"])


def _pages_read(row: Row) -> tuple[int, int]:
    """The first page of a sequence that holds a token attended, and the number from there."""
    first = (row["context_len"] - _attended(row)) // PAGE
    return first, cdiv(row["context_len"], PAGE) - first


def page_table(row: Row, room: Room) -> torch.Tensor:
    """int32 [batch, 1 or kv_heads, pages]: pages scattered over the cache at random, each of them in it once a head.

    Pages that lie before the window have no memory: their entries say 0 and are not read.
    """
    heads = row["kv_heads"] if row.get("gather", 0) else 1
    first, count = _pages_read(row)
    table = torch.zeros(row["batch"], heads, first + count, dtype=torch.int32, device=room.device)
    if room.device != "meta":
        generator = torch.Generator(device=room.device).manual_seed(room.seed * 1_000_003 + 17)
        for head in range(heads):
            order = torch.randperm(row["batch"] * count, generator=generator, device=room.device)
            table[:, head, first:] = order.view(row["batch"], count).to(torch.int32)
    return table


def build(row: Row, room: Room) -> Problem:
    batch, q_heads, kv_heads, head_dim = row["batch"], row["q_heads"], row["kv_heads"], row["head_dim"]
    dtype, kv_dtype, window = DTYPES[row["dtype"]], DTYPES[row["kv_dtype"]], row["window"]
    shape = (room.copies, batch * _pages_read(row)[1], kv_heads, PAGE, head_dim)
    q = random(room, batch, q_heads, head_dim, dtype=dtype, salt=1)
    k_cache = random(room, *shape, dtype=kv_dtype, salt=2)
    v_cache = random(room, *shape, dtype=kv_dtype, salt=3)
    table = page_table(row, room)
    lengths = torch.full((batch,), row["context_len"], dtype=torch.int32, device=room.device)
    if row.get("ragged", 0):  # checks only: sequences of different lengths, one of them empty
        lengths -= torch.arange(batch, dtype=torch.int32, device=room.device) * (row["context_len"] // (batch - 1))
    out = empty(room, batch, q_heads, head_dim, dtype=dtype)

    spaces: dict[int, torch.Tensor] = {}

    def launches(copy: int, config: Config) -> list[Launch]:
        # One workspace for all copies, as a step's layers share one: partial sums stay in L2.
        needed = workspace_numbers(batch, q_heads, head_dim, config.get("SPLITS", MAX_SPLITS))
        if needed not in spaces:
            spaces[needed] = empty(room, needed, dtype=torch.float32)
        space = spaces[needed]
        return paged_decode(q, k_cache[copy], v_cache[copy], table, lengths, out, room, config, window, space)

    baselines: dict[str, Callable[[int], object]] = {}
    if not row.get("gather", 0) and row["kv_dtype"] != "fp8" and room.device == "cuda":
        baselines["flashinfer"] = _flashinfer(q, k_cache, v_cache, table, lengths, out, window)
        if room.copies * sizes(row).cold <= BASELINE_BYTES:
            baselines["torch sdpa (contiguous)"] = _sdpa(q, k_cache, v_cache, table, row)
    return Problem(
        launches, lambda: [out], lambda: [reference(q, k_cache[0], v_cache[0], table, lengths, window)], baselines
    )


def _flashinfer(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    out: torch.Tensor,
    window: int,
) -> Callable[[int], object]:
    """FlashInfer's paged decode, planned at its first call. Raises ImportError there where it is not installed."""
    planned: list[object] = []

    def run(copy: int) -> object:
        flashinfer = importlib.import_module("flashinfer")
        batch, q_heads, head_dim = q.shape
        kv_heads, page, pages = k_cache.shape[2], k_cache.shape[3], table.shape[2]
        if not planned:
            space = torch.empty(128 * 2**20, dtype=torch.uint8, device=q.device)
            wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
                space, "HND", use_tensor_cores=q_heads // kv_heads >= 4
            )
            wrapper.plan(
                torch.arange(batch + 1, dtype=torch.int32, device=q.device) * pages,
                table.reshape(-1),
                (lengths - 1) % page + 1,
                q_heads,
                kv_heads,
                head_dim,
                page,
                window_left=window - 1 if window else -1,
                q_data_type=q.dtype,
                kv_data_type=k_cache.dtype,
            )
            planned.append(wrapper)
        return planned[0].run(q, (k_cache[copy], v_cache[copy]), out=out)  # type: ignore[attr-defined]

    return run


def _sdpa(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, table: torch.Tensor, row: Row
) -> Callable[[int], object]:
    """torch's attention on K and V laid out contiguously (what a cache without pages would be), copied at first use."""
    contiguous: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def gathered(cache: torch.Tensor) -> torch.Tensor:
        first, count = _pages_read(row)
        pages = cache[table[:, 0, first:].long()]  # [batch, count, kv_heads, page, head_dim]
        tokens = pages.transpose(1, 2).flatten(2, 3)
        part = slice(count * PAGE - _attended(row) - (-row["context_len"]) % PAGE, row["context_len"] - first * PAGE)
        return tokens[:, :, part].contiguous()

    def run(copy: int) -> object:
        if copy not in contiguous:
            contiguous[copy] = gathered(k_cache[copy]), gathered(v_cache[copy])
        keys, values = contiguous[copy]
        return torch.nn.functional.scaled_dot_product_attention(q[:, :, None], keys, values, enable_gqa=True)

    return run


def configs(row: Row, room: Room) -> list[Config]:
    """Tiles of about 32 KiB of K and V or half of that, at two numbers of splits (which share their compiled kernels).

    An fp8 tile of the same bytes is twice the arithmetic, and wants more warps.
    """
    tile = max(16, min(128, 2**15 // (2 * row["head_dim"] * BYTES[row["kv_dtype"]])))
    half = max(16, tile // 2)
    shapes = [(tile, 4, 4), (tile, 4, 3), (half, 2, 4)]
    if row["kv_dtype"] == "fp8":
        shapes = [(tile, 4, 4), (half, 4, 4), (tile, 8, 4)]
    found = []
    for block, warps, stages in shapes:
        config = {"BLOCK_N": block, "num_warps": warps, "num_stages": stages}
        resident = resident_programs(Config(config), row["head_dim"], BYTES[row["kv_dtype"]])
        choices = split_choices(row["batch"] * row["kv_heads"], _attended(row), block, resident, room)[:2]
        found += [Config({**config, "SPLITS": splits}) for splits in choices]
    return found


def sizes(row: Row) -> Sizes:
    touched = 2.0 * row["batch"] * row["kv_heads"] * row["head_dim"] * BYTES[row["kv_dtype"]]
    cold = touched * _pages_read(row)[1] * PAGE
    activations = 2.0 * row["batch"] * row["q_heads"] * row["head_dim"] * BYTES[row["dtype"]]
    heads = row["kv_heads"] if row.get("gather", 0) else 1
    tables = 4.0 * row["batch"] * heads * cdiv(row["context_len"], PAGE)
    flops = 4.0 * row["batch"] * row["q_heads"] * row["head_dim"] * _attended(row)
    return Sizes(cold, activations + tables, flops, touched * _attended(row))


def _row(
    dtype: str,
    kv_dtype: str,
    batch: int,
    context_len: int,
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
        "context_len": context_len,
        "q_heads": q_heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "window": window,
        **more,
    }


_CHECK_CONFIGS: Sequence[Config] = [
    Config({"BLOCK_N": 16, "SPLITS": splits, "num_warps": 4, "num_stages": 3}) for splits in (1, 3, 40)
]

DECODE = Kernel(
    name="decode",
    table="attention_decode",
    stands_for=("attention_decode",),
    matches=lambda row: not row.get("gather", 0),
    build=build,
    configs=configs,
    sizes=sizes,
    check_rows=[
        _row("fp16", "fp16", 1, 1, 4, 1, 64),
        _row("fp16", "fp16", 1, 77, 4, 4, 64),
        _row("fp16", "fp16", 3, 100, 8, 2, 64, ragged=1),
        _row("fp16", "fp16", 3, 100, 8, 1, 128, window=37),
        _row("fp16", "fp8", 3, 100, 8, 2, 64, window=30, ragged=1),
        _row("fp16", "fp8", 1, 33, 6, 2, 128),
    ],
    check_configs=_CHECK_CONFIGS,
    compile_rows=[
        (_row("bf16", "bf16", 64, 32_768, 32, 8, 128), ()),
        (_row("bf16", "fp8", 64, 32_768, 32, 8, 128), ()),
        (_row("bf16", "bf16", 64, 32_768, 64, 8, 64), ()),
        (_row("bf16", "bf16", 64, 32_768, 8, 4, 256), ()),
    ],
)

GATHER = Kernel(
    name="gather",
    table="attention_decode",
    stands_for=("attention_decode",),
    matches=lambda row: bool(row.get("gather", 0)),
    build=build,
    configs=configs,
    sizes=sizes,
    check_rows=[
        _row("fp16", "fp16", 3, 64, 8, 2, 64, gather=1),
        _row("fp16", "fp16", 1, 90, 4, 4, 128, gather=1),
        _row("fp16", "fp8", 3, 64, 8, 2, 64, gather=1, ragged=1),
    ],
    check_configs=_CHECK_CONFIGS,
    compile_rows=[(_row("bf16", "bf16", 64, 1024, 32, 8, 128, gather=1), ())],
    software_kernel="triton_gather",
)
