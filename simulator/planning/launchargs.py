"""How vLLM, SGLang and TensorRT-LLM are told to serve as a deployment was simulated.

Flags are those of the engines' public documentation; a limit of kinesim is that of a rank, which SGLang divides among
the ranks of attention data parallelism. What an engine has no flag for is said in a remark.

References
----------
vLLM : docs/serving/data_parallel_deployment.md, docs/serving/expert_parallel_deployment.md and
    docs/features/nixl_connector_usage.md of vllm-project/vllm; vllm/engine/arg_utils.py of 0.19.0.
SGLang : docs/advanced_features/server_arguments.md and pd_disaggregation.md of sgl-project/sglang, 0.5.9 and later.
TensorRT-LLM : tensorrt_llm/commands/serve.py and docs/source/features/disagg-serving.md of NVIDIA/TensorRT-LLM, 1.2 and
    later.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from simulator.layout import Layout
from workloads.engine import Engine, resolve_engine
from workloads.formats import BODY
from workloads.scenario import LoadedScenario


@dataclass(frozen=True)
class Launch:
    """How engines of one kind are started.

    Attributes
    ----------
    role : `replica`, `prefill` or `decode`. count : how many. gpus : of each. command : what is run. args : its
        arguments, a flag with its value each. env : environment; `POD_IP` stands for the machine's own address.
    config : content of the YAML file that TensorRT-LLM reads, of which CONFIG_FILE is the path. port : of the server.
    remarks : what the arguments do not say.
    """

    role: str
    count: int
    gpus: int
    command: tuple[str, ...]
    args: tuple[tuple[str, ...], ...]
    port: int
    env: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    remarks: tuple[str, ...] = ()


CONFIG_FILE = "/config/engine.yaml"
POD_IP = "$(POD_IP)"
Args = list[tuple[str, ...]]


def launch_of(loaded: LoadedScenario, role: str = "replica") -> Launch:
    """How the replicas of a scenario are started; `role` is `prefill` or `decode` for workers of one kind."""
    engine, parallel = loaded.config.engine, loaded.config.parallelism
    layout = Layout.given(parallel.model_dump(), engine.model_dump(include={"all_to_all", "shared_experts"}))
    return ENGINES[engine.name](loaded, layout, role)


def _vllm(loaded: LoadedScenario, layout: Layout, role: str) -> Launch:
    engine = loaded.config.engine
    remarks: list[str] = []
    args: Args = [("--tensor-parallel-size", str(layout.tensor))]
    args += [("--pipeline-parallel-size", str(layout.pipeline))] * (layout.pipeline > 1)
    args += [("--data-parallel-size", str(layout.attention_data))] * (layout.attention_data > 1)
    if layout.expert > 1:
        args.append(("--enable-expert-parallel",))
        if layout.expert != layout.stage:
            remarks.append(f"vLLM spreads experts over all {layout.stage} GPUs, not over {layout.expert} groups")
    backends = {"high_throughput": "deepep_high_throughput", "low_latency": "deepep_low_latency"}
    if layout.exchanges and layout.all_to_all in backends:
        args.append(("--all2all-backend", backends[layout.all_to_all]))
    if layout.redundant_experts:
        args += [("--enable-eplb",), ("--eplb-config", json.dumps({"num_redundant_experts": layout.redundant_experts}))]
    args += [
        ("--max-model-len", str(engine.max_model_len)),
        ("--max-num-seqs", str(engine.max_num_seqs)),
        ("--max-num-batched-tokens", str(engine.max_num_batched_tokens)),
        ("--gpu-memory-utilization", f"{engine.memory_utilisation:.4g}"),
        ("--enable-chunked-prefill" if engine.chunked_prefill else "--no-enable-chunked-prefill",),
        ("--enable-prefix-caching" if engine.prefix_sharing else "--no-enable-prefix-caching",),
    ]
    args += [("--scheduling-policy", "priority")] * (engine.scheduling == "priority")
    args += [("--block-size", str(engine.block_size))] * (engine.block_size != _usual(loaded).block_size)
    args += _formats(loaded, remarks, "fp8", "fp8")
    env = {}
    if role != "replica":
        transfer = {"kv_connector": "NixlConnector", "kv_role": _PART[role]}
        args.append(("--kv-transfer-config", json.dumps(transfer)))
        env["VLLM_NIXL_SIDE_CHANNEL_HOST"] = POD_IP
    return Launch(
        role, loaded.config.replicas, layout.gpus, ("vllm", "serve", loaded.model.name), tuple(args), 8000, env, None,
        (*remarks, *_remarks(loaded), *_own_settings(loaded)),
    )  # fmt: skip


_PART = {"prefill": "kv_producer", "decode": "kv_consumer"}


def _sglang(loaded: LoadedScenario, layout: Layout, role: str) -> Launch:
    engine, ranks = loaded.config.engine, layout.attention_data
    remarks: list[str] = []
    args: Args = [("--model-path", loaded.model.name), ("--tp-size", str(layout.stage))]
    args += [("--pp-size", str(layout.pipeline))] * (layout.pipeline > 1)
    args += [("--dp-size", str(ranks)), ("--enable-dp-attention",)] * (ranks > 1)
    args += [("--ep-size", str(layout.expert))] * (layout.expert > 1)
    if layout.exchanges:
        mode = {"high_throughput": "normal", "low_latency": "low_latency"}.get(layout.all_to_all, "auto")
        args += [("--moe-a2a-backend", "deepep"), ("--deepep-mode", mode)]
    if layout.redundant_experts:
        args.append(("--ep-num-redundant-experts", str(layout.redundant_experts)))
    chunk = engine.max_num_batched_tokens * ranks if engine.chunked_prefill else -1
    args += [
        ("--context-length", str(engine.max_model_len)),
        ("--max-running-requests", str(engine.max_num_seqs * ranks)),
        ("--chunked-prefill-size", str(chunk)),
        ("--max-prefill-tokens", str(engine.max_num_batched_tokens)),
        ("--mem-fraction-static", f"{engine.memory_utilisation:.4g}"),
    ]
    args += [("--disable-radix-cache",)] * (not engine.prefix_sharing)
    args += [("--enable-mixed-chunk",)] * (engine.prefill == "mixed")
    if engine.scheduling == "priority":
        args += [("--enable-priority-scheduling",), ("--schedule-low-priority-values-first",)]
    args += [("--page-size", str(engine.block_size))] * (engine.block_size != _usual(loaded).block_size)
    args += _formats(loaded, remarks, "fp8", "fp8_e4m3")
    if role != "replica":
        args += [("--disaggregation-mode", role), ("--disaggregation-transfer-backend", "nixl")]
    args += [("--host", "0.0.0.0"), ("--port", "30000")]
    return Launch(
        role, loaded.config.replicas, layout.gpus, ("python3", "-m", "sglang.launch_server"), tuple(args), 30000,
        remarks=(*remarks, *_remarks(loaded), *_own_settings(loaded, ("prefill",))),
    )  # fmt: skip


def _trtllm(loaded: LoadedScenario, layout: Layout, role: str) -> Launch:
    engine = loaded.config.engine
    remarks: list[str] = []
    kv: dict[str, Any] = {
        "free_gpu_memory_fraction": round(engine.memory_utilisation, 4),
        "enable_block_reuse": engine.prefix_sharing,
    }
    config: dict[str, Any] = {"kv_cache_config": kv}
    if layout.attention_data > 1:
        config["enable_attention_dp"] = True
        if layout.tensor > 1:
            remarks.append(
                f"attention data parallelism of TensorRT-LLM is over all {layout.stage} GPUs, not "
                f"{layout.attention_data} ranks of {layout.tensor}"
            )
    if role != "replica":
        config["cache_transceiver_config"] = {"backend": "NIXL"}
    if role == "prefill" or not engine.overlap_scheduling:
        config["disable_overlap_scheduler"] = True
    if layout.redundant_experts:
        remarks.append(f"{layout.redundant_experts} copies of popular experts need an EPLB configuration (moe_config)")
    args: Args = [("--backend", "pytorch"), ("--tp_size", str(layout.stage)), ("--pp_size", str(layout.pipeline))]
    args += [("--ep_size", str(layout.expert))] * (layout.expert > 1)
    args += [
        ("--max_seq_len", str(engine.max_model_len)),
        ("--max_batch_size", str(engine.max_num_seqs)),
        ("--max_num_tokens", str(engine.max_num_batched_tokens)),
    ]
    args += [("--enable_chunked_prefill",)] * engine.chunked_prefill
    _formats(loaded, remarks, None, None)
    if loaded.config.precision.kv == "fp8":
        kv["dtype"] = "fp8"
    if engine.scheduling == "priority":
        remarks.append("TensorRT-LLM has no flag for priority scheduling")
    args += [("--host", "0.0.0.0"), ("--port", "8000"), ("--extra_llm_api_options", CONFIG_FILE)]
    return Launch(
        role, loaded.config.replicas, layout.gpus, ("trtllm-serve", loaded.model.name), tuple(args), 8000, {}, config,
        (*remarks, *_remarks(loaded), *_own_settings(loaded, ("overlap_scheduling",))),
    )  # fmt: skip


ENGINES: dict[str, Callable[[LoadedScenario, Layout, str], Launch]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
}


def _formats(loaded: LoadedScenario, remarks: list[str], online: str | None, kv_name: str | None) -> Args:
    """Flags for number formats other than the checkpoint's; `online` : the method that quantises to fp8 when it loads.

    What needs another checkpoint is a remark.
    """
    precision, model = loaded.config.precision, loaded.model
    args: Args = []
    said = precision.by_part()
    parts = [part for part in BODY if part in model.linear_parts]
    own = {part: _format(getattr(model.formats, part), model.weight_dtype, model.activation_dtype) for part in parts}
    now = {part: _format(said[part], precision.weights, precision.activations) for part in parts}
    changed = {part: name for part, name in now.items() if name != own[part]}
    if online and changed and set(now.values()) == {"fp8"} and set(own.values()) <= {"bf16", "fp16"}:
        args.append(("--quantization", online))
    elif changed:
        words = ", ".join(f"{part} {name}" for part, name in changed.items())
        remarks.append(f"serve a checkpoint of {model.name} that is quantised so: {words}; engines see that")
    if precision.kv == "fp8" and kv_name:
        args.append(("--kv-cache-dtype", kv_name))
    elif precision.kv not in ("bf16", "fp16", "fp8"):
        remarks.append(f"a KV cache in {precision.kv} has no flag here")
    return args


def _format(part: str | None, weights: str, activations: str) -> str:
    """The name of a format: a part's own, else that of the whole."""
    return part or (weights if weights == activations else f"{weights} weights and {activations} arithmetic")


