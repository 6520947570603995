"""The command line: one sub-command a question. Only checks options and prints; every answer is a function elsewhere.

Exit codes: 0 success, 1 internal failure, 2 bad input (one message on stderr), 130 interrupted.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hwspecs.errors import InputError
from simulator import lawcli
from simulator.clioptions import Format, Formatted, Jobs, Sets
from simulator.exploring import cli as exploringcli
from simulator.importing import cli as importcli
from simulator.planning import cli as planningcli
from simulator.printing import print_json
from simulator.reporting import cli as reportingcli
from simulator.sweeping import cli as sweepingcli
from simulator.varying import cli as varyingcli

app = typer.Typer(
    name="kinesim",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="What test-time scaling costs on a GPU: a discrete-event simulation with calibrated rooflines.",
)

# click's UsageError, which newer typer releases bring along instead of depending on click.
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]


class Phase(StrEnum):
    """What a step consists of."""

    decode = "decode"
    prefill = "prefill"
    mixed = "mixed"


class Listing(StrEnum):
    """What can be listed."""

    gpus = "gpus"
    models = "models"
    scenarios = "scenarios"
    profiles = "profiles"


def _folder(text: str | Path) -> Path:
    if not str(text).strip():
        raise typer.BadParameter("names no folder; allowed: a writable folder")
    return Path(text)


Predicted = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the rows with their predictions: .csv or .parquet.")
]
TimedBy = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Use this profile for all rows (a name or a file) and not the nearest."),
]
ScenarioName = Annotated[str, typer.Argument(metavar="SCENARIO", help="A bundled scenario's name or a YAML file.")]


@app.callback()
def _main() -> None:
    """Nothing to do before a sub-command, but it makes typer keep the sub-commands' names."""


@app.command()
def run(
    scenario: ScenarioName,
    sets: Sets = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for report.html, result.json, requests.parquet, timeline.parquet, trace.json.",
            parser=_folder,
            metavar="DIR",
        ),
    ] = None,
    output: Formatted = Format.table,
) -> None:
    """Simulate a scenario and say what it costs, where the time goes and what bounds it."""
    from simulator.files import check_writable
    from simulator.progress import progress_bar
    from simulator.running import run_scenario
    from simulator.store import FILES, save_result
    from workloads.scenario import load_scenario

    loaded = load_scenario(scenario, sets or [])
    if out is not None:
        check_writable(out, FILES)
    with progress_bar("simulating") as progress:
        result = run_scenario(loaded, progress=progress)
    unsaved: InputError | None = None
    try:
        if out is not None:
            save_result(result, out)
    except InputError as error:  # a full disk, say: the answer is told all the same
        unsaved = error
    if output is Format.json:
        print_json(result.document())
    else:
        from simulator.display import show_result

        show_result(result, None if unsaved else out)
    if unsaved:
        raise unsaved


@app.command()
def graph(
    scenario: ScenarioName = "aime24-best-of-32",
    sets: Sets = None,
    phase: Annotated[Phase, typer.Option(help="What the step consists of.")] = Phase.decode,
    batch: Annotated[
        int | None, typer.Option(help="Decoding sequences (64 if left out); of a prefill: prompts (1).")
    ] = None,
    context: Annotated[
        int, typer.Option(help="Tokens that each decoding sequence reads, the new one included.")
    ] = 8192,
    query: Annotated[int, typer.Option(help="Tokens of each prefill chunk.")] = 2048,
    past: Annotated[int, typer.Option(help="Tokens in the KV cache before each prefill chunk.")] = 0,
    prefill_batch: Annotated[int, typer.Option(help="Prefill chunks of a mixed step.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Draw it: a file ending in .svg or .png, or .json.")] = None,
    output: Formatted = Format.table,
) -> None:
    """The operators of one engine step: FLOPs, bytes, intensity, time and bound of each. With pools: of a worker that
    does steps of this phase.
    """
    from simulator import graphview
    from simulator.deployment import deploy
    from simulator.display import show_operators
    from simulator.files import replace_file
    from workloads.scenario import load_scenario

    if out is not None and out.suffix != ".json":
        graphview.picture_format(out)
    loaded = load_scenario(scenario, sets or [])
    if loaded.pools is not None:  # the workers that do such steps
        loaded = loaded.pools[phase is not Phase.prefill]
    deployment = deploy(loaded)
    if batch is None:
        batch = 1 if phase is Phase.prefill else 64
    shape = graphview.step_shape(
        deployment.cost,
        phase=phase.value,
        batch=batch,
        context=context,
        query=query,
        past=past,
        prefill_batch=prefill_batch,
    )
    document = graphview.graph_document(deployment.cost, shape)
    if out is not None and out.suffix == ".json":
        replace_file(out, json.dumps(document, indent=1).encode())
    elif out is not None:
        graphview.draw_graph(deployment.cost, shape, out)
    if output is Format.json:
        print_json(document)
    else:
        show_operators(document, out)


