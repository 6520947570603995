"""What every command prints alike: documents on stdout, a word to the user on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from hwspecs.units import format_quantity


def duration(seconds: float | None) -> str:
    """`0.0193` -> `19.3 ms`; from two minutes on in minutes, from two hours on in hours."""
    if seconds is None:
        return "-"
    if seconds >= 7200:
        return f"{seconds / 3600:,.2f} h"
    if seconds >= 120:
        return f"{seconds / 60:,.1f} min"
    return format_quantity(seconds, "s")


def percent(value: float | None) -> str:
    """`0.123` -> `12.3 %`."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if value >= 0.0005 or value == 0 else "< 0.1 %"


def print_json(document: Any) -> None:
    """A document of `--format json` on stdout. Raises ValueError for a number that JSON does not have."""
    json.dump(document, sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


def tell(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(f"kinesim: {text}\n")
