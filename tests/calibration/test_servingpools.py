"""Rows of disaggregated tables as scenarios: layouts, seats and settings of both sides, and the page made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calibration.serving_pools_page import page_text
from calibration.servingerrors import layout
from calibration.servingpools import engine_version, told_pools
from calibration.servingreplay import Replay
from calibration.servingruns import deployment_spec, workload_spec
from calibration.servingtables import SIDE, SIDES, ServingTable, read_serving
from hwspecs.errors import InputError
from workloads.scenario import load_scenario

LABELS = ("gpu", "model", "engine", "precision", "input_len", "output_len", "concurrency", "engine_version")


def row_of(prefill: tuple[int, ...], decode: tuple[int, ...], **change: Any) -> dict[str, Any]:
    """A row with the workers, tp, attention_dp, moe_tp and moe_ep of both sides."""
    row: dict[str, Any] = {
        "gpu": "b200-sxm", "model": "deepseek-ai/DeepSeek-R1", "engine": "sglang", "precision": "fp8",
        "input_len": 8192, "output_len": 1024, "concurrency": 288, "engine_version": "0.5.8.post1",
    }  # fmt: skip
    for side, sizes in zip(SIDES, (prefill, decode), strict=True):
        row |= {f"{side}_{name}": size for name, size in zip(SIDE, sizes, strict=True)}
    return row | change


DEP8 = row_of((1, 1, 8, 8, 1), (2, 1, 8, 1, 8))


def test_each_side_has_its_own_workers_and_layout() -> None:
    pools = deployment_spec(DEP8)["disaggregation"]
    assert pools["prefill"]["replicas"] == 1 and pools["decode"]["replicas"] == 2
    assert pools["prefill"]["parallelism"] == {"tensor": 1, "attention_data": 8, "expert": 1}
    assert pools["decode"]["parallelism"] == {"tensor": 1, "attention_data": 8, "expert": 8}
    assert layout(DEP8) == "prefill 1 x tp1 dp8, decode 2 x tp1 dp8 ep8"


def test_limits_of_an_sglang_worker_are_shared_by_its_ranks() -> None:
    """8 requests and chunks of 65,536 tokens of a worker are one request and 8,192 tokens of each of its 8 ranks."""
    prefill = told_pools(DEP8).engine["prefill"]
    assert prefill["max_num_seqs"] == 1 and prefill["max_num_batched_tokens"] == 8192


@pytest.mark.parametrize(("users", "seats"), [(90, 32), (1365, 32), (6, 1), (700, 128)])
def test_seats_of_tensorrt_llm(users: int, seats: int) -> None:
    """Five workers: the recipe with 10 to 180 users has 32 seats, others the largest power of two that they fill:
    6 users / 5 -> 1, 700 / 5 = 140 -> 128; 1,365 on 8 ranks of each of the five are 34 -> 32."""
    ranks = 8 if users == 1365 else 1
    decode = (5, 1, 8, 1, 8) if ranks == 8 else (5, 8, 1, 1, 8)
    row = row_of((1, 1, 4, 1, 4), decode, engine="trtllm", precision="fp4", input_len=1024, concurrency=users)
    assert told_pools(row | {"engine_version": "0.8.1.post1"}).engine["decode"]["max_num_seqs"] == seats


@pytest.mark.parametrize(("noted", "version"), [("0.8.1.post1", "1.2.0rc6.post1"), ("0.5.9", "1.1.0rc5")])
def test_versions_of_dynamo_are_those_of_the_engine_within(noted: str, version: str) -> None:
    assert engine_version(DEP8 | {"engine": "trtllm", "engine_version": noted}) == version


def test_wide_decode_on_a_rack_exchanges_tokens() -> None:
    wide = deployment_spec(row_of((4, 1, 4, 1, 4), (1, 1, 48, 1, 48), gpu="gb200", precision="fp4", input_len=1024))
    assert wide["disaggregation"]["decode"]["parallelism"] == {
        "tensor": 1, "attention_data": 48, "expert": 48, "all_to_all": "low_latency", "redundant_experts": 32,
    }  # fmt: skip
    assert "all_to_all" not in wide["disaggregation"]["prefill"]["parallelism"]


def test_its_lengths_are_drawn_as_in_public_runs() -> None:
    spec = workload_spec(DEP8)
    assert (spec["prompt_tokens"]["low"], spec["prompt_tokens"]["high"]) == (6553, 8192)
    assert load_scenario({**deployment_spec(DEP8), "workload": spec}).pools is not None


@pytest.mark.parametrize("change", [{"decode_moe_ep": 4}, {"model": "Qwen/Qwen3-8B", "precision": "bf16"}])
def test_layouts_that_contradict_themselves(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="moe_tp"):
        deployment_spec(DEP8 | change)


def test_the_page(tmp_path: Path) -> None:
    """TPOT of 10 ms predicted as 11 is 10 % off, TTFT of 1 s as 0.8 s 20 %; without a prediction 100 %."""
    path = tmp_path / "t.csv"
    names = list(DEP8)
    lines = [",".join(str(DEP8[name]) for name in names) + f",{ttft},10" for ttft in (1000, 1000)]
    path.write_text("\n".join([",".join([*names, "ttft_ms", "tpot_ms"]), *lines]) + "\n")
    table: ServingTable = read_serving(path)
    found = [Replay(ttft=0.8, tpot=0.011, profile="ideal"), Replay(reason="no")]
    text = page_text(table, found, found)
    assert "2 rows on b200-sxm, of which 1 are predicted" in text
    assert "| all | 2 | 55.0 % | 55.0 % | +10.0 % | 55.0 % | 60.0 % | 60.0 % | -20.0 % | 60.0 % |" in text
    assert "| prefill 1 x tp1 dp8, decode 2 x tp1 dp8 ep8 | 8,192/1,024 | 288 | 10.0 | 11.0 | 1,000.0 | 800.0 |" in text
