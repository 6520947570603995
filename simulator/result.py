"""The result of a run: plain arrays and tables from which everything that is shown is computed.

    RESULT/result.json       summary, operators, deployment, the scenario itself (schema in docs/result.md)
    RESULT/requests.parquet  one row a request
    RESULT/timeline.parquet  one row a macro-step
    RESULT/trace.json        the same for https://ui.perfetto.dev (`perfetto`)

The first three are a result without loss: `load_result` gives back an equal one.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError
from hwspecs.yamlfile import read_text
from simulator import law, metrics
from simulator.accounting import operator_totals
from simulator.files import check_writable, replace_file
from simulator.timeline import FIXED_COLUMNS, Timeline

if TYPE_CHECKING:
    from simulator.engine import RunLog
    from simulator.run import Deployment
    from workloads.requests import Requests

SCHEMA = "kinesim-result/1"
FILES = ("requests.parquet", "timeline.parquet", "trace.json", "result.json")
DOCUMENT_KEYS = ("summary", "operators", "deployment", "notes", "timing", "scenario", "gaps")
REQUEST_COLUMNS = (
    "job", "prompt_tokens", "output_tokens", "priority", "session", "accepted", "status", "replica",
    "submitted_s", "first_token_s", "finish_s", "generated", "preemptions", "prefix_hit_tokens",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Result:
    """What a run yields.

    Attributes
    ----------
    scenario : the resolved scenario as plain data; `load_scenario` accepts it again.
    deployment : GPU, model, memory plan, profile: what served and what its times rest on.
    summary : headline metrics, see `metrics.summarise`.
    operators : totals of each operator (`accounting.OperatorTotals` as plain data).
    notes : what a reader must know (assumptions, rejected requests, ...).
    requests : columns of REQUEST_COLUMNS, one entry a request. `status` is a `policy.Status`.
    timeline : one row a macro-step. gaps : interruptions by preemption (request, from, to in seconds).
    timing : seconds of wall clock of the simulation itself and of everything; number of engine events. Not part of
        equality.
    """

    scenario: dict[str, Any]
    deployment: dict[str, Any]
    summary: dict[str, Any]
    operators: list[dict[str, Any]]
    notes: list[str]
    requests: dict[str, np.ndarray]
    timeline: Timeline
    gaps: np.ndarray
    timing: dict[str, float] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Equal to the last bit in everything but `timing`."""
        if not isinstance(other, Result):
            return NotImplemented
        plain_parts = ("scenario", "deployment", "summary", "operators", "notes")
        return (
            all(getattr(self, name) == getattr(other, name) for name in plain_parts)
            and _same_columns(self.requests, other.requests)
            and _same_columns(self.timeline.columns, other.timeline.columns)
            and np.array_equal(self.gaps, other.gaps, equal_nan=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def itl(self) -> np.ndarray:
        """ITL p50, p90, p99 and max of each request in seconds, [requests, 4]."""
        from simulator.latency import request_itl

        r = self.requests
        return request_itl(self.timeline, self.gaps, r["replica"], r["first_token_s"], r["finish_s"], r["generated"])

    def document(self) -> dict[str, Any]:
        """The content of `result.json`."""
        document = {
            "schema": SCHEMA,
            "summary": self.summary,
            "operators": self.operators,
            "deployment": self.deployment,
            "notes": self.notes,
            "timing": self.timing,
            "scenario": self.scenario,
        }
        if self.scenario["workload"]["strategy"]["kind"] == "best_of_n":
            problems = metrics.by_problem(self.requests)
            document["problems"] = {name: [plain(v) for v in values.tolist()] for name, values in problems.items()}
        document["gaps"] = [[plain(v) for v in row] for row in self.gaps.tolist()]
        return document

    def save(self, folder: Path) -> None:
        """Write the four files, each whole or not at all; InputError if the folder cannot be written."""
        from simulator.perfetto import trace_bytes
        from simulator.tables import parquet_bytes

        columns = dict(self.requests)
        itl = self.itl()
        columns |= metrics.request_times(self.requests)
        columns |= {name: itl[:, i] for i, name in enumerate(("itl_p50_s", "itl_p90_s", "itl_p99_s", "itl_max_s"))}
        contents = (
            parquet_bytes(columns),
            parquet_bytes(self.timeline.columns),
            trace_bytes(self),
            json.dumps(self.document(), indent=1, allow_nan=False).encode(),
        )
        check_writable(folder, FILES)
        for name, content in zip(FILES, contents, strict=True):
            replace_file(folder / name, content)


def build_result(deployment: Deployment, requests: Requests, log: RunLog, *, wall_s: float, started: float) -> Result:
    """Assemble the result of a run."""
    import time

    scenario, memory, cost = deployment.scenario, deployment.memory, deployment.cost
    config, gpu, model = scenario.config, scenario.gpu, scenario.model
    columns = {
        "job": requests.job,
        "prompt_tokens": requests.prompt_tokens,
        "output_tokens": requests.output_tokens,
        "priority": requests.priority,
        "session": requests.session,
        "accepted": requests.accepted,
        "status": log.status,
        "replica": log.replica,
        "submitted_s": log.submitted_s,
        "first_token_s": log.first_token_s,
        "finish_s": log.finish_s,
        "generated": log.generated,
        "preemptions": log.preemptions,
        "prefix_hit_tokens": log.prefix_hit_tokens,
    }
    operators = operator_totals(cost, log.timeline)
    dtype = config.precision.activations
    objective = config.objective.model_dump() if config.objective else None
    summary = metrics.summarise(
        columns,
        log.timeline,
        log.gaps,
        operators,
        gpu=gpu,
        dtype=dtype,
        replicas=config.replicas,
        tensor=config.parallelism.tensor,
        kv_blocks=memory.kv_blocks,
        peak_blocks=log.peak_blocks,
        objective=objective,
    )
    ratio = gpu.peak[dtype] / gpu.memory.bandwidth
    law_model = law.LawModel(model.active_parameters, model.q_heads, model.kv_heads, model.head_dim * model.layers)
    kv_bytes = (
        memory.kv_bytes_per_token
        * config.parallelism.tensor
        / (2 * law_model.depth * max(model.kv_heads, config.parallelism.tensor))
    )
    summary["kinetics_law_eflops"] = metrics.law_eflops(columns, law_model, config.attention, ratio, kv_bytes)
    if config.workload.strategy.kind == "best_of_n":
        problems = metrics.by_problem(columns)
        summary["problems"] = {
            "total": len(problems["samples"]),
            "solved": int((problems["accepted"] > 0).sum()),
            "first_accepted_s": metrics.distribution(problems["first_accepted_s"]),
            "last_s": metrics.distribution(problems["last_s"]),
        }
    facts = {
        "gpu": _gpu_facts(gpu, dtype),
        "model": {
            "name": model.name,
            "parameters": model.parameters,
            "active_parameters": model.active_parameters,
            "kv_bytes_per_token": model.kv_bytes_per_token(config.precision.kv),
        },
        "memory": asdict(memory),
        "profile": {
            "name": deployment.profile.name,
            "description": deployment.profile.description,
            "fitted_on": deployment.profile.fitted_on,
        },
    }
    timing = {"wall_s": wall_s, "total_s": time.perf_counter() - started, "events": float(log.events)}
    return Result(
        scenario=scenario.to_dict(),
        deployment=facts,
        summary=plain(summary),
        operators=[plain(asdict(op)) for op in operators],
        notes=_notes(deployment, summary),
        requests=columns,
        timeline=log.timeline,
        gaps=log.gaps,
        timing=timing,
    )


def _gpu_facts(gpu: Any, dtype: str) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "title": gpu.title,
        "status": gpu.status,
        "peak_flops": gpu.peak[dtype],
        "peak_dtype": dtype,
        "memory_bandwidth": gpu.memory.bandwidth,
        "memory_capacity": gpu.memory.capacity,
        "ridge_point": gpu.ridge_point(dtype),
        "tdp_w": gpu.power.tdp,
        "usd_per_hour": gpu.price.usd_per_hour if gpu.price else None,
        "price_date": gpu.price.date if gpu.price else None,
    }


def _notes(deployment: Deployment, summary: dict[str, Any]) -> list[str]:
    """What has to be said beside the numbers."""
    gpu, model = deployment.scenario.gpu, deployment.scenario.model
    notes = []
    if deployment.profile.name == "ideal":
        notes.append("profile ideal: a lower bound on the time, not a prediction")
    else:
        notes.append(f"profile {deployment.profile.name}: not fitted to {gpu.name}; no error interval is known")
    if gpu.status == "announced":
        notes.append(f"{gpu.name} is announced, not measured: its figures are the vendor's promises or estimates")
    if gpu.base is not None:
        notes.append(f"{gpu.name} is hypothetical: {gpu.base} with other figures")
    if model.moe is not None:
        notes.append("experts are assumed to be hit uniformly")
    rejected = summary["requests"]["rejected"]
    if rejected:
        notes.append(
            f"{rejected} requests longer than max_model_len = {deployment.params.max_model_len} tokens "
            "were rejected on arrival"
        )
    preemptions = summary["requests"]["preemptions"]
    if preemptions:
        notes.append(f"KV cache too small for the batch: {preemptions} preemptions; their tokens were computed again")
    if gpu.price is None:
        notes.append(f"{gpu.name} has no price: cost in money is not given")
    return notes


def load_result(folder: Path) -> Result:
    """Reopen a saved result. Raises InputError for a missing, truncated or foreign file, and for another schema
    version.
    """
    path = folder / "result.json" if folder.is_dir() else folder
    text = read_text(path)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"is not valid JSON: {error.msg}", file=path, line=error.lineno) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise InputError(
            "is not a result of this version of kinesim", file=path, place="schema", found=found, allowed=SCHEMA
        )
    absent = [key for key in DOCUMENT_KEYS if key not in document]
    if absent:
        raise InputError("a key is missing", file=path, place=absent[0])
    requests = _columns(path.with_name("requests.parquet"), REQUEST_COLUMNS, document["summary"]["requests"]["total"])
    timeline = _columns(path.with_name("timeline.parquet"), FIXED_COLUMNS, document["summary"]["batch"]["macro_steps"])
    gaps = [[math.nan if v is None else v for v in row] for row in document["gaps"]]
    return Result(
        scenario=document["scenario"],
        deployment=document["deployment"],
        summary=document["summary"],
        operators=document["operators"],
        notes=document["notes"],
        requests={name: requests[name] for name in REQUEST_COLUMNS},
        timeline=Timeline(timeline),
        gaps=np.array(gaps, dtype=float).reshape(-1, 3),
        timing=document["timing"],
    )


def _columns(path: Path, names: tuple[str, ...], rows: int) -> dict[str, np.ndarray]:
    """The columns of one of a result's tables; InputError if it is not of this result."""
    from simulator.tables import read_parquet

    columns = read_parquet(path)
    missing = [name for name in names if name not in columns]
    if missing:
        raise InputError("a column is missing", file=path, place=missing[0])
    found = len(columns[names[0]])
    if found != rows:
        raise InputError(
            "belongs to another run than result.json", file=path, found=f"{found} rows", allowed=f"{rows} rows"
        )
    return columns


def _same_columns(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    def same(x: np.ndarray, y: np.ndarray) -> bool:
        return np.array_equal(x, y, equal_nan=np.issubdtype(x.dtype, np.floating))

    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


def plain(value: Any) -> Any:
    """NumPy scalars to Python's, NaN and infinities to None, recursively: what JSON can hold."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
