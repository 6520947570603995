"""The kernel models by kind, as tables of measurements are called."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.kernels.attention import DECODE, PREFILL
from simulator.kernels.base import KernelModel
from simulator.kernels.collective import COLLECTIVE
from simulator.kernels.elementwise import ELEMENTWISE
from simulator.kernels.gemm import GEMM
from simulator.kernels.moe import MOE
from simulator.kernels.page_topk import PAGE_TOPK

MODELS: Mapping[str, KernelModel] = {
    m.kind: m for m in (GEMM, DECODE, PREFILL, MOE, COLLECTIVE, ELEMENTWISE, PAGE_TOPK)
}

LATTICE: Mapping[str, tuple[str, ...]] = {
    "gemm": (),
    "attention_decode": ("batch", "context_len"),
    "attention_prefill": ("batch", "query_len"),
    "moe": ("tokens",),
    "collective": ("bytes",),
    "elementwise": ("rows",),
    "page_topk": ("batch", "context_len"),
}
"""Columns that were measured at few values, between which corrections are interpolated (linearly in the logarithm)."""
