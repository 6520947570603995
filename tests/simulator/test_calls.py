"""From operators and steps to kernels: labels, columns, and what is conserved on the way."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from madeprofiles import profile

from hwspecs.gpu import load_gpu
from simulator.calibrated import FALLBACK, Calibrated
from simulator.calls import Call, call_label, kernel_call
from simulator.cost import operator_time
from simulator.kernels.attention_prefill import causal_pairs as model_pairs
from simulator.kernels.registry import MODELS
from simulator.operators import Operator, send
from simulator.profile import load_profile
from simulator.selection import Library, Selection
from simulator.shape import PrefillShape, StepShape, causal_pairs, keys_read
from simulator.stepgraph import Layout, Precision, StepGraph, build_graph
from workloads.attention import AttentionPolicy, BlockTopK, Dense, SlidingWindow
from workloads.model import load_model

H200 = load_gpu("h200-sxm")
WINDOW = 256
POLICIES: dict[str, AttentionPolicy] = {
    "dense": Dense(),
    "window": SlidingWindow(kind="sliding_window", window=WINDOW),
    "pages": BlockTopK(kind="block_top_k", blocks=16, local=32),
}


@cache
def graph(model: str = "Qwen/Qwen3-8B", policy: str = "dense", tensor: int = 1, precision: str = "bf16") -> StepGraph:
    return build_graph(load_model(model), POLICIES[policy], Precision(precision, precision, precision), tensor)


def step(parts: list[tuple[int, int]], decode: list[int], cap: int | None = None) -> StepShape:
    """A step with chunks of (query, past) and sequences that decode with so much context."""
    pairs = sum(causal_pairs(q, past, cap) for q, past in parts)
    keys = sum(keys_read(q, past, cap) for q, past in parts)
    tokens = sum(q for q, _ in parts)
    prefill = PrefillShape(tokens, len(parts), (pairs,), (keys,)) if parts else None
    return StepShape(tokens + len(decode), len(parts) + len(decode), len(decode), (sum(decode),), prefill)


def calls(of: StepGraph, shape: StepShape) -> dict[str, tuple[Operator, Call]]:
    found = {op.name: (op, kernel_call(op, shape, 8)) for op in of.operators}
    return {name: (op, call) for name, (op, call) in found.items() if call is not None}


def one(of: StepGraph, shape: StepShape, kind: str) -> Call:
    return next(call for _, call in calls(of, shape).values() if call.kind == kind)


@pytest.mark.parametrize(("model", "tensor"), [("Qwen/Qwen3-8B", 1), ("Qwen/Qwen3-8B", 4), ("Qwen/Qwen3-30B-A3B", 2)])
def test_columns_are_those_of_the_kernels(model: str, tensor: int) -> None:
    made = graph(model, tensor=tensor)
    kinds = set()
    for op, call in calls(made, step([(100, 20)], [50, 60])).values():
        own = {"pairs", "hit"} if call.kind == "moe" else set()
        assert set(call.shape) == set(MODELS[call.kind].columns) | own, op.name
        assert set(call.label) == set(MODELS[call.kind].labels) - {"kernel"}
        assert call_label(op) == (call.kind, call.label)
        assert set(call.lookup) <= set(call.shape)
        kinds.add(call.kind)
    assert kinds >= {"gemm", "attention_prefill", "attention_decode"}
    assert ("collective" in kinds) == (tensor > 1) and ("moe" in kinds) == ("30B" in model)


def test_a_gemm_takes_the_steps_tokens_or_rows() -> None:
    found = calls(graph(), step([(100, 0), (50, 10)], [9, 9, 9]))
    for op, call in found.values():
        if call.kind == "gemm":
            assert call.shape["m"] == (5 if op.axis == "rows" else 153), op.name
            assert op.work(step([(100, 0), (50, 10)], [9, 9, 9])).flops == pytest.approx(
                2 * call.shape["m"] * call.shape["n"] * call.shape["k"]
            )


def test_gpus_share_heads_widths_and_messages() -> None:
    shape = step([(64, 0)], [100] * 4)
    whole, part = graph(), graph(tensor=4)
    for kind in ("attention_decode", "attention_prefill"):
        for name in ("q_heads", "kv_heads"):
            assert one(whole, shape, kind).shape[name] == 4 * one(part, shape, kind).shape[name]
    message = one(part, shape, "collective")
    assert message.shape["gpus"] == 4 and message.shape["bytes"] == 68 * load_model("Qwen/Qwen3-8B").hidden * 2


def test_the_parts_of_an_experts_block_add_up_to_it() -> None:
    made = graph("Qwen/Qwen3-30B-A3B", tensor=2)
    blocks = [(op, call) for op, call in calls(made, step([(64, 0)], [])).values() if call.kind == "moe"]
    assert len(blocks) > 1
    assert sum(call.share for _, call in blocks) == pytest.approx(1)
    assert all(call.shape == blocks[0][1].shape for _, call in blocks)
    shape = blocks[0][1].shape
    # 64 tokens that choose 8 of 128 at random hit 128 (1 - (1 - 8/128)^64) = 125.94 experts; dealt round they hit all.
    assert (shape["tokens"], shape["pairs"]) == (64, 64 * 8)
    assert shape["hit"] == pytest.approx(125.94, rel=1e-4)
    assert (shape["experts"], shape["top_k"], shape["tp"], shape["ep"]) == (128, 8, 2, 1)


def test_groups_of_experts() -> None:
    """Four GPUs in two groups: the kernel is told the tokens of all, how experts are split, and the busiest's load."""
    made = build_graph(load_model("Qwen/Qwen3-30B-A3B"), Dense(), Precision(), Layout(tensor=4, expert=2))
    shape = one(made, step([(64, 0)], []), "moe").shape
    assert (shape["tokens"], shape["tp"], shape["ep"], shape["intermediate"]) == (64, 2, 2, 768)
    assert 64 * 8 / 2 < shape["pairs"] < 64 * 8 and 125.94 / 2 < shape["hit"] <= 64


