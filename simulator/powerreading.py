"""What a power meter reads while a benchmark repeats a kernel, which is not quite the power of the kernel.

The readings of `power_*.parquet` follow the board's power slowly: a kernel of 8 us, repeated as often as the benchmark
does, changes them by a few per cent. So they hold mostly what ran before it in the benchmark's order of shapes, or the
board awake and idle while a kernel was compiled. A table of such readings is predicted by the power model times a
correction that was learned from them. It is an artefact of the measurement, kept in a file of its own: a run's energy
never uses it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from hwspecs.gpu import Gpu
from simulator.fitted import Fitted
from simulator.kernels.base import KernelWork, Label, Shape
from simulator.kernels.formats import FORMATS, compute_format
from simulator.power import joules, kernel_power, measured_joules, power_folder
from simulator.profilefile import read_profile


@lru_cache(maxsize=1)
def bundled_readings() -> Fitted:
    """Corrections by kernel and format, for the GPU and software whose readings were learned."""
    return read_profile(power_folder() / "power_readings.npz")


def power_reading(
    kind: str, shape: Shape, label: Label, gpu: Gpu, software: str, work: KernelWork, seconds: Any,
    readings: Fitted | None = None,
) -> Any:  # fmt: skip
    """Watts that the meter reads while the kernel repeats: of its power alone where no readings were learned."""
    dtype = label.get("dtype")  # a table of linear attention has none, and messages have formats of their own
    compute = compute_format(dtype, gpu) if dtype in FORMATS else "bf16"
    watts = kernel_power(gpu, work, compute, seconds, kind=kind)
    if readings is None and gpu.name != measured_joules()[0].name:
        return watts
    readings = readings or bundled_readings()
    # Another version of an engine is measured by the same benchmark.
    if gpu.name != readings.gpu or software.split("-")[0] != readings.software.split("-")[0]:
        return watts
    group = next((g for g in readings.groups if g.kind == kind and dict(g.label) == dict(label)), None)
    if group is None:
        return watts
    watts = watts * np.exp(group.correction(shape, gpu))
    return np.clip(watts, 0.9 * joules(gpu).awake, 1.03 * gpu.power.tdp)
