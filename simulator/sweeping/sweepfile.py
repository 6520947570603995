"""Sweep files: which scenarios a sweep is over, read from YAML and checked; docs/sweep.md is their reference."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hwspecs.errors import InputError, near_matches
from hwspecs.validation import validate
from hwspecs.yamlfile import YamlFile, place_text, read_yaml
from simulator.headline import METRICS
from workloads.fields import Part
from workloads.scenario import with_sets

SWEEP_FOLDER = Path(__file__).parent / "sweeps"
MOST_LIMIT = 1_000_000
"""Most scenarios of one sweep: about seven days on two cores, even of small ones."""

Limit = Annotated[int, Field(strict=True, ge=1, le=MOST_LIMIT)]
Base = str | dict[str, Any]


class SweepContent(Part):
    """A sweep: base scenarios, and what is varied in them."""

    name: str | None = Field(default=None, min_length=1, description="Short name; that of the file if left out.")
    description: str = Field(default="", description="What is asked, for people.")
    base: Base | list[Base] = Field(description="A scenario (bundled name, path of its YAML, or mapping), or several.")
    set: dict[str, Any] = Field(default_factory=dict, description="Path -> value, in all scenarios.")
    vary: dict[str, Any] = Field(
        default_factory=dict, description="Path -> values. The sweep is over all combinations of them."
    )
    zip: dict[str, Any] | list[dict[str, Any]] = Field(
        default_factory=list,
        description="Path -> values, equally many, that change together; or several such groups.",
    )
    exclude: dict[str, Any] | list[dict[str, Any]] = Field(
        default_factory=list, description="Path -> values: combinations of all of them are left out."
    )
    keep: list[str] | None = Field(
        default=None, min_length=1, description="Metrics that are shown; the data set has all of them."
    )
    limit: Limit | None = Field(
        default=None, description="At most so many of the combinations, drawn at random and reproducibly."
    )
    seed: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] = Field(
        default=0, description="Which combinations `limit` draws. With a larger limit they are among those drawn."
    )


@dataclass(frozen=True)
class SweepFile:
    """A sweep file's checked content, and where it came from: `folder` is that of its relative paths."""

    content: SweepContent
    name: str
    origin: str
    folder: Path
    source: YamlFile | None

    def fail(self, error: InputError, place: tuple[str | int, ...]) -> InputError:
        """`error` as one of this file, at `place`."""
        text = place_text(place)
        line = self.source.line(place) if self.source else None
        return InputError(
            error.problem, file=self.origin, place=text, line=line, found=error.found, allowed=error.allowed
        )

    def groups(self) -> list[dict[str, Any]]:
        """The groups of `zip`."""
        return [self.content.zip] if isinstance(self.content.zip, dict) else self.content.zip

    def excluded(self) -> list[dict[str, Any]]:
        """The combinations of `exclude`."""
        return [self.content.exclude] if isinstance(self.content.exclude, dict) else self.content.exclude


def list_sweeps() -> list[str]:
    """Names of the bundled sweep files, sorted."""
    return sorted(path.stem for path in SWEEP_FOLDER.glob("*.yaml"))


def read_sweep(spec: str | Path | Mapping[str, Any], sets: Sequence[str] = ()) -> SweepFile:
    """Read and check a sweep file.

    Parameters
    ----------
    spec : path of a YAML file, the name of a bundled one, or a mapping with a file's content (whose relative paths
        refer to the current folder).
    sets : assignments `path=value` in all scenarios, before those of `set`. Relative paths in their values refer to the
        current folder.

    Raises
    ------
    InputError : no such file, or whatever is wrong in it, with file, line and place. Values and paths of fields are
        left to `grid`.
    """
    source: YamlFile | None = None
    if isinstance(spec, Mapping):
        data, origin, folder, name = dict(spec), "<dict>", Path.cwd(), "sweep"
    else:
        path = _path(spec)
        source = read_yaml(path)
        data, origin, folder, name = source.data, str(path), path.resolve().parent, path.stem
        if not isinstance(data, Mapping):
            allowed = "a mapping with the keys " + ", ".join(SweepContent.model_fields)
            raise InputError("not a sweep", file=path, found=data, allowed=allowed)
    content = validate(SweepContent, data, file=origin, line_of=source.line if source else None)
    if sets:
        content = content.model_copy(update={"set": content.set | _given(sets)})
    file = SweepFile(content, content.name or name, origin, folder, source)
    for i, key in enumerate(content.keep or []):
        if key not in METRICS:
            allowed = ", ".join(difflib.get_close_matches(key, METRICS, n=6, cutoff=0.3)) or ", ".join(METRICS)
            raise file.fail(InputError("no such metric", found=key, allowed=allowed), ("keep", i))
    return file


def _given(sets: Sequence[str]) -> dict[str, Any]:
    """Path -> value of assignments, with absolute paths of files."""
    found: dict[str, Any] = {}
    for text in sets:
        value: Any = with_sets({}, [text])
        path = text.partition("=")[0].strip()
        while isinstance(value, dict) and (key := re.match(r"[^.\[\]]+", path)) is not None and key[0] in value:
            value, path = value[key[0]], path[key.end() :].removeprefix(".")
        found[text.partition("=")[0].strip()] = value
    return found


def _path(spec: str | Path) -> Path:
    bundled = list_sweeps()
    if str(spec) in bundled:
        return SWEEP_FOLDER / f"{spec}.yaml"
    path = Path(spec).expanduser()
    if not path.exists():
        allowed = f"the path of a .yaml file, or one of {near_matches(str(spec), bundled)}"
        raise InputError("no such sweep file", place="FILE", found=str(spec), allowed=allowed)
    return path
