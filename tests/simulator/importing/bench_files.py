"""Files as vllm bench serve and AIPerf write them, made by hand for the tests after the published formats: no figure in
them was measured.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

# Four requests of 100 tokens: outputs 3, 5, 11 and 21; TTFT 0.1, 0.2, 0.3, 0.4 s; 10 ms between tokens.
VLLM: dict[str, Any] = {
    "date": "20260801-101010",
    "endpoint_type": "vllm",
    "backend": "vllm",
    "label": None,
    "model_id": "Qwen/Qwen3-0.6B",
    "tokenizer_id": "Qwen/Qwen3-0.6B",
    "num_prompts": 4,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 2,
    "duration": 2.0,
    "completed": 4,
    "failed": 0,
    "total_input_tokens": 400,
    "total_output_tokens": 40,
    "request_throughput": 2.0,
    "request_goodput": None,
    "output_throughput": 20.0,
    "total_token_throughput": 220.0,
    "max_output_tokens_per_s": 25.0,
    "max_concurrent_requests": 2,
    "mean_ttft_ms": 250.0,
    "median_ttft_ms": 250.0,
    "std_ttft_ms": 111.8,
    "p99_ttft_ms": 397.0,
    "mean_tpot_ms": 10.0,
    "median_tpot_ms": 10.0,
    "std_tpot_ms": 0.0,
    "p99_tpot_ms": 10.0,
}
DETAILS: dict[str, Any] = {
    "input_lens": [100, 100, 100, 100],
    "output_lens": [3, 5, 11, 21],
    "ttfts": [0.1, 0.2, 0.3, 0.4],
    "itls": [[0.01] * 2, [0.01] * 4, [0.01] * 10, [0.01] * 20],
    "start_times": [500.0, 500.5, 501.0, 501.25],
    "generated_texts": ["", "", "", ""],
    "errors": ["", "", "", ""],
}

AIPERF: dict[str, Any] = {
    "request_throughput": {"unit": "requests/sec", "avg": 2.0},
    "request_latency": {"unit": "ms", "avg": 340.0, "p50": 340.0, "p95": 590.0, "p99": 598.0, "max": 600.0},
    "request_count": {"unit": "requests", "avg": 4.0},
    "time_to_first_token": {"unit": "ms", "avg": 250.0, "p50": 250.0, "p95": 385.0, "p99": 397.0, "max": 400.0},
    "inter_token_latency": {"unit": "ms", "avg": 10.0, "p50": 10.0, "p99": 10.0, "min": 10.0, "max": 10.0, "std": 0.0},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 20.0},
    "output_sequence_length": {"unit": "tokens", "avg": 10.0, "p50": 8.0, "min": 3.0, "max": 21.0},
    "input_sequence_length": {"unit": "tokens", "avg": 100.0},
    "benchmark_duration": {"unit": "sec", "avg": 2.0},
    "input_config": {
        "endpoint": {"model_names": ["Qwen/Qwen3-0.6B"], "type": "chat", "streaming": True},
        "loadgen": {"concurrency": 2, "request_rate_mode": "concurrency_burst", "request_count": 4},
    },
    "was_cancelled": False,
    "error_summary": [],
}  # fmt: skip


def vllm(folder: Path, name: str = "bench.json", *, detailed: bool = False, **changes: Any) -> Path:
    """A result of vllm bench serve."""
    path = folder / name
    path.write_text(json.dumps({**VLLM, **(DETAILS if detailed else {}), **changes}), encoding="utf-8")
    return path


def aiperf(folder: Path, **changes: Any) -> Path:
    """The statistics of AIPerf."""
    path = folder / "profile_export_aiperf.json"
    path.write_text(json.dumps({**copy.deepcopy(AIPERF), **changes}), encoding="utf-8")
    return path


def record(start_s: float, tokens: int, ttft_ms: float, **metadata: Any) -> dict[str, Any]:
    """A request in AIPerf's records: 100 tokens in, 10 ms between tokens."""
    return {
        "metadata": {
            "session_num": 0,
            "x_correlation_id": f"s{start_s}",
            "request_start_ns": int((1_759_813_207 + start_s) * 1e9),
            "benchmark_phase": "profiling",
            "was_cancelled": False,
            **metadata,
        },
        "metrics": {
            "input_sequence_length": {"value": 100, "unit": "tokens"},
            "output_sequence_length": {"value": tokens, "unit": "tokens"},
            "time_to_first_token": {"value": ttft_ms, "unit": "ms"},
            "inter_token_latency": {"value": 10.0, "unit": "ms"},
            "inter_chunk_latency": {"value": [10.0] * (tokens - 1), "unit": "ms"},
            "request_latency": {"value": ttft_ms + 10.0 * (tokens - 1), "unit": "ms"},
        },
        "error": None,
    }


def records(folder: Path, *more: dict[str, Any]) -> Path:
    """The same four requests, in the order in which they ended, one that failed and one of the warm-up."""
    failed = {
        "metadata": {"request_start_ns": 1, "benchmark_phase": "profiling"},
        "metrics": {},
        "error": {"code": 499},
    }
    rows = [
        record(0.5, 5, 200.0),
        record(0.0, 3, 100.0),
        failed,
        record(9.0, 3, 9e4, benchmark_phase="warmup"),
        record(1.0, 11, 300.0),
        record(1.25, 21, 400.0),
        *more,
    ]
    path = folder / "profile_export.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path
