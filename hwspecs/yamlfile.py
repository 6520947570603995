"""YAML files with line numbers: what every user-facing file of kinesim is read with.

Leaves the meaning of the content to its caller; knows only text, duplicate keys and where each value stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hwspecs.errors import InputError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class YamlFile:
    """A parsed file: `data`, and the line of each value by its path (a tuple of keys and indices)."""

    path: Path | str
    data: Any
    lines: dict[tuple[str | int, ...], int]

    def line(self, place: tuple[str | int, ...]) -> int | None:
        """The line of the value at `place`, or of the nearest enclosing one."""
        for end in range(len(place), -1, -1):
            if place[:end] in self.lines:
                return self.lines[place[:end]]
        return None


def place_text(place: tuple[str | int, ...]) -> str:
    """`("a", 0, "b")` -> `a[0].b`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def read_text(path: Path) -> str:
    """The file's text; InputError when it is missing, a folder, unreadable or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except IsADirectoryError:
        raise InputError("is a folder, not a file", file=path) from None
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text (byte {error.start})", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=path) from None


def read_yaml(path: Path) -> YamlFile:
    """Parse one YAML document. Raises InputError on syntax errors, duplicate keys and an empty file."""
    return parse_yaml(read_text(path), path)


def parse_yaml(text: str, path: Path | str) -> YamlFile:
    """As `read_yaml`, of a text; `path` names it in messages."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            raise InputError("the file is empty", file=path)
        lines: dict[tuple[str | int, ...], int] = {}
        _walk(node, (), lines, path, frozenset())
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise InputError(f"is not valid YAML: {problem}", file=path, line=mark.line + 1 if mark else None) from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"is not valid YAML: {error}", file=path) from None
    return YamlFile(path, data, lines)


def _walk(node: Any, place: tuple[str | int, ...], lines: dict, path: Path | str, above: frozenset[int]) -> None:
    if id(node) in above:
        raise InputError("an anchor contains itself", file=path, line=node.start_mark.line + 1)
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise InputError(
                    "key given twice", file=path, place=place_text((*place, name)), line=key.start_mark.line + 1
                )
            seen.add(name)
            _walk(value, (*place, name), lines, path, above | {id(node)})
            lines[(*place, name)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _walk(value, (*place, i), lines, path, above | {id(node)})
