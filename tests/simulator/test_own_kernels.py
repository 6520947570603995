"""Profiles of this package's own kernels: every operator of a step is timed by them, gathering attention among them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from madeprofiles import OPS, group, microbenchmarks, no_trees, profile

from hwspecs.gpu import load_gpu
from simulator.calibrated import FALLBACK, Calibrated, load_cost_profile
from simulator.calls import call_label, kernel_call, row_bytes
from simulator.cost import operator_time
from simulator.fitted import WIDEN, Fitted
from simulator.operators import Heads
from simulator.policy import TICKS_PER_SECOND
from simulator.profile import load_profile
from simulator.profilefile import to_bytes
from simulator.selection import Library, Selection, bundled
from simulator.shape import PrefillShape, StepShape
from simulator.stepcost import StepCost
from simulator.stepgraph import Precision, StepGraph, build_graph
from workloads.attention import AttentionPolicy, BlockTopK, Dense
from workloads.model import load_model

H200 = load_gpu("h200-sxm")
POLICIES: dict[str, AttentionPolicy] = {"dense": Dense(), "pages": BlockTopK(kind="block_top_k", blocks=64)}
MODEL = load_model("Qwen/Qwen3-8B")
OWN = profile("h200-sxm@triton", microbenchmarks())
VLLM = profile("h200-sxm@vllm-0.24.0", tuple(group(k) for k in ("gemm", "attention_decode", "attention_prefill")))
STEP = StepShape(64, 64, 64, (64 * 4096, 64 * 1024))


@cache
def graph(policy: str = "dense", tensor: int = 1) -> StepGraph:
    return build_graph(MODEL, POLICIES[policy], Precision(), tensor)


def calibrated(*, chosen: Fitted | None = OWN, library: tuple[Fitted, ...] = (), gpu: str = "h200-sxm") -> Calibrated:
    made = load_gpu(gpu)
    return Calibrated(made, Selection(made, None, chosen, Library(library)), load_profile(FALLBACK))


# ---- operators and their kernels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("tensor", [1, 4])
def test_every_operator_but_the_links_is_timed_by_the_profile(policy: str, tensor: int) -> None:
    cost = calibrated()
    for op in graph(policy, tensor).operators:
        choice = cost.choice(op)
        if op.kind in ("all_reduce", "all_gather"):
            assert choice is None
            continue
        assert choice is not None and choice.profile == OWN.name and choice.tier == "exact", op.name
        assert choice.group.label.get("op") == op.routine, op.name


@pytest.mark.parametrize("how", ["path", "name"])
def test_asked_for_by_name_or_path(how: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "h200-sxm@triton.npz").write_bytes(to_bytes(OWN))
    if how == "name":
        monkeypatch.setattr("simulator.calibrated.bundled", lambda: Library([OWN]))
        monkeypatch.setattr("simulator.selection.bundled", lambda: Library([OWN]))
    cost = load_cost_profile("h200-sxm@triton" + (".npz" if how == "path" else ""), H200, relative_to=tmp_path)
    assert isinstance(cost, Calibrated) and cost.name == OWN.name
    for op in graph("pages").operators:
        choice = cost.choice(op)
        assert choice is not None and dict(choice.group.label) in [dict(g.label) for g in OWN.groups], op.name


def test_attention_to_chosen_pages_is_the_gathering_kernel() -> None:
    cost = calibrated()
    kernels = {
        policy: {op.kind: cost.choice(op).group.label["kernel"] for op in graph(policy).operators if is_attention(op)}  # type: ignore[union-attr]
        for policy in POLICIES
    }
    assert kernels["dense"] == {"attention_decode": "triton", "attention_prefill": "triton"}
    assert kernels["pages"] == {"attention_decode": "triton_gather", "attention_prefill": "triton"}


def is_attention(op) -> bool:
    return isinstance(op.dims, Heads) and op.routine is None


def test_a_profile_without_gathering_kernels_chooses_as_before() -> None:
    groups = (group("attention_decode", label={"kernel": "a", "dtype": "bf16", "kv_dtype": "bf16"}, rows=9),)
    groups += (group("attention_decode", label={"kernel": "b", "dtype": "bf16", "kv_dtype": "bf16"}, rows=10),)
    selection = Selection(H200, None, profile("h200-sxm@vllm-1", groups), Library([]))
    for label in ({"dtype": "bf16", "kv_dtype": "bf16"}, {"dtype": "bf16", "kv_dtype": "bf16", "access": "gather"}):
        found = selection.choose("attention_decode", label)
        assert found is not None and found.group.label["kernel"] == "b" and found.tier == "exact"


def test_rows_and_bytes_are_those_of_the_graph() -> None:
    hidden, width, heads, kv_heads, dim = MODEL.hidden, MODEL.intermediate, MODEL.q_heads, MODEL.kv_heads, 128
    expected = {
        "embedding": 4 * hidden, "attn_norm": 8 * hidden, "mlp_norm": 8 * hidden, "final_norm": 4 * hidden,
        "rope_kv_write": 2 * dim * (2 * heads + 2 * kv_heads) + 4 * kv_heads * dim, "silu_mul": 6 * width,
        "sampling": 8 * MODEL.vocab, "page_summary": kv_heads * dim * (2 + 2 / 16),
    }  # fmt: skip
    shape = StepShape(100, 7, 0, (0, 0))
    for op in graph("pages").operators:
        found = call_label(op)
        if found is not None and found[0] == "elementwise":
            call = kernel_call(op, shape, 8)
            assert call is not None and call.shape["row_bytes"] == row_bytes(op) == expected.pop(op.name), op.name
            assert call.shape["rows"] == (7 if op.name == "sampling" else 100)
            work = op.work(shape)
            assert call.shape["rows"] * row_bytes(op) == work.weight_bytes + work.kv_bytes + work.act_bytes
    assert not expected


def test_pages_are_scored_and_selected_at_the_whole_context() -> None:
    for op in graph("pages").operators:
        if op.routine in OPS["page_topk"]:
            call = kernel_call(op, STEP, 8)
            assert call is not None and call.kind == "page_topk" and call.label["op"] == op.routine
            columns = {"batch": 64, "context_len": 4096, "page": 16, "budget": 1024, "q_heads": 32, "kv_heads": 8}
            assert {name: call.shape[name] for name in columns} == columns
        elif is_attention(op) and op.axis == "decode":
            call = kernel_call(op, STEP, 8)
            assert call is not None and call.shape["context_len"] == 1024 and call.shape["window"] == 0


# ---- a step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_is_the_sum_of_its_kernels(policy: str) -> None:
    """By the groups' own estimates, operator by operator, where the step lies on knots of the context."""
    made = graph(policy)
    cost = StepCost(made, H200, calibrated(), max_tokens=64, max_seqs=64, max_context=8192)
    context = (64 * 4096, 64 * 1024) if policy == "pages" else (64 * 4096,)
    shape = StepShape(64, 64, 64, context)
    groups = {(g.kind, *g.label.values()): g for g in OWN.groups}
    total = 0.0
    for op in made.operators:
        call = kernel_call(op, shape, 8)
        if call is None or call.kind == "attention_prefill":
            continue
        kernel = "triton_gather" if "access" in call.label else "triton"
        names = [name for name in ("op", "dtype", "kv_dtype") if name in call.label]
        first = "vllm_default" if call.kind == "gemm" else None
        key = (call.kind, first or kernel, *(call.label[name] for name in names))
        own = groups.get(key) or groups[(call.kind, kernel, *(call.label[name] for name in names))]
        total += op.count * float(own.estimate(call.shape, H200, cold=True).seconds)
    assert cost.step_ticks(shape) / TICKS_PER_SECOND == pytest.approx(total, rel=1e-6)


