"""Storage formats of numbers, and how many bytes one of them takes.

The figures are those of the number alone: the scales of block formats (fp8 per block, MXFP4, NVFP4) are left to the
layer that knows the block size. TF32 is a way to compute; in memory it is an fp32.
"""

from __future__ import annotations

from hwspecs.errors import InputError, near_matches

BYTES: dict[str, float] = {
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp4": 0.5,
    "int4": 0.5,
}


def check_dtype(name: object) -> str:
    """`name` itself if it is one of the formats of `BYTES`. Raises InputError, location left to the caller."""
    if not isinstance(name, str) or name not in BYTES:
        raise InputError("unknown number format", found=name, allowed=near_matches(str(name), BYTES))
    return name
