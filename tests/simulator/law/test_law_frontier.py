"""Frontiers against the authors' procedure written out, and against figures worked out by hand."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.law.frontiers import envelopes
from simulator.law.frontiers.frontier import frame_frontier, frontier
from simulator.law.strategies import BUDGETS, COLUMNS, LIMITS, WHOLE

SMALL, LARGE = "qwen3-0.6b", "qwen3-8b"


def rows(*given: tuple[str, str, int, float, str, float]) -> pd.DataFrame:
    """Strategies of (model, attention, budget, tokens, problem, accuracy)."""
    full = [(m, a, b, 0, 0, 100, int(n), float(n), 1, problem, solved) for m, a, b, n, problem, solved in given]
    return pd.DataFrame(full, columns=list(COLUMNS))


def noisy(seed: int, problems: int = 7) -> tuple[pd.DataFrame, np.ndarray]:
    """Strategies as a trace gives them: accuracies in 32nds that do not always rise with the cost."""
    draw = np.random.default_rng(seed)
    given = [
        (model, attention, budget, limit, f"p{p}", draw.integers(0, 33) / 32)
        for model in (SMALL, LARGE)
        for attention, budgets in (("dense", (0,)), ("top_k", (128, 1024)))
        for budget in budgets
        for limit in LIMITS[::5]
        for p in range(problems)
    ]
    return rows(*given), np.exp(draw.uniform(3, 9, len(given)))


def test_two_problems_by_hand() -> None:
    table = rows(
        (SMALL, "dense", 0, 1, "p", 0.2),
        (SMALL, "dense", 0, 2, "p", 0.6),
        (SMALL, "dense", 0, 1, "q", 0.0),
        (SMALL, "dense", 0, 2, "q", 0.4),
    )
    found = frontier(table, np.array([10.0, 100.0, 20.0, 200.0]), costs=[5, 10, 20, 99, 100, 200])
    (curve,) = found.curves
    # p solves 0.2 from 10 on and 0.6 from 100 on, q nothing before 200, and what cannot be afforded counts as 0.
    assert curve.accuracy == pytest.approx([0, 0.1, 0.1, 0.1, 0.3, 0.5])
    assert curve.affordable == pytest.approx([0, 0.5, 1, 1, 1, 1])
    # Geometric means over the problems that are solved at all: p alone, at last p and q.
    assert curve.tokens == pytest.approx([np.nan, 1, 1, 1, 2, 2], nan_ok=True)
    assert np.isnan(curve.budget).all()


def as_the_authors(table: pd.DataFrame, cost: np.ndarray, costs: np.ndarray) -> dict[tuple[str, str], list[float]]:
    """cost_model/long_CoT/frontier_genlen.ipynb in other words: loops over models, costs and problems."""
    curves = {}
    for model in table["model"].unique():
        for attention in table["attention"].unique():
            mine = table.assign(cost=cost)[(table["model"] == model) & (table["attention"] == attention)]
            means = []
            for limit in costs:
                reached = []
                for problem in mine["problem"].unique():
                    within = mine[(mine["problem"] == problem) & (mine["cost"] <= limit)]["accuracy"]
                    reached.append(within.max() if len(within) else 0)
                means.append(np.mean(reached))
            curves[model, attention] = means
    return curves


@pytest.mark.parametrize("seed", range(3))
def test_the_authors_procedure(seed: int) -> None:
    table, cost = noisy(seed)
    costs = np.logspace(np.log10(45), np.log10(1e5), 100)[::3]
    expected = as_the_authors(table, cost, costs)
    found = frontier(table, cost, costs=costs)
    for key, curve in expected.items():
        assert found.curve(*key).accuracy == pytest.approx(curve, abs=1e-12)
    for attention in ("dense", "top_k"):
        best = np.maximum(*(np.array(curve) for (_, kind), curve in expected.items() if kind == attention))
        assert found.envelope(attention).accuracy == pytest.approx(best, abs=1e-12)
    # Their plots average three costs, mirrored at the ends: (x0 + x0 + x1) / 3 at the first one.
    smooth = frontier(table, cost, costs=costs, smooth=3)
    for key, curve in expected.items():
        wide = [curve[0], *curve, curve[-1]]
        expected_line = [sum(wide[i : i + 3]) / 3 for i in range(len(curve))]
        assert smooth.curve(*key).accuracy == pytest.approx(expected_line, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_more_money_never_solves_less(seed: int, problems: int) -> None:
    table, cost = noisy(seed, problems)
    found = frontier(table, cost, points=50)
    for line in (*found.curves, *found.envelopes):
        assert (np.diff(line.accuracy) >= -1e-12).all()
        assert ((line.accuracy >= 0) & (line.accuracy <= 1)).all()
    for curve in found.curves:
        assert (np.diff(curve.affordable) >= 0).all()
        assert (found.envelope(curve.attention).accuracy >= curve.accuracy - 1e-12).all()
    # The dearest cost affords everything: each problem has its best strategy.
    best = table.groupby(["model", "attention", "problem"])["accuracy"].max().groupby(["model", "attention"]).mean()
    for curve in found.curves:
        assert curve.accuracy[-1] == pytest.approx(best[curve.model, curve.attention])


def test_nearly_equal_accuracies_count_as_the_cheaper_choice() -> None:
    table = rows((SMALL, "top_k", 128, 1, "p", 0.5), (SMALL, "top_k", 2048, 9, "p", 0.5004))
    found = frontier(table, np.array([10.0, 100.0]), costs=[10, 100])
    (curve,) = found.curves
    assert curve.accuracy == pytest.approx([0.5, 0.5004])  # the best one
    assert curve.budget == pytest.approx([128, 128])  # within 0.1 %: what the cheaper one takes
    assert curve.tokens == pytest.approx([1, 1])


def test_a_whole_benchmark_is_one_problem_or_a_line() -> None:
    table = rows((LARGE, "dense", 0, 1, WHOLE, 0.2), (LARGE, "dense", 0, 4, WHOLE, 0.6))
    cost = np.array([10.0, 1000.0])
    steps = frontier(table, cost, costs=[10, 100, 1000]).curves[0]
    line = frontier(table, cost, costs=[5, 10, 100, 1000], interpolate=True).curves[0]
    assert steps.accuracy == pytest.approx([0.2, 0.2, 0.6])
    assert line.accuracy == pytest.approx([0, 0.2, 0.4, 0.6])  # half way in the logarithm: half of the accuracy
    assert line.affordable == pytest.approx([0, 1, 1, 1])


def test_curves_given_as_such() -> None:
    frame = pd.DataFrame(
        {
            "model": [SMALL] * 3 + [LARGE] * 3,
            "attention": ["dense"] * 6,
            "cost": [1.0, 10, 100, 10, 100, 1000],
            "accuracy": [0.1, 0.3, 0.2, 0.0, 0.4, 0.8],
        }
    )
    found = frame_frontier(frame, costs=[1, 10, 100, 1000])
    assert found.curve(SMALL, "dense").accuracy == pytest.approx([0.1, 0.3, 0.3, 0.3])  # a fall is no loss: pay less
    envelope = found.envelope("dense")
    assert envelope.accuracy == pytest.approx([0.1, 0.3, 0.4, 0.8])
    small, large = envelope.spans
    assert (small.model, large.model) == (SMALL, LARGE)
    # From 10 to 100 the large one rises from 0 to 0.4 and the small one stays at 0.3: they cross at 3/4 of the decade.
    assert small.end == large.start == pytest.approx(10**1.75)
    with pytest.raises(KeyError):
        found.curve(SMALL, "top_k")


def test_a_model_stays_the_best_until_another_is_better_by_more_than_a_tie() -> None:
    costs = np.array([1.0, 2, 4, 8, 16])
    heights = np.array([[0.100, 0.200, 0.300, 0.400, 0.400], [0.0, 0.2015, 0.301, 0.401, 0.500]])
    spans = envelopes.best_models("dense", [SMALL, LARGE], heights, costs, tie=0.002).spans
    # Ahead by a point of a thousand is a tie, ahead by 0.1 is not; the crossing is where it first got ahead for good.
    assert [s.model for s in spans] == [SMALL, LARGE]
    assert 1 < spans[0].end < 2
    assert spans[1].high == pytest.approx(0.5)
    alone = envelopes.best_models("dense", [SMALL, LARGE], np.zeros((2, 5)), costs)
    assert alone.spans == ()


def test_gain_and_saving_by_hand() -> None:
    costs = np.array([1.0, 10, 100, 1000])
    dense, sparse = np.array([0.0, 0.1, 0.3, 0.6]), np.array([0.1, 0.5, 0.6, 0.6])
    gain = envelopes.largest_gain(costs, dense, sparse, np.array([False, True, True, True]))
    assert (gain.points, gain.cost, gain.dense_affordable) == (pytest.approx(0.4), 10, True)
    # 0.3 costs 100 dense; sparse is at 0.1 for 1 and at 0.5 for 10: half way, 10^0.5. 0.5 costs 100 x 10^(2/3) against
    # 10: 46.4 x. The most is at 0.5: below it the sparse curve is the flatter one, above it the steeper one.
    assert envelopes.saving_at(costs, dense, sparse, 0.3) == pytest.approx(100 / 10**0.5)
    saving = envelopes.largest_saving(costs, dense, sparse)
    assert (saving.ratio, saving.accuracy) == (pytest.approx(10 ** (5 / 3)), pytest.approx(0.5))
    assert (saving.low, saving.high) == (pytest.approx(0.1), pytest.approx(0.6 - envelopes.FLAT))
    assert envelopes.gain_at(costs, dense, sparse, 10**1.5) == pytest.approx(0.35)
    assert np.isnan(envelopes.gain_at(costs, dense, sparse, 2000))
    assert np.isnan(envelopes.saving_at(costs, dense, sparse, 0.7))
    assert envelopes.largest_gain(costs, sparse, sparse) is None
    assert envelopes.largest_saving(costs, dense / 100, sparse) is None  # nothing that both reach above 5 %


@pytest.mark.parametrize(("budget", "tokens"), [(0.25, 0.5), (0.0, 1.0)])
def test_growth_of_a_power_law(budget: float, tokens: float) -> None:
    costs = np.geomspace(10, 1e4, 40)
    solved = np.linspace(0.1, 0.9, 40)
    found = envelopes.growth(costs, solved, 128 * costs**budget, 100 * costs**tokens, np.ones(40))
    assert found.budget == pytest.approx(budget, abs=1e-9)
    assert found.budget_doubling == pytest.approx(2**budget)
    assert found.tokens_doubling == pytest.approx(2**tokens)
    assert envelopes.growth(costs, np.zeros(40), costs, costs, costs) is None


def test_a_table_of_17_280_strategies_takes_less_than_a_second() -> None:
    given = [
        (f"qwen3-{size}b", "dense" if not budget else "top_k", budget, limit, f"p{p}", (limit * p % 97) / 97)
        for size in ("0.6", "1.7", "4", "8", "14", "32")
        for budget in (0, *BUDGETS)
        for limit in LIMITS
        for p in range(30)
    ]
    table, cost = rows(*given), np.random.default_rng(0).uniform(1, 1e4, len(given))
    started = time.perf_counter()
    frontier(table, cost, points=100)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("cost", "options", "words"),
    [
        ([-1.0], {}, "qwen3-0.6b, dense attention, 1 tokens"),
        ([float("nan")], {}, "found nan"),
        ([1.0, 2.0], {}, "as many costs"),
        ([1.0], {"costs": [3, 2]}, "do not rise"),
        ([1.0], {"costs": [-3, 2]}, "above 0"),
        ([1.0], {"smooth": 2}, "odd number"),
        ([1.0], {"points": 1}, "too few costs"),
        ([0.0], {}, "costs anything"),
    ],
)
def test_bad_input(cost: list[float], options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        frontier(rows((SMALL, "dense", 0, 1, "p", 0.5)), np.array(cost), **options)


def test_unknown_accuracies_are_left_out() -> None:
    known, unknown = (SMALL, "dense", 0, 1, "p", 0.5), (LARGE, "dense", 0, 1, "p", float("nan"))
    assert frontier(rows(known, unknown), np.array([1.0, 2.0])).models == (SMALL,)
    with pytest.raises(InputError, match="known accuracy"):
        frontier(rows(unknown), np.array([1.0]))
