"""Physics of collectives: steps of latency, bytes over the link by algorithm, and host launch.

`bytes` counts as nccl-tests do: the whole message S. With n GPUs

- a ring does n-1 steps (an all-reduce twice that) and moves (n-1)/n S through every GPU, an all-reduce 2 (n-1)/n S;
- NVLink SHARP reduces in the switch: an all-reduce moves (n+1)/n S (NCCL uses it on 8 GPUs, for floating point only);
- engines' own all-reduce reads the peers' buffers: one-shot (n-1) S in a single step for small messages, two-shot
  2 (n-1)/n S above, and NCCL takes over beyond a size that depends on the engine and on the GPUs' number.

Between small and huge, NCCL's time grows with a power of S below one (flags in the data, fewer channels, short
pipelines) and a faster link hardly shortens that, as A100, H100 and B200 show alike: it is a latency here. An `eager`
all-reduce first copies the message into a registered buffer: 2 S of HBM traffic before the exchange starts.

Everything was measured within one domain of the link. A further column `nodes`, which no table has, is for GPUs that
lie in several, as many in each: NCCL's rings leave a domain through the adapters of all its members, which pass their
part of the bytes while the link passes the rest, and the message goes up and down a tree of domains. That is assumed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.base import Constant, Constants, KernelModel, KernelWork, Label, Shape, Terms

COLUMNS = ("gpus", "bytes")
FASTEST = 0.98
"""The most of a link's bandwidth that a ring gets."""
MOST = 8.0
"""GPUs up to which collectives were measured; efficiencies stay as they are beyond."""
KIB, MIB = 1024.0, 1024.0 * 1024.0
RAMPS = ((12, 16), (16, 18), (19, 21))
"""log2 of the bytes between which NCCL changes its protocol, from LL to LL128 and to Simple."""

# Up to how many bytes an engine's own all-reduce serves 2, 4 and 8 GPUs, by architecture (else its last entry).
# vLLM: half-open 8 MiB, or the limits of its symmetric-memory all-reduce, SYMM_MEM_ALL_REDUCE_MAX_SIZES in
# vllm/distributed/device_communicators/all_reduce_utils.py. SGLang: 8 MiB. TensorRT-LLM: where the measured times leave
# those of NCCL.
OWN_LIMITS: dict[str, dict[str, tuple[float, float, float]]] = {
    "vLLM": {
        "Ampere": (8 * MIB - 1, 8 * MIB - 1, 8 * MIB - 1),
        "Hopper": (64 * MIB, 32 * MIB, 64 * MIB),
        "": (8 * MIB, 32 * MIB, 128 * MIB),
    },
    "SGLang": {"": (8 * MIB, 8 * MIB, 8 * MIB)},
    "TRTLLM": {
        "Ampere": (2 * MIB, 2 * MIB, 512 * KIB),
        "Hopper": (8 * MIB, 2 * MIB, 1 * MIB),
        "": (8 * MIB, 8 * MIB, 1 * MIB),
    },
}


def _messages(label: Label, gpus: Any) -> Any:
    """Messages' worth of bytes that leave (and enter) every GPU, by a ring."""
    once = (gpus - 1) / gpus
    return 2 * once if label["op"] == "all_reduce" else once


def _sharp(label: Label, gpu: Gpu) -> bool:
    """Whether the switch can reduce: NVLink of Hopper and later, floating point only."""
    return (
        label["op"] == "all_reduce"
        and label["dtype"] != "int8"
        and gpu.link.kind == "nvlink"
        and gpu.architecture not in ("Volta", "Ampere", "Ada Lovelace")
    )


def _own_limit(label: Label, gpu: Gpu, gpus: Any) -> Any:
    """Bytes up to which the engine's own all-reduce runs; 0 for NCCL, and without NVLink beyond two GPUs."""
    for name, by_architecture in OWN_LIMITS.items():
        if label["kernel"].startswith(name):
            two, four, eight = by_architecture.get(gpu.architecture, by_architecture[""])
            if gpu.link.kind != "nvlink":
                four = eight = 0.0
            return np.where(gpus <= 2, two, np.where(gpus <= 4, four, np.where(gpus <= 8, eight, 0.0)))
    return np.zeros_like(gpus)


def _multicast(label: Label, gpu: Gpu, gpus: Any, message: Any) -> Any:
    """Whether vLLM's own all-reduce lets the switch reduce (symmetric memory): Hopper with 8 GPUs, later from 4 on."""
    if not label["kernel"].startswith("vLLM") or not _sharp(label, gpu):
        return False
    if gpu.architecture == "Hopper":
        return (gpus >= 8) & (message > 256 * KIB)
    return ((gpus >= 4) & (message > 2 * MIB)) | ((gpus >= 8) & (message >= MIB))


def _network(shape: Shape, label: Label, gpu: Gpu) -> Any:
    """Seconds that each adapter passes the bytes of its part of the rings; 0 within a domain."""
    nodes = np.asarray(shape.get("nodes", 1), dtype=np.float64)
    if gpu.scale_out is None or not np.any(nodes > 1):
        return 0.0
    gpus = np.asarray(shape["gpus"], dtype=np.float64)
    moved = _messages(label, gpus) * np.asarray(shape["bytes"], dtype=np.float64) * nodes / gpus
    return np.where(nodes > 1, moved / (FASTEST * gpu.scale_out.bandwidth), 0.0)


def _hops(shape: Shape, label: Label, gpu: Gpu) -> Any:
    """Seconds of the steps between domains, an all-reduce up a tree and down."""
    nodes = np.asarray(shape.get("nodes", 1), dtype=np.float64)
    if gpu.scale_out is None or not np.any(nodes > 1):
        return 0.0
    return (1 + (label["op"] == "all_reduce")) * np.ceil(np.log2(nodes)) * gpu.scale_out.latency


