"""Whole layers that a plan asks for: Qwen3 decode and prefill, and the points of the Kinetics experiment."""

from __future__ import annotations

import math

from calibration.measure.costs import Row
from calibration.measure.evenly import spread
from calibration.measure.figures import Figures
from calibration.measure.layersizes import BUDGET, MODELS, PAGE, fits, kinetics_rows
from calibration.measure.shapes import TOKENS, Region
from simulator.layers import BLOCK_TOPK, DECODE, DENSE, PREFILL
from workloads.model import load_model

LAYER_MODELS = ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "Qwen/Qwen3-32B")
PREFILLS = ((1, 0), (4, 0), (1, 2048), (1, 8192), (1, 32_768))
"""Prompts and their past tokens of the prefill layers."""


def layer_region(figures: Figures) -> Region:
    """Decode layers, dense and block top-k, and prefill layers, of steps that fit the memory with the whole model."""
    rows: list[Row] = []
    at: list[tuple[float, ...]] = []
    for i, name in enumerate(LAYER_MODELS):
        model = load_model(name)
        for place, attention, least in ((0.1, DENSE, 1), (0.5, BLOCK_TOPK, 4)):
            for batch in (2**j for j in range(9)):
                for context in (2**j * 1024 for j in range(7) if 2**j >= least):
                    if fits(model, 1, batch, context, "bf16", figures.memory):
                        rows.append(_layer_row(name, attention, DECODE, batch, 1, context))
                        at.append((i / 2, place, math.log2(batch) / 8, math.log2(context / 1024) / 6))
        for query in (2**j for j in range(9, 15)):
            for batch, past in PREFILLS:
                if batch * query <= TOKENS and fits(model, 1, batch, query + past, "bf16", figures.memory):
                    rows.append(_layer_row(name, DENSE, PREFILL, batch, query, past))
                    at.append((i / 2, 0.9, math.log2(query / 512) / 5, math.log2(past / 1024 + 1) / 5))
    return Region("layers", "layer", 9, points=spread([(row,) for row in rows], at) if rows else ())


def _layer_row(model: str, attention: str, phase: str, batch: int, query: int, context: int) -> Row:
    shape = {"tp": 1, "batch": batch, "query_len": query, "context_len": context}
    policy = {"page": PAGE, "budget": BUDGET} if attention == BLOCK_TOPK else {"page": 0, "budget": 0}
    return {
        "model": model,
        "attention": attention,
        "phase": phase,
        "dtype": "bf16",
        "kv_dtype": "bf16",
        **shape,
        **policy,
    }


def kinetics_region(figures: Figures) -> Region:
    """The points of the paper's experiment, the dense layer and the sparse one of each together."""
    rows = list(kinetics_rows(figures.memory))
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    at = []
    for row, _ in pairs:
        context, batch = math.log2(row["context_len"] / 4096) / 4, math.log2(row["batch"]) / 8
        at.append((MODELS.index(row["model"]) / 5, row["tp"] / 8, context, batch))
    return Region("kinetics", "kinetics", 65, points=spread(pairs, at) if pairs else ())
