"""Docstrings of this project as Markdown, for the reference: `name : what it is` becomes an entry of a list.

Used by mkdocs.yml as an extension of griffe; not a part of the packages.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(Parameters|Attributes|Raises|Returns)\n-{3,}\n", re.M)
ENTRY = re.compile(r"^(\w+(?:, \w+)*) : ")
INSIDE = re.compile(r"(?<=[.;] )(\w+(?:, \w+)*) : ")


def markdown(text: str) -> str:
    """The docstring with its sections in bold and their entries as lists."""
    parts = SECTION.split(text)
    out = [parts[0]]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        lines = [_entry(line) for line in body.splitlines()]
        out.append(f"\n**{title}**\n\n" + "\n".join(lines) + "\n")
    return "".join(out)


def _entry(line: str) -> str:
    line = INSIDE.sub(lambda match: f"{_names(match[1])}: ", line)
    match = ENTRY.match(line)
    return f"- {_names(match[1])}: {line[match.end() :]}" if match else line


def _names(text: str) -> str:
    return ", ".join(f"`{name}`" for name in text.split(", "))


class Entries(griffe.Extension):
    """Rewrites every docstring that is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
