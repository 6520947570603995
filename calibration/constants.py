"""Fits the constants of a kernel model to measured times, before trees learn what is left over.

The error is the logarithm of measured over modelled time, weighed so that outliers pull little (soft L1). Rows of
several GPUs and kernels may be fitted together, which is how the transfer profile gets constants that hold for all of
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from hwspecs.gpu import Gpu
from simulator.fitted import COLD
from simulator.kernels.base import Constants, KernelModel, Label, Shape

MOST_ROWS = 3_000
SCALE = 0.1
"""Errors (logarithms) from which on they count by their size and not by its square."""
PRIOR = 0.003
"""How strongly a constant is held where it starts, in logarithms of the error per logarithm of the constant. Next to
nothing against rows that say something of it; constants that no row depends on would wander off to their bounds, and be
wrong where another GPU needs them.
"""


@dataclass(frozen=True)
class Rows:
    """Measured rows of one kernel on one GPU: shape columns and seconds, and a host-side floor in seconds.

    `l2` : `cold` if their operands came from HBM, `warm` if not, nothing if nobody said so.
    """

    shape: Shape
    label: Label
    gpu: Gpu
    seconds: np.ndarray
    floor: float = 0.0
    l2: str = ""

    def take(self, pick: np.ndarray) -> Rows:
        shape = {name: np.asarray(column)[pick] for name, column in self.shape.items()}
        return Rows(shape, self.label, self.gpu, self.seconds[pick], self.floor, self.l2)

    def __len__(self) -> int:
        return len(self.seconds)


def fit_constants(model: KernelModel, groups: Sequence[Rows], *, seed: int = 0) -> dict[str, float]:
    """The model's constants that fit all groups best; each group counts alike. Constants whose bounds agree stay.

    `resident`, what a benchmark's repetitions find in the L2, is known where nothing is found there: COLD.
    """
    fixed = {name: c.start for name, c in model.constants.items() if c.high <= c.low}
    if "resident" in model.constants and all(group.l2 == "cold" for group in groups):
        fixed["resident"] = COLD
    names = [name for name in model.constants if name not in fixed]
    rng = np.random.default_rng(seed)
    each = max(200, MOST_ROWS // len(groups))
    drawn = [g if len(g) <= each else g.take(np.sort(rng.permutation(len(g))[:each])) for g in groups]
    weight = [np.sqrt(each / len(g)) for g in drawn]
    low = np.array([np.log(max(model.constants[n].low, 1e-30)) for n in names])
    high = np.array([np.log(model.constants[n].high) for n in names])
    start = np.clip([np.log(max(model.constants[n].start, 1e-30)) for n in names], low + 1e-6, high - 1e-6)

    pull = PRIOR * np.sqrt(sum(map(len, drawn)))

    def error(x: np.ndarray) -> np.ndarray:
        constants = fixed | dict(zip(names, np.exp(x).tolist(), strict=True))
        parts = []
        for group, w in zip(drawn, weight, strict=True):
            modelled = np.maximum(model_seconds(model, group, constants), group.floor)
            parts.append(w * _soft(np.log(modelled / group.seconds)))
        return np.concatenate([*parts, pull * (x - start)])

    found = least_squares(error, start, bounds=(low, high), max_nfev=60, x_scale=0.3)
    # Six digits: more would only carry the rounding of this machine's linear algebra into the profile.
    return fixed | {name: float(f"{value:.6g}") for name, value in zip(names, np.exp(found.x).tolist(), strict=True)}


def _soft(error: np.ndarray) -> np.ndarray:
    """Residuals whose squares are the soft L1 of the errors: quadratic below SCALE, linear beyond.

    Made here and not by the solver's `loss`, under which a group's weight would change its scale.
    """
    return np.sign(error) * SCALE * np.sqrt(2 * (np.sqrt(1 + (error / SCALE) ** 2) - 1))


def model_seconds(model: KernelModel, rows: Rows, constants: Constants) -> np.ndarray:
    """Seconds by the physics alone; of rows that were measured cold with nothing in the L2, whatever the constants."""
    if rows.l2 == "cold" and "resident" in constants:
        constants = {**constants, "resident": COLD}
    terms = model.terms(rows.shape, rows.label, rows.gpu, constants)
    return np.broadcast_to(terms.seconds(constants["sharpness"]), rows.seconds.shape)
