"""A GPU that no file of `hwspecs/gpus` describes: a draft of such a file from what its driver reports."""

from __future__ import annotations

from pathlib import Path

from calibration.measure.figures import BF16_PER_CLOCK, CAPABILITY, Driver, short_name
from hwspecs.errors import InputError
from hwspecs.units import format_quantity

MISSING = ("peak", "memory.kind", "link", "pcie", "power.idle", "sources")
"""What no driver tells and a file must say (the price may be left out)."""


def write_draft(driver: Driver, folder: Path) -> Path:
    """Write `<folder>/<name>.yaml` unless it is there already (it may have been completed), and return its path."""
    path = folder / f"{short_name(driver)}.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(draft(driver))
    except FileExistsError:
        pass
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", file=path, allowed="a writable folder") from None
    return path


def draft(driver: Driver) -> str:
    """The text of the draft: what is known filled in, what is missing in comments with what belongs there."""
    architecture = next((name for name, found in CAPABILITY.items() if found == driver.capability), None)
    formats = ["fp32", "tf32", "bf16", "fp16", *["fp8"] * (driver.capability >= 89)]
    version = f" {driver.version}" if driver.version else ""
    lines = [
        f"# Draft of {driver.name}, from what its driver{version} reports. Missing: {', '.join(MISSING)}.",
        "# Fill in the lines that are comments, from the data sheet, and put the file into hwspecs/gpus: then tables",
        f"# that say {short_name(driver)} in the column gpu can be fitted.",
        f"title: {driver.name}",
        "vendor: NVIDIA",
        f"architecture: {architecture}" if architecture else "# architecture:  # such as Hopper",
        "status: released",
        f"sms: {driver.sms}",
        _line("boost_clock", driver.clock, "Hz", "highest SM clock, such as 1.98 GHz"),
        "# peak:  # dense, never the figure for sparse matrices; fp32 is the vector rate",
        *(f"#   {name}:  # such as 989.5 TFLOP/s" for name in formats),
        "#   int8:  # such as 1979 TOP/s",
        "memory:",
        "  # kind:  # such as HBM3e",
        f"  capacity: {driver.memory / 2**20:.0f} MiB",
        "  "
        + _line("bandwidth", driver.bandwidth, "B/s", "such as 4.8 TB/s", "memory clock and bus width by the driver"),
        "l2:",
        f"  size: {driver.l2 / 2**20:g} MiB",
        "# link:",
        "#   kind:  # nvlink, pcie, other",
        "#   bandwidth:  # per direction and GPU, such as 450 GB/s",
        "#   domain:  # GPUs that it connects",
        "# pcie:",
        "#   generation:  # such as 5",
        "#   bandwidth:  # per direction, such as 64 GB/s",
        "power:",
        "  " + _line("tdp", driver.power_limit, "W", "board power limit, such as 700 W", "the limit that is set now"),
        "  # idle:  # board power without work, such as 75 W",
        "sources:",
        f'  sms: "CUDA device properties, driver{version}"',
        f'  memory.capacity: "CUDA device properties, driver{version}"',
        f'  l2.size: "CUDA device properties, driver{version}"',
        "  # peak, memory.bandwidth, link, pcie, power, price: where you have the figures from",
    ]
    if driver.capability in BF16_PER_CLOCK and driver.clock:
        guess = BF16_PER_CLOCK[driver.capability] * driver.sms * driver.clock
        at = lines.index("# peak:  # dense, never the figure for sparse matrices; fp32 is the vector rate")
        text = format_quantity(guess, "FLOP/s")
        lines.insert(at, f"# (bf16 may be about {text}: what other GPUs of this architecture do per SM and clock)")
    return "\n".join(lines) + "\n"


def _line(name: str, value: float | None, unit: str, allowed: str, source: str = "") -> str:
    if value is None:
        return f"# {name}:  # {allowed}"
    return f"{name}: {format_quantity(value, unit, 4)}" + (f"  # {source}" if source else "")
