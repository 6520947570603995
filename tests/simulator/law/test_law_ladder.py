"""The ladder: every rung lifts what it says and nothing else, and the last is what `kinesim run` gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.engine import simulate
from simulator.law.ladder.cases import Group, problem_of, stages_of, stretched
from simulator.law.ladder.climb import COLUMNS, ladder
from simulator.law.ladder.rungs import RUNGS, measure
from simulator.law.options import Policy
from simulator.running import run_scenario
from workloads.scenario import load_scenario

BASE, BEST = "aime24-long-cot", "aime24-best-of-32"
BARE = ("engine=none", "profile=ideal", "engine.max_num_seqs=256")
EQUAL = ("workload.prompt_tokens=160", "workload.output_tokens=3000")


def seconds(frame) -> np.ndarray:
    """By strategy and rung, or by rung of a single strategy."""
    return frame.pivot(index=["gpu", "model", "attention", "limit", "trials"], columns="rung", values="seconds").values


def group(model="qwen3-0.6b", policy=Policy("dense"), axis="long_cot", point=4096, sets=(), base=BASE) -> Group:
    return Group(base, sets, None, model, (policy,), axis, (point,), False, None, ())


def climbed(said: Group):
    """Its stages and its problem."""
    stages, _ = stages_of(said, said.policies[0])
    return stages, problem_of(said, said.points[0], stages.last.scenario)[0]


def test_frame() -> None:
    steps: list[tuple[int, int]] = []
    frame = ladder(
        ["qwen3-0.6b", "qwen3-1.7b"], [("dense", 0), ("top_k", 512)], points=(512, 2048), jobs=1,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert tuple(frame.columns) == COLUMNS and len(frame) == 2 * 2 * 2 * 9
    assert list(frame.rung[:9]) == list(range(1, 10)) and list(frame.limit[:18]) == [512] * 9 + [2048] * 9
    assert list(frame.model[::36]) == ["Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"] and steps == [(1, 2), (2, 2)]
    assert np.isfinite(frame.seconds).all() and (frame.seconds > 0).all()
    # H200: 989.5 TFLOP/s in bf16.
    assert np.allclose(frame.eflops, frame.seconds * 989.5, rtol=1e-12)
    parts = frame[["parameters_s", "attention_s", "host_s", "rest_s"]]
    assert np.allclose(parts.sum(axis=1), frame.seconds, rtol=1e-9)
    # From rung 4 on nothing is left over that must not be: norms, sampling and so on take time.
    assert (frame.rest_s[frame.rung >= 4] > 0).all() and (parts >= -1e-12).all().all()
    assert set(frame.host_s[frame.rung < 9]) == {0.0} and (frame.host_s[frame.rung == 9] > 0).all()


def test_processes_do_not_matter() -> None:
    said = {"models": ["qwen3-0.6b", "qwen3-1.7b"], "points": (512,), "attentions": [("dense", 0)]}
    assert ladder(**said, jobs=1).equals(ladder(**said, jobs=2))


@pytest.mark.parametrize(
    ("model", "attention", "setting"),
    [
        ("qwen3-0.6b", "{kind: dense}", Policy("dense")),
        ("qwen3-8b", "{kind: top_k, budget: 1024}", Policy("top_k", 1024)),
        ("qwen3-1.7b", "{kind: block_top_k, page: 32, blocks: 30, local: 64}", Policy("block_top_k", 1024, 32, 64)),
    ],
)
def test_the_last_rung_is_the_simulation(model, attention, setting) -> None:
    sets = ["workload.strategy.budget=6000", f"model={model}", f"attention={attention}"]
    result = run_scenario(load_scenario(BASE, sets))
    stages, problem = climbed(group(model, setting, point=6000))
    last = measure(stages, problem, RUNGS[8])
    assert last.seconds == pytest.approx(result.summary["makespan_s"] / 240, rel=1e-12)
    assert last.preemptions * 240 == result.summary["requests"]["preemptions"]
    assert last.batch == pytest.approx(result.summary["batch"]["mean_decode_seqs"], rel=1e-12)
    assert last.host == pytest.approx(result.summary["seconds_by_bound"]["host"] / 240, rel=1e-12)


def test_best_of_n_and_a_layout() -> None:
    sets = ("parallelism.tensor=2", "workload.requests=3")
    result = run_scenario(load_scenario(BEST, [*sets, "model=qwen3-8b", "workload.strategy.samples=4"]))
    stages, problem = climbed(group("qwen3-8b", axis="best_of_n", point=4, sets=sets, base=BEST))
    assert measure(stages, problem, RUNGS[8]).seconds == pytest.approx(2 * result.summary["makespan_s"] / 3, rel=1e-12)
    assert stages.alone.graph.layout.gpus == 1 and problem.trials == 4


def test_steps_do_not_wait_for_the_clock() -> None:
    """Rung 8 times a record of steps of one tick: as if the engine had been asked with the real steps."""
    stages, problem = climbed(group("qwen3-32b", point=4096))
    found = measure(stages, problem, RUNGS[7])
    log = simulate(problem.requests, stages.alone.cost, stages.alone.params)
    assert found.preemptions > 0.2  # so that the order of steps is not that of an empty engine
    assert found.seconds == pytest.approx(float(log.finish_s.max()) / 240, rel=1e-12)
    assert found.preemptions == pytest.approx(log.preemptions.sum() / 240)


def test_the_whole_graph_is_that_of_the_engine() -> None:
    """Rung 4 sums steps in closed form: an engine that has all sequences in flight takes as long."""
    said = group("qwen3-1.7b", Policy("top_k", 512), sets=(*BARE, *EQUAL, "workload.requests=40"))
    stages, problem = climbed(said)
    params = replace(stages.ideal.params, max_num_batched_tokens=40 * 160)  # all prompts in one step
    log = simulate(problem.requests, stages.ideal.cost, params)
    decoding = float(log.finish_s.max() - log.first_token_s.max())
    found = measure(stages, problem, RUNGS[3])
    assert found.seconds == pytest.approx(decoding / 40, rel=1e-12) and found.batch == 40


def test_a_rung_whose_assumption_holds_adds_nothing() -> None:
    roomy = "gpu.memory.capacity=4 TB"
    frame = ladder(["qwen3-1.7b"], points=(4096,), sets=(*BARE, *EQUAL, roomy), jobs=1)
    for row in seconds(frame):
        assert row[5] == pytest.approx(row[4], rel=1e-12)  # ideal kernels
        assert row[6] == pytest.approx(row[5], rel=1e-12)  # memory for all
        assert row[7] == pytest.approx(row[6], rel=2e-3)  # equal lengths; each wave drains where the next would begin
        assert row[8] == pytest.approx(row[7], rel=1e-12)  # one GPU, no host


def test_each_rung_moves_what_it_lifts() -> None:
    frame = ladder(["qwen3-8b"], points=(8192,), jobs=1)
    for (one, two, three, four, five, six, seven, eight, nine), (_, rows) in zip(
        seconds(frame), frame.groupby("attention", sort=True), strict=True
    ):
        n, batch = rows.tokens.iloc[0], rows.batch.to_numpy()
        assert two == pytest.approx(one * (1 - 1 / n), rel=1e-3) and two < one
        assert two / 2 <= three < two  # the larger of two terms is at least half of their sum
        assert four < five < six < seven < eight < nine
        assert batch[0] == batch[2] == np.inf and batch[3] == 240 and batch[6] < 0.9 * batch[5]
        assert rows.preemptions.iloc[6] > 0 == rows.preemptions.iloc[5]


def test_trials_share_the_prompt_until_engines_read_it() -> None:
    """Rung 4 reads the prompt's KV for every trial: 36 layers x 2 x 8 heads x 128 elements of two bytes a token."""
    sets = ("workload.prompt_tokens=1600", "workload.output_tokens=800", "profile=ideal")
    frame = ladder(["qwen3-8b"], [("dense", 0)], axis="best_of_n", points=(8,), sets=sets, rungs=(3, 4), jobs=1)
    saved = 7 * 1600 * 799 * 36 * 2 * 8 * 128 * 2 / 4.8e12
    three, four = frame.attention_s
    assert four - three == pytest.approx(saved, rel=1e-6)


