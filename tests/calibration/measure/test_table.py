"""The folder of tables: what is written survives, what is torn is repaired, what is not ours is refused."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from calibration.measure.figures import load_figures
from calibration.measure.folder import Folder
from calibration.measure.plan import plan
from calibration.measure.tablefiles import files_of, line_of, read_rows, repair, table_of
from calibration.measure.task import SHAPES, Task, header
from hwspecs.errors import InputError

GEMM = {"dtype": "bf16", "m": 64, "n": 4096, "k": 1024}


def gemm(m: int, file: str = "gemm", kernel: str = "triton") -> Task:
    return Task("gemm", {**GEMM, "m": m}, kernel=kernel, file=file)


def write(folder: Path, *tasks: Task) -> None:
    with Folder(folder, "some-gpu") as kept:
        kept.begin({"driver": "1.2"})
        for task in tasks:
            kept.add(task, {"latency_us": 12.5, "reps": 7, "config": "M=16, N=32"})


def lines(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def test_rows_are_read_back(tmp_path: Path) -> None:
    tasks = [gemm(1), gemm(2), gemm(1, file="gemm-check"), gemm(1, file="gemm-warm", kernel="triton_warm")]
    write(tmp_path, *tasks[:2])
    write(tmp_path, *tasks[2:])
    with Folder(tmp_path, "some-gpu") as kept:
        assert kept.done == {task.key for task in tasks}
        assert kept.run == 2
    row = lines(tmp_path / "gemm.csv")[0]
    assert tuple(row) == header("gemm")
    assert row["gpu"] == "some-gpu" and row["software"] == "triton" and row["kernel"] == "triton"
    assert row["m"] == "1" and row["latency_us"] == "12.5" and row["config"] == "M=16, N=32"
    assert row["run"] == "1" and row["date"].endswith("Z") and row["baseline"] == "" and row["l2"] == "cold"
    assert [line["run"] for line in lines(tmp_path / "gemm-check.csv")] == ["2"]
    machines = [json.loads(line) for line in (tmp_path / "machine.jsonl").read_text().splitlines()]
    assert [machine["run"] for machine in machines] == [1, 2]
    assert machines[0]["driver"] == "1.2" and machines[0]["gpu"] == "some-gpu"


def test_extra_parts_of_a_row_are_not_written(tmp_path: Path) -> None:
    shape = {"dtype": "bf16", "kv_dtype": "bf16", "batch": 1, "context_len": 1024, "q_heads": 32, "kv_heads": 8}
    task = Task("attention_decode", {**shape, "head_dim": 128, "window": 0, "gather": 1}, kernel="triton_gather")
    write(tmp_path, task)
    assert "gather" not in lines(tmp_path / "attention_decode.csv")[0]
    with Folder(tmp_path, "some-gpu") as kept:
        assert kept.done == {task.key}


def test_every_table_has_its_schema_first() -> None:
    assert set(SHAPES) >= {"gemm", "attention_decode", "layer", "kinetics"}
    for table, shape in SHAPES.items():
        columns = header(table)
        assert columns[: 3 + len(shape)] == ("gpu", "software", "kernel", *shape)
        assert len(set(columns)) == len(columns) and "power_w" not in columns


@pytest.mark.parametrize("torn", ["some-gpu,triton,trit", "a", "\0" * 40 + "\n", "1,2,3\n"])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, gemm(1), gemm(2))
    file = tmp_path / "gemm.csv"
    whole = file.read_text()
    file.write_text(whole + torn)
    with Folder(tmp_path, "some-gpu") as kept:
        assert kept.done == {gemm(1).key, gemm(2).key}
    said = capsys.readouterr()
    assert "incomplete" in said.err and said.out == ""
    assert file.read_text() == whole
    write(tmp_path, gemm(3))
    assert [row["m"] for row in lines(file)] == ["1", "2", "3"]


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_file_cut_anywhere_is_repaired(tmp_path: Path, cut: int) -> None:
    write(tmp_path, gemm(1), gemm(2))
    file = tmp_path / "gemm.csv"
    file.write_bytes(file.read_bytes()[:-cut])
    write(tmp_path, gemm(2))
    rows = lines(file)
    assert [row["m"] for row in rows] == ["1", "2"] and all(row["latency_us"] == "12.5" for row in rows)


def test_a_torn_header_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "gemm.csv").write_text("gpu,softw")
    write(tmp_path, gemm(1))
    assert [row["m"] for row in lines(tmp_path / "gemm.csv")] == ["1"]


def test_a_torn_record_of_the_machine_is_cut_off(tmp_path: Path) -> None:
    write(tmp_path, gemm(1))
    with open(tmp_path / "machine.jsonl", "a") as stream:
        stream.write('{"run": 2, "da')
    write(tmp_path, gemm(2))
    machines = [json.loads(line) for line in (tmp_path / "machine.jsonl").read_text().splitlines()]
    assert [machine["run"] for machine in machines] == [1, 2]


def test_failures_are_remembered(tmp_path: Path) -> None:
    with Folder(tmp_path, "some-gpu") as kept:
        kept.fail(gemm(4), 'out of memory:\nneeds "3", has 2')
    with Folder(tmp_path, "some-gpu") as kept:
        assert kept.failed == {gemm(4).key} and not kept.done
    (row,) = lines(tmp_path / "failures.csv")
    assert row["what"] == 'out of memory: needs "3", has 2' and json.loads(row["row"])["m"] == 4


def test_a_column_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with Folder(tmp_path, "some-gpu") as kept, pytest.raises(ValueError, match="colour"):
        kept.add(gemm(1), {"latency_us": 1.0, "colour": "red"})
    assert not (tmp_path / "gemm.csv").exists()


def test_another_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gemm.csv").write_text("gpu,m,n,k,latency_us\nsome-gpu,1,2,3,4.0\n")
    with pytest.raises(InputError, match="header") as problem:
        Folder(tmp_path, "some-gpu")
    assert problem.value.line == 1 and problem.value.file == tmp_path / "gemm.csv"
    assert not (tmp_path / "gemm.csv").read_text().startswith("gpu,software")


def test_a_bad_line_in_the_middle_is_refused(tmp_path: Path) -> None:
    write(tmp_path, gemm(1))
    file = tmp_path / "gemm.csv"
    file.write_text(file.read_text() + "1,2,3\n" + file.read_text().splitlines()[1] + "\n")
    with pytest.raises(InputError, match="cells") as problem:
        Folder(tmp_path, "some-gpu")
    assert problem.value.line == 3


def test_another_gpu_is_refused(tmp_path: Path) -> None:
    write(tmp_path, gemm(1))
    with pytest.raises(InputError, match="another GPU"):
        Folder(tmp_path, "other-gpu")


def test_only_one_session_has_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from calibration.measure.folder import Folder\n"
        f"with Folder({str(tmp_path)!r}, 'some-gpu'):\n    print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "in\n"
    with pytest.raises(InputError, match=f"process {other.pid} is measuring"):
        Folder(tmp_path, "some-gpu")
    other.kill()  # its lock must not outlive it
    other.communicate()
    assert (tmp_path / ".lock").exists()
    write(tmp_path, gemm(1))
    assert not (tmp_path / ".lock").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        Folder(tmp_path / "file", "some-gpu")


@pytest.mark.parametrize("latency", [0.0, -1.0, float("nan"), float("inf"), None, "fast"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, latency: object) -> None:
    with Folder(tmp_path, "some-gpu") as kept, pytest.raises(ValueError, match="is no time"):
        kept.add(gemm(1), {"latency_us": latency})
    assert not (tmp_path / "gemm.csv").exists()


def test_what_a_library_cannot_have_taken_is_left_out(tmp_path: Path) -> None:
    with Folder(tmp_path, "some-gpu") as kept:
        kept.add(gemm(1), {"latency_us": 2.0, "baseline": "torch.matmul", "baseline_us": 0.0})
    (row,) = lines(tmp_path / "gemm.csv")
    assert (row["baseline"], row["baseline_us"]) == ("", "")
    write(tmp_path, gemm(2))  # and the folder can be opened again


def test_what_is_not_ours_keeps_its_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No line is cut off a file that was not written here; tables by other names are not looked at."""
    write(tmp_path, gemm(1))
    predicted = tmp_path / "gemm-check-predicted.csv"
    predicted.write_text("gpu,m,predicted_us\nsome-gpu,1,2.5\nsome-gpu,2")
    write(tmp_path, gemm(2))
    assert predicted.read_text().endswith("some-gpu,2")
    other = tmp_path / "gemm-check.csv"
    for content in ("gpu,m,latency_us\n1,2", "notes", "a,b\n" + "1,2,3\n"):
        other.write_text(content)
        with pytest.raises(InputError, match="not the header of this table"):
            Folder(tmp_path, "some-gpu")
        assert other.read_text() == content and not (tmp_path / ".lock").exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change", [lambda t: "\ufeff" + t, lambda t: t.replace("\n", "\r\n"), lambda t: t + "\n\n"])
