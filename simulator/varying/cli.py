"""`kinesim whatif`: options and printing; the answers are `whatif.whatif`, `breakeven` and `codesign`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulator.clioptions import Format, Formatted, Jobs, Sets
from simulator.printing import print_json

if TYPE_CHECKING:
    from simulator.varying.whatif import WhatIf

Scenario = Annotated[str, typer.Argument(metavar="SCENARIO", help="A bundled scenario's name or a YAML file.")]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        "--vary",
        metavar="PATH=VALUES",
        help="Values of a field: 4.8TB/s,9.6TB/s or x0.5,x2 or 2..16 TB/s:log5 or h200-sxm,b200-sxm; again for another "
        "field, and every combination is simulated.",
    ),
]
Against = Annotated[
    list[str] | None,
    typer.Option("--against", metavar="PATH=VALUE", help="Answer for this setting too, such as attention=top_k:1024."),
]
Metrics = Annotated[
    str | None,
    typer.Option("--metrics", metavar="LIST", help="Headline metrics, such as makespan_s,usd_per_solved,ttft_s.p99."),
]


def whatif_command(
    scenario: Scenario,
    vary: Vary = None,
    sets: Sets = None,
    against: Against = None,
    metrics: Metrics = None,
    elasticities: Annotated[
        bool | None,
        typer.Option(
            "--elasticities/--no-elasticities", help="Those to every resource of the GPU; without --vary they are."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it: .svg or .png; or write the table: .csv or .parquet.")
    ] = None,
    jobs: Jobs = None,
    output: Formatted = Format.table,
) -> None:
    """What if a GPU, a model, an engine or a load were otherwise: metrics with intervals.

    Without --vary: which resource of the GPU should grow first, and where operators turn from memory to compute bound.
    """
    from hwspecs.errors import InputError
    from simulator.law.options import check_out
    from simulator.progress import progress_bar
    from simulator.varying.whatif import whatif

    check_out(out)
    lists: dict[str, str] = {}
    for text in vary or []:
        path, equals, values = text.partition("=")
        if not equals or not path.strip():
            allowed = "PATH=VALUES such as gpu.memory.bandwidth=x1,x2"
            raise InputError("not a list of values", file="--vary", found=text, allowed=allowed)
        if path.strip() in lists:
            raise InputError("varied twice", file="--vary", place=path.strip(), allowed="all of its values in one list")
        lists[path.strip()] = values
    keys = None
    if metrics is not None:
        keys = [key.strip() for key in metrics.split(",")]
    with progress_bar("simulating") as progress:
        found = whatif(
            scenario,
            lists or None,
            sets=sets or (),
            against=against or (),
            elasticities=elasticities,
            metrics=keys,
            jobs=jobs,
            progress=progress,
        )
    if out is not None:
        write(found, out)
    if output is Format.json:
        print_json(found.document())
        return
    from simulator.varying.view import show_whatif

    show_whatif(found, out)


def write(found: WhatIf, out: Path) -> None:
    """A picture or a table, by the ending of the file's name."""
    from simulator.tables import SUFFIXES, write_columns
    from simulator.varying.plots import draw_whatif

    if out.suffix.lower() in SUFFIXES:
        frame = found.frame()
        write_columns(out, {str(name): frame[name].to_numpy() for name in frame.columns})
    else:
        draw_whatif(found, out)
