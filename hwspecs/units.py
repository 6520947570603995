"""Units at the edge: text such as `4.8 TB/s` to SI numbers and back.

Inside kinesim time is in seconds, sizes in bytes, rates per second. A full unit library would cost more import time
than the whole simulator is allowed, and the set of dimensions here is small and closed.
"""

from __future__ import annotations

import math
import re

from hwspecs.errors import InputError

_SI = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_SMALL = {"m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9, "p": 1e-12}

# dimension -> unit text -> factor to SI
DIMENSIONS: dict[str, dict[str, float]] = {
    "bytes": {f"{p}B": f for p, f in (_SI | _BINARY).items()},
    "bytes/s": {f"{p}B/s": f for p, f in (_SI | _BINARY).items()},
    "FLOP/s": {f"{p}{u}": f for p, f in _SI.items() for u in ("FLOP/s", "FLOPS", "FLOPs/s", "OP/s", "OPS")},
    "seconds": {f"{p}s": f for p, f in ({"": 1.0} | _SMALL).items()}
    | {"min": 60.0, "h": 3600.0, "hours": 3600.0, "hour": 3600.0, "d": 86400.0},
    "Hz": {f"{p}Hz": f for p, f in _SI.items()},
    "watts": {"W": 1.0, "kW": 1e3, "mW": 1e-3},
    "USD/h": {"USD/h": 1.0, "$/h": 1.0, "USD/hour": 1.0},
    "1/s": {"/s": 1.0, "1/s": 1.0, "req/s": 1.0, "requests/s": 1.0, "/min": 1 / 60, "1/min": 1 / 60, "/h": 1 / 3600},
}
_EXAMPLES = {
    "bytes": "141 GB, 50 MiB",
    "bytes/s": "4.8 TB/s, 450 GB/s",
    "FLOP/s": "989 TFLOP/s",
    "seconds": "2 s, 50 ms, 1.5 h",
    "Hz": "1.98 GHz",
    "watts": "700 W",
    "USD/h": "2.50 USD/h",
    "1/s": "2 /s",
}
_NUMBER = re.compile(r"^\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*$")


def parse_quantity(value: object, dimension: str, *, bare_ok: bool = True) -> float:
    """A number in SI units from `value`, a number (already SI, if `bare_ok`) or text with a unit of `dimension`.

    Raises
    ------
    InputError : not a number, not finite, or a unit of another dimension; the location is left to the caller.
    """
    units = DIMENSIONS[dimension]
    allowed = f"a quantity in {dimension} such as {_EXAMPLES[dimension]}"
    if isinstance(value, bool) or value is None:
        raise InputError("not a quantity", found=value, allowed=allowed)
    if isinstance(value, int | float):
        if not bare_ok:
            raise InputError("a unit is missing", found=value, allowed=allowed)
        number, unit = float(value), None
    else:
        match = _NUMBER.match(str(value))
        if not match:
            raise InputError("not a quantity", found=value, allowed=allowed)
        number, unit = float(match[1].replace("_", "")), match[2]
        if unit == "" and not bare_ok:
            raise InputError("a unit is missing", found=value, allowed=allowed)
    if not math.isfinite(number):
        raise InputError("not a finite number", found=value, allowed=allowed)
    if unit:
        if unit not in units:
            raise InputError(f"wrong unit {unit!r}", found=value, allowed=allowed)
        number *= units[unit]
    return number


def format_quantity(value: float, unit: str, digits: int = 3) -> str:
    """`4.8e12, "B/s"` -> `4.8 TB/s`: an SI prefix that leaves 1 to 999 before it. Seconds get small prefixes."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}".strip()
    prefixes = [("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15), ("E", 1e18)]
    if unit == "s":
        prefixes = [("n", 1e-9), ("µ", 1e-6), ("m", 1e-3), ("", 1.0)]
    scale, prefix = prefixes[0][1], prefixes[0][0]
    for p, f in prefixes:
        if abs(value) >= f * 0.9995:
            scale, prefix = f, p
    scaled = value / scale
    number = f"{scaled:.{digits}g}" if abs(scaled) < 1000 else f"{scaled:,.0f}"
    return f"{number} {prefix}{unit}"
