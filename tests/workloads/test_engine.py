"""Engines' parameter sets: what a scenario gets from them, by version and by GPU, and what it keeps of its own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs.errors import InputError
from workloads.engine import Engine, Host, engine_set, list_engines, resolve_engine
from workloads.scenario import load_scenario

BIG, SMALL = 141e9, 48e9
BASE = {
    "gpu": "h200-sxm",
    "model": "qwen3-8b",
    "workload": {"strategy": "chat", "requests": 4, "prompt_tokens": 64, "output_tokens": 8},
}


def loaded(engine: Any, **more: Any) -> Engine:
    return load_scenario({**BASE, "engine": engine, **more}).config.engine


def test_the_bundled_engines() -> None:
    assert list_engines() == ["sglang", "trtllm", "vllm"]
    for name in list_engines():
        found = engine_set(name)
        assert found.note == "" and found.title
        resolved = resolve_engine(Engine(name=name), BIG)
        assert resolved.host != Host() and resolved.cuda_graphs is not None


def test_a_name_alone_is_an_engine() -> None:
    assert loaded("trtllm") == loaded({"name": "trtllm"})
    assert loaded("trtllm").block_size == 32
    assert load_scenario({**BASE, "engine": "vllm"}, ["engine.block_size=32"]).config.engine.block_size == 32


def test_no_name_is_an_idealised_engine() -> None:
    assert loaded({}) == loaded("none")
    assert loaded({}).host == Host() and loaded({}).cuda_graphs is None


def test_what_the_user_says_comes_first() -> None:
    engine = loaded({"name": "vllm", "max_num_seqs": 7, "host": {"step": "3 ms"}})
    assert engine.max_num_seqs == 7 and engine.host.step == 3e-3
    assert engine.host.sequence == loaded("vllm").host.sequence > 0


def test_versions_change_settings() -> None:
    """vLLM schedules asynchronously by default from 0.14.0 on: less of its host's time is the GPU's."""
    before, after = (resolve_engine(Engine(name="vllm", version=v), BIG) for v in ("0.13.0", "0.14.0"))
    assert before.host.step > after.host.step
    newest = resolve_engine(Engine(name="vllm", version="99"), BIG)
    assert resolve_engine(Engine(name="vllm"), BIG) == newest.model_copy(update={"version": None})


def test_an_unknown_version_is_the_nearest_and_says_so() -> None:
    newest, oldest = engine_set("vllm"), engine_set("vllm", "0.10.2")
    assert engine_set("vllm", "99.0").settings == newest.settings
    assert "99.0 is not known: taken as" in engine_set("vllm", "99.0").note
    assert engine_set("vllm", "0.1").settings == oldest.settings
    assert "nightly-5b8c30 is no version number" in engine_set("vllm", "nightly-5b8c30").note
    assert engine_set("vllm", "0.12.0").note == ""


def test_small_gpus_have_smaller_batches() -> None:
    assert resolve_engine(Engine(name="vllm"), SMALL).max_num_batched_tokens == 2048
    assert resolve_engine(Engine(name="sglang"), SMALL).max_num_batched_tokens == 4096
    assert loaded("vllm", gpu="l40s").max_num_batched_tokens == 2048
    graphs = [resolve_engine(Engine(name="sglang", version="0.5.1"), size).cuda_graphs for size in (SMALL, BIG, 180e9)]
    assert [found.all_sizes[-1] for found in graphs if found] == [160, 256, 512]


def test_older_gpus_have_smaller_batches_and_kernels_apart() -> None:
    """vLLM takes A100s of 80 GB for small ones, and FlashInfer's all-reduce with a norm begins with Hopper."""
    old, new = (loaded("vllm", gpu=gpu) for gpu in ("a100-sxm", "h100-sxm"))
    assert (old.max_num_batched_tokens, old.max_num_seqs) == (2048, 256) and new.max_num_batched_tokens == 8192
    assert (old.fused_rows, new.fused_rows) == ("none", "all_reduce")
    assert loaded({"name": "vllm", "version": "0.16.0"}).fused_rows == "none"


def test_graph_sizes() -> None:
    vllm = resolve_engine(Engine(name="vllm", version="0.11.0"), BIG).cuda_graphs
    assert vllm is not None
    assert vllm.all_sizes[:6] == (1, 2, 4, 8, 16, 24) and vllm.all_sizes[-1] == 512 and len(vllm.all_sizes) == 67


@pytest.mark.parametrize(
    ("engine", "place", "found"),
    [
        ("vlm", "engine.name", "vlm"),
        ({"name": "vllm", "host": {"step": "-1 ms"}}, "engine.host.step", "-1 ms"),
        ({"name": "vllm", "host": {"steps": "1 ms"}}, "engine.host.steps", "steps"),
        ({"cuda_graphs": {"sizes": []}}, "engine.cuda_graphs.sizes", "[]"),
        ({"cuda_graphs": {"sizes": [0]}}, "engine.cuda_graphs.sizes[0]", "0"),
        ({"reserve_output": 1.5}, "engine.reserve_output", "1.5"),
        ({"prefill": "last"}, "engine.prefill", "last"),
    ],
)
def test_bad_input(engine: Any, place: str, found: str) -> None:
    with pytest.raises(InputError) as caught:
        loaded(engine)
    assert caught.value.place == place, str(caught.value)
    assert found in caught.value.message()


def test_what_an_engine_lacks() -> None:
    for engine, kv in (("vllm", "fp32"), ("sglang", "int4"), ("vllm", "int8")):
        with pytest.raises(InputError) as caught:
            loaded(engine, precision={"kv": kv})
        assert caught.value.place == "precision.kv" and "fp8" in str(caught.value.allowed)
    assert load_scenario({**BASE, "engine": "trtllm", "precision": {"kv": "int8"}}).config.precision.kv == "int8"
    with pytest.raises(InputError, match="NVIDIA's GPUs only"):
        loaded("trtllm", gpu="mi300x")


@given(
    name=st.sampled_from(["none", *list_engines()]),
    seqs=st.integers(1, 512),
    step=st.floats(0.001, 10),
    version=st.sampled_from([None, "0.5.3", "0.12.0", "1.1.0rc2", "x"]),
)
def test_a_resolved_scenario_reads_back_the_same(name: str, seqs: int, step: float, version: str | None) -> None:
    given = {"name": name, "max_num_seqs": seqs, "host": {"step": step}, "version": version}
    once = load_scenario({**BASE, "engine": {key: value for key, value in given.items() if value is not None}})
    assert load_scenario(once.to_dict()).config.engine == once.config.engine
