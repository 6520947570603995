"""What a worker does: rows are what `kinesim run` says, whatever was shared, and hashes change with what counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwspecs.errors import InputError
from simulator.headline import headline
from simulator.running import run_scenario
from simulator.sweeping import identity
from simulator.sweeping.grid import Grid
from simulator.sweeping.gridfile import make_grid
from simulator.sweeping.sweepfile import read_sweep
from simulator.sweeping.work import PROGRAM, identify, resolve, scenario_at, simulate_batch

SMALL = {"workload.requests": 6}


def rows_of(content: dict[str, Any]) -> tuple[Grid, list[dict[str, Any]]]:
    grid = make_grid(read_sweep(content))
    points = grid.cheap_order(grid.chosen(None, 0))
    return grid, simulate_batch(grid.bases, points, grid.folder, PROGRAM)


@pytest.mark.parametrize(
    "content",
    [
        # Load, replicas, router, objective and host share a compiled cost; max_num_seqs does not.
        {
            "base": "chat-poisson",
            "set": {**SMALL, "engine.host.step": "2 ms"},
            "vary": {
                "workload.arrivals.rate": [1, 50],
                "replicas": [1, 2],
                "engine.host.step": ["1 ms"],
            },
            "zip": {"engine.max_num_seqs": [2, 64], "router": ["round_robin", "least_tokens"]},
        },
        {
            "base": "chat-poisson",
            "set": {**SMALL, "disaggregation": {"prefill": {"replicas": 1}, "decode": {"replicas": 1}}},
            "vary": {"workload.arrivals.rate": [1, 60]},
        },
    ],
)
def test_rows_are_what_run_says(content: dict[str, Any]) -> None:
    content = {**content, "set": {k: v for k, v in content["set"].items() if k not in content["vary"]}}
    grid, rows = rows_of(content)
    assert len(rows) == grid.count
    for row in rows:
        assert (row["status"], row["reason"]) == ("ok", "")
        point = grid.point(row["index"])
        alone = run_scenario(scenario_at(grid.bases[0], point, grid.folder))
        assert row["metrics"] == headline(alone.summary)  # to the last bit
        assert row["notes"] == "; ".join(alone.notes)
        assert row["intervals"]["kernel_time"] == alone.summary["interval"]["kernel_time"]
        assert row["timed_by"] in row["notes"] or row["timed_by"]


def test_what_cannot_be_served_is_a_row_with_its_reason() -> None:
    _, rows = rows_of(
        {
            "base": "chat-poisson",
            "set": {**SMALL, "profile": "ideal", "engine": "none"},
            "vary": {
                "gpu": ["b200-sxm", "h200-sxm"],
                "precision.linear": ["nvfp4"],
                "gpu.memory.capacity": ["141 GB", "6 GB"],
            },
        }
    )
    assert [row["status"] for row in rows] == ["ok", "invalid", "invalid", "invalid"]
    assert "weights" in rows[1]["reason"] or "memory" in rows[1]["reason"]
    assert rows[2]["reason"].startswith("precision.linear: h200-sxm (modified) does not compute in fp4")
    assert rows[2]["metrics"] == {} and len({row["hash"] for row in rows}) == 4


def test_an_error_of_the_program_is_a_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from simulator.sweeping import work

    def broken(served: object) -> None:
        raise ZeroDivisionError("of a made bug")

    monkeypatch.setattr(work, "run_served", broken)
    _, rows = rows_of({"base": "chat-poisson", "set": SMALL})
    assert rows[0]["status"] == "failed"
    assert rows[0]["reason"].startswith("internal error: ZeroDivisionError: of a made bug (test_sweep_rows.py:")


def hash_of(folder: Path = Path(), program: str = "p", **content: Any) -> str:
    grid = make_grid(read_sweep({"base": "chat-poisson", **content}))
    return resolve(grid.bases[0], grid.point(0), grid.folder, program).hash


def test_the_hash_follows_what_counts_and_nothing_else(tmp_path: Path) -> None:
    usual = hash_of()
    assert usual == hash_of(set={"name": "other", "description": "else"})
    assert hash_of(vary={"gpu.memory.bandwidth": "x1"}) == hash_of(vary={"gpu.memory.bandwidth": "4.8 TB/s"})
    assert usual == hash_of(vary={"engine": "vllm"}) == hash_of(vary={"workload.arrivals.rate": 2.0})
    others = [
        hash_of(program="q"),
        hash_of(set={"seed": 1}),
        hash_of(set={"gpu.price.usd_per_hour": 5}),
        hash_of(set={"profile": "ideal"}),
        hash_of(set={"workload.requests": 1999}),
        hash_of(set={"objective.ttft": "3 s"}),
    ]
    assert len({usual, *others}) == 7

    # A trace counts by its content, not by its name.
    traces = []
    for name, length in (("a.csv", 8), ("b.csv", 8), ("c.csv", 9)):
        (tmp_path / name).write_text(f"arrival_s,input_len,output_len\n0,100,{length}\n")
        workload = {"strategy": {"kind": "chat"}, "trace": {"path": str(tmp_path / name)}}
        traces.append(hash_of(set={"workload": workload}))
    assert traces[0] == traces[1] != traces[2]
    # So does a GPU's file, by what it means.
    for name, speed in (("a.yaml", "1 TB/s"), ("b.yaml", "1e3 GB/s"), ("c.yaml", "2 TB/s")):
        (tmp_path / name).write_text(f"base: h200-sxm\nname: mine\nmemory: {{bandwidth: {speed}}}\n")
    gpus = [hash_of(set={"gpu": str(tmp_path / name)}) for name in ("a.yaml", "b.yaml", "c.yaml")]
    assert gpus[0] == gpus[1] != gpus[2]


def test_a_scenario_that_is_none_has_a_hash_of_its_own() -> None:
    found = []
    for seed in (1, 2, 1):
        vary = {"gpu": ["h200-sxm", "b200-sxm"], "precision.linear": ["nvfp4"]}
        grid = make_grid(read_sweep({"base": "chat-poisson", "set": {"seed": seed}, "vary": vary}))
        found.append(resolve(grid.bases[0], grid.point(0), grid.folder, "p"))
    assert [one.status for one in found] == ["invalid"] * 3
    assert found[0].hash == found[2].hash != found[1].hash


def test_a_worker_with_another_program_gives_no_rows() -> None:
    grid = make_grid(read_sweep({"base": "chat-poisson", "set": SMALL}))
    assert identity.program_hash() == PROGRAM
    for call in (identify, simulate_batch):
        with pytest.raises(InputError, match="a worker runs another version of kinesim"):
            call(grid.bases, [grid.point(0)], grid.folder, "0123456789abcdef")


def test_the_programs_hash_is_of_what_a_simulation_uses() -> None:
    modules = {path.relative_to(identity.ROOT).as_posix() for path in identity._modules()}
    assert {
        "simulator/running.py", "simulator/replica.py", "simulator/stepcost.py", "simulator/kernels/gemm.py",
        "simulator/headline.py", "workloads/arrivals.py", "workloads/lengths.py", "hwspecs/gpu.py",
    } <= modules  # fmt: skip
    rooms = ("sweeping", "planning", "reporting", "exploring", "varying", "importing")
    assert not [name for name in modules if name.startswith(tuple(f"simulator/{room}/" for room in rooms))]
    assert not {"simulator/cli.py", "simulator/display.py", "simulator/api.py"} & modules
    assert len(identity.program_hash()) == 16
