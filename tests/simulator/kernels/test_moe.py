"""The physics of mixture-of-experts layers: what must hold whatever is fitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwspecs.gpu import Gpu, load_gpu
from simulator.kernels.moe import MOE

H200 = load_gpu("h200-sxm")
BF16 = {"kernel": "triton", "dtype": "bf16"}
START = {name: c.start for name, c in MOE.constants.items()}
MIXTRAL = {
    "tokens": 64.0, "hidden": 4096.0, "intermediate": 14336.0, "top_k": 2.0, "experts": 8.0,
    "tp": 1.0, "ep": 1.0, "skew": 0.0, "gated": 1.0,
}  # fmt: skip
QWEN = MIXTRAL | {"hidden": 2048.0, "intermediate": 768.0, "top_k": 8.0, "experts": 128.0}


def seconds(shape: dict[str, Any], gpu: Gpu = H200, label: dict[str, str] = BF16) -> np.ndarray:
    return np.asarray(MOE.terms(shape, label, gpu, START).seconds(START["sharpness"]))


def work_bytes(shape: dict[str, Any]) -> float:
    return float(MOE.work(shape, BF16, H200).hbm_bytes)


def grid() -> dict[str, np.ndarray]:
    tokens, ep, skew = np.meshgrid(2.0 ** np.arange(0, 15), [1.0, 8.0, 64.0], [0.0, 1.01, 1.2])
    full = {name: np.full(tokens.size, value) for name, value in QWEN.items()}
    return full | {"tokens": tokens.ravel(), "ep": ep.ravel(), "skew": skew.ravel()}


def test_one_token_reads_the_weights_of_its_experts_only() -> None:
    expert = 3 * 4096 * 14336 * 2
    assert work_bytes(MIXTRAL | {"tokens": 1.0}) == pytest.approx(2 * expert, rel=0.01)
    assert work_bytes(MIXTRAL | {"tokens": 4.0}) == pytest.approx(8 * expert, rel=0.01)
    assert work_bytes(MIXTRAL | {"tokens": 64.0}) == pytest.approx(8 * expert, rel=0.03)


def test_a_gate_is_a_third_matrix() -> None:
    plain = MOE.work(MIXTRAL | {"gated": 0.0}, BF16, H200)
    gated = MOE.work(MIXTRAL, BF16, H200)
    assert gated.flops == pytest.approx(1.5 * plain.flops)


def test_a_skewed_routing_hits_fewer_experts_and_loads_one_gpu_more() -> None:
    few = QWEN | {"tokens": 16.0}
    assert work_bytes(few | {"skew": 1.2}) < work_bytes(few)
    many = QWEN | {"tokens": 8192.0, "ep": 16.0}
    assert seconds(many | {"skew": 1.2}) > seconds(many | {"skew": 1.01}) > seconds(many)


def test_parallelism_divides_the_work() -> None:
    shape = MIXTRAL | {"tokens": 4096.0}
    whole = MOE.work(shape, BF16, H200)
    for split in ({"tp": 8.0}, {"ep": 8.0}):
        part = MOE.work(shape | split, BF16, H200)
        assert part.flops == pytest.approx(whole.flops / 8, rel=0.05)


def test_small_batches_are_bound_by_weights_and_large_ones_by_flops() -> None:
    wide = H200.with_values({"memory.bandwidth": 2 * H200.memory.bandwidth})
    strong = H200.with_values({"peak.bf16": 2 * H200.peak["bf16"]})
    small, large = MIXTRAL | {"tokens": 8.0}, MIXTRAL | {"tokens": 16384.0}
    assert seconds(small) / seconds(small, wide) > 1.7
    assert seconds(large) / seconds(large, wide) < 1.1
    assert seconds(large) / seconds(large, strong) > 1.7


def test_fewer_bits_are_fewer_bytes_and_faster_arithmetic() -> None:
    for tokens in (8.0, 8192.0):
        shape = MIXTRAL | {"tokens": tokens}
        assert seconds(shape, label={"kernel": "k", "dtype": "fp8"}) < 0.7 * seconds(shape)


def test_all_rates_doubled_halve_everything_but_the_latency() -> None:
    double = H200.with_values(
        {
            "memory.bandwidth": 2 * H200.memory.bandwidth,
            "l2.bandwidth": 2 * H200.l2.bandwidth,
            "peak.bf16": 2 * H200.peak["bf16"],
        }
    )
    shape = grid()
    slow, fast = (MOE.terms(shape, BF16, gpu, START) for gpu in (H200, double))
    assert np.allclose(slow.busy(3.0), 2 * fast.busy(3.0))
    assert np.allclose(slow.latency, fast.latency)


@pytest.mark.parametrize("path", ["memory.bandwidth", "l2.bandwidth", "peak.bf16"])
def test_a_quicker_part_never_makes_it_slower(path: str) -> None:
    value = {"memory.bandwidth": 4.8e12, "l2.bandwidth": H200.l2.bandwidth, "peak.bf16": H200.peak["bf16"]}[path]
    shape = grid()
    assert np.all(seconds(shape, H200.with_values({path: 1.05 * value})) <= seconds(shape) * (1 + 1e-12))


def test_features_hold_no_rate() -> None:
    other = H200.with_values(
        {"memory.bandwidth": 9e12, "l2.bandwidth": 3e13, "peak.bf16": 3e15, "link.bandwidth": 9e11, "boost_clock": 3e9}
    )
    shape = grid()
    features = MOE.features(shape, BF16, H200)
    for name, mine, theirs in zip(MOE.names, features, MOE.features(shape, BF16, other), strict=True):
        assert np.array_equal(mine, theirs), name
        assert np.all(np.isfinite(mine)), name


def test_arrays_and_numbers_agree() -> None:
    shape = grid()
    whole = seconds(shape)
    features = MOE.features(shape, BF16, H200)
    work = MOE.work(shape, BF16, H200)
    for i in range(0, whole.size, 7):
        one = {name: float(column[i]) for name, column in shape.items()}
        assert seconds(one) == pytest.approx(whole[i])
        assert MOE.work(one, BF16, H200).hbm_bytes == pytest.approx(work.hbm_bytes[i])
        alone = [float(np.asarray(f)) for f in MOE.features(one, BF16, H200)]
        assert alone == pytest.approx([float(np.broadcast_to(f, whole.shape)[i]) for f in features])


def test_nothing_beats_the_roof() -> None:
    shape = grid()
    perfect = START | {"compute": 1.0, "weights": 1.0, "moved": 3.0, "l2": 5.0, "rows": 1.0, "fill": 1.0}
    time = MOE.terms(shape, BF16, H200, perfect).seconds(3.0)
    assert np.all(MOE.roof(shape, BF16, H200) <= time)
