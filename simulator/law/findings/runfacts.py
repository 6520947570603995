"""Whole simulated runs beside the law's cost of the same tokens, and what their time goes into: the facts by which the
findings page explains why the two differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.layers import is_attention
from simulator.result import Result
from simulator.running import run_scenario
from workloads.model import load_model
from workloads.scenario import load_scenario

SCENARIO = "aime24-long-cot"


@dataclass(frozen=True)
class RunFacts:
    """A run of a scenario with every chain of the same length. Times are GPU-seconds of one chain.

    Attributes
    ----------
    budget : KV budget of top-k attention in tokens; None with dense attention.
    seconds : the makespan times the GPUs over the chains. law_seconds : equivalent FLOPs of what was generated, with
        what the policy really reads, over the GPU's dense peak.
    attention, linear, host : the parts of `seconds` in attention, in operators with weights, and waiting for the host
        (gaps between steps and launches included). The rest is norms, sampling and the like.
    batch : sequences that decode at a time. preemptions : of a chain. kv_tokens : what the KV cache holds. chains : of
        the run.
    """

    model: str
    gpu: str
    budget: int | None
    tokens: int
    seconds: float
    law_seconds: float
    attention: float
    linear: float
    host: float
    batch: float
    preemptions: float
    kv_tokens: int
    chains: int

    @property
    def multiplier(self) -> float:
        """Simulated over the law's time."""
        return self.seconds / self.law_seconds

    @property
    def ratio(self) -> float:
        """Attention over the operators with weights, in simulated time: the counterpart of the law's ratio."""
        return self.attention / self.linear


def run_facts(
    model: str, gpu: str, budget: int | None, tokens: int, scenario: str = SCENARIO, sets: Sequence[str] = ()
) -> RunFacts:
    """Simulate `scenario` with this model and GPU, all its outputs of `tokens` tokens. Raises InputError."""
    attention = "dense" if budget is None else f"{{kind: top_k, budget: {budget}}}"
    chosen = [
        f"model={model}",
        f"gpu={gpu}",
        f"attention={attention}",
        f"workload.output_tokens={{kind: constant, value: {tokens}}}",
        "workload.prompt_tokens={kind: constant, value: 150}",
        f"workload.strategy={{kind: long_cot, budget: {tokens}, forced_end_tokens: 0}}",
        *sets,
    ]
    return facts_of(run_scenario(load_scenario(scenario, sets=chosen)), model, gpu, budget, tokens)


def facts_of(result: Result, model: str, gpu: str, budget: int | None, tokens: int) -> RunFacts:
    """The facts of a result whose outputs all have `tokens` tokens."""
    from hwspecs.gpu import load_gpu

    summary = result.summary
    chains, gpus = summary["requests"]["finished"], summary["cost"]["gpus"]
    peak = load_gpu(gpu).peak_flops(load_model(model).dtype)
    spent = {
        kind: sum(op["seconds"] for op in result.operators if is_attention(op["name"]) == (kind == "attention"))
        for kind in ("attention", "other")
    }
    linear = sum(op["seconds"] for op in result.operators if op["weight_bytes"] > 0 and not is_attention(op["name"]))
    return RunFacts(
        model=model,
        gpu=gpu,
        budget=budget,
        tokens=tokens,
        seconds=summary["makespan_s"] * gpus / chains,
        law_seconds=summary["kinetics_law_eflops"]["total"] / peak / chains,
        attention=spent["attention"] * gpus / chains,
        linear=linear * gpus / chains,
        host=(summary["seconds_by_bound"].get("host", 0.0)) * gpus / chains,
        batch=summary["batch"]["mean_decode_seqs"],
        preemptions=summary["requests"]["preemptions"] / chains,
        kv_tokens=summary["kv"]["blocks"] * result.scenario["engine"]["block_size"],
        chains=chains,
    )


# ---- single layers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerFacts:
    """One decoder layer on one of eight tensor-parallel GPUs, dense against block top-k (64 pages of 16 tokens), as the
    paper's wall-clock experiment has it (section 5.2): docs/kinetics-experiment.md.

    Attributes
    ----------
    speedup : of the layer. bytes_ratio : bytes of K, V and summaries that dense attention moves over those of block
        top-k. kv_bytes : KV cache of the whole model on one of the GPUs, and `memory` what that GPU has.
    """

    model: str
    gpu: str
    batch: int
    context: int
    speedup: float
    bytes_ratio: float
    kv_bytes: float
    memory: float


PAPER_LAYER_POINTS = ((4096, 16384), (2048, 32768))
"""(batch, context) of the paper's wall-clock experiment."""
PAGE, LAYER_BUDGET, TENSOR = 16, 1024, 8


def layer_facts(model: str, gpu: str, batch: int, context: int) -> LayerFacts:
    """Time a layer with both attentions, by the profile nearest to the microbenchmarks' kernels. Raises InputError."""
    from hwspecs.gpu import load_gpu
    from simulator.calibrated import FALLBACK, Calibrated
    from simulator.layers import DECODE, LayerCase, Reading
    from simulator.layertime import layer_time
    from simulator.profile import load_profile
    from simulator.selection import Selection
    from simulator.stepgraph import Precision

    device, shape = load_gpu(gpu), load_model(model)
    profile = Calibrated(device, Selection(device, software="triton"), load_profile(FALLBACK))
    formats = Precision(weights="bf16", activations="bf16", kv="bf16")
    dense, sparse = (
        layer_time(
            LayerCase(shape, reading, DECODE, formats, TENSOR, batch=batch, query=1, context=context), device, profile
        )
        for reading in (Reading(), Reading(LAYER_BUDGET, PAGE))
    )
    heads = max(1, shape.kv_heads // TENSOR)
    kv = 2 * 2 * heads * shape.head_dim * shape.layers * batch * context
    return LayerFacts(
        model, gpu, batch, context, dense.seconds / sparse.seconds, dense.attention_bytes / sparse.attention_bytes,
        float(kv), float(device.memory.capacity),
    )  # fmt: skip
