"""`kinesim plan` as a user meets it: the answer, its document and files, and what bad input is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.outlooks import run_stretched
from simulator.planning.candidates import scenario_of
from simulator.planning.display import show_plan
from simulator.planning.document import SCHEMA
from simulator.planning.judge import verdict_of
from simulator.planning.model import Space
from simulator.planning.planner import Answer, make_plan

SCENARIO = """\
name: small
gpu: h200-sxm
model: Qwen/Qwen3-0.6B
engine: vllm
profile: ideal
workload:
  strategy: {kind: chat}
  requests: 60
  prompt_tokens: {kind: uniform, low: 200, high: 2000}
  output_tokens: {kind: uniform, low: 20, high: 60}
  arrivals: {kind: poisson, rate: 120 /s}
objective: {ttft: 1 s, tpot: 20 ms}
"""
ASKED = ["--slo", "ttft.p99<=200ms", "--slo", "tpot.p90<=3ms"]
SPACE = ["--gpus", "h200-sxm", "--layouts", "tp1,tp2", "--max-gpus", "5", "--jobs", "1"]


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    file = tmp_path / "small.yaml"
    file.write_text(SCENARIO)
    return str(file)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """A plan with an error interval."""
    file = tmp_path_factory.mktemp("plan") / "measured.yaml"
    file.write_text(SCENARIO.replace("profile: ideal\n", ""))
    slo = ["ttft.p99<=200ms", "tpot.p90<=4ms"]
    return make_plan(file, slo, space=Space(("h200-sxm",), 5, ((1, 1, 1, 1), (2, 1, 1, 1))), jobs=1)


def test_the_answer_says_how_sure_it_is(measured: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(measured)
    printed = " ".join(capsys.readouterr().out.split())
    document = json.loads(json.dumps(measured.document(), allow_nan=False))
    best, other = document["best"], document["runner_up"]
    low, high = best["interval"]["low"], best["interval"]["high"]
    assert low["factor"] < 1 < high["factor"]
    assert f"80 % interval of all service times x {low['factor']:.3g} to x {high['factor']:.3g}" in printed
    tpot = best["reached"][1]
    assert tpot["at_interval"][0] < tpot["value"] < tpot["at_interval"][1]
    assert low["needed"]["replicas"] <= best["workers"]["replicas"] <= high["needed"]["replicas"]
    assert high["met"] == (high["needed"]["replicas"] == best["workers"]["replicas"])
    assert high["usd_per_hour"] == 4.0 * sum(high["needed"]["gpus"].values())
    assert best["highest_load"] >= 1 and f"up to {best['highest_load']:.2f} x" in printed
    assert "Runner-up: " in printed and other["why_it_lost"] in printed
    assert len(measured.frame()) == document["search"]["simulated"]


def test_every_key_of_the_document_is_documented(measured: Answer) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "plan.md").read_text(encoding="utf-8")
    words = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`([^`\n]+)`", page))))
    document = measured.document()
    best = document["best"]
    parts = [document, best, best["workers"], best["reached"][0], best["interval"]["low"], document["search"],
             document["prices"], document["objectives"][0]]  # fmt: skip
    assert {key for part in parts for key in part} - {"schema"} <= words


def test_the_ends_are_runs_with_all_times_stretched(measured: Answer) -> None:
    """Both are simulated anew here: the deployment at its slow end, and what is needed then with one replica less."""
    assert measured.best is not None and measured.plan.best is not None
    high, candidate = measured.best.high, measured.plan.best.candidate
    for tried, met in ((high.needed, True), (candidate, high.verdict.met)):
        assert tried is not None
        result = run_stretched(scenario_of(measured.base, tried), high.factor)
        assert verdict_of(result, measured.plan.objectives).met == met


def test_the_answer_comes_first_and_its_numbers_agree(kinesim: Any, scenario: str, tmp_path: Path) -> None:
    """4 USD a GPU-hour is the list price of an H200 (hwspecs/gpus/h200-sxm.yaml); a month has 730 hours."""
    done = kinesim("plan", scenario, *ASKED, *SPACE, "--out", str(tmp_path / "plan.svg"))
    assert done.code == 0, done.err
    assert done.out.startswith("Buy ") and "Objectives" in done.out and "Runner-up: " in done.out
    assert (tmp_path / "plan.svg").read_text().startswith("<?xml")
    document = json.loads(kinesim("plan", scenario, *ASKED, *SPACE, "--format", "json").out)
    assert document["schema"] == SCHEMA
    best, other = document["best"], document["runner_up"]
    gpus = sum(best["gpus"].values())
    assert best["usd_per_hour"] == 4.0 * gpus and best["usd_per_month"] == 2920.0 * gpus
    assert f"{2920 * gpus:,.2f} USD a month" in done.out
    assert best["usd_per_hour"] <= other["usd_per_hour"] and other["why_it_lost"]
    assert all(one["met"] and one["value"] <= one["limit"] for one in best["reached"])
    assert best["interval"] is None and "no error interval" in done.out  # of an ideal roofline
    assert best["sets"] == next(one["sets"] for one in document["front"] if one["gpus"] == best["gpus"])
    assert document["search"]["candidates"] == 5 + 2  # one to five replicas of a GPU, one or two of two
    run = json.loads(kinesim("run", scenario, *(f"--set={one}" for one in best["sets"]), "--format", "json").out)
    assert run["summary"]["latency"]["ttft_s"]["p99"] == best["metrics"]["ttft_s.p99"]
    assert run["summary"]["cost"]["gpus"] == gpus


def test_own_prices_and_tables(kinesim: Any, scenario: str, tmp_path: Path) -> None:
    prices, table = tmp_path / "prices.yaml", tmp_path / "plan.csv"
    prices.write_text("usd_per_gpu_hour: {h200-sxm: 2.5}\nsource: our contract\n")
    done = kinesim("plan", scenario, *ASKED, *SPACE, "--prices", str(prices), "--out", str(table))
    assert done.code == 0 and "2.5 USD per h200-sxm and hour: our contract" in done.out
    header, *rows = table.read_text().splitlines()
    assert "usd_per_hour" in header and len(rows) >= 2


def test_launch_arguments_are_printed_alone(kinesim: Any, scenario: str) -> None:
    done = kinesim("plan", scenario, *ASKED, *SPACE, "--format", "args")
    assert done.code == 0 and done.out.startswith("#!/bin/sh\n") and "vllm serve Qwen/Qwen3-0.6B" in done.out
    manifests = [d for d in yaml.safe_load_all(kinesim("plan", scenario, *ASKED, *SPACE, "--format", "k8s").out) if d]
    assert [one["kind"] for one in manifests] == ["Deployment", "Service"]


def test_what_nobody_can_meet_shows_the_closest_and_what_stops_it(kinesim: Any, scenario: str) -> None:
    asked = ["--slo", "ttft.p99<=1s", "--slo", "tpot.p99<=0.1ms"]
    done = kinesim("plan", scenario, *asked, *SPACE)
    words = "no candidate meets the objectives; closest: "
    assert done.code == 2 and done.err.startswith(f"kinesim: {words}") and done.err.count("\n") == 1
    assert "TPOT p99 is" in done.err and "where <= 100 µs is asked, with at most 5 GPUs" in done.err
    assert " ".join(done.out.split()).startswith("No" + words[2:])
    document = json.loads(kinesim("plan", scenario, *asked, *SPACE, "--format", "json").out)
    assert document["best"] is None and document["front"] == []
    missed = {one["objective"]: one["met"] for one in document["closest"]["reached"]}
    assert missed == {"ttft.p99": True, "tpot.p99": False}
    for output in ("args", "k8s"):
        done = kinesim("plan", scenario, *asked, *SPACE, "--format", output)
        assert done.code == 2 and done.out == "" and "what stops it" in done.err


def test_caps_on_gpus_price_and_power_are_kept(scenario: str) -> None:
    space = Space(("h200-sxm",), 5, ((1, 1, 1, 1),))
    wide = make_plan(scenario, "ttft.mean<=1h", space=space, jobs=1, sure=False)
    assert wide.plan.best is not None and wide.plan.best.candidate.gpus == 1
    # Five at 700 W of TDP are 3.5 kW; 1.4 kW is two of them, 9 USD an hour as well.
    for capped in (Space(space.gpus, 5, space.layouts, power_cap_w=1400.0),
                   Space(space.gpus, 5, space.layouts, max_usd_per_hour=9.0)):  # fmt: skip
        answer = make_plan(scenario, "ttft.mean<=1h", space=capped, jobs=1, sure=False)
        assert max(one.candidate.gpus for one in answer.plan.outcomes) == 2
        assert sum(one.count for one in answer.plan.pruned if "cap" in one.bound) == 3


def test_the_cap_that_leaves_nothing_is_named(kinesim: Any, scenario: str) -> None:
    """One H200 may draw 700 W; what the least that would serve needs is said in the first line."""
    for cap, told in (
        (("--power-cap", "10W"), "the power cap of 10 W, where at least 700 W would be needed (1 x h200-sxm"),
        (("--max-price", "0.01"), "the price cap of 0.01 USD/h, where at least 4.00 USD/h would be needed (1 x h200"),
        (("--layouts", "tp3"), "tensor parallelism over 3 GPUs does not divide num_attention_heads"),
    ):
        done = kinesim("plan", scenario, "--slo", "ttft.p99<=1s", *SPACE, *cap, "--format", "json")
        assert done.code == 2 and done.err.startswith("kinesim: no candidate meets the objectives; what stops it: ")
        assert told in done.err
        document = json.loads(done.out)
        assert document["closest"] is None and document["stopped_by"] in done.err


def test_an_answer_is_short_at_the_prompt(scenario: str) -> None:
    answer = make_plan(scenario, "ttft.mean<=1h", space=Space(("h200-sxm",), 2, ((1, 1, 1, 1),)), jobs=1, sure=False)
    assert repr(answer).startswith("<Plan ") and "Buy 1 x NVIDIA H200" in repr(answer) and len(repr(answer)) < 600
    page = answer._repr_html_()
    assert "Buy 1 x NVIDIA H200" in page and "<th>usd_per_hour</th>" in page


BAD = [
    ([], "--slo: no objective"),
    (["--slo", "ttft.p99<=2s", "--slo", "ttft.p99<=1s"], "ttft.p99 is limited twice"),
    (["--slo", "first_accepted.p90<=60s"], "no sample of this workload is ever accepted"),
    (["--slo", "goodput>=0.9", "--set", "objective=null"], "goodput needs the limits"),
    ([*ASKED, "--gpus", "h300"], "did you mean"),
    ([*ASKED, "--gpus", ""], "an empty entry"),
    ([*ASKED, "--max-gpus", "0"], "--max-gpus"),
    ([*ASKED, "--layouts", "2"], "--layouts: not a layout"),
    ([*ASKED, "--layouts", "tp8,tp8pp2", "--max-gpus", "4"], "--layouts: a replica of the smallest layout has 8 GPUs"),
    ([*ASKED, "--precision", "fp9"], "--precision: unknown format"),
    ([*ASKED, "--power-cap", "inf kW"], "--power-cap"),
    ([*ASKED, "--max-price", "nan"], "--max-price: not a price"),
    ([*ASKED, "--max-num-seqs", "many"], "--max-num-seqs"),
    ([*ASKED, "--prices", "none.yaml"], "none.yaml: no such file"),
    ([*ASKED, "--prices", "few.yaml"], "few.yaml: usd_per_gpu_hour: no price is known of a100-sxm, h100-sxm, b200-sxm"),
    (
        [*ASKED, "--out", "plan.gif"],
        "--out: unknown kind of file; found 'plan.gif'; allowed: .svg, .png, .csv, .parquet",
    ),
    ([*ASKED, "--set", "engine=none", "--format", "k8s"], "only a named engine can be launched"),
    ([*ASKED, "--samples", "4,8"], "--samples: this workload has no samples"),
]


@pytest.mark.parametrize(("words", "told"), BAD)
def test_bad_input_is_one_message(
    kinesim: Any, scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.yaml").write_text("usd_per_gpu_hour: {h200-sxm: 3}\n")
    done = kinesim("plan", scenario, *words, "--jobs", "1")
    assert done.code == 2 and done.out == ""
    assert told in done.err and done.err.startswith("kinesim: ") and done.err.count("\n") == 1
