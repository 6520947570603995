"""Whole decoder layers made of the kernels, with the true flow of data: every kernel reads what the one before wrote.

The operators are those of the operator graph for one layer (`simulator.layers`): each node is looked up in the
catalogue, and a node that no kernel stands for is an error, so that nothing is forgotten. Left out are collectives; the
shapes are those of one of `tp` GPUs.

Layers have weights, KV caches and page summaries of their own and share activations, as in a model. The first layer
reads constant inputs and the residual is written elsewhere, so a run can be repeated: it always computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from calibration.kernels import decode, gemm, pagesummary, prefill, rope, rowwise, sparse
from calibration.kernels.base import Config, Kernel, Launch, Room, Row, empty
from calibration.kernels.catalogue import kernel_of
from calibration.measure.layersizes import layers_wanted, sizes
from calibration.measure.layertensors import Tensors, reference
from simulator.layers import LayerCase, case_of, is_attention, layer_graph, layer_operators, layer_shape
from simulator.operators import Gemm, Operator
from simulator.shape import StepShape

__all__ = ["Layer", "LayerOperator", "build_layer", "layers_wanted", "sizes"]

Launches = Callable[[int, Config], Sequence[Launch]]


@dataclass(frozen=True)
class LayerOperator:
    """One operator of the layers.

    Attributes
    ----------
    node : its name in the operator graph. kernel : what runs it. row : the row of the kernel's table that has its
        shape. configs : those to try. launches : (layer, config) -> launches on that layer's operands.
    attention : whether it finds or reads the past.
    """

    node: str
    kernel: Kernel
    row: Row
    configs: Sequence[Config]
    launches: Launches
    attention: bool


@dataclass(frozen=True)
class Layer:
    """Layers in memory, ready to be run operator by operator.

    Attributes
    ----------
    operators : in the order in which they run. Their operands are what those before them have written.
    layers : how many there are.
    outputs : () -> what all operators of layer 0 write in the end: hidden state and residual. They may be poisoned.
    reference : () -> the same by plain torch, float32. compare : None, the usual error of a problem.
    state : the tensors, for checks.
    """

    operators: tuple[LayerOperator, ...]
    layers: int
    outputs: Callable[[], Sequence[torch.Tensor]]
    reference: Callable[[], Sequence[torch.Tensor]]
    state: Tensors = field(repr=False)
    compare: None = None


def build_layer(row: Mapping[str, Any], room: Room) -> Layer:
    """`room.copies` layers of a row of the table `layer` or `kinetics`, at most those of the model.

    Raises
    ------
    InputError : the row makes no sense (see `simulator.layers.case_of`).
    LookupError : no kernel stands for an operator of the layer.
    """
    builder = _Builder(case_of(row), room)
    state = builder.state
    return Layer(
        operators=tuple(builder.operator(op) for op in builder.nodes),
        layers=builder.layers,
        outputs=lambda: [state.hidden, state.residual],
        reference=lambda: reference(builder.case, state),
        state=state,
    )


class _Builder:
    """The tensors of the layers, and for each node of the graph its kernel's row and its launches on them."""

    def __init__(self, case: LayerCase, room: Room) -> None:
        if case.precision.activations not in ("bf16", "fp16"):
            raise LookupError(f"no kernel quantises activations to {case.precision.activations}")
        self.case, self.room = case, room
        graph = layer_graph(case)
        self.nodes = layer_operators(graph, layer_shape(case, graph))
        self.layers = max(1, min(room.copies, case.model.layers))
        self.state = Tensors(case, room, self.layers, self.nodes)
        self.workspaces: dict[int, torch.Tensor] = {}
        self.parts: dict[str, tuple[str, Callable[[Operator], Row], Callable[[Operator], Launches]]] = {
            "attn_norm": ("elementwise", self.norm_row, self.norm),
            "qkv_proj": ("gemm", self.gemm_row, self.gemm("normed", "qkv")),
            "rope_kv_write": ("elementwise", self.heads_row("rope_kv_write"), self.rope),
            "page_summary": ("elementwise", self.heads_row("page_summary"), self.summary),
            "page_scores": ("page_topk", self.page_row("scores"), self.scores),
            "page_select": ("page_topk", self.page_row("select"), self.select),
            "attention_decode": ("attention_decode", self.decode_row, self.decode),
            "attention_prefill": ("attention_prefill", self.prefill_row, self.prefill),
            "o_proj": ("gemm", self.gemm_row, self.gemm("attended", "hidden")),
            "mlp_norm": ("elementwise", self.norm_row, self.norm),
            "gate_up_proj": ("gemm", self.gemm_row, self.gemm("normed", "gate_up")),
            "silu_mul": ("elementwise", self.silu_row, self.silu),
            "down_proj": ("gemm", self.gemm_row, self.gemm("product", "hidden")),
        }

    def operator(self, op: Operator) -> LayerOperator:
        """The operator of a node. Raises LookupError if no kernel stands for it."""
        plain = op.name.split(" [")[0]
        if plain not in self.parts:
            raise LookupError(f"no kernel stands for the operator {op.name} of a layer")
        table, row_of, launches_of = self.parts[plain]
        row = row_of(op)
        kernel = kernel_of(table, row)
        if plain not in kernel.stands_for:
            raise LookupError(f"the kernel {kernel.name} does not stand for the operator {op.name}")
        configs = kernel.configs(row, self.room)
        return LayerOperator(op.name, kernel, row, configs, launches_of(op), is_attention(plain))

    # --- projections

    def gemm_row(self, op: Operator) -> Row:
        assert isinstance(op.dims, Gemm)
        return {"dtype": self.case.precision.activations, "m": self.case.tokens, "n": op.dims.n, "k": op.dims.k}

    def gemm(self, source: str, target: str) -> Callable[[Operator], Launches]:
        def launches_of(op: Operator) -> Launches:
            weights = self.state.weights[op.name]
            x = getattr(self.state, source).flatten(1)
            out = getattr(self.state, target)
            return lambda layer, config: gemm.gemm(x, weights[layer], out, self.room, config)

        return launches_of

    # --- what passes over rows once

    def elementwise_row(self, op: Operator, name: str, heads: tuple[int, int, int] = (0, 0, 0)) -> Row:
        """`row_bytes` is what the graph's node moves for a row."""
        work = op.work(StepShape(1, 1, 0, ()))
        row_bytes = work.weight_bytes + work.kv_bytes + work.act_bytes
        return rowwise.row_of(name, self.case.precision.activations, self.case.tokens, row_bytes, heads)

    def norm_row(self, op: Operator) -> Row:
        return self.elementwise_row(op, "rms_norm")

    def norm(self, op: Operator) -> Launches:
        """The first norm of the first layer takes constant inputs, so that every run computes the same."""
        state, gains = self.state, self.state.weights[op.name]
        first = op.name.startswith("attn_norm")

        def launches(layer: int, config: Config) -> list[Launch]:
            constant = first and layer == 0
            x, residual = (state.input, state.input_residual) if constant else (state.hidden, state.residual)
            return rowwise.rms_norm(x, residual, gains[layer], state.normed, self.room, config, state.residual)

        return launches

    def heads_row(self, name: str) -> Callable[[Operator], Row]:
        return lambda op: self.elementwise_row(op, name, (*self.case.heads, self.case.model.head_dim))

    def rope(self, op: Operator) -> Launches:
        s = self.state
        return lambda layer, config: rope.rope_kv_write(
            s.qkv, s.positions, s.cos_sin, *s.qk_gains(layer), s.q, s.k[layer], s.v[layer], s.slots, self.room, config
        )

    def silu_row(self, op: Operator) -> Row:
        return self.elementwise_row(op, "silu_mul")

    def silu(self, op: Operator) -> Launches:
        return lambda layer, config: rowwise.silu_mul(self.state.gate_up, self.state.product, self.room, config)

    # --- block top-k

    def page_row(self, name: str) -> Callable[[Operator], Row]:
        case = self.case
        shape = {"batch": case.batch, "context_len": case.context, **self.heads()}
        pages = {"page": case.reading.page or 0, "budget": case.reading.budget or 0}
        labels = {"op": name, "dtype": case.precision.activations, "kv_dtype": case.precision.kv}
        return lambda op: {**labels, **shape, **pages}

    def summary(self, op: Operator) -> Launches:
        s = self.state
        return lambda layer, config: pagesummary.page_summary(
            s.k[layer], s.slots, s.summaries[layer], self.room, config
        )

    def scores(self, op: Operator) -> Launches:
        s, page = self.state, self.case.reading.page or 0
        return lambda layer, config: sparse.page_scores(
            s.q, s.summaries[layer], s.table, s.lengths, s.scores, page, self.room, config
        )

    def select(self, op: Operator) -> Launches:
        s, page = self.state, self.case.reading.page or 0
        return lambda layer, config: sparse.page_select(
            s.scores, s.table, s.lengths, s.selected, s.held, page, self.room, config
        )

    # --- attention

    def heads(self) -> dict[str, int]:
        q_heads, kv_heads = self.case.heads
        return {"q_heads": q_heads, "kv_heads": kv_heads, "head_dim": self.case.model.head_dim}

    def attention_labels(self) -> dict[str, str]:
        return {"dtype": self.case.precision.activations, "kv_dtype": self.case.precision.kv}

    def decode_row(self, op: Operator) -> Row:
        """Chosen pages are the context of the kernel that gathers them."""
        case, gathers = self.case, self.case.reading.page is not None
        context = min(case.context, case.reading.budget or case.context)
        shape = {"batch": case.batch, "context_len": context, **self.heads(), "window": 0 if gathers else self.window}
        return {**self.attention_labels(), **shape, "gather": int(gathers)}

    @property
    def window(self) -> int:
        return self.case.model.layer_windows[0] or 0

    def decode(self, op: Operator) -> Launches:
        s, gathers, batch = self.state, self.case.reading.page is not None, self.case.batch
        table, lengths = (s.selected, s.held) if gathers else (s.table[:, None], s.lengths)
        q_heads, head_dim = self.case.heads[0], self.case.model.head_dim

        def launches(layer: int, config: Config) -> list[Launch]:
            splits = config.get("SPLITS", 0) or decode.MAX_SPLITS
            numbers = decode.workspace_numbers(batch, q_heads, head_dim, splits)
            space = self.workspaces.get(numbers)
            if space is None:
                space = self.workspaces[numbers] = empty(self.room, numbers, dtype=torch.float32)
            operands = (s.q, s.k[layer], s.v[layer], table, lengths, s.attended)
            return decode.paged_decode(*operands, self.room, config, 0 if gathers else self.window, space)

        return launches

    def prefill_row(self, op: Operator) -> Row:
        case = self.case
        shape = {"batch": case.batch, "query_len": case.query, "past_len": case.context, **self.heads()}
        return {**self.attention_labels(), **shape, "window": self.window}

    def prefill(self, op: Operator) -> Launches:
        s, case = self.state, self.case
        q, out = (x.view(case.batch, case.query, *x.shape[1:]) for x in (s.q, s.attended))
        return lambda layer, config: prefill.prefill(
            q, s.k_of(layer), s.v_of(layer), out, case.context, self.window, self.room, config
        )
