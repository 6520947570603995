"""The data set of a sweep: what it keeps, and what becomes of it when something goes wrong. All files are real."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hwspecs.errors import InputError
from simulator.headline import METRICS
from simulator.sweeping.dataset import NUMBER, TEXT, DataSet, columns_of, known_hashes, read_rows

KINDS = {"seed": NUMBER, "gpu": TEXT}


def row(name: str, **others: Any) -> dict[str, Any]:
    return {"hash": name, "status": "ok", "reason": "", "seed": 1.0, "gpu": "h200-sxm", "makespan_s": 2.5, **others}


def test_rows_come_back_after_reopening(tmp_path: Path) -> None:
    with DataSet(tmp_path / "out", KINDS) as data:
        assert data.done == {}
        data.append([row("a"), row("b", status="failed", makespan_s=None)])
        data.append([row("c", seed=3.0)])
    with DataSet(tmp_path / "out", KINDS) as data:
        assert data.done == {"a": "ok", "b": "failed", "c": "ok"}
        data.append([row("d")])
    rows = read_rows(tmp_path / "out").set_index("hash")
    assert list(rows.index) == ["a", "b", "c", "d"]
    assert rows.loc["c", "seed"] == 3 and rows.loc["a", "makespan_s"] == 2.5 and pd.isna(rows.loc["b", "makespan_s"])
    assert [name for name, _ in columns_of(KINDS)] == list(read_rows(tmp_path / "out").columns)
    assert set(METRICS) < set(rows.columns)
    # As others read it: a folder of Parquet files.
    assert len(pd.read_parquet(tmp_path / "out")) == 4


def test_rows_are_taken_out_to_be_done_again(tmp_path: Path) -> None:
    with DataSet(tmp_path, KINDS) as data:
        data.append([row("a"), row("b")])
        data.append([row("c")])
        data.drop(["b", "c"])
        assert data.done == {"a": "ok"}
        data.append([row("b", seed=9.0)])
    rows = read_rows(tmp_path).set_index("hash")
    assert sorted(rows.index) == ["a", "b"] and rows.loc["b", "seed"] == 9


def test_what_a_killed_writer_left_half_written_is_no_row(tmp_path: Path) -> None:
    with DataSet(tmp_path, KINDS) as data:
        data.append([row("a")])
    whole = (tmp_path / "part-000001.parquet").read_bytes()
    (tmp_path / ".part-part-000002.parquet").write_bytes(whole[: len(whole) // 2])
    assert known_hashes(tmp_path) == {"a"} and len(pd.read_parquet(tmp_path)) == 1
    with DataSet(tmp_path, KINDS) as data:
        assert data.done == {"a": "ok"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "_sweep.json", "part-000001.parquet"]


def test_only_one_process_writes(tmp_path: Path, environment: dict[str, str]) -> None:
    code = f"""
import sys
from pathlib import Path
from simulator.sweeping.dataset import DataSet
with DataSet(Path({str(tmp_path)!r}), {KINDS!r}):
    print("open", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"open\n"
        with pytest.raises(InputError, match=rf"another sweep is writing .*found 'process {other.pid} on "):
            DataSet(tmp_path, KINDS).__enter__()
        other.kill()
    with DataSet(tmp_path, KINDS) as data:  # a lock dies with its process
        data.append([row("a")])


def test_a_folder_that_is_no_data_set_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("years of work")
    with pytest.raises(InputError, match=r"--out: the folder holds other files; found 'thesis.doc'"):
        DataSet(tmp_path, KINDS).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_the_data_set_of_other_fields_is_left_alone(tmp_path: Path) -> None:
    with DataSet(tmp_path, KINDS) as data:
        data.append([row("a")])
    with pytest.raises(InputError, match=r"over other fields; found 'seed \(texts\)'; allowed: seed \(numbers\), gpu"):
        DataSet(tmp_path, {"seed": TEXT}).__enter__()
    with DataSet(tmp_path, KINDS) as data:  # and nobody holds the lock
        assert data.done == {"a": "ok"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("_sweep.json", b'{"schema": "kinesim-sweep-data/0", "fields": {}}', "not a data set of this version"),
        ("_sweep.json", b"{", "_sweep.json: is damaged"),
        ("_sweep.json", b"[]", "_sweep.json: is damaged"),
        ("part-000001.parquet", b"PAR1 and no more", "is not a readable part of a data set"),
    ],
)
def test_a_damaged_or_older_data_set_is_told(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with DataSet(tmp_path, KINDS) as data:
        data.append([row("a")])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        DataSet(tmp_path, KINDS).__enter__()
    assert message in caught.value.message() and (tmp_path / name).read_bytes() == content


def test_rows_without_their_head_are_told(tmp_path: Path) -> None:
    with DataSet(tmp_path, KINDS) as data:
        data.append([row("a")])
    (tmp_path / "_sweep.json").unlink()
    with pytest.raises(InputError, match=r"_sweep.json: is missing beside the rows"):
        DataSet(tmp_path, KINDS).__enter__()


FULL = """
import json, subprocess, sys
from pathlib import Path
from hwspecs.errors import InputError
from simulator.sweeping.dataset import DataSet, known_hashes
folder, kinds = Path(sys.argv[1]), json.loads(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
written = 0
with DataSet(folder / "out", kinds) as data:
    try:
        while written < 100:
            data.append([{"hash": f"{written}", "status": "ok", "seed": 1.0}])
            written += 1
    except InputError as error:
        print(error.message())
assert 0 < written < 100 and len(known_hashes(folder / "out")) == written
assert not list((folder / "out").glob(".part-*"))
subprocess.run(["mount", "-o", "remount,size=1m", str(folder)], check=True)
with DataSet(folder / "out", kinds) as data:
    assert len(data.done) == written
    data.append([{"hash": f"{written}", "status": "ok", "seed": 1.0}])
assert len(known_hashes(folder / "out")) == written + 1
print("went on")
"""


def test_a_lock_that_cannot_be_written_is_let_go_of(tmp_path: Path) -> None:
    import resource

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, old[1]))  # as on a full disk
    try:
        with pytest.raises(InputError, match="cannot"), DataSet(tmp_path, KINDS):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    with DataSet(tmp_path, KINDS):
        pass


def test_a_full_disk_keeps_what_is_there_and_goes_on_with_room(tmp_path: Path, environment: dict[str, str]) -> None:
    apart = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("no mount of one's own without the right to make one (unshare)")
    (tmp_path / "small").mkdir()
    done = subprocess.run(
        [*apart, sys.executable, "-c", FULL, str(tmp_path / "small"), json.dumps({"seed": NUMBER})],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    told, after = done.stdout.splitlines()
    assert "out: --out: cannot be written (No space left on device); allowed: more room there" in told
    assert after == "went on"
