"""Which tokens go to which experts of a mixture: the pairs of a row of a table, and the kernels that order them.

A pair is a token and one of its `top_k` experts, numbered token * top_k + slot. A GPU of an expert-parallel group holds
`held` experts from `first` on, and its pairs are put in order of expert, each expert's from a multiple of the tile on:

order : int32 [tiles * BM], the pair of every row; not written where a row is only padding.
tile_expert, tile_end : int32 [tiles], for each tile of BM rows the expert held, and the row behind its last pair.
tiles : int32 [1], how many there are, which the host does not know.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

from calibration.kernels.base import Launch, Room, Row, cdiv, next_power_of_two

LARGEST = 0.8
"""The most tokens that a skewed routing gives one expert before scaling, as a fraction of all."""
RANK_BLOCK = 128
CHUNK = 1024
"""Pairs of a program where there are many: they are then counted by a kernel of its own."""


@triton.jit
def _held(ids, pair, pairs, first, held):
    """The held expert of each pair, `held` for the experts of other GPUs and past the end."""
    expert = tl.load(ids + pair, mask=pair < pairs, other=-1) - first
    return tl.where((expert >= 0) & (expert < held), expert, held)


@triton.jit(do_not_specialize=["pairs", "first", "held"])
def count_kernel(ids, counts, pairs, first, held, EXPERTS: tl.constexpr, CHUNK: tl.constexpr):
    """counts: int32 [programs, EXPERTS], pairs of each expert in a program's chunk."""
    pair = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    total = tl.histogram(_held(ids, pair, pairs, first, held), EXPERTS)
    tl.store(counts + tl.program_id(0) * EXPERTS + tl.arange(0, EXPERTS), total)


@triton.jit(do_not_specialize=["pairs", "first", "held"])
def order_kernel(
    ids, counts, order, tile_expert, tile_end, tiles, pairs, first, held,
    BM: tl.constexpr, EXPERTS: tl.constexpr, COUNTED: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
    RANKED: tl.constexpr,
):  # fmt: skip
    """Every program finds out by itself where each expert's rows are, and places its own chunk of pairs.

    EXPERTS: a power of two above `held`. The order is stable, so it does not depend on how programs run.
    """
    program = tl.program_id(0)
    expert = tl.arange(0, EXPERTS)
    total = tl.zeros((EXPERTS,), tl.int32)
    before = tl.zeros((EXPERTS,), tl.int32)  # pairs in the chunks before this one
    if COUNTED:
        for start in range(0, tl.num_programs(0), 16):
            chunk = start + tl.arange(0, 16)
            at = counts + chunk[:, None] * EXPERTS + expert[None, :]
            some = tl.load(at, mask=(chunk < tl.num_programs(0))[:, None], other=0)
            total += tl.sum(some, 0)
            before += tl.sum(tl.where((chunk < program)[:, None], some, 0), 0)
    else:
        for start in range(0, pairs, BLOCK):
            pair = start + tl.arange(0, BLOCK)
            of = _held(ids, pair, pairs, first, held)
            total += tl.histogram(of, EXPERTS)
            before += tl.histogram(tl.where(pair < program * CHUNK, of, held), EXPERTS)
    total = tl.where(expert < held, total, 0)
    padded = (total + BM - 1) // BM * BM
    stop = tl.cumsum(padded, 0)
    begin = stop - padded
    found = tl.sum(padded, 0) // BM
    if program == 0:
        tl.store(tiles, found)
    for start in range(program * 32, found, tl.num_programs(0) * 32):
        tile = start + tl.arange(0, 32)
        of = tl.sum((stop[None, :] <= (tile * BM)[:, None]).to(tl.int32), 1)
        end = tl.sum(tl.where(of[:, None] == expert[None, :], (begin + total)[None, :], 0), 1)
        tl.store(tile_expert + tile, of, mask=tile < found)
        tl.store(tile_end + tile, end, mask=tile < found)
    next_row = begin + before
    within = tl.arange(0, RANKED)
    for start in range(program * CHUNK, tl.minimum(program * CHUNK + CHUNK, pairs), RANKED):
        pair = start + within
        of = _held(ids, pair, pairs, first, held)
        earlier = (of[:, None] == of[None, :]) & (within[:, None] > within[None, :])
        row = tl.gather(next_row, of, 0) + tl.sum(earlier.to(tl.int32), 1)
        tl.store(order + row, pair, mask=of < held)
        next_row += tl.histogram(of, EXPERTS)


