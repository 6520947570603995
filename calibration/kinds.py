"""The kinds of kernel tables: which columns each has and what their cells may hold (the schemas of DESIGN.md)."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.kernels.formats import FORMATS

COMMON = ("gpu", "software", "kernel")
MEASURED = ("latency_us", "power_w")
"""What may be measured: microseconds, and the board's mean watts while the kernel repeats. Both may be missing."""
LARGEST = 2**40
"""No shape of a kernel is larger: a TiB in a message, a million million tokens."""

OPS = ("all_reduce", "all_gather", "reduce_scatter", "alltoall")
OPS_OF = {
    "mla_bmm": ("pre", "post"),
    "elementwise": (
        "read", "write", "copy", "embedding", "rms_norm", "rope_kv_write", "silu_mul", "sampling", "page_summary",
    ),
    "page_topk": ("scores", "select"),
}  # fmt: skip
"""What `op` may say in a table of a kind; collectives' OPS else. The streams of bytes (read, write, copy) and the
routines of the operator graph."""
L2 = ("cold", "warm")
"""Where the operands of a measurement were that a step reads from HBM: in the optional column `l2` of any kind."""
PHASES = ("prefill", "decode")
WIRE_FORMATS = (*FORMATS, "fp4", "default")

ZERO_ALLOWED = frozenset({"past_len", "window", "sms"})
FLAGS = frozenset({"gated", "indexer"})
LEAST = {"gpus": 2}


@dataclass(frozen=True)
class Kind:
    """One kind of table: its `labels` (text) after those that every kind has, and its `shape` columns (whole numbers).

    `names` : label -> what it may say; labels that are not in it are free text. `divides` : pairs (a, b) where a must
    be a divisor of b. `at_most` : pairs (a, b) where a may not exceed b. `zero` : shape columns that may be 0.
    """

    name: str
    labels: tuple[str, ...]
    shape: tuple[str, ...]
    names: dict[str, tuple[str, ...]]
    divides: tuple[tuple[str, str], ...] = ()
    at_most: tuple[tuple[str, str], ...] = ()
    zero: frozenset[str] = ZERO_ALLOWED

    @property
    def columns(self) -> tuple[str, ...]:
        return (*COMMON, *self.labels, *self.shape)


def _kind(
    name: str,
    labels: str,
    shape: str,
    divides: tuple[tuple[str, str], ...] = (),
    at_most: tuple[tuple[str, str], ...] = (),
    zero: str = "",
) -> Kind:
    names: dict[str, tuple[str, ...]] = {}
    for label in labels.split():
        if label.endswith("dtype"):
            names[label] = WIRE_FORMATS if name == "expert_all_to_all" else tuple(FORMATS)
    if name == "expert_all_to_all":
        names["phase"] = ("dispatch", "combine")
    elif "phase" in labels:
        names["phase"] = PHASES
    if "op" in labels.split():
        names["op"] = OPS_OF.get(name, OPS)
    zeros = ZERO_ALLOWED | set(zero.split())
    return Kind(name, tuple(labels.split()), tuple(shape.split()), names, divides, at_most, zeros)


HEADS = (("kv_heads", "q_heads"),)
PAGES = (*HEADS, ("page", "budget"))

KINDS = {
    kind.name: kind
    for kind in (
        _kind("gemm", "dtype", "m n k"),
        _kind(
            "attention_prefill", "dtype kv_dtype", "batch query_len past_len q_heads kv_heads head_dim window", HEADS
        ),
        _kind("attention_decode", "dtype kv_dtype", "batch context_len q_heads kv_heads head_dim window", HEADS),
        _kind(
            "moe",
            "dtype routing",
            "tokens hidden intermediate top_k experts tp ep gated",
            (("tp", "intermediate"), ("ep", "experts")),
            (("top_k", "experts"),),
        ),
        _kind("collective", "op dtype", "gpus bytes"),
        # Heads are a detail of those operations that have them; the time goes by rows and their bytes.
        _kind("elementwise", "op dtype", "rows row_bytes q_heads kv_heads head_dim", zero="q_heads kv_heads head_dim"),
        _kind("page_topk", "op dtype kv_dtype", "batch context_len q_heads kv_heads head_dim page budget", PAGES),
        _kind("mla_prefill", "dtype kv_dtype", "batch query_len past_len q_heads"),
        _kind("mla_decode", "dtype kv_dtype", "batch context_len q_heads"),
        _kind("mla_bmm", "op dtype", "tokens q_heads"),
        _kind("mla_module", "phase model dtype kv_dtype gemm_dtype", "batch query_len past_len q_heads"),
        _kind("dsa_module", "phase model dtype kv_dtype gemm_dtype", "indexer batch query_len past_len q_heads"),
        _kind(
            "linear_attention",
            "phase",
            "batch seq_len hidden conv_width k_heads v_heads k_head_dim v_head_dim",
        ),
        _kind(
            "expert_all_to_all",
            "phase dtype",
            "ep nodes hidden top_k experts tokens sms",
            (("ep", "experts"),),
            (("top_k", "experts"),),
        ),
    )
}
