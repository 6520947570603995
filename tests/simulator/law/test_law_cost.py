"""The law split into parts against sums over every token; tables of strategies; prices; `kinesim law cost`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.graphview import step_shape
from simulator.law import options
from simulator.law.closedform import LawModel, law_model
from simulator.law.costs import crossing, law_costs, parts, priced, rates, step_weight_bytes
from simulator.law.grid import Grid, Terms, cost_columns, cost_frame
from simulator.power import joules
from simulator.profile import load_profile
from simulator.stepcost import StepCost
from simulator.stepgraph import Precision, build_graph
from workloads.attention import Dense
from workloads.model import load_model

E = 206.0
PLAIN = LawModel(parameters=8e9, q_heads=32, kv_heads=8, depth=128 * 36)
WINDOWED = LawModel(parameters=4e9, q_heads=64, kv_heads=8, depth=64 * 24, windows=((128, 64 * 12),))
INDEXED = LawModel(
    parameters=3e10, q_heads=128, kv_heads=0.5, depth=61 * 544, budget=200, index_flops=1e6, index_bytes=8052.0,
    prompt_flops=128 * 61 * 640.0,
)  # fmt: skip
H200, B200 = load_gpu("h200-sxm"), load_gpu("b200-sxm")


def brute(
    model: LawModel, attention: str, a: int, n: int, trials: int, budget: int | None, page: int | None, exact: bool
) -> dict[str, float]:
    """Token by token and trial by trial, on each group of layers: what is computed and what is read.

    A key under dense attention is computed with by every trial; one of the prompt is read once for all. `exact`: token
    t sees a + t keys; else half a key less, which is the integral from t - 1 to t.
    """
    found = dict.fromkeys(
        ("parameter_flops", "attention_flops", "attention_bytes", "search_flops", "search_bytes"), 0.0
    )
    groups = [(depth, window) for window, depth in model.windows]
    groups.append((model.depth - sum(depth for depth, _ in groups), None))
    for t in range(1, n + 1):
        past = a + t - (0.0 if exact else 0.5)
        found["parameter_flops"] += trials * 2 * model.parameters
        for depth, window in groups:
            caps = [cap for cap in (window, budget, model.budget) if cap is not None]
            if caps:
                keys = float(trials * min([a + t, *caps]))
                read = keys
            else:
                keys, read = trials * past, a + trials * (past - a)
            found["attention_flops"] += 4 * model.q_heads * depth * keys
            found["attention_bytes"] += 4 * model.kv_heads * depth * read
            if attention == "block_top_k":
                assert page is not None
                seen = past if window is None else min(window, a + t)
                once = a + trials * (past - a) if window is None else trials * seen
                found["search_flops"] += 2 * model.q_heads * depth * trials * seen / page
                found["search_bytes"] += 2 * model.kv_heads * depth * once / page
        found["search_flops"] += trials * model.index_flops * past
        found["search_bytes"] += model.index_bytes * (a + trials * (past - a))
    return found


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([PLAIN, WINDOWED]), st.sampled_from(["dense", "top_k", "block_top_k"]), st.integers(0, 400),
    st.integers(1, 400), st.integers(1, 40), st.integers(1, 600), st.integers(1, 64), st.booleans(),
)  # fmt: skip
def test_parts_are_sums_over_tokens(
    model: LawModel, attention: str, a: int, n: int, trials: int, budget: int, page: int, exact: bool
) -> None:
    cap = None if attention == "dense" else budget
    found = parts(model, attention, a, n, trials, cap, page, ratio=E, exact=exact)
    for name, value in brute(model, attention, a, n, trials, cap, page, exact).items():
        assert float(getattr(found, name)) == pytest.approx(value, rel=1e-12), name


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.integers(1, 400), st.integers(1, 40), st.booleans())
def test_a_models_own_choice_is_a_sum_over_tokens(a: int, n: int, trials: int, exact: bool) -> None:
    found = parts(INDEXED, "dense", a, n, trials, ratio=E, exact=exact)
    for name, value in brute(INDEXED, "dense", a, n, trials, None, None, exact).items():
        assert float(getattr(found, name)) == pytest.approx(value, rel=1e-12), name


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([PLAIN, WINDOWED, INDEXED]), st.integers(0, 500))
def test_prefill_is_a_sum_over_the_prompt(model: LawModel, a: int) -> None:
    """Token i of the prompt attends to the i that there are then, or to as many as it may."""
    found = parts(model, "dense", a, 10, 4, ratio=E, prefill=True)
    each = 4 * model.q_heads / model.depth * model.depth  # 4 H, of each element of D
    flops = 0.0
    for i in range(1, a + 1):
        flops += 2 * model.parameters + model.index_flops * i
        for share, window in model.layer_groups:
            keys = min([i] + [cap for cap in (window, model.budget) if cap is not None])
            flops += each * model.depth * share * keys
    assert float(found.prefill_flops) == pytest.approx(flops, rel=1e-12)
    assert float(found.prefill_bytes) == (4 * model.kv_heads * model.depth + model.index_bytes) * a


@pytest.mark.parametrize("name", ["qwen3-8b", "gpt-oss-20b", "deepseek-r1", "deepseek-v3.2", "qwen3.5-397b-a17b"])
def test_prefill_is_what_the_operators_do(name: str) -> None:
    """Attention and index of a prompt in one chunk, as the operator graph has them; the law writes the keys, and a
    single chunk reads as many.
    """
    model, a = load_model(name), 1000
    graph = build_graph(model, Dense(), Precision(), 1)
    cost = StepCost(graph, B200, load_profile("ideal"), max_tokens=8192, max_seqs=256, max_context=40_960)
    shape = step_shape(cost, phase="prefill", batch=1, query=a, past=0)
    wanted = ("attention_prefill", "index_scores_prefill")
    work = [(op.count, op.work(shape)) for op in cost.operators if op.name.startswith(wanted)]
    plain = law_model(model, "bf16")
    found = parts(plain, "dense", a, 1, ratio=E, prefill=True)
    flops = sum(count * each.flops for count, each in work)
    assert float(found.prefill_flops - 2 * plain.parameters * a) == pytest.approx(flops, rel=1e-9)
    read = sum(count * each.kv_bytes for count, each in work)
    if model.latent is None or model.latent.indexer is not None:  # expanded keys are read where they are expanded
        assert float(found.prefill_bytes) == pytest.approx(read, rel=1e-12)


def test_prefill_of_latent_attention_is_expanded() -> None:
    """DeepSeek-R1, 100 tokens: 2 x 192 FLOPs of a score, 2 x 128 of a value, on 61 layers of 128 heads, 5,050 pairs."""
    model = law_model(load_model("deepseek-r1"), "bf16")
    found = parts(model, "dense", 100, 1, ratio=E, prefill=True)
    assert float(found.prefill_flops - 2 * model.parameters * 100) == pytest.approx(61 * 128 * 640 * 5050, rel=1e-6)


def test_a_summary_of_latents_is_a_whole_key() -> None:
    """A page of 16 of DeepSeek-R1: one vector of 576 elements, 2 x 576 FLOPs a head to score it."""
    model = law_model(load_model("deepseek-r1"), "bf16")
    found = parts(model, "block_top_k", 1600, 1, 1, 256, 16, ratio=E, exact=True)
    assert float(found.search_flops) == pytest.approx(61 * 128 * 2 * 576 * 1601 / 16, rel=1e-12)
    assert float(found.search_bytes) == pytest.approx(61 * 2 * 576 * 1601 / 16, rel=1e-12)


def test_windows_of_a_model() -> None:
    """gpt-oss-20b: 12 of 24 layers see 128 tokens. One token after 10,000: 12 x 64 x (10,000.5 + 128) elements of D."""
    model = law_model(load_model("gpt-oss-20b"), "bf16")
    found = parts(model, "dense", 10_000, 1, ratio=E)
    assert float(found.attention_bytes) == pytest.approx(4 * 8 * 12 * 64 * (10_000.5 + 128), rel=1e-12)


def test_the_weights_of_a_step() -> None:
    """Qwen3-8B reads all but its embedding table, 151,936 x 4,096; Qwen3-0.6B all, since its head is the table. Of
    Mixtral with one sequence 2 of 8 experts, 32 layers x 3 x 4,096 x 14,336 each; with very many, all.
    """
    model = load_model("qwen3-8b")
    assert step_weight_bytes(model, 7) == 2 * (model.parameters - 151_936 * 4096)
    assert step_weight_bytes(load_model("qwen3-0.6b"), 1) == 2 * load_model("qwen3-0.6b").parameters
    mixtral = load_model("mixtral-8x7b")
    one, many = step_weight_bytes(mixtral, np.array([1.0, 1e6]))
    assert many == pytest.approx(2 * (mixtral.parameters - 32_000 * 4096), rel=1e-9)
    assert many - one == pytest.approx(2 * 6 * 32 * 3 * 4096 * 14_336, rel=1e-9)


def test_a_finite_batch_reads_weights() -> None:
    """1,000 tokens of each of 3 trials at 64 sequences a step: 3,000 / 64 steps."""
    found = parts(PLAIN, "dense", 100, 1000, 3, ratio=E, batch=64, weight_bytes=1.6e10)
    assert float(found.parameter_bytes) == 1.6e10 * 3000 / 64
    assert found.attention_ratio < parts(PLAIN, "dense", 100, 1000, 3, ratio=E).attention_ratio


def test_narrow_keys() -> None:
    whole, half = (parts(PLAIN, "block_top_k", 9, 99, 2, 64, 16, ratio=E, kv_bytes=b) for b in (2.0, 1.0))
    assert half.attention_bytes == whole.attention_bytes / 2 and half.search_bytes == whole.search_bytes / 2
    assert half.flops == whole.flops


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 40_000), st.integers(1, 32), st.integers(1, 4096))
def test_shares_and_rooflines(a: int, n: int, trials: int, budget: int) -> None:
    found = parts(PLAIN, "block_top_k", a, n, trials, budget, 16, ratio=E, prefill=True, batch=32, weight_bytes=1e10)
    assert sum(found.shares().values()) == pytest.approx(1.0, rel=1e-12)
    assert found.eflops / 2 <= found.roofline_eflops() <= found.eflops


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([PLAIN, WINDOWED]), st.integers(0, 3000), st.integers(1, 20_000), st.integers(1, 32),
    st.integers(1, 4096), st.sampled_from([16, 64]),
)  # fmt: skip
def test_more_never_costs_less(model: LawModel, a: int, n: int, trials: int, budget: int, page: int) -> None:
    """A longer chain, another trial, a larger budget or prompt; a search over none; all keys over some."""

    def cost(attention: str, a: int = a, n: int = n, trials: int = trials, budget: int = budget) -> float:
        cap = None if attention == "dense" else budget
        return float(parts(model, attention, a, n, trials, cap, page, ratio=E, exact=True).eflops)

    for attention in ("dense", "top_k", "block_top_k"):
        here = cost(attention)
        more = (cost(attention, n=n + 1), cost(attention, trials=trials + 1), cost(attention, a=a + 1))
        assert here < min(more[:2]) and here <= more[2] * (1 + 1e-12)
        assert cost(attention, trials=trials + 1) / (trials + 1) <= here / trials * (1 + 1e-12)
    assert cost("top_k") <= cost("top_k", budget=budget + 1) * (1 + 1e-12)
    assert cost("top_k") < cost("block_top_k")
    assert cost("top_k", trials=1) <= cost("dense", trials=1) * (1 + 1e-12)
    assert cost("top_k", trials=1, budget=a + n) == pytest.approx(cost("dense", trials=1), rel=1e-12)


def test_arrays_broadcast() -> None:
    n, budget = np.arange(1, 5)[:, None], np.array([16, 64, 256])
    found = parts(PLAIN, "top_k", 10, n, 2, budget, ratio=E)
    assert {value.shape for value in vars(found).values() if isinstance(value, np.ndarray)} == {(4, 3)}
    assert found.attention_bytes[2, 1] == parts(PLAIN, "top_k", 10, 3, 2, 64, ratio=E).attention_bytes


# ---- where attention overtakes ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 64), st.floats(50, 600))
def test_crossing_of_dense_attention_in_closed_form(a: int, trials: int, ratio: float) -> None:
    p, h, g, d = PLAIN.parameters, PLAIN.q_heads, PLAIN.kv_heads, PLAIN.depth
    expected = (p - 2 * a * (h + ratio * g / trials) * d) / ((h + ratio * g) * d)
    found = float(crossing(PLAIN, "dense", a, trials, ratio=ratio))
    assert found == pytest.approx(max(expected, 0.0), rel=1e-9, abs=1e-5)


def test_crossings_of_other_kinds() -> None:
    at = float(crossing(PLAIN, "block_top_k", 150, 4, 1024, 16, ratio=E))
    below, above = (parts(PLAIN, "block_top_k", 150, at * x, 4, 1024, 16, ratio=E) for x in (0.999, 1.001))
    assert below.attention_ratio < 1 < above.attention_ratio
    # 100 keys cost 4 (32 + 8 E) 4,608 x 100 = 3.1e9 eFLOPs, a fifth of 2 P = 1.6e10.
    assert np.isinf(crossing(PLAIN, "top_k", 150, 1, 100, ratio=E))


# ---- tables of strategies, prices ------------------------------------------------------------------------------------

DENSE = {
    "model": "qwen3-8b",
    "attention": "dense",
    "budget": 0,
    "page": 0,
    "local": 0,
    "prompt_tokens": 150,
    "trials": 4,
}
SPARSE = {**DENSE, "model": "qwen3-0.6b", "attention": "block_top_k", "budget": 1024, "page": 16}


def test_rows_of_a_table() -> None:
    """Rows of several models and attentions in any order; `lengths` are averaged over, here by hand."""
    lengths = np.array([100.0, 5000.0, 32_768.0])
    table = pd.DataFrame(
        [{**DENSE, "tokens": 9000.0, "lengths": None}, {**SPARSE, "tokens": 0.0, "lengths": lengths},
         {**DENSE, "tokens": 1.0, "lengths": lengths}]
    )  # fmt: skip
    ratio = 989.5 / 4.8
    big, small = (law_model(load_model(name), "bf16") for name in ("qwen3-8b", "qwen3-0.6b"))
    expected = [
        parts(big, "dense", 150, 9000, 4, ratio=ratio).eflops,
        np.mean([parts(small, "block_top_k", 150, n, 4, 1024, 16, ratio=ratio).eflops for n in lengths]),
        np.mean([parts(big, "dense", 150, n, 4, ratio=ratio).eflops for n in lengths]),
    ]
    np.testing.assert_allclose(law_costs(table, H200), np.array(expected) / 1e12, rtol=1e-12)
    np.testing.assert_allclose(law_costs(table, H200, "seconds"), np.array(expected) / 989.5e12, rtol=1e-12)
    flops = law_costs(table.drop(columns="lengths"), H200, "flops")[0]
    assert flops == pytest.approx(float(parts(big, "dense", 150, 9000, 4, ratio=ratio).flops) / 1e12, rel=1e-12)
    assert law_costs(table.iloc[:0], H200).shape == (0,)


def test_options_of_a_table() -> None:
    table = pd.DataFrame([{**DENSE, "tokens": 9000.0}])
    plain = law_costs(table, H200)[0]
    assert law_costs(table, H200, kv_dtype="fp8")[0] < plain < law_costs(table, H200, prefill=True)[0]
    batched = law_costs(table, H200, batch=64)[0]
    weights = float(step_weight_bytes(load_model("qwen3-8b"), 64)) * 9000 * 4 / 64 * (989.5 / 4.8)
    assert batched - plain == pytest.approx(weights / 1e12, rel=1e-9)


def test_prices() -> None:
    """One GPU-second of the law on a H200 at 4 USD an hour. Joules: FLOPs and bytes by the power model, and the board
    with its SMs at work for that second.
    """
    split = parts(PLAIN, "dense", 0, 10_000, ratio=989.5 / 4.8)
    rate = rates(H200, load_model("qwen3-8b"))
    seconds = float(split.eflops) / 989.5e12
    assert float(priced(split, rate, "seconds")) == pytest.approx(seconds, rel=1e-12)
    assert H200.price is not None
    assert float(priced(split, rate, "usd")) == pytest.approx(seconds * H200.price.usd_per_hour / 3600, rel=1e-12)
    power = joules(H200)
    work = float(split.flops) * power.flop["bf16"] + float(split.bytes) * power.hbm
    expected = work + seconds * (power.awake + power.sms)
    assert float(priced(split, rate, "joules")) == pytest.approx(min(expected, power.limit * seconds), rel=1e-12)


def test_the_format_that_is_computed_in() -> None:
    """DeepSeek-R1's linear layers multiply in fp8, 4,500 TFLOP/s of a B200; an A100 has no fp8 and takes bf16."""
    model = load_model("deepseek-r1")
    assert rates(B200, model).peak == 4.5e15
    assert rates(load_gpu("a100-sxm"), model).dtype == "bf16"
    assert rates(B200, load_model("qwen3-8b")).ratio == pytest.approx(281.25)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"attention": "sliding"}, "unknown attention"),
        ({"model": "qwen9"}, "unknown model"),
        ({"tokens": -1.0}, "out of range"),
        ({"tokens": float("nan")}, "out of range"),
        ({"trials": 0}, "out of range"),
        ({"attention": "top_k", "budget": 0}, "out of range"),
        ({"attention": "block_top_k", "budget": 64, "page": 0}, "tokens of a page"),
        ({"model": "deepseek-v3.2", "attention": "top_k", "budget": 64}, "chooses the keys"),
        ({"lengths": np.array([])}, "without a trial"),
    ],
)
def test_bad_rows(change: dict[str, Any], problem: str) -> None:
    table = pd.DataFrame([{**DENSE, "tokens": 9000.0, "lengths": None} | change])
    with pytest.raises(InputError, match=problem):
        law_costs(table, H200)


