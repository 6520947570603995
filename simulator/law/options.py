"""What users write after the options of the law's commands: lists of models, GPUs, numbers and attentions.

Lists are separated by commas. Numbers may end in `k`, which is 1,024 as in the paper (`32k` is 32,768), and may be
ranges: `2k..32k:2k` goes by steps, `1k..32k:x2` by factors, both ends included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError, near_matches
from hwspecs.gpu import Gpu, load_gpu
from hwspecs.yamlfile import parse_yaml
from simulator.law.strategies import ATTENTIONS
from simulator.law.tables import block_page

if TYPE_CHECKING:
    from workloads.model import Model

MOST = 2**40
"""Largest number of tokens or trials that is taken for meant."""
LONGEST = 1_000_000
"""Most numbers of one list."""
_NUMBER = re.compile(r"\s*(\d[\d_]*)\s*(k?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Policy:
    """An attention of a strategy: `kind` of `strategies.ATTENTIONS`, KV `budget` in tokens (0: all), and of block top-k
    the tokens per `page` and the newest `local` ones that are always read, both part of the budget.
    """

    kind: str
    budget: int = 0
    page: int = 0
    local: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "dense" else f"{self.kind} {self.budget:,}"


def words(text: str, option: str, allowed: str) -> list[str]:
    """The parts of a comma list, in their order, each once. InputError if one is empty."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InputError("an empty entry", place=option, found=text, allowed=allowed)
    return list(dict.fromkeys(parts))


def models(text: str, option: str = "--model") -> list[Model]:
    """The models of a comma list of names and paths. InputError for an unknown one."""
    from workloads.model import load_model

    allowed = "models such as qwen3-8b,qwen3-32b, as in `kinesim list models`"
    return [load_model(name, place=option) for name in words(text, option, allowed)]


def gpus(text: str, sets: Sequence[str] = (), option: str = "--gpu") -> list[Gpu]:
    """The GPUs of a comma list of names and paths, each with the assignments `gpu.PATH=VALUE` of `sets`.

    InputError for an unknown GPU or figure, and for an assignment to anything else.
    """
    names = words(text, option, "GPUs such as h200-sxm,b200-sxm, as in `kinesim list gpus`")
    changes: dict[str, Any] = {}
    for assignment in sets:
        _assign(changes, assignment)
    if not changes:
        return [load_gpu(name, place=option) for name in names]
    for name in names:
        load_gpu(name, place=option)  # so that an unknown name is the option's fault and not an assignment's
    return [load_gpu({"base": name, **changes}, origin="--set") for name in names]


def _assign(changes: dict[str, Any], assignment: str) -> None:
    """`gpu.memory.bandwidth=9.6 TB/s` into a mapping that `load_gpu` takes."""
    allowed = "gpu.PATH=VALUE such as gpu.memory.bandwidth='9.6 TB/s'"
    path, equals, value = assignment.partition("=")
    first, *parts = path.strip().split(".")
    if not equals or first != "gpu" or not parts or not all(parts) or not value.strip():
        raise InputError("not an assignment to a GPU's figure", file="--set", found=assignment, allowed=allowed)
    inner = changes
    for part in parts[:-1]:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError("given as a whole and in part", file="--set", found=assignment, allowed=allowed)
    inner[parts[-1]] = parse_yaml(value, "--set").data


def numbers(text: str, option: str, low: int = 1, high: int = MOST) -> list[int]:
    """The whole numbers of a list with ranges, in their order, each once. InputError for one below `low` or above
    `high`.
    """
    example = f"whole numbers from {low:,}" + (f" to {high:,}" if high < MOST else "")
    allowed = f"{example}, such as 2k,4096 or 2k..32k:2k or 1k..32k:x2 (k is 1,024)"

    def one(word: str, lowest: int = low) -> int:
        match = _NUMBER.fullmatch(word)
        value = int(match[1]) * (1024 if match[2] else 1) if match else -1
        if not match or not lowest <= value <= high:
            raise InputError(
                "not a whole number" if not match else "out of range", place=option, found=word, allowed=allowed
            )
        return value

    found: list[int] = []
    for part in words(text, option, allowed):
        first, dots, rest = part.partition("..")
        if not dots:
            found.append(one(part))
            continue
        last, colon, step = rest.partition(":")
        start, stop = one(first), one(last)
        if not colon or stop < start:
            problem = "a range without a step" if not colon else "a range that goes down"
            raise InputError(problem, place=option, found=part, allowed=allowed)
        factor = step.strip().lower().startswith("x")
        by = one(step.strip()[1:], 2) if factor else one(step, 1)
        if (factor and start == 0) or (not factor and (stop - start) // by > LONGEST):
            raise InputError("a range without an end or too long", place=option, found=part, allowed=allowed)
        while start <= stop:
            found.append(start)
            start = start * by if factor else start + by
    return list(dict.fromkeys(found))


def number(text: str, option: str, low: int = 1, high: int = MOST) -> int:
    """The one whole number that `text` is, as in `numbers`."""
    found = numbers(text, option, low, high)
    if len(found) != 1:
        raise InputError("more than one number", place=option, found=text, allowed=f"one, such as {low:,}")
    return found[0]


def policies(attentions: str, budgets: str, page: int | None = None, local: int = 0) -> list[Policy]:
    """Each attention of a comma list, those with a budget once for each KV budget of a list.

    Without `page` a page of block top-k has 16,384 / budget tokens, as on the authors' grid (`tables.block_page`).
    InputError for an unknown attention, and for a budget that block top-k cannot have: local + k pages, k >= 1.
    """
    known = ", ".join(ATTENTIONS)
    found: list[Policy] = []
    sizes = numbers(budgets, "--budget")
    if local < 0 or (page is not None and page < 1):
        place, value, low = ("--local", local, 0) if local < 0 else ("--page", page, 1)
        raise InputError("out of range", place=place, found=value, allowed=f"an integer >= {low}")
    for kind in words(attentions, "--attention", known):
        if kind not in ATTENTIONS:
            allowed = near_matches(kind, ATTENTIONS)
            raise InputError("unknown attention", place="--attention", found=kind, allowed=allowed)
        if kind == "dense":
            found.append(Policy(kind))
            continue
        for size in sizes:
            if kind == "top_k":
                found.append(Policy(kind, size))
                continue
            each = block_page(size) if page is None else page
            if size <= local or (size - local) % each:
                example = f"--local {local} and at least one whole page of {each}, such as {local + 64 * each}"
                raise InputError("not a budget of block top-k", place="--budget", found=size, allowed=example)
            found.append(Policy(kind, size, each, local))
    if (page is not None or local) and not any(policy.page for policy in found):
        place, value = ("--page", page) if page is not None else ("--local", local)
        raise InputError("is of block top-k", place=place, found=value, allowed="--attention block_top_k, or nothing")
    return found


def check_out(out: Path | None, *kinds: str) -> None:
    """InputError if no picture, table or file of `kinds` could be written to `out`. To be asked before long work."""
    from simulator.files import check_writable
    from simulator.graphview import PICTURES
    from simulator.tables import SUFFIXES, check_table_path

    if out is None:
        return
    if out.suffix.lower() in SUFFIXES:
        check_table_path(out)
    elif out.suffix.lower().removeprefix(".") in (*PICTURES, *kinds):
        check_writable(out.parent, [out.name])
    else:
        allowed = ", ".join([*(f".{kind}" for kind in (*PICTURES, *kinds)), *SUFFIXES])
        raise InputError("unknown kind of file", place="--out", found=str(out), allowed=allowed)
