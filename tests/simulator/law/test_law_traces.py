"""Traces: coverage without bias, answers within a limit, and what a trace cannot say."""

from __future__ import annotations

from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.law.accuracy.sources import load_accuracy
from simulator.law.accuracy.traces import Traces, read_trials
from simulator.law.accuracy.trialstats import coverage
from simulator.law.strategies import COLUMNS, WHOLE


def write(folder: Path, text: str, name: str = "trials.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# Two problems of four trials. a: right ones end at 1,000 and 3,000 tokens, wrong ones at 2,000 and 9,000. b: one right
# one of 8,000 tokens whose answer appears at 5,000.
TABLE = """problem,trial,tokens,correct,model,answer_at
a,1,1000,1,Qwen/Qwen3-8B,
a,2,2000,0,Qwen/Qwen3-8B,
a,3,3000,1,Qwen/Qwen3-8B,
a,4,9000,0,Qwen/Qwen3-8B,
b,1,8000,true,Qwen/Qwen3-8B,5000
b,2,4000,false,Qwen/Qwen3-8B,
b,3,4000,false,Qwen/Qwen3-8B,
b,4,16000,false,Qwen/Qwen3-8B,
"""


@pytest.fixture
def small(tmp_path: Path) -> Traces:
    return read_trials(write(tmp_path, TABLE))


@settings(deadline=None)
@given(st.integers(1, 12), st.data())
def test_coverage_is_the_share_of_subsets_with_a_right_trial(trials: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, trials))
    n = data.draw(st.integers(1, trials))
    marks = [True] * right + [False] * (trials - right)
    hit = [any(subset) for subset in combinations(marks, n)]
    assert coverage(trials, right, n) == pytest.approx(np.mean(hit), abs=1e-12)


@settings(deadline=None)
@given(st.integers(2, 7), st.floats(0.02, 0.98), st.data())
def test_coverage_is_unbiased(trials: int, share: float, data: st.DataObject) -> None:
    """Over all numbers of right trials, with their binomial chances, its mean is 1 - (1 - share)^n."""
    n = data.draw(st.integers(1, trials))
    right = np.arange(trials + 1)
    chance = np.array([comb(trials, c) * share**c * (1 - share) ** (trials - c) for c in right])
    assert float(chance @ coverage(trials, right, n)) == pytest.approx(1 - (1 - share) ** n, rel=1e-9)


def test_coverage_of_many_trials_keeps_its_digits() -> None:
    # 1 - prod (M - c - i) / (M - i), by hand for c = 1: 1 - (M - n) / M = n / M
    assert coverage(100_000, 1, np.array([1, 10, 99_999])) == pytest.approx([1e-5, 1e-4, 0.99999], rel=1e-6)
    assert coverage(32, 0, 32) == 0 and coverage(32, 1, 32) == 1
    with pytest.raises(InputError, match="fewer trials"):
        coverage(8, 4, 9)


def test_accuracy_within_a_limit(small: Traces) -> None:
    table = small.strategies(limits=(1000, 2048, 4096, 8192), trials=(1, 2))
    assert set(table.columns) == {*COLUMNS, "lengths"}
    got = {(r.problem, r.limit, r.trials): r.accuracy for r in table.itertuples()}
    # a: one of four right within 1,000 and 2,048 tokens, two from 3,000 on. Two trials: 1 - C(3,2)/C(4,2) = 1/2,
    # 1 - C(2,2)/C(4,2) = 5/6
    assert [got["a", limit, 1] for limit in (1000, 2048, 4096, 8192)] == pytest.approx([0.25, 0.25, 0.5, 0.5])
    assert [got["a", limit, 2] for limit in (2048, 4096)] == pytest.approx([1 / 2, 5 / 6])
    # b: its answer appears at 5,000 tokens, although the trial has 8,000
    assert [got["b", limit, 1] for limit in (2048, 4096, 8192)] == pytest.approx([0, 0, 0.25])


