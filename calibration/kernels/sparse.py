"""Block top-k attention before its attention: the scores of a sequence's pages, and the choice of the best.

A page's summary (`pagesummary`) lies at the page's own place, [pages, kv_heads, head_dim], and is reached through the
page table, as the cache itself is. The newest page of a sequence is chosen always, since it has no summary as long as
it is not full. Selected pages keep their order, so that the newest one is the last, the only one that may be part full;
`decode.paged_decode` attends them with a page table a KV head.

Bytes are those of the graph's nodes (`simulator.stepgraph`): all summaries and the queries read and the scores written
in float32; the scores read. Page tables come on top: 4 bytes a page, read for every KV head (L2). What limits them:
page_scores HBM, by the copies in flight; page_select the latency of a launch and of a chain of dependent reductions
over one program's scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch.nn import functional

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
    relative_error,
)  # fmt: skip
from calibration.kernels.rowwise import shuffled

MOST_PAGES = 16_384
"""Pages of a sequence that one program can choose from."""


@triton.jit(do_not_specialize=["group", "run", "table_stride"])
def page_scores_kernel(
    q, summaries, table, lengths, scores, group, run, summary_stride, summary_head_stride, table_stride,
    scores_stride, scale, PAGE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr,
):  # fmt: skip
    """A sequence, a KV head, and `run` blocks of its pages; the query heads of the group are the rows of a product."""
    kv_head, sequence = tl.program_id(0), tl.program_id(2).to(tl.int64)
    start = tl.program_id(1) * run * BLOCK
    end = tl.minimum(start + run * BLOCK, tl.cdiv(tl.load(lengths + sequence), PAGE))
    row, col, page = tl.arange(0, ROWS), tl.arange(0, HEAD_DIM), tl.arange(0, BLOCK)
    row_at = (sequence * tl.num_programs(0) + kv_head) * group + row
    present = (row < group)[:, None]
    query = tl.load(q + row_at[:, None] * HEAD_DIM + col[None, :], mask=present, other=0.0)
    pages = table + sequence * table_stride
    base = summaries + kv_head * summary_head_stride
    places = tl.load(pages + start + page, mask=start + page < end, other=0)
    for first in tl.range(start, end, BLOCK):
        at = first + page
        where = places.to(tl.int64)[:, None] * summary_stride + col[None, :]
        keys = tl.load(base + where, mask=(at < end)[:, None], other=0.0)
        # The places of the next block's summaries, ahead of their copies.
        places = tl.load(pages + at + BLOCK, mask=at + BLOCK < end, other=0)
        product = tl.dot(query, tl.trans(keys.to(query.dtype))) * scale
        # Up to the end of the scores' rows, not of the sequence: a mask that lets pairs be stored at once.
        inside = present & (at < scores_stride)[None, :]
        tl.store(scores + row_at[:, None] * scores_stride + at[None, :], product, mask=inside)


def page_scores(
    q: torch.Tensor, summaries: torch.Tensor, table: torch.Tensor, lengths: torch.Tensor, scores: torch.Tensor,
    page: int, room: Room, config: Config,
) -> list[Launch]:  # fmt: skip
    """scores[b, h, i] = q[b, h] . summary of page i of sequence b, for the head's KV head, / sqrt(head_dim).

    Parameters
    ----------
    q : [batch, q_heads, head_dim], contiguous. summaries : [pages, kv_heads, head_dim], of q's format or fp8.
    table : int32 [batch, pages of a sequence], places in `summaries`; rows contiguous.
    lengths : int32 [batch], tokens with the new one: cdiv(length, page) pages are scored, the newest by whatever stands
        in the place of its summary, which `page_select` does not look at.
    scores : float32 [batch, q_heads, at least as many as the table has], contiguous; see `scores_like`.
    """
    batch, q_heads, head_dim = q.shape
    kv_heads, pages = summaries.shape[1], table.shape[1]
    group = q_heads // kv_heads
    blocks = cdiv(pages, config["BLOCK"])
    # Many programs an SM, of at most MOST blocks: they end at about the same time.
    run = max(1, min(config["MOST"], batch * kv_heads * blocks // (8 * room.sms)))
    options = {name: value for name, value in config.options.items() if name != "MOST"}
    options |= {"PAGE": page, "ROWS": max(16, next_power_of_two(group)), "HEAD_DIM": head_dim}
    strides = (*summaries.stride()[:2], table.stride(0), scores.stride(1))
    args = (q, summaries, table, lengths, scores, group, run, *strides, head_dim**-0.5)
    return [Launch(page_scores_kernel, (kv_heads, cdiv(blocks, run), batch), args, options)]


def page_scores_reference(q: torch.Tensor, summaries: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """float32 [batch, q_heads, pages of the table]."""
    batch, _, head_dim = q.shape
    kv_heads = summaries.shape[1]
    of_sequence = summaries[table.long()].float().permute(0, 2, 3, 1)  # batch, kv_heads, head_dim, pages
    product = q.float().view(batch, kv_heads, -1, head_dim) @ of_sequence
    return product.flatten(1, 2) * head_dim**-0.5


@triton.jit
def ordered(value):
    """Floats as integers of the same order, and back: it is its own inverse but for the type."""
    return value ^ ((value >> 31) & 0x7FFFFFFF)


@triton.jit(do_not_specialize=["group", "table_stride", "k", "local"])
def page_select_kernel(
    scores, table, lengths, selected, held, group, scores_stride, table_stride, k, local, PAGE: tl.constexpr,
    GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A sequence and a KV head. The k-th largest score is found by bisection; no page is moved or sorted for that."""
    kv_head, sequence = tl.program_id(0), tl.program_id(1).to(tl.int64)
    length = tl.load(lengths + sequence)
    pages = tl.cdiv(length, PAGE)
    at = tl.arange(0, BLOCK)
    program = sequence * tl.num_programs(0) + kv_head
    source = scores + program * group * scores_stride + at
    best = tl.load(source, mask=at < scores_stride, other=0.0)  # this mask keeps 16-byte loads whole; `key` is masked
    for i in tl.static_range(1, GROUP):
        there = at < tl.where(i < group, scores_stride, 0)
        best = tl.maximum(best, tl.load(source + i * scores_stride, mask=there, other=float("-inf")))
    free = at < pages - local
    key = ordered(best.to(tl.int32, bitcast=True))
    key = tl.where(free, key, tl.where(at < pages, 0x7FFFFFFF, -0x7FFFFFFF))
    wanted = tl.minimum(k, pages)
    # The largest `low` that `wanted` keys reach. Halving values comes close soon; halving their integers ends always.
    low, high = tl.min(tl.where(at < pages, key, 0x7FFFFFFF), 0), tl.max(tl.where(free, key, -0x7FFFFFFF), 0)
    count, step = pages, 0
    while (low < high) & (count != wanted):
        middle = (low | high) - ((low ^ high) >> 1)
        value = 0.5 * ordered(low).to(tl.float32, bitcast=True) + 0.5 * ordered(high).to(tl.float32, bitcast=True)
        close = ordered(value.to(tl.int32, bitcast=True))
        if (step < 12) & (close > low) & (close <= high):
            middle = close
        reach = tl.sum((key >= middle).to(tl.int32), 0)
        if reach >= wanted:
            low, count = middle, reach
        else:
            high = middle - 1
        step += 1
    above, equal = (key > low).to(tl.int32), (key == low).to(tl.int32)
    missing = wanted - tl.sum(above, 0)
    both = above + (equal << 16)
    before = tl.cumsum(both, 0) - both
    above_before, equal_before = before & 0xFFFF, before >> 16
    chosen = (above > 0) | ((equal > 0) & (equal_before < missing))
    target = selected + program * k
    physical = tl.load(table + sequence * table_stride + at, mask=chosen, other=0)
    tl.store(target + above_before + tl.minimum(equal_before, missing), physical, mask=chosen)
    if wanted < k:
        tl.store(target + at, tl.zeros((BLOCK,), tl.int32), mask=(at >= wanted) & (at < k))
    if kv_head == 0:
        tl.store(held + sequence, length - (pages - wanted) * PAGE)


