"""The resources of a scenario's GPUs: what an architect can give more of, and the fields that say how much there is.

Each is moved on its own: more SMs raise neither the FLOP/s nor the bandwidth of the L2. Two of them are times and not
on a spec sheet, and less is better: what every kernel takes to launch, and the host's part of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.deployment import deploy
from simulator.varying.paths import Field, assignment, field_at, scaled
from workloads.scenario import LoadedScenario


@dataclass(frozen=True)
class Resource:
    """A field whose value a resource is.

    Attributes
    ----------
    key, title : its path; in words. field : what it is now. places : all paths that have to move together.
    time : whether it is a time, of which less is better.
    stepped : whether what it does comes in steps (KV blocks, waves of tiles, branches of a profile's trees), so that a
        small change of it says little.
    idle : why it should make no difference here; empty if it may.
    held : assignments that keep what would otherwise be derived from it.
    """

    key: str
    title: str
    field: Field
    time: bool = False
    stepped: bool = False
    idle: str = ""
    held: tuple[str, ...] = ()

    def sets(self, factor: float) -> tuple[str, ...]:
        """The assignments that make it `factor` times as much."""
        return (*self.held, assignment(self.key, scaled(self.field, factor, self.key)))

    def ratio(self, factor: float) -> float:
        """What `factor` comes to in whole numbers."""
        value = self.field.value
        return round(value * factor) / value if isinstance(value, int) else factor


def resources(loaded: LoadedScenario) -> tuple[Resource, ...]:
    """Those of the GPUs of a scenario, of the prefill and the decode workers apart if they have other GPUs.

    Raises
    ------
    InputError : it cannot be deployed.
    """
    found: list[Resource] = []
    for place, parts in gpu_places(loaded).items():
        mark = "" if place == "gpu" else f" ({place.split('.')[1]})"
        found += _of_gpu(loaded, place, parts, mark)
    named = loaded.pools or (loaded,)
    hosted = any(pool.config.engine.host != type(pool.config.engine.host)() for pool in named)
    found += [
        Resource("engine.launch_factor", "launch overhead", field_at(loaded, "engine.launch_factor"), time=True),
        Resource(
            "engine.host_factor", "host", field_at(loaded, "engine.host_factor"), time=True,
            idle="" if hosted else "the engine's host takes no time",
        ),
    ]  # fmt: skip
    return tuple(found)


def gpu_places(loaded: LoadedScenario) -> dict[str, tuple[LoadedScenario, ...]]:
    """Where a scenario says its GPUs, and the deployments that have them."""
    if loaded.pools is None or loaded.config.disaggregation is None:
        return {"gpu": (loaded,)}
    places: dict[str, tuple[LoadedScenario, ...]] = {}
    for name, pool in zip(("prefill", "decode"), loaded.pools, strict=True):
        own = loaded.config.disaggregation.pool(name).gpu is not None
        place = f"disaggregation.{name}.gpu" if own else "gpu"
        places[place] = (*places.get(place, ()), pool)
    return places


def _of_gpu(loaded: LoadedScenario, place: str, parts: Sequence[LoadedScenario], mark: str) -> list[Resource]:
    gpu = parts[0].gpu
    deployed = [deploy(part) for part in parts]
    layouts = [made.graph.layout for made in deployed]
    used = {op.dtype for made in deployed for op in made.graph.operators} - {None}
    several, apart = any(layout.gpus > 1 for layout in layouts), any(x.gpus > gpu.link.domain for x in layouts)
    wire = None if loaded.wire is None else loaded.wire.name
    sent = wire is not None

    def resource(path: str, title: str, **more: object) -> Resource:
        return Resource(f"{place}.{path}", title + mark, field_at(loaded, f"{place}.{path}"), **more)  # type: ignore[arg-type]

    # A GPU without an L2 bandwidth of its own has one that follows from SMs and clock.
    l2 = field_at(loaded, f"{place}.l2.bandwidth")
    held = (assignment(l2.path, scaled(l2, 1.0, l2.path)),)
    found = [
        resource(f"peak.{dtype}", f"{dtype} rate", idle="" if dtype in used else "nothing computes in it")
        for dtype in gpu.peak
    ]
    found += [
        resource("memory.bandwidth", "HBM bandwidth"),
        resource("memory.capacity", "HBM capacity", stepped=True),
        resource("l2.bandwidth", "L2 bandwidth"),
        resource("l2.size", "L2 size", stepped=True),
        resource("sms", "SMs", stepped=True, held=held),
        resource("boost_clock", "SM clock", held=held),
        resource("link.bandwidth", "link bandwidth", idle="" if several or sent else "one GPU, no link in use"),
    ]
    if gpu.scale_out is not None:
        idle = "" if apart or sent else "nothing leaves the link's domain"
        found += [
            resource("scale_out.bandwidth", "scale-out bandwidth", idle=idle),
            resource("scale_out.latency", "scale-out latency", idle=idle, time=True),
        ]
    found.append(resource("pcie.bandwidth", "PCIe bandwidth", idle="nothing in a step crosses it"))
    return found
