"""Profiles as data: the bundled ones, and how a bad file is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.cost import operator_time
from simulator.operators import KINDS
from simulator.profile import Correction, list_profiles, load_profile, profile_folder
from simulator.shape import StepShape
from simulator.stepgraph import Precision, build_graph
from workloads.attention import Dense
from workloads.model import load_model

GOOD = """\
name: mine
description: a test
fitted_on: nothing
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_bundled_profiles_load_under_their_names() -> None:
    names = list_profiles()
    assert {"ideal", "rule-of-thumb"} <= set(names)
    assert names == sorted(path.stem for path in profile_folder().glob("*.yaml"))
    for name in names:
        profile = load_profile(name)
        assert profile.name == name
        assert profile.description and profile.fitted_on


def test_ideal_corrects_nothing() -> None:
    ideal = load_profile("ideal")
    assert not ideal.tiling
    for kind in KINDS:
        assert ideal.correction(kind) == Correction()
    assert Correction() == Correction(compute_efficiency=1, memory_efficiency=1, link_efficiency=1, overhead=0)


def test_rule_of_thumb_has_every_kind() -> None:
    profile = load_profile("rule-of-thumb")
    assert profile.tiling and set(profile.kinds) == set(KINDS)
    for kind in KINDS:
        fix = profile.correction(kind)
        assert 1e-6 <= fix.overhead <= 2e-5
        assert min(fix.compute_efficiency, fix.memory_efficiency, fix.link_efficiency) >= 0.5


def test_a_users_file_is_found_by_its_path(tmp_path: Path) -> None:
    text = GOOD + "kinds:\n  gemm: {compute_efficiency: 0.5, overhead: 3 us}\n  all_reduce: {overhead: 1e-5}\n"
    path = write(tmp_path, text)
    profile = load_profile(path)
    assert profile.name == "mine"
    assert profile.correction("gemm") == Correction(compute_efficiency=0.5, overhead=3e-6)
    assert profile.correction("all_reduce").overhead == 1e-5
    assert profile.correction("elementwise") == Correction()
    assert load_profile("./mine.yaml", relative_to=tmp_path) == profile


@pytest.mark.parametrize(
    ("term", "field"),
    [("compute", "compute_efficiency"), ("memory", "memory_efficiency"), ("link", "link_efficiency")],
)
def test_efficiency_divides_its_term_alone(tmp_path: Path, term: str, field: str) -> None:
    gpu, ideal = load_gpu("h200-sxm"), load_profile("ideal")
    halved = load_profile(write(tmp_path, GOOD + "kinds:\n" + "".join(f"  {k}: {{{field}: 0.5}}\n" for k in KINDS)))
    graph = build_graph(load_model("Qwen/Qwen3-8B"), Dense(), Precision(), 2)
    shape = StepShape(4000, 4000, 4000, (50_000,))
    changed = set()
    for op in graph.operators:
        a, b = operator_time(op, shape, gpu, ideal), operator_time(op, shape, gpu, halved)
        for name in ("compute", "memory", "l2", "link"):
            factor = 2 if name == term or (name == "l2" and term == "memory") else 1
            assert getattr(b, name) == pytest.approx(factor * getattr(a, name), rel=1e-12)
        if b.seconds != a.seconds:
            changed.add(op.kind)
    assert changed


def test_overhead_is_added_to_what_runs(tmp_path: Path) -> None:
    gpu, ideal = load_gpu("h200-sxm"), load_profile("ideal")
    late = load_profile(write(tmp_path, GOOD + "kinds:\n  gemm: {overhead: 3 us}\n"))
    graph = build_graph(load_model("Qwen/Qwen3-8B"), Dense(), Precision())
    gemm = graph.dag.nodes["qkv_proj"]["op"]
    for tokens, more in ((100, 3e-6), (0, 0.0)):
        shape = StepShape(tokens, tokens, tokens, (tokens,))
        difference = operator_time(gemm, shape, gpu, late).seconds - operator_time(gemm, shape, gpu, ideal).seconds
        assert difference == pytest.approx(more, abs=1e-18)


