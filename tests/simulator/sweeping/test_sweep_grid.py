"""The scenarios of a sweep: how many, which, in what order, and what is wrong with a sweep file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs.errors import InputError
from simulator.sweeping.draw import shuffled
from simulator.sweeping.gridfile import make_grid
from simulator.sweeping.plan import plan_sweep
from simulator.sweeping.sweepfile import list_sweeps, read_sweep
from simulator.sweeping.work import resolve, scenario_at
from simulator.varying.values import Factor


def grid(**content: Any) -> Any:
    return make_grid(read_sweep({"base": "chat-poisson", **content}))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**63 - 1))
def test_the_draw_is_a_permutation(total: int, seed: int) -> None:
    assert sorted(shuffled(i, total, seed) for i in range(total)) == list(range(total))


def test_a_draw_does_not_look_like_an_order() -> None:
    drawn = [shuffled(i, 10**9, 0) for i in range(1000)]
    assert len(set(drawn)) == 1000 and max(drawn) < 10**9
    # 1,000 uniform numbers: their mean is within five standard errors (0.289 / sqrt(1000)) of a half.
    assert abs(sum(drawn) / 1000 / 1e9 - 0.5) < 5 * 0.289 / 1000**0.5
    assert drawn != [shuffled(i, 10**9, 1) for i in range(1000)]


def test_combinations_in_the_files_order() -> None:
    found = grid(
        vary={"seed": [1, 2], "replicas": [1, 3]},
        zip={"engine.max_num_seqs": [8, 16], "engine.max_num_batched_tokens": [512, 1024]},
    )
    assert found.count == 8
    points = found.chosen(None, 0)
    assert [tuple(point.values.values()) for point in points[:3]] == [(1, 1, 8, 512), (1, 1, 16, 1024), (1, 3, 8, 512)]
    assert [point.index for point in points] == list(range(8))
    # What shares a compiled cost comes together: the engine's limits change last.
    order = [tuple(point.values.values()) for point in found.cheap_order(points)]
    assert order[:4] == [(1, 1, 8, 512), (1, 3, 8, 512), (2, 1, 8, 512), (2, 3, 8, 512)]


def test_several_bases_and_exclusions() -> None:
    found = grid(
        base=["chat-poisson", "aime24-best-of-32"],
        vary={"gpu.memory.bandwidth": ["4.8 TB/s", "x2"], "seed": "0..2:1"},
        exclude=[{"scenario": "chat-poisson", "seed": [1, 2]}, {"gpu.memory.bandwidth": 4.8e12, "seed": 0}],
    )
    assert found.count == 12
    left = [(found.bases[p.base].name, *p.values.values()) for p in found.chosen(None, 0)]
    # 4.8 TB/s is the number 4.8e12; x2 of both bases' 4.8 TB/s. chat: seed 0 at 9.6; aime24: all but (4.8, 0).
    twice = "9600000000000.0 B/s"
    assert left == [
        ("chat-poisson", twice, 0),
        *(("aime24-best-of-32", "4.8 TB/s", seed) for seed in (1, 2)),
        *(("aime24-best-of-32", twice, seed) for seed in (0, 1, 2)),
    ]


def test_a_billion_combinations_are_counted_and_drawn_from() -> None:
    content: Any = {
        "base": "chat-poisson",
        "vary": {
            "seed": "0..999:1",
            "workload.requests": "1..1000:1",
            "engine.max_num_seqs": "1..1000:1",
        },
    }
    with pytest.raises(InputError, match=r"limit: the grid has 1,000,000,000 combinations; allowed: up to 100,000"):
        plan_sweep(content)
    few = {point.index for point in plan_sweep(content, limit=50).points}
    more = {point.index for point in plan_sweep(content, limit=80).points}
    assert len(few) == 50 and len(more) == 80 and few < more
    assert few != {point.index for point in plan_sweep({**content, "seed": 1}, limit=50).points}


def test_a_factor_is_of_the_gpu_that_is_varied_with_it() -> None:
    found = grid(vary={"gpu.memory.bandwidth": ["x0.5", "6 TB/s"], "gpu": ["h200-sxm", "b200-sxm"]})
    bandwidths = {}
    for point in found.chosen(None, 0):
        assert isinstance(point.values["gpu.memory.bandwidth"], Factor | str)
        loaded = scenario_at(found.bases[0], point, found.folder)
        resolved = resolve(found.bases[0], point, found.folder, "")
        assert not isinstance(resolved.values["gpu.memory.bandwidth"], Factor)
        bandwidths[str(point.values["gpu.memory.bandwidth"]), point.values["gpu"]] = loaded.gpu.memory.bandwidth
    assert found.units == {"gpu.memory.bandwidth": "B/s", "gpu": ""}
    only = grid(vary={"gpu.memory.bandwidth": ["x0.5", "x1"], "gpu": ["h200-sxm", "b200-sxm"]})
    assert only.units == found.units
    # A base that is whole with what is varied only.
    bare = {"name": "bare", "model": "qwen3-8b", "workload": {
        "strategy": {"kind": "chat"}, "requests": 1, "prompt_tokens": 9, "output_tokens": 9}}  # fmt: skip
    vary = {"gpu": ["h200-sxm", "b200-sxm"], "gpu.memory.bandwidth": "x0.5, x1"}
    assert make_grid(read_sweep({"base": bare, "vary": vary})).units == found.units
    # H200 4.8 TB/s, B200 8 TB/s: halves of each, and 6 TB/s on both.
    assert sorted(bandwidths.values()) == [2.4e12, 4e12, 6e12, 6e12]


def test_what_is_set_inside_a_varied_part_is_set_in_all(tmp_path: Path) -> None:
    found = grid(vary={"gpu": ["h200-sxm", "b200-sxm"]}, set={"gpu.price": {"usd_per_hour": 9, "date": "2026-01"}})
    for point in found.chosen(None, 0):
        price = scenario_at(found.bases[0], point, found.folder).gpu.price
        assert price is not None and price.usd_per_hour == 9


def test_paths_are_relative_to_the_file_and_those_of_set_to_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "fast.yaml").write_text("base: h200-sxm\ntitle: There\n")
    (tmp_path / "mine" / "fast.yaml").write_text("base: h200-sxm\ntitle: Here\n")
    (tmp_path / "mine" / "chat.yaml").write_text(
        "gpu: ./fast.yaml\nmodel: qwen3-8b\n"
        "workload: {strategy: {kind: chat}, requests: 3, prompt_tokens: 9, output_tokens: 4}\n"
    )
    (tmp_path / "mine" / "grid.yaml").write_text("base: chat.yaml\nvary: {gpu: [./fast.yaml, h200-sxm], seed: [1]}\n")
    monkeypatch.chdir(tmp_path)
    found = make_grid(read_sweep("mine/grid.yaml"))
    titles = [scenario_at(found.bases[0], point, found.folder).gpu.title for point in found.chosen(None, 0)]
    assert titles[0] == "Here" and titles[1] != "Here"
    (tmp_path / "mine" / "seeds.yaml").write_text("base: chat.yaml\nvary: {seed: [1]}\n")
    found = make_grid(read_sweep("mine/seeds.yaml", ["gpu=./fast.yaml"]))
    assert scenario_at(found.bases[0], found.point(0), found.folder).gpu.title == "There"


def test_a_field_that_only_some_combinations_have_is_no_error_of_the_file() -> None:
    found = grid(vary={"attention.kind": ["dense", "top_k"], "attention.budget": [512, 1024]})
    reasons = [resolve(found.bases[0], point, found.folder, "").reason for point in found.chosen(None, 0)]
    assert [bool(reason) for reason in reasons] == [True, True, False, False]
    assert "attention.budget: unknown key" in reasons[0]


@pytest.mark.parametrize("name", list_sweeps())
def test_bundled_sweeps_are_valid(name: str) -> None:
    plan = plan_sweep(name)
    for point in plan.points[:3]:
        scenario_at(plan.grid.bases[point.base], point, plan.grid.folder)


def test_the_example_of_the_docs_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "sweep.md").read_text(encoding="utf-8")
    (tmp_path / "batching.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    plan = plan_sweep(tmp_path / "batching.yaml")
    # 2 GPUs x 4 rates x 2 limits, less 2 limits of one GPU at one rate.
    assert plan.grid.count == 16 and len(plan.points) == 14
    for point in plan.points:
        scenario_at(plan.grid.bases[point.base], point, plan.grid.folder)


BAD = {
    "vary: {gpu.memory.bandwith: [1 TB/s]}": "2: vary.gpu.memory.bandwith: unknown key; found 'bandwith'",
    "vary:\n  seed: [1]\n  engine.max_num_seq: [4]": "4: vary.engine.max_num_seq: unknown key",
    "set: {engine.foo: 3}\nvary: {seed: [1, 2]}": "2: set.engine.foo: unknown key",
    "vari: {seed: [1]}": "2: vari: unknown key; found 'vari'",
    "vary: {seed: 5..1:1}": "2: vary.seed: an empty range",
    "vary: {seed: 1...inf:1}": "2: vary.seed: an infinite range",
    "vary: {seed: []}": "2: vary.seed: no values",
    "vary: {seed: x2, attention: x2}": "2: vary.attention: a factor needs numbers in the base scenario",
    "vary: {seed: [1]}\nzip: {seed: [1], replicas: [2]}": "3: zip.seed: a field given twice",
    "zip:\n  - {seed: [1, 3], replicas: [2]}": "3: zip[0]: lists of unequal lengths; found 'seed 2, replicas 1'",
    "vary: {seed: [1, 2]}\nexclude: {sead: 1}": "3: exclude.sead: not one of the fields that are varied",
    "vary: {seed: [1, 2]}\nexclude: {seed: 3}": "3: exclude.seed: leaves out a value that the field does not take",
    "vary: {seed: [1, 2]}\nexclude: {seed: [1, 2]}": "exclude: every combination is left out",
    "vary: {seed: [1]}\nkeep: [ttft]": "3: keep[0]: no such metric; found 'ttft'; allowed: ttft_s.p99",
    "limit: 0": "2: limit: out of range",
    "vary: {seed: [1, 2]}\nzip: {replicas: [1, 2], workload.arrivals.rate: [2 /s, fast]}": (
        "3: zip.workload.arrivals.rate: not a quantity; found 'fast'"
    ),
    "vary:\n  seed: 1..900:1\n  engine.name: [vllm, vlm]": "4: vary.engine.name: unknown engine; found 'vlm'",
    "vary: {gpu: [h200-sxm, h100-sxm], precision.linear: [bf16, nvfp4]}": "2: vary.precision.linear: h",
    "base: x": "base: key given twice",
}


@pytest.mark.parametrize(("content", "message"), BAD.items())
def test_bad_sweep_file(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"base: chat-poisson\n{content}\n")
    with pytest.raises(InputError) as caught:
        plan_sweep(path)
    assert caught.value.message().startswith(f"{path}:") and message in caught.value.message()


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("chat-poison", "base: unknown scenario; found 'chat-poison'"),
        ("[chat-poisson, chat-poisson]", "base: two base scenarios of one name"),
        ("[]", "base: no base scenario"),
        ("{gpu: h200-sxm}", "base: a required key is missing (model)"),
        ("production-reasoning", "base: this workload needs a trace"),
        ("nowhere/chat.yaml", "no such file"),
    ],
)
def test_bad_base(base: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"base: {base}\nvary: {{seed: [1, 2]}}\n")
    with pytest.raises(InputError) as caught:
        plan_sweep(path)
    assert message in caught.value.message()
