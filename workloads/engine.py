"""The serving engine of a scenario: its settings, and the documented parameter sets of vLLM, SGLang and TensorRT-LLM.

A parameter set (`engines/NAME.yaml`) holds what that engine does where a user says nothing, and what its host costs: a
partial `engine` mapping of a scenario, changed by version where a version changed something. What a scenario says
itself comes before it. Without a name the engine is idealised: the defaults below, and a host that takes no time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from packaging.version import InvalidVersion, Version
from pydantic import BeforeValidator, Field, model_validator

from hwspecs.errors import InputError, near_matches
from hwspecs.validation import validate
from hwspecs.yamlfile import read_yaml
from workloads.enginememory import BytesOrZero, EngineMemory
from workloads.fields import Part, Probability, SecondsOrZero, Tokens, TokensOrZero, finite, one_of

ENGINE_FOLDER = Path(__file__).parent / "engines"
NO_ENGINE = "none"
"""The idealised engine."""
HOST, MEMORY = "host", "memory"


def list_engines() -> list[str]:
    """Names of the engines with a parameter set, sorted."""
    return sorted(path.stem for path in ENGINE_FOLDER.glob("*.yaml"))


NAMES = (NO_ENGINE, *list_engines())
"""What `engine.name` may say."""


def _engine_name(value: object) -> str:
    if not isinstance(value, str) or value not in NAMES:
        raise InputError("unknown engine", found=value, allowed=near_matches(str(value), NAMES))
    return value


EngineName = Annotated[str, BeforeValidator(_engine_name), one_of(NAMES)]


def _version(value: object) -> object:
    """YAML reads 0.12 as a number; an empty text says nothing."""
    if value == "":
        return None
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Scale = Annotated[float, BeforeValidator(finite), Field(strict=True, ge=0, le=1000)]
"""A factor on times."""


class Host(Part):
    """Time of the host's work that the GPU waits for, so that no GPU shortens it (docs/engine.md, "The host")."""

    step: SecondsOrZero = Field(default=0.0, description="Every step: scheduling, inputs, output handling.")
    sequence: SecondsOrZero = Field(default=0.0, description="Every decoding sequence of a step.")
    dense_layer: SecondsOrZero = Field(
        default=0.0, description="Every layer with a dense MLP: gaps between kernels that no table of kernels knows."
    )
    moe_layer: SecondsOrZero = Field(
        default=0.0,
        description="Every MoE layer: the same, and kernels of routing that nobody measured on their own.",
    )
    eager: SecondsOrZero = Field(
        default=0.0, description="Every layer of a step that no CUDA graph covers, one with prefill for example."
    )
    launch: SecondsOrZero = Field(
        default=0.0,
        description="A step with prefill that no CUDA graph covers takes at least so long for every layer, attention "
        "of decoding sequences apart: its kernels are launched one by one.",
    )
    moe_launch: SecondsOrZero = Field(default=0.0, description="What `launch` is more for an MoE layer.")
    prefill_share: Annotated[float, BeforeValidator(finite), Field(strict=True, ge=0, le=10)] = Field(
        default=0.0,
        description="What the kernels of a step with prefill take longer than where they were measured, as a share: "
        "they are launched one by one, with conversions between them; routing is uneven.",
    )
    block_layer: SecondsOrZero = Field(
        default=0.0, description="Every layer whose projections are scaled by blocks: activations are quantised first."
    )
    linear_layer: SecondsOrZero = Field(
        default=0.0,
        description="Every layer with linear attention: kernels around it that no table of kernels holds.",
    )
    latent_eager: SecondsOrZero = Field(
        default=0.0,
        description="What `eager` is more for a layer with latent attention: small kernels between its projections.",
    )
    latent_launch: SecondsOrZero = Field(
        default=0.0, description="What `launch` is more for a layer with latent attention."
    )
    linear_eager: SecondsOrZero = Field(
        default=0.0, description="What `eager` is more for a layer with linear attention."
    )
    block_prefill_share: Annotated[float, BeforeValidator(finite), Field(strict=True, ge=0, le=10)] = Field(
        default=0.0,
        description="What `prefill_share` is more where projections are scaled by blocks: their activations and scales "
        "are brought into form first.",
    )
    moe_eager: SecondsOrZero = Field(default=0.0, description="What `eager` is more for an MoE layer.")
    moe_prefill_share: Annotated[float, BeforeValidator(finite), Field(strict=True, ge=0, le=10)] = Field(
        default=0.0, description="What `prefill_share` is more for a model all of whose layers are MoE layers."
    )
    chunk: SecondsOrZero = Field(default=0.0, description="Every prompt, or chunk of one, that a step prefills.")
    request: SecondsOrZero = Field(
        default=0.0, description="From a request's arrival to the scheduler's queue: HTTP and what comes with it."
    )
    token: SecondsOrZero = Field(
        default=0.0, description="The same for every token of its prompt: tokenising, passing it on."
    )


