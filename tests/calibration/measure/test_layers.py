"""Whole layers of Triton kernels: right in the interpreter by two references, complete, and as many as are needed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from calibration.measure.layersizes import (
    BUDGET,
    PAGE,
    PAPER_POINTS,
    USABLE,
    cache_bytes,
    kinetics_rows,
    layers_wanted,
    sizes,
)
from simulator.layers import case_of
from workloads.model import load_model

ROOT = Path(__file__).resolve().parents[3]
TRITON = all(importlib.util.find_spec(name) for name in ("torch", "triton"))
needs_triton = pytest.mark.skipif(not TRITON, reason="torch or triton is not installed: pip install 'kinesim[gpu]'")

TINY = {
    "architectures": ["Qwen3ForCausalLM"], "torch_dtype": "float16", "num_hidden_layers": 3, "hidden_size": 64,
    "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 128,
    "max_position_embeddings": 4096, "tie_word_embeddings": True,
}  # fmt: skip
H200 = 143_771 * 2**20
SPARSE = {"attention": "block_topk", "page": PAGE, "budget": 64}


def row(**given: object) -> dict[str, Any]:
    whole = {"model": "Qwen/Qwen3-8B", "attention": "dense", "phase": "decode", "dtype": "bf16", "kv_dtype": "bf16"}
    whole |= {"tp": 1, "batch": 16, "query_len": 1, "context_len": 32_768, "page": 0, "budget": 0}
    return whole | given


CASES: dict[str, list[tuple[dict[str, Any], float]]] = {
    "decode": [
        ({}, 3e-3),
        ({"tp": 2, "batch": 1, "context_len": 16}, 3e-3),
        ({**SPARSE, "context_len": 202}, 3e-3),
        ({**SPARSE, "context_len": 40, "batch": 2}, 3e-3),  # fewer pages than the budget has
        ({**SPARSE, "page": 8, "context_len": 96, "kv_dtype": "fp8", "batch": 2}, 6e-2),
    ],
    "prefill": [
        ({"phase": "prefill", "query_len": 21, "context_len": 0, "batch": 2}, 3e-3),
        ({"phase": "prefill", "query_len": 5, "context_len": 30, "batch": 2}, 3e-3),
    ],
}
"""Rows, and the error that is allowed. Those of a phase share a process: to start one takes longer than a row."""


@needs_triton
@pytest.mark.parametrize("phase", CASES)
def test_right_in_the_interpreter(phase: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    script = Path(__file__).with_name("layer_check.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [
        sys.executable,
        str(script),
        str(tmp_path / "config.json"),
        *(json.dumps(given) for given, _ in CASES[phase]),
    ]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    for (given, allowed), line in zip(CASES[phase], done.stdout.splitlines(), strict=True):
        found = json.loads(line)
        assert found["layers"] == 2
        assert found["error"] <= allowed and found["error_of_definition"] <= allowed, (given, found)
        assert found["repeats"], f"{given}: a second run computes something else"
        parts = [f"attention_{phase}"]
        if "page" in given:
            parts = ["page_summary", "page_scores", "page_select", *parts]
        assert found["attention"] == parts
        linear = (
            ["attn_norm", "qkv_proj", "rope_kv_write"],
            ["o_proj", "mlp_norm", "gate_up_proj", "silu_mul", "down_proj"],
        )
        assert found["operators"] == [*linear[0], *parts, *linear[1]]


@needs_triton
def test_what_no_kernel_stands_for_is_an_error() -> None:
    """A mixture of experts has operators that no layer of these kernels runs: it must not be left out silently."""
    code = """
from calibration.kernels.base import Room
from calibration.measure.layers import build_layer
for given in ({"model": "Qwen/Qwen3-30B-A3B"}, {"dtype": "fp8"}):
    row = dict(model="Qwen/Qwen3-8B", attention="dense", dtype="bf16", kv_dtype="bf16", tp=1, batch=1, context_len=64,
               page=0, budget=0) | given
    try:
        build_layer(row, Room("meta", 132, 90))
    except LookupError as problem:
        print(problem)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines() == [
        "no kernel stands for the operator router of a layer",
        "no kernel quantises activations to fp8",
    ]


