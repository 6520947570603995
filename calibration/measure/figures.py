"""The figures of a GPU that a plan needs, without pydantic: what `hwspecs.gpu` reads, as far as it matters here.

A machine that measures may have little more than torch and PyYAML, so the bundled files are read raw. Checking them is
left to `hwspecs.gpu`; a test holds the two against each other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwspecs.errors import InputError, near_matches
from hwspecs.units import parse_quantity
from hwspecs.yamlfile import read_yaml

GPU_FOLDER = Path(__file__).parents[2] / "hwspecs" / "gpus"

CAPABILITY = {
    "Ampere": 80,
    "Ada Lovelace": 89,
    "Hopper": 90,
    "Blackwell": 100,
    "Blackwell Ultra": 103,
    "Blackwell (GB202)": 120,
}
"""Compute capability of the architectures in the bundled files (NVIDIA, CUDA GPU Compute Capability)."""

BF16_PER_CLOCK = {80: 2048, 89: 1024, 90: 4096, 100: 8192, 103: 8192, 120: 1024}
"""Dense bf16 FLOPs that one SM does in a clock, for the estimates of a GPU that no file describes."""

MOST_SMS = 10_000
NAME = re.compile(r"\w[\w.+-]{0,99}", re.ASCII)
"""What a GPU that is measured may be called."""
SAME_MEMORY = 0.1
"""How far the driver's memory may be from the file's, relatively: variants of a GPU differ by a fifth or more."""


@dataclass(frozen=True)
class Figures:
    """What a plan is made from.

    Attributes
    ----------
    name : as the column `gpu` of the tables says it. title : for people.
    sms, capability : streaming multiprocessors; 90 for sm_90, None where it is not known.
    l2, memory : bytes. bandwidth : of the memory, bytes/s. peak : dense FLOP/s by number format.
    clock : the highest SM clock, Hz.
    origin : the file's path, or `driver` where no file describes the GPU; then bandwidth and peaks are estimates.
    """

    name: str
    title: str
    vendor: str
    sms: int
    capability: int | None
    l2: float
    memory: float
    bandwidth: float
    peak: Mapping[str, float]
    clock: float
    origin: str

    @property
    def estimated(self) -> bool:
        return self.origin == "driver"


@dataclass(frozen=True)
class Driver:
    """A GPU as its driver reports it. Bytes, bytes/s, Hz, watts; None where the driver does not say.

    `count` is the number of GPUs that CUDA shows here, taken to be alike.
    """

    name: str
    sms: int
    capability: int
    l2: float
    memory: float
    bandwidth: float | None = None
    clock: float | None = None
    power_limit: float | None = None
    version: str = ""
    count: int = 1


def load_figures(spec: str | Path) -> Figures:
    """The figures of a bundled GPU (`h200-sxm`) or of a user's file (ends in .yaml or .yml, or contains a `/`).

    `base` in a file is followed as `hwspecs.gpu.load_gpu` does. InputError for an unknown name, an unreadable file, a
    missing figure.
    """
    text = str(spec)
    is_file = is_path(text)
    path = Path(os.path.expanduser(text)) if is_file else GPU_FOLDER / f"{text}.yaml"
    if not is_file and text not in list_names():
        allowed = f"{near_matches(text, list_names())}, or the path of a YAML file"
        raise InputError("unknown GPU", file="--gpu", found=text, allowed=allowed)
    data = _read(path, ())
    figures = _Reader(path, data)
    vendor, architecture = figures.text("vendor"), figures.text("architecture")
    own = read_yaml(path).data
    name = str(own.get("name") or (path.stem if is_file else text))
    if not NAME.fullmatch(name):  # it becomes a folder's name, and a cell of the tables
        allowed = "letters, digits and . _ + -; left out, the file's name without its ending"
        raise InputError("no name for a GPU that is measured", file=path, place="name", found=name, allowed=allowed)
    return Figures(
        name=name,
        title=str(data.get("title") or name),
        vendor=vendor,
        sms=figures.whole("sms"),
        capability=CAPABILITY.get(architecture) if vendor == "NVIDIA" else None,
        l2=figures.quantity("l2.size", "bytes", 1e5, 1e10),
        memory=figures.quantity("memory.capacity", "bytes", 1e9, 1e14),
        bandwidth=figures.quantity("memory.bandwidth", "bytes/s", 1e9, 1e15),
        peak={str(dtype): figures.quantity(f"peak.{dtype}", "FLOP/s", 1e9, 1e19) for dtype in figures.mapping("peak")},
        clock=figures.quantity("boost_clock", "Hz", 1e8, 1e11),
        origin=str(path),
    )


def list_names() -> list[str]:
    """Names of the bundled GPUs, sorted."""
    return sorted(path.stem for path in GPU_FOLDER.glob("*.yaml"))


def is_path(text: str) -> bool:
    """Whether a GPU is given by a file and not by a bundled name."""
    return text.endswith((".yaml", ".yml")) or "/" in text


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A file's content over that of its chain of bases; the sources are left out."""
    if path.resolve() in above:
        raise InputError("is its own base", file=path, place="base")
    data = read_yaml(path).data
    if not isinstance(data, dict):
        raise InputError("not a GPU", file=path, found=data, allowed="a mapping of figures, or `base: NAME` and some")
    given = {key: value for key, value in data.items() if key not in ("base", "sources")}
    base = data.get("base")
    if base is None:
        return given
    text = str(base)
    below = path.parent / os.path.expanduser(text) if is_path(text) else GPU_FOLDER / f"{text}.yaml"
    if not is_path(text) and text not in list_names():
        raise InputError("unknown GPU", file=path, place="base", found=text, allowed=near_matches(text, list_names()))
    inherited = {k: v for k, v in _read(below, (*above, path.resolve())).items() if k not in ("name", "title")}
    return _merge(inherited, given)