@app.command()
def roofline(
    scenario: ScenarioName = "aime24-best-of-32",
    sets: Sets = None,
    batch: Annotated[int, typer.Option(help="Decoding sequences.")] = 64,
    context: Annotated[int, typer.Option(help="Tokens that each of them reads.")] = 8192,
    query: Annotated[int, typer.Option(help="Tokens of the prefill chunk.")] = 2048,
    out: Annotated[Path, typer.Option(help="The picture: a file ending in .svg or .png.")] = Path("roofline.png"),
    output: Formatted = Format.table,
) -> None:
    """The roofline of a GPU with a model's operators on it, of a decode step and of a prefill step. With pools: of a
    decode worker, which could do both.
    """
    from simulator import graphview
    from simulator import roofline as roofs
    from simulator.deployment import deploy
    from simulator.display import show_roofline
    from workloads.scenario import load_scenario

    graphview.picture_format(out)
    loaded = load_scenario(scenario, sets or [])
    cost = deploy(loaded if loaded.pools is None else loaded.pools[1]).cost
    shapes = {
        "decode": graphview.step_shape(cost, phase="decode", batch=batch, context=context),
        "prefill": graphview.step_shape(cost, phase="prefill", batch=1, query=query),
    }
    roofs.draw_roofline(cost, shapes, out)
    document = roofs.roofline_document(cost, shapes)
    if output is Format.json:
        print_json(document)
    else:
        show_roofline(document, out)


validate = typer.Typer(name="validate", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(validate, help="Predictions beside measurements: error tables and figures.")


@validate.command("kernels")
def validate_kernels(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Kernels, measured or not: a .csv or .parquet file.")],
    out: Predicted = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", parser=_folder, help="Draw predicted against measured, and the error along the sizes."
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Use this profile for all rows (a name, or a .npz file) and not the nearest."
        ),
    ] = None,
    output: Formatted = Format.table,
) -> None:
    """Predict every row of a table of kernels, and say how far from the measurements that is."""
    from calibration.validatecommand import validate_kernels

    validate_kernels(table, out=out, plots=plots, profile=profile, as_json=output is Format.json)


@validate.command("layers")
def validate_layers(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Whole layers, measured: a .csv or .parquet file.")],
    out: Predicted = None,
    profile: TimedBy = None,
    output: Formatted = Format.table,
) -> None:
    """Predict whole decode and prefill layers by the sum of their operators, and say how far off that is."""
    from calibration.layervalidation import validate_layers

    validate_layers(table, out=out, profile=profile, as_json=output is Format.json)


@validate.command("serving")
def validate_serving(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Deployments under load: a .csv or .parquet file.")],
    out: Predicted = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", parser=_folder, help="Draw throughput against interactivity, and predicted against measured."
        ),
    ] = None,
    profile: TimedBy = None,
    jobs: Jobs = None,
    output: Formatted = Format.table,
) -> None:
    """Replay every row of a table of deployments through the simulator, and say how far off TTFT and TPOT are."""
    from calibration.servingcommand import validate_serving

    validate_serving(table, out=out, plots=plots, profile=profile, jobs=jobs, as_json=output is Format.json)


calibrate = typer.Typer(name="calibrate", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(calibrate, help="Measurements of a GPU, and profiles from them.")


@calibrate.command("measure")
def measure(
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=_folder, help="Folder for the tables; measurements/<gpu> if not given."),
    ] = None,
    plan: Annotated[
        str, typer.Option(metavar="useful|full|layers|kinetics", help="What is measured, by worth.")
    ] = "useful",
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="Limit of wall clock; 8 of useful and 30 of full if not given.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="TABLE", help="Only this table, such as gemm; may be given again.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which GPU it is, a name or a file; else the driver is asked.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its time; needs no GPU, but then --gpu.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Measure although other processes use the GPU.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what failed.")] = False,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the rows drawn at random for checks.")] = 0,
    output: Formatted = Format.table,
) -> None:
    """Measure this machine's GPU with the microbenchmarks; stopped at any time, the same command goes on."""
    from calibration.measurecommand import measure

    measure(
        out=out,
        kind=plan,
        minutes=minutes,
        only=only or (),
        gpu=gpu,
        dry_run=dry_run,
        force=force,
        retry=retry,
        seed=seed,
        as_json=output is Format.json,
    )


