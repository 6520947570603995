"""Attention blocks that were timed as a whole: a step of one phase takes their time, no operator less than ideally."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from madeprofiles import LABELS, LATTICES, RANGES, group, no_trees, profile

from hwspecs.gpu import load_gpu
from simulator.calibrated import FALLBACK, Calibrated
from simulator.drafting import Draft
from simulator.fitted import Group
from simulator.graphview import step_shape
from simulator.modules import Whole, alone, block_columns, estimate, is_core, rising
from simulator.operators import Operator
from simulator.profile import load_profile
from simulator.selection import Choice, Library, Selection
from simulator.shape import PrefillShape, StepShape, causal_pairs
from simulator.stepcost import StepCost
from simulator.stepgraph import Precision, build_graph
from workloads.attention import Dense, TopK
from workloads.model import load_model

H200 = load_gpu("h200-sxm")
PARTS = ("gemm", "mla_decode", "mla_prefill", "mla_bmm", "elementwise", "moe", "collective")
R1, SPARSE = "deepseek-r1", "deepseek-v3.2"


def blocks(kind: str, slower: float) -> list[Group]:
    """A block's groups, one for decode and two for prefill; `slower` multiplies their time, in the logarithm."""
    names = {
        "mla_module": (("FLASHMLA", "absorbed"), ("FLASH_ATTN", "expanded"), ("FLASHMLA", "absorbed")),
        "dsa_module": (("sparse", "sparse"), ("sparse", "sparse"), ("dense_mha", "dense")),
    }
    key = {"mla_module": "form", "dsa_module": "reads"}[kind]
    found = []
    for i, (kernel, form) in enumerate(names[kind]):
        label = LABELS[kind] | {"kernel": kernel, key: form, "phase": "prefill" if i else "decode"}
        ranges = {"q_heads": (1.0, 128.0), "batch": (1.0, 1024.0), "past_len": (0.0, 1.0e5)}
        ranges["query_len"] = (1.0, 512.0) if i else (1.0, 1.0)
        found.append(group(kind, no_trees(slower + 0.1 * i), label=label, ranges=ranges, lattice={}))
    return found


@cache
def calibrated(software: str = "vllm-1", *, direct: str = "sglang-1", kind: str = "mla_module", slower: float = 1.0):
    """A profile of vLLM with whole blocks, and one of `direct` with latent attention in parts."""
    both = [group(part, no_trees()) for part in PARTS if not part.startswith("mla_")]
    parts = [group(part, no_trees()) for part in PARTS if part.startswith("mla_")]
    post = group("mla_bmm", no_trees(), label=LABELS["mla_bmm"] | {"op": "post"})
    made = {"h200-sxm@vllm-1": [*both, *blocks(kind, slower)]}
    name = f"h200-sxm@{direct}"
    made[name] = [*made.get(name, both), *parts, post]
    library = Library([profile(name, tuple(groups)) for name, groups in made.items()])
    return Calibrated(H200, Selection(H200, software, library=library), load_profile(FALLBACK))


@cache
def cost(model: str, tensor: int = 8, **given: object) -> StepCost:
    graph = build_graph(load_model(model), Dense(), Precision(), tensor)
    profile = calibrated(**given)  # type: ignore[arg-type]
    return StepCost(graph, H200, profile, max_tokens=8192, max_seqs=64, max_context=65_536)


def members(found: StepCost, suffix: str = " [moe]") -> list[Operator]:
    return [op for op in found.operators if op.module is not None and op.module.block == suffix]


def block_seconds(found: StepCost, shape: StepShape) -> float:
    return sum(found.operator_seconds(op, shape) / op.count for op in members(found))


def whole_seconds(found: StepCost, axis: str, index: int, batch: int, query: int, past: int) -> float:
    """Of the `index`-th group of the profile's blocks."""
    module = members(found)[0].module
    assert module is not None and isinstance(found.profile, Calibrated)
    groups = [g for g in found.profile.selection.profile("h200-sxm@vllm-1").groups if g.kind == module.kind]
    return float(groups[index].estimate(block_columns(module, batch, query, past), H200, cold=True).seconds)