def test_bad_options() -> None:
    table = pd.DataFrame([{**DENSE, "tokens": 9000.0}])
    with pytest.raises(InputError, match="unknown unit"):
        law_costs(table, H200, "minutes")
    with pytest.raises(InputError, match="unknown number format"):
        law_costs(table, H200, kv_dtype="fp9")
    with pytest.raises(InputError, match="out of range"):
        law_costs(table, H200, batch=0)
    with pytest.raises(InputError, match="columns are missing"):
        law_costs(table.drop(columns="trials"), H200)
    with pytest.raises(InputError, match="no price is known"):
        law_costs(table, load_gpu({"base": "h200-sxm", "price": None}), "usd")


# ---- lists on the command line ---------------------------------------------------------------------------------------


def test_lists_of_numbers() -> None:
    assert options.numbers("2k..32k:2k", "--tokens") == list(range(2048, 32769, 2048))
    assert options.numbers("1..32:x2,5, 1K", "--trials") == [1, 2, 4, 8, 16, 32, 5, 1024]
    assert options.numbers("0", "--prompt", low=0) == [0]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(1, 10**5))
def test_ranges_hold_both_ends(low: int, more: int, step: int) -> None:
    found = options.numbers(f"{low}..{low + more}:{step}", "--tokens")
    assert found[0] == low and found[-1] > low + more - step and len(found) == more // step + 1


