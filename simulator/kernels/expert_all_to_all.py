"""Physics of the all-to-all around the experts: dispatch of tokens to the GPUs that hold them, and combine of results.

Two ways, told by the label's `mode` or the kernel's name (DeepEP, github.com/deepseek-ai/DeepEP):

- `ht`, high throughput, for prefill: a token goes once to every GPU that holds an expert of it, and once over the
  scale-out link to every other domain; some SMs, whose number is given, do the copying. The host waits for the counts
  first, behind which few tokens hide.
- `ll`, low latency, for decode: a message for every pair of token and expert, sent by all SMs straight to its GPU.

Choices are uniform over the experts, so that the k of E experts are on n (1 - C(E - E/n, k) / C(E, k)) of n GPUs; all
but 1/n of the messages leave the GPU. DeepSeek-V3's routing takes its 8 experts from 4 of 8 groups (arXiv 2412.19437,
2.1.2), two from each on average, hence fewer GPUs.

Handling a message costs as much as so many bytes more. SMs copy so many bytes a clock; messages cross the NVLink of a
domain, and are read and written in HBM. Beyond the domain nothing was measured here: the scale-out link's part that is
reached, BEYOND, is from DeepEP's own table.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu, ScaleOut
from simulator.kernels.base import Constant, Constants, KernelModel, KernelWork, Label, Shape, Terms
from simulator.kernels.formats import FORMATS

COLUMNS = ("ep", "nodes", "hidden", "top_k", "experts", "tokens", "sms")
BEYOND = {"ht": 0.9, "ll": 0.8}
"""Part of the scale-out bandwidth that is reached, as DeepEP's own tables say (its docs/legacy.md: H800, InfiniBand
adapters of 50 GB/s), which count what stays within a node too. Normal kernels: 58 and 51 GB/s on 4 and 8 nodes, so 44
through the adapters (on 2 nodes half of that, for another cause). Low latency: 48 to 39 GB/s on 32 to 256 GPUs, so 36
to 38, a latency included that is a term of its own here.
"""
MEMORY = 0.8
"""Part of the memory's bandwidth that streams reach; it never bounds on the measured GPUs."""
COPIERS = 20.0
"""SMs that copy in `ht` where their number is not given: DeepEP's default."""
WIRE = {"default": 2.0, "fp4": FORMATS["nvfp4"].act}
"""Bytes of an element in formats that only messages have."""
GROUPS, CHOSEN = 8.0, 4.0
"""Of DeepSeek-V3's routing: groups of experts, and those that a token's experts are from."""


def mode(kernel: str) -> str:
    """`ht` or `ll`, as the kernel's name says."""
    return "ll" if kernel.endswith(("_ll", "low_latency", "_generation")) else "ht"


def _mode(label: Label) -> str:
    return label.get("mode") or mode(label["kernel"])


def element_bytes(label: Label) -> float:
    """Bytes of an element on the wire: results come back in bf16, but for fp4's own combine."""
    dtype = label["dtype"]
    if label["phase"] == "combine" and dtype != "fp4":
        return FORMATS["bf16"].act
    return WIRE[dtype] if dtype in WIRE else FORMATS[dtype].act


def reached(parts: Any, top_k: Any, experts: Any) -> Any:
    """Mean number of equal parts of the experts that `top_k` of them are in, all choices being alike."""
    parts, top_k, experts = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (parts, top_k, experts)))
    none = np.ones(parts.shape)
    for taken in range(int(np.max(top_k))):
        left = np.maximum(experts - experts / parts - taken, 0.0) / np.maximum(experts - taken, 1.0)
        none = np.where(taken < top_k, none * left, none)
    return parts * (1 - none)


def destinations(parts: Any, hidden: Any, top_k: Any, experts: Any) -> Any:
    """The same with DeepSeek-V3's groups for DeepSeek-V3's shape."""
    parts = np.asarray(parts, dtype=np.float64)
    grouped = (np.asarray(hidden) == 7168) & (np.asarray(top_k) == 8) & (np.asarray(experts) == 256)
    plain = reached(parts, top_k, experts)
    if not np.any(grouped):
        return plain
    within = np.maximum(parts / GROUPS, 1.0)  # parts of a group, or one
    few = CHOSEN * within * (1 - (1 - 1 / within) ** 2) * np.minimum(parts / GROUPS, 1.0)
    some = reached(np.minimum(parts, GROUPS), CHOSEN, GROUPS)  # of parts that are whole groups
    return np.where(grouped, np.where(parts >= GROUPS, few, np.minimum(some, plain)), plain)


class _Traffic(NamedTuple):
    """Of one GPU. messages : that it handles. near, far : that leave it, within its domain and beyond. size : bytes."""

    messages: Any
    near: Any
    far: Any
    size: Any


def _traffic(shape: Shape, label: Label, gpu: Gpu) -> _Traffic:
    ep, nodes, hidden, top_k, experts, tokens, _ = (np.asarray(shape[c], dtype=np.float64) for c in COLUMNS)
    domain = float(gpu.link.domain)
    # Several nodes are several domains, unless one domain is more than a node.
    domains = np.maximum(np.ceil(ep / domain), np.where(domain > 8, 1.0, nodes))
    domains = np.minimum(domains, ep)
    if _mode(label) == "ll":
        messages, crossing = tokens * top_k, tokens * top_k
    else:
        messages = tokens * destinations(ep, hidden, top_k, experts)
        crossing = tokens * destinations(domains, hidden, top_k, experts)
    beyond = crossing * (1 - 1 / domains)
    leaving = messages * (1 - 1 / ep)
    near = leaving if _mode(label) == "ht" else leaving - np.minimum(beyond, leaving)
    return _Traffic(messages, near, np.minimum(beyond, leaving), hidden * element_bytes(label))


