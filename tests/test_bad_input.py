"""Bad input from end to end: whatever a user gets wrong ends with exit code 2 and one message, and changes nothing.

Each case is a whole command. It is run in a folder that holds the case's files and a folder `out` with somebody's
results, which must keep their bytes. The message has to name the file or the option, the place, what was found and what
is allowed; `words` are the parts of it that say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

CHAT = """\
gpu: h200-sxm
model: Qwen/Qwen3-8B
workload:
  strategy: {kind: chat}
  requests: 4
  prompt_tokens: 64
  output_tokens: 8
"""
GROUPS = CHAT.replace("{kind: chat}", "{kind: best_of_n, samples: 4, acceptance: 0.5}")
TRACED = CHAT[: CHAT.index("  requests")] + "  trace: {path: trace.csv}\n"
HASHED = TRACED.replace("trace.csv", "trace.jsonl")
HEADER = "arrival_s,input_len,output_len\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,100,10\n"
MOONCAKE = '{"timestamp": 0, "input_length": 600, "output_length": 8, "hash_ids": [1, 2]}\n'
CONFIG = """\
{
  "architectures": ["LlamaForCausalLM"],
  "torch_dtype": "bfloat16",
  "num_hidden_layers": 4,
  "hidden_size": 512,
  "intermediate_size": 1024,
  "num_attention_heads": 8,
  "num_key_value_heads": 2,
  "vocab_size": 32000,
  "max_position_embeddings": 4096
}
"""
NESTED = """\
{
  "architectures": ["KimiK25ForConditionalGeneration"],
  "dtype": "bfloat16",
  "text_config": {
    "num_hidden_layers": 4, "hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8,
    "kv_lora_rank": 512, "q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "n_routed_experts": 384,
    "n_shared_experts": 1,
    "moe_intermediate_size": 256,
    "num_experts_per_tok": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 4096
  },
  "vision_config": {"hidden_size": 64}
}
"""
PROFILE = "name: mine\ndescription: a profile\nfitted_on: nothing\n"
BINARY = b"gpu: h200-sxm\nname: \xff\xfe\n"

Files = dict[str, str | bytes | None]
"""Name -> content; None makes a folder."""


@dataclass(frozen=True)
class Case:
    """A command, the files that it meets, and what its message must say."""

    name: str
    argv: tuple[str, ...]
    words: tuple[str, ...]
    files: Files = field(default_factory=dict)


def assigned(name: str, *texts: str, words: tuple[str, ...], content: str = CHAT, files: Files | None = None) -> Case:
    """`kinesim run chat.yaml --set ...`."""
    sets = [part for text in texts for part in ("--set", text)]
    return Case(name, ("run", "chat.yaml", *sets), words, {"chat.yaml": content, **(files or {})})


def scenario(name: str, content: str | bytes | None, words: tuple[str, ...], **files: str | bytes | None) -> Case:
    """`kinesim run mine.yaml` with that content; `files` beside it (`trace_csv` is `trace.csv`)."""
    beside = {key.replace("_", ".", 1): text for key, text in files.items()}
    return Case(name, ("run", "mine.yaml"), words, {"mine.yaml": content, **beside})


def gpu(name: str, content: str | bytes, words: tuple[str, ...], files: Files | None = None) -> Case:
    """`--set gpu=mine-gpu.yaml` with that content."""
    files = {"mine-gpu.yaml": content, **(files or {})}
    return assigned(name, "gpu=./mine-gpu.yaml", words=words, files=files)


def model(name: str, content: str | bytes, words: tuple[str, ...]) -> Case:
    """`--set model=mine`, a folder with that config.json."""
    return assigned(name, "model=./mine", words=words, files={"mine/config.json": content})


def profile(name: str, content: str, words: tuple[str, ...]) -> Case:
    return assigned(name, "profile=./mine-profile.yaml", words=words, files={"mine-profile.yaml": content})


def lengths(name: str, text: str, words: tuple[str, ...], **files: str | bytes | None) -> Case:
    """`--set workload.output_tokens=...`."""
    beside = {key.replace("_", ".", 1): content for key, content in files.items()}
    return assigned(name, f"workload.output_tokens={text}", words=words, files=beside)


SET = "kinesim: --set: "

HARDWARE = [
    assigned("unknown GPU", "gpu=h200", words=(SET + "gpu: unknown GPU", "'h200'", "did you mean", "h200-sxm or", "b200-sxm")),
    assigned("GPU of the wrong type", "gpu=3", words=(SET + "gpu", "found 3", "allowed: text")),
    assigned("misspelt figure", "gpu.memory.bandwith=9 TB/s", words=(SET + "gpu.memory.bandwith", "unknown key", "did you mean bandwidth?")),
    assigned("negative bandwidth", "gpu.memory.bandwidth=-4.8 TB/s", words=(SET + "gpu.memory.bandwidth", "'-4.8 TB/s'", "4.8 TB/s")),
    assigned("wrong unit", "gpu.memory.bandwidth=9.6 GHz", words=(SET + "gpu.memory.bandwidth", "wrong unit 'GHz'", "TB/s")),
    assigned("size where a rate is wanted", "gpu.memory.bandwidth=4.8 TB", words=(SET + "gpu.memory.bandwidth", "wrong unit 'TB'", "bytes/s")),
    assigned("words where a number is wanted", "gpu.memory.capacity=plenty", words=(SET + "gpu.memory.capacity", "not a quantity", "'plenty'", "141 GB")),
    assigned("infinite bandwidth", "gpu.memory.bandwidth=1e400 TB/s", words=(SET + "gpu.memory.bandwidth: not a finite number", "'1e400 TB/s'")),
    assigned("bandwidth without a unit", "gpu.memory.bandwidth=4.8", words=(SET + "gpu.memory.bandwidth: a unit is missing", "found 4.8", "4.8 TB/s")),
    assigned("number without its unit", "gpu.power.tdp=lots W", words=(SET + "gpu.power.tdp", "'lots W'", "700 W")),
    assigned("idle power above the TDP", "gpu.power.idle=900 W", words=(SET + "gpu.power.idle", "900 W", "at most the TDP")),
    assigned("peak in an unknown format", "gpu.peak.bf17=1 PFLOP/s", words=(SET + "gpu.peak", "bf17", "did you mean bf16")),
    assigned("format that the GPU lacks", "gpu=a100-sxm", "precision.activations=fp8",
             words=(SET + "precision.activations", "a100-sxm does not compute", "'fp8'", "bf16, fp16")),
    assigned("checkpoint in a format that the GPU lacks", "gpu=a100-sxm", "model=Qwen/Qwen3-235B-A22B-FP8",
             words=("precision.linear", "a100-sxm does not compute", "fp8_block (of Qwen/Qwen3-235B-A22B-FP8)")),
    assigned("part in a format that the GPU lacks", "gpu=a100-sxm", "precision.mlp=nvfp4",
             words=(SET + "precision.mlp", "a100-sxm does not compute in fp4, which nvfp4 needs", "w4a16_mxfp4")),
    assigned("part that the model lacks", "precision.experts=fp8", words=(SET + "precision.experts", "has no experts", "'fp8'")),
    assigned("unknown checkpoint format", "precision=fp4", words=(SET + "precision.linear", "'fp4'", "did you mean nvfp4")),
    gpu("no such base", "base: h300-sxm\n", ("mine-gpu.yaml:1: base: unknown GPU", "'h300-sxm'", "h200-sxm")),
    gpu("bases in a circle", "base: ./other.yaml\n", ("other.yaml", "base", "circle", "not derived from this one"),
        {"other.yaml": "base: ./mine-gpu.yaml\n"}),
    gpu("incomplete GPU", "vendor: me\nsms: 100\n", ("mine-gpu.yaml:1: architecture: a required key is missing", "text")),
    gpu("misspelt key of a GPU file", "base: h200-sxm\nmemory:\n  bandwith: 9 TB/s\n",
        ("mine-gpu.yaml:3: memory.bandwith: unknown key", "did you mean bandwidth?")),
    gpu("source of no figure", "base: h200-sxm\nsources: {speed: me}\n", ("mine-gpu.yaml:2: sources.speed", "no such figure", "memory.bandwidth")),
    gpu("date that is none", "base: h200-sxm\nprice: {usd_per_hour: 2, date: soon}\n", ("mine-gpu.yaml:2: price.date", "'soon'", "YYYY-MM")),
    gpu("GPU file in another encoding", BINARY, ("mine-gpu.yaml: is not UTF-8",)),
    assigned("missing GPU file", "gpu=./none.yaml", words=(SET + "gpu: no such file", "none.yaml", "the path of a .yaml file")),
    assigned("tensor parallelism that does not divide", "parallelism.tensor=3",
             words=("chat.yaml: parallelism.tensor", "num_attention_heads = 32", "found 3", "a divisor of 32")),
    assigned("tensor parallelism beyond the link", "parallelism.tensor=16", "gpu.scale_out=null",
             words=("chat.yaml: parallelism.tensor", "8 GPUs", "nvlink", "no network", "found 16", "1 to 8")),
    assigned("domain smaller than the layout", "parallelism.tensor=8", "gpu.link.domain=4", "gpu.scale_out=null",
             words=("chat.yaml: parallelism.tensor", "beyond the 4 GPUs", "found 8", "1 to 4")),
    assigned("stage that lies unevenly in nodes", "model=qwen3-30b-a3b", "parallelism={tensor: 4, attention_data: 3, expert: 4}",
             words=("chat.yaml: parallelism:", "12 GPUs of a stage do not lie evenly in 2 domains of 8", "tp4 dp3 ep4")),
    assigned("more groups than experts", "model=qwen3-30b-a3b", "parallelism={attention_data: 256, expert: 256}",
             words=("chat.yaml: parallelism.expert: more groups than the 128 experts", "found 256", "1 to 128")),
    assigned("experts and copies that do not divide", "model=qwen3-30b-a3b",
             "parallelism={attention_data: 24, expert: 24, redundant_experts: 8}",
             words=("chat.yaml: parallelism.expert", "equal parts of the 136 experts", "8 more places")),
    assigned("copies of a dense model's experts", "parallelism.redundant_experts=8",
             words=("chat.yaml: parallelism.redundant_experts", "is dense", "found 8")),
    assigned("all-to-all without ranks", "model=qwen3-30b-a3b", "parallelism={tensor: 4, expert: 4, all_to_all: auto}",
             words=("chat.yaml: parallelism.all_to_all", "several ranks of attention", "found 'auto'", "attention_data above 1")),
    assigned("unknown all-to-all", "parallelism.all_to_all=deepep",
             words=(SET + "parallelism.all_to_all", "'deepep'", "low_latency")),
    gpu("network without a latency", "base: l40s\nscale_out: {kind: roce, bandwidth: 50 GB/s}\n",
        ("mine-gpu.yaml:2: scale_out.latency: a required key is missing", "a number")),
    assigned("experts' groups of a dense model", "parallelism={tensor: 2, expert: 2}",
             words=("chat.yaml: parallelism.expert", "is dense", "found 2", "a model with experts")),
    assigned("ranks of attention of a dense model", "parallelism.attention_data=2",
             words=("chat.yaml: parallelism.attention_data", "replicas of their own", "found 2", "`replicas`")),
    assigned("experts' groups that do not divide", "model=qwen3-30b-a3b", "parallelism={tensor: 4, expert: 3}",
             words=("chat.yaml: parallelism.expert", "cannot form 3 equal groups", "a divisor of 4")),
    assigned("more stages than layers", "parallelism.pipeline=37",
             words=("chat.yaml: parallelism.pipeline", "more stages than", "found 37", "1 to 36")),
    assigned("replica beyond the link", "parallelism={tensor: 4, pipeline: 4}", "gpu.scale_out=null",
             words=("chat.yaml: parallelism: the replica reaches beyond the 8 GPUs", "tp4 pp4 = 16 GPUs")),
    assigned("parallel size of zero", "parallelism.pipeline=0", words=(SET + "parallelism.pipeline", "found 0", ">= 1")),
    assigned("negative skew", "parallelism.routing_skew=-1", words=(SET + "parallelism.routing_skew: out of range", "found -1", ">= 0")),
    assigned("model that does not fit", "model=llama-3.1-70b", words=("chat.yaml: model", "does not fit", "1 GPU", "parallelism.tensor = 2")),
    assigned("large model that does not fit", "model=llama-3.1-405b", words=("chat.yaml: model", "does not fit", "parallelism.tensor = 8")),
    assigned("model that fits nowhere", "model=llama-3.1-405b", "gpu=l40s", words=("chat.yaml: model", "does not fit", "no tensor parallelism")),
    assigned("KV cache below one request", "workload.output_tokens=30000", "gpu.memory.capacity=24 GB",
             words=("chat.yaml: engine", "the longest request", "30063", "more memory")),
]  # fmt: skip

MODELS = [
    assigned("unknown model", "model=qwen3-9b", words=(SET + "model: unknown model", "'qwen3-9b'", "did you mean", "config.json")),
    assigned("name of several models", "model=qwen3", words=(SET + "model", "fits several models", "Qwen/Qwen3-8B")),
    assigned("misspelt key of a configuration", "model.num_layers=3", words=(SET + "model.num_layers", "unknown key", "num_hidden_layers")),
    model("unsupported architecture", CONFIG.replace("LlamaFor", "MambaFor"),
          ("mine/config.json:2: architectures: unsupported architecture", "'MambaForCausalLM'", "Qwen3ForCausalLM")),
    model("no text model inside", CONFIG.replace("LlamaForCausalLM", "KimiK25ForConditionalGeneration"),
          ("mine/config.json: text_config: a required key is missing", "a mapping")),
    model("latent attention without a latent", NESTED.replace('"kv_lora_rank": 512,', ""),
          ("mine/config.json: text_config.kv_lora_rank: a required key is missing", "an integer from 1")),
    model("bad value inside of the text model", NESTED.replace('"n_routed_experts": 384', '"n_routed_experts": 4'),
          ("mine/config.json:10: text_config.num_experts_per_tok", "more experts per token than experts", "found 8", "at most 4")),
    assigned("layer types of another architecture", "model={base: qwen3.5-397b-a17b, layer_types: [sliding_attention]}",
             words=(SET + "model.layer_types", "has 1 entries", "one for each of 60 layers")),
    assigned("indexer without a budget", "model={base: glm-5, index_topk: 0}", words=(SET + "model.index_topk: out of range", "found 0", "an integer from 1")),
    assigned("latent attention with a KV format that the engine lacks", "model=deepseek-r1", "gpu=b200-sxm", "parallelism.tensor=8", "engine.name=trtllm",
             "precision.kv=int8", words=(SET + "precision.kv", "trtllm has no KV cache in this format for the latent attention of", "'int8'", "bf16, fp16, fp8")),
    assigned("sparse attention with a KV format that the engine lacks", "model=deepseek-v3.2", "gpu=b200-sxm", "parallelism.tensor=8", "engine.name=vllm",
             "precision.kv=fp16", words=(SET + "precision.kv", "for the sparse attention of", "'fp16'", "bf16, fp8")),
    model("truncated configuration", CONFIG[:-40], ("mine/config.json:9: ", "is not valid JSON", "config.json")),
    model("NaN in a configuration", CONFIG.replace("512", "NaN"), ("mine/config.json:5: hidden_size", "not a finite number", "NaN")),
    model("configuration without layers", CONFIG.replace("num_hidden_layers", "layers"),
          ("mine/config.json: num_hidden_layers: a required key is missing", "an integer from 1")),
    model("negative width", CONFIG.replace("512", "-512"), ("mine/config.json:5: hidden_size", "found -512", "an integer from 1")),
    model("heads that do not divide", CONFIG.replace('heads": 8', 'heads": 7'), ("mine/config.json:7: num_attention_heads", "found 7", "a divisor of hidden_size")),
    model("list instead of a configuration", "[1, 2]\n", ("mine/config.json:1: not a JSON object", "[1, 2]", "config.json")),
    model("unsupported quantisation", CONFIG.replace("{\n", '{\n  "quantization_config": {"quant_method": "hqq"},\n', 1),
          ("mine/config.json:2: quantization_config: unsupported quantisation", "'hqq'", "fp8")),
    model("quantisation without kernels", CONFIG.replace("{\n", '{\n  "quantization_config": {"quant_method": "bitsandbytes"},\n', 1),
          ("mine/config.json:2: quantization_config: bitsandbytes stores weights", "'bitsandbytes'", "modelopt")),
    assigned("folder without a configuration", "model=./mine", words=(SET + "model: no such file", "mine", "config.json"), files={"mine": None}),
]  # fmt: skip

SETTINGS = [
    assigned("misspelt setting", "engine.max_num_sequences=3", words=(SET + "engine.max_num_sequences: unknown key", "did you mean max_num_seqs")),
    assigned("misspelt part", "enginee.block_size=3", words=(SET + "enginee: unknown key", "did you mean engine")),
    assigned("no sequences", "engine.max_num_seqs=0", words=(SET + "engine.max_num_seqs: out of range", "found 0", ">= 1")),
    assigned("block size in words", "engine.block_size=sixteen", words=(SET + "engine.block_size", "'sixteen'", "an integer >= 1")),
    assigned("fraction of a block", "engine.block_size=16.5", words=(SET + "engine.block_size", "16.5", "an integer")),
    assigned("more memory than there is", "engine.memory_utilisation=1.2", words=(SET + "engine.memory_utilisation", "1.2", "<= 1")),
    assigned("watermark over everything", "engine.watermark=1", words=(SET + "engine.watermark", "found 1", "< 1")),
    assigned("unknown scheduling", "engine.scheduling=lifo", words=(SET + "engine.scheduling", "'lifo'", "fcfs, priority")),
    assigned("fewer tokens than sequences", "engine.max_num_batched_tokens=128",
             words=(SET + "engine.max_num_batched_tokens", "found 128", "at least 256", "max_num_seqs")),
    assigned("whole prompts in a small budget", "engine.chunked_prefill=false", words=(SET + "engine.chunked_prefill", "8,192", "at least 40,960")),
    assigned("longer than the context", "engine.max_model_len=50000", words=(SET + "engine.max_model_len", "50000", "at most 40,960")),
    assigned("every request too long", "engine.max_model_len=32", words=("chat.yaml: engine.max_model_len", "found 32", "72")),
    assigned("no replicas", "replicas=0", words=(SET + "replicas: out of range", "found 0", ">= 1")),
    assigned("unknown router", "router=randm", words=(SET + "router: unknown router", "'randm'", "round_robin, session_affine")),
    assigned("unknown attention", "attention=sparse", words=(SET + "attention.kind: unknown kind", "'sparse'", "block_top_k")),
    assigned("window of no tokens", "attention={kind: sliding_window, window: 0}", words=(SET + "attention.window", "found 0", ">= 1")),
    assigned("top-k without a budget", "attention={kind: top_k}", words=(SET + "attention.budget: a required key is missing", "an integer >= 1")),
    assigned("unknown KV format", "precision.kv=fp7", words=(SET + "precision.kv", "'fp7'", "fp8")),
    assigned("unknown profile", "profile=rule-of-thump", words=("profile: unknown profile", "'rule-of-thump'", "did you mean rule-of-thumb")),
    assigned("missing profile file", "profile=./none.yaml", words=("none.yaml", "no such file")),
    profile("efficiency above one", PROFILE + "kinds:\n  gemm: {compute_efficiency: 1.5}\n",
            ("mine-profile.yaml:5: kinds.gemm.compute_efficiency", "1.5", "<= 1")),
    profile("unknown operator kind", PROFILE + "kinds:\n  gem: {compute_efficiency: 0.5}\n", ("mine-profile.yaml", "kinds", "'gem'", "did you mean gemm")),
    profile("overhead in bytes", PROFILE + "kinds:\n  gemm: {overhead: 3 MB}\n", ("mine-profile.yaml:5: kinds.gemm.overhead", "wrong unit 'MB'", "2 s")),
    profile("profile without a name", PROFILE[11:], ("mine-profile.yaml:1: name: a required key is missing",)),
    assigned("negative seed", "seed=-1", words=(SET + "seed: out of range", "found -1", ">= 0")),
    assigned("seed beyond 64 bits", "seed=9223372036854775808", words=(SET + "seed: out of range", "9223372036854775808", "<= 9,223,372,036,854,775,807")),
    assigned("seed in words", "seed=lucky", words=(SET + "seed", "'lucky'", "an integer")),
    assigned("objective without a limit", "objective={}", words=(SET + "objective", "without a limit", "ttft, tpot, e2e")),
    assigned("negative objective", "objective.ttft=-2 s", words=(SET + "objective.ttft", "'-2 s'", "greater than zero")),
]  # fmt: skip

WORKLOADS = [
    assigned("no requests", "workload.requests=0", words=(SET + "workload.requests: out of range", "found 0", ">= 1")),
    assigned("no samples", "workload.strategy.samples=0", content=GROUPS, words=(SET + "workload.strategy.samples: out of range", "found 0", ">= 1")),
    assigned("unknown strategy", "workload.strategy.kind=best_of_m", content=GROUPS,
             words=(SET + "workload.strategy.kind: unknown kind", "'best_of_m'", "did you mean best_of_n")),
    assigned("stop without acceptance", "workload.strategy={kind: best_of_n, samples: 4, stop_on_accept: true}",
             words=(SET + "workload.strategy.acceptance", "stop_on_accept", "a number from 0 to 1")),
    assigned("acceptance above one", "workload.strategy.acceptance=1.5", content=GROUPS, words=(SET + "workload.strategy.acceptance", "1.5", "<= 1")),
    assigned("acceptance NaN", "workload.strategy.acceptance=.nan", content=GROUPS, words=(SET + "workload.strategy.acceptance", "nan", "a number")),
    assigned("budget of no tokens", "workload.strategy={kind: long_cot, budget: 0}", words=(SET + "workload.strategy.budget", "found 0", ">= 1")),
    assigned("too many samples", "workload.requests=1000000", "workload.strategy.samples=1000", content=GROUPS,
             words=("workload.requests: too many requests", "1,000,000 problems x 1,000 samples", "100,000,000")),
    assigned("unknown arrivals", "workload.arrivals={kind: poison, rate: 2}", words=(SET + "workload.arrivals.kind", "'poison'", "did you mean poisson")),
    assigned("arrivals that never come", "workload.arrivals={kind: poisson, rate: 0}", words=(SET + "workload.arrivals.rate", "found 0", "greater than zero")),
    assigned("rate in seconds", "workload.arrivals={kind: poisson, rate: 2 s}", words=(SET + "workload.arrivals.rate", "wrong unit 's'", "2 /s")),
    assigned("arrivals without a rate", "workload.arrivals.kind=poisson", words=("chat.yaml:3: workload.arrivals.rate: a required key is missing", "a number")),
    assigned("negative variation", "workload.arrivals={kind: gamma, rate: 2, cv: -1}", words=(SET + "workload.arrivals.cv", "found -1", ">= 0.01")),
    assigned("closed loop of nobody", "workload.arrivals={kind: closed_loop, concurrency: 0}", words=(SET + "workload.arrivals.concurrency", "found 0", ">= 1")),
    assigned("trace arrivals without a trace", "workload.arrivals=trace", words=(SET + "workload.arrivals.kind", "need one", "a `trace`")),
    assigned("negative timeout", "workload.timeout=-1 s", words=(SET + "workload.timeout", "'-1 s'", "greater than zero")),
    assigned("priorities of nothing", "workload.priority={values: []}", words=(SET + "workload.priority.values", "0 entries", "at least 1")),
    lengths("length zero", "0", ("workload.output_tokens", "found 0", ">= 1")),
    lengths("unknown distribution", "{kind: normal, mean: 5}", ("workload.output_tokens.kind", "'normal'", "lognormal")),
    lengths("uniform upside down", "{kind: uniform, low: 9, high: 5}", ("workload.output_tokens.high: below `low`", "found 5", ">= 9")),
    lengths("lognormal upside down", "{kind: lognormal, median: 5, sigma: 1, min: 9, max: 5}", ("workload.output_tokens.max: below `min`", "found 5", ">= 9")),
    lengths("lognormal without spread", "{kind: lognormal, median: 5, sigma: 0}", ("workload.output_tokens.sigma", "found 0", "> 0")),
    lengths("weights that do not match", "{kind: empirical, values: [1, 2, 3], weights: [1, 2]}",
            ("workload.output_tokens.weights", "[1.0, 2.0]", "3 weights, one for each of `values`")),
    lengths("weights of zero", "{kind: empirical, values: [1, 2], weights: [0, 0]}", ("workload.output_tokens.weights", "[0.0, 0.0]", "a weight > 0")),
    lengths("missing table", "{kind: table, path: none.csv, column: n}", ("workload.output_tokens.path: no such file", "none.csv", ".csv or .parquet")),
    lengths("missing column of a table", "{kind: table, path: t.csv, column: m}", ("t.csv: column m: no such column", "allowed: n"), t_csv="n\n5\n"),
    lengths("negative length in a table", "{kind: table, path: t.csv, column: n}", ("t.csv: row 2, column n", "found -4", "1 to"), t_csv="n\n5\n-4\n"),
    lengths("empty table", "{kind: table, path: t.csv, column: n}", ("t.csv: cannot be read as a table",), t_csv=""),
]  # fmt: skip

ASSIGNMENTS = [
    assigned("assignment without a value", "engine.block_size", words=("--set: not an assignment", "'engine.block_size'", "PATH=VALUE")),
    assigned("assignment without a path", "=3", words=("--set: not an assignment", "'=3'", "PATH=VALUE")),
    assigned("path with a hole", "engine..block_size=3", words=("--set: not a path", "'engine..block_size'", "PATH=VALUE")),
    assigned("index into a mapping", "workload[0]=3", words=("--set: workload[0]: no such place", "'workload[0]=3'", "no list")),
    assigned("index beyond a list", "workload.priority.values[3]=5", content=CHAT + "  priority: {values: [1, 2]}\n",
             words=("--set: workload.priority.values[3]: no such place", "2 entries")),
    assigned("path through a number", "workload.requests.more=1", words=("--set: workload.requests: no such place", "no parts")),
    assigned("value that is no YAML", "engine.block_size=[1", words=("--set: engine.block_size: the value is not valid YAML", "'[1'")),
]  # fmt: skip

FILES = [
    Case("unknown scenario", ("run", "aime24-best-of-23"), ("scenario: unknown scenario", "'aime24-best-of-23'", "did you mean aime24-best-of-32")),
    Case("missing scenario file", ("run", "none.yaml"), ("none.yaml", "no such file", "chat-poisson")),
    Case("folder as a scenario", ("run", "./folder"), ("folder: is a folder, not a file",), {"folder": None}),
    Case("file below a file", ("run", "file/x.yaml"), ("file/x.yaml",), {"file": "x"}),
    scenario("empty scenario", "", ("mine.yaml: the file is empty",)),
    scenario("scenario of comments", "# nothing yet\n", ("mine.yaml: the file is empty",)),
    scenario("list as a scenario", "- gpu\n- model\n", ("mine.yaml: not a scenario", "['gpu', 'model']", "workload")),
    scenario("YAML with a bracket open", CHAT + "engine: {block_size: 16\n", ("mine.yaml:", "is not valid YAML")),
    scenario("YAML with a tab", "gpu: h200-sxm\nengine:\n\tblock_size: 16\n", ("mine.yaml:3: is not valid YAML",)),
    scenario("key given twice", CHAT + "gpu: b200-sxm\n", ("mine.yaml:8: gpu: key given twice",)),
    scenario("anchor in itself", "gpu: &a [*a]\n", ("mine.yaml:1: an anchor contains itself",)),
    scenario("two documents", CHAT + "---\n" + CHAT, ("mine.yaml", "is not valid YAML")),
    scenario("scenario in another encoding", BINARY, ("mine.yaml: is not UTF-8 text (byte 20)",)),
    scenario("misspelt key in a file", CHAT + "engine:\n  max_num_seq: 3\n", ("mine.yaml:9: engine.max_num_seq: unknown key", "did you mean max_num_seqs")),
    scenario("scenario without a model", CHAT.replace("model: Qwen/Qwen3-8B\n", ""), ("mine.yaml", "model: a required key is missing")),
    scenario("workload without lengths", CHAT.replace("  output_tokens: 8\n", ""), ("mine.yaml", "workload.output_tokens: a required key is missing", "a `trace`")),
    scenario("bad value in a file", CHAT.replace("requests: 4", "requests: -4"), ("mine.yaml:5: workload.requests: out of range", "found -4", ">= 1")),
    scenario("GPU by a wrong name in a file", CHAT.replace("h200-sxm", "h200sxm"), ("mine.yaml:1: gpu: unknown GPU", "'h200sxm'", "did you mean h200-sxm")),
]  # fmt: skip

TRACES = [
    Case("production without a trace", ("run", "production-reasoning"),
         ("production-reasoning.yaml", "workload.trace.path: this workload needs a trace", "--set workload.trace.path=FILE", "arrival_s,input_len,output_len")),
    Case("production with a missing trace", ("run", "production-reasoning", "--set", "workload.trace.path=none.csv"),
         ("--set: workload.trace.path: no such file", "none.csv", "arrival_s,input_len,output_len")),
    Case("production with a folder", ("run", "production-reasoning", "--set", "workload.trace.path=traces"),
         ("--set: workload.trace.path: is a folder", "traces"), {"traces": None}),
    scenario("empty trace", TRACED, ("trace.csv: the file is empty", "arrival_s,input_len,output_len"), trace_csv=""),
    scenario("trace of a header", TRACED, ("trace.csv:1: the trace has no requests",), trace_csv=HEADER),
    scenario("trace without a column", TRACED, ("trace.csv:1: header: the column output_len is missing", "output_length"),
             trace_csv="arrival_s,input_len,output_length\n0,1,1\n"),
    scenario("table that is no trace", TRACED, ("trace.csv:1: header: not a trace", "a,b", "arrival_s,input_len,output_len"), trace_csv="a,b\n1,2\n"),
    scenario("arrivals not sorted", TRACED, ("trace.csv:4: row 3, column arrival_s: arrivals are not sorted", "'1 s'", "at least the 2 s"),
             trace_csv=HEADER + "0,5,5\n2,5,5\n1,5,5\n"),
    scenario("NaN in a trace", TRACED, ("trace.csv:3: row 2, column arrival_s: not an arrival time", "nan", "from 0 to"), trace_csv=HEADER + "0,5,5\nnan,5,5\n"),
    scenario("NaN as a length", TRACED, ("trace.csv:2: row 1, column output_len: not a length", "nan", "a whole number of tokens"), trace_csv=HEADER + "0,5,nan\n"),
    scenario("negative arrival", TRACED, ("trace.csv:2: row 1, column arrival_s", "'-1 s'", "from 0"), trace_csv=HEADER + "-1,5,5\n"),
    scenario("request of no tokens", TRACED, ("trace.csv:2: row 1, column input_len: not a length", "found 0", "from 1"), trace_csv=HEADER + "0,0,5\n"),
    scenario("words in a trace", TRACED, ("trace.csv:3: row 2, column input_len: not a number", "'five'", "a number"), trace_csv=HEADER + "0,5,5\n1,five,5\n"),
    scenario("truncated CSV", TRACED, ("trace.csv:3: row 2, column output_len: the row is too short", "2 columns", "3 columns"), trace_csv=HEADER + "0,5,5\n1,5"),
    scenario("trace in another encoding", TRACED, ("trace.csv: is not UTF-8",), trace_csv=HEADER.encode() + b"\xff,1,1\n"),
    scenario("bad timestamp", TRACED, ("trace.csv:3: row 2, column TIMESTAMP: not a timestamp", "'yesterday'", "UTC such as"), trace_csv=AZURE + "yesterday,5,5\n"),
    scenario("timestamp of another zone", TRACED, ("trace.csv:3: row 2, column TIMESTAMP: ", "found '2023-11-16 18:15:47+02:00'", "allowed: "), trace_csv=AZURE + "2023-11-16 18:15:47+02:00,5,5\n"),
    scenario("truncated JSONL", HASHED, ("trace.jsonl:2: row 2: is not valid JSON", "one JSON object a line"), trace_jsonl=MOONCAKE + MOONCAKE[:30]),
    scenario("JSONL without hashes", HASHED, ("trace.jsonl:1: row 1, column hash_ids: a key is missing",), trace_jsonl=MOONCAKE.replace("hash_ids", "hashes")),
    scenario("too few hashes", HASHED, ("trace.jsonl:1: row 1, column hash_ids", "found 1", "2 for 600 tokens"), trace_jsonl=MOONCAKE.replace("[1, 2]", "[1]")),
    scenario("JSONL not sorted", HASHED, ("trace.jsonl:2: row 2, column timestamp: arrivals are not sorted", "'0 s'"),
             trace_jsonl=MOONCAKE.replace('p": 0', 'p": 1000') + MOONCAKE),
    scenario("blocks that do not divide the hashes", HASHED + "engine: {block_size: 48}\n",
             ("mine.yaml:6: engine.block_size", "512", "found 48", "a divisor of 512"), trace_jsonl=MOONCAKE),
    scenario("start after the end", TRACED.replace("trace.csv}", "trace.csv, start: 1 h}"), ("trace.csv: no request is left after `start`", "3600", "at most 0 s"),
             trace_csv=HEADER + "0,5,5\n"),
    scenario("number of requests given twice", TRACED.replace("trace.csv}", "trace.csv, limit: 5}") + "  requests: 5\n",
             ("mine.yaml:6: workload.requests", "given twice", "either `requests` or `trace.limit`"), trace_csv=HEADER + "0,5,5\n"),
    scenario("lengths beside a trace", TRACED + "  prompt_tokens: 5\n", ("mine.yaml:6: workload.prompt_tokens: given by the trace", "nothing beside a trace"),
             trace_csv=HEADER + "0,5,5\n"),
    scenario("samples of a trace", TRACED.replace("{kind: chat}", "{kind: best_of_n, samples: 3}"),
             ("mine.yaml:4: workload.strategy.kind", "best_of_n", "chat or long_cot"), trace_csv=HEADER + "0,5,5\n"),
]  # fmt: skip

OPTIONS = [
    Case("unknown command", ("rnu",), ("'rnu'", "run")),
    Case("unknown option", ("run", "chat-poisson", "--sets", "seed=1"), ("--sets",)),
    Case("unknown format", ("run", "chat-poisson", "--format", "xml"), ("--format", "'xml'", "table", "json")),
    Case("missing scenario", ("run",), ("SCENARIO",)),
    Case("one argument too many", ("run", "chat-poisson", "aime24-long-cot"), ("aime24-long-cot",)),
    Case("option without its value", ("run", "chat-poisson", "--set"), ("--set",)),
    Case("nothing to list", ("list",), ("argument", "gpus", "models", "scenarios", "profiles")),
    Case("list of something else", ("list", "cpus"), ("'cpus'", "gpus", "models", "scenarios", "profiles")),
    Case("schema of something else", ("schema", "trace"), ("'trace'", "scenario, gpu, profile")),
    Case("graph of an unknown phase", ("graph", "--phase", "train"), ("--phase", "'train'", "decode", "prefill", "mixed")),
    Case("graph of no sequences", ("graph", "--batch", "0"), ("--batch", "found 0", "1 or more")),
    Case("batch in words", ("graph", "--batch", "many"), ("--batch", "'many'", "integer")),
    Case("more sequences than the engine runs", ("graph", "--batch", "257"), ("--batch", "max_num_seqs", "found 257", "1 to 256")),
    Case("no context", ("graph", "--context", "0"), ("--context", "found 0", "1 or more")),
    Case("longer than the model's context", ("graph", "--context", "40961"), ("--context", "found 40961", "1 to 40960")),
    Case("prompt of no tokens", ("graph", "--phase", "prefill", "--batch", "1", "--query", "0"), ("--query", "found 0", "1 or more")),
    Case("more tokens than a step has", ("graph", "--phase", "prefill", "--batch", "8"), ("--batch times --query", "max_num_batched_tokens", "16384", "1 to 8192")),
    Case("negative past", ("graph", "--phase", "mixed", "--past", "-1"), ("--past", "found -1", "0 or more")),
    Case("picture of an unknown kind", ("graph", "--out", "graph.pdf"), ("graph.pdf", "'.pdf'", ".svg", ".png")),
    Case("picture without an ending", ("graph", "--out", "graph"), ("graph", ".svg", ".png")),
    Case("picture below a file", ("graph", "--out", "file/graph.svg"), ("file/graph.svg", "cannot be written", "a path in a writable folder"), {"file": "x"}),
    Case("document below a file", ("graph", "--out", "file/graph.json"), ("file/graph.json", "cannot be written", "a path in a writable folder"), {"file": "x"}),
    Case("picture over a folder", ("graph", "--out", "pictures.svg"), ("pictures.svg", "cannot be written"), {"pictures.svg/old.txt": "x"}),
    Case("graph on an unknown GPU", ("graph", "--set", "gpu=b100-sxm"), ("--set: gpu: unknown GPU", "'b100-sxm'", "b200-sxm")),
    Case("roofline of an unknown kind", ("roofline", "--out", "roof.gif"), ("roof.gif", "'.gif'", ".svg or .png")),
    Case("roofline of no sequences", ("roofline", "--batch", "-5", "--out", "roof.svg"), ("--batch", "found -5", "1 or more")),
    Case("roofline of a long prompt", ("roofline", "--query", "9000", "--out", "roof.svg"), ("--query", "9000", "8192")),
    Case("roofline below a file", ("roofline", "--out", "file/roof.png"), ("file/roof.png", "cannot be written"), {"file": "x"}),
    Case("results into a file", ("run", "chat.yaml", "--out", "file"), ("file: --out: cannot be written to", "a writable folder"), {"chat.yaml": CHAT, "file": "x"}),
    Case("results below a file", ("run", "chat.yaml", "--out", "file/out"), ("file/out: --out: cannot be written to", "a writable folder"),
         {"chat.yaml": CHAT, "file": "x"}),
    Case("folder in the way of a result", ("run", "chat.yaml", "--out", "out"), ("out/result.json: --out: cannot be written", "is a folder", "a writable folder"),
         {"chat.yaml": CHAT, "out/result.json/keep.txt": "x"}),
    Case("results into a new folder", ("run", "mine.yaml", "--out", "new"), ("trace.csv:3: row 2, column arrival_s: arrivals are not sorted",),
         {"mine.yaml": TRACED, "trace.csv": HEADER + "2,5,5\n1,5,5\n"}),
]  # fmt: skip

TWO_POOLS = "disaggregation={prefill: {}, decode: {}}"


def pools(name: str, *texts: str, words: tuple[str, ...]) -> Case:
    """`--set` of prefill and decode workers, and more."""
    return assigned(name, TWO_POOLS, *texts, words=words)


LINK = SET + "disaggregation.transfer.link"
POOLS = [
    pools("no link between the pools", "gpu=h20", "disaggregation.prefill.replicas=8",
          words=(LINK + ": no link between prefill and decode workers is known", "h20 has no network", "{bandwidth: 50 GB/s, latency: 10 us}")),
    pools("pools beyond the link's domain", "disaggregation.prefill.replicas=8", "disaggregation.transfer.link=nvlink",
          words=(LINK + ": the workers do not share a link domain", "9 GPUs, nvlink of h200-sxm connects 8", "fewer GPUs")),
    pools("unknown link", "disaggregation.transfer.link=infiniband", words=(LINK, "'infiniband'", "nvlink, scale_out")),
    pools("link without a unit", "disaggregation.transfer.link={bandwidth: 50}", words=(LINK + ".bandwidth: out of range", "found 50", "50 GB/s")),
    pools("pools with other KV blocks", "disaggregation.decode.engine.block_size=32",
          words=(SET + "disaggregation.decode.engine.block_size: the pools cannot exchange KV", "found 32", "16, as the prefill workers")),
    pools("pools with other engines", "disaggregation.decode.engine.name=vllm",
          words=(SET + "disaggregation.decode.engine.name: the pools cannot exchange KV", "found 'vllm'", "'none'")),
    pools("pools with KV heads that do not go together", "model=qwen3-14b", "disaggregation.prefill.parallelism.tensor=8", "disaggregation.decode.parallelism.tensor=5",
          words=(SET + "disaggregation.decode.parallelism.tensor: the pools cannot exchange KV", "found 5", "multiple of 8")),
    pools("pool that a layout does not divide", "disaggregation.decode.parallelism.tensor=3",
          words=("chat.yaml: disaggregation.decode.parallelism.tensor", "num_attention_heads = 32", "found 3")),
    pools("pool beyond its domain", "disaggregation.prefill.parallelism.tensor=8", "disaggregation.prefill.gpu.link.domain=4",
          "disaggregation.prefill.gpu.scale_out=null", "disaggregation.transfer.link={bandwidth: 50 GB/s}",
          words=("chat.yaml: disaggregation.prefill.parallelism.tensor", "beyond the 4 GPUs", "found 8", "1 to 4")),
    pools("pool that the model does not fit", "disaggregation.decode.gpu.memory.capacity=16 GB",
          words=("chat.yaml: disaggregation.decode.model", "does not fit", "1 GPU")),
    pools("misspelt setting of a pool", "disaggregation.decode.engine.max_num_seq=4",
          words=(SET + "disaggregation.decode.engine.max_num_seq: unknown key", "did you mean max_num_seqs")),
    pools("more sequences than tokens in a pool", "disaggregation.decode.engine.max_num_seqs=10000",
          words=(SET + "disaggregation.decode.engine.max_num_seqs", "8,192", "at least 10,000")),
    pools("overlap without a place", "disaggregation.transfer.overlap=layer",
          words=(SET + "disaggregation.transfer.overlap", "needs a place", "'layer'", "order: decode_first")),
    pools("replicas beside pools", "replicas=2", words=(SET + "replicas: prefill and decode workers have their own", "found 2", "disaggregation.prefill.replicas")),
    pools("router beside pools", "router=least_loaded", words=(SET + "router: prefill and decode workers have their own", "disaggregation.decode.router")),
    pools("unknown router of a pool", "disaggregation.decode.router=random", words=(SET + "disaggregation.decode.router: unknown router", "'random'", "least_tokens")),
    pools("decode workers that look for prefixes", "disaggregation.decode.router=prefix_aware", "workload.strategy={kind: best_of_n, samples: 2}",
          words=(SET + "disaggregation.decode.router: decode workers keep no prompts", "'prefix_aware'", "least_tokens")),
    pools("pool's router without prefixes", "disaggregation.prefill.router=prefix_aware",
          words=(SET + "disaggregation.prefill.router: this router needs prefixes", "prompts that share nothing", "Mooncake")),
    assigned("router without prefixes", "router=prefix_aware", words=(SET + "router: this router needs prefixes", "prompts that share nothing", "another router")),
    assigned("router without a prefix cache", "router=prefix_aware", "engine.prefix_sharing=false", content=GROUPS,
             words=(SET + "router: this router needs prefixes", "engine.prefix_sharing false", "prefix_sharing")),
    assigned("one pool alone", "disaggregation.prefill.replicas=2", words=("chat.yaml:1: disaggregation.decode: a required key is missing", "replicas, parallelism")),
]  # fmt: skip

CASES = [*HARDWARE, *MODELS, *SETTINGS, *WORKLOADS, *ASSIGNMENTS, *FILES, *TRACES, *OPTIONS, *POOLS]

AS_PROCESSES = (
    "unknown GPU", "model that does not fit", "KV cache below one request", "unsupported architecture", "truncated JSONL",
    "arrivals not sorted", "production without a trace", "YAML with a tab", "results below a file", "unknown option",
    "negative seed", "more tokens than a step has", "timestamp of another zone",
)  # fmt: skip


def place_files(folder: Path, files: Files) -> None:
    """Write the case's files, and a folder `out` with results that somebody has already."""
    for name, content in {"out/requests.parquet": b"of yesterday", "out/trace.json": "{}", **files}.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def whole_command(case: Case) -> list[str]:
    """The case's command; of a run, with the results going to `out` if nothing else is said."""
    out = ["--out", "out"] if case.argv[0] == "run" and "--out" not in case.argv and len(case.argv) > 1 else []
    if case.argv[-1] == "--set":
        return [*case.argv[:-1], *out, "--set"]
    return [*case.argv, *out]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below `folder`, hidden files too: name -> bytes, None for a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def check(case: Case, outcome, before: dict[str, bytes | None], after: dict[str, bytes | None]) -> None:
    """Exit code 2, one line on stderr that says everything, nothing on stdout, no file touched."""
    assert "Traceback" not in outcome.err
    assert outcome.code == 2, outcome.err
    assert outcome.err.startswith("kinesim: ") and outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, "more than one line"
    assert [word for word in case.words if word not in outcome.err] == [], outcome.err
    assert outcome.out == ""
    assert after == before


def test_there_are_enough_and_no_two_alike() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({(case.argv, str(case.files)) for case in CASES}) == len(CASES)
    assert set(AS_PROCESSES) <= {case.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinesim) -> None:
    place_files(tmp_path, case.files)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    outcome = kinesim(*whole_command(case))
    check(case, outcome, before, contents(tmp_path))


@pytest.mark.parametrize("case", [c for c in CASES if c.name in AS_PROCESSES], ids=lambda case: case.name)
def test_bad_input_of_a_process(case: Case, tmp_path: Path, kinesim_process) -> None:
    """The same through a real process: what a shell and a script see."""
    place_files(tmp_path, case.files)
    before = contents(tmp_path)
    outcome = kinesim_process(*whole_command(case))
    check(case, outcome, before, contents(tmp_path))
