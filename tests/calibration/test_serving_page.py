"""The page of `make serving`: what is left out of a fit, odd measurements, and the page from made-up results."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration import serving_page, servingsections
from calibration.servingerrors import odd_rows
from calibration.servingfit import FARTHEST, STEPS, Slopes, parameter_set
from calibration.servingplots import choose_panels, lines_of
from calibration.servingreplay import Replay, replay, replay_variants, version_note
from calibration.servingruns import deployment_spec, workload_spec
from calibration.servingsplits import (
    LEAST,
    Split,
    built_of,
    constants_without,
    foreign,
    foreign_profile,
    host_of,
    parts_of,
    pooled,
    scores,
)
from calibration.servingtables import ServingTable, read_serving
from hwspecs.errors import InputError
from simulator.deployment import deploy
from simulator.host import HostTime
from simulator.policy import TICKS_PER_SECOND
from simulator.shape import StepShape
from workloads.engine import engine_set
from workloads.scenario import load_scenario

COLUMNS = (
    "gpu,model,engine,precision,input_len,output_len,concurrency,tp,pp,attention_dp,moe_tp,moe_ep,engine_version,runs,"
    "ttft_ms,tpot_ms,tpot_spread"
)
GOOD: dict[str, Any] = {
    "gpu": "h200-sxm", "model": "Qwen/Qwen3-8B", "engine": "vllm", "precision": "bf16", "input_len": 512,
    "output_len": 64, "concurrency": 4, "tp": 1, "pp": 1, "attention_dp": 1, "moe_tp": 1, "moe_ep": 1,
    "engine_version": "0.12.0", "runs": 1, "ttft_ms": 30.0, "tpot_ms": 7.0, "tpot_spread": 0,
}  # fmt: skip


def table_of(folder: Path, *changes: dict[str, Any]) -> ServingTable:
    names = COLUMNS.split(",")
    lines = [",".join(str({**GOOD, **change}[name]) for name in names) for change in changes]
    path = folder / "t.csv"
    path.write_text("\n".join([COLUMNS, *lines]) + "\n")
    return read_serving(path)


# ---- what is left out ------------------------------------------------------------------------------------------------


QWEN = "Qwen/Qwen3-8B"
SHIPPED = np.array([1.5e-3, *[0.0] * (len(STEPS) - 1)])


def slopes(
    models: dict[str, float], count: int = LEAST, engine: str = "vllm", seed: int = 0, gpu: str = "h200-sxm"
) -> Slopes:
    """A parameter set with 1.5 ms a step, whose rows of each model fit other seconds a step."""
    rng = np.random.default_rng(seed)
    rows, log, slope = [], [], []
    for model, step in models.items():
        for _ in range(count):
            rows.append({**GOOD, "model": model, "engine": engine, "gpu": gpu})
            own = rng.uniform(10, 100, (2, len(STEPS)))
            slope.append(own)
            log.append(own[:, 0] * (SHIPPED[0] - step))
    return Slopes(rows, SHIPPED, np.array(log).T, np.array(slope).transpose(1, 0, 2))


def model_of(row: dict[str, Any]) -> str:
    return str(row["model"])


def test_constants_come_from_the_other_rows() -> None:
    own = slopes({"a": 1e-3, "b": 2e-3})
    found, unseen = constants_without({"vllm": own}, model_of)
    assert not unseen and len(found) == 2 * LEAST
    for row in own.rows:
        expected = 2e-3 if row["model"] == "a" else 1e-3
        np.testing.assert_allclose(found[id(row)], [expected, *[0] * (len(STEPS) - 1)], atol=2e-6)


def test_what_is_left_out_does_not_matter() -> None:
    own = slopes({"a": 1e-3, "b": 2e-3})
    before, _ = constants_without({"vllm": own}, model_of)
    own.log[:, :LEAST] += 0.3  # other measurements of model a
    after, _ = constants_without({"vllm": own}, model_of)
    np.testing.assert_array_equal(before[id(own.rows[0])], after[id(own.rows[0])])
    assert not np.array_equal(before[id(own.rows[LEAST])], after[id(own.rows[LEAST])])


def test_a_set_with_nothing_left_borrows_from_its_engine_first() -> None:
    alone, sibling = slopes({QWEN: 1e-3}), slopes({"Qwen/Qwen3-32B": 2e-3}, seed=1)
    other = slopes({"openai/gpt-oss-120b": 3e-3}, engine="trtllm", seed=2)
    sets = {"one": alone, "two": sibling, "three": other}
    found, unseen = constants_without(sets, model_of)
    assert unseen == {id(row) for part in sets.values() for row in part.rows}
    assert found[id(alone.rows[0])][0] == pytest.approx(2e-3, rel=1e-2)
    assert found[id(sibling.rows[0])][0] == pytest.approx(1e-3, rel=1e-2)
    assert 1e-3 < found[id(other.rows[0])][0] < 2e-3  # TensorRT-LLM has no other set: both of the rest
    lonely, _ = constants_without({"one": alone}, model_of)
    np.testing.assert_array_equal(lonely[id(alone.rows[0])], alone.constants)


def test_a_gpu_left_out_takes_the_set_of_the_most_alike_one() -> None:
    """Rows of B200 alone in their set: H200's set of the same engine and version counts, and no other of the engine."""
    own, alike = slopes({QWEN: 1e-3}, gpu="b200-sxm"), slopes({QWEN: 2e-3}, seed=1)
    other = slopes({QWEN: 3e-3}, seed=2)
    sets = {"b200": own, parameter_set(alike.rows[0]): alike, "other version": other}
    found, unseen = constants_without(sets, lambda row: str(row["gpu"]))
    assert found[id(own.rows[0])][0] == pytest.approx(2e-3, rel=1e-2) and id(own.rows[0]) not in unseen