@pytest.mark.parametrize(
    "text",
    ["", "a", "1,,2", "4k..2k:1k", "1..5", "1..5:0", "0..8:x2", "1..8:x1", "-4", "1.5", "0", "9" * 20, "1..2000001:1"],
)
def test_bad_numbers(text: str) -> None:
    with pytest.raises(InputError, match="--tokens"):
        options.numbers(text, "--tokens")


def test_policies() -> None:
    found = options.policies("dense,top_k,block_top_k", "256,1024")
    assert [str(policy) for policy in found] == [
        "dense", "top_k 256", "top_k 1,024", "block_top_k 256", "block_top_k 1,024"
    ]  # fmt: skip
    assert [policy.page for policy in found] == [0, 0, 0, 64, 16]
    assert options.policies("block_top_k", "192", 64, 128) == [options.Policy("block_top_k", 192, 64, 128)]
    for attention, budget, page, local in [
        ("block_top_k", "100", 16, 0), ("block_top_k", "128", 16, 128), ("top-k", "100", None, 0),
        ("dense", "1", 0, 0), ("dense", "1", 1, -1),
    ]:  # fmt: skip
        with pytest.raises(InputError):
            options.policies(attention, budget, page, local)


def test_gpus_with_changes() -> None:
    found = options.gpus("h200-sxm,b200-sxm", ["gpu.memory.bandwidth=9.6 TB/s"])
    assert [gpu.memory.bandwidth for gpu in found] == [9.6e12, 9.6e12]
    for change in ("model=qwen3-8b", "gpu.memory.bandwith=1 TB/s", "gpu.memory", "gpu=x", "gpu..x=1", "gpu.sms="):
        with pytest.raises(InputError):
            options.gpus("h200-sxm", [change])


