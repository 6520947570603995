"""`kinesim calibrate fit`: files in, files out, and nothing written where the input is bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from simulator.profilefile import read_profile

COLLECTIVE = Path(__file__).parents[1] / "data" / "collective.parquet"
Kinesim = Callable[..., Any]


def rows(gpus: tuple[str, ...] = ("h200-sxm",), **columns: Any) -> pa.Table:
    """NCCL's all-gathers in fp16 on some GPUs; `columns` replace or (None) drop some."""
    table = pq.read_table(COLLECTIVE)
    pick = pc.and_(pc.equal(table["op"], "all_gather"), pc.equal(table["dtype"], "fp16"))
    table = table.filter(pc.and_(pick, pc.is_in(table["gpu"].cast(pa.string()), pa.array(gpus))))
    made = {name: table[name].to_pylist() for name in table.column_names}
    for name, values in columns.items():
        made.pop(name, None)
        if values is not None:
            made[name] = values if isinstance(values, list) else [values] * len(table)
    return pa.table(made)


def decode_rows() -> pa.Table:
    made: dict[str, Any] = dict.fromkeys(("kernel", "dtype", "kv_dtype"), ["bf16"] * 16)
    numbers = {"batch": 1, "q_heads": 8, "kv_heads": 8, "head_dim": 128, "window": 0}
    made |= {"gpu": ["h200-sxm"] * 16, "software": ["vllm-0.24.0"] * 16, "context_len": [2**i for i in range(16)]}
    made |= {name: [value] * 16 for name, value in numbers.items()}
    return pa.table({**made, "latency_us": [5.0 + 2**i / 1000 for i in range(16)]})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pq.write_table(rows(), tmp_path / "nccl.parquet")
    return tmp_path


def test_a_profile_is_written_and_described(here: Path, kinesim: Kinesim) -> None:
    done = kinesim("calibrate", "fit", "nccl.parquet", "--out", "made", "--source", "a test", "--jobs", "1")
    assert done.code == 0, done.err
    assert [path.name for path in (here / "made").iterdir()] == ["h200-sxm@nccl-2.29.2.npz"]
    for word in ("h200-sxm@nccl-2.29.2", "collective", "held-out", "1 profile,", "made"):
        assert word in done.out
    profile = read_profile(here / "made" / "h200-sxm@nccl-2.29.2.npz")
    assert "a test" in profile.fitted_on and len(profile.groups) == 1


def test_as_json(here: Path, kinesim: Kinesim) -> None:
    pq.write_table(decode_rows(), here / "decode.parquet")
    argv = ("calibrate", "fit", "nccl.parquet", "decode.parquet", "--out", "made", "--jobs", "1", "--format", "json")
    done = kinesim(*argv)
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["schema"] == "kinesim.fit/1"
    assert answer["files"] == ["made/h200-sxm@nccl-2.29.2.npz", "made/h200-sxm@vllm-0.24.0.npz"]
    by_kind = {row["kind"]: row for row in answer["profiles"]}
    assert set(by_kind) == {"collective", "attention_decode"}
    row = by_kind["collective"]
    assert (row["profile"], row["groups"], row["rows"]) == ("h200-sxm@nccl-2.29.2", 1, 40)
    assert 0 < row["held_out_mape"] <= row["worst_mape"] < 0.5 and row["worst"] == "nccl all_gather fp16"
    assert row["host_floors_us"] == [] and row["carried"] == {}


def test_two_gpus_make_a_transfer_profile_and_the_same_bytes_again(here: Path, kinesim: Kinesim) -> None:
    pq.write_table(rows(("h100-sxm", "h200-sxm")), here / "two.parquet")
    names = ["h100-sxm@nccl-2.29.2.npz", "h200-sxm@nccl-2.29.2.npz", "transfer.npz"]
    for folder, jobs in (("one", "1"), ("two", "2")):
        assert kinesim("calibrate", "fit", "two.parquet", "--out", folder, "--jobs", jobs).code == 0
        assert sorted(path.name for path in (here / folder).iterdir()) == names
    assert all((here / "one" / name).read_bytes() == (here / "two" / name).read_bytes() for name in names)