def test_a_model_that_one_gpu_does_not_hold() -> None:
    said = {"attentions": [("dense", 0)], "points": (1024,), "jobs": 1, "sets": ["workload.requests=16"]}
    frame = ladder(["llama-3.1-70b"], gpus=["h200-sxm"], **said)
    assert list(frame.gpus) == [1] * 8 + [2] and "does not fit on one GPU" in frame.note[0]
    # The same device, and memory enough for the few sequences of this scenario on all rungs.
    assert frame.seconds[6] == pytest.approx(frame.seconds[5], rel=1e-12)
    assert ladder(["qwen3-8b"], gpus=["h100-sxm"], **said).note[0] == ""


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30_000), min_size=50, max_size=300), mean=st.integers(600, 8000),
    forced=st.sampled_from([0, 512]),
)  # fmt: skip
def test_stretched_lengths(lengths, mean, forced) -> None:
    before = np.array(lengths)
    after = stretched(before, mean, 32_768, forced)
    assert after.max() <= 32_768 + forced and after.min() >= 1
    assert (np.diff(after[np.argsort(before, kind="stable")]) >= 0).all()
    # No nearer than one length reaching the limit, which takes `forced` more tokens.
    assert abs(after.mean() - mean) <= (0.5 + forced * max(np.bincount(before)) / len(before)) + 1


