"""Blocks of latent attention as they were measured: work by hand, and what must hold whatever is fitted.

One GPU of DeepSeek-V3 with 16 heads: hidden 7168, query latent 1536, latent 512 + 64, nope 128, value 128.
Matrices: down 2112 x 7168 = 15,138,816; q 16 x 192 x 1536 = 4,718,592; out 7168 x 16 x 128 = 14,680,064;
of the indexer: queries 64 x 128 x 1536 = 12,582,912, key and weights (128 + 64) x 7168 = 1,376,256.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs.gpu import Gpu, load_gpu
from simulator.kernels import latent_block as latent
from simulator.kernels import latent_time
from simulator.kernels.base import KernelModel, Terms
from simulator.kernels.dsa_module import DSA_MODULE, most_graphed, reads
from simulator.kernels.dsa_module import block as dsa_block
from simulator.kernels.mla_module import MLA_MODULE, form
from simulator.kernels.mla_module import block as mla_block

H200, B200 = load_gpu("h200-sxm"), load_gpu("b200-sxm")
MATRICES = 15_138_816 + 4_718_592 + 14_680_064
INDEXER = 12_582_912 + 1_376_256
MLA = {
    "kernel": "FLASHMLA", "phase": "decode", "model": "deepseek-ai/DeepSeek-V3", "dtype": "bf16", "kv_dtype": "bf16",
    "gemm_dtype": "bf16",
}  # fmt: skip
EXPANDED = MLA | {"kernel": "FLASH_ATTN", "phase": "prefill"}
DSA = MLA | {"kernel": "FLASHMLA_SPARSE", "model": "deepseek-ai/DeepSeek-V3.2"}
DENSE = DSA | {"kernel": "sglang_dsa_dense_mha_fa3", "phase": "prefill"}
STEP = {"batch": 8.0, "query_len": 1.0, "past_len": 8191.0, "q_heads": 16.0}
PROMPT = {"batch": 1.0, "query_len": 1024.0, "past_len": 0.0, "q_heads": 16.0}


def seconds(model: KernelModel, shape: dict[str, Any], label: dict[str, str], gpu: Gpu = H200) -> float:
    constants = {name: c.start for name, c in model.constants.items()}
    return float(model.terms(shape, label, gpu, constants).seconds(constants["sharpness"]))


def flops(model: KernelModel, shape: dict[str, Any], label: dict[str, str], gpu: Gpu = H200) -> float:
    return float(model.work(shape, label, gpu).flops)


def test_flops_of_absorbed_decode_by_hand() -> None:
    # Projections, both absorptions (16 x 512 x (128 + 128) = 2,097,152), and 8,192 keys for each of 8 queries of 16
    # heads padded to 64 rows: 2 (576 + 512) FLOPs a pair.
    wanted = 2 * 8 * (MATRICES + 2_097_152) + 8 * 8192 * 64 * 2 * 1088
    assert flops(MLA_MODULE, STEP, MLA) == pytest.approx(wanted)


def test_flops_of_an_expanded_prompt_by_hand() -> None:
    # Keys and values of 1,024 tokens: 16 x (128 + 128) x 512. Pairs: 1024 x 1025 / 2, and half a block of 128 more for
    # every query; 2 (192 + 128) FLOPs a pair and head.
    pairs = 1024 * 1025 / 2 + 1024 * 64
    wanted = 2 * 1024 * (MATRICES + 2_097_152) + pairs * 16 * 2 * 320
    assert flops(MLA_MODULE, PROMPT, EXPANDED) == pytest.approx(wanted)


def test_flops_of_a_sparse_step_by_hand() -> None:
    # 2,048 of 8,192 keys are read by 64 rows; all are scored by 64 heads of 128.
    wanted = 2 * 8 * (MATRICES + INDEXER + 2_097_152) + 8 * 2048 * 64 * 2 * 1088 + 2 * 64 * 128 * 8 * 8192
    assert flops(DSA_MODULE, STEP | {"indexer": 1.0}, DSA) == pytest.approx(wanted)


def test_a_choice_that_is_used_again_needs_no_indexer() -> None:
    used = STEP | {"indexer": 1.0, "past_len": 65535.0}
    again = used | {"indexer": 0.0}
    saved = flops(DSA_MODULE, used, DSA) - flops(DSA_MODULE, again, DSA)
    assert saved == pytest.approx(2 * 8 * INDEXER + 2 * 64 * 128 * 8 * 65536)
    assert seconds(DSA_MODULE, again, DSA) < seconds(DSA_MODULE, used, DSA)
    # Without it a longer past costs nothing more.
    assert seconds(DSA_MODULE, again | {"past_len": 131071.0}, DSA) == pytest.approx(seconds(DSA_MODULE, again, DSA))


def test_roof_by_hand() -> None:
    # Weights and the latents of 8 x 8,192 tokens through the L2 are more than their FLOPs.
    total = 2 * MATRICES + 8 * 8192 * 576 * 2
    assert float(MLA_MODULE.roof(STEP, MLA, H200)) == pytest.approx(total / H200.l2.bandwidth)


def test_sparse_attention_stops_growing_where_dense_does_not() -> None:
    def more(model: KernelModel, label: dict[str, str], **changes: float) -> float:
        shape = STEP | {"batch": 64.0, "q_heads": 128.0, "past_len": 8191.0} | changes
        return seconds(model, shape | {"past_len": 65535.0}, label) - seconds(model, shape, label)

    assert more(DSA_MODULE, DSA, indexer=1.0) < 0.5 * more(MLA_MODULE, MLA)


def test_an_indexer_that_chooses_everything_costs_at_least_dense_attention() -> None:
    shape = STEP | {"batch": 64.0, "past_len": 32767.0}
    all_of_it = shape | {"indexer": 1.0, "top_k": 32768.0}
    assert seconds(DSA_MODULE, all_of_it, DSA) > seconds(MLA_MODULE, shape, MLA)


def test_widths_follow_the_model_and_columns_come_first() -> None:
    assert latent.dims_of("zai-org/GLM-5-FP8") == latent.GLM
    assert latent.dims_of("moonshotai/Kimi-K2.5") == latent.DEEPSEEK
    glm = DSA | {"model": "zai-org/GLM-5-FP8"}
    columns = dict(zip(latent.Dims._fields, latent.GLM, strict=True))
    shape = STEP | {"indexer": 1.0}
    assert seconds(DSA_MODULE, shape, glm) == seconds(DSA_MODULE, shape | columns, DSA)
    assert seconds(DSA_MODULE, shape, glm) != seconds(DSA_MODULE, shape, DSA)


def test_another_latent_by_hand() -> None:
    """A latent of 256 + 32 and index keys of 64: down (1536 + 288) x 7168 = 13,074,432; q 16 x 160 x 1536 = 3,932,160;
    out as before; absorption 16 x 256 x 256 = 1,048,576; the indexer's queries 64 x 64 x 1536 = 6,291,456, its key and
    weights (64 + 64) x 7168 = 917,504. 2 (288 + 256) FLOPs a pair that is read, 2 x 64 x 64 a pair that is scored.
    """
    other = STEP | {"kv_rank": 256.0, "rope": 32.0, "index_dim": 64.0}
    matrices = 13_074_432 + 3_932_160 + 14_680_064
    wanted = 2 * 8 * (matrices + 1_048_576) + 8 * 8192 * 64 * 2 * 544
    assert flops(MLA_MODULE, other, MLA) == pytest.approx(wanted)
    total = 2 * matrices + 8 * 8192 * 288 * 2
    assert float(MLA_MODULE.roof(other, MLA, H200)) == pytest.approx(total / H200.l2.bandwidth)
    wanted = 2 * 8 * (matrices + 7_208_960 + 1_048_576) + 8 * 2048 * 64 * 2 * 544 + 2 * 64 * 64 * 8 * 8192
    assert flops(DSA_MODULE, other | {"indexer": 1.0}, DSA) == pytest.approx(wanted)
    assert seconds(DSA_MODULE, other | {"indexer": 1.0}, DSA) < seconds(DSA_MODULE, STEP | {"indexer": 1.0}, DSA)
    # Bytes of a cached token: fp8 with a scale for each 128 and the rope in bf16, 256 + 8 + 64; bf16, 288 x 2.
    size = latent.dims(other)
    cached = DSA | {"kv_dtype": "fp8"}
    assert (dsa_block(cached, H200, size).token, dsa_block(cached, H200).token) == (328, 656)
    assert mla_block(MLA, H200, size).token == 576


def test_which_kernel_does_what() -> None:
    assert mla_block(EXPANDED, H200).expanded
    assert not mla_block(EXPANDED | {"kernel": "FLASH_ATTN_MLA"}, H200).expanded
    default = MLA | {"kernel": "default"}
    assert not mla_block(default, H200).expanded
    assert mla_block(default | {"phase": "prefill"}, H200).expanded
    assert (form("FLASHINFER_MLA"), form("TRTLLM_RAGGED")) == ("absorbed", "expanded")
    assert (reads("sglang_dsa_dense_mha_fa3"), reads("sglang_dsa_indexer_fa3")) == ("dense", "sparse")
    assert dsa_block(DSA | {"kernel": "pooled", "reads": "dense", "phase": "prefill"}, H200).expanded
    assert not mla_block(EXPANDED | {"kernel": "pooled", "form": "absorbed"}, H200).expanded
    assert (most_graphed("sglang_dsa_indexer_fa3"), most_graphed("FLASHMLA_SPARSE")) == (256, np.inf)
    # Blackwell multiplies in fp8 what is cached in fp8; Hopper converts it.
    cached = {"kv_dtype": "fp8"}
    assert mla_block(default | cached, B200).dtype == "fp8"
    assert mla_block(default | cached, H200).dtype == "bf16"
    assert dsa_block(DSA | cached, H200).token == 656
    assert not dsa_block(DENSE, H200).scored


def test_an_unfilled_place_is_computed_where_the_cache_is_converted() -> None:
    """With 100 tokens of past a sparse kernel that converts tile by tile does 2,048 places all the same."""
    size, block = latent.DEEPSEEK, dsa_block(DSA | {"kv_dtype": "fp8"}, H200)
    few = STEP | {"past_len": 99.0}
    assert float(latent.counts(few, block, size).pairs) == 8 * 2048
    assert float(latent.counts(few, dsa_block(DSA, H200), size).pairs) == 8 * 100
    assert float(latent.counts(few, dsa_block(DSA, H200), size, 0.5).pairs) == 8 * (100 + 2048) / 2


@given(st.lists(st.tuples(*[st.floats(0, 1e-3)] * 3), min_size=1, max_size=6), st.floats(1.5, 10))
def test_kernels_one_after_another_add_up(parts: list[tuple[float, float, float]], sharpness: float) -> None:
    wanted = sum(float(Terms(0.0, *part, 0.0).busy(sharpness)) for part in parts)
    found = latent_time.together(2e-6, [latent_time.Part(*part) for part in parts], sharpness)
    assert float(found.seconds(sharpness)) == pytest.approx(2e-6 + wanted, rel=1e-9)


def test_the_bound_is_that_of_the_longest_kernel() -> None:
    found = latent_time.together(0.0, [latent_time.Part(1e-6, 9e-6), latent_time.Part(2e-6, 1e-7)], 3.0)
    assert np.argmax([found.compute, found.memory, found.l2]) == 1