def test_answers_count_from_where_they_appear(small: Traces) -> None:
    table = small.strategies(limits=(4999, 5000), trials=(1,))
    got = {(r.problem, r.limit): r.accuracy for r in table.itertuples()}
    assert (got["b", 4999], got["b", 5000]) == (0, 0.25)


def test_lengths_are_cut_and_their_mean_is_tokens(small: Traces) -> None:
    table = small.strategies(limits=(2048, 16384), trials=(1,))
    cut = {(r.problem, r.limit): r.lengths for r in table.itertuples()}
    assert cut["a", 2048].tolist() == [1000, 2000, 2048, 2048]
    assert cut["b", 16384].tolist() == [8000, 4000, 4000, 16000]
    assert [r.tokens for r in table.itertuples()] == pytest.approx([r.lengths.mean() for r in table.itertuples()])


def test_whole_is_the_mean_over_problems(small: Traces) -> None:
    each = small.strategies(limits=(8192,), trials=(1, 2, 4))
    whole = small.strategies(limits=(8192,), trials=(1, 2, 4), by_problem=False)
    assert list(whole["problem"]) == [WHOLE] * 3
    assert whole["accuracy"].to_numpy() == pytest.approx(each.groupby("trials")["accuracy"].mean().to_numpy())
    assert whole["tokens"].iloc[0] == pytest.approx(each["tokens"].mean())
    assert len(whole["lengths"].iloc[0]) == 8


def test_problems_with_other_numbers_of_trials_weigh_the_same(tmp_path: Path) -> None:
    """a has the lengths 1,000 and 3,000; b 2,000, 4,000 and 9,000, of which two equally likely halves have the means
    (2,000 + 4,000 / 2) / 1.5 and (4,000 / 2 + 9,000) / 1.5.
    """
    rows = ["a,1,3000,1", "a,2,1000,0", "b,1,9000,1", "b,2,2000,0", "b,3,4000,0"]
    found = read_trials(write(tmp_path, "\n".join(["problem,trial,tokens,correct", *rows])))
    row = found.strategies(limits=[16384], by_problem=False).iloc[0]
    assert row["lengths"].tolist() == pytest.approx([3000, 1000, 4000 / 1.5, 11000 / 1.5])
    assert row["lengths"].mean() == pytest.approx(row["tokens"]) and row["tokens"] == pytest.approx((2000 + 5000) / 2)


def test_more_trials_than_there_are_are_refused(small: Traces) -> None:
    with pytest.raises(InputError, match=r"4 trials of a problem of qwen3-8b.*found 8"):
        small.strategies(trials=(1, 8))
    assert sorted(small.strategies(trials=None, limits=(4096,))["trials"].unique()) == [1, 2, 4]


def test_what_the_trace_lacks_is_refused(small: Traces) -> None:
    with pytest.raises(InputError, match="no trials of this model"):
        small.strategies(models=["qwen3-32b"])
    with pytest.raises(InputError, match="no trials with this attention"):
        small.strategies(attentions=["top_k"])
    with pytest.raises(InputError, match="unknown attention"):
        small.strategies(attentions=["dens"])
    with pytest.raises(InputError, match="below 1"):
        small.strategies(limits=[0])


def test_a_common_end_is_the_traces_own_limit(tmp_path: Path) -> None:
    rows = [f"{p},{t},{min(1000 * (t + 1), 6000)},{int(t == 0)}" for p in "ab" for t in range(8)]
    traces = read_trials(write(tmp_path, "\n".join(["problem,trial,tokens,correct", *rows])))
    assert traces.cap == 6000 and "6,000" in traces.warnings[-1]
    assert sorted(traces.strategies()["limit"].unique()) == [2048, 4096, 6000]
    with pytest.raises(InputError, match="cut before that"):
        traces.strategies(limits=[8192])


