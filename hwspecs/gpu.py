"""GPUs: what a spec sheet says, as numbers in SI units, and what follows from it at once.

A GPU is described by a YAML file: one of the bundled ones in `hwspecs/gpus`, or a user's own, which may say
`base: h200-sxm` and give only what differs. This module reads, merges and checks such files. How long an operator
takes on a GPU is left to the simulator; every figure here is a peak that the hardware cannot exceed.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator

from hwspecs.dtypes import BYTES, check_dtype
from hwspecs.errors import InputError, near_matches
from hwspecs.units import parse_quantity
from hwspecs.validation import LineOf, Place, explain
from hwspecs.yamlfile import YamlFile, place_text, read_yaml

GPU_FOLDER = Path(__file__).parent / "gpus"

L2_BYTES_PER_CLOCK_PER_SM = 64.0
"""What one SM can take from L2 in a clock: the width of its port in NVIDIA GPUs since Volta (from microbenchmarks).

An upper bound, because the slices of L2 may give less than all ports could take: those of A100 give 5,120 B per clock,
47 per SM.
"""


@dataclass(frozen=True)
class Memory:
    """Device memory. `kind` such as HBM3e; `capacity` in bytes as the driver reports it; `bandwidth` in bytes/s."""

    kind: str
    capacity: float
    bandwidth: float


@dataclass(frozen=True)
class L2:
    """The last cache shared by all SMs (AMD: the Infinity Cache). `size` in bytes, peak read `bandwidth` in bytes/s."""

    size: float
    bandwidth: float


@dataclass(frozen=True)
class Link:
    """GPU-to-GPU link. `bandwidth` in bytes/s per direction and GPU; `domain` is the number of GPUs it connects."""

    kind: str
    bandwidth: float
    domain: int


@dataclass(frozen=True)
class ScaleOut:
    """Network between the domains of `Link`: of one GPU's adapter, `bandwidth` in bytes/s per direction, and `latency`
    in seconds of a small message from the memory of one GPU to that of another.
    """

    kind: str
    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Pcie:
    """Host link: PCI Express `generation`, and `bandwidth` in bytes/s per direction (before protocol overhead)."""

    generation: int
    bandwidth: float


@dataclass(frozen=True)
class Power:
    """Board power in watts: the limit `tdp`, and `idle` with the driver loaded, clocks up and no work."""

    tdp: float
    idle: float


@dataclass(frozen=True)
class Price:
    """What one GPU costs to rent for an hour, in USD, and when (`YYYY-MM` or `YYYY-MM-DD`)."""

    usd_per_hour: float
    date: str


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes
    ----------
    name, title : short name as used in scenarios; name for people.
    vendor, architecture : as the vendor calls them.
    status : `released` or `announced`; an announced part has figures that are promises or estimates.
    sms : streaming multiprocessors (AMD: compute units).
    boost_clock : highest SM clock, Hz.
    peak : dense FLOP/s (OP/s for integers) by number format; never the figure for sparse matrices. `fp32` is the
        vector rate; all others are the matrix units'. Not to be changed.
    link, scale_out : what connects the GPUs of a domain, and what connects domains; None where nothing is known of it.
    sources : dotted path of a figure -> where it comes from.
    origin : the bundled name or the file it was read from.
    base : the GPU that it was derived from by overriding, if any; through a user's files, the bundled one.
    """

    name: str
    title: str
    vendor: str
    architecture: str
    status: str
    sms: int
    boost_clock: float
    peak: Mapping[str, float]
    memory: Memory
    l2: L2
    link: Link
    pcie: Pcie
    power: Power
    price: Price | None
    sources: Mapping[str, str]
    origin: str
    base: str | None = None
    scale_out: ScaleOut | None = None

    def __hash__(self) -> int:
        return hash((self.name, self.origin, self.sms, self.boost_clock, self.memory, tuple(sorted(self.peak.items()))))

    def peak_flops(self, dtype: str) -> float:
        """Dense peak, FLOP/s. InputError if the hardware cannot compute in `dtype`."""
        try:
            return self.peak[dtype]
        except KeyError:
            raise InputError(
                f"{self.name} does not compute in this number format",
                found=dtype,
                allowed=near_matches(dtype, self.peak),
            ) from None

    def ridge_point(self, dtype: str) -> float:
        """Operational intensity, FLOP per byte of device memory, at which the memory and compute roofs meet.

        Below it an operator is bound by memory, above it by compute (Williams, Waterman, Patterson 2009,
        "Roofline: an insightful visual performance model").
        """
        return self.peak_flops(dtype) / self.memory.bandwidth

    def flops_per_byte(self, dtype: str = "bf16") -> float:
        """The Kinetics ratio: FLOPs the GPU could do while it reads one byte from device memory.

        Kinetics (arXiv 2506.05333) charges memory traffic as equivalent FLOPs: eFLOPs = FLOPs + ratio x bytes, with
        the hardware's arithmetic intensity as the ratio; the paper takes 562.5 for B200, its dense fp8 peak of
        4,500 TFLOP/s over 8 TB/s. It is the ridge point under the name of its use.
        """
        return self.ridge_point(dtype)

    @property
    def kinetics_ratio(self) -> float:
        """`flops_per_byte("bf16")`: the Kinetics ratio of bf16 arithmetic."""
        return self.flops_per_byte()

    def with_values(self, values: Mapping[str, float]) -> Gpu:
        """A copy with figures replaced, each on its own: `gpu.with_values({"memory.bandwidth": 9.6e12})`.

        `values` maps dotted paths to numbers in SI units. Nothing else moves: a higher clock raises neither peak nor
        L2 bandwidth. InputError for an unknown path or a value that is out of range.
        """
        spec = to_spec(self)
        for path, value in values.items():
            *outer, last = path.split(".")
            known = figure_paths(self)
            if path not in known and not (outer == ["peak"] and last in BYTES):
                raise InputError("no such figure of a GPU", place=path, found=path, allowed=near_matches(path, known))
            inner = spec
            for part in outer:
                inner = inner.setdefault(part, {})
            unit = _UNITS.get("peak" if outer == ["peak"] else path)
            inner[last] = f"{value!r} {unit}" if unit and isinstance(value, int | float) else value
            spec["sources"][path] = "changed by the caller"
        gpu = load_gpu(spec, origin=self.origin, place="")
        return dataclasses.replace(gpu, base=self.base)


