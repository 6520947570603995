"""What is varied: points equal runs, what cannot be served is a row, and what is bad input is said at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hwspecs.errors import InputError
from simulator.headline import headline
from simulator.outlooks import outlook
from simulator.varying.answers import sentences
from simulator.varying.boundshift import bound_shifts
from simulator.varying.grid import MOST, variant_of
from simulator.varying.paths import assignment, field_at, named, ordered, values_at, words
from simulator.varying.whatif import whatif
from workloads.scenario import load_scenario

SPEC = {
    "gpu": "h200-sxm",
    "model": "Qwen/Qwen3-0.6B",
    "profile": "ideal",
    "workload": {
        "strategy": {"kind": "chat"},
        "requests": 6,
        "prompt_tokens": 200,
        "output_tokens": 30,
        "arrivals": {"kind": "all_at_once"},
    },
}


def test_points_are_runs():
    from simulator.running import run_scenario

    spec = {**SPEC, "profile": "auto"}
    found = whatif(spec, {"gpu.memory.bandwidth": "x1,9.6TB/s"}, against=["attention=top_k:64"], jobs=1)
    assert [answer.name for answer in found.answers] == ["as given", "attention top_k 64"]
    for answer, sets in zip(found.answers, ([], ["attention={kind: top_k, budget: 64}"]), strict=True):
        for row, bandwidth in zip(answer.rows, ("4.8 TB/s", "9.6 TB/s"), strict=True):
            loaded = load_scenario(spec, [*sets, f"gpu.memory.bandwidth={bandwidth}"])
            assert row.point.metrics == headline(run_scenario(loaded).summary)
    # A factor of one is the scenario itself, to the last bit.
    assert found.answers[0].rows[0].point.metrics == found.answers[0].base.metrics
    low, high = outlook(load_scenario(spec)).intervals()["makespan_s"]
    document = found.document()
    shown = document["settings"][0]["points"][0]["metrics"]["makespan_s"]
    assert (shown["low"], shown["high"], shown["ratio"]) == (low, high, 1.0) and low < shown["value"] < high
    frame = found.frame()
    assert len(frame) == 4 and frame["makespan_s.ratio"][1] < 1
    assert frame["gpu.memory.bandwidth"].tolist() == ["4800000000000.0 B/s", "9.6TB/s"] * 2


def test_every_combination_and_fields_that_go_together():
    vary = {"gpu.sms+gpu.peak": "x0.5,x1", "engine.max_num_seqs": [1, 256]}
    found = whatif(SPEC, vary, jobs=1, metrics=["makespan_s"])
    rows = found.answers[0].rows
    assert [row.values["engine.max_num_seqs"] for row in rows] == [1, 256, 1, 256]
    assert rows[0].values["gpu.sms+gpu.peak"]["gpu.sms"] == 66
    assert "gpu.peak={fp32: 33500000000000.0 FLOP/s" in rows[0].point.sets[1]
    assert rows[0].point.metrics["makespan_s"] > rows[1].point.metrics["makespan_s"]


def test_a_part_comes_before_its_fields():
    # In whatever order they are given, GPUs do not wipe out the bandwidth, and factors are of each GPU's own.
    found = whatif(SPEC, {"gpu.memory.bandwidth": "x0.5,x1", "gpu": "h200-sxm,b200-sxm"}, jobs=1)
    rows = found.answers[0].rows
    b200 = load_scenario(SPEC, ["gpu=b200-sxm"]).gpu.memory.bandwidth
    assert [row.values["gpu"] for row in rows] == ["h200-sxm", "b200-sxm"] * 2
    expected = [2.4e12, b200 / 2, 4.8e12, b200]
    assert [row.values["gpu.memory.bandwidth"] for row in rows] == [f"{value!r} B/s" for value in expected]
    times = [row.point.metrics["makespan_s"] for row in rows]
    assert times[0] > times[2] and times[1] > times[3] and times[0] > times[1]
    # So it is with settings, and with what was set.
    for vary, sets, against in (
        ({"gpu.memory.bandwidth": "x0.5"}, [], ["gpu=b200-sxm"]),
        ({"gpu": "b200-sxm"}, ["gpu=l40s", f"gpu.memory.bandwidth={b200 / 2!r} B/s"], ["seed=0"]),
    ):
        one = whatif(SPEC, vary, sets=sets, against=against, jobs=1)
        assert one.answers[1].rows[0].point.metrics["makespan_s"] == times[1]


def test_order_of_assignments():
    assert ordered(["gpu.sms=1"], ["gpu=a"]) == ("gpu=a", "gpu.sms=1")
    assert ordered(["gpu=b", "gpu.sms=1"], ["gpu=a"]) == ("gpu=a", "gpu.sms=1")
    assert ordered(["gpu=b"], ["gpu=a"]) == ("gpu=b", "gpu=a")
    assert ordered(["seed=1"], ["gpu.sms=1", "gpu=a"]) == ("seed=1", "gpu=a", "gpu.sms=1")


def test_what_cannot_be_served_is_a_row():
    found = whatif({**SPEC, "model": "Qwen/Qwen3-32B"}, {"gpu": "h200-sxm,l40s"}, jobs=1)
    served, other = found.answers[0].rows
    assert served.point.error is None and "does not fit" in other.point.error
    assert "1 of 2 points cannot be served" in sentences(found)[-1]
    assert found.document()["settings"][0]["points"][1]["metrics"] is None


def test_a_setting_that_cannot_be_served_is_said():
    found = whatif({**SPEC, "model": "Qwen/Qwen3-32B"}, {"gpu.sms": "x1"}, against=["gpu=l40s"], jobs=1)
    assert any("gpu l40s cannot be served" in text for text in sentences(found))


def test_values_in_the_units_of_a_field():
    loaded = load_scenario(SPEC)
    assert field_at(loaded, "gpu.memory.bandwidth").value == 4.8e12
    assert values_at(loaded, "gpu.memory.bandwidth", "x2", "here") == ["9600000000000.0 B/s"]
    assert values_at(loaded, "gpu.sms", "x0.5,x1.01", "here") == [66, 133]  # whole SMs
    assert values_at(loaded, "gpu.peak", "x2", "here")[0]["bf16"] == "1979000000000000.0 FLOP/s"
    assert named("attention", "block_top_k:16:64") == {"kind": "block_top_k", "page": 16, "blocks": 64}
    assert named("model", "a:1") == "a:1" and named("attention", "top_k:many") == "top_k:many"
    assert assignment("engine.host.step", 1e-5) == "engine.host.step=1.0e-05"  # YAML 1.1 reads no float in 1e-05
    assert words({"kind": "top_k", "budget": 1024}) == "top_k 1,024"
    assert variant_of("attention=top_k:8") == ("attention top_k 8", ("attention={kind: top_k, budget: 8}",))


def test_bounds_change_where_the_roofs_meet():
    # A GEMM of b tokens does 2 b FLOPs for each weight of 2 bytes that it reads: at a rate F it turns compute-bound
    # above F / b bytes/s of bandwidth, or below a rate of b times the bandwidth. (Activations stay in the L2.)
    from simulator.deployment import deploy
    from simulator.running import run_scenario

    loaded = load_scenario(SPEC, ["workload.requests=64", "workload.output_tokens=500", "workload.prompt_tokens=8"])
    result, cost = run_scenario(loaded), deploy(loaded).cost
    seconds = {op["name"]: op["seconds"] for op in result.operators}
    found = {(s.operator, s.phase): s for s in bound_shifts(cost, seconds, result.timeline)}
    shift = found["gate_up_proj", "decode"]
    assert (shift.bound, shift.following, shift.path) == ("memory", "compute", "gpu.memory.bandwidth")
    assert shift.above == pytest.approx(989.5e12 / 64, rel=1e-3)
    assert shift.below == pytest.approx(64 * 4.8e12, rel=1e-3) and shift.other == "gpu.peak.bf16"
    assert shift.factor == pytest.approx(989.5e12 / 64 / 4.8e12, rel=1e-3)
    assert sum(s.share for s in found.values()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"gpu.memory.bandwith": "x2"}, "unknown key.*bandwidth"),
        ({"gpu.memory.kind": "x2"}, "factor needs a number"),
        ({"gpu.memory.bandwith": "5 TB/s"}, "unknown key.*bandwidth"),
        ({"gpu.memory.bandwidth": "fast"}, "not a quantity"),
        ({"gpu.memory.bandwidth": "9..1 TB/s:x2"}, "empty range"),
        ({"gpu.memory.bandwidth": "1..inf TB/s:log3"}, "infinite range"),
        ({"gpu.memory.bandwidth": ""}, "no values"),
        ({"gpu": "h200-sxm,h201"}, "unknown GPU.*did you mean"),
        ({"engine.max_num_seqs": "1..5000:1"}, f"too many simulations.*{MOST:,}"),
        ({"gpu.sms+gpu.peak": "x1,x2", "gpu.sms": "x0"}, "not a factor"),
        ({"gpu.sms": "1..9000:1", "seed": "0..9000:1", "replicas": "1..9000:1"}, "too many simulations"),
        ({"engin.max_num_seqs": "3"}, "unknown key.*engine"),
    ],
)
def test_bad_input(vary: dict[str, str], message: str):
    with pytest.raises(InputError, match=message):
        whatif(SPEC, vary, jobs=1)


def test_bad_settings_and_metrics():
    with pytest.raises(InputError, match="--against: not an assignment"):
        whatif(SPEC, {"gpu.sms": "x1"}, against=["top_k"])
    with pytest.raises(InputError, match=r"--against: attention\.kind: unknown kind"):
        whatif(SPEC, {"gpu.sms": "x1"}, against=["attention=topk"])
    with pytest.raises(InputError, match=r"no such metric.*makespan_s"):
        whatif(SPEC, {"gpu.sms": "x1"}, metrics=["makespan"])


def kinesim(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulator", "whatif", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)


def test_command(tmp_path: Path):
    (tmp_path / "small.yaml").write_text(json.dumps(SPEC))
    done = kinesim(
        "small.yaml", "--vary", "gpu.memory.bandwidth=x1,x2", "--out", "a.svg", "--jobs", "1", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "The time is best at gpu.memory.bandwidth 9.6 TB/s" in done.stdout and "Varied" in done.stdout
    assert "<svg" in (tmp_path / "a.svg").read_text()
    done = kinesim(
        "small.yaml", "--against", "attention=top_k:64", "--format", "json", "--out", "e.png", "--jobs", "1",
        "--metrics", "makespan_s,energy_j", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "kinesim-whatif/1" and len(document["answer"]) >= 2
    first = document["settings"][0]
    paths = {row["path"] for row in first["elasticities"]}
    assert {"gpu.peak.bf16", "gpu.memory.bandwidth", "gpu.memory.capacity", "gpu.l2.size", "gpu.sms"} <= paths
    assert {"gpu.link.bandwidth", "engine.launch_factor", "engine.host_factor"} <= paths
    assert first["rates_total"] == pytest.approx(-1, abs=0.02) and first["bound_shifts"]
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vary", "gpu.sms=x1", "--vary", "gpu.sms=x2"], "varied twice"),
        (["--out", "a.gif"], "unknown kind of file"),
    ],
)
def test_bad_options(arguments: list[str], message: str, tmp_path: Path):
    (tmp_path / "small.yaml").write_text(json.dumps(SPEC))
    done = kinesim("small.yaml", *arguments, folder=tmp_path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_what_is_varied_may_be_written_as_on_the_command_line():
    text = "gpu.memory.bandwidth=x0.5,x2"
    mapping = whatif(SPEC, {"gpu.memory.bandwidth": "x0.5,x2"}, jobs=1)
    assert whatif(SPEC, text, jobs=1).document() == whatif(SPEC, [text], jobs=1).document() == mapping.document()
    for bad in ("seed", 3, [3], "=1"):
        with pytest.raises(InputError, match="--vary: not a list of values"):
            whatif(SPEC, bad, jobs=1)
    assert repr(mapping) == f"<WhatIf scenario: {chr(10).join(sentences(mapping))}>"
    assert "<th>makespan_s</th>" in mapping._repr_html_()
