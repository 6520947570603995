"""Fits the host's constants of the engines' parameter sets to measured deployments.

`python -m calibration.servingfit TABLE` prints, for every engine (and every version that changed its host), the
constants that fit best, to be written into `workloads/engines/*.yaml` by hand, and the errors of its deployments with
them. Everything else about an engine is a documented fact and is not fitted. How far the constants carry, to
deployments that were left out, is `calibration.servingsplits`.

The times of a row are simulated with the constants as they are, and with each of them changed a little; in between they
are taken as linear in the logarithm, which the last simulation with the fitted constants checks. Errors are weighed
robustly (soft L1 in the logarithm), so that odd rows do not pull.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from calibration.servingerrors import layout
from calibration.servingreplay import Replay, Row, replay_variants
from calibration.servingruns import deployment_spec
from calibration.servingtables import ServingTable, read_serving
from hwspecs.gpu import load_gpu
from simulator.progress import progress_bar
from workloads.engine import Engine, resolve_engine

STEPS = {
    "step": 0.2e-3, "dense_layer": 5e-6, "moe_layer": 5e-6, "block_layer": 5e-6, "sequence": 10e-6, "eager": 20e-6,
    "linear_layer": 10e-6, "moe_eager": 50e-6, "latent_eager": 50e-6, "linear_eager": 50e-6, "prefill_share": 0.05,
    "moe_prefill_share": 0.05, "block_prefill_share": 0.05, "chunk": 1e-3, "request": 10e-3, "token": 2e-6,
}  # fmt: skip
"""The host's constants, and by how much each is changed for its slope (seconds)."""
TTFT_WEIGHT = 0.4
"""Of a TTFT's error beside a TPOT's: it scatters more, and depends on more than the host."""
SOFT = 0.05
"""Relative error from which on errors count by their size and no more by their square."""

FARTHEST = 3.0
"""`Slopes.fit` around given constants goes up to so many times as far."""


@dataclass(frozen=True)
class Slopes:
    """Rows that one parameter set serves, linearised.

    constants : float64 [constants] as simulated, in the order of STEPS. log : float64 [2, n], ln(predicted / measured)
    of TPOT and TTFT. slope : float64 [2, n, constants], its derivatives (1/s).
    """

    rows: list[Row]
    constants: np.ndarray
    log: np.ndarray
    slope: np.ndarray

    def errors(self, constants: np.ndarray, pick: np.ndarray) -> np.ndarray:
        """|predicted / measured - 1| of TPOT and TTFT with other constants, float64 [2, picked]."""
        moved = self.log[:, pick] + self.slope[:, pick] @ (constants - self.constants)
        return np.minimum(np.abs(np.expm1(moved)), 1.0)

    def fit(self, pick: np.ndarray, around: np.ndarray | None = None) -> np.ndarray:
        """Constants that fit the picked rows, none negative.

        `around` : those that are 0 here stay 0, and none becomes more than FARTHEST times as large: what an engine's
        host does is taken as known, and farther away the simulation is not linear.
        """
        log, slope = self.log[:, pick], self.slope[:, pick]
        weight = np.array([1.0, TTFT_WEIGHT])[:, None]
        scale = np.array(list(STEPS.values()))
        free = np.ones(len(scale), dtype=bool) if around is None else around > 0
        most = np.full(len(scale), np.inf) if around is None else np.maximum(FARTHEST * around / scale, 0.02)

        def residual(x: np.ndarray) -> np.ndarray:
            moved = log + slope[..., free] @ (x * scale[free]) - slope @ self.constants
            return np.ravel(np.where(np.isnan(moved), 0.0, moved * weight))

        start = np.clip(self.constants / scale, 0.01, most)[free]
        found = least_squares(residual, start, bounds=(0, most[free]), loss="soft_l1", f_scale=SOFT)
        out = np.zeros(len(scale))
        out[free] = found.x * scale[free]
        return out


def parameter_set(row: Row) -> str:
    """Which constants a row's engine has: those of an engine, its version, how it was started and on which GPU."""
    engine = _engine(deployment_spec(row), row)
    constants = (f"{name} {getattr(engine.host, name):.4g}" for name in type(engine.host).model_fields)
    return f"{engine.name}: {', '.join(constants)}"


