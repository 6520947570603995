"""A scenario made ready to serve: the compiled graph, the memory plan, the profile and the engine's parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hwspecs.errors import InputError
from simulator.calibrated import Calibrated, load_cost_profile
from simulator.drafting import NO_DRAFT, Draft, prediction_module
from simulator.host import HostTime
from simulator.layout import Layout
from simulator.memory import IDEAL, MemoryPlan, Reserve, plan_memory
from simulator.policy import ONE_TOKEN, Advance, EngineParams, to_ticks
from simulator.profile import Profile
from simulator.routing import usual_skew
from simulator.stepcost import StepCost
from simulator.stepgraph import Precision, StepGraph, build_graph
from workloads.engine import NO_ENGINE, Engine
from workloads.scenario import LoadedScenario


@dataclass(frozen=True)
class Deployment:
    """A scenario made ready: what serves the requests, and how long its steps take."""

    scenario: LoadedScenario
    graph: StepGraph
    profile: Profile | Calibrated
    memory: MemoryPlan
    cost: StepCost
    params: EngineParams


def deploy(scenario: LoadedScenario) -> Deployment:
    """Compile what serves a scenario. Raises InputError for what cannot (formats, layout, memory, profile)."""
    try:
        return _deploy(scenario)
    except InputError as error:
        raise error.at(file=scenario.origin) from None


def single_steps(scenario: LoadedScenario) -> tuple[MemoryPlan, StepCost]:
    """The memory plan of a scenario without pools, and a StepCost to ask about single steps by its `terms` and
    `kernel_terms`, some ten times as quickly as `deploy`: without tables, it is not for running.

    Raises InputError as `deploy` does.
    """
    try:
        _, _, memory, cost = _compile(scenario, tables=False)
    except InputError as error:
        raise error.at(file=scenario.origin) from None
    return memory, cost


def _software(engine: Engine) -> str | None:
    """The software whose kernels the engine runs, by the name that profiles give it; None for an idealised engine."""
    if engine.name == NO_ENGINE:
        return None
    return engine.name if engine.version is None else f"{engine.name}-{engine.version}"


FUSED = {"none": (), "all_reduce": ("rms_norm",), "all": ("rms_norm", "silu_mul", "rope_kv_write")}
"""Settings of `engine.fused_rows` -> routines that run inside their neighbours' kernels."""


def _fused(setting: str, tensor: int) -> tuple[str, ...]:
    """The fused routines; there is no all-reduce to fuse norms into on a single GPU."""
    return () if setting == "all_reduce" and tensor == 1 else FUSED[setting]


def _deploy(scenario: LoadedScenario) -> Deployment:
    graph, profile, memory, cost = _compile(scenario)
    return Deployment(scenario, graph, profile, memory, cost, _params(scenario, cost, memory))


def _compile(
    scenario: LoadedScenario, tables: bool = True
) -> tuple[StepGraph, Profile | Calibrated, MemoryPlan, StepCost]:
    """What a deployment is made of; `tables` as in StepCost."""
    config, gpu, model = scenario.config, scenario.gpu, scenario.model
    profile = load_cost_profile(
        config.profile,
        gpu,
        relative_to=scenario.base_dir,
        software=_software(config.engine),
        fused_reduce=config.engine.fused_rows != "none",
        launch=config.engine.launch_factor,
    )
    precision = Precision(
        config.precision.weights, config.precision.activations, config.precision.kv, **config.precision.by_part()
    )
    parallelism = config.parallelism
    layout = Layout.given(parallelism.model_dump(), config.engine.model_dump(include={"all_to_all", "shared_experts"}))
    engine, skew = config.engine, parallelism.routing_skew
    if skew is None:
        skew = 0.0 if engine.name == NO_ENGINE else usual_skew(model)
    draft, advance = _speculation(scenario, precision)
    graph = build_graph(model, config.attention, precision, layout, routing_skew=skew, draft=draft)
    max_model_len = engine.max_model_len or model.max_context
    memory = plan_memory(
        model,
        gpu,
        precision,
        layout,
        page=config.attention.page,
        utilisation=engine.memory_utilisation,
        block_size=engine.block_size,
        max_tokens=engine.max_num_batched_tokens,
        max_seqs=engine.max_num_seqs,
        reserve=Reserve(**engine.memory.model_dump(exclude={"margin"})) if engine.memory else IDEAL,
        draft=draft,
    )
    cost = StepCost(
        graph,
        gpu,
        profile,
        max_tokens=engine.max_num_batched_tokens * layout.ranks,
        max_seqs=memory.max_seqs * layout.ranks,
        max_context=max_model_len,
        host=_host(scenario, layout),
        fused=_fused(engine.fused_rows, layout.tensor),
        beside=engine.shared_stream,
        advance=advance,
        tables=tables,
    )
    return graph, profile, memory, cost


