"""The paper's claims as figures: from its digitised curves where they are at hand, and from the law alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hwspecs.gpu import load_gpu
from simulator.law.closedform import LawModel, law_model
from simulator.law.findings.evidence import digitised_frontier, digitised_penalty, law_flops
from simulator.law.findings.runfacts import layer_facts, run_facts
from simulator.law.frontiers.frontier import Frontier, frame_frontier
from simulator.law.ladder import claims
from simulator.law.strategies import MODELS
from workloads.model import load_model

CURVES = Path(__file__).resolve().parents[4] / "shared/data/kinetics/aime24_long_cot_frontiers.csv"
SMALL_MODEL = LawModel(parameters=1e6, q_heads=4, kv_heads=2, depth=100)


@pytest.fixture(scope="module")
def curves() -> Frontier:
    if not CURVES.exists():
        pytest.skip(f"the digitised curves are not here: {CURVES}")
    return digitised_frontier(CURVES)


def line(model: str, attention: str, points: list[tuple[float, float]]) -> pd.DataFrame:
    cost, accuracy = zip(*points, strict=True)
    return pd.DataFrame({"model": model, "attention": attention, "cost": cost, "accuracy": accuracy})


def test_marked_gain_of_oracle_top_k(curves: Frontier) -> None:
    found = claims.gain_at(curves, "top_k", claims.MARKED_GAIN.at)
    assert found == pytest.approx(claims.MARKED_GAIN.value, rel=0.05)


def test_marked_saving_of_oracle_top_k(curves: Frontier) -> None:
    found = claims.saving_at(curves, "top_k", claims.MARKED_SAVING.at)
    assert found == pytest.approx(claims.MARKED_SAVING.value, rel=0.05)


def test_largest_gain_and_saving_lie_beyond_the_marks(curves: Frontier) -> None:
    found = claims.headlines(curves, "top_k")
    assert found.gain == pytest.approx(0.55, abs=0.01)
    assert found.gain_cost == pytest.approx(0.11, abs=0.01)
    assert found.saving == pytest.approx(15, abs=0.5)
    assert found.saving_accuracy == pytest.approx(0.63, abs=0.02)
    assert found.top_gain == pytest.approx(0.047, abs=0.005)


@pytest.mark.parametrize(
    ("model", "low", "sparse", "full"),
    # The paper's own labels in its plots of single models: tera-eFLOPs, accuracy with top-k and with dense attention.
    [("qwen3-8b", 480, 0.63, 0.08), ("qwen3-8b", 2850, 0.78, 0.40), ("qwen3-32b", 1120, 0.68, 0.15)],
)
def test_labels_of_single_models(curves: Frontier, model: str, low: float, sparse: float, full: float) -> None:
    at = claims.b200_seconds(low)
    for attention, expected in (("top_k", sparse), ("dense", full)):
        accuracy = np.interp(np.log(at), np.log(curves.costs), claims.accuracies(curves, attention, model))
        assert accuracy == pytest.approx(expected, abs=0.04)  # positions were read off, curves here are smoothed


def test_small_models_take_more_of_the_sparse_frontier(curves: Frontier) -> None:
    assert claims.accuracy_share(curves, "dense", claims.SMALL) == pytest.approx(0.41, abs=0.01)
    assert claims.accuracy_share(curves, "top_k", claims.SMALL) == pytest.approx(0.81, abs=0.01)


def test_choosing_by_flops_on_the_digitised_curves() -> None:
    if not CURVES.exists():
        pytest.skip(f"the digitised curves are not here: {CURVES}")
    found = digitised_penalty(CURVES)
    assert found is not None
    # By hand: 1.7B reaches 0.37 at 1.16 B200 seconds and 4B at 0.405, a ratio of 2.85.
    assert (found.chosen, found.best) == ("qwen3-1.7b", "qwen3-4b")
    assert found.ratio == pytest.approx(2.85, abs=0.1)
    assert found.accuracy == pytest.approx(0.37, abs=0.011)


def test_gain_and_saving_of_two_lines() -> None:
    # Both rise by 0.1 with every factor of 10; the sparse one starts at a tenth of the cost.
    frame = pd.concat(
        [
            line("m", "dense", [(1, 0.0), (10, 0.1), (100, 0.2), (1000, 0.3)]),
            line("m", "top_k", [(1, 0.1), (10, 0.2), (100, 0.3), (1000, 0.4)]),
        ]
    )
    front = frame_frontier(frame, costs=[1, 10, 100, 1000])
    assert claims.gain_at(front, "top_k", 31.6) == pytest.approx(0.1)
    assert claims.saving_at(front, "top_k", 0.25) == pytest.approx(10)
    assert np.isnan(claims.saving_at(front, "top_k", 0.35))  # dense does not get there
    found = claims.headlines(front, "top_k", "m")
    assert (found.gain, found.saving, found.top_gain) == pytest.approx((0.1, 10, 0.1))


def test_accuracy_shares_add_up_by_who_is_best() -> None:
    frame = pd.concat(
        [
            line("a", "dense", [(1, 0.1), (10, 0.3), (100, 0.3)]),
            line("b", "dense", [(1, 0.0), (10, 0.3), (100, 0.9)]),
        ]
    )
    front = frame_frontier(frame, costs=[1, 10, 100])
    # a is the best up to 0.3, where b crosses it, and b up to 0.9: (0.3 - 0.1) and (0.9 - 0.3) of 0.8.
    assert claims.accuracy_share(front, "dense", ["a"]) == pytest.approx(0.25)
    assert claims.accuracy_share(front, "dense", ["b"]) == pytest.approx(0.75)


def test_penalty_of_choosing_by_another_measure() -> None:
    # At 0.5, a needs 1 of the measure and 30 of the cost, b needs 3 and 10: the measure takes a, three times too dear.
    measure = pd.concat([line("a", "dense", [(0.5, 0.1), (1, 0.5)]), line("b", "dense", [(2, 0.1), (3, 0.5)])])
    cost = pd.concat([line("a", "dense", [(20, 0.1), (30, 0.5)]), line("b", "dense", [(5, 0.1), (10, 0.5)])])
    fronts = [frame_frontier(f, costs=np.unique(f["cost"])) for f in (measure, cost)]
    found = claims.penalties(*fronts, "dense", [0.5, 0.6])
    assert [(p.chosen, p.best) for p in found] == [("a", "b")]  # nobody reaches 0.6
    assert found[0].ratio == pytest.approx(3)


def test_ratio_of_attention_to_parameters_by_hand() -> None:
    # (2a + n)(H + G E) D / P = (200 + 800)(4 + 2 x 50) 100 / 1e6 = 10.4; as many for 10 need n = 10 / 0.0104 - 200.
    assert claims.attention_ratio(SMALL_MODEL, 100, 800, 50) == pytest.approx(10.4)
    assert claims.tokens_at_ratio(SMALL_MODEL, 100, 10, 50) == pytest.approx(10 / 0.0104 - 200)
    assert claims.tokens_at_ratio(SMALL_MODEL, 1e5, 10, 50) == 0


def test_kv_of_a_chain_and_its_growth() -> None:
    laws = {name: law_model(load_model(name), "bf16") for name in MODELS}
    gib = {name: claims.kv_bytes_per_token(law) * 32768 / 2**30 for name, law in laws.items()}
    # 28 and 64 layers x 8 KV heads x 128 x K and V x 2 bytes x 32,768 tokens
    assert (gib["qwen3-0.6b"], gib["qwen3-32b"]) == (3.5, 8.0)
    assert 1.1 < claims.kv_growth(laws) < 1.2
    doubled = {"a": SMALL_MODEL, "b": replace(SMALL_MODEL, parameters=2e6, kv_heads=3)}
    assert claims.kv_growth(doubled) == pytest.approx(1.5)


def test_seconds_of_tera_eflops() -> None:
    assert claims.b200_seconds(1e5) == pytest.approx(22.2, abs=0.1)


def test_flops_leave_the_memory_out() -> None:
    row = {
        "model": "qwen3-8b", "attention": "dense", "budget": 0, "page": 0, "local": 0, "prompt_tokens": 100,
        "limit": 1000, "tokens": 1000.0, "trials": 2, "problem": "", "accuracy": 0.5,
    }  # fmt: skip
    model = load_model("qwen3-8b")
    # N (2 P n + 2 (2a + n) n H D), with H = 32 and D = 128 x 36
    flops = 2 * (2 * model.active_parameters * 1000 + 2 * 1200 * 1000 * 32 * 128 * 36)
    assert law_flops(pd.DataFrame([row]), load_gpu("h200-sxm"))[0] == pytest.approx(flops / 1e12)


def test_runs_say_where_the_time_goes() -> None:
    # A short run: 16 chains of 2,048 tokens. Attention is what top-k saves; parameters stay.
    sets = ("workload.requests=16",)
    full, thin = (run_facts("qwen3-0.6b", "h200-sxm", budget, 2048, sets=sets) for budget in (None, 256))
    for found in (full, thin):
        assert found.multiplier > 1
        assert 0 < found.attention + found.linear + found.host < found.seconds
        assert found.preemptions == 0 and found.batch == pytest.approx(16, abs=0.5)
    assert thin.attention < full.attention
    assert thin.linear == pytest.approx(full.linear)
    assert thin.ratio < full.ratio and full.chains == 16


def test_layers_of_the_papers_experiment() -> None:
    found = layer_facts("qwen3-0.6b", "h200-sxm", 2048, 32768)
    assert 1 < found.speedup < found.bytes_ratio
    # per sequence and KV head 2 x 32,768 vectors, against 2 x 1,024 and 32,768 / 16 summaries
    assert found.bytes_ratio == pytest.approx(2 * 32768 / (2 * 1024 + 2048), rel=0.01)
    # 28 layers x one of 8 heads x 128 x K and V x 2 bytes, far beyond the GPU's 141 GB
    assert found.kv_bytes == 28 * 128 * 4 * 2048 * 32768 > 6 * found.memory
