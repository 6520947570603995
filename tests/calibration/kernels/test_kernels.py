"""Every Triton kernel, without a GPU: right in the interpreter, compiled for Hopper and Blackwell with tensor cores.

Triton decides on its interpreter when a kernel is defined, so each check is a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

for needed in ("torch", "triton"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed: pip install 'kinesim[gpu]'", allow_module_level=True)

NAMES = ("stream", "empty")


def check(*arguments: str) -> list[dict[str, Any]]:
    """The lines of `python -m calibration.kernels.check`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "calibration.kernels.check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    failed = [line for line in lines if not line["ok"]]
    assert done.returncode == 0 and not failed, f"{failed}\n{done.stderr[-2000:]}"
    return lines


@pytest.mark.parametrize("name", NAMES)
def test_right_in_the_interpreter(name: str) -> None:
    lines = check("--interpret", "--kernel", name)
    assert lines
    assert all(line["error"] <= line["tolerance"] for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_with_tensor_cores(name: str) -> None:
    lines = check("--compile", "90", "100", "--kernel", name)
    assert {line["check"] for line in lines} == {"compile sm_90", "compile sm_100"}
    assert all(line["shared_bytes"] <= 227 * 1024 for line in lines)


def test_the_list_is_complete() -> None:
    code = "from calibration.kernels.catalogue import KERNELS; print(*(k.name for k in KERNELS))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert tuple(done.stdout.split()) == NAMES