def test_what_was_written_can_be_used(here: Path, kinesim: Kinesim) -> None:
    assert kinesim("calibrate", "fit", "nccl.parquet", "--out", ".", "--jobs", "1").code == 0
    done = kinesim("validate", "kernels", "nccl.parquet", "--profile", "h200-sxm@nccl-2.29.2.npz", "--out", "p.parquet")
    assert done.code == 0, done.err
    found = pq.read_table(here / "p.parquet")
    assert found.num_rows == 40
    error = np.abs(found["predicted_us"].to_numpy() / found["latency_us"].to_numpy() - 1)
    assert error.mean() < 0.1


def test_profiles_that_are_there_are_replaced_only_by_force(here: Path, kinesim: Kinesim) -> None:
    target = here / "made" / "h200-sxm@nccl-2.29.2.npz"
    target.parent.mkdir()
    target.write_bytes(b"of yesterday")
    done = kinesim("calibrate", "fit", "nccl.parquet", "--out", "made", "--jobs", "1")
    assert done.code == 2 and "--force" in done.err and "h200-sxm@nccl-2.29.2.npz" in done.err
    assert target.read_bytes() == b"of yesterday"
    assert kinesim("calibrate", "fit", "nccl.parquet", "--out", "made", "--jobs", "1", "--force").code == 0
    assert read_profile(target).name == "h200-sxm@nccl-2.29.2"


BAD: dict[str, tuple[pa.Table | None, tuple[str, ...], tuple[str, ...]]] = {
    "no latency column": (rows(latency_us=None), (), ("bad.parquet", "no measured row", "latency_us")),
    "no latency in it": (rows(latency_us=[None] * 40), (), ("bad.parquet", "latency_us")),
    "two tables of a kind": (rows(), ("nccl.parquet",), ("second table of collective", "one table of each kind")),
    "too few rows": (rows().slice(0, 5), (), ("enough measured rows", "at least 8 rows")),
    "a column is missing": (rows(bytes=None), (), ("bad.parquet", "bytes")),
    "a GPU that nobody knows": (rows(gpu="h2000"), (), ("bad.parquet", "h2000")),
    "a negative size": (rows(bytes=-8), (), ("bad.parquet", "bytes")),
    "no rows": (rows().slice(0, 0), (), ("bad.parquet",)),
    "software that is no file name": (rows(software="../evil"), (), ("software", "../evil")),
    "software with a slash": (rows(software="nccl/2"), (), ("software", "nccl/2")),
    "software with a very long name": (rows(software="x" * 300), (), ("a file's name", "xxx")),
    "software with an at sign": (rows(software="nccl@2"), (), ("software", "nccl@2")),
    "no file": (None, (), ("bad.parquet",)),
    "out is a file": (rows(), ("--out", "nccl.parquet"), ("nccl.parquet", "--out")),
    "out under a file": (rows(), ("--out", "nccl.parquet/x"), ("--out",)),
    "no jobs": (rows(), ("--jobs", "0"), ("--jobs",)),
    "negative seed": (rows(), ("--seed", "-1"), ("--seed",)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(here: Path, kinesim: Kinesim, name: str) -> None:
    table, more, words = BAD[name]
    if table is not None:
        pq.write_table(table, here / "bad.parquet")
    before = {path: path.read_bytes() for path in here.rglob("*")}
    out = () if "--out" in more else ("--out", "made")
    done = kinesim("calibrate", "fit", "bad.parquet", *more, *out)
    assert done.code == 2, done.err + done.out
    assert done.out == "" and done.err.count("\n") == 1 and "Traceback" not in done.err
    assert [word for word in words if word not in done.err] == [], done.err
    assert {path: path.read_bytes() for path in here.rglob("*")} == before


def test_a_gpu_file_of_ones_own(here: Path, kinesim: Kinesim) -> None:
    """Its path would be the profile's name, so it is refused; not half a minute later, when files are written."""
    (here / "fast.yaml").write_text("base: h200-sxm\n")
    pq.write_table(rows(gpu="./fast.yaml"), here / "bad.parquet")
    done = kinesim("calibrate", "fit", "bad.parquet", "--out", "made")
    assert done.code == 2 and "./fast.yaml" in done.err and not (here / "made").exists()


def test_a_folder_in_the_way(here: Path, kinesim: Kinesim) -> None:
    (here / "made" / "h200-sxm@nccl-2.29.2.npz").mkdir(parents=True)
    done = kinesim("calibrate", "fit", "nccl.parquet", "--out", "made", "--force")
    assert done.code == 2 and "folder" in done.err
