"""Sessions with real processes: rows are never lost and never twice, whatever dies, hangs, or is killed."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from calibration.measure import machine, nvml, session, supervisor
from calibration.measure.session import measure
from calibration.measure.summary import Summary
from calibration.measure.task import Task
from hwspecs.errors import InputError

FAKE = Path(__file__).parent / "fake_worker.py"
TORCH = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("triton") is not None
needs_torch = pytest.mark.skipif(not TORCH, reason="torch or triton is not installed: pip install 'kinesim[gpu]'")


def gemm(m: int, seconds: float = 0.01, file: str = "gemm") -> Task:
    return Task("gemm", {"dtype": "bf16", "m": m, "n": 1, "k": 1}, file=file, seconds=seconds)


def run(folder: Path, tasks: Sequence[Task], **options: Any) -> Summary:
    """A session with the fake worker."""
    command = [sys.executable, str(FAKE), str(folder.parent / "log")]
    said: list[str] = []
    options = {"device": "cpu", "worker_command": command, "report": lambda text, passing: said.append(text)} | options
    summary = measure(tasks, folder, gpu="cpu-interpreter", **options)
    summary.facts = {"said": said}
    return summary


def rows(folder: Path, file: str = "gemm") -> list[int]:
    """The column m, in the order of the lines."""
    path = folder / f"{file}.csv"
    if not path.exists():
        return []
    with open(path, newline="") as stream:
        return [int(row["m"]) for row in csv.DictReader(stream)]


def failures(folder: Path) -> dict[int, str]:
    with open(folder / "failures.csv", newline="") as stream:
        return {json.loads(row["row"])["m"]: row["what"] for row in csv.DictReader(stream)}


def log(folder: Path) -> list[tuple[int, int]]:
    """(process, m) of each task that a fake worker was given."""
    lines = (folder.parent / "log").read_text().splitlines()
    return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tables"


def test_all_is_measured_once_and_in_order(folder: Path) -> None:
    tasks = [gemm(3), gemm(1), gemm(2, file="gemm-check"), gemm(1)]
    summary = run(folder, tasks)
    assert summary.ended == "finished" and summary.measured == Counter({"gemm": 2, "gemm-check": 1})
    assert summary.left == 0 and not summary.message
    assert rows(folder) == [3, 1] and rows(folder, "gemm-check") == [2]
    assert [m for _, m in log(folder)] == [3, 1, 2] and len({pid for pid, _ in log(folder)}) == 1
    again = run(folder, [*tasks, gemm(7)])
    assert again.before == 3 and again.measured == Counter({"gemm": 1})
    assert rows(folder) == [3, 1, 7]
    machines = [json.loads(line) for line in (folder / "machine.jsonl").read_text().splitlines()]
    assert [line["run"] for line in machines] == [1, 2]
    assert {(line["gpu"], line["sms"]) for line in machines} == {("cpu-interpreter", 4)}


def test_nothing_to_do_starts_nothing(folder: Path) -> None:
    run(folder, [gemm(1)])
    started = len(log(folder))
    summary = run(folder, [gemm(1)])
    assert summary.before == 1 and summary.ended == "finished" and len(log(folder)) == started
    assert len((folder / "machine.jsonl").read_text().splitlines()) == 1


def test_failures_are_recorded_and_not_tried_again(folder: Path) -> None:
    tasks = [gemm(1), gemm(401), gemm(2), gemm(601)]
    summary = run(folder, tasks)
    assert summary.failed == Counter({"gemm": 2}) and rows(folder) == [1, 2] and summary.left == 0
    assert failures(folder) == {401: "cannot 401", 601: "no columns of gemm: colour"}
    assert run(folder, tasks).passed_over == 2
    retried = run(folder, tasks, retry=True)
    assert retried.failed == Counter({"gemm": 2}) and retried.passed_over == 0 and rows(folder) == [1, 2]


def test_a_worker_that_dies_is_replaced(folder: Path) -> None:
    summary = run(folder, [gemm(1), gemm(101), gemm(2), gemm(301), gemm(3)])
    assert summary.ended == "finished" and rows(folder) == [1, 2, 3]
    said = failures(folder)
    assert "it died of SIGSEGV; last words: Fatal Python error: Segmentation fault" in said[101]
    assert said[301] == "cannot 301"  # it answered before it went: the next task is given to a new worker
    assert len({pid for pid, _ in log(folder)}) == 3 and [m for _, m in log(folder)] == [1, 101, 2, 301, 3]


def test_three_crashes_in_a_row_are_enough(folder: Path) -> None:
    tasks = [gemm(1), gemm(101), gemm(102), gemm(301), gemm(2)]
    summary = run(folder, tasks)
    assert summary.ended == "crashes" and summary.left == 1 and rows(folder) == [1]
    assert summary.message.startswith("3 workers in a row have ended without a row, the last one so: cannot 301")
    assert run(folder, tasks).ended == "finished" and rows(folder) == [1, 2]


def test_a_worker_that_hangs_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = supervisor.Worker.give
    monkeypatch.setattr(supervisor.Worker, "give", lambda self, task, skip, seconds: original(self, task, skip, 1.0))
    summary = run(folder, [gemm(1), gemm(201), gemm(2)])
    assert rows(folder) == [1, 2] and summary.ended == "finished"
    assert "took longer than 1 s and was stopped" in failures(folder)[201]
    hung = next(pid for pid, m in log(folder) if m == 201)
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)


def test_what_kills_a_worker_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TASK_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "PART_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "COMPILE_SECONDS", 0.0)
    summary = run(folder, [gemm(m) for m in (1, 701, 702, 703, 701 + 10, 2)])
    assert summary.ended == "finished" and rows(folder) == [1, 701, 702, 703, 711, 2]
    assert not (folder / "failures.csv").exists()
    said = [text for text in summary.facts["said"] if text.startswith("left out")]
    assert len(said) == 4 and said[0].startswith("left out from now on: some kernel: number=701: the worker died: ")
    assert "cannot 702" in said[1] and "took longer than" in said[2]


def test_what_always_kills_its_worker_comes_to_an_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MOST_ENDS", 3)
    monkeypatch.setattr(supervisor, "MOST_CRASHES", 9)
    summary = run(folder, [gemm(m) for m in (1, 101, 102, 103, 2)])
    assert summary.ended == "crashes" and summary.left == 1 and rows(folder) == [1]


def test_a_worker_that_cannot_start(folder: Path) -> None:
    code = "import sys; print('no module named magic', file=sys.stderr); sys.exit(4)"
    with pytest.raises(InputError, match="does not start: it ended with exit code 4; last words: no module named mag"):
        run(folder, [gemm(1)], worker_command=[sys.executable, "-c", code])
    refused = 'print(\'{"refused": "no CUDA here"}\', flush=True)'
    with pytest.raises(InputError, match="cannot start: no CUDA here"):
        run(folder, [gemm(1)], worker_command=[sys.executable, "-c", refused])
    assert not (folder / ".lock").exists() and not (folder / "gemm.csv").exists()


def test_a_limit_is_kept_with_what_fits(folder: Path) -> None:
    begun = time.monotonic()
    tasks = [gemm(1), gemm(2, seconds=100.0), gemm(3), gemm(501, 1.0), gemm(502, 1.0), gemm(503, 1.0), gemm(504, 1.0)]
    summary = run(folder, tasks, limit=4.0)
    assert time.monotonic() - begun < 10
    assert summary.ended == "limit" and rows(folder)[:2] == [1, 3] and 2 not in rows(folder)
    assert 501 in rows(folder) and 504 not in rows(folder)
    assert summary.left == len(tasks) - len(rows(folder)) and "goes on where this one ended" in summary.message
    assert run(folder, tasks).ended == "finished"
    assert sorted(rows(folder)) == sorted(task.row["m"] for task in tasks)


def test_a_task_that_outlasts_the_limit_is_no_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE", 0.5)
    summary = run(folder, [gemm(1), gemm(201)], limit=1.5)
    assert summary.ended == "limit" and rows(folder) == [1] and not (folder / "failures.csv").exists()


def test_no_time_at_all(folder: Path) -> None:
    summary = run(folder, [gemm(1)], limit=0.0)
    assert summary.ended == "limit" and summary.left == 1 and rows(folder) == []


SESSION = """
import sys
from pathlib import Path
from calibration.measure.session import measure
from calibration.measure.task import Task
folder, fake, log = sys.argv[1:4]
command = [sys.executable, fake, log] if fake else None
tasks = [Task(**task) for task in eval(sys.argv[4])]
summary = measure(tasks, folder, gpu="cpu-interpreter", device="cpu", worker_command=command)
print(summary.ended, summary.left, summary.message)
"""


def start(folder: Path, tasks: Sequence[Task], fake: bool = True) -> subprocess.Popen[str]:
    """A session in a process of its own."""
    given = repr([json.loads(task.to_json()) for task in tasks])
    arguments = [str(folder), str(FAKE) if fake else "", str(folder.parent / "log"), given]
    environment = {**os.environ, "PYTHONPATH": str(Path(session.__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", SESSION, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def wait_for(folder: Path, file: str, count: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        path = folder / f"{file}.csv"
        if path.exists() and path.read_text().count("\n") > count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{file}.csv has not got {count} rows")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_finishes_the_row_in_hand(folder: Path, number: signal.Signals) -> None:
    tasks = [gemm(1), gemm(501), gemm(2)]
    process = start(folder, tasks)
    wait_for(folder, "gemm", 1)
    time.sleep(0.2)
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and said.startswith("interrupted 1 the same command goes on")
    assert rows(folder) == [1, 501] and not (folder / "failures.csv").exists()
    assert run(folder, tasks).measured == Counter({"gemm": 1})


def test_interrupted_twice_it_stops_at_once(folder: Path) -> None:
    process = start(folder, [gemm(1), gemm(201), gemm(2)])
    wait_for(folder, "gemm", 1)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert said.startswith("interrupted 2") and rows(folder) == [1] and not (folder / "failures.csv").exists()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@needs_torch
def test_killed_and_resumed_with_the_real_worker(folder: Path) -> None:
    """The whole of it, with kernels in Triton's interpreter: every row once, and no worker is left behind."""
    shape = {"dtype": "bf16", "row_bytes": 16_384, "q_heads": 0, "kv_heads": 0, "head_dim": 0}
    tasks = [
        Task("elementwise", {"op": op, "rows": count, **shape}, l2="warm")
        for count in (1, 2, 3, 4)
        for op in ("read", "write", "copy")
    ]
    tasks.insert(2, Task("launch", {"mode": "graph", "launches": 4}, l2="warm"))
    tasks.insert(5, Task("elementwise", {"op": "knit", "rows": 1, **shape}, l2="warm"))
    process = start(folder, tasks, fake=False)
    wait_for(folder, "elementwise", 4)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert children
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while any(alive(pid) for pid in children) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in children)
    with open(folder / "elementwise.csv", "a") as torn:
        torn.write("cpu-interpreter,triton,tri")
    summary = measure(tasks, folder, gpu="cpu-interpreter", device="cpu", report=lambda text, passing: None)
    assert summary.ended == "finished" and summary.before >= 4 and summary.left == 0
    with open(folder / "elementwise.csv", newline="") as stream:
        found = list(csv.DictReader(stream))
    shapes = Counter((row["op"], int(row["rows"])) for row in found)
    assert shapes == Counter(
        (task.row["op"], task.row["rows"])
        for task in tasks
        if task.row.get("op") != "knit" and task.table == "elementwise"
    )
    assert all(float(row["latency_us"]) > 0 and float(row["low_us"]) <= float(row["high_us"]) for row in found)
    assert {row["baseline"] for row in found if row["op"] == "copy"} == {"torch copy_"}
    assert {row["l2"] for row in found} == {"warm"} and {row["gpu"] for row in found} == {"cpu-interpreter"}
    with open(folder / "failures.csv", newline="") as stream:
        assert "no kernel measures this row" in next(csv.DictReader(stream))["what"]


