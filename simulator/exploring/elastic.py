"""Elasticities of a step's time: by how many per cent it changes when a resource of the GPU grows by one per cent.

Rates (FLOP/s, bytes/s, clock) enter no correction of a fitted profile, so a step is timed once for a GPU whose rates
are arrays: as they are, and each up and down by RATE_STEP. SMs and the size of the L2 do enter, through trees whose
values come in steps: they are moved farther, by SIZE_STEPS, of which the first counts and the others say how far it can
be trusted, as in `simulator.varying.elasticities`. Launches and the
host take time that adds up with the rest: their elasticity is their share, but for launches in operators that have
their time from a whole block's, which are moved like a rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwspecs.gpu import Gpu
from simulator.exploring.steps import Step
from simulator.stepcost import StepCost

RATE_STEP, SIZE_STEPS = 0.01, (0.1, 0.05, 0.2)
RATES = {
    "tensor": "tensor rate",
    "memory.bandwidth": "HBM bandwidth",
    "l2.bandwidth": "L2 bandwidth",
    "link.bandwidth": "link bandwidth",
    "boost_clock": "SM clock",
}
SIZES = {"sms": "SMs", "l2.size": "L2 size"}
TIMES = {"launch": "launch overhead", "host": "host"}
RESOURCES = RATES | SIZES | TIMES
"""Key and title of every resource, in the order in which they are shown."""


@dataclass(frozen=True)
class Elasticity:
    """d log(seconds of the step) / d log(resource). uncertainty : how far other steps are from it, of SIZES."""

    key: str
    title: str
    value: float
    uncertainty: float | None = None


Timed = Callable[[StepCost], Step]


def elasticities(cost: StepCost, timed: Timed, many: Step, *, quick: bool = False) -> list[Elasticity]:
    """Of the step that `timed` gives for a cost: one for each of RESOURCES.

    many : the step for `several(cost)`. quick : only those that need no further step.
    """
    width, seconds = 2 * math.log(1 + RATE_STEP), np.broadcast_to(many.seconds, (1 + 2 * len(RATES),))
    values = {key: math.log(seconds[1 + 2 * i] / seconds[2 + 2 * i]) / width for i, key in enumerate(RATES)}
    rough: dict[str, float] = {}
    for key in () if quick else SIZES:
        values[key], *others = (_of_size(cost, timed, key, step) for step in SIZE_STEPS)
        rough[key] = max(abs(other - values[key]) for other in others)
    base, up = many.first(cost), 1 + RATE_STEP
    if not any(part.shared for part in base.parts):
        values["launch"] = float(base.kernel_slope * base.launch) / float(base.seconds)
    elif not quick:  # the latency of a block is told apart from the rest only by changing it
        ratio = float(timed(cost.with_gpu(cost.gpu, up)).seconds) / float(
            timed(cost.with_gpu(cost.gpu, 1 / up)).seconds
        )
        values["launch"] = math.log(ratio) / width
    values["host"] = float(base.host_slope) / float(base.seconds)
    return [
        Elasticity(key, title, values[key] + 0.0, rough.get(key)) for key, title in RESOURCES.items() if key in values
    ]


def _of_size(cost: StepCost, timed: Timed, key: str, step: float) -> float:
    """The central difference of one of SIZES over a step up and down."""
    more, less = (scaled(cost.gpu, {key: factor}) for factor in (1 + step, 1 / (1 + step)))
    ratio = more.sms / less.sms if key == "sms" else more.l2.size / less.l2.size
    up, down = (float(timed(cost.with_gpu(gpu)).seconds) for gpu in (more, less))
    return math.log(up / down) / math.log(ratio) if ratio > 1 else 0.0


def several(cost: StepCost) -> StepCost:
    """The cost on the GPU as it is and with each of RATES a little up and down, as arrays."""
    return cost.with_gpu(scaled(cost.gpu, _factors()))


def _factors() -> dict[str, np.ndarray]:
    """By resource: 1, and at its own two places RATE_STEP up and down."""
    up, factors = 1 + RATE_STEP, {key: np.ones(1 + 2 * len(RATES)) for key in RATES}
    for i, key in enumerate(RATES):
        factors[key][1 + 2 * i : 3 + 2 * i] = up, 1 / up
    return factors


def scaled(gpu: Gpu, factors: dict[str, Any]) -> Gpu:
    """The GPU with figures times factors, each a number or an array, by the keys of RATES and SIZES."""

    def by(key: str) -> Any:
        return factors.get(key, 1.0)

    memory = replace(gpu.memory, bandwidth=gpu.memory.bandwidth * by("memory.bandwidth"))
    l2 = replace(gpu.l2, bandwidth=gpu.l2.bandwidth * by("l2.bandwidth"), size=gpu.l2.size * by("l2.size"))
    link = replace(gpu.link, bandwidth=gpu.link.bandwidth * by("link.bandwidth"))
    out = gpu.scale_out and replace(gpu.scale_out, bandwidth=gpu.scale_out.bandwidth * by("link.bandwidth"))
    return replace(
        gpu,
        peak={dtype: rate * (1.0 if dtype == "fp32" else by("tensor")) for dtype, rate in gpu.peak.items()},
        memory=memory,
        l2=l2,
        link=link,
        scale_out=out,
        boost_clock=gpu.boost_clock * by("boost_clock"),
        sms=max(1, round(gpu.sms * by("sms"))),
    )
