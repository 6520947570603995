"""The parts of latent attention against whole blocks: what is compared, and with what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.blockcheck import block_seconds, compare, operators, report, step
from calibration.tables import read_kernels
from hwspecs.gpu import load_gpu
from simulator.calibrated import Calibrated, load_cost_profile

HEADER = "gpu,software,kernel,phase,model,dtype,kv_dtype,gemm_dtype,batch,query_len,past_len,q_heads,latency_us"
ROW = "h200-sxm,{software},default,{phase},deepseek-ai/DeepSeek-V3,bf16,bf16,bf16,{batch},{query},{past},16,{us}"


def table(tmp_path: Path, us: float) -> Path:
    rows = [
        ROW.format(software="trtllm-1.3.0rc20", phase="decode", batch=16, query=1, past=4095, us=us),
        ROW.format(software="trtllm-1.3.0rc20", phase="decode", batch=64, query=1, past=4095, us=us),
        ROW.format(software="trtllm-1.3.0rc20", phase="prefill", batch=1, query=4096, past=0, us=us),
        ROW.format(software="vllm-0.24.0", phase="decode", batch=16, query=1, past=4095, us=us),
    ]
    path = tmp_path / "mla_module.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def test_only_the_engine_that_was_measured_both_ways_is_compared(tmp_path: Path) -> None:
    one, two = (compare(read_kernels(table(tmp_path, us))) for us in (100.0, 200.0))
    assert {key: len(ratios) for key, ratios in one.items()} == {("h200-sxm", "decode"): 2, ("h200-sxm", "prefill"): 1}
    for key, ratios in one.items():
        assert ratios == pytest.approx(2 * two[key])
    low, high = one["h200-sxm", "decode"]
    assert 0.2 < low < high < 3.0  # a block of 16 heads takes some 60 to 200 us
    assert "| h200-sxm | decode | 2 |" in report(one)


def test_a_block_is_the_sum_of_what_works_in_its_phase() -> None:
    profile = load_cost_profile("auto", load_gpu("h200-sxm"), software="trtllm")
    assert isinstance(profile, Calibrated)
    parts = operators("deepseek-v3", 8, "bf16", "bf16")
    assert all(op.module is None and profile.whole(op) is None for op in parts)
    shape = step("decode", *(np.array([value]) for value in (16.0, 1.0, 4095.0)))
    assert shape.decode_kv[0] == 16 * 4096
    names = {op.name.split(" [")[0]: op for op in parts}
    assert {"absorb_query", "attention_decode", "kv_up_proj", "attention_prefill", "o_proj"} <= set(names)
    whole = block_seconds(profile, parts, "decode", shape)
    least = sum(profile.operator_time(names[n], shape).seconds for n in ("attention_decode", "o_proj", "q_up_proj"))
    assert least < whole
    without = [op for op in parts if op.axis != "prefill"]
    assert block_seconds(profile, without, "decode", shape) == whole