def test_pooled_sets_start_without_a_host() -> None:
    """Rows that fit 1 ms a step are 1 ms times their slope too fast without a host, whatever the set has."""
    own = slopes({"a": 1e-3})
    pool = pooled([own])
    np.testing.assert_allclose(pool.log, -1e-3 * own.slope[..., 0])
    np.testing.assert_allclose(pool.constants, 0)


def test_constants_that_a_set_lacks_stay_out_of_its_fit() -> None:
    own = slopes({"a": 9e-3})
    found = own.fit(np.arange(LEAST), own.constants)
    assert found[0] == pytest.approx(FARTHEST * 1.5e-3) and not found[1:].any()
    assert own.fit(np.arange(LEAST))[0] == pytest.approx(9e-3, rel=0.01)  # left alone, it finds what the rows say


def test_rows_get_the_constants_of_their_own(tmp_path: Path) -> None:
    table = table_of(tmp_path, {}, {"concurrency": 8})
    of = host_of({id(table.rows[0]): np.arange(len(STEPS)) * 1e-3 + 1e-40})
    assert of(table.rows[0], None)["engine"]["host"] == {name: round(i * 1e-3, 9) for i, name in enumerate(STEPS)}
    with pytest.raises(InputError, match="no part in the fit"):
        of(table.rows[1], None)


def test_another_gpu_lends_its_kernels(tmp_path: Path) -> None:
    blackwell = {**GOOD, "gpu": "b200-sxm"}
    name = foreign_profile(blackwell)
    assert name is not None and name.startswith("h200-sxm@vllm-")
    assert foreign({id(blackwell): np.zeros(len(STEPS))})(blackwell, None)["profile"] == name
    assert foreign_profile({**GOOD, "gpu": "l40s"}) is None


def test_parts_and_their_scores(tmp_path: Path) -> None:
    assert [built_of(n) for n in ("openai/gpt-oss-120b", "deepseek-ai/DeepSeek-R1", "Qwen/Qwen3-32B")] == [
        "moe", "latent or hybrid", "dense",
    ]  # fmt: skip
    table = table_of(tmp_path, {}, {"engine": "sglang"}, {"model": "openai/gpt-oss-120b"})
    assert [part.rows.tolist() for part in parts_of(table)] == [
        [True, False, False], [False, False, True], [True, True, True],
    ]  # fmt: skip
    replays = [Replay(0.033, 0.0077), Replay(0.015, 0.007), Replay(reason="not yet")]
    # TPOT 10 %, 0 % and, without a prediction, 100 %; TTFT 10 %, 50 % and 100 %
    assert scores(table, replays, np.ones(3, dtype=bool)) == pytest.approx((1.1 / 3, 1.6 / 3, None))


# ---- odd measurements ------------------------------------------------------------------------------------------------


def test_odd_rows(tmp_path: Path) -> None:
    table = table_of(
        tmp_path,
        {"concurrency": 4, "ttft_ms": 126.0},  # odd: 100 with twice the users
        {"concurrency": 16, "ttft_ms": 90.0},
        {"concurrency": 8, "ttft_ms": 100.0},  # not odd: 1.11 times
        {"concurrency": 4, "ttft_ms": 126.0, "tp": 2, "tpot_spread": 0.06},  # another layout, whose runs differ
        {"concurrency": 8, "ttft_ms": "", "tp": 2, "tpot_spread": ""},
    )
    assert [i for i, _ in odd_rows(table)] == [3, 0]
    assert "differ" in odd_rows(table)[0][1] and "TTFT" in odd_rows(table)[1][1]


# ---- many replays at once --------------------------------------------------------------------------------------------


