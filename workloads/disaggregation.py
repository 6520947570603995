"""Scenario part `disaggregation`: prefill and decode on workers of their own (docs/disaggregation.md).

A pool's workers are described as the replica of a scenario is: what a pool leaves out is as the scenario has it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from hwspecs.errors import InputError, near_matches
from hwspecs.gpu import Gpu
from hwspecs.units import parse_quantity
from workloads.fields import Part, SecondsOrZero, one_of, short_form
from workloads.parallelism import Parallelism
from workloads.routers import ROUTERS

POOLS = ("prefill", "decode")
LINKS = ("nvlink", "scale_out")
SLOWEST, FASTEST = 1e6, 1e18
"""Bytes per second: no link is slower, or faster."""
OVERRIDES = ("gpu", "parallelism", "engine", "replicas", "router")
"""What a pool may say instead of its scenario."""


def _router(value: object) -> str:
    if not isinstance(value, str) or value not in ROUTERS:
        raise InputError("unknown router", found=value, allowed=near_matches(str(value), ROUTERS))
    return value


RouterName = Annotated[str, BeforeValidator(_router), one_of(ROUTERS)]


def _bandwidth(value: object) -> float:
    number = parse_quantity(value, "bytes/s")
    if not SLOWEST <= number <= FASTEST:
        raise InputError("out of range", found=value, allowed=f"{SLOWEST:g} to {FASTEST:g} bytes/s, such as 50 GB/s")
    return number


class Wire(Part):
    """A link between the workers."""

    name: Literal["nvlink", "scale_out"] | None = Field(
        default=None, description="That of the GPUs: inside a domain (gpu.link), or between them (gpu.scale_out)."
    )
    bandwidth: Annotated[float, BeforeValidator(_bandwidth)] | None = Field(
        default=None, description="Of each GPU and direction, in place of the link's own."
    )
    latency: SecondsOrZero | None = Field(default=None, description="Of a transfer, in place of the link's own.")


_link_name, _link_schema = short_form(str, "name", {"enum": list(LINKS)})


class Transfer(Part):
    """How KV gets from prefill to decode workers."""

    link: Annotated[Wire, _link_name, _link_schema] | None = Field(
        default=None,
        description="nvlink, scale_out, or {bandwidth, latency}. Left out: nvlink if it connects all workers, else "
        "scale_out.",
    )
    overlap: Literal["none", "chunk", "layer"] = Field(
        default="none",
        description="What of a prompt's KV is sent while it is still computed: nothing, its chunks but the last, or "
        "its layers but the last; with order: decode_first.",
    )


class PoolPart(Part):
    """Workers of one kind."""

    replicas: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = Field(default=1, description="Workers.")
    parallelism: Parallelism | None = Field(
        default=None, description="How a worker is spread over GPUs; left out, as in the scenario."
    )
    engine: dict[str, Any] | None = Field(
        default=None, description="Settings of the engine that differ from the scenario's."
    )
    gpu: str | dict[str, Any] | None = Field(default=None, description="Left out, as in the scenario.")
    router: RouterName = Field(default="round_robin", description="Which of the workers a request goes to.")


class Disaggregation(Part):
    """Prefill and decode on workers of their own."""

    prefill: PoolPart = Field(description="Workers that compute prompts.")
    decode: PoolPart = Field(description="Workers that generate outputs.")
    transfer: Transfer = Field(default_factory=Transfer, description="How the KV passes from the ones to the others.")
    order: Literal["prefill_first", "decode_first"] | None = Field(
        default=None,
        description="Whether the decode worker is chosen, and sets KV aside, once the prompt is computed, or before. "
        "Left out: decode_first with SGLang, else prefill_first.",
    )
    first_token: Literal["prefill", "transfer", "decode"] | None = Field(
        default=None,
        description="When the client sees the first token: at the prompt's end, when the request joins the decoding "
        "ones, or after a decode step that computes the prompt's last token again. Left out: decode with vLLM, else "
        "transfer.",
    )

    def pool(self, name: str) -> PoolPart:
        """`prefill` or `decode`."""
        part: PoolPart = getattr(self, name)
        return part

    @property
    def link(self) -> Wire:
        """The link asked for."""
        return self.transfer.link or Wire()


def default_order(engine: str) -> str:
    """Of an engine: SGLang's prefill workers wait until the decode worker has allocated; in the others the request
    comes to the decode worker with a prompt that is computed.
    """
    return "decode_first" if engine == "sglang" else "prefill_first"


def default_first_token(engine: str) -> str:
    """Of an engine: vLLM's decode workers compute the last token of the prompt again, others get it with the KV."""
    return "decode" if engine == "vllm" else "transfer"


