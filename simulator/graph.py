"""The operator graph of one engine step of a decoder: a networkx DAG, one node an operator.

Built once per (model, parallel layout, attention policy, precision); cost, law, plots and calibration all ask it.
Layers that are alike are one subgraph with a count. A node holds its `Operator` under the key `op`; an edge says that
the second needs the first's output. Operators of one stream run in the order of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import networkx as nx

from hwspecs.dtypes import BYTES
from simulator import gqa
from simulator import operators as ops
from simulator.layout import Layout, check_layout, divides
from simulator.operators import Experts, Operator
from simulator.precision import Linear, Precision, gemm_format, passed_bytes

if TYPE_CHECKING:
    from workloads.attention import AttentionPolicy
    from workloads.model import Model

__all__ = [
    "Builder", "Extents", "Layout", "Precision", "StepGraph", "build_graph", "check_layout",
    "divides", "gemm_format", "passed_bytes",
]  # fmt: skip


@dataclass(frozen=True)
class StepGraph:
    """The graph and the extents its attention reads (docs/engine.md): caps in tokens, None for everything.

    `routing_skew` : how unevenly tokens choose experts (`simulator.routing`).
    """

    dag: nx.DiGraph
    decode_caps: tuple[int | None, ...]
    prefill_caps: tuple[int | None, ...]
    model: Model
    precision: Precision
    layout: Layout
    routing_skew: float = 0.0

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
) -> StepGraph:
    """The graph of a step that may hold decodes and prefill chunks (an absent part has no work and takes no time).

    Parameters
    ----------
    layout : how the GPUs of a replica share the model; a number is tensor parallelism alone.
    routing_skew : how unevenly tokens choose experts, 0 for uniformly (`simulator.routing`).

    Raises
    ------
    InputError : the parallel layout does not divide the model.
    """
    layout = Layout.of(layout)
    check_layout(model, layout)
    return Builder(model, attention, precision, layout, routing_skew).build()


class Builder:
    """Puts the graph together, operator by operator; attention kinds (`gqa`) add their own to it.

    Attributes
    ----------
    a : bytes per element of what passes between operators.
    decode, prefill : extents that attention reads.
    last : names of the operators that the next one waits for.
    dealt : batches among which the rows of what is added are dealt (`Operator.dealt`).
    """

    def __init__(
        self, model: Model, attention: AttentionPolicy, precision: Precision, layout: Layout, routing_skew: float
    ) -> None:
        self.model, self.attention, self.precision, self.layout = model, attention, precision, layout
        self.tensor, self.routing_skew = layout.tensor, routing_skew
        self.a = passed_bytes(precision)
        self.table, self.wide = precision.table, precision.wide  # embedding, head and routers
        self.decode, self.prefill = Extents(), Extents()
        self.dag = nx.DiGraph()
        self.last: list[str] = []
        self.dealt = layout.ranks

    def add(self, *parallel: Operator) -> None:
        """Append operators that all follow the last ones and do not wait for each other."""
        for op in parallel:
            self.dag.add_node(op.name, op=op if self.dealt == 1 else replace(op, dealt=self.dealt))
            self.dag.add_edges_from((before, op.name) for before in self.last)
        self.last = [op.name for op in parallel]

    def build(self) -> StepGraph:
        model, a = self.model, self.a
        h = model.hidden
        self.add(
            ops.elementwise("embedding", count=1, weight_bytes=h * self.table, act_bytes=h * a, routine="embedding")
        )
        self.reduce("embedding_all_reduce", 1)
        groups: dict[tuple[int | None, bool], int] = {}
        moe_layers = model.moe.moe_layers if model.moe else (False,) * model.layers
        for kind in zip(model.layer_windows, moe_layers, strict=True):
            groups[kind] = groups.get(kind, 0) + 1
        for (window, is_moe), count in groups.items():
            parts = [f"window {window}" if window else "full attention"] if len(set(model.layer_windows)) > 1 else []
            parts += ["moe" if is_moe else "dense"] if len(set(moe_layers)) > 1 else []
            self.layer(f" [{', '.join(parts)}]" if len(groups) > 1 else "", window, is_moe, count)
        if self.layout.pipeline > 1:
            # The residual goes beside the hidden state. A round has one more exchange: the new tokens, to the start.
            self.add(ops.send("send", 2 * h * a, count=self.layout.pipeline - 1))
        part = self.norm_width
        self.add(ops.elementwise("final_norm", count=1, act_bytes=2 * part * a, flops=4 * part, routine="rms_norm"))
        self.gather("final_all_gather", 1)
        vocab, head = -(-model.vocab // self.tensor), self.precision.linear("head")
        self.add(self.projection("lm_head", vocab, h, 1, head, axis="rows"))
        if self.tensor > 1:
            self.add(ops.all_gather("logits_all_gather", model.vocab, self.tensor, count=1, act=a, axis="rows"))
        # Softmax and the draw: the logits are read twice in fp32.
        self.add(
            ops.elementwise(
                "sampling",
                count=1,
                act_bytes=2 * 4 * model.vocab,
                flops=5 * model.vocab,
                axis="rows",
                routine="sampling",
            )
        )
        if self.layout.pipeline > 1:
            self.add(ops.send("send_tokens", 4, count=1, axis="rows"))
        return StepGraph(
            self.dag,
            tuple(self.decode.caps),
            tuple(self.prefill.caps),
            model,
            self.precision,
            self.layout,
            self.routing_skew,
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
            self.add(ops.reduce_scatter(name, self.model.hidden, self.tensor, count=count, act=self.a))
        elif self.tensor > 1:
            self.add(ops.all_reduce(name, self.model.hidden, self.tensor, count=count, act=self.a))

    def gather(self, name: str, count: int) -> None:
        """Bring together the tokens of which each GPU kept its part since `reduce`."""
        if self.layout.sequence:
            op = ops.all_gather(name, self.model.hidden, self.tensor, count=count, act=self.a, axis="tokens")
            self.add(op)

    def layer(self, suffix: str, window: int | None, is_moe: bool, count: int) -> None:
        self.add(self.norm(f"attn_norm{suffix}", count))
        self.gather(f"attn_all_gather{suffix}", count)
        gqa.add_block(self, suffix, window, count)
        self.reduce(f"attn_all_reduce{suffix}", count)
        self.add(self.norm(f"mlp_norm{suffix}", count))
        self.gather(f"mlp_all_gather{suffix}", count)
        if is_moe:
            self.experts(suffix, count)
        else:
            self.mlp(suffix, self.model.intermediate // self.tensor, count)
        self.reduce(f"mlp_all_reduce{suffix}", count)

    def mlp(self, suffix: str, width: int, count: int) -> None:
        h = self.model.hidden
        self.add(self.gemm("mlp", f"gate_up_proj{suffix}", 2 * width, h, count))
        self.add(
            ops.elementwise(
                f"silu_mul{suffix}", count=count, act_bytes=3 * width * self.a, flops=5 * width, routine="silu_mul"
            )
        )
        self.add(self.gemm("mlp", f"down_proj{suffix}", h, width, count))

    def experts(self, suffix: str, count: int) -> None:
        """An MoE block: router, permute, two grouped GEMMs, weighted sum; shared experts as a dense MLP."""
        moe, h, a = self.model.moe, self.model.hidden, self.a
        assert moe is not None
        width = moe.intermediate // self.layout.expert_tensor
        block = Experts(
            hidden=h,
            intermediate=moe.intermediate,
            top_k=moe.top_k,
            experts=moe.experts,
            tensor=self.layout.expert_tensor,
            format=self.precision.linear("experts").format,
            groups=self.layout.expert,
            skew=self.routing_skew,
        )
        router = Linear(self.table, self.wide, "bf16")
        if moe.router_dtype is not None:
            router = Linear(BYTES[moe.router_dtype], moe.router_dtype, "bf16")
        self.add(self.projection(f"router{suffix}", moe.experts, h, count, router))
        self.dispatch(suffix, count)
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
        if moe.shared_intermediate:
            self.mlp(f" shared{suffix}", moe.shared_intermediate // self.layout.stage, count)
        self.combine(suffix, count)

    def dispatch(self, suffix: str, count: int) -> None:
        """The experts are shared by all ranks of attention: the tokens of all come together, up to `combine`."""
        h, ranks = self.model.hidden, self.layout.attention_data
        self.dealt = self.layout.pipeline
        if ranks > 1:
            name = f"experts_all_gather{suffix}"
            self.add(ops.all_gather(name, h, ranks, count=count, act=self.a, axis="tokens"))

    def combine(self, suffix: str, count: int) -> None:
        """Sum what the experts of all ranks have added to a token, where it came from."""
        h, ranks = self.model.hidden, self.layout.attention_data
        if ranks > 1:
            self.add(ops.reduce_scatter(f"experts_reduce_scatter{suffix}", h, ranks, count=count, act=self.a))
        self.dealt = self.layout.ranks