def test_a_part_without_work_costs_nothing() -> None:
    cost = calibrated()
    nothing = StepShape(0, 0, 0, (0, 0), PrefillShape(0, 0, (0, 0), (0, 0)))
    for op in graph("pages").operators:
        time = cost.operator_time(op, nothing)
        assert all(float(np.asarray(part)) == 0.0 for part in time), op.name
    only_prefill = StepShape(100, 1, 0, (0, 0), PrefillShape(100, 1, (5050,) * 2, (100,) * 2))
    for op in graph("pages").operators:
        if op.axis == "decode":
            assert float(cost.operator_time(op, only_prefill).seconds) == 0.0, op.name


def test_longer_contexts_and_more_sequences_cost_more() -> None:
    cost = StepCost(graph("pages"), H200, calibrated(), max_tokens=64, max_seqs=64, max_context=65536)
    for seqs in (1, 8, 64):
        ticks = [
            cost.decode_ticks(StepShape(seqs, seqs, seqs, (seqs * c, seqs * min(c, 1024))))
            for c in (512, 1024, 4096, 16384, 65536)
        ]
        assert ticks == sorted(ticks) and ticks[0] < ticks[-1]


# ---- beside other profiles -------------------------------------------------------------------------------------------


def test_nobody_measured_it_is_still_the_rule_of_thumb() -> None:
    """To the bit, as long as no profile at hand has a group for it."""
    cost, rule = calibrated(chosen=None, library=(VLLM,)), load_profile(FALLBACK)
    seen = set()
    for op in graph("pages").operators:
        if call_label(op)[0] in OPS:  # type: ignore[index]
            assert cost.choice(op) is None
            assert cost.operator_time(op, STEP) == operator_time(op, STEP, H200, rule)
            seen.add(op.routine)
    assert seen == {*OPS["elementwise"], *OPS["page_topk"]}
    assert not any(g.kind in OPS for name in bundled().names if "triton" not in name for g in bundled()[name].groups)