@calibrate.command("fit")
def fit(
    tables: Annotated[
        list[Path], typer.Argument(metavar="TABLE...", help="Measured kernels, one kind each: .csv or .parquet files.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", parser=_folder, help="Folder for the profiles, <gpu>@<software>.npz.")
    ] = Path("profiles"),
    source: Annotated[
        str, typer.Option(metavar="TEXT", help="Where the measurements come from; kept in the profiles.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Which rows and features every tree sees.")] = 0,
    jobs: Jobs = None,
    force: Annotated[bool, typer.Option("--force", help="Replace profiles that are there.")] = False,
    output: Formatted = Format.table,
) -> None:
    """Fit profiles to tables of measured kernels. The same tables and seed give the same files, byte for byte."""
    from calibration.fitcommand import fit

    fit(tables, out=out, source=source, seed=seed, jobs=jobs, force=force, as_json=output is Format.json)


@calibrate.command("kinetics-h200")
def kinetics_h200(
    measured: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measured layers, kinetics.csv or its folder, instead of measuring here."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", parser=_folder, help="Folder for the figures and kinetics.json.")
    ] = Path("kinetics-h200"),
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="Simulate with this profile (a name or a file).")
    ] = None,
    gpu: Annotated[str, typer.Option(metavar="NAME", help="The GPU that is simulated, a name or a file.")] = "h200-sxm",
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="Limit of the measuring; the same command goes on.")
    ] = None,
    output: Formatted = Format.table,
) -> None:
    """The Kinetics paper's experiment: decode with dense and with block top-k attention, measured and simulated.

    With the GPU in this machine it is measured first; without, everything is simulated only.
    """
    from functools import partial

    from calibration.kineticscommand import kinetics, measure_here
    from calibration.measurecommand import check_minutes

    check_minutes(minutes)
    kinetics(
        measured=measured,
        out=out,
        profile=profile,
        gpu=gpu,
        as_json=output is Format.json,
        measure=partial(measure_here, minutes=minutes),
    )


app.add_typer(lawcli.app, help="The Kinetics law: what a reasoning strategy costs, and whether that survives serving.")

app.command("whatif")(varyingcli.whatif_command)
app.command("plan")(planningcli.plan)
app.command("sweep")(sweepingcli.sweep)
app.add_typer(importcli.app, help="Other tools' files in: scenarios, and measured tables.")
app.command("compare")(importcli.compare)
app.command("explore")(exploringcli.explore)
app.command("report")(reportingcli.report)


@app.command("list")
def list_bundled(
    what: Annotated[Listing, typer.Argument(help="What to list.")], output: Formatted = Format.table
) -> None:
    """What is bundled: GPUs, models, scenarios, profiles."""
    from simulator import display, listing

    rows = getattr(listing, what.value)()
    if output is Format.json:
        print_json({"schema": f"kinesim-list-{what.value}/1", what.value: rows})
    else:
        display.show_rows(rows, hide=("title", "domain", "fitted_on", "held_out", "carried_mape"))


@app.command()
def schema(
    what: Annotated[str, typer.Argument(metavar="scenario|gpu|profile", help="Which file's schema.")] = "scenario",
) -> None:
    """The JSON schema of a scenario, of a user's GPU file or of a profile, for editors and validators."""
    from simulator import listing

    print_json(listing.schema(what))


def main() -> None:
    """Entry point: turns errors into one message and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without the characters of a table still gets the numbers
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # when the reader of a pipe goes away, end without a word
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        code = app(standalone_mode=False)
        if code == 130:  # typer's way of passing on Ctrl-C
            raise KeyboardInterrupt
        sys.stdout.flush()
    except InputError as error:
        _fail(error.message(), 2)
    except USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # the help text
            sys.exit(2)
        _fail(" ".join(error.format_message().split()) + _given(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Exception as error:
        import traceback

        traceback.print_exc()
        _fail(f"internal error: {type(error).__name__}: {error}; this is a bug in kinesim", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _given(error: Any) -> str:
    """`; found 'x'` for the option that a usage error is about, where its value can be told from the command line."""
    options = getattr(getattr(error, "param", None), "opts", ())
    for word, following in zip(sys.argv, [*sys.argv[1:], None], strict=True):
        if word in options and following is not None:
            return f"; found {following!r}"
        name, equals, value = word.partition("=")
        if equals and name in options:
            return f"; found {value!r}"
    return ""


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"kinesim: {message}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
