"""One decoder layer of a model: which operators of the graph it consists of, and the step that they run in.

What is timed as a whole (`calibration.measure.layers`) and what is predicted for it (`simulator.layertime`) are the
operators that this module names. Collectives are not among them: a layer is what one GPU computes. Nothing of pydantic
is imported, so that a machine that only measures can use it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

import networkx as nx

from hwspecs.errors import InputError
from simulator.operators import Operator
from simulator.shape import PrefillShape, StepShape, causal_pairs, keys_read
from simulator.stepgraph import Precision, StepGraph, build_graph
from workloads.model import Model, load_model

DECODE, PREFILL = "decode", "prefill"
DENSE, BLOCK_TOPK = "dense", "block_topk"
ATTENTION = ("page_summary", "page_scores", "page_select", "attention_decode", "attention_prefill")
"""Operators that find or read the past: dense attention, or all parts of a sparse one."""


class Reading(NamedTuple):
    """What attention reads: everything, or in decode the best pages of `page` tokens, `budget` tokens in all.

    Has what the graph asks of a policy (`workloads.attention`), which a scenario's policies say with pydantic.
    """

    budget: int | None = None
    page: int | None = None

    def decode_cap(self, window: int | None) -> int | None:
        return min(filter(None, (window, self.budget)), default=None)

    def prefill_cap(self, window: int | None) -> int | None:
        return window


@dataclass(frozen=True)
class LayerCase:
    """A layer and the step it runs in.

    Attributes
    ----------
    model : of which one layer, the first, is meant. reading : what its attention reads.
    phase : `decode`: `batch` sequences of `context` tokens, the new one included; `prefill`: `batch` prompts of `query`
        tokens after a past of `context`.
    precision : formats. tensor : tensor-parallel GPUs, of which this is one; what they tell each other is left out.
    """

    model: Model
    reading: Reading
    phase: str
    precision: Precision
    tensor: int
    batch: int
    query: int
    context: int

    @property
    def tokens(self) -> int:
        """Rows that the projections see."""
        return self.batch * self.query

    @property
    def heads(self) -> tuple[int, int]:
        """Query and KV heads of this GPU."""
        return self.model.q_heads // self.tensor, max(1, self.model.kv_heads // self.tensor)


def case_of(row: Mapping[str, Any]) -> LayerCase:
    """The case that a row of the tables `layer` or `kinetics` stands for (docs/microbenchmarks.md).

    Raises
    ------
    InputError : a model that there is not, that `tp` GPUs cannot share, or whose attention is latent or linear, which
        layers are not measured with; an attention or phase that there is not, no
        page or budget for block_topk. The place is the column.
    """
    sparse = _one_of(row, "attention", (DENSE, BLOCK_TOPK)) == BLOCK_TOPK
    phase = _one_of(row, "phase", (DECODE, PREFILL)) if "phase" in row else DECODE
    dtype, page, budget = str(row["dtype"]), int(row["page"]), int(row["budget"])
    if sparse and page < 1:
        raise InputError("block_topk chooses pages", place="page", found=page, allowed="1 token or more")
    if sparse and (budget < page or budget % page):
        raise InputError("no number of whole pages", place="budget", found=budget, allowed="a multiple of the page")
    model = _model(str(row["model"]))
    if model.latent is not None or model.linear is not None:
        raise InputError(
            "layers are measured with attention of grouped queries",
            place="model", found=model.name, allowed="a model without latent or linear attention",
        )  # fmt: skip
    case = LayerCase(
        model=model,
        reading=Reading(budget, page) if sparse else Reading(),
        phase=phase,
        precision=Precision(weights=dtype, activations=dtype, kv=str(row["kv_dtype"])),
        tensor=int(row["tp"]),
        batch=int(row["batch"]),
        query=int(row["query_len"]) if phase == PREFILL else 1,
        context=int(row["context_len"]),
    )
    if phase == DECODE and case.context < 1:
        raise InputError("the new token is among those attended", place="context_len", found=0, allowed="1 or more")
    if phase == DECODE and int(row.get("query_len", 1)) != 1:
        found = int(row["query_len"])
        raise InputError("a sequence decodes one token a step", place="query_len", found=found, allowed="1 in decode")
    layer_graph(case)  # says so if the GPUs cannot share the model
    return case


@lru_cache(maxsize=64)
def _model(name: str) -> Model:
    """Tables have many rows of few models."""
    return load_model(name)


def _one_of(row: Mapping[str, Any], column: str, allowed: tuple[str, ...]) -> str:
    text = str(row[column])
    if text not in allowed:
        raise InputError(f"unknown {column}", place=column, found=text, allowed=", ".join(allowed))
    return text


def first_layer(model: Model) -> Model:
    """The model with its first layer only, so that every operator of the graph occurs once."""
    moe = model.moe and dataclasses.replace(model.moe, moe_layers=model.moe.moe_layers[:1])
    windows, linear = model.layer_windows[:1], model.layer_linear[:1]
    return dataclasses.replace(model, layers=1, layer_windows=windows, layer_linear=linear, moe=moe)


def layer_graph(case: LayerCase) -> StepGraph:
    """The graph of a step of a model with that one layer. Raises InputError if the GPUs cannot share it."""
    try:
        return build_graph(first_layer(case.model), cast(Any, case.reading), case.precision, case.tensor)
    except InputError as error:
        raise InputError(error.problem, place="tp", found=error.found, allowed=error.allowed) from None


def layer_shape(case: LayerCase, graph: StepGraph) -> StepShape:
    """The step: all sequences alike."""
    if case.phase == DECODE:
        kv = tuple(case.batch * min(filter(None, (case.context, cap))) for cap in graph.decode_caps)
        return StepShape(case.batch, case.batch, case.batch, kv)
    caps = graph.prefill_caps
    chunks = PrefillShape(
        tokens=case.tokens,
        seqs=case.batch,
        pairs=tuple(case.batch * causal_pairs(case.query, case.context, cap) for cap in caps),
        kv=tuple(case.batch * keys_read(case.query, case.context, cap) for cap in caps),
    )
    return StepShape(case.tokens, case.batch, 0, tuple(0 for _ in graph.decode_caps), chunks)


def layer_operators(graph: StepGraph, shape: StepShape) -> list[Operator]:
    """The operators of the layer that have work in the step, in the order in which they run.

    They are those between the embedding and the final norm, without collectives. All are of one stream: a layer takes
    as long as they do together.
    """
    inside = nx.descendants(graph.dag, "embedding") & nx.ancestors(graph.dag, "final_norm")
    found = [op for op in graph.operators if op.name in inside and op.stream != "comm"]
    if len({op.stream for op in found}) > 1:
        raise ValueError("operators of a layer run in several streams: its time is no longer their sum")
    return [op for op in found if any(op.work(shape))]


def is_attention(name: str) -> bool:
    """Whether a node, with or without the suffix of a group of layers, finds or reads the past."""
    return name.split(" [")[0] in ATTENTION