def _speculation(scenario: LoadedScenario, precision: Precision) -> tuple[Draft, Advance]:
    """What drafts, and how far a decoding sequence comes in a step."""
    said, model = scenario.config.speculation, scenario.model
    if said is None:
        return NO_DRAFT, ONE_TOKEN
    mean = said.mean
    advance = Advance(said.tokens, mean.numerator, mean.denominator)
    if said.method == "mtp":
        # Checkpoints in four bits leave the module as it was published (SGLang pull request 18937), fp8 ones do not.
        narrow = any(precision.linear(part).weight < 1 for part in model.linear_parts)
        own = Precision(kv=precision.kv) if narrow else precision
        return Draft(said.tokens, prediction_module(model), own, shared=True), advance
    drafter = scenario.drafter
    if drafter is None:
        return Draft(said.tokens), advance
    own = Precision(drafter.weight_dtype, drafter.activation_dtype, precision.kv)
    return Draft(said.tokens, drafter, own), advance


def rehost(deployment: Deployment, scenario: LoadedScenario) -> Deployment:
    """What serves `scenario`, compiled for another one that differs in its load and its host's times alone."""
    cost = deployment.cost.with_host(_host(scenario, deployment.graph.layout))
    params = _params(scenario, cost, deployment.memory)
    return replace(deployment, scenario=scenario, cost=cost, params=params)


def _host(scenario: LoadedScenario, layout: Layout) -> HostTime:
    engine, moe = scenario.config.engine, scenario.model.moe
    host, graphs, scale = engine.host, engine.cuda_graphs, engine.host_factor
    in_blocks = scenario.config.precision.by_part()["attention"] == "fp8_block"
    extra = host.block_layer if in_blocks else 0.0
    layers, moe_layers = scenario.model.layers, sum(moe.moe_layers) if moe else 0
    linear_layers, latent = scenario.model.linear_layers, scenario.model.latent is not None
    extra += host.linear_layer * linear_layers / layers
    return HostTime(
        step=scale * host.step,
        sequence=scale * host.sequence,
        layer=scale * ((host.dense_layer * (layers - moe_layers) + host.moe_layer * moe_layers) / layers + extra),
        eager=scale
        * (
            host.eager
            + host.moe_eager * moe_layers / layers
            + host.linear_eager * linear_layers / layers
            + host.latent_eager * latent
        ),
        launch=scale * (host.launch + host.moe_launch * moe_layers / layers + host.latent_launch * latent),
        # A share of the kernels' time, and no time of its own: no factor.
        prefill_share=host.prefill_share
        + host.moe_prefill_share * moe_layers / layers
        + (host.block_prefill_share if in_blocks else 0.0),
        chunk=scale * host.chunk,
        graph_sizes=graphs.all_sizes if graphs else None,
        padding=graphs.padding if graphs else True,
        mixed_tokens=graphs.mixed_tokens if graphs else 0,
    )


def _params(scenario: LoadedScenario, cost: StepCost, memory: MemoryPlan) -> EngineParams:
    config, engine = scenario.config, scenario.config.engine
    return EngineParams(
        # Limits are those of a rank, and of a micro-batch of a pipeline.
        max_num_seqs=cost.max_seqs,
        max_num_batched_tokens=cost.max_tokens,
        block_size=engine.block_size,
        kv_blocks=memory.kv_blocks,
        max_model_len=cost.max_context,
        watermark_blocks=int(engine.watermark * memory.kv_blocks),
        chunked_prefill=engine.chunked_prefill,
        prefix_sharing=engine.prefix_sharing,
        scheduling=engine.scheduling,
        replicas=config.replicas,
        router=config.router,
        prefill=engine.prefill,
        reserve_output=engine.reserve_output,
        batch_wait_steps=engine.batch_wait_steps,
        batch_wait_tokens=engine.batch_wait_tokens,
        request_ticks=to_ticks(engine.host_factor * engine.host.request),
        request_token_ticks=to_ticks(engine.host_factor * engine.host.token),
        ahead=engine.overlap_scheduling,
        receive_steps=engine.receive_interval,
        speculation=cost.advance,
    )
