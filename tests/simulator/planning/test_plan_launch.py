"""Launch arguments: only flags that engines document, with the sizes that were simulated; manifests that are whole."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import yaml

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.planning import launch
from simulator.planning.candidates import Base, scenario_of
from simulator.planning.launchargs import Launch
from simulator.planning.model import Candidate, Objective, Outcome, Plan, Reached, Space, Verdict, Workers
from simulator.planning.planner import Answer
from simulator.planning.prices import Prices
from workloads.scenario import load_scenario

DOCUMENTED = {
    # `vllm serve`: docs/serving/{data,expert}_parallel_deployment.md, docs/features/nixl_connector_usage.md and
    # vllm/engine/arg_utils.py of vllm-project/vllm, 0.19.0.
    "vllm": """--tensor-parallel-size --pipeline-parallel-size --data-parallel-size --enable-expert-parallel
        --all2all-backend --enable-eplb --eplb-config --max-model-len --max-num-seqs --max-num-batched-tokens
        --gpu-memory-utilization --enable-chunked-prefill --no-enable-chunked-prefill --enable-prefix-caching
        --no-enable-prefix-caching --scheduling-policy --block-size --quantization --kv-cache-dtype
        --kv-transfer-config""",
    # `python3 -m sglang.launch_server`: docs/advanced_features/server_arguments.md of sgl-project/sglang.
    "sglang": """--model-path --tp-size --pp-size --dp-size --enable-dp-attention --ep-size --moe-a2a-backend
        --deepep-mode --ep-num-redundant-experts --context-length --max-running-requests --chunked-prefill-size
        --max-prefill-tokens --mem-fraction-static --disable-radix-cache --enable-mixed-chunk
        --enable-priority-scheduling --schedule-low-priority-values-first --page-size --quantization --kv-cache-dtype
        --disaggregation-mode --disaggregation-transfer-backend --host --port""",
    # `trtllm-serve`: tensorrt_llm/commands/serve.py of NVIDIA/TensorRT-LLM.
    "trtllm": """--backend --tp_size --pp_size --ep_size --max_seq_len --max_batch_size --max_num_tokens
        --enable_chunked_prefill --host --port --extra_llm_api_options""",
}
LLM_ARGS = {
    "kv_cache_config", "enable_attention_dp", "cache_transceiver_config", "disable_overlap_scheduler",
}  # fmt: skip
"""Keys of the file that `trtllm-serve --extra_llm_api_options` reads (docs/source/features of TensorRT-LLM)."""
H200, DENSE = "h200-sxm", Workers("h200-sxm", tensor=2, replicas=3)
WIDE = Workers(H200, attention_data=8, expert=8, replicas=2, max_num_seqs=64)
EXPERTS = Workers(H200, tensor=4, expert=4, max_num_batched_tokens=4096)
CASES: dict[str, tuple[str, Candidate]] = {
    "dense": ("qwen3-32b", Candidate(DENSE)),
    "fp8": ("qwen3-32b", Candidate(DENSE, precision="fp8")),
    "another checkpoint": ("qwen3-32b", Candidate(DENSE, precision="fp8_block")),
    "kv in fp8": ("qwen3-32b", Candidate(DENSE, precision="{linear: fp8, kv: fp8}")),
    "stages": ("qwen3-32b", Candidate(Workers(H200, tensor=2, pipeline=2))),
    "experts": ("qwen3-30b-a3b", Candidate(EXPERTS)),
    "wide": ("deepseek-r1", Candidate(WIDE)),
    "sparse": ("qwen3-32b", Candidate(DENSE, kv_budget=2048)),
    "disaggregated": ("qwen3-32b", Candidate(DENSE, prefill=Workers(H200, tensor=4, replicas=2))),
}


def answer(engine: str, model: str, candidate: Candidate, *sets: str) -> Answer:
    base = Base("chat-poisson", (f"engine={engine}", f"model={model}", *sets))
    one = Objective("ttft_s", "p99", 2.0)
    best = Outcome(candidate, Verdict((Reached(one, 1.0),)), {}, 24.0, 4200.0)
    plan = Plan((one,), Space((H200,)), 1, best, None, (best,), (best,))
    return Answer(base, plan, Prices({H200: 4.0}, {}, "test"), {}, None, None, {H200: load_gpu(H200).title}, ())


def launches(engine: str, name: str, *sets: str) -> list[Launch]:
    model, candidate = CASES[name]
    return launch.launches_of(scenario_of(answer(engine, model, candidate, *sets).base, candidate))


def options(one: Launch) -> dict[str, str]:
    """The arguments by flag; empty text for a switch."""
    return {arg[0]: arg[1] if len(arg) > 1 else "" for arg in one.args}


@pytest.mark.parametrize("engine", DOCUMENTED)
@pytest.mark.parametrize("name", CASES)
def test_every_flag_is_documented_and_given_once(engine: str, name: str) -> None:
    for one in launches(engine, name, "engine.scheduling=priority", "engine.prefix_sharing=false"):
        flags = [arg[0] for arg in one.args]
        assert set(flags) <= set(DOCUMENTED[engine].split()) and len(flags) == len(set(flags))
        assert all(len(arg) <= 2 for arg in one.args)
        assert set(one.config or {}) <= LLM_ARGS and (one.config is not None) == (engine == "trtllm")


@pytest.mark.parametrize("engine", DOCUMENTED)
@pytest.mark.parametrize("name", CASES)
def test_sizes_are_those_of_the_candidate(engine: str, name: str) -> None:
    candidate = CASES[name][1]
    parts = [candidate.workers] if candidate.prefill is None else [candidate.prefill, candidate.workers]
    for one, part in zip(launches(engine, name), parts, strict=True):
        said = options(one)
        assert one.count == part.replicas and one.gpus == part.gpus_each
        if engine == "vllm":  # tensor x pipeline x data GPUs; experts over all of them if at all
            sizes = [int(said.get(f"--{way}-parallel-size", 1)) for way in ("tensor", "pipeline", "data")]
            assert sizes == [part.tensor, part.pipeline, part.attention_data]
            assert ("--enable-expert-parallel" in said) == (part.expert > 1)
        elif engine == "sglang":  # tp counts all GPUs of a stage, of which dp are ranks of attention
            assert int(said["--tp-size"]) == part.tensor * part.attention_data
            assert (
                int(said.get("--dp-size", 1)) == part.attention_data and int(said.get("--pp-size", 1)) == part.pipeline
            )
            assert ("--enable-dp-attention" in said) == (part.attention_data > 1)
            assert int(said.get("--ep-size", 1)) == part.expert
        else:
            assert int(said["--tp_size"]) * int(said["--pp_size"]) == part.gpus_each
            assert int(said.get("--ep_size", 1)) == part.expert
            assert bool(one.config and one.config.get("enable_attention_dp")) == (part.attention_data > 1)


def test_limits_are_those_of_a_rank_where_the_engine_counts_so() -> None:
    """64 sequences on each of 8 ranks: vLLM and TensorRT-LLM count those of a rank, SGLang all 512."""
    assert options(launches("vllm", "wide")[0])["--max-num-seqs"] == "64"
    assert options(launches("trtllm", "wide")[0])["--max_batch_size"] == "64"
    assert options(launches("sglang", "wide")[0])["--max-running-requests"] == "512"
    tokens = load_scenario("chat-poisson", ["engine=sglang"]).config.engine.max_num_batched_tokens
    assert options(launches("sglang", "wide")[0])["--chunked-prefill-size"] == str(8 * tokens)
    assert options(launches("vllm", "experts")[0])["--max-num-batched-tokens"] == "4096"


def test_formats_are_flags_or_a_word_about_the_checkpoint() -> None:
    for engine, kv in (("vllm", "fp8"), ("sglang", "fp8_e4m3")):
        plain, fp8, other, both = (launches(engine, n)[0] for n in ("dense", "fp8", "another checkpoint", "kv in fp8"))
        assert "--quantization" not in options(plain) and not plain.remarks
        assert options(fp8)["--quantization"] == "fp8" and not fp8.remarks
        assert "--quantization" not in options(other) and "fp8_block" in other.remarks[0]
        assert options(both)["--kv-cache-dtype"] == kv and "--kv-cache-dtype" not in options(fp8)
    config = launches("trtllm", "kv in fp8")[0].config
    assert config is not None and config["kv_cache_config"]["dtype"] == "fp8"
    assert "checkpoint" in launches("trtllm", "fp8")[0].remarks[0]
    # DeepSeek-R1 is published in fp8 by blocks: nothing to say.
    assert not [r for r in launches("vllm", "wide")[0].remarks if "checkpoint" in r]


def test_what_no_flag_says_is_a_remark() -> None:
    assert any("top_k attention (budget 2048) was simulated" in r for r in launches("vllm", "sparse")[0].remarks)
    spoken = launches("vllm", "dense", "speculation={method: ngram, tokens: 3, acceptance: 0.4}")[0]
    assert any("speculation (ngram, 3 tokens)" in remark for remark in spoken.remarks)
    changed = ("engine.watermark=0.05", "engine.overlap_scheduling=false", "engine.prefill=first")
    said = {engine: " ".join(launches(engine, "dense", *changed)[0].remarks) for engine in DOCUMENTED}
    assert all("engine.watermark" in words for words in said.values())
    # SGLang prefills first by itself, TensorRT-LLM's file has a key for the scheduler: vLLM has nothing of both.
    assert "engine.prefill" in said["vllm"] and "engine.overlap_scheduling" in said["vllm"]
    assert "engine.prefill" not in said["sglang"] and "engine.overlap_scheduling" not in said["trtllm"]
    mixed = Candidate(Workers(H200, tensor=2, attention_data=2, expert=2))
    for engine, words in (("vllm", "not over 2 groups"), ("trtllm", "not 2 ranks of 2")):
        made = launch.launches_of(scenario_of(answer(engine, "qwen3-30b-a3b", mixed).base, mixed))
        assert any(words in remark for remark in made[0].remarks)


@pytest.mark.parametrize("engine", DOCUMENTED)
def test_the_shell_text_is_the_command(engine: str) -> None:
    model, candidate = CASES["disaggregated"]
    text = launch.text(answer(engine, model, candidate), kubernetes=False)
    code = re.sub(r"(?m)^(#.*|cat >.*|export.*|mkdir.*)$", "", text.replace(" \\\n", " "))
    commands = [shlex.split(line) for line in code.splitlines() if line.startswith(("vllm", "python3", "trtllm"))]
    made = launches(engine, "disaggregated")
    assert commands == [[*one.command, *(word for arg in one.args for word in arg)] for one in made]
    assert "# 14 x NVIDIA H200" in text and "in front" in text


@pytest.mark.parametrize("engine", DOCUMENTED)
@pytest.mark.parametrize("name", ["dense", "wide", "disaggregated"])
def test_manifests_ask_for_all_gpus_and_hang_together(engine: str, name: str) -> None:
    model, candidate = CASES[name]
    documents = [d for d in yaml.safe_load_all(launch.text(answer(engine, model, candidate), kubernetes=True)) if d]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for document in documents:
        assert set(document) >= {"apiVersion", "kind", "metadata"}
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", document["metadata"]["name"])
        by_kind.setdefault(document["kind"], []).append(document)
    deployments, services = by_kind["Deployment"], by_kind["Service"]
    roles = 1 if candidate.prefill is None else 2
    assert len(deployments) == len(services) == len({d["metadata"]["name"] for d in deployments}) == roles
    gpus = 0
    for deployment, service in zip(deployments, services, strict=True):
        spec = deployment["spec"]
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        assert deployment["apiVersion"] == "apps/v1"
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels == service["spec"]["selector"]
        ports = [port["name"] for port in container["ports"]]
        assert service["spec"]["ports"][0]["targetPort"] in ports
        assert all(isinstance(word, str) for word in [*container["command"], *container["args"]])
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        gpus += spec["replicas"] * container["resources"]["limits"]["nvidia.com/gpu"]
    assert gpus == candidate.gpus
    configs = {d["metadata"]["name"] for d in by_kind.get("ConfigMap", [])}
    assert configs == ({d["metadata"]["name"] for d in deployments} if engine == "trtllm" else set())


def test_an_engine_larger_than_a_machine_is_no_deployment() -> None:
    wide = Candidate(Workers(H200, attention_data=16, expert=16))
    text = launch.text(answer("sglang", "deepseek-r1", wide), kubernetes=True)
    assert "2 machines of 8" in text and "LeaderWorkerSet" in text and not [d for d in yaml.safe_load_all(text) if d]


def test_an_idealised_engine_cannot_be_launched() -> None:
    with pytest.raises(InputError, match="only a named engine can be launched"):
        launch.check_engine(load_scenario("chat-poisson", ["engine=none"]))
