"""What the models of measured kernels have in common.

A kernel model gives, for arrays of shapes on a GPU, the `Terms` of its time from first principles, and the
dimensionless `features` from which a profile's learned correction is computed:

    seconds = (latency + (compute^P + memory^P + l2^P + link^P)^(1/P)) x exp(correction(features))

A feature is made of the shape, the number of SMs and the size of the L2 only, never of a rate. So a correction that was
fitted on one GPU can be carried to another by its spec sheet, a quicker part never makes a kernel slower, and twice
all rates halve the time but for its latency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu

Shape = Mapping[str, Any]
"""Shape columns of a table (see DESIGN), each an array of float64 or a number."""
Label = Mapping[str, str]
"""What names a kernel: kernel, dtype, and kv_dtype or op where the kind has them."""
Constants = Mapping[str, float]


class Terms(NamedTuple):
    """Seconds of a kernel's parts: a latency that no rate removes, and what overlaps with one another."""

    latency: Any
    compute: Any
    memory: Any
    l2: Any
    link: Any

    def busy(self, sharpness: float) -> Any:
        """The overlapping parts together: their maximum, rounded off where two are alike (p-norm)."""
        top = np.maximum(np.maximum(self.compute, self.memory), np.maximum(self.l2, self.link))
        safe = np.maximum(top, 1e-300)
        total = sum((part / safe) ** sharpness for part in (self.compute, self.memory, self.l2, self.link))
        return top * total ** (1 / sharpness)

    def seconds(self, sharpness: float) -> Any:
        return self.latency + self.busy(sharpness)


class KernelWork(NamedTuple):
    """What a kernel does, in counts that energy is spent on: FLOPs of useful and padded tiles together, bytes from and
    to HBM, bytes through the L2, and the fraction of the SMs that have work.
    """

    flops: Any
    hbm_bytes: Any
    l2_bytes: Any
    active: Any


TERMS = ("overhead", "compute", "memory", "l2", "link")
"""Names of the terms, in their order, as bounds are called in tables."""


class Constant(NamedTuple):
    """A number of a kernel model that is fitted: where the fit starts, and between what it may end."""

    start: float
    low: float
    high: float


@dataclass(frozen=True)
class KernelModel:
    """The physics of one kind of measured kernel.

    Attributes
    ----------
    kind : as tables are called. columns : the shape columns. labels : the columns that name a kernel.
    constants : what `terms` needs fitted, among them `sharpness`, the exponent P of the overlap.
    terms : (shape, label, gpu, constants) -> Terms in seconds, monotone in every rate of the GPU.
    roof : (shape, label, gpu) -> seconds that no kernel can beat: FLOPs at the dense peak, and bytes at the bandwidth
        of the fastest level that they can come from.
    work : (shape, label, gpu) -> KernelWork.
    features : (shape, label, gpu) -> list of arrays, free of rates. names : what they are called.
    in_graph : the largest values that constants have inside a CUDA graph; what was fitted beyond is the host's.
    named : further keys of a label, read off the kernel's name: `routine` of linear attention, say. What a call asks
        for by such a key is only done by kernels that are of it.
    """

    kind: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    constants: Mapping[str, Constant]
    terms: Callable[[Shape, Label, Gpu, Constants], Terms]
    roof: Callable[[Shape, Label, Gpu], Any]
    work: Callable[[Shape, Label, Gpu], KernelWork]
    features: Callable[[Shape, Label, Gpu], list[Any]]
    names: tuple[str, ...]
    in_graph: Mapping[str, float] = field(default_factory=dict)
    named: Mapping[str, Callable[[str], str]] = field(default_factory=dict)

    def label_of(self, names: Mapping[str, str]) -> dict[str, str]:
        """The label of a row of a table: its `labels`, and what the kernel's name says."""
        label = {name: names[name] for name in self.labels}
        return label | {key: says(label["kernel"]) for key, says in self.named.items()}
