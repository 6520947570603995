"""One task measured: operands made, configurations tried, the result checked, the best one timed beside baselines.

L2: operands that a step reads from HBM are there in so many copies that all together fill `COLD` times the L2, and are
used in turn. Where they are so small that `COPIES` do not reach that, a rotation begins with a read of other
memory of that size, whose own time (measured alone) is taken off: with hundreds of executions to a rotation it is a
few percent, and its error is lost. A flush before each execution would be of the order of what is measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from calibration.kernels.base import Config, Launch, Room, Row, Sizes, cdiv, error, poison
from calibration.kernels.catalogue import kernel_of
from calibration.kernels.empty import EMPTY
from calibration.kernels.stream import ROW_BYTES, STREAM
from calibration.measure.costs import COPIES
from calibration.measure.layersizes import COLD
from calibration.measure.nvml import Sampler
from calibration.measure.task import Task
from calibration.measure.timing import BASELINE, FULL, QUICK, Timer, Timing, Work
from calibration.measure.tuning import Built, Failure, Flush, Tuner, alive, failures, rotation, tell

MEMORY_SHARE = 0.92
"""Of the free memory that a problem may take; the rest is for its reference, fragments and the runtime."""
CHECK_FLOPS, CHECK_BYTES = 1.2e12, 2e9
"""Problems of no more are compared with their reference before they are timed: GEMMs of 8192^3 are among them, whose
reference takes some 20 ms.
"""
TOLERANCE = {"fp32": 1e-3, "fp16": 5e-3, "bf16": 2e-2, "fp8": 5e-2}
LAYER_TOLERANCE = 5e-2
"""A dozen operators, each of which rounds."""
FAR = 20.0
"""A baseline so many times slower is not repeated."""
PREPARING = 0.25
"""Share of the time of a kernel's own measurements that the first calls of a baseline may take in all: cuDNN's plan of
a shape takes longer than the whole measurement, and other libraries compile.
"""


Library = Callable[[int], object]
"""A baseline: computes the same on a copy of the operands."""


def baseline_key(kernel: str, name: str) -> str:
    return f"{kernel} by {name}"


@dataclass
class Measurer:
    """Measures tasks one after the other on one device.

    Attributes
    ----------
    timer, sampler : for time, and for clocks, power and temperature meanwhile.
    device, sms, capability, l2 : as in `Room`; bytes of L2 (0 in the interpreter).
    free : () -> bytes of the GPU's memory that can be had now. trying : see `Tuner`.
    """

    timer: Timer
    sampler: Sampler
    device: str
    sms: int
    capability: int
    l2: int
    free: Callable[[], float]
    seed: int = 0
    trying: Callable[[str], None] = lambda what: None

    def __post_init__(self) -> None:
        self.tuner = Tuner(self.timer, self.device, self.trying)
        self._flush: Flush | None = None
        self._spent: dict[str, float] = {}  # seconds of kernels, and of the first calls of baselines
        self._uncaptured: set[str] = set()

    def measure(self, task: Task, skip: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The measured columns of a task's row, all but `run` and `date`.

        `skip` : `tuning.config_key` or `baseline_key` -> why it is not to be tried. Raises Failure, DeviceLost.
        """
        with failures(self.device):
            if task.table == "launch":
                return self.launch(task)
            if task.table in ("layer", "kinetics"):
                return self.layer(task, skip or {})
            return self.single(task, skip or {})

    def single(self, task: Task, skip: Mapping[str, str]) -> dict[str, Any]:
        """One kernel."""
        begun = time.monotonic()
        try:
            kernel = kernel_of(task.table, task.row)
        except LookupError as unknown:
            raise Failure(str(unknown)) from None
        sizes = kernel.sizes(task.row)
        room = self.room(sizes, warm=task.l2 == "warm")
        problem = kernel.build(task.row, room)

        def work(built: Built) -> Work:
            return rotation(built, self.flush_for(sizes.cold * len(built)) if task.l2 == "cold" else None)

        def check(config: Config) -> None:
            # built anew: a kernel may hand out the workspace of the configuration that was built last
            self.check(problem, problem.launches(0, config), sizes, task.row, kernel.tolerance)

        timing, config = self.tuner.best(kernel, task.row, room, problem.launches, work, skip=skip, check=check)
        values = self.values(timing, str(config), task.l2)
        self._spent[kernel.name] = self._spent.get(kernel.name, 0.0) + time.monotonic() - begun
        libraries = {n: f for n, f in problem.baselines.items() if baseline_key(kernel.name, n) not in skip}
        return values | self.baseline(kernel.name, libraries, room.copies, timing, work([()] * room.copies))

    def room(self, sizes: Sizes, *, warm: bool = False) -> Room:
        """A room with as many copies as L2 asks for and memory has. Raises Failure where not even one fits."""
        free = self.free() * MEMORY_SHARE
        needed = sizes.warm + sizes.cold
        if needed > free:
            raise Failure(too_little(needed, free))
        copies = 1
        if not warm and sizes.cold > 0:
            fit = int((free - sizes.warm) // sizes.cold)
            copies = max(1, min(math.ceil(COLD * self.l2 / sizes.cold), COPIES, fit))
        return Room(self.device, self.sms, self.capability, copies, self.seed)

    def flush_for(self, cold: float) -> Flush | None:
        """A flush where the cold operands of a rotation (bytes) would stay in L2."""
        if not 0 < cold < COLD * self.l2:
            return None
        if self._flush is None:
            row: Row = {"op": "read", "dtype": "bf16", "rows": cdiv(COLD * self.l2, ROW_BYTES), "row_bytes": ROW_BYTES}
            room = Room(self.device, self.sms, self.capability, 1, self.seed)
            launch = STREAM.build(row, room).launches(0, STREAM.configs(row, room)[1])[0]
            self._flush = Flush(launch, self.timer.graph(Work(launch.run), FULL).seconds)
        return self._flush

    def check(self, problem: Any, launches: Sequence[Launch], sizes: Sizes, row: Row, least: float) -> None:
        """Raises Failure where what a small problem's launches write differs from the reference."""
        if sizes.flops > CHECK_FLOPS or sizes.cold + sizes.warm > CHECK_BYTES:
            return
        poison(problem.outputs())
        for launch in launches:
            launch.run()
        try:
            found = error(problem)
        except torch.OutOfMemoryError:
            tell([f"not checked, the reference does not fit: {dict(row)}"])
            return
        allowed = max(least, *(TOLERANCE.get(str(row.get(name)), 0.0) for name in ("dtype", "kv_dtype")))
        if not found <= allowed:
            raise Failure(f"wrong result: error {found:.3g}, {allowed:g} allowed")

    def baseline(
        self, kernel: str, libraries: Mapping[str, Library], copies: int, ours: Timing, like: Work
    ) -> dict[str, Any]:
        """The fastest library that computes the same, timed in the same way; passed over are those that fail, and for
        some rows those whose preparing has taken more than its share of the time.
        """
        found: dict[str, float] = {}
        for name, function in libraries.items():
            key, begun = baseline_key(kernel, name), time.monotonic()
            if self._spent.get(key, 0.0) > PREPARING * self._spent.get(kernel, 0.0):
                continue
            try:
                self.trying(key)
                try:
                    function(0)
                finally:
                    self._spent[key] = self._spent.get(key, 0.0) + time.monotonic() - begun
                single = self.timer.once(Work(lambda function=function: function(0)))  # type: ignore[misc]
                if single > FAR * max(ours.seconds, 1e-3):
                    found[name] = single
                    continue

                def run(function: Library = function) -> None:
                    like.run()  # no launches of its own, but the flush where there is one
                    for copy in range(copies):
                        function(copy)

                work = Work(run, copies, 2 * copies, like.uncounted)
                if key not in self._uncaptured:
                    try:
                        self.must_not_wait(function)
                        found[name] = self.timer.graph(work, BASELINE).seconds
                        continue
                    except torch.OutOfMemoryError:
                        raise
                    except Exception as refused:
                        tell([f"{name} is not timed in a graph: {alive(refused, self.device)}"])
                        self._uncaptured.add(key)
                found[name] = self.timer.stream(work, BASELINE).seconds
            except Exception as failed:
                tell([f"{name}: {alive(failed, self.device)}"])
        if not found:
            return {}
        name = min(found, key=lambda name: found[name])
        return {"baseline": name, "baseline_us": microseconds(found[name])}

    def must_not_wait(self, function: Library) -> None:
        """Raises RuntimeError if a library's function waits for the GPU, which no capture allows. To capture it all the
        same would do harm: torch's allocator and its generator of random numbers do not leave a capture that failed.
        """
        if self.device != "cuda":
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            function(0)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def launch(self, task: Task) -> dict[str, Any]:
        """Empty kernels, as many as the row says, in one graph or launched one by one."""
        count, room = int(task.row["launches"]), self.room(Sizes(0, 4, 0, 0))
        launch = EMPTY.build(task.row, room).launches(0, EMPTY.configs(task.row, room)[0])[0]
        work = rotation([[launch]] * count)
        timed = self.timer.graph if task.row["mode"] == "graph" else self.timer.stream
        return self.values(timed(work, FULL, 1), "", task.l2)

    def layer(self, task: Task, skip: Mapping[str, str]) -> dict[str, Any]:
        """Whole layers of a model, each with weights and KV cache of its own; the time of one.

        Every operator is tuned on the layers' own operands. For `kinetics` its attention is timed alone as well.
        """
        from calibration.measure.layers import build_layer, layers_wanted
        from calibration.measure.layers import sizes as sizes_of

        sizes, free = sizes_of(task.row), self.free() * MEMORY_SHARE
        count = layers_wanted(task.row, self.l2, free)
        if count < 1:
            raise Failure(too_little(sizes.memory + sizes.warm, free))
        room = Room(self.device, self.sms, self.capability, count, self.seed)
        layer = build_layer(task.row, room)
        room = room._replace(copies=layer.layers)
        configs = [
            self.tuner.best(o.kernel, o.row, room, o.launches, rotation, skip=skip, effort=QUICK)[1]
            for o in layer.operators
        ]
        chosen = list(zip(layer.operators, configs, strict=True))
        first = [launch for operator, config in chosen for launch in operator.launches(0, config)]
        self.check(layer, first, Sizes(sizes.memory, sizes.warm, sizes.flops, sizes.moved), task.row, LAYER_TOLERANCE)

        def built(attention_only: bool) -> Built:
            parts = [(o, c) for o, c in chosen if o.attention or not attention_only]
            return [[launch for o, c in parts for launch in o.launches(i, c)] for i in range(layer.layers)]

        flush = self.flush_for(sizes.cold * layer.layers)
        timing = self.timer.graph(rotation(built(False), flush))
        named = "; ".join(f"{operator.node}: {config}" for operator, config in chosen)
        values = self.values(timing, named, "cold") | {"layers": layer.layers}
        if task.table == "kinetics":
            cold = sum(o.kernel.sizes(o.row).cold for o in layer.operators if o.attention) * layer.layers
            attention = self.timer.graph(rotation(built(True), self.flush_for(cold)))
            values["attention_us"] = microseconds(attention.seconds)
        return values

    def values(self, timing: Timing, config: str, l2: str) -> dict[str, Any]:
        """The columns of a timing."""
        return {
            "latency_us": microseconds(timing.seconds),
            "low_us": microseconds(timing.low),
            "high_us": microseconds(timing.high),
            "reps": timing.reps,
            "outliers": timing.outliers,
            "config": config,
            "l2": l2,
            **timing.board,
        }


def too_little(needed: float, free: float) -> str:
    return f"out of memory: needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB can be had"


def microseconds(seconds: float) -> float:
    """With five significant digits."""
    return float(f"{seconds * 1e6:.5g}")