# ---- the command -----------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[3]


def kinesim(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulator.cli", "law", "cost", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def grid(*changes: Any) -> Grid:
    policies = options.policies("dense,block_top_k", "512,1024")
    models = options.models("qwen3-0.6b,gpt-oss-20b")
    return Grid(models, [H200, B200], policies, [0, 150], [1, 8], [1024, 4096, 32_768])


def test_a_grid_is_every_combination() -> None:
    """Every row is what its own strategy costs, in the order of the grid."""
    frame = cost_frame(grid(), Terms(prefill=True))
    assert len(frame) == len(grid()) == 2 * 2 * 3 * 2 * 2 * 3
    for gpu in (H200, B200):
        here = frame[frame["gpu"] == gpu.name]
        np.testing.assert_allclose(here["tera_eflops"], law_costs(here, gpu, prefill=True), rtol=1e-12)
        np.testing.assert_allclose(here["usd"], law_costs(here, gpu, "usd", prefill=True), rtol=1e-12)
    assert (frame["roofline_seconds"] <= frame["seconds"]).all()
    assert frame["tokens"].tolist()[:4] == [1024, 4096, 32_768, 1024]


def test_differences_of_the_published_figures() -> None:
    """Qwen3-8B, a = 150, B = 1,024, n = 1,000 on its authors' B200. They read 1,024,000 + 874^2 / 2 = 1,405,938 keys;
    there are 150 x 874 + 874 x 875 / 2 + 126 x 1,024 = 642,499. A key costs 4 x 4,608 x (32 + 562.5 x 8) eFLOPs, the
    parameters 2 x 8.19e9 x 1,000.
    """
    one = Grid(options.models("qwen3-8b"), [B200], options.policies("top_k", "1024"), [150], [1], [1000])
    columns = cost_columns(one, Terms(as_published=True))
    key, parameters = 4 * 4608 * (32 + 562.5 * 8), 2 * 8.19e9 * 1000
    published, right = (keys * key + parameters for keys in (1_405_938, 642_499))
    assert columns["tera_eflops"][0] == pytest.approx(published / 1e12, rel=1e-12)
    assert columns["differs_sums"][0] == pytest.approx(right / published, rel=1e-12)
    assert columns["differs_parameters"][0] == pytest.approx(1.0, abs=1e-4)
    # Dense bf16 of a B200: half the peak, so half of E.
    there = (642_499 * 4 * 4608 * (32 + 281.25 * 8) + 2 * 8_190_735_360 * 1000) / 2.25e15
    before = (642_499 * key + 2 * 8_190_735_360 * 1000) / 4.5e15
    assert columns["differs_hardware"][0] == pytest.approx(there / before, rel=1e-12)


def test_json() -> None:
    done = kinesim("--model", "qwen3-8b,deepseek-v3.2", "--tokens", "4k", "--gpu", "b200-sxm", "--format", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "kinesim-law-cost/1"
    row = document["rows"][0]
    assert row["model"] == "Qwen/Qwen3-8B" and row["tokens"] == 4096
    shares = ("parameters", "attention_compute", "attention_memory", "search", "prefill")
    assert sum(row[name] for name in shares) == pytest.approx(1.0)
    assert document["crossings"][0]["tokens"] == pytest.approx(479, abs=1)
    assert {rate["dtype"] for rate in document["hardware"]} == {"bf16", "fp8"}
    assert any("indexer" in note for note in document["notes"])


def test_one_strategy_is_broken_down() -> None:
    done = kinesim("--model", "qwen3-8b", "--attention", "block_top_k", "--batch", "64", "--prefill")
    assert done.returncode == 0, done.stderr
    for word in ("parameters", "attention", "search", "prefill", "as much from token"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_published_figures_say_where_they_differ() -> None:
    done = kinesim("--as-published", "--model", "qwen3-0.6b", "--attention", "top_k,block_top_k", "--tokens", "512,32k")
    assert done.returncode == 0, done.stderr
    for word in ("right", "sums", "twice the dense bf16 rate", "below zero", "(B - a)^2 / 2", "embedding table"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.parametrize("name", ["grid.csv", "grid.parquet"])
def test_all_rows_in_a_file(name: str, tmp_path: Path) -> None:
    done = kinesim("--tokens", "1k..32k:1k", "--trials", "1,32", "--out", str(tmp_path / name))
    assert done.returncode == 0, done.stderr
    assert "324 more" in done.stdout and "384 rows" in done.stdout
    table = pd.read_csv(tmp_path / name) if name.endswith("csv") else pd.read_parquet(tmp_path / name)
    assert len(table) == 384 and table["tera_eflops"].is_monotonic_increasing is False
    np.testing.assert_allclose(table["tera_eflops"], law_costs(table, H200), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "qwen9"], "--model: unknown model; found 'qwen9'"),
        (["--model", "qwen3-8b,"], "--model: an empty entry"),
        (["--gpu", "h300"], "--gpu: unknown GPU; found 'h300'"),
        (["--attention", "sparse"], "--attention: unknown attention; found 'sparse'"),
        (["--attention", "block_top_k", "--budget", "100", "--page", "16"], "--budget: not a budget of block top-k"),
        (["--tokens", "2k..1k:1k"], "--tokens: a range that goes down"),
        (["--tokens", "0"], "--tokens: out of range"),
        (["--trials", "0"], "--trials: out of range"),
        (["--prompt", "-1"], "--prompt: not a whole number"),
        (["--kv-dtype", "fp9"], "--kv-dtype: unknown number format; found 'fp9'"),
        (["--gpu", ""], "--gpu: an empty entry"),
        (["--page", "16"], "--page: is of block top-k; found 16"),
        (["--local", "64", "--attention", "top_k"], "--local: is of block top-k; found 64"),
        (["--batch", "0"], "--batch: out of range"),
        (["--batch", "inf"], "--batch: out of range"),
        (["--as-published", "--gpu", "h200-sxm"], "the authors' figures are for a B200"),
        (["--as-published", "--prefill"], "no options"),
        (["--set", "engine.block_size=1"], "--set: not an assignment to a GPU's figure"),
        (["--set", "gpu.memory.bandwidth=9"], "a unit is missing"),
        (["--out", "grid.xlsx"], "--out: not the name of a table"),
        (["--out", "/proc/nothing/x.csv"], "cannot be written"),
        (
            ["--model", "deepseek-v3.2", "--attention", "top_k"],
            "--attention: deepseek-ai/DeepSeek-V3.2 chooses the keys",
        ),
        (["--tokens", "1..900000:1", "--trials", "1..900:1"], "too many points"),
    ],
)
def test_bad_input(arguments: list[str], said: str) -> None:
    done = kinesim(*arguments)
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr and done.stderr.count("\n") == 1