def test_what_an_editor_does_to_a_table(tmp_path: Path, change, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, gemm(1), gemm(2))
    file = tmp_path / "gemm.csv"
    file.write_bytes(change(file.read_text()).encode())
    with Folder(tmp_path, "some-gpu") as kept:
        assert kept.done == {gemm(1).key, gemm(2).key}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["gemm.csv", "failures.csv", "machine.jsonl", ".lock"])
def test_a_folder_where_a_file_is_wanted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="cannot be used") as problem:
        Folder(tmp_path, "some-gpu")
    assert Path(str(problem.value.file)) == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_a_table_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is measured."""
    write(tmp_path, gemm(1))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).suffix != ".csv" and access(path, mode))
    with pytest.raises(InputError, match=r"cannot be used .Permission denied."):
        Folder(tmp_path, "some-gpu")
    assert not (tmp_path / ".lock").exists()


def test_no_room_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before stays as it was, and half a row does not."""
    write(tmp_path, gemm(1))
    before, real = (tmp_path / "gemm.csv").read_bytes(), os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) < 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[: len(data) // 2])

    with Folder(tmp_path, "some-gpu") as kept:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left on device") as problem:
            kept.add(gemm(2), {"latency_us": 1.0})
        monkeypatch.undo()
    assert problem.value.filename == str(tmp_path / "gemm.csv") and (tmp_path / "gemm.csv").read_bytes() == before
    assert kept.done == {gemm(1).key}


def test_all_of_a_plan_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a plan asks for passes the checks of the reader."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    figures = load_figures("h200-sxm")
    tasks = plan(figures, kind="full", gpus=8) + plan(figures, kind="kinetics")
    with Folder(tmp_path, figures.name) as kept:
        for task in tasks:
            kept.add(task, {"latency_us": 1.5})
        written = set(kept.done)
    with Folder(tmp_path, figures.name) as kept:
        assert kept.done == written == {task.key for task in tasks}


def test_files_of_a_table() -> None:
    for table in SHAPES:
        assert [table_of(file) for file in files_of(table)] == [table] * 3
        assert files_of(table)[0] == table


def test_reading_leaves_files_alone(tmp_path: Path) -> None:
    """More columns may be there, and a torn last line is not read; the file stays as it is."""
    file = tmp_path / "gemm.csv"
    names = [*header("gemm"), "note"]
    row = {**GEMM, "gpu": "g", "software": "s", "kernel": "k", "latency_us": 2.0}
    text = line_of(names) + line_of([row.get(name, "") for name in names]) + "g,s,k,bf1"
    file.write_text(text)
    assert [(line, cells["latency_us"]) for line, cells in read_rows(file)] == [(2, "2.0")]
    with pytest.raises(InputError, match="not the header"):
        read_rows(file, exact=True)
    repair(file, header("gemm"))
    assert file.read_text() == text
    assert read_rows(tmp_path / "moe.csv") == []


@pytest.mark.parametrize(
    "bad",
    [
        {"table": "gem", "row": GEMM},
        {"table": "gemm", "row": {"m": 1}},
        {"table": "gemm", "row": GEMM, "file": "moe"},
        {"table": "gemm", "row": GEMM, "l2": "hot"},
    ],
)
def test_a_task_is_checked(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Task(**bad)  # type: ignore[arg-type]


def test_a_task_survives_json() -> None:
    task = Task("gemm", GEMM, kernel="triton_warm", file="gemm-warm", l2="warm", seconds=0.3, bytes=1e9)
    assert Task.from_json(task.to_json()) == task and "\n" not in task.to_json()
