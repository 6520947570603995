"""Tables of measured kernels: what is read from CSV and Parquet, in all the types that files come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from calibration.kinds import COMMON, KINDS, OPS_OF
from calibration.tables import encode, read_kernels
from hwspecs.errors import InputError
from simulator.kernels.registry import MODELS

TEXTS = {"gpu": "h200-sxm", "software": "vllm-0.24.0", "kernel": "a", "routing": "power_law_1.2", "model": "x/y"}
NAMES = {"dtype": "bf16", "kv_dtype": "fp8", "gemm_dtype": "nvfp4", "op": "all_reduce", "phase": "decode"}


def one_row(kind: str) -> dict[str, object]:
    """A good row of a kind."""
    k = KINDS[kind]
    row: dict[str, object] = {name: (TEXTS | NAMES).get(name) for name in (*COMMON, *k.labels)}
    row |= {"op": OPS_OF[kind][0]} if kind in OPS_OF else {}
    if kind == "expert_all_to_all":
        row["phase"] = "dispatch"
    row |= dict.fromkeys(k.shape, 1)
    return row | ({"gpus": 2} if "gpus" in k.shape else {})


def written(folder: Path, columns: dict[str, object], name: str = "t.parquet") -> Path:
    table = pa.table(columns)
    (pq.write_table if name.endswith("parquet") else pacsv.write_csv)(table, folder / name)
    return folder / name


def gemm(rows: int = 3, **columns: object) -> dict[str, object]:
    good: dict[str, object] = {name: [text] * rows for name, text in one_row("gemm").items()}
    return {**good, "latency_us": [float(i + 1) for i in range(rows)], **columns}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_every_kind_is_told_by_its_columns(kind: str, ending: str, tmp_path: Path) -> None:
    columns = {name: [value] for name, value in one_row(kind).items()}
    table = read_kernels(written(tmp_path, columns, f"t.{ending}"))
    assert table.kind == kind and len(table) == 1
    assert kind in MODELS  # so that what can be read can be predicted, and fitted
    assert np.isnan(table.seconds).all() and not table.measured.any()
    expected = set(KINDS[kind].columns) - {"routing"} | ({"skew"} if kind == "moe" else set())
    assert set(table.columns) == expected
    assert all(table.columns[name].dtype == np.float64 for name in KINDS[kind].shape)


def test_values_and_units(tmp_path: Path) -> None:
    moe = {name: [value] * 3 for name, value in one_row("moe").items()}
    moe |= {"routing": ["balanced", "power_law_1.01", "power_law_1.2"], "power_w": [None, 500.0, 600.0]}
    table = read_kernels(written(tmp_path, moe | {"latency_us": [1.0, 2.0, None]}))
    assert table.columns["skew"].tolist() == [0.0, 1.01, 1.2]
    np.testing.assert_allclose(table.seconds, [1e-6, 2e-6, np.nan])
    np.testing.assert_allclose(table.watts, [np.nan, 500, 600])
    assert table.measured.tolist() == [True, True, False]


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1, 2, 4], pa.int32()),
        pa.array([1, 2, 4], pa.uint8()),
        pa.array([1, 2, 4], pa.float32()),
        pa.array(["1", " 2 ", "4e0"]),
        pa.array([1, 2, 4], pa.int64()).dictionary_encode(),
        pa.array([1, 2, 4], pa.decimal128(9, 2)),
    ],
    ids=lambda array: str(array.type),
)
def test_types_of_numbers(array: pa.Array, tmp_path: Path) -> None:
    assert read_kernels(written(tmp_path, gemm(m=array))).columns["m"].tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["b200-sxm", "a100-sxm", "b200-sxm"], pa.large_string()),
        pa.array(["b200-sxm", "a100-sxm ", "b200-sxm"], pa.string_view()),
        pa.array(["b200-sxm", "a100-sxm", "b200-sxm"]).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([2, 0, 2], pa.int8()), ["a100-sxm", "not in use", "b200-sxm"]),
        pa.chunked_array([pa.array(x).dictionary_encode() for x in (["b200-sxm", "a100-sxm"], ["b200-sxm"])]),
    ],
    ids=lambda array: str(array.type)[:24],
)  # fmt: skip
def test_types_of_text(array: pa.Array, tmp_path: Path) -> None:
    table = read_kernels(written(tmp_path, gemm(gpu=array)))
    assert table.columns["gpu"].tolist() == ["b200-sxm", "a100-sxm", "b200-sxm"]
    texts, codes = table.codes["gpu"]
    assert texts == ["a100-sxm", "b200-sxm"] and codes.tolist() == [1, 0, 1]


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    """A byte order mark, CRLF, blank lines, quotes, more columns than needed in another order."""
    text = "﻿n,k,m,dtype,note,gpu,kernel,software\r\n"
    text += '128,64,1,bf16,"a, b",h200-sxm,x,y\r\n\r\n256.0,64,2,bf16,,"h100-sxm",x,y\r\n\r\n'
    (tmp_path / "t.csv").write_bytes(text.encode())
    table = read_kernels(tmp_path / "t.csv")
    assert table.columns["n"].tolist() == [128, 256]
    assert table.columns["gpu"].tolist() == ["h200-sxm", "h100-sxm"]


def test_the_line_of_an_error_counts_blank_lines(tmp_path: Path) -> None:
    text = "gpu,software,kernel,dtype,m,n,k\n\nh200-sxm,a,b,bf16,1,1,1\n\n\nh200-sxm,a,b,bf16,1,1,0\n"
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError) as error:
        read_kernels(tmp_path / "t.csv")
    assert error.value.line == 6 and error.value.place == "column k"


def test_the_first_bad_row_is_reported(tmp_path: Path) -> None:
    bad = gemm(5, m=[1, 2, 3, 4, -1], n=[1.0, 1.0, 0.5, 1.0, 1.0])
    with pytest.raises(InputError, match=r"row 4 \(counted from 0\), column m: zero or negative; found -1"):
        read_kernels(written(tmp_path, bad))
    bad["m"] = [1] * 5
    with pytest.raises(InputError, match=r"row 2 \(counted from 0\), column n: not a whole number; found 0.5"):
        read_kernels(written(tmp_path, bad))


def test_groups(tmp_path: Path) -> None:
    columns = gemm(4, gpu=["b200-sxm", "a100-sxm", "b200-sxm", "a100-sxm"], dtype=["fp8", "fp8", "bf16", "fp8"])
    table = read_kernels(written(tmp_path, columns))
    found = [(label, rows.tolist()) for label, rows in table.groups(("gpu", "dtype"))]
    assert found == [
        ({"gpu": "a100-sxm", "dtype": "fp8"}, [1, 3]),
        ({"gpu": "b200-sxm", "dtype": "bf16"}, [2]),
        ({"gpu": "b200-sxm", "dtype": "fp8"}, [0]),
    ]
    some = table.take(np.array([1, 2]))
    assert [rows.tolist() for _, rows in some.groups(("gpu",))] == [[0], [1]]
    assert some.seconds.tolist() == [2e-6, 3e-6]
    assert len(table.take(np.zeros(4, dtype=bool))) == 0 == len(table.take(np.zeros(4, dtype=bool)).groups(("gpu",)))


def test_encode() -> None:
    texts, codes = encode(np.array(["b", "a", "b", "c"], dtype=object))
    assert texts == ["a", "b", "c"] and codes.tolist() == [1, 0, 1, 2]


def test_a_gpu_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "fast.yaml").write_text("base: h200-sxm\nmemory: {bandwidth: 9.6 TB/s}\n")
    table = read_kernels(written(tmp_path, gemm(gpu=[str(tmp_path / "fast.yaml")] * 3)))
    assert table.columns["gpu"][0].endswith("fast.yaml")


def test_all_gpus_of_the_design_are_known(tmp_path: Path) -> None:
    names = ["a100-sxm", "h100-sxm", "h200-sxm", "b200-sxm", "gb200", "b300-sxm", "gb300", "l40s", "rtx-pro-6000"]
    assert len(read_kernels(written(tmp_path, gemm(9, gpu=names)))) == 9


def test_the_measured_tables(silicon: Path) -> None:
    """The tables that profiles are fitted to have nothing to complain about."""
    for path in sorted(silicon.glob("*.parquet")):
        table = read_kernels(path)
        assert table.kind == path.stem.removeprefix("power_")
        assert table.measured.all()
        assert np.isnan(table.watts).all() != path.stem.startswith("power_")


@pytest.fixture
def silicon() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared/data/silicon"
    if not folder.is_dir():
        pytest.skip(f"no measured tables in {folder}")
    return folder