def _merge(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Key by key; None takes a key away."""
    merged = dict(base)
    for key, value in given.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


@dataclass(frozen=True)
class _Reader:
    """Access to a merged file by dotted paths; every complaint names the file and the place."""

    path: Path
    data: Mapping[str, Any]

    def _value(self, place: str) -> Any:
        node: Any = self.data
        for part in place.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is None:
            raise InputError("a required figure is missing", file=self.path, place=place)
        return node

    def text(self, place: str) -> str:
        return str(self._value(place))

    def whole(self, place: str) -> int:
        value = self._value(place)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_SMS:
            allowed = f"a whole number from 1 to {MOST_SMS:,}"
            raise InputError("not such a number", file=self.path, place=place, found=value, allowed=allowed)
        return value

    def mapping(self, place: str) -> Mapping[str, Any]:
        value = self._value(place)
        if not isinstance(value, Mapping):
            raise InputError("of the wrong type", file=self.path, place=place, found=value, allowed="a mapping")
        return value

    def quantity(self, place: str, dimension: str, low: float, high: float) -> float:
        """In SI units. The range is wide, and is there so that a slip of a prefix does not make an endless plan."""
        try:
            value = parse_quantity(self._value(place), dimension, bare_ok=False)
        except InputError as error:
            raise error.at(file=self.path, place=place) from None
        if value <= 0:
            raise InputError("must be greater than zero", file=self.path, place=place, found=self._value(place))
        if not low <= value <= high:
            allowed = f"{low:g} to {high:g} {dimension}"
            problem = "implausible: wrong by orders of magnitude"
            raise InputError(problem, file=self.path, place=place, found=self._value(place), allowed=allowed)
        return value


# ---- which GPU the driver means --------------------------------------------------------------------------------------

_FORM = re.compile(r"nvidia|gpu|sxm\d?|ac|hbm\d\w*|\d+g(b)?")
"""Words of a driver's name or a title that say nothing, or what the memory's size tells better."""


def words_of(name: str) -> frozenset[str]:
    """What tells a GPU from its relatives in a name: `NVIDIA A100-SXM4-80GB` -> {a100}; `H100 PCIe` -> {h100, pcie}."""
    text = re.sub(r"\([^)]*\)", " ", name.lower())
    text = re.sub(r"(\d+)\s*gi?b\b", r"\1gb", text)
    return frozenset(word for word in re.split(r"[^a-z0-9]+", text) if word and not _FORM.fullmatch(word))


def bundled_for(driver: Driver) -> str | None:
    """The bundled GPU that the driver reports, or None: the same words in the name (so that PCIe, NVL and MIG variants
    are not taken for the SXM part), as many SMs, and the memory within 10 %.
    """
    words = words_of(driver.name)
    for name in list_names():
        figures = load_figures(name)
        alike = words in (words_of(figures.title), words_of(name))
        if figures.vendor == "NVIDIA" and alike and fits(figures, driver):
            return name
    return None


def fits(figures: Figures, driver: Driver) -> bool:
    """Whether the GPU in the machine can be the one described: its SMs and its memory."""
    return figures.sms == driver.sms and abs(driver.memory / figures.memory - 1) <= SAME_MEMORY


def short_name(driver: Driver) -> str:
    """A name for a GPU that no file describes: `NVIDIA H100 PCIe` -> `h100-pcie`."""
    text = re.sub(r"[^a-z0-9]+", "-", driver.name.lower()).strip("-").removeprefix("nvidia-")
    return text or "unknown-gpu"


def from_driver(driver: Driver) -> Figures:
    """Figures for a plan from what the driver says. Bandwidth, clock and peaks are guesses where it says nothing: they
    only set how long the plan is expected to take.
    """
    clock = driver.clock or 1.5e9
    bf16 = BF16_PER_CLOCK.get(driver.capability, 2048) * driver.sms * clock
    peak = {"bf16": bf16, "fp16": bf16}
    if driver.capability >= 89:
        peak["fp8"] = 2 * bf16
    return Figures(
        name=short_name(driver),
        title=driver.name,
        vendor="NVIDIA",
        sms=driver.sms,
        capability=driver.capability,
        l2=driver.l2,
        memory=driver.memory,
        bandwidth=driver.bandwidth or 1e12,
        peak=peak,
        clock=clock,
        origin="driver",
    )
