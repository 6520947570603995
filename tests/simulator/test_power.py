"""The power model: monotone in work, held at the limit, linear in its counts, and carried to other GPUs as it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwspecs.gpu import list_gpus, load_gpu
from simulator.kernels.base import KernelWork
from simulator.kernels.registry import MODELS
from simulator.power import carried, joules, kernel_power, measured_joules, slowdown, uncapped_power
from simulator.powerreading import power_reading

B200 = load_gpu("b200-sxm")
ATTENTION = {"batch": 32.0, "context_len": 4096.0, "q_heads": 32.0, "kv_heads": 8.0, "head_dim": 128.0, "window": 0.0}
LABEL = {"kernel": "vllm_flashinfer", "dtype": "bf16", "kv_dtype": "bf16"}


def test_watts_are_the_sum_of_joules() -> None:
    j = joules(B200)
    work = KernelWork(flops=1e14, hbm_bytes=1e12, l2_bytes=2e12, active=0.5)
    expected = j.awake + 0.5 * j.sms + 1e14 * j.flop["bf16"] + 1e12 * j.hbm + 2e12 * j.l2
    assert uncapped_power(B200, work, "bf16", 1.0) == pytest.approx(expected, rel=1e-12)
    factor = j.code["moe"]
    experts = j.awake + factor * (0.5 * j.sms + 1e14 * j.flop["bf16"] + 2e12 * j.l2) + 1e12 * j.hbm
    assert uncapped_power(B200, work, "bf16", 1.0, kind="moe") == pytest.approx(experts, rel=1e-12)
    linked = uncapped_power(B200, work, None, 1.0, link_bytes=1e11)
    assert linked == pytest.approx(expected - 1e14 * j.flop["bf16"] + 1e11 * j.link, rel=1e-12)


@pytest.mark.parametrize("field", KernelWork._fields)
def test_more_work_in_the_same_time_takes_more_power_up_to_the_limit(field: str) -> None:
    scale = {"flops": 1e16, "hbm_bytes": 1e14, "l2_bytes": 1e14, "active": 1.0}[field]
    work = KernelWork(0.0, 0.0, 0.0, 0.0)._replace(**{field: np.linspace(0, scale, 50)})
    watts = kernel_power(B200, work, "bf16", 1.0)
    assert (np.diff(watts) >= 0).all() and watts[0] == joules(B200).awake
    assert watts.max() <= joules(B200).limit < B200.power.tdp
    assert field == "active" or watts[-1] == joules(B200).limit


def test_slowdown_is_none_below_the_limit_and_keeps_the_joules_above_it() -> None:
    j = joules(B200)
    idle, busy = KernelWork(1e12, 1e9, 1e9, 1.0), KernelWork(3e15, 1e12, 1e13, 1.0)
    assert slowdown(B200, idle, "bf16", 1.0) == 1
    factor = slowdown(B200, busy, "bf16", 1.0)
    assert factor > 1
    above = uncapped_power(B200, busy, "bf16", 1.0) - j.awake
    assert (j.limit - j.awake) * factor == pytest.approx(above, rel=1e-12)


def test_carried_to_other_gpus() -> None:
    origin, found = measured_joules()
    assert origin.name == "b200-sxm" and carried(origin, origin, found) == found
    faster = B200.with_values({"memory.bandwidth": 16e12, "peak.bf16": 4e15})
    assert joules(faster) == found  # joules are per byte and per FLOP, not per second
    hopper, ampere, ada = (joules(load_gpu(name)) for name in ("h100-sxm", "a100-sxm", "l40s"))
    assert found.flop["bf16"] < hopper.flop["bf16"] < ampere.flop["bf16"]
    assert ada.hbm > hopper.hbm
    made_up = replace(B200, architecture="Own", base=None)
    assert joules(made_up).flop["fp8"] == pytest.approx(found.flop["fp8"], rel=1e-12)


@pytest.mark.parametrize("name", list_gpus())
def test_every_gpu_has_a_sensible_model(name: str) -> None:
    gpu = load_gpu(name)
    j = joules(gpu)
    assert gpu.power.idle <= j.awake < j.limit <= gpu.power.tdp
    streaming = KernelWork(0.0, 0.9 * gpu.memory.bandwidth, 0.9 * gpu.memory.bandwidth, 1.0)
    assert 0.3 * gpu.power.tdp < uncapped_power(gpu, streaming, None, 1.0) < 1.2 * gpu.power.tdp


def test_readings_are_corrected_only_where_they_were_learned() -> None:
    model = MODELS["attention_decode"]
    for gpu, software, learned in (
        (B200, "vllm-0.22.0", True),
        (B200, "vllm-0.9.0", True),
        (B200, "sglang-0.5.9", False),
        (load_gpu("h200-sxm"), "vllm-0.22.0", False),
    ):
        work = model.work(ATTENTION, LABEL, gpu)
        shape = {name: np.array([value, value]) for name, value in ATTENTION.items()}
        reading = power_reading("attention_decode", shape, LABEL, gpu, software, work, 80e-6)
        alone = kernel_power(gpu, work, "bf16", 80e-6, kind="attention_decode")
        assert (np.abs(reading / alone - 1) > 1e-3).all() == learned
        assert (reading < 1.03 * gpu.power.tdp).all()
