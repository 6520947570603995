"""Numbers for people: a headline metric's value with its unit, and the ticks of an axis of time."""

from __future__ import annotations

import math

from hwspecs.units import format_quantity
from simulator.headline import metric
from simulator.printing import duration, percent

SHARES = ("goodput_share", "mfu", "mbu", "kv_peak_use")
COUNTS = ("preemptions", "solved")


def amount(key: str, value: float | None) -> str:
    """The value of the headline metric `key`, as `simulator.display` writes it: `44.1 min`, `0.313 USD`."""
    if value is None:
        return "-"
    unit = metric(key).unit
    if key in SHARES:
        return percent(value)
    if key in COUNTS:
        return f"{value:,.0f}"
    if unit == "s":
        return duration(value)
    if key == "energy_j":
        return f"{significant(value / 3.6e6)} kWh"
    if unit in ("J", "FLOP"):
        return format_quantity(value, unit)
    if unit == "USD" and 1 <= value < 99.995:
        return f"{value:.2f} USD"
    text = significant(value)
    return f"{text}/s" if unit == "1/s" else f"{text} {unit}".strip()


def significant(value: float) -> str:
    """Three significant digits, whole numbers from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def change(value: float, base: float) -> str:
    """`-37.4 %`: by how much `value` is above `base`; a factor from three times on."""
    if value == base:
        return "same"
    if base <= 0 or value <= 0:
        return ""
    ratio = value / base
    if ratio >= 3 or ratio <= 1 / 3:
        return f"x {significant(ratio)}"
    text = f"{100 * (ratio - 1):+.1f} %"
    return "+0.0 %".replace("+", "±") if text in ("+0.0 %", "-0.0 %") else text.replace("-", "−")


NICE = [m * 10.0**k for k in range(-9, 2) for m in (1, 2, 5)][:-2]  # up to 10 s
NICE += [30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0]
NICE += [3600.0 * h for h in (2, 5, 10, 24, 48, 120, 240, 1000, 10_000)]
ROUND = [10.0**k for k in range(-9, 2)] + [60.0, 600.0, 3600.0, 36_000.0, 360_000.0, 3_600_000.0]


def time_ticks(low: float, high: float, most: int = 6) -> tuple[list[float], list[str]]:
    """Ticks between two positive times on a logarithmic axis, seconds, and their texts."""
    if high < 2.5 * low:
        found = _even(low, high)
    else:
        found = [t for t in NICE if low <= t <= high]
        if len(found) > most:
            found = [t for t in ROUND if low <= t <= high]
        if len(found) > most:
            found = found[:: math.ceil(len(found) / most)]
    return found, [short_time(t) for t in found]


def _even(low: float, high: float) -> list[float]:
    """Three to seven even ticks in a narrow range."""
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-12 * high)))
    step *= next((m for m in (0.2, 0.5, 1.0, 2.0) if (high - low) / (m * step) <= 6), 2.0)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def short_time(seconds: float) -> str:
    """`0.0195` -> `19.5 ms`, `120` -> `2 min`, `7200` -> `2 h`."""
    if seconds >= 3600:
        return f"{seconds / 3600:.4g} h"
    if seconds >= 60:
        return f"{seconds / 60:.4g} min"
    return format_quantity(seconds, "s", digits=4)


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit of an axis that ends at so many seconds, and its length in seconds."""
    for name, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= 3 * size:
            return name, size
    return "µs", 1e-6
