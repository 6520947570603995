"""Collectives measured: one process a GPU, started once for each number of GPUs and kept.

    python -m calibration.measure.ranks --rank 0 --world 2 --store FILE --device cuda|cpu

Each rank reads one row a line on stdin; rank 0 answers on stdout. All ranks take every decision (how many executions,
how many replays) from numbers that they agreed on, or they would wait for each other for ever.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from calibration.kernels.collective import build
from calibration.measure.timing import CudaTimer, HostTimer, Work, summarise
from calibration.measure.tuning import Failure, in_words
from calibration.measure.worker import die_with_parent, own_stdout

REPLAY_SECONDS = 1e-3
MOST_EXECUTIONS = 200
REPLAYS = 15


class Group:
    """The ranks of `gpus` GPUs (or of as many processes on the CPU, with gloo, for tests)."""

    def __init__(self, gpus: int, device: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kinesim-ranks-")
        command = [sys.executable, "-m", "calibration.measure.ranks", "--world", str(gpus), "--device", device]
        command += ["--store", str(Path(self._folder.name) / "store")]
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (open as long as the ranks are)
        self._ranks = [
            subprocess.Popen(
                [*command, "--rank", str(rank)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if rank == 0 else self._log,
                stderr=self._log,
                text=True,
            )
            for rank in range(gpus)
        ]

    def measure(self, row: Any) -> dict[str, Any]:
        """The measured columns of a row of `collective`. Raises Failure; the group is of no use after one."""
        try:
            for rank in self._ranks:
                assert rank.stdin is not None
                print(json.dumps(dict(row)), file=rank.stdin, flush=True)
            assert self._ranks[0].stdout is not None
            line = self._ranks[0].stdout.readline()
        except OSError:
            line = ""
        if not line:
            self._log.seek(0)
            said = [text.strip() for text in self._log.read().splitlines() if text.strip()]
            raise Failure(f"the ranks ended: {(said or ['without a word'])[-1][:300]}")
        answer: dict[str, Any] = json.loads(line)
        if "failure" in answer:
            raise Failure(answer["failure"])
        return answer

    def close(self) -> None:
        for rank in self._ranks:
            rank.kill()
            rank.wait()
        self._folder.cleanup()


def measure(row: Any, rank: int, device: str) -> dict[str, Any]:
    """One row, by every rank at once; the slowest rank of each replay counts. Raises Failure."""
    collective = build(row, rank, device)
    collective.fill()
    collective.run()
    wrong = torch.tensor([float(not torch.equal(collective.output, collective.expected))], device=device)
    dist.all_reduce(wrong)
    if wrong.item() > 0:
        raise Failure(f"wrong result on {wrong.item():.0f} ranks")
    timer = CudaTimer() if device == "cuda" else HostTimer()

    def run() -> None:
        collective.run()

    alone = Work(run)

    def slowest(seconds: list[float]) -> list[float]:
        agreed = torch.tensor(seconds, dtype=torch.float32, device=device)
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        return [float(value) for value in agreed.tolist()]

    once = slowest([timer.once(alone)])[0]
    count = max(1, min(MOST_EXECUTIONS, math.ceil(REPLAY_SECONDS / max(once, 1e-9))))
    replay: Callable[[], None]
    if isinstance(timer, CudaTimer):
        graph = timer.capture(alone, count)
        replay = graph.replay
    else:

        def replay() -> None:
            for _ in range(count):
                run()

    slowest(timer.replays(replay, 3))  # warm-up
    timing = summarise(slowest(timer.replays(replay, REPLAYS)), 1, Work(run, count))
    return {
        "latency_us": float(f"{timing.seconds * 1e6:.5g}"),
        "low_us": float(f"{timing.low * 1e6:.5g}"),
        "high_us": float(f"{timing.high * 1e6:.5g}"),
        "reps": timing.reps,
        "outliers": timing.outliers,
        "config": torch_backend(device),
    }


def torch_backend(device: str) -> str:
    """The library that runs the collectives, with its version."""
    if device != "cuda":
        return "gloo"
    return "nccl " + ".".join(str(part) for part in torch.cuda.nccl.version())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m calibration.measure.ranks", description=__doc__.split("\n")[0])
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world", type=int, required=True)
    parser.add_argument("--store", required=True, help="a file that all ranks can reach, for them to meet")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args(arguments)
    answers = own_stdout()
    die_with_parent()
    if options.device == "cuda":
        torch.cuda.set_device(options.rank)
        torch.cuda.set_stream(torch.cuda.Stream())
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "nccl" if options.device == "cuda" else "gloo",
        init_method=f"file://{options.store}",
        rank=options.rank,
        world_size=options.world,
    )
    for line in sys.stdin:
        begun = time.monotonic()
        try:
            answer = measure(json.loads(line), options.rank, options.device)
        except Failure as problem:  # on all ranks alike: they go on together
            answer = {"failure": str(problem)}
        except Exception as problem:
            print(f"rank {options.rank}: {in_words(problem)} after {time.monotonic() - begun:.1f} s", file=sys.stderr)
            return 1
        if options.rank == 0:
            print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
