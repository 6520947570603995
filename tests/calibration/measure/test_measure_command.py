"""`kinesim calibrate measure` and `python -m calibration.measure`: plans printed, bad input, what a run comes to.

The session itself is replaced: it has tests of its own. The rows that the replacement writes are made up here.
"""

from __future__ import annotations

import errno
import json
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from calibration import measurecommand
from calibration.measure import goals, session
from calibration.measure.__main__ import main
from calibration.measure.figures import Driver, load_figures
from calibration.measure.folder import Folder
from calibration.measure.plan import plan
from calibration.measure.session import Summary
from calibration.measure.task import MEASURED, SHAPES, Task
from calibration.measurecommand import measure
from hwspecs.errors import InputError

MIB = 2.0**20
H200 = Driver("NVIDIA H200", 132, 90, 60 * MIB, 143_167 * MIB, 4.8e12, 1.98e9, 700.0, "590.1")
OTHER = Driver("NVIDIA H100 PCIe", 114, 90, 50 * MIB, 81_079 * MIB, 2.04e12, 1.755e9, 350.0, "590.1")


def run(*arguments: str, module: str = "calibration.measure") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurecommand, "find_driver", lambda: (None, "no NVIDIA driver is installed here"))
    monkeypatch.setattr(measurecommand, "_check_software", lambda: None)


