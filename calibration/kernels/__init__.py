"""Triton kernels that stand for the operators of the graph, each with a plain torch reference."""
