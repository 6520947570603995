"""The JSON that `vllm bench serve --save-result` writes, and its predecessor `benchmark_serving.py`.

Keys as of vLLM's `vllm/benchmarks/serve.py` at 009e6d4a1cd6 (2026) and of earlier versions, which have fewer. A file is
one JSON object, or with `--append-result` one a line. With `--save-detailed` it has lists with an entry a request:
`input_lens`, `output_lens`, `ttfts`, `itls` (lists), `errors`, in newer versions `start_times` and `latencies`. Times
of requests are in seconds, `*_ms` in milliseconds. A request's TTFT and end-to-end latency count from when it was sent,
without what it waited for the client's own limit of concurrency.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwspecs.errors import InputError
from hwspecs.yamlfile import read_text
from simulator.importing.measurement import (
    Document,
    Load,
    Measurement,
    check_requests,
    in_order,
    latency_statistics,
    request_statistics,
    tpot_of,
)

TOOL = "vllm-bench"
NAMES = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "itl_s", "e2el": "e2e_s"}
ENGINES = {"vllm": "vllm", "sglang": "sglang", "tensorrt-llm": "trtllm"}
"""Backends that are named after the engine they are for; `openai` may be any."""
EXPECTED = "what `vllm bench serve --save-result` writes"


def is_vllm_bench(data: Any) -> bool:
    """Whether parsed JSON looks like one of its results."""
    return isinstance(data, Mapping) and "completed" in data and "duration" in data


def read_vllm_bench(path: Path) -> list[Measurement]:
    """The measurements in a file, one a run. Raises InputError for a file that is something else, or damaged."""
    documents = _documents(path)
    many = len(documents) > 1
    return [_measurement(path, data, f"run {i + 1}: " if many else "", i) for i, data in enumerate(documents)]


def _documents(path: Path) -> list[Any]:
    text = read_text(path)
    try:
        return [json.loads(text)]
    except json.JSONDecodeError as whole:
        try:
            documents = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError:
            documents = []
        if not documents:
            problem = f"is not valid JSON: {whole.msg}"
            raise InputError(problem, file=path, line=whole.lineno, allowed=EXPECTED) from None
        return documents


def _measurement(path: Path, data: Any, place: str, number: int) -> Measurement:
    if not is_vllm_bench(data):
        found = ", ".join(map(str, list(data)[:8])) if isinstance(data, Mapping) else type(data).__name__
        raise InputError(
            "not a result of vllm bench serve", file=path, place=place or None, found=found, allowed=EXPECTED
        )
    told = Document(path, data, place)
    if "total_output_tokens" not in data:
        raise told.error("not a run that generates text", "total_output_tokens", None, "a run of a generating model")
    completed = int(told.needed("completed"))
    if completed < 1:
        raise told.error("no request was answered", "completed", completed, "at least one")
    duration = told.needed("duration", least=1e-9)
    columns, itl, dropped = _requests(told)
    statistics = {
        "makespan_s": duration,
        "requests_per_s": completed / duration,
        "output_tokens_per_s": told.needed("total_output_tokens") / duration,
    }
    statistics |= _latencies(told)
    further = request_statistics(columns)
    if itl is not None:
        further |= latency_statistics("itl_s", itl)
    statistics = {**further, **statistics}  # the tool's own where it says them
    failed = told.number("failed")
    failed = dropped if failed is None else int(failed)
    load = Load(
        requests=completed,
        failed=failed,
        input_len=told.needed("total_input_tokens") / completed,
        output_len=told.needed("total_output_tokens") / completed,
        concurrency=_concurrency(told),
        rate=_rate(told),
        cv=_cv(told),
        known="request_rate" in data or "max_concurrency" in data,
    )
    facts = {}
    if isinstance(data.get("model_id"), str):
        facts["model"] = data["model_id"]
    engine = ENGINES.get(str(data.get("backend") or data.get("endpoint_type")))
    if engine is not None:
        facts["engine"] = engine
    name = path.stem if not place else f"{path.stem}-{number + 1}"
    return Measurement(path, TOOL, name, load, statistics, columns, facts, tuple(_notes(told, load)))


def _latencies(told: Document) -> dict[str, float]:
    """The statistics that the file gives, in seconds. Zero stands for nothing measured (no streaming)."""
    found = {}
    for key in told.data:
        text = str(key).removesuffix("_ms")
        statistic, _, name = text.partition("_")
        if text == key or name not in NAMES:
            continue
        statistic = {"mean": "mean", "median": "p50"}.get(statistic, statistic)
        if statistic != "mean" and not statistic.startswith("p"):
            continue  # the standard deviation
        value = told.number(key)
        if value:
            found[f"{NAMES[name]}.{statistic}"] = value / 1e3
    return found


def _requests(told: Document) -> tuple[dict[str, np.ndarray], np.ndarray | None, int]:
    """Columns of the requests that were answered, all their ITLs, and how many were not; nothing without details."""
    outputs = told.column("output_lens")
    inputs = told.column("input_lens", None if outputs is None else len(outputs))
    if inputs is None or outputs is None:
        return {}, None, 0
    count = len(outputs)
    answered = outputs > 0
    errors = told.data.get("errors")
    if isinstance(errors, list) and len(errors) == count:
        answered &= np.array([not error for error in errors])
    columns = {"input_len": inputs, "output_len": outputs}
    ttft, starts, e2e = (told.column(key, count) for key in ("ttfts", "start_times", "latencies"))
    gaps = told.data.get("itls")
    if not (isinstance(gaps, list) and len(gaps) == count and all(isinstance(g, list) for g in gaps)):
        gaps = None
    itl = None
    if gaps is not None:
        try:
            itl = np.array([gap for own, kept in zip(gaps, answered, strict=True) if kept for gap in own], dtype=float)
            if e2e is None and ttft is not None:
                e2e = ttft + np.array([sum(own) for own in gaps])
        except (TypeError, ValueError):
            raise told.error("not a list of numbers a request", "itls", None, "seconds between outputs") from None
    if ttft is not None:
        columns["ttft_s"] = np.where(ttft > 0, ttft, np.nan)
    if e2e is not None:
        columns["e2e_s"] = e2e
        if ttft is not None:
            columns["tpot_s"] = tpot_of(columns["ttft_s"], e2e, outputs)
    if starts is not None:
        columns["arrival_s"] = starts
    columns = in_order({name: values[answered] for name, values in columns.items()})
    check_requests(columns, told.file)
    return columns, itl, int(count - answered.sum())


def _concurrency(told: Document) -> int | None:
    value = told.number("max_concurrency", least=1)
    return None if value is None else int(value)


def _rate(told: Document) -> float | None:
    """`inf` is written as text."""
    value = told.data.get("request_rate")
    if isinstance(value, str) and value.strip().lower() in ("inf", "infinity"):
        return math.inf
    return told.number("request_rate", least=1e-9) if value != math.inf else math.inf


def _cv(told: Document) -> float:
    """Gaps are gamma distributed with shape `burstiness`, whose coefficient of variation is 1 / sqrt(shape)."""
    value = told.data.get("burstiness")
    if value in (math.inf, "inf", "Infinity"):
        return 0.0
    shape = told.number("burstiness", least=1e-9)
    return 1.0 if shape is None else shape**-0.5


def _notes(told: Document, load: Load) -> list[str]:
    notes = []
    if load.failed:
        notes.append(load.failure_words())
    length = told.number("spec_decode_acceptance_length")
    if length:
        rates = told.data.get("spec_decode_per_position_acceptance_rates") or []
        shown = ", ".join(f"{rate:.3g}" for rate in rates if isinstance(rate, int | float))
        notes.append(
            f"the server drafted tokens (acceptance length {length:.3g}): add speculation: {{method: .., tokens: "
            f"{len(rates) or '..'}, acceptance: [{shown}]}} to the scenario"
        )
    if "ramp_up_strategy" in told.data:
        notes.append("the request rate was ramped up; without recorded start times its mean is taken")
    wait = told.number("mean_client_queue_time_ms")
    if wait and wait > 1 and load.rate is not None and math.isfinite(load.rate):
        notes.append(f"requests waited {wait / 1e3:.3g} s on average for the client's limit of concurrency")
    return notes
