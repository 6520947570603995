"""A scenario's prefill and decode workers made ready, and what passes between them (docs/disaggregation.md)."""

from __future__ import annotations

from dataclasses import dataclass

from hwspecs.errors import InputError
from simulator import kinds
from simulator.deployment import Deployment, deploy, rehost
from simulator.handover import Handover, Pool
from simulator.layout import Layout
from simulator.policy import TICKS_PER_SECOND, to_ticks
from simulator.weights import layer_share
from workloads.disaggregation import ResolvedWire, default_first_token, default_order
from workloads.model import Model
from workloads.scenario import LoadedScenario


@dataclass(frozen=True)
class Sent:
    """What a decode worker receives of a prompt: bytes on each of its GPUs that hold the sequence (on the one with the
    most), for each token and beside them; `copies` such GPUs, for which `sources` GPUs of the prefill worker send.
    """

    token_bytes: float
    request_bytes: float
    copies: int
    sources: int

    def seconds(self, size: float, wire: ResolvedWire) -> float:
        """For `size` bytes on each receiving GPU: the slower of what a GPU receives and what one sends."""
        return max(size / wire.bandwidth[1], size * self.copies / self.sources / wire.bandwidth[0])


@dataclass(frozen=True)
class Fleet:
    """A scenario made ready: its prefill and its decode workers."""

    scenario: LoadedScenario
    prefill: Deployment
    decode: Deployment
    sent: Sent
    handover: Handover

    @property
    def pools(self) -> tuple[Pool, Pool]:
        """What the engine is told of them."""
        return Pool(self.prefill.cost, self.prefill.params), Pool(self.decode.cost, self.decode.params)


def deploy_pools(scenario: LoadedScenario) -> Fleet:
    """Compile what serves a scenario with `disaggregation`. Raises InputError for what cannot."""
    pools, said, wire = scenario.pools, scenario.config.disaggregation, scenario.wire
    assert pools is not None and said is not None and wire is not None
    made = [_deploy(pool, name) for pool, name in zip(pools, ("prefill", "decode"), strict=True)]
    return assemble_fleet(scenario, made[0], made[1])


def rehost_pools(fleet: Fleet, scenario: LoadedScenario) -> Fleet:
    """What serves `scenario`, compiled for another one that differs in its load and in the host's constants alone."""
    assert scenario.pools is not None
    prefill, decode = (
        rehost(made, pool) for made, pool in zip((fleet.prefill, fleet.decode), scenario.pools, strict=True)
    )
    return assemble_fleet(scenario, prefill, decode)


def assemble_fleet(scenario: LoadedScenario, prefill: Deployment, decode: Deployment) -> Fleet:
    """The fleet of two deployments that were compiled for the pools of a scenario."""
    said, wire = scenario.config.disaggregation, scenario.wire
    assert said is not None and wire is not None
    engine = decode.scenario.config.engine
    sent = bytes_sent(scenario.model, decode, prefill.graph.layout)
    handover = Handover(
        order=said.order or default_order(engine.name),
        first_token=said.first_token or default_first_token(engine.name),
        token_ticks=round(sent.seconds(sent.token_bytes, wire) * TICKS_PER_SECOND),
        request_ticks=to_ticks(sent.seconds(sent.request_bytes, wire)),
        latency_ticks=to_ticks(wire.latency),
        prefill_lanes=prefill.graph.layout.attention_data,
        decode_lanes=decode.graph.layout.attention_data,
        overlap=said.transfer.overlap,
        layers=scenario.model.layers,
    )
    return Fleet(scenario, prefill, decode, sent, handover)


def bytes_sent(model: Model, decode: Deployment, source: Layout) -> Sent:
    """What a prompt's transfer to `decode` moves, from a worker with the layout `source`.

    All layers' KV, and the states of linear attention. Of layers with a window an engine that keeps only the windows
    sends these, whole, and one that keeps all KV all of it. KV heads that several GPUs hold, and a latent that all of
    them do, are sent to each; the copies are shared out among the GPUs of a rank that send.
    """
    layout, kv = decode.graph.layout, decode.scenario.config.precision.kv
    whole = kinds.kv_bytes_per_token(model, kv, layout.tensor) * layer_share(model, layout)
    state = kinds.state_bytes(model, layout.tensor) * layer_share(model, layout)
    windows = [window for window in model.layer_windows if window is not None]
    layer = whole / model.layers
    if windows and _keeps_windows(decode):
        whole, state = whole - layer * len(windows), state + layer * sum(windows)
    return Sent(whole, state, layout.tensor * layout.pipeline, source.tensor * source.pipeline)


def _keeps_windows(decode: Deployment) -> bool:
    engine = decode.scenario.config.engine
    return engine.memory is not None and engine.memory.windows < 1


def _deploy(pool: LoadedScenario, name: str) -> Deployment:
    """An error says of which pool it speaks, where that is not said by its place."""
    try:
        return deploy(pool)
    except InputError as error:
        place = f"disaggregation.{name}" + (f".{error.place}" if error.place else "")
        raise InputError(
            error.problem, file=error.file, place=place, line=error.line, found=error.found, allowed=error.allowed
        ) from None
