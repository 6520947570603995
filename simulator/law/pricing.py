"""From equivalent FLOPs to a GPU's seconds, dollars and joules.

The law's time is its eFLOPs over the peak: compute and memory one after the other. A real kernel overlaps them
(`Parts.roofline_eflops`), and no kernel reaches the peak; how far off that is says `kinesim law compare`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError, near_matches
from simulator.law import published
from simulator.law.split import Parts
from simulator.power import joules

if TYPE_CHECKING:
    from hwspecs.gpu import Gpu
    from workloads.model import Model

UNITS = ("eflops", "seconds", "usd", "joules")
"""tera-eFLOPs (1e12), GPU-seconds, USD and joules of a problem."""


@dataclass(frozen=True)
class Rates:
    """A GPU as the law sees it: `peak` FLOP/s in `dtype`, HBM `bandwidth` in bytes/s."""

    gpu: Gpu
    dtype: str
    peak: float
    bandwidth: float

    @property
    def ratio(self) -> float:
        """E: FLOPs that the GPU could do while it reads a byte."""
        return self.peak / self.bandwidth

    def seconds(self, eflops: Any) -> Any:
        """GPU-seconds of so many equivalent FLOPs."""
        return eflops / self.peak

    def usd(self, seconds: Any) -> Any:
        """The rent of so many GPU-seconds, USD. InputError if no price is known."""
        if self.gpu.price is None:
            allowed = "--set gpu.price='{usd_per_hour: 4, date: 2026-05}', or a GPU with a price"
            raise InputError("no price is known of this GPU", place="gpu", found=self.gpu.name, allowed=allowed)
        return seconds / 3600 * self.gpu.price.usd_per_hour


def rates(gpu: Gpu, model: Model, *, as_published: bool = False) -> Rates:
    """What `gpu` does with `model`: the dense peak of the format that it computes in.

    That is the format of the checkpoint's activations (bf16 of Qwen3, fp8 of DeepSeek-R1), or, where the GPU lacks it,
    the model's own. `as_published` : the authors' B200, 4,500 TFLOP/s over 8 TB/s.

    InputError if the GPU computes in neither, or if it is another one than the authors'.
    """
    if as_published:
        if published.GPU not in (gpu.name, gpu.base):
            problem = "the authors' figures are for a B200"
            raise InputError(problem, place="gpu", found=gpu.name, allowed=f"{published.GPU}, or no --as-published")
        return Rates(gpu, "as published", published.PEAK, published.BANDWIDTH)
    dtype = model.activation_dtype if model.activation_dtype in gpu.peak else model.dtype
    return Rates(gpu, dtype, gpu.peak_flops(dtype), gpu.memory.bandwidth)


def priced(parts: Parts, rates: Rates, unit: str = "eflops") -> np.ndarray:
    """The cost of `parts` in one of `UNITS`, compute and memory added; or in `flops`, tera-FLOPs without any bytes.

    Joules are those of the power model (`simulator.power`): J per FLOP in the format that is computed in, J per byte
    of HBM, and the watts of the board awake with all SMs at work for the law's seconds; at most the board's limit. L2
    traffic, which the law does not know, is left out.

    InputError for an unknown unit, or a price that is not known.
    """
    if unit in ("eflops", "flops"):
        return np.asarray(getattr(parts, unit)) / 1e12
    seconds = rates.seconds(parts.eflops)
    if unit == "seconds":
        return np.asarray(seconds)
    if unit == "usd":
        return np.asarray(rates.usd(seconds))
    if unit != "joules":
        raise InputError(
            "unknown unit of cost", place="unit", found=unit, allowed=near_matches(str(unit), (*UNITS, "flops"))
        )
    power = joules(rates.gpu)
    per_flop = power.flop[rates.dtype if rates.dtype in power.flop else "bf16"]
    work = parts.flops * per_flop + parts.bytes * power.hbm + seconds * (power.awake + power.sms)
    return np.asarray(np.minimum(work, seconds * power.limit))