def test_hosts_share_what_is_compiled_and_change_nothing(tmp_path: Path) -> None:
    """Replays with several hosts at once are those one by one, to the last bit."""
    rows = table_of(tmp_path, {}, {"concurrency": 9, "tp": 2}, {"engine": "sglang", "engine_version": "0.5.9"}).rows
    slow = host_of({id(row): np.full(len(STEPS), 2e-4) for row in rows})
    none = host_of({id(row): np.zeros(len(STEPS)) for row in rows})
    together = replay_variants(rows, [deployment_spec, slow, none], profile="ideal", jobs=1, intervals=False)
    for spec_of, found in zip((deployment_spec, slow, none), together, strict=True):
        alone = replay(rows, profile="ideal", jobs=1, spec_of=spec_of)
        assert [(r.ttft, r.tpot, r.batch) for r in found] == [(r.ttft, r.tpot, r.batch) for r in alone]
    assert all(a.tpot > b.tpot and a.ttft > b.ttft for a, b in zip(together[1], together[2], strict=True))


def test_a_cost_takes_another_host_with_the_same_graphs_only(tmp_path: Path) -> None:
    (row,) = table_of(tmp_path, {}).rows
    cost = deploy(load_scenario({**deployment_spec(row, "ideal"), "workload": workload_spec(row)})).cost
    same = cost.with_host(replace(cost.host, step=cost.host.step + 1e-3))
    shape = StepShape(4, 4, 4, tuple(4000 for _ in cost.decode_caps))
    assert abs(same.step_ticks(shape) - cost.step_ticks(shape) - round(1e-3 * TICKS_PER_SECOND)) <= 1  # both rounded
    with pytest.raises(ValueError, match="other CUDA graphs"):
        cost.with_host(HostTime(graph_sizes=(1, 2, 3)))


# ---- the version of an engine ----------------------------------------------------------------------------------------


def test_versions_that_are_not_known_are_named() -> None:
    oldest = engine_set("vllm", "0.0.1")
    assert version_note({"name": "vllm", "version": "0.0.1"}) == oldest.note != ""
    assert version_note({"name": "vllm", "version": oldest.version}) == ""
    assert version_note({"name": "none"}) == ""
    newest = engine_set("sglang")
    assert version_note({"name": "sglang", "version": None}).endswith(f"taken as {newest.version}, the newest")


def test_versions_are_said_on_the_terminal_and_in_the_answer(tmp_path: Path, kinesim: Any) -> None:
    table = table_of(tmp_path, {"engine_version": "0.0.1"}, {"concurrency": 2}, {"engine_version": "my-build"})
    note = engine_set("vllm", "0.0.1").note
    shown = kinesim("validate", "serving", str(table.path), "--profile", "ideal")
    assert shown.code == 0 and f"engine's version (1): {note}" in shown.out
    assert "my-build" in shown.out and shown.out.count("engine's version") == 2