class Range(Part):
    """Evenly spaced numbers of sequences."""

    first: Annotated[int, Field(strict=True, ge=1, le=65_536)] = Field(description="The smallest.")
    last: Annotated[int, Field(strict=True, ge=1, le=65_536)] = Field(description="The largest, if a step ends there.")
    step: Annotated[int, Field(strict=True, ge=1, le=65_536)] = Field(description="From one to the next.")


class CudaGraphs(Part):
    """Batch sizes for which decode steps were captured as CUDA graphs."""

    sizes: list[Annotated[int, Field(strict=True, ge=1, le=65_536)]] = Field(
        default_factory=list, description="Numbers of sequences."
    )
    ranges: list[Range] = Field(default_factory=list, description="More of them.")
    padding: bool = Field(
        default=True,
        strict=True,
        description="Whether a decode step is padded to the next size; without, one of another size has no graph.",
    )

    mixed_tokens: TokensOrZero = Field(
        default=0, description="Tokens of the largest step with prefill that graphs cover all but the attention of."
    )

    @property
    def all_sizes(self) -> tuple[int, ...]:
        """The sizes, ascending."""
        found = set(self.sizes)
        for part in self.ranges:
            found |= set(range(part.first, part.last + 1, part.step))
        return tuple(sorted(found))

    @model_validator(mode="after")
    def _some(self) -> CudaGraphs:
        if not self.all_sizes:
            raise InputError("no size is captured", place="sizes", found="[]", allowed="sizes, or ranges of them")
        return self


class Engine(Part):
    """Settings of the serving engine; names as in vLLM where it has them."""

    name: EngineName = Field(
        default=NO_ENGINE,
        description="Whose defaults, scheduling and host costs; `none`: an idealised engine, its host takes no time.",
    )
    version: Annotated[str | None, BeforeValidator(_version)] = Field(
        default=None, description="Of the engine; the nearest known one is taken. Left out: the newest known."
    )
    max_num_seqs: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = Field(
        default=256, description="Sequences that run at once on a replica (on each rank of attention data parallelism)."
    )
    max_num_batched_tokens: Tokens = Field(
        default=8192, description="Tokens that one step computes at most (on each rank, in each micro-batch)."
    )
    block_size: Annotated[int, Field(strict=True, ge=1, le=65_536)] = Field(
        default=16, description="Tokens in a KV block."
    )
    memory_utilisation: Annotated[float, BeforeValidator(finite), Field(strict=True, gt=0, le=1)] = Field(
        default=0.9, description="Share of the GPU's memory that the engine uses, by the engine's own rule."
    )
    chunked_prefill: bool = Field(
        default=True, strict=True, description="Split prompts over steps and mix them with decode."
    )
    prefill: Literal["mixed", "first"] = Field(
        default="mixed",
        description="Whether a step may prefill and decode, or prefills first, in steps without decode.",
    )
    reserve_output: Probability = Field(
        default=0.0,
        description="Share of a request's output whose KV must be free when it is admitted; at 1 nothing is preempted.",
    )
    batch_wait_steps: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = Field(
        default=0, description="Steps that new requests are held back at most, to be prefilled together."
    )
    batch_wait_tokens: TokensOrZero = Field(
        default=0, description="Prompt tokens that end that wait early; 0: nothing does."
    )
    overlap_scheduling: bool = Field(
        default=False,
        strict=True,
        description="Whether the host prepares the next step while the GPU computes (asynchronous scheduling); a new "
        "request waits a step longer.",
    )
    receive_interval: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = Field(
        default=1,
        description="Decode steps from one look at what requests have come to the next, with overlap_scheduling; "
        "after a step with prefill there is always one.",
    )
    cuda_graphs: CudaGraphs | None = Field(
        default=None, description="Left out: every decode step is one, of its own size."
    )
    fused_rows: Literal["none", "all_reduce", "all"] = Field(
        default="none",
        description="What passes over rows inside neighbouring kernels, without a launch of its own: norms within the "
        "all-reduce before them, or all norms, activations and rotations.",
    )
    all_to_all: Literal["none", "high_throughput", "low_latency", "auto"] = Field(
        default="none",
        description="`parallelism.all_to_all` where that is left out, and several ranks of attention share experts "
        "that are whole on every GPU.",
    )
    shared_stream: TokensOrZero = Field(
        default=0,
        description="Tokens of a step up to which the shared experts of an MoE run beside the others, on a stream of "
        "their own.",
    )
    shared_experts: Literal["split", "repeated"] = Field(
        default="split", description="`parallelism.shared_experts` where that is left out."
    )
    watermark: Annotated[float, BeforeValidator(finite), Field(strict=True, ge=0, lt=1)] = Field(
        default=0.01, description="Share of the KV blocks that admitting a request leaves free."
    )
    prefix_sharing: bool = Field(
        default=True, strict=True, description="Keep the KV of common prompt prefixes once, and find it again."
    )
    scheduling: Literal["fcfs", "priority"] = Field(
        default="fcfs",
        description="Which request goes first: the one that came first, or the one with the lowest priority.",
    )
    max_model_len: Tokens | None = Field(
        default=None,
        description="Longest sequence, prompt and output; longer requests are rejected. Left out: the model's context.",
    )
    memory: EngineMemory | None = Field(
        default=None, description="How a GPU's memory is divided; left out, as the engine's."
    )
    host: Host = Field(default_factory=Host, description="Time that the host takes; left out, as the engine's.")
    host_factor: Scale = Field(default=1.0, description="Factor on all of the host's seconds: 0.5 is twice as fast.")
    launch_factor: Scale = Field(
        default=1.0,
        description="Factor on what every kernel takes whatever the rates of the GPU: its launch and its latency.",
    )


