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
    from simulator.questions import break_even, codesign, plan, whatif
    from simulator.reporting.report import report
    from simulator.result import Result
    from simulator.sweeping.sweep import sweep
    from workloads.model import load_model
    from workloads.scenario import LoadedScenario

__all__ = [
    "InputError",
    "LoadedScenario",
    "Result",
    "break_even",
    "codesign",
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
    "plan",
    "report",
    "run",
    "save_result",
    "scenario",
    "step_cost",
    "sweep",
    "whatif",
]

_ELSEWHERE = {
    "InputError": "hwspecs.errors",
    "LoadedScenario": "workloads.scenario",
    "Result": "simulator.result",
    "break_even": "simulator.questions",
    "codesign": "simulator.questions",
    "load_gpu": "hwspecs.gpu",
    "load_model": "workloads.model",
    "plan": "simulator.questions",
    "report": "simulator.reporting.report",
    "sweep": "simulator.sweeping.sweep",
    "whatif": "simulator.questions",
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
    return sorted(__all__)
