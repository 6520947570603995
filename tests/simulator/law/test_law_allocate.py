"""Algorithms 1 and 2 against brute force, and a small case by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.law.amounts import amount, parse_costs
from simulator.law.frontiers.allocate import STRATEGY, allocate
from simulator.law.strategies import COLUMNS, WHOLE

MODELS = ("qwen3-0.6b", "qwen3-8b")


def strategies(accuracies: list[float], problems: tuple[str, ...]) -> pd.DataFrame:
    """Every model x (dense, top-k with two budgets) x two lengths x problem, with these accuracies in turn."""
    kinds = [(m, a, b, n) for m in MODELS for a, b in (("dense", 0), ("top_k", 64), ("top_k", 512)) for n in (1, 2)]
    full = [
        (m, a, b, 0, 0, 100, n, float(n), 1, problem, accuracies[i % len(accuracies)])
        for i, (problem, (m, a, b, n)) in enumerate((p, k) for p in problems for k in kinds)
    ]
    return pd.DataFrame(full, columns=list(COLUMNS))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=36, max_size=36),
    st.lists(st.integers(1, 9), min_size=36, max_size=36),
    st.integers(1, 9),
)
def test_brute_force(accuracies: list[int], prices: list[int], limit: int) -> None:
    """Few distinct accuracies and costs, so that ties are common: the cheapest of the best."""
    table, cost = strategies([a / 4 for a in accuracies], ("p", "q", "r")), np.array(prices, dtype=float)
    if limit < cost.min():
        with pytest.raises(InputError, match="nothing is affordable"):
            allocate(table, cost, [limit])
        return
    for found in allocate(table, cost, [limit], tie=0):
        total, spent = 0.0, []
        for problem in ("p", "q", "r"):
            mine = [
                (-row.accuracy, cost[i], i)
                for i, row in enumerate(table.itertuples())
                if row.attention == found.attention and row.problem == problem and cost[i] <= limit
            ]
            chosen = found.chosen[found.chosen["problem"] == problem]
            assert len(chosen) == bool(mine)
            if mine:
                loss, price, i = min(mine)
                total -= loss
                spent.append(price)
                assert tuple(chosen.iloc[0][list(STRATEGY)]) == tuple(table.iloc[i][list(STRATEGY)])
        assert found.accuracy == pytest.approx(total / 3)
        assert found.spent == pytest.approx(np.mean(spent) if spent else np.nan, nan_ok=True)
        means = table.assign(cost=cost).groupby(list(STRATEGY), sort=False)[["accuracy", "cost"]].mean().reset_index()
        alike = means[(means["attention"] == found.attention) & (means["cost"] <= limit)]
        assert (found.single is None) == alike.empty
        if found.single is not None:
            assert found.single["accuracy"] == pytest.approx(alike["accuracy"].max())
            best = alike[np.isclose(alike["accuracy"], alike["accuracy"].max())]
            assert found.single["cost"] == pytest.approx(best["cost"].min())


def test_by_hand() -> None:
    # An easy problem that the small model solves, and a hard one that only the large one solves, at ten times the cost.
    full = [
        (MODELS[0], "top_k", 64, 0, 0, 100, 2048, 2000.0, 1, "easy", 0.9),
        (MODELS[0], "top_k", 64, 0, 0, 100, 2048, 2000.0, 1, "hard", 0.0),
        (MODELS[1], "top_k", 512, 0, 0, 100, 4096, 4000.0, 1, "easy", 1.0),
        (MODELS[1], "top_k", 512, 0, 0, 100, 4096, 4000.0, 1, "hard", 0.5),
    ]
    table, cost = pd.DataFrame(full, columns=list(COLUMNS)), np.array([10.0, 10.0, 80.0, 120.0])
    cheap, middle, dear = allocate(table, cost, [10, 80, 120])
    assert (cheap.accuracy, cheap.models()) == (
        pytest.approx(0.45),
        {MODELS[0]: 1},
    )  # `hard` cannot be solved: no choice
    assert (middle.accuracy, middle.models()) == (pytest.approx(0.5), {MODELS[1]: 1})
    assert (dear.accuracy, dear.models()) == (pytest.approx(0.75), {MODELS[1]: 2})
    assert dear.quartiles("budget") == (512, 512, 512)
    assert cheap.quartiles("limit") == (2048, 2048, 2048)
    assert dear.spent == pytest.approx(100)
    # The same for all: the large model costs 100 in the mean.
    assert middle.single["model"] == MODELS[0]
    assert (dear.single["model"], dear.single["accuracy"], dear.single["cost"]) == (MODELS[1], 0.75, 100)
    whole = table.assign(problem=[WHOLE] * 4).iloc[[0, 2]]
    (found,) = allocate(whole, cost[[0, 2]], [100])
    assert (found.problems, found.accuracy, found.single["model"]) == (0, 1.0, MODELS[1])
    alike = allocate(table, cost, [120], per_problem=False)[0]
    assert (alike.accuracy, len(alike.chosen)) == (0.75, 1)


def test_a_tenth_of_a_point_is_not_worth_a_dearer_strategy() -> None:
    full = [
        (MODELS[0], "dense", 0, 0, 0, 100, 2048, 2000.0, 1, "easy", 0.9995),
        (MODELS[1], "dense", 0, 0, 0, 100, 2048, 2000.0, 1, "easy", 1.0),
        (MODELS[0], "dense", 0, 0, 0, 100, 2048, 2000.0, 1, "hopeless", 0.0),
        (MODELS[1], "dense", 0, 0, 0, 100, 2048, 2000.0, 1, "hopeless", 0.0005),
    ]
    table, cost = pd.DataFrame(full, columns=list(COLUMNS)), np.array([1.0, 9.0, 1.0, 9.0])
    (found,) = allocate(table, cost, [10])
    assert found.models() == {MODELS[0]: 1}  # the hopeless one is nobody's
    assert (found.spent, found.accuracy) == (1, pytest.approx(0.9995 / 2))
    assert allocate(table, cost, [10], tie=0)[0].spent == 9


def test_dense_attention_that_nothing_pays_for_is_said_beside_sparse_that_is_paid() -> None:
    table = strategies([0.5], ("p",))
    cost = np.where(table["attention"] == "dense", 100.0, 1.0)
    dense, sparse = allocate(table, cost, [10])
    assert (dense.attention, dense.accuracy, dense.cheapest, dense.single) == ("dense", 0.0, 100.0, None)
    assert np.isnan(dense.spent)
    assert dense.quartiles("tokens") is None
    assert sparse.accuracy == 0.5


@pytest.mark.parametrize("limit", [0.0, -3.0, float("nan"), float("inf")])
def test_no_cost(limit: float) -> None:
    with pytest.raises(InputError, match="a cost is above 0"):
        allocate(strategies([0.5], ("p",)), np.ones(12), [limit])


def test_below_the_cheapest_point() -> None:
    table, cost = strategies([0.5], ("p",)), np.linspace(20, 31, 12)
    with pytest.raises(InputError) as caught:
        allocate(table, cost, [1000, 3])
    assert "nothing is affordable at 3 T per problem: the cheapest strategy costs 20 T" in str(caught.value)
    assert "qwen3-0.6b, dense attention, 1 tokens" in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "unit", "numbers", "kind"),
    [
        (["2000"], None, [2000], "eflops"),
        (["1e3", "2_000T"], None, [1000, 2000], "eflops"),
        (["80ms,0.5 s", "2min"], None, [0.08, 0.5, 120], "seconds"),
        (["$0.01", "0.02 USD"], None, [0.01, 0.02], "usd"),
        (["2kJ", "1Wh"], None, [2000, 3600], "joules"),
        (["5"], "seconds", [5], "seconds"),
    ],
)
def test_costs_as_written(texts: list[str], unit: str | None, numbers: list[float], kind: str) -> None:
    found, named = parse_costs(texts, unit)
    assert (found, named) == (pytest.approx(numbers), kind)


@pytest.mark.parametrize(
    "text", ["-5", "0", "nan", "inf", "1e999", "five", "3 parsecs", "$3s", "", "1s,2J", "1,,2", "1s,2"]
)
def test_costs_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="COST"):
        parse_costs([text])


def test_a_unit_that_contradicts_the_option() -> None:
    with pytest.raises(InputError, match="different units"):
        parse_costs(["3s"], "joules")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (360, "eflops", "360 T"),
        (1e30, "eflops", "1e+30 T"),
        (0.08, "seconds", "80 ms"),
        (0.0004, "usd", "0.4 mUSD"),
        (2500, "joules", "2.5 kJ"),
    ],
)
def test_amounts(value: float, unit: str, text: str) -> None:
    assert amount(value, unit) == text
