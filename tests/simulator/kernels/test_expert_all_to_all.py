"""The physics of dispatch and combine: counts worked by hand, and what must hold whatever is fitted."""

from __future__ import annotations

import dataclasses
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu, load_gpu
from simulator.kernels.expert_all_to_all import BEYOND, EXPERT_ALL_TO_ALL, destinations, reached

H200, GB200 = load_gpu("h200-sxm"), load_gpu("gb200")
START = {name: c.start for name, c in EXPERT_ALL_TO_ALL.constants.items()}
QWEN = {"ep": 8.0, "nodes": 1.0, "hidden": 4096.0, "top_k": 8.0, "experts": 128.0, "tokens": 4096.0, "sms": 20.0}
KIMI = QWEN | {"hidden": 7168.0, "experts": 384.0}


def named(kernel: str, phase: str = "dispatch", dtype: str = "bf16") -> dict[str, str]:
    return EXPERT_ALL_TO_ALL.label_of({"kernel": kernel, "phase": phase, "dtype": dtype})


HIGH, LOW = named("deepep_ht"), named("deepep_ll")
EACH = pytest.mark.parametrize(
    "label",
    [HIGH, LOW, named("deepep_ht", "combine"), named("trtllm_deepep_ll", "combine", "fp4"), named("x", dtype="nvfp4")],
    ids=lambda label: "-".join(label.values()),
)


def terms(shape: dict[str, Any], label: dict[str, str], gpu: Gpu = H200) -> Any:
    return EXPERT_ALL_TO_ALL.terms(shape, label, gpu, START)


def link(shape: dict[str, Any], label: dict[str, str], gpu: Gpu = H200) -> float:
    """Seconds of the bytes alone, as if SMs copied at once."""
    return float(EXPERT_ALL_TO_ALL.terms(shape, label, gpu, START | {"copy": 1e9}).link)


def seconds(shape: dict[str, Any], label: dict[str, str], gpu: Gpu = H200) -> Any:
    return np.asarray(terms(shape, label, gpu).seconds(3.0))


def grid() -> dict[str, np.ndarray]:
    tokens, ep, hidden = (a.ravel() for a in np.meshgrid(4.0 ** np.arange(9), [2.0, 8.0, 16.0, 64.0], [2048.0, 7168.0]))
    full = {name: np.full(tokens.size, value) for name, value in QWEN.items()}
    return full | {"tokens": tokens, "ep": ep, "hidden": hidden}


def test_the_kernels_name_says_the_mode() -> None:
    kernels = ("deepep_ht", "deepep_v2_context", "trtllm_deepep_ll", "deepep_v2_generation", "deepep_low_latency")
    assert [named(kernel)["mode"] for kernel in kernels] == ["ht", "ht", "ll", "ll", "ll"]


def test_gpus_that_a_token_goes_to() -> None:
    # 2 of 4 experts on 2 GPUs are on the same one in 2 of 6 cases: 2 (1 - C(2, 2) / C(4, 2)) = 5/3.
    assert float(reached(2, 2, 4)) == pytest.approx(5 / 3)
    assert float(reached(8, 8, 128)) == pytest.approx(8 * (1 - comb(112, 8) / comb(128, 8)))
    assert float(reached(1, 8, 128)) == 1.0
    # One expert a GPU, and one expert a token.
    assert float(reached(128, 8, 128)) == pytest.approx(8)
    assert float(reached(16, 1, 128)) == pytest.approx(1)


