"""The driver's libraries by ctypes, against stand-ins compiled here: what is read, and what may be missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from calibration.measure import machine, nvml

COMPILER = shutil.which("cc") or shutil.which("gcc")
NVML, CUDA = (Path(__file__).parent / name for name in ("fake_nvml.c", "fake_cuda.c"))
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


def library(folder: Path, source: Path, **defines: object) -> str:
    """Compile a stand-in; the path of it."""
    assert COMPILER is not None
    target = folder / "fake.so"
    flags = [f"-D{name}={value}" for name, value in defines.items()]
    subprocess.run([COMPILER, "-shared", "-fPIC", "-w", *flags, "-o", target, source], check=True)
    return str(target)


@needs_compiler
def test_what_the_driver_says(tmp_path: Path) -> None:
    found = nvml.Library(library(tmp_path, NVML, USED=0, PIDS="0", INSTANT=1))
    assert found.found and found.driver() == "580.1"
    device = found.device("0000:1B:00.0")
    assert device is not None and found.device("GPU-1") is not None and found.device(0) is not None
    assert found.device("GPU-2") is None and found.device(5) is None
    assert device.name() == "NVIDIA Test"
    assert (device.clock_mhz(nvml.SM), device.clock_mhz(nvml.MEMORY)) == (1900, 3200)
    assert (device.power_w(), device.power_limit_w(), device.temperature_c()) == (650.25, 700.0, 41)
    assert device.ecc() is True and device.utilisation() == 0 and device.processes() == []
    facts = machine.of_driver(device)
    assert facts["max_sm_mhz"] == 1980 and facts["bus_bits"] == 6144
    assert facts["hbm_bytes_per_s"] == pytest.approx(2 * 3201e6 * 6144 / 8)


@needs_compiler
def test_an_old_driver_gives_the_mean_power(tmp_path: Path) -> None:
    device = nvml.Library(library(tmp_path, NVML, USED=0, PIDS="0")).device(0)
    assert device is not None and device.power_w() == 431.5
    assert device.uuid() is None  # a function that this library lacks


@needs_compiler
def test_a_gpu_that_answers_nothing(tmp_path: Path) -> None:
    device = nvml.Library(library(tmp_path, NVML, USED=99, PIDS="1")).device(1)
    assert device is not None
    assert device.name() is device.clock_mhz(nvml.SM) is device.power_w() is device.ecc() is device.processes() is None
    assert nvml.busy(device, seconds=0.1) is None  # what cannot be read cannot be held against it
    assert set(machine.of_driver(device).values()) == {None}


def test_no_library() -> None:
    found = nvml.Library("libnothing-of-the-kind.so")
    assert not found.found and found.driver() is None and found.device(0) is None
    sampler = nvml.Sampler(None)
    sampler.sample()
    assert set(sampler.means().values()) == {""}


@needs_compiler
def test_means_and_throttling(tmp_path: Path) -> None:
    sampler = nvml.Sampler(nvml.Library(library(tmp_path, NVML, USED=0, PIDS="0", INSTANT=1)).device(0))
    sampler.sample()
    sampler.sample()  # too soon after the first: not read again
    assert {len(values) for values in sampler.readings.values()} == {1}
    means = sampler.means()
    assert means == {"sm_mhz": 1900, "mem_mhz": 3200, "board_w": 650.2, "temp_c": 41, "throttled": "0x4"}
    sampler.reset()
    assert sampler.means()["throttled"] == ""


def test_a_slow_driver_is_asked_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        now, asked = 100.0, 0

        def clock_mhz(self, which: int) -> int:
            Slow.now, Slow.asked = Slow.now + 0.02, Slow.asked + (which == nvml.SM)
            return 1500

        power_w = temperature_c = throttled = lambda self: None

    monkeypatch.setattr(nvml.time, "monotonic", lambda: Slow.now)
    sampler = nvml.Sampler(Slow())  # type: ignore[arg-type]
    for _ in range(1000):
        sampler.sample()
        Slow.now += 0.001
    assert 1.04 < Slow.now - 100.0 < 1.3, "a fifth of the time at most"
    assert sampler.means()["sm_mhz"] == 1500 and Slow.asked > 3


def test_the_commit_of_a_copy_without_its_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINESIM_COMMIT", "0123456789ab")
    assert machine.version().endswith(" 0123456789ab")


@needs_compiler
def test_a_busy_gpu(tmp_path: Path) -> None:
    pids = ",".join(["0", *(str(pid) for pid in range(400_000_000, 400_000_099)), str(os.getpid())])
    pids = pids.removeprefix("0,") + ",0"
    device = nvml.Library(library(tmp_path, NVML, USED=0, PIDS=pids)).device(0)
    assert device is not None
    found = device.processes()
    assert found is not None and len(found) == 100 and os.getpid() in found  # more than it asks for at first
    why = nvml.busy(device, ours=[pid for pid in found if pid != os.getpid()])
    assert why is not None and f"{os.getpid()} ({nvml.process_name(os.getpid())})" in why
    assert "400000000 (?)" in str(nvml.busy(device))
    assert nvml.busy(device, ours=found, seconds=0.1) is None


@needs_compiler
def test_a_gpu_in_use_by_what_is_not_shown(tmp_path: Path) -> None:
    device = nvml.Library(library(tmp_path, NVML, USED=60, PIDS="0")).device(0)
    assert device is not None
    assert "60 %" in str(nvml.busy(device, seconds=0.1))


@needs_compiler
def test_what_cuda_says(tmp_path: Path) -> None:
    found = machine.gpu(library(tmp_path, CUDA, START=0, COUNT=2))
    assert found == {
        "name": "NVIDIA Test",
        "gpus": 2,
        "sms": 132,
        "capability": 90,
        "l2_bytes": 52_428_800,
        "memory_bytes": 150_000_000_000,
        "pci": "0000:1B:00.0",
    }
    assert "pci" not in machine.for_the_record(found)


@needs_compiler
@pytest.mark.parametrize(("start", "count", "says"), [(100, 1, "cuInit returns 100"), (0, 0, "shows no GPU")])
def test_no_gpu(tmp_path: Path, start: int, count: int, says: str) -> None:
    with pytest.raises(machine.NoGpu, match=says):
        machine.gpu(library(tmp_path, CUDA, START=start, COUNT=count))


def test_no_driver() -> None:
    with pytest.raises(machine.NoGpu, match="no NVIDIA driver"):
        machine.gpu("libnothing-of-the-kind.so")
