"""The space of a plan from the command line's comma lists."""

from __future__ import annotations

import re
from pathlib import Path

from hwspecs.errors import InputError, near_matches
from hwspecs.gpu import is_path, load_gpu
from hwspecs.units import parse_quantity
from simulator.law.options import numbers, words
from workloads.formats import LINEAR_FORMATS

PUBLISHED = "published"
"""A precision: as the scenario says, else as the checkpoint was published."""
_LAYOUT = re.compile(r"tp(\d+)((?:[ x/+]?(?:pp|dp|ep)\d+)*)")


def gpus(text: str, own: str = "") -> tuple[str, ...]:
    """GPUs, names or files, or `own`, the name of the scenario's. InputError for one that does not exist."""
    names = words(text, "--gpus", "GPUs such as h200-sxm,b200-sxm, as in `kinesim list gpus`, or files")
    for name in names:
        if name != own:
            load_gpu(name, place="--gpus")
    return tuple(str(Path(name).expanduser().resolve()) if name != own and is_path(name) else name for name in names)


def layouts(text: str) -> tuple[tuple[int, int, int, int], ...]:
    """`tp2,tp1dp8ep8,tp8pp2` -> (tensor, pipeline, attention_data, expert) of each."""
    allowed = "tp2,tp8,tp8ep8,tp1dp8ep8,tp8pp2: GPUs of tensor, pipeline, attention data and expert parallelism"
    found = []
    for part in words(text, "--layouts", allowed):
        match = _LAYOUT.fullmatch(part)
        if match is None:
            raise InputError("not a layout", file="--layouts", found=part, allowed=allowed)
        named = re.findall(r"(pp|dp|ep)(\d+)", match[2])
        sizes = {name: int(size) for name, size in named}
        if len(sizes) < len(named) or not all((int(match[1]), *sizes.values())):
            raise InputError("not a layout", file="--layouts", found=part, allowed=allowed)
        found.append((int(match[1]), sizes.get("pp", 1), sizes.get("dp", 1), sizes.get("ep", 1)))
    return tuple(found)


def precisions(text: str) -> tuple[str | None, ...]:
    """Formats of linear layers, None for PUBLISHED."""
    found = []
    for part in words(text, "--precision", f"{PUBLISHED}, {', '.join(LINEAR_FORMATS)}"):
        if part != PUBLISHED and part not in LINEAR_FORMATS:
            known = near_matches(part, [PUBLISHED, *LINEAR_FORMATS])
            raise InputError("unknown format", file="--precision", found=part, allowed=known)
        found.append(None if part == PUBLISHED else part)
    return tuple(found)


def limits(text: str | None, option: str) -> tuple[int | None, ...]:
    """Whole numbers as of the law's lists; not given: as the scenario."""
    return (None,) if text is None else tuple(numbers(text, option))


def watts(text: str | None) -> float | None:
    """A power above 0."""
    if text is None:
        return None
    try:
        value = parse_quantity(text, "watts", bare_ok=False)
    except InputError as error:
        raise InputError(error.problem, file="--power-cap", found=text, allowed="a power such as 50 kW") from None
    if value <= 0:
        raise InputError("out of range", file="--power-cap", found=text, allowed="a power above 0")
    return value
