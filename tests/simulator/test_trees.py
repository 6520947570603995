"""Oblivious trees: by hand, against loops, and the same bits however many rows are asked for at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.trees import CHUNK, FEW, SOME, Trees


def random(seed: int, trees: int = 20, depth: int = 4, count: int = 6) -> Trees:
    rng = np.random.default_rng(seed)
    thresholds = rng.choice(np.linspace(-1, 1, 9), (trees, depth)).astype(np.float32)
    leaves = rng.normal(0, 0.1, (trees, 1 << depth)).astype(np.float32)
    return Trees(float(rng.normal()), rng.integers(0, count, (trees, depth)).astype(np.int16), thresholds, leaves)


def by_loops(trees: Trees, rows: np.ndarray) -> np.ndarray:
    out = []
    for row in rows.T:
        total = 0.0
        for features, thresholds, leaves in zip(trees.features, trees.thresholds, trees.leaves, strict=True):
            index = sum(1 << d for d in range(len(features)) if row[features[d]] > thresholds[d])
            total += float(leaves[index])
        out.append(trees.base + total)
    return np.array(out)


def test_the_leaf_is_the_number_that_the_answers_spell() -> None:
    """Level d gives bit d: the first question tells odd from even leaves."""
    trees = Trees(
        10.0,
        np.array([[0, 1]], np.int16),
        np.array([[2.5, 0.0]], np.float32),
        np.array([[1.0, 2.0, 4.0, 8.0]], np.float32),
    )
    rows = np.array([[2, 3, 2, 3], [-1, -1, 1, 1]], np.float32)
    assert trees(rows).tolist() == [11, 12, 14, 18]
    assert trees(np.tile(rows, 50)).tolist() == [11, 12, 14, 18] * 50


def test_a_value_at_the_threshold_is_not_above_it() -> None:
    trees = Trees(0.0, np.zeros((1, 1), np.int16), np.ones((1, 1), np.float32), np.array([[3.0, 5.0]], np.float32))
    for n in (1, FEW + 1):
        assert set(trees(np.full((1, n), 1.0, np.float32)).tolist()) == {3.0}
        assert set(trees(np.full((1, n), np.nextafter(np.float32(1), np.float32(2)))).tolist()) == {5.0}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 3 * FEW))
def test_few_rows_and_many_give_equal_bits(seed: int, depth: int, n: int) -> None:
    trees = random(seed, depth=depth)
    rows = np.random.default_rng(seed).choice(np.linspace(-1.25, 1.25, 21), (6, n)).astype(np.float32)
    many = trees(np.concatenate([rows, np.zeros((6, SOME), np.float32)], axis=1))[:n]
    some = trees(np.concatenate([rows, np.zeros((6, 2 * FEW), np.float32)], axis=1))[:n]
    assert np.array_equal(some, many)
    one_by_one = np.concatenate([trees(rows[:, i : i + 1]) for i in range(n)])
    assert np.array_equal(trees(rows), many) and np.array_equal(one_by_one, many)
    assert many == pytest.approx(by_loops(trees, rows), abs=1e-5)


@pytest.mark.parametrize("n", [FEW + 1, 500, SOME - 1, SOME])
def test_some_rows_of_many_trees_give_equal_bits(n: int) -> None:
    """Also where the trees are taken in several lots."""
    trees = random(7, trees=300, depth=8)
    rows = np.random.default_rng(n).normal(0, 1, (6, n)).astype(np.float32)
    assert np.array_equal(trees(rows), trees(np.tile(rows, 40))[:n])


def test_rows_beyond_a_chunk() -> None:
    trees = random(3)
    rows = np.random.default_rng(0).normal(0, 1, (6, CHUNK + 70)).astype(np.float32)
    found = trees(rows)
    assert np.array_equal(found[CHUNK - 70 :], trees(rows[:, CHUNK - 70 :]))
    assert found[-3:] == pytest.approx(by_loops(trees, rows[:, -3:]), abs=1e-5)


def test_no_trees_and_no_rows() -> None:
    none = Trees(0.25, np.zeros((0, 1), np.int16), np.zeros((0, 1), np.float32), np.zeros((0, 2), np.float32))
    assert none(np.ones((4, 3), np.float32)).tolist() == [0.25] * 3
    assert none(np.ones((4, FEW + 5), np.float32)).tolist() == [0.25] * (FEW + 5)
    assert random(0)(np.ones((6, 0), np.float32)).shape == (0,)


def test_as_many_thresholds_as_a_byte_holds() -> None:
    rng = np.random.default_rng(0)
    cuts = np.linspace(0, 1, 255, dtype=np.float32)
    leaves = rng.normal(0, 1, (255, 2)).astype(np.float32)
    trees = Trees(0.0, np.zeros((255, 1), np.int16), cuts[:, None], leaves)
    rows = np.concatenate([cuts, cuts + 1e-3, [-1.0, 2.0]]).astype(np.float32)[None]
    assert trees(rows) == pytest.approx(by_loops(trees, rows), abs=1e-4)
