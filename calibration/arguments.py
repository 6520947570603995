"""Command lines of modules (`python -m ...`) that speak as `kinesim` does: what is wrong in one line, exit code 2."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from hwspecs.errors import InputError


class Parser(argparse.ArgumentParser):
    """Raises InputError for a command line that it does not understand; to be asked inside `answered`."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message[:1].upper() + message[1:])


def folder_name(text: str) -> Path:
    """The type of an option that names a folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("names no folder; allowed: a writable folder")
    return Path(text)


def answered(work: Callable[[], None]) -> int:
    """Do the work, and say in one line what it complains of. The exit code: 0 success, 1 internal failure, 2 bad input,
    130 interrupted.
    """
    try:
        work()
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
