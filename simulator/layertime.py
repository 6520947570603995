"""Seconds of one decoder layer, operator by operator, as a step's cost has them.

The operators and their times are those of `StepCost`, evaluated at the very shape of the layer: `StepCost` takes those
of decode attention at contexts a factor 2^(1/4) apart and joins them by lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu
from simulator.calibrated import Calibrated
from simulator.cost import BOUNDS, OpTime, check_operators, operator_time
from simulator.layers import LayerCase, is_attention, layer_graph, layer_operators, layer_shape
from simulator.operators import Operator, Work
from simulator.profile import Profile
from simulator.shape import StepShape


@dataclass(frozen=True)
class LayerTime:
    """What a layer takes: for every operator, in the order in which they run, its time and its work."""

    operators: Mapping[str, OpTime]
    work: Mapping[str, Work]

    @property
    def seconds(self) -> float:
        """The whole layer: its operators run one after the other."""
        return sum(float(time.seconds) for time in self.operators.values())

    @property
    def attention_seconds(self) -> float:
        """The operators that find or read the past."""
        return sum(float(time.seconds) for name, time in self.operators.items() if is_attention(name))

    @property
    def attention_bytes(self) -> float:
        """Bytes of K, V and page summaries that they read or write."""
        return sum(float(work.kv_bytes) for name, work in self.work.items() if is_attention(name))

    @property
    def bound(self) -> str:
        """What most of the time is spent on."""
        spent = dict.fromkeys(BOUNDS, 0.0)
        for time in self.operators.values():
            spent[BOUNDS[int(time.bound())]] += float(time.seconds)
        return max(spent, key=lambda name: spent[name])


def layer_time(case: LayerCase, gpu: Gpu, profile: Profile | Calibrated) -> LayerTime:
    """Time one layer on `gpu`.

    Raises
    ------
    InputError : the GPU does not compute in a format of the case.
    """
    shape, found = _layer(case)
    try:
        check_operators(found, gpu)
    except InputError as error:
        raise InputError(error.problem, place="dtype", found=error.found, allowed=error.allowed) from None

    def time(op: Operator) -> OpTime:
        if isinstance(profile, Calibrated):
            return profile.operator_time(op, shape)
        return operator_time(op, shape, gpu, profile)

    return LayerTime({op.name: time(op) for op in found}, {op.name: op.work(shape) for op in found})


@lru_cache(maxsize=4096)
def _layer(case: LayerCase) -> tuple[StepShape, list[Operator]]:
    graph = layer_graph(case)
    shape = layer_shape(case, graph)
    return shape, layer_operators(graph, shape)
