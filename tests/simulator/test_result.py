"""Results on disk: nothing is lost, nothing half-read, and the same scenario gives the same result to the last bit."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hwspecs.errors import InputError
from simulator.result import REQUEST_COLUMNS, SCHEMA, Result, plain
from simulator.running import run_scenario
from simulator.store import load_result, save_result
from workloads.scenario import load_scenario

FILES = ["report.html", "requests.parquet", "result.json", "timeline.parquet", "trace.json"]
LENGTHS = {
    "prompt_tokens": {"kind": "uniform", "low": 20, "high": 300},
    "output_tokens": {"kind": "uniform", "low": 1, "high": 200},
}
SCENARIOS: dict[str, dict[str, Any]] = {
    "chat": {
        "objective": {"ttft": "2 s"},
        "workload": {"strategy": "chat", "requests": 40, **LENGTHS, "arrivals": {"kind": "poisson", "rate": "80 /s"}},
    },
    "best of n": {
        "attention": {"kind": "block_top_k", "blocks": 8, "local": 32},
        "workload": {"strategy": {"kind": "best_of_n", "samples": 6, "acceptance": 0.3}, "requests": 6, **LENGTHS},
    },
    "starved": {  # preemptions, aborts while preempted, rejections; a hypothetical GPU
        "gpu": {"base": "h200-sxm", "memory": {"capacity": "3.45 GB"}},
        "engine": {"max_num_batched_tokens": 512, "max_model_len": 420, "max_num_seqs": 64},
        "workload": {"strategy": "chat", "requests": 60, **LENGTHS, "timeout": "0.25 s"},
    },
    "replicas": {
        "replicas": 3,
        "parallelism": {"tensor": 2},
        "router": "least_loaded",
        "profile": "ideal",
        "workload": {"strategy": {"kind": "long_cot", "budget": 100}, "requests": 30, **LENGTHS},
    },
}
BASE = {"gpu": "h200-sxm", "model": "Qwen/Qwen3-0.6B", "engine": {"max_num_batched_tokens": 512}, "seed": 11}


@cache
def result(name: str) -> Result:
    return run_scenario(load_scenario(BASE | SCENARIOS[name]))


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and np.ascontiguousarray(a).tobytes() == b.tobytes()


def assert_same(a: Result, b: Result) -> None:
    for name in ("scenario", "deployment", "summary", "operators", "notes"):
        assert getattr(a, name) == getattr(b, name), name
    for left, right in ((a.requests, b.requests), (a.timeline.columns, b.timeline.columns)):
        assert list(left) == list(right)
        for name in left:
            assert same_bits(left[name], right[name]), name
    assert same_bits(a.gaps, b.gaps)
    assert a == b


def test_the_starved_scenario_has_it_all() -> None:
    counts = result("starved").summary["requests"]
    assert min(counts.values()) > 0, counts
    assert np.isnan(result("starved").gaps[:, 2]).any() and np.isnan(result("starved").requests["first_token_s"]).any()


@pytest.mark.parametrize("name", SCENARIOS)
def test_saved_and_reopened_without_loss(name: str, tmp_path: Path) -> None:
    written = result(name)
    save_result(written, tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == FILES
    for place in (tmp_path / "new" / "folder", tmp_path / "new" / "folder" / "result.json"):
        reopened = load_result(place)
        assert_same(written, reopened)
        assert reopened.timing == written.timing
    assert np.array_equal(written.itl(), reopened.itl(), equal_nan=True)
    assert reopened.document() == written.document()


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_runs_are_equal(name: str) -> None:
    assert_same(result(name), run_scenario(load_scenario(BASE | SCENARIOS[name])))


def test_another_seed_is_another_result() -> None:
    other = run_scenario(load_scenario(BASE | SCENARIOS["chat"] | {"seed": 12}))
    assert other != result("chat")
    assert other != "chat"


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_scenario_inside_gives_the_same_run(name: str, tmp_path: Path) -> None:
    save_result(result(name), tmp_path)
    inside = json.loads((tmp_path / "result.json").read_text())["scenario"]
    again = run_scenario(load_scenario(inside))
    assert again.scenario == inside
    assert_same(result(name), again)


@pytest.mark.parametrize("name", SCENARIOS)
def test_result_json_is_strict(name: str, tmp_path: Path) -> None:
    save_result(result(name), tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"), parse_constant=refuse)
    json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert document["schema"] == SCHEMA
    assert ("problems" in document) == (name == "best of n")
    if name == "best of n":
        assert {len(values) for values in document["problems"].values()} == {6}


def test_tables_hold_what_they_should(tmp_path: Path) -> None:
    written = result("chat")
    save_result(written, tmp_path)
    table = pq.read_table(tmp_path / "requests.parquet")
    assert set(REQUEST_COLUMNS) | {"ttft_s", "tpot_s", "e2e_s", "itl_p50_s", "itl_max_s"} <= set(table.column_names)
    assert table.num_rows == 40
    ttft = table["ttft_s"].to_numpy()
    assert np.array_equal(ttft, written.requests["first_token_s"] - written.requests["submitted_s"])
    assert pq.read_table(tmp_path / "timeline.parquet").num_rows == written.summary["batch"]["macro_steps"]


def test_saving_again_replaces(tmp_path: Path) -> None:
    save_result(result("chat"), tmp_path)
    save_result(result("starved"), tmp_path)
    assert load_result(tmp_path) == result("starved")
    assert len(list(tmp_path.iterdir())) == len(FILES)


# ---- files that are no results ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_result(result("starved"), folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of a saved result, to be spoilt."""
    shutil.copytree(saved, tmp_path / "result")
    return tmp_path / "result"


