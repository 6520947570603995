"""`python -m calibration.measure`: what `kinesim calibrate measure` does, on machines without typer and pydantic."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from calibration.measure.plan import KINDS, TABLES
from calibration.measurecommand import measure
from hwspecs.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 success, 1 internal failure, 2 bad input (one message on stderr), 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m calibration.measure",
        description="Measure the GPU of this machine, in the order of worth; the same command goes on after a stop.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", metavar="DIR", type=Path, help="folder for the tables (measurements/<gpu>)")
    add("--plan", default="useful", metavar="|".join(KINDS), help="what is measured (useful)")
    add("--minutes", type=float, metavar="M", help="limit of wall clock (8 of useful, 30 of full)")
    add("--only", action="append", default=[], metavar="TABLE", help=f"only this one: {', '.join(TABLES)}; repeatable")
    add("--gpu", metavar="NAME", help="which GPU it is, a name or a file, where the driver is not to be asked")
    add("--dry-run", action="store_true", help="print the plan and its time; needs no GPU, but then --gpu")
    add("--force", action="store_true", help="measure although other processes use the GPU")
    add("--retry", action="store_true", help="try again what failed")
    add("--seed", type=int, default=0, metavar="N", help="of the rows that are drawn at random for checks")
    add("--format", choices=("table", "json"), default="table", help="how the answer is printed")
    options = parser.parse_args(arguments)
    try:
        measure(
            out=options.out,
            kind=options.plan,
            minutes=options.minutes,
            only=options.only,
            gpu=options.gpu,
            dry_run=options.dry_run,
            force=options.force,
            retry=options.retry,
            seed=options.seed,
            as_json=options.format == "json",
        )
    except InputError as error:
        return _fail(error.message(), 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:
        traceback.print_exc()
        return _fail(f"internal error: {type(error).__name__}: {error}; this is a bug in kinesim", 1)
    return 0


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"kinesim: {message}\n")
    return code


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # when the reader of a pipe goes away, end without a word
    sys.exit(main())