@pytest.mark.parametrize(("model", "kind"), [(R1, "mla_module"), (SPARSE, "dsa_module")])
def test_a_decode_step_takes_the_time_of_the_block(model: str, kind: str) -> None:
    found = cost(model, kind=kind)
    for seqs, context in ((1, 2**10), (16, 2**13), (64, 2**15)):  # contexts between which nothing is interpolated
        shape = step_shape(found, phase="decode", batch=seqs, context=context)
        expected = whole_seconds(found, "decode", 0, seqs, 1, context - 1)
        assert block_seconds(found, shape) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("model", "kind", "query", "past", "index"),
    [
        (R1, "mla_module", 4096, 0, 1),  # expanded
        (R1, "mla_module", 256, 0, 2),  # absorbed: measured up to 512 tokens
        (SPARSE, "dsa_module", 4096, 4096, 1),  # sparse
        (SPARSE, "dsa_module", 1024, 1024, 2),  # dense: nobody has more than 2,048 tokens before him
    ],
)
def test_a_prefill_step_takes_the_time_of_the_block(model: str, kind: str, query: int, past: int, index: int) -> None:
    found = cost(model, kind=kind)
    shape = step_shape(found, phase="prefill", batch=1, query=query, past=past)
    expected = whole_seconds(found, "prefill", index, 1, query, past)
    assert block_seconds(found, shape) == pytest.approx(expected, rel=1e-4)


def test_chunks_of_a_block_have_their_own_keys() -> None:
    """Attention has its time from equal chunks with as many pairs; what projects the keys goes by their number."""
    found = cost(R1)
    parts = [(7992, 0), *[(25, 0)] * 8]
    pairs = sum(causal_pairs(query, past, None) for query, past in parts)
    uneven = PrefillShape(8192, 9, (pairs,), (8192,))
    as_one, equal = uneven._replace(seqs=1), uneven._replace(kv=(4 * 8192,))
    mine, one, far = (dict(zip(names(found), found.prefill_seconds(c), strict=True)) for c in (uneven, as_one, equal))
    up, attention = "kv_up_proj [moe]", "attention_prefill [moe]"
    assert mine[up] == one[up] < far[up]
    assert mine[attention] == far[attention]


def names(found: StepCost) -> list[str]:
    return [op.name for op in found.prefill_ops]


@pytest.mark.parametrize("drafted", [0, 3])
def test_the_past_is_what_came_before_all_tokens_of_a_step(drafted: int) -> None:
    """64 tokens of context with four of them new have 60 behind them."""
    graph = build_graph(load_model(R1), Dense(), Precision(), 8, draft=Draft(drafted))
    module = next(op.module for op in graph.operators if op.name == "attention_decode [moe]")
    assert module is not None
    queries = drafted + 1
    shape = StepShape(8 * queries, 8 * queries, 8, (8 * 64,))
    (step, _), columns = alone(module, "decode", shape, graph.decode_caps, queries)
    assert step.decode_kv == (8 * 64,)
    assert (columns["batch"], columns["query_len"], columns["past_len"]) == (8, queries, 64 - queries)
    _, columns = alone(module, "decode", shape._replace(decode_kv=(8,)), graph.decode_caps, queries)
    assert columns["past_len"] == 0


def test_a_mixed_step_runs_the_projections_once() -> None:
    found = cost(R1)
    both, decode, prefill = (
        step_shape(found, phase=phase, batch=batch, context=4096, query=1024)
        for phase, batch in (("mixed", 32), ("decode", 32), ("prefill", 1))
    )
    assert block_seconds(found, both) < block_seconds(found, decode) + block_seconds(found, prefill)
    for op in members(found):
        if op.axis == "decode":
            assert found.operator_seconds(op, both) == found.operator_seconds(op, decode)
        if op.axis == "prefill":
            assert found.operator_seconds(op, both) == found.operator_seconds(op, prefill)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(R1, "mla_module"), (SPARSE, "dsa_module")]),
    st.sampled_from([-3.0, 0.0, 1.0]),
    st.integers(1, 64),
    st.integers(1, 60_000),
)
def test_no_part_is_quicker_than_ideal(of: tuple[str, str], slower: float, seqs: int, context: int) -> None:
    """However little of a block its projections leave."""
    found, ideal = cost(of[0], kind=of[1], slower=slower), ideal_cost(of[0])
    shape = step_shape(found, phase="decode", batch=seqs, context=context)
    for op in members(found):
        if op.axis == "decode":
            least = op.count * ideal.terms(op, shape).seconds
            assert found.operator_seconds(op, shape) >= least * (1 - 1e-3)  # joined by lines between knots


