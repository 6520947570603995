"""The strategy table: what sources of accuracy give, and what costs, frontiers and allocations are computed on.

A pandas data frame, one row a strategy (for a problem, or for the benchmark as a whole). Its columns:

| column | what |
| --- | --- |
| model | name, as `workloads.model.load_model` takes it |
| attention | `dense`, `top_k` or `block_top_k` |
| budget | KV budget B in tokens, int; 0 with dense attention |
| page, local | of block top-k: tokens per page, newest tokens always read (both part of the budget); else 0 |
| prompt_tokens | a |
| limit | tokens after which a trial is cut, int |
| tokens | mean generated tokens of a trial, float, at most `limit` |
| trials | N, int |
| problem | name of the problem, or WHOLE for the mean over all |
| accuracy | expected share of problems solved (coverage of N trials), 0 to 1; NaN if not known |
| lengths | optional: float array of the trials' generated tokens, over which a cost is averaged; None: all `tokens` |
"""

from __future__ import annotations

SCENARIOS = {"long_cot": "aime24-long-cot", "best_of_n": "aime24-best-of-32"}
"""Ways to spend a cost, on the length of one trial or on the number of trials, and the bundled scenario that says how
each is served.
"""
AXES = tuple(SCENARIOS)
ATTENTIONS = ("dense", "top_k", "block_top_k")
WHOLE = ""
"""`problem` of a row that speaks of the benchmark as a whole."""
COLUMNS = (
    "model", "attention", "budget", "page", "local", "prompt_tokens", "limit", "tokens", "trials", "problem",
    "accuracy",
)  # fmt: skip
"""Columns that every strategy table has."""
BUDGETS = (128, 256, 512, 1024, 2048)
"""KV budgets of the paper, tokens."""
LIMITS = tuple(range(2048, 32769, 2048))
"""Lengths at which the paper cuts a long chain of thought, tokens (Algorithm 2)."""
TRIALS = (1, 2, 4, 8, 16, 32)
"""Trials of the paper's Best-of-N (Algorithm 1), each of at most the last of LIMITS."""
MODELS = ("qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "qwen3-14b", "qwen3-32b")
"""The paper's models."""