def test_sizes_count_what_the_graph_does() -> None:
    model = load_model("Qwen/Qwen3-8B")
    weights = 2 * (model.hidden * (32 + 16) * 128 + 32 * 128 * model.hidden + 3 * model.hidden * model.intermediate)
    cache = 2 * 16 * 32_768 * 8 * 128 * 2
    dense, sparse = sizes(row()), sizes(row(attention="block_topk", page=PAGE, budget=BUDGET))
    assert dense.memory == weights + cache
    assert sparse.memory == weights + cache * (1 + 1 / (2 * PAGE))
    written = 16 * 2 * 8 * 128 * 2
    assert dense.cold == weights + cache + written
    assert sparse.cold < weights + 1.2 * cache * (BUDGET + 32_768 / (2 * PAGE)) / 32_768
    assert dense.flops > 2 * 16 * weights / 2
    shares = sizes(row(model="Qwen/Qwen3-8B", tp=8))
    assert shares.memory == pytest.approx(dense.memory / 8)
    assert cache_bytes(case_of(row(context_len=17, batch=1))) == 2 * 32 * 8 * 128 * 2, "whole pages"


def test_layers_are_as_many_as_make_operands_cold() -> None:
    l2 = 50 * 2**20
    small = row(model="Qwen/Qwen3-0.6B", batch=1, context_len=1024)
    count = layers_wanted(small, l2, H200)
    assert (count - 1) * sizes(small).cold < 4 * l2 <= count * sizes(small).cold
    assert layers_wanted(row(), l2, H200) == 2, "at least two"
    assert layers_wanted(row(model="Qwen/Qwen3-0.6B", tp=8, batch=1, context_len=64), l2, H200) == 28, "the model's"
    long = row(model="Qwen/Qwen3-0.6B", tp=8, batch=1, context_len=65_536, **SPARSE)
    assert sizes(long).memory > 4 * sizes(long).cold
    assert layers_wanted(long, l2, H200) * sizes(long).cold >= min(4 * l2, 28 * sizes(long).cold)
    large = row(model="Qwen/Qwen3-0.6B", tp=8, batch=4096, context_len=16_384)
    one = sizes(large).memory + sizes(large).warm
    assert [layers_wanted(large, l2, bytes_) for bytes_ in (0.5 * one, 1.1 * one, 3 * one)] == [0, 1, 2]


@pytest.mark.parametrize("memory", [40e9, 80e9, H200, 180e9])
def test_points_of_the_experiment(memory: float) -> None:
    rows = list(kinetics_rows(memory))
    dense, sparse = rows[::2], rows[1::2]
    assert {r["attention"] for r in dense} == {"dense"} and {r["attention"] for r in sparse} == {"block_topk"}
    same = ("model", "tp", "batch", "context_len", "dtype", "kv_dtype")
    assert all(a[name] == b[name] for a, b in zip(dense, sparse, strict=True) for name in same)
    points = {tuple(r[name] for name in same) for r in dense}
    assert len(points) == len(dense), "every point once"
    assert all(layers_wanted(r, 50 * 2**20, memory) >= 1 for r in rows)
    for r in dense:
        model = load_model(r["model"])
        whole = (
            model.weight_bytes("bf16") / r["tp"] + r["batch"] * r["context_len"] * model.kv_bytes_per_token() / r["tp"]
        )
        paper = (r["batch"], r["context_len"]) in PAPER_POINTS
        assert whole <= USABLE * memory or (paper and r["tp"] == 8)
    if memory >= 80e9:
        assert {(r["batch"], r["context_len"]) for r in dense if r["batch"] > 256} == set(PAPER_POINTS)
        assert {r["model"] for r in dense} == {f"Qwen/Qwen3-{s}" for s in ("0.6B", "1.7B", "4B", "8B", "14B", "32B")}


def test_a_machine_that_only_measures_can_plan_layers() -> None:
    """Neither pydantic nor torch is needed to say which layers there are and what they take."""
    code = """
import sys
from calibration.measure.layersizes import kinetics_rows, sizes
rows = list(kinetics_rows(150e9))
sizes(rows[0])
print([name for name in ("pydantic", "torch", "triton", "typer", "rich", "simpy", "scipy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