_UNITS = {
    "boost_clock": "Hz",
    "peak": "FLOP/s",
    "memory.capacity": "B",
    "memory.bandwidth": "B/s",
    "l2.size": "B",
    "l2.bandwidth": "B/s",
    "link.bandwidth": "B/s",
    "scale_out.bandwidth": "B/s",
    "scale_out.latency": "s",
    "pcie.bandwidth": "B/s",
    "power.tdp": "W",
    "power.idle": "W",
}


# ---- what a file may contain -----------------------------------------------------------------------------------------


def _quantity(dimension: str, low: float, high: float, example: str) -> BeforeValidator:
    """Text with a unit of `dimension` to a number between `low` and `high`.

    The range is wide on purpose: it catches a slip of a prefix by several orders of magnitude, not a bold what-if.
    """

    def check(value: object) -> float:
        number = parse_quantity(value, dimension, bare_ok=False)
        if number <= 0:
            raise InputError("must be greater than zero", found=value, allowed=f"a positive quantity such as {example}")
        if not low <= number <= high:
            raise InputError(
                "implausible: wrong by orders of magnitude",
                found=value,
                allowed=f"{low:g} to {high:g} {dimension}, such as {example}",
            )
        return number

    return BeforeValidator(check)


def _text(example: str) -> WithJsonSchema:
    pattern = r"^\s*[+]?[\d._]+([eE][-+]?\d+)?\s*[^\s\d].*$"
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


_Capacity = Annotated[float, _quantity("bytes", 1e3, 1e15, "141 GB"), _text("141 GB")]
_Bandwidth = Annotated[float, _quantity("bytes/s", 1e6, 1e15, "4.8 TB/s"), _text("4.8 TB/s")]
_Flops = Annotated[float, _quantity("FLOP/s", 1e9, 1e19, "989.5 TFLOP/s"), _text("989.5 TFLOP/s")]
_Clock = Annotated[float, _quantity("Hz", 1e6, 1e11, "1.98 GHz"), _text("1.98 GHz")]
_Latency = Annotated[float, _quantity("seconds", 1e-9, 1e-1, "2.7 us"), _text("2.7 us")]
_Watts = Annotated[float, _quantity("watts", 1e-3, 1e6, "700 W"), _text("700 W")]


