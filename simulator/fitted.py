"""Fitted profiles: what was learned of the kernels of one software stack on one GPU, and how wrong it is.

A profile is a list of groups, one for each kernel and number format that was measured. A group holds the constants of
the kernel's physics (`simulator.kernels`), the trees of its correction, the ranges it was fitted on and the errors
that it made on shapes that were held out. `profilefile` reads and writes them, `selection` picks one for a kernel.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.base import TERMS, Label, Shape, Terms
from simulator.kernels.registry import LATTICE, MODELS
from simulator.trees import CHUNK, Trees

WIDEN = 2.0
"""How much wider an interval is outside of the fitted ranges; a judgement, since nothing is measured there."""
COLD = 1e-3
"""Part of the L2 that is taken to hold operands of an earlier launch where none should be found there."""
MANY = 4 * CHUNK
"""Rows from which on an estimate is made in pieces."""
CAP = math.log(8.0)
"""The largest correction: eight times the physics, or an eighth of it."""


class ErrorBand(NamedTuple):
    """Held-out errors of a regime: 10th and 90th percentile of log(measured / predicted), mean of |error|, and rows."""

    low: float
    high: float
    mape: float
    rows: int


class Estimate(NamedTuple):
    """Times of kernels in seconds, and the parts of the physics times the correction, in the order of `TERMS`."""

    seconds: Any
    terms: Terms

    def bound(self) -> Any:
        """Index into TERMS of the largest part."""
        return np.argmax(np.stack([np.asarray(t, dtype=float) for t in np.broadcast_arrays(*self.terms)]), axis=0)


@dataclass(frozen=True)
class Group:
    """One kernel in one number format, as it was measured under one software on one GPU (on several, if pooled).

    Attributes
    ----------
    kind : of the kernel model. label : kernel, dtype and so on. constants : of the physics. trees : of the correction.
    ranges : smallest and largest value of each shape column in the fitted rows. lattice : sorted measured values of the
        columns between which corrections are interpolated.
    floor : seconds below which the measurement's host side never got (0: none); not part of the kernel. host : of the
        logarithm of how much longer the host took, by shape.
    rows : that it was fitted on. errors : by the name of the term that bounds a kernel, and `all`.
    """

    kind: str
    label: Mapping[str, str]
    constants: Mapping[str, float]
    trees: Trees
    ranges: Mapping[str, tuple[float, float]]
    lattice: Mapping[str, np.ndarray]
    floor: float
    rows: int
    errors: Mapping[str, ErrorBand]
    host: Trees | None = None
    _tables: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def estimate(
        self,
        shape: Shape,
        gpu: Gpu,
        *,
        label: Label | None = None,
        lookup: Shape | None = None,
        cold: bool = False,
        launch: float = 1.0,
    ) -> Estimate:
        """Times of the kernel itself, without a host-side floor, for arrays of shapes.

        label : of the kernel that a pooled group stands for. lookup : columns to take the correction at in place of
        those of `shape`. cold : operands come from HBM, as in a step that touches more than the L2 holds, and not from
        what the last repetition of a benchmark left there. launch : factor on the latency term.
        """
        constants = self.constants
        if cold:
            # In a CUDA graph no launch takes longer than this: more is the host of the benchmark.
            most = MODELS[self.kind].in_graph
            constants = {k: min(v, most[k]) if k in most else v for k, v in constants.items()}
            if "resident" in constants:
                constants["resident"] = COLD
        label = label or self.label
        rows = max((len(column) for column in shape.values() if np.ndim(column) == 1), default=1)
        if rows > MANY and all(np.ndim(column) < 2 for column in shape.values()):
            return self._in_chunks(rows, shape, gpu, label, lookup, cold, launch)
        terms = MODELS[self.kind].terms(shape, label, gpu, constants)
        if launch != 1:
            terms = terms._replace(latency=launch * terms.latency)
        factor = np.exp(self.correction({**shape, **(lookup or {})}, gpu, label))
        roof = MODELS[self.kind].roof(shape, label, gpu)
        seconds = terms.seconds(constants["sharpness"]) * factor
        return Estimate(np.maximum(seconds, roof), Terms(*(part * factor for part in terms)))

    def _in_chunks(
        self, rows: int, shape: Shape, gpu: Gpu, label: Label, lookup: Shape | None, cold: bool, launch: float
    ) -> Estimate:
        """The same for many rows: in pieces that fit into a core's cache, on all cores (NumPy lets threads run)."""

        def piece(start: int) -> Estimate:
            def cut(columns: Shape | None) -> dict[str, Any]:
                pick = slice(start, start + CHUNK)
                return {n: c[pick] if np.ndim(c) and len(c) == rows else c for n, c in (columns or {}).items()}

            return self.estimate(cut(shape), gpu, label=label, lookup=cut(lookup), cold=cold, launch=launch)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pieces = list(pool.map(piece, range(0, rows, CHUNK)))

        def joined(parts: list[Any], seconds: list[Any]) -> np.ndarray:
            sizes = [np.shape(s) for s in seconds]
            return np.concatenate([np.broadcast_to(p, size) for p, size in zip(parts, sizes, strict=True)])

        seconds = [p.seconds for p in pieces]
        terms = Terms(*(joined([p.terms[i] for p in pieces], seconds) for i in range(len(TERMS))))
        return Estimate(np.concatenate(seconds), terms)

    def host_seconds(self, shape: Shape, gpu: Gpu) -> Any:
        """What the host took in the measurement, at the least, for arrays of shapes: 0 without a floor."""
        if not self.floor:
            return 0.0
        longer = 0.0 if self.host is None else self._at(self._within(shape), gpu, self.label, self.host)
        return self.floor * np.exp(longer)

    def inside(self, shape: Shape) -> Any:
        """Whether shapes lie within the fitted ranges."""
        checks = [
            (np.asarray(shape[name]) >= low) & (np.asarray(shape[name]) <= high)
            for name, (low, high) in self.ranges.items()
        ]
        return np.logical_and.reduce(np.broadcast_arrays(*checks))

    def correction(self, shape: Shape, gpu: Gpu, label: Label | None = None) -> Any:
        """Log of measured over modelled time, at most CAP; interpolated between lattice values.

        label : of the kernel that a pooled group stands for, whose features it was fitted to.
        """
        shape, label = self._within(shape), label or self.label
        axes = [name for name in LATTICE[self.kind] if len(self.lattice.get(name, ())) > 1]
        if not axes:
            return self._at(shape, gpu, label)
        others = [name for name in shape if name not in axes]
        if all(np.ndim(shape[name]) == 0 for name in others):
            return self._interpolated(shape, axes, gpu, label)
        return self._corners(shape, axes, gpu, label)

    def _within(self, shape: Shape) -> dict[str, Any]:
        """The shape, moved to the edge of the fitted ranges: beyond it the correction stays and the physics goes on."""
        return {name: np.clip(np.asarray(shape[name], dtype=float), *self.ranges[name]) for name in self.ranges}

    def _at(self, shape: Mapping[str, Any], gpu: Gpu, label: Label, trees: Trees | None = None) -> Any:
        """The trees' value at these very shapes."""
        arrays = np.broadcast_arrays(*shape.values())
        flat = dict(zip(shape, (a.reshape(-1) for a in arrays), strict=True))
        size = arrays[0].size
        features = MODELS[self.kind].features(flat, label, gpu)
        matrix = np.empty((len(features), size), dtype=np.float32)
        for row, values in zip(matrix, features, strict=True):
            row[:] = values
        return np.clip((trees or self.trees)(matrix), -CAP, CAP).reshape(arrays[0].shape)

    def _corners(self, shape: Mapping[str, Any], axes: list[str], gpu: Gpu, label: Label) -> Any:
        """Interpolation row by row: the trees at the lattice points around each."""
        arrays = dict(zip(shape, np.broadcast_arrays(*shape.values()), strict=True))
        total: Any = 0.0
        for corner in range(1 << len(axes)):
            at, weight = dict(arrays), np.ones(arrays[axes[0]].shape)
            for bit, name in enumerate(axes):
                lower, part = _cell(self.lattice[name], arrays[name])
                upper = corner >> bit & 1
                at[name] = self.lattice[name][lower + upper]
                weight = weight * (part if upper else 1 - part)
            used = weight > 0
            value = np.zeros(weight.shape)
            if used.any():
                value[used] = self._at({name: column[used] for name, column in at.items()}, gpu, label)
            total = total + weight * value
        return total

    def _interpolated(self, shape: Mapping[str, Any], axes: list[str], gpu: Gpu, label: Label) -> Any:
        """Interpolation in a table over the whole lattice, made once for these heads, widths and GPU."""
        others = tuple(sorted((name, float(value)) for name, value in shape.items() if name not in axes))
        key = (others, gpu.architecture, gpu.sms, gpu.l2.size, *label.values())
        table = self._tables.get(key)
        if table is None:
            grid = np.meshgrid(*(self.lattice[name] for name in axes), indexing="ij")
            table = self._at(dict(others) | dict(zip(axes, grid, strict=True)), gpu, label)
            self._tables[key] = table
        cells = [_cell(self.lattice[name], shape[name]) for name in axes]
        total: Any = 0.0
        for corner in range(1 << len(axes)):
            index, weight = [], 1.0
            for bit, (lower, part) in enumerate(cells):
                upper = corner >> bit & 1
                index.append(lower + upper)
                weight = weight * (part if upper else 1 - part)
            total = total + weight * table[tuple(index)]
        return total


