"""The interval of a run: by hand for two kernels, and what it says of each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from madeprofiles import RANGES, group, no_trees, profile

from hwspecs.gpu import load_gpu
from simulator.accounting import OperatorTotals
from simulator.calibrated import FALLBACK, Calibrated
from simulator.exchange import Exchange
from simulator.fitted import WIDEN, ErrorBand, Fitted, Group
from simulator.interval import ASSUMED, run_interval
from simulator.operators import Operator
from simulator.profile import load_profile
from simulator.running import run_scenario
from simulator.selection import Library, Selection
from simulator.stepcost import StepCost
from simulator.stepgraph import Layout, Precision, build_graph
from simulator.timeline import Timeline, column_names
from workloads.attention import Dense
from workloads.model import load_model
from workloads.scenario import load_scenario

H200 = load_gpu("h200-sxm")
GEMM, DECODE = ErrorBand(math.log(0.9), math.log(1.2), 0.05, 500), ErrorBand(math.log(0.8), math.log(1.1), 0.07, 300)
MEMORY = ErrorBand(math.log(0.7), math.log(1.4), 0.15, 60)


def groups(**gemm: Any) -> tuple[Group, ...]:
    return (
        group("gemm", no_trees(), **{"errors": {"all": GEMM, "memory": MEMORY}, **gemm}),
        group("attention_decode", no_trees(), errors={"all": DECODE}),
        group("attention_prefill", no_trees()),
    )


def compiled(gpu: str = "h200-sxm", library: Library | None = None, *, chosen: Fitted | None = None) -> StepCost:
    """Qwen3-0.6B on one GPU with made profiles."""
    library = library or Library([profile("h200-sxm@vllm-0.24.0", groups())])
    cost = Calibrated(load_gpu(gpu), Selection(load_gpu(gpu), None, chosen, library), load_profile(FALLBACK))
    graph = build_graph(load_model("Qwen/Qwen3-0.6B"), Dense(), Precision())
    return StepCost(graph, load_gpu(gpu), cost, max_tokens=64, max_seqs=4, max_context=512)


def totals(cost: StepCost, seconds: dict[str, dict[str, float]]) -> list[OperatorTotals]:
    """Seconds by bound of some operators, by name; the others did nothing."""

    def one(op: Operator) -> OperatorTotals:
        by_bound = seconds.get(op.name, {})
        return OperatorTotals(op.name, op.kind, sum(by_bound.values()), by_bound, *[0.0] * 8)

    assert set(seconds) <= {op.name for op in cost.operators}
    return [one(op) for op in cost.operators]


def names(cost: StepCost, kind: str) -> list[str]:
    return [op.name for op in cost.operators if op.kind == kind]


def test_by_hand() -> None:
    """One kernel's errors add up, two kernels' as squares."""
    cost = compiled()
    first, second, *_ = names(cost, "gemm")
    decode = names(cost, "attention_decode")[0]
    spent = totals(cost, {first: {"compute": 2.0}, second: {"compute": 1.0, "memory": 1.0}, decode: {"memory": 6.0}})
    found = run_interval(cost, spent, makespan=20.0, busy=0.5, tpot=0.01)
    assert found is not None
    low_gemm, high_gemm = 3 * 0.1 + 1 * 0.3, 3 * 0.2 + 1 * 0.4
    low_decode, high_decode = 6 * 0.2, 6 * 0.1
    low, high = math.hypot(low_gemm, low_decode) / 10, math.hypot(high_gemm, high_decode) / 10
    assert found["kernel_time"] == pytest.approx([1 - low, 1 + high])
    assert found["makespan_s"] == pytest.approx([20 * (1 - low / 2), 20 * (1 + high / 2)])
    assert found["tpot_s"] == pytest.approx([0.01 * (1 - low), 0.01 * (1 + high)])
    assert found["coverage"] == 0.8
    decode_entry, gemm_entry = found["kernels"]
    assert (decode_entry["kind"], gemm_entry["kind"]) == ("attention_decode", "gemm"), "the largest first"
    assert decode_entry["share"] == pytest.approx(0.6) and gemm_entry["share"] == pytest.approx(0.4)
    assert decode_entry["interval"] == pytest.approx([0.8, 1.1])
    assert gemm_entry["interval"] == pytest.approx([1 - low_gemm / 4, 1 + high_gemm / 4])
    assert {entry["status"] for entry in found["kernels"]} == {"interpolated"}
    assert {entry["profile"] for entry in found["kernels"]} == {"h200-sxm@vllm-0.24.0"}
    assert (decode_entry["mape"], gemm_entry["mape"]) == (0.07, 0.05)
    assert (decode_entry["format"], gemm_entry["format"]) == ("bf16 bf16", "bf16") or decode_entry["format"] == "bf16"


def test_what_is_not_known_stays_none() -> None:
    cost = compiled()
    spent = totals(cost, {names(cost, "gemm")[0]: {"compute": 2.0}})
    found = run_interval(cost, spent, makespan=None, busy=1.0, tpot=None)
    assert found is not None and found["makespan_s"] is None and found["tpot_s"] is None
    assert found["kernel_time"] == pytest.approx([0.9, 1.2])
    assert run_interval(cost, totals(cost, {}), makespan=0.0, busy=0.0, tpot=None) is None, "nothing ran"


def test_no_interval_without_a_fitted_profile() -> None:
    graph = build_graph(load_model("Qwen/Qwen3-0.6B"), Dense(), Precision())
    cost = StepCost(graph, H200, load_profile("ideal"), max_tokens=64, max_seqs=4, max_context=512)
    assert run_interval(cost, totals(cost, {}), makespan=1.0, busy=1.0, tpot=None) is None


def test_a_rule_of_thumb_is_right_to_half() -> None:
    cost = compiled()
    norm = names(cost, "elementwise")[0]
    found = run_interval(cost, totals(cost, {norm: {"memory": 1.0}}), makespan=1.0, busy=1.0, tpot=None)
    assert found is not None
    assert found["kernel_time"] == pytest.approx([1 / 1.5, 1.5])
    assert found["kernels"][0]["status"] == "assumed" and found["kernels"][0]["mape"] is None
    assert ASSUMED.rows == 0


def test_widths_that_were_never_measured_are_twice_as_uncertain() -> None:
    """The model's widths, not the step's tokens, decide: those vary from step to step."""
    narrow = {**RANGES["gemm"], "n": (8192.0, 65536.0)}
    library = Library([profile("h200-sxm@vllm-0.24.0", groups(ranges=narrow))])
    cost = compiled(library=library)
    by_width = {op.name: op.dims.n for op in cost.operators if op.kind == "gemm"}  # type: ignore[union-attr]
    outside = next(name for name, n in by_width.items() if n < 8192)
    found = run_interval(cost, totals(cost, {outside: {"compute": 1.0}}), makespan=1.0, busy=1.0, tpot=None)
    assert found is not None
    assert found["kernel_time"] == pytest.approx([0.9**WIDEN, 1.2**WIDEN])
    assert found["kernels"][0]["status"] == "extrapolated"
    few = {**RANGES["gemm"], "m": (2.0, 4.0)}
    steps = compiled(library=Library([profile("h200-sxm@vllm-0.24.0", groups(ranges=few))]))
    found = run_interval(steps, totals(steps, {outside: {"compute": 1.0}}), makespan=1.0, busy=1.0, tpot=None)
    assert found is not None and found["kernels"][0]["status"] == "interpolated"


def test_one_kernel_goes_one_way_inside_and_outside_of_its_ranges() -> None:
    narrow = {**RANGES["gemm"], "n": (4096.0, 65536.0)}
    cost = compiled(library=Library([profile("h200-sxm@vllm-0.24.0", groups(ranges=narrow))]))
    by_width = {op.name: op.dims.n for op in cost.operators if op.kind == "gemm"}  # type: ignore[union-attr]
    outside = next(name for name, n in by_width.items() if n < 4096)
    inside = next(name for name, n in by_width.items() if 4096 <= n <= 65536)
    spent = totals(cost, {outside: {"compute": 1.0}, inside: {"compute": 1.0}})
    found = run_interval(cost, spent, makespan=1.0, busy=1.0, tpot=None)
    assert found is not None and {k["status"] for k in found["kernels"]} == {"interpolated", "extrapolated"}
    assert found["kernel_time"] == pytest.approx([(0.9 + 0.9**WIDEN) / 2, (1.2 + 1.2**WIDEN) / 2])


def test_a_carried_profile_has_the_errors_of_carrying() -> None:
    sibling, foreign = ErrorBand(-0.2, 0.3, 0.12, 900), ErrorBand(-0.5, 0.6, 0.3, 900)
    pooled = (group("gemm", no_trees(), label={"kernel": "pooled", "dtype": "bf16"}),)
    library = Library(
        [
            profile("h200-sxm@vllm-0.24.0", groups()),
            profile("transfer", pooled, carried={"gemm": {"sibling": sibling, "foreign": foreign}}),
        ]
    )
    for gpu, errors in (("gh200", sibling), ("l40s", foreign)):
        cost = compiled(gpu, library)
        spent = totals(cost, {names(cost, "gemm")[0]: {"memory": 1.0}})
        found = run_interval(cost, spent, makespan=1.0, busy=1.0, tpot=None)
        assert found is not None
        assert found["kernel_time"] == pytest.approx([math.exp(errors.low), math.exp(errors.high)])
        assert found["kernels"][0]["status"] == "transferred" and found["kernels"][0]["mape"] == errors.mape


def test_never_below_nothing() -> None:
    wild = {"all": ErrorBand(-8.0, 0.1, 1.0, 10)}
    cost = compiled(library=Library([profile("h200-sxm@vllm-0.24.0", groups(errors=wild))]))
    spent = totals(cost, {name: {"compute": 1.0} for name in names(cost, "gemm")})
    found = run_interval(cost, spent, makespan=1.0, busy=1.0, tpot=1.0)
    assert found is not None
    assert 0 <= found["makespan_s"][0] < 0.01 and 0 <= found["tpot_s"][0] < 0.01


@pytest.mark.parametrize(("most_heads", "status"), [(128.0, "interpolated"), (8.0, "extrapolated")])
def test_a_block_timed_as_a_whole_is_asked_for_its_own_columns(most_heads: float, status: str) -> None:
    """16 of DeepSeek-V3.2's heads on a GPU; the block's ranges name its indexer, which no operator's own shape has."""
    ranges = RANGES["dsa_module"] | {"q_heads": (1.0, most_heads)}
    made = (group("gemm", no_trees()), group("dsa_module", no_trees(), ranges=ranges))
    library = Library([profile("h200-sxm@vllm-0.24.0", made)])
    fitted = Calibrated(H200, Selection(H200, None, None, library), load_profile(FALLBACK))
    graph = build_graph(load_model("deepseek-v3.2"), Dense(), Precision(), 8)
    cost = StepCost(graph, H200, fitted, max_tokens=64, max_seqs=4, max_context=4096)
    busy = {name: {"memory": 1.0} for name in names(cost, "mla_decode")}
    found = run_interval(cost, totals(cost, busy), makespan=None, busy=2.0, tpot=0.01)
    assert found is not None
    assert {entry["status"] for entry in found["kernels"]} == {status}


