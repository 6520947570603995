"""The law against the simulation, one assumption lifted a rung: `kinesim law compare`.

`lawgraph`, `stages`, `cases`, `rungs` and `climb` are the costs, `claims`, `measures` and `verdicts` what is left of
the law's conclusions, `survey` both for a scenario, `comparedoc` and `waterfall` how they are shown.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """`ladder.ladder`, loaded with the engine at its first use: verdicts alone do not need it."""
    if name == "ladder":
        return import_module(f"{__name__}.climb").ladder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
