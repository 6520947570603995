"""A user's own GPU: files, `base`, chains, inline mappings, and how each kind of bad input is reported."""

# ruff: noqa: E501 (one case a line reads best)

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu, to_spec

FULL = """\
title: My GPU
vendor: Me
architecture: Paper
sms: 100
boost_clock: 2 GHz
peak:
  fp32: 50 TFLOP/s
  bf16: 1 PFLOP/s
memory: {kind: HBM5, capacity: 200 GB, bandwidth: 10 TB/s}
l2: {size: 100 MiB}
link: {kind: nvlink, bandwidth: 900 GB/s, domain: 8}
pcie: {generation: 6, bandwidth: 128 GB/s}
power: {tdp: 1 kW, idle: 100 W}
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_complete_file(tmp_path):
    path = write(tmp_path, "mine.yaml", FULL)
    gpu = load_gpu(str(path))
    assert load_gpu(path) == gpu
    assert (gpu.name, gpu.title, gpu.origin, gpu.base) == ("mine", "My GPU", str(path), None)
    assert gpu.status == "released" and gpu.price is None and gpu.sources.keys() == {"l2.bandwidth"}
    assert gpu.peak == {"fp32": 50e12, "bf16": 1e15}
    assert gpu.memory.capacity == 200e9
    assert gpu.l2.bandwidth == 64 * 100 * 2e9
    assert load_gpu(to_spec(gpu), origin=str(path)) == gpu


def test_a_file_with_a_base(tmp_path):
    path = write(tmp_path, "fast.yaml", "base: h200-sxm\nmemory:\n  bandwidth: 9.6 TB/s\npeak: {fp4: 4 PFLOP/s}\n")
    gpu, base = load_gpu(str(path)), load_gpu("h200-sxm")
    assert (gpu.name, gpu.base, gpu.origin) == ("fast", "h200-sxm", str(path))
    assert gpu.title == base.title + ", modified"
    assert gpu.memory.bandwidth == 9.6e12 and gpu.memory.capacity == base.memory.capacity
    assert gpu.peak == {**base.peak, "fp4": 4e15}
    # an overridden figure does not keep the base's source
    assert gpu.sources["memory.bandwidth"] == gpu.sources["peak.fp4"] == f"given in {path}"
    assert gpu.sources["memory.capacity"] == base.sources["memory.capacity"]


def test_sources_of_an_override(tmp_path):
    text = "base: h200-sxm\nname: x\ntitle: X\nmemory: {bandwidth: 9.6 TB/s, capacity: 200 GB}\n"
    path = write(tmp_path, "x.yaml", text + "sources: {memory: a rumour, memory.capacity: a better one}\n")
    gpu = load_gpu(str(path))
    assert gpu.sources["memory.bandwidth"] == "a rumour" and gpu.sources["memory.capacity"] == "a better one"
    assert gpu.sources["memory.kind"] == load_gpu("h200-sxm").sources["memory.kind"]
    assert (gpu.name, gpu.title) == ("x", "X")


def test_a_chain_of_bases_relative_to_each_file(tmp_path):
    write(tmp_path, "deep/a.yaml", "base: b200-sxm\nsms: 200\npower: {tdp: 1500 W}\n")
    write(tmp_path, "b.yaml", "base: deep/a.yaml\npower: {tdp: 1600 W}\nlink: {domain: 16}\n")
    write(tmp_path, "deep/c.yaml", "base: ../b.yaml\nlink: {domain: 32}\n")
    gpu = load_gpu("deep/c.yaml", relative_to=tmp_path)
    assert (gpu.sms, gpu.power.tdp, gpu.link.domain, gpu.link.kind) == (200, 1600.0, 32, "nvlink")
    assert gpu.sources["sms"].endswith("a.yaml") and gpu.sources["link.domain"].endswith("c.yaml")
    assert gpu.power.idle == load_gpu("b200-sxm").power.idle


def test_inline_mappings():
    gpu = load_gpu({"base": "h200-sxm", "memory": {"bandwidth": "9.6 TB/s"}}, origin="--set")
    assert (gpu.name, gpu.base, gpu.memory.bandwidth) == ("h200-sxm (modified)", "h200-sxm", 9.6e12)
    assert gpu.sources["memory.bandwidth"] == "given in --set"
    same = load_gpu({"base": "h200-sxm"})
    assert (same.name, same.title) == ("h200-sxm", load_gpu("h200-sxm").title)
    assert load_gpu({"base": "h200-sxm", "name": "h400", "title": "H400", "sms": 200}).name == "h400"


def test_an_inline_path_is_relative_to_what_is_asked(tmp_path, monkeypatch):
    write(tmp_path, "there/mine.yml", FULL)
    assert load_gpu({"base": "mine.yml"}, relative_to=tmp_path / "there").sms == 100
    monkeypatch.chdir(tmp_path)
    assert load_gpu("there/mine.yml").sms == 100
    assert load_gpu("./there/mine.yml").name == "mine"


def test_null_takes_a_key_away(tmp_path):
    gpu = load_gpu({"base": "b200-sxm", "price": None, "peak": {"fp4": None}})
    assert gpu.price is None and "fp4" not in gpu.peak
    assert not [p for p in gpu.sources if p.startswith("price") or p == "peak.fp4"]
    mi300x = load_gpu({"base": "mi300x", "l2": {"bandwidth": None}})
    assert mi300x.l2.bandwidth == pytest.approx(64 * 304 * 2.1e9)
    assert mi300x.sources["l2.bandwidth"].startswith("derived")


@pytest.mark.parametrize("date", ["2026-05", "2026-05-17", datetime.date(2026, 5, 17)])
def test_dates(date):
    assert load_gpu({"base": "l40s", "price": {"date": date}}).price.date == str(date)


def test_prices_may_be_bare_or_with_a_unit():
    for text in (2.5, "2.5", "2.50 USD/h", "$2.5"[1:]):
        assert load_gpu({"base": "l40s", "price": {"usd_per_hour": text}}).price.usd_per_hour == 2.5


def test_a_users_file_may_bear_a_bundled_name(tmp_path):
    path = write(tmp_path, "h200-sxm.yaml", "base: h200-sxm\nsms: 140\n")
    assert load_gpu(str(path)).sms == 140  # no cycle: another file


@pytest.mark.parametrize("length", [1, 2, 3])
def test_cycles(tmp_path, length):
    for i in range(length):
        write(tmp_path, f"g{i}.yaml", f"sms: {i + 1}\nbase: g{(i + 1) % length}.yaml\n")
    with pytest.raises(InputError, match="in a circle") as error:
        load_gpu("g0.yaml", relative_to=tmp_path)
    assert error.value.file == tmp_path / f"g{length - 1}.yaml"
    assert (error.value.place, error.value.line, error.value.found) == ("base", 2, "g0.yaml")
    assert " -> ".join(f"g{i}" for i in [*range(length), 0]) in str(error.value)


# (text of the file, place, line, found, words of the problem, words of what is allowed)
BAD_FILES = [
    ("base: h200-sxm\nmemory:\n  bandwith: 9 TB/s\n", "memory.bandwith", 3, "bandwith", "unknown key", "did you mean bandwidth?"),
    ("base: h200-sxm\nmemmory: {}\n", "memmory", 2, "memmory", "unknown key", "did you mean memory?"),
    ("base: h200-sxm\nmemory:\n  bandwidth: -4.8 TB/s\n", "memory.bandwidth", 3, "-4.8 TB/s", "greater than zero", "4.8 TB/s"),
    ("base: h200-sxm\nmemory: {bandwidth: 0 TB/s}\n", "memory.bandwidth", 2, "0 TB/s", "greater than zero", "positive"),
    ("base: h200-sxm\nmemory: {bandwidth: 4.8}\n", "memory.bandwidth", 2, 4.8, "unit is missing", "bytes/s"),
    ("base: h200-sxm\nmemory: {bandwidth: '4.8'}\n", "memory.bandwidth", 2, "4.8", "unit is missing", "bytes/s"),
    ("base: h200-sxm\nmemory: {bandwidth: 4.8 TB}\n", "memory.bandwidth", 2, "4.8 TB", "wrong unit 'TB'", "bytes/s"),
    ("base: h200-sxm\nmemory: {capacity: 141 TFLOP/s}\n", "memory.capacity", 2, "141 TFLOP/s", "wrong unit", "141 GB"),
    ("base: h200-sxm\nmemory: {bandwidth: .nan}\n", "memory.bandwidth", 2, None, "unit is missing", "bytes/s"),
    ("base: h200-sxm\nmemory: {bandwidth: 1e999 TB/s}\n", "memory.bandwidth", 2, "1e999 TB/s", "not a finite number", "bytes/s"),
    ("base: h200-sxm\nmemory: {bandwidth: inf TB/s}\n", "memory.bandwidth", 2, "inf TB/s", "not a quantity", "bytes/s"),
    ("base: h200-sxm\nmemory: {bandwidth: fast}\n", "memory.bandwidth", 2, "fast", "not a quantity", "4.8 TB/s"),
    ("base: h200-sxm\nmemory: {bandwidth: true}\n", "memory.bandwidth", 2, True, "not a quantity", "4.8 TB/s"),
    ("base: h200-sxm\nmemory: {bandwidth: [1]}\n", "memory.bandwidth", 2, [1], "not a quantity", "4.8 TB/s"),
    ("base: h200-sxm\nmemory: {bandwidth: 4800 TB/s}\n", "memory.bandwidth", 2, "4800 TB/s", "implausible", "1e+15 bytes/s"),
    ("base: h200-sxm\npeak: {bf16: 989 FLOP/s}\n", "peak.bf16", 2, "989 FLOP/s", "implausible", "FLOP/s"),
    ("base: h200-sxm\npeak: {bf17: 989 TFLOP/s}\n", "peak.bf17", 2, "bf17", "unknown number format", "did you mean bf16"),
    ("base: h200-sxm\npeak: {bf16: 989 GB/s}\n", "peak.bf16", 2, "989 GB/s", "wrong unit", "989 TFLOP/s"),
    ("base: h200-sxm\npeak: 989 TFLOP/s\n", "peak", 2, "989 TFLOP/s", "not a mapping", "mapping"),
    ("base: h200-sxm\nmemory: 141 GB\n", "memory", 2, "141 GB", "not a mapping", "kind, capacity, bandwidth"),
    ("base: h200-sxm\nsms: many\n", "sms", 2, "many", "wrong type", "an integer >= 1 and <= 10,000"),
    ("base: h200-sxm\nsms: 132.5\n", "sms", 2, 132.5, "wrong type", "an integer"),
    ("base: h200-sxm\nsms: true\n", "sms", 2, True, "wrong type", "an integer"),
    ("base: h200-sxm\nsms: 0\n", "sms", 2, 0, "out of range", ">= 1"),
    ("base: h200-sxm\nsms: 100000\n", "sms", 2, 100000, "out of range", "<= 10,000"),
    ("base: h200-sxm\nboost_clock: 1.98 GB\n", "boost_clock", 2, "1.98 GB", "wrong unit", "Hz"),
    ("base: h200-sxm\nstatus: rumoured\n", "status", 2, "rumoured", "known values", "announced, released"),
    ("base: h200-sxm\nlink: {kind: nvlnk}\n", "link.kind", 2, "nvlnk", "known values", "did you mean nvlink"),
    ("base: h200-sxm\nlink: {domain: 0}\n", "link.domain", 2, 0, "out of range", ">= 1"),
    ("base: h200-sxm\npcie: {generation: 12}\n", "pcie.generation", 2, 12, "out of range", "<= 9"),
    ("base: h200-sxm\npower: {idle: 800 W}\n", "power.idle", 2, None, "above the TDP", "at most the TDP"),
    ("base: h200-sxm\npower: {tdp: 50 W}\n", "power.tdp", 2, None, "above the TDP", "at most the TDP"),
    ("base: h200-sxm\nprice: {usd_per_hour: -1}\n", "price.usd_per_hour", 2, -1, "greater than zero", "2.50"),
    ("base: h200-sxm\nprice: {usd_per_hour: 3 EUR}\n", "price.usd_per_hour", 2, "3 EUR", "wrong unit", "USD/h"),
    ("base: h200-sxm\nprice: {date: last year}\n", "price.date", 2, "last year", "not a date", "YYYY-MM"),
    ("base: h200-sxm\nprice: {date: 2026-13}\n", "price.date", 2, "2026-13", "not a date", "YYYY-MM"),
    ("base: h200-sxm\nmemory:\n  kind: ''\n", "memory.kind", 3, "", "text too short", "at least 1"),
    ("base: h200-sxm\nvendor: 3\n", "vendor", 2, 3, "wrong type", "text"),
    ("base: h200-sxm\nsources: {memory.bandwith: me}\n", "sources.memory.bandwith", 2, "memory.bandwith", "no such figure", "memory.bandwidth"),
    ("base: h200-sxm\nsources: {sms: 3}\n", "sources.sms", 2, 3, "not a source", "text"),
    ("base: h200-sxm\nsources: me\n", "sources", 2, "me", "not a mapping", "its source"),
    ("base: h200-sxm\nmemory: {bandwidth: null}\n", "memory.bandwidth", 2, None, "required key is missing", None),
    ("sms: 100\n", "vendor", 1, None, "required key is missing", "text"),
    ("base: h200\n", "base", 1, "h200", "unknown GPU", "did you mean h200-sxm"),
    ("base: 3\n", "base", 1, 3, "not a GPU", "h200-sxm"),
    ("base: other.yaml\n", "base", 1, "other.yaml", "no such file", "h200-sxm"),
    ("- base: h200-sxm\n", None, 1, [{"base": "h200-sxm"}], "not a mapping", "base"),
    ("base: h200-sxm\n3: 4\n", "[3]", 1, 3, "not text", "memory"),
    ("base: h200-sxm\nsms: 1\nsms: 2\n", "sms", 3, None, "key given twice", None),
    ("base: [h200-sxm\n", None, 2, None, "not valid YAML", None),
    ("", None, None, None, "empty", None),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES, ids=[repr(c[0])[:60] for c in BAD_FILES])
def test_bad_files(tmp_path, case):
    text, place, line, found, problem, allowed = case
    path = write(tmp_path, "mine.yaml", text)
    with pytest.raises(InputError) as error:
        load_gpu(str(path), place="gpu", origin="scenario.yaml")
    e = error.value
    assert e.file == path
    assert e.place == place
    assert e.line == line
    assert problem in e.problem
    if found is not None:
        assert e.found == found and type(e.found) is type(found)
    if allowed is not None:
        assert allowed in e.allowed
    assert str(path) in str(e) and "pydantic" not in str(e) and "\n" not in str(e)


def test_an_error_in_a_base_names_the_base(tmp_path):
    bad = write(tmp_path, "bad.yaml", "base: h200-sxm\n\nmemory:\n  bandwidth: 4.8 TB\n")
    write(tmp_path, "mine.yaml", "base: bad.yaml\nsms: 100\nmemory: {capacity: 100 GB}\n")
    with pytest.raises(InputError) as error:
        load_gpu("mine.yaml", relative_to=tmp_path)
    assert (error.value.file, error.value.place, error.value.line) == (bad, "memory.bandwidth", 4)
    # and what the upper file overrides is no longer wrong
    write(tmp_path, "mine.yaml", "base: bad.yaml\nmemory: {bandwidth: 5 TB/s}\n")
    assert load_gpu("mine.yaml", relative_to=tmp_path).memory.bandwidth == 5e12


# (spec, place, found, words of the problem, words of what is allowed)
BAD_SPECS = [
    ("h2000-sxm", "gpu", "h2000-sxm", "unknown GPU", "did you mean h200-sxm"),
    ("H200", "gpu", "H200", "unknown GPU", "did you mean h200-sxm"),
    ("b200", "gpu", "b200", "unknown GPU", "did you mean b200-sxm"),
    ("", "gpu", "", "unknown GPU", "h200-sxm"),
    ("nowhere/mine.yaml", "gpu", "nowhere/mine.yaml", "no such file", ".yaml file"),
    ("mine.yaml", "gpu", "mine.yaml", "no such file", ".yaml file"),
    (3, "gpu", 3, "not a GPU", "h200-sxm"),
    (None, "gpu", None, "not a GPU", "h200-sxm"),
    (["h200-sxm"], "gpu", ["h200-sxm"], "not a GPU", "h200-sxm"),
    ({"base": "b20"}, "gpu.base", "b20", "unknown GPU", "b200-sxm"),
    ({"base": "h200-sxm", "memory": {"bandwidth": "9.6"}}, "gpu.memory.bandwidth", "9.6", "unit is missing", "bytes/s"),
    ({"base": "h200-sxm", "hbm": "9.6 TB/s"}, "gpu.hbm", "hbm", "unknown key", "memory"),
    ({}, "gpu.vendor", None, "required key is missing", "text"),
]


@pytest.mark.parametrize("case", BAD_SPECS, ids=[repr(c[0])[:50] for c in BAD_SPECS])
def test_bad_specs(tmp_path, case):
    spec, place, found, problem, allowed = case
    with pytest.raises(InputError) as error:
        load_gpu(spec, origin="scenario.yaml", lines=lambda path: 7 + len(path), relative_to=tmp_path)
    e = error.value
    assert (e.file, e.place) == ("scenario.yaml", place)
    assert e.line == 7 + place.count(".")
    assert problem in e.problem and allowed in e.allowed
    assert e.found == found


def test_a_folder_is_not_a_gpu(tmp_path):
    (tmp_path / "dir.yaml").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        load_gpu("dir.yaml", relative_to=tmp_path)
    for odd in ("a/\0.yaml", "a/" + "x" * 5000):
        with pytest.raises(InputError, match="no such file"):
            load_gpu(odd, relative_to=tmp_path)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
keys = (
    st.sampled_from(["memory", "bandwidth", "peak", "bf16", "l2", "sms", "price", "sources", "base", "name"]) | scalars
)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))


@given(st.dictionaries(keys, anything, max_size=5))
def test_whatever_is_given_the_answer_is_a_gpu_or_an_input_error(overrides):
    try:
        gpu = load_gpu({"base": "h200-sxm"} | overrides, origin="x.yaml")
    except InputError as error:
        assert error.file is not None and error.place and error.place.startswith("gpu")
    else:
        assert gpu.memory.bandwidth > 0
