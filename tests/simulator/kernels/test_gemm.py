"""The physics of GEMM: numbers worked out by hand, and what a GPU engineer expects of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.gpu import Gpu, load_gpu
from simulator.kernels.gemm import GEMM, features, roof, terms, tiling, work

H200 = load_gpu("h200-sxm")
BF16 = {"kernel": "cublas", "dtype": "bf16"}
FP8 = {"kernel": "cutlass", "dtype": "fp8"}
START = {name: constant.start for name, constant in GEMM.constants.items()}
PERFECT = START | {
    "launch": 0.0, "step": 0.0, "wave": 0.0, "merge": 0.0, "compute": 1.0, "memory": 1.0, "l2": 1.0, "resident": 1e-9,
    "quantise_row": 0.0, "quantise_element": 0.0, "quantise": 0.0, "sharpness": 20.0, "split": 1e9,
}  # fmt: skip
SIZES = st.sampled_from([1, 7, 64, 129, 1000, 4096, 8192, 65536])


def shape(m: float, n: float, k: float) -> dict[str, float]:
    return {"m": m, "n": n, "k": k}


def seconds(m: float, n: float, k: float, gpu: Gpu = H200, label: dict[str, str] = BF16, **constants: float) -> float:
    fitted = START | constants
    return float(terms(shape(m, n, k), label, gpu, fitted).seconds(fitted["sharpness"]))


def faster(gpu: Gpu, by: float, *which: str) -> Gpu:
    rates = {"memory.bandwidth": gpu.memory.bandwidth, "l2.bandwidth": gpu.l2.bandwidth}
    rates |= {f"peak.{name}": rate for name, rate in gpu.peak.items()}
    return gpu.with_values({name: rate * by for name, rate in rates.items() if not which or name in which})


def test_small_output_takes_the_smallest_tile_and_splits_k() -> None:
    # 128 x 128 in one wave: four tiles of 64 x 64 cost 64*64 + 64*(64+64) = 12,288 each, one of 128 x 128 32,768.
    tile = tiling(np.array(128.0), np.array(128.0), np.array(4096.0), 132)
    assert (tile.rows, tile.cols, tile.tiles, tile.waves) == (64, 64, 4, 1)
    assert tile.split == 16  # 4,096 / (4 steps of 64); the SMs would do for 132 / 4 = 33


def test_large_output_takes_the_largest_tile() -> None:
    # 8192 x 8192: 32 x 64 tiles of 256 x 128 are 2,048, 15.5 waves of 132.
    tile = tiling(np.array(8192.0), np.array(8192.0), np.array(8192.0), 132)
    assert tile.rows * tile.cols == 256 * 128
    assert (tile.tiles, tile.waves, tile.split) == (2048, 16, 1)


def test_terms_by_hand() -> None:
    # m 64, n 132 x 64, k 1,024: 132 tiles of 64 x 64, one a SM, 16 steps of 64.
    m, n, k = 64.0, 132 * 64.0, 1024.0
    found = terms(shape(m, n, k), BF16, H200, PERFECT | {"launch": 1e-6, "step": 1e-7, "wave": 1e-6})
    assert found.latency == pytest.approx(1e-6 + 16 * 1e-7 + 1e-6)
    assert found.compute == pytest.approx(2 * m * n * k / 989.5e12)
    assert found.memory == pytest.approx(2 * (m * k + n * k + m * n) / 4.8e12)
    assert found.l2 == pytest.approx(132 * 1024 * (64 + 64) * 2 / H200.l2.bandwidth)
    assert found.link == 0


def test_a_long_k_is_split_and_merged() -> None:
    # One tile of 64 x 64: 1,024 steps of 64 without a split, 1,024 / 132 with it.
    never = terms(shape(64, 64, 65536), BF16, H200, PERFECT | {"step": 1e-7, "merge": 5e-6})
    always = terms(shape(64, 64, 65536), BF16, H200, PERFECT | {"step": 1e-7, "merge": 5e-6, "split": 4.0})
    assert never.latency == pytest.approx(1024e-7)
    assert always.latency == pytest.approx(5e-6 + 1024 / 132 * 1e-7, rel=1e-3)


def test_quantised_activations_cost_a_block_a_row() -> None:
    with_rows = terms(shape(1320, 4096, 512), FP8, H200, PERFECT | {"quantise_row": 1e-6})
    assert with_rows.latency == pytest.approx(1320 / 132 * 1e-6)
    assert terms(shape(1320, 4096, 512), BF16, H200, PERFECT | {"quantise_row": 1e-6}).latency == 0


def test_tiles_are_padded_and_waves_are_steps() -> None:
    n, k = 132 * 128.0, 4096.0
    compute = [float(terms(shape(m, n, k), BF16, H200, START).compute) for m in (1, 64, 65, 128, 129)]
    assert compute[0] == compute[1] < compute[2] == compute[3] < compute[4]


def test_huge_problems_tend_to_the_roof() -> None:
    gemm = shape(65536, 65536, 65536)
    ideal = terms(gemm, BF16, H200, PERFECT).seconds(20.0) / roof(gemm, BF16, H200)
    assert ideal == pytest.approx(1.0, abs=0.01)
    assert roof(gemm, BF16, H200) == pytest.approx(2 * 65536**3 / 989.5e12)


def test_tiny_problems_tend_to_the_launch() -> None:
    assert seconds(1, 32, 32) == pytest.approx(START["launch"] + START["wave"] + START["step"], rel=0.1)


def test_decode_is_bound_by_memory_and_prefill_by_compute() -> None:
    quick = faster(H200, 2.0, "memory.bandwidth")
    assert seconds(8, 51200, 51200) / seconds(8, 51200, 51200, quick) > 1.6
    assert seconds(8192, 16384, 16384) / seconds(8192, 16384, 16384, quick) < 1.01


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, st.sampled_from([BF16, FP8]), st.floats(1.01, 4.0))
def test_no_rate_makes_it_slower(m: int, n: int, k: int, label: dict[str, str], by: float) -> None:
    before = seconds(m, n, k, label=label)
    for rate in ("memory.bandwidth", "l2.bandwidth", "peak.bf16", "peak.fp8"):
        assert seconds(m, n, k, faster(H200, by, rate), label) <= before * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, st.sampled_from([BF16, FP8]))
def test_all_rates_twice_halve_all_but_the_latency(m: int, n: int, k: int, label: dict[str, str]) -> None:
    one, two = (terms(shape(m, n, k), label, gpu, START) for gpu in (H200, faster(H200, 2.0)))
    assert two.latency == one.latency
    assert two.busy(3.0) == pytest.approx(one.busy(3.0) / 2)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES)
def test_features_know_no_rate(m: int, n: int, k: int) -> None:
    here, there = (features(shape(m, n, k), BF16, gpu) for gpu in (H200, faster(H200, 3.0)))
    assert np.array_equal(here, there)
    assert len(here) == len(GEMM.names)
    assert np.isfinite(here).all()


def test_twice_the_rows_are_not_faster() -> None:
    for n, k in ((512, 4096), (4096, 4096), (51200, 7168)):
        times = [seconds(2**i, n, k) for i in range(16)]
        assert np.all(np.diff(times) >= -1e-9)


def test_arrays_agree_with_numbers() -> None:
    rng = np.random.default_rng(0)
    table = {c: rng.integers(1, 9000, 50).astype(float) for c in "mnk"}
    for label in (BF16, FP8):
        many = terms(table, label, H200, START).seconds(3.0)
        rows = np.stack(features(table, label, H200))
        for i in range(50):
            one = {c: float(table[c][i]) for c in "mnk"}
            assert many[i] == pytest.approx(terms(one, label, H200, START).seconds(3.0), rel=1e-12)
            assert np.array_equal(rows[:, i], features(one, label, H200))


def test_work_counts_padding() -> None:
    counts = work(shape(1, 132 * 64, 1024), BF16, H200)
    assert counts.flops == 2 * 64 * 132 * 64 * 1024
    assert counts.hbm_bytes == 2 * (1024 + 132 * 64 * 1024 + 132 * 64)
    assert counts.active == 1