class _Change(Part):
    """What a version changed, or what is different on some GPUs."""

    since: str | None = Field(default=None, description="The first version that does it.")
    memory_below: BytesOrZero | None = Field(default=None, description="Only on GPUs with less memory.")
    architectures: list[str] | None = Field(default=None, description="Only on GPUs of these architectures.")
    gpus: list[str] | None = Field(
        default=None, description="Only on these GPUs, and what is derived from them: those have hosts of an age."
    )
    overlap: bool | None = Field(default=None, description="Only with or without overlap_scheduling.")
    what: str = Field(description="In words.")
    engine: dict[str, Any] = Field(default_factory=dict, description="Settings that it changes.")


class _File(Part):
    """A parameter set's file."""

    title: str
    versions: list[str] = Field(min_length=2, max_length=2, description="The oldest and the newest known version.")
    sources: list[str]
    engine: dict[str, Any]
    changes: list[_Change] = Field(default_factory=list)


@dataclass(frozen=True)
class EngineSet:
    """An engine's parameter set at one version.

    Attributes
    ----------
    name, title : of the engine. version : the known one that was taken.
    settings : a partial `engine` mapping, checked.
    note : what has to be said of the version, empty if it is known.
    """

    name: str
    title: str
    version: str
    settings: Mapping[str, Any]
    note: str


@lru_cache(maxsize=16)
def _read(name: str) -> tuple[Path, _File]:
    """An engine's file and what is in it, read once."""
    path = ENGINE_FOLDER / f"{name}.yaml"
    return path, validate(_File, read_yaml(path).data, file=path)


@lru_cache(maxsize=64)
def engine_set(
    name: str,
    version: str | None = None,
    memory: float = math.inf,
    overlap: bool | None = None,
    architecture: str = "",
    gpu: str = "",
) -> EngineSet:
    """The parameter set of engine `name` at `version`, the newest if not given, on a GPU with `memory` bytes.

    `overlap` : whether overlap_scheduling is on; left out, as the version has it. `architecture` : of the GPU, and
    `gpu` its name, or that of the one it was derived from.

    Changes count in the order of the file. A version outside of those known gives the nearest, one that is none gives
    the newest; `note` says so.
    """
    path, file = _read(name)
    oldest, newest = (Version(text) for text in file.versions)
    taken, note = newest, ""
    if version is not None:
        try:
            asked = Version(version)
        except InvalidVersion:
            note = f"{file.title} {version} is no version number: taken as {newest}, the newest"
        else:
            taken = min(max(asked, oldest), newest)
            if taken != asked:
                note = f"{file.title} {version} is not known: taken as {taken}, the nearest"
    settings = dict(file.engine)
    for change in file.changes:
        late = change.since is not None and Version(change.since) > taken
        other = change.overlap not in (None, settings.get("overlap_scheduling", False) if overlap is None else overlap)
        other |= change.architectures is not None and architecture not in change.architectures
        other |= change.gpus is not None and gpu not in change.gpus
        if not late and not other and (change.memory_below is None or memory < change.memory_below):
            parts = {key: {**settings.get(key, {}), **change.engine.get(key, {})} for key in (HOST, MEMORY)}
            settings |= change.engine | {key: part for key, part in parts.items() if part}
    checked = validate(Engine, settings, file=path).model_dump(exclude_unset=True)
    return EngineSet(name, file.title, str(taken), checked, note)


def resolve_engine(given: Engine, memory: float, gpus: int = 1, architecture: str = "", gpu: str = "") -> Engine:
    """`given` with what it leaves out filled in from its engine's parameter set.

    `memory` : bytes of a GPU; `gpus` : those of tensor and pipeline parallelism; `architecture`, `gpu` : as in
    `engine_set`.
    """
    if given.name == NO_ENGINE:
        return given
    said = given.model_dump(exclude_unset=True)
    overlap = said.get("overlap_scheduling")
    settings = dict(engine_set(given.name, given.version, memory, overlap, architecture, gpu).settings)
    host = {**settings.pop(HOST, {}), **said.pop(HOST, {})}
    parts: dict[str, Part] = {HOST: Host(**host)}
    if divided := {**settings.pop(MEMORY, {}), **(said.pop(MEMORY, None) or {})}:
        parts[MEMORY] = EngineMemory(**divided)
    engine = Engine(**{**settings, **said, **parts})
    if engine.memory is None or engine.memory.margin is None or "memory_utilisation" in said:
        return engine
    graph = engine.cuda_graphs.all_sizes[-1] if engine.cuda_graphs else 0
    share = engine.memory.margin.share(memory, tokens=engine.max_num_batched_tokens, graph=graph, gpus=gpus)
    return engine.model_copy(update={"memory_utilisation": share})
