"""Readers of measurements: what is in the files of other tools, in SI units, and what is wrong with others."""

from __future__ import annotations

import json
import math
from pathlib import Path

import bench_files as files
import numpy as np
import pytest

from hwspecs.errors import InputError
from simulator.importing.aiperf import read_aiperf
from simulator.importing.measured import read_measured
from simulator.importing.vllmbench import read_vllm_bench

# By hand, of outputs 3, 5, 11, 21, TTFT 0.1 to 0.4 s and 10 ms a token: end to end 0.12, 0.24, 0.40, 0.60 s.
E2E = [0.12, 0.24, 0.40, 0.60]


def test_vllm_statistics(tmp_path: Path) -> None:
    (found,) = read_vllm_bench(files.vllm(tmp_path))
    assert found.statistics == pytest.approx(
        {
            "makespan_s": 2.0, "requests_per_s": 2.0, "output_tokens_per_s": 20.0,
            "ttft_s.mean": 0.25, "ttft_s.p50": 0.25, "ttft_s.p99": 0.397,
            "tpot_s.mean": 0.01, "tpot_s.p50": 0.01, "tpot_s.p99": 0.01,
        }
    )  # fmt: skip
    assert (found.load.requests, found.load.input_len, found.load.output_len) == (4, 100.0, 10.0)
    assert (found.load.concurrency, found.load.rate) == (2, math.inf)
    assert found.facts == {"model": "Qwen/Qwen3-0.6B", "engine": "vllm"} and not found.requests


def test_vllm_details(tmp_path: Path) -> None:
    (found,) = read_vllm_bench(files.vllm(tmp_path, detailed=True))
    assert found.requests["arrival_s"].tolist() == [0.0, 0.5, 1.0, 1.25]
    assert found.requests["e2e_s"] == pytest.approx(E2E)
    assert found.requests["tpot_s"] == pytest.approx([0.01] * 4)
    assert found.statistics["e2e_s.mean"] == pytest.approx(0.34)
    assert found.statistics["e2e_s.p90"] == pytest.approx(0.54)  # 0.4 + 0.7 (0.6 - 0.4)
    assert found.statistics["itl_s.max"] == pytest.approx(0.01)
    assert found.statistics["ttft_s.mean"] == 0.25  # what the tool says, and 0.25 by the requests


def test_vllm_failed_requests_are_left_out(tmp_path: Path) -> None:
    path = files.vllm(
        tmp_path, detailed=True, completed=3, failed=1, total_output_tokens=35, total_input_tokens=300,
        errors=["", "timeout", "", ""], output_lens=[3, 0, 11, 21],
    )  # fmt: skip
    (found,) = read_vllm_bench(path)
    assert found.requests["output_len"].tolist() == [3, 11, 21]
    assert "1 of 4 requests failed" in found.notes[0]


def test_vllm_appended_runs(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    lines = [json.dumps({**files.VLLM, "max_concurrency": users}) for users in (2, 8)]
    path.write_text("\n".join(lines))
    assert [m.load.concurrency for m in read_vllm_bench(path)] == [2, 8]
    assert [m.name for m in read_vllm_bench(path)] == ["runs-1", "runs-2"]


@pytest.mark.parametrize(("burstiness", "cv"), [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5), (math.inf, 0.0)])
def test_vllm_burstiness_is_a_gamma_shape(tmp_path: Path, burstiness: float, cv: float) -> None:
    (found,) = read_vllm_bench(files.vllm(tmp_path, request_rate=3.0, max_concurrency=None, burstiness=burstiness))
    assert (found.load.rate, found.load.cv) == (3.0, cv)


