"""`kinesim validate serving`: reads a table, replays it, compares, prints and writes. Called by the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calibration.errortables import WEAK, console_of, percent, plain_table
from calibration.layervalidation import asked_profile
from calibration.servingerrors import DEPLOYMENT, METRICS, document, write_serving
from calibration.servingreplay import replay
from calibration.servingtables import ServingTable, read_serving
from calibration.validation import check_output
from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.files import check_writable
from simulator.printing import print_json
from simulator.progress import progress_bar

FEW = 20
"""Groups of fewer rows are not called weak."""


def validate_serving(
    table: Path,
    *,
    out: Path | None = None,
    plots: Path | None = None,
    profile: str | None = None,
    jobs: int | None = None,
    as_json: bool = False,
) -> None:
    """Replay every row of `table`; print error tables, write predictions to `out` and figures into the folder `plots`.

    Nothing is written before everything has been predicted. Raises InputError.
    """
    if out is not None:
        check_output(out, table)
    rows = read_serving(table)
    if profile is not None:
        asked_profile(profile, load_gpu(rows.rows[0]["gpu"]))  # an error before long work
    if plots is not None:
        _check_plots(rows, plots)
    with progress_bar("replaying") as report:
        replays = replay(rows.rows, profile=profile, jobs=jobs, report=report)
    answer = document(rows, replays, profile)
    written = []
    if plots is not None:
        from calibration.servingplots import draw

        written += draw(rows, replays, plots)
    if out is not None:
        write_serving(rows, replays, out)
        written.append(out)
    if as_json:
        print_json(answer)
    else:
        show(answer, written)


def _check_plots(rows: ServingTable, plots: Path) -> None:
    from calibration.servingplots import comparable, file_names

    if not comparable(rows).any():
        raise InputError(
            "no row has both measured times to compare with",
            file=rows.path,
            place="--plots",
            allowed="a table with ttft_ms and tpot_ms",
        )
    check_writable(plots, file_names())


# ---- terminal --------------------------------------------------------------------------------------------------------


def show(answer: dict[str, Any], written: list[Path]) -> None:
    """What was predicted by which profile and what not, the errors, the weakest deployments, and what was written."""
    console = console_of()
    rows, predicted = answer["rows"], answer["predicted"]
    console.print(f"{answer['table']}: {rows:,} rows, {predicted:,} predicted", style="bold")
    if answer["profiles"]:
        timed = ", ".join(f"{name} ({count:,})" for name, count in answer["profiles"].items())
        console.print(f"timed by {timed}")
    for reason, count in answer["unpredicted"].items():
        console.print(f"not predicted ({count:,}): {reason}", style="yellow")
    for note, count in answer["versions"].items():
        console.print(f"engine's version ({count:,}): {note}", style="dim")
    measured = [metric for metric in METRICS if answer[metric] is not None]
    if not measured:
        console.print("No row has both a measurement and a prediction: nothing to compare.")
    for metric in measured:
        _show_metric(console, metric, answer[metric], rows > predicted)
    if answer["planning_loss"] is not None:
        loss = answer["planning_loss"]
        console.print()
        own = loss["predicted_choices"]
        among = (
            f"; {percent(loss['predicted'])} ({own:,}) where all rows were predicted" if own < loss["choices"] else ""
        )
        console.print(
            f"Planning by these predictions loses {percent(loss['mean'])} of the best attainable tokens/s/GPU "
            f"({loss['choices']:,} choices{among})",
            style="bold",
        )
    if answer["worst_deployments"]:
        console.print()
        console.print(_worst(answer["worst_deployments"]))
    for path in written:
        console.print(f"written: {path}", style="dim")


def _show_metric(console: Any, metric: str, found: dict[str, Any], incomplete: bool) -> None:
    every = found["all"]
    inside = "" if every["covered"] is None else f", {percent(every['covered'])} inside the 80 % interval"
    rest = f"; {percent(found['with_unpredicted'])} if a row without prediction counts as 100 %" if incomplete else ""
    console.print()
    console.print(
        f"Errors of mean {metric.upper()}: mean {percent(every['mean'])}, median {percent(every['median'])}, 90th "
        f"percentile {percent(every['p90'])}, bias {percent(every['bias'], True)}{inside} ({every['rows']:,} measured "
        f"rows){rest}",
        style="bold",
    )
    for name, groups in found["by"].items():
        if len(groups) < 2 or name == "profile":  # nearly the same as by gpu and engine
            continue
        table = plain_table(f"{metric.upper()} by {name}")
        table.add_column("", no_wrap=True, min_width=24)
        for column in ("rows", "mean", "median", "p90", "bias"):
            table.add_column(column, justify="right", no_wrap=True)
        for group in groups:
            cells = [percent(group[key]) for key in ("mean", "median", "p90")]
            weak = group["mean"] > WEAK * every["mean"] and group["rows"] >= FEW
            cells = [f"{group['rows']:,}", *cells, percent(group["bias"], True)]
            table.add_row(group[name], *cells, style="red" if weak else "")
        console.print()
        console.print(table)


def _worst(groups: list[dict[str, Any]]) -> Any:
    table = plain_table("Deployments that are off the most (mean errors; bias: median of predicted / measured - 1)")
    for name in DEPLOYMENT:
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=36)
    for name in ("rows", "TPOT", "bias", "TTFT", "bias"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in groups:
        cells = [f"{group['rows']:,}"]
        for metric in METRICS:
            cells += [percent(group[f"{metric}_error"]), percent(group[f"{metric}_bias"], True)]
        table.add_row(*(group[name] for name in DEPLOYMENT), *cells)
    return table
