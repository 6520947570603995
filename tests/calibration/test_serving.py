"""`kinesim validate serving`: rows become deployments under a load, are replayed by the engine, and are compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from calibration import servingplots
from calibration.servingerrors import (
    ADDED,
    document,
    errors_of,
    family,
    layout,
    planning_loss,
    rates,
    users,
    worst_deployments,
    write_serving,
)
from calibration.servingreplay import Replay, replay
from calibration.servingruns import deployment_spec, workload_spec
from calibration.servingtables import ServingTable, read_serving
from hwspecs.errors import InputError
from simulator.running import run_scenario
from workloads.scenario import load_scenario

COLUMNS = (
    "gpu", "model", "engine", "precision", "input_len", "output_len", "concurrency", "tp", "pp", "attention_dp",
    "moe_tp", "moe_ep", "engine_version", "runs", "ttft_ms", "tpot_ms", "tpot_spread",
)  # fmt: skip
GOOD: dict[str, Any] = {
    "gpu": "h200-sxm", "model": "Qwen/Qwen3-8B", "engine": "vllm", "precision": "bf16", "input_len": 512,
    "output_len": 64, "concurrency": 4, "tp": 1, "pp": 1, "attention_dp": 1, "moe_tp": 1, "moe_ep": 1,
    "engine_version": "0.12.0", "runs": 1, "ttft_ms": 30.0, "tpot_ms": 7.0, "tpot_spread": 0.0,
}  # fmt: skip


def csv_file(folder: Path, *rows: dict[str, Any], drop: tuple[str, ...] = ()) -> Path:
    names = [name for name in COLUMNS if name not in drop]
    lines = [",".join(names), *(",".join(str({**GOOD, **row}[name]) for name in names) for row in rows)]
    path = folder / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def known(folder: Path, *rows: dict[str, Any]) -> ServingTable:
    return read_serving(csv_file(folder, *rows))


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_rows_are_read_with_their_units(tmp_path: Path) -> None:
    table = known(tmp_path, {}, {"concurrency": 8, "engine_version": "", "ttft_ms": "", "tpot_ms": 9.5})
    assert table.rows[0] == {k: v for k, v in GOOD.items() if k not in ("runs", "ttft_ms", "tpot_ms", "tpot_spread")}
    assert table.rows[1]["engine_version"] == "unknown"
    assert np.isnan(table.ttft[1]) and table.tpot[1] == pytest.approx(0.0095) and table.ttft[0] == pytest.approx(0.03)


def test_measurements_may_be_missing(tmp_path: Path) -> None:
    table = read_serving(csv_file(tmp_path, {}, drop=("runs", "ttft_ms", "tpot_ms", "tpot_spread")))
    assert np.isnan(table.ttft).all() and np.isnan(table.tpot).all()


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("concurrency", 0, "zero or negative"),
        ("concurrency", -3, "zero or negative"),
        ("concurrency", 10**7, "from 1 to 100,000"),
        ("concurrency", 1.5, "not a whole number"),
        ("concurrency", "many", "not a number"),
        ("input_len", "", "is empty"),
        ("output_len", "nan", "is empty"),
        ("tp", 0, "from 1"),
        ("gpu", "h20o", "unknown GPU"),
        ("gpu", "", "is empty"),
        ("engine", "vlm", "vllm"),
        ("ttft_ms", -1, "milliseconds above 0"),
        ("tpot_ms", "inf", "milliseconds above 0"),
        ("tpot_ms", "fast", "not a number"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, column: str, value: object, words: str) -> None:
    with pytest.raises(InputError) as found:
        known(tmp_path, {}, {column: value})
    assert "t.csv:3: column " + column in str(found.value) and words in str(found.value)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"columns tp, moe_ep are missing.*tp, pp, attention_dp"):
        read_serving(csv_file(tmp_path, {}, drop=("tp", "moe_ep")))


def test_disaggregated_rows_are_known_by_their_columns(tmp_path: Path) -> None:
    text = "gpu,model,engine,precision,input_len,output_len,concurrency,engine_version," + ",".join(
        f"{side}_{name}"
        for side in ("prefill", "decode")
        for name in ("workers", "tp", "attention_dp", "moe_tp", "moe_ep")
    )
    path = tmp_path / "d.csv"
    path.write_text(text + "\nh200-sxm,Qwen/Qwen3-8B,vllm,bf16,512,64,4,0.12.0,2,4,1,1,1,1,8,1,1,1\n")
    table = read_serving(path)
    assert layout(table.rows[0]) == "prefill 2 x tp4, decode 1 x tp8"
    own = replay(table.rows)[0]
    assert own.reason == "" and own.profile.startswith("h200-sxm@vllm") and own.ttft > 0 and own.tpot > 0
    assert rates(table, np.array([1.0]), np.array([0.1]))[0] == pytest.approx(4 * 64 / (1 + 6.3) / 16)


# ---- rows that cannot be predicted -----------------------------------------------------------------------------------

PUBLIC = {
    "model": "meta-llama/Llama-3.1-70B", "precision": "fp8", "input_len": 1024, "output_len": 8192, "tp": 4,
    "engine_version": "unknown",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "nobody/knows-7B"}, "no configuration"),
        ({"attention_dp": 2}, "replicas of their own"),
        ({"moe_ep": 2}, "no experts"),
        ({"model": "Qwen/Qwen3-30B-A3B", "moe_tp": 2, "tp": 4}, "other GPUs"),
        ({"precision": "fp3"}, "precision"),
        ({"input_len": 40_000, "output_len": 4_000}, "longer than the context"),
        ({"tp": 3}, "does not divide"),
        ({"model": "meta-llama/Llama-3.1-70B", "gpu": "h100-sxm"}, "does not fit"),
        ({"precision": "fp4", "engine": "trtllm"}, "does not compute"),
    ],
)
def test_rows_that_cannot_be_predicted_say_why(change: dict[str, Any], words: str) -> None:
    bad, good = replay([{**GOOD, **change}, GOOD], profile="ideal")
    assert words in bad.reason and np.isnan(bad.ttft) and np.isnan(bad.tpot) and bad.profile == ""
    assert good.reason == "" and good.tpot > 0


# ---- replay ----------------------------------------------------------------------------------------------------------


def test_a_replay_is_the_run_of_a_scenario() -> None:
    """Its means are those of `kinesim run` with the same scenario, exactly."""
    row = {**GOOD, **PUBLIC, "output_len": 1024, "concurrency": 8}
    found = replay([row])[0]
    run = run_scenario(load_scenario({**deployment_spec(row), "workload": workload_spec(row)})).summary
    assert (found.ttft, found.tpot) == (run["latency"]["ttft_s"]["mean"], run["latency"]["tpot_s"]["mean"])
    assert list(found.interval) == run["interval"]["tpot_s"] and found.interval[0] < found.tpot < found.interval[1]
    assert found.profile.startswith("h200-sxm@vllm") and 0 < found.batch <= 8


def test_rows_do_not_depend_on_each_other_nor_on_processes() -> None:
    rows = [{**GOOD, "tp": tp, "concurrency": n} for tp in (1, 2, 4, 8) for n in (2, 5)] + [{**GOOD, "gpu": "h100-sxm"}]
    seen: list[tuple[int, int]] = []
    alone = replay(rows, profile="ideal", jobs=1, report=lambda *done: seen.append(done))
    assert repr(replay(rows, profile="ideal", jobs=2)) == repr(alone)  # nan is not nan
    assert repr(replay([rows[3]], profile="ideal")[0]) == repr(alone[3])
    assert seen[-1] == (len(rows), len(rows))


def test_more_users_wait_longer_and_more_gpus_are_faster() -> None:
    one, many = (replay([{**GOOD, "concurrency": n}], profile="ideal")[0] for n in (1, 64))
    assert one.tpot < many.tpot and one.ttft < many.ttft
    wide = replay([{**GOOD, "concurrency": 64, "tp": 2}], profile="ideal")[0]
    assert wide.tpot < many.tpot


def test_outputs_of_one_token_have_no_tpot() -> None:
    found = replay([{**GOOD, "output_len": 1}], profile="ideal")[0]
    assert np.isnan(found.tpot) and found.ttft > 0 and found.reason == ""


# ---- comparing -------------------------------------------------------------------------------------------------------


def planned(folder: Path) -> tuple[ServingTable, list[Replay]]:
    """Ten layouts of one model; predictions as measured."""
    rows = [
        {"tp": tp, "concurrency": n, "tpot_ms": 2.0 + n / tp, "ttft_ms": 20.0 + n}
        for tp in (1, 4)
        for n in (1, 2, 4, 8, 16)
    ]
    table = known(folder, *rows)
    pairs = zip(table.ttft.tolist(), table.tpot.tolist(), strict=True)
    return table, [Replay(t, p, (0.9 * p, 1.1 * p), profile="ideal") for t, p in pairs]


def test_planning_by_the_measurements_loses_nothing(tmp_path: Path) -> None:
    table, exact = planned(tmp_path)
    assert planning_loss(table, exact) == {"mean": 0.0, "choices": 4, "predicted": 0.0, "predicted_choices": 4}
    few = known(tmp_path, {}, {})
    assert planning_loss(few, exact[:2]) is None


def test_planning_by_wrong_predictions_loses(tmp_path: Path) -> None:
    table, exact = planned(tmp_path)
    slow = [replace(entry, tpot=9.9) for entry in exact]  # nothing seems to meet an objective
    assert planning_loss(table, slow) == {"mean": 1.0, "choices": 4, "predicted": 1.0, "predicted_choices": 4}
    fast = [replace(entry, tpot=1e-6) for entry in exact]  # everything seems to, and the choice misses it
    loss = planning_loss(table, fast)
    assert loss is not None and 0.5 < loss["mean"] <= 1
    missing = [Replay(reason="not yet"), *exact[1:]]
    loss = planning_loss(table, missing)
    assert loss is not None and loss["predicted"] is None and loss["predicted_choices"] == 0


def test_planning_loss_by_hand(tmp_path: Path) -> None:
    """Of the four objectives all choices but one are right; that one gives away half of the rate."""
    table, exact = planned(tmp_path)
    rate = rates(table, table.ttft, table.tpot)
    assert rate[0] == pytest.approx(1 * 64 / (0.021 + 63 * 0.003) / 1)
    objective = float(np.quantile(table.tpot, 0.2))
    fine = np.flatnonzero(table.tpot <= objective)
    best = fine[np.argmax(rate[fine])]
    hidden = [replace(entry, tpot=entry.tpot if i != best else objective + 1e-9) for i, entry in enumerate(exact)]
    others = [i for i in fine.tolist() if i != best]
    expected = (1 - rate[others].max() / rate[best]) / 4
    loss = planning_loss(table, hidden)
    assert loss is not None and loss["mean"] == pytest.approx(expected, abs=1e-6)


def test_errors_are_grouped_and_leave_out_what_was_not_predicted(tmp_path: Path) -> None:
    table = known(tmp_path, {}, {"concurrency": 64, "tpot_ms": 10.0}, {"engine": "sglang"}, {"tpot_ms": ""})
    replays = [
        Replay(0.033, 0.0077, (0.007, 0.008), profile="a"),
        Replay(0.015, 0.004, (0.003, 0.005), profile="a"),
        Replay(reason="not yet"),
        Replay(0.03, 0.007, profile="a"),
    ]
    tpot = errors_of(table, replays, "tpot")
    assert tpot.rows.tolist() == [0, 1] and tpot.error.tolist() == pytest.approx([0.1, 0.6])
    assert tpot.covered.tolist() == [True, False]
    answer = document(table, replays)
    json.dumps(answer, allow_nan=False)
    assert (answer["rows"], answer["predicted"], answer["unpredicted"]) == (4, 3, {"not yet": 1})
    assert answer["tpot"]["all"]["mean"] == pytest.approx(0.35)
    assert answer["tpot"]["with_unpredicted"] == pytest.approx((0.1 + 0.6 + 1) / 3)
    assert [g["users"] for g in answer["tpot"]["by"]["users"]] == ["up to 4", "17 to 64"]
    assert answer["ttft"]["all"]["covered"] is None
    worst = worst_deployments({metric: errors_of(table, replays, metric) for metric in ("tpot", "ttft")})
    assert [(w["layout"], w["rows"]) for w in worst] == [("tp1", 3)]


def test_names_of_groups() -> None:
    assert [users(n) for n in (4, 5, 256, 257)] == ["up to 4", "5 to 16", "65 to 256", "above 256"]
    assert family("meta-llama/Llama-3.1-70B") == "Llama" and family("Qwen/Qwen3.5-397B-A17B") == "Qwen3.5"
    assert family("a/new-one") == "new-one"
    assert (
        layout({**GOOD, "tp": 4, "moe_tp": 4}) == "tp4"
        and layout({**GOOD, "attention_dp": 8, "moe_ep": 8}) == "tp1 dp8 ep8"
    )


# ---- files, figures and the command ----------------------------------------------------------------------------------


def test_rows_are_kept_in_order_with_all_columns(tmp_path: Path) -> None:
    table = known(tmp_path, {"concurrency": 3, "tpot_spread": "0.10"}, {"model": "nobody/knows"}, {"concurrency": 1})
    replays = [Replay(0.0333, 0.0077, (0.007, 0.008), profile="a"), Replay(reason="no; never"), Replay(0.03, 0.006)]
    write_serving(table, replays, tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == ",".join((*COLUMNS, *ADDED)) and len(lines) == 4
    out = pacsv.read_csv(tmp_path / "out.csv").to_pydict()
    assert out["concurrency"] == [3, 4, 1] and out["model"][1] == "nobody/knows" and ",0.10," in lines[1]
    assert out["predicted_ttft_ms"] == [33.3, None, 30.0] and out["predicted_tpot_ms"] == [7.7, None, 6.0]
    assert out["reason"][1] == "no; never"
    write_serving(table, replays, tmp_path / "out.parquet")
    typed = pq.read_table(tmp_path / "out.parquet")
    assert typed.schema.field("concurrency").type == pa.int64()
    pq.write_table(typed, tmp_path / "again.parquet")
    again = read_serving(tmp_path / "again.parquet")  # predictions of before are replaced
    write_serving(again, replays, tmp_path / "twice.parquet")
    assert pq.read_table(tmp_path / "twice.parquet").column_names == [*COLUMNS, *ADDED]


def test_figures_are_drawn(tmp_path: Path) -> None:
    table, exact = planned(tmp_path)
    panels = servingplots.choose_panels(table, np.array([entry.tpot for entry in exact]))
    assert [(names[0], lengths, len(rows)) for names, lengths, rows in panels] == [("Qwen/Qwen3-8B", (512, 64), 10)]
    for path in servingplots.draw(table, exact, tmp_path / "figures"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert servingplots.comparable(table).all()


def test_command_end_to_end(tmp_path: Path, kinesim: Any) -> None:
    path = csv_file(tmp_path, {}, {"concurrency": 2}, {"pp": 64})
    done = kinesim(
        "validate", "serving", str(path), "--profile", "ideal", "--out", str(tmp_path / "o.csv"), "--plots",
        str(tmp_path / "figures"), "--format", "json",
    )  # fmt: skip
    assert done.code == 0 and not done.err
    answer = json.loads(done.out)
    assert answer["schema"] == "kinesim-validate-serving/1" and answer["predicted"] == 2
    assert (tmp_path / "figures/serving-throughput.png").exists()
    assert pacsv.read_csv(tmp_path / "o.csv").num_rows == 3
    shown = kinesim("validate", "serving", str(path), "--profile", "ideal")
    assert (
        shown.code == 0
        and "3 rows, 2 predicted" in shown.out
        and "not predicted (1): parallelism.pipeline" in shown.out
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--profile", "idael"), "--profile"),
        (("--out", "t.txt"), ".csv or .parquet"),
        (("--out", "t.csv"), "the table itself"),
        (("--jobs", "0"), "--jobs"),
    ],
)
def test_bad_options(
    tmp_path: Path, kinesim: Any, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: str
) -> None:
    csv_file(tmp_path, {})
    monkeypatch.chdir(tmp_path)
    done = kinesim("validate", "serving", "t.csv", *options)
    assert done.code == 2 and words in done.err and "Traceback" not in done.err and not done.out


def test_plots_need_measurements(tmp_path: Path, kinesim: Any) -> None:
    path = csv_file(tmp_path, {}, drop=("ttft_ms",))
    done = kinesim("validate", "serving", str(path), "--plots", str(tmp_path / "f"))
    assert done.code == 2 and "--plots" in done.err and not (tmp_path / "f").exists()