def _usd(value: object) -> float:
    number = parse_quantity(value, "USD/h", bare_ok=True)
    if number <= 0:
        raise InputError("must be greater than zero", found=value, allowed="a price such as 2.50")
    return number


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Text = Annotated[str, Field(min_length=1, strict=True)]


class _MemorySpec(_Part):
    kind: _Text = Field(description="such as HBM3e")
    capacity: _Capacity = Field(description="bytes that programs can address, as the driver reports them")
    bandwidth: _Bandwidth = Field(description="peak, reads and writes together")


class _L2Spec(_Part):
    size: _Capacity = Field(description="last cache shared by all SMs")
    bandwidth: _Bandwidth | None = Field(
        None, description="peak read bandwidth; left out: 64 B per clock and SM x sms x boost_clock"
    )


class _LinkSpec(_Part):
    kind: Literal["nvlink", "infinity-fabric", "ualink", "pcie", "other"]
    bandwidth: _Bandwidth = Field(description="per direction and GPU")
    domain: int = Field(ge=1, le=1_000_000, strict=True, description="GPUs that the link connects")


class _ScaleOutSpec(_Part):
    kind: Literal["infiniband", "roce", "ultra-ethernet", "other"]
    bandwidth: _Bandwidth = Field(description="per direction and GPU")
    latency: _Latency = Field(description="of a small message from GPU to GPU")


class _PcieSpec(_Part):
    generation: int = Field(ge=1, le=9, strict=True)
    bandwidth: _Bandwidth = Field(description="per direction")


class _PowerSpec(_Part):
    tdp: _Watts = Field(description="board power limit")
    idle: _Watts = Field(description="board power without work")


class _PriceSpec(_Part):
    usd_per_hour: Annotated[
        float, BeforeValidator(_usd), WithJsonSchema({"type": ["number", "string"], "exclusiveMinimum": 0})
    ] = Field(description="one GPU for one hour, USD")
    date: str = Field(description="when: YYYY-MM or YYYY-MM-DD")

    @field_validator("date", mode="before")
    @classmethod
    def _check_date(cls, value: object) -> str:
        if isinstance(value, datetime.date):
            return value.isoformat()[:10]
        text = str(value)
        match = re.fullmatch(r"(\d{4})-(\d{2})(?:-(\d{2}))?", text, re.ASCII)
        try:
            if match is None or isinstance(value, bool):
                raise ValueError
            datetime.date(int(match[1]), int(match[2]), int(match[3] or 1))
        except ValueError:
            raise InputError("not a date", found=value, allowed="YYYY-MM or YYYY-MM-DD") from None
        return text


_Dtype = Annotated[str, BeforeValidator(check_dtype), WithJsonSchema({"enum": list(BYTES)})]


class _GpuSpec(_Part):
    name: _Text | None = Field(None, description="short name; left out: the file's name")
    title: _Text | None = Field(None, description="name for people; left out: the short name")
    vendor: _Text
    architecture: _Text
    status: Literal["released", "announced"] = "released"
    sms: int = Field(ge=1, le=10_000, strict=True, description="streaming multiprocessors (AMD: compute units)")
    boost_clock: _Clock
    peak: dict[_Dtype, _Flops] = Field(
        min_length=1,
        description="dense peak by number format, never the sparse figure; fp32 is the vector rate",
        json_schema_extra={"propertyNames": {"enum": list(BYTES)}},
    )
    memory: _MemorySpec
    l2: _L2Spec
    link: _LinkSpec
    scale_out: _ScaleOutSpec | None = Field(
        None, description="network between the domains of the link; left out: replicas stay within a domain"
    )
    pcie: _PcieSpec
    power: _PowerSpec
    price: _PriceSpec | None = None
    sources: dict[str, _Text] = Field(
        default_factory=dict, description="dotted path of a figure, or of a group of figures -> where it comes from"
    )


