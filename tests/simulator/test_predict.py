"""Predictions of tables: rows in their order, what they rest on, intervals and host-side floors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from madeprofiles import LABELS, group, no_trees, profile, random_trees, shapes

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.fitted import WIDEN, ErrorBand
from simulator.kernels.base import TERMS
from simulator.kernels.registry import MODELS
from simulator.predict import Predictions, predict_kernels
from simulator.selection import Library

KINDS = list(MODELS)
FIELDS = ("seconds", "low", "high", "watts", "bound", "profile", "status")
FLOOR = 5e-5
OWN, MEMORY = ErrorBand(-0.1, 0.2, 0.05, 500), ErrorBand(-0.3, 0.05, 0.1, 80)
FOREIGN, SIBLING, SOFTWARE = (ErrorBand(-w, w, w / 2, 900) for w in (0.6, 0.4, 0.3))


def library() -> Library:
    gemms = (
        group("gemm", random_trees("gemm", 1), errors={"all": OWN, "memory": MEMORY}),
        group("gemm", no_trees(), label={"kernel": "eager", "dtype": "fp8"}, floor=FLOOR, errors={"all": OWN}),
    )
    others = tuple(group(kind, random_trees(kind, 2)) for kind in KINDS if kind != "gemm")
    pooled = tuple(group(kind, no_trees(), label={**LABELS[kind], "kernel": "pooled"}) for kind in KINDS)
    tiers = {"foreign": FOREIGN, "sibling": SIBLING, "software": SOFTWARE}
    return Library(
        [
            profile("h200-sxm@vllm-0.24.0", gemms + others),
            profile("a100-sxm@vllm-0.14.0", (group("gemm", no_trees(0.5)),)),
            profile("transfer", pooled, carried=dict.fromkeys(KINDS, tiers)),
        ]
    )


LIBRARY = library()


def columns(kind: str, n: int = 40, seed: int = 0, **texts: Any) -> dict[str, np.ndarray]:
    """A table of random shapes; `texts` fill the columns of names."""
    names = {"gpu": "h200-sxm", "software": "vllm-0.24.0", **LABELS[kind], **texts}
    filled = {name: np.resize(np.array(value, dtype=object), n) for name, value in names.items()}
    return {**filled, **shapes(kind, seed, n)}


def predict(kind: str, table: dict[str, np.ndarray], **options: Any) -> Predictions:
    return predict_kernels(kind, table, library=LIBRARY, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_measured_kernel(kind: str) -> None:
    table = columns(kind)
    found = predict(kind, table)
    own = next(g for g in LIBRARY["h200-sxm@vllm-0.24.0"].groups if g.kind == kind)
    estimate = own.estimate({name: table[name] for name in MODELS[kind].columns}, load_gpu("h200-sxm"))
    assert np.array_equal(found.seconds, estimate.seconds)
    assert found.bound.tolist() == [TERMS[i] for i in estimate.bound()]
    assert set(found.profile) == {"h200-sxm@vllm-0.24.0"} and set(found.status) == {"interpolated"}
    assert (found.low < found.seconds).all() and (found.seconds < found.high).all()
    assert (found.watts > 0).all() and (found.watts <= 1.1 * load_gpu("h200-sxm").power.tdp).all()


def test_rows_keep_their_order_whatever_is_mixed() -> None:
    mixed = columns("gemm", 60, gpu=["h200-sxm", "l40s", "a100-sxm"], dtype=["bf16", "fp8"])
    together = predict("gemm", mixed)
    for i in range(60):
        alone = predict("gemm", {name: column[i : i + 1] for name, column in mixed.items()})
        for name in FIELDS:
            one, row = getattr(alone, name)[0], getattr(together, name)[i]
            assert one == (row if isinstance(row, str) else pytest.approx(row, rel=1e-12)), name


@pytest.mark.parametrize(
    ("texts", "expected", "status", "errors"),
    [
        ({}, "h200-sxm@vllm-0.24.0", "interpolated", None),
        ({"software": "lmdeploy-1"}, "h200-sxm@vllm-0.24.0", "transferred", SOFTWARE),
        ({"gpu": "gh200"}, "h200-sxm@vllm-0.24.0", "transferred", SIBLING),
        ({"gpu": "l40s"}, "transfer", "transferred", FOREIGN),
        ({"gpu": "mi300x"}, "transfer", "transferred", FOREIGN),
    ],
)
def test_what_a_prediction_rests_on(texts: Any, expected: str, status: str, errors: ErrorBand | None) -> None:
    found = predict("gemm", columns("gemm", **texts))
    assert set(found.profile) == {expected} and set(found.status) == {status}
    for i, name in enumerate(found.bound):
        band = errors or (MEMORY if name == "memory" else OWN)
        assert found.low[i] == pytest.approx(found.seconds[i] * math.exp(band.low))
        assert found.high[i] == pytest.approx(found.seconds[i] * math.exp(band.high))


def test_beyond_the_measured_shapes() -> None:
    table = columns("gemm", 4)
    table["m"] = np.array([8192.0, 8193.0, 100.0, 0.0 + 1e6])
    found = predict("gemm", table)
    assert found.status.tolist() == ["interpolated", "extrapolated", "interpolated", "extrapolated"]
    for i in (1, 3):
        band = MEMORY if found.bound[i] == "memory" else OWN
        assert found.high[i] / found.seconds[i] == pytest.approx(math.exp(WIDEN * band.high))


def test_a_hosts_floor_is_in_the_measurement_and_not_in_a_graph() -> None:
    table = columns("gemm", 200, kernel="eager", dtype="fp8")
    eager, graph = predict("gemm", table), predict("gemm", table, host_floor=False)
    below = graph.seconds < FLOOR
    assert below.any() and (~below).any()
    assert (eager.seconds[below] == FLOOR).all() and set(eager.bound[below]) == {"host"}
    assert np.array_equal(eager.seconds[~below], graph.seconds[~below]) and "host" not in eager.bound[~below]
    assert "host" not in graph.bound
    assert (eager.low[below] < FLOOR).all() and (eager.high[below] > FLOOR).all()


def test_one_profile_for_all_rows() -> None:
    table = columns("gemm", 30, gpu=["h200-sxm", "l40s", "a100-sxm"], software=["vllm-0.24.0", "other-1"])
    for chosen in ("a100-sxm@vllm-0.14.0", LIBRARY["a100-sxm@vllm-0.14.0"], "transfer"):
        found = predict("gemm", table, profile=chosen)
        assert set(found.profile) == {chosen if isinstance(chosen, str) else chosen.name}
    found = predict("gemm", table, profile="a100-sxm@vllm-0.14.0")
    exact = (table["gpu"] == "a100-sxm") & (table["software"] == "vllm-0.14.0")
    assert (found.status[~exact] == "transferred").all()


def test_a_gpu_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the bandwidth: never slower, the physics takes the new figure."""
    (tmp_path / "fast.yaml").write_text("base: h200-sxm\nmemory: {bandwidth: 9.6 TB/s}\n")
    monkeypatch.chdir(tmp_path)
    for kind in KINDS:
        slow = predict(kind, columns(kind, 100))
        fast = predict(kind, columns(kind, 100, gpu="./fast.yaml"))
        assert set(fast.status) == {"transferred"} and set(fast.profile) == {"h200-sxm@vllm-0.24.0"}
        assert (fast.seconds <= slow.seconds * (1 + 1e-12)).all()
        if kind == "attention_decode":
            assert (fast.seconds < 0.7 * slow.seconds).any()


def test_no_rows() -> None:
    found = predict("gemm", columns("gemm", 0))
    assert all(len(getattr(found, name)) == 0 for name in FIELDS)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="h2000"):
        predict("gemm", columns("gemm", gpu="h2000"))
    with pytest.raises(InputError, match="no profile has kernels of the kind gemm"):
        predict_kernels("gemm", columns("gemm"), library=Library([]))
