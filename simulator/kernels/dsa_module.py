"""A block of DeepSeek's sparse attention (DSA) with its projections and its lightning indexer: `latent_block` with one.

The indexer scores every token of the past, the 2,048 best are chosen, and absorbed attention reads these alone. Where
no sequence has more than that, some engines use dense attention with expanded keys and values, and the indexer only
keeps its keys. `indexer` 0: the choice of the layer before is used again, and the indexer does nothing.
"""

from __future__ import annotations

import math

from hwspecs.gpu import Gpu
from simulator.kernels import latent_block as latent
from simulator.kernels import latent_time
from simulator.kernels.base import Constant, KernelModel, Label

TILE_EXPANDED = 128.0
TILE = 64.0
"""Query heads that FlashMLA's sparse kernels take at a time on Hopper."""
BF16_HEADS = 32.0
"""From so many on vLLM's FLASHMLA_SPARSE converts the chosen tokens to bf16 first and prefills from them (seen in its
times, which fall to half between 16 and 32 heads)."""
COLUMNS = (*latent.COLUMNS, "indexer")


def reads(kernel: str) -> str:
    """Whether a kernel's attention reads everything (`dense`) or the indexer's choice (`sparse`)."""
    return "dense" if "dense" in kernel else "sparse"


def most_graphed(kernel: str) -> float:
    """Most sequences of a decode step that the benchmark timed in a CUDA graph. SGLang's beyond them, launched kernel
    by kernel, take up to ten times as long, which says nothing of an engine with larger graphs.
    """
    return 256.0 if kernel.startswith("sglang") else math.inf


def block(label: Label, gpu: Gpu, size: latent.Dims = latent.DEEPSEEK) -> latent.Block:
    """What the kernel of this label does."""
    kernel, cache = label["kernel"], label["kv_dtype"]
    expanded = label.get("reads", reads(kernel)) == "dense"
    eight = cache != "bf16" and "fp8" in gpu.peak and gpu.architecture != "Hopper" and "flashmla" not in kernel.lower()
    tile = TILE_EXPANDED if expanded else TILE
    token = 2 * size.width if cache == "bf16" else size.width if eight else size.sparse_fp8
    converts = 0.0
    if cache != "bf16" and not eight and not expanded:
        converts = BF16_HEADS if kernel == "FLASHMLA_SPARSE" and label["phase"] == "prefill" else math.inf
    return latent.Block(expanded, not expanded, not expanded, True, tile, "fp8" if eight else "bf16", token, converts)


PHYSICS = latent_time.physics(block)

DSA_MODULE = KernelModel(
    kind="dsa_module",
    columns=COLUMNS,
    labels=("kernel", "phase", "model", "dtype", "kv_dtype", "gemm_dtype"),
    constants={
        **latent_time.CONSTANTS,
        "expanded": Constant(0.6, 0.1, 0.9),
        "sparse": Constant(0.5, 0.05, 0.9),
        "converts": Constant(0.3, 0.05, 0.9),
        "masked": Constant(0.5, 1e-3, 1.0),
        "scores": Constant(0.4, 0.02, 0.9),
        "row": Constant(3000.0, 10.0, 1e5),
        "element": Constant(0.2, 1e-3, 10.0),
        "passes": Constant(2.0, 0.1, 20.0),
    },
    terms=PHYSICS.terms,
    roof=PHYSICS.roof,
    work=PHYSICS.work,
    features=PHYSICS.features,
    names=latent.NAMES,
    named={"reads": reads},
    # Blocks that were timed in CUDA graphs (decode) take up to this. Prefill was launched kernel by kernel, which
    # leaves up to 0.8 ms between kernels that a step of many layers, whose host runs ahead, does not have.
    in_graph={"launch": 2e-4},
)
