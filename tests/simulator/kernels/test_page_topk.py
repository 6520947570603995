"""The physics of page scores and their selection: counts by hand, and what must hold whatever is fitted."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.gpu import Gpu, load_gpu
from simulator.kernels.page_topk import PAGE_TOPK

H200 = load_gpu("h200-sxm")
SCORES = {"kernel": "triton", "op": "scores", "dtype": "bf16", "kv_dtype": "bf16"}
SELECT = SCORES | {"op": "select"}
STEP = {
    "batch": 64.0, "context_len": 32768.0, "q_heads": 32.0, "kv_heads": 8.0, "head_dim": 128.0, "page": 16.0,
    "budget": 1024.0,
}  # fmt: skip
START = {name: constant.start for name, constant in PAGE_TOPK.constants.items()} | {"resident": 1e-3}
BOTH = pytest.mark.parametrize("label", [SCORES, SELECT], ids=["scores", "select"])
LABELS = st.sampled_from([SCORES, SELECT, SCORES | {"kv_dtype": "fp8"}])
SHAPES = st.builds(
    lambda batch, context, kv, group: (
        STEP | {"batch": batch, "context_len": context, "kv_heads": kv, "q_heads": kv * group}
    ),
    st.integers(1, 300), st.integers(1, 140_000), st.sampled_from([1, 4, 8]), st.sampled_from([1, 2, 4, 8, 32]),
)  # fmt: skip


def seconds(shape: dict[str, Any], label: dict[str, str], gpu: Gpu = H200, **constants: float) -> Any:
    return PAGE_TOPK.terms(shape, label, gpu, START | constants).seconds(START["sharpness"])


def faster(gpu: Gpu, by: float, *which: str) -> Gpu:
    every = ("memory", "l2", "peak", "clock")
    of = dict.fromkeys(which or every, by)
    return dataclasses.replace(
        gpu,
        memory=dataclasses.replace(gpu.memory, bandwidth=gpu.memory.bandwidth * of.get("memory", 1.0)),
        l2=dataclasses.replace(gpu.l2, bandwidth=gpu.l2.bandwidth * of.get("l2", 1.0)),
        peak={name: rate * of.get("peak", 1.0) for name, rate in gpu.peak.items()},
        boost_clock=gpu.boost_clock * of.get("clock", 1.0),
    )


def test_counts_by_hand() -> None:
    # 2,048 pages a sequence; a bf16 summary of 128 a KV head and page, an fp32 score a query head and page.
    summaries, scores = 64 * 8 * 2048 * 128 * 2, 64 * 32 * 2048 * 4
    work = PAGE_TOPK.work(STEP, SCORES, H200)
    assert work.l2_bytes == summaries + scores + 64 * 32 * 128 * 2
    assert work.flops == 2 * 64 * 8 * 2048 * 16 * 128, "the group of 4 is padded to 16"
    assert work.hbm_bytes == pytest.approx(summaries, rel=0.2)
    assert PAGE_TOPK.work(STEP, SELECT, H200).l2_bytes == scores
    assert PAGE_TOPK.roof(STEP, SCORES, H200) == pytest.approx(summaries / H200.l2.bandwidth)


def test_scores_of_much_kv_are_bound_by_memory() -> None:
    wide = STEP | {"context_len": 131072.0}
    found = PAGE_TOPK.terms(wide, SCORES, H200, START)
    assert found.memory > 1.5 * max(found.compute, found.l2)
    assert seconds(wide, SCORES) / seconds(wide, SCORES, faster(H200, 2.0, "memory")) > 1.4


def test_selection_is_a_rows_own_work() -> None:
    """As long for 132 rows as for one, and longer with the pages."""
    alone = STEP | {"batch": 1.0, "kv_heads": 1.0, "q_heads": 4.0}
    full = alone | {"batch": 132.0}
    flat = {"sort": 0.0, "padded": 0.0, "uneven": 0.0}
    one, all_ = (PAGE_TOPK.terms(s, SELECT, H200, START | flat).compute for s in (alone, full))
    assert one == pytest.approx(all_)
    clocks = START["row"] + 2048 * START["page"] + 64 * START["pick"]
    assert one == pytest.approx(clocks / H200.boost_clock)
    longer = PAGE_TOPK.terms(alone | {"context_len": 65536.0}, SELECT, H200, START | flat).compute
    assert longer - one == pytest.approx(2048 * START["page"] / H200.boost_clock)


def test_fewer_pages_than_the_budget_are_all_there_is_to_pick() -> None:
    short = STEP | {"context_len": 160.0, "batch": 1.0}
    some, none = (PAGE_TOPK.terms(short, SELECT, H200, START | {"pick": pick}).compute for pick in (1000.0, 0.0))
    assert some - none == pytest.approx(10 * 1000 / H200.boost_clock)


@settings(max_examples=80, deadline=None)
@given(SHAPES, LABELS, st.floats(1.01, 4.0), st.sampled_from(["memory", "l2", "peak", "clock"]))
def test_no_rate_makes_it_slower(shape: dict[str, Any], label: dict[str, str], by: float, rate: str) -> None:
    assert seconds(shape, label, faster(H200, by, rate)) <= seconds(shape, label) * (1 + 1e-12)


@settings(max_examples=80, deadline=None)
@given(SHAPES, LABELS)
def test_all_rates_twice_halve_all_but_the_latency(shape: dict[str, Any], label: dict[str, str]) -> None:
    one, two = (PAGE_TOPK.terms(shape, label, gpu, START) for gpu in (H200, faster(H200, 2.0)))
    assert two.latency == one.latency
    assert two.busy(3.0) == pytest.approx(one.busy(3.0) / 2)


@settings(max_examples=80, deadline=None)
@given(SHAPES, LABELS)
def test_more_context_or_sequences_are_not_quicker(shape: dict[str, Any], label: dict[str, str]) -> None:
    for name in ("context_len", "batch"):
        more = shape | {name: shape[name] + 1}
        assert seconds(more, label) >= seconds(shape, label) * (1 - 1e-12)


@settings(max_examples=60, deadline=None)
@given(SHAPES, LABELS)
def test_features_know_no_rate_and_the_roof_is_not_beaten(shape: dict[str, Any], label: dict[str, str]) -> None:
    here, there = (PAGE_TOPK.features(shape, label, gpu) for gpu in (H200, faster(H200, 3.0)))
    assert np.array_equal(here, there) and len(here) == len(PAGE_TOPK.names) and np.isfinite(here).all()
    assert seconds(shape, label) >= PAGE_TOPK.roof(shape, label, H200)


@BOTH
def test_arrays_broadcast_as_a_steps_knots_do(label: dict[str, str]) -> None:
    batch, context = np.arange(1, 9)[:, None], np.array([[1.0, 16.0, 5000.0]])
    many = seconds(STEP | {"batch": batch, "context_len": context}, label)
    assert many.shape == (8, 3)
    for i, j in ((0, 0), (7, 2), (3, 1)):
        one = seconds(STEP | {"batch": float(batch[i, 0]), "context_len": float(context[0, j])}, label)
        assert many[i, j] == pytest.approx(float(one), rel=1e-12)
