"""Break-even: the search on functions with known roots, and the simulator where the answer follows by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.headline import headline
from simulator.running import run_scenario
from simulator.varying.breakeven import break_even
from simulator.varying.breakevendoc import answer
from simulator.varying.breakevenplot import draw_break_even
from simulator.varying.crossing import Sample, brackets, gap, grid, monotone
from simulator.varying.notes import merged
from simulator.varying.target import parse_target
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
MEMORY_ALONE = ("gpu.peak.bf16=1e18 FLOP/s", "gpu.peak.fp32=1e18 FLOP/s", "gpu.l2.bandwidth=8e14 B/s")
"""Nothing but the HBM takes time: t = bytes / bandwidth."""


def search(f, low, high, limit, *, tolerance=1e-3, whole=False, count=9, sense="<="):
    """Crossings of a function of one number, and how many values each took beyond the scan."""

    def sample(x):
        value = f(x)
        return Sample(x, value, gap(value, limit, sense))

    scanned = [sample(x) for x in grid(low, high, count, whole=whole)]
    found = []
    for bracket in brackets(scanned, logarithmic=low > 0, tolerance=tolerance, whole=whole):
        asked = 0
        while not bracket.done:
            bracket.tell(sample(bracket.ask()))
            asked += 1
        found.append((bracket.crossing(), asked))
    return found


@settings(max_examples=50, deadline=None)
@given(st.floats(1.05, 99), st.floats(0.2, 4), st.floats(0, 5))
def test_root_of_a_power(root, power, constant):
    # c + x^-p = c + root^-p at the root and nowhere else
    limit = constant + root**-power
    (crossing, asked), *others = search(lambda x: constant + x**-power, 1, 100, limit)
    assert not others and crossing.rising
    assert crossing.outside.x <= root * (1 + 1e-9) and crossing.inside.x >= root * (1 - 1e-9)
    assert crossing.width <= 1e-3 and crossing.inside.x / crossing.outside.x <= math.exp(1e-3) * (1 + 1e-9)
    assert asked <= 11  # bisection of a ninth of the range, log(100) / 8 / 1e-3 = 576, takes 10
    assert not crossing.jump


def test_several_crossings():
    # (x - 3)^2 + 1 = 1.25 at 2.5 and 3.5
    (down, _), (up, _) = search(lambda x: (x - 3) ** 2 + 1, 1, 5, 1.25, count=17)
    assert down.inside.x == pytest.approx(2.5, rel=1e-3) and down.rising
    assert up.inside.x == pytest.approx(3.5, rel=1e-3) and not up.rising
    assert not monotone([(x - 3) ** 2 for x in (1, 2, 3, 4)]) and monotone([3, None, 2, 2, 1])


def test_jump_and_end_of_service():
    (jump, _), *_ = search(lambda x: 10 / x if x < 4.4 else 1.0, 1, 20, 1.5)
    assert jump.jump and jump.outside.x < 4.4 <= jump.inside.x and jump.inside.x / jump.outside.x < 1.0011
    (end, _), *_ = search(lambda x: None if x < 3 else 5 / x, 1, 20, 2)
    assert end.outside.value is None and end.outside.x < 3 <= end.inside.x and not end.jump


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 400), st.integers(1, 400))
def test_whole_numbers(limit, low):
    # 1000 / n <= 1000 / limit from n = limit on
    found = search(lambda n: 1000 / n, low, 500, 1000 / limit, whole=True)
    if not low < limit:
        assert not found
        return
    ((crossing, _),) = found
    assert (crossing.inside.x, crossing.outside.x) == (limit, limit - 1)


def test_negative_numbers_go_linearly():
    ((crossing, _),) = search(lambda x: 10 - x, -5, 20, 7, tolerance=0.01)
    assert crossing.inside.x == pytest.approx(3, abs=0.011)


def test_half_the_time_takes_twice_the_bandwidth():
    found = break_even(SMALL, "gpu.memory.bandwidth=2..20 TB/s", "makespan_s<=x0.5", sets=MEMORY_ALONE, jobs=1)
    (case,) = found.cases
    (crossing,) = case.crossings["predicted"]
    assert crossing.inside.x == pytest.approx(9.6, rel=2e-3) and crossing.rising
    assert crossing.inside.value <= case.goal["predicted"] < crossing.outside.value
    assert case.base == pytest.approx(2 * case.goal["predicted"])
    assert "9.6" in answer(found, case) and "fast" not in case.crossings  # nothing is known of how wrong `ideal` is
    assert len(found.frame()) == 1 and found.document()["schema"] == "kinesim-whatif/1"


def test_as_good_as_another_setting():
    found = break_even(
        SMALL, "gpu.memory.bandwidth=x0.5..x4", "tpot_s.mean", ["gpu.memory.bandwidth=8 TB/s"],
        sets=MEMORY_ALONE, scan=5, jobs=1,
    )  # fmt: skip
    (crossing,) = found.cases[0].crossings["predicted"]
    assert crossing.inside.x == pytest.approx(8e12, rel=2e-3) and found.range.unit == "B/s"


def test_none_in_the_range():
    found = break_even(SMALL, "gpu.memory.bandwidth=2..4 TB/s", "makespan_s<=x0.5", sets=MEMORY_ALONE, scan=3, jobs=1)
    case = found.cases[0]
    assert case.crossings["predicted"] == ()
    text = answer(found, case)
    ends = [headline(run_scenario(load_scenario(SMALL, (*MEMORY_ALONE, f"gpu.memory.bandwidth={bw} TB/s"))).summary)
            for bw in (2, 4)]  # fmt: skip
    assert text.startswith("no break-even") and "nowhere" in text
    assert [case.scan[i].values["predicted"] for i in (0, -1)] == pytest.approx([end["makespan_s"] for end in ends])
    easy = break_even(SMALL, "gpu.memory.bandwidth=8..20 TB/s", "makespan_s<=x1", sets=MEMORY_ALONE, scan=3, jobs=1)
    assert "everywhere" in answer(easy, easy.cases[0])


def test_whole_field_against_every_value():
    # Sequences at a time until the 12 requests take at most as long as asked: every value is simulated beside it.
    sets = ("workload.requests=12",)
    found = break_even(SMALL, "engine.max_num_seqs=1..12", "makespan_s<=50 ms", sets=sets, scan=4, jobs=1)
    times = [
        headline(run_scenario(load_scenario(SMALL, (*sets, f"engine.max_num_seqs={n}"))).summary)["makespan_s"]
        for n in range(1, 13)
    ]
    meets = [time <= 0.05 for time in times]
    assert any(meets) and not all(meets)
    first = meets.index(True) + 1
    assert found.cases[0].crossings["predicted"][0].inside.x == first
    assert isinstance(found.document()["break_even"]["cases"][0]["crossings"]["predicted"][0]["meets_at"], int)


def test_where_it_begins_to_fit():
    found = break_even(SMALL, "gpu.memory.capacity=1..4 GB", "makespan_s<=1 h", scan=4, tolerance=0.01, jobs=1)
    case = found.cases[0]
    (crossing,) = case.crossings["predicted"]
    assert crossing.outside.value is None and crossing.inside.x > 1.19  # 0.6 B parameters in bf16 are 1.19 GB
    assert "does not fit" in case.scan[0].error and case.scan[0].x == 1
    run_scenario(load_scenario(SMALL, (f"gpu.memory.capacity={crossing.inside.x} GB",)))
    with pytest.raises(InputError):
        run_scenario(load_scenario(SMALL, (f"gpu.memory.capacity={crossing.outside.x} GB",)))


def test_interval():
    fitted = {**SMALL, "profile": "auto", "workload": {**SMALL["workload"], "output_tokens": 16}}
    found = break_even(fitted, "gpu.memory.bandwidth=1..9 TB/s", "makespan_s<=x1.1", scan=2, tolerance=0.05, jobs=1)
    at = {curve: several[0].inside.x for curve, several in found.cases[0].crossings.items() if several}
    assert at["fast"] < at["predicted"] < at.get("slow", math.inf)
    assert "80 % interval" in answer(found, found.cases[0])


def test_settings_and_picture(tmp_path):
    found = break_even(
        SMALL, "gpu.memory.bandwidth=2..9 TB/s", "makespan_s<=x0.8", against=["attention=top_k:16"], scan=3, jobs=1
    )  # fmt: skip
    case, sparse = found.cases
    assert (case.label, sparse.label) == ("attention dense", "attention top_k 16")
    assert sparse.base < case.base and sparse.goal["predicted"] == pytest.approx(0.8 * sparse.base)
    picture = tmp_path / "b.png"
    draw_break_even(found, picture)
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("field", "target", "like", "words"),
    [
        ("gpu.memory.bandwith=2..4 TB/s", "makespan_s<=1", (), "did you mean bandwidth"),
        ("gpu.memory.bandwidth=2..4", "makespan_s<=1", (), "a unit is missing"),
        ("gpu.memory.bandwidth=4..2 TB/s", "makespan_s<=1", (), "empty range"),
        ("gpu.memory.bandwidth=4..4 TB/s", "makespan_s<=1", (), "empty range"),
        ("gpu.memory.bandwidth=4..inf TB/s", "makespan_s<=1", (), "infinite range"),
        ("gpu.memory.bandwidth=4 TB/s", "makespan_s<=1", (), "not a range"),
        ("gpu=h200-sxm..b200-sxm", "makespan_s<=1", (), "not a range"),
        ("gpu.memory.bandwidth", "makespan_s<=1", (), "not an assignment"),
        ("gpu.memory.bandwidth=2..4 TB/s", "makespn_s<=1", (), "no such metric"),
        ("gpu.memory.bandwidth=2..4 TB/s", "makespan_s", (), "without a value"),
        ("gpu.memory.bandwidth=2..4 TB/s", "makespan_s<=fast", (), "not a quantity"),
        ("gpu.memory.bandwidth=2..4 TB/s", "makespan_s<=1 GB", (), "wrong unit"),
        ("gpu.memory.bandwidth=2..4 TB/s", "makespan_s<=x0", (), "not a factor"),
        ("gpu.memory.bandwidth=2..4 TB/s", "", (), "no target"),
        ("gpu.memory.bandwidth=2..4 TB/s", "makespan_s<=1", ("gpu=b200-sxm",), "given twice"),
        ("gpu.memory.bandwidth=2..4 TB/s", "makespan_s", ("gpu=b200",), "--like: gpu: unknown GPU"),
        ("gpu.memory.bandwidth=2..4 TB/s", "goodput_share>=90%", (), "does not have this metric"),
        ("gpu.memory.capacity=10..20 MB", "makespan_s<=1", (), "no value of the field can be served"),
    ],
)
def test_bad_input(field, target, like, words):
    with pytest.raises(InputError) as caught:
        break_even(SMALL, field, target, like, scan=2, jobs=1)
    assert words in caught.value.message()


@pytest.mark.parametrize(
    ("text", "value", "sense"),
    [
        ("tpot_s.p99<=40 ms", 0.04, "<="),
        ("gpu_hours <= 90 min", 1.5, "<="),
        ("gpu_hours<=2", 2.0, "<="),
        ("goodput_share>=90%", 0.9, ">="),
        ("usd<=3.5 USD", 3.5, "<="),
        ("energy_j=1e6 J", 1e6, "<="),
        ("output_tokens_per_s≥1_000", 1000.0, ">="),
    ],
)
def test_targets(text, value, sense):
    target = parse_target(text, bare=False)
    assert (target.value, target.sense) == (pytest.approx(value), sense)


def test_command(tmp_path):
    scenario = tmp_path / "small.yaml"
    scenario.write_text(json.dumps(SMALL))
    command = [sys.executable, "-m", "simulator.cli", "whatif", str(scenario), "--jobs", "1", "--format", "json"]
    command += ["--break-even", "gpu.memory.bandwidth=2..20 TB/s", "--target", "makespan_s<=x0.7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "kinesim-whatif/1" and document["break_even"]["simulations"] > 9


def test_a_metric_that_is_missing_is_said_before_the_scan():
    """The scenario and both ends of the range are simulated; a field that gives it the metric is no mistake."""
    runs = []
    with pytest.raises(InputError, match="does not have this metric"):
        break_even(
            SMALL,
            "gpu.memory.bandwidth=x0.5..x2",
            "usd_per_solved<=1",
            jobs=1,
            progress=lambda done, _: runs.append(done),
        )
    assert len(runs) == 3
    priced = break_even(SMALL, "gpu.price.usd_per_hour=1..16 USD/h", "usd<=x0.5", jobs=1)
    assert priced.cases[0].crossings["predicted"][0].inside.x == pytest.approx(2.0, rel=1e-2)  # half of 4 USD/h


def test_notes_of_many_points_are_one():
    """Parts of the time with the range of their shares, in the order in which they came."""
    head = "extrapolated: a kernel used outside of the shapes that were measured:"
    several = [f"{head} gemm bf16 (h200-sxm@vllm, {i}% of the time)" for i in (5, 3, 12)]
    several += [
        "another (5% of 3)",
        f"{head} gemm bf16 (h200-sxm@vllm, 4% of the time), gqa (h200-sxm, 7% of the time)",
    ]
    assert merged([*several, *several]) == [
        f"{head} gemm bf16 (h200-sxm@vllm, 3% to 12% of the time), gqa (h200-sxm, 7% of the time)",
        "another (5% of 3)",
    ]


def test_an_answer_is_short_at_the_prompt():
    found = break_even(SMALL, "gpu.memory.bandwidth=x0.5..x4", "makespan_s<=x0.7", jobs=1)
    assert repr(found) == f"<BreakEven scenario: {answer(found, found.cases[0])}.>"
    page = found._repr_html_()
    assert "&lt;=" in page and "<th>meets_at</th>" in page and len(page) < 4000


def test_what_is_set_of_the_gpu_holds_for_another_one_too():
    """As in a what-if: 1 TB/s are those of the B200 that the scenario is compared with."""
    sets = ["gpu.memory.bandwidth=1TB/s"]
    found = break_even(SMALL, "engine.max_num_seqs=4..8", "tpot_s.mean", ["gpu=b200-sxm"], sets=sets, jobs=1)
    other = run_scenario(load_scenario(SMALL, ["gpu=b200-sxm", *sets]))
    assert found.cases[0].goal["predicted"] == headline(other.summary)["tpot_s.mean"]
