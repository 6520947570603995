"""`kinesim whatif`: options and printing; the answers are `whatif.whatif`, `breakeven.break_even`, `codesign.codesign`.

One question a call: what is varied (or, if nothing is, what every resource of the GPU counts), `--break-even`, or
`--budget`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simulator.clioptions import Format, Formatted, Jobs, Sets
from simulator.printing import print_json

if TYPE_CHECKING:
    from collections.abc import Callable

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
    typer.Option(
        "--against",
        metavar="PATH=VALUE",
        help="Answer for this setting too, such as attention=top_k:1024; again for another one.",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option("--metrics", metavar="LIST", help="Headline metrics, such as makespan_s,usd_per_solved,ttft_s.p99."),
]
Elasticities = Annotated[
    bool | None,
    typer.Option(
        "--elasticities/--no-elasticities", help="Those to every resource of the GPU; without --vary they are given."
    ),
]
BreakEvenField = Annotated[
    str | None,
    typer.Option("--break-even", metavar="PATH=LO..HI", help="The value of a field at which --target is met."),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target", metavar="TEXT", help="Of --break-even: METRIC<=VALUE or METRIC<=x0.5; with --like METRIC."
    ),
]
Like = Annotated[
    list[str] | None,
    typer.Option("--like", metavar="PATH=VALUE", help="Of --break-even: as good as with this, such as gpu=b200-sxm."),
]
Tolerance = Annotated[
    float | None, typer.Option("--tolerance", metavar="X", help="Of --break-even: relative width; 0.001 if not given.")
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="FILE",
        help="The GPU that a budget of area, power or price is best spent on (YAML, or bundled).",
    ),
]
Minimise = Annotated[
    str | None, typer.Option("--minimise", metavar="METRIC", help="Of --budget: the metric that the GPU is made for.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Draw it: .svg or .png; or write a table: .csv or .parquet; of --budget .yaml too."
    ),
]


def whatif_command(
    scenario: Scenario,
    vary: Vary = None,
    sets: Sets = None,
    against: Against = None,
    metrics: Metrics = None,
    elasticities: Elasticities = None,
    break_even: BreakEvenField = None,
    target: Target = None,
    like: Like = None,
    tolerance: Tolerance = None,
    budget: Budget = None,
    minimise: Minimise = None,
    out: Out = None,
    jobs: Jobs = None,
    output: Formatted = Format.table,
) -> None:
    """What if a GPU, a model, an engine or a load were otherwise: metrics with intervals.

    Without --vary: which resource of the GPU should grow first, and where operators turn from memory to compute bound.
    """
    from simulator.law.options import check_out

    asked = {"--break-even": break_even, "--budget": budget}
    alone = {"--vary": vary, "--metrics": metrics, "--elasticities": elasticities}
    _one_question(
        asked, alone, {"--target": target, "--like": like, "--tolerance": tolerance}, {"--minimise": minimise}
    )
    check_out(out, *(["yaml"] if budget is not None else []))
    shared: dict[str, Any] = {"sets": sets or (), "against": against or (), "jobs": jobs}
    if break_even is not None:
        from simulator.varying.breakeven import TOLERANCE
        from simulator.varying.breakeven import break_even as meet
        from simulator.varying.breakevenview import show_break_even

        shared["tolerance"] = TOLERANCE if tolerance is None else tolerance
        _answer(
            lambda progress: meet(scenario, break_even, target or "", like or (), progress=progress, **shared),
            show_break_even, "breakevenplot.draw_break_even", out, output,
        )  # fmt: skip
    elif budget is not None:
        from simulator.varying.codesign import codesign
        from simulator.varying.codesignview import show_codesign

        _answer(
            lambda progress: codesign(scenario, budget, minimise=minimise, progress=progress, **shared),
            show_codesign, "codesignplot.draw_codesign", out, output,
        )  # fmt: skip
    else:
        from simulator.varying.view import show_whatif
        from simulator.varying.whatif import whatif

        keys = None
        if metrics is not None:
            keys = [key.strip() for key in metrics.split(",")]
        _answer(
            lambda progress: whatif(
                scenario, vary, elasticities=elasticities, metrics=keys, progress=progress, **shared
            ),
            show_whatif, "plots.draw_whatif", out, output,
        )  # fmt: skip


def _one_question(
    asked: dict[str, Any], alone: dict[str, Any], of_break_even: dict[str, Any], of_budget: dict[str, Any]
) -> None:
    """InputError for options of different questions in one call."""
    from hwspecs.errors import InputError

    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise InputError("two questions in one", file=given[1], found=", ".join(given), allowed="one of them")
    for name, value in alone.items():
        if given and value not in (None, []):
            raise InputError(
                f"does not go with {given[0]}", file=name, allowed=f"{given[0]} alone, or {name} without it"
            )
    for owner, options in (("--break-even", of_break_even), ("--budget", of_budget)):
        for name, value in options.items():
            if value not in (None, []) and given != [owner]:
                raise InputError(f"belongs to {owner}", file=name, found=value, allowed=f"{owner} beside it")


def _answer(
    ask: Callable[[Any], Any], show: Callable[[Any, Path | None], None], drawing: str, out: Path | None, output: Format
) -> None:
    """Find the answer, write what `--out` asks for, print it."""
    from hwspecs.errors import InputError
    from simulator.progress import progress_bar

    with progress_bar("simulating") as progress:
        found = ask(progress)
    failed = None
    if out is not None:
        try:
            _write(found, drawing, out)
        except InputError as error:  # the answer is printed all the same
            failed, out = error, None
    if output is Format.json:
        print_json(found.document())
    else:
        show(found, out)
    if failed is not None:
        raise failed


def _write(found: Any, drawing: str, out: Path) -> None:
    """A picture (by the function `drawing` of this room), a table or a co-design's GPUs, by the ending of the name."""
    from importlib import import_module

    from simulator.tables import SUFFIXES, write_columns

    if out.suffix.lower() in SUFFIXES:
        frame = found.frame()
        write_columns(out, {str(name): frame[name].to_numpy() for name in frame.columns})
    elif out.suffix.lower() == ".yaml":
        from simulator.varying.codesigndoc import write_gpus

        write_gpus(found, out)
    else:
        module, _, function = drawing.partition(".")
        getattr(import_module(f"simulator.varying.{module}"), function)(found, out)
