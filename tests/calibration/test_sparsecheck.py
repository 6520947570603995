"""Parts of sparse attention from times of whole blocks: they are found where they are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.sparse_page import main
from calibration.sparsecheck import (
    Point,
    dsa_operators,
    gather_ratios,
    growth,
    index_ratios,
    measured,
    page_operators,
)
from calibration.tables import read_kernels
from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.kernels.latent_block import DEEPSEEK
from simulator.profile import load_profile

H200 = load_gpu("h200-sxm")
KEY = 132 / (0.5 * H200.memory.bandwidth)
"""Seconds of a key scored at half the bandwidth."""
CLOCKS = 0.6
HEAD = "gpu,software,kernel,phase,model,dtype,kv_dtype,gemm_dtype,indexer,batch,query_len,past_len,q_heads,latency_us"


def made(
    path: Path, pasts: tuple[int, ...] = (4, 4096, 16384, 65536), model: str = "deepseek-ai/DeepSeek-V3.2"
) -> Path:
    """A table of blocks whose parts are known: a base, an index of KEY and CLOCKS, a gather of 3 ns a token read."""
    lines = [HEAD]
    for batch in (1, 16, 256):
        for past in pasts:
            index = KEY * batch * past + CLOCKS / H200.boost_clock * np.ceil(batch / H200.sms) * past
            seconds = 60e-6 + 0.1e-6 * batch + index + 3e-9 * batch * min(past, 2048)
            names = f"h200-sxm,vllm-0.24.0,FLASHMLA_SPARSE,decode,{model},bf16,bf16,bf16"
            lines.append(f"{names},1,{batch},1,{past},16,{seconds * 1e6}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_scores_and_choice_are_told_apart(tmp_path: Path) -> None:
    (one,) = measured(read_kernels(made(tmp_path / "dsa.csv")))
    assert one.bandwidth == pytest.approx(0.5, rel=1e-6)
    assert one.row_clocks == pytest.approx(CLOCKS, rel=1e-6)
    assert one.residual < 1e-6


def test_ratios_are_modelled_over_measured(tmp_path: Path) -> None:
    (one,) = measured(read_kernels(made(tmp_path / "dsa.csv")))
    ideal = load_profile("ideal")
    found = {(p.batch, p.past): ratio for p, ratio in index_ratios(one, dsa_operators(one.size)[:2], ideal)}
    # Modelled, of a key: 132 bytes from HBM; scores of 4 bytes written and read again through the L2 while they fit.
    tokens = 16384 - 4096
    modelled = 16 * tokens * (132 / H200.memory.bandwidth + 4 / H200.l2.bandwidth)
    measured_ = 16 * tokens * KEY + tokens * CLOCKS / H200.boost_clock
    assert found[16, 16384] == pytest.approx(modelled / measured_, rel=1e-3)
    # 2,048 tokens of 1,152 bytes, measured 3 ns each; the four of the short past are in both.
    gathered = {p.batch: ratio for p, ratio in gather_ratios(one, ideal)}
    assert gathered[256] == pytest.approx(1152 / H200.memory.bandwidth / 3e-9, rel=0.01)


def test_block_top_k_writes_a_score_for_every_head(tmp_path: Path) -> None:
    """At 256 sequences: 64 scores of 4 bytes written and read, beyond what the L2 holds, beside 132 bytes of a key."""
    (one,) = measured(read_kernels(made(tmp_path / "dsa.csv")))
    point, ideal = Point(256.0, 131072.0, 16.0, 1.0), load_profile("ideal")
    page, dsa = (growth(ops, one, point, ideal) for ops in (page_operators(DEEPSEEK), dsa_operators(DEEPSEEK)[:2]))
    assert page / dsa == pytest.approx((132 + 2 * 256) / (132 + 2 * 4), rel=0.03)


def test_tables_that_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="past long enough"):
        measured(read_kernels(made(tmp_path / "short.csv", (4, 1024, 4096))))
    other = tmp_path / "gemm.csv"
    other.write_text("gpu,software,kernel,dtype,m,n,k,latency_us\nh200-sxm,vllm-0.24.0,cutlass,bf16,1,64,64,3\n")
    with pytest.raises(InputError, match="table of gemm"):
        measured(read_kernels(other))


def test_the_page_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(made(tmp_path / "dsa.csv")), "--docs", str(tmp_path)]) == 0
    page = (tmp_path / "sparse-check.md").read_text()
    assert "| h200-sxm | vllm-0.24.0 | FLASHMLA_SPARSE | 6 | 0.50 | 0.60 | 0 % |" in page
    assert main([str(tmp_path / "none.csv"), "--docs", str(tmp_path)]) == 2
    assert "none.csv" in capsys.readouterr().err
