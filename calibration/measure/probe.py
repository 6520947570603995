"""What the harness assumes of a machine, measured in about 40 s: `python -m calibration.measure.probe`.

Prints one JSON line a section; a section that fails is a line too. Worth a look before tables are trusted: whether
copies of four times the L2 are cold (`cold_by_copies`: x4 agrees with x8), what starting a replay adds
(`gap_of_a_replay`: the fewer executions in one, the larger), how well a measurement repeats, how much slower a long
load is than bursts of tens of milliseconds (`clocks_of_long_load`), what launches and nodes of a graph cost the host.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch

from calibration.kernels.base import Launch, Room, Row, random
from calibration.kernels.catalogue import kernel_of
from calibration.measure import machine, measuring, nvml
from calibration.measure.measuring import Measurer
from calibration.measure.shapes import decode_row, gemm_row
from calibration.measure.task import Task
from calibration.measure.timing import BASELINE, FULL, CudaTimer, Work
from calibration.measure.tuning import rotation

Found = dict[str, Any]
PAUSES = (0.05, 0.15, 0.3, 0.5, 1.0, 2.0)
"""Seconds without load after which the clock is read."""
COPIES = (2, 3, 4, 6, 8)
"""Times the L2 that operands in rotation fill."""


class Probe:
    """The sections, on the GPU that CUDA calls 0."""

    def __init__(self) -> None:
        torch.set_grad_enabled(False)
        torch.cuda.set_stream(torch.cuda.Stream())
        self.facts = machine.facts("cuda")
        self.driver = nvml.Library().device(self.facts["pci"])
        self.sampler = nvml.Sampler(self.driver)
        self.timer = CudaTimer(self.sampler.sample, self.sampler.reset, self.sampler.means)

    def run(self) -> None:
        """All sections, one line each."""
        for section in (
            *(self.machine, self.driver_calls_us, self.clocks_after_load, self.host_costs, self.gap_of_a_replay),
            *(self.cold_by_copies, self.repeated, self.clocks_of_long_load, self.memory, self.library_plans_ms),
        ):
            begun = time.monotonic()
            try:
                found = section()
            except Exception as problem:  # the others go on
                found = {"failed": f"{type(problem).__name__}: {problem}"[:300]}
            took = round(time.monotonic() - begun, 2)
            print(json.dumps({"section": section.__name__, "took_s": took, **found}), flush=True)

    def machine(self) -> Found:
        return machine.for_the_record(self.facts)

    def driver_calls_us(self) -> Found:
        """Microseconds of each reading."""
        driver = self.known()
        return {
            "sm": per_call_us(lambda: driver.clock_mhz(nvml.SM)),
            "mem": per_call_us(lambda: driver.clock_mhz(nvml.MEMORY)),
            "power": per_call_us(driver.power_w),
            "temp": per_call_us(driver.temperature_c),
            "throttled": per_call_us(driver.throttled),
        }

    def clocks_after_load(self) -> Found:
        """The SM clock (MHz) under load, and after pauses."""
        driver = self.known()
        a, end = torch.randn(8192, 8192, device="cuda").to(torch.bfloat16), time.monotonic() + 0.5
        while time.monotonic() < end:
            for _ in range(10):
                torch.mm(a, a)
            torch.cuda.synchronize()
        found = {"loaded": driver.clock_mhz(nvml.SM)}
        for pause in PAUSES:
            time.sleep(pause)
            found[f"+{pause}"] = driver.clock_mhz(nvml.SM)
        return found

    def host_costs(self) -> Found:
        """Microseconds of the host: a launch, a node of a graph, the start and the end of a graph."""
        work = rotation(self.launches(gemm_row("bf16", 64, 1024, 1024), "gemm", 100))
        work.run()
        torch.cuda.synchronize()
        found: Found = {"launch_us": since(work.run) / 100}
        torch.cuda.synchronize()
        for rotations in (1, 10):
            begun = time.perf_counter()
            graph = self.timer.capture(work, rotations)
            nodes = 100 * rotations
            found[f"capture_us_a_node_of_{nodes}"] = round((time.perf_counter() - begun) / nodes * 1e6, 1)
            graph.replay()
            torch.cuda.synchronize()
            found[f"replay_us_of_{nodes}"] = since(graph.replay)
            torch.cuda.synchronize()
            found[f"reset_us_of_{nodes}"] = since(graph.reset)
        return found

    def gap_of_a_replay(self) -> Found:
        """Microseconds of an execution by how many there are in a replay."""
        work = rotation(self.launches(gemm_row("bf16", 1, 4096, 4096), "gemm", 6))
        times = {n: self.timer.graph(work, FULL, n).seconds for n in (1, 4, 16, 64)}
        return {f"us_of_{6 * rotations}": round(seconds * 1e6, 3) for rotations, seconds in times.items()}

    def cold_by_copies(self) -> Found:
        """Microseconds of rows by how often their operands fill the L2: where they stop to grow these are cold."""
        found: Found = {}
        rows = [("gemm", gemm_row("bf16", 1, 4096, 4096)), ("gemm", gemm_row("bf16", 16, 2048, 2048))]
        rows.append(("attention_decode", decode_row("bf16", 4, 2048, (32, 8, 128))))
        usual = measuring.COLD
        try:
            for table, row in rows:
                kernel = kernel_of(table, row)
                for times in COPIES:
                    measuring.COLD = times
                    measurer = self.measurer()
                    room = measurer.room(kernel.sizes(row))
                    problem = kernel.build(row, room)
                    timing, _ = measurer.tuner.best(kernel, row, room, problem.launches, rotation, skip={})
                    name = " ".join(str(value) for value in (table, *row.values()))
                    found[f"{name} x{times}"] = round(timing.seconds * 1e6, 3)
        finally:
            measuring.COLD = usual
        return found

    def repeated(self) -> Found:
        """A row measured six times."""
        measurer, task = self.measurer(), Task("gemm", gemm_row("bf16", 512, 4096, 4096))
        return {"us": [measurer.measure(task)["latency_us"] for _ in range(6)]}

    def clocks_of_long_load(self) -> Found:
        """A large matrix product over and over for 3 s."""
        a, b = (torch.randn(8192, 8192, device="cuda").to(torch.bfloat16) for _ in range(2))
        out = torch.empty_like(a)
        work = Work(lambda: torch.mm(a, b, out=out))
        end, times = time.monotonic() + 3.0, [self.timer.graph(work, BASELINE).seconds]
        while time.monotonic() < end:
            times.append(self.timer.graph(work, BASELINE).seconds)
        shown = times[:: max(1, len(times) // 12)]
        return {"us": [round(seconds * 1e6) for seconds in shown], "sm_mhz": self.known().clock_mhz(nvml.SM)}

    def memory(self) -> Found:
        """What it takes to get memory (a third of what is free) and to fill it."""
        torch.cuda.empty_cache()
        size = int(torch.cuda.mem_get_info()[0] // 3)
        begun = time.perf_counter()
        block = torch.empty(size, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        found: Found = {"bytes": size, "allocate_ms": round((time.perf_counter() - begun) * 1e3, 1)}
        del block
        found["free_ms"] = round(since(torch.cuda.empty_cache) / 1e3, 1)
        room = Room("cuda", self.facts["sms"], self.facts["capability"])
        for dtype in (torch.bfloat16, torch.float8_e4m3fn):
            begun = time.perf_counter()
            made = random(room, size // 8, dtype=dtype)
            torch.cuda.synchronize()
            rate = made.numel() * made.element_size() / (time.perf_counter() - begun)
            found[f"{dtype} TB/s"] = round(rate / 1e12, 3)
            del made
        torch.cuda.empty_cache()
        return found

    def library_plans_ms(self) -> Found:
        """Milliseconds of the first call of torch's attentions for a new length: cuDNN makes a plan for each."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        found: Found = {}
        for tokens in (512, 700, 900):
            q, k = (torch.randn(1, h, tokens, 128, device="cuda", dtype=torch.bfloat16) for h in (32, 8))
            for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
                torch.cuda.synchronize()
                begun = time.perf_counter()
                with sdpa_kernel(backend):
                    torch.nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
                torch.cuda.synchronize()
                found[f"{backend.name} {tokens}"] = round((time.perf_counter() - begun) * 1e3, 1)
        return found

    def known(self) -> nvml.Device:
        if self.driver is None:
            raise RuntimeError("NVML does not answer")
        return self.driver

    def measurer(self) -> Measurer:
        facts = self.facts
        return Measurer(
            self.timer, self.sampler, "cuda", facts["sms"], facts["capability"], facts["l2_bytes"], free_bytes
        )

    def launches(self, row: Row, table: str, copies: int) -> list[list[Launch]]:
        kernel, room = kernel_of(table, row), Room("cuda", self.facts["sms"], self.facts["capability"], copies)
        problem, config = kernel.build(row, room), kernel.configs(row, room)[0]
        return [list(problem.launches(copy, config)) for copy in range(copies)]


def free_bytes() -> float:
    """Of the GPU's memory, what torch holds and does not use included."""
    return float(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())


def since(function: Callable[[], object]) -> float:
    """Microseconds of the host that one call takes."""
    begun = time.perf_counter()
    function()
    return round((time.perf_counter() - begun) * 1e6, 1)


def per_call_us(function: Callable[[], object], count: int = 20) -> float:
    """Microseconds of a call, in the mean of some."""
    function()
    begun = time.perf_counter()
    for _ in range(count):
        function()
    return round((time.perf_counter() - begun) / count * 1e6, 1)


def main() -> int:
    machine.in_pci_order()
    try:
        machine.gpu()
    except machine.NoGpu as problem:
        print(f"probe: {problem}", file=sys.stderr)
        return 2
    Probe().run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
