"""The page of `make validate`, from results of fits that are made up."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calibration import validate_page
from calibration.tables import KernelTable, concatenate, read_kernels
from simulator.predict import Predictions


def gemm(folder: Path, gpu: str, rows: int = 200, name: str = "gemm") -> KernelTable:
    rng = np.random.default_rng(len(gpu))
    columns = {
        "gpu": [gpu] * rows, "software": ["vllm-0.24.0"] * rows, "kernel": ["a"] * rows,
        "dtype": (["bf16", "fp8_block"] * rows)[:rows],
        **{c: (2 ** rng.integers(1, 12, rows)).astype(np.int32) for c in "mnk"},
        "latency_us": rng.uniform(5, 500, rows),
    }  # fmt: skip
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return read_kernels(folder / f"{name}.parquet")


def slow(table: KernelTable, factor: float) -> Predictions:
    seconds, n = table.seconds * factor, len(table)
    texts = (np.full(n, text, dtype=object) for text in ("memory", "p", "interpolated"))
    return Predictions(seconds, seconds * 0.9, seconds * 1.1, np.full(n, 300.0), *texts)


def test_tables_are_put_together(tmp_path: Path) -> None:
    a, b = gemm(tmp_path, "h200-sxm", 5), gemm(tmp_path, "a100-sxm", 4)
    both = concatenate([a, b])
    assert both.columns["gpu"].tolist() == ["h200-sxm"] * 5 + ["a100-sxm"] * 4
    assert both.codes["gpu"][0] == ["a100-sxm", "h200-sxm"]
    assert [both.codes["gpu"][0][i] for i in both.codes["gpu"][1]] == both.columns["gpu"].tolist()
    np.testing.assert_array_equal(both.seconds, np.concatenate([a.seconds, b.seconds]))


def test_the_page(tmp_path: Path) -> None:
    tables = [gemm(tmp_path, gpu) for gpu in ("h200-sxm", "b200-sxm")]
    power = gemm(tmp_path, "b200-sxm", 30)
    power.watts[:] = 250.0
    shapes = [("gemm", table, slow(table, 1.05)) for table in [*tables, power]]
    gpus = [("gemm", table, slow(table, 1.2)) for table in tables]
    page = validate_page.write_page(tables, shapes, gpus, tmp_path / "docs").read_text()
    assert "400 kernels on b200-sxm and h200-sxm" in page
    assert re.search(
        r"\| gemm \| but fp8_block \| 4 % \| 200 \| 5.0 % \| 5.0 % \| 5.0 % \| \+5.0 % \| 100.0 % \|", page
    )
    assert re.search(r"\| gemm \| fp8_block \| 6 % \| 200 \| 5.0 %", page)
    assert re.search(r"\| gemm \| b200-sxm \| all \|  \| 200 \| 20.0 %", page)
    assert re.search(r"## Board power.*\| gemm \|  \| 30 \| 20.0 % \| 20.0 % \| 20.0 % \| \+20.0 % \| - \|", page, re.S)
    figures = re.findall(r"\]\((validation/[^)]+)\)", page)
    assert len(figures) == 6 and all((tmp_path / "docs" / figure).is_file() for figure in figures)


def test_without_measurements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate_page.main(["--data", str(tmp_path / "none"), "--docs", str(tmp_path / "docs")]) == 0
    assert "skipped, no measured tables" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()


def test_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gemm(tmp_path, "h200-sxm")
    fits = types.ModuleType("calibration.crossvalidate")
    fits.held_out = lambda tables: [(t.kind, t, slow(t, 1.01)) for t in tables]  # type: ignore[attr-defined]
    fits.leave_one_gpu_out = lambda tables, profiles: []  # type: ignore[attr-defined]
    fits.leave_one_model_out = lambda tables, profiles: []  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "calibration.crossvalidate", fits)
    arguments = ["--data", str(tmp_path), "--docs", str(tmp_path / "docs"), "--rows", "150"]
    assert validate_page.main(arguments) == 0
    first = (tmp_path / "docs/validation.md").read_bytes()
    assert b"150 kernels on h200-sxm" in first
    assert validate_page.main(arguments) == 0
    assert (tmp_path / "docs/validation.md").read_bytes() == first
