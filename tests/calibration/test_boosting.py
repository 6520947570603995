"""Boosting of oblivious trees: what it learns, what it must not learn, and that it always learns the same."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.boosting import BINS, fit_trees
from simulator.profilefile import quantised
from simulator.trees import Trees


def grid(n: int = 3000, seed: int = 0) -> np.ndarray:
    """Features [4, n], the last one the same everywhere."""
    rng = np.random.default_rng(seed)
    rows = rng.uniform(0, 1, (4, n)).astype(np.float32)
    rows[3] = 7
    return rows


def equal(a: Trees, b: Trees) -> bool:
    same = (np.array_equal(getattr(a, name), getattr(b, name)) for name in ("features", "thresholds", "leaves"))
    return a.base == b.base and all(same)


def test_a_step_function_is_found() -> None:
    rows = grid()
    target = np.where(rows[0] > 0.5, 0.4, -0.3) + np.where(rows[1] > 0.25, 0.2, 0.0) * (rows[2] > 0.5)
    trees = fit_trees(rows, target, trees=200, depth=4)
    fresh = grid(seed=1)
    expected = np.where(fresh[0] > 0.5, 0.4, -0.3) + np.where(fresh[1] > 0.25, 0.2, 0.0) * (fresh[2] > 0.5)
    error = np.abs(trees(fresh) - expected)
    assert error.mean() < 0.01
    assert 3 not in trees.features, "a feature that says nothing"


def test_outliers_do_not_matter() -> None:
    rows = grid()
    rng = np.random.default_rng(2)
    truth = np.where(rows[0] > 0.5, 0.4, -0.3)
    target = truth + np.where(rng.uniform(0, 1, len(truth)) < 0.1, 3.0, 0.0)
    error = np.abs(fit_trees(rows, target, trees=100, depth=3)(rows) - truth)
    assert np.quantile(error, 0.9) < 0.03


def test_the_seed_decides_every_bit() -> None:
    rows = grid(500)
    target = np.sin(6 * rows[0]) + rows[1]
    first = fit_trees(rows, target, trees=30, seed=5)
    assert equal(first, fit_trees(rows, target, trees=30, seed=5))
    assert not equal(first, fit_trees(rows, target, trees=30, seed=6))


def test_rows_at_the_floor_do_not_tell_where_the_kernel_is() -> None:
    """The kernel is at -1 in one half and measured as the floor of 0 there: what is predicted is the larger of both."""
    rows = grid()
    kernel = np.where(rows[0] > 0.5, 0.5, -1.0)
    floor = np.zeros(len(kernel))
    censored = fit_trees(rows, np.maximum(kernel, floor), floor=floor, trees=100, depth=3)(rows)
    error = np.abs(np.maximum(censored, floor) - np.maximum(kernel, floor))
    assert error.mean() < 0.02 and np.quantile(error, 0.9) < 0.05


def test_the_floor_pulls_nothing_down_or_up() -> None:
    """Where a quarter of the rows have a floor high above the kernel, the others are learned as if alone."""
    rows = grid()
    rng = np.random.default_rng(0)
    kernel = np.where(rows[0] > 0.5, 0.5, -0.5) + rng.normal(0, 0.1, len(rows[0]))
    idle = rng.uniform(0, 1, len(kernel)) < 0.25
    floor = np.where(idle, 2.0, -3.0)
    settings = {"trees": 150, "depth": 3}
    found = fit_trees(rows, np.maximum(kernel, floor), floor=floor, **settings)(rows)  # type: ignore[arg-type]
    alone = fit_trees(rows[:, ~idle], kernel[~idle], **settings)(rows)  # type: ignore[arg-type]
    assert np.abs(found - kernel)[~idle].mean() < 1.1 * np.abs(alone - kernel)[~idle].mean() + 0.005
    pulled = fit_trees(rows, np.maximum(kernel, floor), **settings)(rows)  # type: ignore[arg-type]
    assert np.mean((pulled - kernel)[~idle]) > 0.02 > abs(np.mean((found - kernel)[~idle])), "what the floor is for"


def test_all_rows_at_the_floor_or_alike() -> None:
    rows, floor = grid(50), np.full(50, 1.5)
    assert (fit_trees(rows, floor.copy(), floor=floor, trees=5, depth=2)(rows) <= 1.5).all()
    alike = fit_trees(np.ones((3, 20), np.float32), np.arange(20.0))
    assert alike(np.ones((3, 2), np.float32)).tolist() == [9.5, 9.5]
    assert alike(np.ones((3, 200), np.float32)).tolist() == [9.5] * 200


def test_a_leaf_with_few_rows_moves_little() -> None:
    rows = np.zeros((1, 100), np.float32)
    rows[0, 0] = 1
    target = np.where(rows[0] > 0, 1.0, 0.0)
    one = {"trees": 1, "depth": 1, "rate": 1.0, "rows": 1.0, "columns": 1.0}
    assert fit_trees(rows, target, smooth=4.0, **one)(rows)[0] == pytest.approx(1 / 5)  # type: ignore[arg-type]
    assert fit_trees(rows, target, smooth=1e-9, **one)(rows)[0] == pytest.approx(1)  # type: ignore[arg-type]


def test_thresholds_fit_into_a_byte() -> None:
    rows = grid(20_000)
    trees = fit_trees(rows, np.sin(40 * rows[0]), trees=150, depth=6)
    for feature in np.unique(trees.features):
        assert len(np.unique(trees.thresholds[trees.features == feature])) < BINS
    assert np.abs(trees(rows) - np.sin(40 * rows[0])).mean() < 0.1


def test_quantised_leaves_are_near() -> None:
    rows = grid(500)
    trees = fit_trees(rows, np.sin(6 * rows[0]) + rows[1], trees=40)
    coarse = quantised(trees)
    largest = np.abs(trees.leaves).max(axis=1, keepdims=True)
    assert (np.abs(coarse.leaves - trees.leaves) <= largest / 127 / 2 * 1.001).all()
    assert equal(coarse, quantised(coarse)), "as a file gives them back"
    assert np.abs(coarse(rows) - trees(rows)).max() < 0.02