@needs_torch
def test_compiled_ahead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task is measured once it is compiled: the fake worker, with a real compiler for a GPU that is not here."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder.parent / "cache"))
    shape = {"dtype": "bf16", "rows": 8, "row_bytes": 16_384, "q_heads": 0, "kv_heads": 0, "head_dim": 0}
    tasks = [Task("elementwise", {"op": op, **shape}, l2="warm") for op in ("copy", "knit", "read")]
    launches = [Task("launch", {"mode": mode, "launches": 1}, l2="warm") for mode in ("stream", "graph")]
    summary = run(folder, [*launches, *tasks], compilers=1)
    assert summary.ended == "finished" and summary.measured == Counter({"elementwise": 3, "launch": 2})
    with open(folder / "launch.csv", newline="") as stream:
        # what the host is measured by has to wait until nothing is compiled any more
        assert [row["mode"] for row in csv.DictReader(stream)] == ["graph", "stream"]
    names = {file.name for file in (folder.parent / "cache").rglob("*.cubin")}
    assert names == {"copy_kernel.cubin", "read_kernel.cubin", "empty_kernel.cubin"}


@needs_torch
def test_meta_tensors_and_real_ones_share_compiled_kernels() -> None:
    """What is compiled ahead is found by its hash: it must not depend on where the operands are."""
    code = """
import os, torch
from calibration.kernels.base import Room
from calibration.kernels.stream import STREAM
from calibration.kernels.target import compile_for
compile_for(90)
for row in (dict(row, rows=rows) for row, _ in STREAM.compile_rows for rows in (16, 1000)):
    found = []
    for device, copies in (("meta", 1), ("cpu", 3)):
        room = Room(device, 132, 90, copies)
        problem = STREAM.build(row, room)
        config = STREAM.configs(row, room)[0]
        found.append([launch.compile().hash for launch in problem.launches(0, config)])
    assert found[0] == found[1], (row, found)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(session.__file__).parents[2]), "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@needs_torch
@pytest.mark.parametrize("works", [True, False])
def test_launchers_are_compiled_ahead_where_they_can_be(works: bool) -> None:
    """Triton 3.6 compiles C code for every signature when it first launches; other versions have nothing of it."""
    code = f"""