def test_the_experts_kernel_reads_the_experts_that_are_hit() -> None:
    """64 tokens, 512 pairs. By the table's routing all 128 experts are hit, with 4 rows each; the step says 64, with 8.

    Weights are half; an expert's last tile of 16 rows is half full on average: 512/16 + 64/2 = 64 tiles, no less than
    one for each, against 128.
    """
    model = MODELS["moe"]
    constants = {name: constant.start for name, constant in model.constants.items()}
    table: dict[str, Any] = {
        "tokens": 64, "hidden": 2048, "intermediate": 768, "top_k": 8, "experts": 128, "tp": 1, "ep": 1, "skew": 0.0,
        "gated": 1,
    }  # fmt: skip
    label = {"kernel": "moe", "dtype": "bf16"}
    balanced, given = (model.work(shape, label, H200) for shape in (table, table | {"pairs": 512.0, "hit": 64.0}))
    assert given.flops == pytest.approx(balanced.flops / 2)
    weights = 64 * 3 * 2048 * 768 * 2
    assert balanced.hbm_bytes - given.hbm_bytes == pytest.approx(weights)
    memory = [model.terms(s, label, H200, constants).memory for s in (table, table | {"pairs": 512.0, "hit": 64.0})]
    assert memory[0] - memory[1] == pytest.approx(weights / (constants["weights"] * H200.memory.bandwidth))


@pytest.mark.parametrize("axis", ["tokens", "rows"])
def test_a_send_is_like_half_an_all_gather(axis: str) -> None:
    """An all-gather of two GPUs moves half of its message over each link."""
    op, shape = send("send", 100, count=1, axis=axis), step([(64, 0)], [50])
    call = kernel_call(op, shape, 8)
    assert call is not None and call.label["op"] == "all_gather"
    wire = op.work(shape).comm_bytes
    assert wire == 100 * (65 if axis == "tokens" else 2)
    assert (call.shape["gpus"], call.shape["bytes"]) == (2, 2 * wire)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40))
def test_decode_reads_what_its_sequences_hold(contexts: list[int]) -> None:
    shape = one(graph(), step([], contexts), "attention_decode").shape
    assert shape["batch"] == len(contexts) and shape["window"] == 0
    assert shape["batch"] * shape["context_len"] == pytest.approx(sum(contexts))


