"""The process that measures, and those that compile ahead of it.

    python -m calibration.measure.worker --device cuda|cpu
    python -m calibration.measure.worker --compile --capability 90 --sms 132

Reads one JSON object a line on stdin, `{"task": ..., "skip": {configuration: why}}`, and answers each with one on
stdout: `{"key", "ok", "seconds"}` with `values` (columns of the row) or, if not `ok`, `failure`; a compiling process
answers with `skip`, the configurations that do not compile. Before that it says `{"trying": configuration}`, so that it
is known what it was that killed it. The first line on stdout says that it is ready. Ends at the
end of stdin. Everything else that anybody prints goes to stderr.

With `--device cpu` kernels run in Triton's interpreter and times are the host's: for tests of the harness.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from calibration.measure import machine, nvml
from calibration.measure.task import Task

LOST = 3
"""Exit code after the GPU's context was lost: the task has been answered, a new worker can go on."""
KEPT = 0.25
"""Share of the memory that torch may keep between tasks; beyond that fragments would be in a large problem's way."""

WAKE_SECONDS, AWAKE = 0.5, 0.8
"""How long a GPU is given to leave its idle clocks, and the share of its highest clock at which it has."""
IDLE_SECONDS = 0.3
"""After so long without a task the clocks may be idle again."""

Answer = dict[str, Any]


def own_stdout() -> TextIO:
    """The real stdout, for answers alone; what others print to stdout goes to stderr from now on."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def die_with_parent() -> None:
    """A worker must not go on using the GPU when the session was killed (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def requests(source: TextIO) -> Iterator[tuple[Task, Mapping[str, str]]]:
    for line in source:
        if line.strip():
            request = json.loads(line)
            yield Task(**request["task"]), request.get("skip") or {}


def compiler(capability: int, sms: int) -> Callable[[Task, Mapping[str, str]], Answer]:
    """Compile all that a task may launch, into Triton's cache, where the measuring worker finds it."""
    from calibration.kernels.base import Room
    from calibration.kernels.catalogue import kernel_of
    from calibration.kernels.target import compile_for, compile_launcher
    from calibration.measure.tuning import config_key, in_words, tell

    compile_for(capability)
    room = Room("meta", sms, capability)
    linked: set[str] | None = set()  # kernels whose launcher is compiled; None: it cannot be here

    def prepare(compiled: Any) -> None:
        nonlocal linked
        if linked is None or compiled.hash in linked:
            return
        linked.add(compiled.hash)
        try:
            compile_launcher(compiled)
        except Exception as problem:  # the measuring process will do it, or say what is wrong
            linked = None
            tell([f"launchers are not compiled ahead: {in_words(problem)}"])

    def compile_task(task: Task, skip: Mapping[str, str]) -> Answer:
        if task.table == "collective":
            return {"skip": {}}
        if task.table in ("layer", "kinetics"):
            from calibration.measure.layers import build_layer

            parts = [(o.kernel, o.configs, o.launches) for o in build_layer(task.row, room).operators]
        else:
            kernel = kernel_of(task.table, task.row)
            parts = [(kernel, kernel.configs(task.row, room), kernel.build(task.row, room).launches)]
        failed: dict[str, str] = {}
        for kernel, configs, launches in parts:
            for config in configs:
                try:
                    for launch in launches(0, config):
                        prepare(launch.compile())
                except Exception as problem:
                    failed[config_key(kernel, config)] = f"does not compile: {in_words(problem)}"
        return {"skip": failed}

    return compile_task


def measurer(device: str, seed: int, trying: Callable[[str], None]) -> Callable[[Task, Mapping[str, str]], Answer]:
    """Measure tasks on the GPU, or in the interpreter."""
    import torch

    from calibration.measure.measuring import Measurer
    from calibration.measure.timing import CudaTimer, HostTimer, Timer

    torch.set_grad_enabled(False)
    found = machine.facts(device)
    driver = nvml.Library().device(found["pci"]) if device == "cuda" else None
    sampler = nvml.Sampler(driver)

    def awake() -> bool:
        clock, highest = driver.clock_mhz(nvml.SM) if driver else None, found.get("max_sm_mhz")
        return bool(clock and highest and clock >= AWAKE * highest)

    timer: Timer
    if device == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream())
        timer = CudaTimer(sampler.sample, sampler.reset, sampler.means)
        wake(awake)
    else:
        timer = HostTimer(sampler.sample, sampler.reset, sampler.means)

    def free() -> float:
        if device != "cuda":
            return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
        return float(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())

    measuring = Measurer(
        timer, sampler, device, found["sms"], found["capability"], found["l2_bytes"], free, seed, trying
    )
    groups: dict[int, Any] = {}
    ended = time.monotonic()
    gc.collect()
    gc.freeze()  # what is imported stays: collections between tasks are then quick

    def measure_task(task: Task, skip: Mapping[str, str]) -> Answer:
        nonlocal ended
        if device == "cuda" and time.monotonic() - ended > IDLE_SECONDS and not awake():
            wake(awake)
        try:
            return measured(task, skip)
        finally:
            ended = time.monotonic()

    def measured(task: Task, skip: Mapping[str, str]) -> Answer:
        if task.table == "collective":
            from calibration.measure.ranks import Group

            gpus = int(task.row["gpus"])
            group = groups.pop(gpus, None) or Group(gpus, device)
            try:
                values = group.measure(task.row)
            except Exception:
                group.close()
                raise
            groups[gpus] = group
            return {"values": values}
        gc.collect()  # what the task before has left, an exception's frames included
        if device == "cuda" and torch.cuda.memory_reserved() > KEPT * found["memory_bytes"]:
            torch.cuda.empty_cache()
        return {"values": measuring.measure(task, skip)}

    return measure_task


