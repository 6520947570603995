"""Length distributions: ranges, statistics, means against numerical integration, tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from hwspecs.errors import InputError
from workloads.lengths import Lengths, read_column

LENGTHS: TypeAdapter = TypeAdapter(Lengths)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@st.composite
def distributions(draw: st.DrawFn) -> dict:
    kind = draw(st.sampled_from(["constant", "uniform", "lognormal", "empirical"]))
    tokens = st.integers(1, 1_000_000_000)
    if kind == "constant":
        return {"kind": kind, "value": draw(tokens)}
    if kind == "uniform":
        low, high = sorted([draw(tokens), draw(tokens)])
        return {"kind": kind, "low": low, "high": high}
    if kind == "lognormal":
        low, high = sorted([draw(tokens), draw(tokens)])
        spread = {"median": draw(st.floats(1e-3, 1e9)), "sigma": draw(st.floats(1e-3, 10))}
        return {"kind": kind, "min": low, "max": high} | spread
    values = draw(st.lists(tokens, min_size=1, max_size=6))
    weights = draw(st.none() | st.lists(st.floats(0, 1e300), min_size=len(values), max_size=len(values)))
    if weights is not None and not 0 < sum(weights) < np.inf:
        weights[0] = 1.0
        weights[1:] = [0.0] * (len(weights) - 1)
    return {"kind": kind, "values": values, "weights": weights}


@given(distributions(), st.integers(0, 2**63 - 1), st.integers(1, 200))
def test_samples_are_whole_in_range_and_repeatable(spec: dict, seed: int, n: int) -> None:
    lengths = LENGTHS.validate_python(spec)
    drawn = lengths.sample(rng(seed), n)
    assert drawn.dtype == np.int64 and drawn.shape == (n,) and drawn.min() >= 1
    assert (drawn == lengths.sample(rng(seed), n)).all()
    assert (drawn[: n // 2] == lengths.sample(rng(seed), n // 2)).all()  # more requests leave the first as they were
    if spec["kind"] == "uniform":
        assert spec["low"] <= drawn.min() and drawn.max() <= spec["high"]
    if spec["kind"] == "lognormal":
        assert spec["min"] <= drawn.min() and drawn.max() <= spec["max"]
    if spec["kind"] == "empirical":
        chances = spec["weights"] or [1] * len(spec["values"])
        possible = {v for v, w in zip(spec["values"], chances, strict=True) if w > 0}
        assert set(drawn.tolist()) <= possible


@given(distributions())
def test_plain_data_and_back(spec: dict) -> None:
    lengths = LENGTHS.validate_python(spec)
    assert LENGTHS.validate_python(LENGTHS.dump_python(lengths)) == lengths


def test_a_bare_integer_is_a_constant() -> None:
    assert LENGTHS.validate_python(7).sample(rng(), 3).tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "constant", "value": 512},
        {"kind": "uniform", "low": 10, "high": 500},
        {"kind": "lognormal", "median": 300, "sigma": 0.8},
        {"kind": "lognormal", "median": 300, "sigma": 0.8, "min": 100, "max": 600},
        {"kind": "lognormal", "median": 50, "sigma": 2.0, "max": 60},
        {"kind": "empirical", "values": [1, 100, 1000]},
        {"kind": "empirical", "values": [1, 100, 1000], "weights": [1, 0, 3]},
    ],
)
def test_sample_mean_is_the_mean(spec: dict) -> None:
    lengths = LENGTHS.validate_python(spec)
    drawn = lengths.sample(rng(1), 200_000)
    # four standard errors, and the rounding of the lognormal
    assert drawn.mean() == pytest.approx(lengths.mean(), abs=4 * drawn.std() / 200_000**0.5 + 0.02)


def test_uniform_reaches_both_ends_alike() -> None:
    drawn = LENGTHS.validate_python({"kind": "uniform", "low": 3, "high": 6}).sample(rng(), 40_000)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [3, 4, 5, 6]
    assert np.abs(counts - 10_000).max() < 4 * (40_000 * 0.25 * 0.75) ** 0.5


def test_lognormal_median_sigma_and_clipping() -> None:
    drawn = LENGTHS.validate_python({"kind": "lognormal", "median": 9000, "sigma": 0.7, "max": 16384}).sample(
        rng(), 200_000
    )
    assert np.median(drawn) == pytest.approx(9000, rel=0.01)
    # P(X > 16384) = Phi(-ln(16384 / 9000) / 0.7) = Phi(-0.8558) = 0.1961
    assert (drawn == 16384).mean() == pytest.approx(0.1961, abs=0.004)
    free = LENGTHS.validate_python({"kind": "lognormal", "median": 9000, "sigma": 0.7}).sample(rng(), 200_000)
    assert np.log(free).std() == pytest.approx(0.7, rel=0.01)


def test_lognormal_mean_against_numerical_integration() -> None:
    lengths = LENGTHS.validate_python({"kind": "lognormal", "median": 700, "sigma": 0.9, "min": 200, "max": 2000})
    z = np.linspace(-9, 9, 2_000_001)
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    expected = (np.clip(700 * np.exp(0.9 * z), 200, 2000) * density).sum() * (z[1] - z[0])
    assert lengths.mean() == pytest.approx(expected, rel=1e-9)


def test_weights_of_the_empirical_distribution() -> None:
    drawn = LENGTHS.validate_python({"kind": "empirical", "values": [5, 7], "weights": [1, 3]}).sample(rng(), 100_000)
    assert (drawn == 7).mean() == pytest.approx(0.75, abs=0.006)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_column_of_a_table(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"lengths.{ending}"
    table = pa.table({"name": ["a", "b", "c"], "tokens": [10, 20, 60]})
    if ending == "csv":
        path.write_text("name,tokens\na,10\nb,20\nc,60\n")
    else:
        pq.write_table(table, path)
    spec = {"kind": "table", "path": str(path), "column": "tokens"}
    in_file = LENGTHS.validate_python(spec | {"order": "in_file"})
    assert in_file.sample(rng(), 5).tolist() == [10, 20, 60, 10, 20]
    sampled = LENGTHS.validate_python(spec).sample(rng(), 30_000)
    assert set(sampled.tolist()) == {10, 20, 60}
    assert in_file.mean() == 30 and sampled.mean() == pytest.approx(30, abs=0.6)


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("tokens\n5\n0\n", "row 2, column tokens", "not a length"),
        ("tokens\n5\n-3\n", "row 2, column tokens", "not a length"),
        ("tokens\n5\n2.5\n", "row 2, column tokens", "not a length"),
        ("a,tokens\n1,5\n1,\n", "row 2, column tokens", "not a length"),
        ("tokens\nnan\n", "row 1, column tokens", "not a length"),
        ("tokens\nlong\n", "column tokens", "not a column of numbers"),
        ("length\n5\n", "column tokens", "no such column"),
        ("tokens\n", None, "no rows"),
        ("", None, "cannot be read"),
        ("tokens,b\n1,2\n3\n", None, "cannot be read"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, place: str | None, problem: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=problem) as error:
        read_column(path, "tokens")
    assert error.value.file == path and error.value.place == place


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_column(tmp_path / "none.csv", "tokens")
    with pytest.raises(InputError, match=r"\.csv or \.parquet"):
        read_column(tmp_path / "a.xlsx", "tokens")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(InputError, match="cannot be read"):
        read_column(tmp_path / "broken.parquet", "tokens")
