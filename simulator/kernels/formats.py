"""Number formats of kernels: what a dtype of a table stores and multiplies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hwspecs.gpu import Gpu


class Format(NamedTuple):
    """Bytes per element of weights and activations, scales included, and the formats it may multiply in, best first."""

    weight: float
    act: float
    compute: tuple[str, ...]


# Block scales: fp8_block has one fp32 per 128 x 128 weights and per 128 activations; nvfp4 one fp8 per 16, mxfp4 one
# byte per 32. Weight-only int4 has one fp16 per 128.
FORMATS: dict[str, Format] = {
    "bf16": Format(2, 2, ("bf16",)),
    "fp16": Format(2, 2, ("fp16", "bf16")),
    "fp8": Format(1, 1, ("fp8", "bf16")),
    "fp8_block": Format(1, 1 + 4 / 128, ("fp8", "bf16")),
    "nvfp4": Format(0.5 + 1 / 16, 0.5 + 1 / 16, ("fp4", "fp8", "bf16")),
    "int8": Format(1, 1, ("int8", "bf16")),
    "sq": Format(1, 1, ("int8", "bf16")),
    "int8_wo": Format(1, 2, ("bf16",)),
    "int4_wo": Format(0.5 + 2 / 128, 2, ("bf16",)),
    "w4a16_mxfp4": Format(0.5 + 1 / 32, 2, ("bf16",)),
    "w4a8_mxfp4_mxfp8": Format(0.5 + 1 / 32, 1 + 1 / 32, ("fp8", "bf16")),
    "nvfp4_wo": Format(0.5 + 1 / 16, 2, ("bf16",)),
}


def compute_format(dtype: str, gpu: Gpu) -> str:
    """The format that a kernel multiplies in: the first that the GPU has; without fp8, say, it is bf16."""
    return next((name for name in FORMATS[dtype].compute if name in gpu.peak), "bf16")


def compute_rate(dtype: str, gpu: Gpu) -> float:
    """Dense FLOP/s of that format."""
    return gpu.peak[compute_format(dtype, gpu)]
