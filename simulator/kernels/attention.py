"""Attention over a KV cache: the models of its two measured kinds."""

from simulator.kernels.attention_decode import DECODE
from simulator.kernels.attention_prefill import PREFILL

__all__ = ["DECODE", "PREFILL"]
