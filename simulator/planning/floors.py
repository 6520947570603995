"""Lower bounds on the time of engine steps, read from a compiled `StepCost`.

Measured kernels scatter: a step with one more token may be quicker. What is proven from here on needs a bound that no
larger step undercuts, so tables are replaced by their least value from an entry on (*floors*). With `m` decoding
sequences of the rank that has most of them, `S` tokens of KV read by all decoding sequences, and `q` tokens of prompts,
whose causal (query, key) pairs are `P`,

    duration of a step  >=  fixed(m, q) + sum over extents of reads_e(m, S_e) + pair_seconds P

where `fixed` and `reads` rise in all of their arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.policy import SECONDS_PER_TICK, EngineParams
from simulator.prefilltable import PrefillTable, pairs_of
from simulator.shape import PrefillShape, StepShape
from simulator.stepcost import StepCost

SAFETY = 1 - 1e-6
"""Tables are rounded to ticks and knots to tokens; bounds leave that much room."""
CELLS = 160
"""Of the tokens of KV that a step reads, evenly spaced in the logarithm."""
FINE = 16
"""Parts of an octave in which the stretch of a chunk is looked at."""


@dataclass(frozen=True)
class StepFloor:
    """Bounds of the steps of one engine; seconds. `M` is the most sequences of a rank.

    Attributes
    ----------
    least, most : float64[M + 1], the fewest and the most decoding sequences of a step of which a rank has at most m.
    prompt_from, prompt_to : float64[Q], tokens of prompts: cells, the first of which is none.
    fixed : float64[M + 1, Q], of a step with so many sequences and at least `prompt_from` tokens; infinite where the
        engine does not mix. token_seconds : for a token of a prompt, that of the best filled step.
    read_from, read_to : for each extent float64[G], cells of tokens of KV read.
    reads : for each extent float64[M + 1, G], at least that with `read_from` or more.
    pair_seconds : for each (query, key) pair of prompts. caps : the most tokens of a sequence that each extent reads,
        None without a limit.
    """

    least: np.ndarray
    most: np.ndarray
    prompt_from: np.ndarray
    prompt_to: np.ndarray
    fixed: np.ndarray
    token_seconds: float
    read_from: tuple[np.ndarray, ...]
    read_to: tuple[np.ndarray, ...]
    reads: tuple[np.ndarray, ...]
    pair_seconds: float
    caps: tuple[int | None, ...]

    def prompt_seconds(self, tokens: np.ndarray, pairs: np.ndarray, budget: int) -> np.ndarray:
        """The least time in which so many tokens of one prompt are computed, in steps of at most `budget` tokens.

        In k >= ceil(tokens / budget) steps, each of which takes at least as long as one with a token; and never quicker
        than token by token in the best filled step.
        """
        steps = np.ceil(tokens / budget)
        return np.maximum(steps * self.fixed[0, 1], tokens * self.token_seconds) + pairs * self.pair_seconds

    def decode_seconds(self, contexts: np.ndarray) -> np.ndarray:
        """The least duration of a decode step with a sequence that has `contexts` tokens, seconds.

        The least over all batches: others beside it add their own reads, so S is at least what it reads itself, the
        context or the extent's cap.
        """
        best = np.full(len(contexts), np.inf)
        fixed = self.fixed[1:].min(axis=1)
        parts = np.zeros((len(fixed), len(contexts)))
        for cap, begin, reads in zip(self.caps, self.read_from, self.reads, strict=True):
            read = contexts if cap is None else np.minimum(contexts, cap)
            cell = np.maximum(np.searchsorted(begin, read, side="right") - 1, 0)
            parts += reads[1:, cell]
        return np.minimum(best, (fixed[:, None] + parts).min(axis=0))


def step_floor(cost: StepCost, params: EngineParams, *, shared_tokens: int = 0, prefills: bool = True) -> StepFloor:
    """The floors of an engine.

    Parameters
    ----------
    shared_tokens : the most tokens of a request's prompt whose KV others may share: what a step reads can exceed what
        the cache holds by so much for each sequence.
    prefills : whether steps that decode may prefill too (not on decode workers, but for what was preempted).
    """
    ranks, queries, most_seqs = cost.ranks, cost.queries, cost.most_seqs
    seqs = np.arange(most_seqs + 1)
    most = np.minimum(seqs * ranks, cost.max_seqs).astype(float)
    least = np.maximum((seqs - 1) * ranks + 1, 0).astype(float)
    prompt_from, prompt_to = _cells(cost.max_tokens)
    fixed = np.empty((most_seqs + 1, len(prompt_from)))
    fixed[0, 0] = 0.0
    for m in range(1, most_seqs + 1):
        tokens = int(most[m]) * queries
        fixed[m, 0] = cost.fixed_ticks(tokens, tokens, None)
    fixed[:, 1:] = _mixed(cost, seqs[:, None], prompt_from[None, 1:])
    if params.prefill == "first" or not prefills:
        fixed[1:, 1:] = np.inf
    # No larger step undercuts it, neither with more sequences nor with more tokens of prompts.
    rising = fixed[::-1, ::-1]
    rising = np.minimum.accumulate(np.minimum.accumulate(rising, axis=0), axis=1)
    fixed = rising[::-1, ::-1] * (SECONDS_PER_TICK * SAFETY)
    every = np.arange(1, cost.max_tokens + 1)
    prompts = _mixed(cost, np.zeros(1, dtype=int), every) * (SECONDS_PER_TICK * SAFETY)
    room = float(params.kv_blocks * params.block_size) + most[-1] * shared_tokens
    cells = [_reads(cost, extent, cap, most, room) for extent, cap in enumerate(cost.decode_caps)]
    return StepFloor(
        least, most, prompt_from, prompt_to, fixed, float((prompts / every).min()),
        tuple(cell[0] for cell in cells), tuple(cell[1] for cell in cells), tuple(cell[2] for cell in cells),
        _pair_seconds(cost) * (1 + cost.host.prefill_share) * SAFETY, tuple(cost.decode_caps),
    )  # fmt: skip


def _cells(largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells of tokens of prompts: none, then a factor 2^(1/8) apart; first and last token of each."""
    count = int(np.ceil(8 * np.log2(max(largest, 2)))) + 1
    begin = np.unique(np.concatenate([[0.0], np.floor(2.0 ** (np.arange(count) / 8))]))
    begin = begin[begin <= largest]
    return begin, np.append(begin[1:] - 1, float(largest))


