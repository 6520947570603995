"""Fitted profiles for tests, made and not measured: the physics at its starting constants, random or chosen trees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hwspecs.gpu import load_gpu
from simulator.fitted import ErrorBand, Fitted, Group
from simulator.kernels.registry import LATTICE, MODELS
from simulator.profilefile import quantised
from simulator.trees import Trees

RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "gemm": {"m": (1, 8192), "n": (64, 65536), "k": (64, 16384)},
    "attention_decode": {
        "batch": (1, 256), "context_len": (1, 65536), "q_heads": (1, 128), "kv_heads": (1, 64), "head_dim": (64, 256),
        "window": (0, 0),
    },
    "attention_prefill": {
        "batch": (1, 64), "query_len": (1, 16384), "past_len": (0, 0), "q_heads": (1, 128), "kv_heads": (1, 64),
        "head_dim": (64, 256), "window": (0, 0),
    },
    "moe": {
        "tokens": (1, 16384), "hidden": (512, 8192), "intermediate": (256, 16384), "top_k": (1, 8), "experts": (8, 256),
        "tp": (1, 8), "ep": (1, 1), "skew": (0, 0), "gated": (1, 1),
    },
    "collective": {"gpus": (2, 8), "bytes": (256, 2.0**30)},
    "elementwise": {"rows": (1, 16384), "row_bytes": (64, 2.0**20)},
    "page_topk": {
        "batch": (1, 256), "context_len": (1, 65536), "q_heads": (1, 128), "kv_heads": (1, 64), "head_dim": (64, 256),
        "page": (16, 16), "budget": (256, 2048),
    },
    "mla_decode": {"batch": (1, 256), "context_len": (1, 65536), "q_heads": (1, 128)},
    "mla_prefill": {"batch": (1, 64), "query_len": (1, 16384), "past_len": (0, 0), "q_heads": (1, 128)},
    "mla_bmm": {"tokens": (1, 16384), "q_heads": (1, 128)},
    "mla_module": {"batch": (1, 256), "query_len": (1, 1), "past_len": (0, 65536), "q_heads": (1, 128)},
    "dsa_module": {
        "batch": (1, 256), "query_len": (1, 1), "past_len": (0, 65536), "q_heads": (1, 128), "indexer": (1, 1),
    },
    "linear_attention": {
        "batch": (1, 256), "seq_len": (1, 16384), "conv_width": (4, 4), "k_heads": (1, 16), "v_heads": (2, 64),
        "k_head_dim": (128, 128), "v_head_dim": (128, 128),
    },
    "expert_all_to_all": {
        "ep": (8, 8), "nodes": (1, 1), "hidden": (2048, 8192), "top_k": (1, 8), "experts": (128, 512),
        "tokens": (1, 65536), "sms": (20, 20),
    },
}  # fmt: skip
LABELS: dict[str, dict[str, str]] = {
    "gemm": {"kernel": "vllm_default", "dtype": "bf16"},
    "attention_decode": {"kernel": "vllm_flash_attn_fa3", "dtype": "bf16", "kv_dtype": "bf16"},
    "attention_prefill": {"kernel": "vllm_flash_attn_fa3", "dtype": "bf16", "kv_dtype": "bf16"},
    "moe": {"kernel": "vllm_moe", "dtype": "bf16"},
    "collective": {"kernel": "nccl", "op": "all_reduce", "dtype": "bf16"},
    "elementwise": {"kernel": "triton", "op": "rms_norm", "dtype": "bf16"},
    "page_topk": {"kernel": "triton", "op": "scores", "dtype": "bf16", "kv_dtype": "bf16"},
    "mla_decode": {"kernel": "trtllm_mla", "dtype": "bf16", "kv_dtype": "bf16"},
    "mla_prefill": {"kernel": "trtllm_mla", "dtype": "bf16", "kv_dtype": "bf16"},
    "mla_bmm": {"kernel": "sglang_torch_bmm", "op": "pre", "dtype": "bf16"},
    "mla_module": {
        "kernel": "FLASHMLA",
        "phase": "decode",
        "model": "deepseek-ai/DeepSeek-V3",
        "dtype": "bf16",
        "kv_dtype": "bf16",
        "gemm_dtype": "bf16",
        "form": "absorbed",
    },
    "dsa_module": {
        "kernel": "FLASHMLA_SPARSE",
        "phase": "decode",
        "model": "deepseek-ai/DeepSeek-V3.2",
        "dtype": "bf16",
        "kv_dtype": "bf16",
        "gemm_dtype": "bf16",
        "reads": "sparse",
    },
    "linear_attention": {"kernel": "causal_conv1d_fn", "phase": "prefill", "routine": "conv"},
    "expert_all_to_all": {"kernel": "deepep_ht", "phase": "dispatch", "dtype": "bf16", "mode": "ht"},
}
PASTS = 4.0 ** np.arange(9)
LATTICES: dict[str, dict[str, np.ndarray]] = {
    "gemm": {},
    "attention_decode": {"batch": 4.0 ** np.arange(5), "context_len": np.array([1.0, 16, 64, 512, 2048, 16384, 65536])},
    "attention_prefill": {"batch": 4.0 ** np.arange(4), "query_len": np.array([1.0, 16, 128, 1024, 4096, 16384])},
    "moe": {"tokens": np.array([1.0, 4, 16, 128, 1024, 16384])},
    "collective": {"bytes": 4.0 ** np.arange(4, 16)},
    "elementwise": {"rows": 4.0 ** np.arange(8)},
    "page_topk": {"batch": 4.0 ** np.arange(5), "context_len": 4.0 ** np.arange(9)},
    "mla_decode": {"batch": 4.0 ** np.arange(5), "context_len": 4.0 ** np.arange(9)},
    "mla_prefill": {"batch": 4.0 ** np.arange(4), "query_len": 4.0 ** np.arange(8)},
    "mla_bmm": {"tokens": 4.0 ** np.arange(8)},
    "mla_module": {"batch": 4.0 ** np.arange(5), "query_len": np.array([1.0]), "past_len": np.array([0.0, *PASTS])},
    "dsa_module": {"batch": 4.0 ** np.arange(5), "query_len": np.array([1.0]), "past_len": np.array([0.0, *PASTS])},
    "linear_attention": {"batch": 4.0 ** np.arange(5), "seq_len": 4.0 ** np.arange(8)},
    "expert_all_to_all": {"tokens": 4.0 ** np.arange(9)},
}
OPS: dict[str, tuple[str, ...]] = {
    "elementwise": ("embedding", "rms_norm", "rope_kv_write", "silu_mul", "sampling", "page_summary"),
    "page_topk": ("scores", "select"),
}
"""What a step's operators of these kinds are called in tables."""
BAND = ErrorBand(-0.05, 0.06, 0.03, 100)


