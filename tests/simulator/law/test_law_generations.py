"""The authors' generation logs: metadata, file names, answers in a text, lengths that had to be estimated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwspecs.errors import InputError
from simulator.law.accuracy.generations import CHARACTERS, answer_end, read_logs
from simulator.law.accuracy.sources import load_accuracy

DENSE = {"model": "Qwen/Qwen3-8B", "attn_local": None, "attn_topk": None, "attn_block_topk": None}


def trial(query: str, text: str, score: float, **more: Any) -> dict[str, Any]:
    return {"query": query, "choices": ["4"], "prediction": [text], "score": score, **more}


def log(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_line_may_have_all_trials_of_a_query(tmp_path: Path) -> None:
    """As one line a trial: three trials of one problem, two of the other."""
    right, wrong = "think " * 50 + "\\boxed{4}", "think " * 100 + "\\boxed{5}"
    single = [
        trial("2+2?", right, 100, tokens=90),
        trial("2+2?", wrong, 0, tokens=150),
        trial("2+2?", right, 1, tokens=80),
    ]
    single += [trial("1+3?", wrong, 0, tokens=50), trial("1+3?", right, 100, tokens=60)]
    both = [
        {
            "query": "2+2?",
            "choices": ["4"],
            "prediction": [right, wrong, right],
            "score": [100, 0, 1],
            "tokens": [90, 150, 80],
        },
        {"query": "1+3?", "choices": ["4"], "prediction": [wrong, right], "score": [0, 100], "token_length": [50, 60]},
    ]
    one, many = read_logs(log(tmp_path / "a.jsonl", DENSE, *single)), read_logs(log(tmp_path / "b.jsonl", DENSE, *both))
    assert many.trials.equals(one.trials) and len(many.trials) == 5


@pytest.mark.parametrize(
    "line",
    [
        {"query": "q", "prediction": ["a", "b"], "score": [1]},
        {"query": "q", "prediction": ["a", "b"], "score": 1},
        {"query": "q", "prediction": ["a"], "score": [1, 0]},
        {"query": "q", "prediction": ["a", "b"], "score": [1, 0], "tokens": 7},
        {"query": "q", "prediction": [], "score": 1},
    ],
)
def test_lists_of_different_lengths_are_refused(line: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"jsonl:2: \w+: not one value a prediction"):
        read_logs(log(tmp_path / "a.jsonl", DENSE, line))


def test_a_log_becomes_trials(tmp_path: Path) -> None:
    right, wrong = "think " * 50 + "\\boxed{4}", "think " * 100 + "\\boxed{5}"
    lines = [trial("2+2?", right, 100.0), trial("2+2?", wrong, 0.0), trial("1+3?", right, 100.0)]
    found = load_accuracy(log(tmp_path / "any.jsonl", DENSE, *lines))
    assert found.kind == "traces" and found.models == ("qwen3-8b",)
    table = found.trials  # type: ignore[attr-defined]
    assert table["problem"].tolist() == ["2+2?", "2+2?", "1+3?"] and table["trial"].tolist() == ["1", "2", "1"]
    assert table["correct"].tolist() == [True, False, True]
    assert table["tokens"].tolist() == [round(len(text) / CHARACTERS) for text in (right, wrong, right)]
    assert "3 of 3 trials have no token count: estimated at 3 characters" in found.warnings[0]


def test_token_counts_of_the_log_are_taken(tmp_path: Path) -> None:
    lines = [trial("q", "x" * 300 + "\\boxed{4}", 100, tokens=5000, prefix_length=141), trial("q", "y", 0, tokens=7000)]
    found = read_logs(log(tmp_path / "a.jsonl", DENSE, *lines))
    assert found.trials["tokens"].tolist() == [5000, 7000] and found.warnings == ()
    assert found.trials["prompt_tokens"].iloc[0] == 141
    assert found.trials["answer_at"].iloc[0] == 5000  # at the end of the text
    whole = found.strategies(limits=(4999, 5000), trials=(1, 2))
    assert whole["accuracy"].tolist() == [0, 0, 0.5, 1]


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("so \\boxed{4}", "so \\boxed{4}"),
        ("\\boxed{3} no, \\boxed{4} yes, \\boxed{4}.", "\\boxed{3} no, \\boxed{4}"),
        ("\\boxed{4} or \\boxed{5}? \\boxed{4}", "\\boxed{4} or \\boxed{5}? \\boxed{4}"),
        ("\\boxed{\\frac{1}{2}} it is", "\\boxed{\\frac{1}{2}}"),
        ("\\boxed{ 4 } and \\boxed{4} and \\boxed{unfinished", "\\boxed{ 4 }"),
    ],
)
def test_where_an_answer_appears(text: str, until: str) -> None:
    end = answer_end(text)
    assert end is not None and text[:end] == until


def test_a_text_without_a_box_answers_at_its_end(tmp_path: Path) -> None:
    assert answer_end("it is 4") is None
    found = read_logs(log(tmp_path / "a.jsonl", DENSE, trial("q", "it is 4", 1, tokens=9)))
    assert found.strategies(limits=(8, 9), trials=(1,))["accuracy"].tolist() == [0, 1]


def test_the_answer_counts_from_its_place_in_the_text(tmp_path: Path) -> None:
    text = "a" * 41 + "\\boxed{4}" + "b" * 50  # the answer is complete after 50 of 100 characters
    assert len(text) == 100
    found = read_logs(log(tmp_path / "a.jsonl", DENSE, trial("q", text, 100, tokens=1000)))
    assert found.trials["answer_at"].iloc[0] == 500


@pytest.mark.parametrize(
    ("name", "meta", "policy"),
    [
        ("aime24_qwen3-1-7b_dense", {"task": "aime24"}, ("qwen3-1.7b", "dense", 0, 0, 0)),
        ("aime24_qwen3-32b_local0_topk512", {"task": "aime24"}, ("qwen3-32b", "top_k", 512, 0, 0)),
        ("aime24_qwen3-8b_local64_block32_blocktopk16", {"task": "t"}, ("qwen3-8b", "block_top_k", 576, 32, 64)),
        ("log", {"model": "Qwen3-8B", "attn_local": 16, "attn_topk": 240}, ("qwen3-8b", "top_k", 256, 0, 0)),
        (
            "aime24_qwen3-4b_dense",  # the metadata go before the name
            {"attn_local": 0, "attn_block_topk": 8, "attn_block_size": 64},
            ("qwen3-4b", "block_top_k", 512, 64, 0),
        ),
    ],
)
def test_attention_from_metadata_or_name(
    name: str, meta: dict[str, Any], policy: tuple[Any, ...], tmp_path: Path
) -> None:
    found = read_logs(log(tmp_path / f"{name}.jsonl", meta, trial("q", "\\boxed{4}", 100, tokens=7)))
    row = found.trials.iloc[0]
    assert tuple(row[["model", "attention", "budget", "page", "local"]]) == policy


def test_a_folder_of_logs(tmp_path: Path) -> None:
    for kind in ("dense", "topk"):
        (tmp_path / kind).mkdir()
    done = [trial("q", "\\boxed{4}", 100, tokens=7), trial("q", "no", 0, tokens=9)]
    log(tmp_path / "dense" / "aime24_qwen3-8b_dense.jsonl", {"task": "aime24"}, *done)
    for budget in (128, 256):
        name = f"aime24_qwen3-8b_local0_topk{budget}.jsonl"
        log(tmp_path / "topk" / name, {"task": "aime24"}, *done[:1], trial("q", "no", 0, tokens=budget))
    found = load_accuracy(tmp_path)
    table = found.strategies(limits=[128], trials=(1, 2))
    assert sorted(table["budget"]) == [0, 0, 128, 128, 256, 256] and set(table["accuracy"]) == {0.5, 1.0}


BAD = {
    "is not JSON": ["{"],
    "not a JSON object": [json.dumps(DENSE), "[1]"],
    "the log has no trials": [json.dumps(DENSE)],
    "no query": [json.dumps(DENSE), json.dumps({"prediction": ["x"], "score": 1})],
    "no prediction": [json.dumps(DENSE), json.dumps({"query": "q", "score": 1})],
    "not a score": [json.dumps(DENSE), json.dumps(trial("q", "x", 50))],
    "not a number of tokens": [json.dumps(DENSE), json.dumps(trial("q", "x", 0, tokens=-1))],
    "does not say of which model": [json.dumps({"attn_topk": 5}), json.dumps(trial("q", "x", 1))],
    "does not say which attention": [json.dumps({"model": "qwen3-8b"}), json.dumps(trial("q", "x", 1))],
    "a KV budget of 0": [json.dumps({"model": "m", "attn_local": 0}), json.dumps(trial("q", "x", 1))],
    "not a whole number": [json.dumps({"model": "m", "attn_topk": "many"}), json.dumps(trial("q", "x", 1))],
    "no trial is right": [json.dumps(DENSE), json.dumps(trial("q", "x", 0, tokens=5))],
}


@pytest.mark.parametrize("problem", BAD)
def test_bad_logs(problem: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(BAD[problem]), encoding="utf-8")
    with pytest.raises(InputError, match=problem) as error:
        load_accuracy(path)
    assert "log.jsonl" in str(error.value)


def test_a_folder_without_logs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no logs"):
        load_accuracy(tmp_path)
