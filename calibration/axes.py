"""What the errors of a kind of kernel are looked at along: the shape columns that matter, and sizes made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from calibration.tables import KernelTable

Axis = tuple[str, str, np.ndarray]
"""Name, words for a plot, and values [n]."""
Columns = Mapping[str, np.ndarray]
Values = Callable[[Columns], np.ndarray]


def _column(name: str) -> Values:
    return lambda c: c[name]


def _product(*names: str) -> Values:
    return lambda c: np.prod([c[name] for name in names], axis=0)


def _kv_elements(c: Columns) -> np.ndarray:
    read = np.where(c["window"] > 0, np.minimum(c["window"], c["context_len"]), c["context_len"])
    return np.asarray(2 * c["batch"] * read * c["kv_heads"] * c["head_dim"])


BATCH = ("batch", "batch (sequences)", _column("batch"))
QUERY = ("query_len", "query length (tokens)", _column("query_len"))
CONTEXT = ("context_len", "context length (tokens)", _column("context_len"))
GROUP = ("group", "query heads per KV head", lambda c: c["q_heads"] / c["kv_heads"])
HEADS = ("q_heads", "heads", _column("q_heads"))
TOKENS = ("tokens", "tokens", _column("tokens"))
ROWS = ("blocks", "batch x query length x heads", _product("batch", "query_len", "q_heads"))
MODULE = (BATCH, QUERY, ("context", "past and new tokens", lambda c: c["past_len"] + c["query_len"]), HEADS)

AXES: dict[str, tuple[tuple[str, str, Values], ...]] = {
    "gemm": (
        ("m", "m (tokens)", _column("m")),
        ("n", "n", _column("n")),
        ("k", "k", _column("k")),
        ("flops", "FLOPs: 2 m n k", lambda c: 2 * c["m"] * c["n"] * c["k"]),
    ),
    "attention_decode": (BATCH, CONTEXT, ("kv_elements", "K and V elements read", _kv_elements), GROUP),
    "attention_prefill": (BATCH, QUERY, ROWS, GROUP),
    "moe": (
        TOKENS,
        ("tokens_per_expert", "tokens per expert", lambda c: c["tokens"] * c["top_k"] / c["experts"]),
        ("experts_here", "experts on this GPU", lambda c: c["experts"] / c["ep"]),
        ("width", "intermediate width on this GPU", lambda c: c["intermediate"] / c["tp"]),
    ),
    "collective": (("bytes", "message (bytes)", _column("bytes")), ("gpus", "GPUs", _column("gpus"))),
    "elementwise": (
        ("rows", "rows (tokens)", _column("rows")),
        ("row_bytes", "bytes of a row", _column("row_bytes")),
        ("bytes", "bytes", _product("rows", "row_bytes")),
    ),
    "page_topk": (
        BATCH,
        CONTEXT,
        ("pages", "pages of all KV heads", lambda c: c["batch"] * c["kv_heads"] * c["context_len"] / c["page"]),
    ),
    "mla_decode": (BATCH, CONTEXT, ("cached", "batch x context length", _product("batch", "context_len")), HEADS),
    "mla_prefill": (BATCH, QUERY, ROWS, HEADS),
    "mla_bmm": (TOKENS, HEADS, ("rows", "tokens x heads", _product("tokens", "q_heads"))),
    "mla_module": MODULE,
    "dsa_module": MODULE,
    "linear_attention": (
        BATCH,
        ("seq_len", "sequence length (tokens)", _column("seq_len")),
        ("rows", "batch x sequence length", _product("batch", "seq_len")),
        ("v_heads", "value heads", _column("v_heads")),
    ),
    "expert_all_to_all": (
        TOKENS,
        ("hidden", "hidden", _column("hidden")),
        ("elements", "tokens x top-k x hidden", _product("tokens", "top_k", "hidden")),
    ),
}
"""Of every kind: name, words for a plot, and how to get the values from the columns of a table."""


def axes_of(table: KernelTable) -> list[Axis]:
    """The axes of a table's kind with the values of its rows."""
    return [(name, words, values(table.columns)) for name, words, values in AXES[table.kind]]
