"""Scenario files from measurements and traces: what the file says, what its user says, and what is left to fill in.

What nobody said is written as an empty value with a remark, which `load_scenario` refuses by its place; nothing is
guessed. Assumptions that had to be made are in the file's head and in the answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from hwspecs.validation import validate
from simulator.importing.measurement import Measurement
from simulator.importing.served import Served
from workloads.engine import NO_ENGINE
from workloads.model import find_model, load_model
from workloads.scenario import LoadedScenario, Scenario, load_scenario, with_sets

STEADIEST = 0.01
"""The least coefficient of variation that gaps between arrivals can have in a scenario."""
THROTTLED = 0.95
"""A client that reached less than this share of the rate it was asked for was held up by its limit of concurrency."""


@dataclass(frozen=True)
class Draft:
    """A scenario to be written.

    Attributes
    ----------
    data : the file's content, in order. missing : place -> what is to be filled in there.
    notes : what was assumed. loaded : the scenario as it loads; None while something is missing.
    """

    data: dict[str, Any]
    missing: dict[str, str]
    notes: tuple[str, ...]
    loaded: LoadedScenario | None

    def text(self, head: str) -> str:
        """The YAML file, with `head` and the notes as remarks in front."""
        lines = [f"# {line}".rstrip() for line in (head, *(f"- {note}" for note in self.notes))]
        body = yaml.safe_dump(self.data, sort_keys=False, width=110, allow_unicode=True)
        for line in body.splitlines():
            place = line.partition(":")[0].strip()
            remark = next((what for key, what in self.missing.items() if key.rpartition(".")[2] == place), None)
            if remark is not None and line.endswith((" null", " {}")):
                line = f"{line.removesuffix(' null')}  # MISSING: {remark}"
            lines.append(line)
        return "\n".join(lines) + "\n"


def draft_of(measurement: Measurement, served: Served, table: Path | None, folder: Path) -> Draft:
    """The scenario of a measurement.

    Parameters
    ----------
    table : the file with its requests, in the scenario's folder; None where only statistics are known.
    folder : where the scenario will be, to which its relative paths refer.

    Raises
    ------
    InputError : what the user said cannot be (an unknown GPU, a layout that the model lacks, ...).
    """
    workload, missing, notes = _workload(measurement, table)
    about = f"As measured by {measurement.tool}: {measurement.load.requests:,} requests"
    return complete(measurement.name, about, workload, measurement.facts, served, folder, missing, notes)


def complete(
    name: str,
    about: str,
    workload: dict[str, Any],
    facts: Mapping[str, Any],
    served: Served,
    folder: Path,
    missing: dict[str, str],
    notes: Sequence[str],
) -> Draft:
    """The scenario of a workload on what served it, checked as far as it is complete."""
    notes, missing = list(notes), dict(missing)
    data: dict[str, Any] = {"name": name, "description": about, "gpu": None}
    data["model"] = None if served.model else _model(facts, missing, notes)
    data["engine"] = facts.get("engine")
    data["workload"] = workload
    missing |= {"gpu": "which GPU served? a name of kinesim list gpus, or the path of a GPU's YAML"}
    missing |= {"engine": "which engine served? vllm, sglang or trtllm; none for an ideal one"}
    # As assignments, whose paths of files refer to the current folder.
    said = {"gpu": served.gpu, "model": served.model, "precision": served.precision, "engine": served.engine}
    data = with_sets(data, [*(f"{key}={value}" for key, value in said.items() if value), *served.sets])
    missing = {place: what for place, what in missing.items() if not _filled(data, place)}
    if missing:
        _check_given(data, missing, f"scenario {name}")
    loaded = None if missing else _check(data, folder, name)
    return Draft(data, missing, tuple(notes), loaded)


def _model(facts: Mapping[str, Any], missing: dict[str, str], notes: list[str]) -> str | None:
    named = facts.get("model")
    found = find_model(named) if named else None
    if found is None:
        said = f"the file says {named}, which is not bundled; " if named else ""
        missing["model"] = f"{said}a name of kinesim list models, or the path of a config.json"
    elif found != named:
        notes.append(f"model {named} is taken as {found}")
    return found


def _filled(data: Mapping[str, Any], place: str) -> bool:
    node: Any = data
    for key in place.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return bool(node)


def _check_given(data: dict[str, Any], missing: Mapping[str, str], origin: str) -> None:
    """InputError for what is wrong with what is there, although other things are not."""
    if "gpu" not in missing:
        load_gpu(data["gpu"], origin=origin, place="gpu")
    if "model" not in missing:
        load_model(data["model"], origin=origin, place="model")
    stand_ins: dict[str, Any] = {"gpu": "any", "model": "any", "engine": NO_ENGINE}
    filled = {**data, **{key: value for key, value in stand_ins.items() if key in missing}}
    open_keys = [place.partition(".")[2] for place in missing if place.startswith("workload.")]
    filled["workload"] = {**data["workload"], **{key: 1 for key in open_keys if key.endswith("_tokens")}}
    if "arrivals" in open_keys:
        del filled["workload"]["arrivals"]
    validate(Scenario, filled, file=origin)


def _check(data: dict[str, Any], folder: Path, name: str) -> LoadedScenario:
    """Load it as if it lay in `folder` already; messages name the options, since there is no file yet."""
    moved = _with_paths(data, folder)
    try:
        return load_scenario(moved)
    except InputError as error:
        problem, place = error.problem, error.place
        raise InputError(
            problem, file=f"scenario {name}", place=place, found=error.found, allowed=error.allowed
        ) from None


def _with_paths(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The content with the workload's own relative paths made absolute."""
    workload = dict(data["workload"])
    for key in ("trace", "prompt_tokens", "output_tokens"):
        part = workload.get(key)
        if isinstance(part, Mapping) and isinstance(part.get("path"), str):
            workload[key] = {**part, "path": str((folder / part["path"]).absolute())}
    return {**data, "workload": workload}


