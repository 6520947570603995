"""`kinesim import` and `kinesim compare`: options and printing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulator.clioptions import Format, Formatted, Sets
from simulator.importing.served import Served
from simulator.printing import print_json

app = typer.Typer(name="import", no_args_is_help=True, rich_markup_mode=None)

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="What the tool wrote; several runs at once.")]
TraceFile = Annotated[Path, typer.Argument(metavar="FILE", help="The trace.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the scenarios and tables.")]
Gpu = Annotated[str | None, typer.Option(metavar="NAME", help="Which GPU served: a name or a file.")]
ModelName = Annotated[str | None, typer.Option(metavar="NAME", help="Which model, if the file does not say it.")]
EngineName = Annotated[str | None, typer.Option(metavar="NAME", help="vllm, sglang, trtllm or none.")]
PrecisionName = Annotated[
    str | None, typer.Option(metavar="FORMAT", help="Format of the checkpoint; left out, as it was published.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]
Copy = Annotated[bool, typer.Option("--copy", help="Put the trace beside the scenario.")]
DEFAULT = Path("imported")


def _served(gpu: str | None, model: str | None, engine: str | None, precision: str | None, sets: Sets) -> Served:
    return Served(gpu, model, engine, precision, tuple(sets or ()))


def _runs(tool: str, files: list[Path], out: Path, served: Served, force: bool, output: Format) -> None:
    from simulator.importing.display import show_imported
    from simulator.importing.imports import import_measurements

    imported = import_measurements(tool, files, out, served, force=force)
    if output is Format.json:
        print_json(imported.document())
    else:
        show_imported(imported)


def _trace(kind: str, path: Path, out: Path, served: Served, copy: bool, force: bool, output: Format) -> None:
    from simulator.importing.display import show_imported
    from simulator.importing.imports import import_trace

    imported = import_trace(kind, path, out, served, copy=copy, force=force)
    if output is Format.json:
        print_json(imported.document())
    else:
        show_imported(imported)


@app.command("vllm-bench")
def vllm_bench(
    files: Files,
    out: Out = DEFAULT,
    gpu: Gpu = None,
    model: ModelName = None,
    engine: EngineName = None,
    precision: PrecisionName = None,
    sets: Sets = None,
    force: Force = False,
    output: Formatted = Format.table,
) -> None:
    """The JSON of `vllm bench serve --save-result` (best with --save-detailed): scenarios and measured tables."""
    _runs("vllm-bench", files, out, _served(gpu, model, engine, precision, sets), force, output)


@app.command("aiperf")
def aiperf(
    files: Files,
    out: Out = DEFAULT,
    gpu: Gpu = None,
    model: ModelName = None,
    engine: EngineName = None,
    precision: PrecisionName = None,
    sets: Sets = None,
    force: Force = False,
    output: Formatted = Format.table,
) -> None:
    """The exports of AIPerf, formerly genai-perf (JSON, CSV, JSONL, or their folder): scenarios and measured tables."""
    _runs("aiperf", files, out, _served(gpu, model, engine, precision, sets), force, output)


@app.command("azure")
def azure(
    file: TraceFile,
    out: Out = DEFAULT,
    gpu: Gpu = None,
    model: ModelName = None,
    engine: EngineName = None,
    precision: PrecisionName = None,
    sets: Sets = None,
    copy: Copy = False,
    force: Force = False,
    output: Formatted = Format.table,
) -> None:
    """A trace in CSV, Azure's or with arrival_s,input_len,output_len: what is in it, and a scenario that replays it."""
    _trace("azure", file, out, _served(gpu, model, engine, precision, sets), copy, force, output)


@app.command("mooncake")
def mooncake(
    file: TraceFile,
    out: Out = DEFAULT,
    gpu: Gpu = None,
    model: ModelName = None,
    engine: EngineName = None,
    precision: PrecisionName = None,
    sets: Sets = None,
    copy: Copy = False,
    force: Force = False,
    output: Formatted = Format.table,
) -> None:
    """A trace in Mooncake's JSONL: what is in it, shared prefixes included, and a scenario that replays it."""
    _trace("mooncake", file, out, _served(gpu, model, engine, precision, sets), copy, force, output)


def compare(
    prediction: Annotated[
        str,
        typer.Argument(metavar="RESULT", help="A folder of kinesim run --out, its result.json, or a scenario to run."),
    ],
    measured: Annotated[
        Path,
        typer.Argument(metavar="MEASURED", help="Serving table, requests (.csv, .parquet), vllm bench or AIPerf file."),
    ],
    sets: Sets = None,
    row: Annotated[
        int | None, typer.Option(metavar="N", help="Which row or run of the file; left out, the one that fits.")
    ] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals/--no-intervals", help="Simulate the ends of the 80 % interval, too.")
    ] = True,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: a file ending in .svg or .png.")] = None,
    output: Formatted = Format.table,
) -> None:
    """A measurement of yours beside the prediction: errors, intervals, and where the two are not of the same thing."""
    from simulator.api import compare as compare_both
    from simulator.graphview import picture_format
    from simulator.importing.comparedisplay import show_comparison
    from simulator.progress import progress_bar

    if out is not None:
        picture_format(out)
    with progress_bar("simulating") as progress:
        comparison = compare_both(prediction, measured, sets or [], row=row, intervals=intervals, progress=progress)
    if out is not None:
        comparison.draw(out)
    if output is Format.json:
        print_json(comparison.document())
    else:
        show_comparison(comparison, out)
