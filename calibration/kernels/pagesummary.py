"""Summaries of pages for block top-k attention: the mean of a page's keys, one vector a KV head.

Pages are summarised once, when they are full. What limits it: HBM or the L2, and with few tokens the latency of a
launch and of two dependent loads.
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
    Sizes,
    cdiv,
    empty,
    random,
    relative_error,
)  # fmt: skip
from calibration.kernels.rope import consecutive_slots, interpreted_rightly
from calibration.kernels.rowwise import entry, row_of


@triton.jit(do_not_specialize=["tokens"])
def page_summary_kernel(
    k_cache, slots, summaries, tokens, page_stride, head_stride, token_stride, summary_stride,
    summary_head_stride, PAGE: tl.constexpr, TOKENS: tl.constexpr, HEAD_DIM: tl.constexpr,
):  # fmt: skip
    """Of TOKENS new tokens, those that fill their page; one KV head. One warp: no reduction leaves it."""
    head = tl.program_id(1).to(tl.int64)
    place, col = tl.arange(0, PAGE)[:, None], tl.arange(0, HEAD_DIM)
    last = tl.minimum(tl.program_id(0) * TOKENS + TOKENS, tokens)
    for token in range(tl.program_id(0) * TOKENS, last):
        slot = tl.load(slots + token)
        if slot % PAGE == PAGE - 1:
            page = slot // PAGE
            source = k_cache + page * page_stride + head * head_stride
            keys = tl.load(source + place * token_stride + col[None, :])
            mean = tl.sum(keys.to(tl.float32), 0) / PAGE
            target = summaries + page * summary_stride + head * summary_head_stride
            tl.store(target + col, mean.to(summaries.dtype.element_ty))


def page_summary(
    k_cache: torch.Tensor, slots: torch.Tensor, summaries: torch.Tensor, room: Room, config: Config
) -> list[Launch]:
    """The mean key of every page whose last token is among the new ones.

    Parameters
    ----------
    k_cache : [pages, kv_heads, page, head_dim], head_dim contiguous, with the new keys in it; page a power of two.
    slots : int64 [tokens], where the new tokens lie: page * (tokens of a page) + place in the page.
    summaries : [pages, kv_heads, head_dim], head_dim contiguous, in the cache's format.

    A token moves the bytes of the graph's node in the mean: one of `page` tokens fills a page, whose keys are read and
    whose summary is written. A step of few tokens fills more pages or fewer; if its sequences end at every place of a
    page alike, it is that mean too.
    """
    _, kv_heads, page, head_dim = k_cache.shape
    tokens = len(slots)
    options = {**config.options, "PAGE": page, "HEAD_DIM": head_dim}
    args = (k_cache, slots, summaries, tokens, *k_cache.stride()[:3], *summaries.stride()[:2])
    return [Launch(page_summary_kernel, (cdiv(tokens, config["TOKENS"]), kv_heads), args, options)]


def page_summary_reference(k_cache: torch.Tensor, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pages that `slots` fill, and their summaries, float32 [pages, kv_heads, head_dim], in the cache's precision."""
    page = k_cache.shape[2]
    filled = slots[slots % page == page - 1] // page
    return filled, k_cache[filled].float().mean(2).to(k_cache.dtype).float()


def kv_and_page(row: Row) -> tuple[str, int]:
    """The cache's format and the tokens of a page in a row of page_summary: `row_bytes` is head_dim kv_heads times the
    bytes of a key's element and 1/page of them.
    """
    per = row["row_bytes"] / (row["kv_heads"] * row["head_dim"])
    kv = "fp8" if per < 2 else row["dtype"]
    return kv, round(BYTES[kv] / (per - BYTES[kv]))


def build_summary(row: Row, room: Room) -> Problem:
    kv, page = kv_and_page(row)
    tokens, kv_heads, head_dim = row["rows"], row["kv_heads"], row["head_dim"]
    pages = cdiv(tokens + page - 1, page)
    k_cache = random(room, pages, kv_heads, page, head_dim, dtype=DTYPES[kv], salt=1)
    summaries = empty(room, pages, kv_heads, head_dim, dtype=DTYPES[kv])
    slots = consecutive_slots(room, tokens, page, first=page - 1)
    filled = slots[torch.arange(0, tokens, page, device=room.device)] // page

    def compare(outputs: Sequence[torch.Tensor], references: Sequence[torch.Tensor]) -> float:
        sound = interpreted_rightly(references[0], room, DTYPES[kv])
        return relative_error(outputs[0][filled].float()[sound], references[0][sound])

    return Problem(
        lambda copy, config: page_summary(k_cache, slots, summaries, room, config),
        lambda: [summaries],
        lambda: [page_summary_reference(k_cache, slots)[1]],
        compare=compare,
    )


def summary_configs(row: Row, room: Room) -> list[Config]:
    """A token and a KV head a program; or as many tokens as a page has, one of which fills it in the mean."""
    tries = [Config({"TOKENS": tokens, "num_warps": 1}) for tokens in (1, kv_and_page(row)[1])]
    return tries if row["rows"] < 16 * room.sms else tries[::-1]


def summary_sizes(row: Row) -> Sizes:
    moved = float(row["rows"] * row["row_bytes"])
    return Sizes(0.0, moved, float(row["rows"] * row["kv_heads"] * row["head_dim"]), moved)


def _summary_row(dtype: str, rows: int, heads: tuple[int, int, int], kv: int, page: int = 16) -> Row:
    return row_of("page_summary", dtype, rows, heads[1] * heads[2] * (kv + kv / page), heads)


PAGE_SUMMARY = entry(
    "page_summary",
    ("page_summary",),
    build_summary,
    summary_configs,
    [
        _summary_row("fp16", rows, heads, kv)
        for rows, heads, kv in ((1, (4, 1, 32), 2), (37, (6, 3, 16), 2), (17, (4, 2, 16), 1))
    ],
    [
        _summary_row("bf16", rows, heads, kv)
        for rows, heads, kv in ((64, (32, 8, 128), 2), (8192, (32, 8, 128), 2), (8192, (8, 1, 128), 1))
    ],
    {"TOKENS": 4, "num_warps": 1},
    tolerance=1e-2,  # the interpreter rounds ties to fp8 away from zero
    sizes=summary_sizes,
)
