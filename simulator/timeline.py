"""The record of what replicas did: one row a run of alike steps, kept as plain columns.

A row is a macro-step: `steps` consecutive steps of the same sequences (one step where a prefill chunk took part).
Everything that a result says about time, work and energy is computed from these rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.policy import SECONDS_PER_TICK

FIXED_COLUMNS = (
    "replica",
    "start_s",
    "duration_s",
    "steps",
    "tokens",  # of one step
    "rows",  # of one step: sequences that get a token
    "decode_seqs",
    "prefill_tokens",
    "prefill_seqs",
    "kv_blocks",  # in use after scheduling the first step
    "waiting",  # requests queued after scheduling
    "first_step_s",
    "last_step_s",
)
_CHUNK = 8192


def column_names(decode_extents: int, decode_ops: int, prefill_extents: int) -> tuple[str, ...]:
    """All columns, for a StepCost with so many extents and operators.

    `decode_kv_first.E` and `decode_kv_last.E` are the tokens read by decode extent E in the first and last step (linear
    between), `decode_s.O` the seconds of decode operator O over the run, `prefill_pairs.E`, `prefill_kv.E` the prefill
    shape.
    """
    names = list(FIXED_COLUMNS)
    for e in range(decode_extents):
        names += [f"decode_kv_first.{e}", f"decode_kv_last.{e}"]
    names += [f"decode_s.{o}" for o in range(decode_ops)]
    for e in range(prefill_extents):
        names += [f"prefill_pairs.{e}", f"prefill_kv.{e}"]
    return tuple(names)


class Recorder:
    """Collects rows as tuples and packs them into arrays from time to time, so that a million requests fit.

    Times (the columns in seconds) are given in whole ticks and converted when they are packed.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._times = [i for i, name in enumerate(names) if name.partition(".")[0].endswith("_s")]
        self._chunks: list[np.ndarray] = []
        self._rows: list[tuple] = []

    def add(self, row: tuple) -> None:
        rows = self._rows
        rows.append(row)
        if len(rows) >= _CHUNK:
            self._pack()

    def _pack(self) -> None:
        if self._rows:
            chunk = np.array(self._rows, dtype=np.float64)
            chunk[:, self._times] *= SECONDS_PER_TICK
            self._chunks.append(chunk)
            self._rows.clear()

    def finish(self) -> Timeline:
        """The rows as columns; to be called once, since it gives up each chunk as it is copied."""
        self._pack()
        table = np.empty((len(self.names), sum(len(chunk) for chunk in self._chunks)))
        end = table.shape[1]
        while self._chunks:
            chunk = self._chunks.pop()
            table[:, end - len(chunk) : end] = chunk.T
            end -= len(chunk)
        return Timeline(dict(zip(self.names, table, strict=True)))


class Timeline:
    """Columns by name, float64, one entry a run; runs are in the order in which they ended."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self.columns = columns

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            return self.__dict__["columns"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["start_s"])

    def select(self, rows: np.ndarray | Sequence[int] | slice) -> Timeline:
        return Timeline({name: values[rows] for name, values in self.columns.items()})