def test_engines_come_before_it_where_nothing_is_asked_for() -> None:
    """What an engine's profile has is timed by that; only what none has comes from the microbenchmarks."""
    nccl = profile(
        "h200-sxm@nccl-2.29.2", (group("collective", label={"kernel": "nccl", "op": "all_gather", "dtype": "fp16"}),)
    )
    own = replace(
        OWN, groups=(*OWN.groups, group("collective", label={"kernel": "triton", "op": "all_gather", "dtype": "fp16"}))
    )
    cost = calibrated(chosen=None, library=(own, VLLM, nccl))
    assert cost.name == VLLM.name
    for op in graph("pages", 4).operators:
        choice = cost.choice(op)
        kind = call_label(op)[0]  # type: ignore[index]
        if op.kind == "all_reduce":
            assert choice is None
        else:
            expected = OWN if kind in OPS else nccl if kind == "collective" else VLLM
            assert choice is not None and choice.profile == expected.name, op.name


def test_what_it_lacks_falls_through_to_others() -> None:
    part = replace(OWN, groups=tuple(g for g in OWN.groups if g.kind in OPS))
    cost = calibrated(chosen=part, library=(VLLM,))
    names = {call_label(op)[0]: cost.choice(op).profile for op in graph("pages").operators}  # type: ignore[index,union-attr]
    assert names["elementwise"] == names["page_topk"] == OWN.name
    assert names["gemm"] == names["attention_decode"] == names["attention_prefill"] == VLLM.name


def test_carried_to_another_gpu_its_interval_is_wider() -> None:
    """Nobody measured how wrong these kinds are elsewhere: twice their own errors, and more for figures far away."""
    norm = next(op for op in graph().operators if op.routine == "rms_norm")
    for gpu in ("h100-sxm", "b200-sxm"):
        choice = calibrated(gpu=gpu).choice(norm)
        assert choice is not None and choice.transferred and choice.carried is not None
        assert choice.carried.high >= WIDEN * choice.group.errors["all"].high
    assert calibrated().choice(norm).carried is None  # type: ignore[union-attr]


def test_tables_ask_for_kernels_by_name() -> None:
    """A row of the gathering kernel is predicted by it, one of another name not."""
    groups = (
        *OWN.groups,
        group("attention_decode", no_trees(1.0), label={"kernel": "x", "dtype": "bf16", "kv_dtype": "bf16"}),
    )
    selection = Selection(H200, "triton", library=Library([replace(OWN, groups=groups)]))
    for name in ("triton", "triton_gather", "x"):
        found = selection.choose("attention_decode", {"kernel": name, "dtype": "bf16", "kv_dtype": "bf16"})
        assert found is not None and found.group.label["kernel"] == name and found.tier == "exact"
