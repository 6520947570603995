"""Writing files so that a reader never sees half of one: into a neighbour, then renamed over the target."""

from __future__ import annotations

import contextlib
import os
import tempfile
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


def check_writable(folder: Path) -> None:
    """InputError if files could not be written to `folder`; creates it if it does not exist. To be asked before long
    work.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".kinesim-"):
            pass
    except OSError as error:
        raise InputError(
            f"cannot be written to ({error.strerror})", file=folder, place="--out", allowed="a writable folder"
        ) from None
