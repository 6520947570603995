"""Timing, tuning and measuring on a GPU that only keeps a clock: what is counted, repeated, taken off, refused."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("triton") is None:
    pytest.skip("torch or triton is not installed: pip install 'kinesim[gpu]'", allow_module_level=True)

import torch

from calibration.kernels.base import Config, Kernel, Launch, Problem, Room, Sizes
from calibration.measure import measuring, timing, tuning
from calibration.measure.measuring import Measurer
from calibration.measure.nvml import Sampler
from calibration.measure.task import Task
from calibration.measure.timing import (
    BASELINE,
    FULL,
    QUICK,
    CudaTimer,
    Effort,
    HostTimer,
    Work,
    percentile,
    rotations_for,
    summarise,
)
from calibration.measure.tuning import DeviceLost, Failure, Tuner

OVERHEAD = 2e-6
"""Of a graph's start, on the simulated GPU."""
HOST = 20e-6
"""Of a launch by the host, there."""


@dataclass
class Gpu:
    """A GPU that does nothing but let time pass: in a graph as long as its kernels take, else as the host launches."""

    now: float = 0.0
    captured: list[float] | None = None
    captures: int = 0
    replays: int = 0
    refuses: bool = False
    lost: bool = False
    waiting: str = "default"

    def kernel(self, seconds: float) -> None:
        if self.captured is not None:
            if self.refuses:
                raise RuntimeError("operation not permitted when stream is capturing")
            self.captured.append(seconds)
        else:
            self.now += max(seconds, HOST)

    def launch(self, seconds: float) -> Launch:
        return Launch(_Kernel(self, seconds), (1,), (), {})


@dataclass
class _Kernel:
    gpu: Gpu
    seconds: float

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[[], None]:
        return lambda: self.gpu.kernel(self.seconds)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    simulated = Gpu()

    @dataclass
    class Event:
        enable_timing: bool
        at: float = 0.0

        def record(self) -> None:
            self.at = simulated.now

        def query(self) -> bool:
            return True

        def elapsed_time(self, later: Event) -> float:
            return (later.at - self.at) * 1e3

    @dataclass
    class Graph:
        kernels: list[float] = field(default_factory=list)

        def capture_begin(self, capture_error_mode: str) -> None:
            assert capture_error_mode == "thread_local" and not gc.isenabled()
            simulated.captured = []
            simulated.captures += 1

        def capture_end(self) -> None:
            self.kernels, simulated.captured = simulated.captured or [], None

        def replay(self) -> None:
            simulated.replays += 1
            simulated.now += OVERHEAD + sum(self.kernels)

        def reset(self) -> None:
            self.kernels = []

    def synchronize() -> None:
        if simulated.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(simulated, "waiting", mode))
    return simulated


def test_percentiles_and_outliers() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([0.0, 10.0], 0.1) == pytest.approx(1.0)
    found = summarise([10.0, 10.2, 10.1, 10.3, 9.9, 10.1, 30.0], 5, Work(lambda: None, executions=2))
    assert found.outliers == 1 and found.reps == 7
    assert found.seconds == pytest.approx(1.01)  # the outlier does not move the median
    assert found.low < found.seconds < found.high


def test_what_is_not_counted_is_taken_off() -> None:
    work = Work(lambda: None, executions=4, uncounted=2.0)
    assert summarise([20.0] * 7, 2, work).seconds == pytest.approx((20.0 / 2 - 2.0) / 4)
    assert summarise([2.0] * 7, 2, work).seconds == 0.0


def test_rotations_of_a_replay() -> None:
    assert rotations_for(10e-6, Work(lambda: None), FULL) == 100
    assert rotations_for(1.0, Work(lambda: None), FULL) == 1
    assert rotations_for(1e-6, Work(lambda: None, launches=500), FULL) == timing.MOST_NODES // 500