@triton.jit(do_not_specialize=["top_k"])
def permute_kernel(
    x, rows_out, order, tile_end, tiles, hidden, top_k,
    BM: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """rows_out[row] = x[token of the row's pair], ROWS rows a program; padding is not written."""
    first = tl.program_id(0) * ROWS
    if first // BM < tl.load(tiles):
        row = first + tl.arange(0, ROWS)
        there = row < tl.load(tile_end + first // BM)
        token = tl.load(order + row, mask=there, other=0) // top_k
        source = x + token.to(tl.int64) * hidden
        to = rows_out + row.to(tl.int64) * hidden
        for start in range(0, hidden, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = there[:, None] & (column < hidden)[None, :]
            values = tl.load(source[:, None] + column[None, :], mask=inside)
            tl.store(to[:, None] + column[None, :], values, mask=inside)


@triton.jit(do_not_specialize=["first", "held"])
def combine_kernel(
    y, ids, weights, out, hidden, first, held,
    TOP_K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[token] = sum of weights * y[pair] over the token's pairs that were computed here."""
    token = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float32)
    for slot in tl.static_range(TOP_K):
        pair = token * TOP_K + slot
        expert = tl.load(ids + pair) - first
        end = tl.where((expert >= 0) & (expert < held), hidden, 0)
        values = tl.load(y + pair.to(tl.int64) * hidden + column, mask=column < end, other=0.0)
        sums += values.to(tl.float32) * tl.load(weights + pair)
    tl.store(out + token.to(tl.int64) * hidden + column, sums.to(out.dtype.element_ty), mask=column < hidden)


class Order(NamedTuple):
    """Where the order of the pairs is put; see the module. most : the most tiles there can be."""

    order: torch.Tensor
    tile_expert: torch.Tensor
    tile_end: torch.Tensor
    tiles: torch.Tensor
    most: int


def order_launches(
    ids: torch.Tensor, first: int, held: int, bm: int, made: Order, counts: torch.Tensor
) -> list[Launch]:
    """Order the pairs of ids[tokens, top_k]; counts: int32 [counts_needed]."""
    pairs, experts = ids.numel(), next_power_of_two(held + 1)
    counted = pairs > CHUNK
    launches, chunk = [], CHUNK if counted else RANK_BLOCK
    grid, options = (cdiv(pairs, chunk),), {"EXPERTS": experts, "CHUNK": chunk, "num_warps": 8}
    if counted:
        launches.append(Launch(count_kernel, grid, (ids, counts, pairs, first, held), options))
    args = (ids, counts, *made[:4], pairs, first, held)
    more = {"BM": bm, "COUNTED": int(counted), "RANKED": RANK_BLOCK, "BLOCK": CHUNK}
    return [*launches, Launch(order_kernel, grid, args, options | more)]


def counts_needed(pairs: int, held: int) -> int:
    return cdiv(pairs, CHUNK) * next_power_of_two(held + 1)


def most_tiles(pairs: int, held: int, bm: int) -> int:
    """The most tiles that `pairs` can fill, in part or whole, whatever the routing."""
    return min(pairs, cdiv(pairs, bm) + held)


class Routing(NamedTuple):
    """Pairs of a row of a table.

    counts : int [experts], tokens of each. first, held : the experts of the GPU that is measured, the most loaded one.
    """

    counts: np.ndarray
    first: int
    held: int

    @property
    def here(self) -> np.ndarray:
        return self.counts[self.first : self.first + self.held]


def routing_of(row: Row) -> Routing:
    """How many tokens each expert gets.

    balanced: all alike as far as whole tokens allow, GPUs first. power_law_A: as many as evenly spaced quantiles of a
    density x^-A between 1 and 0.8 x tokens, scaled to the number of pairs, none more than all tokens, experts shuffled.
    """
    return _routing(row["routing"], row["tokens"], row["top_k"], row["experts"], row["ep"])


@functools.lru_cache(maxsize=64)
def _routing(routing: str, tokens: int, top_k: int, experts: int, ep: int) -> Routing:
    pairs, held = tokens * top_k, experts // ep
    if routing == "balanced":
        deal = np.arange(experts).reshape(held, ep).T.ravel()  # expert -> when it is dealt a pair
        return Routing(pairs // experts + (deal < pairs % experts), 0, held)
    alpha, top = float(routing.removeprefix("power_law_")), max(LARGEST * tokens, 1.01)
    quantile = (np.arange(experts) + 0.5) / experts
    power = 1 - alpha
    weights = top**quantile if abs(power) < 1e-6 else (1 + quantile * (top**power - 1)) ** (1 / power)
    counts = _shares(weights[np.random.default_rng(0).permutation(experts)], pairs, tokens)
    first = int(counts.reshape(ep, held).sum(axis=1).argmax()) * held
    return Routing(counts, first, held)


def _shares(weights: np.ndarray, pairs: int, most: int) -> np.ndarray:
    """Whole numbers in proportion to weights that sum to `pairs`, none above `most`."""
    low, high = 0.0, float(pairs) / float(weights.min())
    for _ in range(80):  # the factor at which the clipped shares sum to `pairs`
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(weights * middle, most).sum() < pairs else (low, middle)
    exact = np.minimum(weights * high, most)
    counts = np.floor(exact).astype(np.int64)
    left = np.argsort(-(exact - counts), kind="stable")
    for expert in [e for e in left if counts[e] < most][: pairs - int(counts.sum())]:
        counts[expert] += 1
    return counts


def make_ids(routing: Routing, tokens: int, top_k: int, turn: int, room: Room) -> torch.Tensor:
    """int32 [tokens, top_k], distinct experts for every token.

    turn : by how many places the held experts' parts are exchanged, so that copies use other weights.
    """
    if room.device == "meta":
        return torch.empty(tokens, top_k, dtype=torch.int32, device="meta")
    counts = routing.counts.copy()
    here = slice(routing.first, routing.first + routing.held)
    counts[here] = np.roll(counts[here], turn)
    # A column of all tokens after the other: an expert's run is no longer than that, so it meets no token twice.
    run = np.repeat(np.arange(len(counts)), counts).reshape(top_k, tokens)
    shuffled = run[:, np.random.default_rng(room.seed).permutation(tokens)]
    return torch.from_numpy(np.ascontiguousarray(shuffled.T.astype(np.int32))).to(room.device)
