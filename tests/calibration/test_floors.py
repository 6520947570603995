"""Host-side floors are told from latencies that every kernel has."""

from __future__ import annotations

import numpy as np

from calibration.constants import Rows
from calibration.floors import detect_floor
from hwspecs.gpu import load_gpu

IDEAL = np.geomspace(1e-8, 1e-3, 600)
SCATTER = np.random.default_rng(0).normal(1.0, 0.03, len(IDEAL))


def found(kernel: np.ndarray) -> float:
    rows = Rows({}, {"kernel": "any", "dtype": "fp8"}, load_gpu("h200-sxm"), kernel * SCATTER)
    return detect_floor(rows, IDEAL)


def test_a_floor_is_found_at_its_height() -> None:
    for floor in (12e-6, 55e-6, 170e-6):
        assert abs(found(np.maximum(4e-6 + 1.3 * IDEAL, floor)) / floor - 1) < 0.03


def test_a_latency_that_adds_to_the_work_is_none() -> None:
    for latency in (3e-6, 7e-6, 12e-6, 20e-6):
        assert found(latency + 1.3 * IDEAL) == 0


def test_few_rows_say_nothing() -> None:
    rows = Rows({}, {"kernel": "any", "dtype": "fp8"}, load_gpu("h200-sxm"), np.full(10, 55e-6))
    assert detect_floor(rows, np.full(10, 1e-7)) == 0


def test_a_block_of_kernels_that_never_takes_less_than_no_gpu_needs_has_a_floor() -> None:
    """Rising times say nothing there: part of the host's time is left over beside long kernels."""
    for latency, floor in ((900e-6, 900e-6), (60e-6, 0.0)):
        rows = Rows({}, {"kernel": "any", "dtype": "fp8"}, load_gpu("h200-sxm"), (latency + 1.3 * IDEAL) * SCATTER)
        assert abs(detect_floor(rows, IDEAL, single=False) - floor) <= 0.03 * floor
