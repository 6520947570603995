"""The simulator: operator graph, roofline cost, discrete events, result.

As a library, `import simulator as ks`: `ks.scenario`, `ks.run`, `ks.graph`, `ks.step_cost`, `ks.law` and so on, listed
in `__all__`. They are imported when they are first asked for, so that importing this package stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwspecs.errors import InputError
    from hwspecs.gpu import load_gpu
    from simulator import law
    from simulator.api import (
        compare,
        graph,
        list_gpus,
        list_models,
        list_profiles,
        list_scenarios,
        load_result,
        outlook,
        run,
        save_result,
        scenario,
        step_cost,
    )
    from simulator.result import Result
    from workloads.model import load_model
    from workloads.scenario import LoadedScenario

__all__ = [
    "InputError",
    "LoadedScenario",
    "Result",
    "compare",
    "graph",
    "law",
    "list_gpus",
    "list_models",
    "list_profiles",
    "list_scenarios",
    "load_gpu",
    "load_model",
    "load_result",
    "outlook",
    "run",
    "save_result",
    "scenario",
    "step_cost",
]

_ELSEWHERE = {
    "InputError": "hwspecs.errors",
    "LoadedScenario": "workloads.scenario",
    "Result": "simulator.result",
    "load_gpu": "hwspecs.gpu",
    "load_model": "workloads.model",
}
"""Where what is not defined in `simulator.api` is."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "law":
        return import_module("simulator.law")
    value = getattr(import_module(_ELSEWHERE.get(name, "simulator.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
