"""Whether the parts of latent attention add up: the operator graph's attention block, kernel by kernel, against whole
blocks that were measured.

    python -m calibration.blockcheck mla_module.parquet

TensorRT-LLM's latent attention was measured both ways: its blocks with their projections (`mla_module`), and GEMMs,
absorption and attention by themselves. Nothing of the blocks goes into the sum of the parts. Simulated steps take the
blocks' times where an engine has them (docs/attention.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from calibration.tables import KernelTable, read_kernels
from hwspecs.gpu import load_gpu
from simulator.calibrated import Calibrated, load_cost_profile
from simulator.modules import PHASES
from simulator.operators import Operator
from simulator.prefilltable import pairs_of
from simulator.shape import PrefillShape, StepShape
from simulator.stepgraph import Precision, build_graph
from workloads.attention import Dense
from workloads.model import load_model

ENGINE = "trtllm"
FUSED = ("rms_norm", "rope_kv_write")
"""Row-wise routines that run inside others' kernels there: they move their bytes, and nothing is launched for them."""
BLOCK = " [moe]"


def operators(model: str, tensor: int, kv: str, projections: str) -> list[Operator]:
    """The operators of a block of latent attention on one of `tensor` GPUs, as if no block had been measured."""
    precision = Precision(kv=kv, attention=None if projections == "bf16" else projections)
    graph = build_graph(load_model(model), Dense(), precision, tensor)
    return [replace(op, module=None) for op in graph.operators if op.module is not None and op.module.block == BLOCK]


def step(phase: str, batch: np.ndarray, query: np.ndarray, past: np.ndarray) -> StepShape:
    """Steps of one phase, as the table's rows say them."""
    if phase == "decode":
        return StepShape(batch, batch, batch, (batch * (past + 1),))
    tokens = batch * query
    chunks = PrefillShape(tokens, batch, (batch * pairs_of(query, past, None),), (batch * (past + query),))
    return StepShape(tokens, batch, 0, (0,), chunks)


def block_seconds(profile: Calibrated, parts: list[Operator], phase: str, shape: StepShape) -> np.ndarray:
    """Sum over the operators that have work in the phase."""
    seconds = np.zeros(np.shape(shape.tokens))
    for op in parts:
        if op.axis in PHASES and op.axis != phase:
            continue
        time = profile.operator_time(op, shape)
        seconds = seconds + time.seconds - (time.overhead if op.routine in FUSED else 0.0)
    return seconds


def compare(table: KernelTable, model: str = "deepseek-v3", heads: int = 128) -> dict[tuple[str, str], np.ndarray]:
    """Predicted over measured time of every block of ENGINE in the table, by GPU and phase."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for key, rows in table.groups(("gpu", "software", "phase", "kv_dtype", "gemm_dtype")):
        if not key["software"].startswith(ENGINE):
            continue
        profile = load_cost_profile("auto", load_gpu(key["gpu"]), software=ENGINE)
        assert isinstance(profile, Calibrated)
        for q_heads in np.unique(table.columns["q_heads"][rows]):
            some = rows[table.columns["q_heads"][rows] == q_heads]
            parts = operators(model, heads // int(q_heads), key["kv_dtype"], key["gemm_dtype"])
            shape = step(key["phase"], *(table.columns[n][some] for n in ("batch", "query_len", "past_len")))
            ratio = block_seconds(profile, parts, key["phase"], shape) / table.seconds[some]
            found.setdefault((key["gpu"], key["phase"]), []).append(ratio)
    return {key: np.concatenate(ratios) for key, ratios in found.items()}


def report(ratios: Mapping[tuple[str, str], np.ndarray]) -> str:
    """A Markdown table: rows, median of predicted over measured, mean of the absolute error."""
    lines = ["| GPU | phase | blocks | median, parts over block | mean error |", "| --- | --- | --- | --- | --- |"]
    for (gpu, phase), found in ratios.items():
        error = np.abs(found - 1).mean()
        lines.append(f"| {gpu} | {phase} | {len(found):,} | {np.median(found):.2f} | {error:.1%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description="Parts of latent attention beside measured whole blocks.")
    parser.add_argument("table", type=Path, help="a table of mla_module (.csv or .parquet)")
    print(report(compare(read_kernels(parser.parse_args().table))))