def refused(folder: Path, file: str, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_result(folder)
    assert Path(str(caught.value.file)).name == file, str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path, "result.json", "no such file")
    refused(tmp_path / "none", "none", "no such file")


@pytest.mark.parametrize("file", ["result.json", "requests.parquet", "timeline.parquet"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_truncated_files(folder: Path, file: str, keep: float) -> None:
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: int(keep * len(content))])
    refused(folder, file)


@pytest.mark.parametrize("file", ["result.json", "requests.parquet", "timeline.parquet"])
def test_missing_files(folder: Path, file: str) -> None:
    (folder / file).unlink()
    refused(folder, file, "no such file")


@pytest.mark.parametrize("file", ["result.json", "requests.parquet", "timeline.parquet"])
def test_files_that_are_something_else(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    refused(folder, file)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"schema": "kinesim-result/0"}', '{"schema": 1}', "null"])
def test_json_of_another_kind_or_age(folder: Path, text: str) -> None:
    (folder / "result.json").write_text(text)
    refused(folder, "result.json", "schema", SCHEMA)


@pytest.mark.parametrize("key", ["summary", "operators", "deployment", "notes", "timing", "scenario", "gaps"])
def test_a_document_without_one_of_its_parts(folder: Path, key: str) -> None:
    document = json.loads((folder / "result.json").read_text())
    del document[key]
    (folder / "result.json").write_text(json.dumps(document))
    refused(folder, "result.json", key)


@pytest.mark.parametrize(
    ("key", "value"),
    [("summary", {}), ("summary", None), ("gaps", None), ("gaps", [[1]]), ("gaps", [1, 2]), ("scenario", 3)],
)
def test_a_document_with_parts_of_another_form(folder: Path, key: str, value: object) -> None:
    document = json.loads((folder / "result.json").read_text())
    document[key] = value
    (folder / "result.json").write_text(json.dumps(document))
    refused(folder, "result.json")


@pytest.mark.parametrize("file", ["requests.parquet", "timeline.parquet"])
def test_foreign_tables(folder: Path, file: str) -> None:
    pq.write_table(pa.table({"x": [1, 2, 3]}), folder / file)
    refused(folder, file, "missing")


@pytest.mark.parametrize("file", ["requests.parquet", "timeline.parquet"])
def test_tables_of_another_run(folder: Path, file: str, tmp_path: Path) -> None:
    save_result(result("chat"), tmp_path / "other")
    shutil.copy(tmp_path / "other" / file, folder / file)
    refused(folder, file, "another run")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        save_result(result("chat"), tmp_path / "file")
    assert (tmp_path / "file").read_text() == ""


def test_plain_data() -> None:
    numbers = {"a": np.float64(1.5), "b": [np.int64(2), float("nan")], "c": (np.bool_(True), float("inf")), "d": "x"}
    assert plain(numbers) == {"a": 1.5, "b": [2, None], "c": [True, None], "d": "x"}
    assert type(plain(np.int64(2))) is int and type(plain(np.float64(2))) is float
