"""What a GPU engineer knows must hold of the shipped profiles, and of what they say of GPUs that do not exist."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.gpu import Gpu, load_gpu
from simulator.fitted import Estimate
from simulator.kernels.base import TERMS
from simulator.kernels.registry import MODELS
from simulator.selection import Selection, bundled

H200, H100, B200 = (load_gpu(name) for name in ("h200-sxm", "h100-sxm", "b200-sxm"))
HEADS = {"q_heads": 32, "kv_heads": 8, "head_dim": 128, "window": 0}
BF16 = {"dtype": "bf16", "kv_dtype": "bf16"}


def estimate(kind: str, gpu: Gpu, cold: bool = False, label: dict[str, str] | None = None, **shape: object) -> Estimate:
    """Times by the profile that kinesim picks for the GPU under vLLM."""
    label = label or {k: v for k, v in BF16.items() if k in MODELS[kind].labels}
    choice = Selection(gpu).choose(kind, label)
    assert choice is not None
    return choice.group.estimate(shape, gpu, cold=cold)


def decode(gpu: Gpu, batch: object, context: object, **more: object) -> Estimate:
    heads = HEADS | more
    return estimate("attention_decode", gpu, batch=batch, context_len=context, **heads)


def prefill(gpu: Gpu, batch: object, query: object) -> Estimate:
    heads = HEADS | {"past_len": 0}
    return estimate("attention_prefill", gpu, batch=batch, query_len=query, **heads)


def faster(gpu: Gpu, factor: float, *parts: str) -> Gpu:
    """A copy with some rates multiplied."""
    values = {}
    for part in parts:
        if part == "peak":
            values |= {f"peak.{dtype}": rate * factor for dtype, rate in gpu.peak.items()}
        else:
            place, name = part.split(".")
            values[part] = getattr(getattr(gpu, place), name) * factor
    return gpu.with_values(values)


def twice(gpu: Gpu) -> Gpu:
    """Every rate doubled: tensor cores, HBM, L2, link and the clock; nothing of the shape."""
    quick = faster(gpu, 2.0, "peak", "memory.bandwidth", "l2.bandwidth", "link.bandwidth")
    return dataclasses.replace(quick, boost_clock=2 * gpu.boost_clock)


def seconds(found: Estimate) -> np.ndarray:
    return np.asarray(found.seconds, dtype=float)


# ---- waves, roofs, ends ----------------------------------------------------------------------------------------------


def test_wave_quantisation_shows_as_steps() -> None:
    """The time of an output 8,192 wide goes up in steps with m, and is flat between.

    The height of a step depends on the tiles that cuBLAS picks, so only that there are steps is asked for.
    """
    m = np.arange(128, 2049, 128)
    time = seconds(estimate("gemm", H200, m=m, n=np.full(len(m), 8192), k=np.full(len(m), 8192)))
    growth = time[1:] / time[:-1]
    smooth = m[1:] / m[:-1]
    beside_work = growth[3:] / smooth[3:]
    assert beside_work.max() > 1.02 and beside_work.min() < 0.97, beside_work
    assert time[-1] > 3 * time[0]


def test_decode_of_much_kv_halves_with_twice_the_bandwidth() -> None:
    slow, fast = decode(H200, 64, 16384), decode(faster(H200, 2.0, "memory.bandwidth"), 64, 16384)
    assert TERMS[int(slow.bound())] == "memory"
    latency = float(slow.terms.latency)
    assert 0.5 <= (float(fast.seconds) - latency) / (float(slow.seconds) - latency) < 0.58
    assert float(fast.seconds) < 0.6 * float(slow.seconds)


def test_prefill_does_not_mind_the_bandwidth() -> None:
    slow, fast = prefill(H200, 1, 16384), prefill(faster(H200, 2.0, "memory.bandwidth"), 1, 16384)
    assert TERMS[int(slow.bound())] == "compute"
    assert float(fast.seconds) == pytest.approx(float(slow.seconds), rel=0.02)


def test_small_operands_may_beat_hbm_but_never_the_l2() -> None:
    for gpu in (H200, B200):
        found = decode(gpu, 8, np.array([256.0, 512, 1024, 4096, 65536]))
        kv = 8 * np.array([256.0, 512, 1024, 4096, 65536]) * 8 * 128 * 2 * 2
        assert (seconds(found) >= kv / gpu.l2.bandwidth).all()
        assert (seconds(found) >= (kv - gpu.l2.size) / gpu.memory.bandwidth).all()
        cold = estimate(
            "attention_decode", gpu, True, batch=8, context_len=65536.0, q_heads=32, kv_heads=8, head_dim=128, window=0
        )
        assert float(cold.seconds) >= kv[-1] / gpu.memory.bandwidth


@pytest.mark.parametrize("gpu", [H100, H200, B200], ids=lambda gpu: gpu.name)
def test_large_gemms_tend_to_the_roofline_and_tiny_ones_to_a_launch(gpu: Gpu) -> None:
    large = float(estimate("gemm", gpu, m=16384, n=16384, k=16384).seconds)
    ideal = 2 * 16384**3 / gpu.peak["bf16"]
    assert ideal <= large < 1.6 * ideal
    tiny = float(estimate("gemm", gpu, m=1, n=64, k=64).seconds)
    assert 1e-6 < tiny < 6e-6
    wide = float(decode(gpu, 256, 32768).seconds)
    kv = 256 * 32768 * 8 * 128 * 2 * 2 / gpu.memory.bandwidth
    assert kv <= wide < 1.35 * kv


# ---- other GPUs ------------------------------------------------------------------------------------------------------


def test_twice_of_everything_takes_half_but_for_latencies() -> None:
    quick = twice(H200)
    for kind, shape in (
        ("gemm", {"m": 4096, "n": 8192, "k": 8192}),
        (
            "attention_decode",
            {"batch": 32, "context_len": 8192, **HEADS},
        ),
        (
            "attention_prefill",
            {"batch": 1, "query_len": 8192, "past_len": 0, **HEADS},
        ),
    ):
        one, two = estimate(kind, H200, **shape), estimate(kind, quick, **shape)
        busy = float(one.seconds) - float(one.terms.latency)
        assert float(two.seconds) - float(two.terms.latency) == pytest.approx(busy / 2, rel=1e-6), kind


def test_an_h200_with_the_memory_of_an_h100_is_an_h100() -> None:
    """To the error that `transfer` states for siblings."""
    like = H200.with_values({"memory.bandwidth": H100.memory.bandwidth})
    carried = bundled()["transfer"].carried
    rng = np.random.default_rng(0)
    batch, context = 2.0 ** rng.integers(0, 8, 200), 2.0 ** rng.integers(6, 16, 200)
    m, n, k = (2.0 ** rng.integers(low, 14, 200) for low in (0, 8, 8))
    for kind, made, real in (
        ("attention_decode", decode(like, batch, context), decode(H100, batch, context)),
        ("gemm", estimate("gemm", like, m=m, n=n, k=k), estimate("gemm", H100, m=m, n=n, k=k)),
    ):
        error = np.log(seconds(made) / seconds(real))
        band = carried[kind]["sibling"]
        limit = max(-band.low, band.high) + 0.05
        assert np.quantile(np.abs(error), 0.8) < limit, kind
        assert abs(np.median(error)) < 0.08, kind


RATES = ("memory.bandwidth", "l2.bandwidth", "peak")


@settings(max_examples=60, deadline=None)
@given(
    part=st.sampled_from(RATES),
    factor=st.floats(1.0, 4.0),
    batch=st.integers(1, 512),
    context=st.integers(1, 100_000),
    n=st.integers(64, 60_000),
    gpu=st.sampled_from(["h200-sxm", "b200-sxm", "gb200", "l40s", "mi300x"]),
)
def test_a_quicker_part_never_makes_a_kernel_slower(
    part: str, factor: float, batch: int, context: int, n: int, gpu: str
) -> None:
    """For real and invented GPUs alike; and a little more never makes a jump."""
    base = load_gpu(gpu)
    quick = faster(base, factor, part)
    slightly = faster(base, 1.05, part)
    for kind, shape in (
        ("attention_decode", {"batch": batch, "context_len": context, **HEADS}),
        ("attention_prefill", {"batch": 1, "query_len": context, "past_len": 0, **HEADS}),
        ("gemm", {"m": batch, "n": n, "k": 4096}),
    ):  # fmt: skip
        label = {name: value for name, value in BF16.items() if name in MODELS[kind].labels}
        choice = Selection(base).choose(kind, label)
        assert choice is not None
        found = [float(choice.group.estimate(shape, other).seconds) for other in (base, slightly, quick)]
        assert found[1] <= found[0] * (1 + 1e-9) and found[2] <= found[0] * (1 + 1e-9)
        assert found[1] >= found[0] / 1.06


def test_more_work_is_not_faster_beyond_the_scatter_of_measurements() -> None:
    """Twice the rows, batch or context: at most a few in a hundred come out quicker, and by no more than errors are."""
    m = 2.0 ** np.arange(0, 14)
    for n, k in ((4096, 4096), (12288, 4096), (4096, 14336), (1024, 8192)):
        time = seconds(estimate("gemm", H200, m=m, n=np.full(14, n), k=np.full(14, k)))
        assert (time[1:] > 0.93 * time[:-1]).all()
    context = 2.0 ** np.arange(1, 17)
    for batch in (1, 8, 64):
        time = seconds(decode(H200, batch, context))
        assert (time[1:] > 0.93 * time[:-1]).all()


@pytest.mark.parametrize(
    ("spec", "tier", "note"),
    [
        ({"base": "h200-sxm", "memory": {"bandwidth": "9.6 TB/s"}}, "sibling", "h200-sxm"),
        ({"base": "b200-sxm", "sms": 74}, "sibling", "b200-sxm"),
        ("gb200", "sibling", "b200-sxm"),
        ("l40s", "foreign", None),
    ],
)
def test_gpus_without_measurements_are_transferred(spec: object, tier: str, note: str | None) -> None:
    selection = Selection(load_gpu(spec))  # type: ignore[arg-type]
    assert (selection.tier, selection.anchor) == (tier, note)
    choice = selection.choose("gemm", {"dtype": "bf16"})
    assert choice is not None and choice.transferred and choice.carried is not None
    assert choice.carried.low < 0 < choice.carried.high
