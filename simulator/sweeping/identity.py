"""What a result belongs to: a hash of the resolved scenario, of the files that it reads, and of the program.

Two scenarios with one hash give one result. Names and descriptions do not count, nor does where files lie; the content
of a trace, of a table of lengths and of a profile does, and so does every line of the program that a simulation goes
through: after a change of it a scenario is simulated again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hwspecs.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
STARTS = ("simulator.running", "simulator.headline", "workloads.requests", "workloads.scenario")
"""Modules from which the program's own imports are followed."""
DATA = ("hwspecs/gpus", "workloads/engines", "workloads/models", "calibration/profiles")
POWER = "calibration"
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+((?:hwspecs|workloads|simulator)[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)"
    r"|import[ \t]+((?:hwspecs|workloads|simulator)[\w.]*))",
    re.MULTILINE,
)


@lru_cache(maxsize=1)
def program_hash() -> str:
    """A hash of the modules that a simulation uses and of the data that they come with, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    files = _modules()
    for folder in DATA:
        files += sorted(path for path in (ROOT / folder).iterdir() if path.is_file())
    files += sorted((ROOT / POWER).glob("power*.*z")) + sorted((ROOT / POWER).glob("power*.yaml"))
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _modules() -> list[Path]:
    """The files of the modules that a simulation imports, now or later, sorted."""
    found: set[Path] = set()
    names = list(STARTS)
    while names:
        path = _file_of(names.pop())
        if path is None or path in found:
            continue
        found.add(path)
        if path == ROOT / "simulator" / "__init__.py":
            continue  # it offers everything, and needs none of it
        for package, listed, module in _IMPORT.findall(path.read_text(encoding="utf-8")):
            names.append(package or module)
            names += [f"{package}.{name}" for name in re.findall(r"\b[A-Za-z_]\w*", listed)] if package else []
    return sorted(found)


def _file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def scenario_hash(data: Mapping[str, Any], folder: Path, program: str) -> str:
    """The hash of a resolved scenario, 32 hexadecimal digits.

    Parameters
    ----------
    data : `LoadedScenario.to_dict(embed=True)`. folder : of its relative paths, `LoadedScenario.base_dir`.
    program : `program_hash()`.

    Raises
    ------
    InputError : a file that cannot be read.
    """
    known = copy.deepcopy(dict(data))
    _files_by_content(known, folder)
    pools = known.get("disaggregation") or {}
    for gpu in (known["gpu"], *(pools[name]["gpu"] for name in ("prefill", "decode") if "gpu" in pools.get(name, {}))):
        for key in ("title", "sources"):  # for people; a source may name the file that a figure was written in
            gpu.pop(key, None)
    return _hash(known, program)


def raw_hash(data: Mapping[str, Any], program: str) -> str:
    """The same for one that cannot be loaded, by what was written."""
    return _hash({"raw": dict(data)}, program)


def _hash(data: dict[str, Any], program: str) -> str:
    known = {key: value for key, value in data.items() if key not in ("name", "description")}
    text = json.dumps([program, known], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _files_by_content(data: dict[str, Any], folder: Path) -> None:
    """Put the content of files, by its hash, in place of their paths."""
    workload = data["workload"]
    for key in ("trace", "prompt_tokens", "output_tokens"):
        part = workload.get(key)
        if isinstance(part, dict) and "path" in part:
            part["path"] = _content(Path(part["path"]))
    if data["profile"].endswith((".yaml", ".yml", ".npz")):
        data["profile"] = _content(folder / data["profile"])


def _content(path: Path) -> str:
    try:
        state = path.stat()
        return _content_of(path, state.st_mtime_ns, state.st_size, state.st_ino)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=path) from None


@lru_cache(maxsize=64)
def _content_of(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
