"""Operator graphs and step times under the law's own assumptions, which the ladder lifts one by one.

The law knows two things that a step does: it multiplies by the parameters, and it reads the past. Its graph has the
operators of the real one (`simulator.stepgraph`) that read the past in decode, without the activations that they move,
and one more for all the rest: 2 P FLOPs a token and no bytes, since parameters are read by an infinite batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import networkx as nx

from hwspecs.gpu import Gpu
from simulator.cost import OpTime, operator_time
from simulator.operators import Operator, Work
from simulator.policy import SECONDS_PER_TICK
from simulator.shape import StepShape
from simulator.stepcost import StepCost, line_at, line_sum
from simulator.stepgraph import StepGraph

PARAMETERS = "parameters"
"""The operator of a law's graph that stands for everything that does not read the past."""


def reads_past(op: Operator) -> bool:
    """Whether the law counts an operator as attention or as its search: it multiplies with what it reads of the past.

    Choosing among scores is not counted by the law, nor are latent attention's small matrices, which are among P.
    """
    return op.axis == "decode" and op.dtype is not None and op.kind != "mla_bmm"


def law_graph(graph: StepGraph, gpu: Gpu, shared: float = 0.0) -> StepGraph:
    """What the law knows of a step of the model of `graph`, which must be the graph of a single GPU.

    Parameters
    ----------
    gpu : its peak in the fastest of the model's formats is that of all operators, as in the law.
    shared : tokens that each decoding sequence does not read itself, because the law has them read once for all trials
        of a problem: (1 - 1/N) a with dense attention. Only bytes are shared, and only where all of the past is read.
    """
    dtype, params = graph.main_dtype(gpu.peak), graph.model.active_parameters

    def multiply(shape: StepShape) -> Work:
        return Work(flops=2 * params * shape.tokens)

    dag = nx.DiGraph()
    dag.add_node(PARAMETERS, op=Operator(PARAMETERS, "gemm", "tokens", 1, dtype, multiply))
    last = PARAMETERS
    for op in filter(reads_past, graph.operators):
        less = shared if op.dims.cap is None else 0.0
        dag.add_node(op.name, op=replace(op, dtype=dtype, work=_bare(op.work, less), module=None))
        dag.add_edge(last, op.name)
        last = op.name
    return replace(graph, dag=dag, prefill_caps=())


def _bare(work: Callable[[StepShape], Work], shared: float) -> Callable[[StepShape], Work]:
    """The FLOPs and KV bytes of an operator's work, these with `shared` tokens a sequence less."""

    def bare(shape: StepShape) -> Work:
        read = shape._replace(decode_kv=tuple(kv - shared * shape.decode_seqs for kv in shape.decode_kv))
        return Work(flops=work(shape).flops, kv_bytes=work(read).kv_bytes)

    return bare


class AddedCost(StepCost):
    """Steps whose operators take the sum of their compute and their memory time, as the law's cost has it; the roofline
    (`simulator.cost`) has the larger of the two.
    """

    def kernel_terms(self, op: Operator, shape: StepShape) -> OpTime:
        """Seconds and terms of one execution, on a profile without corrections."""
        time = operator_time(op, shape, self.gpu, self._ideal)
        return time._replace(seconds=time.compute + time.memory)


def decode_seconds(cost: StepCost, seqs: int, prompt: int, steps: int) -> dict[str, float]:
    """Seconds of `steps` decode steps of `seqs` sequences side by side, by operator; the first reads prompt + 1 tokens
    of each. `fixed` : the operators that read nothing of the past.

    The same closed form as an engine's macro-steps (`stepcost.line_sum`): exact for the lines of `cost`.
    """
    found = {"fixed": steps * cost.fixed_ticks(seqs * cost.queries, seqs * cost.queries, None) * SECONDS_PER_TICK}
    for op, (line, extent) in zip(cost.decode_ops, cost.decode_lines(seqs), strict=True):
        cap = cost.decode_caps[extent]
        growing = steps if cap is None else min(max(cap - prompt, 0), steps)
        ticks = line_sum(line, seqs * (prompt + 1), seqs, growing) if growing else 0
        if cap is not None:
            ticks += (steps - growing) * line_at(line, seqs * cap)
        found[op.name] = ticks * SECONDS_PER_TICK
    return found
