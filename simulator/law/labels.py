"""Short names of models and GPUs, for tables and pictures."""

from __future__ import annotations

import re

from hwspecs.errors import InputError
from hwspecs.gpu import list_gpus, load_gpu

_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![\w.])", re.IGNORECASE)


def size_label(model: str) -> str:
    """`qwen3-0.6b` -> `0.6B`; of other names the last part, `deepseek-r1` -> `R1`."""
    found = _SIZE.search(model.replace("_", "-"))
    return f"{found[1]}B" if found else model.rpartition("-")[2].upper()[:5]


def model_title(model: str) -> str:
    """`Qwen3-8B`, as its organisation writes it; the name as it is where there is no bundled one."""
    from workloads.model import load_model

    try:
        return load_model(model).name.rpartition("/")[2]
    except InputError:
        return model


def gpu_title(gpu: str) -> str:
    """`NVIDIA H200 SXM`; the name as it is where there is no bundled one."""
    return load_gpu(gpu).title if gpu in list_gpus() else gpu