def _cell(values: np.ndarray, at: Any) -> tuple[Any, Any]:
    """Which interval of the sorted `values` a number lies in, and how far along it in the logarithm, 0 to 1."""
    lower = np.clip(np.searchsorted(values, at, side="right") - 1, 0, len(values) - 2)
    low, high = values[lower], values[lower + 1]
    if values[0] == 0:  # no past, say
        at, low, high = np.asarray(at) + 1.0, low + 1.0, high + 1.0
    return lower, np.clip(np.log(np.asarray(at) / low) / np.log(high / low), 0.0, 1.0)


@dataclass(frozen=True)
class Fitted:
    """A fitted profile: `gpu@software`, or `transfer`, which pools all GPUs.

    Attributes
    ----------
    name, description, fitted_on : for people. gpu, software : where it was measured; `gpu` is empty if pooled.
    groups : in the order of the file.
    carried : by kind, the errors that profiles make when they are carried to another GPU: `sibling` of the same
        architecture, `foreign` of none that was fitted on (in `transfer` only).
    """

    name: str
    description: str
    fitted_on: str
    gpu: str
    software: str
    groups: tuple[Group, ...]
    carried: Mapping[str, Mapping[str, ErrorBand]] = field(default_factory=dict)


def band(errors: Mapping[str, ErrorBand], term: int) -> ErrorBand:
    """The errors of a regime, or of all if too few rows were in it."""
    return errors.get(TERMS[term], errors["all"])