@cache
def ideal_cost(model: str) -> StepCost:
    graph = build_graph(load_model(model), Dense(), Precision(), 8)
    return StepCost(graph, H200, load_profile("ideal"), max_tokens=64, max_seqs=64, max_context=65_536)


def test_blocks_are_those_of_the_engine_asked_for() -> None:
    """Only vLLM's were measured; what another engine is asked for has the kernels of the parts."""
    op = next(op for op in members(cost(R1)) if op.name == "attention_decode [moe]")
    assert calibrated("vllm-1").whole(op) is not None
    assert calibrated("vllm-1", direct="vllm-1").whole(op) is not None
    assert calibrated("sglang-1").whole(op) is None
    choice = calibrated("vllm-1").choice(op)
    assert choice is not None and choice.group.kind == "mla_module"
    projection = next(op for op in members(cost(R1)) if op.name == "q_up_proj [moe]")
    assert calibrated("vllm-1").whole(projection) is None
    choice = calibrated("vllm-1").choice(projection)
    assert choice is not None and choice.group.kind == "gemm"


def test_an_engine_keeps_its_blocks_in_other_formats() -> None:
    """SGLang's were measured with projections in fp8 by blocks only; its attention is the same with others."""
    mine, other = (
        [replace_label(g, gemm_dtype=dtype) for g in blocks("dsa_module", 1.0)] for dtype in ("fp8_block", "bf16")
    )
    made = (profile("h200-sxm@sglang-1", tuple(mine)), profile("h200-sxm@vllm-1", tuple(other)))
    op = by_name(cost(SPARSE, kind="dsa_module"))["attention_decode [moe]"]
    for software in ("sglang-1", "vllm-1"):
        found = Calibrated(H200, Selection(H200, software, library=Library(made)), load_profile(FALLBACK)).whole(op)
        assert found is not None and found.main.profile == f"h200-sxm@{software}"


def test_what_is_beyond_the_projections_does_not_depend_on_their_format() -> None:
    """The block was measured in bf16. With an output projection in nvfp4, or all of them, attention takes as long."""
    gpu, parts = load_gpu("b200-sxm"), [group(part, no_trees()) for part in PARTS]
    made = profile("b200-sxm@vllm-1", (*parts, *blocks("mla_module", 1.0)))
    calibrated = Calibrated(gpu, Selection(gpu, "vllm-1", library=Library([made])), load_profile(FALLBACK))
    seconds = []
    for formats in ({}, {"output": "nvfp4"}, {"attention": "nvfp4"}):
        graph = build_graph(load_model(R1), Dense(), Precision(**formats), 8)
        found = StepCost(graph, gpu, calibrated, max_tokens=8192, max_seqs=64, max_context=65_536)
        shape = step_shape(found, phase="mixed", batch=16, context=4096, query=2048)
        times = {name: found.operator_seconds(op, shape) for name, op in by_name(found).items()}
        seconds.append([times[f"{name} [moe]"] for name in ("attention_decode", "attention_prefill", "o_proj")])
    assert seconds[0][:2] == seconds[1][:2] == seconds[2][:2]
    assert seconds[0][2] > seconds[1][2] == seconds[2][2]


def test_gpus_that_nobody_measured_take_what_is_pooled() -> None:
    """Pooled over formats and models, of which the physics is told those asked for."""
    gpu = load_gpu("mi300x")
    pooled = {"kernel": "pooled", "gemm_dtype": "default", "kv_dtype": "default", "model": "default"}
    made = (group("gemm"), *(replace_label(g, **pooled) for g in blocks("dsa_module", 1.0)[:2]))
    calibrated = Calibrated(
        gpu, Selection(gpu, "vllm-1", library=Library([profile("transfer", made)])), load_profile(FALLBACK)
    )
    graph = build_graph(load_model(SPARSE), Dense(), Precision(attention="fp8_block"), 8)
    found = StepCost(graph, gpu, calibrated, max_tokens=512, max_seqs=8, max_context=8192)
    op = by_name(found)["attention_decode [moe]"]
    assert calibrated.whole(op) is not None
    assert found.operator_seconds(op, step_shape(found, phase="mixed", batch=7, context=4096, query=256)) > 0


def replace_label(of: Group, **texts: str) -> Group:
    return dataclasses.replace(of, label={**of.label, **texts})


