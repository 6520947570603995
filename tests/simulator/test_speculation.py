"""Speculative decoding: what drafting and verifying add to a step, and what they are worth."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios import make_requests

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.deployment import deploy
from simulator.drafting import Draft, prediction_module
from simulator.engine import simulate
from simulator.kinds import kv_bytes_per_token
from simulator.policy import TICKS_PER_SECOND, Advance, EngineParams
from simulator.profile import load_profile
from simulator.running import run_scenario as run
from simulator.shape import StepShape
from simulator.stepcost import StepCost
from simulator.stepgraph import Layout, Precision, StepGraph, build_graph
from simulator.weights import drafter_bytes_per_gpu, weight_bytes_per_gpu
from workloads.attention import Dense
from workloads.model import load_model
from workloads.scenario import load_scenario
from workloads.speculation import Speculation

FP8 = Precision(weights="fp8", activations="fp8")


def graph_of(model: str, draft: Draft | None = None, tensor: int = 1, precision: Precision | None = None) -> StepGraph:
    return build_graph(load_model(model), Dense(), precision or Precision(), tensor, draft=draft or Draft())


def decode_shape(seqs: int, context: int, queries: int = 1) -> StepShape:
    return StepShape(seqs * queries, seqs * queries, seqs, (seqs * context,))


def compiled(graph: StepGraph, advance: Advance, gpu: str = "h200-sxm", profile: str = "ideal") -> StepCost:
    sizes = {"max_tokens": 2048, "max_seqs": 256, "max_context": 32768}
    return StepCost(graph, load_gpu(gpu), load_profile(profile), **sizes, advance=advance)


# ---- acceptance ------------------------------------------------------------------------------------------------------


def spoken(**said: Any) -> Speculation:
    return Speculation(**({"method": "ngram", "tokens": 3, "acceptance": 0.5} | said))


def test_the_mean_of_a_step_is_a_geometric_series() -> None:
    assert spoken().mean == Fraction(15, 8)  # 1 + 1/2 + 1/4 + 1/8
    assert spoken(acceptance=0.0).mean == 1
    assert spoken(acceptance=1.0).mean == 4
    assert spoken(acceptance=[0.75, 0.5, 0.25]).mean == Fraction(5, 2)  # shares of steps are added
    assert spoken(acceptance=0.8).mean == Fraction(62, 21)  # of 2.952, the nearest with a denominator up to 64


@given(st.integers(1, 16), st.floats(0, 1))
def test_a_step_gives_one_to_all_tokens(tokens: int, rate: float) -> None:
    mean = spoken(tokens=tokens, acceptance=rate).mean
    assert 1 <= mean <= tokens + 1 and mean.denominator <= 64
    assert float(mean) == pytest.approx(sum(rate**i for i in range(tokens + 1)), abs=1 / 64)


BAD = [
    ({"acceptance": 1.8}, "speculation.acceptance: out of range; found 1.8"),
    ({"acceptance": -0.1}, "speculation.acceptance: out of range; found -0.1"),
    ({"acceptance": [0.5, 0.25]}, "speculation.acceptance: not one for each drafted token"),
    ({"acceptance": [0.5, 0.6, 0.1]}, "speculation.acceptance: an acceptance that rises"),
    ({"acceptance": [0.9, 0.8, 1.2]}, "speculation.acceptance.2: out of range; found 1.2"),
    ({"acceptance": "most"}, "speculation.acceptance: of the wrong type; found 'most'"),
    ({"tokens": 0}, "speculation.tokens: out of range; found 0"),
    ({"method": "mtp"}, "speculation.method: Qwen/Qwen3-8B has no module to predict further tokens"),
    ({"method": "draft_model"}, "speculation.model: no model drafts"),
    ({"model": "qwen3-0.6b"}, "speculation.model: nothing drafts with a model of its own"),
    ({"method": "draft_model", "model": "llama-3.1-8b"}, "does not speak the vocabulary of Qwen/Qwen3-8B"),
]


@pytest.mark.parametrize(("said", "message"), BAD)
def test_bad_speculation(said: dict[str, Any], message: str) -> None:
    speculation = {"method": "ngram", "tokens": 3, "acceptance": 0.5} | said
    with pytest.raises(InputError) as error:
        load_scenario("chat-poisson", [f"speculation={speculation}"])
    assert message in str(error.value)


def test_room_for_the_drafts_of_all_sequences() -> None:
    with pytest.raises(InputError, match=r"at least 1,024 \(max_num_seqs x \(speculation.tokens \+ 1\)"):
        load_scenario(
            "chat-poisson",
            [
                "speculation={method: ngram, tokens: 3, acceptance: 0.5}",
                "engine={max_num_seqs: 256, max_num_batched_tokens: 1000}",
            ],
        )


# ---- work ------------------------------------------------------------------------------------------------------------


def test_verifying_reads_once_and_multiplies_for_every_token() -> None:
    plain, drafted = graph_of("qwen3-8b"), graph_of("qwen3-8b", Draft(3))
    one = {op.name: op.total(decode_shape(8, 1000)) for op in plain.operators}
    four = {op.name: op.total(decode_shape(8, 1000, queries=4)) for op in drafted.operators}
    assert one.keys() == four.keys()  # n-grams add nothing to the graph
    for name, work in one.items():
        assert four[name].flops == 4 * work.flops, name
        if name != "embedding":  # whose rows are read for every token
            assert four[name].weight_bytes == work.weight_bytes, name
    assert four["attention_decode"].kv_bytes == one["attention_decode"].kv_bytes
    assert four["rope_kv_write"].kv_bytes == 4 * one["rope_kv_write"].kv_bytes


def test_a_prediction_module_by_hand() -> None:
    """DeepSeek-R1's module, in millions: experts 256 x 3 x 7168 x 2048 = 11,274.3; the shared one 44.0; the router 1.8;
    attention 7168 x (1536 + 576) + 1536 x 24,576 + 512 x 32,768 + 16,384 x 7168 = 187.1; the projection 2 x 7168^2 =
    102.8.
    With the model's embedding and head (926.7 each), which its checkpoint holds again, that is the published 14 B
    (DeepSeek-V3, README: 685 B with the module, 671 B without).
    """
    model = load_model("deepseek-r1")
    draft = Draft(3, prediction_module(model), FP8, shared=True)
    module = drafter_bytes_per_gpu(draft, Layout())
    assert module / 1e6 == pytest.approx(11_274.3 + 44.0 + 2 * 1.8 + 187.1 + 102.8, rel=2e-4)
    assert module + 2 * 129_280 * 7168 == pytest.approx(13.5e9, rel=0.01)
    assert kv_bytes_per_token(prediction_module(model), "bf16", 8) == 576 * 2
    assert drafter_bytes_per_gpu(Draft(3), Layout()) == 0


def test_another_model_drafts_with_weights_of_its_own() -> None:
    small = load_model("qwen3-0.6b")
    draft = Draft(2, small)
    assert drafter_bytes_per_gpu(draft, Layout(tensor=2)) == weight_bytes_per_gpu(small, Precision(), 2)
    plain = deploy(load_scenario("chat-poisson", ["model=qwen3-32b"])).memory
    said = "speculation={method: draft_model, model: qwen3-0.6b, tokens: 2, acceptance: 0.5}"
    plan = deploy(load_scenario("chat-poisson", ["model=qwen3-32b", said])).memory
    assert plan.weights - plain.weights == weight_bytes_per_gpu(small, Precision(), 1)
    # 28 layers x 2 x 8 KV heads x 128 x 2 bytes
    assert plan.kv_bytes_per_token - plain.kv_bytes_per_token == 28 * 2 * 8 * 128 * 2


def test_passes_of_a_drafter() -> None:
    """The first pass sees all 4 tokens of 8 sequences, and samples one for each; the other two see 8 tokens."""
    small = load_model("qwen3-0.6b")
    graph = graph_of("qwen3-32b", Draft(3, small))
    ops, shape = {op.name: op for op in graph.operators}, decode_shape(8, 1000, queries=4)
    gate_up = 2 * 3072 * 1024 * 2  # FLOPs of a token and layer
    assert ops["gate_up_proj [draft]"].total(shape).flops == 28 * 32 * gate_up
    assert ops["gate_up_proj [later drafts]"].total(shape).flops == 2 * 28 * 8 * gate_up
    head = 151_936 * 1024 * 2
    assert ops["lm_head [draft]"].total(shape).flops == 8 * head
    assert ops["lm_head [later drafts]"].total(shape).flops == 2 * 8 * head
    kv = 8000 * 2 * 8 * 128 * 2 * 28
    assert ops["attention_decode [draft]"].total(shape).kv_bytes == kv
    assert ops["attention_decode [later drafts]"].total(shape).kv_bytes == 2 * kv
    assert not any(op.axis == "prefill" and "later" in op.name for op in graph.operators)


@pytest.mark.parametrize("layout", [Layout(tensor=8), Layout(attention_data=8, expert=8), Layout(tensor=4, pipeline=2)])
def test_a_step_is_the_sum_of_its_operators(layout: Layout) -> None:
    model = load_model("deepseek-r1")
    draft = Draft(2, prediction_module(model), FP8, shared=True)
    graph = build_graph(model, Dense(), FP8, layout, draft=draft)
    cost = compiled(graph, Advance(2, 2, 1))
    shape = decode_shape(64, 4000, queries=3)
    parts = sum(float(cost.operator_seconds(op, shape)) for op in cost.operators)
    assert cost.step_ticks(shape) / TICKS_PER_SECOND == pytest.approx(parts, rel=1e-9)


# ---- what it is worth ------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["ngram", "draft", "module"]), st.integers(1, 4), st.integers(1, 256), st.integers(1, 30_000))
def test_a_step_that_verifies_costs_at_least_one_that_does_not(how: str, k: int, seqs: int, context: int) -> None:
    name = "deepseek-r1" if how == "module" else "qwen3-32b"
    model, tensor = load_model(name), 8
    draft = Draft(k)
    if how == "module":
        draft = Draft(k, prediction_module(model), FP8, shared=True)
    elif how == "draft":
        draft = Draft(k, load_model("qwen3-0.6b"))
    plain, drafted = (graph_of(name, d, tensor, FP8) for d in (None, draft))
    without = compiled(plain, Advance()).step_ticks(decode_shape(seqs, context))
    assert compiled(drafted, Advance(k, 1, 1)).step_ticks(decode_shape(seqs, context, queries=k + 1)) >= without


def makespan(graph: StepGraph, advance: Advance) -> tuple[float, int]:
    requests = make_requests([500, 800, 30], [200, 150, 301])
    params = EngineParams(8, 1024, 16, 10_000, 4096, speculation=advance)
    log = simulate(requests, compiled(graph, advance), params)
    return float(log.finish_s.max()), int(log.timeline.steps.sum())


def test_with_nothing_accepted_it_only_costs() -> None:
    without, steps = makespan(graph_of("qwen3-8b"), Advance())
    lost, as_many = makespan(graph_of("qwen3-8b", Draft(3)), Advance(3, 1, 1))
    assert as_many == steps and lost > without


def test_with_everything_accepted_a_quarter_of_the_steps_is_left() -> None:
    """301 output tokens are one of the prefill and 300 of decode, 75 steps of four; 1,330 tokens of prompts are two
    steps of at most 1,024, in the second of which the last request gets its first token.
    """
    _, steps = makespan(graph_of("qwen3-8b", Draft(3)), Advance(3, 4, 1))
    assert steps == 77


def test_gain_falls_with_the_samples_of_a_problem() -> None:
    """Drafts use what is idle, and parallel samples do too (docs/speculation.md)."""

    def gain(samples: int) -> float:
        sets = [
            "model=qwen3-8b", "gpu=h200-sxm", "profile=ideal", "engine={name: none, max_num_seqs: 512}",
            "workload={requests: 1, prompt_tokens: 512, output_tokens: 512, "
            f"strategy: {{kind: best_of_n, samples: {samples}}}}}",
        ]  # fmt: skip
        said = "speculation={method: ngram, tokens: 4, acceptance: 0.7}"
        plain, drafted = (run(load_scenario("chat-poisson", each)) for each in (sets, [*sets, said]))
        return plain.summary["makespan_s"] / drafted.summary["makespan_s"]

    few, many = gain(1), gain(512)
    assert few > 2 and many < 0.8 * few


def test_inter_token_latency_counts_tokens_that_come_together() -> None:
    sets = ["model=qwen3-8b", "gpu=h200-sxm", "profile=ideal", "workload.requests=5"]
    result = run(load_scenario("chat-poisson", [*sets, "speculation={method: ngram, tokens: 3, acceptance: 0.9}"]))
    latency = result.summary["latency"]
    assert latency["itl_s"]["mean"] == pytest.approx(latency["tpot_s"]["mean"], rel=0.1)
    assert latency["itl_s"]["p50"] == 0.0
    assert any("3 drafted tokens a step, of which 2.44" in note for note in result.notes)


def test_a_run_says_what_drafts(capsys: pytest.CaptureFixture[str]) -> None:
    from simulator.display import show_result

    said = "speculation={method: ngram, tokens: 3, acceptance: 0.8}"
    show_result(run(load_scenario("chat-poisson", ["profile=ideal", "workload.requests=2", said])), None)
    assert "drafts    ngram, 3 tokens a step, 1.95 of them accepted in the mean" in capsys.readouterr().out


# ---- layouts, formats, states ----------------------------------------------------------------------------------------


def test_a_dense_model_drafts_on_every_rank_of_attention() -> None:
    said = "speculation={method: draft_model, model: qwen3-0.6b, tokens: 2, acceptance: 0.5}"
    sets = ["model=qwen3-30b-a3b", "parallelism={tensor: 2, attention_data: 2, expert: 4}", said]
    deployment = deploy(load_scenario("chat-poisson", sets))
    layout = deployment.graph.layout
    assert layout.gpus == 4
    small = weight_bytes_per_gpu(load_model("qwen3-0.6b"), Precision(), Layout(tensor=2))
    assert drafter_bytes_per_gpu(Draft(2, load_model("qwen3-0.6b")), layout) == small
    seen = next(op for op in deployment.graph.operators if op.name == "gate_up_proj [draft]")
    assert seen.dealt == 2  # each rank drafts for its own sequences


@pytest.mark.parametrize(("linear", "format"), [("fp8_block", "fp8_block"), ("nvfp4", "bf16"), ("int4_wo", "bf16")])
def test_modules_of_four_bit_checkpoints_stay_in_sixteen(linear: str, format: str) -> None:
    said = "speculation={method: mtp, tokens: 1, acceptance: 0.5}"
    sets = ["model=deepseek-r1", "gpu=b200-sxm", "parallelism.tensor=8", f"precision.linear={linear}", said]
    graph = deploy(load_scenario("chat-poisson", sets)).graph
    down = next(op for op in graph.operators if op.name == "down_proj shared [draft]")
    assert down.dims is not None and down.dims.format == format  # type: ignore[union-attr]


def test_a_state_for_every_drafted_token() -> None:
    sets = ["model=qwen3.5-397b-a17b", "gpu=b200-sxm", "parallelism.tensor=8", "engine.max_num_seqs=64"]
    plain = deploy(load_scenario("chat-poisson", sets)).memory
    said = "speculation={method: mtp, tokens: 3, acceptance: 0.5}"
    assert deploy(load_scenario("chat-poisson", [*sets, said])).memory.states == 4 * plain.states
