"""All-to-all of a mixture of experts: tokens go to the GPUs that hold their experts, and what these add comes back.

Two kinds of kernels do that (DeepEP, https://github.com/deepseek-ai/DeepEP; vLLM, SGLang and TensorRT-LLM call it or
have their like). Those for *high throughput* send a token once to every other GPU that holds one of its experts, and
once to every other domain of the link, where it is passed on. Those for *low latency* send it once for each of its
experts, straight to the GPU, through the network too. With T tokens on each of g GPUs that is, per GPU,

    high throughput: T (destinations(g) - destinations(g) / g)      low latency: T top_k (1 - 1 / g)

copies over the link (`routing.destinations`; a GPU's own copies stay). Dispatch carries the experts' input format,
combining 16 bits. The busiest GPU gets its experts' share of the pairs (`routing.busiest_load`), so it receives more
than any sends. The tokens that a group of tensor parallelism has in common are sent by its GPUs in equal parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.kernels.formats import FORMATS
from simulator.operators import Experts, Operator, Work
from simulator.routing import destinations
from simulator.shape import StepShape
from simulator.span import Span

if TYPE_CHECKING:
    from simulator.layout import Layout
    from workloads.decoder import Moe

FEW = 256
"""Tokens of a GPU up to which `auto` takes the low-latency kernels: as many as engines and tables run them with (vLLM:
VLLM_MOE_DP_CHUNK_SIZE)."""
NARROW = ("fp8", "fp8_block", "nvfp4", "w4a8_mxfp4_mxfp8")
"""Formats of experts to which tokens are sent in the bytes of that format; to others as between operators."""


@dataclass(frozen=True)
class Exchange:
    """One phase, `dispatch` or `combine`, of an all-to-all among the GPUs of `span`.

    `mode` : `ht` or `ll`. `block` : the experts, each whole on a GPU. `ranks`, `split` : ranks of attention, and GPUs
    that share the tokens of each. `width` : bytes of a token. `groups`, `top_groups` : of the routing
    (`routing.destinations`). `least`, `most` : tokens of a GPU between which it runs, `most` among them.
    """

    phase: str
    mode: str
    block: Experts
    span: Span
    ranks: int
    split: int
    width: float
    groups: int
    top_groups: int
    least: float
    most: float

    def copies(self) -> float:
        """Of a token, on average, that go over the link."""
        gpus, top_k = self.span.gpus, self.block.top_k
        if self.mode == "ll":
            return top_k * (1 - 1 / gpus)
        return self._reached(gpus) * (1 - 1 / gpus)

    def arriving(self) -> float:
        """Part of all tokens that come to a GPU, on average."""
        return self._reached(self.span.gpus) / self.span.gpus

    def beyond(self, domain: int) -> float:
        """Copies over the network for each copy over the link, with `domain` GPUs in a domain."""
        nodes = self.span.domains(domain)
        if self.mode == "ll":
            return (1 - 1 / nodes) / (1 - 1 / self.span.gpus)
        return self._reached(nodes) * (1 - 1 / nodes) / self.copies()

    def hops(self, domain: int) -> int:
        """Steps over the network, one after the other."""
        return int(self.span.domains(domain) > 1)

    def tokens(self, shape: StepShape) -> Any:
        """Of one GPU, of those of its rank; none where another kernel runs."""
        mine = shape.tokens / self.split
        return mine * ((mine > self.least) & (mine <= self.most))

    def above(self, shape: StepShape) -> Any:
        """How many times the mean the busiest GPU gets, at least 1."""
        tokens = np.maximum(shape.tokens * self.ranks, 1)
        return self.block.busiest(tokens).pairs / self.block.mean(tokens).pairs

    def _reached(self, units: int) -> float:
        """Units with equal parts of all experts and copies that the experts of a token are in."""
        if self.block.redundant:
            return destinations(units, self.block.slots, self.block.top_k)
        return destinations(units, self.block.experts, self.block.top_k, self.groups, self.top_groups)


def exchanges(
    phase: str, suffix: str, block: Experts, moe: Moe, layout: Layout, act: float, count: int
) -> list[Operator]:
    """The operators of a phase: one, or with `auto` one for few and one for many tokens, of which never both run."""
    wire = FORMATS[block.format].act if phase == "dispatch" and block.format in NARROW else act
    span = Span(layout.stage, 1, layout.stage)
    chosen = {
        "high_throughput": [("ht", 0.0, np.inf)],
        "low_latency": [("ll", 0.0, np.inf)],
        "auto": [("ll", 0.0, FEW), ("ht", FEW, np.inf)],
    }[layout.all_to_all]
    return [
        _operator(
            f"experts_{phase}{f'_{mode}' if len(chosen) > 1 else ''}{suffix}",
            Exchange(
                phase, mode, block, span, layout.attention_data, layout.tensor, wire * block.hidden,
                moe.groups, moe.top_groups, least, most,
            ),
            count,
        )
        for mode, least, most in chosen
    ]  # fmt: skip


def _operator(name: str, dims: Exchange, count: int) -> Operator:
    each = dims.copies() * dims.width

    def work(shape: StepShape) -> Work:
        return Work(comm_bytes=each * dims.tokens(shape))

    def busiest(shape: StepShape) -> Work:
        return Work(comm_bytes=each * dims.tokens(shape) * dims.above(shape))

    return Operator(name, "all_to_all", "tokens", count, None, work, stream="comm", dims=dims, busiest=busiest)
