"""Units, the YAML reader and the error itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs.errors import InputError, near_matches
from hwspecs.units import DIMENSIONS, format_quantity, parse_quantity
from hwspecs.yamlfile import place_text, read_text, read_yaml

dimension_and_unit = st.sampled_from([(d, u) for d, units in DIMENSIONS.items() for u in units if u])
numbers = st.floats(1e-6, 1e6)


@given(dimension_and_unit, numbers)
def test_every_unit_reads_back(pair, number):
    dimension, unit = pair
    expected = number * DIMENSIONS[dimension][unit]
    assert parse_quantity(f"{number!r} {unit}", dimension) == pytest.approx(expected, rel=1e-12)
    if not unit[0].isdigit():  # 1.0 1/s cannot be told from 1.01 /s without the space
        assert parse_quantity(f"  {number!r}{unit} ", dimension, bare_ok=False) == pytest.approx(expected, rel=1e-12)


@given(
    st.sampled_from([("B", "bytes"), ("B/s", "bytes/s"), ("FLOP/s", "FLOP/s"), ("Hz", "Hz"), ("s", "seconds")]),
    st.floats(1e-9, 1e18),
)
def test_what_is_printed_reads_back(unit, number):
    symbol, dimension = unit
    if symbol == "s":
        number = min(number, 1e4)
    text = format_quantity(number, symbol, digits=12).replace(",", "")
    assert parse_quantity(text, dimension) == pytest.approx(number, rel=1e-9)


@given(st.text(max_size=12), st.sampled_from(sorted(DIMENSIONS)))
def test_any_text_is_a_number_or_an_input_error(text, dimension):
    try:
        assert math.isfinite(parse_quantity(text, dimension))
    except InputError as error:
        assert error.found == text and error.allowed


@pytest.mark.parametrize(
    ("text", "dimension", "expected"),
    [
        ("4.8 TB/s", "bytes/s", 4.8e12),
        ("141 GB", "bytes", 141e9),
        ("50 MiB", "bytes", 50 * 2**20),
        ("989.5 TFLOP/s", "FLOP/s", 989.5e12),
        ("1979 TOP/s", "FLOP/s", 1979e12),
        ("1.98 GHz", "Hz", 1.98e9),
        ("700 W", "watts", 700),
        ("2.50 USD/h", "USD/h", 2.5),
        ("1_000 B", "bytes", 1000),
        (7, "bytes", 7),
        ("50 ms", "seconds", 0.05),
    ],
)
def test_readings(text, dimension, expected):
    assert parse_quantity(text, dimension) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "value", [True, None, "", "GB", "1 2 GB", "nan GB", float("nan"), float("inf"), "1e999 GB", [], {}, "1 gb", "1 W"]
)
def test_refusals(value):
    with pytest.raises(InputError) as error:
        parse_quantity(value, "bytes")
    assert "141 GB" in error.value.allowed


def test_messages():
    error = InputError("too large", file="a.yaml", place="b.c", line=3, found=7, allowed="at most 5")
    assert str(error) == "a.yaml:3: b.c: too large; found 7; allowed: at most 5"
    assert str(InputError("too large").at("a.yaml", "b", 2)) == "a.yaml:2: b: too large"
    assert error.at("other.yaml", "x", 9).file == "a.yaml"
    assert near_matches("h20", ["h200-sxm", "mi300x"]).startswith("h200-sxm, mi300x (did you mean h200-sxm")


def test_lines_of_a_yaml_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# first\na:\n  b: 1\n  c:\n    - 2\n    - d: 3\n", encoding="utf-8")
    content = read_yaml(path)
    assert content.data == {"a": {"b": 1, "c": [2, {"d": 3}]}}
    assert [content.line(p) for p in [("a",), ("a", "b"), ("a", "c", 0), ("a", "c", 1, "d"), ("a", "x")]] == [
        2,
        3,
        5,
        6,
        2,
    ]
    assert place_text(("a", "c", 1, "d")) == "a.c[1].d"


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_text(tmp_path / "none")
    with pytest.raises(InputError, match="folder"):
        read_text(tmp_path)
    (tmp_path / "binary").write_bytes(b"a: \xff\xfe")
    with pytest.raises(InputError, match=r"UTF-8 text \(byte 3\)"):
        read_text(tmp_path / "binary")
