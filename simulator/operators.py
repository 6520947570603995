"""Operators: what one node of the graph does, in FLOPs and bytes, as functions of the shape of a step.

This is the only place where an operator's work is defined. The functions use plain arithmetic, so the fields of a
`StepShape` may be numbers or NumPy arrays that broadcast against each other. Times are the business of `cost`.

Bytes are apart by what they are: weights and KV stream from HBM at every step; activations pass from one operator
to the next and may stay in the L2; `comm` goes over the link. FLOPs count a multiply-add as two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simulator.routing import Load, busiest_load, experts_hit, mean_load
from simulator.shape import StepShape, ceil_div
from simulator.span import Span

if TYPE_CHECKING:
    from workloads.attentionshapes import Latent

__all__ = [
    "AXES", "KINDS", "Experts", "Gemm", "Heads", "KeyGemm", "Message", "Module", "Operator", "Work", "all_gather",
    "all_reduce", "attention_decode", "attention_prefill", "elementwise", "experts_hit", "gemm", "grouped_gemm",
    "over_pairs", "page_scores", "page_select", "reduce_scatter", "rows_of", "send", "used",
]  # fmt: skip


class Work(NamedTuple):
    """What an operator does once (one layer): FLOPs and bytes on one GPU."""

    flops: Any = 0
    weight_bytes: Any = 0
    kv_bytes: Any = 0
    act_bytes: Any = 0
    comm_bytes: Any = 0

    def __add__(self, other: object) -> Work:
        if not isinstance(other, Work):
            return NotImplemented
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, count: Any) -> Work:
        return Work(*(count * part for part in self))


@dataclass(frozen=True)
class Gemm:
    """Shape of a (grouped) GEMM: `m` rows come from the step, `n` x `k` is the weight. `groups` experts, `top_k` hit
    per row.
    """

    n: int
    k: int
    groups: int = 1
    top_k: int = 1
    format: str = "bf16"
    """Formats of weights and activations together, as tables of kernels call them (`simulator.kernels.formats`)."""


@dataclass(frozen=True, kw_only=True)
class KeyGemm(Gemm):
    """A GEMM whose rows are not a step's tokens but the keys that its prefill reads in an extent."""

    extent: int
    cap: int | None = None


@dataclass(frozen=True)
class Experts:
    """The experts' block of an MoE layer, which engines run, and measurements time, as one fused kernel: from permuting
    the tokens to summing their outputs.

    `intermediate` and `experts` are the model's; `tensor` GPUs share an expert, and `groups` such groups hold equal
    parts of the experts and of `redundant` copies of them. `skew` is that of the routing, 0 for uniform
    (`simulator.routing`). `arriving` : the part of all tokens that comes to a GPU at all, 1 where all of them do.
    """

    hidden: int
    intermediate: int
    top_k: int
    experts: int
    tensor: int
    format: str
    groups: int = 1
    skew: float = 0.0
    redundant: int = 0
    arriving: float = 1.0

    def mean(self, tokens: Any) -> Load:
        """What `tokens` tokens of the whole group give one GPU on average."""
        return mean_load(tokens, self.experts, self.top_k, self.groups, self.skew, self.redundant)

    def busiest(self, tokens: Any) -> Load:
        """What they give the GPU that the others wait for."""
        return busiest_load(tokens, self.experts, self.top_k, self.groups, self.skew, self.redundant)

    @property
    def slots(self) -> int:
        """Experts and copies."""
        return self.experts + self.redundant

    @property
    def uneven(self) -> bool:
        """Whether GPUs differ in what they get."""
        return self.groups > 1


@dataclass(frozen=True)
class Message:
    """What a collective moves: `width` bytes a row between `gpus` GPUs.

    `span` : where they lie, if not side by side in one domain. `steps` : times that the message goes around or up and
    down between domains.
    """

    gpus: int
    width: float
    span: Span | None = None
    steps: int = 1

    def domains(self, domain: int) -> int:
        """Domains of `domain` GPUs that it goes between."""
        return 1 if self.span is None else self.span.domains(domain)

    def beyond(self, domain: int) -> float:
        """Bytes over each adapter for each byte over each link: a ring leaves a domain once, through all adapters of
        its members there in parallel.
        """
        return 1.0 if self.span is None else 1 / self.span.members(domain)

    def hops(self, domain: int) -> int:
        """Steps over the network, one after the other: the depth of a tree of domains."""
        return self.steps * math.ceil(math.log2(self.domains(domain)))


