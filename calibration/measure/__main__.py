"""`python -m calibration.measure`: what `kinesim calibrate measure` does, on machines without typer and pydantic."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code (`calibration.arguments.answered`); Ctrl-C is taken already while the rest is being imported."""
    try:
        from calibration.arguments import Parser, answered, folder_name
        from calibration.measure.plan import KINDS, TABLES
        from calibration.measurecommand import measure
    except KeyboardInterrupt:
        sys.stderr.write("kinesim: interrupted\n")
        return 130
    parser = Parser(
        prog="python -m calibration.measure",
        description="Measure the GPU of this machine, in the order of worth; the same command goes on after a stop.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", metavar="DIR", type=folder_name, help="folder for the tables (measurements/<gpu>)")
    add("--plan", default="useful", metavar="|".join(KINDS), help="what is measured (useful)")
    add("--minutes", type=float, metavar="M", help="limit of wall clock (8 of useful, 30 of full)")
    add("--only", action="append", default=[], metavar="TABLE", help=f"only this one: {', '.join(TABLES)}; repeatable")
    add("--gpu", metavar="NAME", help="which GPU it is, a name or a file; must fit what the driver says")
    add("--dry-run", action="store_true", help="print the plan and its time; needs no GPU, but then --gpu")
    add("--force", action="store_true", help="measure although other processes use the GPU")
    add("--retry", action="store_true", help="try again what failed")
    add("--seed", type=int, default=0, metavar="N", help="of the rows that are drawn at random for checks")
    add("--format", choices=("table", "json"), default="table", help="how the answer is printed")

    def work() -> None:
        options = parser.parse_args(arguments)
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

    return answered(work)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # when the reader of a pipe goes away, end without a word
    sys.exit(main())
