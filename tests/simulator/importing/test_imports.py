"""`kinesim import`: what is written can be simulated and compared, and nothing is guessed or lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bench_files as files
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.importing.comparing import compare_with
from simulator.importing.imports import import_measurements, import_trace
from simulator.importing.served import Served
from simulator.importing.tracestatistics import trace_statistics
from simulator.running import run_scenario
from workloads.scenario import load_scenario
from workloads.traces import read_trace

H200 = Served(gpu="h200-sxm")


def written(folder: Path, name: str = "bench") -> dict:
    return yaml.safe_load((folder / f"{name}.yaml").read_text())


def test_detailed_run_is_replayed_request_by_request(tmp_path: Path) -> None:
    source, out = files.vllm(tmp_path, detailed=True), tmp_path / "out"
    imported = import_measurements("vllm-bench", [source], out, H200)
    assert [path.name for path in imported.files] == ["bench.yaml", "bench-requests.csv", "measured.csv"]
    result = run_scenario(load_scenario(out / "bench.yaml"))
    assert result.requests["prompt_tokens"].tolist() == [100] * 4
    assert result.requests["output_tokens"].tolist() == [3, 5, 11, 21]
    assert result.scenario["workload"]["arrivals"] == {"kind": "closed_loop", "concurrency": 2, "think_time": 0.0}
    row = pd.read_csv(out / "measured.csv").iloc[0]
    assert (row["gpu"], row["precision"], row["concurrency"], row["tp"]) == ("h200-sxm", "bf16", 2, 1)
    assert (row["ttft_ms"], row["tpot_ms"], row["output_len"]) == (250.0, 10.0, 10)
    compared = compare_with(result, source)
    assert compared.differences == ()
    table = compare_with(result, out / "bench-requests.csv", intervals=False)
    assert table.frame().loc["e2e_s.mean", "measured"] == pytest.approx(0.34)


def test_recorded_arrivals_at_a_rate_are_replayed(tmp_path: Path) -> None:
    source = files.vllm(tmp_path, detailed=True, request_rate=2.5, max_concurrency=None)
    import_measurements("vllm-bench", [source], tmp_path / "out", H200)
    result = run_scenario(load_scenario(tmp_path / "out" / "bench.yaml"))
    assert result.requests["submitted_s"].tolist() == pytest.approx([0.0, 0.5, 1.0, 1.25])


@pytest.mark.parametrize(
    ("load", "arrivals"),
    [
        ({"request_rate": 2.0, "max_concurrency": None}, {"kind": "poisson", "rate": 2.0}),
        ({"request_rate": 2.0, "max_concurrency": None, "burstiness": 4.0}, {"kind": "gamma", "rate": 2.0, "cv": 0.5}),
        ({"request_rate": "inf", "max_concurrency": None}, {"kind": "all_at_once"}),
        ({"request_rate": 2.0}, {"kind": "poisson", "rate": 2.0}),
        ({"request_rate": 9.0}, {"kind": "closed_loop", "concurrency": 2}),  # it reached 2 a second
    ],
)
def test_how_requests_were_sent(tmp_path: Path, load: dict, arrivals: dict) -> None:
    imported = import_measurements("vllm-bench", [files.vllm(tmp_path, **load)], tmp_path / "out", H200)
    data = written(tmp_path / "out")
    assert data["workload"]["arrivals"] == arrivals
    assert (data["workload"]["prompt_tokens"], data["workload"]["output_tokens"]) == (100, 10)
    assert any("only mean lengths are known" in note for note in imported.drafts[0].notes)
    assert (tmp_path / "out" / "measured.csv").exists() == (arrivals["kind"] == "closed_loop")


def test_what_nobody_said_is_left_empty_and_refused(tmp_path: Path) -> None:
    source = files.vllm(tmp_path, model_id="me/my-model", backend="openai")
    imported = import_measurements("vllm-bench", [source], tmp_path / "out")
    assert set(imported.drafts[0].missing) == {"gpu", "model", "engine"}
    text = (tmp_path / "out" / "bench.yaml").read_text()
    assert "gpu:  # MISSING: which GPU" in text and "the file says me/my-model, which is not bundled" in text
    with pytest.raises(InputError, match=r"bench\.yaml:\d+: gpu: of the wrong type \(the value is empty\)"):
        load_scenario(tmp_path / "out" / "bench.yaml")
    filled = load_scenario(tmp_path / "out" / "bench.yaml", ["gpu=h200-sxm", "model=qwen3-0.6b", "engine=sglang"])
    assert filled.config.engine.name == "sglang"


def test_unknown_arrivals_are_not_taken_for_all_at_once(tmp_path: Path) -> None:
    source = files.aiperf(tmp_path, input_config={})
    served = Served(gpu="h200-sxm", model="qwen3-0.6b", engine="vllm")
    imported = import_measurements("aiperf", [source], tmp_path / "out", served)
    assert list(imported.drafts[0].missing) == ["workload.arrivals"]
    (scenario,) = (path for path in imported.files if path.suffix == ".yaml")
    with pytest.raises(InputError, match=r"workload\.arrivals"):
        load_scenario(scenario)
    told = Served("h200-sxm", "qwen3-0.6b", "vllm", sets=["workload.arrivals={kind: closed_loop, concurrency: 2}"])
    assert import_measurements("aiperf", [source], tmp_path / "told", told).rows[0]["concurrency"] == 2


def test_several_runs_of_one_name_keep_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    sources = [files.vllm(tmp_path), files.vllm(tmp_path / "a", max_concurrency=8)]
    imported = import_measurements("vllm-bench", sources, tmp_path / "out", H200)
    assert [m.name for m in imported.measurements] == ["bench", "bench-2"]
    assert [row["concurrency"] for row in imported.rows] == [2, 8]
    assert imported.frame()["concurrency"].tolist() == [2, 8]


def test_files_that_are_there_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_measurements("vllm-bench", [files.vllm(tmp_path)], out, H200)
    before = (out / "bench.yaml").read_text()
    with pytest.raises(InputError, match="is there already"):
        import_measurements("vllm-bench", [files.vllm(tmp_path, max_concurrency=4)], out, H200)
    assert (out / "bench.yaml").read_text() == before
    import_measurements("vllm-bench", [files.vllm(tmp_path, max_concurrency=4)], out, H200, force=True)
    assert "concurrency: 4" in (out / "bench.yaml").read_text()


@pytest.mark.parametrize(
    ("served", "words"),
    [
        (Served(gpu="h2000"), "gpu: unknown GPU"),
        (Served(gpu="h200-sxm", precision="fp7"), "precision"),
        (Served(gpu="h200-sxm", sets=["parallelism.tensor=x"]), "parallelism.tensor"),
        (Served(gpu="h200-sxm", sets=["engin=vllm"]), "engin"),
        (Served(gpu="h200-sxm", sets=["nonsense"]), "not an assignment"),
    ],
)
def test_what_the_user_says_is_checked_before_anything_is_written(tmp_path: Path, served: Served, words: str) -> None:
    with pytest.raises(InputError, match=words):
        import_measurements("vllm-bench", [files.vllm(tmp_path, detailed=True)], tmp_path / "out", served)
    assert not (tmp_path / "out").exists()


BAD = {
    "import vllm-bench none.json": "none.json: no such file",
    "import vllm-bench bench.json --out bench.json": "--out: cannot be written to (bench.json is not a folder)",
    "import vllm-bench bench.json --model nope --gpu h200-sxm": "model: unknown model; found 'nope'",
    "import aiperf bench.json": "not an export of AIPerf; found 'date, endpoint_type",
    "import azure bench.json": "not a trace of this kind: one JSON object a line",
    "import azure trace.csv --gpu h20000": "gpu: unknown GPU; found 'h20000'",
    "import azure trace.csv --set a=b": "a: ",
    "import vllm-bench": "Missing argument 'FILE...'",
    "compare none trace.csv": "unknown scenario; found 'none'",
    "compare chat-poisson none.csv": "none.csv: no such file",
    "compare chat-poisson trace.csv": "no column says how long requests took",
    "compare chat-poisson bench.json --out x.pdf": "x.pdf: unknown kind of picture",
    "compare chat-poisson bench.json --row 2 --set workload.requests=2": "--row: no such row; found 2; allowed: 1 to 1",
    "compare empty trace.csv": "empty/result.json: no such file",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input_is_one_message(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinesim: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    files.vllm(tmp_path)
    (tmp_path / "trace.csv").write_text("arrival_s,input_len,output_len\n0,10,10\n")
    (tmp_path / "empty").mkdir()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    done = kinesim(*command.split())
    assert done.code == 2 and done.out == "", done.out
    assert BAD[command] in done.err and len(done.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


# ---- traces ----------------------------------------------------------------------------------------------------------

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:00:00.0000000,100,10
2023-11-16 18:00:01.0000000,200,20
2023-11-16 18:00:04.0000000,300,30
"""
MOONCAKE = """{"timestamp": 0, "input_length": 1024, "output_length": 10, "hash_ids": [1, 2]}
{"timestamp": 1000, "input_length": 1536, "output_length": 20, "hash_ids": [1, 2, 3]}
{"timestamp": 1000, "input_length": 512, "output_length": 5, "hash_ids": [3]}
"""


