"""What AIPerf, NVIDIA's successor of genai-perf, exports: statistics (JSON or CSV) and records (JSONL).

Formats as of github.com/ai-dynamo/aiperf at db4f6397d11e (0.1.1: `exporters/json_exporter.py`, `csv_exporter.py`,
`docs/tutorials/working-with-profile-exports.md`) and of its documentation up to 0.13. `profile_export_aiperf.json` has
a block `{unit, avg, p1, ..., p99, min, max, std}` for each metric and the configuration as `input_config`, whose load
is in `loadgen` in older and in `phases` in newer versions; `profile_export_aiperf.csv` has the same blocks without a
configuration; `profile_export.jsonl` has one record a request. genai-perf's JSON has the same blocks.

AIPerf's inter-token latency is a request's mean, (latency - TTFT) / (tokens - 1): that is TPOT here. Its inter-chunk
latency is the ITL.
"""

from __future__ import annotations

import csv
import json
import math
import re
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
)

TOOL = "aiperf"
RECORDS = "profile_export.jsonl"
NAMES = {
    "time_to_first_token": "ttft_s",
    "inter_token_latency": "tpot_s",
    "inter_chunk_latency": "itl_s",
    "request_latency": "e2e_s",
}
SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0}
EXPECTED = f"profile_export_aiperf.json, profile_export_aiperf.csv or {RECORDS} of AIPerf"


def is_aiperf(data: Any) -> bool:
    """Whether parsed JSON looks like its statistics."""
    return isinstance(data, Mapping) and any(
        isinstance(data.get(name), Mapping) and "avg" in data[name] for name in (*NAMES, "request_throughput")
    )


def read_aiperf(path: Path) -> Measurement:
    """The measurement in an export, or in a folder of exports. With the statistics go the records that lie beside
    them. Raises InputError for a file that is something else, or damaged.
    """
    if path.is_dir():
        found = [path / name for name in ("profile_export_aiperf.json", RECORDS, "profile_export_aiperf.csv")]
        path = next((file for file in found if file.is_file()), path)
        if path.is_dir():
            raise InputError("no export of AIPerf in this folder", file=path, allowed=EXPECTED)
    if path.suffix == ".jsonl":
        columns, itl, failed = _records(path)
        return _measurement(path, Document(path, {}), columns, itl, failed)
    if path.suffix == ".csv":
        return _measurement(path, Document(path, _csv_blocks(path)), {}, None, 0)
    text = read_text(path)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"is not valid JSON: {error.msg}", file=path, line=error.lineno, allowed=EXPECTED) from None
    if not is_aiperf(data):
        keys = ", ".join(map(str, list(data)[:8])) if isinstance(data, Mapping) else type(data).__name__
        raise InputError("not an export of AIPerf", file=path, found=keys, allowed=EXPECTED)
    records = path.with_name(RECORDS)
    columns, itl, failed = _records(records) if records.is_file() else ({}, None, 0)
    return _measurement(path, Document(path, data), columns, itl, failed)


def _measurement(
    path: Path, told: Document, columns: dict[str, np.ndarray], itl: np.ndarray | None, failed: int
) -> Measurement:
    statistics = request_statistics(columns)
    if itl is not None and len(itl):
        statistics |= latency_statistics("itl_s", itl)
    for name, latency in NAMES.items():
        statistics |= _block(told, name, latency)
    for name, metric in (("request_throughput", "requests_per_s"), ("output_token_throughput", "output_tokens_per_s")):
        value = told.part(name).number("avg")
        if value is not None:
            statistics[metric] = value
    duration = _block(told, "benchmark_duration", "makespan_s").get("makespan_s.mean")
    if duration is not None:
        statistics["makespan_s"] = duration
    count = told.part("request_count").number("avg")
    if count is None:
        count = len(columns["input_len"]) if columns else None
    if not count:
        raise told.error("no request was answered", "request_count", count, "at least one")
    errors = told.part("error_request_count").number("avg")
    asked = _asked(told)
    load = Load(
        requests=int(count),
        failed=failed if errors is None else int(errors),
        input_len=_length(told, "input_sequence_length", columns.get("input_len")),
        output_len=_length(told, "output_sequence_length", columns.get("output_len")),
        concurrency=asked.get("concurrency"),
        rate=asked.get("rate"),
        cv=asked.get("cv", 1.0),
        known=bool(asked),
    )
    notes = []
    if load.failed:
        notes.append(load.failure_words())
    if told.data.get("was_cancelled") is True:
        notes.append("the run was cancelled before its end")
    if "session" in columns and len(np.unique(columns["session"])) < len(columns["session"]):
        notes.append("requests are turns of sessions; what their prompts share is not in the file and not simulated")
    facts = {"model": asked["model"]} if "model" in asked else {}
    name = path.stem if path.stem not in ("profile_export_aiperf", "profile_export") else path.resolve().parent.name
    return Measurement(path, TOOL, name or "aiperf", load, statistics, columns, facts, tuple(notes))


def _block(told: Document, name: str, latency: str) -> dict[str, float]:
    """A metric's block in seconds, by statistic."""
    part = told.part(name)
    if not part.data:
        return {}
    unit = str(part.data.get("unit", "ms"))
    if unit not in SECONDS:
        raise part.error("unknown unit", "unit", unit, ", ".join(SECONDS))
    found = {}
    for key in part.data:
        if key in ("avg", "max") or re.fullmatch(r"p\d+", str(key)):
            value = part.number(key)
            if value is not None:
                found[f"{latency}.{'mean' if key == 'avg' else key}"] = value * SECONDS[unit]
    return found


def _length(told: Document, name: str, column: np.ndarray | None) -> float | None:
    value = told.part(name).number("avg")
    if value is not None:
        return value
    return None if column is None else float(column.mean())


