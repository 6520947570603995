"""`import simulator as ks`: cheap to import, complete, and the same as the functions and commands behind it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest

import simulator as ks
from simulator.api import assignments
from simulator.deployment import deploy
from simulator.graphview import step_seconds, step_shape
from simulator.result import Result
from workloads.scenario import load_scenario

SMALL = {"workload.requests": 6}


@pytest.fixture(scope="module")
def result() -> Result:
    return ks.run("aime24-best-of-32", {"workload.requests": 2, "workload.strategy.samples": 3})


def test_importing_it_loads_nothing_large() -> None:
    """Neither what computes nor what draws; each name then loads what it needs."""
    code = "import sys, simulator; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(json.loads(done.stdout.replace("'", '"'))) & {"numpy", "pandas", "networkx", "pydantic", "scipy"}


def test_every_name_is_there_and_nothing_else() -> None:
    for name in ks.__all__:
        assert getattr(ks, name) is not None
    assert dir(ks) == sorted(ks.__all__)
    assert callable(ks.run) and ks.law.law_model is not None
    with pytest.raises(AttributeError, match="has no attribute 'simulate_all'"):
        ks.simulate_all  # noqa: B018


def test_names_do_not_hide_modules() -> None:
    """A module of the package that is called like a function would take its place once it is imported."""
    modules = {path.stem for path in Path(ks.__file__).parent.glob("*.py")}
    assert modules & set(ks.__all__) == set()


# ---- scenarios -------------------------------------------------------------------------------------------------------


def test_changes_are_those_of_set() -> None:
    asked = ["gpu=b200-sxm", "workload.arrivals.rate=4", "engine.max_num_seqs=64"]
    expected = load_scenario("chat-poisson", asked).to_dict()
    assert ks.scenario("chat-poisson", asked).to_dict() == expected
    paths = {"workload.arrivals.rate": 4, "engine.max_num_seqs": np.int64(64)}
    assert ks.scenario("chat-poisson", paths, gpu="b200-sxm").to_dict() == expected
    assert ks.scenario("chat-poisson", "replicas=3").config.replicas == 3


def test_values_of_every_kind_arrive_as_they_are() -> None:
    values = {
        "a": 1e-5,
        "b": "9.6 TB/s",
        "c": True,
        "d": None,
        "e": [1, 2.5],
        "f": {"kind": "top_k", "budget": 8},
        "g": "2",
    }
    from hwspecs.yamlfile import parse_yaml

    for text, (path, value) in zip(assignments(values), values.items(), strict=True):
        name, _, written = text.partition("=")
        assert name == path and parse_yaml(written, "test").data == value


def test_a_loaded_scenario_is_changed_as_what_it_was_read_from() -> None:
    """Not as what was filled in for its first GPU: another GPU has other defaults of the engine."""
    base = ks.scenario("chat-poisson", {"workload.arrivals.rate": 3})
    assert ks.scenario(base) is base
    changed = ks.scenario(base, gpu="l40s")
    direct = ks.scenario("chat-poisson", {"workload.arrivals.rate": 3}, gpu="l40s")
    ordered = {"description": ""}  # which names the changes in the order in which they were made
    assert changed.to_dict() | ordered == direct.to_dict() | ordered
    assert changed.config.engine.max_num_seqs != base.config.engine.max_num_seqs


@pytest.mark.parametrize(
    ("spec", "sets", "words"),
    [
        ("chat-poison", {}, "unknown scenario.*did you mean chat-poisson"),
        ("chat-poisson", {"workload.arivals.rate": 2}, "arivals"),
        ("chat-poisson", {"workload.arrivals.rate": -2}, "workload.arrivals.rate: must be greater than zero"),
        ("chat-poisson", ["rate"], "not an assignment"),
        ({}, {}, "gpu: a required key is missing"),
        (3, {}, "not a scenario"),
    ],
)
def test_bad_scenarios(spec: object, sets: object, words: str) -> None:
    with pytest.raises(ks.InputError, match=words):
        ks.scenario(spec, sets)  # type: ignore[arg-type]


# ---- results ---------------------------------------------------------------------------------------------------------


def test_tables_of_a_result_are_its_arrays(result: Result) -> None:
    requests = result.requests_frame()
    assert len(requests) == result.summary["requests"]["total"] == 6
    assert requests["ttft_s"].mean() == pytest.approx(result.summary["latency"]["ttft_s"]["mean"])
    assert set(requests["status"]) == {"finished"}
    assert result.operators_frame()["seconds"].sum() == pytest.approx(sum(op["seconds"] for op in result.operators))
    bounds = result.operators_frame().filter(like="by_bound.")
    assert bounds.sum(axis=1).to_numpy() == pytest.approx(result.operators_frame()["seconds"].to_numpy())
    assert len(result.timeline_frame()) == result.summary["batch"]["macro_steps"]
    assert result.problems_frame()["samples"].tolist() == [3, 3]
    headline = result.headline_frame()
    assert headline.loc["gpu_hours", "value"] == result.headline()["gpu_hours"] == result.summary["cost"]["gpu_hours"]
    assert repr(result).startswith("<Result aime24-best-of-32: 6 requests in ") and len(repr(result)) < 100


def test_a_result_is_saved_and_reopened(result: Result, tmp_path: Path) -> None:
    ks.save_result(result, str(tmp_path / "out"))
    assert ks.load_result(str(tmp_path / "out")) == result


def test_only_best_of_n_has_problems() -> None:
    chat = ks.run("chat-poisson", SMALL)
    with pytest.raises(ks.InputError, match="has no problems; found 'chat'"):
        chat.problems_frame()


def test_outlook_is_around_the_run() -> None:
    outlook = ks.outlook("chat-poisson", SMALL)
    assert outlook.result == ks.run("chat-poisson", SMALL)
    low, high = outlook.intervals()["tpot_s.mean"] or (np.nan, np.nan)
    assert low < outlook.metrics["tpot_s.mean"] < high


# ---- steps -----------------------------------------------------------------------------------------------------------


def test_steps_are_those_of_the_engine() -> None:
    steps = ks.step_cost("chat-poisson", model="qwen3-0.6b")
    cost = deploy(ks.scenario("chat-poisson", model="qwen3-0.6b")).cost
    expected = step_seconds(cost, step_shape(cost, phase="decode", batch=64, context=8192))
    assert steps.seconds(batch=64, context=8192) == expected == steps.step(64, 8192).seconds
    many = steps.seconds([[1], [64]], np.array([100, 8192, 16384]))
    assert many.shape == (2, 3) and many[1, 1] == expected and (np.diff(many, axis=1) > 0).all()
    assert steps.seconds(1, phase="prefill", query=512) < steps.seconds(1, phase="prefill", query=2048)
    table = steps.breakdown(64, 8192)
    assert table["share"].sum() == pytest.approx(sum(table["seconds"]) / expected)


def test_graph_is_what_the_command_prints(kinesim: Callable, tmp_path: Path) -> None:
    step = ks.graph("chat-poisson", batch=8, context=1000, model="qwen3-0.6b")
    done = kinesim(
        "graph", "chat-poisson", "--set", "model=qwen3-0.6b", "--batch", "8", "--context", "1000", "--format", "json"
    )
    assert json.loads(done.out) == json.loads(json.dumps(step.document()))
    assert isinstance(step.graph, nx.DiGraph) and nx.is_directed_acyclic_graph(step.graph)
    assert list(step.graph) == list(step.operators.index)
    node = step.graph.nodes["qkv_proj"]
    assert node["seconds"] == step.operators.loc["qkv_proj", "seconds"]
    step.draw(tmp_path / "step.svg")
    assert "<svg" in (tmp_path / "step.svg").read_text()


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"batch": 0}, "batch: too small"),
        ({"batch": 1.5}, "batch: not a whole number"),
        ({"batch": 10**6}, "batch: a step has more sequences than max_num_seqs"),
        ({"context": 10**7}, "context: a sequence is longer than the model's context"),
        ({"phase": "think"}, "phase: unknown phase"),
    ],
)
def test_steps_that_no_engine_takes(shape: dict, words: str) -> None:
    with pytest.raises(ks.InputError, match=words):
        ks.graph("chat-poisson", model="qwen3-0.6b", **shape)


# ---- questions -------------------------------------------------------------------------------------------------------


def test_questions_are_those_of_the_commands() -> None:
    """Each once, small: that what was given arrives. Their answers have tests of their own."""
    base = ks.scenario("chat-poisson", SMALL, model="qwen3-0.6b", profile="ideal")
    varied = ks.whatif(base, {"gpu.memory.bandwidth": "x2"}, metrics=["tpot_s.mean"], jobs=1)
    frame = varied.frame()
    doubled = ks.run(base, {"gpu.memory.bandwidth": "9.6 TB/s"}).headline()["tpot_s.mean"]
    assert isinstance(frame, pd.DataFrame) and doubled in frame.filter(like="tpot_s.mean").to_numpy()
    answer = ks.plan(base, "ttft.p99<=10s", gpus=["h200-sxm"], layouts=["tp1"], max_gpus=1, sure=False, jobs=1)
    assert answer.plan.best is not None and answer.plan.best.candidate.gpus == 1


def test_lists_are_tables() -> None:
    assert ks.list_gpus().loc["h200-sxm", "hbm_tb_s"] == 4.8
    assert "Qwen/Qwen3-8B" in ks.list_models().index
    assert "chat-poisson" in ks.list_scenarios().index and "ideal" in ks.list_profiles().index
    assert ks.load_gpu("h200-sxm").memory.bandwidth == 4.8e12 and ks.load_model("qwen3-8b").layers == 36
