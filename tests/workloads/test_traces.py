"""Traces: the three formats, options, sessions, prefix chains, and rows that are no requests."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from workloads.traces import is_mooncake, read_trace

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "traces"


def write(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def mooncake(*rows: tuple) -> str:
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    return "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)


def test_our_columns_in_any_order_and_with_others_between(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, "x,output_len,arrival_s,input_len\na,7,0.5,3\nb,8,0.5,4\nc,9,2,5\n"))
    assert trace.arrival_s.tolist() == [0.5, 0.5, 2.0]
    assert trace.input_len.tolist() == [3, 4, 5] and trace.output_len.tolist() == [7, 8, 9]
    assert trace.session.tolist() == [0, 1, 2] and trace.priority is None
    assert trace.prefix_ptr.tolist() == [0, 0, 0, 0] and trace.unit_tokens is None
    assert trace.input_len.dtype == trace.output_len.dtype == trace.session.dtype == np.int64


def test_session_and_priority(tmp_path: Path) -> None:
    text = "arrival_s,input_len,output_len,session,priority\n0,1,1,bob,2\n1,1,1,ann,-1\n2,1,1,bob,0\n"
    trace = read_trace(write(tmp_path, text))
    assert trace.session.tolist() == [0, 1, 0]
    assert trace.priority is not None and trace.priority.tolist() == [2, -1, 0]


@pytest.mark.parametrize("zone", ["", "Z", "+00:00"])
def test_azure(tmp_path: Path, zone: str) -> None:
    rows = [f"2023-11-16 23:59:59.5000000{zone},374,44", f"2023-11-17 00:00:01.2500001{zone},396,109"]
    trace = read_trace(write(tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens\r\n" + "\r\n".join(rows) + "\r\n"))
    assert trace.arrival_s.tolist() == [0.0, 1.7500001]
    assert trace.input_len.tolist() == [374, 396] and trace.output_len.tolist() == [44, 109]


def test_a_byte_order_mark_quotes_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbf"arrival_s",input_len,output_len\n\n0,"3",4\n\n1,5,6\n')
    assert read_trace(path).input_len.tolist() == [3, 5]


def test_mooncake(tmp_path: Path) -> None:
    text = mooncake((0, 1000, 5, [0, 1]), (1500, 512, 6, [7]), (1500, 1025, 7, [0, 1, 9]))
    path = write(tmp_path, text, "a.jsonl")
    assert is_mooncake(path)
    trace = read_trace(path)
    assert trace.arrival_s.tolist() == [0.0, 1.5, 1.5] and trace.unit_tokens == 512
    assert trace.prefix_ptr.tolist() == [0, 2, 3, 6] and trace.prefix_id.tolist() == [0, 1, 7, 0, 1, 9]
    assert trace.prefix_tokens.tolist() == [512, 488, 512, 512, 512, 1]


def test_sessions_of_mooncake_share_two_leading_hashes(tmp_path: Path) -> None:
    rows = [[0, 1], [0, 2, 3], [0, 1, 4], [0], [0], [5, 1], [0, 2]]
    text = mooncake(*((i, 512 * len(ids), 1, ids) for i, ids in enumerate(rows)))
    assert read_trace(write(tmp_path, text)).session.tolist() == [0, 1, 0, 2, 3, 4, 1]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=30))
@settings(max_examples=50)
def test_sessions_of_mooncake_as_they_are_defined(tmp_path_factory: pytest.TempPathFactory, chains: list) -> None:
    text = mooncake(*((i, 512 * len(ids), 1, ids) for i, ids in enumerate(chains)))
    trace = read_trace(write(tmp_path_factory.mktemp("t"), text))
    expected: list[int] = []
    for i, ids in enumerate(chains):
        earlier = [j for j in range(i) if len(ids) >= 2 and chains[j][:2] == ids[:2]]
        expected.append(expected[earlier[-1]] if earlier else max(expected, default=-1) + 1)
    assert trace.session.tolist() == expected


def test_start_limit_and_time_scale(tmp_path: Path) -> None:
    rows = "".join(f"{t},{10 + t},{20 + t},{s}\n" for t, s in zip(range(6), "aabbcc", strict=True))
    path = write(tmp_path, "arrival_s,input_len,output_len,session\n" + rows)
    trace = read_trace(path, start=2, limit=3, time_scale=0.5)
    assert trace.arrival_s.tolist() == [0.0, 0.5, 1.0]
    assert trace.input_len.tolist() == [12, 13, 14] and trace.session.tolist() == [0, 0, 1]
    assert read_trace(path, limit=100).n == 6
    with pytest.raises(InputError, match="no request is left"):
        read_trace(path, start=5.5)


def test_start_and_limit_cut_the_prefix_chains(tmp_path: Path) -> None:
    text = mooncake((0, 600, 1, [0, 1]), (1000, 600, 1, [0, 2]), (2000, 100, 1, [3]), (3000, 100, 1, [4]))
    trace = read_trace(write(tmp_path, text), start=1, limit=2)
    assert trace.prefix_ptr.tolist() == [0, 2, 3] and trace.prefix_id.tolist() == [0, 2, 3]
    assert trace.prefix_tokens.tolist() == [512, 88, 100]


OURS = "arrival_s,input_len,output_len\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD = '{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1]}\n'
BAD = [  # text, line, place, found, allowed, problem
    ("", None, None, None, "arrival_s,input_len,output_len", "empty"),
    ("\n \n", None, None, None, "arrival_s,input_len,output_len", "empty"),
    (OURS, 1, None, None, "Mooncake", "no requests"),
    ("a,b,c\n1,2,3\n", 1, "header", "a,b,c", "Azure", "not a trace"),
    ("arrival_s,input_len\n1,2\n", 1, "header", "arrival_s,input_len", "output_len", "output_len is missing"),
    ("TIMESTAMP,ContextTokens\n1,2\n", 1, "header", "TIMESTAMP,ContextTokens", "GeneratedTokens", "is missing"),
    ("arrival_s,input_len,output_len,input_len\n1,2,3,4\n", 1, "header", "input_len", "", "given twice"),
    (OURS + "0,1,1\n1,2,0\n", 3, "row 2, column output_len", "0", "a whole number of tokens from 1", "not a length"),
    (OURS + "0,1,1\n1,-2,1\n", 3, "row 2, column input_len", "-2", "a whole number", "not a length"),
    (OURS + "0,1,1\n1,2.5,1\n", 3, "row 2, column input_len", "2.5", "a whole number", "not a length"),
    (OURS + "0,1,1\n1,1e12,1\n", 3, "row 2, column input_len", "1000000000000", "1,000,000,000", "not a length"),
    (OURS + "0,1,1\n1,nan,1\n", 3, "row 2, column input_len", "nan", "a whole number", "not a length"),
    (OURS + "0,1,1\n1,many,1\n", 3, "row 2, column input_len", "many", "a number", "not a number"),
    (OURS + "0,1,1\n1,,1\n", 3, "row 2, column input_len", "", "a number", "not a number"),
    (OURS + "0,1,1\n1,2\n", 3, "row 2, column output_len", "2 columns", "3 columns", "too short"),
    (OURS + "-1,1,1\n", 2, "row 1, column arrival_s", "-1", "from 0", "not an arrival time"),
    (OURS + "nan,1,1\n", 2, "row 1, column arrival_s", "nan", "from 0", "not an arrival time"),
    (OURS + "inf,1,1\n", 2, "row 1, column arrival_s", "inf", "from 0", "not an arrival time"),
    (OURS + "1700000000,1,1\n", 2, "row 1, column arrival_s", "1700000000 s", "after the start", "not an arrival time"),
    (OURS + "0,1,1\n\n2,1,1\n1,1,1\n", 5, "row 3, column arrival_s", "1", "at least the 2 s", "not sorted"),
    (OURS.strip() + ",priority\n0,1,1,high\n", 2, "row 1, column priority", "high", "a number", "not a number"),
    (OURS.strip() + ",priority\n0,1,1,0.5\n", 2, "row 1, column priority", "0.5", "whole number", "not a priority"),
    (AZURE + "yesterday,1,1\n", 2, "row 1, column TIMESTAMP", "yesterday", "2023-11-16", "not a timestamp"),
    (AZURE + "2023-11-16 18:00:00,1,1\n,1,1\n", 3, "row 2, column TIMESTAMP", "", "2023", "not a timestamp"),
    (AZURE + "2023-11-16 18:00:01,1,1\n2023-11-16 18:00:00,1,1\n", 3, "row 2, column TIMESTAMP", "18:00:00",
     "at least", "sorted"),
    (AZURE + "2023-11-16 18:00:01,1,0\n", 2, "row 1, column GeneratedTokens", "0", "a whole number", "not a length"),
    (GOOD + GOOD[:40], 2, "row 2", "input_length", "one JSON object", "not valid JSON"),
    (GOOD + "[1]\n", 2, "row 2", "[1]", "an object", "not a JSON object"),
    (GOOD + '{"timestamp": 1}\n', 2, "row 2, column input_length", None, "input_length", "a key is missing"),
    (GOOD + GOOD.replace("[1]", "[1, 2]"), 2, "row 2, column hash_ids", "2", "1 for 5 tokens", "does not fit"),
    (GOOD + GOOD.replace("[1]", "[]"), 2, "row 2, column hash_ids", "0", "1 for 5 tokens", "does not fit"),
    (GOOD + GOOD.replace("[1]", '["x"]'), 2, "row 2, column hash_ids", "x", "whole numbers", "not a list of hash"),
    (GOOD + GOOD.replace("[1]", "[-1]"), 2, "row 2, column hash_ids", "-1", "whole numbers", "not a hash id"),
    (GOOD + GOOD.replace("[1]", "[99999999999999999999]"), 2, "row 2, column hash_ids", "9", "2^63",
     "not a list of hash"),
    (GOOD + GOOD.replace(": 5,", ": true,", 1), 2, "row 2, column input_length", "True", "a number", "not a number"),
    (GOOD + GOOD.replace(": 5,", ': "5",', 1), 2, "row 2, column input_length", "5", "a number", "not a number"),
    (GOOD + GOOD.replace(": 5,", ": NaN,", 1), 2, "row 2, column input_length", "nan", "a whole number",
     "not a length"),
    (GOOD.replace(": 0,", ": 9,") + GOOD, 2, "row 2, column timestamp", "0 s", "at least the 0.009 s", "not sorted"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "place", "found", "allowed", "problem"), BAD)
def test_bad_traces_say_where_what_and_what_is_allowed(
    tmp_path: Path, text: str, line: int | None, place: str | None, found: str | None, allowed: str, problem: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=problem) as error:
        read_trace(path)
    e = error.value
    assert (e.file, e.line, e.place) == (path, line, place)
    assert (e.found is None) == (found is None) and (found or "") in str(e.found)
    assert allowed in (e.allowed or "")


def test_no_such_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_trace(tmp_path)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="UTF-8"):
        read_trace(tmp_path / "b.csv")


# ---- the published traces, where they are at hand --------------------------------------------------------------------


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"the optional trace {name} is not at hand")
    return SHARED / name


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("reasoning_production_2h.csv", 58_185),
        ("azure_conv_2023.csv", 19_366),
        ("azure_code_2023.csv", 8_819),
        ("mooncake_conversation.jsonl", 12_031),
    ],
)
def test_published_traces(name: str, n: int) -> None:
    path = shared(name)
    trace = read_trace(path)
    assert trace.n == n
    total = np.diff(np.append(0, np.cumsum(trace.prefix_tokens))[trace.prefix_ptr])
    assert (total == (trace.input_len if trace.unit_tokens else 0)).all()
    if name.startswith("reasoning"):
        fastest = min(_timed(path) for _ in range(3))
        assert fastest < 0.3


def _timed(path: Path) -> float:
    before = time.perf_counter()
    read_trace(path)
    return time.perf_counter() - before
