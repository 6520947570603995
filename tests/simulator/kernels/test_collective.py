"""The physics of collectives: what must hold whatever is fitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwspecs.gpu import Gpu, load_gpu
from simulator.kernels.collective import COLLECTIVE

H200, A100, L40S = load_gpu("h200-sxm"), load_gpu("a100-sxm"), load_gpu("l40s")
START = {name: c.start for name, c in COLLECTIVE.constants.items()}
KERNELS = ("nccl", "TRTLLM", "vLLM_custom_graph", "vLLM_custom_eager", "SGLang_CustomAllReduce_graph")
OPS = ("all_reduce", "all_gather", "reduce_scatter", "alltoall")
MIB = 2.0**20


def label(kernel: str = "nccl", op: str = "all_reduce", dtype: str = "fp16") -> dict[str, str]:
    return {"kernel": kernel, "op": op, "dtype": dtype}


def seconds(gpus: Any, size: Any, names: dict[str, str], gpu: Gpu = H200) -> np.ndarray:
    terms = COLLECTIVE.terms({"gpus": gpus, "bytes": size}, names, gpu, START)
    return np.asarray(terms.seconds(START["sharpness"]))


def grid() -> dict[str, np.ndarray]:
    gpus, size = np.meshgrid([2.0, 4.0, 8.0], 2.0 ** np.arange(8, 31))
    return {"gpus": gpus.ravel(), "bytes": size.ravel()}


def test_tiny_messages_cost_latency_and_huge_ones_bandwidth() -> None:
    names = label(op="all_gather")
    assert seconds(8, 1024, names) == pytest.approx(seconds(8, 512, names), rel=0.05)
    assert seconds(8, 2.0**34, names) / seconds(8, 2.0**33, names) == pytest.approx(2, rel=0.05)


def test_more_gpus_take_more_steps() -> None:
    for op in OPS:
        times = [float(seconds(n, 1024, label(op=op))) for n in (2, 4, 8, 16, 72)]
        assert times == sorted(times)


def test_an_all_reduce_moves_twice_what_an_all_gather_does() -> None:
    big = 2.0**33
    ring = COLLECTIVE.terms({"gpus": 4.0, "bytes": big}, label(), H200, START).link
    gather = COLLECTIVE.terms({"gpus": 4.0, "bytes": big}, label(op="all_gather"), H200, START).link
    assert ring == pytest.approx(2 * gather)


def test_the_switch_reduces_floating_point_on_hopper_only() -> None:
    def link(gpu: Gpu, dtype: str) -> float:
        return float(COLLECTIVE.terms({"gpus": 8.0, "bytes": 2.0**30}, label(dtype=dtype), gpu, START).link)

    assert link(H200, "fp16") < link(H200, "int8")
    assert link(A100, "fp16") == link(A100, "int8")


def test_engines_hand_large_messages_to_nccl() -> None:
    for kernel in KERNELS[1:]:
        if kernel.endswith("eager"):
            continue
        assert seconds(8, 2.0**30, label(kernel)) == pytest.approx(seconds(8, 2.0**30, label()))
        assert seconds(8, 2.0**14, label(kernel)) < seconds(8, 2.0**14, label())


def test_a_pcie_card_has_no_all_reduce_of_the_engine_beyond_two() -> None:
    for gpus in (4, 8):
        assert seconds(gpus, 2.0**14, label("vLLM_custom_graph"), L40S) == seconds(gpus, 2.0**14, label(), L40S)


def test_eager_copies_the_message_first() -> None:
    slow = H200.with_values({"memory.bandwidth": H200.memory.bandwidth / 2})
    eager, graph = label("vLLM_custom_eager"), label("vLLM_custom_graph")
    assert seconds(8, 2.0**30, eager, slow) > seconds(8, 2.0**30, eager) > seconds(8, 2.0**30, graph)
    assert seconds(8, 2.0**30, graph, slow) == seconds(8, 2.0**30, graph)


@pytest.mark.parametrize("kernel", KERNELS)
def test_all_rates_doubled_halve_everything_but_the_latency(kernel: str) -> None:
    double = H200.with_values(
        {"memory.bandwidth": 2 * H200.memory.bandwidth, "link.bandwidth": 2 * H200.link.bandwidth}
    )
    shape = grid()
    slow, fast = (COLLECTIVE.terms(shape, label(kernel), gpu, START) for gpu in (H200, double))
    assert np.allclose(slow.busy(3.0), 2 * fast.busy(3.0))
    assert np.array_equal(slow.latency, fast.latency)
    assert np.all(fast.seconds(3.0) <= slow.seconds(3.0))


@pytest.mark.parametrize("op", OPS)
def test_more_bytes_never_take_less_time_with_nccl(op: str) -> None:
    size = 2.0 ** np.linspace(8, 34, 300)
    for gpus in (2, 3, 8, 72):
        assert np.all(np.diff(seconds(gpus, size, label(op=op))) >= 0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_beats_the_roof(kernel: str) -> None:
    shape = grid()
    time = COLLECTIVE.terms(shape, label(kernel), H200, START).seconds(3.0)
    assert np.all(COLLECTIVE.roof(shape, label(kernel), H200) <= time)


def test_features_hold_no_rate_and_numbers_are_as_good_as_arrays() -> None:
    shape, names = grid(), label("TRTLLM")
    other = H200.with_values({"memory.bandwidth": 9e12, "link.bandwidth": 9e11, "l2.bandwidth": 3e13})
    features = COLLECTIVE.features(shape, names, H200)
    for name, mine, theirs in zip(COLLECTIVE.names, features, COLLECTIVE.features(shape, names, other), strict=True):
        assert np.array_equal(mine, theirs), name
    times = seconds(shape["gpus"], shape["bytes"], names)
    for i in range(times.size):
        one = {name: float(column[i]) for name, column in shape.items()}
        assert seconds(one["gpus"], one["bytes"], names) == pytest.approx(times[i])
        alone = [float(np.asarray(f)) for f in COLLECTIVE.features(one, names, H200)]
        assert alone == pytest.approx([float(f[i]) for f in features])
        assert np.isfinite(COLLECTIVE.work(one, names, H200).hbm_bytes)


def test_several_nodes_by_hand() -> None:
    """Two nodes of eight H200: a ring moves 15/16 of a gathered GiB through each of 16 GPUs, of which each adapter
    passes an eighth, at 0.98 x 50 GB/s; the message takes one step of 2.7 us up the tree, an all-reduce two.
    """
    shape = {"gpus": 16.0, "bytes": 2.0**30}
    for op, times in (("all_gather", 1), ("all_reduce", 2)):
        one, two = (COLLECTIVE.terms(shape | more, label(op=op), H200, START) for more in ({}, {"nodes": 2.0}))
        network = times * 15 / 16 * 2**30 / 8 / (0.98 * 50e9)
        assert float(two.link) == pytest.approx(max(float(one.link), network))
        assert float(two.latency) - float(one.latency) == pytest.approx(times * 2.7e-6)
    slow = H200.with_values({"scale_out.bandwidth": 5e9})
    assert float(COLLECTIVE.terms(shape | {"nodes": 2.0}, label(op="all_gather"), slow, START).link) == pytest.approx(
        15 / 16 * 2**30 / 8 / (0.98 * 5e9)
    )
