"""Streaming kernels: read, write and copy of memory, for the bandwidth of HBM, or of L2 by the size of what is touched.

`rows` x `row_bytes` counts the bytes read and the bytes written together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from calibration.kernels.base import (
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
    relative_error,
)

ROW_BYTES = 16_384
OPS = ("read", "write", "copy")


@triton.jit
def read_kernel(source, sums, n, BLOCK: tl.constexpr, PER: tl.constexpr):
    """Sums of PER blocks a program, so that the loads are needed; one float32 a program is written."""
    program = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in tl.static_range(PER):
        at = (program * PER + i) * BLOCK + tl.arange(0, BLOCK)
        total += tl.load(source + at, mask=at < n, other=0.0)
    tl.store(sums + program, tl.sum(total, 0))


@triton.jit
def write_kernel(target, n, value, BLOCK: tl.constexpr, PER: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    numbers = tl.zeros((BLOCK,), tl.float32) + value
    for i in tl.static_range(PER):
        at = (program * PER + i) * BLOCK + tl.arange(0, BLOCK)
        tl.store(target + at, numbers, mask=at < n)


@triton.jit
def copy_kernel(source, target, n, BLOCK: tl.constexpr, PER: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    for i in tl.static_range(PER):
        at = (program * PER + i) * BLOCK + tl.arange(0, BLOCK)
        tl.store(target + at, tl.load(source + at, mask=at < n), mask=at < n)


def numbers_of(row: Row) -> int:
    """float32 numbers in one buffer: a copy has two of them."""
    touched = row["rows"] * row["row_bytes"]
    return max(1, touched // (8 if row["op"] == "copy" else 4))


def build(row: Row, room: Room) -> Problem:
    op, n = row["op"], numbers_of(row)
    source = random(room, n, dtype=torch.float32) if op != "write" else empty(room, 1, dtype=torch.float32)
    target = empty(room, n if op != "read" else 1, dtype=torch.float32)
    sums: dict[int, torch.Tensor] = {}

    def launches(copy: int, config: Config) -> list[Launch]:
        block, per = config["BLOCK"], config["PER"]
        grid = (cdiv(n, block * per),)
        options = dict(config.options)
        if op == "read":
            sums[0] = empty(room, grid[0], dtype=torch.float32)
            return [Launch(read_kernel, grid, (source, sums[0], n), options)]
        if op == "write":
            return [Launch(write_kernel, grid, (target, n, 1.5), options)]
        return [Launch(copy_kernel, grid, (source, target, n), options)]

    def outputs() -> list[torch.Tensor]:
        return [sums[0] if op == "read" else target]

    def reference() -> list[torch.Tensor]:
        if op == "read":
            return [source.double().sum().float().reshape(1)]
        return [torch.full((n,), 1.5, device=room.device) if op == "write" else source]

    def total(out: Sequence[torch.Tensor], whole: Sequence[torch.Tensor]) -> float:
        """However the programs share the numbers, their sums make the whole one."""
        return relative_error(out[0].double().sum(), whole[0])

    baselines = {"torch copy_": lambda copy: target.copy_(source)} if op == "copy" else {}
    return Problem(launches, outputs, reference, baselines, total if op == "read" else None)


def configs(row: Row, room: Room) -> list[Config]:
    tries = ((4096, 1, 4), (4096, 4, 8), (2048, 8, 8), (8192, 2, 8))
    return [Config({"BLOCK": block, "PER": per, "num_warps": warps}) for block, per, warps in tries]


def sizes(row: Row) -> Sizes:
    touched = float(row["rows"] * row["row_bytes"])
    return Sizes(0.0, touched, 0.0, touched)


def _row(op: str, rows: int) -> Row:
    return {"op": op, "dtype": "bf16", "rows": rows, "row_bytes": ROW_BYTES, "q_heads": 0, "kv_heads": 0, "head_dim": 0}


STREAM = Kernel(
    name="stream",
    table="elementwise",
    stands_for=(),
    matches=lambda row: row["op"] in OPS,
    build=build,
    configs=configs,
    sizes=sizes,
    check_rows=[_row(op, 3) for op in OPS],
    check_configs=[Config({"BLOCK": 1024, "PER": 4})],
    compile_rows=[(_row(op, 4096), ()) for op in OPS],
    tolerance=1e-5,
)