@pytest.mark.parametrize("seconds", [1.5e-6, 40e-6, 3e-3, 0.2])
def test_a_graph_measures_the_kernel_and_not_the_host(gpu: Gpu, seconds: float) -> None:
    seen: list[str] = []
    timer = CudaTimer(lambda: seen.append("watch"), lambda: seen.append("start"))
    found = timer.graph(Work(lambda: gpu.kernel(seconds)))
    # what is left of a graph's start is less than half a percent
    assert found.seconds == pytest.approx(seconds, rel=5e-3)
    assert 3 <= found.reps <= 100 and found.outliers == 0
    assert seen.count("start") == 1 and seen[-1] == "watch"
    assert gpu.now < 20 * max(seconds, 1e-3) + 0.1  # and it has not taken for ever


@pytest.mark.parametrize("effort", [QUICK, BASELINE])
def test_clocks_are_read_where_they_are_recorded(gpu: Gpu, effort: Effort) -> None:
    """The driver may take milliseconds for it: not while configurations are tried."""
    seen: list[str] = []
    timer = CudaTimer(lambda: seen.append("watch"), lambda: seen.append("start"))
    timer.graph(Work(lambda: gpu.kernel(1e-5)), effort)
    timer.once(Work(lambda: gpu.kernel(1e-5)))
    assert seen == []


def test_long_work_is_not_captured_twice(gpu: Gpu) -> None:
    CudaTimer().graph(Work(lambda: gpu.kernel(0.1)))
    assert gpu.captures == 1


def test_one_by_one_it_is_the_host_that_counts(gpu: Gpu) -> None:
    assert CudaTimer().stream(Work(lambda: gpu.kernel(1e-6))).seconds == pytest.approx(HOST)
    fixed = CudaTimer().graph(Work(lambda: [gpu.kernel(1e-6) for _ in range(8)] and None, 8, 8), FULL, 1)
    assert fixed.seconds == pytest.approx(1e-6 + OVERHEAD / 8)


def test_what_cannot_be_captured_says_so_and_does_no_harm(gpu: Gpu) -> None:
    gpu.refuses = True
    with pytest.raises(RuntimeError, match="not permitted"):
        CudaTimer().graph(Work(lambda: gpu.kernel(1e-6)))
    assert gpu.captured is None and gc.isenabled()


def test_the_host_timer() -> None:
    runs: list[int] = []
    found = HostTimer().graph(Work(lambda: runs.append(1)), QUICK, 3)
    assert found.reps == 3 and found.seconds > 0 and len(runs) % 3 == 0


# --- tuning and measuring

SECONDS = {"slow": 9e-6, "good": 3e-6, "close": 3.05e-6, "wrong": 1e-6, "broken": 0.0}
NUMBER = {name: number for number, name in enumerate(SECONDS)}


@dataclass
class Simulated:
    """A kernel whose configurations are slow, good, close to it, wrong, or do not launch."""

    gpu: Gpu
    names: tuple[str, ...] = tuple(SECONDS)
    cold: float = 0.0
    built: list[Room] = field(default_factory=list)
    baselines: dict[str, Any] = field(default_factory=dict)
    out: torch.Tensor = field(default_factory=lambda: torch.zeros(1))

    def launches(self, copy: int, config: Config) -> list[Launch]:
        name = self.names[config["number"]]

        class Run:
            def __getitem__(inner, grid: tuple[int, ...]) -> Callable[[], None]:
                def run() -> None:
                    if name == "broken":
                        raise RuntimeError("out of resource: shared memory")
                    self.out.fill_(2.0 if name == "wrong" else 1.0)
                    self.gpu.kernel(SECONDS[name])

                return run

        return [Launch(Run(), (1,), (), {})]

    def build(self, row: Any, room: Room) -> Problem:
        self.built.append(room)
        return Problem(self.launches, lambda: [self.out], lambda: [torch.ones(1)], self.baselines)

    def kernel(self) -> Kernel:
        configs = [Config({"number": number}) for number in range(len(self.names))]
        return Kernel(
            name="simulated",
            table="gemm",
            stands_for=(),
            matches=lambda row: True,
            build=self.build,
            configs=lambda row, room: configs,
            sizes=lambda row: Sizes(self.cold, 4.0, 0.0, 0.0),
            check_rows=(),
            compile_rows=(),
        )