@dataclass(frozen=True)
class Heads:
    """Shape of an attention on one GPU; `extent` is the index into the shape's sums, `cap` its limit in tokens.

    `page` is the number of tokens behind one key that is read: 1, or more where summaries of pages are read.
    """

    q_heads: int
    kv_heads: int
    head_dim: int
    extent: int
    cap: int | None
    page: int = 1
    kv: str = "bf16"
    """Format of the KV cache."""
    budget: int | None = None
    """Tokens that block top-k reads; None where no pages are chosen."""
    queries: int = 1
    """New tokens of a sequence in a decode step: more than one where drafted tokens are verified."""


@dataclass(frozen=True)
class Module:
    """The attention of some layers with its projections, which tables time as a whole, by phase (`simulator.modules`).

    Attributes
    ----------
    kind : of its tables. block : which of the graph's, so that each has its own. model, latent, hidden : whose shape.
    q_heads : of one GPU. kv, gemm : formats of the cache and of the projections. decode, prefill : extents of the whole
        past.
    """

    kind: str
    block: str
    model: str
    latent: Latent
    hidden: int
    q_heads: int
    kv: str
    gemm: str
    decode: int
    prefill: int

    def extent(self, axis: str) -> int:
        """That of a phase."""
        return self.decode if axis == "decode" else self.prefill


@dataclass(frozen=True)
class Operator:
    """A node of the operator graph.

    Attributes
    ----------
    name : unique in the graph. kind : what a profile corrects it as (see `KINDS`).
    axis : the part of the step's shape that it depends on: `tokens`, `rows`, `decode` or `prefill`.
    count : how often it runs in a step (layers). dtype : the format it computes in, None if it only moves bytes.
    stream : operators of one stream run one after the other.
    work : StepShape -> Work of one execution, the mean over the GPUs. busiest : that of the GPU which the others wait
        for; None where all do the same.
    dims : the shape that tiles are made of, for GEMMs and attention; the message of a collective.
    block, share : the fused kernel that the operator is a part of, and its part of that kernel's time.
    dealt : batches among which the rows of a step are dealt: ranks of attention, micro-batches of a pipeline. `work` is
        that of one of them (`simulator.shape.busiest_shape`, `mean_shape`).
    beside : whether engines can run it beside longer operators, on another stream.
    each : rows of a step for one of its own, where it sees sequences and not all their drafted tokens.
    routine : what kernel passes over the rows, or scores and selects pages, as tables of kernels call their `op`.
    module : the attention block that the operator is a part of, where tables time such blocks as a whole.
    """

    name: str
    kind: str
    axis: str
    count: int
    dtype: str | None
    work: Callable[[StepShape], Work]
    stream: str = "compute"
    dims: Any = None
    block: Experts | None = None
    share: float = 0.0
    routine: str | None = None
    busiest: Callable[[StepShape], Work] | None = None
    dealt: int = 1
    beside: bool = False
    each: int = 1
    module: Module | None = None

    def rows(self, shape: StepShape) -> Any:
        """Rows that it sees if it does not read the past."""
        rows = rows_of(shape, self.axis)
        return rows if self.each == 1 else ceil_div(rows, self.each)

    def total(self, shape: StepShape) -> Work:
        """Work of all layers in one step of `shape`."""
        return self.work(shape).times(self.count)


KINDS = (
    "gemm",
    "grouped_gemm",
    "attention_prefill",
    "attention_decode",
    "mla_prefill",
    "mla_decode",
    "mla_bmm",
    "sparse_index",
    "linear_attention",
    "elementwise",
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "send",
    "all_to_all",
)
AXES = ("tokens", "rows", "decode", "prefill")


def rows_of(shape: StepShape, axis: str) -> Any:
    """Rows that an operator of `axis` sees which does not read the past."""
    match axis:
        case "rows":
            return shape.rows
        case "decode":
            return shape.decode_seqs
        case "prefill":
            return 0 if shape.prefill is None else shape.prefill.tokens
        case _:
            return shape.tokens