BAD = {
    "unknown kind": ("kinds: {gem: {overhead: 1 us}}", "kinds", ("gem", "allowed: ", "grouped_gemm")),
    "efficiency 0": ("kinds: {gemm: {compute_efficiency: 0}}", "kinds.gemm.compute_efficiency", ("0", "> 0", "<= 1")),
    "efficiency above 1": ("kinds: {gemm: {memory_efficiency: 1.1}}", "kinds.gemm.memory_efficiency", ("1.1", "<= 1")),
    "efficiency below 0": ("kinds: {gemm: {link_efficiency: -0.5}}", "kinds.gemm.link_efficiency", ("-0.5", "> 0")),
    "efficiency in words": (
        "kinds: {gemm: {compute_efficiency: high}}",
        "kinds.gemm.compute_efficiency",
        ("high", "number"),
    ),
    "no number": ("kinds: {gemm: {compute_efficiency: .nan}}", "kinds.gemm.compute_efficiency", ("nan", "<= 1")),
    "unknown key": ("kinds: {gemm: {efficiency: 0.5}}", "kinds.gemm.efficiency", ("unknown key", "compute_efficiency")),
    "unknown key above": ("tilling: true", "tilling", ("unknown key", "tiling")),
    "negative overhead": ("kinds: {gemm: {overhead: -1 us}}", "kinds.gemm.overhead", ("-1", "allowed: ", ">= 0")),
    "wrong unit": ("kinds: {gemm: {overhead: 3 GB}}", "kinds.gemm.overhead", ("3 GB", "seconds")),
    "endless overhead": ("kinds: {gemm: {overhead: .inf}}", "kinds.gemm.overhead", ("finite", "inf")),
    "no overhead": ("kinds: {gemm: {overhead: }}", "kinds.gemm.overhead", ("seconds",)),
    "no correction": ("kinds: {gemm: }", "kinds.gemm", ("mapping", "empty")),
    "a list of kinds": ("kinds: [gemm]", "kinds", ("mapping", "gemm")),
    "another form": ("form: neural", "form", ("neural", "allowed: ", "roofline")),
    "tiling in numbers": ("tiling: 7", "tiling", ("7", "true or false")),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_place_and_what_is_allowed(tmp_path: Path, case: str) -> None:
    line, place, words = BAD[case]
    path = write(tmp_path, GOOD + line + "\n")
    with pytest.raises(InputError) as caught:
        load_profile(path)
    error = caught.value
    assert str(error.file) == path and error.line == 4
    assert error.place == place
    for word in words:
        assert word in str(error), str(error)


@pytest.mark.parametrize("missing", ["name", "description", "fitted_on"])
def test_a_missing_key(tmp_path: Path, missing: str) -> None:
    text = "".join(line for line in GOOD.splitlines(keepends=True) if not line.startswith(missing))
    with pytest.raises(InputError, match=f"{missing}: a required key is missing"):
        load_profile(write(tmp_path, text))


def test_files_that_are_no_profiles(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_profile(str(tmp_path / "none.yaml"))
    for text, words in (("", "empty"), ("- a\n", "mapping"), ("a: [", "not valid YAML"), (GOOD + GOOD, "twice")):
        with pytest.raises(InputError, match=words):
            load_profile(write(tmp_path, text))


def test_unknown_names_are_met_with_those_that_are_known() -> None:
    with pytest.raises(
        InputError, match=r"profile: unknown profile; found 'ideel'; allowed: .*ideal.*did you mean ideal.*path"
    ):
        load_profile("ideel")


def test_profiles_cannot_be_changed_in_place() -> None:
    profile = load_profile("ideal")
    with pytest.raises((ValueError, dataclasses.FrozenInstanceError)):
        profile.tiling = True  # type: ignore[misc]