def test_aiperf_statistics_and_the_records_beside_them(tmp_path: Path) -> None:
    path = files.aiperf(tmp_path)
    alone = read_aiperf(path)
    assert alone.statistics["tpot_s.mean"] == pytest.approx(0.01)  # its inter-token latency is a request's mean
    assert "itl_s.mean" not in alone.statistics and not alone.requests
    assert alone.statistics["ttft_s.p95"] == pytest.approx(0.385)
    assert (alone.load.concurrency, alone.load.rate, alone.facts["model"]) == (2, None, "Qwen/Qwen3-0.6B")
    files.records(tmp_path)
    both = read_aiperf(tmp_path)
    assert both.requests["arrival_s"] == pytest.approx([0.0, 0.5, 1.0, 1.25], abs=1e-6)
    assert both.requests["e2e_s"] == pytest.approx(E2E)
    assert both.requests["output_len"].tolist() == [3, 5, 11, 21]
    assert both.statistics["itl_s.mean"] == pytest.approx(0.01)
    assert both.load.failed == 1


def test_aiperf_configuration_of_newer_versions(tmp_path: Path) -> None:
    config = {
        "models": {"items": [{"name": "Qwen/Qwen3-8B"}]},
        "phases": [
            {"name": "warmup", "type": "concurrency", "concurrency": 1},
            {"name": "profiling", "type": "constant", "rate": 4.0, "concurrency": 64},
        ],
    }
    found = read_aiperf(files.aiperf(tmp_path, input_config=config))
    assert (found.load.concurrency, found.load.rate, found.load.cv) == (64, 4.0, 0.0)
    assert found.facts["model"] == "Qwen/Qwen3-8B"


def test_aiperf_csv(tmp_path: Path) -> None:
    path = tmp_path / "profile_export_aiperf.csv"
    path.write_text(
        "Metric,avg,min,max,p50,p90,p99,std\n"
        "Inter Token Latency (ms),10.00,10.00,10.00,10.00,10.00,10.00,0.00\n"
        "Output Sequence Length (tokens),10.00,3.00,21.00,8.00,18.00,20.70,7.00\n"
        "Time to First Token (ms),250.00,100.00,400.00,250.00,370.00,397.00,111.80\n"
        "\nMetric,Value\nBenchmark Duration (sec),2.00\nRequest Count,4\nRequest Throughput (requests/sec),2.00\n"
    )
    found = read_aiperf(path)
    assert found.statistics["ttft_s.p90"] == pytest.approx(0.37) and found.statistics["makespan_s"] == 2.0
    assert found.load.requests == 4 and found.load.output_len == 10.0 and not found.load.known


def test_request_table_in_milliseconds_or_seconds(tmp_path: Path) -> None:
    rows = "arrival_s,input_len,output_len,ttft_ms,e2e_ms\n7,100,3,100,120\n7.5,100,5,200,240\n8,100,11,,\n"
    path = tmp_path / "requests.csv"
    path.write_text(rows)
    (found,) = read_measured(path)
    assert found.requests["arrival_s"].tolist() == [0.0, 0.5]
    assert found.requests["tpot_s"] == pytest.approx([0.01, 0.01])
    assert found.load.failed == 1 and "1 of 3 requests" in found.notes[0]
    path.write_text("input_len,output_len,ttft_s,e2e_s\n100,3,0.1,0.12\n")
    assert read_measured(path)[0].statistics["tpot_s.mean"] == pytest.approx(0.01)
    path.write_text("output_len,ttft_ms,tpot_ms\n3,100,10\n1,100,\n")
    assert read_measured(path)[0].requests["e2e_s"] == pytest.approx([0.12, 0.1])


def test_serving_table_has_a_measurement_a_row(tmp_path: Path) -> None:
    path = tmp_path / "measured.csv"
    path.write_text(
        "gpu,model,engine,precision,input_len,output_len,concurrency,tp,ttft_ms,tpot_ms\n"
        "h200-sxm,Qwen/Qwen3-8B,vllm,bf16,1000,100,8,1,50,\n"
        "h200-sxm,Qwen/Qwen3-8B,vllm,bf16,1000,100,16,2,80,9\n"
    )
    first, second = read_measured(path)
    assert first.statistics == {"ttft_s.mean": 0.05} and second.statistics["tpot_s.mean"] == pytest.approx(0.009)
    assert second.facts["tp"] == 2 and second.load.concurrency == 16 and second.load.requests is None


