"""Groups of fitted profiles: corrections without cliffs, and physics that stays monotone in every rate."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from madeprofiles import LABELS, LATTICES, RANGES, features, group, no_trees, random_trees, shapes

from hwspecs.gpu import Gpu, load_gpu
from simulator.fitted import CAP, ErrorBand, Group, band
from simulator.kernels.base import TERMS
from simulator.kernels.registry import LATTICE, MODELS

KINDS = list(MODELS)
RATES = ("clock", "peak", "memory", "l2", "link")
H200 = load_gpu("h200-sxm")


def faster(gpu: Gpu, **by: float) -> Gpu:
    """The GPU with rates multiplied; sizes and the number of SMs stay."""
    return replace(
        gpu,
        boost_clock=gpu.boost_clock * by.get("clock", 1),
        peak={name: rate * by.get("peak", 1) for name, rate in gpu.peak.items()},
        memory=replace(gpu.memory, bandwidth=gpu.memory.bandwidth * by.get("memory", 1)),
        l2=replace(gpu.l2, bandwidth=gpu.l2.bandwidth * by.get("l2", 1)),
        link=replace(gpu.link, bandwidth=gpu.link.bandwidth * by.get("link", 1)),
    )


@cache
def random_group(kind: str, seed: int = 1) -> Group:
    return group(kind, random_trees(kind, seed))


def one(kind: str, seed: int) -> dict[str, float]:
    """One shape, of numbers."""
    return {name: float(column[0]) for name, column in shapes(kind, seed, 1).items()}


# ---- the correction --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_at_lattice_points_the_correction_is_that_of_the_trees(kind: str) -> None:
    made, rng = random_group(kind), np.random.default_rng(0)
    at = shapes(kind, 5, 40)
    for name in LATTICE[kind]:
        at[name] = rng.choice(LATTICES[kind][name], 40)
    direct = np.clip(made.trees(features(kind, at)), -CAP, CAP)
    assert np.asarray(made.correction(at, H200)) == pytest.approx(direct, abs=1e-12)
    assert np.std(direct) > 0.05, "the trees do something"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if LATTICE[kind]])
def test_one_shape_a_vector_and_a_table_agree(kind: str) -> None:
    """Row by row (heads as arrays) and through the table of a lattice (heads as numbers) are the same interpolation."""
    made = random_group(kind)
    fixed = one(kind, 3)
    varied = {name: shapes(kind, 6, 30)[name] for name in LATTICE[kind]}
    by_table = made.correction({**fixed, **varied}, H200)
    rows = {name: np.full(30, value) for name, value in fixed.items()} | varied
    assert by_table == pytest.approx(np.asarray(made.correction(rows, H200)), abs=1e-12)
    single = [made.correction({**fixed, **{n: float(c[i]) for n, c in varied.items()}}, H200) for i in range(30)]
    assert all(np.ndim(value) == 0 for value in single)
    assert [float(value) for value in single] == pytest.approx(list(by_table), abs=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if LATTICE[kind]])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_cliffs_along_the_lattice(kind: str, data: st.DataObject) -> None:
    """A step of 1e-6 along context, batch, tokens or bytes changes the correction by about as little."""
    made = random_group(kind)
    name = data.draw(st.sampled_from(LATTICE[kind]))
    low, high = RANGES[kind][name]
    value = data.draw(st.floats(low, high) | st.sampled_from(LATTICES[kind][name].tolist()))
    shape = one(kind, data.draw(st.integers(0, 50)))
    here, there = (float(made.correction({**shape, name: value * by}, H200)) for by in (1 - 1e-6, 1 + 1e-6))
    steepest = 2 * CAP / math.log(1.5)
    assert abs(there - here) <= steepest * 4e-6


@pytest.mark.parametrize("kind", KINDS)
def test_beyond_its_ranges_the_correction_stays_and_the_physics_goes_on(kind: str) -> None:
    made = random_group(kind)
    shape = one(kind, 2)
    name = next(n for n in ("batch", "tokens", "rows", "bytes", "m") if n in RANGES[kind])
    edge = {**shape, name: RANGES[kind][name][1]}
    beyond = {**shape, name: 64 * RANGES[kind][name][1]}
    assert float(made.correction(beyond, H200)) == float(made.correction(edge, H200))
    assert float(made.estimate(beyond, H200).seconds) > 10 * float(made.estimate(edge, H200).seconds)
    assert made.inside(edge) and not made.inside(beyond)


def test_inside_counts_the_edges_and_every_column() -> None:
    made = group("collective")
    found = made.inside({"gpus": np.array([2, 8, 16, 4, 4.0]), "bytes": np.array([256, 2.0**30, 1024, 255, 2.0**31])})
    assert found.tolist() == [True, True, False, False, False]


def test_the_correction_is_capped() -> None:
    for base in (-9.0, 9.0):
        made = group("gemm", no_trees(base))
        assert float(made.correction(one("gemm", 0), H200)) == math.copysign(CAP, base)


def test_a_pooled_group_takes_the_features_of_the_kernel_it_stands_for() -> None:
    made = replace(random_group("attention_decode", 4), label={"kernel": "pooled", "dtype": "bf16", "kv_dtype": "bf16"})
    at = shapes("attention_decode", 5, 200)
    for name in LATTICE["attention_decode"]:
        at[name] = np.random.default_rng(0).choice(LATTICES["attention_decode"][name], 200)
    label = {"kernel": "triton", "dtype": "bf16", "kv_dtype": "bf16"}
    expected = np.clip(made.trees(features("attention_decode", at, label=label)), -CAP, CAP)
    assert np.asarray(made.correction(at, H200, label)) == pytest.approx(expected, abs=1e-12)
    assert not np.allclose(expected, np.asarray(made.correction(at, H200)))
    plain = group("attention_decode", no_trees())
    ratio = made.estimate(at, H200, label=label).terms.latency / plain.estimate(at, H200, label=label).terms.latency
    assert ratio == pytest.approx(np.exp(expected))


def test_tables_are_kept_apart_by_gpu_and_label() -> None:
    """One group asked for several GPUs and kernels in turn answers as if asked for each alone."""
    shared = random_group("attention_decode", 7)
    shape = one("attention_decode", 1)
    labels = [{**LABELS["attention_decode"], "kernel": kernel} for kernel in ("fa3", "triton", "torch_flow")]
    asked = [(load_gpu(name), label) for name in ("h200-sxm", "a100-sxm", "b200-sxm") for label in labels]
    first = [float(shared.correction(shape, gpu, label)) for gpu, label in asked]
    alone = [float(group("attention_decode", shared.trees).correction(shape, gpu, label)) for gpu, label in asked]
    assert first == alone


# ---- physics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), rate=st.sampled_from(RATES), by=st.floats(1.0, 8.0))
def test_a_higher_rate_is_never_slower(kind: str, seed: int, rate: str, by: float) -> None:
    made, at = random_group(kind), shapes(kind, seed, 30)
    for cold in (False, True):
        before = np.asarray(made.estimate(at, H200, cold=cold).seconds)
        after = np.asarray(made.estimate(at, faster(H200, **{rate: by}), cold=cold).seconds)
        assert (after <= before * (1 + 1e-12)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_twice_all_rates_halve_all_but_the_latency(kind: str) -> None:
    at = shapes(kind, 8, 300)
    made = random_group(kind)
    slow, quick = (made.estimate(at, faster(H200, **dict.fromkeys(RATES, k))) for k in (1.0, 2.0))
    sharpness = made.constants["sharpness"]
    for estimate in (slow, quick):  # nothing here is faster than the roof allows
        estimate.terms.seconds(sharpness)
    assert np.broadcast_to(quick.terms.latency, 300) == pytest.approx(np.broadcast_to(slow.terms.latency, 300))
    for fast, part in zip(quick.terms[1:], slow.terms[1:], strict=True):
        assert np.broadcast_to(fast, 300) == pytest.approx(np.broadcast_to(part, 300) / 2)
    free = np.asarray(slow.seconds) > np.asarray(MODELS[kind].roof(at, made.label, H200)) * (1 + 1e-9)
    twice = faster(H200, **dict.fromkeys(RATES, 2.0))
    free &= np.asarray(quick.seconds) > np.asarray(MODELS[kind].roof(at, made.label, twice)) * (1 + 1e-9)
    assert free.mean() > 0.5
    rest = [(np.asarray(e.seconds) - np.asarray(e.terms.latency))[free] for e in (slow, quick)]
    assert rest[1] == pytest.approx(rest[0] / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_roof_is_never_beaten(kind: str) -> None:
    at = shapes(kind, 9, 400)
    made = group(kind, no_trees(-CAP))
    seconds = np.asarray(made.estimate(at, H200).seconds)
    roof = np.broadcast_to(np.asarray(MODELS[kind].roof(at, made.label, H200)), 400)
    assert (seconds >= roof).all()
    assert (seconds == roof).any(), "an eighth of the physics does meet the roof"


@pytest.mark.parametrize("kind", KINDS)
def test_cold_operands_are_never_quicker(kind: str) -> None:
    at, made = shapes(kind, 10, 400), random_group(kind)
    warm, cold = (np.asarray(made.estimate(at, H200, cold=c).seconds) for c in (False, True))
    assert (cold >= warm * (1 - 1e-12)).all()
    if "resident" in made.constants:
        assert (cold > warm * 1.001).any()
    else:
        assert np.array_equal(cold, warm)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_give_what_arrays_give(kind: str) -> None:
    at, made = shapes(kind, 11, 12), random_group(kind)
    many = made.estimate(at, H200)
    for i in range(12):
        single = made.estimate({name: float(column[i]) for name, column in at.items()}, H200)
        assert float(single.seconds) == pytest.approx(float(many.seconds[i]), rel=1e-9)
        assert int(single.bound()) == int(np.broadcast_to(many.bound(), 12)[i])


def test_bound_names_the_largest_part() -> None:
    estimate = group("gemm", no_trees()).estimate(
        {"m": np.array([1.0, 8192, 1]), "n": np.array([64.0, 65536, 65536]), "k": np.array([64.0, 16384, 16384])}, H200
    )
    assert [TERMS[i] for i in estimate.bound()] == ["overhead", "compute", "memory"]


def test_a_regime_without_a_band_takes_that_of_all() -> None:
    every, memory = ErrorBand(-0.1, 0.1, 0.05, 100), ErrorBand(-0.2, 0.3, 0.1, 50)
    errors = {"all": every, "memory": memory}
    assert band(errors, TERMS.index("memory")) == memory
    assert band(errors, TERMS.index("compute")) == every
