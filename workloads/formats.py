"""Formats of linear layers: what a checkpoint stores of a matrix, scales included, and what its kernels multiply in.

A pair of number formats (`weights`, `activations`) does not say all of a served checkpoint: fp8 comes scaled per tensor
or by blocks, fp4 as nvfp4 or mxfp4. The names here do; they are those of the tables of kernels (docs/kernel-tables.md).

References
----------
fp8_block : DeepSeek-V3 (arXiv 2412.19437), section 3.3: one fp32 scale for 128 x 128 weights, or for 128 activations.
nvfp4 : one fp8 scale for 16 values and one fp32 for the tensor (NVIDIA, "Introducing NVFP4", 2025).
mxfp4, mxfp8 : OCP Microscaling Formats (MX) v1.0: one byte of scale for 32 values.
int4_wo : AWQ and GPTQ with groups of 128 weights, one fp16 scale each.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwspecs.dtypes import BYTES
from hwspecs.errors import InputError, near_matches

PARTS = ("attention", "output", "mlp", "experts", "head")
"""Linear layers whose format may be their own: attention's projections, of these the output projection, dense MLPs and
shared experts, routed experts, the LM head."""

BODY = ("attention", "mlp", "experts")
"""Those that a checkpoint's quantisation means where it says nothing else."""

BLOCK = 128
"""Rows and columns of the weights that share a scale in fp8_block."""


@dataclass(frozen=True)
class LinearFormat:
    """How linear layers are stored and multiplied.

    Attributes
    ----------
    weights, activations : number formats of storage and of arithmetic.
    scales : bytes of scales for each weight.
    kernel : the `dtype` that tables of kernels give it.
    needs : number formats that the GPU has to compute in.
    title : for people.
    """

    weights: str
    activations: str
    scales: float
    kernel: str
    needs: tuple[str, ...]
    title: str

    @property
    def weight_bytes(self) -> float:
        """Bytes of one weight, scales included."""
        return BYTES[self.weights] + self.scales


def _alike(dtype: str, kernel: str, title: str) -> LinearFormat:
    return LinearFormat(dtype, dtype, 0.0, kernel, (dtype,), title)


LINEAR_FORMATS: dict[str, LinearFormat] = {
    "bf16": _alike("bf16", "bf16", "bf16"),
    "fp16": _alike("fp16", "bf16", "fp16"),
    "fp8": _alike("fp8", "fp8", "fp8, scaled per tensor"),
    "fp8_block": LinearFormat("fp8", "fp8", 4 / BLOCK**2, "fp8_block", ("fp8",), "fp8, scaled by blocks of 128 x 128"),
    # What engines do with fp8 weights where the GPU has no fp8; no table has kernels of its own, int8_wo moves as much.
    "fp8_wo": LinearFormat("fp8", "bf16", 0.0, "int8_wo", ("bf16",), "fp8 weights, bf16 activations"),
    "nvfp4": LinearFormat("fp4", "fp4", 1 / 16, "nvfp4", ("fp4",), "nvfp4 weights and activations"),
    # The same of nvfp4.
    "nvfp4_wo": LinearFormat("fp4", "bf16", 1 / 16, "nvfp4_wo", ("bf16",), "nvfp4 weights, bf16 activations"),
    "w4a16_mxfp4": LinearFormat("fp4", "bf16", 1 / 32, "w4a16_mxfp4", ("bf16",), "mxfp4 weights, bf16 activations"),
    # Operands with a scale for 32 values are a feature of tensor cores that have fp4.
    "w4a8_mxfp4_mxfp8": LinearFormat(
        "fp4", "fp8", 1 / 32, "w4a8_mxfp4_mxfp8", ("fp8", "fp4"), "mxfp4 weights, mxfp8 activations"
    ),
    # Multiplied in plain fp8 after the weights are widened; no table has kernels of its own.
    "w4a8_mxfp4_fp8": LinearFormat(
        "fp4", "fp8", 1 / 32, "w4a8_mxfp4_mxfp8", ("fp8",), "mxfp4 weights, fp8 activations scaled per tensor"
    ),
    "int8": _alike("int8", "sq", "int8 weights and activations (SmoothQuant)"),
    "int8_wo": LinearFormat("int8", "bf16", 0.0, "int8_wo", ("bf16",), "int8 weights, bf16 activations"),
    "int4_wo": LinearFormat("int4", "bf16", 2 / 128, "int4_wo", ("bf16",), "int4 weights, bf16 activations"),
    # Kimi-K2.5's experts (compressed-tensors, pack-quantized): a bf16 scale for 32 weights.
    "int4_wo_32": LinearFormat("int4", "bf16", 2 / 32, "int4_wo", ("bf16",), "int4 weights by 32, bf16 activations"),
}
"""Name -> format. Scales per tensor, row or column are too few to count."""


def check_linear_format(name: object) -> str:
    """`name` itself if it is one of LINEAR_FORMATS. Raises InputError, location left to the caller."""
    if not isinstance(name, str) or name not in LINEAR_FORMATS:
        raise InputError("unknown format of linear layers", found=name, allowed=near_matches(str(name), LINEAR_FORMATS))
    return name


@dataclass(frozen=True)
class PartFormats:
    """Formats by part, names of LINEAR_FORMATS; None for the number formats that are said for the whole model.

    `output` is None where the output projection of the attention is in the format of the others.
    """

    attention: str | None = None
    mlp: str | None = None
    experts: str | None = None
    head: str | None = None
    output: str | None = None