def machine_with(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A machine with this GPU, whose session measures the first 60 tasks with made-up times. Returns its calls."""
    calls: list[dict[str, Any]] = []

    def measured(tasks: Sequence[Task], folder: Path, *, gpu: str, limit: float | None, **options: Any) -> Summary:
        calls.append({"tasks": list(tasks), "gpu": gpu, "limit": limit, **options})
        summary = Summary(ended="limit", seconds=61.0)
        with Folder(folder, gpu) as kept:
            kept.begin({})
            for task in tasks[:60]:
                if task.key in kept.done:
                    summary.before += 1
                elif task.table == "moe":
                    kept.fail(task, "made to fail")
                    summary.failed[task.file] += 1
                else:
                    slow = {"baseline": "torch.matmul", "baseline_us": 9.0} if task.table == "gemm" else {}
                    kept.add(task, {"latency_us": 10.0, "l2": task.l2, **slow})
                    summary.measured[task.file] += 1
        summary.left = len(tasks) - 60
        return summary

    monkeypatch.setattr(measurecommand, "find_driver", lambda: (driver, ""))
    monkeypatch.setattr(measurecommand, "_check_software", lambda: None)
    monkeypatch.setattr(session, "measure", measured)
    return calls


def test_a_dry_run_prints_the_plan(capsys: pytest.CaptureFixture[str], no_gpu: None) -> None:
    measure(dry_run=True, gpu="b200-sxm", minutes=3)
    text = capsys.readouterr().out
    assert text.startswith("Plan useful for b200-sxm\nNVIDIA B200 SXM 180 GB, 148 SMs of sm_100")
    for words in ("gemm", "attention_prefill", "layer", "3 min", "m=8192 n=8192 k=8192", "estimates", "--out"):
        assert words in text
    assert "A limit of 3 min leaves" in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_the_plan_as_json_is_the_plan(capsys: pytest.CaptureFixture[str], no_gpu: None) -> None:
    measure(dry_run=True, gpu="h200-sxm", only=["gemm,moe", "launch"], as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "kinesim-measure-plan/1" and document["measurements"] == len(document["tasks"])
    assert {task["file"].split("-")[0] for task in document["tasks"]} == {"gemm", "moe", "launch"}
    tasks = plan(load_figures("h200-sxm"), only=["gemm", "moe", "launch"])
    assert [task["row"] for task in document["tasks"]] == [dict(task.row) for task in tasks]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ("nothing to measure", "--dry-run --gpu NAME")),
        ({"dry_run": True}, ("no GPU to plan for", "h200-sxm")),
        ({"dry_run": True, "gpu": "h200"}, ("unknown GPU", "did you mean h200-sxm")),
        ({"dry_run": True, "gpu": "./none.yaml"}, ("no such file",)),
        ({"dry_run": True, "gpu": "mi300x"}, ("NVIDIA",)),
        ({"gpu": "h200-sxm", "only": ["gem"]}, ("unknown table", "did you mean gemm")),
        ({"kind": "ful"}, ("unknown plan", "did you mean full")),
        ({"minutes": 0.0}, ("not a time limit",)),
        ({"minutes": float("nan")}, ("not a time limit",)),
    ],
)
def test_bad_input(options: dict[str, Any], words: tuple[str, ...], no_gpu: None) -> None:
    with pytest.raises(InputError) as caught:
        measure(**options)
    assert all(word in caught.value.message() for word in words), caught.value.message()


def test_without_torch_or_triton_the_plan_still_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measurecommand.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"measuring needs torch and triton.*\[gpu\]"):
        measure()
    measure(dry_run=True, gpu="h200-sxm", only=["launch"])
    assert "Plan useful" in capsys.readouterr().out


def test_a_dry_run_on_a_machine_with_a_gpu_asks_the_driver(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine_with(H200, monkeypatch)
    measure(dry_run=True)
    assert "Plan useful for h200-sxm" in capsys.readouterr().out
    machine_with(OTHER, monkeypatch)
    measure(dry_run=True)
    assert "h100-pcie" in (text := capsys.readouterr().out) and "peaks guessed" in text


def test_the_gpu_that_is_named_must_be_the_one_that_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = machine_with(H200, monkeypatch)
    with pytest.raises(InputError, match=r"not the GPU of this machine.*H200 has 132 SMs"):
        measure(gpu="b200-sxm", out=tmp_path)
    assert not calls
    mine = tmp_path / "h200-mine.yaml"
    mine.write_text("base: h200-sxm\npower: {tdp: 500 W}\n")
    measure(gpu=str(mine), out=tmp_path / "out")
    assert calls[0]["gpu"] == "h200-mine"


def test_a_run_its_summary_and_going_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = machine_with(H200, monkeypatch)
    measure(out=tmp_path / "m", seed=3)
    first = calls[0]
    assert (first["gpu"], first["limit"], first["plan"], first["seed"]) == ("h200-sxm", 480.0, "useful", 3)
    text = capsys.readouterr().out
    assert first["log"] == tmp_path / "m" / "worker.log"
    assert "measured in 1:01, the time is spent" in text and "the same command goes on" in text
    assert "failures.csv" in text
    assert "gemm of torch.matmul" in text and "90.0%" in text and "reached" in text
    assert f"kinesim calibrate fit {tmp_path}/m/gemm.csv" in text

    measure(dry_run=True, gpu="h200-sxm", out=tmp_path / "m", seed=3, as_json=True)
    rest = json.loads(capsys.readouterr().out)
    assert rest["already_measured"] == sum(goals.counts(tmp_path / "m").values()) > 40
    measure(out=tmp_path / "m", seed=3, minutes=2.0, as_json=True)
    assert calls[1]["limit"] == 120.0 and [t.key for t in calls[1]["tasks"]] == [t.key for t in first["tasks"]]
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "kinesim-measure/1" and document["ended"] == "limit"
    assert sum(document["tables"].values()) >= rest["already_measured"]


def test_the_folder_is_read_once_however_many_rows_are_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time for it comes before the limit is counted, and a full plan has thousands of rows."""
    machine_with(H200, monkeypatch)
    read, original = [], measurecommand.keys_of
    monkeypatch.setattr(measurecommand, "keys_of", lambda file, gpu: (read.append(file.name), original(file, gpu))[1])
    measure(out=tmp_path)
    capsys.readouterr()
    assert read and len(read) == len(set(read))


def test_a_row_of_a_check_is_never_measured_to_fit_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = plan(load_figures("h200-sxm"))
    rows = [t for t in tasks if t.file == "gemm"][:20]
    with Folder(tmp_path, "h200-sxm") as kept:
        for task in rows:  # as if another seed had drawn them
            kept.add(Task(task.table, task.row, task.kernel, "gemm-check"), {"latency_us": 1.0, "l2": "cold"})
    calls = machine_with(H200, monkeypatch)
    measure(out=tmp_path)
    capsys.readouterr()
    assert not {t.key for t in rows} & {t.key for t in calls[0]["tasks"]}


def test_an_unknown_gpu_gets_a_draft_and_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = machine_with(OTHER, monkeypatch)
    monkeypatch.chdir(tmp_path)
    measure(minutes=1.0)
    told = capsys.readouterr()
    assert calls[0]["gpu"] == "h100-pcie" and calls[0]["limit"] == 60.0
    draft = Path("measurements/h100-pcie/h100-pcie.yaml")
    assert draft.exists() and str(draft) in told.err and "peak" in told.err
    assert "put it into hwspecs/gpus" in told.out
    assert "read from HBM" not in told.out, "no goals against guessed bandwidths"


@pytest.mark.parametrize(("ended", "error"), [("interrupted", KeyboardInterrupt), ("crashes", SystemExit)])
def test_a_run_that_was_stopped_says_so(
    ended: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine_with(H200, monkeypatch)
    monkeypatch.setattr(session, "measure", lambda *a, **k: Summary(Counter(), Counter(), ended=ended, message="why"))
    with pytest.raises(error):
        measure(out=tmp_path)


def test_no_room_for_the_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One message, with the file; what else the system refuses is no fault of the user's."""
    machine_with(H200, monkeypatch)

    def full(*arguments: Any, **options: Any) -> Summary:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "gemm.csv"))

    monkeypatch.setattr(session, "measure", full)
    with pytest.raises(InputError, match=r"gemm.csv: cannot be written \(No space left on device\)"):
        measure(out=tmp_path)
    with pytest.raises(OSError, match="No space left") as problem:
        measure(out=tmp_path / "elsewhere")
    assert not isinstance(problem.value, InputError)