def gpu_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a GPU file, for editors. With `base`, everything else may be left out."""
    schema = _GpuSpec.model_json_schema()

    def relax(node: Any) -> None:
        if isinstance(node, dict):
            node.pop("required", None)
            node.pop("title", None) if isinstance(node.get("title"), str) else None
            for value in node.values():
                relax(value)
        elif isinstance(node, list):
            for value in node:
                relax(value)

    required = list(schema["required"])
    relax(schema)
    schema["properties"] = {
        "base": {"type": "string", "description": "bundled GPU, or path of a file, from which this one differs"}
    } | schema["properties"]
    schema["anyOf"] = [{"required": ["base"]}, {"required": required}]
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "kinesim GPU"
    schema["description"] = "A GPU, complete or as the difference from `base`."
    return schema


# ---- loading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """One file (or inline mapping) of a chain of bases, and how to say where something stands in it.

    `name` is that of a file; None for an inline mapping. `folder` is where a relative path in it starts.
    """

    data: Mapping[Any, Any]
    file: object
    line_of: LineOf | None
    prefix: str
    folder: Path | None
    name: str | None

    def error(self, problem: str, place: Place, found: object = None, allowed: str | None = None) -> InputError:
        text = place_text(place)
        full = f"{self.prefix}.{text}" if self.prefix and text else self.prefix or text
        line = self.line_of(place) if self.line_of is not None else None
        return InputError(problem, file=self.file, place=full or None, line=line, found=found, allowed=allowed)

    def has(self, place: Place) -> bool:
        node: Any = self.data
        for part in place:
            if not isinstance(node, Mapping) or part not in node:
                return False
            node = node[part]
        return True


def list_gpus() -> list[str]:
    """Names of the bundled GPUs, sorted."""
    return sorted(p.stem for p in GPU_FOLDER.glob("*.yaml"))


def is_path(spec: str) -> bool:
    """Whether a GPU is given by a file rather than by a bundled name."""
    return spec.endswith((".yaml", ".yml")) or "/" in spec


def load_gpu(
    spec: str | Path | Mapping[str, Any],
    *,
    origin: object = None,
    place: str = "gpu",
    lines: LineOf | None = None,
    relative_to: Path | None = None,
) -> Gpu:
    """The GPU that `spec` describes.

    Parameters
    ----------
    spec : a bundled name such as `h200-sxm`; a path of a YAML file (ends in .yaml or .yml, or contains a `/`); or a
        mapping with a file's content, such as `{"base": "h200-sxm", "memory": {"bandwidth": "9.6 TB/s"}}`. In files
        and mappings `base` names another GPU or file, from which everything not given is taken, key by key (`null`
        takes a key away); a chain of bases is fine.
    origin : the file (or option) that `spec` itself was written in, for error messages.
    place : the path of `spec` inside `origin`.
    lines : from a path inside `spec` to a line of `origin`, such as `lambda p: yaml.line(("gpu", *p))`.
    relative_to : folder to which a path in `spec` (or in its `base`) refers; the current folder if not given. A path
        in a file's `base` refers to that file's folder.

    Raises
    ------
    InputError : unknown GPU or key, missing or bad value, a cycle of bases, an unreadable file.
    """
    if isinstance(spec, str) and spec in list_gpus():
        return _bundled_gpu(spec)
    return _load(spec, origin, place, lines, relative_to)


@lru_cache(maxsize=64)
def _bundled_gpu(name: str) -> Gpu:
    """One that comes with kinesim, built once: nothing about it depends on who asks."""
    return _load(name, None, "gpu", None, None)


def _load(spec: object, origin: object, place: str, lines: LineOf | None, relative_to: Path | None) -> Gpu:
    """`load_gpu`."""
    if isinstance(spec, Mapping):
        top = _Layer(spec, origin, lines, place, relative_to, None)
    elif isinstance(spec, str | Path):
        top = _read(str(spec), _Layer({}, origin, lines, place, relative_to, None), ())
    else:
        user = _Layer({}, origin, lines, place, relative_to, None)
        raise user.error("not a GPU", (), spec, _known(str(spec)))
    layers = [top]
    while (base := layers[-1].data.get("base")) is not None:
        user = layers[-1]
        if not isinstance(base, str):
            raise user.error("not a GPU", ("base",), base, _known(str(base)))
        layer = _read(base, user, ("base",))
        if any(x.name is not None and Path(str(x.file)).resolve() == Path(str(layer.file)).resolve() for x in layers):
            chain = " -> ".join(str(x.name) for x in [*layers, layer] if x.name is not None)
            raise user.error(f"the bases go in a circle ({chain})", ("base",), base, "a GPU not derived from this one")
        layers.append(layer)
    return _build(layers)


def _known(name: str) -> str:
    return near_matches(name, list_gpus()) + ", or the path of a .yaml file"


def _read(spec: str, user: _Layer, key: Place) -> _Layer:
    """The file that `user` refers to by `spec` at `key`."""
    if is_path(spec):
        path = Path(os.path.expanduser(spec))
        if user.folder is not None:
            path = user.folder / path
        if not os.path.exists(path):
            raise user.error("no such file", key, spec, _known(spec))
        content = read_yaml(path)
    elif spec in list_gpus():
        path = GPU_FOLDER / f"{spec}.yaml"
        content = _bundled(path)
    else:
        raise user.error("unknown GPU", key, spec, _known(spec))
    layer = _Layer(content.data, path, content.line, "", path.parent, path.stem)
    if not isinstance(content.data, Mapping):
        raise layer.error("not a mapping", (), content.data, "the keys base, " + ", ".join(_GpuSpec.model_fields))
    return layer


@lru_cache(maxsize=64)
def _bundled(path: Path) -> YamlFile:
    """A file that comes with kinesim, read once: many scenarios of one run have the same GPU."""
    return read_yaml(path)


def _merge(under: Mapping[Any, Any], over: Mapping[Any, Any]) -> dict[Any, Any]:
    """`under` with the keys of `over` laid on top, mappings key by key; a null takes the key away."""
    merged = dict(under)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            merged[key] = _merge(merged[key] if isinstance(merged.get(key), Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def _leaves(data: Mapping[Any, Any], above: str = "") -> list[str]:
    paths = []
    for key, value in data.items():
        path = f"{above}{key}"
        paths += _leaves(value, path + ".") if isinstance(value, Mapping) else [path]
    return paths


_LABELS = {"name", "title", "vendor", "architecture", "status", "base", "sources", "origin"}
"""Top-level keys that are no figures: they need no source."""


def _figures(data: Mapping[Any, Any]) -> list[str]:
    return _leaves({k: v for k, v in data.items() if k not in _LABELS})


def _known_sources() -> list[str]:
    """What `sources` may speak of: every figure, and every group for all figures below it."""
    paths: list[str] = []
    for name, field in _GpuSpec.model_fields.items():
        if name in _LABELS:
            continue
        paths.append(name)
        if name == "peak":
            paths += [f"peak.{dtype}" for dtype in BYTES]
        kinds = [k for k in (field.annotation, *get_args(field.annotation)) if isinstance(k, type)]
        for kind in kinds:
            if issubclass(kind, _Part):
                paths += [f"{name}.{inner}" for inner in kind.model_fields]
    return paths


def _own_sources(layer: _Layer) -> dict[str, str]:
    """The `sources` of one layer, checked."""
    given = layer.data.get("sources")
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise layer.error("not a mapping", ("sources",), given, "dotted path of a figure -> its source")
    known = _known_sources()
    for path, text in given.items():
        if path not in known:
            raise layer.error("no such figure", ("sources", path), path, near_matches(str(path), known))
        if not isinstance(text, str) or not text.strip():
            raise layer.error("not a source", ("sources", path), text, "text")
    return dict(given)


def _merged(layers: list[_Layer]) -> dict[Any, Any]:
    """The content of a chain of layers, the user's first, as one mapping, with one source per figure.

    A figure that a layer overrides does not keep its base's source.
    """
    merged: dict[Any, Any] = {}
    sources: dict[str, str] = {}
    for layer in reversed(layers):
        own = {k: v for k, v in layer.data.items() if k not in ("base", "sources", "name")}
        merged = _merge(merged, own)
        given = _own_sources(layer)
        for path in _figures(own):
            source = given.get(path, given.get(path.split(".")[0]))
            if source is None and layer is not layers[-1]:
                source = f"given in {layer.file}" if layer.file is not None else "given by the user"
            if source is not None:
                sources[path] = source
        sources |= {p: s for p, s in given.items() if p not in merged}
    top = layers[0].data
    return merged | {"sources": sources} | ({"name": top["name"]} if top.get("name") is not None else {})


def _build(layers: list[_Layer]) -> Gpu:
    """The GPU of a chain of layers, the user's first and the outermost base last."""
    top = layers[0]
    merged = _merged(layers)

    def owner(where: Place) -> _Layer:
        return next((x for x in layers if x.has(where)), top)

    try:
        spec = _GpuSpec.model_validate(merged)
    except ValidationError as error:
        c = explain(error, _GpuSpec)
        raise owner(c.place).error(c.problem, c.place, c.found, c.allowed) from None
    if spec.power.idle > spec.power.tdp:
        where: Place = ("power", "idle") if top.has(("power", "idle")) else ("power", "tdp")
        found, allowed = f"idle {spec.power.idle:g} W, tdp {spec.power.tdp:g} W", "an idle power of at most the TDP"
        raise owner(where).error("idle power is above the TDP", where, found, allowed)

    base = top.data.get("base")
    modified = base is not None and bool(_figures(top.data))
    name = spec.name or top.name or (f"{base} (modified)" if modified else base or "custom")
    title = spec.title or name
    if modified and top.data.get("title") is None:
        title += ", modified"
    sources = dict(spec.sources)
    l2_bandwidth = spec.l2.bandwidth
    if l2_bandwidth is None:
        l2_bandwidth = L2_BYTES_PER_CLOCK_PER_SM * spec.sms * spec.boost_clock
        sources["l2.bandwidth"] = "derived, an upper bound: 64 B per clock and SM x sms x boost_clock"
    gpu = Gpu(
        name=name,
        title=title,
        vendor=spec.vendor,
        architecture=spec.architecture,
        status=spec.status,
        sms=spec.sms,
        boost_clock=spec.boost_clock,
        peak={d: spec.peak[d] for d in BYTES if d in spec.peak},
        memory=Memory(spec.memory.kind, spec.memory.capacity, spec.memory.bandwidth),
        l2=L2(spec.l2.size, l2_bandwidth),
        link=Link(spec.link.kind, spec.link.bandwidth, spec.link.domain),
        scale_out=ScaleOut(spec.scale_out.kind, spec.scale_out.bandwidth, spec.scale_out.latency)
        if spec.scale_out
        else None,
        pcie=Pcie(spec.pcie.generation, spec.pcie.bandwidth),
        power=Power(spec.power.tdp, spec.power.idle),
        price=Price(spec.price.usd_per_hour, spec.price.date) if spec.price else None,
        sources={},
        origin=_origin(top, name),
        base=_derived_from(layers),
    )
    # A base's source of a figure that an override took away goes with the figure.
    return dataclasses.replace(gpu, sources={p: sources[p] for p in figure_paths(gpu) if p in sources})


