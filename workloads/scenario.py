"""Scenarios: what is simulated, read from YAML, checked as a whole, and given back as plain data.

A scenario names a GPU, a model, an engine's settings, a deployment and a workload. Everything that can be wrong with it
is found when it is loaded. Whether the model fits into the GPU's memory, and the profile's content, are left to the
simulator; the rows of a trace are checked when the workload is generated.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from hwspecs.errors import InputError, near_matches
from hwspecs.gpu import Gpu, list_gpus, load_gpu, to_spec
from hwspecs.gpu import is_path as is_gpu_path
from hwspecs.validation import validate
from hwspecs.yamlfile import parse_yaml, place_text, read_yaml
from workloads.arrivals import AllAtOnce, Arrivals, FromTrace
from workloads.attention import AttentionPolicy, Dense
from workloads.disaggregation import (
    POOLS,
    Disaggregation,
    PoolPart,
    ResolvedWire,
    RouterName,
    check_pools,
    pool_data,
    resolve_wire,
)
from workloads.engine import NAMES, Engine, resolve_engine
from workloads.fields import Count, Part, Seconds, SecondsOrZero, finite, short_form
from workloads.formats import LINEAR_FORMATS
from workloads.lengths import Lengths, Table, check_weights
from workloads.model import Model, find_model, load_model
from workloads.parallelism import Parallelism
from workloads.precision import Fail, Precision, check_engine, resolve
from workloads.routers import PREFIX_AWARE
from workloads.speculation import Speculation
from workloads.strategies import BestOfN, Strategy

SCENARIO_FOLDER = Path(__file__).parent / "scenarios"

TRACE_FORMATS = (
    "a CSV with the columns arrival_s,input_len,output_len or Azure's TIMESTAMP,ContextTokens,GeneratedTokens, "
    "or Mooncake's JSONL"
)

Place = tuple[str | int, ...]
_CHANGED = " (changed: "


# ---- the file's content ----------------------------------------------------------------------------------------------


_kind_only, _kind_only_schema = short_form(str, "kind", {"enum": ["dense"]})
_name_only, _name_only_schema = short_form(str, "name", {"enum": list(NAMES)})
_linear_only, _linear_only_schema = short_form(str, "linear", {"enum": ["auto", *LINEAR_FORMATS]})


class TraceFile(Part):
    """A recorded workload: arrivals and lengths."""

    path: str | None = Field(default=None, description=f"{TRACE_FORMATS}; relative to this file.")
    limit: Count | None = Field(default=None, description="Only the first requests, that many.")
    time_scale: Annotated[float, BeforeValidator(finite), Field(strict=True, ge=1e-9, le=1e9)] = Field(
        default=1.0, description="Factor on all times: 2 is twice as slow."
    )
    start: SecondsOrZero = Field(default=0.0, description="Leave out what arrives before, and begin there.")

    @property
    def file(self) -> Path:
        """The trace's path; a loaded scenario has one."""
        assert self.path is not None
        return Path(self.path)


class Priority(Part):
    """Priorities, drawn for each job; they count with `engine.scheduling: priority`."""

    values: list[Annotated[int, Field(strict=True, ge=-(2**31), le=2**31)]] = Field(
        min_length=1, description="Priorities; lower goes first."
    )
    weights: list[Annotated[float, BeforeValidator(finite), Field(ge=0)]] | None = Field(
        default=None, description="Relative frequency of each; left out: all alike."
    )

    @model_validator(mode="after")
    def _matching(self) -> Priority:
        check_weights(self.values, self.weights)
        return self