def used(rows: Any) -> Any:
    """1 where there is a row; of a mean below one row, the share of batches that have one."""
    return np.minimum(rows, 1) if isinstance(rows, np.ndarray) else min(rows, 1)


def gemm(
    name: str, n: int, k: int, *, count: int, dtype: str, weight: float, act: float, axis: str = "tokens",
    format: str = "bf16",
) -> Operator:  # fmt: skip
    """A projection Y[m, n] = X[m, k] W[k, n]: 2 m n k FLOPs; W is read once, X read and Y written once.

    `weight` and `act` are bytes per element.
    """

    def work(shape: StepShape) -> Work:
        m = rows_of(shape, axis)
        return Work(flops=2 * m * n * k, weight_bytes=n * k * weight * used(m), act_bytes=m * (k + n) * act)

    return Operator(name, "gemm", axis, count, dtype, work, dims=Gemm(n, k, format=format))


def grouped_gemm(
    name: str, n: int, k: int, *, count: int, dtype: str, weight: float, act: float, block: Experts, share: float
) -> Operator:
    """The experts' projections of an MoE layer: every token goes through `top_k` experts, each hit expert's weight is
    read once.
    """

    def of(load: Load) -> Work:
        pairs, hit = load
        return Work(flops=2 * pairs * n * k, weight_bytes=hit * n * k * weight, act_bytes=pairs * (k + n) * act)

    def work(shape: StepShape) -> Work:
        return of(block.mean(shape.tokens))

    def busiest(shape: StepShape) -> Work:
        return of(block.busiest(shape.tokens))

    dims = Gemm(n, k, block.experts, block.top_k, block.format)
    return Operator(
        name, "grouped_gemm", "tokens", count, dtype, work, dims=dims, block=block, share=share,
        busiest=busiest if block.uneven else None,
    )  # fmt: skip


def elementwise(
    name: str,
    *,
    count: int,
    act_bytes: float = 0.0,
    kv_bytes: float = 0.0,
    weight_bytes: float = 0.0,
    flops: float = 0.0,
    axis: str = "tokens",
    routine: str | None = None,
) -> Operator:
    """An operator that passes over its rows once: FLOPs and bytes are per row (token, or sampled row)."""

    def work(shape: StepShape) -> Work:
        m = rows_of(shape, axis)
        return Work(m * flops, m * weight_bytes, m * kv_bytes, m * act_bytes)

    return Operator(name, "elementwise", axis, count, None, work, routine=routine)


def over_pairs(
    name: str, *, count: int, block: Experts, token_bytes: float = 0.0, pair_bytes: float = 0.0, pair_flops: float = 0.0
) -> Operator:
    """Passes once over the tokens of an experts' block and over the (token, expert) pairs of this GPU."""

    def of(tokens: Any, load: Load) -> Work:
        arriving = tokens if block.arriving == 1 else tokens * block.arriving
        return Work(load.pairs * pair_flops, act_bytes=arriving * token_bytes + load.pairs * pair_bytes)

    def work(shape: StepShape) -> Work:
        return of(shape.tokens, block.mean(shape.tokens))

    def busiest(shape: StepShape) -> Work:
        return of(shape.tokens, block.busiest(shape.tokens))

    return Operator(
        name, "elementwise", "tokens", count, None, work, block=block, busiest=busiest if block.uneven else None
    )


def attention_decode(name: str, heads: Heads, *, count: int, dtype: str, kv: float, act: float) -> Operator:
    """One query token a sequence against its KV: 4 q_heads head_dim FLOPs and 2 kv_heads head_dim elements per token
    read.

    (Q K^T and P V are 2 q_heads head_dim FLOPs each per key; K and V are kv_heads head_dim elements each.)
    """

    def work(shape: StepShape) -> Work:
        read = shape.decode_kv[heads.extent]
        return Work(
            flops=4 * heads.q_heads * heads.head_dim * heads.queries * read,
            kv_bytes=2 * heads.kv_heads * heads.head_dim * kv * read,
            act_bytes=2 * heads.q_heads * heads.head_dim * act * heads.queries * shape.decode_seqs,
        )

    return Operator(name, "attention_decode", "decode", count, dtype, work, dims=heads)


