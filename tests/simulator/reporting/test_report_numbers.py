"""What a report is made of, without a browser: bins, curves, amounts, markup, comparisons, the command."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.headline import METRICS, headline
from simulator.reporting.amounts import amount, change, time_ticks
from simulator.reporting.bins import bin_counts, bin_edges, bin_most, bin_totals
from simulator.reporting.curves import PROBABILITIES, courses, distributions, problems
from simulator.reporting.markup import element, script_json
from simulator.reporting.palette import (
    BOUND_COLOURS,
    IDLE_COLOUR,
    MEMORY_COLOURS,
    PAGE,
    PAGE_DARK,
    RESULT_COLOURS,
    contrast,
)
from simulator.reporting.report import report
from simulator.reporting.roofs import rooflines
from simulator.reporting.sections import known_intervals
from simulator.result import Result
from simulator.resultwords import BOUND_TEXT, MEMORY_TEXT
from simulator.running import run_scenario
from simulator.store import save_result
from workloads.scenario import load_scenario

BEST_OF = ("workload.requests=6", "workload.strategy.samples=4", "workload.output_tokens.max=600")
POOLS = ("workload.requests=30", "disaggregation={prefill: {replicas: 2}, decode: {replicas: 1}}")


def made(name: str, *sets: str) -> Result:
    return run_scenario(load_scenario(name, sets))


@pytest.fixture(scope="module")
def best_of() -> Result:
    return made("aime24-best-of-32", *BEST_OF)


@pytest.fixture(scope="module")
def starved() -> Result:
    """With preemptions: beside the weights of 16.4 GB little of 21 GB is left for KV."""
    return made(
        "aime24-best-of-32", *BEST_OF, "workload.strategy.samples=8", "gpu.memory.capacity=21 GB",
        "engine.max_num_seqs=20", "engine.max_model_len=2000",
    )  # fmt: skip


@pytest.fixture(scope="module")
def pools() -> Result:
    return made("chat-poisson", *POOLS)


# ---- bins ------------------------------------------------------------------------------------------------------------

ROWS = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 60), st.floats(0, 9)), min_size=1, max_size=40)


@given(ROWS, st.integers(1, 37))
@settings(max_examples=60, deadline=None)
def test_bins_are_what_a_loop_over_rows_and_bins_finds(rows: list[tuple[float, float, float]], count: int) -> None:
    start, duration, value = (np.array(c) for c in zip(*rows, strict=True))
    edges = bin_edges(0.0, 160.0, count)
    totals = [sum(v * max(0.0, min(b, s + d) - max(a, s)) for s, d, v in rows) for a, b in itertools.pairwise(edges)]
    assert bin_totals(edges, start, duration, value) == pytest.approx(totals, rel=1e-9, abs=1e-7)
    most = bin_most(edges, start, duration, value)
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        inside = [v for s, d, v in rows if s < b - 1e-9 and s + d > a + 1e-9]
        touching = [v for s, d, v in rows if s <= b + 1e-9 and s + d >= a - 1e-9]
        assert max(inside, default=0.0) <= most[i] <= max(touching, default=0.0)


def test_bins_by_hand() -> None:
    # Two rows: 3 from 1 s to 4 s, 5 from 3.5 s to 3.6 s; bins of 2 s: 0-2, 2-4, 4-6.
    edges = bin_edges(0.0, 6.0, 3)
    start, duration, value = np.array([1.0, 3.5]), np.array([3.0, 0.1]), np.array([3.0, 5.0])
    assert bin_totals(edges, start, duration, value) == pytest.approx([3.0, 6.5, 0.0])
    assert bin_most(edges, start, duration, value).tolist() == [3.0, 5.0, 0.0]
    assert bin_counts(edges, np.array([0.0, 1.9, 2.0, 6.0])).tolist() == [2, 1, 1]


# ---- curves ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["best_of", "starved", "pools"])
def test_curves_go_through_the_numbers_of_the_summary(which: str, request: pytest.FixtureRequest) -> None:
    result = request.getfixturevalue(which)
    for found in distributions(result):
        told = result.summary["latency"][found.key]
        at = {name: float(np.interp(q, PROBABILITIES, found.seconds)) for name, q in
              (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))}  # fmt: skip
        assert at == {name: told[name] for name in at}, found.key
        assert (np.diff(found.seconds) >= 0).all()


def test_courses_add_up_to_the_summary(starved: Result, pools: Result) -> None:
    """Tokens, preemptions, the mean batch and the highest KV use, from bins."""
    (course,) = courses(starved)
    series = {s.title.partition(",")[0]: s for s in course.series}
    width = course.edges[1]
    assert series["output tokens per second"].mean.sum() * width == pytest.approx(starved.summary["tokens"]["output"])
    assert starved.summary["requests"]["preemptions"] > 0
    assert series["preemptions in each bin"].mean.sum() == starved.summary["requests"]["preemptions"]
    busy = starved.timeline["duration_s"].sum() / starved.summary["makespan_s"]
    mean = starved.summary["batch"]["mean_decode_seqs"] * busy
    assert series["decoding sequences"].mean.mean() == pytest.approx(mean)
    most = series["KV cache in use"].most
    assert most is not None and most.max() == pytest.approx(100 * starved.summary["kv"]["peak_use"], abs=2)
    decode, prefill = courses(pools)
    assert (decode.kind, decode.workers, prefill.kind, prefill.workers) == ("decode", 1, "prefill", 2)
    tokens = {s.title.partition(",")[0]: s.mean.sum() * c.edges[1] for c in (decode, prefill) for s in c.series}
    assert tokens["output tokens per second"] == pytest.approx(pools.summary["tokens"]["output"])
    assert tokens["prompt tokens per second"] == pytest.approx(pools.summary["tokens"]["prefilled"])


def test_drafts_that_are_not_accepted_are_no_output() -> None:
    """Each sequence advances by the mean, 1 + 0.4 + 0.16 + 0.064; its last step may bring fewer."""
    drafting = ("workload.requests=40", "speculation={method: ngram, tokens: 3, acceptance: 0.4}")
    result = made("chat-poisson", *drafting)
    (course,) = courses(result)
    (rate,) = (s.mean for s in course.series if s.title.startswith("output tokens"))
    assert rate.sum() * course.edges[1] == pytest.approx(result.summary["tokens"]["output"], rel=2e-3)


def test_problems_are_those_of_the_result(best_of: Result) -> None:
    found = problems(best_of)
    assert found is not None and found.total == 6
    told = best_of.document()["problems"]
    assert found.last_s.tolist() == sorted(told["last_s"])
    assert [told["accepted"][n] for n in found.number] == found.accepted.tolist()
    thinned = problems(best_of, most=3)
    assert thinned is not None and len(thinned.number) == 3 and thinned.last_s[-1] == max(told["last_s"])


def test_points_are_below_their_roofs(best_of: Result) -> None:
    """Under the ideal profile no operator is above its roof, and one bound by memory is on it."""
    ideal = made("aime24-best-of-32", *BEST_OF, "profile=ideal")
    (roofline,) = rooflines(ideal)
    shares = [p.of_roof for p in roofline.points if p.of_roof is not None]
    assert shares and max(shares) <= 1 + 1e-9
    decode = next(p for p in roofline.points if p.name == "attention_decode")
    assert decode.bound == "memory" and decode.of_roof == pytest.approx(1, rel=1e-9)
    assert sum(p.share for p in rooflines(best_of)[0].points) == pytest.approx(1)


# ---- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("makespan_s", 2646.0, "44.1 min"),
        ("usd", 2.9419, "2.94 USD"),
        ("usd", 1.3, "1.30 USD"),
        ("usd_per_solved", 0.098065, "0.0981 USD"),
        ("usd", 1304.2, "1,304 USD"),
        ("energy_j", 3.6e6, "1 kWh"),
        ("goodput_share", 0.9956, "99.6 %"),
        ("output_tokens_per_s", 3545.8, "3,546/s"),
        ("preemptions", 3332.0, "3,332"),
        ("usd", None, "-"),
    ],
)
def test_amounts(key: str, value: float | None, text: str) -> None:
    assert amount(key, value) == text


def test_every_metric_can_be_written() -> None:
    assert all(amount(key, 0.0) and amount(key, 1.234e7) for key in METRICS)


@pytest.mark.parametrize(
    ("value", "base", "text"),
    [(80, 100, "−20.0 %"), (150, 100, "+50.0 %"), (400, 100, "x 4"), (10, 100, "x 0.1"), (5, 5, "same"), (5, 0, ""),
     (100.0001, 100, "±0.0 %")],
)  # fmt: skip
def test_changes(value: float, base: float, text: str) -> None:
    assert change(value, base) == text


@given(st.floats(1e-6, 1e6), st.floats(1.01, 1e6))
@settings(max_examples=60, deadline=None)
def test_axes_have_some_ticks_and_not_too_many(low: float, ratio: float) -> None:
    ticks, texts = time_ticks(low, low * ratio)
    assert len(ticks) == len(texts) == len(set(texts)) and 1 <= len(ticks) <= 8
    assert all(low * 0.99 <= t <= low * ratio * 1.01 for t in ticks)


def test_nothing_a_user_writes_becomes_markup() -> None:
    nasty = "</script><script>alert(1)</script>\"'&"
    assert "<script>" not in element("p", nasty, title=nasty)
    assert "<" not in script_json({"a": nasty}) and json.loads(script_json({"a": nasty})) == {"a": nasty}


def test_colours_stand_out_in_light_and_dark() -> None:
    assert set(BOUND_COLOURS) == set(BOUND_TEXT) and set(MEMORY_COLOURS) == set(MEMORY_TEXT)
    for colour in (*BOUND_COLOURS.values(), *RESULT_COLOURS, *MEMORY_COLOURS.values(), IDLE_COLOUR):
        assert min(contrast(colour, PAGE), contrast(colour, PAGE_DARK)) >= 3, colour
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


# ---- comparisons -----------------------------------------------------------------------------------------------------


def test_intervals_without_another_simulation(best_of: Result) -> None:
    """What is proportional to the time has the interval of the time; rates have it upside down."""
    low, high = best_of.summary["interval"]["makespan_s"]
    values, known = headline(best_of.summary), known_intervals(best_of)
    assert known["makespan_s"] == pytest.approx((low, high))
    assert known["usd"] == pytest.approx((low / 3600 * 4, high / 3600 * 4))  # one H200 at 4 USD an hour
    assert known["output_tokens_per_s"] == pytest.approx(
        (best_of.summary["tokens"]["output"] / high, best_of.summary["tokens"]["output"] / low)
    )
    assert known["tpot_s.mean"] == tuple(best_of.summary["interval"]["tpot_s"])
    for key, ends in known.items():
        assert ends is None or ends[0] <= values[key] <= ends[1], key


def test_intervals_by_simulating_the_ends(best_of: Result) -> None:
    """All metrics have one; with all at once, that of the time is the factor on the steps."""
    found = report(best_of, intervals=True)
    rows = {row.metric.key: row for row in found.comparison.rows}
    assert all(row.intervals[0] is not None for row in rows.values())
    low, high = best_of.summary["interval"]["kernel_time"]
    value = rows["makespan_s"].values[0]
    assert rows["makespan_s"].intervals[0] == pytest.approx((value * low, value * high), rel=1e-6)
    assert "simulated again at both ends" in found.html


def test_results_side_by_side(best_of: Result, starved: Result, pools: Result) -> None:
    two = report([best_of, starved], labels=["a", "b"])
    rows = {row.metric.key: row for row in two.comparison.rows}
    assert rows["tpot_s.mean"].best == (1,) and rows["mfu"].best == ()
    assert rows["makespan_s"].best == () == rows["usd"].best  # different work: nobody wins by its total
    assert {d.path: d.values for d in two.comparison.differences}["engine.max_num_seqs"] == (256, 20)
    assert not two.comparison.same_work  # 4 and 8 samples
    document = two.document()
    assert document["schema"] == "kinesim-report/1" and json.loads(json.dumps(document, allow_nan=False)) == document
    frame = two.frame()
    assert frame.loc["usd", "a"] == best_of.summary["cost"]["usd"] and list(frame.columns) == ["a", "b"]
    three = report([best_of, starved, pools])
    paths = {d.path for d in three.comparison.differences}
    assert (
        "disaggregation" in paths
        and "workload.strategy.kind" in paths
        and not any(p.startswith("disaggregation.") for p in paths)
    )
    assert three.comparison.labels == ("1 aime24-best-of-32", "2 aime24-best-of-32", "3 chat-poisson")


def test_intervals_that_overlap_are_said_to(best_of: Result) -> None:
    """0.1 % more bandwidth makes a run faster, and by less than what is known of either."""
    faster = made("aime24-best-of-32", *BEST_OF, "gpu.memory.bandwidth=4.805 TB/s")
    rows = {row.metric.key: row for row in report([best_of, faster], labels=["a", "b"]).comparison.rows}
    assert rows["makespan_s"].best == (1,) and rows["makespan_s"].close == (0,)


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(best_of: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "h200"
    save_result(best_of, folder)
    return folder


def test_a_run_writes_its_report(saved: Path) -> None:
    page = (saved / "report.html").read_bytes()
    assert len(page) < 5 * 2**20 and page.startswith(b"<!doctype html>")


def test_command(saved: Path, tmp_path: Path, kinesim) -> None:
    out = tmp_path / "one.html"
    done = kinesim("report", str(saved), "--out", str(out), "--title", "Mine")
    assert done.code == 0 and "written to" in done.out and "<title>Mine" in out.read_text()
    shutil.copytree(saved, tmp_path / "other")
    both = [str(saved), str(tmp_path / "other" / "result.json")]
    done = kinesim("report", *both, "--out", str(tmp_path / "two.html"), "--format", "json")
    document = json.loads(done.out)
    assert done.code == 0 and document["results"] == ["h200", "other"] and document["differences"] == []
    assert all(row["best"] == [] for row in document["metrics"])
    done = kinesim("report", *both, "--out", str(tmp_path / "two.html"))
    assert "Changes are against h200" in done.out and "44" not in done.err


def test_bad_input(saved: Path, tmp_path: Path, kinesim) -> None:
    text = (saved / "result.json").read_text()
    older, foreign, partial = (tmp_path / name for name in ("older", "foreign", "partial"))
    for folder in (older, foreign, partial):
        shutil.copytree(saved, folder)
    (older / "result.json").write_text(text.replace("kinesim-result/1", "kinesim-result/0"))
    (foreign / "result.json").write_text("[1, 2]")
    document = json.loads(text)
    del document["summary"]["kv"]
    (partial / "result.json").write_text(json.dumps(document))
    out = tmp_path / "x.html"
    out.write_text("mine")
    blocked = tmp_path / "folder.html"
    blocked.mkdir()
    for words, *told in (
        ((str(older),), "older/result.json: schema: is not a result of this version", "'kinesim-result/0'"),
        ((str(foreign),), "foreign/result.json", "found 'list'"),
        ((str(partial),), "partial: summary.kv: a key is missing"),
        ((str(tmp_path / "nothing"),), "nothing", "no such file"),
        ((str(saved),) * 9, "not a number of results", "found 9", "1 to 8"),
        ((str(saved), "--label", "a", "--label", "b"), "--label: labels must be different and one for each result"),
        ((str(saved), str(saved), "--label", "a", "--label", "a"), "--label: labels must be different"),
        ((str(saved), "--out", str(tmp_path / "x.pdf")), "--out: not the name of a page", "ending in .html"),
        ((str(saved), "--out", str(blocked)), "folder.html", "it is a folder"),
        ((), "Missing argument"),
    ):
        done = kinesim("report", *words, *(() if "--out" in words else ("--out", str(out))))
        assert done.code == 2 and "Traceback" not in done.err, words
        assert all(part in done.err for part in told), (words, done.err)
        assert out.read_text() == "mine"


def test_ends_cannot_be_simulated_without_the_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_len,output_len\n0,100,20\n1,200,30\n")
    result = made("production-reasoning", f"workload.trace.path={trace}", "replicas=1")
    trace.unlink()
    assert "2 requests" in report(result).html
    with pytest.raises(InputError, match=r"production-reasoning: scenario\.workload\.trace\.path: no such file"):
        report(result, intervals=True)


def test_a_run_without_a_step_has_a_page() -> None:
    """All requests gave up before the first step."""
    page = report(made("chat-poisson", "workload.requests=3", "workload.timeout=1 us")).html
    assert page.count("No step was taken.") == 3  # time, course, roofline
    with pytest.raises(InputError, match="1 to 8"):
        report([])
