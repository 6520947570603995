"""`kinesim import`: other tools' files in; scenarios, tables of requests and a table of measurements out.

Everything is read and checked before anything is written, and no file is replaced unless that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError
from simulator.files import check_writable, replace_file
from simulator.importing.aiperf import read_aiperf
from simulator.importing.assumptions import checkpoint_format
from simulator.importing.measurement import Measurement
from simulator.importing.scenarios import Draft, complete, draft_of
from simulator.importing.served import Served
from simulator.importing.tracestatistics import TraceStatistics, trace_statistics, write_normalised
from simulator.importing.vllmbench import read_vllm_bench
from workloads.model import find_model, load_model
from workloads.scenario import LoadedScenario
from workloads.traces import FORMATS, is_mooncake, read_trace

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "kinesim-import/1"
TABLE = "measured.csv"
TRACES = {"azure": False, "mooncake": True}
"""Kinds of traces, and whether their files are JSONL with hashes."""
REQUEST_TABLE = {
    "arrival_s": "arrival_s", "input_len": "input_len", "output_len": "output_len", "ttft_s": "ttft_ms",
    "tpot_s": "tpot_ms", "e2e_s": "e2e_ms", "session": "session",
}  # fmt: skip
"""Columns of a measurement's requests -> those of the table that is written."""


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes
    ----------
    tool : the kind of file. measurements, drafts : one a run; of a trace no measurement. trace : its figures.
    rows : of the table of measurements. files : what was written, scenarios first. notes : of the whole.
    """

    tool: str
    measurements: tuple[Measurement, ...]
    drafts: tuple[Draft, ...]
    rows: tuple[dict[str, Any], ...]
    files: tuple[Path, ...]
    trace: TraceStatistics | None = None
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """What `--format json` prints."""
        return {
            "schema": SCHEMA,
            "tool": self.tool,
            "files": [str(path) for path in self.files],
            "runs": [
                {
                    "file": str(m.file),
                    "name": m.name,
                    "requests": m.load.requests,
                    "failed": m.load.failed,
                    "input_len": m.load.input_len,
                    "output_len": m.load.output_len,
                    "concurrency": m.load.concurrency,
                    "rate": m.load.rate if m.load.rate is not None and np.isfinite(m.load.rate) else None,
                    "statistics": dict(sorted(m.statistics.items())),
                    "detailed": bool(m.requests),
                    "missing": draft.missing,
                    "notes": list(draft.notes),
                }
                for m, draft in zip(self.measurements, self.drafts, strict=False)
            ],
            "trace": None if self.trace is None else self.trace.document() | {"missing": self.drafts[0].missing},
            "notes": list(self.notes),
        }

    def frame(self) -> pd.DataFrame:
        """The runs as a table: load and statistics, one row a run."""
        import pandas as pd

        runs = self.document()["runs"]
        return pd.DataFrame([{k: v for k, v in run.items() if k != "statistics"} | run["statistics"] for run in runs])


def import_measurements(
    tool: str, files: Sequence[Path], out: Path, served: Served = Served(), *, force: bool = False
) -> Imported:
    """Runs of `vllm-bench` or `aiperf`: a scenario and, where they are known, a table of requests for each, and
    `measured.csv`, a serving table of those that a closed loop of users sent. Raises InputError, with nothing written.
    """
    readers: dict[str, Callable[[Path], list[Measurement]]] = {
        "vllm-bench": read_vllm_bench,
        "aiperf": lambda path: [read_aiperf(path)],
    }
    read = [m for path in files for m in readers[tool](path)]
    measurements = _named_apart(read)
    written: dict[Path, bytes] = {}
    tables: list[Path | None] = []
    for m in measurements:
        known = [name for name in ("input_len", "output_len") if name in m.requests]
        tables.append(out / f"{m.name}-requests.csv" if known else None)
    names = [f"{m.name}.yaml" for m in measurements] + [table.name for table in tables if table] + [TABLE]
    check_writable(out, names)
    _check_free(out, names, force)
    for m, table in zip(measurements, tables, strict=True):
        if table is not None:  # lengths in files are checked when a scenario is loaded
            written[table] = _requests_csv(m)
    drafts = [_drafted(m, served, table, out, written) for m, table in zip(measurements, tables, strict=True)]
    rows: list[dict[str, Any]] = []
    left_out: dict[str, list[str]] = {}
    for m, draft in zip(measurements, drafts, strict=True):
        row, why = serving_row(m, draft.loaded, served.precision)
        rows += [row] if row else []
        if why:
            left_out.setdefault(why, []).append(m.name)
    notes = [f"not in {TABLE}: {', '.join(names)} ({why})" for why, names in left_out.items()]
    scenarios = {
        out / f"{m.name}.yaml": draft.text(f"From {m.file.name}, written by {m.tool}.").encode()
        for m, draft in zip(measurements, drafts, strict=True)
    }
    written = scenarios | written
    if rows:
        written[out / TABLE] = _csv(rows)
    for path, content in written.items():
        replace_file(path, content)
    return Imported(tool, tuple(measurements), tuple(drafts), tuple(rows), tuple(written), notes=tuple(notes))


def _drafted(m: Measurement, served: Served, table: Path | None, out: Path, written: dict[Path, bytes]) -> Draft:
    """The draft, checked beside a temporary copy of the table that its scenario names."""
    if table is None:
        return draft_of(m, served, None, out)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / table.name).write_bytes(written[table])
        return draft_of(m, served, table, Path(folder))


def import_trace(
    kind: str, path: Path, out: Path, served: Served = Served(), *, copy: bool = False, force: bool = False
) -> Imported:
    """A recorded trace (`azure`: CSV, `mooncake`: JSONL): its figures, and a scenario that replays it. `copy` : put the
    trace beside the scenario, a CSV as arrival_s,input_len,output_len. Raises InputError, with nothing written.
    """
    if path.is_file() and not path.stat().st_size:
        raise InputError("is empty", file=path, allowed=FORMATS)
    if is_mooncake(path) != TRACES[kind]:
        other = next(name for name in TRACES if name != kind)
        found = "one JSON object a line" if TRACES[kind] is False else "a CSV"
        raise InputError(f"not a trace of this kind: {found}", file=path, found=kind, allowed=f"{other}; or {FORMATS}")
    trace = read_trace(path)
    name = path.stem
    target = out / f"{name}{path.suffix if TRACES[kind] else '.csv'}"
    names = [f"{name}.yaml", *([target.name] if copy else [])]
    check_writable(out, names)
    _check_free(out, names, force)
    if copy and target.absolute() == path.absolute():
        raise InputError("the copy would replace the trace itself", file=path, place="--out", allowed="another folder")
    workload = {
        "strategy": {"kind": "chat"},
        "arrivals": {"kind": "trace"},
        "trace": {"path": str(path.absolute())},
    }
    draft = complete(name, f"The trace {path.name}: {trace.n:,} requests", workload, {}, served, out, {}, ())
    if copy:
        draft = replace(
            draft, data={**draft.data, "workload": {**draft.data["workload"], "trace": {"path": target.name}}}
        )
    figures = trace_statistics(trace, _context(served, draft.loaded))
    head = f"From {path.name}, a trace."
    written = [out / f"{name}.yaml"]
    if copy and TRACES[kind]:
        replace_file(target, path.read_bytes())
    elif copy:
        write_normalised(trace, target)
    written += [target] if copy else []
    replace_file(written[0], replace(draft, notes=(*draft.notes, *figures.notes)).text(head).encode())
    return Imported(kind, (), (draft,), (), tuple(written), figures, figures.notes)


def _context(served: Served, loaded: LoadedScenario | None) -> int | None:
    """Tokens that a request may have; None where the model is not known."""
    if loaded is not None:
        return loaded.config.engine.max_model_len
    if served.model is None or find_model(served.model) is None:
        return None
    return load_model(served.model).max_context


# ---- tables ----------------------------------------------------------------------------------------------------------


def serving_row(
    m: Measurement, loaded: LoadedScenario | None, precision: str | None = None
) -> tuple[dict[str, Any] | None, str | None]:
    """The measurement as a row of a serving table, or why it cannot be one."""
    if loaded is None:
        return None, "its scenario has something to be filled in"
    config, arrivals = loaded.config, loaded.config.workload.arrivals
    if arrivals is None or arrivals.kind != "closed_loop":
        return None, "a serving table has closed loops of users only"
    if config.replicas > 1 or loaded.pools is not None:
        return None, "a serving table has one engine instance a row"
    if m.load.input_len is None or m.load.output_len is None:
        return None, "its lengths are not known"
    layout, model = config.parallelism, loaded.model
    gpus = layout.tensor * layout.attention_data
    experts = model.moe is not None
    engine = config.engine
    return {
        "gpu": loaded.gpu.name if isinstance(config.gpu, str) else (loaded.gpu.base or loaded.gpu.name),
        "model": model.name,
        "engine": engine.name,
        "precision": precision or checkpoint_format(config.precision.model_dump()),
        "input_len": round(m.load.input_len),
        "output_len": round(m.load.output_len),
        "concurrency": arrivals.concurrency,
        "tp": layout.tensor,
        "pp": layout.pipeline,
        "attention_dp": layout.attention_data,
        "moe_tp": gpus // layout.expert if experts else 1,
        "moe_ep": layout.expert if experts else 1,
        "engine_version": engine.version or "unknown",
        "runs": 1,
        "ttft_ms": _milliseconds(m, "ttft_s.mean"),
        "tpot_ms": _milliseconds(m, "tpot_s.mean"),
    }, None


def _milliseconds(m: Measurement, key: str) -> float | None:
    value = m.statistics.get(key)
    return None if value is None else round(1e3 * value, 4)


def _requests_csv(m: Measurement) -> bytes:
    import pandas as pd

    frame = pd.DataFrame(
        {
            own: m.requests[name] * (1e3 if own.endswith("_ms") else 1.0)
            for name, own in REQUEST_TABLE.items()
            if name in m.requests
        }
    )
    for name in ("input_len", "output_len", "session"):
        if name in frame:
            frame[name] = frame[name].astype(np.int64)
    return frame.round(6).to_csv(index=False).encode()


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    import pandas as pd

    return pd.DataFrame(list(rows)).to_csv(index=False).encode()


def _named_apart(measurements: list[Measurement]) -> list[Measurement]:
    """Measurements whose names, which become files', are all different."""
    taken: dict[str, int] = {}
    found = []
    for m in measurements:
        name = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in m.name) or m.tool
        taken[name] = taken.get(name, 0) + 1
        found.append(replace(m, name=name if taken[name] == 1 else f"{name}-{taken[name]}"))
    return found


def _check_free(out: Path, names: Sequence[str], force: bool) -> None:
    """InputError if a file is there already, which somebody may have filled in."""
    there = [name for name in names if (out / name).exists()]
    if there and not force:
        raise InputError("is there already", file=out / there[0], allowed="another --out, or --force to replace it")