def pool_data(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The content of a scenario file with one pool's workers as its replicas: that of a scenario of its own."""
    part = data["disaggregation"][name]
    out = {key: copy.deepcopy(value) for key, value in data.items() if key != "disaggregation"}
    for key in OVERRIDES:
        if part.get(key) is not None:
            out[key] = copy.deepcopy(part[key])
    if isinstance(part.get("gpu"), Mapping) and not {"base", "vendor"} & set(part["gpu"]):
        out["gpu"] = _merged({"base": data["gpu"]} if isinstance(data["gpu"], str) else data["gpu"], part["gpu"])
    if isinstance(part.get("engine"), Mapping):
        base = data.get("engine") or {}
        out["engine"] = _merged({"name": base} if isinstance(base, str) else base, part["engine"])
    return out


def _merged(base: Any, over: Any) -> Any:
    """`over` on top of `base`: mappings key by key, all else as a whole."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return copy.deepcopy(over)
    keys = dict.fromkeys([*base, *over])
    return {key: _merged(base.get(key), over[key]) if key in over else copy.deepcopy(base[key]) for key in keys}


def check_pools(said: Disaggregation, engines: Mapping[str, Any], heads: Sequence[int]) -> None:
    """Whether the pools can exchange KV, whose format is the scenario's; `engines` are their resolved settings, `heads`
    the GPUs that share the KV heads of a sequence (1 if they all hold the same latent).

    Raises
    ------
    InputError : different engines or KV blocks, heads that do not go together; a router or an overlap that does not go
        with its pool.
    """
    first, second = engines["prefill"], engines["decode"]
    if max(heads) % min(heads):
        raise InputError(
            "the pools cannot exchange KV: the KV heads of a GPU of one are not whole parts of one of the other",
            place="disaggregation.decode.parallelism.tensor",
            found=heads[1],
            allowed=f"a divisor or a multiple of {heads[0]}, as the prefill workers have",
        )
    for key, what in (("name", "engines"), ("block_size", "KV blocks")):
        if getattr(first, key) != getattr(second, key):
            raise InputError(
                f"the pools cannot exchange KV: they have different {what}",
                place=f"disaggregation.decode.engine.{key}",
                found=getattr(second, key),
                allowed=f"{getattr(first, key)!r}, as the prefill workers have",
            )
    if said.decode.router == "prefix_aware":
        raise InputError(
            "decode workers keep no prompts of other requests",
            place="disaggregation.decode.router",
            found="prefix_aware",
            allowed=", ".join(name for name in ROUTERS if name != "prefix_aware"),
        )
    order = said.order or default_order(first.name)
    if said.transfer.overlap != "none" and order != "decode_first":
        raise InputError(
            "what is sent while a prompt is computed needs a place on the decode worker by then",
            place="disaggregation.transfer.overlap",
            found=said.transfer.overlap,
            allowed="none, or order: decode_first",
        )


@dataclass(frozen=True)
class ResolvedWire:
    """The link of a deployment: bytes per second and direction of a GPU of prefill and of decode workers, seconds
    until a transfer arrives beyond that, and its name.
    """

    name: str
    bandwidth: tuple[float, float]
    latency: float


def resolve_wire(said: Wire, gpus: tuple[Gpu, Gpu], count: int) -> ResolvedWire:
    """The link between the GPUs of prefill and decode workers, `count` in all.

    Raises
    ------
    InputError : the link asked for, or any, does not connect them.
    """
    place = "disaggregation.transfer.link"
    first, second = gpus
    domain = min(first.link.domain, second.link.domain)
    together = first.link == second.link and count <= domain
    name = said.name
    if name is None and said.bandwidth is not None:
        return ResolvedWire("given", (said.bandwidth, said.bandwidth), said.latency or 0.0)
    if name is None:
        name = "nvlink" if together else "scale_out"
    if name == "nvlink":
        if not together:
            words = f"{first.link.kind} of {first.name}"
            found = f"{count} GPUs, {words} connects {domain}" if first.link == second.link else f"{words} and another"
            raise InputError(
                "the workers do not share a link domain",
                place=place,
                found=found,
                allowed="scale_out, {bandwidth, latency}, or fewer GPUs",
            )
        bandwidth, latency = (first.link.bandwidth, second.link.bandwidth), 0.0
    else:
        networks = [gpu.scale_out for gpu in gpus]
        if networks[0] is None or networks[1] is None:
            unknown = next(gpu.name for gpu in gpus if gpu.scale_out is None)
            raise InputError(
                f"no link between prefill and decode workers is known: {unknown} has no network (gpu.scale_out)",
                place=place,
                found=name if said.name else None,
                allowed="{bandwidth: 50 GB/s, latency: 10 us}, of each GPU and direction; or nvlink within a domain",
            )
        bandwidth = networks[0].bandwidth, networks[1].bandwidth
        latency = max(networks[0].latency, networks[1].latency)
    if said.bandwidth is not None:
        bandwidth = said.bandwidth, said.bandwidth
    return ResolvedWire(name, bandwidth, latency if said.latency is None else said.latency)