def _engine(spec: dict[str, Any], row: Row) -> Engine:
    gpu = load_gpu(row["gpu"])
    return resolve_engine(
        Engine(**spec["engine"]), gpu.memory.capacity, architecture=gpu.architecture, gpu=gpu.base or gpu.name
    )


def changed(name: str, delta: float, used: bool = False) -> Callable[[Row, str | None], dict[str, Any]]:
    """Deployments whose host takes `delta` seconds more of the constant `name`.

    `used` : only where it is not 0; the others stay as they are.
    """

    def spec_of(row: Row, profile: str | None) -> dict[str, Any]:
        spec = deployment_spec(row, profile)
        host = _engine(spec, row).host
        if used and not getattr(host, name):
            return spec
        spec["engine"]["host"] = {**host.model_dump(), name: getattr(host, name) + delta}
        return spec

    return spec_of


def linearise(table: ServingTable, jobs: int | None = None, used: bool = False) -> dict[str, Slopes]:
    """Simulates the table's rows once and once more for each constant. Rows without a prediction are left out.

    `used` : only for the constants that a row's parameter set has; the slopes of the others are 0.
    """
    with progress_bar("simulating") as report:
        variants = [deployment_spec, *(changed(name, delta, used) for name, delta in STEPS.items())]
        runs = replay_variants(table.rows, variants, jobs=jobs, report=report, intervals=False)
    measured = np.stack([table.tpot, table.ttft])
    predicted = np.stack([_times(run) for run in runs])  # [1 + constants, 2, n]
    usable = np.isfinite(predicted).all(axis=0).all(axis=0) & np.isfinite(measured).all(axis=0)
    log = np.log(predicted)
    groups: dict[str, list[int]] = {}
    for i in np.flatnonzero(usable).tolist():
        groups.setdefault(parameter_set(table.rows[i]), []).append(i)
    out = {}
    for key, members in groups.items():
        rows = [table.rows[i] for i in members]
        host = _engine(deployment_spec(rows[0]), rows[0]).host
        slope = np.stack([(log[j + 1] - log[0])[:, members] / delta for j, delta in enumerate(STEPS.values())], axis=-1)
        constants = np.array([getattr(host, name) for name in STEPS])
        out[key] = Slopes(rows, constants, (log[0] - np.log(measured))[:, members], slope)
    return out


def _times(run: Sequence[Replay]) -> np.ndarray:
    return np.array([[entry.tpot for entry in run], [entry.ttft for entry in run]])


LEFT_OUT: dict[str, Callable[[Row], str]] = {
    "deployment": lambda row: " ".join([row["model"], row["engine"], row["gpu"], row["precision"], layout(row)]),
    "model": lambda row: row["model"],
    "GPU": lambda row: row["gpu"],
}
"""What is left out of the fit, each value in turn."""


def worded(name: str, value: float) -> str:
    """A constant with its unit: a share has none."""
    if name.endswith("share"):
        return f"{value:.2g}" if value > 1e-3 else "0"
    return "0" if value < 5e-9 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} us"


def main(arguments: Sequence[str]) -> None:
    table = read_serving(Path(arguments[0]))
    for key, slopes in linearise(table).items():
        every = np.arange(len(slopes.rows))
        fitted = slopes.fit(every)
        print(f"\n{key}: {len(every)} rows")
        for name, old, new in zip(STEPS, slopes.constants, fitted, strict=True):
            print(f"  {name:17} {worded(name, old):>8} -> {worded(name, new)}")
        before, after = slopes.errors(slopes.constants, every), slopes.errors(fitted, every)
        print(f"  TPOT, TTFT errors: {_both(before)} as simulated, {_both(after)} fitted")
        groups = sorted({LEFT_OUT["deployment"](row) for row in slopes.rows})
        for group in groups:
            pick = np.array([i for i in every if LEFT_OUT["deployment"](slopes.rows[i]) == group])
            print(f"    {group:70} {len(pick):3} {_both(before[:, pick])} -> {_both(after[:, pick])}")


def _both(errors: np.ndarray) -> str:
    return ", ".join(f"{100 * np.nanmean(part):.1f} %" for part in errors)


if __name__ == "__main__":
    main(sys.argv[1:])
