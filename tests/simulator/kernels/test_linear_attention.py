"""The physics of gated linear attention: counts worked by hand, and what must hold whatever is fitted."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from hwspecs.gpu import Gpu, load_gpu
from simulator.kernels.linear_attention import LINEAR_ATTENTION

H200 = load_gpu("h200-sxm")
START = {name: c.start for name, c in LINEAR_ATTENTION.constants.items()}
# Qwen3-Next-80B-A3B on one GPU: 16 key heads and 32 value heads of 128.
QWEN = {
    "batch": 64.0, "seq_len": 1.0, "conv_width": 4.0, "k_heads": 16.0, "v_heads": 32.0, "k_head_dim": 128.0,
    "v_head_dim": 128.0,
}  # fmt: skip
PROMPT = QWEN | {"batch": 1.0, "seq_len": 8192.0}


def named(kernel: str, phase: str) -> dict[str, str]:
    return LINEAR_ATTENTION.label_of({"kernel": kernel, "phase": phase})


UPDATE, CONV = named("causal_conv1d_update", "decode"), named("causal_conv1d_fn", "prefill")
RECURRENT = named("fused_recurrent_gated_delta_rule_packed_decode", "decode")
CHUNKED = named("chunk_gated_delta_rule", "prefill")
FUSED = named("chunk_gated_delta_rule_flashinfer", "prefill")
EACH = pytest.mark.parametrize("label", [UPDATE, CONV, RECURRENT, CHUNKED, FUSED], ids=lambda label: label["kernel"])


def seconds(shape: dict[str, Any], label: dict[str, str], gpu: Gpu = H200) -> Any:
    return np.asarray(LINEAR_ATTENTION.terms(shape, label, gpu, START).seconds(START["sharpness"]))


def grid(label: dict[str, str]) -> dict[str, np.ndarray]:
    lengths = [1.0] if label["phase"] == "decode" else [1.0, 64.0, 100.0, 4096.0, 32768.0]
    batch, seq, heads = (a.ravel() for a in np.meshgrid([1.0, 8.0, 1024.0], lengths, [2.0, 6.0, 64.0]))
    full = {name: np.full(batch.size, value) for name, value in QWEN.items()}
    return full | {"batch": batch, "seq_len": seq, "v_heads": heads, "k_heads": np.maximum(heads / 4, 1)}


def test_the_kernels_name_says_the_routine() -> None:
    assert [label["routine"] for label in (UPDATE, CONV, RECURRENT, CHUNKED)] == ["conv", "conv", "delta", "delta"]


def test_decode_reads_and_writes_the_states() -> None:
    # 64 sequences x 32 heads x 128 x 128 x 4 bytes, both ways: 268,435,456. Rows: 64 x (2 x 16 x 128 + 2 x 32 x 128)
    # x 2 bytes and 64 x 32 x 2 gates x 4 bytes: 1,589,248. Together far more than an H200's 50 MiB of L2.
    work = LINEAR_ATTENTION.work(QWEN, RECURRENT, H200)
    assert float(work.hbm_bytes) == pytest.approx(268_435_456 + 1_589_248, rel=1e-3)
    half = LINEAR_ATTENTION.work(QWEN | {"state_size": 2.0}, RECURRENT, H200)
    assert float(half.l2_bytes) == pytest.approx(134_217_728 + 1_589_248)


def test_the_convolution_streams_its_channels() -> None:
    # (2 x 16 + 32) x 128 = 8,192 channels x 8,192 tokens x 2 bytes, in and out, and 3 tokens that are kept, both ways.
    work = LINEAR_ATTENTION.work(PROMPT, CONV, H200)
    assert float(work.l2_bytes) == 2 * 8192 * 8192 * 2 + 2 * 8192 * 3 * 2


def test_products_of_a_chunk() -> None:
    # Per token and head 2 x 64 x (3 x 128 + 2 x 128) within the chunk and 6 x 128 x 128 with the state: 180,224.
    work = LINEAR_ATTENTION.work(PROMPT, CHUNKED, H200)
    assert float(work.flops) == 8192 * 32 * 180_224
    last = LINEAR_ATTENTION.work(PROMPT | {"seq_len": 8190.0}, CHUNKED, H200)
    assert float(last.flops) == float(work.flops)


def test_one_long_sequence_waits_for_its_chain_and_many_short_ones_do_not() -> None:
    few = QWEN | {"v_heads": 4.0, "k_heads": 2.0}
    for label in (CHUNKED, FUSED):
        long = seconds(few | {"batch": 1.0, "seq_len": 32768.0}, label)
        short = seconds(few | {"batch": 32.0, "seq_len": 1024.0}, label)
        assert long > 4 * short


def test_heads_beyond_the_sms_take_a_second_wave_in_the_fused_kernel() -> None:
    # With constants as fitted on an H200: 6,000 clocks a chunk, half of the peak, little in between.
    fitted = START | {"step": 6000.0, "compute": 0.5, "between": 0.5}
    one, two = (
        LINEAR_ATTENTION.terms(PROMPT | {"v_heads": heads}, FUSED, H200, fitted).seconds(4.0) for heads in (132, 133)
    )
    assert two > 1.5 * one


def test_what_a_benchmark_left_out_is_not_left_out_of_a_graph() -> None:
    few = LINEAR_ATTENTION.terms(PROMPT, CONV, H200, START | {"left_out": 1.0})
    all_of = LINEAR_ATTENTION.terms(PROMPT, CONV, H200, START | LINEAR_ATTENTION.in_graph)
    assert float(all_of.l2) == pytest.approx(4 * float(few.l2), rel=0.01)  # 8,192 channels, not 2,048


@EACH
@pytest.mark.parametrize("what", ["memory", "l2", "peak", "clock"])
def test_a_quicker_part_never_makes_it_slower(label: dict[str, str], what: str) -> None:
    shape = grid(label)
    assert np.all(seconds(shape, label, faster(what)) <= seconds(shape, label) * (1 + 1e-12))


def faster(what: str, by: float = 2.0) -> Gpu:
    if what == "clock":
        return dataclasses.replace(H200, boost_clock=by * H200.boost_clock)
    if what == "peak":
        return dataclasses.replace(H200, peak={name: by * rate for name, rate in H200.peak.items()})
    part = getattr(H200, what)
    return dataclasses.replace(H200, **{what: dataclasses.replace(part, bandwidth=by * part.bandwidth)})


@EACH
def test_all_rates_doubled_halve_everything_but_the_latency(label: dict[str, str]) -> None:
    gpu = H200
    for part in ("memory", "l2"):
        own = getattr(gpu, part)
        gpu = dataclasses.replace(gpu, **{part: dataclasses.replace(own, bandwidth=2 * own.bandwidth)})
    gpu = dataclasses.replace(
        gpu, boost_clock=2 * gpu.boost_clock, peak={name: 2 * rate for name, rate in gpu.peak.items()}
    )
    slow, fast = (LINEAR_ATTENTION.terms(grid(label), label, g, START) for g in (H200, gpu))
    assert np.allclose(slow.busy(3.0), 2 * fast.busy(3.0))
    assert np.allclose(slow.latency, fast.latency)


@EACH
def test_nothing_beats_the_roof(label: dict[str, str]) -> None:
    shape = grid(label)
    quickest = {name: c.high if name in ("memory", "l2", "compute") else c.low for name, c in _constants()}
    quickest |= {"resident": 1.2, "width": 100.0, "left_out": 1.0, "sharpness": 8.0}
    time = LINEAR_ATTENTION.terms(shape, label, H200, quickest).seconds(8.0)
    assert np.all(LINEAR_ATTENTION.roof(shape, label, H200) <= time)


def _constants() -> list[tuple[str, Any]]:
    return list(LINEAR_ATTENTION.constants.items())


@EACH
def test_more_tokens_never_take_less_time(label: dict[str, str]) -> None:
    batch = np.arange(1.0, 600.0)
    shape = {name: np.full(batch.size, value) for name, value in QWEN.items()} | {"batch": batch}
    assert np.all(np.diff(seconds(shape, label)) >= -1e-12)


@EACH
def test_features_hold_no_rate_and_numbers_are_as_good_as_arrays(label: dict[str, str]) -> None:
    shape = grid(label)
    features = LINEAR_ATTENTION.features(shape, label, H200)
    other = faster("clock")
    for name, mine, theirs in zip(
        LINEAR_ATTENTION.names, features, LINEAR_ATTENTION.features(shape, label, other), strict=True
    ):
        assert np.array_equal(mine, theirs), name
        assert np.all(np.isfinite(mine)), name
    times = seconds(shape, label)
    for i in range(0, times.size, 7):
        one = {name: float(column[i]) for name, column in shape.items()}
        assert seconds(one, label) == pytest.approx(times[i])
        alone = [float(np.asarray(f)) for f in LINEAR_ATTENTION.features(one, label, H200)]
        assert alone == pytest.approx([float(f[i]) for f in features])
