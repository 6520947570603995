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
from simulator import gqa
from simulator.graph import divides
from simulator.precision import Precision, passed_bytes
from workloads.formats import BODY
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

    Each part of the model in its format, scales included. Embedding, norms, routers and the experts' biases stay in at
    least 16 bits, and so does the head unless it has a format (`precision.Precision`); a quantised head is not the
    embedding table any more, even where the two are tied.
    """
    counts, wide = model.parameter_counts(), precision.table
    counts["attention"] += gqa.copied_parameters(model, tensor)
    counts["experts"] -= model.expert_biases
    split: dict[float, int] = {}
    for part in BODY:
        size = precision.linear(part).weight
        split[size] = split.get(size, 0) + counts[part]
    tables, head = counts["embedding"] + model.expert_biases, precision.linear("head").weight
    router = BYTES[model.moe.router_dtype] if model.moe and model.moe.router_dtype else wide
    extra = counts["router"] * (router - wide)
    if head == wide:
        tables += counts["lm_head"]
    else:
        extra += model.vocab * model.hidden / tensor * head
    matrices = sum(count / tensor * size for size, count in split.items())
    return matrices + (tables / tensor + counts["norms"] + counts["router"]) * wide + extra


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
        per_token = gqa.kv_bytes_per_token(model, precision.kv, gpus, page)
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
            found=f"{tensor} GPU(s), {precision if precision.parts else precision.weights} weights",
            allowed=advice + ", or a smaller weight format",
        )
    return plan
