"""The Kinetics law (arXiv 2506.05333) as a library: what a reasoning strategy costs, in closed form and simulated, what it
solves, and which one to choose.

Arrays go in and come out; tables are pandas data frames. pandas and matplotlib are imported where they are needed, so
that importing this package stays cheap.
"""

from __future__ import annotations

from simulator.law.closedform import (
    LawCost,
    LawModel,
    block_top_k,
    capped_pairs,
    dense,
    indexed,
    law_model,
    shared_prompt_bytes,
    top_k,
)

__all__ = [
    "LawCost", "LawModel", "block_top_k", "capped_pairs", "dense", "indexed", "law_model", "shared_prompt_bytes",
    "top_k",
]  # fmt: skip
