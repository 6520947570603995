"""Speculative decoding in the operator graph: what drafts the tokens that a step verifies (docs/speculation.md).

A step computes the drafted tokens of every decoding sequence beside its newest one, all with one reading of the weights
and of the KV cache, samples a token after each, and keeps those drafts that agree (Leviathan et al., arXiv 2211.17192).
Then it drafts for the next step, in as many passes: the first sees all tokens of the step, as the drafter's cache has
to follow, the others one token a sequence. A drafter is

- the model's own prediction module (multi-token prediction, DeepSeek-V3, arXiv 2412.19437, section 2.2): one more layer
  behind a projection of the last hidden state and the next token's embedding, with the model's embedding and head;
- another, smaller model;
- a look-up of what came before (n-grams), which takes no time on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from simulator import operators as ops
from simulator.layout import Layout
from simulator.operators import Operator, Work
from simulator.precision import Precision
from simulator.shape import StepShape, ceil_div

if TYPE_CHECKING:
    from simulator.stepgraph import Builder
    from workloads.model import Model

FIRST, LATER = "draft", "later drafts"
"""What sets the operators of the passes apart."""


@dataclass(frozen=True)
class Draft:
    """What drafts the `tokens` that a step verifies for each decoding sequence: the layers of `model`, or, without one,
    n-grams. `shared` : they are the prediction module of the model that is served.
    """

    tokens: int = 0
    model: Model | None = None
    precision: Precision = field(default_factory=Precision)
    shared: bool = False


NO_DRAFT = Draft()


def prediction_module(model: Model) -> Model:
    """A model's prediction module as a model of one layer, which is taken to be like its last."""
    moe = model.moe and replace(model.moe, moe_layers=model.moe.moe_layers[-1:])
    return replace(model, layers=1, layer_windows=model.layer_windows[-1:], layer_linear=(), moe=moe)


def drafter_layout(model: Model, layout: Layout) -> Layout:
    """How the GPUs of a replica share what drafts: whole in one stage, and if it is dense each rank of attention by
    itself.
    """
    return replace(layout, pipeline=1) if model.moe else Layout(tensor=layout.tensor, sequence=layout.sequence)


def add_draft(builder: Builder) -> None:
    """Add the passes of the drafter to a graph that is complete but for them."""
    draft, queries = builder.draft, builder.queries
    if draft.model is None:
        return
    _add_pass(builder, draft.model, FIRST)
    if draft.tokens > 1:
        builder.queries, builder.view = 1, lambda op: _later(op, queries, draft.tokens - 1)
        _add_pass(builder, draft.model, LATER)
        builder.queries, builder.view = queries, None


def _add_pass(builder: Builder, model: Model, mark: str) -> None:
    """One pass of the drafter over the tokens of a step; every sequence then gets a drafted token."""
    inner = builder.inside(model, builder.draft.precision)
    inner.embed(mark)
    if builder.draft.shared:
        h, a = model.hidden, inner.a
        norms = ops.elementwise(f"input_norms [{mark}]", count=1, act_bytes=4 * h * a, flops=8 * h, routine="rms_norm")
        inner.add(norms)
        inner.add(inner.gemm("attention", f"input_proj [{mark}]", h, 2 * h, 1))
    inner.layers(mark)
    if inner.view is None:
        inner.view = lambda op: _one_row(op, builder.queries)
    inner.head(mark)
    builder.last = inner.last


def _one_row(op: Operator, each: int) -> Operator:
    """Of the head: a drafted token is sampled once a sequence, whatever tokens the pass has seen."""
    return replace(op, each=each, work=_of_sequences(op.work, each)) if op.axis == "rows" else op


def _later(op: Operator, each: int, passes: int) -> Operator | None:
    """An operator of the first pass as one of the later ones; None of what only a prefill needs.

    A step has `each` rows for a decoding sequence and one for a prompt that is complete, so that those few count as
    fractions of a sequence here.
    """
    if op.axis == "prefill":
        return None
    op = replace(op, count=op.count * passes, module=None)
    if op.axis == "decode":
        return op
    busiest = None if op.busiest is None else _of_sequences(op.busiest, each)
    return replace(op, axis="rows", each=each, work=_of_sequences(op.work, each), busiest=busiest)


def _of_sequences(work: Callable[[StepShape], Work], each: int) -> Callable[[StepShape], Work]:
    def of(shape: StepShape) -> Work:
        seqs = ceil_div(shape.rows, each)
        return work(shape._replace(tokens=seqs, rows=seqs))

    return of