def page_select(
    scores: torch.Tensor, table: torch.Tensor, lengths: torch.Tensor, selected: torch.Tensor, held: torch.Tensor,
    page: int, room: Room, config: Config, local: int = 1,
) -> list[Launch]:  # fmt: skip
    """The pages of every sequence and KV head with the best scores, where a page's score is its best query head's.

    Parameters
    ----------
    scores, table, lengths : as for `page_scores`.
    selected : int32 [batch, kv_heads, k], contiguous: what the table says of the chosen pages, in the order of the
        sequence (zeros behind if it has fewer pages). held : int32 [batch], tokens in them.
    local : newest pages that are always chosen, at least 1 (it may be part full), at most k.

    Raises
    ------
    ValueError : a sequence may have more pages than MOST_PAGES, or `local` is out of range.
    """
    batch, kv_heads, k = selected.shape
    pages, group = table.shape[1], scores.shape[1] // kv_heads
    if pages > MOST_PAGES:
        raise ValueError(f"{pages} pages in a sequence: page_select takes at most {MOST_PAGES}")
    if not 1 <= local <= k:
        raise ValueError(f"local is {local}: at least 1, and no more than the {k} pages chosen")
    block = next_power_of_two(max(pages, k))
    options = {**config.options, "PAGE": page, "GROUP": next_power_of_two(group), "BLOCK": block}
    strides = (scores.stride(1), table.stride(0))
    args = (scores, table, lengths, selected, held, group, *strides, k, local)
    return [Launch(page_select_kernel, (kv_heads, batch), args, options)]