def test_deepseek_takes_experts_of_four_groups() -> None:
    # Scores drawn at random, the four groups with the largest sums of two, the best eight of these: the mean GPUs.
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 8, 32))
    best = np.argsort(-np.sort(scores, axis=2)[..., -2:].sum(axis=2), axis=1)[:, 4:]
    np.put_along_axis(scores, best[..., None], -99.0, axis=1)
    chosen = np.argsort(-scores.reshape(-1, 256), axis=1)[:, :8]
    for ep in (4, 8, 16, 32, 64):
        drawn = np.mean([len(set(row)) for row in chosen // (256 // ep)])
        assert float(destinations(ep, 7168, 8, 256)) == pytest.approx(drawn, rel=0.08), ep
    assert float(destinations(8, 7168, 8, 384)) == pytest.approx(float(reached(8, 8, 384)))


def test_bytes_over_the_link_by_hand() -> None:
    # High throughput: 4,096 tokens to 8 (1 - C(112, 8) / C(128, 8)) GPUs, 7/8 of them others, rows of 4,096 x 2 bytes.
    copies = 8 * (1 - comb(112, 8) / comb(128, 8)) * 7 / 8
    assert link(QWEN, HIGH) == pytest.approx(4096 * copies * 8192 / (0.7 * 450e9))
    # Low latency: one for each of 8 experts, 7/8 of them on others.
    assert link(QWEN, LOW) == pytest.approx(4096 * 7 * 8192 / (0.7 * 450e9))


def test_beyond_the_domain_the_network_bounds() -> None:
    # 16 GPUs, two domains of 8. A token has experts in 2 (1 - C(64, 8) / C(128, 8)) of the two, one half of them away.
    away = 1 - comb(64, 8) / comb(128, 8)
    wide = QWEN | {"ep": 16.0, "nodes": 2.0}
    assert link(wide, HIGH) == pytest.approx(4096 * away * 8192 / (BEYOND["ht"] * 50e9))
    # Low latency: half of 8 messages a token.
    assert link(wide, LOW) == pytest.approx(4096 * 4 * 8192 / (BEYOND["ll"] * 50e9))
    assert float(terms(wide, HIGH).latency) > float(terms(QWEN, HIGH).latency) - START["wait"]


def test_deepep_s_own_table_of_low_latency() -> None:
    # github.com/deepseek-ai/DeepEP, docs/legacy.md: 128 tokens, hidden 7,168 in fp8, 8 experts, H800 (NVLink, and 50
    # GB/s of InfiniBand): seconds of dispatch by GPUs. What is left after the bytes is a latency of a few tens.
    h800 = dataclasses.replace(H200, link=dataclasses.replace(H200.link, bandwidth=200e9))
    for ep, measured in ((16, 118e-6), (32, 155e-6), (64, 173e-6), (128, 192e-6), (256, 194e-6)):
        shape = KIMI | {"ep": float(ep), "experts": 256.0, "nodes": ep / 8, "tokens": 128.0}
        left = measured - link(shape, named("deepep_ll", dtype="fp8_block"), h800)
        assert 0 < left < 30e-6, ep


def test_a_rack_is_one_domain() -> None:
    wide = QWEN | {"ep": 64.0, "nodes": 16.0}  # of four GPUs
    assert float(terms(wide, HIGH, GB200).latency) == pytest.approx(float(terms(QWEN, HIGH, GB200).latency))
    assert seconds(wide, HIGH, GB200) < seconds(wide | {"nodes": 8.0}, HIGH, H200)


def test_without_a_network_no_group_leaves_its_domain() -> None:
    alone = dataclasses.replace(H200, scale_out=None)
    assert seconds(QWEN, HIGH, alone) == seconds(QWEN, HIGH)
    with pytest.raises(InputError, match="no link between domains of 8 GPUs"):
        seconds(QWEN | {"ep": 16.0}, HIGH, alone)


@given(
    st.sampled_from([8.0, 16.0, 32.0, 64.0]), st.integers(1, 65536), st.integers(1, 16),
    st.sampled_from([HIGH, LOW, named("deepep_ht", "combine"), named("deepep_ll", dtype="nvfp4")]),
)  # fmt: skip
def test_a_domain_that_is_cut_is_never_quicker(ep: float, tokens: int, top_k: int, label: dict[str, str]) -> None:
    shape = KIMI | {"ep": ep, "tokens": float(tokens), "top_k": float(top_k)}
    cut = dataclasses.replace(GB200, link=dataclasses.replace(GB200.link, domain=8))
    assert seconds(shape | {"nodes": ep / 8}, label, cut) >= seconds(shape, label, GB200)


def test_more_copiers_are_quicker_with_high_throughput_only() -> None:
    more = KIMI | {"sms": 64.0}
    assert seconds(more, HIGH) < seconds(KIMI, HIGH)
    assert seconds(more, LOW) == seconds(KIMI, LOW)
    assert seconds(KIMI | {"sms": 0.0}, HIGH) == seconds(KIMI, HIGH)  # DeepEP's default


def test_fewer_bits_are_fewer_bytes_but_in_combine() -> None:
    assert link(KIMI, named("d_ht", dtype="nvfp4")) < 0.3 * link(KIMI, HIGH)
    assert link(KIMI, named("d_ht", "combine", "nvfp4")) == link(KIMI, named("d_ht", "combine"))


def test_the_hosts_wait_hides_behind_many_messages() -> None:
    few, many = terms(KIMI | {"tokens": 1.0}, HIGH), terms(KIMI | {"tokens": 65536.0}, HIGH)
    assert float(few.latency) - float(many.latency) == pytest.approx(START["wait"], rel=0.01)
    graph = START | EXPERT_ALL_TO_ALL.in_graph
    alone = EXPERT_ALL_TO_ALL.terms(KIMI | {"tokens": 1.0}, LOW, H200, graph)
    assert float(alone.latency) == pytest.approx(30e-6, rel=0.3)
    assert float(alone.latency) < float(terms(KIMI | {"tokens": 1.0}, LOW).latency)


@EACH
@pytest.mark.parametrize("what", ["memory", "link", "scale_out", "clock"])
def test_a_quicker_part_never_makes_it_slower(label: dict[str, str], what: str) -> None:
    if what == "clock":
        gpu = dataclasses.replace(H200, boost_clock=2 * H200.boost_clock)
    else:
        part = getattr(H200, what)
        gpu = dataclasses.replace(H200, **{what: dataclasses.replace(part, bandwidth=2 * part.bandwidth)})
    shape = grid()
    assert np.all(seconds(shape, label, gpu) <= seconds(shape, label) * (1 + 1e-12))


@EACH
def test_nothing_beats_the_roof_and_more_tokens_take_no_less(label: dict[str, str]) -> None:
    shape = grid()
    quickest = {name: c.high if name in ("copy", "link") else c.low for name, c in EXPERT_ALL_TO_ALL.constants.items()}
    time = EXPERT_ALL_TO_ALL.terms(shape, label, H200, quickest).seconds(3.0)
    assert np.all(EXPERT_ALL_TO_ALL.roof(shape, label, H200) <= time)
    tokens = np.arange(1.0, 3000.0)
    more = {name: np.full(tokens.size, value) for name, value in KIMI.items()} | {"tokens": tokens}
    assert np.all(np.diff(seconds(more, label)) >= -1e-12)


@EACH
def test_features_hold_no_rate_and_numbers_are_as_good_as_arrays(label: dict[str, str]) -> None:
    shape, other = grid(), dataclasses.replace(H200, boost_clock=3e9)
    features = EXPERT_ALL_TO_ALL.features(shape, label, H200)
    for mine, theirs in zip(features, EXPERT_ALL_TO_ALL.features(shape, label, other), strict=True):
        assert np.array_equal(mine, theirs)
    times = seconds(shape, label)
    for i in range(0, times.size, 7):
        one = {name: float(column[i]) for name, column in shape.items()}
        assert seconds(one, label) == pytest.approx(times[i])
        alone = [float(np.asarray(f)) for f in EXPERT_ALL_TO_ALL.features(one, label, H200)]
        assert alone == pytest.approx([float(f[i]) for f in features])
        work = EXPERT_ALL_TO_ALL.work(one, label, H200)
        assert 0 <= float(np.asarray(work.active)) <= 1
