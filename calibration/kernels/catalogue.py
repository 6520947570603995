"""All kernels, and which of them is meant by a row of a table, or by a node of the operator graph."""

from __future__ import annotations

from calibration.kernels.base import Kernel, Row
from calibration.kernels.decode import DECODE, GATHER
from calibration.kernels.empty import EMPTY
from calibration.kernels.gemm import GEMM
from calibration.kernels.grouped import GROUPED
from calibration.kernels.pagesummary import PAGE_SUMMARY
from calibration.kernels.prefill import PREFILL
from calibration.kernels.rope import ROPE_KV_WRITE
from calibration.kernels.rowwise import EMBEDDING, RMS_NORM, SILU_MUL
from calibration.kernels.sampling import SAMPLING
from calibration.kernels.sparse import PAGE_SCORES, PAGE_SELECT
from calibration.kernels.stream import STREAM

KERNELS: tuple[Kernel, ...] = (
    *(GEMM, GROUPED, PREFILL, DECODE, GATHER, PAGE_SUMMARY, PAGE_SCORES, PAGE_SELECT),
    *(EMBEDDING, RMS_NORM, ROPE_KV_WRITE, SILU_MUL, SAMPLING, STREAM, EMPTY),
)


def kernel_of(table: str, row: Row) -> Kernel:
    """The kernel that a row of a table is measured with. Raises LookupError if there is none."""
    for kernel in KERNELS:
        if kernel.table == table and kernel.matches(row):
            return kernel
    raise LookupError(f"no kernel measures this row of {table}: {dict(row)}")


def standing_for(node: str) -> Kernel:
    """The kernel that a node of the graph is timed with, by its name with or without the suffix of a group of layers.

    Raises LookupError if there is none.
    """
    plain = node.split(" [")[0]
    for kernel in KERNELS:
        if plain in kernel.stands_for:
            return kernel
    raise LookupError(f"no kernel stands for the operator {node}")