class Workload(Part):
    """What is asked: problems, how each is answered, and when they come."""

    strategy: Strategy = Field(description="How a problem is answered.")
    requests: Count | None = Field(
        default=None,
        description="Number of jobs: problems with best_of_n, requests otherwise. With a trace: at most so many of it.",
    )
    prompt_tokens: Lengths = Field(
        default=None, description="Length of a problem's prompt, shared by its samples. Not with a trace."
    )
    output_tokens: Lengths = Field(
        default=None, description="Length of an output if nothing cuts it. Not with a trace."
    )
    arrivals: Arrivals = Field(
        default=None, description="When jobs arrive. Left out: as in the trace if there is one, else all at once."
    )
    trace: TraceFile | None = Field(default=None, description="A recorded workload in place of drawn lengths.")
    priority: Priority | None = Field(
        default=None, description="Priorities; left out: those of the trace if it has any, else all alike."
    )
    timeout: Seconds | None = Field(
        default=None, description="Time after which a request that is not finished is given up; left out: never."
    )

    @property
    def trace_limit(self) -> int | None:
        """How many requests of the trace are used at most."""
        return self.trace.limit if self.trace and self.trace.limit is not None else self.requests

    @model_validator(mode="after")
    def _complete(self) -> Workload:
        if self.trace is None:
            if isinstance(self.arrivals, FromTrace):
                problem = "arrivals as in a trace need one"
                raise InputError(problem, place="arrivals.kind", found="trace", allowed="a `trace`, or other arrivals")
            for name, allowed in (
                ("requests", "the number of jobs, an integer >= 1; or a `trace`"),
                ("prompt_tokens", "a number of tokens or a distribution; or a `trace`"),
                ("output_tokens", "a number of tokens or a distribution; or a `trace`"),
            ):
                if getattr(self, name) is None:
                    raise InputError("a required key is missing", place=name, allowed=allowed)
            assert self.requests is not None
            if isinstance(self.strategy, BestOfN) and self.requests * self.strategy.samples > 100_000_000:
                found = f"{self.requests:,} problems x {self.strategy.samples:,} samples"
                raise InputError("too many requests", place="requests", found=found, allowed="100,000,000 together")
            return self
        if self.trace.path is None:
            problem = "this workload needs a trace"
            allowed = f"--set workload.trace.path=FILE, {TRACE_FORMATS}"
            raise InputError(problem, place="trace.path", allowed=allowed)
        if isinstance(self.strategy, BestOfN):
            problem = "a trace has one output a request, not N samples"
            raise InputError(problem, place="strategy.kind", found="best_of_n", allowed="chat or long_cot with a trace")
        for name in ("prompt_tokens", "output_tokens"):
            value = getattr(self, name)
            if value is not None:
                found = value.model_dump(exclude_none=True)
                raise InputError(
                    "given by the trace already", place=name, found=found, allowed="nothing beside a trace"
                )
        if self.requests is not None and self.trace.limit is not None:
            allowed = "either `requests` or `trace.limit`"
            raise InputError(
                "the number of requests is given twice", place="requests", found=self.requests, allowed=allowed
            )
        return self


class Objective(Part):
    """What counts as served well; goodput is the share, or the rate, of the requests that meet all of it."""

    ttft: Seconds | None = Field(default=None, description="Time to first token.")
    tpot: Seconds | None = Field(default=None, description="Mean time per output token after the first.")
    e2e: Seconds | None = Field(default=None, description="End-to-end latency.")

    @model_validator(mode="after")
    def _something(self) -> Objective:
        if self.ttft is None and self.tpot is None and self.e2e is None:
            raise InputError("an objective without a limit", allowed="at least one of ttft, tpot, e2e")
        return self


