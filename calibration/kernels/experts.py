"""The experts of a mixture (MoE): order the pairs by expert, grouped GEMM with SiLU-mul, grouped GEMM, weighted sum.

`grouped_kernel` does both GEMMs. Weights come by TMA and are the M side of the matrix instruction, so that 16 tokens of
an expert fill it; gate and up of the same columns are computed together, and only their product is written. Rows of x
are gathered by pointers (cp.async), or, with PERMUTE, copied into order first and loaded by TMA, which pays where many
tokens meet an expert; then, and for the second GEMM, loads of the next tile are under way while one is stored. How many
tiles there are only the device knows: programs are as many as fit on the GPU and deal with tiles in turn; where tiles
are few, k is split so that all SMs read weights, and the last program to arrive sums.

Limited by HBM (weights of the experts hit) in decode, by the tensor cores once each expert has some 100 tokens.

Operands may be fp8 (e4m3, a scale per tensor): the activated rows between the GEMMs are then stored as fp8 too.
Widths (hidden, and this GPU's share of the intermediate one) must be whole 16 bytes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from calibration.kernels.base import Config, Launch, Room, cdiv, next_power_of_two
from calibration.kernels.gemm import place, workspace
from calibration.kernels.routing import Order, combine_kernel, counts_needed, most_tiles, order_launches, permute_kernel

MOST_ITEMS = 4
"""Tiles are split as long as there are at most so many parts for each program."""


@triton.jit
def _sum_of_parts(partial, part, split, BM: tl.constexpr, BN: tl.constexpr, PIECES: tl.constexpr):
    """Sum of the `split` parts from `part` on, of partial[.., BN, BM]."""
    rows = tl.arange(0, BN)
    columns = tl.arange(0, BM)[None, :]
    total = tl.zeros((BN, BM), tl.float32)
    for i in tl.static_range(PIECES):
        at = (partial + (part + i).to(tl.int64) * (BN * BM) + rows * BM)[:, None] + columns
        there = (rows * 0 + i < split)[:, None]
        total += tl.load(at, mask=there, other=0.0, cache_modifier=".cg")  # past L1, which may not know it
    return total


@triton.jit(do_not_specialize=["top_k", "k_steps", "tiles_n"])
def grouped_kernel(
    x, w, out, order, tile_expert, tile_end, tiles, partial, arrived,
    n, k, x_stride, top_k, k_steps, tiles_n, scale,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PIECES: tl.constexpr,
    GATHER: tl.constexpr, GATED: tl.constexpr, ACTIVATE: tl.constexpr, SCATTER: tl.constexpr, MOST: tl.constexpr,
    FLAT: tl.constexpr,
):  # fmt: skip
    """out = x w[expert]^T * scale of each row, in order of expert.

    x: a pointer to rows that are found by pair // top_k (GATHER), or the descriptor of rows that are in order.
    w: descriptor of [experts * n, k] with n columns of an expert, of [experts * 2 n, k] where GATED: gate, then up.
    out: [rows in order, n], after SiLU (ACTIVATE), or [pairs, n] (SCATTER). BN: columns of a tile. PIECES: the most
    parts that k is split into. partial: float32 [MOST * programs, 1 + GATED, BN, BM]. arrived: int32 [tiles], zero
    between launches. FLAT: make one loop of those over tiles and over k (needs PIECES = 1).
    """
    tiles_m = tl.load(tiles)
    programs = tl.num_programs(0)
    whole = tiles_m * tiles_n
    split = 1
    tl.assume(k_steps > 0)
    if PIECES > 1:  # as many parts as make the busiest program's share smallest
        least = (whole + programs - 1) // programs * 12
        for parts in tl.static_range(2, PIECES + 1):
            share = (whole * parts + programs - 1) // programs * 12 // parts
            better = (share < least) & (parts <= k_steps) & (whole * parts <= MOST * programs)
            split = tl.where(better, parts, split)
            least = tl.where(better, share, least)
    in_tile = tl.arange(0, BM)
    in_step = tl.arange(0, BK)
    for item in tl.range(tl.program_id(0), whole * split, programs, flatten=FLAT):
        tile = item // split
        piece = item % split
        tile_m, tile_n = place(tile, tiles_m, tiles_n, GROUP)
        expert = tl.load(tile_expert + tile_m)
        end = tl.load(tile_end + tile_m)
        row = tile_m * BM + in_tile
        there = row < end
        at_n = tile_n * BN
        # Columns past n are another expert's, or none; they are not stored.
        first = expert * n * (1 + GATED) + at_n
        if GATHER:
            token = tl.where(there, tl.load(order + row), 0) // top_k
            source = x + token.to(tl.int64) * x_stride
        sums = tl.zeros((BN, BM), tl.float32)
        gate = tl.zeros((BN, BM), tl.float32)
        for step in range(piece * k_steps // split, (piece + 1) * k_steps // split):
            columns = w.load([first, step * BK])
            if GATHER:
                at_k = step * BK + in_step
                rows = tl.load(source[:, None] + at_k[None, :], mask=there[:, None] & (at_k < k)[None, :], other=0.0)
            else:
                rows = x.load([tile_m * BM, step * BK])
            if GATED:
                gate = tl.dot(columns, rows.T, gate)
                columns = w.load([first + n, step * BK])
            sums = tl.dot(columns, rows.T, sums)
        mine = True
        if PIECES > 1:  # noqa: SIM102 - this is known when it is compiled, the other when it runs
            if split > 1:
                begin = tile * split * (1 + GATED)
                in_part = tl.arange(0, BN) * BM
                to_rows = partial + (begin + piece).to(tl.int64) * (BN * BM) + in_part
                tl.store(to_rows[:, None] + in_tile[None, :], sums)
                if GATED:
                    to_rows = partial + (begin + split + piece).to(tl.int64) * (BN * BM) + in_part
                    tl.store(to_rows[:, None] + in_tile[None, :], gate)
                tl.debug_barrier()  # all of this program's stores come before its arrival
                mine = tl.atomic_add(arrived + tile, 1, sem="acq_rel") == split - 1
                if mine:
                    sums = _sum_of_parts(partial, begin, split, BM, BN, PIECES)
                    if GATED:
                        gate = _sum_of_parts(partial, begin + split, split, BM, BN, PIECES)
                    tl.store(arrived + tile, 0)
        if mine:
            sums = sums * scale
            if GATED:
                gate = gate * scale
                sums = gate / (1.0 + tl.exp(-gate)) * sums
            elif ACTIVATE:
                sums = sums / (1.0 + tl.exp(-sums))
            to_row = row
            if SCATTER:
                to_row = tl.where(there, tl.load(order + row), 0)
            column = at_n + tl.arange(0, BN)
            to = out + to_row.to(tl.int64) * n
            inside = there[:, None] & (column < n)[None, :]
            tl.store(to[:, None] + column[None, :], tl.trans(sums.to(out.dtype.element_ty)), mask=inside)


class Experts:
    """The launches of an experts' block, and what they leave in their workspace.

    Parameters
    ----------
    x, out : [tokens, hidden], contiguous. ids : int32, weights : float32 [tokens, top_k], contiguous.
    up : [held, 2 * width, hidden], gate first, or [held, width, hidden]. down : [held, hidden, width]. The experts held
        are those from `first` on; tokens of others get nothing.
    scales : of the results of the two GEMMs.

    The launches share a workspace with all others of this device: run them on one stream.
    """

    def __init__(
        self,
        x: torch.Tensor,
        up: torch.Tensor,
        down: torch.Tensor,
        ids: torch.Tensor,
        weights: torch.Tensor,
        out: torch.Tensor,
        first: int,
        room: Room,
        config: Config,
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        (held, hidden, width), pairs, bm = down.shape, ids.numel(), config["BM"]
        self.room, self.config, self.pairs, self.width = room, config, pairs, width
        gated = int(up.shape[1] != width)
        most = most_tiles(pairs, held, bm)

        def numbers(use: str, count: int) -> torch.Tensor:
            return workspace(room, f"moe {use}", count, torch.int32)

        self.order = Order(
            numbers("order", most * bm), numbers("expert", most), numbers("end", most), numbers("tiles", 1), most
        )
        counts = numbers("counts", counts_needed(pairs, held))
        self.rows = workspace(room, "moe rows", most * bm * width, down.dtype)[: most * bm * width]
        self.rows = self.rows.view(most * bm, width)
        results = workspace(room, "moe results", pairs * hidden, out.dtype)
        self.launches = order_launches(ids, first, held, bm, self.order, counts)
        source: Any = x
        if config["PERMUTE"]:
            ordered = workspace(room, "moe ordered", most * bm * hidden, x.dtype)[: most * bm * hidden]
            ordered = ordered.view(most * bm, hidden)
            some = {"BM": bm, "ROWS": 8, "BLOCK": min(1024, next_power_of_two(hidden)), "num_warps": 8}
            made = (self.order.order, self.order.tile_end, self.order.tiles)
            args = (x, ordered, *made, hidden, ids.shape[1])
            self.launches.append(Launch(permute_kernel, (cdiv(most * bm, 8),), args, some))
            source = TensorDescriptor.from_tensor(ordered, [bm, config["BK"]])
        options = {"GATHER": int(not config["PERMUTE"]), "GATED": gated, "ACTIVATE": 1, "SCATTER": 0}
        self._gemm(source, up, self.rows, width, ids.shape[1], scales[0], options)
        source = TensorDescriptor.from_tensor(self.rows, [bm, config["BK"]])
        options = {"GATHER": 0, "GATED": 0, "ACTIVATE": 0, "SCATTER": 1}
        self._gemm(source, down, results, hidden, ids.shape[1], scales[1], options)
        block = min(1024, next_power_of_two(hidden))
        args = (results, ids, weights, out, hidden, first, held)
        grid = (ids.shape[0], cdiv(hidden, block))
        more = {"TOP_K": ids.shape[1], "BLOCK": block, "num_warps": 4}
        self.launches.append(Launch(combine_kernel, grid, args, more))

    def _gemm(
        self, x: Any, w: torch.Tensor, out: torch.Tensor, n: int, top_k: int, scale: float, options: dict[str, int]
    ) -> None:
        config, room, k = self.config, self.room, w.shape[2]
        bm, bn, bk = config["BM"], config["BN"] >> options["GATED"], config["BK"]
        tiles_n, pieces = cdiv(n, bn), config["PIECES"]
        programs = min(room.sms * config["PER_SM"], self.order.most * tiles_n * pieces)
        numbers = MOST_ITEMS * programs * config["BN"] * bm if pieces > 1 else 1
        partial = workspace(room, "partial", numbers, torch.float32)
        arrived = workspace(room, "arrived", MOST_ITEMS * programs, torch.int32)
        columns = TensorDescriptor.from_tensor(w.view(-1, k), [bn, bk])
        tile = {"BM": bm, "BN": bn, "BK": bk, "GROUP": config["GROUP"], "PIECES": pieces, "MOST": MOST_ITEMS}
        tile["FLAT"] = int(pieces == 1 and not options["GATHER"])
        warps = {"num_warps": config["num_warps"], "num_stages": config["num_stages"]}
        args = (x, columns, out, *self.order[:4], partial, arrived, n, k, k, top_k, cdiv(k, bk), tiles_n, scale)
        self.launches.append(Launch(grouped_kernel, (programs,), args, {**tile, **options, **warps}))

    def filled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows that are no padding, and their pairs, after the launches. Synchronises: for checks."""
        order, bm = self.order, self.config["BM"]
        row = torch.arange(int(order.tiles[0]) * bm, device=order.order.device)
        row = row[row < order.tile_end[row // bm]]
        return row, order.order[row].long()


def experts(
    x: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    out: torch.Tensor,
    first: int,
    room: Room,
    config: Config,
    scales: tuple[float, float] = (1.0, 1.0),
) -> list[Launch]:
    """Launches for out = the weighted sum of each token's experts; see `Experts` for the arguments."""
    return Experts(x, up, down, ids, weights, out, first, room, config, scales).launches
