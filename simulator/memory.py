"""Where a GPU's memory goes: weights, what running them takes, and what the engine's rule leaves for the KV cache.

Engines differ in what they take a share of, and in what has to fit inside it (`Reserve`). All figures are bytes on one
GPU, the fullest of a replica: that of the pipeline's largest stage. docs/memory.md has the rules, where their constants
come from, and how far off they are on what engines print when they start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu
from hwspecs.units import format_quantity
from simulator import kinds
from simulator.drafting import NO_DRAFT, Draft
from simulator.layout import Layout, divides
from simulator.precision import Precision, passed_bytes
from simulator.reserve import EVERYTHING, IDEAL, Reserve, driver_bytes
from simulator.weights import drafter_bytes_per_gpu, layer_share, weight_bytes_per_gpu
from workloads.formats import BLOCK
from workloads.model import Model

__all__ = ["IDEAL", "MemoryPlan", "Reserve", "activations_peak", "plan_memory", "weight_bytes_per_gpu"]


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one GPU, and the KV cache they leave room for.

    `driver` is what the driver keeps of the capacity; `usable` what the engine's rule lets it use; `window_kv` the KV
    set aside for layers with a sliding window, `states` what is for the states of linear attention; `kv` the rest of
    the KV, of which `kv_bytes_per_token` is a token's on one GPU; `left` what nobody takes. `kv_blocks` is the capacity
    of the replica in blocks of `block_size` tokens; `max_seqs` the sequences of a rank whose states have room, at most
    the engine's limit.
    """

    capacity: float
    driver: float
    usable: float
    weights: float
    activations: float
    graphs: float
    context: float
    communication: float
    workspace: float
    window_kv: float
    states: float
    kv: float
    left: float
    kv_bytes_per_token: float
    block_size: int
    kv_blocks: int
    max_seqs: int

    @property
    def kv_tokens(self) -> int:
        return self.kv_blocks * self.block_size


