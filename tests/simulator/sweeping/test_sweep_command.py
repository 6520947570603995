"""`kinesim sweep` from end to end: a data set, the same command again, a grid that grew, and what a user gets wrong."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hwspecs.errors import InputError
from simulator.headline import METRICS, headline
from simulator.running import run_scenario
from simulator.sweeping.dataset import INTERVALS, DataSet
from simulator.sweeping.sweep import sweep
from workloads.scenario import load_scenario

GRID = """\
name: rates
base: chat-poisson
set: {profile: ideal, engine: none, workload.requests: 5}
vary:
  workload.arrivals.rate: [1 /s, 60 /min, 4 /s]    # two of them are the same
  gpu.memory.capacity: [141 GB, 10 GB]             # the model does not fit into the second
keep: [makespan_s, usd]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rates.yaml").write_text(GRID)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sweep_is_run_once_and_grows(folder: Path, kinesim: Any) -> None:
    done = kinesim("sweep", "rates.yaml", "--workers", "1", "--format", "json")
    assert (done.code, done.err) == (0, "")
    document = json.loads(done.out)
    assert (document["schema"], document["name"], document["workers"]) == ("kinesim-sweep/1", "rates", 1)
    assert document["counts"] == {
        "combinations": 6, "chosen": 6, "alike": 2, "before": 0, "simulated": 4, "ok": 2, "invalid": 2, "failed": 0,
        "others": 0,
    }  # fmt: skip
    assert document["varied"] == {"workload.arrivals.rate": "1/s", "gpu.memory.capacity": "B"}
    rows = document["rows"]
    assert [row["workload.arrivals.rate"] for row in rows] == [1, 1, 1, 1, 4, 4]
    assert [row["gpu.memory.capacity"] for row in rows] == [141e9, 10e9] * 3
    assert list(rows[0]) == [
        "scenario", "workload.arrivals.rate", "gpu.memory.capacity", "status", "reason", "makespan_s", "usd",
        *INTERVALS, "timed_by", "notes", "wall_s", "hash",
    ]  # fmt: skip
    sets = ["profile=ideal", "engine=none", "workload.requests=5", "gpu.memory.capacity=141 GB"]
    alone = headline(run_scenario(load_scenario("chat-poisson", [*sets, "workload.arrivals.rate=4"])).summary)
    assert (rows[4]["makespan_s"], rows[4]["usd"]) == (alone["makespan_s"], alone["usd"])
    assert rows[5]["status"] == "invalid" and rows[5]["reason"] and rows[5]["makespan_s"] is None

    data = pd.read_parquet("rates-sweep")
    assert len(data) == 4 and set(METRICS) < set(data.columns)  # `keep` chooses what is shown, not what is kept
    parts = {path.name: path.stat().st_mtime_ns for path in Path("rates-sweep").glob("part-*")}

    again = kinesim("sweep", "rates.yaml")
    assert again.code == 0 and "4 were there, 0 done now" in again.out
    assert {path.name: path.stat().st_mtime_ns for path in Path("rates-sweep").glob("part-*")} == parts
    assert "note: invalid, 3 times: " in again.out and "2 combinations are the same scenario" in again.out

    # One value more: only its scenarios are left to do.
    Path("rates.yaml").write_text(GRID.replace("4 /s]", "4 /s, 9 /s]"))
    dry = kinesim("sweep", "rates.yaml", "--dry-run", "--format", "json", "--workers", "2")
    estimate = json.loads(dry.out)
    assert (estimate["chosen"], estimate["before"], estimate["tried"], estimate["workers"]) == (8, 6, 2, 2)
    assert 0 < estimate["seconds"] < 30
    assert {path.name: path.stat().st_mtime_ns for path in Path("rates-sweep").glob("part-*")} == parts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.yaml"], ["no such sweep file", "'nowhere.yaml'"]),
        (["h200-batchin"], ["no such sweep file", "did you mean h200-batching?"]),
        (["rates.yaml", "--workers", "0"], ["--workers", "0"]),
        (["rates.yaml", "--limit", "0"], ["--limit: out of range", "found 0"]),
        (["rates.yaml", "--limit", "many"], ["--limit", "many"]),
        (["rates.yaml", "--out", ""], ["--out", "names no folder"]),
        (["rates.yaml", "--out", "rates.yaml"], ["--out", "is not a folder"]),
        (["rates.yaml", "--out", "."], ["the folder holds other files", "'rates.yaml'"]),
        (["rates.yaml", "--set", "seed"], ["--set: not an assignment", "'seed'"]),
        (["rates.yaml", "--set", "sead=1"], ["set.sead: unknown key", "did you mean seed?"]),
        (["rates.yaml", "--set", "gpu.memory.capacity=1 GB"], ["a field given twice", "it is in set."]),
        (["rates.yaml", "--scheduler", "10.0.0.1"], ["--scheduler: not the address of a scheduler", "'10.0.0.1'"]),
        (["rates.yaml", "--workers", "2", "--scheduler", "tcp://x:1"], ["--workers: workers are the scheduler's"]),
    ],
)
def test_bad_sweep_command(arguments: list[str], words: list[str], folder: Path, kinesim: Any) -> None:
    done = kinesim("sweep", *arguments)
    assert done.code == 2 and done.out == "" and done.err.count("\n") == 1
    assert [word for word in words if word not in done.err] == []
    assert [path.name for path in folder.iterdir() if path.name != "rates-sweep"] == ["rates.yaml"]


def test_a_scheduler_that_does_not_answer(folder: Path, kinesim: Any) -> None:
    with socket.socket() as taken:  # it takes the connection and says nothing
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = kinesim("sweep", "rates.yaml", "--scheduler", address, "--timeout", "0.5")
    assert done.code == 2 and done.out == ""
    assert f"--scheduler: no answer within 0.5 s; found '{address}'; allowed: the address of a running" in done.err
    assert done.err.count("\n") == 1


def test_a_data_set_that_somebody_writes_to(folder: Path, kinesim: Any) -> None:
    with DataSet(Path("rates-sweep"), {"workload.arrivals.rate": "number", "gpu.memory.capacity": "number"}):
        done = kinesim("sweep", "rates.yaml")
    assert done.code == 2 and "another sweep is writing to this data set; found 'process " in done.err


def test_workers_that_run_another_program_end_the_sweep(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.sweeping.sweep.PROGRAM", "0123456789abcdef")  # as if they had been upgraded
    with pytest.raises(InputError, match="a worker runs another version of kinesim; what was written is kept"):
        sweep("rates.yaml", workers=1)