def terms(shape: Shape, label: Label, gpu: Gpu, constants: Constants) -> Terms:
    """Seconds: a latency of steps and protocol, and the link (with the copy before it, where there is one)."""
    gpus = np.asarray(shape["gpus"], dtype=np.float64)
    message = np.asarray(shape["bytes"], dtype=np.float64)
    size = np.log2(np.maximum(message, 1.0))
    peers = np.log2(np.clip(gpus, 2.0, MOST)) - 1
    # Of a ring up to 8 GPUs; beyond, NCCL's trees, whose depth is a logarithm.
    steps = np.clip(gpus, 2.0, MOST) - 2 + 2 * np.log2(np.maximum(gpus / MOST, 1.0))

    ramps = sum(constants[f"ramp_{a}"] * np.clip((size - a) / (b - a), 0.0, 1.0) for a, b in RAMPS)
    grown = constants["grow"] * (message / MIB) ** constants["power"] * (1 + constants["grow_peers"] * peers)
    latency = constants["overhead"] + constants["step"] * steps + ramps + grown + _hops(shape, label, gpu)
    moved = _messages(label, gpus) * message
    if _sharp(label, gpu):
        moved = np.where(gpus >= 8, np.minimum(moved, constants["sharp"] * message * (gpus + 1) / gpus), moved)
    part = np.minimum(constants["link"] * constants["link_peers"] ** peers, FASTEST)
    link = np.maximum(moved / (part * gpu.link.bandwidth), _network(shape, label, gpu))

    limit = np.where(np.asarray(shape.get("nodes", 1)) > 1, 0.0, _own_limit(label, gpu, gpus))
    if np.any(limit > 0):
        one_shot_only = label["kernel"].startswith("TRTLLM")
        own = message <= limit
        single = (gpus <= 2) | (message <= np.where(gpus <= 4, 512 * KIB, 256 * KIB)) | one_shot_only
        own_latency = constants["own"] + constants["own_step"] * steps + constants["second"] * ~single
        own_moved = np.where(single, gpus - 1, 2 * (gpus - 1) / gpus) * message
        multicast = _multicast(label, gpu, gpus, message)
        own_moved = np.where(multicast, message * (gpus + 1) / gpus, own_moved)
        own_part = np.where(multicast, constants["multicast"], constants["own_link"])
        latency = np.where(own, own_latency, latency)
        link = np.where(own, own_moved / (own_part * gpu.link.bandwidth), link)
    if label["kernel"].endswith("_eager"):
        link = link + 2 * message / (constants["copy"] * gpu.memory.bandwidth)
        latency = latency + constants["launch"]
    return Terms(latency, 0.0, 0.0, 0.0, link)


def roof(shape: Shape, label: Label, gpu: Gpu) -> Any:
    """Seconds of the fewest bytes that must cross a GPU's link: (n-1)/n of the message, whatever the algorithm."""
    gpus = np.asarray(shape["gpus"], dtype=np.float64)
    return (gpus - 1) / gpus * np.asarray(shape["bytes"], dtype=np.float64) / gpu.link.bandwidth


def work(shape: Shape, label: Label, gpu: Gpu) -> KernelWork:
    """Every byte that crosses the link is read from and written to HBM; a few SMs drive the copy."""
    gpus = np.asarray(shape["gpus"], dtype=np.float64)
    moved = _messages(label, gpus) * np.asarray(shape["bytes"], dtype=np.float64)
    flops = moved / 4 if label["op"] in ("all_reduce", "reduce_scatter") else 0.0 * moved
    return KernelWork(flops, 2 * moved, 2 * moved, np.minimum(16 / gpu.sms, 1.0) + 0 * gpus)


NAMES = ("log_gpus", "log_bytes", "log_bytes_per_gpu", "log_bytes_moved", "bytes_l2")


def features(shape: Shape, label: Label, gpu: Gpu) -> list[Any]:
    """As NAMES: few, because a kernel's table has some 40 rows."""
    gpus = np.asarray(shape["gpus"], dtype=np.float64)
    size = np.log2(np.maximum(np.asarray(shape["bytes"], dtype=np.float64), 1.0))
    peers = np.log2(gpus)
    return [peers, size, size - peers, size + peers, size - np.log2(gpu.l2.size)]


COLLECTIVE = KernelModel(
    kind="collective",
    columns=COLUMNS,
    labels=("kernel", "op", "dtype"),
    constants={
        "overhead": Constant(6e-6, 2e-6, 5e-5),
        "step": Constant(1e-6, 2e-7, 4e-6),
        **{f"ramp_{start}": Constant(1e-6, 1e-9, 1e-4) for start, _ in RAMPS},
        "grow": Constant(4e-6, 1e-7, 3e-5),
        "grow_peers": Constant(0.1, 1e-3, 2.0),
        "power": Constant(0.5, 0.2, 0.8),
        "link": Constant(0.75, 0.05, 1.3),
        "link_peers": Constant(1.02, 0.6, 1.6),
        "sharp": Constant(1.2, 0.5, 1.6),
        "own": Constant(5e-6, 1e-6, 3e-5),
        "own_step": Constant(1e-7, 1e-9, 3e-6),
        "second": Constant(1e-6, 1e-8, 1.2e-5),
        "own_link": Constant(0.6, 0.2, 0.9),
        "multicast": Constant(0.45, 0.2, 0.8),
        "copy": Constant(0.85, 0.7, 1.0),
        "launch": Constant(1e-6, 1e-7, 8e-6),
        "sharpness": Constant(3.0, 3.0, 3.0),
    },
    terms=terms,
    roof=roof,
    work=work,
    features=features,
    names=NAMES,
)