def _remarks(loaded: LoadedScenario) -> list[str]:
    """What was simulated and no engine has a flag for."""
    config, remarks = loaded.config, []
    if config.attention.kind != "dense":
        options = ", ".join(f"{key} {value}" for key, value in config.attention.model_dump().items() if key != "kind")
        remarks.append(f"{config.attention.kind} attention ({options}) was simulated; it needs an engine that has it")
    if config.speculation is not None:
        remarks.append(f"speculation ({config.speculation.method}, {config.speculation.tokens} tokens) is to be set up")
    if config.workload.strategy.kind == "best_of_n":
        remarks.append(f"N is the client's: n={config.workload.strategy.samples} in a request")
    if config.parallelism.sequence:
        remarks.append("sequence parallelism was simulated; the engine decides itself where it uses it")
    return remarks


UNSAID = (
    "prefill", "reserve_output", "batch_wait_steps", "batch_wait_tokens", "overlap_scheduling", "receive_interval",
    "cuda_graphs", "fused_rows", "shared_stream", "watermark", "host", "host_factor", "launch_factor",
)  # fmt: skip
"""Settings of the engine that have no flag here."""


def _own_settings(loaded: LoadedScenario, said: tuple[str, ...] = ()) -> list[str]:
    """A remark on settings that were simulated otherwise than the engine has them; `said` : those that have a flag."""
    engine, usual = loaded.config.engine, _usual(loaded)
    changed = [name for name in UNSAID if name not in said and getattr(engine, name) != getattr(usual, name)]
    if not changed:
        return []
    return [f"simulated with {', '.join(f'engine.{name}' for name in changed)} of its own, which no argument here says"]


def _usual(loaded: LoadedScenario) -> Engine:
    """The engine as it is where a scenario says nothing."""
    engine, gpu, parallel = loaded.config.engine, loaded.gpu, loaded.config.parallelism
    given = Engine(name=engine.name, version=engine.version)
    sharing = parallel.tensor * parallel.pipeline
    return resolve_engine(given, gpu.memory.capacity, sharing, gpu.architecture, gpu.base or gpu.name)
