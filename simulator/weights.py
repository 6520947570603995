"""Bytes of a model's weights on the fullest GPU of a replica."""

from __future__ import annotations

from dataclasses import replace

from hwspecs.dtypes import BYTES
from simulator import kinds
from simulator.drafting import Draft, drafter_layout
from simulator.layout import Layout
from simulator.precision import Precision
from workloads import parameters
from workloads.model import Model


def layer_share(model: Model, layout: Layout) -> float:
    """Share of the layers in the largest stage of the pipeline."""
    return -(-model.layers // layout.pipeline) / model.layers


def weight_bytes_per_gpu(model: Model, precision: Precision, layout: Layout | int, expert_width: int = 1) -> float:
    """Bytes of the weights on one GPU: that of the pipeline's fullest stage. A number means tensor parallelism alone.

    Matrices are split over tensor parallelism and repeated on the ranks of attention data parallelism; experts are
    split over all GPUs of a stage, in groups or not, with the redundant copies of some; shared experts over as many as
    the layout says. Norms and routers are replicated, KV heads too if there are too few, and of latent attention what
    makes the latent vectors. A pipeline's largest stage has its part of the layers, taken to be alike, and the
    embedding or the head, whichever is larger; a tied table is on both.

    Each part of the model is in its format, scales included. Embedding, norms, routers and the experts' biases stay in
    at least 16 bits, and so does the head unless it has a format (`precision.Precision`); a quantised head is not the
    embedding table any more, even where the two are tied. The kernels of mxfp4 want experts' widths on a GPU that are
    multiples of `expert_width`.
    """
    layout = Layout.of(layout)
    tensor, stage = layout.tensor, layout.stage
    counts, wide = model.parameter_counts(), precision.table
    counts["attention"] += kinds.copied_parameters(model, tensor)
    counts["experts"] -= model.expert_biases
    counts["output"] = model.output_parameters
    counts["attention"] -= counts["output"]
    shared, padding = _shared_parameters(model), _padding(model, precision, layout, expert_width)
    split: dict[float, float] = {}
    held = tensor / stage * (1 + layout.redundant_experts / model.moe.experts if model.moe else 1)
    for part in ("attention", "output", "mlp", "experts"):
        size = precision.linear(part).weight
        # Sums over alike sizes before they are divided, so that one format gives the exact quotient.
        whole: float = counts[part]
        if part == "experts":
            whole *= held * padding
        if part == "mlp":
            whole -= shared * (1 - tensor / layout.shared_tensor)
        split[size] = split.get(size, 0) + whole
    body = sum(count / tensor * size for size, count in split.items())
    tables, head = counts["embedding"], precision.linear("head").weight
    router = BYTES[model.moe.router_dtype] if model.moe and model.moe.router_dtype else wide
    extra = counts["router"] * (router - wide)
    biases = model.expert_biases * held
    if layout.pipeline == 1:
        if head == wide:
            tables += counts["lm_head"]
        else:
            extra += model.vocab * model.hidden / tensor * head
        return body + ((tables + biases) / tensor + counts["norms"] + counts["router"]) * wide + extra
    layers = body + (biases / tensor + counts["norms"] + counts["router"]) * wide + extra
    ends = max(counts["embedding"] * wide, model.vocab * model.hidden * head) / tensor
    return layers * layer_share(model, layout) + ends


def drafter_bytes_per_gpu(draft: Draft, layout: Layout, expert_width: int = 1) -> float:
    """Bytes of what drafts on one GPU; 0 for n-grams.

    A prediction module has the model's tables, and a projection of its own that every GPU holds whole.
    """
    model = draft.model
    if model is None:
        return 0.0
    layout = drafter_layout(model, layout)
    if not draft.shared:
        return weight_bytes_per_gpu(model, draft.precision, layout, expert_width)
    own = weight_bytes_per_gpu(replace(model, vocab=0), draft.precision, layout, expert_width)
    return own + 2 * model.hidden**2 * draft.precision.linear("attention").weight


def _padding(model: Model, precision: Precision, layout: Layout, expert_width: int) -> float:
    """Padded over given width of the experts on a GPU."""
    if model.moe is None or "mxfp4" not in precision.linear("experts").format:
        return 1.0
    width = model.moe.intermediate / layout.expert_tensor
    return -(-width // expert_width) * expert_width / width


def _shared_parameters(model: Model) -> int:
    """Parameters of the experts that every token visits."""
    return model.moe_layers * parameters.mlp(model, model.moe.shared_intermediate) if model.moe else 0
