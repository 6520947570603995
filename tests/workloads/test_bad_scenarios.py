"""Bad scenarios: one message each, with the file, the place in it, what was found and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwspecs.errors import InputError
from workloads.requests import generate
from workloads.scenario import load_scenario

GOOD = """\
gpu: h200-sxm
model: qwen3-8b
engine:
  max_num_seqs: 64
workload:
  strategy: chat
  requests: 10
  prompt_tokens: 512
  output_tokens: 128
  arrivals: {kind: poisson, rate: 2}
"""

# assignment, place, part of what was found, part of what is allowed
ASSIGNED = [
    ("engine.blok_size=3", "engine.blok_size", "blok_size", "did you mean block_size?"),
    ("enginee.block_size=3", "enginee", "enginee", "did you mean engine"),
    ("engine.block_size=0", "engine.block_size", "0", ">= 1"),
    ("engine.block_size=16.5", "engine.block_size", "16.5", "an integer"),
    ("engine.block_size=true", "engine.block_size", "True", "an integer"),
    ("engine.block_size='16'", "engine.block_size", "16", "an integer"),
    ("engine.max_num_seqs=0", "engine.max_num_seqs", "0", ">= 1"),
    ("engine.max_num_seqs=10000", "engine.max_num_seqs", "8,192", "at least 10,000"),
    ("engine.max_num_batched_tokens=63", "engine.max_num_batched_tokens", "63", "at least 64"),
    ("engine.chunked_prefill=false", "engine.chunked_prefill", "8,192", "at least 40,960"),
    ("engine.chunked_prefill=maybe", "engine.chunked_prefill", "maybe", "true or false"),
    ("engine.memory_utilisation=1.5", "engine.memory_utilisation", "1.5", "<= 1"),
    ("engine.memory_utilisation=0", "engine.memory_utilisation", "0", "> 0"),
    ("engine.memory_utilisation=.nan", "engine.memory_utilisation", "nan", "a number"),
    ("engine.watermark=1", "engine.watermark", "1", "< 1"),
    ("engine.scheduling=lifo", "engine.scheduling", "lifo", "fcfs, priority"),
    ("engine.max_model_len=50000", "engine.max_model_len", "50000", "at most 40,960"),
    ("gpu=h300-sxm", "gpu", "h300-sxm", "did you mean"),
    ("gpu=null", "gpu", None, "text"),
    ("gpu=./none.yaml", "gpu", "none.yaml", "path of a .yaml"),
    ("gpu.memory.bandwidth=-1 TB/s", "gpu.memory.bandwidth", "-1 TB/s", "positive"),
    ("gpu.memory.bandwidth=9.6 GHz", "gpu.memory.bandwidth", "9.6 GHz", "TB/s"),
    ("gpu.memory.bandwith=9.6 TB/s", "gpu.memory.bandwith", "bandwith", "did you mean bandwidth?"),
    ("model=qwen3-9b", "model", "qwen3-9b", "did you mean"),
    ("model=8b", "model", "8b", "Qwen/Qwen3-8B"),
    ("model.num_layers=3", "model.num_layers", "num_layers", "num_hidden_layers"),
    ("model.num_hidden_layers=0", "model.num_hidden_layers", "0", "from 1"),
    ("model.num_key_value_heads=5", "model.num_key_value_heads", "5", "a divisor of"),
    ("model.architectures=[MambaForCausalLM]", "model.architectures", "Mamba", "Qwen3ForCausalLM"),
    ("precision.kv=fp7", "precision.kv", "fp7", "fp8"),
    ("precision.activations=fp4", "precision.activations", "fp4", "bf16, fp16"),
    ("precision=nvfp4", "precision.linear", "nvfp4", "w4a16_mxfp4"),
    ("precision=fp4", "precision.linear", "fp4", "did you mean nvfp4"),
    ("precision.mlp=w4a8_mxfp4_mxfp8", "precision.mlp", "w4a8_mxfp4_mxfp8", "w4a8_mxfp4_fp8"),
    ("precision.experts=fp8", "precision.experts", "fp8", "nothing here"),
    ("precision={linear: fp8, activations: bf16}", "precision.activations", "bf16", "either `linear` or"),
    ("precision=8", "precision", "8", "a mapping with the keys weights"),
    ("attention=sparse", "attention.kind", "sparse", "block_top_k"),
    ("attention={kind: block_top_k}", "attention.blocks", None, ">= 1"),
    ("attention={kind: block_top_k, blocks: 0}", "attention.blocks", "0", ">= 1"),
    ("attention={kind: top_k, budget: -1}", "attention.budget", "-1", ">= 1"),
    ("attention={kind: sliding_window, budget: 1}", "attention.budget", "budget", "window"),
    ("replicas=0", "replicas", "0", ">= 1"),
    ("router=random", "router", "random", "round_robin"),
    ("parallelism.tensor=0", "parallelism.tensor", "0", ">= 1"),
    ("seed=-1", "seed", "-1", ">= 0"),
    ("seed=9223372036854775808", "seed", "9223372036854775808", "9,223,372,036,854,775,807"),
    ("seed=0.5", "seed", "0.5", "an integer"),
    ("profile=null", "profile", None, "text"),
    ("objective={}", "objective", None, "ttft, tpot, e2e"),
    ("objective.ttft=soon", "objective.ttft", "soon", "50 ms"),
    ("objective.tpot=0", "objective.tpot", "0", "greater than zero"),
    ("objective.tpott=1 s", "objective.tpott", "tpott", "tpot"),
    ("workload=null", "workload", None, "strategy"),
    ("workload.requests=0", "workload.requests", "0", ">= 1"),
    ("workload.requests=null", "workload.requests", None, "trace"),
    ("workload.strategy=think", "workload.strategy.kind", "think", "best_of_n"),
    ("workload.strategy={budget: 5}", "workload.strategy.kind", None, "long_cot"),
    ("workload.strategy={kind: best_of_n}", "workload.strategy.samples", None, ">= 1"),
    ("workload.strategy={kind: best_of_n, samples: 0}", "workload.strategy.samples", "0", ">= 1"),
    ("workload.strategy={kind: best_of_n, samples: 2, stop_on_accept: true}", "workload.strategy.acceptance", None,
     "0 to 1"),
    ("workload.strategy={kind: best_of_n, samples: 2, acceptance: 2}", "workload.strategy.acceptance", "2", "<= 1"),
    ("workload.strategy={kind: long_cot, budget: 0}", "workload.strategy.budget", "0", ">= 1"),
    ("workload.strategy={kind: long_cot, budget: 9, forced_end_tokens: -1}", "workload.strategy.forced_end_tokens",
     "-1", ">= 0"),
    ("workload.prompt_tokens=0", "workload.prompt_tokens.value", "0", ">= 1"),
    ("workload.prompt_tokens=null", "workload.prompt_tokens", None, "distribution"),
    ("workload.prompt_tokens=long", "workload.prompt_tokens", "long", "lognormal"),
    ("workload.prompt_tokens={kind: normal}", "workload.prompt_tokens.kind", "normal", "did you mean lognormal"),
    ("workload.prompt_tokens={kind: uniform, low: 5, high: 3}", "workload.prompt_tokens.high", "3", ">= 5"),
    ("workload.prompt_tokens={kind: lognormal, median: -5, sigma: 1}", "workload.prompt_tokens.median", "-5", "> 0"),
    ("workload.prompt_tokens={kind: lognormal, median: 5, sigma: .inf}", "workload.prompt_tokens.sigma", "inf",
     "a number"),
    ("workload.prompt_tokens={kind: empirical, values: []}", "workload.prompt_tokens.values", "[]", "at least 1"),
    ("workload.prompt_tokens={kind: empirical, values: [1, 0]}", "workload.prompt_tokens.values[1]", "0", ">= 1"),
    ("workload.prompt_tokens={kind: empirical, values: [1], weights: [0]}", "workload.prompt_tokens.weights", "0",
     "> 0"),
    ("workload.prompt_tokens={kind: table, path: no.csv, column: x}", "workload.prompt_tokens.path", "no.csv",
     ".parquet"),
    ("workload.arrivals={kind: poisson, rate: 0}", "workload.arrivals.rate", "0", "greater than zero"),
    ("workload.arrivals={kind: poisson, rate: 2 GB/s}", "workload.arrivals.rate", "2 GB/s", "2 /s"),
    ("workload.arrivals={kind: gamma, rate: 2, cv: 0}", "workload.arrivals.cv", "0", ">= 0.01"),
    ("workload.arrivals={kind: closed_loop, concurrency: 0}", "workload.arrivals.concurrency", "0", ">= 1"),
    ("workload.arrivals={kind: closed_loop, concurrency: 1, think_time: -1}", "workload.arrivals.think_time", "-1",
     "zero or more"),
    ("workload.arrivals=trace", "workload.arrivals.kind", "trace", "`trace`"),
    ("workload.arrivals.cv=2", "workload.arrivals.cv", "cv", "kind, rate"),
    ("workload.timeout=-3 s", "workload.timeout", "-3 s", "greater than zero"),
    ("workload.timeout=1" + 400 * "0", "workload.timeout", "1000", "2 s"),
    ("workload.priority={values: []}", "workload.priority.values", "[]", "at least 1"),
    ("workload.priority={values: [1, 2], weights: [1]}", "workload.priority.weights", "1", "2 weights"),
    ("workload.trace={path: null}", "workload.trace.path", None, "--set workload.trace.path=FILE"),
    ("workload.requests.more=3", "workload.requests", "workload.requests.more=3", "no parts"),
    ("workload.strategy[0]=3", "workload.strategy[0]", "workload.strategy[0]=3", "no list"),
    ("engine={", "engine", "{", "a YAML value"),
    ("engine", None, "engine", "PATH=VALUE"),
    ("=3", None, "=3", "PATH=VALUE"),
    ("a[=3", None, "a[", "PATH=VALUE"),
]  # fmt: skip


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(GOOD)
    load_scenario(path)
    return path


@pytest.mark.parametrize(("assignment", "place", "found", "allowed"), ASSIGNED, ids=[a[0] for a in ASSIGNED])
def test_bad_assignments(good: Path, assignment: str, place: str | None, found: str | None, allowed: str) -> None:
    with pytest.raises(InputError) as error:
        load_scenario(good, [assignment])
    e = error.value
    assert (e.file, e.line, e.place) == ("--set", None, place)
    assert (e.found is None) == (found is None) and (found or "") in str(e.found)
    assert allowed in (e.allowed or "")


# what is replaced in the good file, by what, line, place, part of what was found, part of what is allowed
WRITTEN = [
    ("gpu: h200-sxm", "gpu: h200", 1, "gpu", "h200", "did you mean"),
    ("gpu: h200-sxm\n", "", 1, "gpu", None, "text"),
    ("gpu: h200-sxm", "gpu: {base: h200-sxm, sms: 0}", 1, "gpu.sms", "0", ">= 1"),
    ("model: qwen3-8b", "model: llama", 2, "model", "llama", "405B"),
    ("model: qwen3-8b", "model:\n  base: qwen3-8b\n  head_dim: -1", 4, "model.head_dim", "-1", "from 1"),
    ("max_num_seqs: 64", "max_num_seqs: many", 4, "engine.max_num_seqs", "many", "an integer"),
    ("max_num_seqs: 64", "max_num_seq: 64", 4, "engine.max_num_seq", "max_num_seq", "did you mean max_num_seqs"),
    ("max_num_seqs: 64", "max_num_seqs: 9000", 4, "engine.max_num_seqs", "8,192", "at least 9,000"),
    ("max_num_seqs: 64", "max_model_len: 99999", 4, "engine.max_model_len", "99999", "at most 40,960"),
    ("  requests: 10\n", "", 5, "workload.requests", None, "number of jobs"),
    ("  requests: 10\n", "  trace: {path: none.csv}\n", 8, "workload.prompt_tokens", "512", "nothing beside a trace"),
    ("prompt_tokens: 512", "prompt_tokens: -1", 8, "workload.prompt_tokens.value", "-1", ">= 1"),
    ("rate: 2", "rate: 2 s", 10, "workload.arrivals.rate", "2 s", "2 /s"),
    ("requests: 10", "requests: 10\n  requests: 20", 8, "workload.requests", None, ""),
    ("strategy: chat", "strategy: {kind: best_of_n, samples: 10000000}", 6, "workload.strategy.samples",
     "10000000", "<= 1,000,000"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "line", "place", "found", "allowed"), WRITTEN, ids=[w[1] or w[0] for w in WRITTEN]
)
def test_bad_files(tmp_path: Path, old: str, new: str, line: int, place: str, found: str | None, allowed: str) -> None:
    assert GOOD.count(old) == 1
    path = tmp_path / "s.yaml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(InputError) as error:
        load_scenario(path)
    e = error.value
    assert (e.file, e.line, e.place) == (path, line, place)
    assert (e.found is None) == (found is None) and (found or "") in str(e.found)
    assert allowed in (e.allowed or "")


TRACED = "gpu: h200-sxm\nmodel: qwen3-8b\nworkload:\n  strategy: chat\n  trace: {path: t.jsonl}\n"
HASHES = '{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1]}\n'


@pytest.mark.parametrize(
    ("more", "line", "place", "found", "allowed"),
    [
        ("engine: {block_size: 24}\n", 6, "engine.block_size", "24", "a divisor of 512"),
        ("  output_tokens: 5\n", 6, "workload.output_tokens", "5", "nothing beside a trace"),
        ("  strategy: {kind: best_of_n, samples: 2}\n", 5, "workload.strategy.kind", "best_of_n", "chat or long_cot"),
        ("  requests: 5\n", 6, "workload.requests", "5", "trace.limit"),
        ("", 5, "workload.trace.path", "none.jsonl", "arrival_s"),
    ],
)
def test_bad_scenarios_with_a_trace(tmp_path: Path, more: str, line: int, place: str, found: str, allowed: str) -> None:
    (tmp_path / "t.jsonl").write_text(HASHES)
    path = tmp_path / "s.yaml"
    text = TRACED
    if "strategy" in more:
        text = text.replace("  strategy: chat\n", "").replace("}\n", "}\n" + more)
    else:
        text += more
    if "requests" in more:
        text = text.replace("t.jsonl", "t.jsonl, limit: 3")
    if not more:
        text = text.replace("t.jsonl", "none.jsonl")
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_scenario(path)
    e = error.value
    assert (e.file, e.line, e.place) == (path, line, place)
    assert found in str(e.found) and allowed in (e.allowed or "")


def test_block_size_does_not_matter_without_prefix_sharing(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(HASHES)
    path = tmp_path / "s.yaml"
    path.write_text(TRACED + "engine: {block_size: 24, prefix_sharing: false}\n")
    assert generate(load_scenario(path).config.workload, 0).n == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("gpu: [", "not valid YAML"),
        ("- 1\n", "not a scenario"),
        ("gpu\n", "not a scenario"),
        ("3: 4\n", "a key that is not text|unknown key"),
    ],
)
def test_files_that_are_no_scenario(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=problem) as error:
        load_scenario(path)
    assert error.value.file == path


@pytest.mark.parametrize(
    ("spec", "problem", "allowed"),
    [
        ("aime24-best-of-23", "unknown scenario", "did you mean aime24-best-of-32"),
        ("none.yaml", "no such file", "path of a .yaml file"),
        (Path("none"), "no such file", "path of a .yaml file"),
        ("", "not a scenario", "chat-poisson"),
        (None, "not a scenario", "chat-poisson"),
        ({}, "a required key is missing", "text"),
    ],
)
def test_bad_specs(spec: object, problem: str, allowed: str) -> None:
    with pytest.raises(InputError, match=problem) as error:
        load_scenario(spec)  # type: ignore[arg-type]
    assert allowed in (error.value.allowed or "")


def test_a_bad_row_is_found_when_the_workload_is_generated(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,input_len,output_len\n0,1,1\n1,1,-1\n")
    scenario = load_scenario(
        {"gpu": "h200-sxm", "model": "qwen3-8b", "workload": {"strategy": "chat", "trace": {"path": str(trace)}}}
    )
    with pytest.raises(InputError, match="row 2, column output_len"):
        generate(scenario.config.workload, 0)
