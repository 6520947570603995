"""What kernels of multi-head latent attention have in common: widths, and the format that a kernel multiplies in.

The tables were measured at DeepSeek-V3's widths. Another model's come as further columns of a shape, which the physics
reads; corrections stay those of the measured widths.
"""

from __future__ import annotations

from typing import Any

from hwspecs.gpu import Gpu
from simulator.kernels.attention_traits import kv_bytes
from simulator.kernels.base import Label, Shape

DEEPSEEK_V3 = {"kv_rank": 512.0, "rope": 64.0, "nope": 128.0, "value": 128.0}
"""Elements of a token's latent, of its rotary key, of a head's other key and of its value (arXiv 2412.19437, 4.2)."""
CONVERTS = ("flash_attention",)
"""Decode kernels that have no 8-bit cache: it is converted to bf16 by a kernel before (SGLang on Hopper)."""
ABSORBED = ("flash_attention",)
"""Kernels of prefill that compute in the absorbed form, as decode does (SGLang on Hopper)."""
DATACENTRE_BLACKWELL = ("Blackwell", "Blackwell Ultra")


def width(shape: Shape, name: str) -> Any:
    """One of DEEPSEEK_V3's, or the shape's own."""
    return shape.get(name, DEEPSEEK_V3[name])


def cache_bytes(label: Label, gpu: Gpu) -> float:
    """Bytes of one element of the latent cache: a GPU without fp8 keeps bf16, as measurements on an A100 show."""
    return kv_bytes(label["kv_dtype"]) if "fp8" in gpu.peak or label["kv_dtype"] != "fp8" else 2.0


def decode_format(label: Label, gpu: Gpu) -> str:
    """What absorbed attention multiplies in: Blackwell's kernels in fp8 where the cache is, others in bf16."""
    eight = label["kv_dtype"] == "fp8" and gpu.architecture in DATACENTRE_BLACKWELL
    return "fp8" if eight and label["kernel"] not in CONVERTS else "bf16"


def prefill_format(label: Label, gpu: Gpu) -> str:
    """What expanded attention multiplies in: TensorRT-LLM's kernels in fp8 where the cache is."""
    eight = label["kv_dtype"] == "fp8" and "fp8" in gpu.peak
    return "fp8" if eight and label["kernel"] not in ABSORBED else "bf16"
