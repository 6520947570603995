"""`kinesim compare`: errors and intervals are what their definitions say, and unlike things are named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import bench_files as files
import numpy as np
import pandas as pd
import pytest

import simulator as ks
from hwspecs.errors import InputError
from simulator.importing.comparing import compare_with
from simulator.outlooks import outlook
from simulator.result import Result

SCENARIO = {
    "name": "four",
    "gpu": "h200-sxm",
    "model": "Qwen/Qwen3-0.6B",
    "engine": "vllm",
    "workload": {
        "strategy": "chat",
        "requests": 12,
        "prompt_tokens": 100,
        "output_tokens": {"kind": "uniform", "low": 5, "high": 60},
        "arrivals": {"kind": "closed_loop", "concurrency": 4},
    },
}


@pytest.fixture(scope="module")
def result() -> Result:
    return ks.run(SCENARIO)


def as_measured(result: Result, folder: Path, factor: float = 1.0) -> Path:
    """The requests of a prediction as if they had been measured, all latencies `factor` times as long."""
    frame = result.requests_frame()
    table = pd.DataFrame(
        {
            "arrival_s": frame["submitted_s"], "input_len": frame["prompt_tokens"], "output_len": frame["generated"],
            "ttft_ms": 1e3 * factor * frame["ttft_s"], "e2e_ms": 1e3 * factor * frame["e2e_s"],
        }
    )  # fmt: skip
    path = folder / f"requests-{factor}.csv"
    table.to_csv(path, index=False)
    return path


def test_a_prediction_agrees_with_itself(result: Result, tmp_path: Path) -> None:
    compared = compare_with(result, as_measured(result, tmp_path))
    frame = compared.frame()
    assert set(frame.index) >= {"ttft_s.mean", "ttft_s.p99", "tpot_s.p50", "e2e_s.max", "output_tokens_per_s"}
    assert frame["error"].abs().max() < 1e-9
    assert frame["inside"].all()
    quantiles = compared.quantiles([0.25, 0.5])
    assert np.allclose(quantiles["e2e_s", "measured"], quantiles["e2e_s", "predicted"])


def test_error_and_interval_by_their_definitions(result: Result, tmp_path: Path) -> None:
    frame = compare_with(result, as_measured(result, tmp_path, 2.0)).frame()
    assert frame.loc["ttft_s.mean", "error"] == pytest.approx(-0.5)  # half of what was measured
    assert not frame.loc["ttft_s.mean", "inside"]
    ends = outlook(ks.scenario(SCENARIO)).intervals()["ttft_s.p90"]
    assert (frame.loc["ttft_s.p90", "low"], frame.loc["ttft_s.p90", "high"]) == pytest.approx(ends)


def test_percentiles_that_are_no_headline_are_compared(result: Result, tmp_path: Path) -> None:
    path = files.aiperf(tmp_path, time_to_first_token={"unit": "ms", "avg": 20.0, "p50": 20.0, "p95": 25.0})
    frame = compare_with(result, path, intervals=False).frame()
    assert frame.loc["ttft_s.p95", "predicted"] == pytest.approx(np.percentile(result.requests_frame()["ttft_s"], 95))
    assert frame["low"].isna().all()
    order = list(frame.index)
    assert order.index("ttft_s.p50") < order.index("ttft_s.p95") < order.index("tpot_s.mean")


def test_what_is_not_the_same_is_named(result: Result, tmp_path: Path) -> None:
    path = files.vllm(tmp_path, model_id="Qwen/Qwen3-8B", backend="sglang")
    found = {d.what: (d.predicted, d.measured) for d in compare_with(result, path, intervals=False).differences}
    assert found["requests"] == (12, 4)
    assert found["requests at a time"] == (4, 2)
    assert found["model"] == ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B")
    assert found["engine"] == ("vllm", "sglang")
    assert found["mean output tokens"][1] == 10.0 and "mean input tokens" not in found


@pytest.mark.parametrize(
    ("load", "what"),
    [
        ({"request_rate": 3.0, "max_concurrency": None}, "how requests are sent"),
        ({"request_rate": "inf", "max_concurrency": 4}, None),
    ],
)
def test_loads_of_another_kind(result: Result, tmp_path: Path, load: dict, what: str | None) -> None:
    compared = compare_with(result, files.vllm(tmp_path, **load), intervals=False)
    assert (what in {d.what for d in compared.differences}) == (what is not None)


def serving_table(folder: Path, *rows: str) -> Path:
    path = folder / "measured.csv"
    header = "gpu,model,engine,precision,input_len,output_len,concurrency,tp,ttft_ms,tpot_ms\n"
    path.write_text(header + "".join(f"{row}\n" for row in rows))
    return path


def test_the_row_that_fits_is_chosen(result: Result, tmp_path: Path) -> None:
    output = round(float(result.requests["output_tokens"].mean()))
    rows = [f"h200-sxm,Qwen/Qwen3-0.6B,vllm,bf16,100,{output},{users},1,{users},5" for users in (2, 4, 8)]
    path = serving_table(tmp_path, *rows)
    assert compare_with(result, path, intervals=False).measurement.load.concurrency == 4
    assert compare_with(result, path, row=3, intervals=False).measurement.load.concurrency == 8
    with pytest.raises(InputError, match="no such row; found 4; allowed: 1 to 3"):
        compare_with(result, path, row=4)
    with pytest.raises(InputError, match=r"none of 2 rows .* row 1 differs in requests at a time"):
        compare_with(result, serving_table(tmp_path, rows[0], rows[2]))
    with pytest.raises(InputError, match="2 of 2 rows have this deployment and load; allowed: --row 1 or 2"):
        compare_with(result, serving_table(tmp_path, rows[1], rows[1]))


def test_nothing_in_common(result: Result, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to compare"):
        compare_with(result, serving_table(tmp_path, "h200-sxm,Qwen/Qwen3-0.6B,vllm,bf16,100,9,4,1,,"))


def test_without_a_fitted_profile_there_is_no_interval(tmp_path: Path) -> None:
    ideal = ks.run(SCENARIO, profile="ideal")
    compared = compare_with(ideal, as_measured(ideal, tmp_path))
    assert compared.frame()["low"].isna().all() and "no interval" in compared.notes[0]


def test_a_saved_result_whose_trace_is_gone_is_compared_without_interval(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_len,output_len\n0,100,20\n0.5,100,10\n")
    workload = {"strategy": "chat", "trace": {"path": str(trace)}}
    saved = ks.run({**SCENARIO, "workload": workload})
    ks.save_result(saved, tmp_path / "saved")
    measured = as_measured(saved, tmp_path)
    trace.unlink()
    compared = ks.compare(tmp_path / "saved", measured)
    assert compared.frame()["low"].isna().all()
    assert any("cannot be simulated again" in note for note in compared.notes)


def test_a_result_of_another_version_is_refused(result: Result, tmp_path: Path) -> None:
    ks.save_result(result, tmp_path / "saved")
    path = tmp_path / "saved" / "result.json"
    document = json.loads(path.read_text()) | {"schema": "kinesim-result/0"}
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="is not a result of this version of kinesim"):
        ks.compare(path, as_measured(result, tmp_path))
    with pytest.raises(InputError, match="a saved result cannot be changed"):
        ks.compare(path, as_measured(result, tmp_path), ["seed=2"])


def test_command(result: Result, tmp_path: Path, kinesim: Callable) -> None:
    ks.save_result(result, tmp_path / "saved")
    saved, measured = str(tmp_path / "saved"), str(as_measured(result, tmp_path, 1.5))
    done = kinesim("compare", saved, measured, "--out", str(tmp_path / "c.svg"), "--format", "json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["schema"] == "kinesim-compare/1" and document["judged"] == len(document["metrics"])
    row = next(row for row in document["metrics"] if row["metric"] == "e2e_s.mean")
    assert math.isclose(row["error"], 1 / 1.5 - 1)
    assert "<svg" in (tmp_path / "c.svg").read_text()
    table = kinesim("compare", saved, measured, "--no-intervals")
    assert table.code == 0 and "-33.3 %" in table.out