def activations_peak(
    model: Model,
    precision: Precision,
    layout: Layout | int,
    max_tokens: int,
    max_seqs: int,
    reserve: Reserve = IDEAL,
) -> float:
    """Peak of the activations of one step (bytes).

    The largest moment of a step is either the MLP of the largest batch (residual, hidden state, gate, up and product;
    of an MoE the rows of every chosen expert, for the tokens of all ranks of attention) or the sampler: logits and what
    is made of them take `reserve.sampling` bytes per sequence and token of the vocabulary, of all of it, since engines
    gather the logits first; where no engine is named each GPU keeps its part. `max_tokens` and `max_seqs` are limits of
    one rank.
    """
    layout = Layout.of(layout)
    tensor, a = layout.tensor, passed_bytes(precision)
    width = model.intermediate
    if model.moe is not None:
        width = max(model.moe.intermediate * model.moe.top_k, model.moe.shared_intermediate or 0)
    width = -(-width // tensor)
    attention = (model.q_heads * (1 + model.output_gate) + 2 * model.kv_heads) * model.head_dim // tensor
    if model.linear is not None:
        attention = max(attention, (model.linear.channels + model.linear.values) // tensor)
    # With an all-to-all a GPU gets, of all ranks' tokens, as many rows as it sends.
    rows = (1 + (model.moe.top_k if model.moe else 0)) * model.hidden
    rows *= 1 if layout.exchanges else layout.attention_data
    tokens = max_tokens * (2 * model.hidden + rows + max(3 * width, attention)) * a
    vocab = -(-model.vocab // tensor) if reserve.rule == EVERYTHING else model.vocab
    return max(tokens, max_seqs * vocab * reserve.sampling)


def plan_memory(
    model: Model,
    gpu: Gpu,
    precision: Precision,
    layout: Layout | int,
    *,
    page: int | None,
    utilisation: float,
    block_size: int,
    max_tokens: int,
    max_seqs: int,
    reserve: Reserve = IDEAL,
    draft: Draft = NO_DRAFT,
) -> MemoryPlan:
    """The memory plan of the fullest GPU of a replica.

    Parameters
    ----------
    layout : of the replica; a number means tensor parallelism alone.
    page : that of a block top-k policy, None without page summaries.
    utilisation : the engine's share.
    max_tokens, max_seqs : limits of a step, of each rank of attention.
    draft : what drafts, which has weights and a KV cache too.

    Raises
    ------
    InputError : weights and reserves leave no room for KV; the message says what takes how much and the least number
        of GPUs that do.
    """
    layout = Layout.of(layout)

    def plan_for(candidate: Layout, share: float = utilisation, seqs: int = max_seqs) -> MemoryPlan:
        return _plan(
            model,
            gpu,
            precision,
            candidate,
            page=page,
            utilisation=share,
            block_size=block_size,
            max_tokens=max_tokens,
            max_seqs=seqs,
            reserve=reserve,
            draft=draft,
        )

    plan = plan_for(layout)
    if plan.kv_blocks < 1:
        in_blocks = model.moe is not None and precision.linear("experts").format == "fp8_block"
        least = next((other for other in _wider(model, gpu, layout, in_blocks) if plan_for(other).kv_blocks > 0), None)
        settings = ", a larger engine.memory_utilisation" if plan_for(layout, share=1.0).kv_blocks > 0 else ""
        settings += ", a smaller engine.max_num_seqs" if plan_for(layout, seqs=1).kv_blocks > 0 else ""
        raise InputError(
            f"{model.name} does not fit: {_takes(plan)} leave no room for KV on a {gpu.name} of "
            f"{format_quantity(plan.capacity, 'B')}, of which the engine uses {format_quantity(plan.usable, 'B')}",
            place="model",
            found=f"{_gpus(layout)}, {precision if precision.parts else precision.weights + ' weights'}",
            allowed=_advice(least, layout, gpu) + settings + ", or a smaller weight format",
        )
    return plan


def _plan(
    model: Model,
    gpu: Gpu,
    precision: Precision,
    layout: Layout,
    *,
    page: int | None,
    utilisation: float,
    block_size: int,
    max_tokens: int,
    max_seqs: int,
    reserve: Reserve,
    draft: Draft,
) -> MemoryPlan:
    capacity, peers = gpu.memory.capacity, layout.gpus - 1
    driver = driver_bytes(capacity) if reserve.rule != EVERYTHING else 0.0
    total = capacity - driver
    weights = weight_bytes_per_gpu(model, precision, layout, reserve.expert_width)
    weights += drafter_bytes_per_gpu(draft, layout, reserve.expert_width)
    activations = activations_peak(model, precision, layout, max_tokens, max_seqs * (draft.tokens + 1), reserve)
    graphs, context = reserve.graphs, reserve.context
    communication = reserve.communication if peers else 0.0
    workspace = reserve.workspace + reserve.workspace_peer * peers
    others = weights + activations + graphs + context + communication + workspace
    match reserve.rule:
        case "everything":
            usable = capacity * utilisation
            pool = usable - weights - activations - graphs - context
        case "of_total":
            usable = total * utilisation
            pool = usable - weights - activations - workspace
        case "of_available":
            usable = (total - context - communication) * utilisation
            pool = usable - weights
        case "of_free":
            usable = total - (1 - utilisation) * max(0.0, total - others)
            pool = usable - others
    # A share that leaves too little beside it would not start: no more than what is there is taken.
    pool = max(0.0, min(pool, total - others))
    token = kinds.kv_bytes_per_token(model, precision.kv, layout.tensor, page) * layer_share(model, layout)
    drafted = 0.0 if draft.model is None else kinds.kv_bytes_per_token(draft.model, precision.kv, layout.tensor)
    token, window_kv = _windows(model, token, pool, block_size, max_tokens, max_seqs, reserve.windows)
    # Which drafted tokens hold is known only when their states are written: each has one of its own until then.
    each = kinds.state_bytes(model, layout.tensor) * layer_share(model, layout) * (1 + draft.tokens)
    token += drafted
    states, seqs = _states(each, pool - window_kv, max_seqs, reserve)
    kv = pool - window_kv - states
    blocks = int(kv // (token * block_size)) if seqs else 0
    return MemoryPlan(
        capacity=capacity,
        driver=driver,
        usable=usable,
        weights=weights,
        activations=activations,
        graphs=graphs,
        context=context,
        communication=communication,
        workspace=workspace,
        window_kv=window_kv,
        states=states,
        kv=kv,
        left=max(0.0, total - others - pool),
        kv_bytes_per_token=token,
        block_size=block_size,
        kv_blocks=blocks * layout.attention_data,
        max_seqs=seqs,
    )


def _windows(
    model: Model, token: float, pool: float, block_size: int, max_tokens: int, max_seqs: int, share: float
) -> tuple[float, float]:
    """Bytes of a token in the KV cache, and bytes set aside for the windows of sequences.

    With `share` 0 a layer with a window keeps, of each sequence, the blocks that its window reaches into, and the
    tokens of one prefill chunk until the step is over. No more than the part of the pool that these layers would fill
    is set aside for that: sequences shorter than their windows need no more.
    """
    windows = [window for window in model.layer_windows if window is not None]
    full = model.layers - len(windows)
    if not windows or not full or share == 1:
        return token, 0.0
    layer = token / model.layers
    if share > 0:
        return layer * (full + share * len(windows)), 0.0
    held = sum((-(-(window - 1) // block_size) + 1) * block_size * max_seqs + max_tokens for window in windows)
    return layer * full, min(held * layer, pool * len(windows) / model.layers)


def _states(each: float, pool: float, max_seqs: int, reserve: Reserve) -> tuple[float, int]:
    """Bytes set aside for the states of linear attention, and the sequences for which they do.

    `each` : bytes of a sequence. An engine sets aside a share of the memory for KV (`reserve.states`), in which a
    running sequence may hold several slots; or, with a share of 0, what `max_seqs` sequences need, here at most half.
    """
    if not each:
        return 0.0, max_seqs
    if reserve.states:
        return reserve.states * pool, min(max_seqs, int(reserve.states * pool / each / reserve.state_slots))
    seqs = min(max_seqs, int(pool / 2 / each))
    return seqs * each, seqs


def _wider(model: Model, gpu: Gpu, layout: Layout, in_blocks: bool) -> Iterator[Layout]:
    """Layouts with more tensor parallelism, within the linked GPUs, with any groups of experts, fewest GPUs first; at
    last without the pipeline.

    `in_blocks` : whether the experts are scaled by blocks, which some engines cannot split.
    """
    for stages in dict.fromkeys((layout.pipeline, 1)):
        for tensor in range(1, gpu.link.domain // (layout.attention_data * stages) + 1):
            stage = tensor * layout.attention_data
            groups = [layout.expert, *(size for size in range(1, stage + 1) if size != layout.expert)]
            for expert in groups if model.moe else groups[:1]:
                wider = replace(layout, tensor=tensor, pipeline=stages, expert=expert)
                if wider.gpus <= layout.gpus or stage % expert or not divides(model, wider):
                    continue
                if model.moe is None or not in_blocks or model.moe.intermediate // wider.expert_tensor % BLOCK == 0:
                    yield wider


def _advice(least: Layout | None, layout: Layout, gpu: Gpu) -> str:
    """The least number of GPUs in words, or that more tensor parallelism does not help."""
    if least is None:
        return f"no tensor parallelism within the {gpu.link.domain} linked GPUs"
    names = ("tensor", "pipeline", "expert")
    said = [name for name in names if name == "tensor" or getattr(least, name) != getattr(layout, name)]
    sizes = ", ".join(f"parallelism.{name} = {getattr(least, name)}" for name in said)
    return f"at least {least.gpus} GPUs ({sizes})"


def _gpus(layout: Layout) -> str:
    return f"{layout.gpus} GPU(s)" + (f" ({layout})" if layout.gpus > layout.tensor or layout.expert > 1 else "")


def _takes(plan: MemoryPlan) -> str:
    """What takes how much, the largest first."""
    parts = {
        "weights": plan.weights,
        "activations": plan.activations,
        "CUDA graphs": plan.graphs,
        "context": plan.context,
        "communication": plan.communication,
        "workspace": plan.workspace,
        "driver": plan.driver,
    }
    shown = sorted(((size, name) for name, size in parts.items() if size >= 0.05e9), reverse=True)
    return ", ".join(f"{format_quantity(size, 'B')} {name}" for size, name in shown) or "reserves"