def test_a_policy_has_no_block() -> None:
    """Blocks were measured with attention to everything."""
    graph = build_graph(load_model(R1), TopK(kind="top_k", budget=64), Precision(), 8)
    assert all(op.module is None for op in graph.operators)


def test_sparse_attention_grows_by_the_whole_past() -> None:
    """Its time is a share of the block's, which goes by all that the index reads."""
    found = cost(SPARSE, kind="dsa_module")
    whole, capped = found.decode_caps.index(None), found.decode_caps.index(2048)
    core = {op.name: extent for op, extent in zip(found.decode_ops, found.decode_extents, strict=True) if is_core(op)}
    assert set(core.values()) == {whole} and "attention_decode [moe]" in core
    assert by_name(found)["attention_decode [moe]"].dims.extent == capped
    plain = ideal_cost(SPARSE)
    assert capped in plain.decode_extents


def by_name(found: StepCost) -> dict[str, Operator]:
    return {op.name: op for op in found.operators}


def test_absorption_of_prompts_is_a_part_of_the_block() -> None:
    """Where everything is read some kernels expand keys and values instead; in decode all absorb, in kernels of their
    own.
    """
    ops = by_name(cost(SPARSE, kind="dsa_module"))
    assert is_core(ops["absorb_query_prefill [moe]"]) and not is_core(ops["absorb_query_decode [moe]"])
    assert not any(is_core(op) for op in ops.values() if op.axis == "tokens")


def test_a_bump_does_not_lift_what_comes_after_it() -> None:
    """5, 2 and 3 become their mean; what never falls stays as it is."""
    rows = np.array([[1.0, 5.0, 2.0, 3.0, 9.0], [1.0, 1.0, 2.0, 3.0, 3.0]])
    assert rising(rows)[0] == pytest.approx([1, 10 / 3, 10 / 3, 10 / 3, 9])
    assert np.array_equal(rising(rows)[1], rows[1])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(0.1, 10), min_size=7, max_size=7), min_size=1, max_size=4))
def test_rows_that_never_fall(values: list[list[float]]) -> None:
    """They rise, add up to what they were made of, and are no farther from it than the running maximum."""
    rows = np.array(values)
    found = rising(rows)
    assert (np.diff(found, axis=1) >= 0).all()
    assert found.sum(axis=1) == pytest.approx(rows.sum(axis=1))
    highest = np.maximum.accumulate(rows, axis=1)
    assert (((found - rows) ** 2).sum(axis=1) <= ((highest - rows) ** 2).sum(axis=1) * (1 + 1e-9) + 1e-12).all()


def test_layers_share_what_is_chosen() -> None:
    """Blocks of dense layers and of those with experts are the same kernels."""
    found = cost(R1)
    dense, moe = members(found, " [dense]"), members(found)
    assert [op.name.split(" ")[0] for op in dense] == [op.name.split(" ")[0] for op in moe]
    shape = step_shape(found, phase="decode", batch=8, context=2048)
    for a, b in zip(dense, moe, strict=True):
        assert found.operator_seconds(a, shape) / 3 == pytest.approx(found.operator_seconds(b, shape) / 58, rel=1e-6)
        assert dataclasses.replace(a.module, block="") == dataclasses.replace(b.module, block="")  # type: ignore[type-var]


def test_batches_that_a_benchmark_launched_eagerly_do_not_correct_a_step() -> None:
    """SGLang's decode was timed in CUDA graphs up to 256 sequences; what was learned beyond is its host's."""
    module = members(cost(SPARSE, kind="dsa_module"))[0].module
    assert module is not None
    columns = block_columns(module, 1024, 1, 511)
    for kernel, at in (("sglang_dsa_indexer_fa3", 256.0), ("FLASHMLA_SPARSE", 1024.0)):
        label = LABELS["dsa_module"] | {"kernel": kernel}
        ranges = RANGES["dsa_module"] | {"batch": (1.0, 1024.0)}
        lattice = LATTICES["dsa_module"] | {"batch": 4.0 ** np.arange(6)}
        made = group("dsa_module", label=label, ranges=ranges, lattice=lattice)
        corrected = {
            n: float(made.estimate(columns, H200, lookup={"batch": n}, cold=True).seconds) for n in (256.0, 1024.0)
        }
        assert corrected[256.0] != corrected[1024.0], "the trees do something"
        found, _ = estimate(Whole(Choice(made, "made", "exact", None)), module, "decode", columns, H200)
        assert float(found) == corrected[at]
