"""The Kinetics law (arXiv 2506.05333) as a library: what a reasoning strategy costs, in closed form and simulated, what
it solves, and which one to choose.

Arrays go in and come out; tables are pandas data frames. pandas and matplotlib are imported where they are needed, and
modules when they are first asked for, so that importing this package stays cheap: `law.law_costs`, `law.frontier` and
so on need no import of their own.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from simulator.law.closedform import LawModel, all_pairs, capped_pairs, law_model

__all__ = ["LawModel", "all_pairs", "capped_pairs", "law_model"]

_LATER = {
    "Grid": "grid", "Parts": "split", "Terms": "grid", "cost_frame": "grid", "crossing": "costs",
    "law_costs": "costs", "load_accuracy": "accuracy.sources", "parts": "split", "priced": "pricing",
    "published_coverage": "published", "published_model": "published", "published_parts": "published",
    "rates": "pricing", "shared_key_bytes": "split", "simulate_strategies": "serving.simulated",
    "simulated_costs": "serving.simulated", "step_weight_bytes": "split",
}  # fmt: skip
"""Where what is imported at its first use is defined. What is called as its module, such as `ladder.ladder`, is not
here."""


@cache
def _modules() -> dict[str, str]:
    """Name -> place below this package, of its modules and, by their own names, of those of its sub-packages."""
    places: dict[str, str] = {}
    for module in iter_modules(__path__):
        inside = iter_modules([f"{__path__[0]}/{module.name}"]) if module.ispkg else ()
        places |= {other.name: f"{module.name}.{other.name}" for other in inside}
    return places | {module.name: module.name for module in iter_modules(__path__)}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    if name in (modules := _modules()):
        return import_module(f"{__name__}.{modules[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_modules()})