def test_outside_is_said_on_a_gpu_that_kernels_were_carried_to() -> None:
    """`transferred` is one thing and `outside` another."""
    sibling = ErrorBand(-0.2, 0.3, 0.12, 900)
    narrow = {**RANGES["gemm"], "n": (65536.0, 65537.0)}
    pooled = (group("gemm", no_trees(), label={"kernel": "pooled", "dtype": "bf16"}),)
    carried = profile("transfer", pooled, carried={"gemm": {"sibling": sibling}})
    for ranges, outside in ((RANGES["gemm"], False), (narrow, True)):
        made = profile("h200-sxm@vllm-0.24.0", groups(ranges=ranges))
        cost = compiled("gh200", Library([made, carried]))
        spent = totals(cost, {names(cost, "gemm")[0]: {"memory": 1.0}})
        found = run_interval(cost, spent, makespan=1.0, busy=1.0, tpot=None)
        assert found is not None
        assert [(k["status"], k["outside"]) for k in found["kernels"]] == [("transferred", outside)]
        wide = WIDEN if outside else 1.0
        assert found["kernel_time"] == pytest.approx([math.exp(-0.2 * wide), math.exp(0.3 * wide)])


def steps(cost: StepCost, **columns: float) -> Timeline:
    """One step."""
    every = column_names(len(cost.decode_caps), len(cost.decode_ops), len(cost.prefill_caps))
    return Timeline({name: np.array([columns.get(name, 0.0)]) for name in every})


