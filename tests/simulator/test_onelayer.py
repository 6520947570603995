"""One decoder layer: it has the operators of the graph, all of them, and their time is that of a step's layer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.calibrated import load_cost_profile
from simulator.graphview import step_shape
from simulator.layers import ATTENTION, case_of, layer_graph, layer_operators, layer_shape
from simulator.layertime import layer_time
from simulator.policy import TICKS_PER_SECOND
from simulator.stepcost import StepCost
from simulator.stepgraph import Precision, build_graph
from workloads.attention import BlockTopK, Dense
from workloads.model import list_models, load_model

H200 = load_gpu("h200-sxm")
GROUPED = [name for name in list_models() if (model := load_model(name)).latent is None and model.linear is None]
STEP_ONLY = {"embedding", "final_norm", "lm_head", "sampling"}
POLICIES = {"dense": Dense(), "block_topk": BlockTopK(kind="block_top_k", page=16, blocks=64)}


def row(**given: object) -> dict[str, Any]:
    whole = {"model": "Qwen/Qwen3-8B", "attention": "dense", "phase": "decode", "dtype": "bf16", "kv_dtype": "bf16"}
    whole |= {"tp": 1, "batch": 16, "query_len": 1, "context_len": 8192}
    pages = {"page": 16, "budget": 1024} if given.get("attention") == "block_topk" else {"page": 0, "budget": 0}
    return whole | pages | given


ROWS = [
    row(),
    row(attention="block_topk"),
    row(attention="block_topk", tp=8, model="Qwen/Qwen3-32B", batch=256),
    row(kv_dtype="fp8", tp=2),
    row(phase="prefill", batch=2, query_len=512, context_len=0),
    row(phase="prefill", batch=1, query_len=300, context_len=4096, attention="block_topk"),
]


@pytest.mark.parametrize("given", ROWS, ids=lambda r: " ".join(str(v) for v in r.values()))
def test_a_layer_is_the_graph_without_what_a_step_does_once(given: dict[str, Any]) -> None:
    """Every operator of the whole model's graph is in it, with the same work, but for those of the step alone."""
    case = case_of(given)
    graph = layer_graph(case)
    shape = layer_shape(case, graph)
    found = {op.name: op for op in layer_operators(graph, shape)}
    whole = build_graph(case.model, POLICIES[given["attention"]], case.precision, case.tensor)
    options = {"batch": case.batch, "context": case.context, "query": case.query, "past": case.context}
    step = step_shape(whole, phase=case.phase, **options)
    expected = {
        op.name: op for op in whole.operators
        if op.stream != "comm" and op.name not in STEP_ONLY and any(op.work(step))
    }  # fmt: skip
    assert list(found) == list(expected)
    for name, op in found.items():
        assert op.count == 1 and op.dims == expected[name].dims
        assert op.work(shape) == expected[name].work(step)
    assert all((name in ATTENTION) == ("attention_" in name or "page_" in name) for name in found)


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_every_model_has_a_layer(name: str, phase: str) -> None:
    model = load_model(name)
    case = case_of(row(model=name, phase=phase, query_len=64 if phase == "prefill" else 1, context_len=64))
    graph = layer_graph(case)
    names = [op.name for op in layer_operators(graph, layer_shape(case, graph))]
    assert names[0] == "attn_norm" and names[-1] in ("down_proj", "combine")
    assert ("router" in names) == bool(model.moe)


@pytest.mark.parametrize("profile", ["ideal", "auto"])
@pytest.mark.parametrize("attention", ["dense", "block_topk"])
def test_time_of_a_layer_is_that_of_a_steps_layers(profile: str, attention: str) -> None:
    """What a step's cost adds from model to model of more layers is the time of so many layers."""
    model, cost_profile = load_model("Qwen/Qwen3-8B"), load_cost_profile(profile, H200)
    case = case_of(row(attention=attention, context_len=8192))
    layer = layer_time(case, H200, cost_profile)
    graph = build_graph(model, POLICIES[attention], Precision(), 1)
    cost = StepCost(graph, H200, cost_profile, max_tokens=64, max_seqs=16, max_context=16_384)
    shape = step_shape(cost, phase="decode", batch=16, context=8192)
    once = sum(cost.operator_seconds(op, shape) for op in cost.operators if op.name in STEP_ONLY)
    step = cost.step_ticks(shape) / TICKS_PER_SECOND
    assert step == pytest.approx(once + model.layers * layer.seconds, rel=1e-6)
    assert 0 < layer.attention_seconds < layer.seconds
    assert layer.bound in ("memory", "compute", "l2", "overhead")


def test_attention_of_block_topk_reads_the_budget_and_the_summaries() -> None:
    ideal = load_cost_profile("ideal", H200)
    dense, sparse = (layer_time(case_of(row(attention=a, context_len=16_384)), H200, ideal) for a in POLICIES)
    token = 16 * 8 * 128 * 2
    assert dense.attention_bytes == 2 * token * 16_384
    assert sparse.attention_bytes == 2 * token * 1024 + token * 16_384 / 16 + token * (1 + 1 / 16)
    assert dense.seconds - dense.attention_seconds == pytest.approx(sparse.seconds - sparse.attention_seconds)


@pytest.mark.parametrize(
    ("given", "place", "word"),
    [
        ({"attention": "top_k"}, "attention", "block_topk"),
        ({"phase": "mixed"}, "phase", "prefill"),
        ({"model": "Qwen/Qwen3-9B"}, "model", "unknown model"),
        ({"model": "deepseek-r1"}, "model", "grouped queries"),
        ({"model": "qwen3.5-397b-a17b"}, "model", "grouped queries"),
        ({"tp": 3}, "tp", "does not divide"),
        ({"attention": "block_topk", "page": 16, "budget": 1000}, "budget", "whole pages"),
        ({"attention": "block_topk", "page": 0, "budget": 0}, "page", "chooses pages"),
        ({"query_len": 2}, "query_len", "one token a step"),
        ({"context_len": 0}, "context_len", "among those attended"),
    ],
)
def test_bad_rows(given: dict[str, Any], place: str, word: str) -> None:
    with pytest.raises(InputError) as error:
        case_of({**row(), **given})
    assert error.value.place == place and word in error.value.message()


def test_an_unknown_format_for_the_gpu() -> None:
    with pytest.raises(InputError, match="does not compute in fp4"):
        layer_time(case_of(row(dtype="fp4")), H200, load_cost_profile("ideal", H200))


def test_needs_no_pydantic() -> None:
    code = "import sys, simulator.layers; print('pydantic' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "False"
