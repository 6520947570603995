"""The Kinetics law (arXiv 2506.05333) as a library: what a reasoning strategy costs, in closed form and simulated, what
it solves, and which one to choose.

Arrays go in and come out; tables are pandas data frames. pandas and matplotlib are imported where they are needed, and
modules when they are first asked for, so that importing this package stays cheap: `law.law_costs`, `law.frontier` and
so on need no import of their own.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from simulator.law.closedform import LawModel, all_pairs, capped_pairs, law_model

__all__ = ["LawModel", "all_pairs", "capped_pairs", "law_model"]

_LATER = {
    "Grid": "grid", "Parts": "split", "Terms": "grid", "cost_frame": "grid", "crossing": "costs",
    "law_costs": "costs", "load_accuracy": "accuracy", "parts": "split", "priced": "pricing",
    "published_coverage": "published", "published_model": "published", "published_parts": "published",
    "rates": "pricing", "shared_key_bytes": "split", "simulate_strategies": "simulated", "simulated_costs": "simulated",
    "step_weight_bytes": "split",
}  # fmt: skip
"""Where what is imported at its first use is defined. What is called as its module, such as `ladder.ladder`, is not
here."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    if any(module.name == name for module in iter_modules(__path__)):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *(module.name for module in iter_modules(__path__))})