def test_rows_that_cannot_be_predicted_stop_no_other(tmp_path: Path, kinesim: Any) -> None:
    path = table_of(
        tmp_path,
        {},
        {"model": "nobody/knows-7B"},
        {"tp": 3},
        {"moe_ep": 8},
        {"model": "meta-llama/Llama-3.1-70B"},  # 141 GB in bf16
        {"precision": "fp3"},
    ).path
    shown = kinesim("validate", "serving", str(path), "--profile", "ideal", "--out", str(tmp_path / "out.csv"))
    assert shown.code == 0 and not shown.err and "6 rows, 1 predicted" in shown.out
    reasons = [line.rsplit(",", 1)[1] for line in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    assert reasons[0] == "" and "nobody/knows-7B" in reasons[1] and "tensor" in reasons[2]
    assert "no experts" in reasons[3] and "fit" in reasons[4] and "fp3" in reasons[5]


# ---- the page --------------------------------------------------------------------------------------------------------


def results(folder: Path) -> servingsections.Results:
    """Two deployments and a row without a prediction; predictions 10 % too slow, and 20 % with something left out."""
    table = table_of(
        folder,
        *({"concurrency": n, "ttft_ms": 10.0 * n, "tpot_ms": 5.0 + n} for n in (1, 2, 4)),
        *({"concurrency": n, "engine": "trtllm", "ttft_ms": 90.0 / n, "tpot_ms": 5.0 + n} for n in (1, 2, 4)),
        {"model": "nobody/knows"},
    )

    def off(factor: float) -> list[Replay]:
        pairs = zip(table.ttft[:-1].tolist(), table.tpot[:-1].tolist(), strict=True)
        runs = [Replay(factor * t, factor * p, (0.9 * p, 1.2 * p), profile="ideal") for t, p in pairs]
        return [*runs, Replay(reason="no configuration")]

    keys = {"deployment": servingsections.deployment, "model": model_of, "GPU and its kernels": lambda row: row["gpu"]}
    unseen = np.array([True] * 3 + [False] * 4)
    left = [Split(name, key, off(1.2), unseen) for name, key in keys.items()]
    sets = {"vllm": slopes({"a": 1e-3}), "trtllm": slopes({"b": 2e-3}, engine="trtllm")}
    return servingsections.Results(table, off(1.1), left, sets)


def test_the_page(tmp_path: Path) -> None:
    page = serving_page.write_page(results(tmp_path), tmp_path / "docs").read_text()
    assert "7 servings of one engine instance under load on h200-sxm" in page and "which 6 are predicted" in page
    # 6 rows of dense models with a tenth, and one that is not predicted: (6 x 10 % + 100 %) / 7 = 22.9 %
    assert re.search(r"\| dense models, vLLM and TensorRT-LLM \(7 rows\) \| TPOT \| 5 % \| 22.9 % \| 31.4 %", page)
    assert re.search(r"\| all predicted rows \(6\) \| TPOT \|  \| 10.0 % \| 20.0 % \|", page)
    assert re.search(r"\| vLLM \| 3 \| 10.0 % \| 10.0 % \| \+10.0 % \| 20.0 % \| 100.0 % \| 10.0 %", page)
    assert re.search(r"\| vLLM 0.12.0, h200-sxm \| 20 of 1 model on 1 GPU \| as shipped \| 1.5 ms \|", page)
    assert re.search(r"\|  \|  \| fitted here \| (1 ms|999 us|1e\+03 us) \|", page)
    for what in (r"model \| Qwen3-8B", r"GPU and its kernels \| h200-sxm"):
        for seen in ("seen", "unseen"):
            assert re.search(what + rf" \| dense \| {seen} \| 3 \| 10.0 % \| 20.0 % \| 10.0 % \| 20.0 % \|", page)
    assert re.search(r"\| no configuration \| 1 \|", page)
    assert re.search(r"Qwen3-8B, h200-sxm, bf16, TensorRT-LLM 0.12.0 \| TTFT more than 1.25 times", page)
    assert re.search(r"\| all \| 6 \| 100.0 % \| 0.0 % \| 0.0 % \|", page)
    assert page.count("](serving/") == 3 and (tmp_path / "docs/serving/overview.png").exists()
    for name in re.findall(r"\]\((serving/[a-z-]*\.png)\)", page):
        assert (tmp_path / "docs" / name).read_bytes().startswith(b"\x89PNG")


def test_a_table_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serving_page.main([str(tmp_path / "none.csv")]) == 2
    message = capsys.readouterr()
    assert message.err.startswith("serving: ") and "none.csv" in message.err and not message.out
    path = table_of(tmp_path, {"ttft_ms": ""}).path
    assert serving_page.main([str(path), "--docs", str(tmp_path)]) == 2
    assert "nothing was measured" in capsys.readouterr().err
    assert not (tmp_path / "serving.md").exists()


def test_rows_spread_over_the_table_for_a_quick_look(tmp_path: Path) -> None:
    table = table_of(tmp_path, *({"concurrency": n} for n in (1, 2, 3, 4, 5)))
    own = table.take([0, 2, 4])
    assert [row["concurrency"] for row in own.rows] == [1, 3, 5] and own.raw.num_rows == len(own) == 3
    assert own.ttft.tolist() == [0.03] * 3
    assert deployment_spec(own.rows[0])["gpu"] == "h200-sxm"


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_lines_go_through_the_users_of_a_layout(tmp_path: Path) -> None:
    users = [{"concurrency": n} for n in (8, 2, 4)]
    table = table_of(tmp_path, *users, {"tp": 2}, *({**row, "engine": "trtllm"} for row in users[:2]))
    found = lines_of(table, np.arange(len(table)))
    assert {key: rows.tolist() for key, rows in found.items()} == {("vllm", "tp1"): [1, 2, 0]}  # the others are short
    few = lines_of(table, np.array([3, 4, 5]))  # no line has three points: the longest is drawn
    assert {key: rows.tolist() for key, rows in few.items()} == {("trtllm", "tp1"): [5, 4]}


def test_panels_are_the_groups_with_the_most_rows(tmp_path: Path) -> None:
    table = table_of(tmp_path, {}, {"gpu": "h100-sxm"}, {"gpu": "h100-sxm", "engine": "sglang"}, {"tpot_ms": ""})
    tpot = np.full(len(table), 0.01)
    panels = choose_panels(table, tpot, most=1)
    assert [(names[1], rows.tolist()) for names, _, rows in panels] == [("h100-sxm", [1, 2])]  # two engines in a panel
    tpot[1:3] = np.nan  # not predicted
    assert [rows.tolist() for _, _, rows in choose_panels(table, tpot)] == [[0]]