def _derived_from(layers: list[_Layer]) -> str | None:
    """The nearest bundled GPU in a chain of bases, which says more of a GPU than a user's file in between."""
    bases = [layer.data["base"] for layer in layers if layer.data.get("base") is not None]
    return next((base for base in bases if base in list_gpus()), bases[0] if bases else None)


def _origin(top: _Layer, name: str) -> str:
    if top.name is not None and top.folder == GPU_FOLDER:
        return top.name
    return str(top.file) if top.file is not None else name


def figure_paths(gpu: Gpu) -> list[str]:
    """Dotted paths of all figures of `gpu`, such as `memory.bandwidth`: what wants a source and what can be varied."""
    return _figures({k: v for k, v in dataclasses.asdict(gpu).items() if v is not None})


def to_spec(gpu: Gpu) -> dict[str, Any]:
    """`gpu` as a mapping that `load_gpu` reads back to the same figures: quantities as text in SI units."""
    record = dataclasses.asdict(gpu)
    del record["origin"], record["base"]
    for optional in ("price", "scale_out"):
        if record[optional] is None:
            del record[optional]
    for path, unit in _UNITS.items():
        if path == "peak":
            record["peak"] = {d: f"{v!r} {unit}" for d, v in record["peak"].items()}
            continue
        *outer, last = path.split(".")
        if outer and outer[0] not in record:
            continue
        inner = record[outer[0]] if outer else record
        inner[last] = f"{inner[last]!r} {unit}"
    return record
