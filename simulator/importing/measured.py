"""Reads any file with a measurement: tells the tool from the content."""

from __future__ import annotations

import json
from pathlib import Path

from hwspecs.errors import InputError
from hwspecs.yamlfile import read_text
from simulator.importing.aiperf import is_aiperf, read_aiperf
from simulator.importing.measurement import Measurement
from simulator.importing.tables import read_measured_table
from simulator.importing.vllmbench import is_vllm_bench, read_vllm_bench
from simulator.result import SCHEMA

EXPECTED = (
    "a serving table or a table with a row a request (.csv, .parquet), a JSON of vllm bench serve, or an export of "
    "AIPerf"
)


def read_measured(path: Path) -> list[Measurement]:
    """The measurements in a file, or in a folder of AIPerf's exports; several rows or runs of one file are several.

    Raises InputError for a file that is none of what is known, or damaged.
    """
    if path.is_dir():
        return [read_aiperf(path)]
    if path.suffix.lower() == ".parquet":
        return read_measured_table(path)
    text = read_text(path).lstrip("\ufeff").lstrip()
    if not text:
        raise InputError("the file is empty", file=path, allowed=EXPECTED)
    if text.startswith("Metric,"):
        return [read_aiperf(path)]
    if not text.startswith(("{", "[")):
        return read_measured_table(path)
    try:
        data = json.loads(text.splitlines()[0]) if path.suffix == ".jsonl" else json.loads(text)
    except json.JSONDecodeError:
        data = None  # several objects, or damaged: its reader says where
    if isinstance(data, dict) and "metadata" in data and path.suffix == ".jsonl":
        return [read_aiperf(path)]
    if isinstance(data, dict) and data.get("schema") == SCHEMA:
        raise InputError("is a result of kinesim, not a measurement", file=path, found=SCHEMA, allowed=EXPECTED)
    if data is None or is_vllm_bench(data):
        return read_vllm_bench(path)
    if is_aiperf(data):
        return [read_aiperf(path)]
    found = ", ".join(map(str, list(data)[:8])) if isinstance(data, dict) else type(data).__name__
    raise InputError("not a measurement", file=path, found=found, allowed=EXPECTED)
