"""The operator graph of one engine step of a decoder: a networkx DAG, one node an operator.

Built once per (model, parallel layout, attention policy, precision); cost, law, plots and calibration all ask it.
Layers that are alike are one subgraph with a count. A node holds its `Operator` under the key `op`; an edge says that
the second needs the first's output. Operators of one stream run in the order of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import networkx as nx

from hwspecs.dtypes import BYTES
from simulator import kinds
from simulator import operators as ops
from simulator.drafting import NO_DRAFT, Draft, add_draft, drafter_layout
from simulator.exchange import exchanges
from simulator.layout import Layout, check_layout, divides
from simulator.operators import Experts, Module, Operator
from simulator.precision import Linear, Precision, gemm_format, passed_bytes
from simulator.span import Span

if TYPE_CHECKING:
    from workloads.attention import AttentionPolicy
    from workloads.decoder import Moe
    from workloads.model import Model

__all__ = [
    "Builder", "Draft", "Extents", "Layout", "Precision", "StepGraph", "build_graph", "check_layout",
    "divides", "gemm_format", "passed_bytes",
]  # fmt: skip


@dataclass(frozen=True)
class StepGraph:
    """The graph and the extents its attention reads (docs/engine.md): caps in tokens, None for everything.

    `routing_skew` : how unevenly tokens choose experts (`simulator.routing`). `queries` : tokens of a decoding sequence
    that a step computes, more than one where drafted ones are verified.
    """

    dag: nx.DiGraph
    decode_caps: tuple[int | None, ...]
    prefill_caps: tuple[int | None, ...]
    model: Model
    precision: Precision
    layout: Layout
    routing_skew: float = 0.0
    queries: int = 1

    @property
    def tensor(self) -> int:
        """GPUs that share an attention."""
        return self.layout.tensor

    @property
    def operators(self) -> list[Operator]:
        """All operators in an order in which they can be executed."""
        return [self.dag.nodes[name]["op"] for name in nx.topological_sort(self.dag)]

    def main_dtype(self, peak: Mapping[str, float]) -> str:
        """The fastest format in which linear layers multiply: that of the peak which a step's rate is compared with."""
        used = [self.precision.linear(part).dtype for part in self.model.linear_parts]
        return max(used, key=lambda dtype: peak[dtype])


def _tail(*marks: str) -> str:
    """What sets the name of an operator apart from its like."""
    return f" [{', '.join(filter(None, marks))}]" if any(marks) else ""


class Extents:
    """Collects the distinct caps and hands out their indices."""

    def __init__(self) -> None:
        self.caps: list[int | None] = []

    def index(self, cap: int | None) -> int:
        if cap not in self.caps:
            self.caps.append(cap)
        return self.caps.index(cap)


def build_graph(
    model: Model,
    attention: AttentionPolicy,
    precision: Precision,
    layout: Layout | int = 1,
    *,
    routing_skew: float = 0.0,
    draft: Draft = NO_DRAFT,
) -> StepGraph:
    """The graph of a step that may hold decodes and prefill chunks (an absent part has no work and takes no time).

    Parameters
    ----------
    layout : how the GPUs of a replica share the model; a number is tensor parallelism alone.
    routing_skew : how unevenly tokens choose experts, 0 for uniformly (`simulator.routing`).
    draft : what is drafted, to be verified by a step.

    Raises
    ------
    InputError : the parallel layout does not divide the model.
    """
    layout = Layout.of(layout)
    check_layout(model, layout)
    if draft.model is not None:
        check_layout(draft.model, drafter_layout(draft.model, layout))
    return Builder(model, attention, precision, layout, routing_skew, draft).build()


