"""An empty kernel: what a launch costs, one by one and in a CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from calibration.kernels.base import NO_CONFIG, Config, Kernel, Launch, Problem, Room, Row, Sizes, empty


@triton.jit
def empty_kernel(flag, SET: tl.constexpr):
    """Does nothing, unless it is to show that it ran."""
    if SET:
        tl.store(flag, 1.0)


def build(row: Row, room: Room) -> Problem:
    flag = empty(room, 1, dtype=torch.float32)
    shows = room.device == "cpu"  # nothing is stored where it is timed

    def launches(copy: int, config: Config) -> Sequence[Launch]:
        return [Launch(empty_kernel, (1,), (flag,), {"SET": shows, "num_warps": 1})]

    return Problem(launches, lambda: [flag], lambda: [torch.ones(1)])


_ROW: Row = {"mode": "graph", "launches": 1}

EMPTY = Kernel(
    name="empty",
    table="launch",
    stands_for=(),
    matches=lambda row: True,
    build=build,
    configs=lambda row, room: [NO_CONFIG],
    sizes=lambda row: Sizes(0.0, 4.0, 0.0, 0.0),
    check_rows=[_ROW],
    compile_rows=[(_ROW, ())],
    tolerance=0.0,
)
