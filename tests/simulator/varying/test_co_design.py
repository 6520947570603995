"""Co-design: against Lagrange by hand, against grids of designs, and what a budget file may not say."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.headline import headline
from simulator.running import run_scenario
from simulator.varying.budget import list_budgets, read_budget
from simulator.varying.codesign import codesign
from simulator.varying.codesigndoc import improvement, sentences
from simulator.varying.codesignplot import draw_codesign
from simulator.varying.descent import neighbours, optimise, transfer
from simulator.varying.designs import Space
from simulator.varying.lagrange import multipliers
from workloads.scenario import load_scenario

GPU = load_gpu("h200-sxm")
WIDE = {"memory.bandwidth": "x0.02..x50", "peak.bf16": "x0.02..x50"}
MIXED = {
    "gpu": "h200-sxm",
    "model": "Qwen/Qwen3-0.6B",
    "profile": "ideal",
    "workload": {
        "strategy": {"kind": "chat"},
        "requests": 8,
        "prompt_tokens": 2000,
        "output_tokens": 16,
        "arrivals": {"kind": "all_at_once"},
    },
}
"""Prompts that take compute and outputs that take memory: time is about a / bandwidth + b / FLOP/s."""


def space(costs, bounds=None, total=None, **more) -> Space:
    """Around an H200, one budget."""
    part = {"costs": costs} | ({} if total is None else {"total": total})
    return Space(GPU, read_budget({"budgets": {"area": part}, "bounds": bounds or {}, **more}))


def best(where: Space, time, priced=False):
    """The best design by the search: its values and the metric, and how many designs were asked for."""
    asked = []

    def evaluate(designs):
        asked.extend(designs)
        return [time(*where.values(x)) for x in designs]

    search = optimise(where, evaluate, priced)
    transfer(search)
    x, value = search.best
    assert where.fits(x)
    return where.values(x), math.exp(value), len(asked), search


@settings(max_examples=15, deadline=None)
@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(10, 500), st.floats(10, 500), st.floats(0, 3))
def test_lagrange_by_hand(a, b, bandwidth_cost, flops_cost, constant):
    # min a/B + b/F with p B + q F = T: B = T sqrt(a/p) / (sqrt(a p) + sqrt(b q)), F likewise with b and q; the least is
    # (sqrt(a p) + sqrt(b q))^2 / T. A constant changes nothing of it. B in TB/s, F in PFLOP/s.
    where = space({"memory.bandwidth": f"{bandwidth_cost} per TB/s", "peak.bf16": f"{flops_cost} per PFLOP/s"}, WIDE)
    total, p, q = where.totals["area"], bandwidth_cost, flops_cost
    assert total == pytest.approx(4.8 * p + 0.9895 * q)
    root = math.sqrt(a * p) + math.sqrt(b * q)
    hand = total / root * np.array([math.sqrt(a / p) * 1e12, math.sqrt(b / q) * 1e15])
    if not np.all((hand > 0.021 * where.now) & (hand < 49 * where.now)):
        return
    values, found, asked, search = best(where, lambda bw, f: constant + a / (bw / 1e12) + b / (f / 1e15))
    assert found == pytest.approx(constant + root**2 / total, rel=1e-4)
    assert values == pytest.approx(hand, rel=0.03)
    assert asked < 60
    x, value = search.best
    slope = search.slope_at(x, value)
    worth, returns = multipliers(where, x, slope.slope, ~slope.stepped)
    # At the optimum the time that counts is the budget's: both returns are (root^2 / T) / time.
    expected = root**2 / total / (constant + root**2 / total)
    assert returns == pytest.approx((expected, expected), rel=0.05) and worth["area"] == pytest.approx(
        expected, rel=0.05
    )


def test_a_kink():
    # max(a/B, b/F): the best design is where both are alike, B/F = a/b
    where = space({"memory.bandwidth": "100 per TB/s", "peak.bf16": "300 per PFLOP/s"}, WIDE)
    values, found, _, _ = best(where, lambda bw, f: max(3e12 / bw, 400e12 / f))
    assert values[0] / values[1] == pytest.approx(3e12 / 400e12, rel=0.01)
    assert found == pytest.approx((100 * 3 + 300 * 0.4) / where.totals["area"], rel=1e-3)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.floats(0.05, 5), min_size=6, max_size=6))
def test_three_resources_against_a_grid(weights):
    a, b, c, d, e, f = weights
    costs = {"memory.bandwidth": "50 per TB/s", "peak.bf16": "200 per PFLOP/s", "link.bandwidth": "0.5 per GB/s"}
    bounds = {"memory.bandwidth": "x0.1..x10", "peak.bf16": "x0.1..x10", "link.bandwidth": "x0.1..x10"}
    where = space(costs, bounds)

    def time(bw, flops, link):
        bw, flops, link = bw / 4.8e12, flops / 989.5e12, link / 450e9
        return np.maximum(a / bw, b / flops) + np.maximum(c / flops, d / link) + e / bw + f / link + 0.1

    shares = np.geomspace(0.004, 0.97, 120)
    bw, flops = np.meshgrid(shares, shares)
    left = 1 - bw - flops
    total = where.totals["area"]
    prices = where.prices["area"]
    designs = [part * total / price for part, price in zip((bw, flops, left), prices, strict=True)]
    fits = left > 0
    for values, r in zip(designs, where.resources, strict=True):
        fits &= (values >= r.low) & (values <= r.high)
    with np.errstate(divide="ignore"):
        grid = np.where(fits, time(*(np.maximum(v, 1e-9) for v in designs)), np.inf)
    _, found, _, _ = best(where, lambda *values: float(time(*values)))
    assert found <= grid.min() * 1.001


def test_two_budgets_at_once():
    # min 1/B + 1/F (in units of the base) with 0.7 B + 0.3 F <= 1 and 0.3 B + 0.7 F <= 1: by symmetry B = F = 1
    p, q = 1 / 4.8, 1 / 0.9895
    budget = {
        "budgets": {
            name: {
                "total": 1,
                "costs": {"memory.bandwidth": f"{bw * p} per TB/s", "peak.bf16": f"{flops * q} per PFLOP/s"},
            }
            for name, bw, flops in (("area", 0.7, 0.3), ("power", 0.3, 0.7))
        }
    }
    where = Space(GPU, read_budget(budget))
    values, found, _, search = best(where, lambda bw, f: 4.8e12 / bw + 989.5e12 / f)
    assert found == pytest.approx(2, rel=1e-3) and values == pytest.approx(where.now, rel=0.01)
    x, value = search.best
    slope = search.slope_at(x, value)
    worth, _ = multipliers(where, x, slope.slope, ~slope.stepped)
    assert worth == pytest.approx({"area": 0.5, "power": 0.5}, abs=0.05)


def test_a_price_that_follows():
    # usd = (1 + 2 c) x (1/r + 1) with cost c = r in units of the base's (one resource, half of 4 allowed): by hand
    # d/dr (1 + 2r)(1/r + 1) = 2 - 1/r^2 = 0 at r = sqrt(1/2), inside of the budget.
    where = space(
        {"memory.bandwidth": f"{1 / 4.8} per TB/s"}, {"memory.bandwidth": "x0.1..x2"}, total=2,
        price={"budget": "area", "fixed": 1, "per_unit": 2},
    )  # fmt: skip
    assert where.usd_per_hour(np.zeros(1)) == pytest.approx(3)
    asked = optimise(
        where, lambda ds: [where.usd_per_hour(x) * (4.8e12 / where.values(x)[0] + 1) for x in ds], True
    )  # fmt: skip
    assert math.exp(asked.best[0][0]) == pytest.approx(math.sqrt(0.5), rel=0.02)
    assert "gpu.price" in " ".join(where.sets(asked.best[0]))
    # The design as a file costs the same.
    assert where.gpu_file(asked.best[0])["price"]["usd_per_hour"] == where.usd_per_hour(asked.best[0])


def test_whole_processors_and_neighbours():
    where = space(
        {"sms": "1 each", "memory.bandwidth": "20 per TB/s"}, {"sms": "40..300", "memory.bandwidth": "x0.2..x3"}
    )
    search = optimise(where, lambda ds: [100 / v[0] + 4e12 / v[1] for v in map(where.values, ds)], False)
    x, _ = search.best
    sms = where.values(x)[0]
    assert sms == pytest.approx(round(sms)) and where.fits(x)
    flat = neighbours(search)[0]
    assert 40 <= flat.low <= sms <= flat.high <= 300
    texts = where.sets(x)
    assert f"gpu.sms={round(sms)}" in texts
    gpu = load_scenario(MIXED, texts).gpu
    assert gpu.l2.bandwidth == pytest.approx(64 * gpu.sms * gpu.boost_clock)  # derived: it follows


BUDGET = {
    "title": "test",
    "budgets": {"area": {"unit": "mm2", "fixed": 30,
                         "costs": {"memory.bandwidth": "100 per TB/s", "peak.bf16": "500 per PFLOP/s"}}},
}  # fmt: skip


def test_full_simulations_against_a_grid(tmp_path):
    found = codesign(MIXED, BUDGET, against=["attention=top_k:64"], minimise="makespan_s", jobs=1)
    where = found.space
    (bw, flops), total = where.prices["area"], where.totals["area"] - 30
    for i, optimum in enumerate(found.optima):
        seen = []
        for share in np.linspace(0.1, 0.9, 33):
            values = share * total / bw, (1 - share) * total / flops
            if any(not r.low <= v <= r.high for r, v in zip(where.resources, values, strict=True)):
                continue
            x = np.log(np.array(values) / where.now)
            run = run_scenario(load_scenario(MIXED, (*optimum.sets, *where.sets(x))))
            seen.append(headline(run.summary)["makespan_s"])
        mine = found.measured[i + 1][i].value
        assert len(seen) > 20 and mine <= min(seen) * 1.001
        # a design of the best has the metric that it says
        run = run_scenario(load_scenario({**MIXED, "gpu": dict(found.gpu_files[i])}, optimum.sets))
        assert headline(run.summary)["makespan_s"] == pytest.approx(mine, rel=1e-12)
        inside = [r for r, stepped in zip(optimum.returns, optimum.stepped, strict=True) if not stepped]
        assert inside == pytest.approx([optimum.worth["area"]] * len(inside), rel=0.15)
        assert improvement(found, i)[0] >= 1 and found.measured[0][i].value >= mine
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert document["co_design"]["simulations"] == found.runs
    assert "change what to build" in sentences(found)[-1]
    assert len(found.frame()) == 3 * 2
    picture = tmp_path / "c.svg"
    draw_codesign(found, picture)
    assert "HBM bandwidth" in picture.read_text()


def test_bundled_budgets():
    assert list_budgets() == ["bill-of-materials", "power-hopper"]
    parts = Space(GPU, read_budget("bill-of-materials"))
    # 1,419 + 16 x 150.755 GB + 75 x 4.8 TB/s + 303 x 0.9895 PFLOP/s = 1419 + 2412.1 + 360 + 299.8
    assert parts.totals["parts"] == pytest.approx(4490.9, abs=0.1)
    power = Space(GPU, read_budget("power-hopper"))
    # 184 + 54.9 x 4.8 + 584 x 0.9895 = 184 + 263.5 + 577.9
    assert power.totals["power"] == pytest.approx(1025.4, abs=0.1)


@pytest.mark.parametrize(
    ("text", "per_si"),
    [("45 per TB/s", 45e-12), ("45 per 1 TB/s", 45e-12), ("9 per 3 GB/s", 3e-9), ("1e2 per GB/s", 1e-7)],
)
def test_costs(text, per_si):
    budget = read_budget({"budgets": {"a": {"costs": {"memory.bandwidth": text}}}})
    assert budget.limits[0].costs["memory.bandwidth"] == pytest.approx(per_si)


ONE = "memory.bandwidth: 10 per TB/s"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("budgets: {a: {costs: {memory.bandwith: 1 per TB/s}}}", "did you mean memory.bandwidth"),
        ("budgets: {a: {costs: {memory.bandwidth: -1 per TB/s}}}", "greater than zero"),
        ("budgets: {a: {costs: {memory.bandwidth: 0 per TB/s}}}", "greater than zero"),
        ("budgets: {a: {costs: {memory.bandwidth: 1 per GB}}}", "wrong unit"),
        ("budgets: {a: {costs: {memory.bandwidth: 1}}}", "unit is missing"),
        ("budgets: {a: {costs: {memory.bandwidth: .inf}}}", "not a finite cost"),
        ("budgets: {a: {costs: {memory.bandwidth: [1]}}}", "not a cost"),
        ("budgets: {a: {costs: {sms: 10 per TB/s}}}", "not a cost"),
        ("budgets: {a: {costs: {}}}", "at least 1"),
        ("budgets: {a: {total: 3, fixed: 1, costs: {ONE}}}", "too small for the lower bounds"),
        ("budgets: {a: {total: .inf, costs: {ONE}}}", "not a finite number"),
        ("budgets: {a: {total: 3, fixed: 4, costs: {ONE}}}", "nothing is left"),
        ("budgets: {a: {costs: {ONE}}}\nbounds: {memory.bandwidth: fixed}", "no resource may change"),
        ("budgets: {a: {costs: {ONE}}}\nbounds: {memory.bandwidth: 5..2 TB/s}", "b.yaml:2"),
        ("budgets: {a: {costs: {ONE}}}\nbounds: {memory.bandwidth: 5..inf TB/s}", "infinite bounds"),
        ("budgets: {a: {costs: {ONE}}}\nbounds: {sms: x1..x2}", "costs nothing"),
        ("budgets: {a: {costs: {peak.bf16: 1 per PFLOP/s, peak.fp8: 3 per PFLOP/s}}}", "move together"),
        ("budgets: {a: {costs: {peak.fp4: 1 per PFLOP/s}}}", "does not compute in this format"),
        ("budgets: {a: {costs: {ONE}}}\nprice: {budget: b, per_unit: 1}", "no such budget"),
        ("budget: {a: {costs: {ONE}}}", "did you mean"),
        ("- 1", "not a mapping"),
    ],
)
def test_bad_budgets(tmp_path, text, words):
    path = tmp_path / "b.yaml"
    path.write_text(text.replace("ONE", ONE) + "\n")
    with pytest.raises(InputError) as caught:
        Space(GPU, read_budget(path))
    assert words in caught.value.message() and "b.yaml" in caught.value.message()


TOO_SMALL = {"budgets": {"a": {"costs": {"memory.capacity": "1 per GB"}}}, "bounds": {"memory.capacity": "1..1.1 GB"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": "parts"}, "unknown budget"),
        ({"against": ["gpu=b200-sxm"]}, "changes the GPU"),
        ({"against": ["attention=top_q:4"]}, "--against"),
        ({"minimise": "makespan"}, "did you mean makespan_s"),
        ({"minimise": "goodput_share"}, "does not have this metric"),
        ({"budget": TOO_SMALL}, "no design of the budget can be served"),
    ],
)  # fmt: skip
def test_bad_questions(change, words):
    asked = {"budget": BUDGET, **change}
    with pytest.raises(InputError) as caught:
        codesign(MIXED, asked.pop("budget"), jobs=1, **asked)
    assert words in caught.value.message()


def test_command_writes_gpus_that_run(tmp_path):
    scenario, budget, out = (tmp_path / name for name in ("mixed.yaml", "budget.yaml", "best.yaml"))
    scenario.write_text(json.dumps(MIXED))
    budget.write_text("budgets: {area: {total: x1.5, costs: {memory.bandwidth: 1 per TB/s}}}")
    command = [sys.executable, "-m", "simulator.cli", "whatif", str(scenario), "--jobs", "1", "--budget", str(budget)]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "build HBM bandwidth" in done.stdout
    built = load_gpu(out)
    assert built.base == "h200-sxm" and built.memory.bandwidth == pytest.approx(1.5 * 4.8e12)


def test_the_base_is_priced_alike():
    # 1 USD + 2 for what the scenario's GPU costs of the budget, 4.8 units: 10.6 USD an hour, and not its market price
    budget = {
        "budgets": {"a": {"total": "x2", "costs": {"memory.bandwidth": "1 per TB/s"}}},
        "price": {"budget": "a", "fixed": 1, "per_unit": 2},
    }
    found = codesign(MIXED, budget, minimise="usd", jobs=1)
    hours = headline(run_scenario(load_scenario(MIXED)).summary)["gpu_hours"]
    assert found.measured[0][0].value == pytest.approx(10.6 * hours)
    assert found.measured[1][0].value <= found.measured[0][0].value
