"""What GPUs cost an hour: the bundled list prices, or a table of the user's own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwspecs.errors import InputError, near_matches
from hwspecs.gpu import Gpu, list_gpus
from hwspecs.units import parse_quantity
from hwspecs.yamlfile import YamlFile, read_yaml
from simulator.planning.model import Candidate

HOURS_A_MONTH = 8760 / 12
"""Of a year of 365 days."""
KEYS = ("usd_per_gpu_hour", "date", "source")
HOW = "a price for each GPU under `usd_per_gpu_hour`, or without it: --skip-unpriced, or --gpus without it"


@dataclass(frozen=True)
class Prices:
    """USD per hour of each GPU.

    Attributes
    ----------
    per_hour : by the GPU's name in the scenario. dates : of what price, where known. source : where they come from, in
        words. left_out : GPUs without a price that were left out because that was asked for.
    """

    per_hour: Mapping[str, float]
    dates: Mapping[str, str]
    source: str
    left_out: tuple[str, ...] = ()

    def of(self, gpu: str) -> float:
        """USD per GPU-hour."""
        return self.per_hour[gpu]

    def usd_per_hour(self, candidate: Candidate) -> float:
        """Of all GPUs of a deployment."""
        return sum(count * self.per_hour[name] for name, count in candidate.gpus_by_name().items())

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "usd_per_gpu_hour": dict(self.per_hour),
            "dates": dict(self.dates),
            "source": self.source,
            "left_out": list(self.left_out),
        }


def read_prices(gpus: Mapping[str, Gpu], file: Path | None = None, *, skip_unpriced: bool = False) -> Prices:
    """The prices of `gpus`, by the names that candidates give them.

    Parameters
    ----------
    file : a table of the user's own, which then is the only source; else the prices in the GPUs' files.
    skip_unpriced : leave out GPUs without a price.

    Raises
    ------
    InputError : a price that is missing, not positive or not finite; a table that is none; no GPU left.
    """
    names = list(gpus)
    known, source = (_bundled(gpus), "list prices in the GPUs' files") if file is None else _own(file, gpus)
    missing = [name for name in names if name not in known]
    if missing and not skip_unpriced:
        raise InputError(
            f"no price is known of {', '.join(missing)}",
            file=file if file is not None else None,
            place="usd_per_gpu_hour" if file is not None else "--gpus",
            allowed=HOW if file is not None else f"--prices FILE.yaml with {HOW}",
        )
    if len(missing) == len(names):
        raise InputError("no GPU is left: none has a price", file=file, found=", ".join(missing), allowed=HOW)
    left = [name for name in names if name in known]
    return Prices(
        {name: known[name][0] for name in left},
        {name: known[name][1] for name in left if known[name][1]},
        source,
        tuple(missing),
    )


def _bundled(gpus: Mapping[str, Gpu]) -> dict[str, tuple[float, str]]:
    prices = {name: gpu.price for name, gpu in gpus.items()}
    return {name: (price.usd_per_hour, price.date) for name, price in prices.items() if price is not None}


def _own(file: Path, gpus: Mapping[str, Gpu]) -> tuple[dict[str, tuple[float, str]], str]:
    content = read_yaml(file)
    allowed = "usd_per_gpu_hour: {h200-sxm: 3.10, b200-sxm: 4.50}, and perhaps date and source"
    if not isinstance(content.data, Mapping):
        raise InputError("not a table of prices", file=file, found=content.data, allowed=allowed)
    for key in content.data:
        if key not in KEYS:
            line = content.line((key,))
            raise InputError("unknown key", file=file, place=str(key), line=line, allowed=near_matches(str(key), KEYS))
    table = content.data.get("usd_per_gpu_hour")
    if not isinstance(table, Mapping) or not table:
        raise InputError("no prices", file=file, place="usd_per_gpu_hour", found=table, allowed=allowed)
    date, source = (str(content.data.get(key) or "") for key in ("date", "source"))
    called = {name: name for name in gpus}  # a GPU of a file by its path, from here or from the table, or by its name
    called = {gpu.name: name for name, gpu in gpus.items()} | called
    found: dict[str, tuple[float, str]] = {}
    for key, value in table.items():
        name = str(key)
        paths = [str((folder / Path(name).expanduser()).resolve()) for folder in (Path.cwd(), file.parent)]
        price = _price(content, name, value, called)
        found[next((called[one] for one in (name, *paths) if one in called), name)] = price, date
    return found, source or str(file)


def _price(content: YamlFile, name: str, value: object, names: Iterable[str]) -> float:
    place, line, file = f"usd_per_gpu_hour.{name}", content.line(("usd_per_gpu_hour", name)), content.path
    known = [*dict.fromkeys([*list_gpus(), *names])]
    if name not in known and "/" not in name and not name.endswith((".yaml", ".yml")):
        allowed = near_matches(name, known) + ", or a GPU's file"
        raise InputError("unknown GPU", file=file, place=place, line=line, found=name, allowed=allowed)
    allowed = "USD per GPU-hour above 0, such as 3.10"
    try:
        number = parse_quantity(value, "USD/h")
    except InputError as error:
        raise InputError(error.problem, file=file, place=place, line=line, found=value, allowed=allowed) from None
    if not (number > 0 and math.isfinite(number)):
        raise InputError("not a price", file=file, place=place, line=line, found=value, allowed=allowed)
    return number
