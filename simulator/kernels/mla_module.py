"""A block of multi-head latent attention (MLA) with its projections, measured as one: `latent_block` without indexer.

Engines have several kernels for it. Those that expand keys and values are used for prefill; the others absorb, in
decode and, with some engines, for short prompts and short chunks too.
"""

from __future__ import annotations

from hwspecs.gpu import Gpu
from simulator.kernels import latent_block as latent
from simulator.kernels import latent_time
from simulator.kernels.base import Constant, KernelModel, Label
from simulator.kernels.formats import FORMATS

EXPANDED = ("FLASH_ATTN", "TRTLLM_RAGGED")
ABSORBED = ("FLASHINFER_MLA", "FLASHMLA", "FLASH_ATTN_MLA")
"""Attention of vLLM by name; a kernel of another name (TensorRT-LLM's `default`) expands in prefill."""
TILE_EXPANDED, TILE_ABSORBED = 128.0, 64.0


def form(kernel: str) -> str:
    """Whether a kernel is used where keys and values are `expanded`, or `absorbed` (TensorRT-LLM's: in prefill)."""
    return "absorbed" if kernel in ABSORBED else "expanded"


def block(label: Label, gpu: Gpu, size: latent.Dims = latent.DEEPSEEK) -> latent.Block:
    """What the kernel of this label does. With an fp8 cache it multiplies in fp8 where it is Blackwell's (not in
    prefill, unless the model asks for fp8 too, or the engine is TensorRT-LLM).
    """
    kernel, cache = label["kernel"], label["kv_dtype"]
    how = label.get("form", form(kernel))  # what is pooled has no kernel's name
    expanded = kernel in EXPANDED or (label["phase"] == "prefill" and how == "expanded")
    eight = cache != "bf16" and "fp8" in gpu.peak
    if expanded:
        eight = eight and (label["dtype"] == "fp8" or kernel not in EXPANDED)
    else:
        eight = eight and gpu.architecture != "Hopper"
    tile = TILE_EXPANDED if expanded else TILE_ABSORBED
    token = size.width * FORMATS[cache].act
    return latent.Block(expanded, False, False, False, tile, "fp8" if eight else "bf16", token)


PHYSICS = latent_time.physics(block)

MLA_MODULE = KernelModel(
    kind="mla_module",
    columns=latent.COLUMNS,
    labels=("kernel", "phase", "model", "dtype", "kv_dtype", "gemm_dtype"),
    constants={
        **latent_time.CONSTANTS,
        "expanded": Constant(0.6, 0.1, 0.9),
        "absorbed": Constant(0.6, 0.1, 0.9),
        "masked": Constant(0.0, 0.0, 0.0),
    },
    terms=PHYSICS.terms,
    roof=PHYSICS.roof,
    work=PHYSICS.work,
    features=PHYSICS.features,
    names=latent.NAMES,
    named={"form": form},
    in_graph={"launch": 1.2e-4},  # of decode, which is timed in CUDA graphs, the largest
)
