"""Writing files so that a reader never sees half of one: into a neighbour, then renamed over the target."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from hwspecs.errors import InputError


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically; InputError, with nothing changed, if that cannot be done."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror})", file=path, allowed="a path in a writable folder"
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def check_writable(folder: Path, names: Iterable[str], place: str = "--out") -> None:
    """InputError if files of these names could not be written to `folder`, which the option `place` has named. To be
    asked before long work.

    Creates nothing: a folder that does not exist yet is judged by the nearest one above it that does.
    """
    problem = None
    existing = folder
    while not os.path.exists(existing) and existing != existing.parent:
        existing = existing.parent
    if not os.path.isdir(existing):
        problem = f"cannot be written to ({existing} is not a folder)"
    elif not os.access(existing, os.W_OK | os.X_OK):
        problem = "cannot be written to (permission denied)"
    else:
        blocked = next((name for name in names if os.path.isdir(folder / name)), None)
        if blocked:
            folder, problem = folder / blocked, "cannot be written (it is a folder)"
        try:
            os.lstat(folder / "result.json")
        except FileNotFoundError:
            pass
        except OSError as error:
            problem = problem or f"cannot be written to ({error.strerror})"
    if problem:
        raise InputError(problem, file=folder, place=place, allowed="a writable folder")
