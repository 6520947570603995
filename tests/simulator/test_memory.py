"""The memory plan: what fits, what grows with what, and honest advice where nothing fits."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu, load_gpu
from simulator.graph import Precision, build_graph
from simulator.memory import MemoryPlan, plan_memory, weight_bytes_per_gpu
from workloads.attention import Dense
from workloads.model import Model, list_models, load_model

H200 = load_gpu("h200-sxm")
QWEN = load_model("Qwen/Qwen3-8B")
MODELS = [load_model(name) for name in list_models()]
PRECISIONS = [
    Precision(),
    Precision("fp8", "fp8", "fp8"),
    Precision("int4", "bf16", "bf16"),
    Precision("fp8", "fp8", "bf16"),
]


def plan(
    model: Model = QWEN,
    gpu: Gpu = H200,
    precision: Precision = Precision(),
    tensor: int = 1,
    *,
    page: int | None = None,
    utilisation: float = 0.9,
    block_size: int = 16,
    max_tokens: int = 8192,
    max_seqs: int = 256,
) -> MemoryPlan:
    return plan_memory(
        model,
        gpu,
        precision,
        tensor,
        page=page,
        utilisation=utilisation,
        block_size=block_size,
        max_tokens=max_tokens,
        max_seqs=max_seqs,
    )


def capacity(gigabytes: float) -> Gpu:
    return H200.with_values({"memory.capacity": gigabytes * 1e9})


def test_the_parts_add_up() -> None:
    for precision in PRECISIONS:
        p = plan(precision=precision)
        assert p.usable == 0.9 * H200.memory.capacity <= p.capacity
        assert p.weights + p.activations + p.graphs + p.context + p.kv == pytest.approx(p.usable, rel=1e-12)
        assert min(p.weights, p.activations, p.graphs, p.context, p.kv) > 0
        assert p.kv_tokens == p.kv_blocks * p.block_size
        assert p.kv_tokens * p.kv_bytes_per_token <= p.kv < (p.kv_tokens + p.block_size) * p.kv_bytes_per_token


@settings(max_examples=60, deadline=None)
@given(st.floats(30, 500), st.floats(0, 300), st.sampled_from(PRECISIONS), st.sampled_from([1, 16, 64]))
def test_more_memory_holds_more(gigabytes: float, more: float, precision: Precision, block_size: int) -> None:
    small = plan(gpu=capacity(gigabytes), precision=precision, block_size=block_size)
    large = plan(gpu=capacity(gigabytes + more), precision=precision, block_size=block_size)
    assert large.kv_blocks >= small.kv_blocks
    per_block = small.kv_bytes_per_token * block_size
    assert large.kv_blocks - small.kv_blocks == pytest.approx(0.9 * more * 1e9 / per_block, abs=1.01)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.3, 1.0), st.floats(0.3, 1.0))
def test_higher_utilisation_holds_more(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert plan(utilisation=low).kv_blocks <= plan(utilisation=high).kv_blocks


def test_what_takes_room() -> None:
    base = plan().kv_blocks
    assert plan(precision=Precision(kv="fp8")).kv_blocks == pytest.approx(2 * base, rel=1e-4)
    assert plan(precision=Precision(weights="int4")).kv_blocks > base
    assert plan(tensor=2).kv_tokens > 2 * base * 16  # half of the KV heads on each, and half of the weights
    assert plan(max_tokens=65_536).kv_blocks < base
    assert plan(max_seqs=16_384).kv_blocks < base
    assert plan(page=16).kv_blocks == pytest.approx(base / (1 + 1 / 32), rel=1e-4)


def test_more_gpus_than_kv_heads_keep_copies() -> None:
    assert QWEN.kv_heads == 8
    assert plan(tensor=8).kv_bytes_per_token == plan(tensor=16, gpu=load_gpu("gb200")).kv_bytes_per_token


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_weights_are_split_but_never_lost(model: Model) -> None:
    whole = weight_bytes_per_gpu(model, Precision(), 1)
    wider = 2 * model.parameter_counts()["router"] if model.moe and model.moe.router_dtype == "fp32" else 0
    assert whole == pytest.approx(model.parameters * 2 + wider, rel=1e-12)
    for tensor in (2, 4, 8):
        part = weight_bytes_per_gpu(model, Precision(), tensor)
        assert whole / tensor <= part < whole
    narrow = weight_bytes_per_gpu(model, Precision(weights="fp8"), 1)
    assert whole / 2 < narrow < whole  # tables and norms stay in 16 bits


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_advice_is_the_least_tensor_parallelism_that_works(model: Model) -> None:
    """On GPUs of all sizes: what is advised can be built and fits, and nothing smaller does."""
    advised = set()
    for gigabytes in (3, 6, 8, 9, 12, 16, 24, 40, 80, 110, 141, 288):
        gpu = capacity(gigabytes)
        possible = []
        for tensor in range(1, gpu.link.domain + 1):
            try:
                build_graph(model, Dense(), Precision(), tensor)
                plan(model, gpu, tensor=tensor)
            except InputError:
                continue
            possible.append(tensor)
        if 1 in possible:
            continue
        with pytest.raises(InputError) as caught:
            plan(model, gpu)
        error = caught.value
        assert error.place == "model" and "does not fit" in error.problem and model.name in error.problem
        assert error.allowed is not None
        advice = re.search(r"parallelism\.tensor = (\d+) or more", error.allowed)
        if possible:
            assert advice and int(advice[1]) == min(possible), f"{gigabytes} GB: {error}"
            advised.add(min(possible))
        else:
            assert advice is None and "no tensor parallelism within the 8 linked GPUs" in error.allowed
    assert advised
