"""What is measured on: the GPU as CUDA and its driver report it, and the software. Imports nothing of torch.

CUDA is asked by ctypes (`libcuda.so.1`), and makes no context: nothing of the GPU is taken, and it takes no time.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from calibration.measure import nvml

LIBRARY = "libcuda.so.1"
ATTRIBUTES = {"sms": 16, "l2_bytes": 38, "major": 75, "minor": 76}
"""Of CUdevice_attribute."""
INTERPRETER = {"name": "Triton's interpreter", "gpus": 0, "sms": 4, "capability": 90, "l2_bytes": 0, "memory_bytes": 0}
"""What kernels are told where there is no GPU, for tests."""


class NoGpu(Exception):
    """There is no GPU here; says what was looked for."""


def in_pci_order() -> None:
    """Let CUDA, in this process and its children, count GPUs as NVML does. To be called before CUDA is."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def gpu(path: str = LIBRARY) -> dict[str, Any]:
    """The GPU that CUDA calls 0: name, gpus (their number), sms, capability (90), l2_bytes, memory_bytes, pci.

    Raises NoGpu.
    """
    try:
        cuda = ctypes.CDLL(path)
    except OSError:
        raise NoGpu(f"no NVIDIA driver is installed here ({path} is not found)") from None
    status, count, device = cuda.cuInit(0), ctypes.c_int(), ctypes.c_int()
    if status != 0:
        raise NoGpu(f"the NVIDIA driver does not start (cuInit returns {status})")
    if cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        raise NoGpu("the NVIDIA driver shows no GPU here")
    if (status := cuda.cuDeviceGet(ctypes.byref(device), 0)) != 0:
        raise NoGpu(f"the NVIDIA driver does not give the GPU (cuDeviceGet returns {status})")
    name, pci, memory = ctypes.create_string_buffer(256), ctypes.create_string_buffer(64), ctypes.c_size_t()
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetPCIBusId(pci, len(pci), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    found: dict[str, int] = {}
    for what, attribute in ATTRIBUTES.items():
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        found[what] = value.value
    return {
        "name": name.value.decode(errors="replace"),
        "gpus": count.value,
        "sms": found["sms"],
        "capability": 10 * found["major"] + found["minor"],
        "l2_bytes": found["l2_bytes"],
        "memory_bytes": memory.value,
        "pci": pci.value.decode(errors="replace"),
    }


def facts(device: str = "cuda") -> dict[str, Any]:
    """The GPU (`cuda`), or the interpreter's stand-in (`cpu`), with what the driver says of it and the software.

    Bytes, MHz, watts. What is unknown is None. `hbm_bytes_per_s` is what the driver implies: two transfers a clock, of
    the bus's width; the rate of the tensor cores cannot be told from the driver. Raises NoGpu.
    """
    if device != "cuda":
        return {**INTERPRETER, **software()}
    found = gpu()
    library = nvml.Library()
    return found | of_driver(library.device(found["pci"])) | {"driver": library.driver()} | software()


def of_driver(device: nvml.Device | None) -> dict[str, Any]:
    """What only NVML knows of a GPU."""
    if device is None:
        names = ("max_sm_mhz", "max_mem_mhz", "bus_bits", "hbm_bytes_per_s", "power_limit_w", "ecc")
        return dict.fromkeys(names)
    clock, bits = device.max_clock_mhz(nvml.MEMORY), device.bus_width_bits()
    return {
        "max_sm_mhz": device.max_clock_mhz(nvml.SM),
        "max_mem_mhz": clock,
        "bus_bits": bits,
        "hbm_bytes_per_s": 2e6 * clock * bits / 8 if clock and bits else None,
        "power_limit_w": device.power_limit_w(),
        "ecc": device.ecc(),
    }


def software() -> dict[str, str | None]:
    """Versions."""
    versions = {name: _installed(name) for name in ("torch", "triton")}
    return {**versions, "python": platform.python_version(), "kinesim": version()}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def version() -> str:
    """The version of kinesim: the package's, and the commit where it runs from a checkout (`+` if changed since), or
    that which the environment's KINESIM_COMMIT says: of a copy without its repository.
    """
    found = _installed("kinesim") or "unknown"
    if given := os.environ.get("KINESIM_COMMIT"):
        return f"{found} {given}"
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        try:
            commit = _git(root, "rev-parse", "--short=12", "HEAD")
            changed = "+" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
        except (OSError, subprocess.SubprocessError):
            return found
        return f"{found} {commit}{changed}"
    return found


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def for_the_record(found: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as they are written to `machine.jsonl`: nothing that only tells one machine from its likes."""
    return {name: value for name, value in found.items() if name != "pci"}
