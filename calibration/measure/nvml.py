"""What the driver says of a GPU: clocks, power, temperature, processes, by ctypes from `libnvidia-ml.so.1`.

Nothing here raises: what the library, the driver or the GPU does not know is None. Nothing is ever set.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

LIBRARY = "libnvidia-ml.so.1"
SM, MEMORY = 1, 2
"""Kinds of clock."""
INSUFFICIENT_SIZE = 7
POWER_INSTANT = 186
"""Field of the power drawn now; nvmlDeviceGetPowerUsage is a mean over a second since Ampere."""
HARMLESS = 0x1 | 0x2 | 0x100
"""Reasons for a clock below its maximum that say nothing of throttling: idle, application and display settings."""
SAMPLE_SECONDS, REST = 0.01, 4.0
"""Between two readings; and at least so many times what one takes."""


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("memory", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class _Utilisation(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Value(ctypes.Union):
    _fields_ = (("double", ctypes.c_double), ("unsigned", ctypes.c_uint), ("wide", ctypes.c_ulonglong))


class _Field(ctypes.Structure):
    _fields_ = (
        ("field", ctypes.c_uint),
        ("scope", ctypes.c_uint),
        ("timestamp", ctypes.c_longlong),
        ("latency", ctypes.c_longlong),
        ("kind", ctypes.c_int),
        ("status", ctypes.c_int),
        ("value", _Value),
    )


class Library:
    """The library, or a stand-in without any function where it is missing."""

    def __init__(self, path: str = LIBRARY) -> None:
        self._library: ctypes.CDLL | None = None
        try:
            self._library = ctypes.CDLL(path)
        except OSError:
            return
        if self.call("nvmlInit_v2") != 0:
            self._library = None

    @property
    def found(self) -> bool:
        return self._library is not None

    def call(self, name: str, *arguments: object) -> int | None:
        """The status of a call (0 is success), or None where there is no such function."""
        if self._library is None:
            return None
        try:
            function = getattr(self._library, name)
        except AttributeError:
            return None
        return int(function(*arguments))

    def text(self, name: str, *arguments: object) -> str | None:
        buffer = ctypes.create_string_buffer(256)
        if self.call(name, *arguments, buffer, ctypes.c_uint(len(buffer))) != 0:
            return None
        return buffer.value.decode(errors="replace")

    def driver(self) -> str | None:
        """The driver's version, such as `580.65.06`."""
        return self.text("nvmlSystemGetDriverVersion")

    def device(self, which: str | int) -> Device | None:
        """A GPU by its index in PCI order, its UUID (`GPU-...`, `MIG-...`), or its PCI address."""
        handle = ctypes.c_void_p()
        if isinstance(which, int):
            status = self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(which), ctypes.byref(handle))
        elif which.startswith(("GPU-", "MIG-")):
            status = self.call("nvmlDeviceGetHandleByUUID", which.encode(), ctypes.byref(handle))
        else:
            status = self.call("nvmlDeviceGetHandleByPciBusId_v2", which.encode(), ctypes.byref(handle))
        return Device(self, handle) if status == 0 else None


