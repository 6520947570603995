"""What is to be measured: one row of a table, and what is known of it before. Imports nothing of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

COMMON = ("gpu", "software", "kernel")
SUFFIXES = ("", "-check", "-warm")
"""Of a table's files: rows to fit on, rows for checks, and those that were measured with operands in L2."""
MEASURED = (
    *("l2", "low_us", "high_us", "reps", "outliers", "config", "baseline", "baseline_us"),
    *("sm_mhz", "mem_mhz", "board_w", "temp_c", "throttled", "run", "date"),
)
"""Columns after a table's own, alike for all tables."""

SHAPES: dict[str, tuple[str, ...]] = {
    table: tuple(columns.split())
    for table, columns in {
        "gemm": "dtype m n k",
        "attention_decode": "dtype kv_dtype batch context_len q_heads kv_heads head_dim window",
        "attention_prefill": "dtype kv_dtype batch query_len past_len q_heads kv_heads head_dim window",
        "moe": "dtype routing tokens hidden intermediate top_k experts tp ep gated",
        "collective": "op dtype gpus bytes",
        "elementwise": "op dtype rows row_bytes q_heads kv_heads head_dim",
        "page_topk": "op dtype kv_dtype batch context_len q_heads kv_heads head_dim page budget",
        "launch": "mode launches",
        "layer": "model attention phase dtype kv_dtype tp batch query_len context_len page budget",
        "kinetics": "model attention dtype kv_dtype tp batch context_len page budget",
    }.items()
}
"""Table -> the columns that say what was measured: a `Task.row` has them all."""

RESULTS: dict[str, tuple[str, ...]] = {
    "layer": ("layers", "latency_us"),
    "kinetics": ("layers", "latency_us", "attention_us"),
}
"""Table -> the columns that the measurement fills; `latency_us` alone where the table is not named."""

LABELS = frozenset({"dtype", "kv_dtype", "op", "routing", "mode", "model", "attention", "phase"})
"""Columns that hold text; every other column of a shape is a whole number."""


def header(table: str) -> tuple[str, ...]:
    """The columns of a table's file, in order."""
    return (*COMMON, *SHAPES[table], *RESULTS.get(table, ("latency_us",)), *MEASURED)


def key_of(file: str, kernel: str, table: str, row: Mapping[str, object]) -> str:
    """What tells one measurement from another: the file it goes to, its kernel, and its shape."""
    return "|".join((file, kernel, *(f"{name}={row[name]}" for name in SHAPES[table])))


@dataclass(frozen=True)
class Task:
    """One measurement to make.

    Attributes
    ----------
    table : the kind of table, a key of `SHAPES`.
    row : its labels and shape columns. It may hold more that only the kernel reads (`gather`); those are not written.
    kernel : what the column `kernel` will say: `triton`, `triton_prefill`, `triton_gather`, `triton_warm`.
    file : the file without `.csv`: the table, or `<table>-check` (shapes that no fit may see), or `<table>-warm`.
    l2 : `cold` where the operands that a step reads from HBM are not in L2, `warm` where they may be.
    seconds : estimate of the time that measuring it takes; bytes : memory of the GPU that it needs at the least.

    Raises ValueError for an unknown table, a file of another table, and a row that lacks a column.
    """

    table: str
    row: Mapping[str, int | str]
    kernel: str = "triton"
    file: str = ""
    l2: str = "cold"
    seconds: float = 1.0
    bytes: float = 0.0

    def __post_init__(self) -> None:
        if self.table not in SHAPES:
            raise ValueError(f"no table is called {self.table!r}; there are: {', '.join(SHAPES)}")
        if not self.file:
            object.__setattr__(self, "file", self.table)
        if self.file not in [self.table + suffix for suffix in SUFFIXES]:
            raise ValueError(f"the file {self.file!r} is not one of the table {self.table}")
        if self.l2 not in ("cold", "warm"):
            raise ValueError(f"l2 is cold or warm, not {self.l2!r}")
        missing = [name for name in SHAPES[self.table] if name not in self.row]
        if missing:
            raise ValueError(f"a row of {self.table} lacks {', '.join(missing)}")

    @property
    def key(self) -> str:
        """Identity for resuming: two tasks with one key are one measurement."""
        return key_of(self.file, self.kernel, self.table, self.row)

    def to_json(self) -> str:
        """One line."""
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)} | {"row": dict(self.row)})

    @classmethod
    def from_json(cls, text: str) -> Task:
        return cls(**json.loads(text))