def attention_prefill(name: str, heads: Heads, *, count: int, dtype: str, kv: float, act: float) -> Operator:
    """Causal attention of prefill chunks: 4 q_heads head_dim FLOPs per (query, key) pair; each key and value is read
    once.
    """

    def work(shape: StepShape) -> Work:
        chunks = shape.prefill
        if chunks is None:
            return Work()
        return Work(
            flops=4 * heads.q_heads * heads.head_dim * chunks.pairs[heads.extent],
            kv_bytes=2 * heads.kv_heads * heads.head_dim * kv * chunks.kv[heads.extent],
            act_bytes=2 * heads.q_heads * heads.head_dim * act * chunks.tokens,
        )

    return Operator(name, "attention_prefill", "prefill", count, dtype, work, dims=heads)


def page_scores(name: str, heads: Heads, *, count: int, dtype: str, kv: float, act: float) -> Operator:
    """Block top-k, step 1: every query head scores every page of its past by the page's summary vector.

    2 q_heads head_dim FLOPs and kv_heads head_dim elements per page (Kinetics, arXiv 2506.05333, the search terms);
    pages are counted as tokens / page, not rounded up. The query is read, the scores are written in fp32.
    """

    def work(shape: StepShape) -> Work:
        pages = shape.decode_kv[heads.extent] / heads.page
        return Work(
            flops=2 * heads.q_heads * heads.head_dim * heads.queries * pages,
            kv_bytes=heads.kv_heads * heads.head_dim * kv * pages,
            act_bytes=heads.queries
            * (4 * heads.q_heads * pages + heads.q_heads * heads.head_dim * act * shape.decode_seqs),
        )

    return Operator(name, "attention_decode", "decode", count, dtype, work, dims=heads, routine="scores")


def page_select(name: str, heads: Heads, *, count: int) -> Operator:
    """Block top-k, step 2: the scores are reduced over the query heads of a group and the best pages chosen (fp32 read
    once).
    """

    def work(shape: StepShape) -> Work:
        pages = shape.decode_kv[heads.extent] / heads.page
        scores = heads.queries * heads.q_heads * pages
        return Work(flops=scores, act_bytes=4 * scores)

    return Operator(name, "elementwise", "decode", count, None, work, dims=heads, routine="select")


def all_gather(
    name: str, width: int, gpus: int, *, count: int, act: float, axis: str, span: Span | None = None
) -> Operator:
    """Every GPU's 1/g of each row to all others: (g - 1)/g of the message over each GPU's link, each way."""

    def work(shape: StepShape) -> Work:
        return Work(comm_bytes=(gpus - 1) / gpus * width * act * rows_of(shape, axis))

    message = Message(gpus, width * act, span)
    return Operator(name, "all_gather", axis, count, None, work, stream="comm", dims=message)


def all_reduce(name: str, hidden: int, gpus: int, *, count: int, act: float, span: Span | None = None) -> Operator:
    """Sum of the partial outputs over `gpus` GPUs: a ring moves 2 (g - 1)/g of the message over each GPU's link, each
    way.
    """

    def work(shape: StepShape) -> Work:
        return Work(comm_bytes=2 * (gpus - 1) / gpus * hidden * act * shape.tokens)

    message = Message(gpus, hidden * act, span, 2)
    return Operator(name, "all_reduce", "tokens", count, None, work, stream="comm", dims=message)


def reduce_scatter(name: str, hidden: int, gpus: int, *, count: int, act: float, span: Span | None = None) -> Operator:
    """Sum of the partial outputs, of which each GPU keeps 1/g of the rows: (g - 1)/g of the message over each link."""

    def work(shape: StepShape) -> Work:
        return Work(comm_bytes=(gpus - 1) / gpus * hidden * act * shape.tokens)

    message = Message(gpus, hidden * act, span)
    return Operator(name, "reduce_scatter", "tokens", count, None, work, stream="comm", dims=message)


def send(name: str, width: float, *, count: int, axis: str = "tokens", span: Span | None = None) -> Operator:
    """`width` bytes a row to the GPU of the next pipeline stage.

    Nobody measured that; an all-gather of two GPUs, of twice the bytes, moves as much over each link.
    """

    def work(shape: StepShape) -> Work:
        return Work(comm_bytes=width * rows_of(shape, axis))

    return Operator(name, "send", axis, count, None, work, stream="comm", dims=Message(2, 2 * width, span))
