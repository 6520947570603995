"""How far sparse attention as modelled is from measured kernels of it: DeepSeek's sparse attention (DSA) in decode.

A table of `dsa_module` times whole attention blocks, yet its parts can be told apart without a model of the block,
since everything but one of them stays when one thing alone is changed:

- *index*: beyond `top_k` tokens of past the attention reads no more, so what a longer past adds is the scores of the
  indexer and the choice of the best. Of that, what grows with batch x tokens is the scoring; what grows with the tokens
  of one sequence, whatever the batch is (until there are more rows than SMs), is the choice, whose rows are scanned by
  one thread block or a few. Two non-negative coefficients by least squares: seconds a key, and clocks a token of a row.
- *gather*: what the step takes more with 4,096 tokens of past than with next to none, less the index over them.

Modelled are the operators of the graph: DSA's own (`simulator.dsa`), and those of block top-k (`simulator.operators`:
`page_scores`, `page_select`) where a page's summary stands for an index key, as they would be had this model the
policy. `calibration.sparse_page` writes them down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from calibration.tables import KernelTable
from hwspecs.errors import InputError
from hwspecs.gpu import Gpu, load_gpu
from simulator.cost import operator_time
from simulator.dsa import index_scores, index_select
from simulator.kernels.latent_block import KV_RANK, ROPE, Dims, dims_of
from simulator.mla import LatentHeads, decode
from simulator.operators import Heads, Operator, page_scores, page_select
from simulator.profile import Profile
from simulator.shape import StepShape
from workloads.attentionshapes import Indexer, Latent

BASE = 4096
"""Tokens of past from which on only the index grows: beyond `top_k`, and the kernels' change of routine there."""
NEXT_TO_NONE = 16
"""Tokens of past up to which nothing is taken to grow."""
LEAST = 6
"""Differences that a fit needs."""
GROUP = ("gpu", "software", "kernel", "model", "kv_dtype", "gemm_dtype")
INDEX_DIM = 128


class Point(NamedTuple):
    """A decode step: sequences, tokens of past, query heads; seconds that it takes more than at BASE (or, of the
    gather, that BASE takes more than next to nothing).
    """

    batch: float
    past: float
    heads: float
    seconds: float


@dataclass(frozen=True)
class Measured:
    """One kernel with one model's widths on one GPU.

    Attributes
    ----------
    names : the texts of GROUP. gpu, size : figures of the GPU, widths of the model.
    index, gather : the differences. key_seconds : of scoring one key, alone. row_clocks : of choosing, by token of the
    longest row of an SM. residual : median of |fit / difference - 1|.
    """

    names: dict[str, str]
    gpu: Gpu
    size: Dims
    index: tuple[Point, ...]
    gather: tuple[Point, ...]
    key_seconds: float
    row_clocks: float
    residual: float

    @property
    def bandwidth(self) -> float:
        """Of scoring, as a part of the HBM's: bytes of the keys over the time."""
        key = Indexer(1, INDEX_DIM, 1).key_bytes
        return key / (self.key_seconds * self.gpu.memory.bandwidth) if self.key_seconds else np.inf

    def index_seconds(self, batch: Any, tokens: Any) -> Any:
        """What the two coefficients say of a step."""
        turns = np.ceil(np.asarray(batch) / self.gpu.sms)
        return self.key_seconds * batch * tokens + self.row_clocks / self.gpu.boost_clock * turns * tokens


def measured(table: KernelTable) -> list[Measured]:
    """All kernels of a table of `dsa_module` with enough steps of decode. InputError for another table."""
    if table.kind != "dsa_module":
        raise InputError(f"a table of {table.kind}", file=table.path, allowed="one of dsa_module")
    table = table.take(table.measured & (table.columns["phase"] == "decode") & (table.columns["indexer"] == 1))
    found = []
    for names, rows in table.groups(GROUP):
        gpu = load_gpu(names["gpu"])
        index, gather = _differences(table, rows)
        if len(index) >= LEAST:
            found.append(_fitted(names, gpu, index, gather))
    if not found:
        raise InputError("no kernel has a past long enough in decode", file=table.path, allowed=f"more than {BASE}")
    return found


def _differences(table: KernelTable, rows: np.ndarray) -> tuple[list[Point], list[Point]]:
    index, gather = [], []
    for batch, heads, past, seconds in _curves(table, rows):
        at_base = seconds[past == BASE]
        if not len(at_base):
            continue
        base = float(np.median(at_base))
        for tokens in np.unique(past[past >= 4 * BASE]):
            index.append(Point(batch, float(tokens), heads, float(np.median(seconds[past == tokens])) - base))
        short = seconds[past <= NEXT_TO_NONE]
        if len(short):
            gather.append(Point(batch, BASE, heads, base - float(np.median(short))))
    return index, gather


