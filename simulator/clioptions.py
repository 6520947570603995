"""Options that sub-commands share, and the types of their values."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Format(StrEnum):
    """How an answer is printed."""

    table = "table"
    json = "json"


Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a value, such as gpu.memory.bandwidth='9.6 TB/s'."),
]
Formatted = Annotated[Format, typer.Option("--format", help="How to print the answer.")]
Jobs = Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes; as many as cores if not given.")]
