"""The physics of latent attention's kernels: counts worked by hand, and what must hold whatever is fitted."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from hwspecs.gpu import Gpu, load_gpu
from simulator.kernels.base import KernelModel
from simulator.kernels.mla_bmm import MLA_BMM
from simulator.kernels.mla_decode import MLA_DECODE
from simulator.kernels.mla_prefill import MLA_PREFILL

A100, H200, B200, B300 = (load_gpu(name) for name in ("a100-sxm", "h200-sxm", "b200-sxm", "b300-sxm"))
TRTLLM = {"kernel": "default", "dtype": "bf16", "kv_dtype": "bf16"}
ABSORBED = TRTLLM | {"kernel": "flash_attention"}
FP8 = {"kv_dtype": "fp8"}
BMM = {"kernel": "sglang_torch_bmm", "op": "pre", "dtype": "bf16"}
BMM_FP8 = BMM | {"kernel": "sglang_sgl_kernel_bmm_fp8", "dtype": "fp8"}
STEP = {"batch": 32.0, "context_len": 4096.0, "q_heads": 128.0}
PROMPT = {"batch": 4.0, "query_len": 16384.0, "past_len": 0.0, "q_heads": 16.0}
EACH = pytest.mark.parametrize(
    ("model", "label"),
    [
        (MLA_DECODE, TRTLLM), (MLA_DECODE, TRTLLM | FP8), (MLA_DECODE, ABSORBED | FP8), (MLA_PREFILL, TRTLLM),
        (MLA_PREFILL, TRTLLM | FP8), (MLA_PREFILL, ABSORBED | FP8), (MLA_BMM, BMM), (MLA_BMM, BMM_FP8 | {"op": "post"}),
    ],
    ids=lambda value: value.kind if isinstance(value, KernelModel) else "-".join(value.values()),
)  # fmt: skip


def seconds(model: KernelModel, shape: dict[str, Any], label: dict[str, str], gpu: Gpu = H200) -> Any:
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
    batch, length, heads = np.meshgrid([1.0, 8.0, 256.0], [1.0, 16.0, 500.0, 16384.0], [1.0, 12.0, 128.0])
    columns = {
        "batch": batch, "context_len": length, "query_len": length, "past_len": 3 * length, "tokens": batch * length,
        "q_heads": heads,
    }  # fmt: skip
    return {name: columns[name].ravel() for name in model.columns}


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_decode_reads_the_latents_once_for_all_heads() -> None:
    # 32 sequences x 4,096 tokens x (512 + 64) in bf16, and 128 queries of 576 and outputs of 512 a sequence.
    kv, io = 32 * 4096 * 576 * 2, 2 * 32 * 128 * (576 + 512)
    work = MLA_DECODE.work(STEP, TRTLLM, H200)
    assert work.hbm_bytes == pytest.approx(kv + io, rel=1e-4)
    # 128 heads are two tiles of 64, both of which read the sequence's latents through the L2; 64 tiles on 132 SMs make
    # two splits, whose sums (fp32) are written and read again.
    assert work.l2_bytes == 2 * kv + io + 8 * 32 * 128 * 512 * 2
    # 2 x (576 + 512) FLOPs a token and head.
    assert work.flops == 32 * 128 * 4096 * 2176
    few = MLA_DECODE.work(STEP | {"q_heads": 4.0}, TRTLLM, H200)
    assert few.flops == work.flops / 2, "padded to the 64 rows of a tile"
    assert MLA_DECODE.work(STEP | {"q_heads": 4.0}, TRTLLM | FP8, H200).hbm_bytes == pytest.approx(
        kv / 2 + io / 32, rel=0.01
    )


def test_many_heads_make_decode_a_matter_of_flops() -> None:
    long = STEP | {"context_len": 65536.0}
    flops, read = 32 * 128 * 65536 * 2176, 32 * 65536 * 1152
    assert flops / H200.peak["bf16"] > read / H200.memory.bandwidth
    assert float(MLA_DECODE.roof(long, TRTLLM, H200)) == pytest.approx(flops / H200.peak["bf16"])
    # With 16 heads a tile of 64 rows is multiplied in half the time of the read.
    quick = faster(H200, "memory")
    few = long | {"q_heads": 16.0}
    assert seconds(MLA_DECODE, few, TRTLLM, quick) < 0.8 * seconds(MLA_DECODE, few, TRTLLM)
    assert seconds(MLA_DECODE, long, TRTLLM, quick) > 0.8 * seconds(MLA_DECODE, long, TRTLLM)


def test_formats_of_the_cache() -> None:
    long = STEP | {"context_len": 65536.0}
    # Blackwell multiplies in fp8 where the cache is; Hopper in bf16, so its 128 heads gain next to nothing.
    b200, h200 = (
        seconds(MLA_DECODE, long, TRTLLM | FP8, gpu) / seconds(MLA_DECODE, long, TRTLLM, gpu) for gpu in (B200, H200)
    )
    assert b200 == pytest.approx(0.5, rel=0.1)
    assert h200 > 0.7
    # SGLang's kernel on Hopper has the whole cache converted before.
    assert seconds(MLA_DECODE, long, ABSORBED | FP8) > 2 * seconds(MLA_DECODE, long, ABSORBED)
    # An A100 has no fp8: its cache stays as it is.
    assert seconds(MLA_DECODE, long, TRTLLM | FP8, A100) == seconds(MLA_DECODE, long, TRTLLM, A100)


def test_prefill_counts_by_hand() -> None:
    pairs = 4 * 16 * 16384 * 16385 / 2
    # Queries of 192 and outputs of 128 a head, and as much of keys and values, all in bf16.
    once = 2 * 4 * 16384 * 16 * (192 + 128) * 2
    assert MLA_PREFILL.work(PROMPT, TRTLLM, H200).hbm_bytes <= once
    useful = 2 * (192 + 128) * pairs
    assert useful <= MLA_PREFILL.work(PROMPT, TRTLLM, H200).flops <= 1.03 * useful
    assert float(MLA_PREFILL.roof(PROMPT, TRTLLM, H200)) == pytest.approx(useful / H200.peak["bf16"])
    # Absorbed: a key of 576 whose first 512 are its value, 3.4 times the FLOPs.
    absorbed = float(MLA_PREFILL.roof(PROMPT, ABSORBED, H200)) / float(MLA_PREFILL.roof(PROMPT, TRTLLM, H200))
    assert absorbed == pytest.approx((576 + 512) / (192 + 128))


def test_absorbed_prefill_of_one_token_is_decode() -> None:
    one = {"batch": 32.0, "query_len": 1.0, "past_len": 4095.0, "q_heads": 128.0}
    prefill, decode = MLA_PREFILL.work(one, ABSORBED, H200), MLA_DECODE.work(STEP, ABSORBED, H200)
    assert prefill.flops == decode.flops
    assert prefill.hbm_bytes == pytest.approx(decode.hbm_bytes)


def test_chunks_of_a_prompt_add_up() -> None:
    prompt = PROMPT | {"query_len": 8192.0}
    whole = MLA_PREFILL.work(prompt, TRTLLM, H200).flops
    chunks = MLA_PREFILL.work(prompt | {"query_len": 2048.0, "past_len": np.arange(4) * 2048.0}, TRTLLM, H200).flops
    assert chunks.sum() == pytest.approx(whole, rel=0.02)


def test_bmm_counts_by_hand() -> None:
    shape = {"tokens": 256.0, "q_heads": 128.0}
    # 128 heads of [256, 128] x [128, 512]: 2 x 128 x 256 x 128 x 512 FLOPs, and each operand once.
    work = MLA_BMM.work(shape, BMM, H200)
    assert work.flops == 2 * 128 * 256 * 128 * 512
    once = 2 * 128 * (256 * 128 + 128 * 512 + 256 * 512)
    assert float(MLA_BMM.roof(shape, BMM, H200)) == pytest.approx(work.flops / H200.peak["bf16"])
    assert float(MLA_BMM.roof(shape, BMM, faster(H200, "peak"))) == pytest.approx(once / H200.l2.bandwidth)
    assert MLA_BMM.work(shape, BMM | {"op": "post"}, H200).flops == work.flops
    # What was converted to bf16 when it was loaded is bf16; so is everything on a GPU without fp8.
    converted = {"kernel": "trtllm_bmm_out_dequant_bf16", "dtype": "fp8"}
    assert seconds(MLA_BMM, shape, BMM | converted, B200) == seconds(MLA_BMM, shape, BMM, B200)
    assert seconds(MLA_BMM, shape, BMM_FP8, A100) == seconds(MLA_BMM, shape, BMM, A100)


def test_widths_of_other_models() -> None:
    v3 = {"kv_rank": 512.0, "rope": 64.0, "nope": 128.0, "value": 128.0}
    glm = v3 | {"nope": 192.0, "value": 256.0}
    for model, shape, label in ((MLA_DECODE, STEP, TRTLLM), (MLA_PREFILL, PROMPT, TRTLLM)):
        assert seconds(model, shape | v3, label) == seconds(model, shape, label)
    # GLM-5's heads have keys of 192 + 64 and values of 256: 512 in place of 320 elements a pair, and the same latents.
    ratio = MLA_PREFILL.roof(PROMPT | glm, TRTLLM, H200) / MLA_PREFILL.roof(PROMPT, TRTLLM, H200)
    assert float(ratio) == pytest.approx(512 / 320)
    assert seconds(MLA_DECODE, STEP | glm, TRTLLM) == seconds(MLA_DECODE, STEP, TRTLLM)
    tokens = {"tokens": 4096.0, "q_heads": 64.0}
    for op, factor in (("pre", 192 / 128), ("post", 256 / 128)):
        wide = MLA_BMM.work(tokens | glm, BMM | {"op": op}, H200).flops
        assert wide == factor * MLA_BMM.work(tokens, BMM | {"op": op}, H200).flops


# ---- whatever is fitted ----------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("gpu", ["a100-sxm", "h200-sxm", "gb300", "l40s"])
def test_any_shape_on_any_gpu(model: KernelModel, label: dict[str, str], gpu: str) -> None:
    spec, table = load_gpu(gpu), grid(model)
    took = seconds(model, table, label, spec)
    assert took.shape == table["q_heads"].shape
    assert np.isfinite(took).all()
    assert (took >= model.roof(table, label, spec)).all()
    for part in model.work(table, label, spec):
        assert np.isfinite(part).all()
        assert np.all(part >= 0)
    features = model.features(table, label, spec)
    assert len(features) == len(model.names)
    assert all(np.isfinite(feature).all() for feature in features)


@EACH
@pytest.mark.parametrize("what", ["memory", "l2", "peak", "clock", "all"])
def test_a_quicker_part_never_slows(model: KernelModel, label: dict[str, str], what: str) -> None:
    table = grid(model)
    for gpu in (H200, B200):
        assert (seconds(model, table, label, faster(gpu, what)) <= seconds(model, table, label, gpu) * 1.000001).all()


@EACH
def test_twice_all_rates_halves_all_but_the_latency(model: KernelModel, label: dict[str, str]) -> None:
    table = grid(model)
    latency = model.terms(table, label, H200, {name: c.start for name, c in model.constants.items()}).latency
    once, twice = seconds(model, table, label), seconds(model, table, label, faster(H200, "all"))
    assert twice - latency == pytest.approx((once - latency) / 2)


@EACH
def test_features_know_no_rate(model: KernelModel, label: dict[str, str]) -> None:
    table = grid(model)
    before, after = (model.features(table, label, gpu) for gpu in (H200, faster(H200, "all", 1.7)))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@EACH
def test_numbers_and_arrays_agree(model: KernelModel, label: dict[str, str]) -> None:
    table = grid(model)
    took, features = seconds(model, table, label), model.features(table, label, H200)
    for i in range(0, len(took), 7):
        row = {name: float(column[i]) for name, column in table.items()}
        assert float(seconds(model, row, label)) == took[i]
        alone = [float(f) for f in model.features(row, label, H200)]
        assert alone == [float(np.broadcast_to(f, took.shape)[i]) for f in features]


def test_blackwell_ultra_exponentiates_twice_as_fast() -> None:
    """In fp8 a B200 has 640 FLOPs (142 ps) and one exponential (215 ps) a pair, a B300 half of the latter."""
    ratio = seconds(MLA_PREFILL, PROMPT, TRTLLM | FP8, B200) / seconds(MLA_PREFILL, PROMPT, TRTLLM | FP8, B300)
    assert 1.2 < ratio < 1.6