class Scenario(Part):
    """A kinesim scenario: a model on GPUs under a workload."""

    name: str = Field(default="scenario", min_length=1, description="Short name, shown in results.")
    description: str = Field(default="", description="What is simulated, for people.")
    gpu: str | dict[str, Any] = Field(
        description="A bundled GPU, the path of a GPU's YAML, or a mapping {base: .., and what differs}."
    )
    model: str | dict[str, Any] = Field(
        description="A bundled model, the path of a Hugging Face config.json or its folder, or a mapping "
        "{base: .., and the configuration keys that differ}."
    )
    precision: Annotated[Precision, _linear_only, _linear_only_schema] = Field(
        default_factory=Precision, description="Number formats: one for all linear layers, or a mapping."
    )
    parallelism: Parallelism = Field(default_factory=Parallelism, description="How one replica is spread over GPUs.")
    attention: Annotated[AttentionPolicy, _kind_only, _kind_only_schema] = Field(
        default_factory=Dense, description="How much of its past a token reads."
    )
    speculation: Speculation | None = Field(
        default=None, description="Tokens that are drafted and verified in a step; left out: none."
    )
    engine: Annotated[Engine, _name_only, _name_only_schema] = Field(
        default_factory=Engine, description="Settings of the serving engine; a name alone: as that engine does."
    )
    replicas: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = Field(
        default=1, description="Engines that work side by side, each with its own GPUs."
    )
    router: RouterName = Field(default="round_robin", description="Which replica a request goes to.")
    disaggregation: Disaggregation | None = Field(
        default=None, description="Prefill and decode on workers of their own, in place of replicas that do both."
    )
    workload: Workload = Field(description="What is asked.")
    objective: Objective | None = Field(default=None, description="What counts as served well.")
    profile: str = Field(
        default="auto",
        min_length=1,
        description="How far from the ideal roofline the software is: auto (fitted to the GPU, or carried to it), a "
        "name of `kinesim list profiles`, or the path of a profile (.yaml, .npz).",
    )
    seed: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] = Field(
        default=0, description="Everything random follows from it."
    )


