"""What attention kernels of prefill and decode have in common: tiles by kernel, bytes by format, what stays in L2."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.base import Label
from simulator.kernels.formats import FORMATS

EXP_PER_CLOCK = {"Blackwell Ultra": 32.0}
"""Exponentials that the special-function units of one SM give in a clock, by architecture, else USUAL_EXP (CUDA C++
Programming Guide, arithmetic instructions: 16 for compute capability 8.0 to 10.0; NVIDIA's "Inside Blackwell Ultra":
twice Blackwell's).
"""
USUAL_EXP = 16.0
RESIDENT = 0.75
"""Part of the L2 that a benchmark's data may fill and still be found there in the next repetition."""
SINGLE_GROUP = 32
"""Most query heads of a KV head that TensorRT-LLM's tensor-core decode kernels (XQA, trtllm-gen) take. For larger
groups, and for groups of one before Blackwell, it has a kernel without tensor cores, of one query head a thread block
(MMHA).
"""


class Traits(NamedTuple):
    """How a kernel cuts its work.

    decode_rows, prefill_rows : query rows of a tile. block : KV tokens of a block. resident : thread blocks of decode
    on an SM. packed : prefill packs the query heads of a KV head into the rows of one tile. pipelined : a tile's load
    overlaps with the tile before (warp-specialised and persistent). splits : prefill splits the context where tiles
    are few. shared : neighbouring tiles of prefill that one thread block works on together. least : KV blocks that
    decode leaves a split at least. portable : written in Triton, not for one architecture. packs_one : prefill packs
    heads where a sequence has one query only. groups : from and to which group size it is used; others go to MMHA.
    """

    decode_rows: int
    prefill_rows: int
    block: int
    resident: int
    packed: bool
    pipelined: bool = False
    splits: bool = False
    shared: int = 1
    least: int = 1
    portable: bool = False
    packs_one: bool = False
    groups: tuple[float, float] = (0, np.inf)


FLASH2 = Traits(64, 128, 64, 1, False, packs_one=True)
FLASH3 = Traits(64, 128, 128, 1, True, splits=True)
FLASH4 = Traits(128, 128, 128, 1, True, shared=2)
GEN = Traits(16, 128, 128, 1, False, pipelined=True, shared=2, least=2)
TRTLLM_GEN = GEN._replace(shared=1, groups=(0, SINGLE_GROUP))
XQA = Traits(32, 64, 64, 1, False, groups=(2, SINGLE_GROUP))
TRITON = Traits(16, 64, 32, 2, False, portable=True)
UNIFIED = Traits(16, 16, 32, 2, True, portable=True)
# Of this package's microbenchmarks: paged decode with a GQA group in a tile of at least 16 rows, which splits the KV
# freely and merges in a launch of its own; and prefill in the manner of FlashAttention 2, which fills a tile with query
# heads of a group where its queries do not. SGLang's kernel is called `triton` too, and cuts prefill smaller.
PAGED = Traits(16, 128, 64, 2, False, portable=True)
TILED = Traits(16, 128, 64, 1, True, portable=True)

BY_KERNEL: dict[str, Traits] = {
    "flash_attention": FLASH2,
    "vllm_flash_attn": FLASH2,
    "flashinfer": FLASH2,
    "torch_flow_flashinfer": FLASH2,
    "fa3": FLASH3,
    "vllm_flash_attn_fa3": FLASH3,
    "vllm_flash_attn_fa4": FLASH4,
    "trtllm_mha": GEN,
    "vllm_flashinfer_trtllmdecode": GEN._replace(prefill_rows=16, packed=True, shared=1),
    "vllm_flashinfer_trtllmprefill": GEN,
    "torch_flow": XQA,
    "triton": TRITON,
    "vllm_triton_attn": UNIFIED,
    "triton_paged": PAGED,
    "triton_gather": PAGED,
    "triton_warm": PAGED,
    "triton_prefill": TILED,
}


def traits(label: Label, gpu: Gpu) -> Traits:
    """The traits of a kernel; of one that is not known, FlashAttention 3's.

    TensorRT-LLM has kernels of its own for data-centre Blackwell (trtllm-gen), and a warp-specialised XQA for fp8 on
    Hopper.
    """
    kernel = label["kernel"]
    if kernel == "torch_flow":
        if gpu.architecture in ("Blackwell", "Blackwell Ultra"):
            return TRTLLM_GEN
        if gpu.architecture == "Hopper" and label["kv_dtype"] == "fp8":
            return XQA._replace(pipelined=True)
    return BY_KERNEL.get(kernel, FLASH3)


def exp_rate(gpu: Gpu) -> float:
    """Exponentials per second of the whole GPU."""
    return EXP_PER_CLOCK.get(gpu.architecture, USUAL_EXP) * gpu.sms * gpu.boost_clock


def kv_bytes(kv_dtype: str) -> float:
    """Bytes of one element of the KV cache."""
    return FORMATS[kv_dtype].act


def missing(working_set: Any, gpu: Gpu, resident: float = RESIDENT) -> Any:
    """The part of the bytes that a repeated kernel does not find in L2: a smooth step at `resident` of its size."""
    power = np.square(np.square(np.square(np.minimum(working_set / (resident * gpu.l2.size), 1e6))))
    return power / (1 + power)


def log2(x: Any) -> Any:
    return np.log2(np.maximum(x, 1e-9))
