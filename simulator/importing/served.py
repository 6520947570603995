"""What served a measured load, as far as its user says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Served:
    """GPU, model, engine and precision by name or file, None where not said; `sets`, as of `--set`, go last."""

    gpu: str | None = None
    model: str | None = None
    engine: str | None = None
    precision: str | None = None
    sets: Sequence[str] = ()