def _network(gpu: Gpu) -> ScaleOut:
    if gpu.scale_out is None:
        raise InputError(
            f"{gpu.name} has no link between domains of {gpu.link.domain} GPUs", place="scale_out", found="nothing",
            allowed="ep of one domain, or a GPU with scale_out",
        )  # fmt: skip
    return gpu.scale_out


def _terms(shape: Shape, label: Label, gpu: Gpu, c: Constants) -> Terms:
    """Seconds. The host's wait or launch hides behind the messages, wholly behind so many bytes of them."""
    traffic, high = _traffic(shape, label, gpu), _mode(label) == "ht"
    tokens = np.asarray(shape["tokens"], dtype=np.float64)
    # A token is read once, and for every message of its own it is written, or in a combine read again.
    handled = tokens * traffic.size * c["token"] + traffic.messages * (traffic.size + c["message"])
    sms = np.asarray(shape["sms"], dtype=np.float64)
    copiers = np.minimum(np.where(sms > 0, sms, COPIERS), gpu.sms) if high else float(gpu.sms)
    copy = handled / (c["copy"] * copiers * gpu.boost_clock)
    near = traffic.near * traffic.size / (c["link"] * gpu.link.bandwidth)
    memory = 2 * traffic.messages * traffic.size / (MEMORY * gpu.memory.bandwidth)
    latency, far = c["overhead" if high else "low"] + c["row"] * traffic.size, 0.0
    if np.any(traffic.far > 0):
        network = _network(gpu)
        far = traffic.far * traffic.size / (BEYOND[_mode(label)] * network.bandwidth)
        latency = latency + np.where(traffic.far > 0, network.latency, 0.0)
    latency = latency + c["wait" if high else "launch"] * np.maximum(1 - handled / c["behind"], 0.0)
    # What the SMs pass on is the link's share of the time too: no product is formed.
    link = Terms(0.0, copy, 0.0, 0.0, np.maximum(near, far)).busy(c["sharpness"])
    return Terms(latency, 0.0, memory, 0.0, link)


def _roof(shape: Shape, label: Label, gpu: Gpu) -> Any:
    """Seconds of the bytes that leave, once for every GPU that has an expert, at the link's bandwidth."""
    traffic = _traffic(shape, {**label, "mode": "ht"}, gpu)
    return traffic.near * traffic.size / gpu.link.bandwidth


def _work(shape: Shape, label: Label, gpu: Gpu) -> KernelWork:
    """Every byte is read and written; combining adds the messages of a token up."""
    traffic = _traffic(shape, label, gpu)
    moved = traffic.messages * traffic.size
    flops = traffic.messages * np.asarray(shape["hidden"], dtype=np.float64) * (label["phase"] == "combine")
    sms = np.asarray(shape["sms"], dtype=np.float64)
    copiers = np.where(sms > 0, sms, COPIERS) if _mode(label) == "ht" else gpu.sms + 0 * sms
    return KernelWork(flops, 2 * moved, 2 * moved, np.minimum(copiers / gpu.sms, 1.0))


NAMES = ("log2 tokens", "log2 hidden", "log2 bytes")


def _features(shape: Shape, label: Label, gpu: Gpu) -> list[Any]:
    """As NAMES: few, because a kernel's table has some 50 rows, many of them repeated no closer than 10 %."""
    traffic = _traffic(shape, label, gpu)
    return [
        np.log2(np.maximum(np.asarray(shape["tokens"], dtype=np.float64), 1.0)),
        np.log2(np.asarray(shape["hidden"], dtype=np.float64)),
        np.log2(np.maximum(traffic.messages * traffic.size, 1.0)),
    ]


EXPERT_ALL_TO_ALL = KernelModel(
    kind="expert_all_to_all",
    columns=COLUMNS,
    labels=("kernel", "phase", "dtype"),
    constants={
        "sharpness": Constant(3.0, 3.0, 3.0),
        "overhead": Constant(5e-5, 5e-6, 3e-4),
        "low": Constant(3e-5, 5e-6, 3e-4),
        "row": Constant(5e-10, 5e-12, 1e-8),
        "wait": Constant(1e-5, 1e-8, 3e-4),
        "launch": Constant(1e-5, 1e-8, 3e-4),
        "behind": Constant(5e7, 1e5, 1e10),
        "token": Constant(1.0, 0.01, 30),
        "message": Constant(4000, 100, 40_000),
        "copy": Constant(5, 0.05, 60),
        "link": Constant(0.7, 0.3, 0.95),
    },
    terms=_terms,
    roof=_roof,
    work=_work,
    features=_features,
    names=NAMES,
    # Low latency in a CUDA graph: no launches, and no more than the quickest kernel that was measured takes in all
    # (combine on H100 and H200: 25 to 30 us).
    in_graph={"low": 3e-5, "launch": 1e-8},
    named={"mode": mode},
)