class Builder:
    """Puts the graph together, operator by operator; attention kinds (`kinds`) add their own to it.

    Attributes
    ----------
    a : bytes per element of what passes between operators.
    decode, prefill : extents that attention reads.
    last : names of the operators that the next one waits for.
    dealt : batches among which the rows of what is added are dealt (`Operator.dealt`).
    queries : tokens of a decoding sequence that a step computes.
    view : what becomes of each operator that is added, None for nothing.
    module : the block that what is added is a part of (`Operator.module`).
    """

    def __init__(
        self,
        model: Model,
        attention: AttentionPolicy,
        precision: Precision,
        layout: Layout,
        routing_skew: float,
        draft: Draft = NO_DRAFT,
    ) -> None:
        self.draft, self.queries = draft, draft.tokens + 1
        self.model, self.attention, self.precision, self.layout = model, attention, precision, layout
        self.tensor, self.routing_skew = layout.tensor, routing_skew
        self.a = passed_bytes(precision)
        self.table, self.wide = precision.table, precision.wide  # embedding, head and routers
        self.decode, self.prefill = Extents(), Extents()
        self.dag = nx.DiGraph()
        self.last: list[str] = []
        self.dealt = layout.ranks
        self.module: Module | None = None
        self.view: Callable[[Operator], Operator | None] | None = None

    def inside(self, model: Model, precision: Precision) -> Builder:
        """A builder of another model's layers that goes on where this one is."""
        other = Builder(model, self.attention, precision, self.layout, self.routing_skew, self.draft)
        other.decode, other.prefill, other.dag, other.last = self.decode, self.prefill, self.dag, self.last
        other.queries, other.view = self.queries, self.view
        return other

    def add(self, *parallel: Operator) -> None:
        """Append operators that all follow the last ones and do not wait for each other."""
        added: list[str] = []
        for op in parallel:
            plain = self.dealt == 1 and self.module is None
            made = op if plain else replace(op, dealt=self.dealt, module=self.module)
            seen = made if self.view is None else self.view(made)
            if seen is None:
                continue
            self.dag.add_node(op.name, op=seen)
            self.dag.add_edges_from((before, op.name) for before in self.last)
            added.append(op.name)
        self.last = added or self.last

    def build(self) -> StepGraph:
        self.embed()
        self.layers()
        self.head()
        if self.layout.pipeline > 1:
            self.add(ops.send("send_tokens", 4, count=1, axis="rows", span=self.next_stage))
        add_draft(self)
        return StepGraph(
            self.dag,
            tuple(self.decode.caps),
            tuple(self.prefill.caps),
            self.model,
            self.precision,
            self.layout,
            self.routing_skew,
            self.queries,
        )

    def embed(self, mark: str = "") -> None:
        """Rows of the embedding table; `mark` sets names apart, in brackets after them."""
        h, tail = self.model.hidden, _tail(mark)
        self.add(
            ops.elementwise(
                f"embedding{tail}", count=1, weight_bytes=h * self.table, act_bytes=h * self.a, routine="embedding"
            )
        )
        self.reduce(f"embedding_all_reduce{tail}", 1)

    def layers(self, mark: str = "") -> None:
        """All layers, those that are alike as one with a count."""
        model = self.model
        groups: dict[tuple[bool, int | None, bool], int] = {}
        moe_layers = model.moe.moe_layers if model.moe else (False,) * model.layers
        linear_layers = model.layer_linear or (False,) * model.layers
        for kind in zip(linear_layers, model.layer_windows, moe_layers, strict=True):
            groups[kind] = groups.get(kind, 0) + 1
        for (linear, window, is_moe), count in groups.items():
            parts = []
            if len({kind[:2] for kind in groups}) > 1:
                parts = ["linear" if linear else f"window {window}" if window else "full attention"]
            parts += ["moe" if is_moe else "dense"] if len(set(moe_layers)) > 1 else []
            self.layer(_tail(*(parts if len(groups) > 1 else []), mark), linear, window, is_moe, count)

    def head(self, mark: str = "") -> None:
        """From the last layer's output to tokens."""
        model, a, tail = self.model, self.a, _tail(mark)
        if self.layout.pipeline > 1 and not mark:
            # The residual goes beside the hidden state. A round has one more exchange: the new tokens, to the start.
            self.add(ops.send("send", 2 * model.hidden * a, count=self.layout.pipeline - 1, span=self.next_stage))
        part = self.norm_width
        norm = ops.elementwise(f"final_norm{tail}", count=1, act_bytes=2 * part * a, flops=4 * part, routine="rms_norm")
        self.add(norm)
        self.gather(f"final_all_gather{tail}", 1)
        vocab, head = -(-model.vocab // self.tensor), self.precision.linear("head")
        self.add(self.projection(f"lm_head{tail}", vocab, model.hidden, 1, head, axis="rows"))
        if self.tensor > 1:
            name, whole = f"logits_all_gather{tail}", model.vocab
            self.add(ops.all_gather(name, whole, self.tensor, count=1, act=a, axis="rows", span=self.near))
        # Softmax and the draw: the logits are read twice in fp32.
        self.add(
            ops.elementwise(
                f"sampling{tail}",
                count=1,
                act_bytes=2 * 4 * model.vocab,
                flops=5 * model.vocab,
                axis="rows",
                routine="sampling",
            )
        )

    def gemm(self, part: str, name: str, n: int, k: int, count: int) -> Operator:
        """A linear layer of a part of the model (`workloads.formats.PARTS`)."""
        return self.projection(name, n, k, count, self.precision.linear(part))

    def projection(self, name: str, n: int, k: int, count: int, linear: Linear, axis: str = "tokens") -> Operator:
        return ops.gemm(
            name,
            n,
            k,
            count=count,
            dtype=linear.dtype,
            weight=linear.weight,
            act=self.a,
            axis=axis,
            format=linear.format,
        )

    def grouped(self, name: str, n: int, k: int, count: int, block: Experts, share: float) -> Operator:
        linear = self.precision.linear("experts")
        return ops.grouped_gemm(
            name, n, k, count=count, dtype=linear.dtype, weight=linear.weight, act=self.a, block=block, share=share
        )

    def norm(self, name: str, count: int) -> Operator:
        """RMSNorm fused with the residual addition: reads both, writes both."""
        h = self.norm_width
        return ops.elementwise(name, count=count, act_bytes=4 * h * self.a, flops=5 * h, routine="rms_norm")

    @property
    def norm_width(self) -> float:
        """Elements of a token that one GPU normalises: with sequence parallelism it keeps its part of the tokens."""
        return self.model.hidden / self.tensor if self.layout.sequence else self.model.hidden

    def reduce(self, name: str, count: int) -> None:
        """Sum what the GPUs have computed of a split block, up to `gather`."""
        if self.layout.sequence:
            name = name.replace("all_reduce", "reduce_scatter")
            op = ops.reduce_scatter(name, self.model.hidden, self.tensor, count=count, act=self.a, span=self.near)
            self.add(op)
        elif self.tensor > 1:
            self.add(ops.all_reduce(name, self.model.hidden, self.tensor, count=count, act=self.a, span=self.near))

    def gather(self, name: str, count: int) -> None:
        """Bring together the tokens of which each GPU kept its part since `reduce`."""
        if self.layout.sequence:
            h, act = self.model.hidden, self.a
            self.add(ops.all_gather(name, h, self.tensor, count=count, act=act, axis="tokens", span=self.near))

    @property
    def near(self) -> Span:
        """Where the GPUs of tensor parallelism lie: side by side."""
        return Span(self.tensor, 1, self.layout.stage)

    @property
    def next_stage(self) -> Span:
        """A GPU and its like in the next stage of a pipeline; of a replica in several domains, in the next domain."""
        return Span(2, self.layout.gpus // 2, self.layout.gpus)

    def layer(self, suffix: str, linear: bool, window: int | None, is_moe: bool, count: int) -> None:
        self.add(self.norm(f"attn_norm{suffix}", count))
        self.gather(f"attn_all_gather{suffix}", count)
        kinds.add_block(self, suffix, linear, window, count)
        self.reduce(f"attn_all_reduce{suffix}", count)
        self.add(self.norm(f"mlp_norm{suffix}", count))
        self.gather(f"mlp_all_gather{suffix}", count)
        if is_moe:
            self.experts(suffix, count)
        else:
            self.mlp(suffix, self.model.intermediate // self.tensor, count)
        self.reduce(f"mlp_all_reduce{suffix}", count)

    def mlp(self, suffix: str, width: int, count: int, beside: bool = False) -> None:
        h, a = self.model.hidden, self.a
        silu = ops.elementwise(
            f"silu_mul{suffix}", count=count, act_bytes=3 * width * a, flops=5 * width, routine="silu_mul"
        )
        up = self.gemm("mlp", f"gate_up_proj{suffix}", 2 * width, h, count)
        for op in (up, silu, self.gemm("mlp", f"down_proj{suffix}", h, width, count)):
            self.add(replace(op, beside=True) if beside else op)

    def shared(self, suffix: str, moe: Moe, count: int) -> None:
        """The experts that every token visits, as one dense MLP; engines may run it beside the others."""
        if moe.shared_intermediate:
            self.mlp(f" shared{suffix}", moe.shared_intermediate // self.layout.shared_tensor, count, beside=True)

    def experts(self, suffix: str, count: int) -> None:
        """An MoE block: router, permute, two grouped GEMMs, weighted sum; shared experts as a dense MLP."""
        moe, h, a = self.model.moe, self.model.hidden, self.a
        assert moe is not None
        layout, width = self.layout, moe.intermediate // self.layout.expert_tensor
        block = Experts(
            hidden=h,
            intermediate=moe.intermediate,
            top_k=moe.top_k,
            experts=moe.experts,
            tensor=self.layout.expert_tensor,
            format=self.precision.linear("experts").format,
            groups=layout.expert,
            skew=self.routing_skew,
            redundant=layout.redundant_experts,
        )
        router = Linear(self.table, self.wide, "bf16")
        if moe.router_dtype is not None:
            router = Linear(BYTES[moe.router_dtype], moe.router_dtype, "bf16")
        self.add(self.projection(f"router{suffix}", moe.experts, h, count, router))
        apart = layout.shared_tensor < layout.stage
        if apart:
            self.shared(suffix, moe, count)
        block = self.dispatch(suffix, block, moe, count)
        self.add(
            ops.over_pairs(
                f"permute{suffix}", count=count, block=block, token_bytes=h * a + 4 * moe.experts, pair_bytes=h * a
            )
        )
        # Shares of the fused kernel's time: by weights, two matrices of three against one.
        self.add(self.grouped(f"experts_gate_up{suffix}", 2 * width, h, count, block, 2 / 3))
        self.add(
            ops.over_pairs(
                f"experts_silu_mul{suffix}", count=count, block=block, pair_bytes=3 * width * a, pair_flops=5 * width
            )
        )
        self.add(self.grouped(f"experts_down{suffix}", h, width, count, block, 1 / 3))
        self.add(
            ops.over_pairs(
                f"combine{suffix}", count=count, block=block, token_bytes=h * a, pair_bytes=h * a, pair_flops=2 * h
            )
        )
        if not apart:
            self.shared(suffix, moe, count)
        self.combine(suffix, block, moe, count)

    def dispatch(self, suffix: str, block: Experts, moe: Moe, count: int) -> Experts:
        """The experts are shared by all ranks of attention: their tokens come together, up to `combine`, on all GPUs or
        on those of their experts. The experts' block, with what comes to one GPU.
        """
        layout, ranks = self.layout, self.layout.attention_data
        if layout.exchanges:
            found = exchanges("dispatch", suffix, block, moe, layout, self.a, count)
            self.add_serial(found)
            block = replace(block, arriving=found[0].dims.arriving())
        self.dealt = layout.pipeline
        if ranks > 1 and not layout.exchanges:
            name, span = f"experts_all_gather{suffix}", Span(ranks, layout.tensor, layout.stage)
            h, act = self.model.hidden, self.a
            self.add(ops.all_gather(name, h, ranks, count=count, act=act, axis="tokens", span=span))
        return block

    def combine(self, suffix: str, block: Experts, moe: Moe, count: int) -> None:
        """Sum what the experts of all ranks have added to a token, where it came from."""
        layout, ranks = self.layout, self.layout.attention_data
        if ranks > 1 and not layout.exchanges:
            name, span = f"experts_reduce_scatter{suffix}", Span(ranks, layout.tensor, layout.stage)
            self.add(ops.reduce_scatter(name, self.model.hidden, ranks, count=count, act=self.a, span=span))
        self.dealt = layout.ranks
        if layout.exchanges:
            self.add_serial(exchanges("combine", suffix, block, moe, layout, self.a, count))

    def add_serial(self, operators: list[Operator]) -> None:
        """Append operators one after the other."""
        for op in operators:
            self.add(op)