def page_select_reference(
    scores: torch.Tensor, lengths: torch.Tensor, kv_heads: int, k: int, page: int, local: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mask of the chosen pages [batch, kv_heads, pages], tokens in them [batch]); ties go to the older page."""
    batch, _, pages = scores.shape
    best = scores.view(batch, kv_heads, -1, pages).amax(2)
    count = (-(-lengths // page))[:, None, None]
    at = torch.arange(pages, device=scores.device)
    best = best.masked_fill(at >= count, -torch.inf).masked_fill((at >= count - local) & (at < count), torch.inf)
    order = best.argsort(dim=-1, descending=True, stable=True)[..., :k]
    mask = torch.zeros_like(best, dtype=torch.bool).scatter_(-1, order, True) & (at < count)
    return mask, lengths - (count[:, 0, 0] - count[:, 0, 0].clamp(max=k)) * page


def scores_like(room: Room, batch: int, q_heads: int, pages: int) -> torch.Tensor:
    """Memory for scores; rows begin at multiples of 64 bytes, so that 16-byte accesses reach them."""
    return empty(room, batch, q_heads, cdiv(pages, 16) * 16, dtype=torch.float32)


def lengths_of(row: Row, room: Room) -> torch.Tensor:
    """Tokens of the sequences, int32 [batch]: the newest pages are filled to every degree; in checks (`ragged`) the
    sequences differ more.
    """
    short = torch.arange(row["batch"], device=room.device, dtype=torch.int32)
    short = short * 37 if row.get("ragged") else short % row["page"]
    return (row["context_len"] - short).clamp(min=1)


def table_of(row: Row, room: Room) -> torch.Tensor:
    """Scattered pages, int32 [batch, pages]."""
    pages = cdiv(row["context_len"], row["page"])
    return shuffled(room, row["batch"] * pages, salt=4).to(torch.int32).view(row["batch"], pages)


def build_scores(row: Row, room: Room) -> Problem:
    batch, q_heads, kv_heads, head_dim = row["batch"], row["q_heads"], row["kv_heads"], row["head_dim"]
    page, pages = row["page"], cdiv(row["context_len"], row["page"])
    q = random(room, batch, q_heads, head_dim, dtype=DTYPES[row["dtype"]], salt=1)
    shape = (room.copies, batch * pages, kv_heads, head_dim)
    summaries = random(room, *shape, dtype=DTYPES[row["kv_dtype"]], salt=2)
    table, lengths, scores = table_of(row, room), lengths_of(row, room), scores_like(room, batch, q_heads, pages)
    in_order = summaries.view(room.copies, batch, kv_heads, pages, head_dim)

    def compare(outputs: Sequence[torch.Tensor], references: Sequence[torch.Tensor]) -> float:
        inside = torch.arange(pages, device=room.device)[None] < (-(-lengths // page))[:, None]
        inside = inside[:, None].expand_as(references[0])
        return relative_error(outputs[0][..., :pages][inside], references[0][inside])

    def by_torch(copy: int) -> object:
        return torch.matmul(q.view(batch, kv_heads, -1, head_dim), in_order[copy].transpose(-1, -2))

    return Problem(
        lambda copy, config: page_scores(q, summaries[copy], table, lengths, scores, page, room, config),
        lambda: [scores],
        lambda: [page_scores_reference(q, summaries[0], table)],
        {"torch.matmul, summaries in order": by_torch} if row["kv_dtype"] == row["dtype"] else {},
        compare,
    )


def build_select(row: Row, room: Room) -> Problem:
    batch, q_heads, kv_heads, page = row["batch"], row["q_heads"], row["kv_heads"], row["page"]
    pages, k = cdiv(row["context_len"], page), max(1, row["budget"] // page)
    scores = scores_like(room, batch, q_heads, pages)
    scores.copy_(random(room, *scores.shape, dtype=torch.float32, salt=3))
    table, lengths = table_of(row, room), lengths_of(row, room)
    selected = empty(room, batch, kv_heads, k, dtype=torch.int32)
    held = empty(room, batch, dtype=torch.int32)

    def compare(outputs: Sequence[torch.Tensor], references: Sequence[torch.Tensor]) -> float:
        """0 or 1: the chosen pages, in order, and the tokens in them."""
        mask, tokens = references
        count = mask.sum(-1, keepdim=True)
        at = torch.arange(pages, device=room.device).where(mask, pages).sort(-1).values[..., :k]
        wide = functional.pad(table, (0, 1))[:, None].expand(batch, kv_heads, pages + 1)
        expected = functional.pad(wide.gather(-1, at), (0, k - at.shape[-1]))
        expected = expected.where(torch.arange(k, device=room.device) < count, 0)
        return 0.0 if torch.equal(outputs[0], expected) and torch.equal(outputs[1], tokens) else 1.0

    def by_torch(copy: int) -> object:
        return scores.view(batch, kv_heads, -1, scores.shape[-1]).amax(2).topk(min(k, pages), sorted=False)

    return Problem(
        lambda copy, config: page_select(scores, table, lengths, selected, held, page, room, config),
        lambda: [selected, held],
        lambda: list(page_select_reference(scores[..., :pages], lengths, kv_heads, k, page)),
        {"torch amax, topk": by_torch},
        compare,
    )


def page_configs(row: Row, room: Room) -> list[Config]:
    """Scores: blocks of summaries, and how many of them a program reads at most. Select: threads."""
    if row["op"] == "scores":
        tries = ((64, 8, 4, 3), (64, 16, 4, 4), (128, 8, 8, 2), (32, 4, 2, 4))
        names = ("BLOCK", "MOST", "num_warps", "num_stages")
        return [Config(dict(zip(names, options, strict=True))) for options in tries]
    block = next_power_of_two(max(cdiv(row["context_len"], row["page"]), row["budget"] // row["page"]))
    warps = dict.fromkeys(min(16, max(1, block // part)) for part in (512, 256, 128))
    return [Config({"num_warps": n}) for n in warps]


def page_sizes(row: Row) -> Sizes:
    batch, pages = row["batch"], cdiv(row["context_len"], row["page"])
    scores = 4.0 * batch * row["q_heads"] * pages
    if row["op"] == "select":
        return Sizes(0.0, scores + 4 * batch * pages, scores / 4, scores)
    cold = float(batch * pages * row["kv_heads"] * row["head_dim"] * BYTES[row["kv_dtype"]])
    warm = scores + batch * row["q_heads"] * row["head_dim"] * BYTES[row["dtype"]]
    return Sizes(cold, warm, scores / 2 * row["head_dim"], cold + warm)


def page_row(
    op: str, dtype: str, kv_dtype: str, batch: int, context_len: int, heads: tuple[int, int, int], budget: int = 1024,
    page: int = 16,
) -> Row:  # fmt: skip
    """A row of the table `page_topk`; `heads`: q_heads, kv_heads, head_dim."""
    shape = dict(zip(("q_heads", "kv_heads", "head_dim"), heads, strict=True))
    labels = {"op": op, "dtype": dtype, "kv_dtype": kv_dtype}
    return {**labels, "batch": batch, "context_len": context_len, **shape, "page": page, "budget": budget}


_CHECKS = [
    ("fp16", 1, 16, (1, 1, 16), 16),
    ("fp16", 1, 1000, (4, 1, 32), 128),
    ("fp16", 3, 333, (8, 2, 16), 64),
    ("fp16", 3, 90, (16, 2, 16), 160),
]
_MEASURED = [(1, 65_536, (32, 8, 128)), (64, 65_536, (32, 8, 128)), (256, 4096, (8, 1, 128)), (16, 8192, (64, 8, 64))]

PAGE_SCORES = Kernel(
    name="page_scores",
    table="page_topk",
    stands_for=("page_scores",),
    matches=lambda row: row["op"] == "scores",
    build=build_scores,
    configs=page_configs,
    sizes=page_sizes,
    check_rows=[{**page_row("scores", c[0], c[0], *c[1:]), "ragged": 1} for c in _CHECKS]
    + [page_row("scores", "fp16", "fp8", 3, 333, (8, 2, 16))],
    check_configs=[Config({"BLOCK": 16, "MOST": most, "num_warps": 1, "num_stages": 2}) for most in (1, 3)],
    compile_rows=[(page_row("scores", "bf16", "bf16", *c), ()) for c in _MEASURED]
    + [(page_row("scores", "bf16", "fp8", *_MEASURED[1]), ())],
)

PAGE_SELECT = Kernel(
    name="page_select",
    table="page_topk",
    stands_for=("page_select",),
    matches=lambda row: row["op"] == "select",
    build=build_select,
    configs=page_configs,
    sizes=page_sizes,
    check_rows=[{**page_row("select", c[0], c[0], *c[1:]), "ragged": 1} for c in _CHECKS],
    check_configs=[Config({"num_warps": 1})],
    compile_rows=[(page_row("select", "bf16", "bf16", *c), ()) for c in _MEASURED]
    + [(page_row("select", "bf16", "bf16", 1, 131_072, (40, 8, 128)), ())],
    tolerance=0.0,
)