def wake(awake: Callable[[], bool]) -> None:
    """Work until the GPU has left its idle clocks, or the first rows would be stable but slow."""
    import torch

    # not random: the generator of all may be unusable after a capture that failed
    numbers = torch.full((4096, 4096), 0.5, dtype=torch.bfloat16, device="cuda")
    end = time.monotonic() + WAKE_SECONDS
    while time.monotonic() < end:
        for _ in range(20):
            torch.mm(numbers, numbers)
        torch.cuda.synchronize()
        if awake():
            return


def serve(handle: Callable[[Task, Mapping[str, str]], Answer], answers: TextIO) -> int:
    """Answer requests until there are no more, or the GPU's context is lost."""
    from calibration.measure.tuning import DeviceLost, Failure, in_words, tell

    print(json.dumps({"ready": os.getpid()}), file=answers, flush=True)
    for task, skip in requests(sys.stdin):
        begun, lost = time.monotonic(), False
        answer: Answer
        tell([f"--- {task.key}"])
        try:
            answer = {"ok": True} | handle(task, skip)
        except Failure as problem:
            lost = isinstance(problem, DeviceLost)
            answer = {"ok": False, "failure": str(problem), "lost": lost}
        except Exception as problem:
            answer = {"ok": False, "failure": in_words(problem)}
        answer |= {"key": task.key, "seconds": round(time.monotonic() - begun, 3)}
        print(json.dumps(answer), file=answers, flush=True)
        if lost:
            return LOST
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m calibration.measure.worker", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="a GPU, or Triton's interpreter")
    parser.add_argument("--seed", type=int, default=0, help="of the operands")
    parser.add_argument("--compile", action="store_true", help="only compile, for the GPU that is described")
    parser.add_argument("--capability", type=int, default=90, help="of the GPU to compile for: 90, 100")
    parser.add_argument("--sms", type=int, default=132, help="streaming multiprocessors of the GPU to compile for")
    options = parser.parse_args(arguments)
    answers = own_stdout()
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the session ends its workers when it has their last row
    die_with_parent()
    machine.in_pci_order()
    interpreted = options.device == "cpu" and not options.compile
    os.environ["TRITON_INTERPRET"] = "1" if interpreted else "0"
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # as all versions up to 3.9 do
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # torch's attention by itself prefers cuDNN's on some GPUs, whose plan of each new shape takes 0.4 s to make
    os.environ.setdefault("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")

    def trying(what: str) -> None:
        print(json.dumps({"trying": what}), file=answers, flush=True)

    try:
        handle = (
            compiler(options.capability, options.sms)
            if options.compile
            else measurer(options.device, options.seed, trying)
        )
    except (machine.NoGpu, ImportError, RuntimeError) as problem:
        print(json.dumps({"refused": f"{type(problem).__name__}: {problem}"}), file=answers, flush=True)
        return 1
    return serve(handle, answers)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # taking down interpreter and CUDA in order would take seconds, and the GPU with it