def test_spread_is_that_of_the_law() -> None:
    """Without a prompt's weight dense attention grows with n^2: lengths of 1,000 and 3,000 cost 5/4 of two of 2,000."""
    lengths = "workload.output_tokens={kind: empirical, values: [1000, 3000]}"
    sets = (lengths, "workload.prompt_tokens=1", "workload.requests=4000")
    frame = ladder(["qwen3-0.6b"], [("dense", 0), ("top_k", 1)], rungs=(1,), sets=sets, points=(4096,), jobs=1)
    share = float((frame.attention_s / frame.seconds)[0])
    assert frame.spread[0] == pytest.approx(1 + share / 4, abs=2e-3)
    assert frame.spread[1] == pytest.approx(1.0, abs=1e-3)


def test_mean_lengths_as_points() -> None:
    frame = ladder(["qwen3-0.6b"], [("dense", 0)], tokens=(1000, 16000), rungs=(1, 8), jobs=1)
    assert list(frame.tokens[::2]) == [1000, 16000] and set(frame.limit) == {32768}


def test_a_trace_has_its_lengths(tmp_path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,input_len,output_len\n0,100,700\n1,120,900\n3,110,800\n", encoding="utf-8")
    load = f"workload={{strategy: {{kind: chat}}, trace: {{path: {path}}}, arrivals: {{kind: all_at_once}}}}"
    said = {"models": ["qwen3-0.6b"], "attentions": [("dense", 0)], "sets": [load], "rungs": (1, 9), "jobs": 1}
    frame = ladder(**said, points=(850,))
    assert list(frame.tokens) == [783, 783] and set(frame.prompt_tokens) == {110}  # (700 + 850 + 800) / 3
    with pytest.raises(InputError, match="no rung for it"):
        ladder(**said, axis="best_of_n", points=(4,))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"axis": "short_cot"}, "unknown axis"),
        ({"points": ()}, "out of range"),
        ({"points": (0,)}, "out of range"),
        ({"points": (2048,), "tokens": (2048,)}, "two kinds of points"),
        ({"tokens": (50_000,)}, "no such mean length"),
        ({"points": (60_000,)}, "longer than max_model_len"),
        ({"attentions": [("sparse", 5)]}, "unknown attention"),
        ({"attentions": [("top_k", 0)]}, "out of range"),
        ({"attentions": [("block_top_k", 1000)]}, "not a budget of block top-k"),
        ({"models": ["qwen3-9b"]}, "unknown model"),
        ({"gpus": ["h201"]}, "unknown GPU"),
        ({"sets": ["replicas=2"]}, "no rung for it"),
        ({"sets": ["workload.timeout=9 s"]}, "no rung for it"),
        ({"sets": ["workload.arrivals={kind: poisson, rate: 2}"]}, "all of them at hand"),
        ({"base": BEST, "sets": ["workload.strategy.stop_on_accept=true"]}, "no rung for it"),
        ({"models": ["llama-3.1-405b"], "gpus": ["l40s"]}, "does not fit"),
        ({"models": ["deepseek-v3.2"], "attentions": [("top_k", 64)]}, "indexer of its own"),
    ],
)
def test_bad_input(said, words) -> None:
    with pytest.raises(InputError, match=words):
        ladder(**{"models": ["qwen3-0.6b"], "attentions": [("dense", 0)], "jobs": 1, "rungs": (1,)} | said)
