"""Board power from counts: joules per FLOP, per byte, and watts of SMs that are at work.

    P = awake + s x (active x W_sm + FLOP/s x J_flop + L2 bytes/s x J_l2) + HBM bytes/s x J_hbm + link bytes/s x J_link

up to the board's limit. `s` is what a kernel's code spends in the SMs: 1, and more for the experts' kernel, which was
measured as Triton code. The constants of one GPU (`calibration/power.yaml`, which says what they rest on) are carried
to another by `joules`. `calibration.power` fits them.

Fitted times already contain the slowdown that the GPU's own limit causes, because the kernels were measured at it; so
the limit here caps watts and nothing else. What a limit would cost a GPU that was never measured is `slowdown`. What
readings of a repeated kernel hold besides its power, such as the kernels before it, is the business of `powerreading`.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hwspecs.gpu import Gpu, load_gpu
from hwspecs.yamlfile import read_yaml
from simulator.kernels.base import KernelWork

COMPUTE_BY_ARCHITECTURE = {
    "Ampere": 2.88,  # A100: 400 W, 312 TFLOP/s
    "Ada Lovelace": 2.18,  # L40S: 350 W, 362 TFLOP/s
    "Hopper": 1.59,  # H100: 700 W, 989.5 TFLOP/s
    "Blackwell": 1.0,  # B200: 1,000 W, 2,250 TFLOP/s
    "Blackwell Ultra": 1.0,
}
"""Joules per FLOP and per byte of L2 over those of B200. An assumption: the ratio of the boards' limits per dense bf16
FLOP/s, which holds the process (N7, 4N, 4NP) and the design of the tensor cores together. It fits what is known of
sustained GEMMs (about 270, 700 and 1,600 TFLOP/s at the limits of A100, H100 and B200). Another architecture takes the
ratio of its own spec sheet.
"""
MEMORY_BY_KIND = {"HBM2e": 1.1, "HBM3": 1.0, "HBM3e": 1.0, "HBM4": 0.9, "GDDR6": 1.9, "GDDR7": 1.5}
"""Joules per byte of device memory over those of HBM3e. Assumptions: HBM2 about 3.9 pJ/bit (O'Connor et al.,
"Fine-Grained DRAM", MICRO 2017), later generations a little less at more bandwidth; GDDR6 about 7 pJ/bit, GDDR7 a fifth
less (makers' announcements).
"""


@dataclass(frozen=True)
class Joules:
    """The power model of one GPU, in SI units.

    Attributes
    ----------
    awake : watts of the board with clocks up and nothing running. sms : watts that all SMs add while they have work.
    flop : joules per FLOP by format. hbm, l2, link : joules per byte.
    limit : watts that the board is held at. code : by kind of kernel, what its code spends in the SMs over 1.
    """

    awake: float
    sms: float
    flop: dict[str, float]
    hbm: float
    l2: float
    link: float
    limit: float
    code: dict[str, float]


@lru_cache(maxsize=1)
def measured_joules() -> tuple[Gpu, Joules]:
    """The GPU that the constants were fitted on, and the constants."""
    data = read_yaml(power_folder() / "power.yaml").data
    pico = 1e-12
    flop = {name: value * pico for name, value in data["pj_per_flop"].items()}
    byte = {name: value * pico for name, value in data["pj_per_byte"].items()}
    return load_gpu(data["gpu"]), Joules(
        data["awake_w"], data["sms_w"], flop, byte["hbm"], byte["l2"], byte["link"], data["limit_w"], dict(data["code"])
    )


def power_folder() -> Path:
    """Where the constants are; found without importing the `calibration` package."""
    spec = importlib.util.find_spec("calibration")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package `calibration`, which holds the constants of the power model, is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


@lru_cache(maxsize=64)
def joules(gpu: Gpu) -> Joules:
    """The constants, carried to `gpu` by its spec sheet.

    Joules per FLOP and L2 byte go by architecture, those of device memory by its kind. The board awake draws as many
    times its idle power as B200's, the SMs the same part of the limit. All assumptions but for the GPU that was
    measured.
    """
    return carried(gpu, *measured_joules())


def carried(gpu: Gpu, origin: Gpu, found: Joules) -> Joules:
    """`found` of `origin`, for `gpu`."""
    compute = _compute(gpu) / _compute(origin)
    memory = MEMORY_BY_KIND.get(gpu.memory.kind, 1.0) / MEMORY_BY_KIND.get(origin.memory.kind, 1.0)
    limit = gpu.power.tdp / origin.power.tdp
    awake = found.awake * gpu.power.idle / origin.power.idle
    awake = max(min(awake, 0.5 * gpu.power.tdp), gpu.power.idle)
    return replace(
        found,
        awake=awake,
        sms=found.sms * limit,
        flop={name: value * compute for name, value in found.flop.items()},
        hbm=found.hbm * memory,
        l2=found.l2 * compute,
        limit=max(found.limit * limit, awake),
    )


def _compute(gpu: Gpu) -> float:
    if gpu.architecture in COMPUTE_BY_ARCHITECTURE:
        return COMPUTE_BY_ARCHITECTURE[gpu.architecture]
    peak = gpu.peak.get("bf16") or gpu.peak.get("fp16") or max(gpu.peak.values())
    return (gpu.power.tdp / peak) / (1000 / 2250e12)


def uncapped_power(
    gpu: Gpu, work: KernelWork, dtype: str | None, seconds: Any, *, kind: str = "", link_bytes: Any = 0.0
) -> Any:
    """Watts while a kernel runs that does `work` in `seconds`, if no limit held them; arrays broadcast.

    dtype : the format that the kernel multiplies in, None if it does not. kind : of the kernel, as tables are called.
    """
    return _watts(joules(gpu), work, dtype, seconds, kind, link_bytes)


def _watts(constants: Joules, work: KernelWork, dtype: str | None, seconds: Any, kind: str, link_bytes: Any) -> Any:
    per_flop = constants.flop.get(dtype, constants.flop["bf16"]) if dtype else 0.0
    code = constants.code.get(kind, 1.0)
    in_sms = code * (per_flop * np.asarray(work.flops) + constants.l2 * np.asarray(work.l2_bytes))
    moved = constants.hbm * np.asarray(work.hbm_bytes) + constants.link * np.asarray(link_bytes)
    rates = (in_sms + moved) / np.maximum(seconds, 1e-300)
    return constants.awake + code * constants.sms * np.asarray(work.active) + rates


def kernel_power(
    gpu: Gpu, work: KernelWork, dtype: str | None, seconds: Any, *, kind: str = "", link_bytes: Any = 0.0
) -> Any:
    """Watts of the board while a kernel runs: `uncapped_power`, at most the limit."""
    watts = uncapped_power(gpu, work, dtype, seconds, kind=kind, link_bytes=link_bytes)
    return np.minimum(watts, min(joules(gpu).limit, gpu.power.tdp))


def slowdown(
    gpu: Gpu, work: KernelWork, dtype: str | None, seconds: Any, *, kind: str = "", link_bytes: Any = 0.0
) -> Any:
    """Factor >= 1 by which the board's limit stretches a kernel that takes `seconds` at full clocks.

    A kernel's joules above the board awake are taken to stay the same while it is slowed down. That overstates the
    factor, because a lower clock comes with a lower voltage. Not for times that were measured, or fitted to
    measurements: those hold the slowdown of the measured board.
    """
    constants = joules(gpu)
    room = max(min(constants.limit, gpu.power.tdp) - constants.awake, 1e-3 * gpu.power.tdp)
    watts = uncapped_power(gpu, work, dtype, seconds, kind=kind, link_bytes=link_bytes)
    return np.maximum((watts - constants.awake) / room, 1.0)
