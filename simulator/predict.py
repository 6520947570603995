"""Predictions for tables of kernels: every row's time, interval, power, what bounds it, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from hwspecs.gpu import Gpu, load_gpu
from simulator.fitted import WIDEN, Fitted, band
from simulator.kernels.base import TERMS
from simulator.kernels.registry import MODELS
from simulator.powerreading import power_reading
from simulator.selection import Choice, Library, Selection, bind_label, require


@dataclass(frozen=True)
class Predictions:
    """One entry a row; times in seconds.

    `low` and `high` bound an interval that 80 % of measurements should fall into. `watts` is the board's mean power
    while the kernel repeats (NaN where not modelled). `bound` is a term of `TERMS`, or `host` at a host-side floor.
    `status` is interpolated, extrapolated or transferred.
    """

    seconds: np.ndarray
    low: np.ndarray
    high: np.ndarray
    watts: np.ndarray
    bound: np.ndarray
    profile: np.ndarray
    status: np.ndarray


def predict_kernels(
    kind: str,
    columns: Mapping[str, np.ndarray],
    *,
    profile: str | Fitted | None = None,
    host_floor: bool = True,
    library: Library | None = None,
) -> Predictions:
    """Predict rows of one kind.

    Parameters
    ----------
    columns : gpu, software and the kind's labels (strings), its shape columns (numbers), each [rows].
    profile : use this profile for all rows, whatever their GPU and software.
    library : profiles to choose from, in place of the bundled ones.
    host_floor : whether to include the launch path of those measurements that had it; a CUDA graph has not.

    Raises
    ------
    InputError : an unknown GPU, or no profile for the kind.
    """
    model = MODELS[kind]
    rows = len(columns["gpu"])
    names = ("gpu", "software", *model.labels)
    result = Predictions(
        *(np.full(rows, np.nan) for _ in range(4)),
        *(np.full(rows, "", dtype=object) for _ in range(3)),
    )
    selections: dict[tuple[str, ...], Selection] = {}
    for key, pick in _grouped([columns[name] for name in names], rows):
        software, label = key[1], model.label_of(dict(zip(model.labels, key[2:], strict=True)))
        if key[:2] not in selections:
            selections[key[:2]] = Selection(load_gpu(key[0]), software, profile, library)
        gpu = selections[key[:2]].gpu
        choice = require(selections[key[:2]].choose(kind, label), kind, gpu)
        shape = {name: np.asarray(columns[name], dtype=float)[pick] for name in model.columns}
        _fill(result, pick, kind, shape, label, gpu, software, choice, host_floor)
    return result


def _grouped(columns: list[np.ndarray], rows: int) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """Rows with equal strings in all columns."""
    code = np.zeros(rows, dtype=np.int64)
    for column in columns:
        texts = pa.array(column, type=pa.string()).dictionary_encode()
        code = code * max(len(texts.dictionary), 1) + texts.indices.to_numpy()
    values, code = np.unique(code, return_inverse=True)
    order = np.argsort(code, kind="stable")
    pieces = np.split(order, np.searchsorted(code[order], np.arange(1, len(values))))
    return [(tuple(str(column[piece[0]]) for column in columns), piece) for piece in pieces if len(piece)]


def _fill(
    out: Predictions, pick: np.ndarray, kind: str, shape: dict[str, Any], label: dict[str, str], gpu: Gpu,
    software: str, choice: Choice, host_floor: bool,
) -> None:  # fmt: skip
    group = choice.group
    estimate = group.estimate(shape, gpu, label=bind_label(choice, label))
    seconds = np.asarray(estimate.seconds, dtype=float)
    bound = estimate.bound()
    inside = group.inside(shape)
    low, high = _interval(choice, bound, inside)
    work = MODELS[kind].work(shape, label, gpu)
    out.watts[pick] = power_reading(kind, shape, label, gpu, software, work, seconds)
    names = np.array(TERMS, dtype=object)[bound]
    if host_floor and group.floor and choice.tier != "foreign":
        host = group.host_seconds(shape, gpu)
        names[seconds < host] = "host"
        seconds = np.maximum(seconds, host)
    out.seconds[pick], out.low[pick], out.high[pick] = seconds, seconds * low, seconds * high
    out.bound[pick], out.profile[pick] = names, choice.profile
    out.status[pick] = "transferred" if choice.transferred else np.where(inside, "interpolated", "extrapolated")


def _interval(choice: Choice, bound: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors on the predicted time between which 80 % of measurements should lie."""
    # A carried group's own scatter says nothing of another GPU: the errors of carrying it take its place.
    bands = [choice.carried or band(choice.group.errors, term) for term in range(len(TERMS))]
    low = np.array([b.low for b in bands])[bound]
    high = np.array([b.high for b in bands])[bound]
    wide = np.where(inside, 1.0, WIDEN)
    return np.exp(low * wide), np.exp(high * wide)
