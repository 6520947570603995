"""The program `kinesim`: starts the command line, and takes Ctrl-C already while that is being imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `kinesim` command and of `python -m simulator`."""
    try:
        from simulator.cli import main as command_line
    except KeyboardInterrupt:
        sys.stderr.write("kinesim: interrupted\n")
        sys.exit(130)
    command_line()


if __name__ == "__main__":
    main()