def test_each_file_is_told_by_its_content(tmp_path: Path) -> None:
    assert read_measured(files.vllm(tmp_path))[0].tool == "vllm-bench"
    assert read_measured(files.aiperf(tmp_path))[0].tool == "aiperf"
    assert read_measured(files.records(tmp_path))[0].tool == "aiperf"
    assert read_measured(tmp_path)[0].tool == "aiperf"


BAD = {
    "empty.json": ("", "the file is empty"),
    "cut.json": ('{"completed": 4, "dura', "is not valid JSON"),
    "list.json": ("[1, 2]", "not a measurement"),
    "other.json": ('{"a": 1}', "not a measurement"),
    "result.json": ('{"schema": "kinesim-result/1"}', "is a result of kinesim, not a measurement"),
    "embedding.json": ('{"completed": 4, "duration": 1.0, "total_input_tokens": 4}', "not a run that generates text"),
    "none.json": (json.dumps({**files.VLLM, "completed": 0}), "no request was answered"),
    "text.json": (json.dumps({**files.VLLM, "duration": "2"}), "duration: not a number in range"),
    "minus.json": (json.dumps({**files.VLLM, "mean_ttft_ms": -1}), "mean_ttft_ms: not a number in range"),
    "lost.json": (json.dumps({**files.VLLM, **files.DETAILS, "ttfts": [0.1]}), "ttfts: not one number a request"),
    "words.json": (json.dumps({**files.VLLM, **files.DETAILS, "ttfts": ["a"] * 4}), "not a list of numbers"),
    "unit.json": (json.dumps({**files.AIPERF, "time_to_first_token": {"unit": "h", "avg": 1}}), "unknown unit"),
    "line.jsonl": ('{"metadata": {}}\n{', "line.jsonl:2: is not valid JSON"),
    "failed.jsonl": ('{"metadata": {}, "error": {"code": 500}}', "no request was answered"),
    "start.jsonl": (json.dumps({"metadata": {}, "metrics": {"request_latency": {"value": 1}}}), "request_start_ns"),
    "names.csv": ("a,b\n1,2\n", "no column says how long requests took"),
    "rows.csv": ("ttft_ms\n", "has no rows"),
    "cell.csv": ("ttft_ms,input_len\n5,10\nfast,10\n", "row 2, column ttft_ms: not a number; found 'fast'"),
    "length.csv": ("ttft_ms,input_len\n5,0\n", "request 1, input_len: not a length"),
    "time.csv": ("ttft_ms,input_len\n-5,10\n", "request 1, ttft_s: not a time"),
    "serving.csv": ("gpu,concurrency,ttft_ms\nh200-sxm,4,5\n", "the column model is missing"),
    "metric.csv": ("Metric,avg\nNothing (ms),1\n", "not an export of AIPerf"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_measurement_is_refused(tmp_path: Path, name: str) -> None:
    content, words = BAD[name]
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=words.replace("(", r"\(")) as error:
        read_measured(path)
    assert name in str(error.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_measured(tmp_path / "none.csv")
    with pytest.raises(InputError, match="no export of AIPerf in this folder"):
        read_measured(tmp_path)


def test_requests_without_streaming_have_no_ttft(tmp_path: Path) -> None:
    (found,) = read_vllm_bench(
        files.vllm(tmp_path, detailed=True, ttfts=[0.0] * 4, latencies=[1.0, 2.0, 3.0, 4.0], mean_ttft_ms=0.0)
    )
    assert np.isnan(found.requests["ttft_s"]).all() and "ttft_s.mean" not in found.statistics
    assert found.statistics["e2e_s.mean"] == 2.5
