"""Prefill attention in a table: one step and many by the same function, near the model that it is made of."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from madeprofiles import group, no_trees, profile

from hwspecs.gpu import load_gpu
from simulator.calibrated import Calibrated
from simulator.kernels.registry import MODELS
from simulator.operators import Heads, Operator
from simulator.prefilltable import KeyTable, PrefillTable, _knots, pairs_of
from simulator.profile import load_profile
from simulator.selection import Library, Selection
from simulator.shape import PrefillShape, StepShape, causal_pairs, keys_read
from simulator.stepcost import StepCost
from simulator.stepgraph import Precision, build_graph
from simulator.trees import Trees
from workloads.attention import Dense, SlidingWindow
from workloads.model import load_model

H200 = load_gpu("h200-sxm")
MAX_TOKENS, MAX_SEQS, MAX_CONTEXT = 8192, 64, 32768
WINDOW = 512


def smooth_trees(rise: float) -> Trees:
    """A correction that rises (or falls) by 4 x `rise` an octave of new tokens, in small steps."""
    cuts = np.linspace(0, 14, 57, dtype=np.float32)[:, None]
    leaves = np.tile(np.array([[-rise / 2, rise / 2]], np.float32), (57, 1))
    query = MODELS["attention_prefill"].names.index("log2 query")
    return Trees(0.1, np.full((57, 1), query, np.int16), cuts, leaves)


@cache
def operator(window: int | None, rise: float = 0.005) -> tuple[Operator, Calibrated]:
    policy = Dense() if window is None else SlidingWindow(kind="sliding_window", window=window)
    graph = build_graph(load_model("Qwen/Qwen3-8B"), policy, Precision())
    op = next(op for op in graph.operators if op.axis == "prefill")
    made = profile("h200-sxm@vllm-0.24.0", (group("attention_prefill", smooth_trees(rise)),))
    return op, Calibrated(H200, Selection(H200, None, made, Library([])), load_profile("rule-of-thumb"))


@cache
def table(window: int | None, rise: float = 0.005) -> PrefillTable:
    op, profile = operator(window, rise)
    return PrefillTable(
        op, lambda shape: profile.operator_time(op, shape).seconds, extents=1, max_tokens=MAX_TOKENS,
        max_seqs=MAX_SEQS, max_context=MAX_CONTEXT,
    )  # fmt: skip


def chunks_of(parts: list[tuple[int, int]], window: int | None) -> PrefillShape:
    """The shape of a step with chunks of (query, past)."""
    pairs = sum(causal_pairs(q, past, window) for q, past in parts)
    keys = sum(keys_read(q, past, window) for q, past in parts)
    return PrefillShape(sum(q for q, _ in parts), len(parts), (pairs,), (keys,))


def direct(chunks: PrefillShape, window: int | None) -> float:
    op, profile = operator(window)
    return float(profile.operator_time(op, StepShape(chunks.tokens, 0, 0, (), chunks)).seconds)


@st.composite
def steps(draw: st.DrawFn, window: int | None, alike: bool = False) -> PrefillShape:
    count = draw(st.integers(1, MAX_SEQS))
    most = MAX_TOKENS // count
    one = st.tuples(st.integers(1, most), st.sampled_from([0, 0, 64, 1000]) | st.integers(0, 20_000))
    parts = [draw(one)] * count if alike else draw(st.lists(one, min_size=count, max_size=count))
    return chunks_of(parts, window)


@pytest.mark.parametrize("window", [None, WINDOW])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_step_and_many_are_one_function(window: int | None, data: st.DataObject) -> None:
    found = [data.draw(steps(window)) for _ in range(3)]
    stacked = PrefillShape(
        np.array([c.tokens for c in found]),
        np.array([c.seqs for c in found]),
        (np.array([c.pairs[0] for c in found]),),
        (np.array([c.kv[0] for c in found]),),
    )
    one_by_one = [table(window).at(c) for c in found]
    assert list(table(window).many(stacked)) == pytest.approx(one_by_one, rel=1e-12)
    assert all(seconds > 0 for seconds in one_by_one)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_near_the_model_it_is_made_of(window: int | None) -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(400):
        seqs = int(2 ** rng.uniform(0, 6))
        query = max(1, int(2 ** rng.uniform(0, np.log2(MAX_TOKENS / seqs))))
        past = 0 if rng.uniform() < 0.4 else int(2 ** rng.uniform(0, 14))
        chunks = chunks_of([(query, past)] * seqs, window)
        errors.append(abs(np.log(table(window).at(chunks) / direct(chunks, window))))
    # Tiles and waves are steps, which lines between knots cut short.
    assert np.mean(errors) < (0.03 if window is None else 0.04)
    assert np.quantile(errors, 0.9) < 0.1


@pytest.mark.parametrize("window", [None, WINDOW])
def test_exact_at_its_knots(window: int | None) -> None:
    for seqs, query, stretch in ((1, 1, 1), (4, 16, 1), (1, 1024, 4), (16, 128, 2), (64, 8, 16)):
        chunks = chunks_of([(query, (stretch - 1) * query)] * seqs, window)
        if window is None or (stretch - 1) * query < window:
            assert table(window).at(chunks) == pytest.approx(direct(chunks, window), rel=1e-9)


def test_the_pairs_of_many_chunks_count_and_not_how_they_are_shared_out() -> None:
    """Chunks of several lengths are as so many equal ones with their tokens and pairs."""
    uneven = chunks_of([(100, 0), (300, 500), (1000, 2000), (24, 4000)], None)
    query = uneven.tokens / uneven.seqs
    past = uneven.pairs[0] / uneven.tokens - (query + 1) / 2
    found = [float(np.exp2(c)) for c in table(None)._coordinates(uneven, np.log2, np.maximum)]
    assert found == pytest.approx([4, query, 1 + past / query])
    assert 4 * (query * past + query * (query + 1) / 2) == pytest.approx(uneven.pairs[0])
    equal = PrefillShape(uneven.tokens, 4, uneven.pairs, (0,))
    assert table(None).at(equal) == table(None).at(uneven)


@settings(max_examples=60, deadline=None)
@given(steps(None))
def test_more_past_is_not_quicker(chunks: PrefillShape) -> None:
    """Even where the correction of longer prompts is much smaller."""
    longer = PrefillShape(chunks.tokens, chunks.seqs, tuple(int(p * 1.5) + 1 for p in chunks.pairs), chunks.kv)
    assert table(None, -0.02).at(longer) >= table(None, -0.02).at(chunks) * (1 - 1e-9)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_beyond_the_grid_it_goes_on(window: int | None) -> None:
    inside = table(window).at(chunks_of([(MAX_TOKENS, 0)], window))
    twice = table(window).at(chunks_of([(2 * MAX_TOKENS, 0)], window))
    assert 1.5 * inside < twice < 5 * inside
    many = table(window).at(chunks_of([(128, 0)] * (2 * MAX_SEQS), window))
    assert table(window).at(chunks_of([(128, 0)] * MAX_SEQS, window)) < many < 1.0


def test_no_chunks_take_no_time() -> None:
    assert table(None).at(PrefillShape(0, 0, (0,), (0,))) == 0.0


@given(st.integers(1, 5000), st.integers(0, 5000), st.none() | st.integers(1, 3000))
def test_pairs_are_those_of_the_engine(query: int, past: int, cap: int | None) -> None:
    found = pairs_of(np.array([float(query)]), np.array([float(past)]), cap)
    assert float(found[0]) == causal_pairs(query, past, cap)


@given(st.integers(1, 1_000_000), st.sampled_from([1, 2, 4]))
def test_knots_are_whole_and_reach_the_largest(largest: int, per_octave: int) -> None:
    knots = _knots(largest, per_octave)
    assert knots[0] == 1 and knots[-1] >= largest and len(knots) >= 2
    assert (np.diff(knots) >= 1).all() and (knots == np.round(knots)).all()
    assert (knots[1:] / knots[:-1] <= max(2 ** (1 / per_octave), 2)).all()


def test_the_operator_says_which_extent() -> None:
    op, _ = operator(WINDOW)
    assert isinstance(op.dims, Heads) and table(WINDOW).cap == op.dims.cap == WINDOW


# ---- keys and values from latents: a GEMM over keys ------------------------------------------------------------------


@cache
def latent_cost() -> StepCost:
    """DeepSeek-R1 on eight GPUs, by fitted kernels with no correction."""
    graph = build_graph(load_model("deepseek-r1"), Dense(), Precision(), 8)
    kinds = ("gemm", "mla_prefill", "mla_decode", "mla_bmm", "elementwise", "moe", "collective")
    made = profile("h200-sxm@sglang-1", tuple(group(kind, no_trees()) for kind in kinds))
    calibrated = Calibrated(H200, Selection(H200, None, made, Library([])), load_profile("rule-of-thumb"))
    return StepCost(graph, H200, calibrated, max_tokens=16384, max_seqs=MAX_SEQS, max_context=MAX_CONTEXT)


def by_name(chunks: PrefillShape) -> dict[str, float]:
    cost = latent_cost()
    return {op.name: s for op, s in zip(cost.prefill_ops, cost.prefill_seconds(chunks), strict=True)}


UP = "kv_up_proj [moe]"
UNEQUAL = [
    ([(8000, 0), *[(24, 0)] * 8], 8192),
    ([(7000, 0), *[(298, 0)] * 4], 8192),
    ([(500, 7692), (8192, 0)], 16384),
    ([(24, 4000), (4096, 0), (72, 0)], 8192),
]


@pytest.mark.parametrize(("parts", "keys"), UNEQUAL)
def test_keys_are_projected_as_often_as_there_are_keys(parts: list[tuple[int, int]], keys: int) -> None:
    """However they are shared out among chunks, whose (query, key) pairs are those of other lengths."""
    assert sum(q + past for q, past in parts) == keys
    op = next(op for op in latent_cost().prefill_ops if op.name == UP)
    chunks = chunks_of(parts, None)
    exact = op.count * latent_cost().kernel_terms(op, StepShape(chunks.tokens, 0, 0, (), chunks)).seconds
    assert by_name(chunks)[UP] == pytest.approx(exact, rel=1e-9)  # at knots
    assert by_name(chunks)[UP] == by_name(chunks_of([(keys, 0)], None))[UP]
    attention = "attention_prefill [moe]"
    assert by_name(chunks)[attention] < by_name(chunks_of([(keys, 0)], None))[attention]


@settings(max_examples=60, deadline=None)
@given(steps(None))
def test_one_step_and_many_project_as_many_keys(chunks: PrefillShape) -> None:
    cost = latent_cost()
    stacked = PrefillShape(
        np.array([chunks.tokens]), np.array([chunks.seqs]), (np.array(chunks.pairs),), (np.array(chunks.kv),)
    )
    for op in cost.prefill_ops:
        many = op.count * cost.prefill_many(op, stacked)
        assert many == pytest.approx([by_name(chunks)[op.name]], rel=1e-12)
        if op.name == UP:
            exact = op.count * cost.kernel_terms(op, StepShape(chunks.tokens, 0, 0, (), chunks)).seconds
            assert many == pytest.approx(exact, rel=0.1)  # a wave more between two knots


def test_keys_beyond_the_table_and_none() -> None:
    def proportional(shape: StepShape) -> np.ndarray:
        assert shape.prefill is not None
        return 1e-9 * np.asarray(shape.prefill.kv[1], dtype=float)

    made = KeyTable(1, proportional, extents=2, max_keys=4096)
    assert made.at(PrefillShape(0, 0, (0, 0), (0, 0))) == 0.0
    for keys in (1, 1000, 4096, 100_000):
        assert made.at(PrefillShape(1, 1, (0, 0), (7, keys))) == pytest.approx(1e-9 * keys)
