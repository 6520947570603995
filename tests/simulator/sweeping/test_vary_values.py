"""Lists of values as users write them: what each form comes to, by hand, and what is refused."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.varying.values import number_of, parse_values, settle, unit_of


def values(text: object, base: object = None) -> list[Any]:
    return settle(parse_values(text, "--vary x"), base, "--vary x")


@pytest.mark.parametrize(
    ("text", "base", "found"),
    [
        ("4.8TB/s, 9.6 TB/s", None, ["4.8TB/s", "9.6 TB/s"]),
        ("h200-sxm,b200-sxm", None, ["h200-sxm", "b200-sxm"]),
        ("{kind: top_k, budget: 1024},dense", None, [{"kind": "top_k", "budget": 1024}, "dense"]),
        ("'a, b',c", None, ["a, b", "c"]),
        ("true,null,3,2.5", None, [True, None, 3, 2.5]),
        ("x0.5,x2", 4.8e12, [2.4e12, 9.6e12]),
        ("x0.5,x2", "4800000000000.0 B/s", [2.4e12, 9.6e12]),  # as `to_spec` writes quantities
        ("x0.9", 132, [119]),  # 118.8: the base has a whole number
        ("8..64:x2", 8, [8, 16, 32, 64]),
        ("8..40:8", 8, [8, 16, 24, 32, 40]),
        ("8..45:8", 8, [8, 16, 24, 32, 40]),
        ("0.1..0.3:0.1", 0.5, [0.1, 0.2, 0.3]),  # and not 0.30000000000000004
        ("1..2:lin5", 1.0, [1, 1.25, 1.5, 1.75, 2]),
        ("1..2:lin5", 7, [1, 2]),  # whole numbers, each once
        ("4..1:lin4", None, [4, 3, 2, 1]),
        ("1..16:log5", 1.0, [1, 2, 4, 8, 16]),
        ("4.8..9.6 TB/s:lin3", None, ["4.8 TB/s", "7.2 TB/s", "9.6 TB/s"]),
        ("800 GB/s..8 TB/s:log2", None, ["800 GB/s", "8000 GB/s"]),
        ("2 /s..6 /s:2 /s", None, ["2 /s", "4 /s", "6 /s"]),
        ("1 s..2 s:500 ms", None, ["1 s", "1.5 s", "2 s"]),
        ("../a.yaml,./b.yaml", None, ["../a.yaml", "./b.yaml"]),
        (["1..3:1", "x2", "dense", {"kind": "dense"}, "a, b"], 4, [1, 2, 3, 8, "dense", {"kind": "dense"}, "a, b"]),
        ([1, 1.0, 1, True], None, [1, 1.0, True]),  # once each, and 1 is neither 1.0 nor true
        (3, None, [3]),
    ],
)
def test_by_hand(text: object, base: object, found: list[Any]) -> None:
    got = values(text, base)
    assert got == found and [type(value) for value in got] == [type(value) for value in found]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no values"),
        ([], "no values"),
        ("1,,2", "an empty entry"),
        ("1,024", "a number with leading zeros; found '024'"),
        ("1..", "a range without an end"),
        ("1..5", "a range without a step"),
        ("5..1:1", "an empty range"),
        ("1..2:lin1", "an empty range"),
        ("2..2:log3", "an empty range"),
        ("1...inf:1", "an infinite range"),
        ("1..inf:x2", "an infinite range"),
        (".nan", "not a finite number"),
        ([float("inf")], "not a finite number"),
        ("0..8:x2", "a range without an end"),
        ("1..8:x1", "a range without an end"),
        ("1..8:0", "a range without an end"),
        ("-1..8:log3", "needs ends greater than zero"),
        ("0..1000000000:1", "a range of 1,000,000,001 values"),
        ("1..1000000000:lin1000000000", "a range of 1,000,000,000 values"),
        ("1 GB..2 TB/s:lin3", "units that do not go together: GB and TB/s"),
        ("1..2 TBs:lin3", "unknown unit 'TBs'"),
        ("x0", "not a factor"),
        ("{a", "not valid YAML"),
        ("x2", "a factor needs a number in the base scenario"),
    ],
)
def test_refused(text: object, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        values(text)
    assert caught.value.message().startswith("--vary x: ") and problem in caught.value.message()


@settings(deadline=None)
@given(start=st.floats(0.01, 1e6), ratio=st.floats(1.01, 1e6), count=st.integers(2, 200))
def test_even_ranges_have_both_ends_and_equal_steps(start: float, ratio: float, count: int) -> None:
    stop = start * ratio
    for kind in ("lin", "log"):
        found = [float(v) for v in values(f"{start!r}..{stop!r}:{kind}{count}", 0.5)]
        if len(found) < count:  # values that are the same in 12 digits
            assert ratio < 1.02
            continue
        assert math.isclose(found[0], start, rel_tol=1e-11) and math.isclose(found[-1], stop, rel_tol=1e-11)
        steps = pairwise(found)
        moves = [b - a if kind == "lin" else math.log(b / a) for a, b in steps]
        assert max(moves) - min(moves) < 1e-6 * max(abs(m) for m in moves) + 1e-11 * stop


def test_quantities() -> None:
    assert number_of("4.8 TB/s") == 4.8e12 and unit_of("4.8 TB/s") == "B/s"
    assert number_of("500 ms") == 0.5 and unit_of("500 ms") == "s"
    assert number_of(3) == 3 and unit_of(3) == ""
    assert number_of("1_000") == 1000 and unit_of("1_000") == ""
    for text in ("h200-sxm", "4.8 furlongs", True, None):
        assert number_of(text) is None and unit_of(text) == ""
