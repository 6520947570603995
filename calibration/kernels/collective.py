"""The collectives of torch.distributed (NCCL on GPUs), as a step of a model on several GPUs issues them.

An all-reduce stands for the nodes `embedding_all_reduce`, `attn_all_reduce` and `mlp_all_reduce` of the operator graph,
an all-gather for `logits_all_gather`. There is no Triton kernel here: what serves is measured. Every rank runs the
same; `calibration.measure.ranks` starts the ranks.

`bytes` counts as in nccl-tests, the whole message: what one rank holds before an all-reduce, a reduce-scatter or an
all-to-all, and after an all-gather.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist

from calibration.kernels.base import BYTES, DTYPES, Row

OPS = ("all_reduce", "all_gather", "reduce_scatter", "alltoall")


class Collective(NamedTuple):
    """run : executes it once, on buffers that stay the same. fill : sets the input anew. output, expected : what is
    there after one run on a new input, and what should be.
    """

    run: Callable[[], object]
    fill: Callable[[], None]
    output: torch.Tensor
    expected: torch.Tensor


def build(row: Row, rank: int, device: str) -> Collective:
    """The buffers of one rank, after `torch.distributed.init_process_group`. Raises ValueError for an unknown `op`.

    A message is rounded up to whole elements of every rank.
    """
    world, dtype = int(row["gpus"]), DTYPES[row["dtype"]]
    share = max(1, -(-int(row["bytes"]) // (BYTES[row["dtype"]] * world)))

    def buffer(parts: int) -> torch.Tensor:
        return torch.zeros(parts * share, dtype=dtype, device=device)

    def ranks(*values: int) -> torch.Tensor:
        """`share` elements of each value."""
        return torch.tensor(values, dtype=dtype, device=device).repeat_interleave(share)

    total = sum(range(1, world + 1))
    if row["op"] == "all_reduce":
        whole = buffer(world)

        def fill() -> None:
            whole.fill_(rank + 1)

        return Collective(lambda: dist.all_reduce(whole), fill, whole, ranks(*[total] * world))
    if row["op"] == "all_gather":
        part, whole = buffer(1), buffer(world)
        return Collective(
            lambda: dist.all_gather_into_tensor(whole, part),
            lambda: set_to(part, rank + 1),
            whole,
            ranks(*range(1, world + 1)),
        )
    if row["op"] == "reduce_scatter":
        whole, part = buffer(world), buffer(1)
        return Collective(
            lambda: dist.reduce_scatter_tensor(part, whole), lambda: set_to(whole, rank + 1), part, ranks(total)
        )
    if row["op"] == "alltoall":
        sent, got = buffer(world), buffer(world)
        return Collective(
            lambda: dist.all_to_all_single(got, sent),
            lambda: set_to(sent, rank + 1),
            got,
            ranks(*range(1, world + 1)),
        )
    raise ValueError(f"no collective is called {row['op']!r}; there are: {', '.join(OPS)}")


def set_to(tensor: torch.Tensor, value: float) -> None:
    tensor.fill_(value)
