"""A scenario made ready to serve: the compiled graph, the memory plan, the profile and the engine's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from hwspecs.errors import InputError
from simulator.calibrated import Calibrated, load_cost_profile
from simulator.graph import Precision, StepGraph, build_graph
from simulator.memory import MemoryPlan, plan_memory
from simulator.policy import EngineParams
from simulator.profile import Profile
from simulator.stepcost import StepCost
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


def _deploy(scenario: LoadedScenario) -> Deployment:
    config, gpu, model = scenario.config, scenario.gpu, scenario.model
    profile = load_cost_profile(config.profile, gpu, relative_to=scenario.base_dir)
    precision = Precision(
        config.precision.weights, config.precision.activations, config.precision.kv, **config.precision.by_part()
    )
    tensor = config.parallelism.tensor
    graph = build_graph(model, config.attention, precision, tensor)
    engine = config.engine
    max_model_len = engine.max_model_len or model.max_context
    memory = plan_memory(
        model,
        gpu,
        precision,
        tensor,
        page=config.attention.page,
        utilisation=engine.memory_utilisation,
        block_size=engine.block_size,
        max_tokens=engine.max_num_batched_tokens,
        max_seqs=engine.max_num_seqs,
    )
    cost = StepCost(
        graph,
        gpu,
        profile,
        max_tokens=engine.max_num_batched_tokens,
        max_seqs=engine.max_num_seqs,
        max_context=max_model_len,
    )
    params = EngineParams(
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        block_size=engine.block_size,
        kv_blocks=memory.kv_blocks,
        max_model_len=max_model_len,
        watermark_blocks=int(engine.watermark * memory.kv_blocks),
        chunked_prefill=engine.chunked_prefill,
        prefix_sharing=engine.prefix_sharing,
        scheduling=engine.scheduling,
        replicas=config.replicas,
        router=config.router,
    )
    return Deployment(scenario, graph, profile, memory, cost, params)