TASK = Task("gemm", {"dtype": "bf16", "m": 1, "n": 1, "k": 1})


def measurer(
    gpu: Gpu, simulated: Simulated, monkeypatch: pytest.MonkeyPatch, l2: int = 1000, free: float = 1e9
) -> Measurer:
    monkeypatch.setattr(measuring, "kernel_of", lambda table, row: simulated.kernel())
    found = Measurer(CudaTimer(), Sampler(None), "cuda", 132, 90, l2, lambda: free)
    found._flush = tuning.Flush(gpu.launch(40e-6), 40e-6)
    return found


def test_the_fastest_that_is_right(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated = Simulated(gpu)
    values = measurer(gpu, simulated, monkeypatch).measure(TASK)
    assert values["config"] == f"number={NUMBER['good']}"
    assert values["latency_us"] == pytest.approx(3.0, rel=5e-3) and values["l2"] == "cold"
    said = capsys.readouterr().err
    assert "wrong result" in said and "shared memory" in said


def test_none_is_right(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(gpu, names=("wrong", "broken"))
    with pytest.raises(Failure, match=r"no configuration works: .*shared memory.*wrong result: error 1, 0.02 allowed"):
        measurer(gpu, simulated, monkeypatch).measure(TASK)


def test_what_does_not_compile_is_not_tried(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(gpu, names=("good", "slow"))
    skip = {"simulated: number=0": "does not compile: too hard"}
    measured = measurer(gpu, simulated, monkeypatch)
    assert measured.measure(TASK, skip)["config"] == "number=1"
    skip["simulated: number=1"] = "does not compile: too easy"
    measured.tuner.chosen.clear()
    with pytest.raises(Failure, match=r"too hard.*too easy"):
        measured.measure(TASK, skip)


@pytest.mark.parametrize(
    ("cold", "copies", "flushed"), [(1000.0, 4, False), (100.0, 40, False), (1.0, 512, True), (5000.0, 1, False)]
)
def test_cold_operands(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, cold: float, copies: int, flushed: bool) -> None:
    simulated = Simulated(gpu, names=("good",), cold=cold)
    measured = measurer(gpu, simulated, monkeypatch)
    runs: list[float] = []
    original = gpu.kernel
    gpu.kernel = lambda seconds: (runs.append(seconds), original(seconds))[1]  # type: ignore[method-assign]
    values = measured.measure(TASK)
    assert simulated.built[-1].copies == copies
    assert (40e-6 in runs) is flushed
    assert values["latency_us"] == pytest.approx(3.0, rel=5e-3)  # the flush has been taken off


def test_warm_operands(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(gpu, names=("good",), cold=1.0)
    values = measurer(gpu, simulated, monkeypatch).measure(Task("gemm", TASK.row, file="gemm-warm", l2="warm"))
    assert simulated.built[-1].copies == 1 and values["l2"] == "warm"


def test_too_little_memory(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(gpu, names=("good",), cold=2.0**31)
    with pytest.raises(Failure, match=r"out of memory: needs 2\.0 GiB, 0\.9 GiB can be had"):
        measurer(gpu, simulated, monkeypatch, free=2.0**30).measure(TASK)
    simulated = Simulated(gpu, names=("good",), cold=2.0**30)
    measurer(gpu, simulated, monkeypatch, l2=2**31, free=2.0**31.5).measure(TASK)
    assert simulated.built[-1].copies == 2  # six would be wanted


def test_torch_runs_out_of_memory(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(gpu, names=("good",))
    monkeypatch.setattr(simulated, "build", lambda row, room: (_ for _ in ()).throw(torch.OutOfMemoryError("no more")))
    with pytest.raises(Failure, match="out of memory: OutOfMemoryError: no more"):
        measurer(gpu, simulated, monkeypatch).measure(TASK)


def test_a_lost_gpu(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.lost = True
    with pytest.raises(DeviceLost, match="illegal memory access was encountered; first: RuntimeError: out of resource"):
        measurer(gpu, Simulated(gpu, names=("broken",)), monkeypatch).measure(TASK)


def test_baselines(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(copy: int) -> None:
        raise ImportError("not here")

    quick, slow = lambda copy: gpu.kernel(2e-6), lambda copy: gpu.kernel(5e-6)
    simulated = Simulated(gpu, names=("good",), cold=1.0)
    simulated.baselines = {"slow": slow, "quick": quick, "missing": missing, "hopeless": lambda copy: gpu.kernel(1.0)}
    values = measurer(gpu, simulated, monkeypatch).measure(TASK)
    assert values["baseline"] == "quick" and values["baseline_us"] == pytest.approx(2.0, rel=1e-2)
    assert "missing: ImportError: not here" in capsys.readouterr().err


def test_a_baseline_that_cannot_be_captured(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def eager(copy: int) -> None:
        if gpu.captured is not None:
            raise RuntimeError("not in a graph")
        gpu.kernel(30e-6)

    simulated = Simulated(gpu, names=("good",), baselines={"eager": eager})
    values = measurer(gpu, simulated, monkeypatch).measure(TASK)
    assert values["baseline"] == "eager" and values["baseline_us"] == pytest.approx(30.0, rel=1e-2)


def test_a_baseline_that_waits_for_the_gpu_is_never_captured(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def waits(copy: int) -> None:
        assert gpu.captured is None, "a capture that fails does harm"
        if gpu.waiting == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        gpu.kernel(30e-6)

    measured = measurer(gpu, Simulated(gpu, names=("good",), baselines={"waits": waits}), monkeypatch)
    for _ in range(2):
        values = measured.measure(TASK)
        assert values["baseline"] == "waits" and values["baseline_us"] == pytest.approx(30.0, rel=1e-2)
        assert gpu.waiting == "default"
    assert capsys.readouterr().err.count("waits is not timed in a graph") == 1


def test_a_baseline_has_its_share_of_the_time(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes long to prepare for every shape is timed for the first, and now and then."""
    monkeypatch.setattr(measuring, "time", SimpleNamespace(monotonic=lambda: gpu.now))
    shape, planned = {"dtype": "bf16", "m": 0, "n": 1, "k": 1}, []

    def plans(copy: int) -> None:
        if shape["m"] not in planned:
            planned.append(shape["m"])
            gpu.now += 0.05
        gpu.kernel(2e-6)

    libraries = {"plans": plans, "ready": lambda copy: gpu.kernel(2.5e-6)}
    measured = measurer(gpu, Simulated(gpu, names=("good",), baselines=libraries), monkeypatch)
    found = []
    for shape["m"] in range(60):
        found.append(measured.measure(Task("gemm", dict(shape)))["baseline"])
    assert found[0] == "plans" and set(found) == {"plans", "ready"}
    assert 1 < len(planned) < 15 and found.count("plans") == len(planned)


def test_a_choice_is_remembered(gpu: Gpu) -> None:
    simulated = Simulated(gpu, names=("slow", "good"))
    tuner, kernel, room = Tuner(CudaTimer(), "cuda"), simulated.kernel(), Room("cuda", 132, 90, copies=2)
    for _ in range(2):
        found = tuner.best(kernel, {"m": 1}, room, simulated.launches, tuning.rotation, skip={})
        assert str(found[1]) == "number=1" and found[0].seconds == pytest.approx(3e-6, rel=5e-3)
    assert len(tuner.chosen) == 1


def test_launches(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measurer(CudaTimer(), Sampler(None), "cuda", 132, 90, 0, lambda: 1e9)
    problem = Problem(lambda copy, config: [gpu.launch(1e-6)], lambda: [], lambda: [])
    kernel = dataclasses.replace(Simulated(gpu).kernel(), build=lambda row, room: problem)
    monkeypatch.setattr(measuring, "EMPTY", kernel)
    in_graph = measured.measure(Task("launch", {"mode": "graph", "launches": 100}, l2="warm"))
    one_by_one = measured.measure(Task("launch", {"mode": "stream", "launches": 100}, l2="warm"))
    assert in_graph["latency_us"] == pytest.approx(1.02, rel=1e-3)
    assert one_by_one["latency_us"] == pytest.approx(HOST * 1e6)


def test_layers(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The sum of the operators of every layer, one layer's share of it, and its attention alone."""
    norm, attention = Simulated(gpu, names=("slow", "good")), Simulated(gpu, names=("slow",), cold=100.0)
    kernels = [
        dataclasses.replace(norm.kernel(), name="norm"),
        dataclasses.replace(attention.kernel(), name="attention"),
    ]
    operators = [
        SimpleNamespace(
            node=kernel.name, kernel=kernel, row={"m": 1}, launches=made.launches, attention=made is attention
        )
        for kernel, made in zip(kernels, (norm, attention), strict=True)
    ]
    layer = SimpleNamespace(
        operators=operators, layers=4, outputs=lambda: [norm.out], reference=lambda: [torch.ones(1)], compare=None
    )
    module = SimpleNamespace(
        build_layer=lambda row, room: layer if room.copies == 6 else None,
        layers_wanted=lambda row, l2, free: 6 if free > 1e8 else 0,
        sizes=lambda row: SimpleNamespace(cold=1e6, warm=10.0, flops=1.0, moved=1e6, memory=3e9),
    )
    monkeypatch.setitem(sys.modules, "calibration.measure.layers", module)  # type: ignore[arg-type]
    shape = {"model": "some", "attention": "dense", "dtype": "bf16", "kv_dtype": "bf16", "tp": 1, "batch": 1}
    task = Task("kinetics", {**shape, "context_len": 4096, "page": 0, "budget": 0})
    values = measurer(gpu, norm, monkeypatch).measure(task)
    assert values["layers"] == 4 and values["latency_us"] == pytest.approx(12.0, rel=5e-3)
    assert values["attention_us"] == pytest.approx(9.0, rel=5e-3)
    assert values["config"] == "norm: number=1; attention: number=0"
    layer.reference = lambda: [torch.full((1,), 3.0)]
    assert "attention_us" in measurer(gpu, norm, monkeypatch).measure(task)  # too large to be checked
    module.sizes = lambda row: SimpleNamespace(cold=1e6, warm=10.0, flops=1.0, moved=1e6, memory=1e9)
    with pytest.raises(Failure, match=r"wrong result: error 0\.667, 0\.05 allowed"):
        measurer(gpu, norm, monkeypatch).measure(task)
    with pytest.raises(Failure, match=r"out of memory: needs 0\.9 GiB, 0\.1 GiB can be had"):
        measurer(gpu, norm, monkeypatch, free=1e8).measure(task)


def test_who_supervises_is_told_what_is_tried(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(gpu, names=("slow", "good"), baselines={"library": lambda copy: gpu.kernel(2e-6)})
    told: list[str] = []
    measured = measurer(gpu, simulated, monkeypatch)
    measured.tuner.trying = measured.trying = told.append
    assert measured.measure(TASK)["baseline"] == "library"
    both = ["simulated: number=0", "simulated: number=1"]
    assert told == [*both, both[1], "simulated by library"]
    assert "baseline" not in measured.measure(TASK, {"simulated by library": "killed the worker"})
