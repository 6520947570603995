"""Physics of whole runs: what a change of hardware or policy must do to the makespan, whatever the numbers are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.policy import Status
from simulator.result import Result
from simulator.running import deploy, run_scenario
from simulator.stepgraph import Precision, build_graph
from workloads.attention import Dense
from workloads.model import load_model
from workloads.scenario import load_scenario

UNIFORM = {
    "prompt_tokens": {"kind": "uniform", "low": 20, "high": 300},
    "output_tokens": {"kind": "uniform", "low": 1, "high": 400},
}
DECODE = {"prompt_tokens": 10, "output_tokens": {"kind": "uniform", "low": 200, "high": 600}}
PREFILL = {"prompt_tokens": {"kind": "uniform", "low": 2000, "high": 6000}, "output_tokens": 1}


def scenario(**changes: Any) -> dict[str, Any]:
    """A small scenario; `lengths`, `requests`, `strategy`, `arrivals` go into its workload."""
    workload = {
        "strategy": changes.pop("strategy", "chat"),
        "requests": changes.pop("requests", 40),
        **changes.pop("lengths", UNIFORM),
    }
    for key in ("arrivals", "timeout"):
        if key in changes:
            workload[key] = changes.pop(key)
    base = {"gpu": "h200-sxm", "model": "Qwen/Qwen3-0.6B", "profile": "ideal", "seed": 5}
    engine = {"max_num_batched_tokens": 1024, "max_model_len": 8192} | changes.pop("engine", {})
    return base | {"engine": engine} | changes | {"workload": workload}


def run(**changes: Any) -> Result:
    return run_scenario(load_scenario(scenario(**changes)))


def makespan(**changes: Any) -> float:
    return run(**changes).summary["makespan_s"]


def scaled(gpu: str, *figures: str, factor: float = 2.0) -> dict[str, Any]:
    """A GPU with some figures multiplied."""
    spec = load_gpu(gpu)
    units = {"bandwidth": "B/s", "peak": "FLOP/s"}
    changed: dict[str, Any] = {"base": gpu}
    for figure in figures:
        if figure == "peak":
            changed["peak"] = {dtype: f"{factor * rate!r} FLOP/s" for dtype, rate in spec.peak.items()}
            continue
        part, name = figure.split(".")
        changed.setdefault(part, {})[name] = f"{factor * getattr(getattr(spec, part), name)!r} {units[name]}"
    return changed


EVERYTHING = ("peak", "memory.bandwidth", "l2.bandwidth", "link.bandwidth")


@pytest.mark.parametrize("gpu", ["h200-sxm", "b200-sxm", "l40s", "mi300x"])
@pytest.mark.parametrize("lengths", [UNIFORM, DECODE, PREFILL], ids=["mixed", "decode", "prefill"])
def test_everything_twice_as_fast_takes_half_as_long(gpu: str, lengths: dict[str, Any]) -> None:
    base, fast = (run(gpu=g, lengths=lengths) for g in (gpu, scaled(gpu, *EVERYTHING)))
    assert fast.summary["makespan_s"] == pytest.approx(base.summary["makespan_s"] / 2, rel=1e-9)
    assert fast.requests["finish_s"] == pytest.approx(base.requests["finish_s"] / 2, rel=1e-9)
    assert fast.summary["utilisation"]["mbu"] == pytest.approx(base.summary["utilisation"]["mbu"], rel=1e-9)
    assert fast.summary["utilisation"]["mfu"] == pytest.approx(base.summary["utilisation"]["mfu"], rel=1e-9)


def test_everything_twice_as_fast_with_tensor_parallelism_and_moe() -> None:
    changes: dict[str, Any] = {"model": "Qwen/Qwen3-30B-A3B", "parallelism": {"tensor": 2}, "requests": 10}
    slow, fast = makespan(**changes), makespan(gpu=scaled("h200-sxm", *EVERYTHING), **changes)
    assert fast == pytest.approx(slow / 2, rel=1e-9)


@pytest.mark.parametrize("profile", ["ideal", "rule-of-thumb"])
@pytest.mark.parametrize("figure", EVERYTHING)
@pytest.mark.parametrize("lengths", [UNIFORM, DECODE, PREFILL], ids=["mixed", "decode", "prefill"])
def test_one_faster_resource_helps_between_not_and_twice(figure: str, lengths: dict[str, Any], profile: str) -> None:
    # All at once and with room for all: the order of events, and so the batches, are the same whatever a step takes.
    slow = makespan(lengths=lengths, profile=profile)
    fast = makespan(lengths=lengths, profile=profile, gpu=scaled("h200-sxm", figure))
    assert slow / 2 * (1 - 1e-9) <= fast <= slow * (1 + 1e-12)


def test_decode_gains_from_memory_and_prefill_from_compute() -> None:
    for lengths, helps, idle in ((DECODE, "memory.bandwidth", "peak"), (PREFILL, "peak", "memory.bandwidth")):
        slow = makespan(lengths=lengths)
        assert slow / makespan(lengths=lengths, gpu=scaled("h200-sxm", helps)) > 1.4
        assert slow / makespan(lengths=lengths, gpu=scaled("h200-sxm", idle)) < 1.1


def test_without_neighbours_the_link_does_not_matter() -> None:
    assert makespan() == makespan(gpu=scaled("h200-sxm", "link.bandwidth"))
    assert makespan(parallelism={"tensor": 2}) > makespan(
        parallelism={"tensor": 2}, gpu=scaled("h200-sxm", "link.bandwidth")
    )


@pytest.mark.parametrize("profile", ["ideal", "rule-of-thumb"])
@pytest.mark.parametrize("kind", ["top_k", "sliding_window"])
def test_a_budget_beyond_every_context_is_dense(kind: str, profile: str) -> None:
    """To the last bit: 700 tokens hold any request of the workload."""
    size = "budget" if kind == "top_k" else "window"
    dense, capped = run(profile=profile), run(profile=profile, attention={"kind": kind, size: 700})
    for name, column in dense.requests.items():
        assert np.array_equal(column, capped.requests[name], equal_nan=column.dtype.kind == "f"), name
    assert capped.summary["makespan_s"] == dense.summary["makespan_s"]
    assert capped.summary["cost"] == dense.summary["cost"]
    assert capped.summary["work"] == dense.summary["work"]


@pytest.mark.parametrize("kind", ["top_k", "sliding_window"])
def test_smaller_budgets_take_less(kind: str) -> None:
    size = "budget" if kind == "top_k" else "window"
    found = [makespan(lengths=DECODE, attention={"kind": kind, size: budget}) for budget in (16, 64, 256, 700)]
    assert found == sorted(found) and found[0] < found[-1]


def test_block_top_k_beyond_every_context_only_adds_the_search() -> None:
    dense = run()
    blocks = run(attention={"kind": "block_top_k", "blocks": 100})
    assert blocks.summary["makespan_s"] > dense.summary["makespan_s"]
    of_dense, of_blocks = ({op["name"]: op for op in r.operators} for r in (dense, blocks))
    assert set(of_blocks) - set(of_dense) == {"page_summary", "page_scores", "page_select"}
    for name, op in of_dense.items():
        assert of_blocks[name]["flops"] == pytest.approx(op["flops"], rel=1e-12), name


def test_one_gpu_does_not_communicate() -> None:
    for tensor in (1, 2):
        operators = run(parallelism={"tensor": tensor}).operators
        comm = [op for op in operators if op["kind"] in ("all_reduce", "all_gather") or op["comm_bytes"]]
        assert bool(comm) == (tensor > 1)


def test_rule_of_thumb_is_slower_than_ideal() -> None:
    for lengths in (UNIFORM, DECODE, PREFILL):
        assert makespan(lengths=lengths) < makespan(lengths=lengths, profile="rule-of-thumb")


def test_a_makespan_cannot_beat_its_work() -> None:
    """FLOPs at the peak and bytes at the bandwidth are lower bounds of the ideal run."""
    gpu = load_gpu("h200-sxm")
    for lengths in (UNIFORM, DECODE, PREFILL):
        summary = run(lengths=lengths).summary
        assert summary["makespan_s"] >= summary["work"]["flops"] / gpu.peak["bf16"] * (1 - 1e-12)
        assert summary["makespan_s"] >= summary["work"]["hbm_bytes"] / gpu.memory.bandwidth * (1 - 1e-12)


def test_a_single_request_by_the_sum_of_its_steps() -> None:
    """One request alone: a prefill and then one decode step a token, from StepCost alone."""
    from simulator.policy import TICKS_PER_SECOND
    from simulator.shape import PrefillShape, StepShape

    for profile in ("ideal", "rule-of-thumb"):
        given = scenario(requests=1, lengths={"prompt_tokens": 100, "output_tokens": 50}, profile=profile)
        loaded = load_scenario(given)
        cost = deploy(loaded).cost
        prefill = StepShape(100, 1, 0, (0,), PrefillShape(100, 1, (5050,), (100,)))
        ticks = [cost.step_ticks(prefill)] + [cost.step_ticks(StepShape(1, 1, 1, (100 + t,))) for t in range(1, 50)]
        found = run_scenario(loaded)
        assert found.requests["first_token_s"][0] == ticks[0] / TICKS_PER_SECOND
        assert found.requests["finish_s"][0] == sum(ticks) / TICKS_PER_SECOND
        assert found.summary["batch"]["steps"] == 50


def test_sharing_a_prompt_saves_its_prefill() -> None:
    lengths = {"prompt_tokens": 1600, "output_tokens": 20}
    strategy = {"kind": "best_of_n", "samples": 8}
    shared = run(requests=3, lengths=lengths, strategy=strategy)
    apart = run(requests=3, lengths=lengths, strategy=strategy, engine={"prefix_sharing": False})
    assert apart.summary["tokens"]["prefilled"] == 24 * 1600 and apart.summary["tokens"]["prefix_hit"] == 0
    # 99 of the 100 blocks of 16 tokens can be shared, since one token at least has to be computed.
    assert shared.summary["tokens"]["prefix_hit"] == 3 * 7 * 99 * 16
    assert shared.summary["tokens"]["prefilled"] == 24 * 1600 - 3 * 7 * 99 * 16
    assert shared.summary["makespan_s"] < apart.summary["makespan_s"]


def test_replicas_share_the_work() -> None:
    one, four = run(lengths=DECODE, requests=64), run(lengths=DECODE, requests=64, replicas=4)
    assert one.summary["makespan_s"] / 4 < four.summary["makespan_s"] <= one.summary["makespan_s"]
    assert four.summary["cost"]["gpus"] == 4
    assert np.bincount(four.requests["replica"]).tolist() == [16] * 4
    assert four.summary["tokens"]["output"] == one.summary["tokens"]["output"]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 64), st.integers(0, 10**6))
def test_more_seats_do_not_lose_a_token(seats: int, seed: int) -> None:
    found = run(engine={"max_num_seqs": seats}, seed=seed, requests=20)
    assert (found.requests["status"] == Status.FINISHED).all()
    assert (found.requests["generated"] == found.requests["output_tokens"]).all()
    rows = found.timeline["decode_seqs"] + found.timeline["prefill_seqs"]
    assert rows.max() <= seats
    assert (found.requests["finish_s"] <= found.summary["makespan_s"]).all()


def test_nothing_of_the_order_of_requests_is_lost_in_a_slow_stream() -> None:
    """Far apart, requests do not meet: each takes what it takes alone."""
    lengths = {"prompt_tokens": 100, "output_tokens": 50}
    alone = makespan(requests=1, lengths=lengths)
    far = run(requests=5, lengths=lengths, arrivals={"kind": "poisson", "rate": "0.01 /s"})
    assert far.requests["finish_s"] - far.requests["submitted_s"] == pytest.approx([alone] * 5, rel=1e-9)
    assert far.summary["utilisation"]["busy"] < 0.1


# ---- what cannot be served -------------------------------------------------------------------------------------------


def refused(place: str, *words: str, **changes: Any) -> None:
    with pytest.raises(InputError) as caught:
        run(**changes)
    assert caught.value.place == place, str(caught.value)
    for word in ("<dict>", *words):
        assert word in str(caught.value), str(caught.value)


def test_scenarios_that_cannot_be_served_say_why() -> None:
    small = {"base": "h200-sxm", "memory": {"capacity": "2 GB"}}
    refused("model", "does not fit", "at least 4 GPUs (parallelism.tensor = 4)", gpu=small, engine={"max_num_seqs": 8})
    tight = {"base": "h200-sxm", "memory": {"capacity": "3.3 GB"}}
    refused("engine", "KV cache", "tokens", gpu=tight, lengths={"prompt_tokens": 7000, "output_tokens": 100})
    long = {"prompt_tokens": 300, "output_tokens": 100}
    words = ("every request is longer", "at least 400")
    refused("engine.max_model_len", *words, lengths=long, engine={"max_model_len": 200})
    refused("parallelism.tensor", "does not divide", "found 3", parallelism={"tensor": 3})
    lonely = {"base": "h200-sxm", "scale_out": None}
    refused("parallelism.tensor", "beyond the 8 GPUs", gpu=lonely, parallelism={"tensor": 16})
    refused("profile", "unknown profile", "rule-of-thumb", profile="rule")


def test_rejected_requests_are_counted_and_noted() -> None:
    found = run(engine={"max_model_len": 300})
    lengths = found.requests["prompt_tokens"] + found.requests["output_tokens"]
    assert (found.requests["status"] == Status.REJECTED).tolist() == (lengths > 300).tolist()
    assert 0 < found.summary["requests"]["rejected"] < 40
    assert any("rejected" in note for note in found.notes)
    assert (found.requests["replica"][lengths > 300] == -1).all()


def test_notes_say_what_the_numbers_rest_on() -> None:
    def notes(**changes: Any) -> str:
        return "\n".join(run(requests=2, **changes).notes)

    assert "lower bound" in notes() and "hypothetical" not in notes()
    assert "no error interval" in notes(profile="rule-of-thumb")
    assert "hypothetical: h200-sxm with other figures" in notes(gpu=scaled("h200-sxm", "memory.bandwidth"))
    assert "experts" in notes(model="Qwen/Qwen3-30B-A3B")
    announced = next(name for name in ("r200", "mi455x") if load_gpu(name).status == "announced")
    assert "announced" in notes(gpu=announced)


def test_a_deployment_holds_what_the_scenario_says() -> None:
    given = scenario(model="Qwen/Qwen3-8B", engine={"watermark": 0.05, "block_size": 32}, replicas=2)
    made = deploy(load_scenario(given))
    assert made.params.block_size == 32 and made.params.replicas == 2
    assert made.params.kv_blocks == made.memory.kv_blocks
    assert made.params.watermark_blocks == int(0.05 * made.memory.kv_blocks)
    graph = build_graph(load_model("Qwen/Qwen3-8B"), Dense(), Precision())
    assert [op.name for op in made.graph.operators] == [op.name for op in graph.operators]