def test_ctrl_c_while_planning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*arguments: Any, **options: Any) -> list[Task]:
        raise KeyboardInterrupt

    monkeypatch.setattr(measurecommand, "plan", stopped)
    assert main(["--dry-run", "--gpu", "h200-sxm"]) == 130
    assert capsys.readouterr().err == "kinesim: interrupted\n"


def test_a_pipe_that_is_closed_early() -> None:
    command = [sys.executable, "-m", "calibration.measure", "--dry-run", "--gpu", "h200-sxm", "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(10).startswith("{")
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait(60) == -signal.SIGPIPE


def test_commands_for_a_folder_with_a_blank(tmp_path: Path) -> None:
    folder = tmp_path / "my gpu"
    with Folder(folder, "h200-sxm") as kept:
        for task in [task for task in plan(load_figures("h200-sxm")) if task.table == "gemm"][:20]:
            kept.add(task, {"latency_us": 5.0})
    for command in goals.next_commands(folder, "h200-sxm"):
        assert str(folder / "gemm") in " ".join(shlex.split(command)) and f"'{folder}'" in command


def test_goals_are_read_from_the_tables(tmp_path: Path) -> None:
    figures = load_figures("h200-sxm")
    assert goals.goals(tmp_path, figures) == [] and goals.next_commands(tmp_path, "h200-sxm") == []
    with Folder(tmp_path, "h200-sxm") as kept:
        for task in plan(figures)[:12]:
            if task.row.get("op") == "read":  # at exactly half of the peak
                moved = int(task.row["rows"]) * int(task.row["row_bytes"])
                kept.add(task, {"latency_us": moved / 2.4e12 * 1e6, "l2": "warm"})
            if task.table == "attention_decode":
                moved = 64 * 32_768 * 2 * 8 * 128 * 2
                kept.add(task, {"latency_us": moved / (0.9 * 4.8e12) * 1e6, "l2": "cold"})
            if task.table == "attention_prefill":
                values = {"latency_us": 100.0, "baseline": "sdpa", "baseline_us": 50.0, "l2": "cold"}
                kept.add(task, values)
    found = {goal.what: goal for goal in goals.goals(tmp_path, figures)}
    assert found["read from HBM"].found == pytest.approx(0.5) and not found["read from HBM"].reached
    decode = found["decode attention of HBM's peak"]
    assert decode.found == pytest.approx(0.9, rel=0.01) and decode.reached
    assert found["attention_prefill of sdpa"].found == pytest.approx(0.5)


def test_the_page_names_all_tables_and_columns() -> None:
    page = (Path(__file__).parents[3] / "docs" / "microbenchmarks.md").read_text(encoding="utf-8")
    for table, columns in SHAPES.items():
        assert f"{table}" in page
        if table not in ("gemm", "attention_decode", "attention_prefill", "moe", "collective"):  # kernel-tables.md
            line = next(line for line in page.splitlines() if line.startswith(f"| {table} |"))
            assert all(column in line for column in columns)
    assert all(f"`{column}`" in page for column in MEASURED if column != "kernel")


def test_both_doors(tmp_path: Path) -> None:
    plain = run("--dry-run", "--gpu", "h200-sxm", "--only", "launch", "--format", "json")
    typer = run(
        *("calibrate", "measure", "--dry-run", "--gpu", "h200-sxm", "--only", "launch", "--format", "json"),
        module="simulator",
    )
    assert plain.returncode == typer.returncode == 0, plain.stderr + typer.stderr
    assert plain.stdout == typer.stdout
    for answer in (run("--dry-run", "--gpu", "x"), run("calibrate", "measure", "--plan", "x", module="simulator")):
        assert answer.returncode == 2
        assert answer.stderr.count("\n") == 1 and answer.stderr.startswith("kinesim: ")


def test_the_probe_without_a_gpu() -> None:
    done = run(module="calibration.measure.probe")
    if done.returncode == 0:
        pytest.skip("there is a GPU here")
    assert done.returncode == 2 and done.stderr.startswith("probe: ") and "Traceback" not in done.stderr
