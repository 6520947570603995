"""The Python API: what `import simulator as ks` offers, thin over the functions that do the work.

Scenarios go in by name, file or mapping; values with pandas views come out. Whatever is wrong with what was given
raises `InputError`, a `ValueError` with one clear message. pandas is imported where a table is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError
from simulator import listing
from simulator.result import Result, plain
from simulator.stepview import Step, Steps
from simulator.store import load_result as _load_result
from simulator.store import save_result as _save_result
from workloads.scenario import LoadedScenario, load_scenario

if TYPE_CHECKING:
    import pandas as pd

    from simulator.importing.comparing import Comparison
    from simulator.outlooks import Outlook

Spec = str | Path | Mapping[str, Any] | LoadedScenario
"""A scenario: a bundled name, the path of a YAML file, a mapping with a file's content, or one that has been loaded."""
Sets = Sequence[str] | Mapping[str, Any]
"""Changes of a scenario: assignments as of `--set`, or a mapping from paths to values."""
Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`."""


def scenario(spec: Spec, sets: Sets = (), **changes: Any) -> LoadedScenario:
    """Read, change and check a scenario.

    Parameters
    ----------
    spec : a bundled name (`list_scenarios`), the path of a YAML file, a mapping with a file's content, or a scenario
        that has been loaded, which is changed as what it was read from would be.
    sets : changes by path: `{"gpu.memory.bandwidth": "9.6 TB/s", "workload.arrivals.rate": 4}`, or assignments as of
        `--set`: `["workload.arrivals.rate=4"]`.
    changes : changes of the scenario's own keys, such as `gpu="b200-sxm"` or `replicas=4`; applied first.

    Raises
    ------
    InputError : whatever is wrong, with file, line and place.
    """
    assigned = [_assignment(key, value) for key, value in changes.items()] + assignments(sets)
    if not isinstance(spec, LoadedScenario):
        return load_scenario(spec, assigned)
    if not assigned:
        return spec
    return load_scenario(spec.to_dict() if spec.given is None else spec.given, assigned)


def assignments(sets: Sets) -> list[str]:
    """The changes as assignments."""
    if isinstance(sets, Mapping):
        return [_assignment(path, value) for path, value in sets.items()]
    return [sets] if isinstance(sets, str) else list(sets)


def _assignment(path: str, value: Any) -> str:
    """`path=value` with the value as YAML."""
    import yaml

    if not isinstance(value, str | bool | int | float | list | tuple | Mapping | None):
        value = value.item() if hasattr(value, "item") else value  # NumPy's scalars
    text = yaml.safe_dump(
        plain(dict(value) if isinstance(value, Mapping) else value),
        default_flow_style=True,
        width=float("inf"),
        sort_keys=False,
    )
    return f"{path}={text.removesuffix(chr(10)).removesuffix('...').strip()}"


def run(spec: Spec, sets: Sets = (), *, progress: Progress | None = None, **changes: Any) -> Result:
    """Simulate a scenario (as of `scenario`). Raises InputError for what is wrong with it or cannot be served."""
    from simulator.running import run_scenario

    return run_scenario(scenario(spec, sets, **changes), progress=progress)


def outlook(spec: Spec, sets: Sets = (), *, progress: Progress | None = None, **changes: Any) -> Outlook:
    """Simulate a scenario, and again at both ends of the 80 % interval of its service times: `.result`, and
    `.intervals()` of every headline metric. Three runs.
    """
    from simulator.outlooks import outlook as _outlook

    return _outlook(scenario(spec, sets, **changes), progress=progress)


def step_cost(spec: Spec, sets: Sets = (), *, phase: str = "decode", **changes: Any) -> Steps:
    """How long the engine steps of a scenario take: `.seconds(batch=, context=)` and `.breakdown(...)` as pandas.

    `phase` : with prefill and decode on workers of their own, those that do such steps.
    """
    return Steps.of(scenario(spec, sets, **changes), phase)


def graph(
    spec: Spec = "aime24-best-of-32",
    sets: Sets = (),
    *,
    phase: str = "decode",
    batch: int | None = None,
    context: int = 8192,
    query: int = 2048,
    past: int = 0,
    prefill_batch: int = 1,
    **changes: Any,
) -> Step:
    """One engine step: the graph of its operators (networkx), a table of them (pandas), and a picture.

    Parameters
    ----------
    phase : decode, prefill or mixed. batch : decoding sequences (64 if left out), of a prefill prompts (1).
    context : tokens that each decoding sequence reads, the new one included. query, past : tokens of each prefill
        chunk, and those in the KV cache before it. prefill_batch : prefill chunks of a mixed step.
    """
    steps = step_cost(spec, sets, phase=phase, **changes)
    if batch is None:
        batch = 1 if phase == "prefill" else 64
    return steps.step(phase=phase, batch=batch, context=context, query=query, past=past, prefill_batch=prefill_batch)


def load_result(folder: str | Path) -> Result:
    """Reopen what `kinesim run --out` or `save_result` wrote. Raises InputError for a damaged or foreign file."""
    return _load_result(Path(folder))


def save_result(result: Result, folder: str | Path) -> None:
    """Write `result.json`, its tables and a trace for Perfetto into a folder. Raises InputError if it cannot be."""
    _save_result(result, Path(folder))


def compare(
    prediction: Result | Spec | str | Path,
    measured: str | Path,
    sets: Sets = (),
    *,
    row: int | None = None,
    intervals: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """A measurement of yours beside the prediction, metric by metric: `.frame()`, `.quantiles()`, `.document()`.

    Parameters
    ----------
    prediction : a result, the folder of a saved one, or a scenario, which is simulated with the changes `sets`.
    measured : a serving table, a JSON of `vllm bench serve`, an export of AIPerf, or a table with a row a request.
    row : of a serving table, counted from 1; left out, the one whose deployment and load are the prediction's.
    intervals : whether to simulate the ends of the 80 % interval too.
    """
    from simulator.importing.comparing import compare_with

    if isinstance(prediction, Result):
        return compare_with(prediction, Path(measured), row=row, intervals=intervals, progress=progress)
    return compare_with(
        _prediction(prediction, sets, progress), Path(measured), row=row, intervals=intervals, progress=progress
    )


def _prediction(spec: Spec, sets: Sets, progress: Progress | None) -> Result:
    """A saved result, or the result of a scenario."""
    if isinstance(spec, str | Path):
        path = Path(spec)
        if path.is_dir() or path.suffix == ".json":
            if sets:
                problem = "a saved result cannot be changed"
                raise InputError(problem, place="sets", found=str(sets), allowed="a scenario, to simulate it anew")
            return load_result(path)
    return run(spec, sets, progress=progress)


def list_gpus() -> pd.DataFrame:
    """The bundled GPUs: dense peaks, memory, link, power and price of each."""
    return _frame(listing.gpus())


def list_models() -> pd.DataFrame:
    """The bundled models: parameters, shape, attention, KV bytes per token."""
    return _frame(listing.models())


def list_scenarios() -> pd.DataFrame:
    """The bundled scenarios."""
    return _frame(listing.scenarios())


def list_profiles() -> pd.DataFrame:
    """The bundled profiles: what they were fitted on, and their held-out errors."""
    return _frame(listing.profiles())


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows).set_index("name")
