"""The kernel models by kind, as tables of measurements are called."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.kernels.attention import DECODE, PREFILL
from simulator.kernels.base import KernelModel
from simulator.kernels.collective import COLLECTIVE
from simulator.kernels.dsa_module import DSA_MODULE
from simulator.kernels.elementwise import ELEMENTWISE
from simulator.kernels.expert_all_to_all import EXPERT_ALL_TO_ALL
from simulator.kernels.gemm import GEMM
from simulator.kernels.linear_attention import LINEAR_ATTENTION
from simulator.kernels.mla_bmm import MLA_BMM
from simulator.kernels.mla_decode import MLA_DECODE
from simulator.kernels.mla_module import MLA_MODULE
from simulator.kernels.mla_prefill import MLA_PREFILL
from simulator.kernels.moe import MOE
from simulator.kernels.page_topk import PAGE_TOPK

MODELS: Mapping[str, KernelModel] = {
    m.kind: m
    for m in (
        GEMM, DECODE, PREFILL, MOE, COLLECTIVE, ELEMENTWISE, PAGE_TOPK, MLA_DECODE, MLA_PREFILL, MLA_BMM,
        MLA_MODULE, DSA_MODULE, LINEAR_ATTENTION, EXPERT_ALL_TO_ALL,
    )
}  # fmt: skip

LATTICE: Mapping[str, tuple[str, ...]] = {
    "gemm": (),
    "attention_decode": ("batch", "context_len"),
    "attention_prefill": ("batch", "query_len"),
    "moe": ("tokens",),
    "collective": ("bytes",),
    "elementwise": ("rows",),
    "page_topk": ("batch", "context_len"),
    "mla_decode": ("batch", "context_len"),
    "mla_prefill": ("batch", "query_len"),
    "mla_bmm": ("tokens",),
    "mla_module": ("batch", "query_len", "past_len"),
    "dsa_module": ("batch", "query_len", "past_len"),
    "linear_attention": ("batch", "seq_len"),
    "expert_all_to_all": ("tokens",),
}
"""Columns that were measured at few values, between which corrections are interpolated (linearly in the logarithm)."""