def shapes(kind: str, seed: int, n: int, gpu: str = "h200-sxm") -> dict[str, np.ndarray]:
    """`n` random shapes of a kind within RANGES, whole numbers, evenly in the logarithm."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, (low, high) in RANGES[kind].items():
        draw = np.exp(rng.uniform(np.log(max(low, 1)), np.log(max(high, 1)), n))
        found[name] = np.clip(np.round(draw), low, high) if high > 0 else np.zeros(n)
    if "kv_heads" in found:
        found["kv_heads"] = 2.0 ** rng.integers(0, 5, n)
        found["q_heads"] = found["kv_heads"] * 2.0 ** rng.integers(0, 3, n)
        found["head_dim"] = rng.choice([64.0, 128.0, 256.0], n)
    if kind == "moe":
        found["top_k"] = np.minimum(found["top_k"], found["experts"])
        found["intermediate"] = found["tp"] * np.ceil(found["intermediate"] / found["tp"])
    if kind == "collective":
        found["gpus"] = rng.choice([2.0, 4.0, 8.0], n)
    return found


def features(kind: str, shape: Mapping[str, Any], gpu: str = "h200-sxm", label: Mapping[str, str] | None = None) -> Any:
    """The kind's features [count, n] in float32."""
    columns = MODELS[kind].features(shape, label or LABELS[kind], load_gpu(gpu))
    n = len(next(iter(shape.values())))
    return np.stack([np.broadcast_to(np.asarray(c, dtype=np.float32), n) for c in columns])


def random_trees(kind: str, seed: int, *, spread: float = 0.3, trees: int = 30, depth: int = 4) -> Trees:
    """Trees whose sum scatters by about `spread`; they ask for values that the features do take."""
    rng = np.random.default_rng(seed)
    matrix = features(kind, shapes(kind, seed, 200))
    chosen = rng.integers(0, len(matrix), (trees, depth)).astype(np.int16)
    thresholds = matrix[chosen, rng.integers(0, matrix.shape[1], (trees, depth))]
    leaves = rng.normal(0, spread / np.sqrt(trees), (trees, 1 << depth)).astype(np.float32)
    return quantised(Trees(float(rng.normal(0, 0.1)), chosen, thresholds, leaves))


def no_trees(base: float = 0.0) -> Trees:
    """The same correction everywhere."""
    return Trees(base, np.zeros((1, 1), np.int16), np.zeros((1, 1), np.float32), np.zeros((1, 2), np.float32))


def group(kind: str, trees: Trees | None = None, **changes: Any) -> Group:
    """A group with random trees, or others; `changes` replace its attributes."""
    ranges = {name: (float(low), float(high)) for name, (low, high) in RANGES[kind].items()}
    made: dict[str, Any] = {
        "kind": kind,
        "label": LABELS[kind],
        "constants": {name: constant.start for name, constant in MODELS[kind].constants.items()},
        "trees": random_trees(kind, 1) if trees is None else trees,
        "ranges": ranges,
        "lattice": {name: LATTICES[kind][name] for name in LATTICE[kind]},
        "floor": 0.0,
        "rows": 1000,
        "errors": {"all": BAND},
    }
    return Group(**{**made, **changes})


def microbenchmarks(seed: int | None = None, spread: float = 0.3) -> tuple[Group, ...]:
    """Groups for every operator of a dense model's step, as this package's own kernels make them: gathering decode
    attention and every row-wise operator among them. Random trees by `seed`, or none.
    """
    kinds = ("gemm", "attention_decode", "attention_decode", "attention_prefill")
    kernels = ("triton", "triton", "triton_gather", "triton")
    named = [(kind, {"kernel": kernel}) for kind, kernel in zip(kinds, kernels, strict=True)]
    named += [(kind, {"op": op}) for kind, ops in OPS.items() for op in ops]

    def trees(i: int, kind: str) -> Trees:
        return no_trees() if seed is None else random_trees(kind, seed + i, spread=spread)

    return tuple(
        group(kind, trees(i, kind), label={**LABELS[kind], **texts}, rows=100 - 50 * ("gather" in str(texts)))
        for i, (kind, texts) in enumerate(named)
    )


def profile(name: str, groups: tuple[Group, ...] = (), **changes: Any) -> Fitted:
    """A profile `gpu@software`, or `transfer`; of one group a kind if none are given."""
    gpu, _, software = name.partition("@")
    made: dict[str, Any] = {
        "name": name,
        "description": f"made for tests: {name}",
        "fitted_on": "nothing",
        "gpu": gpu if software else "",
        "software": software,
        "groups": groups or tuple(group(kind) for kind in MODELS),
    }
    return Fitted(**{**made, **changes})
