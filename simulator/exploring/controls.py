"""The controls of the page: what each is called, what values it takes, and where in a scenario they go."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from hwspecs.gpu import list_gpus
from simulator.profile import list_profiles
from workloads.engine import NAMES
from workloads.formats import LINEAR_FORMATS
from workloads.model import list_models
from workloads.scenario import list_scenarios

CHOICE, COUNT, QUANTITY, FACTOR = "choice", "count", "quantity", "factor"
SIZES = ("1", "2", "4", "8", "16", "32", "64")
OCTAVES = 2.0
"""A slider of a figure goes from a quarter of the base's to four times of it."""
PAGE = 16
"""Tokens per page of block top-k."""


@dataclass(frozen=True)
class Control:
    """A control.

    Attributes
    ----------
    key : its name in the page's address. label, group : for people. kind : `choice`, `count` (whole number), `quantity`
        (with a unit) or `factor` on the figures of the GPU. title : a longer explanation.
    places : of a scenario, which errors are shown beside this control if they are there or below.
    dimension, unit : of a quantity, as in `hwspecs.units`. low, high : of a count.
    """

    key: str
    label: str
    group: str
    kind: str
    title: str = ""
    places: tuple[str, ...] = ()
    dimension: str = ""
    unit: str = ""
    low: int = 1
    high: int = 1


def _figure(key: str, path: str, label: str, dimension: str, unit: str, title: str = "") -> Control:
    return Control(key, label, "GPU", QUANTITY, title, (path,), dimension, unit)


_ALL = (
    Control("scenario", "Scenario", "Scenario", CHOICE, "Where everything starts from", ("scenario", "workload")),
    Control("gpu", "GPU", "GPU", CHOICE, "Choosing one takes all of its figures", ("gpu",)),
    Control("tensor", "Tensor rate", "GPU", FACTOR, "All formats of the tensor cores together", ("gpu.peak",)),
    _figure("hbm", "gpu.memory.bandwidth", "HBM bandwidth", "bytes/s", "B/s"),
    _figure("capacity", "gpu.memory.capacity", "HBM capacity", "bytes", "B"),
    Control("sms", "SMs", "GPU", COUNT, "At the same FLOP/s", ("gpu.sms",), low=1, high=10_000),
    _figure("l2", "gpu.l2.size", "L2 size", "bytes", "B"),
    _figure("l2rate", "gpu.l2.bandwidth", "L2 bandwidth", "bytes/s", "B/s"),
    _figure("interconnect", "gpu.link.bandwidth", "GPU link", "bytes/s", "B/s", "Per direction and GPU"),
    _figure("price", "gpu.price.usd_per_hour", "Price per hour", "USD/h", "USD/h", "Of one GPU"),
    Control("model", "Model", "Model", CHOICE, "", ("model",)),
    Control("precision", "Linear layers", "Model", CHOICE, "Number format", ("precision",)),
    Control("kv", "KV cache", "Model", CHOICE, "Number format", ("precision.kv",)),
    Control("attention", "Attention", "Model", CHOICE, "How much of its past a token reads", ("attention",)),
    Control("budget", "KV budget", "Model", COUNT, "Tokens that a token reads at most: top k, pages of 16 or a window",
            ("attention.budget", "attention.blocks", "attention.window"), low=1, high=131_072),
    Control("tp", "Tensor", "Layout", CHOICE, "GPUs that share each layer", ("parallelism", "parallelism.tensor")),
    Control("pp", "Pipeline", "Layout", CHOICE, "Stages, each with a part of the layers", ("parallelism.pipeline",)),
    Control("dp", "Attention data", "Layout", CHOICE, "Ranks with an attention and a KV cache of their own (MoE)",
            ("parallelism.attention_data",)),
    Control("ep", "Expert", "Layout", CHOICE, "Groups that hold different experts (MoE)", ("parallelism.expert",)),
    Control("engine", "Engine", "Engine", CHOICE, "", ("engine", "router")),
    Control("seqs", "Most sequences", "Engine", COUNT, "engine.max_num_seqs", ("engine.max_num_seqs",), low=1,
            high=4096),
    Control("profile", "Kernel times", "Engine", CHOICE, "auto: fitted to measurements; ideal: the pure roofline",
            ("profile",)),
    Control("batch", "Batch", "Step", COUNT, "Sequences that decode in the step shown", ("--batch",), low=1, high=4096),
    Control("context", "Context", "Step", COUNT, "Tokens that each of them has so far", ("--context",), low=1,
            high=1_048_576),
    Control("prompt", "Prompt", "Step", COUNT, "Tokens of a prompt: what the prefill step shown computes", ("--query",),
            low=1, high=1_048_576),
    Control("samples", "Samples N", "Step", COUNT, "Samples of each problem (Best-of-N)", ("workload.strategy",), low=1,
            high=4096),
)  # fmt: skip
CONTROLS: dict[str, Control] = {control.key: control for control in _ALL}
"""All of them by key, in the order of the page."""
FIGURES = tuple(c.key for c in _ALL if c.group == "GPU" and c.key != "gpu")
"""What belongs to the GPU chosen, and goes when another is."""
SHAPE = ("batch", "context", "prompt")
"""What says which step is shown, and is no part of a scenario."""
SLIDERS = tuple(c.key for c in _ALL if c.kind != CHOICE)


@lru_cache(maxsize=1)
def choices() -> dict[str, tuple[str, ...]]:
    """Values of the controls of kind `choice`."""
    return {
        "scenario": tuple(list_scenarios()),
        "gpu": tuple(list_gpus()),
        "model": tuple(list_models()),
        "precision": ("auto", *LINEAR_FORMATS),
        "kv": ("auto", "bf16", "fp8"),
        "attention": ("dense", "top_k", "block_top_k", "sliding_window"),
        "tp": SIZES, "pp": SIZES, "dp": SIZES, "ep": SIZES,
        "engine": tuple(NAMES),
        "profile": ("auto", *list_profiles()),
    }  # fmt: skip