def _asked(told: Document) -> dict[str, Any]:
    """concurrency, rate, cv and model as far as the configuration says them."""
    config = told.part("input_config")
    found: dict[str, Any] = {}
    phases = config.data.get("phases")
    loads = [config.part("loadgen"), config.part("perf_analyzer").part("stimulus"), config]
    if isinstance(phases, list):
        named = [phase for phase in phases if isinstance(phase, Mapping)]
        profiling = [p for p in named if "profiling" in (p.get("name"), p.get("kind"))] or named[-1:]
        loads = [Document(told.file, phase, "input_config.phases.") for phase in profiling] + loads
    for part in loads:
        concurrency, rate = part.number("concurrency", least=1), part.number("request_rate") or part.number("rate")
        if concurrency is None and not rate:
            continue
        if concurrency is not None:
            found["concurrency"] = int(concurrency)
        if rate:
            found["rate"] = rate
            mode = str(part.data.get("request_rate_mode") or part.data.get("type") or "poisson")
            found["cv"] = 0.0 if mode == "constant" else 1.0
            shape = part.number("smoothness") or part.number("arrival_smoothness")
            if mode == "gamma" and shape:
                found["cv"] = shape**-0.5
        break
    model = _model(config.data)
    return found | ({"model": model} if model else {})


def _model(config: Mapping[str, Any]) -> str | None:
    """The first model that the configuration names, in any of its versions' places."""
    endpoint = config.get("endpoint")
    names = endpoint.get("model_names") if isinstance(endpoint, Mapping) else None
    models = config.get("models")
    items = models.get("items") if isinstance(models, Mapping) else models
    for listed in (names, items, config.get("model_names"), config.get("model")):
        first = listed[0] if isinstance(listed, list) and listed else listed
        if isinstance(first, Mapping):
            first = first.get("name")
        if isinstance(first, str) and first:
            return first
    return None


# ---- records ---------------------------------------------------------------------------------------------------------


def _records(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray | None, int]:
    """Columns of the requests that were answered, all their ITLs, and how many were not."""
    rows: list[dict[str, float]] = []
    sessions: list[str] = []
    gaps: list[float] = []
    failed = 0
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"is not valid JSON: {error.msg}", file=path, line=number, allowed=EXPECTED) from None
        if not isinstance(record, Mapping) or not isinstance(record.get("metadata"), Mapping):
            raise InputError("not a record of AIPerf", file=path, line=number, allowed=EXPECTED)
        metadata = Document(path, record["metadata"], f"line {number}, metadata.")
        if metadata.data.get("benchmark_phase", "profiling") != "profiling":
            continue
        metrics = record.get("metrics")
        if record.get("error") or not isinstance(metrics, Mapping) or "request_latency" not in metrics:
            failed += 1
            continue
        found = Document(path, metrics, f"line {number}, metrics.")
        rows.append(
            {
                "arrival_s": metadata.needed("request_start_ns") / 1e9,
                "input_len": _value(found, "input_sequence_length"),
                "output_len": _value(found, "output_sequence_length"),
                "ttft_s": _seconds(found, "time_to_first_token"),
                "tpot_s": _seconds(found, "inter_token_latency"),
                "e2e_s": _seconds(found, "request_latency"),
            }
        )
        sessions.append(str(metadata.data.get("x_correlation_id") or len(sessions)))
        chunks = found.part("inter_chunk_latency")
        listed = chunks.data.get("value")
        if isinstance(listed, list):
            column = chunks.column("value")
            gaps += [] if column is None else (column * _unit(chunks)).tolist()
    if not rows:
        raise InputError("no request was answered", file=path, found=f"{failed} failed", allowed="at least one")
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    columns["session"] = np.unique(sessions, return_inverse=True)[1]
    columns = in_order({name: values for name, values in columns.items() if not np.isnan(values).all()})
    check_requests(columns, path)
    return columns, np.array(gaps) if gaps else None, failed


def _value(found: Document, name: str) -> float:
    value = found.part(name).number("value")
    return math.nan if value is None else value


def _seconds(found: Document, name: str) -> float:
    part = found.part(name)
    return _value(found, name) * _unit(part) if part.data else math.nan


def _unit(part: Document) -> float:
    unit = str(part.data.get("unit", "ms"))
    if unit not in SECONDS:
        raise part.error("unknown unit", "unit", unit, ", ".join(SECONDS))
    return SECONDS[unit]


# ---- CSV -------------------------------------------------------------------------------------------------------------


def _csv_blocks(path: Path) -> dict[str, dict[str, Any]]:
    """The blocks of the CSV by metric: `Time to First Token (ms)` is time_to_first_token with the unit ms."""
    blocks: dict[str, dict[str, Any]] = {}
    header: list[str] = []
    for number, row in enumerate(csv.reader(read_text(path).splitlines()), 1):
        if not row:
            continue
        if row[0] == "Metric":
            header = ["avg" if name == "Value" else name for name in row[1:]]
            continue
        if not header:
            raise InputError("not an export of AIPerf", file=path, line=number, found=",".join(row), allowed=EXPECTED)
        match = re.fullmatch(r"(.*?)(?: \(([^)]*)\))?", row[0])
        assert match
        block: dict[str, Any] = {"unit": match[2]} if match[2] else {}
        for name, cell in zip(header, row[1:], strict=False):
            if cell.strip():
                try:
                    block[name] = float(cell.replace(",", ""))
                except ValueError:
                    continue  # a time of day, or a metric of another kind
        blocks[match[1].strip().lower().replace(" ", "_")] = block
    if not is_aiperf(blocks):
        raise InputError("not an export of AIPerf", file=path, found=", ".join(blocks) or "nothing", allowed=EXPECTED)
    return blocks
