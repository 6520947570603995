"""The physics of operators that pass over rows once: numbers by hand, and what must hold whatever is fitted."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.gpu import Gpu, load_gpu
from simulator.kernels.elementwise import ELEMENTWISE, FUSED, missed

H200 = load_gpu("h200-sxm")
NORM = {"kernel": "triton", "op": "rms_norm", "dtype": "bf16"}
COPY = NORM | {"op": "copy"}
START = {name: constant.start for name, constant in ELEMENTWISE.constants.items()}
PERFECT = START | {"latency": 0.0, "row": 0.0, "uneven": 0.0, "l2": 1.0, "memory": 1.0, "cold": 0.0, "sharpness": 50.0}
ROWS = st.integers(1, 20_000)
BYTES = st.integers(64, 2**20)


def shape(rows: Any, row_bytes: Any) -> dict[str, Any]:
    return {"rows": rows, "row_bytes": row_bytes}


def seconds(rows: Any, row_bytes: Any, gpu: Gpu = H200, **constants: float) -> Any:
    fitted = START | constants
    return ELEMENTWISE.terms(shape(rows, row_bytes), NORM, gpu, fitted).seconds(fitted["sharpness"])


def faster(gpu: Gpu, by: float, *which: str) -> Gpu:
    rates = {"memory.bandwidth": gpu.memory.bandwidth, "l2.bandwidth": gpu.l2.bandwidth}
    changed = gpu.with_values({name: rate * by for name, rate in rates.items() if not which or name in which})
    clock = by if not which or "clock" in which else 1.0
    return dataclasses.replace(changed, boost_clock=gpu.boost_clock * clock)


def test_terms_by_hand() -> None:
    # 132 rows of 8,192 bytes, one an SM: 1.08 MB from the L2, nothing of it from HBM.
    found = ELEMENTWISE.terms(shape(132, 8192), NORM, H200, PERFECT | {"row": 198.0})
    assert found.compute == pytest.approx(198 / 1.98e9)
    assert found.l2 == pytest.approx(132 * 8192 / H200.l2.bandwidth)
    assert found.memory < 1e-3 * found.l2
    # 65,536 rows of 16 KiB are 1 GiB: all of it from HBM.
    assert ELEMENTWISE.terms(shape(65536, 16384), COPY, H200, PERFECT).memory == pytest.approx(2**30 / 4.8e12, rel=1e-4)


def test_the_busiest_sm_decides_where_rows_are_not_cut() -> None:
    one, full, over = (
        ELEMENTWISE.terms(shape(rows, 2**20), NORM, H200, PERFECT | {"uneven": 1.0}).l2 for rows in (1, 132, 133)
    )
    assert one == pytest.approx(full) and over == pytest.approx(2 * full)
    assert full == pytest.approx(132 * 2**20 / H200.l2.bandwidth)
    cut = ELEMENTWISE.terms(shape(1, 2**20), NORM, H200, PERFECT).l2
    assert cut == pytest.approx(full / 132)


def test_a_part_may_lie_in_hbm_all_along() -> None:
    """An embedding's rows: half of its bytes."""
    found = ELEMENTWISE.terms(shape(132, 16384), NORM | {"op": "embedding"}, H200, PERFECT | {"cold": 0.5})
    assert found.memory == pytest.approx(132 * 8192 / 4.8e12, rel=1e-3)


def test_what_exceeds_the_l2_comes_from_hbm() -> None:
    sizes = H200.l2.size * np.array([0.01, 0.1, 0.5, 2.0, 20.0])
    part = missed(sizes, H200)
    assert (np.diff(part) > 0).all() and part[0] < 1e-4 and part[2] == pytest.approx(0.5) and part[-1] > 0.999


def test_streams_cannot_beat_the_bandwidth_and_fused_kernels_may_move_less() -> None:
    huge = shape(2.0**20, 16384.0)
    beyond = (2.0**34 - H200.l2.size) / 4.8e12
    assert ELEMENTWISE.roof(huge, COPY, H200) == pytest.approx(beyond)
    assert ELEMENTWISE.roof(huge, NORM, H200) < FUSED * 1.01 * beyond
    assert ELEMENTWISE.roof(shape(1, 8192), COPY, H200) == pytest.approx(8192 / H200.l2.bandwidth)


@settings(max_examples=80, deadline=None)
@given(ROWS, BYTES, st.floats(1.01, 4.0), st.sampled_from(["memory.bandwidth", "l2.bandwidth", "clock"]))
def test_no_rate_makes_it_slower(rows: int, row_bytes: int, by: float, rate: str) -> None:
    assert seconds(rows, row_bytes, faster(H200, by, rate)) <= seconds(rows, row_bytes) * (1 + 1e-12)


@settings(max_examples=80, deadline=None)
@given(ROWS, BYTES)
def test_all_rates_twice_halve_all_but_the_latency(rows: int, row_bytes: int) -> None:
    one, two = (ELEMENTWISE.terms(shape(rows, row_bytes), NORM, g, START) for g in (H200, faster(H200, 2.0)))
    assert two.latency == one.latency
    assert two.busy(3.0) == pytest.approx(one.busy(3.0) / 2)


@settings(max_examples=80, deadline=None)
@given(ROWS, BYTES, st.floats(0.001, 1.0))
def test_more_rows_or_bytes_are_not_quicker(rows: int, row_bytes: int, uneven: float) -> None:
    here = seconds(rows, row_bytes, uneven=uneven)
    assert seconds(rows + 1, row_bytes, uneven=uneven) >= here * (1 - 1e-12)
    assert seconds(rows, row_bytes + 1, uneven=uneven) >= here * (1 - 1e-12)


@settings(max_examples=40, deadline=None)
@given(ROWS, BYTES)
def test_features_know_no_rate(rows: int, row_bytes: int) -> None:
    here, there = (ELEMENTWISE.features(shape(rows, row_bytes), NORM, gpu) for gpu in (H200, faster(H200, 3.0)))
    assert np.array_equal(here, there) and len(here) == len(ELEMENTWISE.names) and np.isfinite(here).all()


def test_arrays_agree_with_numbers() -> None:
    rng = np.random.default_rng(0)
    table = shape(rng.integers(1, 9000, 30).astype(float), rng.integers(64, 90_000, 30).astype(float))
    many = seconds(**table)
    for i in range(30):
        assert many[i] == pytest.approx(seconds(*(float(table[c][i]) for c in ("rows", "row_bytes"))), rel=1e-12)


def test_work_counts_bytes() -> None:
    counts = ELEMENTWISE.work(shape(65536.0, 16384.0), NORM, H200)
    assert counts.l2_bytes == 2.0**30 and counts.hbm_bytes == pytest.approx(2.0**30, rel=1e-4)
    assert counts.flops == 0 and counts.active == 1
