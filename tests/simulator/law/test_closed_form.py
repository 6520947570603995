"""The law's sums over tokens, what a run says of the law, and models with other attention than the paper's. Of the
whole law: test_law_cost.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import law
from simulator.law import LawModel, law_model
from simulator.metrics import law_eflops
from workloads.attention import BlockTopK, Dense, TopK
from workloads.model import load_model

MODEL = LawModel(parameters=8e9, q_heads=32, kv_heads=8, depth=128 * 36)
RATIO = 206.0
whole = st.integers(0, 3000)


@settings(max_examples=200, deadline=None)
@given(whole, whole, st.integers(1, 4000))
def test_capped_pairs_are_exact(a: int, n: int, budget: int) -> None:
    brute = sum(min(budget, a + t) for t in range(1, n + 1))
    assert float(law.capped_pairs(a, n, budget)) == brute


def test_capped_pairs_of_arrays() -> None:
    a, n = np.array([0, 10, 500]), np.array([7, 300, 2])
    single = [float(law.capped_pairs(int(x), int(y), 64)) for x, y in zip(a, n, strict=True)]
    assert law.capped_pairs(a, n, 64).tolist() == single


@settings(max_examples=60, deadline=None)
@given(whole, st.lists(st.integers(1, 500), min_size=1, max_size=8), st.sampled_from(["dense", "top_k", "block_top_k"]))
def test_shared_prompts_are_read_once_a_step(a: int, outputs: list[int], attention: str) -> None:
    """A run's trials of one prompt, of several lengths, side by side: in step t those that are not done share one
    reading of the prompt's keys (dense, 4 x 8 x 4,608 bytes each) or of its summaries (2 x 8 x 4,608 a page).
    """
    policies = {"dense": Dense(), "top_k": TopK(kind="top_k", budget=64)}
    policy = policies.get(attention) or BlockTopK(kind="block_top_k", page=16, blocks=4)
    past = 0.0
    for t in range(1, max(outputs) + 1):
        past += a + sum(t - 0.5 for n in outputs if n >= t)  # the integral, half a key less than a + t
    read = float(sum(min(64, a + t) for n in outputs for t in range(1, n + 1)))
    keys = {"dense": past, "top_k": read, "block_top_k": read + past / 2 / 16}[attention]
    columns = {
        "prompt_tokens": np.full(len(outputs), a),
        "generated": np.array(outputs),
        "job": np.zeros(len(outputs), int),
    }
    found = law_eflops(columns, MODEL, policy, RATIO, 2.0)
    assert found["attention_memory"] == pytest.approx(RATIO * 4 * 8 * 128 * 36 * keys, rel=1e-12)
    assert found["parameters"] == 2 * MODEL.parameters * sum(outputs)


# ---- other attention than the paper's --------------------------------------------------------------------------------


def test_latent_attention() -> None:
    """DeepSeek-R1 in decode: a key has 576 elements on each of 61 layers, and each of 128 heads does 2 x 576 FLOPs for
    its score and 2 x 512 for its value: with H = 128, 4 H D = 61 x 128 x 2,176 and D = 33,184.
    """
    model = law_model(load_model("deepseek-r1"), "bf16")
    cost = law.parts(model, "dense", 1000, 1, ratio=RATIO)
    assert model.depth == 61 * 544 and model.budget is None
    assert cost.attention_flops == pytest.approx(61 * 128 * 2176 * 1000.5, rel=1e-12)
    assert cost.attention_bytes == pytest.approx(70_272 * 1000.5, rel=1e-12)
    narrow = law.parts(law_model(load_model("deepseek-r1"), "fp8"), "dense", 1000, 1, ratio=RATIO, kv_bytes=1.0)
    assert narrow.attention_bytes == pytest.approx(35_136 * 1000.5, rel=1e-12)
    assert model.parameters == load_model("deepseek-r1").active_parameters


def test_an_indexer_scores_everything_and_reads_its_budget() -> None:
    """DeepSeek-V3.2, one token after 10,000: 2,048 keys of 656 bytes a layer are read, and of the 10,000.5 (the
    integral) the index's 132 bytes; 64 heads of 128 score each.
    """
    model = law_model(load_model("deepseek-v3.2"), "fp8")
    cost = law.parts(model, "dense", 10_000, 1, ratio=RATIO, kv_bytes=1.0)
    assert cost.attention_bytes == pytest.approx(61 * 656 * 2048, rel=1e-12)
    assert cost.search_bytes == pytest.approx(61 * 132 * 10_000.5, rel=1e-12)
    assert cost.attention_flops == pytest.approx(61 * 128 * 2176 * 2048, rel=1e-12)
    assert cost.search_flops == pytest.approx(61 * 2 * 64 * 128 * 10_000.5, rel=1e-12)
    # It costs more than dense attention until it reads less: within the budget all keys are read, and scored as well.
    dense, index = (law_model(load_model(name), "bf16") for name in ("deepseek-v3", "deepseek-v3.2"))
    short, whole = (law.parts(one, "dense", 500, 1, ratio=RATIO).bytes for one in (index, dense))
    assert short > whole


def test_layers_of_linear_attention_have_no_term() -> None:
    """Qwen3.5-397B-A17B: K and V of 2 heads of 256 on 15 layers of 60."""
    model = law_model(load_model("qwen3.5-397b-a17b"), "bf16")
    assert (model.q_heads, model.kv_heads, model.depth) == (32, 2, 15 * 256)
    assert law.parts(model, "dense", 1000, 1, ratio=RATIO).attention_bytes == pytest.approx(30_720 * 1000.5, rel=1e-12)
