"""The parametric model: its mathematics against sampling and integrals, its tables, the bundled coefficients."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import betaln

from hwspecs.errors import InputError
from simulator import law
from simulator.law.accuracy.lengthbins import bin_lengths, cut_length, cut_square, solve_shares
from simulator.law.accuracy.parametric import Coefficients, Parametric
from simulator.law.accuracy.sources import BUNDLED, load_accuracy, read_parametric
from simulator.law.strategies import BUDGETS, COLUMNS, LIMITS, MODELS, WHOLE

ONE = Coefficients(0.7, 0.8, 9000.0, 0.6, 0.5, 0.95, 300.0, 1.0)
MADE = Parametric("made", "made up", {"qwen3-8b": ONE})


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.floats(0.05, 50), st.integers(1, 60))
def test_solve_shares_keep_the_mean(ceiling: float, spread: float, problems: int) -> None:
    shares = solve_shares(ceiling, spread, problems)
    assert shares.mean() == pytest.approx(ceiling, abs=1e-8)
    assert (np.diff(shares) <= 1e-9).all() and shares.min() >= 0 and shares.max() <= 1


def test_many_bins_are_the_beta_distribution() -> None:
    """Coverage of uncut trials: 1 - E[(1 - p)^N] = 1 - B(a, b + N) / B(a, b)."""
    a, b, n = 0.7 * 0.8, 0.3 * 0.8, 8
    shares = solve_shares(0.7, 0.8, 2000)
    exact = 1 - np.exp(betaln(a, b + n) - betaln(a, b))
    assert np.mean(1 - (1 - shares) ** n) == pytest.approx(exact, abs=2e-4)


@settings(deadline=None, max_examples=25)
@given(st.floats(5, 11), st.floats(0.1, 1.5), st.floats(100, 40000))
def test_cut_lengths_are_the_lognormals(mu: float, sigma: float, limit: float) -> None:
    """Against the mean of min(T, L) and of its square over 200,001 quantiles of T."""
    u = (np.arange(200_001) + 0.5) / 200_001
    cut = np.minimum(stats.lognorm(sigma, scale=np.exp(mu)).ppf(u), limit)
    assert cut_length(limit, mu, sigma) == pytest.approx(cut.mean(), rel=1e-3)
    assert cut_square(limit, mu, sigma) == pytest.approx((cut**2).mean(), rel=3e-3)
    bins = bin_lengths(np.array([mu]), sigma, limit, 16)
    assert bins.mean() == pytest.approx(cut_length(limit, mu, sigma), rel=1e-9)
    assert (np.diff(bins[0]) >= -1e-6 * limit).all() and bins.max() <= limit * (1 + 1e-9)


def test_accuracy_is_what_sampling_gives() -> None:
    """Trials drawn one by one from the model as its page describes it, for one limit, KV budget and N."""
    rng = np.random.default_rng(0)
    shares, mu = MADE._shares(ONE), MADE._medians(ONE)
    draws, limit, budget, n = 40_000, 8192, 512, 4
    length = np.exp(mu[:, None] + ONE.sigma * rng.standard_normal((30, draws)))
    right = (rng.random((30, draws)) < shares[:, None] * 0.95 * (1 - np.exp(-512 / 300))) & (length <= limit)
    single = right.mean()
    several = right.reshape(30, -1, n).any(axis=2).mean()
    assert MADE.at_limit("qwen3-8b", limit, budget) == pytest.approx(single, abs=0.003)
    assert MADE.at_limit("qwen3-8b", limit, budget, n) == pytest.approx(several, abs=0.005)
    assert MADE.mean_tokens("qwen3-8b", limit) == pytest.approx(np.minimum(length, limit).mean(), rel=0.005)


def test_expected_takes_the_limit_with_that_mean() -> None:
    limits = np.array([512, 2048, 8192, 32768])
    tokens = MADE.mean_tokens("Qwen/Qwen3-8B", limits)
    for budget, trials in ((None, 1), (512, 1), (512, 8)):
        wanted = MADE.at_limit("qwen3-8b", limits, budget, trials)
        assert MADE.expected("qwen3-8b", tokens, budget, trials) == pytest.approx(wanted, abs=2e-4)
    # no limit makes trials longer than they are
    assert MADE.expected("qwen3-8b", 1e6) == pytest.approx(MADE.at_limit("qwen3-8b", 32768))


def test_expected_broadcasts_and_is_quick() -> None:
    grid = MADE.expected("qwen3-8b", np.array([[1000], [5000]]), np.array([0, 128, 2048]), 2)
    assert grid.shape == (2, 3) and grid[1, 2] == pytest.approx(float(MADE.expected("qwen3-8b", 5000, 2048, 2)))
    tokens = np.geomspace(100, 30000, 100_000)
    best = np.inf
    for _ in range(4):
        start = time.perf_counter()
        MADE.expected("qwen3-8b", tokens, 1024)
        best = min(best, time.perf_counter() - start)
    assert best < 1.0  # 0.15 s on a free core


def test_strategies_are_per_problem_or_whole() -> None:
    each = MADE.strategies(budgets=(128, 1024), limits=(4096, 32768), trials=(1, 4))
    assert len(each) == 3 * 2 * 2 * 30 and set(each.columns) == {*COLUMNS, "lengths"}
    whole = MADE.strategies(budgets=(128, 1024), limits=(4096, 32768), trials=(1, 4), by_problem=False)
    assert len(whole) == 12 and set(whole["problem"]) == {WHOLE}
    keys = ["attention", "budget", "limit", "trials"]
    merged = each.groupby(keys)[["accuracy", "tokens"]].mean().join(whole.set_index(keys).add_suffix("_whole"))
    assert merged["accuracy"].to_numpy() == pytest.approx(merged["accuracy_whole"].to_numpy(), rel=1e-9)
    assert merged["tokens"].to_numpy() == pytest.approx(merged["tokens_whole"].to_numpy(), rel=1e-9)
    for row in (*each.itertuples(), *whole.itertuples()):
        assert row.lengths.mean() == pytest.approx(row.tokens, rel=1e-9) and row.lengths.max() <= row.limit + 1e-6
    easy, hard = each[each["problem"] == "quantile 01 of 30"], each[each["problem"] == "quantile 30 of 30"]
    assert (easy["accuracy"].to_numpy() >= hard["accuracy"].to_numpy()).all()
    assert (easy["tokens"].to_numpy() <= hard["tokens"].to_numpy()).all()


def test_block_top_k_has_the_oracles_accuracy_and_the_papers_pages() -> None:
    blocks = MADE.strategies(attentions=("block_top_k",), limits=(8192,), by_problem=False)
    oracle = MADE.strategies(attentions=("top_k",), limits=(8192,), by_problem=False)
    assert blocks["page"].tolist() == [128, 64, 32, 16, 8]  # 16,384 / budget
    assert blocks["accuracy"].tolist() == oracle["accuracy"].tolist()


def test_extrapolated_budgets_are_said() -> None:
    found = law.load_accuracy()
    said = found.strategies(["qwen3-8b"], budgets=(64, 128, 4096), limits=(8192,)).attrs["notes"]
    assert said == ["accuracy with a KV budget of 64, 4,096: extrapolated from 128 to 2,048"]
    assert found.strategies(["qwen3-8b"], limits=(8192,), trials=(32,)).attrs["notes"] == []
    said = found.strategies(["qwen3-8b"], limits=(8192,), trials=(1, 64)).attrs["notes"]
    assert said == ["coverage of up to 64 trials: extrapolated from at most 32"]


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(MODELS), st.integers(64, 32768), st.sampled_from([0, *BUDGETS]), st.integers(1, 64))
def test_more_is_never_worse(model: str, limit: int, budget: int, trials: int) -> None:
    found = law.load_accuracy()
    here = found.at_limit(model, limit, budget, trials)
    assert found.at_limit(model, min(2 * limit, 32768), budget, trials) >= here - 1e-12
    assert found.at_limit(model, limit, budget, trials + 1) >= here - 1e-12
    if budget:
        assert found.at_limit(model, limit, budget * 2, trials) >= here - 1e-12


def test_models_in_between_are_interpolated_and_said_to_be() -> None:
    two = Parametric(
        "made", "", {"qwen3-4b": ONE, "qwen3-8b": Coefficients(0.8, 0.2, 4500.0, 0.6, 0.5, 0.99, 75.0, 1.0)}
    )
    sizes = {"qwen3-4b": 4e9, "qwen3-8b": 8e9}
    found = two.between("mine", 4e9 * 2**0.5, sizes)
    middle = found.of("mine")
    # half-way in log parameters: geometric means, and half-way in log odds for shares
    assert middle.median == pytest.approx((9000 * 4500) ** 0.5) and middle.scale == pytest.approx(150)
    assert middle.ceiling / (1 - middle.ceiling) == pytest.approx((0.7 / 0.3 * 0.8 / 0.2) ** 0.5)
    assert "mine" in found.models and "interpolated" in found.warnings[-1]
    with pytest.raises(InputError, match="outside the sizes"):
        two.between("mine", 9e9, sizes)


def test_bundled_coefficients_hold_what_is_said_of_them() -> None:
    found = law.load_accuracy()
    assert found.kind == "parametric" and found.models == MODELS and len(found.caveats) >= 5
    for model in MODELS:
        assert found.errors[model]["dense_mean"] < 1.5 and found.errors[model]["sparse_mean"] < 1
        assert found.errors[model]["held_out_mean"] < 1.5
        assert len(found.draws[model]) >= 20
    low, high = found.interval("qwen3-8b", np.array([2000.0, 8000.0]), 1024)
    middle = found.expected("qwen3-8b", np.array([2000.0, 8000.0]), 1024)
    assert (low <= middle).all() and (middle <= high).all() and (high - low < 0.15).all()


def test_bundled_coefficients_against_figures_they_were_not_fitted_to() -> None:
    """Trials cut at 32,768 tokens against the Qwen3 Technical Report's AIME'24 (arXiv 2505.09388, tables 13 to 19,
    thinking, means of 64 samples of up to 38,912 tokens), in points.
    """
    report = dict(zip(MODELS, (10.7, 48.3, 73.8, 76.0, 79.3, 81.4), strict=True))
    found = law.load_accuracy()
    off = [100 * float(found.at_limit(model, 32768)) - report[model] for model in MODELS]
    assert np.abs(off).max() < 5 and np.abs(off).mean() < 2.5


def test_the_spread_matters_for_more_than_one_trial() -> None:
    found = law.load_accuracy()
    low, high = found.with_spread("low"), found.with_spread("high")
    one = [float(f.at_limit("qwen3-1.7b", 32768, 2048)) for f in (low, found, high)]
    many = [float(f.at_limit("qwen3-1.7b", 32768, 2048, 32)) for f in (low, found, high)]
    assert max(one) - min(one) < 0.01
    # the headlines of the paper's Best-of-N figure, and 5 points around them
    assert many == pytest.approx([0.72, 0.77, 0.82], abs=0.015)
    assert float(found.with_spread(100.0).at_limit("qwen3-1.7b", 32768, 2048, 32)) > many[-1]
    a, b = found.interval("qwen3-1.7b", 12_000.0, 2048, 32)
    assert b - a > 0.05
    with pytest.raises(InputError, match="not a spread"):
        found.with_spread("middle")
    with pytest.raises(InputError, match="not a spread"):
        found.with_spread(0.0)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: MADE.of("qwen3-32b"), "no coefficients for this model"),
        (lambda: MADE.strategies(models=["llama"]), "no coefficients for this model"),
        (lambda: MADE.strategies(limits=[65536]), "beyond the limits"),
        (lambda: MADE.strategies(limits=[0]), "below 1"),
        (lambda: MADE.at_limit("qwen3-8b", [1024, 65536]), "beyond the limits.*65536"),
        (lambda: MADE.strategies(trials=[0]), "below 1"),
        (lambda: MADE.strategies(budgets=[-1]), "below 1"),
        (lambda: MADE.strategies(attentions=["local"]), "unknown attention"),
        (lambda: MADE.expected("qwen3-8b", 0), "not above 0"),
        (lambda: MADE.expected("qwen3-8b", 10, None, 0), "below 1"),
        (lambda: MADE.interval("qwen3-8b", 10), "no bootstrap samples"),
        (lambda: load_accuracy("nowhere.json"), "no such file"),
        (lambda: load_accuracy("nowhere.yaml"), "no such file"),
    ],
)
def test_bad_questions(call, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        call()


def test_without_sparse_data_budgets_are_refused() -> None:
    nan = float("nan")
    found = Parametric("made", "", {"qwen3-8b": Coefficients(0.7, 0.8, 9000.0, 0.6, 0.5, nan, nan, nan)})
    assert 0 < float(found.expected("qwen3-8b", 5000)) < 0.7
    with pytest.raises(InputError, match="has no KV budgets"):
        found.expected("qwen3-8b", 5000, 128)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.pop("models"), "not a file of coefficients"),
        (lambda d: d.update(columns=["a"]), "other columns"),
        (lambda d: d["models"]["qwen3-8b"].update(coefficients=[1, 2]), "not a list of coefficients"),
        (lambda d: d["models"]["qwen3-8b"].update(coefficients=[1.2, 1, 1, 1, 1, 1, 1, 1]), "ceiling is out of range"),
        (lambda d: d["models"]["qwen3-8b"].update(coefficients=[0.5, 1, "x", 1, 1, 1, 1, 1]), "median is not a number"),
        (lambda d: d["models"]["qwen3-8b"]["alternatives"].pop("low"), "no alternative low"),
        (lambda d: d.update(problems=0), "not a whole number"),
        (lambda d: d.update(trials=0.5), "not a whole number"),
        (lambda d: d.update(budgets=128), "not two KV budgets"),
    ],
)
def test_bad_files(change, problem: str, tmp_path: Path) -> None:
    data = yaml.safe_load(BUNDLED.read_text(encoding="utf-8"))
    change(data)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(InputError, match=problem) as error:
        read_parametric(path)
    assert "mine.yaml" in str(error.value)


def test_limits_of_the_paper_are_the_default() -> None:
    assert sorted(MADE.strategies(by_problem=False)["limit"].unique()) == list(LIMITS)
