"""The Kinetics law as its authors' code computes it, for comparison: `--as-published`.

From github.com/Infini-AI-Lab/Kinetics, cost_model/utils.py and the scripts beside it, as of the paper's release (arXiv
2506.05333); nothing here is meant to be right. It differs from `split.parts` so:

- keys read under a KV budget B, in place of the sum of min(B, a + t): B n + max(0, B - a)^2 / 2 for top-k, more keys
  than there are; B n - max(0, B - a)^2 / 2 for block top-k, which is (B - a) / 2 keys too few for n >= B - a, and
  many too few for shorter outputs, below zero even;
- (2a + n) / b and (2a + N n) / b, pages that are searched, are rounded down before they are multiplied with n;
- the parameters are those that the models are called by or their cards give: 0.6B and 1.7B count the embedding table
  twice, although it is the LM head (`PARAMETERS`);
- E is 562.5 whatever the arithmetic: 4,500 TFLOP/s, twice a B200's dense bf16 rate, over 8 TB/s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.law.closedform import LawModel, law_model
from simulator.law.split import Parts, check_arguments

if TYPE_CHECKING:
    from workloads.model import Model

PEAK, BANDWIDTH = 4.5e15, 8e12
"""FLOP/s and bytes/s of the authors' B200."""
RATIO = 562.5
"""The authors' E: PEAK / BANDWIDTH."""
GPU = "b200-sxm"
"""The only hardware that they cost."""
PARAMETERS = {
    "Qwen/Qwen3-0.6B": 0.752e9,
    "Qwen/Qwen3-1.7B": 2.03e9,
    "Qwen/Qwen3-4B": 4.02e9,
    "Qwen/Qwen3-8B": 8.19e9,
    "Qwen/Qwen3-14B": 14.77e9,
    "Qwen/Qwen3-32B": 32.76e9,
}
"""The authors' parameter counts (cost_model_genlen.py, cost_model_ntrial.py)."""


def published_model(model: Model) -> LawModel:
    """The model with the authors' parameter count; its own where they have none, and no windows, which they do not
    know.
    """
    plain = law_model(model, "bf16")
    return replace(plain, parameters=PARAMETERS.get(model.name, plain.parameters), windows=())


def published_parts(
    model: LawModel, attention: str, a: Any, n: Any, N: Any = 1, budget: Any = None, page: int | None = None
) -> Parts:
    """The authors' `dense_cost`, `zero_overhead_sparse_cost` and `block_sparse_cost`, split; arrays broadcast.

    Their compute cost is `flops` x 1e-12, their memory cost `bytes` x `ratio` x 1e-12. `budget` of block top-k is
    local + k pages. InputError as of `split.parts`, and for a model that chooses its keys itself.
    """
    check_arguments(model, attention, a, n, N, budget, page)
    a, n, N = (np.asarray(x, dtype=float) for x in (a, n, N))
    flops_read, bytes_read, search = (2 * a + n) * n * N, (2 * a + n * N) * n, (0.0, 0.0)
    if attention != "dense":
        cap = np.asarray(budget, dtype=float)
        beyond = np.maximum(0, cap - a) ** 2 / 2
        keys = cap * n + (beyond if attention == "top_k" else -beyond)
        flops_read = bytes_read = 2 * keys * N
    if attention == "block_top_k":
        assert page is not None
        search = (2 * a + n) // page * n * N, (2 * a + n * N) // page * n
    flops, elements = model.q_heads * model.depth, model.kv_heads * model.depth
    arrays = (
        2 * model.parameters * n * N,
        0.0,
        2 * flops_read * flops,
        2 * bytes_read * elements,
        search[0] * flops,
        search[1] * elements,
        0.0,
        0.0,
    )
    return Parts(RATIO, *np.broadcast_arrays(*arrays))


def published_coverage(trials: int, correct: int, N: Any) -> np.ndarray:
    """The authors' `coverage`: 1 - C(M - c, N) / C(M, N), of M trials with c correct ones, for arrays of N.

    NaN where N > M, as theirs.
    """
    from scipy.special import comb

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - comb(trials - correct, N) / comb(trials, N))
