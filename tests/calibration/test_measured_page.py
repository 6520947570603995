"""From a folder of tables to a page. The tables are made here, by a made-up profile's physics: nothing is measured."""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "simulator"))
from madeprofiles import microbenchmarks, profile

from calibration.measure import figures
from calibration.measure.folder import Folder
from calibration.measure.layersizes import kinetics_rows
from calibration.measure.plan import plan
from calibration.measure.task import Task, header
from calibration.measured_page import main
from hwspecs.gpu import load_gpu
from simulator.calibrated import FALLBACK, Calibrated
from simulator.layers import case_of
from simulator.layertime import layer_time
from simulator.predict import predict_kernels
from simulator.profile import load_profile
from simulator.profilefile import read_profile
from simulator.selection import Library, Selection

H200 = load_gpu("h200-sxm")
TRUTH = profile("h200-sxm@triton", microbenchmarks())
MADE = ("gemm", "attention_decode", "attention_prefill", "elementwise", "page_topk")
STREAMS = ("read", "write", "copy")


@cache
def tasks() -> list[Task]:
    """Bf16 rows of three minutes of the plan, and some points of the experiment."""
    planned = plan(figures.load_figures("h200-sxm"), kind="useful", only=[], seed=0, minutes=3, gpus=1)
    found = [t for t in planned if t.table in (*MADE, "layer") and t.row["dtype"] == "bf16"]
    found = [t for t in found if t.row.get("kv_dtype", "bf16") == "bf16" and t.row.get("op") not in STREAMS]
    points = [row for row in kinetics_rows(H200.memory.capacity) if row["model"].endswith("8B") and row["tp"] == 1]
    return found + [Task("kinetics", row, "triton", "kinetics", "cold", 1.0, 1.0) for row in points]


def seconds(members: Iterable[Task], table: str) -> list[tuple[float, float]]:
    """What the made-up profile says that each takes, and its attention alone."""
    members = list(members)
    if table in ("layer", "kinetics"):
        own = Calibrated(H200, Selection(H200, None, TRUTH, Library([])), load_profile(FALLBACK))
        times = [layer_time(case_of(task.row), H200, own) for task in members]
        return [(time.seconds, time.attention_seconds) for time in times]
    columns = {name: np.array([task.row[name] for task in members]) for name in members[0].row}
    columns |= {name: np.array([str(v) for v in columns[name]], dtype=object) for name in ("dtype",)}
    for name in ("kv_dtype", "op"):
        if name in columns:
            columns[name] = columns[name].astype(object)
    constant = {"gpu": "h200-sxm", "software": "triton"}
    columns |= {name: np.array([value] * len(members), dtype=object) for name, value in constant.items()}
    columns["kernel"] = np.array([task.kernel for task in members], dtype=object)
    return [(s, s) for s in predict_kernels(table, columns, library=Library([TRUTH])).seconds.tolist()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tables")
    files: dict[tuple[str, str], list[Task]] = defaultdict(list)
    for task in tasks():
        files[task.file, task.table].append(task)
    rng = np.random.default_rng(0)
    for (file, table), members in files.items():
        with (made / f"{file}.csv").open("w", newline="") as out:
            writer = csv.DictWriter(out, header(table), lineterminator="\n", restval="", extrasaction="ignore")
            writer.writeheader()
            for task, (time, attention) in zip(members, seconds(members, table), strict=True):
                noise = float(np.exp(rng.normal(0, 0.01)))
                row = {"gpu": "h200-sxm", "software": "triton", "kernel": task.kernel, **task.row, "layers": 4}
                row |= {"latency_us": time * noise * 1e6, "attention_us": attention * noise * 1e6, "l2": task.l2}
                row |= {"baseline": "a library", "baseline_us": 0.9 * time * 1e6} if table == "gemm" else {}
                writer.writerow(row)
    machine = {"date": "2000-01-01T00:00:00Z", "name": "made up", "driver": "1", "torch": "2", "triton": "3"}
    (made / "machine.jsonl").write_text(json.dumps(machine) + "\n")
    return made


def test_a_page_and_a_profile(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--docs", str(tmp_path), "--profiles", str(tmp_path)]) == 0
    page = (tmp_path / "measured-h200-sxm.md").read_text()
    assert "written:" in capsys.readouterr().out
    for title in (
        "Shapes that the fit did not see",
        "Whole layers",
        "Block top-k against dense",
        "| gemm | bf16 | a library |",
    ):
        assert title in page, title
    for picture in [line.split("(")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]:
        assert (tmp_path / picture).stat().st_size > 1000
    made = read_profile(tmp_path / "h200-sxm@triton.npz")
    assert "made up, 2000-01-01: driver 1, torch 2, triton 3" in made.fitted_on
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    for kind in MADE:  # physics with 1 % of noise, found again
        (found,) = [row for row in rows if row[0] == kind and len(row) == 7 and row[1].isdigit()]
        assert float(found[2].split()[0]) < 8, found
    layers = next(row for row in rows if row[0] == "all")
    assert float(layers[4].split()[0]) < 8, layers
    speedup = next(row for row in rows if row[0] == "speedup")
    assert float(speedup[2].rstrip("%")) < 15, speedup


def test_a_run_that_was_stopped_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One kernel's rows, a torn last line of the machine's file, and one half of one point of the experiment."""
    rows = [t for t in tasks() if t.file == "gemm"][:16]
    dense = next(t for t in tasks() if t.table == "kinetics" and t.row["attention"] == "dense")
    with Folder(tmp_path / "m", "h200-sxm") as kept:
        kept.begin({"name": "made up"})
        for task, (time, _) in zip(rows, seconds(rows, "gemm"), strict=True):
            kept.add(task, {"latency_us": time * 1e6})
        kept.add(dense, {"latency_us": 50.0})
    with (tmp_path / "m/machine.jsonl").open("a") as file:
        file.write('{"run": 2, "da')
    assert main([str(tmp_path / "m"), "--docs", str(tmp_path), "--profiles", str(tmp_path)]) == 0
    capsys.readouterr()
    assert "No point has been measured with both attentions." in (tmp_path / "measured-h200-sxm.md").read_text()
    assert (tmp_path / "h200-sxm@triton.npz").exists()


def test_a_folder_without_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--docs", str(tmp_path), "--profiles", str(tmp_path)]) == 2
    assert "no measured tables" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
