"""Arrival processes: rates, burstiness, order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from workloads.arrivals import Arrivals

ARRIVALS: TypeAdapter = TypeAdapter(Arrivals)
N = 200_000


def times(spec: object, n: int = N, seed: int = 0) -> np.ndarray:
    return ARRIVALS.validate_python(spec).job_times(np.random.default_rng(seed), n)


@given(st.floats(1e-6, 1e6), st.floats(0.01, 100), st.integers(1, 200), st.integers(0, 2**63 - 1))
def test_random_arrivals_are_sorted_and_repeatable(rate: float, cv: float, n: int, seed: int) -> None:
    for spec in ({"kind": "poisson", "rate": rate}, {"kind": "gamma", "rate": rate, "cv": cv}):
        drawn = times(spec, n, seed)
        assert drawn.dtype == np.float64 and drawn.shape == (n,)
        assert drawn[0] >= 0 and (np.diff(drawn) >= 0).all() and np.isfinite(drawn).all()
        assert (drawn == times(spec, n, seed)).all()
        faster = times(spec | {"rate": 2 * rate}, n, seed)
        assert faster == pytest.approx(drawn / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("spec", "cv"),
    [
        ({"kind": "poisson", "rate": 2}, 1.0),
        ({"kind": "poisson", "rate": "120 /min"}, 1.0),
        ({"kind": "gamma", "rate": "2 /s", "cv": 0.5}, 0.5),
        ({"kind": "gamma", "rate": 2, "cv": 3}, 3.0),
    ],
)
def test_rate_and_burstiness(spec: dict, cv: float) -> None:
    gaps = np.diff(times(spec))
    assert gaps.mean() == pytest.approx(0.5, abs=5 * 0.5 * cv / N**0.5)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_poisson_counts_vary_like_their_mean() -> None:
    counts = np.bincount(times({"kind": "poisson", "rate": 5}).astype(np.int64))[:30_000]
    assert counts.mean() == pytest.approx(5, rel=0.01)
    assert counts.var() == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize("spec", ["all_at_once", {"kind": "all_at_once"}, {"kind": "closed_loop", "concurrency": 4}])
def test_nothing_but_zeros(spec: object) -> None:
    drawn = times(spec, 7)
    assert drawn.dtype == np.float64 and drawn.tolist() == [0.0] * 7


def test_think_time_has_a_unit() -> None:
    loop = ARRIVALS.validate_python({"kind": "closed_loop", "concurrency": 4, "think_time": "250 ms"})
    assert loop.think_time == 0.25
