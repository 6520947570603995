"""Where a GPU's memory goes: weights, reserves, and what is left for the KV cache.

    KV bytes = utilisation x capacity - weights - activations' peak - CUDA graphs - context

The engine may use `memory_utilisation` of the capacity (vLLM's `gpu_memory_utilization`). All figures are bytes on one
GPU of a replica; the tensor-parallel GPUs of a replica are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwspecs.dtypes import BYTES
from hwspecs.errors import InputError
from hwspecs.gpu import Gpu
from hwspecs.units import format_quantity
from simulator.graph import Precision, divides, passed_bytes
from workloads.model import Model

# Assumptions of the memory model, in the absence of a measurement of the engine at hand.
CONTEXT_BYTES = 0.6e9  # CUDA context, cuBLAS and NCCL workspaces
GRAPHS_BYTES = 0.8e9  # CUDA graphs captured for the decode batch sizes


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one GPU, and the KV cache they leave room for.

    `kv_bytes_per_token` is that of one GPU; `kv_blocks` the capacity of the replica in blocks of `block_size` tokens.
    """

    capacity: float
    usable: float
    weights: float
    activations: float
    graphs: float
    context: float
    kv: float
    kv_bytes_per_token: float
    block_size: int
    kv_blocks: int

    @property
    def kv_tokens(self) -> int:
        return self.kv_blocks * self.block_size


def activations_peak(model: Model, precision: Precision, tensor: int, max_tokens: int, max_seqs: int) -> float:
    """Peak of the activations of one step (bytes).

    The largest moment of a step is either the MLP of the largest batch (residual, hidden state, gate, up and product)
    or the logits in fp32 beside their softmax.
    """
    a = passed_bytes(precision)
    width = model.intermediate
    if model.moe is not None:
        width = max(model.moe.intermediate * model.moe.top_k, model.moe.shared_intermediate or 0)
    width = -(-width // tensor)
    attention = (model.q_heads + 2 * model.kv_heads) * model.head_dim // tensor
    rows = (1 + (model.moe.top_k if model.moe else 0)) * model.hidden
    tokens = max_tokens * (2 * model.hidden + rows + max(3 * width, attention)) * a
    logits = max_seqs * -(-model.vocab // tensor) * (4 + 4)
    return max(tokens, logits)


def weight_bytes_per_gpu(model: Model, precision: Precision, tensor: int) -> float:
    """Bytes of the weights on one of `tensor` GPUs: matrices are split, norms and routers replicated, KV heads too if
    there are too few.

    Embedding, head, norms and routers stay in at least 16 bits (`graph.Precision`).
    """
    counts = model.parameter_counts()
    replicated = counts["norms"] + counts["router"]
    kv_copies = max(1, tensor // model.kv_heads)
    extra = (kv_copies - 1) * 2 * model.kv_heads * model.head_dim * model.hidden * model.layers
    tables = counts["embedding"] + counts["lm_head"]
    split = sum(counts.values()) - replicated - tables + extra
    narrow, wide = BYTES[precision.weights], max(2.0, BYTES[precision.weights])
    return split / tensor * narrow + (tables / tensor + replicated) * wide


def plan_memory(
    model: Model,
    gpu: Gpu,
    precision: Precision,
    tensor: int,
    *,
    page: int | None,
    utilisation: float,
    block_size: int,
    max_tokens: int,
    max_seqs: int,
) -> MemoryPlan:
    """The memory plan of one GPU. `page` is that of a block top-k policy, None without page summaries.

    Raises
    ------
    InputError : weights and reserves leave no room for KV; the message says the least tensor parallelism that does.
    """

    def plan_for(gpus: int) -> MemoryPlan:
        usable = gpu.memory.capacity * utilisation
        weights = weight_bytes_per_gpu(model, precision, gpus)
        activations = activations_peak(model, precision, gpus, max_tokens, max_seqs)
        kv = usable - weights - activations - GRAPHS_BYTES - CONTEXT_BYTES
        per_token = 2 * model.layers * max(1, model.kv_heads // gpus) * model.head_dim * BYTES[precision.kv]
        if page is not None:
            per_token *= 1 + 1 / (2 * page)  # a summary vector per page beside its K and V
        return MemoryPlan(
            capacity=gpu.memory.capacity,
            usable=usable,
            weights=weights,
            activations=activations,
            graphs=GRAPHS_BYTES,
            context=CONTEXT_BYTES,
            kv=max(0.0, kv),
            kv_bytes_per_token=per_token,
            block_size=block_size,
            kv_blocks=max(0, int(kv // (per_token * block_size))),
        )

    plan = plan_for(tensor)
    if plan.kv_blocks < 1:
        need = plan.weights + plan.activations + plan.graphs + plan.context
        wider = range(tensor + 1, gpu.link.domain + 1)
        least = next((gpus for gpus in wider if divides(model, gpus) and plan_for(gpus).kv_blocks > 0), None)
        advice = (
            f"parallelism.tensor = {least} or more"
            if least
            else f"no tensor parallelism within the {gpu.link.domain} linked GPUs"
        )
        raise InputError(
            f"{model.name} does not fit: weights and reserves take {format_quantity(need, 'B')} of the "
            f"{format_quantity(plan.usable, 'B')} usable on each {gpu.name} and leave no room for KV",
            place="model",
            found=f"{tensor} GPU(s), {precision.weights} weights",
            allowed=advice + ", or a smaller weight format",
        )
    return plan