@pytest.mark.parametrize(("keys", "outside"), [(100.0, False), (101.0, True)])
def test_a_prompt_with_a_past_is_outside_of_a_table_without_one(keys: float, outside: bool) -> None:
    cost = compiled()
    spent = totals(cost, {names(cost, "attention_prefill")[0]: {"compute": 1.0}})
    chunks = {"tokens": 100.0, "rows": 1.0, "prefill_tokens": 100.0, "prefill_seqs": 1.0, "prefill_pairs.0": 5050.0}
    timeline = steps(cost, **chunks, **{"prefill_kv.0": keys})
    found = run_interval(cost, spent, makespan=1.0, busy=1.0, tpot=None, timeline=timeline)
    assert found is not None and [k["outside"] for k in found["kernels"]] == [outside]


@pytest.mark.parametrize(
    ("gpus", "tokens", "sms", "outside"),
    [
        (8, 8 * 100.0, 0.0, False),
        (8, 8 * 300.0, 0.0, True),  # more tokens of a GPU than the kernel's buffers had in any measurement
        (32, 32 * 100.0, 0.0, True),  # more GPUs
        (8, 8 * 100.0, 20.0, False),  # measured with 20 SMs, used with those that the kernel takes by itself
    ],
)
def test_an_all_to_all_beyond_its_table(gpus: int, tokens: float, sms: float, outside: bool) -> None:
    ranges = RANGES["expert_all_to_all"] | {"tokens": (16.0, 256.0), "sms": (sms, sms)}
    label = {"kernel": "deepep_ll", "dtype": "bf16", "mode": "ll"}
    made = tuple(
        group("expert_all_to_all", no_trees(), ranges=ranges, label=label | {"phase": phase})
        for phase in ("dispatch", "combine")
    )
    library = Library([profile("h200-sxm@vllm-0.24.0", (*groups(), group("moe", no_trees()), *made))])
    gpu = load_gpu("h200-sxm").with_values({"link.domain": 64})
    fitted = Calibrated(gpu, Selection(gpu, None, "h200-sxm@vllm-0.24.0", library), load_profile(FALLBACK))
    layout = Layout(1, attention_data=gpus, expert=gpus, all_to_all="low_latency")
    graph = build_graph(load_model("Qwen/Qwen3-30B-A3B"), Dense(), Precision(), layout)
    cost = StepCost(graph, gpu, fitted, max_tokens=64, max_seqs=gpus, max_context=512)
    busy = {op.name: {"link": 1.0} for op in cost.operators if isinstance(op.dims, Exchange)}
    timeline = steps(cost, tokens=tokens, rows=tokens, decode_seqs=tokens)
    few = steps(cost, tokens=float(gpus), rows=float(gpus), decode_seqs=float(gpus))
    for line, wanted in ((timeline, outside), (few, outside and gpus == 32)):
        found = run_interval(cost, totals(cost, busy), makespan=None, busy=1.0, tpot=0.01, timeline=line)
        assert found is not None and {k["outside"] for k in found["kernels"]} == {wanted}


def test_a_rack_says_what_of_it_nobody_measured() -> None:
    """Its all-to-all runs among 32 GPUs and was measured among 8, and it is vLLM's: SGLang's is in no table."""
    rack = load_scenario("deepseek-r1-gb200-rack", ["workload.requests=40"])
    notes = [note for note in run_scenario(rack).notes if note.startswith("decode workers: ")]
    for status in ("extrapolated", "transferred"):
        (note,) = (note for note in notes if note.startswith(f"decode workers: {status}: a kernel"))
        assert note.count("expert_all_to_all") == 1 and "b200-sxm@vllm-0.24.0" in note
        assert "sglang" not in note, "all kernels are carried: that those are too is said once"
