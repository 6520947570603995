"""StepCost: the operator graph, compiled with a GPU and a profile into the time of a step.

A step costs, in whole clock ticks,

    host + tokens[T] + rows[R] + sum over decode operators of f_n(S) + prefill(chunks)

- `host`: what the GPU waits for (`simulator.host`), which depends on the numbers of sequences and chunks only,

- `tokens[T]`: longest path through the operators that depend only on the number of tokens (all streams),
- `rows[R]`: language-model head and sampling,
- `f_n(S)`: an operator that reads the KV of `n` decoding sequences, with S the tokens it reads. It is *defined* as
  piecewise linear in S: the cost model is evaluated at knots (mean contexts a factor 2^(1/4) apart) and joined by lines
  with whole-number slopes. So the sum over thousands of steps, in which S grows along a line, has a closed form from
  knot to knot, in exact integer arithmetic, whatever the profile has learned.
- `prefill(chunks)`: the prefill attention of the step's chunks, evaluated directly, or for fitted profiles from a table
  (`prefilltable`).

The parts add up because every operator of the last three kinds lies on every path through the graph (checked when it
is compiled); only operators of the first kind may overlap.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import networkx as nx
import numpy as np

from hwspecs.gpu import Gpu
from simulator import modules
from simulator.calibrated import Calibrated
from simulator.cost import OpTime, check_operators, operator_time
from simulator.host import HostTime
from simulator.layout import check_link
from simulator.modules import Whole
from simulator.operators import KeyGemm, Module, Operator
from simulator.policy import ONE_TOKEN, TICKS_PER_SECOND, Advance
from simulator.prefilltable import KeyTable, PrefillTable
from simulator.profile import Profile, load_profile
from simulator.shape import PrefillShape, StepShape, busiest_shape, ceil_div, dealt_tokens
from simulator.stepgraph import StepGraph

if TYPE_CHECKING:
    from simulator.timeline import Timeline

Line = tuple[list[int], list[int], list[int]]
"""Knots in tokens, ticks at the knots, ticks per token after them."""
SHIFT = 20
"""Shares of ticks are whole multiples of 2^-20."""
FEW_RANKS, MOST, DENSE = 8, 70_000, 8192
"""Up to so many ranks and tokens in a step the cost model is asked for the time of every number of tokens; with more,
for that of every number up to DENSE, then of numbers 1/64 of an octave apart, between which it is linear.
"""
DecodeLines = tuple[tuple[Line, int], ...]
"""For each decode operator its line and the index of the extent that it reads."""


class HostTicks(NamedTuple):
    """Ticks of the host in a step with prefill: by the decoding sequences of a rank, for each chunk, where no CUDA
    graph covers it, and what its kernels take at least then.
    """

    mixed: list[int]
    chunk: int
    eager: int
    launch: int


class StepCost:
    """Seconds and ticks of engine steps.

    Parameters
    ----------
    graph, gpu, profile : what is compiled.
    max_tokens, max_seqs : the largest step (`max_num_batched_tokens`, `max_num_seqs`).
    max_context : the longest sequence in tokens; beyond it `f_n` goes on along its last line.
    host : the host's time and the sizes of the CUDA graphs; left out, no time and a graph for every size.
    fused : routines that run inside their neighbours' kernels: they move their bytes, but nothing is launched for them.
    beside : tokens up to which operators that can (`Operator.beside`) run beside longer ones, on another stream: they
        take no longer than what they read and compute takes at the GPU's peaks.
    advance : what decoding sequences draft and are granted in a step; the graph has to have been built for it.
    tables : whether to compile; without, `terms` and `kernel_terms` answer, which compute, and nothing else does.

    Raises
    ------
    InputError : the GPU lacks a format or the links that the graph needs.
    """

    def __init__(
        self,
        graph: StepGraph,
        gpu: Gpu,
        profile: Profile | Calibrated,
        *,
        max_tokens: int,
        max_seqs: int,
        max_context: int,
        host: HostTime | None = None,
        fused: Collection[str] = (),
        beside: int = 0,
        advance: Advance = ONE_TOKEN,
        tables: bool = True,
    ) -> None:
        self.graph, self.gpu, self.profile = graph, gpu, profile
        self.host, self.fused, self.beside = host or HostTime(), frozenset(fused), beside
        self._ideal = load_profile("ideal")
        self.max_tokens, self.max_seqs, self.max_context = max_tokens, max_seqs, max_context
        self.decode_caps, self.prefill_caps = graph.decode_caps, graph.prefill_caps
        self.operators = graph.operators
        check_operators(self.operators, gpu)
        check_link(graph.layout, gpu)
        self.decode_ops = [op for op in self.operators if op.axis == "decode"]
        self.prefill_ops = [op for op in self.operators if op.axis == "prefill"]
        self.decode_extents = [self._extent(op) for op in self.decode_ops]
        self.ranks, self.most_seqs = graph.layout.ranks, ceil_div(max_seqs, graph.layout.ranks)
        self.advance, self.queries, self.unit = advance, advance.queries, advance.unit
        if self.queries != graph.queries:
            raise ValueError(f"the graph is that of {graph.queries} tokens a decoding sequence")
        self._block: dict[tuple[Module, str], tuple[tuple[bytes, ...], tuple[Any, Any], Any]] = {}
        if not tables:
            return
        self._ordered = _stream_order(graph)
        by_dealt = {dealt: _ticks(self._longest_path(dealt)) for dealt in self._dealt()}
        self.tokens = by_dealt.pop(self.ranks)
        self._others = list(by_dealt.items())
        self.rows = _ticks(self._sum("rows", np.arange(self.most_seqs * self.queries + 1)))
        largest = max_tokens // graph.layout.attention_data // self.queries
        self.padded = [max(n, min(self.host.padded(n), largest)) for n in range(self.most_seqs + 1)]
        self._take_host()
        self._knots = _context_knots(max_context)
        # Layers that differ in their MLPs have the same attention: it is asked once.
        once: dict[tuple[Any, ...], Any] = {}
        self._decode_seconds = [self._decode_table(op, once) for op in self.decode_ops]
        self._decode_lines: list[DecodeLines | None] = [None] * (max_seqs + 1)
        self._prefill_tables: list[PrefillTable | KeyTable] | None = None
        if isinstance(profile, Calibrated):
            self._prefill_tables = [self._prefill_table(op, once) for op in self.prefill_ops]
        self._prefill_memo: dict[PrefillShape, int] = {}

    def _take_host(self) -> None:
        """What a step takes of the host, in ticks."""
        seqs = np.arange(self.most_seqs + 1)
        stages, layers = self.graph.layout.pipeline, self.graph.model.layers / self.graph.layout.pipeline
        self._decode_host = _ticks(stages * self.host.decode_seconds(seqs, layers))
        self._mixed_host = _ticks(stages * self.host.mixed_seconds(seqs, np.array(0), np.array(0), layers))
        self._eager_host = round(stages * self.host.eager * layers * TICKS_PER_SECOND)
        self._slower = round(self.host.prefill_share * (1 << SHIFT))
        self._launch = round(stages * self.host.launch * layers * TICKS_PER_SECOND)
        self._chunk_host = round(stages * self.host.chunk * TICKS_PER_SECOND)

    def with_host(self, host: HostTime) -> StepCost:
        """The same with another host, which has the same CUDA graphs; what was compiled is shared.

        Raises
        ------
        ValueError : the CUDA graphs are others.
        """
        if (host.graph_sizes, host.padding) != (self.host.graph_sizes, self.host.padding):
            raise ValueError("compiled for other CUDA graphs")
        other = copy(self)
        other.host = host
        other._take_host()
        return other

    def with_gpu(self, gpu: Gpu, launch: float = 1.0) -> StepCost:
        """The same kernels on a GPU with other figures, for `terms` and `kernel_terms` alone: tables stay as they are.

        Rates of `gpu` may be arrays, all of one length: times are then arrays over them, for shapes of numbers.
        `launch` : factor on what kernels take whatever the rates are.
        """
        other = copy(self)
        other.gpu, other._block = gpu, {}
        own = self.profile
        other.profile = own.with_gpu(gpu, launch) if isinstance(own, Calibrated) else own.launched(launch)
        return other

    # --- one step -----------------------------------------------------------------------------------------------

    def step_ticks(self, shape: StepShape) -> int:
        """Duration of one step in ticks, at least 1."""
        return self.fixed_ticks(shape.tokens, shape.rows, shape.prefill) + self.decode_ticks(shape)

    def fixed_ticks(self, tokens: int, rows: int, prefill: PrefillShape | None) -> int:
        """The part of a step that does not depend on the KV of decoding sequences, at least 1."""
        if self.ranks > 1:
            return self._dealt_ticks(tokens, rows, prefill)
        queries = self.queries
        if prefill is None:  # all tokens are decoded ones
            seqs = tokens // queries
            return max(1, self.tokens[self.padded[seqs] * queries] + self.rows[rows] + self._decode_host[seqs])
        host = self._mixed_host[(tokens - prefill.tokens) // queries] + self._chunk_host * prefill.seqs
        kernels = self.tokens[tokens] + self.rows[rows] + self.prefill_ticks(prefill)
        eager = tokens > self.host.mixed_tokens
        return max(1, kernels + host + self._eager_host * eager + self._between(kernels, eager))

    def launch_ticks(self, tokens: int, rows: int, prefill: PrefillShape) -> int:
        """Of a step with prefill, what its kernels take longer than measured ones, and what passes between them."""
        return self._between(self.kernel_ticks(tokens, rows, prefill), self._is_eager(tokens, prefill))

    def _between(self, kernels: int, eager: bool) -> int:
        """`launch_ticks` of a step whose kernels take `kernels` ticks, with or without a graph."""
        slower = kernels * self._slower >> SHIFT
        return slower + max(0, self._launch - kernels) if eager else slower

    def kernel_ticks(self, tokens: int, rows: int, prefill: PrefillShape) -> int:
        """The kernels of a step with prefill, without the attention of decoding sequences."""
        ticks = self.rows[ceil_div(rows, self.ranks)] + self.prefill_ticks(prefill)
        for dealt, table in ((self.ranks, self.tokens), *self._others):
            ticks += table[dealt_tokens(tokens, prefill.tokens, prefill.seqs, self.ranks, dealt, self.queries)]
        return ticks

    def _is_eager(self, tokens: int, prefill: PrefillShape) -> bool:
        """Whether no graph covers a step with prefill: that of the rank or micro-batch with the most tokens."""
        most = dealt_tokens(tokens, prefill.tokens, prefill.seqs, self.ranks, self.ranks, self.queries)
        return most > self.host.mixed_tokens

    def _dealt_ticks(self, tokens: int, rows: int, prefill: PrefillShape | None) -> int:
        """`fixed_ticks` where a step is dealt among ranks and micro-batches: of the one that gets the most."""
        ranks, queries = self.ranks, self.queries
        if prefill is None:
            seqs = ceil_div(tokens, ranks * queries)
            padded = self.padded[seqs] * queries
            ticks = self.rows[seqs * queries] + self.tokens[padded] + self._decode_host[seqs]
            return max(1, ticks + sum(table[padded * (ranks // dealt)] for dealt, table in self._others))
        seqs, chunks = ceil_div(tokens - prefill.tokens, ranks * queries), ceil_div(prefill.seqs, ranks)
        kernels = self.kernel_ticks(tokens, rows, prefill)
        host = self._mixed_host[seqs] + self._chunk_host * chunks
        eager = self._is_eager(tokens, prefill)
        return max(1, kernels + host + self._eager_host * eager + self._between(kernels, eager))

    def decode_ticks(self, shape: StepShape) -> int:
        """The operators that read the KV of decoding sequences."""
        if shape.decode_seqs == 0:
            return 0
        lines = self.decode_lines(shape.decode_seqs)
        return sum(line_at(line, round(shape.decode_kv[extent] * self.unit)) for line, extent in lines)

    def prefill_ticks(self, prefill: PrefillShape) -> int:
        """Prefill attention; remembered, since prompts of one length recur."""
        ticks = self._prefill_memo.get(prefill)
        if ticks is None:
            seconds = sum(self.prefill_seconds(prefill))
            ticks = round(seconds * TICKS_PER_SECOND)
            if len(self._prefill_memo) < 200_000:
                self._prefill_memo[prefill] = ticks
        return ticks

    def kernel_rows(self, op: Operator, timeline: Timeline) -> tuple[np.ndarray, np.ndarray]:
        """Tokens or rows that the kernels of `op` see in the runs of a timeline: in the batch with the most of those
        that the step is dealt among, and in the mean one (the same array if it is not). Padded to a CUDA graph.
        """
        values, ranks = timeline[op.axis], self.ranks
        if op.axis == "rows":
            return (values, values) if op.dealt == 1 else (ceil_div(values, op.dealt), values / op.dealt)
        if self.host.graph_sizes is None and ranks == 1:
            return values, values
        prompts, chunks = timeline["prefill_tokens"], timeline["prefill_seqs"]
        decoding = chunks == 0
        queries = self.queries
        most = dealt_tokens(values, prompts, chunks, ranks, op.dealt, queries)
        mean = most if ranks == 1 else values / op.dealt
        if self.host.graph_sizes is not None:
            seqs = np.where(decoding, ceil_div(values, ranks * queries), 0).astype(int)
            padded = np.array(self.padded)[seqs] * queries * (ranks // op.dealt)
            most, mean = np.where(decoding, padded, most), np.where(decoding, padded, mean)
        return (most, most) if ranks == 1 else (most, mean)

    def prefill_seconds(self, prefill: PrefillShape) -> list[float]:
        """Seconds of each prefill operator, all layers."""
        prefill = self._most_prefill(prefill)
        if self._prefill_tables is not None:
            return [
                op.count * table.at(prefill) for op, table in zip(self.prefill_ops, self._prefill_tables, strict=True)
            ]
        shape = StepShape(prefill.tokens, 0, 0, (), prefill)
        return [op.count * self.kernel_terms(op, shape).seconds for op in self.prefill_ops]

    def prefill_many(self, op: Operator, chunks: PrefillShape) -> Any:
        """Seconds of one execution of a prefill operator in many steps, by the same function (arrays)."""
        chunks = self._most_prefill(chunks)
        if self._prefill_tables is not None:
            return self._prefill_tables[self.prefill_ops.index(op)].many(chunks)
        return self.kernel_terms(op, StepShape(chunks.tokens, 0, 0, (), chunks)).seconds

    def _most_prefill(self, chunks: PrefillShape) -> PrefillShape:
        if self.ranks == 1:
            return chunks
        dealt = busiest_shape(StepShape(chunks.tokens, 0, 0, (), chunks), self.ranks, self.ranks, self.queries).prefill
        assert dealt is not None
        return dealt

    # --- many steps ---------------------------------------------------------------------------------------------

    def decode_lines(self, seqs: int) -> DecodeLines:
        """The functions f_n of the decode operators for n = `seqs` sequences, each with its extent; none for n = 0.

        What is read is in units of `advance`: tokens if nothing is drafted.
        """
        lines = self._decode_lines[seqs]
        if lines is None:
            knots = [round(seqs * context) * self.unit for context in self._knots]
            most = ceil_div(seqs, self.ranks)  # of a rank, which reads its share of the tokens
            built = [_line(knots, table[most]) for table in self._decode_seconds] if seqs else []
            lines = self._decode_lines[seqs] = tuple(zip(built, self.decode_extents, strict=False))
        return lines

    # --- for bounds ---------------------------------------------------------------------------------------------

    @property
    def token_tables(self) -> list[tuple[int, list[int]]]:
        """Ticks by the tokens of a batch, for each number of batches that a step's rows are dealt among."""
        return [(self.ranks, self.tokens), *self._others]

    @property
    def host_ticks(self) -> HostTicks:
        """What steps with prefill take of the host."""
        return HostTicks(self._mixed_host, self._chunk_host, self._eager_host, self._launch)

    @property
    def context_knots(self) -> np.ndarray:
        """Mean contexts at which `decode_tables` are."""
        return self._knots

    @property
    def decode_tables(self) -> list[np.ndarray]:
        """Seconds of each of `decode_ops`, [sequences of a rank from 0, knots], linear between them."""
        return self._decode_seconds

    @property
    def prefill_tables(self) -> list[PrefillTable | KeyTable] | None:
        """Of each of `prefill_ops`; None where the cost model is asked for every step."""
        return self._prefill_tables

    # --- for people ---------------------------------------------------------------------------------------------

    def operator_seconds(self, op: Operator, shape: StepShape) -> Any:
        """Seconds of `op` in a step, all layers, by the same functions that `step_ticks` uses (scalar shapes)."""
        if op.axis == "prefill" and shape.prefill is not None:
            return self.prefill_seconds(shape.prefill)[self.prefill_ops.index(op)]
        if op.axis != "decode":
            return op.count * self.terms(op, shape).seconds
        if shape.decode_seqs == 0:
            return 0.0
        i = self.decode_ops.index(op)
        line, extent = self.decode_lines(shape.decode_seqs)[i]
        return line_at(line, round(shape.decode_kv[extent] * self.unit)) / TICKS_PER_SECOND

    def terms(self, op: Operator, shape: StepShape) -> OpTime:
        """Seconds and terms of one execution in a step of `shape` (vectorised over it)."""
        return self.kernel_terms(op, busiest_shape(shape, self.ranks, op.dealt, self.queries))

    def kernel_terms(self, op: Operator, shape: StepShape) -> OpTime:
        """Seconds and terms of one execution on the part of a step that comes to one GPU."""
        if isinstance(self.profile, Calibrated):
            whole = self.profile.whole(op)
            if whole is not None:
                return self._block_terms(op, whole, shape)
            time = self.profile.operator_time(op, shape)
        else:
            time = operator_time(op, shape, self.gpu, self.profile)
        if op.beside and self.beside:
            few, least = np.asarray(shape.tokens) <= self.beside, operator_time(op, shape, self.gpu, self._ideal)
            return OpTime(*(np.where(few, low, part)[()] for low, part in zip(least, time, strict=True)))
        if op.routine in self.fused:
            return time._replace(seconds=time.seconds - time.overhead, overhead=0.0 * time.overhead)
        return time

    def _block_terms(self, op: Operator, whole: Whole, shape: StepShape) -> OpTime:
        """Those of an operator that has its time from a whole block's."""
        module, caps = op.module, self.decode_caps if op.axis == "decode" else self.prefill_caps
        assert module is not None
        members = [other for other in self.operators if other.module == module]
        steps, columns = modules.alone(module, op.axis, shape, caps, self.queries)
        # The operators of a block are asked one after the other for the same steps.
        key, asked = (replace(module, block=""), op.axis), (steps[0].tokens, *columns.values())
        same = tuple(np.asarray(value).tobytes() for value in asked)
        if key not in self._block or self._block[key][0] != same:
            launch = self.profile.launch if isinstance(self.profile, Calibrated) else 1.0
            block = modules.estimate(whole, module, op.axis, columns, self.gpu, launch)
            parts = [modules.as_measured(part, whole) for part in modules.others(members, op.axis)]
            known: Any = sum(self.kernel_terms(part, steps[0]).seconds for part in parts)
            self._block[key] = same, block, known
        _, block, known = self._block[key]
        return modules.part_time(op, members, steps, block, known, self.gpu)

    def _extent(self, op: Operator) -> int:
        """The extent that the time of an operator of the axes `decode` and `prefill` is a function of."""
        if isinstance(self.profile, Calibrated) and op.module is not None and self.profile.whole(op) is not None:
            return op.module.extent(op.axis)
        return int(op.dims.extent)

    # --- compiling ----------------------------------------------------------------------------------------------

    def _sum(self, axis: str, values: np.ndarray) -> np.ndarray:
        total = np.zeros(len(values))
        for op in self.operators:
            if op.axis == axis:
                seen = values * (self.ranks // op.dealt)  # several ranks' together, by experts that drafts go through
                shape = StepShape(seen, seen, 0, tuple(0 for _ in self.decode_caps))
                total += op.count * self.kernel_terms(op, shape).seconds
        return total

    def _dealt(self) -> list[int]:
        """Among how many batches token-dependent operators have their rows dealt.

        Raises
        ------
        ValueError : several, and some operators run beside others: the sum over them is no longer their time.
        """
        found = {op.dealt for op in self.operators if op.axis == "tokens"}
        if len(found) > 1 and nx.dag_longest_path_length(self._ordered) + 1 < len(self._ordered):
            raise ValueError("operators run beside others, and see different parts of a step")
        return sorted(found)

    def _longest_path(self, dealt: int) -> np.ndarray:
        """Longest path through the token-dependent operators with rows dealt so, others taking no time.

        Seconds, one per number of tokens from 0 to `max_tokens`, and to what ranks with equally many round it up to.
        """
        ranks = self.graph.layout.attention_data
        every = np.arange(self.max_tokens + 1 + (ranks if ranks > 1 else 0))
        tokens = every if self.ranks <= FEW_RANKS and len(every) <= MOST else _sparser(every)
        shape = StepShape(tokens, 0, 0, tuple(0 for _ in self.decode_caps))
        done: dict[str, np.ndarray] = {}
        end = np.zeros(len(tokens))
        for name in nx.topological_sort(self._ordered):
            op: Operator = self._ordered.nodes[name]["op"]
            start = np.zeros(len(tokens))
            for before in self._ordered.predecessors(name):
                start = np.maximum(start, done[before])
            if op.axis == "tokens" and op.dealt == dealt:
                start = start + op.count * self.kernel_terms(op, shape).seconds
            done[name] = start
            end = np.maximum(end, start)
        return end if tokens is every else np.interp(every, tokens, end)

    def _does(self, op: Operator) -> tuple[Any, ...]:
        """What an operator of the axes `decode` and `prefill` does in any of its layers."""
        ones = tuple(1 for _ in self.decode_caps), tuple(1 for _ in self.prefill_caps)
        work = op.work(StepShape(2, 2, 1, ones[0], PrefillShape(1, 1, ones[1], ones[1])))
        whole = None if op.module is None else replace(op.module, block="")
        return op.axis, op.kind, op.routine, op.dims, op.dtype, op.dealt, whole, work

    def _prefill_table(self, op: Operator, once: dict[tuple[Any, ...], Any]) -> PrefillTable | KeyTable:
        """Seconds of a prefill operator. `once` : those of operators that do the same, by `_does`."""
        assert isinstance(self.profile, Calibrated)

        def seconds(shape: StepShape) -> Any:
            return self.kernel_terms(op, shape).seconds

        extents = len(self.prefill_caps)
        if self._does(op) not in once and isinstance(op.dims, KeyGemm):
            keys = self.max_seqs * self.max_context
            once[self._does(op)] = KeyTable(op.dims.extent, seconds, extents=extents, max_keys=keys)
        elif self._does(op) not in once:
            once[self._does(op)] = PrefillTable(
                op,
                seconds,
                extents=extents,
                max_tokens=self.max_tokens,
                max_seqs=self.max_seqs,
                max_context=self.max_context,
                extent=None if self.profile.whole(op) is None else self._extent(op),
            )
        found: PrefillTable | KeyTable = once[self._does(op)]
        return found

    def _decode_table(self, op: Operator, once: dict[tuple[Any, ...], Any]) -> np.ndarray:
        """Seconds of a decode operator, [sequences of a rank from 0, knots]. `once` : as in `_prefill_table`."""
        seqs = np.arange(self.most_seqs + 1)[:, None]
        read = np.round(seqs * self._knots[None, :])
        rows = seqs * self.queries
        shape = StepShape(rows, rows, seqs, tuple(read for _ in self.decode_caps))
        if self._does(op) not in once:
            once[self._does(op)] = self.kernel_terms(op, shape).seconds
        seconds = np.broadcast_to(op.count * once[self._does(op)], read.shape)
        # Corrections are fitted to measurements, which scatter; reading more KV never takes less time.
        if isinstance(self.profile, Calibrated) and self.profile.whole(op) is not None:
            return modules.rising(seconds)
        return np.maximum.accumulate(seconds, axis=1)


def line_at(line: Line, tokens: int) -> int:
    """Value of a piecewise-linear function, in ticks."""
    knots, values, slopes = line
    j = bisect_right(knots, tokens) - 1
    return values[j] + slopes[j] * (tokens - knots[j])


def line_sum(line: Line, first: int, slope: int, steps: int) -> int:
    """Sum of a piecewise-linear function over `first + slope * t`, t = 0 .. steps - 1, in ticks; exact.

    O(knots crossed), with an arithmetic series between them. `slope` must not be negative.
    """
    knots, values, slopes = line
    j = bisect_right(knots, first) - 1
    last = len(knots) - 1
    if j == last or first + slope * (steps - 1) < knots[j + 1]:  # the common case: all on one line
        b = slopes[j]
        return steps * (values[j] + b * (first - knots[j])) + b * slope * (steps * (steps - 1) // 2)
    done = total = 0
    while done < steps:
        end = steps
        if slope and j < last:
            end = min(steps, -((first - knots[j + 1]) // slope))
        if end > done:
            b = slopes[j]
            total += (end - done) * (values[j] + b * (first - knots[j]))
            total += b * slope * (end * (end - 1) - done * (done - 1)) // 2
            done = end
        j += 1
    return total


def _stream_order(graph: StepGraph) -> nx.DiGraph:
    """The graph with the order of each stream as further edges; checks that what must be serial is.

    Raises
    ------
    ValueError : an operator whose time varies within a macro-step has something running beside it.
    """
    ordered = graph.dag.copy()
    last: dict[str, str] = {}
    names = list(nx.topological_sort(graph.dag))
    for name in names:
        stream = graph.dag.nodes[name]["op"].stream
        if stream in last:
            ordered.add_edge(last[stream], name)
        last[stream] = name
    for name in names:
        if graph.dag.nodes[name]["op"].axis != "tokens":
            related = len(nx.ancestors(ordered, name)) + len(nx.descendants(ordered, name)) + 1
            if related != len(names):
                raise ValueError(f"operator {name} runs beside others, which the closed form of a step does not cover")
    return ordered


def _sparser(counts: np.ndarray) -> np.ndarray:
    """Of the numbers from 0 on: all up to DENSE, then 1/64 of an octave apart, and the last."""
    last = len(counts) - 1
    steps = np.arange(1, max(int(64 * np.log2(max(last / DENSE, 1))) + 1, 1))
    return np.unique(np.concatenate([counts[: DENSE + 1], np.round(DENSE * 2.0 ** (steps / 64)), [last]])).astype(int)


def _context_knots(max_context: int) -> np.ndarray:
    """Mean contexts, in tokens, at which the cost model is evaluated: 0, 1, then a factor 2^(1/4) apart."""
    count = int(np.ceil(4 * np.log2(max(max_context, 2)))) + 1
    return np.unique(np.concatenate([[0.0], np.round(2.0 ** (np.arange(count) / 4))]))


def _ticks(seconds: np.ndarray) -> list[int]:
    return [round(s * TICKS_PER_SECOND) for s in seconds.tolist()]


def _line(knots: list[int], seconds: np.ndarray) -> Line:
    """Whole-number values and slopes through the given points, continuous at the knots. ValueError if they fall."""
    ticks = _ticks(seconds)
    value = ticks[0]
    values, slopes = [], []
    for j in range(len(knots) - 1):
        slope = round((ticks[j + 1] - value) / (knots[j + 1] - knots[j]))
        if slope < 0:
            if ticks[j] - ticks[j + 1] > 1e-9 * ticks[j]:
                raise ValueError("reading more KV must not take less time: the profile is not monotone")
            slope = 0  # the points differ by rounding only, or the slope before was rounded up
        values.append(value)
        slopes.append(slope)
        value += slope * (knots[j + 1] - knots[j])
    values.append(value)
    slopes.append(slopes[-1])
    return knots, values, slopes
