"""The plan: by worth, spec-driven, even at every length; its rows for checks apart from those to fit on."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from calibration.measure import shapes
from calibration.measure.costs import copies_of, cost_of, load_of
from calibration.measure.evenly import even_point, extremes, spread
from calibration.measure.figures import Figures, load_figures
from calibration.measure.layershapes import kinetics_region
from calibration.measure.plan import MINUTES, RESERVE, START, plan, seconds_of
from calibration.measure.planview import within
from calibration.measure.shapes import MEMORY, row_bytes_of, widths_of
from calibration.measure.task import SHAPES, Task
from simulator.layers import Reading
from simulator.shape import StepShape
from simulator.stepgraph import Precision, build_graph
from workloads.model import load_model

NVIDIA = ("h200-sxm", "b200-sxm", "a100-sxm", "l40s")


@cache
def made(gpu: str = "h200-sxm", kind: str = "useful", seed: int = 0) -> tuple[Task, ...]:
    return tuple(plan(load_figures(gpu), kind=kind, seed=seed))


def shape_of(task: Task) -> tuple[object, ...]:
    return (task.table, task.kernel, *(task.row[name] for name in SHAPES[task.table]))


@pytest.mark.parametrize(
    ("gpu", "kind"), [*((gpu, "useful") for gpu in NVIDIA), ("h200-sxm", "full"), ("l40s", "full")]
)
def test_a_plan_fills_its_minutes_and_fits_the_memory(gpu: str, kind: str) -> None:
    tasks = made(gpu, kind)
    assert 0.97 * RESERVE * MINUTES[kind] <= seconds_of(tasks) / 60 <= 1.01 * RESERVE * MINUTES[kind]
    assert max(task.bytes for task in tasks) <= MEMORY * load_figures(gpu).memory
    assert min(task.seconds for task in tasks) > 0.05


@pytest.mark.parametrize("kind", ["full", "layers", "kinetics"])
def test_nothing_is_measured_twice(kind: str) -> None:
    tasks = made(kind=kind)
    assert len({shape_of(task) for task in tasks}) == len(tasks) == len({task.key for task in tasks})


def test_no_row_of_a_check_is_one_to_fit_on() -> None:
    tasks = made(kind="full")
    check = {shape_of(t) for t in tasks if t.file.endswith("-check")}
    others = {shape_of(t) for t in tasks if t.file == t.table}
    assert len(check) > 300 and not check & others
    share = len(check) / (len(check) + len(others))
    assert 0.1 < share < 0.2


def test_full_begins_like_useful() -> None:
    useful, full = made(), made(kind="full")
    assert [task.key for task in full[: len(useful)]] == [task.key for task in useful]


def test_the_seed_is_of_the_checks_alone() -> None:
    one, other = made(), made(seed=1)
    assert made() == tuple(plan(load_figures("h200-sxm")))
    rows = [{t.key for t in tasks if t.file == t.table} for tasks in (one, other)]
    assert len(rows[0] & rows[1]) > 0.97 * len(rows[0])  # seconds differ a little, and so does where the plan ends
    checks = [{t.key for t in tasks if t.file != t.table and t.l2 == "cold"} for tasks in (one, other)]
    assert len(checks[0] & checks[1]) < 0.1 * len(checks[0])


def test_more_minutes_go_on_in_the_same_order() -> None:
    longer = plan(load_figures("h200-sxm"), minutes=12.0)
    assert [t.key for t in longer[: len(made())]] == [t.key for t in made()]
    assert seconds_of(longer) / 60 == pytest.approx(RESERVE * 12.0, rel=0.02)
    assert len(plan(load_figures("h200-sxm"), minutes=2.0)) == len(made())


def test_only_some_tables_are_the_same_rows() -> None:
    tasks = plan(load_figures("h200-sxm"), only=["moe", "launch"])
    assert [t.key for t in tasks] == [t.key for t in made() if t.table in ("moe", "launch")]


def test_the_first_points_are_those_that_say_most() -> None:
    figures = load_figures("h200-sxm")
    first = made()[:70]
    assert [t.table for t in first[:2]] == ["launch", "launch"]
    touched = {int(t.row["rows"]) * int(t.row["row_bytes"]) / figures.l2 for t in first if t.row.get("op") == "read"}
    assert min(touched) < 0.3 and 1.0 in touched and max(touched) > 30
    shapes_of = [dict(t.row) for t in first]
    assert {"dtype": "bf16", "m": 8192, "n": 8192, "k": 8192} in shapes_of
    assert any(row.get("context_len") == 32_768 and row.get("batch") == 64 and "page" not in row for row in shapes_of)
    seen = {(t.table, t.kernel, t.row.get("dtype"), t.row.get("kv_dtype"), t.row.get("op")) for t in first}
    for task in made(kind="full"):
        if task.l2 == "cold" and not task.kernel.endswith("warm") and task.table not in ("layer", "kinetics"):
            key = (task.table, task.kernel, task.row.get("dtype"), task.row.get("kv_dtype"), task.row.get("op"))
            assert key in seen, key


@pytest.mark.parametrize("minutes", [1, 2, 4])
def test_every_beginning_covers_all_tables_and_sizes(minutes: int) -> None:
    tasks = made()[: within(made(), minutes)]
    tables = Counter(task.table for task in tasks)
    single = {"gemm", "attention_decode", "attention_prefill", "moe", "elementwise", "page_topk", "layer"}
    assert single <= set(tables)
    m = sorted(int(t.row["m"]) for t in tasks if t.table == "gemm")
    decades = Counter(int(math.log2(value) // 3) for value in m)
    assert set(decades) >= {0, 1, 2, 3, 4}
    contexts = [int(t.row["context_len"]) for t in tasks if t.table == "attention_decode"]
    assert min(contexts) < 512 and max(contexts) > 60_000


def test_regions_fill_their_cube_evenly() -> None:
    """Of every beginning of 64 points, each eighth of each axis has its share."""
    for dims in (1, 2, 3, 5):
        points = [even_point(i, dims) for i in range(64)]
        for axis in range(dims):
            parts = Counter(int(point[axis] * 8) for point in points)
            assert min(parts.values()) >= 5 and max(parts.values()) <= 11


def test_ranges_are_measured_to_their_ends() -> None:
    assert len(list(extremes(3))) == 4 and len(list(extremes(1))) == 2
    tasks = made()[: within(made(), 4)]
    rows = [int(t.row["rows"]) for t in tasks if t.row.get("op") == "rms_norm"]
    assert min(rows) == 1 and max(rows) == shapes.TOKENS
    m = [int(t.row["m"]) for t in tasks if t.table == "gemm"]
    assert min(m) == 1 and max(m) == shapes.TOKENS


def test_a_grid_is_visited_evenly_and_once() -> None:
    grid = [(i, j) for i in range(8) for j in range(8)]
    order = spread(grid, [(i / 7, j / 7) for i, j in grid])
    assert sorted(order) == grid
    quarters = Counter((i // 4, j // 4) for i, j in order[:16])
    assert len(quarters) == 4 and max(quarters.values()) <= 6


def test_shapes_are_those_that_the_simulator_asks_for() -> None:
    """GEMMs, heads and bytes of the operators of a step, as the graph has them."""
    widths = widths_of(load_figures("h200-sxm").memory)
    model = load_model("Qwen/Qwen3-8B")
    reading: object = Reading(1024, 16)
    graph = build_graph(model, reading, Precision(), 2)  # type: ignore[arg-type]
    shape = StepShape(1, 1, 1, tuple(16 for _ in graph.decode_caps))
    for op in graph.operators:
        if op.kind == "gemm":
            assert (op.dims.n, op.dims.k, op.axis == "rows") in widths.gemms  # type: ignore[union-attr]
    heads = (16, 4, 128)
    assert heads in widths.heads and (1024, 4096, True) not in widths.gemms
    work = {op.name: sum(op.work(shape)[1:]) for op in graph.operators}
    assert row_bytes_of("rms_norm", width=4096) == work["attn_norm"]
    assert row_bytes_of("embedding", width=4096) == work["embedding"]
    assert row_bytes_of("silu_mul", width=6144) == work["silu_mul"]
    assert row_bytes_of("sampling", width=model.vocab) == work["sampling"]
    assert row_bytes_of("rope_kv_write", heads) == work["rope_kv_write"]
    assert row_bytes_of("page_summary", heads) == work["page_summary"]


def test_the_plan_follows_the_gpu() -> None:
    a100, l40s, b200 = (load_figures(name) for name in ("a100-sxm", "l40s", "b200-sxm"))
    assert not any("fp8" in (t.row.get("dtype"), t.row.get("kv_dtype")) for t in made("a100-sxm"))
    assert any(t.row.get("dtype") == "fp8" for t in made("l40s"))
    assert max(t.bytes for t in made("l40s", "full")) < MEMORY * l40s.memory
    far = [max(int(t.row["rows"]) for t in made(n)[:5] if t.row.get("op") == "read") for n in ("a100-sxm", "b200-sxm")]
    assert far[0] < far[1]
    models = {t.row["model"] for t in made("l40s", "kinetics")}
    assert "Qwen/Qwen3-0.6B" in models
    assert not any(t.row["model"] == "Qwen/Qwen3-32B" and t.row["tp"] == 1 for t in made("l40s", "kinetics"))
    doubled = dataclasses.replace(b200, memory=2 * b200.memory)
    assert len(kinetics_region(doubled).points) > len(kinetics_region(b200).points)
    assert not any(t.table == "collective" for t in made())
    several = plan(a100, gpus=4)
    assert {t.row["gpus"] for t in several if t.table == "collective"} == {2, 4}


@pytest.mark.parametrize("l2", [1e5, 1e10])
@pytest.mark.parametrize("memory", [1e9, 1e14])
def test_a_plan_comes_to_an_end_on_any_gpu(l2: float, memory: float) -> None:
    """Also where few shapes fit into the memory, or all that there are have been planned."""
    odd = dataclasses.replace(load_figures("h200-sxm"), l2=l2, memory=memory)
    assert len(plan(odd)) > 0


def test_no_limit_makes_a_plan_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calibration.measure.plan.LONGEST", 9.0)
    assert seconds_of(plan(load_figures("h200-sxm"), minutes=99_999)) < 9 * 60


def test_the_papers_experiment_is_whole_and_in_pairs() -> None:
    tasks = made(kind="kinetics")
    assert {t.key for t in tasks} <= {t.key for t in made(kind="full")}
    for dense, sparse in zip(tasks[::2], tasks[1::2], strict=True):
        assert dense.row["attention"] == "dense" and sparse.row["attention"] == "block_topk"
        assert all(dense.row[name] == sparse.row[name] for name in ("model", "tp", "batch", "context_len"))
    assert {t.row["tp"] for t in tasks} == {1, 8}
    assert {t.row["context_len"] for t in tasks} == {4096, 8192, 16_384, 32_768, 65_536}


def test_warm_rows_fit_into_the_l2() -> None:
    figures = load_figures("h200-sxm")
    warm = [t for t in made(kind="full") if t.file.endswith("-warm")]
    assert {t.kernel for t in warm} == {"triton_warm"} and len(warm) > 50
    assert all(load_of(t.table, t.row).cold <= figures.l2 / 2 for t in warm)


def test_costs_grow_with_the_shape() -> None:
    figures = load_figures("h200-sxm")
    costs = [cost_of("gemm", shapes.gemm_row("bf16", m, 8192, 8192), figures) for m in (1, 1024, 16_384)]
    assert costs[0].seconds < costs[1].seconds < costs[2].seconds
    assert costs[0].bytes >= 4 * figures.l2, "cold operands fill the L2 four times"
    assert copies_of(1.0, figures) == 512 and copies_of(1e9, figures) == 1


def test_rows_of_the_plan_have_kernels_that_need_what_was_planned() -> None:
    pytest.importorskip("triton")
    from calibration.kernels.catalogue import KERNELS, kernel_of

    figures: Figures = load_figures("h200-sxm")
    tables = {kernel.table for kernel in KERNELS}
    assert "gemm" in tables or len(KERNELS) < 5
    for task in made(kind="full"):
        if task.table not in tables or task.table in ("layer", "kinetics", "collective", "launch"):
            continue
        kernel = kernel_of(task.table, task.row)
        assert task.kernel in (kernel.software_kernel, "triton_warm", "triton_prefill")
        sizes, load = kernel.sizes(task.row), load_of(task.table, task.row)
        needed = sizes.cold * copies_of(sizes.cold, figures) + sizes.warm
        assert needed <= 0.92 * figures.memory
        planned = load.cold * copies_of(load.cold, figures) + load.warm
        assert needed <= 2 * planned + 3 * figures.l2 + 2**24, dict(task.row)


def test_a_plan_needs_none_of_the_simulators_libraries() -> None:
    script = (
        "import sys; from calibration.measurecommand import measure; measure(dry_run=True, gpu='b200-sxm');"
        "bad = {'torch', 'triton', 'pydantic', 'typer', 'rich', 'simpy', 'scipy', 'pyarrow'} & set(sys.modules);"
        "assert not bad, bad"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "Plan useful for b200-sxm" in run.stdout


def test_the_start_is_counted() -> None:
    assert within(made(), START / 60) == 0 and within(made(), 1e3) == len(made())
    assert seconds_of(()) == 0.0
