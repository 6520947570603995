"""Scenarios: the bundled ones, defaults that are filled in, assignments, paths, round trips and the schema."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from workloads.model import load_model
from workloads.precision import Precision
from workloads.requests import generate
from workloads.scenario import SCENARIO_FOLDER, list_scenarios, load_scenario, scenario_schema

NEEDS_TRACE = ["production-reasoning"]
COMPLETE = [name for name in list_scenarios() if name not in NEEDS_TRACE]
BASE = {
    "gpu": "h200-sxm",
    "model": "qwen3-8b",
    "workload": {"strategy": "chat", "requests": 10, "prompt_tokens": 512, "output_tokens": 128},
}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,input_len,output_len\n0,10,20\n1,30,40\n")
    return path


def test_the_bundled_scenarios() -> None:
    racks = ["deepseek-r1-gb200-rack"]
    traffic = ["production-reasoning", "reasoning-traffic"]
    assert list_scenarios() == ["aime24-best-of-32", "aime24-long-cot", "chat-poisson", *racks, *traffic]


@pytest.mark.parametrize("name", COMPLETE)
def test_bundled_scenarios_load_and_generate(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.config.name == name and scenario.config.description
    requests = generate(scenario.config.workload, scenario.config.seed)
    longest = (requests.prompt_tokens + requests.output_tokens).max()
    context = 163_840 if "deepseek" in name else 40_960  # of DeepSeek-R1 and of Qwen3, as published
    assert scenario.config.engine.max_model_len == context
    if name != "reasoning-traffic":  # recorded with a model of longer context
        assert longest <= context


def test_reasoning_traffic_is_like_the_recorded_one() -> None:
    """Rate, means and quantiles of the recording, by its own rows where they are at hand."""
    recorded = Path(__file__).resolve().parents[3] / "shared/data/traces/reasoning_production_2h.csv"
    if not recorded.is_file():
        pytest.skip("the recorded trace is not at hand (../shared/data/traces/reasoning_production_2h.csv)")
    rows = np.genfromtxt(recorded, delimiter=",", names=True)
    drawn = generate(load_scenario("reasoning-traffic").config.workload, 0)
    assert drawn.n == len(rows)
    assert drawn.job_arrival_s[-1] == pytest.approx(rows["arrival_s"][-1], rel=0.03)
    for ours, theirs in ((drawn.prompt_tokens, rows["input_len"]), (drawn.output_tokens, rows["output_len"])):
        assert ours.mean() == pytest.approx(theirs.mean(), rel=0.03)
        for q in (0.1125, 0.5125, 0.9125, 0.9825):  # amid slices
            assert np.quantile(ours, q) == pytest.approx(np.quantile(theirs, q), rel=0.15)


def test_best_of_32() -> None:
    requests = generate(load_scenario("aime24-best-of-32").config.workload, 0)
    assert (requests.n_jobs, requests.n) == (30, 960)
    assert requests.output_tokens.max() == 16_384 and requests.accepted.any()


def test_long_cot() -> None:
    requests = generate(load_scenario("aime24-long-cot").config.workload, 0)
    assert requests.n == 240 and requests.output_tokens.max() == 32_768 + 512


def test_the_one_that_needs_a_trace_says_so(trace: Path) -> None:
    with pytest.raises(InputError) as error:
        load_scenario("production-reasoning")
    text = str(error.value)
    for part in ("workload.trace.path", "--set workload.trace.path=FILE", "arrival_s,input_len,output_len", "Mooncake"):
        assert part in text
    assert error.value.line is not None
    scenario = load_scenario("production-reasoning", [f"workload.trace.path={trace}"])
    assert generate(scenario.config.workload, 0).n == 2 and scenario.config.replicas == 16


def test_what_is_left_out_is_filled_in() -> None:
    scenario = load_scenario(BASE)
    config = scenario.config
    assert formats(config.precision) == {"weights": "bf16", "activations": "bf16", "kv": "bf16"}
    assert config.engine.max_model_len == 40_960 and config.attention.kind == "dense"
    assert config.workload.arrivals is not None and config.workload.arrivals.kind == "all_at_once"
    assert (config.profile, config.router, config.seed) == ("auto", "round_robin", 0)
    engine = config.engine
    assert (engine.max_num_seqs, engine.max_num_batched_tokens, engine.block_size) == (256, 8192, 16)
    assert (engine.memory_utilisation, engine.watermark) == (0.9, 0.01)
    assert engine.chunked_prefill and engine.prefix_sharing and engine.scheduling == "fcfs"
    assert scenario.gpu == load_gpu("h200-sxm") and scenario.model == load_model("qwen3-8b")


def formats(precision: Precision) -> dict[str, str]:
    return precision.model_dump(exclude_none=True)


BF16 = {"weights": "bf16", "activations": "bf16", "kv": "bf16"}
FP8 = {"weights": "fp8", "activations": "fp8", "kv": "bf16"}
FP4 = {"weights": "fp4", "activations": "fp4", "kv": "bf16"}


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["model=qwen3-235b-a22b-fp8"], FP8 | {"linear": "fp8_block"}),
        (["model=gpt-oss-120b"], BF16 | {"experts": "w4a16_mxfp4"}),
        (["model=gpt-oss-120b", "precision.experts=w4a8_mxfp4_mxfp8"], BF16 | {"experts": "w4a8_mxfp4_mxfp8"}),
        (["model=gpt-oss-120b", "precision=bf16"], BF16),
        (["model=gpt-oss-120b", "precision={weights: bf16, activations: bf16}"], BF16),
        (["model=minimax-m2.5"], FP8 | {"linear": "fp8_block"}),
        (["model=minimax-m2.5", "precision={experts: nvfp4, attention: bf16}"], BF16 | {"experts": "nvfp4"}),
        (["model=minimax-m2.5", "precision.experts=nvfp4"], FP8 | {"attention": "fp8_block", "experts": "nvfp4"}),
        (["model=minimax-m2.5", "precision.activations=bf16"], FP8 | {"activations": "bf16"}),
        (["precision=auto"], BF16),
        (["precision=fp8"], FP8),  # scaled per tensor: what the two number formats say
        (["precision=int8"], {"weights": "int8", "activations": "int8", "kv": "bf16"}),
        (["precision=int4_wo"], {"weights": "int4", "activations": "bf16", "kv": "bf16", "linear": "int4_wo"}),
        (["precision=nvfp4", "precision.kv=fp8"], FP4 | {"kv": "fp8", "linear": "nvfp4"}),
        (["precision={linear: nvfp4, attention: fp8}"], FP8 | {"mlp": "nvfp4"}),
        (["precision={attention: fp8, mlp: fp8}"], FP8),
        (["precision.head=fp8"], BF16 | {"head": "fp8"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_formats_follow_the_checkpoint_and_what_is_said(sets: list[str], expected: dict[str, str]) -> None:
    scenario = load_scenario(BASE | {"gpu": "b200-sxm"}, sets)
    assert formats(scenario.config.precision) == expected
    assert load_scenario(scenario.to_dict()).config.precision == scenario.config.precision


@pytest.mark.parametrize(
    ("sets", "place", "words"),
    [
        (["gpu=h200-sxm", "precision=nvfp4"], "precision.linear", "does not compute in fp4, which nvfp4 needs"),
        (["gpu=a100-sxm", "model=minimax-m2.5"], "precision.linear", "fp8_block (of MiniMaxAI/MiniMax-M2.5)"),
        (
            ["gpu=a100-sxm", "model=gpt-oss-120b", "precision.experts=w4a8_mxfp4_mxfp8"],
            "precision.experts", "does not compute in fp8 and fp4, which w4a8_mxfp4_mxfp8 needs",
        ),
        (["model=gpt-oss-120b", "precision.weights=fp8"], "precision.weights", "parts of openai/gpt-oss-120b have"),
        (["model=gpt-oss-120b", "precision.mlp=fp8"], "precision.mlp", "has no dense MLP and no shared experts"),
    ],
)  # fmt: skip
def test_formats_that_do_not_go(sets: list[str], place: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        load_scenario(BASE, sets)
    assert error.value.place == place and words in str(error.value)


def test_gpt_oss_runs_on_gpus_without_fp4() -> None:
    for gpu in ("a100-sxm", "h200-sxm"):
        assert load_scenario(BASE, ["model=gpt-oss-120b", f"gpu={gpu}"]).config.precision.experts == "w4a16_mxfp4"


def test_arrivals_follow_the_trace(trace: Path) -> None:
    workload = {"strategy": "chat", "trace": {"path": str(trace)}}
    arrivals = load_scenario(BASE | {"workload": workload}).config.workload.arrivals
    assert arrivals is not None and arrivals.kind == "trace"


def test_assignments() -> None:
    sets = [
        "engine.block_size=32",
        "gpu.memory.bandwidth='9.6 TB/s'",
        "model.num_hidden_layers=40",
        "workload.arrivals={kind: poisson, rate: 2 /s}",
        "workload.timeout=1 min",
        "attention={kind: block_top_k, blocks: 64, local: 128}",
        "workload.requests=5",
        "workload.requests=7",
    ]
    scenario = load_scenario(BASE, sets)
    config = scenario.config
    assert config.engine.block_size == 32 and config.workload.requests == 7 and config.workload.timeout == 60.0
    assert scenario.gpu.memory.bandwidth == 9.6e12 and scenario.gpu.base == "h200-sxm"
    assert scenario.gpu.memory.capacity == load_gpu("h200-sxm").memory.capacity
    assert scenario.model.layers == 40 and scenario.model.hidden == 4096
    assert config.workload.arrivals is not None and config.workload.arrivals.model_dump() == {
        "kind": "poisson",
        "rate": 2.0,
    }
    assert config.attention.decode_cap(None) == 128 + 64 * 16
    assert "engine" not in BASE and BASE["gpu"] == "h200-sxm"  # the mapping given is left as it was


def test_assignments_into_lists_and_mappings() -> None:
    base = BASE | {"workload": BASE["workload"] | {"priority": {"values": [1, 2]}}}
    scenario = load_scenario(base, ["workload.priority.values[1]=7", "gpu={base: b200-sxm}", "gpu.link.domain=4"])
    assert scenario.config.workload.priority is not None and scenario.config.workload.priority.values == [1, 7]
    assert scenario.gpu.base == "b200-sxm" and scenario.gpu.link.domain == 4


def folder_with_everything(folder: Path) -> Path:
    """A scenario whose GPU, model, trace and profile stand beside it."""
    (folder / "gpus").mkdir(parents=True)
    (folder / "gpus" / "mine.yaml").write_text("base: h200-sxm\nname: mine\nmemory: {bandwidth: 6 TB/s}\n")
    (folder / "small").mkdir()
    config = dict(load_model("qwen3-0.6b").config) | {"num_hidden_layers": 4}
    (folder / "small" / "config.json").write_text(json.dumps(config))
    (folder / "t.csv").write_text("arrival_s,input_len,output_len\n0,10,20\n")
    path = folder / "s.yaml"
    path.write_text(
        "gpu: gpus/mine.yaml\nmodel: {base: small, vocab_size: 1000}\nprofile: ./p.yaml\n"
        "workload: {strategy: chat, trace: {path: t.csv}}\n"
    )
    return path


def test_paths_refer_to_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder_with_everything(tmp_path / "a")
    elsewhere = tmp_path / "b"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for spec in (path, "../a/s.yaml"):
        scenario = load_scenario(spec)
        assert scenario.gpu.memory.bandwidth == 6e12 and scenario.model.layers == 4 and scenario.model.vocab == 1000
        assert generate(scenario.config.workload, 0).n == 1
        assert scenario.config.name == "s" and scenario.base_dir == tmp_path / "a"
        assert Path(scenario.config.profile).resolve() == tmp_path / "a" / "p.yaml"


def test_paths_in_assignments_refer_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder_with_everything(tmp_path / "a")
    elsewhere = tmp_path / "b"
    elsewhere.mkdir()
    (elsewhere / "u.csv").write_text("arrival_s,input_len,output_len\n0,10,20\n1,10,20\n")
    (elsewhere / "g.yaml").write_text("base: b200-sxm\n")
    monkeypatch.chdir(elsewhere)
    scenario = load_scenario(path, ["workload.trace.path=u.csv", "gpu=./g.yaml", "gpu.power.idle=100 W"])
    assert generate(scenario.config.workload, 0).n == 2
    assert scenario.gpu.architecture == load_gpu("b200-sxm").architecture and scenario.gpu.power.idle == 100
    assert scenario.model.layers == 4
    whole = load_scenario(path, ["workload.trace={path: u.csv, limit: 1}"])
    assert whole.config.workload.trace is not None and whole.config.workload.trace.limit == 1


def round_trips(tmp_path: Path, trace: Path) -> list:
    custom = folder_with_everything(tmp_path / "custom")
    return [
        *[load_scenario(name) for name in COMPLETE],
        load_scenario("production-reasoning", [f"workload.trace.path={trace}"]),
        load_scenario(custom),
        load_scenario(BASE, ["gpu.memory.bandwidth='9.6 TB/s'", "model.num_hidden_layers=40"]),
        load_scenario(BASE, ["attention={kind: block_top_k, blocks: 4}", "objective.ttft=2 s", "router=least_loaded"]),
        load_scenario(BASE, ["workload.arrivals={kind: closed_loop, concurrency: 3, think_time: 1 s}"]),
        load_scenario(BASE, ["workload.prompt_tokens={kind: empirical, values: [3, 4], weights: [1, 2]}"]),
    ]


@pytest.mark.parametrize("embed", [False, True])
def test_to_dict_and_back(tmp_path: Path, trace: Path, embed: bool) -> None:
    for scenario in round_trips(tmp_path, trace):
        data = json.loads(json.dumps(scenario.to_dict(embed=embed)))
        back = load_scenario(data)
        assert back.to_dict(embed=embed) == data
        assert back.model == scenario.model
        figures = [dataclasses.replace(gpu, origin="", base=None) for gpu in (back.gpu, scenario.gpu)]
        assert figures[0] == figures[1]
        but = {"gpu", "model"}
        assert back.config.model_dump(exclude=but) == scenario.config.model_dump(exclude=but)
        assert isinstance(data["gpu"], str) == (scenario.gpu.base is None and not embed)


def test_the_schema_accepts_what_is_right(tmp_path: Path, trace: Path) -> None:
    schema = scenario_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema).validate
    for name in list_scenarios():
        check(yaml.safe_load((SCENARIO_FOLDER / f"{name}.yaml").read_text()))
    for scenario in round_trips(tmp_path, trace):
        check(scenario.to_dict())
        check(scenario.to_dict(embed=True))
    check(BASE)


@pytest.mark.parametrize(
    "change",
    [
        {"gpuu": "h200-sxm"},
        {"seed": -1},
        {"router": "random"},
        {"precision": {"kv": "fp7"}},
        {"engine": {"block_size": 0}},
        {"attention": {"kind": "sparse"}},
        {"attention": {"kind": "block_top_k"}},
        {"objective": {"ttft": 0}},
        {"workload": {"strategy": "chat", "prompt_tokens": 0}},
        {"workload": {"strategy": {"kind": "best_of_n", "samples": 0}}},
        {"workload": {"strategy": "chat", "arrivals": {"kind": "poisson"}}},
    ],
)
def test_the_schema_refuses_what_is_wrong(change: dict) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(BASE | change, scenario_schema())


def test_every_field_is_described() -> None:
    schema = scenario_schema()
    parts = {"Scenario": schema, **schema["$defs"]}
    ours = [name for name in parts if name not in ("Dense", "SlidingWindow", "TopK", "BlockTopK")]
    for name in ours:
        for key, field in parts[name]["properties"].items():
            if key == "kind":
                continue
            # a description equal to that of the part referred to stands there alone
            told = field if "description" in field else parts[field["$ref"].split("/")[-1]]
            assert told["description"], f"{name}.{key}"


def test_import_loads_no_table_library() -> None:
    program = "import sys, workloads.scenario; print([m for m in ('pandas', 'pyarrow', 'torch') if m in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_changed_scenario_says_what_was_changed() -> None:
    """Its description speaks of what is in the file."""
    scenario = load_scenario("chat-poisson", ["gpu=b200-sxm", "seed=1"])
    written = load_scenario("chat-poisson").config.description
    assert scenario.config.description == f"{written} (changed: gpu=b200-sxm, seed=1)"
    again = load_scenario(scenario.given, ["seed=2"])
    assert again.config.description == f"{written} (changed: gpu=b200-sxm, seed=1, seed=2)"
    assert load_scenario("chat-poisson", ["seed=1", "description=mine"]).config.description == "mine"