def test_azure_trace(tmp_path: Path) -> None:
    source = tmp_path / "azure.csv"
    source.write_text(AZURE)
    served = Served("h200-sxm", "qwen3-0.6b", "vllm")
    figures = import_trace("azure", source, tmp_path / "out", served).trace
    assert figures is not None
    assert (figures.requests, figures.duration_s, figures.rate) == (3, 4.0, 0.5)
    assert figures.gap_cv == pytest.approx(0.5)  # gaps of 1 and 3 s: deviation 1 over mean 2
    assert (figures.input_len["mean"], figures.output_len["max"]) == (200.0, 30.0)
    assert figures.reusable is None and figures.sessions == 3
    assert run_scenario(load_scenario(tmp_path / "out" / "azure.yaml")).requests["submitted_s"].tolist() == [0, 1, 4]
    copied = import_trace("azure", source, tmp_path / "copy", served, copy=True)
    assert written(tmp_path / "copy", "azure")["workload"]["trace"] == {"path": "azure.csv"}
    assert (tmp_path / "copy" / "azure.csv").read_text().startswith("arrival_s,input_len,output_len\n0.0,100,10\n")
    assert [path.name for path in copied.files] == ["azure.yaml", "azure.csv"]
    assert run_scenario(load_scenario(tmp_path / "copy" / "azure.yaml")).summary["requests"]["finished"] == 3