# ---- workload --------------------------------------------------------------------------------------------------------


def _workload(measurement: Measurement, table: Path | None) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """The workload, what is missing in it, and what was assumed."""
    load, columns = measurement.load, measurement.requests
    notes, missing = list(measurement.notes), dict[str, str]()
    recorded = table is not None and {"arrival_s", "input_len", "output_len"} <= columns.keys()
    workload: dict[str, Any] = {"strategy": {"kind": "chat"}}
    rate = load.rate if load.rate is not None and math.isfinite(load.rate) else None
    closed = load.concurrency is not None and rate is None
    if recorded and not closed and load.rate != math.inf:
        assert table is not None
        workload |= {"arrivals": {"kind": "trace"}, "trace": {"path": table.name}}
        notes.append("requests are sent when they were sent, as long as they were")
        return workload, missing, notes
    workload["requests"] = load.requests
    workload |= _lengths(measurement, table, missing, notes)
    reached = measurement.statistics.get("requests_per_s")
    if rate is not None and load.concurrency is not None and reached is not None and reached < THROTTLED * rate:
        notes.append(
            f"asked for {rate:g} requests/s and reached {reached:.3g}: the client's limit of concurrency decided, so a "
            f"closed loop of {load.concurrency} is simulated"
        )
        closed = True
    if closed:
        workload["arrivals"] = {"kind": "closed_loop", "concurrency": load.concurrency}
    elif rate is not None:
        workload["arrivals"] = _spread(rate, load.cv, notes)
    elif load.rate == math.inf:
        workload["arrivals"] = {"kind": "all_at_once"}
    else:
        workload["arrivals"] = {}
        missing["workload.arrivals"] = "how were requests sent? such as {kind: closed_loop, concurrency: 32}"
    return workload, missing, notes


def _lengths(measurement: Measurement, table: Path | None, missing: dict[str, str], notes: list[str]) -> dict[str, Any]:
    """Lengths request by request where they are known, else their means."""
    found: dict[str, Any] = {}
    load, constant = measurement.load, []
    for key, column, mean in (
        ("prompt_tokens", "input_len", load.input_len),
        ("output_tokens", "output_len", load.output_len),
    ):
        if table is not None and column in measurement.requests:
            found[key] = {"kind": "table", "path": table.name, "column": column, "order": "in_file"}
        elif mean is not None and mean >= 1:
            found[key] = round(mean)
            constant.append(column)
        else:
            found[key] = None
            missing[f"workload.{key}"] = "tokens; the file does not say"
    if constant and measurement.tool != "serving table":
        notes.append(
            "only mean lengths are known: all requests are taken alike, so prompts of a closed loop queue for each "
            "other; detailed results say each length"
        )
    return found


def _spread(rate: float, cv: float, notes: list[str]) -> dict[str, Any]:
    if cv == 1.0:
        return {"kind": "poisson", "rate": rate}
    if cv < STEADIEST:
        notes.append(f"requests at a constant rate are simulated with gaps that vary by {STEADIEST:.0%}")
    return {"kind": "gamma", "rate": rate, "cv": max(cv, STEADIEST)}