def scenario_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a scenario file, for editors and for the documentation."""
    schema = Scenario.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "kinesim scenario"
    return schema


# ---- loading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedScenario:
    """A scenario that has been checked.

    Attributes
    ----------
    config : with everything filled in: no format is `auto`, `engine.max_model_len` and `workload.arrivals` are set, and
        all paths are absolute.
    gpu, model : what `config.gpu` and `config.model` describe.
    drafter : the model that drafts, of method draft_model.
    pools : with disaggregation, the scenarios whose replicas are the prefill and the decode workers; the engine of the
        scenario itself is then that of the decode workers. wire : the link between them.
    origin : the bundled name or the file; `<dict>` for a mapping.
    base_dir : folder to which the scenario's relative paths referred.
    given : what was read, with all assignments and nothing filled in: `load_scenario` makes the same of it, and with
        further assignments what it would have made of them in the first place.
    """

    config: Scenario
    gpu: Gpu
    model: Model
    origin: str
    base_dir: Path
    drafter: Model | None = None
    pools: tuple[LoadedScenario, LoadedScenario] | None = None
    wire: ResolvedWire | None = None
    given: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    def to_dict(self, *, embed: bool = False) -> dict[str, Any]:
        """The scenario as plain data that `load_scenario` reads back to the same one.

        Parameters
        ----------
        embed : write out bundled GPUs and models too, in place of their names, so that the result does not depend on
            the files of this version. Others are always written out.
        """
        data = self.config.model_dump(mode="json", by_alias=True, exclude_none=True)
        bundled = isinstance(self.config.gpu, str) and self.config.gpu in list_gpus()
        data["gpu"] = self.gpu.name if bundled and not embed else _gpu_spec(self.gpu)
        bundled = isinstance(self.config.model, str) and self.model.name == self.model.origin
        whole = {**copy.deepcopy(dict(self.model.config)), "name": self.model.name}
        data["model"] = self.model.name if bundled and not embed else whole
        for name, pool in zip(POOLS, self.pools or (), strict=False):
            if "gpu" in data["disaggregation"][name]:
                data["disaggregation"][name]["gpu"] = pool.to_dict(embed=embed)["gpu"]
        if self.drafter is not None:
            whole = {**copy.deepcopy(dict(self.drafter.config)), "name": self.drafter.name}
            bundled = self.drafter.name == self.drafter.origin
            data["speculation"]["model"] = self.drafter.name if bundled and not embed else whole
        return data


def _gpu_spec(gpu: Gpu) -> dict[str, Any]:
    """The GPU written out, still saying which bundled one it was derived from."""
    spec = to_spec(gpu)
    if gpu.base in list_gpus():
        removed = set(load_gpu(gpu.base).peak) - set(gpu.peak)
        spec["peak"] |= dict.fromkeys(removed)
        spec["base"] = gpu.base
    return spec


def list_scenarios() -> list[str]:
    """Names of the bundled scenarios, sorted."""
    return sorted(path.stem for path in SCENARIO_FOLDER.glob("*.yaml"))


def load_scenario(spec: str | Path | Mapping[str, Any], sets: Sequence[str] = ()) -> LoadedScenario:
    """Read, change and check a scenario.

    Parameters
    ----------
    spec : a bundled name, the path of a YAML file (ends in .yaml or .yml, or contains a `/`), or a mapping with a
        file's content (whose relative paths refer to the current folder).
    sets : assignments `path=value`, applied in order before anything is checked. The value is YAML, so `{kind: poisson,
        rate: 2}` replaces a whole part. A path into a GPU or a model given by name changes that GPU or model. Relative
        paths in a value refer to the current folder.

    Raises
    ------
    InputError : whatever is wrong, with file, line and place; the file is `--set` for what an assignment brought in.
    """
    data, file, line_of, base_dir, name = _read(spec)
    if not isinstance(data, Mapping):
        allowed = "a mapping with the keys " + ", ".join(Scenario.model_fields)
        raise InputError("not a scenario", file=file, found=data, allowed=allowed)
    original = data
    data = copy.deepcopy(dict(data))
    _absolute_paths(data, base_dir)
    assigned = _assign_all(data, sets)
    data.setdefault("name", name)
    _tell_changes(data, assigned, sets)
    try:
        return replace(_check(data, file, base_dir), given=data)
    except InputError as error:
        if error.file != file:
            raise  # inside a file that the scenario refers to
        where = error.place or ""
        by_set = _from_set(where, assigned, original)
        raise InputError(
            error.problem,
            file="--set" if by_set else file,
            place=error.place,
            line=line_of(_split(where)) if line_of and not by_set else None,
            found=error.found,
            allowed=error.allowed,
        ) from None


def _tell_changes(data: dict[str, Any], assigned: Sequence[Place], sets: Sequence[str]) -> None:
    """Add to the description what was assigned, since it speaks of the scenario as it was written."""
    said = data.get("description")
    if sets and said and isinstance(said, str) and ("description",) not in assigned:
        before, with_word, earlier = said.removesuffix(")").partition(_CHANGED)
        known = f"{earlier}, " if with_word else ""
        data["description"] = f"{before if with_word else said}{_CHANGED}{known}{', '.join(sets)})"


def with_sets(data: Mapping[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    """A scenario file's content with assignments of `--set` put in, not checked yet. Raises InputError for one that is
    none.
    """
    changed = copy.deepcopy(dict(data))
    _assign_all(changed, sets)
    return changed


def _assign_all(data: dict[str, Any], sets: Sequence[str]) -> list[Place]:
    """Put the assignments into `data`, paths of files made absolute; their places."""
    assigned: list[Place] = []
    for text in sets:
        place, value = _parse_set(text)
        part = _nested(place, value)
        _absolute_paths(part, Path.cwd())
        _assign(data, place, _at(part, place), text)
        assigned.append(place)
    return assigned


def scenario_data(
    spec: str | Path | Mapping[str, Any], assignments: Mapping[str, Any] | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """A scenario's content as it was written, changed and with absolute paths, for `load_scenario` to take anywhere.

    Parameters
    ----------
    spec : as of `load_scenario`.
    assignments : path -> plain value, applied in order, as `load_scenario` does with texts.
    folder : to which relative paths in their values refer; the current one if left out.

    Raises
    ------
    InputError : no such scenario, no mapping, or a path that is none or leads nowhere. Nothing else is checked.
    """
    data, file, _, base_dir, name = _read(spec)
    if not isinstance(data, Mapping):
        allowed = "a mapping with the keys " + ", ".join(Scenario.model_fields)
        raise InputError("not a scenario", file=file, found=data, allowed=allowed)
    data = copy.deepcopy(dict(data))
    _absolute_paths(data, base_dir)
    data.setdefault("name", name)
    for path, value in (assignments or {}).items():
        place = _path_place(path, "a path such as engine.max_num_seqs or gpu.memory.bandwidth")
        part = _nested(place, copy.deepcopy(value))
        _absolute_paths(part, folder or Path.cwd())
        _assign(data, place, _at(part, place), path)
    return data


def _read(spec: object) -> tuple[Any, object, Any, Path, str]:
    """Content, file for messages, lines, folder of relative paths and default name."""
    if isinstance(spec, Mapping):
        return spec, "<dict>", None, Path.cwd(), "scenario"
    allowed = near_matches(str(spec), list_scenarios()) + ", or the path of a .yaml file"
    if not isinstance(spec, str | Path) or not str(spec):
        raise InputError("not a scenario", place="scenario", found=spec, allowed=allowed)
    if str(spec) in list_scenarios():
        path = SCENARIO_FOLDER / f"{spec}.yaml"
    elif isinstance(spec, Path) or spec.endswith((".yaml", ".yml")) or "/" in spec:
        path = Path(os.path.expanduser(spec))
        if not os.path.exists(path):
            raise InputError("no such file", file=path, place="scenario", found=str(spec), allowed=allowed)
    else:
        raise InputError("unknown scenario", place="scenario", found=spec, allowed=allowed)
    content = read_yaml(path)
    return content.data, path, content.line, path.resolve().parent, path.stem


def _check(data: dict[str, Any], file: object, base_dir: Path) -> LoadedScenario:
    """Errors get `file` and a place; the caller knows the line, or the assignment, that belongs to it."""
    config = validate(Scenario, data, file=file)
    if config.disaggregation is not None:
        return _check_pools(config, data, file, base_dir)

    def fail(problem: str, place: str, found: object, allowed: str) -> InputError:
        return InputError(problem, file=file, place=place, found=found, allowed=allowed)

    gpu = load_gpu(config.gpu, origin=file, place="gpu")
    model = load_model(config.model, origin=file, place="model")

    precision = resolve(config.precision, model, gpu, fail)

    workload, sharing = config.workload, config.parallelism.tensor * config.parallelism.pipeline
    engine = resolve_engine(config.engine, gpu.memory.capacity, sharing, gpu.architecture, gpu.base or gpu.name)
    spread = config.parallelism
    share = spread.tensor * spread.attention_data // spread.expert or 1
    if engine.name == "trtllm" and gpu.vendor.lower() != "nvidia":
        raise fail("TensorRT-LLM runs on NVIDIA's GPUs only", "engine.name", engine.name, "vllm, sglang, none")
    check_engine(precision, model, engine.name, spread.tensor, share, fail)
    drafter = _drafter(config.speculation, model, file, fail)
    max_len = engine.max_model_len or model.max_context
    if max_len > model.max_context:
        problem = f"longer than the context of {model.name}"
        raise fail(problem, "engine.max_model_len", max_len, f"at most {model.max_context:,}")
    least, why = engine.max_num_seqs, "max_num_seqs, so that every running sequence can decode"
    if config.speculation is not None:
        least *= config.speculation.tokens + 1
        why = "max_num_seqs x (speculation.tokens + 1), so that every running sequence can decode"
    # An engine that never preempts computes no more than the prompt in one step: `engine.check_servable` sees to it.
    if not engine.chunked_prefill and engine.reserve_output < 1 and max_len > least:
        least, why = max_len, "max_model_len, because without chunked_prefill a prompt is computed in one step"
    if engine.max_num_batched_tokens < least:
        given = data.get("engine")
        named = "max_num_batched_tokens" if isinstance(given, Mapping) and "max_num_batched_tokens" in given else None
        culprit = named or ("max_num_seqs" if engine.chunked_prefill else "chunked_prefill")
        found = engine.max_num_batched_tokens if named else f"max_num_batched_tokens {engine.max_num_batched_tokens:,}"
        problem = "too few tokens for one step"
        raise fail(problem, f"engine.{culprit}", found, f"max_num_batched_tokens of at least {least:,} ({why})")

    if workload.trace is not None:
        from workloads.traces import HASH_TOKENS, is_mooncake

        try:
            hashed = is_mooncake(workload.trace.file)
        except InputError as error:
            raise fail(error.problem, "workload.trace.path", workload.trace.path, TRACE_FORMATS) from None
        if hashed and engine.prefix_sharing and HASH_TOKENS % engine.block_size:
            problem = f"KV blocks do not divide the trace's prefix blocks of {HASH_TOKENS} tokens"
            allowed = f"a divisor of {HASH_TOKENS}, or prefix_sharing: false"
            raise fail(problem, "engine.block_size", engine.block_size, allowed)
    prefixes = isinstance(workload.strategy, BestOfN) or (workload.trace is not None and hashed)
    if config.router == PREFIX_AWARE and not (prefixes and engine.prefix_sharing):
        problem = "this router needs prefixes that requests share"
        found = f"{PREFIX_AWARE}, with " + ("engine.prefix_sharing false" if prefixes else "prompts that share nothing")
        allowed = "another router, or a trace with prefix hashes (Mooncake's JSONL), or best_of_n, and prefix_sharing"
        raise fail(problem, "router", found, allowed)
    for key in ("prompt_tokens", "output_tokens"):
        lengths = getattr(workload, key)
        if isinstance(lengths, Table) and not os.path.isfile(lengths.path):
            raise fail("no such file", f"workload.{key}.path", lengths.path, "a .csv or .parquet file")

    arrivals = workload.arrivals or (AllAtOnce() if workload.trace is None else FromTrace(kind="trace"))
    config = config.model_copy(
        update={
            "precision": precision,
            "engine": engine.model_copy(update={"max_model_len": max_len}),
            "workload": workload.model_copy(update={"arrivals": arrivals}),
        }
    )
    return LoadedScenario(config, gpu, model, str(file), base_dir, drafter)


def _check_pools(config: Scenario, data: dict[str, Any], file: object, base_dir: Path) -> LoadedScenario:
    """The same for prefill and decode workers: the replicas of two scenarios that differ in what the pools say."""
    said = config.disaggregation
    assert said is not None
    for key, left in (("replicas", 1), ("router", "round_robin")):
        if getattr(config, key) != left:
            problem = "prefill and decode workers have their own"
            allowed = f"disaggregation.prefill.{key} and disaggregation.decode.{key}"
            raise InputError(problem, file=file, place=key, found=getattr(config, key), allowed=allowed)
    if config.parallelism != Parallelism() and all(said.pool(name).parallelism is not None for name in POOLS):
        found = config.parallelism.model_dump(exclude_defaults=True)
        allowed = "disaggregation.prefill.parallelism and disaggregation.decode.parallelism alone"
        raise InputError("both pools have their own", file=file, place="parallelism", found=found, allowed=allowed)
    loaded = []
    for name in POOLS:
        try:
            loaded.append(_check(pool_data(data, name), file, base_dir))
        except InputError as error:
            if error.file != file:
                raise
            raise _in_pool(error, data["disaggregation"][name], name) from None
    prefill, decode = loaded
    gpus = sum(pool.config.replicas * _gpus_each(pool.config.parallelism) for pool in loaded)
    try:
        engines = {name: pool.config.engine for name, pool in zip(POOLS, loaded, strict=True)}
        heads = [pool.config.parallelism.tensor if decode.model.latent is None else 1 for pool in loaded]
        check_pools(said, engines, heads)
        wire = resolve_wire(said.link, (prefill.gpu, decode.gpu), gpus)
    except InputError as error:
        raise error.at(file=file) from None
    parts = {
        name: PoolPart(
            replicas=pool.config.replicas,
            parallelism=pool.config.parallelism,
            engine=pool.config.engine.model_dump(mode="json", exclude_none=True),
            gpu=said.pool(name).gpu,
            router=pool.config.router,
        )
        for name, pool in zip(POOLS, loaded, strict=True)
    }
    config = config.model_copy(
        update={
            "parallelism": Parallelism(),  # each pool says its own from here on
            "precision": decode.config.precision,
            "engine": decode.config.engine,
            "workload": decode.config.workload,
            "disaggregation": said.model_copy(update=parts),
        }
    )
    gpu = load_gpu(config.gpu, origin=file, place="gpu")
    return LoadedScenario(config, gpu, decode.model, str(file), base_dir, decode.drafter, (prefill, decode), wire)


def _gpus_each(parallelism: Parallelism) -> int:
    return parallelism.tensor * parallelism.attention_data * parallelism.pipeline


def _in_pool(error: InputError, part: Mapping[str, Any], name: str) -> InputError:
    """The error with the place of what a pool says itself."""
    place = error.place or ""
    node: Any = part
    for key in place.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    if node is None and place.partition(".")[0] not in part:
        return error
    where = f"disaggregation.{name}.{place}"
    return InputError(error.problem, file=error.file, place=where, found=error.found, allowed=error.allowed)


def _drafter(speculation: Speculation | None, model: Model, file: object, fail: Fail) -> Model | None:
    """The model that drafts beside `model`; None if it does so itself, or nothing does."""
    if speculation is None:
        return None
    if speculation.method == "mtp" and not model.draft_layers:
        allowed = "a model whose checkpoint has a prediction module, or method draft_model or ngram"
        raise fail(f"{model.name} has no module to predict further tokens", "speculation.method", "mtp", allowed)
    if speculation.model is None:
        return None
    drafter = load_model(speculation.model, origin=file, place="speculation.model")
    if drafter.vocab != model.vocab:
        problem = f"does not speak the vocabulary of {model.name}"
        found = f"{drafter.name}, {drafter.vocab:,} tokens"
        raise fail(problem, "speculation.model", found, f"a model with {model.vocab:,} tokens")
    return drafter


# ---- assignments -----------------------------------------------------------------------------------------------------


def _parse_set(text: str) -> tuple[Place, Any]:
    """`engine.block_size=32` -> (("engine", "block_size"), 32)."""
    allowed = "PATH=VALUE such as engine.max_num_seqs=128 or gpu.memory.bandwidth='9.6 TB/s'"
    name, equals, value = str(text).partition("=")
    if not equals or not name.strip():
        raise InputError("not an assignment", file="--set", found=text, allowed=allowed)
    place = _path_place(name, allowed)
    if not value.strip():
        return place, None
    try:
        return place, parse_yaml(value, "--set").data
    except InputError as error:
        problem = f"the value {error.problem}"
        raise InputError(problem, file="--set", place=name.strip(), found=value, allowed="a YAML value") from None


def _path_place(name: str, allowed: str) -> Place:
    """The place that a path names. InputError if it is none."""
    if not re.fullmatch(r"[^.\[\]]+(\[\d{1,9}\])*(\.[^.\[\]]+(\[\d{1,9}\])*)*", name.strip()):
        raise InputError("not a path", file="--set", found=name, allowed=allowed)
    return _split(name.strip())


def _split(place: str) -> Place:
    """`a[0].b` -> ("a", 0, "b"), the inverse of `place_text`."""
    return tuple(int(i) if i else key for key, i in re.findall(r"([^.\[\]]+)(?!\])|\[(\d+)\]", place))


def _nested(place: Place, value: Any) -> dict[Any, Any]:
    """`("a", "b"), 1` -> `{"a": {"b": 1}}`."""
    for part in reversed(place):
        value = {part: value}
    return value


def _at(data: Any, place: Place) -> Any:
    for part in place:
        data = data[part]
    return data


_NAMED: dict[Place, str] = {
    ("gpu",): "base",
    ("model",): "base",
    ("attention",): "kind",
    ("precision",): "linear",
    ("engine",): "name",
    ("disaggregation", "prefill", "gpu"): "base",
    ("disaggregation", "decode", "gpu"): "base",
    ("disaggregation", "transfer", "link"): "name",
    ("workload", "strategy"): "kind",
    ("workload", "arrivals"): "kind",
}
"""Parts that a bare text may stand for, and the key that it stands for."""


def _assign(data: dict[str, Any], place: Place, value: Any, text: str) -> None:
    """Put `value` at `place`, making the mappings on the way; a part given by its name alone becomes a mapping."""
    node: Any = data
    for i, part in enumerate(place):
        if isinstance(part, int) != isinstance(node, list) or (isinstance(part, int) and part >= len(node)):
            here, there = place_text(place[:i]), place_text(place[: i + 1])
            what = f"{len(node)} entries" if isinstance(node, list) else "no list"
            if not isinstance(node, list | dict):
                what = "no parts"
            raise InputError("no such place", file="--set", place=there, found=text, allowed=f"{here} has {what}")
        if i == len(place) - 1:
            node[part] = value
            return
        below = node[part] if isinstance(part, int) else node.get(part)
        if below is None:
            below = {}
        elif isinstance(below, str) and place[: i + 1] in _NAMED:
            below = {_NAMED[place[: i + 1]]: below}
        elif not isinstance(below, list | dict):
            there = place_text(place[: i + 1])
            raise InputError("no such place", file="--set", place=there, found=text, allowed=f"{there} has no parts")
        node[part] = below
        node = below


def _from_set(place: str, assigned: list[Place], original: Mapping[str, Any]) -> bool:
    """Whether the value at `place` came from an assignment: it is at or below one, or above one and not in the file."""
    for path in assigned:
        text = place_text(path)
        if place == text or place.startswith((f"{text}.", f"{text}[")):
            return True
        if text.startswith((f"{place}.", f"{place}[")):
            node: Any = original
            for part in place.split("."):
                node = node.get(part) if isinstance(node, Mapping) else None
            if node is None:
                return True
    return False


def _absolute_paths(data: Any, folder: Path) -> None:
    """Make relative paths of files absolute, in place, wherever a scenario can have one."""

    def fix(holder: Any, key: str, is_path: Any) -> None:
        value = holder.get(key) if isinstance(holder, dict) else None
        if isinstance(value, str) and value and is_path(value):
            holder[key] = os.path.join(folder, os.path.expanduser(value))

    def is_model_path(value: str) -> bool:
        try:
            bundled = find_model(value) is not None
        except InputError:
            bundled = True  # several: not a path either
        return not bundled and os.path.exists(folder / os.path.expanduser(value))

    def always(value: str) -> bool:
        return True

    for key, is_path in (("gpu", is_gpu_path), ("model", is_model_path)):
        fix(data, key, is_path)
        fix(data.get(key), "base", is_path)
    fix(data, "profile", is_gpu_path)
    pools = data.get("disaggregation")
    for name in POOLS if isinstance(pools, dict) else ():
        fix(pools.get(name), "gpu", is_gpu_path)
        part = pools.get(name)
        fix(part.get("gpu") if isinstance(part, dict) else None, "base", is_gpu_path)
    workload = data.get("workload")
    if isinstance(workload, dict):
        for key in ("trace", "prompt_tokens", "output_tokens"):
            fix(workload.get(key), "path", always)
