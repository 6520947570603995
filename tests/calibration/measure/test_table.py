"""The folder of tables: what is written survives, what is torn is repaired, what is not ours is refused."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from calibration.measure.table import Folder
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
        "import sys; from calibration.measure.table import Folder\n"
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