def test_mooncake_trace(tmp_path: Path) -> None:
    source = tmp_path / "trace.jsonl"
    source.write_text(MOONCAKE)
    imported = import_trace("mooncake", source, tmp_path / "out", Served(model="qwen3-0.6b"), copy=True)
    figures = imported.trace
    assert figures is not None
    # The second request begins with both blocks of the first; the third with one that was seen, but led no prompt:
    # 1,024 of 3,072 tokens.
    assert figures.reusable == pytest.approx(1 / 3)
    assert any("arrive at the same instant" in note for note in figures.notes)
    assert (tmp_path / "out" / "trace.jsonl").read_text() == MOONCAKE
    assert set(imported.drafts[0].missing) == {"gpu", "engine"}


def test_the_other_kind_of_trace_is_named(tmp_path: Path) -> None:
    source = tmp_path / "trace.csv"
    source.write_text(AZURE)
    with pytest.raises(InputError, match="not a trace of this kind: a CSV; found 'mooncake'; allowed: azure"):
        import_trace("mooncake", source, tmp_path / "out")


@pytest.mark.parametrize("kind", ["azure", "mooncake"])
def test_an_empty_trace_is_said_to_be(tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match=r"empty\.csv: is empty"):
        import_trace(kind, tmp_path / "empty.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_trace_is_not_replaced_by_its_copy(tmp_path: Path) -> None:
    source = tmp_path / "azure.csv"
    source.write_text(AZURE)
    with pytest.raises(InputError, match="the copy would replace the trace itself"):
        import_trace("azure", source, tmp_path, copy=True, force=True)
    assert source.read_text() == AZURE


def test_requests_beyond_the_context_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "long.csv"
    source.write_text("arrival_s,input_len,output_len\n0,40000,1000\n1,10,10\n500,10,1\n")
    figures = import_trace("azure", source, tmp_path / "out", Served(model="qwen3-0.6b")).trace
    assert figures is not None
    assert any("1 requests are longer than the model's context of 40,960" in note for note in figures.notes)
    assert any("nothing arrives for 499 s after 1 s" in note for note in figures.notes)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 9999), st.integers(1, 999)), min_size=1, max_size=30))
def test_normalised_trace_is_the_same_trace(tmp_path: Path, rows: list[tuple[int, int, int]]) -> None:
    source = tmp_path / "any.csv"
    rows = sorted(rows)
    source.write_text("arrival_s,input_len,output_len\n" + "".join(f"{t / 1000},{a},{n}\n" for t, a, n in rows))
    import_trace("azure", source, tmp_path / "out", copy=True, force=True)
    first, second = read_trace(source), read_trace(tmp_path / "out" / "any.csv")
    for name in ("arrival_s", "input_len", "output_len"):
        assert getattr(first, name).tolist() == getattr(second, name).tolist()
    assert trace_statistics(first) == trace_statistics(second)
