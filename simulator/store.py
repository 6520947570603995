"""Results as files, and back.

    RESULT/result.json       summary, operators, deployment, the scenario itself (schema in docs/result.md)
    RESULT/requests.parquet  one row a request
    RESULT/timeline.parquet  one row a macro-step
    RESULT/trace.json        the same for https://ui.perfetto.dev (`perfetto`)
    RESULT/report.html       the result as a page (`reporting`)

The first three are a result without loss: `load_result` gives back an equal one.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from hwspecs.errors import InputError
from hwspecs.yamlfile import read_text
from simulator import metrics
from simulator.files import check_writable, replace_file
from simulator.perfetto import trace_bytes
from simulator.result import PASSAGE_COLUMNS, REQUEST_COLUMNS, SCHEMA, Result
from simulator.tables import parquet_bytes, read_parquet
from simulator.timeline import FIXED_COLUMNS, Timeline

FILES = ("requests.parquet", "timeline.parquet", "trace.json", "report.html", "result.json")
DOCUMENT_KEYS = ("summary", "operators", "deployment", "notes", "timing", "scenario", "gaps")


def save_result(result: Result, folder: Path) -> None:
    """Write the five files, each whole or not at all. Raises InputError if the folder cannot be written."""
    from simulator.reporting.page import page_bytes

    itl = result.itl()
    columns = result.requests | metrics.request_times(result.requests)
    columns |= {name: itl[:, i] for i, name in enumerate(("itl_p50_s", "itl_p90_s", "itl_p99_s", "itl_max_s"))}
    contents = (
        parquet_bytes(columns),
        parquet_bytes(result.timeline.columns),
        trace_bytes(result),
        page_bytes(result),
        json.dumps(result.document(), indent=1, allow_nan=False).encode(),
    )
    check_writable(folder, FILES)
    for name, content in zip(FILES, contents, strict=True):
        replace_file(folder / name, content)


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
    for key, kind in (("scenario", dict), ("deployment", dict), ("operators", list), ("notes", list), ("timing", dict)):
        if not isinstance(document[key], kind):
            raise _damaged(path, key, document[key])
    try:
        count = document["summary"]["requests"]["total"]
        macro_steps = document["summary"]["batch"]["macro_steps"]
    except (KeyError, TypeError):
        raise _damaged(path, "summary", document["summary"]) from None
    try:
        gaps = np.array([[math.nan if v is None else float(v) for v in row] for row in document["gaps"]])
        gaps = gaps.reshape(len(document["gaps"]), 3)
    except (TypeError, ValueError):
        raise _damaged(path, "gaps", document["gaps"]) from None
    requests = _columns(path.with_name("requests.parquet"), REQUEST_COLUMNS, count)
    timeline = _columns(path.with_name("timeline.parquet"), FIXED_COLUMNS, macro_steps)
    return Result(
        scenario=document["scenario"],
        deployment=document["deployment"],
        summary=document["summary"],
        operators=document["operators"],
        notes=document["notes"],
        requests={name: requests[name] for name in (*REQUEST_COLUMNS, *PASSAGE_COLUMNS) if name in requests},
        timeline=Timeline(timeline),
        gaps=gaps,
        timing=document["timing"],
    )


def _damaged(path: Path, place: str, found: object) -> InputError:
    return InputError("is damaged", file=path, place=place, found=found, allowed="what kinesim run --out wrote")


def _columns(path: Path, names: tuple[str, ...], rows: int) -> dict[str, np.ndarray]:
    """The columns of one of a result's tables; InputError if it is not of this result."""
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
