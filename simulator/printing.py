"""What every command prints alike: documents on stdout, a word to the user on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any


def print_json(document: Any) -> None:
    """A document of `--format json` on stdout. Raises ValueError for a number that JSON does not have."""
    json.dump(document, sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


def tell(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(f"kinesim: {text}\n")
