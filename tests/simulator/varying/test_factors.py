"""The two knobs of times that are on no spec sheet, and what keeps a GPU's kernels when its figures change a little."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.calibrated import Calibrated
from simulator.deployment import deploy
from simulator.running import run_scenario
from simulator.selection import anchor, bundled
from simulator.shape import StepShape
from workloads.scenario import load_scenario

SPEC = {
    "gpu": "h200-sxm",
    "model": "Qwen/Qwen3-0.6B",
    "profile": "ideal",
    "workload": {
        "strategy": {"kind": "chat"},
        "requests": 1,
        "prompt_tokens": 10,
        "output_tokens": 20,
        "arrivals": {"kind": "all_at_once"},
    },
}


def makespan(*sets: str) -> float:
    return run_scenario(load_scenario(SPEC, sets)).summary["makespan_s"]


def test_host_factor_scales_all_of_the_host():
    # 20 tokens are 20 steps: the one with the prompt gives the first. A step takes 1 ms of the host, the prompt 5 ms,
    # and a request 7 ms before it is seen, but nothing counts from its arrival on twice.
    host = ["engine.host.step=0.001", "engine.host.chunk=0.005", "engine.host.request=0.007"]
    bare = makespan()
    assert makespan(*host) == pytest.approx(bare + 0.032, rel=1e-9)
    assert makespan(*host, "engine.host_factor=3") == pytest.approx(bare + 0.096, rel=1e-9)
    assert makespan(*host, "engine.host_factor=0") == bare


def test_launch_factor_scales_the_overhead_of_a_profile():
    # The rule of thumb adds an overhead to each launch: twice of it is once more than once.
    own = ["profile=rule-of-thumb"]
    none, one, two = (makespan(*own, f"engine.launch_factor={f}") for f in (0, 1, 2))
    assert one == makespan(*own) and none < one
    assert two - one == pytest.approx(one - none, rel=1e-6)


def test_launch_factor_scales_the_latency_of_fitted_kernels():
    # seconds = (latency + overlapping parts) x correction, and at least the roof.
    shape = StepShape(np.array([1, 64, 4096]), np.array([1, 64, 4096]), 0, (0,))
    costs = [deploy(load_scenario(SPEC, ["profile=auto", f"engine.launch_factor={f}"])).cost for f in (1, 1.5)]
    for op in costs[0].operators:
        if op.axis == "tokens":
            once, more = (cost.kernel_terms(op, shape) for cost in costs)
            assert more.seconds == pytest.approx(once.seconds + 0.5 * once.overhead, rel=1e-9)
            assert more.overhead == pytest.approx(1.5 * once.overhead, rel=1e-12)
    assert isinstance(costs[0].profile, Calibrated)


def test_factors_out_of_range():
    for value in ("-1", ".inf", "fast"):
        with pytest.raises(InputError, match=r"engine\.launch_factor"):
            load_scenario(SPEC, [f"engine.launch_factor={value}"])


def test_a_gpu_through_a_file_is_still_derived_from_a_measured_one(tmp_path: Path):
    (tmp_path / "own.yaml").write_text(json.dumps({"base": "h200-sxm", "memory": {"bandwidth": "8 TB/s"}}))
    gpu = load_gpu({"base": str(tmp_path / "own.yaml"), "sms": 133})
    assert (gpu.base, gpu.sms, gpu.memory.bandwidth) == ("h200-sxm", 133, 8e12)
    assert anchor(gpu, bundled().gpus) == ("h200-sxm", "sibling")


@pytest.mark.parametrize("name", ["gh200", "h20"])
def test_a_gpu_between_two_measured_ones_keeps_its_kernels(name: str):
    # Both lie about as far from H100 as from H200, so that a little more bandwidth was nearer to the other one.
    gpu = load_gpu(name)
    faster = load_gpu({"base": name, "memory": {"bandwidth": f"{1.05 * gpu.memory.bandwidth!r} B/s"}})
    assert anchor(faster, bundled().gpus) == anchor(gpu, bundled().gpus)


def test_what_was_given_is_kept():
    # With further assignments it is what they would have made of the scenario in the first place: settings that the
    # engine chooses by its GPU are chosen anew.
    spec = {**SPEC, "engine": "vllm"}
    again = load_scenario(load_scenario(spec).given, ["gpu=a100-sxm"])
    assert again.config == load_scenario(spec, ["gpu=a100-sxm"]).config
