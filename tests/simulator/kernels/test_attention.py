"""The physics of attention kernels: counts worked by hand, and what must hold whatever is fitted."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from hwspecs.gpu import Gpu, load_gpu
from simulator.kernels.attention import DECODE, PREFILL
from simulator.kernels.attention_prefill import causal_pairs
from simulator.kernels.attention_traits import BY_KERNEL
from simulator.kernels.base import KernelModel

H200 = load_gpu("h200-sxm")
B200 = load_gpu("b200-sxm")
FA3 = {"kernel": "vllm_flash_attn_fa3", "dtype": "bf16", "kv_dtype": "bf16"}
FP8 = FA3 | {"kv_dtype": "fp8"}
LLAMA = {"batch": 64.0, "q_heads": 32.0, "kv_heads": 8.0, "head_dim": 128.0, "window": 0.0}
STEP = LLAMA | {"context_len": 4096.0}
PROMPT = LLAMA | {"batch": 4.0, "query_len": 4096.0, "past_len": 0.0}
BOTH = pytest.mark.parametrize(("model", "shape"), [(DECODE, STEP), (PREFILL, PROMPT)], ids=["decode", "prefill"])


def seconds(model: KernelModel, shape: dict[str, Any], gpu: Gpu = H200, label: dict[str, str] = FA3) -> Any:
    start = {name: c.start for name, c in model.constants.items()}
    return model.terms(shape, label, gpu, start).seconds(start["sharpness"])


def faster(gpu: Gpu, what: str, by: float = 2.0) -> Gpu:
    """A GPU with one rate, or all of them, `by` times as high."""
    every = what == "all"
    changes: dict[str, Any] = {}
    if every or what == "memory":
        changes["memory"] = dataclasses.replace(gpu.memory, bandwidth=gpu.memory.bandwidth * by)
    if every or what == "l2":
        changes["l2"] = dataclasses.replace(gpu.l2, bandwidth=gpu.l2.bandwidth * by)
    if every or what == "peak":
        changes["peak"] = {name: rate * by for name, rate in gpu.peak.items()}
    if every or what == "clock":
        changes["boost_clock"] = gpu.boost_clock * by
    return dataclasses.replace(gpu, **changes)


def grid(model: KernelModel) -> dict[str, np.ndarray]:
    batch, length, heads, dim, window = np.meshgrid(
        [1.0, 8.0, 256.0], [1.0, 16.0, 512.0, 16384.0], [1.0, 4.0, 16.0, 96.0], [64.0, 128.0, 256.0], [0.0, 128.0]
    )
    columns = {
        "batch": batch, "q_heads": heads, "kv_heads": np.ceil(heads / 8), "head_dim": dim, "window": window,
        "context_len": length, "query_len": length, "past_len": length * 3,
    }  # fmt: skip
    return {name: columns[name].ravel() for name in model.columns}


def test_decode_counts_by_hand() -> None:
    # K and V of 64 sequences x 4,096 tokens x 8 heads x 128 in bf16, and q and o of 32 heads.
    kv, io = 2 * 64 * 4096 * 8 * 128 * 2, 2 * 64 * 32 * 128 * 2
    work = DECODE.work(STEP, FA3, H200)
    assert work.l2_bytes == kv + io
    assert work.hbm_bytes == pytest.approx(kv + io)
    # A group of 4 query heads is padded to the 64 rows of FlashAttention 3's tile.
    assert work.flops == 4 * 64 * 8 * 64 * 4096 * 128
    assert work.active == 1
    assert DECODE.work(STEP, FP8, H200).l2_bytes == kv / 2 + io


def test_a_few_sequences_leave_no_sm_idle_where_the_context_splits() -> None:
    few = DECODE.work(STEP | {"batch": 1.0, "context_len": 65536.0}, FA3, H200)
    assert few.active > 0.9
    short = DECODE.work(STEP | {"batch": 1.0, "context_len": 64.0}, FA3, H200)
    assert short.active == pytest.approx(8 / 132)


def test_small_caches_stay_in_l2() -> None:
    small = DECODE.work(STEP | {"batch": 1.0}, FA3, H200)
    assert small.hbm_bytes < 0.05 * small.l2_bytes


@pytest.mark.parametrize(
    ("query", "past", "window", "pairs"),
    [(4, 0, 0, 10), (4, 6, 0, 34), (1, 99, 0, 100), (4, 0, 2, 7), (4, 6, 3, 12), (5, 1, 3, 14), (3, 0, 8, 6)],
)
def test_causal_pairs(query: int, past: int, window: int, pairs: int) -> None:
    by_hand = sum(min(past + i, window or past + i) for i in range(1, query + 1))
    assert by_hand == pairs
    assert float(causal_pairs(float(query), float(past), float(window))) == pairs


@pytest.mark.parametrize("kernel", sorted(BY_KERNEL))
@pytest.mark.parametrize("past", [0.0, 5000.0])
@pytest.mark.parametrize("window", [0.0, 1024.0])
def test_padding_costs_little_where_prompts_are_long(kernel: str, past: float, window: float) -> None:
    shape = PROMPT | {"query_len": 16384.0, "past_len": past, "window": window}
    useful = 4 * 128 * 4 * 32 * float(causal_pairs(16384.0, past, window))
    padded = float(PREFILL.work(shape, FA3 | {"kernel": kernel}, H200).flops)
    assert useful <= padded <= (1.25 if window else 1.03) * useful


def test_chunks_of_a_prompt_add_up() -> None:
    whole = PREFILL.work(PROMPT, FA3, H200).flops
    chunks = PREFILL.work(PROMPT | {"query_len": 1024.0, "past_len": np.arange(4) * 1024.0}, FA3, H200).flops
    assert chunks.sum() == pytest.approx(whole, rel=0.02)
    assert np.all(np.diff(chunks) > 0)


def test_packed_heads_fill_the_tiles_of_short_queries() -> None:
    """FlashAttention 3 puts the 4 query heads of a KV head into one tile; FlashAttention 2 pads each to 128 rows."""
    shape = PROMPT | {"query_len": 32.0}
    packed = PREFILL.work(shape, FA3, H200).flops
    assert PREFILL.work(shape, FA3 | {"kernel": "vllm_flash_attn"}, H200).flops == pytest.approx(2 * packed)


@BOTH
@pytest.mark.parametrize("kernel", sorted(BY_KERNEL))
@pytest.mark.parametrize("kv_dtype", ["bf16", "fp8"])
@pytest.mark.parametrize("gpu", ["a100-sxm", "b300-sxm", "l40s"])
def test_any_shape_on_any_gpu(model: KernelModel, shape: dict[str, Any], kernel: str, kv_dtype: str, gpu: str) -> None:
    label = {"kernel": kernel, "dtype": "bf16", "kv_dtype": kv_dtype}
    spec, table = load_gpu(gpu), grid(model)
    took = seconds(model, table, spec, label)
    assert took.shape == table["batch"].shape
    assert np.isfinite(took).all()
    assert (took >= model.roof(table, label, spec)).all()
    for part in model.work(table, label, spec):
        assert np.isfinite(part).all()
        assert np.all(part >= 0)
    features = model.features(table, label, spec)
    assert len(features) == len(model.names)
    assert all(np.isfinite(feature).all() for feature in features)


@BOTH
def test_numbers_and_arrays_agree(model: KernelModel, shape: dict[str, Any]) -> None:
    table = grid(model)
    took, features = seconds(model, table), model.features(table, FA3, H200)
    for i in range(0, len(took), 37):
        row = {name: float(column[i]) for name, column in table.items()}
        assert float(seconds(model, row)) == took[i]
        alone = [float(f) for f in model.features(row, FA3, H200)]
        assert alone == [float(np.broadcast_to(f, took.shape)[i]) for f in features]


@BOTH
@pytest.mark.parametrize("what", ["memory", "l2", "peak", "clock", "all"])
def test_a_quicker_part_never_slows(model: KernelModel, shape: dict[str, Any], what: str) -> None:
    table = grid(model)
    assert (seconds(model, table, faster(H200, what)) <= seconds(model, table) * (1 + 1e-12)).all()


@BOTH
def test_twice_all_rates_halves_all_but_the_latency(model: KernelModel, shape: dict[str, Any]) -> None:
    table = grid(model)
    start = {name: c.start for name, c in model.constants.items()}
    latency = model.terms(table, FA3, H200, start).latency
    once, twice = seconds(model, table), seconds(model, table, faster(H200, "all"))
    assert twice - latency == pytest.approx((once - latency) / 2)


@BOTH
def test_features_know_no_rate(model: KernelModel, shape: dict[str, Any]) -> None:
    table = grid(model)
    before, after = (model.features(table, FA3, gpu) for gpu in (H200, faster(H200, "all", 1.7)))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_bandwidth_halves_long_decode_and_leaves_long_prefill_alone() -> None:
    quick = faster(H200, "memory")
    start = DECODE.constants["latency"].start
    decode = STEP | {"batch": 256.0, "context_len": 16384.0}
    assert seconds(DECODE, decode, quick) - start == pytest.approx((seconds(DECODE, decode) - start) / 2, rel=0.2)
    prompt = PROMPT | {"query_len": 16384.0}
    assert seconds(PREFILL, prompt, quick) == pytest.approx(seconds(PREFILL, prompt), rel=0.01)


def test_huge_problems_approach_the_roof_and_tiny_ones_the_latency() -> None:
    huge = STEP | {"batch": 1024.0, "context_len": 65536.0}
    bytes_moved = 2 * 1024 * 65536 * 8 * 128 * 2
    assert seconds(DECODE, huge) == pytest.approx(bytes_moved / H200.memory.bandwidth, rel=0.25)
    prompt = PROMPT | {"batch": 64.0, "query_len": 16384.0}
    assert 1 < seconds(PREFILL, prompt) / PREFILL.roof(prompt, FA3, H200) < 2.2
    one = {"batch": 1.0, "q_heads": 8.0, "kv_heads": 1.0}
    assert seconds(DECODE, STEP | one | {"context_len": 2.0}) < 14e-6
    assert seconds(PREFILL, PROMPT | one | {"query_len": 1.0}) < 14e-6


def test_waves_show_as_steps() -> None:
    """132 SMs take 132 tiles in one wave; one more starts another."""
    short = {"context_len": 16.0, "kv_heads": 1.0, "q_heads": 8.0, "head_dim": 128.0, "window": 0.0}
    took = seconds(DECODE, short | {"batch": np.array([131.0, 132.0, 133.0, 263.0, 264.0, 265.0])})
    tile = DECODE.constants["tile"].start / H200.boost_clock
    flat, step = np.diff(took)[[0, 3]], np.diff(took)[[1, 4]]
    assert (flat < 0.01 * tile).all()
    assert (step > 0.8 * tile).all()


def test_more_work_is_never_quicker_beyond_padding() -> None:
    lengths = 2.0 ** np.arange(4, 18)
    assert (np.diff(seconds(DECODE, STEP | {"context_len": lengths})) >= 0).all()
    assert (np.diff(seconds(PREFILL, PROMPT | {"query_len": lengths[:-3]})) >= 0).all()
    assert (np.diff(seconds(PREFILL, PROMPT | {"past_len": lengths})) >= 0).all()


def test_narrow_heads_are_bound_by_exponentials_and_blackwell_ultra_has_twice_as_many() -> None:
    """At head size 64 a B200 has 256 FLOPs (114 ps) and one exponential (215 ps) a pair, a B300 half of the latter."""
    prompt = PROMPT | {"head_dim": 64.0, "query_len": 16384.0}
    label = FA3 | {"kernel": "trtllm_mha"}
    ratio = seconds(PREFILL, prompt, B200, label) / seconds(PREFILL, prompt, load_gpu("b300-sxm"), label)
    assert 1.3 < ratio < 1.8


def test_large_groups_fall_to_the_kernel_without_tensor_cores() -> None:
    label = FA3 | {"kernel": "torch_flow"}
    many = STEP | {"q_heads": 64.0, "kv_heads": 1.0, "context_len": 1024.0}
    assert seconds(DECODE, many, B200, label) > 5 * seconds(DECODE, many | {"q_heads": 32.0}, B200, label)
    assert seconds(DECODE, many, B200) < 1.5 * seconds(DECODE, many | {"q_heads": 32.0}, B200)