from triton.backends.nvidia import driver as nvidia
from calibration.measure.task import Task
from calibration.measure.worker import compiler
made = []
class Launcher:
    def __init__(self, src, metadata):
        made.append(metadata.name)
        if not {works}:
            raise RuntimeError("Failed to find C compiler")
nvidia.make_launcher, nvidia.CudaLauncher = None, Launcher
handle = compiler(90, 132)
tasks = [Task("launch", {{"mode": mode, "launches": 1}}, l2="warm") for mode in ("graph", "stream")]
shape = {{"dtype": "bf16", "rows": 8, "row_bytes": 16384, "q_heads": 0, "kv_heads": 0, "head_dim": 0}}
tasks.append(Task("elementwise", {{"op": "write", **shape}}, l2="warm"))
assert all(handle(task, {{}}) == {{"skip": {{}}}} for task in tasks)
assert made[0] == "empty_kernel" and made.count("empty_kernel") == 1, made
assert ("write_kernel" in made) is {works}, made
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(session.__file__).parents[2]), "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("launchers are not compiled ahead: RuntimeError: Failed to find C compiler") == (not works)


@needs_torch
def test_two_ranks_with_gloo(folder: Path) -> None:
    operations = ("all_reduce", "all_gather", "reduce_scatter", "alltoall")
    tasks = [Task("collective", {"op": op, "dtype": "fp16", "gpus": 2, "bytes": 4096}, l2="warm") for op in operations]
    tasks.append(Task("collective", {"op": "all_reduce", "dtype": "bf16", "gpus": 2, "bytes": 6}, l2="warm"))
    summary = measure(tasks, folder, gpu="cpu-interpreter", device="cpu", report=lambda text, passing: None)
    assert summary.measured == Counter({"collective": 5}) and not summary.failed
    with open(folder / "collective.csv", newline="") as stream:
        found = list(csv.DictReader(stream))
    assert {row["config"] for row in found} == {"gloo"} and all(float(row["latency_us"]) > 0 for row in found)


def test_a_busy_gpu_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {**machine.INTERPRETER, "name": "Some GPU", "pci": "0000:00:00.0"}
    monkeypatch.setattr(machine, "facts", lambda device: facts)
    monkeypatch.setattr(nvml.Library, "device", lambda self, which: object())
    monkeypatch.setattr(nvml, "busy", lambda device: "other processes compute on it: 17 (train)")
    with pytest.raises(InputError, match=r"the GPU \(Some GPU\) is busy: .* 17 \(train\); allowed: .*--force"):
        run(folder, [gemm(1)], device="cuda", compilers=0)
    assert not (folder / "machine.jsonl").exists()
    summary = run(folder, [gemm(1)], device="cuda", compilers=0, force=True)
    assert summary.measured == Counter({"gemm": 1})
    assert any("measured all the same" in text for text in summary.facts["said"])
    assert "pci" not in json.loads((folder / "machine.jsonl").read_text())


def test_no_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(device: str) -> None:
        raise machine.NoGpu("no NVIDIA driver is installed here")

    monkeypatch.setattr(machine, "facts", none)
    with pytest.raises(InputError, match="there is no GPU to measure: no NVIDIA driver is installed here"):
        run(folder, [gemm(1)], device="cuda")
    assert not folder.exists()
