"""Elasticities against values by hand, against central differences made here, and what they have to add up to."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.headline import headline
from simulator.interval import KernelError
from simulator.running import run_scenario
from simulator.varying.elasticities import elasticities
from simulator.varying.points import Point
from simulator.varying.resources import resources
from simulator.varying.shares import spread
from simulator.varying.whatif import whatif
from workloads.scenario import load_scenario

SMALL = {
    "gpu": "h200-sxm",
    "model": "Qwen/Qwen3-0.6B",
    "profile": "ideal",
    "workload": {
        "strategy": {"kind": "chat"},
        "requests": 8,
        "prompt_tokens": 1,
        "output_tokens": 64,
        "arrivals": {"kind": "all_at_once"},
    },
}
ENDLESS = "1e18 FLOP/s"


def table(spec, *sets: str, metrics=("makespan_s",)):
    """Elasticities by path, of one setting."""
    found = whatif(spec, sets=sets, metrics=list(metrics), jobs=1).answers[0]
    return found, {path: cells[metrics[0]] for path, cells in found.table.items()}


def some(spec, *paths: str, sets=()):
    """Only the elasticities of the time to some resources, and the base."""
    chosen = [r for r in resources(load_scenario(spec, sets)) if r.key in paths]
    base, found = elasticities(spec, sets, chosen, ["makespan_s"], jobs=1)
    return base, {path: cells["makespan_s"] for path, cells in found.items()}


def test_memory_alone():
    # With tensor cores and an L2 that take no time, every step takes its bytes over the bandwidth of the HBM:
    # t = bytes / BW, d log t / d log BW = -1, and nothing else counts. Price is time x price: the same.
    sets = [f"gpu.peak.{d}={ENDLESS}" for d in ("bf16", "fp32")] + ["gpu.l2.bandwidth=8e14 B/s"]
    answer, found = table(SMALL, *sets, metrics=("makespan_s", "usd"))
    assert found["gpu.memory.bandwidth"].value == pytest.approx(-1, abs=1e-4)
    assert answer.table["gpu.memory.bandwidth"]["usd"].value == pytest.approx(-1, abs=1e-4)
    for path, e in found.items():
        if path != "gpu.memory.bandwidth":
            assert e.value == pytest.approx(0, abs=2e-3), path


def test_tensor_cores_alone():
    # The other way round: HBM and L2 that take no time leave FLOPs over the rate of bf16.
    sets = ["gpu.memory.bandwidth=8e14 B/s", "gpu.l2.bandwidth=8e14 B/s", "gpu.peak.bf16=1 TFLOP/s"]
    _, found = table(SMALL, *sets)
    assert found["gpu.peak.bf16"].value == pytest.approx(-1, abs=2e-3)
    assert found["gpu.memory.bandwidth"].value == pytest.approx(0, abs=2e-3)


def test_host_alone():
    # 64 steps (one prefills and gives the first token) of 1 s each beside some milliseconds of kernels.
    _, found = table(SMALL, "engine.host.step=1.0")
    assert found["engine.host_factor"].value == pytest.approx(1, abs=1e-2)
    assert found["gpu.memory.bandwidth"].value == pytest.approx(0, abs=1e-2)


@settings(max_examples=3, deadline=None)
@given(
    bandwidth=st.floats(0.2, 20),
    rate=st.floats(5, 5000),
    requests=st.integers(1, 40),
    profile=st.sampled_from(["ideal", "rule-of-thumb"]),
)
def test_rates_and_times_are_all_there(bandwidth: float, rate: float, requests: int, profile: str):
    # All rates twice as high and all times half as long take half the time: E of rates - E of times = -1.
    sets = [
        f"gpu.memory.bandwidth={bandwidth} TB/s", f"gpu.peak.bf16={rate} TFLOP/s", f"workload.requests={requests}",
        f"profile={profile}", "engine.host.step=0.0001", "workload.prompt_tokens=300", "workload.output_tokens=20",
    ]  # fmt: skip
    answer, _ = table(SMALL, *sets)
    assert answer.rates_total == pytest.approx(-1, abs=0.02)


def test_agrees_with_a_central_difference():
    # Of the full simulation under fitted kernels and vLLM's host, made here at another step.
    spec = {**SMALL, "engine": "vllm", "profile": "auto"}
    now = {
        "gpu.memory.bandwidth": ("4.8", " TB/s"), "gpu.peak.bf16": ("989.5", " TFLOP/s"),
        "engine.launch_factor": ("1", ""), "engine.host_factor": ("1", ""),
    }  # fmt: skip
    _, found = some(spec, *now)
    step = 0.015
    for path, (value, unit) in now.items():
        ends = []
        for factor in (1 + step, 1 - step):
            run = run_scenario(load_scenario(spec, [f"{path}={float(value) * factor!r}{unit}"]))
            ends.append(math.log(headline(run.summary)["makespan_s"]))
        independent = (ends[0] - ends[1]) / (math.log(1 + step) - math.log(1 - step))
        assert found[path].value == pytest.approx(independent, rel=0.01, abs=2e-4), path


def test_capacity_is_taken_over_wide_steps():
    # One KV block more or less decides who is preempted: +-1 % says nothing. The figure is the central difference over
    # +-10 %, which anybody can repeat with two runs.
    sets = ["gpu.memory.capacity=4.2 GB", "workload.requests=40", "workload.output_tokens=400"]
    base, found = some(SMALL, "gpu.memory.capacity", sets=sets)
    assert base.metrics["preemptions"] > 0
    e = found["gpu.memory.capacity"]
    ends = []
    for capacity in (4.62, 3.78):
        run = run_scenario(load_scenario(SMALL, [*sets, f"gpu.memory.capacity={capacity} GB"]))
        ends.append(math.log(headline(run.summary)["makespan_s"]))
    assert e.step == 0.1 and e.value < -0.1
    assert e.value == pytest.approx((ends[0] - ends[1]) / math.log(1.1 / 0.9), rel=1e-9)


def test_a_resource_that_cannot_shrink_says_why():
    # A little less memory than the weights need: no simulation there, and no number that looks like one.
    _, found = some(SMALL, "gpu.memory.capacity", sets=["gpu.memory.capacity=3.25 GB"])
    e = found["gpu.memory.capacity"]
    assert e.value is None and "does not fit" in e.why


def test_one_percent_changes_no_kernels():
    # GH200 stands between H100 and H200: with 1 % more bandwidth it was timed by the other one's kernels, a jump of
    # some percent. Its elasticity is that of a memory-bound run, between -1 and 0.
    spec = {**SMALL, "gpu": "gh200", "profile": "auto", "workload": {**SMALL["workload"], "requests": 2}}
    _, found = some(spec, "gpu.memory.bandwidth")
    assert -1 <= found["gpu.memory.bandwidth"].value < -0.1


def test_open_arrivals_ask_for_latencies():
    spec = {**SMALL, "workload": {**SMALL["workload"], "arrivals": {"kind": "poisson", "rate": 5}}}
    found = whatif(spec, {"gpu.memory.bandwidth": "x1"}, jobs=1)
    assert found.metrics[:3] == ("ttft_s.p99", "tpot_s.p99", "e2e_s.p99") and not found.closed


def test_a_scenario_that_cannot_be_served():
    with pytest.raises(InputError, match="does not fit"):
        whatif(SMALL, sets=["gpu.memory.capacity=1 GB"], jobs=1)


def test_errors_of_kernels_move_an_elasticity():
    # Two kernels of 3 s and 1 s; one percent more of a resource makes the first one percent shorter: E = -3/4. If the
    # first truly takes 4 s (its error, 1/3 above), E = -4/5; if the second takes 2 s (100 % above), E = -3/5. Both are
    # independent: low = -3/4 - 1/20, high = -3/4 + 3/20 (errors below are none here).
    errors = {"a": KernelError(("A",), 0.0, 1 / 3), "b": KernelError(("B",), 0.0, 1.0)}
    h = 1e-4
    ends = [Point((), operators={"a": {"seconds": 3 / f}, "b": {"seconds": 1.0}}) for f in (1 + h, 1 - h)]
    below, above = spread(errors, *ends, math.log(1 + h) - math.log(1 - h))
    assert (below, above) == (pytest.approx(1 / 20, rel=1e-3), pytest.approx(3 / 20, rel=1e-3))
    assert spread({}, *ends, 1.0) is None


def test_intervals_of_elasticities_are_those_of_fitted_kernels():
    base, found = some({**SMALL, "profile": "auto"}, "gpu.memory.bandwidth")
    e = found["gpu.memory.bandwidth"]
    assert base.errors and 0 < e.below < 0.2 and 0 < e.above < 0.2 and e.off >= e.below
    document = e.document()
    assert document["low"] < e.value < document["high"]
    _, ideal = some(SMALL, "gpu.memory.bandwidth")
    assert ideal["gpu.memory.bandwidth"].below is None and ideal["gpu.memory.bandwidth"].document()["low"] is None
