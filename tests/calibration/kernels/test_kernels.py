"""Every Triton kernel, without a GPU: right in the interpreter, compiled for Hopper and Blackwell with tensor cores.

Triton decides on its interpreter when a kernel is defined, so each check is a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

for needed in ("torch", "triton"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed: pip install 'kinesim[gpu]'", allow_module_level=True)

TOGETHER = (
    *(("gemm",), ("grouped",), ("prefill",), ("decode",), ("gather",), ("page_summary", "page_scores", "page_select")),
    ("embedding", "rms_norm", "rope_kv_write", "silu_mul", "sampling", "stream", "empty"),
)
"""Kernels that are checked in one process: to start one takes longer than to check a small kernel."""
NAMES = tuple(name for names in TOGETHER for name in names)


def check(names: Sequence[str], *arguments: str) -> list[dict[str, Any]]:
    """The lines of `python -m calibration.kernels.check` for these kernels, some of each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "calibration.kernels.check", *arguments]
    command += [word for name in names for word in ("--kernel", name)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    failed = [line for line in lines if not line["ok"]]
    assert done.returncode == 0 and not failed, f"{failed}\n{done.stderr[-2000:]}"
    assert {line["kernel"] for line in lines} == set(names)
    return lines


@pytest.mark.parametrize("names", TOGETHER, ids="-".join)
def test_right_in_the_interpreter(names: Sequence[str]) -> None:
    lines = check(names, "--interpret")
    assert all(line["error"] <= line["tolerance"] for line in lines)


@pytest.mark.parametrize("names", TOGETHER, ids="-".join)
def test_compiles_with_tensor_cores(names: Sequence[str]) -> None:
    lines = check(names, "--compile", "90", "100")
    for name in names:
        own = {line["check"] for line in lines if line["kernel"] == name}
        assert own == {"compile sm_90", "compile sm_100"}
    assert all(line["shared_bytes"] <= 227 * 1024 for line in lines)


NODES = """
from calibration.kernels.catalogue import KERNELS, standing_for
from simulator.stepgraph import Precision, build_graph
from workloads.attention import BlockTopK, Dense
from workloads.model import load_model

print(*(kernel.name for kernel in KERNELS))
for model in ("Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B"):
    for policy in (Dense(), BlockTopK(kind="block_top_k", blocks=64, page=16)):
        for op in build_graph(load_model(model), policy, Precision(), 1).operators:
            print(op.name, standing_for(op.name).name)
"""


def test_every_kernel_is_tested_and_every_operator_has_one() -> None:
    done = subprocess.run([sys.executable, "-c", NODES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, *nodes = done.stdout.splitlines()
    assert tuple(names.split()) == NAMES
    found = dict(line.split() for line in nodes)
    assert found["page_select"] == "page_select" and found["mlp_norm"] == "rms_norm" and found["router"] == "gemm"