def _curves(table: KernelTable, rows: np.ndarray) -> Iterator[tuple[float, float, np.ndarray, np.ndarray]]:
    """(batch, heads, past [n], seconds [n]) of all pairs of batch and heads."""
    batch, heads, past = (table.columns[name][rows] for name in ("batch", "q_heads", "past_len"))
    seconds = table.seconds[rows]
    for pair in sorted(set(zip(batch.tolist(), heads.tolist(), strict=True))):
        pick = (batch == pair[0]) & (heads == pair[1])
        yield pair[0], pair[1], past[pick], seconds[pick]


def _fitted(names: dict[str, str], gpu: Gpu, index: list[Point], gather: list[Point]) -> Measured:
    batch, past, _, seconds = (np.array(column) for column in zip(*index, strict=True))
    tokens = past - BASE
    matrix = np.stack([batch * tokens, np.ceil(batch / gpu.sms) * tokens / gpu.boost_clock], axis=1)
    # Relative errors count, but those of a few microseconds are the measurement's.
    weight = 1 / np.maximum(seconds, 5e-6)
    (key, row), _ = nnls(matrix * weight[:, None], seconds * weight)
    off = np.abs(matrix @ np.array([key, row]) / np.maximum(seconds, 5e-6) - 1)
    size = dims_of(names["model"])
    return Measured(names, gpu, size, tuple(index), tuple(gather), float(key), float(row), float(np.median(off)))


# ---- as modelled -----------------------------------------------------------------------------------------------------


def dsa_operators(size: Dims, heads: int = 128, kv_dtype: str = "bf16") -> tuple[Operator, Operator, Operator]:
    """The graph's operators of decode: scores and choice over the first extent, attention over the second."""
    index = Indexer(int(size.index_heads), INDEX_DIM, int(size.top_k))
    latent = Latent(int(KV_RANK), int(ROPE), int(size.nope), int(size.value), int(size.q_rank), index)
    past = Heads(index.heads, 1, INDEX_DIM, 0, None, kv="fp8")
    read = LatentHeads(heads, 1, latent.width, 1, index.top_k, kv=kv_dtype, budget=index.top_k, latent=latent)
    return (
        index_scores("scores", past, index.key_bytes, count=1, axis="decode"),
        index_select("select", past, index.top_k, count=1, axis="decode"),
        decode("attention", read, count=1, dtype="bf16", kv=latent.key_bytes(kv_dtype), act=2),
    )


def page_operators(size: Dims) -> tuple[Operator, Operator]:
    """Block top-k's scores and choice, a page for an index key: as many query heads, one KV head, fp8."""
    heads = Heads(int(size.index_heads), 1, INDEX_DIM, 0, None, page=1, kv="fp8", budget=int(size.top_k))
    scores = page_scores("scores", heads, count=1, dtype="fp8", kv=1 + 4 / INDEX_DIM, act=1)
    return scores, page_select("select", heads, count=1)


def step(batch: float, past: float, top_k: float) -> StepShape:
    """A decode step of `batch` sequences with a past of that many tokens each."""
    return StepShape(batch, batch, batch, (batch * past, batch * min(past, top_k)))


def growth(operators: Sequence[Operator], one: Measured, point: Point, profile: Profile, base: float = BASE) -> float:
    """Seconds that operators take more in a step than with `base` tokens of past."""

    def seconds(past: float) -> float:
        shape = step(point.batch, past, float(one.size.top_k))
        return float(sum(operator_time(op, shape, one.gpu, profile).seconds for op in operators))

    return seconds(point.past) - seconds(base)


def index_ratios(one: Measured, operators: Sequence[Operator], profile: Profile) -> list[tuple[Point, float]]:
    """Modelled over measured growth of the index, of the differences that are more than the clock's scatter."""
    return [(p, growth(operators, one, p, profile) / p.seconds) for p in one.index if p.seconds > 5e-6]


def gather_ratios(one: Measured, profile: Profile) -> list[tuple[Point, float]]:
    """The same of attention alone, of what is left of a step when the index over BASE tokens is taken away."""
    found = []
    for point in one.gather:
        left = point.seconds - float(one.index_seconds(point.batch, BASE))
        if left > 5e-6:
            attention = dsa_operators(one.size, int(point.heads), one.names["kv_dtype"])[2]
            found.append((point, growth((attention,), one, point, profile, base=1.0) / left))
    return found
