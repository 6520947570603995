"""The Kinetics law's closed forms against sums over every generated token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import law
from simulator.law import LawModel, law_model
from workloads.model import load_model

MODEL = LawModel(parameters=8e9, q_heads=32, kv_heads=8, depth=128 * 36)
RATIO = 206.0
whole = st.integers(0, 3000)


def integral(a: int, n: int) -> float:
    """Keys of tokens 1..n, each counted half way between before and after it: the paper's integral as a sum."""
    return sum(a + t - 0.5 for t in range(1, n + 1))


@settings(max_examples=200, deadline=None)
@given(whole, whole, st.integers(1, 4000))
def test_capped_pairs_are_exact(a: int, n: int, budget: int) -> None:
    brute = sum(min(budget, a + t) for t in range(1, n + 1))
    assert float(law.capped_pairs(a, n, budget)) == brute


def test_capped_pairs_of_arrays() -> None:
    a, n = np.array([0, 10, 500]), np.array([7, 300, 2])
    single = [float(law.capped_pairs(int(x), int(y), 64)) for x, y in zip(a, n, strict=True)]
    assert law.capped_pairs(a, n, 64).tolist() == single


@settings(max_examples=100, deadline=None)
@given(whole, whole, st.sampled_from([1.0, 2.0]))
def test_dense_is_a_sum_over_tokens(a: int, n: int, kv: float) -> None:
    cost = law.dense(MODEL, a, n, RATIO, kv)
    keys = integral(a, n)
    assert cost.parameter_flops == 2 * MODEL.parameters * n
    assert cost.attention_flops == pytest.approx(4 * 32 * 128 * 36 * keys, rel=1e-12)
    assert cost.attention_bytes == pytest.approx(2 * kv * 8 * 128 * 36 * keys, rel=1e-12)
    assert cost.eflops == pytest.approx(
        cost.parameter_flops + cost.attention_flops + RATIO * cost.attention_bytes, rel=1e-12
    )


@settings(max_examples=100, deadline=None)
@given(whole, whole, st.integers(1, 4000), st.integers(1, 64))
def test_budgets_are_sums_over_tokens(a: int, n: int, budget: int, page: int) -> None:
    keys = sum(min(budget, a + t) for t in range(1, n + 1))
    pages = integral(a, n) / page
    top, block = law.top_k(MODEL, a, n, budget, RATIO), law.block_top_k(MODEL, a, n, budget, page, RATIO)
    assert top.attention_flops == pytest.approx(4 * 32 * 128 * 36 * keys, rel=1e-12)
    assert top.attention_bytes == pytest.approx(4 * 8 * 128 * 36 * keys, rel=1e-12)
    assert block.attention_flops - top.attention_flops == pytest.approx(2 * 32 * 128 * 36 * pages, rel=1e-9, abs=1)
    assert block.attention_bytes - top.attention_bytes == pytest.approx(2 * 8 * 128 * 36 * pages, rel=1e-9, abs=1)
    assert top.parameter_flops == block.parameter_flops == 2 * MODEL.parameters * n


@settings(max_examples=60, deadline=None)
@given(whole, st.integers(1, 3000))
def test_a_budget_beyond_the_context_is_dense_but_for_the_integral(a: int, n: int) -> None:
    top, dense = law.top_k(MODEL, a, n, a + n, RATIO), law.dense(MODEL, a, n, RATIO)
    assert top.attention_bytes - dense.attention_bytes == pytest.approx(4 * 8 * 128 * 36 * n / 2, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(whole, st.lists(st.integers(1, 500), min_size=1, max_size=8))
def test_shared_prompts_are_read_once_a_step(a: int, outputs: list[int]) -> None:
    """Trials of one prompt that run side by side: in step t those that are longer than t share one reading."""
    alone = sum(a for n in outputs for _ in range(n))
    together = sum(a for t in range(max(outputs)))
    saved = law.shared_prompt_bytes(MODEL, a, sum(outputs), max(outputs))
    assert saved == 4 * 8 * 128 * 36 * (alone - together)


# ---- other attention than the paper's --------------------------------------------------------------------------------


def test_latent_attention() -> None:
    """DeepSeek-R1 in decode: a key has 576 elements on each of 61 layers, and each of 128 heads does 2 x 576 FLOPs for
    its score and 2 x 512 for its value: with H = 128, 4 H D = 61 x 128 x 2,176 and D = 33,184.
    """
    model = law_model(load_model("deepseek-r1"), "bf16")
    cost = law.dense(model, 1000, 1, RATIO)
    assert model.depth == 61 * 544 and model.budget is None
    assert cost.attention_flops == pytest.approx(61 * 128 * 2176 * 1000.5, rel=1e-12)
    assert cost.attention_bytes == pytest.approx(70_272 * 1000.5, rel=1e-12)
    narrow = law.dense(law_model(load_model("deepseek-r1"), "fp8"), 1000, 1, RATIO, 1.0)
    assert narrow.attention_bytes == pytest.approx(35_136 * 1000.5, rel=1e-12)
    assert model.parameters == load_model("deepseek-r1").active_parameters


def test_an_indexer_scores_everything_and_reads_its_budget() -> None:
    """DeepSeek-V3.2, one token after 10,000: 2,048 keys of 656 bytes a layer are read, and of the 10,000.5 (the
    integral) the index's 132 bytes; 64 heads of 128 score each.
    """
    model = law_model(load_model("deepseek-v3.2"), "fp8")
    cost = law.indexed(model, 10_000, 1, RATIO, 1.0)
    assert cost.attention_bytes == pytest.approx(61 * (656 * 2048 + 132 * 10_000.5), rel=1e-12)
    assert cost.attention_flops == pytest.approx(61 * (128 * 2176 * 2048 + 2 * 64 * 128 * 10_000.5), rel=1e-12)
    # It costs more than dense attention until it reads less: within the budget all keys are read, and scored as well.
    dense = law_model(load_model("deepseek-v3"), "bf16")
    index, whole = law_model(load_model("deepseek-v3.2"), "bf16"), law.dense(dense, 500, 1, RATIO)
    assert law.indexed(index, 500, 1, RATIO).attention_bytes > whole.attention_bytes


def test_layers_of_linear_attention_have_no_term() -> None:
    """Qwen3.5-397B-A17B: K and V of 2 heads of 256 on 15 layers of 60."""
    model = law_model(load_model("qwen3.5-397b-a17b"), "bf16")
    assert (model.q_heads, model.kv_heads, model.depth) == (32, 2, 15 * 256)
    assert law.dense(model, 1000, 1, RATIO).attention_bytes == pytest.approx(30_720 * 1000.5, rel=1e-12)
