"""`kinesim validate kernels`: reads a table, predicts it, compares, prints and writes. Called by the command line."""

from __future__ import annotations

from pathlib import Path

from calibration.errortables import show_validation
from calibration.tables import KernelTable, read_kernels
from calibration.validation import (
    check_output,
    document,
    errors_of,
    predict_table,
    unit_warning,
    write_predictions,
)
from hwspecs.errors import InputError, near_matches
from simulator.files import check_writable
from simulator.fitted import Fitted
from simulator.printing import print_json, tell
from simulator.profilefile import read_profile
from simulator.progress import progress_bar
from simulator.selection import bundled


def validate_kernels(
    table: Path,
    *,
    out: Path | None = None,
    plots: Path | None = None,
    profile: str | None = None,
    as_json: bool = False,
) -> None:
    """Predict every row of `table`; print error tables, write predictions to `out` and figures into the folder `plots`.

    Nothing is written before everything has been predicted. Raises InputError.
    """
    if out is not None:
        check_output(out, table)
    rows = read_kernels(table)
    chosen = None if profile is None else named_profile(profile)
    if plots is not None:
        _check_plots(rows, plots)
    with progress_bar("predicting") as report:
        predictions = predict_table(rows, profile=chosen, report=report)
    warnings = []
    for measured, power in ((rows.measured.any(), False), ((rows.watts == rows.watts).any(), True)):
        warning = unit_warning(rows, errors_of(rows, predictions, power=power), power=power) if measured else None
        warnings += [warning] if warning else []
    for warning in warnings:
        tell(f"warning: {warning}")
    answer = document(rows, predictions, warnings, profile)
    written = []
    if plots is not None:
        from calibration.plots import draw_validation

        written += draw_validation(rows, errors_of(rows, predictions), plots)
    if out is not None:
        write_predictions(rows, predictions, out)
        written.append(out)
    if as_json:
        print_json(answer)
    else:
        show_validation(answer, written)


def named_profile(name: str) -> str | Fitted:
    """A bundled fitted profile's name, or the profile in a file ending in .npz."""
    if name.endswith(".npz"):
        return read_profile(Path(name))
    if name not in bundled().names:
        raise InputError(
            "no such fitted profile",
            place="--profile",
            found=name,
            allowed=near_matches(name, bundled().names) + " or a .npz file",
        )
    return name


def _check_plots(rows: KernelTable, plots: Path) -> None:
    if not rows.measured.any():
        raise InputError(
            "no row has a latency to compare with", file=rows.path, place="--plots", allowed="a table with latency_us"
        )
    from calibration.plots import file_names

    check_writable(plots, file_names(rows.kind))