def test_strategies_that_were_cut_earlier_have_their_own_limit(tmp_path: Path) -> None:
    rows = [f"{p},{t},{min(1500 * (t + 1), end)},{int(t == 0)},{model}" for model, end in
            (("qwen3-8b", 9000), ("qwen3-32b", 5000)) for p in "ab" for t in range(8)]  # fmt: skip
    found = read_trials(write(tmp_path, "\n".join(["problem,trial,tokens,correct,model", *rows])))
    assert found.cap == 9000
    assert any("qwen3-32b, dense: the longest trials all end at 5,000" in said for said in found.warnings)
    table = found.strategies(by_problem=False)
    ends = table.groupby("model", sort=False)["limit"].unique().map(list).to_dict()
    assert ends == {"qwen3-8b": [2048, 4096, 6144, 8192, 9000], "qwen3-32b": [2048, 4096, 5000]}
    with pytest.raises(InputError, match=r"of qwen3-32b, dense was cut before that.*1 to 5,000"):
        found.strategies(limits=[8192])
    assert found.strategies(["qwen3-8b"], limits=[8192])["limit"].unique().tolist() == [8192]


def test_sparse_trials_and_strategies_without_a_right_one(tmp_path: Path) -> None:
    head = "problem,trial,tokens,correct,model,attention,budget,page\n"
    rows = "a,1,500,1,qwen3-1-7b,dense,,\na,1,600,0,qwen3-1-7b,top_k,128,\na,1,700,1,qwen3-1-7b,block_top_k,1024,16\n"
    traces = read_trials(write(tmp_path, head + rows))
    assert traces.models == ("qwen3-1.7b",)
    assert any("top_k, KV budget 128: no trial is right" in said for said in traces.warnings)
    table = traces.strategies(limits=[2048])
    assert table[["attention", "budget", "page"]].to_numpy().tolist() == [
        ["dense", 0, 0], ["top_k", 128, 0], ["block_top_k", 1024, 16],
    ]  # fmt: skip
    only = traces.strategies(limits=[2048], budgets=[1024])
    assert list(only["attention"]) == ["dense", "block_top_k"]


BAD = {
    "no trial is right": "problem,trial,tokens,correct\na,1,10,0\nb,1,10,0\n",
    "missing column correct": "problem,trial,tokens\na,1,10\n",
    "not a finite number": "problem,trial,tokens,correct\na,1,many,1\n",
    "not above 0": "problem,trial,tokens,correct\na,1,-5,1\n",
    "longer than any trial": "problem,trial,tokens,correct\na,1,1e30,1\n",
    "neither right nor wrong": "problem,trial,tokens,correct\na,1,10,maybe\n",
    "a trial occurs twice": "problem,trial,tokens,correct\na,1,10,1\na,1,11,1\n",
    "unknown attention": "problem,trial,tokens,correct,attention\na,1,10,1,sparse\n",
    "no KV budget": "problem,trial,tokens,correct,attention\na,1,10,1,top_k\n",
    "no page of block top-k": "problem,trial,tokens,correct,attention,budget\na,1,10,1,block_top_k,64\n",
    "not a token of the trial": "problem,trial,tokens,correct,answer_at\na,1,10,1,11\n",
    "the table has no rows": "problem,trial,tokens,correct\n",
}


@pytest.mark.parametrize("problem", BAD)
def test_bad_tables(problem: str, tmp_path: Path) -> None:
    path = write(tmp_path, BAD[problem])
    with pytest.raises(InputError, match=problem) as error:
        load_accuracy(path)
    assert str(path) in str(error.value) or problem == "unknown attention"


def test_parquet_is_read_as_csv(tmp_path: Path) -> None:
    table = pd.read_csv(write(tmp_path, TABLE))
    table["trial"] = table["trial"].astype(str)
    table["correct"] = table["correct"].astype(str)
    table.to_parquet(tmp_path / "trials.parquet")
    one, other = load_accuracy(tmp_path / "trials.parquet"), load_accuracy(tmp_path / "trials.csv")
    assert one.strategies(trials=None)["accuracy"].tolist() == other.strategies(trials=None)["accuracy"].tolist()