def _mixed(cost: StepCost, seqs: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Ticks of steps with at least so many decoding sequences of a rank and tokens of prompts, without attention.

    As `StepCost.fixed_ticks`, every term of which is taken at its least: the busiest of d batches gets at least its
    share of the prompts' tokens, some rank at least one chunk, and a step runs without a graph only if even its least
    rank is too large for one. Launching its kernels one by one counts for nothing: the prefill attention that `pairs`
    stand for may fill that time.
    """
    ranks, queries, host = cost.ranks, cost.queries, cost.host
    kernels = _at(_rising(cost.rows), seqs * queries) + np.zeros(np.broadcast(seqs, prompts).shape)
    for dealt, table in cost.token_tables:
        kernels = kernels + _at(_rising(table), seqs * (ranks // dealt) * queries + np.ceil(prompts / dealt))
    eager = seqs * queries + np.ceil(prompts / ranks) > host.mixed_tokens
    ticks = cost.host_ticks
    waits = _at(_rising(ticks.mixed), seqs) + ticks.chunk
    between = kernels * host.prefill_share
    return np.asarray(np.maximum(kernels + waits + eager * ticks.eager + between, 1))


def _rising(table: list[int] | np.ndarray) -> np.ndarray:
    """The least value from each entry on."""
    return np.minimum.accumulate(np.array(table, dtype=float)[::-1])[::-1]


def _at(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Entries of a table; beyond its end no step is possible, so that the last one may stand for it."""
    return table[np.minimum(index, len(table) - 1).astype(int)]


def _reads(
    cost: StepCost, extent: int, cap: int | None, most: np.ndarray, room: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells of the tokens read on an extent, and the least seconds of its operators in each, [M + 1, cells].

    The KV cache holds `room` tokens: a step reads no more, and with a cap no more than that of each sequence.
    """
    longest = min(room, most[-1] * (cap if cap is not None else cost.max_context))
    begin = np.concatenate([[0.0], np.maximum(longest, 2.0) * np.logspace(-4, 0, CELLS)[:-1]])
    end = np.append(begin[1:], max(longest, 2.0))
    knots = np.asarray(cost.context_knots, dtype=float)
    total = np.zeros((len(most), len(begin)))
    for of, table in zip(cost.decode_extents, cost.decode_tables, strict=True):
        if of == extent:
            for m in range(1, len(most)):
                total[m] += np.interp(begin / most[m], knots, _rising(table[m]))
    total = np.minimum.accumulate(total[:0:-1], axis=0)[::-1]
    return begin, end, np.concatenate([np.zeros((1, len(begin))), total]) * SAFETY


def _pair_seconds(cost: StepCost) -> float:
    """The least time of prefill attention for a (query, key) pair of an extent without a cap, all such operators.

    Without tables: the FLOPs at full rate, which are proportional to the pairs. With them the logarithm of the time is
    linear between knots in each coordinate (chunks, tokens a chunk, stretch), and that of the pairs is linear in the
    first two; so the least ratio in a cell is at its knots in these, and in the stretch between ends of small parts.
    """
    total = 0.0
    for i, op in enumerate(cost.prefill_ops):
        if cost.prefill_caps[op.dims.extent] is not None:
            continue
        if cost.prefill_tables is not None:
            table = cost.prefill_tables[i]
            if isinstance(table, PrefillTable) and table.cap is None:
                total += op.count * _least_ratio(table, cost)
        elif op.dtype is not None:
            extents = len(cost.prefill_caps)
            one, two = (
                op.work(StepShape(1, 0, 0, (), PrefillShape(1, 1, (pairs,) * extents, (1,) * extents))).flops
                for pairs in (0, 1)
            )
            total += op.count * max(two - one, 0.0) / cost.gpu.peak[op.dtype]
    # The busiest rank has at least its share of the pairs.
    return total / cost.ranks


def _least_ratio(table: PrefillTable, cost: StepCost) -> float:
    """Seconds for a pair, at the least; see `_pair_seconds`."""
    chunks, query, stretch = (2.0**axis for axis in table.axes)
    depth = np.arange(FINE + 1) / FINE
    logs = table.logs
    fine = logs[:, :, :-1, None] * (1 - depth) + logs[:, :, 1:, None] * depth
    steps = np.log2(stretch)[:-1, None] * (1 - depth) + np.log2(stretch)[1:, None] * depth
    size, tokens = chunks[:, None, None, None], query[None, :, None, None]
    pairs = size * pairs_of(tokens, (2.0 ** steps[None, None, :, 1:] - 1) * tokens, None)
    least = np.minimum(fine[..., :-1], fine[..., 1:])
    # Knots that no step comes near would only lower the bound: cells end where a step has its most tokens.
    possible = (size / 2 * tokens / 2 <= cost.max_tokens) & np.ones(pairs.shape, dtype=bool)
    return float(np.exp(np.where(possible, least - np.log(pairs), np.inf).min()))
