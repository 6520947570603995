"""`kinesim sweep`: options and printing; the answer is in `simulator.sweeping.sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulator.clioptions import Format, Formatted, Sets


def _folder(text: str | Path) -> Path:
    if not str(text).strip():
        raise typer.BadParameter("names no folder; allowed: a writable folder")
    return Path(text)


def sweep(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A sweep file (YAML), or a bundled one's name.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=_folder, help="Folder of the Parquet data set; NAME-sweep if not given."),
    ] = None,
    sets: Sets = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes on this machine; as many as cores if not given.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler that runs already: tcp://10.0.0.1:8786.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How long that scheduler has to answer.")
    ] = 10.0,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Only so many of the combinations, drawn at random, reproducibly.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what failed (not what is invalid).")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the scenarios and say about how long they take; writes nothing.")
    ] = False,
    output: Formatted = Format.table,
) -> None:
    """Simulate a grid of scenarios on all cores or a Dask cluster; stopped at any time, the same command goes on.

    The rows are a Parquet data set, and one that is there is not simulated again unless its scenario or the program has
    changed.
    """
    from simulator.printing import print_json, tell
    from simulator.progress import progress_bar
    from simulator.sweeping import sweep as sweeps
    from simulator.sweeping.display import show_estimate, show_sweep
    from simulator.sweeping.plan import estimate

    if dry_run:
        found = estimate(file, out, sets=sets or (), workers=workers, limit=limit)
        if output is Format.json:
            print_json(found.document())
        else:
            show_estimate(found)
        return
    try:
        with progress_bar("simulating") as progress:
            result = sweeps.sweep(
                file,
                out,
                sets=sets or (),
                workers=workers,
                scheduler=scheduler,
                timeout=timeout,
                limit=limit,
                retry=retry,
                progress=progress,
            )
    except KeyboardInterrupt:
        tell("stopped; what is done is kept, and the same command goes on")
        raise
    if output is Format.json:
        print_json(result.document())
    else:
        show_sweep(result)