@pytest.mark.parametrize("policy", ["dense", "window"])
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 3000)), min_size=1, max_size=12))
def test_chunks_of_any_kind_keep_tokens_and_pairs(policy: str, parts: list[tuple[int, int]]) -> None:
    cap = WINDOW if policy == "window" else None
    call = one(graph(policy=policy), step(parts, [], cap), "attention_prefill")
    batch, query, past = (float(call.shape[name]) for name in ("batch", "query_len", "past_len"))
    assert batch == len(parts) and batch * query == pytest.approx(sum(q for q, _ in parts))
    pairs = sum(causal_pairs(q, p, cap) for q, p in parts)
    if cap is None:
        alike = sum(q * (q + 1) / 2 for q, _ in parts) >= batch * query * (query + 1) / 2  # always, by convexity
        assert alike and batch * float(model_pairs(query, past, 0)) == pytest.approx(pairs)
        assert call.shape["window"] == 0
    else:
        assert call.shape["window"] == WINDOW
        assert query + past == pytest.approx(sum(keys_read(q, p, cap) for q, p in parts) / batch)
    assert float(call.lookup["query_len"]) >= query and call.lookup["past_len"] == 0.0


def test_one_whole_prompt_is_looked_up_near_its_length() -> None:
    call = one(graph(), step([(1000, 0)] * 3, []), "attention_prefill")
    assert (call.shape["query_len"], call.shape["past_len"]) == (1000, 0)
    assert call.lookup["query_len"] == pytest.approx(1000, rel=1e-3)


def test_what_does_not_run_takes_no_time() -> None:
    made = profile("h200-sxm@vllm-0.24.0")
    cost = Calibrated(H200, Selection(H200, None, made, Library([])), load_profile(FALLBACK))
    nothing = StepShape(0, 0, 0, (0,), PrefillShape(0, 0, (0,), (0,)))
    for op in graph("Qwen/Qwen3-30B-A3B").operators:
        time = cost.operator_time(op, nothing)
        if cost.choice(op) is not None:
            assert float(time.seconds) == 0.0, op.name
            assert all(float(np.asarray(part)) == 0.0 for part in time[1:]), op.name


def test_arrays_of_steps_and_single_steps_agree() -> None:
    made = profile("h200-sxm@vllm-0.24.0")
    cost = Calibrated(H200, Selection(H200, None, made, Library([])), load_profile(FALLBACK))
    tokens = np.arange(0, 400, 7)
    many = StepShape(tokens, tokens, tokens, (tokens * 100,))
    for op in graph().operators:
        if op.axis == "prefill":
            continue
        seconds = np.broadcast_to(cost.operator_time(op, many).seconds, tokens.shape)
        for i in (0, 1, 5, 50):
            n = int(tokens[i])
            single = cost.operator_time(op, StepShape(n, n, n, (n * 100,))).seconds
            assert np.ndim(single) == 0 and float(single) == pytest.approx(seconds[i], rel=1e-12), op.name


def test_what_no_table_holds_goes_by_the_rule_of_thumb() -> None:
    made = profile("h200-sxm@vllm-0.24.0")
    cost = Calibrated(H200, Selection(H200, None, made, Library([])), load_profile(FALLBACK))
    shape = step([(64, 0)], [100] * 4)
    seen = set()
    for op in graph(policy="pages").operators:
        if cost.choice(op) is None:
            assert cost.operator_time(op, shape) == operator_time(op, shape, H200, load_profile(FALLBACK))
            seen.add(op.kind)
    assert "elementwise" in seen


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("bf16", ("bf16", "bf16")), ("fp8", ("fp8_block", "fp8"))],
)
def test_formats(precision: str, expected: tuple[str, str]) -> None:
    made = graph(precision=precision)
    shape = step([(64, 0)], [100])
    assert one(made, shape, "attention_decode").label == {"dtype": "bf16", "kv_dtype": expected[1]}
    formats = {call.label["dtype"] for _, call in calls(made, shape).values() if call.kind == "gemm"}
    assert ("bf16" in formats) and (formats & {"fp8", "fp8_block"} != set()) == (precision == "fp8")