class Device:
    """One GPU, as its driver sees it. Every method gives None for what it cannot tell."""

    def __init__(self, library: Library, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle

    def _number(self, name: str, *arguments: object, kind: type = ctypes.c_uint) -> int | None:
        value = kind()
        if self._library.call(name, self._handle, *arguments, ctypes.byref(value)) != 0:
            return None
        return int(value.value)

    def name(self) -> str | None:
        return self._library.text("nvmlDeviceGetName", self._handle)

    def uuid(self) -> str | None:
        return self._library.text("nvmlDeviceGetUUID", self._handle)

    def clock_mhz(self, which: int) -> int | None:
        return self._number("nvmlDeviceGetClockInfo", ctypes.c_uint(which))

    def max_clock_mhz(self, which: int) -> int | None:
        return self._number("nvmlDeviceGetMaxClockInfo", ctypes.c_uint(which))

    def power_w(self) -> float | None:
        """Power of the board now; where the driver is too old for that, its mean over the last second."""
        value = _Field(field=POWER_INSTANT)
        asked = self._library.call("nvmlDeviceGetFieldValues", self._handle, ctypes.c_int(1), ctypes.byref(value))
        if asked == 0 and value.status == 0 and value.value.unsigned > 0:
            return float(value.value.unsigned) / 1e3
        milliwatts = self._number("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1e3

    def power_limit_w(self) -> float | None:
        milliwatts = self._number("nvmlDeviceGetEnforcedPowerLimit")
        return None if milliwatts is None else milliwatts / 1e3

    def temperature_c(self) -> int | None:
        return self._number("nvmlDeviceGetTemperature", ctypes.c_uint(0))

    def throttled(self) -> int | None:
        """Reasons why the clocks are below their maximum, as bits; see NVML's `nvmlClocksThrottleReason...`."""
        for name in ("nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetCurrentClocksEventReasons"):
            reasons = self._number(name, kind=ctypes.c_ulonglong)
            if reasons is not None:
                return reasons
        return None

    def bus_width_bits(self) -> int | None:
        return self._number("nvmlDeviceGetMemoryBusWidth")

    def ecc(self) -> bool | None:
        current, pending = ctypes.c_int(), ctypes.c_int()
        status = self._library.call("nvmlDeviceGetEccMode", self._handle, ctypes.byref(current), ctypes.byref(pending))
        return bool(current.value) if status == 0 else None

    def utilisation(self) -> int | None:
        """Percent of the last sample period (up to a second) in which a kernel ran."""
        value = _Utilisation()
        status = self._library.call("nvmlDeviceGetUtilizationRates", self._handle, ctypes.byref(value))
        return int(value.gpu) if status == 0 else None

    def processes(self) -> list[int] | None:
        """Process ids with a compute context, as the driver counts them (a container may see others)."""
        room = 64
        for _ in range(4):
            count, found = ctypes.c_uint(room), (_Process * room)()
            status = self._library.call(
                "nvmlDeviceGetComputeRunningProcesses_v3", self._handle, ctypes.byref(count), found
            )
            if status == 0:
                return [int(process.pid) for process in found[: count.value]]
            if status != INSUFFICIENT_SIZE:
                return None
            room = 2 * max(room, count.value)
        return None


def process_name(pid: int) -> str:
    """The command's name, or `?` where this machine does not know the process."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def busy(device: Device, *, seconds: float = 2.0, above: int = 10, ours: Sequence[int] = ()) -> str | None:
    """Why a GPU is not free to measure on, or None.

    It is busy with compute processes but `ours`, or when it stays in use for more than `above` % of the time: the
    driver's figure is that of a past period, so what has just ended is waited for, `seconds` at most.
    """
    others = [pid for pid in device.processes() or () if pid not in ours]
    if others:
        names = ", ".join(f"{pid} ({process_name(pid)})" for pid in others)
        return f"other processes compute on it: {names}"
    end = time.monotonic() + seconds
    while (used := device.utilisation() or 0) > above:
        if time.monotonic() >= end:
            return f"it is {used} % in use, by a process that the driver does not show here"
        time.sleep(min(0.1, seconds))
    return None


@dataclass
class Sampler:
    """Means of what the driver says while something runs.

    `sample` is called again and again by the thread that waits for the GPU: it would only sleep otherwise, and a
    thread of its own would contend with the launches. It reads at most every `SAMPLE_SECONDS`, less often where the
    driver is slow (in a virtual machine, say).
    """

    device: Device | None
    readings: dict[str, list[float]] = field(default_factory=dict)
    reasons: int = 0
    _next: float = 0.0

    def reset(self) -> None:
        self.readings, self.reasons, self._next = {}, 0, 0.0

    def sample(self) -> None:
        begun = time.monotonic()
        if self.device is None or begun < self._next:
            return
        read: dict[str, float | None] = {
            "sm_mhz": self.device.clock_mhz(SM),
            "mem_mhz": self.device.clock_mhz(MEMORY),
            "board_w": self.device.power_w(),
            "temp_c": self.device.temperature_c(),
        }
        for name, value in read.items():
            if value is not None:
                self.readings.setdefault(name, []).append(float(value))
        self.reasons |= (self.device.throttled() or 0) & ~HARMLESS
        ended = time.monotonic()
        self._next = ended + max(SAMPLE_SECONDS, REST * (ended - begun))

    def means(self) -> dict[str, float | str]:
        """Columns `sm_mhz`, `mem_mhz`, `board_w`, `temp_c` (means) and `throttled` (hexadecimal); '' if unknown."""
        found: dict[str, float | str] = {}
        for name in ("sm_mhz", "mem_mhz", "board_w", "temp_c"):
            values = self.readings.get(name)
            found[name] = round(sum(values) / len(values), 1) if values else ""
        found["throttled"] = hex(self.reasons) if self.reasons else ""
        return found
