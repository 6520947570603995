"""What is known of measured deployments with prefill and decode on workers of their own, from `servingpools.yaml`.

Their tables say how many workers there are and how each is laid out. How many sequences a worker runs at once, which
decides when prefilled requests queue, how its memory is divided and how experts exchange tokens is in the recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from packaging.version import Version
from pydantic import Field

from calibration.servingrecipes import Conditions, Range, Row, number_of, version_of
from calibration.servingtables import SIDES, UNKNOWN
from hwspecs.validation import validate
from hwspecs.yamlfile import read_yaml
from workloads.fields import Part

FILE = Path(__file__).with_name("servingpools.yaml")

PER_WORKER = ("sglang",)
"""Engines whose limits of sequences and tokens are of a worker: a rank of attention data parallelism has its part
(`max_running_requests`, `chunked_prefill_size` over `dp_size`: sglang/srt/managers/scheduler.py, server_args.py)."""
LIMITS = ("max_num_seqs", "max_num_batched_tokens")
MOST_PREFILL = 16_384
"""Tokens of the prompts that SGLang admits into one step at most (`max_prefill_tokens` where recipes leave it out)."""


class PoolConditions(Conditions):
    """Which rows a rule holds for; the ranges are of a side's columns."""

    prefill_dp: Range | None = None
    prefill_ep: Range | None = None
    decode_dp: Range | None = None
    decode_ep: Range | None = None
    workers: Range | None = None

    ranges: ClassVar[dict[str, str]] = {
        "concurrency": "concurrency",
        "prefill_dp": "prefill_attention_dp",
        "prefill_ep": "prefill_moe_ep",
        "decode_dp": "decode_attention_dp",
        "decode_ep": "decode_moe_ep",
        "workers": "decode_workers",
    }


class _Rule(Part):
    for_: PoolConditions = Field(alias="for")
    source: str
    prefill: dict[str, Any] = Field(default_factory=dict)
    decode: dict[str, Any] = Field(default_factory=dict)
    layout: dict[str, Any] = Field(default_factory=dict)
    precision: dict[str, str] = Field(default_factory=dict)


class _Sequences(Part):
    gpu: str
    precision: str
    input: int
    seqs: list[Annotated[list[int], Field(min_length=5, max_length=5)]]


class _File(Part):
    from_: str = Field(alias="from")
    dynamo: dict[str, dict[str, str]]
    rules: list[_Rule]
    sequences: list[_Sequences]


@dataclass(frozen=True)
class ToldPools:
    """What a row's run was told.

    Attributes
    ----------
    version : of the engine; None if nobody noted it.
    engine : for `prefill` and `decode`, settings of a scenario's engine.
    precision : formats that the recipe gives.
    all_to_all : the sides whose experts exchange tokens by all-to-all. redundant : experts held twice on those sides.
    sources : of all that, in the order of the file.
    """

    version: str | None
    engine: Mapping[str, Mapping[str, Any]]
    precision: Mapping[str, str] = field(default_factory=dict)
    all_to_all: tuple[str, ...] = ()
    redundant: int = 0
    sources: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def _facts() -> _File:
    return validate(_File, read_yaml(FILE).data, file=FILE)


def engine_version(row: Row) -> str | None:
    """The version of a row's engine. Of TensorRT-LLM, tables may note that of NVIDIA Dynamo around it."""
    noted = row["engine_version"]
    known = _facts().dynamo.get(row["engine"], {})
    number = number_of(noted)
    if number is None or not known or number.release >= (2,):
        return version_of(row)
    if noted in known:
        return known[noted]
    last = max(Version(text) for text in known)
    if number.release[0] == 0 and number < last:  # the engine itself has had no version below 1 since
        before = [text for text in known if Version(text) <= number]
        return known[max(before, key=Version)] if before else next(iter(known.values()))
    return None if noted == UNKNOWN else str(noted)


def told_pools(row: Row) -> ToldPools:
    """What a row's run was told: all rules that hold for it, later ones before earlier ones."""
    version = engine_version(row)
    engine: dict[str, dict[str, Any]] = {side: {} for side in SIDES}
    precision: dict[str, str] = {}
    layout: dict[str, Any] = {}
    sources = []
    for rule in _facts().rules:
        if rule.for_.holds(row, version):
            engine["prefill"] |= rule.prefill
            engine["decode"] |= rule.decode
            precision |= rule.precision
            layout |= rule.layout
            sources.append(rule.source)
    if row["engine"] == "trtllm":
        engine["decode"]["max_num_seqs"] = _sequences(row)
    if row["engine"] in PER_WORKER:
        for side in SIDES:
            ranks = row[f"{side}_attention_dp"]
            engine[side] |= {key: max(1, engine[side][key] // ranks) for key in LIMITS if key in engine[side]}
    exchange = layout.get("all_to_all")
    return ToldPools(
        version=version,
        engine=engine,
        precision=precision,
        all_to_all=SIDES if exchange == "both" else (exchange,) if exchange else (),
        redundant=int(layout.get("redundant", 0)),
        sources=tuple(sources),
    )


def _sequences(row: Row) -> int:
    """Sequences that each rank of a TensorRT-LLM decode worker runs at once."""
    workers, ranks, users = row["decode_workers"], row["decode_attention_dp"], row["concurrency"]
    for group in _facts().sequences:
        if (group.gpu, group.precision, group.input) != (row["gpu"], row["precision"], row["input_len"]):
            continue
        for known, of_each, least, most, seqs in group.seqs:
            if (known, of_each) == (workers, ranks) and least <= users <= most:
                return seqs
    return 1 << max(0, (users // (workers * ranks)).bit_length() - 1)
